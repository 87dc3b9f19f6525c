package set

import (
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// MeAqCInitReq, SET's Me-AqCInitReq, starts the registration of a merchant or gateway; it is clear text
// (SET §4.3).
type MeAqCInitReq struct {
	RRPID       RRPID
	LIDEE       LocalID
	ChallEE     Challenge
	RequestType RequestType
	IDData      IDData
	BrandID     BrandID
	Language    Language
	Thumbs      *Thumbs       `der:"[0]e opt"`
	Extensions  MsgExtensions `der:"[1] opt"`
}

// MeAqCInitRes is S(CA, Me-AqCInitResTBS) (SET §4.3).
type MeAqCInitRes cms.ContentInfo

// MeAqCInitResTBS, SET's Me-AqCInitResTBS, is the form for a merchant or gateway (SET §4.3).
type MeAqCInitResTBS struct {
	RRPID              RRPID
	LIDEE              LocalID
	ChallEE            Challenge
	LIDCA              LocalID `der:"[0] opt"`
	ChallCA            Challenge
	RequestType        RequestType
	RegFormOrReferral  RegFormOrReferral
	AcctDataField      *RegField     `der:"[1] opt"` // how to ask for what goes into AcctData
	CAEThumb           CertThumb     `der:"[2]e"`
	BrandCRLIdentifier *der.Raw      `der:"[3]e opt"` // SET §6.6
	Thumbs             *Thumbs       `der:"[4]e opt"`
	Extensions         MsgExtensions `der:"[5] opt"`
}
