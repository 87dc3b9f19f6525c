package der_test

import (
	"bytes"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"math"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/set/der"
)

type (
	text  string
	digit string
	color int
	flags uint16
)

func (text) DERType() der.Type  { return der.Type{Kind: der.SETString, Min: 1, Max: 8} }
func (digit) DERType() der.Type { return der.Type{Kind: der.Numeric, Min: 1, Max: 6} }
func (color) DERType() der.Type { return der.Type{Kind: der.Enum, Min: 0, Max: 2} }
func (flags) DERType() der.Type { return der.Type{Kind: der.NamedBits} }

type pick struct {
	der.Choice
	Num  *int64 `der:"[0]"`
	Text *text  `der:"[1]e"`
	Far  *bool  `der:"[999]e"`
}

type inner struct {
	N int64
}

type everything struct {
	Bool    bool  `der:"default=false"`
	Count   int64 `der:"[5] default=128"`
	Big     *big.Int
	Nonce   [4]byte
	ID      []byte `der:"[0] opt size=1..3"`
	Name    text   `der:"[1]e opt"`
	BIN     digit  `der:"[2] opt"`
	Color   color
	Flags   flags
	When    time.Time
	OID     asn1.ObjectIdentifier
	Inner   *inner    `der:"[3] opt"`
	Items   []inner   `der:"size=1..2"`
	Any     []der.Raw `der:"[4] set opt"`
	Pick    pick
	Ratio   der.Real
	Shade   *color    `der:"[6] opt"`
	Trailer *der.Null `der:"opt"`
}

func ptr[T any](v T) *T { return &v }

func full() everything {
	return everything{
		Bool: true, Count: -129, Big: new(big.Int).Lsh(big.NewInt(1), 71), Nonce: [4]byte{1, 2, 3, 4},
		ID: []byte{9}, Name: "Zürich", BIN: "411111", Color: 2, Flags: 1 << 8,
		When: time.Date(2026, 11, 22, 10, 9, 8, 0, time.UTC), OID: asn1.ObjectIdentifier{2, 23, 42, 0, 12},
		Inner: &inner{7}, Items: []inner{{1}, {2}}, Any: []der.Raw{{2, 1, 9}, {5, 0}},
		Pick: pick{Far: ptr(true)}, Ratio: der.NewReal(0.1), Shade: ptr(color(1)), Trailer: &der.Null{},
	}
}

func least() everything {
	return everything{
		Count: 128, Big: big.NewInt(-1), Items: []inner{{0}}, When: time.Unix(0, 0).UTC(),
		OID: asn1.ObjectIdentifier{1, 2}, Pick: pick{Num: ptr(int64(-128))},
	}
}

func TestRoundTrip(t *testing.T) {
	for name, want := range map[string]everything{"every field": full(), "only mandatory fields": least()} {
		b, err := der.Marshal(want)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var rest asn1.RawValue
		if extra, err := asn1.Unmarshal(b, &rest); err != nil || len(extra) > 0 {
			t.Errorf("%s: encoding/asn1 does not accept the encoding: %v", name, err)
		}
		var got everything
		if err := der.Unmarshal(b, &got); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		// der.Real and empty octets differ only in nil.
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b *big.Int) bool { return a.Cmp(b) == 0 }),
			cmp.Comparer(func(a, b der.Real) bool { return bytes.Equal(a, b) })); diff != "" {
			t.Errorf("%s: decoded value differs (-want +got):\n%s", name, diff)
		}
	}
}

// The encodings on the left come from the message reference and from X.690.
func TestKnownEncodings(t *testing.T) {
	type certType = flags
	for _, c := range []struct {
		hex string
		v   any
	}{
		{"03020780", certType(1 << 0)},
		{"03020640", certType(1 << 1)},
		{"03020001", certType(1 << 7)},
		{"0303070080", certType(1 << 8)},
		{"030100", certType(0)},
		{"bf8767030101ff", pick{Far: ptr(true)}},
		{"a10d1e0b", nil},
		{"0900", der.NewReal(0)},
		{"090380fb05", der.NewReal(5.0 / 32)},
		{"090380ff01", der.NewReal(0.5)},
		{"0903c00001", der.NewReal(-1)},
		{"02020080", int64(128)},
		{"0201ff", int64(-1)},
		{"0202ff7f", int64(-129)},
		{"1203343131", digit("411")},
		{"1a024142", text("AB")},
		{"1e0400410416", text("AЖ")},
		{"18" + "0f" + hex.EncodeToString([]byte("19991231235959Z")), time.Date(1999, 12, 31, 23, 59, 59, 9, time.UTC)},
	} {
		if c.v == nil {
			continue
		}
		got, err := der.Marshal(c.v)
		if err != nil || hex.EncodeToString(got) != c.hex {
			t.Errorf("Marshal(%v) = %x, %v, want %s", c.v, got, err, c.hex)
		}
	}
}

func TestReal(t *testing.T) {
	for _, want := range []float64{0, 1, 0.5, 1.0 / 3, 12345.678, -2.5, math.MaxFloat64, math.SmallestNonzeroFloat64} {
		b, err := der.Marshal(der.NewReal(want))
		if err != nil {
			t.Fatalf("%g: %v", want, err)
		}
		var got der.Real
		if err := der.Unmarshal(b, &got); err != nil || got.Float64() != want {
			t.Errorf("%g came back as %g, %v", want, got.Float64(), err)
		}
	}
	var decimal der.Real
	if err := der.Unmarshal(append([]byte{9, 5, 3}, "15E1"...), &decimal); err != nil || decimal.Float64() != 150 {
		t.Errorf("decimal REAL = %g, %v, want 150", decimal.Float64(), err)
	}
}

// Everything that BER allows and DER does not is refused, and so is what breaks a bound.
func TestRefused(t *testing.T) {
	type seq struct {
		Flag bool     `der:"default=false"`
		N    *int64   `der:"opt"`
		IDs  [][]byte `der:"opt size=1..2"`
		Set  []int64  `der:"[0] set opt"`
	}
	for name, c := range map[string]struct {
		hex  string
		into any
	}{
		"empty input":                 {"", new(int64)},
		"trailing octets":             {"02010100", new(int64)},
		"indefinite length":           {"30800000", new(seq)},
		"padded length":               {"02810101", new(int64)},
		"padded integer":              {"02020001", new(int64)},
		"integer over 64 bits":        {"0209010000000000000000", new(int64)},
		"integer without octets":      {"0200", new(int64)},
		"length beyond the end":       {"020502", new(int64)},
		"boolean 1":                   {"010101", new(bool)},
		"default encoded":             {"3003010100", new(seq)},
		"unknown field":               {"30020500", new(seq)},
		"empty SEQUENCE OF with min":  {"30023000", new(seq)},
		"three where two are allowed": {"30083006040004000400", new(seq)},
		"unsorted set":                {"3008a006020102020101", new(seq)},
		"long form of a small tag":    {"bf0100", new(pick)},
		"unknown choice":              {"a200", new(pick)},
		"enum above":                  {"0a0103", new(color)},
		"enum as integer":             {"020101", new(color)},
		"digit string with a letter":  {"120141", new(digit)},
		"digit string too long":       {"120731313131313131", new(digit)},
		"BMP for plain ASCII":         {"1e020041", new(text)},
		"BMP surrogate":               {"1e04d83ddc00", new(text)},
		"control character":           {"1a0107", new(text)},
		"empty string with min 1":     {"1a00", new(text)},
		"bit string, trailing zeros":  {"03020680", new(flags)},
		"bit string, 17 named bits":   {"0304070000" + "80", new(flags)},
		"time without seconds":        {"180d" + hex.EncodeToString([]byte("202611221009Z")), new(time.Time)},
		"time that does not exist":    {"180f" + hex.EncodeToString([]byte("20260230100908Z")), new(time.Time)},
		"NULL with contents":          {"050100", new(der.Null)},
		"octets of another size":      {"0403010203", new([4]byte)},
		"REAL with an even mantissa":  {"0903800002", new(der.Real)},
		"REAL infinity":               {"090140", new(der.Real)},
	} {
		b, err := hex.DecodeString(c.hex)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		err = der.Unmarshal(b, c.into)
		var de *der.Error
		if !errors.As(err, &de) {
			t.Errorf("%s: accepted or wrong error: %v", name, err)
		}
	}
}

func TestEncodeRefused(t *testing.T) {
	for name, v := range map[string]any{
		"no alternative":        pick{},
		"two alternatives":      pick{Num: ptr(int64(1)), Far: ptr(true)},
		"string beyond the max": text(strings.Repeat("x", 9)),
		"character beyond BMP":  text("💳"),
		"enum outside":          color(9),
		"nil integer":           struct{ N *big.Int }{},
		"malformed raw":         der.Raw{0x30, 5},
		"year 10000":            time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		if b, err := der.Marshal(v); err == nil {
			t.Errorf("%s: encoded as %x", name, b)
		}
	}
}

func TestDepth(t *testing.T) {
	type nest struct {
		In *der.Raw `der:"opt"`
	}
	type list struct {
		Next []list `der:"opt"`
	}
	deep := []byte{0x30, 0}
	for range 70 {
		deep = append([]byte{0x30, byte(len(deep))}, deep...)
		if len(deep) > 120 {
			break
		}
	}
	if err := der.Unmarshal(deep, new(nest)); err != nil {
		t.Errorf("an opaque element is not to be looked into: %v", err)
	}
	err := der.Unmarshal(deep, new(list))
	if err == nil || !strings.Contains(err.Error(), "nested deeper") {
		t.Errorf("nesting of %d accepted: %v", len(deep)/2, err)
	}
}

func TestErrorNamesTheField(t *testing.T) {
	v := full()
	v.Items = []inner{{1}, {2}, {3}}
	_, err := der.Marshal(v)
	if want := "der: everything.Items: size 3 outside 1..2"; err == nil || err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
}

// The fault is found at its offset, and what stands before it is in the value.
func TestErrorTellsTheOffset(t *testing.T) {
	type item struct {
		N int64
		S []byte
	}
	type outer struct {
		Head  int64
		Items []item `der:"[0]e opt"`
		Last  *pick  `der:"opt"`
	}
	for name, c := range map[string]struct {
		hex, path string
		offset    int
		head      int64
		items     int
	}{
		"wrong tag in the second item": {"3016" + "020107" + "a011" + "300f" + "3006" + "020101" + "040161" + "3005" + "020102" + "0500", "outer.Items.S", 22, 7, 2},
		"field missing at the end":     {"300c" + "020107" + "a007" + "3005" + "3003" + "020101", "outer.Items.S", 14, 7, 1},
		"choice of a wrong value":      {"3007" + "020107" + "a0020a01", "outer.Items", 7, 7, 0},
		"octets after the last field":  {"3005" + "020107" + "0500", "outer", 5, 7, 0},
		"octets after the end":         {"3003" + "020107" + "0500", "outer", 5, 7, 0},
		"length beyond the end":        {"3010" + "020107", "outer", 0, 0, 0},
	} {
		b, err := hex.DecodeString(c.hex)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var v outer
		var de *der.Error
		if err := der.Unmarshal(b, &v); !errors.As(err, &de) {
			t.Errorf("%s: error %v", name, err)
			continue
		}
		if de.Path != c.path || de.Offset != c.offset || v.Head != c.head || len(v.Items) != c.items {
			t.Errorf("%s: %q at %d, head %d, %d items, want %q at %d, head %d, %d items: %v",
				name, de.Path, de.Offset, v.Head, len(v.Items), c.path, c.offset, c.head, c.items, de)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	for _, v := range []everything{full(), least()} {
		b, err := der.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var v everything
		if der.Unmarshal(b, &v) != nil {
			return
		}
		again, err := der.Marshal(v)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x decodes, but encodes as %x, %v", b, again, err)
		}
	})
}
