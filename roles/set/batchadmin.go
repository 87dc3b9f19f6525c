package set

import (
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// BatchAdminReq is Enc(M, P, BatchAdminReqData) (SET §5.12).
type BatchAdminReq cms.ContentInfo

// BatchAdminReqTBE is S(M, BatchAdminReqData), the plaintext of BatchAdminReq (SET §3.5).
type BatchAdminReqTBE cms.ContentInfo

// BatchAdminReqData opens, purges or closes a batch, or asks about it (SET §5.12).
type BatchAdminReqData struct {
	BatchAdminRRTags        RRTags
	BatchID                 *Natural                 `der:"[0] opt"`
	BrandAndBINSeq          []BrandAndBIN            `der:"[1] opt"`
	BatchOperation          *BatchOperation          `der:"[2] opt"`
	ReturnBatchSummaryInd   bool                     `der:"default=false"`
	ReturnTransactionDetail *ReturnTransactionDetail `der:"[3] opt"`
	BatchStatus             *BatchStatus             `der:"[4] opt"` // the merchant's own totals
	TransDetails            *TransDetails            `der:"[5] opt"`
	Extensions              MsgExtensions            `der:"[6] opt"`
}

// ReturnTransactionDetail asks for one page of a batch (SET §5.12).
type ReturnTransactionDetail struct {
	StartingPoint int64 // 0, or the NextStartingPoint of the page before
	MaximumItems  Positive
	ErrorsOnlyInd bool    `der:"default=false"`
	BrandID       BrandID `der:"[0]e opt"`
}

// TransDetails is one page of a batch (SET §5.12).
type TransDetails struct {
	NextStartingPoint    int64               // 0 on the last page
	TransactionDetailSeq []TransactionDetail `der:"size=1.."`
}

// TransactionDetail is one item of a batch (SET §5.12).
type TransactionDetail struct {
	TransIDs           TransIDs
	AuthRRPID          RRPID
	BrandID            BrandID
	BatchSequenceNum   Positive
	ReimbursementID    *ReimbursementID `der:"opt"`
	TransactionAmt     CurrencyAmount
	TransactionAmtType AmtType
	TransactionStatus  *TransactionStatus `der:"[0] opt"`
	Extensions         MsgExtensions      `der:"[1] opt"`
}

// BatchAdminRes is Enc(P, M, BatchAdminResData) (SET §5.12).
type BatchAdminRes cms.ContentInfo

// BatchAdminResTBE is S(P, BatchAdminResData), the plaintext of BatchAdminRes (SET §3.5).
type BatchAdminResTBE cms.ContentInfo

// BatchAdminResData is what became of the operation, and what was asked about the batch (SET §5.12).
type BatchAdminResData struct {
	BatchAdminTags     RRTags
	BatchID            Natural
	BAStatus           *BAStatus           `der:"[0] opt"`
	BatchStatus        *BatchStatus        `der:"[1] opt"`
	TransmissionStatus *TransmissionStatus `der:"[2] opt"`
	SettlementInfo     *SettlementInfo     `der:"[3] opt"`
	TransDetails       *TransDetails       `der:"[4] opt"`
	Extensions         MsgExtensions       `der:"[5] opt"`
}

// SettlementInfo is what the merchant's account is credited or debited with (SET §5.12).
type SettlementInfo struct {
	SettlementAmount      CurrencyAmount
	SettlementType        AmtType
	SettlementAccount     Text50
	SettlementDepositDate time.Time
}

// BatchOperation is what to do with a batch (SET §5.12).
type BatchOperation int

// The operations on a batch.
const (
	BatchOpen  BatchOperation = 0
	BatchPurge BatchOperation = 1
	BatchClose BatchOperation = 2
)

// BAStatus is the result of a batch administration (SET §5.12).
type BAStatus int

// The results of a batch administration.
const (
	BASuccess               BAStatus = 0
	BAUnspecifiedFailure    BAStatus = 1
	BABrandNotSupported     BAStatus = 2
	BAUnknownBIN            BAStatus = 3
	BABatchIDUnavailable    BAStatus = 4
	BABatchAlreadyOpen      BAStatus = 5
	BAUnknownBatchID        BAStatus = 6
	BABrandBatchMismatch    BAStatus = 7
	BATotalsOutOfBalance    BAStatus = 8
	BAUnknownStartingPoint  BAStatus = 9
	BAStopItemDetail        BAStatus = 10
	BAUnknownBatchOperation BAStatus = 11
)

// TransmissionStatus is how far a closed batch has come on its way to the acquirer (SET §5.12).
type TransmissionStatus int

// How far a closed batch has come.
const (
	TransmissionPending                 TransmissionStatus = 0
	TransmissionInProgress              TransmissionStatus = 1
	TransmissionBatchRejectedByAcquirer TransmissionStatus = 2
	TransmissionCompletedSuccessfully   TransmissionStatus = 3
	TransmissionCompletedWithItemErrors TransmissionStatus = 4
)

// AmtType is the direction of an amount, as the cardholder's account sees it (SET §5.12).
type AmtType int

// The directions of an amount.
const (
	AmtCredit AmtType = 0
	AmtDebit  AmtType = 1
)

// TransactionStatus tells whether an item of a batch was settled (SET §5.12).
type TransactionStatus int

// Whether an item was settled.
const (
	TransactionSuccess            TransactionStatus = 0
	TransactionUnspecifiedFailure TransactionStatus = 1
)

// ReimbursementID is the fee class of an item (SET §5.12).
type ReimbursementID int

// The fee classes.
const (
	ReimbursementUnspecified    ReimbursementID = 0
	ReimbursementStandardRate   ReimbursementID = 1
	ReimbursementKeyEnteredRate ReimbursementID = 2
	ReimbursementElectronicRate ReimbursementID = 3
	ReimbursementAdditionalData ReimbursementID = 4
	ReimbursementEnhancedData   ReimbursementID = 5
	ReimbursementMarketSpecific ReimbursementID = 6
)

var (
	batchOperationNames = names{0, []string{"open", "purge", "close"}}
	baStatusNames       = names{0, []string{
		"success", "unspecifiedFailure", "brandNotSupported", "unknownBIN", "batchIDunavailable",
		"batchAlreadyOpen", "unknownBatchID", "brandBatchMismatch", "totalsOutOfBalance",
		"unknownStartingPoint", "stopItemDetail", "unknownBatchOperation",
	}}
	transmissionStatusNames = names{0, []string{
		"pending", "inProgress", "batchRejectedByAcquirer", "completedSuccessfully", "completedWithItemErrors",
	}}
	amtTypeNames           = names{0, []string{"credit", "debit"}}
	transactionStatusNames = names{0, []string{"success", "unspecifiedFailure"}}
	reimbursementIDNames   = names{0, []string{
		"unspecified", "standardRate", "keyEnteredRate", "electronicRate", "additionalData", "enhancedData",
		"marketSpecific",
	}}
)

func (o BatchOperation) String() string     { return batchOperationNames.of(int(o)) }
func (s BAStatus) String() string           { return baStatusNames.of(int(s)) }
func (s TransmissionStatus) String() string { return transmissionStatusNames.of(int(s)) }
func (t AmtType) String() string            { return amtTypeNames.of(int(t)) }
func (s TransactionStatus) String() string  { return transactionStatusNames.of(int(s)) }
func (r ReimbursementID) String() string    { return reimbursementIDNames.of(int(r)) }

// DERType makes each an ENUMERATED of its values.
func (BatchOperation) DERType() der.Type     { return batchOperationNames.derType() }
func (BAStatus) DERType() der.Type           { return baStatusNames.derType() }
func (TransmissionStatus) DERType() der.Type { return transmissionStatusNames.derType() }
func (AmtType) DERType() der.Type            { return amtTypeNames.derType() }
func (TransactionStatus) DERType() der.Type  { return transactionStatusNames.derType() }
func (ReimbursementID) DERType() der.Type    { return reimbursementIDNames.derType() }
