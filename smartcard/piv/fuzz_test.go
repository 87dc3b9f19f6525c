package piv_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"testing"
	"time"

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
			fuzzNumbers(t, tx, body)
			for a, n := range map[piv.ManagementAlgorithm]int{piv.AES128: 16, piv.TripleDES: 24} {
				if err := tx.Authenticate(piv.ManagementKey{Algorithm: a, Key: make([]byte, n)}); err == nil {
					t.Errorf("%v: a fixed answer proves a key", a)
				}
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
	for _, want := range []piv.Algorithm{piv.RSA2048, piv.ECDSAP256, piv.ECDSAP384, piv.Ed25519, piv.X25519} {
		if public, err := tx.Generate(piv.SlotSignature, want, piv.PINPolicyDefault); err == nil {
			if a, err := piv.AlgorithmOf(public); a != want || err != nil || len(body) < 32 {
				t.Errorf("got a key %v for %v: %v", public, want, err)
			}
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
	fuzzSecrets(t, tx, body)
}

// fuzzSecrets decrypts and agrees: what comes out is the card's answer or what was
// sealed.
func fuzzSecrets(t *testing.T, tx *piv.Tx, body []byte) {
	decrypter, err := tx.Decrypter(piv.SlotKeyManagement, fuzzRSA.Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decrypter.Decrypt(nil, make([]byte, fuzzRSA.Size()), &rsa.OAEPOptions{Hash: crypto.SHA256}); err == nil {
		t.Error("a plaintext from nowhere")
	}
	for public, other := range map[crypto.PublicKey]*ecdh.PublicKey{
		fuzzEC.Public():   must(fuzzEC.PublicKey.ECDH()),
		fuzzX.PublicKey(): fuzzX.PublicKey(),
	} {
		exchanger, err := tx.KeyExchanger(piv.SlotKeyManagement, public)
		if err != nil {
			t.Fatal(err)
		}
		if secret, err := exchanger.ECDH(other); err == nil && (len(secret) != 32 || !bytes.Contains(body, secret)) {
			t.Errorf("a shared secret of %d bytes from nowhere", len(secret))
		}
	}
}

// fuzzNumbers reads what is a number.
func fuzzNumbers(t *testing.T, tx *piv.Tx, body []byte) {
	if v, err := tx.Version(); err != nil || (v != "") != (len(body) == 3) {
		t.Errorf("version %q, %v", v, err)
	}
	if serial, err := tx.Serial(); err == nil && serial != "" && len(body) != 4 {
		if guid, err := hex.DecodeString(serial); err != nil || !bytes.Contains(body, guid) {
			t.Errorf("serial number %q from nowhere", serial)
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
			f.Add(body, false)
		}
		if bytes.HasPrefix(body, []byte{0x30}) {
			f.Add(body, true) // an attestation, which is a certificate
		}
	}
	plastic := virtual.NewCard()
	f.Fuzz(func(t *testing.T, body []byte, compressed bool) {
		if len(body) > fuzzBytesMax {
			return
		}
		if compressed {
			body = compressedObject(t, body)
		}
		var cert *x509.Certificate
		do(t, piv.New(garbler{plastic, body}, piv.Options{}), func(tx *piv.Tx) error {
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

// compressedObject is the object with a compressed certificate.
func compressedObject(t *testing.T, cert []byte) []byte {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(cert); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	value := iso7816.AppendTLV(nil, 0x70, packed.Bytes())
	value = iso7816.AppendTLV(value, 0x71, []byte{0x01})
	return iso7816.AppendTLV(nil, 0x53, value)
}

// FuzzAttestation reads a statement with anything in its extensions, under a maker
// who signs that.
func FuzzAttestation(f *testing.F) {
	arc := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3}
	for _, body := range answers(f) {
		if statement, err := x509.ParseCertificate(body); err == nil {
			seed := map[int][]byte{}
			for _, e := range statement.Extensions {
				seed[e.Id[len(e.Id)-1]] = e.Value
			}
			f.Add(seed[3], seed[7], seed[8])
		}
	}
	maker := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "maker"}, NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true}
	public, private, err := ed25519.GenerateKey(rand.Reader) // whose signatures run the same way each time
	if err != nil {
		f.Fatal(err)
	}
	maker = must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, maker, maker, public, private))))
	roots := x509.NewCertPool()
	roots.AddCert(maker)
	f.Fuzz(func(t *testing.T, version, serial, policies []byte) {
		if len(version)+len(serial)+len(policies) > fuzzBytesMax {
			return
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: maker.NotAfter}
		for last, value := range map[int][]byte{3: version, 7: serial, 8: policies} {
			id := append(slices.Clone(arc), last)
			template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: id, Value: value})
		}
		statement := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, maker, public, private))))
		got, err := piv.VerifyAttestation(statement, nil, roots)
		if err != nil {
			if !errors.Is(err, iso7816.ErrMalformed) {
				t.Errorf("got %v, want ErrMalformed", err)
			}
			return
		}
		number, numberErr := strconv.ParseInt(got.Serial, 10, 64)
		again, err := asn1.Marshal(number)
		if numberErr != nil || err != nil || !bytes.Equal(again, serial) {
			t.Errorf("serial number % X is said to be %q", serial, got.Serial)
		}
		if got.Version != fmt.Sprintf("%d.%d.%d", version[0], version[1], version[2]) || !bytes.Equal(policies, []byte{byte(got.PINPolicy), byte(got.TouchPolicy)}) {
			t.Errorf("version % X and policies % X are said to be %+v", version, policies, got)
		}
	})
}

// Keys that no card of the fuzzer's has.
var (
	fuzzX   = must(ecdh.X25519().GenerateKey(rand.Reader))
	fuzzRSA = must(rsa.GenerateKey(rand.Reader, 2048))
	fuzzEC  = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
