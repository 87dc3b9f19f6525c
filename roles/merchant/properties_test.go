package merchant_test

import (
	"bytes"
	"net/http"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

// properties are those of SET §9 that a merchant shows by its records. The others stand beside the messages.
var properties = map[string]func(*testing.T){
	"PU-3":  recordsHaveNoCard,
	"PU-7":  localIDsAreUnique,
	"W-PU1": unsignedIsTold,
	"W-PU3": nothingIsDeliveredUnpaid,
	"W-PU8": identifiersServeOnce,
}

func TestProperties(t *testing.T) {
	t.Parallel()
	for id, shown := range properties {
		t.Run(id, shown)
	}
}

// open is a merchant at work.
func open(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, sqldbtest.SQLite(t))
	w.start(t)
	return w
}

// PU-3: neither the card nor its secrets are in what a merchant stores, logs, receives or sends.
func recordsHaveNoCard(t *testing.T) {
	t.Parallel()
	w := open(t)
	order := w.order(t)
	c := w.wake(t, w.card(t, firstPAN), order.ID)
	wantAuth(t, c.pay(t), set.AuthApproved)
	w.await(t, order.ID, merchant.OrderCaptured)
	w.checkSecrecy(t, c.card)
}

// PU-7: LID-M names one order of the merchant: no two orders have the same, and each is of 20 octets that nobody
// can guess.
func localIDsAreUnique(t *testing.T) {
	t.Parallel()
	w := open(t)
	card := w.card(t, firstPAN)
	seen := make(map[string]bool)
	for range 20 {
		id := w.wake(t, card, w.order(t).ID).purchase.TransIDs.LIDM
		if seen[string(id)] || len(id) != 20 || bytes.Equal(id, make([]byte, 20)) {
			t.Fatalf("LID-M %x", id)
		}
		seen[string(id)] = true
	}
}

// W-PU3: a merchant cannot see what is in the payment instructions. What the gateway finds wrong in them is no
// payment: the order is not authorized, and can be paid anew.
func nothingIsDeliveredUnpaid(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.gateway.behave(refuse)
	order := w.order(t)
	card := w.card(t, firstPAN)
	wantAuth(t, w.wake(t, card, order.ID).pay(t), set.AuthUnspecifiedFailure)
	if o := w.look(t, order.ID); o.State != merchant.OrderFailed || o.Payment.Capture != merchant.CaptureNone {
		t.Errorf("order %s with payment %+v", o.State, o.Payment)
	}
	if _, auths, caps := w.gateway.counts(); auths != 0 || caps != 0 {
		t.Errorf("%d authorizations, %d captures", auths, caps)
	}
	w.gateway.behave(approve)
	wantAuth(t, w.wake(t, card, order.ID).pay(t), set.AuthApproved)
}

// W-PU8: a purchase request that was paid does not pay another order, nor the same one again.
func identifiersServeOnce(t *testing.T) {
	t.Parallel()
	w := open(t)
	order, other := w.order(t), w.order(t)
	c := w.wake(t, w.card(t, firstPAN), order.ID)
	wantAuth(t, c.pay(t), set.AuthApproved)
	w.await(t, order.ID, merchant.OrderCaptured)
	victim := w.wake(t, c.card, other.ID)
	if err := victim.initiate(t); err != nil {
		t.Fatal(err)
	}
	// In the other order's session: its identifiers in the header, the paid request below.
	paid := must[*set.MessageWrapper](t)(set.Decode(c.preq))
	ids := victim.purchase.TransIDs
	paid.MessageHeader.MessageIDs = &set.MessageIDs{LIDC: ids.LIDC, LIDM: ids.LIDM, XID: &ids.XID}
	paid.MessageHeader.RRPID = &victim.purchase.RRPID
	_, err := victim.purchase.OpenResponse(victim.card.Endpoint, time.Now(), victim.post(t, must[[]byte](t)(set.Encode(*paid))))
	if err == nil {
		t.Error("a paid request pays another order")
	}
	if o := w.look(t, other.ID); o.State != merchant.OrderNew {
		t.Errorf("the other order is %s", o.State)
	}
	if status, _, _ := w.ask(t, http.MethodPost, "/orders/"+order.ID+"/pay", "*/*", "", ""); status != http.StatusConflict {
		t.Errorf("a paid order can be paid again: status %d", status)
	}
	if _, auths, _ := w.gateway.counts(); auths != 1 {
		t.Errorf("%d authorizations, want 1", auths)
	}
}
