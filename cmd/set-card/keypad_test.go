package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/setkit/setkit/smartcard/cardtest"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

// TestKeypad changes PIN and PUK at a reader with a keypad, on which somebody types 123456, and 654321 where
// something new is asked for. Nothing is read from standard input then.
func TestKeypad(t *testing.T) {
	t.Parallel()
	host, err := virtual.StartHost(t.Context(), virtual.HostConfig{Dir: t.TempDir(), Readers: 1, Driver: cardtest.KeypadDriver(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Stop() })
	card := virtual.NewCard()
	plugged, err := virtual.Plug(t.Context(), host.Readers[0].Addr, card)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plugged.Unplug)
	run := func(want int, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
		cmd.Env = append(os.Environ(), asCommand+"=1", "PCSCLITE_CSOCK_NAME="+host.Socket, "KNOWN_PUK=12345678", "NEW_PIN=998877")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Fatalf("set-card %v: exit code %d, want %d\n%s", args, got, want, stderr.String())
		}
		return stderr.String()
	}
	awaitCard(t, host.Socket)
	tries := func() int { return pinTries(t, card) }

	if said := run(0, "pin"); !strings.Contains(said, "keypad of reader") || !strings.Contains(said, "tries left: 3") {
		t.Errorf("the person is told %q", said)
	}
	if err := verifyPIN(t, card, "654321"); err != nil {
		t.Errorf("the PIN that was entered as the new one: %v", err)
	}
	run(1, "pin") // 123456 is wrong now
	if n := tries(); n != 2 {
		t.Errorf("%d tries left after one wrong entry, want 2", n)
	}
	run(1, "unblock") // so is it as the PUK
	run(0, "unblock", "--puk-source", "env:KNOWN_PUK", "--new-pin-source", "env:NEW_PIN")
	if err := verifyPIN(t, card, "998877"); err != nil {
		t.Errorf("the PIN from its source: %v", err)
	}
}

// awaitCard waits until programs at socket see a card.
func awaitCard(t *testing.T, socket string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), insertTimeout)
	defer cancel()
	for {
		cmd := exec.CommandContext(ctx, os.Args[0], "status", "--json")
		cmd.Env = append(os.Environ(), asCommand+"=1", "PCSCLITE_CSOCK_NAME="+socket)
		if out, err := cmd.Output(); err == nil && bytes.Contains(out, []byte(`"serial"`)) {
			return
		}
		if err := ctx.Err(); err != nil {
			t.Fatalf("the card is not seen: %v", err)
		}
	}
}

// verifyPIN and pinTries ask the card itself.
func verifyPIN(t *testing.T, card *virtual.Card, pin string) error {
	t.Helper()
	return piv.New(card, piv.Options{}).Do(t.Context(), func(tx *piv.Tx) error { return tx.VerifyPIN([]byte(pin)) })
}

func pinTries(t *testing.T, card *virtual.Card) (n int) {
	t.Helper()
	err := piv.New(card, piv.Options{}).Do(t.Context(), func(tx *piv.Tx) (err error) {
		n, err = tx.PINTries()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
