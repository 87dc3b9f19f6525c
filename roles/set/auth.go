package set

import (
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// AuthReq is EncB(M, P, AuthReqData, PI) (SET §5.5).
type AuthReq EncB[PI]

// Parts of AuthReq (SET §3.5).
type (
	// AuthReqTBS is L(AuthReqData, PI), which the merchant signs.
	AuthReqTBS = cms.Linked[AuthReqData]
	// AuthReqTBE is S(M, AuthReqTBS), the plaintext of AuthReq's Enc.
	AuthReqTBE cms.ContentInfo
)

// AuthReqData asks for an authorization (SET §5.5).
type AuthReqData struct {
	AuthReqItem AuthReqItem
	MThumbs     *Thumbs     `der:"[0]e opt"`
	CaptureNow  bool        `der:"default=false"` // a sale: authorize and capture
	SaleDetail  *SaleDetail `der:"[1] opt"`       // only with CaptureNow
}

// AuthReqItem is one authorization asked for (SET §5.5).
type AuthReqItem struct {
	AuthTags       AuthTags
	CheckDigests   *CheckDigests `der:"[0] opt"` // absent when the PI is an AuthToken
	AuthReqPayload AuthReqPayload
}

// AuthTags tie an AuthRes to its AuthReq and to the purchase (SET §5.5).
type AuthTags struct {
	AuthRRTags RRTags
	TransIDs   TransIDs
	AuthRetNum *Natural `der:"opt"`
}

// CheckDigests are the merchant's own digests of the order, for the gateway to compare with the
// cardholder's (SET §5.5).
type CheckDigests struct {
	HOIData cms.DetachedDigest // DD(OIData)
	HOD2    HOD                // DD(HODInput)
}

// AuthReqPayload is what an authorization is to be (SET §5.5).
type AuthReqPayload struct {
	SubsequentAuthInd  bool `der:"default=false"` // more authorizations will follow
	AuthReqAmt         CurrencyAmount
	AVSData            *AVSData            `der:"[0] opt"`
	SpecialProcessing  *SpecialProcessing  `der:"[1] opt"`
	CardSuspect        *CardSuspect        `der:"[2] opt"`
	RequestCardTypeInd bool                `der:"default=false"`
	InstallRecurData   *InstallRecurData   `der:"[3] opt"`
	MarketSpecAuthData *MarketSpecAuthData `der:"[4]e opt"`
	MerchData          MerchData
	Extensions         MsgExtensions `der:"[5] opt"`
}

// AVSData is the cardholder's address, for the issuer to verify (SET §5.5).
type AVSData struct {
	StreetAddress Text128 `der:"opt"`
	Location      Location
}

// MerchData is the merchant's trade (SET §5.5).
type MerchData struct {
	MerchCatCode MerchCatCode `der:"opt"`
	MerchGroup   *MerchGroup  `der:"opt"`
}

// MerchCatCode is a merchant category code of four digits.
type MerchCatCode string

// DERType gives the bounds of a MerchCatCode.
func (MerchCatCode) DERType() der.Type { return der.Type{Kind: der.Numeric, Min: 4, Max: 4} }

// MarketSpecAuthData is what one trade adds to an authorization (SET §5.5).
type MarketSpecAuthData struct {
	der.Choice
	Auto      *MarketAutoAuth      `der:"[0]"`
	Hotel     *MarketHotelAuth     `der:"[1]"`
	Transport *MarketTransportAuth `der:"[2]"`
}

// MarketAutoAuth is a car rental of some days (SET §5.5).
type MarketAutoAuth struct{ Duration Duration }

// MarketHotelAuth is a hotel stay of some days (SET §5.5).
type MarketHotelAuth struct {
	Duration Duration
	Prestige *Prestige `der:"opt"`
}

// MarketTransportAuth is empty (SET §5.5).
type MarketTransportAuth struct{}

// Duration is a number of days.
type Duration int64

// DERType gives the bounds of a Duration.
func (Duration) DERType() der.Type { return der.Type{Kind: der.Integer, Min: 1, Max: 99} }

// AuthRes answers AuthReq (SET §5.5).
type AuthRes struct {
	der.Choice
	EncB  *EncB[AuthResBaggage]  `der:"[0]e"` // EncB(P, M, AuthResData, AuthResBaggage)
	EncBX *EncBX[AuthResBaggage] `der:"[1]e"` // EncBX(P, M, AuthResData, AuthResBaggage, PANToken)
}

// Parts of AuthRes (SET §3.5).
type (
	// AuthResTBS is L(AuthResData, AuthResBaggage), which the gateway signs.
	AuthResTBS = cms.Linked[AuthResData]
	// AuthResTBE is S(P, AuthResTBS), the plaintext of EncB's Enc.
	AuthResTBE cms.ContentInfo
	// AuthResTBEX is the plaintext of EncBX's EncX.
	AuthResTBEX = cms.SignedPair[AuthResTBS]
	// AuthResTBSX is what the signature in AuthResTBEX covers.
	AuthResTBSX = cms.Pair[AuthResTBS, PANToken]
)

// AuthResData is the gateway's answer (SET §5.5).
type AuthResData struct {
	AuthTags           AuthTags   // copied; PaySysID and AuthRetNum may be added
	BrandCRLIdentifier *der.Raw   `der:"[0]e opt"` // SET §6.6
	PEThumb            *CertThumb `der:"[1]e opt"` // when the merchant lacks the gateway's certificate
	AuthResPayload     AuthResPayload
}

// AuthResBaggage travels beside the answer, already encrypted for others (SET §5.5).
type AuthResBaggage struct {
	CapToken   *CapToken   `der:"[0]e opt"`
	AcqCardMsg *AcqCardMsg `der:"[1]e opt"`
	AuthToken  *AuthToken  `der:"[2]e opt"`
}

// AuthResPayload is what became of one authorization (SET §5.5).
type AuthResPayload struct {
	AuthHeader    AuthHeader
	CapResPayload *CapResPayload `der:"opt"` // exactly when it was a sale
	Extensions    MsgExtensions  `der:"[0] opt"`
}

// AuthHeader is the result of an authorization (SET §5.5).
type AuthHeader struct {
	AuthAmt      CurrencyAmount
	AuthCode     AuthCode
	ResponseData ResponseData
	BatchStatus  *BatchStatus `der:"[0] opt"`
	CurrConv     *CurrConv    `der:"[1] opt"`
}

// ResponseData is what the issuer or the card network said (SET §5.5).
type ResponseData struct {
	AuthValCodes *AuthValCodes `der:"[0] opt"`
	RespReason   *RespReason   `der:"[1] opt"`
	CardType     *CardType     `der:"[2] opt"`
	AVSResult    *AVSResult    `der:"[3] opt"`
	LogRefID     *LogRefID     `der:"opt"`
}

// LogRefID is the card network's reference to its log. SET calls it both numeric and alphanumeric, so
// both forms are read (SET §5.5).
type LogRefID struct {
	der.Choice
	Numeric *NumericLogRefID
	Visible *VisibleLogRefID
}

// Forms of a LogRefID, each of 1 to 32 characters.
type (
	NumericLogRefID string
	VisibleLogRefID string
)

// DERType gives the bounds.
func (NumericLogRefID) DERType() der.Type { return der.Type{Kind: der.Numeric, Min: 1, Max: 32} }
func (VisibleLogRefID) DERType() der.Type { return visible(32) }

// NewLogRefID takes the numeric form when s has digits only.
func NewLogRefID(s string) *LogRefID {
	if digits([]byte(s), 1, len(s)) {
		n := NumericLogRefID(s)
		return &LogRefID{Numeric: &n}
	}
	v := VisibleLogRefID(s)
	return &LogRefID{Visible: &v}
}

// String gives the reference, whichever form it has.
func (l LogRefID) String() string {
	switch {
	case l.Numeric != nil:
		return string(*l.Numeric)
	case l.Visible != nil:
		return string(*l.Visible)
	}
	return ""
}

// AuthValCodes are codes of the issuer and the card network (SET §5.5).
type AuthValCodes struct {
	ApprovalCode   ApprovalCode      `der:"[0] opt"`
	AuthCharInd    *AuthCharInd      `der:"[1] opt"`
	ValidationCode ValidationCode    `der:"[2] opt"`
	MarketSpec     *MarketSpecDataID `der:"[3] opt"`
}

// ApprovalCode is the issuer's six characters.
type ApprovalCode string

// ValidationCode is the card network's four characters.
type ValidationCode string

// DERType gives the bounds.
func (ApprovalCode) DERType() der.Type   { return der.Type{Kind: der.Visible, Min: 6, Max: 6} }
func (ValidationCode) DERType() der.Type { return der.Type{Kind: der.Visible, Min: 4, Max: 4} }
