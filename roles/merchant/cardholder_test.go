package merchant_test

import (
	"database/sql"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/set/settest"
	"github.com/setkit/setkit/roles/sqldb"
)

// start has a cardholder who knows the certificates do without the PInit pair.
func (c *wallet) start(t *testing.T) {
	t.Helper()
	offer := &set.Offer{Merchant: c.w.config.Endpoint.SignCert, Gateway: c.w.gateway.e.ExchangeCert}
	above := slices.Concat(c.w.Chain(pki.MCA), c.w.Chain(pki.PCA))
	if err := c.purchase.Start(c.card.Endpoint, time.Now(), offer, above); err != nil {
		t.Fatal(err)
	}
}

func TestPurchaseWithoutPInit(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		order := w.order(t)
		c := w.wake(t, w.card(t, firstPAN), order.ID)
		c.start(t)
		preq := c.sign(t)
		wantAuth(t, must[set.PResPayload](t)(c.result(t, preq)), set.AuthApproved)
		w.await(t, order.ID, merchant.OrderCaptured)
		wantAuth(t, must[set.PResPayload](t)(c.result(t, preq)), set.AuthApproved) // the stored answer
		wantCompletion(t, must[set.PResPayload](t)(c.inquire(t, c.card)), set.CapturePerformed)

		// Another request with the same XID, of the same or of another order, is rejected.
		c.purchase.RRPID = set.NewRRPID()
		wantCompletion(t, must[set.PResPayload](t)(c.result(t, c.sign(t))), set.OrderRejected)
		next := w.wake(t, c.card, w.order(t).ID)
		next.start(t)
		next.purchase.TransIDs.XID = c.purchase.TransIDs.XID
		if _, err := next.result(t, next.sign(t)); peerCode(err) == 0 && err == nil {
			t.Error("an XID is taken for two orders")
		}
		if _, auths, _ := w.gateway.counts(); auths != 1 {
			t.Errorf("%d authorizations, want 1", auths)
		}

		// An order that is paid already, another amount, and an order that nobody knows.
		paid := &wallet{w: w, card: c.card, url: c.url, purchase: must[*set.Purchase](t)(set.NewPurchase(&set.Initiation{
			PurchAmt: &c.purchase.PurchAmt, Brands: []set.BrandID{settest.Brand}, LIDM: c.purchase.TransIDs.LIDM, Order: c.purchase.OD,
		}, settest.Brand, "411111", "en"))}
		paid.start(t)
		wantCompletion(t, must[set.PResPayload](t)(paid.result(t, paid.sign(t))), set.OrderRejected)
		cheap := w.wake(t, c.card, w.order(t).ID)
		cheap.purchase.PurchAmt.Amount = 1
		cheap.start(t)
		wantCompletion(t, must[set.PResPayload](t)(cheap.result(t, cheap.sign(t))), set.OrderRejected)
		wantCompletion(t, must[set.PResPayload](t)(cheap.inquire(t, c.card)), set.OrderRejected)
		lost := w.wake(t, c.card, w.order(t).ID)
		lost.purchase.TransIDs.LIDM = set.NewLocalID()
		lost.start(t)
		if _, err := lost.result(t, lost.sign(t)); peerCode(err) != set.UnknownLID {
			t.Errorf("unknown order: %v", err)
		}
		// A challenge that no PInitRes gave names a transaction that is not there.
		lost = w.wake(t, c.card, w.order(t).ID)
		lost.start(t)
		challenge := set.NewChallenge()
		lost.purchase.ChallM = &challenge
		if _, err := lost.result(t, lost.sign(t)); peerCode(err) != set.UnknownXID {
			t.Errorf("unknown transaction: %v", err)
		}
	})
}

// Two purchase requests without PInit pair for one order, at once: one pays it.
func TestTwoPurchasesWithoutPInit(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		order := w.order(t)
		codes := make(chan set.CompletionCode, 2)
		wallets := []*wallet{w.wake(t, w.card(t, firstPAN), order.ID), w.wake(t, w.card(t, secondPAN), order.ID)}
		for _, c := range wallets {
			c.start(t)
			c.sign(t)
		}
		for _, c := range wallets {
			go func() {
				p, err := c.result(t, c.preq)
				if err != nil {
					t.Error(err)
				}
				codes <- p.CompletionCode
			}()
		}
		got := []set.CompletionCode{<-codes, <-codes}
		slices.Sort(got)
		if got[0] != set.OrderRejected || got[1] != set.AuthorizationPerformed && got[1] != set.CapturePerformed {
			t.Errorf("completion codes %v, want one rejected and one performed", got)
		}
		w.await(t, order.ID, merchant.OrderCaptured)
		if _, auths, _ := w.gateway.counts(); auths != 1 {
			t.Errorf("%d authorizations, want 1", auths)
		}
	})
}

// W-PU1: a purchase that nobody signed is taken where the gateway's certificate says so, and nowhere else. It does not
// tell who pays, and the merchant's records say so.
func unsignedIsTold(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		order := w.order(t)
		card := &settest.Card{Endpoint: w.Endpoint(t), Account: w.card(t, firstPAN).Account}
		open := w.OpenGateway(t, "G-0007")
		c := w.wake(t, card, order.ID)
		if err := c.initiate(t); err != nil {
			t.Fatal(err)
		}
		c.purchase.GatewayCert = open.ExchangeCert.X509.Raw // who pretends that the gateway does not mind
		if _, err := c.result(t, c.sign(t)); peerCode(err) != set.SignatureRequired {
			t.Errorf("unsigned, where the gateway requires certificates: %v", err)
		}
		if o := w.look(t, order.ID); o.State != merchant.OrderNew {
			t.Errorf("order %s, want new", o.State)
		}

		w.gateway.set(func() { w.gateway.e = open })
		w.config.Gateways = []merchant.Gateway{{Certificate: open.ExchangeCert, Chain: open.Chain, URL: w.gateway.server.URL}}
		w.crash(t)
		c = w.wake(t, card, order.ID)
		wantAuth(t, c.pay(t), set.AuthApproved)
		if p := w.await(t, order.ID, merchant.OrderCaptured).Payment; p.Cardholder != set.CardholderUnsigned {
			t.Errorf("the cardholder is %s, want %s", p.Cardholder, set.CardholderUnsigned)
		}
		wantCompletion(t, must[set.PResPayload](t)(c.inquire(t, card)), set.CapturePerformed)
		w.checkSecrecy(t, &settest.Card{Account: card.Account})
	})
}

// The gateway's message to the cardholder passes the merchant, in PRes and in every InqRes.
func TestCardMessage(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		text := set.AcqCardCodeMsg{AcqCardCode: set.AcqCardCallCustomerService, AcqCardMsgData: set.AcqCardMsgData{AcqCardText: "Please call us"}}
		w.gateway.set(func() { w.gateway.message = &text })
		for _, b := range []behaviour{decline, approve} {
			w.gateway.behave(b)
			c := w.wake(t, w.card(t, firstPAN), w.order(t).ID)
			for when, p := range map[string]set.PResPayload{"PRes": c.pay(t), "InqRes": must[set.PResPayload](t)(c.inquire(t, c.card))} {
				if p.Results == nil || p.Results.AcqCardMsg == nil {
					t.Fatalf("%s brings no message", when)
				}
				got := must[*set.AcqCardCodeMsg](t)(c.purchase.OpenCardMessage(c.card.Endpoint, time.Now(), &c.card.Account, p.Results.AcqCardMsg))
				if diff := cmp.Diff(&text, got); diff != "" {
					t.Errorf("%s (-sent +read):\n%s", when, diff)
				}
			}
		}
	})
}

// Only what the shop offers can be agreed.
func TestTerms(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for _, terms := range []merchant.Terms{"install 4", "recur 1 20991231", "SPLIT", "install 3 "} {
			_, _, err := w.merchant.MakeOrder(t.Context(), merchant.OrderRequest{Lines: []merchant.LineRequest{{Item: "book", Quantity: 1}}, Terms: terms})
			if !errors.Is(err, merchant.ErrOrderInvalid) || !strings.Contains(err.Error(), "cannot be paid so") {
				t.Errorf("terms %q: %v", terms, err)
			}
		}
		o := w.orderOn(t, "recur 28 20301231")
		_, body, _ := w.ask(t, "GET", "/orders/"+o.ID+"/pay", "*/*", "", "")
		init := must[*set.Initiation](t)(set.ParseInitiation(body))
		if r := init.InstallRecur; r == nil || r.InstallRecurInd.Recurring.RecurringFrequency != 28 || !strings.Contains(string(init.Order), "Paid every 28 days until 2030-12-31.") {
			t.Errorf("initiation message: %+v, %s", r, init.Order)
		}
	})
	for terms, want := range map[merchant.Terms]string{
		"": "", "install 3": "Paid in 3 instalments.", "recur 1 20301231": "Paid every day until 2030-12-31.",
	} {
		if got := terms.Text(); got != want {
			t.Errorf("terms %q are told as %q, want %q", terms, got, want)
		}
	}
	w := newWorld(t, "")
	w.config.BaseURL = "http://shop.example"
	for _, terms := range []merchant.Terms{"install 1", "install 1001", "install 02", "recur 0 20301231", "recur 301 20301231", "recur 1 20301301", "never", "install"} {
		c := *w.config.Catalogue
		c.Terms = []merchant.Terms{terms}
		w.config.Catalogue = &c
		if _, err := merchant.New(w.config); err == nil || !strings.Contains(err.Error(), "terms") {
			t.Errorf("catalogue with terms %q: %v", terms, err)
		}
	}
}

// A database of the former version is taken over, with what was under way.
func TestUpgrade(t *testing.T) {
	eachManual(t, func(t *testing.T, w *world) {
		op := w.operator(t)
		captured, _ := w.paid(t)
		op.done(op.capture(captured.ID, 0))
		capturing, _ := w.paid(t)
		w.gateway.behave(lostAnswer)
		must[*merchant.Operation](t)(op.capture(capturing.ID, 0))
		poll(t, "the gateway captures", func() bool { _, _, n := w.gateway.counts(); return n == 2 })
		w.gateway.behave(approve)
		w.await(t, capturing.ID, merchant.OrderCaptured)
		declined := w.order(t)
		w.gateway.behave(decline)
		wantAuth(t, w.wake(t, w.card(t, firstPAN), declined.ID).pay(t), set.AuthDeclined)
		w.gateway.behave(lostAnswer)
		authorizing := w.order(t)
		c := w.wake(t, w.card(t, firstPAN), authorizing.ID)
		if err := c.initiate(t); err != nil {
			t.Fatal(err)
		}
		preq := c.sign(t)
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			c.w.merchant.ServeSET(t.Context(), preq)
		}()
		poll(t, "the gateway authorizes", func() bool { _, n, _ := w.gateway.counts(); return n == 3 })
		w.stop()
		<-gone
		w.downgrade(t, map[string]string{captured.ID: "captured", capturing.ID: "pending", declined.ID: "declined", authorizing.ID: "authorizing"})
		w.gateway.behave(approve)
		w.start(t)
		w.await(t, authorizing.ID, merchant.OrderAuthorized)
		w.wantMoney(t, authorizing.ID, merchant.OrderAuthorized, 4250, 0, 0)
		w.await(t, capturing.ID, merchant.OrderCaptured)
		w.wantMoney(t, capturing.ID, merchant.OrderCaptured, 4250, 4250, 0)
		w.wantMoney(t, captured.ID, merchant.OrderCaptured, 4250, 4250, 0)
		if o := w.look(t, declined.ID); o.State != merchant.OrderDeclined || o.Payment.AuthCode != "declined" {
			t.Errorf("declined order %s, payment %+v", o.State, o.Payment)
		}
		op = w.operator(t)
		op.done(op.refund(captured.ID, 0))
		op.done(op.capture(authorizing.ID, 0))
		if _, auths, caps := w.gateway.counts(); auths != 3 || caps != 3 {
			t.Errorf("%d authorizations and %d captures, want 3 and 3", auths, caps)
		}
	})
}

// downgrade writes sales as the former version did: each had one authorization and one capture.
func (w *world) downgrade(t *testing.T, states map[string]string) {
	t.Helper()
	db := must[*sqldb.DB](t)(sqldb.Open(t.Context(), w.dbURL, fstest.MapFS{}))
	defer db.Close()
	one := func(tx *sql.Tx, orderID, state string) error {
		var xid, raw, octets []byte
		err := tx.QueryRow(`SELECT s.xid, s.record, o.octets FROM sale s JOIN shop_order w ON w.xid = s.xid LEFT JOIN operation o ON o.id = s.pending WHERE w.id = $1`, orderID).
			Scan(&xid, &raw, &octets)
		if err != nil {
			return err
		}
		var rec struct {
			Sale           json.RawMessage
			Authorizations []map[string]any
		}
		if err := json.Unmarshal(raw, &rec); err != nil {
			return err
		}
		a := rec.Authorizations[0]
		capture, saleState, captureState, orderState := a["Capture"], "authorized", "", "authorized"
		delete(a, "Capture")
		delete(a, "Position")
		old := map[string]any{"Sale": rec.Sale, "Authorization": a}
		switch state {
		case "captured":
			c := capture.(map[string]any)
			payload := c["Payload"].(map[string]any)
			old["Capture"] = map[string]any{
				"Request": map[string]any{"Items": []any{map[string]any{"Payload": payload}}}, "At": c["At"], "Code": c["Code"], "Amount": payload["CapReqAmt"],
			}
			captureState, orderState = "captured", "captured"
		case "pending":
			captureState = "pending"
		case "declined":
			saleState, orderState = "declined", "declined"
		case "authorizing":
			saleState, orderState = "authorizing", "authorizing"
		}
		if raw, err = json.Marshal(old); err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE sale SET form = 1, pending = '', state = $1, record = $2, capture_state = $3, auth_req = $4 WHERE xid = $5`,
			saleState, raw, captureState, octets, xid); err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE shop_order SET state = $1 WHERE id = $2`, orderState, orderID); err != nil {
			return err
		}
		return db.Enqueue(t.Context(), tx, "authorize", orderID, xid, time.Time{})
	}
	err := db.Tx(t.Context(), func(tx *sql.Tx) error {
		if _, err := tx.Exec(`DELETE FROM sqldb_job`); err != nil {
			return err
		}
		for id, state := range states {
			if err := one(tx, id, state); err != nil {
				return err
			}
		}
		for _, table := range []string{"operation", "batch_item"} {
			if _, err := tx.Exec(`DELETE FROM ` + table); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
