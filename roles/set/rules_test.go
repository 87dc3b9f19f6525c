package set_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/settest"
)

// Every rule of the gateway has an attack here that it refuses, and that gets through where the rule is
// taken out.

// breaches are the attacks on one kind of request, by the rule that they break. Each gives the code with
// and without the rule.
type breaches[C comparable] map[string]struct {
	attack func(*testing.T) (with, without C)
	want   C
}

func (b breaches[C]) try(t *testing.T, request string) {
	t.Helper()
	rules := set.RuleNames()[request]
	if diff := cmp.Diff(slices.Sorted(slices.Values(rules)), slices.Sorted(maps.Keys(b))); diff != "" {
		t.Errorf("rules and attacks of %s are not one for one (-rules +attacks):\n%s", request, diff)
	}
	for rule, c := range b {
		with, without := c.attack(t)
		if with != c.want {
			t.Errorf("%s, breach of %q: %v, want %v", request, rule, with, c.want)
		}
		var success C
		if without != success {
			t.Errorf("%s, breach of %q: %v without the rule, want that nothing else refuses", request, rule, without)
		}
	}
}

func TestAuthRules(t *testing.T) {
	t.Parallel()
	judge := func(t *testing.T, tr *trade, b []byte, rule string) (with, without set.AuthCode) {
		t.Helper()
		o := must[*set.OpenedAuthReq](t)(tr.acquire(b))
		if o.Refusal != nil {
			with = *o.Refusal
		}
		return with, tr.gateway.JudgeAuth(tr.Now, o, rule)
	}
	// plain is an attack on a trade whose order is taken; honest is what the merchant would ask for.
	plain := func(rule string, attack func(*testing.T, *trade) []byte) func(*testing.T) (set.AuthCode, set.AuthCode) {
		return func(t *testing.T) (set.AuthCode, set.AuthCode) {
			tr := taken(t)
			return judge(t, tr, attack(t, tr), rule)
		}
	}
	onTerms := func(rule string, terms *set.InstallRecurData, attack func(*testing.T, *trade) []byte) func(*testing.T) (set.AuthCode, set.AuthCode) {
		return func(t *testing.T) (set.AuthCode, set.AuthCode) {
			tr := repeated(t, terms)
			return judge(t, tr, attack(t, tr), rule)
		}
	}
	b := breaches[set.AuthCode]{}
	add := func(rule string, want set.AuthCode, attack func(*testing.T) (set.AuthCode, set.AuthCode)) {
		b[rule] = struct {
			attack func(*testing.T) (with, without set.AuthCode)
			want   set.AuthCode
		}{attack, want}
	}
	rule := "merchant and cardholder mean the same order"
	add(rule, set.AuthPIAuthMismatch, plain(rule, func(t *testing.T, tr *trade) []byte {
		tr.sale.HOD = must[[]byte](t)(der.Marshal(must[cms.DetachedDigest](t)(cms.DD(set.ContentHODInput, set.HODInput{OD: []byte("nothing"), PurchAmt: price}))))
		return tr.authorize(t, authorization())
	}))
	rule = "the transaction is the cardholder's"
	add(rule, set.AuthPIAuthMismatch, plain(rule, func(t *testing.T, tr *trade) []byte {
		tr.sale.TransIDs.XID = set.NewXID()
		return tr.authorize(t, authorization())
	}))
	rule = "the merchant is the cardholder's"
	add(rule, set.AuthPIAuthMismatch, plain(rule, func(t *testing.T, tr *trade) []byte {
		tr.merchant = tr.Merchant(t, "M-0002")
		return tr.authorize(t, authorization())
	}))
	rule = "the gateway is the cardholder's"
	add(rule, set.AuthPIAuthMismatch, plain(rule, func(t *testing.T, tr *trade) []byte {
		other := must[[]byte](t)(der.Marshal(tr.Gateway(t, "G-0002").ExchangeCert.CertThumb()))
		tr.signAnew(t, func(tbe *set.PIDualSignedTBE) { tbe.Value.Value.Extensions[0].Value = other })
		return tr.authorize(t, authorization())
	}))
	rule = "the account is the cardholder's"
	account := rule
	add(rule, set.AuthPIAuthMismatch, func(t *testing.T) (set.AuthCode, set.AuthCode) {
		tr := newTrade(t)
		tr.initiate(t)
		tr.card.Account.PAN = set.PAN("4000000000000002")
		if err := tr.take(tr.request(t)); err != nil {
			t.Fatal(err)
		}
		return judge(t, tr, tr.authorize(t, authorization()), account)
	})
	rule = "the card is of the gateway's brand"
	brand := rule
	add(rule, set.AuthCardMerchBrandMismatch, func(t *testing.T) (set.AuthCode, set.AuthCode) {
		tr := taken(t)
		rival := tr.Rival(t, "Rival").Card(t, testPAN)
		tr.card.Endpoint, tr.card.Account = rival.Endpoint, rival.Account
		tr.sale.PI = must[[]byte](t)(marshalPI(must[*set.MessageWrapper](t)(set.Decode(tr.request(t)))))
		return judge(t, tr, tr.authorize(t, authorization()), brand)
	})
	rule = "the terms of repeated payment are the cardholder's"
	add(rule, set.AuthInstallRecurMismatch, onTerms(rule, set.Instalments(3), func(t *testing.T, tr *trade) []byte {
		tr.sale.InstallRecurData = set.Instalments(300)
		return tr.authorize(t, authorization())
	}))
	rule = "an instalment is left"
	add(rule, set.AuthInstallRecurMismatch, onTerms(rule, set.Instalments(2), func(t *testing.T, tr *trade) []byte {
		r := authorization()
		r.Amount = usd(1, 0)
		r.AuthToken = tr.approve(t, r, set.Authorization{}).AuthToken
		return tr.authorize(t, tr.overdrawn(t, r))
	}))
	rule = "the recurring payment has not expired"
	add(rule, set.AuthRecurringExpired, onTerms(rule, set.RecurringPayments(1, time.Now().AddDate(0, 0, -1)), func(t *testing.T, tr *trade) []byte {
		return tr.authorize(t, authorization())
	}))
	rule = "the recurring payment is due"
	add(rule, set.AuthRecurringTooSoon, onTerms(rule, set.RecurringPayments(28, time.Now().AddDate(1, 0, 0)), func(t *testing.T, tr *trade) []byte {
		r := authorization()
		r.AuthToken = tr.approve(t, r, set.Authorization{}).AuthToken
		return tr.authorize(t, r)
	}))
	rule = "the amount is within the cardholder's"
	add(rule, set.AuthAmountError, plain(rule, func(t *testing.T, tr *trade) []byte {
		r := authorization()
		r.Amount.Amount++
		return tr.authorize(t, r)
	}))
	rule = "details of a sale are of a sale"
	add(rule, set.AuthInvalidTransaction, plain(rule, func(t *testing.T, tr *trade) []byte {
		r := authorization()
		r.SaleDetail = &set.SaleDetail{}
		return tr.authorize(t, r)
	}))
	b.try(t, "AuthReq")
}

// overdrawn is a request with a token that its gateway should not have made: the last instalment gives none.
func (tr *trade) overdrawn(t *testing.T, r set.AuthorizationRequest) set.AuthorizationRequest {
	t.Helper()
	o := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, r)))
	*o.Token.RecurringCount = 2
	pan := set.PANToken{PAN: o.PANData.PAN, CardExpiry: o.PANData.CardExpiry, ExNonce: set.NewNonce()}
	token := must[cms.ContentInfo](t)(cms.EncX(cms.SignedEncrypted{TBE: set.ContentAuthTokenTBE, TBS: set.ContentAuthTokenTBS}, *o.Token, pan, pan.Pack(),
		cms.WithPANToken, nil, nil, []cms.Signer{{Key: tr.gateway.SignKey, Certificate: tr.gateway.SignCert.X509}}, tr.gateway.ExchangeCert.X509))
	r.AuthToken = must[[]byte](t)(der.Marshal(set.AuthToken(token)))
	return r
}

// ours and foreign are capture tokens for an authorization of the price.
func (tr *trade) tokens(t *testing.T) (authRRPID set.RRPID, ours, foreign []byte) {
	t.Helper()
	r := authorization()
	ours = tr.approve(t, r, set.Authorization{}).CapToken
	other := tr.Gateway(t, "G-0009")
	enc := must[cms.ContentInfo](t)(cms.Enc(cms.SignedEncrypted{TBE: set.ContentCapTokenTBE, TBS: set.ContentCapTokenData},
		set.CapTokenData{AuthRRPID: r.RRPID, AuthAmt: price}, nil, nil, cms.Signer{Key: other.SignKey, Certificate: other.SignCert.X509},
		tr.gateway.ExchangeCert.X509))
	return r.RRPID, ours, must[[]byte](t)(der.Marshal(set.CapToken{Enc: &enc}))
}

func TestCaptureRules(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	id, ours, _ := tr.tokens(t)
	more := price
	more.Amount++
	for rule, c := range map[string]struct {
		req  *set.CaptureRequest
		want set.CapCode
	}{
		"the token is of this authorization":     {tr.capture(set.NewRRPID(), price, ours), set.CapInvalidCapToken},
		"the amount is within the authorization": {tr.capture(id, more, ours), set.CapInvalidAuthData},
	} {
		item := tr.opened(t, c.req)
		if without := item.JudgeWithout(rule); item.Code != c.want || without != set.CapSuccess {
			t.Errorf("breach of %q: %v, want %v; %v without the rule", rule, item.Code, c.want, without)
		}
	}
}

func (tr *trade) opened(t *testing.T, r *set.CaptureRequest) set.OpenedCapItem {
	t.Helper()
	return received(t, tr.gateway, tr.Now, must[[]byte](t)(tr.merchant.CapReq(tr.Now, r)), set.CapReqType, tr.gateway.OpenCapReq).Items[0]
}

// A token that is not there, and one of another gateway, tell no amount: taking out the rule about them
// leaves them refused, by another code.
func TestTokenRules(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	id, _, foreign := tr.tokens(t)
	for rule, c := range map[string]struct {
		token      []byte
		capture    set.CapCode
		adjustment set.CapRevOrCredCode
	}{
		"a token is there":            {nil, set.CapTokenMissing, set.CapRevOrCredMissingCapToken},
		"the token is this gateway's": {foreign, set.CapInvalidCapToken, set.CapRevOrCredInvalidCapToken},
	} {
		item := tr.opened(t, tr.capture(id, price, c.token))
		if item.Code != c.capture {
			t.Errorf("capture, breach of %q: %v, want %v", rule, item.Code, c.capture)
		}
		if item.JudgeWithout(rule) == set.CapSuccess {
			t.Errorf("capture, without %q: taken, though the token says nothing", rule)
		}
		adjusted := tr.adjusted(t, tr.adjust(set.Credit, id, c.token)).Items[0]
		if adjusted.Code != c.adjustment {
			t.Errorf("credit, breach of %q: %v, want %v", rule, adjusted.Code, c.adjustment)
		}
		if adjusted.JudgeWithout(rule) == set.CapRevOrCredSuccess {
			t.Errorf("credit, without %q: taken, though the token says nothing", rule)
		}
	}
	for _, request := range []string{"CapReq", "adjustment"} {
		if got := set.RuleNames()[request]; len(got) != map[string]int{"CapReq": 4, "adjustment": 8}[request] {
			t.Errorf("%s has %d rules: are all attacked?", request, len(got))
		}
	}
}

func TestAdjustmentRules(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	id, ours, _ := tr.tokens(t)
	adjust := func(a set.Adjustment, change func(*set.Adjusted)) *set.AdjustmentRequest {
		r := tr.adjust(a, id, ours)
		change(&r.Items[0])
		return r
	}
	more, less := price, price
	more.Amount++
	less.Amount--
	for rule, c := range map[string]struct {
		req  *set.AdjustmentRequest
		want set.CapRevOrCredCode
	}{
		"the token is of this authorization":      {tr.adjust(set.Credit, set.NewRRPID(), ours), set.CapRevOrCredInvalidCapToken},
		"the capture is within the authorization": {adjust(set.CreditReversal, func(a *set.Adjusted) { a.Payload.CapReqAmt = more }), set.CapRevOrCredCapDataMismatch},
		"no more is undone than was captured":     {adjust(set.Credit, func(a *set.Adjusted) { a.Amount = &more }), set.CapRevOrCredCapDataMismatch},
		"a capture is undone as a whole":          {adjust(set.CaptureReversal, func(a *set.Adjusted) { a.Amount = &less }), set.CapRevOrCredCapDataMismatch},
		"another account is named":                {adjust(set.Credit, func(a *set.Adjusted) { a.NewAccount = true }), set.CapRevOrCredMissingCapData},
	} {
		item := tr.adjusted(t, c.req).Items[0]
		if without := item.JudgeWithout(rule); item.Code != c.want || without != set.CapRevOrCredSuccess {
			t.Errorf("breach of %q: %v, want %v; %v without the rule", rule, item.Code, c.want, without)
		}
	}
	tr.merchant = tr.TrustedMerchant(t, settest.MerchantID)
	r := adjust(set.CaptureReversal, func(a *set.Adjusted) { a.NewAccount = true })
	r.Account = &set.PANToken{PAN: set.PAN(testPAN), CardExpiry: tr.card.Account.CardExpiry, ExNonce: set.NewNonce()}
	rule := "another account is only for a credit"
	item := tr.adjusted(t, r).Items[0]
	if without := item.JudgeWithout(rule); item.Code != set.CapRevOrCredCapDataMismatch || without != set.CapRevOrCredSuccess {
		t.Errorf("breach of %q: %v; %v without the rule", rule, item.Code, without)
	}
}

func TestReversalRules(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	auth := authorization()
	token := tr.approve(t, auth, set.Authorization{}).CapToken
	_, _, foreign := tr.tokens(t)
	more := price
	more.Amount++
	b := breaches[set.AuthRevCode]{}
	add := func(rule string, want set.AuthRevCode, open func(*testing.T) *set.OpenedAuthRevReq) {
		b[rule] = struct {
			attack func(*testing.T) (with, without set.AuthRevCode)
			want   set.AuthRevCode
		}{func(t *testing.T) (set.AuthRevCode, set.AuthRevCode) {
			o := open(t)
			return o.Code, o.JudgeWithout(rule)
		}, want}
	}
	add("the token is this gateway's", set.AuthRevInvalidCapToken, func(t *testing.T) *set.OpenedAuthRevReq {
		return tr.reverse(t, tr.reversal(auth, foreign, usd(0, 0)))
	})
	add("the token is of this authorization", set.AuthRevInvalidCapToken, func(t *testing.T) *set.OpenedAuthRevReq {
		return tr.reverse(t, tr.reversal(authorization(), token, usd(0, 0)))
	})
	add("the transaction is the cardholder's", set.AuthRevInvalidTransaction, func(t *testing.T) *set.OpenedAuthRevReq {
		other := taken(t)
		mixed := &trade{World: tr.World, card: tr.card, merchant: tr.merchant, gateway: tr.gateway, sale: ptr(*tr.sale)}
		mixed.sale.TransIDs = other.sale.TransIDs
		return mixed.reverse(t, mixed.reversal(auth, token, usd(0, 0)))
	})
	add("the merchant is the cardholder's", set.AuthRevInvalidTransaction, func(t *testing.T) *set.OpenedAuthRevReq {
		thief := &trade{World: tr.World, card: tr.card, merchant: tr.Merchant(t, "M-0002"), gateway: tr.gateway, sale: tr.sale}
		return thief.reverse(t, thief.reversal(auth, token, usd(0, 0)))
	})
	add("no more stays than was authorized", set.AuthRevInvalidAmount, func(t *testing.T) *set.OpenedAuthRevReq {
		return tr.reverse(t, tr.reversal(auth, token, more))
	})
	add("the authorization is named", set.AuthRevMissingCapToken, func(t *testing.T) *set.OpenedAuthRevReq {
		o := tr.reverse(t, tr.reversal(auth, nil, usd(0, 0)))
		o.Data.AuthReqData, o.Of.Data = nil, set.AuthReqData{}
		o.Data.AuthNewAmt.Currency = 0
		o.Code = o.JudgeWithout("")
		return o
	})
	b.try(t, "AuthRevReq")
}

func TestBatchRules(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	op := func(o set.BatchOperation, change ...func(*set.BatchAdminReqData)) set.BatchAdminReqData {
		d := set.BatchAdminReqData{BatchID: ptr(set.Natural(7)), BatchOperation: &o}
		for _, f := range change {
			f(&d)
		}
		return d
	}
	brands := func(x ...set.BrandAndBIN) func(*set.BatchAdminReqData) {
		return func(d *set.BatchAdminReqData) { d.BrandAndBINSeq = x }
	}
	state := func(s set.BatchState, bs ...set.BrandAndBIN) *set.Batch {
		b := batchOf(tr, 3)
		b.State, b.Brands = s, bs
		return b
	}
	status := &set.BatchStatus{BatchDetails: must2(t, batchOf(tr, 2).Details, 840)}
	right := &set.BatchStatus{BatchDetails: must2(t, batchOf(tr, 3).Details, 840)}
	b := breaches[set.BAStatus]{}
	for rule, c := range map[string]struct {
		asked set.BatchAdminReqData
		batch *set.Batch
		want  set.BAStatus
	}{
		"a batch is opened once":               {op(set.BatchOpen), state(set.BatchIsOpen), set.BABatchAlreadyOpen},
		"a batch closed is not opened again":   {op(set.BatchOpen), state(set.BatchClosed), set.BABatchIDUnavailable},
		"the brands are served":                {op(set.BatchOpen, brands(set.BrandAndBIN{BrandID: "Other"})), state(set.BatchUnused), set.BABrandNotSupported},
		"the BINs are served":                  {op(set.BatchOpen, brands(set.BrandAndBIN{BrandID: settest.Brand, BIN: "400000"})), state(set.BatchUnused), set.BAUnknownBIN},
		"the batch exists":                     {set.BatchAdminReqData{}, state(set.BatchUnused), set.BAUnknownBatchID},
		"what is purged or closed is open":     {op(set.BatchClose), state(set.BatchClosed), set.BAUnknownBatchID},
		"the brands purged are the batch's":    {op(set.BatchPurge, brands(set.BrandAndBIN{BrandID: "Other"})), state(set.BatchIsOpen, set.BrandAndBIN{BrandID: settest.Brand}), set.BABrandBatchMismatch},
		"the totals of a batch to close agree": {op(set.BatchClose, func(d *set.BatchAdminReqData) { d.BatchStatus = status }), state(set.BatchIsOpen), set.BATotalsOutOfBalance},
		"the page starts somewhere": {set.BatchAdminReqData{ReturnTransactionDetail: &set.ReturnTransactionDetail{StartingPoint: 4, MaximumItems: 1}},
			state(set.BatchIsOpen), set.BAUnknownStartingPoint},
	} {
		o := &set.OpenedBatchAdminReq{Data: c.asked}
		b[rule] = struct {
			attack func(*testing.T) (with, without set.BAStatus)
			want   set.BAStatus
		}{func(*testing.T) (set.BAStatus, set.BAStatus) { return o.Judge(c.batch), o.JudgeWithout(rule, c.batch) }, c.want}
	}
	b.try(t, "BatchAdminReq")
	for name, c := range map[string]struct {
		asked set.BatchAdminReqData
		batch *set.Batch
	}{
		"open":                        {op(set.BatchOpen, brands(set.BrandAndBIN{BrandID: settest.Brand, BIN: "411111"})), state(set.BatchUnused)},
		"purge all":                   {op(set.BatchPurge), state(set.BatchIsOpen)},
		"purge one brand":             {op(set.BatchPurge, brands(set.BrandAndBIN{BrandID: settest.Brand})), state(set.BatchIsOpen, set.BrandAndBIN{BrandID: settest.Brand})},
		"close":                       {op(set.BatchClose), state(set.BatchIsOpen)},
		"close with the right totals": {op(set.BatchClose, func(d *set.BatchAdminReqData) { d.BatchStatus = right }), state(set.BatchIsOpen)},
		"ask about a closed batch":    {set.BatchAdminReqData{ReturnBatchSummaryInd: true}, state(set.BatchClosed)},
		"ask for the last page":       {set.BatchAdminReqData{ReturnTransactionDetail: &set.ReturnTransactionDetail{StartingPoint: 3, MaximumItems: 1}}, state(set.BatchIsOpen)},
		"details of a batch being opened": {op(set.BatchOpen, func(d *set.BatchAdminReqData) {
			d.ReturnTransactionDetail = &set.ReturnTransactionDetail{StartingPoint: 9, MaximumItems: 1}
		}), state(set.BatchUnused)},
	} {
		if got := (&set.OpenedBatchAdminReq{Data: c.asked}).Judge(c.batch); got != set.BASuccess {
			t.Errorf("%s: %v", name, got)
		}
	}
}
