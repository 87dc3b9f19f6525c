package keyring

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"io"
	"strings"
	"testing"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest/faults"
)

// A key that two tokens hold signs while one of them is away, and also if the program starts then.
func TestKeyOfTwoTokens(t *testing.T) {
	t.Parallel()
	a, b := faults.New(t), faults.New(t)
	copySigningKey(t, a.Open(t), b.Open(t))
	ref := a.KeyURI("sign") + "\n" + b.KeyURI("sign")
	sign := func(ring *Ring) {
		t.Helper()
		key, err := ring.Signer(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256([]byte("m"))
		sig, err := key.Sign(nil, digest[:], crypto.SHA256)
		if err != nil || !ecdsa.VerifyASN1(key.Public().(*ecdsa.PublicKey), digest[:], sig) {
			t.Errorf("signature: %v", err)
		}
	}
	ring := New(strings.NewReader(""), io.Discard)
	defer ring.Close()
	sign(ring)
	for _, module := range []*faults.Module{a, b} {
		module.Pull()
		sign(ring)
		late := New(strings.NewReader(""), io.Discard)
		sign(late)
		if err := late.Ready(t.Context()); err != nil {
			t.Errorf("one of two tokens is enough to be ready: %v", err)
		}
		if err := late.Close(); err != nil {
			t.Error(err)
		}
		module.Plug()
	}
	for name, ref := range map[string]string{
		"two labels": a.KeyURI("sign") + " " + b.KeyURI("other"), "no key": a.KeyURI("sign") + " " + b.URI, "nothing": " ",
	} {
		if _, err := ring.Signer(t.Context(), ref); cli.ExitCode(err) != 2 {
			t.Errorf("%s: %v, want wrong usage", name, err)
		}
	}
}

// copySigningKey makes a key in a, and brings it to b.
func copySigningKey(t *testing.T, a, b *hsm.Token) {
	t.Helper()
	ctx := t.Context()
	receiver, err := b.GenerateKey(ctx, "transport", hsm.PurposeUnwrap, hsm.RSA2048)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.GenerateWrappableKey(ctx, "backup", hsm.PurposeWrap, hsm.AES256); err != nil {
		t.Fatal(err)
	}
	if _, err := a.GenerateWrappableKey(ctx, "sign", hsm.PurposeSign, hsm.ECP256); err != nil {
		t.Fatal(err)
	}
	moved, err := a.WrapFor(ctx, "backup", receiver.Public.(*rsa.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Unwrap(ctx, "backup", hsm.PurposeUnwrap, "transport", moved); err != nil {
		t.Fatal(err)
	}
	if moved, err = a.Wrap(ctx, "sign", "backup"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Unwrap(ctx, "sign", hsm.PurposeSign, "backup", moved); err != nil {
		t.Fatal(err)
	}
}
