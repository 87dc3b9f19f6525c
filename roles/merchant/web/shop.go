package web

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/sethttp"
)

const (
	sessionCookie  = "shop"
	sessionLen     = 26 // of crypto/rand.Text
	historyRowsMax = 100
)

// Shop is the public side of the merchant. Its methods may be called by several goroutines.
type Shop struct {
	m     *merchant.Merchant
	pages *pages
	api   *API
}

// NewShop makes the shop's pages, with the API if api is not nil.
func NewShop(m *merchant.Merchant, api *API) (*Shop, error) {
	base, err := url.Parse(m.BaseURL)
	if err != nil {
		return nil, err
	}
	if api != nil {
		if err := api.check(); err != nil {
			return nil, err
		}
	}
	return &Shop{m: m, pages: newPages("shop.html", m.Name(), base, m.Log), api: api}, nil
}

// Handler serves everything public, below the merchant's base URL:
//
//	GET  /                      the catalogue
//	GET, POST /basket           the basket; item and quantity add to it, the same once adds once
//	POST /basket/change         new quantities
//	GET, POST /orders           the customer's orders; basket (its version) and terms make one of it
//	GET  /orders/{id}           the order as it is now
//	GET  /orders/{id}/{return}  the same, for success, failure and cancel
//	GET, POST /orders/{id}/pay  the initiation message
//	/api/v1/                    for other shops: see openapi.yaml
//	/set, /livez, /readyz       as the merchant serves them
func (s *Shop) Handler() http.Handler {
	site := http.NewServeMux()
	site.HandleFunc("GET /{$}", s.showCatalogue)
	site.HandleFunc("GET /style.css", s.pages.serveStyle)
	site.HandleFunc("GET /live.js", s.pages.serveScript)
	site.HandleFunc("GET /basket", s.showBasket)
	site.HandleFunc("POST /basket", s.addToBasket)
	site.HandleFunc("POST /basket/change", s.changeBasket)
	site.HandleFunc("GET /orders", s.showHistory)
	site.HandleFunc("POST /orders", s.makeOrder)
	site.HandleFunc("GET /orders/{id}", s.showOrder)
	site.HandleFunc("GET /orders/{id}/success", s.showOrder)
	site.HandleFunc("GET /orders/{id}/failure", s.showOrder)
	site.HandleFunc("GET /orders/{id}/cancel", s.showOrder)
	site.HandleFunc("GET /orders/{id}/pay", s.pay)
	site.HandleFunc("POST /orders/{id}/pay", s.pay)
	site.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.pages.tell(w, r, http.StatusNotFound, "not-found", s.view(r), "")
	})
	pages := s.pages.guard(site, func(w http.ResponseWriter, r *http.Request) {
		s.pages.tell(w, r, http.StatusForbidden, "foreign", s.view(r), "")
	})

	mux := http.NewServeMux()
	protocol := s.m.Handler()
	for _, path := range []string{"/set", "/livez", "/readyz"} {
		mux.Handle(path, protocol)
	}
	if s.api != nil {
		mux.Handle("/api/", s.apiHandler())
	}
	mux.Handle("/", pages)
	return mux
}

// session is what the customer's browser was given, "" if nothing was.
func session(r *http.Request) string {
	c, err := r.Cookie(sessionCookie)
	if err != nil || len(c.Value) != sessionLen {
		return ""
	}
	return c.Value
}

// begin gives the customer's session, a new one if there is none.
func (s *Shop) begin(w http.ResponseWriter, r *http.Request) string {
	secret := session(r)
	if secret == "" {
		secret = rand.Text()
	}
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Value: secret, Path: cmp.Or(strings.TrimSuffix(s.pages.base.Path, "/"), "/"), MaxAge: int(merchant.SessionLife.Seconds()),
		HttpOnly: true, Secure: s.pages.secure(), SameSite: http.SameSiteLaxMode,
	})
	return secret
}

// basket is the customer's basket, an empty one if it cannot be read: it is looked at for every page.
func (s *Shop) basket(r *http.Request) merchant.Basket {
	secret := session(r)
	if secret == "" {
		return merchant.Basket{}
	}
	b, err := s.m.Store.Basket(r.Context(), secret)
	if err != nil {
		s.m.Log.Error("cannot read a basket", "error", err)
	}
	return b
}

// view begins a page.
func (s *Shop) view(r *http.Request) view {
	var v view
	for _, line := range s.basket(r).Lines {
		v.Pieces += int(line.Quantity)
	}
	return v
}

func (s *Shop) showCatalogue(w http.ResponseWriter, r *http.Request) {
	type item struct {
		ID, Name string
		Price    merchant.Money
		Once     string // names the item's form on this page
	}
	var items []item
	for _, i := range s.m.Catalogue.Items {
		items = append(items, item{i.ID, i.Name, s.m.Catalogue.Money(i.Price), rand.Text()})
	}
	v := s.view(r)
	v.Title, v.Here, v.Data = languageOf(r).say("catalogue"), "catalogue", items
	s.pages.show(w, r, http.StatusOK, "catalogue", v)
}

func (s *Shop) showBasket(w http.ResponseWriter, r *http.Request) {
	basket := s.basket(r)
	data := struct {
		Lines   []row
		Total   merchant.Money
		Version int64
		Terms   []merchant.Terms
		Retyped bool // by the button that orders
	}{Version: basket.Version, Terms: s.m.Catalogue.Terms, Retyped: r.URL.Query().Has(retypedQuery)}
	if len(basket.Lines) > 0 {
		lines, total, err := s.m.Catalogue.Total(basket.Lines)
		if errors.Is(err, merchant.ErrOrderInvalid) { // an item is sold no more, or the total has become too high
			err = s.m.Store.ChangeBasket(r.Context(), s.m.Now(), session(r), "", s.sellable)
			if err == nil {
				http.Redirect(w, r, s.pages.url("basket"), http.StatusSeeOther)
				return
			}
		}
		if err != nil {
			s.pages.unavailable(w, r, s.view(r), err)
			return
		}
		data.Lines, data.Total = rows(lines, total), total
	}
	v := s.view(r)
	v.Title, v.Here, v.Data = languageOf(r).say("basket"), "basket", data
	s.pages.show(w, r, http.StatusOK, "basket", v)
}

// sellable drops what can no longer be ordered.
func (s *Shop) sellable(lines []merchant.LineRequest) (kept []merchant.LineRequest, err error) {
	for _, line := range lines {
		if _, _, err := s.m.Catalogue.Total(append(kept, line)); err == nil {
			kept = append(kept, line)
		}
	}
	return kept, nil
}

// readLines reads the fields item and quantity of a form.
func readLines(r *http.Request) (lines []merchant.LineRequest, ok bool) {
	if err := r.ParseForm(); err != nil {
		return nil, false
	}
	items, quantities := r.PostForm["item"], r.PostForm["quantity"]
	if len(items) == 0 || len(items) != len(quantities) {
		return nil, false
	}
	for i := range items {
		n, err := strconv.ParseInt(quantities[i], 10, 64)
		if err != nil || items[i] == "" {
			return nil, false
		}
		lines = append(lines, merchant.LineRequest{Item: items[i], Quantity: n})
	}
	return lines, true
}

func (s *Shop) addToBasket(w http.ResponseWriter, r *http.Request) {
	s.editBasket(w, r, s.pages.url("basket"), func(have, added []merchant.LineRequest) []merchant.LineRequest {
		for _, line := range added {
			i := slices.IndexFunc(have, func(l merchant.LineRequest) bool { return l.Item == line.Item })
			switch {
			case i < 0 || line.Quantity < 1:
				have = append(have, line)
			default: // neither is out of bounds, so the sum is not
				have[i].Quantity += min(line.Quantity, merchant.QuantityMax+1)
			}
		}
		return have
	})
}

func (s *Shop) changeBasket(w http.ResponseWriter, r *http.Request) {
	s.changeQuantities(w, r, s.pages.url("basket"))
}

func (s *Shop) changeQuantities(w http.ResponseWriter, r *http.Request, to string) {
	s.editBasket(w, r, to, func(have, wanted []merchant.LineRequest) []merchant.LineRequest {
		for _, line := range wanted {
			for i := range have {
				if have[i].Item == line.Item {
					have[i].Quantity = line.Quantity
				}
			}
		}
		return slices.DeleteFunc(have, func(l merchant.LineRequest) bool { return l.Quantity == 0 })
	})
}

// retypedQuery has the basket's page say that the quantities were updated first.
const retypedQuery = "updated"

// retyped tells whether a form has other quantities than the basket.
func retyped(have, form []merchant.LineRequest) bool {
	return slices.ContainsFunc(form, func(l merchant.LineRequest) bool {
		return slices.ContainsFunc(have, func(h merchant.LineRequest) bool { return h.Item == l.Item && h.Quantity != l.Quantity })
	})
}

// editBasket changes the basket by the lines of a form, if it can then be ordered, and leads to a page.
func (s *Shop) editBasket(w http.ResponseWriter, r *http.Request, to string, edit func(have, form []merchant.LineRequest) []merchant.LineRequest) {
	form, ok := readLines(r)
	if !ok {
		s.pages.tell(w, r, http.StatusBadRequest, "bad-form", s.view(r), "", "basket")
		return
	}
	err := s.m.Store.ChangeBasket(r.Context(), s.m.Now(), s.begin(w, r), r.PostForm.Get("once"), func(have []merchant.LineRequest) ([]merchant.LineRequest, error) {
		lines := edit(have, form)
		if len(lines) == 0 {
			return lines, nil
		}
		_, _, err := s.m.Catalogue.Total(lines)
		return lines, err
	})
	switch {
	case errors.Is(err, merchant.ErrOrderInvalid):
		s.pages.tell(w, r, http.StatusUnprocessableEntity, "cannot-order", s.view(r), "", "basket")
	case err != nil:
		s.pages.unavailable(w, r, s.view(r), err)
	default:
		http.Redirect(w, r, to, http.StatusSeeOther)
	}
}

// makeOrder makes an order of the basket as the customer saw it: a second click, or the page of before in
// another tab, leads to the same order. Who has typed other quantities is shown what they come to first.
func (s *Shop) makeOrder(w http.ResponseWriter, r *http.Request) {
	version, err := strconv.ParseInt(r.PostFormValue("basket"), 10, 64)
	secret := session(r)
	if err != nil || secret == "" {
		s.pages.tell(w, r, http.StatusBadRequest, "bad-form", s.view(r), "", "basket")
		return
	}
	var typed []merchant.LineRequest
	updated := s.pages.url("basket") + "?" + retypedQuery
	if r.PostForm.Has("item") {
		var ok bool
		typed, ok = readLines(r)
		if basket := s.basket(r); !ok || basket.Version == version && retyped(basket.Lines, typed) {
			s.changeQuantities(w, r, updated)
			return
		}
	}
	o, _, err := s.m.MakeOrder(r.Context(), merchant.OrderRequest{Session: secret, Basket: version, Terms: merchant.Terms(r.PostForm.Get("terms"))})
	switch {
	case errors.Is(err, merchant.ErrBasketChanged) && len(typed) > 0 && slices.Equal(s.basket(r).Lines, typed): // by the first of two clicks
		http.Redirect(w, r, updated, http.StatusSeeOther)
	case errors.Is(err, merchant.ErrBasketChanged):
		s.pages.tell(w, r, http.StatusConflict, "basket-changed", s.view(r), "", "basket")
	case errors.Is(err, merchant.ErrOrderInvalid):
		s.pages.tell(w, r, http.StatusUnprocessableEntity, "cannot-order", s.view(r), "", "basket")
	case err != nil:
		s.pages.unavailable(w, r, s.view(r), err)
	default:
		http.Redirect(w, r, s.pages.url("orders", o.ID), http.StatusSeeOther)
	}
}

func (s *Shop) showHistory(w http.ResponseWriter, r *http.Request) {
	var orders []*merchant.Order
	if secret := session(r); secret != "" {
		var err error
		if orders, err = s.m.Store.FilterOrders(r.Context(), merchant.OrderFilter{Session: secret, Limit: historyRowsMax}); err != nil {
			s.pages.unavailable(w, r, s.view(r), err)
			return
		}
	}
	v := s.view(r)
	v.Title, v.Here, v.Data = languageOf(r).say("your-orders"), "orders", orders
	s.pages.show(w, r, http.StatusOK, "history", v)
}

// moods are how an outcome looks.
var moods = map[merchant.OrderState]string{
	merchant.OrderReceived: "good", merchant.OrderAuthorized: "good", merchant.OrderCaptured: "good",
	merchant.OrderAuthorizing: "wait", merchant.OrderUnresolved: "wait",
	merchant.OrderDeclined: "bad", merchant.OrderFailed: "bad",
}

// showOrder tells how an order stands, whatever led there: the cardholder's software says by the address how it
// ended, which is believed only where the shop knows no more.
func (s *Shop) showOrder(w http.ResponseWriter, r *http.Request) {
	o, ok := s.order(w, r)
	if !ok {
		return
	}
	l := languageOf(r)
	what, mood := string(o.State), moods[o.State]
	self := s.pages.url("orders", o.ID)
	if o.State == merchant.OrderNew {
		switch r.URL.Path {
		case "/orders/" + o.ID + "/cancel":
			what = "cancel"
		case "/orders/" + o.ID + "/failure":
			what, mood = "failure", "bad"
		}
	}
	data := struct {
		Order                             *merchant.Order
		Lines                             []row
		Mood, Headline, Explanation, Self string
		Pay                               string
		Waiting                           bool
	}{Order: o, Lines: rows(o.Lines, o.Amount), Mood: mood, Headline: l.say("head-" + what), Explanation: l.say("say-" + what), Self: self}
	v := s.view(r)
	if o.State.Payable() {
		data.Pay = s.pages.url("orders", o.ID, "pay")
	}
	if o.State == merchant.OrderAuthorizing {
		data.Waiting, v.Refresh = true, refreshSeconds
	}
	v.Title, v.Here, v.Data = l.say("order-n", o.Number), "orders", data
	s.pages.show(w, r, http.StatusOK, "order", v)
}

// pay sends the initiation message, which starts the cardholder's software. It changes nothing.
func (s *Shop) pay(w http.ResponseWriter, r *http.Request) {
	o, ok := s.order(w, r)
	if !ok {
		return
	}
	if !o.State.Payable() {
		l := languageOf(r)
		v := s.view(r)
		how := strings.TrimSuffix(l.say("head-"+string(o.State)), ".") + ". " + l.say("say-"+string(o.State))
		v.Title, v.Data = l.say("no-pay"), message{how, "", s.pages.url("orders", o.ID)}
		s.pages.show(w, r, http.StatusConflict, "message", v)
		return
	}
	body, err := s.initiation(o)
	if err != nil {
		s.pages.unavailable(w, r, s.view(r), err)
		return
	}
	w.Header().Set("Content-Type", sethttp.MediaPaymentInitiation)
	w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=order-%d.setpay", o.Number))
	s.pages.write(w, body)
}

func (s *Shop) initiation(o *merchant.Order) ([]byte, error) {
	return s.m.Initiation(o, s.pages.url("orders", o.ID), merchant.ReturnPages{
		Success: s.pages.url("orders", o.ID, "success"), Failure: s.pages.url("orders", o.ID, "failure"), Cancel: s.pages.url("orders", o.ID, "cancel"),
	})
}

// order finds the order that a request is for, or answers the request.
func (s *Shop) order(w http.ResponseWriter, r *http.Request) (*merchant.Order, bool) {
	o, err := s.m.Store.Order(r.Context(), r.PathValue("id"))
	switch {
	case errors.Is(err, merchant.ErrNoOrder):
		v := s.view(r)
		l := languageOf(r)
		v.Title, v.Data = l.say("no-order"), message{l.say("not-found-text"), "", s.pages.url()}
		s.pages.show(w, r, http.StatusNotFound, "message", v)
	case err != nil:
		s.pages.unavailable(w, r, s.view(r), err)
	}
	return o, err == nil
}
