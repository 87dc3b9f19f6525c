// Package softhsmconfig holds SoftHSM's configuration and the tokens of the lab and of CI: which
// parties there are, and which keys each one has.
//
// Every party has a token directory of its own, so that its processes see its own token and no other.
package softhsmconfig

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

//go:embed softhsm2.conf.template
var template string

// ConfName is the name of the configuration file that Write makes.
const ConfName = "softhsm2.conf"

// Key is a key of the token plan. Purpose and Type are those of package hsm.
type Key struct{ Label, Purpose, Type string }

// Token is a token of the token plan. Its label is also the name of its folder.
type Token struct {
	Label string
	Keys  []Key
}

// Plan returns the tokens of the lab: three levels of certificate authorities, and the parties that
// hold a token. The cardholder's keys are on a card.
func Plan() []Token {
	certSign := Key{"cert-sign", "cert-sign", "ec-p384"}
	subordinate := []Key{
		{"cert-sign", "cert-sign", "ec-p256"},
		{"sign", "sign", "ec-p256"},
		{"key-exchange", "key-exchange", "rsa-2048"},
	}
	party := subordinate[1:]
	seal := Key{"pan-seal", "seal", "aes-256"}
	return []Token{
		{"root-ca", []Key{certSign, {"cert-sign-next", "cert-sign", "ec-p384"}}},
		{"brand-ca", []Key{certSign}},
		{"cardholder-ca", append(slices.Clone(subordinate), Key{"pan-mac", "mac", "hmac-sha256"})},
		{"merchant-ca", subordinate},
		{"payment-ca", subordinate},
		{"issuer", []Key{{"pan-lookup", "mac", "hmac-sha256"}, seal}},
		{"gateway", append(slices.Clone(party), seal)},
		{"merchant", party},
	}
}

// Write makes folder dir for one party's token, with an empty token directory and the configuration
// that names it, and returns the path of the configuration, the value of SOFTHSM2_CONF.
func Write(dir string) (conf string, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("SoftHSM folder: %w", err)
	}
	// SoftHSM takes the rest of the line up to a comment sign, without outer spaces.
	if strings.ContainsAny(dir, "#") || strings.ContainsFunc(dir, unicode.IsControl) || strings.TrimSpace(dir) != dir {
		return "", fmt.Errorf("SoftHSM folder %q: its configuration cannot hold this name", dir)
	}
	tokens := filepath.Join(dir, "tokens")
	if err := os.MkdirAll(tokens, 0o700); err != nil {
		return "", fmt.Errorf("SoftHSM folder: %w", err)
	}
	conf = filepath.Join(dir, ConfName)
	if err := os.WriteFile(conf, []byte(strings.ReplaceAll(template, "@TOKENDIR@", tokens)), 0o600); err != nil {
		return "", fmt.Errorf("SoftHSM configuration: %w", err)
	}
	return conf, nil
}
