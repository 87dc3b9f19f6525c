package set

import (
	"encoding/asn1"
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

	// From the PInit pair.
	TransIDs    TransIDs
	ChallC      Challenge
	ChallM      Challenge
	BrandID     BrandID
	BIN         BIN
	GatewayCert []byte // DER of the key-exchange certificate that the payment instructions are for

	// From PReq.
	RRPID   RRPID
	PI      []byte // DER, passed on unopened
	HOIData []byte // DER of DD(OIData)
	HOD     []byte // DER of DD(HODInput), computed from the merchant's own order
	Card    []byte // DER of the subject name of the cardholder's certificate, which is blind
}

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
	s.ChallC, s.ChallM, s.BrandID, s.BIN = req.ChallC, NewChallenge(), req.BrandID, req.BIN
	s.GatewayCert = gateway.X509.Raw
	ci, err := e.sign(ContentPInitResData, PInitResData{
		TransIDs: s.TransIDs, RRPID: req.RRPID, ChallC: s.ChallC, ChallM: s.ChallM,
		PEThumb: gateway.CertThumb(), Thumbs: req.Thumbs,
	}, req.Thumbs, append([]*pki.Certificate{gateway}, above...)...)
	if err != nil {
		return nil, err
	}
	res := PInitRes(ci)
	return e.wrap(now, s.TransIDs.messageIDs(), &req.RRPID, Message{PInitRes: &res})
}

// OpenedPReq is a purchase request whose dual signature verifies.
type OpenedPReq struct {
	OI      OIData
	PI      PI
	Card    *pki.Certificate
	HOIData cms.DetachedDigest
}

// OpenPReq verifies the dual signature of PReq as far as the merchant can see it: over its own OIData and
// the digest of the payment data (SET §7.4). An unsigned request is refused.
func (e *Endpoint) OpenPReq(now time.Time, w *MessageWrapper) (*OpenedPReq, error) {
	dual := w.Message.PReq.PReqDualSigned
	if dual == nil {
		return nil, &ProtocolError{Code: SignatureRequired, Err: errors.New("this merchant's gateway requires cardholder certificates")}
	}
	oi := dual.OIDualSigned.Value
	if *w.MessageHeader.RRPID != oi.RRPID {
		return nil, mismatch("rrpid")
	}
	if err := errors.Join(w.checkIDs(oi.TransIDs), known(oi.Extensions)); err != nil {
		return nil, err
	}
	hOIData, err := cms.DD(ContentOIData, oi)
	if err != nil {
		return nil, err
	}
	card, err := e.verifyDual(now, dual.PIDualSigned.PISignature, PITBS{HPIData: dual.OIDualSigned.DD, HOIData: hOIData})
	if err != nil {
		return nil, err
	}
	if !oi.BrandID.Matches(BrandID(card.Brand())) || !oi.BrandID.Matches(BrandID(e.SignCert.Brand())) {
		thumb := card.CertThumb()
		return nil, &ProtocolError{Code: InvalidCertificate, Thumb: &thumb, Err: fmt.Errorf("brand %q of the card, %q of the order, %q of the merchant", card.Brand(), oi.BrandID, e.SignCert.Brand())}
	}
	return &OpenedPReq{OI: oi, PI: PI{PIDualSigned: &dual.PIDualSigned}, Card: card, HOIData: hOIData}, nil
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
// order is not the merchant's; every other failure is a *ProtocolError.
func (s *Sale) Take(o *OpenedPReq) error {
	if err := s.TransIDs.check(o.OI.TransIDs); err != nil {
		return err
	}
	if o.OI.ChallM == nil || *o.OI.ChallM != s.ChallM || o.OI.ChallC != s.ChallC {
		return &ProtocolError{Code: ChallengeMismatch}
	}
	own, err := hod(s.OD, s.PurchAmt, o.OI.ODSalt, nil, s.ODExtensions)
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
	s.Card = o.Card.X509.RawSubject
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

func (s *Sale) result(e *Endpoint, rrpid RRPID, challenge Challenge, payloads []PResPayload) (cms.ContentInfo, error) {
	return e.sign(ContentPResData, PResData{TransIDs: s.TransIDs, RRPID: rrpid, ChallC: challenge, PResPayloadSeq: payloads}, nil)
}

// OpenedInqReq is an inquiry whose signature verifies.
type OpenedInqReq struct {
	Data InqReqData
	Card *pki.Certificate
}

// OpenInqReq verifies InqReq. Every purchase here is signed, so an unsigned inquiry is refused (SET §7.6).
func (e *Endpoint) OpenInqReq(now time.Time, w *MessageWrapper) (*OpenedInqReq, error) {
	signed := w.Message.InqReq.InqReqSigned
	if signed == nil {
		return nil, &ProtocolError{Code: SignatureRequired}
	}
	data, card, _, err := opened[InqReqData](e, now, *signed, ContentInqReqData, pki.Card)
	if err != nil {
		return nil, err
	}
	if data.RRPID != *w.MessageHeader.RRPID {
		return nil, mismatch("rrpid")
	}
	return &OpenedInqReq{data, card}, errors.Join(w.checkIDs(data.TransIDs), known(data.Extensions))
}

// InqRes answers an inquiry about the sale, which is the same cardholder's or is refused. A sale without
// purchase request is told by the payload orderNotReceived.
func (s *Sale) InqRes(e *Endpoint, now time.Time, q *OpenedInqReq, payloads ...PResPayload) ([]byte, error) {
	if s.Card != nil && string(s.Card) != string(q.Card.X509.RawSubject) {
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

var (
	typesAuthReq = cms.SignedEncrypted{TBE: ContentAuthReqTBE, TBS: ContentAuthReqTBS}
	typesAuthRes = cms.SignedEncrypted{TBE: ContentAuthResTBE, TBS: ContentAuthResTBS}
	typesCapReq  = cms.SignedEncrypted{TBE: ContentCapReqTBE, TBS: ContentCapReqTBS}
	typesCapRes  = cms.SignedEncrypted{TBE: ContentCapResTBE, TBS: ContentCapResData}
)

// AuthorizationRequest is what the merchant decides about an authorization.
type AuthorizationRequest struct {
	RRPID      RRPID
	Amount     CurrencyAmount
	MerTermIDs MerTermIDs // MerchantID is taken from the certificate
	MerchData  MerchData
}

// rrTags start a request of this merchant.
func (e *Endpoint) rrTags(now time.Time, rrpid RRPID, ids MerTermIDs) RRTags {
	ids.MerchantID = MerchantID(e.SignCert.Merchant.MerchantID)
	return RRTags{RRPID: rrpid, MerTermIDs: ids, CurrentDate: now.UTC().Truncate(time.Second)}
}

// AuthReq makes the request that takes the payment instructions to the gateway (SET §7.4).
func (s *Sale) AuthReq(e *Endpoint, now time.Time, r AuthorizationRequest) ([]byte, error) {
	gateway, err := pki.ParseCertificate(s.GatewayCert)
	if err != nil {
		return nil, err
	}
	var pi PI
	var digests CheckDigests
	if err := errors.Join(Unmarshal(s.PI, &pi), Unmarshal(s.HOIData, &digests.HOIData), Unmarshal(s.HOD, &digests.HOD2)); err != nil {
		return nil, err
	}
	data := AuthReqData{AuthReqItem: AuthReqItem{
		AuthTags:       AuthTags{AuthRRTags: e.rrTags(now, r.RRPID, r.MerTermIDs), TransIDs: s.TransIDs},
		CheckDigests:   &digests,
		AuthReqPayload: AuthReqPayload{AuthReqAmt: r.Amount, MerchData: r.MerchData},
	}}
	enc, err := encB(e, typesAuthReq, data, ContentPI, pi, gateway)
	if err != nil {
		return nil, err
	}
	req := AuthReq(enc)
	return e.wrap(now, s.TransIDs.messageIDs(), &r.RRPID, Message{AuthReq: &req})
}

// encB is EncB(s, r, t, b): t is linked to the baggage b, signed and encrypted; b travels beside it. The
// recipient of a merchant or gateway needs the sender's key-exchange certificate to answer.
func encB[T, B any](e *Endpoint, types cms.SignedEncrypted, t T, baggageType asn1.ObjectIdentifier, b B, to *pki.Certificate) (EncB[B], error) {
	dd, err := cms.DD(baggageType, b)
	if err != nil {
		return EncB[B]{}, err
	}
	enc, err := cms.Enc(types, cms.Linked[T]{Value: t, DD: dd}, e.ownCertificates(nil, e.ExchangeCert), nil, e.cmsSigner(), to.X509)
	return EncB[B]{Enc: enc, Baggage: b}, err
}

// openEncB undoes encB and checks everything about it that does not depend on T.
func openEncB[T, B any](e *Endpoint, now time.Time, types cms.SignedEncrypted, b EncB[B], baggageType asn1.ObjectIdentifier, want pki.Type) (t T, signer *pki.Certificate, certs []*pki.Certificate, err error) {
	sd, err := e.recipient().OpenEnc(types, b.Enc)
	if err != nil {
		return t, nil, nil, protocol(err)
	}
	linked, signer, certs, err := openedSigned[cms.Linked[T]](e, now, sd, want)
	if err != nil {
		return t, nil, nil, err
	}
	return linked.Value, signer, certs, protocol(linked.DD.Check(baggageType, b.Baggage))
}

// exchangeCertificate finds the key-exchange certificate of the holder that signed.
func (e *Endpoint) exchangeCertificate(now time.Time, signer *pki.Certificate, certs []*pki.Certificate) (*pki.Certificate, error) {
	for _, c := range certs {
		if c.Use == pki.KeyExchange && c.Type == signer.Type && string(c.X509.RawSubject) == string(signer.X509.RawSubject) {
			return c, e.validate(now, c, certs, pki.KeyExchange, signer.Type)
		}
	}
	return nil, &ProtocolError{Code: MissingCertificate, Err: fmt.Errorf("for key exchange with the holder of %v", signer)}
}

// Authorized is the gateway's answer to an AuthReq.
type Authorized struct {
	Header   AuthHeader
	CapToken []byte // DER, opaque here; nil when there is none
	TransIDs TransIDs
}

// receiveResponse is the endpoint's, with an Error message taken as signed only if the sale's gateway did.
func (s *Sale) receiveResponse(e *Endpoint, now time.Time, b []byte, rrpid RRPID, want MessageType) (*MessageWrapper, error) {
	w, err := e.receiveResponse(now, b, rrpid, want)
	var peer *PeerError
	if errors.As(err, &peer) && peer.Signer != nil && s.checkGateway(peer.Signer) != nil {
		peer.Signer = nil
	}
	return w, err
}

// OpenAuthRes checks AuthRes against the request that it answers (SET §7.4; W-PU4).
func (s *Sale) OpenAuthRes(e *Endpoint, now time.Time, r AuthorizationRequest, b []byte) (*Authorized, error) {
	w, err := s.receiveResponse(e, now, b, r.RRPID, AuthResType)
	if err != nil {
		return nil, err
	}
	res := w.Message.AuthRes.EncB
	if res == nil {
		return nil, &ProtocolError{Code: MessageNotSupported, Err: errors.New("AuthRes with a card number, which this merchant may not have")}
	}
	data, gateway, _, err := openEncB[AuthResData](e, now, typesAuthRes, *res, ContentAuthResBaggage, pki.Pgwy)
	if err != nil {
		return nil, err
	}
	if err := s.checkAuthTags(e, w, data.AuthTags, r.RRPID); err != nil {
		return nil, err
	}
	if err := s.checkGateway(gateway); err != nil {
		return nil, err
	}
	if err := known(data.AuthResPayload.Extensions); err != nil {
		return nil, err
	}
	out := &Authorized{Header: data.AuthResPayload.AuthHeader, TransIDs: data.AuthTags.TransIDs}
	if token := res.Baggage.CapToken; token != nil {
		if out.CapToken, err = der.Marshal(*token); err != nil {
			return nil, err
		}
	}
	if out.Header.AuthCode == AuthApproved && !out.Header.AuthAmt.Equal(r.Amount) {
		return nil, &ProtocolError{Code: WrapperMsgMismatch, Err: fmt.Errorf("authorized %v, asked for %v", out.Header.AuthAmt, r.Amount)}
	}
	return out, nil
}

func (s *Sale) checkAuthTags(e *Endpoint, w *MessageWrapper, tags AuthTags, rrpid RRPID) error {
	if tags.AuthRRTags.RRPID != rrpid {
		return &ProtocolError{Code: UnknownRRPID}
	}
	if string(tags.AuthRRTags.MerTermIDs.MerchantID) != e.SignCert.Merchant.MerchantID {
		return &ProtocolError{Code: WrapperMsgMismatch, Err: errors.New("the answer is to another merchant")}
	}
	return errors.Join(s.TransIDs.check(tags.TransIDs), w.checkIDs(tags.TransIDs))
}

// checkGateway tells whether the one who answers is the one for whom the payment instructions are.
func (s *Sale) checkGateway(signer *pki.Certificate) error {
	exchange, err := pki.ParseCertificate(s.GatewayCert)
	if err != nil {
		return err
	}
	if string(exchange.X509.RawSubject) != string(signer.X509.RawSubject) {
		return &ProtocolError{Code: SignatureFailure, Err: errors.New("signed by another gateway")}
	}
	return nil
}

// CaptureRequest is what the merchant decides about a capture.
type CaptureRequest struct {
	RRPID      RRPID
	AuthRRPID  RRPID // of the authorization that is captured
	CapDate    time.Time
	Amount     CurrencyAmount
	CapToken   []byte // DER, as AuthRes brought it
	MerTermIDs MerTermIDs
}

// CapReq makes the request to capture one authorization of the sale (SET §7.7).
func (s *Sale) CapReq(e *Endpoint, now time.Time, r CaptureRequest) ([]byte, error) {
	gateway, err := pki.ParseCertificate(s.GatewayCert)
	if err != nil {
		return nil, err
	}
	token := CapToken{Null: &der.Null{}}
	if r.CapToken != nil {
		if err := Unmarshal(r.CapToken, &token); err != nil {
			return nil, err
		}
	}
	data := CapReqData{
		CapRRTags: e.rrTags(now, r.RRPID, r.MerTermIDs),
		CapItemSeq: []CapItem{{
			TransIDs: s.TransIDs, AuthRRPID: r.AuthRRPID,
			CapPayload: CapPayload{CapDate: r.CapDate.UTC().Truncate(time.Second), CapReqAmt: r.Amount},
		}},
	}
	enc, err := encB(e, typesCapReq, data, ContentCapTokenSeq, CapTokenSeq{token}, gateway)
	if err != nil {
		return nil, err
	}
	return e.wrap(now, nil, &r.RRPID, Message{CapReq: &CapReq{EncB: &enc}})
}

// OpenCapRes checks CapRes and gives what became of the one item.
func (s *Sale) OpenCapRes(e *Endpoint, now time.Time, r CaptureRequest, b []byte) (*CapResPayload, error) {
	w, err := s.receiveResponse(e, now, b, r.RRPID, CapResType)
	if err != nil {
		return nil, err
	}
	sd, err := e.recipient().OpenEnc(typesCapRes, cms.ContentInfo(*w.Message.CapRes))
	if err != nil {
		return nil, protocol(err)
	}
	data, gateway, _, err := openedSigned[CapResData](e, now, sd, pki.Pgwy)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(s.checkGateway(gateway), known(data.Extensions)); err != nil {
		return nil, err
	}
	switch tags := data.CapRRTags; {
	case tags.RRPID != r.RRPID:
		return nil, &ProtocolError{Code: UnknownRRPID}
	case string(tags.MerTermIDs.MerchantID) != e.SignCert.Merchant.MerchantID:
		return nil, &ProtocolError{Code: WrapperMsgMismatch, Err: errors.New("the answer is to another merchant")}
	case len(data.CapResItemSeq) != 1 || data.CapResItemSeq[0].AuthRRPID != r.AuthRRPID:
		return nil, &ProtocolError{Code: WrapperMsgMismatch, Err: errors.New("the items are not those of the request")}
	}
	item := data.CapResItemSeq[0]
	if p := item.CapResPayload; p.CapCode == CapSuccess && !p.CapAmt.Equal(r.Amount) {
		return nil, &ProtocolError{Code: WrapperMsgMismatch, Err: fmt.Errorf("captured %v, asked for %v", p.CapAmt, r.Amount)}
	}
	return &item.CapResPayload, errors.Join(s.TransIDs.check(item.TransIDs), known(item.CapResPayload.Extensions))
}
