package set

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"

	"github.com/setkit/setkit/roles/set/der"
)

// PANData is the account of a cardholder with a certificate, in a payment instruction (SET §2.7).
type PANData struct {
	PAN        PAN
	CardExpiry CardExpiry
	PANSecret  Secret
	ExNonce    Nonce // fresh in every instance; keeps the digest of the structure from being searched
}

// PANData0 is the account of a cardholder in a certificate request (SET §2.7).
type PANData0 struct {
	PAN        PAN
	CardExpiry CardExpiry
	CardSecret Secret
	ExNonce    Nonce
}

// PANToken is an account without a secret: in unsigned payment instructions and tokens (SET §2.7).
type PANToken struct {
	PAN        PAN
	CardExpiry CardExpiry
	ExNonce    Nonce
}

// PANOnly is the account that asks for a registration form (SET §2.7).
type PANOnly struct {
	PAN     PAN
	ExNonce Nonce
}

// AcctData is the account data of a merchant or gateway in a certificate request (SET §4.1).
type AcctData struct {
	AcctIdentification AcctIdentification
	ExNonce            Nonce
}

// AcctIdentification is exactly 74 characters, padded at the right with spaces. It prints masked.
type AcctIdentification string

// Sizes of the packed forms (SET §3.4), in octets.
const (
	panOctets    = 19
	expiryOctets = 6
	acctOctets   = 74
	nonceOctets  = 20

	PANDataOctets  = panOctets + expiryOctets + 2*nonceOctets
	PANTokenOctets = panOctets + expiryOctets + nonceOctets
	PANOnlyOctets  = panOctets + nonceOctets
	AcctDataOctets = acctOctets + nonceOctets
)

// panPad fills the packed PAN at the right.
const panPad = 0xff

// DERType gives the wire type and its bounds.
func (PAN) DERType() der.Type { return der.Type{Kind: der.Numeric, Min: 1, Max: panOctets} }
func (CardExpiry) DERType() der.Type {
	return der.Type{Kind: der.Numeric, Min: expiryOctets, Max: expiryOctets}
}
func (AcctIdentification) DERType() der.Type {
	return der.Type{Kind: der.Visible, Min: acctOctets, Max: acctOctets}
}

// NewAcctIdentification pads text, which is at most 74 characters of printable ASCII.
func NewAcctIdentification(text string) (AcctIdentification, error) {
	if len(text) > acctOctets {
		return "", fmt.Errorf("account identification has %d characters, want at most %d", len(text), acctOctets)
	}
	for i := range len(text) {
		if text[i] < 0x20 || text[i] > 0x7e {
			return "", fmt.Errorf("account identification has a character that is not printable ASCII")
		}
	}
	return AcctIdentification(text + strings.Repeat(" ", acctOctets-len(text))), nil
}

// Text is the identification without its padding. It is not masked.
func (a AcctIdentification) Text() string { return strings.TrimRight(string(a), " ") }

// Pack gives the extra data of EX (SET §3.4), or nil if p is not a PANData that DER can carry.
func (p PANData) Pack() []byte {
	return pack(p.PAN, p.CardExpiry, p.PANSecret[:], p.ExNonce[:])
}

// Pack gives the extra data of EncX in CertReq (SET §3.4), or nil if p is not one that DER can carry.
func (p PANData0) Pack() []byte {
	return pack(p.PAN, p.CardExpiry, p.CardSecret[:], p.ExNonce[:])
}

// Pack gives the extra data of EncX and EXH (SET §3.4), or nil if p is not one that DER can carry.
func (p PANToken) Pack() []byte { return pack(p.PAN, p.CardExpiry, nil, p.ExNonce[:]) }

// Pack gives the extra data of RegFormReq (SET §3.4), or nil if p is not one that DER can carry.
func (p PANOnly) Pack() []byte {
	if !digits(p.PAN, 1, panOctets) {
		return nil
	}
	return append(packPAN(p.PAN), p.ExNonce[:]...)
}

// Pack gives the extra data of CertReq (SET §3.4), or nil if a is not one that DER can carry.
func (a AcctData) Pack() []byte {
	if checkAcct(string(a.AcctIdentification)) != nil {
		return nil
	}
	return append([]byte(a.AcctIdentification), a.ExNonce[:]...)
}

// UnpackPANData reads the packed form. Like every Unpack it copies b, and its error never quotes b.
func UnpackPANData(b []byte) (p PANData, err error) {
	p.PAN, p.CardExpiry, err = unpack(b, PANDataOctets, p.PANSecret[:], p.ExNonce[:])
	return p, err
}

// UnpackPANData0 reads the packed form.
func UnpackPANData0(b []byte) (p PANData0, err error) {
	p.PAN, p.CardExpiry, err = unpack(b, PANDataOctets, p.CardSecret[:], p.ExNonce[:])
	return p, err
}

// UnpackPANToken reads the packed form.
func UnpackPANToken(b []byte) (p PANToken, err error) {
	p.PAN, p.CardExpiry, err = unpack(b, PANTokenOctets, nil, p.ExNonce[:])
	return p, err
}

// UnpackPANOnly reads the packed form.
func UnpackPANOnly(b []byte) (p PANOnly, err error) {
	if len(b) != PANOnlyOctets {
		return PANOnly{}, fmt.Errorf("packed account of %d octets, want %d", len(b), PANOnlyOctets)
	}
	if p.PAN, err = unpackPAN(b[:panOctets]); err != nil {
		return PANOnly{}, err
	}
	copy(p.ExNonce[:], b[panOctets:])
	return p, nil
}

// UnpackAcctData reads the packed form.
func UnpackAcctData(b []byte) (a AcctData, err error) {
	if len(b) != AcctDataOctets {
		return AcctData{}, fmt.Errorf("packed account data of %d octets, want %d", len(b), AcctDataOctets)
	}
	if err := checkAcct(string(b[:acctOctets])); err != nil {
		return AcctData{}, err
	}
	a.AcctIdentification = AcctIdentification(b[:acctOctets])
	copy(a.ExNonce[:], b[acctOctets:])
	return a, nil
}

func pack(pan PAN, expiry CardExpiry, secret, nonce []byte) []byte {
	if !digits(pan, 1, panOctets) || !digits(expiry, expiryOctets, expiryOctets) {
		return nil
	}
	out := append(packPAN(pan), expiry...)
	out = append(out, secret...)
	return append(out, nonce...)
}

// packPAN leaves room for the rest, so that no copy of the digits stays behind in a smaller array.
func packPAN(pan PAN) []byte {
	out := make([]byte, 0, PANDataOctets)
	out = append(out, pan...)
	return append(out, bytes.Repeat([]byte{panPad}, panOctets-len(pan))...)
}

func unpack(b []byte, size int, secret, nonce []byte) (PAN, CardExpiry, error) {
	if len(b) != size {
		return nil, nil, fmt.Errorf("packed account of %d octets, want %d", len(b), size)
	}
	pan, err := unpackPAN(b[:panOctets])
	if err != nil {
		return nil, nil, err
	}
	b = b[panOctets:]
	if !digits(b[:expiryOctets], expiryOctets, expiryOctets) {
		clear(pan)
		return nil, nil, fmt.Errorf("packed account: expiry has an octet that is not a digit")
	}
	expiry := CardExpiry(bytes.Clone(b[:expiryOctets]))
	b = b[expiryOctets:]
	copy(nonce, b[copy(secret, b):])
	return pan, expiry, nil
}

func unpackPAN(b []byte) (PAN, error) {
	pan := b
	for len(pan) > 0 && pan[len(pan)-1] == panPad {
		pan = pan[:len(pan)-1]
	}
	if !digits(pan, 1, panOctets) {
		return nil, fmt.Errorf("packed account: want 1 to %d digits, then padding only", panOctets)
	}
	return PAN(bytes.Clone(pan)), nil
}

func digits(b []byte, least, most int) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return least <= len(b) && len(b) <= most
}

func checkAcct(s string) error {
	if len(s) != acctOctets {
		return fmt.Errorf("account identification has %d characters, want %d", len(s), acctOctets)
	}
	_, err := NewAcctIdentification(s)
	return err
}

// Clear overwrites what is secret.
func (p *PANData) Clear() {
	clear(p.PAN)
	clear(p.CardExpiry)
	*p = PANData{}
}

// Clear overwrites what is secret.
func (p *PANData0) Clear() {
	clear(p.PAN)
	clear(p.CardExpiry)
	*p = PANData0{}
}

// Clear overwrites what is secret.
func (p *PANToken) Clear() {
	clear(p.PAN)
	clear(p.CardExpiry)
	*p = PANToken{}
}

// Clear overwrites what is secret.
func (p *PANOnly) Clear() {
	clear(p.PAN)
	*p = PANOnly{}
}

// The whole structures print masked, not only the secrets in them: who has the nonce and a digest of
// the structure could search for the PAN.

func (PANData) String() string            { return masked }
func (PANData0) String() string           { return masked }
func (PANToken) String() string           { return masked }
func (PANOnly) String() string            { return masked }
func (AcctData) String() string           { return masked }
func (AcctIdentification) String() string { return masked }

func (PANData) LogValue() slog.Value            { return slog.StringValue(masked) }
func (PANData0) LogValue() slog.Value           { return slog.StringValue(masked) }
func (PANToken) LogValue() slog.Value           { return slog.StringValue(masked) }
func (PANOnly) LogValue() slog.Value            { return slog.StringValue(masked) }
func (AcctData) LogValue() slog.Value           { return slog.StringValue(masked) }
func (AcctIdentification) LogValue() slog.Value { return slog.StringValue(masked) }

func (PANData) Format(f fmt.State, _ rune)            { fmt.Fprint(f, masked) }
func (PANData0) Format(f fmt.State, _ rune)           { fmt.Fprint(f, masked) }
func (PANToken) Format(f fmt.State, _ rune)           { fmt.Fprint(f, masked) }
func (PANOnly) Format(f fmt.State, _ rune)            { fmt.Fprint(f, masked) }
func (AcctData) Format(f fmt.State, _ rune)           { fmt.Fprint(f, masked) }
func (AcctIdentification) Format(f fmt.State, _ rune) { fmt.Fprint(f, masked) }

func (PANData) MarshalJSON() ([]byte, error)            { return []byte(`"` + masked + `"`), nil }
func (PANData0) MarshalJSON() ([]byte, error)           { return []byte(`"` + masked + `"`), nil }
func (PANToken) MarshalJSON() ([]byte, error)           { return []byte(`"` + masked + `"`), nil }
func (PANOnly) MarshalJSON() ([]byte, error)            { return []byte(`"` + masked + `"`), nil }
func (AcctData) MarshalJSON() ([]byte, error)           { return []byte(`"` + masked + `"`), nil }
func (AcctIdentification) MarshalJSON() ([]byte, error) { return []byte(`"` + masked + `"`), nil }
