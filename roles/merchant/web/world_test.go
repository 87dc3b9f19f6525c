package web_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/merchant/web"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/settest"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

func TestMain(m *testing.M) { sqldbtest.Main(m) }

const (
	pan = "4111111111111111"

	apiToken   = "a token that nobody guesses"
	webhookKey = "a key that nobody guesses"
	password   = "a password of the office"

	// eventually bounds every wait for something that happens in the background.
	eventually = 20 * time.Second
)

// world is a shop with its back office, a gateway that approves everything, and whoever buys.
type world struct {
	*settest.World
	gateway *gateway
	config  merchant.Config
	api     web.API
	m       *merchant.Merchant
	shop    *httptest.Server // at /books
	office  *httptest.Server
	log     *lockedBuffer

	mu        sync.Mutex
	operators []web.Operator
	later     time.Duration // the merchant's clock is ahead of the machine's
	stopped   time.Time     // when set, it stands still at this time
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

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
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

// hashed is the password, at a cost that tests can bear.
var hashed = sync.OnceValue(func() string {
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		panic(err)
	}
	return string(hash)
})

// newWorld starts a world whose payments are captured when an operator says so. change changes the configuration.
func newWorld(t *testing.T, change ...func(*world)) *world {
	t.Helper()
	t.Parallel()
	w := &world{World: settest.NewWorld(t), log: &lockedBuffer{}, operators: []web.Operator{{Name: "anna", Password: hashed()}}}
	ge := w.Gateway(t, "G-0001")
	w.gateway = &gateway{e: ge, held: make(map[set.RRPID]*set.Position), batch: &set.Batch{State: set.BatchIsOpen}}
	gs := httptest.NewServer(sethttp.Handler(sethttp.MediaPayment, slog.New(slog.DiscardHandler), w.gateway.serve))
	t.Cleanup(gs.Close)
	w.shop, w.office = httptest.NewUnstartedServer(nil), httptest.NewUnstartedServer(nil)
	w.api = web.API{Token: []byte(apiToken)}
	w.config = merchant.Config{
		Endpoint: w.Merchant(t, settest.MerchantID),
		Catalogue: &merchant.Catalogue{Currency: "EUR", Items: []merchant.Item{
			{ID: "book", Name: "The Elements of Programming", Price: 4200}, {ID: "pencil", Name: "Pencil <2B> & rubber", Price: 25},
		}, Terms: []merchant.Terms{"split", "install 3", "recur 28 20301231"}},
		Gateways:  []merchant.Gateway{{Certificate: ge.ExchangeCert, Chain: ge.Chain, URL: gs.URL}},
		BaseURL:   "http://" + w.shop.Listener.Addr().String() + "/books",
		Log:       slog.New(slog.NewJSONHandler(w.log, nil)),
		Capture:   merchant.CaptureManually,
		MerchData: set.MerchData{MerchCatCode: "5942"},
		Now: func() time.Time {
			w.mu.Lock()
			defer w.mu.Unlock()
			if !w.stopped.IsZero() {
				return w.stopped.Add(w.later)
			}
			return time.Now().Add(w.later)
		},
	}
	w.config.Store = must[*merchant.Store](t)(merchant.OpenStore(t.Context(), "sqlite:"+t.TempDir()+"/merchant.db"))
	t.Cleanup(func() { w.config.Store.Close() })
	for _, c := range change {
		c(w)
	}
	w.m = must[*merchant.Merchant](t)(merchant.New(w.config))
	shop := must[*web.Shop](t)(web.NewShop(w.m, &w.api))
	office := must[*web.Office](t)(web.NewOffice(w.m, "http://"+w.office.Listener.Addr().String(), w.listOperators))
	w.shop.Config.Handler, w.office.Config.Handler = http.StripPrefix("/books", shop.Handler()), office.Handler()
	w.shop.Start()
	w.office.Start()
	t.Cleanup(w.shop.Close)
	t.Cleanup(w.office.Close)
	ctx, cancel := context.WithCancel(context.Background())
	var jobs sync.WaitGroup
	for _, run := range []func(context.Context) error{w.m.Run, shop.Run} {
		jobs.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		jobs.Wait()
		if t.Failed() {
			t.Logf("log:\n%.8000s", w.log.String())
		}
	})
	return w
}

func (w *world) listOperators() ([]web.Operator, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.operators, nil
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.later += d
}

// gateway approves and books whatever is right.
type gateway struct {
	e    *set.Endpoint
	held map[set.RRPID]*set.Position

	mu      sync.Mutex
	hold    chan struct{} // when set, answers wait until it is closed
	decline bool
	did     map[set.MessageType]int
	batch   *set.Batch
}

// pause makes the gateway slow until the function that it returns is called.
func (g *gateway) pause() (resume func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	hold := make(chan struct{})
	g.hold = hold
	return sync.OnceFunc(func() { close(hold) })
}

func (g *gateway) count(typ set.MessageType) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.did[typ]
}

func (g *gateway) serve(ctx context.Context, request []byte) ([]byte, error) {
	now := time.Now()
	w, err := g.e.Receive(now, request, set.AuthReqType, set.AuthRevReqType, set.CapReqType, set.CapRevReqType, set.CredReqType, set.CredRevReqType, set.BatchAdminReqType, set.PCertReqType)
	if err != nil {
		return nil, err
	}
	typ := w.Message.Type()
	if typ == set.PCertReqType {
		o, err := g.e.OpenPCertReq(now, w)
		if err != nil {
			return nil, err
		}
		return g.e.PCertRes(now, o, []set.GatewayCert{{Certificate: g.e.ExchangeCert}})
	}
	g.mu.Lock()
	hold := g.hold
	g.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.did == nil {
		g.did = make(map[set.MessageType]int)
	}
	g.did[typ]++
	switch typ {
	case set.AuthReqType:
		return g.authorize(now, w)
	case set.AuthRevReqType:
		return g.reverse(now, w)
	case set.CapReqType:
		return g.capture(now, w)
	case set.BatchAdminReqType:
		return g.administer(now, w)
	}
	return g.adjust(now, w)
}

func (g *gateway) authorize(now time.Time, w *set.MessageWrapper) ([]byte, error) {
	o, err := g.e.OpenAuthReq(now, w)
	if err != nil {
		return nil, err
	}
	defer o.Clear()
	if o.Refusal != nil {
		return nil, errors.New("refused: " + o.Refusal.String())
	}
	item := o.Data.AuthReqItem
	asked := item.AuthReqPayload.AuthReqAmt
	if g.decline {
		return g.e.AuthRes(now, o, set.Authorization{Code: set.AuthDeclined, Amount: set.CurrencyAmount{Currency: asked.Currency}})
	}
	position, err := set.Position{}.After(set.StepAuthorize, asked)
	if err != nil {
		return nil, err
	}
	g.held[item.AuthTags.AuthRRTags.RRPID] = &position
	return g.e.AuthRes(now, o, set.Authorization{Amount: asked, ApprovalCode: "OK0001", PaySysID: "NET-1"})
}

// step moves an authorization on.
func (g *gateway) step(id set.RRPID, step set.Step, amount set.CurrencyAmount) error {
	position, ok := g.held[id]
	if !ok {
		return errors.New("there is no such authorization")
	}
	next, err := position.After(step, amount)
	if err == nil {
		*position = next
	}
	return err
}

func (g *gateway) reverse(now time.Time, w *set.MessageWrapper) ([]byte, error) {
	o, err := g.e.OpenAuthRevReq(now, w)
	if err != nil {
		return nil, err
	}
	defer o.Clear()
	if err := g.step(o.RRPID, set.StepReverse, o.Data.AuthNewAmt); err != nil {
		return nil, err
	}
	return g.e.AuthRevRes(now, o, set.Reversal{Code: o.Code, Amount: o.Data.AuthNewAmt, Last: now})
}

func (g *gateway) capture(now time.Time, w *set.MessageWrapper) ([]byte, error) {
	o, err := g.e.OpenCapReq(now, w)
	if err != nil {
		return nil, err
	}
	defer o.Clear()
	var payloads []set.CapResPayload
	for _, item := range o.Items {
		asked := item.Item.CapPayload.CapReqAmt
		if err := g.step(item.Item.AuthRRPID, set.StepCapture, asked); err != nil {
			return nil, err
		}
		id, n := g.put(item.Item.AuthRRPID, asked, set.AmtDebit)
		payloads = append(payloads, set.CapResPayload{CapCode: item.Code, CapAmt: asked, BatchID: &id, BatchSequenceNum: &n})
	}
	return g.e.CapRes(now, o, payloads)
}

// put puts an item into the only batch.
func (g *gateway) put(id set.RRPID, amount set.CurrencyAmount, typ set.AmtType) (set.Natural, set.Positive) {
	n := set.Positive(len(g.batch.Items) + 1)
	g.batch.Items = append(g.batch.Items, set.TransactionDetail{
		AuthRRPID: id, BrandID: settest.Brand, BatchSequenceNum: n, TransactionAmt: amount, TransactionAmtType: typ,
	})
	return 1, n
}

func (g *gateway) adjust(now time.Time, w *set.MessageWrapper) ([]byte, error) {
	o, err := g.e.OpenAdjustmentReq(now, w)
	if err != nil {
		return nil, err
	}
	defer o.Clear()
	steps := map[set.Adjustment]set.Step{set.CaptureReversal: set.StepUndoCapture, set.Credit: set.StepCredit, set.CreditReversal: set.StepUndoCredit}
	var payloads []set.CapRevOrCredResPayload
	for _, item := range o.Items {
		if err := g.step(item.Item.AuthRRPID, steps[o.Adjustment], item.Amount); err != nil {
			return nil, err
		}
		p := set.CapRevOrCredResPayload{CapRevOrCredCode: item.Code, CapRevOrCredActualAmt: item.Amount}
		if o.Adjustment == set.Credit {
			id, n := g.put(item.Item.AuthRRPID, item.Amount, set.AmtCredit)
			p.BatchID, p.BatchSequenceNum = &id, &n
		}
		payloads = append(payloads, p)
	}
	return g.e.AdjustmentRes(now, o, payloads)
}

func (g *gateway) administer(now time.Time, w *set.MessageWrapper) ([]byte, error) {
	o, err := g.e.OpenBatchAdminReq(now, w)
	if err != nil {
		return nil, err
	}
	g.batch.Serves = func(set.BrandAndBIN) set.PCertCode { return set.PCertSuccess }
	status := o.Judge(g.batch)
	res := set.BatchAdminResData{BatchID: 1, BAStatus: &status}
	if op := o.Data.BatchOperation; op != nil && *op == set.BatchClose && status == set.BASuccess {
		g.batch.State = set.BatchClosed
	}
	if o.Data.ReturnBatchSummaryInd {
		details, ok := g.batch.Details(978)
		if !ok {
			return nil, errors.New("the batch has no totals")
		}
		res.BatchStatus = &set.BatchStatus{OpenDateTime: now, BatchDetails: details}
		if g.batch.State == set.BatchClosed {
			res.BatchStatus.ClosedWhen = &set.ClosedWhen{CloseStatus: set.ClosedByMerchant, CloseDateTime: now}
		}
	}
	return g.e.BatchAdminRes(now, o, res)
}

// pay has a cardholder pay by an initiation message, and waits for the merchant's answer.
func (w *world) pay(t *testing.T, initiation []byte) {
	t.Helper()
	init := must[*set.Initiation](t)(set.ParseInitiation(initiation))
	card := w.Card(t, pan)
	p := must[*set.Purchase](t)(set.NewPurchase(init, settest.Brand, set.BIN(pan[:6]), "en"))
	p.InstallRecurData = init.InstallRecur
	client := sethttp.Client{Timeout: eventually, Tries: 1}
	post := func(message []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return must[[]byte](t)(client.Post(context.Background(), init.SETURL, sethttp.MediaPayment, message))
	}
	if _, err := p.OpenInitRes(card.Endpoint, time.Now(), post(p.InitReq(card.Endpoint, time.Now()))); err != nil {
		t.Fatal(err)
	}
	post(p.Request(card.Endpoint, time.Now(), &card.Account))
}

// browser has a cookie jar, and follows no redirect by itself.
type browser struct {
	t      *testing.T
	base   string
	client *http.Client
	header http.Header
}

// page is what a browser got.
type page struct {
	status   int
	header   http.Header
	location string
	body     string
}

func newBrowser(t *testing.T, base string) *browser {
	return &browser{t, base, &http.Client{
		Jar:           must[*cookiejar.Jar](t)(cookiejar.New(nil)),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, http.Header{"Accept-Language": {"en"}}}
}

func (w *world) customer(t *testing.T) *browser { return newBrowser(t, w.config.BaseURL) }
func (w *world) visitor(t *testing.T) *browser  { return newBrowser(t, w.office.URL) }

// do makes a request. A path is below the browser's base; form is sent by POST.
func (b *browser) do(method, path string, form url.Values, header http.Header) page {
	b.t.Helper()
	if !strings.HasPrefix(path, "http") {
		path = b.base + path
	}
	req := must[*http.Request](b.t)(http.NewRequestWithContext(b.t.Context(), method, path, strings.NewReader(form.Encode())))
	for _, h := range []http.Header{b.header, header} {
		for k, v := range h {
			req.Header[k] = v
		}
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	res := must[*http.Response](b.t)(b.client.Do(req))
	defer res.Body.Close()
	return page{res.StatusCode, res.Header, res.Header.Get("Location"), string(must[[]byte](b.t)(io.ReadAll(res.Body)))}
}

func (b *browser) get(path string) page { b.t.Helper(); return b.do("GET", path, nil, nil) }

// post sends a form of names and values.
func (b *browser) post(path string, fields ...string) page {
	b.t.Helper()
	form := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		form.Add(fields[i], fields[i+1])
	}
	return b.do("POST", path, form, nil)
}

// has checks a page.
func (p page) has(t *testing.T, status int, texts ...string) page {
	t.Helper()
	if p.status != status {
		t.Fatalf("status %d, want %d\n%s", p.status, status, p.body)
	}
	for _, text := range texts {
		if !strings.Contains(p.body, text) {
			t.Errorf("the page does not say %q\n%s", text, p.body)
		}
	}
	return p
}

// field gives the value of a hidden field.
func (p page) field(t *testing.T, name string) string {
	t.Helper()
	m := regexp.MustCompile(`name="` + name + `" value="([^"]*)"`).FindStringSubmatch(p.body)
	if m == nil {
		t.Fatalf("the page has no field %q\n%s", name, p.body)
	}
	return m[1]
}

func poll(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(eventually); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v it is still not true that %s", eventually, what)
		}
	}
}

// await waits until an order is in this state, and its last operation done.
func (w *world) await(t *testing.T, id string, want merchant.OrderState) *merchant.Order {
	t.Helper()
	var o *merchant.Order
	poll(t, "the order is "+string(want), func() bool {
		o = must[*merchant.Order](t)(w.config.Store.Order(t.Context(), id))
		return o.State == want && (o.Payment == nil || o.Payment.Pending == "")
	})
	return o
}

// order makes an order of one book and two pencils that nobody has paid.
func (w *world) order(t *testing.T) *merchant.Order {
	t.Helper()
	o, _, err := w.m.MakeOrder(t.Context(), merchant.OrderRequest{Lines: []merchant.LineRequest{{Item: "book", Quantity: 1}, {Item: "pencil", Quantity: 2}}})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// paid is an order that is authorized.
func (w *world) paid(t *testing.T) *merchant.Order {
	t.Helper()
	o := w.order(t)
	w.pay(t, []byte(w.customer(t).get("/orders/"+o.ID+"/pay").body))
	return w.await(t, o.ID, merchant.OrderAuthorized)
}
