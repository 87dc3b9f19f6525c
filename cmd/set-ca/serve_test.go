package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/party"
	"github.com/setkit/setkit/hsm/hsmtest"
	"github.com/setkit/setkit/roles/ca"
	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sethttp"
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

// output is what a running command writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// bank is an issuer host with one cardholder.
type bank struct{ finnet.Host }

func (bank) Verify(_ context.Context, a *finnet.AccountCheck) (finnet.ResponseCode, error) {
	if string(a.PAN) == "4111111111111111" && a.Holder == "Alice Andersen" && string(a.Secret) == "tulip-harbour-41" {
		return finnet.Approved, nil
	}
	return finnet.DoNotHonour, nil
}

// lab is the CA's configuration in a directory, on tokens that last as long as the test.
type lab struct {
	dir                    string
	ceremony, bindings, ca string // configuration files
}

var tokenURI = regexp.MustCompile(`pkcs11:token=([a-z-]+)(;object=[a-z-]+)?\?[^"]*`)

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{dir: t.TempDir()}
	issuer := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- finnet.Serve(ctx, issuer, bank{}, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	tokens := make(map[string]*hsmtest.Token)
	values := strings.NewReplacer(
		"ec-p384", "ec-p256", // which is faster under the race detector
		"${SET_CA_OUTPUT}", filepath.Join(l.dir, "out"), "${SET_CA_LISTEN}", "127.0.0.1:0", "${SET_ISSUER_HOST}", issuer.Addr().String(),
		"${SET_CA_DATABASE}", "sqlite:"+filepath.Join(l.dir, "ca.db"),
		"${SET_MERCHANT_REGISTRATION_CODE_SOURCE}", "file:"+l.write(t, "code", "otter-lantern-558"),
		"${SET_GATEWAY_REGISTRATION_CODE_SOURCE}", "file:"+l.write(t, "code2", "birch-compass-902"),
	)
	config := func(name string) string {
		text := values.Replace(string(must[[]byte](t)(os.ReadFile(filepath.Join("../../testdata", name)))))
		text = tokenURI.ReplaceAllStringFunc(text, func(uri string) string {
			part := tokenURI.FindStringSubmatch(uri)
			if tokens[part[1]] == nil {
				tokens[part[1]] = hsmtest.New(t)
			}
			if label, ok := strings.CutPrefix(part[2], ";object="); ok {
				return tokens[part[1]].KeyURI(label)
			}
			return tokens[part[1]].URI
		})
		return l.write(t, filepath.Base(name), text)
	}
	l.ceremony, l.bindings, l.ca = config("ceremony/lab.yaml"), config("ceremony/lab-bindings.yaml"), config("config/ca.yaml")
	return l
}

func (l *lab) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(l.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func command(ctx context.Context, stdout, stderr io.Writer, args ...string) int {
	return cli.Run(ctx, app(), append([]string{"set-ca"}, args...), strings.NewReader(""), stdout, stderr)
}

// run runs a command that succeeds, and gives its output.
func (l *lab) run(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := command(t.Context(), &stdout, &stderr, args...); code != 0 {
		t.Fatalf("set-ca %v: exit %d\n%s", args, code, stderr.String())
	}
	return stdout.String()
}

// serve starts the server and gives its address, and what stops it.
func (l *lab) serve(t *testing.T) (url string, stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var log output
	ended := make(chan int, 1)
	go func() { ended <- command(ctx, io.Discard, &log, "serve", "--config", l.ca) }()
	stop = sync.OnceValue(func() int { cancel(); return <-ended })
	t.Cleanup(func() { stop() })
	listening := regexp.MustCompile(`"msg":"serving","listen":"([^"]+)"`)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if found := listening.FindStringSubmatch(log.String()); found != nil {
			return "http://" + found[1], stop
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server does not listen:\n%s", log.String())
		}
	}
}

// post sends messages to one CA.
func post(t *testing.T, url string) func([]byte, error) []byte {
	return func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return must[[]byte](t)((&sethttp.Client{Tries: 1}).Post(t.Context(), url, sethttp.MediaRegistration, b))
	}
}

func (l *lab) enrolCard(t *testing.T, e *set.Endpoint, url string) {
	t.Helper()
	c := set.NewCardEnrolment("Meridian", "en", set.PAN("4111111111111111"), set.CardExpiry(fmt.Sprintf("%d12", time.Now().Year()+3)))
	defer c.Clear()
	if err := c.OpenInitRes(e, time.Now(), post(t, url)(c.InitReq(e, time.Now()))); err != nil {
		t.Fatal(err)
	}
	form := must[*set.RegFormData](t)(c.OpenFormRes(e, time.Now(), post(t, url)(c.FormReq(e, time.Now()))))
	if f := form.RegTemplate.RegFieldSeq; len(f) != 2 || f[0].FieldName[0] != "Name" || !f[1].FieldInvisible {
		t.Errorf("form %+v", f)
	}
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	res := post(t, url)(c.CertReq(e, time.Now(), []set.FieldText{"Alice Andersen", "tulip-harbour-41"}, key))
	card := must[*set.CardCertificate](t)(c.OpenCertRes(e, time.Now(), res))
	card.Clear()
}

func (l *lab) enrolEntity(t *testing.T, e *set.Endpoint, url string, typ set.RequestType, id set.IDData, code set.FieldText) {
	t.Helper()
	m := must[*set.MeAqEnrolment](t)(set.NewMeAqEnrolment("Meridian", "en", typ, id))
	must[*set.EntityForm](t)(m.OpenInitRes(e, time.Now(), post(t, url)(m.InitReq(e, time.Now()))))
	sign := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	exchange := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	res := post(t, url)(m.CertReq(e, time.Now(), []set.FieldText{code}, sign, exchange.Public()))
	must[*set.EntityCertificates](t)(m.OpenCertRes(e, time.Now(), res))
}

// The whole CA on PKCS#11 tokens: ceremony, server, and a registration of each kind.
func TestServe(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.run(t, "ceremony", "--config", l.ceremony, "--bindings", l.bindings)
	url, stop := l.serve(t)
	res := must[*http.Response](t)(http.Get(url + "/readyz"))
	if report, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusOK {
		t.Errorf("readyz: %d %s", res.StatusCode, report)
	}
	res.Body.Close()

	verifier := must[*set.Endpoint](t)(trusting(filepath.Join(l.dir, "out", "root.pem")))
	l.enrolCard(t, verifier, url+"/cca")
	l.enrolEntity(t, verifier, url+"/mca", set.MerInitialBoth,
		set.IDData{MerchantAcquirerID: &set.MerchantAcquirerID{MerchantBIN: "411111", MerchantID: "M-0001"}}, "otter-lantern-558")
	l.enrolEntity(t, verifier, url+"/pca", set.PgwyInitialBoth,
		set.IDData{AcquirerID: &set.AcquirerID{AcquirerBIN: "411111"}}, "birch-compass-902")
	if code := stop(); code != 0 {
		t.Errorf("the server ends with %d", code)
	}

	var certs []ca.Issued
	if err := json.Unmarshal([]byte(l.run(t, "list", "--config", l.ca, "--json")), &certs); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]int)
	for _, c := range certs {
		got[c.CA+" "+c.Type+" "+c.Use]++
	}
	if len(certs) != 5 || got["cca card signature"] != 1 || got["mca mer key-exchange"] != 1 || got["pca pgwy signature"] != 1 {
		t.Errorf("listed %v", got)
	}
	if text := l.run(t, "list", "--config", l.ca); !strings.Contains(text, "merchant 411111/M-0001") {
		t.Errorf("list:\n%s", text)
	}
}

// trusting is a party that has installed a root.
func trusting(root string) (*set.Endpoint, error) {
	v, err := party.Trust{Root: root}.Verifier()
	return &set.Endpoint{Verifier: v, Software: "test"}, err
}

func TestServeRefuses(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var stderr bytes.Buffer
	if code := command(t.Context(), io.Discard, &stderr, "serve", "--config", l.ca); code != 1 || !strings.Contains(stderr.String(), "root.pem") {
		t.Errorf("before the ceremony: exit %d, %s", code, stderr.String())
	}
	l.run(t, "ceremony", "--config", l.ceremony, "--bindings", l.bindings)
	text := string(must[[]byte](t)(os.ReadFile(l.ca)))
	for want, edit := range map[string][2]string{
		"it is a pca certificate":                {"out/mca-sign.pem", "out/pca-sign.pem"},
		`unknown key "cardholder-ca.programmes"`: {"  programs:", "  programmes:"},
		"cca: a program without BINs":            {`    - bins: ["411111", "401288", "555555", "510510", "378282", "601111"]`, `    - bins: []`},
		"tunneling \"des\"":                      {"[aes-256-gcm]", "[des]"},
		"not 6 digits":                           {`network-id: "411111"`, `network-id: "41111"`},
		"pcs.pem: no such file":                  {"out/pca.pem", "out/pcs.pem"},
		"validity":                               {"validity-days: 1095", "validity-days: 0"},
		"key not found":                          {"object=pan-mac", "object=pan-mac2"},
		"registration code of 3 ch":              {filepath.Join(l.dir, "code2"), l.write(t, "short", "abc")},
	} {
		if !strings.Contains(text, edit[0]) {
			t.Errorf("the configuration has no %q", edit[0])
		}
		path := l.write(t, "bad.yaml", strings.Replace(text, edit[0], edit[1], 1))
		stderr.Reset()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // or it serves for ever
		defer cancel()
		if code := command(ctx, io.Discard, &stderr, "serve", "--config", path); code == 0 {
			t.Errorf("%s: served", want)
		}
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("want %q in: %s", want, stderr.String())
		}
	}
}
