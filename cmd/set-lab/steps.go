package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
		{"Tokens: a SoftHSM token for each CA, issuer, gateway and merchant", w.makeTokens},
		{"Key ceremony: root, brand, cardholder, merchant and payment CA", w.holdCeremony},
		{"Issuer: keys, accounts, ISO 8583 host", w.startIssuer},
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
	if _, err := w.run(ctx, w.env("ca"), "set-ca", "ceremony", "--config", w.path("config", "ceremony", "lab.yaml")); err != nil {
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
	if err := w.runJSON(ctx, &tokens, w.env("ca"), "set-hsm", "tokens", "--json"); err != nil {
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

// env is what a party's process finds in its environment: its token directory and where things are. PINs
// are in files that only the party's configuration names.
func (w *world) env(party string) []string {
	module, _ := hsm.SoftHSMPath() // makeTokens found it
	env := []string{
		"SOFTHSM2_CONF=" + w.path("hsm", party, softhsmconfig.ConfName),
		"SET_PKCS11_MODULE=" + module,
		"SET_CA_OUTPUT=" + w.path("ca"),
	}
	for name, token := range map[string]string{
		"SET_ROOT_CA_PIN": "root-ca", "SET_BRAND_CA_PIN": "brand-ca", "SET_CARDHOLDER_CA_PIN": "cardholder-ca",
		"SET_MERCHANT_CA_PIN": "merchant-ca", "SET_PAYMENT_CA_PIN": "payment-ca",
	} {
		pin, _ := os.ReadFile(w.path("secrets", token+"-pin"))
		env = append(env, name+"="+strings.TrimSpace(string(pin)))
	}
	return env
}

// socket is where the private pcscd listens.
func (w *world) socket() string { return filepath.Join(w.PCSCDir, "pcscd.comm") }

func (w *world) startIssuer(ctx context.Context) error   { return nil }
func (w *world) startCA(ctx context.Context) error       { return nil }
func (w *world) startGateway(ctx context.Context) error  { return nil }
func (w *world) startMerchant(ctx context.Context) error { return nil }
func (w *world) enrolCard(ctx context.Context) error     { return nil }

// makeCard puts a factory-fresh card into a virtual reader and personalises it.
func (w *world) makeCard(ctx context.Context) error {
	env := []string{"PCSCLITE_CSOCK_NAME=" + w.socket()}
	if err := w.start(ctx, nil, says("ready"), "card", "set-card", "emulate", "--dir", w.PCSCDir); err != nil {
		return err
	}
	if err := w.keep(w.path("secrets", "card-pin"), cardPIN+"\n"); err != nil {
		return err
	}
	_, err := w.run(ctx, env, "set-card", "personalise", "--pin-source", "file:"+w.path("secrets", "card-pin"),
		"--secrets-file", w.path("secrets", "card-issuer"))
	return err
}

// cardPIN is the PIN of the lab's card.
const cardPIN = "482915"
