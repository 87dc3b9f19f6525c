package set_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"slices"
	"testing"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/set/settest"
)

var (
	anyMerchant = set.IDData{MerchantAcquirerID: &set.MerchantAcquirerID{MerchantBIN: settest.AcquirerBIN, MerchantID: settest.MerchantID}}
	anyAcquirer = set.IDData{AcquirerID: &set.AcquirerID{AcquirerBIN: settest.AcquirerBIN}}
	pended      = set.CertStatus{CertStatusCode: set.RequestPended, EEMessage: "somebody looks at it"}
)

// refused gives the status with which the CA refuses; 0 if it is no such refusal.
func refused(err error) set.CertStatusCode {
	var s *set.CertStatusError
	if !errors.As(err, &s) {
		return 0
	}
	return s.Code
}

// inquire is what a CA does with CertInqReq about the request o.
func inquire(t *testing.T, ca *set.Endpoint, e *settest.World, b []byte, key crypto.PublicKey, card bool, backKey set.BackKey, status set.CertStatus, certs ...*pki.Certificate) []byte {
	t.Helper()
	w := must[*set.MessageWrapper](t)(ca.Receive(e.Now, b, set.CertInqReqType))
	o := must[*set.OpenedCertInqReq](t)(ca.OpenCertInqReq(w))
	if err := o.Verify(key); err != nil {
		t.Fatal(err)
	}
	if err := o.Verify(newECKey(t).Public()); code(err) != set.SignatureFailure {
		t.Errorf("verified under another key: %v", err)
	}
	return must[[]byte](t)(ca.CertInqRes(e.Now, o, card, backKey, status, certs...))
}

// A cardholder whose request waits, whose process ends, and who asks later (SET §4.7).
func TestCardInquiry(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t)
	e.toForm(t)
	o := e.request(t)
	_, err := e.state.OpenCertRes(e.self, e.Now, e.sent(must[[]byte](t)(e.ca.CertRes(e.Now, o, e.lidCA, pended))))
	var status *set.CertStatusError
	if !errors.As(err, &status) || !status.Pending() || status.Message != "somebody looks at it" {
		t.Fatalf("pended: %v", err)
	}
	kept := must[[]byte](t)(e.state.Keep())
	e.state.Clear()
	resumed := must[*set.CardEnrolment](t)(set.ResumeCardEnrolment(kept))
	defer resumed.Clear()
	if _, err := resumed.InqReq(e.self, e.Now, newECKey(t)); err == nil {
		t.Error("asked with another key than the one that is to be certified")
	}

	// Nothing yet; then the certificate, made for the request that was pended.
	b := e.sent(must[[]byte](t)(resumed.InqReq(e.self, e.Now, e.key)))
	res := e.sent(inquire(t, e.ca, e.World, b, o.Possessed(), true, o.BackKey(), pended))
	if _, err := resumed.OpenInqRes(e.self, e.Now, res); refused(err) != set.RequestPended {
		t.Errorf("still pended: %v", err)
	}
	final := must[*set.MessageWrapper](t)(set.Decode(e.certRes(t, o))).Message.CertRes
	sd := must[*cms.SignedData](t)(cms.OpenEncBack(cms.SignedEncrypted{TBE: set.ContentCertResTBE, TBS: set.ContentCertResData}, *final.EncK, o.BackKey()))
	cert := must[*pki.Certificate](t)(pki.ParseCertificate(sd.Certificates[len(sd.Certificates)-1].Raw))
	complete := set.CertStatus{CertStatusCode: set.RequestComplete, NonceCCA: &e.nonce}
	b = e.sent(must[[]byte](t)(resumed.InqReq(e.self, e.Now, e.key)))
	res = e.sent(inquire(t, e.ca, e.World, b, o.Possessed(), true, o.BackKey(), complete, cert))
	card := must[*set.CardCertificate](t)(resumed.OpenInqRes(e.self, e.Now, res))
	if !card.Certificate.X509.Equal(cert.X509) || card.PANSecret == (set.Secret{}) {
		t.Errorf("got %v", card.Certificate)
	}
	for _, sent := range e.wire {
		if bytes.Contains(sent, e.nonce[:]) || bytes.Contains(sent, card.CardSecret[:]) {
			t.Error("a secret on the wire")
		}
	}

	// CR-7: the answer to an earlier question is none to this one. CR-3: an answer in the clear is none.
	b = must[[]byte](t)(resumed.InqReq(e.self, e.Now, e.key))
	if _, err := resumed.OpenInqRes(e.self, e.Now, relabel(t, res, b)); code(err) != set.ChallengeMismatch {
		t.Errorf("replayed: %v", err)
	}
	plain := inquire(t, e.ca, e.World, b, o.Possessed(), false, nil, complete, cert)
	if _, err := resumed.OpenInqRes(e.self, e.Now, plain); code(err) != set.UnspecifiedFailure {
		t.Errorf("certificate and nonce in the clear: %v", err)
	}
}

func TestKeptDamaged(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t)
	if _, err := e.state.Keep(); err == nil {
		t.Error("kept before CertReq")
	}
	e.toForm(t)
	e.request(t)
	kept := must[[]byte](t)(e.state.Keep())
	for _, b := range [][]byte{nil, kept[:len(kept)-1], append(bytes.Clone(kept), 0), make([]byte, set.KeptOctetsMax+1)} {
		if _, err := set.ResumeCardEnrolment(b); err == nil {
			t.Errorf("%d octets are taken", len(b))
		}
		if _, err := set.ResumeMeAqEnrolment(b); err == nil {
			t.Errorf("%d octets are taken for a merchant's", len(b))
		}
	}
	if _, err := set.ResumeMeAqEnrolment(kept); err == nil {
		t.Error("a cardholder's registration goes on as a merchant's")
	}
}

func TestEntityInquiry(t *testing.T) {
	t.Parallel()
	for _, typ := range []set.RequestType{set.MerInitialBoth, set.MerInitialEnc, set.MerRenewalBoth, set.PgwyInitialBoth, set.PgwyRenewalEnc} {
		t.Run(typ.String(), func(t *testing.T) {
			t.Parallel()
			id := anyMerchant
			if typ == set.PgwyInitialBoth || typ == set.PgwyRenewalEnc {
				id = anyAcquirer
			}
			m := newMeAq(t, typ, id)
			m.toForm(t, nil)
			o := m.request(t)
			if _, err := m.state.OpenCertRes(m.self, m.Now, must[[]byte](t)(m.ca.CertRes(m.Now, o, m.lidCA, pended))); refused(err) != set.RequestPended {
				t.Fatal(err)
			}
			resumed := must[*set.MeAqEnrolment](t)(set.ResumeMeAqEnrolment(must[[]byte](t)(m.state.Keep())))
			b := must[[]byte](t)(resumed.InqReq(m.self, m.Now, m.sign))
			res := inquire(t, m.ca, m.World, b, o.Possessed(), false, nil, set.CertStatus{CertStatusCode: set.RequestComplete}, m.certify(t, o)...)
			got := must[*set.EntityCertificates](t)(resumed.OpenInqRes(m.self, m.Now, res))
			if (got.Signature != nil) != (m.sign != nil) || (got.KeyExchange != nil) != (m.exchange != nil) {
				t.Errorf("signature %v, key exchange %v", got.Signature, got.KeyExchange)
			}
		})
	}
}

// A renewal is signed by the new key and by the key of the certificate that it renews; the request says
// which that is (SET §4.6).
func TestRenewalSignatures(t *testing.T) {
	t.Parallel()
	w := settest.NewWorld(t)
	ca := w.CA(t, pki.MCA)
	old, other := w.Merchant(t, settest.MerchantID), w.Merchant(t, settest.MerchantID)
	foreign := w.Gateway(t, "G-1")
	late := settest.NewWorld(t).Merchant(t, settest.MerchantID)
	fresh, stranger := newECKey(t), newECKey(t)
	own := cms.Signer{Key: fresh}
	by := func(e *set.Endpoint) cms.Signer { return cms.Signer{Key: e.SignKey, Certificate: e.SignCert.X509} }
	thumb := func(c *pki.Certificate) *set.CertThumb { th := c.CertThumb(); return &th }
	for name, c := range map[string]struct {
		typ     set.RequestType
		signers []cms.Signer
		thumb   *set.CertThumb
		want    set.CertStatusCode // 0: accepted
	}{
		"both":                            {set.MerRenewalSig, []cms.Signer{own, by(old)}, thumb(old.SignCert), 0},
		"the old key alone":               {set.MerRenewalSig, []cms.Signer{by(old)}, thumb(old.SignCert), set.SigValidationFail},
		"the new key alone":               {set.MerRenewalSig, []cms.Signer{own}, thumb(old.SignCert), set.SigValidationFail},
		"the new key twice":               {set.MerRenewalSig, []cms.Signer{own, own}, thumb(old.SignCert), set.SigValidationFail},
		"another new key":                 {set.MerRenewalSig, []cms.Signer{{Key: stranger}, by(old)}, thumb(old.SignCert), set.SigValidationFail},
		"the old certificate, not by it":  {set.MerRenewalSig, []cms.Signer{own, {Key: stranger, Certificate: old.SignCert.X509}}, thumb(old.SignCert), set.SigValidationFail},
		"by another certificate":          {set.MerRenewalSig, []cms.Signer{own, by(other)}, thumb(old.SignCert), set.SigValidationFail},
		"by a gateway":                    {set.MerRenewalSig, []cms.Signer{own, by(foreign)}, thumb(foreign.SignCert), set.SigValidationFail},
		"by a merchant of another root":   {set.MerRenewalSig, []cms.Signer{own, by(late)}, thumb(late.SignCert), set.SigValidationFail},
		"no certificate named":            {set.MerRenewalSig, []cms.Signer{own, by(old)}, nil, set.RegFormAnswerMalformed},
		"a first one with two signatures": {set.MerInitialSig, []cms.Signer{own, by(old)}, nil, set.SigValidationFail},
		"a first one signed twice":        {set.MerInitialSig, []cms.Signer{own, own}, nil, set.SigValidationFail},
		"a first one that names another":  {set.MerInitialSig, []cms.Signer{own}, thumb(old.SignCert), set.RegFormAnswerMalformed},
	} {
		data := set.CertReqData{
			RRPID: set.NewRRPID(), LIDEE: set.NewLocalID(), ChallEE3: set.NewChallenge(), LIDCA: set.NewLocalID(), RequestType: c.typ,
			RequestDate: w.Now, IDData: &anyMerchant, PublicKeySorE: set.PublicKeySorE{PublicKeyS: spki(t, fresh.Public())}, EEThumb: c.thumb,
		}
		var certs []*pki.Certificate
		for _, e := range []*set.Endpoint{old, other, foreign, late} {
			certs = append(append(certs, e.SignCert), e.Chain...)
		}
		signed := must[cms.ContentInfo](t)(cms.Sign(set.ContentCertReqData, data, raws(certs), nil, c.signers...))
		enc := must[cms.ContentInfo](t)(cms.Encrypt(ca.ExchangeCert.X509, set.ContentCertReqTBE, signed, cms.Plain, nil))
		b := must[[]byte](t)(set.Encode(set.MessageWrapper{
			MessageHeader: set.MessageHeader{Version: set.Version, Date: w.Now, RRPID: &data.RRPID, SWIdent: "test",
				MessageIDs: &set.MessageIDs{LIDC: data.LIDEE, LIDM: data.LIDCA}},
			Message: set.Message{CertReq: &set.CertReq{Enc: &enc}},
		}))
		msg := must[*set.MessageWrapper](t)(ca.Receive(w.Now, b, set.CertReqType))
		o, err := ca.OpenCertReq(w.Now, msg)
		if refused(err) != c.want || (err == nil) != (c.want == 0) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		if c.want == 0 && (!o.Renewal() || !o.Signer.X509.Equal(old.SignCert.X509)) {
			t.Errorf("%s: renewal %t by %v", name, o.Renewal(), o.Signer)
		}
	}
}

func spki(t *testing.T, key crypto.PublicKey) *der.Raw {
	t.Helper()
	raw := der.Raw(must[[]byte](t)(x509.MarshalPKIXPublicKey(key)))
	return &raw
}

func raws(certs []*pki.Certificate) (out []*x509.Certificate) {
	for _, c := range certs {
		if !slices.ContainsFunc(out, c.X509.Equal) {
			out = append(out, c.X509)
		}
	}
	return out
}

// FuzzResume feeds what was kept of a registration, which is then kept again as it was.
func FuzzResume(f *testing.F) {
	e, m := newEnrolment(f), newMeAq(f, set.MerInitialBoth, anyMerchant)
	e.toForm(f)
	e.request(f)
	f.Add(must[[]byte](f)(e.state.Keep()))
	m.toForm(f, nil)
	m.request(f)
	f.Add(must[[]byte](f)(m.state.Keep()))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := set.ResumeCardEnrolment(b); err == nil {
			if again, err := c.Keep(); err != nil || !bytes.Equal(again, b) {
				t.Errorf("kept again, it is another: %v", err)
			}
		}
		if m, err := set.ResumeMeAqEnrolment(b); err == nil {
			if again, err := m.Keep(); err == nil && !bytes.Equal(again, b) {
				t.Error("kept again, it is another")
			}
		}
	})
}
