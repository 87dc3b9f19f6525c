package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
	softhsmconfig "github.com/setkit/setkit/softhsm-config"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"set-hsm": func() { cli.Main(newApp()) }})
}

// Every script has a SoftHSM of its own.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			module, err := hsm.SoftHSMPath()
			if err != nil {
				return err
			}
			conf, err := softhsmconfig.Write(filepath.Join(env.WorkDir, "softhsm"))
			env.Setenv("SOFTHSM2_CONF", conf)
			env.Setenv("SOFTHSM2_MODULE", module)
			env.Setenv("GORACE", "atexit_sleep_ms=0") // or every command takes a second longer
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": cmdExits, "json": cmdJSON, "run": cmdRun, "certificate": cmdCertificate,
		},
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

// cmdJSON compares a value of the JSON that was printed last: json 0.label sign. A name of the path may
// be FIELD=VALUE, for the element of a list whose field has that value. With !, the path must not exist.
func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	v, ok := valueAt(ts, args[0])
	switch {
	case neg && ok:
		ts.Fatalf("the output has %s: %v", args[0], v)
	case neg:
	case !ok:
		ts.Fatalf("the output has no %s", args[0])
	case fmt.Sprint(v) != args[1]:
		ts.Fatalf("%s is %v, want %s", args[0], v, args[1])
	}
}

// cmdRun runs the shell command that is a value of the JSON that was printed last.
func cmdRun(ts *testscript.TestScript, _ bool, args []string) {
	command, ok := valueAt(ts, args[0])
	if !ok {
		ts.Fatalf("the output has no %s", args[0])
	}
	ts.Check(ts.Exec("sh", "-c", fmt.Sprint(command)))
}

func valueAt(ts *testscript.TestScript, path string) (v any, ok bool) {
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	for _, name := range strings.Split(path, ".") {
		if v, ok = descend(v, name); !ok {
			return nil, false
		}
	}
	return v, true
}

func descend(v any, name string) (any, bool) {
	switch v := v.(type) {
	case map[string]any:
		value, ok := v[name]
		return value, ok
	case []any:
		if name == "length" {
			return len(v), true
		}
		if field, want, ok := strings.Cut(name, "="); ok {
			for _, e := range v {
				if m, ok := e.(map[string]any); ok && fmt.Sprint(m[field]) == want {
					return e, true
				}
			}
			return nil, false
		}
		if i, err := strconv.Atoi(name); err == nil && i < len(v) {
			return v[i], true
		}
	}
	return nil, false
}

// cmdCertificate writes a certificate for a public key: certificate KEY.pem DAYS CERT.pem. Whose DAYS are
// negative has expired. KEY may be new, for a key that no token has.
func cmdCertificate(ts *testscript.TestScript, _ bool, args []string) {
	issuer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	var public any = issuer.Public()
	if args[0] != "new" {
		block, _ := pem.Decode([]byte(ts.ReadFile(args[0])))
		public, err = x509.ParsePKIXPublicKey(block.Bytes)
		ts.Check(err)
	}
	days, err := strconv.Atoi(args[1])
	ts.Check(err)
	end := time.Now().AddDate(0, 0, days)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "test " + args[2]},
		NotBefore: end.AddDate(-1, 0, 0), NotAfter: end,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, issuer)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
}

// The token plan asks only for keys that package hsm makes.
func TestPlanCanBeMade(t *testing.T) {
	t.Parallel()
	for _, token := range softhsmconfig.Plan() {
		t.Run(token.Label, func(t *testing.T) {
			t.Parallel()
			tok := hsmtest.New(t).Open(t)
			for _, k := range token.Keys {
				info, err := tok.GenerateKey(t.Context(), k.Label, hsm.Purpose(k.Purpose), hsm.KeyType(k.Type))
				if err != nil {
					t.Fatal(err)
				}
				if string(info.Purpose) != k.Purpose || string(info.Type) != k.Type {
					t.Errorf("key %s is for %s, of type %s; want %+v", info.Label, info.Purpose, info.Type, k)
				}
			}
		})
	}
}
