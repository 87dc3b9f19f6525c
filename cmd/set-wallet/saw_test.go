package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/chromedp/kb"
	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/cmd/internal/browsertest"
	"github.com/setkit/setkit/roles/wallet/wallettest"
)

// From the receipt one sees who saw what, opens every message and every field, and comes back, with the keyboard
// alone and in either language.
func testWindowSaw(t *testing.T, c *browsertest.Chromium) {
	s := newWindowScene(t, newScene(t))
	s.enroll()
	s.shop.Behave(wallettest.Behaviour{Pending: 1})
	b := c.Open(t, "en")
	s.offered(b)
	b.PIN(testPIN)
	b.Sees(approvedText)
	b.Press("Who saw what")
	b.Sees("Who saw what of this purchase")
	for _, want := range []string{
		"The merchant never read the card number.", "By SET’s rules the gateway never gets the order.", "does not pass through the wallet",
		"encrypted for the gateway", "card, key 9C, after the PIN", "verifies under that certificate, over the digests of order and payment", "7 InqRes",
	} {
		b.Sees(want)
	}
	cells := browsertest.Value[map[string]string](b, `Object.fromEntries([...document.querySelectorAll(".saw tbody tr")].map(r => [r.cells[0].firstChild.data, [...r.cells].slice(1).map(c => c.innerText.replace(/ in\s[0-9, ]+/g, "").replace(/\s+/g, " ").replace(/[●#■–]/g, m => m + " ").trim()).join("; ")]))`)
	for row, want := range map[string]string{
		"Order":       "● read; ● read; # digest only; – never there",
		"Card number": "● read; # digest only ■ encrypted for the gateway; ● read; ● read",
		"Amount":      "● read; ● read; ● read; ● read",
	} {
		if cells[row] != want {
			t.Errorf("%s: %q, want %q", row, cells[row], want)
		}
	}
	b.Until(`(i => i.complete && i.naturalWidth > 800)(document.querySelector("figure img"))`)
	b.Accessible("saw")
	policy := browsertest.Value[string](b, `fetch(document.querySelector("figure img").src).then(r => r.headers.get("Content-Security-Policy"))`)
	if !strings.HasPrefix(policy, "default-src 'none'; style-src 'nonce-") || strings.Contains(policy, "unsafe") {
		t.Errorf("the picture may do %s", policy)
	}
	for _, address := range []string{b.Address(), browsertest.Value[string](b, `document.querySelector("figure img").src`), b.Address() + "/4"} {
		res, err := http.Get(address) // as another program, which has no cookie
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusForbidden {
			t.Errorf("%s is shown to a stranger: %s", address, res.Status)
		}
	}
	missing := b.Second()
	missing.Foreign() // it complains of what is not there
	missing.Visit(b.Address())
	missing.Sees("Who saw what of this purchase")
	for _, path := range []string{"/0", "/8", "/x", "/-1", "/99999999999999999999"} {
		if status := browsertest.Value[int](missing, fmt.Sprintf(`fetch(location.pathname + %q).then(r => r.status)`, path)); status != http.StatusNotFound {
			t.Errorf("message %s: status %d", path, status)
		}
	}

	b.Press("1 Payment-Initiation")
	for n := 1; n <= 7; n++ {
		b.Until(fmt.Sprintf(`document.querySelector("h1").innerText.startsWith("%d. ")`, n))
		b.Run(`document.querySelectorAll("details").forEach(d => d.open = true)`)
		if text := b.Text(); strings.Contains(text, testPAN) || strings.Contains(text, testExpiry) {
			t.Errorf("message %d shows the account", n)
		}
		if n == 4 {
			b.Sees("the payment instruction, encrypted for the gateway")
			b.Accessible("saw-message")
		}
		if n < 7 {
			b.Run(`document.querySelector("[rel=next]").focus()`)
			b.Type(kb.Enter)
		}
	}
	b.Sees("Last message")
	b.Press("Who saw what")
	b.Sees("Who saw what of this purchase")
	b.Press("To the receipt")
	b.Sees(approvedText)

	f := c.Open(t, "fr-CH, fr")
	_, address := s.ui()
	f.Visit(address)
	f.Press("Historique")
	f.Press("Book Shop")
	f.Press("Qui a vu quoi")
	f.Sees("Le marchand n’a jamais lu le numéro de carte.")
	f.Accessible("saw-french")
	f.Press("4 PReq")
	f.Sees("Qui peut la lire, qui l’a signée")
	f.Sees("double signature des deux")
	f.Accessible("saw-message-french")
}

// The terminal tells what the window tells.
func TestHistorySaw(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.enroll()
	var r receipt
	stdout, _ := s.run(0, "", s.pay("pin", "--yes", "--json")...)
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatal(err)
	}
	text, _ := s.run(0, "", "history", "saw", "--dir", s.wallet(), r.XID)
	for _, want := range []string{
		"Card number               read    digest, sealed for gateway  read *    read *", "4 PReq", "card, key 9C, after the PIN",
		"verifies under that certificate, over the digests of order and payment", "What the wallet does not see", "Kept by the wallet",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q:\n%s", want, text)
		}
	}
	var report sawReport
	stdout, _ = s.run(0, "", "history", "saw", "--dir", s.wallet(), "--json", r.XID)
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		t.Fatal(err)
	}
	for _, row := range report.Saw {
		if row.What != "Card number" {
			continue
		}
		want := map[string][]sawHow{
			"wallet": {{How: "read", Messages: []int{4}}}, "merchant": {{How: "digest", Messages: []int{4}}, {How: "sealed", For: "gateway", Messages: []int{4}}},
			"gateway": {{How: "read", ByRules: true}}, "issuer": {{How: "read", ByRules: true}},
		}
		if diff := cmp.Diff(want, row.By); diff != "" {
			t.Errorf("card number (-want +got):\n%s", diff)
		}
	}
	if len(report.Promises) != 5 || len(report.Signatures) != 3 || len(report.Messages) != 5 || report.Messages[3].Fields.Find("EXPIData") == nil {
		t.Errorf("%d promises, %d signatures, %d messages", len(report.Promises), len(report.Signatures), len(report.Messages))
	}
	// The certificates that the wallet has from the first purchase are not sent again.
	s.shop.NewOrder()
	stdout, _ = s.run(0, "", s.pay("pin", "--yes", "--json")...)
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatal(err)
	}
	again, _ := s.run(0, "", "history", "saw", "--dir", s.wallet(), r.XID)
	for _, want := range []string{"Gateway's certificate     read    read", "3 PInitRes  certificates, identifiers  the merchant's key           verifies under that certificate"} {
		if !strings.Contains(again, want) {
			t.Errorf("of the second purchase it does not say %q:\n%s", want, again)
		}
	}
	_, stderr := s.run(1, "", "history", "saw", "--dir", s.wallet(), strings.Repeat("0", 40))
	if !strings.Contains(stderr, "no purchase with this XID") {
		t.Errorf("of no purchase: %s", stderr)
	}
	s.run(2, "", "history", "saw", "--dir", s.wallet(), "none")
}
