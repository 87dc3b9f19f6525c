package virtual_test

import (
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/setkit/setkit/smartcard/virtual"
)

// TestOthers lets programs that know nothing of this package use its card: each
// script has a pcscd and a fresh card of its own. They get
//
//	$READER   the name of the reader
//	$OPENSC   OpenSC's PKCS#11 module
//	$YKCS11   Yubico's
//	maker.pem the certificate of the CA that vouches for attestations
func TestOthers(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"opensc-tool", "piv-tool", "pkcs11-tool", "pkcs15-tool", "yubico-piv-tool", "openssl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v; install it with: make setup", err)
		}
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			for name, file := range map[string]string{"OPENSC": "opensc-pkcs11.so", "YKCS11": "libykcs11.so*"} {
				found, err := filepath.Glob(filepath.Join("/usr/lib/*", file))
				if err != nil || len(found) == 0 {
					return fmt.Errorf("%s is not installed: make setup", file)
				}
				env.Setenv(name, found[0])
			}
			return givenCard(env)
		},
	})
}

// givenCard puts a card into a reader for a script.
func givenCard(env *testscript.Env) error {
	host, err := virtual.StartHost(env.T().(testing.TB).Context(), virtual.HostConfig{Dir: filepath.Join(env.WorkDir, "pcscd"), Readers: 1})
	if err != nil {
		return err
	}
	env.Defer(func() { host.Stop() })
	card := virtual.NewCard()
	plugged, err := virtual.Plug(env.T().(testing.TB).Context(), host.Readers[0].Addr, card)
	if err != nil {
		return err
	}
	env.Defer(plugged.Unplug)
	env.Setenv("PCSCLITE_CSOCK_NAME", host.Socket)
	env.Setenv("READER", host.Readers[0].Name)
	maker := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: card.Maker()})
	if err := os.WriteFile(filepath.Join(env.WorkDir, "maker.pem"), maker, 0o600); err != nil {
		return err
	}
	wait := exec.Command(os.Args[0], host.Readers[0].Name)
	wait.Env = append(os.Environ(), roleVariable+"="+roleWait, "PCSCLITE_CSOCK_NAME="+host.Socket)
	if out, err := wait.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}
