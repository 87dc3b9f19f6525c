package set

// BIN is a bank identification number: the first six digits of a PAN (SET §2.4).
type BIN string

// CurrencyAmount is Amount × 10^AmtExp10 units of the ISO 4217 numeric Currency:
// 10.50 US dollars are {840, 1050, -2} (SET §2.4).
type CurrencyAmount struct {
	Currency int64
	Amount   int64
	AmtExp10 int64
}
