package virtual

import "filippo.io/age"

// Quick makes a passphrase cheap to stretch.
func (k *StateKey) Quick() *StateKey {
	k.recipient.(*age.ScryptRecipient).SetWorkFactor(8)
	return k
}

// CheckState reads a state file's frame and the contents of a card, as Load does
// before and after decryption.
func CheckState(b []byte) (frame, contents error) {
	_, _, frame = splitState(b)
	m, contents := decode(b)
	if contents == nil {
		_, contents = m.encode()
	}
	return frame, contents
}

// Contents is what goes into a state file.
func (c *Card) Contents() ([]byte, error) { return c.encode() }
