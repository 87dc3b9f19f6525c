package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/setkit/setkit/cmd/internal/party"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sethttp"
	softhsmconfig "github.com/setkit/setkit/softhsm-config"
)

// scenarioWorld is the world in which the scripts of testdata/scenarios take place, one after the other. Each
// has orders of its own, and looks at what it changed of the accounts.
type scenarioWorld struct {
	*world
	began time.Time
}

// Each script is one business case; that of the wallet bundle is in cmd/set-wallet/testdata, and cmd/set-ca/testdata has
// the life of certificates in more detail. The commands run as a person types them, in the folder of the
// configurations and with the environment of their party; ! means exit code 1, refused. What else there is:
//
//	order ITEM QUANTITY [TERMS]   orders in the shop; ORDER and PAY are the order's number and address, SOON and
//	                              PAST are days for the terms
//	xid, batch, request, serial   take XID, BATCH, REQUEST or SERIAL from what was just printed
//	await STATE                   waits until the order is in this state; XID is that of its payment
//	balance ACCOUNT AVAILABLE HELD BOOKED
//	                              waits until the account has changed so, since the script began
//	captures MODE                 has the merchant capture so until the script ends, instead of by hand
//	halt PARTY, start PARTY       ends and starts a server
//	logged PARTY TEXT             waits until the log of a server that runs has this text
//	pay-unsigned                  pays as a cardholder who has no certificate
//	officer ARGUMENT...           set-ca with the tokens of root and brand CA, out of the safe
//	pay-without PARTY             pays, but the server ends while the cardholder thinks about it: exit code 4
func TestScenarios(t *testing.T) {
	t.Parallel()
	w := &scenarioWorld{newPlainWorld(t), time.Now().UTC()}
	var out bytes.Buffer
	if err := w.make(t.Context(), &out); err != nil {
		t.Fatalf("%v\n%s", err, out.Bytes())
	}
	t.Logf("the world is made:\n%s", out.Bytes())
	if err := errors.Join(w.offerTerms(), w.configure("merchant", "capture", "manual"), w.restart(t.Context(), "merchant")); err != nil {
		t.Fatal(err)
	}
	testscript.RunT(inOrder{t}, testscript.Params{
		Dir: filepath.Join("testdata", "scenarios"), Setup: func(env *testscript.Env) error { return w.setup(t, env) },
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"set-merchant": w.party("merchant", merchantSecrets), "set-gateway": w.party("gateway", gatewaySecrets),
			"officer": w.officer, "pay-unsigned": w.cmdPayUnsigned,
			"set-issuer": w.party("issuer", issuerSecrets), "set-ca": w.party("ca", caSecrets), "set-wallet": w.party("wallet", nil),
			"order": w.cmdOrder, "await": w.cmdAwait, "balance": w.cmdBalance, "captures": w.cmdCaptures,
			"xid": take("XID", `"xid": "([0-9a-f]{40})"`), "batch": take("BATCH", `Batch +([0-9]+)`),
			"request": take("REQUEST", `"id": "([0-9a-f]+)"`), "serial": take("SERIAL", `([0-9a-f]+)`),
			"halt": w.cmdHalt, "logged": w.cmdLogged, "start": w.cmdStart, "pay-without": w.cmdPayWithout,
		},
	})
	t.Run("office", w.testOffice)
	w.checkMoney(t)
}

// inOrder runs the scripts one after the other: they share the world.
type inOrder struct{ *testing.T }

func (inOrder) Parallel()     {}
func (inOrder) Verbose() bool { return testing.Verbose() }
func (t inOrder) Run(name string, f func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { f(inOrder{t}) })
}

// offerTerms has the shop offer payments again and again until a day that is near, and until one that is past.
func (w *scenarioWorld) offerTerms() error {
	return edit(w.path("config", "catalogue.yaml"), `^terms:.*`, fmt.Sprintf("terms: [split, install 5, recur 1 %s, recur 1 %s]", w.day(2), w.day(-2)))
}

// day is so many days after that on which the world began.
func (w *scenarioWorld) day(n int) string { return w.began.AddDate(0, 0, n).Format("20060102") }

// configure gives a key of a party's configuration another value.
func (w *scenarioWorld) configure(party, key, value string) error {
	return edit(w.config(party), "^"+key+":.*", key+": "+value)
}

// edit replaces the line of a file that matches.
func edit(path, line, with string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	re := regexp.MustCompile("(?m)" + line)
	if n := len(re.FindAll(text, -1)); n != 1 {
		return fmt.Errorf("%s: %d lines match %s, want one", path, n, line)
	}
	return os.WriteFile(path, re.ReplaceAllLiteral(text, []byte(with)), 0o600)
}

// Keys of what a script keeps: the accounts as they were when it began, and its test.
type (
	baseline struct{}
	testKey  struct{}
)

func (w *scenarioWorld) setup(t *testing.T, env *testscript.Env) error {
	accounts, err := w.accounts(t)
	if err != nil {
		return err
	}
	env.Values[baseline{}] = accounts
	env.Values[testKey{}] = t
	env.Setenv("SOON", w.day(2))
	env.Setenv("PAST", w.day(-2))
	env.Setenv("PIN", "file:"+w.path("secrets", "card-pin"))
	for _, e := range append(w.walletEnv(), "PATH="+w.bin+":"+env.Getenv("PATH")) { // to run set-wallet beside other things
		name, value, _ := strings.Cut(e, "=")
		env.Setenv(name, value)
	}
	env.Setenv("LAB", w.dir)
	return nil
}

func (w *scenarioWorld) accounts(t *testing.T) (list []account, err error) {
	err = w.runJSON(t.Context(), &list, w.env("issuer", issuerSecrets), "set-issuer", "accounts", "--json", "--config", w.config("issuer"))
	return list, err
}

// party gives the command of a party.
func (w *scenarioWorld) party(party string, secrets map[string]string) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		env := w.env(party, secrets)
		if party == "wallet" {
			env = w.walletEnv()
		}
		w.do(ts, neg, env, "set-"+party, args)
	}
}

func (w *scenarioWorld) officer(ts *testscript.TestScript, neg bool, args []string) {
	w.do(ts, neg, append(append(w.env("ca", caSecrets), w.env("ca", ceremonySecrets)...), "SOFTHSM2_CONF="+w.path("hsm", "offline", softhsmconfig.ConfName)), "set-ca", args)
}

// do runs a command, which is to be refused if neg.
func (w *scenarioWorld) do(ts *testscript.TestScript, neg bool, env []string, name string, args []string) {
	cmd := w.command(ts.Value(testKey{}).(*testing.T).Context(), env, name, args...)
	cmd.Env = append(cmd.Env, "WORK="+ts.Getenv("WORK")) // for what a script brings
	cmd.Dir = w.path("config", "config")
	cmd.Stdout, cmd.Stderr = ts.Stdout(), ts.Stderr()
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case neg && err == nil:
		ts.Fatalf("%s %s: done, want it refused", name, strings.Join(args, " "))
	case neg && errors.As(err, &exit) && exit.ExitCode() == 1:
	default:
		ts.Check(err)
	}
}

func (w *scenarioWorld) walletEnv() []string {
	return append(w.cardEnv(), "SET_WALLET_DIR="+w.path("wallet"))
}

func usage(ts *testscript.TestScript, neg bool, right bool, text string) {
	if neg || !right {
		ts.Fatalf("usage: %s", text)
	}
}

func (w *scenarioWorld) cmdOrder(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2 || len(args) == 3, "order ITEM QUANTITY [TERMS]")
	quantity, err := strconv.Atoi(args[1])
	ts.Check(err)
	terms := ""
	if len(args) == 3 {
		terms = args[2]
	}
	o, err := w.placeOrder(ts.Value(testKey{}).(*testing.T).Context(), args[0], quantity, terms)
	ts.Check(err)
	ts.Setenv("ORDER_ID", o.ID)
	ts.Setenv("ORDER", fmt.Sprint(o.Number))
	ts.Setenv("PAY", w.url("merchant")+"/orders/"+o.ID+"/pay")
}

// take gives a variable the first match in what the last command printed.
func take(name, pattern string) func(*testscript.TestScript, bool, []string) {
	re := regexp.MustCompile(pattern)
	return func(ts *testscript.TestScript, neg bool, args []string) {
		usage(ts, neg, len(args) == 0, strings.ToLower(name))
		found := re.FindStringSubmatch(ts.ReadFile("stdout"))
		if found == nil {
			ts.Fatalf("no %s was printed", name)
		}
		ts.Setenv(name, found[1])
	}
}

func (w *scenarioWorld) cmdAwait(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "await STATE")
	var o order
	w.until(ts, func() (found string, ok bool, err error) {
		o, err = w.showOrder(ts.Value(testKey{}).(*testing.T).Context(), ts.Getenv("ORDER_ID"))
		return "the order is " + o.State, o.State == args[0], err
	})
	if o.Payment.XID != "" {
		ts.Setenv("XID", o.Payment.XID)
	}
}

// until waits for a condition.
func (w *scenarioWorld) until(ts *testscript.TestScript, holds func() (found string, ok bool, err error)) {
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(2 * pollInterval) {
		found, ok, err := holds()
		ts.Check(err)
		if ok {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("after %v, %s", startTimeout, found)
		}
	}
}

var change = regexp.MustCompile(`^(0|[+-][0-9]+\.[0-9]{2})$`)

func (w *scenarioWorld) cmdBalance(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 4 && !slices.ContainsFunc(args[1:], func(s string) bool { return !change.MatchString(s) }),
		"balance ACCOUNT AVAILABLE HELD BOOKED, each 0 or such as +10.50")
	find := func(list []account) *account {
		i := slices.IndexFunc(list, func(a account) bool { return a.ID == args[0] })
		if i < 0 {
			ts.Fatalf("the issuer has no account %s", args[0])
		}
		return &list[i]
	}
	before := find(ts.Value(baseline{}).([]account))
	want := [3]int64{}
	for i, text := range args[1:] {
		want[i] = cents(text)
	}
	w.until(ts, func() (string, bool, error) {
		list, err := w.accounts(ts.Value(testKey{}).(*testing.T))
		if err != nil {
			return "", false, err
		}
		now := find(list)
		got := [3]int64{
			cents(now.Available) - cents(before.Available), cents(now.Held) - cents(before.Held), cents(now.Booked) - cents(before.Booked),
		}
		return fmt.Sprintf("the account has changed by %v cents of available, held and booked, want %v", got, want), got == want, nil
	})
}

// cents reads an amount with two decimal places, or 0.
func cents(text string) (n int64) {
	digits := strings.Replace(strings.TrimLeft(text, "+-"), ".", "", 1)
	for _, d := range digits {
		n = 10*n + int64(d-'0')
	}
	if strings.HasPrefix(text, "-") {
		return -n
	}
	return n
}

func (w *scenarioWorld) cmdCaptures(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "captures MODE")
	t := ts.Value(testKey{}).(*testing.T)
	change := func(mode string) error {
		return errors.Join(w.configure("merchant", "capture", mode), w.restart(t.Context(), "merchant"))
	}
	ts.Check(change(args[0]))
	ts.Defer(func() {
		if err := change("manual"); err != nil {
			t.Error(err)
		}
	})
}

func (w *scenarioWorld) cmdHalt(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "halt PARTY")
	ts.Check(w.halt(args[0]))
	t := ts.Value(testKey{}).(*testing.T)
	ts.Defer(func() { // for the scripts after one that fails
		if !slices.ContainsFunc(w.Processes, func(p process) bool { return p.Name == args[0] }) {
			if err := w.restart(t.Context(), args[0]); err != nil {
				t.Error(err)
			}
		}
	})
}

func (w *scenarioWorld) cmdLogged(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "logged PARTY TEXT")
	w.until(ts, func() (string, bool, error) {
		log, err := os.ReadFile(w.path("log", args[0]+".log"))
		return "the log of " + args[0] + " has no " + strconv.Quote(args[1]), bytes.Contains(log, []byte(args[1])), err
	})
}

func (w *scenarioWorld) cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "start PARTY")
	ts.Check(w.restart(ts.Value(testKey{}).(*testing.T).Context(), args[0]))
}

func (w *scenarioWorld) cmdPayWithout(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "pay-without PARTY")
	cmd := w.command(ts.Value(testKey{}).(*testing.T).Context(), w.walletEnv(), "set-wallet", "pay", "--pin-source", ts.Getenv("PIN"), ts.Getenv("PAY"))
	stdin, err := cmd.StdinPipe()
	ts.Check(err)
	stderr, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	var asked []byte
	for b := make([]byte, 1); !bytes.Contains(asked, []byte("(yes/no)")); asked = append(asked, b[0]) {
		if _, err := stderr.Read(b); err != nil {
			ts.Fatalf("set-wallet does not ask for consent (%v):\n%s", err, asked)
		}
	}
	w.cmdHalt(ts, false, args)
	_, err = io.WriteString(stdin, "yes\n")
	ts.Check(err)
	said, err := io.ReadAll(stderr)
	ts.Check(err)
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 4 {
		ts.Fatalf("set-wallet pay: %v, want exit code 4:\n%s", err, said)
	}
	fmt.Fprintf(ts.Stderr(), "%s", said)
}

func (w *scenarioWorld) cmdPayUnsigned(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, false, len(args) == 0, "pay-unsigned")
	result, err := w.payUnsigned(ts.Value(testKey{}).(*testing.T).Context(), ts.Getenv("PAY"))
	if refused := errors.Is(err, set.ErrCardCert); !refused {
		ts.Check(err)
	} else if !neg {
		ts.Fatalf("%v", err)
	} else {
		fmt.Fprintln(ts.Stderr(), err)
		return
	}
	if neg {
		ts.Fatalf("the purchase is %v, want it refused", result)
	}
	fmt.Fprintln(ts.Stdout(), result)
}

// payUnsigned pays an order with the card number alone, as software of a cardholder does who never enrolled.
func (w *scenarioWorld) payUnsigned(ctx context.Context, pay string) (set.AuthCode, error) {
	res, err := http.Get(pay)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	initiation, err := set.ParseInitiation(b)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", b, err)
	}
	trust := party.Trust{Root: w.path("ca", "root.pem"), BCIs: []string{w.path("ca", "brand.bci")}}
	for _, crl := range []string{"root.crl", "brand.crl", "pca.crl"} {
		trust.CRLs = append(trust.CRLs, w.path("ca", crl))
	}
	verifier, err := trust.Verifier()
	if err != nil {
		return 0, err
	}
	if next, err := party.ReadCertificates(w.path("ca", "root-2.pem")); err == nil { // after the scenario of root replacement
		verifier = verifier.Succeed(next, time.Now())
	}
	e := &set.Endpoint{Verifier: verifier, Software: "cardholder without a certificate"}
	p, err := set.NewPurchase(initiation, "Meridian", set.BIN(pan[:6]), "en")
	if err != nil {
		return 0, err
	}
	exchange := func(req []byte, err error) ([]byte, error) {
		if err != nil {
			return nil, err
		}
		return new(sethttp.Client).Post(ctx, initiation.SETURL, sethttp.MediaPayment, req)
	}
	answer, err := exchange(p.InitReq(e, time.Now()))
	if err != nil {
		return 0, err
	}
	if _, err := p.OpenInitRes(e, time.Now(), answer); err != nil {
		return 0, err
	}
	answer, err = exchange(p.Request(e, time.Now(), &set.Account{PAN: set.PAN(pan), CardExpiry: set.CardExpiry(expiry)}))
	if err != nil {
		return 0, err
	}
	data, err := p.OpenResponse(e, time.Now(), answer)
	if err != nil {
		return 0, err
	}
	if r := data.PResPayloadSeq[0].Results; r != nil && r.AuthStatus != nil {
		return r.AuthStatus.AuthCode, nil
	}
	return 0, fmt.Errorf("the merchant says %v", data.PResPayloadSeq[0].CompletionCode)
}

// checkMoney: after everything that happened, what the merchant was paid is what it captured and did not give
// back, what the cardholder was debited with, and what gateway and issuer have settled.
func (w *scenarioWorld) checkMoney(t *testing.T) {
	var settled struct {
		Balanced bool
		Refused  []any
	}
	if err := w.runJSON(t.Context(), &settled, w.env("gateway", gatewaySecrets), "set-gateway", "settle", "--json", "--out", t.TempDir(), "--config", w.config("gateway")); err != nil {
		t.Fatal(err)
	}
	if !settled.Balanced || len(settled.Refused) > 0 {
		t.Errorf("the settlement: %+v", settled)
	}
	earned := w.earned(t)
	var book struct {
		Balance []struct {
			Currency, Booked, Settled, Open string
			Balanced                        bool
		}
	}
	if err := w.runJSON(t.Context(), &book, w.env("issuer", issuerSecrets), "set-issuer", "settlements", "--json", "--config", w.config("issuer")); err != nil {
		t.Fatal(err)
	}
	a, err := w.account(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d cents earned, account %+v, books %+v", earned, a, book)
	if earned == 0 || cents(a.Booked) != earned || cents(a.Available)+cents(a.Held)+earned != 500_00 {
		t.Errorf("the merchant has earned %d cents, the account is %+v", earned, a)
	}
	for _, b := range book.Balance {
		if b.Currency == a.Currency && (cents(b.Settled) != earned || !b.Balanced || cents(b.Open) != 0) {
			t.Errorf("the merchant has earned %d cents, the issuer's books: %+v", earned, b)
		}
	}
}
