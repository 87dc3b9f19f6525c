package der_test

import (
	"strings"
	"testing"

	"github.com/setkit/setkit/roles/set/der"
)

// nest is as deep as the octets that it is decoded from.
type nest struct {
	Inner *nest `der:"opt"`
}

func nested(depth int) []byte {
	b := []byte{}
	for range depth {
		head := []byte{0x30, byte(len(b))}
		if len(b) > 127 {
			head = []byte{0x30, 0x81, byte(len(b))}
		}
		b = append(head, b...)
	}
	return b
}

// What is just within a limit is decoded, what is just outside is not.
func TestLimits(t *testing.T) {
	t.Parallel()
	type bounded struct {
		N []int64 `der:"size=2..5"`
	}
	numbers := func(n int) []byte {
		b, err := der.Marshal(make([]int64, n))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	// decimal is a REAL whose contents have n octets.
	decimal := func(n int) []byte {
		return append([]byte{9, byte(n), 3}, strings.Repeat("1", n-3)+"E0"...)
	}
	wrapped := func(b []byte) []byte { return append([]byte{0x30, byte(len(b))}, b...) }
	for name, c := range map[string]struct {
		b  []byte
		v  any
		ok bool
	}{
		"depth below the limit":    {nested(der.DepthMax - 1), new(nest), true},
		"depth at the limit":       {nested(der.DepthMax), new(nest), true},
		"depth above the limit":    {nested(der.DepthMax + 1), new(nest), false},
		"elements below the limit": {numbers(der.ElementsMax - 1), new([]int64), true},
		"elements at the limit":    {numbers(der.ElementsMax), new([]int64), true},
		"REAL below the limit":     {decimal(31), new(der.Real), true},
		"REAL at the limit":        {decimal(32), new(der.Real), true},
		"REAL above the limit":     {decimal(33), new(der.Real), false},
		"elements below the least": {wrapped(numbers(1)), new(bounded), false},
		"elements at the least":    {wrapped(numbers(2)), new(bounded), true},
		"elements at the most":     {wrapped(numbers(5)), new(bounded), true},
		"elements above the most":  {wrapped(numbers(6)), new(bounded), false},
	} {
		if err := der.Unmarshal(c.b, c.v); (err == nil) != c.ok {
			t.Errorf("%s: %v, want accepted %t", name, err, c.ok)
		}
	}
	one, err := der.Marshal([]int64{0})
	if err != nil {
		t.Fatal(err)
	}
	above := make([]byte, 0, 3*(der.ElementsMax+1)+4)
	size := 3 * (der.ElementsMax + 1)
	above = append(above, 0x30, 0x82, byte(size>>8), byte(size))
	for range der.ElementsMax + 1 {
		above = append(above, one[2:]...)
	}
	if err := der.Unmarshal(above, new([]int64)); err == nil {
		t.Error("elements above the limit: accepted")
	}
}
