package gateway

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
)

// kind says what an entry tells the issuer.
type kind string

const (
	entryReversal  kind = "reversal" // of an authorization, in full or in part
	entryCapture   kind = "capture"
	entryUncapture kind = "capture undone"
	entryCredit    kind = "credit"
	entryUncredit  kind = "credit undone"
)

// entryState is what the issuer has answered.
type entryState string

const (
	entryPending      entryState = "pending"
	entryAcknowledged entryState = "acknowledged"
	entryRefused      entryState = "refused"
	entryVoid         entryState = "void" // was not sent: the issuer had refused what it takes back
)

// place is where an item stands in a merchant's batch.
type place struct{ batch, number int64 }

// nowhere is the place of what stands in no batch.
var nowhere = place{batch: -1}

// entry is something that the issuer is told about an authorization. Its trace is fixed when it is booked, so
// that it can be sent again as the same.
type entry struct {
	merchant   set.MerchantID
	number     int64 // the entries of an authorization are sent one after the other, from 1
	kind       kind
	undoes     int64 // number of the entry that this takes back; 0: none
	amount     int64
	remains    int64 // of a reversal
	trace      finnet.Trace
	place      place
	settlement finnet.Settlement // 0: of a reversal, which moves no money
	state      entryState
	code       finnet.ResponseCode
	created    time.Time
}

const entryColumns = `entry.rrn, number, kind, undoes, entry.amount, remains, entry.acquirer, entry.stan, entry.transmission,
	entry.merchant, batch, batch_number, settlement, entry.state, entry.code, entry.created_ms`

func scanEntry(row interface{ Scan(...any) error }, more ...any) (*entry, error) {
	e := new(entry)
	var created, settlement int64
	err := row.Scan(append([]any{&e.trace.RRN, &e.number, (*string)(&e.kind), &e.undoes, &e.amount, &e.remains,
		(*string)(&e.trace.Acquirer), &e.trace.STAN, &e.trace.Transmission, (*string)(&e.merchant), &e.place.batch, &e.place.number,
		&settlement, (*string)(&e.state), (*string)(&e.code), &created}, more...)...)
	if err != nil {
		return nil, fmt.Errorf("read an entry: %w", err)
	}
	e.settlement, e.created = finnet.Settlement(settlement), time.UnixMilli(created)
	return e, nil
}

// entriesOf lists the entries of an authorization by number.
func entriesOf(ctx context.Context, tx *sql.Tx, rrn string) ([]*entry, error) {
	rows, err := tx.QueryContext(ctx, `SELECT `+entryColumns+` FROM entry WHERE rrn = $1 ORDER BY number`, rrn)
	if err != nil {
		return nil, fmt.Errorf("list the entries of authorization %s: %w", rrn, err)
	}
	defer rows.Close()
	var out []*entry
	for rows.Next() {
		e, err := scanEntry(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, rows.Err()
}

func (e *entry) insert(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO entry (rrn, number, kind, undoes, amount, remains, acquirer, stan, transmission, merchant,
		batch, batch_number, settlement, state, code, created_ms)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)`,
		e.trace.RRN, e.number, string(e.kind), e.undoes, e.amount, e.remains, string(e.trace.Acquirer), e.trace.STAN, e.trace.Transmission,
		string(e.merchant), e.place.batch, e.place.number, int64(e.settlement), string(e.state), string(e.code), e.created.UnixMilli())
	if err != nil {
		return fmt.Errorf("book a %s of authorization %s: %w", e.kind, e.trace.RRN, err)
	}
	return nil
}

// firstPending gives the entry that is to be sent next; nil when all are answered.
func firstPending(entries []*entry) *entry {
	if i := slices.IndexFunc(entries, func(e *entry) bool { return e.state == entryPending }); i >= 0 {
		return entries[i]
	}
	return nil
}

// stands tells whether nothing takes e, which is one of entries, back.
func (e *entry) stands(entries []*entry) bool {
	return !slices.ContainsFunc(entries, func(other *entry) bool { return other.undoes == e.number })
}

// ledger is the work of one transaction on authorizations and their entries. It shows what is added to it at
// once, and writes all of it at the end.
type ledger struct {
	*Gateway
	tx      *sql.Tx
	records []*record
	entries map[string][]*entry // of the records read so far, by RRN
	added   []*entry
}

func (g *Gateway) ledger(tx *sql.Tx) *ledger {
	return &ledger{Gateway: g, tx: tx, entries: make(map[string][]*entry)}
}

// find gives an authorization and its entries. A ledger gives the same record for the same authorization.
func (l *ledger) find(ctx context.Context, merchant set.MerchantID, rrpid set.RRPID) (*record, error) {
	if i := slices.IndexFunc(l.records, func(r *record) bool { return r.merchant == merchant && r.rrpid == rrpid }); i >= 0 {
		return l.records[i], nil
	}
	r, err := find(ctx, l.tx, merchant, rrpid)
	if err != nil {
		return nil, err
	}
	return r, l.take(ctx, r)
}

// take begins the work on an authorization.
func (l *ledger) take(ctx context.Context, r *record) (err error) {
	l.records = append(l.records, r)
	l.entries[r.trace.RRN], err = entriesOf(ctx, l.tx, r.trace.RRN)
	return err
}

// begin begins the work on an authorization that is pending, and so has no entries.
func (l *ledger) begin(r *record) { l.records = append(l.records, r) }

// findRRN is find by the retrieval reference number.
func (l *ledger) findRRN(ctx context.Context, rrn string) (*record, error) {
	if i := slices.IndexFunc(l.records, func(r *record) bool { return r.trace.RRN == rrn }); i >= 0 {
		return l.records[i], nil
	}
	r, err := findRRN(ctx, l.tx, rrn)
	if err != nil {
		return nil, err
	}
	return r, l.take(ctx, r)
}

// add puts an entry behind the others of its authorization.
func (l *ledger) add(r *record, e entry) *entry {
	before := l.entries[r.trace.RRN]
	e.merchant, e.state, e.number, e.trace, e.created = r.merchant, entryPending, 1, r.trace, l.Now()
	if n := len(before); n > 0 {
		e.number = before[n-1].number + 1
	}
	for named := false; !named; { // for the issuer, the trace is an entry's name
		e.trace = r.trace.Next(e.created)
		named = e.trace != r.trace && !slices.ContainsFunc(before, func(other *entry) bool { return other.trace == e.trace })
	}
	l.entries[r.trace.RRN] = append(before, &e)
	l.added = append(l.added, &e)
	return &e
}

// save writes the entries that were added, and leaves them to jobs.
func (l *ledger) save(ctx context.Context) error {
	for _, e := range l.added {
		if e.kind != entryReversal {
			var err error
			if e.settlement, err = currentSettlement(ctx, l.tx, e.trace.Acquirer, l.Now()); err != nil {
				return err
			}
		}
		if err := e.insert(ctx, l.tx); err != nil {
			return err
		}
		// What is pending before it has the job, which goes on with this.
		if firstPending(l.entries[e.trace.RRN]) != e {
			continue
		}
		r, err := l.findRRN(ctx, e.trace.RRN)
		if err != nil {
			return err
		}
		if err := l.DB.Enqueue(ctx, l.tx, jobDeliver, r.xid.String(), []byte(e.trace.RRN), time.Time{}); err != nil {
			return err
		}
	}
	return nil
}

// saveAll is save for authorizations that have moved on as well.
func (l *ledger) saveAll(ctx context.Context) error {
	for _, r := range l.records {
		if err := r.update(ctx, l.tx); err != nil {
			return err
		}
	}
	return l.save(ctx)
}

// currentSettlement gives the settlement that is open, and opens the first.
func currentSettlement(ctx context.Context, tx *sql.Tx, acquirer set.BIN, now time.Time) (n finnet.Settlement, err error) {
	err = tx.QueryRowContext(ctx, `SELECT number FROM settlement WHERE acquirer = $1 AND state = 'open'`, string(acquirer)).Scan(&n)
	switch {
	case err == nil:
		return n, nil
	case !errors.Is(err, sql.ErrNoRows):
		return 0, fmt.Errorf("look for the settlement that is open: %w", err)
	}
	err = tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(number), 0) + 1 FROM settlement WHERE acquirer = $1`, string(acquirer)).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("look for the last settlement: %w", err)
	}
	return n, openSettlement(ctx, tx, acquirer, n, now)
}

func openSettlement(ctx context.Context, tx *sql.Tx, acquirer set.BIN, n finnet.Settlement, now time.Time) error {
	if n > finnet.SettlementMax {
		return fmt.Errorf("acquirer %s has used up all numbers of settlements", acquirer)
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO settlement (acquirer, number, state, opened_ms, cut_ms, closed_ms) VALUES ($1, $2, 'open', $3, 0, 0)`,
		string(acquirer), int64(n), now.UnixMilli())
	if err != nil {
		return fmt.Errorf("open settlement %d: %w", n, err)
	}
	return nil
}
