package hsm_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/miekg/pkcs11"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
	"github.com/setkit/setkit/hsm/hsmtest/faults"
)

// importPair brings an RSA key into the token in the way of SoftHSM's own tool: modifiable, and with
// usages of no purpose.
func importPair(t *testing.T, tk *hsmtest.Token, label, id string, flags ...string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"--import", file, "--serial", tk.Serial, "--label", label, "--id", id, "--pin", tk.PIN}, flags...)
	// It gives up when it meets a token that another test is just making.
	for end := time.Now().Add(20 * time.Second); ; {
		out, err := exec.Command("softhsm2-util", args...).CombinedOutput()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("softhsm2-util: %v\n%s", err, out)
		}
	}
}

func labels(t *testing.T, tok *hsm.Token) []string {
	t.Helper()
	keys, err := tok.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	list := []string{}
	for _, k := range keys {
		list = append(list, k.Label)
	}
	return list
}

func objects(t *testing.T, tok *hsm.Token) int {
	t.Helper()
	n, err := hsm.CountObjects(t.Context(), tok)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRenameKey(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	tok := tk.Open(t)
	renames := map[string]func(from, to string) error{
		"RenameKey": func(from, to string) error {
			_, err := tok.RenameKey(t.Context(), from, nil, to)
			return err
		},
		"by copy": func(from, to string) error { return hsm.RenameByCopy(t.Context(), tok, from, to) },
	}
	importPair(t, tk, "first", "0102")
	before := objects(t, tok)
	label := "first"
	for name, rename := range renames {
		old, err := tok.Key(t.Context(), label)
		if err != nil {
			t.Fatal(err)
		}
		to := label + "+"
		if err := rename(label, to); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		renamed, err := tok.Key(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		old.Label = to
		if diff := cmp.Diff(old, renamed); diff != "" {
			t.Errorf("%s changed more than the label (-want +got):\n%s", name, diff)
		}
		if _, err := tok.Key(t.Context(), label); !errors.Is(err, hsm.ErrNotFound) {
			t.Errorf("%s: the old label: %v, want ErrNotFound", name, err)
		}
		if got := objects(t, tok); got != before {
			t.Errorf("%s: %d objects, want the %d of before", name, got, before)
		}
		publics, err := hsm.PublicLabels(t.Context(), tok)
		if err != nil || !slices.Equal(publics, []string{to}) {
			t.Errorf("%s: public keys %q, %v; want %q", name, publics, err, to)
		}
		label = to
	}
}

// SoftHSM has no way to rename what GenerateKey makes. Nothing is lost by trying.
func TestRenameUnmodifiableKey(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	generate(t, tok, "pair", hsm.PurposeSign, hsm.ECP256)
	generate(t, tok, "seal", hsm.PurposeSeal, hsm.AES256)
	want, err := tok.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := objects(t, tok)
	for _, label := range []string{"pair", "seal"} {
		_, err := tok.RenameKey(t.Context(), label, nil, "other")
		if err == nil || !strings.Contains(err.Error(), "neither copies it under another label (C_CopyObject: CKR_ATTRIBUTE_READ_ONLY") ||
			!strings.Contains(err.Error(), "it keeps its label") {
			t.Errorf("rename %s: %v", label, err)
		}
	}
	got, err := tok.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" || objects(t, tok) != before {
		t.Errorf("the keys have changed, or objects were made (-want +got):\n%s", diff)
	}
}

// When the public key keeps its label the private key gets its own back.
func TestRenameIsUndone(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	modulus := bytes.Repeat([]byte{0xff}, 256)
	if err := hsm.StoreRSA(t.Context(), tok, "old", []byte{1}, modulus, pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false)); err != nil {
		t.Fatal(err)
	}
	if _, err := tok.RenameKey(t.Context(), "old", nil, "new"); err == nil || !strings.Contains(err.Error(), "its public key") {
		t.Errorf("renaming a pair whose public key cannot be: %v, want a refusal", err)
	}
	if diff := cmp.Diff([]string{"old"}, labels(t, tok)); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if got := objects(t, tok); got != 2 {
		t.Errorf("%d objects, want 2", got)
	}
}

// A device that is lost while it changes the PIN may have changed it.
func TestSetPINOnLostDevice(t *testing.T) {
	t.Parallel()
	m := faults.New(t)
	tok := m.Open(t)
	m.FailAfter(faults.SetPIN, pkcs11.CKR_DEVICE_ERROR, 1)
	err := tok.SetPIN(t.Context(), []byte(m.PIN), []byte("a new one"))
	if err == nil || !strings.Contains(err.Error(), "not known: log in with the new one first") || !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("PIN changed and the answer lost: %v, want advice to try the new one", err)
	}
	m.Fail(faults.SetPIN, pkcs11.CKR_PIN_INVALID, 1)
	if err := tok.SetPIN(t.Context(), []byte("a new one"), []byte("another one")); err == nil || !strings.Contains(err.Error(), "does not take the new PIN") {
		t.Errorf("PIN that the token does not take: %v", err)
	}
}

func TestRenameKeyRefuses(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	tok := tk.Open(t)
	generate(t, tok, "sign", hsm.PurposeSign, hsm.ECP256)
	generate(t, tok, "cert-sign", hsm.PurposeCertSign, hsm.ECP256)
	generate(t, tok, "seal", hsm.PurposeSeal, hsm.AES256)
	importPair(t, tk, "twin", "0102")
	importPair(t, tk, "twin", "0304")
	importPair(t, tk, "unfinished-0506", "0506")
	want := labels(t, tok)
	tests := []struct{ from, to, want string }{
		{"sign", "seal", "a key with this label exists"},
		{"sign", "sign", "a key with this label exists"},
		{"sign", "", "printable"},
		{"sign", "a\nb", "printable"},
		{"sign", "unfinished-1", "being made"},
		{"sign", "cert-sign-2", "cert-sign"},
		{"cert-sign", "sign-2", "cert-sign"},
		{"none", "other", "key not found"},
		{"twin", "other", "say which by its CKA_ID: 0102, 0304"},
		{"twin", "cert-sign-3", "say which"},
		{"unfinished-0506", "finished", "delete it"},
	}
	for _, tt := range tests {
		_, err := tok.RenameKey(t.Context(), tt.from, nil, tt.to)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("rename %q to %q: %v, want %q", tt.from, tt.to, err, tt.want)
		}
		if strings.Contains(tt.want, "exists") != errors.Is(err, hsm.ErrKeyExists) {
			t.Errorf("rename %q to %q: %v, ErrKeyExists %t", tt.from, tt.to, err, errors.Is(err, hsm.ErrKeyExists))
		}
	}
	if _, err := tok.RenameKey(t.Context(), "twin", []byte{9}, "other"); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("rename by another CKA_ID: %v, want ErrNotFound", err)
	}
	if diff := cmp.Diff(want, labels(t, tok)); diff != "" {
		t.Errorf("labels after the refusals (-want +got):\n%s", diff)
	}
	// The CKA_ID tells two keys with one label apart.
	info, err := tok.RenameKey(t.Context(), "twin", []byte{3, 4}, "other")
	if err != nil || info.ID != "0304" || info.Label != "other" {
		t.Errorf("renamed by CKA_ID: %+v, %v; want 0304 as other", info, err)
	}
	if _, err := tok.Key(t.Context(), "twin"); err != nil {
		t.Errorf("the twin that is left: %v", err)
	}
}

func TestDeleteKey(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	tok := tk.Open(t)
	generate(t, tok, "pair", hsm.PurposeKeyExchange, hsm.RSA2048)
	generate(t, tok, "secret", hsm.PurposeMAC, hsm.HMACSHA256)
	generate(t, tok, "kept", hsm.PurposeSign, hsm.ECP256)
	importPair(t, tk, "twin", "0102")
	importPair(t, tk, "twin", "0304")
	if err := tok.DeleteKey(t.Context(), "twin", nil); err == nil || !strings.Contains(err.Error(), "0102, 0304") {
		t.Errorf("delete one of two: %v, want the two CKA_IDs", err)
	}
	if err := tok.DeleteKey(t.Context(), "kept", []byte{1, 2}); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("delete by another key's CKA_ID: %v, want ErrNotFound", err)
	}
	for _, d := range []struct{ label, id string }{{"pair", ""}, {"secret", ""}, {"twin", "0304"}, {"twin", ""}} {
		var id []byte
		if d.id != "" {
			id, _ = hex.DecodeString(d.id)
		}
		if err := tok.DeleteKey(t.Context(), d.label, id); err != nil {
			t.Error(err)
		}
	}
	if err := tok.DeleteKey(t.Context(), "pair", nil); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("delete again: %v, want ErrNotFound", err)
	}
	if diff := cmp.Diff([]string{"kept"}, labels(t, tok)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if got := objects(t, tok); got != 2 {
		t.Errorf("%d objects, want the private and the public key of the one that is kept", got)
	}
	signer, err := tok.Signer(t.Context(), "kept")
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(nil)
	if _, err := signer.Sign(nil, digest[:], crypto.SHA256); err != nil {
		t.Errorf("the key that is kept: %v", err)
	}
}

// A rename or a deletion that was cut short is finished by deleting.
func TestDeleteKeyFinishes(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	tok := tk.Open(t)
	importPair(t, tk, "old", "0102")
	if err := hsm.CopyKey(t.Context(), tok, "old", "new"); err != nil {
		t.Fatal(err)
	}
	if err := tok.DeleteKey(t.Context(), "old", nil); err != nil {
		t.Fatal(err)
	}
	if orphans, err := tok.Orphans(t.Context()); err != nil || len(orphans) != 0 {
		t.Errorf("orphans %+v, %v; want none", orphans, err)
	}
	if info, err := tok.Key(t.Context(), "new"); err != nil || info.Public == nil {
		t.Fatalf("the copy has lost its public key: %+v, %v", info, err)
	}
	if err := hsm.DestroyPrivate(t.Context(), tok, "new"); err != nil {
		t.Fatal(err)
	}
	// The public key still has the label that the pair was made with.
	orphans, err := tok.Orphans(t.Context())
	if err != nil || len(orphans) != 1 || orphans[0].Label != "old" || orphans[0].ID != "0102" || orphans[0].Type != hsm.RSA2048 {
		t.Errorf("orphans %+v, %v; want the public key of the pair", orphans, err)
	}
	if err := tok.DeleteKey(t.Context(), "old", nil); err != nil {
		t.Error(err)
	}
	if got := objects(t, tok); got != 0 {
		t.Errorf("%d objects are left", got)
	}
}

// What a token calls a copy is compared with the key before that is destroyed.
func TestCompareCopy(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	generate(t, tok, "a", hsm.PurposeSeal, hsm.AES256)
	generate(t, tok, "b", hsm.PurposeSeal, hsm.AES256)
	if err := hsm.CompareCopy(t.Context(), tok, "a", "a", true); err != nil {
		t.Errorf("a key and itself: %v", err)
	}
	if err := hsm.CompareCopy(t.Context(), tok, "a", "a", false); err == nil || !strings.Contains(err.Error(), "CKA_TOKEN true") {
		t.Errorf("a copy that stays and was not to: %v, want a refusal", err)
	}
	if err := hsm.CompareCopy(t.Context(), tok, "a", "b", true); err == nil || !strings.Contains(err.Error(), "differs in attribute 0x102") {
		t.Errorf("another key: %v, want that its CKA_ID differs", err)
	}
}

// Of two public keys that are left under one label the CKA_ID tells which one is meant.
func TestDeleteOneOrphan(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	for _, id := range [][]byte{{1}, {2}} {
		if err := hsm.StoreRSA(t.Context(), tok, "left", id, bytes.Repeat([]byte{0xff}, 256)); err != nil {
			t.Fatal(err)
		}
		if err := hsm.DestroyPrivate(t.Context(), tok, "left"); err != nil {
			t.Fatal(err)
		}
	}
	if err := tok.DeleteKey(t.Context(), "left", []byte{2}); err != nil {
		t.Fatal(err)
	}
	if orphans, err := tok.Orphans(t.Context()); err != nil || len(orphans) != 1 || orphans[0].ID != "01" {
		t.Errorf("orphans %+v, %v; want the one with CKA_ID 01", orphans, err)
	}
}

func TestRenameWhileOthersWork(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	tok := tk.Open(t)
	generate(t, tok, "busy", hsm.PurposeSign, hsm.ECP256)
	importPair(t, tk, "name-0", "0102")
	signer, err := tok.Signer(t.Context(), "busy")
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(nil)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				if _, err := signer.Sign(nil, digest[:], crypto.SHA256); err != nil {
					t.Error(err)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for i := range 9 {
		from, to := "name-"+string(rune('0'+i)), "name-"+string(rune('1'+i))
		if _, err := tok.RenameKey(t.Context(), from, nil, to); err != nil {
			t.Error(err)
		}
	}
	close(done)
	wg.Wait()
}

func TestSetPIN(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	tok := tk.Open(t)
	generate(t, tok, "k", hsm.PurposeSign, hsm.ECP256)
	old, fresh := []byte(tk.PIN), []byte("a new one")
	for name, tt := range map[string]struct {
		old, new []byte
		want     string
	}{
		"short new PIN": {old, []byte("123"), "new PIN: a PIN of 3 bytes: the token takes 4 to 255"},
		"no new PIN":    {old, nil, "new PIN: a PIN of 0 bytes"},
		"long new PIN":  {old, make([]byte, 256), "new PIN: a PIN of 256 bytes"},
		"no old PIN":    {nil, fresh, "old PIN: a PIN of 0 bytes"},
	} {
		if err := tok.SetPIN(t.Context(), tt.old, tt.new); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	if info := tokenInfo(t, tk); info.PINLow {
		t.Error("a PIN of a wrong length was sent to the token")
	}
	err := tok.SetPIN(t.Context(), []byte("000000"), fresh)
	if pinErr, ok := errors.AsType[*hsm.PINError](err); !ok || pinErr.Code != "CKR_PIN_INCORRECT" || pinErr.Tries != hsm.TriesReduced {
		t.Errorf("wrong old PIN: %v, want a *hsm.PINError with the count reduced", err)
	}
	if info := tokenInfo(t, tk); !info.PINLow {
		t.Error("the token was not asked about the wrong old PIN")
	}
	if err := tok.SetPIN(t.Context(), old, fresh); err != nil {
		t.Fatal(err)
	}
	if string(fresh) != "a new one" {
		t.Error("the caller's PIN was cleared")
	}
	open := func(pin string) error {
		again, err := hsm.Open(t.Context(), parse(t, tk.URI), func(context.Context, string, string) ([]byte, error) {
			return []byte(pin), nil
		})
		if err == nil {
			err = again.Close()
		}
		return err
	}
	if err := open("a new one"); err != nil {
		t.Errorf("the new PIN while the token is open: %v", err)
	}
	if err := open(tk.PIN); err == nil {
		t.Error("the old PIN while the token is open is accepted")
	}
	signer, err := tok.Signer(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(nil)
	if _, err := signer.Sign(nil, digest[:], crypto.SHA256); err != nil {
		t.Errorf("the token that was open: %v", err)
	}
	if err := tok.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(tk.PIN); err == nil {
		t.Error("the old PIN still opens the token")
	}
	if err := open("a new one"); err != nil {
		t.Errorf("the new PIN: %v", err)
	}
}

// A source that still has the old PIN costs no try when the token wants a login again, and serves as
// soon as it has the new one.
func TestSetPINThenLoss(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	var source atomic.Value
	source.Store(tk.PIN)
	tok, err := hsm.Open(t.Context(), parse(t, tk.URI), func(context.Context, string, string) ([]byte, error) {
		return []byte(source.Load().(string)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	generate(t, tok, "k", hsm.PurposeSign, hsm.ECP256)
	if err := tok.SetPIN(t.Context(), []byte(tk.PIN), []byte("a new one")); err != nil {
		t.Fatal(err)
	}
	if err := hsm.CloseSessions(tok); err != nil {
		t.Fatal(err)
	}
	_, err = tok.Key(t.Context(), "k")
	if _, ok := errors.AsType[*hsm.PINError](err); !ok {
		t.Errorf("a login with the old PIN: %v, want a *hsm.PINError", err)
	}
	if tokenInfo(t, tk).PINLow {
		t.Error("the old PIN was given to the token")
	}
	source.Store("a new one")
	deadline := time.Now().Add(10 * time.Second)
	for {
		if _, err = tok.Key(t.Context(), "k"); err == nil || time.Now().After(deadline) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		t.Errorf("with the new PIN: %v", err)
	}
}

func tokenInfo(t *testing.T, tk *hsmtest.Token) hsm.TokenInfo {
	t.Helper()
	list, err := hsm.Tokens(t.Context(), tk.ModulePath)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range list {
		if info.Serial == tk.Serial {
			return info
		}
	}
	t.Fatalf("token %s is not in the list", tk.Label)
	return hsm.TokenInfo{}
}

func TestTokenInfo(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	got := tokenInfo(t, tk)
	want := hsm.TokenInfo{
		Label: tk.Label, Serial: tk.Serial, Manufacturer: "SoftHSM project", Model: "SoftHSM v2", UserPIN: true,
		LoginRequired: true, Random: true, PINBytesMin: 4, PINBytesMax: 255, Sessions: -1,
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(hsm.TokenInfo{}, "Hardware", "Firmware")); diff != "" {
		t.Errorf("token (-want +got):\n%s", diff)
	}
	if !strings.HasPrefix(got.Hardware, "2.") || !strings.HasPrefix(got.Firmware, "2.") {
		t.Errorf("versions %q and %q, want those of SoftHSM 2", got.Hardware, got.Firmware)
	}
}

func TestMechanisms(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	list, err := tok.Mechanisms(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSortedFunc(list, func(a, b hsm.Mechanism) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("the list is not sorted by name")
	}
	got := map[string]hsm.Mechanism{}
	for _, m := range list {
		if strings.HasPrefix(m.Name, "CKM_0x") {
			t.Errorf("mechanism %s of SoftHSM has no name", m.Name)
		}
		got[m.Name] = m
	}
	for _, want := range []hsm.Mechanism{
		{Name: "CKM_AES_GCM", Code: 0x1087, KeyBitsMin: 128, KeyBitsMax: 256, Uses: []string{"encrypt", "decrypt"}},
		{Name: "CKM_ECDSA", Code: 0x1041, KeyBitsMin: 112, KeyBitsMax: 521, Uses: []string{"sign", "verify"}},
		{Name: "CKM_SHA256_HMAC", Code: 0x251, KeyBitsMin: 256, KeyBitsMax: 4096, Uses: []string{"sign", "verify"}},
		{Name: "CKM_GENERIC_SECRET_KEY_GEN", Code: 0x350, KeyBitsMin: 8, Uses: []string{"generate"}},
		{Name: "CKM_RSA_PKCS_KEY_PAIR_GEN", KeyBitsMin: 512, KeyBitsMax: 16384, Uses: []string{"generate-key-pair"}},
		{Name: "CKM_SHA256", Code: 0x250, Uses: []string{"digest"}},
	} {
		if diff := cmp.Diff(want, got[want.Name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", want.Name, diff)
		}
	}
	if _, err := func() ([]hsm.Mechanism, error) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		return tok.Mechanisms(ctx)
	}(); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

func TestCheckKey(t *testing.T) {
	t.Parallel()
	if err := hsm.CheckKey("sign", hsm.PurposeSign, hsm.ECP256); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"purpose": hsm.CheckKey("k", "none", hsm.ECP256), "type": hsm.CheckKey("k", hsm.PurposeSign, "none"),
		"label": hsm.CheckKey("", hsm.PurposeSign, hsm.ECP256),
	} {
		if err == nil {
			t.Errorf("wrong %s: no error", name)
		}
	}
}
