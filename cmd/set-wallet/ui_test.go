package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/bundle"
	"github.com/setkit/setkit/roles/wallet/wallettest"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

// windowScene is a scene with windows, which close after the browser.
type windowScene struct {
	*scene
	windows []*window
}

func newWindowScene(t *testing.T, s *scene) *windowScene {
	w := &windowScene{scene: s}
	t.Cleanup(func() {
		for _, open := range w.windows {
			open.close()
		}
	})
	return w
}

// window is set-wallet ui in this process.
type window struct {
	s      *scene
	stop   context.CancelFunc
	ended  chan int
	stderr bytes.Buffer
}

// ui starts the window and gives the address that it prints.
func (s *windowScene) ui(args ...string) (w *window, address string) {
	s.t.Helper()
	return s.startUI(append([]string{"--local"}, args...)...)
}

func (s *windowScene) startUI(args ...string) (w *window, address string) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w = &window{s: s.scene, stop: cancel, ended: make(chan int, 1)}
	out, in := io.Pipe()
	go func() {
		args := append([]string{"set-wallet", "ui", "--no-browser", "--dir", s.wallet(), "--reader", s.card.Name}, args...)
		code := cli.Run(ctx, newApp(), args, strings.NewReader(""), in, &w.stderr)
		in.Close()
		w.ended <- code
	}()
	s.windows = append(s.windows, w)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		s.t.Fatalf("the window prints no address: %v %s", err, w.stderr.String())
	}
	go io.Copy(io.Discard, out)
	return w, strings.TrimSpace(line)
}

// close ends the program, as a person does who logs out.
func (w *window) close() {
	w.stop()
	if w.ended == nil {
		return
	}
	if code := <-w.ended; code != 0 {
		w.s.t.Errorf("the window ended with code %d: %s", code, w.stderr.String())
	}
	w.ended = nil
	w.s.output = append(w.s.output, w.stderr.String())
}

// order writes the shop's initiation message to a file.
func (s *scene) order() string {
	s.t.Helper()
	b, err := s.shop.Initiation().Encode()
	if err != nil {
		s.t.Fatal(err)
	}
	return s.message(b)
}

func (s *scene) message(b []byte) string {
	s.t.Helper()
	f, err := os.CreateTemp(s.dir, "*.setpay")
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		s.t.Fatal(err)
	}
	return f.Name()
}

// offered opens the page of a new order and waits until it is complete.
func (s *windowScene) offered(b *tab) {
	s.t.Helper()
	s.shop.NewOrder()
	_, address := s.ui("--open", s.order())
	b.visit(address)
	b.sees("Pay 42.50 CHF")
}

const (
	approvedText = "The bank has approved the payment."
	pageTries    = "tries left"
)

func TestWindow(t *testing.T) {
	t.Parallel()
	c := newChromium(t)
	for name, walk := range map[string]func(*testing.T, *chromium){
		"purchase": testWindowPurchase, "decisions": testWindowDecisions, "once": testWindowOnce, "card": testWindowCard,
		"signature lost": testWindowSignatureLost, "interrupted": testWindowInterrupted, "enrolment": testWindowEnrolment,
		"hostile messages": testWindowHostile, "hostile pages": testWindowForeignPages,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			walk(t, c)
		})
	}
}

// A wake-up message opens the payment; a wrong PIN, the right one, the receipt.
func testWindowPurchase(t *testing.T, c *chromium) {
	s := newWindowScene(t, newScene(t))
	s.enroll()
	start := time.Now()
	_, address := s.ui("--open", s.order())
	b := c.open(t, "en")
	clicked := time.Now()
	b.visit(address)
	b.sees("Pay 42.50 CHF")
	t.Logf("from the start of the program to the page %v, from the browser's %v", time.Since(start), time.Since(clicked))
	for _, want := range []string{"Book Shop M-0001", "Bern, Switzerland", "Certificate valid", "The Elements of Programming", "•••• 1111", "G-0001"} {
		b.sees(want)
	}
	b.accessible("pay")
	if !b.eval(`(p => p.autocomplete === "off" && p.inputMode === "numeric" && p.type === "text" && getComputedStyle(p).webkitTextSecurity === "disc")(document.getElementById("pin"))`) {
		t.Error("the browser may keep the PIN, or shows it")
	}
	s.wantPayments(0)
	b.pin(wrongPIN)
	b.sees("2 " + pageTries)
	b.accessible("wrong-pin")
	s.wantPayments(0)
	typed := time.Now()
	b.pin(testPIN)
	b.sees(approvedText)
	t.Logf("from the PIN to the receipt %v", time.Since(typed))
	s.wantPayments(1)
	b.accessible("receipt")
	for _, page := range []string{"Overview", "History", "Cards", "Settings", "Help"} {
		b.press(page)
		b.until(fmt.Sprintf(`document.querySelector("nav [aria-current]")?.innerText === %q`, page))
		b.accessible(strings.ToLower(page))
	}
	b.press("Settings")
	b.end()
	b.press("Close the wallet")
	b.sees("The wallet is closed.")
}

// What the bank or the person says no to is not paid, and the page says so.
func testWindowDecisions(t *testing.T, c *chromium) {
	s := newWindowScene(t, newScene(t))
	s.enroll()
	b := c.open(t, "en")
	s.shop.Behave(wallettest.Behaviour{Code: set.AuthDeclined})
	s.offered(b)
	b.pin(testPIN)
	b.sees("The bank has declined the payment. Nothing was paid.")
	s.wantPayments(1)
	b.accessible("declined")
	b.until(`!!` + b.button("Back to the shop"))

	s.shop.Behave(wallettest.Behaviour{Rejected: true})
	s.offered(b)
	b.pin(testPIN)
	b.sees("The merchant has rejected the order")
	s.wantPayments(2)

	s.offered(b)
	b.press("Cancel")
	b.sees("Nothing was signed or paid.")
	b.accessible("cancelled")
	s.wantPayments(2)
	b.press("Overview")
	b.sees("Rejected")
	if strings.Contains(b.text(), "Go on") {
		t.Error("the cancelled payment is still open")
	}

	// An order that no card can pay, and a card that is blocked.
	s.shop.NewOrder()
	m := s.shop.Initiation()
	m.Brands = []set.BrandID{"Other"}
	wire, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	_, address := s.ui("--open", s.message(wire))
	b.visit(address)
	b.sees("No enrolled card fits")
	b.accessible("failed")

	s.offered(b)
	b.pin(wrongPIN)
	b.sees("2 " + pageTries)
	b.pin(wrongPIN)
	b.sees("Only one try is left")
	b.accessible("last-try")
	b.press("I am sure of my PIN")
	b.pin(wrongPIN)
	b.sees("The PIN is blocked")
	s.wantPayments(2)
}

// Two clicks, an old page, a reload and a second tab pay once.
func testWindowOnce(t *testing.T, c *chromium) {
	s := newWindowScene(t, newScene(t))
	s.enroll()
	b := c.open(t, "en")
	s.offered(b)
	// The form twice before the browser has gone on, and once more afterwards with the same numbers: a
	// wrong PIN costs one try.
	twice := chromedp.Evaluate[chromedp.Void](`(() => {
		const form = document.getElementById("pin").form, data = new URLSearchParams(new FormData(form));
		data.set("do", "go");
		window.send = () => fetch(form.action, {method: "POST", body: data});
		return Promise.all([send(), send()]).then(send);
	})()`, chromedp.EvalAwaitPromise)
	b.until(`document.activeElement?.id === "pin"`)
	b.do(chromedp.KeyEvent(wrongPIN), twice)
	b.sees("2 " + pageTries)
	b.do(chromedp.Evaluate[chromedp.Void](`send()`, chromedp.EvalAwaitPromise), chromedp.Reload())
	b.sees("2 " + pageTries)
	s.wantPayments(0)
	b.until(`document.activeElement?.id === "pin"`)
	b.do(chromedp.KeyEvent(testPIN), twice)
	b.sees(approvedText)
	s.wantPayments(1)
	receipt := b.text()

	b.do(chromedp.Reload())
	b.sees(approvedText)
	b.press("Overview")
	b.sees("Latest purchases")
	b.do(chromedp.NavigateBack())
	b.sees(approvedText)
	s.wantPayments(1)

	// The same order again, in a second tab.
	_, address := s.ui("--open", s.order())
	second := b.second()
	second.visit(address)
	second.sees("It was not paid again.")
	s.wantPayments(1)

	// Two tabs on one payment: the second answer comes too late.
	s.shop.NewOrder()
	_, address = s.ui("--open", s.order())
	b.visit(address)
	b.sees("Pay 42.50 CHF")
	here, err := chromedp.Run(b.ctx, chromedp.Location())
	if err != nil {
		t.Fatal(err)
	}
	second.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf("location.href = %q", here)))
	second.sees("Pay 42.50 CHF")
	b.pin(testPIN)
	b.sees(approvedText)
	second.sees(approvedText)
	s.wantPayments(2)

	// Every button of a finished purchase, twice.
	if !strings.Contains(receipt, "Ask the merchant") {
		t.Fatalf("receipt %s", receipt)
	}
	find := b.button("Ask the merchant")
	b.do(chromedp.Evaluate[chromedp.Void](find + `.click(), ` + find + `?.click()`))
	b.sees("Nothing is paid with it.")
	b.pin(testPIN)
	b.sees(approvedText)
	s.wantPayments(2)
	if n := s.shop.Count(set.InqReqType); n != 1 {
		t.Errorf("the merchant was asked %d times, want once", n)
	}

	// A real double click on Pay.
	s.offered(b)
	b.until(`document.activeElement?.id === "pin"`)
	b.do(chromedp.KeyEvent(testPIN), chromedp.DoubleClick(`button[value="go"]`))
	b.sees(approvedText)
	s.wantPayments(3)
}

// A card that is pulled is missed at once, and the payment goes on when it is back.
func testWindowCard(t *testing.T, c *chromium) {
	s := newWindowScene(t, newScene(t))
	s.enroll()
	b := c.open(t, "en")
	s.card.Unplug()
	s.shop.NewOrder()
	_, address := s.ui("--open", s.order())
	b.visit(address)
	b.sees("Insert your card")
	b.accessible("insert")
	s.card.Plug(s.card.Virtual)
	b.sees("Pay 42.50 CHF")
	b.until(`document.activeElement?.id === "pin"`)
	b.do(chromedp.KeyEvent("123"))
	s.card.Unplug()
	b.sees("The card was taken out")
	if !b.eval(`document.getElementById("pin").value === "123"`) {
		t.Error("what was typed is gone")
	}
	b.do(chromedp.KeyEvent("456"), chromedp.KeyEvent(kb.Enter))
	b.sees("Put the card back")
	b.accessible("put-back")
	s.wantPayments(0)
	s.card.Plug(s.card.Virtual)
	b.sees(approvedText)
	s.wantPayments(1)

	b.press("Cards")
	b.sees("in reader")
	s.card.Unplug()
	b.sees("in no reader")
	s.card.Plug(s.card.Virtual)
	b.sees("in reader")
}

// shakyCard loses the answer to a signature, when told to, as a card does that is pulled then.
type shakyCard struct {
	*virtual.Card
	loses atomic.Bool
}

func (c *shakyCard) Transmit(ctx context.Context, apdu []byte) ([]byte, error) {
	answer, err := c.Card.Transmit(ctx, apdu)
	const ins, p2, authenticate, signature = 1, 3, 0x87, 0x9C
	if len(apdu) > p2 && apdu[ins] == authenticate && apdu[p2] == signature && c.loses.CompareAndSwap(true, false) {
		return nil, errPulled
	}
	return answer, err
}

// A signature that was lost may exist: only the person lets the card sign anew.
func testWindowSignatureLost(t *testing.T, c *chromium) {
	plastic := virtual.NewCard()
	shaky := &shakyCard{Card: plastic}
	s := newWindowScene(t, newSceneWith(t, inReader(t, plastic, shaky, piv.ECDSAP256)))
	s.enroll()
	b := c.open(t, "en")
	s.offered(b)
	shaky.loses.Store(true)
	b.pin(testPIN)
	b.sees("The card was lost while it signed")
	b.sees("Nothing was sent and nothing was paid.")
	s.wantPayments(0)
	s.card.Unplug()
	s.card.Plug(shaky)
	b.press("Try again")
	b.pin(testPIN)
	b.sees(approvedText)
	s.wantPayments(1)
}

// The browser is closed and the program ended while the outcome is not known. Afterwards the wallet asks
// and shows what is true.
func testWindowInterrupted(t *testing.T, c *chromium) {
	s := newWindowScene(t, newScene(t))
	s.enroll()
	b := c.open(t, "en")
	s.shop.Behave(wallettest.Behaviour{Silent: true})
	s.shop.NewOrder()
	w, address := s.ui("--open", s.order())
	b.visit(address)
	b.pin(testPIN)
	b.sees("Sent; not confirmed yet")
	b.accessible("unclear")
	b.press("History")
	b.sees("Not known yet")
	b.do(chromedp.Navigate("about:blank"))
	w.close()
	s.shop.Behave(wallettest.Behaviour{})
	_, address = s.ui()
	b.visit(address)
	b.sees("Approved")
	if n := len(s.shop.Payments()); n != 1 {
		t.Errorf("%d different payments, want 1", n)
	}
	b.press("Book Shop M-0001")
	b.sees(approvedText)

	// An open page says when the wallet has gone, and offers nothing more.
	b.end()
	for _, w := range s.windows {
		w.close()
	}
	b.sees("The wallet has been closed.")
	b.until(`[...document.querySelectorAll("button")].every(e => e.disabled)`)
}

// With the bank's bundle a card is enrolled in French, with the keyboard alone.
func testWindowEnrolment(t *testing.T, c *chromium) {
	s := newWindowScene(t, newScene(t))
	offered := bankBundleFrom(s.world, 1, s.ca.URL)
	png, err := os.ReadFile("../../testdata/wallet/nordhavn.png")
	if err != nil {
		t.Fatal(err)
	}
	if offered.Bank.Logo, err = bundle.NewLogo(png); err != nil {
		t.Fatal(err)
	}
	signed, err := bundle.Sign(offered, s.world.Root, signingKey(), nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.dir, "bank.setwallet")
	if err := os.WriteFile(file, signed.Raw, 0o600); err != nil {
		t.Fatal(err)
	}
	_, address := s.ui()
	b := c.open(t, "fr-CH")
	b.visit(address)
	b.sees("Votre portefeuille")
	b.press("Cartes")
	b.sees("Aucune banque n’est installée")
	s.run(0, "yes\n", "install", "--dir", s.wallet(), file)
	b.do(chromedp.Reload())
	b.sees("Enregistrer une carte")
	b.accessible("cards-fr")
	b.walk("Enregistrer une carte")
	b.until(`!!document.getElementById("pan")`)
	b.accessible("account-fr")
	b.until(`document.activeElement.tagName === "H1"`)
	b.walk("pan")
	b.do(chromedp.KeyEvent("4111 1111 1111 1112"))
	b.walk("year")
	b.do(chromedp.KeyEvent("2099"), chromedp.KeyEvent(kb.Enter))
	b.sees("Ce n’est pas un numéro de carte.")
	b.until(`document.activeElement.id === "pan"`)
	b.do(chromedp.KeyEvent(testPAN))
	b.walk("month")
	b.do(chromedp.KeyEvent("11"))
	b.walk("year")
	b.do(chromedp.KeyEvent("2099"), chromedp.KeyEvent(kb.Enter))
	b.sees("Les conditions de la banque")
	b.accessible("policy-fr")
	b.walk("J’accepte les conditions")
	b.until(`!!document.getElementById("field0")`)
	b.accessible("form-fr")
	b.until(`document.activeElement.tagName === "H1"`)
	b.walk("field0")
	b.do(chromedp.KeyEvent("Ada Lovelace"))
	b.walk("field1")
	b.do(chromedp.KeyEvent(testSecret), chromedp.KeyEvent(kb.Enter))
	b.pin(wrongPIN)
	b.sees("encore 2 essais")
	s.ca.Pend(true)
	b.pin(testPIN)
	b.sees("Votre banque examine votre demande")
	b.accessible("pending-fr")
	b.press("Demander maintenant")
	b.pin(testPIN)
	b.sees("Votre banque examine votre demande")
	s.ca.Pend(false)
	b.press("Demander maintenant")
	b.pin(testPIN)
	b.sees("La carte est enregistrée")
	b.sees("Nordhavn Bank Campus •••• 1111")
	b.accessible("enrolled-fr")
	if n := s.ca.Requests(); n != 1 {
		t.Errorf("%d certificate requests, want 1", n)
	}

	// A bank's page can begin an enrolment, at a CA that is in the bundle.
	for ca, want := range map[string]string{s.ca.URL: "Numéro de carte", s.shop.URL: "Aucune banque n’est installée"} {
		m := &set.Initiation{
			Kind: set.RegistrationInitiation, SETURL: ca, QueryURL: ca, SuccessURL: ca, FailureURL: ca, CancelURL: ca, Versions: []string{"1.0"},
		}
		wire, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		_, address = s.ui("--open", s.message(wire))
		b.visit(address)
		b.sees(want)
	}
	_, address = s.ui("--open", s.order())
	b.visit(address)
	b.sees("Payer 42,50 CHF")
	b.until(`document.querySelector("img.logo")?.naturalWidth > 0`)
	b.accessible("pay-fr")
	b.pin(testPIN)
	b.sees("La banque a approuvé le paiement.")
	b.accessible("receipt-fr")
	b.press("Aperçu")
	b.accessible("overview-fr")
	b.press("Historique")
	b.accessible("history-fr")
}

// walk goes with the Tab key to what has this id or begins with this text. A button it presses.
func (b *tab) walk(name string) {
	b.t.Helper()
	for range 60 {
		b.do(chromedp.KeyEvent(kb.Tab))
		at := fmt.Sprintf(`(e => e.id === %q || e.tagName === "BUTTON" && e.innerText.trim().startsWith(%q))(document.activeElement)`, name, name)
		if b.eval(at) {
			if b.eval(`document.activeElement.tagName === "BUTTON"`) {
				b.do(chromedp.KeyEvent(" "))
			}
			return
		}
	}
	b.t.Fatalf("the Tab key does not lead to %q:\n%s", name, b.now())
}

// Wake-up messages of all kinds of malice.
func testWindowHostile(t *testing.T, c *chromium) {
	s := newWindowScene(t, newScene(t))
	s.enroll()
	good, err := s.shop.Initiation().Encode()
	if err != nil {
		t.Fatal(err)
	}
	with := func(name, value string) []byte {
		var out []string
		for _, line := range strings.SplitAfter(string(good), "\r\n") {
			if strings.HasPrefix(line, "SET-"+name+":") {
				line = "SET-" + name + ": " + value + "\r\n"
			}
			out = append(out, line)
		}
		return []byte(strings.Join(out, ""))
	}
	b := c.open(t, "en")
	const script = `<script>alert(1)</script><img src=x onerror=alert(1)>"'` + "`"
	for name, m := range map[string]struct {
		message []byte
		want    string
	}{
		"a script in every field": {bytes.ReplaceAll(bytes.ReplaceAll(good, []byte("text/plain"), []byte(script)), []byte("The Elements"), []byte(script)), "Pay 42.50 CHF"},
		"script for a kind":       {with("Initiation-Type", script), "This is no order to pay"},
		"script for a brand":      {with("Brand", script), "No enrolled card fits"},
		"huge":                    {append(bytes.Clone(good), bytes.Repeat([]byte("x"), initiationOctetsMax)...), "This is no order to pay"},
		"unknown currency":        {with("PurchAmt", "998 4250 -2"), "The amount cannot be understood"},
		"exponent out of bounds":  {with("PurchAmt", "756 4250 30"), "The amount cannot be understood"},
		"javascript":              {with("Success-URL", "javascript:alert(1)"), "This is no order to pay"},
		"file":                    {with("SET-URL", "file:///etc/passwd"), "This is no order to pay"},
		"instalments":             {bytes.Replace(good, []byte("SET-Brand"), []byte("SET-InstallRecur: install 5\r\nSET-Brand"), 1), "in at most 5 instalments"},
		"again and again":         {bytes.Replace(good, []byte("SET-Brand"), []byte("SET-InstallRecur: recur 28 20991231\r\nSET-Brand"), 1), "at most every 28 days, until 31 Dec 2099"},
		"SET-URL: javascript":     {with("SET-URL", "javascript:alert(1)"), "This is no order to pay"},
		"not a message":           {[]byte("\x00\xff<html>"), "This is no order to pay"},
	} {
		_, address := s.ui("--open", s.message(m.message))
		b.visit(address)
		b.sees(m.want)
		if b.eval(`document.querySelectorAll("main script, main img[src=x]").length > 0`) {
			t.Errorf("%s: the page has what the message brought", name)
		}
	}
	for _, window := range s.windows {
		window.close()
	}
	s.windows = nil
	// Without --local no message leads to this computer, in whatever way it names it.
	_, address := s.startUI()
	b.visit(address)
	b.sees("Your wallet")
	for _, to := range []string{s.shop.URL, "http://localhost:631/", "http://[::1]:8080/", "http://0x7f.1/", "http://169.254.169.254/latest", "http://127.0.0.1.:9/"} {
		_, address := s.startUI("--open", s.message(with("SET-URL", to)))
		b.visit(address)
		b.sees("This order points to your own computer")
	}
	b.accessible("local")
	s.wantPayments(0)
	const acceptable = 3 // a script in its text, instalments, again and again
	if n := s.shop.Count(set.PInitReqType); n != acceptable {
		t.Errorf("%d messages were sent, want %d", n, acceptable)
	}
}
