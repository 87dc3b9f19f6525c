package cardtest

import (
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

//go:embed testdata/keypad.c
var keypadSource string

// KeypadDriver compiles a driver for virtual.HostConfig.Driver whose readers have a
// keypad, with a display of two lines. On it 123456 is typed whenever a PIN is wanted,
// and 654321 for a new one. The driver takes requests apart as pcsc-lite's own header
// files declare them, and refuses what is not as they say.
//
// It takes a C compiler and libpcsclite-dev to be installed as well.
func KeypadDriver(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cardtest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // pcscd runs as nobody
		t.Fatal(err)
	}
	source, driver := filepath.Join(dir, "keypad.c"), filepath.Join(dir, "keypad.so")
	if err := os.WriteFile(source, []byte(keypadSource), 0o644); err != nil {
		t.Fatal(err)
	}
	installed, err := filepath.Glob("/usr/*/pcsc/drivers/serial/libifdvpcd.so")
	if err != nil || len(installed) == 0 {
		t.Fatal("cardtest: vpcd is not installed: apt-get install vsmartcard-vpcd")
	}
	vpcd := filepath.Join(dir, "libifdvpcd.so.0") // its name for the linker
	if err := os.Symlink(installed[0], vpcd); err != nil {
		t.Fatal(err)
	}
	flags, err := exec.Command("pkg-config", "--cflags", "libpcsclite").Output()
	if err != nil {
		t.Fatalf("cardtest: where are pcsc-lite's header files: %v", err)
	}
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	args := append(strings.Fields(string(flags)), "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", driver, source, vpcd, "-Wl,-rpath,"+dir)
	if out, err := exec.Command(cc, args...).CombinedOutput(); err != nil {
		t.Fatalf("cardtest: compile the driver with %s: %v: %s", cc, err, out)
	}
	return driver
}
