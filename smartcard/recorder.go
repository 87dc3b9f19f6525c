package smartcard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A Recorder is a Card that counts what passes through to another. It keeps the
// header of each command and the lengths, never a body: bodies have PINs, keys
// and plaintexts in them. It is a PINPad if the other is. It may be used
// concurrently.
type Recorder struct {
	Card

	mu      sync.Mutex
	records []Record
}

// A Record is what a Recorder keeps of one APDU.
type Record struct {
	Header        [4]byte // CLA, INS, P1, P2
	SentBytes     int     // the whole command APDU
	ReceivedBytes int     // the whole response APDU
	Status        Status  // 0 if there was no response
	Took          time.Duration
}

// String is one line without secrets, such as
// "00 20 00 80, 13 bytes -> 63C2, 2 bytes, 210µs".
func (r Record) String() string {
	return fmt.Sprintf("% X, %d bytes -> %04X, %d bytes, %v", r.Header[:], r.SentBytes, uint16(r.Status), r.ReceivedBytes, r.Took.Round(time.Microsecond))
}

// NewRecorder records what is sent to c.
func NewRecorder(c Card) *Recorder { return &Recorder{Card: c} }

var _ PINPad = (*Recorder)(nil)

// Transmit sends cmd to the card and counts.
func (r *Recorder) Transmit(ctx context.Context, cmd []byte) ([]byte, error) {
	return r.record(cmd, func() ([]byte, error) { return r.Card.Transmit(ctx, cmd) })
}

// Keypad is that of the other card's reader.
func (r *Recorder) Keypad() Keypad {
	if pad, ok := r.Card.(PINPad); ok {
		return pad.Keypad()
	}
	return Keypad{}
}

// EnterPIN passes e on, and counts the command that the reader sends.
func (r *Recorder) EnterPIN(ctx context.Context, e PINEntry) ([]byte, error) {
	pad, ok := r.Card.(PINPad)
	if !ok {
		return nil, errors.New("smartcard: EnterPIN: the reader has no keypad")
	}
	return r.record(e.Command, func() ([]byte, error) { return pad.EnterPIN(ctx, e) })
}

func (r *Recorder) record(cmd []byte, send func() ([]byte, error)) ([]byte, error) {
	rec := Record{SentBytes: len(cmd)}
	copy(rec.Header[:], cmd)
	start := time.Now()
	answer, err := send()
	rec.Took = time.Since(start)
	rec.ReceivedBytes = len(answer)
	if n := len(answer); n >= 2 {
		rec.Status = Status(answer[n-2])<<8 | Status(answer[n-1])
	}
	r.mu.Lock()
	r.records = append(r.records, rec)
	r.mu.Unlock()
	return answer, err
}

// Take returns the records since the last Take.
func (r *Recorder) Take() []Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	records := r.records
	r.records = nil
	return records
}
