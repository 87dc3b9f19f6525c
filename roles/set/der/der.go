// Package der encodes Go values as ASN.1 DER and decodes them strictly, for the structures of SET.
//
// A structure is a Go struct whose fields stand in wire order; a field's tag says the rest in the
// notation of the message reference:
//
//	type PInitReq struct {
//		RRPID  RRPID
//		LIDM   LocalID `der:"[0] opt"`    // IMPLICIT [0] OPTIONAL
//		Thumbs *Thumbs `der:"[1]e opt"`   // EXPLICIT [1] OPTIONAL
//		Items  []Item  `der:"size=1..50"` // SEQUENCE SIZE(1..50) OF
//		Echo   bool    `der:"default=false"`
//	}
//
// Words of a tag: [n] (IMPLICIT), [n]e (EXPLICIT), opt, default=V, set (SET OF), size=MIN..MAX (MAX
// may be left out). An absent optional field is a nil pointer, a nil slice or an empty string.
//
//	bool BOOLEAN · int64 INTEGER, 64 bits · *big.Int INTEGER · [N]byte and []byte OCTET STRING ·
//	time.Time GeneralizedTime in UTC · asn1.ObjectIdentifier · asn1.BitString · struct SEQUENCE ·
//	slice SEQUENCE OF · struct with an embedded Choice: CHOICE, exactly one pointer field set ·
//	Raw any element as it stands · Null NULL · any type with a DERType method: what that says.
//
// Strings have no default form: a string type says by DERType which it is.
//
// Unmarshal accepts an input only if Marshal of the result gives the very same octets. So indefinite
// or padded lengths, encoded defaults, unsorted sets and every other BER freedom are refused, and a
// digest over the re-encoding of a decoded value is the digest over the octets received.
package der

import (
	"bytes"
	"fmt"
	"reflect"
)

// Limits of one encoding. Sizes of messages as a whole are limited by whoever reads them.
const (
	DepthMax    = 32   // nesting of constructed elements
	ElementsMax = 4096 // elements of one SEQUENCE OF or SET OF without a size bound
)

// Kind is the ASN.1 type of a Go type that does not tell it by itself.
type Kind int

// Kinds, with the Go kinds that can carry them.
const (
	Octets      Kind = iota + 1 // []byte: OCTET STRING of Min..Max octets
	Numeric                     // string or []byte: NumericString of Min..Max digits, no spaces
	Visible                     // string: VisibleString of Min..Max characters
	SETString                   // string: VisibleString, or BMPString when not printable ASCII (SET §2.4)
	Integer                     // int kinds: INTEGER from Min to Max
	Enum                        // int kinds: ENUMERATED from Min to Max
	NamedBits                   // uint kinds: BIT STRING with named bits, bit 0 is the lowest
	RealContent                 // []byte: REAL, the contents octets
)

// Type is a Kind with its bounds: characters, octets or values.
type Type struct {
	Kind     Kind
	Min, Max int64
}

// Typer is implemented by types whose ASN.1 type is not the one of their Go kind. DERType is called on
// zero values.
type Typer interface{ DERType() Type }

// Raw is the complete DER of one element of any type.
type Raw []byte

// Null is the NULL element.
type Null struct{}

// Choice, embedded, makes a struct of pointers a CHOICE: exactly one of them is not nil.
type Choice struct{}

// Error tells which element is malformed and how. It never quotes the contents of an element.
type Error struct {
	Path   string // names from the outermost structure inwards, such as "PInitReq.Thumbs"
	Msg    string
	Offset int // of the element in what was decoded, in octets; where one is missing, of the place for it
}

func (e *Error) Error() string {
	if e.Path == "" {
		return "der: " + e.Msg
	}
	return "der: " + e.Path + ": " + e.Msg
}

func fail(format string, args ...any) error { return &Error{Msg: fmt.Sprintf(format, args...)} }

// within puts name before the path of err.
func within(name string, err error) error {
	e, ok := err.(*Error)
	if !ok {
		return err
	}
	path := name
	if e.Path != "" {
		path += "." + e.Path
	}
	return &Error{path, e.Msg, e.Offset}
}

// behind tells that what err says of an element is of one that stands n octets further on.
func behind(n int, err error) error {
	e, ok := err.(*Error)
	if !ok || n == 0 {
		return err
	}
	return &Error{e.Path, e.Msg, e.Offset + n}
}

// Marshal gives the DER of v, a value or a pointer to one.
func Marshal(v any) ([]byte, error) {
	rv := reflect.ValueOf(v)
	for rv.Kind() == reflect.Pointer && rv.Type() != bigIntType {
		if rv.IsNil() {
			return nil, fail("nil %s", rv.Type())
		}
		rv = rv.Elem()
	}
	b, err := encode(nil, rv, &field{})
	if err != nil {
		return nil, within(rv.Type().Name(), err)
	}
	return b, nil
}

// MarshalSet gives the DER of a slice as SET OF.
func MarshalSet(v any) ([]byte, error) {
	return encode(nil, reflect.ValueOf(v), &field{set: true})
}

// Unmarshal decodes b, one element and nothing after it, into the value that v points to.
// What b holds is copied: v keeps no reference to it. With an error, v has what stands before the fault.
func Unmarshal(b []byte, v any) error {
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Pointer || rv.IsNil() {
		return fail("decoding into %T, want a pointer", v)
	}
	rv = rv.Elem()
	rv.SetZero()
	name := rv.Type().Name()
	d := decoder{}
	rest, err := d.decode(bytes.Clone(b), rv, &field{})
	if err != nil {
		return within(name, err)
	}
	if len(rest) > 0 {
		return within(name, behind(len(b)-len(rest), fail("%d octets after the end", len(rest))))
	}
	again, err := encode(nil, rv, &field{})
	if err != nil {
		return within(name, err)
	}
	if !bytes.Equal(again, b) {
		return within(name, fail("not the distinguished encoding"))
	}
	return nil
}
