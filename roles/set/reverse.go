package set

import (
	"errors"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

var (
	typesAuthRevReq  = cms.SignedEncrypted{TBE: ContentAuthRevReqTBE, TBS: ContentAuthRevReqTBS}
	typesAuthRevRes  = cms.SignedEncrypted{TBE: ContentAuthRevResTBE, TBS: ContentAuthRevResData}
	typesAuthRevResB = cms.SignedEncrypted{TBE: ContentAuthRevResTBEB, TBS: ContentAuthRevResTBS}
)

// ReversalRequest is what the merchant decides about taking back an authorization, whether it knows the
// outcome of that or not. It may be stored as JSON.
type ReversalRequest struct {
	RRPID      RRPID
	MerTermIDs MerTermIDs
	NewAmount  CurrencyAmount // what stays authorized; zero takes all of it back
	Of         AuthorizationRequest
	CapToken   []byte   // DER, as AuthRes brought it; nil when the merchant lacks it
	AuthRetNum *Natural // as AuthRes brought it
}

// AuthRevReq makes the request to take back an authorization, or a part of it (SET §7.7). It goes with what
// the authorization was made with, and repeats its request, so that the gateway knows which is meant though
// its answer was lost.
func (s *Sale) AuthRevReq(e *Endpoint, now time.Time, r ReversalRequest) ([]byte, error) {
	gateway, err := pki.ParseCertificate(s.GatewayCert)
	if err != nil {
		return nil, err
	}
	pi, err := s.instructions(r.Of.AuthToken)
	if err != nil {
		return nil, err
	}
	baggage := AuthRevReqBaggage{PI: *pi}
	if r.CapToken != nil {
		baggage.CapToken = new(CapToken)
		if err := Unmarshal(r.CapToken, baggage.CapToken); err != nil {
			return nil, err
		}
	}
	data := AuthRevReqData{
		AuthRevTags: AuthRevTags{AuthRevRRTags: e.rrTags(now, r.RRPID, r.MerTermIDs), AuthRetNum: r.AuthRetNum},
		MThumbs:     e.thumbs(gateway), AuthNewAmt: r.NewAmount,
	}
	if data.AuthReqData, err = s.authReqData(e, now, gateway, r.Of); err != nil {
		return nil, err
	}
	enc, err := encB(e, typesAuthRevReq, data, ContentAuthRevReqBaggage, baggage, nil, gateway)
	if err != nil {
		return nil, err
	}
	req := AuthRevReq(enc)
	return e.wrap(now, s.TransIDs.messageIDs(), &r.RRPID, Message{AuthRevReq: &req})
}

// Reversed is the gateway's answer to an AuthRevReq.
type Reversed struct {
	Code      AuthRevCode
	Amount    CurrencyAmount  // what stays authorized
	New       *AuthResPayload // the authorization as it stands
	CapToken  []byte          // DER; takes the place of the former one, as does the next
	AuthToken []byte          // nil when the former one stays
}

// OpenAuthRevRes checks AuthRevRes against the request that it answers.
func (s *Sale) OpenAuthRevRes(e *Endpoint, now time.Time, r ReversalRequest, b []byte) (*Reversed, error) {
	w, err := e.receiveFrom(s.GatewayCert, now, b, r.RRPID, AuthRevResType)
	if err != nil {
		return nil, err
	}
	var data AuthRevResData
	var baggage AuthRevResBaggage
	var gateway *pki.Certificate
	var certs []*pki.Certificate
	if res := w.Message.AuthRevRes; res.EncB != nil {
		baggage = res.EncB.Baggage
		data, gateway, certs, err = openEncB[AuthRevResData](e, now, typesAuthRevResB, *res.EncB, ContentAuthRevResBaggage, pki.Pgwy)
	} else {
		data, gateway, certs, err = openEnc[AuthRevResData](e, now, typesAuthRevRes, *res.Enc, pki.Pgwy)
	}
	if err != nil {
		return nil, err
	}
	err = errors.Join(checkGateway(s.GatewayCert, gateway), s.checkAuthRevRes(e, w, r, data))
	if err != nil {
		return nil, err
	}
	if err := e.learnGateway(now, data.PEThumb, gateway, certs); err != nil {
		return nil, err
	}
	out := &Reversed{Code: data.AuthRevCode, Amount: data.AuthNewAmt, New: data.AuthResDataNew.AuthResPayloadNew}
	if baggage.CapTokenNew != nil {
		out.CapToken, err = der.Marshal(*baggage.CapTokenNew)
	}
	if baggage.AuthTokenNew != nil && err == nil {
		out.AuthToken, err = der.Marshal(*baggage.AuthTokenNew)
	}
	return out, err
}

// checkAuthRevRes holds the answer against the request.
func (s *Sale) checkAuthRevRes(e *Endpoint, w *MessageWrapper, r ReversalRequest, data AuthRevResData) error {
	if err := e.checkTags(data.AuthRevTags.AuthRevRRTags, r.RRPID); err != nil {
		return err
	}
	ids := data.AuthResDataNew.TransIDs
	if err := errors.Join(s.TransIDs.check(ids), w.checkIDs(ids), known(data.Extensions)); err != nil {
		return err
	}
	if data.AuthRevCode == AuthRevApproved && !data.AuthNewAmt.Equal(r.NewAmount) {
		return differs("%v stays authorized, asked for %v", data.AuthNewAmt, r.NewAmount)
	}
	if p := data.AuthResDataNew.AuthResPayloadNew; p != nil {
		return known(p.Extensions)
	}
	return nil
}

// OpenedAuthRevReq is a request to take back an authorization, whose signatures verify. It holds card data:
// Clear it after use.
type OpenedAuthRevReq struct {
	Data AuthRevReqData

	// Of is the authorization to take back, as far as it says so: its payment instructions or token, and
	// its request. That no such authorization was made, or that it was captured, is for the caller to know.
	Of    *OpenedAuthReq
	RRPID RRPID         // of its request
	Token *CapTokenData // nil when the merchant sent none, or one that is not this gateway's

	Merchant         *pki.Certificate
	MerchantExchange *pki.Certificate

	// Code is AuthRevApproved when nothing but the records speaks against it. See authRevRules.
	Code AuthRevCode

	foreign bool // there is a capture token, which is not this gateway's
}

// Clear overwrites the card data.
func (o *OpenedAuthRevReq) Clear() { o.Of.Clear() }

// TransIDs are those of the purchase.
func (o *OpenedAuthRevReq) TransIDs() TransIDs {
	if d := o.Data.AuthReqData; d != nil {
		return d.AuthReqItem.AuthTags.TransIDs
	}
	return o.Of.terms().transIDs
}

// OpenAuthRevReq opens AuthRevReq and makes every check that needs no record of earlier transactions
// (SET §7.7).
func (e *Endpoint) OpenAuthRevReq(now time.Time, w *MessageWrapper) (*OpenedAuthRevReq, error) {
	req := EncB[AuthRevReqBaggage](*w.Message.AuthRevReq)
	data, merchant, certs, err := openEncB[AuthRevReqData](e, now, typesAuthRevReq, req, ContentAuthRevReqBaggage, pki.Mer)
	if err != nil {
		return nil, err
	}
	tags := data.AuthRevTags.AuthRevRRTags
	if tags.RRPID != *w.MessageHeader.RRPID {
		return nil, mismatch("rrpid")
	}
	if err := known(data.Extensions); err != nil {
		return nil, err
	}
	o := &OpenedAuthRevReq{Data: data, Merchant: merchant, Of: &OpenedAuthReq{Merchant: merchant}}
	if o.MerchantExchange, err = e.openMerchant(now, merchant, certs, tags); err != nil {
		return nil, err
	}
	o.Of.MerchantExchange = o.MerchantExchange
	if data.AuthReqData != nil {
		o.Of.Data = *data.AuthReqData
		if err := known(o.Of.Data.AuthReqItem.AuthReqPayload.Extensions); err != nil {
			return nil, err
		}
	}
	if err := e.openReversed(now, w, o, &req.Baggage); err != nil {
		o.Clear()
		return nil, err
	}
	return o, nil
}

// openReversed opens what the authorization was made with and what it gave, and judges.
func (e *Endpoint) openReversed(now time.Time, w *MessageWrapper, o *OpenedAuthRevReq, b *AuthRevReqBaggage) error {
	if err := e.openInstructions(now, o.Of, &b.PI); err != nil {
		return err
	}
	if err := w.checkIDs(o.TransIDs()); err != nil {
		return err
	}
	if b.CapToken != nil && b.CapToken.Null == nil {
		token, err := e.openCapToken(now, *b.CapToken)
		var bad *ProtocolError
		switch {
		case errors.As(err, &bad):
			o.foreign = true
		case err != nil:
			return err
		default:
			o.Token, o.RRPID = &token, token.AuthRRPID
		}
	}
	if d := o.Data.AuthReqData; d != nil && o.Token == nil {
		o.RRPID = d.AuthReqItem.AuthTags.AuthRRTags.RRPID
	}
	o.Code = firstBroken(authRevRules, o)
	return nil
}

// Reversal is the gateway's decision about an AuthRevReq.
type Reversal struct {
	Code        AuthRevCode
	Amount      CurrencyAmount  // what stays authorized
	New         *AuthResPayload // the authorization as it stands
	Opaque      []byte          // what the gateway wants back with the new capture token
	TokenOpaque []byte          // what it wants back with the new authorization token
	Last        time.Time       // of the authorization, if a part of it stays
}

// AuthRevRes answers a request to take back an authorization. Where a part stays it carries the capture
// token for that, and a new authorization token where one may follow: the former ones are for more.
func (e *Endpoint) AuthRevRes(now time.Time, o *OpenedAuthRevReq, r Reversal) ([]byte, error) {
	data := AuthRevResData{
		AuthRevCode: r.Code, AuthRevTags: o.Data.AuthRevTags, AuthNewAmt: r.Amount,
		BrandCRLIdentifier: e.brandCRLIdentifier(o.Data.MThumbs), PEThumb: e.peThumb(o.Data.MThumbs),
		AuthResDataNew: AuthResDataNew{TransIDs: o.TransIDs(), AuthResPayloadNew: r.New},
	}
	baggage, err := e.authRevResBaggage(o, r)
	if err != nil {
		return nil, err
	}
	res := new(AuthRevRes)
	if baggage.CapTokenNew == nil && baggage.AuthTokenNew == nil {
		var ci cms.ContentInfo
		ci, err = enc(e, typesAuthRevRes, data, e.crls(o.Data.MThumbs), o.MerchantExchange)
		res.Enc = &ci
	} else {
		var b EncB[AuthRevResBaggage]
		b, err = encB(e, typesAuthRevResB, data, ContentAuthRevResBaggage, baggage, e.crls(o.Data.MThumbs), o.MerchantExchange)
		res.EncB = &b
	}
	if err != nil {
		return nil, err
	}
	return e.wrap(now, o.TransIDs().messageIDs(), &data.AuthRevTags.AuthRevRRTags.RRPID, Message{AuthRevRes: res})
}

func (e *Endpoint) authRevResBaggage(o *OpenedAuthRevReq, r Reversal) (b AuthRevResBaggage, err error) {
	if r.Code != AuthRevApproved {
		return b, nil
	}
	t := o.Of.terms()
	made, last, sum := t.made, t.last, t.sum
	if r.Amount.Amount != 0 {
		if b.CapTokenNew, err = e.capToken(CapTokenData{AuthRRPID: o.RRPID, AuthAmt: r.Amount, TokenOpaque: r.Opaque}, o.Of); err != nil {
			return b, err
		}
		var ok bool
		if sum, ok = sum.Plus(r.Amount); !ok {
			return b, errors.New("the sum of the authorizations is no amount")
		}
		made, last = made+1, r.Last
	}
	if made > 0 && last.IsZero() {
		return b, errors.New("no time of the authorization that stays, from which a recurring payment counts")
	}
	// Nothing was authorized yet: the payment instructions themselves may be used again.
	if made == 0 || !o.Of.moreMayFollow() && o.Of.Token == nil {
		return b, nil
	}
	b.AuthTokenNew, err = e.sealAuthToken(o.Of, t, made, last, sum, r.TokenOpaque)
	return b, err
}
