package set_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/set/settest"
)

// form is what the CAs of these tests ask.
var form = set.RegFormData{
	Policy: "Keep your card to yourself.",
	RegTemplate: &set.RegTemplate{RegFormID: 7, RegFieldSeq: []set.RegField{
		{FieldName: []set.Text128{"Name"}, FieldLen: set.FieldLenMax, FieldRequired: true},
		{FieldName: []set.Text128{"Registration", "code"}, FieldLen: 8, FieldRequired: true, FieldInvisible: true},
		{FieldName: []set.Text128{"Remark"}, FieldLen: set.FieldLenMax},
	}},
}

var answers = []set.FieldText{"Ada Lovelace", "s3cret", ""}

// enrolment is a cardholder's registration, advanced message by message.
type enrolment struct {
	*settest.World
	ca    *set.Endpoint
	self  *set.Endpoint
	state *set.CardEnrolment
	key   crypto.Signer
	lidCA set.LocalID
	wire  [][]byte

	nonce set.Secret // NonceCCA
	// Changes that a dishonest CA makes.
	template func(*pki.Template)
	asSigned bool
}

func newEnrolment(t testing.TB) *enrolment {
	t.Helper()
	w := settest.NewWorld(t)
	e := &enrolment{World: w, ca: w.CA(t, pki.CCA), self: w.Endpoint(t), key: newECKey(t), lidCA: set.NewLocalID(), nonce: set.NewSecret()}
	e.state = set.NewCardEnrolment(settest.Brand, "en", set.PAN(testPAN), e.expiry())
	return e
}

func newECKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	return must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

func (e *enrolment) expiry() set.CardExpiry {
	return set.CardExpiry(fmt.Sprintf("%d12", e.Now.Year()+1))
}

func (e *enrolment) sent(b []byte) []byte {
	e.wire = append(e.wire, b)
	return b
}

func (e *enrolment) receive(t testing.TB, b []byte, typ set.MessageType) *set.MessageWrapper {
	t.Helper()
	return must[*set.MessageWrapper](t)(e.ca.Receive(e.Now, b, typ))
}

// initRes makes the request and the answer of CardCInit.
func (e *enrolment) initRes(t testing.TB) []byte {
	t.Helper()
	b := e.sent(must[[]byte](t)(e.state.InitReq(e.self, e.Now)))
	req := must[*set.CardCInitReq](t)(e.ca.OpenCardCInitReq(e.receive(t, b, set.CardCInitReqType)))
	return e.sent(must[[]byte](t)(e.ca.CardCInitRes(e.Now, req, e.lidCA)))
}

func (e *enrolment) formRes(t testing.TB, f set.RegFormOrReferral) []byte {
	t.Helper()
	b := e.sent(must[[]byte](t)(e.state.FormReq(e.self, e.Now)))
	o := must[*set.OpenedRegFormReq](t)(e.ca.OpenRegFormReq(e.receive(t, b, set.RegFormReqType)))
	if string(o.PANOnly.PAN) != testPAN || o.Data.Language != "en" {
		t.Errorf("opened %v for PAN of %d digits", o.Data, len(o.PANOnly.PAN))
	}
	return e.sent(must[[]byte](t)(e.ca.RegFormRes(e.Now, &o.Data, e.lidCA, set.NewChallenge(), f)))
}

func (e *enrolment) request(t testing.TB) *set.OpenedCertReq {
	t.Helper()
	b := e.sent(must[[]byte](t)(e.state.CertReq(e.self, e.Now, answers, e.key)))
	return must[*set.OpenedCertReq](t)(e.ca.OpenCertReq(e.Now, e.receive(t, b, set.CertReqType)))
}

// certRes certifies as a CA does, but for what the test has changed.
func (e *enrolment) certRes(t testing.TB, o *set.OpenedCertReq) []byte {
	t.Helper()
	p := o.Account.PANData0
	var secret set.Secret
	for i := range secret {
		secret[i] = p.CardSecret[i] ^ e.nonce[i]
	}
	template := pki.Template{
		Type: pki.Card, Use: pki.Signature, PublicKey: o.SignKey,
		Subject: pki.Name{Country: "CH", Brand: settest.Brand, Unit: "Bank", CommonName: must[string](t)(pki.UniqueCardholderID(secret[:], p.PAN, p.CardExpiry))},
	}
	if e.template != nil {
		e.template(&template)
	}
	cert := e.Issue(t, template)
	if e.asSigned {
		o.Data.CABackKeyData, o.Data.RequestType = nil, set.MerInitialSig
	}
	status := set.CertStatus{CertStatusCode: set.RequestComplete, NonceCCA: &e.nonce, CAMsg: &set.CAMsg{CardholderMsg: "Welcome"}}
	return e.sent(must[[]byte](t)(e.ca.CertRes(e.Now, o, e.lidCA, status, cert)))
}

func (e *enrolment) toForm(t testing.TB) {
	t.Helper()
	if err := e.state.OpenInitRes(e.self, e.Now, e.initRes(t)); err != nil {
		t.Fatal(err)
	}
	got := must[*set.RegFormData](t)(e.state.OpenFormRes(e.self, e.Now, e.formRes(t, set.RegFormOrReferral{RegFormData: &form})))
	if diff := cmp.Diff(&form, got); diff != "" {
		t.Fatalf("form (-want +got):\n%s", diff)
	}
}

// A request that is sent with a new date in its header, which is not signed, has its own inside.
func TestRedatedCertReq(t *testing.T) {
	t.Parallel()
	for ago, want := range map[time.Duration]set.ErrorCode{30 * time.Minute: set.MessageTooOld, -30 * time.Minute: set.MessageTooNew, 9 * time.Minute: 0} {
		e := newEnrolment(t)
		e.toForm(t)
		w := must[*set.MessageWrapper](t)(set.Decode(must[[]byte](t)(e.state.CertReq(e.self, e.Now.Add(-ago), answers, e.key))))
		w.MessageHeader.Date = e.Now
		w = e.receive(t, must[[]byte](t)(set.Encode(*w)), set.CertReqType)
		if _, err := e.ca.OpenCertReq(e.Now, w); code(err) != want || (err == nil) != (want == 0) {
			t.Errorf("requested %v ago: %v, want %v", ago, err, want)
		}
	}
}

func TestCardEnrolment(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t)
	e.toForm(t)
	o := e.request(t)
	got := must[[]set.FieldText](t)(o.Answers(form.RegTemplate))
	if !cmp.Equal(got, answers) {
		t.Error("the CA read other answers")
	}
	cardSecret := o.Account.PANData0.CardSecret
	res := e.certRes(t, o)
	card := must[*set.CardCertificate](t)(e.state.OpenCertRes(e.self, e.Now, res))
	for i := range cardSecret {
		if card.CardSecret[i] != cardSecret[i] || card.PANSecret[i] != cardSecret[i]^e.nonce[i] {
			t.Fatal("other secrets than those agreed on")
		}
	}
	if card.CAMsg == nil || card.CAMsg.CardholderMsg != "Welcome" || len(card.Chain) != 2 {
		t.Errorf("message %v, chain %v", card.CAMsg, card.Chain)
	}
	// The certificate serves for a payment.
	chain, err := e.self.Verifier.Verify(card.Certificate, card.Chain, e.Now, pki.Card)
	if err != nil || len(chain) != 4 {
		t.Errorf("chain %v, %v", chain, err)
	}
	// What was sent once is not sent again.
	if first, second := len(e.wire[1]), len(e.wire[3]); second > first/2+1000 {
		t.Errorf("RegFormRes has %d octets, CardCInitRes %d: its certificates were sent again", second, first)
	}
	// CR-1, CR-2, CR-3: neither account nor secrets are on the wire.
	for _, b := range e.wire {
		for what, secret := range map[string][]byte{
			"PAN": []byte(testPAN), "expiry": e.expiry(), "CardSecret": cardSecret[:], "NonceCCA": e.nonce[:],
			"PANSecret": card.PANSecret[:], "registration code": []byte(answers[1]), "back key": o.Data.CABackKeyData.BackKey,
		} {
			if bytes.Contains(b, secret) {
				t.Errorf("%s on the wire", what)
			}
		}
	}
	card.Clear()
	e.state.Clear()
	if card.PANSecret != (set.Secret{}) {
		t.Error("Clear leaves the secret")
	}
}

func TestReferral(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t)
	if err := e.state.OpenInitRes(e.self, e.Now, e.initRes(t)); err != nil {
		t.Fatal(err)
	}
	res := e.formRes(t, set.RegFormOrReferral{ReferralData: &set.ReferralData{Reason: "unknown bank", ReferralURLSeq: []set.URL{"https://bank.example"}}})
	_, err := e.state.OpenFormRes(e.self, e.Now, res)
	var referral *set.ReferralError
	if !errors.As(err, &referral) || referral.Reason != "unknown bank" || len(referral.URLs) != 1 {
		t.Errorf("got %v", err)
	}
	if _, err := e.state.CertReq(e.self, e.Now, answers, e.key); err == nil {
		t.Error("CertReq without a form")
	}
}

// An answer that another CA signed, though it is genuine, is refused.
func TestWrongCA(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t)
	mca := e.CA(t, pki.MCA)
	e.ca.SignCert, e.ca.SignKey, e.ca.Chain = mca.SignCert, mca.SignKey, mca.Chain
	if err := e.state.OpenInitRes(e.self, e.Now, e.initRes(t)); code(err) != set.InvalidCertificate {
		t.Errorf("got %v, want invalidCertificate", err)
	}
	e = newEnrolment(t)
	e.state = set.NewCardEnrolment("Other", "en", set.PAN(testPAN), e.expiry())
	b := must[[]byte](t)(e.state.InitReq(e.self, e.Now))
	if _, err := e.ca.OpenCardCInitReq(e.receive(t, b, set.CardCInitReqType)); code(err) != set.MessageNotSupported {
		t.Errorf("another brand: %v", err)
	}
}

// relabel makes an old message look, in its unsigned header, like the answer to another request.
func relabel(t *testing.T, b, request []byte) []byte {
	t.Helper()
	w := must[*set.MessageWrapper](t)(set.Decode(b))
	w.MessageHeader = must[*set.MessageWrapper](t)(set.Decode(request)).MessageHeader
	return must[[]byte](t)(set.Encode(*w))
}

// What a dishonest CA might certify is refused, and so is what would show the secrets.
func TestDishonestCA(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, e *enrolment, o *set.OpenedCertReq){
		"another key": func(t *testing.T, e *enrolment, _ *set.OpenedCertReq) {
			e.template = func(p *pki.Template) { p.PublicKey = newECKey(t).Public() }
		},
		"another card": func(_ *testing.T, _ *enrolment, o *set.OpenedCertReq) {
			o.Account.PANData0.PAN = set.PAN("5500005555555559")
		},
		"another secret": func(_ *testing.T, _ *enrolment, o *set.OpenedCertReq) { o.Account.PANData0.CardSecret[3] ^= 1 },
		"a merchant's certificate": func(_ *testing.T, e *enrolment, _ *set.OpenedCertReq) {
			e.template = func(p *pki.Template) {
				p.Type, p.Merchant = pki.Mer, &pki.MerchantData{
					MerchantID: "M", AcquirerBIN: "411111", Country: 756, Names: []pki.MerchantNames{{Language: "en", Name: "N", City: "C", CountryName: "S"}},
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEnrolment(t)
			e.toForm(t)
			o := e.request(t)
			change(t, e, o)
			card, err := e.state.OpenCertRes(e.self, e.Now, e.certRes(t, o))
			if err == nil {
				t.Errorf("accepted %v", card.Certificate)
			}
			var p *set.ProtocolError
			if !errors.As(err, &p) {
				t.Errorf("got %v, want a protocol error", err)
			}
		})
	}
}

func TestCertificateOutlivesCard(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t)
	next := e.Now.AddDate(0, 1, 0)
	e.state = set.NewCardEnrolment(settest.Brand, "en", set.PAN(testPAN), set.CardExpiry(next.Format("200601")))
	e.toForm(t)
	if _, err := e.state.OpenCertRes(e.self, e.Now, e.certRes(t, e.request(t))); code(err) != set.InvalidCertificate {
		t.Errorf("got %v, want invalidCertificate", err)
	}
}

func TestCertStatus(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t)
	e.toForm(t)
	o := e.request(t)
	want := &set.CertStatusError{Code: set.RejectedByIssuer, Message: "ask your bank", FailedItems: []set.FailedItem{{ItemNumber: 2, ItemReason: "wrong"}}}
	res := must[[]byte](t)(e.ca.CertRes(e.Now, o, e.lidCA, want.Status()))
	_, err := e.state.OpenCertRes(e.self, e.Now, res)
	var got *set.CertStatusError
	if !errors.As(err, &got) || !cmp.Equal(want, got) || got.Pending() {
		t.Errorf("got %v, want %v", err, want)
	}
	if w := must[*set.MessageWrapper](t)(set.Decode(res)); w.Message.CertRes.EncK == nil {
		t.Error("a refusal to a cardholder is not encrypted")
	}
	if _, err := e.ca.CertRes(e.Now, o, e.lidCA, set.CertStatus{CertStatusCode: set.RequestComplete}); err == nil {
		t.Error("complete without a certificate")
	}
}

// impostor shows one key and signs with another.
type impostor struct {
	crypto.Signer
	shows crypto.PublicKey
}

func (i impostor) Public() crypto.PublicKey { return i.shows }

func (i impostor) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	return i.Signer.Sign(r, digest, o)
}

func TestAnswersRefused(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t)
	e.toForm(t)
	for name, a := range map[string][]set.FieldText{
		"too few": {"Ada"}, "required": {"", "s3cret", ""}, "too long": {"Ada", "123456789", ""},
	} {
		if _, err := e.state.CertReq(e.self, e.Now, a, e.key); err == nil {
			t.Errorf("%s: sent", name)
		}
	}
	o := e.request(t)
	var status *set.CertStatusError
	for name, form := range map[string]*set.RegTemplate{
		"another form":  {RegFormID: 8},
		"unknown field": {RegFormID: 7},
		"shorter": {RegFormID: 7, RegFieldSeq: []set.RegField{
			{FieldName: []set.Text128{"Name"}, FieldLen: 3}, form.RegTemplate.RegFieldSeq[1], form.RegTemplate.RegFieldSeq[2],
		}},
		"one more": {RegFormID: 7, RegFieldSeq: append([]set.RegField{{FieldName: []set.Text128{"More"}, FieldLen: 1, FieldRequired: true}}, form.RegTemplate.RegFieldSeq...)},
	} {
		if _, err := o.Answers(form); !errors.As(err, &status) || status.Code != set.RegFormAnswerMalformed {
			t.Errorf("%s: %v", name, err)
		} else if (name == "shorter" || name == "one more") && (len(status.FailedItems) != 1 || status.FailedItems[0].ItemNumber != 1) {
			t.Errorf("%s: failed items %v", name, status.FailedItems)
		}
	}
}

// One flipped bit anywhere in a message gives an error, or leaves what it says as it was: the header is
// not signed, and neither are the certificates that travel along.
func TestEnrolmentTampered(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t)
	res := e.initRes(t)
	step := max(1, len(res)/400)
	for i := 0; i < len(res); i += step {
		bad := bytes.Clone(res)
		bad[i] ^= 1
		state := *e.state
		if err := state.OpenInitRes(e.self, e.Now, bad); err != nil {
			var p *set.ProtocolError
			if !errors.As(err, &p) {
				t.Errorf("octet %d: %v is no protocol error", i, err)
			}
		}
	}
	if err := e.state.OpenInitRes(e.self, e.Now, res); err != nil {
		t.Fatal(err)
	}
	req := must[[]byte](t)(e.state.FormReq(e.self, e.Now))
	for i := 0; i < len(req); i += max(1, len(req)/200) {
		bad := bytes.Clone(req)
		bad[i] ^= 1
		w, err := e.ca.Receive(e.Now, bad, set.RegFormReqType)
		if err != nil {
			continue
		}
		if o, err := e.ca.OpenRegFormReq(w); err == nil && string(o.PANOnly.PAN) != testPAN {
			t.Errorf("octet %d: another card number came out", i)
		}
	}
}

func TestMeAqEnrolment(t *testing.T) {
	t.Parallel()
	merchant := set.IDData{MerchantAcquirerID: &set.MerchantAcquirerID{MerchantBIN: settest.AcquirerBIN, MerchantID: settest.MerchantID}}
	acquirer := set.IDData{AcquirerID: &set.AcquirerID{AcquirerBIN: settest.AcquirerBIN, AcquirerBusinessID: "12"}}
	field := &set.RegField{FieldName: []set.Text128{"Account"}, FieldLen: 74}
	for _, c := range []struct {
		typ   set.RequestType
		id    set.IDData
		field *set.RegField
	}{
		{set.MerInitialSig, merchant, nil}, {set.MerInitialEnc, merchant, nil}, {set.MerInitialBoth, merchant, nil}, {set.MerInitialBoth, merchant, field},
		{set.MerInitialEnc, merchant, field}, {set.MerRenewalSig, merchant, nil}, {set.MerRenewalEnc, merchant, nil},
		{set.MerRenewalBoth, merchant, nil}, {set.MerRenewalBoth, merchant, field}, {set.PgwyRenewalSig, acquirer, nil},
		{set.PgwyRenewalEnc, acquirer, nil}, {set.PgwyRenewalBoth, acquirer, nil}, {set.PgwyInitialSig, acquirer, nil}, {set.PgwyInitialEnc, acquirer, nil}, {set.PgwyInitialBoth, acquirer, nil},
	} {
		t.Run(fmt.Sprint(c.typ, c.field != nil), func(t *testing.T) {
			t.Parallel()
			m := newMeAq(t, c.typ, c.id)
			m.toForm(t, c.field)
			o := m.request(t)
			if got := o.Account != nil; got != (c.field != nil) || got && o.Account.AcctData.AcctIdentification.Text() != "CH93 0076" {
				t.Error("account data got lost, or came from nowhere")
			}
			certs := m.certify(t, o)
			status := set.CertStatus{CertStatusCode: set.RequestComplete}
			res := must[[]byte](t)(m.ca.CertRes(m.Now, o, m.lidCA, status, certs...))
			got := must[*set.EntityCertificates](t)(m.state.OpenCertRes(m.self, m.Now, res))
			if (got.Signature != nil) != (m.sign != nil) || (got.KeyExchange != nil) != (m.exchange != nil) || len(got.Chain) != 2 {
				t.Errorf("signature %v, key exchange %v, chain %v", got.Signature, got.KeyExchange, got.Chain)
			}
		})
	}
}

// meAq is a merchant's or gateway's registration.
type meAq struct {
	*settest.World
	typ      set.RequestType
	ca, self *set.Endpoint
	state    *set.MeAqEnrolment
	sign     crypto.Signer
	exchange crypto.PublicKey
	lidCA    set.LocalID
	account  []set.FieldText
	existing *set.Endpoint // the party, as it was certified before
}

func newMeAq(t testing.TB, typ set.RequestType, id set.IDData) *meAq {
	t.Helper()
	w := settest.NewWorld(t)
	m := &meAq{World: w, typ: typ, lidCA: set.NewLocalID(), self: w.Endpoint(t)}
	if id.AcquirerID == nil {
		m.ca, m.existing = w.CA(t, pki.MCA), w.Merchant(t, settest.MerchantID)
	} else {
		m.ca, m.existing = w.CA(t, pki.PCA), w.Gateway(t, "G-1")
	}
	switch typ {
	case set.MerInitialEnc, set.PgwyInitialEnc, set.MerRenewalEnc, set.PgwyRenewalEnc:
		m.exchange = settest.RSAKey(t).Public()
	case set.MerInitialSig, set.PgwyInitialSig, set.MerRenewalSig, set.PgwyRenewalSig:
		m.sign = newECKey(t)
	default:
		m.sign, m.exchange = newECKey(t), settest.RSAKey(t).Public()
	}
	if typ >= set.MerRenewalSig || m.sign == nil {
		m.self = m.existing
	}
	m.state = must[*set.MeAqEnrolment](t)(set.NewMeAqEnrolment(settest.Brand, "en", typ, id))
	return m
}

func (m *meAq) toForm(t testing.TB, field *set.RegField) {
	t.Helper()
	b := must[[]byte](t)(m.state.InitReq(m.self, m.Now))
	w := must[*set.MessageWrapper](t)(m.ca.Receive(m.Now, b, set.MeAqCInitReqType))
	req := must[*set.MeAqCInitReq](t)(m.ca.OpenMeAqCInitReq(w))
	res := must[[]byte](t)(m.ca.MeAqCInitRes(m.Now, req, m.lidCA, set.NewChallenge(), set.RegFormOrReferral{RegFormData: &form}, field))
	got := must[*set.EntityForm](t)(m.state.OpenInitRes(m.self, m.Now, res))
	if diff := cmp.Diff(&set.EntityForm{RegFormData: form, AcctDataField: field}, got); diff != "" {
		t.Errorf("form (-want +got):\n%s", diff)
	}
	if field != nil {
		m.account = []set.FieldText{"CH93 0076"}
	}
}

func (m *meAq) request(t testing.TB) *set.OpenedCertReq {
	t.Helper()
	b := must[[]byte](t)(m.state.CertReq(m.self, m.Now, append(answers[:3:3], m.account...), m.sign, m.exchange))
	w := must[*set.MessageWrapper](t)(m.ca.Receive(m.Now, b, set.CertReqType))
	return must[*set.OpenedCertReq](t)(m.ca.OpenCertReq(m.Now, w))
}

// certify issues what was asked for, with the names of the party as it was certified before.
func (m *meAq) certify(t testing.TB, o *set.OpenedCertReq) (certs []*pki.Certificate) {
	t.Helper()
	for key, use := range map[crypto.PublicKey]pki.Use{o.SignKey: pki.Signature, o.ExchangeKey: pki.KeyExchange} {
		if key == nil {
			continue
		}
		old := m.existing.SignCert
		template := pki.Template{Type: old.Type, Use: use, Subject: old.Subject, PublicKey: key, Merchant: old.Merchant}
		if use == pki.KeyExchange && old.Type == pki.Pgwy {
			template.Tunneling = &pki.Tunneling{Supported: true}
		}
		certs = append(certs, m.Issue(t, template))
	}
	return certs
}

func TestMeAqDishonestCA(t *testing.T) {
	t.Parallel()
	id := set.IDData{MerchantAcquirerID: &set.MerchantAcquirerID{MerchantBIN: settest.AcquirerBIN, MerchantID: settest.MerchantID}}
	for name, change := range map[string]func(t *testing.T, m *meAq, certs []*pki.Certificate) []*pki.Certificate{
		"one is missing": func(_ *testing.T, _ *meAq, certs []*pki.Certificate) []*pki.Certificate { return certs[:1] },
		"twice the same": func(_ *testing.T, _ *meAq, certs []*pki.Certificate) []*pki.Certificate {
			return []*pki.Certificate{certs[0], certs[0]}
		},
		"another merchant": func(t *testing.T, m *meAq, _ []*pki.Certificate) []*pki.Certificate {
			other := m.Merchant(t, "M-0666")
			return []*pki.Certificate{other.SignCert, other.ExchangeCert}
		},
		"other keys": func(_ *testing.T, m *meAq, _ []*pki.Certificate) []*pki.Certificate {
			return []*pki.Certificate{m.existing.SignCert, m.existing.ExchangeCert}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMeAq(t, set.MerInitialBoth, id)
			m.toForm(t, nil)
			o := m.request(t)
			certs := change(t, m, m.certify(t, o))
			res := must[[]byte](t)(m.ca.CertRes(m.Now, o, m.lidCA, set.CertStatus{CertStatusCode: set.RequestComplete}, certs...))
			_, err := m.state.OpenCertRes(m.self, m.Now, res)
			var p *set.ProtocolError
			if !errors.As(err, &p) {
				t.Errorf("got %v, want a protocol error", err)
			}
		})
	}
}

func TestImpossibleRegistrations(t *testing.T) {
	t.Parallel()
	acquirer := set.IDData{AcquirerID: &set.AcquirerID{AcquirerBIN: settest.AcquirerBIN}}
	for _, typ := range []set.RequestType{set.CardInitialSig, set.CardRenewalSig, set.MerInitialBoth, set.MerRenewalBoth} {
		if _, err := set.NewMeAqEnrolment(settest.Brand, "en", typ, acquirer); err == nil {
			t.Errorf("%v of an acquirer is possible", typ)
		}
	}
	m := newMeAq(t, set.PgwyInitialBoth, acquirer)
	if _, err := m.state.CertReq(m.self, m.Now, nil, m.sign, m.exchange); err == nil {
		t.Error("CertReq before the form")
	}
	m.toForm(t, nil)
	if _, err := m.state.CertReq(m.self, m.Now, answers, m.sign, nil); err == nil {
		t.Error("CertReq without one of the keys")
	}
}

func TestCardExpiryEnd(t *testing.T) {
	t.Parallel()
	end, err := set.CardExpiry("202812").End()
	if want := time.Date(2029, 1, 1, 0, 0, 0, 0, time.UTC); err != nil || !end.Equal(want) {
		t.Errorf("got %v, %v, want %v", end, err, want)
	}
	if _, err := set.CardExpiry("202813").End(); err == nil {
		t.Error("month 13 has an end")
	}
}

// FuzzRegistrationRequests feeds a CA whatever comes: it answers, and never opens what nobody sent.
func FuzzRegistrationRequests(f *testing.F) {
	w := settest.NewWorld(f)
	cas := []*set.Endpoint{w.CA(f, pki.CCA), w.CA(f, pki.MCA)}
	self := w.Endpoint(f)
	id := set.IDData{MerchantAcquirerID: &set.MerchantAcquirerID{MerchantBIN: settest.AcquirerBIN, MerchantID: settest.MerchantID}}
	merchant, err := set.NewMeAqEnrolment(settest.Brand, "en", set.MerInitialBoth, id)
	if err != nil {
		f.Fatal(err)
	}
	card := set.NewCardEnrolment(settest.Brand, "en", set.PAN(testPAN), set.CardExpiry("209912"))
	seed := func(b []byte, err error) []byte {
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		return b
	}
	receive := func(ca *set.Endpoint, b []byte) *set.MessageWrapper {
		w, err := ca.Receive(w.Now, b, set.CardCInitReqType, set.MeAqCInitReqType, set.RegFormReqType, set.CertReqType, set.CertInqReqType)
		if err != nil {
			return nil
		}
		return w
	}
	seed(merchant.InitReq(self, w.Now))
	init, err := cas[0].OpenCardCInitReq(receive(cas[0], seed(card.InitReq(self, w.Now))))
	if err != nil {
		f.Fatal(err)
	}
	res, err := cas[0].CardCInitRes(w.Now, init, set.NewLocalID())
	if err := errors.Join(err, card.OpenInitRes(self, w.Now, res)); err != nil {
		f.Fatal(err)
	}
	known := seed(card.FormReq(self, w.Now))
	inquiry, err := os.ReadFile("../../testdata/golden/CertInqReq.der")
	seed(inquiry, err)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, ca := range cas {
			w0 := receive(ca, b)
			if w0 == nil {
				continue
			}
			var err error
			switch w0.Message.Type() {
			case set.CardCInitReqType:
				_, err = ca.OpenCardCInitReq(w0)
			case set.MeAqCInitReqType:
				_, err = ca.OpenMeAqCInitReq(w0)
			case set.RegFormReqType:
				if _, err = ca.OpenRegFormReq(w0); err == nil && !bytes.Equal(w0.Message.RegFormReq.Content, receive(ca, known).Message.RegFormReq.Content) {
					t.Error("opened what nobody sent")
				}
			case set.CertReqType:
				_, err = ca.OpenCertReq(w.Now, w0)
			case set.CertInqReqType:
				var o *set.OpenedCertInqReq
				if o, err = ca.OpenCertInqReq(w0); err == nil && o.Verify(ca.SignCert.X509.PublicKey) == nil {
					t.Error("a question that this key has not signed verifies under it")
				}
			}
			var p *set.ProtocolError
			var status *set.CertStatusError
			if err != nil && !errors.As(err, &p) && !errors.As(err, &status) {
				t.Errorf("%v is no answer", err)
			}
		}
	})
}
