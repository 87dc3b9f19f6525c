package merchant

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

// saleState is how far a transaction of SET has come before it has authorizations.
type saleState string

const (
	saleInitiated saleState = "initiated"
	saleRejected  saleState = "rejected"
	saleTaken     saleState = "taken" // it has its purchase request
)

// sale is one transaction of SET: a row of the table.
type sale struct {
	xid     set.XID
	orderID string
	number  int64 // of the order
	created time.Time
	state   saleState
	request []byte // digest of the PReq that was taken
	pending string // operation under way
	record
}

// record is the part of a sale that is stored as JSON.
type record struct {
	Sale           set.Sale
	Split          bool             // each shipment is authorized by itself
	Authorizations []*authorization // in the order in which they were asked for
	AuthToken      []byte           // the newest: for the next authorization, in the place of the payment instructions
	AuthRetNum     *set.Natural     // as the newest AuthRes brought it
	Trouble        string           // why the last operation did not succeed, "" if it did
}

// authorization is what was asked of the gateway, what it answered, and what became of the money.
type authorization struct {
	Request      set.AuthorizationRequest
	At           time.Time // of the outcome; zero before
	Code         set.AuthCode
	ApprovalCode string
	CapToken     []byte
	CardMessage  []byte // DER of an AcqCardMsg, which only the cardholder can open
	CurrConv     *set.CurrConv
	Failure      string // why the gateway or the issuer did not decide
	Unknown      bool   // nobody can tell any more whether it was made
	Position     set.Position
	Capture      *capture // the last one
	Refunds      []*refund
}

// capture is what the gateway answered to a capture. It stands while the position says so.
type capture struct {
	Operation string
	Payload   set.CapPayload
	At        time.Time
	Code      set.CapCode
	Batch     *set.Natural
	Failure   string
}

// refund is a credit. Those of a purchase are numbered as they were made.
type refund struct {
	Number    int
	Operation string
	Amount    set.CurrencyAmount
	At        time.Time
	Code      set.CapRevOrCredCode
	Batch     *set.Natural
	Undone    *time.Time

	// UndoneIn is the batch with an item against the refund; nil when the refund has left its own batch.
	UndoneIn *set.Natural
}

// awaited tells whether the gateway's answer is still to come.
func (a *authorization) awaited() bool { return a.At.IsZero() && !a.Unknown }

// gatewayName is the subject name of the gateway that the payment instructions are for.
func (s *sale) gatewayName() (string, error) {
	cert, err := pki.ParseCertificate(s.Sale.GatewayCert)
	if err != nil {
		return "", fmt.Errorf("the gateway of transaction %v: %w", s.xid, err)
	}
	return string(cert.X509.RawSubject), nil
}

// last is the newest authorization, nil if there is none.
func (s *sale) last() *authorization {
	if len(s.Authorizations) == 0 {
		return nil
	}
	return s.Authorizations[len(s.Authorizations)-1]
}

// authorization finds one by the RRPID of its request.
func (s *sale) authorization(rrpid set.RRPID) *authorization {
	i := slices.IndexFunc(s.Authorizations, func(a *authorization) bool { return a.Request.RRPID == rrpid })
	if i < 0 {
		return nil
	}
	return s.Authorizations[i]
}

func (s *sale) awaited() bool { return slices.ContainsFunc(s.Authorizations, (*authorization).awaited) }

func (s *sale) unresolved() bool {
	return slices.ContainsFunc(s.Authorizations, func(a *authorization) bool { return a.Unknown })
}

// standing are the authorizations that the issuer gave and that were not taken back.
func (s *sale) standing() []*authorization {
	return s.within(func(p set.Position) bool {
		return p.State == set.StateAuthorized || p.State == set.StateCaptured || p.State == set.StateCredited
	})
}

// open are the authorizations that can be captured.
func (s *sale) open() []*authorization {
	return s.within(func(p set.Position) bool { return p.State == set.StateAuthorized })
}

// undoable are those whose capture can be undone.
func (s *sale) undoable() []*authorization {
	return s.within(func(p set.Position) bool { return p.State == set.StateCaptured && !p.Settled })
}

// refundable are those of which something can still be given back.
func (s *sale) refundable() []*authorization {
	return s.within(func(p set.Position) bool {
		rest, ok := p.Captured.Minus(p.Credited)
		return (p.State == set.StateCaptured || p.State == set.StateCredited) && ok && rest.Amount > 0
	})
}

func (s *sale) within(holds func(set.Position) bool) (out []*authorization) {
	for _, a := range s.Authorizations {
		if holds(a.Position) {
			out = append(out, a)
		}
	}
	return out
}

// lastRefund is the newest refund that stands: its part of each authorization.
func (s *sale) lastRefund() map[*authorization]*refund {
	var newest *refund
	out := make(map[*authorization]*refund)
	for _, a := range s.Authorizations {
		for _, r := range a.Refunds {
			if r.Undone == nil && (newest == nil || r.Number > newest.Number) {
				newest = r
			}
		}
	}
	for _, a := range s.Authorizations {
		for _, r := range a.Refunds {
			if newest != nil && r.Undone == nil && r.Operation == newest.Operation {
				out[a] = r
			}
		}
	}
	return out
}

// refunds counts those that were ever made.
func (s *sale) refunds() (n int) {
	for _, a := range s.Authorizations {
		n += len(a.Refunds)
	}
	return n
}

// sums are what is authorized, captured and given back of the whole purchase. What was captured of an
// authorization counts as authorized too.
func (s *sale) sums() (authorized, captured, refunded set.CurrencyAmount) {
	nothing := set.CurrencyAmount{Currency: s.Sale.PurchAmt.Currency, AmtExp10: s.Sale.PurchAmt.AmtExp10}
	authorized, captured, refunded = nothing, nothing, nothing
	for _, a := range s.standing() {
		p := a.Position
		authorized = plus(authorized, p.Authorized)
		captured = plus(captured, p.Captured)
		refunded = plus(refunded, p.Credited)
	}
	return authorized, captured, refunded
}

// plus adds amounts of one purchase, which has one currency. Parts that are not there yet have none.
func plus(a, b set.CurrencyAmount) set.CurrencyAmount {
	if b.Currency == 0 {
		return a
	}
	sum, _ := a.Plus(b)
	return sum
}

// complete tells whether no more may be authorized of the purchase.
func (s *sale) complete() bool {
	d := s.Sale.InstallRecurData
	switch {
	case d != nil && d.InstallRecurInd.Recurring != nil:
		return false
	case d != nil && d.InstallRecurInd.InstallTotalTrans != nil:
		return len(s.standing()) >= int(*d.InstallRecurInd.InstallTotalTrans) || s.rest().Amount == 0
	case s.Split:
		n := len(s.standing())
		return n > 0 && !s.standing()[n-1].Request.Subsequent || s.rest().Amount == 0
	}
	return true
}

// rest is how much of the purchase is not authorized yet.
func (s *sale) rest() set.CurrencyAmount {
	authorized, _, _ := s.sums()
	rest, _ := s.Sale.PurchAmt.Minus(authorized)
	return rest
}

// orderState is what a sale that has its purchase request makes of its order.
func (s *sale) orderState() OrderState {
	authorized, captured, refunded := s.sums()
	last := s.last()
	switch {
	case s.unresolved():
		return OrderUnresolved
	case captured.Amount > 0 && captured.Equal(refunded):
		return OrderRefunded
	case captured.Amount > 0:
		return OrderCaptured
	case authorized.Amount > 0:
		return OrderAuthorized
	case s.awaited():
		return OrderAuthorizing
	case last == nil:
		return OrderReceived
	case slices.ContainsFunc(s.Authorizations, func(a *authorization) bool { return a.Position.State != set.StateDeclined }):
		return OrderVoided
	case last.Failure != "":
		return OrderFailed
	}
	return OrderDeclined
}

// status tells the cardholder how far the sale has come, with one payload for each authorization (SET §5.3).
func (s *sale) status() ([]set.PResPayload, error) {
	switch s.state {
	case saleInitiated:
		return []set.PResPayload{{CompletionCode: set.OrderNotReceived}}, nil
	case saleRejected:
		return []set.PResPayload{{CompletionCode: set.OrderRejected}}, nil
	}
	var out []set.PResPayload
	for _, a := range s.Authorizations {
		if a.At.IsZero() {
			continue
		}
		p, err := s.payload(a)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	if out == nil {
		out = []set.PResPayload{{CompletionCode: set.OrderReceived}}
	}
	return out, nil
}

// payload tells the cardholder of one authorization.
func (s *sale) payload(a *authorization) (set.PResPayload, error) {
	authorized := a.Request.Amount
	if a.Position.Authorized.Currency != 0 {
		authorized = a.Position.Authorized
	}
	p := set.PResPayload{CompletionCode: set.AuthorizationPerformed, Results: &set.Results{AuthStatus: &set.AuthStatus{
		AuthDate: a.At, AuthCode: a.Code, AuthRatio: s.ratio(authorized), CurrConv: a.CurrConv,
	}}}
	if a.CardMessage != nil {
		p.Results.AcqCardMsg = new(set.AcqCardMsg)
		if err := set.Unmarshal(a.CardMessage, p.Results.AcqCardMsg); err != nil {
			return p, err
		}
	}
	if state := a.Position.State; state == set.StateCaptured || state == set.StateCredited {
		p.CompletionCode = set.CapturePerformed
		p.Results.CapStatus = &set.CapStatus{CapDate: a.Capture.At, CapCode: set.CapSuccess, CapRatio: s.ratio(a.Position.Captured)}
	}
	for _, r := range a.Refunds {
		if r.Undone == nil {
			p.CompletionCode = set.CreditPerformed
			p.Results.CredStatusSeq = append(p.Results.CredStatusSeq, set.CreditStatus{
				CreditDate: r.At, CreditCode: set.CapRevOrCredSuccess, CreditRatio: s.ratio(r.Amount),
			})
		}
	}
	return p, nil
}

// ratio is the part that an amount is of the whole purchase, which is never free.
func (s *sale) ratio(a set.CurrencyAmount) der.Real {
	r, _ := set.Ratio(a, s.Sale.PurchAmt)
	return der.NewReal(r)
}

// step books what has happened to an authorization. The gateway decides; where the merchant's own books say
// that this cannot be, they are left as they are and the operator is told.
func (s *sale) step(a *authorization, step set.Step, amount set.CurrencyAmount) bool {
	next, err := a.Position.After(step, amount)
	if err != nil {
		s.Trouble = "the gateway has done what the books do not allow: " + err.Error()
		return false
	}
	a.Position = next
	return true
}

// formerRecord is what was stored of a sale in form 1, which had one authorization and one capture.
type formerRecord struct {
	Sale          set.Sale
	Authorization *authorization
	Capture       *struct {
		Request set.CaptureRequest
		At      time.Time
		Code    set.CapCode
		Amount  set.CurrencyAmount
		Failure string
	}
}

// upgrade reads a sale of form 1.
func (s *sale) upgrade(raw []byte, former string, captureState CaptureState) error {
	var old formerRecord
	if err := json.Unmarshal(raw, &old); err != nil {
		return err
	}
	s.record = record{Sale: old.Sale}
	if s.state != saleInitiated && s.state != saleRejected {
		s.state = saleTaken
	}
	a := old.Authorization
	if a == nil {
		return nil
	}
	s.Authorizations = []*authorization{a}
	switch former {
	case "authorized":
		s.step(a, set.StepAuthorize, a.Request.Amount)
	case "declined", "failed":
		s.step(a, set.StepDecline, a.Request.Amount)
	case "unresolved":
		a.Unknown, a.At = true, time.Time{}
	}
	c := old.Capture
	if c == nil || c.At.IsZero() {
		return nil
	}
	a.Capture = &capture{Payload: c.Request.Items[0].Payload, At: c.At, Code: c.Code, Failure: c.Failure}
	if captureState == CaptureDone {
		s.step(a, set.StepCapture, c.Amount)
	}
	return nil
}
