package smartcard_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/setkit/setkit/smartcard"
)

func TestStatusText(t *testing.T) {
	for status, want := range map[smartcard.Status]string{
		0x63C2: "63C2: 2 tries left",
		0x63C1: "63C1: 1 try left",
		0x63C0: "63C0: no tries left",
		0x6983: "6983: blocked, no tries left",
		0x6A82: "6A82: object or application not found",
		0x1234: "1234: unknown status word",
	} {
		if got := status.Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestPINError(t *testing.T) {
	tests := []struct {
		reference string
		status    smartcard.Status
		left      int // -1: no *PINError
		text      string
	}{
		{"PIN", 0x63C2, 2, "wrong PIN (63C2: 2 tries left)"},
		{"PIN", 0x63C0, 0, "PIN is blocked (63C0: no tries left); unblock it with the PUK"},
		{"PIN", 0x6983, 0, "PIN is blocked (6983: blocked, no tries left); unblock it with the PUK"},
		{"PUK", 0x6983, 0, "PUK is blocked (6983: blocked, no tries left); only a reset of the card, which deletes its keys, helps now"},
		{"PIN", 0x6A80, -1, "6A80: wrong data in the command"},
	}
	for _, tt := range tests {
		err := fmt.Errorf("wrapped: %w", smartcard.NewPINError(tt.reference, tt.status))
		var pinErr *smartcard.PINError
		if errors.As(err, &pinErr) != (tt.left >= 0) {
			t.Fatalf("%04X: got %T", uint16(tt.status), errors.Unwrap(err))
		}
		if pinErr != nil && pinErr.TriesLeft != tt.left {
			t.Errorf("%04X: got %d tries left, want %d", uint16(tt.status), pinErr.TriesLeft, tt.left)
		}
		if !errors.Is(err, tt.status) {
			t.Errorf("%04X: the status is not in %v", uint16(tt.status), err)
		}
		if got := errors.Unwrap(err).Error(); got != tt.text {
			t.Errorf("got %q, want %q", got, tt.text)
		}
	}
	if err := smartcard.NewPINError("PIN", smartcard.StatusOK); err != nil {
		t.Errorf("9000: got %v", err)
	}
}

func TestUnavailable(t *testing.T) {
	for _, err := range []error{
		smartcard.ErrNoService, smartcard.ErrNoReader, smartcard.ErrNoCard, smartcard.ErrCardRemoved,
		smartcard.ErrReset, smartcard.ErrInUse, smartcard.ErrMute,
	} {
		wrapped := fmt.Errorf("reader: %w", err)
		if !errors.Is(wrapped, smartcard.ErrUnavailable) || !errors.Is(wrapped, err) {
			t.Errorf("%v is not of its class", err)
		}
	}
	if errors.Is(smartcard.ErrNoCard, smartcard.ErrNoReader) {
		t.Error("ErrNoCard is ErrNoReader")
	}
	if errors.Is(smartcard.StatusNotFound, smartcard.ErrUnavailable) {
		t.Error("a refusal by the card is ErrUnavailable")
	}
}

// echo is a card that answers every command with 63C2.
type echo struct{}

func (echo) Transmit(context.Context, []byte) ([]byte, error) { return []byte{0x63, 0xC2}, nil }
func (echo) Begin(context.Context) error                      { return nil }
func (echo) End(smartcard.Disposition) error                  { return nil }

func TestRecorderKeepsNoBody(t *testing.T) {
	r := smartcard.NewRecorder(echo{})
	if _, err := r.Transmit(t.Context(), append([]byte{0, 0x20, 0, 0x80, 8}, "739154\xff\xff"...)); err != nil {
		t.Fatal(err)
	}
	records := r.Take()
	if len(records) != 1 || records[0].SentBytes != 13 || records[0].ReceivedBytes != 2 || records[0].Status != 0x63C2 {
		t.Errorf("got %+v", records)
	}
	if got := fmt.Sprintf("%v %+v", records[0], records); strings.Contains(got, "739154") || strings.Contains(got, "37 33") {
		t.Errorf("the PIN is in %q", got)
	}
	if got := records[0].String(); !strings.HasPrefix(got, "00 20 00 80, 13 bytes -> 63C2, 2 bytes") {
		t.Errorf("got %q", got)
	}
	if again := r.Take(); len(again) != 0 {
		t.Errorf("second Take: got %v", again)
	}
}
