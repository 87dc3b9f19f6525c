package gateway_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/gateway"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/settest"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

func ptr[T any](v T) *T { return &v }

// ask posts a request and wants an answer that open can read; a copy of it must get the same octets.
func ask[T any](t *testing.T, l *lab, request []byte, open func(now time.Time, response []byte) (T, error)) T {
	t.Helper()
	status, response := l.post(t, request)
	if status != http.StatusOK {
		t.Fatalf("status %d: %s", status, response)
	}
	if _, again := l.post(t, request); !bytes.Equal(again, response) {
		t.Error("the answer to a replay differs")
	}
	return must[T](t)(open(l.now(), response))
}

// next is the next authorization of the purchase, with the newest token.
func (o *order) next(amount set.CurrencyAmount) *order {
	n := *o
	n.auth = set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: amount, AuthToken: o.answer.AuthToken, Subsequent: o.auth.Subsequent}
	return &n
}

// reverse asks for a reversal that leaves an amount.
func (o *order) reverse(t *testing.T, remains set.CurrencyAmount) *set.Reversed {
	t.Helper()
	r := set.ReversalRequest{RRPID: set.NewRRPID(), NewAmount: remains, Of: o.auth, CapToken: o.token}
	request := must[[]byte](t)(o.sale.AuthRevReq(o.merchant, o.now(), r))
	return ask(t, o.lab, request, func(now time.Time, b []byte) (*set.Reversed, error) {
		return o.sale.OpenAuthRevRes(o.merchant, now, r, b)
	})
}

func (o *order) wantReversal(t *testing.T, remains set.CurrencyAmount, want set.AuthRevCode) *set.Reversed {
	t.Helper()
	got := o.reverse(t, remains)
	if got.Code != want {
		t.Errorf("reversal to %v: %v, want %v", remains, got.Code, want)
	}
	return got
}

// adjusted is one item of an adjustment, of a capture of the given amount.
func (o *order) adjusted(captured set.CurrencyAmount, amount *set.CurrencyAmount) set.Adjusted {
	return set.Adjusted{
		TransIDs: o.sale.TransIDs, AuthRRPID: o.auth.RRPID, CapToken: o.token, Date: o.now(), Amount: amount,
		Payload: set.CapPayload{CapDate: o.now(), CapReqAmt: captured},
	}
}

// adjust asks for adjustments and gives the results.
func (l *lab) adjust(t *testing.T, a set.Adjustment, items ...set.Adjusted) []set.CapRevOrCredResPayload {
	t.Helper()
	r := &set.AdjustmentRequest{Adjustment: a, RRPID: set.NewRRPID(), GatewayCert: l.endpoint.ExchangeCert.X509.Raw, Items: items}
	data := ask(t, l, must[[]byte](t)(l.merchant.AdjustmentReq(l.now(), r)),
		func(now time.Time, b []byte) (*set.CapRevOrCredResData, error) {
			return l.merchant.OpenAdjustmentRes(now, r, b)
		})
	var out []set.CapRevOrCredResPayload
	for _, item := range data.CapRevOrCredResItemSeq {
		out = append(out, item.CapRevOrCredResPayload)
	}
	return out
}

func (l *lab) wantAdjusted(t *testing.T, a set.Adjustment, item set.Adjusted, want set.CapRevOrCredCode) set.CapRevOrCredResPayload {
	t.Helper()
	got := l.adjust(t, a, item)[0]
	if got.CapRevOrCredCode != want {
		t.Errorf("%v: %v, want %v", a, got.CapRevOrCredCode, want)
	}
	return got
}

func (l *lab) wantTold(t *testing.T, want ...string) {
	t.Helper()
	var diff string
	end := time.Now().Add(10 * time.Second)
	for diff = cmp.Diff(want, l.host.told()); diff != "" && time.Now().Before(end); diff = cmp.Diff(want, l.host.told()) {
		time.Sleep(5 * time.Millisecond)
	}
	if diff != "" {
		t.Errorf("the issuer was told:\n%s", diff)
	}
}

func TestSale(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		o := l.order(t, l.merchant)
		o.auth.CaptureNow, o.auth.SaleDetail = true, &set.SaleDetail{MerOrderNum: "4711", OKToPrintPhoneInd: true}
		request, response := o.authorize(t, set.AuthApproved)
		if c := o.answer.Capture; c == nil || c.CapCode != set.CapSuccess || *c.BatchID != 1 || *c.BatchSequenceNum != 1 {
			t.Errorf("captured %+v", c)
		}
		if _, again := l.post(t, request); !bytes.Equal(again, response) {
			t.Error("the answer to a replay differs")
		}
		l.wantState(t, "captured approved acknowledged")
		l.wantTold(t, "clear 42.50 USD")
		// It has no token, but is undone and credited all the same; by its merchant.
		o.wantCapture(t, o.capture(price), set.CapDuplicateRequest)
		if got := o.reverse(t, usd(0)); got.Code != set.AuthRevInvalidTransaction || got.New == nil || !got.New.CapResPayload.CapAmt.Equal(price) {
			t.Errorf("a sale is reversed: %+v", got)
		}
		l.wantAdjusted(t, set.Credit, o.adjusted(price, ptr(usd(1000))), set.CapRevOrCredSuccess)
		l.wantAdjusted(t, set.CreditReversal, o.adjusted(price, ptr(usd(1000))), set.CapRevOrCredSuccess)
		foreign := o.adjusted(price, nil)
		foreign.TransIDs.XID = set.NewXID()
		l.wantAdjusted(t, set.CaptureReversal, foreign, set.CapRevOrCredMissingCapToken)
		l.wantAdjusted(t, set.CaptureReversal, o.adjusted(price, ptr(usd(1))), set.CapRevOrCredCapDataMismatch)
		l.wantAdjusted(t, set.CaptureReversal, o.adjusted(price, nil), set.CapRevOrCredSuccess)
		o.wantCapture(t, o.capture(usd(4000)), set.CapSuccess)
		l.wantTold(t, "clear 42.50 USD", "refund 10.00 USD", "take back refund 10.00 USD", "take back clear 42.50 USD", "clear 40.00 USD")

		// Into a batch that is not there: authorized, and to be captured later.
		o = l.order(t, l.merchant)
		o.auth.CaptureNow, o.auth.SaleDetail = true, &set.SaleDetail{BatchID: ptr(set.Natural(77)), OKToPrintPhoneInd: true}
		o.authorize(t, set.AuthApproved)
		if c := o.answer.Capture; c == nil || c.CapCode != set.CapBatchUnknown {
			t.Errorf("captured %+v", c)
		}
		l.wantState(t, "authorized approved")
		o.wantCapture(t, o.capture(price), set.CapSuccess)
		// A sale that the issuer declines captures nothing.
		l.host.answer(finnet.InsufficientFunds)
		o = l.order(t, l.merchant)
		o.auth.CaptureNow = true
		o.authorize(t, set.AuthDeclined)
		l.wantState(t, "declined declined")
	})
}

// A sale whose answer could not be signed is answered from the records.
func TestSaleWithoutHSM(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		o := l.order(t, l.merchant)
		o.auth.CaptureNow = true
		request := o.authReq(t)
		l.signer.away.Store(true)
		if status, body := l.post(t, request); status != http.StatusServiceUnavailable {
			t.Errorf("status %d: %s", status, body)
		}
		l.signer.away.Store(false)
		status, response := l.post(t, request)
		o.wantAuth(t, status, response, set.AuthApproved)
		if c := o.answer.Capture; c == nil || c.CapCode != set.CapSuccess || *c.BatchID != 1 || *c.BatchSequenceNum != 1 {
			t.Errorf("captured %+v", c)
		}
		l.wantTold(t, "clear 42.50 USD")
	})
}

// Three shipments of one purchase, each authorized with the token of the one before; more than the cardholder
// agreed to is not authorized, whichever tokens there are.
func TestSplitShipment(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		first := l.order(t, l.merchant)
		first.auth.Amount, first.auth.Subsequent = usd(2000), true
		first.authorize(t, set.AuthApproved)
		second := first.next(usd(1000))
		second.authorize(t, set.AuthApproved)
		again := first.next(usd(1000))
		again.authorize(t, set.AuthPIPreviouslyUsed)
		mixed := *first // with what another authorization of the purchase was made of
		mixed.auth.AuthToken, mixed.token = first.answer.AuthToken, nil
		mixed.wantReversal(t, usd(0), set.AuthRevInvalidTransaction)
		second.next(usd(1251)).authorize(t, set.AuthAmountError)

		// A smaller first shipment has a token of its own, with which more is left.
		rest := first.wantReversal(t, usd(1500), set.AuthRevApproved)
		first.token, first.answer.AuthToken = rest.CapToken, rest.AuthToken
		first.next(usd(1751)).authorize(t, set.AuthAmountError) // 15.00 + 10.00 are authorized of 42.50
		third := first.next(usd(1750))
		third.authorize(t, set.AuthApproved)
		second.next(usd(1)).authorize(t, set.AuthAmountError)
		for _, o := range []*order{first, second, third} {
			o.wantCapture(t, o.capture(usd(1000)), set.CapSuccess)
		}
		eventually(t, "three clearings", func() bool { _, _, _, cleared := l.host.count(); return cleared == 3 })
	})
}

func TestInstalments(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		o := l.orderOn(t, l.merchant, set.Instalments(2))
		o.auth.Amount = usd(1000)
		o.authorize(t, set.AuthApproved)
		first := *o
		second := o.next(usd(1000))
		second.authorize(t, set.AuthApproved)
		if second.answer.AuthToken != nil {
			t.Error("a token after the last instalment")
		}
		rest := first.wantReversal(t, usd(500), set.AuthRevApproved)
		first.answer.AuthToken = rest.AuthToken
		third := first.next(usd(1000))
		third.authorize(t, set.AuthInstallRecurMismatch)
	})
}

// The gateway renews between instalments, while it serves: what it gave for the former keys is good to the end.
func TestRenewalAmongInstalments(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		waiting := l.order(t, l.merchant)
		o := l.orderOn(t, l.merchant, set.Instalments(3))
		o.auth.Amount = usd(1000)
		request, response := o.authorize(t, set.AuthApproved)
		first := *o
		l.renew(t)
		if _, again := l.post(t, request); !bytes.Equal(again, response) {
			t.Error("the answer to a replay from before differs")
		}
		second := o.next(usd(1000))
		second.sale.GatewayCert = l.endpoint.ExchangeCert.X509.Raw
		second.authorize(t, set.AuthApproved)
		l.renew(t)
		third := second.next(usd(1000))
		third.sale.GatewayCert = l.endpoint.ExchangeCert.X509.Raw
		third.authorize(t, set.AuthApproved)
		first.wantCapture(t, first.capture(usd(1000)), set.CapSuccess)
		l.wantAdjusted(t, set.Credit, first.adjusted(usd(1000), ptr(usd(200))), set.CapRevOrCredSuccess)
		second.wantReversal(t, usd(0), set.AuthRevApproved)
		// Its payment instructions are for the first of the three keys.
		waiting.authorize(t, set.AuthApproved)
		waiting.wantReversal(t, usd(0), set.AuthRevApproved)
	})
}

func TestRecurringPayments(t *testing.T) {
	t.Parallel()
	l := newLab(t, sqldbtest.SQLite(t))
	l.start(t, nil)
	o := l.orderOn(t, l.merchant, set.RecurringPayments(28, time.Now().AddDate(0, 6, 0)))
	o.authorize(t, set.AuthApproved)
	first := *o
	o.next(price).authorize(t, set.AuthRecurringTooSoon)
	day := int64(24 * time.Hour)
	l.ahead.Store(28 * day)
	second := o.next(price)
	second.authorize(t, set.AuthApproved) // the sum is not bounded
	// A token made anew for the first does not let the third come early.
	first.answer.AuthToken = first.wantReversal(t, usd(100), set.AuthRevApproved).AuthToken
	l.ahead.Store(55 * day)
	first.next(price).authorize(t, set.AuthRecurringTooSoon)
	l.ahead.Store(56 * day)
	second.next(price).authorize(t, set.AuthApproved)
}

// W-PU1: an unsigned purchase does not tell who pays, and may be forbidden; the gateway's records tell it from a
// signed one, also where a token stands for it.
func unsignedIsTold(t *testing.T) {
	t.Parallel()
	for _, required := range []bool{true, false} {
		l := newLab(t, sqldbtest.SQLite(t))
		if !required {
			l.endpoint = l.OpenGateway(t, "G-0007")
		}
		l.start(t, nil)
		l.card.Endpoint = l.Endpoint(t) // no certificate
		if !required {
			o := l.orderOn(t, l.merchant, set.Instalments(2))
			o.auth.Amount = usd(1000)
			o.authorize(t, set.AuthApproved)
			o.wantCapture(t, o.capture(usd(1000)), set.CapSuccess)
			o.next(usd(1000)).authorize(t, set.AuthApproved)
			l.wantCardholder(t, set.CardholderUnsigned, set.CardholderUnsigned)
			continue
		}
		// Wallet and merchant refuse by themselves: so this merchant has an unsigned purchase from elsewhere.
		open := newLab(t, sqldbtest.SQLite(t))
		open.World, open.merchant, open.card = l.World, l.merchant, l.card
		open.endpoint = l.OpenGateway(t, "G-0007")
		o := open.order(t, l.merchant)
		o.lab, o.sale.GatewayCert = l, l.endpoint.ExchangeCert.X509.Raw
		o.authorize(t, set.AuthSignatureRequired)
		l.wantCounts(t, 0, 0, 0, 0)
		l.wantCardholder(t, set.CardholderUnsigned)
		l.card = l.Card(t, pan)
		o = l.orderOn(t, l.merchant, set.Instalments(2))
		o.auth.Amount = usd(1000)
		o.authorize(t, set.AuthApproved)
		o.next(usd(1000)).authorize(t, set.AuthApproved)
		l.wantCardholder(t, set.CardholderCertified, set.CardholderCertified, set.CardholderUnsigned)
	}
}

// The date in the header is not signed: whoever has recorded a request can send it with a new one when its answer is
// kept no more. The merchant's own date is inside.
func TestRedatedReplay(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		o := l.order(t, l.merchant)
		o.authorize(t, set.AuthApproved)
		o.wantCapture(t, o.capture(price), set.CapSuccess)
		item := o.adjusted(price, ptr(usd(1000)))
		r := &set.AdjustmentRequest{Adjustment: set.Credit, RRPID: set.NewRRPID(), GatewayCert: l.endpoint.ExchangeCert.X509.Raw, Items: []set.Adjusted{item}}
		request := must[[]byte](t)(l.merchant.AdjustmentReq(l.now(), r))
		if status, _ := l.post(t, request); status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
		l.wantTold(t, "clear 42.50 USD", "refund 10.00 USD")
		l.ahead.Store(int64(26 * time.Hour))
		if n := must[int64](t)(l.db.ExpireAnswers(t.Context(), l.now())); n == 0 {
			t.Fatal("the answer is still kept")
		}
		w := must[*set.MessageWrapper](t)(set.Decode(request))
		w.MessageHeader.Date = l.now().UTC().Truncate(time.Second)
		l.wantError(t, must[[]byte](t)(set.Encode(*w)), set.MessageTooOld)
		l.wantTold(t, "clear 42.50 USD", "refund 10.00 USD")
	})
}

// wantCardholder wants the gateway to say of its authorizations, the latest first, how the cardholder is known.
func (l *lab) wantCardholder(t *testing.T, want ...set.Cardholder) {
	t.Helper()
	var got []set.Cardholder
	for _, tr := range must[[]gateway.Transaction](t)(gateway.Transactions(t.Context(), l.db, l.sealer, 100)) {
		got = append(got, tr.Cardholder)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("cardholders (-want +got):\n%s", diff)
	}
}

// Only a merchant whose certificate allows it is told the card number.
func TestCardNumber(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		o := l.order(t, l.merchant)
		o.authorize(t, set.AuthApproved)
		if o.answer.PANToken != nil {
			t.Error("a merchant is told the card number")
		}
		o = l.order(t, l.TrustedMerchant(t, "M-0009"))
		o.authorize(t, set.AuthApproved)
		if o.answer.PANToken == nil || string(o.answer.PANToken.PAN) != pan {
			t.Fatal("a merchant who may know the card number is not told it")
		}
		c := o.capture(price)
		c.Account = o.answer.PANToken
		o.wantCapture(t, c, set.CapSuccess)
		checkSecrecy(t, l)
	})
}

// What the issuer wants to say to the cardholder passes the merchant unread.
func TestCardMessage(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		l.host.answer("01")
		o := l.order(t, l.merchant)
		o.authorize(t, set.AuthCallIssuer)
		var m set.AcqCardMsg
		if err := set.Unmarshal(o.answer.AcqCardMsg, &m); err != nil {
			t.Fatal(err)
		}
		got := must[*set.AcqCardCodeMsg](t)(o.purchase.OpenCardMessage(l.card.Endpoint, l.now(), &l.card.Account, &m))
		if got.AcqCardCode != set.AcqCardCallCustomerService || got.AcqCardMsgData.AcqCardText == "" {
			t.Errorf("message %+v", got)
		}
	})
}

func TestReversal(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		o := l.order(t, l.merchant)
		o.authorize(t, set.AuthApproved)
		o.wantReversal(t, usd(4251), set.AuthRevInvalidAmount)
		l.host.mu.Lock()
		l.host.refuse, l.host.late = 1, true
		l.host.mu.Unlock()
		part := o.wantReversal(t, usd(3000), set.AuthRevApproved)
		if !part.New.AuthHeader.AuthAmt.Equal(usd(3000)) || part.CapToken == nil {
			t.Errorf("a part stays: %+v", part)
		}
		o.wantReversal(t, usd(3001), set.AuthRevInvalidAmount)
		o.wantCapture(t, o.capture(usd(3001)), set.CapInvalidAuthData) // with the former token
		o.token = part.CapToken
		o.wantCapture(t, o.capture(usd(3000)), set.CapSuccess)
		l.wantTold(t, "reverse to 30.00 USD", "clear 30.00 USD")
		if got := o.wantReversal(t, usd(0), set.AuthRevInvalidTransaction); got.New == nil || got.New.CapResPayload == nil {
			t.Error("the merchant is not told that the authorization is captured")
		}

		o = l.order(t, l.merchant)
		o.authorize(t, set.AuthApproved)
		other := l.order(t, l.merchant)
		other.authorize(t, set.AuthApproved)
		// The reversal must name the authorization by all that it was made of.
		mixed := *o
		mixed.sale, mixed.token = other.sale, nil
		mixed.wantReversal(t, usd(0), set.AuthRevInvalidTransaction)
		o.wantReversal(t, usd(0), set.AuthRevApproved)
		l.wantTold(t, "reverse to 30.00 USD", "clear 30.00 USD", "reverse to 0 000")
		o.wantReversal(t, usd(0), set.AuthRevApproved) // as it is already
		o.wantCapture(t, o.capture(price), set.CapInvalidAuthData)
		// The purchase may be authorized again.
		eventually(t, "the payment instructions are free", func() bool {
			o.auth.RRPID = set.NewRRPID()
			status, response := l.post(t, o.authReq(t))
			if status != http.StatusOK {
				t.Fatalf("status %d", status)
			}
			return must[*set.Authorized](t)(o.sale.OpenAuthRes(o.merchant, o.now(), o.auth, response)).Header.AuthCode == set.AuthApproved
		})
	})
}

// A merchant whose request got lost, or its answer, takes the authorization back whatever became of it.
func TestReversalOfTheUnknown(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		late := l.order(t, l.merchant)
		request := late.authReq(t)
		late.wantReversal(t, usd(1000), set.AuthRevInvalidTransaction)
		late.wantReversal(t, usd(0), set.AuthRevApproved)
		l.wantError(t, request, set.UnspecifiedFailure)
		l.wantCounts(t, 0, 0, 0, 0)

		// While the issuer thinks, the reversal waits.
		goOn := make(chan struct{})
		l.host.set(func(*finnet.Authorization) (finnet.Answer, error) {
			<-goOn
			return finnet.Answer{Code: finnet.Approved}, nil
		})
		o := l.order(t, l.merchant)
		done := make(chan struct{})
		request = o.authReq(t)
		go func() {
			defer close(done)
			l.post(t, request)
		}()
		eventually(t, "the question to the issuer", func() bool { asked, _, _, _ := l.host.count(); return asked == 1 })
		time.AfterFunc(300*time.Millisecond, func() { close(goOn) })
		o.wantReversal(t, usd(0), set.AuthRevApproved)
		<-done
		l.wantState(t, "reversed approved acknowledged")
		l.wantCounts(t, 1, 0, 1, 0)
	})
}

// Credits give back no more than was captured, and a credit is undone as it was made.
func TestAdjustments(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		o := l.order(t, l.merchant)
		o.authorize(t, set.AuthApproved)
		of := func(amount int) set.Adjusted { return o.adjusted(price, ptr(usd(amount))) }
		l.wantAdjusted(t, set.Credit, of(1), set.CapRevOrCredOriginalNotFound)
		l.wantAdjusted(t, set.CaptureReversal, o.adjusted(price, nil), set.CapRevOrCredOriginalNotFound)
		o.wantCapture(t, o.capture(price), set.CapSuccess)
		l.wantAdjusted(t, set.Credit, o.adjusted(usd(4000), ptr(usd(1))), set.CapRevOrCredCapDataMismatch)
		l.wantAdjusted(t, set.CreditReversal, of(1000), set.CapRevOrCredOriginalNotFound)

		// Two at once, of which the second is one cent too much.
		got := l.adjust(t, set.Credit, of(2000), of(2251))
		if got[0].CapRevOrCredCode != set.CapRevOrCredSuccess || got[1].CapRevOrCredCode != set.CapRevOrCredCapDataMismatch {
			t.Errorf("credits: %v, %v", got[0].CapRevOrCredCode, got[1].CapRevOrCredCode)
		}
		l.wantAdjusted(t, set.Credit, of(1000), set.CapRevOrCredSuccess)
		l.wantAdjusted(t, set.CaptureReversal, o.adjusted(price, nil), set.CapRevOrCredOriginalProcessed)
		l.wantAdjusted(t, set.CreditReversal, of(1500), set.CapRevOrCredOriginalNotFound) // there was no such credit
		l.wantAdjusted(t, set.CreditReversal, of(2000), set.CapRevOrCredSuccess)
		l.wantAdjusted(t, set.CreditReversal, of(2000), set.CapRevOrCredOriginalNotFound)
		l.wantState(t, "credited approved acknowledged")
		l.wantAdjusted(t, set.CreditReversal, of(1000), set.CapRevOrCredSuccess)
		l.wantState(t, "captured approved acknowledged")
		l.wantAdjusted(t, set.CaptureReversal, o.adjusted(price, nil), set.CapRevOrCredSuccess)
		l.wantState(t, "authorized approved acknowledged")
		o.wantCapture(t, o.capture(usd(100)), set.CapSuccess)
		item := o.adjusted(usd(100), ptr(usd(50)))
		for _, a := range []set.Adjustment{set.Credit, set.Credit, set.CreditReversal, set.CreditReversal} {
			l.wantAdjusted(t, a, item, set.CapRevOrCredSuccess) // each is of another credit
		}
		l.wantState(t, "captured approved acknowledged")
		l.wantTold(t, "clear 42.50 USD", "refund 20.00 USD", "refund 10.00 USD", "take back refund 20.00 USD",
			"take back refund 10.00 USD", "take back clear 42.50 USD", "clear 1.00 USD",
			"refund 0.50 USD", "refund 0.50 USD", "take back refund 0.50 USD", "take back refund 0.50 USD")

		// Another account is not reached by the network.
		trusted := l.TrustedMerchant(t, "M-0009")
		o = l.order(t, trusted)
		o.authorize(t, set.AuthApproved)
		o.wantCapture(t, o.capture(price), set.CapSuccess)
		item = o.adjusted(price, nil)
		item.NewAccount = true
		r := &set.AdjustmentRequest{Adjustment: set.Credit, RRPID: set.NewRRPID(), GatewayCert: o.sale.GatewayCert, Items: []set.Adjusted{item}, Account: o.answer.PANToken}
		data := ask(t, l, must[[]byte](t)(trusted.AdjustmentReq(l.now(), r)),
			func(now time.Time, b []byte) (*set.CapRevOrCredResData, error) {
				return trusted.OpenAdjustmentRes(now, r, b)
			})
		if code := data.CapRevOrCredResItemSeq[0].CapRevOrCredResPayload.CapRevOrCredCode; code != set.CapRevOrCredUnspecifiedFailure {
			t.Errorf("credit to another account: %v", code)
		}
		l.wantState(t, "captured approved acknowledged")
	})
}

// What the issuer is told comes in the order of the requests, though it loses what it is told or its answers.
func TestOrderAtTheIssuer(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		for _, late := range []bool{false, true} {
			l.host.mu.Lock()
			l.host.refuse, l.host.late, l.host.advices, l.host.copies = 3, late, nil, 0
			l.host.mu.Unlock()
			o := l.order(t, l.merchant)
			o.authorize(t, set.AuthApproved)
			o.wantCapture(t, o.capture(price), set.CapSuccess)
			l.wantAdjusted(t, set.CaptureReversal, o.adjusted(price, nil), set.CapRevOrCredSuccess)
			o.wantCapture(t, o.capture(usd(4000)), set.CapSuccess)
			l.wantAdjusted(t, set.Credit, o.adjusted(usd(4000), ptr(usd(4000))), set.CapRevOrCredSuccess)
			l.wantState(t, "credited approved acknowledged")
			l.wantTold(t, "clear 42.50 USD", "take back clear 42.50 USD", "clear 40.00 USD", "refund 40.00 USD")
			l.host.mu.Lock()
			if (l.host.copies > 0) != late {
				t.Errorf("%d messages came again", l.host.copies)
			}
			l.host.mu.Unlock()
		}
	})
}

// A capture that the issuer refuses is shown, and is not to be taken back there.
func TestRefusedCapture(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		l.host.mu.Lock()
		l.host.deny = map[string]finnet.ResponseCode{"clear": finnet.InsufficientFunds}
		l.host.mu.Unlock()
		o := l.order(t, l.merchant)
		o.authorize(t, set.AuthApproved)
		o.wantCapture(t, o.capture(price), set.CapSuccess)
		l.wantState(t, "captured approved refused")
		page := l.batch(t, &set.BatchRequest{Detail: &set.ReturnTransactionDetail{MaximumItems: 10, ErrorsOnlyInd: true}}, set.BASuccess).TransDetails
		if page == nil || *page.TransactionDetailSeq[0].TransactionStatus != set.TransactionUnspecifiedFailure {
			t.Errorf("items with errors: %+v", page)
		}
		l.host.mu.Lock()
		l.host.deny = nil
		l.host.mu.Unlock()
		l.wantAdjusted(t, set.CaptureReversal, o.adjusted(price, nil), set.CapRevOrCredSuccess)
		o.wantCapture(t, o.capture(price), set.CapSuccess)
		l.wantTold(t, "clear 42.50 USD")
		l.waitAnswered(t)
		l.wantSettlements(t, gateway.SettlementSummary{Number: 1, State: "open", Currency: "USD", Entries: 3, Refused: 1, Payouts: "42.50"})
	})
}

// meanwhile has something happen between the moment when a request is judged and the one when its answer is kept.
func (l *lab) meanwhile(do func()) { l.signer.meanwhile.Store(&do) }

// What is answered is true when it is kept: a request that changes what another was judged by, while that is being
// answered, is taken into account.
func TestMeanwhile(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		authorized := func() *order {
			o := l.order(t, l.merchant)
			o.authorize(t, set.AuthApproved)
			return o
		}
		o := authorized()
		l.meanwhile(func() { o.wantCapture(t, o.capture(price), set.CapSuccess) })
		o.wantCapture(t, o.capture(usd(1)), set.CapDuplicateRequest)
		credit := o.adjusted(price, ptr(usd(4000)))
		l.meanwhile(func() { l.wantAdjusted(t, set.Credit, credit, set.CapRevOrCredSuccess) })
		l.wantAdjusted(t, set.Credit, credit, set.CapRevOrCredCapDataMismatch)
		l.meanwhile(func() { l.wantAdjusted(t, set.CreditReversal, credit, set.CapRevOrCredSuccess) })
		l.wantAdjusted(t, set.CaptureReversal, o.adjusted(price, nil), set.CapRevOrCredSuccess) // which is possible again

		o = authorized()
		l.meanwhile(func() { o.wantCapture(t, o.capture(price), set.CapSuccess) })
		o.wantReversal(t, usd(0), set.AuthRevInvalidTransaction)

		seven := ptr(set.Natural(7))
		l.batch(t, &set.BatchRequest{BatchID: seven, Operation: ptr(set.BatchOpen)}, set.BASuccess)
		o = authorized()
		// A batch that the merchant closes as empty, and into which something is put meanwhile.
		nothing := set.CurrencyAmount{Currency: 840}
		empty := &set.BatchStatus{OpenDateTime: l.now().UTC().Truncate(time.Second), BatchDetails: set.BatchDetails{
			BatchTotals: set.BatchTotals{TransactionTotalAmtCredit: nothing, TransactionTotalAmtDebit: nothing}}}
		l.meanwhile(func() { o.wantCapture(t, o.capture(price), set.CapSuccess) })
		l.batch(t, &set.BatchRequest{BatchID: seven, Operation: ptr(set.BatchClose), Status: empty}, set.BATotalsOutOfBalance)
		// A sale into a batch that is closed meanwhile.
		o = l.order(t, l.merchant)
		o.auth.CaptureNow, o.auth.SaleDetail = true, &set.SaleDetail{BatchID: seven, OKToPrintPhoneInd: true}
		l.meanwhile(func() { l.batch(t, &set.BatchRequest{BatchID: seven, Operation: ptr(set.BatchClose)}, set.BASuccess) })
		o.authorize(t, set.AuthApproved)
		if c := o.answer.Capture; c == nil || c.CapCode != set.CapBatchClosed {
			t.Errorf("captured %+v", c)
		}
		l.wantState(t, "authorized approved")
	})
}

// There is one job for an authorization, however much the issuer is to be told.
func TestOneJob(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		l.host.mu.Lock()
		l.host.refuse = 1000
		l.host.mu.Unlock()
		o := l.order(t, l.merchant)
		o.authorize(t, set.AuthApproved)
		o.wantCapture(t, o.capture(price), set.CapSuccess)
		l.wantAdjusted(t, set.CaptureReversal, o.adjusted(price, nil), set.CapRevOrCredSuccess)
		o.wantReversal(t, usd(0), set.AuthRevApproved)
		var jobs int
		err := l.db.View(t.Context(), func(tx *sql.Tx) error { return tx.QueryRow(`SELECT COUNT(*) FROM sqldb_job`).Scan(&jobs) })
		if err != nil || jobs != 1 {
			t.Errorf("%d jobs, want 1: %v", jobs, err)
		}
		// The payment instructions are not free before the issuer holds nothing.
		o.auth.RRPID = set.NewRRPID()
		o.authorize(t, set.AuthPIPreviouslyUsed)
		l.host.mu.Lock()
		l.host.refuse = 0
		l.host.mu.Unlock()
		l.wantTold(t, "clear 42.50 USD", "take back clear 42.50 USD", "reverse to 0 000")
	})
}

// batch asks about a batch, and wants this status.
func (l *lab) batch(t *testing.T, r *set.BatchRequest, want set.BAStatus) *set.BatchAdminResData {
	t.Helper()
	r.RRPID, r.GatewayCert = set.NewRRPID(), l.endpoint.ExchangeCert.X509.Raw
	data := ask(t, l, must[[]byte](t)(l.merchant.BatchAdminReq(l.now(), r)),
		func(now time.Time, b []byte) (*set.BatchAdminResData, error) {
			return l.merchant.OpenBatchAdminRes(now, r, b)
		})
	if data.BAStatus == nil || *data.BAStatus != want {
		t.Errorf("batch status %v, want %v", data.BAStatus, want)
	}
	return data
}

func TestBatches(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		open, purge, closing := ptr(set.BatchOpen), ptr(set.BatchPurge), ptr(set.BatchClose)
		seven := ptr(set.Natural(7))
		into := func(o *order, id set.Natural) *set.CaptureRequest {
			c := o.capture(price)
			c.Items[0].Payload.SaleDetail = &set.SaleDetail{BatchID: &id, OKToPrintPhoneInd: true}
			return c
		}
		l.batch(t, &set.BatchRequest{Summary: true}, set.BAUnknownBatchID)
		orders := []*order{l.order(t, l.merchant), l.order(t, l.merchant), l.order(t, l.merchant), l.order(t, l.merchant)}
		for _, o := range orders {
			o.authorize(t, set.AuthApproved)
		}
		orders[0].wantCapture(t, into(orders[0], 7), set.CapBatchUnknown)
		l.batch(t, &set.BatchRequest{BatchID: seven, Operation: open, Brands: []set.BrandAndBIN{{BrandID: "Rival"}}}, set.BABrandNotSupported)
		l.batch(t, &set.BatchRequest{BatchID: seven, Operation: open, Brands: []set.BrandAndBIN{{BrandID: settest.Brand}}}, set.BASuccess)
		l.batch(t, &set.BatchRequest{BatchID: seven, Operation: open}, set.BABatchAlreadyOpen)
		// For cards of another bank only: what names no batch goes into the other.
		l.batch(t, &set.BatchRequest{BatchID: ptr(set.Natural(8)), Operation: open, Brands: []set.BrandAndBIN{{BrandID: settest.Brand, BIN: "400000"}}}, set.BASuccess)
		orders[0].wantCapture(t, into(orders[0], 8), set.CapBatchUnknown)
		if got := l.batch(t, &set.BatchRequest{Operation: open}, set.BASuccess).BatchID; got != 9 {
			t.Errorf("the gateway opens batch %d, want 9", got)
		}
		l.batch(t, &set.BatchRequest{BatchID: ptr(set.Natural(9)), Operation: closing}, set.BASuccess)
		l.batch(t, &set.BatchRequest{BatchID: ptr(set.Natural(9)), Operation: open}, set.BABatchIDUnavailable)
		orders[0].wantCapture(t, into(orders[0], 9), set.CapBatchClosed)
		orders[0].wantCapture(t, orders[0].capture(price), set.CapSuccess)
		orders[1].wantCapture(t, into(orders[1], 7), set.CapSuccess)
		orders[2].wantCapture(t, into(orders[2], 7), set.CapSuccess)
		l.wantAdjusted(t, set.Credit, orders[1].adjusted(price, ptr(usd(1000))), set.CapRevOrCredSuccess)
		l.wantAdjusted(t, set.CaptureReversal, orders[2].adjusted(price, nil), set.CapRevOrCredSuccess) // vanishes
		l.wantTold(t, told(l, "clear 42.50 USD", "refund 10.00 USD", "take back clear 42.50 USD")...)

		r := &set.BatchRequest{BatchID: seven, Summary: true, Detail: &set.ReturnTransactionDetail{MaximumItems: 2}}
		eventually(t, "all is acknowledged", func() bool {
			return !slices.ContainsFunc(l.states(t), func(s string) bool { return s == "captured approved pending" || s == "credited approved pending" })
		})
		data := l.batch(t, r, set.BASuccess)
		totals := set.BatchTotals{TransactionCountCredit: 1, TransactionTotalAmtCredit: usd(1000), TransactionCountDebit: 2, TransactionTotalAmtDebit: usd(8500)}
		if got := data.BatchStatus.BatchDetails.BatchTotals; got.TransactionCountDebit != 2 || !got.TransactionTotalAmtDebit.Equal(usd(8500)) ||
			got.TransactionCountCredit != 1 || !got.TransactionTotalAmtCredit.Equal(usd(1000)) {
			t.Errorf("totals %+v", got)
		}
		page := data.TransDetails
		if len(page.TransactionDetailSeq) != 2 || page.NextStartingPoint != 4 || page.TransactionDetailSeq[0].TransIDs.XID != orders[0].sale.TransIDs.XID ||
			page.TransactionDetailSeq[0].TransactionStatus == nil {
			t.Errorf("first page %+v", page)
		}
		r.Detail = &set.ReturnTransactionDetail{StartingPoint: 4, MaximumItems: 2}
		page = l.batch(t, r, set.BASuccess).TransDetails
		if len(page.TransactionDetailSeq) != 1 || page.NextStartingPoint != 0 || page.TransactionDetailSeq[0].TransactionAmtType != set.AmtCredit {
			t.Errorf("last page %+v", page)
		}

		// Closed only when both sides count the same.
		wrong := totals
		wrong.TransactionTotalAmtDebit = usd(8501)
		status := func(x set.BatchTotals) *set.BatchStatus {
			return &set.BatchStatus{OpenDateTime: l.now().UTC().Truncate(time.Second), BatchDetails: set.BatchDetails{BatchTotals: x}}
		}
		l.batch(t, &set.BatchRequest{BatchID: seven, Operation: closing, Status: status(wrong)}, set.BATotalsOutOfBalance)
		data = l.batch(t, &set.BatchRequest{BatchID: seven, Operation: closing, Status: status(totals), Summary: true}, set.BASuccess)
		if data.TransmissionStatus == nil || *data.TransmissionStatus != set.TransmissionCompletedSuccessfully || data.BatchStatus.ClosedWhen == nil {
			t.Errorf("closed as %+v", data)
		}
		l.wantAdjusted(t, set.CaptureReversal, orders[0].adjusted(price, nil), set.CapRevOrCredOriginalProcessed)
		// A credit that is undone after its batch is closed stands against it in another.
		back := l.wantAdjusted(t, set.CreditReversal, orders[1].adjusted(price, ptr(usd(1000))), set.CapRevOrCredSuccess)
		if *back.BatchID != 10 || *back.BatchSequenceNum != 1 {
			t.Errorf("the credit is undone in %v, %v", *back.BatchID, *back.BatchSequenceNum)
		}

		// A purge takes captures and credits out of the batch, and what they were about with them.
		ten := ptr(set.Natural(10))
		orders[3].wantCapture(t, orders[3].capture(price), set.CapSuccess)
		l.wantAdjusted(t, set.Credit, orders[3].adjusted(price, ptr(usd(100))), set.CapRevOrCredSuccess)
		l.batch(t, &set.BatchRequest{BatchID: ten, Operation: purge, Brands: []set.BrandAndBIN{{BrandID: settest.Brand, BIN: "400000"}}}, set.BASuccess)
		if items := l.batch(t, &set.BatchRequest{BatchID: ten, Detail: &set.ReturnTransactionDetail{MaximumItems: 10}}, set.BASuccess).TransDetails.TransactionDetailSeq; len(items) != 3 {
			t.Errorf("%d items after a purge of another bank's, want 3", len(items))
		}
		data = l.batch(t, &set.BatchRequest{BatchID: ten, Operation: purge, Summary: true}, set.BASuccess)
		if got := data.BatchStatus.BatchDetails.BatchTotals; got.TransactionCountDebit != 1 || got.TransactionCountCredit != 0 {
			t.Errorf("totals after a purge %+v", got)
		}
		orders[3].wantCapture(t, orders[3].capture(price), set.CapDuplicateRequest)
		l.wantAdjusted(t, set.CaptureReversal, orders[3].adjusted(price, nil), set.CapRevOrCredCapPurged)
		l.batch(t, &set.BatchRequest{BatchID: seven, Operation: purge}, set.BAUnknownBatchID)
		eventually(t, "purged at the issuer", func() bool {
			told := l.host.told()
			return slices.Contains(told, "take back refund 1.00 USD") && slices.Contains(told, "reverse to 0 000")
		})
	})
}

// told is what the issuer was told, provided that it was told at least these.
func told(l *lab, least ...string) []string {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		got := l.host.told()
		if !slices.ContainsFunc(least, func(s string) bool { return !slices.Contains(got, s) }) {
			return got
		}
	}
	return least
}

// Who asks again for a capture, because no answer came, hears in which batch it is.
func TestDuplicateCapture(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		o := l.order(t, l.merchant)
		o.authorize(t, set.AuthApproved)
		o.wantCapture(t, o.capture(price), set.CapSuccess)
		again := o.capture(price)
		_, response := o.wantCapture(t, again, set.CapDuplicateRequest)
		got := must[*set.CapResData](t)(o.merchant.OpenCapRes(l.now(), again, response)).CapResItemSeq[0].CapResPayload
		if got.BatchID == nil || *got.BatchID != 1 || got.BatchSequenceNum == nil || *got.BatchSequenceNum != 1 || got.CapAmt.Amount != 0 {
			t.Errorf("the duplicate is answered by %+v", got)
		}
		l.wantAdjusted(t, set.CaptureReversal, o.adjusted(price, nil), set.CapRevOrCredSuccess)
		o.wantCapture(t, o.capture(price), set.CapSuccess)
	})
}

// Of two equal credits the last is undone: it leaves its own batch, and the batch of the first stays as it was closed.
func TestEqualCredits(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		o := l.order(t, l.merchant)
		o.authorize(t, set.AuthApproved)
		o.wantCapture(t, o.capture(price), set.CapSuccess)
		item := o.adjusted(price, ptr(usd(500)))
		l.wantAdjusted(t, set.Credit, item, set.CapRevOrCredSuccess)
		l.batch(t, &set.BatchRequest{BatchID: ptr(set.Natural(1)), Operation: ptr(set.BatchClose)}, set.BASuccess)
		if in := l.wantAdjusted(t, set.Credit, item, set.CapRevOrCredSuccess).BatchID; in == nil || *in != 2 {
			t.Fatalf("the second credit is in batch %v, want 2", in)
		}
		if got := l.wantAdjusted(t, set.CreditReversal, item, set.CapRevOrCredSuccess); *got.BatchID != 2 || got.BatchSequenceNum != nil {
			t.Errorf("a credit is undone by %+v, want the one of batch 2 to be gone", got)
		}
		if got := l.batch(t, &set.BatchRequest{BatchID: ptr(set.Natural(2)), Summary: true}, set.BASuccess).BatchStatus.BatchDetails.BatchTotals; got.TransactionCountCredit != 0 || got.TransactionCountDebit != 0 {
			t.Errorf("batch 2 has %+v, want nothing", got)
		}
	})
}

// Captures that come at the same time get numbers of their own in one batch.
func TestCapturesAtOnce(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		const n = 12
		numbers := make(chan string, n)
		for range n {
			o := l.order(t, l.merchant)
			o.authorize(t, set.AuthApproved)
			c := o.capture(price)
			request := must[[]byte](t)(o.merchant.CapReq(o.now(), c))
			go func() {
				status, response := l.post(t, request)
				data, err := o.merchant.OpenCapRes(o.now(), c, response)
				if status != http.StatusOK || err != nil {
					numbers <- fmt.Sprint(status, err)
					return
				}
				p := data.CapResItemSeq[0].CapResPayload
				numbers <- fmt.Sprint(p.CapCode, " ", *p.BatchID, " ", *p.BatchSequenceNum)
			}()
		}
		var got []string
		for range n {
			got = append(got, <-numbers)
		}
		slices.Sort(got)
		if len(slices.Compact(slices.Clone(got))) != n || got[0][:9] != "success 1" {
			t.Errorf("captures: %v", got)
		}
		page := l.batch(t, &set.BatchRequest{Detail: &set.ReturnTransactionDetail{MaximumItems: 100}}, set.BASuccess).TransDetails
		if len(page.TransactionDetailSeq) != n {
			t.Errorf("%d items in the batch, want %d", len(page.TransactionDetailSeq), n)
		}
	})
}

func TestGatewayCertificates(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		r := &set.GatewayCertRequest{RRPID: set.NewRRPID(), Brands: []set.BrandAndBIN{{BrandID: settest.Brand}, {BrandID: "Rival"}}}
		got := ask(t, l, must[[]byte](t)(l.merchant.PCertReq(l.now(), r)),
			func(now time.Time, b []byte) (*set.GatewayCerts, error) { return l.merchant.OpenPCertRes(now, r, b) })
		if c := got.Items[0]; c.Code != set.PCertSuccess || !bytes.Equal(c.Certificate.X509.Raw, l.endpoint.ExchangeCert.X509.Raw) {
			t.Errorf("its own brand: %v", c.Code)
		}
		if got.Items[1].Code != set.PCertBrandNotSupported {
			t.Errorf("another brand: %v", got.Items[1].Code)
		}
	})
}

// Merchants of other acquirers are served nothing.
func TestOtherAcquirersOperations(t *testing.T) {
	t.Parallel()
	l := newLab(t, sqldbtest.SQLite(t))
	l.acquirer = "499999"
	l.start(t, nil)
	o := l.order(t, l.merchant)
	gatewayCert := o.sale.GatewayCert
	batch := &set.BatchRequest{RRPID: set.NewRRPID(), GatewayCert: gatewayCert, Operation: ptr(set.BatchOpen)}
	adjust := &set.AdjustmentRequest{RRPID: set.NewRRPID(), GatewayCert: gatewayCert, Items: []set.Adjusted{o.adjusted(price, nil)}}
	for what, request := range map[string][]byte{
		"reversal":     must[[]byte](t)(o.sale.AuthRevReq(o.merchant, o.now(), set.ReversalRequest{RRPID: set.NewRRPID(), NewAmount: usd(0), Of: o.auth})),
		"adjustment":   must[[]byte](t)(o.merchant.AdjustmentReq(o.now(), adjust)),
		"batch":        must[[]byte](t)(o.merchant.BatchAdminReq(o.now(), batch)),
		"certificates": must[[]byte](t)(o.merchant.PCertReq(o.now(), &set.GatewayCertRequest{RRPID: set.NewRRPID(), Brands: []set.BrandAndBIN{{BrandID: settest.Brand}}})),
	} {
		t.Log(what)
		l.wantError(t, request, set.InvalidCertificate)
	}
	if got := must[[]gateway.Transaction](t)(gateway.Transactions(t.Context(), l.db, l.sealer, 10)); len(got) != 0 {
		t.Errorf("kept %+v", got)
	}
}
