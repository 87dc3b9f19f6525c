package ca_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/ca"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

// operator works on the server's database.
func (s *server) operator(now func() time.Time) *ca.Operator {
	return &ca.Operator{DB: s.db, Who: "anna", Now: now}
}

// waiting gives the one request that waits for approval.
func waiting(t *testing.T, op *ca.Operator) *ca.Application {
	t.Helper()
	list := must[[]ca.Application](t)(op.Applications(t.Context(), false, 10))
	if len(list) != 1 || list[0].State != "waiting" {
		t.Fatalf("%d requests wait: %+v", len(list), list)
	}
	return must[*ca.Application](t)(op.Application(t.Context(), list[0].ID[:8]))
}

// inquire asks what became of the request, in another process than the one that made it.
func (c *cardholder) inquire(t *testing.T, s *server) (*set.CardCertificate, error) {
	t.Helper()
	resumed := must[*set.CardEnrolment](t)(set.ResumeCardEnrolment(must[[]byte](t)(c.Keep())))
	defer resumed.Clear()
	b, err := resumed.InqReq(c.e, time.Now(), c.key)
	return resumed.OpenInqRes(c.e, time.Now(), s.ask(t, "/cca", b, err))
}

func (m *entity) inquire(t *testing.T, s *server) (*set.EntityCertificates, error) {
	t.Helper()
	resumed := must[*set.MeAqEnrolment](t)(set.ResumeMeAqEnrolment(must[[]byte](t)(m.Keep())))
	b, err := resumed.InqReq(m.e, time.Now(), m.sign)
	return resumed.OpenInqRes(m.e, time.Now(), s.ask(t, m.path, b, err))
}

func byHand(t *testing.T, url string) *server {
	t.Helper()
	s := newServer(t, url)
	for _, a := range []*ca.Authority{&s.config.Cardholder.Authority, &s.config.Merchant.Authority, &s.config.Payment.Authority} {
		a.ByHand = true
	}
	s.Close()
	s.start(t)
	return s
}

// A request that somebody has to approve waits; the requester asks, and gets what was decided (SET §4.7).
func TestApproval(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		s := byHand(t, url)
		op := s.operator(time.Now)
		c := newCardholder(t, alicePAN)
		if _, err := c.register(t, s, aliceAnswers...); status(t, err) != set.RequestPended {
			t.Fatalf("%v", err)
		}
		if _, err := c.inquire(t, s); status(t, err) != set.RequestPended {
			t.Errorf("before the decision: %v", err)
		}
		if n := s.state(t)["certificates"]; n != 0 {
			t.Errorf("%d certificates before the decision", n)
		}
		app := waiting(t, op)
		if app.CA != "cca" || app.BIN != "411111" || app.Type != "cardInitialSig" || len(app.Keys) != 1 {
			t.Errorf("shown %+v", app)
		}
		if err := op.Approve(t.Context(), app); err != nil {
			t.Fatal(err)
		}
		if err := op.Approve(t.Context(), app); err == nil || op.Reject(t.Context(), app, "late") == nil {
			t.Error("decided twice")
		}
		s.Close()
		s.start(t)
		first, err := c.inquire(t, s)
		if err != nil {
			t.Fatal(err)
		}
		again, err := c.inquire(t, s)
		if err != nil || !again.Certificate.X509.Equal(first.Certificate.X509) || again.PANSecret != first.PANSecret || again.CAMsg == nil {
			t.Errorf("asked again: %+v, %v", again, err)
		}
		if n := s.state(t)["certificates"]; n != 1 {
			t.Errorf("%d certificates", n)
		}
		want := []string{"approve request " + app.ID + " by anna"}
		var got []string
		for _, e := range must[[]ca.Entry](t)(op.Audit(t.Context(), 10)) {
			got = append(got, e.Action+" "+e.Object+" by "+e.Who)
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("audit trail %q", got)
		}
	})
}

func TestRejection(t *testing.T) {
	t.Parallel()
	s := byHand(t, sqldbtest.SQLite(t))
	op := s.operator(time.Now)
	for _, m := range []*entity{newEntity(t, set.MerInitialBoth, merchantID), newEntity(t, set.PgwyInitialBoth, gatewayID)} {
		code := set.FieldText(merchantCode)
		if m.path == "/pca" {
			code = gatewayCode
		}
		if _, err := m.register(t, s, code); status(t, err) != set.RequestPended {
			t.Fatalf("%v", err)
		}
		app := waiting(t, op)
		if err := op.Reject(t.Context(), app, strings.Repeat("x", 129)); err == nil {
			t.Error("a reason that no message can carry")
		}
		if err := op.Reject(t.Context(), app, "The acquirer has ended the contract."); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			_, err := m.inquire(t, s)
			var refusal *set.CertStatusError
			if !errors.As(err, &refusal) || refusal.Code != set.RejectedByCA || refusal.Message != "The acquirer has ended the contract." {
				t.Errorf("%v", err)
			}
		}
		// The code was good for the one registration.
		again := newEntity(t, set.MerInitialBoth, merchantID)
		if m.path == "/pca" {
			again = newEntity(t, set.PgwyInitialBoth, gatewayID)
		}
		if _, err := again.register(t, s, code); status(t, err) != set.RejectedByAcquirer {
			t.Errorf("the code again: %v", err)
		}
	}
}

// What held when the request was made must hold when it is certified.
func TestApprovedTooLate(t *testing.T) {
	t.Parallel()
	s := byHand(t, sqldbtest.SQLite(t))
	op := s.operator(time.Now)
	one, two := newCardholder(t, alicePAN), newCardholder(t, alicePAN)
	two.key = one.key
	for _, c := range []*cardholder{one, two} {
		if _, err := c.register(t, s, aliceAnswers...); status(t, err) != set.RequestPended {
			t.Fatal(err)
		}
	}
	for _, app := range must[[]ca.Application](t)(op.Applications(t.Context(), false, 10)) {
		if err := op.Approve(t.Context(), &app); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := one.inquire(t, s); err != nil {
		t.Fatal(err)
	}
	if _, err := two.inquire(t, s); status(t, err) != set.RejectedByCA {
		t.Errorf("the same key, approved twice: %v", err)
	}
	merchant := newEntity(t, set.MerInitialBoth, merchantID)
	if _, err := merchant.register(t, s, merchantCode); status(t, err) != set.RequestPended {
		t.Fatal(err)
	}
	if err := op.Approve(t.Context(), waiting(t, op)); err != nil {
		t.Fatal(err)
	}
	s.config.Merchant.Merchants = nil
	s.Close()
	s.start(t)
	if _, err := merchant.inquire(t, s); status(t, err) != set.RejectedByAcquirer {
		t.Errorf("a merchant that its acquirer has struck off: %v", err)
	}
}

// CertInqReq is answered to the holder of the key alone, and only about what exists.
func TestInquiryRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	clock := time.Now()
	s.config.Now = func() time.Time { return clock }
	s.Close()
	s.start(t)
	m := newEntity(t, set.MerInitialBoth, merchantID)
	if _, err := m.toForm(t, s); err != nil {
		t.Fatal(err)
	}
	b := must[[]byte](t)(m.CertReq(m.e, time.Now(), []set.FieldText{merchantCode}, m.sign, m.exchange))
	inquiry := must[[]byte](t)(m.InqReq(m.e, time.Now(), m.sign))
	if _, answer := s.post(t, "/mca", inquiry); errorCode(t, answer) != "unknownLID" {
		t.Errorf("before CertReq: %s", errorCode(t, answer))
	}
	s.ask(t, "/mca", b, nil) // the answer is lost
	got, err := m.inquire(t, s)
	if err != nil || got.Signature == nil || got.KeyExchange == nil {
		t.Errorf("after a lost answer: %v, %v", got, err)
	}
	// Another key, though all else is known.
	w := must[*set.MessageWrapper](t)(set.Decode(must[[]byte](t)(m.InqReq(m.e, time.Now(), m.sign))))
	forged := resign(t, w, newKey(t))
	if status, answer := s.post(t, "/mca", forged); status != http.StatusBadRequest || errorCode(t, answer) != "signatureFailure" {
		t.Errorf("signed by a stranger: %s", errorCode(t, answer))
	}
	if _, answer := s.post(t, "/pca", must[[]byte](t)(m.InqReq(m.e, time.Now(), m.sign))); errorCode(t, answer) != "unknownLID" {
		t.Errorf("at another CA: %s", errorCode(t, answer))
	}
	clock = clock.Add(31 * 24 * time.Hour)
	if _, answer := s.post(t, "/mca", must[[]byte](t)(m.InqReq(m.e, clock, m.sign))); errorCode(t, answer) != "unknownLID" {
		t.Errorf("a month later: %s", errorCode(t, answer))
	}
}

// A cardholder renews: the old key confirms the new one, for the same card (SET §4.6, §12).
func TestCardRenewal(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		s := newServer(t, url)
		first := newCardholder(t, alicePAN)
		card, err := first.register(t, s, aliceAnswers...)
		if err != nil {
			t.Fatal(err)
		}
		renewal := func(pan string, old *set.CardCertificate, key crypto.Signer) *cardholder {
			c := newCardholder(t, pan)
			c.CardEnrolment = set.NewCardRenewal(brand, "en", set.PAN(pan), expiry())
			c.e.SignCert, c.e.SignKey, c.e.Chain = old.Certificate, key, old.Chain
			return c
		}
		if _, err := renewal("4111111111111129", card, first.key).register(t, s, aliceAnswers...); status(t, err) != set.RejectedByCA {
			t.Errorf("for another card: %v", err)
		}
		if _, err := renewal(alicePAN, card, newKey(t)).register(t, s, aliceAnswers...); status(t, err) != set.SigValidationFail {
			t.Errorf("without the old key: %v", err)
		}
		same := renewal(alicePAN, card, first.key)
		same.key = first.key
		if _, err := same.register(t, s, aliceAnswers...); status(t, err) != set.RejectedByCA {
			t.Errorf("the old key again: %v", err)
		}
		if _, err := renewal(alicePAN, card, first.key).register(t, s, aliceName, "wrong"); status(t, err) != set.RejectedByIssuer {
			t.Errorf("with a wrong code: %v", err)
		}
		next := renewal(alicePAN, card, first.key)
		renewed, err := next.register(t, s, aliceAnswers...)
		if err != nil {
			t.Fatal(err)
		}
		if renewed.Certificate.Subject.CommonName == card.Certificate.Subject.CommonName || !renewed.Certificate.X509.NotAfter.Before(must[time.Time](t)(expiry().End())) {
			t.Errorf("renewed: %+v until %v", renewed.Certificate.Subject, renewed.Certificate.X509.NotAfter)
		}
		if err := s.operator(time.Now).Revoke(t.Context(), renewed.Certificate, "keyCompromise"); err != nil {
			t.Fatal(err)
		}
		if _, err := renewal(alicePAN, renewed, next.key).register(t, s, aliceAnswers...); status(t, err) != set.RejectedByCA {
			t.Errorf("of a revoked certificate: %v", err)
		}
		if bytes.Contains([]byte(s.log.String()), []byte(alicePAN)) {
			t.Error("the card number in the log")
		}
	})
}

// Merchants and gateways renew without a code, in their own name, with keys that are new.
func TestEntityRenewal(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	first := newEntity(t, set.MerInitialBoth, merchantID)
	certs, err := first.register(t, s, merchantCode)
	if err != nil {
		t.Fatal(err)
	}
	renewal := func(typ set.RequestType, sign crypto.Signer, exchange crypto.PublicKey) *entity {
		m := newEntity(t, typ, merchantID)
		m.sign, m.exchange = sign, exchange
		m.e.SignCert, m.e.SignKey, m.e.ExchangeCert, m.e.Chain = certs.Signature, first.sign, certs.KeyExchange, certs.Chain
		return m
	}
	// register sends no code.
	register := func(m *entity) (*set.EntityCertificates, error) {
		if form, err := m.toForm(t, s); err != nil || len(form.RegTemplate.RegFieldSeq) != 0 {
			t.Fatalf("form %+v, %v", form, err)
		}
		b, err := m.CertReq(m.e, time.Now(), nil, m.sign, m.exchange)
		return m.OpenCertRes(m.e, time.Now(), s.ask(t, m.path, b, err))
	}
	if _, err := register(renewal(set.MerRenewalBoth, newKey(t), first.exchange)); status(t, err) != set.RejectedByCA {
		t.Errorf("key-exchange key again: %v", err)
	}
	if _, err := register(renewal(set.MerRenewalSig, first.sign, nil)); status(t, err) != set.RejectedByCA {
		t.Errorf("signature key again: %v", err)
	}
	got, err := register(renewal(set.MerRenewalBoth, newKey(t), rsaKey(t, 1).Public()))
	if err != nil || got.Signature.Subject != certs.Signature.Subject {
		t.Fatalf("%+v, %v", got, err)
	}
	s.config.Merchant.Merchants[0].Name = "Another shop"
	s.Close()
	s.start(t)
	if _, err := register(renewal(set.MerRenewalSig, newKey(t), nil)); status(t, err) != set.SigValidationFail {
		t.Errorf("under another name: %v", err)
	}
	s.config.Merchant.Merchants[0].Name = "Bookshop"
	s.Close()
	s.start(t)
	if err := s.operator(time.Now).Revoke(t.Context(), certs.Signature, "superseded"); err != nil {
		t.Fatal(err)
	}
	if _, err := register(renewal(set.MerRenewalSig, newKey(t), nil)); status(t, err) != set.SigValidationFail {
		t.Errorf("of a revoked certificate: %v", err)
	}
}

// signer is one that signs lists in the hierarchy.
func (m *made) signer(t *testing.T, file, token string) ca.ListSigner {
	t.Helper()
	return ca.ListSigner{Certificate: m.cert(t, file), Key: m.tokens[token].Private["cert-sign"], Life: 30 * 24 * time.Hour}
}

// A revoked gateway is refused by whoever has got the lists since, and nobody goes back to older ones
// (SET §6.5, §6.6).
func TestRevocation(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		s := newServer(t, url)
		op, known := s.operator(time.Now), hierarchy.store(t)
		gateway, err := newEntity(t, set.PgwyInitialBoth, gatewayID).register(t, s, gatewayCode)
		if err != nil {
			t.Fatal(err)
		}
		accepts := func(v *pki.Verifier) error {
			_, err := v.Verify(gateway.KeyExchange, gateway.Chain, time.Now(), pki.Pgwy)
			return err
		}
		merchant := newEntity(t, set.MerInitialBoth, merchantID)
		if _, err := merchant.toForm(t, s); err != nil || accepts(merchant.Verifier()) != nil {
			t.Fatalf("before: %v, %v", err, accepts(merchant.Verifier()))
		}
		before := merchant.Verifier()

		if err := op.Revoke(t.Context(), gateway.KeyExchange, "no reason"); err == nil {
			t.Error("revoked for no reason that there is")
		}
		if err := op.Revoke(t.Context(), gateway.KeyExchange, "keyCompromise"); err != nil {
			t.Fatal(err)
		}
		if err := op.Revoke(t.Context(), gateway.KeyExchange, "keyCompromise"); err == nil {
			t.Error("revoked twice")
		}
		crl := must[*pki.CRL](t)(op.IssueCRL(t.Context(), hierarchy.signer(t, "pca.pem", "payment-ca"), known))
		if crl.Number != 2 || !crl.Revokes(gateway.KeyExchange.X509.SerialNumber) {
			t.Errorf("CRL %d with %d entries", crl.Number, len(crl.X509.RevokedCertificateEntries))
		}
		// No BrandCRLIdentifier names it yet, so it is not in use.
		if _, err := merchant.toForm(t, s); err != nil || accepts(merchant.Verifier()) != nil {
			t.Errorf("a CRL that no BrandCRLIdentifier names is in use: %v, %v", err, accepts(merchant.Verifier()))
		}
		bci := must[*pki.BrandCRLIdentifier](t)(op.IssueBCI(t.Context(), hierarchy.signer(t, "brand.pem", "brand-ca"), known))
		if bci.Sequence != 2 || len(bci.CRLs) != 2 {
			t.Errorf("BrandCRLIdentifier %d names %d CRLs", bci.Sequence, len(bci.CRLs))
		}
		size := func() int { return len(s.wire[len(s.wire)-1]) }
		if _, err := merchant.toForm(t, s); err != nil {
			t.Fatal(err)
		}
		with := size()
		var refused *pki.VerifyError
		if err := accepts(merchant.Verifier()); !errors.As(err, &refused) || refused.Reason != pki.Revoked {
			t.Errorf("after: %v", err)
		}
		// What a party has, it is not sent again.
		if _, err := merchant.toForm(t, s); err != nil || size() > with-len(crl.X509.Raw)-len(bci.Raw) {
			t.Errorf("answer with the lists %d octets, without %d: %v", with, size(), err)
		}
		if bytes.Contains(s.wire[len(s.wire)-1], bci.Raw) || !bytes.Contains(s.wire[len(s.wire)-3], bci.Raw) {
			t.Error("the BrandCRLIdentifier was not sent once")
		}
		// The old ones do not come back.
		old := known.BCI(brand)
		back := must[*pki.Verifier](t)(merchant.Verifier().Update(old, known.CRLs, gateway.Chain, time.Now()))
		if accepts(back) == nil || back.Store().BCI(brand).Sequence != 2 {
			t.Error("an older BrandCRLIdentifier replaced a newer one")
		}
		if accepts(before) != nil {
			t.Error("what was verified before knew of it: this test shows nothing")
		}
		// The next CRL lists it still, until it expires.
		if crl = must[*pki.CRL](t)(op.IssueCRL(t.Context(), hierarchy.signer(t, "pca.pem", "payment-ca"), known)); crl.Number != 3 || !crl.Revokes(gateway.KeyExchange.X509.SerialNumber) {
			t.Errorf("CRL %d does not list it", crl.Number)
		}
		late := s.operator(func() time.Time { return gateway.KeyExchange.X509.NotAfter.Add(time.Hour) })
		if crl = must[*pki.CRL](t)(late.IssueCRL(t.Context(), hierarchy.signer(t, "pca.pem", "payment-ca"), known)); crl.Revokes(gateway.KeyExchange.X509.SerialNumber) {
			t.Error("an expired certificate is listed")
		}
		if list := must[[]ca.Issued](t)(ca.List(t.Context(), s.db, 10)); list[0].Revoked == list[1].Revoked || list[0].Revoked+list[1].Revoked != "keyCompromise" {
			t.Errorf("listed %+v", list)
		}
		// A CRL that a ceremony has signed is taken, but not one with a number that was given out.
		if err := op.ImportCRL(t.Context(), known.CRLs[0], hierarchy.cert(t, "root.pem")); err != nil {
			t.Error(err)
		}
		if err := op.ImportCRL(t.Context(), known.CRLs[2], hierarchy.cert(t, "pca.pem")); err == nil {
			t.Error("CRL 1 after CRL 4")
		}
		if err := op.ImportCRL(t.Context(), known.CRLs[1], hierarchy.cert(t, "root.pem")); err == nil {
			t.Error("a CRL of another issuer")
		}
	})
}

// Lists that go out of date are told of in time, and by whoever runs the server they are not overlooked.
func TestListsGoOutOfDate(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	s.config.Now = func() time.Time { return time.Now().AddDate(0, 0, 80) } // of the 90 that the ceremony gives them
	s.Close()
	s.start(t)
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.ca.Run(ctx)
	}()
	defer func() { cancel(); <-stopped }()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if log := s.log.String(); strings.Count(log, "a CRL goes out of date") == 2 && strings.Contains(log, "the BrandCRLIdentifier goes out of date") {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("log:\n%s", log)
		}
	}
}

// A payment CA that the brand has revoked is refused, with all that it certified.
func TestRevokedCA(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	op, known := s.operator(time.Now), hierarchy.store(t)
	gateway, err := newEntity(t, set.PgwyInitialBoth, gatewayID).register(t, s, gatewayCode)
	if err != nil {
		t.Fatal(err)
	}
	if err := op.Revoke(t.Context(), hierarchy.cert(t, "pca.pem"), "cACompromise"); err != nil {
		t.Fatal(err)
	}
	brandCA := hierarchy.signer(t, "brand.pem", "brand-ca")
	must[*pki.CRL](t)(op.IssueCRL(t.Context(), brandCA, known))
	must[*pki.BrandCRLIdentifier](t)(op.IssueBCI(t.Context(), brandCA, known))
	c := newCardholder(t, alicePAN)
	c.toForm(t, s)
	var refused *pki.VerifyError
	if _, err := c.Verifier().Verify(gateway.Signature, gateway.Chain, time.Now()); !errors.As(err, &refused) || refused.Reason != pki.Revoked {
		t.Errorf("%v", err)
	}
	// The CA itself finds that it may certify no more.
	if code, report := s.ready(t); code != http.StatusServiceUnavailable || report["certificates"] == "ok" {
		t.Errorf("readyz: %d %v", code, report)
	}
}

// Between the brand and its CAs may be a geopolitical CA, which issues a CRL of its own (SET §6.1).
func TestGeopoliticalCA(t *testing.T) {
	t.Parallel()
	edits := []string{
		"  cardholder-ca: {holder", "  nordic-ca: {holder: geopolitical-ca, country: DK, unit: Meridian Nordic}\n  cardholder-ca: {holder",
		"  - {generate: cardholder-ca/cert-sign", "  - {generate: nordic-ca/cert-sign, type: ec-p256, purpose: cert-sign}\n  - {generate: cardholder-ca/cert-sign",
		"  - {certificate: cca.pem,", "  - {certificate: nordic.pem, subject: nordic-ca, key: nordic-ca/cert-sign, issuer: brand.pem, validity: 8y, signing-period: 3y}\n  - {certificate: cca.pem,",
		"  - {crl: pca.crl,", "  - {crl: nordic.crl, issuer: nordic.pem, number: 1, validity: 90d}\n  - {crl: pca.crl,",
		"crls: [brand.crl, pca.crl]", "crls: [brand.crl, nordic.crl, pca.crl]",
	}
	for _, name := range []string{"cardholder-ca", "merchant-ca", "payment-ca"} {
		for _, key := range []string{"cert-sign", "sign", "key-exchange"} {
			at := fmt.Sprintf("key: %s/%s, issuer: ", name, key)
			edits = append(edits, at+"brand.pem", at+"nordic.pem")
		}
	}
	m := must[*made](t)(hold(t.TempDir(), edits...))
	m.chain, m.lists = append(m.chain, "nordic.pem"), append(m.lists, "nordic.crl")
	s := newServerOf(t, sqldbtest.SQLite(t), m)
	self := &set.Endpoint{Verifier: m.verifier(t, false), Software: "test"}
	c := newCardholder(t, alicePAN)
	c.e = self
	card, err := c.register(t, s, aliceAnswers...)
	if err != nil {
		t.Fatal(err)
	}
	chain := must[[]*pki.Certificate](t)(card.Verifier.Verify(card.Certificate, card.Chain, time.Now(), pki.Card))
	if len(chain) != 5 || chain[2].Type != pki.GCA || chain[3].Type != pki.BCA {
		t.Errorf("chain %v", chain)
	}
	// The geopolitical CA revokes the cardholder CA.
	op := s.operator(time.Now)
	if err := op.Revoke(t.Context(), m.cert(t, "cca.pem"), "cACompromise"); err != nil {
		t.Fatal(err)
	}
	must[*pki.CRL](t)(op.IssueCRL(t.Context(), m.signer(t, "nordic.pem", "nordic-ca"), m.store(t)))
	bci := must[*pki.BrandCRLIdentifier](t)(op.IssueBCI(t.Context(), m.signer(t, "brand.pem", "brand-ca"), m.store(t)))
	if len(bci.CRLs) != 3 {
		t.Errorf("the BrandCRLIdentifier names %d CRLs", len(bci.CRLs))
	}
	merchant := newEntity(t, set.MerInitialBoth, merchantID)
	merchant.e = self
	if _, err := merchant.toForm(t, s); err != nil {
		t.Fatal(err)
	}
	var refused *pki.VerifyError
	if _, err := merchant.Verifier().Verify(card.Certificate, card.Chain, time.Now()); !errors.As(err, &refused) || refused.Reason != pki.Revoked {
		t.Errorf("after: %v", err)
	}
}

// The root that the installed one has announced takes over: parties that have the old one alone accept it
// from the CA's answers, and no other (SET §6.8).
func TestRootReplaced(t *testing.T) {
	t.Parallel()
	m := must[*made](t)(hold(t.TempDir()))
	input := func(name string) string {
		return fmt.Sprintf("  %s: %x\n", name, sha256.Sum256(must[[]byte](t)(os.ReadFile(filepath.Join(m.dir, name)))))
	}
	out := filepath.Join(t.TempDir(), "second")
	err := m.run(`ceremony: second root
officers: {required: 0}
subjects:
  root-ca: {holder: root-ca, country: DK}
inputs:
`+input("root.pem")+input("brand.pem")+`steps:
  - {use: root-ca/cert-sign-next, type: ec-p256, purpose: cert-sign}
  - {generate: root-ca/cert-sign-3, type: ec-p256, purpose: cert-sign}
  - {root: root-2.pem, subject: root-ca, key: root-ca/cert-sign-next, next-key: root-ca/cert-sign-3, validity: 20y, signing-period: 10y, succeeds: root.pem}
  - {cross: brand-cross.pem, certificate: brand.pem, issuer: root-2.pem, validity: 3y, signing-period: 1y}
`, out)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"root-2.pem", "brand-cross.pem"} {
		if err := os.Rename(filepath.Join(out, name), filepath.Join(m.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	// A root that nobody has announced travels along.
	stranger := must[*made](t)(hold(t.TempDir()))
	if err := os.Rename(filepath.Join(stranger.dir, "root.pem"), filepath.Join(m.dir, "root-x.pem")); err != nil {
		t.Fatal(err)
	}
	m.chain = append(m.chain, "root-2.pem", "brand-cross.pem", "root-x.pem")
	s := newServerOf(t, sqldbtest.SQLite(t), m)
	c := newCardholder(t, alicePAN)
	c.e = &set.Endpoint{Verifier: m.verifier(t, false), Software: "test"}
	card, err := c.register(t, s, aliceAnswers...)
	if err != nil {
		t.Fatal(err)
	}
	second := m.cert(t, "root-2.pem")
	roots := card.Verifier.Roots()
	if len(roots) != 2 || !roots[0].X509.Equal(m.cert(t, "root.pem").X509) || !roots[1].X509.Equal(second.X509) {
		t.Fatalf("%d roots are trusted: %v", len(roots), roots)
	}
	if len(c.e.Verifier.Roots()) != 1 {
		t.Error("the endpoint's verifier changed by itself")
	}
	// What the second root has certified is accepted with what was learnt, and was not before.
	cross := []*pki.Certificate{m.cert(t, "brand-cross.pem"), m.cert(t, "cca.pem")}
	bare := must[*pki.Verifier](t)(pki.NewVerifier(roots, pki.Options{Store: card.Verifier.Store()}))
	for name, v := range map[string]*pki.Verifier{"learnt": card.Verifier, "kept": bare} {
		if chain, err := v.Verify(card.Certificate, cross, time.Now(), pki.Card); err != nil || !chain[3].X509.Equal(second.X509) {
			t.Errorf("%s: chain %v, %v", name, chain, err)
		}
	}
	if _, err := c.e.Verifier.Verify(card.Certificate, cross, time.Now(), pki.Card); err == nil {
		t.Error("accepted without the second root")
	}
	// The root was sent once.
	n := 0
	for _, b := range s.wire {
		n += bytes.Count(b, second.X509.Raw)
	}
	if n != 1 {
		t.Errorf("the second root was sent %d times", n)
	}
}

// resign signs a CertInqReq with another key.
func resign(t *testing.T, w *set.MessageWrapper, key crypto.Signer) []byte {
	t.Helper()
	sd := must[*cms.SignedData](t)(cms.ParseSigned(cms.ContentInfo(*w.Message.CertInqReq), set.ContentCertInqReqTBS))
	var data set.CertInqReqTBS
	if err := set.Unmarshal(sd.Content, &data); err != nil {
		t.Fatal(err)
	}
	data.RRPID = set.NewRRPID()
	req := set.CertInqReq(must[cms.ContentInfo](t)(cms.Sign(set.ContentCertInqReqTBS, data, nil, nil, cms.Signer{Key: key})))
	w.MessageHeader.RRPID, w.Message.CertInqReq = &data.RRPID, &req
	return must[[]byte](t)(set.Encode(*w))
}
