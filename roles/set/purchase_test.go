package set_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/set"
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
