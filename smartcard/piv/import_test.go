package piv_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"testing"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

// newestCard returns a card with the algorithms that came last.
func newestCard() (*piv.Card, *virtual.Card) {
	plastic := virtual.New(virtual.Firmware57)
	return piv.New(plastic, piv.Options{}), plastic
}

// checkSigner lets a card's key sign, and checks the signature.
func checkSigner(t testing.TB, card *piv.Card, slot piv.Slot, public crypto.PublicKey) {
	t.Helper()
	signer, err := openSession(t, card).Signer(slot, public)
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("the purchase")
	digest := sha256.Sum256(message)
	switch k := public.(type) {
	case ed25519.PublicKey:
		sig, err := signer.Sign(nil, message, crypto.Hash(0))
		if err != nil || !ed25519.Verify(k, message, sig) {
			t.Errorf("Ed25519: %v", err)
		}
	case *ecdsa.PublicKey:
		sig, err := signer.Sign(nil, digest[:], crypto.SHA256)
		if err != nil || !ecdsa.VerifyASN1(k, digest[:], sig) {
			t.Errorf("ECDSA: %v", err)
		}
	case *rsa.PublicKey:
		sig, err := signer.Sign(nil, digest[:], crypto.SHA256)
		if err != nil || rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], sig) != nil {
			t.Errorf("RSA: %v", err)
		}
		pss := &rsa.PSSOptions{Hash: crypto.SHA256}
		sig, err = signer.Sign(nil, digest[:], pss)
		if err != nil || rsa.VerifyPSS(k, crypto.SHA256, digest[:], sig, pss) != nil {
			t.Errorf("RSA-PSS: %v", err)
		}
	default:
		t.Errorf("key of type %T", public)
	}
}

// checkExchanger lets a card's key agree with another.
func checkExchanger(t testing.TB, card *piv.Card, slot piv.Slot, public crypto.PublicKey) {
	t.Helper()
	key, err := openSession(t, card).KeyExchanger(slot, public)
	if err != nil {
		t.Fatal(err)
	}
	other, err := key.Curve().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	got, err := key.ECDH(other.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if want, err := other.ECDH(key.PublicKey()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the shared secrets differ: %v", err)
	}
}

// importable makes a key of an algorithm outside the card.
func importable(t testing.TB, a piv.Algorithm) (private crypto.PrivateKey, public crypto.PublicKey) {
	t.Helper()
	var err error
	switch a {
	case piv.RSA2048, piv.RSA3072, piv.RSA4096:
		bits := map[piv.Algorithm]int{piv.RSA2048: 2048, piv.RSA3072: 3072, piv.RSA4096: 4096}[a]
		private, err = rsa.GenerateKey(rand.Reader, bits)
	case piv.ECDSAP256:
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case piv.ECDSAP384:
		private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case piv.Ed25519:
		_, private, err = ed25519.GenerateKey(rand.Reader)
	case piv.X25519:
		private, err = ecdh.X25519().GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return private, private.(interface{ Public() crypto.PublicKey }).Public()
}

func TestImport(t *testing.T) {
	for _, a := range []piv.Algorithm{piv.RSA2048, piv.RSA3072, piv.RSA4096, piv.ECDSAP256, piv.ECDSAP384, piv.Ed25519, piv.X25519} {
		t.Run(a.String(), func(t *testing.T) {
			t.Parallel()
			card, _ := newestCard()
			private, public := importable(t, a)
			administer(t, card, func(tx *piv.Tx) error { return tx.Import(piv.SlotKeyManagement, private, piv.PINPolicyAlways) })
			var info piv.KeyInfo
			do(t, card, func(tx *piv.Tx) (err error) {
				info, err = tx.KeyInfo(piv.SlotKeyManagement)
				return err
			})
			if info.GeneratedOnCard || info.PINPolicy != piv.PINPolicyAlways || info.Algorithm != a || !public.(interface{ Equal(crypto.PublicKey) bool }).Equal(info.Public) {
				t.Errorf("got %+v", info)
			}
			if a == piv.X25519 {
				checkExchanger(t, card, piv.SlotKeyManagement, public)
				return
			}
			checkSigner(t, card, piv.SlotKeyManagement, public)
			if _, ok := public.(*ecdsa.PublicKey); ok {
				checkExchanger(t, card, piv.SlotKeyManagement, public)
			}
		})
	}
}

func TestImportRefuses(t *testing.T) {
	card, plastic := newestCard()
	recorder := smartcard.NewRecorder(plastic)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	do(t, piv.New(recorder, piv.Options{}), func(tx *piv.Tx) error {
		recorder.Take()
		for _, bad := range []crypto.PrivateKey{nil, small, foreign, "key"} {
			if err := tx.Import(piv.SlotSignature, bad, piv.PINPolicyDefault); err == nil {
				t.Errorf("%T: no error", bad)
			}
		}
		return nil
	})
	if n := count(recorder.Take(), 0xFE); n > 0 {
		t.Errorf("%d commands were sent", n)
	}
	private, _ := importable(t, piv.ECDSAP256)
	err = card.Do(t.Context(), func(tx *piv.Tx) error { return tx.Import(piv.SlotSignature, private, piv.PINPolicyDefault) })
	if !errors.Is(err, smartcard.StatusSecurity) {
		t.Errorf("without authentication: got %v, want 6982", err)
	}
}

func TestGenerateNewest(t *testing.T) {
	for _, a := range []piv.Algorithm{piv.Ed25519, piv.X25519} {
		card, _ := newestCard()
		public := generate(t, card, piv.SlotKeyManagement, a)
		if got, err := piv.AlgorithmOf(public); err != nil || got != a {
			t.Errorf("got %v, %v, want %v", got, err, a)
		}
		if a == piv.X25519 {
			checkExchanger(t, card, piv.SlotKeyManagement, public)
		} else {
			checkSigner(t, card, piv.SlotKeyManagement, public)
		}
	}
}

func TestAttestation(t *testing.T) {
	card, plastic := newestCard()
	maker, err := x509.ParseCertificate(plastic.Maker())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(maker)
	public := generate(t, card, piv.SlotSignature, piv.ECDSAP256)
	private, _ := importable(t, piv.ECDSAP256)
	administer(t, card, func(tx *piv.Tx) error { return tx.Import(piv.SlotKeyManagement, private, piv.PINPolicyDefault) })
	serial, err := card.Serial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	do(t, card, func(tx *piv.Tx) error {
		version, err := tx.Version()
		if err != nil {
			return err
		}
		own, err := tx.Certificate(piv.SlotAttestation)
		if err != nil {
			return err
		}
		statement, err := tx.Attest(piv.SlotSignature)
		if err != nil {
			return err
		}
		if !public.(*ecdsa.PublicKey).Equal(statement.PublicKey) {
			t.Error("the attestation is about another key")
		}
		got, err := piv.VerifyAttestation(statement, []*x509.Certificate{own}, roots)
		want := piv.Attestation{Serial: serial, Version: version, PINPolicy: piv.PINPolicyAlways, TouchPolicy: piv.TouchPolicyNever}
		if err != nil || got != want {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
		// The certificates of early cards say nothing of what they may sign.
		early := *own
		early.BasicConstraintsValid, early.IsCA = false, false
		if _, err := piv.VerifyAttestation(statement, []*x509.Certificate{&early}, roots); err != nil || early.IsCA {
			t.Errorf("early card: %v, or the caller's certificate was changed", err)
		}
		if _, err := piv.VerifyAttestation(statement, nil, roots); err == nil {
			t.Error("no error without the certificate between")
		}
		if _, err := piv.VerifyAttestation(statement, []*x509.Certificate{own}, x509.NewCertPool()); err == nil {
			t.Error("no error without a root")
		}
		if _, err := piv.VerifyAttestation(own, nil, roots); err == nil {
			t.Error("a certificate that is no attestation: no error")
		}
		for _, slot := range []piv.Slot{piv.SlotKeyManagement, piv.SlotAuthentication} { // imported, empty
			if _, err := tx.Attest(slot); err == nil || errors.Is(err, piv.ErrUnsupported) {
				t.Errorf("slot %v: got %v, want a refusal", slot, err)
			}
		}
		return nil
	})
}
