package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/setkit/setkit/roles/set/der"
)

// BrandCRLIdentifier (BCI) names the CRLs of a brand that are current (SET §6.6). The brand CA signs
// it. It is not changed once made.
type BrandCRLIdentifier struct {
	Raw      []byte // its DER, as messages carry it
	Sequence int64
	Brand    string
	Validity Period
	CRLs     []CRLID

	authority []byte // key identifier of the signer
	rawTBS    []byte
	algorithm x509.SignatureAlgorithm
	signature []byte
}

// CRLID names one CRL.
type CRLID struct {
	RawIssuer []byte // DER Name
	Number    int64
}

// BCITemplate says what to put into a BrandCRLIdentifier. Sequence must exceed that of the one before.
type BCITemplate struct {
	Sequence int64
	Validity Period
	CRLs     []*CRL
}

type unsignedBCI struct {
	Version    int64
	Sequence   int64
	Brand      brandID
	NotBefore  time.Time
	NotAfter   time.Time
	CRLs       []crlIdentifier `der:"[0] opt size=0..512"`
	Extensions []extension     `der:"[1] opt size=1..8"`
}

type crlIdentifier struct {
	Issuer der.Raw
	Number int64
}

type brandID string

func (brandID) DERType() der.Type { return der.Type{Kind: der.SETString, Min: 1, Max: brandSizeMax} }

const versionBCI = 0

// IssueBCI makes the BrandCRLIdentifier of issuer's brand with issuer's key, parses it and checks its
// signature.
func IssueBCI(rand io.Reader, t BCITemplate, issuer *Certificate, key crypto.Signer) (*BrandCRLIdentifier, error) {
	b, err := issueBCI(rand, t, issuer, key)
	if err != nil {
		return nil, fmt.Errorf("issue BrandCRLIdentifier %d: %w", t.Sequence, err)
	}
	return b, nil
}

func issueBCI(rand io.Reader, t BCITemplate, issuer *Certificate, key crypto.Signer) (*BrandCRLIdentifier, error) {
	if err := checkListSigner(issuer, key, t.Validity.NotBefore); err != nil {
		return nil, err
	}
	authority, err := der.Marshal(authorityKeyID{issuer.X509.SubjectKeyId})
	if err != nil {
		return nil, err
	}
	u := unsignedBCI{
		Version: versionBCI, Sequence: t.Sequence, Brand: brandID(issuer.Brand()),
		NotBefore: t.Validity.NotBefore, NotAfter: t.Validity.NotAfter,
		Extensions: []extension{{ID: oidAuthorityKeyID, Value: authority}},
	}
	for _, l := range t.CRLs {
		u.CRLs = append(u.CRLs, crlIdentifier{l.X509.RawIssuer, l.Number})
	}
	tbs, err := der.Marshal(u)
	if err != nil {
		return nil, err
	}
	algorithm, hash, err := algorithmOf(issuer.X509.PublicKey)
	if err != nil {
		return nil, err
	}
	signature, err := crypto.SignMessage(key, rand, tbs, hash)
	if err != nil {
		return nil, err
	}
	raw, err := der.Marshal(signed{tbs, algorithm, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
	if err != nil {
		return nil, err
	}
	b, err := parseBCI(raw)
	if err != nil {
		return nil, err
	}
	return b, b.SignedBy(issuer)
}

// ParseBCI decodes a BrandCRLIdentifier strictly. It checks neither signature nor dates: that is for a
// Verifier.
func ParseBCI(raw []byte) (*BrandCRLIdentifier, error) {
	b, err := parseBCI(raw)
	if err != nil {
		return nil, fmt.Errorf("BrandCRLIdentifier: %w", err)
	}
	return b, nil
}

func parseBCI(raw []byte) (*BrandCRLIdentifier, error) {
	if len(raw) > BCISizeMax {
		return nil, fmt.Errorf("%d octets, at most %d are allowed", len(raw), BCISizeMax)
	}
	var outer signed
	var u unsignedBCI
	if err := der.Unmarshal(raw, &outer); err != nil {
		return nil, err
	}
	if err := der.Unmarshal(outer.TBS, &u); err != nil {
		return nil, err
	}
	b := &BrandCRLIdentifier{
		Raw: bytes.Clone(raw), Sequence: u.Sequence, Brand: string(u.Brand),
		Validity: Period{u.NotBefore, u.NotAfter}, rawTBS: outer.TBS, signature: outer.Signature.Bytes,
	}
	switch {
	case u.Version != versionBCI:
		return nil, fmt.Errorf("version %d, want %d", u.Version, versionBCI)
	case u.Sequence < 0:
		return nil, errors.New("negative sequence number")
	case u.NotAfter.Before(u.NotBefore):
		return nil, errors.New("validity ends before it starts")
	case outer.Signature.BitLength%8 != 0:
		return nil, errors.New("signature is not whole octets")
	case !isDisplayable(b.Brand):
		return nil, errors.New("brand has a character that cannot be displayed")
	}
	for i, id := range u.CRLs {
		if _, err := parseName(id.Issuer); err != nil {
			return nil, fmt.Errorf("CRL %d: %w", i, err)
		}
		if _, twice := b.number(id.Issuer); twice || id.Number < 0 {
			return nil, fmt.Errorf("CRL %d: issuer named twice, or negative number", i)
		}
		b.CRLs = append(b.CRLs, CRLID{id.Issuer, id.Number})
	}
	if err := b.takeExtensions(u.Extensions); err != nil {
		return nil, err
	}
	var err error
	b.algorithm, err = signatureAlgorithm(outer.Algorithm)
	return b, err
}

func (b *BrandCRLIdentifier) takeExtensions(list []extension) error {
	for _, e := range list {
		switch {
		case e.Critical:
			return fmt.Errorf("unknown critical extension %v", e.ID)
		case e.ID.Equal(oidAuthorityKeyID):
			var id authorityKeyID
			if b.authority != nil {
				return errors.New("authorityKeyIdentifier twice")
			}
			if err := der.Unmarshal(e.Value, &id); err != nil {
				return fmt.Errorf("authorityKeyIdentifier: %w", err)
			}
			b.authority = id.KeyID
		}
	}
	if b.authority == nil {
		return errors.New("no extension authorityKeyIdentifier")
	}
	return nil
}

// number gives the number of the issuer's current CRL, if the BCI names one.
func (b *BrandCRLIdentifier) number(rawIssuer []byte) (int64, bool) {
	for _, id := range b.CRLs {
		if bytes.Equal(id.RawIssuer, rawIssuer) {
			return id.Number, true
		}
	}
	return 0, false
}

// SignedBy tells whether issuer signed the BCI and may do so: a brand CA, of the same brand.
func (b *BrandCRLIdentifier) SignedBy(issuer *Certificate) error {
	x := issuer.X509
	switch {
	case !bytes.Equal(b.authority, x.SubjectKeyId):
		return fmt.Errorf("BrandCRLIdentifier %d: its signer is not %v", b.Sequence, issuer)
	case issuer.Type != BCA || x.KeyUsage&x509.KeyUsageCRLSign == 0:
		return fmt.Errorf("BrandCRLIdentifier %d: %v may not sign it", b.Sequence, issuer)
	case !strings.EqualFold(b.Brand, issuer.Brand()):
		return fmt.Errorf("BrandCRLIdentifier %d: of brand %q, but signed for brand %q", b.Sequence, b.Brand, issuer.Brand())
	case !issuer.PrivateKeyUsage.contains(b.Validity.NotBefore):
		return fmt.Errorf("BrandCRLIdentifier %d: issued outside the private key usage period of %v", b.Sequence, issuer)
	}
	if err := x.CheckSignature(b.algorithm, b.rawTBS, b.signature); err != nil {
		return fmt.Errorf("signature on BrandCRLIdentifier %d: %w", b.Sequence, err)
	}
	return nil
}
