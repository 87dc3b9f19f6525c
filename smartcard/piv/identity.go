package piv

import (
	"crypto/rand"
	"fmt"
	"time"

	"github.com/setkit/setkit/smartcard/iso7816"
)

// A GUID is the card's number in its CHUID, a UUID.
type GUID [16]byte

// NewGUID makes a random one.
func NewGUID() GUID {
	var g GUID
	rand.Read(g[:])         // never fails
	g[6] = g[6]&0x0F | 0x40 // RFC 9562, version 4
	g[8] = g[8]&0x3F | 0x80
	return g
}

// String is the usual notation.
func (g GUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", g[:4], g[4:6], g[6:8], g[8:10], g[10:])
}

// GUID reads the card's GUID from its CHUID. The error wraps
// smartcard.StatusNotFound if the card has no CHUID.
func (tx *Tx) GUID() (GUID, error) {
	chuid, err := tx.CHUID()
	return chuid.GUID, err
}

// A CHUID is the card holder unique identifier: SP 800-73-4 part 1, table 9.
type CHUID struct {
	FASCN     []byte    // Federal Agency Smart Credential Number, 25 bytes
	GUID      GUID      // of the card
	Holder    GUID      // of the cardholder; zero if not told
	Expires   time.Time // zero if it has no date
	Signature []byte    // the issuer's, over the rest, a CMS message; empty on most cards outside the government
}

// CHUID reads the card holder unique identifier. The error wraps
// smartcard.StatusNotFound if the card has none.
func (tx *Tx) CHUID() (CHUID, error) {
	value, err := tx.Object(ObjectCHUID)
	if err != nil {
		return CHUID{}, err
	}
	chuid, err := parseCHUID(value)
	if err != nil {
		return CHUID{}, fmt.Errorf("piv: CHUID: %w", err)
	}
	return chuid, nil
}

func parseCHUID(value []byte) (CHUID, error) {
	parts, err := iso7816.ParseTLVs(value)
	if err != nil {
		return CHUID{}, err
	}
	g, ok := iso7816.Find(parts, 0x34)
	if !ok || len(g) != len(GUID{}) {
		return CHUID{}, fmt.Errorf("no GUID: %w", iso7816.ErrMalformed)
	}
	chuid := CHUID{GUID: GUID(g)}
	chuid.FASCN, _ = iso7816.Find(parts, 0x30)
	chuid.Signature, _ = iso7816.Find(parts, 0x3E)
	if holder, ok := iso7816.Find(parts, 0x36); ok && len(holder) == len(GUID{}) {
		chuid.Holder = GUID(holder)
	}
	if date, ok := iso7816.Find(parts, 0x35); ok && len(date) > 0 {
		if chuid.Expires, err = time.Parse(dateLayout, string(date)); err != nil {
			return CHUID{}, fmt.Errorf("expiry date: %w", iso7816.ErrMalformed)
		}
	}
	return chuid, nil
}

// dateLayout is that of an expiry date, YYYYMMDD.
const dateLayout = "20060102"

// NewCHUID returns the contents of a CHUID object, unsigned, of a card that is
// not of the United States' government: SP 800-73-4 part 1, table 9.
func NewCHUID(g GUID, expires time.Time) []byte {
	value := iso7816.AppendTLV(nil, 0x30, foreignFASCN())
	value = iso7816.AppendTLV(value, 0x34, g[:])
	value = iso7816.AppendTLV(value, 0x35, []byte(expires.UTC().Format(dateLayout)))
	value = iso7816.AppendTLV(value, 0x3E, nil) // issuer's signature
	return iso7816.AppendTLV(value, 0xFE, nil)
}

// foreignFASCN is a Federal Agency Smart Credential Number without meaning:
// agency 9999. Its digits are of five bits, the last one odd parity; S, F and E
// separate the fields, and a last digit checks the sum.
func foreignFASCN() []byte {
	const text = "S9999F9999F999999F0F1F0000000000300001E"
	codes := map[rune]byte{'S': 0x0B, 'F': 0x0D, 'E': 0x0F}
	var bits []byte
	var sum byte
	add := func(value byte) { // least significant bit first
		sum ^= value
		parity := byte(1)
		for i := range 4 {
			bit := value >> i & 1
			parity ^= bit
			bits = append(bits, bit)
		}
		bits = append(bits, parity)
	}
	for _, c := range text {
		value, ok := codes[c]
		if !ok {
			value = byte(c - '0')
		}
		add(value)
	}
	add(sum)
	out := make([]byte, len(bits)/8)
	for i, bit := range bits {
		out[i/8] |= bit << (7 - i%8)
	}
	return out
}

// NewCCC returns the contents of a card capability container that refers to PIV
// only: SP 800-73-4 part 1, table 8.
func NewCCC(g GUID) []byte {
	id := append([]byte{0xA0, 0x00, 0x00, 0x01, 0x16, 0xFF, 0x02}, g[2:]...)
	value := iso7816.AppendTLV(nil, 0xF0, id)           // card identifier
	value = iso7816.AppendTLV(value, 0xF1, []byte{'!'}) // container version 2.1
	value = iso7816.AppendTLV(value, 0xF2, []byte{'!'}) // grammar version 2.1
	value = iso7816.AppendTLV(value, 0xF3, nil)
	value = iso7816.AppendTLV(value, 0xF4, []byte{0x00}) // no PKCS #15
	value = iso7816.AppendTLV(value, 0xF5, []byte{0x10}) // data model
	for _, tag := range []iso7816.Tag{0xF6, 0xF7, 0xFA, 0xFB, 0xFC, 0xFD, 0xFE} {
		value = iso7816.AppendTLV(value, tag, nil)
	}
	return value
}

// A CCC is what a card capability container says of the card.
type CCC struct {
	CardID    []byte // 21 bytes: RID of the issuer of the number, type, number
	DataModel byte   // 0x10 for PIV
}

// CCC reads the card capability container. The error wraps
// smartcard.StatusNotFound if the card has none.
func (tx *Tx) CCC() (CCC, error) {
	value, err := tx.Object(ObjectCCC)
	if err != nil {
		return CCC{}, err
	}
	ccc, err := parseCCC(value)
	if err != nil {
		return CCC{}, fmt.Errorf("piv: CCC: %w", err)
	}
	return ccc, nil
}

func parseCCC(value []byte) (CCC, error) {
	parts, err := iso7816.ParseTLVs(value)
	if err != nil {
		return CCC{}, err
	}
	id, _ := iso7816.Find(parts, 0xF0)
	model, ok := iso7816.Find(parts, 0xF5)
	if !ok || len(model) != 1 {
		return CCC{}, fmt.Errorf("no data model: %w", iso7816.ErrMalformed)
	}
	return CCC{CardID: id, DataModel: model[0]}, nil
}
