package piv

import (
	"errors"
	"fmt"

	"github.com/setkit/setkit/smartcard"
)

// An InterruptedError reports that the card's answer was lost while a key was
// used: the card was pulled, the reader unplugged, the card reset by another
// program, the smart card service ended, the answer cut off, or the context was
// over. It wraps what happened.
//
// What a person approved is to be done once. If KeyUsed is false, the card has
// not done it, and the same may be asked of it again once it is back. If KeyUsed
// is true, it may have: whether the signature exists nobody can tell. Then only
// the person can let it be done again.
type InterruptedError struct {
	Slot    Slot
	KeyUsed bool // or perhaps
	Err     error
}

// Error says whether the key may have been used.
func (e *InterruptedError) Error() string {
	if e.KeyUsed {
		return fmt.Sprintf("%v: the card may have used the key of slot %v, but its answer was lost; ask before it is used again", e.Err, e.Slot)
	}
	return fmt.Sprintf("%v: the key of slot %v was not used", e.Err, e.Slot)
}

// Unwrap gives what happened.
func (e *InterruptedError) Unwrap() error { return e.Err }

// refusedWith says if the card refused, with this status, to use a key.
func refusedWith(err error, s smartcard.Status) bool {
	var interrupted *InterruptedError
	return errors.Is(err, s) && !errors.As(err, &interrupted)
}

// lost says if err is of the way to the card, or of an answer that is none: not
// a refusal by the card.
func lost(err error) bool {
	var refused smartcard.Status
	return err != nil && !errors.As(err, &refused)
}
