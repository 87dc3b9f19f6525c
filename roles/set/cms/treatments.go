package cms

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"

	"github.com/setkit/setkit/roles/set/der"
)

// SignedEncrypted is the pair of content types of Enc and EncK: that of the encryption (…TBE) and that
// of the signature inside (SET §3.5).
type SignedEncrypted struct {
	TBE, TBS asn1.ObjectIdentifier
}

// Enc is SET's Enc(s, r, t): v signed, then encrypted for the certificate.
func Enc(types SignedEncrypted, v any, certs []*x509.Certificate, crls [][]byte, s Signer, to *x509.Certificate) (ContentInfo, error) {
	signed, err := Sign(types.TBS, v, certs, crls, s)
	if err != nil {
		return ContentInfo{}, err
	}
	return Encrypt(to, types.TBE, signed, Plain, nil)
}

// OpenEnc decrypts what Enc made. The signature is still to be verified.
func (r Recipient) OpenEnc(types SignedEncrypted, ci ContentInfo) (*SignedData, error) {
	plaintext, _, err := r.Decrypt(ci, types.TBE, Plain)
	if err != nil {
		return nil, err
	}
	return parseInner(types.TBS, plaintext)
}

// EncBack is SET's EncK(k, s, t): v signed, then encrypted under a back key.
func EncBack(types SignedEncrypted, v any, certs []*x509.Certificate, crls [][]byte, s Signer, backKey []byte) (ContentInfo, error) {
	signed, err := Sign(types.TBS, v, certs, crls, s)
	if err != nil {
		return ContentInfo{}, err
	}
	return EncryptBack(backKey, types.TBE, signed)
}

// OpenEncBack decrypts what EncBack made. The signature is still to be verified.
func OpenEncBack(types SignedEncrypted, ci ContentInfo, backKey []byte) (*SignedData, error) {
	plaintext, err := DecryptBack(backKey, ci, types.TBE)
	if err != nil {
		return nil, err
	}
	return parseInner(types.TBS, plaintext)
}

func parseInner(tbs asn1.ObjectIdentifier, plaintext []byte) (*SignedData, error) {
	var signed ContentInfo
	if err := der.Unmarshal(plaintext, &signed); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return ParseSigned(signed, tbs)
}

// SignedPair is the plaintext of EncX: t in the clear of the envelope, and a signature over t and the
// extra data p together (SET §3.2).
type SignedPair[T any] struct {
	Value     T
	Signature ContentInfo
}

// Pair is what the signature of EncX covers: t and the extra data p, both as DER.
type Pair[T, P any] struct {
	Value T
	Extra P
}

// EncX is SET's EncX(s, r, t, p): t signed together with p, t encrypted for the certificate, and p, packed,
// in the RSA block.
func EncX[T, P any](types SignedEncrypted, t T, p P, packed []byte, bc BlockContents, certs []*x509.Certificate, crls [][]byte, s []Signer, to *x509.Certificate) (ContentInfo, error) {
	signature, err := SignDetached(types.TBS, Pair[T, P]{t, p}, certs, crls, s...)
	if err != nil {
		return ContentInfo{}, err
	}
	return Encrypt(to, types.TBE, SignedPair[T]{t, signature}, bc, packed)
}

// OpenEncX decrypts what EncX made: t, the packed p, and the signature, which is still to be verified
// over Pair{t, p}.
func OpenEncX[T any](r Recipient, types SignedEncrypted, ci ContentInfo, bc BlockContents) (t T, packed []byte, signature *SignedData, err error) {
	plaintext, packed, err := r.Decrypt(ci, types.TBE, bc)
	if err != nil {
		return t, nil, nil, err
	}
	defer clear(plaintext)
	var pair SignedPair[T]
	if err := der.Unmarshal(plaintext, &pair); err != nil {
		clear(packed)
		return t, nil, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if signature, err = ParseSigned(pair.Signature, types.TBS); err != nil {
		clear(packed)
		return t, nil, nil, err
	}
	return pair.Value, packed, signature, nil
}
