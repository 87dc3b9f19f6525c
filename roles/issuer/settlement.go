package issuer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
)

// Reconcile closes a settlement of one currency if the acquirer has the same totals.
func (i *Issuer) Reconcile(ctx context.Context, r *finnet.Reconciliation) (b finnet.Balance, err error) {
	err = i.db.Tx(ctx, func(tx *sql.Tx) error {
		if b.Totals, err = totals(ctx, tx, r.Acquirer, r.Settlement, r.Currency); err != nil {
			return err
		}
		b.Code = finnet.OutOfBalance
		if b.Totals != r.Totals {
			return nil
		}
		b.Code = finnet.Approved
		_, err := tx.ExecContext(ctx,
			`INSERT INTO settlement (acquirer, number, currency, closed_s) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
			string(r.Acquirer), int64(r.Settlement), int64(r.Currency), i.now().Unix())
		if err != nil {
			return fmt.Errorf("close settlement %d: %w", r.Settlement, err)
		}
		return nil
	})
	if err != nil {
		return finnet.Balance{}, err
	}
	return b, nil
}

func isClosed(ctx context.Context, tx *sql.Tx, acquirer set.BIN, n finnet.Settlement, currency set.Currency) (bool, error) {
	var at int64
	err := tx.QueryRowContext(ctx, `SELECT closed_s FROM settlement WHERE acquirer = $1 AND number = $2 AND currency = $3`,
		string(acquirer), int64(n), int64(currency)).Scan(&at)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look up settlement %d: %w", n, err)
	}
	return true, nil
}

// totals sums what was booked in a settlement.
func totals(ctx context.Context, tx *sql.Tx, acquirer set.BIN, n finnet.Settlement, currency set.Currency) (t finnet.Totals, err error) {
	rows, err := tx.QueryContext(ctx,
		`SELECT kind, COUNT(*), SUM(moved) FROM advice WHERE acquirer = $1 AND settlement = $2 AND currency = $3 AND moved > 0 GROUP BY kind`,
		string(acquirer), int64(n), int64(currency))
	if err != nil {
		return t, fmt.Errorf("sum up settlement %d: %w", n, err)
	}
	defer rows.Close()
	for rows.Next() {
		var kind string
		var s finnet.Sum
		if err := rows.Scan(&kind, &s.Count, &s.Amount); err != nil {
			return t, fmt.Errorf("sum up settlement %d: %w", n, err)
		}
		switch kind {
		case adviceClearing:
			t.Sales = s
		case adviceUnclearing:
			t.SalesTaken = s
		case adviceRefund:
			t.Refunds = s
		case adviceUnrefund:
			t.RefundsTaken = s
		}
	}
	return t, rows.Err()
}

// A SettlementSummary is a settlement as it is shown.
type SettlementSummary struct {
	Acquirer set.BIN
	Number   finnet.Settlement
	Currency set.Currency
	Totals   finnet.Totals
	Closed   time.Time // zero: not yet
}

// A Balance compares what is booked on the accounts with the settlements, in one currency and in minor units.
type Balance struct {
	Currency set.Currency
	Booked   int64 // on all accounts
	Settled  int64 // net of the closed settlements
	Open     int64 // net of the others
}

// Balanced tells whether every amount that is booked is in a settlement, and the other way round.
func (b Balance) Balanced() bool { return b.Booked == b.Settled+b.Open }

// A Book is all that there is between accounts and acquirers.
type Book struct {
	Settlements []SettlementSummary // by acquirer, the newest first
	Balances    []Balance           // one for each currency in which something is booked or settled
}

// Book gives the settlements and the balances as they were at one moment.
func (i *Issuer) Book(ctx context.Context) (b Book, err error) {
	err = i.db.View(ctx, func(tx *sql.Tx) error {
		if b.Settlements, err = settlements(ctx, tx); err != nil {
			return err
		}
		for n := range b.Settlements {
			s := &b.Settlements[n]
			if s.Totals, err = totals(ctx, tx, s.Acquirer, s.Number, s.Currency); err != nil {
				return err
			}
		}
		b.Balances, err = balances(ctx, tx, b.Settlements)
		return err
	})
	return b, err
}

func balances(ctx context.Context, tx *sql.Tx, settled []SettlementSummary) (list []Balance, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT currency, SUM(booked) FROM account GROUP BY currency ORDER BY currency`)
	if err != nil {
		return nil, fmt.Errorf("sum up the accounts: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var b Balance
		if err := rows.Scan(&b.Currency, &b.Booked); err != nil {
			return nil, fmt.Errorf("sum up the accounts: %w", err)
		}
		used := b.Booked != 0
		for _, s := range settled {
			switch {
			case s.Currency != b.Currency:
				continue
			case s.Closed.IsZero():
				b.Open += s.Totals.Net()
			default:
				b.Settled += s.Totals.Net()
			}
			used = true
		}
		if used {
			list = append(list, b)
		}
	}
	return list, rows.Err()
}

func settlements(ctx context.Context, tx *sql.Tx) (list []SettlementSummary, err error) {
	rows, err := tx.QueryContext(ctx,
		`SELECT k.acquirer, k.number, k.currency, COALESCE(s.closed_s, 0) FROM
		   (SELECT acquirer, settlement AS number, currency FROM advice UNION SELECT acquirer, number, currency FROM settlement) k
		   LEFT JOIN settlement s ON s.acquirer = k.acquirer AND s.number = k.number AND s.currency = k.currency
		 ORDER BY k.acquirer, k.number DESC, k.currency`)
	if err != nil {
		return nil, fmt.Errorf("list settlements: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var s SettlementSummary
		var closed int64
		if err := rows.Scan(&s.Acquirer, &s.Number, &s.Currency, &closed); err != nil {
			return nil, fmt.Errorf("list settlements: %w", err)
		}
		if closed != 0 {
			s.Closed = time.Unix(closed, 0)
		}
		list = append(list, s)
	}
	return list, rows.Err()
}
