package ca_test

import (
	"errors"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

// properties are those of SET §9 that a CA shows by its records. The others stand beside the messages.
var properties = map[string]func(*testing.T){
	"CR-5":  cardholdersKeyOnce,
	"W-CR2": keyOfTwoCAs,
	"W-CR3": certificateForTheCardOfTheForm,
	"W-CR6": secretIsNotTheCAsToJudge,
	"MR-2":  merchantsSignatureKeyOnce,
	"MR-3":  merchantsExchangeKeyOnce,
	"W-MR1": nameInARequestIsChecked,
	"W-MR2": challengeIsAskedBack,
	"W-MR3": happyPathOfEveryCA,
}

func TestProperties(t *testing.T) {
	t.Parallel()
	for id, shown := range properties {
		t.Run(id, shown)
	}
}

// wantStatus wants a registration refused with this code.
func wantStatus(t *testing.T, what string, err error, want set.CertStatusCode) {
	t.Helper()
	var refusal *set.CertStatusError
	if !errors.As(err, &refusal) || refusal.Code != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// CR-5: a CA certifies a cardholder's key once, so that the key tells the registration: the same key is refused
// for another card, and in another registration of the same card.
func cardholdersKeyOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	first := newCardholder(t, alicePAN)
	if _, err := first.register(t, s, aliceAnswers...); err != nil {
		t.Fatal(err)
	}
	for _, pan := range []string{alicePAN, "4111111111111129"} {
		again := newCardholder(t, pan)
		again.key = first.key
		_, err := again.register(t, s, aliceAnswers...)
		wantStatus(t, "the key again", err, set.RejectedByCA)
	}
}

// W-CR2: that holds for each CA by itself. A key that one CA has certified is new to another one, which has no
// way to know: who trusts a certificate trusts its CA alone.
func keyOfTwoCAs(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	card := newCardholder(t, alicePAN)
	if _, err := card.register(t, s, aliceAnswers...); err != nil {
		t.Fatal(err)
	}
	merchant := newEntity(t, set.MerInitialBoth, merchantID)
	merchant.sign = card.key
	if _, err := merchant.register(t, s, merchantCode); err != nil {
		t.Errorf("the merchant CA knows the cardholder CA's keys: %v", err)
	}
}

// W-CR3: the card of CertReq is the card that the form was asked for: the messages do not tie them, the CA's
// record does.
func certificateForTheCardOfTheForm(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	for pan, want := range map[string]set.CertStatusCode{alicePAN: set.RequestComplete, "4111111111111129": set.RejectedByCA} {
		c := newCardholder(t, alicePAN)
		c.toForm(t, s)
		_, answer := s.post(t, "/cca", c.forge(t, func(_ *set.CertReqData, p *set.PANData0) { p.PAN = set.PAN(pan) }))
		if got := c.outcome(t, answer); got != want.String() {
			t.Errorf("another card than the form's: %t: %s, want %v", pan != alicePAN, got, want)
		}
	}
}

// W-CR6: CardSecret is the cardholder's to choose, well or badly: the CA certifies for any, and its own nonce
// alone makes PANSecret a secret.
func secretIsNotTheCAsToJudge(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	c := newCardholder(t, alicePAN)
	c.toForm(t, s)
	_, answer := s.post(t, "/cca", c.forge(t, func(_ *set.CertReqData, p *set.PANData0) { p.CardSecret = set.Secret{} }))
	w := must[*set.MessageWrapper](t)(set.Decode(answer))
	sd := must[*cms.SignedData](t)(cms.OpenEncBack(cms.SignedEncrypted{TBE: set.ContentCertResTBE, TBS: set.ContentCertResData}, *w.Message.CertRes.EncK, c.backKey.BackKey))
	var data set.CertResData
	if err := set.Unmarshal(sd.Content, &data); err != nil {
		t.Fatal(err)
	}
	if status := data.CertStatus; status.CertStatusCode != set.RequestComplete || status.NonceCCA == nil || *status.NonceCCA == (set.Secret{}) {
		t.Errorf("status %v, a nonce of the CA: %t", status.CertStatusCode, status.NonceCCA != nil)
	}
}

// certifiedMerchant is a merchant that is registered, at a CA that has another code for it.
func certifiedMerchant(t *testing.T) (s *server, first *entity, certified *set.Endpoint) {
	t.Helper()
	s = newServer(t, sqldbtest.SQLite(t))
	first = newEntity(t, set.MerInitialBoth, merchantID)
	certs, err := first.register(t, s, merchantCode)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	s.config.Merchant.Merchants[0].Code = code(t, secondCode)
	s.start(t)
	certified = party(t)
	certified.SignKey, certified.SignCert, certified.Chain = first.sign, certs.Signature, certs.Chain
	return s, first, certified
}

const secondCode = "maple-harbour-731"

// MR-2: a merchant's signature key is certified once, whatever key-exchange key comes with it, or none.
func merchantsSignatureKeyOnce(t *testing.T) {
	t.Parallel()
	s, first, _ := certifiedMerchant(t)
	both := newEntity(t, set.MerInitialBoth, merchantID)
	both.sign, both.exchange = first.sign, rsaKey(t, 1).Public()
	_, err := both.register(t, s, secondCode)
	wantStatus(t, "with another key-exchange key", err, set.RejectedByCA)
	alone := newEntity(t, set.MerInitialSig, merchantID)
	alone.sign, alone.exchange = first.sign, nil
	_, err = alone.register(t, s, secondCode)
	wantStatus(t, "alone", err, set.RejectedByCA)
}

// MR-3: a merchant's key-exchange key is certified once, whatever signature key comes with it, or none.
func merchantsExchangeKeyOnce(t *testing.T) {
	t.Parallel()
	s, first, certified := certifiedMerchant(t)
	both := newEntity(t, set.MerInitialBoth, merchantID)
	_, err := both.register(t, s, secondCode)
	wantStatus(t, "with another signature key", err, set.RejectedByCA)
	alone := newEntity(t, set.MerInitialEnc, merchantID)
	alone.sign, alone.exchange, alone.e = nil, first.exchange, certified
	_, err = alone.register(t, s, secondCode)
	wantStatus(t, "alone", err, set.RejectedByCA)
}

// W-MR1: that a request is well signed does not say that its sender is the merchant that it names. The acquirer's
// code says so, which is another one for each merchant and serves once; and a request that is signed with a
// certificate is about that certificate's holder.
func nameInARequestIsChecked(t *testing.T) {
	t.Parallel()
	s, _, certified := certifiedMerchant(t)
	fresh := func() *entity {
		m := newEntity(t, set.MerInitialBoth, merchantID)
		m.exchange = rsaKey(t, 1).Public()
		return m
	}
	for what, code := range map[string]set.FieldText{"the code used before": merchantCode, "a gateway's code": gatewayCode, "a guess": "willow-thicket-999"} {
		_, err := fresh().register(t, s, code)
		wantStatus(t, what, err, set.RejectedByAcquirer)
	}
	stranger := *certified
	stranger.SignKey = newKey(t)
	m := newEntity(t, set.MerInitialEnc, merchantID)
	m.sign, m.exchange, m.e = nil, rsaKey(t, 1).Public(), &stranger
	_, err := m.register(t, s, secondCode)
	wantStatus(t, "signed by who has the merchant's certificate alone", err, set.SigValidationFail)

	other := s.config.Merchant.Merchants[0]
	other.ID, other.Name, other.Code = "M-0002", "Flowers", code(t, otherCode)
	s.Close()
	s.config.Merchant.Merchants = append(s.config.Merchant.Merchants, other)
	s.start(t)
	m = newEntity(t, set.MerInitialEnc, set.IDData{MerchantAcquirerID: &set.MerchantAcquirerID{MerchantBIN: acquirerBIN, MerchantID: "M-0002"}})
	m.sign, m.exchange, m.e = nil, rsaKey(t, 1).Public(), certified
	_, err = m.register(t, s, otherCode)
	wantStatus(t, "signed by another merchant", err, set.SigValidationFail)
}

const otherCode = "cedar-lighthouse-447"

// W-MR2: the protocol leaves it open whether a request repeats the CA's challenge. Here it must: without, or with
// that of another registration, a request may be an old one.
func challengeIsAskedBack(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	other := newCardholder(t, alicePAN)
	other.toForm(t, s)
	for what, change := range map[string]func(*set.CertReqData, *set.PANData0){
		"no challenge":        func(d *set.CertReqData, _ *set.PANData0) { d.ChallCA = nil },
		"another's challenge": func(d *set.CertReqData, _ *set.PANData0) { d.ChallCA = &other.challCA },
	} {
		c := newCardholder(t, alicePAN)
		c.toForm(t, s)
		_, answer := s.post(t, "/cca", c.forge(t, change))
		if got := c.outcome(t, answer); got != set.ChallengeMismatch.String() {
			t.Errorf("%s: %s", what, got)
		}
	}
}

// W-MR3: nothing proves that a registration can come to its end. It does, at each of the CAs.
func happyPathOfEveryCA(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	card, err := newCardholder(t, alicePAN).register(t, s, aliceAnswers...)
	if err != nil {
		t.Fatal(err)
	}
	merchant, err := newEntity(t, set.MerInitialBoth, merchantID).register(t, s, merchantCode)
	if err != nil {
		t.Fatal(err)
	}
	gateway, err := newEntity(t, set.PgwyInitialBoth, gatewayID).register(t, s, gatewayCode)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := card.Verifier.Verify(card.Certificate, card.Chain, time.Now()); err != nil {
		t.Error(err)
	}
	for _, c := range []*set.EntityCertificates{merchant, gateway} {
		if _, err := c.Verifier.Verify(c.Signature, c.Chain, time.Now()); err != nil {
			t.Error(err)
		}
		if _, err := c.Verifier.Verify(c.KeyExchange, c.Chain, time.Now()); err != nil {
			t.Error(err)
		}
	}
}
