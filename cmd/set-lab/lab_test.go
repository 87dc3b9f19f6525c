package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/cmd/internal/describe"
	"github.com/setkit/setkit/cmd/internal/trace"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sethttp"
	softhsmconfig "github.com/setkit/setkit/softhsm-config"
)

// testWorld is a world whose parties talk through recorders.
type testWorld struct {
	*world
	recorders map[string]*recorder
}

// commands builds the project's commands, once for all tests, into a folder that TestMain removes.
var (
	commandsDir string
	commands    = sync.OnceValues(func() (dir string, err error) {
		if commandsDir, err = os.MkdirTemp("", "set-lab-bin-"); err != nil {
			return "", err
		}
		if out, err := exec.Command("go", "build", "-ldflags=-s -w", "-o", commandsDir, "../...").CombinedOutput(); err != nil {
			return "", fmt.Errorf("go build: %w\n%s", err, out)
		}
		return commandsDir, nil
	})
)

func TestMain(m *testing.M) {
	code := m.Run()
	if commandsDir != "" {
		os.RemoveAll(commandsDir)
	}
	os.Exit(code)
}

// newPlainWorld is a world that has nothing yet, and ends with the test.
func newPlainWorld(t *testing.T) *world {
	t.Helper()
	bin, err := commands()
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWorld(filepath.Join(t.TempDir(), "lab"), bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// halt ends the server of a party.
func (w *world) halt(party string) error {
	i := slices.IndexFunc(w.Processes, func(p process) bool { return p.Name == party })
	if i < 0 {
		return nil
	}
	if err := w.Processes[i].stop(); err != nil {
		return err
	}
	w.Processes = slices.Delete(w.Processes, i, i+1)
	return w.save()
}

// restart starts the server of a party, and ends the one that runs before.
func (w *world) restart(ctx context.Context, party string) error {
	if err := w.halt(party); err != nil {
		return err
	}
	secrets := map[string]map[string]string{"ca": caSecrets, "issuer": issuerSecrets, "gateway": gatewaySecrets, "merchant": merchantSecrets}[party]
	addr := w.addr(party)
	if party == "issuer" {
		addr = w.addr("issuer-http")
	}
	return w.start(ctx, w.env(party, secrets), answers("http://"+addr), party, "set-"+party, "serve", "--config", w.config(party))
}

// newTestWorld makes a world.
func newTestWorld(t *testing.T) *testWorld {
	t.Helper()
	w := newPlainWorld(t)
	tw := &testWorld{w, map[string]*recorder{}}
	w.front = map[string]string{}
	for _, service := range []string{"ca", "gateway", "merchant"} {
		tw.recorders[service] = record(t, w.addr(service+"-door"))
		w.front[service] = tw.recorders[service].addr
	}
	var out bytes.Buffer
	if err := w.make(t.Context(), &out); err != nil {
		t.Fatalf("%v\n%s", err, out.Bytes())
	}
	t.Logf("the world is made:\n%s", out.Bytes())
	return tw
}

func (w *testWorld) mustBuy(t *testing.T, item string, quantity int) *purchase {
	t.Helper()
	var out bytes.Buffer
	p, err := w.buy(t.Context(), &out, item, quantity)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.Bytes())
	}
	t.Logf("%s", out.Bytes())
	return p
}

// A whole world, from the key ceremony to the end: the steps build on each other.
func TestLab(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	t.Run("keys", w.testKeys)
	t.Run("chains", w.testChains)
	t.Run("purchase", w.testPurchase)
	t.Run("wallet bundle", w.testWalletBundle)
	t.Run("trace", w.testTrace)
	t.Run("token load", w.testTokenLoad)
	t.Run("env", w.testEnv)
	t.Run("declined", w.testDeclined)
	t.Run("hostile messages", w.testHostileMessages)
	t.Run("hostile frames", w.testHostileFrames)
	t.Run("secrecy", w.testSecrecy)
	t.Run("ui", w.testUI)
	t.Run("shopping", w.testShopping)
	t.Run("processes", w.testProcesses)
	t.Run("wrong PIN", w.testWrongPIN)
	t.Run("down", w.testDown)
}

// Every private key of the lab was made in its token, cannot leave it, and can do what its role needs and
// no more.
func (w *testWorld) testKeys(t *testing.T) {
	type key struct {
		Label, Purpose, Type                           string
		Sensitive, AlwaysSensitive, Extractable, Local bool
		NeverExtractable                               bool
		Usages                                         []string
	}
	usages := map[string][]string{
		"cert-sign": {"sign"}, "sign": {"sign"}, "key-exchange": {"decrypt"}, "mac": {"sign"}, "seal": {"encrypt", "decrypt"},
	}
	folders := map[string]string{"root-ca": "offline", "brand-ca": "offline", "cardholder-ca": "ca", "merchant-ca": "ca", "payment-ca": "ca"}
	for _, token := range softhsmconfig.Plan() {
		folder := folders[token.Label]
		if folder == "" {
			folder = token.Label
		}
		var keys []key
		uri := fmt.Sprintf("pkcs11:token=%s?module-path=%s&pin-source=file:%s", token.Label, modulePath(t), w.path("secrets", token.Label+"-pin"))
		if err := w.runJSON(t.Context(), &keys, w.env(folder, nil), "set-hsm", "keys", "list", "--token", uri, "--json"); err != nil {
			t.Fatal(err)
		}
		var want, got []softhsmconfig.Key
		want = append(want, token.Keys...)
		for _, k := range keys {
			got = append(got, softhsmconfig.Key{Label: k.Label, Purpose: k.Purpose, Type: k.Type})
			if !k.Sensitive || !k.AlwaysSensitive || k.Extractable || !k.NeverExtractable || !k.Local {
				t.Errorf("%s/%s can leave its token or was not made there: %+v", token.Label, k.Label, k)
			}
			slices.Sort(k.Usages)
			u := slices.Sorted(slices.Values(usages[k.Purpose]))
			if !slices.Equal(k.Usages, u) {
				t.Errorf("%s/%s may %v, want %v", token.Label, k.Label, k.Usages, u)
			}
		}
		byLabel := func(a, b softhsmconfig.Key) int { return strings.Compare(a.Label, b.Label) }
		slices.SortFunc(want, byLabel)
		slices.SortFunc(got, byLabel)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("keys of %s (-want +got):\n%s", token.Label, diff)
		}
	}
}

func modulePath(t *testing.T) string {
	t.Helper()
	for _, e := range (&world{}).env("", nil) {
		if path, ok := strings.CutPrefix(e, "SET_PKCS11_MODULE="); ok {
			return path
		}
	}
	t.Fatal("no PKCS#11 module")
	return ""
}

// openssl accepts the certificates that came out of the ceremony and of the enrolments.
func (w *testWorld) testChains(t *testing.T) {
	for _, c := range [][]string{
		{"ca/cca.pem", "ca/mca.pem", "ca/pca.pem", "ca/cca-sign.pem", "ca/mca-key-exchange.pem"},
		{"merchant.pem"}, {"gateway.pem"},
	} {
		for _, leaf := range c {
			args := []string{"verify", "-ignore_critical", "-CAfile", w.path("ca", "root.pem"), "-untrusted", w.path("ca", "brand.pem")}
			for _, ca := range []string{"mca.pem", "pca.pem"} {
				args = append(args, "-untrusted", w.path("ca", ca))
			}
			if out, err := exec.Command("openssl", append(args, w.path(leaf))...).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", leaf, err, out)
			}
		}
	}
}

func (w *testWorld) testPurchase(t *testing.T) {
	p := w.mustBuy(t, "atlas", 1)
	if p.receipt.Outcome != "approved" || p.order.State != "captured" {
		t.Fatalf("outcome %s, order %s", p.receipt.Outcome, p.order.State)
	}
	if p.before.Available != "500.00" || p.after.Available != "463.50" || p.after.Booked != "36.50" || p.after.Held != "0.00" {
		t.Errorf("account before %+v, after %+v", p.before, p.after)
	}
	var out bytes.Buffer
	p.print(&out)
	for _, want := range []string{
		p.receipt.Merchant.Name, "Atlas of the Northern Harbours", "36.50 USD", p.order.Payment.ApprovalCode, p.order.Payment.XID, "Nordhavn Bank Meridian **** 1111",
		p.receipt.Card.Certificate, p.receipt.Merchant.Certificate, p.receipt.Gateway.Certificate, "500.00", "463.50",
	} {
		if want == "" || !strings.Contains(out.String(), want) {
			t.Errorf("the receipt does not show %q:\n%s", want, out.Bytes())
		}
	}
	if strings.Contains(out.String(), pan) {
		t.Error("the receipt shows the card number")
	}
}

// The bank's next bundle reaches a wallet under the key that it knows; the one before does not come back.
func (w *testWorld) testWalletBundle(t *testing.T) {
	url := "http://" + w.addr("issuer-http") + "/wallet-bundle"
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	first, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	stick := w.path("bank.setwallet")
	if err := os.WriteFile(stick, first, 0o444); err != nil {
		t.Fatal(err)
	}
	if _, err := w.run(t.Context(), w.env("issuer", issuerSecrets), "set-issuer", "wallet-bundle", "--config", w.config("issuer")); err != nil {
		t.Fatal(err)
	}
	install := func(from string) error {
		_, err := w.run(t.Context(), nil, "set-wallet", "install", "--dir", w.path("wallet"), from)
		return err
	}
	if err := install(stick); err != nil {
		t.Errorf("the installed bundle, from the stick: %v", err)
	}
	if err := install(url); err != nil {
		t.Errorf("the new bundle: %v", err)
	}
	if err := install(stick); err == nil || !strings.Contains(err.Error(), "is older than the one that is installed, 2") {
		t.Errorf("the old bundle: %v", err)
	}
	var about []struct {
		Bank     string
		Sequence int
	}
	if err := w.runJSON(t.Context(), &about, nil, "set-wallet", "about", "--json", "--dir", w.path("wallet")); err != nil {
		t.Fatal(err)
	}
	if len(about) != 1 || about[0].Bank != "Nordhavn Bank" || about[0].Sequence != 2 {
		t.Errorf("the wallet is that of %+v", about)
	}
}

// testTrace: what was recorded is what was on the wire, has no card number, and is drawn.
func (w *testWorld) testTrace(t *testing.T) {
	r, err := trace.Read(w.path(traceDir), new(describe.Describer))
	if err != nil {
		t.Fatal(err)
	}
	purchase, err := r.Purchase("")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range purchase {
		got = append(got, m.From+" "+m.Type)
		if m.Status != "" && m.Status != "200" && m.Status != "00" {
			t.Errorf("%s has status %s", m.File, m.Status)
		}
	}
	slices.Sort(got) // capture and clearing may overtake each other
	want := []string{
		"merchant Payment-Initiation", "wallet PInitReq", "merchant PInitRes", "wallet PReq", "merchant AuthReq", "gateway 0100",
		"issuer 0110", "gateway AuthRes", "merchant PRes", "merchant CapReq", "gateway CapRes", "gateway 0220", "issuer 0230",
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("messages of the purchase (-want +got):\n%s", diff)
	}
	w.sameOctets(t, r)
	files, err := filepath.Glob(w.path(traceDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{pan, expiry, holder, registration} {
			if bytes.Contains(b, []byte(secret)) {
				t.Errorf("%s has %q", f, secret)
			}
		}
	}
	for form, want := range map[string]string{"--svg": "only the gateway can read it", "--html": "<summary>", "--text": "PReq"} {
		out, err := w.run(t.Context(), nil, "set-inspect", "trace", form, w.path(traceDir))
		if err != nil || !bytes.Contains(out, []byte(want)) || !bytes.Contains(out, []byte(purchase[3].XID)) {
			t.Errorf("set-inspect trace %s: %d octets, %v", form, len(out), err)
		}
	}
}

// sameOctets compares the recording with what the test has seen on the wire.
func (w *testWorld) sameOctets(t *testing.T, r *trace.Recording) {
	t.Helper()
	n := 0
	for service, mediaType := range map[string]string{"merchant": sethttp.MediaPayment, "gateway": sethttp.MediaPayment, "ca": sethttp.MediaRegistration} {
		for _, x := range w.recorders[service].exchanges(t, mediaType) {
			i := slices.IndexFunc(r.Messages, func(m *trace.Message) bool {
				b, _ := os.ReadFile(w.path(traceDir, m.File))
				return bytes.Equal(b, x.request)
			})
			if i < 0 {
				t.Errorf("%s: %s is not in the recording", service, typeOf(x.request))
				continue
			}
			j := slices.IndexFunc(r.Messages, func(m *trace.Message) bool { return m.ReplyTo == i+1 })
			if j < 0 {
				t.Errorf("%s: the answer to %s is not in the recording", service, typeOf(x.request))
				continue
			}
			if b, err := os.ReadFile(w.path(traceDir, r.Messages[j].File)); err != nil || !bytes.Equal(b, x.response) {
				t.Errorf("%s: the answer to %s was recorded as %s, %v", service, typeOf(x.request), r.Messages[j].File, err)
			}
			n++
		}
	}
	if n < 9 { // three registrations and a purchase
		t.Errorf("%d exchanges were compared", n)
	}
}

func (w *testWorld) testDeclined(t *testing.T) {
	p := w.mustBuy(t, "telescope", 1)
	if p.receipt.Outcome != "declined" || p.order.State != "declined" {
		t.Errorf("outcome %s, order %s", p.receipt.Outcome, p.order.State)
	}
	if p.before != p.after {
		t.Errorf("account before %+v, after %+v", p.before, p.after)
	}
}

// snapshot is everything that a hostile message must not change.
func (w *testWorld) snapshot(t *testing.T) string {
	t.Helper()
	var all []byte
	for _, c := range [][]string{
		{"issuer", "set-issuer", "accounts"}, {"merchant", "set-merchant", "orders"}, {"gateway", "set-gateway", "transactions"}, {"ca", "set-ca", "list"},
	} {
		secrets := map[string]map[string]string{"issuer": issuerSecrets, "merchant": merchantSecrets, "gateway": gatewaySecrets, "ca": caSecrets}[c[0]]
		out, err := w.run(t.Context(), w.env(c[0], secrets), c[1], c[2], "--json", "--config", w.config(c[0]))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, out...)
	}
	return string(all)
}

func (w *testWorld) testHostileMessages(t *testing.T) {
	before := w.snapshot(t)
	for _, c := range []struct{ service, path, mediaType string }{
		{"merchant", "/set", sethttp.MediaPayment}, {"gateway", "/set", sethttp.MediaPayment},
		{"ca", "/cca", sethttp.MediaRegistration}, {"ca", "/mca", sethttp.MediaRegistration}, {"ca", "/pca", sethttp.MediaRegistration},
	} {
		url := "http://" + w.addr(c.service) + c.path
		noise := make([]byte, 1000)
		rand.Read(noise)
		bad := map[string][]byte{"nothing": {}, "random octets": noise, "2 MiB": make([]byte, 2<<20)}
		n := 0
		for _, x := range w.recorders[c.service].exchanges(t, c.mediaType) {
			if x.path != c.path {
				continue
			}
			n++
			typ := typeOf(x.request)
			bad["truncated "+typ] = x.request[:len(x.request)/2]
			changed := bytes.Clone(x.request)
			changed[len(changed)-1] ^= 1
			bad["changed "+typ] = changed
			status, got := post(t, url, c.mediaType, x.request)
			if status != x.status || !bytes.Equal(got, x.response) {
				t.Errorf("%s: %s replayed: status %d and %s, want the stored answer, %d and %s", url, typ, status, typeOf(got), x.status, typeOf(x.response))
			}
		}
		if n == 0 {
			t.Errorf("%s: no request was recorded", url)
		}
		for name, b := range bad {
			status, got := post(t, url, c.mediaType, b)
			if status < 400 || status >= 500 || typeOf(got) != "Error" {
				t.Errorf("%s: %s: status %d and %s, want 4xx and Error", url, name, status, typeOf(got))
			}
		}
	}
	if diff := cmp.Diff(before, w.snapshot(t)); diff != "" {
		t.Errorf("hostile messages changed something (-before +after):\n%s", diff)
	}
	w.mustRun(t)
}

// mustRun tells that every process is alive.
func (w *testWorld) mustRun(t *testing.T) {
	t.Helper()
	for _, p := range w.Processes {
		if !p.runs() {
			t.Errorf("%s has ended", p.Name)
		}
	}
}

func typeOf(b []byte) string {
	m, err := set.Decode(b)
	if err != nil {
		return fmt.Sprintf("no SET message (%d octets)", len(b))
	}
	return m.Message.Type().String()
}

func post(t *testing.T, url, mediaType string, body []byte) (int, []byte) {
	t.Helper()
	res, err := http.Post(url, mediaType, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, b
}

// The issuer's ISO 8583 host stands what is no message, and goes on answering.
func (w *testWorld) testHostileFrames(t *testing.T) {
	before := w.snapshot(t)
	noise := make([]byte, 300)
	rand.Read(noise)
	for name, frame := range map[string][]byte{
		"random octets":     noise,
		"length only":       {0x01, 0x00},
		"longest length":    append([]byte{0xff, 0xff, 0xff, 0xff}, noise...),
		"framed noise":      append(binary.BigEndian.AppendUint16(nil, uint16(len(noise))), noise...),
		"framed, 4 octets":  append(binary.BigEndian.AppendUint32(nil, uint32(len(noise))), noise...),
		"unknown MTI":       append([]byte{0, 20}, "0999"+strings.Repeat("0", 16)...),
		"nothing but a SYN": nil,
	} {
		conn, err := net.Dial("tcp", w.addr("issuer"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		conn.Write(frame)
		conn.(*net.TCPConn).CloseWrite()
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection stays open", name)
		}
		conn.Close()
	}
	if diff := cmp.Diff(before, w.snapshot(t)); diff != "" {
		t.Errorf("hostile frames changed something (-before +after):\n%s", diff)
	}
	w.mustRun(t)
	if p := w.mustBuy(t, "pencil", 1); p.receipt.Outcome != "approved" {
		t.Errorf("purchase afterwards: %s", p.receipt.Outcome)
	}
}

// The merchant never sees the account, the gateway never sees the order.
func (w *testWorld) testSecrecy(t *testing.T) {
	look := func(where string, b []byte, secrets ...string) {
		t.Helper()
		if len(b) == 0 {
			t.Errorf("%s is empty", where)
		}
		for _, s := range secrets {
			if bytes.Contains(b, []byte(s)) {
				t.Errorf("%s contains %q", where, s)
			}
		}
	}
	files := func(party string) (found []string) {
		for _, pattern := range []string{party + ".db*", "log/" + party + ".log"} {
			match, err := filepath.Glob(w.path(pattern))
			if err != nil || len(match) == 0 {
				t.Fatalf("%s: %v, %v", pattern, match, err)
			}
			found = append(found, match...)
		}
		return found
	}
	account := []string{pan, expiry, expiry[2:] + "\"", registration}
	for _, f := range files("merchant") {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		look(f, b, account...)
	}
	look("what the merchant received and sent", w.recorders["merchant"].octets(), pan, expiry)
	look("what the merchant sent to the gateway", w.recorders["gateway"].octets(), pan, expiry, "Atlas", "Pencil")
	for _, f := range files("gateway") {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		look(f, b, append(account, "Atlas", "Pencil")...)
	}
	for _, party := range []string{"issuer", "ca"} {
		for _, f := range files(party) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			look(f, b, pan, registration)
		}
	}
	match, err := filepath.Glob(w.path("wallet", "*"))
	if err != nil || len(match) == 0 {
		t.Fatalf("wallet: %v, %v", match, err)
	}
	for _, f := range match {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		look(f, append(b, 0), account...)
	}
}

// No process has a PIN or a registration code in its arguments or its environment.
func (w *testWorld) testProcesses(t *testing.T) {
	files, err := filepath.Glob(w.path("secrets", "*"))
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string][]byte{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if b = bytes.TrimSpace(b); err != nil || len(b) == 0 {
			t.Fatalf("%s: %d octets, %v", f, len(b), err)
		}
		secrets[filepath.Base(f)] = b
	}
	if len(secrets) < 10 || len(w.Processes) < 5 {
		t.Fatalf("%d secrets and %d processes, want all of the lab's", len(secrets), len(w.Processes))
	}
	for _, p := range w.Processes {
		for _, file := range []string{"cmdline", "environ"} {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.PID, file))
			if errors.Is(err, os.ErrPermission) && file == "environ" {
				continue // kept even from its own user; only root reads it
			}
			if err != nil || len(b) == 0 {
				t.Errorf("%s of %s: %d octets, %v", file, p.Name, len(b), err)
			}
			for name, secret := range secrets {
				if bytes.Contains(b, secret) {
					t.Errorf("%s of %s contains %s", file, p.Name, name)
				}
			}
		}
	}
}

// A wrong PIN sends no purchase request; three of them block the card.
func (w *testWorld) testWrongPIN(t *testing.T) {
	before := w.snapshot(t)
	o, err := w.placeOrder(t.Context(), "notebook", 1, "")
	if err != nil {
		t.Fatal(err)
	}
	wrong := w.path("secrets", "wrong-pin")
	if err := w.keep(wrong, "999999\n"); err != nil {
		t.Fatal(err)
	}
	pay := func(pin string) string {
		t.Helper()
		_, err := w.run(t.Context(), w.cardEnv(), "set-wallet", "pay", "--yes", "--last-try", "--dir", w.path("wallet"),
			"--pin-source", "file:"+pin, w.url("merchant")+"/orders/"+o.ID+"/pay")
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("exit %v, want 1", err)
			return ""
		}
		return err.Error()
	}
	sent := len(w.purchaseRequests(t))
	for _, want := range []string{"2 tries left", "1 try left", "blocked"} {
		if got := pay(wrong); !strings.Contains(got, want) {
			t.Errorf("wrong PIN: %q does not say %q", got, want)
		}
	}
	if got := pay(w.path("secrets", "card-pin")); !strings.Contains(got, "blocked") {
		t.Errorf("right PIN on a blocked card: %q does not say so", got)
	}
	if n := len(w.purchaseRequests(t)); n != sent {
		t.Errorf("%d purchase requests were sent with a wrong PIN", n-sent)
	}
	var orders []order
	if err := json.Unmarshal([]byte(w.orders(t)), &orders); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(orders, func(other order) bool { return other.ID == o.ID })
	if i < 0 || orders[i].State != "new" {
		t.Errorf("the order is not as it was: %+v", orders)
	}
	if a, err := w.account(t.Context()); err != nil || !strings.Contains(before, a.Available) {
		t.Errorf("the account has changed: %+v, %v", a, err)
	}
}

func (w *testWorld) orders(t *testing.T) string {
	t.Helper()
	out, err := w.run(t.Context(), w.env("merchant", merchantSecrets), "set-merchant", "orders", "--json", "--config", w.config("merchant"))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// earned gives what the merchant has captured and not given back, in cents.
func (w *world) earned(t *testing.T) (cents int64) {
	t.Helper()
	var orders []struct {
		Payment *struct {
			CapturedAmount, RefundedAmount struct{ Minor int64 }
		}
	}
	if err := w.runJSON(t.Context(), &orders, w.env("merchant", merchantSecrets), "set-merchant", "orders", "--json", "--config", w.config("merchant")); err != nil {
		t.Fatal(err)
	}
	for _, o := range orders {
		if o.Payment != nil {
			cents += o.Payment.CapturedAmount.Minor - o.Payment.RefundedAmount.Minor
		}
	}
	return cents
}

func (w *testWorld) purchaseRequests(t *testing.T) (found []exchange) {
	t.Helper()
	for _, x := range w.recorders["merchant"].exchanges(t, sethttp.MediaPayment) {
		if typeOf(x.request) == "PReq" {
			found = append(found, x)
		}
	}
	return found
}

func (w *testWorld) testDown(t *testing.T) {
	processes := w.Processes
	if code, out := runSetLab(t, "down", "--dir", w.dir); code != 0 {
		t.Fatalf("set-lab down: exit %d\n%s", code, out)
	}
	for _, p := range processes {
		if p.runs() {
			t.Errorf("%s still runs", p.Name)
		}
	}
	if _, err := os.Stat(w.PCSCDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s stays: %v", w.PCSCDir, err)
	}
	if code, out := runSetLab(t, "down", "--dir", w.dir); code != 0 {
		t.Errorf("a second set-lab down: exit %d\n%s", code, out)
	}
}

// A directory that is no lab is not touched.
func TestForeignDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), []byte("years of work"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"up", "demo", "down"} {
		if code, out := runSetLab(t, command, "--dir", dir); code != 2 {
			t.Errorf("%s: exit %d, want 2\n%s", command, code, out)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "thesis.tex")); err != nil || string(b) != "years of work" {
		t.Errorf("the file is gone: %v", err)
	}
}

// testEnv: a person's shell gets the environment of each party from its file.
func (w *testWorld) testEnv(t *testing.T) {
	var out bytes.Buffer
	if err := w.introduce(&out); err != nil {
		t.Fatal(err)
	}
	for _, l := range lookAround {
		line := fmt.Sprintf("(. %s; %s)", quote(w.path("env", l.party)), l.command)
		if !strings.Contains(out.String(), line) {
			t.Errorf("set-lab up does not say %s:\n%s", line, out.Bytes())
		}
		if got, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil || len(got) == 0 {
			t.Errorf("%s: %v\n%s", line, err, got)
		}
	}
}
