package finnet

import (
	"testing"
	"time"

	"github.com/setkit/setkit/roles/set"
)

var testTime = time.Date(2030, 5, 6, 7, 8, 9, 0, time.UTC)

func TestMinorUnits(t *testing.T) {
	t.Parallel()
	const bad = -1
	for _, tt := range []struct {
		amount set.CurrencyAmount
		want   int64
	}{
		{set.CurrencyAmount{Currency: 840, Amount: 1050, AmtExp10: -2}, 1050},
		{set.CurrencyAmount{Currency: 840, Amount: 10500, AmtExp10: -3}, 1050},
		{set.CurrencyAmount{Currency: 840, Amount: 10, AmtExp10: 0}, 1000},
		{set.CurrencyAmount{Currency: 840, Amount: 1, AmtExp10: 9}, 100_000_000_000},
		{set.CurrencyAmount{Currency: 840, Amount: 999_999_999_999, AmtExp10: -2}, 999_999_999_999},
		{set.CurrencyAmount{Currency: 392, Amount: 500, AmtExp10: 0}, 500},
		{set.CurrencyAmount{Currency: 392, Amount: 500, AmtExp10: -2}, 5},
		{set.CurrencyAmount{Currency: 978}, 0},
		{set.CurrencyAmount{Currency: 840, Amount: 1051, AmtExp10: -3}, bad},
		{set.CurrencyAmount{Currency: 392, Amount: 550, AmtExp10: -2}, bad},
		{set.CurrencyAmount{Currency: 840, Amount: 1_000_000_000_000, AmtExp10: -2}, bad},
		{set.CurrencyAmount{Currency: 840, Amount: 1, AmtExp10: 11}, bad},
		{set.CurrencyAmount{Currency: 840, Amount: 1, AmtExp10: 1 << 62}, bad},
		{set.CurrencyAmount{Currency: 840, Amount: 1, AmtExp10: -1 << 62}, bad},
		{set.CurrencyAmount{Currency: 840, Amount: -1, AmtExp10: -2}, bad},
		{set.CurrencyAmount{Currency: 999, Amount: 1, AmtExp10: -2}, bad},
	} {
		got, err := MinorUnits(tt.amount)
		if tt.want == bad {
			if err == nil {
				t.Errorf("%+v gives %d, want an error", tt.amount, got)
			}
			continue
		}
		if err != nil || got != tt.want {
			t.Errorf("%+v gives %d, %v, want %d", tt.amount, got, err, tt.want)
		}
		if back := FromMinorUnits(got, tt.amount.Currency); !back.Equal(tt.amount) {
			t.Errorf("%d minor units of %s are %s, want %s", got, tt.amount.Currency, back, tt.amount)
		}
	}
}
