package set

import (
	"fmt"
	"math"
	"math/big"
	"strings"

	"github.com/setkit/setkit/roles/set/der"
)

// Currency is an ISO 4217 numeric currency (SET §2.4).
type Currency int64

// DERType gives the bounds of a Currency.
func (Currency) DERType() der.Type { return der.Type{Kind: der.Integer, Min: 1, Max: 999} }

// CurrencyAmount is Amount × 10^AmtExp10 units of Currency: 10.50 US dollars are {840, 1050, -2}
// (SET §2.4). One value has many forms, so compare by Equal or Cmp, never by ==.
type CurrencyAmount struct {
	Currency Currency
	Amount   Natural
	AmtExp10 int64
}

// currencyCodes are the alphabetic codes that String knows.
var currencyCodes = map[Currency]string{
	36: "AUD", 124: "CAD", 156: "CNY", 203: "CZK", 208: "DKK", 344: "HKD", 348: "HUF", 356: "INR",
	376: "ILS", 392: "JPY", 410: "KRW", 484: "MXN", 554: "NZD", 578: "NOK", 643: "RUB", 702: "SGD",
	710: "ZAR", 752: "SEK", 756: "CHF", 826: "GBP", 840: "USD", 949: "TRY", 978: "EUR", 980: "UAH",
	985: "PLN", 986: "BRL",
}

// String gives the code of the currency, or its three digits when setkit has no name for it.
func (c Currency) String() string {
	if code, ok := currencyCodes[c]; ok {
		return code
	}
	return fmt.Sprintf("%03d", int64(c))
}

// digitsMax is how many digits an Amount can have.
const digitsMax = 19

// String gives the amount for people, such as "10.50 USD".
func (a CurrencyAmount) String() string {
	digits := fmt.Sprint(int64(a.Amount))
	switch e := a.AmtExp10; {
	case e < -digitsMax || e > digitsMax:
		digits = fmt.Sprintf("%se%d", digits, e)
	case e > 0 && a.Amount != 0:
		digits += strings.Repeat("0", int(e))
	case e < 0:
		places := int(-e)
		if missing := places + 1 - len(digits); missing > 0 {
			digits = strings.Repeat("0", missing) + digits
		}
		digits = digits[:len(digits)-places] + "." + digits[len(digits)-places:]
	}
	return digits + " " + a.Currency.String()
}

// Equal tells whether a and b are exactly the same value of the same currency.
func (a CurrencyAmount) Equal(b CurrencyAmount) bool {
	order, ok := a.Cmp(b)
	return ok && order == 0
}

// Cmp gives -1, 0 or +1 as a is less than, equal to or more than b. It is not ok when the currencies
// differ.
func (a CurrencyAmount) Cmp(b CurrencyAmount) (order int, ok bool) {
	if a.Currency != b.Currency {
		return 0, false
	}
	if a.Amount <= 0 || b.Amount <= 0 {
		return big.NewInt(int64(a.Amount)).Cmp(big.NewInt(int64(b.Amount))), true
	}
	// Two's complement subtraction gives the right distance even where int64 would overflow.
	if a.AmtExp10 >= b.AmtExp10 {
		return cmpScaled(a.Amount, uint64(a.AmtExp10)-uint64(b.AmtExp10), b.Amount), true
	}
	return -cmpScaled(b.Amount, uint64(b.AmtExp10)-uint64(a.AmtExp10), a.Amount), true
}

// cmpScaled compares high × 10^places with low, both positive.
func cmpScaled(high Natural, places uint64, low Natural) int {
	if places >= digitsMax {
		return 1
	}
	scaled := new(big.Int).Mul(big.NewInt(int64(high)), power10(int64(places)))
	return scaled.Cmp(big.NewInt(int64(low)))
}

// Plus gives a + b. It is not ok when the currencies differ, or the sum is no amount that can be written.
func (a CurrencyAmount) Plus(b CurrencyAmount) (sum CurrencyAmount, ok bool) {
	switch {
	case a.Currency != b.Currency:
		return sum, false
	case a.Amount == 0:
		return b, true
	case b.Amount == 0:
		return a, true
	case a.AmtExp10 < b.AmtExp10:
		a, b = b, a
	}
	places := uint64(a.AmtExp10) - uint64(b.AmtExp10)
	if places >= digitsMax {
		return sum, false
	}
	n := new(big.Int).Mul(big.NewInt(int64(a.Amount)), power10(int64(places)))
	n.Add(n, big.NewInt(int64(b.Amount)))
	return CurrencyAmount{a.Currency, Natural(n.Int64()), b.AmtExp10}, n.IsInt64()
}

// Minus gives a - b. It is not ok when the currencies differ, or b is more than a.
func (a CurrencyAmount) Minus(b CurrencyAmount) (rest CurrencyAmount, ok bool) {
	if order, comparable := a.Cmp(b); !comparable || order < 0 {
		return rest, false
	}
	if b.Amount == 0 {
		return a, true
	}
	low := min(a.AmtExp10, b.AmtExp10)
	scaled := func(x CurrencyAmount) (*big.Int, bool) {
		places := uint64(x.AmtExp10) - uint64(low)
		if places >= digitsMax {
			return nil, false
		}
		return new(big.Int).Mul(big.NewInt(int64(x.Amount)), power10(int64(places))), true
	}
	high, ok := scaled(a)
	less, fits := scaled(b)
	if !ok || !fits {
		return rest, false
	}
	high.Sub(high, less)
	return CurrencyAmount{a.Currency, Natural(high.Int64()), low}, high.IsInt64()
}

// zero is nothing of the same currency.
func (a CurrencyAmount) zero() CurrencyAmount {
	return CurrencyAmount{Currency: a.Currency, AmtExp10: a.AmtExp10}
}

func power10(n int64) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(n), nil) }

// ratioPlacesMax bounds how far apart the exponents of two amounts may be for a Ratio of them.
const ratioPlacesMax = 300

// Ratio gives a / b, as authRatio and capRatio want it (SET §5.3). It is not ok when there is no such
// number: b is zero, the currencies differ, or the exponents are absurdly far apart.
func Ratio(a, b CurrencyAmount) (ratio float64, ok bool) {
	if a.Currency != b.Currency || b.Amount == 0 {
		return 0, false
	}
	r := new(big.Rat).SetFrac(big.NewInt(int64(a.Amount)), big.NewInt(int64(b.Amount)))
	switch high, low := max(a.AmtExp10, b.AmtExp10), min(a.AmtExp10, b.AmtExp10); {
	case uint64(high)-uint64(low) > ratioPlacesMax:
		return 0, false
	case a.AmtExp10 >= b.AmtExp10:
		r.Mul(r, new(big.Rat).SetInt(power10(high-low)))
	default:
		r.Quo(r, new(big.Rat).SetInt(power10(high-low)))
	}
	ratio, _ = r.Float64()
	return ratio, !math.IsInf(ratio, 0)
}
