package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/cmd/internal/party"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
	"github.com/setkit/setkit/hsm/hsmtest/faults"
	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/gateway"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/set/settest"
	"github.com/setkit/setkit/roles/sethttp"
)

const (
	pan              = "4111111111111111"
	tokenPIN         = "246801357"
	registrationCode = "let-me-in"
)

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// command runs the command in this process.
func command(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errOut bytes.Buffer
	code = cli.Run(ctx, newApp(), append([]string{"set-gateway"}, args...), strings.NewReader(""), &out, &errOut)
	return code, out.String(), errOut.String()
}

// approver is an issuer that approves everything for one account.
type approver struct{ cleared chan *finnet.Clearing }

func (i approver) Authorize(_ context.Context, a *finnet.Authorization) (finnet.Answer, error) {
	if string(a.PAN) != pan {
		return finnet.Answer{Code: finnet.InvalidCard}, nil
	}
	return finnet.Answer{Code: finnet.Approved, ApprovalCode: "OK0001"}, nil
}

func (approver) Verify(context.Context, *finnet.AccountCheck) (finnet.ResponseCode, error) {
	return finnet.DoNotHonour, nil
}

func (approver) Reverse(context.Context, *finnet.Reversal) (finnet.ResponseCode, error) {
	return finnet.Approved, nil
}

func (i approver) Clear(_ context.Context, c *finnet.Clearing) (finnet.ResponseCode, error) {
	i.cleared <- c
	return finnet.Approved, nil
}

func (approver) Refund(context.Context, *finnet.Refund) (finnet.ResponseCode, error) {
	return finnet.InvalidTransaction, nil
}

func (approver) Withdraw(context.Context, *finnet.Withdrawal) (finnet.ResponseCode, error) {
	return finnet.InvalidTransaction, nil
}

func (approver) Reconcile(context.Context, *finnet.Reconciliation) (finnet.Balance, error) {
	return finnet.Balance{Code: finnet.InvalidTransaction}, nil
}

// paymentCA answers a gateway's registration.
type paymentCA struct {
	*settest.World
	ca *set.Endpoint
	t  *testing.T
}

func (p *paymentCA) serve(_ context.Context, request []byte) ([]byte, error) {
	now := time.Now()
	w, err := p.ca.Receive(now, request, set.MeAqCInitReqType, set.CertReqType)
	if err != nil {
		return nil, err
	}
	form := set.RegFormData{Policy: "Guard the token.", RegTemplate: &set.RegTemplate{RegFormID: 1, RegFieldSeq: []set.RegField{
		{FieldName: []set.Text128{"Registration code"}, FieldLen: 32, FieldRequired: true, FieldInvisible: true},
	}}}
	if w.Message.Type() == set.MeAqCInitReqType {
		req, err := p.ca.OpenMeAqCInitReq(w)
		if err != nil {
			return nil, err
		}
		if id := req.IDData.AcquirerID; id == nil || id.AcquirerBIN != settest.AcquirerBIN {
			p.t.Errorf("the CA is told %+v", req.IDData)
		}
		return p.ca.MeAqCInitRes(now, req, set.NewLocalID(), set.NewChallenge(), set.RegFormOrReferral{RegFormData: &form}, nil)
	}
	o, err := p.ca.OpenCertReq(now, w)
	if err != nil {
		return nil, err
	}
	answers, err := o.Answers(form.RegTemplate)
	if err != nil || len(answers) != 1 || string(answers[0]) != registrationCode {
		p.t.Errorf("the form was answered with %d fields, or with another registration code: %v", len(answers), err)
	}
	subject := pki.Name{Country: "CH", Brand: settest.Brand, Unit: "Acquirer", CommonName: "G-0001"}
	sign := p.Issue(p.t, pki.Template{Type: pki.Pgwy, Use: pki.Signature, Subject: subject, PublicKey: o.SignKey})
	exchange := p.Issue(p.t, pki.Template{Type: pki.Pgwy, Use: pki.KeyExchange, Subject: subject, PublicKey: o.ExchangeKey,
		CardCertRequired: true, Tunneling: &pki.Tunneling{Supported: true}})
	return p.ca.CertRes(now, o, o.Data.LIDCA, set.CertStatus{CertStatusCode: set.RequestComplete}, sign, exchange)
}

// lab makes the world that the lab's configuration of the gateway describes, with its token in the
// library at module, and returns its file.
func lab(t *testing.T, w *settest.World, module string) (file, dir string, i approver) {
	t.Helper()
	dir = t.TempDir()
	must[hsm.TokenInfo](t)(hsm.InitToken(t.Context(), module, "gateway", []byte("13579"), []byte(tokenPIN)))
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.Root.X509.Raw})
	if err := os.WriteFile(filepath.Join(dir, "root.pem"), root, 0o600); err != nil {
		t.Fatal(err)
	}
	i = approver{make(chan *finnet.Clearing, 10)}
	host := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- finnet.Serve(ctx, host, i, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	mux := http.NewServeMux()
	ca := &paymentCA{w, w.CA(t, pki.PCA), t}
	mux.Handle("/pca", sethttp.Handler(sethttp.MediaRegistration, slog.New(slog.DiscardHandler), ca.serve))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	for name, value := range map[string]string{
		"SET_PKCS11_MODULE": module, "SET_GATEWAY_PIN": tokenPIN, "SET_GATEWAY_PIN_SOURCE": "env:SET_GATEWAY_PIN",
		"SET_GATEWAY_REGISTRATION_CODE": registrationCode, "SET_GATEWAY_REGISTRATION_CODE_SOURCE": "env:SET_GATEWAY_REGISTRATION_CODE",
		"SET_CA_OUTPUT": dir, "SET_CA_URL": server.URL, "SET_ISSUER_HOST": host.Addr().String(), "SET_GATEWAY_LISTEN": freeAddr(t),
		"SET_GATEWAY_DATABASE": "sqlite:" + filepath.Join(dir, "gateway.db"), "SET_GATEWAY_CERTIFICATES": filepath.Join(dir, "gateway.pem"),
	} {
		t.Setenv(name, value)
	}
	// The world of this test has another brand, and no lists of revoked certificates.
	text := must[[]byte](t)(os.ReadFile("../../testdata/config/gateway.yaml"))
	text = regexp.MustCompile(`(?m)^  (crls|bcis): .*$`).ReplaceAll(text, nil)
	text = bytes.ReplaceAll(text, []byte("brand: Meridian"), []byte("brand: "+settest.Brand))
	file = filepath.Join(dir, "gateway.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file, dir, i
}

func freeAddr(t *testing.T) string {
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	defer l.Close()
	return l.Addr().String()
}

// TestGateway enrolls a gateway, serves, buys something there, and lists it.
func TestGateway(t *testing.T) {
	w := settest.NewWorld(t)
	file, dir, bank := lab(t, w, hsmtest.New(t).ModulePath)
	if code, _, stderr := command(t.Context(), "serve", "--config", file); code != 1 || !strings.Contains(stderr, "gateway.pem") {
		t.Errorf("serve before enroll: %d %s", code, stderr)
	}
	code, stdout, stderr := command(t.Context(), "enroll", "--config", file)
	if code != 0 || !strings.Contains(stdout, "Guard the token.") {
		t.Fatalf("enroll: %d\n%s%s", code, stdout, stderr)
	}
	if strings.Contains(stdout+stderr, registrationCode) || strings.Contains(stdout+stderr, tokenPIN) {
		t.Error("enroll prints a secret")
	}
	certificates := must[[]byte](t)(os.ReadFile(filepath.Join(dir, "gateway.pem")))
	if code, _, _ := command(t.Context(), "enroll", "--config", file); code != 1 {
		t.Errorf("enroll over certificates that exist: exit code %d, want 1", code)
	}
	if !bytes.Equal(certificates, must[[]byte](t)(os.ReadFile(filepath.Join(dir, "gateway.pem")))) {
		t.Error("certificates were overwritten")
	}
	checkKeys(t)

	url, stop, ended := startServe(t, file)
	buy(t, w, url, filepath.Join(dir, "gateway.pem"))
	select {
	case c := <-bank.cleared:
		if c.ApprovalCode != "OK0001" {
			t.Errorf("cleared %+v", c)
		}
	case <-time.After(10 * time.Second):
		t.Error("the capture was not cleared")
	}
	// The issuer has it before the gateway has written down that it does.
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, stdout, _ := command(t.Context(), "transactions", "--config", file, "--json"); strings.Contains(stdout, `"acknowledged"`) {
			break
		}
	}
	stop()
	if got := <-ended; got.code != 0 || strings.Contains(got.stderr, pan) {
		t.Errorf("serve: %d\n%s", got.code, got.stderr)
	}

	code, stdout, stderr = command(t.Context(), "transactions", "--config", file, "--json")
	var list []gateway.Transaction
	if err := json.Unmarshal([]byte(stdout), &list); code != 0 || err != nil || len(list) != 1 {
		t.Fatalf("transactions: %d %v\n%s%s", code, err, stdout, stderr)
	}
	if got := list[0]; got.Card != "**** 1111" || got.State != "captured" || got.Issuer != "acknowledged" || got.Captured != "42.50 USD" {
		t.Errorf("transaction %+v", got)
	}
	if code, stdout, _ = command(t.Context(), "transactions", "--config", file); code != 0 || !strings.Contains(stdout, list[0].RRN) {
		t.Errorf("transactions as a table: %d\n%s", code, stdout)
	}
}

// TestRenewal renews twice while the gateway serves: it goes on with the new keys without a restart, and opens what
// was made for each of the former ones, also after a restart.
func TestRenewal(t *testing.T) {
	w := settest.NewWorld(t)
	file, dir, _ := lab(t, w, hsmtest.New(t).ModulePath)
	certificates := filepath.Join(dir, "gateway.pem")
	if code, _, stderr := command(t.Context(), "enroll", "--config", file); code != 0 {
		t.Fatalf("enroll: %d\n%s", code, stderr)
	}
	url, stop, ended := startServe(t, file)
	plan := startPlan(t, w, certificates)
	plan.pay(t, url)
	for range 2 {
		before := must[*party.Holder](t)(party.ReadHolder(certificates, pki.Pgwy))
		if code, _, stderr := command(t.Context(), "enroll", "--config", file, "--renew"); code != 0 {
			t.Fatalf("enroll --renew: %d\n%s", code, stderr)
		}
		now := must[*party.Holder](t)(party.ReadHolder(certificates, pki.Pgwy))
		if now.Exchange.Thumbprint() == before.Exchange.Thumbprint() {
			t.Fatal("the certificate is still the former one")
		}
		plan.sale.GatewayCert = now.Exchange.X509.Raw
		for end := time.Now().Add(30 * time.Second); plan.offered(t, url) != now.Exchange.Thumbprint(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("30 s after the renewal the gateway still has its former certificate")
			}
		}
		plan.pay(t, url)
	}
	buy(t, w, url, certificates)
	stop()
	if got := <-ended; got.code != 0 || strings.Count(got.stderr, "renewed certificates are in use") != 2 {
		t.Errorf("serve: %d\n%s", got.code, got.stderr)
	}
	url, stop, ended = startServe(t, file)
	for i := range plan.made {
		plan.capture(t, url, i)
	}
	stop()
	if got := <-ended; got.code != 0 {
		t.Errorf("serve: %d\n%s", got.code, got.stderr)
	}
}

// plan is a purchase in three instalments.
type plan struct {
	sale     *set.Sale
	merchant *set.Endpoint
	token    []byte // for the next
	made     []set.RRPID
	tokens   [][]byte // of these, for their captures
}

var instalment = set.CurrencyAmount{Currency: 840, Amount: 1000, AmtExp10: -2}

func startPlan(t *testing.T, w *settest.World, certificates string) *plan {
	t.Helper()
	p := &plan{merchant: w.Merchant(t, settest.MerchantID)}
	p.sale = taken(t, w, p.merchant, certificates, set.Instalments(3))
	return p
}

// pay has the gateway authorize the next instalment.
func (p *plan) pay(t *testing.T, url string) {
	t.Helper()
	r := set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: instalment, AuthToken: p.token}
	res := post(t, url, must[[]byte](t)(p.sale.AuthReq(p.merchant, time.Now(), r)))
	a := must[*set.Authorized](t)(p.sale.OpenAuthRes(p.merchant, time.Now(), r, res))
	if a.Header.AuthCode != set.AuthApproved {
		t.Fatalf("instalment %d: %v", len(p.made)+1, a.Header.AuthCode)
	}
	p.token, p.made, p.tokens = a.AuthToken, append(p.made, r.RRPID), append(p.tokens, a.CapToken)
}

func (p *plan) capture(t *testing.T, url string, i int) {
	t.Helper()
	c := &set.CaptureRequest{RRPID: set.NewRRPID(), GatewayCert: p.sale.GatewayCert, Items: []set.Capture{{
		TransIDs: p.sale.TransIDs, AuthRRPID: p.made[i], CapToken: p.tokens[i], Payload: set.CapPayload{CapDate: time.Now(), CapReqAmt: instalment},
	}}}
	res := post(t, url, must[[]byte](t)(p.merchant.CapReq(time.Now(), c)))
	if got := must[*set.CapResData](t)(p.merchant.OpenCapRes(time.Now(), c, res)).CapResItemSeq[0].CapResPayload; got.CapCode != set.CapSuccess {
		t.Errorf("capture of instalment %d: %v", i+1, got.CapCode)
	}
}

// offered asks the gateway which certificate it has.
func (p *plan) offered(t *testing.T, url string) pki.Digest {
	t.Helper()
	r := &set.GatewayCertRequest{RRPID: set.NewRRPID(), Brands: []set.BrandAndBIN{{BrandID: settest.Brand}}}
	res := post(t, url, must[[]byte](t)(p.merchant.PCertReq(time.Now(), r)))
	return must[*set.GatewayCerts](t)(p.merchant.OpenPCertRes(time.Now(), r, res)).Items[0].Certificate.Thumbprint()
}

func post(t *testing.T, url string, request []byte) []byte {
	t.Helper()
	return must[[]byte](t)((&sethttp.Client{Tries: 1}).Post(t.Context(), url, sethttp.MediaPayment, request))
}

// TestHSMRestarts buys while the gateway's HSM loses sessions, logins and power, without a restart of
// the gateway.
func TestHSMRestarts(t *testing.T) {
	w := settest.NewWorld(t)
	module := faults.New(t)
	file, dir, _ := lab(t, w, module.ModulePath)
	if code, _, stderr := command(t.Context(), "enroll", "--config", file); code != 0 {
		t.Fatalf("enroll: %d\n%s", code, stderr)
	}
	url, stop, ended := startServe(t, file)
	certificates := filepath.Join(dir, "gateway.pem")
	buy(t, w, url, certificates)
	for name, lose := range map[string]func(){
		"sessions closed": module.CloseSessions, "logged out": module.LogOut, "library finalised": module.Finalize,
		"device error": func() { module.Fail(faults.Decrypt, pkcs11DeviceError, 2) },
	} {
		before := module.Faults()
		lose()
		buy(t, w, url, certificates)
		if module.Faults() == before {
			t.Errorf("%s: the purchase met no fault", name)
		}
	}
	module.Pull()
	waitReady(t, url, false)
	module.Plug()
	waitReady(t, url, true)
	buy(t, w, url, certificates)
	stop()
	got := <-ended
	for _, want := range []string{`"msg":"HSM lost","token":"gateway"`, `"msg":"HSM is back","token":"gateway"`} {
		if !strings.Contains(got.stderr, want) {
			t.Errorf("the log lacks %s:\n%s", want, got.stderr)
		}
	}
	if got.code != 0 || strings.Contains(got.stderr, tokenPIN) {
		t.Errorf("serve: %d\n%s", got.code, got.stderr)
	}
}

const pkcs11DeviceError = 0x30 // CKR_DEVICE_ERROR

type served struct {
	code   int
	stderr string
}

// startServe serves until stop is called or the test ends.
func startServe(t *testing.T, file string) (url string, stop func(), ended chan served) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended = make(chan served, 1)
	go func() {
		code, _, stderr := command(ctx, "serve", "--config", file)
		ended <- served{code, stderr}
	}()
	url = "http://" + os.Getenv("SET_GATEWAY_LISTEN")
	for end := time.Now().Add(20 * time.Second); !isReady(url); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) || len(ended) > 0 {
			stop()
			t.Fatalf("not ready: %+v", <-ended)
		}
	}
	return url, stop, ended
}

func waitReady(t *testing.T, url string, want bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); isReady(url) != want; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("ready is not %t within 20 s", want)
		}
	}
}

func isReady(url string) bool {
	res, err := http.Get(url + "/readyz")
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// checkKeys reads from the token what its keys may do.
func checkKeys(t *testing.T) {
	t.Helper()
	ring := keyring.New(strings.NewReader(""), io.Discard)
	defer ring.Close()
	token := must[*hsm.Token](t)(ring.Token(t.Context(),
		"pkcs11:token=gateway?module-path="+os.Getenv("SET_PKCS11_MODULE")+"&pin-source=env:SET_GATEWAY_PIN"))
	var got []string
	for _, k := range must[[]hsm.KeyInfo](t)(token.Keys(t.Context())) {
		got = append(got, fmt.Sprintf("%s %s %s %t %t", k.Label, k.Type, k.Purpose, k.Sensitive, k.Extractable))
	}
	want := "key-exchange rsa-2048 key-exchange true false, pan-seal aes-256 seal true false, sign ec-p256 sign true false"
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("keys of the token: %s\nwant %s", s, want)
	}
}

var price = set.CurrencyAmount{Currency: 840, Amount: 4250, AmtExp10: -2}

// taken is a purchase that a merchant has taken, for the gateway with these certificates.
func taken(t *testing.T, w *settest.World, merchant *set.Endpoint, certificates string, terms *set.InstallRecurData) *set.Sale {
	t.Helper()
	h := must[*party.Holder](t)(party.ReadHolder(certificates, pki.Pgwy))
	card, now := w.Card(t, pan), time.Now()
	sale := &set.Sale{OD: []byte("1 x Pencil"), PurchAmt: price, LIDM: set.NewLocalID(), InstallRecurData: terms}
	p := must[*set.Purchase](t)(set.NewPurchase(&set.Initiation{PurchAmt: &price, Brands: []set.BrandID{settest.Brand},
		LIDM: sale.LIDM, Order: sale.OD}, settest.Brand, settest.AcquirerBIN, "en"))
	p.InstallRecurData = terms
	msg := must[*set.MessageWrapper](t)(merchant.Receive(now, must[[]byte](t)(p.InitReq(card.Endpoint, now)), set.PInitReqType))
	init := must[*set.PInitReq](t)(msg.OpenPInitReq())
	must[*set.Offer](t)(p.OpenInitRes(card.Endpoint, now, must[[]byte](t)(sale.InitRes(merchant, now, init, h.Exchange, h.Chain))))
	msg = must[*set.MessageWrapper](t)(merchant.Receive(now, must[[]byte](t)(p.Request(card.Endpoint, now, &card.Account)), set.PReqType))
	if err := sale.Take(must[*set.OpenedPReq](t)(merchant.OpenPReq(now, msg))); err != nil {
		t.Fatal(err)
	}
	return sale
}

// buy makes a purchase, has it authorized by the gateway at url, and captures it.
func buy(t *testing.T, w *settest.World, url, certificates string) {
	t.Helper()
	merchant, now := w.Merchant(t, settest.MerchantID), time.Now()
	sale := taken(t, w, merchant, certificates, nil)
	a := set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: price}
	res := post(t, url, must[[]byte](t)(sale.AuthReq(merchant, now, a)))
	authorized := must[*set.Authorized](t)(sale.OpenAuthRes(merchant, time.Now(), a, res))
	if authorized.Header.AuthCode != set.AuthApproved {
		t.Fatalf("authorization: %v", authorized.Header.AuthCode)
	}
	c := &set.CaptureRequest{RRPID: set.NewRRPID(), GatewayCert: sale.GatewayCert, Items: []set.Capture{{
		TransIDs: sale.TransIDs, AuthRRPID: a.RRPID, CapToken: authorized.CapToken,
		Payload: set.CapPayload{CapDate: now, CapReqAmt: price},
	}}}
	res = post(t, url, must[[]byte](t)(merchant.CapReq(now, c)))
	if got := must[*set.CapResData](t)(merchant.OpenCapRes(time.Now(), c, res)).CapResItemSeq[0].CapResPayload; got.CapCode != set.CapSuccess {
		t.Errorf("capture: %v", got.CapCode)
	}
}

func TestUsage(t *testing.T) {
	w := settest.NewWorld(t)
	file, dir, _ := lab(t, w, hsmtest.New(t).ModulePath)
	good := string(must[[]byte](t)(os.ReadFile(file)))
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	unknown := write("unknown.yaml", good+"\nlisten-on: x\n")
	bin := write("bin.yaml", strings.Replace(good, `"411111"`, `"41111"`, 1))
	missing := write("missing.yaml", strings.Replace(good, "issuer: \"${SET_ISSUER_HOST}\"", "", 1))
	noToken := write("token.yaml", strings.ReplaceAll(good, "token=gateway", "token=nobody"))
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{2, "config", []string{"serve"}},
		{2, "listen-on", []string{"serve", "--config", unknown}},
		{2, "acquirer-bin", []string{"serve", "--config", bin}},
		{2, "issuer is missing", []string{"enroll", "--config", missing}},
		{2, "unexpected argument", []string{"serve", "--config", file, "now"}},
		{2, "--limit", []string{"transactions", "--config", file, "--limit", "0"}},
		{3, "nobody", []string{"enroll", "--config", noToken}},
	} {
		code, stdout, stderr := command(t.Context(), c.args...)
		if code != c.code || !strings.Contains(stderr, c.says) {
			t.Errorf("%v: exit code %d, want %d and %q\n%s%s", c.args, code, c.code, c.says, stdout, stderr)
		}
	}
	t.Setenv("SET_CA_URL", "http://127.0.0.1:1")
	if code, _, stderr := command(t.Context(), "enroll", "--config", file); code != 4 {
		t.Errorf("enroll without CA: exit code %d, want 4\n%s", code, stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "gateway.pem")); !os.IsNotExist(err) {
		t.Error("enroll left a file of certificates behind")
	}
}
