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
