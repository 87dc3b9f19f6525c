package main

import (
	"bytes"
	"crypto"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
)

// said is the worst finding about a check and what it says.
func said(d *diagnosis) string {
	worst := finding{}
	for _, f := range d.Findings {
		if f.Severity > worst.Severity {
			worst = f
		}
	}
	if worst.Severity > severityNote && worst.Fix == "" {
		return "no fix for: " + worst.Finding
	}
	return worst.Severity.String() + " " + worst.Check + ": " + worst.Finding
}

func TestDoctorReplacesKeys(t *testing.T) {
	t.Parallel()
	const on = "--token pkcs11:token=t "
	tests := []struct {
		key  hsm.KeyInfo
		want []string
	}{
		{hsm.KeyInfo{Label: "k", ID: "01", Purpose: hsm.PurposeSeal, Type: hsm.AES}, []string{
			"set-hsm keys generate " + on + "--label k-2 --purpose seal --type aes-256", "set-hsm keys delete " + on + "--label k --id 01"}},
		{hsm.KeyInfo{Label: "k", Usages: []string{"decrypt", "sign"}, Type: hsm.RSA2048, SPKI: []byte{1}}, []string{
			"set-hsm keys generate " + on + "--label k-key-exchange-2 --purpose key-exchange --type rsa-2048",
			"set-hsm keys generate " + on + "--label k-sign-2 --purpose sign --type rsa-2048", "set-hsm keys delete " + on + "--label k"}},
		{hsm.KeyInfo{Label: "k", ID: "01", Usages: []string{"unwrap", "wrap"}, Type: hsm.AES128}, []string{
			"set-hsm keys generate " + on + "--label k-2 --purpose wrap --type aes-128", "set-hsm keys delete " + on + "--label k --id 01"}},
		{hsm.KeyInfo{Label: "k", ID: "01"}, []string{"set-hsm keys delete " + on + "--label k --id 01"}},
	}
	for _, tt := range tests {
		d := &diagnosis{uri: "pkcs11:token=t", keys: []hsm.KeyInfo{tt.key}}
		if diff := cmp.Diff(tt.want, d.replaceKey(tt.key)); diff != "" {
			t.Errorf("commands for %+v (-want +got):\n%s", tt.key, diff)
		}
	}
}

// States of a token that SoftHSM never has.
func TestDoctorToken(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		name   string
		change func(*hsm.TokenInfo)
		want   string
		logIn  bool
	}{
		{"well", func(*hsm.TokenInfo) {}, "ok ", true},
		{"locked", func(i *hsm.TokenInfo) { i.PINLocked = true }, "error pin: the user PIN is locked", false},
		{"no PIN", func(i *hsm.TokenInfo) { i.UserPIN = false }, "error pin: no user PIN is set", false},
		{"final try", func(i *hsm.TokenInfo) { i.PINFinalTry = true }, "error pin: one more wrong PIN locks the token, so the doctor does not log in", false},
		{"low", func(i *hsm.TokenInfo) { i.PINLow = true }, "warning pin: somebody has given a wrong PIN", true},
		{"to change", func(i *hsm.TokenInfo) { i.PINToChange = true }, "warning pin: the user PIN is to be changed", true},
		{"officer locked", func(i *hsm.TokenInfo) { i.SOPINLocked = true }, "warning pin: the security officer's PIN is locked", true},
		{"officer's final try", func(i *hsm.TokenInfo) { i.SOPINFinalTry = true }, "warning pin: one more wrong PIN locks the security officer out", true},
		{"officer low", func(i *hsm.TokenInfo) { i.SOPINLow = true }, "note pin: somebody has given a wrong security officer's PIN", true},
		{"officer to change", func(i *hsm.TokenInfo) { i.SOPINToChange = true }, "note pin: the security officer's PIN is to be changed", true},
		{"no login", func(i *hsm.TokenInfo) { i.LoginRequired = false }, "warning token: wants no PIN", true},
		{"write-protected", func(i *hsm.TokenInfo) { i.WriteProtected = true }, "note token: is write-protected", true},
		{"self-test", func(i *hsm.TokenInfo) { i.ErrorState = true }, "error token: a self-test of the token has failed", true},
		{"clock right", func(i *hsm.TokenInfo) { i.Clock, i.ClockRead = now.Add(-time.Minute), now }, "ok ", true},
		{"clock slow", func(i *hsm.TokenInfo) { i.Clock, i.ClockRead = now.Add(-time.Hour), now }, "warning clock: the token's clock is -1h0m0s off", true},
		{"clock fast", func(i *hsm.TokenInfo) { i.Clock, i.ClockRead = now.Add(61*time.Second), now }, "warning clock: the token's clock is 1m1s off", true},
		{"no sessions", func(i *hsm.TokenInfo) { i.SessionsMax, i.Sessions = 10, 7 }, "error sessions: 3 of 10 sessions are left, and 4 are needed", true},
		{"few sessions", func(i *hsm.TokenInfo) { i.SessionsMax, i.Sessions = 10, -1 }, "note sessions: 10 of 10 sessions are left: at most 7 calls", true},
		{"many sessions", func(i *hsm.TokenInfo) { i.SessionsMax = 100 }, "ok ", true},
	}
	for _, tt := range tests {
		info := hsm.TokenInfo{Label: "t", UserPIN: true, LoginRequired: true, Random: true}
		tt.change(&info)
		d := &diagnosis{uri: "pkcs11:token=t"}
		logIn := d.checkToken(info, hsm.URI{})
		if got := said(d); !strings.HasPrefix(got, tt.want) || logIn != tt.logIn {
			t.Errorf("%s: %q, login %t; want %q, %t", tt.name, got, logIn, tt.want, tt.logIn)
		}
	}
}

// Attributes that SoftHSM's tools give no key.
func TestDoctorKeys(t *testing.T) {
	t.Parallel()
	good := hsm.KeyInfo{
		Label: "k", ID: "01", Type: hsm.ECP256, Purpose: hsm.PurposeSign, Usages: []string{"sign"}, SPKI: []byte{1},
		Private: true, Sensitive: true, AlwaysSensitive: true, NeverExtractable: true, Local: true,
	}
	tests := []struct {
		name   string
		change func(*hsm.KeyInfo)
		want   string
	}{
		{"good", func(*hsm.KeyInfo) {}, "ok "},
		{"not private", func(k *hsm.KeyInfo) { k.Private = false }, "error key: is not private"},
		{"readable", func(k *hsm.KeyInfo) { k.Sensitive, k.Extractable = false, true }, "error key: is neither sensitive nor unextractable"},
		{"not sensitive", func(k *hsm.KeyInfo) { k.Sensitive = false }, "error key: is not sensitive"},
		{"once extractable", func(k *hsm.KeyInfo) { k.NeverExtractable = false }, "warning key: was extractable or not sensitive once"},
		{"once not sensitive", func(k *hsm.KeyInfo) { k.AlwaysSensitive = false }, "warning key: was extractable or not sensitive once"},
		{"certificate key from elsewhere", func(k *hsm.KeyInfo) { k.Local, k.Purpose = false, hsm.PurposeCertSign }, "warning key: signs certificates and was made elsewhere"},
		{"of an unknown type", func(k *hsm.KeyInfo) { k.Type = "" }, "warning key: is of a type that is not supported"},
	}
	for _, tt := range tests {
		k := good
		tt.change(&k)
		d := &diagnosis{uri: "pkcs11:token=t", keys: []hsm.KeyInfo{k}}
		d.checkKeys()
		if got := said(d); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	copied := good
	copied.Label = "l"
	d := &diagnosis{uri: "pkcs11:token=t", keys: []hsm.KeyInfo{good, copied}}
	d.checkKeys()
	if got := said(d); !strings.HasPrefix(got, `warning key: has the CKA_ID of "k"`) {
		t.Errorf("two keys with one CKA_ID: %q", got)
	}
}

func TestDoctorOrphans(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]int{"0102": 1, "": 0} {
		d := &diagnosis{uri: "pkcs11:token=t"}
		d.checkOrphans([]hsm.KeyInfo{{Label: "k", ID: id}})
		if got := said(d); !strings.HasPrefix(got, "note public key: a public key without its private key") || len(d.Findings[0].Commands) != want {
			t.Errorf("CKA_ID %q: %q, %d commands, want %d", id, got, len(d.Findings[0].Commands), want)
		}
	}
}

func TestDoctorMechanisms(t *testing.T) {
	t.Parallel()
	all, err := hsmtest.New(t).Open(t).Mechanisms(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sha1, sha256 := &[]crypto.Hash{crypto.SHA1}, &[]crypto.Hash{crypto.SHA1, crypto.SHA256}
	tests := []struct {
		name, role string
		without    []string
		oaep       *[]crypto.Hash
		want       string
	}{
		{"SoftHSM", "merchant", nil, nil, "ok "},
		{"SoftHSM with a key", "merchant", nil, sha1, "note mechanism: served by a fallback: the token does CKM_RSA_X_509"},
		{"native OAEP", "merchant", nil, sha256, "ok "},
		{"no OAEP", "merchant", []string{"CKM_RSA_PKCS_OAEP"}, nil, "note mechanism: served by a fallback: the token does CKM_RSA_X_509"},
		{"OAEP that no key has shown", "merchant", []string{"CKM_RSA_X_509"}, nil, "note mechanism: CKM_RSA_PKCS_OAEP, if it has SHA-256"},
		{"no RSA decryption", "merchant", []string{"CKM_RSA_PKCS_OAEP", "CKM_RSA_X_509"}, nil, "error mechanism: missing, and the role needs it: the token has no CKM_RSA_PKCS_OAEP and the token has no CKM_RSA_X_509"},
		{"no ECDSA", "merchant", []string{"CKM_ECDSA"}, sha256, "note mechanism: served by a fallback, CKM_RSA_PKCS, CKM_RSA_PKCS_KEY_PAIR_GEN, because the token has no CKM_ECDSA"},
		{"no GCM for a merchant", "merchant", []string{"CKM_AES_GCM"}, sha256, "ok "},
		{"no GCM for an issuer", "issuer", []string{"CKM_AES_GCM"}, nil, "error mechanism: missing, and the role needs it: the token has no CKM_AES_GCM"},
		{"no GCM for anybody", "all", []string{"CKM_AES_GCM"}, sha256, "warning mechanism: missing: the token has no CKM_AES_GCM"},
		{"no HMAC for a gateway", "gateway", []string{"CKM_SHA256_HMAC"}, sha256, "ok "},
		{"no HMAC for a CA", "ca", []string{"CKM_SHA256_HMAC"}, sha256, "error mechanism: missing, and the role needs it: the token has no CKM_SHA256_HMAC"},
		{"no PSS, which nobody needs", "all", []string{"CKM_RSA_PKCS_PSS"}, sha256, "note mechanism: "},
	}
	for _, tt := range tests {
		var list []hsm.Mechanism
		for _, m := range all {
			if !strings.Contains(" "+strings.Join(tt.without, " ")+" ", " "+m.Name+" ") {
				list = append(list, m)
			}
		}
		d := &diagnosis{uri: "pkcs11:token=t", Role: tt.role}
		d.checkMechanisms(list, hsm.TokenInfo{Random: true}, tt.oaep)
		if got := said(d); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	d := &diagnosis{uri: "pkcs11:token=t", Role: "merchant"}
	d.checkMechanisms(all, hsm.TokenInfo{}, sha256)
	if got := said(d); !strings.HasPrefix(got, "error mechanism: missing, and the role needs it: the token has no generator") {
		t.Errorf("no random numbers: %q", got)
	}
	if got, want := missing(all, []mechanism{{"CKM_ECDSA", "sign", 1000}}), "CKM_ECDSA of the token takes keys of 112 to 521 bits, and not of 1000"; got != want {
		t.Errorf("too long a key: %q, want %q", got, want)
	}
	if got, want := missing(all, []mechanism{{"CKM_ECDSA", "wrap", 0}}), "CKM_ECDSA of the token does not wrap"; got != want {
		t.Errorf("another use: %q, want %q", got, want)
	}
}

// A key that does not belong to its public key is an error, and the others are tried all the same.
func TestDoctorTriesKeys(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	for _, label := range []string{"a", "b"} {
		if _, err := tok.GenerateKey(t.Context(), label, hsm.PurposeSign, hsm.ECP256); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := tok.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	keys[0].Public = keys[1].Public
	d := &diagnosis{uri: "pkcs11:token=t", keys: keys}
	able, err := tok.Mechanisms(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.tryKeys(t.Context(), tok, able); err != nil {
		t.Fatal(err)
	}
	got := map[string]severity{}
	for _, f := range d.Findings {
		got[f.Object] = f.Severity
	}
	if diff := cmp.Diff(map[string]severity{"a": severityError, "b": severityOK}, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	// Where the way to the token has no such mechanism, nobody is told to delete the key.
	d = &diagnosis{uri: "pkcs11:token=t", keys: keys[:1]}
	if _, err := d.tryKeys(t.Context(), tok, nil); err != nil {
		t.Fatal(err)
	}
	if got := d.Findings[0]; !strings.Contains(got.Finding, "the token has no CKM_ECDSA") || strings.Contains(strings.Join(got.Commands, " "), "delete") {
		t.Errorf("without the mechanism: %+v", got)
	}
}

// Another library, which has more and less than SoftHSM.
func TestDoctorOnNSS(t *testing.T) {
	t.Parallel()
	tk := hsmtest.NewNSS(t)
	run := func(args ...string) string {
		t.Helper()
		var stdout, stderr bytes.Buffer
		if code := cli.Run(t.Context(), newApp(), append([]string{"set-hsm"}, args...), strings.NewReader(""), &stdout, &stderr); code != 0 {
			t.Fatalf("%v: exit code %d\n%s", args, code, stderr.String())
		}
		return stdout.String()
	}
	run("keys", "generate", "--token", tk.URI, "--label", "exchange", "--purpose", "key-exchange", "--type", "rsa-2048")
	var d struct {
		Findings []struct{ Severity, Check, Object, Finding string }
	}
	if err := json.Unmarshal([]byte(run("doctor", "--token", tk.URI, "--json")), &d); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range d.Findings {
		got[f.Check+" "+f.Object] = f.Severity + ": " + f.Finding
	}
	for object, want := range map[string]string{
		"try exchange":                      "ok: decrypts what its public key encrypts",
		"mechanism RSAES-OAEP with SHA-256": "ok: native: CKM_RSA_PKCS_OAEP",
		"mechanism wrapping keys by AES":    "ok: native: CKM_AES_KEY_WRAP_KWP",
		"mechanism Ed25519 signatures":      "note: missing: the token has no CKM_EDDSA",
	} {
		if got[object] != want {
			t.Errorf("%s: %q, want %q", object, got[object], want)
		}
	}
}

// The worst comes first, what is mended by the same commands together, and what is well in short.
func TestDoctorPrint(t *testing.T) {
	t.Parallel()
	d := &diagnosis{}
	d.add(severityOK, "library", "/x.so", "loads", "")
	d.add(severityWarning, "key", "k", "is of no purpose", "replace it", "make l", "delete k")
	d.add(severityWarning, "key", "k", "is modifiable", "replace it", "make l", "delete k")
	d.add(severityOK, "key", "m", "fits", "")
	d.add(severityOK, "key", "n\x1b", "fits", "")
	d.add(severityError, "pin", "t", strings.Repeat("wrong ", 20)+"PIN", "correct it")
	const errorAndWarnings = "error    pin t: wrong wrong wrong wrong wrong wrong wrong wrong wrong wrong wrong wrong wrong wrong wrong\n" +
		"         wrong wrong wrong wrong wrong PIN\n" +
		"         -> correct it\n" +
		"warning  key k: is of no purpose\n" +
		"warning  key k: is modifiable\n" +
		"         -> replace it\n" +
		"            make l\n" +
		"            delete k\n"
	const counts = "\n1 error, 2 warnings, 0 notes, 3 ok\n"
	for all, want := range map[bool]string{
		false: errorAndWarnings + "ok       library: /x.so\nok       key: m, n?\n" + counts,
		true:  errorAndWarnings + "ok       library /x.so: loads\nok       key m: fits\nok       key n?: fits\n" + counts,
	} {
		var got bytes.Buffer
		if err := d.print(&got, all); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got.String()); diff != "" {
			t.Errorf("all %t (-want +got):\n%s", all, diff)
		}
	}
}

func TestShellQuote(t *testing.T) {
	t.Parallel()
	for _, word := range []string{"plain", "", "a b", "it's", "$(x)", "a;b", "*", "pkcs11:token=t;serial=1?pin-source=file:x&module-path=/y", "\\", "\""} {
		out, err := exec.Command("sh", "-c", "printf %s "+shellQuote(word)).Output()
		if err != nil || string(out) != word {
			t.Errorf("a shell makes %q, %v of %s", out, err, shellQuote(word))
		}
	}
}

func TestSeverityJSON(t *testing.T) {
	t.Parallel()
	got, err := json.Marshal(finding{Severity: severityWarning, Check: "key", Object: "k", Finding: "f"})
	if want := `{"severity":"warning","check":"key","object":"k","finding":"f"}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
}
