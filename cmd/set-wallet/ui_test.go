package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/setkit/setkit/cmd/internal/browsertest"
	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/bundle"
	"github.com/setkit/setkit/roles/set/pki"
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

	process *exec.Cmd // nil in this process
}

// kill ends the program as a crash does.
func (w *window) kill() {
	w.process.Process.Kill()
	<-w.ended
	w.ended = nil
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

// program starts the window as a process of its own, which reaches smart cards through a pcscd of its own.
func (s *windowScene) program(socket string, args ...string) (w *window, address string) {
	s.t.Helper()
	return s.start([]string{"PCSCLITE_CSOCK_NAME=" + socket}, append([]string{"ui", "--no-browser", "--local"}, args...)...)
}

// start starts set-wallet as a process of its own, and gives the first line that it prints.
func (s *windowScene) start(env []string, args ...string) (w *window, line string) {
	s.t.Helper()
	cmd := exec.Command("set-wallet", args...)
	cmd.Env = append(append(os.Environ(), "SET_WALLET_DIR="+s.wallet()), env...)
	w = &window{s: s.scene, process: cmd, stop: func() { cmd.Process.Signal(os.Interrupt) }, ended: make(chan int, 1)}
	cmd.Stderr = &w.stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.windows = append(s.windows, w)
	lines := bufio.NewReader(out)
	line, err = lines.ReadString('\n')
	go func() {
		io.Copy(io.Discard, lines)
		cmd.Wait()
		w.ended <- cmd.ProcessState.ExitCode()
	}()
	if err != nil {
		s.t.Fatalf("the window prints no address: %v", err)
	}
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

func serialOf(card *virtual.Card) string { return strconv.FormatUint(uint64(card.Serial()), 10) }

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
func (s *windowScene) offered(b *browsertest.Tab) {
	s.t.Helper()
	s.shop.NewOrder()
	_, address := s.ui("--open", s.order())
	b.Visit(address)
	b.Sees("Pay 42.50 CHF")
}

const (
	approvedText = "The bank has approved the payment."
	pageTries    = "tries left"
)

func TestWindow(t *testing.T) {
	t.Parallel()
	c := browsertest.New(t, "wallet")
	for name, walk := range map[string]func(*testing.T, *browsertest.Chromium){
		"purchase": testWindowPurchase, "decisions": testWindowDecisions, "once": testWindowOnce, "card": testWindowCard,
		"signature lost": testWindowSignatureLost, "interrupted": testWindowInterrupted, "enrolment": testWindowEnrolment,
		"hostile messages": testWindowHostile, "hostile pages": testWindowForeignPages, "install": testWindowInstall, "PIN": testWindowPIN,
		"renewal": testWindowRenewal, "keypad": testWindowKeypad, "readers": testWindowReaders, "idle": testWindowIdle, "who saw what": testWindowSaw,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			walk(t, c)
		})
	}
}

// A wake-up message opens the payment; a wrong PIN, the right one, the receipt.
func testWindowPurchase(t *testing.T, c *browsertest.Chromium) {
	s := newWindowScene(t, newScene(t))
	s.enroll()
	start := time.Now()
	_, address := s.ui("--open", s.order())
	b := c.Open(t, "en")
	clicked := time.Now()
	b.Visit(address)
	b.Sees("Pay 42.50 CHF")
	t.Logf("from the start of the program to the page %v, from the browser's %v", time.Since(start), time.Since(clicked))
	for _, want := range []string{"Book Shop M-0001", "Bern, Switzerland", "Certificate valid", "The Elements of Programming", "•••• 1111", "G-0001"} {
		b.Sees(want)
	}
	b.Accessible("pay")
	if !b.Is(`(p => p.autocomplete === "off" && p.inputMode === "numeric" && p.type === "text" && getComputedStyle(p).webkitTextSecurity === "disc")(document.getElementById("pin"))`) {
		t.Error("the browser may keep the PIN, or shows it")
	}
	s.wantPayments(0)
	b.PIN(wrongPIN)
	b.Sees("2 " + pageTries)
	b.Accessible("wrong-pin")
	s.wantPayments(0)
	typed := time.Now()
	b.PIN(testPIN)
	b.Sees(approvedText)
	t.Logf("from the PIN to the receipt %v", time.Since(typed))
	s.wantPayments(1)
	b.Accessible("receipt")
	for _, page := range []string{"Overview", "History", "Cards", "Settings", "Help"} {
		b.Press(page)
		b.Until(fmt.Sprintf(`document.querySelector("nav [aria-current]")?.innerText === %q`, page))
		b.Accessible(strings.ToLower(page))
	}
	b.Press("Settings")
	b.End()
	b.Press("Close the wallet")
	b.Sees("The wallet is closed.")
}

// What the bank or the person says no to is not paid, and the page says so.
func testWindowDecisions(t *testing.T, c *browsertest.Chromium) {
	s := newWindowScene(t, newScene(t))
	s.enroll()
	b := c.Open(t, "en")
	s.shop.Behave(wallettest.Behaviour{Code: set.AuthDeclined})
	s.offered(b)
	b.PIN(testPIN)
	b.Sees("The bank has declined the payment. Nothing was paid.")
	s.wantPayments(1)
	b.Accessible("declined")
	b.Until(`!!` + b.Button("Back to the shop"))

	s.shop.Behave(wallettest.Behaviour{Rejected: true})
	s.offered(b)
	b.PIN(testPIN)
	b.Sees("The merchant has rejected the order")
	s.wantPayments(2)

	s.offered(b)
	b.Press("Cancel")
	b.Sees("Nothing was signed or paid.")
	b.Accessible("cancelled")
	s.wantPayments(2)
	b.Press("Overview")
	b.Sees("Rejected")
	if strings.Contains(b.Text(), "Go on") {
		t.Error("the cancelled payment is still open")
	}

	// The shop has changed the order since it woke the wallet.
	old := s.order()
	s.shop.NewOrder()
	_, address := s.ui("--open", old)
	b.Visit(address)
	b.Sees("The answer is not acceptable")
	b.Sees("Order again")
	b.Press("Cancel")
	s.wantPayments(2)

	// An order that no card can pay, and a card that is blocked.
	s.shop.NewOrder()
	m := s.shop.Initiation()
	m.Brands = []set.BrandID{"Other"}
	wire, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	_, address = s.ui("--open", s.message(wire))
	b.Visit(address)
	b.Sees("No enrolled card fits")
	b.Accessible("failed")

	s.offered(b)
	b.PIN(wrongPIN)
	b.Sees("2 " + pageTries)
	b.PIN(wrongPIN)
	b.Sees("Only one try is left")
	b.Accessible("last-try")
	b.Press("I am sure of my PIN")
	b.PIN(wrongPIN)
	b.Sees("The PIN is blocked")
	s.wantPayments(2)
}

// Two clicks, an old page, a reload and a second tab pay once.
func testWindowOnce(t *testing.T, c *browsertest.Chromium) {
	s := newWindowScene(t, newScene(t))
	s.enroll()
	b := c.Open(t, "en")
	s.offered(b)
	// The form twice before the browser has gone on, and once more afterwards with the same numbers: a
	// wrong PIN costs one try.
	twice := `(() => {
		const form = document.getElementById("pin").form, data = new URLSearchParams(new FormData(form));
		data.set("do", "go");
		window.send = () => fetch(form.action, {method: "POST", body: data});
		return Promise.all([send(), send()]).then(send);
	})()`
	b.Until(`document.activeElement?.id === "pin"`)
	b.Type(wrongPIN)
	b.Run(twice)
	b.Sees("2 " + pageTries)
	b.Run(`send()`)
	b.Reload()
	b.Sees("2 " + pageTries)
	s.wantPayments(0)
	b.Until(`document.activeElement?.id === "pin"`)
	b.Type(testPIN)
	b.Run(twice)
	b.Sees(approvedText)
	s.wantPayments(1)
	receipt := b.Text()

	b.Reload()
	b.Sees(approvedText)
	b.Press("Overview")
	b.Sees("Latest purchases")
	b.Back()
	b.Sees(approvedText)
	s.wantPayments(1)

	// The same order again, in a second tab.
	_, address := s.ui("--open", s.order())
	second := b.Second()
	second.Visit(address)
	second.Sees("It was not paid again.")
	s.wantPayments(1)

	// Two tabs on one payment: the second answer comes too late.
	s.shop.NewOrder()
	_, address = s.ui("--open", s.order())
	b.Visit(address)
	b.Sees("Pay 42.50 CHF")
	here := b.Address()
	second.Visit(here)
	second.Sees("Pay 42.50 CHF")
	b.PIN(testPIN)
	b.Sees(approvedText)
	second.Sees(approvedText)
	s.wantPayments(2)

	// Every button of a finished purchase, twice.
	if !strings.Contains(receipt, "Ask the merchant") {
		t.Fatalf("receipt %s", receipt)
	}
	find := b.Button("Ask the merchant")
	b.Run(find + `.click(), ` + find + `?.click()`)
	b.Sees("Nothing is paid with it.")
	b.PIN(testPIN)
	b.Sees(approvedText)
	s.wantPayments(2)
	if n := s.shop.Count(set.InqReqType); n != 1 {
		t.Errorf("the merchant was asked %d times, want once", n)
	}

	// A real double click on Pay.
	s.offered(b)
	b.Until(`document.activeElement?.id === "pin"`)
	b.Type(testPIN)
	b.Do(chromedp.DoubleClick(`button[value="go"]`))
	b.Sees(approvedText)
	s.wantPayments(3)
}

// A card that is pulled is missed at once, and the payment goes on when it is back.
func testWindowCard(t *testing.T, c *browsertest.Chromium) {
	s := newWindowScene(t, newScene(t))
	s.enroll()
	b := c.Open(t, "en")
	s.card.Unplug()
	s.shop.NewOrder()
	_, address := s.ui("--open", s.order())
	b.Visit(address)
	b.Sees("Insert your card")
	b.Accessible("insert")
	s.card.Plug(s.card.Virtual)
	b.Sees("Pay 42.50 CHF")
	b.Until(`document.activeElement?.id === "pin"`)
	b.Type("123")
	s.card.Unplug()
	b.Sees("The card was taken out")
	if !b.Is(`document.getElementById("pin").value === "123"`) {
		t.Error("what was typed is gone")
	}
	b.Type("456" + kb.Enter)
	b.Sees("Put the card back")
	b.Accessible("put-back")
	s.wantPayments(0)
	s.card.Plug(s.card.Virtual)
	b.Sees(approvedText)
	s.wantPayments(1)

	b.Press("Cards")
	b.Sees("in reader")
	s.card.Unplug()
	b.Sees("in no reader")
	s.card.Plug(s.card.Virtual)
	b.Sees("in reader")
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
func testWindowSignatureLost(t *testing.T, c *browsertest.Chromium) {
	plastic := virtual.NewCard()
	shaky := &shakyCard{Card: plastic}
	s := newWindowScene(t, newSceneWith(t, inReader(t, plastic, shaky, piv.ECDSAP256)))
	s.enroll()
	b := c.Open(t, "en")
	s.offered(b)
	shaky.loses.Store(true)
	b.PIN(testPIN)
	b.Sees("The card was lost while it signed")
	b.Sees("Nothing was sent and nothing was paid.")
	s.wantPayments(0)
	s.card.Unplug()
	s.card.Plug(shaky)
	b.Press("Try again")
	b.PIN(testPIN)
	b.Sees(approvedText)
	s.wantPayments(1)
}

// The browser is closed and the program ended while the outcome is not known. Afterwards the wallet asks
// and shows what is true.
func testWindowInterrupted(t *testing.T, c *browsertest.Chromium) {
	s := newWindowScene(t, newScene(t))
	s.enroll()
	b := c.Open(t, "en")
	s.shop.Behave(wallettest.Behaviour{Silent: true})
	s.shop.NewOrder()
	w, address := s.ui("--open", s.order())
	b.Visit(address)
	b.PIN(testPIN)
	b.Sees("Sent; not confirmed yet")
	b.Accessible("unclear")
	b.Press("History")
	b.Sees("Not known yet")
	b.Do(chromedp.Navigate("about:blank"))
	w.close()
	s.shop.Behave(wallettest.Behaviour{})
	_, address = s.ui()
	b.Visit(address)
	b.Sees("Approved")
	if n := len(s.shop.Payments()); n != 1 {
		t.Errorf("%d different payments, want 1", n)
	}
	b.Press("Book Shop M-0001")
	b.Sees(approvedText)

	// An open page says when the wallet has gone, and offers nothing more.
	b.End()
	for _, w := range s.windows {
		w.close()
	}
	b.Sees("The wallet has been closed.")
	b.Until(`[...document.querySelectorAll("button")].every(e => e.disabled)`)
}

// With the bank's bundle a card is enrolled in French, with the keyboard alone.
func testWindowEnrolment(t *testing.T, c *browsertest.Chromium) {
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
	b := c.Open(t, "fr-CH")
	b.Visit(address)
	b.Sees("Votre portefeuille")
	b.Press("Cartes")
	b.Sees("Aucune banque n’est encore installée")
	s.installInFrench(b, file, signed.Signer)
	b.Sees("Enregistrer une carte")
	b.Accessible("cards-fr")
	b.Walk("Enregistrer une carte")
	b.Until(`!!document.getElementById("pan")`)
	b.Accessible("account-fr")
	b.Until(`document.activeElement.tagName === "H1"`)
	b.Walk("pan")
	b.Type("4111 1111 1111 1112")
	b.Walk("year")
	b.Type("2099" + kb.Enter)
	b.Sees("Ce n’est pas un numéro de carte.")
	b.Until(`document.activeElement.id === "pan"`)
	b.Type(testPAN)
	b.Walk("month")
	b.Type("11")
	b.Walk("year")
	b.Type("2099" + kb.Enter)
	b.Sees("Les conditions de la banque")
	b.Accessible("policy-fr")
	b.Walk("J’accepte les conditions")
	b.Until(`!!document.getElementById("field0")`)
	b.Accessible("form-fr")
	b.Until(`document.activeElement.tagName === "H1"`)
	b.Walk("field0")
	b.Type("Ada Lovelace")
	b.Walk("field1")
	b.Type(testSecret + kb.Enter)
	b.PIN(wrongPIN)
	b.Sees("encore 2 essais")
	s.ca.Pend(true)
	b.PIN(testPIN)
	b.Sees("Votre banque examine votre demande")
	b.Accessible("pending-fr")
	b.Press("Demander maintenant")
	b.PIN(testPIN)
	b.Sees("Votre banque examine votre demande")
	s.ca.Pend(false)
	b.Press("Cartes")
	b.Sees("attend votre banque")
	b.Accessible("waiting-fr")
	b.Press("Demander maintenant")
	b.PIN(testPIN)
	b.Sees("La carte est enregistrée")
	b.Sees("Nordhavn Bank Campus •••• 1111")
	b.Accessible("enrolled-fr")
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
		b.Visit(address)
		b.Sees(want)
	}
	b.Do(chromedp.Navigate("about:blank"))
	s.walkInFrench(c.Open(t, "fr-CH"))
}

// walkInFrench pays, looks at every page and begins all that can be begun.
func (s *windowScene) walkInFrench(b *browsertest.Tab) {
	s.t.Helper()
	_, address := s.ui("--open", s.order())
	b.Visit(address)
	b.Sees("Payer 42,50 CHF")
	b.Until(`document.querySelector("img.logo")?.naturalWidth > 0`)
	b.Accessible("pay-fr")
	french := func(name string) {
		s.t.Helper()
		if foreign := browsertest.Value[[]string](b, notFrench); len(foreign) > 0 {
			s.t.Errorf("%s: %q", name, foreign)
		}
	}
	french("pay")
	b.PIN(wrongPIN)
	b.Sees("encore 2 essais")
	french("wrong PIN")
	b.PIN(testPIN)
	b.Sees("La banque a approuvé le paiement.")
	b.Accessible("receipt-fr")
	french("receipt")
	for _, page := range []string{"Aperçu", "Historique", "Réglages", "Aide", "Cartes"} {
		b.Press(page)
		b.Until(fmt.Sprintf(`document.querySelector("nav [aria-current]")?.innerText === %q`, page))
		if page == "Cartes" || page == "Réglages" {
			b.Accessible(strings.ReplaceAll(page, "é", "e") + "-fr")
		}
		french(page)
	}
	for _, begin := range []struct{ button, sees, cancelled string }{
		{"Renouveler", "Pour une nouvelle carte à puce", "n’a pas été renouvelé"},
		{"Enregistrer une carte", "Numéro de carte", "n’a pas été enregistrée"},
		{"Changer le NIP", "NIP actuel", "n’a pas été changé"},
		{"NIP bloqué ou oublié", "Code PUK", "n’a pas été changé"},
	} {
		b.Press(begin.button)
		b.Sees(begin.sees)
		french(begin.button)
		b.Press("Annuler")
		b.Sees(begin.cancelled)
		french(begin.button + ", cancelled")
		b.Press("Cartes")
	}
	s.card.Unplug()
	b.Sees("dans aucun lecteur")
	french("no card")
	b.Press("Changer le NIP")
	b.Sees("Mettez la carte")
	french("insert")
	b.Press("Annuler")
	s.card.Plug(s.card.Virtual)
	s.shop.Behave(wallettest.Behaviour{Silent: true, Code: set.AuthDeclined})
	s.shop.NewOrder()
	_, address = s.ui("--open", s.order())
	b.Visit(address)
	b.PIN(testPIN)
	b.Sees("Envoyé ; pas encore confirmé")
	french("unclear")
	s.shop.Behave(wallettest.Behaviour{Code: set.AuthDeclined})
	b.Sees("La banque a refusé le paiement.") // the wallet has asked by itself
	french("declined")
	used := b.Second()
	used.Foreign() // a page that is refused is an error in the console
	used.Visit(address)
	used.Sees("Cette adresse a déjà servi")
	b.Press("Réglages")
	b.End()
	b.Press("Fermer le portefeuille")
	b.Sees("Le portefeuille est fermé.")
	french("closed")
}

// notFrench gives what a page shows in French and has a word that is English only.
const notFrench = `(() => {
	const english = /\b(the|your|you|and|with|was|were|not|this|that|from|of|is|are|it|to|for|by|until|card|reader|wrong|wallet)\b/i;
	const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
	while (texts.nextNode()) {
		const at = texts.currentNode.parentElement, text = texts.currentNode.data.replaceAll(/set-(wallet|card)/g, "");
		if (at.closest("[lang]").lang === "fr" && !at.closest(".text, .code, blockquote") && english.test(text)) found.push(text);
	}
	return found;
})()`

// installInFrench installs a bank with the keyboard alone.
func (s *windowScene) installInFrench(b *browsertest.Tab, file string, signer pki.Digest) {
	s.t.Helper()
	b.Walk("Installer un paquet")
	b.Sees("Votre banque remet son paquet")
	b.Until(`document.activeElement.tagName === "H1"`)
	b.Walk("Continuer")
	b.Sees("Indiquez un fichier, ou une adresse")
	b.Until(`document.activeElement.id === "file"`)
	b.Choose("file", file)
	b.Fill("fingerprint", "0123")
	b.Type(kb.Enter)
	b.Sees("Ce n’est pas une empreinte")
	b.Accessible("bundle-fr")
	b.Choose("file", s.order()) // no bundle at all
	b.Fill("fingerprint", kb.Backspace+kb.Enter)
	b.Sees("Ce n’est pas un paquet de banque")
	b.Walk("Réessayer")
	b.Until(`!!document.getElementById("file")`)
	b.Choose("file", file)
	b.Walk("Continuer")
	b.Sees(cli.Grouped(signer.String()))
	b.Sees("Est-ce votre banque ?")
	b.Accessible("trust-fr")
	b.Until(`document.activeElement.tagName === "H1"`)
	b.Walk("La lettre a la même empreinte")
	b.Sees("La banque est installée")
	b.Press("Vers les cartes")
}

// Wake-up messages of all kinds of malice.
func testWindowHostile(t *testing.T, c *browsertest.Chromium) {
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
	b := c.Open(t, "en")
	const script = `<script>alert(1)</script><img src=x onerror=alert(1)>"'` + "`"
	for name, m := range map[string]struct {
		message []byte
		want    string
	}{
		"a script in every field": {bytes.ReplaceAll(bytes.ReplaceAll(good, []byte("text/plain"), []byte(script)), []byte("The Elements"), []byte(script)), "Pay 42.50 CHF"},
		"script for a kind":       {with("Initiation-Type", script), "This is no order to pay"},
		"another kind":            {with("Initiation-Type", set.InquiryInitiation), "This is no order to pay"},
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
		b.Visit(address)
		b.Sees(m.want)
		if b.Is(`document.querySelectorAll("main script, main img[src=x]").length > 0`) {
			t.Errorf("%s: the page has what the message brought", name)
		}
	}
	b.Do(chromedp.Navigate("about:blank"))
	for _, window := range s.windows {
		window.close()
	}
	s.windows = nil
	// Without --local no message leads to this computer, in whatever way it names it.
	_, address := s.startUI()
	b.Visit(address)
	b.Sees("Your wallet")
	for _, to := range []string{s.shop.URL, "http://localhost:631/", "http://[::1]:8080/", "http://0x7f.1/", "http://169.254.169.254/latest", "http://127.0.0.1.:9/"} {
		_, address := s.startUI("--open", s.message(with("SET-URL", to)))
		b.Visit(address)
		b.Sees("This points to your own computer")
	}
	b.Accessible("local")
	b.Press("Settings")
	b.Press("Install a bundle")
	b.Fill("url", s.shop.PayURL+kb.Enter)
	b.Sees("This points to your own computer")
	s.wantPayments(0)
	const acceptable = 3 // a script in its text, instalments, again and again
	if n := s.shop.Count(set.PInitReqType); n != acceptable {
		t.Errorf("%d messages were sent, want %d", n, acceptable)
	}
}
