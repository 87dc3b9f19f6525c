package trace_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/cmd/internal/describe"
	"github.com/setkit/setkit/cmd/internal/trace"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sethttp"
)

// walletView is what the wallet of the recorded purchase can tell: its own messages, and those of more files
// after them.
func walletView(t *testing.T, tongue describe.Tongue, more ...string) trace.View {
	t.Helper()
	return walletViewOf(t, func(_ string, b []byte) []byte { return b }, tongue, more...)
}

// walletViewOf is walletView of messages that change has changed.
func walletViewOf(t *testing.T, change func(typ string, b []byte) []byte, tongue describe.Tongue, more ...string) trace.View {
	t.Helper()
	var passed []trace.Passed
	var d describe.Describer
	for _, m := range recorded(t).Messages {
		b, err := os.ReadFile(filepath.Join(traceDir, "recording", m.File))
		if err != nil {
			t.Fatal(err)
		}
		if m.From == trace.CardholderCA && m.To == trace.Wallet {
			d.Meet(b) // the wallet has its own certificate
		}
		if m.Number < 17 || m.From != trace.Wallet && m.To != trace.Wallet {
			continue
		}
		passed = append(passed, trace.Passed{Entry: trace.Entry{Time: m.Time, From: m.From, To: m.To, Media: m.Media}, Octets: change(m.Type, b)})
	}
	for i, name := range more {
		b, err := os.ReadFile(filepath.Join("../../../testdata/golden", name))
		if err != nil {
			t.Fatal(err)
		}
		e := trace.Entry{Time: passed[0].Time.Add(time.Duration(i+1) * time.Minute), From: trace.Merchant, To: trace.Wallet, Media: sethttp.MediaPayment}
		if strings.Contains(name, "Req") {
			e.From, e.To = e.To, e.From
		}
		passed = append(passed, trace.Passed{Entry: e, Octets: b})
	}
	r, err := trace.Gather(passed, &d)
	if err != nil {
		t.Fatal(err)
	}
	return trace.View{
		Recording: r, Messages: r.Messages, Tongue: tongue, Wallet: true, Ending: "1111",
		Link: func(n int) string { return fmt.Sprint("saw/", n) }, Home: "saw",
	}
}

// The wallet sees what it and the merchant read. Of gateway and bank it knows the rules, which are what they
// really saw of the recorded purchase.
func TestWalletSaw(t *testing.T) {
	t.Parallel()
	own, all := walletView(t, nil).WhoSaw(), sawIn(t, recorded(t))
	if diff := cmp.Diff(all.Parties, own.Parties); diff != "" {
		t.Fatalf("parties (-want +got):\n%s", diff)
	}
	if len(own.Rows) != len(all.Rows) {
		t.Errorf("%d rows, of a purchase that has %d", len(own.Rows), len(all.Rows))
	}
	for i, row := range own.Rows {
		for j, party := range own.Parties {
			var want, got []string
			for _, s := range all.Rows[i].Cells[j] {
				want = append(want, string(s.How)+" "+s.For)
			}
			for _, s := range row.Cells[j] {
				got = append(got, string(s.How)+" "+s.For)
				if ruled := party == trace.Gateway || party == trace.Issuer; s.Ruled != ruled || ruled != (len(s.In) == 0) {
					t.Errorf("%s, %s: by the rules %v, in messages %v", row.Name, party, s.Ruled, s.In)
				}
			}
			if row.Name != all.Rows[i].Name || !slices.Equal(want, got) {
				t.Errorf("%s, %s: %q, want %q", row.Name, party, got, want)
			}
		}
	}
	var kept, ruled []string
	for _, p := range own.Promises {
		if p.Ruled {
			ruled = append(ruled, p.Party+" "+p.Name)
		} else if len(p.In) == 0 {
			kept = append(kept, p.Party+" "+p.Name)
		}
	}
	if diff := cmp.Diff([]string{"merchant Card number", "merchant Card's expiry", "merchant Cardholder's secret"}, kept); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"gateway Order", "issuer Order"}, ruled); diff != "" {
		t.Errorf("by the rules (-want +got):\n%s", diff)
	}
}

// A card number in clear is found by its last digits, which the wallet knows.
func TestWalletSawCardNumber(t *testing.T) {
	t.Parallel()
	for number, want := range map[string][]string{"4111111111111111": {"merchant Card number [4]"}, "4211111111111111": nil} {
		v := walletViewOf(t, func(typ string, b []byte) []byte {
			if typ != "PReq" {
				return b
			}
			return remade(t, func(w *set.MessageWrapper) { w.MessageHeader.SWIdent = set.SWIdent("wallet " + number) })(b)
		}, nil)
		if diff := cmp.Diff(want, broken(v.WhoSaw())); diff != "" {
			t.Errorf("%s (-want +got):\n%s", number, diff)
		}
		page, err := v.Overview("")
		if told := strings.Contains(string(page), "The merchant could read the card number"); err != nil || told != (want != nil) {
			t.Errorf("%s: %v, the page says that it was read: %v", number, err, told)
		}
	}
}

// A wallet that sent nothing but the first question knows of no gateway that got anything.
func TestWalletSawUnsent(t *testing.T) {
	t.Parallel()
	v := walletView(t, nil)
	v.Messages = v.Messages[:3]
	s := v.WhoSaw()
	if diff := cmp.Diff([]string{trace.Wallet, trace.Merchant}, s.Parties); diff != "" || len(s.Promises) > 0 {
		t.Errorf("promises %v, parties (-want +got):\n%s", s.Promises, diff)
	}
	var text strings.Builder
	if err := v.Text(&text); err != nil || strings.Contains(text.String(), "Gateway") {
		t.Errorf("%v, or there is a gateway:\n%s", err, text.String())
	}
}

// The pictures mark what the wallet has not seen, and say nothing that it cannot know.
func TestWalletPictures(t *testing.T) {
	t.Parallel()
	v := walletView(t, nil)
	var svg, text strings.Builder
	if err := errors.Join(v.SVG(&svg), v.Text(&text)); err != nil {
		t.Fatal(err)
	}
	page, err := v.Overview("")
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]string{"SVG": svg.String(), "text": text.String(), "page": string(page)} {
		if strings.Contains(got, "HSM") || strings.Contains(got, "set-lab") || strings.Contains(got, "Recorded") {
			t.Errorf("the %s tells what no wallet knows:\n%s", name, got)
		}
	}
	for name, got := range map[string]string{"SVG": svg.String(), "text": text.String()} {
		if strings.Count(got, "What the wallet does not see") != 1 || !strings.Contains(got, "Kept by the wallet") || !strings.Contains(got, "AuthReq") {
			t.Errorf("the %s does not mark what was not seen:\n%s", name, got)
		}
	}
	for _, want := range []string{"The merchant never read the card number.", "By SET’s rules the gateway never gets the order.", "verifies under that certificate", "card, key 9C", `href="saw/4"`} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the page does not say %s", want)
		}
	}
}

// Everything that a wallet's pages say they say in French too.
func TestFrenchIsComplete(t *testing.T) {
	t.Parallel()
	same := []string{"Date", "Message", "Messages", "Certificate", "Signatures", "extensions", "opaque"}
	missing := map[string]bool{}
	v := walletView(t, func(english string) string {
		french := trace.French(english)
		if french == english && !slices.Contains(same, english) {
			missing[english] = true
		}
		return french
	}, "PInitReq.der", "PInitRes.der", "PReq-PReqDualSigned.der", "PRes.der", "InqReq-InqReqSigned.der", "InqReq-InqReqUnsigned.der", "InqRes.der", "Error-SignedError.der", "Error-UnsignedError.der")
	if _, err := v.Overview(""); err != nil {
		t.Fatal(err)
	}
	if err := v.SVG(io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, m := range v.Messages {
		if _, found, err := v.Opened(m.Number); err != nil || !found {
			t.Fatalf("message %d: %v, %v", m.Number, found, err)
		}
	}
	for _, english := range slices.Sorted(maps.Keys(missing)) {
		t.Errorf("no French for %q", english)
	}
}
