package pcsc_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/setkit/setkit/smartcard/pcsc"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

// TestKeypadThroughPCSC lets a reader behind pcscd have a keypad: the control codes
// go all the way, and pcsc-lite's own declarations take the structures apart.
func TestKeypadThroughPCSC(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "pcsc-keypad-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // pcscd runs as nobody
		t.Fatal(err)
	}
	installed, err := filepath.Glob("/usr/*/pcsc/drivers/serial/libifdvpcd.so")
	if err != nil || len(installed) == 0 {
		t.Fatal("vpcd is not installed: apt-get install vsmartcard-vpcd")
	}
	vpcd := filepath.Join(dir, "libifdvpcd.so.0") // its name for the linker
	if err := os.Symlink(installed[0], vpcd); err != nil {
		t.Fatal(err)
	}
	driver := filepath.Join(dir, "keypad.so")
	flags, err := exec.Command("pkg-config", "--cflags", "libpcsclite").Output()
	if err != nil {
		t.Fatal(err)
	}
	args := append(strings.Fields(string(flags)), "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", driver, "testdata/keypad.c", vpcd, "-Wl,-rpath,"+dir)
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	if out, err := exec.Command(cc, args...).CombinedOutput(); err != nil {
		t.Fatalf("compile the driver with %s: %v: %s", cc, err, out)
	}
	out := another(t, "keypad", "", "PCSC_TEST_DRIVER="+driver)
	want := "{Verify:true Modify:true Lines:2 Columns:16 DigitsMin:0 DigitsMax:0}\nverified, changed, wrong PIN (63C2: 2 tries left), changed back\n"
	if out != want {
		t.Errorf("got %q, want %q", out, want)
	}
}

// useKeypad is run in a process of its own, for a pcscd with that driver.
func useKeypad() error {
	dir, err := os.MkdirTemp("", "pcsc-keypad-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	host, err := virtual.StartHost(ctx, virtual.HostConfig{Dir: dir, Readers: 1, Driver: os.Getenv("PCSC_TEST_DRIVER")})
	if err != nil {
		return err
	}
	defer host.Stop()
	os.Setenv("PCSCLITE_CSOCK_NAME", host.Socket)
	plugged, err := virtual.Plug(ctx, host.Readers[0].Addr, virtual.NewCard())
	if err != nil {
		return err
	}
	defer plugged.Unplug()
	reader, err := pcsc.Wait(ctx, host.Readers[0].Name)
	if err != nil {
		return err
	}
	c, err := pcsc.Open(ctx, reader.Name)
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Printf("%+v\n", c.Keypad())
	card := piv.New(c, piv.Options{})
	err = card.Do(ctx, func(tx *piv.Tx) error {
		if err := tx.VerifyPINOnPad(); err != nil {
			return err
		}
		fmt.Print("verified")
		if err := tx.ChangePINOnPad(); err != nil {
			return err
		}
		fmt.Print(", changed")
		return tx.VerifyPINOnPad() // the driver types the old one
	})
	if err == nil {
		return errors.New("the old PIN is still right")
	}
	fmt.Printf(", %s", strings.TrimPrefix(err.Error(), "piv: "))
	return card.Do(ctx, func(tx *piv.Tx) error {
		err := tx.ChangePIN([]byte("654321"), []byte("123456"))
		if err == nil {
			fmt.Println(", changed back")
		}
		return err
	})
}
