package set

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

// OpenedAuthReq is an authorization request whose signatures verify: the merchant's over the request and
// the cardholder's over the payment instructions. It holds card data: Clear it after use.
type OpenedAuthReq struct {
	Data    AuthReqData
	PIHead  PIHead
	PANData PANData
	Card    *pki.Certificate
	HPIData []byte // digest of what the cardholder signed, whatever envelope it came in

	Merchant         *pki.Certificate // signature
	MerchantExchange *pki.Certificate // key exchange: the answer is encrypted for it

	// Refusal is set when the request is authentic but must not be authorized: the parties do not agree
	// on the purchase, or it asks for what is not done here.
	Refusal *AuthCode
}

// Clear overwrites the card data.
func (o *OpenedAuthReq) Clear() { o.PANData.Clear() }

func (o *OpenedAuthReq) refuse(code AuthCode) {
	if o.Refusal == nil {
		o.Refusal = &code
	}
}

// OpenAuthReq opens AuthReq and makes every check of the gateway that needs no record of earlier
// transactions (SET §7.4, steps 1 to 8).
func (e *Endpoint) OpenAuthReq(now time.Time, w *MessageWrapper) (*OpenedAuthReq, error) {
	req := EncB[PI](*w.Message.AuthReq)
	data, merchant, certs, err := openEncB[AuthReqData](e, now, typesAuthReq, req, ContentPI, pki.Mer)
	if err != nil {
		return nil, err
	}
	tags := data.AuthReqItem.AuthTags
	if tags.AuthRRTags.RRPID != *w.MessageHeader.RRPID {
		return nil, mismatch("rrpid")
	}
	if err := errors.Join(w.checkIDs(tags.TransIDs), known(data.AuthReqItem.AuthReqPayload.Extensions)); err != nil {
		return nil, err
	}
	o := &OpenedAuthReq{Data: data, Merchant: merchant}
	if o.MerchantExchange, err = e.openMerchant(now, merchant, certs, tags.AuthRRTags); err != nil {
		return nil, err
	}
	switch {
	case req.Baggage.PIUnsigned != nil:
		o.refuse(AuthSignatureRequired)
		return o, nil
	case req.Baggage.AuthToken != nil:
		o.refuse(AuthInvalidTransaction)
		return o, nil
	}
	if err := e.openPI(now, o, req.Baggage.PIDualSigned); err != nil {
		o.Clear()
		return nil, err
	}
	e.checkAgreement(o)
	return o, nil
}

// openMerchant checks that a request names the merchant who signed it, and finds where to answer.
func (e *Endpoint) openMerchant(now time.Time, merchant *pki.Certificate, certs []*pki.Certificate, tags RRTags) (*pki.Certificate, error) {
	if string(tags.MerTermIDs.MerchantID) != merchant.Merchant.MerchantID {
		thumb := merchant.CertThumb()
		return nil, &ProtocolError{Code: InvalidCertificate, Thumb: &thumb, Err: errors.New("the request names another merchant")}
	}
	if !BrandID(e.ExchangeCert.Brand()).Matches(BrandID(merchant.Brand())) {
		thumb := merchant.CertThumb()
		return nil, &ProtocolError{Code: InvalidCertificate, Thumb: &thumb, Err: fmt.Errorf("merchant of brand %q", merchant.Brand())}
	}
	return e.exchangeCertificate(now, merchant, certs)
}

// openPI opens the payment instructions and verifies the dual signature as far as the gateway can see
// it: over PIData and the digest of the order.
func (e *Endpoint) openPI(now time.Time, o *OpenedAuthReq, pi *PIDualSigned) error {
	plaintext, packed, err := e.recipient().Decrypt(pi.EXPIData, ContentPIDualSignedTBE, cms.WithPANData)
	if err != nil {
		return protocol(err)
	}
	defer clear(plaintext) // of which the digest of the card data is a part
	defer clear(packed)
	var tbe PIDualSignedTBE
	if err := decode(plaintext, &tbe); err != nil {
		return err
	}
	o.PIHead = tbe.Value.Value
	if o.PANData, err = UnpackPANData(packed); err != nil {
		return &ProtocolError{Code: DecodingFailure, Err: err}
	}
	if err := tbe.DD.Check(ContentPANData, o.PANData); err != nil {
		return protocol(err)
	}
	hPIData, err := cms.DD(ContentPIData, PIData{o.PIHead, o.PANData})
	if err != nil {
		return err
	}
	o.HPIData = hPIData.Content.Digest
	o.Card, err = e.verifyDual(now, pi.PISignature, PITBS{HPIData: hPIData, HOIData: tbe.Value.DD})
	if err != nil {
		return err
	}
	if d := o.Data.AuthReqItem.CheckDigests; d == nil || d.HOIData.Equal(tbe.Value.DD) != nil || d.HOD2.Equal(o.PIHead.Inputs.HOD) != nil {
		o.refuse(AuthPIAuthMismatch)
	}
	return known(o.PIHead.Extensions)
}

// checkAgreement compares what the cardholder signed with what the merchant signed.
func (e *Endpoint) checkAgreement(o *OpenedAuthReq) {
	item := o.Data.AuthReqItem
	if o.PIHead.TransIDs.check(item.AuthTags.TransIDs) != nil ||
		string(o.PIHead.MerchantID) != o.Merchant.Merchant.MerchantID ||
		!e.namesThisGateway(o.PIHead) || !o.holderMatches() {
		o.refuse(AuthPIAuthMismatch)
	}
	if !BrandID(e.ExchangeCert.Brand()).Matches(BrandID(o.Card.Brand())) {
		o.refuse(AuthCardMerchBrandMismatch)
	}
	if o.PIHead.InstallRecurData != nil || item.AuthReqPayload.InstallRecurData != nil || item.AuthReqPayload.SubsequentAuthInd {
		o.refuse(AuthInvalidTransaction)
	}
	if order, ok := item.AuthReqPayload.AuthReqAmt.Cmp(o.PIHead.Inputs.PurchAmt); !ok || order > 0 {
		o.refuse(AuthAmountError)
	}
	if o.Data.CaptureNow {
		o.refuse(AuthCaptureNotSupported)
	}
}

// namesThisGateway checks the extension with which the cardholder signed for one gateway (profile A8).
func (e *Endpoint) namesThisGateway(head PIHead) bool {
	raw := head.Extensions.Find(ExtPEThumb)
	if raw == nil {
		return true
	}
	own, err := der.Marshal(e.ExchangeCert.CertThumb())
	return err == nil && bytes.Equal(raw, own)
}

// holderMatches recomputes the cardholder's blind name from the account (SET §6.4).
func (o *OpenedAuthReq) holderMatches() bool {
	id, err := pki.UniqueCardholderID(o.PANData.PANSecret[:], o.PANData.PAN, o.PANData.CardExpiry)
	return err == nil && subtle.ConstantTimeCompare([]byte(id), []byte(o.Card.Subject.CommonName)) == 1
}

// Authorization is the gateway's decision.
type Authorization struct {
	Code         AuthCode
	Amount       CurrencyAmount // authorized; zero of the currency asked for when not approved
	ApprovalCode ApprovalCode   // the issuer's, when approved
	RetNum       *Natural       // retrieval reference of the card network
	Opaque       []byte         // what the gateway wants back with the capture token
}

// AuthRes answers an authorization request; when approved it carries a capture token.
func (e *Endpoint) AuthRes(now time.Time, o *OpenedAuthReq, a Authorization) ([]byte, error) {
	tags := o.Data.AuthReqItem.AuthTags
	tags.AuthRetNum = a.RetNum
	data := AuthResData{AuthTags: tags, AuthResPayload: AuthResPayload{AuthHeader: AuthHeader{AuthAmt: a.Amount, AuthCode: a.Code}}}
	var baggage AuthResBaggage
	if a.Code == AuthApproved {
		data.AuthResPayload.AuthHeader.ResponseData.AuthValCodes = &AuthValCodes{ApprovalCode: a.ApprovalCode}
		token, err := e.capToken(CapTokenData{AuthRRPID: tags.AuthRRTags.RRPID, AuthAmt: a.Amount, TokenOpaque: a.Opaque})
		if err != nil {
			return nil, err
		}
		baggage.CapToken = token
	}
	enc, err := encB(e, typesAuthRes, data, ContentAuthResBaggage, baggage, o.MerchantExchange)
	if err != nil {
		return nil, err
	}
	return e.wrap(now, tags.TransIDs.messageIDs(), &tags.AuthRRTags.RRPID, Message{AuthRes: &AuthRes{EncB: &enc}})
}

var typesCapToken = cms.SignedEncrypted{TBE: ContentCapTokenTBE, TBS: ContentCapTokenData}

// capToken makes a token that only this gateway can open and have made.
func (e *Endpoint) capToken(data CapTokenData) (*CapToken, error) {
	enc, err := cms.Enc(typesCapToken, data, nil, nil, e.cmsSigner(), e.ExchangeCert.X509)
	return &CapToken{Enc: &enc}, err
}

// foreignToken is the answer to a token that this gateway did not make.
var foreignToken = &ProtocolError{Code: SignatureFailure, Err: errors.New("not a token of this gateway")}

// openCapToken gives the data of a token that this gateway made.
func (e *Endpoint) openCapToken(token CapToken) (data CapTokenData, err error) {
	if token.Enc == nil {
		return data, foreignToken
	}
	sd, err := e.recipient().OpenEnc(typesCapToken, *token.Enc)
	if err != nil {
		return data, protocol(err)
	}
	if !sd.Names(0, e.SignCert.X509) {
		return data, foreignToken
	}
	if err := sd.Verify(0, e.SignCert.X509.PublicKey); err != nil {
		return data, protocol(err)
	}
	return data, decode(sd.Content, &data)
}

// OpenedCapReq is a capture request whose signature verifies.
type OpenedCapReq struct {
	Data  CapReqData
	Items []OpenedCapItem // one for one with Data.CapItemSeq

	Merchant         *pki.Certificate
	MerchantExchange *pki.Certificate
}

// OpenedCapItem is one capture asked for. Code is CapSuccess when the token is this gateway's, and is for
// this authorization and for no less than the amount.
type OpenedCapItem struct {
	Item  CapItem
	Token CapTokenData
	Code  CapCode
}

// OpenCapReq opens CapReq and makes every check that needs no record of earlier transactions (SET §7.7).
func (e *Endpoint) OpenCapReq(now time.Time, w *MessageWrapper) (*OpenedCapReq, error) {
	req := w.Message.CapReq.EncB
	if req == nil {
		return nil, &ProtocolError{Code: MessageNotSupported, Err: errors.New("capture with a card number from the merchant")}
	}
	data, merchant, certs, err := openEncB[CapReqData](e, now, typesCapReq, *req, ContentCapTokenSeq, pki.Mer)
	if err != nil {
		return nil, err
	}
	if data.CapRRTags.RRPID != *w.MessageHeader.RRPID {
		return nil, mismatch("rrpid")
	}
	if err := known(data.Extensions); err != nil {
		return nil, err
	}
	if len(req.Baggage) != len(data.CapItemSeq) {
		return nil, &ProtocolError{Code: WrapperMsgMismatch, Err: fmt.Errorf("%d tokens for %d items", len(req.Baggage), len(data.CapItemSeq))}
	}
	o := &OpenedCapReq{Data: data, Merchant: merchant}
	if o.MerchantExchange, err = e.openMerchant(now, merchant, certs, data.CapRRTags); err != nil {
		return nil, err
	}
	for i, item := range data.CapItemSeq {
		opened, err := e.openCapItem(item, req.Baggage[i])
		if err != nil {
			return nil, err
		}
		o.Items = append(o.Items, opened)
	}
	return o, nil
}

// openCapItem never fails because of the item: that is told by its Code.
func (e *Endpoint) openCapItem(item CapItem, token CapToken) (OpenedCapItem, error) {
	o := OpenedCapItem{Item: item}
	if err := known(item.CapPayload.Extensions); err != nil {
		return o, err
	}
	if token.Null != nil {
		o.Code = CapTokenMissing
		return o, nil
	}
	data, err := e.openCapToken(token)
	var bad *ProtocolError
	switch {
	case err != nil && !errors.As(err, &bad):
		return o, err // the device is away
	case err != nil || data.AuthRRPID != item.AuthRRPID:
		o.Code = CapInvalidCapToken
		return o, nil
	}
	o.Token = data
	if order, ok := item.CapPayload.CapReqAmt.Cmp(data.AuthAmt); !ok || order > 0 {
		o.Code = CapInvalidAuthData
	}
	return o, nil
}

// CapRes answers a capture request with one payload for each item, in the same order.
func (e *Endpoint) CapRes(now time.Time, o *OpenedCapReq, payloads []CapResPayload) ([]byte, error) {
	if len(payloads) != len(o.Items) {
		return nil, fmt.Errorf("%d results for %d captures", len(payloads), len(o.Items))
	}
	data := CapResData{CapRRTags: o.Data.CapRRTags}
	for i, p := range payloads {
		item := o.Items[i].Item
		data.CapResItemSeq = append(data.CapResItemSeq, CapResItem{TransIDs: item.TransIDs, AuthRRPID: item.AuthRRPID, CapResPayload: p})
	}
	ci, err := cms.Enc(typesCapRes, data, e.ownCertificates(nil, e.ExchangeCert), nil, e.cmsSigner(), o.MerchantExchange.X509)
	if err != nil {
		return nil, err
	}
	res := CapRes(ci)
	return e.wrap(now, nil, &data.CapRRTags.RRPID, Message{CapRes: &res})
}
