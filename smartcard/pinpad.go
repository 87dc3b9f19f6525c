package smartcard

import (
	"context"
	"errors"
)

// A PINPad is a Card whose reader may have keys on which a PIN is entered: the
// reader puts the PIN into a command and sends it to the card itself, and no
// computer ever has it.
type PINPad interface {
	Card

	// Keypad tells what the reader's keys can do. Without keys it is the zero value.
	Keypad() Keypad

	// EnterPIN lets the reader ask for the PINs of a command, and returns the
	// card's response APDU. That takes as long as the person takes; the reader
	// gives up by itself after half a minute without a key. If ctx ends first, the
	// error is that of ctx, and the person may still finish the entry.
	//
	// If nothing went to the card, the error is one of ErrPadTimeout,
	// ErrPadCancelled, ErrPadMismatch and ErrPadLength. Otherwise it is as that of
	// Transmit.
	EnterPIN(ctx context.Context, e PINEntry) ([]byte, error)
}

// A Keypad is what a reader has for entering PINs.
type Keypad struct {
	Verify bool // it can prove a PIN to the card
	Modify bool // it can replace one

	// Lines and Columns are the size of the reader's display, 0 without one. What
	// it shows is the reader's own text. No program can put a purchase there.
	Lines, Columns int

	// Limits of the reader for the length of a PIN, 0 if it doesn't tell.
	DigitsMin, DigitsMax int
}

// Instruction tells a person what to do when a PIN is to be entered, in one
// sentence.
func (k Keypad) Instruction() string {
	if k.Lines > 0 {
		return "Enter the PIN on the reader's keypad, where the display asks for it, and press OK there."
	}
	return "Enter the PIN on the reader's keypad, whose light blinks, and press OK there."
}

// A PINEntry is a command with PINs that the reader fills in.
type PINEntry struct {
	// Command is a short APDU. Its data is one block of padding for each PIN.
	Command []byte

	// Replace says that there are two blocks, for the old PIN and for the new one,
	// which is entered twice. Otherwise there is one, for the PIN to verify.
	Replace bool

	BlockBytes           int // a PIN's place, at most 15
	DigitsMin, DigitsMax int // of a PIN
}

// The ways in which an entry at a PINPad ends before anything goes to the card.
// No try is used up.
var (
	ErrPadTimeout   = errors.New("no PIN was entered on the reader's keypad in time")
	ErrPadCancelled = errors.New("the entry was cancelled on the reader's keypad")
	ErrPadMismatch  = errors.New("the new PIN was not the same when it was entered again")
	ErrPadLength    = errors.New("the PIN entered on the reader's keypad is too short or too long")
)
