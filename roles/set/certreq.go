package set

import (
	"errors"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// CertReq asks for certificates (SET §4.5).
type CertReq struct {
	der.Choice
	EncX *cms.ContentInfo `der:"[0]e"` // EncX(EE, CA, CertReqData, AcctInfo): always, of a cardholder
	Enc  *cms.ContentInfo `der:"[1]e"` // Enc(EE, CA, CertReqData): without account data
}

// Parts of CertReq (SET §4.5).
type (
	// CertReqTBEX is the plaintext of CertReq's EncX.
	CertReqTBEX = cms.SignedPair[CertReqData]
	// CertReqTBS is what the signature in CertReqTBEX covers.
	CertReqTBS = cms.Pair[CertReqData, AcctInfo]
	// CertReqTBE is S(EE, CertReqData), the plaintext of CertReq's Enc.
	CertReqTBE cms.ContentInfo
)

// CertReqData says which certificates are asked for, and for which keys (SET §4.5).
type CertReqData struct {
	RRPID         RRPID
	LIDEE         LocalID
	ChallEE3      Challenge
	LIDCA         LocalID    `der:"[0] opt"`
	ChallCA       *Challenge `der:"[1] opt"` // always, when the CA sent one
	RequestType   RequestType
	RequestDate   time.Time
	IDData        *IDData `der:"[2]e opt"` // of a merchant or gateway
	RegFormID     Natural
	RegForm       []RegFormItem `der:"[3] opt size=1..50"`
	CABackKeyData *BackKeyData  `der:"[4] opt"` // always, of a cardholder: the key of CertRes
	PublicKeySorE PublicKeySorE
	EEThumb       *CertThumb    `der:"[5]e opt"` // of the certificate to renew
	Thumbs        *Thumbs       `der:"[6]e opt"`
	Extensions    MsgExtensions `der:"[7] opt"`
}

// PublicKeySorE holds the keys to certify, at least one, each a SubjectPublicKeyInfo (SET §4.5).
type PublicKeySorE struct {
	PublicKeyS *der.Raw `der:"[0]e opt"` // signature key
	PublicKeyE *der.Raw `der:"[1]e opt"` // key-exchange key
}

func (k PublicKeySorE) check() error {
	if k.PublicKeyS == nil && k.PublicKeyE == nil {
		return errors.New("PublicKeySorE without a key")
	}
	return nil
}

// CertRes answers CertReq and CertInqReq (SET §4.5).
type CertRes struct {
	der.Choice
	CertRes *cms.ContentInfo `der:"[0]e"` // S(CA, CertResData): to a merchant or gateway
	EncK    *cms.ContentInfo `der:"[1]e"` // EncK(caBackKeyData, CA, CertResData): to a cardholder
}

// CertResTBE is S(CA, CertResData), the plaintext of CertRes' EncK (SET §4.5).
type CertResTBE cms.ContentInfo

// CertResData tells what became of a request (SET §4.5).
type CertResData struct {
	RRPID              RRPID
	LIDEE              LocalID
	ChallEE3           Challenge
	LIDCA              LocalID
	CertStatus         CertStatus
	CertThumbs         *Thumbs       `der:"[0]e opt"` // of the new certificates, in SignedData.certificates
	BrandCRLIdentifier *der.Raw      `der:"[1]e opt"` // SET §6.6
	Thumbs             *Thumbs       `der:"[2]e opt"`
	Extensions         MsgExtensions `der:"[3] opt"`
}

// CertStatus is the state of a request (SET §4.5).
type CertStatus struct {
	CertStatusCode CertStatusCode
	NonceCCA       *Secret      `der:"[0] opt"` // the CA's half of PANSecret: to a cardholder, when complete
	EEMessage      Text128      `der:"opt"`     // to be shown
	CAMsg          *CAMsg       `der:"[1] opt"`
	FailedItemSeq  []FailedItem `der:"[2] opt size=1..50"`
}

// FailedItem is an answer that the CA does not accept (SET §4.5).
type FailedItem struct {
	ItemNumber ItemNumber
	ItemReason Text512
}

// ItemNumber counts the answers of a form from 1.
type ItemNumber int64

// DERType gives the bounds of an ItemNumber.
func (ItemNumber) DERType() der.Type { return der.Type{Kind: der.Integer, Min: 1, Max: 50} }

// CAMsg is what the wallet shows with the new certificate (SET §4.5).
type CAMsg struct {
	CardLogoURL   URL       `der:"[0] opt"`
	BrandLogoURL  URL       `der:"[1] opt"`
	CardCurrency  *Currency `der:"[2] opt"`
	CardholderMsg Text128   `der:"[3]e opt"`
}

// CertStatusCode is the state of a request (SET §4.5).
type CertStatusCode int

// The states of a request. SET spells the ninth rejectedByAquirer.
const (
	RequestComplete        CertStatusCode = 1
	InvalidLanguage        CertStatusCode = 2
	InvalidBIN             CertStatusCode = 3
	SigValidationFail      CertStatusCode = 4
	DecryptionError        CertStatusCode = 5
	RequestInProgress      CertStatusCode = 6
	RejectedByIssuer       CertStatusCode = 7
	RequestPended          CertStatusCode = 8
	RejectedByAcquirer     CertStatusCode = 9
	RegFormAnswerMalformed CertStatusCode = 10
	RejectedByCA           CertStatusCode = 11
	UnableToEncryptCertRes CertStatusCode = 12
)

var certStatusCodeNames = names{1, []string{
	"requestComplete", "invalidLanguage", "invalidBIN", "sigValidationFail", "decryptionError",
	"requestInProgress", "rejectedByIssuer", "requestPended", "rejectedByAquirer",
	"regFormAnswerMalformed", "rejectedByCA", "unableToEncryptCertRes",
}}

func (c CertStatusCode) String() string  { return certStatusCodeNames.of(int(c)) }
func (CertStatusCode) DERType() der.Type { return certStatusCodeNames.derType() }
