package virtual

import (
	"bytes"
	"crypto/subtle"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
)

const (
	factoryPIN     = "123456"
	factoryPUK     = "12345678"
	factoryTries   = 3
	triesMax       = 15 // what 63Cx can count
	secretBytes    = 8  // PIN and PUK, padded with FF
	secretBytesMin = 6

	refPIN = 0x80
	refPUK = 0x81
)

// A secret is a PIN or PUK and the tries that are left for it.
type secret struct {
	value   [secretBytes]byte
	left    int
	tries   int
	factory bool // still as it came
}

func newSecret(value string) secret {
	s := secret{left: factoryTries, tries: factoryTries, factory: true}
	copy(s.value[:], bytes.Repeat([]byte{0xFF}, secretBytes))
	copy(s.value[:], value)
	return s
}

// check compares a try with a secret of the card. The try is counted first, for
// good: whoever sees that the answer takes long, and ends the process, has spent it.
func (c *Card) check(s *secret, try []byte) smartcard.Status {
	if s.left == 0 {
		return smartcard.StatusBlocked
	}
	s.left--
	if sw := c.keep(); sw != smartcard.StatusOK {
		return sw
	}
	if subtle.ConstantTimeCompare(s.value[:], try) != 1 {
		return s.triesLeft()
	}
	s.left = s.tries
	return c.keep()
}

func (s *secret) triesLeft() smartcard.Status { return 0x63C0 | smartcard.Status(s.left) }

// set replaces the secret and gives it all its tries.
func (s *secret) set(value []byte) {
	copy(s.value[:], value)
	s.left = s.tries
	s.factory = false
}

// wellFormed says if value may become a PIN or PUK: six to eight bytes, then FF.
func wellFormed(value []byte) bool {
	n := len(bytes.TrimRight(value, "\xFF"))
	return len(value) == secretBytes && n >= secretBytesMin && bytes.IndexByte(value[:n], 0xFF) < 0
}

// verify checks the PIN, tells how many tries are left (no data), or forgets
// that it was checked (P1 FF).
func (c *Card) verify(cmd iso7816.Command) smartcard.Status {
	switch {
	case cmd.P1 != 0x00 && cmd.P1 != 0xFF:
		return smartcard.StatusWrongParameters
	case cmd.P2 != refPIN:
		return smartcard.StatusNoReference
	case cmd.P1 == 0xFF && len(cmd.Data) > 0:
		return smartcard.StatusWrongData
	case cmd.P1 == 0xFF:
		c.state.pinVerified = false
		return smartcard.StatusOK
	case len(cmd.Data) == 0 && c.pin.left == 0:
		return smartcard.StatusBlocked
	case len(cmd.Data) == 0 && c.state.pinVerified:
		return smartcard.StatusOK
	case len(cmd.Data) == 0:
		return c.pin.triesLeft()
	case len(cmd.Data) != secretBytes:
		return smartcard.StatusWrongData
	}
	sw := c.check(&c.pin, cmd.Data)
	c.state.pinVerified = sw == smartcard.StatusOK
	c.state.pinFresh = c.state.pinVerified
	return sw
}

// changeReference replaces PIN or PUK by one that its holder chose.
func (c *Card) changeReference(cmd iso7816.Command) smartcard.Status {
	target := &c.pin
	switch {
	case cmd.P1 != 0x00:
		return smartcard.StatusWrongParameters
	case cmd.P2 == refPUK:
		target = &c.puk
	case cmd.P2 != refPIN:
		return smartcard.StatusNoReference
	}
	return c.replace(target, target, cmd.Data)
}

// resetRetries gives the holder of the PUK a new PIN.
func (c *Card) resetRetries(cmd iso7816.Command) smartcard.Status {
	if cmd.P1 != 0x00 || cmd.P2 != refPIN {
		return smartcard.StatusWrongParameters
	}
	return c.replace(&c.pin, &c.puk, cmd.Data)
}

// replace sets a secret if data begins with what proves the right to: proof's
// value.
func (c *Card) replace(s, proof *secret, data []byte) smartcard.Status {
	if proof.left == 0 {
		return smartcard.StatusBlocked
	}
	if len(data) != 2*secretBytes || !wellFormed(data[secretBytes:]) {
		return smartcard.StatusWrongData
	}
	if sw := c.check(proof, data[:secretBytes]); sw != smartcard.StatusOK {
		return sw
	}
	s.set(data[secretBytes:])
	return c.keep()
}

// setRetries gives PIN and PUK their factory values and a new number of tries.
func (c *Card) setRetries(cmd iso7816.Command) smartcard.Status {
	if !c.state.authenticated || !c.state.pinVerified {
		return smartcard.StatusSecurity
	}
	if cmd.P1 == 0 || cmd.P1 > triesMax || cmd.P2 == 0 || cmd.P2 > triesMax || len(cmd.Data) > 0 {
		return smartcard.StatusWrongParameters
	}
	c.pin, c.puk = newSecret(factoryPIN), newSecret(factoryPUK)
	c.pin.tries, c.pin.left = int(cmd.P1), int(cmd.P1)
	c.puk.tries, c.puk.left = int(cmd.P2), int(cmd.P2)
	return c.keep()
}

// reset wipes a card whose PIN and PUK are both blocked.
func (c *Card) reset() smartcard.Status {
	if c.pin.left > 0 || c.puk.left > 0 {
		return smartcard.StatusConditions
	}
	c.wipe()
	c.state = volatile{selected: true}
	return c.keep()
}
