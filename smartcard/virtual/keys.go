package virtual

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"math/big"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
)

// Algorithms of NIST SP 800-78-4.
const (
	algRSA2048 = 0x07
	algECP256  = 0x11
	algECP384  = 0x14
)

// PIN and touch policies of the YubiKey. There is nobody to touch this card:
// it records the policy and doesn't wait.
const (
	policyDefault = 0x00
	policyNever   = 0x01
	policyOnce    = 0x02
	policyAlways  = 0x03
)

const originGenerated = 0x01

// Key references.
const (
	slotAuthentication = 0x9A
	slotManagement     = 0x9B
	slotSignature      = 0x9C
	slotKeyManagement  = 0x9D
	slotCardAuth       = 0x9E
	slotRetiredFirst   = 0x82
	slotRetiredLast    = 0x95
)

// Data objects inside GENERAL AUTHENTICATE's 7C.
const (
	tagTemplate  iso7816.Tag = 0x7C
	tagWitness   iso7816.Tag = 0x80
	tagChallenge iso7816.Tag = 0x81
	tagResponse  iso7816.Tag = 0x82
	tagExponent  iso7816.Tag = 0x85
)

// A key is the private key of a slot.
type key struct {
	algorithm byte
	pinPolicy byte
	touch     byte
	rsa       *rsa.PrivateKey
	ec        *ecdsa.PrivateKey
}

func keySlot(slot byte) bool {
	switch slot {
	case slotAuthentication, slotSignature, slotKeyManagement, slotCardAuth:
		return true
	}
	return slot >= slotRetiredFirst && slot <= slotRetiredLast
}

func defaultPINPolicy(slot byte) byte {
	switch slot {
	case slotSignature:
		return policyAlways
	case slotCardAuth:
		return policyNever
	default:
		return policyOnce
	}
}

// generate makes a key pair in a slot and returns the public key.
func (c *Card) generate(cmd iso7816.Command) ([]byte, smartcard.Status) {
	if cmd.P1 != 0x00 || !keySlot(cmd.P2) {
		return nil, smartcard.StatusWrongParameters
	}
	if !c.state.authenticated {
		return nil, smartcard.StatusSecurity
	}
	k, ok := parseGenerate(cmd)
	if !ok {
		return nil, smartcard.StatusWrongData
	}
	var err error
	switch k.algorithm {
	case algRSA2048:
		k.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	case algECP256:
		k.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case algECP384:
		k.ec, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	default:
		return nil, smartcard.StatusWrongData
	}
	if err != nil {
		return nil, smartcard.StatusUnknown
	}
	c.keys[cmd.P2] = k
	return iso7816.AppendTLV(nil, 0x7F49, k.public()), smartcard.StatusOK
}

// parseGenerate reads AC { 80 algorithm, AA PIN policy, AB touch policy }.
func parseGenerate(cmd iso7816.Command) (*key, bool) {
	body, err := iso7816.ParseTLV(cmd.Data, 0xAC)
	if err != nil {
		return nil, false
	}
	parts, err := iso7816.ParseTLVs(body)
	if err != nil {
		return nil, false
	}
	k := &key{}
	for _, p := range parts {
		if len(p.Value) != 1 {
			return nil, false
		}
		switch p.Tag {
		case 0x80:
			k.algorithm = p.Value[0]
		case 0xAA:
			k.pinPolicy = p.Value[0]
		case 0xAB:
			k.touch = p.Value[0]
		default:
			return nil, false
		}
	}
	if k.pinPolicy == policyDefault {
		k.pinPolicy = defaultPINPolicy(cmd.P2)
	}
	if k.touch == policyDefault {
		k.touch = policyNever
	}
	return k, k.pinPolicy <= policyAlways && k.touch <= policyAlways
}

// public encodes the public key as the inside of 7F49.
func (k *key) public() []byte {
	if k.rsa != nil {
		var e [4]byte
		binary.BigEndian.PutUint32(e[:], uint32(k.rsa.E))
		b := iso7816.AppendTLV(nil, 0x81, k.rsa.N.FillBytes(make([]byte, k.rsa.Size())))
		return iso7816.AppendTLV(b, 0x82, e[1:])
	}
	point, err := k.ec.PublicKey.Bytes()
	if err != nil {
		return nil // not with a curve that generate uses
	}
	return iso7816.AppendTLV(nil, 0x86, point)
}

// authenticate answers GENERAL AUTHENTICATE: with the management key the proof
// of who knows it, with any other the use of the private key.
func (c *Card) authenticate(cmd iso7816.Command, pinFresh bool) ([]byte, smartcard.Status) {
	body, err := iso7816.ParseTLV(cmd.Data, tagTemplate)
	if err != nil {
		return nil, smartcard.StatusWrongData
	}
	parts, err := iso7816.ParseTLVs(body)
	if err != nil {
		return nil, smartcard.StatusWrongData
	}
	if cmd.P2 == slotManagement {
		return c.authenticateManagement(cmd.P1, parts)
	}
	k := c.keys[cmd.P2]
	if k == nil || k.algorithm != cmd.P1 {
		return nil, smartcard.StatusWrongParameters
	}
	if k.pinPolicy == policyOnce && !c.state.pinVerified || k.pinPolicy == policyAlways && !pinFresh {
		return nil, smartcard.StatusSecurity
	}
	if want, ok := iso7816.Find(parts, tagResponse); !ok || len(want) > 0 {
		return nil, smartcard.StatusWrongData
	}
	out, ok := k.use(parts)
	if !ok {
		return nil, smartcard.StatusWrongData
	}
	return iso7816.AppendTLV(nil, tagTemplate, iso7816.AppendTLV(nil, tagResponse, out)), smartcard.StatusOK
}

// use does the private key operation that parts ask for.
func (k *key) use(parts []iso7816.TLV) ([]byte, bool) {
	if in, ok := iso7816.Find(parts, tagChallenge); ok {
		if k.rsa != nil {
			return rawRSA(k.rsa, in)
		}
		return signEC(k.ec, in)
	}
	if in, ok := iso7816.Find(parts, tagExponent); ok && k.ec != nil {
		return agree(k.ec, in)
	}
	return nil, false
}

// rawRSA is the private key operation without any padding.
func rawRSA(k *rsa.PrivateKey, in []byte) ([]byte, bool) {
	x := new(big.Int).SetBytes(in)
	if len(in) != k.Size() || x.Cmp(k.N) >= 0 {
		return nil, false
	}
	p, q := k.Primes[0], k.Primes[1]
	m1 := new(big.Int).Exp(x, k.Precomputed.Dp, p)
	m2 := new(big.Int).Exp(x, k.Precomputed.Dq, q)
	h := new(big.Int).Sub(m1, m2)
	h.Mul(h, k.Precomputed.Qinv).Mod(h, p)
	h.Mul(h, q).Add(h, m2)
	return h.FillBytes(make([]byte, k.Size())), true
}

// signEC signs a digest of at most the curve's size.
func signEC(k *ecdsa.PrivateKey, digest []byte) ([]byte, bool) {
	if len(digest) == 0 || len(digest) > (k.Curve.Params().BitSize+7)/8 {
		return nil, false
	}
	sig, err := ecdsa.SignASN1(rand.Reader, k, digest)
	return sig, err == nil
}

// agree is the key agreement with another's public point.
func agree(k *ecdsa.PrivateKey, point []byte) ([]byte, bool) {
	private, err := k.ECDH()
	if err != nil {
		return nil, false
	}
	public, err := private.Curve().NewPublicKey(point)
	if err != nil {
		return nil, false
	}
	shared, err := private.ECDH(public)
	return shared, err == nil
}

// metadata tells what is known of a key, a PIN or the management key.
func (c *Card) metadata(cmd iso7816.Command) ([]byte, smartcard.Status) {
	if cmd.P1 != 0x00 {
		return nil, smartcard.StatusWrongParameters
	}
	switch cmd.P2 {
	case refPIN:
		return c.pin.metadata(), smartcard.StatusOK
	case refPUK:
		return c.puk.metadata(), smartcard.StatusOK
	case slotManagement:
		b := iso7816.AppendTLV(nil, 0x01, []byte{c.mgm.algorithm})
		b = iso7816.AppendTLV(b, 0x02, []byte{0x00, c.mgm.touch})
		return iso7816.AppendTLV(b, 0x05, flag(c.mgm.factory)), smartcard.StatusOK
	}
	k := c.keys[cmd.P2]
	if k == nil {
		return nil, smartcard.StatusNoReference
	}
	b := iso7816.AppendTLV(nil, 0x01, []byte{k.algorithm})
	b = iso7816.AppendTLV(b, 0x02, []byte{k.pinPolicy, k.touch})
	b = iso7816.AppendTLV(b, 0x03, []byte{originGenerated})
	return iso7816.AppendTLV(b, 0x04, k.public()), smartcard.StatusOK
}

func (s *secret) metadata() []byte {
	b := iso7816.AppendTLV(nil, 0x01, []byte{0xFF})
	b = iso7816.AppendTLV(b, 0x05, flag(s.factory))
	return iso7816.AppendTLV(b, 0x06, []byte{byte(s.tries), byte(s.left)})
}

func flag(b bool) []byte {
	if b {
		return []byte{1}
	}
	return []byte{0}
}
