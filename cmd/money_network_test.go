package cmd_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/gateway"
	"github.com/setkit/setkit/roles/set"
)

// fate is what becomes of a message.
type fate string

const (
	arrives       fate = "arrives"
	requestLost   fate = "request lost"
	answerLost    fate = "answer lost"
	doubled       fate = "doubled" // both copies arrive at the same time
	late          fate = "late"    // it arrives some day, after others that were sent later
	senderCrash   fate = "sender crashes when the answer comes"
	receiverCrash fate = "receiver crashes when it has answered"
)

var fates = []fate{arrives, requestLost, answerLost, doubled, late, senderCrash, receiverCrash}

// wire is a way between two parties.
type wire string

// The wires.
const (
	toMerchant wire = "cardholder to merchant"
	toGateway  wire = "merchant to gateway"
	toIssuer   wire = "gateway to issuer"
)

var wires = []wire{toMerchant, toGateway, toIssuer}

var errLost = errors.New("no answer comes")

// host is a party that others send messages to.
type host struct {
	wire    wire
	process *process
}

// network is what lies between the parties of a town. What becomes of the messages on a wire is decided
// beforehand, in the order in which they are sent. It watches that a repeated request gets the answer that it got before.
type network struct {
	log func(format string, args ...any)

	mu      sync.Mutex
	hosts   map[string]host
	weather map[wire][]fate
	onWay   []func() // messages that are late
	answers map[string]reply
	wrong   []string // what must not be
	met     map[fate]int
	ways    map[string]int // what messages are about, numbered
}

// reply is what a request got.
type reply struct {
	answer  string
	refused bool
}

func newNetwork(log func(string, ...any)) *network {
	return &network{log: log, hosts: make(map[string]host), weather: make(map[wire][]fate), answers: make(map[string]reply), met: make(map[fate]int), ways: make(map[string]int)}
}

// travel lets the time pass that a message takes. It differs between any two that may be sent at the same time, so
// that each arrives when everybody has done with the one before: the same sequence goes the same way again. Only the
// two copies of a message that is doubled arrive together.
func (n *network) travel(what, sender, about string) {
	h := fnv.New32()
	fmt.Fprint(h, what, sender)
	time.Sleep(time.Millisecond + time.Duration(h.Sum32()%100_000)) // who sends for the first time is numbered in this order
	n.mu.Lock()
	way, known := n.ways[about]
	if !known {
		way = len(n.ways) + 1
		n.ways[about] = way
	}
	n.mu.Unlock()
	time.Sleep(time.Duration(way) * 100 * time.Microsecond)
	chance.at(time.Now())
}

// crash has a party crash, when it has done what it can do at this moment.
func (n *network) crash(p *process) {
	time.Sleep(time.Microsecond)
	p.crash()
}

// heal makes everything arrive from now on.
func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.weather)
}

// next decides about a message.
func (n *network) next(w wire, what string) fate {
	n.mu.Lock()
	f := arrives
	if coming := n.weather[w]; len(coming) > 0 {
		f, n.weather[w] = coming[0], coming[1:]
	}
	n.met[f]++
	n.mu.Unlock()
	n.log("%s: %s %s", w, what, f)
	return f
}

func (n *network) hold(deliver func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.onWay = append(n.onWay, deliver)
}

// deliverLate lets one of the messages that are late arrive, and tells whether there was one.
func (n *network) deliverLate(which int) bool {
	n.mu.Lock()
	if len(n.onWay) == 0 {
		n.mu.Unlock()
		return false
	}
	i := which % len(n.onWay)
	deliver := n.onWay[i]
	n.onWay = slices.Delete(n.onWay, i, i+1)
	n.mu.Unlock()
	n.log("a late message arrives")
	deliver()
	return true
}

func (n *network) accuse(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wrong = append(n.wrong, fmt.Sprintf(format, args...))
}

func (n *network) accused() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.wrong)
}

// same holds what a request gets against what it got before. equal tells whether the answer of before will do.
func (n *network) same(request, what string, now reply) {
	n.mu.Lock()
	before, known := n.answers[request]
	if !known {
		n.answers[request] = now
	}
	n.mu.Unlock()
	switch {
	case !known:
	case before.refused && !now.refused && what != set.PInitReqType.String(): // which is right when the order can be paid meanwhile
		n.accuse("%s: what was refused was done when it came again", what)
	case !before.refused && before.answer != now.answer:
		n.accuse("%s: another answer than before to the same request", what)
	}
}

// RoundTrip carries SET messages between the parties. It stands for http.DefaultTransport.
func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	octets, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	h, ok := n.hosts[r.URL.Host]
	n.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("there is no host %s", r.URL.Host)
	}
	w, err := set.Decode(octets)
	if err != nil {
		return nil, err
	}
	m := message{network: n, host: h, url: r.URL.String(), header: r.Header, octets: octets, what: w.Message.Type().String(), date: w.MessageHeader.Date}
	sender, _ := r.Context().Value(senderKey{}).(*process)
	name := ""
	if sender != nil {
		name = sender.name
	}
	n.travel(m.what, name, m.about(w.MessageHeader))
	f := arrives
	if w.Message.Type() != set.PCertReqType { // which moves no money, and is sent when a merchant starts
		f = n.next(h.wire, m.what)
	}
	switch f {
	case requestLost:
		return nil, errLost
	case late:
		n.hold(func() { m.deliver() })
		return nil, errLost
	case doubled:
		var copies sync.WaitGroup
		copies.Go(func() { m.deliver() })
		defer copies.Wait()
	}
	response, err := m.deliver()
	switch f {
	case answerLost:
		return nil, errLost
	case senderCrash:
		if sender != nil {
			n.crash(sender)
		}
	case receiverCrash:
		n.crash(h.process)
		return nil, errLost
	}
	return response, err
}

// senderKey is under which the context of a request has the process that sends it, if that can crash.
type senderKey struct{}

// message is a SET message on its way.
type message struct {
	*network
	host   host
	url    string
	header http.Header
	octets []byte
	what   string
	date   time.Time
}

// about names what a message is about.
func (m message) about(h set.MessageHeader) string {
	if h.MessageIDs != nil && h.MessageIDs.XID != nil {
		return h.MessageIDs.XID.String()
	}
	return fmt.Sprintf("%x", *h.RRPID)
}

// deliver hands a message to its receiver.
func (m message) deliver() (*http.Response, error) {
	handler := m.host.process.handler()
	if handler == nil {
		return nil, fmt.Errorf("connection to %s refused", m.url)
	}
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, m.url, bytes.NewReader(m.octets))
	if err != nil {
		return nil, err
	}
	r.Header = m.header
	rec := httptest.NewRecorder()
	handler.ServeHTTP(rec, r)
	m.log("%s: %s gets %d", m.host.wire, m.what, rec.Code)
	tooOld := time.Since(m.date) > set.DefaultWindow
	if rec.Code < 500 && !tooOld {
		sum := sha256.Sum256(m.octets)
		m.same(m.url+string(sum[:]), m.what, reply{rec.Body.String(), rec.Code != http.StatusOK})
	}
	return rec.Result(), nil
}

// issuerWire is the network between a gateway and the issuer.
type issuerWire struct {
	*network
	bank    *bank
	gateway *process
}

var _ gateway.Issuer = (*issuerWire)(nil)

// carry takes one message to the issuer. name is the same for copies of a message, and empty where their answers may differ.
func carry[A any](w *issuerWire, what, about, name string, ask func(context.Context) (A, error)) (A, error) {
	once := func() (answer A, err error) {
		w.bank.visit(func() { answer, err = ask(context.Background()) })
		if err == nil && name != "" {
			w.same(what+name, what, reply{answer: fmt.Sprint(answer)})
		}
		w.log("%s: %s gets %.11s %v", toIssuer, what, fmt.Sprint(answer), err)
		return answer, err
	}
	var none A
	w.travel(what, gatewayHost, about)
	f := w.next(toIssuer, what)
	switch f {
	case requestLost:
		return none, finnet.ErrUnavailable
	case late:
		w.hold(func() { once() })
		return none, finnet.ErrNoReply
	case doubled:
		once()
	}
	answer, err := once()
	switch f {
	case answerLost:
		return none, finnet.ErrNoReply
	case senderCrash, receiverCrash: // the issuer itself does not crash
		w.crash(w.gateway)
	}
	return answer, err
}

func (w *issuerWire) Authorize(_ context.Context, a *finnet.Authorization) (finnet.Answer, error) {
	request := *a
	request.PAN, request.TransStain = slices.Clone(a.PAN), slices.Clone(a.TransStain) // the gateway forgets them
	return carry(w, "authorization", a.RRN, "", func(ctx context.Context) (finnet.Answer, error) { return w.bank.client.Authorize(ctx, &request) })
}

func (w *issuerWire) Reverse(_ context.Context, r *finnet.Reversal) (finnet.ResponseCode, error) {
	return carry(w, "reversal", r.RRN, fmt.Sprint(r.Trace), func(ctx context.Context) (finnet.ResponseCode, error) { return w.bank.client.Reverse(ctx, r) })
}

func (w *issuerWire) Clear(_ context.Context, c *finnet.Clearing) (finnet.ResponseCode, error) {
	return carry(w, "clearing", c.RRN, fmt.Sprint(c.Trace), func(ctx context.Context) (finnet.ResponseCode, error) { return w.bank.client.Clear(ctx, c) })
}

func (w *issuerWire) Refund(_ context.Context, r *finnet.Refund) (finnet.ResponseCode, error) {
	return carry(w, "refund", r.RRN, fmt.Sprint(r.Trace), func(ctx context.Context) (finnet.ResponseCode, error) { return w.bank.client.Refund(ctx, r) })
}

func (w *issuerWire) Withdraw(_ context.Context, d *finnet.Withdrawal) (finnet.ResponseCode, error) {
	return carry(w, "withdrawal", d.RRN, fmt.Sprint(d.Trace), func(ctx context.Context) (finnet.ResponseCode, error) { return w.bank.client.Withdraw(ctx, d) })
}

func (w *issuerWire) Reconcile(_ context.Context, r *finnet.Reconciliation) (finnet.Balance, error) {
	return carry(w, "reconciliation", "", "", func(ctx context.Context) (finnet.Balance, error) { return w.bank.client.Reconcile(ctx, r) })
}

func (w *issuerWire) Echo(context.Context) error { return nil }
