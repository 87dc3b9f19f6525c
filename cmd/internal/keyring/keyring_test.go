package keyring

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
)

func TestKeyring(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	ring := New(strings.NewReader(""), io.Discard)
	defer func() {
		if err := ring.Close(); err != nil {
			t.Error(err)
		}
	}()
	tok, err := ring.Token(t.Context(), tk.URI)
	if err != nil {
		t.Fatal(err)
	}
	for label, k := range map[string]struct {
		purpose hsm.Purpose
		typ     hsm.KeyType
	}{
		"sign": {hsm.PurposeSign, hsm.ECP256}, "key-exchange": {hsm.PurposeKeyExchange, hsm.RSA2048},
		"pan-lookup": {hsm.PurposeMAC, hsm.HMACSHA256}, "pan-seal": {hsm.PurposeSeal, hsm.AES256},
		"card-master": {hsm.PurposeMAC, hsm.AES256},
	} {
		if _, err := tok.GenerateKey(t.Context(), label, k.purpose, k.typ); err != nil {
			t.Fatal(err)
		}
	}
	// Later uses must not need the PIN again.
	uri, err := hsm.ParseURI(tk.URI)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(strings.TrimPrefix(uri.PINSource, "file:")); err != nil {
		t.Fatal(err)
	}
	if again, err := ring.Token(t.Context(), tk.URI); err != nil || again != tok {
		t.Errorf("the second Token is %p, %v; want the first, %p", again, err, tok)
	}
	useKeys(t, ring, tk)
}

func useKeys(t *testing.T, ring *Ring, tk *hsmtest.Token) {
	t.Helper()
	ctx := t.Context()
	digest := sha256.Sum256([]byte("m"))
	signer, err := ring.Signer(ctx, tk.KeyURI("sign"))
	if err != nil {
		t.Fatal(err)
	}
	if sig, err := signer.Sign(nil, digest[:], crypto.SHA256); err != nil || !ecdsa.VerifyASN1(signer.Public().(*ecdsa.PublicKey), digest[:], sig) {
		t.Errorf("signature: %v", err)
	}
	decrypter, err := ring.Decrypter(ctx, tk.KeyURI("key-exchange"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, decrypter.Public().(*rsa.PublicKey), []byte("key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decrypter.Decrypt(nil, c, &rsa.OAEPOptions{Hash: crypto.SHA256}); err != nil || string(got) != "key" {
		t.Errorf("decrypted %q, %v; want key", got, err)
	}
	mac, err := ring.MAC(ctx, tk.KeyURI("pan-lookup"))
	if err != nil {
		t.Fatal(err)
	}
	if sum, err := mac.Sum([]byte("x")); err != nil || len(sum) != 32 {
		t.Errorf("MAC %x, %v; want 32 bytes", sum, err)
	}
	cmac, err := ring.CMAC(ctx, tk.KeyURI("card-master"))
	if err != nil {
		t.Fatal(err)
	}
	if sum, err := cmac.Sum([]byte("x")); err != nil || len(sum) != 16 {
		t.Errorf("CMAC %x, %v; want 16 bytes", sum, err)
	}
	sealer, err := ring.Sealer(ctx, tk.KeyURI("pan-seal"))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := sealer.Seal([]byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := sealer.Open(sealed, nil); err != nil || !bytes.Equal(got, []byte("x")) {
		t.Errorf("opened %q, %v; want x", got, err)
	}
}

func TestKeyringErrors(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	ring := New(strings.NewReader(""), io.Discard)
	defer ring.Close()
	tok, err := ring.Token(t.Context(), tk.URI)
	if err != nil {
		t.Fatal(err)
	}
	info, err := tok.GenerateKey(t.Context(), "sign", hsm.PurposeSign, hsm.ECP256)
	if err != nil {
		t.Fatal(err)
	}
	withID := strings.Replace(tk.KeyURI("sign"), "?", ";id=%00?", 1)
	tests := []struct {
		name, uri, want string
		code            int
		is              error
	}{
		{"not a URI", "shop", "PKCS#11 URI", 2, nil},
		{"no key named", tk.URI, "names no key", 2, nil},
		{"no such token", strings.Replace(tk.KeyURI("sign"), tk.Label, "nowhere", 1), "no token", 3, hsm.ErrUnavailable},
		{"no such library", "pkcs11:token=a;object=b?module-path=/none.so", "no such file", 3, hsm.ErrUnavailable},
		{"no such key", tk.KeyURI("none"), `key "none"`, 1, hsm.ErrNotFound},
		{"another ID", withID, info.ID, 1, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ring.Signer(t.Context(), tt.uri)
			if err == nil || !strings.Contains(err.Error(), tt.want) || cli.ExitCode(err) != tt.code {
				t.Errorf("error %v with exit code %d, want %q with %d", err, cli.ExitCode(err), tt.want, tt.code)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %v does not match %v", err, tt.is)
			}
		})
	}
}

func TestKeyringClosed(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	ring := New(strings.NewReader(""), io.Discard)
	tok, err := ring.Token(context.Background(), tk.URI)
	if err != nil {
		t.Fatal(err)
	}
	if err := ring.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := tok.Keys(t.Context()); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("listing of a closed token: %v, want ErrUnavailable", err)
	}
}
