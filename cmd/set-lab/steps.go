package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/setkit/setkit/hsm"
	softhsmconfig "github.com/setkit/setkit/softhsm-config"
	"github.com/setkit/setkit/testdata"
)

// step is one thing that is done, announced when it begins and timed when it ends.
type step struct {
	title string
	run   func(context.Context) error
}

func runSteps(ctx context.Context, out io.Writer, steps []step) error {
	for _, s := range steps {
		fmt.Fprintf(out, "%-66s", s.title+" ")
		began := time.Now()
		if err := s.run(ctx); err != nil {
			fmt.Fprintln(out, "failed")
			return fmt.Errorf("%s: %w", s.title, err)
		}
		fmt.Fprintf(out, "%6.1f s\n", time.Since(began).Seconds())
	}
	return nil
}

// make builds the world up to a cardholder who can buy.
func (w *world) make(ctx context.Context, out io.Writer) error {
	return runSteps(ctx, out, []step{
		{"Recorder: the parties' messages are written down as they pass", w.startRecorder},
		{"Tokens: a SoftHSM token for each CA, issuer, gateway and merchant", w.makeTokens},
		{"Key ceremony: root, brand, cardholder, merchant and payment CA", w.holdCeremony},
		{"Issuer: keys, accounts, wallet bundle, ISO 8583 host", w.startIssuer},
		{"Wallet: the bank's bundle, its signer compared with the letter", w.installWallet},
		{"CAs: cardholder, merchant and payment CA answer", w.startCA},
		{"Gateway: keys in its token, certificates from the payment CA", w.startGateway},
		{"Merchant: keys in its token, certificates from the merchant CA", w.startMerchant},
		{"Card: keys made on the card, PIN and PUK set", w.makeCard},
		{"Wallet: cardholder certificate from the cardholder CA", w.enrolCard},
	})
}

// The tokens, by who sees them. Root and brand CA go offline after the ceremony.
var (
	offlineTokens = []string{"root-ca", "brand-ca"}
	caTokens      = []string{"cardholder-ca", "merchant-ca", "payment-ca"}
	partyTokens   = []string{"issuer", "gateway", "merchant"}
)

// makeTokens makes a token for every holder. Holders that run in one process share a folder.
func (w *world) makeTokens(ctx context.Context) error {
	module, err := hsm.SoftHSMPath()
	if err != nil {
		return err
	}
	if err := os.CopyFS(w.path("config"), testdata.Lab); err != nil {
		return err
	}
	folder := map[string]string{}
	for _, t := range append(offlineTokens, caTokens...) {
		folder[t] = "ca"
	}
	for _, t := range partyTokens {
		folder[t] = t
	}
	for token, place := range folder {
		conf, err := softhsmconfig.Write(w.path("hsm", place))
		if err != nil {
			return err
		}
		pin, err := w.secret(token + "-pin")
		if err != nil {
			return err
		}
		so, err := w.secret(token + "-so-pin")
		if err != nil {
			return err
		}
		if _, err := w.run(ctx, []string{"SOFTHSM2_CONF=" + conf}, "set-hsm", "init", "--module", module,
			"--label", token, "--so-pin-source", "file:"+so, "--pin-source", "file:"+pin); err != nil {
			return err
		}
	}
	return nil
}

// holdCeremony makes the CAs' keys and certificates, then takes root and brand CA out of reach of the
// servers, as tokens that go back into the safe.
func (w *world) holdCeremony(ctx context.Context) error {
	if _, err := w.run(ctx, w.env("ca", ceremonySecrets), "set-ca", "ceremony", "--config", w.path("config", "ceremony", "lab.yaml"),
		"--bindings", w.path("config", "ceremony", "lab-bindings.yaml")); err != nil {
		return err
	}
	return w.putAway(ctx, offlineTokens)
}

// putAway moves tokens from the CA's token directory to one that no server uses.
func (w *world) putAway(ctx context.Context, labels []string) error {
	if _, err := softhsmconfig.Write(w.path("hsm", "offline")); err != nil {
		return err
	}
	var tokens []struct{ Label, Serial string }
	if err := w.runJSON(ctx, &tokens, w.env("ca", nil), "set-hsm", "tokens", "--json"); err != nil {
		return err
	}
	from := w.path("hsm", "ca", "tokens")
	folders, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, label := range labels {
		moved := false
		for _, t := range tokens {
			if t.Label != label {
				continue
			}
			// SoftHSM names a token's folder by a UUID that ends with its serial number.
			for _, f := range folders {
				if strings.HasSuffix(strings.ReplaceAll(f.Name(), "-", ""), t.Serial) {
					if err := os.Rename(filepath.Join(from, f.Name()), w.path("hsm", "offline", "tokens", f.Name())); err != nil {
						return err
					}
					moved = true
				}
			}
		}
		if !moved {
			return fmt.Errorf("token %s has no folder in %s", label, from)
		}
	}
	return nil
}

// env is what a party's process finds in its environment: where things are, its own token directory, and
// where the secrets are. The secrets themselves are in no environment.
func (w *world) env(party string, secrets map[string]string) []string {
	module, _ := hsm.SoftHSMPath() // makeTokens found it
	db := func(name string) string { return "sqlite:" + w.path(name+".db") }
	issuer := map[string]string{"ca": doorIssuerCA, "gateway": doorIssuer}[party] // the others do not ask it
	if issuer == "" {
		issuer = "issuer"
	}
	env := []string{
		"SOFTHSM2_CONF=" + w.path("hsm", party, softhsmconfig.ConfName),
		"SET_PKCS11_MODULE=" + module,
		"SET_CA_OUTPUT=" + w.path("ca"),
		"SET_CA_LISTEN=" + w.addr("ca"),
		"SET_CA_URL=" + w.url("ca"),
		"SET_CA_DATABASE=" + db("ca"),
		"SET_ISSUER_HOST=" + w.addr(issuer),
		"SET_ISSUER_HTTP=" + w.addr("issuer-http"),
		"SET_ISSUER_DATABASE=" + db("issuer"),
		"SET_ISSUER_BRANDING=" + w.path("config", "wallet"),
		"SET_GATEWAY_LISTEN=" + w.addr("gateway"),
		"SET_GATEWAY_URL=" + w.url("gateway") + "/set",
		"SET_GATEWAY_DATABASE=" + db("gateway"),
		"SET_GATEWAY_CERTIFICATES=" + w.path("gateway.pem"),
		"SET_MERCHANT_LISTEN=" + w.addr("merchant"),
		"SET_MERCHANT_URL=" + w.url("merchant"),
		"SET_MERCHANT_DATABASE=" + db("merchant"),
		"SET_MERCHANT_CERTIFICATES=" + w.path("merchant.pem"),
		"SET_MERCHANT_OFFICE_LISTEN=" + w.addr("office"),
		"SET_MERCHANT_OFFICE_URL=http://" + w.addr("office"),
		"SET_MERCHANT_OPERATORS=" + w.path("operators.yaml"),
		"SET_MERCHANT_CATALOGUE=" + w.path("config", "catalogue.yaml"),
	}
	for _, name := range slices.Sorted(maps.Keys(secrets)) {
		source := "file:" + w.path("secrets", secrets[name])
		if strings.HasSuffix(name, "_PIN_SOURCE") { // becomes part of a URI
			source = strings.TrimPrefix(hsm.URI{PINSource: source}.String(), "pkcs11:?pin-source=")
		}
		env = append(env, name+"="+source)
	}
	return env
}

// Where parties find their secrets: the variables that their configurations take the sources from, and
// the names of the files.
var (
	ceremonySecrets = map[string]string{
		"SET_ROOT_CA_PIN_SOURCE": "root-ca-pin", "SET_BRAND_CA_PIN_SOURCE": "brand-ca-pin", "SET_CARDHOLDER_CA_PIN_SOURCE": "cardholder-ca-pin",
		"SET_MERCHANT_CA_PIN_SOURCE": "merchant-ca-pin", "SET_PAYMENT_CA_PIN_SOURCE": "payment-ca-pin",
	}
	caSecrets = map[string]string{
		"SET_CARDHOLDER_CA_PIN_SOURCE": "cardholder-ca-pin", "SET_MERCHANT_CA_PIN_SOURCE": "merchant-ca-pin", "SET_PAYMENT_CA_PIN_SOURCE": "payment-ca-pin",
		"SET_GATEWAY_REGISTRATION_CODE_SOURCE": "gateway-registration-code", "SET_MERCHANT_REGISTRATION_CODE_SOURCE": "merchant-registration-code",
	}
	issuerSecrets  = map[string]string{"SET_ISSUER_PIN_SOURCE": "issuer-pin"}
	gatewaySecrets = map[string]string{
		"SET_GATEWAY_PIN_SOURCE": "gateway-pin", "SET_GATEWAY_REGISTRATION_CODE_SOURCE": "gateway-registration-code",
	}
	merchantSecrets = map[string]string{
		"SET_MERCHANT_PIN_SOURCE": "merchant-pin", "SET_MERCHANT_REGISTRATION_CODE_SOURCE": "merchant-registration-code",
		"SET_MERCHANT_API_TOKEN_SOURCE": apiToken,
	}
)

// config gives the path of a server's configuration.
func (w *world) config(party string) string { return w.path("config", "config", party+".yaml") }

func (w *world) startIssuer(ctx context.Context) error {
	env := w.env("issuer", issuerSecrets)
	if _, err := w.run(ctx, env, "set-issuer", "init", "--config", w.config("issuer")); err != nil {
		return err
	}
	if _, err := w.run(ctx, env, "set-issuer", "import", "--config", w.config("issuer"), w.path("config", "accounts.yaml")); err != nil {
		return err
	}
	var bundle struct{ Fingerprint string }
	if err := w.runJSON(ctx, &bundle, env, "set-issuer", "wallet-bundle", "--json", "--config", w.config("issuer")); err != nil {
		return err
	}
	if err := w.keep(w.path("letter"), bundle.Fingerprint+"\n"); err != nil {
		return err
	}
	return w.start(ctx, env, answers("http://"+w.addr("issuer-http")), "issuer", "set-issuer", "serve", "--config", w.config("issuer"))
}

// installWallet plays the cardholder, who has a letter from the bank with the fingerprint of its key.
func (w *world) installWallet(ctx context.Context) error {
	letter, err := os.ReadFile(w.path("letter"))
	if err != nil {
		return err
	}
	_, err = w.run(ctx, nil, "set-wallet", "install", "--dir", w.path("wallet"), "--fingerprint", strings.TrimSpace(string(letter)),
		"http://"+w.addr("issuer-http")+"/wallet-bundle")
	return err
}

func (w *world) startCA(ctx context.Context) error {
	for _, party := range []string{"gateway", "merchant"} {
		if _, err := w.secret(party + "-registration-code"); err != nil {
			return err
		}
	}
	return w.start(ctx, w.env("ca", caSecrets), answers("http://"+w.addr("ca")), "ca", "set-ca", "serve", "--config", w.config("ca"))
}

func (w *world) startGateway(ctx context.Context) error {
	return w.startParty(ctx, "gateway", gatewaySecrets)
}

func (w *world) startMerchant(ctx context.Context) error {
	password, err := w.secret(officePassword)
	if err != nil {
		return err
	}
	if _, err := w.secret(apiToken); err != nil {
		return err
	}
	if _, err := w.run(ctx, w.env("merchant", merchantSecrets), "set-merchant", "operator", "add", "--config", w.config("merchant"),
		"--password-source", "file:"+password, officeOperator); err != nil {
		return err
	}
	return w.startParty(ctx, "merchant", merchantSecrets)
}

// startParty enrols and starts a party that gets its certificates from the CAs.
func (w *world) startParty(ctx context.Context, party string, secrets map[string]string) error {
	env := w.env(party, secrets)
	if _, err := w.run(ctx, env, "set-"+party, "enroll", "--config", w.config(party)); err != nil {
		return err
	}
	return w.start(ctx, env, answers("http://"+w.addr(party)), party, "set-"+party, "serve", "--config", w.config(party))
}

// socket is where the private pcscd listens.
func (w *world) socket() string { return filepath.Join(w.PCSCDir, "pcscd.comm") }

func (w *world) cardEnv() []string { return []string{"PCSCLITE_CSOCK_NAME=" + w.socket()} }

// cardPIN is the PIN of the lab's card.
const cardPIN = "482915"

// makeCard puts a factory-fresh card into a virtual reader and personalises it as the issuer does: its
// management key is derived from one in the issuer's token.
func (w *world) makeCard(ctx context.Context) error {
	if err := w.start(ctx, nil, says("ready"), "card", "set-card", "emulate", "--dir", w.PCSCDir); err != nil {
		return err
	}
	if err := w.keep(w.path("secrets", "card-pin"), cardPIN+"\n"); err != nil {
		return err
	}
	module, err := hsm.SoftHSMPath()
	if err != nil {
		return err
	}
	key := hsm.URI{Token: "issuer", ModulePath: module, PINSource: "file:" + w.path("secrets", "issuer-pin")}
	issuer := append(w.env("issuer", nil), w.cardEnv()...)
	if _, err := w.run(ctx, issuer, "set-hsm", "keys", "generate", "--token", key.String(), "--label", "card-master", "--purpose", "mac", "--type", "aes-256"); err != nil {
		return err
	}
	key.Object = "card-master"
	_, err = w.run(ctx, issuer, "set-card", "personalise", "--master-key", key.String(),
		"--pin-source", "file:"+w.path("secrets", "card-pin"), "--secrets-file", w.path("secrets", "card-issuer"))
	return err
}

// The cardholder of the lab, as testdata/accounts.yaml has her.
const (
	accountID    = "alice"
	holder       = "Alice Andersen"
	pan          = "4111111111111111"
	expiry       = "203512"
	registration = "tulip-harbour-41"
)

// enrolCard plays the cardholder, who has her card number and a registration secret from the bank. The CA
// and all that verifies it are in the bank's bundle.
func (w *world) enrolCard(ctx context.Context) error {
	for name, text := range map[string]string{"pan": pan, "expiry": expiry, "registration-secret": registration} {
		if err := w.keep(w.path("secrets", name), text+"\n"); err != nil {
			return err
		}
	}
	answers := fmt.Sprintf("Name: %s\nRegistration secret: {source: \"file:%s\"}\n", holder, w.path("secrets", "registration-secret"))
	if err := w.keep(w.path("secrets", "answers.yaml"), answers); err != nil {
		return err
	}
	_, err := w.run(ctx, w.cardEnv(), "set-wallet", "enroll",
		"--pan-source", "file:"+w.path("secrets", "pan"), "--expiry-source", "file:"+w.path("secrets", "expiry"),
		"--answers", w.path("secrets", "answers.yaml"), "--accept-policy", "--dir", w.path("wallet"),
		"--pin-source", "file:"+w.path("secrets", "card-pin"))
	return err
}
