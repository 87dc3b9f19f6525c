package set_test

import (
	"crypto/x509"
	"errors"
	"testing"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/set/settest"
)

// operation is one of the merchant's requests to the gateway: how it is made and opened, and how the
// gateway answers it, after change has had its way with what was opened.
type operation struct {
	request func(t *testing.T, tr *trade, by *set.Endpoint) []byte
	open    func(tr *trade, w *set.MessageWrapper) error
	answer  func(t *testing.T, tr *trade, by *set.Endpoint, req []byte, change func(*set.RRTags, *set.TransIDs, *set.RRPID)) []byte
	accept  func(tr *trade, res []byte) error
}

// operations gives every request about a purchase that tr's merchant has taken.
func operations(t *testing.T, tr *trade) map[string]operation {
	t.Helper()
	auth := authorization()
	token := tr.approve(t, auth, set.Authorization{}).CapToken
	rev := tr.reversal(auth, token, usd(0, -2))
	cap := tr.capture(auth.RRPID, price, token)
	cert := &set.GatewayCertRequest{RRPID: set.NewRRPID(), Brands: []set.BrandAndBIN{{BrandID: settest.Brand}}}
	batch := &set.BatchRequest{RRPID: set.NewRRPID(), GatewayCert: tr.sale.GatewayCert, BatchID: ptr(set.Natural(7))}
	open := func(b []byte) *set.MessageWrapper { return must[*set.MessageWrapper](t)(set.Decode(b)) }
	out := map[string]operation{
		"AuthRev": {
			func(t *testing.T, tr *trade, by *set.Endpoint) []byte {
				return must[[]byte](t)(tr.sale.AuthRevReq(by, tr.Now, rev))
			},
			func(tr *trade, w *set.MessageWrapper) error {
				_, err := tr.gateway.OpenAuthRevReq(tr.Now, w)
				return err
			},
			func(t *testing.T, tr *trade, by *set.Endpoint, req []byte, change func(*set.RRTags, *set.TransIDs, *set.RRPID)) []byte {
				o := must[*set.OpenedAuthRevReq](t)(tr.gateway.OpenAuthRevReq(tr.Now, open(req)))
				change(&o.Data.AuthRevTags.AuthRevRRTags, &o.Data.AuthReqData.AuthReqItem.AuthTags.TransIDs, nil)
				return must[[]byte](t)(by.AuthRevRes(tr.Now, o, set.Reversal{Amount: usd(0, -2)}))
			},
			func(tr *trade, res []byte) error {
				_, err := tr.sale.OpenAuthRevRes(tr.merchant, tr.Now, rev, res)
				return err
			},
		},
		"Cap": {
			func(t *testing.T, tr *trade, by *set.Endpoint) []byte { return must[[]byte](t)(by.CapReq(tr.Now, cap)) },
			func(tr *trade, w *set.MessageWrapper) error { _, err := tr.gateway.OpenCapReq(tr.Now, w); return err },
			func(t *testing.T, tr *trade, by *set.Endpoint, req []byte, change func(*set.RRTags, *set.TransIDs, *set.RRPID)) []byte {
				o := must[*set.OpenedCapReq](t)(tr.gateway.OpenCapReq(tr.Now, open(req)))
				change(&o.Data.CapRRTags, &o.Items[0].Item.TransIDs, &o.Items[0].Item.AuthRRPID)
				return must[[]byte](t)(by.CapRes(tr.Now, o, []set.CapResPayload{{CapAmt: price}}))
			},
			func(tr *trade, res []byte) error { _, err := tr.merchant.OpenCapRes(tr.Now, cap, res); return err },
		},
		"PCert": {
			func(t *testing.T, tr *trade, by *set.Endpoint) []byte {
				return must[[]byte](t)(by.PCertReq(tr.Now, cert))
			},
			func(tr *trade, w *set.MessageWrapper) error { _, err := tr.gateway.OpenPCertReq(tr.Now, w); return err },
			func(t *testing.T, tr *trade, by *set.Endpoint, req []byte, change func(*set.RRTags, *set.TransIDs, *set.RRPID)) []byte {
				o := must[*set.OpenedPCertReq](t)(tr.gateway.OpenPCertReq(tr.Now, open(req)))
				change(&o.Data.PCertTags, nil, nil)
				return must[[]byte](t)(by.PCertRes(tr.Now, o, []set.GatewayCert{{Certificate: by.ExchangeCert}}))
			},
			func(tr *trade, res []byte) error { _, err := tr.merchant.OpenPCertRes(tr.Now, cert, res); return err },
		},
		"BatchAdmin": {
			func(t *testing.T, tr *trade, by *set.Endpoint) []byte {
				return must[[]byte](t)(by.BatchAdminReq(tr.Now, batch))
			},
			func(tr *trade, w *set.MessageWrapper) error {
				_, err := tr.gateway.OpenBatchAdminReq(tr.Now, w)
				return err
			},
			func(t *testing.T, tr *trade, by *set.Endpoint, req []byte, change func(*set.RRTags, *set.TransIDs, *set.RRPID)) []byte {
				o := must[*set.OpenedBatchAdminReq](t)(tr.gateway.OpenBatchAdminReq(tr.Now, open(req)))
				change(&o.Data.BatchAdminRRTags, nil, nil)
				return must[[]byte](t)(by.BatchAdminRes(tr.Now, o, set.BatchAdminResData{BatchID: 7}))
			},
			func(tr *trade, res []byte) error {
				_, err := tr.merchant.OpenBatchAdminRes(tr.Now, batch, res)
				return err
			},
		},
	}
	for _, a := range []set.Adjustment{set.CaptureReversal, set.Credit, set.CreditReversal} {
		r := tr.adjust(a, auth.RRPID, token)
		out[a.String()] = operation{
			func(t *testing.T, tr *trade, by *set.Endpoint) []byte {
				return must[[]byte](t)(by.AdjustmentReq(tr.Now, r))
			},
			func(tr *trade, w *set.MessageWrapper) error {
				_, err := tr.gateway.OpenAdjustmentReq(tr.Now, w)
				return err
			},
			func(t *testing.T, tr *trade, by *set.Endpoint, req []byte, change func(*set.RRTags, *set.TransIDs, *set.RRPID)) []byte {
				o := must[*set.OpenedAdjustment](t)(tr.gateway.OpenAdjustmentReq(tr.Now, open(req)))
				change(&o.Data.CapRevOrCredRRTags, &o.Items[0].Item.TransIDs, &o.Items[0].Item.AuthRRPID)
				return must[[]byte](t)(by.AdjustmentRes(tr.Now, o, []set.CapRevOrCredResPayload{{CapRevOrCredActualAmt: price}}))
			},
			func(tr *trade, res []byte) error { _, err := tr.merchant.OpenAdjustmentRes(tr.Now, r, res); return err },
		}
	}
	return out
}

// posing gives a party that signs with its own key and names a merchant that it is not.
func posing(e *set.Endpoint, merchant string) *set.Endpoint {
	cert := *e.SignCert
	cert.Merchant = &pki.MerchantData{MerchantID: merchant}
	out := *e
	out.SignCert = &cert
	return &out
}

// Nobody asks in the merchant's name, and what nobody signs must agree with what is signed.
func TestOperationsForged(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	thief := posing(tr.Merchant(t, "M-0002"), settest.MerchantID)
	gateway := posing(tr.Gateway(t, "G-0002"), settest.MerchantID)
	rival := tr.Rival(t, "Rival").Merchant(t, settest.MerchantID)
	forger := *tr.merchant
	forger.SignKey = newECKey(t)
	silent := *tr.merchant
	silent.ExchangeCert = nil
	for name, op := range operations(t, tr) {
		honest := op.request(t, tr, tr.merchant)
		if err := op.open(tr, must[*set.MessageWrapper](t)(set.Decode(honest))); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for who, c := range map[string]struct {
			by   *set.Endpoint
			want set.ErrorCode
		}{
			"another merchant in its name":     {thief, set.InvalidCertificate},
			"a gateway in its name":            {gateway, set.InvalidCertificate},
			"a merchant of another brand":      {rival, set.InvalidCertificate},
			"somebody with its certificate":    {&forger, set.SignatureFailure},
			"one who says not where to answer": {&silent, set.MissingCertificate},
		} {
			if name == "PCert" && c.by == &silent {
				continue // its answer is for everybody's eyes
			}
			if err := op.open(tr, must[*set.MessageWrapper](t)(set.Decode(op.request(t, tr, c.by)))); code(err) != c.want {
				t.Errorf("%s by %s: %v, want %v", name, who, err, c.want)
			}
		}
		w := must[*set.MessageWrapper](t)(set.Decode(honest))
		w.MessageHeader.RRPID = ptr(set.NewRRPID())
		want := set.WrapperMsgMismatch
		if name == "BatchAdmin" {
			want = set.UnknownRRPID
		}
		if err := op.open(tr, w); code(err) != want {
			t.Errorf("%s with another RRPID: %v, want %v", name, err, want)
		}
		if w.MessageHeader.MessageIDs != nil {
			w = must[*set.MessageWrapper](t)(set.Decode(honest))
			w.MessageHeader.MessageIDs.XID = ptr(set.NewXID())
			if err := op.open(tr, w); code(err) != set.WrapperMsgMismatch {
				t.Errorf("%s with another XID: %v", name, err)
			}
		}
	}
}

// An answer counts if it is this gateway's, to this request of this merchant, about these items.
func TestAnswersOfAnother(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	none := func(*set.RRTags, *set.TransIDs, *set.RRPID) {}
	foreign := tr.GatewayOf(t, "Another Acquirer", "G-0003")
	other := tr.Gateway(t, "G-0002")
	forger := *tr.gateway
	forger.SignKey = newECKey(t)
	for name, op := range operations(t, tr) {
		req := op.request(t, tr, tr.merchant)
		if err := op.accept(tr, op.answer(t, tr, tr.gateway, req, none)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for what, c := range map[string]struct {
			by     *set.Endpoint
			change func(*set.RRTags, *set.TransIDs, *set.RRPID)
			want   set.ErrorCode
		}{
			"another acquirer's gateway": {foreign, none, set.SignatureFailure},
			"another gateway":            {other, none, set.SignatureFailure},
			"a forger":                   {&forger, none, set.SignatureFailure},
			"another request":            {tr.gateway, func(t *set.RRTags, _ *set.TransIDs, _ *set.RRPID) { t.RRPID = set.NewRRPID() }, set.UnknownRRPID},
			"another merchant":           {tr.gateway, func(t *set.RRTags, _ *set.TransIDs, _ *set.RRPID) { t.MerTermIDs.MerchantID = "M" }, set.WrapperMsgMismatch},
			"another transaction": {tr.gateway, func(_ *set.RRTags, ids *set.TransIDs, _ *set.RRPID) {
				if ids != nil {
					ids.XID = set.NewXID()
				}
			}, set.UnknownXID},
			"another authorization": {tr.gateway, func(_ *set.RRTags, _ *set.TransIDs, id *set.RRPID) {
				if id != nil {
					*id = set.NewRRPID()
				}
			}, set.WrapperMsgMismatch},
		} {
			switch {
			case what == "another gateway" && name == "PCert": // one of the same acquirer may answer for it
				continue
			case what == "another transaction" && (name == "PCert" || name == "BatchAdmin"),
				what == "another authorization" && (name == "PCert" || name == "BatchAdmin" || name == "AuthRev"):
				continue
			}
			res := relabel(t, op.answer(t, tr, c.by, req, c.change), req)
			if err := op.accept(tr, res); code(err) != c.want {
				t.Errorf("%s answered by or about %s: %v, want %v", name, what, err, c.want)
			}
		}
		// A refusal by another gateway is no refusal, and a genuine one says who refuses.
		w := must[*set.MessageWrapper](t)(set.Decode(req))
		for by, signed := range map[*set.Endpoint]bool{tr.gateway: true, other: name == "PCert"} {
			var peer *set.PeerError
			res := must[[]byte](t)(by.ErrorResponse(tr.Now, req, w, &set.ProtocolError{Code: set.DecodingFailure}))
			if err := op.accept(tr, res); !errors.As(err, &peer) || (peer.Signer != nil) != signed {
				t.Errorf("%s refused: %v, want signed %t", name, err, signed)
			}
		}
	}
}

// What the gateway says was done is what was asked for.
func TestAnswersOfOtherAmounts(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	id, token, _ := tr.tokens(t)
	less := price
	less.Amount--
	for _, a := range []set.Adjustment{set.CaptureReversal, set.Credit, set.CreditReversal} {
		r := tr.adjust(a, id, token)
		o := tr.adjusted(t, r)
		for _, c := range []struct {
			code   set.CapRevOrCredCode
			amount set.CurrencyAmount
			want   set.ErrorCode
		}{
			{set.CapRevOrCredSuccess, price, 0}, {set.CapRevOrCredSuccess, less, set.WrapperMsgMismatch},
			{set.CapRevOrCredOriginalNotFound, usd(0, 0), 0},
		} {
			res := must[[]byte](t)(tr.gateway.AdjustmentRes(tr.Now, o, []set.CapRevOrCredResPayload{{CapRevOrCredCode: c.code, CapRevOrCredActualAmt: c.amount}}))
			if _, err := tr.merchant.OpenAdjustmentRes(tr.Now, r, res); code(err) != c.want || (err == nil) != (c.want == 0) {
				t.Errorf("%v: %v of %v: %v, want %v", a, c.code, c.amount, err, c.want)
			}
		}
	}
	rev := tr.reversal(set.AuthorizationRequest{RRPID: id, Amount: price}, token, less)
	o := tr.reverse(t, rev)
	res := must[[]byte](t)(tr.gateway.AuthRevRes(tr.Now, o, set.Reversal{Amount: price, Last: tr.Now}))
	if _, err := tr.sale.OpenAuthRevRes(tr.merchant, tr.Now, rev, res); code(err) != set.WrapperMsgMismatch {
		t.Errorf("more stays authorized than asked for: %v", err)
	}
	sale := authorization()
	sale.CaptureNow = true
	oa := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, sale)))
	approved := set.Authorization{Code: set.AuthApproved, Amount: price, ApprovalCode: "A12345"}
	for what, c := range map[string]struct {
		capture *set.CapResPayload
		asked   bool
		want    set.ErrorCode
	}{
		"less captured":                   {&set.CapResPayload{CapAmt: less}, true, set.WrapperMsgMismatch},
		"no word of the capture":          {nil, true, set.WrapperMsgMismatch},
		"a capture that nobody asked for": {&set.CapResPayload{CapAmt: price}, false, set.WrapperMsgMismatch},
	} {
		oa.Data.CaptureNow, approved.Capture, sale.CaptureNow = c.capture != nil, c.capture, c.asked
		if _, err := tr.sale.OpenAuthRes(tr.merchant, tr.Now, sale, must[[]byte](t)(tr.gateway.AuthRes(tr.Now, oa, approved))); code(err) != c.want {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
	batch := &set.BatchRequest{RRPID: set.NewRRPID(), GatewayCert: tr.sale.GatewayCert, BatchID: ptr(set.Natural(7)), Detail: &set.ReturnTransactionDetail{MaximumItems: 2}}
	ob := received(t, tr.gateway, tr.Now, must[[]byte](t)(tr.merchant.BatchAdminReq(tr.Now, batch)), set.BatchAdminReqType, tr.gateway.OpenBatchAdminReq)
	for what, answer := range map[string]set.BatchAdminResData{
		"another batch":  {BatchID: 8},
		"too many items": {BatchID: 7, TransDetails: batchOf(tr, 3).Page(set.ReturnTransactionDetail{MaximumItems: 3})},
	} {
		if _, err := tr.merchant.OpenBatchAdminRes(tr.Now, batch, must[[]byte](t)(tr.gateway.BatchAdminRes(tr.Now, ob, answer))); code(err) != set.WrapperMsgMismatch {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// An authorization counts for the purchase that it names.
func TestAuthResOfAnotherPurchase(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	r := authorization()
	approve := set.Authorization{Code: set.AuthApproved, Amount: price, ApprovalCode: "A12345"}
	for want, change := range map[set.ErrorCode]func(*set.TransIDs){
		0:              func(*set.TransIDs) {},
		set.UnknownXID: func(ids *set.TransIDs) { ids.XID = set.NewXID() },
		set.UnknownLID: func(ids *set.TransIDs) { ids.LIDM = set.NewLocalID() },
	} {
		o := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, r)))
		change(&o.Data.AuthReqItem.AuthTags.TransIDs)
		res := must[[]byte](t)(tr.gateway.AuthRes(tr.Now, o, approve))
		if _, err := tr.sale.OpenAuthRes(tr.merchant, tr.Now, r, res); code(err) != want || (err == nil) != (want == 0) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

// What travels beside a signature is held to it by its digest, and there is one token for each item.
func TestBaggageOfAnother(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	id, token, foreign := tr.tokens(t)
	decoded := func(b []byte) *set.MessageWrapper { return must[*set.MessageWrapper](t)(set.Decode(b)) }
	first := decoded(must[[]byte](t)(tr.merchant.AdjustmentReq(tr.Now, tr.adjust(set.Credit, id, token))))
	second := decoded(must[[]byte](t)(tr.merchant.AdjustmentReq(tr.Now, tr.adjust(set.Credit, id, foreign))))
	first.Message.CredReq.EncB.Baggage = second.Message.CredReq.EncB.Baggage
	if _, err := tr.gateway.OpenAdjustmentReq(tr.Now, first); code(err) != set.SignatureFailure {
		t.Errorf("token of another credit: %v", err)
	}
	auth := set.AuthorizationRequest{RRPID: id, Amount: price}
	first = decoded(must[[]byte](t)(tr.sale.AuthRevReq(tr.merchant, tr.Now, tr.reversal(auth, token, usd(0, 0)))))
	first.Message.AuthRevReq.Baggage.CapToken = nil
	if _, err := tr.gateway.OpenAuthRevReq(tr.Now, first); code(err) != set.SignatureFailure {
		t.Errorf("token taken from a reversal: %v", err)
	}
	one := tr.capture(id, price, token)
	two := *one
	two.Items = append(two.Items, one.Items[0])
	for what, c := range map[string]struct{ items, tokens int }{"two items, one token": {2, 1}, "one item, two tokens": {1, 2}} {
		data := set.CapReqData{CapRRTags: set.RRTags{RRPID: one.RRPID, MerTermIDs: set.MerTermIDs{MerchantID: settest.MerchantID}, CurrentDate: tr.Now}}
		for range c.items {
			data.CapItemSeq = append(data.CapItemSeq, set.CapItem{TransIDs: tr.sale.TransIDs, AuthRRPID: id, CapPayload: set.CapPayload{CapDate: tr.Now, CapReqAmt: price}})
		}
		tokens := repeat(set.CapToken{Null: &der.Null{}}, c.tokens)
		enc := must[cms.ContentInfo](t)(cms.Enc(cms.SignedEncrypted{TBE: set.ContentCapReqTBE, TBS: set.ContentCapReqTBS},
			cms.Linked[set.CapReqData]{Value: data, DD: must[cms.DetachedDigest](t)(cms.DD(set.ContentCapTokenSeq, set.CapTokenSeq(tokens)))},
			certificates(tr.merchant), nil, cms.Signer{Key: tr.merchant.SignKey, Certificate: tr.merchant.SignCert.X509}, tr.gateway.ExchangeCert.X509))
		w := &set.MessageWrapper{MessageHeader: set.MessageHeader{RRPID: &one.RRPID}, Message: set.Message{CapReq: &set.CapReq{EncB: &set.EncB[set.CapTokenSeq]{Enc: enc, Baggage: tokens}}}}
		if _, err := tr.gateway.OpenCapReq(tr.Now, w); code(err) != set.WrapperMsgMismatch {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func certificates(e *set.Endpoint) (out []*x509.Certificate) {
	for _, c := range append(e.Chain, e.SignCert, e.ExchangeCert) {
		out = append(out, c.X509)
	}
	return out
}

// A token that stands for payment instructions counts only if this gateway made it.
func TestForgedAuthToken(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	data := set.AuthTokenData{
		TransIDs: tr.sale.TransIDs, PurchAmt: price, MerchantID: settest.MerchantID, PrevAuthDateTime: tr.Now, TotalAuthAmount: usd(0, 0), AuthTokenOpaque: []byte{},
	}
	pan := set.PANToken{PAN: set.PAN("4000000000000002"), CardExpiry: tr.card.Account.CardExpiry, ExNonce: set.NewNonce()}
	other := tr.Gateway(t, "G-0002")
	for name, signer := range map[string]cms.Signer{
		"another gateway": {Key: other.SignKey, Certificate: other.SignCert.X509},
		"the merchant":    {Key: tr.merchant.SignKey, Certificate: tr.merchant.SignCert.X509},
		"a forger":        {Key: newECKey(t), Certificate: tr.gateway.SignCert.X509},
	} {
		token := must[cms.ContentInfo](t)(cms.EncX(cms.SignedEncrypted{TBE: set.ContentAuthTokenTBE, TBS: set.ContentAuthTokenTBS}, data, pan, pan.Pack(),
			cms.WithPANToken, nil, nil, []cms.Signer{signer}, tr.gateway.ExchangeCert.X509))
		r := authorization()
		r.AuthToken = must[[]byte](t)(der.Marshal(set.AuthToken(token)))
		if _, err := tr.acquire(tr.authorize(t, r)); code(err) != set.SignatureFailure {
			t.Errorf("token made by %s: %v", name, err)
		}
	}
	// Nor is the account in a genuine one exchanged for another.
	r := authorization()
	r.Subsequent, r.Amount = true, usd(1, 0)
	genuine := tr.approve(t, r, set.Authorization{}).AuthToken
	var token set.AuthToken
	if err := set.Unmarshal(genuine, &token); err != nil {
		t.Fatal(err)
	}
	gateway := cms.Recipient{Key: tr.gateway.ExchangeKey, Certificate: tr.gateway.ExchangeCert.X509}
	plaintext, _, err := gateway.Decrypt(cms.ContentInfo(token), set.ContentAuthTokenTBE, cms.WithPANToken)
	if err != nil {
		t.Fatal(err)
	}
	var tbe set.AuthTokenTBE
	if err := set.Unmarshal(plaintext, &tbe); err != nil {
		t.Fatal(err)
	}
	swapped := set.AuthToken(must[cms.ContentInfo](t)(cms.Encrypt(tr.gateway.ExchangeCert.X509, set.ContentAuthTokenTBE, tbe, cms.WithPANToken, pan.Pack())))
	r = authorization()
	r.AuthToken = must[[]byte](t)(der.Marshal(swapped))
	if _, err := tr.acquire(tr.authorize(t, r)); code(err) != set.SignatureFailure {
		t.Errorf("another account in a token: %v", err)
	}
	// A token is of one transaction and one merchant.
	r.AuthToken = genuine
	thief := &trade{World: tr.World, merchant: tr.Merchant(t, "M-0002"), gateway: tr.gateway, sale: tr.sale}
	if got := thief.refused(t, r); got != set.AuthPIAuthMismatch {
		t.Errorf("another merchant's token: %v", got)
	}
	mixed := &trade{World: tr.World, merchant: tr.merchant, gateway: tr.gateway, sale: ptr(*tr.sale)}
	mixed.sale.TransIDs.XID = set.NewXID()
	if got := mixed.refused(t, r); got != set.AuthPIAuthMismatch {
		t.Errorf("another transaction's token: %v", got)
	}
}

// A gateway certificate is taken only if it is of the brand asked for and of the gateway that answers, and
// only lists that verify are learnt.
func TestGatewayCertificateOfAnother(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	r := &set.GatewayCertRequest{RRPID: set.NewRRPID(), Brands: []set.BrandAndBIN{{BrandID: settest.Brand}}}
	o := received(t, tr.gateway, tr.Now, must[[]byte](t)(tr.merchant.PCertReq(tr.Now, r)), set.PCertReqType, tr.gateway.OpenPCertReq)
	rival := tr.Rival(t, "Rival").Gateway(t, "G-0001")
	for what, c := range map[string]struct {
		item set.GatewayCert
		want set.ErrorCode // 0 stands for ErrBrand
	}{
		"another gateway's":  {set.GatewayCert{Certificate: tr.Gateway(t, "G-0002").ExchangeCert}, set.InvalidCertificate},
		"another acquirer's": {set.GatewayCert{Certificate: tr.GatewayOf(t, "Another", "G-0001").ExchangeCert}, set.InvalidCertificate},
		"for signatures":     {set.GatewayCert{Certificate: tr.gateway.SignCert}, set.InvalidCertificate},
		"a merchant's":       {set.GatewayCert{Certificate: tr.merchant.ExchangeCert}, set.InvalidCertificate},
		"of another brand":   {set.GatewayCert{Certificate: rival.ExchangeCert}, 0},
		"none":               {set.GatewayCert{}, set.MissingCertificate},
	} {
		above := append(rival.Chain, tr.Chain(pki.MCA)...)
		res := must[[]byte](t)(tr.gateway.PCertRes(tr.Now, o, []set.GatewayCert{c.item}, above...))
		if _, err := tr.merchant.OpenPCertRes(tr.Now, r, res); code(err) != c.want || c.want == 0 && !errors.Is(err, set.ErrBrand) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
	refusal := must[[]byte](t)(tr.Merchant(t, "M-0002").PCertRes(tr.Now, o, []set.GatewayCert{{Code: set.PCertBrandNotSupported}}))
	if _, err := tr.merchant.OpenPCertRes(tr.Now, r, refusal); code(err) != set.InvalidCertificate {
		t.Errorf("another merchant of the acquirer answers: %v", err)
	}
	two := *r
	two.Brands = append(two.Brands, two.Brands[0])
	res := must[[]byte](t)(tr.gateway.PCertRes(tr.Now, o, []set.GatewayCert{{Certificate: tr.gateway.ExchangeCert}}))
	if _, err := tr.merchant.OpenPCertRes(tr.Now, &two, res); code(err) != set.WrapperMsgMismatch {
		t.Errorf("one certificate for two brands: %v", err)
	}
}

// One result for each item, and nothing critical that nobody here knows, in whatever part of a message.
func TestResultsAndExtensions(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	id, token, _ := tr.tokens(t)
	capture, adjust := tr.capture(id, price, token), tr.adjust(set.Credit, id, token)
	oc := received(t, tr.gateway, tr.Now, must[[]byte](t)(tr.merchant.CapReq(tr.Now, capture)), set.CapReqType, tr.gateway.OpenCapReq)
	oa := tr.adjusted(t, adjust)
	two, twoAdjusted := *capture, *adjust
	two.Items, twoAdjusted.Items = append(two.Items, two.Items[0]), append(twoAdjusted.Items, twoAdjusted.Items[0])
	captured, credited := set.CapResPayload{CapAmt: price}, set.CapRevOrCredResPayload{CapRevOrCredActualAmt: price}
	for what, c := range map[string]struct {
		cap    *set.CaptureRequest
		adjust *set.AdjustmentRequest
		ext    set.MsgExtensions
		want   set.ErrorCode
	}{
		"as asked":                 {capture, adjust, nil, 0},
		"one result for two items": {&two, &twoAdjusted, nil, set.WrapperMsgMismatch},
		"a critical extension":     {capture, adjust, critical, set.UnrecognizedExtension},
	} {
		captured.Extensions, credited.Extensions = c.ext, c.ext
		res := must[[]byte](t)(tr.gateway.CapRes(tr.Now, oc, []set.CapResPayload{captured}))
		if _, err := tr.merchant.OpenCapRes(tr.Now, c.cap, res); code(err) != c.want || (err == nil) != (c.want == 0) {
			t.Errorf("captures, %s: %v, want %v", what, err, c.want)
		}
		res = must[[]byte](t)(tr.gateway.AdjustmentRes(tr.Now, oa, []set.CapRevOrCredResPayload{credited}))
		if _, err := tr.merchant.OpenAdjustmentRes(tr.Now, c.adjust, res); code(err) != c.want || (err == nil) != (c.want == 0) {
			t.Errorf("credits, %s: %v, want %v", what, err, c.want)
		}
	}
	capture.Items[0].Payload.Extensions = critical
	w := must[*set.MessageWrapper](t)(tr.gateway.Receive(tr.Now, must[[]byte](t)(tr.merchant.CapReq(tr.Now, capture)), set.CapReqType))
	if _, err := tr.gateway.OpenCapReq(tr.Now, w); code(err) != set.UnrecognizedExtension {
		t.Errorf("a capture with a critical extension: %v", err)
	}
	adjust.Items[0].Payload.Extensions = critical
	w = must[*set.MessageWrapper](t)(tr.gateway.Receive(tr.Now, must[[]byte](t)(tr.merchant.AdjustmentReq(tr.Now, adjust)), set.CredReqType))
	if _, err := tr.gateway.OpenAdjustmentReq(tr.Now, w); code(err) != set.UnrecognizedExtension {
		t.Errorf("a credit with a critical extension: %v", err)
	}
	data := set.CapRevOrCredReqData{
		CapRevOrCredRRTags: set.RRTags{RRPID: adjust.RRPID, MerTermIDs: set.MerTermIDs{MerchantID: settest.MerchantID}, CurrentDate: tr.Now},
		CapRevOrCredReqItemSeq: []set.CapRevOrCredReqItem{{TransIDs: tr.sale.TransIDs, AuthRRPID: id, CapRevOrCredReqDate: tr.Now,
			CapPayload: set.CapPayload{CapDate: tr.Now, CapReqAmt: price}, Extensions: critical}},
	}
	none := set.CapTokenSeq{{Null: &der.Null{}}}
	enc := must[cms.ContentInfo](t)(cms.Enc(cms.SignedEncrypted{TBE: set.ContentCredReqTBE, TBS: set.ContentCredReqTBS},
		cms.Linked[set.CapRevOrCredReqData]{Value: data, DD: must[cms.DetachedDigest](t)(cms.DD(set.ContentCapTokenSeq, none))},
		certificates(tr.merchant), nil, cms.Signer{Key: tr.merchant.SignKey, Certificate: tr.merchant.SignCert.X509}, tr.gateway.ExchangeCert.X509))
	w = &set.MessageWrapper{MessageHeader: set.MessageHeader{RRPID: &adjust.RRPID},
		Message: set.Message{CredReq: &set.CapRevOrCredReq{EncB: &set.EncB[set.CapTokenSeq]{Enc: enc, Baggage: none}}}}
	if _, err := tr.gateway.OpenAdjustmentReq(tr.Now, w); code(err) != set.UnrecognizedExtension {
		t.Errorf("an item with a critical extension: %v", err)
	}
	r := authorization()
	r.Extensions = critical
	if _, err := tr.acquire(tr.authorize(t, r)); code(err) != set.UnrecognizedExtension {
		t.Errorf("an authorization with a critical extension: %v", err)
	}
	w = must[*set.MessageWrapper](t)(tr.gateway.Receive(tr.Now, must[[]byte](t)(tr.sale.AuthRevReq(tr.merchant, tr.Now, tr.reversal(r, token, price))), set.AuthRevReqType))
	if _, err := tr.gateway.OpenAuthRevReq(tr.Now, w); code(err) != set.UnrecognizedExtension {
		t.Errorf("a reversal with a critical extension: %v", err)
	}
	// The terms of repeated payment carry extensions of their own, on either side.
	terms := set.Instalments(3)
	terms.Extensions = critical
	mixed := taken(t)
	mixed.sale.InstallRecurData = terms
	if _, err := mixed.acquire(mixed.authorize(t, authorization())); code(err) != set.UnrecognizedExtension {
		t.Errorf("the merchant's terms with a critical extension: %v", err)
	}
	mixed = repeated(t, terms)
	mixed.sale.InstallRecurData = nil
	if _, err := mixed.acquire(mixed.authorize(t, authorization())); code(err) != set.UnrecognizedExtension {
		t.Errorf("the cardholder's terms with a critical extension: %v", err)
	}
}

// A card number is of one item, though a merchant who may have it says otherwise.
func TestAccountWithTwoItems(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	tr.merchant = tr.TrustedMerchant(t, settest.MerchantID)
	id := set.NewRRPID()
	item := set.CapItem{TransIDs: set.TransIDs{LIDC: set.NewLocalID(), XID: set.NewXID(), PReqDate: tr.Now, Language: "en"}, AuthRRPID: id,
		CapPayload: set.CapPayload{CapDate: tr.Now, CapReqAmt: price}}
	data := set.CapReqData{CapRRTags: set.RRTags{RRPID: id, MerTermIDs: set.MerTermIDs{MerchantID: settest.MerchantID}, CurrentDate: tr.Now}}
	pan := set.PANToken{PAN: set.PAN(testPAN), CardExpiry: tr.card.Account.CardExpiry, ExNonce: set.NewNonce()}
	for n, want := range map[int]set.ErrorCode{1: 0, 2: set.WrapperMsgMismatch} {
		data.CapItemSeq = repeat(item, n)
		tokens := set.CapTokenSeq(repeat(set.CapToken{Null: &der.Null{}}, n))
		linked := cms.Linked[set.CapReqData]{Value: data, DD: must[cms.DetachedDigest](t)(cms.DD(set.ContentCapTokenSeq, tokens))}
		x := must[cms.ContentInfo](t)(cms.EncX(cms.SignedEncrypted{TBE: set.ContentCapReqTBEX, TBS: set.ContentCapReqTBSX}, linked, pan, pan.Pack(), cms.WithPANToken,
			certificates(tr.merchant), nil, []cms.Signer{{Key: tr.merchant.SignKey, Certificate: tr.merchant.SignCert.X509}}, tr.gateway.ExchangeCert.X509))
		w := &set.MessageWrapper{MessageHeader: set.MessageHeader{RRPID: &id}, Message: set.Message{CapReq: &set.CapReq{EncBX: &set.EncBX[set.CapTokenSeq]{EncX: x, Baggage: tokens}}}}
		if _, err := tr.gateway.OpenCapReq(tr.Now, w); code(err) != want || (err == nil) != (want == 0) {
			t.Errorf("%d items: %v, want %v", n, err, want)
		}
		// The tokens beside it are held to it, and the account in it.
		w.Message.CapReq.EncBX.Baggage = repeat(set.CapToken{Null: &der.Null{}}, n+1)
		if _, err := tr.gateway.OpenCapReq(tr.Now, w); code(err) != set.SignatureFailure {
			t.Errorf("%d items with tokens of another request: %v", n, err)
		}
	}
}
