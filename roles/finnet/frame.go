package finnet

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// frameTimeout bounds how long a frame takes from its first octet to its last, in either direction.
const frameTimeout = 10 * time.Second

// readFrame reads one message. It waits for its first octet until idleUntil.
func readFrame(c net.Conn, idleUntil time.Time) ([]byte, error) {
	if err := c.SetReadDeadline(idleUntil); err != nil {
		return nil, err
	}
	var header [2]byte
	if _, err := io.ReadFull(c, header[:1]); err != nil {
		return nil, err
	}
	if err := c.SetReadDeadline(time.Now().Add(frameTimeout)); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c, header[1:]); err != nil {
		return nil, noEOF(err)
	}
	n := int(binary.BigEndian.Uint16(header[:]))
	if n < messageBytesMin || n > frameBytesMax {
		return nil, fmt.Errorf("frame of %d octets, want %d to %d", n, messageBytesMin, frameBytesMax)
	}
	octets := make([]byte, n)
	if _, err := io.ReadFull(c, octets); err != nil {
		return nil, noEOF(err)
	}
	return octets, nil
}

// noEOF tells the end of a connection within a frame from one between frames.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// writeFrame writes one frame. If it returns an error, the peer did not get the whole frame, unless sent
// is true.
func writeFrame(c net.Conn, frame []byte) (sent bool, err error) {
	if err := c.SetWriteDeadline(time.Now().Add(frameTimeout)); err != nil {
		return false, err
	}
	n, err := c.Write(frame)
	return n == len(frame), err
}
