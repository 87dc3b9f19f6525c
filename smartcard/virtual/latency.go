package virtual

import (
	"context"
	"time"

	"github.com/setkit/setkit/smartcard/iso7816"
)

// A Latency is how long a card takes.
type Latency struct {
	Command time.Duration // any command, besides what follows
	Byte    time.Duration // a byte of a command or an answer

	UseRSA, UseEC           time.Duration // a private key
	GenerateRSA, GenerateEC time.Duration // a key pair
}

// CardLatency is about what a person waits for with a USB token of our time.
func CardLatency() Latency {
	return Latency{
		Command:     8 * time.Millisecond,
		Byte:        20 * time.Microsecond,
		UseRSA:      160 * time.Millisecond,
		UseEC:       60 * time.Millisecond,
		GenerateRSA: 4 * time.Second,
		GenerateEC:  200 * time.Millisecond,
	}
}

// Slow returns d with a latency. Pulling it ends the waiting.
func Slow(d Device, l Latency) Device { return &slow{d, l} }

type slow struct {
	Device
	latency Latency
}

// Transmit hands on a command and holds the answer back.
func (s *slow) Transmit(ctx context.Context, apdu []byte) ([]byte, error) {
	work := s.latency.of(apdu) // before the card has it: nobody else may look at it later
	answer, err := s.Device.Transmit(ctx, apdu)
	if err != nil {
		return nil, err
	}
	wait := s.latency.Command + time.Duration(len(apdu)+len(answer))*s.latency.Byte
	if n := len(answer); n >= 2 && (answer[n-2] == 0x90 || answer[n-2] == 0x61) {
		wait += work
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return answer, nil
	case <-ctx.Done():
		clear(answer)
		return nil, ctx.Err()
	}
}

// of is what the work with keys takes that a command asks for. Of a chain the
// last command does the work.
func (l *Latency) of(apdu []byte) time.Duration {
	cmd, _, err := iso7816.ParseCommand(apdu)
	if err != nil || cmd.CLA&iso7816.ClassChaining != 0 {
		return 0
	}
	switch {
	case cmd.INS == insAuthenticate && cmd.P2 != slotManagement && rsaBits(cmd.P1) > 0:
		return l.UseRSA
	case cmd.INS == insAuthenticate && cmd.P2 != slotManagement, cmd.INS == insAttest:
		return l.UseEC
	case cmd.INS == insGenerate && len(cmd.Data) >= 5 && rsaBits(cmd.Data[4]) > 0: // AC len 80 01 algorithm
		return l.GenerateRSA
	case cmd.INS == insGenerate:
		return l.GenerateEC
	}
	return 0
}
