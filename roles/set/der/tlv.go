package der

import "math/bits"

// Universal tag numbers.
const (
	tagBoolean     = 1
	tagInteger     = 2
	tagBitString   = 3
	tagOctetString = 4
	tagNull        = 5
	tagOID         = 6
	tagReal        = 9
	tagEnumerated  = 10
	tagSequence    = 16
	tagSet         = 17
	tagNumeric     = 18
	tagGeneralized = 24
	tagVisible     = 26
	tagBMP         = 30
)

const (
	classUniversal = 0
	classContext   = 2
)

// ident is the identifier of an element.
type ident struct {
	class       byte
	constructed bool
	number      uint32
}

func universal(number uint32) ident { return ident{number: number} }

func sequence(number uint32) ident { return ident{constructed: true, number: number} }

func context(number uint32, constructed bool) ident {
	return ident{classContext, constructed, number}
}

// appendTLV appends an element with the given contents.
func appendTLV(dst []byte, id ident, content []byte) []byte {
	lead := id.class << 6
	if id.constructed {
		lead |= 0x20
	}
	if id.number < 31 {
		dst = append(dst, lead|byte(id.number))
	} else {
		dst = append(dst, lead|31)
		for shift := (bits.Len32(id.number) - 1) / 7 * 7; shift > 0; shift -= 7 {
			dst = append(dst, 0x80|byte(id.number>>shift)&0x7f)
		}
		dst = append(dst, byte(id.number)&0x7f)
	}
	if n := len(content); n < 128 {
		dst = append(dst, byte(n))
	} else {
		size := (bits.Len(uint(n)) + 7) / 8
		dst = append(dst, 0x80|byte(size))
		for i := size - 1; i >= 0; i-- {
			dst = append(dst, byte(n>>(8*i)))
		}
	}
	return append(dst, content...)
}

// readIdent reads the identifier octets.
func readIdent(b []byte) (ident, []byte, error) {
	if len(b) == 0 {
		return ident{}, nil, fail("ends where an element should start")
	}
	id := ident{class: b[0] >> 6, constructed: b[0]&0x20 != 0, number: uint32(b[0] & 31)}
	b = b[1:]
	if id.number < 31 {
		return id, b, nil
	}
	id.number = 0
	for i := 0; ; i++ {
		if len(b) == 0 || i == 4 {
			return ident{}, nil, fail("tag number cut off or over 28 bits")
		}
		c := b[0]
		b = b[1:]
		if i == 0 && c == 0x80 {
			return ident{}, nil, fail("tag number with a leading zero")
		}
		id.number = id.number<<7 | uint32(c&0x7f)
		if c&0x80 == 0 {
			break
		}
	}
	if id.number < 31 {
		return ident{}, nil, fail("tag number %d in the long form", id.number)
	}
	return id, b, nil
}

// readTLV splits the first element of b into identifier, contents and what follows it.
func readTLV(b []byte) (id ident, content, rest []byte, err error) {
	id, b, err = readIdent(b)
	if err != nil {
		return id, nil, nil, err
	}
	if len(b) == 0 {
		return id, nil, nil, fail("ends before a length")
	}
	n := int(b[0])
	b = b[1:]
	if n >= 128 {
		size := n & 0x7f
		if size == 0 {
			return id, nil, nil, fail("indefinite length")
		}
		if size > 4 || len(b) < size {
			return id, nil, nil, fail("length of %d octets cut off or over 4", size)
		}
		n = 0
		for _, c := range b[:size] {
			n = n<<8 | int(c)
		}
		if n < 128 || b[0] == 0 {
			return id, nil, nil, fail("length not in its shortest form")
		}
		b = b[size:]
	}
	if n > len(b) {
		return id, nil, nil, fail("length %d, but %d octets are left", n, len(b))
	}
	return id, b[:n:n], b[n:], nil
}
