package web

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/wallet"
)

// request is a request of the person whose window it is.
type request struct {
	*http.Request
	language set.Language
	wallet   *wallet.Wallet
	version  int64 // of what the answer shows, at least
	form     form  // of a POST
}

// ServeHTTP serves the person and nobody else.
func (w *Window) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	secure(rw.Header())
	if err := w.guard.checkOrigin(r); err != nil {
		http.Error(rw, err.Error(), http.StatusForbidden)
		return
	}
	w.mux.ServeHTTP(rw, r)
}

func (w *Window) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /enter/{token}", w.enter)
	page := func(method, path string, serve func(http.ResponseWriter, *request)) {
		mux.HandleFunc(method+" "+w.guard.base+path, func(rw http.ResponseWriter, r *http.Request) { w.serve(rw, r, serve) })
	}
	page("GET", "{$}", w.home)
	page("GET", "task/{id}", w.showTask)
	page("POST", "task/{id}", w.answerTask)
	page("GET", "history", w.history)
	page("GET", "purchase/{xid}", w.purchase)
	page("POST", "purchase/{xid}", w.askMerchant)
	page("GET", "purchase/{xid}/saw", w.saw)
	page("GET", "purchase/{xid}/saw/{number}", w.sawMessage)
	page("GET", "purchase/{xid}/sequence.svg", w.sequence)
	page("GET", "cards", w.cards)
	page("POST", "enrol", w.enrol)
	page("POST", "renew", w.renew)
	page("POST", "install", w.install)
	page("POST", "pin", w.setPIN)
	page("GET", "settings", w.settings)
	page("POST", "quit", w.quit)
	page("GET", "help", w.help)
	page("GET", "events", w.events)
	page("GET", "logo/{bank}", w.logo)
	mux.HandleFunc("GET /assets/{name}", serveAsset)
	mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) {
		if w.guard.checkSession(r) {
			w.refuse(rw, r, http.StatusNotFound, "missing")
			return
		}
		w.refuse(rw, r, http.StatusForbidden, "stranger")
	})
	return mux
}

// serve wants the session, and the form token of what changes something.
func (w *Window) serve(rw http.ResponseWriter, r *http.Request, page func(http.ResponseWriter, *request)) {
	if !w.guard.checkSession(r) {
		w.refuse(rw, r, http.StatusForbidden, "stranger")
		return
	}
	language := languageOf(r)
	w.mu.Lock()
	req := &request{Request: r, language: language, wallet: w.cfg.Wallets[language], version: w.version}
	w.mu.Unlock()
	if r.Method == http.MethodPost {
		f, err := readForm(r)
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
			return
		}
		if !equal(f.text("csrf"), w.guard.csrf) {
			f.clear()
			http.Error(rw, errForeign.Error(), http.StatusForbidden)
			return
		}
		req.form = f
	}
	page(rw, req)
}

// enter takes a token and gives the cookie. The page goes on by itself: to a redirect from elsewhere the
// browser would not add the cookie.
func (w *Window) enter(rw http.ResponseWriter, r *http.Request) {
	to, ok := w.guard.redeem(r.PathValue("token"))
	if !ok {
		w.refuse(rw, r, http.StatusForbidden, "used")
		return
	}
	w.guard.setCookie(rw)
	w.render(rw, &request{Request: r, language: languageOf(r)}, http.StatusOK, "enter", w.guard.base+to)
}

// refuse shows a page to somebody who may be anybody.
func (w *Window) refuse(rw http.ResponseWriter, r *http.Request, status int, why string) {
	w.render(rw, &request{Request: r, language: languageOf(r)}, status, "refused", why)
}

func (w *Window) redirect(rw http.ResponseWriter, r *request, to string) {
	http.Redirect(rw, r.Request, w.guard.base+to, http.StatusSeeOther)
}

// failed shows that the wallet itself cannot answer.
func (w *Window) failed(rw http.ResponseWriter, r *request, err error) {
	w.render(rw, r, http.StatusInternalServerError, "broken", w.explain(err))
}

// homePage is what there is to do.
type homePage struct {
	Tasks     []snapshot
	Unknown   []*wallet.Purchase
	Purchases []*wallet.Purchase
	Cards     []cardView
	Readers   readersView
}

// recentMax is how many purchases the first page lists.
const recentMax = 5

func (w *Window) home(rw http.ResponseWriter, r *request) {
	purchases, err := r.wallet.Purchases(r.Context(), purchasesMax)
	if err != nil {
		w.failed(rw, r, err)
		return
	}
	var p homePage
	for _, x := range purchases {
		if x.Outcome == wallet.Unknown {
			p.Unknown = append(p.Unknown, x)
		}
	}
	p.Purchases = purchases[:min(len(purchases), recentMax)]
	w.mu.Lock()
	for _, t := range w.tasks {
		if s := t.snapshot(); s.State != over && s.Kind != "inquire" {
			p.Tasks = append(p.Tasks, s)
		}
	}
	w.mu.Unlock()
	if p.Cards, err = w.cardViews(r); err != nil {
		w.failed(rw, r, err)
		return
	}
	p.Readers = w.readersView(p.Cards)
	w.render(rw, r, http.StatusOK, "home", p)
}

// cardView is an enrolled card and where it is.
type cardView struct {
	*wallet.EnrolledCard
	Logo    string
	Reader  string // "" if it is in none
	Expired bool
	Ends    bool // soon
}

// endsWithin is how long before the end of a certificate the person is told.
const endsWithin = 60 * 24 * time.Hour

func viewOf(c *wallet.EnrolledCard) cardView {
	left := time.Until(c.Certificate.X509.NotAfter)
	return cardView{EnrolledCard: c, Expired: left < 0, Ends: left >= 0 && left < endsWithin}
}

func (w *Window) cardViews(r *request) ([]cardView, error) {
	cards, err := r.wallet.Cards(r.Context())
	if err != nil {
		return nil, err
	}
	readers, _, _ := w.cfg.Devices.Readers()
	var out []cardView
	for _, c := range cards {
		v := viewOf(c)
		v.Logo = w.bankLogo(r, c.Bank)
		for _, reader := range readers {
			if reader.Card && reader.Serial == c.Serial {
				v.Reader = reader.Name
			}
		}
		out = append(out, v)
	}
	return out, nil
}

// readersView is what is in the readers.
type readersView struct {
	Problem *Problem
	List    []readerView
}

type readerView struct {
	Reader
	Enrolled *cardView
}

func (w *Window) readersView(cards []cardView) readersView {
	readers, problem, _ := w.cfg.Devices.Readers()
	out := readersView{Problem: problem}
	for _, r := range readers {
		v := readerView{Reader: r}
		for i := range cards {
			if r.Card && r.Serial == cards[i].Serial {
				v.Enrolled = &cards[i]
				break
			}
		}
		out.List = append(out.List, v)
	}
	return out
}

type cardsPage struct {
	Cards   []cardView
	Readers readersView
	Brands  []bankBrand
	Waiting []wallet.Waiting
}

func (w *Window) cards(rw http.ResponseWriter, r *request) {
	cards, err := w.cardViews(r)
	if err != nil {
		w.failed(rw, r, err)
		return
	}
	offered, err := brands(r.Context(), r.wallet, "")
	if err != nil {
		w.failed(rw, r, err)
		return
	}
	waiting, err := r.wallet.Waiting(r.Context())
	if err != nil {
		w.failed(rw, r, err)
		return
	}
	w.render(rw, r, http.StatusOK, "cards", cardsPage{cards, w.readersView(cards), offered, waiting})
}

func (w *Window) enrol(rw http.ResponseWriter, r *request) {
	t := w.startEnrolment(r.form.text("start"), r.form.text("do") == "again", r.language)
	w.redirect(rw, r, "task/"+t.id)
}

func (w *Window) renew(rw http.ResponseWriter, r *request) {
	w.redirect(rw, r, "task/"+w.startRenewal(r.form.text("card"), r.language).id)
}

func (w *Window) install(rw http.ResponseWriter, r *request) {
	w.redirect(rw, r, "task/"+w.startInstall(r.language).id)
}

func (w *Window) setPIN(rw http.ResponseWriter, r *request) {
	kind := "pin"
	if r.form.text("do") == "puk" {
		kind = "puk"
	}
	w.redirect(rw, r, "task/"+w.startPIN(kind, r.language).id)
}

// taskPage is a task with what its step shows of the bank.
type taskPage struct {
	snapshot
	window *Window
	r      *request
}

// Gone says if the card that is to pay is in no reader, while the person reads the offer.
func (p taskPage) Gone() bool {
	o, ok := p.Data.(*offer)
	if !ok || p.Step != "offer" || p.Lost != nil {
		return false
	}
	readers, _, _ := p.window.cfg.Devices.Readers()
	return !slices.ContainsFunc(readers, func(r Reader) bool { return r.Card && (r.Serial == "" || r.Serial == o.Card.Serial) })
}

// Logo is where the logo of a bank is, or empty.
func (p taskPage) Logo(bank string) string { return p.window.bankLogo(p.r, bank) }

func (w *Window) showTask(rw http.ResponseWriter, r *request) {
	t := w.task(r.PathValue("id"))
	if t == nil {
		w.refuse(rw, r.Request, http.StatusNotFound, "missing")
		return
	}
	t.start(r.language)
	s := t.snapshot()
	if s.State == over && s.XID != (set.XID{}) {
		w.redirect(rw, r, "purchase/"+s.XID.String()+"?task="+t.id)
		return
	}
	w.render(rw, r, http.StatusOK, "task", taskPage{s, w, r})
}

func (w *Window) answerTask(rw http.ResponseWriter, r *request) {
	t := w.task(r.PathValue("id"))
	if t == nil {
		r.form.clear()
		w.redirect(rw, r, "")
		return
	}
	t.answer(r.form)
	w.redirect(rw, r, "task/"+t.id)
}

func (w *Window) history(rw http.ResponseWriter, r *request) {
	purchases, err := r.wallet.Purchases(r.Context(), purchasesMax)
	if err != nil {
		w.failed(rw, r, err)
		return
	}
	w.render(rw, r, http.StatusOK, "history", purchases)
}

// purchasePage is a receipt.
type purchasePage struct {
	*wallet.Purchase
	Logo   string
	Asking string          // the task that asks the merchant
	Shop   *set.Initiation // where the shop goes on, after a payment
}

// Back is where the shop goes on.
func (p purchasePage) Back() string {
	switch {
	case p.Shop == nil:
		return ""
	case p.Outcome == wallet.Approved:
		return p.Shop.SuccessURL
	case p.Outcome == wallet.Unknown:
		return ""
	}
	return p.Shop.FailureURL
}

func (w *Window) purchase(rw http.ResponseWriter, r *request) {
	var xid set.XID
	if err := xid.UnmarshalText([]byte(r.PathValue("xid"))); err != nil {
		w.refuse(rw, r.Request, http.StatusNotFound, "missing")
		return
	}
	p, err := r.wallet.Purchase(r.Context(), xid)
	if err != nil {
		w.refuse(rw, r.Request, http.StatusNotFound, "missing")
		return
	}
	page := purchasePage{Purchase: p, Logo: w.bankLogo(r, p.Card.Bank)}
	if t := w.task(r.URL.Query().Get("task")); t != nil {
		if s := t.snapshot(); s.XID == xid {
			page.Shop, p.Resumed = s.Shop, s.Resumed
		}
	}
	w.mu.Lock()
	for _, t := range w.tasks {
		if s := t.snapshot(); s.XID == xid && s.State == running {
			page.Asking = s.ID
		}
	}
	w.mu.Unlock()
	w.render(rw, r, http.StatusOK, "purchase", page)
}

func (w *Window) askMerchant(rw http.ResponseWriter, r *request) {
	var xid set.XID
	if err := xid.UnmarshalText([]byte(r.PathValue("xid"))); err != nil {
		w.redirect(rw, r, "history")
		return
	}
	t := w.inquire(xid, true)
	t.start(r.language)
	w.redirect(rw, r, "task/"+t.id)
}

type settingsPage struct {
	Dir        string
	LocalPeers bool
	Bundles    []*wallet.InstalledBundle
}

func (w *Window) settings(rw http.ResponseWriter, r *request) {
	bundles, err := r.wallet.Bundles(r.Context())
	if err != nil {
		w.failed(rw, r, err)
		return
	}
	w.render(rw, r, http.StatusOK, "settings", settingsPage{w.cfg.Dir, w.cfg.LocalPeers, bundles})
}

func (w *Window) quit(rw http.ResponseWriter, r *request) {
	w.render(rw, r, http.StatusOK, "refused", "closed")
	time.AfterFunc(goodbye, w.cfg.Quit)
}

// goodbye is how long the last page has to fetch its style.
const goodbye = time.Second

func (w *Window) help(rw http.ResponseWriter, r *request) {
	w.render(rw, r, http.StatusOK, "help", Topics())
}

func (w *Window) logo(rw http.ResponseWriter, r *request) {
	b := w.bundle(r, r.PathValue("bank"))
	if b == nil || b.Bank.Logo == nil {
		http.NotFound(rw, r.Request)
		return
	}
	rw.Header().Set("Content-Type", "image/png")
	rw.Write(b.Bank.Logo)
}

// keepAlive is how often something goes out to a page to which nothing has happened.
const keepAlive = 20 * time.Second

// events tells a page that something has changed, which then looks.
func (w *Window) events(rw http.ResponseWriter, r *request) {
	rw.Header().Set("Content-Type", "text/event-stream")
	w.look(1)
	defer w.look(-1)
	out := http.NewResponseController(rw)
	for {
		w.mu.Lock()
		version, changed := w.version, w.changed
		w.mu.Unlock()
		if _, err := fmt.Fprintf(rw, "data: %s %d\n\n", w.guard.proof, version); err != nil || out.Flush() != nil {
			return
		}
		select {
		case <-changed:
		case <-time.After(keepAlive):
		case <-r.Context().Done():
			return
		case <-w.ctx.Done():
			return
		}
	}
}

// look counts the open pages.
func (w *Window) look(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.viewers += n
	w.left = time.Now()
}

// assetKinds are the media types of the embedded files, which anybody may have.
var assetKinds = map[string]string{"style.css": "text/css; charset=utf-8", "live.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml"}

func serveAsset(rw http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	kind, ok := assetKinds[name]
	b, err := assets.ReadFile("assets/" + name)
	if !ok || err != nil {
		http.NotFound(rw, r)
		return
	}
	rw.Header().Set("Content-Type", kind)
	rw.Write(b)
}
