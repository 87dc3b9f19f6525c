// Package web is what people and other shops see of the merchant: the shop's pages, the back office and the API.
//
// The shop and the API are for everyone, at the merchant's base URL. The back office is a handler of its own,
// to be served at an address of its own: what the public side cannot reach, it cannot attack, and a cookie of one
// is never sent to the other.
//
// Pages load nothing from elsewhere, and need no script: the one that they have spares the customer reloads. They are in
// English or French, as the browser asks.
package web

import (
	"crypto/sha256"
	"embed"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/setkit/setkit/roles/merchant"
)

//go:embed pages
var files embed.FS

// formOctetsMax bounds the body of a form.
const formOctetsMax = 64 << 10

// refreshSeconds is how soon a page that waits for an outcome is asked for again.
const refreshSeconds = 2

// asset is a file that the pages load.
type asset struct {
	name, kind string
	body       []byte
}

var (
	style  = embedded("style.css", "text/css; charset=utf-8")
	script = embedded("live.js", "text/javascript; charset=utf-8")
)

func embedded(name, kind string) asset {
	body, err := files.ReadFile("pages/" + name)
	if err != nil {
		panic(err) // it is embedded
	}
	return asset{name, kind, body}
}

// address changes with the file, so that browsers may keep it.
func (a asset) address() string { return fmt.Sprintf("%s?%.4x", a.name, sha256.Sum256(a.body)) }

// view is what every page is made of.
type view struct {
	Title   string
	Here    string // the entry of the navigation
	Refresh int    // seconds; 0: not at all
	Data    any

	Lang, Name, Style, Script string // filled in by show

	Pieces int // in the basket

	Operator, CSRF string // of the back office
}

// message is a page that tells of something and leads back.
type message struct{ Text, Reason, Back string }

// pages writes the pages of one file in all languages.
type pages struct {
	name string // of the merchant
	base *url.URL
	log  *slog.Logger
	in   [languages]*template.Template
}

func newPages(file, name string, base *url.URL, log *slog.Logger) *pages {
	p := &pages{name: name, base: base, log: log}
	for l := range languages {
		p.in[l] = template.Must(template.New("").Funcs(template.FuncMap{
			"t": l.say, "url": p.url, "money": l.money, "sum": l.sum, "terms": l.terms,
			"when":   func(t any) string { return l.when(at(t)) },
			"state":  func(s merchant.OrderState) string { return l.say("state-" + string(s)) },
			"action": func(a any) string { return l.say("action-" + fmt.Sprint(a)) },
		}).ParseFS(files, "pages/"+file))
	}
	return p
}

// at takes a time or a pointer to one.
func at(t any) time.Time {
	if p, ok := t.(*time.Time); ok {
		return *p
	}
	return t.(time.Time)
}

// url makes an absolute address; of the first page without a path.
func (p *pages) url(path ...string) string {
	if len(path) == 0 {
		path = []string{"/"}
	}
	return p.base.JoinPath(path...).String()
}

// secure tells whether cookies can be kept to TLS.
func (p *pages) secure() bool { return p.base.Scheme == "https" }

// guard refuses what another site's page sends, and gives every answer the headers that keep a page to itself.
// The policy of referrers lets browsers say to this site itself that a form is from it.
func (p *pages) guard(next http.Handler, refused http.HandlerFunc) http.Handler {
	origin := http.NewCrossOriginProtection()
	if err := origin.AddTrustedOrigin(p.base.Scheme + "://" + p.base.Host); err != nil {
		panic(err) // the base URL was checked
	}
	origin.SetDenyHandler(refused)
	protected := origin.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "same-origin") // addresses of orders are secrets
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		r.Body = http.MaxBytesReader(w, r.Body, formOctetsMax)
		protected.ServeHTTP(w, r)
	})
}

func (p *pages) serveStyle(w http.ResponseWriter, _ *http.Request)  { p.serve(w, style) }
func (p *pages) serveScript(w http.ResponseWriter, _ *http.Request) { p.serve(w, script) }

func (p *pages) serve(w http.ResponseWriter, a asset) {
	w.Header().Set("Content-Type", a.kind)
	w.Header().Set("Cache-Control", "max-age=86400")
	p.write(w, a.body)
}

// show writes a page.
func (p *pages) show(w http.ResponseWriter, r *http.Request, status int, page string, v view) {
	l := languageOf(r)
	v.Lang, v.Name, v.Style, v.Script = l.String(), p.name, p.url()+style.address(), p.url()+script.address()
	var body strings.Builder
	if err := p.in[l].ExecuteTemplate(&body, page, v); err != nil {
		p.log.Error("cannot write a page", "page", page, "error", err)
		http.Error(w, "cannot answer now", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Vary", "Accept-Language")
	w.WriteHeader(status)
	p.write(w, []byte(body.String()))
}

// tell writes a page that says why something was not done. Its texts are key and key-text.
func (p *pages) tell(w http.ResponseWriter, r *http.Request, status int, key string, v view, reason string, back ...string) {
	l := languageOf(r)
	v.Title, v.Data = l.say(key), message{l.say(key + "-text"), reason, p.url(back...)}
	p.show(w, r, status, "message", v)
}

func (p *pages) write(w http.ResponseWriter, body []byte) {
	if _, err := w.Write(body); err != nil {
		p.log.Debug("the reader went away before the answer", "error", err)
	}
}

// unavailable tells that the database or the like cannot be used now.
func (p *pages) unavailable(w http.ResponseWriter, r *http.Request, v view, err error) {
	p.log.Error("cannot serve a page now", "error", err)
	w.Header().Set("Retry-After", "5")
	p.tell(w, r, http.StatusServiceUnavailable, "unavailable", v, "")
}

// row is a line of an order or a basket.
type row struct {
	Item, Name string
	Quantity   int64
	Each, Sum  merchant.Money
}

// rows prices lines in the currency of an amount.
func rows(lines []merchant.Line, like merchant.Money) (out []row) {
	for _, line := range lines {
		each, sum := like, like
		each.Minor, sum.Minor = line.Price, line.Price*line.Quantity
		out = append(out, row{line.Item, line.Name, line.Quantity, each, sum})
	}
	return out
}
