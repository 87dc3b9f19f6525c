package web

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/bundle"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/wallet"
)

var verb = regexp.MustCompile(`%[a-z]`)

// sameText has the texts that French and English share.
var sameText = []string{"nav", "stage-sign", "receipt-date", "receipt-xid", "history-date"}

// Every text is there in both languages, says the same things, and is used.
func TestTextsAreComplete(t *testing.T) {
	t.Parallel()
	var pages strings.Builder
	err := fs.WalkDir(pageFiles, "pages", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			var b []byte
			b, err = pageFiles.ReadFile(path)
			pages.Write(b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	all := pages.String()
	for key, w := range texts {
		if w.en == "" || w.fr == "" || w.en == w.fr && !slices.Contains(sameText, key) {
			t.Errorf("%s: English %q, French %q", key, w.en, w.fr)
		}
		if diff := cmp.Diff(verb.FindAllString(w.en, -1), verb.FindAllString(w.fr, -1)); diff != "" {
			t.Errorf("%s: %s", key, diff)
		}
		built := slices.ContainsFunc([]string{"outcome-", "receipt-", "result-", "refused-", "stage-", "title-", "cancelled-", "insert-", "installed-"}, func(p string) bool { return strings.HasPrefix(key, p) })
		if !built && !strings.Contains(all, `t "`+key+`"`) {
			t.Errorf("no page uses %s", key)
		}
	}
	for _, m := range regexp.MustCompile(`\bt "([a-z-]+)"`).FindAllStringSubmatch(all, -1) {
		if _, ok := texts[m[1]]; !ok {
			t.Errorf("there is no text %q", m[1])
		}
	}
	for _, a := range adviceTexts {
		for _, w := range []words{a.title, a.do} {
			if w.en == "" || w.fr == "" || w.en == w.fr {
				t.Errorf("%s: English %q, French %q", a.topic, w.en, w.fr)
			}
		}
	}
	if len(advice) != len(adviceTexts) {
		t.Error("a topic has two texts")
	}
}

var (
	action    = regexp.MustCompile(`{{.*?}}`)
	tag       = regexp.MustCompile(`(?s)<[^>]*>`)
	shownText = regexp.MustCompile(`\s(?:alt|title|aria-label|placeholder|label)="([^"]*)"`)
	letters   = regexp.MustCompile(`\pL{2,}`)
)

// No page has words of its own: every one comes from the texts, which are there in both languages.
func TestPagesHaveNoWords(t *testing.T) {
	t.Parallel()
	files, err := fs.Glob(pageFiles, "pages/*.html")
	if err != nil || len(files) != len(pageNames)+2 {
		t.Fatalf("%d pages, %v", len(files), err)
	}
	for _, name := range files {
		b, err := pageFiles.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text := action.ReplaceAllString(string(b), "")
		for _, m := range shownText.FindAllStringSubmatch(text, -1) {
			if letters.MatchString(m[1]) {
				t.Errorf("%s: an attribute says %q", name, m[1])
			}
		}
		if words := letters.FindAllString(tag.ReplaceAllString(text, " "), -1); words != nil {
			t.Errorf("%s: the page says %q", name, words)
		}
	}
}

// A window in which nobody looks is idle, unless a task does something. One that waits for a person who may as well cancel
// does not.
func TestIdle(t *testing.T) {
	t.Parallel()
	w := &Window{ctx: t.Context(), changed: make(chan struct{}), left: time.Now()}
	idle := func() bool {
		_, idle := w.Idle()
		return idle
	}
	asked, done := make(chan struct{}), make(chan struct{})
	one := w.taskOf([32]byte{1}, func(one *task) {
		one.kind, one.run = "pay", func(ctx context.Context, one *task) {
			one.show(view{Step: "working"})
			<-asked
			f, err := one.ask(ctx, view{Step: "offer", Cancel: true})
			f.clear()
			if err == nil {
				<-done
			}
		}
	})
	if !idle() {
		t.Error("a task that nobody has begun keeps the window")
	}
	one.start("en")
	if idle() {
		t.Error("a task that works does not keep the window")
	}
	close(asked)
	for one.snapshot().Step != "offer" {
		time.Sleep(time.Millisecond)
	}
	if !idle() {
		t.Error("a question keeps the window")
	}
	w.look(1)
	if idle() {
		t.Error("somebody looks")
	}
	w.look(-1)
	one.answer(form{"do": []byte("go"), "nonce": []byte(one.snapshot().Nonce)})
	if idle() {
		t.Error("what was agreed to does not keep the window")
	}
	close(done)
	w.work.Wait()
	if !idle() {
		t.Error("what is over keeps the window")
	}
}

// A certificate that ends soon is said to, in time.
func TestCertificateEnds(t *testing.T) {
	t.Parallel()
	pages, err := parsePages()
	if err != nil {
		t.Fatal(err)
	}
	for left, want := range map[time.Duration]string{-time.Hour: "certificate expired", time.Hour: "certificate ends on", endsWithin + time.Hour: "valid until"} {
		c := &wallet.EnrolledCard{Last4: "1111", Certificate: &pki.Certificate{X509: &x509.Certificate{NotAfter: time.Now().Add(left)}}}
		v := viewOf(c)
		var out bytes.Buffer
		err := pages["en/cards"].ExecuteTemplate(&out, "layout.html", page{Name: "cards", Language: "en", Base: "/", Data: cardsPage{Cards: []cardView{v}}})
		if err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%v before its end, %v: want %q in %s", left, err, want, out.String())
		}
		out.Reset()
		err = pages["en/home"].ExecuteTemplate(&out, "layout.html", page{Name: "home", Language: "en", Base: "/", Data: homePage{Cards: []cardView{v}}})
		if err != nil || strings.Contains(out.String(), "A certificate ends soon") != v.Ends {
			t.Errorf("%v before its end, %v: %s", left, err, out.String())
		}
	}
}

// What is agreed for later is said in whole words.
func TestTerms(t *testing.T) {
	t.Parallel()
	pages, err := parsePages()
	if err != nil {
		t.Fatal(err)
	}
	end := time.Date(2030, 12, 31, 0, 0, 0, 0, time.UTC)
	again := func(days set.RecurringFrequency) set.InstallRecurInd {
		return set.InstallRecurInd{Recurring: &set.Recurring{RecurringFrequency: days, RecurringExpiry: end}}
	}
	instalments := set.InstallTotalTrans(5)
	for want, terms := range map[string]set.InstallRecurInd{
		"in at most 5 instalments":                        {InstallTotalTrans: &instalments},
		"again, at most every day, until 31 Dec 2030":     again(1),
		"again, at most every 28 days, until 31 Dec 2030": again(28),
	} {
		var out bytes.Buffer
		err := pages["en/purchase"].ExecuteTemplate(&out, "terms", &set.InstallRecurData{InstallRecurInd: terms})
		if err != nil || out.String() != want {
			t.Errorf("%q, %v, want %q", out.String(), err, want)
		}
	}
}

func TestLanguage(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]set.Language{
		"": "en", "fr": "fr", "fr-CH,fr;q=0.9,en;q=0.8": "fr", "de,fr;q=0.5,en;q=0.4": "fr", "en;q=0.2,fr;q=0.1": "en", "ja": "en", ";;;": "en",
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Accept-Language", header)
		if got := languageOf(r); got != want {
			t.Errorf("%q: %s, want %s", header, got, want)
		}
	}
}

// What stands in a page of a stranger's, whatever it is, is text.
func TestPagesEscape(t *testing.T) {
	t.Parallel()
	pages, err := parsePages()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	const script = `"><script>alert(1)</script>`
	err = pages["en/broken"].ExecuteTemplate(&out, "layout.html", page{Name: "broken", Language: "en", Data: Problem{Detail: script}})
	if err != nil || strings.Contains(out.String(), "<script>alert") || !strings.Contains(out.String(), template.HTMLEscapeString(script)) {
		t.Errorf("%v: %s", err, out.String())
	}
}

func TestLocal(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.8.0.1": true, "::1": true, "0.0.0.0": true, "::": true, "::ffff:127.0.0.1": true, "::ffff:0.0.0.0": true, "169.254.169.254": true, "fe80::1": true,
		"localhost": true, "LOCALHOST.": true, "shop.localhost": true, "127.1": true, "2130706433": true, "0x7f000001": true, "0177.0.0.1": true, "224.0.0.1": true, "": true,
		"shop.example": false, "cafe.de": false, "192.168.1.5": false, "10.0.0.1": false, "93.184.216.34": false, "2001:db8::1": false, "1und1.example": false,
	} {
		if got := local(host); got != want {
			t.Errorf("%q: %v, want %v", host, got, want)
		}
	}
	if Local(netip.MustParseAddr("192.168.1.5")) {
		t.Error("a shop may be in the same house")
	}
}

// An address is good once, for a while, and as long as there are not too many.
func TestTokens(t *testing.T) {
	t.Parallel()
	g := newGuard([]string{"127.0.0.1:1"})
	secret := func(address string) string { return strings.TrimPrefix(address, "http://127.0.0.1:1/enter/") }
	late := secret(g.admit("late"))
	g.tokens[0].until = time.Now()
	if _, ok := g.redeem(late); ok {
		t.Error("an old address is good")
	}
	first, second := secret(g.admit("first")), secret(g.admit("second"))
	for range tokensMax - 1 {
		g.admit("")
	}
	if _, ok := g.redeem(first); ok {
		t.Error("more addresses are good than are remembered")
	}
	if to, ok := g.redeem(second); !ok || to != "second" {
		t.Errorf("got %q, %v", to, ok)
	}
	if _, ok := g.redeem(second); ok {
		t.Error("an address is good twice")
	}
}

func TestForm(t *testing.T) {
	t.Parallel()
	body := []byte("pin=12%334+5&a=%C3%A9&empty=&bare")
	f, err := parseForm(body)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for k, v := range f {
		got[k] = string(v)
	}
	if diff := cmp.Diff(map[string]string{"pin": "1234 5", "a": "é", "empty": "", "bare": ""}, got); diff != "" {
		t.Error(diff)
	}
	pin := f.take("pin")
	f.clear()
	if string(pin) != "1234 5" || bytes.Contains(body, []byte("12")) {
		t.Errorf("taken %q, left %q", pin, body)
	}
	var many []string
	for i := range formFieldsMax + 1 {
		many = append(many, fmt.Sprintf("f%d=", i))
	}
	for _, bad := range []string{"a=%", "a=%4", "a=%zz", "%g0=1", "a=%\x10\x10", "a=1&a=2", strings.Join(many, "&")} {
		if _, err := parseForm([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func FuzzForm(f *testing.F) {
	f.Add([]byte("csrf=ABC&nonce=DEF&pin=123456&do=go"))
	f.Add([]byte("a=%C3%A9+b&%=%"))
	f.Fuzz(func(t *testing.T, body []byte) {
		sum := 0
		got, err := parseForm(bytes.Clone(body))
		for k, v := range got {
			sum += len(k) + len(v)
		}
		if sum > len(body) || err == nil && len(got) > formFieldsMax {
			t.Errorf("%d octets out of %d in %d fields", sum, len(body), len(got))
		}
	})
}

func FuzzParts(f *testing.F) {
	f.Add([]byte("--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"b\"\r\n\r\n0\x00\r\n--x--\r\n"))
	f.Add([]byte("--x\r\nContent-Disposition: form-data; name=\"csrf\"\r\n\r\nABC\r\n--x\r\n\r\n--x--"))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := readParts(bytes.NewReader(body), "x")
		for name, v := range got {
			if len(v) > formOctetsMax && name != fileField || len(v) > bundle.SizeMax+1 {
				t.Errorf("%d octets in %q", len(v), name)
			}
		}
		if err == nil && len(got) > formFieldsMax {
			t.Errorf("%d fields", len(got))
		}
	})
}

// A file that is too big for a bundle is kept so far that it is seen to be; a form that is no form is refused.
func TestUpload(t *testing.T) {
	t.Parallel()
	part := func(name string, size int) string {
		return "--x\r\nContent-Disposition: form-data; name=\"" + name + "\"\r\n\r\n" + strings.Repeat("a", size) + "\r\n"
	}
	f, err := readParts(strings.NewReader(part("file", 2*bundle.SizeMax)+part("csrf", 26)+"--x--\r\n"), "x")
	if err != nil || len(f[fileField]) != bundle.SizeMax+1 || len(f["csrf"]) != 26 {
		t.Errorf("%d octets of the file, %d of the token, %v", len(f[fileField]), len(f["csrf"]), err)
	}
	for name, body := range map[string]string{
		"twice": part("a", 1) + part("a", 1) + "--x--\r\n", "cut off": part("a", 1), "too much": part("file", uploadOctetsMax) + "--x--\r\n", "not parts": "csrf=1",
		"long": part("url", formOctetsMax) + "--x--\r\n",
	} {
		if _, err := readParts(strings.NewReader(body), "x"); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
