package der

import (
	"math/big"
	"math/bits"
	"reflect"
	"unicode/utf16"
)

// typedContents encodes a value whose type says its Kind.
func typedContents(v reflect.Value, typ Type) (ident, []byte, error) {
	switch typ.Kind {
	case Octets, RealContent:
		b := v.Bytes()
		if err := bounded(len(b), typ); err != nil {
			return ident{}, nil, err
		}
		if typ.Kind == RealContent {
			return universal(tagReal), b, checkReal(b)
		}
		return universal(tagOctetString), b, nil
	case Numeric, Visible:
		b := textOf(v)
		return naturalOfKind(typ.Kind)[0], b, checkText(b, typ)
	case SETString:
		return setStringContents(v.String(), typ)
	case Integer, Enum:
		n := v.Int()
		if n < typ.Min || n > typ.Max {
			return ident{}, nil, fail("value %d outside %d..%d", n, typ.Min, typ.Max)
		}
		return naturalOfKind(typ.Kind)[0], bigContents(big.NewInt(n)), nil
	case NamedBits:
		return universal(tagBitString), namedBits(v.Uint()), nil
	}
	return ident{}, nil, fail("unknown kind %d", typ.Kind)
}

// setTyped decodes content into v. The tag number tells the two forms of a SETString apart.
func setTyped(v reflect.Value, typ Type, tag uint32, content []byte) error {
	switch typ.Kind {
	case Octets, RealContent:
		if err := bounded(len(content), typ); err != nil {
			return err
		}
		v.SetBytes(content)
		if typ.Kind == RealContent {
			return checkReal(content)
		}
		return nil
	case Numeric, Visible:
		if err := checkText(content, typ); err != nil {
			return err
		}
		if v.Kind() == reflect.String {
			v.SetString(string(content))
		} else {
			v.SetBytes(content)
		}
		return nil
	case SETString:
		s, err := parseSETString(tag, content, typ)
		v.SetString(s)
		return err
	case Integer, Enum:
		n, err := parseInt64(content)
		if err == nil && (n < typ.Min || n > typ.Max) {
			err = fail("value %d outside %d..%d", n, typ.Min, typ.Max)
		}
		v.SetInt(n)
		return err
	case NamedBits:
		n, err := parseNamedBits(content)
		if err == nil && v.OverflowUint(n) {
			err = fail("more bits than are named")
		}
		if err == nil {
			v.SetUint(n)
		}
		return err
	}
	return fail("unknown kind %d", typ.Kind)
}

func bounded(n int, typ Type) error {
	if int64(n) < typ.Min || int64(n) > typ.Max {
		return fail("size %d outside %d..%d", n, typ.Min, typ.Max)
	}
	return nil
}

func textOf(v reflect.Value) []byte {
	if v.Kind() == reflect.String {
		return []byte(v.String())
	}
	return v.Bytes()
}

func checkText(b []byte, typ Type) error {
	for _, c := range b {
		if typ.Kind == Numeric && (c < '0' || c > '9') {
			return fail("a character that is not a digit")
		}
		if c < 0x20 || c > 0x7e {
			return fail("a character that is not printable ASCII")
		}
	}
	return bounded(len(b), typ)
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

func setStringContents(s string, typ Type) (ident, []byte, error) {
	if printable(s) {
		return universal(tagVisible), []byte(s), bounded(len(s), typ)
	}
	var out []byte
	units := 0
	for _, r := range s {
		if r > 0xffff || utf16.IsSurrogate(r) || r == 0xfffd {
			return ident{}, nil, fail("a character outside the basic multilingual plane")
		}
		out = append(out, byte(r>>8), byte(r))
		units++
	}
	return universal(tagBMP), out, bounded(units, typ)
}

func parseSETString(tag uint32, content []byte, typ Type) (string, error) {
	if tag == tagVisible {
		return string(content), checkText(content, typ)
	}
	if len(content)%2 != 0 {
		return "", fail("BMPString of an odd number of octets")
	}
	runes := make([]rune, len(content)/2)
	for i := range runes {
		runes[i] = rune(content[2*i])<<8 | rune(content[2*i+1])
		if utf16.IsSurrogate(runes[i]) {
			return "", fail("BMPString with a surrogate")
		}
	}
	return string(runes), bounded(len(runes), typ)
}

func parseInt64(content []byte) (int64, error) {
	if err := checkInteger(content); err != nil {
		return 0, err
	}
	if len(content) > 8 {
		return 0, fail("integer over 64 bits")
	}
	n := int64(int8(content[0]))
	for _, c := range content[1:] {
		n = n<<8 | int64(c)
	}
	return n, nil
}

func checkInteger(content []byte) error {
	if len(content) == 0 {
		return fail("integer without octets")
	}
	if len(content) > 1 && (content[0] == 0 && content[1] < 0x80 || content[0] == 0xff && content[1] >= 0x80) {
		return fail("integer not in its shortest form")
	}
	return nil
}

// namedBits puts bit 0 first, and leaves out trailing zeros, as DER wants for named bits.
func namedBits(n uint64) []byte {
	if n == 0 {
		return []byte{0}
	}
	size := bits.Len64(n)
	out := make([]byte, 1+(size+7)/8)
	out[0] = byte(8*(len(out)-1) - size)
	for i := range size {
		if n>>i&1 == 1 {
			out[1+i/8] |= 0x80 >> (i % 8)
		}
	}
	return out
}

func parseNamedBits(content []byte) (uint64, error) {
	if len(content) == 0 || len(content) > 9 || content[0] > 7 {
		return 0, fail("malformed BIT STRING")
	}
	var n uint64
	for i := range 8 * (len(content) - 1) {
		if content[1+i/8]&(0x80>>(i%8)) != 0 {
			n |= 1 << i
		}
	}
	return n, nil
}
