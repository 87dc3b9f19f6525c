package main

import (
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/set/settest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"set-inspect": func() { cli.Main(newApp()) }})
}

const testPAN = "4111111111111111"

// The scripts find a PReq whose payment is encrypted for a key in a token, the token, and the golden and
// recorded messages.
func TestScripts(t *testing.T) {
	t.Parallel()
	token := hsmtest.New(t)
	preq, gateway := purchaseRequest(t, token.Open(t))
	testdata, err := filepath.Abs("../../testdata")
	if err != nil {
		t.Fatal(err)
	}
	held, err := filepath.Abs("../../roles/ca/ceremony/testdata/held")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			for _, e := range token.Env {
				name, value, _ := strings.Cut(e, "=")
				env.Setenv(name, value)
			}
			env.Setenv("GORACE", "atexit_sleep_ms=0") // or every command takes a second longer
			env.Setenv("KEY", token.KeyURI("key-exchange"))
			env.Setenv("OTHER", token.KeyURI("other"))
			env.Setenv("NOWHERE", strings.ReplaceAll(token.KeyURI("key-exchange"), token.Label, "nowhere"))
			env.Setenv("PAN", testPAN)
			env.Setenv("GOLDEN", filepath.Join(testdata, "golden"))
			env.Setenv("TRACE", filepath.Join(testdata, "trace"))
			env.Setenv("HELD", held)
			return errors.Join(
				os.WriteFile(filepath.Join(env.WorkDir, "PReq.der"), preq, 0o600),
				os.WriteFile(filepath.Join(env.WorkDir, "PReq.hex"), []byte(hex.EncodeToString(preq)), 0o600),
				os.WriteFile(filepath.Join(env.WorkDir, "cut.der"), preq[:100], 0o600),
				os.WriteFile(filepath.Join(env.WorkDir, "gateway.der"), gateway, 0o600),
			)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": cmdExits},
	})
}

// cmdExits runs a command that must end with an exit code: exits CODE COMMAND...
func cmdExits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s has exit code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// purchaseRequest makes a PReq for a gateway whose key-exchange key is in the token, which also gets
// another key. It gives the gateway's certificate too.
func purchaseRequest(t *testing.T, token *hsm.Token) (preq, gateway []byte) {
	t.Helper()
	for _, label := range []string{"key-exchange", "other"} {
		_, err := token.GenerateKey(t.Context(), label, hsm.PurposeKeyExchange, hsm.RSA2048)
		check(t, err)
	}
	key, err := token.Decrypter(t.Context(), "key-exchange")
	check(t, err)
	w := settest.NewWorld(t)
	cert := w.Issue(t, pki.Template{
		Type: pki.Pgwy, Use: pki.KeyExchange, Subject: pki.Name{Country: "CH", Brand: w.Brand, Unit: "Acquirer", CommonName: "G-0001"},
		PublicKey: key.Public(), CardCertRequired: true, Tunneling: &pki.Tunneling{Supported: true},
	})
	order, price := []byte("1 x Atlas"), set.CurrencyAmount{Currency: 840, Amount: 3650, AmtExp10: -2}
	card, merchant := w.Card(t, testPAN), w.Merchant(t, settest.MerchantID)
	sale := &set.Sale{OD: order, PurchAmt: price, LIDM: set.NewLocalID()}
	p, err := set.NewPurchase(&set.Initiation{PurchAmt: &price, Brands: []set.BrandID{settest.Brand}, LIDM: sale.LIDM, Order: order}, settest.Brand, "411111", "en")
	check(t, err)
	initReq, err := p.InitReq(card.Endpoint, w.Now)
	check(t, err)
	m, err := merchant.Receive(w.Now, initReq, set.PInitReqType)
	check(t, err)
	opened, err := m.OpenPInitReq()
	check(t, err)
	initRes, err := sale.InitRes(merchant, w.Now, opened, cert, w.Chain(pki.PCA))
	check(t, err)
	_, err = p.OpenInitRes(card.Endpoint, w.Now, initRes)
	check(t, err)
	preq, err = p.Request(card.Endpoint, w.Now, &card.Account)
	check(t, err)
	return preq, cert.X509.Raw
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
