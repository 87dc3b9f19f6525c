// Package ceremonytest has tokens in memory, for tests that hold a ceremony where no HSM is.
package ceremonytest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"github.com/setkit/setkit/roles/ca/ceremony"
)

// Token is a token in memory. Its keys are anything but safe.
type Token struct {
	// TokenInfo is what the token says of itself.
	TokenInfo ceremony.TokenInfo
	// Private are the key pairs by label, *ecdsa.PrivateKey or *rsa.PrivateKey.
	Private map[string]crypto.Signer
	// Spoil, if set, may change what the token reports of a new key, or have its making fail.
	Spoil func(*ceremony.KeyInfo) error

	infos []ceremony.KeyInfo
}

// New makes an empty token with a serial number of its own.
func New(label string) *Token {
	info := ceremony.TokenInfo{Label: label, Serial: strings.ToLower(rand.Text()[:16]), Manufacturer: "ceremonytest", Model: "memory"}
	return &Token{TokenInfo: info, Private: make(map[string]crypto.Signer)}
}

// Info describes the token.
func (t *Token) Info() ceremony.TokenInfo { return t.TokenInfo }

// Close does nothing.
func (t *Token) Close() error { return nil }

// Keys lists what Generate made.
func (t *Token) Keys(context.Context) ([]ceremony.KeyInfo, error) { return slices.Clone(t.infos), nil }

// Signer gives a key that Generate made.
func (t *Token) Signer(_ context.Context, label string) (crypto.Signer, error) {
	key, ok := t.Private[label]
	if !ok {
		return nil, fmt.Errorf("no key %q", label)
	}
	return key, nil
}

// Generate makes a key. A MAC key is in name only.
func (t *Token) Generate(_ context.Context, label string, purpose ceremony.Purpose, typ ceremony.KeyType) (info ceremony.KeyInfo, err error) {
	info = ceremony.KeyInfo{
		Label: label, ID: fmt.Sprintf("%04x", len(t.infos)+1), Type: typ, Purpose: purpose, Usages: []string{"sign"},
		Private: true, Sensitive: true, AlwaysSensitive: true, NeverExtractable: true, Local: true,
	}
	var key crypto.Signer
	switch typ {
	case ceremony.HMACSHA256:
	case ceremony.ECP256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ceremony.ECP384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case ceremony.RSA2048:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		err = fmt.Errorf("no keys of type %s", typ)
	}
	if err != nil {
		return info, err
	}
	if key != nil {
		if info.SPKI, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
			return info, err
		}
		t.Private[label] = key
	}
	if t.Spoil != nil {
		if err := t.Spoil(&info); err != nil {
			return info, err
		}
	}
	t.infos = append(t.infos, info)
	return info, nil
}
