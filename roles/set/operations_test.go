package set_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/set/settest"
)

// approve has the gateway approve a request, and gives what the merchant learns of it.
func (tr *trade) approve(t *testing.T, r set.AuthorizationRequest, a set.Authorization) *set.Authorized {
	t.Helper()
	o := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, r)))
	if o.Refusal != nil {
		t.Fatalf("refused: %v", *o.Refusal)
	}
	a.Amount, a.ApprovalCode = r.Amount, "A12345"
	return must[*set.Authorized](t)(tr.sale.OpenAuthRes(tr.merchant, tr.Now, r, tr.sent(must[[]byte](t)(tr.gateway.AuthRes(tr.Now, o, a)))))
}

// refused tells with which code the gateway refuses a request.
func (tr *trade) refused(t *testing.T, r set.AuthorizationRequest) set.AuthCode {
	t.Helper()
	o := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, r)))
	if o.Refusal == nil {
		return set.AuthApproved
	}
	return *o.Refusal
}

// received opens what a party receives as a message of the type.
func received[T any](t *testing.T, e *set.Endpoint, now time.Time, b []byte, typ set.MessageType, open func(time.Time, *set.MessageWrapper) (T, error)) T {
	t.Helper()
	return must[T](t)(open(now, must[*set.MessageWrapper](t)(e.Receive(now, b, typ))))
}

func TestSale(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	r := authorization()
	r.CaptureNow, r.SaleDetail = true, &set.SaleDetail{MerOrderNum: "4711", OKToPrintPhoneInd: true}
	o := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, r)))
	if o.Refusal != nil || !o.Data.CaptureNow || o.Data.SaleDetail.MerOrderNum != "4711" {
		t.Fatalf("opened as %+v", o.Data)
	}
	done := set.Authorization{Code: set.AuthApproved, Amount: price, ApprovalCode: "A12345", Capture: &set.CapResPayload{CapAmt: price}}
	a := must[*set.Authorized](t)(tr.sale.OpenAuthRes(tr.merchant, tr.Now, r, must[[]byte](t)(tr.gateway.AuthRes(tr.Now, o, done))))
	if a.Capture == nil || a.Capture.CapCode != set.CapSuccess || a.CapToken != nil {
		t.Errorf("captured %+v, with a token: %t", a.Capture, a.CapToken != nil)
	}
	// Authorized, but not captured: the merchant captures later.
	done.Capture = &set.CapResPayload{CapCode: set.CapBatchClosed, CapAmt: usd(0, 0)}
	a = must[*set.Authorized](t)(tr.sale.OpenAuthRes(tr.merchant, tr.Now, r, must[[]byte](t)(tr.gateway.AuthRes(tr.Now, o, done))))
	if a.CapToken == nil {
		t.Error("no token for a capture that is still to be made")
	}
	done.Capture = nil
	if _, err := tr.gateway.AuthRes(tr.Now, o, done); err == nil {
		t.Error("a sale is answered without the result of its capture")
	}
	plain := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, authorization())))
	done.Capture = &set.CapResPayload{CapAmt: price}
	if _, err := tr.gateway.AuthRes(tr.Now, plain, done); err == nil {
		t.Error("an authorization is answered with the result of a capture")
	}
}

// Three shipments: the token of each authorization is needed for the next, and no more is authorized than
// the cardholder agreed to.
func TestSplitShipment(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	r := authorization()
	r.Amount, r.Subsequent = usd(2000, -2), true
	first := tr.approve(t, r, set.Authorization{RetNum: ptr(set.Natural(77)), PaySysID: "NET-1", TokenOpaque: []byte("rrn 1")})
	if first.AuthToken == nil || *first.AuthRetNum != 77 || first.TransIDs.PaySysID != "NET-1" {
		t.Fatalf("first authorization %+v", first)
	}
	r = set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: usd(2251, -2), Subsequent: true, AuthToken: first.AuthToken, AuthRetNum: first.AuthRetNum}
	if got := tr.refused(t, r); got != set.AuthAmountError {
		t.Errorf("more than the rest: %v", got)
	}
	r.Amount = usd(12, 0)
	o := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, r)))
	if o.Token == nil || string(o.Token.AuthTokenOpaque) != "rrn 1" || *o.Token.RecurringCount != 1 || string(o.PANData.PAN) != testPAN {
		t.Fatalf("token %+v", o.Token)
	}
	second := tr.approve(t, r, set.Authorization{})
	r = set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: usd(1050, -2), AuthToken: second.AuthToken}
	o = must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, r)))
	if *o.Token.RecurringCount != 2 || !o.Token.TotalAuthAmount.Equal(usd(3200, -2)) {
		t.Errorf("after two authorizations: %v of %v", *o.Token.RecurringCount, o.Token.TotalAuthAmount)
	}
	if !o.Continues(2, usd(32, 0)) || o.Continues(1, usd(32, 0)) || o.Continues(3, usd(32, 0)) || o.Continues(2, usd(33, 0)) {
		t.Error("the token does not say where the purchase stands")
	}
	if last := tr.approve(t, r, set.Authorization{}); last.AuthToken != nil {
		t.Error("a token after the last shipment")
	}
	// A token and payment instructions are each recognized when they come again.
	again := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, r)))
	if !bytes.Equal(o.HPIData, again.HPIData) {
		t.Error("a token that comes again is not recognized")
	}
	tr.checkSecrecy(t)
}

// repeated is a trade whose parties agree on repeated payment.
func repeated(t *testing.T, terms *set.InstallRecurData) *trade {
	t.Helper()
	tr := newTrade(t)
	tr.sale.InstallRecurData, tr.purchase.InstallRecurData = terms, terms
	tr.initiate(t)
	if err := tr.take(tr.request(t)); err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestInstalments(t *testing.T) {
	t.Parallel()
	tr := repeated(t, set.Instalments(3))
	r := authorization()
	r.Amount = usd(1000, -2)
	for n := range 3 {
		a := tr.approve(t, r, set.Authorization{})
		if (a.AuthToken != nil) != (n < 2) {
			t.Fatalf("instalment %d: token given: %t", n+1, a.AuthToken != nil)
		}
		r = set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: usd(1000, -2), AuthToken: a.AuthToken}
	}
}

func TestRecurringPayments(t *testing.T) {
	t.Parallel()
	tr := repeated(t, set.RecurringPayments(28, time.Now().AddDate(0, 2, 0)))
	r := authorization()
	day := 24 * time.Hour
	for n := range 3 {
		a := tr.approve(t, r, set.Authorization{})
		r = set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: price, AuthToken: a.AuthToken}
		start := tr.Now
		if n == 2 {
			break
		}
		tr.Now = start.Add(28*day - time.Second)
		if got := tr.refused(t, r); got != set.AuthRecurringTooSoon {
			t.Errorf("payment %d, a second too soon: %v", n+2, got)
		}
		tr.Now = start.Add(28 * day)
	}
	tr.Now = tr.Now.Add(28 * day)
	if got := tr.refused(t, r); got != set.AuthRecurringExpired {
		t.Errorf("after the last day: %v", got)
	}
}

func TestUnsignedPurchase(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	tr.gateway = tr.OpenGateway(t, "G-0007")
	tr.card.Endpoint = tr.Endpoint(t) // no certificate
	tr.initiate(t)
	if err := tr.take(tr.request(t)); err != nil {
		t.Fatal(err)
	}
	o := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, authorization())))
	if o.Refusal != nil || o.Card != nil || string(o.PANData.PAN) != testPAN || o.PANData.PANSecret != (set.Secret{}) || o.HPIData == nil {
		t.Fatalf("opened with refusal %v, card %v", o.Refusal, o.Card)
	}
	if stain := must[set.Digest](t)(set.TransStain(tr.sale.TransIDs.XID, set.Secret{})); o.PIHead.TransStain != stain {
		t.Error("a secret where there is none")
	}
	// Anyone who knows the transaction may ask what became of it.
	q, req, err := tr.purchase.InqReq(tr.card.Endpoint, tr.Now)
	if err != nil {
		t.Fatal(err)
	}
	oq := received(t, tr.merchant, tr.Now, req, set.InqReqType, tr.merchant.OpenInqReq)
	res := must[[]byte](t)(tr.sale.InqRes(tr.merchant, tr.Now, oq, set.PResPayload{CompletionCode: set.OrderReceived}))
	must[*set.PResData](t)(tr.purchase.OpenInqRes(tr.card.Endpoint, tr.Now, q, res))
	tr.checkSecrecy(t)

	// Where cardholders must have certificates, none of the three goes on.
	strict := newTrade(t)
	unsigned := strict.Endpoint(t)
	strict.initiate(t)
	if _, err := strict.purchase.Request(unsigned, strict.Now, &strict.card.Account); err != set.ErrCardCert {
		t.Errorf("the cardholder: %v, want ErrCardCert", err)
	}
	relaxed := strict.OpenGateway(t, "G-0008")
	lie := *strict.purchase
	lie.GatewayCert = relaxed.ExchangeCert.X509.Raw
	preq := must[[]byte](t)(lie.Request(unsigned, strict.Now, &strict.card.Account))
	if err := strict.take(preq); code(err) != set.SignatureRequired {
		t.Errorf("the merchant: %v, want signatureRequired", err)
	}
	tr.gateway = strict.gateway
	if _, err := tr.acquire(tr.authorize(t, authorization())); err == nil {
		t.Error("the gateway opened what was encrypted for another")
	}
	// Who signed the purchase must sign the inquiry.
	tr = taken(t)
	_, req, err = tr.purchase.InqReq(tr.Endpoint(t), tr.Now)
	if err != nil {
		t.Fatal(err)
	}
	oq = received(t, tr.merchant, tr.Now, req, set.InqReqType, tr.merchant.OpenInqReq)
	if _, err := tr.sale.InqRes(tr.merchant, tr.Now, oq, set.PResPayload{}); code(err) != set.SignatureRequired {
		t.Errorf("unsigned inquiry about a signed purchase: %v", err)
	}
}

// What nobody signed is held together by digests: no part of it can be exchanged.
func TestUnsignedTampered(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	tr.gateway = tr.OpenGateway(t, "G-0007")
	tr.card.Endpoint = tr.Endpoint(t)
	tr.initiate(t)
	if err := tr.take(tr.request(t)); err != nil {
		t.Fatal(err)
	}
	var pi set.PI
	if err := set.Unmarshal(tr.sale.PI, &pi); err != nil {
		t.Fatal(err)
	}
	gateway := cms.Recipient{Key: tr.gateway.ExchangeKey, Certificate: tr.gateway.ExchangeCert.X509}
	plaintext, packed, err := gateway.Decrypt(cms.ContentInfo(*pi.PIUnsigned), set.ContentPIUnsignedTBE, cms.WithHashToken)
	if err != nil {
		t.Fatal(err)
	}
	var tbe set.PIUnsignedTBE
	if err := set.Unmarshal(plaintext, &tbe); err != nil {
		t.Fatal(err)
	}
	other := set.PANToken{PAN: set.PAN("4000000000000002"), CardExpiry: tr.card.Account.CardExpiry, ExNonce: set.NewNonce()}
	for name, account := range map[string][]byte{"the account as it was": packed, "another account": other.Pack()} {
		sealed := set.PIUnsigned(must[cms.ContentInfo](t)(cms.Encrypt(tr.gateway.ExchangeCert.X509, set.ContentPIUnsignedTBE, tbe, cms.WithHashToken, account)))
		tr.sale.PI = must[[]byte](t)(der.Marshal(set.PI{PIUnsigned: &sealed}))
		if _, err := tr.acquire(tr.authorize(t, authorization())); (code(err) == set.SignatureFailure) != (name == "another account") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Without a PInit pair the cardholder brings the certificates and chooses the identifiers.
func TestPurchaseWithoutPInit(t *testing.T) {
	t.Parallel()
	for _, lidM := range []bool{true, false} {
		tr := newTrade(t)
		if !lidM {
			tr.purchase.TransIDs.LIDM = nil
		}
		offer := &set.Offer{Merchant: tr.merchant.SignCert, Gateway: tr.gateway.ExchangeCert}
		above := slices.Concat(tr.Chain(pki.MCA), tr.Chain(pki.PCA))
		if err := tr.purchase.Start(tr.card.Endpoint, tr.Now, offer, above); err != nil {
			t.Fatal(err)
		}
		tr.sale.GatewayCert = tr.gateway.ExchangeCert.X509.Raw
		preq := tr.request(t)
		if err := tr.take(preq); err != nil {
			t.Fatal(err)
		}
		if tr.sale.TransIDs.XID != tr.purchase.TransIDs.XID || tr.sale.BrandID != settest.Brand {
			t.Error("the sale has other identifiers than the purchase")
		}
		if o := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, authorization()))); o.Refusal != nil {
			t.Errorf("refused: %v", *o.Refusal)
		}
		payload := set.PResPayload{CompletionCode: set.OrderReceived}
		must[*set.PResData](t)(tr.purchase.OpenResponse(tr.card.Endpoint, tr.Now, must[[]byte](t)(tr.sale.PRes(tr.merchant, tr.Now, payload))))
		tr.inquire(t, payload)
		// Once it has its identifiers, the sale takes no others.
		tr.purchase.TransIDs.XID = set.NewXID()
		if err := tr.take(tr.request(t)); code(err) != set.UnknownXID {
			t.Errorf("another XID for the sale: %v", err)
		}
	}
	tr := newTrade(t)
	rival := tr.Rival(t, "Rival")
	honest := set.Offer{Merchant: tr.merchant.SignCert, Gateway: tr.gateway.ExchangeCert}
	above := slices.Concat(tr.Chain(pki.MCA), tr.Chain(pki.PCA), rival.Chain(pki.MCA), rival.Chain(pki.PCA))
	for name, o := range map[string]set.Offer{
		"key-exchange certificate of the merchant": {Merchant: tr.merchant.ExchangeCert, Gateway: honest.Gateway},
		"a merchant as gateway":                    {Merchant: honest.Merchant, Gateway: tr.merchant.ExchangeCert},
		"merchant of another brand":                {Merchant: rival.Merchant(t, "M-0001").SignCert, Gateway: honest.Gateway},
		"gateway of another brand":                 {Merchant: honest.Merchant, Gateway: rival.Gateway(t, "G-0001").ExchangeCert},
	} {
		if err := tr.purchase.Start(tr.card.Endpoint, tr.Now, &o, above); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	// A merchant's challenge that no PInitRes gave, and an order of another number.
	tr.sale.GatewayCert = tr.gateway.ExchangeCert.X509.Raw
	if err := tr.purchase.Start(tr.card.Endpoint, tr.Now, &honest, above); err != nil {
		t.Fatal(err)
	}
	tr.purchase.ChallM = ptr(set.NewChallenge())
	if err := tr.take(tr.request(t)); code(err) != set.ChallengeMismatch {
		t.Errorf("a challenge out of nowhere: %v", err)
	}
	tr.purchase.ChallM, tr.purchase.TransIDs.LIDM = nil, set.NewLocalID()
	if err := tr.take(tr.request(t)); code(err) != set.UnknownLID {
		t.Errorf("another order's number: %v", err)
	}
}

// The gateway's message reaches the cardholder past a merchant who cannot read it.
func TestCardMessage(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	text := set.AcqCardCodeMsg{AcqCardCode: set.AcqCardCallCustomerService, AcqCardMsgData: set.AcqCardMsgData{AcqCardText: "Please call us", AcqCardPhone: "+41 31 000 00 00"}}
	a := tr.approve(t, authorization(), set.Authorization{CardMessage: &text})
	var m set.AcqCardMsg
	if err := set.Unmarshal(a.AcqCardMsg, &m); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(a.AcqCardMsg, []byte("call us")) {
		t.Error("the merchant reads the message")
	}
	payload := set.PResPayload{CompletionCode: set.AuthorizationPerformed, Results: &set.Results{AcqCardMsg: &m}}
	res := must[*set.PResData](t)(tr.purchase.OpenResponse(tr.card.Endpoint, tr.Now, must[[]byte](t)(tr.sale.PRes(tr.merchant, tr.Now, payload))))
	got := must[*set.AcqCardCodeMsg](t)(tr.purchase.OpenCardMessage(tr.card.Endpoint, tr.Now, &tr.card.Account, res.PResPayloadSeq[0].Results.AcqCardMsg))
	if diff := cmp.Diff(&text, got); diff != "" {
		t.Errorf("-sent +read:\n%s", diff)
	}
	// Only the purchase's own gateway is listened to, and only in this purchase.
	other := taken(t)
	other.purchase.TransIDs.XID = tr.purchase.TransIDs.XID
	if _, err := other.purchase.OpenCardMessage(tr.card.Endpoint, tr.Now, &other.card.Account, &m); code(err) != set.DecodingFailure {
		t.Errorf("opened with another card's secret: %v", err)
	}
	o := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, authorization())))
	r := authorization()
	r.RRPID = o.Data.AuthReqItem.AuthTags.AuthRRTags.RRPID
	forged := must[[]byte](t)(tr.Gateway(t, "G-0002").AuthRes(tr.Now, o, set.Authorization{Code: set.AuthDeclined, Amount: usd(0, 0), CardMessage: &text}))
	baggage := must[*set.MessageWrapper](t)(set.Decode(forged)).Message.AuthRes.EncB.Baggage
	if _, err := tr.purchase.OpenCardMessage(tr.card.Endpoint, tr.Now, &tr.card.Account, baggage.AcqCardMsg); code(err) != set.SignatureFailure {
		t.Errorf("message of another gateway: %v", err)
	}
	// Who gave no key is sent no message.
	o.PIHead.AcqBackKeyData = nil
	if o.CanMessage() {
		t.Error("a message without a key")
	}
	if _, err := tr.gateway.AuthRes(tr.Now, o, set.Authorization{Code: set.AuthDeclined, Amount: usd(0, 0), CardMessage: &text}); err == nil {
		t.Error("a message without a key was made")
	}
}

// The card number goes to a merchant whose certificate allows it, and to nobody else.
func TestCardNumberForMerchant(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	plain := tr.merchant
	tr.merchant = tr.TrustedMerchant(t, settest.MerchantID)
	tr.initiate(t)
	if err := tr.take(tr.request(t)); err != nil {
		t.Fatal(err)
	}
	r := authorization()
	o := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, r)))
	res := must[[]byte](t)(tr.gateway.AuthRes(tr.Now, o, set.Authorization{Code: set.AuthApproved, Amount: price, ApprovalCode: "A12345"}))
	a := must[*set.Authorized](t)(tr.sale.OpenAuthRes(tr.merchant, tr.Now, r, res))
	if a.PANToken == nil || string(a.PANToken.PAN) != testPAN {
		t.Fatalf("the merchant learns %v", a.PANToken)
	}
	forger := *tr.gateway
	forger.SignKey = newECKey(t)
	forged := must[[]byte](t)(forger.AuthRes(tr.Now, o, set.Authorization{Code: set.AuthApproved, Amount: price, ApprovalCode: "A12345"}))
	if _, err := tr.sale.OpenAuthRes(tr.merchant, tr.Now, r, forged); code(err) != set.SignatureFailure {
		t.Errorf("a card number that a forger sends: %v", err)
	}
	// A declined request tells no card number.
	declined := must[[]byte](t)(tr.gateway.AuthRes(tr.Now, o, set.Authorization{Code: set.AuthDeclined, Amount: usd(0, 0)}))
	if a := must[*set.Authorized](t)(tr.sale.OpenAuthRes(tr.merchant, tr.Now, r, declined)); a.PANToken != nil {
		t.Error("a declined authorization tells the card number")
	}
	// The token that only the gateway reads holds it too.
	var token set.CapToken
	if err := set.Unmarshal(a.CapToken, &token); err != nil || token.EncX == nil {
		t.Errorf("token without account: %v", err)
	}
	capture := tr.capture(r.RRPID, price, a.CapToken)
	capture.Account = a.PANToken
	req := must[[]byte](t)(tr.merchant.CapReq(tr.Now, capture))
	oc := received(t, tr.gateway, tr.Now, req, set.CapReqType, tr.gateway.OpenCapReq)
	if oc.Account == nil || string(oc.Account.PAN) != testPAN || oc.Items[0].Code != set.CapSuccess {
		t.Errorf("capture with account: %v, %v", oc.Account, oc.Items[0].Code)
	}
	capture.Items = append(capture.Items, capture.Items[0])
	if _, err := tr.merchant.CapReq(tr.Now, capture); err == nil {
		t.Error("an account with two items")
	}
	// A merchant who may not have one neither reads nor sends one.
	twin := *plain
	twin.ExchangeKey, twin.ExchangeCert = tr.merchant.ExchangeKey, tr.merchant.ExchangeCert
	if _, err := tr.sale.OpenAuthRes(&twin, tr.Now, r, res); code(err) != set.MessageNotSupported {
		t.Errorf("AuthRes with a card number: %v", err)
	}
	capture.Items = capture.Items[:1]
	req = must[[]byte](t)(plain.CapReq(tr.Now, capture))
	w := must[*set.MessageWrapper](t)(tr.gateway.Receive(tr.Now, req, set.CapReqType))
	if _, err := tr.gateway.OpenCapReq(tr.Now, w); code(err) != set.MessageNotSupported {
		t.Errorf("a card number from a merchant who may not have it: %v", err)
	}
	if printed := must[[]byte](t)(json.Marshal(a)); bytes.Contains(printed, []byte(testPAN)) {
		t.Error("the card number is stored")
	}
	a.Clear()
	if a.PANToken.PAN != nil {
		t.Error("not cleared")
	}
}

// Several items of several purchases go in one request; one that is refused keeps none of the others back.
func TestCapturesOfSeveralPurchases(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	other := &trade{World: tr.World, card: tr.card, merchant: tr.merchant, gateway: tr.gateway,
		sale: &set.Sale{OD: orderText, PurchAmt: price, LIDM: set.NewLocalID()}}
	other.purchase = must[*set.Purchase](t)(set.NewPurchase(&set.Initiation{PurchAmt: &price, Brands: []set.BrandID{settest.Brand},
		LIDM: other.sale.LIDM, Order: orderText}, settest.Brand, "411111", "en"))
	other.initiate(t)
	if err := other.take(other.request(t)); err != nil {
		t.Fatal(err)
	}
	req := &set.CaptureRequest{RRPID: set.NewRRPID(), GatewayCert: tr.sale.GatewayCert}
	for _, x := range []*trade{tr, other, tr} {
		r := authorization()
		a := x.approve(t, r, set.Authorization{Opaque: []byte{byte(len(req.Items))}})
		req.Items = append(req.Items, x.capture(r.RRPID, price, a.CapToken).Items...)
	}
	req.Items[1].CapToken = req.Items[0].CapToken
	stored := must[[]byte](t)(json.Marshal(req))
	req = new(set.CaptureRequest)
	if err := json.Unmarshal(stored, req); err != nil {
		t.Fatal(err)
	}
	o := received(t, tr.gateway, tr.Now, must[[]byte](t)(tr.merchant.CapReq(tr.Now, req)), set.CapReqType, tr.gateway.OpenCapReq)
	var codes []set.CapCode
	var payloads []set.CapResPayload
	for _, item := range o.Items {
		codes = append(codes, item.Code)
		payloads = append(payloads, set.CapResPayload{CapCode: item.Code, CapAmt: price, BatchID: ptr(set.Natural(3))})
	}
	if diff := cmp.Diff([]set.CapCode{set.CapSuccess, set.CapInvalidCapToken, set.CapSuccess}, codes); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	status := set.BatchStatus{OpenDateTime: tr.Now, BatchDetails: must2(t, (&set.Batch{}).Details, 840)}
	res := must[*set.CapResData](t)(tr.merchant.OpenCapRes(tr.Now, req, must[[]byte](t)(tr.gateway.CapRes(tr.Now, o, payloads, status))))
	if len(res.CapResItemSeq) != 3 || len(res.BatchStatusSeq) != 1 {
		t.Errorf("%d results, %d batches", len(res.CapResItemSeq), len(res.BatchStatusSeq))
	}
	if _, err := tr.gateway.CapRes(tr.Now, o, payloads[:2]); err == nil {
		t.Error("two results for three items")
	}
}

func must2[A, B any](t *testing.T, f func(A) (B, bool), a A) B {
	t.Helper()
	b, ok := f(a)
	if !ok {
		t.Fatal("not ok")
	}
	return b
}

// reversal asks to take back an authorization.
func (tr *trade) reversal(of set.AuthorizationRequest, token []byte, amount set.CurrencyAmount) set.ReversalRequest {
	return set.ReversalRequest{RRPID: set.NewRRPID(), NewAmount: amount, Of: of, CapToken: token}
}

func (tr *trade) reverse(t *testing.T, r set.ReversalRequest) *set.OpenedAuthRevReq {
	t.Helper()
	b := tr.sent(must[[]byte](t)(tr.sale.AuthRevReq(tr.merchant, tr.Now, r)))
	return received(t, tr.gateway, tr.Now, b, set.AuthRevReqType, tr.gateway.OpenAuthRevReq)
}

func TestAuthorizationReversal(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	r := authorization()
	r.Subsequent = true
	r.Amount = usd(3000, -2)
	a := tr.approve(t, r, set.Authorization{RetNum: ptr(set.Natural(7))})
	for name, c := range map[string]struct {
		stays     set.CurrencyAmount
		capToken  []byte
		newTokens bool
	}{
		"in part":                         {usd(1000, -2), a.CapToken, true},
		"as a whole":                      {usd(0, -2), a.CapToken, false},
		"as a whole, the answer was lost": {usd(0, -2), nil, false},
	} {
		rev := tr.reversal(r, c.capToken, c.stays)
		rev.AuthRetNum = a.AuthRetNum
		o := tr.reverse(t, rev)
		if o.Code != set.AuthRevApproved || o.RRPID != r.RRPID || o.TransIDs().XID != tr.sale.TransIDs.XID || string(o.Of.PANData.PAN) != testPAN {
			t.Fatalf("%s: %v", name, o.Code)
		}
		if _, err := tr.gateway.AuthRevRes(tr.Now, o, set.Reversal{Amount: c.stays}); (err != nil) != c.newTokens {
			t.Errorf("%s: without the time of the authorization: %v", name, err)
		}
		res := tr.sent(must[[]byte](t)(tr.gateway.AuthRevRes(tr.Now, o, set.Reversal{Amount: c.stays, Last: tr.Now, Opaque: []byte("new")})))
		got := must[*set.Reversed](t)(tr.sale.OpenAuthRevRes(tr.merchant, tr.Now, rev, res))
		if got.Code != set.AuthRevApproved || (got.CapToken != nil) != c.newTokens || (got.AuthToken != nil) != c.newTokens {
			t.Errorf("%s: %+v", name, got)
		}
		if !c.newTokens {
			continue
		}
		// The new tokens are for what stays.
		oc := received(t, tr.gateway, tr.Now, must[[]byte](t)(tr.merchant.CapReq(tr.Now, tr.capture(r.RRPID, c.stays, got.CapToken))), set.CapReqType, tr.gateway.OpenCapReq)
		if oc.Items[0].Code != set.CapSuccess || !oc.Items[0].Token.AuthAmt.Equal(c.stays) || string(oc.Items[0].Token.TokenOpaque) != "new" {
			t.Errorf("%s: capture of what stays: %+v", name, oc.Items[0])
		}
		next := set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: usd(3250, -2), AuthToken: got.AuthToken}
		if code := tr.refused(t, next); code != set.AuthApproved {
			t.Errorf("%s: the rest of the purchase: %v", name, code)
		}
	}
	// Of an authorization that was made with a token, the token is given anew though nothing stays.
	second := set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: usd(1250, -2), AuthToken: a.AuthToken}
	b := tr.approve(t, second, set.Authorization{})
	rev := tr.reversal(second, b.CapToken, usd(0, -2))
	o := tr.reverse(t, rev)
	got := must[*set.Reversed](t)(tr.sale.OpenAuthRevRes(tr.merchant, tr.Now, rev, must[[]byte](t)(tr.gateway.AuthRevRes(tr.Now, o, set.Reversal{Amount: usd(0, -2)}))))
	if got.AuthToken == nil || got.CapToken != nil {
		t.Fatalf("%+v", got)
	}
	second.RRPID, second.AuthToken = set.NewRRPID(), got.AuthToken
	if oa := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, second))); oa.Refusal != nil || *oa.Token.RecurringCount != 1 {
		t.Errorf("with the token given anew: %v", oa.Refusal)
	}
	tr.checkSecrecy(t)
}

// adjust asks for one capture reversal, credit or credit reversal.
func (tr *trade) adjust(a set.Adjustment, authRRPID set.RRPID, token []byte) *set.AdjustmentRequest {
	return &set.AdjustmentRequest{Adjustment: a, RRPID: set.NewRRPID(), GatewayCert: tr.sale.GatewayCert, Items: []set.Adjusted{{
		TransIDs: tr.sale.TransIDs, AuthRRPID: authRRPID, CapToken: token, Date: tr.Now,
		Payload: set.CapPayload{CapDate: tr.Now, CapReqAmt: price},
	}}}
}

var adjustmentTypes = map[set.Adjustment]set.MessageType{
	set.CaptureReversal: set.CapRevReqType, set.Credit: set.CredReqType, set.CreditReversal: set.CredRevReqType,
}

func (tr *trade) adjusted(t *testing.T, r *set.AdjustmentRequest) *set.OpenedAdjustment {
	t.Helper()
	b := must[[]byte](t)(tr.merchant.AdjustmentReq(tr.Now, r))
	return received(t, tr.gateway, tr.Now, b, adjustmentTypes[r.Adjustment], tr.gateway.OpenAdjustmentReq)
}

func TestAdjustments(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	tr.merchant = tr.TrustedMerchant(t, settest.MerchantID)
	tr.initiate(t)
	if err := tr.take(tr.request(t)); err != nil {
		t.Fatal(err)
	}
	auth := authorization()
	a := tr.approve(t, auth, set.Authorization{})
	for _, adjustment := range []set.Adjustment{set.CaptureReversal, set.Credit, set.CreditReversal} {
		r := tr.adjust(adjustment, auth.RRPID, a.CapToken)
		want := price
		if adjustment != set.CaptureReversal {
			want = usd(10, 0)
			r.Items[0].Amount, r.Items[0].NewBatchID = &want, ptr(set.Natural(9))
		}
		r.Items = append(r.Items, r.Items[0])
		r.Items[1].CapToken = nil
		o := tr.adjusted(t, r)
		if o.Adjustment != adjustment || o.Items[0].Code != set.CapRevOrCredSuccess || !o.Items[0].Amount.Equal(want) ||
			o.Items[1].Code != set.CapRevOrCredMissingCapToken {
			t.Fatalf("%v: %+v", adjustment, o.Items)
		}
		payloads := []set.CapRevOrCredResPayload{
			{CapRevOrCredCode: o.Items[0].Code, CapRevOrCredActualAmt: want},
			{CapRevOrCredCode: o.Items[1].Code, CapRevOrCredActualAmt: usd(0, 0)},
		}
		res := must[[]byte](t)(tr.gateway.AdjustmentRes(tr.Now, o, payloads))
		got := must[*set.CapRevOrCredResData](t)(tr.merchant.OpenAdjustmentRes(tr.Now, r, res))
		if got.CapRevOrCredResItemSeq[0].CapRevOrCredResPayload.CapRevOrCredCode != set.CapRevOrCredSuccess {
			t.Errorf("%v: %+v", adjustment, got)
		}
		if _, err := tr.gateway.AdjustmentRes(tr.Now, o, payloads[:1]); err == nil {
			t.Errorf("%v: one result for two items", adjustment)
		}
		// With an account, to credit another one.
		r = tr.adjust(adjustment, auth.RRPID, a.CapToken)
		r.Account = &set.PANToken{PAN: set.PAN("4000000000000002"), CardExpiry: tr.card.Account.CardExpiry, ExNonce: set.NewNonce()}
		r.Items[0].NewAccount = adjustment != set.CaptureReversal
		o = tr.adjusted(t, r)
		if o.Items[0].Code != set.CapRevOrCredSuccess || string(o.Account.PAN) != "4000000000000002" {
			t.Errorf("%v with an account: %v", adjustment, o.Items[0].Code)
		}
	}
	// The three are no substitutes for one another, though they look the same.
	credit := must[*set.MessageWrapper](t)(set.Decode(must[[]byte](t)(tr.merchant.AdjustmentReq(tr.Now, tr.adjust(set.Credit, auth.RRPID, a.CapToken)))))
	credit.Message.CapRevReq, credit.Message.CredReq = credit.Message.CredReq, nil
	if _, err := tr.gateway.OpenAdjustmentReq(tr.Now, credit); code(err) != set.DecodingFailure {
		t.Errorf("a credit as capture reversal: %v", err)
	}
}

func TestGatewayCertificates(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	r := &set.GatewayCertRequest{RRPID: set.NewRRPID(), Brands: []set.BrandAndBIN{{BrandID: settest.Brand}, {BrandID: "Other", BIN: "400000"}}}
	items := []set.GatewayCert{{Certificate: tr.gateway.ExchangeCert}, {Code: set.PCertBrandNotSupported}}
	ask := func() *set.OpenedPCertReq {
		t.Helper()
		return received(t, tr.gateway, tr.Now, must[[]byte](t)(tr.merchant.PCertReq(tr.Now, r)), set.PCertReqType, tr.gateway.OpenPCertReq)
	}
	res := must[[]byte](t)(tr.gateway.PCertRes(tr.Now, ask(), items))
	got := must[*set.GatewayCerts](t)(tr.merchant.OpenPCertRes(tr.Now, r, res))
	if got.Items[0].Certificate.Thumbprint() != tr.gateway.ExchangeCert.Thumbprint() || got.Items[1].Code != set.PCertBrandNotSupported || got.Items[1].Certificate != nil {
		t.Errorf("got %+v", got.Items)
	}
	// What the merchant has is not sent again, and found.
	held := slices.Concat(tr.gateway.Chain, []*pki.Certificate{tr.gateway.ExchangeCert, tr.gateway.SignCert})
	thumbs := pki.NewThumbs(held, nil, nil)
	r.Thumbs = &thumbs
	short := must[[]byte](t)(tr.gateway.PCertRes(tr.Now, ask(), items))
	if len(short) > len(res)/2 {
		t.Errorf("%d octets, and %d where nothing was held", len(short), len(res))
	}
	must[*set.GatewayCerts](t)(tr.merchant.OpenPCertRes(tr.Now, r, short, held...))
	if _, err := tr.merchant.OpenPCertRes(tr.Now, r, short); code(err) != set.MissingCertificate {
		t.Errorf("a certificate that is neither sent nor held: %v", err)
	}
}

// A merchant learns from a gateway which certificates are revoked, though it be the gateway's own; and it
// learns nothing that the brand has not signed.
func TestGatewayRevoked(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	r := &set.GatewayCertRequest{RRPID: set.NewRRPID(), Brands: []set.BrandAndBIN{{BrandID: settest.Brand}}}
	o := received(t, tr.gateway, tr.Now, must[[]byte](t)(tr.merchant.PCertReq(tr.Now, r)), set.PCertReqType, tr.gateway.OpenPCertReq)
	stolen := tr.Gateway(t, "G-0002")
	answer := func(lists *settest.World, gateway *set.Endpoint, revoked ...*pki.Certificate) []byte {
		bci, crl := lists.RevocationLists(t, revoked...)
		informed := *gateway
		var err error
		verifier := must[*pki.Verifier](t)(pki.NewVerifier([]*pki.Certificate{lists.Root}, pki.Options{}))
		if informed.Verifier, err = verifier.Update(bci, []*pki.CRL{crl}, lists.Chain(pki.PCA), tr.Now); err != nil {
			t.Fatal(err)
		}
		return must[[]byte](t)(informed.PCertRes(tr.Now, o, []set.GatewayCert{{Certificate: gateway.ExchangeCert}}))
	}
	var learnt *pki.Verifier
	tr.merchant.Learnt = func(v *pki.Verifier) { learnt = v }
	must[*set.GatewayCerts](t)(tr.merchant.OpenPCertRes(tr.Now, r, answer(tr.World, tr.gateway, stolen.SignCert)))
	if _, err := learnt.Verify(stolen.SignCert, stolen.Chain, tr.Now); err == nil {
		t.Error("the revoked certificate is valid to who has learnt of it")
	}
	if _, err := tr.merchant.Verifier.Verify(stolen.SignCert, stolen.Chain, tr.Now); err != nil {
		t.Errorf("the endpoint's own verifier has changed: %v", err)
	}
	for what, revoked := range map[string]*pki.Certificate{"that signs": tr.gateway.SignCert, "that it hands out": tr.gateway.ExchangeCert} {
		if _, err := tr.merchant.OpenPCertRes(tr.Now, r, answer(tr.World, tr.gateway, revoked)); code(err) != set.RevokedCertificate {
			t.Errorf("the certificate %s is revoked: %v", what, err)
		}
	}
	if _, err := tr.merchant.OpenPCertRes(tr.Now, r, answer(settest.NewWorld(t), tr.gateway)); code(err) != set.InvalidCertificate {
		t.Errorf("lists of another hierarchy: %v", err)
	}
	// What the merchant has is not sent again.
	bci, crl := tr.RevocationLists(t)
	thumbs := pki.NewThumbs(nil, []*pki.CRL{crl}, []*pki.BrandCRLIdentifier{bci})
	o.Data.MThumbs = &thumbs
	informed := *tr.gateway
	informed.Verifier = must[*pki.Verifier](t)(tr.gateway.Verifier.Update(bci, []*pki.CRL{crl}, tr.Chain(pki.PCA), tr.Now))
	res := must[[]byte](t)(informed.PCertRes(tr.Now, o, []set.GatewayCert{{Certificate: tr.gateway.ExchangeCert}}))
	if bytes.Contains(res, bci.Raw) || bytes.Contains(res, crl.X509.Raw) {
		t.Error("lists that the merchant has are sent again")
	}
}

// Revocation lists come with the answers to whoever has not shown that it knows them, and the certificates
// of the answer itself are held against them.
func TestListsTravel(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	stolen := tr.Gateway(t, "G-0002")
	bci, crl := tr.RevocationLists(t, stolen.SignCert, stolen.ExchangeCert)
	know := func(e *set.Endpoint) {
		t.Helper()
		e.Verifier = must[*pki.Verifier](t)(e.Verifier.Update(bci, []*pki.CRL{crl}, tr.Chain(pki.PCA), tr.Now))
	}
	learns := func(who string, e *set.Endpoint, exchange func() []byte) {
		t.Helper()
		ignorant, times := e.Verifier, 0
		e.Learnt = func(v *pki.Verifier) { e.Verifier = v; times++ }
		if b := exchange(); times != 1 {
			t.Errorf("%s: told %d times of the lists in %d octets", who, times, len(b))
		}
		if _, err := e.Verifier.Verify(stolen.SignCert, stolen.Chain, tr.Now); err == nil {
			t.Errorf("%s: does not know what is revoked", who)
		}
		if exchange(); times != 1 {
			t.Errorf("%s: the lists are sent again", who)
		}
		e.Verifier, e.Learnt = ignorant, nil
	}
	know(tr.merchant)
	learns("cardholder, by PInitRes", tr.card.Endpoint, func() []byte { tr.initiate(t); return tr.wire[len(tr.wire)-1] })
	if err := tr.take(tr.request(t)); err != nil {
		t.Fatal(err)
	}
	know(tr.gateway)
	tr.merchant.Verifier = tr.Endpoint(t).Verifier
	auth := authorization()
	auth.Amount = usd(10, 0)
	learns("merchant, by AuthRes", tr.merchant, func() []byte { tr.approve(t, auth, set.Authorization{}); return tr.wire[len(tr.wire)-1] })
	for name, op := range operations(t, tr) {
		if name == "PCert" || name == "BatchAdmin" {
			continue // which has its own test, and which brings no lists
		}
		learns("merchant, by "+name, tr.merchant, func() []byte {
			b := op.answer(t, tr, tr.gateway, op.request(t, tr, tr.merchant), func(*set.RRTags, *set.TransIDs, *set.RRPID) {})
			if err := op.accept(tr, b); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			return b
		})
	}
	// A merchant who knows better than the cardholder cannot offer the stolen key.
	w := must[*set.MessageWrapper](t)(tr.merchant.Receive(tr.Now, must[[]byte](t)(tr.purchase.InitReq(tr.card.Endpoint, tr.Now)), set.PInitReqType))
	init := must[*set.PInitReq](t)(w.OpenPInitReq())
	know(tr.merchant)
	res := must[[]byte](t)(tr.sale.InitRes(tr.merchant, tr.Now, init, stolen.ExchangeCert, stolen.Chain))
	if _, err := tr.purchase.OpenInitRes(tr.card.Endpoint, tr.Now, res); code(err) != set.RevokedCertificate {
		t.Errorf("a stolen gateway key is offered: %v", err)
	}
}

func TestBatchAdministration(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	r := &set.BatchRequest{
		RRPID: set.NewRRPID(), GatewayCert: tr.gateway.ExchangeCert.X509.Raw, BatchID: ptr(set.Natural(7)), Summary: true,
		Detail: &set.ReturnTransactionDetail{MaximumItems: 2},
	}
	b := must[[]byte](t)(tr.merchant.BatchAdminReq(tr.Now, r))
	o := received(t, tr.gateway, tr.Now, b, set.BatchAdminReqType, tr.gateway.OpenBatchAdminReq)
	batch := batchOf(tr, 3)
	if got := o.Judge(batch); got != set.BASuccess {
		t.Fatalf("judged %v", got)
	}
	answer := set.BatchAdminResData{
		BatchID: *o.Data.BatchID, BAStatus: ptr(set.BASuccess), TransDetails: batch.Page(*o.Data.ReturnTransactionDetail),
		BatchStatus: &set.BatchStatus{OpenDateTime: tr.Now, BatchDetails: must2(t, batch.Details, 840)},
	}
	res := must[[]byte](t)(tr.gateway.BatchAdminRes(tr.Now, o, answer))
	got := must[*set.BatchAdminResData](t)(tr.merchant.OpenBatchAdminRes(tr.Now, r, res))
	if totals := got.BatchStatus.BatchDetails.BatchTotals; totals.TransactionCountDebit != 2 || !totals.TransactionTotalAmtCredit.Equal(price) {
		t.Errorf("totals %+v", totals)
	}
	if d := got.TransDetails; len(d.TransactionDetailSeq) != 2 || d.NextStartingPoint != 3 {
		t.Errorf("page %+v", d)
	}
}

// batchOf is an open batch of n items, of which every second is a credit.
func batchOf(tr *trade, n int) *set.Batch {
	b := &set.Batch{State: set.BatchIsOpen, Serves: func(x set.BrandAndBIN) set.PCertCode {
		switch {
		case !x.BrandID.Matches(settest.Brand):
			return set.PCertBrandNotSupported
		case x.BIN != "" && x.BIN != "411111":
			return set.PCertUnknownBIN
		}
		return set.PCertSuccess
	}}
	for i := range n {
		b.Items = append(b.Items, set.TransactionDetail{
			TransIDs:  set.TransIDs{LIDC: set.NewLocalID(), XID: set.NewXID(), PReqDate: tr.Now, Language: "en"},
			AuthRRPID: set.NewRRPID(), BrandID: settest.Brand, BatchSequenceNum: set.Positive(i + 1),
			TransactionAmt: price, TransactionAmtType: set.AmtType((i + 1) % 2),
		})
	}
	return b
}

// A batch is read page by page, whatever is taken out of it between two pages.
func TestBatchPages(t *testing.T) {
	t.Parallel()
	batch := batchOf(newTrade(t), 5)
	batch.Items[3].TransactionStatus = ptr(set.TransactionUnspecifiedFailure)
	read := func(want set.ReturnTransactionDetail, purge int) (seen []set.Positive) {
		for n := 0; n < 10; n++ {
			page := batch.Page(want)
			if page == nil {
				return seen
			}
			for _, item := range page.TransactionDetailSeq {
				seen = append(seen, item.BatchSequenceNum)
			}
			if want.StartingPoint = page.NextStartingPoint; want.StartingPoint == 0 {
				return seen
			}
			if purge > 0 {
				batch.Items = slices.DeleteFunc(batch.Items, func(d set.TransactionDetail) bool { return int(d.BatchSequenceNum) == purge })
			}
		}
		t.Fatal("the pages have no end")
		return nil
	}
	for name, c := range map[string]struct {
		want set.ReturnTransactionDetail
		seen []set.Positive
	}{
		"one by one":      {set.ReturnTransactionDetail{MaximumItems: 1}, []set.Positive{1, 2, 3, 4, 5}},
		"all at once":     {set.ReturnTransactionDetail{MaximumItems: 5}, []set.Positive{1, 2, 3, 4, 5}},
		"more than there": {set.ReturnTransactionDetail{MaximumItems: 1 << 40}, []set.Positive{1, 2, 3, 4, 5}},
		"errors":          {set.ReturnTransactionDetail{MaximumItems: 2, ErrorsOnlyInd: true}, []set.Positive{4}},
		"brand":           {set.ReturnTransactionDetail{MaximumItems: 2, BrandID: settest.Brand}, []set.Positive{1, 2, 3, 4, 5}},
		"another brand":   {set.ReturnTransactionDetail{MaximumItems: 2, BrandID: "Other"}, nil},
		"from the middle": {set.ReturnTransactionDetail{MaximumItems: 2, StartingPoint: 4}, []set.Positive{4, 5}},
	} {
		if diff := cmp.Diff(c.seen, read(c.want, 0)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
	if diff := cmp.Diff([]set.Positive{1, 2, 3, 4, 5}, read(set.ReturnTransactionDetail{MaximumItems: 2}, 1)); diff != "" {
		t.Errorf("while the first is purged: -want +got:\n%s", diff)
	}
	batch.Items[0].TransactionAmt.Currency = 978
	if _, ok := batch.Details(840); ok {
		t.Error("a batch of two currencies has totals")
	}
}
