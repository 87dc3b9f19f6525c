package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// CRL is a certificate revocation list of the profile (SET §6.5). It is not changed once made.
type CRL struct {
	X509   *x509.RevocationList
	Issuer Name
	Number int64

	revoked map[string]bool // serial numbers, their octets
}

// Revocation is one entry of a CRL. It stays until the certificate expires.
type Revocation struct {
	Serial *big.Int
	At     time.Time
}

// CRLTemplate says what to put into a CRL. Number must exceed that of the issuer's CRL before.
type CRLTemplate struct {
	Number                 int64
	ThisUpdate, NextUpdate time.Time
	Revoked                []Revocation
}

type tbsCRL struct {
	Version    int64
	Algorithm  cms.AlgorithmIdentifier
	Issuer     der.Raw
	ThisUpdate asn1Time
	NextUpdate asn1Time
	Revoked    []crlEntry  `der:"opt size=1..8192"`
	Extensions []extension `der:"[0]e size=1..8"`
}

type crlEntry struct {
	Serial     *big.Int
	Date       asn1Time
	Extensions []extension `der:"opt size=1..4"`
}

// asn1Time is X.509's Time, taken as it stands: what it means is told by package x509.
type asn1Time = der.Raw

const versionCRL = 1

// IssueCRL makes a CRL with issuer's key, parses it and checks its signature.
func IssueCRL(rand io.Reader, t CRLTemplate, issuer *Certificate, key crypto.Signer) (*CRL, error) {
	l, err := issueCRL(rand, t, issuer, key)
	if err != nil {
		return nil, fmt.Errorf("issue CRL %d: %w", t.Number, err)
	}
	return l, nil
}

func issueCRL(rand io.Reader, t CRLTemplate, issuer *Certificate, key crypto.Signer) (*CRL, error) {
	if err := checkListSigner(issuer, key, t.ThisUpdate); err != nil {
		return nil, err
	}
	template := &x509.RevocationList{
		Number: big.NewInt(t.Number), ThisUpdate: whole(t.ThisUpdate), NextUpdate: whole(t.NextUpdate),
	}
	for _, r := range t.Revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: r.Serial, RevocationTime: whole(r.At)})
	}
	raw, err := x509.CreateRevocationList(rand, template, issuer.X509, key)
	if err != nil {
		return nil, err
	}
	l, err := parseCRL(raw)
	if err != nil {
		return nil, err
	}
	return l, l.SignedBy(issuer)
}

// checkListSigner tells whether issuer's key may sign a CRL or BrandCRLIdentifier at a time.
func checkListSigner(issuer *Certificate, key crypto.Signer, at time.Time) error {
	switch {
	case issuer.X509.KeyUsage&x509.KeyUsageCRLSign == 0:
		return fmt.Errorf("%v may not sign CRLs", issuer)
	case !sameKey(issuer.X509.PublicKey, key.Public()):
		return fmt.Errorf("the key is not the one of %v", issuer)
	case !issuer.PrivateKeyUsage.contains(whole(at)):
		return fmt.Errorf("outside the private key usage period of %v", issuer)
	}
	return nil
}

// ParseCRL decodes a CRL strictly. It checks neither signature nor dates: that is for a Verifier.
func ParseCRL(raw []byte) (*CRL, error) {
	l, err := parseCRL(raw)
	if err != nil {
		return nil, fmt.Errorf("CRL: %w", err)
	}
	return l, nil
}

func parseCRL(raw []byte) (*CRL, error) {
	if len(raw) > CRLSizeMax {
		return nil, fmt.Errorf("%d octets, at most %d are allowed", len(raw), CRLSizeMax)
	}
	var outer signed
	var tbs tbsCRL
	if err := der.Unmarshal(raw, &outer); err != nil {
		return nil, err
	}
	if err := der.Unmarshal(outer.TBS, &tbs); err != nil {
		return nil, err
	}
	if tbs.Version != versionCRL {
		return nil, fmt.Errorf("version field %d, want %d", tbs.Version, versionCRL)
	}
	x, err := x509.ParseRevocationList(bytes.Clone(raw))
	if err != nil {
		return nil, err
	}
	if err := checkSignatureAlgorithm(x.SignatureAlgorithm); err != nil {
		return nil, err
	}
	l := &CRL{X509: x, revoked: make(map[string]bool)}
	if l.Issuer, err = parseName(tbs.Issuer); err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	if err := l.takeEntries(&tbs); err != nil {
		return nil, err
	}
	return l, l.takeExtensions(&tbs)
}

// takeEntries looks at the times first: only if x509 found them where tbs has them, the entries of both
// are the same.
func (l *CRL) takeEntries(tbs *tbsCRL) error {
	x := l.X509
	if err := errors.Join(checkTime(tbs.ThisUpdate, x.ThisUpdate), checkTime(tbs.NextUpdate, x.NextUpdate)); err != nil {
		return fmt.Errorf("thisUpdate or nextUpdate: %w", err)
	}
	if x.NextUpdate.Before(x.ThisUpdate) {
		return errors.New("nextUpdate before thisUpdate")
	}
	if len(tbs.Revoked) != len(x.RevokedCertificateEntries) {
		return errors.New("malformed entries")
	}
	for i, e := range tbs.Revoked {
		if err := checkSerial(e.Serial); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		if err := checkTime(e.Date, x.RevokedCertificateEntries[i].RevocationTime); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		for _, ext := range e.Extensions {
			if ext.Critical {
				return fmt.Errorf("entry %d: unknown critical extension %v", i, ext.ID)
			}
		}
		if l.Revokes(e.Serial) {
			return fmt.Errorf("entry %d: serial number %x twice", i, e.Serial)
		}
		l.revoked[string(e.Serial.Bytes())] = true
	}
	return nil
}

// checkTime tells whether raw is the distinguished encoding of when.
func checkTime(raw asn1Time, when time.Time) error {
	if b, err := asn1.Marshal(when.UTC()); err != nil || !bytes.Equal(b, raw) {
		return errors.New("time missing or not in its distinguished encoding")
	}
	return nil
}

func (l *CRL) takeExtensions(tbs *tbsCRL) error {
	var number, authority bool
	for _, e := range tbs.Extensions {
		var err error
		switch {
		case e.Critical:
			err = errors.New("unknown, and critical")
		case e.ID.Equal(oidCRLNumber):
			if number {
				err = errors.New("twice")
			} else if err = der.Unmarshal(e.Value, &l.Number); err == nil && l.Number < 0 {
				err = errors.New("negative")
			}
			number = true
		case e.ID.Equal(oidAuthorityKeyID):
			if authority {
				err = errors.New("twice")
			} else {
				err = der.Unmarshal(e.Value, &authorityKeyID{})
			}
			authority = true
		}
		if err != nil {
			return fmt.Errorf("extension %v: %w", e.ID, err)
		}
	}
	if !number || !authority {
		return errors.New("extension cRLNumber or authorityKeyIdentifier is missing")
	}
	return nil
}

// Revokes tells whether the CRL lists the serial number.
func (l *CRL) Revokes(serial *big.Int) bool { return l.revoked[string(serial.Bytes())] }

// isOf tells whether the CRL says that it is issuer's.
func (l *CRL) isOf(issuer *Certificate) bool {
	return bytes.Equal(l.X509.RawIssuer, issuer.X509.RawSubject) && bytes.Equal(l.X509.AuthorityKeyId, issuer.X509.SubjectKeyId)
}

// SignedBy tells whether issuer signed the CRL and may do so.
func (l *CRL) SignedBy(issuer *Certificate) error {
	x, ix := l.X509, issuer.X509
	switch {
	case !l.isOf(issuer):
		return fmt.Errorf("CRL %d: its issuer is not %v", l.Number, issuer)
	case ix.KeyUsage&x509.KeyUsageCRLSign == 0:
		return fmt.Errorf("CRL %d: %v may not sign CRLs", l.Number, issuer)
	case !issuer.PrivateKeyUsage.contains(x.ThisUpdate):
		return fmt.Errorf("CRL %d: issued outside the private key usage period of %v", l.Number, issuer)
	}
	if err := ix.CheckSignature(x.SignatureAlgorithm, x.RawTBSRevocationList, x.Signature); err != nil {
		return fmt.Errorf("signature on CRL %d of %v: %w", l.Number, issuer, err)
	}
	return nil
}
