package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// serialOctets is the length of the random serial numbers.
const serialOctets = 16

// Template says what to certify. Type and Use choose the profile of the holder (SET §6.3); the fields
// below the dates belong to the holders they name and must be empty for all others.
type Template struct {
	Type      Type
	Use       Use
	Subject   Name
	PublicKey crypto.PublicKey

	NotBefore, NotAfter time.Time
	// PrivateKeyNotAfter ends the private key usage period; zero means NotAfter. A CA's certificate must outlive it
	// by the longest life of what it signs. PrivateKeyNotBefore starts it; zero means NotBefore. It is earlier for
	// another certificate of a key that has signed already.
	PrivateKeyNotBefore, PrivateKeyNotAfter time.Time

	NextRootKey      crypto.PublicKey        // root
	Merchant         *MerchantData           // merchant, both uses
	CardCertRequired bool                    // gateway key exchange
	Tunneling        *Tunneling              // gateway key exchange and CA key exchange
	SETExtensions    []asn1.ObjectIdentifier // gateway key exchange
}

// Issue makes a certificate under issuer, with issuer's key. A root has no issuer: it is nil, and key
// is the root's own. The certificate is parsed and its signature checked before it is returned.
func Issue(rand io.Reader, t Template, issuer *Certificate, key crypto.Signer) (*Certificate, error) {
	t.NotBefore, t.NotAfter = whole(t.NotBefore), whole(t.NotAfter)
	t.PrivateKeyNotBefore, t.PrivateKeyNotAfter = whole(t.PrivateKeyNotBefore), whole(t.PrivateKeyNotAfter)
	c, err := issue(rand, t, issuer, key)
	if err != nil {
		return nil, fmt.Errorf("issue %v %v certificate: %w", t.Type, t.Use, err)
	}
	return c, nil
}

func issue(rand io.Reader, t Template, issuer *Certificate, key crypto.Signer) (*Certificate, error) {
	if err := t.check(issuer, key); err != nil {
		return nil, err
	}
	subject, err := t.Subject.marshal()
	if err != nil {
		return nil, err
	}
	spki, keyID, err := spkiOf(t.PublicKey)
	if err != nil {
		return nil, err
	}
	parent, authority := &x509.Certificate{RawSubject: subject}, keyID
	if issuer != nil {
		parent, authority = issuer.X509, issuer.X509.SubjectKeyId
	}
	extensions, err := t.extensions(keyID, authority)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial(rand)
	if err != nil {
		return nil, err
	}
	raw, err := x509.CreateCertificate(rand, &x509.Certificate{
		SerialNumber: serial, RawSubject: subject,
		NotBefore: t.NotBefore, NotAfter: t.NotAfter, ExtraExtensions: extensions,
	}, parent, t.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return selfCheck(raw, spki, issuer)
}

// check refuses what would only come to light with whoever validates the certificate.
func (t *Template) check(issuer *Certificate, key crypto.Signer) error {
	if err := checkHolder(t.Type, t.Use); err != nil {
		return err
	}
	if err := checkKey(t.PublicKey, t.Use); err != nil {
		return err
	}
	if (issuer == nil) != (t.Type == RCA) {
		return errors.New("a root, and only a root, has no issuer")
	}
	if !t.NotBefore.Before(t.NotAfter) {
		return errors.New("validity ends before it starts")
	}
	if t.NotBefore.Year() < 1950 || t.NotAfter.Year() > 9999 {
		return errors.New("validity outside the years 1950 to 9999")
	}
	if issuer == nil {
		if !sameKey(t.PublicKey, key.Public()) {
			return errors.New("the root's public key does not belong to the signing key")
		}
		return nil
	}
	if t.NotBefore.Before(issuer.X509.NotBefore) || t.NotAfter.After(issuer.X509.NotAfter) {
		return fmt.Errorf("validity %v to %v exceeds that of %v, %v to %v: choose dates within it",
			date(t.NotBefore), date(t.NotAfter), issuer, date(issuer.X509.NotBefore), date(issuer.X509.NotAfter))
	}
	return nil
}

// whole cuts a time to what an encoding carries.
func whole(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

func date(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func newSerial(rand io.Reader) (*big.Int, error) {
	b := make([]byte, serialOctets)
	if _, err := io.ReadFull(rand, b); err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	n := new(big.Int).SetBytes(b)
	return n, checkSerial(n)
}

func selfCheck(raw, spki []byte, issuer *Certificate) (*Certificate, error) {
	c, err := parseCertificate(raw)
	if err != nil {
		return nil, err
	}
	if issuer == nil {
		issuer = c
	}
	if err := c.checkUnder(issuer); err != nil {
		return nil, err
	}
	if err := c.SignedBy(issuer); err != nil {
		return nil, err
	}
	if !bytes.Equal(c.X509.RawSubjectPublicKeyInfo, spki) {
		return nil, errors.New("another public key was certified")
	}
	return c, nil
}

// extensions encodes the extensions of SET §6.3, and the subject key identifier of RFC 5280.
func (t *Template) extensions(keyID, authority []byte) ([]pkix.Extension, error) {
	constraints := basicConstraints{CA: t.Use == Authority}
	if n := int64(pathLenOf(t.Type)); t.Use == Authority && n >= 0 {
		constraints.PathLen = &n
	}
	values := []struct {
		id    asn1.ObjectIdentifier
		value any
	}{
		{oidSubjectKeyID, keyID},
		{oidAuthorityKeyID, authorityKeyID{authority}},
		{oidKeyUsage, keyUsage(keyUsageOf(t.Type, t.Use))},
		{oidPolicies, []policyInformation{{Policy: oidPolicyRoot}}},
		{oidBasicConstraints, constraints},
		{oidCertificateType, t.Type},
	}
	own := placed(t.Type, t.Use)
	if err := t.checkUnused(own); err != nil {
		return nil, err
	}
	for _, id := range own {
		v, err := t.value(id)
		if err != nil {
			return nil, err
		}
		values = append(values, struct {
			id    asn1.ObjectIdentifier
			value any
		}{id, v})
	}
	var out []pkix.Extension
	for _, v := range values {
		b, err := der.Marshal(v.value)
		if err != nil {
			return nil, err
		}
		out = append(out, pkix.Extension{Id: v.id, Critical: known[indexOfKnown(v.id)].critical, Value: b})
	}
	return out, nil
}

// value gives an extension that only some holders have.
func (t *Template) value(id asn1.ObjectIdentifier) (any, error) {
	switch {
	case id.Equal(oidPrivateKeyPeriod):
		start, end := t.PrivateKeyNotBefore, t.PrivateKeyNotAfter
		if start.IsZero() {
			start = t.NotBefore
		}
		if end.IsZero() {
			end = t.NotAfter
		}
		if start.After(t.NotBefore) || end.Before(t.NotBefore) || end.After(t.NotAfter) {
			return nil, errors.New("private key usage period exceeds the validity")
		}
		return Period{start, end}, nil
	case id.Equal(oidHashedRootKey):
		if t.NextRootKey == nil {
			return nil, errors.New("the next root's public key is missing")
		}
		next, err := rootKeyThumbprint(t.NextRootKey)
		return hashedRootKey{next}, err
	case id.Equal(oidMerchantData):
		if t.Merchant == nil {
			return nil, errors.New("merchant data is missing")
		}
		return t.Merchant.wire(), nil
	case id.Equal(oidCardCertRequired):
		return t.CardCertRequired, nil
	case id.Equal(oidTunneling):
		if t.Tunneling == nil {
			return nil, errors.New("tunneling is missing")
		}
		return *t.Tunneling, nil
	case id.Equal(oidSETExtensions):
		return t.SETExtensions, nil
	}
	return nil, fmt.Errorf("no value for extension %v", id)
}

// checkUnused refuses fields that the holder's certificate has no place for.
func (t *Template) checkUnused(own []asn1.ObjectIdentifier) error {
	for _, f := range []struct {
		name string
		set  bool
		id   asn1.ObjectIdentifier
	}{
		{"private key usage period", !t.PrivateKeyNotBefore.IsZero() || !t.PrivateKeyNotAfter.IsZero(), oidPrivateKeyPeriod},
		{"next root key", t.NextRootKey != nil, oidHashedRootKey},
		{"merchant data", t.Merchant != nil, oidMerchantData},
		{"cardCertRequired", t.CardCertRequired, oidCardCertRequired},
		{"tunneling", t.Tunneling != nil, oidTunneling},
		{"setExtensions", t.SETExtensions != nil, oidSETExtensions},
	} {
		used := false
		for _, id := range own {
			used = used || id.Equal(f.id)
		}
		if f.set && !used {
			return fmt.Errorf("%s does not belong in this certificate", f.name)
		}
	}
	return nil
}

// rootKeyThumbprint is the detached digest of a root's SubjectPublicKeyInfo.
func rootKeyThumbprint(key crypto.PublicKey) (cms.DetachedDigest, error) {
	if err := checkKey(key, Authority); err != nil {
		return cms.DetachedDigest{}, fmt.Errorf("next root key: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return cms.DetachedDigest{}, err
	}
	return cms.DD(oidRootKeyThumb, der.Raw(spki))
}
