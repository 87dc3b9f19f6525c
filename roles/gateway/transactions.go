package gateway

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sqldb"
)

const expiryDigits = 6 // YYYYMM

// seal makes an account fit to be kept: expiry and card number, bound to their authorization.
func seal(s Sealer, p *set.PANData, rrpid set.RRPID) ([]byte, error) {
	account := make([]byte, 0, expiryDigits+len(p.PAN))
	account = append(append(account, p.CardExpiry...), p.PAN...)
	defer clear(account)
	sealed, err := s.Seal(account, rrpid[:])
	if err != nil {
		return nil, fmt.Errorf("seal an account: %w", err)
	}
	return sealed, nil
}

// Transaction is what an operator may see of an authorization.
type Transaction struct {
	XID        set.XID        `json:"xid"`
	Merchant   set.MerchantID `json:"merchant"`
	RRN        string         `json:"rrn"` // reference at the issuer
	Time       time.Time      `json:"time"`
	Card       string         `json:"card"`       // masked; empty when the issuer was not asked
	Cardholder set.Cardholder `json:"cardholder"` // empty for what was authorized before this was kept
	State      string         `json:"state"`
	Issuer     string         `json:"issuer"`     // of what it was told since: pending, acknowledged or refused; empty when that is nothing
	Code       string         `json:"code"`       // AuthCode
	Approval   string         `json:"approval"`   // the issuer's approval code
	Amount     string         `json:"amount"`     // asked of the issuer
	Authorized string         `json:"authorized"` // what of it stands; empty when nothing does, as the next two
	Captured   string         `json:"captured"`
	Credited   string         `json:"credited"`
}

// Transactions lists the newest authorizations, at most limit, the latest first. The card numbers are
// opened with s, to be masked.
func Transactions(ctx context.Context, db *sqldb.DB, s Sealer, limit int) ([]Transaction, error) {
	var records []*record
	entries := make(map[string][]*entry)
	err := db.View(ctx, func(tx *sql.Tx) (err error) {
		if records, err = newest(ctx, tx, limit); err != nil {
			return err
		}
		for _, r := range records {
			if entries[r.trace.RRN], err = entriesOf(ctx, tx, r.trace.RRN); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := make([]Transaction, 0, len(records))
	for _, r := range records {
		t := r.transaction(entries[r.trace.RRN])
		if len(r.account) > 0 {
			if t.Card, err = masked(s, r); err != nil {
				return nil, fmt.Errorf("account of authorization %s: %w", r.trace.RRN, err)
			}
		}
		out = append(out, t)
	}
	return out, nil
}

func (r *record) transaction(entries []*entry) Transaction {
	t := Transaction{
		XID: r.xid, Merchant: r.merchant, RRN: r.trace.RRN, Time: r.created.UTC(), Cardholder: r.cardholder, State: string(r.state), Issuer: answeredSoFar(entries),
		Code: r.code.String(), Approval: r.approval, Amount: r.money(r.amount).String(),
		Captured: r.some(r.captured), Credited: r.some(r.credited),
	}
	if r.state != pending {
		t.Authorized = r.some(r.authorized)
	}
	return t
}

// some is an amount in words, empty for none.
func (r *record) some(n int64) string {
	if n == 0 {
		return ""
	}
	return r.money(n).String()
}

// answeredSoFar sums up what the issuer has answered: that something waits comes before that something is refused.
func answeredSoFar(entries []*entry) string {
	if firstPending(entries) != nil {
		return string(entryPending)
	}
	if slices.ContainsFunc(entries, func(e *entry) bool { return e.state == entryRefused }) {
		return string(entryRefused)
	}
	if len(entries) > 0 {
		return string(entryAcknowledged)
	}
	return ""
}

func masked(s Sealer, r *record) (string, error) {
	account, err := s.Open(r.account, r.rrpid[:])
	if err != nil {
		return "", err
	}
	defer clear(account)
	if len(account) <= expiryDigits {
		return "", errors.New("is too short")
	}
	return set.PAN(account[expiryDigits:]).Masked(), nil
}
