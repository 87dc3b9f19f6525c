package der

import (
	"encoding/asn1"
	"fmt"
	"math/big"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"
)

var (
	rawType    = reflect.TypeFor[Raw]()
	nullType   = reflect.TypeFor[Null]()
	choiceType = reflect.TypeFor[Choice]()
	bigIntType = reflect.TypeFor[*big.Int]()
	timeType   = reflect.TypeFor[time.Time]()
	oidType    = reflect.TypeFor[asn1.ObjectIdentifier]()
	bitsType   = reflect.TypeFor[asn1.BitString]()
	typerType  = reflect.TypeFor[Typer]()
)

// field is what a struct field's tag says.
type field struct {
	index    int
	name     string
	tagged   bool
	tag      uint32
	explicit bool
	optional bool
	set      bool
	sized    bool
	min, max int // of a SEQUENCE OF, or of a plain []byte
	deflt    *int64
}

// structure is a struct type, compiled.
type structure struct {
	choice bool
	fields []field
}

var structures sync.Map // reflect.Type to *structure

// structureOf compiles a struct type. A malformed tag is an error of the program: it panics.
func structureOf(t reflect.Type) *structure {
	if s, ok := structures.Load(t); ok {
		return s.(*structure)
	}
	s := &structure{}
	for i := range t.NumField() {
		sf := t.Field(i)
		if sf.Type == choiceType {
			s.choice = true
			continue
		}
		f, err := parseField(sf.Tag.Get("der"))
		if err != nil {
			panic(fmt.Sprintf("der: %s.%s: %v", t, sf.Name, err))
		}
		f.index, f.name = i, sf.Name
		s.fields = append(s.fields, f)
	}
	structures.Store(t, s)
	return s
}

func parseField(tag string) (f field, err error) {
	for word := range strings.FieldsSeq(tag) {
		switch {
		case word == "opt":
			f.optional = true
		case word == "set":
			f.set = true
		case strings.HasPrefix(word, "["):
			number, explicit, ok := strings.Cut(word[1:], "]")
			n, err := strconv.ParseUint(number, 10, 28)
			if !ok || err != nil || explicit != "" && explicit != "e" {
				return f, fmt.Errorf("bad tag %q", word)
			}
			f.tagged, f.tag, f.explicit = true, uint32(n), explicit == "e"
		case strings.HasPrefix(word, "size="):
			low, high, ok := strings.Cut(word[len("size="):], "..")
			f.sized, f.max = true, ElementsMax
			if f.min, err = strconv.Atoi(low); err != nil || !ok {
				return f, fmt.Errorf("bad size %q", word)
			}
			if high != "" {
				if f.max, err = strconv.Atoi(high); err != nil {
					return f, fmt.Errorf("bad size %q", word)
				}
			}
		case strings.HasPrefix(word, "default="):
			n, err := defaultValue(word[len("default="):])
			if err != nil {
				return f, err
			}
			f.deflt = &n
		default:
			return f, fmt.Errorf("unknown word %q", word)
		}
	}
	return f, nil
}

func defaultValue(s string) (int64, error) {
	switch s {
	case "true":
		return 1, nil
	case "false":
		return 0, nil
	}
	return strconv.ParseInt(s, 10, 64)
}

// typeOf gives what a Typer says of itself.
func typeOf(t reflect.Type) (Type, bool) {
	if t.Kind() == reflect.Pointer || !t.Implements(typerType) { // a pointer has its element's methods
		return Type{}, false
	}
	return reflect.Zero(t).Interface().(Typer).DERType(), true
}

// natural gives the identifiers that an untagged value of type t may have; any is true for Raw.
func natural(t reflect.Type, f *field) (ids []ident, any bool) {
	if typ, ok := typeOf(t); ok {
		return naturalOfKind(typ.Kind), false
	}
	switch t {
	case rawType:
		return nil, true
	case nullType:
		return []ident{universal(tagNull)}, false
	case bigIntType:
		return []ident{universal(tagInteger)}, false
	case timeType:
		return []ident{universal(tagGeneralized)}, false
	case oidType:
		return []ident{universal(tagOID)}, false
	case bitsType:
		return []ident{universal(tagBitString)}, false
	}
	switch t.Kind() {
	case reflect.Pointer:
		return natural(t.Elem(), f)
	case reflect.Bool:
		return []ident{universal(tagBoolean)}, false
	case reflect.Int64, reflect.Int:
		return []ident{universal(tagInteger)}, false
	case reflect.Array:
		return []ident{universal(tagOctetString)}, false
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return []ident{universal(tagOctetString)}, false
		}
		if f.set {
			return []ident{sequence(tagSet)}, false
		}
		return []ident{sequence(tagSequence)}, false
	case reflect.Struct:
		s := structureOf(t)
		if !s.choice {
			return []ident{sequence(tagSequence)}, false
		}
		for i := range s.fields {
			more, all := expected(t.Field(s.fields[i].index).Type, &s.fields[i])
			if all {
				return nil, true
			}
			ids = append(ids, more...)
		}
		return ids, false
	}
	panic(fmt.Sprintf("der: type %s has no ASN.1 form", t))
}

func naturalOfKind(k Kind) []ident {
	switch k {
	case Octets:
		return []ident{universal(tagOctetString)}
	case Numeric:
		return []ident{universal(tagNumeric)}
	case Visible:
		return []ident{universal(tagVisible)}
	case SETString:
		return []ident{universal(tagVisible), universal(tagBMP)}
	case Integer:
		return []ident{universal(tagInteger)}
	case Enum:
		return []ident{universal(tagEnumerated)}
	case NamedBits:
		return []ident{universal(tagBitString)}
	case RealContent:
		return []ident{universal(tagReal)}
	}
	panic(fmt.Sprintf("der: unknown kind %d", k))
}

// expected gives the identifiers that the field may have on the wire.
func expected(t reflect.Type, f *field) (ids []ident, any bool) {
	if !f.tagged {
		return natural(t, f)
	}
	if f.explicit {
		return []ident{context(f.tag, true)}, false
	}
	inner, all := natural(t, f)
	if all || len(inner) != 1 {
		panic(fmt.Sprintf("der: [%d] on %s must be explicit", f.tag, t))
	}
	return []ident{context(f.tag, inner[0].constructed)}, false
}
