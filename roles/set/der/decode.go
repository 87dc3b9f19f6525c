package der

import (
	"encoding/asn1"
	"math/big"
	"reflect"
	"slices"
	"time"
)

// decoder counts the nesting of one decoding.
type decoder struct{ depth int }

// decode reads the first element of b into v and gives what follows it.
func (d *decoder) decode(b []byte, v reflect.Value, f *field) ([]byte, error) {
	if d.depth++; d.depth > DepthMax {
		return nil, fail("nested deeper than %d", DepthMax)
	}
	defer func() { d.depth-- }()
	id, content, rest, err := readTLV(b)
	if err != nil {
		return nil, err
	}
	if ids, all := expected(v.Type(), f); !all && !slices.Contains(ids, id) {
		return nil, fail("unexpected tag: class %d, number %d", id.class, id.number)
	}
	if f.explicit {
		bare := *f
		bare.tagged, bare.explicit = false, false
		after, err := d.decode(content, v, &bare)
		if err == nil && len(after) > 0 {
			err = behind(len(content)-len(after), fail("%d octets after the end", len(after)))
		}
		return rest, behind(len(b)-len(rest)-len(content), err)
	}
	full := b[: len(b)-len(rest) : len(b)-len(rest)]
	return rest, d.set(v, f, id, full, content)
}

// set stores one element, whose identifier has been found right, in v.
func (d *decoder) set(v reflect.Value, f *field, id ident, full, content []byte) error {
	t := v.Type()
	if t.Kind() == reflect.Pointer && t != bigIntType {
		v.Set(reflect.New(t.Elem()))
		return d.set(v.Elem(), f, id, full, content)
	}
	if typ, ok := typeOf(t); ok {
		return setTyped(v, typ, id.number, content)
	}
	switch t {
	case rawType:
		v.SetBytes(full)
		return nil
	case nullType:
		if len(content) > 0 {
			return fail("NULL with contents")
		}
		return nil
	case bigIntType:
		if err := checkInteger(content); err != nil {
			return err
		}
		v.Set(reflect.ValueOf(parseBig(content)))
		return nil
	case timeType:
		when, err := time.Parse(generalizedLayout, string(content))
		if err != nil {
			return fail("time is not YYYYMMDDHHMMSSZ")
		}
		v.Set(reflect.ValueOf(when))
		return nil
	case oidType:
		return setASN1[asn1.ObjectIdentifier](v, tagOID, content)
	case bitsType:
		return setASN1[asn1.BitString](v, tagBitString, content)
	}
	return d.setKind(v, f, id, full, content)
}

func (d *decoder) setKind(v reflect.Value, f *field, id ident, full, content []byte) error {
	switch v.Kind() {
	case reflect.Bool:
		if len(content) != 1 || content[0] != 0 && content[0] != 0xff {
			return fail("malformed BOOLEAN")
		}
		v.SetBool(content[0] == 0xff)
		return nil
	case reflect.Int64, reflect.Int:
		n, err := parseInt64(content)
		v.SetInt(n)
		return err
	case reflect.Array:
		if len(content) != v.Len() {
			return fail("%d octets, want %d", len(content), v.Len())
		}
		reflect.Copy(v, reflect.ValueOf(content))
		return nil
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes(content)
			return checkSize(len(content), f)
		}
		return behind(len(full)-len(content), d.setSlice(v, f, content))
	case reflect.Struct:
		s := structureOf(v.Type())
		if s.choice {
			return d.setChoice(v, s, id, full)
		}
		return behind(len(full)-len(content), d.setStruct(v, s, content))
	}
	return fail("type %s has no ASN.1 form", v.Type())
}

func (d *decoder) setChoice(v reflect.Value, s *structure, id ident, full []byte) error {
	for i := range s.fields {
		f := &s.fields[i]
		fv := v.Field(f.index)
		if ids, all := expected(fv.Type(), f); !all && !slices.Contains(ids, id) {
			continue
		}
		if _, err := d.decode(full, fv, f); err != nil {
			return within(f.name, err)
		}
		return nil
	}
	return fail("no alternative has tag number %d", id.number)
}

func (d *decoder) setStruct(v reflect.Value, s *structure, content []byte) error {
	size := len(content)
	for i := range s.fields {
		f := &s.fields[i]
		fv := v.Field(f.index)
		at := size - len(content)
		if f.optional || f.deflt != nil {
			present, err := starts(content, fv.Type(), f)
			if err != nil {
				return within(f.name, behind(at, err))
			}
			if !present {
				setDefault(fv, f)
				continue
			}
		}
		if len(content) == 0 {
			return within(f.name, behind(at, fail("missing")))
		}
		var err error
		if content, err = d.decode(content, fv, f); err != nil {
			return within(f.name, behind(at, err))
		}
	}
	if len(content) > 0 {
		return behind(size-len(content), fail("%d octets after the last field", len(content)))
	}
	return nil
}

// starts tells whether the next element of b can be the field.
func starts(b []byte, t reflect.Type, f *field) (bool, error) {
	if len(b) == 0 {
		return false, nil
	}
	id, _, err := readIdent(b)
	if err != nil {
		return false, err
	}
	ids, all := expected(t, f)
	return all || slices.Contains(ids, id), nil
}

func setDefault(v reflect.Value, f *field) {
	switch {
	case f.deflt == nil:
	case v.Kind() == reflect.Bool:
		v.SetBool(*f.deflt == 1)
	default:
		v.SetInt(*f.deflt)
	}
}

func (d *decoder) setSlice(v reflect.Value, f *field, content []byte) error {
	limit := ElementsMax
	if f.sized {
		limit = f.max
	}
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	size := len(content)
	for len(content) > 0 {
		at := size - len(content)
		if v.Len() == limit {
			return behind(at, fail("more than %d elements", limit))
		}
		element := reflect.New(v.Type().Elem()).Elem()
		var err error
		content, err = d.decode(content, element, &field{})
		v.Set(reflect.Append(v, element))
		if err != nil {
			return behind(at, err)
		}
	}
	return checkSize(v.Len(), f)
}

func parseBig(content []byte) *big.Int {
	n := new(big.Int).SetBytes(content)
	if content[0] >= 0x80 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(content))))
	}
	return n
}

// setASN1 leaves a primitive to encoding/asn1.
func setASN1[T any](v reflect.Value, tag uint32, content []byte) error {
	var x T
	if _, err := asn1.Unmarshal(appendTLV(nil, universal(tag), content), &x); err != nil {
		return fail("malformed element with tag number %d", tag)
	}
	v.Set(reflect.ValueOf(x))
	return nil
}
