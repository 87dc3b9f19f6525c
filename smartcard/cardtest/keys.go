package cardtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/piv"
)

// testKeys generates keys of every algorithm that the card has, and uses them.
// RSA-3072 and RSA-4096 are left out: a card takes minutes for one.
func (c *candidate) testKeys(t *testing.T) {
	found := 0
	for _, a := range []piv.Algorithm{piv.ECDSAP256, piv.RSA2048, piv.ECDSAP384, piv.Ed25519, piv.X25519} {
		if public := c.generate(t, piv.SlotKeyManagement, a); public != nil {
			found++
			t.Run(a.String(), func(t *testing.T) { c.testAlgorithm(t, a, public) })
		}
	}
	if found == 0 {
		t.Error("the card generates no key that this suite knows")
	}
}

// generate makes a key, or returns nil if the card doesn't know the algorithm.
func (c *candidate) generate(t *testing.T, slot piv.Slot, a piv.Algorithm) crypto.PublicKey {
	t.Helper()
	var public crypto.PublicKey
	var refused smartcard.Status
	c.administer(t, func(tx *piv.Tx) (err error) {
		public, err = tx.Generate(slot, a, piv.PINPolicyDefault)
		if errors.As(err, &refused) {
			t.Logf("the card has no %v (%v)", a, refused)
			return nil
		}
		return err
	})
	return public
}

// testAlgorithm uses keys of one algorithm: public is that in slot 9d.
func (c *candidate) testAlgorithm(t *testing.T, a piv.Algorithm, public crypto.PublicKey) {
	session := c.piv.NewSession(t.Context(), piv.SessionConfig{IgnoreKeypad: true, PIN: func(context.Context, piv.PINRequest) ([]byte, error) {
		return bytes.Clone(c.PIN), nil
	}})
	defer session.Close()
	if a != piv.RSA2048 && a != piv.Ed25519 {
		c.testAgreement(t, session, public)
	}
	if a == piv.RSA2048 {
		c.testDecryption(t, session, public.(*rsa.PublicKey))
	}
	if a == piv.X25519 {
		return // the rest signs
	}
	c.testPolicies(t, a)
	public = c.generate(t, piv.SlotSignature, a)
	if public == nil {
		t.Fatalf("%v in slot 9d, but not in slot 9c", a)
	}
	signer, err := session.Signer(piv.SlotSignature, public)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "conformance"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, signer) // checks the signature
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	c.administer(t, func(tx *piv.Tx) error {
		if err := tx.PutCertificate(piv.SlotSignature, cert); err != nil {
			return err
		}
		if got, err := tx.Certificate(piv.SlotSignature); err != nil || !got.Equal(cert) {
			t.Errorf("certificate: %v, or another one", err)
		}
		if got, err := tx.PublicKey(piv.SlotSignature); err != nil || !equal(got, public) {
			t.Errorf("public key: %v, or another one", err)
		}
		return tx.DeleteCertificate(piv.SlotSignature)
	})
	c.testAdditions(t, a, public)
}

func equal(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// testPolicies signs with and without the PIN, where the slots differ: 9c wants
// it each time, 9a once, 9e never. Part 1, table 4b.
func (c *candidate) testPolicies(t *testing.T, a piv.Algorithm) {
	for _, tt := range []struct {
		slot                          piv.Slot
		without, afterwards, repeated bool // whether a signature is given
	}{
		{piv.SlotAuthentication, false, true, true},
		{piv.SlotSignature, false, true, false},
		{piv.SlotCardAuthentication, true, true, true},
	} {
		public := c.generate(t, tt.slot, a)
		if public == nil {
			continue // the log says so; a card may limit a slot
		}
		c.do(t, func(tx *piv.Tx) error {
			signer, err := tx.Signer(tt.slot, public)
			if err != nil {
				return err
			}
			sign := func(when string, want bool) {
				_, err := signWith(signer)
				if refused := errors.Is(err, smartcard.StatusSecurity); err != nil && !refused || refused == want {
					t.Errorf("slot %v %s: got %v, want a signature: %v", tt.slot, when, err, want)
				}
			}
			sign("without PIN", tt.without)
			if err := tx.VerifyPIN(c.PIN); err != nil {
				return err
			}
			sign("after VERIFY", tt.afterwards)
			sign("once more", tt.repeated)
			return nil
		})
	}
}

// signWith signs something in the way of the key. The signer checks it.
func signWith(signer crypto.Signer) ([]byte, error) {
	message := []byte("conformance")
	if _, ok := signer.Public().(ed25519.PublicKey); ok {
		return signer.Sign(nil, message, crypto.Hash(0))
	}
	digest := sha256.Sum256(message)
	return signer.Sign(nil, digest[:], crypto.SHA256)
}

func (c *candidate) testAgreement(t *testing.T, session *piv.Session, public crypto.PublicKey) {
	key, err := session.KeyExchanger(piv.SlotKeyManagement, public)
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

func (c *candidate) testDecryption(t *testing.T, session *piv.Session, public *rsa.PublicKey) {
	key, err := session.Decrypter(piv.SlotKeyManagement, public)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public, []byte("conformance"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := key.Decrypt(nil, sealed, &rsa.OAEPOptions{Hash: crypto.SHA256}); err != nil || string(got) != "conformance" {
		t.Errorf("got %q, %v", got, err)
	}
}

// testAdditions compares what a card with metadata and attestation says of the
// key in slot 9c.
func (c *candidate) testAdditions(t *testing.T, a piv.Algorithm, public crypto.PublicKey) {
	c.do(t, func(tx *piv.Tx) error {
		switch info, err := tx.KeyInfo(piv.SlotSignature); {
		case errors.Is(err, smartcard.StatusNotFound):
			t.Log("the card has no metadata of keys")
		case err != nil:
			return err
		case !equal(info.Public, public) || info.Algorithm != a || info.PINPolicy != piv.PINPolicyAlways || !info.GeneratedOnCard:
			t.Errorf("metadata: got %+v", info)
		}
		statement, err := tx.Attest(piv.SlotSignature)
		if errors.Is(err, piv.ErrUnsupported) {
			t.Log("the card attests no keys")
			return nil
		}
		if err != nil {
			return err
		}
		if !equal(statement.PublicKey, public) {
			t.Error("the attestation is about another key")
		}
		own, err := tx.Certificate(piv.SlotAttestation)
		if err != nil {
			return err
		}
		// By whom the card's own certificate was signed is not of interest here.
		roots := x509.NewCertPool()
		roots.AddCert(own)
		got, err := piv.VerifyAttestation(statement, nil, roots)
		t.Logf("%+v", got)
		return err
	})
}
