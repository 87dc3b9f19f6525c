package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp/kb"
	"golang.org/x/net/html"

	"github.com/setkit/setkit/cmd/internal/browsertest"
)

// recordedLab is a lab with nothing but the recording that the project keeps.
func recordedLab(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, traceDir), os.DirFS("../../testdata/trace/recording")); err != nil {
		t.Fatal(err)
	}
	return dir
}

const siteAddr = "127.0.0.1:8099"

// get asks the site as a browser does.
func get(t *testing.T, site http.Handler, path string) (status int, body string, h http.Header) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "http://"+siteAddr+"/", nil)
	r.URL.Path = path
	w := httptest.NewRecorder()
	site.ServeHTTP(w, r)
	b, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, string(b), w.Result().Header
}

func mustGet(t *testing.T, site http.Handler, path string) string {
	t.Helper()
	status, body, _ := get(t, site, path)
	if status != http.StatusOK {
		t.Fatalf("%s: status %d\n%s", path, status, body)
	}
	return body
}

// tables gives the tables of a page, by rows and cells, as their text.
func tables(t *testing.T, page string) (all [][][]string) {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	for n := range root.Descendants() {
		switch n.Data {
		case "table":
			all = append(all, nil)
		case "tr":
			all[len(all)-1] = append(all[len(all)-1], nil)
		case "th", "td":
			rows := all[len(all)-1]
			rows[len(rows)-1] = append(rows[len(rows)-1], textOf(n))
		}
	}
	return all
}

func textOf(n *html.Node) string {
	var words []string
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			words = append(words, strings.Fields(d.Data)...)
		}
	}
	return strings.Join(words, " ")
}

func TestSiteList(t *testing.T) {
	t.Parallel()
	list := tables(t, mustGet(t, newSite(recordedLab(t), siteAddr), "/"))
	if len(list) != 1 || len(list[0]) != 6 {
		t.Fatalf("the list: %q", list)
	}
	want := []string{"2026-11-25 22:31:24 UTC", "purchase", "36.50 USD", "approved, collected", "13", "1ac95f668a29"}
	if !slices.Equal(list[0][1], want) {
		t.Errorf("the latest: %q, want %q", list[0][1], want)
	}
}

// The page of a purchase says who saw what, in the words of a person.
func TestSiteWhoSawWhat(t *testing.T) {
	t.Parallel()
	page := mustGet(t, newSite(recordedLab(t), siteAddr), "/transaction/17")
	saw := tables(t, page)[0]
	if want := []string{"What", "Wallet", "Merchant", "Gateway", "Issuer, the bank"}; !slices.Equal(saw[0], want) {
		t.Fatalf("columns %q, want %q", saw[0], want)
	}
	cells := map[string][]string{}
	for _, row := range saw[1:] {
		cells[row[0]] = nil
		for _, cell := range row[1:] {
			cells[row[0]] = append(cells[row[0]], strings.TrimLeft(regexp.MustCompile(` in [0-9 ,]+`).ReplaceAllString(cell, ";"), "●#■– "))
		}
	}
	for row, want := range map[string][]string{
		"Order what is bought, in words":                                    {"read;", "read;", "digest only;", "never there"},
		"Card number all of its digits":                                     {"read;", "digest only;■ encrypted for the gateway;", "read;", "read;"},
		"Gateway's certificate itself, or its thumbprint where it is known": {"read;", "read;", "read;", "never there"},
	} {
		if !slices.Equal(cells[row], want) {
			t.Errorf("%s: %q, want %q", row, cells[row], want)
		}
	}
	if n := strings.Count(page, "<li>&#10003;"); n != 5 || strings.Contains(page, `class="broken"`) {
		t.Errorf("%d promises are kept", n)
	}
	for _, want := range []string{"<svg", "card, key 9C", "HSM token of the merchant", "HSM token of the gateway", "ee2eb66508f28f0f86c68d5c3fa0bee9"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %s", want)
		}
	}
}

// A recording in which the gateway is told the order is shown as that.
func TestSiteShowsBrokenPromise(t *testing.T) {
	t.Parallel()
	dir := recordedLab(t)
	file := filepath.Join(dir, traceDir, "021-merchant-gateway.der")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(b, "1 x Atlas of the Northern Harbours"...), 0o600); err != nil {
		t.Fatal(err)
	}
	page := mustGet(t, newSite(dir, siteAddr), "/transaction/17")
	if !strings.Contains(page, `<li class="broken">&#10007; The gateway could read the order`) || !strings.Contains(tables(t, page)[0][1][3], "read in 21") {
		t.Errorf("the gateway reads the order, and the page says:\n%s", tables(t, page)[0][1])
	}
}

// From the first message to the last by the links, every field of each, and back.
func TestSiteSteps(t *testing.T) {
	t.Parallel()
	site := newSite(recordedLab(t), siteAddr)
	next, prev := regexp.MustCompile(`href="(/message/\d+)" rel="next"`), regexp.MustCompile(`href="(/message/\d+)" rel="prev"`)
	path, back := "/message/17", ""
	for n := 1; ; n++ {
		page := mustGet(t, site, path)
		if m := prev.FindStringSubmatch(page); n > 1 && (m == nil || m[1] != back) || n == 1 && m != nil {
			t.Errorf("%s: the one before is %q, want %s", path, m, back)
		}
		if !strings.Contains(page, "<details open") || !strings.Contains(page, `aria-current="page"`) || !strings.Contains(page, `href="/transaction/17"`) {
			t.Errorf("%s shows no fields, or not where it is", path)
		}
		m := next.FindStringSubmatch(page)
		if m == nil {
			if n != 13 {
				t.Errorf("%d messages", n)
			}
			break
		}
		path, back = m[1], path
	}
	if page := mustGet(t, site, "/message/22"); !strings.Contains(page, "**** 1111") || strings.Contains(page, "4111111111111111") {
		t.Error("the card number is not masked")
	}
}

// The pages need no script and nothing from elsewhere, and say so to the browser.
func TestSiteIsSelfContained(t *testing.T) {
	t.Parallel()
	site := newSite(recordedLab(t), siteAddr)
	nonces := map[string]bool{}
	for _, path := range []string{"/", "/transaction/17", "/transaction/9", "/message/21", "/nowhere"} {
		_, page, h := get(t, site, path)
		csp := h.Get("Content-Security-Policy")
		nonce := regexp.MustCompile(`style-src 'nonce-(\w{20,})'`).FindStringSubmatch(csp)
		if nonce == nil || nonces[nonce[1]] || !strings.HasPrefix(csp, "default-src 'none';") || strings.Contains(csp, "unsafe") || !strings.Contains(csp, "frame-ancestors 'none'") {
			t.Errorf("%s: policy %s", path, csp)
			continue
		}
		nonces[nonce[1]] = true
		root, err := html.Parse(strings.NewReader(page))
		if err != nil {
			t.Fatal(err)
		}
		for n := range root.Descendants() {
			if n.Type != html.ElementNode {
				continue
			}
			if slices.Contains([]string{"script", "img", "iframe", "form", "object"}, n.Data) {
				t.Errorf("%s has a %s", path, n.Data)
			}
			if n.Data == "style" && !slices.Contains(n.Attr, html.Attribute{Key: "nonce", Val: nonce[1]}) {
				t.Errorf("%s has a style that the policy forbids", path)
			}
			for _, a := range n.Attr {
				if a.Key == "style" || strings.HasPrefix(a.Key, "on") || a.Key == "href" && !strings.HasPrefix(a.Val, "/") && !strings.HasPrefix(a.Val, "#") && a.Val != "data:," {
					t.Errorf("%s has %s=%q", path, a.Key, a.Val)
				}
			}
		}
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") != "no-store" || h.Get("Set-Cookie") != "" {
			t.Errorf("%s: headers %v", path, h)
		}
	}
}

// A page of another site in the same browser learns nothing, and nothing can be changed or fetched that
// is no page.
func TestSiteRefuses(t *testing.T) {
	t.Parallel()
	dir := recordedLab(t)
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("482915"), 0o600); err != nil {
		t.Fatal(err)
	}
	site := newSite(dir, siteAddr)
	for _, host := range []string{"evil.example", "evil.example:8099", "127.0.0.1", "127.0.0.1:80", "localhost:80", "127.0.0.1:8099.evil.example", "[::1]:8099", ""} {
		r := httptest.NewRequest(http.MethodGet, "http://"+siteAddr+"/transaction/17", nil)
		r.Host = host
		w := httptest.NewRecorder()
		site.ServeHTTP(w, r)
		if w.Code != http.StatusMisdirectedRequest || strings.Contains(w.Body.String(), "Harbour") {
			t.Errorf("host %q: status %d", host, w.Code)
		}
	}
	for _, host := range []string{siteAddr, "localhost:8099"} {
		r := httptest.NewRequest(http.MethodGet, "http://"+siteAddr+"/", nil)
		r.Host = host
		w := httptest.NewRecorder()
		site.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			t.Errorf("host %q: status %d", host, w.Code)
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodHead, http.MethodOptions, http.MethodConnect} {
		r := httptest.NewRequest(method, "http://"+siteAddr+"/", nil)
		r.URL.Path, r.Host = "/", siteAddr
		w := httptest.NewRecorder()
		site.ServeHTTP(w, r)
		if w.Code != http.StatusMethodNotAllowed {
			t.Errorf("%s: status %d", method, w.Code)
		}
	}
	for _, path := range []string{
		"/../secret", "/secret", "/trace/index.jsonl", "/message/../../secret", "/message/..%2f..%2fsecret", "/message/../secret", "/message/021-merchant-gateway.der",
		"/message/0", "/message/-1", "/message/30", "/message/99999999999999999999", "/message/1e1", "/message/", "/transaction/", "/transaction/<script>", "/ui/page.html", "//evil.example/",
	} {
		status, body, h := get(t, site, path)
		if status == http.StatusOK || strings.Contains(body, "482915") || strings.Contains(body, "<script") || strings.HasPrefix(h.Get("Location"), "//") {
			t.Errorf("%s: status %d, to %q\n%s", path, status, h.Get("Location"), body)
		}
	}
}

// What is recorded while the site runs is there at the next look. To who looks while a line is being
// written, the site says so.
func TestSiteFollows(t *testing.T) {
	t.Parallel()
	dir := recordedLab(t)
	index := filepath.Join(dir, traceDir, "index.jsonl")
	whole, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(whole), "\n")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(index, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	site := newSite(dir, siteAddr)
	if page := mustGet(t, site, "/"); !strings.Contains(page, "Nothing has been said yet") {
		t.Errorf("of nothing:\n%s", page)
	}
	write(strings.Join(lines[:20], ""))
	if list := tables(t, mustGet(t, site, "/")); list[0][1][3] != "not finished" {
		t.Errorf("of a purchase that has begun: %q", list[0][1])
	}
	write(strings.Join(lines[:20], "") + lines[20][:50])
	if status, page, _ := get(t, site, "/"); status != http.StatusInternalServerError || !strings.Contains(page, "reload") {
		t.Errorf("of half a line: status %d\n%s", status, page)
	}
	write(string(whole))
	if list := tables(t, mustGet(t, site, "/")); list[0][1][3] != "approved, collected" {
		t.Errorf("of a purchase that has ended: %q", list[0][1])
	}
}

func TestUIUsage(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"no lab":           {"ui", "--dir", t.TempDir()},
		"another argument": {"ui", "--dir", recordedLab(t), "more"},
	} {
		if code, out := runSetLab(t, args...); code != 2 {
			t.Errorf("%s: exit %d, want 2\n%s", name, code, out)
		}
	}
}

// The site listens where this machine alone reaches it, and nowhere else.
func TestListenHere(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"0.0.0.0:0", "[::]:0", ":0", "shop.example:0", "192.0.2.1:0", "127.0.0.1"} {
		if l, err := listenHere(addr); err == nil {
			l.Close()
			t.Errorf("%s is listened on", addr)
		}
	}
	l, err := listenHere("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// testUI: as a process of a running world, it shows every purchase so far, each with its promises kept,
// and nothing that is secret. It ends with the world.
func (w *testWorld) testUI(t *testing.T) {
	if err := w.startUI(t.Context()); err != nil {
		t.Fatal(err)
	}
	address := "http://" + w.addr(uiService) + "/"
	var told bytes.Buffer
	if err := w.introduce(&told); err != nil || !strings.Contains(told.String(), address) {
		t.Errorf("set-lab up does not say where it is, %v:\n%s", err, told.Bytes())
	}
	page := func(path string) string {
		t.Helper()
		res, err := http.Get(address + strings.TrimPrefix(path, "/"))
		if err != nil {
			t.Fatal(err)
		}
		body := string(readAll(t, res.Body))
		if res.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s\n%s", path, res.Status, body)
		}
		for _, secret := range []string{pan, expiry, holder, registration, cardPIN} {
			if strings.Contains(body, secret) {
				t.Errorf("%s shows %q", path, secret)
			}
		}
		return body
	}
	list := page("/")
	var outcomes, want []string
	for _, row := range tables(t, list)[0][1:] {
		if row[1] == "purchase" {
			outcomes = append(outcomes, row[3])
		}
	}
	var orders []order
	if err := json.Unmarshal([]byte(w.orders(t)), &orders); err != nil {
		t.Fatal(err)
	}
	for _, o := range orders {
		want = append(want, map[string]string{"captured": "approved, collected", "declined": "declined"}[o.State])
	}
	slices.Sort(outcomes)
	slices.Sort(want)
	if !slices.Equal(outcomes, want) || !slices.Contains(want, "declined") {
		t.Errorf("purchases: %q, the shop has %q", outcomes, want)
	}
	purchases := 0
	for _, path := range regexp.MustCompile(`/transaction/\d+`).FindAllString(list, -1) {
		body := page(path)
		if strings.Contains(body, `class="broken"`) {
			t.Errorf("%s: a promise is not kept:\n%s", path, body)
		}
		if strings.Contains(body, "&#10003; The gateway never read the order.") {
			purchases++
		}
		for _, path := range regexp.MustCompile(`/message/\d+`).FindAllString(body[strings.Index(body, `id="messages"`):], -1) {
			page(path)
		}
	}
	if purchases != len(outcomes) {
		t.Errorf("%d purchases keep their promises, of %d", purchases, len(outcomes))
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "lab.example"
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("under another name: %s", res.Status)
	}
}

// A person looks at the pages in a browser, with the keyboard alone: the list, a purchase, its messages.
func TestSiteInBrowser(t *testing.T) {
	t.Parallel()
	l, err := listenHere("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: newSite(recordedLab(t), l.Addr().String())}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	b := officeTab{browsertest.New(t, "lab").Open(t, "en"), t}
	b.Visit("http://" + l.Addr().String() + "/")
	b.Sees("Transactions")
	b.Accessible("list")
	b.reach(`e.getAttribute("href") === "/transaction/17"`)
	b.Type(kb.Enter)
	b.Sees("Purchase of 36.50 USD")
	b.Sees("The gateway never read the order.")
	b.Until(`getComputedStyle(document.querySelector("svg .title")).fontWeight === "700"`) // the picture has its style
	b.Accessible("transaction")
	b.reach(`e.tagName === "FIGURE"`) // to scroll it
	b.Press("20 PReq")
	b.Until(`document.querySelector("h1").innerText.startsWith("20. PReq")`)
	b.reach(`e.tagName === "SUMMARY" && e.innerText.startsWith("Message ")`)
	b.Type(" ")
	b.Until(`document.activeElement.parentElement.open`)
	b.reach(`e.tagName === "SUMMARY" && e.innerText.startsWith("PReq ")`)
	b.Run(`document.querySelectorAll("details").forEach(d => d.open = true)`)
	b.Accessible("message")
	b.Run(`document.body.tabIndex = -1; document.body.focus()`)
	b.reach(`e.rel === "next"`)
	b.Type(kb.Enter)
	b.Until(`document.querySelector("h1").innerText.startsWith("21. AuthReq")`)
}
