package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/bits"
)

// placed are the extensions that only some holders have. What is not listed for a holder it must not
// have (SET §6.3).
func placed(t Type, u Use) []asn1.ObjectIdentifier {
	switch {
	case t == RCA:
		return []asn1.ObjectIdentifier{oidPrivateKeyPeriod, oidHashedRootKey}
	case t == Mer && u == Signature:
		return []asn1.ObjectIdentifier{oidPrivateKeyPeriod, oidMerchantData}
	case t == Mer:
		return []asn1.ObjectIdentifier{oidMerchantData}
	case t == Pgwy && u == KeyExchange:
		return []asn1.ObjectIdentifier{oidCardCertRequired, oidTunneling, oidSETExtensions}
	case u == KeyExchange:
		return []asn1.ObjectIdentifier{oidTunneling}
	}
	return []asn1.ObjectIdentifier{oidPrivateKeyPeriod}
}

// checkHolder tells whether there is a party of type t with a key for u.
func checkHolder(t Type, u Use) error {
	switch {
	case t&endEntityCA != 0 && t&^endEntityCA == 0:
		if u == Signature || u == KeyExchange || u == Authority {
			return nil
		}
	case bits.OnesCount16(uint16(t)) != 1 || t.parents() == 0:
		return fmt.Errorf("no party has certificateType %v", t)
	case t == Card && u == Signature, t&(Mer|Pgwy) != 0 && (u == Signature || u == KeyExchange), t&(GCA|BCA|RCA) != 0 && u == Authority:
		return nil
	}
	return fmt.Errorf("certificateType %v has no %v key", t, u)
}

// keyUsageOf gives the bits with which a certificate is issued. The end-entity CAs for cardholders and
// merchants issue no CRLs (SET §6.5).
func keyUsageOf(t Type, u Use) x509.KeyUsage {
	switch {
	case u == Signature:
		return x509.KeyUsageDigitalSignature
	case u == KeyExchange:
		return x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment
	case t&crlIssuer != 0:
		return x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	return x509.KeyUsageCertSign
}

// useOf reads the use from keyUsage. An authority may have its certificate-signing and CRL-signing keys apart.
func useOf(t Type, usage x509.KeyUsage) (Use, error) {
	for _, u := range []Use{Signature, KeyExchange} {
		if usage == keyUsageOf(t, u) {
			return u, nil
		}
	}
	if all := keyUsageOf(t, Authority); usage != 0 && usage&^all == 0 {
		return Authority, nil
	}
	return 0, fmt.Errorf("keyUsage %09b (bit 0 last) does not fit certificateType %v", usage, t)
}

// pathLenOf gives the longest path under an authority; a root has no limit of its own.
func pathLenOf(t Type) int {
	switch t {
	case RCA:
		return -1
	case BCA:
		return 2
	case GCA:
		return 1
	}
	return 0
}

// checkProfile sets c.Use and holds c against the profile of its holder.
func (c *Certificate) checkProfile(d *decoded) (err error) {
	if c.Use, err = useOf(c.Type, d.usage); err != nil {
		return err
	}
	if err := checkHolder(c.Type, c.Use); err != nil {
		return err
	}
	if err := checkKey(c.X509.PublicKey, c.Use); err != nil {
		return err
	}
	if err := c.Subject.check(c.Type); err != nil {
		return fmt.Errorf("subject: %w", err)
	}
	if err := checkPlacement(c, d); err != nil {
		return err
	}
	if c.Merchant != nil {
		if err := c.Merchant.check(); err != nil {
			return err
		}
	}
	if d.constraints.CA != (c.Use == Authority) {
		return fmt.Errorf("basicConstraints has cA %t in a certificate for %v", d.constraints.CA, c.Use)
	}
	if limit := pathLenOf(c.Type); c.Use == Authority && limit >= 0 && (c.pathLen < 0 || c.pathLen > limit) {
		return fmt.Errorf("basicConstraints of a %v certificate without pathLenConstraint, or with one over %d", c.Type, limit)
	}
	return nil
}

func checkPlacement(c *Certificate, d *decoded) error {
	want := make(map[string]bool)
	for _, id := range placed(c.Type, c.Use) {
		want[id.String()] = true
	}
	for _, e := range []struct {
		id      asn1.ObjectIdentifier
		name    string
		present bool
	}{
		{oidPrivateKeyPeriod, "privateKeyUsagePeriod", d.period != nil},
		{oidHashedRootKey, "hashedRootKey", d.nextRootKey != nil},
		{oidMerchantData, "merchantData", d.merchant != nil},
		{oidCardCertRequired, "cardCertRequired", d.cardCert != nil},
		{oidTunneling, "tunneling", d.tunneling != nil},
		{oidSETExtensions, "setExtensions", d.setExtensions != nil},
	} {
		if e.present && !want[e.id.String()] {
			return fmt.Errorf("extension %s does not belong in a %v %v certificate", e.name, c.Type, c.Use)
		}
		if !e.present && want[e.id.String()] {
			return fmt.Errorf("no extension %s in a %v %v certificate", e.name, c.Type, c.Use)
		}
	}
	return nil
}

// checkUnder tells whether issuer may have issued c: names, key identifiers, types, brand, and the
// period in which the issuer's key could sign. It checks no signature.
func (c *Certificate) checkUnder(issuer *Certificate) error {
	x, ix := c.X509, issuer.X509
	switch {
	case !bytes.Equal(x.RawIssuer, ix.RawSubject):
		return errors.New("its issuer's name is another")
	case !bytes.Equal(x.AuthorityKeyId, ix.SubjectKeyId):
		return errors.New("its issuer has another key identifier")
	case ix.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("%v may not sign certificates", issuer)
	case c.Type.parents()&issuer.Type == 0:
		return fmt.Errorf("certificateType %v under %v", c.Type, issuer.Type)
	case issuer.Type != RCA && !brandUnder(c.Brand(), issuer.Brand()):
		return fmt.Errorf("brand %q under brand %q", c.Brand(), issuer.Brand())
	case issuer.PrivateKeyUsage == nil || !issuer.PrivateKeyUsage.contains(x.NotBefore):
		return errors.New("issued outside the private key usage period of its issuer")
	}
	return nil
}
