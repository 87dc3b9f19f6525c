package set

import (
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

// Sale is the merchant's side of one purchase (SET §7.4). It holds no card data: the payment
// instructions in PI are encrypted for the gateway. It may be stored as JSON.
type Sale struct {
	OD           []byte // the order description, exactly as the initiation message delivered it
	ODExtensions MsgExtensions
	PurchAmt     CurrencyAmount
	LIDM         LocalID

	// InstallRecurData is what merchant and cardholder agreed of instalments or recurring payments.
	InstallRecurData *InstallRecurData

	// GatewayCert is the DER of the key-exchange certificate that the payment instructions are for. InitRes
	// sets it; where there is no PInit pair, the merchant does (SET §7.4).
	GatewayCert []byte

	// From the PInit pair, or from PReq where there was none: then ChallM is nil.
	TransIDs TransIDs
	ChallC   Challenge
	ChallM   *Challenge
	BrandID  BrandID
	BIN      BIN
	Thumbs   *Thumbs // of the revocation lists that the cardholder knows since PInitRes; nil for none

	// From PReq.
	RRPID   RRPID
	PI      []byte // DER, passed on unopened
	HOIData []byte // DER of DD(OIData)
	HOD     []byte // DER of DD(HODInput), computed from the merchant's own order
	Card    []byte // DER of the subject name of the cardholder's certificate, which is blind; nil if unsigned
}

// Cardholder tells how the cardholder is known who made a payment. An unsigned one says nothing of who made it:
// anyone who knows the card number can (W-PU1).
type Cardholder string

// How a cardholder is known.
const (
	CardholderCertified Cardholder = "certified" // by a signature under a cardholder's certificate
	CardholderUnsigned  Cardholder = "unsigned"
)

func cardholder(signed bool) Cardholder {
	if signed {
		return CardholderCertified
	}
	return CardholderUnsigned
}

// Cardholder tells how the cardholder is known whose purchase request was taken.
func (s *Sale) Cardholder() Cardholder { return cardholder(s.Card != nil) }

// ErrOrder tells that the cardholder signed another order than the merchant's: PRes says orderRejected.
var ErrOrder = errors.New("the order that the cardholder signed is not this merchant's order")

// OpenPInitReq checks that the header agrees with the message.
func (w *MessageWrapper) OpenPInitReq() (*PInitReq, error) {
	m, h := w.Message.PInitReq, w.MessageHeader
	switch {
	case *h.RRPID != m.RRPID:
		return nil, mismatch("rrpid")
	case h.MessageIDs != nil && string(h.MessageIDs.LIDC) != string(m.LIDC):
		return nil, mismatch("lid-C")
	case h.MessageIDs != nil && string(h.MessageIDs.LIDM) != string(m.LIDM):
		return nil, mismatch("lid-M")
	}
	return m, known(m.Extensions)
}

// InitRes starts the transaction and makes PInitRes. gateway is the certificate that the cardholder is to
// encrypt for, and above the CA certificates above it.
func (s *Sale) InitRes(e *Endpoint, now time.Time, req *PInitReq, gateway *pki.Certificate, above []*pki.Certificate) ([]byte, error) {
	s.TransIDs = TransIDs{
		LIDC: req.LIDC, LIDM: s.LIDM, XID: NewXID(), PReqDate: now.UTC().Truncate(time.Second), Language: req.Language,
	}
	challM := NewChallenge()
	s.ChallC, s.ChallM, s.BrandID, s.BIN = req.ChallC, &challM, req.BrandID, req.BIN
	s.GatewayCert, s.Thumbs = gateway.X509.Raw, e.thumbs()
	data := PInitResData{
		TransIDs: s.TransIDs, RRPID: req.RRPID, ChallC: s.ChallC, ChallM: challM,
		BrandCRLIdentifier: e.brandCRLIdentifier(req.Thumbs), PEThumb: gateway.CertThumb(), Thumbs: req.Thumbs,
	}
	certs := e.ownCertificates(req.Thumbs, append([]*pki.Certificate{gateway}, above...)...)
	ci, err := cms.Sign(ContentPInitResData, data, certs, e.crls(req.Thumbs), e.cmsSigner())
	if err != nil {
		return nil, err
	}
	res := PInitRes(ci)
	return e.wrap(now, s.TransIDs.messageIDs(), &req.RRPID, Message{PInitRes: &res})
}

// OpenedPReq is a purchase request whose dual signature verifies, or that has none.
type OpenedPReq struct {
	OI      OIData
	PI      PI
	Card    *pki.Certificate // nil when the request is not signed: then nobody is known to have made it
	HOIData cms.DetachedDigest
}

// Holder is the blind name of the cardholder who signed, "" when nobody did.
func (o *OpenedPReq) Holder() string { return holder(o.Card) }

// Subject is the DER of the subject name of the cardholder's certificate, nil when the request is not
// signed.
func (o *OpenedPReq) Subject() []byte { return subject(o.Card) }

func holder(card *pki.Certificate) string {
	if card == nil {
		return ""
	}
	return card.Subject.CommonName
}

func subject(card *pki.Certificate) []byte {
	if card == nil {
		return nil
	}
	return card.X509.RawSubject
}

// OpenPReq verifies the dual signature of PReq as far as the merchant can see it: over its own OIData and
// the digest of the payment data (SET §7.4). Whether a request without signature will do is for Take to
// say, which knows the gateway.
func (e *Endpoint) OpenPReq(now time.Time, w *MessageWrapper) (*OpenedPReq, error) {
	o := new(OpenedPReq)
	var linked OIDualSigned
	dual, unsigned := w.Message.PReq.PReqDualSigned, w.Message.PReq.PReqUnsigned
	if dual != nil {
		linked, o.PI = dual.OIDualSigned, PI{PIDualSigned: &dual.PIDualSigned}
	} else {
		linked, o.PI = unsigned.OIUnsigned, PI{PIUnsigned: &unsigned.PIUnsigned}
	}
	o.OI = linked.Value
	if *w.MessageHeader.RRPID != o.OI.RRPID {
		return nil, mismatch("rrpid")
	}
	err := errors.Join(w.checkIDs(o.OI.TransIDs), known(o.OI.Extensions))
	if err != nil {
		return nil, err
	}
	if o.HOIData, err = cms.DD(ContentOIData, o.OI); err != nil {
		return nil, err
	}
	if dual != nil {
		o.Card, err = e.verifyDual(now, dual.PIDualSigned.PISignature, PITBS{HPIData: linked.DD, HOIData: o.HOIData})
		if err != nil {
			return nil, err
		}
	}
	return o, e.checkBrand(o)
}

// checkBrand tells whether the order is of the merchant's brand, and of the card's.
func (e *Endpoint) checkBrand(o *OpenedPReq) error {
	for _, cert := range []*pki.Certificate{e.SignCert, o.Card} {
		if cert != nil && !o.OI.BrandID.Matches(BrandID(cert.Brand())) {
			thumb := cert.CertThumb()
			return &ProtocolError{Code: InvalidCertificate, Thumb: &thumb, Err: fmt.Errorf("brand %q in an order of brand %q", cert.Brand(), o.OI.BrandID)}
		}
	}
	return nil
}

// verifyDual verifies PISignature and the certificate of the cardholder who made it.
func (e *Endpoint) verifyDual(now time.Time, signature cms.ContentInfo, tbs PITBS) (*pki.Certificate, error) {
	sd, err := cms.ParseSigned(signature, ContentPITBS)
	if err != nil {
		return nil, protocol(err)
	}
	card, err := e.signerCertificate(now, sd, nil, pki.Card)
	if err != nil {
		return nil, err
	}
	if err := sd.VerifyDetached(0, tbs, card.X509.PublicKey); err != nil {
		return nil, &ProtocolError{Code: SignatureFailure, Err: fmt.Errorf("dual signature: %w", err)}
	}
	return card, nil
}

// Take holds a purchase request against the sale and keeps what is needed of it. ErrOrder means that the
// order is not the merchant's; every other failure is a *ProtocolError. Without a PInit pair the sale takes
// its identifiers from the request: that the XID is new is the caller's to check (SET §7.4, W-PU8).
func (s *Sale) Take(o *OpenedPReq) error {
	gateway, err := pki.ParseCertificate(s.GatewayCert)
	if err != nil {
		return err
	}
	if o.Card == nil && gateway.CardCertRequired {
		return &ProtocolError{Code: SignatureRequired, Err: errors.New("the gateway requires cardholder certificates")}
	}
	if err := s.checkIdentifiers(&o.OI); err != nil {
		return err
	}
	own, err := hod(s.OD, s.PurchAmt, o.OI.ODSalt, s.InstallRecurData, s.ODExtensions)
	if err != nil {
		return err
	}
	s.RRPID = o.OI.RRPID
	if o.OI.HOD.Equal(own) != nil || o.OI.BrandID != s.BrandID || o.OI.BIN != s.BIN {
		return ErrOrder
	}
	for _, f := range []struct {
		dst *[]byte
		v   any
	}{{&s.PI, o.PI}, {&s.HOIData, o.HOIData}, {&s.HOD, own}} {
		if *f.dst, err = der.Marshal(f.v); err != nil {
			return err
		}
	}
	s.Card = o.Subject()
	return nil
}

// checkIdentifiers holds the identifiers and challenges of a purchase request against those of the PInit
// pair. Where there was none they become the sale's.
func (s *Sale) checkIdentifiers(oi *OIData) error {
	if s.ChallM != nil {
		if err := s.TransIDs.check(oi.TransIDs); err != nil {
			return err
		}
		if oi.ChallM == nil || *oi.ChallM != *s.ChallM || oi.ChallC != s.ChallC {
			return &ProtocolError{Code: ChallengeMismatch}
		}
		return nil
	}
	if s.TransIDs.XID != (XID{}) { // an earlier request started the transaction
		if err := s.TransIDs.check(oi.TransIDs); err != nil {
			return err
		}
	}
	if oi.ChallM != nil {
		return &ProtocolError{Code: ChallengeMismatch, Err: errors.New("a merchant's challenge where no PInitRes gave one")}
	}
	if oi.TransIDs.LIDM != nil && string(oi.TransIDs.LIDM) != string(s.LIDM) {
		return &ProtocolError{Code: UnknownLID}
	}
	s.TransIDs, s.ChallC, s.BrandID, s.BIN = oi.TransIDs, oi.ChallC, oi.BrandID, oi.BIN
	return nil
}

// PRes answers the purchase request with one payload for each authorization.
func (s *Sale) PRes(e *Endpoint, now time.Time, payloads ...PResPayload) ([]byte, error) {
	ci, err := s.result(e, s.RRPID, s.ChallC, payloads)
	if err != nil {
		return nil, err
	}
	res := PRes(ci)
	return e.wrap(now, s.TransIDs.messageIDs(), &s.RRPID, Message{PRes: &res})
}

// result brings the revocation lists that are newer than those of PInitRes: nothing else shows which ones the
// cardholder knows.
func (s *Sale) result(e *Endpoint, rrpid RRPID, challenge Challenge, payloads []PResPayload) (cms.ContentInfo, error) {
	data := PResData{
		TransIDs: s.TransIDs, RRPID: rrpid, ChallC: challenge, BrandCRLIdentifier: e.brandCRLIdentifier(s.Thumbs), PResPayloadSeq: payloads,
	}
	return cms.Sign(ContentPResData, data, e.ownCertificates(nil), e.crls(s.Thumbs), e.cmsSigner())
}

// OpenedInqReq is an inquiry whose signature verifies, or that has none.
type OpenedInqReq struct {
	Data InqReqData
	Card *pki.Certificate // nil when the inquiry is not signed
}

// Holder is the blind name of the cardholder who signed, "" when nobody did.
func (q *OpenedInqReq) Holder() string { return holder(q.Card) }

// OpenInqReq verifies InqReq. Whether an inquiry without signature will do is for InqRes to say, which
// knows the purchase (SET §7.6).
func (e *Endpoint) OpenInqReq(now time.Time, w *MessageWrapper) (*OpenedInqReq, error) {
	q := new(OpenedInqReq)
	if unsigned := w.Message.InqReq.InqReqUnsigned; unsigned != nil {
		q.Data = *unsigned
	} else {
		var err error
		q.Data, q.Card, _, err = opened[InqReqData](e, now, *w.Message.InqReq.InqReqSigned, ContentInqReqData, nil, pki.Card)
		if err != nil {
			return nil, err
		}
	}
	if q.Data.RRPID != *w.MessageHeader.RRPID {
		return nil, mismatch("rrpid")
	}
	return q, errors.Join(w.checkIDs(q.Data.TransIDs), known(q.Data.Extensions))
}

// InqRes answers an inquiry about the sale. Who signed the purchase request must sign it; where nobody did,
// nobody need. A sale without purchase request is told by the payload orderNotReceived.
func (s *Sale) InqRes(e *Endpoint, now time.Time, q *OpenedInqReq, payloads ...PResPayload) ([]byte, error) {
	switch {
	case s.Card != nil && q.Card == nil:
		return nil, &ProtocolError{Code: SignatureRequired}
	case s.Card != nil && string(s.Card) != string(q.Card.X509.RawSubject):
		return nil, &ProtocolError{Code: SignatureFailure, Err: errors.New("inquiry by another cardholder")}
	}
	if err := s.TransIDs.check(q.Data.TransIDs); err != nil {
		return nil, err
	}
	ci, err := s.result(e, q.Data.RRPID, q.Data.ChallC2, payloads)
	if err != nil {
		return nil, err
	}
	res := InqRes(ci)
	return e.wrap(now, s.TransIDs.messageIDs(), &q.Data.RRPID, Message{InqRes: &res})
}
