// Package browsertest has a test do what a person does in a browser, and look at what the person sees.
//
// A tab fails its test when a page writes to the console, throws, or asks any host but those it may.
package browsertest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	cdpruntime "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

const (
	browserTimeout = 3 * time.Minute // for one walk, on a busy machine
	lookPause      = 20 * time.Millisecond
)

// Rebound is a name of an attacker's that leads to this computer, as after DNS rebinding.
const Rebound = "rebound.example"

// Chromium is a browser that several tests can share. Every tab has cookies of its own.
type Chromium struct {
	ctx      context.Context
	pictures string
}

// New starts a browser that ends with the test. Pictures have names that begin with pictures.
func New(t *testing.T, pictures string) *Chromium {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.Flag("lang", "en"),
		chromedp.Flag("host-resolver-rules", "MAP "+Rebound+" 127.0.0.1"),
		chromedp.WSURLReadTimeout(time.Minute),
	)
	ctx, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, stopBrowser := chromedp.NewContext(ctx)
	t.Cleanup(func() { stopBrowser(); stop() })
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start Chromium (make setup installs it): %v", err)
	}
	return &Chromium{ctx, pictures}
}

// Tab is a page that a person looks at.
type Tab struct {
	t        *testing.T
	browser  *Chromium
	ctx      context.Context // of what is done in the tab, which ends in time
	tab      context.Context // of the tab
	language string

	mu       sync.Mutex
	own      map[string]bool // hosts that may be asked
	problems []string
	foreign  bool // shows pages of others, which may do what they like
	ending   bool // nobody need be there any more
	refusing bool // pages may say no
}

// Open opens a tab with cookies of its own.
func (c *Chromium) Open(t *testing.T, language string) *Tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(c.ctx, chromedp.WithNewBrowserContext())
	return c.newTab(t, ctx, cancel, language)
}

// Second opens another tab of the same person.
func (b *Tab) Second() *Tab {
	b.t.Helper()
	ctx, cancel := chromedp.NewContext(b.tab)
	s := b.browser.newTab(b.t, ctx, cancel, b.language)
	s.own = maps.Clone(b.own)
	return s
}

func (c *Chromium) newTab(t *testing.T, ctx context.Context, cancel context.CancelFunc, language string) *Tab {
	t.Helper()
	if err := chromedp.Do(ctx); err != nil { // opens the tab, which lives as long as this context
		t.Fatal(err)
	}
	life, timeout := context.WithTimeout(ctx, browserTimeout)
	b := &Tab{t: t, browser: c, ctx: life, tab: ctx, language: language, own: make(map[string]bool)}
	if err := chromedp.Listen(ctx, b.note); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		timeout()
		cancel()
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.foreign {
			return
		}
		for _, p := range b.problems {
			t.Errorf("the browser says: %s", p)
		}
	})
	b.Do(
		call(network.Enable, network.EnableParams{}), call(cdplog.Enable, cdp.Empty{}), call(cdpruntime.Enable, cdp.Empty{}),
		call(emulation.SetUserAgentOverride, emulation.SetUserAgentOverrideParams{UserAgent: "test", AcceptLanguage: language}),
		b.size(1280, 900, 1),
	)
	return b
}

// call is a command of the protocol as a step.
func call[P, R any](c cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

// note keeps what no page of the wallet may do.
func (b *Tab) note(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *cdpruntime.EventExceptionThrown:
		b.problems = append(b.problems, "exception: "+e.ExceptionDetails.Text)
	case *cdpruntime.EventConsoleAPICalled:
		b.problems = append(b.problems, fmt.Sprintf("console: %v", e.Type))
	case *cdplog.EventEntryAdded:
		fine := strings.Contains(e.Entry.Text, "ERR_INCOMPLETE_CHUNKED_ENCODING") || b.ending && strings.Contains(e.Entry.Text, "ERR_CONNECTION_REFUSED") ||
			b.refusing && strings.Contains(e.Entry.Text, "responded with a status of 4")
		if e.Entry.Level == cdplog.EntryLevelError && !fine {
			b.problems = append(b.problems, "log: "+e.Entry.Text+" "+e.Entry.URL)
		}
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(e.Request.URL); err != nil || u.Scheme != "data" && !b.own[u.Host] {
			b.problems = append(b.problems, "request to "+e.Request.URL)
		}
	}
}

// Allow lets requests go to a host, and expects no other.
func (b *Tab) Allow(host string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.own[host] = true
}

// End has requests fail from now on, because the wallet is about to be closed.
func (b *Tab) End() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ending = true
}

// Refused says that pages may say no from now on, with a status from 400 to 499.
func (b *Tab) Refused() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refusing = true
}

// Do does steps of chromedp's. One that comes while the browser changes from a page to the next waits for that one.
func (b *Tab) Do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	for _, step := range steps {
		err := chromedp.Do(b.ctx, step)
		for err != nil && strings.Contains(err.Error(), "Not attached to an active page") && b.ctx.Err() == nil {
			time.Sleep(lookPause)
			err = chromedp.Do(b.ctx, step)
		}
		if err != nil {
			b.t.Fatalf("%v; the page is:\n%s", err, b.now())
		}
	}
}

func (b *Tab) size(width, height int64, scale float64) chromedp.Action[chromedp.Void] {
	return chromedp.EmulateViewport(width, height, chromedp.EmulateScale(scale))
}

// now is the text of the page, for a report.
func (b *Tab) now() string {
	ctx, cancel := context.WithTimeout(b.tab, 5*time.Second)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`location.pathname.replace(/^.[A-Z0-9]{26}/, "") + "\n" + document.body.innerText`))
	if err != nil {
		return err.Error()
	}
	return text
}

// Visit opens an address.
func (b *Tab) Visit(address string) {
	b.t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		b.t.Fatal(err)
	}
	b.Allow(u.Host)
	// The first page goes on by itself, before the browser has taken notice of it.
	if err := chromedp.Do(b.ctx, chromedp.Navigate(address)); err != nil && !strings.Contains(err.Error(), "net::ERR_ABORTED") {
		b.t.Fatal(err)
	}
}

// Is evaluates a truth, which may not be one while the page changes.
func (b *Tab) Is(expression string) bool {
	ok, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](expression))
	return err == nil && ok
}

// Until waits for something to be true of the page.
func (b *Tab) Until(expression string) {
	b.t.Helper()
	for !b.Is(expression) {
		select {
		case <-b.ctx.Done():
			b.t.Fatalf("this never became true: %s; the page is:\n%s", expression, b.now())
		case <-time.After(lookPause):
		}
	}
}

// Sees waits for a text on the page, whatever spaces it has there.
func (b *Tab) Sees(text string) {
	b.t.Helper()
	quoted, _ := json.Marshal(text)
	b.Until(fmt.Sprintf(`document.body.innerText.replaceAll("\u00a0", " ").includes(%s)`, quoted))
}

// Text is what stands on the page.
func (b *Tab) Text() string {
	b.t.Helper()
	return Value[string](b, `document.body.innerText`)
}

// Address is that of the page.
func (b *Tab) Address() string {
	b.t.Helper()
	address, err := chromedp.Run(b.ctx, chromedp.Location())
	if err != nil {
		b.t.Fatal(err)
	}
	return address
}

// Value is that of an expression, or of its promise.
func Value[T any](b *Tab, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%s: %v; the page is:\n%s", expression, err, b.now())
	}
	return v
}

// Run runs a script on the page, and waits for its promise.
func (b *Tab) Run(script string) {
	b.t.Helper()
	b.Do(chromedp.Evaluate[chromedp.Void](script, chromedp.EvalAwaitPromise))
}

// Type presses keys, one after the other.
func (b *Tab) Type(keys string) {
	b.t.Helper()
	b.Do(chromedp.KeyEvent(keys))
}

// Choose puts a file into the field with this id.
func (b *Tab) Choose(id, file string) {
	b.t.Helper()
	b.Do(chromedp.SetUploadFiles("#"+id, []string{file}))
}

// Fill types into the field with this id and those after it, with the Tab key in between, once the page is
// complete and no script of its own sets the focus any more.
func (b *Tab) Fill(id string, values ...string) {
	b.t.Helper()
	b.Until(fmt.Sprintf(`(e => !!e && document.readyState === "complete" && (e.focus(), e.select(), true))(document.getElementById(%q))`, id))
	b.Type(strings.Join(values, kb.Tab))
}

// Reload loads the page anew.
func (b *Tab) Reload() {
	b.t.Helper()
	b.Do(chromedp.Reload())
}

// Back presses the browser's back button.
func (b *Tab) Back() {
	b.t.Helper()
	// A page that comes back out of the browser's memory may load itself anew.
	if err := chromedp.Do(b.ctx, chromedp.NavigateBack()); err != nil && !strings.Contains(err.Error(), "net::ERR_ABORTED") {
		b.t.Fatalf("%v; the page is:\n%s", err, b.now())
	}
}

// Close closes the tab. Nothing more can be done in it.
func (b *Tab) Close() {
	b.t.Helper()
	if err := chromedp.Cancel(b.tab); err != nil {
		b.t.Fatal(err)
	}
}

// Foreign says that the pages are those of others, which may do what they like.
func (b *Tab) Foreign() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.foreign = true
}

// Press presses the button with this text.
func (b *Tab) Press(text string) {
	b.t.Helper()
	b.Until(fmt.Sprintf(`(e => !!e && (e.click(), true))(%s)`, b.Button(text)))
}

// DoubleClick clicks the button with this text twice, as fast as a mouse does.
func (b *Tab) DoubleClick(text string) {
	b.t.Helper()
	place := fmt.Sprintf(`(e => {
		if (!e || document.readyState !== "complete") return [];
		e.scrollIntoView({block: "center", behavior: "instant"});
		const r = e.getBoundingClientRect();
		return [r.x + r.width / 2, r.y + r.height / 2];
	})(%s)`, b.Button(text))
	b.Until(place + `.length > 0`)
	at, err := chromedp.Run(b.ctx, chromedp.Evaluate[[]float64](place))
	if err != nil || len(at) == 0 {
		b.t.Fatalf("the button %q has gone (%v); the page is:\n%s", text, err, b.now())
	}
	var clicks []chromedp.Action[chromedp.Void]
	for n := range int64(2) {
		for _, kind := range []input.DispatchMouseEventType{chromedp.MousePressed, chromedp.MouseReleased} {
			clicks = append(clicks, call(input.DispatchMouseEvent, input.DispatchMouseEventParams{
				Type: kind, X: at[0], Y: at[1], Button: input.MouseButtonLeft, ClickCount: n + 1,
			}))
		}
	}
	b.Do(clicks...)
}

// Download does something in the page, and gives the path of the file that the page then sends, under the name
// that the browser keeps it by.
func (b *Tab) Download(do func()) string {
	b.t.Helper()
	dir, events := b.t.TempDir(), true
	_, err := chromedp.CallBrowser(b.ctx, browser.SetDownloadBehavior, browser.SetDownloadBehaviorParams{
		Behavior: browser.SetDownloadBehaviorBehaviorAllow, DownloadPath: dir, EventsEnabled: &events,
		BrowserContextID: chromedp.FromContext(b.tab).BrowserContextID,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	paths := make(chan string, 100)
	err = chromedp.ListenBrowser(ctx, func(event any) {
		if e, ok := event.(*browser.EventDownloadProgress); ok && e.State == browser.DownloadProgressStateCompleted {
			paths <- e.FilePath
		}
	})
	if err != nil {
		b.t.Fatal(err)
	}
	do()
	for {
		select {
		case path := <-paths:
			if filepath.Dir(path) == dir { // and not that of another tab
				return path
			}
		case <-b.ctx.Done():
			b.t.Fatalf("nothing was downloaded; the page is:\n%s", b.now())
		}
	}
}

// Button is the expression that finds a button or a link by its text, or by what a screen reader says of it.
func (b *Tab) Button(text string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("button:not(:disabled), a")].find(%s)`, named(text))
}

// named is the expression of a function that tells whether an element is called so.
func named(text string) string {
	quoted, _ := json.Marshal(text)
	return fmt.Sprintf(`(e => [e.ariaLabel, e.innerText].some(name => name?.trim().startsWith(%s)))`, quoted)
}

// PIN types a PIN where it is asked for and presses Enter.
func (b *Tab) PIN(pin string) {
	b.t.Helper()
	b.Until(`document.activeElement?.id === "pin"`)
	b.Type(pin + kb.Enter)
}

// Walk goes with the Tab key to what has this id or begins with this text. A button it presses.
func (b *Tab) Walk(name string) {
	b.t.Helper()
	for range 60 {
		b.Type(kb.Tab)
		at := fmt.Sprintf(`(e => e.id === %q || e.tagName === "BUTTON" && %s(e))(document.activeElement)`, name, named(name))
		if b.Is(at) {
			if b.Is(`document.activeElement.tagName === "BUTTON"`) {
				b.Type(" ")
			}
			return
		}
	}
	b.t.Fatalf("the Tab key does not lead to %q:\n%s", name, b.now())
}

// Accessible has axe-core look at the page, and the page fit at every size: as a whole, at 200 %, on a phone.
func (b *Tab) Accessible(name string) {
	b.t.Helper()
	axe, err := os.ReadFile("../../testdata/axe/axe.min.js")
	if err != nil {
		b.t.Fatal(err)
	}
	b.Run(string(axe))
	found := Value[[]string](b,
		`axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations.map(v => v.id + ": " + v.nodes.map(n => n.html).join(" | ")))`)
	for _, f := range found {
		b.t.Errorf("%s: %s", name, f)
	}
	for _, s := range []struct {
		width, height int64
		scale         float64
	}{{390, 844, 1}, {640, 450, 2}, {1280, 400, 1}} { // the last one so low that a picture ends with the page
		b.Do(b.size(s.width, s.height, s.scale))
		if !b.Is(`document.documentElement.scrollWidth <= innerWidth`) {
			b.t.Errorf("%s at %d px is wider than the screen", name, s.width)
		}
		b.shoot(fmt.Sprintf("%s-%d", name, s.width))
	}
	b.Do(b.size(1280, 900, 1))
}

// screenshotsEnv names the directory that gets pictures of the pages, if there is one.
const screenshotsEnv = "SETKIT_SCREENSHOTS"

func (b *Tab) shoot(name string) {
	b.t.Helper()
	dir := os.Getenv(screenshotsEnv)
	if dir == "" {
		return
	}
	const quality = 100 // PNG
	png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(quality))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, b.browser.pictures+"-"+name+".png"), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}
