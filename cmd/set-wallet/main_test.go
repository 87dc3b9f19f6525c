package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/settest"
	"github.com/setkit/setkit/roles/wallet/wallettest"
	"github.com/setkit/setkit/smartcard/cardtest"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

const (
	testPAN    = "4111111111111111"
	testExpiry = "209911" // no time of day or date has these digits
	testPIN    = "123456" // the factory's
	testPUK    = "12345678"
	wrongPIN   = "654321"
	testSecret = "correct horse"
)

// scene is a cardholder with a card, a wallet, a CA and a shop.
type scene struct {
	t      *testing.T
	world  *settest.World
	ca     *wallettest.CA
	shop   *wallettest.Shop
	card   *cardtest.Card
	dir    string // of files
	output []string
}

func newScene(t *testing.T) *scene {
	t.Helper()
	card := virtual.NewCard()
	return newSceneWith(t, inReader(t, card, card, piv.ECDSAP256))
}

// inReader puts a card with the keys of a purchase into a reader, as the device
// that d makes of it.
func inReader(t *testing.T, card *virtual.Card, d virtual.Device, a piv.Algorithm) *cardtest.Card {
	t.Helper()
	makeKeys(t, card, a) // before others can reach it
	c := &cardtest.Card{Reader: cardtest.NewReader(t), Virtual: card}
	c.Plug(d)
	return c
}

// newSceneWith is newScene with a certain card, which has its keys.
func newSceneWith(t *testing.T, card *cardtest.Card) *scene {
	t.Helper()
	w := settest.NewWorld(t)
	s := &scene{t: t, world: w, ca: wallettest.NewCA(t, w), shop: wallettest.NewShop(t, w), card: card, dir: t.TempDir()}
	for name, text := range map[string]string{
		"pin": testPIN, "puk": testPUK, "wrong": wrongPIN, "pan": testPAN, "expiry": testExpiry, "secret": testSecret,
		"root.pem":     string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.Root.X509.Raw})),
		"answers.yaml": fmt.Sprintf("%s: Ada Lovelace\n%s: {source: %q}\n", wallettest.FieldName, wallettest.FieldSecret, "file:"+s.file("secret")),
	} {
		if err := os.WriteFile(s.file(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(s.checkSecrecy)
	return s
}

func (s *scene) file(name string) string { return filepath.Join(s.dir, name) }
func (s *scene) wallet() string          { return s.file("wallet") }

// makeKeys gives a fresh card its keys. RSA keys take long to make, and come from
// outside.
func makeKeys(t *testing.T, card *virtual.Card, a piv.Algorithm) {
	t.Helper()
	err := piv.New(card, piv.Options{}).Do(t.Context(), func(tx *piv.Tx) error {
		if err := tx.Authenticate(piv.ManagementKey{Key: piv.FactoryManagementKey()}); err != nil {
			return err
		}
		for slot, a := range map[piv.Slot]piv.Algorithm{piv.SlotSignature: a, piv.SlotKeyManagement: piv.RSA2048} {
			var err error
			if a == piv.RSA2048 {
				err = tx.Import(slot, settest.RSAKey(t), piv.PINPolicyDefault)
			} else {
				_, err = tx.Generate(slot, a, piv.PINPolicyDefault)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// run runs the command for a certain exit code.
func (s *scene) run(want int, stdin string, args ...string) (stdout, stderr string) {
	s.t.Helper()
	var out, errOut bytes.Buffer
	code := cli.Run(s.t.Context(), newApp(), append([]string{"set-wallet"}, args...), strings.NewReader(stdin), &out, &errOut)
	s.output = append(s.output, out.String(), errOut.String())
	if code != want {
		s.t.Fatalf("set-wallet %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), code, want, out.String(), errOut.String())
	}
	return out.String(), errOut.String()
}

func (s *scene) enroll(extra ...string) (stdout string) {
	s.t.Helper()
	stdout, _ = s.run(0, "", append([]string{
		"enroll", "--dir", s.wallet(), "--ca", s.ca.URL, "--root", s.file("root.pem"), "--brand", settest.Brand, "--reader", s.card.Name,
		"--pan-source", "file:" + s.file("pan"), "--expiry-source", "file:" + s.file("expiry"), "--pin-source", "file:" + s.file("pin"),
		"--answers", s.file("answers.yaml"), "--accept-policy",
	}, extra...)...)
	return stdout
}

// pay gives the arguments of a payment with the PIN in a file.
func (s *scene) pay(pin string, extra ...string) []string {
	args := append([]string{"pay", "--dir", s.wallet(), "--pin-source", "file:" + s.file(pin)}, extra...)
	return append(args, s.shop.PayURL)
}

// wantPayments checks how many payments the shop has got.
func (s *scene) wantPayments(want int) {
	s.t.Helper()
	if got := s.shop.Count(set.PReqType); got != want {
		s.t.Fatalf("the shop got %d payments, want %d", got, want)
	}
}

// checkSecrecy searches what was printed and stored.
func (s *scene) checkSecrecy() {
	where := map[string]string{"output": strings.Join(s.output, "\n")}
	files, err := filepath.Glob(filepath.Join(s.wallet(), "*"))
	if err != nil || len(files) == 0 {
		s.t.Errorf("wallet's files: %v, %v", files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			s.t.Error(err)
		}
		where[f] = string(b)
	}
	for name, text := range where {
		for what, secret := range map[string]string{"PAN": testPAN, "expiry": testExpiry, "secret": testSecret, "wrong PIN": wrongPIN, "PUK": testPUK} {
			if strings.Contains(text, secret) {
				s.t.Errorf("%s shows the %s", name, what)
			}
		}
	}
	if strings.Contains(where["output"], testPIN) || strings.Contains(where["output"], "\x1b") {
		s.t.Error("the output shows the PIN, or a peer's control characters")
	}
}

func TestEnrollAndPay(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	var e enrolled
	if err := json.Unmarshal([]byte(s.enroll("--json")), &e); err != nil {
		t.Fatal(err)
	}
	serial := strconv.FormatUint(uint64(s.card.Virtual.Serial()), 10)
	if e.Serial != serial || e.Card != "**** 1111" || e.Brand != settest.Brand || e.APDUs.Count == 0 || len(e.Messages) != 6 {
		t.Errorf("enrolled %+v", e)
	}

	// No consent, a wrong PIN: nothing is sent.
	_, stderr := s.run(1, "no\n", s.pay("pin")...)
	if !strings.Contains(stderr, "cancelled") {
		t.Errorf("without consent: %s", stderr)
	}
	stdout, stderr := s.run(1, "", s.pay("wrong", "--yes")...)
	if !strings.Contains(stderr, "2 tries left") || !strings.Contains(stdout, "42.50 CHF") {
		t.Errorf("wrong PIN: %s%s", stdout, stderr)
	}
	s.wantPayments(0)

	s.shop.Behave(wallettest.Behaviour{Code: set.AuthDeclined})
	stdout, stderr = s.run(1, "", s.pay("pin", "--yes")...)
	if !strings.Contains(stdout, "DECLINED") || !strings.Contains(stderr, "nothing was paid") {
		t.Errorf("declined: %s%s", stdout, stderr)
	}
	s.wantPayments(1)

	s.shop.Behave(wallettest.Behaviour{})
	s.shop.NewOrder()
	stdout, stderr = s.run(0, "yes\n", s.pay("pin", "--json")...)
	var r receipt
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatal(err)
	}
	want := receipt{
		Outcome: "approved", AuthCode: "approved", CompletionCode: "authorizationPerformed", Brand: settest.Brand,
		Merchant: party{Name: "Book Shop M-0001", Place: "Bern, Switzerland"}, Gateway: party{Name: "G-0001"}, Card: party{Name: "**** 1111"},
		Order: "1 x The Elements of Programming\n2 x Pencil [31m2B", Amount: "42.50 CHF",
	}
	ignore := cmp.Options{cmpopts.IgnoreFields(receipt{}, "XID", "Date", "Answered", "APDUs", "Messages"), cmpopts.IgnoreFields(party{}, "Certificate")}
	if diff := cmp.Diff(want, r, ignore); diff != "" {
		t.Error(diff)
	}
	var types []string
	for _, m := range r.Messages {
		types = append(types, m.Type)
	}
	if diff := cmp.Diff([]string{"PInitReq", "PInitRes", "PReq", "PRes"}, types); diff != "" {
		t.Error(diff)
	}
	t.Logf("%d APDUs in %v ms; messages %+v", r.APDUs.Count, r.APDUs.Milliseconds, r.Messages)
	if r.APDUs.Count == 0 || r.Card.Certificate != e.Certificate || !strings.Contains(stderr, "42.50 CHF") {
		t.Errorf("receipt %s\n%s", stdout, stderr)
	}
	s.wantPayments(2)
	s.checkHistory(&r)

	// Paying the same order again pays nothing.
	stdout, _ = s.run(0, "", s.pay("pin", "--yes")...)
	if !strings.Contains(stdout, r.XID) || !strings.Contains(stdout, "not paid again") {
		t.Errorf("second time: %s", stdout)
	}
	s.wantPayments(2)
	stdout, _ = s.run(0, "", "inquire", "--dir", s.wallet(), "--pin-source", "file:"+s.file("pin"), r.XID)
	if !strings.Contains(stdout, "APPROVED") || s.shop.Count(set.InqReqType) != 1 {
		t.Errorf("inquiry: %s", stdout)
	}
}

func (s *scene) checkHistory(r *receipt) {
	s.t.Helper()
	stdout, _ := s.run(0, "", "history", "--dir", s.wallet(), "--json")
	var list []receipt
	if err := json.Unmarshal([]byte(stdout), &list); err != nil || len(list) != 2 {
		s.t.Fatalf("history %s, %v", stdout, err)
	}
	outcomes := map[string]int{}
	for _, p := range list {
		outcomes[p.Outcome]++
	}
	if diff := cmp.Diff(map[string]int{"approved": 1, "declined": 1}, outcomes); diff != "" {
		s.t.Error(diff)
	}
	if stdout, _ = s.run(0, "", "history", "--dir", s.wallet()); strings.Count(stdout, "42.50 CHF") != 2 {
		s.t.Errorf("history %s", stdout)
	}
	stdout, _ = s.run(0, "", "history", "show", "--dir", s.wallet(), r.XID)
	for _, want := range []string{"APPROVED", r.XID, "42.50 CHF", "**** 1111", r.Merchant.Certificate, r.Card.Certificate, r.Gateway.Certificate} {
		if !strings.Contains(stdout, want) {
			s.t.Errorf("receipt lacks %q:\n%s", want, stdout)
		}
	}
	s.run(1, "", "history", "show", "--dir", s.wallet(), strings.Repeat("00", 20))
	s.run(2, "", "history", "show", "--dir", s.wallet(), "zz")
}

func TestPINBlocked(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.enroll()
	for _, step := range []struct {
		args []string
		want string
	}{
		{s.pay("wrong", "--yes"), "2 tries left"},
		{s.pay("wrong", "--yes"), "1 try left"},
		{s.pay("wrong", "--yes"), "--last-try"},
		{s.pay("pin", "--yes"), "--last-try"}, // even the right one
		{s.pay("wrong", "--yes", "--last-try"), "blocked"},
		{s.pay("pin", "--yes", "--last-try"), "set-wallet unblock"},
		{s.unblock("wrong"), "2 tries left"},
	} {
		if _, stderr := s.run(1, "", step.args...); !strings.Contains(stderr, step.want) {
			t.Errorf("got %q, want %q", stderr, step.want)
		}
	}
	s.wantPayments(0)
	s.run(0, "", s.unblock("puk")...)
	s.run(0, "", s.pay("pin", "--yes")...)
	s.wantPayments(1)
}

func (s *scene) unblock(puk string) []string {
	return []string{"unblock", "--reader", s.card.Name, "--puk-source", "file:" + s.file(puk), "--pin-source", "file:" + s.file("pin")}
}

func TestResume(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.enroll()
	s.shop.Behave(wallettest.Behaviour{Silent: true})
	stdout, stderr := s.run(4, "", s.pay("pin", "--yes", "--json")...)
	var lost receipt
	if err := json.Unmarshal([]byte(stdout), &lost); err != nil || lost.Outcome != "unknown" {
		t.Fatalf("got %s, %v", stdout, err)
	}
	if !strings.Contains(stderr, "set-wallet inquire "+lost.XID) {
		t.Errorf("no way on: %s", stderr)
	}
	s.card.Unplug() // the same octets need no card
	s.shop.Behave(wallettest.Behaviour{})
	stdout, _ = s.run(0, "", s.pay("pin", "--yes", "--json")...)
	var r receipt
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || r.Outcome != "approved" || r.XID != lost.XID || !r.Resumed {
		t.Fatalf("got %s, %v", stdout, err)
	}
	if n := len(s.shop.Payments()); n != 1 {
		t.Errorf("%d different payments, want 1", n)
	}
	// Without the card nothing new can be paid, and it is said which one is wanted.
	s.shop.NewOrder()
	if _, stderr = s.run(3, "", s.pay("pin", "--yes")...); !strings.Contains(stderr, strconv.FormatUint(uint64(s.card.Virtual.Serial()), 10)) {
		t.Errorf("got %q", stderr)
	}
}

func TestPayRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	if _, stderr := s.run(1, "", s.pay("pin", "--yes")...); !strings.Contains(stderr, "no enrolled card") {
		t.Errorf("got %q", stderr)
	}
	s.enroll()
	file := s.file("initiation")
	pay := []string{"pay", "--dir", s.wallet(), "--pin-source", "file:" + s.file("pin"), "--yes"}
	s.run(2, "", pay...)
	s.run(2, "", append(pay, "a", "b")...)
	s.run(2, "", append(pay, file)...)
	s.run(1, "", append(pay, s.shop.URL)...)               // no initiation message there
	s.run(4, "", append(pay, "http://127.0.0.1:1/pay")...) // nobody there
	s.run(3, "", append(pay, "--reader", "none", s.shop.PayURL)...)
	if err := os.WriteFile(file, bytes.Repeat([]byte("x"), initiationOctetsMax+1), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run(1, "", append(pay, file)...)
	b, err := s.shop.Initiation().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s.wantPayments(0)
	s.run(0, "", append(pay, "--reader", s.card.Name, file)...)
	s.wantPayments(1)
}

func TestEnrollRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	base := []string{
		"enroll", "--dir", s.wallet(), "--root", s.file("root.pem"), "--brand", settest.Brand, "--reader", s.card.Name,
		"--pan-source", "file:" + s.file("pan"), "--expiry-source", "file:" + s.file("expiry"),
	}
	enroll := func(code int, stdin, pin string, extra ...string) string {
		t.Helper()
		_, stderr := s.run(code, stdin, append(append(base, "--pin-source", "file:"+s.file(pin), "--ca", s.ca.URL), extra...)...)
		return stderr
	}
	answers := []string{"--answers", s.file("answers.yaml")}
	if got := enroll(1, "no\n", "pin", answers...); !strings.Contains(got, "policy") {
		t.Errorf("policy refused: %q", got)
	}
	if got := enroll(1, "", "wrong", append(answers, "--accept-policy")...); !strings.Contains(got, "2 tries left") {
		t.Errorf("wrong PIN: %q", got)
	}
	if s.ca.Requests() != 0 {
		t.Error("a certificate was requested")
	}
	s.ca.Refuse(&set.CertStatusError{Code: set.RejectedByIssuer, Message: "see your\x1b[5m bank"})
	if got := enroll(1, "", "pin", append(answers, "--accept-policy")...); !strings.Contains(got, "see your[5m bank") {
		t.Errorf("refused: %q", got)
	}
	// The registration secret is asked for at a terminal only.
	enroll(2, "Ada\n", "pin", "--accept-policy")
	s.run(4, "", append(base, "--ca", "http://127.0.0.1:1/cca", "--accept-policy", "--pin-source", "file:"+s.file("pin"))...)
	s.run(2, "", append(base, "--ca", s.ca.URL, "--root", s.file("answers.yaml"))...)
	for _, args := range [][]string{
		{"--ca", s.ca.URL}, {"--root", s.file("root.pem"), "--brand", settest.Brand}, {"--ca", s.ca.URL, "--root", s.file("root.pem")},
		{"--ca", s.ca.URL, "--root", s.file("root.pem"), "--brand", settest.Brand, "--bank", "Nordhavn Bank"},
	} {
		s.run(2, "", append([]string{"enroll", "--dir", s.wallet()}, args...)...)
	}
	if _, got := s.run(1, "", "enroll", "--dir", s.wallet()); !strings.Contains(got, "set-wallet install") {
		t.Errorf("without a bundle: %q", got)
	}
}
