package gateway

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sqldb"
)

// Kinds of jobs. The payload is the retrieval reference number of an authorization, of which the first entry
// without an answer is sent. There is one job for an authorization with such entries.
const (
	jobDeliver = "deliver"
	jobReverse = "reverse" // as before there were entries
	jobClear   = "clear"
)

const (
	overdueInterval  = 2 * time.Second
	overdueAtOnceMax = 100
	expireInterval   = 10 * time.Minute
)

// Run does what requests leave behind, until ctx ends: what the issuer is to be told, and the end of claims that a
// crash left. It then waits for what is under way.
func (g *Gateway) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { g.repeat(ctx, overdueInterval, "claims that ran out cannot be closed", g.closeOverdue) })
	wg.Go(func() { g.repeat(ctx, expireInterval, "old answers cannot be removed", g.expireAnswers) })
	err := g.courier().run(ctx)
	cancel()
	return err
}

// repeat does something now and then.
func (g *Gateway) repeat(ctx context.Context, interval time.Duration, failure string, do func(context.Context) error) {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		if err := do(ctx); err != nil && ctx.Err() == nil {
			g.Log.Error(failure, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (g *Gateway) expireAnswers(ctx context.Context) error {
	_, err := g.DB.ExpireAnswers(ctx, g.Now())
	return err
}

// closeOverdue decides the claims whose process is gone: the issuer may have been asked, so they are
// reversed. A claim that is younger may belong to a process that is still at work on it.
func (g *Gateway) closeOverdue(ctx context.Context) error {
	var closed []*record
	err := g.DB.Tx(ctx, func(tx *sql.Tx) (err error) {
		if closed, err = overdue(ctx, tx, g.Now().Add(-claimTimeout)); err != nil {
			return err
		}
		l := g.ledger(tx)
		for _, r := range closed {
			r.code = set.AuthNoReply
			l.begin(r)
			if err := errors.Join(l.decline(r, true), settle(ctx, tx, r)); err != nil {
				return err
			}
		}
		return l.save(ctx)
	})
	if err != nil {
		return err
	}
	for _, r := range closed {
		g.Log.Warn("authorization was left undecided and is reversed", "xid", r.xid.String(), "merchant", string(r.merchant), "rrn", r.trace.RRN)
	}
	return nil
}

// A courier brings entries to the issuer.
type courier struct {
	db     *sqldb.DB
	issuer Issuer
	log    *slog.Logger
}

func (g *Gateway) courier() courier { return courier{g.DB, g.Issuer, g.Log} }

// run delivers until ctx ends. Several processes may do so at the same time.
func (c courier) run(ctx context.Context) error {
	return c.db.RunJobs(ctx, c.log, map[string]sqldb.Handler{jobDeliver: c.deliver, jobReverse: c.deliver, jobClear: c.deliver})
}

// deliver sends the first entry of an authorization that has no answer yet: a capture is not undone before
// the issuer has it.
func (c courier) deliver(ctx context.Context, job sqldb.Job) (func(*sql.Tx) error, error) {
	var r *record
	var entries []*entry
	err := c.db.View(ctx, func(tx *sql.Tx) (err error) {
		if r, err = findRRN(ctx, tx, string(job.Payload)); err == nil {
			entries, err = entriesOf(ctx, tx, r.trace.RRN)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	e := firstPending(entries)
	if e == nil {
		return nil, nil
	}
	var of *entry
	if i := slices.IndexFunc(entries, func(other *entry) bool { return other.number == e.undoes }); i >= 0 {
		of = entries[i]
	}
	state, code := entryVoid, finnet.ResponseCode("")
	if of == nil || of.state == entryAcknowledged {
		if code, err = c.tell(ctx, r, e, of); err != nil {
			return nil, err
		}
		state = e.after(code)
	}
	log := c.log.With("xid", r.xid.String(), "merchant", string(r.merchant), "rrn", r.trace.RRN, "what", string(e.kind), "issuer code", string(code))
	if state == entryRefused {
		log.Error("issuer refuses: settle this with the issuer by hand")
	} else {
		log.Info("issuer acknowledges", "state", string(state))
	}
	keep := context.WithoutCancel(ctx)
	return func(tx *sql.Tx) error { return c.record(keep, tx, r, e, state, code) }, nil
}

// after is what an answer of the issuer makes of an entry.
func (e *entry) after(code finnet.ResponseCode) entryState {
	nothingHeld := e.kind == entryReversal && e.remains == 0 && code == finnet.UnknownOriginal
	if code == finnet.Approved || nothingHeld {
		return entryAcknowledged
	}
	return entryRefused
}

// tell sends an entry; of is what it takes back.
func (c courier) tell(ctx context.Context, r *record, e, of *entry) (finnet.ResponseCode, error) {
	advice := finnet.Clearing{
		Trace: e.trace, Original: r.trace, Amount: r.money(e.amount), ApprovalCode: r.approval, XID: r.xid,
		Merchant: finnet.Merchant{ID: r.merchant, Terminal: r.terminal}, Settlement: e.settlement,
	}
	switch e.kind {
	case entryReversal:
		return c.issuer.Reverse(ctx, &finnet.Reversal{Trace: e.trace, Original: r.trace, Amount: r.money(r.amount), Remains: r.money(e.remains)})
	case entryCapture:
		return c.issuer.Clear(ctx, &advice)
	case entryCredit:
		return c.issuer.Refund(ctx, (*finnet.Refund)(&advice))
	}
	return c.issuer.Withdraw(ctx, &finnet.Withdrawal{
		Trace: e.trace, Original: of.trace, Refund: e.kind == entryUncredit, Amount: advice.Amount, Settlement: e.settlement,
	})
}

// record keeps the issuer's answer, and leaves what else is pending to another job.
func (c courier) record(ctx context.Context, tx *sql.Tx, r *record, e *entry, state entryState, code finnet.ResponseCode) error {
	_, err := tx.ExecContext(ctx, `UPDATE entry SET state = $1, code = $2 WHERE rrn = $3 AND number = $4 AND state = 'pending'`,
		string(state), string(code), r.trace.RRN, e.number)
	if err != nil {
		return fmt.Errorf("keep that entry %d of authorization %s is %s: %w", e.number, r.trace.RRN, state, err)
	}
	if e.kind == entryReversal && e.remains == 0 && state == entryAcknowledged {
		if _, err := tx.ExecContext(ctx, `UPDATE auth SET spent = 0 WHERE rrn = $1`, r.trace.RRN); err != nil {
			return fmt.Errorf("free the payment instructions of authorization %s: %w", r.trace.RRN, err)
		}
	}
	entries, err := entriesOf(ctx, tx, r.trace.RRN)
	if err != nil || firstPending(entries) == nil {
		return err
	}
	return c.db.Enqueue(ctx, tx, jobDeliver, r.xid.String(), []byte(r.trace.RRN), time.Time{})
}
