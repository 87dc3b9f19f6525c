package virtual

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des" // 3DES, the factory default of a card of its version
	"crypto/rand"
	"crypto/subtle"
	"slices"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
)

// Algorithms of the management key.
const (
	algDefault = 0x00 // means 3DES in GENERAL AUTHENTICATE
	alg3DES    = 0x03
	algAES128  = 0x08
	algAES192  = 0x0A
	algAES256  = 0x0C
)

// managementKey is the key that administers the card.
type managementKey struct {
	algorithm byte
	touch     byte
	factory   bool
	key       []byte
	cipher    cipher.Block // of key
}

// factoryManagementKey is the well-known one: 24 bytes, of either cipher.
func factoryManagementKey(f Firmware) managementKey {
	m := managementKey{algorithm: alg3DES, touch: policyNever, factory: true}
	if f.later() {
		m.algorithm = algAES192
	}
	m.key = bytes.Repeat([]byte{1, 2, 3, 4, 5, 6, 7, 8}, 3)
	m.cipher, _ = newCipher(m.algorithm, m.key) // has the right length
	return m
}

func newCipher(algorithm byte, key []byte) (cipher.Block, bool) {
	sizes := map[byte]int{alg3DES: 24, algAES128: 16, algAES192: 24, algAES256: 32}
	if n, ok := sizes[algorithm]; !ok || n != len(key) {
		return nil, false
	}
	newBlock := aes.NewCipher
	if algorithm == alg3DES {
		newBlock = des.NewTripleDESCipher
	}
	block, err := newBlock(key)
	return block, err == nil
}

// authenticateManagement is one step of the proof that the other side knows the
// management key: SP 800-73-4 part 2, appendix A.1.
func (c *Card) authenticateManagement(algorithm byte, parts []iso7816.TLV) ([]byte, smartcard.Status) {
	if algorithm == algDefault {
		algorithm = alg3DES
	}
	if algorithm != c.mgm.algorithm {
		return nil, smartcard.StatusWrongParameters
	}
	witness, hasWitness := iso7816.Find(parts, tagWitness)
	challenge, hasChallenge := iso7816.Find(parts, tagChallenge)
	response, hasResponse := iso7816.Find(parts, tagResponse)
	switch {
	case hasWitness && len(witness) == 0:
		return c.offer(&c.state.witness, tagWitness)
	case hasWitness && hasChallenge:
		return c.finishMutual(witness, challenge)
	case hasChallenge && len(challenge) == 0:
		return c.offer(&c.state.challenge, tagChallenge)
	case hasResponse && len(response) > 0:
		return c.finishSingle(response)
	default:
		return nil, smartcard.StatusWrongData
	}
}

// offer makes a random block for the other side to work on. A witness goes out
// enciphered, a challenge as it is.
func (c *Card) offer(keep *[]byte, tag iso7816.Tag) ([]byte, smartcard.Status) {
	c.state.witness, c.state.challenge = nil, nil
	block := make([]byte, c.mgm.cipher.BlockSize())
	rand.Read(block) // never fails
	*keep = block
	sent := slices.Clone(block)
	if tag == tagWitness {
		c.mgm.cipher.Encrypt(sent, sent)
	}
	return iso7816.AppendTLV(nil, tagTemplate, iso7816.AppendTLV(nil, tag, sent)), smartcard.StatusOK
}

// finishMutual checks the deciphered witness and answers the challenge.
func (c *Card) finishMutual(witness, challenge []byte) ([]byte, smartcard.Status) {
	want := c.state.witness
	c.state.witness = nil
	if want == nil {
		return nil, smartcard.StatusConditions
	}
	if len(challenge) != c.mgm.cipher.BlockSize() {
		return nil, smartcard.StatusWrongData
	}
	if subtle.ConstantTimeCompare(want, witness) != 1 {
		return nil, smartcard.StatusSecurity
	}
	c.state.authenticated = true
	out := make([]byte, len(challenge))
	c.mgm.cipher.Encrypt(out, challenge)
	return iso7816.AppendTLV(nil, tagTemplate, iso7816.AppendTLV(nil, tagResponse, out)), smartcard.StatusOK
}

// finishSingle checks the enciphered challenge.
func (c *Card) finishSingle(response []byte) ([]byte, smartcard.Status) {
	challenge := c.state.challenge
	c.state.challenge = nil
	if challenge == nil {
		return nil, smartcard.StatusConditions
	}
	want := make([]byte, len(challenge))
	c.mgm.cipher.Encrypt(want, challenge)
	if subtle.ConstantTimeCompare(want, response) != 1 {
		return nil, smartcard.StatusSecurity
	}
	c.state.authenticated = true
	return nil, smartcard.StatusOK
}

// setManagementKey replaces the management key: algorithm, 9B, length, key.
func (c *Card) setManagementKey(cmd iso7816.Command) smartcard.Status {
	if cmd.P1 != 0xFF || (cmd.P2 != 0xFF && cmd.P2 != 0xFE) {
		return smartcard.StatusWrongParameters
	}
	if !c.state.authenticated {
		return smartcard.StatusSecurity
	}
	d := cmd.Data
	if len(d) < 3 || d[1] != slotManagement || int(d[2]) != len(d)-3 {
		return smartcard.StatusWrongData
	}
	block, ok := newCipher(d[0], d[3:])
	if !ok {
		return smartcard.StatusWrongData
	}
	touch := byte(policyNever)
	if cmd.P2 == 0xFE {
		touch = policyAlways
	}
	c.mgm = managementKey{algorithm: d[0], touch: touch, key: slices.Clone(d[3:]), cipher: block}
	return c.keep()
}
