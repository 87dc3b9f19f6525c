package set

import (
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// CapReq asks for captures (SET §5.9).
type CapReq struct {
	der.Choice
	EncB  *EncB[CapTokenSeq]  `der:"[0]e"` // EncB(M, P, CapReqData, CapTokenSeq)
	EncBX *EncBX[CapTokenSeq] `der:"[1]e"` // EncBX(M, P, CapReqData, CapTokenSeq, PANToken): of one item
}

// CapTokenSeq holds one CapToken for each item, in the same order (SET §5.6).
type CapTokenSeq []CapToken

func (s CapTokenSeq) check() error {
	if len(s) == 0 {
		return errEmpty
	}
	return nil
}

// Parts of CapReq (SET §3.5).
type (
	// CapReqTBS is L(CapReqData, CapTokenSeq), which the merchant signs.
	CapReqTBS = cms.Linked[CapReqData]
	// CapReqTBE is S(M, CapReqTBS), the plaintext of EncB's Enc.
	CapReqTBE cms.ContentInfo
	// CapReqTBEX is the plaintext of EncBX's EncX.
	CapReqTBEX = cms.SignedPair[CapReqTBS]
	// CapReqTBSX is what the signature in CapReqTBEX covers.
	CapReqTBSX = cms.Pair[CapReqTBS, PANToken]
)

// CapReqData lists what to capture (SET §5.9).
type CapReqData struct {
	CapRRTags  RRTags
	MThumbs    *Thumbs       `der:"[0]e opt"`
	CapItemSeq []CapItem     `der:"size=1.."`
	Extensions MsgExtensions `der:"[1] opt"`
}

// CapItem is one authorization to capture (SET §5.9).
type CapItem struct {
	TransIDs   TransIDs
	AuthRRPID  RRPID
	CapPayload CapPayload
}

// CapPayload is what a capture is to be (SET §5.9).
type CapPayload struct {
	CapDate        time.Time // as the cardholder's statement will show it
	CapReqAmt      CurrencyAmount
	AuthReqItem    *AuthReqItem    `der:"[0] opt"` // when the token lacks it
	AuthResPayload *AuthResPayload `der:"[1] opt"` // when the token lacks it
	SaleDetail     *SaleDetail     `der:"[2] opt"`
	Extensions     MsgExtensions   `der:"[3] opt"`
}

// CapRes is Enc(P, M, CapResData) (SET §5.9).
type CapRes cms.ContentInfo

// CapResTBE is S(P, CapResData), the plaintext of CapRes (SET §3.5).
type CapResTBE cms.ContentInfo

// CapResData tells what became of the captures (SET §5.9).
type CapResData struct {
	CapRRTags          RRTags
	BrandCRLIdentifier *der.Raw      `der:"[0]e opt"` // SET §6.6
	PEThumb            *CertThumb    `der:"[1]e opt"`
	BatchStatusSeq     []BatchStatus `der:"[2] opt"`
	CapResItemSeq      []CapResItem  `der:"size=1.."` // in the order of the request
	Extensions         MsgExtensions `der:"[3] opt"`
}

// CapResItem is what became of one capture (SET §5.9).
type CapResItem struct {
	TransIDs      TransIDs
	AuthRRPID     RRPID
	CapResPayload CapResPayload
}

// CapResPayload is the result of a capture (SET §5.9).
type CapResPayload struct {
	CapCode          CapCode
	CapAmt           CurrencyAmount
	BatchID          *Natural      `der:"[0] opt"`
	BatchSequenceNum *Positive     `der:"[1] opt"`
	Extensions       MsgExtensions `der:"[2] opt"`
}

// CapCode is the result of a capture (SET §5.9).
type CapCode int

// The results of a capture.
const (
	CapSuccess            CapCode = 0
	CapUnspecifiedFailure CapCode = 1
	CapDuplicateRequest   CapCode = 2
	CapAuthExpired        CapCode = 3
	CapAuthDataMissing    CapCode = 4
	CapInvalidAuthData    CapCode = 5
	CapTokenMissing       CapCode = 6
	CapInvalidCapToken    CapCode = 7
	CapBatchUnknown       CapCode = 8
	CapBatchClosed        CapCode = 9
	CapUnknownXID         CapCode = 10
	CapUnknownLID         CapCode = 11
)

var capCodeNames = names{0, []string{
	"success", "unspecifiedFailure", "duplicateRequest", "authExpired", "authDataMissing",
	"invalidAuthData", "capTokenMissing", "invalidCapToken", "batchUnknown", "batchClosed",
	"unknownXID", "unknownLID",
}}

func (c CapCode) String() string  { return capCodeNames.of(int(c)) }
func (CapCode) DERType() der.Type { return capCodeNames.derType() }
