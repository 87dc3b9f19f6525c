package piv

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
)

// Data objects of the metadata of a slot (YubiKey).
const (
	tagMetaAlgorithm iso7816.Tag = 0x01
	tagMetaPolicy    iso7816.Tag = 0x02
	tagMetaOrigin    iso7816.Tag = 0x03
	tagMetaPublic    iso7816.Tag = 0x04
	tagMetaDefault   iso7816.Tag = 0x05
	tagMetaRetries   iso7816.Tag = 0x06

	originGenerated = 0x01
)

const exponentBytesMax = 4

// KeyInfo is what is known of a slot's key.
type KeyInfo struct {
	Public    crypto.PublicKey
	Algorithm Algorithm

	// What follows comes from metadata and is zero on cards without.
	PINPolicy       PINPolicy
	TouchPolicy     TouchPolicy
	GeneratedOnCard bool
}

// PublicKey returns the public key of a slot, from the card's metadata or else
// from the certificate that is stored for the slot. The error wraps
// smartcard.StatusNotFound if the slot is empty.
func (tx *Tx) PublicKey(slot Slot) (crypto.PublicKey, error) {
	info, err := tx.KeyInfo(slot)
	return info.Public, err
}

// KeyInfo returns what is known of a slot's key; see PublicKey.
func (tx *Tx) KeyInfo(slot Slot) (KeyInfo, error) {
	parts, err := tx.metadata(byte(slot))
	switch {
	case err == nil:
		return parseKeyInfo(slot, parts)
	case errors.Is(err, smartcard.StatusNoReference):
		return KeyInfo{}, fmt.Errorf("piv: no key in slot %v: %w", slot, smartcard.StatusNotFound)
	case !lacksInstruction(err):
		return KeyInfo{}, err
	}
	cert, err := tx.Certificate(slot)
	if err != nil {
		return KeyInfo{}, err
	}
	a, err := AlgorithmOf(cert.PublicKey)
	if err != nil {
		return KeyInfo{}, fmt.Errorf("slot %v: %w", slot, err)
	}
	return KeyInfo{Public: cert.PublicKey, Algorithm: a}, nil
}

// metadata reads what the card tells of a key reference.
func (tx *Tx) metadata(reference byte) ([]iso7816.TLV, error) {
	data, err := tx.command(fmt.Sprintf("metadata of %02x", reference), iso7816.Command{INS: insMetadata, P2: reference, Ne: neAll})
	if err != nil {
		return nil, err
	}
	parts, err := iso7816.ParseTLVs(data)
	if err != nil {
		return nil, fmt.Errorf("piv: metadata of %02x: %w", reference, err)
	}
	return parts, nil
}

func parseKeyInfo(slot Slot, parts []iso7816.TLV) (KeyInfo, error) {
	var info KeyInfo
	if a, ok := iso7816.Find(parts, tagMetaAlgorithm); ok && len(a) == 1 {
		info.Algorithm = Algorithm(a[0])
	}
	if p, ok := iso7816.Find(parts, tagMetaPolicy); ok && len(p) == 2 {
		info.PINPolicy, info.TouchPolicy = PINPolicy(p[0]), TouchPolicy(p[1])
	}
	if o, ok := iso7816.Find(parts, tagMetaOrigin); ok && len(o) == 1 {
		info.GeneratedOnCard = o[0] == originGenerated
	}
	encoded, _ := iso7816.Find(parts, tagMetaPublic)
	var err error
	if info.Public, err = parsePublicKey(info.Algorithm, encoded); err != nil {
		return KeyInfo{}, fmt.Errorf("piv: public key of slot %v: %w", slot, err)
	}
	return info, nil
}

// parsePublicKey reads 81 modulus, 82 exponent, or 86 point: SP 800-73-4 part 2,
// table 11.
func parsePublicKey(a Algorithm, encoded []byte) (crypto.PublicKey, error) {
	parts, err := iso7816.ParseTLVs(encoded)
	if err != nil {
		return nil, err
	}
	var public crypto.PublicKey
	switch a {
	case RSA2048, RSA3072, RSA4096:
		modulus, _ := iso7816.Find(parts, 0x81)
		exponent, _ := iso7816.Find(parts, 0x82)
		public, err = parseRSA(modulus, exponent)
	case ECDSAP256:
		point, _ := iso7816.Find(parts, 0x86)
		public, err = ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	case ECDSAP384:
		point, _ := iso7816.Find(parts, 0x86)
		public, err = ecdsa.ParseUncompressedPublicKey(elliptic.P384(), point)
	case Ed25519:
		point, _ := iso7816.Find(parts, 0x86)
		public = ed25519.PublicKey(bytes.Clone(point))
	case X25519:
		point, _ := iso7816.Find(parts, 0x86)
		public, err = ecdh.X25519().NewPublicKey(point)
	default:
		return nil, fmt.Errorf("%v is not supported", a)
	}
	if err != nil {
		return nil, err
	}
	if got, err := AlgorithmOf(public); err != nil || got != a {
		return nil, fmt.Errorf("the key is not %v: %w", a, iso7816.ErrMalformed)
	}
	return public, nil
}

func parseRSA(modulus, exponent []byte) (*rsa.PublicKey, error) {
	if len(exponent) == 0 || len(exponent) > exponentBytesMax {
		return nil, fmt.Errorf("RSA exponent of %d bytes: %w", len(exponent), iso7816.ErrMalformed)
	}
	e := new(big.Int).SetBytes(exponent).Int64()
	if e < 3 || e > 1<<31-1 || e%2 == 0 {
		return nil, fmt.Errorf("RSA exponent %d: %w", e, iso7816.ErrMalformed)
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: int(e)}, nil
}
