package cmd_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/setkit/setkit/roles/gateway"
	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/settest"
	"github.com/setkit/setkit/roles/sethttp"
)

// Whatever cardholders and merchants do, and whatever becomes of the messages between all parties, money is
// conserved: for every account, what merchants captured less what they gave back is what the cardholder is
// debited with and what is settled, and no authorization is used twice.
//
// The parties are the real ones, with software keys and SQLite, the issuer behind TCP. Each sequence of
// operations has its own, in a bubble of testing/synctest, so that days pass at once. The network between them
// loses, doubles and reorders messages, and parties crash and start anew. In the end everything arrives, and the
// books of all parties are compared with each other and with what the merchants were told.
//
// The seed of a run is printed, and so is that of a sequence that fails, with everything that happened in it and the
// name of a file with the shortest one that still fails:
//
//	go test ./cmd -run TestMoneyIsConserved -rapid.seed=N -rapid.checks=1
//	go test ./cmd -run TestMoneyIsConserved -rapid.failfile=FILE
//
// A seed gives the operations, the fates of the messages, the identifiers and the pauses of jobs. Messages travel so
// that one arrives after the other, and one goroutine runs at a time. What is left to chance is the order of
// goroutines that have something to do at the same moment, such as with the two copies of a doubled message. Of 70
// sequences that were run twice on a busy machine, all went the same way message by message; with the race detector,
// which reorders goroutines on purpose, fewer do. More sequences are tried with -rapid.checks=5000 -timeout 4h.
func TestMoneyIsConserved(t *testing.T) {
	r := replayable(t)
	out := newOutside()
	var p *people
	synctest.Test(t, func(t *testing.T) { p = newPeople(t, out) }) // whose certificates are of a bubble's time
	var told census
	rapid.Check(r, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed of the parties")
		var end any
		synctest.Test(t, func(*testing.T) {
			defer func() { end = recover() }() // rapid's own ways to end a sequence must reach it on its goroutine
			chance.seed(seed)
			p.sequence(rt, &told)
		})
		r.ended(end)
	})
	t.Log(told.String())
	if told.money == 0 && told.sequences >= 20 { // every second sequence moves some
		t.Error("no money was moved")
	}
}

func init() { http.DefaultTransport = transports }

// transports finds the network of the sequence that runs.
var transports = new(switchboard)

type switchboard struct {
	mu      sync.Mutex
	network *network
}

func (s *switchboard) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	n := s.network
	s.mu.Unlock()
	if n == nil {
		return nil, errors.New("there is no network")
	}
	return n.RoundTrip(r)
}

func (s *switchboard) connect(n *network) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.network = n
}

// census counts what was tried.
type census struct {
	sequences, operations, refusals, payments, settlements, unresolved int
	money                                                              int64
	fates                                                              map[fate]int
}

func (c *census) String() string {
	out := fmt.Sprintf("%d sequences: %d payments, %d operations and %d that were not begun, %d settlements of %d cents, %d orders unresolved",
		c.sequences, c.payments, c.operations, c.refusals, c.settlements, c.money, c.unresolved)
	for _, f := range slices.Sorted(maps.Keys(c.fates)) {
		out += fmt.Sprintf("\n%7d messages: %s", c.fates[f], f)
	}
	return out
}

// purse is a cardholder's software with one purchase.
type purse struct {
	card     *settest.Card
	account  int
	shop     *shop
	order    *entry
	purchase *set.Purchase
	preq     []byte // nil until it is signed
}

// entry is an order in the model.
type entry struct {
	shop  *shop
	id    string
	total int64
	terms merchant.Terms

	// Since the first operation on a payment of it, whose start is before, the order is to have what the
	// operations brought.
	xid       set.XID // of the payment
	before    *money
	started   []string // ids of operations
	uncounted bool     // its money moved otherwise, too
}

// GoString is for rapid's log.
func (e *entry) GoString() string { return fmt.Sprintf("order of %d at %s", e.total, e.shop.name) }

// GoString is for rapid's log.
func (c *purse) GoString() string { return "purchase of " + c.order.GoString() }

type money struct{ captured, refunded int64 }

// request is an operation of a merchant.
type request struct {
	shop *shop
	id   string
}

// model is one sequence.
type model struct {
	*town
	t       *rapid.T
	told    *census
	purses  []*purse
	orders  []*entry
	batches []request // to administer batches
	settled map[int]*gateway.Settled
	unheld  bool // holds may have lapsed
}

func (p *people) sequence(t *rapid.T, told *census) {
	town, err := p.newTown(t.Logf)
	if town != nil {
		defer town.close()
	}
	if err != nil {
		t.Fatal(err)
	}
	transports.connect(town.network)
	defer transports.connect(nil)
	m := &model{town: town, t: t, told: told, settled: make(map[int]*gateway.Settled)}
	t.Repeat(map[string]func(*rapid.T){
		"pay": m.pay, "pay more": m.pay, "pay again": m.payAgain, "resend": m.resend, "inquire": m.inquire,
		"capture": m.capture, "capture more": m.capture, "capture all": m.captureAll, "reverse": m.reverse, "void": m.void,
		"refund": m.refund, "refund more": m.refund, "undo refund": m.undoRefund, "ship": m.ship, "charge": m.charge,
		"batch": m.batch, "settle": m.settle, "restart": m.restart, "wait": m.wait, "late message": m.late,
		"": m.watch,
	})
	m.finish()
	told.sequences++
	if told.fates == nil {
		told.fates = make(map[fate]int)
	}
	for f, n := range town.met {
		told.fates[f] += n
	}
}

// watch is what must be true at any time.
func (m *model) watch(t *rapid.T) {
	for _, wrong := range m.accused() {
		t.Fatal(wrong)
	}
}

// storms says what becomes of the next messages on each wire; mostly they arrive.
func (m *model) storms(t *rapid.T) {
	m.network.mu.Lock()
	defer m.network.mu.Unlock()
	for _, w := range wires {
		m.weather[w] = rapid.SliceOfN(rapid.SampledFrom(fates), 0, 3).Draw(t, string(w))
	}
}

// calm lets the parties work for a while, and starts whoever has crashed.
func (m *model) calm(t *rapid.T) {
	d := rapid.SampledFrom([]time.Duration{5 * time.Millisecond, time.Second, 2 * time.Second, 10 * time.Second, time.Minute, time.Hour}).Draw(t, "calm")
	if d == time.Hour {
		m.heal()
		m.pass(d) // requests that wait get too old
		return
	}
	time.Sleep(d)
	m.heal()
	m.settleDown()
}

// settleDown waits until nobody does anything before time goes on.
func (m *model) settleDown() {
	rest()
	if err := m.startAll(); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) pay(t *rapid.T) {
	s := rapid.SampledFrom(m.shops).Draw(t, "shop")
	on := rapid.SampledFrom(terms).Draw(t, "terms")
	books, cents := rapid.IntRange(0, 9).Draw(t, "books"), rapid.IntRange(1, 99).Draw(t, "cents")
	lines := []merchant.LineRequest{{Item: "cent", Quantity: int64(cents)}}
	if books > 0 {
		lines = append(lines, merchant.LineRequest{Item: "book", Quantity: int64(books)})
	}
	o, _, err := s.server.MakeOrder(context.Background(), merchant.OrderRequest{Lines: lines, Terms: on})
	if err != nil {
		t.Fatal(err)
	}
	e := &entry{shop: s, id: o.ID, total: o.Amount.Minor, terms: on}
	m.orders = append(m.orders, e)
	m.payWith(t, e)
}

// payAgain pays an order once more, which its merchant allows after a failure only.
func (m *model) payAgain(t *rapid.T) {
	if len(m.orders) == 0 {
		t.Skip()
	}
	m.payWith(t, rapid.SampledFrom(m.orders).Draw(t, "order"))
}

func (m *model) payWith(t *rapid.T, e *entry) {
	account := rapid.IntRange(0, len(m.cards)-1).Draw(t, "card")
	card := m.cards[account]
	page := e.shop.url + "/order"
	message, err := e.shop.server.Initiation(m.look(e), page, merchant.ReturnPages{Success: page, Failure: page, Cancel: page})
	if err != nil {
		t.Fatal(err)
	}
	init, err := set.ParseInitiation(message)
	if err != nil {
		t.Fatal(err)
	}
	p, err := set.NewPurchase(init, settest.Brand, set.BIN(card.Account.PAN[:6]), "en")
	if err != nil {
		t.Fatal(err)
	}
	p.InstallRecurData = init.InstallRecur
	c := &purse{card: card, account: account, shop: e.shop, order: e, purchase: p}
	m.storms(t)
	defer m.calm(t)
	request, err := p.InitReq(card.Endpoint, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	answer, err := c.post(request)
	if err != nil {
		return
	}
	if _, err := p.OpenInitRes(card.Endpoint, time.Now(), answer); err != nil {
		return // an Error
	}
	if c.preq, err = p.Request(card.Endpoint, time.Now(), &card.Account); err != nil {
		t.Fatal(err)
	}
	m.told.payments++
	m.purses = append(m.purses, c)
	c.result(t)
}

// post sends a message of a cardholder, who does not try for long.
func (c *purse) post(message []byte) ([]byte, error) {
	client := sethttp.Client{Timeout: time.Minute, Tries: 2, Pause: 100 * time.Millisecond}
	return client.Post(context.Background(), c.shop.url+"/set", sethttp.MediaPayment, message)
}

// result sends the purchase request, perhaps again.
func (c *purse) result(t *rapid.T) {
	answer, err := c.post(c.preq)
	if err != nil {
		return
	}
	data, err := c.purchase.OpenResponse(c.card.Endpoint, time.Now(), answer)
	if err != nil {
		var peer *set.PeerError
		if !errors.As(err, &peer) {
			t.Logf("cardholder: %v", err) // such as an answer that is too old
		}
		return
	}
	t.Logf("cardholder is told: %d", data.PResPayloadSeq[0].CompletionCode)
}

// wallet chooses a purchase that was begun.
func (m *model) wallet(t *rapid.T) *purse {
	if len(m.purses) == 0 {
		t.Skip()
	}
	return rapid.SampledFrom(m.purses).Draw(t, "purchase")
}

func (m *model) resend(t *rapid.T) {
	c := m.wallet(t)
	m.storms(t)
	c.result(t)
	m.calm(t)
}

func (m *model) inquire(t *rapid.T) {
	c := m.wallet(t)
	_, request, err := c.purchase.InqReq(c.card.Endpoint, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m.storms(t)
	c.post(request)
	m.calm(t)
}

// operate has a merchant do something with an order: mostly one that allows it.
func (m *model) operate(t *rapid.T, name string, command func(s *merchant.Store, e *entry) (*merchant.Operation, error)) {
	allow := slices.DeleteFunc(slices.Clone(m.orders), func(e *entry) bool {
		o := m.look(e)
		return o.Payment == nil || !slices.Contains(o.Payment.Possible, name)
	})
	if len(allow) == 0 {
		t.Skip()
	}
	if rapid.IntRange(0, 9).Draw(t, "whichever") == 9 {
		allow = m.orders
	}
	e := rapid.SampledFrom(allow).Draw(t, "order")
	o := m.look(e)
	m.storms(t)
	op, err := command(e.shop.store, e)
	var refused *merchant.OrderError
	switch {
	case errors.As(err, &refused):
		m.told.refusals++
		m.t.Logf("not begun: %v", refused.Reason)
	case err != nil:
		t.Fatal(err)
	default:
		e.begin(o, op)
		m.told.operations++
	}
	m.calm(t)
}

// begin notes an operation on an order, which was o before.
func (e *entry) begin(o *merchant.Order, op *merchant.Operation) {
	if e.before == nil || e.xid != o.Payment.XID {
		e.xid, e.before, e.started = o.Payment.XID, &money{o.Payment.CapturedAmount.Minor, o.Payment.RefundedAmount.Minor}, nil
	}
	e.started = append(e.started, op.ID)
}

func (m *model) look(e *entry) *merchant.Order {
	o, err := e.shop.store.Order(context.Background(), e.id)
	if err != nil {
		m.t.Fatal(err)
	}
	return o
}

// some is an amount of an order, which may be too much.
func some(t *rapid.T, e *entry) int64 {
	return max(1, e.total*rapid.Int64Range(1, 11).Draw(t, "tenths")/10)
}

func (m *model) capture(t *rapid.T) {
	m.operate(t, "capture", func(s *merchant.Store, e *entry) (*merchant.Operation, error) {
		amount := int64(0)
		if rapid.Bool().Draw(t, "in part") {
			amount = some(t, e)
		}
		return s.Capture(context.Background(), time.Now(), e.id, amount)
	})
}

func (m *model) captureAll(t *rapid.T) {
	s := rapid.SampledFrom(m.shops).Draw(t, "shop")
	before := make(map[int64]*merchant.Order)
	for _, e := range m.orders {
		if e.shop == s {
			o := m.look(e)
			before[o.Number] = o
		}
	}
	m.storms(t)
	all, err := s.store.CaptureAll(context.Background(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range all {
		for _, e := range m.orders {
			i := slices.IndexFunc(op.Items, func(i merchant.OperationItem) bool { return e.shop == s && before[i.Order].ID == e.id })
			if i >= 0 {
				e.begin(before[op.Items[i].Order], op)
			}
		}
		m.told.operations++
	}
	m.calm(t)
}

func (m *model) reverse(t *rapid.T) {
	m.operate(t, "reverse", func(s *merchant.Store, e *entry) (*merchant.Operation, error) {
		return s.Reverse(context.Background(), time.Now(), e.id, some(t, e))
	})
}

func (m *model) void(t *rapid.T) {
	m.operate(t, "void", func(s *merchant.Store, e *entry) (*merchant.Operation, error) {
		return s.Void(context.Background(), time.Now(), e.id)
	})
}

func (m *model) refund(t *rapid.T) {
	m.operate(t, "refund", func(s *merchant.Store, e *entry) (*merchant.Operation, error) {
		amount := int64(0)
		if rapid.Bool().Draw(t, "in part") {
			amount = some(t, e)
		}
		return s.Refund(context.Background(), time.Now(), e.id, amount)
	})
}

func (m *model) undoRefund(t *rapid.T) {
	m.operate(t, "undo-refund", func(s *merchant.Store, e *entry) (*merchant.Operation, error) {
		return s.UndoRefund(context.Background(), time.Now(), e.id)
	})
}

func (m *model) ship(t *rapid.T) {
	m.operate(t, "ship", func(s *merchant.Store, e *entry) (*merchant.Operation, error) {
		e.uncounted = e.uncounted || e.shop.capture == merchant.CaptureWithSale // nobody is told by which operation
		return s.Ship(context.Background(), time.Now(), e.id, some(t, e), rapid.Bool().Draw(t, "last"))
	})
}

func (m *model) charge(t *rapid.T) {
	m.operate(t, "charge", func(s *merchant.Store, e *entry) (*merchant.Operation, error) {
		e.uncounted = e.uncounted || e.shop.capture == merchant.CaptureWithSale
		return s.Charge(context.Background(), time.Now(), e.id)
	})
}

// batch administers one of a merchant's batches. Numbers are few, so that they meet.
func (m *model) batch(t *rapid.T) {
	s := rapid.SampledFrom(m.shops).Draw(t, "shop")
	q := merchant.BatchQuery{
		Operation: rapid.SampledFrom([]merchant.BatchOperation{merchant.BatchOpen, merchant.BatchClose, merchant.BatchPurge, merchant.BatchShow}).Draw(t, "operation"),
		AnyTotals: rapid.Bool().Draw(t, "any totals"),
	}
	id := rapid.Int64Range(1, 4).Draw(t, "batch")
	q.Batch = &id
	if q.Operation == merchant.BatchPurge {
		for _, e := range m.orders { // whose captures may be taken out
			e.uncounted = e.uncounted || e.shop == s
		}
	}
	m.storms(t)
	if op, err := s.store.AskBatch(context.Background(), time.Now(), q); err == nil {
		m.t.Logf("%s batch %d: %s", q.Operation, id, op.State)
		m.batches = append(m.batches, request{s, op.ID})
		m.told.operations++
	}
	m.calm(t)
}

// settle closes a settlement, if the issuer answers in time.
func (m *model) settle(t *rapid.T) {
	m.storms(t)
	if err := m.settleOnce(); err != nil {
		m.t.Logf("settlement: %v", err)
		if errors.Is(err, gateway.ErrOutOfBalance) {
			t.Fatal(err)
		}
	}
	m.calm(t)
}

func (m *model) settleOnce() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	db, err := gateway.OpenDB(ctx, "sqlite:"+m.dir+"/gateway")
	if err != nil {
		return err
	}
	defer db.Close()
	s := gateway.Settler{
		DB: db, Issuer: m.wire, Acquirer: settest.AcquirerBIN, Log: quiet, Progress: func(string, int) {},
		Report: func(s *gateway.Settled) error {
			m.settled[int(s.Number)] = s
			return nil
		},
	}
	_, err = s.Settle(ctx)
	return err
}

// restart ends a party in good order and starts it anew.
func (m *model) restart(t *rapid.T) {
	p := rapid.SampledFrom(m.processes()).Draw(t, "process")
	synctest.Wait()
	p.stop()
	m.settleDown()
}

// wait lets time pass: with everybody at work, or in the night, when requests get too old and holds lapse.
func (m *model) wait(t *rapid.T) {
	if !rapid.Bool().Draw(t, "night") {
		time.Sleep(time.Duration(rapid.IntRange(1, 90).Draw(t, "seconds")) * time.Second)
		m.settleDown()
		return
	}
	m.pass(rapid.SampledFrom([]time.Duration{9 * time.Minute, time.Hour, 49 * time.Hour, 8 * 24 * time.Hour}).Draw(t, "gap"))
}

// pass lets time pass with nobody at work.
func (m *model) pass(d time.Duration) {
	for _, p := range m.processes() {
		synctest.Wait()
		p.stop()
	}
	time.Sleep(d)
	m.unheld = true
	m.bank.visit(func() {
		if _, err := m.bank.issuer.ReleaseLapsed(context.Background()); err != nil {
			m.accuse("holds do not lapse: %v", err)
		}
	})
	m.settleDown()
}

func (m *model) late(t *rapid.T) {
	if !m.deliverLate(rapid.IntRange(0, 5).Draw(t, "which")) {
		t.Skip()
	}
	m.settleDown()
}

// finish heals the network, has everything done that is left, and compares the books.
func (m *model) finish() {
	m.heal()
	m.settleDown()
	m.idle()
	for m.deliverLate(0) {
		m.settleDown()
	}
	m.idle()
	for {
		err := m.settleOnce()
		if errors.Is(err, gateway.ErrNothingToSettle) {
			break
		}
		if err != nil {
			m.t.Fatal(err)
		}
	}
	m.watch(m.t)
	m.compare()
}

// idle waits until no merchant has a request under way, and the gateway nothing that the issuer has not answered.
func (m *model) idle() {
	for range 200 {
		time.Sleep(10 * time.Second)
		m.settleDown()
		if m.pending() == "" {
			return
		}
	}
	m.t.Fatalf("there is always something left to do: %s", m.pending())
}

func (m *model) pending() string {
	for _, e := range m.orders {
		if o := m.look(e); o.Payment != nil && (o.Payment.Pending != "" || o.State == merchant.OrderAuthorizing) {
			return fmt.Sprintf("order %d waits for %s", o.Number, o.Payment.Pending)
		}
	}
	for _, r := range m.batches {
		for id := r.id; id != ""; {
			op, err := r.shop.store.Operation(context.Background(), id)
			if err != nil {
				m.t.Fatal(err)
			}
			if op.State == merchant.OperationPending {
				return "a batch"
			}
			id = op.Next
		}
	}
	for _, tr := range m.transactions() {
		if tr.State == "pending" || tr.Issuer == "pending" {
			return "an authorization"
		}
	}
	return ""
}

func (m *model) transactions() []gateway.Transaction {
	db, err := gateway.OpenDB(context.Background(), "sqlite:"+m.dir+"/gateway")
	if err != nil {
		m.t.Fatal(err)
	}
	defer db.Close()
	all, err := gateway.Transactions(context.Background(), db, newSoftKey(), 10_000)
	if err != nil {
		m.t.Fatal(err)
	}
	return all
}

// cents reads an amount as it is shown to people; nothing is 0.
func cents(text string) int64 {
	digits, _, _ := strings.Cut(text, " ")
	if digits == "" {
		return 0
	}
	n, err := strconv.ParseInt(strings.Replace(digits, ".", "", 1), 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}
