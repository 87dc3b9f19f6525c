package merchant_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/set"
)

func TestShopPages(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		status, body, _ := w.ask(t, "GET", "/", "text/html", "", "")
		if status != http.StatusOK || !strings.Contains(string(body), "Pencil 2B, 0.25 EUR") || !strings.Contains(string(body), "Book Shop M-0001") {
			t.Errorf("catalogue page: %d %s", status, body)
		}
		_, body, _ = w.ask(t, "GET", "/", "application/json", "", "")
		var got merchant.Catalogue
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(*w.config.Catalogue, got); diff != "" {
			t.Errorf("catalogue (-want +got):\n%s", diff)
		}

		status, _, header := w.ask(t, "POST", "/orders", "text/html", "application/x-www-form-urlencoded", "item=pencil&quantity=3")
		location := header.Get("Location")
		path, ok := strings.CutPrefix(location, w.config.BaseURL)
		if status != http.StatusSeeOther || !ok {
			t.Fatalf("order by form: %d to %q", status, location)
		}
		for _, tt := range []struct{ method, accept, want string }{
			{"GET", "text/html", "This order is not paid."}, {"GET", "text/html", "3 x Pencil 2B"}, {"GET", "application/json", `"total": "0.75 EUR"`},
		} {
			if _, body, _ := w.ask(t, tt.method, path, tt.accept, "", ""); !strings.Contains(string(body), tt.want) {
				t.Errorf("order as %s does not say %q: %s", tt.accept, tt.want, body)
			}
		}
		_, body, _ = w.ask(t, "GET", path+"/pay", "*/*", "", "")
		init, err := set.ParseInitiation(body)
		if err != nil {
			t.Fatal(err)
		}
		if init.SETURL != w.config.BaseURL+"/set" || init.SuccessURL != location || len(init.LIDM) != 20 || init.PurchAmt.String() != "0.75 EUR" {
			t.Errorf("initiation %+v", init)
		}
	})
}

func TestShopRefuses(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		const form, inJSON = "application/x-www-form-urlencoded", "application/json"
		for _, tt := range []struct {
			name, method, path, contentType, body string
			want                                  int
		}{
			{"unknown item", "POST", "/orders", form, "item=car&quantity=1", http.StatusUnprocessableEntity},
			{"quantity 0", "POST", "/orders", form, "item=book&quantity=0", http.StatusUnprocessableEntity},
			{"negative quantity", "POST", "/orders", form, "item=book&quantity=-1", http.StatusUnprocessableEntity},
			{"too many", "POST", "/orders", form, "item=book&quantity=1000", http.StatusUnprocessableEntity},
			{"quantity over int64", "POST", "/orders", form, "item=book&quantity=99999999999999999999", http.StatusBadRequest},
			{"nothing", "POST", "/orders", form, "", http.StatusUnprocessableEntity},
			{"quantity missing", "POST", "/orders", form, "item=book", http.StatusBadRequest},
			{"too many lines", "POST", "/orders", form, strings.Repeat("item=book&quantity=1&", 51), http.StatusUnprocessableEntity},
			{"too long", "POST", "/orders", form, strings.Repeat("item=book&quantity=1&", 4000), http.StatusBadRequest},
			{"JSON with a price", "POST", "/orders", inJSON, `{"items": [{"item": "book", "quantity": 1, "price": 1}]}`, http.StatusBadRequest},
			{"no JSON", "POST", "/orders", inJSON, `{`, http.StatusBadRequest},
			{"unknown order", "GET", "/orders/NOSUCHORDER", form, "", http.StatusNotFound},
			{"unknown order to pay", "POST", "/orders/NOSUCHORDER/pay", form, "", http.StatusNotFound},
			{"SET by GET", "GET", "/set", form, "", http.StatusMethodNotAllowed},
			{"SET as a form", "POST", "/set", form, "", http.StatusUnsupportedMediaType},
			{"no page", "GET", "/admin", form, "", http.StatusNotFound},
		} {
			for _, accept := range []string{"text/html", "application/json"} {
				if got, body, _ := w.ask(t, tt.method, tt.path, accept, tt.contentType, tt.body); got != tt.want {
					t.Errorf("%s: status %d, want %d: %s", tt.name, got, tt.want, body)
				}
			}
		}
		orders, err := w.config.Store.Orders(t.Context())
		if err != nil || len(orders) != 0 {
			t.Errorf("%d orders were made (%v), want none", len(orders), err)
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
