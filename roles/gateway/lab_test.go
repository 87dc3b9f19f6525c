package gateway_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/gateway"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/settest"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/sqldb"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

func TestMain(m *testing.M) { sqldbtest.Main(m) }

const pan = "4111111111111111"

var (
	orderText = []byte("1 x The Elements of Programming, 2 x Pencil 2B")
	price     = usd(4250)
)

func usd(cents int) set.CurrencyAmount {
	return set.CurrencyAmount{Currency: 840, Amount: set.Natural(cents), AmtExp10: -2}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// eventually waits for something that another goroutine does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not seen in a minute: %s", what)
		}
	}
}

// aesSealer is a Sealer without an HSM.
type aesSealer struct{ cipher.AEAD }

func newSealer(t *testing.T) aesSealer {
	key := make([]byte, 32)
	rand.Read(key)
	block := must[cipher.Block](t)(aes.NewCipher(key))
	return aesSealer{must[cipher.AEAD](t)(cipher.NewGCMWithRandomNonce(block))}
}

func (s aesSealer) Seal(plaintext, aad []byte) ([]byte, error) {
	return s.AEAD.Seal(nil, nil, plaintext, aad), nil
}
func (s aesSealer) Open(sealed, aad []byte) ([]byte, error) {
	return s.AEAD.Open(nil, nil, sealed, aad)
}

// frailSigner is a signature key in a token that can be away.
type frailSigner struct {
	crypto.Signer
	away atomic.Bool

	meanwhile atomic.Pointer[func()] // is run once, before the next signature is made
}

var errAway = errors.New("token is away")

func (s *frailSigner) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if s.away.Load() {
		return nil, errAway
	}
	if run := s.meanwhile.Swap(nil); run != nil {
		(*run)()
	}
	return s.Signer.Sign(r, digest, opts)
}

// host is an issuer on the network. It approves what decide does not refuse, and remembers what it holds.
type host struct {
	addr string

	mu       sync.Mutex
	decide   func(*finnet.Authorization) (finnet.Answer, error)
	asked    int // 0100 that came
	held     map[string]set.CurrencyAmount
	reversed map[string]int
	cleared  map[string]set.CurrencyAmount
	refuse   int                            // how many messages after authorizations are to be left without an answer
	late     bool                           // and are acted upon, unlike else
	deny     map[string]finnet.ResponseCode // what of those is refused

	advices []advice              // in the order in which they came first
	taken   map[finnet.Trace]bool // back
	copies  int                   // that came again
	missing finnet.Totals         // what the host does not know of a settlement
}

// advice is what the host was told about an authorization.
type advice struct {
	what       string
	trace      finnet.Trace
	amount     set.CurrencyAmount
	settlement finnet.Settlement
}

// advise takes an advice, which is named by its trace. What is to be lost is answered with an error.
func (h *host) advise(a advice, act func() finnet.ResponseCode) (finnet.ResponseCode, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	lost := h.refuse > 0
	if lost {
		h.refuse--
	}
	if lost && !h.late {
		return "", errors.New("lost")
	}
	code := finnet.Approved
	switch same := func(b advice) bool { return b.trace == a.trace }; {
	case slices.Contains(h.advices, a):
		h.copies++
	case slices.ContainsFunc(h.advices, same):
		code = finnet.Duplicate
	case h.deny[a.what] != "":
		code = h.deny[a.what]
	default:
		if code = act(); code == finnet.Approved {
			h.advices = append(h.advices, a)
		}
	}
	if lost {
		return "", errors.New("lost")
	}
	return code, nil
}

// told lists what the host was told, but authorizations, and was not refused.
func (h *host) told() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := []string{}
	for _, a := range h.advices {
		out = append(out, a.what+" "+a.amount.String())
	}
	return out
}

func newHost(t *testing.T) *host {
	h := &host{held: map[string]set.CurrencyAmount{}, reversed: map[string]int{}, cleared: map[string]set.CurrencyAmount{}, taken: map[finnet.Trace]bool{}}
	ln := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	h.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- finnet.Serve(ctx, ln, h, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *host) set(decide func(*finnet.Authorization) (finnet.Answer, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.decide = decide
}

// answer makes the host answer with one code.
func (h *host) answer(c finnet.ResponseCode) {
	h.set(func(*finnet.Authorization) (finnet.Answer, error) { return finnet.Answer{Code: c}, nil })
}

func (h *host) count() (asked, held, reversed, cleared int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked, len(h.held), len(h.reversed), len(h.cleared)
}

func (h *host) Authorize(_ context.Context, a *finnet.Authorization) (finnet.Answer, error) {
	h.mu.Lock()
	h.asked++
	decide := h.decide
	h.mu.Unlock()
	if string(a.PAN) != pan {
		return finnet.Answer{Code: finnet.InvalidCard}, nil
	}
	if decide != nil {
		if answer, err := decide(a); err != nil || answer.Code != finnet.Approved {
			return answer, err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held[a.RRN] = a.Amount
	return finnet.Answer{Code: finnet.Approved, ApprovalCode: "A12345"}, nil
}

func (h *host) Verify(context.Context, *finnet.AccountCheck) (finnet.ResponseCode, error) {
	return finnet.DoNotHonour, nil
}

func (h *host) Reverse(_ context.Context, r *finnet.Reversal) (finnet.ResponseCode, error) {
	return h.advise(advice{"reverse to", r.Trace, r.Remains, 0}, func() finnet.ResponseCode {
		if r.Remains.Amount > 0 {
			h.held[r.Original.RRN] = r.Remains
			return finnet.Approved
		}
		delete(h.held, r.Original.RRN)
		h.reversed[r.Original.RRN]++
		return finnet.Approved
	})
}

func (h *host) Clear(_ context.Context, c *finnet.Clearing) (finnet.ResponseCode, error) {
	return h.advise(advice{"clear", c.Trace, c.Amount, c.Settlement}, func() finnet.ResponseCode {
		if _, ok := h.held[c.Original.RRN]; !ok {
			return finnet.UnknownOriginal
		}
		h.cleared[c.Original.RRN] = c.Amount
		return finnet.Approved
	})
}

func (h *host) Refund(_ context.Context, r *finnet.Refund) (finnet.ResponseCode, error) {
	return h.advise(advice{"refund", r.Trace, r.Amount, r.Settlement}, func() finnet.ResponseCode {
		if _, ok := h.cleared[r.Original.RRN]; !ok {
			return finnet.InvalidTransaction
		}
		return finnet.Approved
	})
}

// Withdraw refuses what comes before the message that it takes back, or after that was taken back.
func (h *host) Withdraw(_ context.Context, w *finnet.Withdrawal) (finnet.ResponseCode, error) {
	what := map[bool]string{false: "clear", true: "refund"}[w.Refund]
	return h.advise(advice{"take back " + what, w.Trace, w.Amount, w.Settlement}, func() finnet.ResponseCode {
		if h.taken[w.Original] {
			return finnet.InvalidTransaction
		}
		if !slices.ContainsFunc(h.advices, func(a advice) bool { return a.trace == w.Original && a.what == what && a.amount == w.Amount }) {
			return finnet.UnknownOriginal
		}
		h.taken[w.Original] = true
		if !w.Refund {
			delete(h.cleared, w.RRN)
		}
		return finnet.Approved
	})
}

// Reconcile compares the totals with what the host was told, less what it is to miss.
func (h *host) Reconcile(_ context.Context, r *finnet.Reconciliation) (finnet.Balance, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refuse > 0 {
		h.refuse--
		return finnet.Balance{}, errors.New("lost")
	}
	b := finnet.Balance{Code: finnet.Approved}
	for _, a := range h.advices {
		sum := map[string]*finnet.Sum{"clear": &b.Totals.Sales, "take back clear": &b.Totals.SalesTaken,
			"refund": &b.Totals.Refunds, "take back refund": &b.Totals.RefundsTaken}[a.what]
		if sum == nil || a.settlement != r.Settlement || a.amount.Currency != r.Currency {
			continue
		}
		n, err := finnet.MinorUnits(a.amount)
		if err != nil {
			return b, err
		}
		sum.Count, sum.Amount = sum.Count+1, sum.Amount+n
	}
	b.Totals.Sales.Count -= h.missing.Sales.Count
	b.Totals.Sales.Amount -= h.missing.Sales.Amount
	if b.Totals != r.Totals {
		b.Code = finnet.OutOfBalance
	}
	return b, nil
}

// lab is a gateway with all that is around it.
type lab struct {
	*settest.World
	dbURL    string
	acquirer set.BIN
	endpoint *set.Endpoint
	signer   *frailSigner
	sealer   aesSealer
	merchant *set.Endpoint
	card     *settest.Card
	host     *host
	ahead    atomic.Int64 // how far the gateway's clock is ahead
	log      syncBuffer

	db     *sqldb.DB
	party  *gateway.Gateway // that runs
	server *httptest.Server
	stop   func() // the gateway that runs
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newLab(t *testing.T, dbURL string) *lab {
	t.Helper()
	w := settest.NewWorld(t)
	l := &lab{World: w, dbURL: dbURL, acquirer: settest.AcquirerBIN, endpoint: w.Gateway(t, "G-0001"), sealer: newSealer(t),
		merchant: w.Merchant(t, settest.MerchantID), card: w.Card(t, pan), host: newHost(t)}
	l.signer = &frailSigner{Signer: l.endpoint.SignKey}
	l.endpoint.SignKey = l.signer
	return l
}

func (l *lab) now() time.Time { return time.Now().Add(time.Duration(l.ahead.Load())) }

// start starts a gateway, whose jobs run too, and returns what stops it.
func (l *lab) start(t *testing.T, wrap func(gateway.Issuer) gateway.Issuer) (stop func()) {
	t.Helper()
	db := must[*sqldb.DB](t)(gateway.OpenDB(t.Context(), l.dbURL))
	log := slog.New(slog.NewJSONHandler(&l.log, nil))
	client := finnet.NewClient(l.host.addr, log)
	var issuer gateway.Issuer = client
	if wrap != nil {
		issuer = wrap(client)
	}
	g := must[*gateway.Gateway](t)(gateway.New(gateway.Config{
		Endpoint: l.endpoint, DB: db, Issuer: issuer, Sealer: l.sealer, Acquirer: l.acquirer, Log: log, Now: l.now,
	}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	l.db, l.party, l.server = db, g, httptest.NewServer(g.Handler())
	server := l.server
	stop = sync.OnceFunc(func() {
		server.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		client.Close()
		db.Close()
	})
	t.Cleanup(stop)
	l.stop = stop
	return stop
}

// renew has the gateway that runs go on with new certificates.
func (l *lab) renew(t *testing.T) {
	t.Helper()
	next := l.Renewed(t, l.endpoint)
	next.Verifier = l.endpoint.Verifier
	if err := l.party.Renew(next); err != nil {
		t.Fatal(err)
	}
	l.endpoint = next
}

// each runs a test with a gateway on every kind of database.
func each(t *testing.T, test func(t *testing.T, l *lab)) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		l := newLab(t, url)
		l.start(t, nil)
		test(t, l)
	})
}

// post sends a message once. status is 0 when the server went away.
func (l *lab) post(t *testing.T, request []byte) (status int, response []byte) {
	t.Helper()
	res, err := http.Post(l.server.URL, sethttp.MediaPayment, bytes.NewReader(request))
	if err != nil {
		return 0, nil
	}
	defer res.Body.Close()
	return res.StatusCode, must[[]byte](t)(io.ReadAll(res.Body))
}

// wantError wants a SET Error message with this code.
func (l *lab) wantError(t *testing.T, request []byte, want set.ErrorCode) {
	t.Helper()
	status, response := l.post(t, request)
	if status < 400 || status >= 500 {
		t.Errorf("status %d, want 4xx", status)
	}
	p := &set.Purchase{}
	w, err := set.Decode(request)
	readable := err == nil && w.MessageHeader.RRPID != nil
	if readable {
		p.InitRRPID = *w.MessageHeader.RRPID
	}
	_, err = p.OpenInitRes(l.card.Endpoint, l.now(), response)
	var peer *set.PeerError
	if !errors.As(err, &peer) || peer.Code != want || (peer.Signer != nil) != readable {
		t.Errorf("got %v, want SET Error %v signed by the gateway", err, want)
	}
}

// order is a purchase up to the moment when the merchant asks for the authorization.
type order struct {
	*lab
	merchant *set.Endpoint
	sale     *set.Sale
	purchase *set.Purchase
	auth     set.AuthorizationRequest
	token    []byte
	answer   *set.Authorized // the latest
}

func (l *lab) order(t *testing.T, merchant *set.Endpoint) *order {
	t.Helper()
	return l.orderOn(t, merchant, nil)
}

// orderOn is order on terms of repeated payment.
func (l *lab) orderOn(t *testing.T, merchant *set.Endpoint, terms *set.InstallRecurData) *order {
	t.Helper()
	now := l.now()
	sale := &set.Sale{OD: orderText, PurchAmt: price, LIDM: set.NewLocalID(), InstallRecurData: terms}
	p := must[*set.Purchase](t)(set.NewPurchase(&set.Initiation{PurchAmt: &price, Brands: []set.BrandID{settest.Brand},
		LIDM: sale.LIDM, Order: orderText}, settest.Brand, "411111", "en"))
	p.InstallRecurData = terms
	w := must[*set.MessageWrapper](t)(merchant.Receive(now, must[[]byte](t)(p.InitReq(l.card.Endpoint, now)), set.PInitReqType))
	init := must[*set.PInitReq](t)(w.OpenPInitReq())
	res := must[[]byte](t)(sale.InitRes(merchant, now, init, l.endpoint.ExchangeCert, l.endpoint.Chain))
	must[*set.Offer](t)(p.OpenInitRes(l.card.Endpoint, now, res))
	w = must[*set.MessageWrapper](t)(merchant.Receive(now, must[[]byte](t)(p.Request(l.card.Endpoint, now, &l.card.Account)), set.PReqType))
	if err := sale.Take(must[*set.OpenedPReq](t)(merchant.OpenPReq(now, w))); err != nil {
		t.Fatal(err)
	}
	return &order{lab: l, merchant: merchant, sale: sale, purchase: p, auth: set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: price}}
}

func (o *order) authReq(t *testing.T) []byte {
	t.Helper()
	return must[[]byte](t)(o.sale.AuthReq(o.merchant, o.now(), o.auth))
}

// wantAuth wants an AuthRes with this code, and keeps its capture token.
func (o *order) wantAuth(t *testing.T, status int, response []byte, want set.AuthCode) {
	t.Helper()
	if status != http.StatusOK {
		t.Fatalf("status %d: %s", status, response)
	}
	a := must[*set.Authorized](t)(o.sale.OpenAuthRes(o.merchant, o.now(), o.auth, response))
	captured := a.Capture != nil && a.Capture.CapCode == set.CapSuccess
	if a.Header.AuthCode != want || (a.CapToken != nil) != (want == set.AuthApproved && !captured) {
		t.Fatalf("authorization code %v (token: %v), want %v", a.Header.AuthCode, a.CapToken != nil, want)
	}
	o.answer, o.token = a, a.CapToken
}

// authorize asks for the authorization and returns what went over the wire.
func (o *order) authorize(t *testing.T, want set.AuthCode) (request, response []byte) {
	t.Helper()
	request = o.authReq(t)
	status, response := o.post(t, request)
	o.wantAuth(t, status, response, want)
	return request, response
}

func (o *order) capture(amount set.CurrencyAmount) *set.CaptureRequest {
	return &set.CaptureRequest{RRPID: set.NewRRPID(), GatewayCert: o.sale.GatewayCert, Items: []set.Capture{{
		TransIDs: o.sale.TransIDs, AuthRRPID: o.auth.RRPID, CapToken: o.token,
		Payload: set.CapPayload{CapDate: o.now(), CapReqAmt: amount},
	}}}
}

// wantCapture asks for a capture and returns what went over the wire.
func (o *order) wantCapture(t *testing.T, c *set.CaptureRequest, want set.CapCode) (request, response []byte) {
	t.Helper()
	request = must[[]byte](t)(o.merchant.CapReq(o.now(), c))
	status, response := o.post(t, request)
	if status != http.StatusOK {
		t.Fatalf("status %d: %s", status, response)
	}
	if got := must[*set.CapResData](t)(o.merchant.OpenCapRes(o.now(), c, response)).CapResItemSeq[0].CapResPayload; got.CapCode != want {
		t.Errorf("capture code %v, want %v", got.CapCode, want)
	}
	return request, response
}

// states lists the states and codes of all authorizations, and what the issuer has answered since; the newest
// first.
func (l *lab) states(t *testing.T) (out []string) {
	t.Helper()
	for _, tr := range must[[]gateway.Transaction](t)(gateway.Transactions(t.Context(), l.db, l.sealer, 100)) {
		out = append(out, strings.TrimSpace(fmt.Sprint(tr.State, " ", tr.Code, " ", tr.Issuer)))
	}
	return out
}

func (l *lab) wantState(t *testing.T, want string) {
	t.Helper()
	var got []string
	eventually(t, want, func() bool {
		got = l.states(t)
		return len(got) > 0 && got[0] == want
	})
}

func (l *lab) wantCounts(t *testing.T, asked, held, reversed, cleared int) {
	t.Helper()
	got := fmt.Sprintln(l.host.count())
	if want := fmt.Sprintln(asked, held, reversed, cleared); got != want {
		t.Errorf("issuer asked, holds, reversed, cleared: got %s, want %s", got, want)
	}
}
