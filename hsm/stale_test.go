package hsm_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
	"github.com/setkit/setkit/hsm/hsmtest/faults"
)

// What a key makes that nobody can verify, it makes itself: a handle that names another key of its kind
// is noticed before.
func TestAnotherKeysHandle(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	for label, kind := range map[string]struct {
		purpose hsm.Purpose
		typ     hsm.KeyType
	}{
		"mac": {hsm.PurposeMAC, hsm.HMACSHA256}, "seal": {hsm.PurposeSeal, hsm.AES256},
		"exchange": {hsm.PurposeKeyExchange, hsm.RSA2048}, "derive": {hsm.PurposeDerive, hsm.ECP256},
	} {
		generate(t, tok, label, kind.purpose, kind.typ)
		generate(t, tok, "other-"+label, kind.purpose, kind.typ)
	}
	// A function for each operation, which returns what only the right key makes.
	peer, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	mac, other1 := both(t, tok.MAC, "mac")
	seal, other2 := both(t, tok.Sealer, "seal")
	exchange, other3 := both(t, tok.Decrypter, "exchange")
	derive, other4 := both(t, tok.Deriver, "derive")
	sealed, err := seal.Seal([]byte("sealed"), nil)
	if err != nil {
		t.Fatal(err)
	}
	encrypted, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, exchange.Public().(*rsa.PublicKey), []byte("message"), nil)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name       string
		key, other any
		run        func() ([]byte, error)
	}{
		{"MAC", mac, other1, func() ([]byte, error) { return mac.Sum([]byte("data")) }},
		{"open", seal, other2, func() ([]byte, error) { return seal.Open(sealed, nil) }},
		{"decrypt", exchange, other3, func() ([]byte, error) {
			return exchange.Decrypt(nil, encrypted, &rsa.OAEPOptions{Hash: crypto.SHA256})
		}},
		{"derive", derive, other4, func() ([]byte, error) { return derive.ECDH(peer.PublicKey()) }},
	}
	for _, tt := range tests {
		want, err := tt.run()
		if err != nil {
			t.Fatal(err)
		}
		hsm.Confuse(tt.key, tt.other)
		if got, err := tt.run(); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s with another key's handle: %x, %v; want %x", tt.name, got, err, want)
		}
	}
	hsm.Confuse(seal, other2)
	byWhom, err := seal.Seal([]byte("sealed"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := seal.Open(byWhom, nil); err != nil || string(got) != "sealed" {
		t.Errorf("opening what was sealed with another key's handle: %q, %v", got, err)
	}
}

func both[K any](t testing.TB, find func(context.Context, string) (K, error), label string) (key, other K) {
	t.Helper()
	key, err1 := find(t.Context(), label)
	other, err2 := find(t.Context(), "other-"+label)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return key, other
}

// A token that decodes the padding itself, and is lost with an answer that it also has for bad padding.
func TestLossIsNotTakenForBadPadding(t *testing.T) {
	t.Parallel()
	m := faults.New(t)
	tok := m.Open(t)
	generate(t, tok, "k", hsm.PurposeKeyExchange, hsm.RSA2048)
	key, err := tok.Decrypter(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	hsm.DecodeOnToken(key, crypto.SHA1)
	sha1OAEP := &rsa.OAEPOptions{Hash: crypto.SHA1}
	good, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, key.Public().(*rsa.PublicKey), []byte("message"), nil)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(good)
	bad[len(bad)-1] ^= 1
	for range 10 {
		if _, err := key.Decrypt(nil, bad, sha1OAEP); err != rsa.ErrDecryption {
			t.Fatalf("bad padding: %v; want rsa.ErrDecryption", err)
		}
	}
	logins := m.Logins(pkcs11.CKR_OK)
	for _, code := range []uint{pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED} {
		m.Fail(faults.Decrypt, code, 8)
		if got, err := key.Decrypt(nil, good, sha1OAEP); err != nil && !errors.Is(err, hsm.ErrUnavailable) || err == nil && string(got) != "message" {
			t.Errorf("%v: %q, %v; want the message or unavailability", pkcs11.Error(code), got, err)
		}
		m.Clear()
		eventually(t, "decryption", func() bool {
			got, err := key.Decrypt(nil, good, sha1OAEP)
			if errors.Is(err, rsa.ErrDecryption) {
				t.Errorf("after %v: %v", pkcs11.Error(code), err)
			}
			return string(got) == "message"
		})
	}
	if m.Logins(pkcs11.CKR_OK) == logins {
		t.Error("the device was not found lost")
	}
}

// A caller may change its options when its context has ended, although the call still runs.
func TestOptionsAreTheCallers(t *testing.T) {
	t.Parallel()
	m := faults.New(t)
	tok := m.Open(t)
	generate(t, tok, "k", hsm.PurposeKeyExchange, hsm.RSA2048)
	key, err := tok.Decrypter(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	ciphertext, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, key.Public().(*rsa.PublicKey), []byte("message"), []byte("label"))
	if err != nil {
		t.Fatal(err)
	}
	m.CloseSessions()
	release := m.Hang(faults.FindObjectsInit)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	opts := &rsa.OAEPOptions{Hash: crypto.SHA256, Label: []byte("label")}
	if _, err := key.WithContext(ctx).Decrypt(nil, ciphertext, opts); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("decrypting: %v; want the context's end", err)
	}
	if m.Inside(faults.FindObjectsInit) == 0 {
		t.Error("no call hangs: that is no test")
	}
	opts.Hash, opts.Label[0], ciphertext[0] = crypto.SHA1, 'x', 0
	release()
	eventually(t, "the hanging call has returned", func() bool { return m.Inside(faults.FindObjectsInit) == 0 })
}

// goroutinesOf counts the goroutines that are in package hsm itself.
func goroutinesOf() (n int, all string) {
	buf := make([]byte, 4<<20)
	all = string(buf[:runtime.Stack(buf, true)])
	for _, g := range strings.Split(all, "\n\n") {
		if strings.Contains(g, "setkit/hsm.") && !strings.Contains(g, "setkit/hsm_test.") {
			n++
		}
	}
	return n, all
}

// Closing leaves no goroutine behind, whatever was going on. It is not parallel: it counts all of them.
func TestNothingIsLeftRunning(t *testing.T) {
	a, b := faults.New(t), faults.New(t)
	pins := func(ctx context.Context, source, label string) ([]byte, error) {
		if label == a.Label {
			return a.GetPIN(ctx, source, label)
		}
		return b.GetPIN(ctx, source, label)
	}
	b.Pull()
	group, err := hsm.OpenGroup(t.Context(), []hsm.URI{parse(t, a.URI), parse(t, b.URI)}, pins) // b is looked for
	if err != nil {
		t.Fatal(err)
	}
	tok, err := hsm.Open(t.Context(), parse(t, a.URI), a.GetPIN)
	if err != nil {
		t.Fatal(err)
	}
	sign := signer(t, tok, "k")
	release := a.Hang(faults.Sign)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := sign.run(ctx); err == nil {
		t.Error("signing with a token that hangs: no error")
	}
	release()
	a.Pull()
	ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := sign.run(ctx); err == nil {
		t.Error("signing without the device: no error")
	}
	// Now one recovers, and one is not there yet. The errors of closing what is lost say nothing.
	_, _ = group.Close(), tok.Close()
	eventually(t, "no goroutine is left", func() bool { n, _ := goroutinesOf(); return n == 0 })
	if err := sign.run(t.Context()); !errors.Is(err, hsm.ErrUnavailable) || !strings.Contains(err.Error(), "the token is closed") {
		t.Errorf("signing with a closed token: %v", err)
	}
	if n, all := goroutinesOf(); n != 0 {
		t.Errorf("%d goroutines are left running:\n%s", n, all)
	}
	if n := a.Sessions() + b.Sessions(); n != 0 {
		t.Errorf("%d sessions are left open", n)
	}
}

// A library that hung while its token was closed is put in order when the call has returned.
func TestReopenAfterHang(t *testing.T) {
	t.Parallel()
	m := faults.New(t)
	tok, err := hsm.Open(t.Context(), parse(t, m.URI), m.GetPIN)
	if err != nil {
		t.Fatal(err)
	}
	sign := signer(t, tok, "k")
	release := m.Hang(faults.Sign)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := sign.run(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("signing: %v; want the context's end", err)
	}
	if err := tok.Close(); err == nil {
		t.Error("closing during a call that hangs: no error")
	}
	release()
	eventually(t, "the call has returned", func() bool { return m.Inside(faults.Sign) == 0 })
	again, err := hsm.Open(t.Context(), parse(t, m.URI), m.GetPIN)
	if err != nil {
		t.Fatal(err)
	}
	m.Finalize()
	if _, err := again.Signer(t.Context(), "k"); err != nil {
		t.Errorf("a library that was lost after a hung call: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	if n := m.Sessions(); n != 0 {
		t.Errorf("%d sessions are left open", n)
	}
}

// Somebody else in the process uses the library: it is not finalised under him.
func TestForeignInitialisation(t *testing.T) {
	t.Parallel()
	m := faults.New(t)
	lib := pkcs11.New(m.ModulePath)
	if err := lib.Initialize(); err != nil {
		t.Fatal(err)
	}
	if _, err := hsm.Tokens(t.Context(), m.ModulePath); err != nil {
		t.Error(err)
	}
	tok, err := hsm.Open(t.Context(), parse(t, m.URI), m.GetPIN)
	if err != nil {
		t.Fatal(err)
	}
	if err := tok.Close(); err != nil {
		t.Error(err)
	}
	if _, err := lib.GetInfo(); err != nil {
		t.Errorf("the other user of the library: %v", err)
	}
	if err := lib.Finalize(); err != nil {
		t.Error(err)
	}
	if err := m.Open(t).Ready(t.Context()); err != nil {
		t.Errorf("on our own again: %v", err)
	}
}
