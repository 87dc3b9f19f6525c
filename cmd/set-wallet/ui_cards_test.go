package main

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/chromedp/chromedp/kb"

	"github.com/setkit/setkit/cmd/internal/browsertest"
	"github.com/setkit/setkit/roles/set/bundle"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

// Bundles of a bank, from files and from its server: who signed the first is asked, later ones need the same
// key, and what is changed, expired, older or another's is refused.
func testWindowInstall(t *testing.T, c *browsertest.Chromium) {
	s := newWindowScene(t, newScene(t))
	keys, err := signBundles(s.dir, s.world)
	if err != nil {
		t.Fatal(err)
	}
	second, err := bundle.Fingerprint(keys["SECOND"].Public())
	if err != nil {
		t.Fatal(err)
	}
	changed, err := os.ReadFile(s.file("1" + bundle.Extension))
	if err != nil {
		t.Fatal(err)
	}
	changed[len(changed)/2] ^= 1
	if err := os.WriteFile(s.file("changed"+bundle.Extension), changed, 0o600); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(bundleServer(s.dir))
	defer server.Close()
	_, address := s.ui()
	b := c.Open(t, "en")
	b.Visit(address)
	b.Press("Settings")
	b.Sees("Your bank gives out a bundle")
	b.Press("Install a bundle")
	for i, step := range []struct{ url, fingerprint, want string }{
		{"/file/1", second.String(), "Somebody else has signed the bundle"},
		{"/file/changed", "", "This is no bundle of a bank"},
		{"/file/4-expired", "", "The bundle is not valid now"},
		{"/file/2", "", "Is this your bank?"},
		{"/file/2", "", "This bundle was installed already"},
		{"/file/1", "", "The installed bundle is kept"},
		{"/file/2-again", "", "The installed bundle is kept"},
		{"/file/4-foreign", "", "Somebody else has signed the bundle"},
		{"/file/missing", "", "This is no bundle of a bank"},
		{"/file/4-new-key", "", "The bank’s bundle is updated"},
	} {
		if i > 0 && !b.Is(`!!document.getElementById("url")`) {
			b.Press("Settings")
			b.Press("Install a bundle")
		}
		b.Fill("url", kb.Delete+server.URL+step.url+bundle.Extension, kb.Delete+step.fingerprint+kb.Enter)
		b.Sees(step.want)
		switch {
		case b.Is(`!!` + b.Button("The letter has")):
			b.Sees("Keep card and PIN apart.")
			b.Sees("Campus, enrolled at http://ca.example/cca")
			b.Press("Cancel")
			b.Sees("Nothing was installed.")
			b.Press("Settings")
			b.Press("Install a bundle")
			b.Choose("file", s.file("2"+bundle.Extension))
			b.Press("Continue")
			b.Press("The letter has the same fingerprint")
			b.Sees("The bank is installed")
		case b.Is(`!!` + b.Button("Try again")):
			b.Press("Try again")
			b.Until(`!!document.getElementById("url")`)
		}
	}
	b.Press("Settings")
	b.Sees("Bundle 4, valid until")
	b.Accessible("banks")
	b.Press("Cards")
	b.Sees("Enrol a card")
}

// A PIN is changed, blocked, and set anew with the PUK; with the keyboard alone.
func testWindowPIN(t *testing.T, c *browsertest.Chromium) {
	s := newWindowScene(t, newScene(t))
	_, address := s.ui()
	b := c.Open(t, "en")
	b.Visit(address)
	b.Press("Cards")
	b.Sees("not enrolled")
	const changed, again = "24681357", "135724"
	set := func(values ...string) {
		t.Helper()
		b.Until(`document.activeElement?.id === "pin"`)
		b.Type(values[0] + kb.Tab + values[1] + kb.Tab + values[2] + kb.Enter)
	}
	b.Walk("Change the PIN")
	b.Until(`document.activeElement?.id === "pin"`)
	if !b.Is(`[...document.querySelectorAll("#pin, #new, #again")].filter(p => p.autocomplete === "off" && getComputedStyle(p).webkitTextSecurity === "disc").length === 3`) {
		t.Error("the browser may keep a PIN, or shows it")
	}
	set(wrongPIN, changed, changed)
	b.Sees("The PIN was wrong (2 tries left)")
	set(testPIN, changed, again)
	b.Sees("was not the same both times")
	set(testPIN, changed, changed)
	b.Sees("The card has the new PIN")
	wantPIN(t, s.card.Virtual, changed)

	b.Press("To the cards")
	b.Press("Change the PIN")
	set(wrongPIN, again, again)
	b.Sees("2 tries left")
	set(wrongPIN, again, again)
	b.Sees("Only one try is left")
	b.Until(`document.activeElement.tagName === "H1"`)
	b.Walk("I am sure of my PIN")
	set(wrongPIN, again, again)
	b.Sees("The PIN is blocked")
	b.Press("Cancel")
	b.Sees("The PIN was not changed.")

	b.Press("Cards")
	b.Press("PIN blocked or forgotten")
	set("87654321", again, again)
	b.Sees("The PUK was wrong (2 tries left)")
	b.Accessible("puk-wrong")
	set(testPUK, again, again)
	b.Sees("The card has the new PIN")
	wantPIN(t, s.card.Virtual, again)

	// Without a card it is waited for, and the last try of the PUK is asked about.
	s.card.Unplug()
	b.Press("To the cards")
	b.Press("PIN blocked or forgotten")
	b.Sees("Put the card that is to get a new PIN into a reader.")
	s.card.Plug(s.card.Virtual)
	set("87654321", again, again)
	b.Sees("2 tries left")
	set("87654321", again, again)
	b.Sees("nothing can unblock the card any more")
	b.Press("I am sure of my PUK")
	set("87654321", again, again)
	b.Sees("The PUK is blocked")
	b.Press("Cancel")
	b.Sees("The PIN was not changed.")
	wantPIN(t, s.card.Virtual, again)
}

// wantPIN asks the card itself.
func wantPIN(t *testing.T, card *virtual.Card, pin string) {
	t.Helper()
	err := piv.New(card, piv.Options{}).Do(t.Context(), func(tx *piv.Tx) error { return tx.VerifyPIN([]byte(pin)) })
	if err != nil {
		t.Errorf("PIN %s: %v", pin, err)
	}
}

// ownReaders is a pcscd with two readers, for a window that is a process of its own.
func ownReaders(t *testing.T, driver string) *virtual.Host {
	t.Helper()
	host, err := virtual.StartHost(context.Background(), virtual.HostConfig{Dir: t.TempDir(), Readers: 2, Driver: driver})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Stop() })
	return host
}

func plug(t *testing.T, host *virtual.Host, reader int, d virtual.Device) *virtual.Plugged {
	t.Helper()
	p, err := virtual.Plug(context.Background(), host.Readers[reader].Addr, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Unplug)
	return p
}

// The certificate of a card is renewed for a new smart card, which the old one confirms. Each has its PIN asked for,
// and only that of the card whose PIN was wrong again.
func testWindowRenewal(t *testing.T, c *browsertest.Chromium) {
	s := newWindowScene(t, newScene(t))
	s.enroll()
	s.card.Unplug()
	next := virtual.NewCard()
	makeKeys(t, next, piv.ECDSAP256)
	host := ownReaders(t, "")
	_, address := s.program(host.Socket)
	b := c.Open(t, "en")
	b.Visit(address)
	b.Press("Cards")
	b.Sees("in no reader")
	b.Press("Renew")
	b.Sees("For a new smart card, which this one confirms.")
	b.Fill("year", "20x9"+kb.Enter)
	b.Sees("This is no month in which a card expires.")
	b.Accessible("renew")
	b.Fill("year", "2099"+kb.Enter)
	b.Sees("One of these cards will do")
	plug(t, host, 0, s.card.Virtual)
	b.Sees("into a second reader")
	plug(t, host, 1, next)
	b.Sees("PIN of smart card " + serialOf(s.card.Virtual))
	b.PIN(testPIN)
	b.Sees("The bank’s policy")
	b.Press("I accept the policy")
	b.Fill("field0", "Ada Lovelace", testSecret+kb.Enter)
	b.Sees("PIN of smart card " + serialOf(next))
	b.PIN(wrongPIN)
	b.Sees("The PIN was wrong (2 tries left)")
	b.Sees("PIN of smart card " + serialOf(next))
	b.PIN(testPIN)
	b.Sees("The card is enrolled")
	b.Sees("smart card " + serialOf(next))
	if s.ca.Renewed() == nil {
		t.Error("the CA got a first request, and not a renewal")
	}
	b.Press("Cards")
	b.Until(`document.querySelectorAll("#cards li").length === 2`)

	// Where two cards could be meant the person says which, once.
	b.Press("Change the PIN")
	b.Sees("Which reader?")
	b.Run(fmt.Sprintf(`[...document.querySelectorAll("input")].find(e => e.value === %q).click()`, host.Readers[1].Name))
	b.Press("Continue")
	b.Sees("smart card " + serialOf(next))
	b.PIN(wrongPIN + kb.Tab + testPIN + kb.Tab + testPIN)
	b.Sees("The PIN was wrong (2 tries left)")
	b.Sees("smart card " + serialOf(next))
	b.Press("Cancel")
	b.Sees("The PIN was not changed.")
}
