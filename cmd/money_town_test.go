package cmd_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/gateway"
	"github.com/setkit/setkit/roles/issuer"
	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/settest"
	"github.com/setkit/setkit/roles/sethttp"
)

const (
	holdDays    = 7
	gatewayHost = "gateway"
)

// outside runs functions outside the bubble of testing/synctest in which the parties live. While that has an
// issuer behind real TCP do its work, the bubble's clock stands still.
type outside chan outsideWorker

type outsideWorker struct {
	do   chan func()
	done chan struct{}
}

func newOutside() outside {
	const workers = 16
	out := make(outside, workers)
	for range workers {
		w := outsideWorker{make(chan func()), make(chan struct{})}
		go func() {
			for f := range w.do {
				f()
				w.done <- struct{}{}
			}
		}()
		out <- w
	}
	return out
}

func (o outside) run(f func()) {
	w := <-o
	w.do <- f
	<-w.done
	o <- w
}

// people are what all towns share: who is certified, and empty databases.
type people struct {
	outside
	world     *settest.World
	acquirer  *set.Endpoint // its gateway
	merchants []*set.Endpoint
	cards     []*settest.Card
	empty     map[string][]byte // databases by name
}

// accounts is what the cardholders have, in cents. The last of them runs out of money now and then.
var accounts = []int64{1_000_000_00, 1_000_000_00, 120_00}

// captures is when the merchants capture.
var captures = []merchant.Capture{merchant.CaptureManually, merchant.CaptureImmediately, merchant.CaptureWithSale}

func newPeople(t *testing.T, out outside) *people {
	w := settest.NewWorld(t)
	p := &people{outside: out, world: w, acquirer: w.Gateway(t, "G-0001"), empty: make(map[string][]byte)}
	for i := range captures {
		p.merchants = append(p.merchants, w.Merchant(t, fmt.Sprintf("M-%04d", i+1)))
	}
	for _, pan := range []string{"4111111111111111", "4012888888881881", "4242424242424242"} {
		p.cards = append(p.cards, w.Card(t, pan))
	}
	dir := t.TempDir()
	keep := func(name string, open func(url string) (io.Closer, error)) error {
		file := filepath.Join(dir, name)
		db, err := open("sqlite:" + file)
		if err == nil {
			err = db.Close()
		}
		if err == nil {
			p.empty[name], err = os.ReadFile(file)
		}
		return err
	}
	err := errors.Join(
		keep("gateway", func(url string) (io.Closer, error) { return gateway.OpenDB(t.Context(), url) }),
		keep("merchant", func(url string) (io.Closer, error) { return merchant.OpenStore(t.Context(), url) }))
	now := time.Now()
	out.run(func() {
		err = errors.Join(err, keep("issuer", func(url string) (io.Closer, error) {
			i, err := openIssuer(url, func() time.Time { return now })
			if err == nil {
				err = p.openAccounts(i)
			}
			return i, err
		}))
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *people) openAccounts(i *issuer.Issuer) error {
	var all []issuer.Account
	for n, c := range p.cards {
		all = append(all, issuer.Account{
			ID: accountID(n), PAN: c.Account.PAN, Expiry: c.Account.CardExpiry, Holder: "Ada Example",
			Available: finnet.FromMinorUnits(accounts[n], euro), Status: issuer.Active, Secret: []byte("registration"),
		})
	}
	_, err := i.Import(context.Background(), all)
	return err
}

const euro set.Currency = 978

func accountID(n int) string { return fmt.Sprintf("a-%d", n+1) }

// softKey stands for the keys in HSMs.
type softKey struct{ cipher.AEAD }

func newSoftKey() softKey {
	b, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		panic(err)
	}
	a, err := cipher.NewGCM(b)
	if err != nil {
		panic(err)
	}
	return softKey{a}
}

func (k softKey) Sum(data []byte) ([]byte, error) {
	h := hmac.New(sha256.New, []byte("lookup key"))
	h.Write(data)
	return h.Sum(nil), nil
}

func (k softKey) Seal(plaintext, aad []byte) ([]byte, error) {
	nonce := make([]byte, k.NonceSize())
	rand.Read(nonce)
	return k.AEAD.Seal(nonce, nonce, plaintext, aad), nil
}

func (k softKey) Open(sealed, aad []byte) ([]byte, error) {
	if len(sealed) < k.NonceSize() {
		return nil, errors.New("sealed data is too short")
	}
	return k.AEAD.Open(nil, sealed[:k.NonceSize()], sealed[k.NonceSize():], aad)
}

func openIssuer(url string, now func() time.Time) (*issuer.Issuer, error) {
	return issuer.Open(context.Background(), issuer.Config{
		Database: url, Lookup: newSoftKey(), Sealer: newSoftKey(), HoldDays: holdDays, Log: slog.New(slog.DiscardHandler), Now: now,
	})
}

// bank is the issuer behind TCP, outside the bubble, and the gateway's client of it.
type bank struct {
	outside
	issuer *issuer.Issuer
	client *finnet.Client
	clock  atomic.Int64
	close  func()
}

func (p *people) openBank(url string) (b *bank, err error) {
	b = &bank{outside: p.outside}
	b.visit(func() {
		var ln net.Listener
		if b.issuer, err = openIssuer(url, func() time.Time { return time.Unix(0, b.clock.Load()) }); err != nil {
			return
		}
		if ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return
		}
		log := slog.New(slog.DiscardHandler)
		ctx, cancel := context.WithCancel(context.Background())
		served := make(chan error, 1)
		go func() { served <- finnet.Serve(ctx, ln, b.issuer, log) }()
		b.client = finnet.NewClient(ln.Addr().String(), log)
		b.close = func() {
			b.client.Close()
			cancel()
			<-served
			b.issuer.Close()
		}
	})
	return b, err
}

// visit does something at the bank, at the time of the bubble.
func (b *bank) visit(f func()) {
	b.clock.Store(time.Now().UnixNano())
	b.run(f)
}

// process is a server that can be stopped, can crash and can be started anew on the same database.
type process struct {
	name string
	open func(ctx context.Context) (running, error)

	mu   sync.Mutex
	runs *running // nil: it is down
	end  func()   // of the one that runs, or of the one that has crashed
}

// running is a server at work.
type running struct {
	handler http.Handler
	run     func(context.Context) error
	db      io.Closer
}

// GoString is for rapid's log.
func (p *process) GoString() string { return p.name }

func (p *process) handler() http.Handler {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.runs == nil {
		return nil
	}
	return p.runs.handler
}

// start starts a server that does not run.
func (p *process) start() error {
	if p.handler() != nil {
		return nil
	}
	p.stop()
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), senderKey{}, p))
	r, err := p.open(ctx)
	if err != nil {
		cancel()
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.run(ctx)
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.runs, p.end = &r, func() {
		cancel()
		<-done
		r.db.Close()
	}
	return nil
}

// crash takes the database away from a server in the middle of whatever it does.
func (p *process) crash() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.runs != nil {
		p.runs.db.Close()
		p.runs = nil
	}
}

// stop ends a server in good order, or what a crash has left of it.
func (p *process) stop() {
	p.mu.Lock()
	end := p.end
	p.runs, p.end = nil, nil
	p.mu.Unlock()
	if end != nil {
		end()
	}
}

// shop is a merchant.
type shop struct {
	*process
	id       set.MerchantID
	endpoint *set.Endpoint
	capture  merchant.Capture
	server   *merchant.Merchant // that runs, or ran last
	store    *merchant.Store    // its
	url      string
}

// town is all parties of one sequence, on databases of their own.
type town struct {
	*people
	*network
	dir     string
	bank    *bank
	wire    *issuerWire
	gateway *process
	shops   []*shop
}

// terms are how orders may be paid.
var terms = []merchant.Terms{"", "split", "install 3", "recur 2 20301231"}

func (p *people) newTown(log func(string, ...any)) (_ *town, err error) {
	t := &town{people: p, network: newNetwork(log)}
	if t.dir, err = os.MkdirTemp(memory(), "money-"); err != nil {
		return nil, err
	}
	if t.bank, err = p.openBank(t.database("issuer", "issuer")); err != nil {
		return nil, err
	}
	t.gateway = &process{name: gatewayHost}
	t.wire = &issuerWire{t.network, t.bank, t.gateway}
	url := t.database("gateway", "gateway")
	t.gateway.open = func(ctx context.Context) (running, error) {
		db, err := gateway.OpenDB(ctx, url)
		if err != nil {
			return running{}, err
		}
		g, err := gateway.New(gateway.Config{
			Endpoint: p.acquirer, DB: db, Issuer: t.wire, Sealer: newSoftKey(), Acquirer: settest.AcquirerBIN, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			return running{}, err
		}
		return running{g.Handler(), g.Run, db}, nil
	}
	t.hosts[gatewayHost] = host{toGateway, t.gateway}
	for i := range p.merchants {
		t.addShop(i)
	}
	return t, t.startAll()
}

// rest waits until nobody does anything before time goes on, and then for a moment at which nobody else begins to:
// jobs are due in whole milliseconds.
func rest() {
	synctest.Wait()
	time.Sleep(1234567 * time.Nanosecond)
	chance.at(time.Now())
}

func (t *town) addShop(i int) {
	name := fmt.Sprintf("shop-%d", i+1)
	s := &shop{process: &process{name: name}, id: set.MerchantID(fmt.Sprintf("M-%04d", i+1)), endpoint: t.merchants[i], capture: captures[i]}
	url := t.database("merchant", name)
	s.url = "http://" + name
	g := t.acquirer
	s.open = func(ctx context.Context) (running, error) {
		store, err := merchant.OpenStore(ctx, url)
		if err != nil {
			return running{}, err
		}
		m, err := merchant.New(merchant.Config{
			Endpoint: s.endpoint, Store: store, BaseURL: s.url, Log: slog.New(slog.DiscardHandler), Capture: s.capture,
			Catalogue:     &merchant.Catalogue{Currency: "EUR", Items: []merchant.Item{{ID: "cent", Name: "Cent", Price: 1}, {ID: "book", Name: "Book", Price: 1000}}, Terms: terms[1:]},
			Gateways:      []merchant.Gateway{{Certificate: g.ExchangeCert, Chain: g.Chain, URL: "http://" + gatewayHost + "/"}},
			Client:        sethttp.Client{Timeout: 50 * time.Second, Tries: 2, Pause: 100 * time.Millisecond},
			AnswerTimeout: 5 * time.Second,
		})
		if err != nil {
			return running{}, errors.Join(err, store.Close())
		}
		s.server, s.store = m, store
		return running{m.Handler(), m.Run, store}, nil
	}
	t.hosts[name] = host{toMerchant, s.process}
	t.shops = append(t.shops, s)
}

// database gives the URL of a new database that is as an empty one.
func (t *town) database(empty, name string) string {
	file := filepath.Join(t.dir, name)
	if err := os.WriteFile(file, t.empty[empty], 0o600); err != nil {
		panic(err)
	}
	return "sqlite:" + file
}

// memory is a directory whose files are not written to a disk, where there is one.
func memory() string {
	const shm = "/dev/shm"
	if info, err := os.Stat(shm); err == nil && info.IsDir() {
		return shm
	}
	return os.TempDir()
}

// processes are those that can be stopped and started.
func (t *town) processes() []*process {
	all := []*process{t.gateway}
	for _, s := range t.shops {
		all = append(all, s.process)
	}
	return all
}

// startAll starts whoever is down.
func (t *town) startAll() error {
	var errs []error
	for _, p := range t.processes() {
		if p.handler() == nil {
			errs = append(errs, p.start())
			rest()
		}
	}
	return errors.Join(errs...)
}

// close ends the town.
func (t *town) close() {
	for _, s := range t.shops {
		s.process.stop()
	}
	if t.gateway != nil {
		t.gateway.stop()
	}
	if t.bank != nil && t.bank.close != nil {
		t.bank.visit(t.bank.close)
	}
	os.RemoveAll(t.dir)
}
