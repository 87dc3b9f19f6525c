package merchant_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/sethttp"
)

// tell gives a gateway the brand's lists of what is revoked.
func (w *world) tell(t *testing.T, e *set.Endpoint, revoked ...*pki.Certificate) {
	t.Helper()
	bci, crl := w.RevocationLists(t, revoked...)
	e.Verifier = must[*pki.Verifier](t)(w.Endpoint(t).Verifier.Update(bci, []*pki.CRL{crl}, w.Chain(pki.PCA), time.Now()))
}

func (w *world) wantReady(t *testing.T, status int, text string) {
	t.Helper()
	if got, body, _ := w.ask(t, "GET", "/readyz", "*/*", "", ""); got != status || !strings.Contains(string(body), text) {
		t.Errorf("ready: %d %s, want %d and %q", got, body, status, text)
	}
}

// restart is crash, of a merchant that knows of revocation what its database has.
func (w *world) restart(t *testing.T) {
	t.Helper()
	e := *w.config.Endpoint
	e.Verifier = w.Endpoint(t).Verifier
	w.config.Endpoint = &e
	w.crash(t)
}

// A renewed certificate is used at once, and after a restart; one that was revoked is not used any more.
func TestGatewayCertificateRenewed(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		poll(t, "the gateway is asked at the start", func() bool {
			asked := false
			w.gateway.set(func() { asked = w.gateway.certAsked > 0 })
			return asked
		})
		order := w.order(t)
		early := w.wake(t, w.card(t, firstPAN), order.ID)
		if err := early.initiate(t); err != nil {
			t.Fatal(err)
		}
		stolen, renewed := w.gateway.e, w.Gateway(t, "G-0001")
		w.tell(t, renewed, stolen.ExchangeCert, stolen.SignCert)
		w.gateway.set(func() { w.gateway.e = renewed })
		if err := w.merchant.RefreshGateways(t.Context()); err != nil {
			t.Fatal(err)
		}
		// What was encrypted for the stolen key goes no further.
		if _, err := early.result(t, early.sign(t)); peerCode(err) != set.InvalidCertificate {
			t.Errorf("payment instructions for a revoked key: %v", err)
		}
		for _, when := range []string{"at once", "after a restart, though nobody tells it again"} {
			c := w.wake(t, early.card, order.ID)
			if err := c.initiate(t); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			if !bytes.Equal(c.purchase.GatewayCert, renewed.ExchangeCert.X509.Raw) {
				t.Errorf("%s: the certificate offered is not the renewed one", when)
			}
			w.gateway.behave(away)
			w.restart(t)
			w.wantReady(t, http.StatusOK, "ready")
		}
		w.gateway.behave(approve)
		c := w.wake(t, early.card, order.ID)
		wantAuth(t, c.pay(t), set.AuthApproved)
		w.await(t, order.ID, merchant.OrderCaptured)
		// A configuration with the stolen certificate alone does not bring it back: the lists were kept.
		w.gateway.behave(away)
		other := w.Gateway(t, "G-0009")
		w.config.Gateways = []merchant.Gateway{{Certificate: stolen.ExchangeCert, Chain: stolen.Chain, URL: w.gateway.server.URL}}
		w.restart(t)
		w.wantReady(t, http.StatusOK, "ready")
		w.config.Gateways[0].Certificate = other.ExchangeCert // another gateway: what is stored of the first is not for it
		w.crash(t)
		c = w.wake(t, early.card, w.order(t).ID)
		if err := c.initiate(t); err != nil || !bytes.Equal(c.purchase.GatewayCert, other.ExchangeCert.X509.Raw) {
			t.Errorf("another gateway in the configuration: %v", err)
		}
		// A newer certificate in the configuration is not hidden by the one that was learnt, even if both are of one age.
		newest := w.Gateway(t, "G-0001")
		w.config.Gateways[0].Certificate = newest.ExchangeCert
		w.crash(t)
		c = w.wake(t, early.card, w.order(t).ID)
		if err := c.initiate(t); err != nil || !bytes.Equal(c.purchase.GatewayCert, newest.ExchangeCert.X509.Raw) {
			t.Errorf("a newer certificate in the configuration: %v", err)
		}
	})
}

// A gateway that has renewed says so in its answer to a payment; the merchant offers the new certificate from then on,
// also after a restart.
func TestGatewayNamesItsCertificate(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		poll(t, "the gateway is asked at the start", func() bool {
			asked := false
			w.gateway.set(func() { asked = w.gateway.certAsked > 0 })
			return asked
		})
		renewed := w.Renewed(t, w.gateway.e)
		w.gateway.set(func() { w.gateway.e = renewed })
		order := w.order(t)
		card := w.card(t, firstPAN)
		wantAuth(t, w.wake(t, card, order.ID).pay(t), set.AuthApproved)
		w.await(t, order.ID, merchant.OrderCaptured)
		offered := func() bool {
			c := w.wake(t, card, w.order(t).ID)
			if err := c.initiate(t); err != nil {
				t.Fatal(err)
			}
			return bytes.Equal(c.purchase.GatewayCert, renewed.ExchangeCert.X509.Raw)
		}
		poll(t, "the renewed certificate is offered", offered)
		w.gateway.behave(away)
		w.restart(t)
		if !offered() {
			t.Error("after a restart the former certificate is offered")
		}
	})
}

// A merchant renews while it serves. It signs with the new key from then on, and reads the answer to a request from
// before, which the gateway sends again as it was.
func TestOwnRenewal(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.gateway.behave(lostAnswer)
		order := w.order(t)
		c := w.wake(t, w.card(t, firstPAN), order.ID)
		if err := c.initiate(t); err != nil {
			t.Fatal(err)
		}
		preq := c.sign(t)
		resume := w.gateway.pause()
		paid := make(chan error, 1)
		go func() {
			_, err := new(sethttp.Client).Post(context.WithoutCancel(t.Context()), c.url, sethttp.MediaPayment, preq)
			paid <- err
		}()
		poll(t, "the gateway was asked", func() bool { return w.gateway.waiting() > 0 })
		before := w.config.Endpoint
		next := w.Renewed(t, before)
		next.Verifier = before.Verifier
		if err := w.merchant.Renew(next); err != nil {
			t.Fatal(err)
		}
		resume()
		poll(t, "the gateway has done it", func() bool { _, n, _ := w.gateway.counts(); return n == 1 })
		w.gateway.behave(approve)
		w.await(t, order.ID, merchant.OrderCaptured)
		if err := <-paid; err != nil {
			t.Error(err)
		}
		if _, n, _ := w.gateway.counts(); n != 1 {
			t.Errorf("%d authorizations", n)
		}
		c = w.wake(t, c.card, w.order(t).ID)
		wantAuth(t, c.pay(t), set.AuthApproved)
		if !bytes.Equal(c.purchase.MerchantCert, next.SignCert.X509.Raw) {
			t.Error("the merchant goes on with its former certificate")
		}
		if err := w.merchant.Renew(w.Merchant(t, "M-0002")); err == nil {
			t.Error("another merchant's certificates are taken for a renewal")
		}
		if err := w.merchant.Renew(w.Endpoint(t)); err == nil {
			t.Error("no certificates are taken for a renewal")
		}
	})
}

// A gateway all of whose certificates are revoked is not offered, until it has a new one.
func TestGatewayTellsThatItIsRevoked(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		stolen := w.gateway.e
		w.gateway.set(func() { w.tell(t, w.gateway.e, stolen.ExchangeCert, stolen.SignCert) })
		if err := w.merchant.RefreshGateways(t.Context()); err == nil || !strings.Contains(err.Error(), "revoked") {
			t.Errorf("the revoked gateway's answer: %v", err)
		}
		w.wantReady(t, http.StatusServiceUnavailable, "revoked")
		c := w.wake(t, w.card(t, firstPAN), w.order(t).ID)
		if err := c.initiate(t); peerCode(err) != set.UnspecifiedFailure {
			t.Errorf("PInitReq: %v", err)
		}
		// A certificate of another gateway is no way out.
		w.gateway.set(func() { w.gateway.e = w.GatewayOf(t, "Another bank", "G-0001") })
		if err := w.merchant.RefreshGateways(t.Context()); err == nil {
			t.Error("the certificate of another acquirer's gateway is taken")
		}
		w.gateway.set(func() {
			w.gateway.e = w.Gateway(t, "G-0001")
			w.tell(t, w.gateway.e, stolen.ExchangeCert, stolen.SignCert)
		})
		if err := w.merchant.RefreshGateways(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.wantReady(t, http.StatusOK, "ready")
		wantAuth(t, c.pay(t), set.AuthApproved)
	})
}

// What is revoked is learnt from the answers to payment messages too, and kept.
func TestListsLearntFromAnswers(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		poll(t, "the gateway is asked at the start", func() bool {
			asked := false
			w.gateway.set(func() { asked = w.gateway.certAsked > 0 })
			return asked
		})
		stolen := w.Gateway(t, "G-0002")
		w.gateway.set(func() { w.tell(t, w.gateway.e, stolen.ExchangeCert, stolen.SignCert) })
		order := w.order(t)
		wantAuth(t, w.wake(t, w.card(t, firstPAN), order.ID).pay(t), set.AuthApproved)
		w.await(t, order.ID, merchant.OrderCaptured)
		w.gateway.behave(away)
		w.config.Gateways = []merchant.Gateway{{Certificate: stolen.ExchangeCert, Chain: stolen.Chain, URL: w.gateway.server.URL}}
		poll(t, "the lists are kept", func() bool {
			w.restart(t)
			status, _, _ := w.ask(t, "GET", "/readyz", "*/*", "", "")
			return status == http.StatusServiceUnavailable
		})
		w.wantReady(t, http.StatusServiceUnavailable, "revoked")
	})
}

// A request that is for a key revoked meanwhile is not sent.
func TestNothingForARevokedKey(t *testing.T) {
	eachManual(t, func(t *testing.T, w *world) {
		op := w.operator(t)
		order := w.orderOn(t, "split")
		c := w.wake(t, w.card(t, firstPAN), order.ID)
		wantCompletion(t, c.pay(t), set.OrderReceived)
		stolen, renewed := w.gateway.e, w.Gateway(t, "G-0001")
		w.tell(t, renewed, stolen.ExchangeCert)
		w.gateway.set(func() { w.gateway.e = renewed })
		if err := w.merchant.RefreshGateways(t.Context()); err != nil {
			t.Fatal(err)
		}
		before, _, _ := w.gateway.counts()
		if got := op.outcome(op.ship(order.ID, 1000, false)); got.State != merchant.OperationRefused || !strings.Contains(got.Failure, "revoked") {
			t.Errorf("shipment: %+v", got)
		}
		if n, _, _ := w.gateway.counts(); n != before {
			t.Error("a request for a revoked key was sent")
		}
		w.await(t, order.ID, merchant.OrderFailed) // and can be paid anew
		wantCompletion(t, w.wake(t, c.card, order.ID).pay(t), set.OrderReceived)
		op.done(op.ship(order.ID, 1000, false))
		op.done(op.capture(order.ID, 0))
		w.wantMoney(t, order.ID, merchant.OrderCaptured, 1000, 1000, 0)
	})
}

// What may have been sent for a key before it was revoked, and was not answered, is for a person to look into.
func TestRevokedWhileAwaited(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.config.AnswerTimeout = 300 * time.Millisecond
		w.crash(t)
		resume := w.gateway.pause()
		defer resume()
		order := w.order(t)
		wantCompletion(t, w.wake(t, w.card(t, firstPAN), order.ID).pay(t), set.OrderReceived)
		stolen, renewed := w.gateway.e, w.Gateway(t, "G-0001")
		w.tell(t, renewed, stolen.ExchangeCert)
		w.gateway.set(func() { w.gateway.e = renewed })
		if err := w.merchant.RefreshGateways(t.Context()); err != nil {
			t.Fatal(err)
		}
		resume() // the gateway cannot open the request any more
		if o := w.await(t, order.ID, merchant.OrderUnresolved); !strings.Contains(o.Payment.Failure, "revoked") {
			t.Errorf("payment %+v", o.Payment)
		}
	})
}

// A capture that may have been sent for such a key is asked for anew, for the gateway's new one. A gateway that
// cannot read its own token any more does not tell whether it has captured.
func TestRevokedWhileCapturing(t *testing.T) {
	eachManual(t, func(t *testing.T, w *world) {
		op := w.operator(t)
		o, _ := w.paid(t)
		w.gateway.behave(lostAnswer)
		asked := must[*merchant.Operation](t)(op.capture(o.ID, 1000))
		poll(t, "the gateway captures", func() bool { return w.gateway.did(set.CapReqType) == 1 })
		w.gateway.behave(certsOnly)
		stolen, renewed := w.gateway.e, w.Gateway(t, "G-0001")
		w.tell(t, renewed, stolen.ExchangeCert)
		w.gateway.set(func() { w.gateway.e = renewed })
		if err := w.merchant.RefreshGateways(t.Context()); err != nil {
			t.Fatal(err)
		}
		poll(t, "the capture is asked for anew", func() bool {
			return must[*merchant.Operation](t)(w.config.Store.Operation(t.Context(), asked.ID)).Next != ""
		})
		w.gateway.behave(approve)
		if got := op.outcome(asked, nil); got.State != merchant.OperationUnresolved || got.ID == asked.ID || got.Items[0].Code != "invalidCapToken" {
			t.Errorf("capture: %+v", got)
		}
		w.await(t, o.ID, merchant.OrderUnresolved)
	})
}

// What one gateway has authorized it captures itself, though new purchases go to another one of the brand.
func TestTwoGateways(t *testing.T) {
	eachManual(t, func(t *testing.T, w *world) {
		op := w.operator(t)
		first, c := w.paid(t)
		again, _ := w.paid(t)
		e := w.Gateway(t, "G-0002")
		other := newGateway(t, e)
		w.config.Gateways = append([]merchant.Gateway{{Certificate: e.ExchangeCert, Chain: e.Chain, URL: other.server.URL}}, w.config.Gateways...)
		w.crash(t)
		second := w.order(t)
		wantAuth(t, w.wake(t, c.card, second.ID).pay(t), set.AuthApproved)
		if _, auths, _ := other.counts(); auths != 1 {
			t.Errorf("%d authorizations at the gateway that is first now, want 1", auths)
		}
		op.done(op.capture(first.ID, 0))
		all := must[[]*merchant.Operation](t)(w.config.Store.CaptureAll(t.Context(), w.now()))
		if len(all) != 2 {
			t.Errorf("%d capture requests, want one for each gateway", len(all))
		}
		for _, one := range all {
			op.done(one, nil)
		}
		if a, b := w.gateway.did(set.CapReqType), other.did(set.CapReqType); a != 2 || b != 1 {
			t.Errorf("%d and %d captures, want 2 and 1", a, b)
		}
		w.await(t, again.ID, merchant.OrderCaptured)
		w.await(t, second.ID, merchant.OrderCaptured)
		// When the first is revoked, the next is offered.
		w.config.Endpoint.Verifier.Adopt(w.Revoke(t, 1, e.ExchangeCert))
		third := w.order(t)
		wantAuth(t, w.wake(t, c.card, third.ID).pay(t), set.AuthApproved)
		if _, auths, _ := w.gateway.counts(); auths != 3 {
			t.Errorf("%d authorizations at the gateway that is left, want 3", auths)
		}
	})
}

// The gateways are asked again before anything of theirs expires.
func TestRefreshPause(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.config.BaseURL = "http://shop.example"
	now := time.Now()
	pause := func() time.Duration {
		t.Helper()
		return must[*merchant.Merchant](t)(merchant.New(w.config)).RefreshPause(now)
	}
	if got := pause(); got != time.Hour {
		t.Errorf("nothing expires soon: %v, want an hour", got)
	}
	crl := func(valid time.Duration) {
		t.Helper()
		cert, key := w.Authority(pki.PCA)
		list := must[*pki.CRL](t)(pki.IssueCRL(rand.Reader, pki.CRLTemplate{Number: 1, ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(valid)}, cert, key))
		w.config.Endpoint.Verifier = must[*pki.Verifier](t)(pki.NewVerifier([]*pki.Certificate{w.Root}, pki.Options{Store: pki.Store{CRLs: []*pki.CRL{list}}}))
	}
	crl(30 * time.Minute)
	if got := pause(); got < 14*time.Minute || got > 15*time.Minute {
		t.Errorf("a list ends in 30 minutes: %v, want 15 minutes", got)
	}
	crl(time.Second)
	if got := pause(); got != time.Minute {
		t.Errorf("a list ends now: %v, want a minute", got)
	}
}
