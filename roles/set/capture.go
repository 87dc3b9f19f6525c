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
	typesCapReq  = cms.SignedEncrypted{TBE: ContentCapReqTBE, TBS: ContentCapReqTBS}
	typesCapReqX = cms.SignedEncrypted{TBE: ContentCapReqTBEX, TBS: ContentCapReqTBSX}
	typesCapRes  = cms.SignedEncrypted{TBE: ContentCapResTBE, TBS: ContentCapResData}
)

// CaptureRequest is what the merchant decides about captures, of one purchase or of several whose
// authorizations one gateway gave. It may be stored as JSON.
type CaptureRequest struct {
	RRPID       RRPID
	GatewayCert []byte // DER of the gateway's key-exchange certificate
	MerTermIDs  MerTermIDs
	Items       []Capture

	// Account goes with a request of one item, from a merchant whose certificate allows it.
	Account *PANToken `json:"-"`
}

// Capture is one authorization to capture.
type Capture struct {
	TransIDs  TransIDs
	AuthRRPID RRPID // of the authorization
	Payload   CapPayload
	CapToken  []byte // DER, as AuthRes or AuthRevRes brought it; nil when the merchant lacks it
}

// CapReq makes the request to capture (SET §7.7).
func (e *Endpoint) CapReq(now time.Time, r *CaptureRequest) ([]byte, error) {
	gateway, err := pki.ParseCertificate(r.GatewayCert)
	if err != nil {
		return nil, err
	}
	data := CapReqData{CapRRTags: e.rrTags(now, r.RRPID, r.MerTermIDs), MThumbs: e.thumbs(gateway)}
	var tokens CapTokenSeq
	for _, c := range r.Items {
		token, err := parseCapToken(c.CapToken)
		if err != nil {
			return nil, err
		}
		payload := c.Payload
		payload.CapDate = payload.CapDate.UTC().Truncate(time.Second)
		data.CapItemSeq = append(data.CapItemSeq, CapItem{TransIDs: c.TransIDs, AuthRRPID: c.AuthRRPID, CapPayload: payload})
		tokens = append(tokens, token)
	}
	req := new(CapReq)
	req.EncB, req.EncBX, err = sealTokens(e, typesCapReq, typesCapReqX, data, tokens, r.Account, gateway)
	if err != nil {
		return nil, err
	}
	return e.wrap(now, nil, &r.RRPID, Message{CapReq: req})
}

// parseCapToken reads a token that the merchant kept; nil stands for one that it lacks.
func parseCapToken(raw []byte) (token CapToken, err error) {
	if raw == nil {
		return CapToken{Null: &der.Null{}}, nil
	}
	return token, Unmarshal(raw, &token)
}

// sealTokens makes either form of a request about captures: EncB, or EncBX with an account.
func sealTokens[T any](e *Endpoint, types, typesX cms.SignedEncrypted, data T, tokens CapTokenSeq, account *PANToken, gateway *pki.Certificate) (b *EncB[CapTokenSeq], x *EncBX[CapTokenSeq], err error) {
	if account == nil {
		encB, err := encB(e, types, data, ContentCapTokenSeq, tokens, nil, gateway)
		return &encB, nil, err
	}
	if len(tokens) != 1 {
		return nil, nil, fmt.Errorf("an account with %d items: it goes with one", len(tokens))
	}
	encBX, err := encBX(e, typesX, data, ContentCapTokenSeq, tokens, *account, nil, gateway)
	return nil, &encBX, err
}

// OpenCapRes checks CapRes and gives what became of the items, in the order of the request.
func (e *Endpoint) OpenCapRes(now time.Time, r *CaptureRequest, b []byte) (*CapResData, error) {
	w, err := e.receiveFrom(r.GatewayCert, now, b, r.RRPID, CapResType)
	if err != nil {
		return nil, err
	}
	data, gateway, certs, err := openEnc[CapResData](e, now, typesCapRes, cms.ContentInfo(*w.Message.CapRes), pki.Pgwy)
	if err != nil {
		return nil, err
	}
	err = errors.Join(checkGateway(r.GatewayCert, gateway), e.checkTags(data.CapRRTags, r.RRPID), known(data.Extensions))
	if err != nil {
		return nil, err
	}
	if len(data.CapResItemSeq) != len(r.Items) {
		return nil, differs("%d results for %d captures", len(data.CapResItemSeq), len(r.Items))
	}
	for i, item := range data.CapResItemSeq {
		asked, p := r.Items[i], item.CapResPayload
		if err := checkItem(asked.TransIDs, asked.AuthRRPID, item.TransIDs, item.AuthRRPID); err != nil {
			return nil, err
		}
		if p.CapCode == CapSuccess && !p.CapAmt.Equal(asked.Payload.CapReqAmt) {
			return nil, differs("captured %v, asked for %v", p.CapAmt, asked.Payload.CapReqAmt)
		}
		if err := known(p.Extensions); err != nil {
			return nil, err
		}
	}
	if err := e.learnGateway(now, data.PEThumb, gateway, certs); err != nil {
		return nil, err
	}
	return &data, nil
}

// checkItem tells whether a result is of the item that was asked for in its place.
func checkItem(asked TransIDs, askedRRPID RRPID, got TransIDs, gotRRPID RRPID) error {
	if gotRRPID != askedRRPID {
		return differs("the items are not those of the request")
	}
	return asked.check(got)
}

// OpenedCapReq is a capture request whose signature verifies. It may hold card data: Clear it after use.
type OpenedCapReq struct {
	Data    CapReqData
	Items   []OpenedCapItem // one for one with Data.CapItemSeq
	Account *PANToken       // when the merchant sent one, which its certificate allows

	Merchant         *pki.Certificate
	MerchantExchange *pki.Certificate
}

// Clear overwrites the card data.
func (o *OpenedCapReq) Clear() {
	if o.Account != nil {
		o.Account.Clear()
	}
}

// OpenedCapItem is one capture asked for. Code is CapSuccess when the token is this gateway's, and is for
// this authorization and for no less than the amount. See capRules.
type OpenedCapItem struct {
	Item  CapItem
	Token CapTokenData
	Code  CapCode

	facts *tokenFacts
}

// OpenCapReq opens CapReq and makes every check that needs no record of earlier transactions (SET §7.7).
// That of the merchant's records, which the token names, is for the caller: a token says nothing of XIDs.
func (e *Endpoint) OpenCapReq(now time.Time, w *MessageWrapper) (*OpenedCapReq, error) {
	o := new(OpenedCapReq)
	in, err := openTokens[CapReqData](e, now, typesCapReq, typesCapReqX, w.Message.CapReq.EncB, w.Message.CapReq.EncBX)
	if err != nil {
		return nil, err
	}
	o.Data, o.Merchant, o.Account = in.data, in.merchant, in.account
	items := o.Data.CapItemSeq
	o.MerchantExchange, err = e.checkTokens(now, w, in.merchant, in.certs, o.Data.CapRRTags, in.tokens, len(items), in.account)
	err = errors.Join(err, known(o.Data.Extensions))
	for i := 0; err == nil && i < len(items); i++ {
		var opened OpenedCapItem
		opened, err = e.openCapItem(now, items[i], in.tokens[i])
		o.Items = append(o.Items, opened)
	}
	if err != nil {
		o.Clear()
		return nil, err
	}
	return o, nil
}

// openCapItem fails because of the item only where nobody may go on: else its Code tells.
func (e *Endpoint) openCapItem(now time.Time, item CapItem, token CapToken) (OpenedCapItem, error) {
	o := OpenedCapItem{Item: item}
	f, err := e.tokenFacts(now, token, item.AuthRRPID, item.CapPayload)
	if err != nil {
		return o, err
	}
	o.facts, o.Token, o.Code = f, f.token, firstBroken(capRules, f)
	return o, nil
}

// tokensOpened is a request about captures as it came.
type tokensOpened[T any] struct {
	data     T
	tokens   CapTokenSeq
	account  *PANToken
	merchant *pki.Certificate
	certs    []*pki.Certificate
}

// openTokens undoes sealTokens. An account is taken only from a merchant who may know card numbers.
func openTokens[T any](e *Endpoint, now time.Time, types, typesX cms.SignedEncrypted, b *EncB[CapTokenSeq], x *EncBX[CapTokenSeq]) (in tokensOpened[T], err error) {
	if b != nil {
		in.tokens = b.Baggage
		in.data, in.merchant, in.certs, err = openEncB[T](e, now, types, *b, ContentCapTokenSeq, pki.Mer)
		return in, err
	}
	in.tokens, in.account = x.Baggage, new(PANToken)
	in.data, *in.account, in.merchant, in.certs, err = openEncBX[T](e, now, typesX, *x, ContentCapTokenSeq, pki.Mer)
	if err == nil && !mayHavePAN(in.merchant) {
		in.account.Clear()
		err = &ProtocolError{Code: MessageNotSupported, Err: errors.New("a card number from a merchant who may not have any")}
	}
	return in, err
}

// checkTokens checks what every request about captures has: whose it is, its header, and a token for each
// item. It finds where to answer.
func (e *Endpoint) checkTokens(now time.Time, w *MessageWrapper, merchant *pki.Certificate, certs []*pki.Certificate, tags RRTags, tokens CapTokenSeq, items int, account *PANToken) (*pki.Certificate, error) {
	switch {
	case tags.RRPID != *w.MessageHeader.RRPID:
		return nil, mismatch("rrpid")
	case len(tokens) != items:
		return nil, differs("%d tokens for %d items", len(tokens), items)
	case account != nil && items != 1:
		return nil, differs("an account with %d items: it goes with one", items)
	}
	return e.openMerchant(now, merchant, certs, tags)
}

// CapRes answers a capture request with one payload for each item, in the same order, and with the state of
// the batches that the captures went into.
func (e *Endpoint) CapRes(now time.Time, o *OpenedCapReq, payloads []CapResPayload, batches ...BatchStatus) ([]byte, error) {
	if len(payloads) != len(o.Items) {
		return nil, fmt.Errorf("%d results for %d captures", len(payloads), len(o.Items))
	}
	thumbs := o.Data.MThumbs
	data := CapResData{CapRRTags: o.Data.CapRRTags, BrandCRLIdentifier: e.brandCRLIdentifier(thumbs), PEThumb: e.peThumb(thumbs), BatchStatusSeq: batches}
	for i, p := range payloads {
		item := o.Items[i].Item
		data.CapResItemSeq = append(data.CapResItemSeq, CapResItem{TransIDs: item.TransIDs, AuthRRPID: item.AuthRRPID, CapResPayload: p})
	}
	ci, err := enc(e, typesCapRes, data, e.crls(thumbs), o.MerchantExchange)
	if err != nil {
		return nil, err
	}
	res := CapRes(ci)
	return e.wrap(now, nil, &data.CapRRTags.RRPID, Message{CapRes: &res})
}
