package der

import (
	"bytes"
	"encoding/asn1"
	"math/big"
	"reflect"
	"slices"
	"time"
)

// generalizedLayout is DER's only form of GeneralizedTime for SET: UTC, seconds, no fraction.
const generalizedLayout = "20060102150405Z"

// encode appends the element of v as the field f carries it.
func encode(dst []byte, v reflect.Value, f *field) ([]byte, error) {
	if f.explicit {
		bare := *f
		bare.tagged, bare.explicit = false, false
		inner, err := encode(nil, v, &bare)
		if err != nil {
			return nil, err
		}
		return appendTLV(dst, context(f.tag, true), inner), nil
	}
	if v.Type() == rawType {
		return appendRaw(dst, v.Bytes())
	}
	for v.Kind() == reflect.Pointer && v.Type() != bigIntType {
		if v.IsNil() {
			return nil, fail("missing")
		}
		v = v.Elem()
		if v.Type() == rawType {
			return appendRaw(dst, v.Bytes())
		}
	}
	if v.Kind() == reflect.Struct && v.Type() != timeType && v.Type() != bitsType && v.Type() != nullType {
		if s := structureOf(v.Type()); s.choice {
			return encodeChoice(dst, v, s)
		}
	}
	id, content, err := contents(v, f)
	if err != nil {
		return nil, err
	}
	if f.tagged {
		id = context(f.tag, id.constructed)
	}
	return appendTLV(dst, id, content), nil
}

func appendRaw(dst, raw []byte) ([]byte, error) {
	_, _, rest, err := readTLV(raw)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, fail("%d octets after the end", len(rest))
	}
	return append(dst, raw...), nil
}

func encodeChoice(dst []byte, v reflect.Value, s *structure) ([]byte, error) {
	var chosen *field
	for i := range s.fields {
		if v.Field(s.fields[i].index).IsNil() {
			continue
		}
		if chosen != nil {
			return nil, fail("both %s and %s of a choice", chosen.name, s.fields[i].name)
		}
		chosen = &s.fields[i]
	}
	if chosen == nil {
		return nil, fail("no alternative of a choice")
	}
	out, err := encode(dst, v.Field(chosen.index), chosen)
	if err != nil {
		return nil, within(chosen.name, err)
	}
	return out, nil
}

// contents gives the universal identifier and the contents octets of v.
func contents(v reflect.Value, f *field) (ident, []byte, error) {
	if typ, ok := typeOf(v.Type()); ok {
		return typedContents(v, typ)
	}
	switch x := v.Interface().(type) {
	case Null:
		return universal(tagNull), nil, nil
	case *big.Int:
		if x == nil {
			return ident{}, nil, fail("missing")
		}
		return universal(tagInteger), bigContents(x), nil
	case time.Time:
		if y := x.UTC().Year(); y < 1 || y > 9999 {
			return ident{}, nil, fail("year %d outside 1..9999", y)
		}
		return universal(tagGeneralized), x.UTC().AppendFormat(nil, generalizedLayout), nil
	case asn1.ObjectIdentifier, asn1.BitString:
		full, err := asn1.Marshal(x)
		if err != nil {
			return ident{}, nil, fail("%v", err)
		}
		id, content, _, err := readTLV(full)
		return id, content, err
	}
	switch v.Kind() {
	case reflect.Bool:
		if v.Bool() {
			return universal(tagBoolean), []byte{0xff}, nil
		}
		return universal(tagBoolean), []byte{0}, nil
	case reflect.Int64, reflect.Int:
		return universal(tagInteger), bigContents(big.NewInt(v.Int())), nil
	case reflect.Array:
		b := make([]byte, v.Len())
		reflect.Copy(reflect.ValueOf(b), v)
		return universal(tagOctetString), b, nil
	case reflect.Slice:
		return sliceContents(v, f)
	case reflect.Struct:
		content, err := structContents(v)
		return sequence(tagSequence), content, err
	}
	return ident{}, nil, fail("type %s has no ASN.1 form", v.Type())
}

func sliceContents(v reflect.Value, f *field) (ident, []byte, error) {
	if err := checkSize(v.Len(), f); err != nil {
		return ident{}, nil, err
	}
	if v.Type().Elem().Kind() == reflect.Uint8 {
		return universal(tagOctetString), v.Bytes(), nil
	}
	parts := make([][]byte, v.Len())
	for i := range parts {
		var err error
		if parts[i], err = encode(nil, v.Index(i), &field{}); err != nil {
			return ident{}, nil, err
		}
	}
	if f.set {
		slices.SortFunc(parts, bytes.Compare)
		return sequence(tagSet), bytes.Join(parts, nil), nil
	}
	return sequence(tagSequence), bytes.Join(parts, nil), nil
}

func checkSize(n int, f *field) error {
	if f.sized && (n < f.min || n > f.max) {
		return fail("size %d outside %d..%d", n, f.min, f.max)
	}
	return nil
}

func structContents(v reflect.Value) ([]byte, error) {
	var out []byte
	s := structureOf(v.Type())
	for i := range s.fields {
		f, fv := &s.fields[i], v.Field(s.fields[i].index)
		if f.optional && absent(fv) || f.deflt != nil && isDefault(fv, *f.deflt) {
			continue
		}
		var err error
		if out, err = encode(out, fv, f); err != nil {
			return nil, within(f.name, err)
		}
	}
	return out, nil
}

func absent(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Pointer, reflect.Slice:
		return v.IsNil()
	}
	return v.IsZero()
}

func isDefault(v reflect.Value, deflt int64) bool {
	if v.Kind() == reflect.Bool {
		return v.Bool() == (deflt == 1)
	}
	return v.Int() == deflt
}

// bigContents is the shortest two's complement form.
func bigContents(n *big.Int) []byte {
	if n.Sign() >= 0 {
		return n.FillBytes(make([]byte, n.BitLen()/8+1))
	}
	// -n-1 has the complemented bits of n.
	b := new(big.Int).Not(n)
	out := b.FillBytes(make([]byte, b.BitLen()/8+1))
	for i := range out {
		out[i] = ^out[i]
	}
	return out
}
