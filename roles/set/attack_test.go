package set_test

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/set/settest"
)

// These tests are attacks by parties with genuine certificates, and by who can exchange messages between
// honest ones.

// taken is a trade whose merchant has taken the order.
func taken(t *testing.T) *trade {
	t.Helper()
	tr := newTrade(t)
	tr.initiate(t)
	if err := tr.take(tr.request(t)); err != nil {
		t.Fatal(err)
	}
	return tr
}

func authorization() set.AuthorizationRequest {
	return set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: price}
}

// A gateway's genuine refusal of one request is not its refusal of another.
func TestErrorReplayed(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	old, next := authorization(), authorization()
	b := tr.authorize(t, old)
	w := must[*set.MessageWrapper](t)(tr.gateway.Receive(tr.Now, b, set.AuthReqType))
	refusal := must[[]byte](t)(tr.gateway.ErrorResponse(tr.Now, b, w, &set.ProtocolError{Code: set.SignatureFailure}))
	garbled := must[[]byte](t)(tr.gateway.ErrorResponse(tr.Now, b[1:], nil, &set.ProtocolError{Code: set.DecodingFailure}))
	for name, c := range map[string]struct {
		answer []byte
		to     set.AuthorizationRequest
		signed bool
	}{
		"its own":            {refusal, old, true},
		"of another request": {relabel(t, refusal, tr.authorize(t, next)), next, false},
		"of nobody knows":    {garbled, next, false},
	} {
		_, err := tr.sale.OpenAuthRes(tr.merchant, tr.Now, c.to, c.answer)
		var peer *set.PeerError
		if !errors.As(err, &peer) || (peer.Signer != nil) != c.signed {
			t.Errorf("%s: %v, want signed %t", name, err, c.signed)
		}
	}
}

// The merchant books no other amount than the one that it asked for.
func TestCapturedAmount(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	r := tr.capture(set.NewRRPID(), price, nil)
	w := must[*set.MessageWrapper](t)(tr.gateway.Receive(tr.Now, must[[]byte](t)(tr.merchant.CapReq(tr.Now, r)), set.CapReqType))
	o := must[*set.OpenedCapReq](t)(tr.gateway.OpenCapReq(tr.Now, w))
	less := price
	less.Amount--
	for _, c := range []struct {
		payload set.CapResPayload
		want    set.ErrorCode
	}{
		{set.CapResPayload{CapCode: set.CapSuccess, CapAmt: price}, 0},
		{set.CapResPayload{CapCode: set.CapSuccess, CapAmt: less}, set.WrapperMsgMismatch},
		{set.CapResPayload{CapCode: set.CapInvalidCapToken, CapAmt: set.CurrencyAmount{Currency: 840}}, 0},
	} {
		res := must[[]byte](t)(tr.gateway.CapRes(tr.Now, o, []set.CapResPayload{c.payload}))
		if _, err := tr.merchant.OpenCapRes(tr.Now, r, res); code(err) != c.want || (err == nil) != (c.want == 0) {
			t.Errorf("%v of %v: %v, want %v", c.payload.CapCode, c.payload.CapAmt, err, c.want)
		}
	}
}

// A key that may sign no more signs no message, though its certificate is valid still.
func TestPrivateKeyUsagePeriod(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	ca, key := tr.Authority(pki.MCA)
	old := tr.merchant.SignCert
	tr.merchant.SignCert = must[*pki.Certificate](t)(pki.Issue(rand.Reader, pki.Template{
		Type: pki.Mer, Use: pki.Signature, Subject: old.Subject, PublicKey: old.X509.PublicKey, Merchant: old.Merchant,
		NotBefore: tr.Now.Add(-time.Hour), NotAfter: tr.Now.Add(time.Hour), PrivateKeyNotAfter: tr.Now.Add(-time.Minute),
	}, ca, key))
	w := must[*set.MessageWrapper](t)(tr.merchant.Receive(tr.Now, must[[]byte](t)(tr.purchase.InitReq(tr.card.Endpoint, tr.Now)), set.PInitReqType))
	req := must[*set.PInitReq](t)(w.OpenPInitReq())
	res := must[[]byte](t)(tr.sale.InitRes(tr.merchant, tr.Now, req, tr.gateway.ExchangeCert, tr.gateway.Chain))
	if _, err := tr.purchase.OpenInitRes(tr.card.Endpoint, tr.Now, res); code(err) != set.InvalidCertificate {
		t.Errorf("got %v, want invalidCertificate", err)
	}
}

// A card, merchant or gateway of another brand under the same root has no part in the purchase.
func TestRivalBrand(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	rival := tr.Rival(t, "Rival")
	merchant, gateway := tr.merchant, tr.gateway
	for name, c := range map[string]struct{ merchant, gateway *set.Endpoint }{
		"merchant": {rival.Merchant(t, settest.MerchantID), gateway},
		"gateway":  {merchant, rival.Gateway(t, "G-0001")},
	} {
		w := must[*set.MessageWrapper](t)(merchant.Receive(tr.Now, must[[]byte](t)(tr.purchase.InitReq(tr.card.Endpoint, tr.Now)), set.PInitReqType))
		req := must[*set.PInitReq](t)(w.OpenPInitReq())
		res := must[[]byte](t)(tr.sale.InitRes(c.merchant, tr.Now, req, c.gateway.ExchangeCert, c.gateway.Chain))
		if _, err := tr.purchase.OpenInitRes(tr.card.Endpoint, tr.Now, res); !errors.Is(err, set.ErrBrand) {
			t.Errorf("%s: %v, want ErrBrand", name, err)
		}
	}
	tr.initiate(t)
	honest := tr.card.Endpoint
	tr.card.Endpoint = rival.Card(t, testPAN).Endpoint
	if err := tr.take(tr.request(t)); code(err) != set.InvalidCertificate {
		t.Errorf("card, at the merchant: %v, want invalidCertificate", err)
	}
	// A merchant that overlooks it does not get it past the gateway.
	preq := must[*set.MessageWrapper](t)(set.Decode(tr.request(t)))
	tr.card.Endpoint = honest
	if err := tr.take(tr.request(t)); err != nil {
		t.Fatal(err)
	}
	tr.sale.PI = must[[]byte](t)(marshalPI(preq))
	if o, err := tr.acquire(tr.authorize(t, authorization())); err != nil || o.Refusal == nil {
		t.Errorf("card, at the gateway: %v, want a refusal", err)
	}
	tr.merchant = rival.Merchant(t, settest.MerchantID)
	if _, err := tr.acquire(tr.authorize(t, authorization())); code(err) != set.InvalidCertificate {
		t.Errorf("merchant, at the gateway: %v, want invalidCertificate", err)
	}
}

func marshalPI(preq *set.MessageWrapper) ([]byte, error) {
	return der.Marshal(set.PI{PIDualSigned: &preq.Message.PReq.PReqDualSigned.PIDualSigned})
}

// A genuine party in the role of another is refused, whoever's place it takes.
func TestWrongRole(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	tr.initiate(t)
	honest := tr.card.Endpoint
	for name, e := range map[string]*set.Endpoint{"merchant": tr.Merchant(t, "M-0002"), "gateway": tr.Gateway(t, "G-0002"), "CA": tr.CA(t, pki.CCA)} {
		tr.card.Endpoint = e
		if err := tr.take(tr.request(t)); code(err) != set.InvalidCertificate {
			t.Errorf("%s pays: %v", name, err)
		}
	}
	tr.card.Endpoint = honest
	if err := tr.take(tr.request(t)); err != nil {
		t.Fatal(err)
	}
	merchant, r := tr.merchant, authorization()
	for name, e := range map[string]*set.Endpoint{"gateway": tr.Gateway(t, "G-0002"), "another merchant": tr.Merchant(t, "M-0006")} {
		if _, err := tr.acquire(must[[]byte](t)(forgedAuthReq(tr, e, r))); code(err) != set.InvalidCertificate {
			t.Errorf("%s asks for an authorization in the merchant's name: %v", name, err)
		}
	}
	o := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, r)))
	approve := set.Authorization{Code: set.AuthApproved, Amount: price, ApprovalCode: "A12345"}
	for name, c := range map[string]struct {
		e    *set.Endpoint
		want set.ErrorCode
	}{"merchant": {tr.Merchant(t, "M-0003"), set.InvalidCertificate}, "another gateway": {tr.Gateway(t, "G-0003"), set.SignatureFailure}} {
		res := must[[]byte](t)(c.e.AuthRes(tr.Now, o, approve))
		if _, err := tr.sale.OpenAuthRes(merchant, tr.Now, r, res); code(err) != c.want {
			t.Errorf("%s authorizes: %v, want %v", name, err, c.want)
		}
	}
	for name, e := range map[string]*set.Endpoint{"another merchant": tr.Merchant(t, "M-0005"), "gateway": tr.gateway} {
		res := must[[]byte](t)(tr.sale.PRes(e, tr.Now, set.PResPayload{CompletionCode: set.OrderReceived}))
		if _, err := tr.purchase.OpenResponse(honest, tr.Now, res); code(err) != set.SignatureFailure && code(err) != set.InvalidCertificate {
			t.Errorf("%s confirms: %v", name, err)
		}
	}
}

// forgedAuthReq is an AuthReq for the sale that another party signs with its own key, or the merchant with
// other contents than it should have.
func forgedAuthReq(tr *trade, by *set.Endpoint, r set.AuthorizationRequest, changes ...func(*set.AuthReqData)) ([]byte, error) {
	var pi set.PI
	if err := set.Unmarshal(tr.sale.PI, &pi); err != nil {
		return nil, err
	}
	dd, err := cms.DD(set.ContentPI, pi)
	if err != nil {
		return nil, err
	}
	data := set.AuthReqData{AuthReqItem: set.AuthReqItem{
		AuthTags:       set.AuthTags{AuthRRTags: set.RRTags{RRPID: r.RRPID, MerTermIDs: set.MerTermIDs{MerchantID: settest.MerchantID}, CurrentDate: tr.Now}, TransIDs: tr.sale.TransIDs},
		AuthReqPayload: set.AuthReqPayload{AuthReqAmt: r.Amount},
	}}
	for _, change := range changes {
		change(&data)
	}
	var raw []*x509.Certificate
	for _, c := range append(by.Chain, by.SignCert, by.ExchangeCert) {
		raw = append(raw, c.X509)
	}
	enc, err := cms.Enc(cms.SignedEncrypted{TBE: set.ContentAuthReqTBE, TBS: set.ContentAuthReqTBS}, cms.Linked[set.AuthReqData]{Value: data, DD: dd},
		raw, nil, cms.Signer{Key: by.SignKey, Certificate: by.SignCert.X509}, tr.gateway.ExchangeCert.X509)
	if err != nil {
		return nil, err
	}
	req := set.AuthReq{Enc: enc, Baggage: pi}
	t := tr.sale.TransIDs
	return set.Encode(set.MessageWrapper{
		MessageHeader: set.MessageHeader{Version: set.Version, Date: tr.Now, RRPID: &r.RRPID, SWIdent: settest.Software,
			MessageIDs: &set.MessageIDs{LIDC: t.LIDC, LIDM: t.LIDM, XID: &t.XID}},
		Message: set.Message{AuthReq: &req},
	})
}

// The key decides, not the certificate that comes along.
func TestForgedSignature(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	w := must[*set.MessageWrapper](t)(tr.merchant.Receive(tr.Now, must[[]byte](t)(tr.purchase.InitReq(tr.card.Endpoint, tr.Now)), set.PInitReqType))
	req := must[*set.PInitReq](t)(w.OpenPInitReq())
	forger := *tr.merchant
	forger.SignKey = newECKey(t)
	res := must[[]byte](t)(tr.sale.InitRes(&forger, tr.Now, req, tr.gateway.ExchangeCert, tr.gateway.Chain))
	if _, err := tr.purchase.OpenInitRes(tr.card.Endpoint, tr.Now, res); code(err) != set.SignatureFailure {
		t.Errorf("PInitRes: %v, want signatureFailure", err)
	}
}

// What PInitRes repeats must be what PInitReq said.
func TestPInitResOfAnother(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	b := must[[]byte](t)(tr.purchase.InitReq(tr.card.Endpoint, tr.Now))
	for want, change := range map[set.ErrorCode]func(*set.PInitReq){
		set.UnknownRRPID:      func(m *set.PInitReq) { m.RRPID = set.NewRRPID() },
		set.UnknownLID:        func(m *set.PInitReq) { m.LIDC = set.NewLocalID() },
		set.ChallengeMismatch: func(m *set.PInitReq) { m.ChallC = set.NewChallenge() },
		set.ThumbsMismatch:    func(m *set.PInitReq) { m.Thumbs = &set.Thumbs{DigestAlgorithm: cms.SHA256()} },
	} {
		w := must[*set.MessageWrapper](t)(tr.merchant.Receive(tr.Now, b, set.PInitReqType))
		req := must[*set.PInitReq](t)(w.OpenPInitReq())
		change(req)
		res := must[[]byte](t)(tr.sale.InitRes(tr.merchant, tr.Now, req, tr.gateway.ExchangeCert, tr.gateway.Chain))
		if _, err := tr.purchase.OpenInitRes(tr.card.Endpoint, tr.Now, relabel(t, res, b)); code(err) != want {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

// A cardholder who signs for another transaction than the merchant's.
func TestPReqOfAnother(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*set.Purchase)
		want   set.ErrorCode // 0 stands for ErrOrder
	}{
		"merchant's challenge": {func(p *set.Purchase) { p.ChallM = ptr(set.NewChallenge()) }, set.ChallengeMismatch},
		"own challenge":        {func(p *set.Purchase) { p.ChallC = set.NewChallenge() }, set.ChallengeMismatch},
		"XID":                  {func(p *set.Purchase) { p.TransIDs.XID = set.NewXID() }, set.UnknownXID},
		"LID-C":                {func(p *set.Purchase) { p.TransIDs.LIDC = set.NewLocalID() }, set.UnknownLID},
		"LID-M":                {func(p *set.Purchase) { p.TransIDs.LIDM = set.NewLocalID() }, set.UnknownLID},
		"BIN":                  {func(p *set.Purchase) { p.BIN = "400000" }, 0},
	} {
		tr := newTrade(t)
		tr.initiate(t)
		c.change(tr.purchase)
		if err := tr.take(tr.request(t)); code(err) != c.want || c.want == 0 && !errors.Is(err, set.ErrOrder) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// The header, which nobody signs, must agree with what is signed.
func TestHeaderMismatch(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	tr.initiate(t)
	preq := tr.request(t)
	if err := tr.take(preq); err != nil {
		t.Fatal(err)
	}
	_, inq, err := tr.purchase.InqReq(tr.card.Endpoint, tr.Now)
	if err != nil {
		t.Fatal(err)
	}
	capture := tr.capture(set.NewRRPID(), price, nil)
	for name, c := range map[string]struct {
		b    []byte
		open func(*set.MessageWrapper) error
		ids  bool
	}{
		"PReq":    {preq, func(w *set.MessageWrapper) error { _, err := tr.merchant.OpenPReq(tr.Now, w); return err }, true},
		"InqReq":  {inq, func(w *set.MessageWrapper) error { _, err := tr.merchant.OpenInqReq(tr.Now, w); return err }, true},
		"AuthReq": {tr.authorize(t, authorization()), func(w *set.MessageWrapper) error { _, err := tr.gateway.OpenAuthReq(tr.Now, w); return err }, true},
		"CapReq": {must[[]byte](t)(tr.merchant.CapReq(tr.Now, capture)),
			func(w *set.MessageWrapper) error { _, err := tr.gateway.OpenCapReq(tr.Now, w); return err }, false},
	} {
		for what, change := range map[string]func(*set.MessageHeader){
			"RRPID": func(h *set.MessageHeader) { id := set.NewRRPID(); h.RRPID = &id },
			"XID":   func(h *set.MessageHeader) { id := set.NewXID(); h.MessageIDs.XID = &id },
			"LID-C": func(h *set.MessageHeader) { h.MessageIDs.LIDC = nil },
			"LID-M": func(h *set.MessageHeader) { h.MessageIDs.LIDM = nil },
			"IDs":   func(h *set.MessageHeader) { h.MessageIDs = nil },
		} {
			if !c.ids && what != "RRPID" {
				continue
			}
			w := must[*set.MessageWrapper](t)(set.Decode(c.b))
			change(&w.MessageHeader)
			if err := c.open(w); code(err) != set.WrapperMsgMismatch {
				t.Errorf("%s with another %s: %v, want wrapperMsgMismatch", name, what, err)
			}
		}
	}
}

// What else the gateway refuses of an authentic request.
func TestGatewayRefusesMore(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		request func(*testing.T, *trade) []byte
		want    set.AuthCode
	}{
		"no digests of the order": {func(t *testing.T, tr *trade) []byte {
			return must[[]byte](t)(forgedAuthReq(tr, tr.merchant, authorization()))
		}, set.AuthPIAuthMismatch},
		"signed for another gateway": {func(t *testing.T, tr *trade) []byte {
			tr.signAnew(t, func(tbe *set.PIDualSignedTBE) {
				tbe.Value.Value.Extensions[0].Value = must[[]byte](t)(der.Marshal(tr.Gateway(t, "G-0002").ExchangeCert.CertThumb()))
			})
			return tr.authorize(t, authorization())
		}, set.AuthPIAuthMismatch},
	} {
		tr := taken(t)
		if o, err := tr.acquire(c.request(t, tr)); err != nil || o.Refusal == nil || *o.Refusal != c.want {
			t.Errorf("%s: %v, %v, want %v", name, o, err, c.want)
		}
	}
}

// agree gives the check digests that fit the sale.
func (tr *trade) agree(t *testing.T) func(*set.AuthReqData) {
	t.Helper()
	digests := new(set.CheckDigests)
	if err := errors.Join(set.Unmarshal(tr.sale.HOIData, &digests.HOIData), set.Unmarshal(tr.sale.HOD, &digests.HOD2)); err != nil {
		t.Fatal(err)
	}
	return func(d *set.AuthReqData) { d.AuthReqItem.CheckDigests = digests }
}

// signAnew has the cardholder sign and encrypt changed payment instructions.
func (tr *trade) signAnew(t *testing.T, change func(*set.PIDualSignedTBE)) {
	t.Helper()
	var pi set.PI
	if err := set.Unmarshal(tr.sale.PI, &pi); err != nil {
		t.Fatal(err)
	}
	gateway := cms.Recipient{Key: tr.gateway.ExchangeKey, Certificate: tr.gateway.ExchangeCert.X509}
	plaintext, packed, err := gateway.Decrypt(pi.PIDualSigned.EXPIData, set.ContentPIDualSignedTBE, cms.WithPANData)
	if err != nil {
		t.Fatal(err)
	}
	var tbe set.PIDualSignedTBE
	if err := set.Unmarshal(plaintext, &tbe); err != nil {
		t.Fatal(err)
	}
	change(&tbe)
	hPIData := must[cms.DetachedDigest](t)(cms.DD(set.ContentPIData, set.PIData{PIHead: tbe.Value.Value, PANData: must[set.PANData](t)(set.UnpackPANData(packed))}))
	var certs []*x509.Certificate
	for _, c := range append(tr.card.Endpoint.Chain, tr.card.Endpoint.SignCert) {
		certs = append(certs, c.X509)
	}
	pi.PIDualSigned.PISignature = must[cms.ContentInfo](t)(cms.SignDetached(set.ContentPITBS, set.PITBS{HPIData: hPIData, HOIData: tbe.Value.DD},
		certs, nil, cms.Signer{Key: tr.card.Endpoint.SignKey, Certificate: tr.card.Endpoint.SignCert.X509}))
	pi.PIDualSigned.EXPIData = must[cms.ContentInfo](t)(cms.Encrypt(tr.gateway.ExchangeCert.X509, set.ContentPIDualSignedTBE, tbe, cms.WithPANData, packed))
	tr.sale.PI = must[[]byte](t)(der.Marshal(pi))
}

// What the cardholder signed anew is taken when it is as it was, and refused when the account beside it is
// not the one that was linked, or when it asks for what nobody here knows.
func TestSignedAnew(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*set.PIDualSignedTBE)
		want   set.ErrorCode
	}{
		"unchanged":                  {func(*set.PIDualSignedTBE) {}, 0},
		"digest of another account":  {func(tbe *set.PIDualSignedTBE) { tbe.DD.Content.Digest[0] ^= 1 }, set.SignatureFailure},
		"critical extension unknown": {func(tbe *set.PIDualSignedTBE) { tbe.Value.Value.Extensions[0].Critical = true }, set.UnrecognizedExtension},
	} {
		tr := taken(t)
		tr.signAnew(t, c.change)
		o, err := tr.acquire(tr.authorize(t, authorization()))
		if code(err) != c.want || c.want == 0 && (err != nil || o.Refusal != nil) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// A token counts only if this gateway has signed it, though anyone can encrypt one for it.
func TestForgedToken(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	other := tr.Gateway(t, "G-0002")
	r := tr.capture(set.NewRRPID(), price, nil)
	for name, signer := range map[string]cms.Signer{
		"another gateway": {Key: other.SignKey, Certificate: other.SignCert.X509},
		"a forger":        {Key: newECKey(t), Certificate: tr.gateway.SignCert.X509},
	} {
		enc := must[cms.ContentInfo](t)(cms.Enc(cms.SignedEncrypted{TBE: set.ContentCapTokenTBE, TBS: set.ContentCapTokenData},
			set.CapTokenData{AuthRRPID: r.Items[0].AuthRRPID, AuthAmt: price}, nil, nil, signer, tr.gateway.ExchangeCert.X509))
		r.Items[0].CapToken = must[[]byte](t)(der.Marshal(set.CapToken{Enc: &enc}))
		w := must[*set.MessageWrapper](t)(tr.gateway.Receive(tr.Now, must[[]byte](t)(tr.merchant.CapReq(tr.Now, r)), set.CapReqType))
		if o := must[*set.OpenedCapReq](t)(tr.gateway.OpenCapReq(tr.Now, w)); o.Items[0].Code != set.CapInvalidCapToken {
			t.Errorf("%s: %v", name, o.Items[0].Code)
		}
	}
}

// A capture is done only if the sale's own gateway says so about this capture of this merchant.
func TestCapResOfAnother(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	r := tr.capture(set.NewRRPID(), price, nil)
	req := must[[]byte](t)(tr.merchant.CapReq(tr.Now, r))
	for name, c := range map[string]struct {
		change func(*set.OpenedCapReq) *set.Endpoint
		want   set.ErrorCode
	}{
		"gateway": {func(*set.OpenedCapReq) *set.Endpoint { return tr.Gateway(t, "G-0002") }, set.SignatureFailure},
		"request": {func(o *set.OpenedCapReq) *set.Endpoint { o.Data.CapRRTags.RRPID = set.NewRRPID(); return tr.gateway }, set.UnknownRRPID},
		"merchant": {func(o *set.OpenedCapReq) *set.Endpoint {
			o.Data.CapRRTags.MerTermIDs.MerchantID = "M"
			return tr.gateway
		}, set.WrapperMsgMismatch},
		"authorization": {func(o *set.OpenedCapReq) *set.Endpoint {
			o.Items[0].Item.AuthRRPID = set.NewRRPID()
			return tr.gateway
		}, set.WrapperMsgMismatch},
		"transaction": {func(o *set.OpenedCapReq) *set.Endpoint {
			o.Items[0].Item.TransIDs.XID = set.NewXID()
			return tr.gateway
		}, set.UnknownXID},
	} {
		o := must[*set.OpenedCapReq](t)(tr.gateway.OpenCapReq(tr.Now, must[*set.MessageWrapper](t)(tr.gateway.Receive(tr.Now, req, set.CapReqType))))
		by := c.change(o)
		res := must[[]byte](t)(by.CapRes(tr.Now, o, []set.CapResPayload{{CapCode: set.CapSuccess, CapAmt: price}}))
		if _, err := tr.merchant.OpenCapRes(tr.Now, r, relabel(t, res, req)); code(err) != c.want {
			t.Errorf("another %s: %v, want %v", name, err, c.want)
		}
	}
}

// Another gateway's refusal of this very request is no refusal.
func TestErrorOfAnotherGateway(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	r := authorization()
	b := tr.authorize(t, r)
	w := must[*set.MessageWrapper](t)(set.Decode(b))
	answer := must[[]byte](t)(tr.Gateway(t, "G-0002").ErrorResponse(tr.Now, b, w, &set.ProtocolError{Code: set.DecodingFailure}))
	_, err := tr.sale.OpenAuthRes(tr.merchant, tr.Now, r, answer)
	var peer *set.PeerError
	if !errors.As(err, &peer) || peer.Signer != nil {
		t.Errorf("got %v, want an Error that does not count as signed", err)
	}
}
