// Package web is the wallet's window: pages for the one person whose wallet it is, served to a browser on
// the same computer.
//
// # Who may look
//
// Whoever runs the window gives out addresses that are good once ([Window.Enter], [Window.Open]). The first
// request with one gets a cookie, and everything else wants that cookie. Host, Origin and Sec-Fetch-Site
// are checked on every request, so that no page of another site and of no other port gets an answer. A
// browser sends the cookies of 127.0.0.1 to every port of it, where another user's program may listen; so
// the cookie has a path that nobody else knows, below which all pages are.
//
// # What is done once
//
// A payment is a task, not a request: it goes on when the browser is closed, and its page shows how far
// it is. Each question of a task has a number that is good for one answer. A second click, an old page and
// a second tab come too late, and are shown what is true.
package web

import (
	"context"
	"crypto/sha256"
	"errors"
	"html/template"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/wallet"
)

// Languages are those that the window speaks.
func Languages() []set.Language { return []set.Language{"en", "fr"} }

// Config is what a window works with.
type Config struct {
	// Wallets are the wallet, opened once for each of Languages.
	Wallets map[set.Language]*wallet.Wallet
	Devices Devices
	// Download gets the file of a bank's wallet bundle.
	Download func(ctx context.Context, url string) ([]byte, error)
	// Explain says what an error means to the person.
	Explain func(error) Problem
	// Look prepares to show who saw what of a purchase, in a language. The page of all is at home, that of a
	// message at what link gives for its number, which counts from 1.
	Look func(l set.Language, p *wallet.Purchase, messages []wallet.Message, home string, link func(number int) string) (Sight, error)
	// LocalPeers says that shops and CAs may be on this computer, as in a laboratory.
	LocalPeers bool
	// Dir is where the wallet is, to be shown.
	Dir string
	// Quit ends the program that shows the window.
	Quit func()
}

// Devices are the readers of this computer and the smart cards in them.
type Devices interface {
	// Readers gives the readers, or the problem with all of them, and a channel that is closed at the
	// next change.
	Readers() ([]Reader, *Problem, <-chan struct{})
	// Connect connects to the first of these enrolled cards that is in a reader. If none is, or no reader
	// can be asked, the error wraps ErrNotThere.
	Connect(ctx context.Context, cards []*wallet.EnrolledCard, p Person) (*wallet.EnrolledCard, Card, error)
	// ConnectReader connects to the card in a reader, whatever card it is. See Connect.
	ConnectReader(ctx context.Context, reader string, p Person) (Card, error)
	// SetPIN gives the card in a reader a new PIN, whatever card it is: with its present one or, to unblock
	// it, with the PUK. Both are entered on the reader where that has keys. It gives the card's number.
	// See Connect.
	SetPIN(ctx context.Context, reader string, unblock bool, p Person) (serial string, err error)
}

// Sight shows who saw what of a purchase. Its HTML has no script and nothing from elsewhere.
type Sight interface {
	// Overview tells what each party saw, and what signed it. picture is put where the sequence belongs.
	Overview(picture template.HTML) (template.HTML, error)
	// Opened shows a message with every field; false if there is none of that number.
	Opened(number int) (part template.HTML, found bool, err error)
	// SVG draws the sequence.
	SVG(w io.Writer) error
}

// ErrNotThere tells that a card must be inserted first.
var ErrNotThere = errors.New("the card is not there")

// Reader is a reader and what is in it.
type Reader struct {
	Name    string
	Card    bool
	Serial  string   // of the card, once it has said it
	Problem *Problem // why it has not
}

// Card is a smart card that a task uses.
type Card interface {
	wallet.Card
	TriesLeft() int // of the PIN, or -1
	Keypad() bool   // the PIN is entered on the reader
	Close()
}

// Person is the one before the window, for the devices.
type Person interface {
	// PIN asks for the PIN of a card. Who calls it clears the slice.
	PIN(ctx context.Context, serial string, triesLeft int) ([]byte, error)
	// NewPIN asks for what proves the right to set a PIN, which has so many tries left or -1, and for the
	// new PIN. Who calls it clears both.
	NewPIN(ctx context.Context, serial string, triesLeft int) (proof, pin []byte, err error)
	// Pad says that the PIN is now to be entered on the reader's keypad.
	Pad(serial string)
	// LastTry asks whether the last try, of PIN or PUK, may be used.
	LastTry(ctx context.Context, serial string) error
	// Lost says that the card is waited for; nil that it is back.
	Lost(*Problem)
	// Notice says something else about a card.
	Notice(Problem)
}

// Topic names what may be wrong. The help page has each of them.
type Topic string

// Problem is what is wrong, for the person.
type Problem struct {
	Topic  Topic
	Tries  int    // left, with TopicWrongPIN
	Detail string // of the error, in English
}

// taskMax bounds the tasks that are remembered. The oldest that is over makes room.
const taskMax = 100

// Window serves the pages.
type Window struct {
	cfg   Config
	pages map[string]*template.Template // by language and name
	guard *guard
	mux   *http.ServeMux
	ctx   context.Context // of the tasks
	stop  context.CancelFunc
	work  sync.WaitGroup

	mu      sync.Mutex
	tasks   []*task
	version int64
	changed chan struct{} // closed at the next change
	viewers int           // pages that are open
	left    time.Time     // when the last one went
}

// New makes a window that is reached at hosts, "127.0.0.1:8123" and the like; the first is the one that
// is given out.
func New(cfg Config, hosts ...string) (*Window, error) {
	pages, err := parsePages()
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	w := &Window{cfg: cfg, pages: pages, guard: newGuard(hosts), ctx: ctx, stop: stop, changed: make(chan struct{}), left: time.Now()}
	w.mux = w.routes()
	go w.watch()
	if err := w.settleAll(); err != nil {
		stop()
		return nil, err
	}
	return w, nil
}

// Close cancels what is being asked, and waits for what is being done.
func (w *Window) Close() {
	w.stop()
	w.work.Wait()
}

// Enter gives an address that opens the first page, once.
func (w *Window) Enter() string { return w.guard.admit("") }

// Open gives an address that opens, once, what a shop's or CA's initiation message asks for. A message
// that is refused opens a page that says why. The same message gives the same task while that runs.
func (w *Window) Open(message []byte) string {
	t := w.taskOf(sha256.Sum256(message), func(t *task) { w.wake(t, message) })
	return w.guard.admit("task/" + t.id)
}

// Idle is since when nobody has looked and nothing was done; false if somebody does or something is. What
// waits for an answer and could be cancelled is not being done.
func (w *Window) Idle() (time.Time, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	busy := w.viewers > 0 || slices.ContainsFunc(w.tasks, (*task).busy)
	return w.left, !busy
}

// bump tells every open page that something has changed.
func (w *Window) bump() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.version++
	close(w.changed)
	w.changed = make(chan struct{})
}

// watch passes the changes of the devices on.
func (w *Window) watch() {
	for {
		_, _, changed := w.cfg.Devices.Readers()
		select {
		case <-changed:
			w.bump()
		case <-w.ctx.Done():
			return
		}
	}
}

// settleAll asks the merchants about the purchases whose outcome an earlier run has not learnt.
func (w *Window) settleAll() error {
	language := Languages()[0]
	purchases, err := w.cfg.Wallets[language].Purchases(w.ctx, purchasesMax)
	if err != nil {
		return err
	}
	for _, p := range purchases {
		if p.Outcome == wallet.Unknown {
			w.inquire(p.XID, false).start(language)
		}
	}
	return nil
}

// purchasesMax is how many purchases are listed.
const purchasesMax = 1000

// bankLogo is where the logo of a card is; empty without one.
func (w *Window) bankLogo(r *request, bank string) string {
	if b := w.bundle(r, bank); b != nil && b.Bank.Logo != nil {
		return w.guard.base + "logo/" + b.Signer.String()
	}
	return ""
}

// bundle finds the installed bundle of a bank, by its name or its signer; nil if there is none.
func (w *Window) bundle(r *request, bank string) *wallet.InstalledBundle {
	list, err := r.wallet.Bundles(r.Context())
	if err != nil {
		return nil // a page without a logo is better than none
	}
	i := slices.IndexFunc(list, func(b *wallet.InstalledBundle) bool {
		return strings.EqualFold(string(b.Bank.Name), bank) || b.Signer.String() == bank
	})
	if bank == "" || i < 0 {
		return nil
	}
	return list[i]
}
