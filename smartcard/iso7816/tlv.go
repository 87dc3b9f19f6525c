package iso7816

import "fmt"

// Limits of a TLV.
const (
	tagBytesMax    = 3
	lengthBytesMax = 3 // after the byte that counts them
)

// A Tag is the tag of a BER-TLV data object, its bytes read as one number, such
// as 0x53 or 0x5FC105.
type Tag uint32

// A TLV is one BER-TLV data object.
type TLV struct {
	Tag   Tag
	Value []byte
}

// AppendTLV appends a data object to dst, its length in the shortest form, and
// returns the longer slice. tag has to be a tag that ReadTLV would accept.
func AppendTLV(dst []byte, tag Tag, value []byte) []byte {
	dst = appendTag(dst, tag)
	n := len(value)
	switch {
	case n < 0x80:
		dst = append(dst, byte(n))
	case n <= 0xFF:
		dst = append(dst, 0x81, byte(n))
	case n <= 0xFFFF:
		dst = append(dst, 0x82, byte(n>>8), byte(n))
	default:
		dst = append(dst, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	return append(dst, value...)
}

// Bytes gives the tag as it is encoded.
func (t Tag) Bytes() []byte { return appendTag(nil, t) }

func appendTag(dst []byte, tag Tag) []byte {
	if tag > 0xFFFF {
		dst = append(dst, byte(tag>>16))
	}
	if tag > 0xFF {
		dst = append(dst, byte(tag>>8))
	}
	return append(dst, byte(tag))
}

// ReadTLV reads the first data object of b and returns what follows it. Value
// is a part of b.
func ReadTLV(b []byte) (t TLV, rest []byte, err error) {
	tag, b, err := readTag(b)
	if err != nil {
		return TLV{}, nil, err
	}
	n, b, err := readLength(b)
	if err != nil {
		return TLV{}, nil, fmt.Errorf("tag %X: %w", uint32(tag), err)
	}
	if n > len(b) {
		return TLV{}, nil, fmt.Errorf("iso7816: tag %X says %d bytes, %d are there: %w", uint32(tag), n, len(b), ErrMalformed)
	}
	return TLV{Tag: tag, Value: b[:n:n]}, b[n:], nil
}

// ParseTLVs reads a sequence of data objects that fills b.
func ParseTLVs(b []byte) ([]TLV, error) {
	var all []TLV
	for len(b) > 0 {
		t, rest, err := ReadTLV(b)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
		b = rest
	}
	return all, nil
}

// ParseTLV reads the single data object that fills b, and checks its tag.
func ParseTLV(b []byte, want Tag) ([]byte, error) {
	t, rest, err := ReadTLV(b)
	if err != nil {
		return nil, err
	}
	if t.Tag != want {
		return nil, fmt.Errorf("iso7816: tag %X, want %X: %w", uint32(t.Tag), uint32(want), ErrMalformed)
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("iso7816: %d bytes behind tag %X: %w", len(rest), uint32(want), ErrMalformed)
	}
	return t.Value, nil
}

// Find returns the value of the first object with the tag.
func Find(all []TLV, tag Tag) (value []byte, ok bool) {
	for _, t := range all {
		if t.Tag == tag {
			return t.Value, true
		}
	}
	return nil, false
}

// readTag reads one tag of up to three bytes. Padding (00 and FF between
// objects) is not accepted.
func readTag(b []byte) (Tag, []byte, error) {
	if len(b) == 0 {
		return 0, nil, fmt.Errorf("iso7816: no tag: %w", ErrMalformed)
	}
	if b[0] == 0x00 || b[0] == 0xFF {
		return 0, nil, fmt.Errorf("iso7816: tag starts with %02X: %w", b[0], ErrMalformed)
	}
	tag := Tag(b[0])
	if b[0]&0x1F != 0x1F {
		return tag, b[1:], nil
	}
	for i := 1; i < tagBytesMax && i < len(b); i++ {
		if i == 1 && (b[1]&0x7F == 0 || b[1] < 0x1F) {
			break // a number that starts with zeros, or that fits the first byte
		}
		tag = tag<<8 | Tag(b[i])
		if b[i]&0x80 == 0 {
			return tag, b[i+1:], nil
		}
	}
	return 0, nil, fmt.Errorf("iso7816: tag %02X is cut off, too long or padded: %w", b[0], ErrMalformed)
}

// readLength reads a definite length of up to four bytes.
func readLength(b []byte) (int, []byte, error) {
	if len(b) == 0 {
		return 0, nil, fmt.Errorf("iso7816: no length: %w", ErrMalformed)
	}
	first, b := b[0], b[1:]
	if first < 0x80 {
		return int(first), b, nil
	}
	k := int(first & 0x7F)
	if k == 0 || k > lengthBytesMax || k > len(b) {
		return 0, nil, fmt.Errorf("iso7816: length starts with %02X: %w", first, ErrMalformed)
	}
	n := 0
	for _, x := range b[:k] {
		n = n<<8 | int(x)
	}
	return n, b[k:], nil
}
