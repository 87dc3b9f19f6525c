package pcsc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/ebfe/scard"

	"github.com/setkit/setkit/smartcard"
)

// What follows is PC/SC part 10, "IFDs with secure PIN entry capabilities", of
// version 2.01.09, and the CCID specification, revision 1.1, section 6.1.11, which
// its structures are taken from.

// codeGetFeatures is CM_IOCTL_GET_FEATURE_REQUEST without the system's part.
const codeGetFeatures = 3400

// Features, part 10 section 2.3.
const (
	featureVerifyDirect  = 0x06
	featureModifyDirect  = 0x07
	featurePINProperties = 0x0A
	featureTLVProperties = 0x12
)

// Properties that FEATURE_GET_TLV_PROPERTIES tells, part 10 section 2.6.14.
const (
	propertyLCDLayout  = 0x01
	propertyLCDColumns = 0x04
	propertyLCDLines   = 0x05
	propertyPINMin     = 0x06
	propertyPINMax     = 0x07
	propertyAPDUMax    = 0x0A
)

// Values in PIN_VERIFY_STRUCTURE and PIN_MODIFY_STRUCTURE, part 10 sections 2.5.2
// and 2.5.3.
const (
	entrySeconds      = 30     // without a key pressed, at the beginning and later
	formatBytesASCII  = 0x82   // offsets in bytes, digits to the left, in ASCII
	validationKey     = 0x02   // the person ends the entry with the OK key
	confirmAndCurrent = 0x03   // the new PIN is typed twice, the current one before
	languageEnglish   = 0x0409 // of the display
	blockBytesMax     = 15
	verifyHeaderBytes = 19
	modifyHeaderBytes = 24
)

// Status words of the reader, part 10 section 2.5.5: nothing went to the card.
var padErrors = map[smartcard.Status]error{
	0x6400: smartcard.ErrPadTimeout,
	0x6401: smartcard.ErrPadCancelled,
	0x6402: smartcard.ErrPadMismatch,
	0x6403: smartcard.ErrPadLength,
}

// apduMaxUnknown stands where a reader doesn't tell how long APDUs may be.
const apduMaxUnknown = -1

// extendedRoomMin is the shortest data field of commands that a reader for
// extended APDUs has to take: the largest certificates fit.
const extendedRoomMin = 4096

// features is what a reader has besides slots.
type features struct {
	verify, modify uint32 // control codes, 0 without the feature
	keypad         smartcard.Keypad
	apduMax        int // bytes of command data, or apduMaxUnknown
}

func (f features) roomForExtended() bool {
	return f.apduMax == apduMaxUnknown || f.apduMax >= extendedRoomMin
}

// askFeatures asks the reader behind h, in a transaction: another program's would
// make it fail as if the reader had nothing.
func askFeatures(h handle) (f features, err error) {
	if err := h.BeginTransaction(); err != nil {
		return features{}, err
	}
	defer func() {
		if endErr := h.EndTransaction(scard.LeaveCard); err == nil {
			err = endErr
		}
	}()
	f.apduMax = apduMaxUnknown
	codes, err := control(h, scard.CtlCode(codeGetFeatures))
	if err != nil || codes == nil {
		return f, err
	}
	list := parseFeatures(codes)
	f.verify, f.modify = list[featureVerifyDirect], list[featureModifyDirect]
	f.keypad.Verify, f.keypad.Modify = f.verify != 0, f.modify != 0
	if code := list[featurePINProperties]; code != 0 {
		properties, err := control(h, code)
		if err != nil {
			return features{}, err
		}
		f.readPINProperties(properties)
	}
	if code := list[featureTLVProperties]; code != 0 {
		properties, err := control(h, code)
		if err != nil {
			return features{}, err
		}
		f.readTLVProperties(properties)
	}
	return f, nil
}

// control asks the reader. Its answer is nil if it doesn't know the question;
// readers say that with all sorts of codes.
func control(h handle, code uint32) ([]byte, error) {
	answer, err := h.Control(code, nil)
	var failed scard.Error
	if errors.As(err, &failed) {
		if _, known := classes[failed]; known {
			return nil, err // card, reader or service are gone
		}
		return nil, nil
	}
	return answer, err
}

// parseFeatures decodes a list of PCSC_TLV_STRUCTUREs: tag, length, control code.
// Codes are big-endian, unlike everything else here.
func parseFeatures(list []byte) map[byte]uint32 {
	codes := make(map[byte]uint32)
	for tag, value := range properties(list) {
		if len(value) == 4 {
			codes[tag] = binary.BigEndian.Uint32(value)
		}
	}
	return codes
}

// properties yields what a list of tags, lengths of one byte and values has. What
// is cut off is not there.
func properties(list []byte) iter.Seq2[byte, []byte] {
	return func(yield func(byte, []byte) bool) {
		for len(list) >= 2 && len(list) >= 2+int(list[1]) {
			end := 2 + int(list[1])
			if !yield(list[0], list[2:end]) {
				return
			}
			list = list[end:]
		}
	}
}

// readPINProperties decodes PIN_PROPERTIES_STRUCTURE, of which there are a longer
// and a shorter version.
func (f *features) readPINProperties(b []byte) {
	if len(b) >= 2 {
		f.keypad.Columns, f.keypad.Lines = int(b[0]), int(b[1])
	}
}

// readTLVProperties decodes the answer to FEATURE_GET_TLV_PROPERTIES.
func (f *features) readTLVProperties(b []byte) {
	for tag, value := range properties(b) {
		var le [4]byte
		if len(value) > copy(le[:], value) {
			continue // a text
		}
		switch n := int(binary.LittleEndian.Uint32(le[:])); tag {
		case propertyLCDLayout:
			f.readPINProperties(value)
		case propertyLCDColumns:
			f.keypad.Columns = n
		case propertyLCDLines:
			f.keypad.Lines = n
		case propertyPINMin:
			f.keypad.DigitsMin = n
		case propertyPINMax:
			f.keypad.DigitsMax = n
		case propertyAPDUMax:
			f.apduMax = n
		}
	}
}

// Keypad is what smartcard.PINPad says, as the reader told when the card was
// opened.
func (c *Card) Keypad() smartcard.Keypad { return c.features.keypad }

// EnterPIN is what smartcard.PINPad says.
func (c *Card) EnterPIN(ctx context.Context, e smartcard.PINEntry) ([]byte, error) {
	code, what := c.features.verify, "verify a PIN on the keypad"
	if e.Replace {
		code, what = c.features.modify, "change a PIN on the keypad"
	}
	if code == 0 {
		return nil, fmt.Errorf("pcsc: reader %q: %s: the reader has no keypad for it", c.reader, what)
	}
	request, err := c.features.entry(e)
	if err != nil {
		return nil, fmt.Errorf("pcsc: reader %q: %s: %w", c.reader, what, err)
	}
	var answer []byte
	var ended error // by the person, or by waiting for one
	err = c.call(ctx, what, scard.ResetCard, func() error {
		var err error
		answer, err = c.card.Control(code, request)
		switch {
		case errors.Is(err, scard.ErrCancelledByUser):
			ended = smartcard.ErrPadCancelled
			return nil
		case errors.Is(err, scard.ErrTimeout):
			ended = smartcard.ErrPadTimeout
			return nil
		case err == nil && len(answer) < responseBytesMin:
			return scard.ErrNotTransacted
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if ended == nil && len(answer) == responseBytesMin {
		ended = padErrors[smartcard.Status(binary.BigEndian.Uint16(answer))]
	}
	if ended != nil {
		return nil, fmt.Errorf("pcsc: reader %q: %w", c.reader, ended)
	}
	return answer, nil
}

// entry encodes PIN_VERIFY_STRUCTURE or PIN_MODIFY_STRUCTURE.
func (f features) entry(e smartcard.PINEntry) ([]byte, error) {
	const header = 5 // CLA, INS, P1, P2, Lc
	blocks := 1
	if e.Replace {
		blocks = 2
	}
	if n := len(e.Command); e.BlockBytes < 1 || e.BlockBytes > blockBytesMax || n != header+blocks*e.BlockBytes || int(e.Command[header-1]) != n-header {
		return nil, fmt.Errorf("command APDU of %d bytes, want one with %d PIN blocks of 1 to %d bytes", n, blocks, blockBytesMax)
	}
	least, most := max(e.DigitsMin, f.keypad.DigitsMin), e.DigitsMax
	if f.keypad.DigitsMax > 0 {
		most = min(most, f.keypad.DigitsMax)
	}
	if least < 1 || least > most || most > e.BlockBytes {
		return nil, fmt.Errorf("a PIN of %d to %d digits does not go with the reader, which takes %d to %d", e.DigitsMin, e.DigitsMax, f.keypad.DigitsMin, f.keypad.DigitsMax)
	}
	messages := byte(0) // that the reader shows: without a display, none
	if f.keypad.Lines > 0 {
		messages = 1
		if e.Replace {
			messages = 3
		}
	}
	b := make([]byte, 0, modifyHeaderBytes+len(e.Command))
	b = append(b, entrySeconds, entrySeconds, formatBytesASCII, byte(e.BlockBytes), 0)
	if e.Replace {
		b = append(b, 0, byte(e.BlockBytes)) // where the old PIN belongs, and the new one
	}
	b = binary.LittleEndian.AppendUint16(b, uint16(least)<<8|uint16(most))
	if e.Replace {
		b = append(b, confirmAndCurrent)
	}
	b = append(b, validationKey, messages)
	b = binary.LittleEndian.AppendUint16(b, languageEnglish)
	if e.Replace {
		b = append(b, 0, 1, 2) // texts: enter the PIN, enter a new PIN, confirm it
	} else {
		b = append(b, 0)
	}
	b = append(b, 0, 0, 0) // the driver makes the prologue of T=1
	b = binary.LittleEndian.AppendUint32(b, uint32(len(e.Command)))
	return append(b, e.Command...), nil
}
