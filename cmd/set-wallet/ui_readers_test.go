package main

import (
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/setkit/setkit/cmd/internal/browsertest"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/smartcard/cardtest"
	"github.com/setkit/setkit/smartcard/virtual"
)

// Where the reader has keys, no page asks for a PIN. Somebody types 123456 there, and 654321 for a new one.
func testWindowKeypad(t *testing.T, c *browsertest.Chromium) {
	s := newWindowScene(t, newScene(t))
	s.enroll()
	s.card.Unplug()
	host := ownReaders(t, cardtest.KeypadDriver(t))
	plug(t, host, 0, s.card.Virtual)
	_, address := s.program(host.Socket, "--open", s.order())
	b := c.Open(t, "en")
	b.Visit(address)
	b.Sees("The PIN is entered on the keys of your reader, after you agree.")
	b.Accessible("keypad")
	if b.Is(`!!document.getElementById("pin")`) {
		t.Error("the page asks for the PIN as well")
	}
	b.Press("Pay 42.50 CHF")
	b.Sees(approvedText)
	s.wantPayments(1)

	b.Press("Cards")
	b.Press("Change the PIN")
	b.Sees("The card has the new PIN")
	wantPIN(t, s.card.Virtual, wrongPIN)
	b.Press("To the cards")
	b.Press("Change the PIN") // 123456 is wrong now
	b.Sees("Only one try is left")
	b.Press("Cancel")
	b.Sees("The PIN was not changed.")
	wantPIN(t, s.card.Virtual, wrongPIN)
}

// Without the smart card service, without a reader and without a card every page says what to do, and goes on when it
// is there: also where it goes away during a payment.
func testWindowReaders(t *testing.T, c *browsertest.Chromium) {
	s := newWindowScene(t, newScene(t))
	s.enroll()
	s.card.Unplug()
	config := virtual.HostConfig{Dir: t.TempDir(), Readers: 1}
	var host *virtual.Host
	service := func(on bool) {
		t.Helper()
		var err error
		if on {
			host, err = virtual.StartHost(t.Context(), config)
		} else {
			err = host.Stop()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	service(true) // for the name of the socket, which stays
	service(false)
	_, address := s.program(host.Socket)
	b := c.Open(t, "en")
	b.Visit(address)
	b.Press("Cards")
	b.Sees("The smart card service does not run")
	b.Sees("systemctl enable --now pcscd.socket")
	b.Accessible("no-service")
	b.Press("Change the PIN")
	b.Sees("The smart card service does not run")
	b.Press("Cancel")
	b.Press("Cards")
	service(true)
	t.Cleanup(func() { host.Stop() })
	b.Sees(host.Readers[0].Name)
	b.Sees("no card")
	card := plug(t, host, 0, s.card.Virtual)
	b.Sees("in reader")

	s.shop.NewOrder()
	_, address = s.program(host.Socket, "--open", s.order())
	b.Visit(address)
	b.Sees("Pay 42.50 CHF")
	card.Unplug()
	service(false)
	b.Sees("The card was taken out")
	b.PIN(testPIN)
	b.Sees("Put the card back")
	b.Accessible("service-lost")
	s.wantPayments(0)
	service(true)
	card = plug(t, host, 0, s.card.Virtual)
	b.Sees(approvedText)
	s.wantPayments(1)

	// A window that looks at readers that there are not.
	b.Do(chromedp.Navigate("about:blank"))
	for _, w := range s.windows {
		w.close()
	}
	s.shop.NewOrder()
	_, address = s.ui("--reader", "no such reader", "--open", s.order())
	b.Visit(address)
	b.Sees("There is no card reader")
	b.Sees("Connect one.")
	b.Accessible("no-reader")
	if n := s.shop.Count(set.PInitReqType); n != 1 {
		t.Errorf("%d first messages, want 1", n)
	}
}
