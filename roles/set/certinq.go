package set

import (
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// CertInqReq is S(EE, CertInqReqTBS) (SET §4.7).
type CertInqReq cms.ContentInfo

// CertInqReqTBS asks what became of a CertReq (SET §4.7).
type CertInqReqTBS struct {
	RRPID      RRPID
	LIDEE      LocalID
	ChallEE3   Challenge
	LIDCA      LocalID
	Thumbs     *Thumbs       `der:"[0]e opt"`
	Extensions MsgExtensions `der:"[1] opt"`
}

// CertInqRes has the form of CertRes (SET §4.7).
type CertInqRes struct {
	der.Choice
	CertRes *cms.ContentInfo `der:"[0]e"`
	EncK    *cms.ContentInfo `der:"[1]e"`
}
