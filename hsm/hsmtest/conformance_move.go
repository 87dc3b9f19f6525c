package hsmtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/setkit/setkit/hsm"
)

func (s *suite) testDerive(t *testing.T) {
	for typ, curve := range map[hsm.KeyType]ecdh.Curve{hsm.ECP256: ecdh.P256(), hsm.ECP384: ecdh.P384()} {
		label, ok := s.key(hsm.PurposeDerive, typ)
		if !ok {
			continue
		}
		key, err := s.tok.Deriver(t.Context(), label)
		if err != nil {
			t.Error(err)
			continue
		}
		for range 20 {
			peer, err := curve.GenerateKey(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			want, err := peer.ECDH(key.Public())
			if err != nil {
				t.Fatal(err)
			}
			if got, err := key.ECDH(peer.PublicKey()); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: the shared secret is %x, %v; want %x", typ, got, err, want)
			}
		}
		other, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		for name, peer := range map[string]*ecdh.PublicKey{"another curve": other.PublicKey(), "no key": nil} {
			if got, err := key.ECDH(peer); got != nil || err == nil {
				t.Errorf("%s with %s: got %x, %v; want a refusal", typ, name, got, err)
			}
		}
	}
}

// testWrap sends keys on the way from one token to another, here back to where they come from: a
// wrapping key goes under the public key of the receiver, and the other keys under the wrapping key.
func (s *suite) testWrap(t *testing.T) {
	receiver, ok := s.key(hsm.PurposeUnwrap, hsm.RSA2048)
	if !ok {
		return
	}
	public, err := s.tok.PublicKey(t.Context(), receiver)
	if err != nil {
		t.Fatal(err)
	}
	wrapFor := func(label string) (*hsm.WrappedKey, error) {
		return s.tok.WrapFor(t.Context(), label, public.(*rsa.PublicKey))
	}
	if _, ok := s.key(hsm.PurposeMAC, hsm.HMACSHA256); ok {
		s.receive(t, s.send(t, kind{hsm.PurposeMAC, hsm.HMACSHA256}, wrapFor), receiver)
	}
	if _, ok := s.key(hsm.PurposeWrap, hsm.AES256); !ok {
		return
	}
	kek := s.wrappable(t, kind{hsm.PurposeWrap, hsm.AES256})
	var sent []*shipment
	for k, label := range s.keys {
		if _, err := s.tok.Wrap(t.Context(), label, kek); !errors.Is(err, hsm.ErrNotPermitted) {
			t.Errorf("wrapping a %s that was not made for it: %v, want ErrNotPermitted", k, err)
		}
	}
	for _, k := range []kind{
		{hsm.PurposeSign, hsm.ECP256}, {hsm.PurposeSign, hsm.RSA2048}, {hsm.PurposeKeyExchange, hsm.RSA2048},
		{hsm.PurposeMAC, hsm.HMACSHA256}, {hsm.PurposeMAC, hsm.AES256}, {hsm.PurposeSeal, hsm.AES128}, {hsm.PurposeSeal, hsm.AES256},
	} {
		if _, ok := s.key(k.purpose, k.typ); ok {
			sent = append(sent, s.send(t, k, func(label string) (*hsm.WrappedKey, error) { return s.tok.Wrap(t.Context(), label, kek) }))
		}
	}
	wrapped, err := wrapFor(kek)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.tok.DeleteKey(t.Context(), kek, nil); err != nil {
		t.Fatal(err)
	}
	unwrapper := s.label(kind{hsm.PurposeUnwrap, hsm.AES256})
	if _, err := s.tok.Unwrap(t.Context(), unwrapper, hsm.PurposeUnwrap, receiver, wrapped); err != nil {
		t.Fatal(err)
	}
	for _, sh := range sent {
		s.receive(t, sh, unwrapper)
	}
}

// wrappable makes a key that may leave the token.
func (s *suite) wrappable(t *testing.T, k kind) (label string) {
	t.Helper()
	label = s.label(k)
	info, err := s.tok.GenerateWrappableKey(t.Context(), label, k.purpose, k.typ)
	if err != nil {
		t.Fatal(err)
	}
	if !info.Sensitive || !info.AlwaysSensitive || !info.Extractable || info.NeverExtractable {
		t.Errorf("wrappable %s: %+v; want it sensitive, always, and extractable", k, info)
	}
	return label
}

// shipment is a key on its way.
type shipment struct {
	kind
	wrapped *hsm.WrappedKey
	prove   func(label string) error // that the key under this label is the one that was sent
}

// send wraps a new key and deletes it.
func (s *suite) send(t *testing.T, k kind, wrap func(label string) (*hsm.WrappedKey, error)) *shipment {
	t.Helper()
	label := s.wrappable(t, k)
	prove, err := s.remember(t.Context(), k, label)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := wrap(label)
	if err != nil {
		t.Fatal(err)
	}
	s.note("keys are wrapped with %s", wrapped.Mechanism)
	text, err := wrapped.MarshalText()
	var read hsm.WrappedKey
	if err == nil {
		err = read.UnmarshalText(text)
	}
	if err == nil {
		err = s.tok.DeleteKey(t.Context(), label, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &shipment{k, &read, prove}
}

// receive unwraps a key, and does not when it was changed.
func (s *suite) receive(t *testing.T, sh *shipment, unwrapper string) {
	t.Helper()
	label := s.label(sh.kind)
	for i := range sh.wrapped.Wrapped {
		if i%16 != 0 && i != len(sh.wrapped.Wrapped)-1 {
			continue
		}
		changed := *sh.wrapped
		changed.Wrapped = slices.Clone(changed.Wrapped)
		changed.Wrapped[i] ^= 1
		if _, err := s.tok.Unwrap(t.Context(), label, sh.purpose, unwrapper, &changed); !errors.Is(err, hsm.ErrWrappedKey) {
			t.Errorf("%s with byte %d changed: %v, want ErrWrappedKey", sh.kind, i, err)
		}
	}
	if _, err := s.tok.Key(t.Context(), label); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("%s: after all unwrapping has failed: %v, want ErrNotFound", sh.kind, err)
	}
	info, err := s.tok.Unwrap(t.Context(), label, sh.purpose, unwrapper, sh.wrapped)
	if err != nil {
		t.Error(err)
		return
	}
	if !info.Sensitive || info.Extractable || !info.Private || info.Purpose != sh.purpose || info.ID != sh.wrapped.ID {
		t.Errorf("received %+v; want a %s, sensitive and not extractable, with CKA_ID %s", info, sh.kind, sh.wrapped.ID)
	}
	if err := sh.prove(label); err != nil {
		t.Errorf("%s, received: %v", sh.kind, err)
	}
	if again, err := s.tok.Wrap(t.Context(), label, s.keys[kind{hsm.PurposeWrap, hsm.AES256}]); !errors.Is(err, hsm.ErrNotPermitted) {
		t.Errorf("%s: wrapped again: %v, %v; want ErrNotPermitted", sh.kind, again, err)
	}
}

// remember does something with a key that only this key can do, and returns what tells whether another
// can too.
func (s *suite) remember(ctx context.Context, k kind, label string) (func(label string) error, error) {
	switch k.purpose {
	case hsm.PurposeSign:
		public, err := s.tok.PublicKey(ctx, label)
		return func(label string) error {
			key, err := s.tok.Signer(ctx, label)
			if err != nil {
				return err
			}
			digest := sha256.Sum256([]byte(label))
			sig, err := key.Sign(nil, digest[:], crypto.SHA256)
			if err != nil {
				return err
			}
			return verify(public, digest[:], sig, crypto.SHA256)
		}, err
	case hsm.PurposeKeyExchange:
		public, err := s.tok.PublicKey(ctx, label)
		if err != nil {
			return nil, err
		}
		c, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public.(*rsa.PublicKey), []byte("before"), nil)
		return func(label string) error {
			key, err := s.tok.Decrypter(ctx, label)
			if err != nil {
				return err
			}
			got, err := key.Decrypt(nil, c, &rsa.OAEPOptions{Hash: crypto.SHA256})
			return same(got, []byte("before"), err)
		}, err
	case hsm.PurposeMAC:
		sum := func(label string) ([]byte, error) {
			key, err := s.mac(ctx, k.typ, label)
			if err != nil {
				return nil, err
			}
			return key.Sum([]byte("before"))
		}
		want, err := sum(label)
		return func(label string) error {
			got, err := sum(label)
			return same(got, want, err)
		}, err
	case hsm.PurposeSeal:
		key, err := s.tok.Sealer(ctx, label)
		if err != nil {
			return nil, err
		}
		sealed, err := key.Seal([]byte("before"), nil)
		return func(label string) error {
			key, err := s.tok.Sealer(ctx, label)
			if err != nil {
				return err
			}
			got, err := key.Open(sealed, nil)
			return same(got, []byte("before"), err)
		}, err
	}
	return nil, fmt.Errorf("a %s proves nothing", k)
}

func (s *suite) testCertificates(t *testing.T) {
	outside, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s.checkCertificate(t, outside, "")
	for k, label := range s.keys {
		if k.purpose != hsm.PurposeCertSign {
			continue
		}
		key, err := s.tok.Signer(t.Context(), label)
		if err != nil {
			t.Error(err)
			continue
		}
		s.checkCertificate(t, key, label)
	}
}

// checkCertificate lets key certify itself, and stores, finds and deletes the certificate. The key is
// that labelled keyLabel or, without a label, none of the token's.
func (s *suite) checkCertificate(t *testing.T, key crypto.Signer, keyLabel string) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "conformance " + s.run},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	label := s.label(kind{purpose: "certificate"})
	made, err := s.tok.ImportCertificate(t.Context(), label, der)
	if err != nil {
		t.Error(err)
		return
	}
	wantID := keyID(t, key.Public())
	if made.Label != label || made.ID != wantID || !bytes.Equal(made.DER, der) || made.HasKey != (keyLabel != "") || made.Mismatch ||
		made.X509 == nil || made.X509.CheckSignatureFrom(made.X509) != nil {
		t.Errorf("the certificate is %+v; want %q with CKA_ID %s, its own signature, and a key %t", made, label, wantID, keyLabel != "")
	}
	list, err := s.tok.Certificates(t.Context())
	i := slices.IndexFunc(list, func(c hsm.Certificate) bool { return c.Label == label })
	if err != nil || i < 0 || !bytes.Equal(list[i].DER, der) || list[i].HasKey != made.HasKey {
		t.Errorf("certificate %q in the list at %d: %v", label, i, err)
	}
	for name, other := range map[string]string{"label": label, "certificate": s.label(kind{purpose: "certificate"})} {
		if _, err := s.tok.ImportCertificate(t.Context(), other, der); !errors.Is(err, hsm.ErrCertificateExists) {
			t.Errorf("the same %s again: %v, want ErrCertificateExists", name, err)
		}
	}
	if err := s.tok.DeleteCertificate(t.Context(), label); err != nil {
		t.Error(err)
	}
	if err := s.tok.DeleteCertificate(t.Context(), label); !errors.Is(err, hsm.ErrCertificateNotFound) {
		t.Errorf("deleted again: %v, want ErrCertificateNotFound", err)
	}
	if keyLabel != "" {
		if _, err := s.tok.Key(t.Context(), keyLabel); err != nil {
			t.Errorf("the key after its certificate was deleted: %v", err)
		}
	}
}
