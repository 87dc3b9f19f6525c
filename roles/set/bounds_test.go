package set_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/der"
)

// The last value within each bound is carried, the first one outside is not.
func TestBounds(t *testing.T) {
	t.Parallel()
	text := func(n int) string { return strings.Repeat("x", n) }
	number := func(n int) string { return strings.Repeat("7", n) }
	field := set.RegField{FieldName: []set.Text128{"x"}, FieldLen: 1}
	for name, c := range map[string]struct{ inside, outside any }{
		"LocalID, long":          {set.LocalID(make([]byte, 20)), set.LocalID(make([]byte, 21))},
		"LocalID, short":         {set.LocalID{1}, set.LocalID{}},
		"BIN, long":              {set.BIN(number(6)), set.BIN(number(7))},
		"BIN, short":             {set.BIN(number(6)), set.BIN(number(5))},
		"BrandID":                {set.BrandID(text(40)), set.BrandID(text(41))},
		"MerchantID":             {set.MerchantID(text(30)), set.MerchantID(text(31))},
		"SWIdent":                {set.SWIdent(text(256)), set.SWIdent(text(257))},
		"Language":               {set.Language(text(35)), set.Language(text(36))},
		"URL":                    {set.URL(text(512)), set.URL(text(513))},
		"Phone":                  {set.Phone(text(20)), set.Phone(text(21))},
		"PaySysID":               {set.PaySysID(text(64)), set.PaySysID(text(65))},
		"TerminalID":             {set.TerminalID(text(48)), set.TerminalID(text(49))},
		"CountryCode":            {set.CountryCode(999), set.CountryCode(1000)},
		"Currency":               {set.Currency(999), set.Currency(1000)},
		"Currency, low":          {set.Currency(1), set.Currency(0)},
		"amount below zero":      {set.Natural(0), set.Natural(-1)},
		"Positive":               {set.Positive(1), set.Positive(0)},
		"PAN":                    {set.PAN(number(19)), set.PAN(number(20))},
		"PAN, short":             {set.PAN(number(1)), set.PAN{}},
		"CardExpiry":             {set.CardExpiry(number(6)), set.CardExpiry(number(7))},
		"AcctIdentification":     {set.AcctIdentification(text(74)), set.AcctIdentification(text(73))},
		"AcquirerBusinessID":     {set.AcquirerBusinessID(number(32)), set.AcquirerBusinessID(number(33))},
		"PolicyText":             {set.PolicyText(text(20000)), set.PolicyText(text(20001))},
		"BackKey":                {set.BackKey(make([]byte, 32)), set.BackKey(make([]byte, 33))},
		"BadWrapper":             {set.BadWrapper(make([]byte, 20<<10)), set.BadWrapper(make([]byte, 20<<10+1))},
		"InstallTotalTrans":      {set.InstallTotalTrans(2), set.InstallTotalTrans(1)},
		"RecurringFrequency":     {set.RecurringFrequency(300), set.RecurringFrequency(301)},
		"FieldLen":               {set.FieldLen(128), set.FieldLen(129)},
		"FieldLen, low":          {set.FieldLen(1), set.FieldLen(0)},
		"FieldText":              {set.FieldText(text(128)), set.FieldText(text(129))},
		"FieldOctets":            {set.FieldOctets(make([]byte, 128)), set.FieldOctets(make([]byte, 129))},
		"ItemNumber":             {set.ItemNumber(50), set.ItemNumber(51)},
		"MerchCatCode":           {set.MerchCatCode(number(4)), set.MerchCatCode(number(5))},
		"ApprovalCode":           {set.ApprovalCode(text(6)), set.ApprovalCode(text(5))},
		"ValidationCode":         {set.ValidationCode(text(4)), set.ValidationCode(text(5))},
		"LogRefID":               {set.NumericLogRefID(number(32)), set.NumericLogRefID(number(33))},
		"LogRefID, alphanumeric": {set.VisibleLogRefID(text(32)), set.VisibleLogRefID(text(33))},
		"MerOrderNum":            {set.MerOrderNum(text(25)), set.MerOrderNum(text(26))},
		"Duration":               {set.Duration(99), set.Duration(100)},
		"StayDays":               {set.StayDays(0), set.StayDays(-1)},
		"Text35":                 {set.Text35(text(35)), set.Text35(text(36))},
		"Text50, not ASCII":      {set.Text50(strings.Repeat("ü", 50)), set.Text50(strings.Repeat("ü", 51))},
		"fields of a form": {
			set.RegTemplate{RegFieldSeq: repeat(field, 50)}, set.RegTemplate{RegFieldSeq: repeat(field, 51)},
		},
		"lines of a field name": {field, set.RegField{FieldLen: 1}},
		"legs of a journey": {
			set.MarketTransportCap{PassengerName: "x", OrigCityAirport: "x", DepartureDate: time.Unix(0, 0), TripLegSeq: repeat(leg, 16)},
			set.MarketTransportCap{PassengerName: "x", OrigCityAirport: "x", DepartureDate: time.Unix(0, 0), TripLegSeq: repeat(leg, 17)},
		},
	} {
		if _, err := der.Marshal(c.inside); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if b, err := der.Marshal(c.outside); err == nil {
			t.Errorf("%s: what is outside the bound encodes in %d octets", name, len(b))
		}
	}
}

var leg = set.TripLeg{DateOfTravel: time.Unix(0, 0), CarrierCode: "x", ServiceClass: "x", DestCityAirport: "x"}

func repeat[T any](v T, n int) []T {
	out := make([]T, n)
	for i := range out {
		out[i] = v
	}
	return out
}

// Every enumeration of every structure refuses the values next to its first and last one.
func TestEnumsAreClosed(t *testing.T) {
	t.Parallel()
	seen := make(map[reflect.Type]bool)
	for _, typ := range structs() {
		for i := range typ.NumField() {
			f := typ.Field(i).Type
			if f.Kind() == reflect.Pointer {
				f = f.Elem()
			}
			typer, ok := reflect.Zero(f).Interface().(der.Typer)
			if !ok || typer.DERType().Kind != der.Enum || seen[f] {
				continue
			}
			seen[f] = true
			low, high := typer.DERType().Min, typer.DERType().Max
			for n, want := range map[int64]bool{low - 1: false, low: true, high: true, high + 1: false} {
				v := reflect.New(f)
				err := set.Unmarshal([]byte{0x0a, 1, byte(n)}, v.Interface())
				if (err == nil) != want || want && v.Elem().Int() != n {
					t.Errorf("%v: value %d: %v, want accepted %v", f, n, err, want)
				}
				b, err := der.Marshal(reflect.ValueOf(n).Convert(f).Interface())
				if want != bytes.Equal(b, []byte{0x0a, 1, byte(n)}) {
					t.Errorf("%v: value %d encodes as %x, %v", f, n, b, err)
				}
			}
		}
	}
	if len(seen) != 31 {
		t.Errorf("%d enumerations, want 31", len(seen))
	}
}
