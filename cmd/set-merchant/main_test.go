package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/set/settest"
	"github.com/setkit/setkit/roles/sethttp"
)

const (
	pan              = "4111111111111111"
	tokenPIN         = "246801357"
	registrationCode = "let-me-in"
	apiToken         = "a token that nobody guesses"
	officePassword   = "a password of the office"
	eventually       = 20 * time.Second
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
	code = cli.Run(ctx, newApp(), append([]string{"set-merchant"}, args...), strings.NewReader(""), &out, &errOut)
	return code, out.String(), errOut.String()
}

// acquire is a gateway that approves and captures everything.
func acquire(e *set.Endpoint) sethttp.Serve {
	return func(_ context.Context, request []byte) ([]byte, error) {
		now := time.Now()
		w, err := e.Receive(now, request, set.AuthReqType, set.CapReqType)
		if err != nil {
			return nil, err
		}
		if w.Message.CapReq != nil {
			o, err := e.OpenCapReq(now, w)
			if err != nil {
				return nil, err
			}
			return e.CapRes(now, o, []set.CapResPayload{{CapCode: o.Items[0].Code, CapAmt: o.Items[0].Item.CapPayload.CapReqAmt}})
		}
		o, err := e.OpenAuthReq(now, w)
		if err != nil {
			return nil, err
		}
		defer o.Clear()
		if o.Refusal != nil {
			return nil, errors.New("refused: " + o.Refusal.String())
		}
		return e.AuthRes(now, o, set.Authorization{Amount: o.Data.AuthReqItem.AuthReqPayload.AuthReqAmt, ApprovalCode: "OK0001"})
	}
}

// merchantCA answers a merchant's registration.
type merchantCA struct {
	*settest.World
	ca *set.Endpoint
	t  *testing.T
}

func (p *merchantCA) serve(_ context.Context, request []byte) ([]byte, error) {
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
		if id := req.IDData.MerchantAcquirerID; id == nil || id.MerchantBIN != settest.AcquirerBIN || id.MerchantID != settest.MerchantID {
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
	template := pki.Template{
		Type: pki.Mer, Use: pki.Signature, PublicKey: o.SignKey,
		Subject: pki.Name{Country: "CH", Brand: settest.Brand, Unit: "Acquirer", CommonName: "Harbour Books"},
		Merchant: &pki.MerchantData{MerchantID: settest.MerchantID, AcquirerBIN: settest.AcquirerBIN, Country: 756,
			Names: []pki.MerchantNames{{Language: "en", Name: "Harbour Books", City: "Bern", CountryName: "Switzerland"}}},
	}
	sign := p.Issue(p.t, template)
	template.Use, template.PublicKey = pki.KeyExchange, o.ExchangeKey
	return p.ca.CertRes(now, o, o.Data.LIDCA, set.CertStatus{CertStatusCode: set.RequestComplete}, sign, p.Issue(p.t, template))
}

func writePEM(t *testing.T, path string, certs ...*pki.Certificate) {
	t.Helper()
	var b bytes.Buffer
	for _, c := range certs {
		if err := pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.X509.Raw}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// lab makes the world that the lab's configuration of the merchant describes, and returns its file.
func lab(t *testing.T, w *settest.World) (file, dir string) {
	t.Helper()
	dir = t.TempDir()
	token := hsmtest.New(t) // brings its library's configuration
	must[hsm.TokenInfo](t)(hsm.InitToken(t.Context(), token.ModulePath, "merchant", []byte("13579"), []byte(tokenPIN)))
	gateway := w.Gateway(t, "G-0001")
	writePEM(t, filepath.Join(dir, "root.pem"), w.Root)
	writePEM(t, filepath.Join(dir, "gateway.pem"), append([]*pki.Certificate{gateway.SignCert, gateway.ExchangeCert}, gateway.Chain...)...)
	mux := http.NewServeMux()
	ca := &merchantCA{w, w.CA(t, pki.MCA), t}
	mux.Handle("/mca", sethttp.Handler(sethttp.MediaRegistration, slog.New(slog.DiscardHandler), ca.serve))
	mux.Handle("/gateway", sethttp.Handler(sethttp.MediaPayment, slog.New(slog.DiscardHandler), acquire(gateway)))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	listen, office := freeAddr(t), freeAddr(t)
	for name, value := range map[string]string{
		"SET_PKCS11_MODULE": token.ModulePath, "SET_MERCHANT_PIN": tokenPIN, "SET_MERCHANT_PIN_SOURCE": "env:SET_MERCHANT_PIN",
		"SET_MERCHANT_REGISTRATION_CODE": registrationCode, "SET_MERCHANT_REGISTRATION_CODE_SOURCE": "env:SET_MERCHANT_REGISTRATION_CODE",
		"SET_CA_OUTPUT": dir, "SET_CA_URL": server.URL, "SET_MERCHANT_LISTEN": listen, "SET_MERCHANT_URL": "http://" + listen,
		"SET_MERCHANT_DATABASE": "sqlite:" + filepath.Join(dir, "merchant.db"), "SET_MERCHANT_CERTIFICATES": filepath.Join(dir, "merchant.pem"),
		"SET_MERCHANT_OFFICE_LISTEN": office, "SET_MERCHANT_OFFICE_URL": "http://" + office, "SET_MERCHANT_OPERATORS": filepath.Join(dir, "operators.yaml"),
		"SET_MERCHANT_API_TOKEN": apiToken, "SET_MERCHANT_API_TOKEN_SOURCE": "env:SET_MERCHANT_API_TOKEN",
		"SET_MERCHANT_CATALOGUE": must[string](t)(filepath.Abs("../../testdata/catalogue.yaml")),
		"SET_GATEWAY_URL":        server.URL + "/gateway", "SET_GATEWAY_CERTIFICATES": filepath.Join(dir, "gateway.pem"),
	} {
		t.Setenv(name, value)
	}
	// The world of this test has another brand, and no lists of revoked certificates.
	text := must[[]byte](t)(os.ReadFile("../../testdata/config/merchant.yaml"))
	text = regexp.MustCompile(`(?m)^  (crls|bcis): .*$`).ReplaceAll(text, nil)
	text = bytes.ReplaceAll(text, []byte("brand: Meridian"), []byte("brand: "+settest.Brand))
	text = bytes.ReplaceAll(text, []byte("capture: immediate"), []byte("capture: manual"))
	file = filepath.Join(dir, "merchant.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file, dir
}

func freeAddr(t *testing.T) string {
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	defer l.Close()
	return l.Addr().String()
}

func poll(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(eventually); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v it is still not true that %s", eventually, what)
		}
	}
}

// TestMerchant enrolls a merchant, serves, buys something there, captures and lists it.
func TestMerchant(t *testing.T) {
	w := settest.NewWorld(t)
	file, dir := lab(t, w)
	if code, _, stderr := command(t.Context(), "serve", "--config", file); code != 1 || !strings.Contains(stderr, "merchant.pem") {
		t.Errorf("serve before enroll: %d %s", code, stderr)
	}
	code, stdout, stderr := command(t.Context(), "enroll", "--config", file)
	if code != 0 || !strings.Contains(stdout, "Guard the token.") {
		t.Fatalf("enroll: %d\n%s%s", code, stdout, stderr)
	}
	if strings.Contains(stdout+stderr, registrationCode) || strings.Contains(stdout+stderr, tokenPIN) {
		t.Error("enroll prints a secret")
	}
	certificates := must[[]byte](t)(os.ReadFile(filepath.Join(dir, "merchant.pem")))
	if code, _, _ := command(t.Context(), "enroll", "--config", file); code != 1 {
		t.Errorf("enroll over certificates that exist: exit code %d, want 1", code)
	}
	if !bytes.Equal(certificates, must[[]byte](t)(os.ReadFile(filepath.Join(dir, "merchant.pem")))) {
		t.Error("certificates were overwritten")
	}
	checkKeys(t)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	type result struct {
		code   int
		stderr string
	}
	ended := make(chan result, 1)
	go func() {
		code, _, stderr := command(ctx, "serve", "--config", file)
		ended <- result{code, stderr}
	}()
	url := os.Getenv("SET_MERCHANT_URL")
	poll(t, "the merchant is ready", func() bool {
		if len(ended) > 0 {
			t.Fatalf("serve: %+v", <-ended)
		}
		return isReady(url)
	})
	id := buy(t, w, url)
	checkOffice(t, file, id)
	number := operate(t, file, id)
	var list []merchant.Order
	poll(t, "the order is captured", func() bool {
		code, stdout, stderr := command(t.Context(), "orders", "--config", file, "--json")
		if err := json.Unmarshal([]byte(stdout), &list); code != 0 || err != nil || len(list) != 1 {
			t.Fatalf("orders: %d %v\n%s%s", code, err, stdout, stderr)
		}
		return list[0].State == merchant.OrderCaptured
	})
	if p := list[0].Payment; p.AuthCode != "approved" || p.ApprovalCode != "OK0001" || list[0].Total != "4.50 USD" {
		t.Errorf("order %+v, payment %+v", list[0], p)
	}
	if code, stdout, _ = command(t.Context(), "orders", "--config", file); code != 0 || !regexp.MustCompile(number+` .* captured +4\.50 +4\.50 +0\.00`).MatchString(stdout) {
		t.Errorf("orders as a table: %d\n%s", code, stdout)
	}
	for line := range strings.Lines(stdout) {
		if len(line) > 120 {
			t.Errorf("a line of %d columns: %s", len(line), line)
		}
	}
	if code, _, stderr := command(t.Context(), "capture", "--config", file, number); code != 1 || !strings.Contains(stderr, "what can be done: void, refund") {
		t.Errorf("second capture: %d %s", code, stderr)
	}
	// A gateway that does not answer this.
	if code, stdout, stderr := command(t.Context(), "refund", "--config", file, "--wait", "1s", "--json", number); code != 4 || !strings.Contains(stdout, `"pending"`) {
		t.Errorf("refund without an answer: %d %s%s", code, stdout, stderr)
	}
	if code, _, stderr := command(t.Context(), "void", "--config", file, number); code != 1 || !strings.Contains(stderr, "refund) still waits") {
		t.Errorf("void while the refund waits: %d %s", code, stderr)
	}
	if code, stdout, _ := command(t.Context(), "batch", "show", "--config", file, "--wait", "0s"); code != 0 || !strings.Contains(stdout, "asked: operation") {
		t.Errorf("batch show without waiting: %d %s", code, stdout)
	}
	stop()
	if got := <-ended; got.code != 0 || strings.Contains(got.stderr, pan) {
		t.Errorf("serve: %d\n%s", got.code, got.stderr)
	}
}

// operate has an authorized order captured by commands, and gives its number.
func operate(t *testing.T, file, id string) string {
	t.Helper()
	run := func(wantCode int, wantText string, args ...string) string {
		t.Helper()
		code, stdout, stderr := command(t.Context(), append(args[:1:1], append([]string{"--config", file}, args[1:]...)...)...)
		if code != wantCode || !strings.Contains(stdout+stderr, wantText) {
			t.Errorf("%v: exit code %d, want %d and %q\n%s%s", args, code, wantCode, wantText, stdout, stderr)
		}
		return stdout
	}
	var list []merchant.Order
	if err := json.Unmarshal([]byte(run(0, id, "orders", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	number := fmt.Sprint(list[0].Number)
	run(1, "4.51 USD is more than the 4.50 USD that are left", "capture", "--amount", "4.51", number)
	run(2, "at most 2 decimal places", "capture", "--amount", "4.505", number)
	run(1, "want less than the 4.50 USD", "reverse", "--to", "4.50", number)
	run(1, "not ordered in several shipments", "ship", "--amount", "1", number)
	run(1, "not paid in instalments", "charge", id)
	run(1, "nothing is captured", "refund", number)
	run(1, "no refund that stands", "undo-refund", number)
	if out := run(0, "success", "capture", number); !strings.Contains(out, number+"   capture    4.50 USD  success") {
		t.Errorf("capture prints\n%s", out)
	}
	run(0, "nothing is authorized that is not captured", "capture", "--all")
	return number
}

// checkOffice has an operator let in, see the order, and taken off the list.
func checkOffice(t *testing.T, file, id string) {
	t.Helper()
	t.Setenv("OFFICE_PASSWORD", officePassword)
	if code, stdout, stderr := command(t.Context(), "operator", "add", "--config", file, "--password-source", "env:OFFICE_PASSWORD", "anna"); code != 0 || !strings.Contains(stdout, "anna may use http://") {
		t.Fatalf("operator add: %d %s%s", code, stdout, stderr)
	}
	stored := must[[]byte](t)(os.ReadFile(os.Getenv("SET_MERCHANT_OPERATORS")))
	if info := must[os.FileInfo](t)(os.Stat(os.Getenv("SET_MERCHANT_OPERATORS"))); bytes.Contains(stored, []byte(officePassword)) || info.Mode().Perm() != 0o600 {
		t.Errorf("the operators are stored with mode %v as\n%s", info.Mode(), stored)
	}
	if code, stdout, _ := command(t.Context(), "operator", "list", "--config", file, "--json"); code != 0 || strings.TrimSpace(stdout) != "[\n  \"anna\"\n]" {
		t.Errorf("operator list: %d %s", code, stdout)
	}
	t.Setenv("OFFICE_PASSWORD", "short")
	if code, _, stderr := command(t.Context(), "operator", "add", "--config", file, "--password-source", "env:OFFICE_PASSWORD", "bert"); code != 2 || strings.Contains(stderr, "short") {
		t.Errorf("operator add with a short password: %d %s", code, stderr)
	}
	jar := must[*cookiejar.Jar](t)(cookiejar.New(nil))
	client := &http.Client{Jar: jar}
	look := func(res *http.Response, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		return string(must[[]byte](t)(io.ReadAll(res.Body)))
	}
	office := os.Getenv("SET_MERCHANT_OFFICE_URL")
	if page := look(client.PostForm(office+"/login", map[string][]string{"name": {"anna"}, "password": {officePassword}})); !strings.Contains(page, "Log out (anna)") || !strings.Contains(page, ">1001<") {
		t.Errorf("the back office shows an operator\n%s", page)
	}
	if code, _, stderr := command(t.Context(), "operator", "remove", "--config", file, "anna"); code != 0 {
		t.Errorf("operator remove: %d %s", code, stderr)
	}
	if page := look(client.Get(office)); strings.Contains(page, "1001") || !strings.Contains(page, "<h1>Log in</h1>") {
		t.Errorf("the back office shows somebody taken off the list\n%s", page)
	}
	if code, _, _ := command(t.Context(), "operator", "remove", "--config", file, "anna"); code != 1 {
		t.Errorf("operator remove of nobody: exit code %d, want 1", code)
	}
	if page := look(client.Get(os.Getenv("SET_MERCHANT_URL") + "/orders/" + id)); !strings.Contains(page, "Notebook, 96 pages, squared") {
		t.Errorf("the shop's page of the order:\n%s", page)
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
		"pkcs11:token=merchant?module-path="+os.Getenv("SET_PKCS11_MODULE")+"&pin-source=env:SET_MERCHANT_PIN"))
	var got []string
	for _, k := range must[[]hsm.KeyInfo](t)(token.Keys(t.Context())) {
		got = append(got, fmt.Sprintf("%s %s %s %t %t", k.Label, k.Type, k.Purpose, k.Sensitive, k.Extractable))
	}
	want := "key-exchange rsa-2048 key-exchange true false, sign ec-p256 sign true false"
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("keys of the token: %s\nwant %s", s, want)
	}
}

// buy orders a notebook at the shop and pays it, and gives the order's id.
func buy(t *testing.T, w *settest.World, url string) string {
	t.Helper()
	req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/api/v1/orders",
		strings.NewReader(`{"currency": "USD", "lines": [{"item": "notebook", "quantity": 1}]}`)))
	req.Header.Set("Authorization", "Bearer "+apiToken)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", "first")
	res := must[*http.Response](t)(http.DefaultClient.Do(req))
	defer res.Body.Close()
	var order merchant.Order
	if err := json.NewDecoder(res.Body).Decode(&order); err != nil {
		t.Fatal(err)
	}
	res = must[*http.Response](t)(http.Get(url + "/orders/" + order.ID + "/pay"))
	defer res.Body.Close()
	init := must[*set.Initiation](t)(set.ParseInitiation(must[[]byte](t)(io.ReadAll(res.Body))))
	card := w.Card(t, pan)
	p := must[*set.Purchase](t)(set.NewPurchase(init, settest.Brand, set.BIN(pan[:6]), "en"))
	client := &sethttp.Client{Tries: 1}
	post := func(b []byte, err error) []byte {
		return must[[]byte](t)(client.Post(t.Context(), init.SETURL, sethttp.MediaPayment, must[[]byte](t)(b, err)))
	}
	offer := must[*set.Offer](t)(p.OpenInitRes(card.Endpoint, time.Now(), post(p.InitReq(card.Endpoint, time.Now()))))
	if got := offer.Merchant.Merchant.Names[0].Name; got != "Harbour Books" {
		t.Errorf("merchant shown as %q", got)
	}
	data := must[*set.PResData](t)(p.OpenResponse(card.Endpoint, time.Now(), post(p.Request(card.Endpoint, time.Now(), &card.Account))))
	if got := data.PResPayloadSeq[0]; got.CompletionCode != set.AuthorizationPerformed || got.Results.AuthStatus.AuthCode != set.AuthApproved {
		t.Fatalf("payment %+v", got)
	}
	return order.ID
}

func TestUsage(t *testing.T) {
	w := settest.NewWorld(t)
	file, dir := lab(t, w)
	good := string(must[[]byte](t)(os.ReadFile(file)))
	with := func(name, old, new string) string {
		path := filepath.Join(dir, name+".yaml")
		if err := os.WriteFile(path, []byte(strings.Replace(good, old, new, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{2, "config", []string{"serve"}},
		{2, "listen-on", []string{"serve", "--config", with("unknown", "listen:", "listen-on: x\nlisten:")}},
		{2, "acquirer-bin", []string{"serve", "--config", with("bin", `"411111"`, `"41111"`)}},
		{2, "merchant-category", []string{"serve", "--config", with("mcc", `"5942"`, `"594"`)}},
		{2, "immediate, manual or sale", []string{"serve", "--config", with("capture", "capture: manual", "capture: later")}},
		{2, "merchant-id is missing", []string{"enroll", "--config", with("id", "merchant-id: M-0001", "")}},
		{2, "certificates and url", []string{"enroll", "--config", with("gateway", `url: "${SET_GATEWAY_URL}"`, "")}},
		{2, "unexpected argument", []string{"orders", "--config", file, "now"}},
		{2, "want one ORDER", []string{"capture", "--config", file}},
		{2, "after the flags", []string{"capture", "--config", file, "1001", "--amount", "1.00"}},
		{1, "no such order", []string{"capture", "--config", file, "X"}},
		{1, "no such order", []string{"void", "--config", file, "1001"}},
		{2, "--all is of all orders", []string{"capture", "--config", file, "--all", "1001"}},
		{2, "to", []string{"reverse", "--config", file, "1001"}},
		{2, "amount", []string{"ship", "--config", file, "1001"}},
		{2, "--batch is missing", []string{"batch", "close", "--config", file}},
		{2, "unexpected argument", []string{"batch", "show", "--config", file, "7"}},
		{2, "needs a command", []string{"batch"}},
		{3, "nobody", []string{"enroll", "--config", with("token", "token=merchant", "token=nobody")}},
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
	if _, err := os.Stat(filepath.Join(dir, "merchant.pem")); !os.IsNotExist(err) {
		t.Error("enroll left a file of certificates behind")
	}
}
