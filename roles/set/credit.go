package set

import (
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/pki"
)

// Adjustment says which of the three requests of one form is meant (SET §5.10).
type Adjustment int

// The adjustments of a capture.
const (
	CaptureReversal Adjustment = iota // undo a capture that both sides still hold
	Credit                            // give money back
	CreditReversal                    // undo a credit
)

func (a Adjustment) String() string {
	return [...]string{"capture reversal", "credit", "credit reversal"}[a]
}

// adjustment is how one of the three travels.
type adjustment struct {
	request, response        MessageType
	types, typesX, typesBack cms.SignedEncrypted
}

var adjustments = [...]adjustment{
	CaptureReversal: {CapRevReqType, CapRevResType,
		cms.SignedEncrypted{TBE: ContentCapRevReqTBE, TBS: ContentCapRevReqTBS},
		cms.SignedEncrypted{TBE: ContentCapRevReqTBEX, TBS: ContentCapRevReqTBSX},
		cms.SignedEncrypted{TBE: ContentCapRevResTBE, TBS: ContentCapRevResData}},
	Credit: {CredReqType, CredResType,
		cms.SignedEncrypted{TBE: ContentCredReqTBE, TBS: ContentCredReqTBS},
		cms.SignedEncrypted{TBE: ContentCredReqTBEX, TBS: ContentCredReqTBSX},
		cms.SignedEncrypted{TBE: ContentCredResTBE, TBS: ContentCredResData}},
	CreditReversal: {CredRevReqType, CredRevResType,
		cms.SignedEncrypted{TBE: ContentCredRevReqTBE, TBS: ContentCredRevReqTBS},
		cms.SignedEncrypted{TBE: ContentCredRevReqTBEX, TBS: ContentCredRevReqTBSX},
		cms.SignedEncrypted{TBE: ContentCredRevResTBE, TBS: ContentCredRevResData}},
}

// adjustmentRequest gives the place of a request in Message.
func (m *Message) adjustmentRequest(a Adjustment) **CapRevOrCredReq {
	return [...]**CapRevOrCredReq{&m.CapRevReq, &m.CredReq, &m.CredRevReq}[a]
}

// adjustmentResponse gives the place of a response in Message.
func (m *Message) adjustmentResponse(a Adjustment) **CapRevOrCredRes {
	return [...]**CapRevOrCredRes{&m.CapRevRes, &m.CredRes, &m.CredRevRes}[a]
}

// AdjustmentRequest is what the merchant decides about captures that it made. It may be stored as JSON.
type AdjustmentRequest struct {
	Adjustment  Adjustment
	RRPID       RRPID
	GatewayCert []byte // DER of the gateway's key-exchange certificate
	MerTermIDs  MerTermIDs
	Items       []Adjusted

	// Account goes with a request of one item, from a merchant whose certificate allows it. It is the
	// account to credit where the item has NewAccount.
	Account *PANToken `json:"-"`
}

// Adjusted is one capture to undo, or one credit to make or to undo.
type Adjusted struct {
	TransIDs   TransIDs
	AuthRRPID  RRPID      // of the authorization
	Payload    CapPayload // of the capture
	CapToken   []byte     // DER; nil when the merchant lacks it
	NewBatchID *Natural   // when the batch of the capture is closed
	Date       time.Time
	Amount     *CurrencyAmount // of a credit; nil for the whole capture
	NewAccount bool            // credit another account than was charged
}

// asked is the amount that a success means.
func (a *Adjusted) asked() CurrencyAmount {
	if a.Amount != nil {
		return *a.Amount
	}
	return a.Payload.CapReqAmt
}

// AdjustmentReq makes CapRevReq, CredReq or CredRevReq (SET §7.7).
func (e *Endpoint) AdjustmentReq(now time.Time, r *AdjustmentRequest) ([]byte, error) {
	gateway, err := pki.ParseCertificate(r.GatewayCert)
	if err != nil {
		return nil, err
	}
	data := CapRevOrCredReqData{CapRevOrCredRRTags: e.rrTags(now, r.RRPID, r.MerTermIDs), MThumbs: e.thumbs(gateway)}
	var tokens CapTokenSeq
	for _, a := range r.Items {
		token, err := parseCapToken(a.CapToken)
		if err != nil {
			return nil, err
		}
		payload := a.Payload
		payload.CapDate = payload.CapDate.UTC().Truncate(time.Second)
		data.CapRevOrCredReqItemSeq = append(data.CapRevOrCredReqItemSeq, CapRevOrCredReqItem{
			TransIDs: a.TransIDs, AuthRRPID: a.AuthRRPID, CapPayload: payload, NewBatchID: a.NewBatchID,
			CapRevOrCredReqDate: a.Date.UTC().Truncate(time.Second), CapRevOrCredReqAmt: a.Amount, NewAccountInd: a.NewAccount,
		})
		tokens = append(tokens, token)
	}
	way := adjustments[r.Adjustment]
	req := new(CapRevOrCredReq)
	req.EncB, req.EncBX, err = sealTokens(e, way.types, way.typesX, data, tokens, r.Account, gateway)
	if err != nil {
		return nil, err
	}
	var m Message
	*m.adjustmentRequest(r.Adjustment) = req
	return e.wrap(now, nil, &r.RRPID, m)
}

// OpenAdjustmentRes checks the answer and gives what became of the items, in the order of the request.
func (e *Endpoint) OpenAdjustmentRes(now time.Time, r *AdjustmentRequest, b []byte) (*CapRevOrCredResData, error) {
	way := adjustments[r.Adjustment]
	w, err := e.receiveFrom(r.GatewayCert, now, b, r.RRPID, way.response)
	if err != nil {
		return nil, err
	}
	res := cms.ContentInfo(**w.Message.adjustmentResponse(r.Adjustment))
	data, gateway, certs, err := openEnc[CapRevOrCredResData](e, now, way.typesBack, res, pki.Pgwy)
	if err != nil {
		return nil, err
	}
	err = errors.Join(checkGateway(r.GatewayCert, gateway), e.checkTags(data.CapRevOrCredRRTags, r.RRPID), known(data.Extensions))
	if err != nil {
		return nil, err
	}
	if len(data.CapRevOrCredResItemSeq) != len(r.Items) {
		return nil, differs("%d results for %d items", len(data.CapRevOrCredResItemSeq), len(r.Items))
	}
	for i, item := range data.CapRevOrCredResItemSeq {
		asked, p := r.Items[i], item.CapRevOrCredResPayload
		if err := checkItem(asked.TransIDs, asked.AuthRRPID, item.TransIDs, item.AuthRRPID); err != nil {
			return nil, err
		}
		if p.CapRevOrCredCode == CapRevOrCredSuccess && !p.CapRevOrCredActualAmt.Equal(asked.asked()) {
			return nil, differs("%v of %v, asked for %v", r.Adjustment, p.CapRevOrCredActualAmt, asked.asked())
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

// OpenedAdjustment is a CapRevReq, CredReq or CredRevReq whose signature verifies. It may hold card data:
// Clear it after use.
type OpenedAdjustment struct {
	Adjustment Adjustment
	Data       CapRevOrCredReqData
	Items      []OpenedAdjusted // one for one with those of Data
	Account    *PANToken        // when the merchant sent one, which its certificate allows

	Merchant         *pki.Certificate
	MerchantExchange *pki.Certificate
}

// Clear overwrites the card data.
func (o *OpenedAdjustment) Clear() {
	if o.Account != nil {
		o.Account.Clear()
	}
}

// OpenedAdjusted is one item. Code is CapRevOrCredSuccess when the token is this gateway's and fits what is
// asked. See adjustmentRules.
type OpenedAdjusted struct {
	Item   CapRevOrCredReqItem
	Token  CapTokenData
	Amount CurrencyAmount // to undo or to credit
	Code   CapRevOrCredCode

	facts *tokenFacts
}

// OpenAdjustmentReq opens CapRevReq, CredReq or CredRevReq and makes every check that needs no record of
// earlier transactions (SET §7.7).
func (e *Endpoint) OpenAdjustmentReq(now time.Time, w *MessageWrapper) (*OpenedAdjustment, error) {
	o := new(OpenedAdjustment)
	for a, way := range adjustments {
		if way.request == w.Message.Type() {
			o.Adjustment = Adjustment(a)
		}
	}
	way, req := adjustments[o.Adjustment], *w.Message.adjustmentRequest(o.Adjustment)
	if req == nil {
		return nil, &ProtocolError{Code: MessageNotSupported, Err: fmt.Errorf("%v where an adjustment is wanted", w.Message.Type())}
	}
	in, err := openTokens[CapRevOrCredReqData](e, now, way.types, way.typesX, req.EncB, req.EncBX)
	if err != nil {
		return nil, err
	}
	o.Data, o.Merchant, o.Account = in.data, in.merchant, in.account
	items := o.Data.CapRevOrCredReqItemSeq
	o.MerchantExchange, err = e.checkTokens(now, w, in.merchant, in.certs, o.Data.CapRevOrCredRRTags, in.tokens, len(items), in.account)
	err = errors.Join(err, known(o.Data.Extensions))
	for i := 0; err == nil && i < len(items); i++ {
		var opened OpenedAdjusted
		opened, err = e.openAdjusted(now, o, items[i], in.tokens[i])
		o.Items = append(o.Items, opened)
	}
	if err != nil {
		o.Clear()
		return nil, err
	}
	return o, nil
}

// openAdjusted fails because of the item only where nobody may go on: else its Code tells.
func (e *Endpoint) openAdjusted(now time.Time, o *OpenedAdjustment, item CapRevOrCredReqItem, token CapToken) (OpenedAdjusted, error) {
	out := OpenedAdjusted{Item: item, Amount: item.CapPayload.CapReqAmt}
	f, err := e.tokenFacts(now, token, item.AuthRRPID, item.CapPayload)
	if err = errors.Join(err, known(item.Extensions)); err != nil {
		return out, err
	}
	if item.CapRevOrCredReqAmt != nil {
		out.Amount = *item.CapRevOrCredReqAmt
	}
	f.adjustment, f.asked, f.newAccount, f.account = o.Adjustment, out.Amount, item.NewAccountInd, o.Account != nil
	out.facts, out.Token, out.Code = f, f.token, firstBroken(adjustmentRules, f)
	return out, nil
}

// AdjustmentRes answers with one payload for each item, in the same order, and with the state of the
// batches concerned.
func (e *Endpoint) AdjustmentRes(now time.Time, o *OpenedAdjustment, payloads []CapRevOrCredResPayload, batches ...BatchStatus) ([]byte, error) {
	if len(payloads) != len(o.Items) {
		return nil, fmt.Errorf("%d results for %d items", len(payloads), len(o.Items))
	}
	thumbs := o.Data.MThumbs
	data := CapRevOrCredResData{CapRevOrCredRRTags: o.Data.CapRevOrCredRRTags, BrandCRLIdentifier: e.brandCRLIdentifier(thumbs), PEThumb: e.peThumb(thumbs), BatchStatusSeq: batches}
	for i, p := range payloads {
		item := o.Items[i].Item
		data.CapRevOrCredResItemSeq = append(data.CapRevOrCredResItemSeq, CapRevOrCredResItem{
			TransIDs: item.TransIDs, AuthRRPID: item.AuthRRPID, CapRevOrCredResPayload: p,
		})
	}
	ci, err := enc(e, adjustments[o.Adjustment].typesBack, data, e.crls(thumbs), o.MerchantExchange)
	if err != nil {
		return nil, err
	}
	res := CapRevOrCredRes(ci)
	var m Message
	*m.adjustmentResponse(o.Adjustment) = &res
	return e.wrap(now, nil, &data.CapRevOrCredRRTags.RRPID, m)
}
