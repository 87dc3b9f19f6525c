package merchant_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/settest"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

// wantAuth checks a payload that tells of an authorization.
func wantAuth(t *testing.T, p set.PResPayload, want set.AuthCode) {
	t.Helper()
	if p.CompletionCode != set.AuthorizationPerformed && p.CompletionCode != set.CapturePerformed {
		t.Fatalf("completion code %v, want an authorization", p.CompletionCode)
	}
	if got := p.Results.AuthStatus; got.AuthCode != want || got.AuthRatio.Float64() != 1 {
		t.Errorf("AuthStatus %v with ratio %v, want %v with 1", got.AuthCode, got.AuthRatio.Float64(), want)
	}
}

func wantCompletion(t *testing.T, p set.PResPayload, want set.CompletionCode) {
	t.Helper()
	if p.CompletionCode != want {
		t.Errorf("completion code %v, want %v", p.CompletionCode, want)
	}
}

func TestPurchase(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		order := w.order(t)
		if order.State != merchant.OrderNew || order.Total != "42.50 EUR" || order.Number != 1001 {
			t.Errorf("new order %+v", order)
		}
		c := w.wake(t, w.card(t, firstPAN), order.ID)
		want := "Order 1001\r\n1 x The Elements of Programming at 42.00 EUR\r\n2 x Pencil 2B at 0.25 EUR\r\nTotal 42.50 EUR"
		if diff := cmp.Diff(want, string(c.purchase.OD)); diff != "" {
			t.Errorf("order description (-want +got):\n%s", diff)
		}
		wantAuth(t, c.pay(t), set.AuthApproved)

		paid := w.await(t, order.ID, merchant.OrderCaptured)
		got := *paid.Payment
		if got.Authorized == nil || got.Captured == nil {
			t.Errorf("payment without dates: %+v", got)
		}
		got.Authorized, got.Captured, got.Authorizations = nil, nil, nil
		all := merchant.Money{Currency: "EUR", Minor: 4250}
		if diff := cmp.Diff(merchant.Payment{
			XID: c.purchase.TransIDs.XID, Cardholder: set.CardholderCertified, AuthCode: "approved", ApprovalCode: "A12345", Capture: merchant.CaptureDone, CapCode: "success",
			AuthorizedAmount: all, CapturedAmount: all, RefundedAmount: merchant.Money{Currency: "EUR"}, Possible: []string{"void", "refund"},
		}, got, cmpopts.IgnoreUnexported(merchant.Money{})); diff != "" {
			t.Errorf("payment (-want +got):\n%s", diff)
		}
		if n, auths, caps := w.gateway.counts(); n != 2 || auths != 1 || caps != 1 {
			t.Errorf("%d messages, %d authorizations, %d captures at the gateway, want 2, 1, 1", n, auths, caps)
		}

		p, err := c.inquire(t, c.card)
		if err != nil {
			t.Fatal(err)
		}
		wantCompletion(t, p, set.CapturePerformed)
		if s := p.Results.CapStatus; s.CapCode != set.CapSuccess || s.CapRatio.Float64() != 1 {
			t.Errorf("CapStatus %+v", s)
		}

		// What is paid cannot be paid again.
		if status, _, _ := w.ask(t, "GET", "/orders/"+order.ID+"/pay", "*/*", "", ""); status != http.StatusConflict {
			t.Errorf("initiation message of a paid order: status %d, want 409", status)
		}
		again := &wallet{w: w, card: c.card, url: c.url, purchase: must[*set.Purchase](t)(set.NewPurchase(&set.Initiation{
			PurchAmt: &c.purchase.PurchAmt, Brands: []set.BrandID{settest.Brand}, LIDM: c.purchase.TransIDs.LIDM, Order: c.purchase.OD,
		}, settest.Brand, "411111", "en"))}
		if err := again.initiate(t); peerCode(err) != set.UnspecifiedFailure {
			t.Errorf("PInitReq for a paid order: %v", err)
		}
		w.checkSecrecy(t, c.card)
	})
}

// checkSecrecy searches everything that the merchant stored, logged, received and sent for card data.
func (w *world) checkSecrecy(t *testing.T, card *settest.Card) {
	t.Helper()
	a := &card.Account
	places := map[string][]byte{"log": w.log.Bytes(), "wire": bytes.Join(w.wire, nil)}
	if path, ok := strings.CutPrefix(w.dbURL, "sqlite:"); ok {
		files := must[[]string](t)(filepath.Glob(path + "*"))
		if len(files) == 0 {
			t.Fatal("no database file to search")
		}
		for _, f := range files {
			places[f] = must[[]byte](t)(os.ReadFile(f))
		}
	}
	secrets := map[string][]byte{"PAN": a.PAN, "expiry": a.CardExpiry, "PANSecret": a.PANSecret[:], "CardSecret": a.CardSecret[:]}
	if !bytes.Contains(places["log"], []byte("purchase request taken")) || len(places["wire"]) == 0 {
		t.Error("there is nothing to search")
	}
	for place, data := range places {
		for name, secret := range secrets {
			for _, form := range forms(secret) {
				if bytes.Contains(data, form) {
					i := bytes.Index(data, form)
					t.Errorf("%s holds the %s: %q", place, name, data[max(0, i-40):min(len(data), i+40)])
				}
			}
		}
	}
}

// forms are the ways in which octets may stand in a file: as they are, in hexadecimal, and inside base64
// at each of its three alignments.
func forms(secret []byte) [][]byte {
	out := [][]byte{secret, []byte(hex.EncodeToString(secret))}
	for lead := range 3 {
		text := base64.RawStdEncoding.EncodeToString(append(make([]byte, lead), secret...))
		// The first and last characters depend on what stands beside the secret.
		out = append(out, []byte(text[(lead*8+5)/6:len(text)-1]))
	}
	return out
}

func TestDeclinedThenPaid(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.gateway.behave(decline)
		order := w.order(t)
		first := w.wake(t, w.card(t, firstPAN), order.ID)
		wantAuth(t, first.pay(t), set.AuthDeclined)
		if o := w.look(t, order.ID); o.State != merchant.OrderDeclined || o.Payment.AuthCode != "declined" || o.Payment.Capture != merchant.CaptureNone {
			t.Errorf("order %+v with payment %+v", o, o.Payment)
		}

		w.gateway.behave(approve)
		second := w.wake(t, first.card, order.ID)
		wantAuth(t, second.pay(t), set.AuthApproved)
		w.await(t, order.ID, merchant.OrderCaptured)
		p, err := first.inquire(t, first.card)
		if err != nil {
			t.Fatal(err)
		}
		wantAuth(t, p, set.AuthDeclined)
	})
}

// A request that comes again, also at the same time, is done once and gets the same answer.
func TestReplay(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		order := w.order(t)
		c := w.wake(t, w.card(t, firstPAN), order.ID)
		init := must[[]byte](t)(c.purchase.InitReq(c.card.Endpoint, time.Now()))
		res := c.post(t, init)
		if !bytes.Equal(res, c.post(t, init)) {
			t.Error("a replayed PInitReq got another answer")
		}
		if _, err := c.purchase.OpenInitRes(c.card.Endpoint, time.Now(), res); err != nil {
			t.Fatal(err)
		}
		preq := c.sign(t)
		answers := make([][]byte, 5)
		var wg sync.WaitGroup
		for i := range answers {
			wg.Go(func() { answers[i] = c.post(t, preq) })
		}
		wg.Wait()
		w.await(t, order.ID, merchant.OrderCaptured)
		for i, a := range append(answers, c.post(t, preq)) {
			if !bytes.Equal(a, answers[0]) {
				t.Errorf("copy %d of PReq got another answer", i+1)
			}
		}
		if _, auths, caps := w.gateway.counts(); auths != 1 || caps != 1 {
			t.Errorf("%d authorizations and %d captures, want 1 and 1", auths, caps)
		}
	})
}

func TestSameRRPIDOtherBytes(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		order := w.order(t)
		c := w.wake(t, w.card(t, firstPAN), order.ID)
		init := func(language set.Language) error {
			c.purchase.TransIDs.Language = language
			return c.initiate(t)
		}
		if err := init("en"); err != nil {
			t.Fatal(err)
		}
		xid := c.purchase.TransIDs.XID
		if err := init("de"); peerCode(err) != set.UnspecifiedFailure || c.purchase.TransIDs.XID != xid {
			t.Errorf("other PInitReq with the same RRPID: %v", err)
		}
		c.purchase.TransIDs.Language = "en"

		resume := w.gateway.pause()
		defer resume()
		done := make(chan set.PResPayload, 1)
		preq := c.sign(t)
		go func() {
			p, err := c.result(t, preq)
			if err != nil {
				t.Error(err)
			}
			done <- p
		}()
		w.await(t, order.ID, merchant.OrderAuthorizing)
		other := c.sign(t) // encrypted and signed anew
		if _, err := c.result(t, other); peerCode(err) != set.UnspecifiedFailure {
			t.Errorf("other PReq with the same RRPID, before the answer: %v", err)
		}
		resume()
		wantAuth(t, <-done, set.AuthApproved)
		if _, err := c.result(t, other); peerCode(err) != set.UnspecifiedFailure {
			t.Errorf("other PReq with the same RRPID, after the answer: %v", err)
		}
		w.await(t, order.ID, merchant.OrderCaptured)
		if _, auths, _ := w.gateway.counts(); auths != 1 {
			t.Errorf("%d authorizations, want 1", auths)
		}
	})
}

func TestSecondPReqOfATransaction(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		order := w.order(t)
		c := w.wake(t, w.card(t, firstPAN), order.ID)
		wantAuth(t, c.pay(t), set.AuthApproved)
		first := c.purchase.RRPID
		c.purchase.RRPID = set.NewRRPID()
		wantCompletion(t, must[set.PResPayload](t)(c.result(t, c.sign(t))), set.OrderRejected)

		// The purchase itself is what it was.
		w.await(t, order.ID, merchant.OrderCaptured)
		c.purchase.RRPID = first
		p, err := c.inquire(t, c.card)
		if err != nil {
			t.Fatal(err)
		}
		wantCompletion(t, p, set.CapturePerformed)
		if _, auths, _ := w.gateway.counts(); auths != 1 {
			t.Errorf("%d authorizations, want 1", auths)
		}
	})
}

func TestTwoWalletsPayOneOrder(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		order := w.order(t)
		wallets := []*wallet{w.wake(t, w.card(t, firstPAN), order.ID), w.wake(t, w.card(t, secondPAN), order.ID)}
		for _, c := range wallets {
			if err := c.initiate(t); err != nil {
				t.Fatal(err)
			}
			c.sign(t)
		}
		results := make([]set.PResPayload, len(wallets))
		var wg sync.WaitGroup
		for i, c := range wallets {
			wg.Go(func() {
				var err error
				if results[i], err = c.result(t, c.preq); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		codes := map[set.CompletionCode]int{}
		for _, p := range results {
			if p.CompletionCode == set.CapturePerformed {
				p.CompletionCode = set.AuthorizationPerformed // whether PRes came before the capture is chance
			}
			codes[p.CompletionCode]++
		}
		if diff := cmp.Diff(map[set.CompletionCode]int{set.AuthorizationPerformed: 1, set.OrderRejected: 1}, codes); diff != "" {
			t.Errorf("answers (-want +got):\n%s", diff)
		}
		w.await(t, order.ID, merchant.OrderCaptured)
		if _, auths, caps := w.gateway.counts(); auths != 1 || caps != 1 {
			t.Errorf("%d authorizations and %d captures, want 1 and 1", auths, caps)
		}
	})
}

func TestOrderMismatch(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		order := w.order(t)
		for name, change := range map[string]func(*set.Purchase){
			"lower amount":      func(p *set.Purchase) { p.PurchAmt.Amount = 1 },
			"other description": func(p *set.Purchase) { p.OD = []byte("1 x Pencil 2B") },
		} {
			c := w.wake(t, w.card(t, firstPAN), order.ID)
			change(c.purchase)
			if p := c.pay(t); p.CompletionCode != set.OrderRejected {
				t.Errorf("%s: completion code %v, want orderRejected", name, p.CompletionCode)
			}
			if p, err := c.inquire(t, c.card); err != nil || p.CompletionCode != set.OrderRejected {
				t.Errorf("%s: inquiry: %v, %v", name, p.CompletionCode, err)
			}
			if _, err := c.inquire(t, w.card(t, secondPAN)); peerCode(err) != set.SignatureFailure {
				t.Errorf("%s: inquiry by another: %v", name, err)
			}
		}
		if n, _, _ := w.gateway.counts(); n != 0 {
			t.Errorf("the gateway got %d messages, want none", n)
		}
		if o := w.look(t, order.ID); o.State != merchant.OrderNew {
			t.Errorf("order %s, want new", o.State)
		}
		wantAuth(t, w.wake(t, w.card(t, firstPAN), order.ID).pay(t), set.AuthApproved)
	})
}

// While nobody can tell what became of the authorization, the cardholder hears orderReceived and the
// gateway gets the same octets again.
func TestGatewayFails(t *testing.T) {
	for name, b := range map[string]behaviour{
		"away": away, "garbage": garbage, "answer lost": lostAnswer, "error that nobody signed": unsignedError,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sqldbtest.Each(t, func(t *testing.T, dbURL string) {
				w := newWorld(t, dbURL)
				w.config.AnswerTimeout = 300 * time.Millisecond
				w.start(t)
				w.gateway.behave(b)
				order := w.order(t)
				c := w.wake(t, w.card(t, firstPAN), order.ID)
				wantCompletion(t, c.pay(t), set.OrderReceived)
				if p, err := c.inquire(t, c.card); err != nil || p.CompletionCode != set.OrderReceived {
					t.Errorf("inquiry: %v, %v", p.CompletionCode, err)
				}
				if status, _, _ := w.ask(t, "GET", "/orders/"+order.ID+"/pay", "*/*", "", ""); status != http.StatusConflict {
					t.Errorf("initiation message meanwhile: status %d, want 409", status)
				}
				poll(t, "the gateway is asked", func() bool { return w.gateway.different() > 0 })
				if d := w.gateway.different(); d != 1 {
					t.Errorf("the gateway got %d different messages, want 1", d)
				}
				w.gateway.behave(approve)
				w.await(t, order.ID, merchant.OrderCaptured)
				if _, auths, caps := w.gateway.counts(); auths != 1 || caps != 1 || w.gateway.different() != 2 {
					t.Errorf("%d authorizations, %d captures, %d different messages, want 1, 1, 2", auths, caps, w.gateway.different())
				}
				p, err := c.inquire(t, c.card)
				if err != nil {
					t.Fatal(err)
				}
				wantCompletion(t, p, set.CapturePerformed)
				// The purchase request itself keeps its answer.
				wantCompletion(t, must[set.PResPayload](t)(c.result(t, c.preq)), set.OrderReceived)
			})
		})
	}
}

// An Error that the gateway signs is an outcome: nothing was authorized.
func TestGatewayRefuses(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.gateway.behave(refuse)
		order := w.order(t)
		wantAuth(t, w.wake(t, w.card(t, firstPAN), order.ID).pay(t), set.AuthUnspecifiedFailure)
		if o := w.look(t, order.ID); o.State != merchant.OrderFailed || !strings.Contains(o.Payment.Failure, "invalidCertificate") {
			t.Errorf("order %s with payment %+v", o.State, o.Payment)
		}
		w.gateway.behave(approve)
		wantAuth(t, w.wake(t, w.card(t, firstPAN), order.ID).pay(t), set.AuthApproved)
	})
}

// A request that got too old on its way leaves open whether an earlier copy was authorized: so what may have
// been authorized is taken back, and the order can be paid anew.
func TestAuthorizationTooOld(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.config.AnswerTimeout = time.Second
		w.crash(t)
		for name, prepare := range map[string]func(){
			"that the gateway never saw": func() { w.gateway.behave(tooOldOnce) },
			"that the gateway authorized": func() {
				w.gateway.behave(lostAnswer)
				go func() {
					before := w.gateway.did(set.AuthReqType)
					for w.gateway.did(set.AuthReqType) == before {
						time.Sleep(time.Millisecond)
					}
					w.gateway.behave(tooOldOnce)
				}()
			},
		} {
			order := w.order(t)
			c := w.wake(t, w.card(t, firstPAN), order.ID)
			prepare()
			p := c.pay(t)
			if p.CompletionCode != set.OrderReceived {
				wantAuth(t, p, set.AuthNoReply)
			}
			o := w.await(t, order.ID, merchant.OrderFailed)
			if !strings.Contains(o.Payment.Failure, "taken back") {
				t.Errorf("%s: failure %q", name, o.Payment.Failure)
			}
			if all := w.gateway.positions(); len(all) > 0 && all[len(all)-1].State != set.StateReversed {
				t.Errorf("%s: the gateway holds %+v", name, all)
			}
			if again := w.wake(t, c.card, order.ID).pay(t); again.CompletionCode != set.OrderReceived { // or it took longer
				wantAuth(t, again, set.AuthApproved)
			}
			w.await(t, order.ID, merchant.OrderCaptured)
			w.gateway.set(func() { w.gateway.order = nil })
		}
	})
}

// A sale that may have been captured cannot be taken back so: a person asks the acquirer.
func TestSaleTooOld(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.config.AnswerTimeout, w.config.Capture = 300*time.Millisecond, merchant.CaptureWithSale
		w.crash(t)
		order := w.order(t)
		c := w.wake(t, w.card(t, firstPAN), order.ID)
		w.gateway.behave(lostAnswer)
		wantCompletion(t, c.pay(t), set.OrderReceived)
		w.gateway.behave(tooOldOnce)
		o := w.await(t, order.ID, merchant.OrderUnresolved)
		if !strings.Contains(o.Payment.Failure, "invalidTransaction") || o.Payment.Possible != nil {
			t.Errorf("payment %+v", o.Payment)
		}
		if status, _, _ := w.ask(t, "GET", "/orders/"+order.ID+"/pay", "*/*", "", ""); status != http.StatusConflict {
			t.Errorf("initiation message: status %d, want 409", status)
		}
		if _, err := w.config.Store.Refund(t.Context(), time.Now(), order.ID, 0); !orderError(err, "acquirer") {
			t.Errorf("refund: %v", err)
		}
		if p, err := c.inquire(t, c.card); err != nil || p.CompletionCode != set.OrderReceived {
			t.Errorf("inquiry: %v, %v", p.CompletionCode, err)
		}
	})
}

// crash cuts off what the merchant is doing and starts it again on the same database.
func (w *world) crash(t *testing.T) {
	t.Helper()
	w.stop()
	w.start(t)
}

func TestCrashWhileAuthorizing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for name, b := range map[string]behaviour{"before the gateway acts": away, "after the gateway acted": lostAnswer} {
			w.gateway.behave(b)
			received, before, _ := w.gateway.counts()
			order := w.order(t)
			c := w.wake(t, w.card(t, firstPAN), order.ID)
			if err := c.initiate(t); err != nil {
				t.Fatal(err)
			}
			preq := c.sign(t)
			ended := make(chan error, 1)
			go func() {
				client := sethttp.Client{Tries: 1}
				_, err := client.Post(t.Context(), c.url, sethttp.MediaPayment, preq)
				ended <- err
			}()
			w.await(t, order.ID, merchant.OrderAuthorizing)
			poll(t, "the gateway got the request", func() bool { n, _, _ := w.gateway.counts(); return n > received })
			w.crash(t)
			var unreachable *sethttp.UnreachableError
			if err := <-ended; !errors.As(err, &unreachable) {
				t.Errorf("%s: the answer of the crashed merchant: %v", name, err)
			}
			w.gateway.behave(approve)
			w.await(t, order.ID, merchant.OrderAuthorized)
			if _, auths, _ := w.gateway.counts(); auths != before+1 {
				t.Errorf("%s: %d authorizations, want 1", name, auths-before)
			}
			// The wallet asks again, at the address that the merchant has now.
			c.url = w.config.BaseURL + "/set"
			wantAuth(t, must[set.PResPayload](t)(c.result(t, preq)), set.AuthApproved)
		}
	})
}

func TestCaptureFails(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.config.Capture = merchant.CaptureManually
		w.crash(t)
		order := w.order(t)
		if _, err := w.config.Store.Capture(t.Context(), time.Now(), order.ID, 0); !orderError(err, "not paid") {
			t.Errorf("capture of an unpaid order: %v", err)
		}
		if _, err := w.config.Store.Capture(t.Context(), time.Now(), "NOSUCHORDER", 0); !errors.Is(err, merchant.ErrNoOrder) {
			t.Errorf("capture of no order: %v", err)
		}
		wantAuth(t, w.wake(t, w.card(t, firstPAN), order.ID).pay(t), set.AuthApproved)
		if o := w.look(t, order.ID); o.State != merchant.OrderAuthorized || o.Payment.Capture != merchant.CaptureNone {
			t.Errorf("order %s with capture %q before it is asked for", o.State, o.Payment.Capture)
		}
		w.gateway.behave(lostAnswer)
		if _, err := w.config.Store.Capture(t.Context(), time.Now(), order.ID, 0); err != nil {
			t.Fatal(err)
		}
		poll(t, "the gateway captured", func() bool { _, _, n := w.gateway.counts(); return n == 1 })
		if o := w.look(t, order.ID); o.Payment.Capture != merchant.CapturePending {
			t.Errorf("capture %q while its answer is awaited", o.Payment.Capture)
		}
		// The same octets are too old by now: they are made anew, and captured once all the same.
		w.gateway.behave(tooOld)
		poll(t, "the capture request was made anew", func() bool { return w.gateway.different() >= 3 })
		w.gateway.behave(approve)
		w.await(t, order.ID, merchant.OrderCaptured)
		if _, _, caps := w.gateway.counts(); caps != 1 {
			t.Errorf("%d captures, want 1", caps)
		}
		if _, err := w.config.Store.Capture(t.Context(), time.Now(), order.ID, 0); !orderError(err, "what can be done: void, refund") {
			t.Errorf("second capture: %v", err)
		}
	})
}

func TestCaptureRefused(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.config.Capture = merchant.CaptureManually
		w.crash(t)
		order := w.order(t)
		c := w.wake(t, w.card(t, firstPAN), order.ID)
		wantAuth(t, c.pay(t), set.AuthApproved)
		w.gateway.behave(refuse)
		if _, err := w.config.Store.Capture(t.Context(), time.Now(), order.ID, 0); err != nil {
			t.Fatal(err)
		}
		poll(t, "the capture is refused", func() bool { return w.look(t, order.ID).Payment.Capture == merchant.CaptureRefused })
		if o := w.look(t, order.ID); o.State != merchant.OrderAuthorized || !strings.Contains(o.Payment.Failure, "invalidCertificate") {
			t.Errorf("order %s with payment %+v", o.State, o.Payment)
		}
		p, err := c.inquire(t, c.card)
		if err != nil {
			t.Fatal(err)
		}
		wantCompletion(t, p, set.AuthorizationPerformed)
	})
}

func TestInquiry(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		order := w.order(t)
		c, other := w.wake(t, w.card(t, firstPAN), order.ID), w.card(t, secondPAN)
		if err := c.initiate(t); err != nil {
			t.Fatal(err)
		}
		ask := func(when string, want set.CompletionCode) {
			t.Helper()
			if p, err := c.inquire(t, c.card); err != nil || p.CompletionCode != want {
				t.Errorf("%s: %v, %v, want %v", when, p.CompletionCode, err, want)
			}
		}
		ask("before", set.OrderNotReceived)
		resume := w.gateway.pause()
		defer resume()
		done := make(chan error, 1)
		preq := c.sign(t)
		go func() {
			_, err := c.result(t, preq)
			done <- err
		}()
		w.await(t, order.ID, merchant.OrderAuthorizing)
		ask("during", set.OrderReceived)
		if _, err := c.inquire(t, other); peerCode(err) != set.SignatureFailure {
			t.Errorf("by another cardholder, during: %v", err)
		}
		resume()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		w.await(t, order.ID, merchant.OrderCaptured)
		ask("after", set.CapturePerformed)
		if _, err := c.inquire(t, other); peerCode(err) != set.SignatureFailure {
			t.Errorf("by another cardholder, after: %v", err)
		}

		c.purchase.TransIDs.XID = set.NewXID()
		ask("about an unknown transaction", set.OrderNotReceived)
	})
}

func TestBadMessages(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		order := w.order(t)
		c := w.wake(t, w.card(t, firstPAN), order.ID)
		if err := c.initiate(t); err != nil {
			t.Fatal(err)
		}
		preq := c.sign(t)
		noise := make([]byte, 2<<20)
		rand.Read(noise)
		flipped := bytes.Clone(preq)
		flipped[len(flipped)/2] ^= 1
		for name, bad := range map[string]struct {
			message []byte
			codes   []set.ErrorCode
		}{
			"empty":     {nil, []set.ErrorCode{set.DecodingFailure}},
			"random":    {noise[:1000], []set.ErrorCode{set.DecodingFailure}},
			"truncated": {preq[:len(preq)/2], []set.ErrorCode{set.DecodingFailure}},
			"2 MiB":     {noise, []set.ErrorCode{set.MessageTooBig}},
			"too old":   {must[[]byte](t)(c.purchase.Request(c.card.Endpoint, time.Now().Add(-time.Hour), &c.card.Account)), []set.ErrorCode{set.MessageTooOld}},
		} {
			got := must[*set.MessageWrapper](t)(set.Decode(c.post(t, bad.message)))
			if got.Message.Error == nil || got.Message.Error.SignedError == nil {
				t.Errorf("%s: the answer is %v, want a signed Error", name, got.Message.Type())
				continue
			}
			var peer *set.PeerError
			if _, err := c.purchase.OpenResponse(c.card.Endpoint, time.Now(), c.post(t, bad.message)); !errors.As(err, &peer) || peer.Code != bad.codes[0] {
				t.Errorf("%s: %v, want %v", name, err, bad.codes[0])
			}
		}
		if got := must[*set.MessageWrapper](t)(set.Decode(c.post(t, flipped))); got.Message.Error == nil {
			t.Errorf("changed on its way: the answer is %v, want an Error", got.Message.Type())
		}
		// A message of another kind, and an order that does not exist.
		q := must[*set.Purchase](t)(set.NewPurchase(&set.Initiation{
			PurchAmt: &c.purchase.PurchAmt, Brands: []set.BrandID{settest.Brand}, LIDM: set.NewLocalID(),
		}, settest.Brand, "411111", "en"))
		lost := &wallet{w: w, card: c.card, purchase: q, url: c.url}
		if err := lost.initiate(t); peerCode(err) != set.UnknownLID {
			t.Errorf("unknown order: %v", err)
		}
		if n, _, _ := w.gateway.counts(); n != 0 {
			t.Errorf("the gateway got %d messages, want none", n)
		}
		if o := w.look(t, order.ID); o.State != merchant.OrderNew {
			t.Errorf("order %s, want new", o.State)
		}
		wantAuth(t, must[set.PResPayload](t)(c.result(t, preq)), set.AuthApproved)
	})
}

// A started transaction waits half an hour for its purchase request.
func TestInitiatedExpires(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		order := w.order(t)
		c := w.wake(t, w.card(t, firstPAN), order.ID)
		w.config.Now = func() time.Time { return time.Now().Add(-31 * time.Minute) }
		w.config.Endpoint.Window = time.Hour
		w.crash(t)
		c.url = w.config.BaseURL + "/set"
		if err := c.initiate(t); err == nil {
			t.Error("the wallet takes an answer that is half an hour old")
		}
		c.card.Endpoint.Window = time.Hour
		c.purchase.InitRRPID = set.NewRRPID()
		if err := c.initiate(t); err != nil {
			t.Fatal(err)
		}
		preq := c.sign(t)
		w.config.Now = nil
		w.crash(t)
		c.url = w.config.BaseURL + "/set"
		if _, err := c.result(t, preq); peerCode(err) != set.UnknownXID {
			t.Errorf("purchase request after 31 minutes: %v", err)
		}
	})
}

// A gateway that is revoked, by lists that the merchant has got while it serves, is offered to nobody and sent
// nothing.
func TestGatewayRevoked(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		card := w.card(t, firstPAN)
		order := w.order(t)
		wantAuth(t, w.wake(t, card, order.ID).pay(t), set.AuthApproved)
		w.await(t, order.ID, merchant.OrderCaptured)
		before, _, _ := w.gateway.counts()
		next := w.wake(t, card, w.order(t).ID)
		w.config.Endpoint.Verifier.Adopt(w.Revoke(t, 1, w.config.Gateways[0].Certificate))
		req := must[[]byte](t)(next.purchase.InitReq(card.Endpoint, time.Now()))
		res := must[*http.Response](t)(http.Post(next.url, sethttp.MediaPayment, bytes.NewReader(req)))
		res.Body.Close()
		if res.StatusCode != http.StatusBadRequest {
			t.Errorf("offered the revoked gateway: status %d", res.StatusCode)
		}
		if status, body, _ := w.ask(t, "GET", "/readyz", "*/*", "", ""); status != http.StatusServiceUnavailable || !strings.Contains(string(body), "certificate") {
			t.Errorf("readyz: %d %s", status, body)
		}
		if n, _, _ := w.gateway.counts(); n != before {
			t.Errorf("the revoked gateway was sent %d messages", n-before)
		}
	})
}
