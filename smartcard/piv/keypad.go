package piv

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
)

// ErrNoKeypad means that the reader has no keypad, or one that cannot do this.
var ErrNoKeypad = errors.New("the reader has no keypad for this")

// A PadRequest tells a person to enter the PIN on the reader's keypad.
type PadRequest struct {
	PINRequest
	Keypad smartcard.Keypad
}

// A PadFunc shows a person that the PIN is now to be entered on the reader's
// keypad, and what for, and returns: the reader begins to ask after that. Its
// display, if it has one, asks in the reader's own words, which say nothing of the
// reason; Keypad.Instruction is a text for that. No transaction is running
// meanwhile. Its error, such as "cancelled", is passed on, and nothing is asked.
type PadFunc func(ctx context.Context, r PadRequest) error

// Keypad tells what the reader's keypad can do. Without one it is the zero value.
func (c *Card) Keypad() smartcard.Keypad {
	if pad, ok := c.pad(); ok {
		return pad.Keypad()
	}
	return smartcard.Keypad{}
}

func (c *Card) pad() (smartcard.PINPad, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pad, ok := c.transport.(smartcard.PINPad)
	return pad, ok
}

// onPad says if the PIN is entered on the reader's keypad.
func (s *Session) onPad() bool { return !s.cfg.IgnoreKeypad && s.card.Keypad().Verify }

// announce tells the person that an entry is to come.
func (s *Session) announce(r PINRequest) error {
	if err := s.cfg.Pad(s.ctx, PadRequest{r, s.card.Keypad()}); err != nil {
		return fmt.Errorf("piv: PIN of card %s: %w", r.Serial, err)
	}
	return nil
}

// VerifyPINOnPad is VerifyPIN with a PIN that is entered on the reader's keypad.
// It does not use the last try unless AllowLastTry was called. The transaction goes
// on while the person types, and everyone else waits; a reader gives up after half
// a minute. If the reader sent nothing to the card, the error is
// smartcard.ErrPadTimeout, ErrPadCancelled or ErrPadLength.
func (tx *Tx) VerifyPINOnPad() error {
	if !tx.card.Keypad().Verify {
		return fmt.Errorf("piv: verify the PIN: %w", ErrNoKeypad)
	}
	if err := tx.checkPIN(); err != nil {
		return err
	}
	return tx.enter("PIN", insVerify, refPIN, false)
}

// ChangePINOnPad is ChangePIN at the reader's keypad: the person enters the PIN,
// then the new one twice. See VerifyPINOnPad; where the new PIN was not the same
// both times the error is smartcard.ErrPadMismatch.
func (tx *Tx) ChangePINOnPad() error {
	if err := tx.canModify(); err != nil {
		return err
	}
	if err := tx.checkPIN(); err != nil {
		return err
	}
	return tx.enter("PIN", insChangeReference, refPIN, true)
}

// ChangePUKOnPad is ChangePUK at the reader's keypad; see ChangePINOnPad. A display
// that asks for the PIN means the PUK.
func (tx *Tx) ChangePUKOnPad() error {
	if err := tx.canModify(); err != nil {
		return err
	}
	if err := tx.checkPUK(); err != nil {
		return err
	}
	return tx.enter("PUK", insChangeReference, refPUK, true)
}

// UnblockPINOnPad is UnblockPIN at the reader's keypad: the person enters the PUK,
// then the new PIN twice. See ChangePINOnPad. A display asks for "the PIN" first,
// and means the PUK.
func (tx *Tx) UnblockPINOnPad() error {
	if err := tx.canModify(); err != nil {
		return err
	}
	if err := tx.checkPUK(); err != nil {
		return err
	}
	return tx.enter("PUK", insResetRetries, refPIN, true)
}

func (tx *Tx) canModify() error {
	if !tx.card.Keypad().Modify {
		return fmt.Errorf("piv: change the PIN: %w", ErrNoKeypad)
	}
	return nil
}

// enter sends a command in which the reader puts PINs. reference is what is
// entered first.
func (tx *Tx) enter(reference string, ins, ref byte, replace bool) error {
	pad, ok := tx.card.pad()
	if !ok {
		return fmt.Errorf("piv: %s: %w", reference, ErrNoKeypad)
	}
	blocks := 1
	if replace {
		blocks = 2
	}
	c := iso7816.Command{INS: ins, P2: ref, Data: bytes.Repeat([]byte{pinPadding}, blocks*PINBytesMax)}
	apdu, err := c.ShortAPDU()
	if err != nil {
		return err
	}
	tx.pinUsed = true
	answer, err := pad.EnterPIN(tx.ctx, smartcard.PINEntry{
		Command: apdu, Replace: replace,
		BlockBytes: PINBytesMax, DigitsMin: PINBytesMin, DigitsMax: PINBytesMax,
	})
	if err != nil {
		return fmt.Errorf("piv: %s: %w", reference, err)
	}
	r, err := iso7816.ParseResponse(answer)
	if err == nil {
		err = smartcard.NewPINError(reference, smartcard.Status(r.SW))
	}
	if err != nil {
		return fmt.Errorf("piv: %w", err)
	}
	return nil
}
