package issuer

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
)

// Kinds of advices.
const (
	adviceClearing   = "clearing"
	adviceRefund     = "refund"
	adviceUnclearing = "clearing withdrawn"
	adviceUnrefund   = "refund withdrawn"
)

// advice is a row of its table: a clearing, a refund, or what takes one back.
type advice struct {
	trace      finnet.Trace
	kind       string
	of         finnet.Trace // the authorization; of what takes back: the clearing or refund
	amount     int64
	currency   set.Currency
	settlement finnet.Settlement
	code       finnet.ResponseCode
	moved      int64
}

// Clear books the capture of an authorization.
func (i *Issuer) Clear(ctx context.Context, c *finnet.Clearing) (finnet.ResponseCode, error) {
	return i.advise(ctx, newAdvice(adviceClearing, c.Trace, c.Original, c.Amount, c.Settlement),
		func(ctx context.Context, tx *sql.Tx, a *advice) (finnet.ResponseCode, error) {
			p, err := findPurchase(ctx, tx, a.of)
			if err != nil {
				return "", err
			}
			available, err := p.available(ctx, tx)
			if err != nil {
				return "", err
			}
			withdrawn, err := a.withdrawn(ctx, tx)
			if err != nil {
				return "", err
			}
			switch code := p.matches(c); {
			case code != finnet.Approved:
				return code, nil
			case withdrawn:
				return finnet.InvalidTransaction, nil
			case p.state == cleared:
				return finnet.Duplicate, nil
			case a.amount > p.authorized:
				return finnet.InvalidAmount, nil
			case a.amount > p.hold+available:
				return finnet.InsufficientFunds, nil
			}
			m := movement{available: p.hold - a.amount, held: -p.hold, booked: a.amount}
			p.state, p.hold, p.cleared = cleared, 0, a.amount
			return finnet.Approved, i.book(ctx, tx, p, entryClearing, a, m)
		})
}

// Refund pays back what was cleared.
func (i *Issuer) Refund(ctx context.Context, r *finnet.Refund) (finnet.ResponseCode, error) {
	return i.advise(ctx, newAdvice(adviceRefund, r.Trace, r.Original, r.Amount, r.Settlement),
		func(ctx context.Context, tx *sql.Tx, a *advice) (finnet.ResponseCode, error) {
			p, err := findPurchase(ctx, tx, a.of)
			if err != nil {
				return "", err
			}
			withdrawn, err := a.withdrawn(ctx, tx)
			if err != nil {
				return "", err
			}
			switch code := p.matches((*finnet.Clearing)(r)); {
			case code != finnet.Approved:
				return code, nil
			case withdrawn, p.state != cleared:
				return finnet.InvalidTransaction, nil
			case a.amount > p.cleared-p.refunded:
				return finnet.InvalidAmount, nil
			}
			p.refunded += a.amount
			return finnet.Approved, i.book(ctx, tx, p, entryRefund, a, movement{available: a.amount, booked: -a.amount})
		})
}

// Withdraw takes a clearing or a refund back.
func (i *Issuer) Withdraw(ctx context.Context, w *finnet.Withdrawal) (finnet.ResponseCode, error) {
	kind, of := adviceUnclearing, adviceClearing
	if w.Refund {
		kind, of = adviceUnrefund, adviceRefund
	}
	return i.advise(ctx, newAdvice(kind, w.Trace, w.Original, w.Amount, w.Settlement),
		func(ctx context.Context, tx *sql.Tx, a *advice) (finnet.ResponseCode, error) {
			original, err := findAdvice(ctx, tx, a.of)
			if err != nil {
				return "", err
			}
			if original == nil { // should it still arrive, it is refused
				return finnet.Approved, nil
			}
			withdrawn, err := original.withdrawn(ctx, tx)
			switch {
			case err != nil:
				return "", err
			case original.kind != of || withdrawn || original.moved == 0:
				return finnet.InvalidTransaction, nil
			case original.amount != a.amount || original.currency != a.currency:
				return finnet.InvalidAmount, nil
			}
			p, err := findPurchase(ctx, tx, original.of)
			if err != nil {
				return "", err
			}
			if p == nil {
				return "", fmt.Errorf("the purchase of %s %s is gone", of, a.of.RRN)
			}
			if w.Refund {
				return i.unrefund(ctx, tx, p, a)
			}
			return i.unclear(ctx, tx, p, a)
		})
}

// unclear makes a cleared purchase an authorized one again. What was authorized is held again, as far as
// there is something to hold.
func (i *Issuer) unclear(ctx context.Context, tx *sql.Tx, p *purchase, a *advice) (finnet.ResponseCode, error) {
	if p.refunded != 0 {
		return finnet.InvalidTransaction, nil
	}
	available, err := p.available(ctx, tx)
	if err != nil {
		return "", err
	}
	hold := min(p.authorized, p.cleared+available)
	m := movement{available: p.cleared - hold, held: hold, booked: -p.cleared}
	p.state, p.hold, p.cleared = held, hold, 0
	return finnet.Approved, i.book(ctx, tx, p, entryUnclearing, a, m)
}

// unrefund takes back what was paid back.
func (i *Issuer) unrefund(ctx context.Context, tx *sql.Tx, p *purchase, a *advice) (finnet.ResponseCode, error) {
	available, err := p.available(ctx, tx)
	if err != nil {
		return "", err
	}
	if available < a.amount {
		return finnet.InsufficientFunds, nil
	}
	p.refunded -= a.amount
	return finnet.Approved, i.book(ctx, tx, p, entryUnrefund, a, movement{available: -a.amount, booked: a.amount})
}

// newAdvice is an advice that is still to be decided; nil if the network does not carry its amount.
func newAdvice(kind string, t, of finnet.Trace, amount set.CurrencyAmount, n finnet.Settlement) *advice {
	minor, err := finnet.MinorUnits(amount)
	if err != nil || minor == 0 {
		return nil
	}
	return &advice{trace: t, kind: kind, of: of, amount: minor, currency: amount.Currency, settlement: n}
}

// decision gives the answer to an advice and, if that is an approval, books it.
type decision func(ctx context.Context, tx *sql.Tx, a *advice) (finnet.ResponseCode, error)

// advise decides about an advice once, and keeps the answer.
func (i *Issuer) advise(ctx context.Context, a *advice, decide decision) (code finnet.ResponseCode, err error) {
	if a == nil {
		return finnet.InvalidAmount, nil
	}
	err = i.db.Tx(ctx, func(tx *sql.Tx) error {
		known, err := findAdvice(ctx, tx, a.trace)
		if err != nil {
			return err
		}
		if known != nil {
			code = known.repeated(a)
			return nil
		}
		closed, err := isClosed(ctx, tx, a.trace.Acquirer, a.settlement, a.currency)
		if err != nil {
			return err
		}
		if closed {
			code = finnet.InvalidTransaction
			return nil
		}
		a.moved = 0
		if code, err = decide(ctx, tx, a); err != nil {
			return err
		}
		a.code = code
		return a.insert(ctx, tx, i.now())
	})
	if err != nil {
		return "", err
	}
	return code, nil
}

// book moves the money of an advice and keeps what has become of its purchase.
func (i *Issuer) book(ctx context.Context, tx *sql.Tx, p *purchase, entry string, a *advice, m movement) error {
	if err := move(ctx, tx, p.account.String, entry, a.trace, i.now(), m); err != nil {
		return err
	}
	a.moved = a.amount
	return p.update(ctx, tx)
}

// matches says whether p, which is nil when there is no such purchase, is what c is about and may have been
// cleared.
func (p *purchase) matches(c *finnet.Clearing) finnet.ResponseCode {
	switch {
	case p == nil:
		return finnet.UnknownOriginal
	case p.state == declined || p.state == reversed:
		return finnet.InvalidTransaction
	case p.approval != c.ApprovalCode || p.merchant != c.Merchant.ID || !bytes.Equal(p.xid, c.XID[:]) || p.currency != c.Amount.Currency:
		return finnet.InvalidTransaction
	}
	return finnet.Approved
}

// available is what the account of a purchase has left; 0 if there is none.
func (p *purchase) available(ctx context.Context, tx *sql.Tx) (available int64, err error) {
	if p == nil || !p.account.Valid {
		return 0, nil
	}
	err = tx.QueryRowContext(ctx, `SELECT available FROM account WHERE id = $1`, p.account.String).Scan(&available)
	if err != nil {
		return 0, fmt.Errorf("read account %s: %w", p.account.String, err)
	}
	return available, nil
}

// repeated answers an advice whose name is taken by a.
func (a *advice) repeated(again *advice) finnet.ResponseCode {
	if a.kind != again.kind || a.of != again.of || a.amount != again.amount || a.currency != again.currency || a.settlement != again.settlement {
		return finnet.Duplicate
	}
	return a.code
}

// findAdvice gives nil if there is none.
func findAdvice(ctx context.Context, tx *sql.Tx, t finnet.Trace) (*advice, error) {
	a := &advice{trace: t, of: finnet.Trace{Acquirer: t.Acquirer, RRN: t.RRN}}
	err := tx.QueryRowContext(ctx,
		`SELECT kind, of_stan, of_transmission, amount, currency, settlement, code, moved FROM advice
		 WHERE acquirer = $1 AND stan = $2 AND rrn = $3 AND transmission = $4`,
		string(t.Acquirer), t.STAN, t.RRN, t.Transmission).
		Scan(&a.kind, &a.of.STAN, &a.of.Transmission, &a.amount, &a.currency, &a.settlement, &a.code, &a.moved)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up advice %s: %w", t.RRN, err)
	}
	return a, nil
}

// withdrawn tells whether a was taken back, perhaps before it came.
func (a *advice) withdrawn(ctx context.Context, tx *sql.Tx) (bool, error) {
	kind := adviceUnclearing
	if a.kind == adviceRefund {
		kind = adviceUnrefund
	}
	var n int
	err := tx.QueryRowContext(ctx,
		`SELECT COUNT(*) FROM advice WHERE acquirer = $1 AND rrn = $2 AND kind = $3 AND of_stan = $4 AND of_transmission = $5 AND code = $6`,
		string(a.trace.Acquirer), a.trace.RRN, kind, a.trace.STAN, a.trace.Transmission, string(finnet.Approved)).Scan(&n)
	if err != nil {
		return false, fmt.Errorf("look up what takes %s %s back: %w", a.kind, a.trace.RRN, err)
	}
	return n > 0, nil
}

func (a *advice) insert(ctx context.Context, tx *sql.Tx, at time.Time) error {
	_, err := tx.ExecContext(ctx,
		`INSERT INTO advice (acquirer, stan, rrn, transmission, kind, of_stan, of_transmission, amount, currency, settlement, code, moved, at_s)
		 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
		string(a.trace.Acquirer), a.trace.STAN, a.trace.RRN, a.trace.Transmission, a.kind, a.of.STAN, a.of.Transmission,
		a.amount, int64(a.currency), int64(a.settlement), string(a.code), a.moved, at.Unix())
	if err != nil {
		return fmt.Errorf("store %s %s: %w", a.kind, a.trace.RRN, err)
	}
	return nil
}
