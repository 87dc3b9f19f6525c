package set

import (
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// CardCInitReq starts a cardholder's registration; it is clear text (SET §4.2).
type CardCInitReq struct {
	RRPID      RRPID
	LIDEE      LocalID
	ChallEE    Challenge
	BrandID    BrandID
	Thumbs     *Thumbs       `der:"[0]e opt"`
	Extensions MsgExtensions `der:"[1] opt"`
}

// CardCInitRes is S(CA, CardCInitResTBS) (SET §4.2).
type CardCInitRes cms.ContentInfo

// CardCInitResTBS tells the cardholder which key of the CA to encrypt to (SET §4.2).
type CardCInitResTBS struct {
	RRPID              RRPID
	LIDEE              LocalID
	ChallEE            Challenge
	LIDCA              LocalID       `der:"[0] opt"`
	CAEThumb           CertThumb     `der:"[1]e"`
	BrandCRLIdentifier *der.Raw      `der:"[2]e opt"` // SET §6.6
	Thumbs             *Thumbs       `der:"[3]e opt"`
	Extensions         MsgExtensions `der:"[4] opt"`
}
