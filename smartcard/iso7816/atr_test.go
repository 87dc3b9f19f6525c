package iso7816_test

import (
	"encoding/hex"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/smartcard/iso7816"
)

func TestParseATR(t *testing.T) {
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, tt := range map[string]struct {
		atr  string
		want iso7816.ATR
	}{
		"YubiKey 5": {"3BFD1300008131FE158073C021C057597562694B657940", iso7816.ATR{
			Protocols: []int{1}, Historical: unhex("8073C021C057597562694B6579"), Chaining: true, ExtendedLength: true,
		}},
		"PC/SC storage card": {"3B8D800180FBA000000308000010000100CD", iso7816.ATR{
			Protocols: []int{0, 1}, Historical: unhex("80FBA000000308000010000100"),
		}},
		"no interface bytes": {"3B02ABCD", iso7816.ATR{Protocols: []int{0}, Historical: unhex("ABCD")}},
		"nothing":            {"3B00", iso7816.ATR{Protocols: []int{0}, Historical: []byte{}}},
		"chaining only": {"3B080073000080009000", iso7816.ATR{
			Protocols: []int{0}, Historical: unhex("0073000080009000"), Chaining: true,
		}},
		"the maker's own": {"3B0480730000", iso7816.ATR{Protocols: []int{0}, Historical: unhex("80730000")}},
	} {
		got, err := iso7816.ParseATR(unhex(tt.atr))
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", name, err, diff)
		}
	}
	for _, bad := range []string{"", "3B", "4000", "3B01", "3B0000", "3B80", "3B8001", "3B10", "3BF0", "3B800100FF"} {
		if got, err := iso7816.ParseATR(unhex(bad)); !errors.Is(err, iso7816.ErrMalformed) {
			t.Errorf("%s: got %+v, %v, want ErrMalformed", bad, got, err)
		}
	}
}

func FuzzParseATR(f *testing.F) {
	for _, seed := range []string{"3BFD1300008131FE158073C021C057597562694B657940", "3B8D800180FBA000000308000010000100CD", "3B00"} {
		b, err := hex.DecodeString(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := iso7816.ParseATR(b)
		if err == nil && (len(a.Protocols) == 0 || len(a.Historical) > 15 || len(b) > 33) {
			t.Errorf("%x: got %+v", b, a)
		}
	})
}
