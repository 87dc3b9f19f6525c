package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/issuer"
	"github.com/setkit/setkit/roles/set"
)

const (
	configFile   = "../../testdata/config/issuer.yaml"
	accountsFile = "../../testdata/accounts.yaml"
	tokenPIN     = "135792468"
	waitMax      = 20 * time.Second
)

// output is written by a command while the test reads it.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func command(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errOut output
	code = cli.Run(ctx, newApp(), append([]string{"set-issuer"}, args...), strings.NewReader(""), &out, &errOut)
	return code, out.String(), errOut.String()
}

// fetchBundle downloads the wallet bundle from the server.
func fetchBundle(t *testing.T) []byte {
	t.Helper()
	res, err := http.Get("http://" + os.Getenv("SET_ISSUER_HTTP") + "/wallet-bundle")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("status %d, %v: %s", res.StatusCode, err, b)
	}
	return b
}

// lab is what the example configuration wants to find: a token, and an environment.
func lab(t *testing.T) {
	t.Helper()
	token := hsmtest.New(t) // brings its library's configuration
	if _, err := hsm.InitToken(t.Context(), token.ModulePath, "issuer", []byte("86420"), []byte(tokenPIN)); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"SET_PKCS11_MODULE": token.ModulePath, "SET_ISSUER_PIN": tokenPIN, "SET_ISSUER_PIN_SOURCE": "env:SET_ISSUER_PIN",
		"SET_ISSUER_HOST": freeAddr(t), "SET_ISSUER_HTTP": freeAddr(t),
		"SET_ISSUER_DATABASE": "sqlite:" + filepath.Join(t.TempDir(), "issuer.db"),
		"SET_ISSUER_BRANDING": "../../testdata/wallet", "SET_CA_URL": "http://ca.example", "SET_CA_OUTPUT": t.TempDir(),
	} {
		t.Setenv(name, value)
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// list gives the accounts by ID.
func list(t *testing.T) map[string]accountLine {
	t.Helper()
	code, stdout, stderr := command(t.Context(), "accounts", "--config", configFile, "--json")
	var lines []accountLine
	if err := json.Unmarshal([]byte(stdout), &lines); err != nil || code != 0 {
		t.Fatalf("accounts: exit code %d, %v\n%s%s", code, err, stdout, stderr)
	}
	byID := map[string]accountLine{}
	for _, l := range lines {
		byID[l.ID] = l
	}
	return byID
}

func waitReady(t *testing.T) {
	t.Helper()
	url := "http://" + os.Getenv("SET_ISSUER_HTTP") + "/readyz"
	for deadline := time.Now().Add(waitMax); ; time.Sleep(10 * time.Millisecond) {
		res, err := http.Get(url)
		if err == nil {
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("issuer is not ready: %v", err)
		}
	}
}

// TestIssuer makes keys, imports the lab's accounts, serves, buys something, and lists it.
func TestIssuer(t *testing.T) {
	lab(t)
	if code, _, stderr := command(t.Context(), "accounts", "--config", configFile); code != 1 || !strings.Contains(stderr, "set-issuer init") {
		t.Errorf("without keys: exit code %d, %s", code, stderr)
	}
	for range 2 {
		if code, stdout, stderr := command(t.Context(), "init", "--config", configFile); code != 0 || stdout != "the token has the keys\n" {
			t.Fatalf("init: exit code %d\n%s%s", code, stdout, stderr)
		}
	}
	for _, want := range []string{"added 6 accounts, 0 were there\n", "added 0 accounts, 6 were there\n"} {
		if code, stdout, stderr := command(t.Context(), "import", "--config", configFile, accountsFile); code != 0 || stdout != want {
			t.Fatalf("import: exit code %d\n%s%s", code, stdout, stderr)
		}
	}
	alice := accountLine{
		ID: "alice", Holder: "Alice Andersen", PAN: "**** 1111", Status: "active", Currency: "USD",
		Available: "500.00", Held: "0.00", Booked: "0.00",
	}
	if diff := cmp.Diff(alice, list(t)["alice"]); diff != "" {
		t.Errorf("alice (-want +got):\n%s", diff)
	}

	ctx, stop := context.WithCancel(t.Context())
	var log output
	ended := make(chan int, 1)
	go func() {
		ended <- cli.Run(ctx, newApp(), []string{"set-issuer", "serve", "--config", configFile}, strings.NewReader(""), io.Discard, &log)
	}()
	waitReady(t)
	pan := buy(t)
	alice.Available, alice.Booked, alice.ChecksFailed = "476.55", "23.45", 1
	if diff := cmp.Diff(alice, list(t)["alice"]); diff != "" {
		t.Errorf("alice after a purchase (-want +got):\n%s", diff)
	}
	checkSettlements(t)
	if code, _, stderr := command(t.Context(), "unlock", "--config", configFile, "alice"); code != 0 || list(t)["alice"].ChecksFailed != 0 {
		t.Errorf("unlock: exit code %d, %s", code, stderr)
	}
	stop()
	select {
	case code := <-ended:
		if code != 0 {
			t.Errorf("serve ended with %d:\n%s", code, log.String())
		}
	case <-time.After(waitMax):
		t.Fatal("serve does not stop")
	}
	text := log.String()
	for line := range strings.Lines(text) {
		if !json.Valid([]byte(line)) {
			t.Errorf("log line is not JSON: %s", line)
		}
	}
	if strings.Contains(text, pan) || strings.Contains(text, tokenPIN) || !strings.Contains(text, `"msg":"request answered"`) {
		t.Errorf("log shows a secret, or not what happened:\n%s", text)
	}
}

// buy has alice checked, once in vain, and makes and clears a purchase of 23.45 dollars.
func buy(t *testing.T) (pan string) {
	t.Helper()
	f, err := os.Open(accountsFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := issuer.ReadAccounts(f)
	if err != nil {
		t.Fatal(err)
	}
	a := all[0]
	client := finnet.NewClient(os.Getenv("SET_ISSUER_HOST"), slog.New(slog.DiscardHandler))
	defer client.Close()
	check := &finnet.AccountCheck{Trace: finnet.NewTrace("400000", time.Now()), PAN: a.PAN, Expiry: a.Expiry, Holder: a.Holder, Secret: a.Secret}
	if code, err := client.Verify(t.Context(), check); code != finnet.Approved || err != nil {
		t.Fatalf("account check: %s, %v", code, err)
	}
	check.Trace, check.Secret = finnet.NewTrace("400000", time.Now()), []byte("guess")
	if code, err := client.Verify(t.Context(), check); code != finnet.DoNotHonour || err != nil {
		t.Fatalf("account check with another secret: %s, %v", code, err)
	}
	amount := set.CurrencyAmount{Currency: 840, Amount: 2345, AmtExp10: -2}
	merchant := finnet.Merchant{ID: "SHOP-1", Name: "Books"}
	auth := &finnet.Authorization{Trace: finnet.NewTrace("412345", time.Now()), PAN: a.PAN, Expiry: a.Expiry, Amount: amount, Merchant: merchant}
	answer, err := client.Authorize(t.Context(), auth)
	if answer.Code != finnet.Approved || err != nil {
		t.Fatalf("authorization: %s, %v", answer.Code, err)
	}
	code, err := client.Clear(t.Context(), &finnet.Clearing{
		Trace: auth.Next(time.Now()), Original: auth.Trace, Amount: amount, ApprovalCode: answer.ApprovalCode, Merchant: merchant,
		Settlement: 1,
	})
	if code != finnet.Approved || err != nil {
		t.Fatalf("clearing: %s, %v", code, err)
	}
	balance, err := client.Reconcile(t.Context(), &finnet.Reconciliation{
		Trace: finnet.Trace{Acquirer: "412345", STAN: "000001", Transmission: "0101000000"}, Settlement: 1, Currency: 840,
		Totals: finnet.Totals{Sales: finnet.Sum{Count: 1, Amount: 2345}},
	})
	if balance.Code != finnet.Approved || err != nil {
		t.Fatalf("reconciliation: %+v, %v", balance, err)
	}
	return string(a.PAN)
}

// checkSettlements looks at what set-issuer settlements says after buy.
func checkSettlements(t *testing.T) {
	t.Helper()
	code, stdout, stderr := command(t.Context(), "settlements", "--config", configFile, "--json")
	var got settlementReport
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != 0 {
		t.Fatalf("settlements: exit code %d, %v\n%s%s", code, err, stdout, stderr)
	}
	if len(got.Settlements) != 1 || got.Settlements[0].Closed == nil {
		t.Fatalf("got %s, want one closed settlement", stdout)
	}
	got.Settlements[0].Closed = nil
	want := settlementReport{
		Settlements: []settlementLine{{Acquirer: "412345", Number: 1, Currency: "USD", Sales: "23.45", Refunds: "0.00", Net: "23.45"}},
		Balance:     []balanceLine{{Currency: "USD", Booked: "23.45", Settled: "23.45", Open: "0.00", Balanced: true}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settlements (-want +got):\n%s", diff)
	}
	_, stdout, _ = command(t.Context(), "settlements", "--config", configFile)
	if want := "USD: booked on accounts 23.45 = settled 23.45 + open 0.00\n"; !strings.HasSuffix(stdout, want) {
		t.Errorf("got\n%s\nwant the last line %q", stdout, want)
	}
}

func TestRefusals(t *testing.T) {
	lab(t)
	if code, _, stderr := command(t.Context(), "init", "--config", configFile); code != 0 {
		t.Fatal(stderr)
	}
	write := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	example, err := os.ReadFile(configFile)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(old, new string) string {
		return write("issuer.yaml", strings.ReplaceAll(string(example), old, new))
	}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no configuration", []string{"serve"}, 2, `"config" not set`},
		{"extra argument", []string{"serve", "--config", configFile, "now"}, 2, "takes no arguments"},
		{"unknown key", []string{"serve", "--config", edit("hold-days", "hold-weeks")}, 2, "hold-weeks"},
		{"missing key", []string{"serve", "--config", edit("hold-days: 7", "")}, 2, "hold-days is missing"},
		{"odd hold", []string{"serve", "--config", edit("hold-days: 7", "hold-days: 400")}, 1, "1 to 365"},
		{"no such token", []string{"serve", "--config", edit("token=issuer", "token=absent")}, 3, "absent"},
		{"no directory", []string{"serve", "--config", edit("${SET_ISSUER_DATABASE}", "sqlite:/nonexistent/x.db")}, 1, "does not exist"},
		{"address in use", []string{"serve", "--config", edit("${SET_ISSUER_HOST}", busy.Addr().String())}, 1, "in use"},
		{"no file", []string{"import", "--config", configFile}, 2, "one argument, FILE"},
		{"file is not there", []string{"import", "--config", configFile, "/nonexistent.yaml"}, 2, "nonexistent.yaml"},
		{"bad accounts", []string{"import", "--config", configFile, write("a.yaml", "accounts: [{id: x, pan: '4111111111111112'}]")}, 1, "check digit"},
		{"unknown account", []string{"unlock", "--config", configFile, "nobody"}, 1, "no such account"},
	} {
		code, _, stderr := command(t.Context(), tt.args...)
		if code != tt.code || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: exit code %d, %q, want %d and %q", tt.name, code, stderr, tt.code, tt.want)
		}
		if strings.Contains(stderr, "411111") || strings.Contains(stderr, tokenPIN) {
			t.Errorf("%s: error shows a secret: %s", tt.name, stderr)
		}
	}
}
