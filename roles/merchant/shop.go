package merchant

import (
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sethttp"
)

// orderFormOctetsMax bounds the body of a new order.
const orderFormOctetsMax = 64 << 10

// Handler serves the shop's pages, the SET server and the probes:
//
//	GET  /                   the catalogue
//	POST /orders             makes an order: form fields item and quantity, repeated, and terms, or
//	                         {"items": [{"item", "quantity"}], "terms"}; terms are among the catalogue's
//	GET  /orders/{id}        the order as it is now
//	GET, POST /orders/{id}/pay   the initiation message
//	POST /set                SET messages
//	GET  /livez, /readyz
//
// Pages are HTML, or JSON for who accepts that and not HTML.
func (m *Merchant) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", m.showCatalogue)
	mux.HandleFunc("POST /orders", m.makeOrder)
	mux.HandleFunc("GET /orders/{id}", m.showOrder)
	mux.HandleFunc("GET /orders/{id}/pay", m.pay)
	mux.HandleFunc("POST /orders/{id}/pay", m.pay)
	mux.Handle("/set", sethttp.Handler(sethttp.MediaPayment, m.Log, m.ServeSET))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := m.Ready(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	return mux
}

var pages = template.Must(template.New("").Parse(`
{{define "head"}}<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{.}}</title><h1>{{.}}</h1>{{end}}
{{define "catalogue"}}{{template "head" .Shop}}<ul>
{{range .Items}}<li>{{.Name}}, {{.Price}}
<form method="post" action="{{$.Orders}}"><input type="hidden" name="item" value="{{.ID}}"><label>Quantity <input type="number" name="quantity" value="1" min="1"></label>{{with $.Terms}} <label>Paid <select name="terms"><option value="">at once</option>{{range .}}<option value="{{.}}">{{.Text}}</option>{{end}}</select></label>{{end}} <button>Order</button></form></li>
{{end}}</ul>{{end}}
{{define "order"}}{{template "head" .Title}}<ul>
{{range .Order.Lines}}<li>{{.Quantity}} x {{.Name}}</li>
{{end}}</ul><p>Total {{.Order.Total}}</p>{{with .Order.Terms.Text}}<p>{{.}}</p>{{end}}<p>{{.State}}</p>
{{with .Order.Payment}}<p>Transaction {{.XID}}{{with .ApprovalCode}}, approval code {{.}}{{end}}</p>{{end}}
{{with .Pay}}<form method="post" action="{{.}}"><button>Pay</button></form>{{end}}{{end}}
{{define "message"}}{{template "head" .}}{{end}}`))

// stateTexts tell a customer where an order stands.
var stateTexts = map[OrderState]string{
	OrderNew:         "This order is not paid.",
	OrderAuthorizing: "The payment was received. Its authorization is awaited.",
	OrderDeclined:    "The payment was declined. You can pay again.",
	OrderFailed:      "The payment could not be processed. You can pay again.",
	OrderAuthorized:  "The payment is authorized.",
	OrderCaptured:    "This order is paid.",
	OrderUnresolved:  "The payment was received. Its outcome is being looked into.",
	OrderReceived:    "The payment was received. Each shipment will be charged by itself.",
	OrderVoided:      "The payment was taken back.",
	OrderRefunded:    "The payment was refunded.",
}

func (m *Merchant) showCatalogue(w http.ResponseWriter, r *http.Request) {
	if wantsJSON(r) {
		m.writeJSON(w, http.StatusOK, m.Catalogue)
		return
	}
	type item struct{ ID, Name, Price string }
	var items []item
	for _, i := range m.Catalogue.Items {
		amount, _ := m.Catalogue.amount(i.Price) // the currency was checked
		items = append(items, item{i.ID, i.Name, amount.String()})
	}
	m.writePage(w, http.StatusOK, "catalogue", map[string]any{"Shop": m.shopName(), "Items": items, "Terms": m.Catalogue.Terms, "Orders": m.url("orders")})
}

func (m *Merchant) makeOrder(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, orderFormOctetsMax)
	want, terms, err := readOrder(r)
	if err != nil {
		m.fail(w, r, http.StatusBadRequest, err.Error())
		return
	}
	lines, total, err := m.Catalogue.price(want)
	if err == nil && terms != "" && !slices.Contains(m.Catalogue.Terms, terms) {
		err = fmt.Errorf("%w: it cannot be paid so", errOrderInvalid)
	}
	if err != nil {
		m.fail(w, r, http.StatusUnprocessableEntity, err.Error())
		return
	}
	amount, err := m.Catalogue.amount(total)
	if err == nil {
		var order *Order
		if order, err = m.Store.createOrder(r.Context(), m.Now(), lines, amount, terms); err == nil {
			m.Log.Info("order made", "order", order.Number, "amount", amount.String())
			m.created(w, r, order.ID)
			return
		}
	}
	m.unavailable(w, r, err)
}

func (m *Merchant) created(w http.ResponseWriter, r *http.Request, id string) {
	w.Header().Set("Location", m.url("orders", id))
	if !wantsJSON(r) {
		w.WriteHeader(http.StatusSeeOther)
		return
	}
	order, err := m.Store.Order(r.Context(), id)
	if err != nil {
		m.unavailable(w, r, err)
		return
	}
	m.writeJSON(w, http.StatusCreated, order)
}

var errForm = errors.New("want one quantity, a whole number, for each item")

// readOrder reads a form or a JSON object.
func readOrder(r *http.Request) (want []wanted, terms Terms, err error) {
	if mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); mediaType == "application/json" {
		var body struct {
			Items []wanted `json:"items"`
			Terms Terms    `json:"terms"`
		}
		d := json.NewDecoder(r.Body)
		d.DisallowUnknownFields()
		if err := d.Decode(&body); err != nil {
			return nil, "", errors.New(`want {"items": [{"item": "...", "quantity": 1}]}`)
		}
		return body.Items, body.Terms, nil
	}
	if err := r.ParseForm(); err != nil {
		return nil, "", errForm
	}
	items, quantities := r.PostForm["item"], r.PostForm["quantity"]
	if len(items) != len(quantities) {
		return nil, "", errForm
	}
	for i := range items {
		n, err := strconv.ParseInt(quantities[i], 10, 64)
		if err != nil {
			return nil, "", errForm
		}
		want = append(want, wanted{items[i], n})
	}
	return want, Terms(r.PostForm.Get("terms")), nil
}

func (m *Merchant) showOrder(w http.ResponseWriter, r *http.Request) {
	order, ok := m.order(w, r)
	if !ok {
		return
	}
	if wantsJSON(r) {
		m.writeJSON(w, http.StatusOK, order)
		return
	}
	page := map[string]any{"Title": fmt.Sprintf("Order %d", order.Number), "Order": order, "State": stateTexts[order.State]}
	if order.State.payable() {
		page["Pay"] = m.url("orders", order.ID, "pay")
	}
	m.writePage(w, http.StatusOK, "order", page)
}

// pay sends the initiation message, which starts the cardholder's software (SET §8.3). It changes
// nothing.
func (m *Merchant) pay(w http.ResponseWriter, r *http.Request) {
	order, ok := m.order(w, r)
	if !ok {
		return
	}
	if !order.State.payable() {
		m.fail(w, r, http.StatusConflict, stateTexts[order.State])
		return
	}
	terms, err := order.Terms.parse()
	if err != nil {
		m.unavailable(w, r, err)
		return
	}
	page := m.url("orders", order.ID) // shows the true state, whatever led there
	message := set.Initiation{
		Kind: set.PaymentInitiation, Versions: []string{"1.0"}, SETURL: m.url("set"),
		QueryURL: page, SuccessURL: page, FailureURL: page, CancelURL: page,
		LIDM: order.lidM, PurchAmt: &order.amount, Brands: []set.BrandID{set.BrandID(m.Endpoint.SignCert.Brand())},
		InstallRecur: terms, OrderType: "text/plain; charset=utf-8", Order: order.description,
	}
	body, err := message.Encode()
	if err != nil {
		m.unavailable(w, r, err)
		return
	}
	w.Header().Set("Content-Type", sethttp.MediaPaymentInitiation)
	w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=order-%d.setpay", order.Number))
	w.Header().Set("Cache-Control", "no-store")
	m.write(w, body)
}

// order finds the order that a request is for, or answers the request.
func (m *Merchant) order(w http.ResponseWriter, r *http.Request) (*Order, bool) {
	order, err := m.Store.Order(r.Context(), r.PathValue("id"))
	switch {
	case errors.Is(err, ErrNoOrder):
		m.fail(w, r, http.StatusNotFound, "There is no such order.")
	case err != nil:
		m.unavailable(w, r, err)
	}
	return order, err == nil
}

// url makes an absolute address of the shop.
func (m *Merchant) url(path ...string) string { return m.base.JoinPath(path...).String() }

// shopName is the merchant's name as its certificate has it.
func (m *Merchant) shopName() string { return m.Endpoint.SignCert.Merchant.Names[0].Name }

func wantsJSON(r *http.Request) bool {
	accept := r.Header.Get("Accept")
	return strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/html")
}

func (m *Merchant) writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		m.Log.Error("cannot write JSON", "error", err)
		http.Error(w, "cannot answer now", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	m.write(w, append(body, '\n'))
}

func (m *Merchant) writePage(w http.ResponseWriter, status int, name string, data any) {
	var body strings.Builder
	if err := pages.ExecuteTemplate(&body, name, data); err != nil {
		m.Log.Error("cannot write a page", "page", name, "error", err)
		http.Error(w, "cannot answer now", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; form-action 'self'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer") // addresses of orders are secrets
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	m.write(w, []byte(body.String()))
}

func (m *Merchant) write(w http.ResponseWriter, body []byte) {
	if _, err := w.Write(body); err != nil {
		m.Log.Debug("customer went away before the answer", "error", err)
	}
}

// fail answers that a request cannot be done.
func (m *Merchant) fail(w http.ResponseWriter, r *http.Request, status int, text string) {
	if wantsJSON(r) {
		m.writeJSON(w, status, map[string]string{"error": text})
		return
	}
	m.writePage(w, status, "message", text)
}

func (m *Merchant) unavailable(w http.ResponseWriter, r *http.Request, err error) {
	m.Log.Error("cannot serve the shop now", "error", err)
	w.Header().Set("Retry-After", "5")
	m.fail(w, r, http.StatusServiceUnavailable, "The shop cannot answer now. Please try again.")
}
