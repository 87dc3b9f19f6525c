package piv

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
)

// A PINRequest tells a person what the PIN is asked for.
type PINRequest struct {
	Reason    string // as the session was told
	Serial    string // of the card; see Card.Serial
	Slot      Slot   // of the key that is to be used
	TriesLeft int    // or TriesUnknown
}

// A PINFunc asks for the PIN. No transaction is running meanwhile. The session
// clears the slice that it returns. Its error, such as "cancelled", is passed on.
type PINFunc func(ctx context.Context, r PINRequest) ([]byte, error)

// SessionConfig is how a session asks for the PIN.
type SessionConfig struct {
	PIN    PINFunc
	Reason string // what the PIN is wanted for, for the person who is asked

	// Pad is called instead of PIN where the reader has a keypad: before each entry
	// there. May be nil, if the reader's own light or display is enough.
	Pad PadFunc

	// IgnoreKeypad has the PIN got from PIN, through this computer, even where the
	// reader has a keypad: a PIN with letters can't be entered there, and a program
	// that has the PIN itself has nobody to enter it.
	IgnoreKeypad bool

	// AllowLastTry lets the session use the last try before the PIN is blocked.
	AllowLastTry bool

	// Reopen gets back a card that was lost. It waits until the same card, by its
	// serial number, is there again, and returns a new transport to it. It gives up
	// with an error that wraps lost, which says what happened. Without it, the key
	// that was to be used fails with lost.
	Reopen func(ctx context.Context, lost error) (smartcard.Card, error)
}

// interruptionsMax is how often one use of a key is begun again.
const interruptionsMax = 3

// Errors of a session, besides *smartcard.PINError.
var (
	// ErrLastTry means that only one try, of PIN or PUK, is left and was not used: a
	// mistake would block it.
	ErrLastTry = errors.New("only one try is left; it is not used without explicit consent")

	// ErrWrongKey means that the card's result doesn't fit the public key: another
	// card, or a key that was generated anew.
	ErrWrongKey = errors.New("the card's result does not fit the public key; was the key replaced?")

	// ErrOtherCard means that another card is in the place of the session's.
	ErrOtherCard = errors.New("this is another card than before")

	errSessionClosed = errors.New("piv: the session is closed")
)

// A Session holds the PIN of a card from its first use until Close; one that is
// entered on the reader's keypad it never has, and has it entered for each use of a
// key. Its keys may be used concurrently.
type Session struct {
	ctx  context.Context
	card *Card
	cfg  SessionConfig

	mu     sync.Mutex
	pin    []byte // nil until asked for, and after it was wrong
	proven bool   // the card has accepted it
	closed bool

	pinFor9E bool // the card has refused 9e without

	serial   string // as the person was told who gave the PIN
	reopened bool   // and the card has not yet shown to be the same
	holds    int    // calls of Hold
	held     *Tx    // the transaction that the last use of a key has left to the next
}

// NewSession starts a session. Nothing is asked or sent before a key is used.
// ctx is that of everything the session's keys do, because crypto.Signer and
// crypto.Decrypter have none.
func (c *Card) NewSession(ctx context.Context, cfg SessionConfig) *Session {
	return &Session{ctx: ctx, card: c, cfg: cfg}
}

// Format writes nothing of what the session holds, whatever the verb.
func (s *Session) Format(f fmt.State, _ rune) { io.WriteString(f, "PIV session") }

// Close clears the PIN. The session's keys are of no use afterwards.
func (s *Session) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.release(nil) // a card that is gone has nothing to forget
	s.dropPIN()
	s.closed = true
}

// Hold lets the session's keys share one transaction while f uses them: PIV is
// selected once and the PIN withdrawn once. The first use begins it, after the
// PIN was asked for. Other programs wait meanwhile, so f must not wait for
// anything, least of all for a person.
func (s *Session) Hold(f func() error) (err error) {
	s.mu.Lock()
	s.holds++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.holds--; s.holds == 0 {
			err = s.release(err)
		}
	}()
	return f()
}

// release ends the transaction that is held, if there is one.
func (s *Session) release(err error) error {
	if s.held == nil {
		return err
	}
	tx := s.held
	s.held = nil
	return tx.finish(err)
}

func (s *Session) dropPIN() {
	clear(s.pin)
	s.pin, s.proven = nil, false
}

// Signer returns the key of a slot, which has this public key: known from a
// certificate, or from Card.PublicKey. RSA signatures are PKCS #1 v1.5, or PSS if
// *rsa.PSSOptions say so, ECDSA ones ASN.1. Each is verified before it is
// returned.
func (s *Session) Signer(slot Slot, public crypto.PublicKey) (crypto.Signer, error) {
	return newSigner(slot, public, s.operator(slot, public, false))
}

// Decrypter returns the RSA key of a slot; see Signer. It decrypts RSAES-OAEP,
// and wants *rsa.OAEPOptions with SHA-256, SHA-384 or SHA-512.
func (s *Session) Decrypter(slot Slot, public crypto.PublicKey) (crypto.Decrypter, error) {
	return newDecrypter(slot, public, s.operator(slot, public, true))
}

// KeyExchanger returns the EC or X25519 key of a slot for key agreement; see
// Signer. An *ecdsa.PublicKey serves as well as an *ecdh.PublicKey.
func (s *Session) KeyExchanger(slot Slot, public crypto.PublicKey) (ecdh.KeyExchanger, error) {
	return newKeyExchanger(slot, public, s.operator(slot, public, true))
}

// operator gives what uses a key. repeatable is as usePrivateKey says.
func (s *Session) operator(slot Slot, public crypto.PublicKey, repeatable bool) func(iso7816.Tag, []byte) ([]byte, error) {
	return func(tag iso7816.Tag, in []byte) ([]byte, error) {
		a, err := AlgorithmOf(public)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.closed {
			return nil, errSessionClosed
		}
		use := operation{slot: slot, repeatable: repeatable, run: func(tx *Tx) ([]byte, error) {
			return tx.usePrivateKey(slot, a, tag, in, repeatable)
		}}
		if slot == SlotCardAuthentication && !s.pinFor9E {
			out, err := s.operate(use)
			if !refusedWith(err, smartcard.StatusSecurity) {
				return out, err
			}
			s.pinFor9E = true // its issuer has given this key another policy
		}
		use.withPIN = true
		return s.operate(use)
	}
}

// operation is one use of a private key.
type operation struct {
	slot       Slot
	withPIN    bool
	repeatable bool
	run        func(tx *Tx) ([]byte, error)
}

// operate uses a private key. What was interrupted before the key's turn, and
// what may be repeated, is begun again when the card is back.
func (s *Session) operate(o operation) ([]byte, error) {
	for n := 0; ; n++ {
		out, err := s.attempt(o)
		if err == nil {
			return out, nil
		}
		clear(out)
		if err := s.recover(o, n, notUsed(o.slot, err)); err != nil {
			return nil, err
		}
	}
}

// attempt uses a private key in a transaction of its own, or in the one that is
// held. The PIN comes immediately before, which is what slot 9c demands and what
// the others, whose PIN was withdrawn after its last use, need as well.
func (s *Session) attempt(o operation) ([]byte, error) {
	if o.withPIN {
		if err := s.askPIN(o.slot); err != nil {
			return nil, err
		}
	}
	tx, err := s.begin()
	if err != nil {
		return nil, err
	}
	if o.withPIN {
		if err := s.verify(tx); err != nil {
			return nil, tx.finish(err)
		}
	}
	out, err := o.run(tx)
	if err == nil && s.holds > 0 {
		s.held = tx
		return out, nil
	}
	return out, tx.finish(err)
}

// begin begins a transaction, or goes on with the one that is held. After the
// card was away it sees to it that this is the same one.
func (s *Session) begin() (*Tx, error) {
	if tx := s.held; tx != nil {
		s.held = nil
		return tx, nil
	}
	tx, err := s.card.begin(s.ctx)
	if err != nil || !s.reopened {
		return tx, err
	}
	serial, err := tx.Serial()
	if err == nil && s.serial != "" && serial != s.serial {
		err = fmt.Errorf("piv: %w: card %s, not %s", ErrOtherCard, serial, s.serial)
	}
	if err != nil {
		return nil, tx.finish(err)
	}
	s.reopened = false
	return tx, nil
}

// recover returns nil if the attempt that failed with err can be made again, and
// otherwise what to report. A card that another program has reset, which two that
// share one must survive, needs no reopening.
func (s *Session) recover(o operation, n int, err error) error {
	var interrupted *InterruptedError
	if !errors.As(err, &interrupted) || !errors.Is(err, smartcard.ErrUnavailable) || interrupted.KeyUsed && !o.repeatable {
		return err
	}
	if n == 0 && errors.Is(err, smartcard.ErrReset) && (s.pin != nil || !o.withPIN) {
		return nil
	}
	if s.cfg.Reopen == nil || n == interruptionsMax {
		return err
	}
	transport, reopenErr := s.cfg.Reopen(s.ctx, interrupted.Err)
	if reopenErr != nil {
		return &InterruptedError{Slot: o.slot, KeyUsed: interrupted.KeyUsed, Err: reopenErr}
	}
	s.card.swap(transport)
	s.reopened = true
	return nil
}

// notUsed makes of an interruption before the key's turn an *InterruptedError.
func notUsed(slot Slot, err error) error {
	var interrupted *InterruptedError
	if !errors.Is(err, smartcard.ErrUnavailable) || errors.As(err, &interrupted) {
		return err
	}
	return &InterruptedError{Slot: slot, Err: err}
}

// askPIN sees to it that the session has a PIN to try, or that the person knows
// that it is about to be entered on the reader's keypad.
func (s *Session) askPIN(slot Slot) error {
	if s.pin != nil || s.onPad() && s.cfg.Pad == nil {
		return nil
	}
	r := PINRequest{Reason: s.cfg.Reason, Slot: slot}
	tx, err := s.begin()
	if err != nil {
		return err
	}
	if r.Serial, err = tx.Serial(); err == nil {
		r.TriesLeft, err = s.triesLeft(tx)
	}
	if err := tx.finish(err); err != nil {
		return err
	}
	s.serial = r.Serial
	if s.onPad() {
		return s.announce(r)
	}
	pin, err := s.cfg.PIN(s.ctx, r)
	if err != nil {
		clear(pin)
		return fmt.Errorf("piv: PIN of card %s: %w", r.Serial, err)
	}
	s.pin = bytes.Clone(pin)
	clear(pin)
	return nil
}

// triesLeft asks the card and refuses where the PIN had better not be tried.
func (s *Session) triesLeft(tx *Tx) (int, error) {
	n, err := tx.PINTries()
	switch {
	case err != nil:
		return 0, err
	case n == 0:
		return 0, fmt.Errorf("piv: %w", smartcard.NewPINError("PIN", smartcard.StatusBlocked))
	case n == 1 && !s.cfg.AllowLastTry:
		return 0, fmt.Errorf("piv: %w", ErrLastTry)
	}
	return n, nil
}

// verify proves the PIN. A PIN that the card has not accepted yet is tried only
// after another look at the tries: while a person typed, others may have used
// them up.
func (s *Session) verify(tx *Tx) error {
	if s.onPad() {
		tx.lastTry = s.cfg.AllowLastTry
		return tx.VerifyPINOnPad()
	}
	if !s.proven {
		if _, err := s.triesLeft(tx); err != nil {
			return err
		}
	}
	err := tx.VerifyPIN(s.pin)
	var refused *smartcard.PINError
	switch {
	case err == nil:
		s.proven = true
	case errors.As(err, &refused), errors.Is(err, ErrPINFormat), !s.proven:
		s.dropPIN()
	}
	return err
}
