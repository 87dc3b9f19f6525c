package set

import (
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// CapToken is what the gateway needs to capture; the merchant keeps it and returns it unchanged
// (SET §5.6).
type CapToken struct {
	der.Choice
	EncX *cms.ContentInfo `der:"[0]e"` // EncX(P1, P2, CapTokenData, PANToken)
	Enc  *cms.ContentInfo `der:"[1]e"` // Enc(P1, P2, CapTokenData)
	Null *der.Null        `der:"[2]e"` // stands for a token that the merchant lacks
}

// Parts of CapToken (SET §3.5).
type (
	// CapTokenTBEX is the plaintext of CapToken's EncX.
	CapTokenTBEX = cms.SignedPair[CapTokenData]
	// CapTokenTBS is what the signature in CapTokenTBEX covers.
	CapTokenTBS = cms.Pair[CapTokenData, PANToken]
	// CapTokenTBE is S(P1, CapTokenData), the plaintext of CapToken's Enc.
	CapTokenTBE cms.ContentInfo
)

// CapTokenData is one authorization, as the gateway remembers it (SET §5.6).
type CapTokenData struct {
	AuthRRPID   RRPID
	AuthAmt     CurrencyAmount
	TokenOpaque []byte // the gateway's own
}

// AuthToken is EncX(P1, P2, AuthTokenData, PANToken): it stands in the place of PI in later
// authorizations of the same purchase (SET §5.6).
type AuthToken cms.ContentInfo

// Parts of AuthToken (SET §3.5).
type (
	// AuthTokenTBE is the plaintext of AuthToken.
	AuthTokenTBE = cms.SignedPair[AuthTokenData]
	// AuthTokenTBS is what the signature in AuthTokenTBE covers.
	AuthTokenTBS = cms.Pair[AuthTokenData, PANToken]
)

// AuthTokenData is what later authorizations need of the payment instruction (SET §5.6).
type AuthTokenData struct {
	TransIDs         TransIDs
	PurchAmt         CurrencyAmount
	MerchantID       MerchantID
	AcqBackKeyData   *BackKeyData      `der:"[0] opt"`
	InstallRecurData *InstallRecurData `der:"[1] opt"`
	RecurringCount   *Positive         `der:"[2] opt"` // authorizations made
	PrevAuthDateTime time.Time
	TotalAuthAmount  CurrencyAmount // of all authorizations of the purchase
	AuthTokenOpaque  []byte         // the gateway's own; may be empty
}

// AcqCardMsg is EncK(acqBackKeyData, P, AcqCardCodeMsg): from the gateway to the cardholder, past the
// merchant (SET §5.6).
type AcqCardMsg cms.ContentInfo

// AcqCardCodeMsgTBE is S(P, AcqCardCodeMsg), the plaintext of AcqCardMsg (SET §3.5).
type AcqCardCodeMsgTBE cms.ContentInfo

// AcqCardCodeMsg is a message to the cardholder (SET §5.6).
type AcqCardCodeMsg struct {
	AcqCardCode    AcqCardCode
	AcqCardMsgData AcqCardMsgData
}

// AcqCardMsgData is the message and where to ask (SET §5.6).
type AcqCardMsgData struct {
	AcqCardText  Text128 `der:"[0]e opt"`
	AcqCardURL   URL     `der:"[1] opt"`
	AcqCardPhone Phone   `der:"[2]e opt"`
}

// AcqCardCode is the kind of message to the cardholder (SET §5.6).
type AcqCardCode int

// The kinds of message to the cardholder.
const (
	AcqCardMessageOfDay        AcqCardCode = 0
	AcqCardAccountInfo         AcqCardCode = 1
	AcqCardCallCustomerService AcqCardCode = 2
)

var acqCardCodeNames = names{0, []string{"messageOfDay", "accountInfo", "callCustomerService"}}

func (c AcqCardCode) String() string  { return acqCardCodeNames.of(int(c)) }
func (AcqCardCode) DERType() der.Type { return acqCardCodeNames.derType() }
