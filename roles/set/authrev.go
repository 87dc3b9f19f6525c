package set

import (
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// AuthRevReq is EncB(M, P, AuthRevReqData, AuthRevReqBaggage) (SET §5.8).
type AuthRevReq EncB[AuthRevReqBaggage]

// AuthRevReqBaggage is what the authorization was made with, and what it gave (SET §5.8).
type AuthRevReqBaggage struct {
	PI       PI
	CapToken *CapToken `der:"opt"`
}

// Parts of AuthRevReq (SET §3.5).
type (
	// AuthRevReqTBS is L(AuthRevReqData, AuthRevReqBaggage), which the merchant signs.
	AuthRevReqTBS = cms.Linked[AuthRevReqData]
	// AuthRevReqTBE is S(M, AuthRevReqTBS), the plaintext of AuthRevReq's Enc.
	AuthRevReqTBE cms.ContentInfo
)

// AuthRevReqData asks to take back an authorization, or a part of it (SET §5.8).
type AuthRevReqData struct {
	AuthRevTags    AuthRevTags
	MThumbs        *Thumbs         `der:"[0]e opt"`
	AuthReqData    *AuthReqData    `der:"[1] opt"` // when the token lacks it
	AuthResPayload *AuthResPayload `der:"[2] opt"` // when the token lacks it
	AuthNewAmt     CurrencyAmount  // what stays authorized; zero is a full reversal
	Extensions     MsgExtensions   `der:"[3] opt"`
}

// AuthRevTags tie an AuthRevRes to its AuthRevReq (SET §5.8).
type AuthRevTags struct {
	AuthRevRRTags RRTags
	AuthRetNum    *Natural `der:"opt"`
}

// AuthRevRes answers AuthRevReq (SET §5.8).
type AuthRevRes struct {
	der.Choice
	EncB *EncB[AuthRevResBaggage] `der:"[0]e"` // EncB(P, M, AuthRevResData, AuthRevResBaggage)
	Enc  *cms.ContentInfo         `der:"[1]e"` // Enc(P, M, AuthRevResData)
}

// AuthRevResBaggage holds the tokens that take the place of those used (SET §5.8).
type AuthRevResBaggage struct {
	CapTokenNew  *CapToken  `der:"opt"`
	AuthTokenNew *AuthToken `der:"opt"`
}

// Parts of AuthRevRes (SET §3.5).
type (
	// AuthRevResTBS is L(AuthRevResData, AuthRevResBaggage), which the gateway signs in EncB.
	AuthRevResTBS = cms.Linked[AuthRevResData]
	// AuthRevResTBE is S(P, AuthRevResData), the plaintext of Enc.
	AuthRevResTBE cms.ContentInfo
	// AuthRevResTBEB is S(P, AuthRevResTBS), the plaintext of EncB's Enc.
	AuthRevResTBEB cms.ContentInfo
)

// AuthRevResData tells what became of the reversal (SET §5.8).
type AuthRevResData struct {
	AuthRevCode        AuthRevCode
	AuthRevTags        AuthRevTags
	BrandCRLIdentifier *der.Raw   `der:"[0]e opt"` // SET §6.6
	PEThumb            *CertThumb `der:"[1]e opt"`
	AuthNewAmt         CurrencyAmount
	AuthResDataNew     AuthResDataNew
	Extensions         MsgExtensions `der:"[2] opt"`
}

// AuthResDataNew is the authorization as it stands after the reversal (SET §5.8).
type AuthResDataNew struct {
	TransIDs          TransIDs
	AuthResPayloadNew *AuthResPayload `der:"[0] opt"`
}

// AuthRevCode is the result of an authorization reversal (SET §5.8).
type AuthRevCode int

// The results of an authorization reversal.
const (
	AuthRevApproved           AuthRevCode = 0
	AuthRevUnspecifiedFailure AuthRevCode = 1
	AuthRevNoReply            AuthRevCode = 2
	AuthRevAmountError        AuthRevCode = 3
	AuthRevExpiredCard        AuthRevCode = 4
	AuthRevInvalidTransaction AuthRevCode = 5
	AuthRevSystemError        AuthRevCode = 6
	AuthRevMissingCapToken    AuthRevCode = 7
	AuthRevInvalidCapToken    AuthRevCode = 8
	AuthRevInvalidAmount      AuthRevCode = 9
)

var authRevCodeNames = names{0, []string{
	"approved", "unspecifiedFailure", "noReply", "amountError", "expiredCard", "invalidTransaction",
	"systemError", "missingCapToken", "invalidCapToken", "invalidAmount",
}}

func (c AuthRevCode) String() string  { return authRevCodeNames.of(int(c)) }
func (AuthRevCode) DERType() der.Type { return authRevCodeNames.derType() }
