package main

import (
	"context"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/setkit/setkit/cmd/internal/browsertest"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/wallet"
	"github.com/setkit/setkit/roles/wallet/web"
	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/cardtest"
	"github.com/setkit/setkit/smartcard/pcsc"
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
	b.Sees("The smart card service does not run")
	b.Accessible("service-lost")
	s.wantPayments(0)
	service(true)
	plug(t, host, 0, s.card.Virtual)
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

// A reader that is unplugged takes its card along, and the last one leaves a word about what to do.
func TestReaderUnplugged(t *testing.T) {
	t.Parallel()
	d := &devices{visits: make(map[string]int), changed: make(chan struct{})}
	for _, step := range []struct {
		change pcsc.Change
		reader string
		want   int
		topic  web.Topic
	}{
		{pcsc.ReaderConnected, "A", 1, ""},
		{pcsc.ReaderConnected, "B", 2, ""},
		{pcsc.CardRemoved, "A", 2, ""},
		{pcsc.ReaderDisconnected, "A", 1, ""},
		{pcsc.ReaderDisconnected, "B", 0, web.TopicNoReader},
		{pcsc.ServiceLost, "", 0, web.TopicNoService},
		{pcsc.ServiceBack, "", 0, web.TopicNoReader},
	} {
		_, _, changed := d.Readers()
		d.take(t.Context(), pcsc.Event{Change: step.change, Reader: pcsc.Reader{Name: step.reader}, Err: smartcard.ErrNoService})
		readers, problem, _ := d.Readers()
		var topic web.Topic
		if problem != nil {
			topic = problem.Topic
		}
		if len(readers) != step.want || topic != step.topic {
			t.Errorf("%v %s: %+v, %q", step.change, step.reader, readers, topic)
		}
		select {
		case <-changed:
		default:
			t.Errorf("%v %s: no page was told", step.change, step.reader)
		}
	}
}

// A window without an open page closes itself, also while an order waits there for an answer; the page says then how to go
// on.
func testWindowIdle(t *testing.T, c *browsertest.Chromium) {
	s := newScene(t)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	wallets := make(map[set.Language]*wallet.Wallet)
	for _, l := range web.Languages() {
		w, err := wallet.Open(ctx, s.wallet(), wallet.Config{Language: l})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		wallets[l] = w
	}
	listeners, hosts, err := listenLoopback()
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(listeners)
	d := &devices{visits: make(map[string]int), changed: make(chan struct{})}
	window, err := web.New(web.Config{Wallets: wallets, Devices: d, Explain: explain, LocalPeers: true, Dir: s.wallet(), Quit: stop}, hosts...)
	if err != nil {
		t.Fatal(err)
	}
	defer window.Close()
	served := serve(ctx, listeners, window)
	m, err := (&set.Initiation{
		Kind: set.RegistrationInitiation, SETURL: s.ca.URL, QueryURL: s.ca.URL, SuccessURL: s.ca.URL, FailureURL: s.ca.URL, CancelURL: s.ca.URL, Versions: []string{"1.0"},
	}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	b := c.Open(t, "en")
	b.Visit(window.Open(m))
	b.Sees("No bank is installed")
	b.Press("Cards")
	b.Press("Install a bundle")
	b.Until(`!!document.getElementById("file")`)
	for {
		if _, idle := window.Idle(); !idle {
			break // the page listens
		}
		time.Sleep(time.Millisecond)
	}
	const after = 300 * time.Millisecond
	go closeWhenIdle(ctx, window, after, stop)
	select {
	case <-ctx.Done():
		t.Fatal("the window has closed before the person's eyes")
	case <-time.After(3 * after):
	}
	b.End()
	hide(b, true)
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	hide(b, false)
	b.Sees("To go on, open the wallet again")
}
