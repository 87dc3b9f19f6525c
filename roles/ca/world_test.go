package ca_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/ca"
	"github.com/setkit/setkit/roles/ca/ceremony"
	"github.com/setkit/setkit/roles/ca/ceremony/ceremonytest"
	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/sqldb"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

// hierarchy is the lab's.
var hierarchy *made

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "catest-")
	if err == nil {
		hierarchy, err = hold(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer os.RemoveAll(dir)
	sqldbtest.Main(m)
}

// made is what the ceremony of the lab made, with its keys in memory.
type made struct {
	dir    string
	tokens map[string]*ceremonytest.Token // by name
	now    time.Time
	chain  []string // files between the CAs and the root
	lists  []string // CRL files
}

// hold holds the ceremony of the lab, with edits of old and new text in turn.
func hold(dir string, edits ...string) (*made, error) {
	m := &made{
		dir: dir, tokens: make(map[string]*ceremonytest.Token), now: time.Now().UTC().Truncate(time.Second),
		chain: []string{"brand.pem"}, lists: []string{"root.crl", "brand.crl", "pca.crl"},
	}
	text, err := os.ReadFile("../../testdata/ceremony/lab.yaml")
	if err != nil {
		return nil, err
	}
	return m, m.run(strings.NewReplacer(append(edits, "ec-p384", "ec-p256")...).Replace(string(text)), dir) // P-256 is faster under the race detector
}

// run holds a ceremony with the tokens that there are.
func (m *made) run(text, output string) error {
	plan, err := ceremony.Parse([]byte(text))
	if err != nil {
		return err
	}
	_, err = ceremony.Run(context.Background(), plan, ceremony.Room{
		Open: func(_ context.Context, name string) (ceremony.Token, error) {
			if m.tokens[name] == nil {
				m.tokens[name] = ceremonytest.New(name)
			}
			return m.tokens[name], nil
		},
		Inputs: os.DirFS(m.dir), Output: output, Notice: io.Discard, Now: func() time.Time { return m.now },
	})
	return err
}

func (m *made) file(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(m.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(b); block != nil {
		return block.Bytes
	}
	return b
}

func readCert(t testing.TB, name string) *pki.Certificate { return hierarchy.cert(t, name) }

func (m *made) cert(t testing.TB, name string) *pki.Certificate {
	t.Helper()
	return must[*pki.Certificate](t)(pki.ParseCertificate(m.file(t, name)))
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (m *made) authority(t testing.TB, file, token string) ca.Authority {
	t.Helper()
	keys := m.tokens[token].Private
	e := &set.Endpoint{
		SignKey: keys["sign"], SignCert: m.cert(t, file+"-sign.pem"),
		ExchangeKey: keys["key-exchange"].(crypto.Decrypter), ExchangeCert: m.cert(t, file+"-key-exchange.pem"),
		Verifier: m.verifier(t, true), Software: "test CA",
	}
	for _, name := range m.chain {
		e.Chain = append(e.Chain, m.cert(t, name))
	}
	return ca.Authority{Endpoint: e, Certificate: m.cert(t, file+".pem"), Key: keys["cert-sign"], Validity: 200 * 24 * time.Hour}
}

// store has the lists that the ceremony made.
func (m *made) store(t testing.TB) pki.Store {
	t.Helper()
	store := pki.Store{BCIs: []*pki.BrandCRLIdentifier{must[*pki.BrandCRLIdentifier](t)(pki.ParseBCI(m.file(t, "brand.bci")))}}
	for _, name := range m.lists {
		store.CRLs = append(store.CRLs, must[*pki.CRL](t)(pki.ParseCRL(m.file(t, name))))
	}
	return store
}

func verifier(t testing.TB, lists bool) *pki.Verifier { return hierarchy.verifier(t, lists) }

func (m *made) verifier(t testing.TB, lists bool) *pki.Verifier {
	t.Helper()
	var store pki.Store
	if lists {
		store = m.store(t)
	}
	return must[*pki.Verifier](t)(pki.NewVerifier([]*pki.Certificate{m.cert(t, "root.pem")}, pki.Options{Store: store, RequireBCI: true}))
}

// bank is an issuer with one cardholder.
type bank struct {
	down  atomic.Bool
	asked atomic.Int64
}

const (
	alicePAN    = "4111111111111111"
	aliceName   = "Alice Andersen"
	aliceSecret = "tulip-harbour-41"
)

func (b *bank) Verify(_ context.Context, a *finnet.AccountCheck) (finnet.ResponseCode, error) {
	b.asked.Add(1)
	if b.down.Load() {
		return "", finnet.ErrNoReply
	}
	if a.Holder != aliceName || string(a.Secret) != aliceSecret || string(a.PAN[:6]) != alicePAN[:6] {
		return finnet.DoNotHonour, nil
	}
	return finnet.Approved, nil
}

func (b *bank) Echo(context.Context) error {
	if b.down.Load() {
		return finnet.ErrUnavailable
	}
	return nil
}

// softMAC is an HMAC key in memory.
type softMAC struct {
	key  []byte
	down atomic.Bool
}

func (m *softMAC) Sum(data []byte) ([]byte, error) {
	if m.down.Load() {
		return nil, errors.New("device error")
	}
	h := hmac.New(sha256.New, m.key)
	h.Write(data)
	return h.Sum(nil), nil
}

// server is a CA over HTTP, with all that it says and writes.
type server struct {
	*httptest.Server
	ca     *ca.CA
	config ca.Config
	db     *sqldb.DB
	dbURL  string
	bank   *bank
	mac    *softMAC
	log    *lockedBuffer

	mu   sync.Mutex
	wire [][]byte
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func form(id set.Natural, names ...set.Text128) ca.Form {
	f := ca.Form{ID: id, Policy: "Keep your key to yourself."}
	for _, n := range names {
		f.Fields = append(f.Fields, set.RegField{FieldName: []set.Text128{n}, FieldLen: 64, FieldRequired: true})
	}
	return f
}

const (
	merchantCode = "otter-lantern-558"
	gatewayCode  = "birch-compass-902"
	acquirerBIN  = "400000"
)

func newServer(t *testing.T, dbURL string) *server { return newServerOf(t, dbURL, hierarchy) }

func newServerOf(t *testing.T, dbURL string, m *made) *server {
	t.Helper()
	s := &server{dbURL: dbURL, bank: &bank{}, mac: &softMAC{key: make([]byte, 32)}, log: &lockedBuffer{}}
	rand.Read(s.mac.key)
	s.db = must[*sqldb.DB](t)(ca.OpenDB(t.Context(), dbURL))
	t.Cleanup(func() { s.db.Close() })
	acquirer := ca.Acquirer{BIN: acquirerBIN, Country: "DK", Name: "Sundby Acquiring"}
	s.config = ca.Config{
		DB: s.db, Issuer: s.bank, PANMAC: s.mac, Log: slog.New(slog.NewJSONHandler(s.log, nil)),
		Cardholder: ca.CardholderCA{
			Authority: m.authority(t, "cca", "cardholder-ca"), Form: form(3, "Name on the card", "Registration code"), Network: acquirerBIN,
			Programs: []ca.CardProgram{{BINs: []set.BIN{"411111"}, Country: "DK", Issuer: "Nordhavn Bank", CardName: "Blue", Message: &set.CAMsg{CardholderMsg: "Welcome"}}},
			Referral: ca.Referral{Reason: "Ask your own bank.", URLs: []set.URL{"https://bank.example/"}},
		},
		Merchant: ca.MerchantCA{
			Authority: m.authority(t, "mca", "merchant-ca"), Form: form(4, "Registration code"),
			Merchants: []ca.Merchant{{
				Acquirer: acquirer, ID: "M-0001", Name: "Bookshop", Country: 208, Code: code(t, merchantCode),
				Names: []pki.MerchantNames{{Language: "en", Name: "Bookshop", City: "Aarhus", CountryName: "Denmark"}},
			}},
			Referral: ca.Referral{Reason: "Ask your acquirer."},
		},
		Payment: ca.PaymentCA{
			Authority: m.authority(t, "pca", "payment-ca"), Form: form(5, "Registration code"),
			Gateways: []ca.Gateway{{
				Acquirer: acquirer, BusinessID: "1", ID: "gateway-1", CardCertRequired: true, Code: code(t, gatewayCode),
				Tunneling: []asn1.ObjectIdentifier{{2, 16, 840, 1, 101, 3, 4, 1, 46}},
			}},
		},
	}
	s.start(t)
	return s
}

// start serves s.config, as after a restart.
func (s *server) start(t *testing.T) {
	t.Helper()
	s.ca = must[*ca.CA](t)(ca.New(s.config))
	s.Server = httptest.NewServer(s.ca.Handler())
	t.Cleanup(s.Close)
}

func code(t *testing.T, text string) ca.RegistrationCode {
	t.Helper()
	return must[ca.RegistrationCode](t)(ca.NewRegistrationCode([]byte(text)))
}

// post sends a message once and gives HTTP status and answer.
func (s *server) post(t *testing.T, path string, b []byte) (int, []byte) {
	t.Helper()
	res, err := http.Post(s.URL+path, sethttp.MediaRegistration, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer := must[[]byte](t)(io.ReadAll(res.Body))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wire = append(s.wire, b, answer)
	return res.StatusCode, answer
}

// ask sends a message that is to be answered by a message other than Error.
func (s *server) ask(t *testing.T, path string, b []byte, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	status, answer := s.post(t, path, b)
	if status != http.StatusOK {
		t.Fatalf("%s: status %d, %s", path, status, errorCode(t, answer))
	}
	return answer
}

// errorCode tells the code of an Error message.
func errorCode(t testing.TB, b []byte) string {
	t.Helper()
	w, err := set.Decode(b)
	if err != nil {
		return "no SET message: " + string(b)
	}
	if w.Message.Error == nil {
		return "no Error but " + w.Message.Type().String()
	}
	if w.Message.Error.SignedError == nil {
		t.Error("an Error that is not signed")
		return ""
	}
	sd := must[*cms.SignedData](t)(cms.ParseSigned(cms.ContentInfo(*w.Message.Error.SignedError), set.ContentErrorTBS))
	var tbs set.ErrorTBS
	if err := set.Unmarshal(sd.Content, &tbs); err != nil {
		t.Error(err)
	}
	var certs []*pki.Certificate
	for _, c := range sd.Certificates {
		certs = append(certs, must[*pki.Certificate](t)(pki.ParseCertificate(c.Raw)))
	}
	signer := slices.IndexFunc(certs, func(c *pki.Certificate) bool { return sd.Names(0, c.X509) })
	if signer < 0 || sd.Verify(0, certs[signer].X509.PublicKey) != nil {
		t.Errorf("the signature of the Error %v does not verify", tbs.ErrorCode)
	} else if _, err := verifier(t, true).Verify(certs[signer], certs, time.Now()); err != nil {
		t.Errorf("the Error %v is signed by: %v", tbs.ErrorCode, err)
	}
	return tbs.ErrorCode.String()
}

const brand = "Meridian"

// party is an endpoint that knows the root alone.
func party(t testing.TB) *set.Endpoint {
	return &set.Endpoint{Verifier: verifier(t, false), Software: "test"}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	return must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

var rsaKeys = [2]func() (*rsa.PrivateKey, error){
	sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) }),
	sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) }),
}

// rsaKey is one of two keys of all tests: making one takes long.
func rsaKey(t testing.TB, i int) *rsa.PrivateKey {
	t.Helper()
	return must[*rsa.PrivateKey](t)(rsaKeys[i]())
}

// cardholder is somebody who registers a card.
type cardholder struct {
	*set.CardEnrolment
	e   *set.Endpoint
	key crypto.Signer

	// For requests that a wallet would not make.
	lid     set.LocalID
	lidCA   set.LocalID
	challCA set.Challenge
	backKey *set.BackKeyData
}

func newCardholder(t testing.TB, pan string) *cardholder {
	t.Helper()
	return &cardholder{
		CardEnrolment: set.NewCardEnrolment(brand, "en", set.PAN(pan), expiry()), e: party(t), key: newKey(t),
	}
}

func marshalKey(key crypto.PublicKey) ([]byte, error) { return x509.MarshalPKIXPublicKey(key) }

func spkiOf(t testing.TB, key crypto.PublicKey) *der.Raw {
	t.Helper()
	raw := der.Raw(must[[]byte](t)(marshalKey(key)))
	return &raw
}

func weakKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	return must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
}

func expiry() set.CardExpiry { return set.CardExpiry(fmt.Sprintf("%d12", time.Now().Year()+3)) }

// toForm goes as far as the form.
func (c *cardholder) toForm(t *testing.T, s *server) *set.RegFormData {
	t.Helper()
	b, err := c.InitReq(c.e, time.Now())
	if err == nil {
		c.lid = must[*set.MessageWrapper](t)(set.Decode(b)).MessageHeader.MessageIDs.LIDC
	}
	if err := c.OpenInitRes(c.e, time.Now(), s.ask(t, "/cca", b, err)); err != nil {
		t.Fatal(err)
	}
	b, err = c.FormReq(c.e, time.Now())
	res := s.ask(t, "/cca", b, err)
	c.note(t, res)
	return must[*set.RegFormData](t)(c.OpenFormRes(c.e, time.Now(), res))
}

var aliceAnswers = []set.FieldText{aliceName, aliceSecret}

// register registers to the end; an error is the CA's refusal.
func (c *cardholder) register(t *testing.T, s *server, answers ...set.FieldText) (*set.CardCertificate, error) {
	t.Helper()
	c.toForm(t, s)
	b, err := c.CertReq(c.e, time.Now(), answers, c.key)
	return c.OpenCertRes(c.e, time.Now(), s.ask(t, "/cca", b, err))
}

// entity is a merchant or gateway that registers.
type entity struct {
	*set.MeAqEnrolment
	e        *set.Endpoint
	path     string
	sign     crypto.Signer
	exchange crypto.PublicKey
}

var (
	merchantID = set.IDData{MerchantAcquirerID: &set.MerchantAcquirerID{MerchantBIN: acquirerBIN, MerchantID: "M-0001"}}
	gatewayID  = set.IDData{AcquirerID: &set.AcquirerID{AcquirerBIN: acquirerBIN, AcquirerBusinessID: "1"}}
)

func newEntity(t testing.TB, typ set.RequestType, id set.IDData) *entity {
	t.Helper()
	path := "/mca"
	if id.AcquirerID != nil {
		path = "/pca"
	}
	return &entity{
		MeAqEnrolment: must[*set.MeAqEnrolment](t)(set.NewMeAqEnrolment(brand, "en", typ, id)), e: party(t), path: path,
		sign: newKey(t), exchange: rsaKey(t, 0).Public(),
	}
}

func (m *entity) toForm(t *testing.T, s *server) (*set.EntityForm, error) {
	t.Helper()
	b, err := m.InitReq(m.e, time.Now())
	return m.OpenInitRes(m.e, time.Now(), s.ask(t, m.path, b, err))
}

func (m *entity) register(t *testing.T, s *server, code set.FieldText) (*set.EntityCertificates, error) {
	t.Helper()
	if _, err := m.toForm(t, s); err != nil {
		return nil, err
	}
	b, err := m.CertReq(m.e, time.Now(), []set.FieldText{code}, m.sign, m.exchange)
	return m.OpenCertRes(m.e, time.Now(), s.ask(t, m.path, b, err))
}

// status gives the code of the CA's refusal.
func status(t *testing.T, err error) set.CertStatusCode {
	t.Helper()
	var refusal *set.CertStatusError
	if !errors.As(err, &refusal) {
		t.Fatalf("%v is no refusal", err)
	}
	return refusal.Code
}

// dump gives all that the server has in its database, as text and octets.
func (s *server) dump(t *testing.T) []byte {
	t.Helper()
	var out []byte
	path, ok := strings.CutPrefix(s.dbURL, "sqlite:")
	if !ok {
		t.Fatal("the database is no SQLite file")
	}
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(path + suffix)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		out = append(out, b...)
	}
	return out
}
