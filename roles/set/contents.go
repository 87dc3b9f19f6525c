package set

import (
	"encoding/asn1"
	"reflect"

	"github.com/setkit/setkit/roles/set/cms"
)

// contents are the structures that SET's content types name (SET §1.2, §3.5).
var contents = map[string]any{
	"PANData": PANData{}, "PANToken": PANToken{}, "PANOnly": PANOnly{},
	"OIData": OIData{}, "PI": PI{}, "PIData": PIData{}, "PIDataUnsigned": PIDataUnsigned{}, "HODInput": HODInput{},
	"PI-TBS": PITBS{}, "PIDualSignedTBE": PIDualSignedTBE{}, "PIUnsignedTBE": PIUnsignedTBE{},
	"PInitResData": PInitResData{}, "PResData": PResData{}, "InqReqData": InqReqData{},
	"AuthReqTBS": AuthReqTBS{}, "AuthReqTBE": AuthReqTBE{},
	"AuthResTBS": AuthResTBS{}, "AuthResTBSX": AuthResTBSX{}, "AuthResTBE": AuthResTBE{}, "AuthResTBEX": AuthResTBEX{},
	"AuthResBaggage": AuthResBaggage{},
	"AuthTokenTBS":   AuthTokenTBS{}, "AuthTokenTBE": AuthTokenTBE{},
	"CapTokenData": CapTokenData{}, "CapTokenTBS": CapTokenTBS{}, "CapTokenTBE": CapTokenTBE{}, "CapTokenTBEX": CapTokenTBEX{},
	"AcqCardCodeMsg": AcqCardCodeMsg{}, "AcqCardCodeMsgTBE": AcqCardCodeMsgTBE{},
	"CapTokenSeq": CapTokenSeq{},
	"CapReqTBS":   CapReqTBS{}, "CapReqTBSX": CapReqTBSX{}, "CapReqTBE": CapReqTBE{}, "CapReqTBEX": CapReqTBEX{},
	"CapResData": CapResData{}, "CapResTBE": CapResTBE{},
	"CardCInitResTBS": CardCInitResTBS{}, "Me-AqCInitResTBS": MeAqCInitResTBS{},
	"RegFormReqTBE": RegFormReqTBE{}, "RegFormResTBS": RegFormResTBS{},
	"CertReqData": CertReqData{}, "CertReqTBS": CertReqTBS{}, "CertReqTBE": CertReqTBE{}, "CertReqTBEX": CertReqTBEX{},
	"CertResData": CertResData{}, "CertResTBE": CertResTBE{}, "CertInqReqTBS": CertInqReqTBS{},
	"AuthRevReqTBS": AuthRevReqTBS{}, "AuthRevReqTBE": AuthRevReqTBE{}, "AuthRevReqBaggage": AuthRevReqBaggage{},
	"AuthRevResData": AuthRevResData{}, "AuthRevResTBS": AuthRevResTBS{}, "AuthRevResTBE": AuthRevResTBE{},
	"AuthRevResTBEB": AuthRevResTBEB{}, "AuthRevResBaggage": AuthRevResBaggage{},
	"CapRevReqTBS": CapRevOrCredReqTBS{}, "CapRevReqTBSX": CapRevOrCredReqTBSX{},
	"CapRevReqTBE": CapRevOrCredReqTBE{}, "CapRevReqTBEX": CapRevOrCredReqTBEX{},
	"CapRevResData": CapRevOrCredResData{}, "CapRevResTBE": CapRevOrCredResTBE{},
	"CredReqTBS": CapRevOrCredReqTBS{}, "CredReqTBSX": CapRevOrCredReqTBSX{},
	"CredReqTBE": CapRevOrCredReqTBE{}, "CredReqTBEX": CapRevOrCredReqTBEX{},
	"CredResData": CapRevOrCredResData{}, "CredResTBE": CapRevOrCredResTBE{},
	"CredRevReqTBS": CapRevOrCredReqTBS{}, "CredRevReqTBSX": CapRevOrCredReqTBSX{},
	"CredRevReqTBE": CapRevOrCredReqTBE{}, "CredRevReqTBEX": CapRevOrCredReqTBEX{},
	"CredRevResData": CapRevOrCredResData{}, "CredRevResTBE": CapRevOrCredResTBE{},
	"PCertReqData": PCertReqData{}, "PCertResTBS": PCertResTBS{},
	"BatchAdminReqData": BatchAdminReqData{}, "BatchAdminReqTBE": BatchAdminReqTBE{},
	"BatchAdminResData": BatchAdminResData{}, "BatchAdminResTBE": BatchAdminResTBE{},
	"ErrorTBS": ErrorTBS{},
}

// NewContent gives a pointer to an empty value of the structure that a content type names, into which
// Unmarshal decodes what was signed or encrypted; nil when setkit has none.
func NewContent(contentType asn1.ObjectIdentifier) any {
	v, ok := contents[OIDName(contentType)]
	if !ok {
		return nil
	}
	return reflect.New(reflect.TypeOf(v)).Interface()
}

// blocks tell what the RSA block of an encrypted content holds beside the key (SET §3.4). A content that
// is not here has none but the key.
var blocks = map[string][]cms.BlockContents{
	"PIDualSignedTBE": {cms.WithPANData}, "PIUnsignedTBE": {cms.WithHashToken},
	"RegFormReqTBE": {cms.WithHashPANOnly}, "CertReqTBEX": {cms.WithPANData0, cms.WithAcctData},
	"AuthResTBEX": {cms.WithPANToken}, "AuthTokenTBE": {cms.WithPANToken}, "CapTokenTBEX": {cms.WithPANToken},
	"CapReqTBEX": {cms.WithPANToken}, "CapRevReqTBEX": {cms.WithPANToken}, "CredReqTBEX": {cms.WithPANToken},
	"CredRevReqTBEX": {cms.WithPANToken},
}

// Blocks gives what the RSA block of an encrypted content of this type may hold: one, but for a request
// for certificates, which a cardholder, a merchant or a gateway may have made.
func Blocks(contentType asn1.ObjectIdentifier) []cms.BlockContents {
	if b, ok := blocks[OIDName(contentType)]; ok {
		return b
	}
	return []cms.BlockContents{cms.Plain}
}

// UnpackExtra reads the extra data of an RSA block into the structure that it packs; nil when there is none.
func UnpackExtra(bc cms.BlockContents, packed []byte) (any, error) {
	switch bc {
	case cms.WithPANData:
		return UnpackPANData(packed)
	case cms.WithPANData0:
		return UnpackPANData0(packed)
	case cms.WithPANToken, cms.WithHashToken:
		return UnpackPANToken(packed)
	case cms.WithHashPANOnly:
		return UnpackPANOnly(packed)
	case cms.WithAcctData:
		return UnpackAcctData(packed)
	}
	return nil, nil
}
