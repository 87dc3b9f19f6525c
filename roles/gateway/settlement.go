package gateway

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sqldb"
)

const (
	settlementPoll   = 50 * time.Millisecond // how often a settlement looks whether the issuer has answered
	progressInterval = 2 * time.Second
)

var (
	// ErrNothingToSettle says that the settlement that is open has no entries.
	ErrNothingToSettle = errors.New("there is nothing to settle")

	// ErrUnanswered says that the issuer has not answered in time. The settlement stays open for another try.
	ErrUnanswered = errors.New("the issuer has not answered all entries")

	// ErrOutOfBalance says that issuer and gateway have other totals. The settlement stays open for another try.
	ErrOutOfBalance = errors.New("the settlement is out of balance")
)

// Settler closes settlements with the issuer. All of it is required but Now.
type Settler struct {
	DB       *sqldb.DB // from OpenDB
	Issuer   Issuer
	Acquirer set.BIN
	Log      *slog.Logger
	Now      func() time.Time // nil means time.Now

	// Progress is told of every step and, while the issuer is waited for, how many entries are left.
	Progress func(step string, left int)

	// Report keeps the report of a settlement that is in balance, before that is closed. It may be called again
	// for the same settlement, with the same entries.
	Report func(*Settled) error
}

// Settled is a settlement with all that is in it.
type Settled struct {
	Acquirer set.BIN
	Number   finnet.Settlement
	Cut      time.Time // since then, entries belong to the next
	Items    []SettledItem
	Balances []Balance
}

// SettledItem is an entry of a settlement. One that the issuer refused is not paid.
type SettledItem struct {
	Merchant   set.MerchantID
	XID        set.XID
	What       string // capture, capture undone, credit or credit undone
	State      string // acknowledged, refused or void
	IssuerCode finnet.ResponseCode
	Amount     int64 // minor units
	Currency   set.Currency
	Trace      finnet.Trace
	Batch      int64 // -1: none
	Number     int64 // in the batch; 0: none
	Time       time.Time
}

// Paid tells whether the item moves money.
func (i *SettledItem) Paid() bool { return i.State == string(entryAcknowledged) }

// Net is what the merchant gets for the item, in minor units; below zero it is taken from the merchant.
func (i *SettledItem) Net() int64 {
	switch {
	case !i.Paid():
		return 0
	case i.What == string(entryCapture), i.What == string(entryUncredit):
		return i.Amount
	}
	return -i.Amount
}

// Balance compares both ends of a settlement in one currency, in minor units.
type Balance struct {
	Currency set.Currency
	Payouts  []Payout
	Ours     finnet.Totals
	Debits   int64         // of the cardholders, all in all, as the issuer says
	Theirs   finnet.Totals // the issuer's
}

// Payout is what a merchant gets; below zero it is taken from the merchant.
type Payout struct {
	Merchant set.MerchantID
	Amount   int64
}

// Paid is the sum of the payouts.
func (b *Balance) Paid() (sum int64) {
	for _, p := range b.Payouts {
		sum += p.Amount
	}
	return sum
}

// Balanced tells whether merchants get what cardholders are debited with.
func (b *Balance) Balanced() bool { return b.Ours == b.Theirs && b.Paid() == b.Debits }

// Settle closes the settlement that is open, or goes on with one that was left: new entries belong to the next
// from then on, the issuer's answers to all of its entries are waited for, the totals are compared, and the
// report is written. After a crash anywhere, or an error, the next call goes on. With ErrOutOfBalance comes what
// both sides have.
func (s *Settler) Settle(ctx context.Context) (*Settled, error) {
	n, err := s.cut(ctx)
	if err != nil {
		return nil, err
	}
	s.Progress(fmt.Sprintf("settlement %d: entries belong to the next from now on", n), 0)
	if err := s.await(ctx, n); err != nil {
		return nil, fmt.Errorf("settlement %d: %w", n, err)
	}
	out, err := s.load(ctx, n)
	if err != nil {
		return nil, err
	}
	if err := s.reconcile(ctx, out); err != nil {
		return out, fmt.Errorf("settlement %d: %w", n, err)
	}
	if err := s.Report(out); err != nil {
		return out, fmt.Errorf("settlement %d: write the report: %w", n, err)
	}
	return out, s.close(ctx, out)
}

func (s *Settler) now() time.Time {
	if s.Now == nil {
		return time.Now()
	}
	return s.Now()
}

// cut gives the settlement to be closed, to which nothing is added any more. The gateway's own batches end
// with it.
func (s *Settler) cut(ctx context.Context) (n finnet.Settlement, err error) {
	err = s.DB.Tx(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT number FROM settlement WHERE acquirer = $1 AND state = 'closing' ORDER BY number LIMIT 1`,
			string(s.Acquirer)).Scan(&n)
		if err == nil || !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		now := s.now()
		if n, err = currentSettlement(ctx, tx, s.Acquirer, now); err != nil {
			return err
		}
		var entries int64
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM entry WHERE acquirer = $1 AND settlement = $2`, string(s.Acquirer), int64(n)).Scan(&entries); err != nil {
			return fmt.Errorf("count the entries of settlement %d: %w", n, err)
		}
		if entries == 0 {
			return ErrNothingToSettle
		}
		_, err = tx.ExecContext(ctx, `UPDATE settlement SET state = 'closing', cut_ms = $1 WHERE acquirer = $2 AND number = $3`,
			now.UnixMilli(), string(s.Acquirer), int64(n))
		if err != nil {
			return fmt.Errorf("cut settlement %d: %w", n, err)
		}
		_, err = tx.ExecContext(ctx, `UPDATE batch SET closed_ms = $1, closed_by = $2 WHERE acquirer = $3 AND own = 1 AND closed_ms = 0`,
			now.UnixMilli(), int64(set.ClosedByAcquirer), string(s.Acquirer))
		if err != nil {
			return fmt.Errorf("close the gateway's own batches: %w", err)
		}
		return openSettlement(ctx, tx, s.Acquirer, n+1, now)
	})
	return n, err
}

// await waits until the issuer has answered all entries of a settlement. It delivers them as a serving gateway
// does, which need not run.
func (s *Settler) await(ctx context.Context, n finnet.Settlement) (err error) {
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- courier{s.DB, s.Issuer, s.Log}.run(ctx) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()
	tick := time.NewTicker(settlementPoll)
	defer tick.Stop()
	for told := (time.Time{}); ; {
		left, err := s.unanswered(ctx, n)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if left == 0 && err == nil {
			return nil
		}
		if time.Since(told) > progressInterval {
			s.Progress("waiting for the issuer's answers", left)
			told = time.Now()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d entries have no answer yet: %w", left, ErrUnanswered)
		}
	}
}

func (s *Settler) unanswered(ctx context.Context, n finnet.Settlement) (left int, err error) {
	err = s.DB.View(ctx, func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM entry WHERE acquirer = $1 AND settlement = $2 AND state = 'pending'`,
			string(s.Acquirer), int64(n)).Scan(&left)
	})
	if err != nil {
		return 0, fmt.Errorf("count what the issuer has not answered: %w", err)
	}
	return left, nil
}

// load reads a settlement.
func (s *Settler) load(ctx context.Context, n finnet.Settlement) (*Settled, error) {
	out := &Settled{Acquirer: s.Acquirer, Number: n}
	err := s.DB.View(ctx, func(tx *sql.Tx) error {
		var cut int64
		err := tx.QueryRowContext(ctx, `SELECT cut_ms FROM settlement WHERE acquirer = $1 AND number = $2`, string(s.Acquirer), int64(n)).Scan(&cut)
		if err != nil {
			return fmt.Errorf("read settlement %d: %w", n, err)
		}
		out.Cut = time.UnixMilli(cut).UTC()
		out.Items, err = settledItems(ctx, tx, s.Acquirer, n)
		return err
	})
	if err != nil {
		return nil, err
	}
	out.Balances = balances(out.Items)
	return out, nil
}

func settledItems(ctx context.Context, tx *sql.Tx, acquirer set.BIN, n finnet.Settlement) ([]SettledItem, error) {
	rows, err := tx.QueryContext(ctx, `SELECT `+entryColumns+`, xid, currency FROM entry JOIN auth ON auth.rrn = entry.rrn
		WHERE entry.acquirer = $1 AND settlement = $2 ORDER BY entry.merchant, currency, entry.created_ms, entry.rrn, number`, string(acquirer), int64(n))
	if err != nil {
		return nil, fmt.Errorf("list the entries of settlement %d: %w", n, err)
	}
	defer rows.Close()
	var out []SettledItem
	for rows.Next() {
		var xid []byte
		var currency int64
		e, err := scanEntry(rows, &xid, &currency)
		if err != nil {
			return nil, err
		}
		item := SettledItem{
			Merchant: e.merchant, What: string(e.kind), State: string(e.state), IssuerCode: e.code, Amount: e.amount, Currency: set.Currency(currency),
			Trace: e.trace, Batch: e.place.batch, Number: e.place.number, Time: e.created.UTC(),
		}
		copy(item.XID[:], xid)
		out = append(out, item)
	}
	return out, rows.Err()
}

// balances sums up a settlement by currency and merchant: the gateway's side of it.
func balances(items []SettledItem) []Balance {
	of := make(map[set.Currency]*Balance)
	payouts := make(map[set.Currency]map[set.MerchantID]int64)
	for _, i := range items {
		if !i.Paid() {
			continue
		}
		b := of[i.Currency]
		if b == nil {
			b = &Balance{Currency: i.Currency}
			of[i.Currency], payouts[i.Currency] = b, make(map[set.MerchantID]int64)
		}
		payouts[i.Currency][i.Merchant] += i.Net()
		sum := map[string]*finnet.Sum{
			string(entryCapture): &b.Ours.Sales, string(entryUncapture): &b.Ours.SalesTaken,
			string(entryCredit): &b.Ours.Refunds, string(entryUncredit): &b.Ours.RefundsTaken,
		}[i.What]
		sum.Count++
		sum.Amount += i.Amount
	}
	var out []Balance
	for _, c := range slices.Sorted(maps.Keys(of)) {
		for _, m := range slices.Sorted(maps.Keys(payouts[c])) {
			of[c].Payouts = append(of[c].Payouts, Payout{m, payouts[c][m]})
		}
		out = append(out, *of[c])
	}
	return out
}

// reconcile asks the issuer for its totals. What was in balance once is asked again, and is so again.
func (s *Settler) reconcile(ctx context.Context, out *Settled) error {
	balanced := true
	for n := range out.Balances {
		b := &out.Balances[n]
		s.Progress(fmt.Sprintf("the totals in %s", b.Currency), 0)
		answer, err := s.Issuer.Reconcile(ctx, &finnet.Reconciliation{
			Trace: finnet.NewTrace(s.Acquirer, s.now()), Settlement: out.Number, Currency: b.Currency, Totals: b.Ours,
		})
		if err != nil {
			return err
		}
		if answer.Code != finnet.Approved && answer.Code != finnet.OutOfBalance {
			return fmt.Errorf("the issuer answers the reconciliation in %s with %s", b.Currency, answer.Code)
		}
		b.Theirs, b.Debits = answer.Totals, answer.Totals.Net()
		balanced = balanced && answer.Code == finnet.Approved && b.Balanced()
	}
	if !balanced {
		return ErrOutOfBalance
	}
	return nil
}

// close ends a settlement that is in balance.
func (s *Settler) close(ctx context.Context, out *Settled) error {
	return s.DB.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE settlement SET state = 'closed', closed_ms = $1 WHERE acquirer = $2 AND number = $3 AND state = 'closing'`,
			s.now().UnixMilli(), string(s.Acquirer), int64(out.Number))
		for _, b := range out.Balances {
			if err == nil {
				_, err = tx.ExecContext(ctx, `INSERT INTO reconciled (acquirer, number, currency, debits) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
					string(s.Acquirer), int64(out.Number), int64(b.Currency), b.Debits)
			}
		}
		if err != nil {
			return fmt.Errorf("close settlement %d: %w", out.Number, err)
		}
		return nil
	})
}

// SettlementSummary is a settlement as it is shown, in one currency. Amounts are decimal numbers in units of it.
type SettlementSummary struct {
	Number   finnet.Settlement `json:"number"`
	State    string            `json:"state"` // open, closing or closed
	Currency string            `json:"currency"`
	Entries  int               `json:"entries"`
	Waiting  int               `json:"waiting"`          // of the entries, without an answer of the issuer
	Refused  int               `json:"refused"`          // by the issuer, and not paid
	Payouts  string            `json:"payouts"`          // to merchants, of what the issuer has acknowledged
	Debits   string            `json:"debits,omitempty"` // of cardholders, as the issuer says when the settlement is closed
	Cut      *time.Time        `json:"cut,omitempty"`
	Closed   *time.Time        `json:"closed,omitempty"`
}

// Settlements lists the newest settlements of an acquirer that have entries, at most limit, the latest first.
func Settlements(ctx context.Context, db *sqldb.DB, acquirer set.BIN, limit int) ([]SettlementSummary, error) {
	out := []SettlementSummary{}
	err := db.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT s.number, s.state, s.cut_ms, s.closed_ms, currency, COUNT(*),
			SUM(CASE WHEN entry.state = 'pending' THEN 1 ELSE 0 END), SUM(CASE WHEN entry.state = 'refused' THEN 1 ELSE 0 END),
			SUM(CASE WHEN entry.state <> 'acknowledged' THEN 0 WHEN kind IN ('capture', 'credit undone') THEN entry.amount ELSE -entry.amount END),
			COALESCE((SELECT debits FROM reconciled r WHERE r.acquirer = s.acquirer AND r.number = s.number AND r.currency = auth.currency), 0)
			FROM settlement s JOIN entry ON entry.acquirer = s.acquirer AND entry.settlement = s.number JOIN auth ON auth.rrn = entry.rrn
			WHERE s.acquirer = $1 GROUP BY s.acquirer, s.number, s.state, s.cut_ms, s.closed_ms, currency ORDER BY s.number DESC, currency LIMIT $2`,
			string(acquirer), limit)
		if err != nil {
			return fmt.Errorf("list settlements: %w", err)
		}
		defer rows.Close()
		for rows.Next() {
			line, err := scanSummary(rows)
			if err != nil {
				return err
			}
			out = append(out, line)
		}
		return rows.Err()
	})
	return out, err
}

func scanSummary(rows *sql.Rows) (line SettlementSummary, err error) {
	var cut, closed, currency, payouts, debits int64
	err = rows.Scan(&line.Number, &line.State, &cut, &closed, &currency, &line.Entries, &line.Waiting, &line.Refused, &payouts, &debits)
	if err != nil {
		return line, fmt.Errorf("list settlements: %w", err)
	}
	c := set.Currency(currency)
	line.Currency, line.Payouts = c.String(), Decimal(payouts, c)
	if cut != 0 {
		at := time.UnixMilli(cut).UTC()
		line.Cut = &at
	}
	if closed != 0 {
		at := time.UnixMilli(closed).UTC()
		line.Closed, line.Debits = &at, Decimal(debits, c)
	}
	return line, nil
}

// Decimal writes minor units as a decimal number in units of the currency.
func Decimal(n int64, c set.Currency) string {
	sign := ""
	if n < 0 {
		sign, n = "-", -n
	}
	digits, _, _ := strings.Cut(finnet.FromMinorUnits(n, c).String(), " ")
	return sign + digits
}
