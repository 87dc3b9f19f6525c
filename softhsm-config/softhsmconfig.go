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
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

//go:embed softhsm2.conf.template
var template string

// ConfName is the name of the configuration file that Write makes.
const ConfName = "softhsm2.conf"

//go:embed lab.yaml
var lab []byte

// Key is a key of a token plan. Purpose and Type are those of package hsm.
type Key struct {
	Label     string
	Purpose   string
	Type      string
	Wrappable bool // may leave its token encrypted
}

// Token is a token of a token plan. Where its PINs come from is left to whoever makes it if the plan
// does not say.
type Token struct {
	Label       string
	PINSource   string `yaml:"pin-source"`
	SOPINSource string `yaml:"so-pin-source"`
	Keys        []Key
}

// File is a token plan as a YAML file has it.
type File struct{ Tokens []Token }

// Plan returns the tokens of the lab. A token's label is also the name of its folder.
func Plan() []Token {
	var plan File
	_ = yaml.Unmarshal(lab, &plan) // a part of the program, which its test reads
	return plan.Tokens
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
