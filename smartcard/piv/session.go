package piv

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes of OAEP and of signatures
	_ "crypto/sha512"
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

	// AllowLastTry lets the session use the last try before the PIN is blocked.
	AllowLastTry bool
}

// Errors of a session, besides *smartcard.PINError.
var (
	// ErrLastTry means that only one try is left and was not used: a second
	// mistake would block the card.
	ErrLastTry = errors.New("only one PIN try is left; it is not used without explicit consent")

	// ErrWrongKey means that the card's result doesn't fit the public key: another
	// card, or a key that was generated anew.
	ErrWrongKey = errors.New("the card's result does not fit the public key; was the key replaced?")

	errSessionClosed = errors.New("piv: the session is closed")
)

// A Session holds the PIN of a card from its first use until Close. Its keys may
// be used concurrently.
type Session struct {
	ctx  context.Context
	card *Card
	cfg  SessionConfig

	mu     sync.Mutex
	pin    []byte // nil until asked for, and after it was wrong
	proven bool   // the card has accepted it
	closed bool
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
	s.dropPIN()
	s.closed = true
}

func (s *Session) dropPIN() {
	clear(s.pin)
	s.pin, s.proven = nil, false
}

// Signer returns the key of a slot, which has this public key: known from a
// certificate, or from Card.PublicKey. RSA signatures are PKCS #1 v1.5, ECDSA
// ones ASN.1. Each is verified before it is returned.
func (s *Session) Signer(slot Slot, public crypto.PublicKey) (crypto.Signer, error) {
	a, err := AlgorithmOf(public)
	if err != nil {
		return nil, err
	}
	return &sessionKey{session: s, slot: slot, algorithm: a, public: public}, nil
}

// Decrypter returns the RSA key of a slot; see Signer. It decrypts RSAES-OAEP,
// and wants *rsa.OAEPOptions with SHA-256, SHA-384 or SHA-512.
func (s *Session) Decrypter(slot Slot, public crypto.PublicKey) (crypto.Decrypter, error) {
	a, err := AlgorithmOf(public)
	if err != nil {
		return nil, err
	}
	if _, ok := public.(*rsa.PublicKey); !ok {
		return nil, fmt.Errorf("piv: slot %v holds an %v key, only RSA keys decrypt", slot, a)
	}
	return &sessionKey{session: s, slot: slot, algorithm: a, public: public}, nil
}

// sessionKey is a private key on the card.
type sessionKey struct {
	session   *Session
	slot      Slot
	algorithm Algorithm
	public    crypto.PublicKey
}

func (k *sessionKey) Public() crypto.PublicKey { return k.public }

// Sign signs a digest. The card's own randomness is used, not rand.
func (k *sessionKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if h := opts.HashFunc(); h != 0 && len(digest) != h.Size() {
		return nil, fmt.Errorf("piv: digest of %d bytes, %v has %d", len(digest), h, h.Size())
	}
	switch public := k.public.(type) {
	case *rsa.PublicKey:
		if _, ok := opts.(*rsa.PSSOptions); ok {
			return nil, errors.New("piv: RSA-PSS is not supported, use PKCS #1 v1.5")
		}
		block, err := padPKCS1v15(public.Size(), opts.HashFunc(), digest)
		if err != nil {
			return nil, err
		}
		sig, err := k.operate(block)
		if err != nil {
			return nil, err
		}
		if rsa.VerifyPKCS1v15(public, opts.HashFunc(), digest, sig) != nil {
			return nil, fmt.Errorf("piv: slot %v: %w", k.slot, ErrWrongKey)
		}
		return sig, nil
	case *ecdsa.PublicKey:
		sig, err := k.operate(fitDigest(digest, (public.Curve.Params().BitSize+7)/8))
		if err != nil {
			return nil, err
		}
		if !ecdsa.VerifyASN1(public, digest, sig) {
			return nil, fmt.Errorf("piv: slot %v: %w", k.slot, ErrWrongKey)
		}
		return sig, nil
	}
	return nil, fmt.Errorf("piv: key of type %T", k.public) // AlgorithmOf lets none through
}

// fitDigest gives a digest the length of the curve, as ECDSA does: it keeps the
// leftmost bits of a longer one, and cards want the whole length of a shorter.
func fitDigest(digest []byte, size int) []byte {
	if len(digest) >= size {
		return digest[:size]
	}
	return append(make([]byte, size-len(digest)), digest...)
}

// Decrypt opens an RSAES-OAEP message. Whatever is wrong with the message, the
// error is rsa.ErrDecryption.
func (k *sessionKey) Decrypt(_ io.Reader, msg []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	oaep, ok := opts.(*rsa.OAEPOptions)
	if !ok {
		return nil, fmt.Errorf("piv: decryption options of type %T, want *rsa.OAEPOptions", opts)
	}
	if _, _, err := oaepHashes(oaep); err != nil {
		return nil, err
	}
	if len(msg) != k.public.(*rsa.PublicKey).Size() {
		return nil, rsa.ErrDecryption
	}
	block, err := k.operate(msg)
	if err != nil {
		if errors.Is(err, smartcard.StatusWrongData) { // a number beyond the modulus
			return nil, rsa.ErrDecryption
		}
		return nil, err
	}
	return unpadOAEP(block, oaep)
}

// operate lets the card use the private key on in. The PIN comes immediately
// before, which is what slot 9c demands and what the others, whose PIN was
// withdrawn after its last use, need as well.
func (k *sessionKey) operate(in []byte) ([]byte, error) {
	s := k.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errSessionClosed
	}
	if k.slot != SlotCardAuthentication {
		if err := s.askPIN(k.slot); err != nil {
			return nil, err
		}
	}
	var out []byte
	err := s.card.Do(s.ctx, func(tx *Tx) error {
		if k.slot != SlotCardAuthentication {
			if err := s.verify(tx); err != nil {
				return err
			}
		}
		var err error
		out, err = tx.usePrivateKey(k.slot, k.algorithm, in)
		return err
	})
	if err != nil {
		clear(out)
		return nil, err
	}
	if rsaKey, ok := k.public.(*rsa.PublicKey); ok && len(out) != rsaKey.Size() {
		return nil, fmt.Errorf("piv: slot %v: %d bytes, want %d: %w", k.slot, len(out), rsaKey.Size(), ErrWrongKey)
	}
	return out, nil
}

// askPIN sees to it that the session has a PIN to try.
func (s *Session) askPIN(slot Slot) error {
	if s.pin != nil {
		return nil
	}
	r := PINRequest{Reason: s.cfg.Reason, Slot: slot}
	err := s.card.Do(s.ctx, func(tx *Tx) (err error) {
		if r.Serial, err = tx.Serial(); err != nil {
			return err
		}
		r.TriesLeft, err = s.triesLeft(tx)
		return err
	})
	if err != nil {
		return err
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
	case errors.As(err, &refused), errors.Is(err, ErrPINFormat):
		s.dropPIN()
	}
	return err
}

// usePrivateKey is GENERAL AUTHENTICATE: 7C { 82, 81 in } gives 7C { 82 out }.
func (tx *Tx) usePrivateKey(slot Slot, a Algorithm, in []byte) ([]byte, error) {
	body := iso7816.AppendTLV(nil, tagResponse, nil)
	body = iso7816.AppendTLV(body, tagChallenge, in)
	data, err := tx.command(fmt.Sprintf("use the key of slot %v", slot), iso7816.Command{
		INS: insAuthenticate, P1: byte(a), P2: byte(slot),
		Data: iso7816.AppendTLV(nil, tagTemplate, body), Ne: neAll,
	})
	if err != nil {
		return nil, err
	}
	return insideTemplate(data, tagResponse)
}
