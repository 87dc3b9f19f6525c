package ca_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/ca"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

// note takes LID-CA and chall-CA from RegFormRes, for requests that a wallet would not make.
func (c *cardholder) note(t *testing.T, res []byte) {
	t.Helper()
	w := must[*set.MessageWrapper](t)(set.Decode(res))
	sd := must[*cms.SignedData](t)(cms.ParseSigned(cms.ContentInfo(*w.Message.RegFormRes), set.ContentRegFormResTBS))
	var data set.RegFormResTBS
	if err := set.Unmarshal(sd.Content, &data); err != nil {
		t.Fatal(err)
	}
	c.lidCA, c.challCA = data.LIDCA, data.ChallCA
}

func TestCardholder(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		s := newServer(t, url)
		c := newCardholder(t, alicePAN)
		card, err := c.register(t, s, aliceAnswers...)
		if err != nil {
			t.Fatal(err)
		}
		end := must[time.Time](t)(expiry().End())
		if got := card.Certificate; !got.X509.NotAfter.Before(end) || got.Subject.Unit != "Nordhavn Bank" || got.Subject.CardName != "Blue" || card.CAMsg.CardholderMsg != "Welcome" {
			t.Errorf("certificate for %+v until %v, message %v", got.Subject, got.X509.NotAfter, card.CAMsg)
		}
		// The lists of revocation came along.
		if store := card.Verifier.Store(); store.BCI(brand) == nil || len(store.CRLs) != 3 {
			t.Errorf("%d BrandCRLIdentifiers and %d CRLs came", len(store.BCIs), len(store.CRLs))
		}
		if _, err := card.Verifier.Verify(card.Certificate, card.Chain, time.Now(), pki.Card); err != nil {
			t.Error(err)
		}
		list := must[[]ca.Issued](t)(ca.List(t.Context(), s.db, 10))
		want := []ca.Issued{{
			CA: "cca", Serial: card.Certificate.Serial(), Type: "card", Use: "signature",
			Subject: card.Certificate.X509.Subject.String(), Thumbprint: card.Certificate.Thumbprint().String(),
			NotBefore: card.Certificate.X509.NotBefore, NotAfter: card.Certificate.X509.NotAfter, IssuedAt: list[0].IssuedAt,
		}}
		if diff := cmp.Diff(want, list); diff != "" {
			t.Errorf("list (-want +got):\n%s", diff)
		}
	})
}

// CR-1, CR-2, CR-3: account and secrets are neither on the wire nor in the log nor in the database.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	card, err := newCardholder(t, alicePAN).register(t, s, aliceAnswers...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newCardholder(t, alicePAN).register(t, s, aliceName, "wrong-guess-99"); status(t, err) != set.RejectedByIssuer {
		t.Errorf("wrong code: %v", err)
	}
	places := map[string][]byte{"log": []byte(s.log.String()), "database": s.dump(t), "wire": bytes.Join(s.wire, nil)}
	if !bytes.Contains(places["database"], card.Certificate.X509.Raw) || !bytes.Contains(places["log"], []byte("certificate issued")) {
		t.Error("this test looks in the wrong places")
	}
	for what, secret := range map[string][]byte{
		"PAN": []byte(alicePAN), "expiry": expiry(), "registration code": []byte(aliceSecret), "wrong code": []byte("wrong-guess-99"),
		"name": []byte(aliceName), "CardSecret": card.CardSecret[:], "PANSecret": card.PANSecret[:], "merchant's code": []byte(merchantCode),
	} {
		for place, b := range places {
			if bytes.Contains(b, secret) {
				t.Errorf("%s in the %s", what, place)
			}
		}
	}
}

// CR-5: a key is certified once, whoever asks.
func TestKeyCertifiedOnce(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		s := newServer(t, url)
		first := newCardholder(t, alicePAN)
		if _, err := first.register(t, s, aliceAnswers...); err != nil {
			t.Fatal(err)
		}
		for _, pan := range []string{alicePAN, "4111111111111129"} {
			again := newCardholder(t, pan)
			again.key = first.key
			if _, err := again.register(t, s, aliceAnswers...); status(t, err) != set.RejectedByCA {
				t.Errorf("second certificate for the key: %v", err)
			}
		}
		// Also when both requests are there at once.
		key := newKey(t)
		var wg sync.WaitGroup
		var mu sync.Mutex
		got := make(map[string]int)
		requests := make([][]byte, 4)
		people := make([]*cardholder, len(requests))
		for i := range requests {
			people[i] = newCardholder(t, alicePAN)
			people[i].toForm(t, s)
			requests[i] = must[[]byte](t)(people[i].CertReq(people[i].e, time.Now(), aliceAnswers, key))
		}
		for i, b := range requests {
			wg.Go(func() {
				_, answer := s.post(t, "/cca", b)
				_, err := people[i].OpenCertRes(people[i].e, time.Now(), answer)
				mu.Lock()
				defer mu.Unlock()
				got[fmt.Sprint(err)]++
			})
		}
		wg.Wait()
		if got["<nil>"] != 1 || len(got) != 2 {
			t.Errorf("outcomes %v, want one certificate and one kind of refusal", got)
		}
	})
}

func TestIssuerDecides(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	for _, answers := range [][]set.FieldText{{aliceName, "wrong"}, {"Mallory", aliceSecret}} {
		if _, err := newCardholder(t, alicePAN).register(t, s, answers...); status(t, err) != set.RejectedByIssuer {
			t.Errorf("%v", err)
		}
	}
	// While the issuer is away there is no decision: the same request is answered later.
	c := newCardholder(t, alicePAN)
	c.toForm(t, s)
	b := must[[]byte](t)(c.CertReq(c.e, time.Now(), aliceAnswers, c.key))
	s.bank.down.Store(true)
	before := s.state(t)
	if code, _ := s.post(t, "/cca", b); code != http.StatusServiceUnavailable {
		t.Errorf("issuer away: status %d", code)
	}
	if diff := cmp.Diff(before, s.state(t)); diff != "" {
		t.Errorf("state changed (-before +after):\n%s", diff)
	}
	s.bank.down.Store(false)
	if _, err := c.OpenCertRes(c.e, time.Now(), s.ask(t, "/cca", b, nil)); err != nil {
		t.Error(err)
	}
}

// state is what the server has stored, as numbers of rows by table and state.
func (s *server) state(t *testing.T) map[string]int {
	t.Helper()
	out := make(map[string]int)
	err := s.db.View(t.Context(), func(tx *sql.Tx) error {
		for name, query := range map[string]string{
			"answers": `SELECT COUNT(*) FROM sqldb_answer`, "certificates": `SELECT COUNT(*) FROM certificate`,
			"keys": `SELECT COUNT(*) FROM certified_key`, "begun": `SELECT COUNT(*) FROM enrolment WHERE state = 'begun'`,
			"asked": `SELECT COUNT(*) FROM enrolment WHERE state = 'asked'`, "done": `SELECT COUNT(*) FROM enrolment WHERE state = 'done'`,
			"codes": `SELECT COUNT(*) FROM registration_code`, "misses": `SELECT COALESCE(SUM(failures), 0) FROM registration_code`,
		} {
			var n int
			if err := tx.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
				return err
			}
			out[name] = n
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A true replay gets the stored answer, and nothing is done twice. The same RRPID with other octets is
// refused.
func TestReplay(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		s := newServer(t, url)
		c := newCardholder(t, alicePAN)
		if _, err := c.register(t, s, aliceAnswers...); err != nil {
			t.Fatal(err)
		}
		merchant := newEntity(t, set.MerInitialBoth, merchantID)
		if _, err := merchant.register(t, s, merchantCode); err != nil {
			t.Fatal(err)
		}
		before, asked := s.state(t), s.bank.asked.Load()
		s.Close()
		s.start(t) // what was answered is remembered over a restart
		wire := s.wire
		for i := 0; i < len(wire); i += 2 {
			path := "/cca"
			if i >= 6 {
				path = "/mca"
			}
			if code, answer := s.post(t, path, wire[i]); code != http.StatusOK || !bytes.Equal(answer, wire[i+1]) {
				t.Errorf("request %d: status %d, another answer than at first", i/2, code)
			}
			w := must[*set.MessageWrapper](t)(set.Decode(wire[i]))
			w.MessageHeader.SWIdent = "another"
			if code, answer := s.post(t, path, must[[]byte](t)(set.Encode(*w))); code != http.StatusBadRequest || errorCode(t, answer) != "unspecifiedFailure" {
				t.Errorf("request %d with other octets: status %d, %s", i/2, code, errorCode(t, answer))
			}
		}
		if diff := cmp.Diff(before, s.state(t)); diff != "" || s.bank.asked.Load() != asked {
			t.Errorf("issuer asked %d times more; state (-before +after):\n%s", s.bank.asked.Load()-asked, diff)
		}
	})
}

// Many copies of one request at once: one answer, the others the same or none yet.
func TestReplayAtOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	c := newCardholder(t, alicePAN)
	c.toForm(t, s)
	b := must[[]byte](t)(c.CertReq(c.e, time.Now(), aliceAnswers, c.key))
	var wg sync.WaitGroup
	answers := make([][]byte, 8)
	for i := range answers {
		wg.Go(func() {
			if code, answer := s.post(t, "/cca", b); code == http.StatusOK {
				answers[i] = answer
			} else if code != http.StatusServiceUnavailable {
				t.Errorf("status %d", code)
			}
		})
	}
	wg.Wait()
	final := s.ask(t, "/cca", b, nil)
	for i, a := range answers {
		if a != nil && !bytes.Equal(a, final) {
			t.Errorf("copy %d got another answer", i)
		}
	}
	if n := s.state(t)["certificates"]; n != 1 || s.bank.asked.Load() != 1 {
		t.Errorf("%d certificates, issuer asked %d times, want once each", n, s.bank.asked.Load())
	}
}

// garbage is what must never change a state.
func garbage(t *testing.T, good []byte) map[string][]byte {
	t.Helper()
	random := make([]byte, 3000)
	rand.Read(random)
	big := make([]byte, 2<<20)
	rand.Read(big)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	return map[string][]byte{
		"empty": {}, "random": random, "2 MiB": big, "truncated": good[:len(good)-1], "half": good[:len(good)/2],
		"extended": append(bytes.Clone(good), 0), "last bit": flipped, "2 MiB of a message": append(bytes.Clone(good), big...),
	}
}

func TestGarbage(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	c := newCardholder(t, alicePAN)
	c.toForm(t, s)
	certReq := must[[]byte](t)(c.CertReq(c.e, time.Now(), aliceAnswers, c.key))
	before := s.state(t)
	for _, good := range [][]byte{certReq, s.wire[2]} {
		for name, b := range garbage(t, good) {
			for _, path := range []string{"/cca", "/mca", "/pca"} {
				code, answer := s.post(t, path, b)
				want := http.StatusBadRequest
				if len(b) > set.MessageOctetsMax {
					want = http.StatusRequestEntityTooLarge
				}
				if got := errorCode(t, answer); code != want || strings.HasPrefix(got, "no") {
					t.Errorf("%s to %s: status %d, %s", name, path, code, got)
				}
			}
		}
	}
	if diff := cmp.Diff(before, s.state(t)); diff != "" {
		t.Errorf("state changed (-before +after):\n%s", diff)
	}
	if _, err := c.OpenCertRes(c.e, time.Now(), s.ask(t, "/cca", certReq, nil)); err != nil {
		t.Errorf("the good request afterwards: %v", err)
	}
}

// forge makes a CertReq as a wallet would not.
func (c *cardholder) forge(t *testing.T, change func(d *set.CertReqData, p *set.PANData0)) []byte {
	t.Helper()
	spki := *spkiOf(t, c.key.Public())
	name, secret := set.FieldText(aliceName), set.FieldText(aliceSecret)
	backKey := make(set.BackKey, 32)
	rand.Read(backKey)
	challCA := c.challCA
	d := set.CertReqData{
		RRPID: set.NewRRPID(), LIDEE: c.lid, ChallEE3: set.NewChallenge(), LIDCA: c.lidCA, ChallCA: &challCA,
		RequestType: set.CardInitialSig, RequestDate: time.Now().UTC().Truncate(time.Second), RegFormID: 3,
		RegForm: []set.RegFormItem{
			{FieldName: []set.Text128{"Name on the card"}, FieldValue: set.FieldValue{Text: &name}},
			{FieldName: []set.Text128{"Registration code"}, FieldValue: set.FieldValue{Text: &secret}},
		},
		CABackKeyData: &set.BackKeyData{BackAlgID: cms.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 46}}, BackKey: backKey},
		PublicKeySorE: set.PublicKeySorE{PublicKeyS: &spki},
	}
	p := set.PANData0{PAN: set.PAN(alicePAN), CardExpiry: expiry(), CardSecret: set.NewSecret(), ExNonce: set.NewNonce()}
	change(&d, &p)
	c.backKey = d.CABackKeyData
	types := cms.SignedEncrypted{TBE: set.ContentCertReqTBEX, TBS: set.ContentCertReqTBS}
	ci := must[cms.ContentInfo](t)(cms.EncX(types, d, set.AcctInfo{PANData0: &p}, p.Pack(), cms.WithPANData0, nil, nil,
		[]cms.Signer{{Key: c.key}}, readCert(t, "cca-key-exchange.pem").X509))
	return must[[]byte](t)(set.Encode(set.MessageWrapper{
		MessageHeader: set.MessageHeader{
			Version: 1, Date: d.RequestDate, MessageIDs: &set.MessageIDs{LIDC: d.LIDEE, LIDM: d.LIDCA}, RRPID: &d.RRPID, SWIdent: "forger",
		},
		Message: set.Message{CertReq: &set.CertReq{EncX: &ci}},
	}))
}

// outcome is the status of a CertRes, or the code of an Error.
func (c *cardholder) outcome(t *testing.T, b []byte) string {
	t.Helper()
	w := must[*set.MessageWrapper](t)(set.Decode(b))
	if w.Message.CertRes == nil {
		return errorCode(t, b)
	}
	types := cms.SignedEncrypted{TBE: set.ContentCertResTBE, TBS: set.ContentCertResData}
	var sd *cms.SignedData
	if res := w.Message.CertRes; res.EncK != nil {
		sd = must[*cms.SignedData](t)(cms.OpenEncBack(types, *res.EncK, c.backKey.BackKey))
	} else {
		sd = must[*cms.SignedData](t)(cms.ParseSigned(*res.CertRes, set.ContentCertResData))
	}
	var data set.CertResData
	if err := set.Unmarshal(sd.Content, &data); err != nil {
		t.Fatal(err)
	}
	return data.CertStatus.CertStatusCode.String()
}

func TestForgedCertReq(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	other := newCardholder(t, alicePAN)
	other.toForm(t, s)
	long := set.FieldText(strings.Repeat("x", 65))
	weak := *spkiOf(t, weakKey(t).Public())
	for name, c := range map[string]struct {
		want   string
		change func(d *set.CertReqData, p *set.PANData0)
	}{
		"good":                 {"requestComplete", func(*set.CertReqData, *set.PANData0) {}},
		"another PAN (W-CR3)":  {"rejectedByCA", func(_ *set.CertReqData, p *set.PANData0) { p.PAN = set.PAN("4111111111111129") }},
		"PAN of another bank":  {"rejectedByCA", func(_ *set.CertReqData, p *set.PANData0) { p.PAN = set.PAN("5555555555554444") }},
		"expired card":         {"rejectedByCA", func(_ *set.CertReqData, p *set.PANData0) { p.CardExpiry = set.CardExpiry("202001") }},
		"no month":             {"rejectedByCA", func(_ *set.CertReqData, p *set.PANData0) { p.CardExpiry = set.CardExpiry("203013") }},
		"no challenge (W-MR2)": {"challengeMismatch", func(d *set.CertReqData, _ *set.PANData0) { d.ChallCA = nil }},
		"wrong challenge":      {"challengeMismatch", func(d *set.CertReqData, _ *set.PANData0) { d.ChallCA[0] ^= 1 }},
		"another's challenge":  {"challengeMismatch", func(d *set.CertReqData, _ *set.PANData0) { d.ChallCA = &other.challCA }},
		"unknown LID":          {"unknownLID", func(d *set.CertReqData, _ *set.PANData0) { d.LIDCA = set.NewLocalID() }},
		"no LID":               {"unknownLID", func(d *set.CertReqData, _ *set.PANData0) { d.LIDCA = nil }},
		"another's LID":        {"unknownLID", func(d *set.CertReqData, _ *set.PANData0) { d.LIDCA = other.lidCA }},
		"another's LID-EE":     {"unknownLID", func(d *set.CertReqData, _ *set.PANData0) { d.LIDEE = set.NewLocalID() }},
		"renewal":              {"unspecifiedFailure", func(d *set.CertReqData, _ *set.PANData0) { d.RequestType = set.CardRenewalSig }},
		"merchant at the CCA":  {"messageNotSupported", func(d *set.CertReqData, _ *set.PANData0) { d.RequestType = set.MerInitialSig }},
		"another form":         {"regFormAnswerMalformed", func(d *set.CertReqData, _ *set.PANData0) { d.RegFormID = 9 }},
		"no answers":           {"regFormAnswerMalformed", func(d *set.CertReqData, _ *set.PANData0) { d.RegForm = nil }},
		"answer too long":      {"regFormAnswerMalformed", func(d *set.CertReqData, _ *set.PANData0) { d.RegForm[0].FieldValue.Text = &long }},
		"answer given twice":   {"regFormAnswerMalformed", func(d *set.CertReqData, _ *set.PANData0) { d.RegForm[1] = d.RegForm[0] }},
		"a merchant's number":  {"regFormAnswerMalformed", func(d *set.CertReqData, _ *set.PANData0) { d.IDData = &merchantID }},
		"two keys":             {"regFormAnswerMalformed", func(d *set.CertReqData, _ *set.PANData0) { d.PublicKeySorE.PublicKeyE = d.PublicKeySorE.PublicKeyS }},
		"weak key":             {"rejectedByCA", func(d *set.CertReqData, _ *set.PANData0) { d.PublicKeySorE.PublicKeyS = &weak }},
		"another's key":        {"sigValidationFail", func(d *set.CertReqData, _ *set.PANData0) { d.PublicKeySorE.PublicKeyS = spkiOf(t, newKey(t).Public()) }},
		"back key too short":   {"unableToEncryptCertRes", func(d *set.CertReqData, _ *set.PANData0) { d.CABackKeyData.BackKey = d.CABackKeyData.BackKey[:16] }},
		"back key of DES": {"unableToEncryptCertRes", func(d *set.CertReqData, _ *set.PANData0) {
			d.CABackKeyData.BackAlgID.Algorithm = asn1.ObjectIdentifier{1, 3, 14, 3, 2, 7}
		}},
		"no back key (CR-3)": {"unableToEncryptCertRes", func(d *set.CertReqData, _ *set.PANData0) { d.CABackKeyData = nil }},
		"critical extension": {"unrecognizedExtension", func(d *set.CertReqData, _ *set.PANData0) {
			d.Extensions = set.MsgExtensions{{ID: asn1.ObjectIdentifier{1, 2}, Critical: true, Value: der.Raw{5, 0}}}
		}},
		"unimportant extension": {"requestComplete", func(d *set.CertReqData, _ *set.PANData0) {
			d.Extensions = set.MsgExtensions{{ID: asn1.ObjectIdentifier{1, 2}, Value: der.Raw{5, 0}}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			person := newCardholder(t, alicePAN)
			person.toForm(t, s)
			_, answer := s.post(t, "/cca", person.forge(t, c.change))
			if got := person.outcome(t, answer); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			// What was answered by an Error has not used the registration up; what was decided has.
			_, answer = s.post(t, "/cca", person.forge(t, func(*set.CertReqData, *set.PANData0) {}))
			want := "unknownLID"
			if _, isError := errorNames[c.want]; isError {
				want = "requestComplete"
			}
			if got := person.outcome(t, answer); got != want {
				t.Errorf("a good request afterwards: %s, want %s", got, want)
			}
		})
	}
}

var errorNames = map[string]bool{"challengeMismatch": true, "unknownLID": true, "messageNotSupported": true, "unrecognizedExtension": true, "unspecifiedFailure": true}

func TestReferral(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	c := newCardholder(t, "5555555555554444")
	b, err := c.InitReq(c.e, time.Now())
	if err := c.OpenInitRes(c.e, time.Now(), s.ask(t, "/cca", b, err)); err != nil {
		t.Fatal(err)
	}
	b, err = c.FormReq(c.e, time.Now())
	_, err = c.OpenFormRes(c.e, time.Now(), s.ask(t, "/cca", b, err))
	var referral *set.ReferralError
	if !errors.As(err, &referral) || referral.Reason != "Ask your own bank." || len(referral.URLs) != 1 {
		t.Errorf("unknown BIN: %v", err)
	}
	unknown := set.IDData{MerchantAcquirerID: &set.MerchantAcquirerID{MerchantBIN: acquirerBIN, MerchantID: "M-0002"}}
	if _, err := newEntity(t, set.MerInitialBoth, unknown).register(t, s, merchantCode); !errors.As(err, &referral) || referral.Reason != "Ask your acquirer." {
		t.Errorf("unknown merchant: %v", err)
	}
	if n := s.state(t); n["done"] != 2 || n["asked"] != 0 {
		t.Errorf("state %v", n)
	}
}

func TestMerchantAndGateway(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		s := newServer(t, url)
		merchant := newEntity(t, set.MerInitialBoth, merchantID)
		got, err := merchant.register(t, s, merchantCode)
		if err != nil {
			t.Fatal(err)
		}
		if m := got.Signature.Merchant; m.MerchantID != "M-0001" || m.AcquirerBIN != acquirerBIN || m.AuthFlag || m.Names[0].Name != "Bookshop" {
			t.Errorf("merchant data %+v", m)
		}
		gateway, err := newEntity(t, set.PgwyInitialBoth, gatewayID).register(t, s, gatewayCode)
		if err != nil {
			t.Fatal(err)
		}
		if x := gateway.KeyExchange; !x.CardCertRequired || !x.Tunneling.Supported || len(x.Tunneling.Algorithms) != 1 || x.Subject.CommonName != "gateway-1" {
			t.Errorf("gateway's certificate %+v", x)
		}
		for _, c := range []*set.EntityCertificates{got, gateway} {
			for _, leaf := range []*pki.Certificate{c.Signature, c.KeyExchange} {
				if _, err := c.Verifier.Verify(leaf, c.Chain, time.Now()); err != nil {
					t.Error(err)
				}
			}
		}
		if list := must[[]ca.Issued](t)(ca.List(t.Context(), s.db, 10)); len(list) != 4 {
			t.Errorf("%d certificates listed, want 4", len(list))
		}
		// MR-5: private keys do not travel.
		private := rsaKey(t, 0)
		for _, secret := range [][]byte{private.D.Bytes(), private.Primes[0].Bytes(), private.Primes[1].Bytes(), must[[]byte](t)(merchant.sign.(*ecdsa.PrivateKey).Bytes())} {
			if bytes.Contains(bytes.Join(s.wire, nil), secret) {
				t.Error("a private key on the wire")
			}
		}
	})
}

// MR-2, MR-3: neither key is certified again, together or separately; and W-MR1: nobody gets a
// certificate in another's name.
func TestMerchantKeysOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	first := newEntity(t, set.MerInitialBoth, merchantID)
	certs, err := first.register(t, s, merchantCode)
	if err != nil {
		t.Fatal(err)
	}
	// Each registration takes a new code.
	newCode := func(text string) {
		s.config.Merchant.Merchants[0].Code = code(t, text)
		s.Close()
		s.start(t)
	}
	again := newEntity(t, set.MerInitialBoth, merchantID)
	if _, err := again.register(t, s, merchantCode); status(t, err) != set.RejectedByAcquirer {
		t.Errorf("the same code twice: %v", err)
	}
	newCode("second-code-123")
	again = newEntity(t, set.MerInitialBoth, merchantID)
	again.sign, again.exchange = first.sign, rsaKey(t, 1).Public()
	if _, err := again.register(t, s, "second-code-123"); status(t, err) != set.RejectedByCA {
		t.Errorf("signature key again: %v", err)
	}
	again = newEntity(t, set.MerInitialBoth, merchantID)
	if _, err := again.register(t, s, "second-code-123"); status(t, err) != set.RejectedByCA {
		t.Errorf("key-exchange key again: %v", err)
	}
	certified := *party(t)
	certified.SignKey, certified.SignCert, certified.Chain = first.sign, certs.Signature, certs.Chain
	exchangeOnly := func(key crypto.PublicKey, e *set.Endpoint) error {
		m := newEntity(t, set.MerInitialEnc, merchantID)
		m.sign, m.exchange, m.e = nil, key, e
		_, err := m.register(t, s, "second-code-123")
		return err
	}
	if err := exchangeOnly(first.exchange, &certified); status(t, err) != set.RejectedByCA {
		t.Errorf("key-exchange key again, alone: %v", err)
	}
	stranger := certified
	stranger.SignKey = newKey(t)
	if err := exchangeOnly(rsaKey(t, 1).Public(), &stranger); status(t, err) != set.SigValidationFail {
		t.Errorf("signed with a key that is not certified: %v", err)
	}
	if err := exchangeOnly(rsaKey(t, 1).Public(), &certified); err != nil {
		t.Errorf("a new key-exchange key: %v", err)
	}
}

func TestRegistrationCodes(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	for i := range 10 {
		if _, err := newEntity(t, set.MerInitialBoth, merchantID).register(t, s, set.FieldText(fmt.Sprintf("guess-%d-guess", i))); status(t, err) != set.RejectedByAcquirer {
			t.Fatalf("guess %d: %v", i, err)
		}
	}
	if _, err := newEntity(t, set.MerInitialBoth, merchantID).register(t, s, merchantCode); status(t, err) != set.RejectedByAcquirer {
		t.Errorf("right code after ten wrong ones: %v", err)
	}
	if _, err := newEntity(t, set.PgwyInitialBoth, gatewayID).register(t, s, gatewayCode); err != nil {
		t.Errorf("another party: %v", err)
	}
	if _, err := ca.NewRegistrationCode([]byte("short")); err == nil {
		t.Error("a short code is good enough")
	}
}

// A code is good for one registration also when two come at once.
func TestCodeAtOnce(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		s := newServer(t, url)
		var wg sync.WaitGroup
		var mu sync.Mutex
		certified := 0
		for i := range 2 {
			m := newEntity(t, set.MerInitialBoth, merchantID)
			m.exchange = rsaKey(t, i).Public()
			if _, err := m.toForm(t, s); err != nil {
				t.Fatal(err)
			}
			b := must[[]byte](t)(m.CertReq(m.e, time.Now(), []set.FieldText{merchantCode}, m.sign, m.exchange))
			wg.Go(func() {
				_, answer := s.post(t, "/mca", b)
				if _, err := m.OpenCertRes(m.e, time.Now(), answer); err == nil {
					mu.Lock()
					defer mu.Unlock()
					certified++
				} else if status(t, err) != set.RejectedByAcquirer {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if certified != 1 {
			t.Errorf("%d registrations with one code", certified)
		}
	})
}

// brokenKey is a key whose device is away.
type brokenKey struct{ crypto.Decrypter }

func (brokenKey) Decrypt(io.Reader, []byte, crypto.DecrypterOpts) ([]byte, error) {
	return nil, errors.New("device removed")
}

func TestDevicesAway(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	c := newCardholder(t, alicePAN)
	b, err := c.InitReq(c.e, time.Now())
	if err := c.OpenInitRes(c.e, time.Now(), s.ask(t, "/cca", b, err)); err != nil {
		t.Fatal(err)
	}
	b = must[[]byte](t)(c.FormReq(c.e, time.Now()))
	before := s.state(t)
	unavailable := func(what string) {
		t.Helper()
		if code, answer := s.post(t, "/cca", b); code != http.StatusServiceUnavailable || !bytes.Contains(answer, []byte("again")) {
			t.Errorf("%s away: status %d, %s", what, code, answer)
		}
		if diff := cmp.Diff(before, s.state(t)); diff != "" {
			t.Errorf("%s away: state changed (-before +after):\n%s", what, diff)
		}
	}
	s.mac.down.Store(true)
	unavailable("MAC key")
	if code, report := s.ready(t); code != http.StatusServiceUnavailable || report["hsm"] == "ok" || report["issuer"] != "ok" {
		t.Errorf("readyz: status %d, %v", code, report)
	}
	s.mac.down.Store(false)
	key := s.config.Cardholder.Endpoint.ExchangeKey
	s.config.Cardholder.Endpoint.ExchangeKey = brokenKey{key}
	s.start(t)
	unavailable("key-exchange key")
	s.config.Cardholder.Endpoint.ExchangeKey = key
	s.start(t)
	c.note(t, s.ask(t, "/cca", b, nil))
	if code, report := s.ready(t); code != http.StatusOK {
		t.Errorf("readyz: status %d, %v", code, report)
	}
	s.bank.down.Store(true)
	if code, report := s.ready(t); code != http.StatusServiceUnavailable || report["issuer"] == "ok" {
		t.Errorf("readyz: status %d, %v", code, report)
	}
	s.db.Close()
	if code, _ := s.post(t, "/cca", must[[]byte](t)(c.InitReq(c.e, time.Now()))); code != http.StatusServiceUnavailable {
		t.Errorf("database away: status %d", code)
	}
}

func (s *server) ready(t *testing.T) (status int, report map[string]string) {
	t.Helper()
	res, err := http.Get(s.URL + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&report); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, report
}

func TestWrongPlace(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	c := newCardholder(t, alicePAN)
	b := must[[]byte](t)(c.InitReq(c.e, time.Now()))
	if code, answer := s.post(t, "/mca", b); code != http.StatusBadRequest || errorCode(t, answer) != "messageNotSupported" {
		t.Errorf("CardCInitReq to the MCA: status %d, %s", code, errorCode(t, answer))
	}
	m := newEntity(t, set.MerInitialBoth, merchantID)
	b = must[[]byte](t)(m.InitReq(m.e, time.Now()))
	if code, answer := s.post(t, "/pca", b); code != http.StatusBadRequest || errorCode(t, answer) != "messageNotSupported" {
		t.Errorf("a merchant at the PCA: status %d, %s", code, errorCode(t, answer))
	}
	b = must[[]byte](t)(set.NewCardEnrolment("Other", "en", set.PAN(alicePAN), expiry()).InitReq(c.e, time.Now()))
	if code, answer := s.post(t, "/cca", b); code != http.StatusBadRequest || errorCode(t, answer) != "messageNotSupported" {
		t.Errorf("another brand: status %d, %s", code, errorCode(t, answer))
	}
	b = must[[]byte](t)(c.InitReq(c.e, time.Now().Add(-time.Hour)))
	if _, answer := s.post(t, "/cca", b); errorCode(t, answer) != "messageTooOld" {
		t.Errorf("an hour old: %s", errorCode(t, answer))
	}
	if n := s.state(t); n["answers"] != 0 || n["begun"] != 0 {
		t.Errorf("state %v", n)
	}
}

// A registration is over after half an hour, and is then removed.
func TestExpiry(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	clock := time.Now()
	s.config.Now = func() time.Time { return clock }
	s.start(t)
	c := newCardholder(t, alicePAN)
	c.toForm(t, s)
	clock = clock.Add(31 * time.Minute)
	b := must[[]byte](t)(c.CertReq(c.e, clock, aliceAnswers, c.key))
	if _, answer := s.post(t, "/cca", b); errorCode(t, answer) != "unknownLID" {
		t.Errorf("got %s", errorCode(t, answer))
	}
	clock = clock.Add(25 * time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.ca.Run(ctx)
	}()
	defer func() { cancel(); <-stopped }()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if n := s.state(t); n["asked"] == 0 && n["answers"] == 0 {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("state %v", n)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	for name, change := range map[string]func(c *ca.Config){
		"another CA's certificate": func(c *ca.Config) { c.Merchant.Certificate = c.Cardholder.Certificate },
		"another key":              func(c *ca.Config) { c.Payment.Key = c.Merchant.Key },
		"no validity":              func(c *ca.Config) { c.Payment.Validity = 0 },
		"no policy":                func(c *ca.Config) { c.Cardholder.Form.Policy = "" },
		"a field less":             func(c *ca.Config) { c.Cardholder.Form.Fields = c.Cardholder.Form.Fields[:1] },
		"a BIN twice":              func(c *ca.Config) { c.Cardholder.Programs = append(c.Cardholder.Programs, c.Cardholder.Programs[0]) },
		"a merchant twice":         func(c *ca.Config) { c.Merchant.Merchants = append(c.Merchant.Merchants, c.Merchant.Merchants[0]) },
		"a merchant without code": func(c *ca.Config) {
			c.Merchant.Merchants = []ca.Merchant{c.Merchant.Merchants[0]}
			c.Merchant.Merchants[0].Code = ca.RegistrationCode{}
		},
		"in ten years": func(c *ca.Config) { c.Now = func() time.Time { return time.Now().AddDate(10, 0, 0) } },
	} {
		t.Run(name, func(t *testing.T) {
			config := s.config
			change(&config)
			if _, err := ca.New(config); err == nil {
				t.Error("accepted")
			}
		})
	}
}

// A request that says nothing of who asks, after a form for a party that exists, is refused.
func TestCertReqOfNobody(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqldbtest.SQLite(t))
	m := newEntity(t, set.MerInitialBoth, merchantID)
	init := must[[]byte](t)(m.InitReq(m.e, time.Now()))
	res := must[*set.MessageWrapper](t)(set.Decode(s.ask(t, m.path, init, nil)))
	sd := must[*cms.SignedData](t)(cms.ParseSigned(cms.ContentInfo(*res.Message.MeAqCInitRes), set.ContentMeAqCInitResTBS))
	var form set.MeAqCInitResTBS
	if err := set.Unmarshal(sd.Content, &form); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(sd.Certificates, func(c *x509.Certificate) bool {
		return must[*pki.Certificate](t)(pki.ParseCertificate(c.Raw)).Thumbprint() == form.CAEThumb.Thumbprint
	})
	rrpid := set.NewRRPID()
	enc := must[cms.ContentInfo](t)(cms.Enc(cms.SignedEncrypted{TBE: set.ContentCertReqTBE, TBS: set.ContentCertReqData}, set.CertReqData{
		RRPID: rrpid, LIDEE: form.LIDEE, ChallEE3: set.NewChallenge(), LIDCA: form.LIDCA, ChallCA: &form.ChallCA,
		RequestType: set.MerInitialBoth, RequestDate: time.Now(),
		PublicKeySorE: set.PublicKeySorE{PublicKeyS: spkiOf(t, m.sign.Public()), PublicKeyE: spkiOf(t, m.exchange)},
	}, nil, nil, cms.Signer{Key: m.sign}, sd.Certificates[i]))
	b := must[[]byte](t)(set.Encode(set.MessageWrapper{
		MessageHeader: set.MessageHeader{
			Version: set.Version, Date: time.Now(), RRPID: &rrpid, SWIdent: "test",
			MessageIDs: &set.MessageIDs{LIDC: form.LIDEE, LIDM: form.LIDCA},
		},
		Message: set.Message{CertReq: &set.CertReq{Enc: &enc}},
	}))
	answer := must[*set.MessageWrapper](t)(set.Decode(s.ask(t, m.path, b, nil)))
	sd = must[*cms.SignedData](t)(cms.ParseSigned(*answer.Message.CertRes.CertRes, set.ContentCertResData))
	var data set.CertResData
	if err := set.Unmarshal(sd.Content, &data); err != nil {
		t.Fatal(err)
	}
	if got := data.CertStatus.CertStatusCode; got != set.RegFormAnswerMalformed {
		t.Errorf("got %v, want regFormAnswerMalformed", got)
	}
}
