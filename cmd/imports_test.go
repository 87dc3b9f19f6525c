// Package cmd_test holds the rules that span the whole module.
package cmd_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/setkit/setkit/"

type pkg struct {
	ImportPath string
	Imports    []string
	Standard   bool
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports"}, args...)...)
	cmd.Dir = ".."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	var pkgs []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); err == io.EOF {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// allowed tells whether the package from may import to, both relative to the module.
func allowed(from, to string) bool {
	under := func(p, folder string) bool { return p == folder || strings.HasPrefix(p, folder+"/") }
	floor := []string{"roles/sethttp", "roles/finnet", "roles/sqldb"}
	switch {
	case under(from, "cmd"):
		return true
	case under(from, "hsm"):
		return under(to, "hsm")
	case under(from, "smartcard"):
		return under(to, "smartcard")
	case under(from, "roles/set"):
		return under(to, "roles/set")
	case under(from, "roles/sqldb"):
		return under(to, "roles/sqldb")
	case under(from, "roles/sethttp"), under(from, "roles/finnet"):
		return under(to, "roles/set") || under(to, strings.Join(strings.Split(from, "/")[:2], "/"))
	case under(from, "roles"):
		party := strings.Join(strings.Split(from, "/")[:2], "/")
		return under(to, "roles/set") || under(to, party) || slices.ContainsFunc(floor, func(f string) bool { return under(to, f) })
	}
	return true // softhsm-config and testdata hold data
}

func TestImportsFollowTheArchitecture(t *testing.T) {
	adapters := map[string]string{
		"github.com/ThalesGroup/crypto11": "hsm",
		"github.com/miekg/pkcs11":         "hsm",
		"github.com/ebfe/scard":           "smartcard/pcsc",
	}
	seen := 0
	for _, p := range list(t, "./...") {
		from, _ := strings.CutPrefix(p.ImportPath, module)
		for _, imp := range p.Imports {
			if only, ok := adapters[imp]; ok && from != only && !strings.HasPrefix(from, only+"/") {
				t.Errorf("%s imports %s: only %s may", from, imp, only)
			}
			to, ok := strings.CutPrefix(imp, module)
			if !ok {
				continue
			}
			seen++
			if !allowed(from, to) {
				t.Errorf("%s imports %s: the arrow runs the wrong way", from, to)
			}
		}
	}
	if seen == 0 {
		t.Error("no import inside the module was seen")
	}
}

// The protocol and the parties are pure Go: they build where no C compiler is.
func TestRolesNeedNoC(t *testing.T) {
	cmd := exec.Command("go", "build", "./roles/...")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("go build without cgo: %v\n%s", err, out)
	}
}

func TestTheRulesRefuse(t *testing.T) {
	for _, c := range []struct {
		from, to string
		want     bool
	}{
		{"roles/merchant", "roles/gateway", false},
		{"roles/merchant", "hsm", false},
		{"roles/wallet/web", "roles/wallet", true},
		{"roles/set", "roles/sethttp", false},
		{"roles/sethttp", "roles/set", true},
		{"hsm", "roles/set", false},
		{"smartcard/piv", "smartcard/iso7816", true},
		{"cmd/set-wallet", "smartcard/pcsc", true},
		{"roles/ca/ceremony", "roles/set/pki", true},
		{"roles/sqldb", "roles/set", false},
	} {
		if got := allowed(c.from, c.to); got != c.want {
			t.Errorf("%s importing %s: allowed %v, want %v", c.from, c.to, got, c.want)
		}
	}
}
