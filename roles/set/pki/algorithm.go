package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// algorithms are the signature algorithms of the profile; nothing weaker and nothing else is accepted.
var algorithms = []struct {
	x509 x509.SignatureAlgorithm
	hash crypto.Hash
	id   asn1.ObjectIdentifier
	null bool // whether the parameters are NULL rather than absent
}{
	{x509.SHA256WithRSA, crypto.SHA256, oidSHA256WithRSA, true},
	{x509.SHA384WithRSA, crypto.SHA384, oidSHA384WithRSA, true},
	{x509.ECDSAWithSHA256, crypto.SHA256, oidECDSAWithSHA256, false},
	{x509.ECDSAWithSHA384, crypto.SHA384, oidECDSAWithSHA384, false},
}

func checkSignatureAlgorithm(a x509.SignatureAlgorithm) error {
	for _, known := range algorithms {
		if known.x509 == a {
			return nil
		}
	}
	return fmt.Errorf("signature algorithm %v is refused: want SHA-256 or SHA-384 with RSA PKCS#1 v1.5 or ECDSA", a)
}

func signatureAlgorithm(id cms.AlgorithmIdentifier) (x509.SignatureAlgorithm, error) {
	for _, known := range algorithms {
		if known.id.Equal(id.Algorithm) && known.null == bytes.Equal(id.Parameters, asn1.NullBytes) && known.null == (id.Parameters != nil) {
			return known.x509, nil
		}
	}
	return 0, fmt.Errorf("signature algorithm %v is refused: want SHA-256 or SHA-384 with RSA PKCS#1 v1.5 or ECDSA", id.Algorithm)
}

// algorithmOf gives the algorithm that a key signs with: the one its type and size decide.
func algorithmOf(key crypto.PublicKey) (cms.AlgorithmIdentifier, crypto.Hash, error) {
	want := x509.SHA256WithRSA
	if ec, ok := key.(*ecdsa.PublicKey); ok {
		want = x509.ECDSAWithSHA256
		if ec.Curve == elliptic.P384() {
			want = x509.ECDSAWithSHA384
		}
	}
	for _, a := range algorithms {
		if a.x509 == want {
			id := cms.AlgorithmIdentifier{Algorithm: a.id}
			if a.null {
				id.Parameters = der.Raw(asn1.NullBytes)
			}
			return id, a.hash, checkKey(key, Signature)
		}
	}
	return cms.AlgorithmIdentifier{}, 0, errors.New("no signature algorithm")
}

// checkKey refuses keys that are too weak, or that cannot do what they are for.
func checkKey(key crypto.PublicKey, use Use) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < RSABitsMin || n > RSABitsMax {
			return fmt.Errorf("RSA key of %d bits is refused: want %d to %d", n, RSABitsMin, RSABitsMax)
		}
		if k.E < 3 || k.E%2 == 0 || k.N.Bit(0) == 0 {
			return errors.New("malformed RSA key: even modulus, or exponent even or below 3")
		}
		return nil
	case *ecdsa.PublicKey:
		if use == KeyExchange {
			return errors.New("ECDSA key in a key-exchange certificate is refused: want RSA")
		}
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return fmt.Errorf("ECDSA key on curve %s is refused: want P-256 or P-384", k.Curve.Params().Name)
		}
		return nil
	}
	return fmt.Errorf("key of type %T is refused: want RSA, or ECDSA on P-256 or P-384", key)
}

// spkiOf gives the DER SubjectPublicKeyInfo of a key and its identifier: the leftmost 160 bits of
// SHA-256 over the key itself (RFC 7093 §2, method 1).
func spkiOf(key crypto.PublicKey) (spki, keyID []byte, err error) {
	if spki, err = x509.MarshalPKIXPublicKey(key); err != nil {
		return nil, nil, err
	}
	var info struct {
		Algorithm cms.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if err := der.Unmarshal(spki, &info); err != nil {
		return nil, nil, err
	}
	sum := sha256.Sum256(info.Key.Bytes)
	return spki, sum[:20], nil
}

func sameKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
