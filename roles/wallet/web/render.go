package web

import (
	"bytes"
	"crypto/rand"
	"embed"
	"fmt"
	"html/template"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/text/language"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/wallet"
)

//go:embed assets
var assets embed.FS

//go:embed pages
var pageFiles embed.FS

var pageNames = []string{"home", "task", "history", "purchase", "saw", "cards", "settings", "help", "enter", "refused", "broken"}

// languageTags has the tag of each of Languages, in their order.
var languageTags = []language.Tag{language.English, language.French}

var matcher = language.NewMatcher(languageTags)

// languageOf gives the language that a browser prefers.
func languageOf(r *http.Request) set.Language {
	_, i := language.MatchStrings(matcher, r.Header.Get("Accept-Language"))
	return Languages()[i]
}

// parsePages parses every page in every language.
func parsePages() (map[string]*template.Template, error) {
	out := make(map[string]*template.Template)
	for _, l := range Languages() {
		common, err := template.New("layout.html").Funcs(functions(l)).ParseFS(pageFiles, "pages/layout.html", "pages/parts.html")
		if err != nil {
			return nil, err
		}
		for _, name := range pageNames {
			t, err := common.Clone()
			if err == nil {
				t, err = t.ParseFS(pageFiles, "pages/"+name+".html")
			}
			if err != nil {
				return nil, err
			}
			out[string(l)+"/"+name] = t
		}
	}
	return out, nil
}

// functions are those of the pages in a language.
func functions(l set.Language) template.FuncMap {
	return template.FuncMap{
		"t":       func(key string, args ...any) (string, error) { return say(l, key, args...) },
		"help":    func(topic Topic) Advice { return advice[topic].in(l) },
		"outcome": func(o wallet.Outcome) (string, error) { return say(l, "outcome-"+string(o)) },
		"day": func(t time.Time) string {
			if l == "fr" {
				return t.Local().Format("02.01.2006")
			}
			return t.Local().Format("2 Jan 2006")
		},
		"moment": func(t time.Time) string {
			if l == "fr" {
				return t.Local().Format("02.01.2006 15:04")
			}
			return t.Local().Format("2 Jan 2006, 15:04")
		},
		"amount": func(a set.CurrencyAmount) string {
			if l == "fr" {
				return strings.Replace(a.String(), ".", ",", 1)
			}
			return a.String()
		},
		"holder":  holder,
		"issuer":  issuer,
		"serial":  func(c *pki.Certificate) string { return c.Serial() },
		"host":    func(address string) string { u, err := url.Parse(address); _ = err; return u.Hostname() },
		"isPlain": func(kind string) bool { k, _, err := mime.ParseMediaType(kind); return err == nil && k == "text/plain" },
		"add":     func(a, b int) int { return a + b },
		"count":   func(n *set.InstallTotalTrans) int64 { return int64(*n) },
		"fresh":   rand.Text,
		"grouped": grouped,
		"stages": func() []string {
			return []string{"stage-card", "stage-offer", "stage-consent", "stage-sign", "stage-send"}
		},
		"months": func() []string { return strings.Fields("01 02 03 04 05 06 07 08 09 10 11 12") },
	}
}

// grouped writes hexadecimal digits in groups, as the bank's letter has them.
func grouped(d pki.Digest) string {
	var groups []string
	for four := range slices.Chunk([]byte(d.String()), 4) {
		groups = append(groups, string(four))
	}
	return strings.Join(groups, " ")
}

// holder names the holder of a certificate.
func holder(c *pki.Certificate) string {
	return strings.ReplaceAll(wallet.Printable([]byte(c.Subject.CommonName)), "\n", " ")
}

// issuer names who gave a certificate out.
func issuer(c *pki.Certificate) string {
	name := c.X509.Issuer
	var parts []string
	for _, list := range [][]string{{name.CommonName}, name.OrganizationalUnit, name.Organization} {
		for _, s := range list {
			if s != "" {
				parts = append(parts, wallet.Printable([]byte(s)))
			}
		}
	}
	return strings.ReplaceAll(strings.Join(parts, ", "), "\n", " ")
}

// page is what the layout shows around the data of a page.
type page struct {
	Name     string
	Language set.Language
	Base     string // "" for a stranger
	CSRF     string
	Proof    string // that an event is the window's
	Version  int64
	Data     any
}

// render answers with a page, whole or not at all.
func (w *Window) render(rw http.ResponseWriter, r *request, status int, name string, data any) {
	p := page{Name: name, Language: r.language, Data: data}
	if r.wallet != nil {
		p.Base, p.CSRF, p.Proof, p.Version = w.guard.base, w.guard.csrf, w.guard.proof, r.version
	}
	var out bytes.Buffer
	if err := w.pages[string(r.language)+"/"+name].ExecuteTemplate(&out, "layout.html", p); err != nil {
		http.Error(rw, fmt.Sprintf("page %s: %v", name, err), http.StatusInternalServerError)
		return
	}
	rw.Header().Set("Content-Type", "text/html; charset=utf-8")
	rw.WriteHeader(status)
	rw.Write(out.Bytes())
}
