package pki

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"github.com/setkit/setkit/roles/set/der"
)

const (
	secretSize   = 20 // octets of a PANSecret
	uniqueIDSize = sha256.Size
)

type (
	pan    []byte
	expiry []byte
)

func (pan) DERType() der.Type    { return der.Type{Kind: der.Numeric, Min: 1, Max: 19} }
func (expiry) DERType() der.Type { return der.Type{Kind: der.Numeric, Min: 6, Max: 6} }

// UniqueCardholderID is the common name of a cardholder certificate (SET §6.4): an HMAC of card number
// and expiry (YYYYMM), both ASCII digits, under PANSecret, in 44 characters of base64. Without the
// secret a card number cannot be tested against a certificate.
func UniqueCardholderID(panSecret, cardNumber, cardExpiry []byte) (string, error) {
	if len(panSecret) != secretSize {
		return "", fmt.Errorf("unique cardholder ID: secret has %d octets, want %d", len(panSecret), secretSize)
	}
	data, err := der.Marshal(struct {
		PAN    pan
		Expiry expiry
	}{cardNumber, cardExpiry})
	if err != nil {
		return "", fmt.Errorf("unique cardholder ID: %w", err)
	}
	defer clear(data)
	mac := hmac.New(sha256.New, panSecret)
	mac.Write(data)
	return base64.StdEncoding.EncodeToString(mac.Sum(nil)), nil
}
