package set

import "github.com/setkit/setkit/roles/set/der"

// AuthCode is the result of an authorization (SET §5.5).
type AuthCode int

// The results of an authorization.
const (
	AuthApproved               AuthCode = 0
	AuthUnspecifiedFailure     AuthCode = 1
	AuthDeclined               AuthCode = 2
	AuthNoReply                AuthCode = 3
	AuthCallIssuer             AuthCode = 4
	AuthAmountError            AuthCode = 5
	AuthExpiredCard            AuthCode = 6
	AuthInvalidTransaction     AuthCode = 7
	AuthSystemError            AuthCode = 8
	AuthPIPreviouslyUsed       AuthCode = 9
	AuthRecurringTooSoon       AuthCode = 10
	AuthRecurringExpired       AuthCode = 11
	AuthPIAuthMismatch         AuthCode = 12
	AuthInstallRecurMismatch   AuthCode = 13
	AuthCaptureNotSupported    AuthCode = 14
	AuthSignatureRequired      AuthCode = 15
	AuthCardMerchBrandMismatch AuthCode = 16
)

// RespReason tells who decided in the issuer's place, and why (SET §5.5).
type RespReason int

// The reasons.
const (
	RespIssuer                   RespReason = 0
	RespStandInTimeOut           RespReason = 1
	RespStandInFloorLimit        RespReason = 2
	RespStandInSuppressInquiries RespReason = 3
	RespStandInIssuerUnavailable RespReason = 4
	RespStandInIssuerRequest     RespReason = 5
)

// CardType is the kind of card (SET §5.5).
type CardType int

// The kinds of card.
const (
	CardUnavailable           CardType = 0
	CardClassic               CardType = 1
	CardGold                  CardType = 2
	CardPlatinum              CardType = 3
	CardPremier               CardType = 4
	CardDebit                 CardType = 5
	CardPINBasedDebit         CardType = 6
	CardATM                   CardType = 7
	CardElectronicOnly        CardType = 8
	CardUnspecifiedConsumer   CardType = 9
	CardCorporateTravel       CardType = 10
	CardPurchasing            CardType = 11
	CardBusiness              CardType = 12
	CardUnspecifiedCommercial CardType = 13
	CardPrivateLabel          CardType = 14
	CardProprietary           CardType = 15
)

// AVSResult is what the issuer found of the address (SET §5.5).
type AVSResult int

// The results of address verification.
const (
	AVSResultUnavailable   AVSResult = 0
	AVSNoMatch             AVSResult = 1
	AVSAddressMatchOnly    AVSResult = 2
	AVSPostalCodeMatchOnly AVSResult = 3
	AVSFullMatch           AVSResult = 4
)

// AuthCharInd characterizes an authorization (SET §5.5).
type AuthCharInd int

// The characters of an authorization.
const (
	AuthCharDirectMarketing     AuthCharInd = 0
	AuthCharRecurringPayment    AuthCharInd = 1
	AuthCharAddressVerification AuthCharInd = 2
	AuthCharPreferredCustomer   AuthCharInd = 3
	AuthCharIncrementalAuth     AuthCharInd = 4
)

// MarketSpecDataID says which trade's data qualified (SET §5.5).
type MarketSpecDataID int

// The trades.
const (
	MarketSpecFailedEdit MarketSpecDataID = 0
	MarketSpecAuto       MarketSpecDataID = 1
	MarketSpecHotel      MarketSpecDataID = 2
	MarketSpecTransport  MarketSpecDataID = 3
)

// SpecialProcessing asks for special treatment (SET §5.5).
type SpecialProcessing int

// The special treatments.
const (
	SpecialDirectMarketing   SpecialProcessing = 0
	SpecialPreferredCustomer SpecialProcessing = 1
)

// CardSuspect tells that the merchant mistrusts the card (SET §5.5).
type CardSuspect int

// CardSuspectUnspecified is the only reason that SET has.
const CardSuspectUnspecified CardSuspect = 0

// MerchGroup is a trade (SET §5.5).
type MerchGroup int

// The trades.
const (
	MerchCommercialTravel MerchGroup = 1
	MerchLodging          MerchGroup = 2
	MerchAutomobileRental MerchGroup = 3
	MerchRestaurant       MerchGroup = 4
	MerchMedical          MerchGroup = 5
	MerchMailOrPhoneOrder MerchGroup = 6
	MerchRiskyPurchase    MerchGroup = 7
	MerchOther            MerchGroup = 8
)

// Prestige is the standing of a hotel's property (SET §5.5).
type Prestige int

// The standings.
const (
	PrestigeUnknown Prestige = 0
	PrestigeLevel1  Prestige = 1
	PrestigeLevel2  Prestige = 2
	PrestigeLevel3  Prestige = 3
)

var (
	authCodeNames = names{0, []string{
		"approved", "unspecifiedFailure", "declined", "noReply", "callIssuer", "amountError",
		"expiredCard", "invalidTransaction", "systemError", "piPreviouslyUsed", "recurringTooSoon",
		"recurringExpired", "piAuthMismatch", "installRecurMismatch", "captureNotSupported",
		"signatureRequired", "cardMerchBrandMismatch",
	}}
	respReasonNames = names{0, []string{
		"issuer", "standInTimeOut", "standInFloorLimit", "standInSuppressInquiries",
		"standInIssuerUnavailable", "standInIssuerRequest",
	}}
	cardTypeNames = names{0, []string{
		"unavailable", "classic", "gold", "platinum", "premier", "debit", "pinBasedDebit", "atm",
		"electronicOnly", "unspecifiedConsumer", "corporateTravel", "purchasing", "business",
		"unspecifiedCommercial", "privateLabel", "proprietary",
	}}
	avsResultNames = names{0, []string{
		"resultUnavailable", "noMatch", "addressMatchOnly", "postalCodeMatchOnly", "fullMatch",
	}}
	authCharIndNames = names{0, []string{
		"directMarketing", "recurringPayment", "addressVerification", "preferredCustomer", "incrementalAuth",
	}}
	marketSpecDataIDNames  = names{0, []string{"failedEdit", "auto", "hotel", "transport"}}
	specialProcessingNames = names{0, []string{"directMarketing", "preferredCustomer"}}
	cardSuspectNames       = names{0, []string{"unspecifiedReason"}}
	merchGroupNames        = names{1, []string{
		"commercialTravel", "lodging", "automobileRental", "restaurant", "medical", "mailOrPhoneOrder",
		"riskyPurchase", "other",
	}}
	prestigeNames = names{0, []string{"unknown", "level-1", "level-2", "level-3"}}
)

func (c AuthCode) String() string          { return authCodeNames.of(int(c)) }
func (r RespReason) String() string        { return respReasonNames.of(int(r)) }
func (t CardType) String() string          { return cardTypeNames.of(int(t)) }
func (r AVSResult) String() string         { return avsResultNames.of(int(r)) }
func (i AuthCharInd) String() string       { return authCharIndNames.of(int(i)) }
func (i MarketSpecDataID) String() string  { return marketSpecDataIDNames.of(int(i)) }
func (p SpecialProcessing) String() string { return specialProcessingNames.of(int(p)) }
func (s CardSuspect) String() string       { return cardSuspectNames.of(int(s)) }
func (g MerchGroup) String() string        { return merchGroupNames.of(int(g)) }
func (p Prestige) String() string          { return prestigeNames.of(int(p)) }

// DERType makes each an ENUMERATED of its values.
func (AuthCode) DERType() der.Type          { return authCodeNames.derType() }
func (RespReason) DERType() der.Type        { return respReasonNames.derType() }
func (CardType) DERType() der.Type          { return cardTypeNames.derType() }
func (AVSResult) DERType() der.Type         { return avsResultNames.derType() }
func (AuthCharInd) DERType() der.Type       { return authCharIndNames.derType() }
func (MarketSpecDataID) DERType() der.Type  { return marketSpecDataIDNames.derType() }
func (SpecialProcessing) DERType() der.Type { return specialProcessingNames.derType() }
func (CardSuspect) DERType() der.Type       { return cardSuspectNames.derType() }
func (MerchGroup) DERType() der.Type        { return merchGroupNames.derType() }
func (Prestige) DERType() der.Type          { return prestigeNames.derType() }
