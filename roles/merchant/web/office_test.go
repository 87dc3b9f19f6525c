package web_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/merchant/web"
	"github.com/setkit/setkit/roles/set"
)

// anna gives a browser with an operator logged in.
func (w *world) anna(t *testing.T) *browser {
	t.Helper()
	b := w.visitor(t)
	b.post("/login", "name", "anna", "password", password).has(t, 303)
	return b
}

// confirm asks for something and confirms it, twice at once and once more. It gives where that leads.
func confirm(t *testing.T, b *browser, path, query string) string {
	t.Helper()
	ask := b.get(path+query).has(t, 200)
	form := url.Values{"csrf": {ask.field(t, "csrf")}, "once": {ask.field(t, "once")}}
	pages := make(chan page, 2)
	for range 2 {
		go func() { pages <- b.do("POST", path, form, nil) }()
	}
	first, second := <-pages, <-pages
	third := b.do("POST", path, form, nil)
	if first.status != 303 || first.location != second.location || first.location != third.location || second.status != 303 || third.status != 303 {
		t.Fatalf("three clicks lead to %d %s, %d %s, %d %s\n%s", first.status, first.location, second.status, second.location, third.status, third.location, first.body)
	}
	return first.location
}

func TestOfficeOperations(t *testing.T) {
	w := newWorld(t)
	o := w.paid(t)
	unpaid := w.order(t)
	b := w.anna(t)
	b.get("/").has(t, 200, "1001", "1002", "42.50\u00a0EUR")
	if page := b.get("/?state=authorized").has(t, 200, "1001"); strings.Contains(page.body, "1002") {
		t.Error("the filter shows an order in another state")
	}
	b.get("/?state=refunded").has(t, 200, "There are no such orders.")
	b.get("/?state=strange").has(t, 400)
	if page := b.get("/?before=1002").has(t, 200, "1001"); strings.Contains(page.body, ">1002<") {
		t.Error("older orders show a newer one")
	}
	path := "/orders/1001"
	b.get(path).has(t, 200, "Capture", "Reduce", "Void", "OK0001", "The Elements of Programming")
	b.get(path+"/capture?amount=99").has(t, 200, "Capture 99.00\u00a0EUR for order 1001?")
	b.get(path+"/capture").has(t, 200, "Capture 42.50\u00a0EUR for order 1001?")
	b.get(path+"/capture?amount=x").has(t, 422, "This amount cannot be used")
	b.get(path+"/reverse").has(t, 422, "This amount cannot be used")
	b.get(path+"/nothing").has(t, 404)
	b.get("/orders/999").has(t, 404, "There is no such order")
	b.get("/orders/"+o.ID).has(t, 404) // ids are for customers

	confirm(t, b, path+"/capture", "?amount=30,50")
	if got := w.await(t, o.ID, merchant.OrderCaptured).Payment.CapturedAmount.Minor; got != 3050 {
		t.Fatalf("captured %d, want 3050", got)
	}
	confirm(t, b, path+"/refund", "?amount=10.00")
	poll(t, "the refund is done", func() bool {
		return must[*merchant.Order](t)(w.config.Store.Order(t.Context(), o.ID)).Payment.RefundedAmount.Minor == 1000
	})
	if n := w.gateway.count(set.CapReqType) + w.gateway.count(set.CredReqType); n != 2 {
		t.Errorf("clicked three times each, a capture and a refund are %d requests", n)
	}
	w.await(t, o.ID, merchant.OrderCaptured)
	b.get(path).has(t, 200, "Batch 1", "10.00\u00a0EUR", "Undo the refund")
	b.get(path+"/void").has(t, 200, "The capture is undone, if its batch is open.")
	confirm(t, b, path+"/undo-refund", "")
	poll(t, "the refund is undone", func() bool {
		return must[*merchant.Order](t)(w.config.Store.Order(t.Context(), o.ID)).Payment.RefundedAmount.Minor == 0
	})

	// Refused by the books: said, and nothing is done.
	ask := b.get("/orders/1002/capture").has(t, 200)
	b.post("/orders/1002/capture", "csrf", ask.field(t, "csrf"), "once", ask.field(t, "once")).has(t, 409, "This was not done", "it is not paid")
	if got := must[*merchant.Order](t)(w.config.Store.Order(t.Context(), unpaid.ID)); got.State != merchant.OrderNew {
		t.Errorf("the order that is not paid is %s", got.State)
	}
	for _, want := range []string{`"operator":"anna","did":"capture","order":1001,"minor":3050,"outcome":"begun"`, `"did":"refund"`, `"did":"log in","outcome":"done"`, `"did":"capture","order":1002,"minor":0,"outcome":"refused"`} {
		if !strings.Contains(w.log.String(), want) {
			t.Errorf("the log does not say %s", want)
		}
	}
	if strings.Contains(w.log.String(), password) {
		t.Error("the log has the password")
	}
}

func TestOfficeVoid(t *testing.T) {
	w := newWorld(t)
	o := w.paid(t)
	b := w.anna(t)
	b.get("/orders/1001/void").has(t, 200, "The authorization is taken back.")
	resume := w.gateway.pause()
	confirm(t, b, "/orders/1001/void", "")
	b.get("/orders/1001").has(t, 200, "is awaited", `http-equiv="refresh"`)
	resume()
	w.await(t, o.ID, merchant.OrderVoided)
	if page := b.get("/orders/1001").has(t, 200, "taken back"); strings.Contains(page.body, "http-equiv") {
		t.Error("a page that waits for nothing refreshes itself")
	}
	b.header.Set("Accept-Language", "fr")
	b.get("/orders/1001").has(t, 200, "annulée", "Historique du paiement")
	b.get("/").has(t, 200, "Commandes", "Toutes")
}

func TestOfficeBatches(t *testing.T) {
	w := newWorld(t)
	o := w.paid(t)
	b := w.anna(t)
	confirm(t, b, "/orders/1001/capture", "")
	w.await(t, o.ID, merchant.OrderCaptured)
	b.get("/batch").has(t, 200, "Show totals", "Open a batch", "Close a batch")
	b.get("/batch/close").has(t, 422, "closing a batch needs one")
	b.get("/batch/purge?batch=1").has(t, 404)
	report := func(path, query string, want ...string) {
		t.Helper()
		to := confirm(t, b, path, query)
		poll(t, "the gateway has told of the batch", func() bool { return !strings.Contains(b.get(to).body, "http-equiv") })
		b.get(to).has(t, 200, want...)
	}
	report("/batch/show", "?batch=1", "42.50\u00a0EUR", "this shop", "the gateway")
	b.header.Set("Accept-Language", "fr")
	report("/batch/show", "?batch=1", "42,50\u00a0EUR", "cette boutique")
	b.header.Set("Accept-Language", "en")
	report("/batch/close", "?batch=1", "Closed")
	w.gateway.mu.Lock()
	state := w.gateway.batch.State
	w.gateway.mu.Unlock()
	if state != set.BatchClosed {
		t.Error("the batch is not closed")
	}
	b.get("/batch/report/NOSUCH").has(t, 404)
}

// Who is not logged in sees nothing and does nothing.
func TestOfficeLogin(t *testing.T) {
	w := newWorld(t)
	o := w.paid(t)
	b := w.visitor(t)
	for _, path := range []string{"/", "/orders/1001", "/orders/1001/capture", "/batch", "/batch/show", "/nothing"} {
		if p := b.get(path).has(t, 303); p.location != w.office.URL+"/login" {
			t.Errorf("%s leads to %s", path, p.location)
		}
	}
	if p := b.get("/login").has(t, 200, `autocomplete="current-password"`); strings.Contains(p.body, "any more") {
		t.Error("who was never logged in is told to be so no more")
	}
	b.post("/orders/1001/capture", "csrf", "", "once", "").has(t, 401, "You are not logged in any more, and what you asked for was not done.")
	b.post("/login", "name", "anna", "password", "wrong").has(t, 401, "Name and password do not fit.")
	b.post("/login", "name", "nobody", "password", password).has(t, 401, "Name and password do not fit.")
	b.post("/login", "name", "anna").has(t, 401)
	b.get("/").has(t, 303)

	p := b.post("/login", "name", " Anna", "password", password).has(t, 303)
	cookie := p.header.Get("Set-Cookie")
	for _, want := range []string{"office=", "Path=/;", "HttpOnly", "SameSite=Strict"} {
		if !strings.Contains(cookie, want) {
			t.Errorf("cookie %q lacks %s", cookie, want)
		}
	}
	b.get("/").has(t, 200)
	out := b.get("/").field(t, "csrf")
	b.post("/logout", "csrf", out).has(t, 303)
	if again := b.do("GET", "/", nil, http.Header{"Cookie": {strings.Split(cookie, ";")[0]}}); again.status != 303 {
		t.Errorf("after logging out, the cookie opens the back office: %d", again.status)
	}

	for _, end := range map[string]func(){
		"idle": func() { w.pass(31 * time.Minute) },
		"taken off the list": func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.operators = nil
		},
	} {
		w.mu.Lock()
		w.operators = []web.Operator{{Name: "anna", Password: hashed()}}
		w.mu.Unlock()
		b := w.anna(t)
		b.get("/").has(t, 200)
		end()
		p := b.get("/orders/1001").has(t, 303)
		b.get(strings.TrimPrefix(p.location, w.office.URL)).has(t, 200, "You are not logged in any more.")
	}
	if got := must[*merchant.Order](t)(w.config.Store.Order(t.Context(), o.ID)); got.State != merchant.OrderAuthorized {
		t.Errorf("the order is %s", got.State)
	}
	if log := w.log.String(); strings.Contains(log, "nobody") || !strings.Contains(log, `"operator":"unknown","did":"log in","outcome":"refused"`) {
		t.Error("the log names who is no operator, or does not tell of the attempt")
	}
}

// Guessing gets slow, also when it is done in parallel and when the right password comes at last.
func TestLoginThrottled(t *testing.T) {
	w := newWorld(t, func(w *world) { w.stopped = time.Now() })
	var mu sync.Mutex
	got := make(map[int]int)
	var guesses sync.WaitGroup
	for i := range 20 {
		guesses.Go(func() {
			p := w.visitor(t).post("/login", "name", "anna", "password", fmt.Sprint("guess ", i))
			mu.Lock()
			defer mu.Unlock()
			got[p.status]++
		})
	}
	guesses.Wait()
	if got[401] != 5 || got[429] != 15 {
		t.Fatalf("of 20 guesses these were answered: %v, want 5 compared and 15 made to wait", got)
	}
	p := w.visitor(t).post("/login", "name", "anna", "password", password).has(t, 429, "Please wait")
	if p.header.Get("Retry-After") == "" {
		t.Error("it is not said how long to wait")
	}
	w.visitor(t).post("/login", "name", "bert", "password", "guess").has(t, 401) // another name
	w.pass(2 * time.Second)
	w.visitor(t).post("/login", "name", "anna", "password", "guess").has(t, 401)
	w.pass(time.Second + time.Second/2)
	w.visitor(t).post("/login", "name", "anna", "password", password).has(t, 429) // twice as long now
	w.pass(time.Second)
	w.visitor(t).post("/login", "name", "anna", "password", password).has(t, 303)
	w.visitor(t).post("/login", "name", "anna", "password", "guess").has(t, 401)
	w.visitor(t).post("/login", "name", "anna", "password", password).has(t, 303)
}

// A page of another site, or one that got its address to lead here, has nothing done by an operator's browser.
func TestOfficeForged(t *testing.T) {
	w := newWorld(t)
	o := w.paid(t)
	b, other := w.anna(t), w.anna(t)
	ask := b.get("/orders/1001/capture").has(t, 200)
	csrf, once := ask.field(t, "csrf"), ask.field(t, "once")
	form := url.Values{"csrf": {csrf}, "once": {once}}
	const path = "/orders/1001/capture"
	for _, tt := range []struct {
		name   string
		form   url.Values
		header http.Header
		path   string
		want   int
	}{
		{"foreign origin", form, http.Header{"Origin": {"https://evil.example"}}, path, 403},
		{"the shop's origin", form, http.Header{"Origin": {w.shop.URL}}, path, 403},
		{"cross-site", form, http.Header{"Sec-Fetch-Site": {"cross-site"}}, path, 403},
		{"foreign host", form, http.Header{"Host": {"evil.example"}}, path, 421},
		{"no token", url.Values{"once": {once}}, nil, path, 403},
		{"another operator's token", url.Values{"csrf": {other.get("/").field(t, "csrf")}, "once": {once}}, nil, path, 403},
		{"never asked", url.Values{"csrf": {csrf}, "once": {"AAAAAAAAAAAAAAAAAAAAAAAAAA"}}, nil, path, 409},
		{"asked for something else", form, nil, "/orders/1001/void", 409},
		{"asked for another order", form, nil, "/orders/1002/capture", 409},
	} {
		if p := b.do("POST", tt.path, tt.form, tt.header); p.status != tt.want {
			t.Errorf("%s: status %d, want %d\n%s", tt.name, p.status, tt.want, p.body)
		}
	}
	b.do("GET", path, nil, http.Header{"Host": {"evil.example"}}).has(t, 421)
	if p := b.do("POST", "/login", url.Values{"name": {"anna"}, "password": {password}}, http.Header{"Origin": {"https://evil.example"}}); p.status != 403 {
		t.Errorf("logged in by another site: %d", p.status)
	}
	if got := must[*merchant.Order](t)(w.config.Store.Order(t.Context(), o.ID)); got.State != merchant.OrderAuthorized || got.Payment.Pending != "" {
		t.Errorf("the order is %s, %q", got.State, got.Payment.Pending)
	}
	if p := b.get("/"); p.header.Get("X-Frame-Options") != "DENY" || !strings.Contains(p.header.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
		t.Errorf("the back office can be framed: %v", p.header)
	}
}

func TestOperators(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, password, says string }{
		{"Anna", password, "lower-case"}, {"", password, "lower-case"}, {"anna\n", password, "lower-case"},
		{"anna", "short", "12 to 72"}, {"anna", strings.Repeat("x", 73), "12 to 72"},
	} {
		if _, err := web.NewOperator(tt.name, []byte(tt.password)); err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), tt.password) {
			t.Errorf("%q with %d octets: error %v", tt.name, len(tt.password), err)
		}
	}
	anna := must[web.Operator](t)(web.NewOperator("anna", []byte(password)))
	if err := web.CheckOperators([]web.Operator{anna}); err != nil {
		t.Error(err)
	}
	for says, list := range map[string][]web.Operator{
		"twice": {anna, anna}, "no bcrypt hash": {{Name: "bert", Password: password}}, "lower-case": {{Name: "B", Password: anna.Password}},
	} {
		if err := web.CheckOperators(list); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), password) {
			t.Errorf("error %v, want one that says %q", err, says)
		}
	}
}
