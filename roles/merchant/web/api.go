package web

import (
	"crypto/sha256"
	"crypto/subtle"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sethttp"
)

const (
	apiPath = "/api/v1"

	// tokenOctetsMin is how long a token or key is at the least. One that is guessed lets orders be made and read,
	// or shops be told lies.
	tokenOctetsMin = 16
)

// openAPI describes the API to other shops' developers and their tools.
//
//go:embed openapi.yaml
var openAPI []byte

// API is how another shop uses this merchant. openapi.yaml describes it.
type API struct {
	Token []byte // who has it may make and read orders

	// Webhook is where changes of orders are told, "" if nowhere, and WebhookKey signs what is told.
	Webhook    string
	WebhookKey []byte
}

func (a *API) check() error {
	if len(a.Token) < tokenOctetsMin {
		return fmt.Errorf("the API's token has less than %d octets: make one by chance, such as openssl rand -base64 32", tokenOctetsMin)
	}
	if a.Webhook == "" {
		return nil
	}
	u, err := url.Parse(a.Webhook)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return errors.New("the webhook's URL is no http or https address")
	}
	if len(a.WebhookKey) < tokenOctetsMin {
		return fmt.Errorf("the webhook's key has less than %d octets: make one by chance, such as openssl rand -base64 32", tokenOctetsMin)
	}
	return nil
}

func (s *Shop) apiHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+apiPath+"/orders", s.authenticated(s.apiMakeOrder))
	mux.HandleFunc("GET "+apiPath+"/orders/{id}", s.authenticated(s.apiShowOrder))
	mux.HandleFunc("GET "+apiPath+"/orders/{id}/initiation", s.authenticated(s.apiInitiation))
	mux.HandleFunc("GET "+apiPath+"/openapi.yaml", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/yaml")
		s.pages.write(w, openAPI)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		s.refuse(w, http.StatusNotFound, "there is no such operation")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		r.Body = http.MaxBytesReader(w, r.Body, formOctetsMax)
		mux.ServeHTTP(w, r)
	})
}

// authenticated lets only who has the token in. Digests are compared, whose length tells nothing.
func (s *Shop) authenticated(next http.HandlerFunc) http.HandlerFunc {
	want := sha256.Sum256(s.api.Token)
	return func(w http.ResponseWriter, r *http.Request) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		got := sha256.Sum256([]byte(token))
		if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="orders"`)
			s.refuse(w, http.StatusUnauthorized, "want the header Authorization: Bearer TOKEN")
			return
		}
		next(w, r)
	}
}

// newOrder is the body of a request to make an order.
type newOrder struct {
	Reference string `json:"reference"`
	Currency  string `json:"currency"`
	Lines     []struct {
		Item     string `json:"item"`
		Name     string `json:"name"`
		Price    int64  `json:"price"`
		Quantity int64  `json:"quantity"`
	} `json:"lines"`
	Terms   merchant.Terms `json:"terms"`
	Returns struct {
		Success string `json:"success"`
		Failure string `json:"failure"`
		Cancel  string `json:"cancel"`
	} `json:"returns"`
}

// order is an order as the API shows it.
type order struct {
	ID        string              `json:"id"`
	Number    int64               `json:"number"`
	Reference string              `json:"reference,omitempty"`
	Created   time.Time           `json:"created"`
	Version   int64               `json:"version"`
	State     merchant.OrderState `json:"state"`
	Payable   bool                `json:"payable"`
	Lines     []line              `json:"lines"`
	Terms     merchant.Terms      `json:"terms,omitempty"`
	Total     string              `json:"total"`
	Amount    merchant.Money      `json:"amount"`
	Page      string              `json:"page"`
	Pay       string              `json:"pay"`
	Payment   *payment            `json:"payment,omitempty"`
}

type line struct {
	Item     string `json:"item,omitempty"`
	Name     string `json:"name"`
	Quantity int64  `json:"quantity"`
	Price    int64  `json:"price"`
}

type payment struct {
	XID          set.XID        `json:"xid"`
	AuthCode     string         `json:"authCode,omitempty"`
	ApprovalCode string         `json:"approvalCode,omitempty"`
	Authorized   merchant.Money `json:"authorizedAmount"`
	Captured     merchant.Money `json:"capturedAmount"`
	Refunded     merchant.Money `json:"refundedAmount"`
	Failure      string         `json:"failure,omitempty"`
}

func (s *Shop) orderView(o *merchant.Order) order {
	v := order{
		ID: o.ID, Number: o.Number, Reference: o.Reference, Created: o.Created.UTC(), Version: o.Version, State: o.State, Payable: o.State.Payable(),
		Terms: o.Terms, Total: o.Total, Amount: o.Amount, Page: s.pages.url("orders", o.ID), Pay: s.pages.url("orders", o.ID, "pay"),
	}
	for _, l := range o.Lines {
		v.Lines = append(v.Lines, line(l))
	}
	if p := o.Payment; p != nil {
		v.Payment = &payment{p.XID, p.AuthCode, p.ApprovalCode, p.AuthorizedAmount, p.CapturedAmount, p.RefundedAmount, p.Failure}
	}
	return v
}

var idempotencyKey = regexp.MustCompile(`^[!-~]{1,150}$`)

func (s *Shop) apiMakeOrder(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Get("Idempotency-Key")
	if !idempotencyKey.MatchString(key) {
		s.refuse(w, http.StatusBadRequest, "want the header Idempotency-Key: up to 150 printable characters that name this order")
		return
	}
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/json" {
		s.refuse(w, http.StatusUnsupportedMediaType, "want a body of type application/json")
		return
	}
	var body newOrder
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(&body)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("more than one value")
		}
	}
	if err != nil {
		s.refuse(w, http.StatusBadRequest, "the body is no order as openapi.yaml describes it")
		return
	}
	request := merchant.OrderRequest{
		Terms: body.Terms, Reference: body.Reference, Returns: merchant.ReturnPages(body.Returns), Tell: s.api.Webhook != "", Key: key,
	}
	for _, l := range body.Lines {
		request.Lines = append(request.Lines, merchant.LineRequest(l))
	}
	if want := s.m.Catalogue.Currency; body.Currency != want {
		s.refuse(w, http.StatusUnprocessableEntity, "the currency of this merchant is "+want)
		return
	}
	o, made, err := s.m.MakeOrder(r.Context(), request)
	switch {
	case errors.Is(err, merchant.ErrKeyReused):
		s.refuse(w, http.StatusConflict, err.Error())
	case errors.Is(err, merchant.ErrOrderInvalid):
		s.refuse(w, http.StatusUnprocessableEntity, err.Error())
	case err != nil:
		s.apiUnavailable(w, err)
	case made:
		w.Header().Set("Location", s.pages.url(apiPath, "orders", o.ID))
		s.answer(w, http.StatusCreated, s.orderView(o))
	default:
		s.answer(w, http.StatusOK, s.orderView(o))
	}
}

func (s *Shop) apiShowOrder(w http.ResponseWriter, r *http.Request) {
	if o, ok := s.apiOrder(w, r); ok {
		s.answer(w, http.StatusOK, s.orderView(o))
	}
}

func (s *Shop) apiInitiation(w http.ResponseWriter, r *http.Request) {
	o, ok := s.apiOrder(w, r)
	if !ok {
		return
	}
	if !o.State.Payable() {
		s.refuse(w, http.StatusConflict, "the order is "+string(o.State)+": it is not to be paid now")
		return
	}
	body, err := s.initiation(o)
	if err != nil {
		s.apiUnavailable(w, err)
		return
	}
	w.Header().Set("Content-Type", sethttp.MediaPaymentInitiation)
	s.pages.write(w, body)
}

// apiOrder finds the order that a request is for, or answers the request.
func (s *Shop) apiOrder(w http.ResponseWriter, r *http.Request) (*merchant.Order, bool) {
	o, err := s.m.Store.Order(r.Context(), r.PathValue("id"))
	switch {
	case errors.Is(err, merchant.ErrNoOrder):
		s.refuse(w, http.StatusNotFound, err.Error())
	case err != nil:
		s.apiUnavailable(w, err)
	}
	return o, err == nil
}

func (s *Shop) answer(w http.ResponseWriter, status int, v any) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		s.m.Log.Error("cannot write JSON", "error", err)
		http.Error(w, "cannot answer now", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	s.pages.write(w, append(body, '\n'))
}

func (s *Shop) refuse(w http.ResponseWriter, status int, text string) {
	s.answer(w, status, map[string]string{"error": text})
}

func (s *Shop) apiUnavailable(w http.ResponseWriter, err error) {
	s.m.Log.Error("cannot serve the API now", "error", err)
	w.Header().Set("Retry-After", "5")
	s.refuse(w, http.StatusServiceUnavailable, "cannot answer now: try again")
}
