package web_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sethttp"
)

// TestPurchase buys as a person does, in several tabs and with every button clicked twice.
func TestPurchase(t *testing.T) {
	w := newWorld(t)
	b := w.customer(t)
	b.get("/").has(t, 200, "Book Shop M-0001", "The Elements of Programming", "42.00\u00a0EUR", "Pencil &lt;2B&gt; &amp; rubber", `<html lang="en">`)
	b.get("/basket").has(t, 200, "There is nothing in your basket.")
	if to := b.post("/basket", "item", "pencil", "quantity", "2").has(t, 303).location; to != w.config.BaseURL+"/basket" {
		t.Errorf("what is added leads to %q", to)
	}
	once := b.get("/").field(t, "once")
	for range 2 { // two clicks on one button
		b.post("/basket", "item", "pencil", "quantity", "1", "once", once).has(t, 303)
	}
	if again := b.get("/").field(t, "once"); again == once {
		t.Error("the page that is loaded anew adds nothing")
	}
	b.post("/basket", "item", "book", "quantity", "1").has(t, 303)
	b.get("/basket").has(t, 200, `value="3"`, "42.75\u00a0EUR")
	b.post("/basket/change", "item", "pencil", "quantity", "0", "item", "book", "quantity", "2").has(t, 303)
	basket := b.get("/basket").has(t, 200, "84.00\u00a0EUR", "In 3 instalments")
	if strings.Contains(basket.body, "Pencil") {
		t.Error("an item of quantity 0 stays in the basket")
	}
	// Quantities that were typed and not updated are not ordered unseen, nor forgotten.
	for range 2 {
		to := b.post("/orders", "basket", basket.field(t, "basket"), "item", "book", "quantity", "3").has(t, 303).location
		b.get(to).has(t, 200, "The quantities were updated", "126.00\u00a0EUR")
	}
	b.post("/basket/change", "item", "book", "quantity", "2").has(t, 303)
	version := b.get("/basket").field(t, "basket")
	order := b.post("/orders", "basket", version, "item", "book", "quantity", "2", "terms", "").has(t, 303).location
	if again := b.post("/orders", "basket", version, "terms", "").has(t, 303).location; again != order {
		t.Errorf("a second click leads to the order %s, the first one to %s", again, order)
	}
	b.get("/basket").has(t, 200, "There is nothing in your basket.")
	page := b.get(order).has(t, 200, "Order 1001", "Not paid yet", "Pay with card reader")
	if strings.Contains(page.body, "http-equiv") {
		t.Error("a page that waits for the customer refreshes itself")
	}
	b.get(order+"/cancel").has(t, 200, "You cancelled the payment", "Pay with card reader")
	b.get(order+"/failure").has(t, 200, "The payment did not come about", "Pay with card reader")
	b.get(order+"/success").has(t, 200, "Not paid yet", "Pay with card reader")

	wake := b.post(order+"/pay").has(t, 200)
	if got := wake.header.Get("Content-Type"); got != sethttp.MediaPaymentInitiation {
		t.Fatalf("the button answers with %s", got)
	}
	if again := b.post(order + "/pay"); again.body != wake.body {
		t.Error("a second click gives another initiation message")
	}
	init := must[*set.Initiation](t)(set.ParseInitiation([]byte(wake.body)))
	if init.SETURL != w.config.BaseURL+"/set" || init.QueryURL != order || init.SuccessURL != order+"/success" || init.CancelURL != order+"/cancel" || init.PurchAmt.String() != "84.00 EUR" {
		t.Errorf("initiation %+v", init)
	}

	resume := w.gateway.pause()
	paid := make(chan struct{})
	go func() { defer close(paid); w.pay(t, []byte(wake.body)) }()
	poll(t, "the page says that the payment is being processed", func() bool { return strings.Contains(b.get(order).body, "Your payment is being processed") })
	for _, path := range []string{"", "/success", "/failure", "/cancel"} {
		page := b.get(order+path).has(t, 200, "Do not pay again", `<meta http-equiv="refresh" content="2">`)
		if strings.Contains(page.body, "Pay with card reader") {
			t.Errorf("%s offers to pay while the payment is under way", path)
		}
	}
	b.post(order+"/pay").has(t, 409, "Do not pay again")
	resume()
	<-paid
	id := order[strings.LastIndex(order, "/")+1:]
	w.await(t, id, merchant.OrderAuthorized)
	for _, path := range []string{"", "/success", "/failure", "/cancel"} {
		b.get(order+path).has(t, 200, "Your payment is authorized.", "OK0001")
	}
	b.post(order+"/pay").has(t, 409, "Thank you. Your payment is authorized. It is charged when your order is sent.")
	if n := w.gateway.count(set.AuthReqType); n != 1 {
		t.Errorf("the gateway was asked %d times", n)
	}
	b.get("/orders").has(t, 200, "Order 1001", "authorized", "84.00\u00a0EUR")
	if other := w.customer(t).get("/orders").has(t, 200, "No order was made with this browser."); strings.Contains(other.body, "1001") {
		t.Error("another customer sees the order")
	}
}

func TestDeclinedAndPaidAgain(t *testing.T) {
	w := newWorld(t)
	w.gateway.decline = true
	o := w.order(t)
	b := w.customer(t)
	w.pay(t, []byte(b.get("/orders/"+o.ID+"/pay").body))
	w.await(t, o.ID, merchant.OrderDeclined)
	b.get("/orders/"+o.ID+"/success").has(t, 200, "The payment was declined", "Pay with card reader")
	w.gateway.mu.Lock()
	w.gateway.decline = false
	w.gateway.mu.Unlock()
	w.pay(t, []byte(b.post("/orders/"+o.ID+"/pay").has(t, 200).body))
	w.await(t, o.ID, merchant.OrderAuthorized)
	b.get("/orders/"+o.ID+"/failure").has(t, 200, "Your payment is authorized.")
}

func TestShopRefuses(t *testing.T) {
	w := newWorld(t)
	b := w.customer(t)
	b.post("/basket", "item", "pencil", "quantity", "1").has(t, 303)
	version := b.get("/basket").field(t, "basket")
	stale := must[int](t)(strconv.Atoi(version)) + 7
	for _, tt := range []struct {
		name, path string
		fields     []string
		want       int
		says       string
	}{
		{"unknown item", "/basket", []string{"item", "car", "quantity", "1"}, 422, "This cannot be ordered"},
		{"quantity 0", "/basket", []string{"item", "book", "quantity", "0"}, 422, "This cannot be ordered"},
		{"negative quantity", "/basket", []string{"item", "book", "quantity", "-1"}, 422, "This cannot be ordered"},
		{"too many", "/basket", []string{"item", "pencil", "quantity", "999"}, 422, "This cannot be ordered"},
		{"quantity over int64", "/basket", []string{"item", "book", "quantity", "99999999999999999999"}, 400, "This cannot be understood"},
		{"no number", "/basket", []string{"item", "book", "quantity", "two"}, 400, "This cannot be understood"},
		{"quantity missing", "/basket", []string{"item", "book"}, 400, "This cannot be understood"},
		{"nothing", "/basket", nil, 400, "This cannot be understood"},
		{"an item of its own price", "/basket", []string{"item", "", "quantity", "1"}, 400, "This cannot be understood"},
		{"too long a form", "/basket", []string{"item", strings.Repeat("x", 70<<10), "quantity", "1"}, 400, "This cannot be understood"},
		{"change of too many", "/basket/change", []string{"item", "pencil", "quantity", "1000"}, 422, "This cannot be ordered"},
		{"no basket", "/orders", nil, 400, "This cannot be understood"},
		{"a basket that is no more", "/orders", []string{"basket", strconv.Itoa(stale)}, 409, "The basket has changed"},
		{"unknown terms", "/orders", []string{"basket", version, "terms", "install 99"}, 422, "This cannot be ordered"},
		{"unknown order to pay", "/orders/NOSUCHORDER/pay", nil, 404, "There is no such order"},
		{"no page", "/admin", nil, 404, "There is no such page"},
	} {
		t.Run(tt.name, func(t *testing.T) { b.post(tt.path, tt.fields...).has(t, tt.want, tt.says, "<h1>") })
	}
	b.get("/orders/NOSUCHORDER").has(t, 404, "There is no such order")
	b.get("/office").has(t, 404)
	b.get("/api/v1/orders/NOSUCHORDER").has(t, 401)
	b.get("/basket").has(t, 200, `value="1"`)
	w.config.Store.Close()
	b.get("/orders/NOSUCHORDER").has(t, 503, "The shop cannot answer now")
	b.post("/basket", "item", "pencil", "quantity", "1").has(t, 503, "The shop cannot answer now")
}

// What another site's page sends is not taken, whatever it claims to be.
func TestForeignPagesRefused(t *testing.T) {
	w := newWorld(t)
	b := w.customer(t)
	b.post("/basket", "item", "pencil", "quantity", "1").has(t, 303)
	version := b.get("/basket").field(t, "basket")
	for name, header := range map[string]http.Header{
		"foreign origin":  {"Origin": {"https://evil.example"}},
		"null origin":     {"Origin": {"null"}},
		"another scheme":  {"Origin": {strings.Replace(w.shop.URL, "http:", "https:", 1) + "0"}},
		"cross-site":      {"Sec-Fetch-Site": {"cross-site"}},
		"same site, only": {"Sec-Fetch-Site": {"same-site"}},
	} {
		t.Run(name, func(t *testing.T) {
			b.do("POST", "/orders", map[string][]string{"basket": {version}}, header).has(t, 403, "This came from another site")
		})
	}
	if all := must[[]*merchant.Order](t)(w.config.Store.Orders(t.Context())); len(all) != 0 {
		t.Fatalf("%d orders were made", len(all))
	}
	b.do("POST", "/orders", map[string][]string{"basket": {version}}, http.Header{"Origin": {w.shop.URL}, "Sec-Fetch-Site": {"same-origin"}}).has(t, 303)
}

func TestHeadersAndCookies(t *testing.T) {
	w := newWorld(t)
	b := w.customer(t)
	p := b.post("/basket", "item", "pencil", "quantity", "1").has(t, 303)
	cookie := p.header.Get("Set-Cookie")
	for _, want := range []string{"shop=", "Path=/books;", "HttpOnly", "SameSite=Lax"} {
		if !strings.Contains(cookie, want) {
			t.Errorf("cookie %q lacks %s", cookie, want)
		}
	}
	for _, path := range []string{"/", "/basket", "/orders", "/orders/NOSUCHORDER", "/nothing"} {
		h := b.get(path).header
		csp := h.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "style-src 'self'", "script-src 'self'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: policy %q lacks %s", path, csp, want)
			}
		}
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") != "no-store" || h.Get("Vary") != "Accept-Language" {
			t.Errorf("%s: headers %v", path, h)
		}
	}
	if p := b.get("/style.css").has(t, 200, ":focus-visible"); p.header.Get("Content-Type") != "text/css; charset=utf-8" {
		t.Errorf("the style is %s", p.header.Get("Content-Type"))
	}
	if p := b.get("/live.js").has(t, 200, "pageshow"); p.header.Get("Content-Type") != "text/javascript; charset=utf-8" {
		t.Errorf("the script is %s", p.header.Get("Content-Type"))
	}
}

func TestFrench(t *testing.T) {
	w := newWorld(t)
	b := w.customer(t)
	b.header.Set("Accept-Language", "fr-CH, fr;q=0.9, en;q=0.8")
	b.get("/").has(t, 200, `<html lang="fr">`, "42,00\u00a0EUR", "Ajouter au panier")
	o := w.order(t)
	b.get("/orders/"+o.ID).has(t, 200, "Payer avec le lecteur de carte", "Pas encore payée")
	b.header.Set("Accept-Language", "de, it")
	b.get("/").has(t, 200, `<html lang="en">`)
}
