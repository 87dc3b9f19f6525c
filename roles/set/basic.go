package set

import (
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

// RRPID identifies one pair of request and response; random (SET §2.4).
type RRPID [20]byte

// XID identifies one purchase everywhere; random (SET §2.4).
type XID [20]byte

// Challenge is a random value that the peer must return (SET §2.4).
type Challenge [20]byte

// Nonce is a random value that makes a structure unpredictable (SET §2.4).
type Nonce [20]byte

// Digest is a SHA-256 value (SET §2.4, profile A2).
type Digest = pki.Digest

// LocalID identifies a transaction or request at one party: 1 to 20 octets (SET §2.4).
type LocalID []byte

// DERType gives the bounds of a LocalID.
func (LocalID) DERType() der.Type { return der.Type{Kind: der.Octets, Min: 1, Max: 20} }

func (v RRPID) String() string     { return hex.EncodeToString(v[:]) }
func (v XID) String() string       { return hex.EncodeToString(v[:]) }
func (v Challenge) String() string { return hex.EncodeToString(v[:]) }
func (v Nonce) String() string     { return hex.EncodeToString(v[:]) }
func (v LocalID) String() string   { return hex.EncodeToString(v) }

// MarshalText gives the identifier in hexadecimal.
func (v RRPID) MarshalText() ([]byte, error)     { return hex.AppendEncode(nil, v[:]), nil }
func (v XID) MarshalText() ([]byte, error)       { return hex.AppendEncode(nil, v[:]), nil }
func (v Challenge) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, v[:]), nil }
func (v Nonce) MarshalText() ([]byte, error)     { return hex.AppendEncode(nil, v[:]), nil }
func (v LocalID) MarshalText() ([]byte, error)   { return hex.AppendEncode(nil, v), nil }

// UnmarshalText reads the hexadecimal form of exactly the type's size.
func (v *RRPID) UnmarshalText(b []byte) error     { return fromHex(v[:], b) }
func (v *XID) UnmarshalText(b []byte) error       { return fromHex(v[:], b) }
func (v *Challenge) UnmarshalText(b []byte) error { return fromHex(v[:], b) }
func (v *Nonce) UnmarshalText(b []byte) error     { return fromHex(v[:], b) }

// UnmarshalText reads 1 to 20 octets in hexadecimal.
func (v *LocalID) UnmarshalText(b []byte) error {
	if len(b) < 2 || len(b) > 40 {
		return fmt.Errorf("local identifier of %d characters, want 2 to 40 hexadecimal digits", len(b))
	}
	id := make(LocalID, hex.DecodedLen(len(b)))
	if err := fromHex(id, b); err != nil {
		return err
	}
	*v = id
	return nil
}

func fromHex(dst, text []byte) error {
	if len(text) != hex.EncodedLen(len(dst)) {
		return fmt.Errorf("%d characters, want %d hexadecimal digits", len(text), hex.EncodedLen(len(dst)))
	}
	octets := make([]byte, len(dst))
	if _, err := hex.Decode(octets, text); err != nil {
		return fmt.Errorf("want hexadecimal digits: %w", err)
	}
	copy(dst, octets)
	return nil
}

// BIN is a bank identification number: the first six digits of a PAN (SET §2.4).
type BIN string

// BrandID is "BrandName" or "BrandName:Product" (SET §2.4).
type BrandID string

// MerchantID is the merchant's number at its acquirer (SET §2.4).
type MerchantID string

// SWIdent names vendor, product and version of the sender's software (SET §2.4).
type SWIdent string

// Language is an RFC 1766 language tag (SET §2.4).
type Language string

// URL is a uniform resource locator (SET §2.4).
type URL string

// Phone is a telephone number (SET §2.4).
type Phone string

// CountryCode is an ISO 3166 numeric country (SET §2.4).
type CountryCode int64

// Natural is INTEGER (0..MAX); setkit holds 63 bits.
type Natural int64

// Positive is INTEGER (1..MAX); setkit holds 63 bits.
type Positive int64

// DERType gives the wire type and its bounds.
func (BIN) DERType() der.Type         { return der.Type{Kind: der.Numeric, Min: 6, Max: 6} }
func (BrandID) DERType() der.Type     { return setString(40) }
func (MerchantID) DERType() der.Type  { return setString(30) }
func (SWIdent) DERType() der.Type     { return visible(256) }
func (Language) DERType() der.Type    { return visible(35) }
func (URL) DERType() der.Type         { return visible(512) }
func (Phone) DERType() der.Type       { return setString(20) }
func (CountryCode) DERType() der.Type { return der.Type{Kind: der.Integer, Min: 1, Max: 999} }
func (Natural) DERType() der.Type     { return der.Type{Kind: der.Integer, Min: 0, Max: math.MaxInt64} }
func (Positive) DERType() der.Type    { return der.Type{Kind: der.Integer, Min: 1, Max: math.MaxInt64} }

func setString(most int64) der.Type { return der.Type{Kind: der.SETString, Min: 1, Max: most} }
func visible(most int64) der.Type   { return der.Type{Kind: der.Visible, Min: 1, Max: most} }

// Matches tells whether two brands are the same: the names whatever their case, and the products
// exactly when both have one (SET §2.4).
func (b BrandID) Matches(other BrandID) bool {
	name, product, has := strings.Cut(string(b), ":")
	otherName, otherProduct, otherHas := strings.Cut(string(other), ":")
	if !strings.EqualFold(name, otherName) {
		return false
	}
	return !has || !otherHas || product == otherProduct
}

// Strings of SETString{n}: 1 to n characters, named by their bound (SET §2.4).
type (
	Text2   string
	Text4   string
	Text5   string
	Text6   string
	Text8   string
	Text10  string
	Text12  string
	Text14  string
	Text15  string
	Text20  string
	Text25  string
	Text28  string
	Text29  string
	Text35  string
	Text50  string
	Text128 string
	Text200 string
	Text512 string
)

func (Text2) DERType() der.Type   { return setString(2) }
func (Text4) DERType() der.Type   { return setString(4) }
func (Text5) DERType() der.Type   { return setString(5) }
func (Text6) DERType() der.Type   { return setString(6) }
func (Text8) DERType() der.Type   { return setString(8) }
func (Text10) DERType() der.Type  { return setString(10) }
func (Text12) DERType() der.Type  { return setString(12) }
func (Text14) DERType() der.Type  { return setString(14) }
func (Text15) DERType() der.Type  { return setString(15) }
func (Text20) DERType() der.Type  { return setString(20) }
func (Text25) DERType() der.Type  { return setString(25) }
func (Text28) DERType() der.Type  { return setString(28) }
func (Text29) DERType() der.Type  { return setString(29) }
func (Text35) DERType() der.Type  { return setString(35) }
func (Text50) DERType() der.Type  { return setString(50) }
func (Text128) DERType() der.Type { return setString(128) }
func (Text200) DERType() der.Type { return setString(200) }
func (Text512) DERType() der.Type { return setString(512) }

// MsgExtensions are the extensions of one structure, in the sender's order (SET §2.5).
type MsgExtensions []MsgExtension

// MsgExtension is one extension: a party that does not know a critical one must refuse the message.
type MsgExtension struct {
	ID       asn1.ObjectIdentifier // extnID
	Critical bool                  `der:"default=false"`
	Value    der.Raw               `der:"[0]e"` // extnValue: the DER of the extension's type
}

// Unknown gives the first critical extension that is not among known: the errorOID of an Error
// unrecognizedExtension.
func (e MsgExtensions) Unknown(known ...asn1.ObjectIdentifier) (asn1.ObjectIdentifier, bool) {
	for _, x := range e {
		if x.Critical && !slices.ContainsFunc(known, x.ID.Equal) {
			return x.ID, true
		}
	}
	return nil, false
}

// Find gives the value of the extension with this identifier, nil when there is none.
func (e MsgExtensions) Find(id asn1.ObjectIdentifier) der.Raw {
	for _, x := range e {
		if x.ID.Equal(id) {
			return x.Value
		}
	}
	return nil
}

// names are the names of an enumeration's values, the first of which is first. An empty name is a
// value that SET reserves.
type names struct {
	first int
	list  []string
}

func (n names) of(value int) string {
	if !n.known(value) {
		return fmt.Sprintf("unknown(%d)", value)
	}
	return n.list[value-n.first]
}

func (n names) known(value int) bool {
	i := value - n.first
	return i >= 0 && i < len(n.list) && n.list[i] != ""
}

func (n names) derType() der.Type {
	return der.Type{Kind: der.Enum, Min: int64(n.first), Max: int64(n.first + len(n.list) - 1)}
}
