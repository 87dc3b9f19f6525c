package bundle

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

// Sign makes the file of a bundle, signed by key, and by the previous key (nil for none) that wallets may
// still know instead. It fills in what follows from these and from the root: Version, Signer, RootKeyHash.
// The file is opened as a wallet opens it before it is given out.
func Sign(b Bundle, root *pki.Certificate, key, previous crypto.Signer) (*Signed, error) {
	raw, err := sign(b, root, key, previous)
	if err != nil {
		return nil, fmt.Errorf("sign wallet bundle %d: %w", b.Sequence, err)
	}
	return Open(raw)
}

func sign(b Bundle, root *pki.Certificate, key, previous crypto.Signer) (raw []byte, err error) {
	if b.Signer, err = Fingerprint(key.Public()); err != nil {
		return nil, err
	}
	b.Version, b.Root, b.RootKeyHash = version, root.X509.Raw, sha256.Sum256(root.X509.RawSubjectPublicKeyInfo)
	b.NotBefore, b.NotAfter = b.NotBefore.UTC().Truncate(time.Second), b.NotAfter.UTC().Truncate(time.Second)
	if _, err := b.check(); err != nil { // before a key is used for it
		return nil, err
	}
	keys := []crypto.Signer{key}
	if previous != nil {
		if other, err := Fingerprint(previous.Public()); err != nil {
			return nil, err
		} else if other == b.Signer {
			return nil, errors.New("the previous key is the present one")
		}
		keys = append(keys, previous)
	}
	var certs []*x509.Certificate
	var signers []cms.Signer
	for _, k := range keys {
		cert, err := certify(&b, k)
		if err != nil {
			return nil, err
		}
		certs, signers = append(certs, cert), append(signers, cms.Signer{Key: k, Certificate: cert})
	}
	ci, err := cms.Sign(set.ContentWalletBundle, b, certs, nil, signers...)
	if err != nil {
		return nil, err
	}
	return der.Marshal(ci)
}

// keyIDSize is how much of a fingerprint identifies a key in a certificate, in octets.
const keyIDSize = 20

// certify makes the self-signed certificate with which a key signs one bundle.
func certify(b *Bundle, key crypto.Signer) (*x509.Certificate, error) {
	id, err := Fingerprint(key.Public())
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: string(b.Bank.Name)}, NotBefore: b.NotBefore, NotAfter: b.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature,
		// They tell the two keys of one bank apart to OpenSSL (RFC 7093 §2, method 4).
		SubjectKeyId: id[:keyIDSize], AuthorityKeyId: id[:keyIDSize],
	}
	raw, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("certificate of the signer: %w", err)
	}
	return x509.ParseCertificate(raw)
}
