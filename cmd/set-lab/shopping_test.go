package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/setkit/setkit/cmd/internal/browsertest"
)

// shopping is a person at a workstation: a browser, a desktop that opens orders with the wallet, and the lab's card.
type shopping struct {
	*testWorld
	browser *browsertest.Chromium
	desktop string // directory of the desktop's files
	window  *exec.Cmd
}

// Files of the desktop that set-wallet desktop install writes.
const (
	menuEntry = "applications/set-wallet.desktop"
	openEntry = "applications/set-wallet-open.desktop"
)

// What the wallet and the shop say.
const (
	walletApproved = "The bank has approved the payment."
	shopPaid       = "Your order is paid."
	shopPay        = "Pay with card reader"
)

// testShopping walks through the shop and the wallet's window as people do, each in a browser of their own. They
// pay with the same card. At the end the bank has booked what was approved, and nothing else.
func (w *testWorld) testShopping(t *testing.T) {
	s := &shopping{testWorld: w, browser: browsertest.New(t, "shop"), desktop: t.TempDir()}
	s.installDesktop(t)
	t.Cleanup(func() { s.endWindow(t, syscall.SIGTERM) })
	before, earned := s.alice(t), s.earned(t)
	var spent int64
	for _, walk := range []struct {
		name string
		do   func(*testing.T, *shopping)
		pays int64 // cents
	}{
		{"purchase", walkPurchase, 36_50},
		{"declined", walkDeclined, 0},
		{"cancelled", walkCancelled, 4_50},
		{"card pulled", walkCardPulled, 8_20},
		{"interrupted", walkInterrupted, 95},
		{"double clicks", walkDoubleClicks, 2_85},
		{"back", walkBack, 95},
		{"French", walkFrench, 95},
		{"troubles", walkTroubles, 95},
	} {
		t.Run(walk.name, func(t *testing.T) {
			walk.do(t, s)
			spent += walk.pays
		})
	}
	s.wantBooked(t, before, spent)
	if got := s.earned(t) - earned; got != spent {
		t.Errorf("the shop has collected %d cents, want %d", got, spent)
	}
}

// installDesktop has the desktop know the wallet. Its program that opens addresses notes them for the browser.
func (s *shopping) installDesktop(t *testing.T) {
	t.Helper()
	script := "#!/bin/sh\nprintf '%s\\n' \"$1\" >\"$OPENED.new\" && mv \"$OPENED.new\" \"$OPENED\"\n"
	if err := os.WriteFile(filepath.Join(s.desktop, "xdg-open"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := s.run(t.Context(), []string{"XDG_DATA_HOME=" + s.desktop}, "set-wallet", "desktop", "install", "--local", "--dir", s.path("wallet")); err != nil {
		t.Fatal(err)
	}
}

// launch starts what an entry of the desktop says, and gives the address that is then opened in the browser.
func (s *shopping) launch(t *testing.T, entry string, files ...string) (address string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.desktop, entry))
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(text), "\nExec=")
	line, _, _ = strings.Cut(line, "\n")
	line = strings.NewReplacer(`\\`, `\`, "%f", `"$1"`, "%%", "%").Replace(line) // is now a shell's
	opened := filepath.Join(s.desktop, "opened")
	if err := os.Remove(opened); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", append([]string{"-c", "exec " + line, "sh"}, files...)...)
	cmd.Env = append(s.cardEnv(), "PATH="+s.desktop+":"+os.Getenv("PATH"), "OPENED="+opened)
	said := new(bytes.Buffer)
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(time.Millisecond) {
		if b, err := os.ReadFile(opened); err == nil {
			address = strings.TrimSpace(string(b))
			break
		}
		if time.Now().After(deadline) {
			cmd.Process.Kill()
			err := cmd.Wait()
			t.Fatalf("%s opens nothing: %v\n%s", line, err, said)
		}
	}
	if s.window == nil {
		s.window = cmd
	} else if err := cmd.Wait(); err != nil { // the window that is open opens it
		t.Fatalf("%s: %v\n%s", line, err, said)
	}
	return address
}

// endWindow ends the wallet's program.
func (s *shopping) endWindow(t *testing.T, with syscall.Signal) {
	t.Helper()
	if s.window == nil {
		return
	}
	if err := s.window.Process.Signal(with); err != nil {
		t.Error(err)
	}
	if err := s.window.Wait(); err != nil && with != syscall.SIGKILL {
		t.Errorf("the wallet's window: %v\n%s", err, s.window.Stderr)
	}
	s.window = nil
}

// enter comes to the shop.
func (s *shopping) enter(t *testing.T, language string) *browsertest.Tab {
	t.Helper()
	b := s.browser.Open(t, language)
	b.Visit(s.url("merchant"))
	return b
}

// order orders one of an item, and gives the address of the order.
func (s *shopping) order(b *browsertest.Tab, item string) string {
	b.Press("Add to basket: " + item)
	b.Press("Place the order")
	b.Sees("Not paid yet")
	return b.Address()
}

// pay presses the button that pays, and gives the tab in which the wallet then shows what is to be paid.
func (s *shopping) pay(t *testing.T, b *browsertest.Tab, amount string) *browsertest.Tab {
	t.Helper()
	file := b.Download(func() { b.Press(shopPay) })
	wallet := b.Second()
	wallet.Visit(s.launch(t, openEntry, file))
	wallet.Sees("Pay " + amount)
	return wallet
}

// paid waits until an order's page says that the money was collected.
func (s *shopping) paid(b *browsertest.Tab) {
	paid := fmt.Sprintf(`document.body.innerText.includes(%q)`, shopPaid)
	for b.Sees("Thank you."); !b.Is(paid); b.Sees("Thank you.") {
		b.Reload()
	}
}

// comeBack looks at a tab again that was behind others.
func (s *shopping) comeBack(b *browsertest.Tab) {
	b.Run(`document.dispatchEvent(new Event("visibilitychange"))`)
}

// wantRequests expects so many purchase requests at the merchant since there were before.
func (s *shopping) wantRequests(t *testing.T, before, want int) {
	t.Helper()
	if got := len(s.purchaseRequests(t)) - before; got != want {
		t.Errorf("the wallet sent %d purchase requests, want %d", got, want)
	}
}

// state gives the state of the order at an address.
func (s *shopping) state(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	o, err := s.showOrder(t.Context(), strings.Split(u.Path, "/")[2])
	if err != nil {
		t.Fatal(err)
	}
	return o.State
}

// card does something with the card: insert or remove.
func (s *shopping) card(t *testing.T, do string) {
	t.Helper()
	if _, err := s.run(t.Context(), nil, "set-card", "emulate", do, "--dir", s.PCSCDir, "1"); err != nil {
		t.Fatal(err)
	}
}

// alice gives the account of the card.
func (s *shopping) alice(t *testing.T) account {
	t.Helper()
	a, err := s.account(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// wantBooked waits until the bank has booked so many cents. Nothing more may be booked then, or held.
func (s *shopping) wantBooked(t *testing.T, before account, spent int64) {
	t.Helper()
	for deadline := time.Now().Add(clearTimeout); ; time.Sleep(pollInterval) {
		now := s.alice(t)
		booked := cents(now.Booked) - cents(before.Booked)
		if booked == spent && now.Held == before.Held && cents(now.Available) == cents(before.Available)-spent {
			return
		}
		if booked > spent || time.Now().After(deadline) {
			t.Fatalf("%d cents were approved; the account was %+v and is %+v", spent, before, now)
		}
	}
}

// The catalogue, basket and order with the keyboard alone; a wrong PIN, the right one, the receipt, and back to
// the shop, whose page tells the truth as often as it is asked.
func walkPurchase(t *testing.T, s *shopping) {
	sent := len(s.purchaseRequests(t))
	b := s.enter(t, "en")
	b.Sees("Atlas of the Northern Harbours")
	b.Accessible("catalogue")
	b.Walk("Add to basket: Atlas of the Northern Harbours")
	b.Sees("Quantity 0 removes an item.")
	b.Accessible("basket")
	b.Walk("Place the order")
	b.Sees("Not paid yet")
	b.Accessible("order")
	order := b.Address()
	file := b.Download(func() { b.Walk(shopPay) })
	if filepath.Ext(file) != ".setpay" {
		t.Errorf("the browser gets %s, want a file whose name the desktop knows", file)
	}
	wallet := b.Second()
	clicked := time.Now()
	wallet.Visit(s.launch(t, openEntry, file))
	wallet.Sees("Pay 36.50 USD")
	t.Logf("from the start of set-wallet ui --open to the wallet's page: %v", time.Since(clicked).Round(time.Millisecond))
	for _, want := range []string{"Certificate valid", "1 x Atlas of the Northern Harbours", "Nordhavn Bank Meridian •••• 1111"} {
		wallet.Sees(want)
	}
	wallet.Accessible("wallet-pay")
	wallet.PIN("999999")
	wallet.Sees("2 tries left")
	s.wantRequests(t, sent, 0)
	typed := time.Now()
	wallet.PIN(cardPIN)
	wallet.Sees(walletApproved)
	t.Logf("from the PIN to the receipt: %v", time.Since(typed).Round(time.Millisecond))
	wallet.Accessible("wallet-receipt")
	wallet.Press("Back to the shop")
	wallet.Sees("Thank you.")
	if got, want := wallet.Address(), order+"/success"; got != want {
		t.Errorf("the wallet leads to %s, want %s", got, want)
	}
	s.paid(wallet)
	wallet.Accessible("paid")

	// The truth again: after a reload, in a second tab, on the page from before the payment, in the history.
	wallet.Reload()
	wallet.Sees(shopPaid)
	second := wallet.Second()
	second.Visit(order + "/success")
	second.Sees(shopPaid)
	s.comeBack(b)
	b.Sees(shopPaid)
	for _, tab := range []*browsertest.Tab{wallet, second, b} {
		if tab.Is(`!!` + tab.Button(shopPay)) {
			t.Errorf("%s offers to pay once more", tab.Address())
		}
	}
	b.Press("Orders")
	b.Sees("Your orders")
	b.Until(`document.querySelectorAll("tbody tr").length === 1 && document.querySelector(".state").innerText === "paid"`)
	b.Accessible("history")
	s.wantRequests(t, sent, 1)
}

// What the bank declines costs nothing, and may be tried again.
func walkDeclined(t *testing.T, s *shopping) {
	sent := len(s.purchaseRequests(t))
	b := s.enter(t, "en")
	order := s.order(b, "Brass telescope")
	for n := range 2 {
		wallet := s.pay(t, b, "649.00 USD")
		wallet.PIN(cardPIN)
		wallet.Sees("The bank has declined the payment. Nothing was paid.")
		wallet.Press("Back to the shop")
		wallet.Sees("The payment was declined")
		if got, want := wallet.Address(), order+"/failure"; got != want {
			t.Errorf("the wallet leads to %s, want %s", got, want)
		}
		s.wantRequests(t, sent, n+1)
		b = wallet
	}
	b.Accessible("declined")
}

// Who cancels in the wallet comes back to an order that can still be paid.
func walkCancelled(t *testing.T, s *shopping) {
	sent := len(s.purchaseRequests(t))
	b := s.enter(t, "en")
	order := s.order(b, "Notebook, 96 pages, squared")
	wallet := s.pay(t, b, "4.50 USD")
	wallet.Press("Cancel")
	wallet.Sees("Nothing was signed or paid.")
	wallet.Press("Back to the shop")
	wallet.Sees("You cancelled the payment")
	if got, want := wallet.Address(), order+"/cancel"; got != want {
		t.Errorf("the wallet leads to %s, want %s", got, want)
	}
	wallet.Accessible("cancelled")
	s.wantRequests(t, sent, 0)
	again := s.pay(t, wallet, "4.50 USD")
	again.PIN(cardPIN)
	again.Sees(walletApproved)
	again.Press("Back to the shop")
	s.paid(again)
	wallet.Reload() // the page that said it was cancelled
	wallet.Sees(shopPaid)
	s.wantRequests(t, sent, 1)
}

// A card that is pulled while the person reads, and while it is to sign, is waited for.
func walkCardPulled(t *testing.T, s *shopping) {
	sent := len(s.purchaseRequests(t))
	b := s.enter(t, "en")
	s.order(b, "Inkwell, blue-black")
	wallet := s.pay(t, b, "8.20 USD")
	s.card(t, "remove")
	wallet.Sees("The card was taken out")
	wallet.PIN(cardPIN)
	wallet.Sees("Put the card back")
	b.Press("See how it stands now")
	b.Sees("Not paid yet")
	s.wantRequests(t, sent, 0)
	s.card(t, "insert")
	wallet.Sees(walletApproved)
	wallet.Press("Back to the shop")
	s.paid(wallet)
	s.wantRequests(t, sent, 1)
}

// The purchase request has come to the merchant, who cannot reach the gateway. Then everything ends at once:
// the browser's tab, the wallet, the merchant. Afterwards wallet and shop tell the truth: that nobody knows yet,
// and as soon as somebody does, what.
func walkInterrupted(t *testing.T, s *shopping) {
	b := s.enter(t, "en")
	order := s.order(b, "Pencil, grade 2B")
	title := browsertest.Value[string](b, `document.querySelector("h1").innerText`)
	wallet := s.pay(t, b, "0.95 USD")
	if err := s.halt("gateway"); err != nil {
		t.Fatal(err)
	}
	wallet.PIN(cardPIN)
	for deadline := time.Now().Add(startTimeout); s.state(t, order) != "authorizing"; time.Sleep(pollInterval) {
		if time.Now().After(deadline) {
			t.Fatalf("the order is %s", s.state(t, order))
		}
	}
	s.comeBack(b)
	b.Sees("Do not pay again.")
	b.Until(`document.getElementById("outcome").dataset.refresh > 0`) // as the page says
	b.Accessible("authorizing")
	b.Do(chromedp.Navigate("about:blank"))
	wallet.Close()
	s.endWindow(t, syscall.SIGKILL)
	s.kill(t, "merchant")

	if err := s.restart(t.Context(), "merchant"); err != nil {
		t.Fatal(err)
	}
	b.Visit(order)
	b.Sees("Do not pay again.")
	b.Run(`window.stays = true`)
	wallet = b.Second()
	wallet.Visit(s.launch(t, menuEntry))
	wallet.Until(`document.querySelector("#recent .outcome")?.innerText === "Not known yet"`)
	if err := s.restart(t.Context(), "gateway"); err != nil {
		t.Fatal(err)
	}
	b.Sees("Thank you.")
	if !b.Is(`window.stays`) {
		t.Error("the shop's page is loaded anew, in the middle of what somebody reads")
	}
	s.paid(b)
	wallet.Until(`document.querySelector("#recent .outcome")?.innerText === "Approved"`)
	wallet.Run(`document.querySelector("#recent a").click()`)
	wallet.Sees(walletApproved)
	wallet.Sees(title)
	wallet.Press("Ask the merchant")
	wallet.Sees("Nothing is paid with it.")
	wallet.PIN(cardPIN)
	wallet.Sees(walletApproved)
}

// kill ends the server of a party without a word.
func (s *shopping) kill(t *testing.T, party string) {
	t.Helper()
	for _, p := range s.Processes {
		if p.Name != party {
			continue
		}
		if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for p.runs() {
			time.Sleep(pollInterval)
		}
	}
}

// Every button twice: one order of one piece, one payment.
func walkDoubleClicks(t *testing.T, s *shopping) {
	sent := len(s.purchaseRequests(t))
	b := s.enter(t, "en")
	b.DoubleClick("Add to basket: Pencil, grade 2B")
	b.Until(`document.querySelector("tbody input[name=quantity]")?.value === "1"`)
	b.Run(`document.querySelector("tbody input[name=quantity]").value = "2"`)
	b.DoubleClick("Update quantities")
	b.Sees("1.90")
	b.Run(`document.querySelector("tbody input[name=quantity]").value = "3"`)
	b.DoubleClick("Place the order") // of two or of three?
	b.Sees("Please check the total, then place the order.")
	b.Sees("2.85")
	b.DoubleClick("Place the order")
	b.Sees("Not paid yet")
	file := b.Download(func() { b.DoubleClick(shopPay) })
	wallet, second := b.Second(), b.Second()
	wallet.Visit(s.launch(t, openEntry, file))
	second.Visit(s.launch(t, openEntry, file))
	wallet.Sees("Pay 2.85 USD")
	second.Sees("Pay 2.85 USD")
	wallet.Until(`document.activeElement?.id === "pin"`)
	wallet.Type(cardPIN)
	wallet.DoubleClick("Pay 2.85 USD")
	wallet.Sees(walletApproved)
	second.Sees(walletApproved)
	wallet.DoubleClick("Ask the merchant")
	wallet.Sees("Nothing is paid with it.")
	wallet.Until(`document.activeElement?.id === "pin"`)
	wallet.Type(cardPIN)
	wallet.DoubleClick("Continue")
	wallet.Sees(walletApproved)
	second.DoubleClick("Back to the shop")
	s.paid(second)
	b.Press("Orders")
	b.Until(`document.querySelectorAll("tbody tr").length === 1`)
	s.wantRequests(t, sent, 1)

	// Cancelled twice is cancelled.
	b.Press("Catalogue")
	order := s.order(b, "Brass telescope")
	wallet = s.pay(t, b, "649.00 USD")
	wallet.DoubleClick("Cancel")
	wallet.Until(`!document.body.innerText.includes("Pay 649.00 USD")`)
	if state := s.state(t, order); state != "new" {
		t.Errorf("the cancelled order is %s", state)
	}
	s.wantRequests(t, sent, 1)
}

// The back button, wherever one is: nothing is bought again, and every page is true.
func walkBack(t *testing.T, s *shopping) {
	sent := len(s.purchaseRequests(t))
	b := s.enter(t, "en")
	order := s.order(b, "Pencil, grade 2B")
	b.Back()
	b.Sees("There is nothing in your basket.")
	b.Back()
	b.Sees("Brass telescope")
	b.Visit(order)
	wallet := s.pay(t, b, "0.95 USD")
	wallet.Press("History")
	wallet.Until(`document.title.startsWith("History")`)
	wallet.Back()
	wallet.Sees("Pay 0.95 USD")
	wallet.PIN("999999")
	wallet.Sees("2 tries left")
	wallet.Press("Help")
	wallet.Sees("What the wallet may tell you")
	wallet.Back()
	wallet.Sees("2 tries left")
	wallet.PIN(cardPIN)
	wallet.Sees(walletApproved)
	receipt := wallet.Address()
	wallet.Back()
	wallet.Sees(walletApproved)
	wallet.Press("Back to the shop")
	wallet.Sees("Thank you.")
	wallet.Back()
	wallet.Sees(walletApproved)
	wallet.Visit(receipt)
	wallet.Sees(walletApproved)
	b.Press("Catalogue")
	b.Sees("Brass telescope")
	b.Back()
	b.Sees("Thank you.")
	s.wantRequests(t, sent, 1)
}

// A browser that wants French gets it, from the catalogue to the receipt.
func walkFrench(t *testing.T, s *shopping) {
	b := s.enter(t, "fr-CH")
	b.Press("Ajouter au panier : Pencil, grade 2B")
	b.Sees("La quantité 0 retire un article.")
	b.Accessible("basket-fr")
	b.Press("Passer la commande")
	b.Sees("Pas encore payée")
	file := b.Download(func() { b.Press("Payer avec le lecteur de carte") })
	wallet := b.Second()
	wallet.Visit(s.launch(t, openEntry, file))
	wallet.Sees("Payer 0,95 USD")
	wallet.PIN(cardPIN)
	wallet.Sees("La banque a approuvé le paiement.")
	wallet.Press("Retour à la boutique")
	wallet.Sees("Merci.")
	wallet.Accessible("success-fr")
}

// What goes wrong is told, with a way on.
func walkTroubles(t *testing.T, s *shopping) {
	b := s.enter(t, "en")
	b.Press("Basket")
	b.Sees("There is nothing in your basket.")
	b.Accessible("basket-empty")
	b.Press("To the catalogue")
	order := s.order(b, "Pencil, grade 2B")
	b.Visit(order + "/failure")
	b.Sees("The payment did not come about")
	b.Accessible("failure")

	// A page from before the payment has a button that pays nothing.
	old := b.Second()
	old.Visit(order)
	old.Sees("Not paid yet")
	sent := len(s.purchaseRequests(t))
	wallet := s.pay(t, b, "0.95 USD")
	wallet.PIN(cardPIN)
	wallet.Sees(walletApproved)
	old.Refused()
	old.Press(shopPay)
	old.Sees("This order is not to be paid now")
	old.Accessible("refused")
	old.Press("Back")
	s.paid(old)
	s.wantRequests(t, sent, 1)
}
