package cardtest

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
)

var (
	selectPIV = iso7816.Command{INS: 0xA4, P1: 0x04, Data: []byte{0xA0, 0x00, 0x00, 0x03, 0x08}, Ne: 256}
	pinStatus = iso7816.Command{INS: 0x20, P2: 0x80}
	wrongPIN  = iso7816.Command{INS: 0x20, P2: 0x80, Data: []byte("000000\xff\xff")}
	rightPIN  = iso7816.Command{INS: 0x20, P2: 0x80, Data: []byte("123456\xff\xff")}
)

// Conformance tests a way to PIV cards. open returns one to a card as it comes
// from the factory, a new one for each call; it is not used by anyone else.
func Conformance(t *testing.T, open func(t testing.TB) smartcard.Card) {
	steps := []struct {
		name  string
		steps []step
	}{
		{"select", []step{
			{selectPIV, smartcard.StatusOK},
			{iso7816.Command{INS: 0xA4, P1: 0x04, Data: []byte{0xA0, 0, 0, 0, 1, 1}}, smartcard.StatusNotFound},
			{pinStatus, 0x63C3}, // PIV has stayed selected
		}},
		{"refusals", []step{
			{selectPIV, smartcard.StatusOK},
			{iso7816.Command{INS: 0x02}, smartcard.StatusInstruction},
			{iso7816.Command{CLA: 0x80, INS: 0xA4}, smartcard.StatusClass},
			{iso7816.Command{INS: 0xC0, Ne: 256}, smartcard.StatusConditions},
			{iso7816.Command{INS: 0x20, P1: 0x01, P2: 0x80}, smartcard.StatusWrongParameters},
			{iso7816.Command{INS: 0x20, P2: 0x99}, smartcard.StatusNoReference},
			{iso7816.Command{INS: 0xCB, P1: 0x3F, P2: 0xFF, Data: []byte{0x5C, 3, 0x5F, 0xC1, 0x02}, Ne: 256}, smartcard.StatusNotFound},
			{iso7816.Command{INS: 0xCB, P1: 0x3F, P2: 0xFF, Data: []byte{0x5C, 3, 0x5F, 0xC1, 0x09}, Ne: 256}, smartcard.StatusSecurity},
			{iso7816.Command{INS: 0xDB, P1: 0x3F, P2: 0xFF, Data: []byte{0x5C, 3, 0x5F, 0xC1, 0x02, 0x53, 0}}, smartcard.StatusSecurity},
		}},
		{"PIN", []step{
			{selectPIV, smartcard.StatusOK},
			{wrongPIN, 0x63C2},
			{pinStatus, 0x63C2},
			{rightPIN, smartcard.StatusOK},
			{pinStatus, smartcard.StatusOK},
			{iso7816.Command{INS: 0x20, P1: 0xFF, P2: 0x80}, smartcard.StatusOK},
			{pinStatus, 0x63C3},
			{wrongPIN, 0x63C2},
			{wrongPIN, 0x63C1},
			{wrongPIN, 0x63C0},
			{rightPIN, smartcard.StatusBlocked},
			{pinStatus, smartcard.StatusBlocked},
			{iso7816.Command{INS: 0x2C, P2: 0x80, Data: []byte("12345678654321\xff\xff")}, smartcard.StatusOK},
			{pinStatus, 0x63C3},
		}},
	}
	for _, tt := range steps {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			card := open(t)
			begin(t, card)
			for i, s := range tt.steps {
				if got := send(t, card, s.command, false); smartcard.Status(got.SW) != s.want {
					t.Errorf("step %d: % X: got %v, want %v", i, header(s.command), smartcard.Status(got.SW), s.want)
				}
			}
			end(t, card, smartcard.Leave)
		})
	}
	t.Run("reset", func(t *testing.T) { t.Parallel(); testReset(t, open(t)) })
	t.Run("long", func(t *testing.T) { t.Parallel(); testLong(t, open(t)) })
	t.Run("context", func(t *testing.T) { t.Parallel(); testContext(t, open(t)) })
}

type step struct {
	command iso7816.Command
	want    smartcard.Status
}

// testReset checks that a card forgets the PIN when a transaction ends with
// Reset, and keeps it otherwise.
func testReset(t *testing.T, card smartcard.Card) {
	for _, tt := range []struct {
		end  smartcard.Disposition
		want smartcard.Status
	}{{smartcard.Leave, smartcard.StatusOK}, {smartcard.Reset, 0x63C3}} {
		begin(t, card)
		send(t, card, selectPIV, false)
		if got := smartcard.Status(send(t, card, rightPIN, false).SW); got != smartcard.StatusOK {
			t.Fatalf("VERIFY: %v", got)
		}
		end(t, card, tt.end)
		begin(t, card)
		send(t, card, selectPIV, false)
		if got := smartcard.Status(send(t, card, pinStatus, false).SW); got != tt.want {
			t.Errorf("PIN after the end of a transaction with %v: got %v, want %v", tt.end, got, tt.want)
		}
		end(t, card, smartcard.Leave)
	}
}

// testLong checks chained and extended commands and answers: an EC public key
// of a generated pair, and an object of more than 256 bytes, either way.
func testLong(t *testing.T, card smartcard.Card) {
	begin(t, card)
	defer end(t, card, smartcard.Leave)
	send(t, card, selectPIV, false)
	for _, extended := range []bool{false, true} {
		// Data beyond one short APDU, for a command that has to refuse it.
		long := iso7816.Command{INS: 0xDB, P1: 0x3F, P2: 0xFF, Data: bytes.Repeat([]byte{0x53}, 700)}
		if got := smartcard.Status(send(t, card, long, extended).SW); got != smartcard.StatusSecurity {
			t.Errorf("700 bytes, extended %v: got %v, want %v", extended, got, smartcard.StatusSecurity)
		}
		short := iso7816.Command{INS: 0xA4, P1: 0x04, Data: selectPIV.Data, Ne: 8}
		got := send(t, card, short, extended)
		if smartcard.Status(got.SW) != smartcard.StatusOK || len(got.Data) != 19 || got.Data[0] != 0x61 {
			t.Errorf("SELECT with Le 8, extended %v: got % X %v, want all 19 bytes", extended, got.Data, smartcard.Status(got.SW))
		}
	}
}

// testContext checks that an ended context is respected.
func testContext(t *testing.T, card smartcard.Card) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := card.Transmit(ctx, []byte{0, 0xA4, 4, 0}); !errors.Is(err, context.Canceled) {
		t.Errorf("Transmit: got %v, want %v", err, context.Canceled)
	}
	begin(t, card)
	waiting, stop := context.WithCancel(context.Background())
	stop()
	if err := card.Begin(waiting); !errors.Is(err, context.Canceled) {
		t.Errorf("second Begin: got %v, want %v", err, context.Canceled)
	}
	end(t, card, smartcard.Leave)
	if err := card.End(smartcard.Leave); err == nil {
		t.Error("End without Begin: no error")
	}
}

func send(t *testing.T, card smartcard.Card, c iso7816.Command, extended bool) iso7816.Response {
	t.Helper()
	r, err := iso7816.Exchange(func(apdu []byte) ([]byte, error) {
		return card.Transmit(t.Context(), apdu)
	}, c, extended)
	if err != nil {
		t.Fatalf("% X: %v", header(c), err)
	}
	return r
}

func begin(t *testing.T, card smartcard.Card) {
	t.Helper()
	if err := card.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func end(t *testing.T, card smartcard.Card, d smartcard.Disposition) {
	t.Helper()
	if err := card.End(d); err != nil {
		t.Fatal(err)
	}
}

func header(c iso7816.Command) []byte { return []byte{c.CLA, c.INS, c.P1, c.P2} }
