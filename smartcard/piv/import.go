package piv

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"

	"github.com/setkit/setkit/smartcard/iso7816"
)

// publicExponent is the only one with which cards take RSA keys.
const publicExponent = 65537

// Import stores a private key in a slot, in place of what is there (YubiKey; on
// other cards it fails with ErrUnsupported). It is for an issuer that has to
// keep a copy, of a key that opens a vault: a key that signs had better be
// generated on the card. Authenticate comes first.
func (tx *Tx) Import(slot Slot, private crypto.PrivateKey, policy PINPolicy) error {
	a, body, err := encodePrivateKey(private)
	if err != nil {
		return err
	}
	defer clear(body[:cap(body)])
	if policy != PINPolicyDefault {
		body = iso7816.AppendTLV(body, tagPINPolicy, []byte{byte(policy)})
	}
	_, err = tx.command(fmt.Sprintf("import a key into slot %v", slot), iso7816.Command{
		INS: insImport, P1: byte(a), P2: byte(slot), Data: body,
	})
	return orUnsupported(err)
}

// importBytesMax is room for the largest key, RSA-4096: five numbers of 256
// bytes, so that appending leaves no copies behind.
const importBytesMax = 5*(4+256) + 16

// encodePrivateKey gives 01 p, 02 q, 03 dP, 04 dQ, 05 qInv, or 06 to 08 with the
// secret of one curve or another.
func encodePrivateKey(private crypto.PrivateKey) (Algorithm, []byte, error) {
	body := make([]byte, 0, importBytesMax)
	switch k := private.(type) {
	case *rsa.PrivateKey:
		a, err := AlgorithmOf(&k.PublicKey)
		if err != nil {
			return 0, nil, err
		}
		if len(k.Primes) != 2 || k.E != publicExponent {
			return 0, nil, errors.New("piv: cards take RSA keys of two primes and the exponent 65537")
		}
		k.Precompute()
		half := make([]byte, k.Size()/2)
		defer clear(half)
		for i, n := range []*big.Int{k.Primes[0], k.Primes[1], k.Precomputed.Dp, k.Precomputed.Dq, k.Precomputed.Qinv} {
			if n.BitLen() > 8*len(half) {
				return 0, nil, errors.New("piv: cards take RSA keys whose primes are of equal length")
			}
			body = iso7816.AppendTLV(body, iso7816.Tag(i+1), n.FillBytes(half))
		}
		return a, body, nil
	case *ecdsa.PrivateKey:
		return encodeScalar(&k.PublicKey, k.Bytes, body, 0x06)
	case ed25519.PrivateKey:
		return encodeScalar(k.Public(), func() ([]byte, error) { return k.Seed(), nil }, body, 0x07)
	case *ecdh.PrivateKey:
		tag := iso7816.Tag(0x06)
		if k.Curve() == ecdh.X25519() {
			tag = 0x08
		}
		return encodeScalar(k.PublicKey(), func() ([]byte, error) { return k.Bytes(), nil }, body, tag)
	}
	return 0, nil, fmt.Errorf("piv: private key of type %T", private)
}

func encodeScalar(public crypto.PublicKey, secret func() ([]byte, error), body []byte, tag iso7816.Tag) (Algorithm, []byte, error) {
	a, err := AlgorithmOf(public)
	if err != nil {
		return 0, nil, err
	}
	scalar, err := secret()
	if err != nil {
		return 0, nil, fmt.Errorf("piv: private key: %w", err)
	}
	defer clear(scalar)
	return a, iso7816.AppendTLV(body, tag, scalar), nil
}
