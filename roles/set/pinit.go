package set

import (
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// PInitReq starts a purchase; it is clear text (SET §5.1).
type PInitReq struct {
	RRPID      RRPID
	Language   Language
	LIDC       LocalID
	LIDM       LocalID `der:"[0] opt"` // from the initiation message, if it gave one
	ChallC     Challenge
	BrandID    BrandID
	BIN        BIN
	Thumbs     *Thumbs       `der:"[1]e opt"`
	Extensions MsgExtensions `der:"[2] opt"`
}

// PInitRes is S(M, PInitResData) (SET §5.1).
type PInitRes cms.ContentInfo

// PInitResData gives the purchase its identifiers and names the gateway's key (SET §5.1).
type PInitResData struct {
	TransIDs           TransIDs
	RRPID              RRPID
	ChallC             Challenge
	ChallM             Challenge
	BrandCRLIdentifier *der.Raw      `der:"[0]e opt"` // SET §6.6
	PEThumb            CertThumb     `der:"[1]e"`     // of the gateway's key-exchange certificate
	Thumbs             *Thumbs       `der:"[2]e opt"`
	Extensions         MsgExtensions `der:"[3] opt"`
}
