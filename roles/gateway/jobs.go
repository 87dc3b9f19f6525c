package gateway

import (
	"context"
	"database/sql"
	"sync"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sqldb"
)

// Kinds of jobs. The payload is the retrieval reference number of the authorization.
const (
	jobReverse = "reverse"
	jobClear   = "clear"
)

const (
	overdueInterval  = 2 * time.Second
	overdueAtOnceMax = 100
	expireInterval   = 10 * time.Minute
)

// Run does what requests leave behind, until ctx ends: reversals, clearings, and the end of claims that a
// crash left. It then waits for what is under way.
func (g *Gateway) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { g.repeat(ctx, overdueInterval, "claims that ran out cannot be closed", g.closeOverdue) })
	wg.Go(func() { g.repeat(ctx, expireInterval, "old answers cannot be removed", g.expireAnswers) })
	err := g.DB.RunJobs(ctx, g.Log, map[string]sqldb.Handler{jobReverse: g.reverse, jobClear: g.clear})
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
		for _, r := range closed {
			r.state, r.code = reversing, set.AuthNoReply
			if err := settle(ctx, tx, r); err != nil {
				return err
			}
			if err := g.DB.Enqueue(ctx, tx, jobReverse, r.xid.String(), []byte(r.trace.RRN), time.Time{}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range closed {
		g.Log.Warn("authorization was left undecided and is reversed", "xid", r.xid.String(), "merchant", string(r.merchant), "rrn", r.trace.RRN)
	}
	return nil
}

// ofJob gives the authorization that a job is about.
func (g *Gateway) ofJob(ctx context.Context, job sqldb.Job) (r *record, err error) {
	err = g.DB.View(ctx, func(tx *sql.Tx) error {
		r, err = findRRN(ctx, tx, string(job.Payload))
		return err
	})
	return r, err
}

// settlementFirst is the settlement that everything belongs to.
const settlementFirst finnet.Settlement = 1

// reverse takes back what an issuer that gave no answer may have authorized.
func (g *Gateway) reverse(ctx context.Context, job sqldb.Job) (func(*sql.Tx) error, error) {
	r, err := g.ofJob(ctx, job)
	if err != nil {
		return nil, err
	}
	code, err := g.Issuer.Reverse(ctx, &finnet.Reversal{Trace: r.trace.Next(g.Now()), Original: r.trace, Amount: r.money(r.amount)})
	if err != nil {
		return nil, err
	}
	to := reversed
	if code != finnet.Approved && code != finnet.UnknownOriginal {
		to = reversalRefused
	}
	return g.recorded(ctx, r, code, reversing, to), nil
}

// clear books a capture at the issuer.
func (g *Gateway) clear(ctx context.Context, job sqldb.Job) (func(*sql.Tx) error, error) {
	r, err := g.ofJob(ctx, job)
	if err != nil {
		return nil, err
	}
	code, err := g.Issuer.Clear(ctx, &finnet.Clearing{
		Trace: r.clearing, Original: r.trace, Amount: r.money(r.captured), ApprovalCode: r.approval, XID: r.xid,
		Merchant: finnet.Merchant{ID: r.merchant, Terminal: r.terminal}, Settlement: settlementFirst,
	})
	if err != nil {
		return nil, err
	}
	to := cleared
	if code != finnet.Approved {
		to = clearingRefused
	}
	return g.recorded(ctx, r, code, captured, to), nil
}

// recorded tells the log of an issuer's acknowledgement and gives what keeps it.
func (g *Gateway) recorded(ctx context.Context, r *record, code finnet.ResponseCode, from, to state) func(*sql.Tx) error {
	log := g.Log.With("xid", r.xid.String(), "merchant", string(r.merchant), "rrn", r.trace.RRN, "issuer code", string(code))
	if to == reversed || to == cleared {
		log.Info("issuer acknowledges", "state", string(to))
	} else {
		log.Error("issuer refuses: settle this with the issuer by hand", "state", string(to))
	}
	return func(tx *sql.Tx) error { return advance(context.WithoutCancel(ctx), tx, r.trace.RRN, from, to) }
}
