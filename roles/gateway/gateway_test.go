package gateway_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/gateway"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/settest"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

func TestPurchase(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		o := l.order(t, l.merchant)
		request, response := o.authorize(t, set.AuthApproved)
		l.wantState(t, "authorized approved")
		l.wantCounts(t, 1, 1, 0, 0)

		// A true replay gets the stored answer; other bytes of the same RRPID get an Error.
		if _, again := l.post(t, request); !bytes.Equal(again, response) {
			t.Error("the answer to a replay differs")
		}
		l.wantError(t, o.authReq(t), set.UnspecifiedFailure)
		// The same payment instructions in another request.
		first := o.auth.RRPID
		token := o.token
		o.auth.RRPID = set.NewRRPID()
		o.authorize(t, set.AuthPIPreviouslyUsed)
		o.auth.RRPID, o.token = first, token
		l.wantCounts(t, 1, 1, 0, 0)

		// More than was authorized, for another transaction, and by another merchant.
		o.wantCapture(t, o.capture(usd(4251)), set.CapInvalidAuthData)
		o.wantCapture(t, o.capture(usd(0)), set.CapInvalidAuthData)
		o.token = nil
		o.wantCapture(t, o.capture(price), set.CapTokenMissing)
		o.token = token
		another := l.order(t, l.merchant)
		another.auth.RRPID, another.token = first, token
		another.wantCapture(t, another.capture(price), set.CapInvalidCapToken)
		other := l.order(t, l.Merchant(t, "M-0002"))
		other.auth.RRPID, other.token = first, token
		other.wantCapture(t, other.capture(price), set.CapInvalidCapToken)
		// Even if that merchant has an authorization of the same RRPID.
		other.authorize(t, set.AuthApproved)
		other.token = token
		other.wantCapture(t, other.capture(price), set.CapInvalidCapToken)
		l.wantCounts(t, 2, 2, 0, 0)

		l.host.mu.Lock()
		l.host.refuse = 2 // clearings that get no answer are repeated
		l.host.mu.Unlock()
		request, response = o.wantCapture(t, o.capture(usd(4000)), set.CapSuccess)
		if _, again := l.post(t, request); !bytes.Equal(again, response) {
			t.Error("the answer to a replayed capture differs")
		}
		o.wantCapture(t, o.capture(price), set.CapDuplicateRequest)
		eventually(t, "the clearing", func() bool { _, _, _, cleared := l.host.count(); return cleared == 1 })
		eventually(t, "cleared", func() bool { return strings.Contains(strings.Join(l.states(t), ","), "acknowledged") })
		l.host.mu.Lock()
		for _, amount := range l.host.cleared {
			if !amount.Equal(usd(4000)) {
				t.Errorf("cleared %v, want 40.00 USD", amount)
			}
		}
		l.host.mu.Unlock()
		o.wantCapture(t, o.capture(price), set.CapDuplicateRequest)
		checkSecrecy(t, l)
	})
}

// checkSecrecy searches what the gateway keeps and logs for what it must not.
func checkSecrecy(t *testing.T, l *lab) {
	t.Helper()
	places := map[string][]byte{"log": []byte(l.log.String())}
	if path, ok := strings.CutPrefix(l.dbURL, "sqlite:"); ok {
		for _, suffix := range []string{"", "-wal"} {
			places["database"] = append(places["database"], must[[]byte](t)(os.ReadFile(path+suffix))...)
		}
	}
	a := &l.card.Account
	for place, b := range places {
		if !bytes.Contains(b, []byte(l.merchant.SignCert.Merchant.MerchantID)) {
			t.Errorf("%s: the search finds nothing at all", place)
		}
		for name, secret := range map[string][]byte{
			"PAN": a.PAN, "expiry": a.CardExpiry, "PANSecret": a.PANSecret[:], "order description": orderText,
		} {
			for _, form := range [][]byte{secret, hex.AppendEncode(nil, secret)} {
				if bytes.Contains(b, form) {
					t.Errorf("%s shows the %s", place, name)
				}
			}
		}
	}
	for line := range strings.Lines(l.log.String()) {
		if strings.Contains(line, "decided") && !strings.Contains(line, `"xid":"`) {
			t.Errorf("log line without XID: %s", line)
		}
	}
}

func TestDecisions(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		for code, want := range map[finnet.ResponseCode]set.AuthCode{
			finnet.InsufficientFunds: set.AuthDeclined, finnet.DoNotHonour: set.AuthDeclined, finnet.StolenCard: set.AuthDeclined,
			finnet.InvalidCard: set.AuthDeclined, finnet.RestrictedCard: set.AuthDeclined, finnet.ExpiredCard: set.AuthExpiredCard,
			finnet.InvalidAmount: set.AuthAmountError, "01": set.AuthCallIssuer, finnet.IssuerUnavailable: set.AuthNoReply,
			finnet.FormatError: set.AuthSystemError, finnet.InvalidTransaction: set.AuthInvalidTransaction,
		} {
			l.host.answer(code)
			o := l.order(t, l.merchant)
			request, response := o.authorize(t, want)
			l.wantState(t, "declined "+want.String())
			if _, again := l.post(t, request); !bytes.Equal(again, response) {
				t.Errorf("%s: the answer to a replay differs", code)
			}
		}
		// A declined purchase may be tried again.
		l.host.answer(finnet.InsufficientFunds)
		o := l.order(t, l.merchant)
		o.authorize(t, set.AuthDeclined)
		l.host.set(nil)
		o.auth.RRPID = set.NewRRPID()
		o.authorize(t, set.AuthApproved)
		_, held, reversed, _ := l.host.count()
		if held != 1 || reversed != 0 {
			t.Errorf("issuer holds %d and reversed %d, want 1 and 0", held, reversed)
		}
	})
}

// What the gateway refuses by itself, the issuer never sees.
func TestRefusals(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		o := l.order(t, l.merchant)
		o.auth.Amount = usd(4251) // more than the cardholder signed
		request, response := o.authorize(t, set.AuthAmountError)
		l.wantState(t, "declined amountError")
		if _, again := l.post(t, request); !bytes.Equal(again, response) {
			t.Error("the answer to a replay differs")
		}
		o = l.order(t, l.merchant)
		o.auth.Amount = usd(0)
		o.authorize(t, set.AuthAmountError)
		o = l.order(t, l.merchant)
		o.sale.HOIData = l.order(t, l.merchant).sale.HOIData
		o.authorize(t, set.AuthPIAuthMismatch)
		l.wantCounts(t, 0, 0, 0, 0)
	})
}

func TestNoReply(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		l.host.mu.Lock()
		l.host.refuse = 2 // reversals that get no answer are repeated
		l.host.decide = func(a *finnet.Authorization) (finnet.Answer, error) {
			l.host.mu.Lock()
			defer l.host.mu.Unlock()
			l.host.held[a.RRN] = a.Amount // and then the answer is lost
			return finnet.Answer{}, errors.New("lost")
		}
		l.host.mu.Unlock()
		o := l.order(t, l.merchant)
		request, response := o.authorize(t, set.AuthNoReply)
		l.wantState(t, "declined noReply acknowledged")
		l.wantCounts(t, 1, 0, 1, 0)
		if _, again := l.post(t, request); !bytes.Equal(again, response) {
			t.Error("the answer to a replay differs")
		}
		// The same purchase may now be tried again.
		l.host.set(nil)
		o.auth.RRPID = set.NewRRPID()
		o.authorize(t, set.AuthApproved)
		l.wantCounts(t, 2, 1, 1, 0)
	})
}

func TestIssuerUnavailable(t *testing.T) {
	t.Parallel()
	l := newLab(t, sqldbtest.SQLite(t))
	l.host.addr = "127.0.0.1:1"
	l.start(t, nil)
	l.order(t, l.merchant).authorize(t, set.AuthNoReply)
	l.wantState(t, "declined noReply")
	if status, body := l.get(t, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, `"issuer":"not available"`) {
		t.Errorf("/readyz: %d %s", status, body)
	}
}

// TestManyCaptures captures in one message: an authorization, the same once more, one without token, and
// another authorization.
func TestManyCaptures(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		a, b, c := l.order(t, l.merchant), l.order(t, l.merchant), l.order(t, l.merchant)
		for _, o := range []*order{a, b, c} {
			o.authorize(t, set.AuthApproved)
		}
		b.token = nil
		orders := []*order{a, a, b, c}
		request, rrpid := l.captureAll(t, orders)
		status, response := l.post(t, request)
		if status != http.StatusOK {
			t.Fatalf("status %d: %s", status, response)
		}
		w := must[*set.MessageWrapper](t)(set.Decode(response))
		recipient := cms.Recipient{Key: l.merchant.ExchangeKey, Certificate: l.merchant.ExchangeCert.X509}
		sd := must[*cms.SignedData](t)(recipient.OpenEnc(cms.SignedEncrypted{TBE: set.ContentCapResTBE, TBS: set.ContentCapResData}, cms.ContentInfo(*w.Message.CapRes)))
		var data set.CapResData
		if err := set.Unmarshal(sd.Content, &data); err != nil {
			t.Fatal(err)
		}
		if data.CapRRTags.RRPID != rrpid {
			t.Error("the answer is to another request")
		}
		var got []set.CapCode
		for i, item := range data.CapResItemSeq {
			got = append(got, item.CapResPayload.CapCode)
			if item.AuthRRPID != orders[i].auth.RRPID || item.TransIDs.XID != orders[i].sale.TransIDs.XID {
				t.Errorf("item %d is about another authorization", i)
			}
		}
		want := []set.CapCode{set.CapSuccess, set.CapDuplicateRequest, set.CapTokenMissing, set.CapSuccess}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		eventually(t, "two clearings", func() bool { _, _, _, cleared := l.host.count(); return cleared == 2 })
	})
}

// captureAll makes a CapReq about several orders of one merchant.
func (l *lab) captureAll(t *testing.T, orders []*order) ([]byte, set.RRPID) {
	t.Helper()
	rrpid, now := set.NewRRPID(), l.now().UTC().Truncate(time.Second)
	m := l.merchant
	data := set.CapReqData{CapRRTags: set.RRTags{RRPID: rrpid, CurrentDate: now,
		MerTermIDs: set.MerTermIDs{MerchantID: set.MerchantID(m.SignCert.Merchant.MerchantID)}}}
	var tokens set.CapTokenSeq
	for _, o := range orders {
		data.CapItemSeq = append(data.CapItemSeq, set.CapItem{TransIDs: o.sale.TransIDs, AuthRRPID: o.auth.RRPID,
			CapPayload: set.CapPayload{CapDate: now, CapReqAmt: price}})
		token := set.CapToken{Null: &der.Null{}}
		if o.token != nil {
			token = set.CapToken{}
			if err := set.Unmarshal(o.token, &token); err != nil {
				t.Fatal(err)
			}
		}
		tokens = append(tokens, token)
	}
	certs := []*x509.Certificate{m.SignCert.X509, m.ExchangeCert.X509}
	for _, c := range m.Chain {
		certs = append(certs, c.X509)
	}
	dd := must[cms.DetachedDigest](t)(cms.DD(set.ContentCapTokenSeq, tokens))
	enc := must[cms.ContentInfo](t)(cms.Enc(cms.SignedEncrypted{TBE: set.ContentCapReqTBE, TBS: set.ContentCapReqTBS},
		cms.Linked[set.CapReqData]{Value: data, DD: dd}, certs, nil, cms.Signer{Key: m.SignKey, Certificate: m.SignCert.X509}, l.endpoint.ExchangeCert.X509))
	return must[[]byte](t)(set.Encode(set.MessageWrapper{
		MessageHeader: set.MessageHeader{Version: set.Version, Date: now, RRPID: &rrpid, SWIdent: settest.Software},
		Message:       set.Message{CapReq: &set.CapReq{EncB: &set.EncB[set.CapTokenSeq]{Enc: enc, Baggage: tokens}}},
	})), rrpid
}

// TestDuplicatesAtOnce sends copies of a request while the issuer is thinking.
func TestDuplicatesAtOnce(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		goOn := make(chan struct{})
		l.host.set(func(*finnet.Authorization) (finnet.Answer, error) {
			<-goOn
			return finnet.Answer{Code: finnet.Approved}, nil
		})
		o := l.order(t, l.merchant)
		request := o.authReq(t)
		const copies = 4
		var statuses [copies]int
		var responses [copies][]byte
		var wg sync.WaitGroup
		for i := range copies {
			wg.Go(func() { statuses[i], responses[i] = l.post(t, request) })
		}
		eventually(t, "the question to the issuer", func() bool { asked, _, _, _ := l.host.count(); return asked > 0 })
		l.wantError(t, o.authReq(t), set.UnspecifiedFailure) // other bytes, while the first are worked on
		close(goOn)
		wg.Wait()
		for i := range copies {
			if statuses[i] != http.StatusOK || !bytes.Equal(responses[i], responses[0]) {
				t.Errorf("copy %d: status %d, or another answer", i, statuses[i])
			}
		}
		o.wantAuth(t, statuses[0], responses[0], set.AuthApproved)
		l.wantCounts(t, 1, 1, 0, 0)

		// And copies of a capture.
		c := must[[]byte](t)(o.merchant.CapReq(o.now(), o.capture(price)))
		for i := range copies {
			wg.Go(func() { statuses[i], responses[i] = l.post(t, c) })
		}
		wg.Wait()
		for i := range copies {
			if statuses[i] != http.StatusOK || !bytes.Equal(responses[i], responses[0]) {
				t.Errorf("copy %d of a capture: status %d, or another answer", i, statuses[i])
			}
		}
		l.wantState(t, "captured approved acknowledged")
		l.wantCounts(t, 1, 1, 0, 1)
	})
}

// TestOnePurchaseAtOnce sends the same payment instructions in several requests at the same time.
func TestOnePurchaseAtOnce(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		first := l.order(t, l.merchant)
		const copies = 4
		var orders [copies]*order
		var requests, responses [copies][]byte
		var statuses [copies]int
		for i := range copies {
			o := *first
			o.auth.RRPID = set.NewRRPID()
			orders[i], requests[i] = &o, o.authReq(t)
		}
		var wg sync.WaitGroup
		for i := range copies {
			wg.Go(func() { statuses[i], responses[i] = l.post(t, requests[i]) })
		}
		wg.Wait()
		approved := 0
		for i, o := range orders {
			if statuses[i] != http.StatusOK {
				t.Fatalf("request %d: status %d: %s", i, statuses[i], responses[i])
			}
			a := must[*set.Authorized](t)(o.sale.OpenAuthRes(o.merchant, o.now(), o.auth, responses[i]))
			switch a.Header.AuthCode {
			case set.AuthApproved:
				approved++
			case set.AuthPIPreviouslyUsed:
			default:
				t.Errorf("request %d: %v", i, a.Header.AuthCode)
			}
		}
		if approved != 1 {
			t.Errorf("approved %d times, want once", approved)
		}
		l.wantCounts(t, 1, 1, 0, 0)
	})
}

// A gateway serves the merchants of one acquirer.
func TestOtherAcquirer(t *testing.T) {
	t.Parallel()
	l := newLab(t, sqldbtest.SQLite(t))
	l.acquirer = "499999"
	l.start(t, nil)
	o := l.order(t, l.merchant)
	l.wantError(t, o.authReq(t), set.InvalidCertificate)
	l.wantError(t, must[[]byte](t)(o.merchant.CapReq(o.now(), o.capture(price))), set.InvalidCertificate)
	if got := l.states(t); len(got) != 0 {
		t.Errorf("state was changed: %v", got)
	}
	l.wantCounts(t, 0, 0, 0, 0)
}

// crashing ends the work on a request after the issuer has decided.
type crashing struct{ gateway.Issuer }

func (c crashing) Authorize(ctx context.Context, a *finnet.Authorization) (finnet.Answer, error) {
	if _, err := c.Issuer.Authorize(ctx, a); err != nil {
		return finnet.Answer{}, err
	}
	panic(http.ErrAbortHandler)
}

func TestCrashBetweenClaimAndDecision(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		l := newLab(t, url)
		stop := l.start(t, func(i gateway.Issuer) gateway.Issuer { return crashing{i} })
		o := l.order(t, l.merchant)
		request := o.authReq(t)
		if status, _ := l.post(t, request); status != 0 {
			t.Fatalf("status %d from a gateway that crashes", status)
		}
		l.wantState(t, "pending noReply")
		l.wantCounts(t, 1, 1, 0, 0)
		stop()

		l.ahead.Store(int64(gateway.AnswerTimeout) + 1e9)
		l.start(t, nil)
		// The merchant sends the same again: it waits until the claim is closed.
		status, response := l.post(t, request)
		o.wantAuth(t, status, response, set.AuthNoReply)
		l.wantState(t, "declined noReply acknowledged")
		l.wantCounts(t, 1, 0, 1, 0)
		if _, again := l.post(t, request); !bytes.Equal(again, response) {
			t.Error("the answer to a replay differs")
		}
	})
}

// Without HSM or database there is no answer, and the merchant may come again.
func TestHSMAway(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		if status, body := l.get(t, "/readyz"); status != http.StatusOK {
			t.Errorf("/readyz: %d %s", status, body)
		}
		// Away when the answer is to be signed: the decision stands.
		o := l.order(t, l.merchant)
		request := o.authReq(t)
		l.signer.away.Store(true)
		if status, body := l.post(t, request); status != http.StatusServiceUnavailable {
			t.Errorf("status %d: %s", status, body)
		}
		if status, body := l.get(t, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, `"hsm":"not available"`) {
			t.Errorf("/readyz: %d %s", status, body)
		}
		l.wantState(t, "authorized approved")
		if status, _ := l.post(t, []byte("garbage")); status != http.StatusServiceUnavailable {
			t.Errorf("an Error message without signature: status %d", status)
		}
		l.signer.away.Store(false)
		status, response := l.post(t, request)
		o.wantAuth(t, status, response, set.AuthApproved)
		o.wantCapture(t, o.capture(price), set.CapSuccess)
		l.wantState(t, "captured approved acknowledged")
		l.wantCounts(t, 1, 1, 0, 1)

		o = l.order(t, l.merchant)
		l.db.Close()
		if status, body := l.post(t, o.authReq(t)); status != http.StatusServiceUnavailable {
			t.Errorf("status %d without database: %s", status, body)
		}
		l.wantCounts(t, 1, 1, 0, 1)
	})
}

func (l *lab) get(t *testing.T, path string) (int, string) {
	t.Helper()
	res := must[*http.Response](t)(http.Get(l.server.URL + path))
	defer res.Body.Close()
	var b bytes.Buffer
	must[int64](t)(b.ReadFrom(res.Body))
	return res.StatusCode, b.String()
}

func TestMalformed(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		o := l.order(t, l.merchant)
		good := o.authReq(t)
		changed := bytes.Clone(good)
		changed[len(changed)/2] ^= 1
		l.wantError(t, []byte("random octets, no DER"), set.DecodingFailure)
		l.wantError(t, nil, set.DecodingFailure)
		l.wantError(t, good[:len(good)-1], set.DecodingFailure)
		l.wantError(t, make([]byte, 2<<20), set.MessageTooBig)
		if status, _ := l.post(t, changed); status != http.StatusBadRequest {
			t.Errorf("one bit changed: status %d, want 400", status)
		}
		w := must[*set.MessageWrapper](t)(set.Decode(good))
		w.MessageHeader.Version = 2
		l.wantError(t, must[[]byte](t)(set.Encode(*w)), set.VersionTooNew)
		p := must[*set.Purchase](t)(set.NewPurchase(&set.Initiation{PurchAmt: &price, Brands: []set.BrandID{"Campus"}}, "Campus", "411111", "en"))
		l.wantError(t, must[[]byte](t)(p.InitReq(l.card.Endpoint, l.now())), set.MessageNotSupported)
		if got := l.states(t); len(got) != 0 {
			t.Errorf("state was changed: %v", got)
		}
		l.wantCounts(t, 0, 0, 0, 0)
		status, response := l.post(t, good)
		o.wantAuth(t, status, response, set.AuthApproved)
		if status, body := l.get(t, "/livez"); status != http.StatusOK || body != "ok\n" {
			t.Errorf("/livez: %d %q", status, body)
		}
		res := must[*http.Response](t)(http.Post(l.server.URL, sethttp.MediaRegistration, bytes.NewReader(good)))
		res.Body.Close()
		if res.StatusCode != http.StatusUnsupportedMediaType {
			t.Errorf("another media type: status %d", res.StatusCode)
		}
	})
}

func TestTransactions(t *testing.T) {
	t.Parallel()
	l := newLab(t, sqldbtest.SQLite(t))
	l.start(t, nil)
	o := l.order(t, l.merchant)
	o.authorize(t, set.AuthApproved)
	o.wantCapture(t, o.capture(usd(4000)), set.CapSuccess)
	l.wantState(t, "captured approved acknowledged")
	got := must[[]gateway.Transaction](t)(gateway.Transactions(t.Context(), l.db, l.sealer, 10))
	want := []gateway.Transaction{{
		XID: o.sale.TransIDs.XID, Merchant: "M-0001", Card: "**** 1111", Cardholder: set.CardholderCertified, State: "captured", Issuer: "acknowledged", Code: "approved", Approval: "A12345",
		Amount: "42.50 USD", Authorized: "42.50 USD", Captured: "40.00 USD",
	}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(gateway.Transaction{}, "RRN", "Time")); diff != "" {
		t.Error(diff)
	}
	if _, err := gateway.Transactions(t.Context(), l.db, newSealer(t), 10); err == nil {
		t.Error("accounts were opened with another key")
	}
}

// An Error is never answered by an Error (SET §2.3), however it is made: two servers would not stop.
func TestErrorIsNotAnswered(t *testing.T) {
	t.Parallel()
	l := newLab(t, sqldbtest.SQLite(t))
	l.start(t, nil)
	request := l.order(t, l.merchant).authReq(t)
	w := must[*set.MessageWrapper](t)(set.Decode(request))
	cause := &set.ProtocolError{Code: set.SignatureFailure}
	old := l.now().Add(-24 * time.Hour)
	for name, message := range map[string][]byte{
		"signed":   must[[]byte](t)(l.merchant.ErrorResponse(l.now(), request, w, cause)),
		"unsigned": must[[]byte](t)(l.Endpoint(t).ErrorResponse(l.now(), request, w, cause)),
		"bare":     must[[]byte](t)(l.merchant.ErrorResponse(l.now(), []byte("no message"), nil, cause)),
		"old":      must[[]byte](t)(l.merchant.ErrorResponse(old, request, w, cause)),
	} {
		if status, response := l.post(t, message); status != http.StatusBadRequest || len(response) != 0 {
			t.Errorf("%s: status %d and %d octets, want 400 and none", name, status, len(response))
		}
	}
	if !strings.Contains(l.log.String(), "an Error message, which is not answered") {
		t.Errorf("the log does not tell of it:\n%s", l.log.String())
	}
}

// A gateway does not start with certificates that are not its own.
func TestNewRefuses(t *testing.T) {
	t.Parallel()
	l := newLab(t, "")
	other := l.Gateway(t, "G-0002")
	for name, change := range map[string]func(*set.Endpoint){
		"a merchant's certificate":    func(e *set.Endpoint) { e.SignCert = l.merchant.SignCert },
		"certificates exchanged":      func(e *set.Endpoint) { e.SignCert = e.ExchangeCert },
		"of another signature key":    func(e *set.Endpoint) { e.SignKey = other.SignKey },
		"of another key-exchange key": func(e *set.Endpoint) { e.ExchangeKey = other.ExchangeKey },
		"chain missing":               func(e *set.Endpoint) { e.Chain = nil },
		"its own":                     nil,
	} {
		e := *l.endpoint
		if change != nil {
			change(&e)
		}
		_, err := gateway.New(gateway.Config{Endpoint: &e})
		if (err == nil) != (change == nil) {
			t.Errorf("%s: %v", name, err)
		}
		if change == nil {
			continue
		}
		g := must[*gateway.Gateway](t)(gateway.New(gateway.Config{Endpoint: l.endpoint}))
		if err := g.Renew(&e); err == nil {
			t.Errorf("%s: taken for a renewal", name)
		}
	}
	g := must[*gateway.Gateway](t)(gateway.New(gateway.Config{Endpoint: l.endpoint}))
	if err := g.Renew(other); err == nil {
		t.Error("another gateway's certificates are taken for a renewal")
	}
}
