package main

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

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	cdpruntime "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

const (
	browserTimeout = 90 * time.Second // for one walk, on a busy machine
	lookPause      = 20 * time.Millisecond
)

// chromium is the one that the tests of a process share. Every tab has cookies of its own.
type chromium struct{ ctx context.Context }

func newChromium(t *testing.T) *chromium {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.Flag("lang", "en"),
		chromedp.WSURLReadTimeout(time.Minute),
	)
	ctx, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, stopBrowser := chromedp.NewContext(ctx)
	t.Cleanup(func() { stopBrowser(); stop() })
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start Chromium (make setup installs it): %v", err)
	}
	return &chromium{ctx}
}

// tab is a page that a person looks at.
type tab struct {
	t   *testing.T
	ctx context.Context // of what is done in the tab, which ends in time
	tab context.Context // of the tab

	mu       sync.Mutex
	own      map[string]bool // hosts that may be asked
	problems []string
	foreign  bool // shows pages of others, which may do what they like
	ending   bool // nobody need be there any more
}

// open opens a tab with cookies of its own.
func (c *chromium) open(t *testing.T, language string) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(c.ctx, chromedp.WithNewBrowserContext())
	return newTab(t, ctx, cancel, language)
}

// second opens another tab of the same person.
func (b *tab) second() *tab {
	b.t.Helper()
	ctx, cancel := chromedp.NewContext(b.tab)
	s := newTab(b.t, ctx, cancel, "en")
	s.own = maps.Clone(b.own)
	return s
}

func newTab(t *testing.T, ctx context.Context, cancel context.CancelFunc, language string) *tab {
	t.Helper()
	if err := chromedp.Do(ctx); err != nil { // opens the tab, which lives as long as this context
		t.Fatal(err)
	}
	life, timeout := context.WithTimeout(ctx, browserTimeout)
	b := &tab{t: t, ctx: life, tab: ctx, own: make(map[string]bool)}
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
	b.do(
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
func (b *tab) note(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *cdpruntime.EventExceptionThrown:
		b.problems = append(b.problems, "exception: "+e.ExceptionDetails.Text)
	case *cdpruntime.EventConsoleAPICalled:
		b.problems = append(b.problems, fmt.Sprintf("console: %v", e.Type))
	case *cdplog.EventEntryAdded:
		ended := strings.Contains(e.Entry.Text, "ERR_INCOMPLETE_CHUNKED_ENCODING") || b.ending && strings.Contains(e.Entry.Text, "ERR_CONNECTION_REFUSED")
		if e.Entry.Level == cdplog.EntryLevelError && !ended {
			b.problems = append(b.problems, "log: "+e.Entry.Text+" "+e.Entry.URL)
		}
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(e.Request.URL); err != nil || u.Scheme != "data" && !b.own[u.Host] {
			b.problems = append(b.problems, "request to "+e.Request.URL)
		}
	}
}

// allow lets requests go to a host, and expects no other.
func (b *tab) allow(host string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.own[host] = true
}

// end has requests fail from now on, because the wallet is about to be closed.
func (b *tab) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ending = true
}

func (b *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.t.Fatalf("%v; the page is:\n%s", err, b.now())
	}
}

func (b *tab) size(width, height int64, scale float64) chromedp.Action[chromedp.Void] {
	return chromedp.EmulateViewport(width, height, chromedp.EmulateScale(scale))
}

// now is the text of the page, for a report.
func (b *tab) now() string {
	ctx, cancel := context.WithTimeout(b.tab, 5*time.Second)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`location.pathname.replace(/^.[A-Z0-9]{26}/, "") + "\n" + document.body.innerText`))
	if err != nil {
		return err.Error()
	}
	return text
}

// visit opens an address.
func (b *tab) visit(address string) {
	b.t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		b.t.Fatal(err)
	}
	b.allow(u.Host)
	// The first page goes on by itself, before the browser has taken notice of it.
	if err := chromedp.Do(b.ctx, chromedp.Navigate(address)); err != nil && !strings.Contains(err.Error(), "net::ERR_ABORTED") {
		b.t.Fatal(err)
	}
}

// eval evaluates a truth, which may not be one while the page changes.
func (b *tab) eval(expression string) bool {
	ok, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](expression))
	return err == nil && ok
}

// until waits for something to be true of the page.
func (b *tab) until(expression string) {
	b.t.Helper()
	for !b.eval(expression) {
		select {
		case <-b.ctx.Done():
			b.t.Fatalf("this never became true: %s; the page is:\n%s", expression, b.now())
		case <-time.After(lookPause):
		}
	}
}

// sees waits for a text on the page.
func (b *tab) sees(text string) {
	b.t.Helper()
	quoted, _ := json.Marshal(text)
	b.until(fmt.Sprintf(`document.body.innerText.includes(%s)`, quoted))
}

func (b *tab) text() string {
	b.t.Helper()
	text, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](`document.body.innerText`))
	if err != nil {
		b.t.Fatal(err)
	}
	return text
}

// press presses the button with this text.
func (b *tab) press(text string) {
	b.t.Helper()
	find := b.button(text)
	b.until(`!!` + find)
	b.do(chromedp.Evaluate[chromedp.Void](find + `.click()`))
}

// button is the expression that finds a button or a link by its text.
func (b *tab) button(text string) string {
	quoted, _ := json.Marshal(text)
	return fmt.Sprintf(`[...document.querySelectorAll("button:not(:disabled), a")].find(e => e.innerText.trim().startsWith(%s))`, quoted)
}

// pin types a PIN where it is asked for and presses Enter.
func (b *tab) pin(pin string) {
	b.t.Helper()
	b.until(`document.activeElement?.id === "pin"`)
	b.do(chromedp.KeyEvent(pin), chromedp.KeyEvent(kb.Enter))
}

// accessible has axe-core look at the page, and the page fit at every size: as a whole, at 200 %, on a phone.
func (b *tab) accessible(name string) {
	b.t.Helper()
	axe, err := os.ReadFile("../../testdata/axe/axe.min.js")
	if err != nil {
		b.t.Fatal(err)
	}
	b.do(chromedp.Evaluate[chromedp.Void](string(axe)))
	found, err := chromedp.Run(b.ctx, chromedp.Evaluate[[]string](
		`axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations.map(v => v.id + ": " + v.nodes.map(n => n.html).join(" | ")))`,
		chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range found {
		b.t.Errorf("%s: %s", name, f)
	}
	for _, s := range []struct {
		width, height int64
		scale         float64
	}{{390, 844, 1}, {640, 450, 2}, {1280, 900, 1}} {
		b.do(b.size(s.width, s.height, s.scale))
		if !b.eval(`document.documentElement.scrollWidth <= innerWidth`) {
			b.t.Errorf("%s at %d px is wider than the screen", name, s.width)
		}
		b.shoot(fmt.Sprintf("%s-%d", name, s.width))
	}
}

// screenshotsEnv names the directory that gets pictures of the pages, if there is one.
const screenshotsEnv = "SETKIT_SCREENSHOTS"

func (b *tab) shoot(name string) {
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
	if err := os.WriteFile(filepath.Join(dir, "wallet-"+name+".png"), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}
