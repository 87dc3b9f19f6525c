package merchant_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sqldb"
)

// orderError tells whether err is an OrderError that says text.
func orderError(err error, text string) bool {
	e, ok := errors.AsType[*merchant.OrderError](err)
	return ok && strings.Contains(e.Error(), text)
}

// eachManual is each, with captures when the operator asks for them.
func eachManual(t *testing.T, test func(t *testing.T, w *world)) {
	each(t, func(t *testing.T, w *world) {
		w.config.Capture = merchant.CaptureManually
		w.crash(t)
		test(t, w)
	})
}

// paid makes an order that is authorized.
func (w *world) paid(t *testing.T) (*merchant.Order, *wallet) {
	t.Helper()
	order := w.order(t)
	c := w.wake(t, w.card(t, firstPAN), order.ID)
	wantAuth(t, c.pay(t), set.AuthApproved)
	return w.await(t, order.ID, merchant.OrderAuthorized), c
}

// commands are the operator's, without their contexts and times.
type commands struct {
	w *world
	t *testing.T
}

func (w *world) operator(t *testing.T) commands { return commands{w, t} }

func (c commands) capture(id string, minor int64) (*merchant.Operation, error) {
	return c.w.config.Store.Capture(c.t.Context(), c.w.now(), id, minor)
}

func (c commands) void(id string) (*merchant.Operation, error) {
	return c.w.config.Store.Void(c.t.Context(), c.w.now(), id)
}

func (c commands) reverse(id string, minor int64) (*merchant.Operation, error) {
	return c.w.config.Store.Reverse(c.t.Context(), c.w.now(), id, minor)
}

func (c commands) refund(id string, minor int64) (*merchant.Operation, error) {
	return c.w.config.Store.Refund(c.t.Context(), c.w.now(), id, minor)
}

func (c commands) undoRefund(id string) (*merchant.Operation, error) {
	return c.w.config.Store.UndoRefund(c.t.Context(), c.w.now(), id)
}

func (c commands) ship(id string, minor int64, last bool) (*merchant.Operation, error) {
	return c.w.config.Store.Ship(c.t.Context(), c.w.now(), id, minor, last)
}

func (c commands) charge(id string) (*merchant.Operation, error) {
	return c.w.config.Store.Charge(c.t.Context(), c.w.now(), id)
}

func (c commands) batch(q merchant.BatchQuery) (*merchant.Operation, error) {
	return c.w.config.Store.AskBatch(c.t.Context(), c.w.now(), q)
}

// outcome waits for the outcome of an operation.
func (c commands) outcome(op *merchant.Operation, err error) *merchant.Operation {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
	var now *merchant.Operation
	poll(c.t, fmt.Sprintf("%s has its outcome", op.Kind), func() bool {
		now = must[*merchant.Operation](c.t)(c.w.config.Store.Operation(c.t.Context(), op.ID))
		return now.State != merchant.OperationPending
	})
	if now.Next != "" {
		return c.outcome(must[*merchant.Operation](c.t)(c.w.config.Store.Operation(c.t.Context(), now.Next)), nil)
	}
	return now
}

// done waits for an operation that succeeds.
func (c commands) done(op *merchant.Operation, err error) *merchant.Operation {
	c.t.Helper()
	now := c.outcome(op, err)
	if now.State != merchant.OperationDone {
		c.t.Fatalf("%s is %s: %s %+v", now.Kind, now.State, now.Failure, now.Items)
	}
	return now
}

// refused checks that an operation is not begun, for a reason that says text.
func (c commands) refused(text string, _ *merchant.Operation, err error) {
	c.t.Helper()
	if !orderError(err, text) {
		c.t.Errorf("error %v, want an OrderError that says %q", err, text)
	}
}

// wantMoney checks the state of an order and its sums, and that the gateway's books say the same.
func (w *world) wantMoney(t *testing.T, id string, state merchant.OrderState, authorized, captured, refunded int64) *merchant.Order {
	t.Helper()
	o := w.look(t, id)
	p := o.Payment
	got := fmt.Sprintf("%s %d %d %d", o.State, p.AuthorizedAmount.Minor, p.CapturedAmount.Minor, p.RefundedAmount.Minor)
	if want := fmt.Sprintf("%s %d %d %d", state, authorized, captured, refunded); got != want {
		t.Errorf("order is %s, want %s (state, authorized, captured, refunded); trouble: %q", got, want, p.Trouble)
	}
	var a, c, r int64
	w.gateway.set(func() {
		for _, h := range w.gateway.auths {
			if h.transIDs.XID == p.XID && h.position.State != set.StateReversed && h.position.State != set.StatePurged {
				a += int64(h.position.Authorized.Amount)
				c += int64(h.position.Captured.Amount)
				r += int64(h.position.Credited.Amount)
			}
		}
	})
	if a != authorized || c != captured || r != refunded {
		t.Errorf("the gateway has %d, %d, %d, want %d, %d, %d", a, c, r, authorized, captured, refunded)
	}
	return o
}

func TestCaptureInPartAndRefunds(t *testing.T) {
	eachManual(t, func(t *testing.T, w *world) {
		o, c := w.paid(t)
		op := w.operator(t)
		op.refused("42.51 EUR is more than the 42.50 EUR", nil, second(op.capture(o.ID, 4251)))
		op.refused("more than", nil, second(op.capture(o.ID, -1)))
		op.refused("what can be done: capture, reverse, void", nil, second(op.refund(o.ID, 0)))
		op.done(op.capture(o.ID, 3000))
		w.wantMoney(t, o.ID, merchant.OrderCaptured, 4250, 3000, 0)
		op.refused("nothing is authorized", nil, second(op.capture(o.ID, 1250)))
		op.refused("30.01 EUR is more than the 30.00 EUR", nil, second(op.refund(o.ID, 3001)))
		op.done(op.refund(o.ID, 1000))
		op.refused("20.01 EUR is more than the 20.00 EUR", nil, second(op.refund(o.ID, 2001)))
		op.refused("some of it was given back", nil, second(op.void(o.ID)))
		w.wantMoney(t, o.ID, merchant.OrderCaptured, 4250, 3000, 1000)
		op.done(op.refund(o.ID, 0))
		w.wantMoney(t, o.ID, merchant.OrderRefunded, 4250, 3000, 3000)
		op.refused("nothing is captured that was not given back", nil, second(op.refund(o.ID, 1)))

		// The cardholder sees the capture and each refund, as parts of the purchase.
		p := must[set.PResPayload](t)(c.inquire(t, c.card))
		wantCompletion(t, p, set.CreditPerformed)
		var ratios []float64
		for _, r := range p.Results.CredStatusSeq {
			ratios = append(ratios, r.CreditRatio.Float64()*4250)
		}
		if diff := cmp.Diff([]float64{1000, 2000}, ratios, cmpAbout); diff != "" || !about(p.Results.CapStatus.CapRatio.Float64()*4250, 3000) {
			t.Errorf("refunds -want +got:\n%s\ncaptured %v", diff, p.Results.CapStatus.CapRatio.Float64())
		}

		op.done(op.undoRefund(o.ID))
		w.wantMoney(t, o.ID, merchant.OrderCaptured, 4250, 3000, 1000)
		op.done(op.undoRefund(o.ID))
		op.refused("no refund that stands", nil, second(op.undoRefund(o.ID)))
		last := w.wantMoney(t, o.ID, merchant.OrderCaptured, 4250, 3000, 0)
		if rows := last.Payment.Authorizations[0].Refunds; len(rows) != 2 || rows[0].Undone == nil || rows[1].Undone == nil {
			t.Errorf("refunds %+v", rows)
		}
		p = must[set.PResPayload](t)(c.inquire(t, c.card))
		wantCompletion(t, p, set.CapturePerformed)
	})
}

func second[A, B any](_ A, b B) B { return b }

func about(a, b float64) bool { return a-b < 1e-6 && b-a < 1e-6 }

var cmpAbout = cmp.Comparer(about)

func TestVoid(t *testing.T) {
	eachManual(t, func(t *testing.T, w *world) {
		op := w.operator(t)
		o, c := w.paid(t)
		op.done(op.void(o.ID))
		w.wantMoney(t, o.ID, merchant.OrderVoided, 0, 0, 0)
		op.refused("nothing is authorized or captured", nil, second(op.void(o.ID)))
		op.refused("nothing is authorized", nil, second(op.capture(o.ID, 0)))
		if p := must[set.PResPayload](t)(c.inquire(t, c.card)); p.Results.AuthStatus.AuthRatio.Float64() != 0 {
			t.Errorf("the cardholder is told that %v of it are authorized", p.Results.AuthStatus.AuthRatio.Float64())
		}
		if status, _, _ := w.ask(t, "GET", "/orders/"+o.ID+"/pay", "*/*", "", ""); status != 409 {
			t.Errorf("a voided order can be paid: status %d", status)
		}

		// A capture is undone first; then it can be made anew, or the authorization be taken back.
		o, _ = w.paid(t)
		op.done(op.capture(o.ID, 1000))
		op.done(op.void(o.ID))
		w.wantMoney(t, o.ID, merchant.OrderAuthorized, 4250, 0, 0)
		op.done(op.capture(o.ID, 0))
		w.wantMoney(t, o.ID, merchant.OrderCaptured, 4250, 4250, 0)
		op.done(op.void(o.ID))
		op.done(op.void(o.ID))
		w.wantMoney(t, o.ID, merchant.OrderVoided, 0, 0, 0)

		// The gateway has closed the batch of the capture, which the merchant learns by asking.
		o, _ = w.paid(t)
		op.done(op.capture(o.ID, 0))
		w.gateway.set(func() { w.gateway.close(1, set.ClosedByAcquirer) })
		if got := op.outcome(op.void(o.ID)); got.State != merchant.OperationRefused || got.Items[0].Code != "originalProcessed" {
			t.Errorf("void after the batch is closed: %+v", got)
		}
		op.refused("the batch of its capture is closed; what can be done: refund", nil, second(op.void(o.ID)))
		if p := w.wantMoney(t, o.ID, merchant.OrderCaptured, 4250, 4250, 0).Payment; !strings.Contains(p.Trouble, "originalProcessed") {
			t.Errorf("trouble %q", p.Trouble)
		}
		op.done(op.refund(o.ID, 0))
		if p := w.wantMoney(t, o.ID, merchant.OrderRefunded, 4250, 4250, 4250).Payment; p.Trouble != "" {
			t.Errorf("trouble %q after a success", p.Trouble)
		}
	})
}

func TestReverseInPart(t *testing.T) {
	eachManual(t, func(t *testing.T, w *world) {
		op := w.operator(t)
		o, c := w.paid(t)
		for _, to := range []int64{0, -1, 4250, 4251} {
			op.refused("want less than the 42.50 EUR", nil, second(op.reverse(o.ID, to)))
		}
		op.done(op.reverse(o.ID, 2000))
		w.wantMoney(t, o.ID, merchant.OrderAuthorized, 2000, 0, 0)
		if p := must[set.PResPayload](t)(c.inquire(t, c.card)); !about(p.Results.AuthStatus.AuthRatio.Float64()*4250, 2000) {
			t.Errorf("authorized %v of it", p.Results.AuthStatus.AuthRatio.Float64())
		}
		op.refused("20.01 EUR is more than the 20.00 EUR", nil, second(op.capture(o.ID, 2001)))
		op.done(op.reverse(o.ID, 1500))
		op.done(op.capture(o.ID, 0)) // with the token of what stays
		w.wantMoney(t, o.ID, merchant.OrderCaptured, 1500, 1500, 0)
		op.refused("nothing is authorized", nil, second(op.reverse(o.ID, 1)))

		// The gateway's own books know better: there it is captured.
		o, _ = w.paid(t)
		w.gateway.set(func() {
			h := w.gateway.auths[w.gateway.order[1]]
			h.position = must[set.Position](t)(h.position.After(set.StepCapture, h.position.Authorized))
		})
		if got := op.outcome(op.void(o.ID)); got.State != merchant.OperationRefused || got.Items[0].Code != "invalidTransaction" {
			t.Errorf("void of what is captured: %+v", got)
		}
		if now := w.look(t, o.ID); now.State != merchant.OrderAuthorized {
			t.Errorf("order %s, want authorized", now.State)
		}
	})
}

func TestSale(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.config.Capture = merchant.CaptureWithSale
		w.crash(t)
		order := w.order(t)
		c := w.wake(t, w.card(t, firstPAN), order.ID)
		p := c.pay(t)
		wantAuth(t, p, set.AuthApproved)
		wantCompletion(t, p, set.CapturePerformed) // at once: there is no other request
		w.wantMoney(t, order.ID, merchant.OrderCaptured, 4250, 4250, 0)
		if n, _, _ := w.gateway.counts(); n != 1 {
			t.Errorf("%d messages at the gateway, want 1", n)
		}
		// A gateway that authorizes and does not capture: the operator captures.
		w.gateway.set(func() { w.gateway.noCapt = true })
		order = w.order(t)
		wantAuth(t, w.wake(t, c.card, order.ID).pay(t), set.AuthApproved)
		o := w.wantMoney(t, order.ID, merchant.OrderAuthorized, 4250, 0, 0)
		if o.Payment.Capture != merchant.CaptureRefused || !strings.Contains(o.Payment.Trouble, "batchClosed") {
			t.Errorf("payment %+v", o.Payment)
		}
		op := w.operator(t)
		op.done(op.capture(order.ID, 0))
		w.wantMoney(t, order.ID, merchant.OrderCaptured, 4250, 4250, 0)
		// One that does no sales.
		w.gateway.set(func() { w.gateway.noSales = true })
		order = w.order(t)
		wantAuth(t, w.wake(t, c.card, order.ID).pay(t), set.AuthCaptureNotSupported)
		w.await(t, order.ID, merchant.OrderDeclined)
	})
}

func TestSplitShipments(t *testing.T) {
	eachManual(t, func(t *testing.T, w *world) {
		op := w.operator(t)
		order := w.orderOn(t, "split")
		c := w.wake(t, w.card(t, firstPAN), order.ID)
		wantCompletion(t, c.pay(t), set.OrderReceived)
		if o := w.look(t, order.ID); o.State != merchant.OrderReceived || !slices.Equal(o.Payment.Possible, []string{"ship"}) {
			t.Errorf("order %s, possible %v", o.State, o.Payment.Possible)
		}
		op.refused("42.51 EUR is more", nil, second(op.ship(order.ID, 4251, false)))
		op.refused("want the amount", nil, second(op.ship(order.ID, 0, false)))
		op.done(op.ship(order.ID, 1000, false))
		op.done(op.capture(order.ID, 0))
		w.wantMoney(t, order.ID, merchant.OrderCaptured, 1000, 1000, 0)

		w.gateway.behave(decline) // which leaves the others as they are, and the token good
		if got := op.outcome(op.ship(order.ID, 2000, false)); got.Items[0].Code != "declined" {
			t.Errorf("declined shipment: %+v", got)
		}
		w.gateway.behave(approve)
		op.done(op.ship(order.ID, 2000, false))
		op.refused("12.51 EUR is more than the 12.50 EUR", nil, second(op.ship(order.ID, 1251, false)))
		op.done(op.ship(order.ID, 1250, false)) // the rest: nothing can follow
		w.wantMoney(t, order.ID, merchant.OrderCaptured, 4250, 1000, 0)
		op.refused("its last shipment is authorized", nil, second(op.ship(order.ID, 1, false)))
		all := must[[]set.PResPayload](t)(c.inquireAll(t, c.card))
		var codes []string
		for _, p := range all {
			codes = append(codes, fmt.Sprintf("%v %v %.0f", p.CompletionCode, p.Results.AuthStatus.AuthCode, p.Results.AuthStatus.AuthRatio.Float64()*4250))
		}
		if diff := cmp.Diff([]string{
			"capturePerformed approved 1000", "authorizationPerformed declined 2000", "authorizationPerformed approved 2000", "authorizationPerformed approved 1250",
		}, codes); diff != "" {
			t.Errorf("payloads (-want +got):\n%s", diff)
		}

		// The last one taken back, the purchase goes on from there. A capture covers all that is open.
		op.done(op.reverse(order.ID, 1000))
		op.refused("its last shipment", nil, second(op.ship(order.ID, 250, true)))
		op.done(op.capture(order.ID, 2500))
		w.wantMoney(t, order.ID, merchant.OrderCaptured, 4000, 3500, 0)
		// So does a refund, from the newest on.
		op.done(op.refund(order.ID, 700))
		op.done(op.undoRefund(order.ID))
		w.wantMoney(t, order.ID, merchant.OrderCaptured, 4000, 3500, 0)

		// A shipment lowered before the next one, which goes on from what is left.
		order = w.orderOn(t, "split")
		wantCompletion(t, w.wake(t, c.card, order.ID).pay(t), set.OrderReceived)
		op.done(op.ship(order.ID, 1000, false))
		op.done(op.ship(order.ID, 2000, false))
		op.done(op.reverse(order.ID, 500))
		op.done(op.ship(order.ID, 2750, false))
		w.wantMoney(t, order.ID, merchant.OrderAuthorized, 4250, 0, 0)

		// Void takes back every shipment that is authorized, the newest first.
		order = w.orderOn(t, "split")
		c = w.wake(t, c.card, order.ID)
		wantCompletion(t, c.pay(t), set.OrderReceived)
		op.done(op.ship(order.ID, 1000, false))
		op.done(op.ship(order.ID, 500, true))
		op.done(op.void(order.ID))
		w.wantMoney(t, order.ID, merchant.OrderVoided, 0, 0, 0)
		// And then the payment instructions may be used again.
		op.done(op.ship(order.ID, 4250, true))
		w.wantMoney(t, order.ID, merchant.OrderAuthorized, 4250, 0, 0)
	})
}

func TestInstalments(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		op := w.operator(t)
		order := w.orderOn(t, "install 3")
		c := w.wake(t, w.card(t, firstPAN), order.ID)
		if got := c.purchase.InstallRecurData; got == nil || int(*got.InstallRecurInd.InstallTotalTrans) != 3 || !strings.Contains(string(c.purchase.OD), "Paid in 3 instalments.") {
			t.Errorf("the cardholder agrees to %+v and %q", got, c.purchase.OD)
		}
		if p := c.pay(t); p.Results == nil || p.Results.AuthStatus.AuthCode != set.AuthApproved {
			t.Fatalf("first instalment: %+v", p)
		}
		w.await(t, order.ID, merchant.OrderCaptured)
		w.wantMoney(t, order.ID, merchant.OrderCaptured, 1417, 1417, 0)
		op.done(op.charge(order.ID))
		op.done(op.charge(order.ID))
		w.wantMoney(t, order.ID, merchant.OrderCaptured, 4250, 4250, 0)
		op.refused("all its 3 instalments are authorized", nil, second(op.charge(order.ID)))
		if all := must[[]set.PResPayload](t)(c.inquireAll(t, c.card)); len(all) != 3 {
			t.Errorf("%d payloads, want 3", len(all))
		}

		// What the cardholder has not agreed to is another order.
		order = w.orderOn(t, "install 3")
		c = w.wake(t, c.card, order.ID)
		c.purchase.InstallRecurData = nil
		wantCompletion(t, c.pay(t), set.OrderRejected)
	})
}

func TestRecurringPayments(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		var days atomic.Int64
		w.config.Now = func() time.Time { return time.Now().AddDate(0, 0, int(days.Load())) }
		w.crash(t)
		op := w.operator(t)
		order := w.orderOn(t, "recur 28 20301231")
		c := w.wake(t, w.card(t, firstPAN), order.ID)
		wantAuth(t, c.pay(t), set.AuthApproved)
		o := w.await(t, order.ID, merchant.OrderCaptured)
		if due := o.Payment.Due; due == nil || due.Sub(*o.Payment.Authorized) != 28*24*time.Hour {
			t.Errorf("next payment due %v", o.Payment.Due)
		}
		days.Store(27)
		op.refused("its next payment is due on ", nil, second(op.charge(order.ID)))
		days.Store(28)
		w.gateway.set(func() { w.gateway.later = 28*24*time.Hour - 5*time.Minute }) // a clock of its own
		if got := op.outcome(op.charge(order.ID)); got.State != merchant.OperationRefused || got.Items[0].Code != "recurringTooSoon" {
			t.Errorf("too soon by the gateway's clock: %+v", got)
		}
		w.gateway.set(func() { w.gateway.later += 6 * time.Minute })
		op.done(op.charge(order.ID)) // each is of the whole amount
		w.wantMoney(t, order.ID, merchant.OrderCaptured, 8500, 8500, 0)
		op.refused("its next payment is due on ", nil, second(op.charge(order.ID)))
		// After the last day.
		_, err := w.config.Store.Charge(t.Context(), time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC), order.ID)
		op.refused("its last day was 2030-12-31", nil, err)
		if e, ok := errors.AsType[*merchant.OrderError](err); !ok || slices.Contains(e.Possible, "charge") {
			t.Errorf("after the last day: %v", err)
		}
	})
}

// Captures of several orders go in one request, and one that is refused keeps none of the others back.
func TestCaptureAll(t *testing.T) {
	eachManual(t, func(t *testing.T, w *world) {
		op := w.operator(t)
		var ids []string
		for range 3 {
			o, _ := w.paid(t)
			ids = append(ids, o.ID)
		}
		w.gateway.set(func() { // the gateway's own books know better
			h := w.gateway.auths[w.gateway.order[1]]
			h.position = must[set.Position](t)(h.position.After(set.StepReverse, set.CurrencyAmount{Currency: 978}))
		})
		ops := must[[]*merchant.Operation](t)(w.config.Store.CaptureAll(t.Context(), w.now()))
		if len(ops) != 1 || len(ops[0].Items) != 3 {
			t.Fatalf("operations %+v", ops)
		}
		got := op.outcome(ops[0], nil)
		var codes []string
		for _, i := range got.Items {
			codes = append(codes, fmt.Sprintf("%d %s %t", i.Order, i.Code, i.Refused))
		}
		if diff := cmp.Diff([]string{"1001 success false", "1002 invalidAuthData true", "1003 success false"}, codes); diff != "" || got.State != merchant.OperationRefused {
			t.Errorf("%s, items (-want +got):\n%s", got.State, diff)
		}
		for i, want := range []merchant.OrderState{merchant.OrderCaptured, merchant.OrderAuthorized, merchant.OrderCaptured} {
			if o := w.look(t, ids[i]); o.State != want {
				t.Errorf("order %d is %s, want %s", o.Number, o.State, want)
			}
		}
		if n := w.gateway.items; n != 3 {
			t.Errorf("the last capture request had %d items, want 3", n)
		}
	})
}

// An order has one operation at a time.
func TestOperationsOneAtATime(t *testing.T) {
	eachManual(t, func(t *testing.T, w *world) {
		op := w.operator(t)
		o, _ := w.paid(t)
		w.gateway.behave(away)
		first, err := op.capture(o.ID, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for name, do := range map[string]func() (*merchant.Operation, error){
			"capture": func() (*merchant.Operation, error) { return op.capture(o.ID, 0) },
			"void":    func() (*merchant.Operation, error) { return op.void(o.ID) },
			"refund":  func() (*merchant.Operation, error) { return op.refund(o.ID, 0) },
		} {
			if _, err := do(); !orderError(err, "its last operation (capture) still waits for the gateway") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if all := must[[]*merchant.Operation](t)(w.config.Store.CaptureAll(t.Context(), w.now())); len(all) != 0 {
			t.Errorf("capture of all begins %+v", all)
		}
		if p := w.look(t, o.ID).Payment; p.Pending != merchant.KindCapture || p.Capture != merchant.CapturePending || p.Possible != nil {
			t.Errorf("payment %+v", p)
		}
		w.gateway.behave(approve)
		op.done(first, nil)
		w.wantMoney(t, o.ID, merchant.OrderCaptured, 4250, 1000, 0)
	})
}

// steps are operations in an order in which they can be made, with what they leave.
var steps = []struct {
	name    string
	message set.MessageType
	do      func(commands, string) (*merchant.Operation, error)
	sums    [3]int64
}{
	{"reverse", set.AuthRevReqType, func(c commands, id string) (*merchant.Operation, error) { return c.reverse(id, 4000) }, [3]int64{4000, 0, 0}},
	{"capture", set.CapReqType, func(c commands, id string) (*merchant.Operation, error) { return c.capture(id, 3000) }, [3]int64{4000, 3000, 0}},
	{"undo capture", set.CapRevReqType, func(c commands, id string) (*merchant.Operation, error) { return c.void(id) }, [3]int64{4000, 0, 0}},
	{"capture again", set.CapReqType, func(c commands, id string) (*merchant.Operation, error) { return c.capture(id, 2000) }, [3]int64{4000, 2000, 0}},
	{"refund", set.CredReqType, func(c commands, id string) (*merchant.Operation, error) { return c.refund(id, 500) }, [3]int64{4000, 2000, 500}},
	{"undo refund", set.CredRevReqType, func(c commands, id string) (*merchant.Operation, error) { return c.undoRefund(id) }, [3]int64{4000, 2000, 0}},
}

// money gives the sums of an order.
func (w *world) money(t *testing.T, id string) [3]int64 {
	p := w.look(t, id).Payment
	return [3]int64{p.AuthorizedAmount.Minor, p.CapturedAmount.Minor, p.RefundedAmount.Minor}
}

// Whatever happens on the way, each operation is made once: the gateway is away, its answer is lost, nobody has
// signed it, the merchant is killed.
func TestOperationsSurvive(t *testing.T) {
	eachManual(t, func(t *testing.T, w *world) {
		op := w.operator(t)
		o, _ := w.paid(t)
		for i, b := range []behaviour{away, lostAnswer, garbage, unsignedError, lostAnswer, away} {
			step := steps[i]
			before := w.gateway.did(step.message)
			w.gateway.behave(b)
			asked, err := step.do(op, o.ID)
			if err != nil {
				t.Fatalf("%s: %v", step.name, err)
			}
			received, _, _ := w.gateway.counts()
			poll(t, "the gateway gets "+step.name, func() bool { n, _, _ := w.gateway.counts(); return n > received })
			different := w.gateway.different()
			w.crash(t)
			w.gateway.behave(approve)
			op.done(asked, nil)
			if got := w.gateway.did(step.message) - before; got != 1 {
				t.Errorf("%s was made %d times", step.name, got)
			}
			if got := w.gateway.different(); got > different+1 {
				t.Errorf("%s: %d other messages", step.name, got-different)
			}
			if got := w.money(t, o.ID); got != step.sums {
				t.Errorf("%s leaves %v, want %v", step.name, got, step.sums)
			}
		}
		w.wantMoney(t, o.ID, merchant.OrderCaptured, 4000, 2000, 0)
	})
}

// A request that got too old, after it was processed or before, is made anew or taken back: never twice.
func TestOperationsTooOld(t *testing.T) {
	for name, seen := range map[string]bool{"processed before": true, "never processed": false} {
		t.Run(name, func(t *testing.T) {
			eachManual(t, func(t *testing.T, w *world) {
				op := w.operator(t)
				o, _ := w.paid(t)
				for _, step := range steps {
					before := w.gateway.did(step.message)
					w.gateway.behave(tooOldOnce)
					if seen {
						w.gateway.behave(lostAnswer)
					}
					asked, err := step.do(op, o.ID)
					if err != nil {
						t.Fatalf("%s: %v", step.name, err)
					}
					if seen {
						poll(t, step.name+" is made", func() bool { return w.gateway.did(step.message) > before })
						w.gateway.behave(tooOldOnce)
					}
					got := op.outcome(asked, nil)
					if step.message == set.CredReqType {
						// Another refund like it could not be told from this one: it is taken back.
						if got.State != merchant.OperationRefused || !strings.Contains(w.look(t, o.ID).Payment.Trouble, "taken back") {
							t.Errorf("refund: %+v, trouble %q", got, w.look(t, o.ID).Payment.Trouble)
						}
						w.wantMoney(t, o.ID, merchant.OrderCaptured, 4000, 2000, 0)
						op.done(op.refund(o.ID, 500))
						continue
					}
					if got.State != merchant.OperationDone || w.money(t, o.ID) != step.sums {
						t.Errorf("%s: %+v, sums %v, want %v", step.name, got, w.money(t, o.ID), step.sums)
					}
				}
				w.wantMoney(t, o.ID, merchant.OrderCaptured, 4000, 2000, 0)
			})
		})
	}
}

// A refund whose outcome is unknown, beside another one that stands, is for a person to look into.
func TestRefundUnresolved(t *testing.T) {
	eachManual(t, func(t *testing.T, w *world) {
		op := w.operator(t)
		o, _ := w.paid(t)
		op.done(op.capture(o.ID, 0))
		op.done(op.refund(o.ID, 500))
		w.gateway.behave(tooOldOnce)
		if got := op.outcome(op.refund(o.ID, 500)); got.State != merchant.OperationUnresolved {
			t.Errorf("second refund: %+v", got)
		}
		w.await(t, o.ID, merchant.OrderUnresolved)
		op.refused("acquirer", nil, second(op.refund(o.ID, 500)))
	})
}

// The undoing of one of two equal refunds, whose outcome is unknown, is for a person to look into: asked for anew it
// could undo the other.
func TestUndoRefundUnresolved(t *testing.T) {
	eachManual(t, func(t *testing.T, w *world) {
		op := w.operator(t)
		for first, want := range map[int64]merchant.OperationState{500: merchant.OperationUnresolved, 400: merchant.OperationDone} {
			o, _ := w.paid(t)
			op.done(op.capture(o.ID, 0))
			op.done(op.refund(o.ID, first))
			op.done(op.refund(o.ID, 500))
			before := w.gateway.did(set.CredRevReqType)
			w.gateway.behave(lostAnswer)
			asked := must[*merchant.Operation](t)(op.undoRefund(o.ID))
			poll(t, "the refund is undone", func() bool { return w.gateway.did(set.CredRevReqType) > before })
			w.gateway.behave(tooOldOnce)
			if got := op.outcome(asked, nil); got.State != want {
				t.Errorf("refunds of %d and 500, the last undone: %+v, want %s", first, got, want)
			}
			if at := w.gateway.positions(); at[len(at)-1].Credited.Amount != set.Natural(first) {
				t.Errorf("the gateway has given back %v, want %d", at[len(at)-1].Credited, first)
			}
		}
	})
}

func TestOperationsRefused(t *testing.T) {
	eachManual(t, func(t *testing.T, w *world) {
		op := w.operator(t)
		o, _ := w.paid(t)
		before := [3]int64{4250, 0, 0}
		for _, step := range steps {
			w.gateway.behave(refuse)
			got := op.outcome(step.do(op, o.ID))
			if got.State != merchant.OperationRefused || !strings.Contains(got.Failure, "invalidCertificate") || w.money(t, o.ID) != before {
				t.Errorf("%s: %+v, sums %v", step.name, got, w.money(t, o.ID))
			}
			if trouble := w.look(t, o.ID).Payment.Trouble; !strings.Contains(trouble, "invalidCertificate") {
				t.Errorf("%s: trouble %q", step.name, trouble)
			}
			w.gateway.behave(approve)
			op.done(step.do(op, o.ID))
			before = step.sums
		}
	})
}

// Two servers on one database do nothing twice.
func TestTwoServers(t *testing.T) {
	eachManual(t, func(t *testing.T, w *world) {
		c := w.config
		c.Store = must[*merchant.Store](t)(merchant.OpenStore(t.Context(), w.dbURL))
		defer c.Store.Close()
		other := must[*merchant.Merchant](t)(merchant.New(c))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- other.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}()
		op := w.operator(t)
		o, _ := w.paid(t)
		for _, step := range steps {
			before := w.gateway.did(step.message)
			op.done(step.do(op, o.ID))
			if got := w.gateway.did(step.message) - before; got != 1 || w.money(t, o.ID) != step.sums {
				t.Errorf("%s: made %d times, sums %v", step.name, got, w.money(t, o.ID))
			}
		}
	})
}

// A job that is delivered to several at once sends the same octets, and its outcome is booked once.
func TestDuplicateJobs(t *testing.T) {
	eachManual(t, func(t *testing.T, w *world) {
		db := must[*sqldb.DB](t)(sqldb.Open(t.Context(), w.dbURL, fstest.MapFS{}))
		defer db.Close()
		op := w.operator(t)
		o, _ := w.paid(t)
		for _, step := range steps {
			if step.name != "capture" && step.name != "refund" {
				op.done(step.do(op, o.ID))
				continue
			}
			before, received := w.gateway.did(step.message), w.gateway.different()
			resume := w.gateway.pause()
			asked, err := step.do(op, o.ID)
			if err != nil {
				t.Fatal(err)
			}
			err = db.Tx(t.Context(), func(tx *sql.Tx) error {
				for range 3 {
					if err := db.Enqueue(t.Context(), tx, "operate", "copy", []byte(asked.ID), time.Time{}); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			poll(t, "the gateway has every copy", func() bool { return w.gateway.waiting() == 4 })
			resume()
			op.done(asked, nil)
			poll(t, "every copy is answered", func() bool { return w.gateway.waiting() == 0 && w.jobs(t, db) == 0 })
			if got := w.gateway.did(step.message) - before; got != 1 || w.gateway.different() != received+1 {
				t.Errorf("%s: made %d times, by %d messages", step.name, got, w.gateway.different()-received)
			}
			if p := w.look(t, o.ID).Payment; w.money(t, o.ID) != step.sums || p.Trouble != "" {
				t.Errorf("%s leaves %v and trouble %q, want %v", step.name, w.money(t, o.ID), p.Trouble, step.sums)
			}
		}
		if a := w.look(t, o.ID).Payment.Authorizations[0]; len(a.Refunds) != 1 {
			t.Errorf("refunds %+v, want 1", a.Refunds)
		}
	})
}

// jobs counts the jobs that are left.
func (w *world) jobs(t *testing.T, db *sqldb.DB) (n int) {
	t.Helper()
	err := db.View(t.Context(), func(tx *sql.Tx) error { return tx.QueryRow(`SELECT COUNT(*) FROM sqldb_job`).Scan(&n) })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestBatches(t *testing.T) {
	eachManual(t, func(t *testing.T, w *world) {
		op := w.operator(t)
		seven, eight := int64(7), int64(8)
		opened := op.done(op.batch(merchant.BatchQuery{Operation: merchant.BatchOpen, Batch: &seven}))
		if opened.Batch.Batch != 7 || opened.Batch.Status != "success" {
			t.Errorf("opened %+v", opened.Batch)
		}
		if got := op.outcome(op.batch(merchant.BatchQuery{Operation: merchant.BatchOpen, Batch: &seven})); got.State != merchant.OperationRefused || !strings.Contains(got.Failure, "batchAlreadyOpen") {
			t.Errorf("opened twice: %+v", got)
		}
		var ids []string
		for range 3 {
			o, _ := w.paid(t)
			op.done(op.capture(o.ID, 0))
			ids = append(ids, o.ID)
		}
		op.done(op.refund(ids[0], 1000))
		if b := w.look(t, ids[0]).Payment.Authorizations[0].Batch; b == nil || *b != 7 {
			t.Errorf("captured in batch %v, want 7", b)
		}

		// Its items, page by page.
		var items []string
		for q := (merchant.BatchQuery{Operation: merchant.BatchShow, Batch: &seven, Items: 3}); ; {
			r := op.done(op.batch(q)).Batch
			if r.Totals.String() != "3 captures of 127.50 EUR and 1 refunds of 10.00 EUR" || *r.Totals != *r.Own {
				t.Errorf("totals %v, own %v", r.Totals, r.Own)
			}
			for _, i := range r.Items {
				items = append(items, fmt.Sprintf("%d %s %s", i.Number, i.Type, i.Amount))
			}
			if q.From = r.Next; q.From == 0 {
				break
			}
		}
		if diff := cmp.Diff([]string{"1 debit 42.50 EUR", "2 debit 42.50 EUR", "3 debit 42.50 EUR", "4 credit 10.00 EUR"}, items); diff != "" {
			t.Errorf("items (-want +got):\n%s", diff)
		}

		// The gateway counts one item more.
		var extra set.TransactionDetail
		w.gateway.set(func() {
			b := w.gateway.batches[7]
			extra = b.Items[2]
			extra.BatchSequenceNum = 5
			b.Items = append(b.Items, extra)
		})
		got := op.outcome(op.batch(merchant.BatchQuery{Operation: merchant.BatchClose, Batch: &seven}))
		for _, text := range []string{"totalsOutOfBalance", "merchant counts 3 captures of 127.50 EUR", "gateway 4 captures of 170.00 EUR", "--any-totals"} {
			if got.State != merchant.OperationRefused || !strings.Contains(got.Failure, text) {
				t.Errorf("out of balance: %s %q does not say %q", got.State, got.Failure, text)
			}
		}
		w.gateway.set(func() { w.gateway.drop(7, 5) })

		// Not while a capture is under way.
		w.gateway.behave(away)
		pending := must[*merchant.Operation](t)(op.refund(ids[0], 1))
		if _, err := op.batch(merchant.BatchQuery{Operation: merchant.BatchClose, Batch: &seven}); err == nil || !strings.Contains(err.Error(), "under way") {
			t.Errorf("close while a refund is under way: %v", err)
		}
		w.gateway.behave(approve)
		op.done(pending, nil)
		op.done(op.undoRefund(ids[0]))

		op.done(op.batch(merchant.BatchQuery{Operation: merchant.BatchClose, Batch: &seven}))
		for _, id := range ids {
			op.refused("the batch of its capture is closed", nil, second(op.void(ids[1])))
			if a := w.look(t, id).Payment.Authorizations[0]; !a.Settled {
				t.Errorf("not settled: %+v", a)
			}
		}
		if r := op.done(op.batch(merchant.BatchQuery{Operation: merchant.BatchShow, Batch: &seven})).Batch; r.Closed == nil || r.ClosedBy != "merchant" {
			t.Errorf("closed batch %+v", r)
		}

		// What is purged is not paid.
		op.done(op.batch(merchant.BatchQuery{Operation: merchant.BatchOpen, Batch: &eight}))
		o, _ := w.paid(t)
		op.done(op.capture(o.ID, 0))
		op.done(op.batch(merchant.BatchQuery{Operation: merchant.BatchPurge, Batch: &eight}))
		w.wantMoney(t, o.ID, merchant.OrderVoided, 0, 0, 0)
		if r := op.done(op.batch(merchant.BatchQuery{Operation: merchant.BatchClose, Batch: &eight})).Batch; r.Own.Debits != 0 {
			t.Errorf("purged batch %+v", r)
		}
		// One that the acquirer has closed is learnt of by looking at it.
		o, _ = w.paid(t)
		op.done(op.capture(o.ID, 0))
		nine := *w.look(t, o.ID).Payment.Authorizations[0].Batch
		w.gateway.set(func() { w.gateway.close(set.Natural(nine), set.ClosedByAcquirer) })
		op.done(op.batch(merchant.BatchQuery{Operation: merchant.BatchShow, Batch: &nine}))
		op.refused("closed", nil, second(op.void(o.ID)))

		for text, q := range map[string]merchant.BatchQuery{
			"say which batch":        {Operation: merchant.BatchClose},
			`no operation "explode"`: {Operation: "explode"},
			"not negative":           {Operation: merchant.BatchShow, From: -1},
		} {
			if _, err := op.batch(q); err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%+v: %v, want %q", q, err, text)
			}
		}
		if got := slices.Sorted(maps.Keys(w.gateway.closed)); len(got) != 3 {
			t.Errorf("closed batches %v", got)
		}
	})
}

// What is captured while the answer to a purge is lost waits for that answer: whether it would be in the batch before
// or after the purge nobody could tell.
func TestPurgeUnanswered(t *testing.T) {
	eachManual(t, func(t *testing.T, w *world) {
		op := w.operator(t)
		seven := int64(7)
		op.done(op.batch(merchant.BatchQuery{Operation: merchant.BatchOpen, Batch: &seven}))
		first, _ := w.paid(t)
		op.done(op.capture(first.ID, 0))
		second, _ := w.paid(t)

		w.gateway.behave(lostAnswer)
		before := w.gateway.did(set.BatchAdminReqType)
		purge := must[*merchant.Operation](t)(op.batch(merchant.BatchQuery{Operation: merchant.BatchPurge, Batch: &seven}))
		poll(t, "the batch is purged", func() bool { return w.gateway.did(set.BatchAdminReqType) > before })
		capture := must[*merchant.Operation](t)(op.capture(second.ID, 0))
		if _, err := op.batch(merchant.BatchQuery{Operation: merchant.BatchPurge, Batch: &seven}); !errors.Is(err, merchant.ErrRequestsUnderWay) {
			t.Errorf("a purge beside a capture: %v, want ErrRequestsUnderWay", err)
		}
		poll(t, "the capture is held back", func() bool {
			return bytes.Contains(w.log.Bytes(), []byte("a batch is being purged: the request waits"))
		})
		w.gateway.behave(approve)
		op.done(purge, nil)
		op.done(capture, nil)
		w.wantMoney(t, first.ID, merchant.OrderVoided, 0, 0, 0)
		w.wantMoney(t, second.ID, merchant.OrderCaptured, 4250, 4250, 0)
	})
}

// A purge may have been processed though its answer was lost, and what it was about is not asked of anybody any more:
// the acquirer has closed the batch.
func TestPurgeUnresolved(t *testing.T) {
	eachManual(t, func(t *testing.T, w *world) {
		op := w.operator(t)
		seven := int64(7)
		op.done(op.batch(merchant.BatchQuery{Operation: merchant.BatchOpen, Batch: &seven}))
		o, _ := w.paid(t)
		op.done(op.capture(o.ID, 0))

		w.gateway.behave(lostAnswer)
		before := w.gateway.did(set.BatchAdminReqType)
		purge := must[*merchant.Operation](t)(op.batch(merchant.BatchQuery{Operation: merchant.BatchPurge, Batch: &seven}))
		poll(t, "the batch is purged", func() bool { return w.gateway.did(set.BatchAdminReqType) > before })
		w.gateway.set(func() {
			w.gateway.close(set.Natural(seven), set.ClosedByAcquirer)
			w.gateway.behaviour = tooOldOnce
		})
		if got := op.outcome(purge, nil); got.State != merchant.OperationUnresolved || !strings.Contains(got.Failure, "unknownBatchID") {
			t.Errorf("the purge: %+v", got)
		}
		w.await(t, o.ID, merchant.OrderUnresolved)
		op.refused("acquirer", nil, second(op.refund(o.ID, 0)))

		// One that was never repeated is refused, and that is that.
		o, _ = w.paid(t)
		op.done(op.capture(o.ID, 0))
		if got := op.outcome(op.batch(merchant.BatchQuery{Operation: merchant.BatchPurge, Batch: &seven})); got.State != merchant.OperationRefused {
			t.Errorf("a purge of a closed batch: %+v", got)
		}
		w.wantMoney(t, o.ID, merchant.OrderCaptured, 4250, 4250, 0)
	})
}

// What the gateway refuses as a whole may have been done by an earlier request for the same, which got too old.
func TestRefusedAnew(t *testing.T) {
	eachManual(t, func(t *testing.T, w *world) {
		op := w.operator(t)
		o, _ := w.paid(t)
		w.gateway.behave(lostAnswer)
		before := w.gateway.did(set.CapReqType)
		capture := must[*merchant.Operation](t)(op.capture(o.ID, 0))
		poll(t, "it is captured", func() bool { return w.gateway.did(set.CapReqType) > before })
		w.gateway.behave(tooOld)
		poll(t, "it is too old", func() bool { return bytes.Contains(w.log.Bytes(), []byte("request has got too old")) })
		w.gateway.behave(refuse)
		if got := op.outcome(capture, nil); got.State != merchant.OperationUnresolved {
			t.Errorf("the capture: %+v", got)
		}
		w.await(t, o.ID, merchant.OrderUnresolved)
	})
}
