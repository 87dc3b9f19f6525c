package set

import (
	"time"

	"github.com/setkit/setkit/roles/set/der"
)

// SaleDetail says more of a sale than its amount (SET §5.7).
type SaleDetail struct {
	BatchID                 *Natural            `der:"[0] opt"`
	BatchSequenceNum        *Positive           `der:"[1] opt"`
	PayRecurInd             *PayRecurInd        `der:"[2] opt"`
	MerOrderNum             MerOrderNum         `der:"[3] opt"`
	AuthCharInd             *AuthCharInd        `der:"[4] opt"`
	MarketSpecSaleData      *MarketSpecSaleData `der:"[5] opt"`
	CommercialCardData      *CommercialCardData `der:"[6] opt"`
	OrderSummary            Text35              `der:"[7]e opt"`
	CustomerReferenceNumber Text28              `der:"[8]e opt"`
	CustomerServicePhone    Phone               `der:"[9]e opt"`
	OKToPrintPhoneInd       bool                `der:"[10] default=true"` // the zero value says no, in so many octets
	Extensions              MsgExtensions       `der:"[11] opt"`
}

// MerOrderNum is the merchant's number of the order.
type MerOrderNum string

// DERType gives the bounds of a MerOrderNum.
func (MerOrderNum) DERType() der.Type { return visible(25) }

// PayRecurInd is the kind of payment (SET §5.7).
type PayRecurInd int

// The kinds of payment.
const (
	PayUnknown              PayRecurInd = 0
	PaySingleTransaction    PayRecurInd = 1
	PayRecurringTransaction PayRecurInd = 2
	PayInstallmentPayment   PayRecurInd = 3
	PayOtherMailOrder       PayRecurInd = 4
)

var payRecurIndNames = names{0, []string{
	"unknown", "singleTransaction", "recurringTransaction", "installmentPayment", "otherMailOrder",
}}

func (i PayRecurInd) String() string  { return payRecurIndNames.of(int(i)) }
func (PayRecurInd) DERType() der.Type { return payRecurIndNames.derType() }

// BatchStatus is the state of a batch of captures (SET §5.7).
type BatchStatus struct {
	OpenDateTime time.Time
	ClosedWhen   *ClosedWhen `der:"[0] opt"`
	BatchDetails BatchDetails
	Extensions   MsgExtensions `der:"[1] opt"`
}

// ClosedWhen tells who closed a batch (SET §5.7).
type ClosedWhen struct {
	CloseStatus   CloseStatus
	CloseDateTime time.Time
}

// CloseStatus is who closed a batch (SET §5.7).
type CloseStatus int

// Who closed a batch.
const (
	ClosedByMerchant CloseStatus = 0
	ClosedByAcquirer CloseStatus = 1
)

var closeStatusNames = names{0, []string{"closedbyMerchant", "closedbyAcquirer"}}

func (s CloseStatus) String() string  { return closeStatusNames.of(int(s)) }
func (CloseStatus) DERType() der.Type { return closeStatusNames.derType() }

// BatchDetails are the totals of a batch (SET §5.7).
type BatchDetails struct {
	BatchTotals          BatchTotals
	BrandBatchDetailsSeq []BrandBatchDetails `der:"[0] opt"`
}

// BrandBatchDetails are the totals of one brand (SET §5.7).
type BrandBatchDetails struct {
	BrandID     BrandID
	BatchTotals BatchTotals
}

// BatchTotals are counts and sums (SET §5.7).
type BatchTotals struct {
	TransactionCountCredit    Natural
	TransactionTotalAmtCredit CurrencyAmount
	TransactionCountDebit     Natural
	TransactionTotalAmtDebit  CurrencyAmount
	Extensions                MsgExtensions `der:"[0] opt"`
}

// DateTime is a date, and the time of day when TimeInd says so (SET §2.4).
type DateTime struct {
	Date    time.Time
	TimeInd bool `der:"default=false"`
}
