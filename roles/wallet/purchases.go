package wallet

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
)

// Outcome is what became of a purchase.
type Outcome string

// The outcomes. An approved purchase stays approved.
const (
	Unknown  Outcome = "unknown"  // sent, or about to be; the payment may or may not happen
	Approved Outcome = "approved" // authorized
	Declined Outcome = "declined" // not authorized
	Rejected Outcome = "rejected" // refused by the merchant, or never received
	Unsent   Outcome = "unsent"   // signed, perhaps, by a card that was lost then; nothing was paid
)

// Purchase is a purchase as the wallet remembers it.
type Purchase struct {
	XID            set.XID
	Outcome        Outcome
	CompletionCode string    // of the merchant's last answer; empty before
	AuthCode       string    // of the last answer that had one
	Sent           time.Time // when the payment was signed
	Answered       time.Time // when the last answer came; zero before
	Resumed        bool      // returned by Pay for an order that was paid before

	Offer // what was approved
}

// ErrUnknownPurchase tells that the wallet has no purchase with an XID.
var ErrUnknownPurchase = errors.New("the wallet has no purchase with this XID")

// ErrOrderOpen tells that another process pays the same order.
var ErrOrderOpen = errors.New("this order is being paid already: nothing was sent now; see the history")

// record is a purchase as it is stored.
type record struct {
	cardID     string
	orderKey   []byte
	setURL     string
	orderType  string
	p          *set.Purchase
	sent       time.Time
	outcome    Outcome
	completion string
	authCode   string
	answered   time.Time
	begun      []passed // messages so far, of one that is not stored yet
}

// answer is what a PRes or InqRes says.
type answer struct {
	outcome              Outcome
	completion, authCode string
}

// answerOf sums a PRes up. One payload approved is a purchase approved: later ones belong to later
// parts of it.
func answerOf(data *set.PResData) (answer, error) {
	var best answer
	rank := map[Outcome]int{Rejected: 1, Declined: 2, Unknown: 3, Approved: 4}
	for _, payload := range data.PResPayloadSeq {
		a := answer{outcome: Unknown, completion: payload.CompletionCode.String()}
		switch payload.CompletionCode {
		case set.OrderRejected:
			a.outcome = Rejected
		case set.OrderReceived, set.OrderNotReceived:
		default:
			if payload.Results == nil || payload.Results.AuthStatus == nil {
				return answer{}, fmt.Errorf("the merchant says %v without a result of the authorization", payload.CompletionCode)
			}
			code := payload.Results.AuthStatus.AuthCode
			a.authCode, a.outcome = code.String(), Declined
			if code == set.AuthApproved {
				a.outcome = Approved
			}
		}
		if rank[a.outcome] > rank[best.outcome] {
			best = a
		}
	}
	return best, nil
}

const purchaseColumns = `card, order_key, set_url, order_type, purchase, sent_s, outcome, completion, auth_code, answered_s`

// savePurchase stores a payment that is about to be sent, or one that is not.
func (w *Wallet) savePurchase(ctx context.Context, r *record) error {
	text, err := json.Marshal(r.p)
	if err != nil {
		return err
	}
	err = w.db.Tx(ctx, func(tx *sql.Tx) error {
		if len(r.orderKey) > 0 && r.outcome == Unknown {
			var open int
			err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM purchase WHERE order_key = $1 AND outcome IN ($2, $3)`,
				r.orderKey, string(Unknown), string(Approved)).Scan(&open)
			if err != nil {
				return err
			}
			if open > 0 {
				return ErrOrderOpen
			}
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO purchase (xid, `+purchaseColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, '', '', 0)`,
			r.p.TransIDs.XID.String(), r.cardID, r.orderKey, r.setURL, r.orderType, string(text), r.sent.Unix(), string(r.outcome))
		if err != nil {
			return err
		}
		return keep(ctx, tx, r.p.TransIDs.XID.String(), r.begun...)
	})
	if err != nil {
		return fmt.Errorf("store the payment, which was not sent: %w", err)
	}
	return nil
}

// saveAnswer stores a verified answer with its messages and brings r up to date. What was decided before is not undone by
// an answer that decides nothing, and an approval by none.
func (w *Wallet) saveAnswer(ctx context.Context, r *record, a answer, messages ...passed) error {
	now := w.cfg.Now()
	xid := r.p.TransIDs.XID.String()
	var next record
	err := w.db.Tx(ctx, func(tx *sql.Tx) error {
		var current Outcome
		if err := tx.QueryRowContext(ctx, `SELECT outcome FROM purchase WHERE xid = $1`, xid).Scan(&current); err != nil {
			return err
		}
		if err := keep(ctx, tx, xid, messages...); err != nil {
			return err
		}
		next = *r
		next.outcome = current
		if current == Approved && a.outcome != Approved || current != Unknown && a.outcome == Unknown {
			return nil
		}
		next.outcome, next.completion, next.answered = a.outcome, a.completion, now
		if a.authCode != "" {
			next.authCode = a.authCode
		}
		_, err := tx.ExecContext(ctx, `UPDATE purchase SET outcome = $2, completion = $3, auth_code = $4, answered_s = $5 WHERE xid = $1`,
			xid, string(next.outcome), next.completion, next.authCode, now.Unix())
		return err
	})
	if err != nil {
		return fmt.Errorf("store the merchant's answer: %w", err)
	}
	*r = next
	return nil
}

func scanRecord(row interface{ Scan(...any) error }) (*record, error) {
	var r record
	var text string
	var sent, answered int64
	err := row.Scan(&r.cardID, &r.orderKey, &r.setURL, &r.orderType, &text, &sent, &r.outcome, &r.completion, &r.authCode, &answered)
	if err != nil {
		return nil, err
	}
	r.sent = time.Unix(sent, 0)
	if answered != 0 {
		r.answered = time.Unix(answered, 0)
	}
	r.p = new(set.Purchase)
	return &r, json.Unmarshal([]byte(text), r.p)
}

// record finds a stored purchase.
func (w *Wallet) record(ctx context.Context, xid set.XID) (*record, error) {
	var r *record
	err := w.db.View(ctx, func(tx *sql.Tx) (err error) {
		r, err = scanRecord(tx.QueryRowContext(ctx, `SELECT `+purchaseColumns+` FROM purchase WHERE xid = $1`, xid.String()))
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("%w: %v", ErrUnknownPurchase, xid)
	}
	if err != nil {
		return nil, fmt.Errorf("read purchase %v: %w", xid, err)
	}
	return r, nil
}

// openOrder finds the purchase of an order that was paid or may have been, or nil.
func (w *Wallet) openOrder(ctx context.Context, key []byte) (*record, error) {
	if len(key) == 0 {
		return nil, nil
	}
	var r *record
	err := w.db.View(ctx, func(tx *sql.Tx) (err error) {
		r, err = scanRecord(tx.QueryRowContext(ctx, `SELECT `+purchaseColumns+` FROM purchase WHERE order_key = $1 AND outcome IN ($2, $3)`,
			key, string(Unknown), string(Approved)))
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for earlier payments of this order: %w", err)
	}
	return r, nil
}

// view is a record for people.
func (w *Wallet) view(ctx context.Context, r *record) (*Purchase, error) {
	c, err := w.card(context.WithoutCancel(ctx), r.cardID)
	if err != nil {
		return nil, err
	}
	p := &Purchase{
		XID: r.p.TransIDs.XID, Outcome: r.outcome, CompletionCode: r.completion, AuthCode: r.authCode, Sent: r.sent, Answered: r.answered,
		Offer: Offer{Order: Printable(r.p.OD), OrderType: printableLine(r.orderType), Amount: r.p.PurchAmt, Terms: r.p.InstallRecurData, Card: c},
	}
	var errs [2]error
	p.MerchantCert, errs[0] = pki.ParseCertificate(r.p.MerchantCert)
	p.GatewayCert, errs[1] = pki.ParseCertificate(r.p.GatewayCert)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("purchase %v: %w", p.XID, err)
	}
	p.Merchant, p.Place = merchantNames(p.MerchantCert.Merchant, string(w.cfg.Language))
	return p, nil
}

// Purchase finds a purchase.
func (w *Wallet) Purchase(ctx context.Context, xid set.XID) (*Purchase, error) {
	r, err := w.record(ctx, xid)
	if err != nil {
		return nil, err
	}
	return w.view(ctx, r)
}

// Purchases lists the purchases, the newest first, at most limit.
func (w *Wallet) Purchases(ctx context.Context, limit int) ([]*Purchase, error) {
	var records []*record
	err := w.db.View(ctx, func(tx *sql.Tx) error {
		records = nil
		rows, err := tx.QueryContext(ctx, `SELECT `+purchaseColumns+` FROM purchase ORDER BY sent_s DESC, xid LIMIT $1`, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			r, err := scanRecord(rows)
			if err != nil {
				return err
			}
			records = append(records, r)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read the purchases: %w", err)
	}
	var out []*Purchase
	for _, r := range records {
		p, err := w.view(ctx, r)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}
