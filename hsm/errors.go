package hsm

import (
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

var (
	// ErrUnavailable matches every error that means the token cannot be used at present: no library,
	// no token, a lost session, a device error, or too many callers. Trying later may help. In its
	// tree is one with a method Unavailable() bool that returns true, for those who do not import
	// this package.
	ErrUnavailable error = unavailable{}

	// ErrNotFound matches the error for a key that is not in its token.
	ErrNotFound = errors.New("key not found")

	// ErrKeyExists matches the error for a key whose label is taken.
	ErrKeyExists = errors.New("a key with this label exists")

	// ErrTokenExists matches the error for a token whose label is taken.
	ErrTokenExists = errors.New("a token with this label exists")

	// ErrNotPermitted matches the error for a key that is used against its purpose.
	ErrNotPermitted = errors.New("the key's usages do not permit this")

	// ErrNotAuthentic matches the error for sealed data that this key did not seal with these
	// associated data, or that was changed since.
	ErrNotAuthentic = errors.New("sealed data are not authentic")
)

type unavailable struct{}

func (unavailable) Error() string     { return "device unavailable, retry" }
func (unavailable) Unavailable() bool { return true }

// Tries is what a token tells about the tries left for its PIN. No token tells their number.
type Tries int

const (
	TriesUnknown Tries = iota // the token tells nothing
	TriesReduced              // at least one wrong PIN since the last right one
	TriesOneLeft              // one more wrong PIN locks the token
	TriesNone                 // the PIN is locked
)

// PINError is the refusal of a PIN by a token.
type PINError struct {
	Token string // label of the token
	Code  string // of PKCS#11, such as CKR_PIN_INCORRECT; empty when the token was not asked
	Tries Tries
}

func (e *PINError) Error() string {
	s := fmt.Sprintf("token %q refuses the PIN", e.Token)
	if e.Code != "" {
		s += " (" + e.Code + ")"
	}
	if e.Code == codeName(pkcs11.CKR_PIN_EXPIRED) {
		return s + ": it has expired: the security officer sets a new one with set-hsm pin --so-pin-source"
	}
	switch e.Tries {
	case TriesReduced:
		s += ": it counts wrong PINs: check the PIN source before another try"
	case TriesOneLeft:
		s += ": one more wrong PIN locks the token: check the PIN source before another try"
	case TriesNone:
		s += ": the PIN is locked: the security officer sets a new one with set-hsm pin --so-pin-source"
	default:
		s += ": check the PIN source before another try"
	}
	return s
}

func triesFrom(tokenFlags uint) Tries {
	switch {
	case tokenFlags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return TriesNone
	case tokenFlags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0:
		return TriesOneLeft
	case tokenFlags&pkcs11.CKF_USER_PIN_COUNT_LOW != 0:
		return TriesReduced
	}
	return TriesUnknown
}

// callError is a PKCS#11 function that returned an error code.
type callError struct {
	function string
	code     pkcs11.Error
}

func (e *callError) Error() string {
	c := explain(e.code)
	return e.function + ": " + c.name + ": " + c.cause + "; " + c.fix
}

// brief is the function and the name of the code in err, for a sentence that says the rest.
func brief(err error) string {
	if e, ok := errors.AsType[*callError](err); ok {
		return e.function + ": " + codeName(e.code)
	}
	return err.Error()
}

// Is makes the codes that mean a lost device, session or login match ErrUnavailable.
func (e *callError) Is(target error) bool {
	l := codes[e.code].loss
	return target == ErrUnavailable && (l == lossSession || l == lossDevice)
}

// Unavailable tells those who do not import this package; see ErrUnavailable.
func (e *callError) Unavailable() bool { return e.Is(ErrUnavailable) }

// named gives the error of a PKCS#11 function the function's name.
func named(function string, err error) error {
	if err == nil {
		return nil
	}
	if code, ok := errors.AsType[pkcs11.Error](err); ok {
		return &callError{function, code}
	}
	return fmt.Errorf("%s: %w", function, err)
}

// followed is err, and in the same line what went wrong after it; what is nil is left out.
func followed(err error, after ...error) error {
	for _, e := range after {
		switch {
		case err == nil:
			err = e
		case e != nil:
			err = fmt.Errorf("%w; then %w", err, e)
		}
	}
	return err
}

// codeOf returns the PKCS#11 code in err, or CKR_OK if there is none.
func codeOf(err error) pkcs11.Error {
	if e, ok := errors.AsType[*callError](err); ok {
		return e.code
	}
	code, _ := errors.AsType[pkcs11.Error](err)
	return code
}

// codeName returns the name of a code as PKCS#11 spells it.
func codeName(code pkcs11.Error) string {
	if c, ok := codes[code]; ok {
		return c.name
	}
	return fmt.Sprintf("CKR_0x%X", uint(code))
}
