package piv

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"strconv"

	"github.com/setkit/setkit/smartcard/iso7816"
)

// Extensions of an attestation certificate, arc 1.3.6.1.4.1.41482.3 (Yubico).
var (
	oidVersion  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3, 3}
	oidSerial   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3, 7}
	oidPolicies = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3, 8}
)

// An Attestation is what a card's maker vouches for about a key: that it was
// generated on this card, and never was elsewhere.
type Attestation struct {
	Serial      string // of the card, as Card.Serial says; "" if not told
	Version     string // of the card's software
	PINPolicy   PINPolicy
	TouchPolicy TouchPolicy
}

// Attest returns a certificate, made by the card for this moment, that its key
// in the slot was generated there. Who signed it is in SlotAttestation's
// certificate; see VerifyAttestation. The error wraps ErrUnsupported on a card
// without attestation, and smartcard.StatusNotFound or StatusNoReference for a
// slot without a generated key.
func (tx *Tx) Attest(slot Slot) (*x509.Certificate, error) {
	der, err := tx.command(fmt.Sprintf("attest the key of slot %v", slot), iso7816.Command{INS: insAttest, P1: byte(slot), Ne: neAll})
	if err != nil {
		return nil, orUnsupported(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("piv: attestation of slot %v: %w", slot, err)
	}
	return cert, nil
}

// VerifyAttestation checks that statement, from Attest, was signed under one of
// roots, by way of the certificate of SlotAttestation and others that the maker
// publishes, and returns what it says. The key that it is about is
// statement.PublicKey; the caller compares.
func VerifyAttestation(statement *x509.Certificate, intermediates []*x509.Certificate, roots *x509.CertPool) (Attestation, error) {
	pool := x509.NewCertPool()
	for _, c := range intermediates {
		if !c.BasicConstraintsValid { // forgotten in those of the YubiKey 4
			own := *c
			own.BasicConstraintsValid, own.IsCA = true, true
			c = &own
		}
		pool.AddCert(c)
	}
	_, err := statement.Verify(x509.VerifyOptions{Roots: roots, Intermediates: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return Attestation{}, fmt.Errorf("piv: attestation: %w", err)
	}
	return parseAttestation(statement)
}

// parseAttestation reads the extensions: version and policies are plain bytes,
// the serial number is an INTEGER.
func parseAttestation(statement *x509.Certificate) (Attestation, error) {
	var a Attestation
	malformed := func(what string) (Attestation, error) {
		return Attestation{}, fmt.Errorf("piv: attestation: %s: %w", what, iso7816.ErrMalformed)
	}
	for _, e := range statement.Extensions {
		switch {
		case e.Id.Equal(oidVersion):
			if len(e.Value) != 3 {
				return malformed("version")
			}
			a.Version = fmt.Sprintf("%d.%d.%d", e.Value[0], e.Value[1], e.Value[2])
		case e.Id.Equal(oidSerial):
			var n int64
			if rest, err := asn1.Unmarshal(e.Value, &n); err != nil || len(rest) > 0 || n < 0 {
				return malformed("serial number")
			}
			a.Serial = strconv.FormatInt(n, 10)
		case e.Id.Equal(oidPolicies):
			if len(e.Value) != 2 {
				return malformed("policies")
			}
			a.PINPolicy, a.TouchPolicy = PINPolicy(e.Value[0]), TouchPolicy(e.Value[1])
		}
	}
	if a.Version == "" {
		return malformed("no version, so this is no attestation")
	}
	return a, nil
}
