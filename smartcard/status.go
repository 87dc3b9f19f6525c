package smartcard

import (
	"errors"
	"fmt"
)

// Status is the status word that a card ended a command with. Every value but
// StatusOK is an error; compare with errors.Is.
type Status uint16

// Status words, ISO/IEC 7816-4 section 5.6 and NIST SP 800-73-4 part 2.
const (
	StatusOK                 Status = 0x9000
	StatusMemoryFailure      Status = 0x6581
	StatusWrongLength        Status = 0x6700
	StatusNoSecureMessaging  Status = 0x6882
	StatusSecurity           Status = 0x6982
	StatusBlocked            Status = 0x6983
	StatusConditions         Status = 0x6985
	StatusWrongData          Status = 0x6A80
	StatusFunction           Status = 0x6A81
	StatusNotFound           Status = 0x6A82
	StatusFull               Status = 0x6A84
	StatusWrongParameters    Status = 0x6A86
	StatusNoReference        Status = 0x6A88
	StatusInstruction        Status = 0x6D00
	StatusClass              Status = 0x6E00
	StatusUnknown            Status = 0x6F00
	statusTriesLeft          Status = 0x63C0 // the last digit counts
	statusTriesLeftMask      Status = 0xFFF0
	statusTriesLeftCountMask Status = 0x000F
)

var statusMeanings = map[Status]string{
	StatusOK:                "success",
	StatusMemoryFailure:     "the card could not write its memory",
	StatusWrongLength:       "wrong length",
	StatusNoSecureMessaging: "secure messaging not supported",
	StatusSecurity:          "security status not satisfied: PIN or management key needed first",
	StatusBlocked:           "blocked, no tries left",
	StatusConditions:        "conditions of use not satisfied",
	StatusWrongData:         "wrong data in the command",
	StatusFunction:          "function not supported",
	StatusNotFound:          "object or application not found",
	StatusFull:              "not enough memory on the card",
	StatusWrongParameters:   "wrong parameters P1-P2",
	StatusNoReference:       "key or reference not found",
	StatusInstruction:       "instruction not supported",
	StatusClass:             "class not supported",
	StatusUnknown:           "the card gives no reason",
}

// Error names the code and its meaning, such as "63C2: 2 tries left".
func (s Status) Error() string {
	if n, ok := s.TriesLeft(); ok {
		return fmt.Sprintf("%04X: %s", uint16(s), triesLeft(n))
	}
	meaning, ok := statusMeanings[s]
	if !ok {
		meaning = "unknown status word"
	}
	return fmt.Sprintf("%04X: %s", uint16(s), meaning)
}

// TriesLeft gives the number that a status word 63Cx counts.
func (s Status) TriesLeft() (n int, ok bool) {
	if s&statusTriesLeftMask != statusTriesLeft {
		return 0, false
	}
	return int(s & statusTriesLeftCountMask), true
}

// Err is nil for StatusOK and s for every other status word.
func (s Status) Err() error {
	if s == StatusOK {
		return nil
	}
	return s
}

func triesLeft(n int) string {
	switch n {
	case 0:
		return "no tries left"
	case 1:
		return "1 try left"
	default:
		return fmt.Sprintf("%d tries left", n)
	}
}

// PINError reports that the card refused a PIN, or that the PIN is blocked. It
// wraps the Status.
type PINError struct {
	Reference string // "PIN" or "PUK"
	TriesLeft int    // 0: blocked
	Status    Status
}

// NewPINError makes of the status word that answered a VERIFY, CHANGE REFERENCE
// DATA or RESET RETRY COUNTER its error: a *PINError for 63Cx and 6983, nil for
// 9000, the Status otherwise. reference is "PIN" or "PUK".
func NewPINError(reference string, s Status) error {
	if n, ok := s.TriesLeft(); ok {
		return &PINError{Reference: reference, TriesLeft: n, Status: s}
	}
	if s == StatusBlocked {
		return &PINError{Reference: reference, Status: s}
	}
	return s.Err()
}

// Error says how many tries are left, and what helps when there are none.
func (e *PINError) Error() string {
	if e.TriesLeft > 0 {
		return fmt.Sprintf("wrong %s (%v)", e.Reference, e.Status)
	}
	help := "unblock it with the PUK"
	if e.Reference == "PUK" {
		help = "only a reset of the card, which deletes its keys, helps now"
	}
	return fmt.Sprintf("%s is blocked (%v); %s", e.Reference, e.Status, help)
}

// Unwrap gives the Status.
func (e *PINError) Unwrap() error { return e.Status }

// ErrUnavailable is the class of the errors that mean: no card could be asked.
// The errors below match it with errors.Is, and so do those of a Transport that
// have no name here.
var ErrUnavailable = errors.New("smart card unavailable")

// The ways in which a card is unavailable.
var (
	ErrNoService   error = &unavailable{"no smart card service"}
	ErrDenied      error = &unavailable{"the smart card service does not serve this program"}
	ErrNoReader    error = &unavailable{"no such reader"}
	ErrNoCard      error = &unavailable{"no card in the reader"}
	ErrCardRemoved error = &unavailable{"the card was removed"}
	ErrReset       error = &unavailable{"the card was reset by another program"}
	ErrInUse       error = &unavailable{"the card is held exclusively by another program"}
	ErrMute        error = &unavailable{"the card does not answer; take it out and put it in again"}
)

// unavailable is an error of the class ErrUnavailable.
type unavailable struct{ text string }

func (e *unavailable) Error() string        { return e.text }
func (e *unavailable) Is(target error) bool { return target == ErrUnavailable }
