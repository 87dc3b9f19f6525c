package pki_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/setkit/setkit/roles/set/pki"
)

// What is just within a limit is taken, what is just outside is not.
func TestNameLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	for what, c := range map[string]struct {
		size int
		name func(text string) pki.Name
	}{
		"brand": {40, func(s string) pki.Name {
			return pki.Name{Country: "DK", Brand: "Acme:" + s[5:], Unit: "U", CommonName: "C"}
		}},
		"unit":        {64, func(s string) pki.Name { return pki.Name{Country: "DK", Brand: "Acme", Unit: s, CommonName: "C"} }},
		"common name": {64, func(s string) pki.Name { return pki.Name{Country: "DK", Brand: "Acme", Unit: "U", CommonName: s} }},
	} {
		for size, ok := range map[int]bool{c.size - 1: true, c.size: true, c.size + 1: false} {
			template := leafTemplate(pki.Mer, pki.Signature, c.name(strings.Repeat("x", size)))
			template.PublicKey = p256(t).Public()
			cert, err := pki.Issue(rand.Reader, template, w.mca.cert, w.mca.key)
			if (err == nil) != ok {
				t.Errorf("%s of %d characters: %v, want accepted %t", what, size, err, ok)
			}
			if err == nil {
				if _, err := pki.ParseCertificate(cert.X509.Raw); err != nil {
					t.Errorf("%s of %d characters: %v", what, size, err)
				}
			}
		}
	}
}

func TestRSALimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	for bits, ok := range map[int]bool{2047: false, 2048: true, 2049: true, 8191: true, 8192: true, 8193: false} {
		raw := forge(t, w.all["mer exchange"].cert, w.mca, func(x *x509.Certificate) {
			x.PublicKey = &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), bits-1, 1), E: 65537}
		})
		if _, err := pki.ParseCertificate(raw); (err == nil) != ok {
			t.Errorf("%d bits: %v, want accepted %t", bits, err, ok)
		}
	}
}

func TestSerialLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	for bits, ok := range map[int]bool{158: true, 159: true, 160: false} { // 159 bits fill 20 octets: the first one is the sign's
		raw := forge(t, w.all["card"].cert, w.cca, func(x *x509.Certificate) { x.SerialNumber = new(big.Int).SetBit(big.NewInt(1), bits-1, 1) })
		if _, err := pki.ParseCertificate(raw); (err == nil) != ok {
			t.Errorf("serial number of %d bits: %v, want accepted %t", bits, err, ok)
		}
	}
}

func TestCandidateLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	v, err := pki.NewVerifier([]*pki.Certificate{w.root.cert}, pki.Options{})
	if err != nil {
		t.Fatal(err)
	}
	rest := w.intermediates()
	for n, ok := range map[int]bool{pki.CandidatesMax - 1: true, pki.CandidatesMax: true, pki.CandidatesMax + 1: false} {
		if _, err := v.Verify(w.all["card"].cert, slices.Repeat(rest, n)[:n], now); (err == nil) != ok {
			t.Errorf("%d intermediate certificates: %v, want accepted %t", n, err, ok)
		}
	}
}

// Files are read up to their size: what is no certificate or list is refused for that, and not for its size.
func TestSizeLimits(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		most  int
		parse func(b []byte) error
	}{
		"certificate":        {pki.CertificateSizeMax, func(b []byte) error { _, err := pki.ParseCertificate(b); return err }},
		"CRL":                {pki.CRLSizeMax, func(b []byte) error { _, err := pki.ParseCRL(b); return err }},
		"BrandCRLIdentifier": {pki.BCISizeMax, func(b []byte) error { _, err := pki.ParseBCI(b); return err }},
	} {
		for size, ok := range map[int]bool{c.most - 1: true, c.most: true, c.most + 1: false} {
			if err := c.parse(make([]byte, size)); err == nil || strings.Contains(err.Error(), "are allowed") == ok {
				t.Errorf("%s of %d octets: %v", what, size, err)
			}
		}
	}
}
