package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/setkit/setkit/cmd/internal/browsertest"
	"github.com/setkit/setkit/roles/sethttp"
)

// visitor is a browser as far as the window can tell.
type visitor struct {
	t      *testing.T
	host   string
	cookie *http.Cookie
	base   string
	csrf   string
}

var (
	baseOf = regexp.MustCompile(`url=(/[A-Z2-7]+/)`)
	csrfOf = regexp.MustCompile(`name="csrf" value="([A-Z2-7]+)"`)
)

// enter uses an address up.
func enter(t *testing.T, address string) *visitor {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	v := &visitor{t: t, host: u.Host}
	res, body := v.do("GET", u.Path, nil, "")
	if res.StatusCode != http.StatusOK || len(res.Cookies()) != 1 || baseOf.FindStringSubmatch(body) == nil {
		t.Fatalf("enter: %s, cookies %v\n%s", res.Status, res.Cookies(), body)
	}
	v.cookie, v.base = res.Cookies()[0], baseOf.FindStringSubmatch(body)[1]
	if c := v.cookie; !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != v.base || c.Domain != "" {
		t.Errorf("cookie %v", c)
	}
	_, body = v.do("GET", v.base+"settings", nil, "")
	if m := csrfOf.FindStringSubmatch(body); m != nil {
		v.csrf = m[1]
	} else {
		t.Fatalf("settings without a form:\n%s", body)
	}
	return v
}

// do makes a request with the cookie and, beside what is set, the headers of a browser's own page.
func (v *visitor) do(method, path string, headers map[string]string, body string) (*http.Response, string) {
	v.t.Helper()
	req, err := http.NewRequest(method, "http://"+v.host+path, strings.NewReader(body))
	if err != nil {
		v.t.Fatal(err)
	}
	if v.cookie != nil {
		req.AddCookie(v.cookie)
	}
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	if method == "POST" {
		req.Header.Set("Origin", "http://"+v.host)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for name, value := range headers {
		if name == "Host" {
			req.Host = value
		} else if value == "" {
			req.Header.Del(name)
		} else {
			req.Header.Set(name, value)
		}
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		v.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	for name, want := range map[string]string{
		"Cache-Control": "no-store", "Referrer-Policy": "same-origin", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
		"Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
	} {
		if got := res.Header.Get(name); got != want {
			v.t.Errorf("%s %s: %s is %q, want %q", method, path, name, got, want)
		}
	}
	if csp := res.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'; ") || !strings.Contains(csp, "frame-ancestors 'none'") || strings.Contains(csp, "unsafe") {
		v.t.Errorf("%s %s: policy %q", method, path, csp)
	}
	return res, string(text)
}

func TestWindowGuard(t *testing.T) {
	t.Parallel()
	s := newWindowScene(t, newScene(t))
	_, address := s.ui()
	v := enter(t, address)

	used := address[strings.Index(address, "/enter/"):]
	wrong := "/enter/" + strings.Repeat("A", len(used)-len("/enter/"))
	for name, c := range map[string]struct {
		method, path string
		headers      map[string]string
		body         string
		want         int
	}{
		"own page":                   {"GET", v.base, nil, "", 200},
		"own page, typed":            {"GET", v.base, map[string]string{"Sec-Fetch-Site": "none"}, "", 200},
		"no such page":               {"GET", v.base + "nothing", nil, "", 404},
		"token again":                {"GET", used, nil, "", 403},
		"token that was never given": {"GET", wrong, nil, "", 403},
		"no cookie":                  {"GET", v.base, map[string]string{"Cookie": ""}, "", 403},
		"another cookie":             {"GET", v.base, map[string]string{"Cookie": v.cookie.Name + "=AAAA"}, "", 403},
		"outside the path":           {"GET", "/", nil, "", 403},
		"foreign host":               {"GET", v.base, map[string]string{"Host": "wallet.example"}, "", 403},
		"foreign host, with port":    {"GET", v.base, map[string]string{"Host": "wallet.example:" + v.host[strings.Index(v.host, ":")+1:]}, "", 403},
		"localhost":                  {"GET", v.base, map[string]string{"Host": strings.Replace(v.host, "127.0.0.1", "localhost", 1)}, "", 403},
		"foreign host for a token":   {"GET", wrong, map[string]string{"Host": "wallet.example"}, "", 403},
		"from another site":          {"GET", v.base, map[string]string{"Sec-Fetch-Site": "cross-site"}, "", 403},
		"from another port":          {"GET", v.base, map[string]string{"Sec-Fetch-Site": "same-site"}, "", 403},
		"foreign origin":             {"GET", v.base + "events", map[string]string{"Origin": "http://evil.example"}, "", 403},
		"POST, foreign origin":       {"POST", v.base + "enrol", map[string]string{"Origin": "http://evil.example"}, "start=1&csrf=" + v.csrf, 403},
		"POST, another port":         {"POST", v.base + "enrol", map[string]string{"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-site"}, "start=1&csrf=" + v.csrf, 403},
		"POST, no origin":            {"POST", v.base + "enrol", map[string]string{"Origin": "", "Sec-Fetch-Site": ""}, "start=1&csrf=" + v.csrf, 403},
		"POST, null origin":          {"POST", v.base + "enrol", map[string]string{"Origin": "null"}, "start=1&csrf=" + v.csrf, 403},
		"POST without form token":    {"POST", v.base + "enrol", nil, "start=1", 403},
		"POST with a wrong one":      {"POST", v.base + "enrol", nil, "start=1&csrf=AAAA", 403},
		"POST in JSON":               {"POST", v.base + "enrol", map[string]string{"Content-Type": "application/json"}, `{"csrf":"` + v.csrf + `"}`, 400},
		"POST, huge":                 {"POST", v.base + "enrol", nil, "csrf=" + v.csrf + "&start=" + strings.Repeat("x", 64<<10), 400},
		"POST":                       {"POST", v.base + "enrol", nil, "start=1&csrf=" + v.csrf, 303},
		"GET of what changes":        {"GET", v.base + "quit", nil, "", 404},
		"PUT":                        {"PUT", v.base + "enrol", nil, "start=1&csrf=" + v.csrf, 404},
		"out of the assets":          {"GET", "/assets/..%2fguard.go", nil, "", 404},
	} {
		if res, _ := v.do(c.method, c.path, c.headers, c.body); res.StatusCode != c.want && !(name == "GET of what changes" && res.StatusCode == http.StatusMethodNotAllowed) {
			t.Errorf("%s: %s, want %d", name, res.Status, c.want)
		}
	}

	// A second start asks the running window for another address, which is good for the same session.
	_, second := s.ui()
	if w := enter(t, second); w.base != v.base || second == address {
		t.Errorf("the second start opened another window: %s", second)
	}
	info, err := os.Stat(filepath.Join(s.wallet(), socketFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info, err)
	}
	checkOtherUser(t, v)
}

// checkOtherUser has another user of this computer try, with all that the window's own user knows.
func checkOtherUser(t *testing.T, v *visitor) {
	t.Helper()
	if os.Getuid() != 0 || runtime.GOOS != "linux" {
		return // TestOwner has the rule; only root can be somebody else
	}
	host, port, err := net.SplitHostPort(v.host)
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf(`exec 3<>/dev/tcp/%s/%s && printf 'GET %s HTTP/1.1\r\nHost: %s\r\nCookie: %s=%s\r\nConnection: close\r\n\r\n' >&3 && cat <&3`,
		host, port, v.base, v.host, v.cookie.Name, v.cookie.Value)
	run := func(user uint32) string {
		cmd := exec.Command("bash", "-c", script)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	const nobody = 65534
	if out := run(0); !strings.Contains(out, "200 OK") {
		t.Fatalf("the same user gets %q", out)
	}
	if out := run(nobody); strings.Contains(out, "HTTP/") {
		t.Errorf("another user gets %q", out)
	}
}

// A page of another site, and one of another port, which knows the secret path: neither sees or does anything.
func testWindowForeignPages(t *testing.T, c *browsertest.Chromium) {
	s := newWindowScene(t, newScene(t))
	s.enroll()
	_, address := s.ui()
	b := c.Open(t, "en")
	b.Foreign()
	b.Visit(address)
	b.Sees("Your wallet")
	here := b.Address()
	var mu sync.Mutex
	var cookies []string
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		cookies = append(cookies, r.Header.Values("Cookie")...)
		mu.Unlock()
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!doctype html><title>evil</title><iframe id="frame" src="%[1]s"></iframe>
			<form id="form" method="post" action="%[1]squit"><input name="csrf" value="x"></form>
			<script>
			window.tried = Promise.all([
				fetch("%[1]s", {credentials: "include"}).then(() => "read", () => "no"),
				fetch("%[1]squit", {method: "POST", mode: "no-cors", credentials: "include", body: new URLSearchParams({csrf: "x"})}).then(r => r.type, () => "no"),
			]);
			</script>`, here)
	}))
	defer evil.Close()
	port := evil.URL[strings.LastIndex(evil.URL, ":"):]
	for _, origin := range []string{evil.URL, "http://localhost" + port} {
		b.Visit(origin)
		if tried := browsertest.Value[[]string](b, `window.tried`); tried[0] != "no" || tried[1] == "basic" {
			t.Errorf("%s: %v", origin, tried)
		}
		if b.Is(`(f => !!f.contentDocument && f.contentDocument.body.innerText.includes("wallet"))(document.getElementById("frame"))`) {
			t.Errorf("%s: the wallet is in a frame", origin)
		}
		b.Run(`document.getElementById("form").submit()`)
		b.Until(`location.pathname.endsWith("/quit")`)
		b.Sees("does not come from the wallet")
	}
	mu.Lock()
	defer mu.Unlock()
	if len(cookies) > 0 {
		t.Errorf("another port got the cookies %v", cookies)
	}
	b.Visit(here)
	b.Sees("Your wallet")
}

// The owner of a connection is read from the kernel's table.
func TestOwner(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tcp")
	if err := os.WriteFile(file, []byte(`  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:8407 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1028282 2 0000000043791230 100 0 0 10 0
   1: 0100007F:D431 0100007F:8407 01 00000000:00000000 00:00000000 00000000  1000        0 1028283 1 0000000000000000 20 4 30 10 -1
   2: 0100007F:8407 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 1028284 1 0000000000000000 20 4 30 10 -1
`), 0o600); err != nil {
		t.Fatal(err)
	}
	client, server := netip.MustParseAddrPort("127.0.0.1:54321"), netip.MustParseAddrPort("127.0.0.1:33799")
	if uid, ok := ownerOf(file, client, server); !ok || uid != 1000 {
		t.Errorf("got %d, %v", uid, ok)
	}
	if _, ok := ownerOf(file, netip.MustParseAddrPort("127.0.0.1:54322"), server); ok {
		t.Error("a connection that is not there has an owner")
	}
	if got, want := tableForm(netip.MustParseAddrPort("[::1]:8080")), "00000000000000000000000001000000:1F90"; got != want {
		t.Errorf("::1 is %s, want %s", got, want)
	}
}

// A name that leads to this computer is not connected to.
func TestPublicTransport(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the wallet has knocked") }))
	defer server.Close()
	client := &sethttp.Client{Transport: publicTransport(), Tries: 1, Pause: time.Millisecond}
	for _, to := range []string{server.URL, strings.Replace(server.URL, "127.0.0.1", "localhost", 1)} {
		if _, err := client.Post(t.Context(), to, sethttp.MediaPayment, []byte("x")); !errors.Is(err, errLocalPeer) {
			t.Errorf("%s: %v", to, err)
		}
	}
}
