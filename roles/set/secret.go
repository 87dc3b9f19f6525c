package set

import (
	"bytes"
	"fmt"
	"log/slog"
)

// masked is what every secret type prints, whatever the verb or encoder.
const masked = "***"

// PAN is a primary account number, 1 to 19 ASCII digits. It prints masked; whoever must send the
// digits takes the bytes. Masked gives the form that a receipt may show.
type PAN []byte

// CardExpiry is the month a card expires, YYYYMM in ASCII digits. It prints masked, because PAN and
// expiry together are enough to pay.
type CardExpiry []byte

// Secret is 20 octets known to few: CardSecret, NonceCCA and PANSecret (SET §6.4).
type Secret [20]byte

func (PAN) String() string        { return masked }
func (CardExpiry) String() string { return masked }
func (Secret) String() string     { return masked }

func (PAN) LogValue() slog.Value        { return slog.StringValue(masked) }
func (CardExpiry) LogValue() slog.Value { return slog.StringValue(masked) }
func (Secret) LogValue() slog.Value     { return slog.StringValue(masked) }

func (PAN) Format(f fmt.State, _ rune)        { fmt.Fprint(f, masked) }
func (CardExpiry) Format(f fmt.State, _ rune) { fmt.Fprint(f, masked) }
func (Secret) Format(f fmt.State, _ rune)     { fmt.Fprint(f, masked) }

func (PAN) MarshalJSON() ([]byte, error)        { return []byte(`"` + masked + `"`), nil }
func (CardExpiry) MarshalJSON() ([]byte, error) { return []byte(`"` + masked + `"`), nil }
func (Secret) MarshalJSON() ([]byte, error)     { return []byte(`"` + masked + `"`), nil }

// ParsePAN checks that s is 12 to 19 digits with a valid check digit (ISO/IEC 7812-1) and copies it.
// Its error never quotes s.
func ParsePAN(s []byte) (PAN, error) {
	if len(s) < 12 || len(s) > 19 {
		return nil, fmt.Errorf("card number has %d characters, want 12 to 19 digits", len(s))
	}
	sum := 0
	for i := range s {
		c := s[len(s)-1-i]
		if c < '0' || c > '9' {
			return nil, fmt.Errorf("card number has a character that is not a digit")
		}
		d := int(c - '0')
		if i%2 == 1 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	if sum%10 != 0 {
		return nil, fmt.Errorf("card number fails its check digit: look for a mistyped digit")
	}
	return PAN(bytes.Clone(s)), nil
}

// Masked shows the last four digits of a PAN of at least 12; of a shorter one it shows nothing.
func (p PAN) Masked() string {
	if len(p) < 12 {
		return masked
	}
	return "**** " + string(p[len(p)-4:])
}

// BIN is the first six digits of the PAN.
func (p PAN) BIN() BIN {
	if len(p) < 6 {
		return ""
	}
	return BIN(p[:6])
}

// ParseCardExpiry checks that s is YYYYMM and copies it. Its error never quotes s.
func ParseCardExpiry(s []byte) (CardExpiry, error) {
	if len(s) != 6 {
		return nil, fmt.Errorf("card expiry has %d characters, want YYYYMM", len(s))
	}
	for _, c := range s {
		if c < '0' || c > '9' {
			return nil, fmt.Errorf("card expiry has a character that is not a digit, want YYYYMM")
		}
	}
	if m := string(s[4:]); m < "01" || m > "12" {
		return nil, fmt.Errorf("card expiry has no month 01 to 12, want YYYYMM")
	}
	return CardExpiry(bytes.Clone(s)), nil
}
