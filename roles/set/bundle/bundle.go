// Package bundle is the file that makes a wallet the wallet of a bank: who the bank is, which card brands
// it issues and where their cardholder CAs are, the root certificate that everything else is verified
// with, and the bank's policy. A person gets it by download or on a physical medium, and the same file
// serves both: what is to be believed in it depends on its signature alone.
//
// # Form
//
// A file is a CMS SignedData in DER, of at most SizeMax octets, whose content (set.ContentWalletBundle) is
//
//	WalletBundle ::= SEQUENCE {
//	    version      INTEGER (1),
//	    sequence     INTEGER (1..MAX),
//	    notBefore    GeneralizedTime,
//	    notAfter     GeneralizedTime,
//	    signer       OCTET STRING (SIZE(32)),            -- SHA-256 of the signer's SubjectPublicKeyInfo
//	    bank         SEQUENCE { name SETString{50}, logo [0] OCTET STRING OPTIONAL },
//	    brands       SEQUENCE SIZE(1..8) OF SEQUENCE { brand BrandID, ca URL, logo [0] OCTET STRING OPTIONAL },
//	    rootKeyHash  OCTET STRING (SIZE(32)),            -- SHA-256 of the root's SubjectPublicKeyInfo
//	    root         Certificate,
//	    policies     SEQUENCE SIZE(1..8) OF SEQUENCE { language Language, text SETString{20000} },
//	    programs [0] SEQUENCE SIZE(1..16) OF SEQUENCE { platform, version, digest } OPTIONAL }
//
// Text is in one line and printable, but for line breaks in policies. A logo is a PNG image and nothing
// beside it: no metadata, and no other format, because some of them run scripts in a browser.
//
// # Whom to believe
//
// SET certifies no key of a card issuer's, and a certificate of the brand's hierarchy would prove nothing
// here: the root by which it would be verified is what the file brings. So the signer's certificate is
// self-signed, made anew for each file, and what counts in it is the key. The first time, a person
// compares the key's fingerprint with the letter from the bank. From then on the wallet takes the bank's
// files under that key only, each with a higher sequence number than the one before.
//
// A bank that changes its key has its files signed by both for as long as wallets may know only the old
// one: the content names the new key as its signer, so that the old key's signature hands over to it.
// A signature that is missing beside the signer's own is no harm, and any beside these two is refused.
package bundle

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

// Limits of a bundle.
const (
	SizeMax       = 1 << 20   // octets of a file
	LogoSizeMax   = 128 << 10 // octets of a logo
	LogoPixelsMax = 1024      // width and height of a logo
)

// MediaType is the media type of a file (RFC 7193), and Extension how its name ends.
const (
	MediaType = "application/cms"
	Extension = ".setwallet"
)

// version is the only version of the content.
const version = 1

// Bundle is what a bank says to the wallets of its cardholders: the content of a file, in wire order.
type Bundle struct {
	Version     int64
	Sequence    set.Positive // grows with every bundle of the bank
	NotBefore   time.Time    // the bundle is to be installed and enrolled with from then
	NotAfter    time.Time    // until then
	Signer      pki.Digest   // fingerprint of the key that signs, this bundle and those to come
	Bank        Bank
	Brands      []Brand    `der:"size=1..8"`
	RootKeyHash pki.Digest // SHA-256 over the root's SubjectPublicKeyInfo, the value of SET's hashedRootKey
	Root        der.Raw    // the root certificate
	Policies    []Policy   `der:"size=1..8"`          // of the bank; the first one's language is the bank's own
	Programs    []Program  `der:"[0] opt size=1..16"` // wallet programs that the bank gave out with the bundle
}

// Bank is the card issuer.
type Bank struct {
	Name set.Text50
	Logo Logo `der:"[0] opt"`
}

// Brand is a card brand that the bank issues.
type Brand struct {
	ID   set.BrandID
	CA   set.URL // of the cardholder CA
	Logo Logo    `der:"[0] opt"`
}

// Policy is the bank's policy for wallets in one language, to be shown before the bundle is trusted.
type Policy struct {
	Language set.Language
	Text     set.PolicyText
}

// Program tells a wallet program from all others. It can be checked before the program is run, and by
// an older one; what a program says of itself proves nothing.
type Program struct {
	Platform Platform
	Version  set.Text50
	Digest   pki.Digest // SHA-256 of the file
}

// Platform is an operating system and a processor, as linux/amd64.
type Platform string

// DERType gives the bounds of a Platform.
func (Platform) DERType() der.Type { return der.Type{Kind: der.Visible, Min: 3, Max: 40} }

// Logo is a PNG image.
type Logo []byte

// DERType gives the bounds of a Logo.
func (Logo) DERType() der.Type { return der.Type{Kind: der.Octets, Min: 1, Max: LogoSizeMax} }

// Signed is a bundle whose signatures verify under the keys that it names. Whose keys these are it
// cannot tell, nor is its validity held against a clock.
type Signed struct {
	Bundle
	Raw      []byte            // the file
	RootCert *pki.Certificate  // Root, decoded
	Cert     *x509.Certificate // the signer's, self-signed
	Endorser *x509.Certificate // of the key that hands over to Signer; nil when there is none

	content []byte
}

// Same tells whether two files say the same. The files themselves may differ in their signatures.
func (s *Signed) Same(other *Signed) bool { return bytes.Equal(s.content, other.content) }

// SignedBy tells whether the key with the fingerprint signed the bundle, as its signer or as the key
// that hands over to it.
func (s *Signed) SignedBy(fingerprint pki.Digest) bool {
	return s.Signer == fingerprint || s.Endorser != nil && sha256.Sum256(s.Endorser.RawSubjectPublicKeyInfo) == fingerprint
}

// CheckTime refuses a bundle that is not valid at the given time.
func (s *Signed) CheckTime(at time.Time) error {
	switch {
	case at.Before(s.NotBefore):
		return fmt.Errorf("wallet bundle %d of %s is valid from %s only: is the clock right?", s.Sequence, s.Bank.Name, date(s.NotBefore))
	case at.After(s.NotAfter):
		return fmt.Errorf("wallet bundle %d of %s has expired on %s: get the bank's new one", s.Sequence, s.Bank.Name, date(s.NotAfter))
	}
	return nil
}

func date(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// ParseFingerprint reads a fingerprint as a person types it from a letter: hexadecimal digits in any groups.
func ParseFingerprint(text string) (d pki.Digest, err error) {
	return d, d.UnmarshalText([]byte(strings.NewReplacer(" ", "", ":", "").Replace(text)))
}

// Fingerprint is what names a signature key: SHA-256 over its SubjectPublicKeyInfo.
func Fingerprint(key crypto.PublicKey) (pki.Digest, error) {
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return pki.Digest{}, err
	}
	return sha256.Sum256(spki), nil
}
