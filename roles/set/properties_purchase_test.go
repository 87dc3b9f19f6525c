package set_test

import (
	"bytes"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/set/settest"
)

// unsignedOrNot is a trade whose merchant has taken an order that the cardholder signed, or did not.
func unsignedOrNot(t *testing.T, signed bool) *trade {
	t.Helper()
	tr := newTrade(t)
	if !signed {
		tr.gateway = tr.OpenGateway(t, "G-0007")
		tr.card.Endpoint = tr.Endpoint(t)
	}
	tr.initiate(t)
	if err := tr.take(tr.request(t)); err != nil {
		t.Fatal(err)
	}
	return tr
}

// pay has the purchase authorized, captured and confirmed.
func (tr *trade) pay(t *testing.T) {
	t.Helper()
	r := authorization()
	a := tr.approve(t, r, set.Authorization{})
	capture := tr.capture(r.RRPID, price, a.CapToken)
	req := tr.sent(must[[]byte](t)(tr.merchant.CapReq(tr.Now, capture)))
	o := received(t, tr.gateway, tr.Now, req, set.CapReqType, tr.gateway.OpenCapReq)
	res := tr.sent(must[[]byte](t)(tr.gateway.CapRes(tr.Now, o, []set.CapResPayload{{CapAmt: price}})))
	must[*set.CapResData](t)(tr.merchant.OpenCapRes(tr.Now, capture, res))
	tr.sent(must[[]byte](t)(tr.sale.PRes(tr.merchant, tr.Now, set.PResPayload{CompletionCode: set.OrderReceived})))
	tr.wire = append(tr.wire, must[[]byte](t)(json.Marshal(tr.sale)), must[[]byte](t)(json.Marshal(capture)))
}

// wantForGateway wants that a secret of a purchase is learnt by its gateway, and by nobody else with all keys
// that there are.
func (tr *trade) wantForGateway(t *testing.T, what string, secret []byte) {
	t.Helper()
	if !holds(learnt(t, tr.wire, tr.gateway.ExchangeKey), secret) {
		t.Errorf("this test finds nothing: not even the gateway learns the %s", what)
	}
	for who, e := range map[string]*set.Endpoint{
		"merchant": tr.merchant, "another merchant": tr.Merchant(t, "M-0002"), "another gateway": tr.Gateway(t, "G-0002"),
		"cardholder CA": tr.CA(t, pki.CCA), "payment CA": tr.CA(t, pki.PCA),
	} {
		if holds(learnt(t, tr.wire, e.ExchangeKey), secret) {
			t.Errorf("%s: learns the %s", who, what)
		}
	}
}

// PU-1: the card number of an unsigned purchase is known to the gateway that the cardholder encrypted it for,
// and to nobody else: not to the merchant by whose hands it goes, and not to the network.
func unsignedCardNumberIsForTheGateway(t *testing.T) {
	t.Parallel()
	tr := unsignedOrNot(t, false)
	tr.pay(t)
	tr.wantForGateway(t, "card number", []byte(testPAN))
	tr.wantForGateway(t, "expiry", tr.card.Account.CardExpiry)
}

// PU-2: the same holds for a signed purchase.
func signedCardNumberIsForTheGateway(t *testing.T) {
	t.Parallel()
	tr := unsignedOrNot(t, true)
	tr.pay(t)
	tr.wantForGateway(t, "card number", []byte(testPAN))
	tr.wantForGateway(t, "expiry", tr.card.Account.CardExpiry)
}

// PU-3: PANSecret, with which whoever has it can tell the card's certificate, is known to the gateway alone.
func panSecretIsForTheGateway(t *testing.T) {
	t.Parallel()
	tr := unsignedOrNot(t, true)
	tr.pay(t)
	tr.wantForGateway(t, "PANSecret", tr.card.Account.PANSecret[:])
}

// PU-4: CardSecret is in no part of any message of a purchase, not even for the gateway. What travels is the
// stain that it leaves on the transaction.
func cardSecretIsForNobody(t *testing.T) {
	t.Parallel()
	tr := unsignedOrNot(t, true)
	tr.pay(t)
	known := learnt(t, tr.wire, tr.gateway.ExchangeKey, tr.merchant.ExchangeKey)
	if holds(known, tr.card.Account.CardSecret[:]) {
		t.Error("CardSecret is in a message")
	}
	stain := must[set.Digest](t)(set.TransStain(tr.sale.TransIDs.XID, tr.card.Account.CardSecret))
	if !holds(known, stain[:]) {
		t.Error("the gateway does not learn the stain of the transaction")
	}
}

// PU-5: what was ordered never reaches the gateway, not even encrypted, nor what a guess of it could be checked
// with: only its digest, to which the merchant's salt belongs.
func orderIsForTheMerchant(t *testing.T) {
	t.Parallel()
	tr := unsignedOrNot(t, true)
	tr.pay(t)
	var received [][]byte
	for _, b := range tr.wire[:len(tr.wire)-2] {
		if holds([][]byte{b}, orderText) {
			t.Error("the order description is on the wire")
		}
		switch w := must[*set.MessageWrapper](t)(set.Decode(b)); w.Message.Type() {
		case set.AuthReqType, set.CapReqType:
			received = append(received, b)
		}
	}
	known := learnt(t, received, tr.gateway.ExchangeKey)
	var hod set.HOD
	if err := set.Unmarshal(tr.sale.HOD, &hod); err != nil || !holds(known, hod.Content.Digest) {
		t.Errorf("the gateway does not learn the digest of the order: %v", err)
	}
	for what, secret := range map[string][]byte{"the order": orderText, "the salt of the order": tr.purchase.ODSalt[:]} {
		if holds(known, secret) {
			t.Errorf("the gateway learns %s", what)
		}
	}
}

// PU-6: the cardholder encrypts for the gateway that the merchant signed for: its certificate travels unsigned,
// its thumbprint signed, and it must be a gateway's.
func gatewayIsTheMerchants(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	req := must[[]byte](t)(tr.purchase.InitReq(tr.card.Endpoint, tr.Now))
	w := must[*set.MessageWrapper](t)(tr.merchant.Receive(tr.Now, req, set.PInitReqType))
	init := must[*set.PInitReq](t)(w.OpenPInitReq())
	honest := must[[]byte](t)(tr.sale.InitRes(tr.merchant, tr.Now, init, tr.gateway.ExchangeCert, tr.gateway.Chain))
	other := tr.Gateway(t, "G-0002")
	ours, theirs := tr.gateway.ExchangeCert.Thumbprint(), other.ExchangeCert.Thumbprint()
	for name, c := range map[string]struct {
		res  []byte
		want set.ErrorCode
	}{
		"another gateway's certificate beside the thumbprint": {tr.beside(t, honest, other), set.MissingCertificate},
		"another gateway's thumbprint":                        {bytes.Replace(tr.beside(t, honest, tr.gateway, other), ours[:], theirs[:], 1), set.SignatureFailure},
	} {
		if _, err := tr.purchase.OpenInitRes(tr.card.Endpoint, tr.Now, c.res); code(err) != c.want {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	foreign := settest.NewWorld(t).Gateway(t, "G-0001")
	for name, c := range map[string]struct {
		cert *pki.Certificate
		want set.ErrorCode
	}{
		"a merchant's certificate":          {tr.Merchant(t, "M-0009").ExchangeCert, set.InvalidCertificate},
		"its own certificate":               {tr.merchant.ExchangeCert, set.InvalidCertificate},
		"a gateway's signature certificate": {tr.gateway.SignCert, set.InvalidCertificate},
		"a gateway of another hierarchy":    {foreign.ExchangeCert, set.MissingCertificate},
	} {
		res := must[[]byte](t)(tr.sale.InitRes(tr.merchant, tr.Now, init, c.cert, nil))
		if _, err := tr.purchase.OpenInitRes(tr.card.Endpoint, tr.Now, res); code(err) != c.want {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := tr.purchase.OpenInitRes(tr.card.Endpoint, tr.Now, honest); err != nil {
		t.Errorf("untouched: %v", err)
	}
}

// beside replaces the certificates beside a PInitRes, which anyone can, for the signature does not cover them.
func (tr *trade) beside(t *testing.T, res []byte, gateways ...*set.Endpoint) []byte {
	t.Helper()
	w := must[*set.MessageWrapper](t)(set.Decode(res))
	sd := must[*cms.SignedData](t)(cms.ParseSigned(cms.ContentInfo(*w.Message.PInitRes), set.ContentPInitResData))
	var data set.PInitResData
	if err := set.Unmarshal(sd.Content, &data); err != nil {
		t.Fatal(err)
	}
	certs := certificates(tr.merchant)
	for _, g := range gateways {
		certs = append(certs, g.ExchangeCert.X509, g.Chain[0].X509)
	}
	signed := set.PInitRes(must[cms.ContentInfo](t)(cms.Sign(set.ContentPInitResData, data, certs, nil,
		cms.Signer{Key: tr.merchant.SignKey, Certificate: tr.merchant.SignCert.X509})))
	w.Message.PInitRes = &signed
	return must[[]byte](t)(set.Encode(*w))
}

// PU-8: the merchant knows that the cardholder sent it this order with the digest of this payment: nothing of it
// is changed, and no part comes from another purchase of the same cardholder.
func orderIsTheCardholders(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	tr.initiate(t)
	preq := tr.request(t)
	for name, change := range map[string]func(*set.PReqDualSigned){
		"amount of the order":     func(p *set.PReqDualSigned) { p.OIDualSigned.Value.HOD.Content.Digest[0] ^= 1 },
		"salt of the order":       func(p *set.PReqDualSigned) { p.OIDualSigned.Value.ODSalt[0] ^= 1 },
		"digest of payment data":  func(p *set.PReqDualSigned) { p.OIDualSigned.DD.Content.Digest[0] ^= 1 },
		"challenge of merchant":   func(p *set.PReqDualSigned) { p.OIDualSigned.Value.ChallM[0] ^= 1 },
		"brand":                   func(p *set.PReqDualSigned) { p.OIDualSigned.Value.BrandID = "Other" },
		"dual signature's octets": func(p *set.PReqDualSigned) { c := p.PIDualSigned.PISignature.Content; c[len(c)-1] ^= 1 },
	} {
		w := must[*set.MessageWrapper](t)(set.Decode(preq))
		change(w.Message.PReq.PReqDualSigned)
		if err := tr.take(must[[]byte](t)(set.Encode(*w))); code(err) != set.SignatureFailure && code(err) != set.DecodingFailure {
			t.Errorf("%s changed: %v", name, err)
		}
	}
	if err := tr.take(preq); err != nil {
		t.Errorf("untouched: %v", err)
	}
	forger := *tr.card.Endpoint
	forger.SignKey = newECKey(t)
	if err := tr.take(must[[]byte](t)(tr.purchase.Request(&forger, tr.Now, &tr.card.Account))); code(err) != set.SignatureFailure {
		t.Errorf("signed by somebody else: %v", err)
	}
	partsOfAnotherPurchase(t)
}

// No part of a purchase request goes with the parts of another one.
func partsOfAnotherPurchase(t *testing.T) {
	t.Helper()
	a, b := newTrade(t), (*trade)(nil)
	a.initiate(t)
	b = &trade{World: a.World, card: a.card, merchant: a.merchant, gateway: a.gateway,
		sale: &set.Sale{OD: orderText, PurchAmt: price, LIDM: set.NewLocalID()}}
	b.purchase = must[*set.Purchase](t)(set.NewPurchase(&set.Initiation{PurchAmt: &price, Brands: []set.BrandID{settest.Brand},
		LIDM: b.sale.LIDM, Order: orderText}, settest.Brand, "411111", "en"))
	b.initiate(t)
	first := must[*set.MessageWrapper](t)(set.Decode(a.request(t)))
	second := must[*set.MessageWrapper](t)(set.Decode(b.request(t)))
	mine, others := *first.Message.PReq.PReqDualSigned, *second.Message.PReq.PReqDualSigned
	signature := mine.PIDualSigned
	signature.PISignature = others.PIDualSigned.PISignature
	digest := mine.OIDualSigned
	digest.DD = others.OIDualSigned.DD
	for what, mixed := range map[string]set.PReqDualSigned{
		"payment instructions":    {PIDualSigned: others.PIDualSigned, OIDualSigned: mine.OIDualSigned},
		"signature":               {PIDualSigned: signature, OIDualSigned: mine.OIDualSigned},
		"digest of the payment":   {PIDualSigned: mine.PIDualSigned, OIDualSigned: digest},
		"signature and digest":    {PIDualSigned: signature, OIDualSigned: digest},
		"order, in this header's": {PIDualSigned: mine.PIDualSigned, OIDualSigned: set.OIDualSigned{Value: withIDs(others.OIDualSigned.Value, mine.OIDualSigned.Value), DD: others.OIDualSigned.DD}},
	} {
		first.Message.PReq.PReqDualSigned = &mixed
		if err := a.take(must[[]byte](t)(set.Encode(*first))); code(err) != set.SignatureFailure {
			t.Errorf("%s of another purchase: %v", what, err)
		}
	}
}

// withIDs is an order under the identifiers of another one.
func withIDs(oi, of set.OIData) set.OIData {
	oi.TransIDs, oi.RRPID = of.TransIDs, of.RRPID
	return oi
}

// PU-9: the gateway knows that the cardholder sent this payment for this merchant: transaction, amount, order
// and account are as they were signed. Whoever may open the payment instructions cannot change them.
func paymentIsTheCardholders(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*set.PIDualSignedTBE, *set.PANData){
		"amount":       func(tbe *set.PIDualSignedTBE, _ *set.PANData) { tbe.Value.Value.Inputs.PurchAmt.Amount-- },
		"order":        func(tbe *set.PIDualSignedTBE, _ *set.PANData) { tbe.Value.Value.Inputs.HOD.Content.Digest[0] ^= 1 },
		"order's data": func(tbe *set.PIDualSignedTBE, _ *set.PANData) { tbe.Value.DD.Content.Digest[0] ^= 1 },
		"merchant":     func(tbe *set.PIDualSignedTBE, _ *set.PANData) { tbe.Value.Value.MerchantID = "M-0002" },
		"transaction":  func(tbe *set.PIDualSignedTBE, _ *set.PANData) { tbe.Value.Value.TransIDs.XID[0] ^= 1 },
		"stain":        func(tbe *set.PIDualSignedTBE, _ *set.PANData) { tbe.Value.Value.TransStain[0] ^= 1 },
		"gateway":      func(tbe *set.PIDualSignedTBE, _ *set.PANData) { tbe.Value.Value.Extensions = nil },
		"terms":        func(tbe *set.PIDualSignedTBE, _ *set.PANData) { tbe.Value.Value.InstallRecurData = set.Instalments(3) },
		"account":      func(_ *set.PIDualSignedTBE, p *set.PANData) { p.PAN = set.PAN("4000000000000002") },
		"account, and its digest": func(tbe *set.PIDualSignedTBE, p *set.PANData) {
			p.PAN = set.PAN("4000000000000002")
			tbe.DD = must[cms.DetachedDigest](t)(cms.DD(set.ContentPANData, *p))
		},
	} {
		tr := taken(t)
		tr.rewritePI(t, tr.gateway, change)
		if _, err := tr.acquire(tr.authorize(t, authorization())); code(err) != set.SignatureFailure {
			t.Errorf("%s changed: %v", name, err)
		}
	}
	tr := taken(t)
	tr.rewritePI(t, tr.gateway, func(*set.PIDualSignedTBE, *set.PANData) {})
	if o, err := tr.acquire(tr.authorize(t, authorization())); err != nil || o.Refusal != nil {
		t.Errorf("untouched: %v", err)
	}
}

// rewritePI has a corrupt gateway, or who has its key, open the payment instructions, change them, and encrypt
// them for a gateway again. The signature stays as it was.
func (tr *trade) rewritePI(t *testing.T, to *set.Endpoint, change func(*set.PIDualSignedTBE, *set.PANData)) {
	t.Helper()
	var pi set.PI
	if err := set.Unmarshal(tr.sale.PI, &pi); err != nil {
		t.Fatal(err)
	}
	corrupt := cms.Recipient{Key: tr.gateway.ExchangeKey, Certificate: tr.gateway.ExchangeCert.X509}
	plaintext, packed, err := corrupt.Decrypt(pi.PIDualSigned.EXPIData, set.ContentPIDualSignedTBE, cms.WithPANData)
	if err != nil {
		t.Fatal(err)
	}
	var tbe set.PIDualSignedTBE
	if err := set.Unmarshal(plaintext, &tbe); err != nil {
		t.Fatal(err)
	}
	account := must[set.PANData](t)(set.UnpackPANData(packed))
	change(&tbe, &account)
	pi.PIDualSigned.EXPIData = must[cms.ContentInfo](t)(cms.Encrypt(to.ExchangeCert.X509, set.ContentPIDualSignedTBE, tbe, cms.WithPANData, account.Pack()))
	tr.sale.PI = must[[]byte](t)(der.Marshal(pi))
}

// PU-10: the gateway knows that the merchant asked for this authorization with this payment: the payment
// instructions of two requests cannot be exchanged, and nobody asks in the merchant's name.
func authorizationIsTheMerchants(t *testing.T) {
	t.Parallel()
	a, b := newTrade(t), newTrade(t)
	var msgs []*set.MessageWrapper
	for _, tr := range []*trade{a, b} {
		tr.initiate(t)
		if err := tr.take(tr.request(t)); err != nil {
			t.Fatal(err)
		}
		msgs = append(msgs, must[*set.MessageWrapper](t)(set.Decode(tr.authorize(t, set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: price}))))
	}
	msgs[0].Message.AuthReq.Baggage = msgs[1].Message.AuthReq.Baggage
	if _, err := a.acquire(must[[]byte](t)(set.Encode(*msgs[0]))); code(err) != set.SignatureFailure {
		t.Errorf("payment instructions of another request: %v", err)
	}
	forger := *a.merchant
	forger.SignKey = newECKey(t)
	for who, c := range map[string]struct {
		by   *set.Endpoint
		want set.ErrorCode
	}{
		"itself":                        {a.merchant, 0},
		"somebody with its certificate": {&forger, set.SignatureFailure},
		"another merchant":              {a.Merchant(t, "M-0002"), set.InvalidCertificate},
		"the gateway":                   {a.gateway, set.InvalidCertificate},
	} {
		if _, err := a.acquire(must[[]byte](t)(forgedAuthReq(a, c.by, authorization(), a.agree(t)))); code(err) != c.want || (err == nil) != (c.want == 0) {
			t.Errorf("asked for by %s: %v, want %v", who, err, c.want)
		}
	}
}

// PU-11: the gateway authorizes only what merchant and cardholder agree on: transaction, order, amount and the
// order's data. A merchant who changes its mind after the cardholder has signed is refused.
func merchantAndCardholderAgree(t *testing.T) {
	t.Parallel()
	authorization := set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: price}
	for name, c := range map[string]struct {
		change func(*testing.T, *trade) set.AuthorizationRequest
		want   set.AuthCode
	}{
		"the merchant changes the order": {func(t *testing.T, tr *trade) set.AuthorizationRequest {
			other := must[cms.DetachedDigest](t)(cms.DD(set.ContentHODInput, set.HODInput{OD: []byte("nothing"), PurchAmt: price}))
			tr.sale.HOD = must[[]byte](t)(der.Marshal(other))
			return authorization
		}, set.AuthPIAuthMismatch},
		"the merchant changes the order's data": {func(t *testing.T, tr *trade) set.AuthorizationRequest {
			tr.sale.HOIData = must[[]byte](t)(der.Marshal(must[cms.DetachedDigest](t)(cms.DD(set.ContentOIData, der.Null{}))))
			return authorization
		}, set.AuthPIAuthMismatch},
		"another merchant sends the payment instructions": {func(t *testing.T, tr *trade) set.AuthorizationRequest {
			tr.merchant = tr.Merchant(t, "M-0002")
			return authorization
		}, set.AuthPIAuthMismatch},
		"payment instructions of another transaction": {func(t *testing.T, tr *trade) set.AuthorizationRequest {
			tr.sale.TransIDs.XID = set.NewXID()
			return authorization
		}, set.AuthPIAuthMismatch},
	} {
		tr := newTrade(t)
		tr.initiate(t)
		if err := tr.take(tr.request(t)); err != nil {
			t.Fatal(err)
		}
		o, err := tr.acquire(tr.authorize(t, c.change(t, tr)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if o.Refusal == nil || *o.Refusal != c.want {
			t.Errorf("%s: refusal %v, want %v", name, o.Refusal, c.want)
		} else if _, err := tr.gateway.AuthRes(tr.Now, o, set.Authorization{Code: set.AuthApproved, Amount: price}); err == nil {
			t.Errorf("%s: refused, and approved", name)
		}
	}
}

// PU-12: the merchant knows that its gateway had this request of its purchase, and answered with this amount.
func authorizationResultIsTheGateways(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	tr.initiate(t)
	if err := tr.take(tr.request(t)); err != nil {
		t.Fatal(err)
	}
	r := set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: price}
	o := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, r)))
	res := must[[]byte](t)(tr.gateway.AuthRes(tr.Now, o, set.Authorization{Code: set.AuthApproved, Amount: price, ApprovalCode: "A12345"}))

	next := set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: price}
	if _, err := tr.sale.OpenAuthRes(tr.merchant, tr.Now, next, res); code(err) != set.UnknownRRPID {
		t.Errorf("AuthRes to another request: %v", err)
	}
	// An attacker can make the header fit, but not what is signed.
	w := must[*set.MessageWrapper](t)(set.Decode(res))
	w.MessageHeader.RRPID = &next.RRPID
	if _, err := tr.sale.OpenAuthRes(tr.merchant, tr.Now, next, must[[]byte](t)(set.Encode(*w))); code(err) != set.UnknownRRPID {
		t.Errorf("AuthRes with another header: %v", err)
	}
	forger := *tr.gateway
	forger.SignKey = newECKey(t)
	for who, by := range map[string]*set.Endpoint{"somebody with its certificate": &forger, "another gateway": tr.Gateway(t, "G-0002")} {
		forged := must[[]byte](t)(by.AuthRes(tr.Now, o, set.Authorization{Code: set.AuthApproved, Amount: price, ApprovalCode: "A12345"}))
		if _, err := tr.sale.OpenAuthRes(tr.merchant, tr.Now, r, forged); code(err) != set.SignatureFailure {
			t.Errorf("AuthRes of %s: %v", who, err)
		}
	}
	less := price
	less.Amount--
	other := must[[]byte](t)(tr.gateway.AuthRes(tr.Now, o, set.Authorization{Code: set.AuthApproved, Amount: less, ApprovalCode: "A12345"}))
	if _, err := tr.sale.OpenAuthRes(tr.merchant, tr.Now, r, other); code(err) != set.WrapperMsgMismatch {
		t.Errorf("AuthRes of another amount: %v", err)
	}
	if _, err := tr.sale.OpenAuthRes(tr.merchant, tr.Now, r, res); err != nil {
		t.Errorf("its own: %v", err)
	}
	// Nor is it an answer about another purchase, though that asked under the same RRPID.
	same := &trade{World: tr.World, merchant: tr.merchant, gateway: tr.gateway, sale: ptr(*tr.sale)}
	same.sale.TransIDs.XID = set.NewXID()
	if _, err := same.sale.OpenAuthRes(tr.merchant, tr.Now, r, res); code(err) != set.UnknownXID {
		t.Errorf("AuthRes to another purchase: %v", err)
	}
}

// PU-13: the cardholder knows that its merchant answered this request of its purchase.
func resultIsTheMerchants(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	pres := must[[]byte](t)(tr.sale.PRes(tr.merchant, tr.Now, set.PResPayload{CompletionCode: set.OrderReceived}))
	forger := *tr.merchant
	forger.SignKey = newECKey(t)
	for who, c := range map[string]struct {
		by   *set.Endpoint
		want set.ErrorCode
	}{
		"somebody with its certificate": {&forger, set.SignatureFailure},
		"another merchant":              {tr.Merchant(t, "M-0002"), set.SignatureFailure},
		"the gateway":                   {tr.gateway, set.InvalidCertificate},
	} {
		forged := must[[]byte](t)(tr.sale.PRes(c.by, tr.Now, set.PResPayload{CompletionCode: set.OrderReceived}))
		if _, err := tr.purchase.OpenResponse(tr.card.Endpoint, tr.Now, forged); code(err) != c.want {
			t.Errorf("PRes of %s: %v, want %v", who, err, c.want)
		}
	}
	if _, err := tr.purchase.OpenResponse(tr.card.Endpoint, tr.Now, pres); err != nil {
		t.Errorf("its own: %v", err)
	}
	for want, change := range map[set.ErrorCode]func(p *set.Purchase){
		set.UnknownRRPID: func(p *set.Purchase) { p.RRPID = set.NewRRPID() },
		set.UnknownXID:   func(p *set.Purchase) { p.TransIDs.XID = set.NewXID() },
		set.UnknownLID:   func(p *set.Purchase) { p.TransIDs.LIDM = set.NewLocalID() },
	} {
		other := *tr.purchase
		change(&other)
		replayed := must[*set.MessageWrapper](t)(set.Decode(pres))
		replayed.MessageHeader.RRPID = &other.RRPID
		if _, err := other.OpenResponse(tr.card.Endpoint, tr.Now, must[[]byte](t)(set.Encode(*replayed))); code(err) != want {
			t.Errorf("PRes to another purchase: %v, want %v", err, want)
		}
	}
	tr.purchase.ChallC = set.NewChallenge()
	if _, err := tr.purchase.OpenResponse(tr.card.Endpoint, tr.Now, pres); code(err) != set.ChallengeMismatch {
		t.Errorf("PRes to another challenge: %v", err)
	}
}

// PU-14: who learns the key of one message of a purchase opens no other one, and not the payment instructions
// that travel in it.
func sessionKeysOfAPurchase(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	b := tr.authorize(t, authorization())
	req := must[*set.MessageWrapper](t)(set.Decode(b)).Message.AuthReq
	o := must[*set.OpenedAuthReq](t)(tr.acquire(b))
	answer := must[[]byte](t)(tr.gateway.AuthRes(tr.Now, o, set.Authorization{Code: set.AuthApproved, Amount: price, ApprovalCode: "A12345"}))
	res := must[*set.MessageWrapper](t)(set.Decode(answer)).Message.AuthRes.EncB
	again := must[*set.MessageWrapper](t)(set.Decode(tr.authorize(t, authorization()))).Message.AuthReq
	envelopes := map[string]cms.ContentInfo{
		"AuthReq": req.Enc, "payment instructions": req.Baggage.PIDualSigned.EXPIData, "AuthRes": res.Enc,
		"capture token": *res.Baggage.CapToken.Enc, "another AuthReq": again.Enc,
	}
	keys := make(map[string][]byte)
	for name, ci := range envelopes {
		to := tr.gateway
		if name == "AuthRes" {
			to = tr.merchant
		}
		keys[name] = leak(t, ci, to)
	}
	wantClosed(t, keys, envelopes)
}

// W-PU1: an unsigned purchase proves nobody's will: who knows number and expiry of a card pays with it. So
// merchant and gateway see that it was not signed, and a gateway that requires certificates refuses.
func unsignedPurchaseProvesNobody(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	tr.gateway = tr.OpenGateway(t, "G-0007")
	victim := tr.card.Account
	tr.card = &settest.Card{Endpoint: tr.Endpoint(t), Account: set.Account{PAN: victim.PAN, CardExpiry: victim.CardExpiry}}
	tr.initiate(t)
	if err := tr.take(tr.request(t)); err != nil {
		t.Fatal(err)
	}
	o := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, authorization())))
	if o.Refusal != nil || o.Card != nil || tr.sale.Card != nil {
		t.Errorf("refusal %v, the gateway's card %v, the merchant's %x: want an order that nobody signed", o.Refusal, o.Card, tr.sale.Card)
	}
	strict := taken(t)
	var pi set.PI
	if err := set.Unmarshal(strict.sale.PI, &pi); err != nil {
		t.Fatal(err)
	}
	unsigned := set.PIUnsigned(pi.PIDualSigned.EXPIData)
	strict.sale.PI = must[[]byte](t)(der.Marshal(set.PI{PIUnsigned: &unsigned}))
	if got := strict.refused(t, authorization()); got != set.AuthSignatureRequired {
		t.Errorf("unsigned, where certificates are required: %v", got)
	}
	lying := newTrade(t)
	lying.initiate(t)
	lying.sale.GatewayCert = lying.gateway.ExchangeCert.X509.Raw
	open := *lying.purchase
	open.GatewayCert = lying.OpenGateway(t, "G-0008").ExchangeCert.X509.Raw
	if err := lying.take(must[[]byte](t)(open.Request(lying.Endpoint(t), lying.Now, &lying.card.Account))); code(err) != set.SignatureRequired {
		t.Errorf("the merchant of a gateway that requires certificates: %v", err)
	}
}

// W-PU2: the dual signature of the protocol does not name the gateway, so a corrupt one could have another one
// charge the card. In setkit it does: payment instructions that one gateway encrypts for another are refused.
func paymentForAnotherGateway(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	other := tr.Gateway(t, "G-0002")
	tr.rewritePI(t, other, func(*set.PIDualSignedTBE, *set.PANData) {})
	tr.gateway, tr.sale.GatewayCert = other, other.ExchangeCert.X509.Raw
	if got := tr.refused(t, authorization()); got != set.AuthPIAuthMismatch {
		t.Errorf("passed on by the gateway that it was for: %v", got)
	}
	// Nor does a certificate for the same key open them.
	tr = taken(t)
	twin := tr.Gateway(t, "G-0002")
	twin.ExchangeKey = tr.gateway.ExchangeKey
	w := must[*set.MessageWrapper](t)(twin.Receive(tr.Now, tr.authorize(t, authorization()), set.AuthReqType))
	if _, err := twin.OpenAuthReq(tr.Now, w); code(err) != set.DecodingFailure {
		t.Errorf("by a gateway with another certificate: %v", err)
	}
}

// W-PU3: the merchant cannot see whether the payment instructions are for its gateway, or anything in them. Only
// the gateway finds out, and the merchant gets no authorization.
func merchantCannotCheckPayment(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	tr.initiate(t)
	elsewhere := *tr.purchase
	elsewhere.GatewayCert = tr.Gateway(t, "G-0002").ExchangeCert.X509.Raw
	if err := tr.take(must[[]byte](t)(elsewhere.Request(tr.card.Endpoint, tr.Now, &tr.card.Account))); err != nil {
		t.Fatalf("the merchant can tell: %v", err)
	}
	r := authorization()
	b := tr.authorize(t, r)
	_, err := tr.acquire(b)
	if code(err) != set.DecodingFailure {
		t.Errorf("the gateway: %v", err)
	}
	refusal := must[[]byte](t)(tr.gateway.ErrorResponse(tr.Now, b, must[*set.MessageWrapper](t)(set.Decode(b)), err))
	a, err := tr.sale.OpenAuthRes(tr.merchant, tr.Now, r, refusal)
	var peer *set.PeerError
	if a != nil || !errors.As(err, &peer) || peer.Signer == nil || peer.Code != set.DecodingFailure {
		t.Errorf("the merchant hears %v, %v", a, err)
	}
}

// W-PU4: that an answer is encrypted for a merchant does not say that it is meant for it: anyone can encrypt. The
// answer repeats the merchant's number, and counts for that one alone.
func resultNamesItsMerchant(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	r := authorization()
	o := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, r)))
	for name, want := range map[set.MerchantID]set.ErrorCode{settest.MerchantID: 0, "M-0002": set.WrapperMsgMismatch} {
		o.Data.AuthReqItem.AuthTags.AuthRRTags.MerTermIDs.MerchantID = name
		res := must[[]byte](t)(tr.gateway.AuthRes(tr.Now, o, set.Authorization{Code: set.AuthApproved, Amount: price, ApprovalCode: "A12345"}))
		if _, err := tr.sale.OpenAuthRes(tr.merchant, tr.Now, r, res); code(err) != want || (err == nil) != (want == 0) {
			t.Errorf("an answer to %s: %v, want %v", name, err, want)
		}
	}
}

// W-PU5: the envelope that the gateway gets need not be the one that the cardholder made. Payment instructions in
// another envelope are the same payment, and are known again.
func envelopeIsNotThePayment(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	first := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, authorization())))
	envelope := tr.sale.PI
	tr.rewritePI(t, tr.gateway, func(*set.PIDualSignedTBE, *set.PANData) {})
	if bytes.Equal(envelope, tr.sale.PI) {
		t.Error("the envelope is the same")
	}
	again := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, authorization())))
	if first.Refusal != nil || again.Refusal != nil || !bytes.Equal(first.HPIData, again.HPIData) {
		t.Error("a payment that comes again in another envelope is not known again")
	}
	other := taken(t)
	if o := must[*set.OpenedAuthReq](t)(other.acquire(other.authorize(t, authorization()))); bytes.Equal(o.HPIData, first.HPIData) {
		t.Error("another payment is taken for the same")
	}
}

// W-PU6: the digest of the order has its amount in it, and the amount that the merchant asks for stands beside it:
// the gateway holds that one against the cardholder's.
func amountIsTheCardholders(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	more, euro, less := price, price, price
	more.Amount++
	euro.Currency = 978
	less.Amount--
	for name, c := range map[string]struct {
		amount set.CurrencyAmount
		want   set.AuthCode
	}{
		"raised": {more, set.AuthAmountError}, "in another currency": {euro, set.AuthAmountError},
		"as signed": {price, set.AuthApproved}, "less": {less, set.AuthApproved},
	} {
		if got := tr.refused(t, set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: c.amount}); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// W-PU7: the merchant sees the order and the payment's digest, the gateway the payment and the order's digest, and
// each is sure of its own half only. The signature holds the halves together: each sees when the other's is
// exchanged.
func eachSeesTheOthersDigest(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	b := tr.authorize(t, authorization())
	known := learnt(t, [][]byte{b}, tr.gateway.ExchangeKey)
	var digest cms.DetachedDigest
	if err := set.Unmarshal(tr.sale.HOIData, &digest); err != nil || !holds(known, digest.Content.Digest) {
		t.Errorf("the gateway does not learn the digest of the order's data: %v", err)
	}
	if holds(known, tr.purchase.ODSalt[:]) || holds(known, tr.purchase.ChallC[:]) {
		t.Error("the gateway learns the order's data")
	}
	// The gateway's half: another order for the same payment.
	tr.rewritePI(t, tr.gateway, func(tbe *set.PIDualSignedTBE, _ *set.PANData) { tbe.Value.DD.Content.Digest[0] ^= 1 })
	if _, err := tr.acquire(tr.authorize(t, authorization())); code(err) != set.SignatureFailure {
		t.Errorf("the gateway, of another order: %v", err)
	}
	// The merchant's half: another payment for the same order.
	other := newTrade(t)
	other.initiate(t)
	w := must[*set.MessageWrapper](t)(set.Decode(other.request(t)))
	w.Message.PReq.PReqDualSigned.OIDualSigned.DD.Content.Digest[0] ^= 1
	if err := other.take(must[[]byte](t)(set.Encode(*w))); code(err) != set.SignatureFailure {
		t.Errorf("the merchant, of another payment: %v", err)
	}
}

// W-PU8: without a PInit pair nothing of the merchant's is in what the cardholder signs. A purchase request taken
// to another order, or to another merchant, is refused by the order's digest and the merchant's number.
func orderOfAnotherSession(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	tr.purchase.TransIDs.LIDM = nil
	offer := &set.Offer{Merchant: tr.merchant.SignCert, Gateway: tr.gateway.ExchangeCert}
	if err := tr.purchase.Start(tr.card.Endpoint, tr.Now, offer, slices.Concat(tr.Chain(pki.MCA), tr.Chain(pki.PCA))); err != nil {
		t.Fatal(err)
	}
	preq := tr.request(t)
	sale := func(od []byte, amount set.CurrencyAmount) *set.Sale {
		return &set.Sale{OD: od, PurchAmt: amount, LIDM: set.NewLocalID(), GatewayCert: tr.gateway.ExchangeCert.X509.Raw}
	}
	tr.sale = sale([]byte("100 x The Elements of Programming"), price)
	if err := tr.take(preq); !errors.Is(err, set.ErrOrder) {
		t.Errorf("for another order: %v", err)
	}
	tr.sale = sale(orderText, usd(1, 0))
	if err := tr.take(preq); !errors.Is(err, set.ErrOrder) {
		t.Errorf("for the same order at another price: %v", err)
	}
	tr.sale = sale(orderText, price)
	tr.merchant = tr.Merchant(t, "M-0002") // who has the same order
	if err := tr.take(preq); err != nil {
		t.Fatal(err)
	}
	if got := tr.refused(t, authorization()); got != set.AuthPIAuthMismatch {
		t.Errorf("by another merchant: %v", got)
	}
}

// W-PU9: the stain of a transaction can be checked by nobody who does not know CardSecret: a cardholder may write
// there what it likes. It is evidence, and no condition.
func stainIsEvidenceOnly(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	tr.signAnew(t, func(tbe *set.PIDualSignedTBE) { tbe.Value.Value.TransStain = set.Digest{1, 2, 3} })
	o := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, authorization())))
	if o.Refusal != nil {
		t.Errorf("refused: %v", *o.Refusal)
	}
	if o.PIHead.TransStain == must[set.Digest](t)(set.TransStain(tr.sale.TransIDs.XID, tr.card.Account.CardSecret)) {
		t.Error("who knows CardSecret takes it for the card's")
	}
}

// W-PU10: what the cardholder hears of the gateway is the merchant's word: a corrupt merchant tells of approvals
// that there were none of, and all that the cardholder has is its signature under that.
func resultIsTheMerchantsWord(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	approved := set.PResPayload{CompletionCode: set.AuthorizationPerformed, Results: &set.Results{
		AuthStatus: &set.AuthStatus{AuthDate: tr.Now, AuthCode: set.AuthApproved, AuthRatio: der.NewReal(1)},
	}}
	lie := must[[]byte](t)(tr.sale.PRes(tr.merchant, tr.Now, approved))
	if _, err := tr.purchase.OpenResponse(tr.card.Endpoint, tr.Now, lie); err != nil {
		t.Errorf("the cardholder can tell: %v", err)
	}
	w := must[*set.MessageWrapper](t)(set.Decode(lie))
	sd := must[*cms.SignedData](t)(cms.ParseSigned(cms.ContentInfo(*w.Message.PRes), set.ContentPResData))
	if err := sd.Verify(0, tr.merchant.SignCert.X509.PublicKey); err != nil {
		t.Errorf("the merchant has not signed it: %v", err)
	}
}

// W-PU11: the gateway knows all of the account, PANSecret too, so that the cardholder's name proves no more than
// that. Only the signature is the cardholder's own, and only a signed purchase has one.
func gatewayCannotSignForTheCardholder(t *testing.T) {
	t.Parallel()
	victim := unsignedOrNot(t, true)
	o := must[*set.OpenedAuthReq](t)(victim.acquire(victim.authorize(t, authorization())))
	account := set.Account{PAN: o.PANData.PAN, CardExpiry: o.PANData.CardExpiry, PANSecret: o.PANData.PANSecret}
	name := must[string](t)(pki.UniqueCardholderID(account.PANSecret[:], account.PAN, account.CardExpiry))
	if name != o.Card.Subject.CommonName {
		t.Error("the gateway cannot compute the cardholder's name")
	}
	corrupt := set.Endpoint{SignKey: newECKey(t), SignCert: o.Card, Chain: victim.Chain(pki.CCA), Verifier: victim.gateway.Verifier, Software: settest.Software}
	again := &trade{World: victim.World, merchant: victim.merchant, gateway: victim.gateway, card: &settest.Card{Endpoint: &corrupt, Account: account},
		sale: &set.Sale{OD: orderText, PurchAmt: price, LIDM: set.NewLocalID()}}
	again.purchase = must[*set.Purchase](t)(set.NewPurchase(&set.Initiation{PurchAmt: &price, Brands: []set.BrandID{settest.Brand},
		LIDM: again.sale.LIDM, Order: orderText}, settest.Brand, "411111", "en"))
	again.initiate(t)
	if err := again.take(again.request(t)); code(err) != set.SignatureFailure {
		t.Errorf("signed by who knows everything but the key: %v", err)
	}
}

// Whatever is wrong with what was encrypted, the sender hears the same: an answer that tells apart a block that
// does not decrypt from one that does is an oracle (SET §9.4).
func decryptionHasOneError(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	honest := tr.sale.PI
	heard := make(map[string]string)
	for name, change := range map[string]func(v *envelope){
		"RSA block, first octet": func(v *envelope) { v.Recipients[0].FullBytes[len(v.Recipients[0].FullBytes)-256] ^= 1 },
		"RSA block, last octet":  func(v *envelope) { v.Recipients[0].FullBytes[len(v.Recipients[0].FullBytes)-1] ^= 1 },
		"contents":               func(v *envelope) { v.Content.Sealed[0] ^= 1 },
		"tag":                    func(v *envelope) { v.MAC[0] ^= 1 },
		"nonce":                  func(v *envelope) { v.Content.Algorithm.Params.Nonce[0] ^= 1 },
		"other contents of the block": func(v *envelope) {
			key := must[cms.ContentInfo](t)(cms.Encrypt(tr.gateway.ExchangeCert.X509, set.ContentPIDualSignedTBE, der.Null{}, cms.WithHashToken, nil))
			v.Recipients = envelopeOf(t, key).Recipients
		},
	} {
		var pi set.PI
		if err := set.Unmarshal(honest, &pi); err != nil {
			t.Fatal(err)
		}
		v := envelopeOf(t, pi.PIDualSigned.EXPIData)
		change(v)
		pi.PIDualSigned.EXPIData.Content = must[[]byte](t)(asn1.Marshal(*v))
		tr.sale.PI = must[[]byte](t)(der.Marshal(pi))
		_, err := tr.acquire(tr.authorize(t, authorization()))
		if code(err) != set.DecodingFailure {
			t.Errorf("%s: %v", name, err)
			continue
		}
		heard[err.Error()] = name
	}
	if len(heard) != 1 {
		t.Errorf("errors by which the faults can be told apart: %v", heard)
	}
}

// Nothing is decided about a message before its signatures are verified: what else is wrong with it is said to
// nobody but its sender (SET §9.4).
func signaturesComeFirst(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	forger := *tr.merchant
	forger.SignKey = newECKey(t)
	r := authorization()
	r.Amount.Amount *= 10
	if _, err := tr.acquire(must[[]byte](t)(forgedAuthReq(tr, &forger, r, tr.agree(t)))); code(err) != set.SignatureFailure {
		t.Errorf("the gateway: %v", err)
	}
	other := newTrade(t)
	other.initiate(t)
	other.card.Endpoint.SignKey = newECKey(t)
	other.purchase.PurchAmt.Amount = 1
	other.purchase.ChallM = ptr(set.NewChallenge())
	if err := other.take(other.request(t)); code(err) != set.SignatureFailure {
		t.Errorf("the merchant: %v", err)
	}
	if other.sale.PI != nil || other.sale.RRPID != (set.RRPID{}) {
		t.Error("the merchant keeps what nobody signed")
	}
}
