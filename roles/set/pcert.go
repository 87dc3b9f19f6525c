package set

import (
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// PCertReq is S(M, PCertReqData) (SET §5.11).
type PCertReq cms.ContentInfo

// PCertReqData asks for the gateway's certificates of some brands (SET §5.11).
type PCertReqData struct {
	PCertTags      RRTags
	MThumbs        *Thumbs       `der:"[0]e opt"`
	BrandAndBINSeq []BrandAndBIN `der:"size=1.."`
	Extensions     MsgExtensions `der:"[1] opt"`
}

// BrandAndBIN is a brand, or the cards of one issuer under it (SET §5.11).
type BrandAndBIN struct {
	BrandID BrandID
	BIN     BIN `der:"opt"`
}

// PCertRes is S(P, PCertResTBS). The certificates themselves travel beside the signature (SET §5.11).
type PCertRes cms.ContentInfo

// PCertResTBS names the certificates asked for (SET §5.11).
type PCertResTBS struct {
	PCertTags             RRTags
	PCertResItemSeq       []PCertResItem `der:"size=1.."` // in the order of the request
	BrandCRLIdentifierSeq []der.Raw      `der:"[0] opt"`  // SET §6.6
	Extensions            MsgExtensions  `der:"[1] opt"`
}

// PCertResItem names the certificate for one brand and BIN (SET §5.11).
type PCertResItem struct {
	PCertCode PCertCode
	CertThumb *CertThumb `der:"[0]e opt"`
}

// PCertCode is the result for one brand and BIN (SET §5.11).
type PCertCode int

// The results for one brand and BIN.
const (
	PCertSuccess            PCertCode = 0
	PCertUnspecifiedFailure PCertCode = 1
	PCertBrandNotSupported  PCertCode = 2
	PCertUnknownBIN         PCertCode = 3
)

var pCertCodeNames = names{0, []string{"success", "unspecifiedFailure", "brandNotSupported", "unknownBIN"}}

func (c PCertCode) String() string  { return pCertCodeNames.of(int(c)) }
func (PCertCode) DERType() der.Type { return pCertCodeNames.derType() }
