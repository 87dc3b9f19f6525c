package hsm_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
)

func TestECDH(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	for _, tt := range []struct {
		typ   hsm.KeyType
		curve ecdh.Curve
	}{{hsm.ECP256, ecdh.P256()}, {hsm.ECP384, ecdh.P384()}} {
		generate(t, tok, string(tt.typ), hsm.PurposeDerive, tt.typ)
		before, err := hsm.CountObjects(t.Context(), tok)
		if err != nil {
			t.Fatal(err)
		}
		key, err := tok.Deriver(t.Context(), string(tt.typ))
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 8 {
					checkECDH(t, key, tt.curve)
				}
			})
		}
		wg.Wait()
		if n, err := hsm.CountObjects(t.Context(), tok); err != nil || n != before {
			t.Errorf("%d objects after deriving, %v; want %d as before", n, err, before)
		}
	}
}

// checkECDH compares the token with crypto/ecdh.
func checkECDH(t *testing.T, key *hsm.Deriver, curve ecdh.Curve) {
	t.Helper()
	peer, err := curve.GenerateKey(rand.Reader)
	if err != nil {
		t.Error(err)
		return
	}
	want, err := peer.ECDH(key.Public())
	if err != nil {
		t.Error(err)
		return
	}
	if got, err := key.ECDH(peer.PublicKey()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %x, %v; want %x", got, err, want)
	}
}

func TestECDHRefuses(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	generate(t, tok, "derive", hsm.PurposeDerive, hsm.ECP256)
	generate(t, tok, "sign", hsm.PurposeSign, hsm.ECP256)
	key, err := tok.Deriver(t.Context(), "derive")
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdh.P384().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, peer := range []*ecdh.PublicKey{nil, other.PublicKey(), x.PublicKey()} {
		if got, err := key.ECDH(peer); got != nil || err == nil || !strings.Contains(err.Error(), "not of the key's curve") {
			t.Errorf("peer %v: got %x, %v; want a refusal", peer, got, err)
		}
	}
	if _, err := tok.Deriver(t.Context(), "sign"); !errors.Is(err, hsm.ErrNotPermitted) {
		t.Errorf("deriving with a signing key: %v, want ErrNotPermitted", err)
	}
	if _, err := tok.Signer(t.Context(), "derive"); !errors.Is(err, hsm.ErrNotPermitted) {
		t.Errorf("signing with a key for derivation: %v, want ErrNotPermitted", err)
	}
	if _, err := tok.Deriver(t.Context(), "none"); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("no such key: %v, want ErrNotFound", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	release := hsm.HoldSessions(tok)
	defer release()
	if _, err := key.WithContext(ctx).ECDH(key.Public()); !errors.Is(err, context.Canceled) {
		t.Errorf("deriving after the context's end: %v, want its error", err)
	}
}

func TestNewKindsOfKeysAreReadBack(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	for _, tt := range []struct {
		label   string
		purpose hsm.Purpose
		typ     hsm.KeyType
		usages  string
	}{
		{"ed", hsm.PurposeSign, hsm.Ed25519, "sign"},
		{"cert-sign-ed", hsm.PurposeCertSign, hsm.Ed25519, "sign"},
		{"seal-128", hsm.PurposeSeal, hsm.AES128, "decrypt encrypt"},
		{"wrap-128", hsm.PurposeWrap, hsm.AES128, "wrap"},
		{"wrap-256", hsm.PurposeWrap, hsm.AES256, "wrap"},
		{"unwrap", hsm.PurposeUnwrap, hsm.RSA2048, "unwrap"},
		{"derive", hsm.PurposeDerive, hsm.ECP384, "derive"},
	} {
		generate(t, tok, tt.label, tt.purpose, tt.typ)
		got, err := tok.Key(t.Context(), tt.label)
		if err != nil {
			t.Fatal(err)
		}
		if got.Type != tt.typ || got.Purpose != tt.purpose || strings.Join(got.Usages, " ") != tt.usages ||
			got.Extractable || !got.NeverExtractable || got.Modifiable {
			t.Errorf("%s is %+v, want %s for %s that never leaves and does nothing else", tt.label, got, tt.typ, tt.purpose)
		}
		if pub, ok := got.Public.(ed25519.PublicKey); ok != (tt.typ == hsm.Ed25519) || ok && hex.EncodeToString(ski(t, pub)) != got.ID {
			t.Errorf("%s has the public key %v and the CKA_ID %s", tt.label, got.Public, got.ID)
		}
	}
}

// Tokens write an Ed25519 public key in four ways.
func TestParseEd25519(t *testing.T) {
	t.Parallel()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	oid, name := []byte{6, 3, 0x2b, 0x65, 0x70}, append([]byte{0x13, 12}, "edwards25519"...)
	begins := append([]byte{4, 30}, pub[2:]...) // a raw point that looks like an OCTET STRING
	for _, tt := range []struct{ params, point, want []byte }{
		{oid, pub, pub}, {oid, append([]byte{4, 32}, pub...), pub}, {name, pub, pub}, {name, append([]byte{4, 32}, pub...), pub},
		{oid, begins, begins}, {[]byte{6, 3, 0x2b, 0x65, 0x71}, pub, nil},
	} {
		got, err := hsm.ParseEd25519(tt.params, tt.point)
		if key, _ := got.(ed25519.PublicKey); err != nil || !bytes.Equal(key, tt.want) {
			t.Errorf("parameters %x, point %x: got %x, %v; want %x", tt.params, tt.point, key, err, tt.want)
		}
	}
	for _, point := range [][]byte{nil, pub[1:], append([]byte{4, 31}, pub[1:]...)} {
		if got, err := hsm.ParseEd25519(oid, point); err == nil {
			t.Errorf("point %x: got %v, want an error", point, got)
		}
	}
}

func TestCheckSecret(t *testing.T) {
	t.Parallel()
	for name, secret := range map[string][]byte{"zeros": make([]byte, 32), "short": {1}, "nothing": nil, "long": bytes.Repeat([]byte{1}, 33)} {
		if hsm.CheckSecret(secret, 32) == nil {
			t.Errorf("%s is taken for a secret of 32 bytes", name)
		}
	}
	if err := hsm.CheckSecret(append(make([]byte, 31), 1), 32); err != nil {
		t.Error(err)
	}
}
