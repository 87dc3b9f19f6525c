package piv

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
)

// Lengths of PIN and PUK in bytes.
const (
	PINBytesMin = 6
	PINBytesMax = 8
)

const (
	refPIN = 0x80
	refPUK = 0x81

	pinPadding = 0xFF
)

// TriesUnknown stands where a card doesn't tell how many tries are left.
const TriesUnknown = -1

// ErrPINFormat reports a PIN or PUK that no card accepts. The card has not been
// asked.
var ErrPINFormat = errors.New("a PIN or PUK has 6 to 8 characters")

// PINTries asks how often a wrong PIN can still be entered. 0 means blocked.
func (tx *Tx) PINTries() (int, error) {
	query := iso7816.Command{INS: insVerify, P2: refPIN}
	_, status, err := tx.exchange(query)
	if err == nil && status == smartcard.StatusOK {
		// Another program has left its PIN verified, which hides the count.
		if _, status, err = tx.exchange(iso7816.Command{INS: insVerify, P1: 0xFF, P2: refPIN}); err == nil && status == smartcard.StatusOK {
			_, status, err = tx.exchange(query)
		} else if err == nil {
			return TriesUnknown, nil // a card that cannot withdraw
		}
	}
	if err != nil {
		return 0, fmt.Errorf("piv: PIN tries: %w", err)
	}
	if n, ok := status.TriesLeft(); ok {
		return n, nil
	}
	if status == smartcard.StatusBlocked {
		return 0, nil
	}
	return 0, fmt.Errorf("piv: PIN tries: %w", status)
}

// VerifyPIN proves the PIN to the card. A wrong one costs a try, be it the last,
// and gives a *smartcard.PINError: ask PINTries first, or use a Session. The card
// forgets it at the end of the transaction.
func (tx *Tx) VerifyPIN(pin []byte) error {
	padded, err := pad(pin)
	if err != nil {
		return fmt.Errorf("piv: PIN: %w", err)
	}
	defer clear(padded)
	tx.pinUsed = true
	return tx.prove("PIN", iso7816.Command{INS: insVerify, P2: refPIN, Data: padded})
}

// AllowLastTry lets this transaction change PIN and PUK, and have them entered on
// a keypad, even with the last try that is left for the old one. Without it that
// fails with ErrLastTry.
func (tx *Tx) AllowLastTry() { tx.lastTry = true }

// ChangePIN replaces the PIN.
func (tx *Tx) ChangePIN(old, new []byte) error {
	if err := tx.checkPIN(); err != nil {
		return err
	}
	return tx.replace("PIN", insChangeReference, refPIN, old, new)
}

// ChangePUK replaces the PUK.
func (tx *Tx) ChangePUK(old, new []byte) error {
	if err := tx.checkPUK(); err != nil {
		return err
	}
	return tx.replace("PUK", insChangeReference, refPUK, old, new)
}

// UnblockPIN sets a new PIN by means of the PUK.
func (tx *Tx) UnblockPIN(puk, new []byte) error {
	if err := tx.checkPUK(); err != nil {
		return err
	}
	return tx.replace("PUK", insResetRetries, refPIN, puk, new)
}

// checkPIN looks at the tries of the PIN.
func (tx *Tx) checkPIN() error {
	n, err := tx.PINTries()
	if err != nil {
		return err
	}
	return tx.checkTries("PIN", n)
}

// checkPUK looks at the tries of the PUK. Not every card tells them.
func (tx *Tx) checkPUK() error {
	info, err := tx.PUKInfo()
	switch {
	case lost(err):
		return err
	case err != nil:
		return nil
	}
	return tx.checkTries("PUK", info.TriesLeft)
}

// checkTries refuses the last try without consent, and saves a blocked secret the
// question.
func (tx *Tx) checkTries(reference string, left int) error {
	switch {
	case left == 0:
		return fmt.Errorf("piv: %w", smartcard.NewPINError(reference, smartcard.StatusBlocked))
	case left == 1 && !tx.lastTry:
		return fmt.Errorf("piv: %s: %w", reference, ErrLastTry)
	}
	return nil
}

// replace sets a new PIN or PUK. reference is what proves the right to.
func (tx *Tx) replace(reference string, ins, ref byte, proof, new []byte) error {
	paddedProof, err := pad(proof)
	if err != nil {
		return fmt.Errorf("piv: current %s: %w", reference, err)
	}
	defer clear(paddedProof)
	paddedNew, err := pad(new)
	if err != nil {
		return fmt.Errorf("piv: new value: %w", err)
	}
	defer clear(paddedNew)
	both := append(bytes.Clone(paddedProof), paddedNew...)
	defer clear(both[:cap(both)])
	tx.pinUsed = true
	return tx.prove(reference, iso7816.Command{INS: ins, P2: ref, Data: both})
}

// prove sends a command with a PIN or PUK in it.
func (tx *Tx) prove(reference string, c iso7816.Command) error {
	_, status, err := tx.exchange(c)
	if err == nil {
		err = smartcard.NewPINError(reference, status)
	}
	if err != nil {
		return fmt.Errorf("piv: %w", err)
	}
	return nil
}

// pad fills a PIN or PUK up to eight bytes.
func pad(secret []byte) ([]byte, error) {
	if len(secret) < PINBytesMin || len(secret) > PINBytesMax || bytes.IndexByte(secret, pinPadding) >= 0 {
		return nil, ErrPINFormat
	}
	padded := bytes.Repeat([]byte{pinPadding}, PINBytesMax)
	copy(padded, secret)
	return padded, nil
}
