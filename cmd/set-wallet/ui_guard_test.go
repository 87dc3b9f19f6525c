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
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
	if got := res.Header.Get("Content-Security-Policy"); got != policy {
		v.t.Errorf("%s %s: policy %q, want %q", method, path, got, policy)
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
	_, fresh := s.ui()
	unused := fresh[strings.Index(fresh, "/enter/"):]
	port := v.host[strings.Index(v.host, ":"):]
	const upload = "--x\r\nContent-Disposition: form-data; name=\"%s\"\r\n\r\n%s\r\n--x--\r\n"
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
		"foreign host, with port":    {"GET", v.base, map[string]string{"Host": "wallet.example" + port}, "", 403},
		"localhost":                  {"GET", v.base, map[string]string{"Host": "localhost" + port}, "", 403},
		"another address":            {"GET", v.base, map[string]string{"Host": "127.0.0.2" + port}, "", 403},
		"foreign host for a token":   {"GET", unused, map[string]string{"Host": "wallet.example"}, "", 403},
		"old browser":                {"GET", v.base, map[string]string{"Sec-Fetch-Site": ""}, "", 200},
		"old browser, foreign":       {"GET", v.base + "cards", map[string]string{"Sec-Fetch-Site": "", "Origin": "http://evil.example"}, "", 403},
		"POST, old browser":          {"POST", v.base + "enrol", map[string]string{"Sec-Fetch-Site": ""}, "start=1&csrf=" + v.csrf, 303},
		"POST, old, foreign origin":  {"POST", v.base + "enrol", map[string]string{"Sec-Fetch-Site": "", "Origin": "http://evil.example"}, "start=1&csrf=" + v.csrf, 403},
		"POST, old, another port":    {"POST", v.base + "enrol", map[string]string{"Sec-Fetch-Site": "", "Origin": "http://127.0.0.1:1"}, "start=1&csrf=" + v.csrf, 403},
		"POST, old, the other name":  {"POST", v.base + "enrol", map[string]string{"Sec-Fetch-Site": "", "Origin": "http://[::1]" + port}, "start=1&csrf=" + v.csrf, 403},
		"POST, old, null origin":     {"POST", v.base + "enrol", map[string]string{"Sec-Fetch-Site": "", "Origin": "null"}, "start=1&csrf=" + v.csrf, 403},
		"POST, typed":                {"POST", v.base + "enrol", map[string]string{"Sec-Fetch-Site": "none"}, "start=1&csrf=" + v.csrf, 403},
		"POST, cross-site":           {"POST", v.base + "enrol", map[string]string{"Sec-Fetch-Site": "cross-site"}, "start=1&csrf=" + v.csrf, 403},
		"POST of a token":            {"POST", unused, map[string]string{"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}, "", 403},
		"file without form token":    {"POST", v.base + "install", map[string]string{"Content-Type": "multipart/form-data; boundary=x"}, fmt.Sprintf(upload, "start", "1"), 403},
		"file":                       {"POST", v.base + "install", map[string]string{"Content-Type": "multipart/form-data; boundary=x"}, fmt.Sprintf(upload, "csrf", v.csrf), 303},
		"from another site":          {"GET", v.base, map[string]string{"Sec-Fetch-Site": "cross-site"}, "", 403},
		"from another port":          {"GET", v.base, map[string]string{"Sec-Fetch-Site": "same-site"}, "", 403},
		"foreign origin":             {"GET", v.base + "cards", map[string]string{"Origin": "http://evil.example"}, "", 403},
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

	// A second start has asked the running window for another address, which is good for the same session. What
	// came under a foreign name has not used it up.
	if w := enter(t, fresh); w.base != v.base || fresh == address {
		t.Errorf("the second start opened another window: %s", fresh)
	}
	// IPv6 is another name for the same window, with the same guard.
	six := *v
	six.host = "[::1]" + port
	for host, want := range map[string]int{"[::1]" + port: 200, v.host: 200, "wallet.example" + port: 403, "[::ffff:127.0.0.1]" + port: 403, "localhost" + port: 403} {
		if res, _ := six.do("GET", v.base, map[string]string{"Host": host}, ""); res.StatusCode != want {
			t.Errorf("over IPv6, as %s: %s, want %d", host, res.Status, want)
		}
	}
	if res, _ := six.do("POST", v.base+"enrol", map[string]string{"Origin": "http://" + v.host}, "start=1&csrf="+v.csrf); res.StatusCode != 403 {
		t.Errorf("over IPv6, from the other name: %s", res.Status)
	}
	info, err := os.Stat(filepath.Join(s.wallet(), socketFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info, err)
	}
	_, fresh = s.ui()
	for _, host := range []string{v.host, six.host} {
		checkOtherUser(t, host, fresh[strings.Index(fresh, "/enter/"):])
		checkOtherUser(t, host, v.base, "Cookie: "+v.cookie.Name+"="+v.cookie.Value)
	}
	enter(t, fresh) // nobody else has used it up
}

// checkOtherUser has another user of this computer try, with all that the window's own user knows.
func checkOtherUser(t *testing.T, host, path string, headers ...string) {
	t.Helper()
	if os.Getuid() != 0 || runtime.GOOS != "linux" {
		return // only root can be somebody else: TestOtherUser tries the rule
	}
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		t.Fatal(err)
	}
	request := strings.Join(append([]string{"GET " + path + " HTTP/1.1", "Host: " + host, "Connection: close"}, headers...), `\r\n`)
	out := runAs(t, nobody, fmt.Sprintf(`exec 3<>/dev/tcp/%s/%s && printf '%s\r\n\r\n' >&3 && cat <&3`, name, port, request))
	if strings.Contains(out, "HTTP/") {
		t.Errorf("%s: another user gets %q", host, out)
	}
	if out := runAs(t, 0, fmt.Sprintf(`exec 3<>/dev/tcp/%s/%s && printf 'HEAD / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' >&3 && cat <&3`, name, port, host)); !strings.Contains(out, "HTTP/") {
		t.Fatalf("%s: the same user gets %q", host, out)
	}
}

const nobody = 65534

// runAs runs a script as another user, and gives what it prints.
func runAs(t *testing.T, user uint32, script string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	out, _ := cmd.CombinedOutput()
	return string(out)
}

// Nothing but this computer reaches a window.
func TestListenLoopback(t *testing.T) {
	t.Parallel()
	listeners, hosts, err := listenLoopback()
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(listeners)
	var bound []string
	for _, l := range listeners {
		bound = append(bound, l.Addr().String())
	}
	port := hosts[0][strings.LastIndex(hosts[0], ":"):]
	if want := []string{"127.0.0.1" + port, "[::1]" + port}; !slices.Equal(bound, want) || !slices.Equal(hosts, want) {
		t.Errorf("bound to %q, for the hosts %q; want %q", bound, hosts, want)
	}
}

// A window of another user hangs up on this one, over IPv4 and IPv6, and one of this user does not: the kernel says whose
// a connection is.
func TestOtherUser(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		for user, want := range map[int]bool{os.Getuid(): true, os.Getuid() + 1: false} {
			l, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			s := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
			go s.Serve(sameUser{l, user})
			res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + l.Addr().String())
			if got := err == nil && res.StatusCode == http.StatusOK; got != want {
				t.Errorf("%s of user %d: answers %v, want %v (%v)", address, user, got, want, err)
			}
			s.Close()
		}
	}
}

// The address is seen by all users among the arguments of the program that opens it. It is of no use to them; and after a
// crash neither an address that nobody used nor the session is good for the next window.
func TestWindowAddressLeaks(t *testing.T) {
	t.Parallel()
	s := newWindowScene(t, newScene(t))
	// The browser's place is taken by a program that runs for as long as the test.
	bin, running := t.TempDir(), s.file("running")
	script := fmt.Sprintf("#!/bin/sh\necho $$ >%[1]s.new && mv %[1]s.new %[1]s\nwhile test -e %[1]s; do sleep 0.1; done\n", running)
	if err := os.WriteFile(filepath.Join(bin, "xdg-open"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	w, address := s.start([]string{"PATH=" + bin + ":" + os.Getenv("PATH")}, "ui", "--local")
	defer os.Remove(running)
	var arguments []byte
	for deadline := time.Now().Add(time.Minute); !strings.Contains(string(arguments), address); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the browser is started with %q, want %s", arguments, address)
		}
		if pid, err := os.ReadFile(running); err == nil {
			arguments, _ = os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/cmdline")
		}
	}
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		pid, _ := os.ReadFile(running)
		if seen := runAs(t, nobody, "cat /proc/"+strings.TrimSpace(string(pid))+"/cmdline"); !strings.Contains(seen, u.Path) {
			t.Logf("another user does not even see the address: %q", seen)
		}
		if out := runAs(t, nobody, "ls "+s.wallet()); !strings.Contains(out, "ermission denied") {
			t.Errorf("another user looks into the wallet's directory: %s", out)
		}
	}
	checkOtherUser(t, u.Host, u.Path)
	v := enter(t, address)

	_, unused := s.start(nil, "ui", "--local", "--no-browser")
	w.kill()
	_, address = s.start(nil, "ui", "--local", "--no-browser")
	next := enter(t, address)
	if next.base == v.base || next.csrf == v.csrf || next.cookie.Value == v.cookie.Value {
		t.Error("the next window has a secret of the crashed one")
	}
	for name, c := range map[string]struct {
		path   string
		cookie *http.Cookie
	}{
		"unused address": {unused[strings.Index(unused, "/enter/"):], nil},
		"old page":       {v.base, v.cookie},
		"old cookie":     {next.base, v.cookie},
	} {
		if res, _ := (&visitor{t: t, host: next.host, cookie: c.cookie}).do("GET", c.path, nil, ""); res.StatusCode != http.StatusForbidden {
			t.Errorf("%s after a crash: %s", name, res.Status)
		}
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
	var learnt []string // what the wallet's pages tell
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		for _, name := range []string{"Cookie", "Referer"} {
			for _, value := range r.Header.Values(name) {
				if !strings.HasSuffix(value, r.Host+"/") { // a page of its own
					learnt = append(learnt, name+": "+value)
				}
			}
		}
		mu.Unlock()
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!doctype html><title>evil</title><iframe id="frame" src="%[1]s"></iframe>
			<form id="form" method="post" action="%[1]squit"><input name="csrf" value="x"></form>
			<script>
			window.tried = Promise.all([
				fetch("%[1]s", {credentials: "include"}).then(() => "read", () => "no"),
				new Promise(done => {
					const events = new EventSource("%[1]sevents", {withCredentials: true});
					events.onmessage = () => done("read");
					events.onerror = () => done("no");
				}),
				new Promise(done => {
					const socket = new WebSocket("%[1]sevents".replace("http:", "ws:"));
					socket.onopen = socket.onmessage = () => done("read");
					socket.onerror = () => done("no");
				}),
				new Promise(done => {
					const script = document.createElement("script");
					script.src = "%[1]s";
					script.onload = () => done("read");
					script.onerror = () => done("no");
					document.head.append(script);
				}),
				fetch("%[1]squit", {method: "POST", mode: "no-cors", credentials: "include", body: new URLSearchParams({csrf: "x"})}).then(r => r.type, () => "no"),
			]);
			</script>`, here)
	}))
	defer evil.Close()
	port := evil.URL[strings.LastIndex(evil.URL, ":"):]
	for _, origin := range []string{evil.URL, "http://localhost" + port} {
		b.Visit(origin)
		tried := browsertest.Value[[]string](b, `window.tried`)
		if last := len(tried) - 1; strings.Join(tried[:last], " ") != "no no no no" || tried[last] == "basic" {
			t.Errorf("%s: %v", origin, tried)
		}
		if b.Is(`(f => !!f.contentDocument && f.contentDocument.body.innerText.includes("wallet"))(document.getElementById("frame"))`) {
			t.Errorf("%s: the wallet is in a frame", origin)
		}
		b.Run(`document.getElementById("form").submit()`)
		b.Until(`location.pathname.endsWith("/quit")`)
		b.Sees("does not come from the wallet")
	}
	// A name of the attacker's that leads to the wallet: the browser takes the wallet's page for one of the attacker's.
	rebound := strings.Replace(here, "127.0.0.1", browsertest.Rebound, 1)
	b.Visit(rebound)
	b.Sees("does not come from the wallet")
	if got := browsertest.Value[string](b, `fetch(location.href, {credentials: "include"}).then(r => r.status + "")`); got != "403" {
		t.Errorf("under the attacker's name a page gets %s", got)
	}

	// A link from the wallet to elsewhere tells nothing.
	b.Visit(here)
	b.Sees("Your wallet")
	b.Run(fmt.Sprintf(`location.href = %q`, evil.URL))
	b.Until(`document.title === "evil"`)
	mu.Lock()
	if len(learnt) > 0 {
		t.Errorf("another port learns %q", learnt)
	}
	mu.Unlock()
	b.Visit(here)
	b.Sees("Your wallet")
	s.takeOver(b)
}

// hide tells a page that it is hidden, as behind another tab, or seen again.
func hide(b *browsertest.Tab, hidden bool) {
	b.Run(fmt.Sprintf(`Object.defineProperty(document, "hidden", {value: %v, configurable: true}), document.dispatchEvent(new Event("visibilitychange"))`, hidden))
}

// takeOver has another program serve at the address of a window that has closed, while its page is hidden: the page sees
// that it is another, and shows nothing of it.
func (s *windowScene) takeOver(b *browsertest.Tab) {
	s.t.Helper()
	u, err := url.Parse(b.Address())
	if err != nil {
		s.t.Fatal(err)
	}
	hide(b, true)
	for _, w := range s.windows {
		w.close()
	}
	l, err := net.Listen("tcp", u.Host)
	if err != nil {
		s.t.Fatal(err)
	}
	var asked atomic.Int32
	evil := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/events") {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "data: AAAA 99\n\n")
			return
		}
		asked.Add(1)
		io.WriteString(w, `<div id="open">Enter your PIN</div>`)
	})}
	go evil.Serve(l)
	defer evil.Close()
	hide(b, false)
	b.Sees("The wallet has been closed.")
	if n := asked.Load(); n != 0 || strings.Contains(b.Text(), "Enter your PIN") {
		s.t.Errorf("the page asked another program %d times, and shows %s", n, b.Text())
	}
}

// The owner of a connection is read from the kernel's table.
func TestOwner(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tcp")
	if err := os.WriteFile(file, []byte(`  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:8407 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1028282 2 0000000043791230 100 0 0 10 0
   1: 0100007F:D431 0100007F:8407 01 00000000:00000000 00:00000000 00000000  1000        0 1028283 1 0000000000000000 20 4 30 10 -1
   2: 0100007F:8407 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 1028284 1 0000000000000000 20 4 30 10 -1
   3: 0100007F:D432 0100007F:8407 05 00000000:00000000 00:00000000 00000000     0        0 0 1 0000000000000000 20 4 30 10 -1
`), 0o600); err != nil {
		t.Fatal(err)
	}
	client, server := netip.MustParseAddrPort("127.0.0.1:54321"), netip.MustParseAddrPort("127.0.0.1:33799")
	if uid, ok := ownerOf(file, client, server); !ok || uid != 1000 {
		t.Errorf("got %d, %v", uid, ok)
	}
	for _, port := range []string{"54322", "54323"} { // closed by its program; not there
		if _, ok := ownerOf(file, netip.MustParseAddrPort("127.0.0.1:"+port), server); ok {
			t.Errorf("port %s has an owner", port)
		}
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
