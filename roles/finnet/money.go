package finnet

import (
	"fmt"
	"math"
	"slices"

	"github.com/setkit/setkit/roles/set"
)

// currenciesOf lists the currencies that the network carries by how many decimal places their minor
// unit has (ISO 4217).
var currenciesOf = map[int][]set.Currency{
	0: {392, 410}, // JPY, KRW
	2: {36, 124, 156, 203, 208, 344, 348, 356, 376, 484, 554, 578, 643, 702, 710, 752, 756, 826, 840, 949, 978, 980, 985, 986},
}

const minorUnitsMax = 999_999_999_999 // 12 digits

// MinorPlaces is the number of decimal places of a currency's minor unit: 2 for dollars and cents. It is
// not ok for a currency that the network does not carry.
func MinorPlaces(c set.Currency) (places int, ok bool) {
	for places, list := range currenciesOf {
		if slices.Contains(list, c) {
			return places, true
		}
	}
	return 0, false
}

// ParseCurrency reads the alphabetic code of a currency that the network carries, such as USD.
func ParseCurrency(code string) (set.Currency, error) {
	for _, list := range currenciesOf {
		for _, c := range list {
			if c.String() == code {
				return c, nil
			}
		}
	}
	return 0, fmt.Errorf("the network does not carry a currency %q", code)
}

// MinorUnits gives an amount in minor units of its currency, as field 4 has it. An amount that has no
// such form exactly, or does not fit in 12 digits, is an error.
func MinorUnits(a set.CurrencyAmount) (int64, error) {
	places, ok := MinorPlaces(a.Currency)
	if !ok {
		return 0, fmt.Errorf("the network does not carry the currency %s", a.Currency)
	}
	n := int64(a.Amount)
	if n < 0 {
		return 0, fmt.Errorf("amount is negative")
	}
	if n == 0 {
		return 0, nil
	}
	if a.AmtExp10 < -math.MaxInt8 || a.AmtExp10 > math.MaxInt8 {
		return 0, fmt.Errorf("amount %s is out of range", a)
	}
	shift := a.AmtExp10 + int64(places)
	for ; shift > 0; shift-- {
		if n > minorUnitsMax/10 {
			return 0, fmt.Errorf("amount %s has more than %d digits", a, amountDigits)
		}
		n *= 10
	}
	for ; shift < 0; shift++ {
		if n%10 != 0 {
			return 0, fmt.Errorf("amount %s is no whole number of minor units", a)
		}
		n /= 10
	}
	if n > minorUnitsMax {
		return 0, fmt.Errorf("amount %s has more than %d digits", a, amountDigits)
	}
	return n, nil
}

// FromMinorUnits is the inverse of [MinorUnits], for a currency that the network carries.
func FromMinorUnits(n int64, c set.Currency) set.CurrencyAmount {
	places, _ := MinorPlaces(c)
	return set.CurrencyAmount{Currency: c, Amount: set.Natural(n), AmtExp10: int64(-places)}
}
