package hsm_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
)

// The token's HMAC and AES-GCM are compared with Go's, under a key that both know.
func TestKnownKeys(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	value := make([]byte, 32)
	rand.Read(value)
	for label, k := range map[string]struct {
		purpose hsm.Purpose
		typ     hsm.KeyType
	}{"mac": {hsm.PurposeMAC, hsm.HMACSHA256}, "seal": {hsm.PurposeSeal, hsm.AES256}} {
		if err := hsm.ImportSecret(t.Context(), tok, label, k.purpose, k.typ, value); err != nil {
			t.Fatal(err)
		}
		info, err := tok.Key(t.Context(), label)
		if err != nil || info.Local || info.AlwaysSensitive || info.NeverExtractable {
			t.Errorf("imported key %+v, %v; want one that says it was not made in the token", info, err)
		}
	}
	mac, err := tok.MAC(t.Context(), "mac")
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range []string{"", "4111111111111111", strings.Repeat("x", 5000)} {
		h := hmac.New(sha256.New, value)
		h.Write([]byte(data))
		got, err := mac.Sum([]byte(data))
		if want := h.Sum(nil); err != nil || !bytes.Equal(got, want) {
			t.Errorf("MAC of %d bytes is %x, %v; want %x", len(data), got, err, want)
		}
	}
	sealer, err := tok.Sealer(t.Context(), "seal")
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(value)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	for _, aad := range [][]byte{nil, []byte("account 7")} {
		sealed, err := sealer.Seal([]byte("4111111111111111"), aad)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := gcm.Open(nil, sealed[:12], sealed[12:], aad); err != nil || string(got) != "4111111111111111" {
			t.Errorf("Go opens %q, %v", got, err)
		}
		nonce := bytes.Repeat([]byte{7}, 12)
		if got, err := sealer.Open(gcm.Seal(nonce, nonce, []byte("from Go"), aad), aad); err != nil || string(got) != "from Go" {
			t.Errorf("the token opens %q, %v", got, err)
		}
	}
}

// The token's AES-CMAC is that of NIST SP 800-38B: the examples of its appendix D.3, with AES-256.
func TestKnownCMAC(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	unhex := func(text string) []byte {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	value := unhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
	if err := hsm.ImportSecret(t.Context(), tok, "master", hsm.PurposeMAC, hsm.AES256, value); err != nil {
		t.Fatal(err)
	}
	key, err := tok.CMAC(t.Context(), "master")
	if err != nil {
		t.Fatal(err)
	}
	message := unhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51" +
		"30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710")
	for n, want := range map[int]string{
		0: "028962f61b7bf89efc6b551f4667d983", 16: "28a7023f452e8f82bd4bf28d8c37c35c",
		40: "aaf3d8f1de5640c232f5b169b9c911e6", 64: "e1992190549f6ed5696a2c056c315410",
	} {
		if got, err := key.Sum(message[:n]); err != nil || !bytes.Equal(got, unhex(want)) {
			t.Errorf("CMAC of %d bytes is %x, %v; want %s", n, got, err, want)
		}
	}
}

func TestNewKeyCannotBeModified(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	generate(t, tok, "k", hsm.PurposeSign, hsm.RSA2048)
	if err := hsm.TryToModify(t.Context(), tok, "k"); err == nil || !strings.Contains(err.Error(), "CKR_ACTION_PROHIBITED") {
		t.Errorf("giving the key another usage: %v, want CKR_ACTION_PROHIBITED", err)
	}
}

func TestKeyThatTheTokenMadeOtherwiseIsDestroyed(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	err := hsm.GenerateWithUsages(t.Context(), tok, "k", "sign", "teleport")
	if err == nil || !strings.Contains(err.Error(), "differs from what was asked for (usages [sign])") {
		t.Errorf("error %v, want one with the usages", err)
	}
	if n, err := hsm.CountObjects(t.Context(), tok); err != nil || n != 0 {
		t.Errorf("%d objects are left in the token, %v; want none", n, err)
	}
	generate(t, tok, "k", hsm.PurposeSign, hsm.ECP256) // the label is free
	if n, err := hsm.CountObjects(t.Context(), tok); err != nil || n != 2 {
		t.Errorf("a key pair is %d objects, %v; want 2", n, err)
	}
}

func TestSignatureByAnotherKeyIsNotReturned(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	digest := sha256.Sum256(nil)
	for _, typ := range []hsm.KeyType{hsm.ECP256, hsm.RSA2048} {
		var keys [2]*hsm.Signer
		for i, label := range []string{string(typ), "other-" + string(typ)} {
			generate(t, tok, label, hsm.PurposeSign, typ)
			var err error
			if keys[i], err = tok.Signer(t.Context(), label); err != nil {
				t.Fatal(err)
			}
		}
		for _, opts := range []crypto.SignerOpts{crypto.SHA256, &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: rsa.PSSSaltLengthEqualsHash}} {
			hsm.Confuse(keys[0], keys[1])
			sig, err := keys[0].Sign(nil, digest[:], opts)
			if err != nil {
				t.Fatal(err)
			}
			checkSignature(t, keys[0].Public(), digest[:], sig, opts)
		}
	}
}

func TestWaitingEndsWithContext(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	release := hsm.HoldSessions(tok)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := tok.Keys(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("listing while every session is taken: %v, want the context's end", err)
	}
	release()
	if _, err := tok.Keys(t.Context()); err != nil {
		t.Errorf("listing afterwards: %v", err)
	}
}

func TestSessionIsClosedAfterError(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	generate(t, tok, "seal", hsm.PurposeSeal, hsm.AES256)
	key, err := tok.Sealer(t.Context(), "seal")
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := key.Seal([]byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := hsm.IdleSessions(tok); n != 1 {
		t.Fatalf("%d idle sessions, want 1: calls one after the other share a session", n)
	}
	for range 50 {
		if _, err := key.Open(sealed, []byte("wrong")); !errors.Is(err, hsm.ErrNotAuthentic) {
			t.Fatal(err)
		}
	}
	if n := hsm.IdleSessions(tok); n > 1 {
		t.Errorf("%d idle sessions after failures, want at most 1", n)
	}
	if got, err := key.Open(sealed, nil); err != nil || string(got) != "x" {
		t.Errorf("got %q, %v; want x", got, err)
	}
}

func TestCodeNames(t *testing.T) {
	t.Parallel()
	for code, want := range map[uint]string{
		0xA4: "CKR_PIN_LOCKED", 0xA0: "CKR_PIN_INCORRECT", 0x30: "CKR_DEVICE_ERROR", 0x1B: "CKR_ACTION_PROHIBITED",
		0x80000001: "CKR_0x80000001",
	} {
		if got := hsm.CodeName(code); got != want {
			t.Errorf("code 0x%X is %s, want %s", code, got, want)
		}
	}
}

func TestPINErrorText(t *testing.T) {
	t.Parallel()
	tests := []struct {
		flags uint
		want  string
	}{
		{0, "check the PIN source"}, {0x10000, "counts wrong PINs"}, {0x20000, "one more wrong PIN locks"},
		{0x40000, "is locked"}, {0x70000, "is locked"},
	}
	for _, tt := range tests {
		err := &hsm.PINError{Token: "shop", Code: "CKR_PIN_INCORRECT", Tries: hsm.TriesFrom(tt.flags)}
		if got := err.Error(); !strings.Contains(got, tt.want) || !strings.HasPrefix(got, `token "shop" refuses the PIN (CKR_PIN_INCORRECT)`) {
			t.Errorf("flags %#x: %q, want %q", tt.flags, got, tt.want)
		}
	}
}

func TestPINErrorOfExpiredPIN(t *testing.T) {
	t.Parallel()
	err := &hsm.PINError{Token: "shop", Code: "CKR_PIN_EXPIRED"}
	if got := err.Error(); !strings.Contains(got, "has expired") || strings.Contains(got, "PIN source before") {
		t.Errorf("%q: want that it has expired, and no doubt about its source", got)
	}
}

// rawOAEP returns what the RSA operation gives for an OAEP ciphertext of message, made by Go.
func rawOAEP(f testing.TB, key *rsa.PrivateKey, message, label []byte) []byte {
	f.Helper()
	c, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &key.PublicKey, message, label)
	if err != nil {
		f.Fatal(err)
	}
	em := new(big.Int).Exp(new(big.Int).SetBytes(c), key.D, key.N)
	return em.FillBytes(make([]byte, key.Size()))
}

// FuzzDecodeOAEP compares the decoder with crypto/rsa's.
func FuzzDecodeOAEP(f *testing.F) {
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(rawOAEP(f, key, []byte("secret"), nil), []byte(nil))
	f.Add(rawOAEP(f, key, nil, []byte("L")), []byte("L"))
	f.Add(rawOAEP(f, key, make([]byte, 62), []byte("L")), []byte("L"))
	f.Add(rawOAEP(f, key, []byte("secret"), []byte("M")), []byte("L"))
	f.Add(make([]byte, 128), []byte{})
	f.Add(make([]byte, 3), []byte{})
	f.Fuzz(func(t *testing.T, em, label []byte) {
		got, err := hsm.DecodeOAEP(bytes.Clone(em), label)
		if err != nil && (got != nil || err != rsa.ErrDecryption) {
			t.Fatalf("got %x, %v; want nothing but rsa.ErrDecryption", got, err)
		}
		m := new(big.Int).SetBytes(em)
		if len(em) != key.Size() || m.Cmp(key.N) >= 0 {
			return
		}
		c := new(big.Int).Exp(m, big.NewInt(int64(key.E)), key.N).FillBytes(make([]byte, key.Size()))
		want, wantErr := rsa.DecryptOAEP(sha256.New(), nil, key, c, label)
		if (err == nil) != (wantErr == nil) || !bytes.Equal(got, want) {
			t.Fatalf("got %x, %v; crypto/rsa says %x, %v", got, err, want, wantErr)
		}
	})
}
