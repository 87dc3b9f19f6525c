package set

import (
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// PRes is S(M, PResData) (SET §5.3).
type PRes cms.ContentInfo

// PResData tells the cardholder how far the purchase has come (SET §5.3).
type PResData struct {
	TransIDs           TransIDs
	RRPID              RRPID
	ChallC             Challenge     // in InqRes, challC2
	BrandCRLIdentifier *der.Raw      `der:"[0]e opt"` // SET §6.6
	PResPayloadSeq     []PResPayload `der:"size=1.."` // one for each authorization
}

// PResPayload is the state of one authorization (SET §5.3).
type PResPayload struct {
	CompletionCode CompletionCode
	Results        *Results      `der:"opt"`
	Extensions     MsgExtensions `der:"[0] opt"`
}

// Results are there from CompletionCode authorizationPerformed on (SET §5.3).
type Results struct {
	AcqCardMsg    *AcqCardMsg    `der:"[0]e opt"`
	AuthStatus    *AuthStatus    `der:"[1] opt"`
	CapStatus     *CapStatus     `der:"[2] opt"`
	CredStatusSeq []CreditStatus `der:"[3] opt size=1.."` // credits made and not reversed
}

// AuthStatus is the result of an authorization (SET §5.3).
type AuthStatus struct {
	AuthDate  time.Time
	AuthCode  AuthCode
	AuthRatio der.Real  // of the amount asked for to PurchAmt
	CurrConv  *CurrConv `der:"opt"`
}

// CapStatus is the result of a capture (SET §5.3).
type CapStatus struct {
	CapDate  time.Time
	CapCode  CapCode
	CapRatio der.Real // of the captured amount to PurchAmt
}

// CreditStatus is the result of a credit (SET §5.3).
type CreditStatus struct {
	CreditDate  time.Time
	CreditCode  CapRevOrCredCode
	CreditRatio der.Real // of the credited amount to PurchAmt
}

// CurrConv converts into the currency of the card (SET §5.3).
type CurrConv struct {
	CurrConvRate der.Real
	CardCurr     Currency
}

// CompletionCode is how far a purchase has come (SET §5.3).
type CompletionCode int

// How far a purchase has come. MeaninglessRatio stands where PurchAmt is zero.
const (
	MeaninglessRatio       CompletionCode = 0
	OrderRejected          CompletionCode = 1
	OrderReceived          CompletionCode = 2
	OrderNotReceived       CompletionCode = 3
	AuthorizationPerformed CompletionCode = 4
	CapturePerformed       CompletionCode = 5
	CreditPerformed        CompletionCode = 6
)

var completionCodeNames = names{0, []string{
	"meaninglessRatio", "orderRejected", "orderReceived", "orderNotReceived",
	"authorizationPerformed", "capturePerformed", "creditPerformed",
}}

func (c CompletionCode) String() string  { return completionCodeNames.of(int(c)) }
func (CompletionCode) DERType() der.Type { return completionCodeNames.derType() }

// CapRevOrCredCode is the result of a capture reversal, a credit or a credit reversal (SET §5.10).
type CapRevOrCredCode int

// The results of a capture reversal, a credit or a credit reversal.
const (
	CapRevOrCredSuccess            CapRevOrCredCode = 0
	CapRevOrCredUnspecifiedFailure CapRevOrCredCode = 1
	CapRevOrCredDuplicateRequest   CapRevOrCredCode = 2
	CapRevOrCredOriginalProcessed  CapRevOrCredCode = 3
	CapRevOrCredOriginalNotFound   CapRevOrCredCode = 4
	CapRevOrCredCapPurged          CapRevOrCredCode = 5
	CapRevOrCredCapDataMismatch    CapRevOrCredCode = 6
	CapRevOrCredMissingCapData     CapRevOrCredCode = 7
	CapRevOrCredMissingCapToken    CapRevOrCredCode = 8
	CapRevOrCredInvalidCapToken    CapRevOrCredCode = 9
	CapRevOrCredBatchUnknown       CapRevOrCredCode = 10
	CapRevOrCredBatchClosed        CapRevOrCredCode = 11
)

var capRevOrCredCodeNames = names{0, []string{
	"success", "unspecifiedFailure", "duplicateRequest", "originalProcessed", "originalNotFound",
	"capPurged", "capDataMismatch", "missingCapData", "missingCapToken", "invalidCapToken",
	"batchUnknown", "batchClosed",
}}

func (c CapRevOrCredCode) String() string  { return capRevOrCredCodeNames.of(int(c)) }
func (CapRevOrCredCode) DERType() der.Type { return capRevOrCredCodeNames.derType() }
