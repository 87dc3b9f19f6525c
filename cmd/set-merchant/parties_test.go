package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/gateway"
	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/settest"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/sqldb"
)

// issuer approves everything.
type issuer struct{}

func (issuer) Authorize(context.Context, *finnet.Authorization) (finnet.Answer, error) {
	return finnet.Answer{Code: finnet.Approved, ApprovalCode: "OK0001"}, nil
}
func (issuer) Reverse(context.Context, *finnet.Reversal) (finnet.ResponseCode, error) {
	return finnet.Approved, nil
}
func (issuer) Clear(context.Context, *finnet.Clearing) (finnet.ResponseCode, error) {
	return finnet.Approved, nil
}
func (issuer) Refund(context.Context, *finnet.Refund) (finnet.ResponseCode, error) {
	return finnet.Approved, nil
}
func (issuer) Withdraw(context.Context, *finnet.Withdrawal) (finnet.ResponseCode, error) {
	return finnet.Approved, nil
}
func (issuer) Reconcile(context.Context, *finnet.Reconciliation) (finnet.Balance, error) {
	return finnet.Balance{Code: finnet.Approved}, nil
}
func (issuer) Echo(context.Context) error { return nil }

// sealer seals accounts without an HSM.
type sealer struct{ cipher.AEAD }

func (s sealer) Seal(plaintext, aad []byte) ([]byte, error) {
	return s.AEAD.Seal(nil, nil, plaintext, aad), nil
}
func (s sealer) Open(sealed, aad []byte) ([]byte, error) {
	return s.AEAD.Open(nil, nil, sealed, aad)
}

// parties are a merchant and a gateway, both real.
type parties struct {
	*settest.World
	store    *merchant.Store
	merchant *merchant.Merchant
	url      string
}

// run runs a party's jobs until the test ends.
func run(t *testing.T, jobs func(context.Context) error, closed func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- jobs(ctx) }()
	t.Cleanup(sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := closed(); err != nil {
			t.Error(err)
		}
	}))
}

func newParties(t *testing.T) *parties {
	w := settest.NewWorld(t)
	log := slog.New(slog.DiscardHandler)
	key := make([]byte, 32)
	rand.Read(key)
	block := must[cipher.Block](t)(aes.NewCipher(key))
	db := must[*sqldb.DB](t)(gateway.OpenDB(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "gateway.db")))
	e := w.Gateway(t, "G-0001")
	g := must[*gateway.Gateway](t)(gateway.New(gateway.Config{
		Endpoint: e, DB: db, Issuer: issuer{}, Sealer: sealer{must[cipher.AEAD](t)(cipher.NewGCMWithRandomNonce(block))},
		Acquirer: settest.AcquirerBIN, Log: log,
	}))
	run(t, g.Run, db.Close)
	server := httptest.NewServer(g.Handler())
	t.Cleanup(server.Close)

	p := &parties{World: w, store: must[*merchant.Store](t)(merchant.OpenStore(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "merchant.db")))}
	shop := httptest.NewUnstartedServer(nil)
	p.url = "http://" + shop.Listener.Addr().String()
	m := must[*merchant.Merchant](t)(merchant.New(merchant.Config{
		Endpoint: w.Merchant(t, settest.MerchantID), Store: p.store, BaseURL: p.url, Log: log,
		Catalogue: &merchant.Catalogue{Currency: "USD", Items: []merchant.Item{{ID: "notebook", Name: "Notebook", Price: 450}},
			Terms: []merchant.Terms{"split", "install 2"}},
		Gateways:  []merchant.Gateway{{Certificate: e.ExchangeCert, Chain: e.Chain, URL: server.URL + "/set"}},
		MerchData: set.MerchData{MerchCatCode: "5942"}, Capture: merchant.CaptureManually,
	}))
	p.merchant = m
	shop.Config.Handler = m.Handler()
	shop.Start()
	run(t, m.Run, func() error { shop.Close(); return p.store.Close() })
	if err := m.RefreshGateways(t.Context()); err != nil {
		t.Errorf("the gateway's certificates: %v", err)
	}
	return p
}

// buy orders ten notebooks on the given terms, pays, and gives the order's id.
func (p *parties) buy(t *testing.T, terms string) string {
	t.Helper()
	o, _, err := p.merchant.MakeOrder(t.Context(), merchant.OrderRequest{
		Lines: []merchant.LineRequest{{Item: "notebook", Quantity: 10}}, Terms: merchant.Terms(terms),
	})
	if err != nil {
		t.Fatal(err)
	}
	id := o.ID
	wake := must[[]byte](t)(p.merchant.Initiation(o, p.url, merchant.ReturnPages{Success: p.url, Failure: p.url, Cancel: p.url}))
	init := must[*set.Initiation](t)(set.ParseInitiation(wake))
	card := p.Card(t, pan)
	purchase := must[*set.Purchase](t)(set.NewPurchase(init, settest.Brand, set.BIN(pan[:6]), "en"))
	purchase.InstallRecurData = init.InstallRecur
	post := func(b []byte, err error) []byte {
		return must[[]byte](t)((&sethttp.Client{Tries: 1}).Post(t.Context(), init.SETURL, sethttp.MediaPayment, must[[]byte](t)(b, err)))
	}
	must[*set.Offer](t)(purchase.OpenInitRes(card.Endpoint, time.Now(), post(purchase.InitReq(card.Endpoint, time.Now()))))
	must[*set.PResData](t)(purchase.OpenResponse(card.Endpoint, time.Now(), post(purchase.Request(card.Endpoint, time.Now(), &card.Account))))
	return id
}

// done waits for the success of an operation.
func (p *parties) done(t *testing.T, op *merchant.Operation, err error) *merchant.Operation {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), eventually)
	defer cancel()
	op = must[*merchant.Operation](t)(p.store.Await(ctx, op.ID))
	if op.State != merchant.OperationDone {
		t.Fatalf("%s is %s: %s %+v", op.Kind, op.State, op.Failure, op.Items)
	}
	return op
}

// batch asks the gateway about a batch.
func (p *parties) batch(t *testing.T, q merchant.BatchQuery) *merchant.BatchReport {
	t.Helper()
	op, err := p.store.AskBatch(t.Context(), time.Now(), q)
	return p.done(t, op, err).Batch
}

func (p *parties) want(t *testing.T, id, want string) {
	t.Helper()
	o := must[*merchant.Order](t)(p.store.Order(t.Context(), id))
	got := fmt.Sprintf("%s %v %v %v", o.State, o.Payment.AuthorizedAmount, o.Payment.CapturedAmount, o.Payment.RefundedAmount)
	if got != want {
		t.Errorf("order is %s, want %s (state, authorized, captured, refunded); trouble %q", got, want, o.Payment.Trouble)
	}
}

// TestBothParties has the merchant do with a real gateway all that can be done with an order, and settles it.
func TestBothParties(t *testing.T) {
	t.Parallel()
	p, ctx, now := newParties(t), t.Context(), time.Now()
	batch := p.batch(t, merchant.BatchQuery{Operation: merchant.BatchOpen}).Batch

	id := p.buy(t, "")
	p.want(t, id, "authorized 45.00 0.00 0.00")
	for _, step := range []struct {
		do   func() (*merchant.Operation, error)
		want string
	}{
		{func() (*merchant.Operation, error) { return p.store.Reverse(ctx, now, id, 4000) }, "authorized 40.00 0.00 0.00"},
		{func() (*merchant.Operation, error) { return p.store.Capture(ctx, now, id, 3000) }, "captured 40.00 30.00 0.00"},
		{func() (*merchant.Operation, error) { return p.store.Void(ctx, now, id) }, "authorized 40.00 0.00 0.00"},
		{func() (*merchant.Operation, error) { return p.store.Capture(ctx, now, id, 0) }, "captured 40.00 40.00 0.00"},
		{func() (*merchant.Operation, error) { return p.store.Refund(ctx, now, id, 500) }, "captured 40.00 40.00 5.00"},
		{func() (*merchant.Operation, error) { return p.store.Refund(ctx, now, id, 700) }, "captured 40.00 40.00 12.00"},
		{func() (*merchant.Operation, error) { return p.store.UndoRefund(ctx, now, id) }, "captured 40.00 40.00 5.00"},
	} {
		op, err := step.do()
		p.done(t, op, err)
		p.want(t, id, step.want)
	}

	// Shipments, taken back and made anew, and instalments; captured together.
	split := p.buy(t, "split")
	for _, minor := range []int64{1000, 2000} {
		op, err := p.store.Ship(ctx, now, split, minor, false)
		p.done(t, op, err)
	}
	op, err := p.store.Void(ctx, now, split)
	p.done(t, op, err)
	p.want(t, split, "voided 0.00 0.00 0.00")
	for _, last := range []bool{false, false, true} {
		op, err := p.store.Ship(ctx, now, split, 1000, last)
		p.done(t, op, err)
	}
	rated := p.buy(t, "install 2")
	op, err = p.store.Charge(ctx, now, rated)
	p.done(t, op, err)
	all := must[[]*merchant.Operation](t)(p.store.CaptureAll(ctx, now))
	if len(all) != 1 || len(all[0].Items) != 5 {
		t.Fatalf("capture of all: %+v", all)
	}
	p.done(t, all[0], nil)
	p.want(t, split, "captured 30.00 30.00 0.00")
	p.want(t, rated, "captured 45.00 45.00 0.00")

	// Both sides count the same.
	r := p.batch(t, merchant.BatchQuery{Operation: merchant.BatchShow, Batch: &batch, Items: 100})
	if r.Totals.String() != "6 captures of 115.00 USD and 1 refunds of 5.00 USD" || *r.Totals != *r.Own || len(r.Items) != 7 {
		t.Errorf("batch: gateway %v, merchant %v, %d items", r.Totals, r.Own, len(r.Items))
	}
	p.batch(t, merchant.BatchQuery{Operation: merchant.BatchClose, Batch: &batch})
	if _, err := p.store.Void(ctx, now, split); err == nil || !strings.Contains(err.Error(), "batch of its capture is closed") {
		t.Errorf("void after the batch is closed: %v", err)
	}
	// A refund after that goes into another batch, and so does what undoes the one that is settled.
	op, err = p.store.UndoRefund(ctx, now, id)
	p.done(t, op, err)
	op, err = p.store.Refund(ctx, now, split, 0)
	p.done(t, op, err)
	p.want(t, split, "refunded 30.00 30.00 30.00")
	next := *must[*merchant.Order](t)(p.store.Order(ctx, split)).Payment.Authorizations[2].Refunds[0].Batch
	r = p.batch(t, merchant.BatchQuery{Operation: merchant.BatchShow, Batch: &next})
	if next == batch || r.Totals.String() != "1 captures of 5.00 USD and 3 refunds of 30.00 USD" || *r.Totals != *r.Own {
		t.Errorf("next batch %d: gateway %v, merchant %v", next, r.Totals, r.Own)
	}
}
