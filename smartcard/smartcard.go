// Package smartcard says what a smart card is to Go: something that answers
// APDUs ([Transport]), that programs share by taking turns ([Card]), that may be in
// a reader with keys of its own for the PIN ([PINPad]), and that refuses with
// status words ([Status], [PINError]).
//
// The packages below it do the work: pcsc reaches cards in readers, virtual is
// a card in software, piv speaks to the PIV application of either, iso7816 has
// the codecs, cardtest gives tests a card of their own.
package smartcard

import "context"

// A Transport carries command APDUs to one card.
type Transport interface {
	// Transmit sends one command APDU and returns the response APDU, the two
	// bytes of the status word included; a response is never shorter than that.
	// A status word of failure is not an error. Transmit doesn't keep cmd.
	//
	// If the card could not be asked, or its answer was lost, the error wraps
	// ErrUnavailable or is that of ctx; the card may or may not have acted.
	Transmit(ctx context.Context, cmd []byte) ([]byte, error)
}

// A Card is a Transport to a card that other programs use as well. Between
// Begin and End nobody else's commands reach it. Outside, anything may have
// changed since the last command: another application selected, the PIN
// verified or forgotten.
type Card interface {
	Transport

	// Begin waits until no other program holds the card and takes it. It can
	// wait for as long as the other program likes; ctx bounds that.
	Begin(ctx context.Context) error

	// End gives the card back in the state that d says. Without a Begin before
	// it, it fails.
	End(d Disposition) error
}

// Disposition is what becomes of the card's state at the end of a transaction.
type Disposition int

const (
	// Leave leaves selection and verified PINs as they are, for anyone to use.
	Leave Disposition = iota

	// Reset resets the card: it forgets verified PINs and authentications. Every
	// other program that holds the card will notice.
	Reset
)
