package set_test

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/set/settest"
)

// A gateway that has renewed names its certificate in every answer to a merchant who shows another one, and in none
// to who has it (SET §5.5, peThumb). The merchant takes no other gateway's for it.
func TestGatewayNamesItsCertificate(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	renewed, other := tr.Renewed(t, tr.gateway), tr.Gateway(t, "G-0002")
	var learnt []*pki.Certificate
	tr.merchant.LearntGateway = func(cert *pki.Certificate, others []*pki.Certificate) {
		learnt = append(learnt, cert)
		if _, err := tr.merchant.Verifier.Verify(cert, others, tr.Now, pki.Pgwy); err != nil {
			t.Errorf("what came with the certificate does not verify it: %v", err)
		}
	}
	posing := *renewed
	posing.ExchangeCert = other.ExchangeCert
	auth := authorization()
	ops := operations(t, tr)
	delete(ops, "PCert")      // which is about certificates
	delete(ops, "BatchAdmin") // whose answer has no place for a thumbprint
	ops["Auth"] = operation{
		request: func(t *testing.T, tr *trade, _ *set.Endpoint) []byte { return tr.authorize(t, auth) },
		answer: func(t *testing.T, tr *trade, by *set.Endpoint, req []byte, _ func(*set.RRTags, *set.TransIDs, *set.RRPID)) []byte {
			o := must[*set.OpenedAuthReq](t)(tr.acquire(req))
			return must[[]byte](t)(by.AuthRes(tr.Now, o, set.Authorization{Code: set.AuthApproved, Amount: price}))
		},
		accept: func(tr *trade, res []byte) error {
			_, err := tr.sale.OpenAuthRes(tr.merchant, tr.Now, auth, res)
			return err
		},
	}
	for _, name := range slices.Sorted(maps.Keys(ops)) {
		op := ops[name]
		req := op.request(t, tr, tr.merchant)
		untouched := func(*set.RRTags, *set.TransIDs, *set.RRPID) {}
		learnt = nil
		if err := op.accept(tr, op.answer(t, tr, tr.gateway, req, untouched)); err != nil || len(learnt) != 0 {
			t.Errorf("%s: the certificate that the merchant has is named again: %v", name, err)
		}
		err := op.accept(tr, op.answer(t, tr, renewed, req, untouched))
		if err != nil || len(learnt) != 1 || learnt[0].Thumbprint() != renewed.ExchangeCert.Thumbprint() {
			t.Errorf("%s: the renewed certificate is not learnt: %v, %v", name, learnt, err)
		}
		learnt = nil
		if err := op.accept(tr, op.answer(t, tr, &posing, req, untouched)); code(err) != set.InvalidCertificate || len(learnt) != 0 {
			t.Errorf("%s: another gateway's certificate is named: %v, %v", name, learnt, err)
		}
	}
}

// The same for a merchant who is told the card number: what the answer carries beside its detached signature counts
// as much.
func TestAnswerWithCardNumberTeaches(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	tr.merchant = tr.TrustedMerchant(t, settest.MerchantID)
	stolen := tr.Gateway(t, "G-0002")
	renewed := tr.Renewed(t, tr.gateway)
	renewed.Verifier = tr.Revoke(t, 1, stolen.SignCert)
	var learnt *pki.Certificate
	tr.merchant.LearntGateway = func(cert *pki.Certificate, _ []*pki.Certificate) { learnt = cert }
	lists := 0
	tr.merchant.Learnt = func(v *pki.Verifier) { tr.merchant.Verifier.Adopt(v); lists++ }
	answer := func() {
		t.Helper()
		auth := authorization()
		o := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, auth)))
		res := must[[]byte](t)(renewed.AuthRes(tr.Now, o, set.Authorization{Code: set.AuthApproved, Amount: price}))
		a := must[*set.Authorized](t)(tr.sale.OpenAuthRes(tr.merchant, tr.Now, auth, res))
		if a.PANToken == nil {
			t.Fatal("no card number")
		}
	}
	answer()
	if lists != 1 || learnt == nil || learnt.Thumbprint() != renewed.ExchangeCert.Thumbprint() {
		t.Errorf("told %d times of lists, certificate %v", lists, learnt)
	}
	if _, err := tr.merchant.Verifier.Verify(stolen.SignCert, stolen.Chain, tr.Now); err == nil {
		t.Error("the merchant does not know what is revoked")
	}
	answer()
	if lists != 1 {
		t.Error("the lists are sent again")
	}
	// Who signs it may be revoked by what comes with it.
	renewed.Verifier = tr.Revoke(t, 2, renewed.SignCert)
	auth := authorization()
	o := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, auth)))
	res := must[[]byte](t)(renewed.AuthRes(tr.Now, o, set.Authorization{Code: set.AuthApproved, Amount: price}))
	if _, err := tr.sale.OpenAuthRes(tr.merchant, tr.Now, auth, res); code(err) != set.RevokedCertificate || lists != 1 {
		t.Errorf("signed by a gateway that is revoked: %v, told %d times of lists", err, lists)
	}
}

// A cardholder who shows that it has the gateway's certificate and those above is not sent them; peThumb says which
// one is meant (SET §5.1). It is verified as if it had come.
func TestCertificatesShownAreNotSent(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	offer := tr.initiate(t)
	if len(offer.Others) == 0 {
		t.Fatal("no certificates came")
	}
	held := append(slices.DeleteFunc(slices.Clone(offer.Others), func(c *pki.Certificate) bool { return c.Use != pki.Authority }), offer.Gateway)
	initiate := func(shown ...*pki.Certificate) []byte {
		t.Helper()
		req := must[[]byte](t)(tr.purchase.InitReq(tr.card.Endpoint, tr.Now, shown...))
		init := must[*set.PInitReq](t)(must[*set.MessageWrapper](t)(tr.merchant.Receive(tr.Now, req, set.PInitReqType)).OpenPInitReq())
		return must[[]byte](t)(tr.sale.InitRes(tr.merchant, tr.Now, init, tr.gateway.ExchangeCert, tr.gateway.Chain))
	}
	short := initiate(held...)
	for _, c := range held {
		if bytes.Contains(short, c.X509.Raw) {
			t.Errorf("%v is sent to who has it", c)
		}
	}
	again := must[*set.Offer](t)(tr.purchase.OpenInitRes(tr.card.Endpoint, tr.Now, short, held...))
	if again.Gateway.Thumbprint() != offer.Gateway.Thumbprint() {
		t.Errorf("the gateway is %v", again.Gateway)
	}
	if err := tr.take(tr.request(t)); err != nil {
		t.Errorf("the purchase does not go on: %v", err)
	}
	if _, err := tr.purchase.OpenInitRes(tr.card.Endpoint, tr.Now, short); code(err) != set.MissingCertificate {
		t.Errorf("neither sent nor held: %v", err)
	}
	// Another gateway's certificate is not enough, and one that is revoked is not good.
	if long := initiate(tr.Gateway(t, "G-0002").ExchangeCert); !bytes.Contains(long, offer.Gateway.X509.Raw) {
		t.Error("the gateway's certificate is not sent to who has another gateway's")
	}
	short = initiate(held...)
	tr.card.Endpoint.Verifier = tr.Revoke(t, 1, offer.Gateway)
	if _, err := tr.purchase.OpenInitRes(tr.card.Endpoint, tr.Now, short, held...); code(err) != set.RevokedCertificate {
		t.Errorf("the certificate that is held is revoked: %v", err)
	}
}

// PRes and InqRes bring the revocation lists that the merchant has got since PInitRes, and no others.
func TestListsInResults(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	stolen := tr.Gateway(t, "G-0002")
	tr.merchant.Verifier = tr.Revoke(t, 1)
	lists := 0
	tr.card.Endpoint.Learnt = func(v *pki.Verifier) { tr.card.Endpoint.Verifier.Adopt(v); lists++ }
	offer := tr.initiate(t)
	if lists != 1 {
		t.Fatalf("told %d times of lists by PInitRes", lists)
	}
	if err := tr.take(tr.request(t)); err != nil {
		t.Fatal(err)
	}
	payload := set.PResPayload{CompletionCode: set.OrderReceived}
	answer := func() []byte { return must[[]byte](t)(tr.sale.PRes(tr.merchant, tr.Now, payload)) }
	inquire := func() {
		t.Helper()
		q, req, err := tr.purchase.InqReq(tr.card.Endpoint, tr.Now)
		if err != nil {
			t.Fatal(err)
		}
		o := received(t, tr.merchant, tr.Now, req, set.InqReqType, tr.merchant.OpenInqReq)
		res := must[[]byte](t)(tr.sale.InqRes(tr.merchant, tr.Now, o, payload))
		must[*set.PResData](t)(tr.purchase.OpenInqRes(tr.card.Endpoint, tr.Now, q, res, offer.Others...))
	}
	must[*set.PResData](t)(tr.purchase.OpenResponse(tr.card.Endpoint, tr.Now, answer()))
	inquire()
	if lists != 1 {
		t.Error("the lists of PInitRes are sent again")
	}
	knew := tr.card.Endpoint.Verifier.Store()
	forget := func() {
		v := must[*pki.Verifier](t)(pki.NewVerifier([]*pki.Certificate{tr.Root}, pki.Options{Store: knew}))
		tr.card.Endpoint.Verifier = v
	}
	tr.merchant.Verifier = tr.Revoke(t, 2, stolen.SignCert)
	for name, by := range map[string]func(){
		"PRes": func() {
			must[*set.PResData](t)(tr.purchase.OpenResponse(tr.card.Endpoint, tr.Now, answer(), offer.Others...))
		},
		"InqRes": inquire,
	} {
		forget()
		if by(); lists < 2 {
			t.Errorf("%s: the newer lists are not learnt", name)
		}
		lists = 1
		if _, err := tr.card.Endpoint.Verifier.Verify(stolen.SignCert, stolen.Chain, tr.Now); reason(err) != pki.Revoked {
			t.Errorf("%s: the cardholder does not know what is revoked: %v", name, err)
		}
	}
	// Without the certificate of the CA whose list it is the answer is good all the same.
	forget()
	must[*set.PResData](t)(tr.purchase.OpenResponse(tr.card.Endpoint, tr.Now, answer()))
	if _, err := tr.card.Endpoint.Verifier.Verify(stolen.SignCert, stolen.Chain, tr.Now); reason(err) != pki.Missing {
		t.Errorf("a certificate about which nothing can be told: %v", err)
	}
}

// Lists that the brand has not signed make a result worthless.
func TestForgedListsInResults(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	tr.merchant.Verifier = settest.NewWorld(t).Revoke(t, 9)
	payload := set.PResPayload{CompletionCode: set.OrderReceived}
	res := must[[]byte](t)(tr.sale.PRes(tr.merchant, tr.Now, payload))
	tr.card.Endpoint.Learnt = func(*pki.Verifier) { t.Error("forged lists are learnt") }
	if _, err := tr.purchase.OpenResponse(tr.card.Endpoint, tr.Now, res); code(err) != set.InvalidCertificate {
		t.Errorf("lists of another hierarchy: %v", err)
	}
	// Nor does anyone else's signature bring any.
	bci, _ := tr.RevocationLists(t)
	data := set.PResData{
		TransIDs: tr.sale.TransIDs, RRPID: tr.sale.RRPID, ChallC: tr.sale.ChallC, BrandCRLIdentifier: (*der.Raw)(&bci.Raw), PResPayloadSeq: []set.PResPayload{payload},
	}
	w := must[*set.MessageWrapper](t)(set.Decode(res))
	forged := set.PRes(must[cms.ContentInfo](t)(cms.Sign(set.ContentPResData, data, certificates(tr.gateway), nil,
		cms.Signer{Key: tr.gateway.SignKey, Certificate: tr.gateway.SignCert.X509})))
	w.Message.PRes = &forged
	if _, err := tr.purchase.OpenResponse(tr.card.Endpoint, tr.Now, must[[]byte](t)(set.Encode(*w))); code(err) != set.InvalidCertificate {
		t.Errorf("signed by a gateway: %v", err)
	}
}

// reason tells why a certificate is refused, 0 if it is not.
func reason(err error) pki.Reason {
	var v *pki.VerifyError
	if errors.As(err, &v) {
		return v.Reason
	}
	return 0
}
