package set

import (
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// Capture reversals, credits and credit reversals have the same structures; the message says which is
// meant, and so does the content type of what is signed and encrypted in it (SET §5.10).

// CapRevOrCredReq is the form of CapRevReq, CredReq and CredRevReq (SET §5.10).
type CapRevOrCredReq struct {
	der.Choice
	EncB  *EncB[CapTokenSeq]  `der:"[0]e"` // EncB(M, P, CapRevOrCredReqData, CapTokenSeq)
	EncBX *EncBX[CapTokenSeq] `der:"[1]e"` // EncBX(M, P, CapRevOrCredReqData, CapTokenSeq, PANToken): of one item
}

// Parts of CapRevReq, CredReq and CredRevReq (SET §3.5).
type (
	// CapRevOrCredReqTBS is L(CapRevOrCredReqData, CapTokenSeq), which the merchant signs.
	CapRevOrCredReqTBS = cms.Linked[CapRevOrCredReqData]
	// CapRevOrCredReqTBE is S(M, CapRevOrCredReqTBS), the plaintext of EncB's Enc.
	CapRevOrCredReqTBE cms.ContentInfo
	// CapRevOrCredReqTBEX is the plaintext of EncBX's EncX.
	CapRevOrCredReqTBEX = cms.SignedPair[CapRevOrCredReqTBS]
	// CapRevOrCredReqTBSX is what the signature in CapRevOrCredReqTBEX covers.
	CapRevOrCredReqTBSX = cms.Pair[CapRevOrCredReqTBS, PANToken]
)

// CapRevOrCredReqData lists what to undo or to credit (SET §5.10).
type CapRevOrCredReqData struct {
	CapRevOrCredRRTags     RRTags
	MThumbs                *Thumbs               `der:"[0]e opt"`
	CapRevOrCredReqItemSeq []CapRevOrCredReqItem `der:"size=1.."`
	Extensions             MsgExtensions         `der:"[1] opt"`
}

// CapRevOrCredReqItem is one capture to undo, or one credit to make or to undo (SET §5.10).
type CapRevOrCredReqItem struct {
	TransIDs            TransIDs
	AuthRRPID           RRPID
	CapPayload          CapPayload // of the capture
	NewBatchID          *Natural   `der:"[0] opt"` // when the capture's batch is closed
	CapRevOrCredReqDate time.Time
	CapRevOrCredReqAmt  *CurrencyAmount `der:"[1] opt"`       // of a credit; may differ from the capture's
	NewAccountInd       bool            `der:"default=false"` // credit another account than was charged
	Extensions          MsgExtensions   `der:"[2] opt"`
}

// CapRevOrCredRes is Enc(P, M, CapRevOrCredResData): CapRevRes, CredRes and CredRevRes (SET §5.10).
type CapRevOrCredRes cms.ContentInfo

// CapRevOrCredResTBE is S(P, CapRevOrCredResData), the plaintext of CapRevOrCredRes (SET §3.5).
type CapRevOrCredResTBE cms.ContentInfo

// CapRevOrCredResData tells what became of each item (SET §5.10).
type CapRevOrCredResData struct {
	CapRevOrCredRRTags     RRTags
	BrandCRLIdentifier     *der.Raw              `der:"[0]e opt"` // SET §6.6
	PEThumb                *CertThumb            `der:"[1]e opt"`
	BatchStatusSeq         []BatchStatus         `der:"[2] opt"`
	CapRevOrCredResItemSeq []CapRevOrCredResItem `der:"size=1.."` // in the order of the request
	Extensions             MsgExtensions         `der:"[3] opt"`
}

// CapRevOrCredResItem is what became of one item (SET §5.10).
type CapRevOrCredResItem struct {
	TransIDs               TransIDs
	AuthRRPID              RRPID
	CapRevOrCredResPayload CapRevOrCredResPayload
}

// CapRevOrCredResPayload is the result of one item (SET §5.10).
type CapRevOrCredResPayload struct {
	CapRevOrCredCode      CapRevOrCredCode
	CapRevOrCredActualAmt CurrencyAmount
	BatchID               *Natural      `der:"[0] opt"`
	BatchSequenceNum      *Positive     `der:"[1] opt"`
	Extensions            MsgExtensions `der:"[2] opt"`
}
