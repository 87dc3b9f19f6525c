package main

import (
	"path/filepath"
	"testing"

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
	})
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
