package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// lookAround has commands that show a person what the parties of a running world know.
var lookAround = []struct{ party, command string }{
	{"wallet", "set-wallet about"},
	{"wallet", "set-wallet history"},
	{"wallet", "set-card status"},
	{"merchant", `set-merchant orders --config "$SET_CONFIG"`},
	{"gateway", `set-gateway transactions --config "$SET_CONFIG"`},
	{"issuer", `set-issuer accounts --config "$SET_CONFIG"`},
	{"ca", `set-ca list --config "$SET_CONFIG"`},
	{"wallet", `set-inspect trace --all "$SET_TRACE"`},
}

// plain text means itself to a shell.
var plain = regexp.MustCompile(`^[A-Za-z0-9_./:,@%+-]+$`)

// introduce tells a person how to use a world that runs on.
func (w *world) introduce(out io.Writer) error {
	if err := w.writeEnv(); err != nil {
		return err
	}
	line := func(what, format string, args ...any) {
		fmt.Fprintf(out, "  %-15s "+format+"\n", append([]any{what}, args...)...)
	}
	in := func(party, command string) { fmt.Fprintf(out, "  (. %s; %s)\n", quote(w.path("env", party)), command) }
	fmt.Fprintf(out, "\nThe world runs in %s\n", w.dir)
	line("shop", "%s", w.url("merchant"))
	line("back office", "http://%s as %s, password in %s", w.addr("office"), officeOperator, w.path("secrets", officePassword))
	if w.showsUI() {
		line("who saw what", "http://%s/", w.addr(uiService))
	}
	line("card", "export PCSCLITE_CSOCK_NAME=%s", w.socket())
	line("card's PIN", "in %s", w.path("secrets", "card-pin"))
	line("stop it with", "%s down --dir %s", w.show("set-lab"), quote(w.dir))
	fmt.Fprint(out, "\nBuy something in the shop's page, and open in the wallet the file that \"Pay with card reader\" brings:\n")
	in("wallet", "set-wallet ui --local --open FILE")
	fmt.Fprint(out, "or pay an order without a browser:\n")
	in("wallet", fmt.Sprintf("set-wallet pay %s/orders/ID/pay", w.url("merchant")))
	fmt.Fprint(out, "Look around, each in the party's own environment:\n")
	for _, l := range lookAround {
		in(l.party, l.command)
	}
	return nil
}

// writeEnv writes a file for each party that gives a shell the environment of the party's process, with
// SET_CONFIG for the path of its configuration and the commands on PATH. A secret stays in its own file.
func (w *world) writeEnv() error {
	for party, secrets := range map[string]map[string]string{
		"ca": caSecrets, "issuer": issuerSecrets, "gateway": gatewaySecrets, "merchant": merchantSecrets,
	} {
		var b strings.Builder
		for _, e := range append(w.env(party, secrets), "SET_CONFIG="+w.config(party)) {
			name, value, _ := strings.Cut(e, "=")
			fmt.Fprintf(&b, "export %s=%s\n", name, quote(value))
		}
		if err := w.keepEnv(party, b.String()); err != nil {
			return err
		}
	}
	return w.keepEnv("wallet", fmt.Sprintf("export PCSCLITE_CSOCK_NAME=%s\nexport SET_WALLET_DIR=%s\nexport SET_TRACE=%s\n",
		quote(w.socket()), quote(w.path("wallet")), quote(w.path(traceDir))))
}

func (w *world) keepEnv(party, text string) error {
	return w.keep(w.path("env", party), text+fmt.Sprintf("export PATH=%s:\"$PATH\"\n", quote(w.bin)))
}

// show names one of the project's commands as a person in this directory would.
func (w *world) show(command string) string {
	path := filepath.Join(w.bin, command)
	if here, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(here, path); err == nil && filepath.IsLocal(rel) {
			path = rel
		}
	}
	return quote(path)
}

// quote makes one word of the shell's language of any text.
func quote(text string) string {
	if plain.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
