package iso7816

import (
	"fmt"
	"slices"
)

const atrBytesMax = 33

// An ATR is what a card says of itself after a reset, ISO/IEC 7816-3 section 8.
type ATR struct {
	Protocols  []int  // that it offers, by number: 0, 1
	Historical []byte // ISO/IEC 7816-4 section 12.1.1

	// From the card capabilities in the historical bytes; false if not told.
	Chaining       bool // commands may come in a chain
	ExtendedLength bool // APDUs may be of extended length
}

// ParseATR decodes an answer to reset. Its check byte is checked by the reader.
func ParseATR(atr []byte) (ATR, error) {
	if len(atr) < 2 || len(atr) > atrBytesMax || atr[0] != 0x3B && atr[0] != 0x3F {
		return ATR{}, fmt.Errorf("iso7816: ATR of %d bytes: %w", len(atr), ErrMalformed)
	}
	var a ATR
	rest, present, historical := atr[2:], atr[1]>>4, int(atr[1]&0x0F)
	checked := false // a check byte ends it
	for present != 0 {
		var td byte
		for bit := byte(1); bit <= 8; bit <<= 1 { // TA, TB, TC, TD
			if present&bit == 0 {
				continue
			}
			if len(rest) == 0 {
				return ATR{}, fmt.Errorf("iso7816: ATR ends in its interface bytes: %w", ErrMalformed)
			}
			td, rest = rest[0], rest[1:]
		}
		if present&8 == 0 {
			break
		}
		protocol := int(td & 0x0F)
		checked = checked || protocol != 0
		if protocol != 15 && !slices.Contains(a.Protocols, protocol) { // 15 qualifies what concerns all of them
			a.Protocols = append(a.Protocols, protocol)
		}
		present = td >> 4
	}
	if len(a.Protocols) == 0 {
		a.Protocols = []int{0}
	}
	want := historical
	if checked {
		want++
	}
	if len(rest) != want {
		return ATR{}, fmt.Errorf("iso7816: ATR has %d bytes where %d belong: %w", len(rest), want, ErrMalformed)
	}
	a.Historical = rest[:historical:historical]
	a.readCapabilities()
	return a, nil
}

// readCapabilities looks for the COMPACT-TLV object 73, card capabilities of
// three bytes. The last one has what is of interest here.
func (a *ATR) readCapabilities() {
	const statusIndicator = 3 // bytes at the end, in the category 00
	var b []byte
	switch n := len(a.Historical); {
	case n > 0 && a.Historical[0] == 0x80:
		b = a.Historical[1:]
	case n > statusIndicator && a.Historical[0] == 0x00:
		b = a.Historical[1 : n-statusIndicator]
	}
	for len(b) > 0 {
		tag, n := b[0]>>4, int(b[0]&0x0F)
		if n > len(b)-1 {
			return // the historical bytes are the maker's own
		}
		if value := b[1 : 1+n]; tag == 7 && n == 3 {
			a.Chaining, a.ExtendedLength = value[2]&0x80 != 0, value[2]&0x40 != 0
		}
		b = b[1+n:]
	}
}
