// Package wallettest gives tests of the wallet its peers: a shop and a cardholder CA with software keys,
// behind real HTTP, which misbehave when told to.
package wallettest

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/set/settest"
	"github.com/setkit/setkit/roles/sethttp"
)

// Price is what every order of a Shop costs.
var Price = set.CurrencyAmount{Currency: 756, Amount: 4250, AmtExp10: -2}

// OrderText is the order description of every Shop. It has a terminal's escape sequence in it.
const OrderText = "1 x The Elements of Programming\n2 x Pencil \x1b[31m2B"

// Shop is a merchant with its payment gateway. It answers like a real one, by what it is told below.
type Shop struct {
	URL    string // takes SET messages
	PayURL string // gives the initiation message of the order, by GET

	merchant, gateway *set.Endpoint
	initiation        *set.Initiation

	mu       sync.Mutex
	sale     *set.Sale
	answers  map[string][]byte // by request
	requests []set.MessageType
	preqs    [][]byte

	code     set.AuthCode // of the authorization
	silent   bool         // takes messages and never answers
	deaf     bool         // takes no messages
	garbage  bool         // answers PReq with octets that are no message
	pending  int          // how many answers say orderReceived first
	rejected bool         // answers orderRejected
	received bool
}

// NewShop starts a shop with one order.
func NewShop(t testing.TB, w *settest.World) *Shop {
	t.Helper()
	s := &Shop{
		merchant: w.Merchant(t, settest.MerchantID), gateway: w.Gateway(t, "G-0001"),
		answers: make(map[string][]byte),
	}
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	s.URL, s.PayURL = server.URL+"/set", server.URL+"/pay"
	s.NewOrder()
	mux.HandleFunc("POST /set", s.serve)
	mux.HandleFunc("GET /pay", func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("Accept"), sethttp.MediaPaymentInitiation) {
			http.Error(w, "want the initiation message", http.StatusNotAcceptable)
			return
		}
		b, err := s.Initiation().Encode()
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", sethttp.MediaPaymentInitiation)
		w.Write(b)
	})
	return s
}

// NewOrder replaces the shop's order by another one of the same kind.
func (s *Shop) NewOrder() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sale = &set.Sale{OD: []byte(OrderText), PurchAmt: Price, LIDM: set.NewLocalID()}
	s.received = false
	s.initiation = &set.Initiation{
		Kind: set.PaymentInitiation, SETURL: s.URL, QueryURL: s.URL, SuccessURL: s.URL, FailureURL: s.URL, CancelURL: s.URL,
		Versions: []string{"1.0"}, LIDM: s.sale.LIDM, PurchAmt: &Price, Brands: []set.BrandID{"Other", settest.Brand},
		OrderType: "text/plain", Order: []byte(OrderText),
	}
}

// Initiation is the initiation message of the order.
func (s *Shop) Initiation() *set.Initiation {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := *s.initiation
	return &m
}

// Behaviour says how a Shop answers.
type Behaviour struct {
	Code     set.AuthCode // of the authorization
	Silent   bool         // acts on payments and never answers
	Deaf     bool         // drops payments and inquiries unread
	Garbage  bool         // answers a payment with something that is no message
	Pending  int          // how many answers say orderReceived before the outcome
	Rejected bool         // rejects the order
}

// Behave changes how the shop answers from now on.
func (s *Shop) Behave(b Behaviour) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.code, s.silent, s.deaf, s.garbage, s.pending, s.rejected = b.Code, b.Silent, b.Deaf, b.Garbage, b.Pending, b.Rejected
}

// Trust has the shop know what a verifier knows of revocation.
func (s *Shop) Trust(v *pki.Verifier) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.merchant.Verifier = v
}

// Count tells how many messages of a type have come.
func (s *Shop) Count(t set.MessageType) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.requests {
		if r == t {
			n++
		}
	}
	return n
}

// Payments are the different octets that came as PReq.
func (s *Shop) Payments() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.preqs
}

func (s *Shop) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var body bytes.Buffer
	if _, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, set.MessageOctetsMax)); err != nil {
		return
	}
	request := body.Bytes()
	m, err := s.merchant.Receive(time.Now(), request, set.PInitReqType, set.PReqType, set.InqReqType)
	var typ set.MessageType
	if m != nil {
		typ = m.Message.Type()
		s.requests = append(s.requests, typ)
	}
	var response []byte
	known := false
	if s.deaf && typ != set.PInitReqType {
		panic(http.ErrAbortHandler)
	}
	if err == nil {
		if response, known = s.answers[string(request)]; !known {
			response, err = s.answer(m, typ, request)
		}
	}
	if err != nil {
		if response, err = s.merchant.ErrorResponse(time.Now(), request, m, err); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	s.answers[string(request)] = response
	switch {
	case s.silent && typ != set.PInitReqType:
		panic(http.ErrAbortHandler)
	case s.garbage && typ == set.PReqType:
		response = []byte("no message")
	}
	w.Header().Set("Content-Type", sethttp.MediaPayment)
	w.Write(response)
}

func (s *Shop) answer(m *set.MessageWrapper, typ set.MessageType, request []byte) ([]byte, error) {
	now := time.Now()
	switch typ {
	case set.PInitReqType:
		req, err := m.OpenPInitReq()
		if err != nil {
			return nil, err
		}
		return s.sale.InitRes(s.merchant, now, req, s.gateway.ExchangeCert, s.gateway.Chain)
	case set.PReqType:
		o, err := s.merchant.OpenPReq(now, m)
		if err != nil {
			return nil, err
		}
		s.preqs = append(s.preqs, bytes.Clone(request))
		if err := s.sale.Take(o); err != nil {
			return nil, err
		}
		s.received = true
		if err := s.authorize(now); err != nil {
			return nil, err
		}
		return s.sale.PRes(s.merchant, now, s.payload(now))
	case set.InqReqType:
		o, err := s.merchant.OpenInqReq(now, m)
		if err != nil {
			return nil, err
		}
		return s.sale.InqRes(s.merchant, now, o, s.payload(now))
	}
	return nil, errors.New("not served")
}

// authorize has the gateway open the payment.
func (s *Shop) authorize(now time.Time) error {
	req, err := s.sale.AuthReq(s.merchant, now, set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: Price})
	if err != nil {
		return err
	}
	w, err := s.gateway.Receive(now, req, set.AuthReqType)
	if err != nil {
		return err
	}
	o, err := s.gateway.OpenAuthReq(now, w)
	if err != nil {
		return err
	}
	if o.Refusal != nil {
		s.code = *o.Refusal
	}
	return nil
}

func (s *Shop) payload(now time.Time) set.PResPayload {
	switch {
	case !s.received:
		return set.PResPayload{CompletionCode: set.OrderNotReceived}
	case s.rejected:
		return set.PResPayload{CompletionCode: set.OrderRejected}
	case s.pending > 0:
		s.pending--
		return set.PResPayload{CompletionCode: set.OrderReceived}
	}
	return set.PResPayload{CompletionCode: set.AuthorizationPerformed, Results: &set.Results{
		AuthStatus: &set.AuthStatus{AuthDate: now.UTC().Truncate(time.Second), AuthCode: s.code, AuthRatio: der.NewReal(1)},
	}}
}

// CA is a cardholder CA that certifies whoever answers its form.
type CA struct {
	URL string

	world    *settest.World
	endpoint *set.Endpoint
	form     *set.RegTemplate

	mu       sync.Mutex
	refuse   *set.CertStatusError
	pend     bool
	lose     bool
	requests int
	last     *request
}

// request is the last CertReq, and what it is answered by.
type request struct {
	key     crypto.PublicKey
	backKey set.BackKey
	renewed *pki.Certificate
	status  set.CertStatus
	cert    *pki.Certificate
}

// What every CA shows and asks.
const (
	Policy = "Use it \x1b[1mwell\x1b[0m."

	Message = "Welcome\x07."

	FieldName   = "Name"
	FieldSecret = "Registration secret"
)

// NewCA starts a CA.
func NewCA(t testing.TB, w *settest.World) *CA {
	t.Helper()
	ca := &CA{world: w, endpoint: w.CA(t, pki.CCA), form: &set.RegTemplate{RegFormID: 7, RegFieldSeq: []set.RegField{
		{FieldName: []set.Text128{FieldName}, FieldLen: 40, FieldRequired: true},
		{FieldName: []set.Text128{FieldSecret}, FieldLen: 20, FieldRequired: true, FieldInvisible: true},
		{FieldName: []set.Text128{"Remark"}, FieldLen: 20},
	}}}
	handler := sethttp.Handler(sethttp.MediaRegistration, slog.New(slog.DiscardHandler), func(_ context.Context, request []byte) ([]byte, error) {
		now := time.Now()
		m, err := ca.endpoint.Receive(now, request, set.CardCInitReqType, set.RegFormReqType, set.CertReqType, set.CertInqReqType)
		var response []byte
		if err == nil {
			response, err = ca.answer(t, now, m)
		}
		if err != nil {
			t.Logf("CA: %v", err)
			response, _ = ca.endpoint.ErrorResponse(now, request, m, err)
		}
		return response, err
	})
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	ca.URL = server.URL + "/cca"
	return ca
}

// Refuse has the CA refuse every request from now on; nil ends that.
func (ca *CA) Refuse(e *set.CertStatusError) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.refuse = e
}

// Pend has the CA keep requests waiting; false has it answer, to those who ask again too.
func (ca *CA) Pend(on bool) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.pend = on
}

// LoseAnswers has the CA certify and not answer.
func (ca *CA) LoseAnswers(on bool) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.lose = on
}

// Renewed is the certificate that the last request renews; nil if it is the first of a card.
func (ca *CA) Renewed() *pki.Certificate {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return ca.last.renewed
}

// Trust has the CA send what a verifier knows of revocation.
func (ca *CA) Trust(v *pki.Verifier, others ...*pki.Certificate) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.endpoint.Verifier = v
	ca.endpoint.Chain = append(ca.endpoint.Chain, others...)
}

// Requests counts the certificate requests.
func (ca *CA) Requests() int {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return ca.requests
}

func (ca *CA) answer(t testing.TB, now time.Time, m *set.MessageWrapper) ([]byte, error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	lid := set.LocalID("registration 1")
	switch m.Message.Type() {
	case set.CardCInitReqType:
		req, err := ca.endpoint.OpenCardCInitReq(m)
		if err != nil {
			return nil, err
		}
		return ca.endpoint.CardCInitRes(now, req, lid)
	case set.RegFormReqType:
		o, err := ca.endpoint.OpenRegFormReq(m)
		if err != nil {
			return nil, err
		}
		defer o.Clear()
		return ca.endpoint.RegFormRes(now, &o.Data, lid, set.NewChallenge(), set.RegFormOrReferral{
			RegFormData: &set.RegFormData{RegTemplate: ca.form, Policy: Policy},
		})
	}
	if m.Message.CertInqReq != nil {
		return ca.inquire(now, m)
	}
	ca.requests++
	o, err := ca.endpoint.OpenCertReq(now, m)
	if err != nil {
		return nil, err
	}
	defer o.Clear()
	if ca.refuse != nil {
		return ca.endpoint.CertRes(now, o, lid, ca.refuse.Status())
	}
	if _, err := o.Answers(ca.form); err != nil {
		return nil, err
	}
	account := o.Account.PANData0
	nonce := set.NewSecret()
	var panSecret set.Secret
	for i := range panSecret {
		panSecret[i] = account.CardSecret[i] ^ nonce[i]
	}
	id, err := pki.UniqueCardholderID(panSecret[:], account.PAN, account.CardExpiry)
	if err != nil {
		return nil, err
	}
	cert := ca.world.Issue(t, pki.Template{
		Type: pki.Card, Use: pki.Signature, PublicKey: o.SignKey,
		Subject: pki.Name{Country: "CH", Brand: settest.Brand, Unit: "Issuing Bank", CommonName: id},
	})
	ca.last = &request{o.SignKey, bytes.Clone(o.BackKey()), o.Signer, set.CertStatus{CertStatusCode: set.RequestComplete, NonceCCA: &nonce, EEMessage: Message}, cert}
	switch {
	case ca.lose:
		return nil, errors.New("out of order")
	case ca.pend:
		return ca.endpoint.CertRes(now, o, lid, waiting)
	}
	return ca.endpoint.CertRes(now, o, lid, ca.last.status, cert)
}

var waiting = set.CertStatus{CertStatusCode: set.RequestPended, EEMessage: "Later."}

// inquire answers CertInqReq.
func (ca *CA) inquire(now time.Time, m *set.MessageWrapper) ([]byte, error) {
	o, err := ca.endpoint.OpenCertInqReq(m)
	if err != nil {
		return nil, err
	}
	if ca.last == nil {
		return nil, &set.ProtocolError{Code: set.UnknownLID}
	}
	if err := o.Verify(ca.last.key); err != nil {
		return nil, err
	}
	switch {
	case ca.refuse != nil:
		return ca.endpoint.CertInqRes(now, o, true, ca.last.backKey, ca.refuse.Status())
	case ca.pend:
		return ca.endpoint.CertInqRes(now, o, true, ca.last.backKey, waiting)
	}
	return ca.endpoint.CertInqRes(now, o, true, ca.last.backKey, ca.last.status, ca.last.cert)
}

// Forget has the CA know of no request.
func (ca *CA) Forget() {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.last = nil
}
