package ceremony

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
)

// Token is where keys are made and stay.
type Token interface {
	// Info tells the token from every other.
	Info() TokenInfo
	// Keys describes the private and secret keys that the token holds.
	Keys(ctx context.Context) ([]KeyInfo, error)
	// Generate makes a key that can do what its purpose needs and nothing else, and that cannot leave.
	// It reads back what it made.
	Generate(ctx context.Context, label string, purpose Purpose, typ KeyType) (KeyInfo, error)
	// Signer gives the use of a key made for signing.
	Signer(ctx context.Context, label string) (crypto.Signer, error)
	Close() error
}

// TokenInfo is what a token says of itself.
type TokenInfo struct {
	Label        string `json:"label"`
	Serial       string `json:"serial"`
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
}

// KeyInfo is a key as its token reports it.
type KeyInfo struct {
	Label            string   `json:"label"`
	ID               string   `json:"id"` // hexadecimal
	Type             KeyType  `json:"type"`
	Purpose          Purpose  `json:"purpose"`
	Usages           []string `json:"usages"`
	Private          bool     `json:"private"`
	Sensitive        bool     `json:"sensitive"`
	Extractable      bool     `json:"extractable"`
	AlwaysSensitive  bool     `json:"always_sensitive"`
	NeverExtractable bool     `json:"never_extractable"`
	Local            bool     `json:"local"` // generated inside the token
	Modifiable       bool     `json:"modifiable"`
	SPKI             []byte   `json:"spki,omitempty"` // DER SubjectPublicKeyInfo of a key pair
}

// KeyType is the algorithm and size of a key.
type KeyType string

// The types of keys in a ceremony.
const (
	RSA2048    KeyType = "rsa-2048"
	RSA3072    KeyType = "rsa-3072"
	RSA4096    KeyType = "rsa-4096"
	ECP256     KeyType = "ec-p256"
	ECP384     KeyType = "ec-p384"
	HMACSHA256 KeyType = "hmac-sha256"
)

// Purpose is what a token must let a key do, and nothing else.
type Purpose string

// The purposes of keys.
const (
	CertSign    Purpose = "cert-sign"
	Sign        Purpose = "sign"
	KeyExchange Purpose = "key-exchange"
	MAC         Purpose = "mac"
)

// keyTypes are the types that a key of each purpose can have.
var keyTypes = map[Purpose][]KeyType{
	CertSign:    {ECP256, ECP384, RSA2048, RSA3072, RSA4096},
	Sign:        {ECP256, ECP384, RSA2048, RSA3072, RSA4096},
	KeyExchange: {RSA2048, RSA3072, RSA4096},
	MAC:         {HMACSHA256},
}

// signs tells whether a key of this purpose signs anything.
func (p Purpose) signs() bool { return p == CertSign || p == Sign }

// check holds a key against what the plan wants, and gives the public half of a pair.
func (k KeyInfo) check(st *step) (crypto.PublicKey, error) {
	switch {
	case k.Label != st.label():
		return nil, fmt.Errorf("the token shows the key %q", k.Label)
	case k.Type != st.Type:
		return nil, fmt.Errorf("the token has a key of type %q, want %s", k.Type, st.Type)
	case k.Purpose != st.Purpose:
		return nil, fmt.Errorf("the token has a key for %q, with the usages %v, want one for %s", k.Purpose, k.Usages, st.Purpose)
	case !k.Private || !k.Sensitive || !k.AlwaysSensitive || k.Extractable || !k.NeverExtractable:
		return nil, errors.New("the key can leave the token, or could: want private, sensitive and never extractable")
	case !k.Local:
		return nil, errors.New("the key was not generated inside the token")
	}
	if st.Purpose == MAC {
		return nil, nil
	}
	return k.public(st.Type)
}

// public reads the public half and holds its type and size against what the token says they are.
func (k KeyInfo) public(want KeyType) (crypto.PublicKey, error) {
	pub, err := x509.ParsePKIXPublicKey(k.SPKI)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	if again, err := x509.MarshalPKIXPublicKey(pub); err != nil || !bytes.Equal(again, k.SPKI) {
		return nil, errors.New("public key not in its distinguished encoding")
	}
	if rsaKey, ok := pub.(*rsa.PublicKey); ok && rsaKey.E != 65537 {
		return nil, fmt.Errorf("RSA key with exponent %d, want 65537", rsaKey.E)
	}
	if got := typeOf(pub); got != want {
		return nil, fmt.Errorf("the token has a key of %s, want %s", got, want)
	}
	return pub, nil
}

func typeOf(pub crypto.PublicKey) KeyType {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return KeyType(fmt.Sprintf("rsa-%d", k.N.BitLen()))
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return ECP256
		case elliptic.P384():
			return ECP384
		}
	}
	return "another type"
}

func same(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// matchKey holds what a token reports of a key against the step that makes or uses it, and gives the
// public half of a pair.
func (s *state) matchKey(st *step, info KeyInfo) (crypto.PublicKey, error) {
	pub, err := info.check(st)
	if err != nil {
		return nil, err
	}
	if c := s.certs[st.Certificate]; c != nil && !same(pub, c.X509.PublicKey) {
		return nil, fmt.Errorf("%s certifies another key", st.Certificate)
	}
	return pub, nil
}

// takeKey takes what a token reports of a key.
func (s *state) takeKey(st *step, info KeyInfo) error {
	pub, err := s.matchKey(st, info)
	if err != nil || pub == nil {
		return err
	}
	for id, other := range s.keys {
		if same(pub, other) {
			return fmt.Errorf("the token shows the same key as for %s", id)
		}
	}
	s.keys[st.name] = pub
	return nil
}
