package set

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/pki"
)

// MeAqEnrolment is a merchant's or payment gateway's side of a registration (SET §7.3): Me-AqCInit and
// Cert, and CertInq when the CA has not decided or its answer was lost. When no answer came, the same
// request is sent again; what Keep gives survives a crash.
//
// The endpoint needs a Verifier; with a renewal, or a request for a key-exchange certificate alone, it also
// signs, with the certificates that it has.
type MeAqEnrolment struct {
	registration
	language Language
	id       IDData

	acctField   *RegField
	signKey     crypto.PublicKey // to be certified; nil if not asked for
	exchangeKey crypto.PublicKey
	requested   bool
}

// EntityForm is what a merchant or gateway has to fill in.
type EntityForm struct {
	RegFormData
	AcctDataField *RegField // how to ask for the account data; nil when none is wanted
}

// EntityCertificates are the outcome of a registration. What was not asked for is nil.
type EntityCertificates struct {
	Signature   *pki.Certificate
	KeyExchange *pki.Certificate
	Chain       []*pki.Certificate // above them, without the root
	Message     Text128            // to be shown; may be empty
	Verifier    *pki.Verifier
}

// parts tells who asks by a request type, and for which certificates.
func (t RequestType) parts() (holder pki.Type, sign, exchange, renewal bool) {
	if t >= CardRenewalSig {
		holder, sign, exchange, _ = (t - CardRenewalSig + CardInitialSig).parts()
		return holder, sign, exchange, true
	}
	switch t {
	case MerInitialSig, MerInitialEnc, MerInitialBoth:
		holder = pki.Mer
	case PgwyInitialSig, PgwyInitialEnc, PgwyInitialBoth:
		holder = pki.Pgwy
	default:
		return pki.Card, true, false, false
	}
	return holder, t != MerInitialEnc && t != PgwyInitialEnc, t != MerInitialSig && t != PgwyInitialSig, false
}

// fits tells whether the identification is of the kind of party.
func (d *IDData) fits(holder pki.Type) bool {
	switch {
	case d == nil:
		return holder == pki.Card
	case d.MerchantAcquirerID != nil:
		return holder == pki.Mer
	}
	return holder == pki.Pgwy
}

// NewMeAqEnrolment starts a registration for a brand. The type says who asks and for which certificates.
func NewMeAqEnrolment(brand BrandID, language Language, typ RequestType, id IDData) (*MeAqEnrolment, error) {
	holder, _, _, _ := typ.parts()
	ca := pki.MCA
	if holder == pki.Pgwy {
		ca = pki.PCA
	}
	if holder == pki.Card || !id.fits(holder) {
		return nil, fmt.Errorf("registration of a merchant or gateway: request type %v with the identification given is not possible", typ)
	}
	return &MeAqEnrolment{registration: newRegistration(brand, ca, typ), language: language, id: id}, nil
}

// InitReq makes Me-AqCInitReq. It may be called again, which starts the registration anew.
func (m *MeAqEnrolment) InitReq(e *Endpoint, now time.Time) ([]byte, error) {
	m.restart(e)
	return m.wrap(e, now, Message{MeAqCInitReq: &MeAqCInitReq{
		RRPID: m.rrpid, LIDEE: m.lidEE, ChallEE: m.challenge, RequestType: m.typ, IDData: m.id,
		BrandID: m.brand, Language: m.language, Thumbs: m.thumbs,
	}})
}

// OpenInitRes checks Me-AqCInitRes and gives the form to fill in, with the policy to accept. A referral
// is a *ReferralError.
func (m *MeAqEnrolment) OpenInitRes(e *Endpoint, now time.Time, b []byte) (*EntityForm, error) {
	w, err := e.receiveResponse(now, b, m.rrpid, MeAqCInitResType)
	if err != nil {
		return nil, err
	}
	sd, err := cms.ParseSigned(cms.ContentInfo(*w.Message.MeAqCInitRes), ContentMeAqCInitResTBS)
	if err != nil {
		return nil, protocol(err)
	}
	data, signer, certs, err := openAnswer(&m.registration, e, now, w, sd, func(d *MeAqCInitResTBS) caAnswer {
		return caAnswer{d.RRPID, d.LIDEE, d.LIDCA, d.ChallEE, d.Thumbs, d.BrandCRLIdentifier, d.Extensions}
	})
	if err != nil {
		return nil, err
	}
	if data.RequestType != m.typ {
		return nil, &ProtocolError{Code: WrapperMsgMismatch, Err: fmt.Errorf("the form is for %v", data.RequestType)}
	}
	if err := m.takeExchange(e, now, data.CAEThumb, signer, certs); err != nil {
		return nil, err
	}
	m.challCA, m.acctField = &data.ChallCA, data.AcctDataField
	form, err := m.takeForm(data.RegFormOrReferral)
	if err != nil {
		return nil, err
	}
	return &EntityForm{*form, m.acctField}, nil
}

// CertReq makes CertReq. answers has one for each field of the form, empty where there is none, and after
// them one for AcctDataField if there is one. signKey, which signs once, and exchangeKey are given as the
// request type asks; the other is nil.
func (m *MeAqEnrolment) CertReq(e *Endpoint, now time.Time, answers []FieldText, signKey crypto.Signer, exchangeKey crypto.PublicKey) ([]byte, error) {
	if !m.formed {
		return nil, errOrder("Me-AqCInitRes")
	}
	if _, sign, exchange, _ := m.typ.parts(); sign != (signKey != nil) || exchange != (exchangeKey != nil) {
		return nil, fmt.Errorf("the keys given are not those that %v asks for", m.typ)
	}
	m.signKey, m.exchangeKey = nil, exchangeKey
	if signKey != nil {
		m.signKey = signKey.Public()
	}
	signers, renewed, err := m.signers(e, signKey)
	if err != nil {
		return nil, err
	}
	var account *AcctData
	if m.acctField != nil {
		if len(answers) == 0 {
			return nil, errors.New("the CA asks for account data: give it as the last answer")
		}
		id, err := NewAcctIdentification(string(answers[len(answers)-1]))
		if err != nil {
			return nil, err
		}
		account, answers = &AcctData{AcctIdentification: id, ExNonce: NewNonce()}, answers[:len(answers)-1]
	}
	formID, items, err := m.formAnswers(answers)
	if err != nil {
		return nil, err
	}
	keys, err := newKeys(m.signKey, m.exchangeKey)
	if err != nil {
		return nil, err
	}
	m.begin(e)
	m.requested = true
	req, err := m.certReq(e, CertReqData{
		RRPID: m.rrpid, LIDEE: m.lidEE, ChallEE3: m.challenge, LIDCA: m.lidCA, ChallCA: m.challCA,
		RequestType: m.typ, RequestDate: now.UTC().Truncate(time.Second), IDData: &m.id, RegFormID: formID, RegForm: items,
		PublicKeySorE: keys, EEThumb: renewed, Thumbs: m.thumbs,
	}, account, signers)
	if err != nil {
		return nil, err
	}
	return m.wrap(e, now, Message{CertReq: req})
}

func (m *MeAqEnrolment) certReq(e *Endpoint, data CertReqData, account *AcctData, signers []cms.Signer) (*CertReq, error) {
	own := e.ownCertificates(nil) // none before the first certificate
	if account == nil {
		signed, err := cms.Sign(typesCertReq.TBS, data, own, nil, signers...)
		if err != nil {
			return nil, err
		}
		ci, err := cms.Encrypt(m.exchange.X509, typesCertReq.TBE, signed, cms.Plain, nil)
		return &CertReq{Enc: &ci}, err
	}
	packed := account.Pack()
	defer clear(packed)
	ci, err := cms.EncX(typesCertReqX, data, AcctInfo{AcctData: account}, packed, cms.WithAcctData, own,
		nil, signers, m.exchange.X509)
	return &CertReq{EncX: &ci}, err
}

// OpenCertRes checks CertRes and gives the certificates. Any other outcome is a *CertStatusError.
func (m *MeAqEnrolment) OpenCertRes(e *Endpoint, now time.Time, b []byte) (*EntityCertificates, error) {
	if !m.requested {
		return nil, errOrder("CertReq")
	}
	w, err := e.receiveResponse(now, b, m.rrpid, CertResType)
	if err != nil {
		return nil, err
	}
	return m.openRes(e, now, w, w.Message.CertRes)
}

// openRes checks the answer to CertReq or CertInqReq.
func (m *MeAqEnrolment) openRes(e *Endpoint, now time.Time, w *MessageWrapper, res *CertRes) (*EntityCertificates, error) {
	if res.CertRes == nil {
		return nil, &ProtocolError{Code: UnspecifiedFailure, Err: errors.New("CertRes is encrypted, and no key was sent for that")}
	}
	sd, err := cms.ParseSigned(*res.CertRes, ContentCertResData)
	if err != nil {
		return nil, protocol(err)
	}
	data, _, certs, err := openAnswer(&m.registration, e, now, w, sd, caAnswerOfCertRes)
	if err != nil {
		return nil, err
	}
	if err := statusError(data.CertStatus); err != nil {
		return nil, err
	}
	return m.complete(e, now, &data, certs)
}

// complete checks the new certificates.
func (m *MeAqEnrolment) complete(e *Endpoint, now time.Time, data *CertResData, certs []*pki.Certificate) (*EntityCertificates, error) {
	holder, _, _, _ := m.typ.parts()
	out := &EntityCertificates{Message: data.CertStatus.EEMessage, Verifier: m.endpoint(e).Verifier}
	want := 0
	for _, key := range []crypto.PublicKey{m.signKey, m.exchangeKey} {
		if key != nil {
			want++
		}
	}
	found, err := issued(data, certs, want)
	if err != nil {
		return nil, err
	}
	for _, c := range found {
		key, place := m.signKey, &out.Signature
		if c.Use == pki.KeyExchange {
			key, place = m.exchangeKey, &out.KeyExchange
		}
		if key == nil || *place != nil {
			return nil, m.unwanted(c, "it was not asked for")
		}
		if err := m.certifies(e, now, c, certs, c.Use, holder, key); err != nil {
			return nil, err
		}
		if err := m.names(c); err != nil {
			return nil, err
		}
		*place = c
		out.Chain = m.above(e, now, c, certs)
	}
	if s, x := out.Signature, out.KeyExchange; s != nil && x != nil && !bytes.Equal(s.X509.RawSubject, x.X509.RawSubject) {
		return nil, m.unwanted(x, "the two certificates have different names")
	}
	return out, nil
}

// names refuses a merchant's certificate for another merchant.
func (m *MeAqEnrolment) names(c *pki.Certificate) error {
	id := m.id.MerchantAcquirerID
	if id != nil && (c.Merchant.MerchantID != string(id.MerchantID) || c.Merchant.AcquirerBIN != string(id.MerchantBIN)) {
		return m.unwanted(c, "it is for another merchant")
	}
	return nil
}
