package merchant

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/setkit/setkit/roles/set"
)

// What can happen to an order, in one place: how far it has come, and the operations with the requests that
// they send (SET §7.7). How one authorization may go on, and with how much money, is set.Position's to say.

// OrderState is how far an order has come.
type OrderState string

// The states of an order. It can be paid while it is new, declined or failed.
const (
	OrderNew         OrderState = "new"
	OrderReceived    OrderState = "received"    // to be authorized shipment by shipment; none was yet
	OrderAuthorizing OrderState = "authorizing" // the gateway's answer is awaited
	OrderDeclined    OrderState = "declined"
	OrderFailed      OrderState = "failed" // nothing was authorized, because of the gateway or of the way to it
	OrderAuthorized  OrderState = "authorized"
	OrderCaptured    OrderState = "captured" // all or some of it
	OrderVoided      OrderState = "voided"   // nothing is authorized any more
	OrderRefunded    OrderState = "refunded" // all that was captured was given back

	// OrderUnresolved is an order with a request whose outcome can no longer be learnt from the gateway's
	// server: a person asks the acquirer.
	OrderUnresolved OrderState = "unresolved"
)

// OrderStates are all of them.
var OrderStates = []OrderState{
	OrderNew, OrderReceived, OrderAuthorizing, OrderDeclined, OrderFailed, OrderAuthorized, OrderCaptured, OrderVoided, OrderRefunded, OrderUnresolved,
}

// Payable tells whether an order in this state may be paid.
func (s OrderState) Payable() bool {
	return s == OrderNew || s == OrderDeclined || s == OrderFailed
}

// Kind is an operation of the merchant at its gateway.
type Kind string

// The operations, by the words that an operator uses.
const (
	KindAuthorize  Kind = "authorize" // of the purchase request, or of a shipment, instalment or recurring payment
	KindReverse    Kind = "reverse"   // take back an authorization, or a part of it
	KindCapture    Kind = "capture"
	KindUncapture  Kind = "undo-capture"
	KindRefund     Kind = "refund"
	KindUndoRefund Kind = "undo-refund"
	KindBatch      Kind = "batch" // administer a batch
)

// way is how an operation goes to the gateway and back. make fills in what the request says and gives its
// octets; open reads the answer and gives what it books.
type way struct {
	message set.MessageType
	make    func(m *Merchant, w work) ([]byte, error)
	open    func(m *Merchant, w work, answer []byte) (booking, error)

	// late tells what is done when the octets have got too old for the gateway, so that nothing is known of
	// earlier copies of them.
	late lateRule
}

// lateRule is what is done about a request whose outcome the gateway does not tell any more.
type lateRule int

const (
	// lateAnew makes the request anew: for the gateway it is the same, and what was done before is told by
	// its answer.
	lateAnew lateRule = iota
	// lateUndo takes back what may have been done, where that can be told apart; else nobody knows.
	lateUndo
)

var ways map[Kind]way

func init() { // the functions use the table
	ways = map[Kind]way{
		KindAuthorize:  {set.AuthReqType, (*Merchant).makeAuthReq, (*Merchant).openAuthRes, lateUndo},
		KindReverse:    {set.AuthRevReqType, (*Merchant).makeAuthRevReq, (*Merchant).openAuthRevRes, lateAnew},
		KindCapture:    {set.CapReqType, (*Merchant).makeCapReq, (*Merchant).openCapRes, lateAnew},
		KindUncapture:  {set.CapRevReqType, (*Merchant).makeAdjustment, (*Merchant).openAdjustment, lateAnew},
		KindRefund:     {set.CredReqType, (*Merchant).makeAdjustment, (*Merchant).openAdjustment, lateUndo},
		KindUndoRefund: {set.CredRevReqType, (*Merchant).makeAdjustment, (*Merchant).openAdjustment, lateAnew},
		KindBatch:      {set.BatchAdminReqType, (*Merchant).makeBatchAdminReq, (*Merchant).openBatchAdminRes, lateAnew},
	}
}

// adjustments are the operations on captures that travel in the same form.
var adjustments = map[Kind]struct {
	adjustment set.Adjustment
	step       set.Step
}{
	KindUncapture:  {set.CaptureReversal, set.StepUndoCapture},
	KindRefund:     {set.Credit, set.StepCredit},
	KindUndoRefund: {set.CreditReversal, set.StepUndoCredit},
}

// OrderError tells why an operation on an order is not begun.
type OrderError struct {
	Number   int64
	State    OrderState
	Command  string // what was asked for, by the name of its command
	Reason   string
	Possible []string // commands that can be given now
}

func (e *OrderError) Error() string {
	text := fmt.Sprintf("order %d is %s: %s: %s", e.Number, e.State, e.Command, e.Reason)
	if len(e.Possible) == 0 {
		return text
	}
	return text + "; what can be done: " + strings.Join(e.Possible, ", ")
}

// possible lists the commands that an order allows now, as far as its own books tell.
func (s *sale) possible(now time.Time) []string {
	if s == nil || s.pending != "" || s.state != saleTaken || s.unresolved() {
		return nil
	}
	in := func(states ...set.State) bool {
		return slices.ContainsFunc(s.Authorizations, func(a *authorization) bool { return slices.Contains(states, a.Position.State) })
	}
	var out []string
	for _, c := range []struct {
		command string
		holds   bool
	}{
		{"capture", in(set.StateAuthorized)},
		{"reverse", in(set.StateAuthorized)},
		{"void", in(set.StateAuthorized) || len(s.undoable()) > 0},
		{"refund", len(s.refundable()) > 0},
		{"undo-refund", len(s.lastRefund()) > 0},
		{"ship", s.Split && !s.complete()},
		{"charge", s.Sale.InstallRecurData != nil && !s.complete() && !s.lapsed(now)},
	} {
		if c.holds {
			out = append(out, c.command)
		}
	}
	return out
}
