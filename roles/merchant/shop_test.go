package merchant_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/set"
)

// What is ordered has bounds, and a request makes one order.
func TestOrdering(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		book := merchant.LineRequest{Item: "book", Quantity: 1}
		own := merchant.LineRequest{Name: "Something else", Price: 100, Quantity: 3}
		lines := func(l ...merchant.LineRequest) merchant.OrderRequest { return merchant.OrderRequest{Lines: l} }
		for name, r := range map[string]merchant.OrderRequest{
			"nothing": lines(), "unknown item": lines(merchant.LineRequest{Item: "car", Quantity: 1}),
			"quantity 0":         lines(merchant.LineRequest{Item: "book"}),
			"negative quantity":  lines(merchant.LineRequest{Item: "book", Quantity: -1}),
			"too many":           lines(merchant.LineRequest{Item: "book", Quantity: 1000}),
			"too many lines":     lines(slices.Repeat([]merchant.LineRequest{book}, 51)...),
			"item with a price":  lines(merchant.LineRequest{Item: "book", Quantity: 1, Price: 1}),
			"own without price":  lines(merchant.LineRequest{Name: "Gift", Quantity: 1}),
			"own negative price": lines(merchant.LineRequest{Name: "Gift", Price: -1, Quantity: 1}),
			"own of two lines":   lines(merchant.LineRequest{Name: "Gift\r\nTotal 0", Price: 1, Quantity: 1}),
			"total too high":     lines(merchant.LineRequest{Name: "Gift", Price: 999_999_999_999, Quantity: 2}),
			"unknown terms":      {Lines: []merchant.LineRequest{book}, Terms: "install 4"},
			"script as page":     {Lines: []merchant.LineRequest{book}, Returns: merchant.ReturnPages{Success: "javascript:alert(1)"}},
			"page with a space":  {Lines: []merchant.LineRequest{book}, Returns: merchant.ReturnPages{Cancel: "http://a.example/\r\nSET-Version: 9"}},
			"reference in lines": {Lines: []merchant.LineRequest{book}, Reference: "a\nb"},
		} {
			if _, _, err := w.merchant.MakeOrder(t.Context(), r); !errors.Is(err, merchant.ErrOrderInvalid) {
				t.Errorf("%s: error %v, want %v", name, err, merchant.ErrOrderInvalid)
			}
		}
		request := merchant.OrderRequest{Lines: []merchant.LineRequest{book, own}, Reference: "A-17", Key: "one", Returns: merchant.ReturnPages{Success: "https://other.example/thanks"}}
		first, made, err := w.merchant.MakeOrder(t.Context(), request)
		if err != nil || !made || first.Total != "45.00 EUR" || first.Lines[1].Name != "Something else" || first.Reference != "A-17" {
			t.Fatalf("order %+v, made %t, %v", first, made, err)
		}
		var same sync.WaitGroup
		for range 4 {
			same.Go(func() {
				again, made, err := w.merchant.MakeOrder(t.Context(), request)
				if err != nil || made || again.ID != first.ID {
					t.Errorf("the same request: order %v, made %t, %v", again, made, err)
				}
			})
		}
		same.Wait()
		request.Reference = "A-18"
		if _, _, err := w.merchant.MakeOrder(t.Context(), request); !errors.Is(err, merchant.ErrKeyReused) {
			t.Errorf("another request with the same key: %v", err)
		}
		init := must[*set.Initiation](t)(set.ParseInitiation(must[[]byte](t)(w.merchant.Initiation(first, "http://shop.example/q", merchant.ReturnPages{Success: "http://shop.example/s", Failure: "http://shop.example/f", Cancel: "http://shop.example/c"}))))
		if init.SETURL != w.config.BaseURL+"/set" || init.SuccessURL != "https://other.example/thanks" || init.CancelURL != "http://shop.example/c" || init.PurchAmt.String() != "45.00 EUR" {
			t.Errorf("initiation %+v", init)
		}
		if all := must[[]*merchant.Order](t)(w.config.Store.Orders(t.Context())); len(all) != 1 {
			t.Errorf("%d orders were made, want one", len(all))
		}
	})
}

// A basket makes one order, in however many tabs it is ordered.
func TestBaskets(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		const session, other = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "BBCDEFGHIJKLMNOPQRSTUVWXYZ"
		store := w.config.Store
		fill := func() merchant.Basket {
			t.Helper()
			err := store.ChangeBasket(t.Context(), w.now(), session, "", func(lines []merchant.LineRequest) ([]merchant.LineRequest, error) {
				return append(lines, merchant.LineRequest{Item: "pencil", Quantity: 2}), nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return must[merchant.Basket](t)(store.Basket(t.Context(), session))
		}
		b := fill()
		var mu sync.Mutex
		ids := make(map[string]int)
		var tabs sync.WaitGroup
		for range 5 {
			tabs.Go(func() {
				o, made, err := w.merchant.MakeOrder(t.Context(), merchant.OrderRequest{Session: session, Basket: b.Version})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				ids[o.ID] += 0
				if made {
					ids[o.ID]++
				}
			})
		}
		tabs.Wait()
		if len(ids) != 1 {
			t.Fatalf("five tabs made the orders %v, want one", ids)
		}
		for _, n := range ids {
			if n != 1 {
				t.Errorf("%d of five tabs were told that they made the order", n)
			}
		}
		if left := must[merchant.Basket](t)(store.Basket(t.Context(), session)); len(left.Lines) != 0 {
			t.Errorf("ordered, the basket holds %v", left.Lines)
		}
		b = fill()
		fill()
		if _, _, err := w.merchant.MakeOrder(t.Context(), merchant.OrderRequest{Session: session, Basket: b.Version}); !errors.Is(err, merchant.ErrBasketChanged) {
			t.Errorf("a basket that has changed is ordered: %v", err)
		}
		for who, want := range map[string]int{session: 1, other: 0} {
			if got := must[[]*merchant.Order](t)(store.FilterOrders(t.Context(), merchant.OrderFilter{Session: who})); len(got) != want {
				t.Errorf("%d orders of session %.1s..., want %d", len(got), who, want)
			}
		}
	})
}

// Every change of an order is told, until it is taken.
func TestChangesAreTold(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		told := make(chan merchant.Change, 100)
		ctx, stop := context.WithCancel(t.Context())
		var refusals atomic.Int64
		ended := make(chan error, 1)
		go func() {
			ended <- w.config.Store.TellChanges(ctx, w.config.Log, func(_ context.Context, c merchant.Change) error {
				if refusals.Add(1) <= 2 {
					return errors.New("not now")
				}
				told <- c
				return nil
			})
		}()
		o, _, err := w.merchant.MakeOrder(t.Context(), merchant.OrderRequest{Lines: []merchant.LineRequest{{Item: "book", Quantity: 1}}, Tell: true})
		if err != nil {
			t.Fatal(err)
		}
		w.wake(t, w.card(t, firstPAN), o.ID).pay(t)
		w.await(t, o.ID, merchant.OrderCaptured)
		w.wake(t, w.card(t, firstPAN), w.order(t).ID).pay(t) // not told
		op, err := w.config.Store.Refund(t.Context(), w.now(), o.ID, 100)
		if err != nil {
			t.Fatal(err)
		}
		if op, err = w.config.Store.Await(t.Context(), op.ID); err != nil || op.State != merchant.OperationDone {
			t.Fatalf("refund %+v, %v", op, err)
		}
		last := w.look(t, o.ID)
		seen := make(map[string]bool)
		for deadline := time.After(eventually); len(seen) < int(last.Version)-1; {
			select {
			case c := <-told:
				if seen[c.ID] || c.Order.ID != o.ID {
					t.Errorf("told again, or of another order: %+v", c)
				}
				seen[c.ID] = true
			case <-deadline:
				t.Fatalf("told of %d changes, want %d", len(seen), last.Version-1)
			}
		}
		if last.Version < 4 { // authorizing, authorized and captured, refunded
			t.Errorf("the order has version %d after its purchase and a refund", last.Version)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestProbes(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		probe := func(path string, want int, text string) {
			t.Helper()
			if got, body, _ := w.ask(t, "GET", path, "*/*", "", ""); got != want || !strings.Contains(string(body), text) {
				t.Errorf("%s: %d %s, want %d and %q", path, got, body, want, text)
			}
		}
		probe("/livez", http.StatusOK, "alive")
		probe("/readyz", http.StatusOK, "ready")
		w.config.KeysReady = func(context.Context) error { return errors.New("the HSM is away") }
		w.crash(t)
		probe("/livez", http.StatusOK, "alive")
		probe("/readyz", http.StatusServiceUnavailable, "the HSM is away")

		var years atomic.Int64
		w.config.KeysReady = nil
		w.config.Now = func() time.Time { return time.Now().AddDate(int(years.Load()), 0, 0) }
		w.crash(t)
		years.Store(2)
		probe("/readyz", http.StatusServiceUnavailable, "certificate")
		w.config.Store.Close()
		probe("/livez", http.StatusOK, "alive")
		probe("/readyz", http.StatusServiceUnavailable, "database")
	})
}

func TestConfigurationRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	other := w.Gateway(t, "G-0002")
	for _, tt := range []struct {
		name, want string
		change     func(*merchant.Config)
	}{
		{"relative base URL", "base URL", func(c *merchant.Config) { c.BaseURL = "shop" }},
		{"unknown currency", "currency", func(c *merchant.Config) {
			c.Catalogue = &merchant.Catalogue{Currency: "XXX", Items: c.Catalogue.Items}
		}},
		{"empty catalogue", "0 items", func(c *merchant.Config) { c.Catalogue = &merchant.Catalogue{Currency: "EUR"} }},
		{"price 0", "price 0", func(c *merchant.Config) {
			c.Catalogue = &merchant.Catalogue{Currency: "EUR", Items: []merchant.Item{{ID: "a", Name: "A"}}}
		}},
		{"item twice", "twice", func(c *merchant.Config) {
			i := merchant.Item{ID: "a", Name: "A", Price: 1}
			c.Catalogue = &merchant.Catalogue{Currency: "EUR", Items: []merchant.Item{i, i}}
		}},
		{"name of two lines", "one line", func(c *merchant.Config) {
			c.Catalogue = &merchant.Catalogue{Currency: "EUR", Items: []merchant.Item{{ID: "a", Name: "A\r\nB", Price: 1}}}
		}},
		{"no gateway", "gateway", func(c *merchant.Config) { c.Gateways = nil }},
		{"signature certificate of the gateway", "key exchange", func(c *merchant.Config) {
			c.Gateways = []merchant.Gateway{{Certificate: other.SignCert, Chain: other.Chain}}
		}},
		{"gateway without its chain", "gateway", func(c *merchant.Config) {
			c.Gateways = []merchant.Gateway{{Certificate: other.ExchangeCert}}
		}},
		{"no certificate", "enrol", func(c *merchant.Config) {
			e := *c.Endpoint
			e.SignCert = nil
			c.Endpoint = &e
		}},
	} {
		c := w.config
		c.BaseURL = "http://shop.example"
		tt.change(&c)
		if _, err := merchant.New(c); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one that says %q", tt.name, err, tt.want)
		}
	}
}
