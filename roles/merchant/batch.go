package merchant

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/setkit/setkit/roles/set"
)

// BatchQuery is what an operator wants of a batch at a gateway (SET §7.8).
type BatchQuery struct {
	Operation BatchOperation
	Batch     *int64      // nil leaves the choice to the gateway
	Brand     set.BrandID // says which gateway is asked; on a purge, what is purged. "" means the merchant's own, and everything

	// AnyTotals closes the batch though the gateway may count otherwise than the merchant.
	AnyTotals bool

	// Items asks for one page of items, from the place that the page before has named; 0 asks for none.
	Items int64
	From  int64
}

// BatchOperation is what is done with a batch.
type BatchOperation string

// The operations on a batch.
const (
	BatchShow  BatchOperation = "show"
	BatchOpen  BatchOperation = "open"
	BatchClose BatchOperation = "close"
	BatchPurge BatchOperation = "purge" // take everything out of it
)

var batchOperations = map[BatchOperation]set.BatchOperation{BatchOpen: set.BatchOpen, BatchClose: set.BatchClose, BatchPurge: set.BatchPurge}

// BatchReport is what a gateway tells of a batch.
type BatchReport struct {
	Batch        int64            `json:"batch"`
	Status       string           `json:"status"` // of the operation
	Opened       *time.Time       `json:"opened,omitempty"`
	Closed       *time.Time       `json:"closed,omitempty"`
	ClosedBy     string           `json:"closedBy,omitempty"`
	Transmission string           `json:"transmission,omitempty"` // to the acquirer
	Totals       *BatchTotals     `json:"totals,omitempty"`
	Brands       []BrandTotals    `json:"brands,omitempty"`
	Own          *BatchTotals     `json:"own,omitempty"` // as the merchant counts
	Settlement   *BatchSettlement `json:"settlement,omitempty"`
	Items        []BatchItem      `json:"items,omitempty"`
	Next         int64            `json:"next,omitempty"` // where the next page begins; 0: there is none
}

// BatchTotals are the counts and sums of a batch. Debits are captures, credits refunds.
type BatchTotals struct {
	Debits       int64  `json:"debits"`
	DebitAmount  string `json:"debitAmount"`
	Credits      int64  `json:"credits"`
	CreditAmount string `json:"creditAmount"`
}

func (t BatchTotals) String() string {
	return fmt.Sprintf("%d captures of %s and %d refunds of %s", t.Debits, t.DebitAmount, t.Credits, t.CreditAmount)
}

// BrandTotals are the totals of one brand.
type BrandTotals struct {
	Brand set.BrandID `json:"brand"`
	BatchTotals
}

// BatchSettlement is what the merchant's account is credited or debited with.
type BatchSettlement struct {
	Amount  string    `json:"amount"`
	Type    string    `json:"type"`
	Account string    `json:"account"`
	Deposit time.Time `json:"deposit"`
}

// BatchItem is one item of a batch.
type BatchItem struct {
	Number int64       `json:"number"`
	XID    set.XID     `json:"xid"`
	Brand  set.BrandID `json:"brand"`
	Amount string      `json:"amount"`
	Type   string      `json:"type"`             // debit or credit
	Status string      `json:"status,omitempty"` // of its settlement
}

func totals(t set.BatchTotals) BatchTotals {
	return BatchTotals{int64(t.TransactionCountDebit), sum(t.TransactionTotalAmtDebit), int64(t.TransactionCountCredit), sum(t.TransactionTotalAmtCredit)}
}

// sum is an amount as text. Nothing at all has no currency (ISO 4217: XXX).
func sum(a set.CurrencyAmount) string {
	if a.Currency == noCurrency && a.Amount == 0 {
		return "0"
	}
	return a.String()
}

const noCurrency set.Currency = 999

// ErrRequestsUnderWay keeps a batch from being closed or purged while what is in it may change.
var ErrRequestsUnderWay = errors.New("requests to the gateway are under way, which change the batch: wait for their answers, see set-merchant orders")

// AskBatch asks a gateway about a batch, or to do something with it. A batch is closed by the merchant's own
// totals, which must not be about to change; nor may what is in it when it is purged.
func (s *Store) AskBatch(ctx context.Context, now time.Time, q BatchQuery) (*Operation, error) {
	switch _, known := batchOperations[q.Operation]; {
	case !known && q.Operation != BatchShow:
		return nil, fmt.Errorf("there is no operation %q on a batch", string(q.Operation))
	case q.Batch == nil && (q.Operation == BatchClose || q.Operation == BatchPurge):
		return nil, fmt.Errorf("say which batch is to be closed or purged")
	case q.Batch != nil && *q.Batch < 0, q.From < 0, q.Items < 0:
		return nil, errors.New("numbers of batches and of items are not negative")
	}
	op := newOperation(KindBatch, now, q.Brand)
	op.Batch = &q
	err := s.db.Tx(ctx, func(tx *sql.Tx) (err error) {
		if q.Operation == BatchClose && !q.AnyTotals || q.Operation == BatchPurge {
			var under int
			err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM operation WHERE state = $1 AND kind IN ($2, $3, $4, $5, $6)`, string(OperationPending),
				string(KindAuthorize), string(KindCapture), string(KindUncapture), string(KindRefund), string(KindUndoRefund)).Scan(&under)
			if err != nil {
				return fmt.Errorf("count the requests under way: %w", err)
			}
			if under > 0 {
				return ErrRequestsUnderWay
			}
		}
		if q.Batch != nil {
			if op.Own, err = ownDetails(ctx, tx, *q.Batch); err != nil {
				return err
			}
		}
		return s.begin(ctx, tx, op, nil, time.Time{})
	})
	if err != nil {
		return nil, err
	}
	return op.view(), nil
}

// ownDetails counts what stands in a batch by the merchant's own books. Of a batch without items the currency
// is not known: it is 0.
func ownDetails(ctx context.Context, tx *sql.Tx, batch int64) (*set.BatchDetails, error) {
	rows, err := tx.QueryContext(ctx, `SELECT brand, credit, currency, amount, exponent FROM batch_item WHERE batch = $1`, batch)
	if err != nil {
		return nil, fmt.Errorf("read the items of batch %d: %w", batch, err)
	}
	defer rows.Close()
	var own set.Batch
	for rows.Next() {
		var item set.TransactionDetail
		var brand string
		var credit, currency, amount int64
		if err := rows.Scan(&brand, &credit, &currency, &amount, &item.TransactionAmt.AmtExp10); err != nil {
			return nil, fmt.Errorf("read an item of batch %d: %w", batch, err)
		}
		item.BrandID, item.TransactionAmtType = set.BrandID(brand), set.AmtDebit
		if credit != 0 {
			item.TransactionAmtType = set.AmtCredit
		}
		item.TransactionAmt.Currency, item.TransactionAmt.Amount = set.Currency(currency), set.Natural(amount)
		own.Items = append(own.Items, item)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the items of batch %d: %w", batch, err)
	}
	var currency set.Currency
	if len(own.Items) > 0 {
		currency = own.Items[0].TransactionAmt.Currency
	}
	details, ok := own.Details(currency)
	if !ok {
		return nil, fmt.Errorf("batch %d has items of several currencies", batch)
	}
	return &details, nil
}

// keepBatchItems writes what a sale has in batches.
func keepBatchItems(ctx context.Context, tx *sql.Tx, s *sale) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM batch_item WHERE xid = $1`, s.xid[:]); err != nil {
		return fmt.Errorf("rewrite the batch items of %v: %w", s.xid, err)
	}
	put := func(a *authorization, operation string, batch *set.Natural, amount set.CurrencyAmount, credit int) error {
		if batch == nil {
			return nil
		}
		_, err := tx.ExecContext(ctx,
			`INSERT INTO batch_item (auth_rrpid, operation, xid, batch, brand, credit, currency, amount, exponent) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			a.Request.RRPID[:], operation, s.xid[:], int64(*batch), string(s.Sale.BrandID), credit,
			int64(amount.Currency), int64(amount.Amount), amount.AmtExp10)
		if err != nil {
			return fmt.Errorf("store an item of batch %d: %w", *batch, err)
		}
		return nil
	}
	for _, a := range s.Authorizations {
		if a.Position.Captured.Amount > 0 {
			if err := put(a, a.Capture.Operation, a.Capture.Batch, a.Position.Captured, 0); err != nil {
				return err
			}
		}
		for _, r := range a.Refunds {
			if r.Undone == nil || r.UndoneIn != nil {
				if err := put(a, r.Operation, r.Batch, r.Amount, 1); err != nil {
					return err
				}
			}
			if err := put(a, r.Operation+" undone", r.UndoneIn, r.Amount, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *Merchant) makeBatchAdminReq(w work) ([]byte, error) {
	if w.Brand == "" {
		w.Brand = set.BrandID(m.Endpoint.SignCert.Brand())
	}
	if err := m.recipient(w, false); err != nil {
		return nil, err
	}
	q := w.Batch
	r := &set.BatchRequest{RRPID: set.NewRRPID(), GatewayCert: w.GatewayCert, BatchID: (*set.Natural)(q.Batch), Summary: q.Operation != BatchOpen}
	if op, ok := batchOperations[q.Operation]; ok {
		r.Operation = &op
	}
	if q.Operation == BatchOpen || q.Operation == BatchPurge && q.Brand != "" {
		r.Brands = []set.BrandAndBIN{{BrandID: w.Brand}}
	}
	if q.Items > 0 {
		r.Detail = &set.ReturnTransactionDetail{StartingPoint: q.From, MaximumItems: set.Positive(q.Items)}
	}
	if w.Own != nil && w.Own.BatchTotals.TransactionTotalAmtDebit.Currency == 0 {
		nothing, err := m.Catalogue.amount(0)
		if err != nil {
			return nil, err
		}
		w.Own.BatchTotals.TransactionTotalAmtDebit, w.Own.BatchTotals.TransactionTotalAmtCredit = nothing, nothing
	}
	if q.Operation == BatchClose && !q.AnyTotals {
		r.Status = &set.BatchStatus{OpenDateTime: w.second(), BatchDetails: *w.Own}
	}
	w.Administration = r
	return m.endpoint().BatchAdminReq(w.now, r)
}

func (m *Merchant) openBatchAdminRes(w work, answer []byte) (booking, error) {
	res, err := m.endpoint().OpenBatchAdminRes(w.now, w.Administration, answer)
	if err != nil {
		return nil, err
	}
	return func(w work) *operation {
		w.Report = report(res)
		if w.Own != nil {
			own := totals(w.Own.BatchTotals)
			w.Report.Own = &own
		}
		if s := res.BAStatus; s != nil && *s != set.BASuccess && !w.doneBefore(*s) {
			w.state, w.Failure = OperationRefused, fmt.Sprintf("%s of batch %d: %v", w.Batch.Operation, res.BatchID, *s)
			switch {
			case *s == set.BATotalsOutOfBalance:
				w.Failure += w.Report.imbalance()
			case w.Batch.Operation == BatchPurge && w.Repeats > 0: // perhaps the batch was purged first and then closed by the acquirer
				w.state = OperationUnresolved
			}
		}
		return nil
	}, nil
}

// doneBefore tells whether a refusal means that an earlier copy of the request was processed.
func (w work) doneBefore(s set.BAStatus) bool {
	return w.Repeats > 0 && w.Batch.Operation == BatchOpen && s == set.BABatchAlreadyOpen
}

// imbalance puts the two counts beside each other.
func (r *BatchReport) imbalance() string {
	text := fmt.Sprintf(": the merchant counts %v", r.Own)
	if r.Totals != nil {
		text += fmt.Sprintf(", the gateway %v", r.Totals)
	}
	return text + "; compare the items by batch show, or close it all the same with --any-totals"
}

func report(res *set.BatchAdminResData) *BatchReport {
	out := &BatchReport{Batch: int64(res.BatchID), Status: set.BASuccess.String()}
	if res.BAStatus != nil {
		out.Status = res.BAStatus.String()
	}
	if res.TransmissionStatus != nil {
		out.Transmission = res.TransmissionStatus.String()
	}
	if b := res.BatchStatus; b != nil {
		sum := totals(b.BatchDetails.BatchTotals)
		out.Opened, out.Totals = &b.OpenDateTime, &sum
		for _, brand := range b.BatchDetails.BrandBatchDetailsSeq {
			out.Brands = append(out.Brands, BrandTotals{brand.BrandID, totals(brand.BatchTotals)})
		}
		if c := b.ClosedWhen; c != nil {
			out.Closed, out.ClosedBy = &c.CloseDateTime, map[set.CloseStatus]string{set.ClosedByMerchant: "merchant", set.ClosedByAcquirer: "acquirer"}[c.CloseStatus]
		}
	}
	if i := res.SettlementInfo; i != nil {
		out.Settlement = &BatchSettlement{i.SettlementAmount.String(), i.SettlementType.String(), string(i.SettlementAccount), i.SettlementDepositDate}
	}
	if d := res.TransDetails; d != nil {
		out.Next = d.NextStartingPoint
		for _, item := range d.TransactionDetailSeq {
			row := BatchItem{
				Number: int64(item.BatchSequenceNum), XID: item.TransIDs.XID, Brand: item.BrandID,
				Amount: item.TransactionAmt.String(), Type: item.TransactionAmtType.String(),
			}
			if item.TransactionStatus != nil {
				row.Status = item.TransactionStatus.String()
			}
			out.Items = append(out.Items, row)
		}
	}
	return out
}

// bookBatch carries what has become of a batch over to the sales that have items in it.
func (s *Store) bookBatch(ctx context.Context, tx *sql.Tx, w work) error {
	r, q := w.Report, w.Batch
	if r == nil {
		return nil
	}
	purged := q.Operation == BatchPurge && w.state == OperationDone
	doubtful := w.state == OperationUnresolved
	if closed := r.Closed != nil || q.Operation == BatchClose && w.state == OperationDone; !closed && !purged && !doubtful {
		return nil
	}
	rows, err := tx.QueryContext(ctx, `SELECT DISTINCT xid FROM batch_item WHERE batch = $1`, r.Batch)
	if err != nil {
		return fmt.Errorf("read the items of batch %d: %w", r.Batch, err)
	}
	defer rows.Close()
	var xids []set.XID
	for rows.Next() {
		var xid []byte
		if err := rows.Scan(&xid); err != nil {
			return fmt.Errorf("read an item of batch %d: %w", r.Batch, err)
		}
		xids = append(xids, set.XID(xid))
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the items of batch %d: %w", r.Batch, err)
	}
	rows.Close()
	for _, xid := range xids {
		sl, err := readSale(ctx, tx, xid)
		if err != nil {
			return err
		}
		named := q.Brand == "" || q.Brand.Matches(sl.Sale.BrandID)
		switch batch := set.Natural(r.Batch); {
		case purged && named:
			sl.purge(batch, w.second())
		case doubtful && named:
			sl.doubt(batch, w.Failure)
		case !purged && !doubtful:
			sl.settle(batch)
		}
		if err := errors.Join(s.saveSale(ctx, tx, sl), keepBatchItems(ctx, tx, sl)); err != nil {
			return err
		}
	}
	return nil
}

// settle books that a batch is closed.
func (s *sale) settle(batch set.Natural) {
	for _, a := range s.Authorizations {
		if c := a.Capture; a.Position.Captured.Amount > 0 && !a.Position.Settled && c.Batch != nil && *c.Batch == batch {
			s.step(a, set.StepSettle, set.CurrencyAmount{})
		}
	}
}

// doubt books that nobody knows whether a batch was purged before it was closed.
func (s *sale) doubt(batch set.Natural, why string) {
	for _, a := range s.Authorizations {
		refunded := slices.ContainsFunc(a.Refunds, func(r *refund) bool { return r.Undone == nil && r.Batch != nil && *r.Batch == batch })
		c := a.Capture
		if refunded || a.Position.Captured.Amount > 0 && !a.Position.Settled && c.Batch != nil && *c.Batch == batch {
			a.Unknown, a.Failure, s.Trouble = true, why, why
		}
	}
}

// purge books that everything was taken out of a batch: first what was given back, then what was captured.
func (s *sale) purge(batch set.Natural, at time.Time) {
	for _, a := range s.Authorizations {
		for _, r := range a.Refunds {
			if r.Undone == nil && r.Batch != nil && *r.Batch == batch && s.step(a, set.StepUndoCredit, r.Amount) {
				r.Undone = &at
			}
		}
		if c := a.Capture; a.Position.Captured.Amount > 0 && !a.Position.Settled && c.Batch != nil && *c.Batch == batch {
			s.step(a, set.StepPurge, set.CurrencyAmount{})
		}
	}
}
