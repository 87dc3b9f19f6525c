package iso7816

import (
	"errors"
	"fmt"
)

// Limits of an APDU. Lengths are in bytes.
const (
	DataShortBytesMax     = 255   // command data of a short APDU
	DataExtendedBytesMax  = 65535 // command data of an extended APDU
	ResponseShortBytesMax = 256   // response data asked for by a short Le
	ResponseBytesMax      = 65536 // response data asked for by an extended Le

	headerBytes = 4
	statusBytes = 2
)

// ErrMalformed reports bytes that are not what they should be: no APDU of any
// form, or no complete TLV.
var ErrMalformed = errors.New("malformed")

// A Command is a command APDU.
type Command struct {
	CLA, INS, P1, P2 byte

	// Data is the command's body, at most DataExtendedBytesMax bytes.
	Data []byte

	// Ne is the greatest number of response bytes wanted, 0 to ResponseBytesMax.
	// At 0 the APDU carries no Le field.
	Ne int
}

// ClassChaining is the bit of CLA that says "more of this command follows".
const ClassChaining = 0x10

// ShortAPDU encodes c with one-byte lengths.
func (c Command) ShortAPDU() ([]byte, error) {
	if len(c.Data) > DataShortBytesMax {
		return nil, fmt.Errorf("iso7816: %d bytes of data in a short APDU, at most %d fit", len(c.Data), DataShortBytesMax)
	}
	if c.Ne < 0 || c.Ne > ResponseShortBytesMax {
		return nil, fmt.Errorf("iso7816: Ne %d in a short APDU, want 0 to %d", c.Ne, ResponseShortBytesMax)
	}
	b := append(make([]byte, 0, headerBytes+2+len(c.Data)), c.CLA, c.INS, c.P1, c.P2)
	if len(c.Data) > 0 {
		b = append(b, byte(len(c.Data)))
		b = append(b, c.Data...)
	}
	if c.Ne > 0 {
		b = append(b, byte(c.Ne)) // 256 is coded 00
	}
	return b, nil
}

// ExtendedAPDU encodes c with lengths of two or three bytes. A command with
// neither data nor Le has only one form, the bare header.
func (c Command) ExtendedAPDU() ([]byte, error) {
	if len(c.Data) > DataExtendedBytesMax {
		return nil, fmt.Errorf("iso7816: %d bytes of data in an APDU, at most %d fit", len(c.Data), DataExtendedBytesMax)
	}
	if c.Ne < 0 || c.Ne > ResponseBytesMax {
		return nil, fmt.Errorf("iso7816: Ne %d, want 0 to %d", c.Ne, ResponseBytesMax)
	}
	b := append(make([]byte, 0, headerBytes+5+len(c.Data)), c.CLA, c.INS, c.P1, c.P2)
	if len(c.Data) > 0 {
		b = append(b, 0, byte(len(c.Data)>>8), byte(len(c.Data)))
		b = append(b, c.Data...)
	}
	if c.Ne > 0 {
		if len(c.Data) == 0 {
			b = append(b, 0)
		}
		b = append(b, byte(c.Ne>>8), byte(c.Ne)) // 65536 is coded 0000
	}
	return b, nil
}

// ParseCommand decodes a command APDU of either length, as a card has to. It
// says whether the APDU was of the extended form. Data is a part of apdu.
func ParseCommand(apdu []byte) (c Command, extended bool, err error) {
	if len(apdu) < headerBytes {
		return Command{}, false, fmt.Errorf("iso7816: command APDU of %d bytes: %w", len(apdu), ErrMalformed)
	}
	c = Command{CLA: apdu[0], INS: apdu[1], P1: apdu[2], P2: apdu[3]}
	body := apdu[headerBytes:]
	switch {
	case len(body) == 0:
		return c, false, nil
	case len(body) == 1:
		c.Ne = neOf(int(body[0]), ResponseShortBytesMax)
		return c, false, nil
	case body[0] != 0:
		return parseShort(c, body)
	default:
		return parseExtended(c, body)
	}
}

// parseShort decodes Lc, data and perhaps Le of one byte each.
func parseShort(c Command, body []byte) (Command, bool, error) {
	lc, rest := int(body[0]), body[1:]
	switch len(rest) {
	case lc:
	case lc + 1:
		c.Ne = neOf(int(rest[lc]), ResponseShortBytesMax)
	default:
		return Command{}, false, fmt.Errorf("iso7816: Lc %d with %d bytes behind it: %w", lc, len(rest), ErrMalformed)
	}
	c.Data = rest[:lc:lc]
	return c, false, nil
}

// parseExtended decodes what follows a first length byte of 00.
func parseExtended(c Command, body []byte) (Command, bool, error) {
	if len(body) < 3 {
		return Command{}, false, fmt.Errorf("iso7816: extended length cut off: %w", ErrMalformed)
	}
	n, rest := int(body[1])<<8|int(body[2]), body[3:]
	if len(rest) == 0 {
		c.Ne = neOf(n, ResponseBytesMax)
		return c, true, nil
	}
	switch {
	case n == 0:
		return Command{}, false, fmt.Errorf("iso7816: extended Lc of 0: %w", ErrMalformed)
	case len(rest) == n:
	case len(rest) == n+2:
		c.Ne = neOf(int(rest[n])<<8|int(rest[n+1]), ResponseBytesMax)
	default:
		return Command{}, false, fmt.Errorf("iso7816: extended Lc %d with %d bytes behind it: %w", n, len(rest), ErrMalformed)
	}
	c.Data = rest[:n:n]
	return c, true, nil
}

// neOf gives the Ne that an Le field means: all zeros is the maximum.
func neOf(le, max int) int {
	if le == 0 {
		return max
	}
	return le
}

// A Response is a response APDU: data, then the status word.
type Response struct {
	Data []byte
	SW   uint16
}

// ParseResponse splits a response APDU, whose status word is 6xxx or 9xxx. Data is
// a part of apdu.
func ParseResponse(apdu []byte) (Response, error) {
	n := len(apdu) - statusBytes
	if n < 0 || n > ResponseBytesMax {
		return Response{}, fmt.Errorf("iso7816: response APDU of %d bytes: %w", len(apdu), ErrMalformed)
	}
	if sw1 := apdu[n]; sw1 <= 0x60 || sw1 >= 0x70 && sw1 < 0x90 || sw1 >= 0xA0 { // ISO/IEC 7816-3 section 10.3.3
		return Response{}, fmt.Errorf("iso7816: response APDU of %d bytes ends in no status word: %w", len(apdu), ErrMalformed)
	}
	return Response{Data: apdu[:n:n], SW: uint16(apdu[n])<<8 | uint16(apdu[n+1])}, nil
}

// Bytes encodes r.
func (r Response) Bytes() []byte {
	b := make([]byte, 0, len(r.Data)+statusBytes)
	return append(append(b, r.Data...), byte(r.SW>>8), byte(r.SW))
}
