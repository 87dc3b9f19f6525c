package merchant

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/setkit/setkit/roles/set"
)

// OperationState is how far a request to the gateway has come.
type OperationState string

// The states of an operation.
const (
	OperationPending OperationState = "pending"
	OperationDone    OperationState = "done"
	OperationRefused OperationState = "refused" // in part or in full: see the items

	// OperationUnresolved is one whose outcome can no longer be learnt from the gateway's server.
	OperationUnresolved OperationState = "unresolved"
)

// Operation is a request to a gateway as an operator sees it.
type Operation struct {
	ID      string          `json:"id"`
	Kind    Kind            `json:"operation"`
	State   OperationState  `json:"state"`
	Asked   time.Time       `json:"asked"`
	Items   []OperationItem `json:"items,omitempty"`
	Failure string          `json:"failure,omitempty"` // why it was refused as a whole
	Batch   *BatchReport    `json:"batch,omitempty"`

	// Next is the operation that goes on where this one ended, "" if none does.
	Next string `json:"next,omitempty"`
}

// OperationItem is what an operation is to do with one authorization, and what became of it.
type OperationItem struct {
	Order   int64     `json:"order"`
	XID     set.XID   `json:"xid"`
	RRPID   set.RRPID `json:"authorization"` // of its request
	Total   string    `json:"amount"`        // for people
	Code    string    `json:"code,omitempty"`
	Refused bool      `json:"refused,omitempty"`
}

// operation is a row of the table.
type operation struct {
	id     string
	kind   Kind
	state  OperationState
	asked  time.Time
	octets []byte // nil until the request is made
	body
}

// body is the part of an operation that is stored as JSON.
type body struct {
	Brand   set.BrandID // says which gateway it is for
	Items   []bodyItem
	All     bool   // void: go on with what is left of the purchase
	Repeats int    // so many earlier requests for the same got too old, and may have been processed
	Instead bool   // it takes back what nobody knows to have been done
	Failure string // why it was refused as a whole
	Next    string
	Batch   *BatchQuery
	Own     *set.BatchDetails // what the merchant counts in the batch
	Report  *BatchReport

	// GatewayCert is the DER of the certificate that the request is encrypted for. What else was sent is
	// one of these, or with the authorization.
	GatewayCert    []byte
	Reversal       *set.ReversalRequest
	Capture        *set.CaptureRequest
	Adjustment     *set.AdjustmentRequest
	Administration *set.BatchRequest
}

// bodyItem is an item with its amount in SET's form.
type bodyItem struct {
	OperationItem
	Amount set.CurrencyAmount
}

// work is an operation with the sales that it is about.
type work struct {
	now time.Time
	*operation
	sales map[set.XID]*sale
}

// item gives the sale and the authorization that an item is about.
func (w work) item(i bodyItem) (*sale, *authorization) {
	s := w.sales[i.XID]
	return s, s.authorization(i.RRPID)
}

// booking is what an answer has brought. It is made in a transaction, which may run more than once, and
// works on nothing but w. Its result is the operation that goes on where this one ended, if one does.
type booking func(w work) *operation

// newOperation begins an operation on some authorizations.
func newOperation(kind Kind, now time.Time, brand set.BrandID) *operation {
	return &operation{id: rand.Text(), kind: kind, state: OperationPending, asked: now, body: body{Brand: brand}}
}

// add puts an authorization into an operation.
func (o *operation) add(s *sale, a *authorization, amount set.CurrencyAmount) {
	o.Items = append(o.Items, bodyItem{OperationItem{Order: s.number, XID: s.xid, RRPID: a.Request.RRPID, Total: amount.String()}, amount})
}

// anew begins the same operation once more.
func (o *operation) anew(now time.Time, kind Kind) *operation {
	next := newOperation(kind, now, o.Brand)
	next.Items, next.All, next.Instead, next.Batch, next.Own = slices.Clone(o.Items), o.All, o.Instead, o.Batch, o.Own
	next.Repeats = o.Repeats + 1
	return next
}

func (o *operation) view() *Operation {
	v := &Operation{ID: o.id, Kind: o.kind, State: o.state, Asked: o.asked, Failure: o.Failure, Batch: o.Report, Next: o.Next}
	for _, i := range o.Items {
		v.Items = append(v.Items, i.OperationItem)
	}
	return v
}

// begin writes an operation, marks its sales, which are written too, and leaves a job to send it.
func (s *Store) begin(ctx context.Context, tx *sql.Tx, op *operation, sales map[set.XID]*sale, notBefore time.Time) error {
	raw, err := json.Marshal(op.body)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO operation (id, kind, state, asked_s, octets, body) VALUES ($1, $2, $3, $4, $5, $6)`,
		op.id, string(op.kind), string(op.state), op.asked.Unix(), op.octets, raw)
	if err != nil {
		return fmt.Errorf("store a request to %s: %w", op.kind, err)
	}
	for _, sl := range sales {
		sl.pending = op.id
		if err := s.saveSale(ctx, tx, sl); err != nil {
			return err
		}
	}
	return s.db.Enqueue(ctx, tx, jobOperate, string(op.kind), []byte(op.id), notBefore)
}

func readOperation(ctx context.Context, tx *sql.Tx, id string) (*operation, error) {
	op := &operation{id: id}
	var asked int64
	var raw []byte
	err := tx.QueryRowContext(ctx, `SELECT kind, state, asked_s, octets, body FROM operation WHERE id = $1`, id).
		Scan(&op.kind, &op.state, &asked, &op.octets, &raw)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNoOperation
	}
	if err != nil {
		return nil, fmt.Errorf("read operation %s: %w", id, err)
	}
	op.asked = time.Unix(asked, 0).UTC()
	return op, json.Unmarshal(raw, &op.body)
}

func saveOperation(ctx context.Context, tx *sql.Tx, op *operation) error {
	raw, err := json.Marshal(op.body)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `UPDATE operation SET state = $1, octets = $2, body = $3 WHERE id = $4`, string(op.state), op.octets, raw, op.id)
	if err != nil {
		return fmt.Errorf("update operation %s: %w", op.id, err)
	}
	return nil
}

// readWork gives an operation with its sales.
func readWork(ctx context.Context, tx *sql.Tx, now time.Time, id string) (work, error) {
	op, err := readOperation(ctx, tx, id)
	if err != nil {
		return work{}, err
	}
	w := work{now, op, make(map[set.XID]*sale)}
	for _, i := range op.Items {
		if w.sales[i.XID], err = readSale(ctx, tx, i.XID); err != nil {
			return work{}, err
		}
	}
	return w, nil
}

// work gives an operation with its sales.
func (s *Store) work(ctx context.Context, now time.Time, id string) (w work, err error) {
	err = s.db.View(ctx, func(tx *sql.Tx) error {
		w, err = readWork(ctx, tx, now, id)
		return err
	})
	return w, err
}

// keep stores what an operation sends, unless it has octets already, and gives the operation as it is then:
// what is stored counts, whoever stored it.
func (s *Store) keep(ctx context.Context, made work) (w work, err error) {
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		if w, err = readWork(ctx, tx, made.now, made.id); err != nil || w.octets != nil || w.state != OperationPending {
			return err
		}
		w.operation = made.operation
		for _, i := range w.Items {
			sl, a := w.item(i)
			_, asked := made.item(i)
			a.Request = asked.Request
			if err := s.saveSale(ctx, tx, sl); err != nil {
				return err
			}
		}
		if w.fillsBatch() {
			if err := noPurge(ctx, tx); err != nil {
				return err
			}
		}
		return saveOperation(ctx, tx, w.operation)
	})
	return w, err
}

// errPurging keeps back what would go into a batch whose purge is not answered: nobody could tell whether it was
// purged with the rest.
var errPurging = errors.New("a batch is being purged: the request waits for the answer to that")

// fillsBatch tells whether an operation changes what is in a batch.
func (w work) fillsBatch() bool {
	switch w.kind {
	case KindCapture, KindUncapture, KindRefund, KindUndoRefund:
		return true
	case KindAuthorize:
		return slices.ContainsFunc(w.Items, func(i bodyItem) bool {
			_, a := w.item(i)
			return a.Request.CaptureNow
		})
	}
	return false
}

// noPurge refuses while a batch is being purged.
func noPurge(ctx context.Context, tx *sql.Tx) error {
	rows, err := tx.QueryContext(ctx, `SELECT body FROM operation WHERE kind = $1 AND state = $2`, string(KindBatch), string(OperationPending))
	if err != nil {
		return fmt.Errorf("look for a purge under way: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var raw []byte
		var op operation
		if err := rows.Scan(&raw); err != nil {
			return fmt.Errorf("look for a purge under way: %w", err)
		}
		if err := json.Unmarshal(raw, &op.body); err != nil {
			return err
		}
		if op.Batch != nil && op.Batch.Operation == BatchPurge {
			return errPurging
		}
	}
	return rows.Err()
}

// finish books the outcome of an operation that is pending, once, and begins the one that goes on from there.
func (s *Store) finish(ctx context.Context, now time.Time, id string, book booking) (w work, err error) {
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		if w, err = readWork(ctx, tx, now, id); err != nil || w.state != OperationPending {
			return err
		}
		next := book(w)
		if w.state == OperationPending {
			w.state = OperationDone
		}
		w.octets = nil // nobody sends them again
		if err := s.finishItems(ctx, tx, w); err != nil {
			return err
		}
		if next != nil {
			w.Next = next.id
			sales := make(map[set.XID]*sale)
			for _, i := range next.Items {
				sales[i.XID] = w.sales[i.XID]
			}
			notBefore := time.Time{}
			if next.Repeats > 0 {
				notBefore = time.Now().Add(min(anewPauseMin<<min(next.Repeats-1, anewDoublingMax), anewPauseMax))
			}
			if err := s.begin(ctx, tx, next, sales, notBefore); err != nil {
				return err
			}
		}
		return saveOperation(ctx, tx, w.operation)
	})
	return w, err
}

// A request that got too old waits before it is made anew, longer each time: clocks may disagree.
const (
	anewPauseMin    = 250 * time.Millisecond
	anewPauseMax    = 10 * time.Minute
	anewDoublingMax = 10
)

// finishItems writes the sales of an operation, the states of their orders and what stands in the batches.
func (s *Store) finishItems(ctx context.Context, tx *sql.Tx, w work) error {
	for _, sl := range w.sales {
		sl.pending = ""
		if err := s.saveSale(ctx, tx, sl); err != nil {
			return err
		}
	}
	if w.kind == KindBatch {
		return s.bookBatch(ctx, tx, w)
	}
	for _, sl := range w.sales {
		if err := keepBatchItems(ctx, tx, sl); err != nil {
			return err
		}
	}
	return nil
}

// ErrNoOperation tells that there is no such operation.
var ErrNoOperation = errors.New("there is no such operation")

// Operation gives the operation with this id, or ErrNoOperation.
func (s *Store) Operation(ctx context.Context, id string) (*Operation, error) {
	var op *operation
	err := s.db.View(ctx, func(tx *sql.Tx) (err error) {
		op, err = readOperation(ctx, tx, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	return op.view(), nil
}

// awaitPause is how often Await looks for what the server has stored.
const awaitPause = 100 * time.Millisecond

// Await waits until an operation has its outcome, and those that go on from there have theirs. It gives the
// last of them; when ctx ends before, as far as it has come then, with the error of ctx.
func (s *Store) Await(ctx context.Context, id string) (*Operation, error) {
	for {
		op, err := s.Operation(context.WithoutCancel(ctx), id)
		switch {
		case err != nil:
			return nil, err
		case op.State != OperationPending && op.Next == "":
			return op, nil
		case op.State != OperationPending:
			id = op.Next
			continue
		}
		select {
		case <-ctx.Done():
			return op, ctx.Err()
		case <-time.After(awaitPause):
		}
	}
}
