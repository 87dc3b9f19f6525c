package virtual

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// What a vpcd reader sends besides APDUs: frames of one byte.
const (
	ctrlPowerOff = 0x00
	ctrlPowerOn  = 0x01
	ctrlReset    = 0x02
	ctrlATR      = 0x04
)

const (
	frameBytesMax = 0xFFFF

	// A reader asks for the ATR several times a second. One that hasn't asked
	// after this long is none.
	firstFrameTimeout = 10 * time.Second
)

// A Device is what can be plugged into a reader. A *Card is one.
type Device interface {
	// ATR returns the answer to reset.
	ATR() []byte
	// Reset is called when the reader switches the power or resets the card.
	Reset()
	// Transmit answers one command APDU. An error pulls the card.
	Transmit(ctx context.Context, apdu []byte) ([]byte, error)
}

var _ Device = (*Card)(nil)

// A Plugged is a card in a virtual reader.
type Plugged struct {
	conn   net.Conn
	cancel context.CancelFunc
	done   chan struct{}
	once   sync.Once
	err    error // valid when done is closed
}

// Plug puts a card into the vpcd reader that listens at addr (host:port), and
// returns when the reader has noticed. The goroutine that answers the reader
// ends with Unplug, with ctx, or when the reader goes away.
func Plug(ctx context.Context, addr string, card Device) (*Plugged, error) {
	dialer := net.Dialer{Timeout: firstFrameTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("virtual: no reader at %s: %w", addr, err)
	}
	serveCtx, cancel := context.WithCancel(ctx)
	p := &Plugged{conn: conn, cancel: cancel, done: make(chan struct{})}
	stop := context.AfterFunc(serveCtx, func() { conn.Close() })
	seen := make(chan struct{})
	go func() {
		defer close(p.done)
		defer stop()
		defer conn.Close()
		card.Reset()
		p.err = serve(serveCtx, conn, card, seen)
	}()
	timeout := time.NewTimer(firstFrameTimeout)
	defer timeout.Stop()
	select {
	case <-seen:
		return p, nil
	case <-p.done:
		err = p.err
	case <-timeout.C:
		err = fmt.Errorf("nothing received in %v; is another card in this reader, or is it no vpcd reader?", firstFrameTimeout)
	}
	p.Unplug()
	return nil, fmt.Errorf("virtual: reader at %s: %w", addr, err)
}

// Unplug pulls the card and waits until its goroutine has ended. It may be
// called more than once.
func (p *Plugged) Unplug() {
	p.once.Do(p.cancel)
	<-p.done
}

// Done is closed when the card is no longer in the reader, for whatever reason.
func (p *Plugged) Done() <-chan struct{} { return p.done }

// serve answers a reader until the connection ends. It closes seen after the
// first answer to a question for the ATR.
func serve(ctx context.Context, conn net.Conn, card Device, seen chan<- struct{}) error {
	for {
		frame, err := readFrame(conn)
		if err != nil {
			return closed(ctx, err)
		}
		var answer []byte
		switch {
		case len(frame) != 1:
			answer, err = card.Transmit(ctx, frame)
			clear(frame)
			if err != nil {
				return closed(ctx, err)
			}
		case frame[0] == ctrlATR:
			answer = card.ATR()
		case frame[0] == ctrlPowerOff, frame[0] == ctrlPowerOn, frame[0] == ctrlReset:
			card.Reset()
			continue
		default:
			return fmt.Errorf("unknown control byte %02X", frame[0])
		}
		if err := writeFrame(conn, answer); err != nil {
			return closed(ctx, err)
		}
		if seen != nil {
			close(seen)
			seen = nil
		}
	}
}

// closed gives the reason why a connection ended: nil if it was Unplug.
func closed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return errors.New("the reader closed the connection")
	}
	return err
}

// readFrame reads a length of two bytes and as many bytes as it says.
//
// The reader sends the two apart, and holds the second back until the first is
// acknowledged; a delayed acknowledgement costs 40 ms per APDU.
func readFrame(conn net.Conn) ([]byte, error) {
	acknowledgeAtOnce(conn)
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	acknowledgeAtOnce(conn)
	frame := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, frame); err != nil {
		return nil, err
	}
	return frame, nil
}

func writeFrame(conn net.Conn, payload []byte) error {
	if len(payload) > frameBytesMax {
		return fmt.Errorf("answer of %d bytes, a frame holds %d", len(payload), frameBytesMax)
	}
	frame := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(payload)), uint16(len(payload)))
	_, err := conn.Write(append(frame, payload...))
	return err
}
