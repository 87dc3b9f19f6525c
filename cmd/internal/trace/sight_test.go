package trace_test

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/cmd/internal/describe"
	"github.com/setkit/setkit/cmd/internal/trace"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
)

// changed reads a copy of the recording in which some messages are others.
func changed(t *testing.T, change map[string]func([]byte) []byte) *trace.Recording {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "trace")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(traceDir, "recording"))); err != nil {
		t.Fatal(err)
	}
	for file, f := range change {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), f(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := trace.Read(dir, new(describe.Describer))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// remade changes a message and encodes it again.
func remade(t *testing.T, change func(*set.MessageWrapper)) func([]byte) []byte {
	return func(b []byte) []byte {
		t.Helper()
		w, err := set.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		change(w)
		b, err = set.Encode(*w)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

func sawIn(t *testing.T, r *trace.Recording) trace.Sights {
	t.Helper()
	messages, err := r.Purchase("")
	if err != nil {
		t.Fatal(err)
	}
	return trace.View{Messages: messages}.WhoSaw()
}

// cell gives how a party met something, as text.
func cell(t *testing.T, s trace.Sights, row, party string) string {
	t.Helper()
	i := slices.IndexFunc(s.Rows, func(r trace.Row) bool { return r.Name == row })
	j := slices.Index(s.Parties, party)
	if i < 0 || j < 0 {
		t.Fatalf("no %s of %s in %+v", row, party, s)
	}
	var all []string
	for _, seen := range s.Rows[i].Cells[j] {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %v", seen.How, seen.For, seen.In)))
	}
	return strings.Join(all, ", ")
}

// broken gives the promises that are not kept.
func broken(s trace.Sights) (all []string) {
	for _, p := range s.Promises {
		if len(p.In) > 0 {
			all = append(all, fmt.Sprintf("%s %s %v", p.Party, p.Name, p.In))
		}
	}
	return all
}

// What each party of a real purchase met is what SET promises.
func TestWhoSaw(t *testing.T) {
	t.Parallel()
	s := sawIn(t, recorded(t))
	if diff := cmp.Diff([]string{trace.Wallet, trace.Merchant, trace.Gateway, trace.Issuer}, s.Parties); diff != "" {
		t.Fatalf("parties (-want +got):\n%s", diff)
	}
	for row, want := range map[string][]string{
		"Order":                    {"read  [17]", "read  [17]", "digest  [21]", ""},
		"Amount":                   {"read  [17 20]", "read  [17 21 24 26 27]", "read  [21 22 23 24 26 27 28 29]", "read  [22 23 28 29]"},
		"Card number":              {"read  [20]", "digest  [20], sealed gateway [20 21 24 26]", "read  [21 22 24 26]", "read  [22]"},
		"Card's expiry":            {"read  [20]", "digest  [20], sealed gateway [20 21 24 26]", "read  [21 22 24 26]", "read  [22]"},
		"Cardholder's secret":      {"read  [20]", "digest  [20], sealed gateway [20 21]", "read  [21]", "digest  [22]"},
		"Cardholder's certificate": {"read  [20]", "read  [20 21]", "read  [21]", ""},
		"Gateway's certificate":    {"read  [19]", "read  [19 24 27]", "read  [24 26 27]", ""},
		"The bank's decision":      {"read  [25]", "read  [24 25]", "read  [23 24 28 29]", "read  [23 28 29]"},
	} {
		for i, party := range s.Parties {
			if got := cell(t, s, row, party); got != want[i] {
				t.Errorf("%s, %s: %q, want %q", row, party, got, want[i])
			}
		}
	}
	if got := broken(s); got != nil || len(s.Promises) != 5 {
		t.Errorf("broken of %d promises: %v", len(s.Promises), got)
	}
}

// A recording in which a message tells a party what it must not read is said to be that.
func TestBrokenPromises(t *testing.T) {
	t.Parallel()
	const authReq, pReq = "021-merchant-gateway.der", "020-wallet-merchant.der"
	software := func(text string) func([]byte) []byte {
		return remade(t, func(w *set.MessageWrapper) { w.MessageHeader.SWIdent = set.SWIdent(text) })
	}
	after := func(text string) func([]byte) []byte { return func(b []byte) []byte { return append(b, text...) } }
	for name, c := range map[string]struct {
		file   string
		change func([]byte) []byte
		want   []string
	}{
		"the order in AuthReq's header":     {authReq, software("1 x Atlas of the Northern Harbours at 36.50 USD"), []string{"gateway Order [21]"}},
		"the goods alone":                   {authReq, software("sells an ATLAS OF THE NORTHERN HARBOURS"), []string{"gateway Order [21]"}},
		"the order behind a broken message": {authReq, after("Atlas of the Northern Harbours"), []string{"gateway Order [21]"}},
		"the order in the bank's network": {"022-gateway-issuer.json", func(b []byte) []byte {
			return []byte(strings.Replace(string(b), `"Harbour Books"`, `"Atlas of the Northern Harbours"`, 1))
		}, []string{"gateway Order [22]", "issuer Order [22]"}},
		"the card number in PReq's header":   {pReq, software("wallet 4111111111111111"), []string{"merchant Card number [20]"}},
		"the card number behind the message": {pReq, after("4111111111111111"), []string{"merchant Card number [20]"}},
		"another number of sixteen digits":   {pReq, software("wallet 4211111111111111"), nil},
		"a time":                             {pReq, after("20261125111111Z"), nil},
	} {
		s := sawIn(t, changed(t, map[string]func([]byte) []byte{c.file: c.change}))
		if diff := cmp.Diff(c.want, broken(s)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		for _, p := range s.Promises {
			if read := strings.HasPrefix(cell(t, s, p.Name, p.Party), "read"); read != (len(p.In) > 0) {
				t.Errorf("%s: the %s reads the %s: %v, but the promise says %v", name, p.Party, p.Name, read, p.In)
			}
		}
	}
}

// A payment instruction that is encrypted for the merchant is none that only the gateway reads, whatever
// its name. Whose key opens it, its certificate says.
func TestWrongRecipient(t *testing.T) {
	t.Parallel()
	to := keyExchangeCertificate(t, "008-merchant-ca-merchant.der")
	packed := set.PANData{PAN: set.PAN("4111111111111111"), CardExpiry: set.CardExpiry("203512")}.Pack()
	s := sawIn(t, changed(t, map[string]func([]byte) []byte{"020-wallet-merchant.der": remade(t, func(w *set.MessageWrapper) {
		pi := &w.Message.PReq.PReqDualSigned.PIDualSigned
		var err error
		if pi.EXPIData, err = cms.Encrypt(to, set.ContentPIDualSignedTBE, struct{ N int64 }{1}, cms.WithPANData, packed); err != nil {
			t.Fatal(err)
		}
	})}))
	// The one that goes on to the gateway in 21 is another now, which the merchant itself must have made.
	want := []string{"merchant Card number [20 21]", "merchant Card's expiry [20 21]", "merchant Cardholder's secret [20 21]"}
	if diff := cmp.Diff(want, broken(s)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// keyExchangeCertificate gives the certificate for encryption that a recorded CertRes brings.
func keyExchangeCertificate(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(traceDir, "recording", file))
	if err != nil {
		t.Fatal(err)
	}
	w, err := set.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	sd, err := cms.ParseSigned(*w.Message.CertRes.CertRes, set.ContentCertResData)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range sd.Certificates {
		if c.KeyUsage&x509.KeyUsageKeyEncipherment != 0 && c.Subject.CommonName != "" {
			return c
		}
	}
	t.Fatalf("%s has no certificate for encryption", file)
	return nil
}

// Each signature of a purchase is by the key of whoever must make it, in its device.
func TestSignatures(t *testing.T) {
	t.Parallel()
	r := recorded(t)
	var got []string
	for _, s := range (trace.View{Recording: r, Messages: latest(t)}).Signatures() {
		line := fmt.Sprintf("%d %s: %s", s.Message.Number, s.Device, strings.SplitN(s.Checked, ",", 2)[0])
		if s.Reader != "" {
			line += "seen by " + s.Reader
		}
		if s.Passed {
			line += ", passed on"
		}
		got = append(got, line)
		if holder := map[string]string{trace.Wallet: "cardholder", trace.Merchant: "merchant", trace.Gateway: "payment gateway"}[s.Signer]; !strings.HasPrefix(s.Certificate(nil), holder) || !strings.Contains(s.Certificate(nil), ", certificate ") {
			t.Errorf("%s: certificate %q", line, s.Certificate(nil))
		}
	}
	want := []string{
		"19 HSM token of the merchant: verifies under that certificate",
		"20 card, key 9C, after the PIN: verifies under that certificate",
		"21 HSM token of the merchant: seen by gateway",
		"21 card, key 9C, after the PIN: over digests that are not both here: the gateway tries it, passed on",
		"24 HSM token of the gateway: seen by merchant",
		"24 HSM token of the gateway: seen by gateway",
		"25 HSM token of the merchant: verifies under that certificate",
		"26 HSM token of the merchant: seen by gateway",
		"26 HSM token of the gateway: seen by gateway, passed on",
		"27 HSM token of the gateway: seen by merchant",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// A dual signature over another order does not verify.
func TestDualSignatureIsTried(t *testing.T) {
	t.Parallel()
	r := changed(t, map[string]func([]byte) []byte{"020-wallet-merchant.der": remade(t, func(w *set.MessageWrapper) {
		w.Message.PReq.PReqDualSigned.OIDualSigned.Value.HOD.Content.Digest[0] ^= 1
	})})
	messages, err := r.Purchase("")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range (trace.View{Recording: r, Messages: messages}).Signatures() {
		if s.Message.Type == "PReq" && s.Checked != "DOES NOT VERIFY under that certificate" {
			t.Errorf("the dual signature %s", s.Checked)
		}
	}
}

func TestSummarize(t *testing.T) {
	t.Parallel()
	var got []string
	for _, messages := range recorded(t).Transactions() {
		s := trace.Summarize(messages)
		got = append(got, fmt.Sprintf("%d+%d %s, %s, %s", s.First, s.Messages, s.Kind, s.Amount, s.Outcome))
	}
	want := []string{
		"1+4 registration of the gateway, , requestComplete", "5+4 registration of the merchant, , requestComplete",
		"9+6 registration of the cardholder, , answered", "14+2 account check, , approved", "17+13 purchase, 36.50 USD, approved, collected",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
