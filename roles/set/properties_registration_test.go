package set_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"testing"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/set/settest"
)

// registered is an enrolment that has come to its end, with the last request and its answer.
func registered(t *testing.T) (e *enrolment, o *set.OpenedCertReq, card *set.CardCertificate) {
	t.Helper()
	e = newEnrolment(t)
	e.toForm(t)
	o = e.request(t)
	card = must[*set.CardCertificate](t)(e.state.OpenCertRes(e.self, e.Now, e.certRes(t, o)))
	return e, o, card
}

// CR-1: the card number is known to the CA that the cardholder chose, and to no other CA and nobody on the
// network, not even with the keys of all other CAs or with a guess that wants to be confirmed.
func cardNumberIsForOneCA(t *testing.T) {
	t.Parallel()
	e, _, _ := registered(t)
	var others []crypto.Decrypter
	for _, typ := range []pki.Type{pki.CCA, pki.MCA, pki.PCA} {
		others = append(others, e.CA(t, typ).ExchangeKey)
	}
	if !holds(learnt(t, e.wire, e.ca.ExchangeKey), []byte(testPAN)) {
		t.Error("this test finds nothing: not even the CA learns the card number")
	}
	for who, keys := range map[string][]crypto.Decrypter{"the network": nil, "the other CAs": others} {
		known := learnt(t, e.wire, keys...)
		if holds(known, []byte(testPAN)) || holds(known, e.expiry()) {
			t.Errorf("%s: the card is known", who)
		}
	}
	// A guess cannot be checked without the nonce: also with the content key, two requests about one card have
	// nothing in common that a digest of the number gives.
	guess := must[[]byte](t)(cms.Digest(set.PANOnly{PAN: set.PAN(testPAN)}))
	var digests [][]byte
	for range 2 {
		ci := cms.ContentInfo(*e.receive(t, must[[]byte](t)(e.state.FormReq(e.self, e.Now)), set.RegFormReqType).Message.RegFormReq)
		plaintext := envelopeOf(t, ci).opened(leak(t, ci, e.ca))
		var tbe set.RegFormReqTBE
		if err := set.Unmarshal(plaintext, &tbe); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(plaintext, []byte(testPAN)) || bytes.Contains(plaintext, guess) {
			t.Error("the content key gives the card number away")
		}
		digests = append(digests, tbe.DD.Content.Digest)
	}
	if bytes.Equal(digests[0], digests[1]) {
		t.Error("two requests about one card have the same digest")
	}
	otherCAsOpenNothing(t)
}

// Nobody opens a request but the CA that it is for, whatever it says that it is.
func otherCAsOpenNothing(t *testing.T) {
	t.Helper()
	e := newEnrolment(t)
	if err := e.state.OpenInitRes(e.self, e.Now, e.initRes(t)); err != nil {
		t.Fatal(err)
	}
	b := must[[]byte](t)(e.state.FormReq(e.self, e.Now))
	for _, typ := range []pki.Type{pki.CCA, pki.MCA, pki.PCA} {
		other := e.CA(t, typ)
		w := must[*set.MessageWrapper](t)(other.Receive(e.Now, b, set.RegFormReqType))
		if _, err := other.OpenRegFormReq(w); code(err) != set.DecodingFailure {
			t.Errorf("another %v: %v", typ, err)
		}
		// Not even one that says it is the certificate's owner.
		other.ExchangeCert = e.ca.ExchangeCert
		other.ExchangeKey = settest.RSAKey(t)
		if _, err := other.OpenRegFormReq(w); code(err) != set.DecodingFailure {
			t.Errorf("another %v under the certificate: %v", typ, err)
		}
	}
}

// CR-2: CardSecret is known to the cardholder and the CA alone: it travels in the RSA block, which not even
// the content key opens.
func cardSecretIsForTheCA(t *testing.T) {
	t.Parallel()
	e, o, card := registered(t)
	secret := o.Account.PANData0.CardSecret
	if !holds(learnt(t, e.wire, e.ca.ExchangeKey), secret[:]) {
		t.Error("this test finds nothing: not even the CA learns CardSecret")
	}
	if known := learnt(t, e.wire, e.CA(t, pki.CCA).ExchangeKey); holds(known, secret[:]) || holds(known, card.PANSecret[:]) {
		t.Error("another CA knows CardSecret or PANSecret")
	}
	ci := *e.receive(t, e.wire[4], set.CertReqType).Message.CertReq.EncX
	if holds(learnt(t, [][]byte{envelopeOf(t, ci).opened(leak(t, ci, e.ca))}), secret[:]) {
		t.Error("the content key gives CardSecret away")
	}
}

// CR-3: the CA's nonce is known to CA and cardholder alone: an answer that shows it is neither made nor taken,
// and the back key that hides it is of one request and serves for nothing else.
func nonceOfTheCAIsForTheCardholder(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t)
	e.toForm(t)
	o := e.request(t)
	first := bytes.Clone(o.Data.CABackKeyData.BackKey)
	e.certRes(t, o)
	if holds(learnt(t, e.wire, e.CA(t, pki.CCA).ExchangeKey), e.nonce[:]) {
		t.Error("the nonce is on the wire")
	}
	again := e.request(t)
	if bytes.Equal(first, again.Data.CABackKeyData.BackKey) {
		t.Error("two requests have the same back key")
	}
	e.asSigned = true // as a CA does that does not know better
	if _, err := e.state.OpenCertRes(e.self, e.Now, e.certRes(t, again)); code(err) != set.UnspecifiedFailure {
		t.Errorf("a certificate whose nonce everybody knows: %v", err)
	}
	o.Data.CABackKeyData, o.Data.RequestType = nil, set.CardInitialSig
	if _, err := e.ca.CertRes(e.Now, o, e.lidCA, set.CertStatus{CertStatusCode: set.RejectedByCA, NonceCCA: &e.nonce}); err == nil {
		t.Error("the CA sends its nonce in the clear")
	}
}

// CR-4: who learns the key of one message of a registration opens no other one.
func sessionKeysOfARegistration(t *testing.T) {
	t.Parallel()
	e, o, _ := registered(t)
	form := cms.ContentInfo(*e.receive(t, e.wire[2], set.RegFormReqType).Message.RegFormReq)
	req := *e.receive(t, e.wire[4], set.CertReqType).Message.CertReq.EncX
	res := *must[*set.MessageWrapper](t)(set.Decode(e.wire[5])).Message.CertRes.EncK
	if _, err := cms.DecryptBack(o.Data.CABackKeyData.BackKey, res, set.ContentCertResTBE); err != nil {
		t.Fatal(err)
	}
	wantClosed(t, map[string][]byte{
		"RegFormReq": leak(t, form, e.ca), "CertReq": leak(t, req, e.ca), "CertRes": o.Data.CABackKeyData.BackKey,
	}, map[string]cms.ContentInfo{"RegFormReq": form, "CertReq": req, "CertRes": res})
}

// CR-6: the cardholder encrypts for genuine keys of a cardholder CA of its brand alone, whatever certificate
// the answer names.
func onlyGenuineKeysOfTheCA(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t)
	honest := e.ca.ExchangeCert
	other := settest.NewWorld(t)
	for name, c := range map[string]struct {
		cert *pki.Certificate
		code set.ErrorCode
	}{
		"merchant":                   {e.Merchant(t, "M-0002").ExchangeCert, set.InvalidCertificate},
		"gateway":                    {e.Gateway(t, "G-0002").ExchangeCert, set.InvalidCertificate},
		"merchant CA":                {e.CA(t, pki.MCA).ExchangeCert, set.InvalidCertificate},
		"signature":                  {e.ca.SignCert, set.InvalidCertificate},
		"cardholder CA, other world": {other.CA(t, pki.CCA).ExchangeCert, set.MissingCertificate},
	} {
		e.ca.ExchangeCert = c.cert
		err := e.state.OpenInitRes(e.self, e.Now, e.initRes(t))
		if got := code(err); got != c.code && !(c.code == set.MissingCertificate && got == set.InvalidCertificate) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := e.state.FormReq(e.self, e.Now); err == nil {
			t.Errorf("%s: RegFormReq encrypted for it", name)
		}
	}
	e.ca.ExchangeCert = honest
	late := e.Now.AddDate(2, 0, 0)
	b := must[[]byte](t)(e.state.InitReq(e.self, late))
	w := must[*set.MessageWrapper](t)(e.ca.Receive(late, b, set.CardCInitReqType))
	req := must[*set.CardCInitReq](t)(e.ca.OpenCardCInitReq(w))
	if err := e.state.OpenInitRes(e.self, late, must[[]byte](t)(e.ca.CardCInitRes(late, req, e.lidCA))); code(err) != set.ExpiredCertificate {
		t.Errorf("expired: %v", err)
	}
}

// CR-7: answers to another registration, genuine though they are, are not taken for this one's.
func answersOfAnotherRegistration(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t)
	e.toForm(t)
	e.certRes(t, e.request(t))
	old := e.wire
	e.state = set.NewCardEnrolment(settest.Brand, "en", set.PAN(testPAN), e.expiry())
	refused := func(what string, err error) {
		t.Helper()
		if code(err) != set.ChallengeMismatch {
			t.Errorf("%s: %v, want challengeMismatch", what, err)
		}
	}
	init := e.initRes(t)
	request := e.wire[len(e.wire)-2]
	if err := e.state.OpenInitRes(e.self, e.Now, old[1]); code(err) != set.UnknownRRPID {
		t.Errorf("CardCInitRes as it was: %v", err)
	}
	refused("CardCInitRes", e.state.OpenInitRes(e.self, e.Now, relabel(t, old[1], request)))
	if err := e.state.OpenInitRes(e.self, e.Now, init); err != nil {
		t.Fatal(err)
	}
	res := e.formRes(t, set.RegFormOrReferral{RegFormData: &form})
	_, err := e.state.OpenFormRes(e.self, e.Now, relabel(t, old[3], e.wire[len(e.wire)-2]))
	refused("RegFormRes", err)
	must[*set.RegFormData](t)(e.state.OpenFormRes(e.self, e.Now, res))
	o := e.request(t)
	if _, err := e.state.OpenCertRes(e.self, e.Now, relabel(t, old[5], e.wire[len(e.wire)-1])); code(err) != set.DecodingFailure {
		t.Errorf("CertRes under another back key: %v", err)
	}
	must[*set.CardCertificate](t)(e.state.OpenCertRes(e.self, e.Now, e.certRes(t, o)))
}

// CR-8: a certificate says that the holder of the name had the private key when it asked. It does not say that
// the key is new, or that nobody else has it: the messages cannot show that, only the CA's records (CR-5).
func certifiedKeyMayBeOld(t *testing.T) {
	t.Parallel()
	old, _, card := registered(t)
	e := newEnrolment(t)
	e.key = old.key
	e.toForm(t)
	again := must[*set.CardCertificate](t)(e.state.OpenCertRes(e.self, e.Now, e.certRes(t, e.request(t))))
	if !again.Certificate.X509.PublicKey.(*ecdsa.PublicKey).Equal(card.Certificate.X509.PublicKey) {
		t.Error("another key was certified")
	}
	e = newEnrolment(t)
	e.toForm(t)
	b := must[[]byte](t)(e.state.CertReq(e.self, e.Now, answers, impostor{newECKey(t), e.key.Public()}))
	o, err := e.ca.OpenCertReq(e.Now, e.receive(t, b, set.CertReqType))
	var status *set.CertStatusError
	if o == nil || !errors.As(err, &status) || status.Code != set.SigValidationFail {
		t.Errorf("got %v, want sigValidationFail", err)
	}
}

// W-CR1: the CA chooses its half of PANSecret when it knows the other one, and so can fix the result. What would
// give the secret away to everybody is refused.
func nonceThatGivesTheSecretAway(t *testing.T) {
	t.Parallel()
	for name, nonce := range map[string]func(card set.Secret) set.Secret{
		"CardSecret": func(card set.Secret) set.Secret { return card },
		"zero":       func(set.Secret) set.Secret { return set.Secret{} },
	} {
		e := newEnrolment(t)
		e.toForm(t)
		o := e.request(t)
		e.nonce = nonce(o.Account.PANData0.CardSecret)
		if _, err := e.state.OpenCertRes(e.self, e.Now, e.certRes(t, o)); code(err) != set.InvalidCertificate {
			t.Errorf("a nonce that is %s: %v", name, err)
		}
	}
}

// W-CR4: what the digest in the RSA block of RegFormReq is for is not said anywhere. It holds number and request
// together: who has the content key cannot put another request beside the number.
func formRequestIsWhole(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t)
	if err := e.state.OpenInitRes(e.self, e.Now, e.initRes(t)); err != nil {
		t.Fatal(err)
	}
	w := e.receive(t, must[[]byte](t)(e.state.FormReq(e.self, e.Now)), set.RegFormReqType)
	honest := cms.ContentInfo(*w.Message.RegFormReq)
	key := leak(t, honest, e.ca)
	plaintext := envelopeOf(t, honest).opened(key)
	var tbe set.RegFormReqTBE
	if err := set.Unmarshal(plaintext, &tbe); err != nil {
		t.Fatal(err)
	}
	tbe.Value.Language = "de"
	for want, contents := range map[set.ErrorCode][]byte{0: plaintext, set.SignatureFailure: must[[]byte](t)(der.Marshal(tbe))} {
		req := set.RegFormReq(resealed(t, honest, key, contents))
		w.Message.RegFormReq = &req
		if _, err := e.ca.OpenRegFormReq(w); code(err) != want || (err == nil) != (want == 0) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

// W-CR5: the first message is clear and nobody's: whoever changes it learns nothing of the card, and gets the
// registration refused, no more.
func firstMessageIsAnybodys(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t)
	b := must[[]byte](t)(e.state.InitReq(e.self, e.Now))
	if holds([][]byte{b}, []byte(testPAN)) || holds([][]byte{b}, e.expiry()) {
		t.Error("the card is in the first message")
	}
	for want, change := range map[set.ErrorCode]func(*set.MessageHeader, *set.CardCInitReq){
		set.ChallengeMismatch: func(_ *set.MessageHeader, m *set.CardCInitReq) { m.ChallEE = set.NewChallenge() },
		set.UnknownRRPID: func(h *set.MessageHeader, m *set.CardCInitReq) {
			m.RRPID = set.NewRRPID()
			h.RRPID = &m.RRPID
		},
		set.UnknownLID: func(h *set.MessageHeader, m *set.CardCInitReq) {
			m.LIDEE = set.NewLocalID()
			h.MessageIDs.LIDC = m.LIDEE
		},
		set.ThumbsMismatch: func(_ *set.MessageHeader, m *set.CardCInitReq) { m.Thumbs = &set.Thumbs{DigestAlgorithm: cms.SHA256()} },
	} {
		w := e.receive(t, b, set.CardCInitReqType)
		change(&w.MessageHeader, w.Message.CardCInitReq)
		req := must[*set.CardCInitReq](t)(e.ca.OpenCardCInitReq(w))
		// On the way back the header is made to fit again.
		res := must[*set.MessageWrapper](t)(set.Decode(must[[]byte](t)(e.ca.CardCInitRes(e.Now, req, e.lidCA))))
		asked := must[*set.MessageWrapper](t)(set.Decode(b)).MessageHeader
		res.MessageHeader.RRPID, res.MessageHeader.MessageIDs.LIDC = asked.RRPID, asked.MessageIDs.LIDC
		if err := e.state.OpenInitRes(e.self, e.Now, must[[]byte](t)(set.Encode(*res))); code(err) != want {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	w := e.receive(t, b, set.CardCInitReqType)
	w.Message.CardCInitReq.BrandID = "Other"
	if _, err := e.ca.OpenCardCInitReq(w); code(err) != set.MessageNotSupported {
		t.Errorf("another brand: %v", err)
	}
}

var shop = set.IDData{MerchantAcquirerID: &set.MerchantAcquirerID{MerchantBIN: settest.AcquirerBIN, MerchantID: settest.MerchantID}}

// MR-1: what a merchant sends to its CA opens for that CA alone, and the key of one request opens no other.
func sessionKeysOfAMerchant(t *testing.T) {
	t.Parallel()
	m := newMeAq(t, set.MerInitialBoth, shop)
	m.toForm(t, nil)
	keys, envelopes := make(map[string][]byte), make(map[string]cms.ContentInfo)
	for _, name := range []string{"a request", "the next one"} {
		b := must[[]byte](t)(m.state.CertReq(m.self, m.Now, answers, m.sign, m.exchange))
		w := must[*set.MessageWrapper](t)(m.ca.Receive(m.Now, b, set.CertReqType))
		envelopes[name] = *w.Message.CertReq.Enc
		keys[name] = leak(t, envelopes[name], m.ca)
		for _, typ := range []pki.Type{pki.CCA, pki.MCA, pki.PCA} {
			if known := learnt(t, [][]byte{b}, m.CA(t, typ).ExchangeKey); len(known) > 1 || holds(known, []byte(answers[1])) {
				t.Errorf("another %v opens %s", typ, name)
			}
		}
	}
	wantClosed(t, keys, envelopes)
}

// MR-4: a merchant encrypts for genuine keys of a merchant CA of its brand alone.
func onlyGenuineKeysOfTheMerchantCA(t *testing.T) {
	t.Parallel()
	m := newMeAq(t, set.MerInitialBoth, shop)
	rival := m.Rival(t, "Rival").CA(t, pki.MCA)
	for name, cert := range map[string]*pki.Certificate{
		"merchant": m.existing.ExchangeCert, "cardholder CA": m.CA(t, pki.CCA).ExchangeCert, "payment CA": m.CA(t, pki.PCA).ExchangeCert,
		"signature": m.ca.SignCert, "another brand": rival.ExchangeCert,
	} {
		ca := *m.ca
		ca.ExchangeCert, ca.Chain = cert, append(rival.Chain, m.ca.Chain...)
		req := must[*set.MessageWrapper](t)(ca.Receive(m.Now, must[[]byte](t)(m.state.InitReq(m.self, m.Now)), set.MeAqCInitReqType)).Message.MeAqCInitReq
		res := must[[]byte](t)(ca.MeAqCInitRes(m.Now, req, m.lidCA, set.NewChallenge(), set.RegFormOrReferral{RegFormData: &form}, nil))
		if _, err := m.state.OpenInitRes(m.self, m.Now, res); code(err) != set.InvalidCertificate {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := m.state.CertReq(m.self, m.Now, answers, m.sign, m.exchange); err == nil {
			t.Errorf("%s: CertReq encrypted for it", name)
		}
	}
	m.toForm(t, nil)
	m.request(t)
}

// MR-5: no private key is in a message, whoever opens it.
func privateKeysStay(t *testing.T) {
	t.Parallel()
	m := newMeAq(t, set.MerInitialBoth, shop)
	exchange := settest.RSAKey(t)
	m.exchange = exchange.Public()
	m.toForm(t, nil)
	b := must[[]byte](t)(m.state.CertReq(m.self, m.Now, answers, m.sign, m.exchange))
	known := learnt(t, [][]byte{b}, m.ca.ExchangeKey)
	if !holds(known, exchange.N.Bytes()) {
		t.Error("this test finds nothing: not even the CA learns the public key")
	}
	wantNoKeys(t, known, m.sign.(*ecdsa.PrivateKey), exchange)

	tr := unsignedOrNot(t, true)
	tr.pay(t)
	known = learnt(t, tr.wire, tr.gateway.ExchangeKey, tr.merchant.ExchangeKey)
	for _, e := range []*set.Endpoint{tr.gateway, tr.merchant} {
		wantNoKeys(t, known, e.SignKey.(*ecdsa.PrivateKey), e.ExchangeKey.(*rsa.PrivateKey))
	}
}

func wantNoKeys(t *testing.T, known [][]byte, sign *ecdsa.PrivateKey, exchange *rsa.PrivateKey) {
	t.Helper()
	for _, secret := range [][]byte{must[[]byte](t)(sign.Bytes()), exchange.D.Bytes(), exchange.Primes[0].Bytes(), exchange.Primes[1].Bytes()} {
		if holds(known, secret) {
			t.Error("a private key in a message")
		}
	}
}
