package set

import (
	"encoding/asn1"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// PReq is the order and the payment instruction (SET §5.2).
type PReq struct {
	der.Choice
	PReqDualSigned *PReqDualSigned `der:"[0]e"`
	PReqUnsigned   *PReqUnsigned   `der:"[1]e"`
}

// PReqDualSigned is the PReq of a cardholder with a certificate (SET §5.2).
type PReqDualSigned struct {
	PIDualSigned PIDualSigned
	OIDualSigned OIDualSigned
}

// PIDualSigned is a signed payment instruction, for the gateway (SET §5.2).
type PIDualSigned struct {
	PISignature cms.ContentInfo // SO(C, PI-TBS)
	EXPIData    cms.ContentInfo // EX(P, PI-OILink, PANData)
}

// PReqUnsigned is the PReq of a cardholder without a certificate (SET §5.2).
type PReqUnsigned struct {
	PIUnsigned PIUnsigned
	OIUnsigned OIUnsigned
}

// PIUnsigned is EXH(P, PI-OILink, PANToken) (SET §5.2).
type PIUnsigned cms.ContentInfo

// Linkages of the payment instruction and the order information (SET §5.2).
type (
	// PIOILink, SET's PI-OILink, is L(PIHead, OIData).
	PIOILink = cms.Linked[PIHead]
	// PIDualSignedTBE is L(PI-OILink, PANData), the plaintext of PIDualSigned's EX.
	PIDualSignedTBE = cms.Linked[PIOILink]
	// PIUnsignedTBE is L(PI-OILink, PANToken), the plaintext of PIUnsigned.
	PIUnsignedTBE = cms.Linked[PIOILink]
	// OIDualSigned is L(OIData, PIData).
	OIDualSigned = cms.Linked[OIData]
	// OIUnsigned is L(OIData, PIDataUnsigned).
	OIUnsigned = cms.Linked[OIData]
	// HOD is DD(HODInput).
	HOD = cms.DetachedDigest
)

// PIData is what the cardholder's signature binds to the order information (SET §5.2).
type PIData struct {
	PIHead  PIHead
	PANData PANData
}

// PIDataUnsigned is PIData without a secret (SET §5.2).
type PIDataUnsigned struct {
	PIHead   PIHead
	PANToken PANToken
}

// PITBS, SET's PI-TBS, is what the dual signature signs (SET §5.2).
type PITBS struct {
	HPIData cms.DetachedDigest // DD(PIData)
	HOIData cms.DetachedDigest // DD(OIData)
}

// PI is what the merchant forwards to the gateway (SET §5.2).
type PI struct {
	der.Choice
	PIUnsigned   *PIUnsigned   `der:"[0]e"`
	PIDualSigned *PIDualSigned `der:"[1]e"`
	AuthToken    *AuthToken    `der:"[2]e"`
}

// PIHead is the payment instruction without the account (SET §5.2).
type PIHead struct {
	TransIDs         TransIDs
	Inputs           PIInputs
	MerchantID       MerchantID        // merID of the merchant's signature certificate
	InstallRecurData *InstallRecurData `der:"[0] opt"`
	TransStain       Digest            // HMAC of the XID under CardSecret (SET §6.4)
	SWIdent          SWIdent
	AcqBackKeyData   *BackKeyData  `der:"[1] opt"`
	Extensions       MsgExtensions `der:"[2] opt"` // piExtensions; with ExtPEThumb (profile A8)
}

// PIInputs is what the payment instruction says of the order (SET §5.2).
type PIInputs struct {
	HOD      HOD
	PurchAmt CurrencyAmount
}

// OIData is the order information, for the merchant (SET §5.2).
type OIData struct {
	TransIDs   TransIDs
	RRPID      RRPID
	ChallC     Challenge
	HOD        HOD
	ODSalt     Nonce
	ChallM     *Challenge `der:"opt"` // present exactly when there was a PInit pair
	BrandID    BrandID
	BIN        BIN
	ODExtOIDs  []asn1.ObjectIdentifier `der:"[0] opt"` // of HODInput.ODExtensions, in the same order
	Extensions MsgExtensions           `der:"[1] opt"`
}

// HODInput is what HOD digests. Cardholder and merchant both build it; it never travels (SET §5.2).
type HODInput struct {
	OD               []byte // order description, exactly as the initiation message delivered it
	PurchAmt         CurrencyAmount
	ODSalt           Nonce
	InstallRecurData *InstallRecurData `der:"[0] opt"`
	ODExtensions     MsgExtensions     `der:"[1] opt"`
}
