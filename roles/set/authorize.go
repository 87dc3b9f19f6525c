package set

import (
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

var (
	typesAuthReq  = cms.SignedEncrypted{TBE: ContentAuthReqTBE, TBS: ContentAuthReqTBS}
	typesAuthRes  = cms.SignedEncrypted{TBE: ContentAuthResTBE, TBS: ContentAuthResTBS}
	typesAuthResX = cms.SignedEncrypted{TBE: ContentAuthResTBEX, TBS: ContentAuthResTBSX}
)

// AuthorizationRequest is what the merchant decides about an authorization. It may be stored as JSON.
type AuthorizationRequest struct {
	RRPID      RRPID
	Amount     CurrencyAmount
	MerTermIDs MerTermIDs // MerchantID is taken from the certificate
	MerchData  MerchData

	CaptureNow bool        // a sale: authorize and capture
	SaleDetail *SaleDetail // only of a sale

	// Subsequent announces that more authorizations of the purchase follow; the answer then brings the
	// AuthToken that the next one takes in the place of the payment instructions (SET §7.5).
	Subsequent bool
	AuthToken  []byte   // DER, as the newest AuthRes brought it; nil in the first authorization
	AuthRetNum *Natural // of an earlier authorization of the purchase

	AVSData            *AVSData
	SpecialProcessing  *SpecialProcessing
	CardSuspect        *CardSuspect
	RequestCardTypeInd bool
	MarketSpecAuthData *MarketSpecAuthData
	Extensions         MsgExtensions
}

// rrTags start a request of this merchant.
func (e *Endpoint) rrTags(now time.Time, rrpid RRPID, ids MerTermIDs) RRTags {
	ids.MerchantID = MerchantID(e.SignCert.Merchant.MerchantID)
	return RRTags{RRPID: rrpid, MerTermIDs: ids, CurrentDate: now.UTC().Truncate(time.Second)}
}

// AuthReq makes the request that takes the payment instructions, or the token that stands for them, to the
// gateway (SET §7.4, §7.5).
func (s *Sale) AuthReq(e *Endpoint, now time.Time, r AuthorizationRequest) ([]byte, error) {
	gateway, err := pki.ParseCertificate(s.GatewayCert)
	if err != nil {
		return nil, err
	}
	pi, err := s.instructions(r.AuthToken)
	if err != nil {
		return nil, err
	}
	data, err := s.authReqData(e, now, gateway, r)
	if err != nil {
		return nil, err
	}
	enc, err := encB(e, typesAuthReq, *data, ContentPI, *pi, nil, gateway)
	if err != nil {
		return nil, err
	}
	req := AuthReq(enc)
	return e.wrap(now, s.TransIDs.messageIDs(), &r.RRPID, Message{AuthReq: &req})
}

// authReqData is what an authorization request says.
func (s *Sale) authReqData(e *Endpoint, now time.Time, gateway *pki.Certificate, r AuthorizationRequest) (*AuthReqData, error) {
	data := &AuthReqData{
		AuthReqItem: AuthReqItem{
			AuthTags: AuthTags{AuthRRTags: e.rrTags(now, r.RRPID, r.MerTermIDs), TransIDs: s.TransIDs, AuthRetNum: r.AuthRetNum},
			AuthReqPayload: AuthReqPayload{
				SubsequentAuthInd: r.Subsequent, AuthReqAmt: r.Amount, AVSData: r.AVSData, SpecialProcessing: r.SpecialProcessing,
				CardSuspect: r.CardSuspect, RequestCardTypeInd: r.RequestCardTypeInd, InstallRecurData: s.InstallRecurData,
				MarketSpecAuthData: r.MarketSpecAuthData, MerchData: r.MerchData, Extensions: r.Extensions,
			},
		},
		MThumbs: e.thumbs(gateway), CaptureNow: r.CaptureNow, SaleDetail: r.SaleDetail,
	}
	if r.AuthToken != nil {
		return data, nil
	}
	digests := new(CheckDigests)
	data.AuthReqItem.CheckDigests = digests
	return data, errors.Join(Unmarshal(s.HOIData, &digests.HOIData), Unmarshal(s.HOD, &digests.HOD2))
}

// instructions give what an authorization is made with: the sale's payment instructions, or the token that
// stands for them.
func (s *Sale) instructions(token []byte) (*PI, error) {
	pi := new(PI)
	if token == nil {
		return pi, Unmarshal(s.PI, pi)
	}
	pi.AuthToken = new(AuthToken)
	return pi, Unmarshal(token, pi.AuthToken)
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

// Authorized is the gateway's answer to an AuthReq. It may hold card data: Clear it after use.
type Authorized struct {
	Header     AuthHeader
	Capture    *CapResPayload // of a sale that was authorized
	TransIDs   TransIDs       // with the card network's PaySysID, if there is one
	AuthRetNum *Natural
	CapToken   []byte // DER, opaque here as the next two; nil when there is none
	AuthToken  []byte // for the next authorization of the purchase
	AcqCardMsg []byte // for the cardholder, in PRes and every InqRes

	PANToken *PANToken // only for a merchant whose certificate allows it
}

// Clear overwrites the card data.
func (a *Authorized) Clear() {
	if a.PANToken != nil {
		a.PANToken.Clear()
	}
}

// OpenAuthRes checks AuthRes against the request that it answers (SET §7.4; W-PU4).
func (s *Sale) OpenAuthRes(e *Endpoint, now time.Time, r AuthorizationRequest, b []byte) (*Authorized, error) {
	w, err := e.receiveFrom(s.GatewayCert, now, b, r.RRPID, AuthResType)
	if err != nil {
		return nil, err
	}
	out := new(Authorized)
	data, baggage, from, err := e.openAuthRes(now, w.Message.AuthRes, s.GatewayCert, out)
	if err != nil {
		return nil, err
	}
	err = errors.Join(s.checkAuthRes(e, w, r, data), out.take(data, baggage))
	if err == nil {
		err = e.learnGateway(now, data.PEThumb, from.signer, from.certs)
	}
	if err != nil {
		out.Clear()
		return nil, err
	}
	return out, nil
}

// sender is who signed a message, and the certificates that came with it.
type sender struct {
	signer *pki.Certificate
	certs  []*pki.Certificate
}

// openAuthRes opens either form of AuthRes. What the account is, if it came, stands in out.
func (e *Endpoint) openAuthRes(now time.Time, res *AuthRes, gatewayCert []byte, out *Authorized) (data AuthResData, baggage AuthResBaggage, from sender, err error) {
	switch {
	case res.EncB != nil:
		baggage = res.EncB.Baggage
		data, from.signer, from.certs, err = openEncB[AuthResData](e, now, typesAuthRes, *res.EncB, ContentAuthResBaggage, pki.Pgwy)
	case !e.SignCert.Merchant.AuthFlag:
		err = &ProtocolError{Code: MessageNotSupported, Err: errors.New("AuthRes with a card number, which this merchant may not have")}
	default:
		out.PANToken, baggage = new(PANToken), res.EncBX.Baggage
		data, *out.PANToken, from.signer, from.certs, err = openEncBX[AuthResData](e, now, typesAuthResX, *res.EncBX, ContentAuthResBaggage, pki.Pgwy)
	}
	if err == nil {
		err = checkGateway(gatewayCert, from.signer)
	}
	if err != nil {
		out.Clear()
	}
	return data, baggage, from, err
}

// checkAuthRes holds the answer against the request.
func (s *Sale) checkAuthRes(e *Endpoint, w *MessageWrapper, r AuthorizationRequest, data AuthResData) error {
	if err := e.checkTags(data.AuthTags.AuthRRTags, r.RRPID); err != nil {
		return err
	}
	if err := errors.Join(s.TransIDs.check(data.AuthTags.TransIDs), w.checkIDs(data.AuthTags.TransIDs)); err != nil {
		return err
	}
	payload := data.AuthResPayload
	if err := known(payload.Extensions); err != nil {
		return err
	}
	approved, amount, captured := payload.AuthHeader.AuthCode == AuthApproved, payload.AuthHeader.AuthAmt, payload.CapResPayload
	switch {
	case approved && !amount.Equal(r.Amount):
		return differs("authorized %v, asked for %v", amount, r.Amount)
	case (captured != nil) != (approved && r.CaptureNow):
		return differs("an authorization where a sale was asked for, or a sale where none was")
	case captured == nil:
		return nil
	case captured.CapCode == CapSuccess && !captured.CapAmt.Equal(r.Amount):
		return differs("captured %v, asked for %v", captured.CapAmt, r.Amount)
	}
	return known(captured.Extensions)
}

// take keeps what the answer says and what travelled beside it.
func (a *Authorized) take(data AuthResData, baggage AuthResBaggage) error {
	a.Header, a.Capture = data.AuthResPayload.AuthHeader, data.AuthResPayload.CapResPayload
	a.TransIDs, a.AuthRetNum = data.AuthTags.TransIDs, data.AuthTags.AuthRetNum
	var err error
	if baggage.CapToken != nil {
		a.CapToken, err = der.Marshal(*baggage.CapToken)
	}
	if baggage.AuthToken != nil && err == nil {
		a.AuthToken, err = der.Marshal(*baggage.AuthToken)
	}
	if baggage.AcqCardMsg != nil && err == nil {
		a.AcqCardMsg, err = der.Marshal(*baggage.AcqCardMsg)
	}
	return err
}
