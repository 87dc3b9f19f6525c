package piv_test

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"testing"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/cardtest"
	"github.com/setkit/setkit/smartcard/piv"
)

// cost is what went to a card and back.
type cost struct{ apdus, sent, received int }

func costOf(records []smartcard.Record) cost {
	c := cost{apdus: len(records)}
	for _, r := range records {
		c.sent += r.SentBytes
		c.received += r.ReceivedBytes
	}
	return c
}

// command adds a command with a body, and its answer, as the standard cuts them:
// see the package documentation.
func (c *cost) command(body, answer int, extended bool) {
	const header, sw, getResponse = 4, 2, 5
	if extended {
		c.apdus, c.received = c.apdus+1, c.received+answer+sw
		c.sent += header
		if body > 0 {
			c.sent += 3 + body
		}
		if answer > 0 {
			c.sent += 2
		}
		return
	}
	for ; body > 255; body -= 255 {
		c.apdus, c.sent, c.received = c.apdus+1, c.sent+header+1+255, c.received+sw
	}
	c.apdus, c.sent = c.apdus+1, c.sent+header
	if body > 0 {
		c.sent += 1 + body
	}
	if answer > 0 {
		c.sent++
	}
	for ; answer > 256; answer -= 256 {
		c.apdus, c.sent, c.received = c.apdus+1, c.sent+getResponse, c.received+256+sw
	}
	c.received += answer + sw
}

// tlv is the length of a data object with a tag of one byte.
func tlv(value int) int {
	switch {
	case value < 0x80:
		return 2 + value
	case value < 0x100:
		return 3 + value
	}
	return 4 + value
}

// minimum is the least that the package documentation derives, for an object, a
// signature and what is signed of these lengths.
func minimum(template, object, signed, signature int, extended bool) cost {
	var c cost
	c.command(9, template, extended)                             // SELECT
	c.command(5, object, extended)                               // GET DATA
	c.command(8, 0, extended)                                    // VERIFY
	c.command(tlv(2+tlv(signed)), tlv(tlv(signature)), extended) // GENERAL AUTHENTICATE
	c.command(0, 0, extended)                                    // VERIFY that withdraws
	return c
}

// signWithCertificate is the flow that is counted.
func signWithCertificate(t testing.TB, card *piv.Card) (signature []byte) {
	digest := sha256.Sum256([]byte("the purchase"))
	do(t, card, func(tx *piv.Tx) error {
		cert, err := tx.Certificate(piv.SlotSignature)
		if err != nil {
			return err
		}
		if err := tx.VerifyPIN([]byte(factoryPIN)); err != nil {
			return err
		}
		signer, err := tx.Signer(piv.SlotSignature, cert.PublicKey)
		if err != nil {
			return err
		}
		signature, err = signer.Sign(nil, digest[:], crypto.SHA256)
		return err
	})
	return signature
}

// countedCard returns a card, in a reader, with a key and a certificate for it
// in slot 9c, and what counts.
func countedCard(t testing.TB, a piv.Algorithm, extended bool) (*piv.Card, *smartcard.Recorder, *x509.Certificate) {
	recorder := smartcard.NewRecorder(openReader(t, cardtest.New(t).Name))
	card := piv.New(recorder, piv.Options{Extended: extended})
	cert := selfSigned(t, card, generate(t, card, piv.SlotSignature, a))
	administer(t, card, func(tx *piv.Tx) error { return tx.PutCertificate(piv.SlotSignature, cert) })
	recorder.Take()
	return card, recorder, cert
}

// TestCount checks that selecting, verifying the PIN, signing with 9c and
// reading its certificate costs the minimum, to the byte.
func TestCount(t *testing.T) {
	for _, a := range []piv.Algorithm{piv.RSA2048, piv.ECDSAP256} {
		for _, extended := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v, extended=%v", a, extended), func(t *testing.T) {
				t.Parallel()
				card, recorder, cert := countedCard(t, a, extended)
				var template int
				do(t, card, func(*piv.Tx) error {
					template = recorder.Take()[0].ReceivedBytes - 2
					return nil
				})
				signature := signWithCertificate(t, card)
				signed := map[piv.Algorithm]int{piv.RSA2048: 256, piv.ECDSAP256: 32}[a]
				object := tlv(tlv(len(cert.Raw)) + 3 + 2)
				got, want := costOf(recorder.Take()), minimum(template, object, signed, len(signature), extended)
				t.Logf("%d APDUs, %d bytes sent, %d received; certificate object of %d bytes", got.apdus, got.sent, got.received, object)
				if got != want {
					t.Errorf("got %+v, want %+v", got, want)
				}
			})
		}
	}
}

func BenchmarkSignWithCertificate(b *testing.B) {
	for _, a := range []piv.Algorithm{piv.RSA2048, piv.ECDSAP256} {
		for _, extended := range []bool{false, true} {
			b.Run(fmt.Sprintf("%v/extended=%v", a, extended), func(b *testing.B) {
				card, recorder, _ := countedCard(b, a, extended)
				for b.Loop() {
					signWithCertificate(b, card)
				}
				c := costOf(recorder.Take())
				b.ReportMetric(float64(c.apdus)/float64(b.N), "APDUs/op")
				b.ReportMetric(float64(c.sent+c.received)/float64(b.N), "bytes/op")
			})
		}
	}
}
