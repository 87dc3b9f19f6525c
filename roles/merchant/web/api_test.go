package web_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/merchant/web"
	"github.com/setkit/setkit/roles/set"
)

// apiOrder is what of an order the tests look at.
type apiOrder struct {
	ID, Reference, State, Total, Page, Pay string
	Version                                int64
	Payable                                bool
	Payment                                *struct {
		ApprovalCode   string
		CapturedAmount merchant.Money
	}
}

// exchange is a request of the API and its answer.
type exchange struct {
	sent string
	page
}

// call asks the API. A header is a name and a value.
func (w *world) call(t *testing.T, method, path, body string, header ...string) exchange {
	t.Helper()
	req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), method, w.config.BaseURL+"/api/v1"+path, strings.NewReader(body)))
	req.Header.Set("Authorization", "Bearer "+apiToken)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res := must[*http.Response](t)(http.DefaultClient.Do(req))
	defer res.Body.Close()
	return exchange{body, page{res.StatusCode, res.Header, res.Header.Get("Location"), string(must[[]byte](t)(io.ReadAll(res.Body)))}}
}

func (x exchange) order(t *testing.T) (o apiOrder) {
	t.Helper()
	if err := json.Unmarshal([]byte(x.body), &o); err != nil {
		t.Fatalf("%v\n%s", err, x.body)
	}
	return o
}

const twoLines = `{"reference": "A-17", "currency": "EUR", "terms": "install 3", "lines": [{"item": "book", "quantity": 1}, {"name": "Gift wrapping", "price": 150, "quantity": 2}],
	"returns": {"success": "https://other.example/thanks", "cancel": "https://other.example/basket"}}`

func description(t *testing.T) *openapi3.T {
	t.Helper()
	doc := must[*openapi3.T](t)(openapi3.NewLoader().LoadFromData(must[[]byte](t)(os.ReadFile("openapi.yaml"))))
	if err := doc.Validate(t.Context(), openapi3.EnableExamplesValidation()); err != nil {
		t.Fatal(err)
	}
	if doc.OpenAPI != "3.1.0" {
		t.Fatalf("the description is of version %s", doc.OpenAPI)
	}
	return doc
}

// fits checks JSON against a schema of the description.
func fits(doc *openapi3.T, schema *openapi3.SchemaRef, body string) error {
	var v any
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		return err
	}
	return doc.ValidateSchemaJSON(schema.Value, v, openapi3.EnableJSONSchema2020(), openapi3.EnableFormatValidation(), openapi3.MultiErrors())
}

// apiCases bring about every answer that the description has, by operation and status.
func (w *world) apiCases(t *testing.T) map[string]func() exchange {
	made := w.call(t, "POST", "/orders", twoLines, "Idempotency-Key", "one").order(t)
	paid := w.paid(t)
	create := func(body string, header ...string) func() exchange {
		return func() exchange { return w.call(t, "POST", "/orders", body, header...) }
	}
	get := func(path string, header ...string) func() exchange {
		return func() exchange { return w.call(t, "GET", path, "", header...) }
	}
	broken := func(ask func() exchange) func() exchange {
		return func() exchange {
			w.config.Store.Close()
			return ask()
		}
	}
	return map[string]func() exchange{
		"makeOrder 200":     create(twoLines, "Idempotency-Key", "one"),
		"makeOrder 201":     create(twoLines, "Idempotency-Key", "two"),
		"makeOrder 400":     create(`{"currency": "EUR", "lines": [], "price": 1}`, "Idempotency-Key", "three"),
		"makeOrder 401":     create(twoLines, "Idempotency-Key", "four", "Authorization", "Bearer guess"),
		"makeOrder 409":     create(`{"currency": "EUR", "lines": [{"item": "book", "quantity": 2}]}`, "Idempotency-Key", "one"),
		"makeOrder 415":     create(twoLines, "Idempotency-Key", "five", "Content-Type", "text/plain"),
		"makeOrder 422":     create(`{"currency": "EUR", "lines": [{"item": "car", "quantity": 1}]}`, "Idempotency-Key", "six"),
		"makeOrder 503":     broken(create(twoLines, "Idempotency-Key", "seven")),
		"showOrder 200":     get("/orders/" + paid.ID),
		"showOrder 401":     get("/orders/"+made.ID, "Authorization", ""),
		"showOrder 404":     get("/orders/NOSUCHORDER"),
		"showOrder 503":     broken(get("/orders/" + made.ID)),
		"getInitiation 200": get("/orders/" + made.ID + "/initiation"),
		"getInitiation 401": get("/orders/"+made.ID+"/initiation", "Authorization", "Basic "+apiToken),
		"getInitiation 404": get("/orders/NOSUCHORDER/initiation"),
		"getInitiation 409": get("/orders/" + paid.ID + "/initiation"),
		"getInitiation 503": broken(get("/orders/" + made.ID + "/initiation")),
		"describe 200":      get("/openapi.yaml", "Authorization", ""),
	}
}

// TestOpenAPI brings about every answer of the description and holds it against the description.
func TestOpenAPI(t *testing.T) {
	w := newWorld(t)
	doc := description(t)
	cases := w.apiCases(t)
	type answer struct {
		op     *openapi3.Operation
		status string
		want   *openapi3.Response
	}
	var answers []answer
	for _, item := range doc.Paths.Map() {
		for _, op := range item.Operations() {
			for status, want := range op.Responses.Map() {
				answers = append(answers, answer{op, status, want.Value})
			}
		}
	}
	slices.SortFunc(answers, func(a, b answer) int { return strings.Compare(a.status, b.status) }) // 503 last: they break it
	for _, a := range answers {
		name := a.op.OperationID + " " + a.status
		ask := cases[name]
		if ask == nil {
			t.Errorf("%s is described and not tried", name)
			continue
		}
		delete(cases, name)
		x := ask()
		if got := strconv.Itoa(x.status); got != a.status {
			t.Errorf("%s: the server answers %s: %s", name, got, x.body)
			continue
		}
		if a.op.RequestBody != nil && x.status < 300 {
			if err := fits(doc, a.op.RequestBody.Value.Content.Get("application/json").Schema, x.sent); err != nil {
				t.Errorf("%s: what was sent is not as described: %v", name, err)
			}
		}
		checkAnswer(t, doc, name, a.want, x)
	}
	for name := range cases {
		t.Errorf("%s is tried and not described", name)
	}
}

func checkAnswer(t *testing.T, doc *openapi3.T, name string, want *openapi3.Response, x exchange) {
	t.Helper()
	mediaType, _, err := mime.ParseMediaType(x.header.Get("Content-Type"))
	content := want.Content[mediaType]
	if err != nil || content == nil {
		t.Errorf("%s: the answer is of type %q, which is not described", name, mediaType)
		return
	}
	for header, h := range want.Headers {
		if value, _ := json.Marshal(x.header.Get(header)); h.Value.Required && x.header.Get(header) == "" || fits(doc, h.Value.Schema, string(value)) != nil {
			t.Errorf("%s: header %s is %s", name, header, value)
		}
	}
	body := x.body
	if mediaType != "application/json" {
		raw, _ := json.Marshal(body)
		body = string(raw)
	}
	if err := fits(doc, content.Schema, body); err != nil {
		t.Errorf("%s: the answer is not as described: %v\n%s", name, err, x.body)
	}
}

// What the description's schemas allow is all that they allow.
func TestOpenAPISchemasRefuse(t *testing.T) {
	t.Parallel()
	doc := description(t)
	for schema, bodies := range map[string][]string{
		"NewOrder": {
			`{}`, `{"currency": "EUR", "lines": []}`, `{"currency": "EUR", "lines": [{"item": "book"}]}`,
			`{"currency": "EUR", "lines": [{"item": "book", "quantity": 1, "price": 5}]}`, `{"currency": "euro", "lines": [{"item": "book", "quantity": 1}]}`,
			`{"currency": "EUR", "lines": [{"item": "book", "quantity": 1}], "more": 1}`,
		},
		"Event": {`{"id": "a", "type": "order.made", "at": "2030-01-01T00:00:00Z"}`},
		"Error": {`{"error": 5}`, `{}`},
		"Money": {`{"currency": "EUR", "minor": "5"}`, `{"currency": "EUR", "minor": 1.5}`},
	} {
		for _, body := range bodies {
			if err := fits(doc, doc.Components.Schemas[schema], body); err == nil {
				t.Errorf("%s allows %s", schema, body)
			}
		}
	}
}

// Another shop sells something: order, wake-up message, payment, state.
func TestAPIPurchase(t *testing.T) {
	w := newWorld(t)
	x := w.call(t, "POST", "/orders", twoLines, "Idempotency-Key", "A-17")
	o := x.order(t)
	if x.status != 201 || o.Total != "45.00 EUR" || o.Reference != "A-17" || o.State != "new" || !o.Payable || x.location != w.config.BaseURL+"/api/v1/orders/"+o.ID {
		t.Fatalf("%d %+v at %s", x.status, o, x.location)
	}
	wake := w.call(t, "GET", "/orders/"+o.ID+"/initiation", "")
	if browser := w.customer(t).get(strings.TrimPrefix(o.Pay, w.config.BaseURL)); browser.body != wake.body {
		t.Error("a browser is given another initiation message than the shop")
	}
	init := must[*set.Initiation](t)(set.ParseInitiation([]byte(wake.body)))
	if init.SuccessURL != "https://other.example/thanks" || init.CancelURL != "https://other.example/basket" || init.FailureURL != o.Page+"/failure" ||
		!strings.Contains(string(init.Order), "2 x Gift wrapping at 1.50 EUR") {
		t.Errorf("initiation %+v: %s", init, init.Order)
	}
	w.pay(t, []byte(wake.body))
	w.await(t, o.ID, merchant.OrderAuthorized)
	if got := w.call(t, "GET", "/orders/"+o.ID, "").order(t); got.State != "authorized" || got.Payable || got.Payment.ApprovalCode != "OK0001" {
		t.Errorf("order %+v", got)
	}
	for name, body := range map[string]string{
		"two values": twoLines + twoLines, "no JSON": "{", "a price for an item": `{"currency": "EUR", "lines": [{"item": "book", "quantity": 1, "price": 1}]}`,
		"another currency": `{"currency": "USD", "lines": [{"item": "book", "quantity": 1}]}`, "no currency": `{"lines": [{"item": "book", "quantity": 1}]}`,
		"script": `{"currency": "EUR", "lines": [{"item": "book", "quantity": 1}], "returns": {"success": "javascript:alert(1)"}}`,
		"huge":   `{"currency": "EUR", "reference": "` + strings.Repeat("x", 70<<10) + `"}`,
	} {
		if x := w.call(t, "POST", "/orders", body, "Idempotency-Key", name[:3]); x.status != 400 && x.status != 422 {
			t.Errorf("%s: %d %s", name, x.status, x.body)
		}
	}
	for _, key := range []string{"", strings.Repeat("k", 151), "a b"} {
		if x := w.call(t, "POST", "/orders", twoLines, "Idempotency-Key", key); x.status != 400 {
			t.Errorf("with the key %q: %d", key, x.status)
		}
	}
	if all := must[[]*merchant.Order](t)(w.config.Store.Orders(t.Context())); len(all) != 1 {
		t.Errorf("%d orders, want one", len(all))
	}
}

// receiver takes webhook requests, after a while.
type receiver struct {
	mu     sync.Mutex
	fail   int // so many requests
	seen   []*http.Request
	bodies []string
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen, r.bodies = append(r.seen, req), append(r.bodies, string(body))
	switch {
	case err != nil || len(r.seen) == 1 && r.fail > 0:
		w.WriteHeader(http.StatusInternalServerError)
	case len(r.seen) <= r.fail:
		http.Redirect(w, req, "/elsewhere", http.StatusTemporaryRedirect)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// TestWebhook tells a receiver that fails first of a purchase, as the description has it.
func TestWebhook(t *testing.T) {
	r := &receiver{fail: 3}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	w := newWorld(t, func(w *world) { w.api.Webhook, w.api.WebhookKey = server.URL+"/hook?secret=inthis", []byte(webhookKey) })
	o := w.call(t, "POST", "/orders", twoLines, "Idempotency-Key", "A-17").order(t)
	own := w.order(t) // of the shop itself: not told
	w.pay(t, []byte(w.call(t, "GET", "/orders/"+o.ID+"/initiation", "").body))
	w.pay(t, []byte(w.customer(t).get("/orders/"+own.ID+"/pay").body))
	w.await(t, own.ID, merchant.OrderAuthorized)
	w.await(t, o.ID, merchant.OrderAuthorized)
	if _, err := w.config.Store.Capture(t.Context(), time.Now(), o.ID, 1000); err != nil {
		t.Fatal(err)
	}
	type event struct {
		ID, Type string
		Order    apiOrder
	}
	doc := description(t)
	schema := doc.Webhooks["orderChanged"].Post.RequestBody.Value.Content.Get("application/json").Schema
	told := func() (last event) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for i := r.fail; i < len(r.bodies); i++ {
			var e event
			if err := json.Unmarshal([]byte(r.bodies[i]), &e); err != nil {
				t.Fatal(err)
			}
			if e.Order.Version >= last.Order.Version {
				last = e
			}
		}
		return last
	}
	poll(t, "the receiver knows that a part is captured", func() bool {
		e := told()
		return e.Order.State == "captured" && e.Order.Payment.CapturedAmount.Minor == 1000
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := make(map[string]int)
	for i, req := range r.seen {
		id, at := req.Header.Get("Webhook-Id"), req.Header.Get("Webhook-Timestamp")
		mac := hmac.New(sha256.New, []byte(webhookKey))
		fmt.Fprintf(mac, "%s.%s.%s", id, at, r.bodies[i])
		if got, want := req.Header.Get("Webhook-Signature"), "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)); got != want {
			t.Errorf("signature %s, want %s", got, want)
		}
		if seconds, err := strconv.ParseInt(at, 10, 64); err != nil || time.Since(time.Unix(seconds, 0)).Abs() > time.Minute {
			t.Errorf("timestamp %q", at)
		}
		for _, p := range doc.Webhooks["orderChanged"].Post.Parameters {
			value, _ := json.Marshal(req.Header.Get(p.Value.Name))
			if err := fits(doc, p.Value.Schema, string(value)); err != nil {
				t.Errorf("header %s: %v", p.Value.Name, err)
			}
		}
		if err := fits(doc, schema, r.bodies[i]); err != nil {
			t.Errorf("the event is not as described: %v\n%s", err, r.bodies[i])
		}
		var e event
		if err := json.Unmarshal([]byte(r.bodies[i]), &e); err != nil || e.ID != id || e.Order.ID != o.ID || e.Type != "order.changed" {
			t.Errorf("event %+v (%v), with the id %s", e, err, id)
		}
		if req.URL.Path != "/hook" || req.Method != http.MethodPost {
			t.Errorf("a redirect was followed to %s", req.URL)
		}
		ids[id]++
	}
	if again := slices.Collect(func(yield func(int) bool) {
		for _, n := range ids {
			if n > 1 && !yield(n) {
				return
			}
		}
	}); len(again) == 0 {
		t.Error("an event that was refused did not come again under its name")
	}
	if log := w.log.String(); strings.Contains(log, "inthis") || strings.Contains(log, o.ID) {
		t.Error("the log has the webhook's URL, or the order's id, which are secrets")
	}
}

// A receiver that never answers delays no payment.
func TestWebhookHangs(t *testing.T) {
	hang := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(hang) })
	w := newWorld(t, func(w *world) { w.api.Webhook, w.api.WebhookKey = server.URL, []byte(webhookKey) })
	ctx, cancel := context.WithTimeout(t.Context(), eventually)
	defer cancel()
	for i := range 10 { // more than jobs are done at once
		o := w.call(t, "POST", "/orders", twoLines, "Idempotency-Key", fmt.Sprint(i)).order(t)
		w.pay(t, []byte(w.call(t, "GET", "/orders/"+o.ID+"/initiation", "").body))
		w.await(t, o.ID, merchant.OrderAuthorized)
	}
	if ctx.Err() != nil {
		t.Error("ten payments took as long as the receiver")
	}
}

func TestAPIConfiguration(t *testing.T) {
	w := newWorld(t)
	for says, api := range map[string]web.API{
		"token has less than 16": {Token: []byte("short")},
		"URL is no http":         {Token: []byte(apiToken), Webhook: "ftp://x", WebhookKey: []byte(webhookKey)},
		"key has less than 16":   {Token: []byte(apiToken), Webhook: "https://x.example", WebhookKey: []byte("short")},
	} {
		if _, err := web.NewShop(w.m, &api); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want one that says %q", err, says)
		}
	}
	for _, base := range []string{"office.example", "http://office.example/path", "ftp://office.example", "http://a:b@office.example"} {
		if _, err := web.NewOffice(w.m, base, w.listOperators); err == nil {
			t.Errorf("the back office is made at %s", base)
		}
	}
	without := must[*web.Shop](t)(web.NewShop(w.m, nil))
	rec := httptest.NewRecorder()
	without.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/api/v1/openapi.yaml", nil))
	if rec.Code != http.StatusNotFound {
		t.Errorf("a shop without API answers %d", rec.Code)
	}
}
