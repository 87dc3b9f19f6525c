package set

import (
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// RegFormReq is EXH(CA, RegFormReqData, PANOnly) (SET §4.4).
type RegFormReq cms.ContentInfo

// RegFormReqTBE is the plaintext of RegFormReq: L(RegFormReqData, PANOnly) (SET §4.4).
type RegFormReqTBE = cms.Linked[RegFormReqData]

// RegFormReqData asks for the form of a card (SET §4.4).
type RegFormReqData struct {
	RRPID       RRPID
	LIDEE       LocalID
	ChallEE2    Challenge
	LIDCA       LocalID `der:"[0] opt"`
	RequestType RequestType
	Language    Language
	Thumbs      *Thumbs       `der:"[1]e opt"`
	Extensions  MsgExtensions `der:"[2] opt"`
}

// RegFormRes is S(CA, RegFormResTBS) (SET §4.4).
type RegFormRes cms.ContentInfo

// RegFormResTBS is the form of a card, or a referral (SET §4.4).
type RegFormResTBS struct {
	RRPID              RRPID
	LIDEE              LocalID
	ChallEE2           Challenge
	LIDCA              LocalID `der:"[0] opt"`
	ChallCA            Challenge
	CAEThumb           *CertThumb `der:"[1]e opt"` // only when it has changed
	RequestType        RequestType
	RegFormOrReferral  RegFormOrReferral
	BrandCRLIdentifier *der.Raw      `der:"[2]e opt"` // SET §6.6
	Thumbs             *Thumbs       `der:"[3]e opt"`
	Extensions         MsgExtensions `der:"[4] opt"`
}
