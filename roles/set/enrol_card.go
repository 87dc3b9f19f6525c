package set

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/pki"
)

// CardEnrolment is a cardholder's side of a registration (SET §7.2): CardCInit, RegForm and Cert, one
// after the other, and CertInq when the CA has not decided or its answer was lost. It holds the card number
// and secrets, in memory only: Clear it when it is over, however it ended. When no answer came, the same
// request is sent again; what Keep gives survives a crash.
//
// The endpoint needs a Verifier; for a renewal also the certificate that is renewed, its chain and its key.
type CardEnrolment struct {
	registration
	language   Language
	pan        PAN
	expiry     CardExpiry
	cardSecret Secret
	backKey    BackKey
	key        crypto.PublicKey
}

// CardCertificate is the outcome of a registration. The secrets belong with the card: whoever has them
// can tell the card's payments apart, and PANSecret goes into each of them. Clear it after use.
type CardCertificate struct {
	Certificate *pki.Certificate
	Chain       []*pki.Certificate // above it, without the root
	CardSecret  Secret
	PANSecret   Secret
	CAMsg       *CAMsg  // to be shown; may be nil
	Message     Text128 // to be shown; may be empty
	Verifier    *pki.Verifier
}

// Clear overwrites the secrets.
func (c *CardCertificate) Clear() {
	clear(c.CardSecret[:])
	clear(c.PANSecret[:])
}

// NewCardEnrolment starts the registration of a card for a brand. It copies pan and expiry.
func NewCardEnrolment(brand BrandID, language Language, pan PAN, expiry CardExpiry) *CardEnrolment {
	return newCardEnrolment(brand, language, pan, expiry, CardInitialSig)
}

// NewCardRenewal starts the registration of a new key for a card that has a certificate, which its key
// confirms.
func NewCardRenewal(brand BrandID, language Language, pan PAN, expiry CardExpiry) *CardEnrolment {
	return newCardEnrolment(brand, language, pan, expiry, CardRenewalSig)
}

func newCardEnrolment(brand BrandID, language Language, pan PAN, expiry CardExpiry, typ RequestType) *CardEnrolment {
	return &CardEnrolment{
		registration: newRegistration(brand, pki.CCA, typ), language: language, pan: bytes.Clone(pan), expiry: bytes.Clone(expiry),
	}
}

// Clear overwrites the secrets. The enrolment cannot go on.
func (c *CardEnrolment) Clear() {
	clear(c.pan)
	clear(c.expiry)
	clear(c.cardSecret[:])
	clear(c.backKey)
	*c = CardEnrolment{}
}

// InitReq makes CardCInitReq. It may be called again, which starts the registration anew.
func (c *CardEnrolment) InitReq(e *Endpoint, now time.Time) ([]byte, error) {
	c.restart(e)
	return c.wrap(e, now, Message{CardCInitReq: &CardCInitReq{
		RRPID: c.rrpid, LIDEE: c.lidEE, ChallEE: c.challenge, BrandID: c.brand, Thumbs: c.thumbs,
	}})
}

// OpenInitRes checks CardCInitRes and learns the CA's keys from it.
func (c *CardEnrolment) OpenInitRes(e *Endpoint, now time.Time, b []byte) error {
	w, err := e.receiveResponse(now, b, c.rrpid, CardCInitResType)
	if err != nil {
		return err
	}
	sd, err := cms.ParseSigned(cms.ContentInfo(*w.Message.CardCInitRes), ContentCardCInitResTBS)
	if err != nil {
		return protocol(err)
	}
	data, signer, certs, err := openAnswer(&c.registration, e, now, w, sd, func(d *CardCInitResTBS) caAnswer {
		return caAnswer{d.RRPID, d.LIDEE, d.LIDCA, d.ChallEE, d.Thumbs, d.BrandCRLIdentifier, d.Extensions}
	})
	if err != nil {
		return err
	}
	return c.takeExchange(e, now, data.CAEThumb, signer, certs)
}

// FormReq makes RegFormReq.
func (c *CardEnrolment) FormReq(e *Endpoint, now time.Time) ([]byte, error) {
	if c.exchange == nil {
		return nil, errOrder("CardCInitRes")
	}
	c.begin(e)
	panOnly := PANOnly{PAN: c.pan, ExNonce: NewNonce()}
	dd, err := cms.DD(ContentPANOnly, panOnly)
	if err != nil {
		return nil, err
	}
	packed := panOnly.Pack()
	defer clear(packed)
	ci, err := cms.Encrypt(c.exchange.X509, ContentRegFormReqTBE, RegFormReqTBE{
		Value: RegFormReqData{
			RRPID: c.rrpid, LIDEE: c.lidEE, ChallEE2: c.challenge, LIDCA: c.lidCA,
			RequestType: c.typ, Language: c.language, Thumbs: c.thumbs,
		},
		DD: dd,
	}, cms.WithHashPANOnly, packed)
	if err != nil {
		return nil, err
	}
	req := RegFormReq(ci)
	return c.wrap(e, now, Message{RegFormReq: &req})
}

// OpenFormRes checks RegFormRes and gives the form for the cardholder to fill in, with the policy to
// accept. A referral is a *ReferralError.
func (c *CardEnrolment) OpenFormRes(e *Endpoint, now time.Time, b []byte) (*RegFormData, error) {
	w, err := e.receiveResponse(now, b, c.rrpid, RegFormResType)
	if err != nil {
		return nil, err
	}
	sd, err := cms.ParseSigned(cms.ContentInfo(*w.Message.RegFormRes), ContentRegFormResTBS)
	if err != nil {
		return nil, protocol(err)
	}
	data, signer, certs, err := openAnswer(&c.registration, e, now, w, sd, func(d *RegFormResTBS) caAnswer {
		return caAnswer{d.RRPID, d.LIDEE, d.LIDCA, d.ChallEE2, d.Thumbs, d.BrandCRLIdentifier, d.Extensions}
	})
	if err != nil {
		return nil, err
	}
	if data.RequestType != c.typ {
		return nil, &ProtocolError{Code: WrapperMsgMismatch, Err: fmt.Errorf("the form is for %v", data.RequestType)}
	}
	if data.CAEThumb != nil {
		if err := c.takeExchange(e, now, *data.CAEThumb, signer, certs); err != nil {
			return nil, err
		}
	}
	c.challCA = &data.ChallCA
	return c.takeForm(data.RegFormOrReferral)
}

// CertReq makes CertReq for a new key, which signs once. answers has one for each field of the form,
// empty where there is none.
func (c *CardEnrolment) CertReq(e *Endpoint, now time.Time, answers []FieldText, key crypto.Signer) ([]byte, error) {
	if !c.formed {
		return nil, errOrder("RegFormRes")
	}
	formID, items, err := c.formAnswers(answers)
	if err != nil {
		return nil, err
	}
	keys, err := newKeys(key.Public(), nil)
	if err != nil {
		return nil, err
	}
	if t := c.exchange.Tunneling.Algorithms; len(t) > 0 && !slices.ContainsFunc(t, oidAES256GCM.Equal) {
		return nil, errors.New("the CA answers under no encryption that this software knows: it offers no AES-256-GCM")
	}
	c.begin(e)
	c.key, c.cardSecret, c.backKey = key.Public(), NewSecret(), make(BackKey, backKeyOctets)
	rand.Read(c.backKey)
	account := PANData0{PAN: c.pan, CardExpiry: c.expiry, CardSecret: c.cardSecret, ExNonce: NewNonce()}
	defer clear(account.CardSecret[:])
	packed := account.Pack()
	defer clear(packed)
	signers, renewed, err := c.signers(e, key)
	if err != nil {
		return nil, err
	}
	ci, err := cms.EncX(typesCertReqX, CertReqData{
		RRPID: c.rrpid, LIDEE: c.lidEE, ChallEE3: c.challenge, LIDCA: c.lidCA, ChallCA: c.challCA,
		RequestType: c.typ, RequestDate: now.UTC().Truncate(time.Second), RegFormID: formID, RegForm: items,
		CABackKeyData: &BackKeyData{BackAlgID: cms.AlgorithmIdentifier{Algorithm: oidAES256GCM}, BackKey: c.backKey},
		PublicKeySorE: keys, EEThumb: renewed, Thumbs: c.thumbs,
	}, AcctInfo{PANData0: &account}, packed, cms.WithPANData0, e.ownCertificates(nil), nil, signers, c.exchange.X509)
	if err != nil {
		return nil, err
	}
	return c.wrap(e, now, Message{CertReq: &CertReq{EncX: &ci}})
}

// OpenCertRes checks CertRes and gives the certificate and the secrets that go with it. Any other
// outcome is a *CertStatusError.
func (c *CardEnrolment) OpenCertRes(e *Endpoint, now time.Time, b []byte) (*CardCertificate, error) {
	if c.key == nil {
		return nil, errOrder("CertReq")
	}
	w, err := e.receiveResponse(now, b, c.rrpid, CertResType)
	if err != nil {
		return nil, err
	}
	return c.openRes(e, now, w, w.Message.CertRes)
}

// openRes checks the answer to CertReq or CertInqReq.
func (c *CardEnrolment) openRes(e *Endpoint, now time.Time, w *MessageWrapper, res *CertRes) (*CardCertificate, error) {
	var sd *cms.SignedData
	var err error
	if res.EncK != nil {
		sd, err = cms.OpenEncBack(typesCertRes, *res.EncK, c.backKey)
	} else {
		sd, err = cms.ParseSigned(*res.CertRes, ContentCertResData)
	}
	if err != nil {
		return nil, protocol(err)
	}
	data, _, certs, err := openAnswer(&c.registration, e, now, w, sd, caAnswerOfCertRes)
	if err != nil {
		return nil, err
	}
	status := data.CertStatus
	if status.NonceCCA != nil {
		defer clear(status.NonceCCA[:])
	}
	if res.EncK == nil && (status.CertStatusCode == RequestComplete || status.NonceCCA != nil) {
		return nil, &ProtocolError{Code: UnspecifiedFailure, Err: errors.New("a cardholder's CertRes must be encrypted: the certificate is discarded")}
	}
	if err := statusError(status); err != nil {
		return nil, err
	}
	return c.complete(e, now, &data, certs)
}

// complete checks the new certificate and computes PANSecret.
func (c *CardEnrolment) complete(e *Endpoint, now time.Time, data *CertResData, certs []*pki.Certificate) (*CardCertificate, error) {
	found, err := issued(data, certs, 1)
	if err != nil {
		return nil, err
	}
	cert := found[0]
	if err := c.certifies(e, now, cert, certs, pki.Signature, pki.Card, c.key); err != nil {
		return nil, err
	}
	if end, err := c.expiry.End(); err != nil {
		return nil, err
	} else if !cert.X509.NotAfter.Before(end) {
		return nil, c.unwanted(cert, "it outlives the card")
	}
	secret, err := panSecret(c.cardSecret, data.CertStatus.NonceCCA)
	if err != nil {
		return nil, c.unwanted(cert, err.Error())
	}
	defer clear(secret[:])
	id, err := pki.UniqueCardholderID(secret[:], c.pan, c.expiry)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(id), []byte(cert.Subject.CommonName)) != 1 {
		return nil, c.unwanted(cert, "its name is not that of this card and secret")
	}
	out := &CardCertificate{
		Certificate: cert, Chain: c.above(e, now, cert, certs), CardSecret: c.cardSecret, PANSecret: secret,
		CAMsg: data.CertStatus.CAMsg, Message: data.CertStatus.EEMessage, Verifier: c.endpoint(e).Verifier,
	}
	return out, nil
}

// panSecret is CardSecret xor NonceCCA (SET §6.4). The CA chooses its half when it knows the other: what
// would give away or fix the result is refused (SET §9.1).
func panSecret(card Secret, nonce *Secret) (secret Secret, err error) {
	if nonce == nil {
		return secret, errors.New("the CA sent no nonce")
	}
	subtle.XORBytes(secret[:], card[:], nonce[:])
	var zero Secret
	if subtle.ConstantTimeCompare(nonce[:], zero[:])|subtle.ConstantTimeCompare(secret[:], zero[:]) == 1 {
		return zero, errors.New("the CA's nonce makes the secret known")
	}
	return secret, nil
}
