package set

import (
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// InqReq asks how far a purchase has come. Who signed the PReq must sign it (SET §5.4).
type InqReq struct {
	der.Choice
	InqReqSigned   *cms.ContentInfo `der:"[0]e"` // S(C, InqReqData)
	InqReqUnsigned *InqReqData      `der:"[1]e"`
}

// InqReqData names the purchase (SET §5.4).
type InqReqData struct {
	TransIDs   TransIDs
	RRPID      RRPID
	ChallC2    Challenge
	Extensions MsgExtensions `der:"[0] opt"`
}

// InqRes has the form of PRes: S(M, PResData) (SET §5.4).
type InqRes cms.ContentInfo
