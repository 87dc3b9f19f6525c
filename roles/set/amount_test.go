package set_test

import (
	"math"
	"testing"

	"github.com/setkit/setkit/roles/set"
)

func usd(amount set.Natural, exp int64) set.CurrencyAmount {
	return set.CurrencyAmount{Currency: 840, Amount: amount, AmtExp10: exp}
}

func TestAmountCmp(t *testing.T) {
	t.Parallel()
	const most = math.MaxInt64
	for _, c := range []struct {
		a, b  set.CurrencyAmount
		order int
	}{
		{usd(1050, -2), usd(1050, -2), 0},
		{usd(1050, -2), usd(105, -1), 0},
		{usd(1050, -2), usd(1051, -2), -1},
		{usd(11, 0), usd(1050, -2), 1},
		{usd(0, -2), usd(0, 7), 0},
		{usd(0, most), usd(1, math.MinInt64), -1},
		{usd(1, most), usd(most, math.MinInt64), 1},
		{usd(1, math.MinInt64), usd(1, most), -1},
		{usd(1, 18), usd(1000000000000000000, 0), 0},
		{usd(1, 19), usd(most, 0), 1},
		{usd(9, 18), usd(most, 0), -1},
		{usd(most, 0), usd(most, 0), 0},
	} {
		for _, swap := range []bool{false, true} {
			a, b, want := c.a, c.b, c.order
			if swap {
				a, b, want = b, a, -want
			}
			got, ok := a.Cmp(b)
			if got != want || !ok || a.Equal(b) != (want == 0) {
				t.Errorf("Cmp(%v, %v) = %d, %v, want %d", a, b, got, ok, want)
			}
		}
	}
	euro := set.CurrencyAmount{Currency: 978, Amount: 1050, AmtExp10: -2}
	if order, ok := euro.Cmp(usd(1050, -2)); ok || euro.Equal(usd(1050, -2)) {
		t.Errorf("dollars and euros compare as %d", order)
	}
}

func TestAmountString(t *testing.T) {
	t.Parallel()
	for want, a := range map[string]set.CurrencyAmount{
		"10.50 USD":                      usd(1050, -2),
		"0.05 USD":                       usd(5, -2),
		"0.00 USD":                       usd(0, -2),
		"1200 JPY":                       {Currency: 392, Amount: 12, AmtExp10: 2},
		"0 EUR":                          {Currency: 978, Amount: 0, AmtExp10: 3},
		"7 999":                          {Currency: 999, Amount: 7},
		"7 008":                          {Currency: 8, Amount: 7},
		"7e1000000 USD":                  usd(7, 1000000),
		"7e-1000000 USD":                 usd(7, -1000000),
		"0.000000000000000" + "0007 USD": usd(7, -19),
	} {
		if got := a.String(); got != want {
			t.Errorf("String = %q, want %q", got, want)
		}
	}
}

func TestRatio(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b set.CurrencyAmount
		want float64
		ok   bool
	}{
		{usd(1050, -2), usd(1050, -2), 1, true},
		{usd(525, -2), usd(105, -1), 0.5, true},
		{usd(0, 0), usd(1, 0), 0, true},
		{usd(21, 0), usd(1050, -2), 2, true},
		{usd(1, 0), usd(0, 0), 0, false},
		{usd(1, math.MaxInt64), usd(1, math.MinInt64), 0, false},
		{usd(1, 0), set.CurrencyAmount{Currency: 978, Amount: 1}, 0, false},
	} {
		if got, ok := set.Ratio(c.a, c.b); got != c.want || ok != c.ok {
			t.Errorf("Ratio(%v, %v) = %v, %v, want %v, %v", c.a, c.b, got, ok, c.want, c.ok)
		}
	}
}

func TestAmountArithmetic(t *testing.T) {
	t.Parallel()
	most := set.Natural(math.MaxInt64)
	for _, c := range []struct {
		a, b   set.CurrencyAmount
		sum    set.CurrencyAmount
		sumOK  bool
		rest   set.CurrencyAmount
		restOK bool
	}{
		{usd(1050, -2), usd(25, -1), usd(1300, -2), true, usd(800, -2), true},
		{usd(12, 0), usd(1, -2), usd(1201, -2), true, usd(1199, -2), true},
		{usd(1, -2), usd(12, 0), usd(1201, -2), true, usd(0, 0), false},
		{usd(5, 0), usd(500, -2), usd(1000, -2), true, usd(0, -2), true},
		{usd(0, 5), usd(3, -2), usd(3, -2), true, usd(0, 0), false},
		{usd(3, -2), usd(0, 5), usd(3, -2), true, usd(3, -2), true},
		{usd(most, 0), usd(1, 0), usd(0, 0), false, usd(most-1, 0), true},
		{usd(1, 19), usd(1, 0), usd(0, 0), false, usd(0, 0), false},
		{usd(1, math.MaxInt64), usd(1, math.MinInt64), usd(0, 0), false, usd(0, 0), false},
		{usd(1, 0), set.CurrencyAmount{Currency: 978, Amount: 1}, usd(0, 0), false, usd(0, 0), false},
	} {
		if got, ok := c.a.Plus(c.b); ok != c.sumOK || ok && got != c.sum {
			t.Errorf("%v + %v = %v, %v, want %v, %v", c.a, c.b, got, ok, c.sum, c.sumOK)
		}
		if got, ok := c.a.Minus(c.b); ok != c.restOK || ok && !got.Equal(c.rest) {
			t.Errorf("%v - %v = %v, %v, want %v, %v", c.a, c.b, got, ok, c.rest, c.restOK)
		}
	}
}
