package set_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/settest"
)

const testPAN = "4111111111111111"

var (
	orderText = []byte("1 x The Elements of Programming, 2 x Pencil 2B")
	price     = set.CurrencyAmount{Currency: 840, Amount: 4250, AmtExp10: -2}
)

// trade is a purchase with all its parties, advanced message by message.
type trade struct {
	*settest.World
	card     *settest.Card
	merchant *set.Endpoint
	gateway  *set.Endpoint

	purchase *set.Purchase
	sale     *set.Sale
	wire     [][]byte // every message sent
}

func newTrade(t *testing.T) *trade {
	t.Helper()
	w := settest.NewWorld(t)
	tr := &trade{
		World: w, card: w.Card(t, testPAN), merchant: w.Merchant(t, settest.MerchantID), gateway: w.Gateway(t, "G-0001"),
		sale: &set.Sale{OD: orderText, PurchAmt: price, LIDM: set.NewLocalID()},
	}
	initiation := &set.Initiation{PurchAmt: &price, Brands: []set.BrandID{settest.Brand}, LIDM: tr.sale.LIDM, Order: orderText}
	var err error
	if tr.purchase, err = set.NewPurchase(initiation, settest.Brand, "411111", "en"); err != nil {
		t.Fatal(err)
	}
	return tr
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (tr *trade) sent(b []byte) []byte {
	tr.wire = append(tr.wire, b)
	return b
}

func (tr *trade) initiate(t *testing.T) *set.Offer {
	t.Helper()
	req := tr.sent(must[[]byte](t)(tr.purchase.InitReq(tr.card.Endpoint, tr.Now)))
	w := must[*set.MessageWrapper](t)(tr.merchant.Receive(tr.Now, req, set.PInitReqType))
	init := must[*set.PInitReq](t)(w.OpenPInitReq())
	res := tr.sent(must[[]byte](t)(tr.sale.InitRes(tr.merchant, tr.Now, init, tr.gateway.ExchangeCert, tr.gateway.Chain)))
	return must[*set.Offer](t)(tr.purchase.OpenInitRes(tr.card.Endpoint, tr.Now, res))
}

func (tr *trade) request(t *testing.T) []byte {
	t.Helper()
	return tr.sent(must[[]byte](t)(tr.purchase.Request(tr.card.Endpoint, tr.Now, &tr.card.Account)))
}

// take has the merchant take a PReq.
func (tr *trade) take(b []byte) error {
	w, err := tr.merchant.Receive(tr.Now, b, set.PReqType)
	if err != nil {
		return err
	}
	o, err := tr.merchant.OpenPReq(tr.Now, w)
	if err != nil {
		return err
	}
	return tr.sale.Take(o)
}

func (tr *trade) authorize(t *testing.T, r set.AuthorizationRequest) []byte {
	t.Helper()
	return tr.sent(must[[]byte](t)(tr.sale.AuthReq(tr.merchant, tr.Now, r)))
}

// capture asks for one capture of the sale.
func (tr *trade) capture(authRRPID set.RRPID, amount set.CurrencyAmount, token []byte) *set.CaptureRequest {
	return &set.CaptureRequest{RRPID: set.NewRRPID(), GatewayCert: tr.sale.GatewayCert, Items: []set.Capture{{
		TransIDs: tr.sale.TransIDs, AuthRRPID: authRRPID, CapToken: token,
		Payload: set.CapPayload{CapDate: tr.Now, CapReqAmt: amount},
	}}}
}

func (tr *trade) acquire(b []byte) (*set.OpenedAuthReq, error) {
	w, err := tr.gateway.Receive(tr.Now, b, set.AuthReqType)
	if err != nil {
		return nil, err
	}
	return tr.gateway.OpenAuthReq(tr.Now, w)
}

// code gives the protocol error code of err, 0 when it has none.
func code(err error) set.ErrorCode {
	var p *set.ProtocolError
	if errors.As(err, &p) {
		return p.Code
	}
	return 0
}

func TestPurchase(t *testing.T) {
	tr := newTrade(t)
	offer := tr.initiate(t)
	if got := offer.Merchant.Merchant.Names[0].Name; got != "Book Shop M-0001" {
		t.Errorf("merchant shown as %q", got)
	}

	// What both sides remember survives being stored.
	stored := must[[]byte](t)(json.Marshal(tr.purchase))
	tr.purchase = new(set.Purchase)
	if err := json.Unmarshal(stored, tr.purchase); err != nil {
		t.Fatal(err)
	}
	if err := tr.take(tr.request(t)); err != nil {
		t.Fatal(err)
	}
	stored = must[[]byte](t)(json.Marshal(tr.sale))
	tr.sale = new(set.Sale)
	if err := json.Unmarshal(stored, tr.sale); err != nil {
		t.Fatal(err)
	}

	r := set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: price}
	o, err := tr.acquire(tr.authorize(t, r))
	if err != nil {
		t.Fatal(err)
	}
	if o.Refusal != nil {
		t.Fatalf("refused: %v", *o.Refusal)
	}
	if string(o.PANData.PAN) != testPAN || o.PIHead.TransIDs.XID != tr.sale.TransIDs.XID {
		t.Error("the gateway reads another account or transaction")
	}
	res := tr.sent(must[[]byte](t)(tr.gateway.AuthRes(tr.Now, o, set.Authorization{
		Code: set.AuthApproved, Amount: price, ApprovalCode: "A12345", Opaque: []byte("batch 7"),
	})))
	authorized := must[*set.Authorized](t)(tr.sale.OpenAuthRes(tr.merchant, tr.Now, r, res))
	if authorized.Header.AuthCode != set.AuthApproved || authorized.Header.ResponseData.AuthValCodes.ApprovalCode != "A12345" {
		t.Errorf("authorization %+v", authorized.Header)
	}

	capture := tr.capture(r.RRPID, price, authorized.CapToken)
	req := tr.sent(must[[]byte](t)(tr.merchant.CapReq(tr.Now, capture)))
	w := must[*set.MessageWrapper](t)(tr.gateway.Receive(tr.Now, req, set.CapReqType))
	oc := must[*set.OpenedCapReq](t)(tr.gateway.OpenCapReq(tr.Now, w))
	if len(oc.Items) != 1 || oc.Items[0].Code != set.CapSuccess || string(oc.Items[0].Token.TokenOpaque) != "batch 7" {
		t.Fatalf("captures %+v", oc.Items)
	}
	res = tr.sent(must[[]byte](t)(tr.gateway.CapRes(tr.Now, oc, []set.CapResPayload{{CapCode: set.CapSuccess, CapAmt: price}})))
	if got := must[*set.CapResData](t)(tr.merchant.OpenCapRes(tr.Now, capture, res)).CapResItemSeq[0].CapResPayload; got.CapCode != set.CapSuccess {
		t.Errorf("capture code %v", got.CapCode)
	}

	payload := set.PResPayload{CompletionCode: set.AuthorizationPerformed, Results: &set.Results{
		AuthStatus: &set.AuthStatus{AuthDate: tr.Now, AuthCode: set.AuthApproved, AuthRatio: der.NewReal(1)},
	}}
	res = tr.sent(must[[]byte](t)(tr.sale.PRes(tr.merchant, tr.Now, payload)))
	result := must[*set.PResData](t)(tr.purchase.OpenResponse(tr.card.Endpoint, tr.Now, res))
	if got := result.PResPayloadSeq[0].Results.AuthStatus.AuthCode; got != set.AuthApproved {
		t.Errorf("the cardholder is told %v", got)
	}
	tr.inquire(t, payload)
	tr.checkSecrecy(t)
}

func (tr *trade) inquire(t *testing.T, payload set.PResPayload) {
	t.Helper()
	q, req, err := tr.purchase.InqReq(tr.card.Endpoint, tr.Now)
	if err != nil {
		t.Fatal(err)
	}
	w := must[*set.MessageWrapper](t)(tr.merchant.Receive(tr.Now, tr.sent(req), set.InqReqType))
	o := must[*set.OpenedInqReq](t)(tr.merchant.OpenInqReq(tr.Now, w))
	res := tr.sent(must[[]byte](t)(tr.sale.InqRes(tr.merchant, tr.Now, o, payload)))
	must[*set.PResData](t)(tr.purchase.OpenInqRes(tr.card.Endpoint, tr.Now, q, res))

	// Another cardholder of the same brand learns nothing of it.
	other := tr.Card(t, "4000000000000002")
	_, req, err = tr.purchase.InqReq(other.Endpoint, tr.Now)
	if err != nil {
		t.Fatal(err)
	}
	w = must[*set.MessageWrapper](t)(tr.merchant.Receive(tr.Now, req, set.InqReqType))
	o = must[*set.OpenedInqReq](t)(tr.merchant.OpenInqReq(tr.Now, w))
	if _, err := tr.sale.InqRes(tr.merchant, tr.Now, o, payload); code(err) != set.SignatureFailure {
		t.Errorf("inquiry by another cardholder: %v", err)
	}
}

// checkSecrecy searches every message for what must not be readable in it.
func (tr *trade) checkSecrecy(t *testing.T) {
	t.Helper()
	a := &tr.card.Account
	for name, secret := range map[string][]byte{
		"PAN": a.PAN, "expiry": a.CardExpiry, "CardSecret": a.CardSecret[:], "PANSecret": a.PANSecret[:],
		"order description": orderText,
	} {
		for i, m := range tr.wire {
			if bytes.Contains(m, secret) {
				t.Errorf("message %d shows the %s", i, name)
			}
		}
	}
}

// PU-8: whatever a man in the middle changes in PReq, the merchant notices.
func TestPReqTampered(t *testing.T) {
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
}

// PU-8: parts of two purchases of one cardholder cannot be mixed.
func TestPReqSwapped(t *testing.T) {
	a, b := newTrade(t), (*trade)(nil)
	a.initiate(t)
	b = &trade{World: a.World, card: a.card, merchant: a.merchant, gateway: a.gateway,
		sale: &set.Sale{OD: orderText, PurchAmt: price, LIDM: set.NewLocalID()}}
	b.purchase = must[*set.Purchase](t)(set.NewPurchase(&set.Initiation{PurchAmt: &price, Brands: []set.BrandID{settest.Brand},
		LIDM: b.sale.LIDM, Order: orderText}, settest.Brand, "411111", "en"))
	b.initiate(t)
	first := must[*set.MessageWrapper](t)(set.Decode(a.request(t)))
	second := must[*set.MessageWrapper](t)(set.Decode(b.request(t)))
	first.Message.PReq.PReqDualSigned.PIDualSigned = second.Message.PReq.PReqDualSigned.PIDualSigned
	if err := a.take(must[[]byte](t)(set.Encode(*first))); code(err) != set.SignatureFailure {
		t.Errorf("payment instructions of another purchase: %v", err)
	}
}

// The merchant compares what was signed with its own order, not with what came.
func TestOrderMismatch(t *testing.T) {
	for name, change := range map[string]func(*set.Purchase){
		"lower amount":      func(p *set.Purchase) { p.PurchAmt.Amount = 1 },
		"other description": func(p *set.Purchase) { p.OD = []byte("1 x Pencil 2B") },
	} {
		tr := newTrade(t)
		tr.initiate(t)
		change(tr.purchase)
		if err := tr.take(tr.request(t)); !errors.Is(err, set.ErrOrder) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// PU-9, PU-10, PU-11: what the gateway refuses although every signature is good.
func TestGatewayRefuses(t *testing.T) {
	authorization := set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: price}
	for name, c := range map[string]struct {
		change func(*testing.T, *trade) set.AuthorizationRequest
		want   set.AuthCode
	}{
		"the merchant raises the amount": {func(t *testing.T, tr *trade) set.AuthorizationRequest {
			r := authorization
			r.Amount.Amount *= 10
			return r
		}, set.AuthAmountError},
		"the merchant changes the currency": {func(t *testing.T, tr *trade) set.AuthorizationRequest {
			r := authorization
			r.Amount.Currency = 978
			return r
		}, set.AuthAmountError},
		"the merchant changes the order": {func(t *testing.T, tr *trade) set.AuthorizationRequest {
			other := must[cms.DetachedDigest](t)(cms.DD(set.ContentHODInput, set.HODInput{OD: []byte("nothing"), PurchAmt: price}))
			tr.sale.HOD = must[[]byte](t)(der.Marshal(other))
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

// A cardholder whose certificate is for another account than the one in the payment instructions.
func TestForeignAccount(t *testing.T) {
	tr := newTrade(t)
	tr.initiate(t)
	tr.card.Account.PAN = set.PAN("4000000000000002")
	if err := tr.take(tr.request(t)); err != nil {
		t.Fatal(err)
	}
	o, err := tr.acquire(tr.authorize(t, set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: price}))
	if err != nil || o.Refusal == nil || *o.Refusal != set.AuthPIAuthMismatch {
		t.Errorf("refusal %v, error %v", o, err)
	}
}

// W-PU2: payment instructions signed for one gateway are refused by another, though it can open them.
func TestPINamesItsGateway(t *testing.T) {
	tr := newTrade(t)
	tr.initiate(t)
	if err := tr.take(tr.request(t)); err != nil {
		t.Fatal(err)
	}
	// A second certificate of the gateway for the same key is another gateway to the cardholder.
	twin := tr.Gateway(t, "G-0002")
	twin.ExchangeKey = tr.gateway.ExchangeKey
	r := set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: price}
	b := tr.authorize(t, r)
	real := tr.gateway.ExchangeCert
	defer func() { tr.gateway.ExchangeCert = real }()
	if o, err := tr.acquire(b); err != nil || o.Refusal != nil {
		t.Fatalf("by its own gateway: %v, %v", o, err)
	}
	w := must[*set.MessageWrapper](t)(twin.Receive(tr.Now, b, set.AuthReqType))
	if _, err := twin.OpenAuthReq(tr.Now, w); code(err) != set.DecodingFailure {
		t.Errorf("by a gateway with another certificate: %v", err)
	}
}

// PU-10: the baggage of two authorization requests cannot be exchanged.
func TestBaggageSwapped(t *testing.T) {
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
}

// PU-6: the gateway's certificate that the cardholder encrypts for is the one that the merchant signed.
func TestGatewayCertificateSwapped(t *testing.T) {
	tr := newTrade(t)
	req := must[[]byte](t)(tr.purchase.InitReq(tr.card.Endpoint, tr.Now))
	w := must[*set.MessageWrapper](t)(tr.merchant.Receive(tr.Now, req, set.PInitReqType))
	init := must[*set.PInitReq](t)(w.OpenPInitReq())
	for name, c := range map[string]struct {
		gateway *set.Endpoint
		cert    func(*set.Endpoint) *set.Endpoint
		want    set.ErrorCode
	}{
		"a merchant's certificate": {tr.Merchant(t, "M-0009"), nil, set.InvalidCertificate},
	} {
		res := must[[]byte](t)(tr.sale.InitRes(tr.merchant, tr.Now, init, c.gateway.ExchangeCert, c.gateway.Chain))
		if _, err := tr.purchase.OpenInitRes(tr.card.Endpoint, tr.Now, res); code(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	foreign := settest.NewWorld(t).Gateway(t, "G-0001")
	res := must[[]byte](t)(tr.sale.InitRes(tr.merchant, tr.Now, init, foreign.ExchangeCert, foreign.Chain))
	if _, err := tr.purchase.OpenInitRes(tr.card.Endpoint, tr.Now, res); err == nil {
		t.Error("a gateway of another hierarchy was accepted")
	}
}

// PU-12, PU-13: answers to another request are not taken.
func TestReplayedAnswers(t *testing.T) {
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
	pres := must[[]byte](t)(tr.sale.PRes(tr.merchant, tr.Now, set.PResPayload{CompletionCode: set.OrderReceived}))
	tr.purchase.ChallC = set.NewChallenge()
	if _, err := tr.purchase.OpenResponse(tr.card.Endpoint, tr.Now, pres); code(err) != set.ChallengeMismatch {
		t.Errorf("PRes to another challenge: %v", err)
	}
}

// A token of another gateway, of another authorization, or for less than is captured.
func TestCapTokens(t *testing.T) {
	tr := newTrade(t)
	tr.initiate(t)
	if err := tr.take(tr.request(t)); err != nil {
		t.Fatal(err)
	}
	r := set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: price}
	o := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, r)))
	approve := set.Authorization{Code: set.AuthApproved, Amount: price, ApprovalCode: "A12345"}
	ours := must[*set.Authorized](t)(tr.sale.OpenAuthRes(tr.merchant, tr.Now, r, must[[]byte](t)(tr.gateway.AuthRes(tr.Now, o, approve))))
	more := price
	more.Amount++
	for name, c := range map[string]struct {
		req  *set.CaptureRequest
		want set.CapCode
	}{
		"good":                      {tr.capture(r.RRPID, price, ours.CapToken), set.CapSuccess},
		"without token":             {tr.capture(r.RRPID, price, nil), set.CapTokenMissing},
		"for another authorization": {tr.capture(set.NewRRPID(), price, ours.CapToken), set.CapInvalidCapToken},
		"for more":                  {tr.capture(r.RRPID, more, ours.CapToken), set.CapInvalidAuthData},
	} {
		w := must[*set.MessageWrapper](t)(tr.gateway.Receive(tr.Now, must[[]byte](t)(tr.merchant.CapReq(tr.Now, c.req)), set.CapReqType))
		oc := must[*set.OpenedCapReq](t)(tr.gateway.OpenCapReq(tr.Now, w))
		if got := oc.Items[0].Code; got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestReceive(t *testing.T) {
	tr := newTrade(t)
	good := must[[]byte](t)(tr.purchase.InitReq(tr.card.Endpoint, tr.Now))
	change := func(f func(*set.MessageWrapper)) []byte {
		w := must[*set.MessageWrapper](t)(set.Decode(good))
		f(w)
		return must[[]byte](t)(set.Encode(*w))
	}
	for name, c := range map[string]struct {
		b    []byte
		now  time.Time
		want set.ErrorCode
	}{
		"good":               {good, tr.Now, 0},
		"empty":              {nil, tr.Now, set.DecodingFailure},
		"truncated":          {good[:len(good)-1], tr.Now, set.DecodingFailure},
		"2 MiB":              {make([]byte, 2<<20), tr.Now, set.MessageTooBig},
		"too old":            {good, tr.Now.Add(11 * time.Minute), set.MessageTooOld},
		"from the future":    {good, tr.Now.Add(-11 * time.Minute), set.MessageTooNew},
		"version 2":          {change(func(w *set.MessageWrapper) { w.MessageHeader.Version = 2 }), tr.Now, set.VersionTooNew},
		"version 0":          {change(func(w *set.MessageWrapper) { w.MessageHeader.Version = 0 }), tr.Now, set.VersionTooOld},
		"no RRPID":           {change(func(w *set.MessageWrapper) { w.MessageHeader.RRPID = nil }), tr.Now, set.BadMessageHeader},
		"critical extension": {change(func(w *set.MessageWrapper) { w.MWExtensions = critical }), tr.Now, set.UnrecognizedExtension},
		"another message":    {must[[]byte](t)(tr.merchant.ErrorResponse(tr.Now, nil, nil, nil)), tr.Now, set.MessageNotSupported},
	} {
		_, err := tr.merchant.Receive(c.now, c.b, set.PInitReqType)
		if code(err) != c.want || (err == nil) != (c.want == 0) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

var critical = set.MsgExtensions{{ID: set.ExtPEThumb, Critical: true, Value: der.Raw{5, 0}}}

// An Error message reaches the requester as an error that names the code and who signed it.
func TestErrorMessage(t *testing.T) {
	tr := newTrade(t)
	req := must[[]byte](t)(tr.purchase.InitReq(tr.card.Endpoint, tr.Now))
	w := must[*set.MessageWrapper](t)(tr.merchant.Receive(tr.Now, req, set.PInitReqType))
	for name, party := range map[string]*set.Endpoint{"signed": tr.merchant, "unsigned": tr.Endpoint(t)} {
		b := must[[]byte](t)(party.ErrorResponse(tr.Now, req, w, &set.ProtocolError{Code: set.UnknownLID}))
		_, err := tr.purchase.OpenInitRes(tr.card.Endpoint, tr.Now, b)
		var peer *set.PeerError
		if !errors.As(err, &peer) || peer.Code != set.UnknownLID || (peer.Signer != nil) != (name == "signed") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
