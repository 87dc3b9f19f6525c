package set

import (
	"encoding/asn1"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

type oid = asn1.ObjectIdentifier

// Content types of SignedData, of encrypted contents and of detached digests (SET §1.2). They are not to
// be changed.
var (
	ContentPANData               = contentType(0)
	ContentPANToken              = contentType(1)
	ContentPANOnly               = contentType(2)
	ContentOIData                = contentType(3)
	ContentPI                    = contentType(4)
	ContentPIData                = contentType(5)
	ContentPIDataUnsigned        = contentType(6)
	ContentHODInput              = contentType(7)
	ContentAuthResBaggage        = contentType(8)
	ContentAuthRevReqBaggage     = contentType(9)
	ContentAuthRevResBaggage     = contentType(10)
	ContentCapTokenSeq           = contentType(11)
	ContentPInitResData          = contentType(12)
	ContentPITBS                 = contentType(13)
	ContentPResData              = contentType(14)
	ContentInqReqData            = contentType(15)
	ContentAuthReqTBS            = contentType(16)
	ContentAuthResTBS            = contentType(17)
	ContentAuthResTBSX           = contentType(18)
	ContentAuthTokenTBS          = contentType(19)
	ContentCapTokenData          = contentType(20)
	ContentCapTokenTBS           = contentType(21)
	ContentAcqCardCodeMsg        = contentType(22)
	ContentAuthRevReqTBS         = contentType(23)
	ContentAuthRevResData        = contentType(24)
	ContentAuthRevResTBS         = contentType(25)
	ContentCapReqTBS             = contentType(26)
	ContentCapReqTBSX            = contentType(27)
	ContentCapResData            = contentType(28)
	ContentCapRevReqTBS          = contentType(29)
	ContentCapRevReqTBSX         = contentType(30)
	ContentCapRevResData         = contentType(31)
	ContentCredReqTBS            = contentType(32)
	ContentCredReqTBSX           = contentType(33)
	ContentCredResData           = contentType(34)
	ContentCredRevReqTBS         = contentType(35)
	ContentCredRevReqTBSX        = contentType(36)
	ContentCredRevResData        = contentType(37)
	ContentPCertReqData          = contentType(38)
	ContentPCertResTBS           = contentType(39)
	ContentBatchAdminReqData     = contentType(40)
	ContentBatchAdminResData     = contentType(41)
	ContentCardCInitResTBS       = contentType(42)
	ContentMeAqCInitResTBS       = contentType(43)
	ContentRegFormResTBS         = contentType(44)
	ContentCertReqData           = contentType(45)
	ContentCertReqTBS            = contentType(46)
	ContentCertResData           = contentType(47)
	ContentCertInqReqTBS         = contentType(48)
	ContentErrorTBS              = contentType(49)
	ContentPIDualSignedTBE       = contentType(50)
	ContentPIUnsignedTBE         = contentType(51)
	ContentAuthReqTBE            = contentType(52)
	ContentAuthResTBE            = contentType(53)
	ContentAuthResTBEX           = contentType(54)
	ContentAuthTokenTBE          = contentType(55)
	ContentCapTokenTBE           = contentType(56)
	ContentCapTokenTBEX          = contentType(57)
	ContentAcqCardCodeMsgTBE     = contentType(58)
	ContentAuthRevReqTBE         = contentType(59)
	ContentAuthRevResTBE         = contentType(60)
	ContentAuthRevResTBEB        = contentType(61)
	ContentCapReqTBE             = contentType(62)
	ContentCapReqTBEX            = contentType(63)
	ContentCapResTBE             = contentType(64)
	ContentCapRevReqTBE          = contentType(65)
	ContentCapRevReqTBEX         = contentType(66)
	ContentCapRevResTBE          = contentType(67)
	ContentCredReqTBE            = contentType(68)
	ContentCredReqTBEX           = contentType(69)
	ContentCredResTBE            = contentType(70)
	ContentCredRevReqTBE         = contentType(71)
	ContentCredRevReqTBEX        = contentType(72)
	ContentCredRevResTBE         = contentType(73)
	ContentBatchAdminReqTBE      = contentType(74)
	ContentBatchAdminResTBE      = contentType(75)
	ContentRegFormReqTBE         = contentType(76)
	ContentCertReqTBE            = contentType(77)
	ContentCertReqTBEX           = contentType(78)
	ContentCertResTBE            = contentType(79)
	ContentCRLNotificationTBS    = contentType(80)
	ContentCRLNotificationResTBS = contentType(81)
	ContentBCIDistributionTBS    = contentType(82)
)

func contentType(n int) oid { return oid{2, 23, 42, 0, n} }

// contentTypeNames has the name of content type n at index n.
var contentTypeNames = []string{
	"PANData", "PANToken", "PANOnly", "OIData", "PI", "PIData", "PIDataUnsigned", "HODInput",
	"AuthResBaggage", "AuthRevReqBaggage", "AuthRevResBaggage", "CapTokenSeq", "PInitResData",
	"PI-TBS", "PResData", "InqReqData", "AuthReqTBS", "AuthResTBS", "AuthResTBSX", "AuthTokenTBS",
	"CapTokenData", "CapTokenTBS", "AcqCardCodeMsg", "AuthRevReqTBS", "AuthRevResData",
	"AuthRevResTBS", "CapReqTBS", "CapReqTBSX", "CapResData", "CapRevReqTBS", "CapRevReqTBSX",
	"CapRevResData", "CredReqTBS", "CredReqTBSX", "CredResData", "CredRevReqTBS", "CredRevReqTBSX",
	"CredRevResData", "PCertReqData", "PCertResTBS", "BatchAdminReqData", "BatchAdminResData",
	"CardCInitResTBS", "Me-AqCInitResTBS", "RegFormResTBS", "CertReqData", "CertReqTBS",
	"CertResData", "CertInqReqTBS", "ErrorTBS", "PIDualSignedTBE", "PIUnsignedTBE", "AuthReqTBE",
	"AuthResTBE", "AuthResTBEX", "AuthTokenTBE", "CapTokenTBE", "CapTokenTBEX", "AcqCardCodeMsgTBE",
	"AuthRevReqTBE", "AuthRevResTBE", "AuthRevResTBEB", "CapReqTBE", "CapReqTBEX", "CapResTBE",
	"CapRevReqTBE", "CapRevReqTBEX", "CapRevResTBE", "CredReqTBE", "CredReqTBEX", "CredResTBE",
	"CredRevReqTBE", "CredRevReqTBEX", "CredRevResTBE", "BatchAdminReqTBE", "BatchAdminResTBE",
	"RegFormReqTBE", "CertReqTBE", "CertReqTBEX", "CertResTBE", "CRLNotificationTBS",
	"CRLNotificationResTBS", "BCIDistributionTBS",
}

// Identifiers of fields of a registration form (SET §1.4).
var (
	FieldFullName             = field(0)
	FieldGivenName            = field(1)
	FieldFamilyName           = field(2)
	FieldBirthFamilyName      = field(3)
	FieldPlaceName            = field(4)
	FieldIdentificationNumber = field(5)
	FieldMonth                = field(6)
	FieldDate                 = field(7)
	FieldAddress              = field(8)
	FieldTelephone            = field(9)
	FieldAmount               = field(10)
	FieldAccountNumber        = field(11)
	FieldPassPhrase           = field(12)
)

func field(n int) oid { return oid{2, 23, 42, 2, n} }

// ExtPEThumb is the extension of PIHead that names the gateway's certificate by a CertThumb (profile A8).
var ExtPEThumb = oid{2, 23, 42, 9, 99, 1}

// ContentWalletBundle is the content type of a wallet bundle, which SET leaves to the card issuer.
var ContentWalletBundle = oid{2, 23, 42, 9, 99, 2}

// arcNames are SET's names below 2.23.42, arc by arc, without the content types.
var arcNames = []struct {
	arc   []int
	names []string // an empty one is not assigned
}{
	{[]int{1}, []string{
		"", "setext-genCrypt", "", "setext-miAuth", "setext-pinSecure", "setext-pinAny", "",
		"setext-track2", "setext-cv",
	}},
	{[]int{2}, []string{
		"fullName", "givenName", "familyName", "birthFamilyName", "placeName", "identificationNumber",
		"month", "date", "address", "telephone", "amount", "accountNumber", "passPhrase",
	}},
	{[]int{3}, []string{"setAttr-Cert", "setAttr-PGWYcap", "setAttr-TokenType", "setAttr-IssCap"}},
	{[]int{3, 0}, []string{"set-rootKeyThumb", "set-addPolicy"}},
	{[]int{5}, []string{"set-policy-root"}},
	{[]int{7}, []string{
		"hashedRootKey", "certificateType", "merchantData", "cardCertRequired", "tunneling",
		"setExtensions", "setQualifier", "PGWYcapabilities", "TokenIdentifier", "Track2Data",
		"TokenType", "IssuerCapabilities",
	}},
	{[]int{9, 99}, []string{"", "peThumb", "walletBundle"}},
}

// OIDName gives SET's name of an object identifier, or "" if it has none (SET §1).
func OIDName(id asn1.ObjectIdentifier) string {
	if len(id) < 5 || !slices.Equal(id[:3], oid{2, 23, 42}) {
		return ""
	}
	arc, n := id[3:len(id)-1], id[len(id)-1]
	if slices.Equal(arc, oid{0}) {
		return nameAt(contentTypeNames, n)
	}
	for _, a := range arcNames {
		if slices.Equal(arc, oid(a.arc)) {
			return nameAt(a.names, n)
		}
	}
	return ""
}

func nameAt(names []string, n int) string {
	if n < 0 || n >= len(names) {
		return ""
	}
	return names[n]
}

// parseOID reads the dotted form.
func parseOID(s string) (oid, error) {
	var id oid
	for part := range strings.SplitSeq(s, ".") {
		n, err := strconv.ParseUint(part, 10, 31)
		if err != nil || strconv.FormatUint(n, 10) != part {
			return nil, fmt.Errorf("object identifier %q: want numbers with dots between them", s)
		}
		id = append(id, int(n))
	}
	if len(id) < 2 || id[0] > 2 || id[0] < 2 && id[1] > 39 {
		return nil, fmt.Errorf("object identifier %q does not exist: no such first arcs", s)
	}
	return id, nil
}
