package set

import (
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/pki"
)

// OpenedAuthReq is an authorization request whose signatures verify: the merchant's over the request, and
// the cardholder's over the payment instructions or this gateway's over the token that stands for them.
// Unsigned payment instructions have none. It holds card data: Clear it after use.
type OpenedAuthReq struct {
	Data    AuthReqData
	PIHead  PIHead           // zero with a Token
	PANData PANData          // without a PANSecret if Card is nil
	Card    *pki.Certificate // nil when the payment instructions are unsigned, and with a Token
	Token   *AuthTokenData   // in the place of payment instructions, in a later authorization of the purchase

	// HPIData is the digest of what the cardholder signed, or of the token's contents, whatever envelope it
	// came in: a purchase and a token are used once.
	HPIData []byte

	Merchant         *pki.Certificate // signature
	MerchantExchange *pki.Certificate // key exchange: the answer is encrypted for it

	// Refusal is set when the request is authentic but must not be authorized: the parties do not agree
	// on the purchase, or it asks for what the cardholder did not allow. See authRules.
	Refusal *AuthCode

	hOIData cms.DetachedDigest // of the order, as the payment instructions say
	own     *Endpoint          // for which the payment instructions are encrypted
}

// Cardholder tells how the cardholder is known; "" with a token, which stands for what was opened before.
func (o *OpenedAuthReq) Cardholder() Cardholder {
	if o.Token != nil {
		return ""
	}
	return cardholder(o.Card != nil)
}

// Clear overwrites the card data.
func (o *OpenedAuthReq) Clear() { o.PANData.Clear() }

// OpenAuthReq opens AuthReq and makes every check of the gateway that needs no record of earlier
// transactions (SET §7.4, steps 1 to 8). Whether the gateway does sales, and where the purchase stands by its
// records, is for its caller to know: see Continues.
func (e *Endpoint) OpenAuthReq(now time.Time, w *MessageWrapper) (*OpenedAuthReq, error) {
	req := EncB[PI](*w.Message.AuthReq)
	data, merchant, certs, err := openEncB[AuthReqData](e, now, typesAuthReq, req, ContentPI, pki.Mer)
	if err != nil {
		return nil, err
	}
	tags, payload := data.AuthReqItem.AuthTags, data.AuthReqItem.AuthReqPayload
	if tags.AuthRRTags.RRPID != *w.MessageHeader.RRPID {
		return nil, mismatch("rrpid")
	}
	err = errors.Join(w.checkIDs(tags.TransIDs), known(payload.Extensions), known(payload.InstallRecurData.extensions()))
	if err != nil {
		return nil, err
	}
	o := &OpenedAuthReq{Data: data, Merchant: merchant}
	if o.MerchantExchange, err = e.openMerchant(now, merchant, certs, tags.AuthRRTags); err != nil {
		return nil, err
	}
	if req.Baggage.PIUnsigned != nil && e.ExchangeCert.CardCertRequired {
		code := AuthSignatureRequired
		o.Refusal = &code
		return o, nil
	}
	if err := e.openInstructions(now, o, &req.Baggage); err != nil {
		o.Clear()
		return nil, err
	}
	if o.Refusal == nil {
		if code := firstBroken(authRules, e.authFacts(now, o)); code != AuthApproved {
			o.Refusal = &code
		}
	}
	return o, nil
}

// openMerchant checks that a request names the merchant who signed it, and finds where to answer.
func (e *Endpoint) openMerchant(now time.Time, merchant *pki.Certificate, certs []*pki.Certificate, tags RRTags) (*pki.Certificate, error) {
	if err := e.checkMerchant(now, merchant, tags); err != nil {
		return nil, err
	}
	return e.exchangeCertificate(now, merchant, certs)
}

// checkMerchant checks that a request names the merchant who signed it, that it is of our brand, and that it was
// signed lately.
func (e *Endpoint) checkMerchant(now time.Time, merchant *pki.Certificate, tags RRTags) error {
	thumb := merchant.CertThumb()
	if string(tags.MerTermIDs.MerchantID) != merchant.Merchant.MerchantID {
		return &ProtocolError{Code: InvalidCertificate, Thumb: &thumb, Err: errors.New("the request names another merchant")}
	}
	if !BrandID(e.ExchangeCert.Brand()).Matches(BrandID(merchant.Brand())) {
		return &ProtocolError{Code: InvalidCertificate, Thumb: &thumb, Err: fmt.Errorf("merchant of brand %q", merchant.Brand())}
	}
	return e.checkDate(now, tags.CurrentDate)
}

// openInstructions opens what the authorization is made with.
func (e *Endpoint) openInstructions(now time.Time, o *OpenedAuthReq, pi *PI) error {
	switch {
	case pi.AuthToken != nil:
		return e.openToken(now, o, pi.AuthToken)
	case pi.PIDualSigned != nil:
		return e.openDualSigned(now, o, pi.PIDualSigned)
	}
	return e.openUnsigned(now, o, cms.ContentInfo(*pi.PIUnsigned))
}

// openDualSigned opens the payment instructions and verifies the dual signature as far as the gateway can
// see it: over PIData and the digest of the order.
func (e *Endpoint) openDualSigned(now time.Time, o *OpenedAuthReq, pi *PIDualSigned) error {
	packed, tbe, err := e.openPI(now, o, pi.EXPIData, ContentPIDualSignedTBE, cms.WithPANData)
	if err != nil {
		return err
	}
	defer clear(packed)
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
	o.Card, err = e.verifyDual(now, pi.PISignature, PITBS{HPIData: hPIData, HOIData: o.hOIData})
	return err
}

// openUnsigned opens payment instructions that nobody signed. The digest in the RSA block has been found
// that of the plaintext (SET §3.2, EXH).
func (e *Endpoint) openUnsigned(now time.Time, o *OpenedAuthReq, pi cms.ContentInfo) error {
	packed, tbe, err := e.openPI(now, o, pi, ContentPIUnsignedTBE, cms.WithHashToken)
	if err != nil {
		return err
	}
	defer clear(packed)
	token, err := UnpackPANToken(packed)
	if err != nil {
		return &ProtocolError{Code: DecodingFailure, Err: err}
	}
	o.PANData = token.panData()
	if err := tbe.DD.Check(ContentPANToken, token); err != nil {
		return protocol(err)
	}
	hPIData, err := cms.DD(ContentPIDataUnsigned, PIDataUnsigned{o.PIHead, token})
	o.HPIData = hPIData.Content.Digest
	return err
}

// openPI decrypts either form of payment instructions: the head and the digest of the order go into o, the
// packed account is for the caller to read and to clear.
func (e *Endpoint) openPI(now time.Time, o *OpenedAuthReq, pi cms.ContentInfo, contentType oid, bc cms.BlockContents) (packed []byte, tbe cms.Linked[PIOILink], err error) {
	if o.own, err = e.addressee(now, pi); err != nil {
		return nil, tbe, err
	}
	plaintext, packed, err := o.own.recipient().Decrypt(pi, contentType, bc)
	if err != nil {
		return nil, tbe, protocol(err)
	}
	defer clear(plaintext) // of which the digest of the card data is a part
	if err = decode(plaintext, &tbe); err == nil {
		o.PIHead, o.hOIData = tbe.Value.Value, tbe.Value.DD
		err = errors.Join(known(o.PIHead.Extensions), known(o.PIHead.InstallRecurData.extensions()))
	}
	if err != nil {
		clear(packed)
	}
	return packed, tbe, err
}

// Authorization is the gateway's decision.
type Authorization struct {
	Code         AuthCode
	Amount       CurrencyAmount // authorized; zero of the currency asked for when not approved
	ApprovalCode ApprovalCode   // the issuer's, when approved
	Details      ResponseData   // what else the issuer said; its approval code is ApprovalCode
	RetNum       *Natural       // retrieval reference of the card network
	PaySysID     PaySysID       // the card network's identifier of the transaction
	BatchStatus  *BatchStatus
	CurrConv     *CurrConv

	Capture     *CapResPayload  // what became of the capture: of a sale that is approved, and of nothing else
	Opaque      []byte          // what the gateway wants back with the capture token
	TokenOpaque []byte          // what it wants back with the authorization token
	CardMessage *AcqCardCodeMsg // to the cardholder; only when CanMessage
}

// CanMessage tells whether the cardholder gave a key under which a message can be sent.
func (o *OpenedAuthReq) CanMessage() bool { return o.terms().backKey.usable() != nil }

// AuthRes answers an authorization request. When approved it carries a capture token, unless it was a sale
// that was captured; and a token for the next authorization where one may follow. A merchant whose
// certificate allows it is told the card number.
func (e *Endpoint) AuthRes(now time.Time, o *OpenedAuthReq, a Authorization) ([]byte, error) {
	approved := a.Code == AuthApproved
	if approved && o.Refusal != nil {
		return nil, fmt.Errorf("approval of a request that is refused: %v", *o.Refusal)
	}
	if (a.Capture != nil) != (approved && o.Data.CaptureNow) {
		return nil, errors.New("an approved sale has the result of its capture, and nothing else has one")
	}
	tags := o.Data.AuthReqItem.AuthTags
	if a.RetNum != nil {
		tags.AuthRetNum = a.RetNum
	}
	if a.PaySysID != "" {
		tags.TransIDs.PaySysID = a.PaySysID
	}
	header := AuthHeader{AuthAmt: a.Amount, AuthCode: a.Code, ResponseData: a.Details, BatchStatus: a.BatchStatus, CurrConv: a.CurrConv}
	if approved {
		header.ResponseData.AuthValCodes = withApproval(a.Details.AuthValCodes, a.ApprovalCode)
	}
	thumbs := o.Data.MThumbs
	data := AuthResData{
		AuthTags: tags, BrandCRLIdentifier: e.brandCRLIdentifier(thumbs), PEThumb: e.peThumb(thumbs),
		AuthResPayload: AuthResPayload{AuthHeader: header, CapResPayload: a.Capture},
	}
	baggage, err := e.authResBaggage(now, o, a)
	if err != nil {
		return nil, err
	}
	res := new(AuthRes)
	if approved && mayHavePAN(o.Merchant) {
		token := o.panToken()
		var x EncBX[AuthResBaggage]
		x, err = encBX(e, typesAuthResX, data, ContentAuthResBaggage, baggage, token, e.crls(thumbs), o.MerchantExchange)
		res.EncBX = &x
	} else {
		var b EncB[AuthResBaggage]
		b, err = encB(e, typesAuthRes, data, ContentAuthResBaggage, baggage, e.crls(thumbs), o.MerchantExchange)
		res.EncB = &b
	}
	if err != nil {
		return nil, err
	}
	return e.wrap(now, tags.TransIDs.messageIDs(), &tags.AuthRRTags.RRPID, Message{AuthRes: res})
}

func withApproval(codes *AuthValCodes, approval ApprovalCode) *AuthValCodes {
	out := AuthValCodes{}
	if codes != nil {
		out = *codes
	}
	out.ApprovalCode = approval
	return &out
}

// mayHavePAN tells whether the acquirer lets this merchant know card numbers (SET §6.3).
func mayHavePAN(merchant *pki.Certificate) bool { return merchant.Merchant.AuthFlag }

// authResBaggage makes what the merchant is to keep or to pass on without reading it.
func (e *Endpoint) authResBaggage(now time.Time, o *OpenedAuthReq, a Authorization) (b AuthResBaggage, err error) {
	if a.CardMessage != nil {
		key := o.terms().backKey.usable()
		if key == nil {
			return b, errNoBackKey
		}
		if b.AcqCardMsg, err = e.acqCardMsg(key, *a.CardMessage); err != nil {
			return b, err
		}
	}
	if a.Code != AuthApproved {
		return b, nil
	}
	if a.Capture == nil || a.Capture.CapCode != CapSuccess {
		data := CapTokenData{AuthRRPID: o.Data.AuthReqItem.AuthTags.AuthRRTags.RRPID, AuthAmt: a.Amount, TokenOpaque: a.Opaque}
		if b.CapToken, err = e.capToken(data, o); err != nil {
			return b, err
		}
	}
	if o.moreMayFollow() {
		b.AuthToken, err = e.authToken(now, o, a.Amount, a.TokenOpaque)
	}
	return b, err
}
