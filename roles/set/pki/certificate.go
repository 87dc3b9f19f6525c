package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// Certificate is a certificate of the profile, with SET's extensions decoded. It is not changed once made.
type Certificate struct {
	X509    *x509.Certificate
	Type    Type
	Use     Use
	Subject Name

	PrivateKeyUsage  *Period                 // when the private key may sign; nil for a key-exchange key
	NextRootKey      *cms.DetachedDigest     // hashedRootKey: of a root only
	Merchant         *MerchantData           // of a merchant only
	CardCertRequired bool                    // of a gateway's key-exchange certificate: unsigned purchases are refused
	Tunneling        *Tunneling              // of key-exchange certificates of gateways and CAs
	SETExtensions    []asn1.ObjectIdentifier // message extensions that a gateway supports, in its key-exchange certificate

	pathLen int // certificates allowed between this one and the leaf's; -1 without limit
}

// signed is the outer structure of certificates, CRLs and BrandCRLIdentifiers.
type signed struct {
	TBS       der.Raw
	Algorithm cms.AlgorithmIdentifier
	Signature asn1.BitString
}

// tbsCertificate is X.509's, of version 3 and without unique identifiers.
type tbsCertificate struct {
	Version    int64 `der:"[0]e default=0"`
	Serial     *big.Int
	Algorithm  cms.AlgorithmIdentifier
	Issuer     der.Raw
	Validity   validity
	Subject    der.Raw
	SPKI       der.Raw
	Extensions []extension `der:"[3]e size=1..32"`
}

type validity struct{ NotBefore, NotAfter asn1Time }

const (
	versionX509     = 2
	serialOctetsMax = 20
)

// ParseCertificate decodes a certificate strictly and holds it against the profile of its holder. It
// checks neither signature nor dates: that is for a Verifier.
func ParseCertificate(raw []byte) (*Certificate, error) {
	c, err := parseCertificate(raw)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return c, nil
}

func parseCertificate(raw []byte) (*Certificate, error) {
	if len(raw) > CertificateSizeMax {
		return nil, fmt.Errorf("%d octets, at most %d are allowed", len(raw), CertificateSizeMax)
	}
	var outer signed
	var tbs tbsCertificate
	if err := der.Unmarshal(raw, &outer); err != nil {
		return nil, err
	}
	if err := der.Unmarshal(outer.TBS, &tbs); err != nil {
		return nil, err
	}
	if tbs.Version != versionX509 {
		return nil, fmt.Errorf("version field %d, want %d", tbs.Version, versionX509)
	}
	x, err := x509.ParseCertificate(bytes.Clone(raw))
	if err != nil {
		return nil, err
	}
	if err := checkFields(x, &tbs); err != nil {
		return nil, err
	}
	d, err := decodeExtensions(tbs.Extensions)
	if err != nil {
		return nil, err
	}
	c := &Certificate{
		X509: x, Type: d.certType, PrivateKeyUsage: d.period, NextRootKey: d.nextRootKey, Merchant: d.merchant,
		CardCertRequired: d.cardCert != nil && *d.cardCert, Tunneling: d.tunneling, SETExtensions: d.setExtensions,
		pathLen: -1,
	}
	if p := d.constraints.PathLen; p != nil {
		c.pathLen = int(*p)
	}
	if c.Subject, err = parseName(tbs.Subject); err != nil {
		return nil, fmt.Errorf("subject: %w", err)
	}
	if _, err = parseName(tbs.Issuer); err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	return c, c.checkProfile(d)
}

// checkFields checks what lies between the outer structure and the extensions, and that x509 took
// nothing from an encoding that is not the distinguished one.
func checkFields(x *x509.Certificate, tbs *tbsCertificate) error {
	if err := checkSerial(tbs.Serial); err != nil {
		return err
	}
	if err := checkSignatureAlgorithm(x.SignatureAlgorithm); err != nil {
		return err
	}
	if err := errors.Join(checkTime(tbs.Validity.NotBefore, x.NotBefore), checkTime(tbs.Validity.NotAfter, x.NotAfter)); err != nil {
		return fmt.Errorf("validity: %w", err)
	}
	if x.NotAfter.Before(x.NotBefore) {
		return errors.New("validity ends before it starts")
	}
	if x.PublicKey == nil {
		return errors.New("key of an unknown algorithm is refused: want RSA, or ECDSA on P-256 or P-384")
	}
	if err := checkKey(x.PublicKey, 0); err != nil {
		return err
	}
	spki, err := x509.MarshalPKIXPublicKey(x.PublicKey)
	if err != nil || !bytes.Equal(spki, tbs.SPKI) {
		return errors.New("public key not in its distinguished encoding")
	}
	return nil
}

func checkSerial(n *big.Int) error {
	if n.Sign() <= 0 || n.BitLen() > 8*serialOctetsMax-1 {
		return fmt.Errorf("serial number not positive or over %d octets", serialOctetsMax)
	}
	return nil
}

// Brand is the brand that the certificate belongs to; for a root it is RootName.
func (c *Certificate) Brand() string { return c.Subject.Brand }

// Serial is the serial number for people: hexadecimal, two digits for each octet.
func (c *Certificate) Serial() string { return hex.EncodeToString(c.X509.SerialNumber.Bytes()) }

// String names the certificate in errors and logs: its type, use and serial number.
func (c *Certificate) String() string {
	return fmt.Sprintf("%v %v certificate %s", c.Type, c.Use, c.Serial())
}

// SignedBy checks the signature on c with the key of issuer, and nothing else.
func (c *Certificate) SignedBy(issuer *Certificate) error {
	x := c.X509
	if err := issuer.X509.CheckSignature(x.SignatureAlgorithm, x.RawTBSCertificate, x.Signature); err != nil {
		return fmt.Errorf("signature on %v: %w", c, err)
	}
	return nil
}
