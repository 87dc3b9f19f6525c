package merchant

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/setkit/setkit/roles/set"
)

// Order is an order as shop and operator see it.
type Order struct {
	ID      string     `json:"id"` // unguessable
	Number  int64      `json:"number"`
	Created time.Time  `json:"created"`
	State   OrderState `json:"state"`
	Lines   []Line     `json:"lines"`
	Terms   Terms      `json:"terms,omitempty"`
	Total   string     `json:"total"` // for people, such as "10.50 EUR"
	Amount  Money      `json:"amount"`
	Payment *Payment   `json:"payment,omitempty"` // the one under way, or the last one

	Reference string `json:"reference,omitempty"` // how the shop that ordered through the API calls it
	Version   int64  `json:"version"`             // grows with every change that is told, see Store.TellChanges

	description []byte
	returns     ReturnPages
	amount      set.CurrencyAmount
	lidM        set.LocalID
	sale        *sale
}

// Money is an amount in minor units.
type Money struct {
	Currency string `json:"currency"` // ISO 4217 code
	Minor    int64  `json:"minor"`

	exponent int64
}

// money gives an amount that the merchant wrote itself, in minor units.
func money(a set.CurrencyAmount) Money {
	return Money{Currency: a.Currency.String(), Minor: int64(a.Amount), exponent: a.AmtExp10}
}

// String gives the amount for people, without its currency.
func (m Money) String() string {
	digits, _, _ := strings.Cut(set.CurrencyAmount{Amount: set.Natural(m.Minor), AmtExp10: m.exponent}.String(), " ")
	return digits
}

// CaptureState is how far the capture of an authorization has come.
type CaptureState string

// The states of a capture.
const (
	CaptureNone    CaptureState = ""
	CapturePending CaptureState = "pending"
	CaptureDone    CaptureState = "captured"
	CaptureRefused CaptureState = "refused"
)

// Payment is what is known of the payment of an order. What it says of one authorization is of the last one.
type Payment struct {
	XID          set.XID        `json:"xid"`
	Cardholder   set.Cardholder `json:"cardholder"` // how it is known who pays
	AuthCode     string         `json:"authCode,omitempty"`
	ApprovalCode string         `json:"approvalCode,omitempty"` // the issuer's
	Authorized   *time.Time     `json:"authorized,omitempty"`   // when the gateway's answer came
	Capture      CaptureState   `json:"capture,omitempty"`
	CapCode      string         `json:"capCode,omitempty"`
	Captured     *time.Time     `json:"captured,omitempty"`
	Failure      string         `json:"failure,omitempty"` // why there is no result

	AuthorizedAmount Money           `json:"authorizedAmount"` // of all authorizations that stand, captured or not
	CapturedAmount   Money           `json:"capturedAmount"`
	RefundedAmount   Money           `json:"refundedAmount"`
	Authorizations   []Authorization `json:"authorizations,omitempty"`
	Pending          Kind            `json:"pending,omitempty"`  // the operation that waits for the gateway
	Trouble          string          `json:"trouble,omitempty"`  // why the last operation did not succeed
	Possible         []string        `json:"possible,omitempty"` // what set-merchant can be told to do with the order now
	Due              *time.Time      `json:"due,omitempty"`      // when the next recurring payment may be charged
}

// Authorization is one authorization of a purchase.
type Authorization struct {
	RRPID        set.RRPID   `json:"rrpid"` // of its request
	State        set.State   `json:"state,omitempty"`
	Asked        Money       `json:"asked"`
	Code         string      `json:"code,omitempty"`
	ApprovalCode string      `json:"approvalCode,omitempty"`
	At           *time.Time  `json:"at,omitempty"`
	Failure      string      `json:"failure,omitempty"`
	Authorized   Money       `json:"authorizedAmount"`
	Captured     Money       `json:"capturedAmount"`
	Refunded     Money       `json:"refundedAmount"`
	Settled      bool        `json:"settled,omitempty"` // the batch of its capture is closed
	CapturedAt   *time.Time  `json:"captured,omitempty"`
	Batch        *int64      `json:"batch,omitempty"` // of its capture
	Refunds      []RefundRow `json:"refunds,omitempty"`
}

// RefundRow is one refund of an authorization.
type RefundRow struct {
	Amount Money      `json:"amount"`
	At     time.Time  `json:"at"`
	Batch  *int64     `json:"batch,omitempty"`
	Undone *time.Time `json:"undone,omitempty"`
}

func (s *sale) payment(pending Kind) *Payment {
	p := &Payment{XID: s.xid, Cardholder: s.Sale.Cardholder(), Pending: pending, Trouble: s.Trouble, Possible: s.possible(time.Now())}
	authorized, captured, refunded := s.sums()
	p.AuthorizedAmount, p.CapturedAmount, p.RefundedAmount = money(authorized), money(captured), money(refunded)
	for _, a := range s.Authorizations {
		p.Authorizations = append(p.Authorizations, a.view())
	}
	if d := s.Sale.InstallRecurData; d != nil && d.InstallRecurInd.Recurring != nil && len(s.standing()) > 0 {
		due := s.due()
		p.Due = &due
	}
	if a := s.last(); a != nil {
		p.describe(a)
	}
	if pending == KindCapture {
		p.Capture = CapturePending
	}
	return p
}

// describe says of the payment what is true of its last authorization.
func (p *Payment) describe(a *authorization) {
	if a.At.IsZero() {
		p.Failure = a.Failure
		return
	}
	p.ApprovalCode, p.Authorized, p.Failure = a.ApprovalCode, &a.At, a.Failure
	if a.Failure == "" {
		p.AuthCode = a.Code.String()
	}
	c := a.Capture
	if c == nil || c.At.IsZero() {
		return
	}
	switch a.Position.State {
	case set.StateCaptured, set.StateCredited:
		p.Capture, p.Captured, p.CapCode = CaptureDone, &c.At, c.Code.String()
	case set.StateAuthorized:
		if c.Code != set.CapSuccess {
			p.Capture, p.CapCode = CaptureRefused, c.Code.String()
		}
		if c.Failure != "" {
			p.Failure, p.CapCode = c.Failure, ""
		}
	}
}

func (a *authorization) view() Authorization {
	p := a.Position
	v := Authorization{
		RRPID: a.Request.RRPID, State: p.State, Asked: money(a.Request.Amount), ApprovalCode: a.ApprovalCode, Failure: a.Failure,
		Authorized: money(a.like(p.Authorized)), Captured: money(a.like(p.Captured)), Refunded: money(a.like(p.Credited)), Settled: p.Settled,
	}
	if !a.At.IsZero() {
		v.At, v.Code = &a.At, a.Code.String()
	}
	if c := a.Capture; c != nil && p.Captured.Amount > 0 {
		v.CapturedAt, v.Batch = &c.At, (*int64)(c.Batch)
	}
	for _, r := range a.Refunds {
		v.Refunds = append(v.Refunds, RefundRow{money(r.Amount), r.At, (*int64)(r.Batch), r.Undone})
	}
	return v
}

// like gives an amount that is not there yet the currency of the authorization.
func (a *authorization) like(amount set.CurrencyAmount) set.CurrencyAmount {
	if amount.Currency == 0 {
		amount.Currency, amount.AmtExp10 = a.Request.Amount.Currency, a.Request.Amount.AmtExp10
	}
	return amount
}

var decimal = regexp.MustCompile(`^([0-9]{1,12})(?:\.([0-9]{1,3}))?$`)

// ParseAmount reads an amount that a person wrote, such as 10.50, in the order's currency.
func (o *Order) ParseAmount(text string) (int64, error) {
	places := int(-o.amount.AmtExp10)
	parts := decimal.FindStringSubmatch(text)
	if parts == nil || len(parts[2]) > places {
		return 0, fmt.Errorf("amount %q: want a number with at most %d decimal places, such as %s", text, places, money(o.amount))
	}
	minor, err := strconv.ParseInt(parts[1]+parts[2]+strings.Repeat("0", places-len(parts[2])), 10, 64)
	if err == nil && minor == 0 {
		err = errors.New("amount: want more than nothing")
	}
	return minor, err
}
