package set

import (
	"errors"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
)

// Tokens are the gateway's letters to itself, which the merchant keeps and cannot read (SET §5.6).

var (
	typesCapToken  = cms.SignedEncrypted{TBE: ContentCapTokenTBE, TBS: ContentCapTokenData}
	typesCapTokenX = cms.SignedEncrypted{TBE: ContentCapTokenTBEX, TBS: ContentCapTokenTBS}
	typesAuthToken = cms.SignedEncrypted{TBE: ContentAuthTokenTBE, TBS: ContentAuthTokenTBS}
)

// foreignToken is the answer to a token that this gateway did not make.
var foreignToken = &ProtocolError{Code: SignatureFailure, Err: errors.New("not a token of this gateway")}

// terms are what the cardholder agreed to, as the payment instructions say it or the token that stands for
// them.
type terms struct {
	transIDs   TransIDs
	merchantID MerchantID
	purchAmt   CurrencyAmount
	recur      *InstallRecurData
	backKey    *BackKeyData

	made int64          // authorizations before this one
	last time.Time      // of the latest of them
	sum  CurrencyAmount // of all of them
}

func (o *OpenedAuthReq) terms() terms {
	if t := o.Token; t != nil {
		out := terms{t.TransIDs, t.MerchantID, t.PurchAmt, t.InstallRecurData, t.AcqBackKeyData, 1, t.PrevAuthDateTime, t.TotalAuthAmount}
		if t.RecurringCount != nil {
			out.made = int64(*t.RecurringCount)
		}
		return out
	}
	h := &o.PIHead
	return terms{
		transIDs: h.TransIDs, merchantID: h.MerchantID, purchAmt: h.Inputs.PurchAmt, recur: h.InstallRecurData, backKey: h.AcqBackKeyData,
		sum: h.Inputs.PurchAmt.zero(),
	}
}

// Continues tells whether the request goes on where the gateway's records say that the purchase stands: after
// so many authorizations, of this sum, that were not taken back. A merchant can come to hold more than one
// token of a purchase, by a reversal for one; each is genuine, and only what continues may be used.
func (o *OpenedAuthReq) Continues(made int, sum CurrencyAmount) bool {
	t := o.terms()
	return t.made == int64(made) && (made == 0 || t.sum.Equal(sum))
}

// moreMayFollow tells whether the merchant needs a token for a next authorization, and may have one.
func (o *OpenedAuthReq) moreMayFollow() bool {
	t := o.terms()
	if most := t.recur.instalments(); most != nil {
		return t.made+1 < int64(*most)
	}
	return t.recur.recurring() != nil || o.Data.AuthReqItem.AuthReqPayload.SubsequentAuthInd
}

// panToken is the account for a token or for a merchant, with a nonce of its own.
func (o *OpenedAuthReq) panToken() PANToken {
	return PANToken{PAN: o.PANData.PAN, CardExpiry: o.PANData.CardExpiry, ExNonce: NewNonce()}
}

// panData is the account with the secret that stands where there is none (SET §2.7).
func (p PANToken) panData() PANData {
	return PANData{PAN: p.PAN, CardExpiry: p.CardExpiry, ExNonce: p.ExNonce}
}

// capToken makes a token that only this gateway can open and have made. It holds the card number where the
// merchant may know that anyway (SET §5.6).
func (e *Endpoint) capToken(data CapTokenData, o *OpenedAuthReq) (*CapToken, error) {
	if mayHavePAN(o.Merchant) {
		ci, err := encX(e, typesCapTokenX, data, o.panToken(), nil, nil, e.ExchangeCert)
		return &CapToken{EncX: &ci}, err
	}
	ci, err := cms.Enc(typesCapToken, data, nil, nil, e.cmsSigner(), e.ExchangeCert.X509)
	return &CapToken{Enc: &ci}, err
}

// openCapToken gives the data of a token that this gateway made. The card number in it, if there is one, is
// the gateway's already.
func (e *Endpoint) openCapToken(now time.Time, token CapToken) (data CapTokenData, err error) {
	switch {
	case token.EncX != nil:
		var pan PANToken
		data, pan, err = openOwnToken[CapTokenData](e, now, typesCapTokenX, *token.EncX)
		pan.Clear()
		return data, err
	case token.Enc == nil:
		return data, foreignToken
	}
	own, err := e.addressee(now, *token.Enc)
	if err != nil {
		return data, err
	}
	sd, err := own.recipient().OpenEnc(typesCapToken, *token.Enc)
	if err != nil {
		return data, protocol(err)
	}
	if sd.Signers != 1 || !sd.Names(0, own.SignCert.X509) {
		return data, foreignToken
	}
	if err := sd.Verify(0, own.SignCert.X509.PublicKey); err != nil {
		return data, protocol(err)
	}
	return data, decode(sd.Content, &data)
}

// authToken makes the token for the next authorization of the purchase, after one of the given amount at
// the given time.
func (e *Endpoint) authToken(now time.Time, o *OpenedAuthReq, amount CurrencyAmount, opaque []byte) (*AuthToken, error) {
	t := o.terms()
	sum, ok := t.sum.Plus(amount)
	if !ok {
		return nil, errors.New("the sum of the authorizations is no amount")
	}
	return e.sealAuthToken(o, t, t.made+1, now, sum, opaque)
}

// sealAuthToken is EncX(P1, P2, AuthTokenData, PANToken).
func (e *Endpoint) sealAuthToken(o *OpenedAuthReq, t terms, made int64, last time.Time, sum CurrencyAmount, opaque []byte) (*AuthToken, error) {
	count := Positive(made)
	if opaque == nil {
		opaque = []byte{}
	}
	data := AuthTokenData{
		TransIDs: t.transIDs, PurchAmt: t.purchAmt, MerchantID: t.merchantID, AcqBackKeyData: t.backKey, InstallRecurData: t.recur,
		RecurringCount: &count, PrevAuthDateTime: last.UTC().Truncate(time.Second), TotalAuthAmount: sum, AuthTokenOpaque: opaque,
	}
	ci, err := encX(e, typesAuthToken, data, o.panToken(), nil, nil, e.ExchangeCert)
	token := AuthToken(ci)
	return &token, err
}

// openToken opens a token that stands for payment instructions.
func (e *Endpoint) openToken(now time.Time, o *OpenedAuthReq, token *AuthToken) error {
	data, pan, err := openOwnToken[AuthTokenData](e, now, typesAuthToken, cms.ContentInfo(*token))
	if err != nil {
		return err
	}
	o.Token, o.PANData = &data, pan.panData()
	o.HPIData, err = cms.Digest(data)
	return err
}

// openOwnToken opens an EncX of this gateway for itself. The account is secret: whoever gets it clears it.
func openOwnToken[T any](e *Endpoint, now time.Time, types cms.SignedEncrypted, ci cms.ContentInfo) (t T, pan PANToken, err error) {
	own, err := e.addressee(now, ci)
	if err != nil {
		return t, pan, err
	}
	t, pan, sd, err := openEncX[T](own, types, ci)
	if err != nil {
		return t, pan, err
	}
	if sd.Signers != 1 || !sd.Names(0, own.SignCert.X509) {
		err = foreignToken
	} else {
		err = verifyX(sd, t, pan, own.SignCert)
	}
	if err != nil {
		pan.Clear()
	}
	return t, pan, err
}
