package main

import (
	"net"
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
	testscript.Main(m, map[string]func(){
		"set-ca": func() { cli.Main(app()) }, "registrant": func() { cli.Main(registrant()) },
	})
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
			listen, err := freeAddr()
			if err != nil {
				return err
			}
			for name, value := range map[string]string{
				"SET_CA_LISTEN": listen, "SET_CA_DATABASE": "sqlite:" + filepath.Join(env.WorkDir, "ca.db"), "SET_ISSUER_HOST": "127.0.0.1:1",
				"SET_GATEWAY_CODE": "birch-compass-902", "SET_GATEWAY_REGISTRATION_CODE_SOURCE": "env:SET_GATEWAY_CODE",
				"SET_MERCHANT_CODE": "otter-lantern-558", "SET_MERCHANT_REGISTRATION_CODE_SOURCE": "env:SET_MERCHANT_CODE",
			} {
				env.Setenv(name, value)
			}
			config, err := os.ReadFile("../../testdata/config/ca.yaml")
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(env.WorkDir, "config.yaml"), config, 0o600); err != nil {
				return err
			}
			return os.CopyFS(env.WorkDir, os.DirFS("../../testdata/ceremony"))
		},
	})
}

// freeAddr is an address to listen at. Nobody else is given it soon.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}
