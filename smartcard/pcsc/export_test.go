package pcsc

import (
	"io/fs"

	"github.com/ebfe/scard"
)

// Handle is what stands between a Card and PC/SC.
type Handle = handle

// OpenHandle makes a Card of a reader that is none of PC/SC's.
func OpenHandle(h Handle, reader string) (*Card, error) { return newCard(nil, h, reader) }

// NoReaderHelp is the advice for a system with these USB devices.
func NoReaderHelp(devices fs.FS) string { return noReaderHelp(devices) }

// ReadFeatures decodes a reader's lists as an opened Card does.
func ReadFeatures(codes, pin, tlv []byte) (map[byte]uint32, int, int) {
	f := features{apduMax: apduMaxUnknown}
	f.readPINProperties(pin)
	f.readTLVProperties(tlv)
	return parseFeatures(codes), f.keypad.DigitsMin, f.keypad.DigitsMax
}

// CodeGetFeatures is CM_IOCTL_GET_FEATURE_REQUEST.
var CodeGetFeatures = scard.CtlCode(codeGetFeatures)

// A Sighting is a reader at one look, and how often its card has moved.
type Sighting = sighting

// SightingOf makes one.
func SightingOf(r Reader, moves uint32) Sighting { return sighting{r, moves} }

// Changes says what happened between two looks.
func Changes(before, now []Sighting) []Event { return changes(before, now) }

// Moves asks PC/SC how often a card was put into a reader or taken out.
func Moves(reader string) (uint32, error) {
	ctx, err := establish()
	if err != nil {
		return 0, err
	}
	defer ctx.Release()
	all, err := look(ctx)
	for _, s := range all {
		if s.Name == reader {
			return s.moves, nil
		}
	}
	return 0, err
}
