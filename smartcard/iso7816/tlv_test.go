package iso7816_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/smartcard/iso7816"
)

func TestAppendTLV(t *testing.T) {
	tests := []struct {
		tag    iso7816.Tag
		length int
		want   string // tag and length
	}{
		{0x53, 0, "5300"},
		{0x53, 1, "5301"},
		{0x7F49, 0x7F, "7f497f"},
		{0x5FC105, 0x80, "5fc1058180"},
		{0x53, 0xFF, "5381ff"},
		{0x53, 0x100, "53820100"},
		{0x53, 0xFFFF, "5382ffff"},
		{0x53, 0x10000, "5383010000"},
	}
	for _, tt := range tests {
		value := bytes.Repeat([]byte{0xA5}, tt.length)
		got := iso7816.AppendTLV(nil, tt.tag, value)
		if want := tt.want + hex.EncodeToString(value); hex.EncodeToString(got) != want {
			t.Errorf("tag %X, %d bytes: got %.20x..., want %.20s...", tt.tag, tt.length, got, want)
		}
		back, err := iso7816.ParseTLV(got, tt.tag)
		if err != nil || !bytes.Equal(back, value) {
			t.Errorf("tag %X, %d bytes: read back %d bytes, %v", tt.tag, tt.length, len(back), err)
		}
	}
}

func TestParseTLVs(t *testing.T) {
	// The second length has more octets than it needs, which cards may do.
	got, err := iso7816.ParseTLVs([]byte{0x4F, 0x01, 0xAA, 0x5F, 0x2F, 0x81, 0x02, 0x40, 0x00, 0xFE, 0x00})
	if err != nil {
		t.Fatal(err)
	}
	want := []iso7816.TLV{{Tag: 0x4F, Value: []byte{0xAA}}, {Tag: 0x5F2F, Value: []byte{0x40, 0x00}}, {Tag: 0xFE, Value: []byte{}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if v, ok := iso7816.Find(got, 0x5F2F); !ok || !bytes.Equal(v, []byte{0x40, 0x00}) {
		t.Errorf("Find: got %x %v", v, ok)
	}
	if _, ok := iso7816.Find(got, 0x70); ok {
		t.Error("Find found a tag that isn't there")
	}
}

func TestTLVRefused(t *testing.T) {
	for name, encoded := range map[string]string{
		"nothing":              "",
		"no length":            "53",
		"padding 00":           "0000",
		"padding FF":           "ff00",
		"tag cut off":          "5f",
		"tag of four bytes":    "5fc1818100",
		"tag with zeros":       "5f8001",
		"tag that fits a byte": "5f0100",
		"indefinite length":    "5380",
		"length of four bytes": "538400000001aa",
		"length cut off":       "538201",
		"value cut off":        "5302aa",
		"bytes behind":         "5301aabb",
		"another tag":          "5401aa",
	} {
		b, err := hex.DecodeString(encoded)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := iso7816.ParseTLV(b, 0x53); !errors.Is(err, iso7816.ErrMalformed) {
			t.Errorf("%s (%s): got %x, %v, want ErrMalformed", name, encoded, v, err)
		}
	}
}

func FuzzParseTLVs(f *testing.F) {
	for _, seed := range []string{"5301aa", "7f49038101aa", "5fc1058180", "61114f0600001000010079074f05a000000308", "53820001aa"} {
		b, err := hex.DecodeString(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, answers := range captured(f) {
		f.Add(answers[2:int(binary.BigEndian.Uint16(answers))]) // without the status word
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := iso7816.ParseTLVs(b)
		if err != nil {
			return
		}
		var again []byte
		for _, tlv := range all {
			again = iso7816.AppendTLV(again, tlv.Tag, tlv.Value)
		}
		if len(again) > len(b) {
			t.Fatalf("%x became longer: %x", b, again)
		}
		back, err := iso7816.ParseTLVs(again)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(all, back) {
			t.Errorf("%x became %x", b, again)
		}
	})
}
