package issuer

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
)

// States of a purchase.
const (
	declined = "declined"
	held     = "held"
	lapsed   = "lapsed"
	reversed = "reversed"
	cleared  = "cleared"
)

const (
	approvalChars   = 6
	lapseBatchMax   = 100
	monthLayout     = "200601"
	reversedUnknown = "" // merchant of a purchase that was reversed before it was asked for
)

// purchase is a row of its table.
type purchase struct {
	trace    finnet.Trace
	account  sql.NullString
	state    string
	amount   int64
	currency set.Currency
	merchant set.MerchantID
	xid      []byte
	code     finnet.ResponseCode
	approval string

	authorized int64 // of amount, what may be cleared
	hold       int64 // what is held now
	cleared    int64
	refunded   int64 // of cleared
}

// findPurchase gives nil if there is none.
func findPurchase(ctx context.Context, tx *sql.Tx, t finnet.Trace) (*purchase, error) {
	p := &purchase{trace: t}
	err := tx.QueryRowContext(ctx,
		`SELECT account_id, state, amount, currency, merchant, xid, code, approval, authorized, hold, cleared, refunded FROM purchase
		 WHERE acquirer = $1 AND stan = $2 AND rrn = $3 AND transmission = $4`,
		string(t.Acquirer), t.STAN, t.RRN, t.Transmission).
		Scan(&p.account, &p.state, &p.amount, &p.currency, &p.merchant, &p.xid, &p.code, &p.approval,
			&p.authorized, &p.hold, &p.cleared, &p.refunded)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up purchase %s: %w", t.RRN, err)
	}
	return p, nil
}

func (p *purchase) insert(ctx context.Context, tx *sql.Tx, at, lapses time.Time) error {
	_, err := tx.ExecContext(ctx,
		`INSERT INTO purchase (acquirer, stan, rrn, transmission, account_id, state, amount, currency, merchant, xid,
		 code, approval, authorized, hold, cleared, at_s, lapses_s)
		 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)`,
		string(p.trace.Acquirer), p.trace.STAN, p.trace.RRN, p.trace.Transmission, p.account, p.state, p.amount,
		int64(p.currency), string(p.merchant), p.xid, string(p.code), p.approval, p.authorized, p.hold, p.cleared, at.Unix(), lapses.Unix())
	if err != nil {
		return fmt.Errorf("store purchase %s: %w", p.trace.RRN, err)
	}
	return nil
}

// update keeps what has become of p.
func (p *purchase) update(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx,
		`UPDATE purchase SET state = $1, authorized = $2, hold = $3, cleared = $4, refunded = $5
		 WHERE acquirer = $6 AND stan = $7 AND rrn = $8 AND transmission = $9`,
		p.state, p.authorized, p.hold, p.cleared, p.refunded,
		string(p.trace.Acquirer), p.trace.STAN, p.trace.RRN, p.trace.Transmission)
	if err != nil {
		return fmt.Errorf("make purchase %s %s: %w", p.trace.RRN, p.state, err)
	}
	return nil
}

// Authorize decides on an authorization, and holds its amount if it approves. See the package's rules.
func (i *Issuer) Authorize(ctx context.Context, a *finnet.Authorization) (answer finnet.Answer, err error) {
	amount, err := finnet.MinorUnits(a.Amount)
	if err != nil {
		return finnet.Answer{Code: finnet.InvalidAmount}, nil
	}
	card, err := i.cardMACs(a.PAN, a.Expiry)
	if err != nil {
		return finnet.Answer{}, err
	}
	approval := rand.Text()[:approvalChars]
	err = i.db.Tx(ctx, func(tx *sql.Tx) error {
		acct, err := findAccount(ctx, tx, card.pan)
		if err != nil {
			return err
		}
		p := &purchase{
			trace: a.Trace, account: acct.nullID(), amount: amount, currency: a.Amount.Currency,
			merchant: a.Merchant.ID, xid: a.XID[:],
		}
		before, err := findPurchase(ctx, tx, a.Trace)
		if err != nil {
			return err
		}
		if before != nil {
			answer = before.repeated(p)
			return nil
		}
		now := i.now()
		p.code, p.state = acct.decide(card, a, amount, now), declined
		if p.code == finnet.Approved {
			p.state, p.approval, p.authorized, p.hold = held, approval, amount, amount
			if err := move(ctx, tx, acct.id, entryHold, a.Trace, now, movement{available: -amount, held: amount}); err != nil {
				return err
			}
		}
		answer = finnet.Answer{Code: p.code, ApprovalCode: p.approval}
		return p.insert(ctx, tx, now, now.Add(i.hold))
	})
	if err != nil {
		return finnet.Answer{}, err
	}
	return answer, nil
}

// repeated answers an authorization whose name is taken by p.
func (p *purchase) repeated(again *purchase) finnet.Answer {
	switch {
	case p.state == reversed || p.state == lapsed:
		return finnet.Answer{Code: finnet.InvalidTransaction}
	case p.account != again.account || p.amount != again.amount || p.currency != again.currency ||
		p.merchant != again.merchant || !bytes.Equal(p.xid, again.xid):
		return finnet.Answer{Code: finnet.Duplicate}
	}
	return finnet.Answer{Code: p.code, ApprovalCode: p.approval}
}

// decide applies the rules of an authorization to an account, which is nil when there is none. Its state
// shows only to who knows the expiry.
func (acct *account) decide(card macs, a *finnet.Authorization, amount int64, now time.Time) finnet.ResponseCode {
	switch {
	case acct == nil:
		return finnet.InvalidCard
	case subtle.ConstantTimeCompare(acct.card, card.card) != 1:
		return finnet.DoNotHonour
	case acct.status == Stolen:
		return finnet.StolenCard
	case acct.status == Blocked:
		return finnet.RestrictedCard
	case acct.status != Active:
		return finnet.InvalidCard
	case expired(a.Expiry, now):
		return finnet.ExpiredCard
	case acct.currency != a.Amount.Currency:
		return finnet.InvalidTransaction
	case amount <= 0:
		return finnet.InvalidAmount
	case acct.available < amount:
		return finnet.InsufficientFunds
	}
	return finnet.Approved
}

// expired tells whether the last day of the card's month has passed, everywhere.
func expired(e set.CardExpiry, now time.Time) bool {
	return string(e) < now.UTC().Add(-12*time.Hour).Format(monthLayout)
}

// Reverse takes an authorization back, or makes it smaller.
func (i *Issuer) Reverse(ctx context.Context, r *finnet.Reversal) (code finnet.ResponseCode, err error) {
	amount, err := finnet.MinorUnits(r.Amount)
	if err != nil {
		return finnet.InvalidAmount, nil
	}
	remains, err := remaining(r)
	if err != nil {
		return finnet.InvalidAmount, nil
	}
	err = i.db.Tx(ctx, func(tx *sql.Tx) error {
		p, err := findPurchase(ctx, tx, r.Original)
		if err != nil {
			return err
		}
		now := i.now()
		code = finnet.Approved
		switch {
		case p == nil && remains > 0:
			code = finnet.UnknownOriginal
		case p == nil:
			p := &purchase{
				trace: r.Original, state: reversed, amount: amount, currency: r.Amount.Currency,
				merchant: reversedUnknown, xid: []byte{}, code: finnet.InvalidTransaction,
			}
			return p.insert(ctx, tx, now, now)
		case p.amount != amount || p.currency != r.Amount.Currency:
			code = finnet.InvalidAmount
		case p.authorized <= remains: // it is as small already, or nothing
		case p.state == cleared:
			code = finnet.InvalidTransaction
		default:
			return p.shrink(ctx, tx, remains, now)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return code, nil
}

// remaining is what a reversal leaves, in minor units.
func remaining(r *finnet.Reversal) (int64, error) {
	if r.Remains.Amount == 0 {
		return 0, nil
	}
	if r.Remains.Currency != r.Amount.Currency {
		return 0, errors.New("the rest is of another currency")
	}
	return finnet.MinorUnits(r.Remains)
}

// shrink leaves no more than remains of an authorization, and releases what is held for the rest.
func (p *purchase) shrink(ctx context.Context, tx *sql.Tx, remains int64, now time.Time) error {
	if release := p.hold - min(p.hold, remains); release > 0 {
		if err := move(ctx, tx, p.account.String, entryRelease, p.trace, now, movement{available: release, held: -release}); err != nil {
			return err
		}
		p.hold -= release
	}
	p.authorized = remains
	if remains == 0 {
		p.state = reversed
	}
	return p.update(ctx, tx)
}

// ReleaseLapsed releases the holds that have lasted their days, and says how many. Serve does so every
// minute.
func (i *Issuer) ReleaseLapsed(ctx context.Context) (released int, err error) {
	for {
		n := 0
		err := i.db.Tx(ctx, func(tx *sql.Tx) error {
			now := i.now()
			due, err := lapsedPurchases(ctx, tx, now)
			if err != nil {
				return err
			}
			for _, p := range due {
				err := move(ctx, tx, p.account.String, entryLapse, p.trace, now, movement{available: p.hold, held: -p.hold})
				if err != nil {
					return err
				}
				p.state, p.hold = lapsed, 0
				if err := p.update(ctx, tx); err != nil {
					return err
				}
			}
			n = len(due)
			return nil
		})
		if err != nil {
			return released, err
		}
		released += n
		if n < lapseBatchMax {
			return released, nil
		}
	}
}

func lapsedPurchases(ctx context.Context, tx *sql.Tx, now time.Time) ([]*purchase, error) {
	rows, err := tx.QueryContext(ctx,
		`SELECT acquirer, stan, rrn, transmission, account_id, authorized, hold FROM purchase
		 WHERE state = $1 AND lapses_s <= $2 ORDER BY lapses_s LIMIT $3`, held, now.Unix(), lapseBatchMax)
	if err != nil {
		return nil, fmt.Errorf("read lapsed holds: %w", err)
	}
	defer rows.Close()
	var due []*purchase
	for rows.Next() {
		p := &purchase{}
		err := rows.Scan(&p.trace.Acquirer, &p.trace.STAN, &p.trace.RRN, &p.trace.Transmission, &p.account, &p.authorized, &p.hold)
		if err != nil {
			return nil, fmt.Errorf("read a lapsed hold: %w", err)
		}
		due = append(due, p)
	}
	return due, rows.Err()
}
