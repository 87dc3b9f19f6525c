package piv_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"testing"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

// fuzzBytesMax bounds an input: more than any answer in the capture.
const fuzzBytesMax = 4096

// garbler answers with rubbish of the fuzzer's choice.
type garbler struct {
	smartcard.Card
	body []byte
}

func (g garbler) Transmit(context.Context, []byte) ([]byte, error) {
	return append(bytes.Clone(g.body), 0x90, 0x00), nil
}

// FuzzAnswers lets a card answer anything to everything.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte{0x01, 0x01, 0x11, 0x02, 0x02, 0x02, 0x01, 0x03, 0x01, 0x01, 0x04, 0x02, 0x86, 0x00})
	f.Add([]byte{0x01, 0x01, 0x07, 0x04, 0x08, 0x81, 0x01, 0x80, 0x82, 0x03, 0x01, 0x00, 0x01})
	f.Add([]byte{0x7C, 0x04, 0x80, 0x02, 0x30, 0x00})
	f.Add([]byte{0x7F, 0x49, 0x03, 0x86, 0x01, 0x04})
	for _, body := range answers(f) {
		f.Add(body)
	}
	plastic := virtual.NewCard()
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > fuzzBytesMax {
			return
		}
		card := piv.New(garbler{plastic, body}, piv.Options{})
		do(t, card, func(tx *piv.Tx) error {
			fuzzKeys(t, tx, body)
			fuzzContainers(t, tx, body)
			if err := tx.Authenticate(piv.ManagementKey{Algorithm: piv.AES128, Key: make([]byte, 16)}); err == nil {
				t.Error("a fixed answer proves a key")
			}
			return nil
		})
	})
}

// fuzzKeys reads keys: what comes out is whole, and nothing comes from nowhere.
func fuzzKeys(t *testing.T, tx *piv.Tx, body []byte) {
	for _, slot := range append(piv.Slots(), 0x82, piv.SlotAttestation) {
		if info, err := tx.KeyInfo(slot); err == nil {
			if a, err := piv.AlgorithmOf(info.Public); err != nil || a != info.Algorithm {
				t.Errorf("a key of %v that says %v: %v", a, info.Algorithm, err)
			}
		}
	}
	if public, err := tx.Generate(piv.SlotSignature, piv.Ed25519, piv.PINPolicyDefault); err == nil {
		if a, err := piv.AlgorithmOf(public); a != piv.Ed25519 || err != nil || len(body) < 32 {
			t.Errorf("got a key %v: %v", public, err)
		}
	}
	if cert, err := tx.Attest(piv.SlotSignature); err == nil && !bytes.Equal(cert.Raw, body) {
		t.Error("an attestation of other bytes")
	}
	digest := make([]byte, 32)
	for _, public := range []crypto.PublicKey{fuzzRSA.Public(), fuzzEC.Public()} {
		signer, err := tx.Signer(piv.SlotSignature, public)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := signer.Sign(nil, digest, crypto.SHA256); err == nil {
			t.Error("a signature from nowhere")
		}
	}
}

// fuzzContainers reads data objects.
func fuzzContainers(t *testing.T, tx *piv.Tx, body []byte) {
	if chuid, err := tx.CHUID(); err == nil && (!bytes.Contains(body, chuid.GUID[:]) || !bytes.Contains(body, chuid.FASCN)) {
		t.Errorf("CHUID %+v from nowhere", chuid)
	}
	if ccc, err := tx.CCC(); err == nil && !bytes.Contains(body, ccc.CardID) {
		t.Errorf("CCC %+v from nowhere", ccc)
	}
	if h, err := tx.KeyHistory(); err == nil && len(h.Slots()) > 20 {
		t.Errorf("key history %+v", h)
	}
	if d, err := tx.Discovery(); err == nil && !bytes.Contains(body, d.ApplicationID) {
		t.Errorf("discovery object %+v from nowhere", d)
	}
	if app, err := tx.Application(); err == nil && (!bytes.Contains(body, app.PIX) || len(app.Algorithms) > len(body)) {
		t.Errorf("application %+v from nowhere", app)
	}
	for _, info := range []func() (piv.SecretInfo, error){tx.PINInfo, tx.PUKInfo} {
		if i, err := info(); err == nil && (i.Tries > 0xFF || i.TriesLeft > 0xFF) {
			t.Errorf("got %+v", i)
		}
	}
	if _, err := tx.ManagementKeyInfo(); err != nil && !errors.Is(err, iso7816.ErrMalformed) {
		t.Errorf("management key: got %v, want ErrMalformed", err)
	}
}

// FuzzCertificate lets a card hold anything for a certificate. What is read from
// it can be written, and is the same when it is read again.
func FuzzCertificate(f *testing.F) {
	for _, body := range answers(f) {
		if bytes.HasPrefix(body, []byte{0x53}) {
			f.Add(body)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > fuzzBytesMax {
			return
		}
		var cert *x509.Certificate
		do(t, piv.New(garbler{virtual.NewCard(), body}, piv.Options{}), func(tx *piv.Tx) error {
			cert, _ = tx.Certificate(piv.SlotSignature)
			return nil
		})
		if cert == nil {
			return
		}
		card := piv.New(virtual.NewCard(), piv.Options{})
		administer(t, card, func(tx *piv.Tx) error {
			if err := tx.PutCertificate(piv.SlotSignature, cert); err != nil {
				if errors.Is(err, smartcard.StatusFull) {
					return nil
				}
				return err
			}
			again, err := tx.Certificate(piv.SlotSignature)
			if err == nil && !again.Equal(cert) {
				t.Error("another certificate came back")
			}
			return err
		})
	})
}

// Keys that no card of the fuzzer's has.
var (
	fuzzRSA = must(rsa.GenerateKey(rand.Reader, 2048))
	fuzzEC  = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
