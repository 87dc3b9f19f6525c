package main

import (
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/hsm"
	softhsmconfig "github.com/setkit/setkit/softhsm-config"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"set-ca": func() { cli.Main(app()) }})
}

// Every script has a SoftHSM of its own, the PINs of its tokens, and the ceremony of the lab.
func TestScripts(t *testing.T) {
	t.Parallel()
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP) // or under nohup the commands would ignore it too
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			module, err := hsm.SoftHSMPath()
			if err != nil {
				return err
			}
			conf, err := softhsmconfig.Write(filepath.Join(env.WorkDir, "softhsm"))
			if err != nil {
				return err
			}
			env.Setenv("SOFTHSM2_CONF", conf)
			env.Setenv("CONF", conf)
			env.Setenv("SET_PKCS11_MODULE", module)
			env.Setenv("SET_CA_OUTPUT", filepath.Join(env.WorkDir, "out"))
			env.Setenv("GORACE", "atexit_sleep_ms=0") // or every command takes a second longer
			for _, name := range []string{"SET_ROOT_CA_PIN", "SET_BRAND_CA_PIN", "SET_CARDHOLDER_CA_PIN", "SET_MERCHANT_CA_PIN", "SET_PAYMENT_CA_PIN"} {
				env.Setenv(name, "135790")
				env.Setenv(name+"_SOURCE", "env:"+name)
			}
			return os.CopyFS(env.WorkDir, os.DirFS("../../testdata/ceremony"))
		},
	})
}
