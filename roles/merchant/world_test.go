package merchant_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/merchant/web"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/set/settest"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

func TestMain(m *testing.M) { sqldbtest.Main(m) }

const (
	firstPAN  = "4111111111111111"
	secondPAN = "4111111111110002"

	// eventually bounds every wait for something that happens in the background.
	eventually = time.Minute
)

// world is a merchant with its shop and database, a gateway in software, and whoever pays.
type world struct {
	*settest.World
	dbURL    string
	config   merchant.Config
	merchant *merchant.Merchant
	gateway  *gateway
	shop     *httptest.Server
	log      *lockedBuffer
	stop     func() // ends the merchant, in the middle of whatever it does
	wire     [][]byte
	wireLock sync.Mutex
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) Bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.b.Bytes())
}

// card gives a cardholder. Its expiry date cannot be mistaken for part of a certificate's dates.
func (w *world) card(t *testing.T, pan string) *settest.Card {
	t.Helper()
	c := w.Card(t, pan)
	c.Account.CardExpiry = set.CardExpiry("204906")
	id := must[string](t)(pki.UniqueCardholderID(c.Account.PANSecret[:], c.Account.PAN, c.Account.CardExpiry))
	c.Endpoint.SignCert = w.Issue(t, pki.Template{
		Type: pki.Card, Use: pki.Signature, PublicKey: c.Endpoint.SignKey.Public(),
		Subject: pki.Name{Country: "CH", Brand: settest.Brand, Unit: "Issuing Bank", CommonName: id},
	})
	return c
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// each runs a test against both databases, with the merchant at work.
func each(t *testing.T, test func(t *testing.T, w *world)) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, dbURL string) {
		w := newWorld(t, dbURL)
		w.start(t)
		test(t, w)
	})
}

func newWorld(t *testing.T, dbURL string) *world {
	t.Helper()
	w := &world{World: settest.NewWorld(t), dbURL: dbURL, log: &lockedBuffer{}}
	ge := w.Gateway(t, "G-0001")
	w.gateway = newGateway(t, ge)
	w.config = merchant.Config{
		Endpoint: w.Merchant(t, settest.MerchantID),
		Catalogue: &merchant.Catalogue{Currency: "EUR", Items: []merchant.Item{
			{ID: "book", Name: "The Elements of Programming", Price: 4200}, {ID: "pencil", Name: "Pencil 2B", Price: 25},
		}, Terms: []merchant.Terms{"split", "install 3", "recur 28 20301231"}},
		Gateways:  []merchant.Gateway{{Certificate: ge.ExchangeCert, Chain: ge.Chain, URL: w.gateway.server.URL}},
		Log:       slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		MerchData: set.MerchData{MerchCatCode: "5942"},
		Capture:   merchant.CaptureImmediately,
		Client: sethttp.Client{Timeout: 5 * time.Second, Tries: 2, Pause: 10 * time.Millisecond,
			Record: func(_ string, request, response []byte) { w.record(request, response) }},
		AnswerTimeout: 10 * time.Second,
	}
	return w
}

func (w *world) record(messages ...[]byte) {
	w.wireLock.Lock()
	defer w.wireLock.Unlock()
	w.wire = append(w.wire, messages...)
}

// start opens the database and runs the merchant.
func (w *world) start(t *testing.T) {
	t.Helper()
	w.config.Store = must[*merchant.Store](t)(merchant.OpenStore(t.Context(), w.dbURL))
	w.shop = httptest.NewUnstartedServer(nil)
	w.config.BaseURL = "http://" + w.shop.Listener.Addr().String() + "/books"
	m := must[*merchant.Merchant](t)(merchant.New(w.config))
	w.merchant = m
	w.shop.Config.Handler = http.StripPrefix("/books", must[*web.Shop](t)(web.NewShop(m, nil)).Handler())
	w.shop.Start()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	var once sync.Once
	w.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			w.shop.CloseClientConnections()
			w.shop.Close()
			w.config.Store.Close()
		})
	}
	t.Cleanup(w.stop)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%.8000s", w.log.Bytes())
		}
	})
}

// ask makes an HTTP request of the shop and gives the answer's body.
func (w *world) ask(t *testing.T, method, path, accept, contentType, body string) (int, []byte, http.Header) {
	t.Helper()
	req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), method, w.config.BaseURL+path, strings.NewReader(body)))
	req.Header.Set("Accept", accept)
	req.Header.Set("Content-Type", contentType)
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res := must[*http.Response](t)(client.Do(req))
	defer res.Body.Close()
	return res.StatusCode, must[[]byte](t)(io.ReadAll(res.Body)), res.Header
}

// order has the shop make an order of one book and two pencils.
func (w *world) order(t *testing.T) *merchant.Order { return w.orderOn(t, "") }

// orderOn is order, paid on these terms.
func (w *world) orderOn(t *testing.T, terms merchant.Terms) *merchant.Order {
	t.Helper()
	o, made, err := w.merchant.MakeOrder(t.Context(), merchant.OrderRequest{
		Lines: []merchant.LineRequest{{Item: "book", Quantity: 1}, {Item: "pencil", Quantity: 2}}, Terms: terms,
	})
	if err != nil || !made {
		t.Fatalf("order: made %t, %v", made, err)
	}
	return o
}

// look gives the order as it is now.
func (w *world) look(t *testing.T, id string) *merchant.Order {
	t.Helper()
	return must[*merchant.Order](t)(w.config.Store.Order(t.Context(), id))
}

// await waits until the order is in this state.
func (w *world) await(t *testing.T, id string, want merchant.OrderState) *merchant.Order {
	t.Helper()
	var o *merchant.Order
	poll(t, "the order is "+string(want), func() bool {
		o = w.look(t, id)
		return o.State == want
	})
	return o
}

func poll(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(eventually); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v it is still not true that %s", eventually, what)
		}
	}
}

// wallet is a cardholder's software with one purchase.
type wallet struct {
	w        *world
	card     *settest.Card
	purchase *set.Purchase
	url      string
	preq     []byte
}

// wake starts a purchase with the order's initiation message.
func (w *world) wake(t *testing.T, card *settest.Card, orderID string) *wallet {
	t.Helper()
	status, body, header := w.ask(t, "POST", "/orders/"+orderID+"/pay", "*/*", "", "")
	if got := header.Get("Content-Type"); status != http.StatusOK || got != sethttp.MediaPaymentInitiation {
		t.Fatalf("initiation: %d %s %s", status, got, body)
	}
	init := must[*set.Initiation](t)(set.ParseInitiation(body))
	p := must[*set.Purchase](t)(set.NewPurchase(init, settest.Brand, set.BIN(card.Account.PAN[:6]), "en"))
	p.InstallRecurData = init.InstallRecur // the cardholder agrees
	return &wallet{w: w, card: card, purchase: p, url: init.SETURL}
}

func (c *wallet) post(t *testing.T, message []byte) []byte {
	t.Helper()
	client := sethttp.Client{Timeout: eventually, Tries: 1, Record: func(_ string, request, response []byte) { c.w.record(request, response) }}
	return must[[]byte](t)(client.Post(t.Context(), c.url, sethttp.MediaPayment, message))
}

func (c *wallet) initiate(t *testing.T) error {
	t.Helper()
	req := must[[]byte](t)(c.purchase.InitReq(c.card.Endpoint, time.Now()))
	_, err := c.purchase.OpenInitRes(c.card.Endpoint, time.Now(), c.post(t, req))
	return err
}

// sign makes the purchase request.
func (c *wallet) sign(t *testing.T) []byte {
	t.Helper()
	c.preq = must[[]byte](t)(c.purchase.Request(c.card.Endpoint, time.Now(), &c.card.Account))
	return c.preq
}

// result sends a purchase request and gives what the merchant says of it.
func (c *wallet) result(t *testing.T, preq []byte) (set.PResPayload, error) {
	t.Helper()
	data, err := c.purchase.OpenResponse(c.card.Endpoint, c.w.now(), c.post(t, preq))
	if err != nil {
		return set.PResPayload{}, err
	}
	return data.PResPayloadSeq[0], nil
}

// pay makes the whole purchase.
func (c *wallet) pay(t *testing.T) set.PResPayload {
	t.Helper()
	if err := c.initiate(t); err != nil {
		t.Fatal(err)
	}
	return must[set.PResPayload](t)(c.result(t, c.sign(t)))
}

func (c *wallet) inquire(t *testing.T, by *settest.Card) (set.PResPayload, error) {
	t.Helper()
	all, err := c.inquireAll(t, by)
	if err != nil {
		return set.PResPayload{}, err
	}
	return all[0], nil
}

// inquireAll gives what the merchant says of each authorization.
func (c *wallet) inquireAll(t *testing.T, by *settest.Card) ([]set.PResPayload, error) {
	t.Helper()
	q, req, err := c.purchase.InqReq(by.Endpoint, c.w.now())
	if err != nil {
		t.Fatal(err)
	}
	data, err := c.purchase.OpenInqRes(by.Endpoint, c.w.now(), q, c.post(t, req))
	if err != nil {
		return nil, err
	}
	return data.PResPayloadSeq, nil
}

// now is the time of the merchant and of its customers.
func (w *world) now() time.Time {
	if w.config.Now != nil {
		return w.config.Now()
	}
	return time.Now()
}

// peerCode is the code of the Error message that err is, 0 if it is none.
func peerCode(err error) set.ErrorCode {
	var p *set.PeerError
	if errors.As(err, &p) && p.Signer != nil {
		return p.Code
	}
	return 0
}
