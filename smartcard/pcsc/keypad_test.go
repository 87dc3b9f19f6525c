package pcsc_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/setkit/setkit/smartcard/cardtest"
	"github.com/setkit/setkit/smartcard/pcsc"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

// TestKeypadThroughPCSC lets a reader behind pcscd have a keypad: the control codes
// go all the way, and pcsc-lite's own declarations take the structures apart.
func TestKeypadThroughPCSC(t *testing.T) {
	t.Parallel()
	out := another(t, "keypad", "", "PCSC_TEST_DRIVER="+cardtest.KeypadDriver(t))
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
