package virtual

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"math/big"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
)

// Algorithms of NIST SP 800-78-4, and those that firmware 5.7 brought.
const (
	algRSA1024 = 0x06 // of old: programs still try it
	algRSA2048 = 0x07
	algECP256  = 0x11
	algECP384  = 0x14

	algRSA3072 = 0x05
	algRSA4096 = 0x16
	algEd25519 = 0xE0
	algX25519  = 0xE1
)

// PIN and touch policies of the YubiKey. There is nobody to touch this card:
// it records the policy and doesn't wait.
const (
	policyDefault = 0x00
	policyNever   = 0x01
	policyOnce    = 0x02
	policyAlways  = 0x03
)

// Where a key comes from.
const (
	originGenerated = 0x01
	originImported  = 0x02
)

// Key references.
const (
	slotAuthentication = 0x9A
	slotManagement     = 0x9B
	slotSignature      = 0x9C
	slotKeyManagement  = 0x9D
	slotCardAuth       = 0x9E
	slotRetiredFirst   = 0x82
	slotRetiredLast    = 0x95
	slotAttestation    = 0xF9
)

// Data objects inside GENERAL AUTHENTICATE's 7C.
const (
	tagTemplate  iso7816.Tag = 0x7C
	tagWitness   iso7816.Tag = 0x80
	tagChallenge iso7816.Tag = 0x81
	tagResponse  iso7816.Tag = 0x82
	tagExponent  iso7816.Tag = 0x85
)

// publicExponent is that of every RSA key: import doesn't tell it.
const publicExponent = 65537

// A key is the private key of a slot.
type key struct {
	algorithm byte
	pinPolicy byte
	touch     byte
	origin    byte
	private   crypto.PrivateKey // *rsa.PrivateKey, *ecdsa.PrivateKey, ed25519.PrivateKey or *ecdh.PrivateKey (X25519)
}

// keySlot says if a slot is for its holder's keys.
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

// later says if the firmware has the algorithms of 5.7.
func (f Firmware) later() bool { return f[0] > 5 || f[0] == 5 && f[1] >= 7 }

// has says if a card of the firmware knows the algorithm.
func (f Firmware) has(algorithm byte) bool {
	switch algorithm {
	case algRSA1024, algRSA2048, algECP256, algECP384:
		return true
	case algRSA3072, algRSA4096, algEd25519, algX25519:
		return f.later()
	}
	return false
}

// rsaBits is the size of an RSA algorithm's keys, 0 for others.
func rsaBits(algorithm byte) int {
	switch algorithm {
	case algRSA1024:
		return 1024
	case algRSA2048:
		return 2048
	case algRSA3072:
		return 3072
	case algRSA4096:
		return 4096
	}
	return 0
}

func curve(algorithm byte) elliptic.Curve {
	if algorithm == algECP384 {
		return elliptic.P384()
	}
	return elliptic.P256()
}

// generate makes a key pair in a slot and returns the public key.
func (c *Card) generate(cmd iso7816.Command) ([]byte, smartcard.Status) {
	if cmd.P1 != 0x00 || !keySlot(cmd.P2) {
		return nil, smartcard.StatusWrongParameters
	}
	if !c.state.authenticated {
		return nil, smartcard.StatusSecurity
	}
	k := &key{origin: originGenerated}
	body, err := iso7816.ParseTLV(cmd.Data, 0xAC)
	if err != nil {
		return nil, smartcard.StatusWrongData
	}
	parts, err := iso7816.ParseTLVs(body)
	if err != nil {
		return nil, smartcard.StatusWrongData
	}
	if parts, ok := k.takePolicies(cmd.P2, parts); !ok || len(parts) != 1 || parts[0].Tag != 0x80 || len(parts[0].Value) != 1 {
		return nil, smartcard.StatusWrongData
	} else if k.algorithm = parts[0].Value[0]; !c.firmware.has(k.algorithm) {
		return nil, smartcard.StatusWrongData
	}
	if k.private, err = newPrivateKey(k.algorithm); err != nil {
		return nil, smartcard.StatusUnknown
	}
	c.keys[cmd.P2] = k
	if sw := c.keep(); sw != smartcard.StatusOK {
		return nil, sw
	}
	return iso7816.AppendTLV(nil, 0x7F49, k.encodedPublic()), smartcard.StatusOK
}

func newPrivateKey(algorithm byte) (crypto.PrivateKey, error) {
	switch algorithm {
	case algECP256, algECP384:
		return ecdsa.GenerateKey(curve(algorithm), rand.Reader)
	case algEd25519:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	case algX25519:
		return ecdh.X25519().GenerateKey(rand.Reader)
	default:
		return rsa.GenerateKey(rand.Reader, rsaBits(algorithm))
	}
}

// takePolicies reads AA (PIN policy) and AB (touch policy) and returns the
// objects besides them.
func (k *key) takePolicies(slot byte, parts []iso7816.TLV) (others []iso7816.TLV, ok bool) {
	k.pinPolicy, k.touch = policyDefault, policyDefault
	for _, p := range parts {
		switch {
		case p.Tag != 0xAA && p.Tag != 0xAB:
			others = append(others, p)
			continue
		case len(p.Value) != 1 || p.Value[0] > policyAlways:
			return nil, false
		case p.Tag == 0xAA:
			k.pinPolicy = p.Value[0]
		default:
			k.touch = p.Value[0]
		}
	}
	if k.pinPolicy == policyDefault {
		k.pinPolicy = defaultPINPolicy(slot)
	}
	if k.touch == policyDefault {
		k.touch = policyNever
	}
	return others, true
}

// importKey puts a private key from outside into a slot: 01 to 05 are what RSA
// with the Chinese remainder theorem takes, 06 is a scalar, 07 and 08 are the
// secrets of Ed25519 and X25519.
func (c *Card) importKey(cmd iso7816.Command) smartcard.Status {
	if !keySlot(cmd.P2) || !c.firmware.has(cmd.P1) {
		return smartcard.StatusWrongParameters
	}
	if !c.state.authenticated {
		return smartcard.StatusSecurity
	}
	k := &key{algorithm: cmd.P1, origin: originImported}
	parts, err := iso7816.ParseTLVs(cmd.Data)
	if err != nil {
		return smartcard.StatusWrongData
	}
	parts, ok := k.takePolicies(cmd.P2, parts)
	if !ok {
		return smartcard.StatusWrongData
	}
	if k.private, ok = importedKey(k.algorithm, parts); !ok {
		return smartcard.StatusWrongData
	}
	c.keys[cmd.P2] = k
	return c.keep()
}

func importedKey(algorithm byte, parts []iso7816.TLV) (crypto.PrivateKey, bool) {
	tag := map[byte]iso7816.Tag{algECP256: 0x06, algECP384: 0x06, algEd25519: 0x07, algX25519: 0x08}[algorithm]
	if tag == 0 {
		return importedRSA(rsaBits(algorithm), parts)
	}
	if len(parts) != 1 || parts[0].Tag != tag {
		return nil, false
	}
	secret := parts[0].Value
	switch algorithm {
	case algEd25519:
		if len(secret) != ed25519.SeedSize {
			return nil, false
		}
		return ed25519.NewKeyFromSeed(secret), true
	case algX25519:
		private, err := ecdh.X25519().NewPrivateKey(secret)
		return private, err == nil
	default:
		private, err := ecdsa.ParseRawPrivateKey(curve(algorithm), secret)
		return private, err == nil
	}
}

// importedRSA makes a key of its two primes. The other three numbers follow from
// them; they have to be there, and have to be right.
func importedRSA(bits int, parts []iso7816.TLV) (crypto.PrivateKey, bool) {
	if len(parts) != 5 {
		return nil, false
	}
	var numbers [5]*big.Int
	for i, p := range parts {
		if p.Tag != iso7816.Tag(i+1) || len(p.Value) > bits/8 {
			return nil, false
		}
		numbers[i] = new(big.Int).SetBytes(p.Value)
	}
	p, q := numbers[0], numbers[1]
	one := big.NewInt(1)
	p1, q1 := new(big.Int).Sub(p, one), new(big.Int).Sub(q, one)
	n := new(big.Int).Mul(p, q)
	if n.BitLen() != bits || p1.Sign() <= 0 || q1.Sign() <= 0 {
		return nil, false
	}
	d := new(big.Int).ModInverse(big.NewInt(publicExponent), new(big.Int).Mul(p1, q1))
	if d == nil {
		return nil, false
	}
	k := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: n, E: publicExponent}, D: d, Primes: []*big.Int{p, q}}
	if k.Validate() != nil {
		return nil, false
	}
	k.Precompute()
	same := k.Precomputed.Dp.Cmp(numbers[2]) == 0 && k.Precomputed.Dq.Cmp(numbers[3]) == 0 && k.Precomputed.Qinv.Cmp(numbers[4]) == 0
	return k, same
}

// public is the public key as packages of the standard library know it.
func (k *key) public() crypto.PublicKey {
	switch private := k.private.(type) {
	case *rsa.PrivateKey:
		return &private.PublicKey
	case *ecdsa.PrivateKey:
		return &private.PublicKey
	case ed25519.PrivateKey:
		return private.Public()
	case *ecdh.PrivateKey:
		return private.PublicKey()
	}
	return nil // keys are of these types only
}

// encodedPublic encodes the public key as the inside of 7F49.
func (k *key) encodedPublic() []byte {
	switch public := k.public().(type) {
	case *rsa.PublicKey:
		var e [4]byte
		binary.BigEndian.PutUint32(e[:], uint32(public.E))
		b := iso7816.AppendTLV(nil, 0x81, public.N.FillBytes(make([]byte, public.Size())))
		return iso7816.AppendTLV(b, 0x82, e[1:])
	case *ecdsa.PublicKey:
		point, err := public.Bytes()
		if err != nil {
			return nil // not with a curve that the card knows
		}
		return iso7816.AppendTLV(nil, 0x86, point)
	case ed25519.PublicKey:
		return iso7816.AppendTLV(nil, 0x86, public)
	case *ecdh.PublicKey:
		return iso7816.AppendTLV(nil, 0x86, public.Bytes())
	}
	return nil
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
	if !keySlot(cmd.P2) || k == nil || k.algorithm != cmd.P1 {
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

// use does the private key operation that parts ask for: with a challenge a
// signature, with the other side's point an agreement.
func (k *key) use(parts []iso7816.TLV) ([]byte, bool) {
	challenge, signing := iso7816.Find(parts, tagChallenge)
	point, agreeing := iso7816.Find(parts, tagExponent)
	switch private := k.private.(type) {
	case *rsa.PrivateKey:
		if signing {
			return rawRSA(private, challenge)
		}
	case *ecdsa.PrivateKey:
		if signing {
			return signEC(private, challenge)
		}
		if agreeing {
			agreement, err := private.ECDH()
			if err != nil {
				return nil, false
			}
			return agree(agreement, point)
		}
	case ed25519.PrivateKey:
		if signing { // the message itself
			return ed25519.Sign(private, challenge), true
		}
	case *ecdh.PrivateKey:
		if agreeing {
			return agree(private, point)
		}
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
func agree(k *ecdh.PrivateKey, point []byte) ([]byte, bool) {
	public, err := k.Curve().NewPublicKey(point)
	if err != nil {
		return nil, false
	}
	shared, err := k.ECDH(public)
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
	b = iso7816.AppendTLV(b, 0x03, []byte{k.origin})
	return iso7816.AppendTLV(b, 0x04, k.encodedPublic()), smartcard.StatusOK
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
