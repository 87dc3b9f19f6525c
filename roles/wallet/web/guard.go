package web

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	cookieName = "set-wallet"
	tokenLife  = 5 * time.Minute // between giving an address out and its use
	tokensMax  = 50
)

// guard decides whose requests are served.
type guard struct {
	hosts   []string
	base    string // secret path of every page, with a slash at either end
	session string
	csrf    string
	proof   string // that an event is the window's

	mu     sync.Mutex
	tokens []token
}

// token is good for one entry.
type token struct {
	secret string
	to     string // path below base
	until  time.Time
}

func newGuard(hosts []string) *guard {
	return &guard{hosts: hosts, base: "/" + rand.Text() + "/", session: rand.Text(), csrf: rand.Text(), proof: rand.Text()}
}

// admit gives an address that opens a page once.
func (g *guard) admit(to string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.tokens) == tokensMax {
		g.tokens = g.tokens[1:]
	}
	t := token{rand.Text(), to, time.Now().Add(tokenLife)}
	g.tokens = append(g.tokens, t)
	return "http://" + g.hosts[0] + "/enter/" + t.secret
}

// redeem uses a token up.
func (g *guard) redeem(secret string) (to string, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, t := range g.tokens {
		if equal(t.secret, secret) {
			g.tokens = append(g.tokens[:i:i], g.tokens[i+1:]...)
			return t.to, time.Now().Before(t.until)
		}
	}
	return "", false
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// errForeign is every way in which a request can be another's.
var errForeign = errors.New("this request does not come from the wallet's own pages")

// checkOrigin refuses what comes under another name, as after DNS rebinding, and what another site or
// another port's page has sent. A page is entered from anywhere: there the token decides.
func (g *guard) checkOrigin(r *http.Request) error {
	known := false
	for _, h := range g.hosts {
		known = known || r.Host == h
	}
	if !known {
		return errForeign
	}
	if strings.HasPrefix(r.URL.Path, "/enter/") {
		return nil
	}
	if origin, ok := r.Header["Origin"]; ok && (len(origin) != 1 || origin[0] != "http://"+r.Host) {
		return errForeign
	}
	switch site := r.Header.Get("Sec-Fetch-Site"); {
	case site == "same-origin":
	case (site == "none" || site == "") && r.Method == http.MethodGet: // typed by the person; or an old browser
	case site == "" && r.Header.Get("Origin") != "":
	default:
		return errForeign
	}
	return nil
}

// checkSession wants the cookie.
func (g *guard) checkSession(r *http.Request) bool {
	if !strings.HasPrefix(r.URL.Path, g.base) {
		return false
	}
	for _, c := range r.CookiesNamed(cookieName) {
		if equal(c.Value, g.session) {
			return true
		}
	}
	return false
}

func (g *guard) setCookie(w http.ResponseWriter) {
	http.SetCookie(w, &http.Cookie{Name: cookieName, Value: g.session, Path: g.base, HttpOnly: true, SameSite: http.SameSiteStrictMode})
}

// policy lets a page use nothing but its own style, script and images, and be framed by nobody.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// secure sets the headers of every answer. A referrer is given to the window's own pages only: without any
// a browser would not name the origin of a form.
func secure(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
}
