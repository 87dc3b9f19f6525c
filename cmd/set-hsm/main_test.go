package main

import (
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/hsm"
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
