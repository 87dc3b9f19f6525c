package pki

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/setkit/setkit/roles/set/cms"
)

// Digest is a SHA-256 digest.
type Digest [sha256.Size]byte

// String is the digest in hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText gives the digest in hexadecimal.
func (d Digest) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, d[:]), nil }

// UnmarshalText reads what MarshalText gives.
func (d *Digest) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(d)) {
		return fmt.Errorf("digest of %d characters, want %d hexadecimal digits", len(text), hex.EncodedLen(len(d)))
	}
	if _, err := hex.Decode(d[:], text); err != nil {
		return fmt.Errorf("digest: %w", err)
	}
	return nil
}

// CertThumb names one certificate by its thumbprint (SET §2.8).
type CertThumb struct {
	DigestAlgorithm cms.AlgorithmIdentifier
	Thumbprint      Digest
}

// Thumbs tells a peer which certificates, CRLs and BrandCRLIdentifiers need not be sent (SET §2.8).
type Thumbs struct {
	DigestAlgorithm  cms.AlgorithmIdentifier
	CertThumbs       []Digest `der:"[0]e opt size=0..256"`
	CRLThumbs        []Digest `der:"[1]e opt size=0..256"`
	BrandCRLIDThumbs []Digest `der:"[2]e opt size=0..256"`
}

// NewThumbs gives the thumbprints of what a party holds.
func NewThumbs(certs []*Certificate, crls []*CRL, bcis []*BrandCRLIdentifier) Thumbs {
	t := Thumbs{DigestAlgorithm: cms.SHA256()}
	for _, c := range certs {
		t.CertThumbs = append(t.CertThumbs, c.Thumbprint())
	}
	for _, l := range crls {
		t.CRLThumbs = append(t.CRLThumbs, l.Thumbprint())
	}
	for _, b := range bcis {
		t.BrandCRLIDThumbs = append(t.BrandCRLIDThumbs, b.Thumbprint())
	}
	return t
}

// HasCert tells whether the sender of the thumbs holds the certificate; a nil t holds nothing.
func (t *Thumbs) HasCert(c *Certificate) bool {
	return t != nil && t.sha256() && slices.Contains(t.CertThumbs, c.Thumbprint())
}

// HasCRL tells whether the sender of the thumbs holds the CRL; a nil t holds nothing.
func (t *Thumbs) HasCRL(l *CRL) bool {
	return t != nil && t.sha256() && slices.Contains(t.CRLThumbs, l.Thumbprint())
}

// HasBCI tells whether the sender of the thumbs holds the BrandCRLIdentifier; a nil t holds nothing.
func (t *Thumbs) HasBCI(b *BrandCRLIdentifier) bool {
	return t != nil && t.sha256() && slices.Contains(t.BrandCRLIDThumbs, b.Thumbprint())
}

// sha256 is false for thumbs under another digest, which fit nothing of ours.
func (t *Thumbs) sha256() bool {
	return t.DigestAlgorithm.Algorithm.Equal(cms.SHA256().Algorithm)
}

// Thumbprint is the digest of the part that the issuer signed.
func (c *Certificate) Thumbprint() Digest { return sha256.Sum256(c.X509.RawTBSCertificate) }

// CertThumb is the thumbprint as messages carry it.
func (c *Certificate) CertThumb() CertThumb { return CertThumb{cms.SHA256(), c.Thumbprint()} }

// Thumbprint is the digest of the part that the issuer signed.
func (l *CRL) Thumbprint() Digest { return sha256.Sum256(l.X509.RawTBSRevocationList) }

// Thumbprint is the digest of the part that the issuer signed.
func (b *BrandCRLIdentifier) Thumbprint() Digest { return sha256.Sum256(b.rawTBS) }
