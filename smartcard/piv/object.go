package piv

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"io"
	"time"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
)

// An ObjectID names a data object, SP 800-73-4 part 1, table 3. It is the
// object's BER-TLV tag.
type ObjectID uint32

// Data objects that have no slot.
const (
	ObjectCHUID     ObjectID = 0x5FC102 // card holder unique identifier
	ObjectCCC       ObjectID = 0x5FC107 // card capability container
	objectDiscovery ObjectID = 0x7E
)

const (
	tagTagList iso7816.Tag = 0x5C
	tagData    iso7816.Tag = 0x53

	certificateBytesMax = 16384 // after decompression
)

// Object reads a data object. The error wraps smartcard.StatusNotFound if the
// card doesn't have it.
func (tx *Tx) Object(id ObjectID) ([]byte, error) {
	what := fmt.Sprintf("read object %X", uint32(id))
	data, err := tx.command(what, iso7816.Command{
		INS: insGetData, P1: 0x3F, P2: 0xFF, Ne: neAll,
		Data: iso7816.AppendTLV(nil, tagTagList, iso7816.Tag(id).Bytes()),
	})
	if err != nil {
		return nil, err
	}
	outer := tagData
	if id == objectDiscovery { // comes without the wrapping
		outer = iso7816.Tag(objectDiscovery)
	}
	value, err := iso7816.ParseTLV(data, outer)
	if err == nil && len(value) == 0 {
		err = smartcard.StatusNotFound // some cards keep an empty object instead
	}
	if err != nil {
		return nil, fmt.Errorf("piv: %s: %w", what, err)
	}
	return value, nil
}

// PutObject writes a data object; without a value it deletes it. Authenticate
// comes first.
func (tx *Tx) PutObject(id ObjectID, value []byte) error {
	data := iso7816.AppendTLV(nil, tagTagList, iso7816.Tag(id).Bytes())
	data = iso7816.AppendTLV(data, tagData, value)
	_, err := tx.command(fmt.Sprintf("write object %X", uint32(id)), iso7816.Command{INS: insPutData, P1: 0x3F, P2: 0xFF, Data: data})
	return err
}

// Certificate reads the certificate that is stored for a slot. The error wraps
// smartcard.StatusNotFound if there is none.
func (tx *Tx) Certificate(slot Slot) (*x509.Certificate, error) {
	id, err := slot.certificateObject()
	if err != nil {
		return nil, err
	}
	value, err := tx.Object(id)
	if err != nil {
		return nil, err
	}
	cert, err := parseCertificate(value)
	if err != nil {
		return nil, fmt.Errorf("piv: certificate of slot %v: %w", slot, err)
	}
	return cert, nil
}

// PutCertificate stores a certificate for a slot. Authenticate comes first.
func (tx *Tx) PutCertificate(slot Slot, cert *x509.Certificate) error {
	id, err := slot.certificateObject()
	if err != nil {
		return err
	}
	value := iso7816.AppendTLV(nil, 0x70, cert.Raw)
	value = iso7816.AppendTLV(value, 0x71, []byte{0}) // not compressed
	value = iso7816.AppendTLV(value, 0xFE, nil)       // error detection code, not used
	return tx.PutObject(id, value)
}

// parseCertificate reads 70 certificate, 71 information: SP 800-73-4 part 1,
// table 10. Bit 1 of the information says that the certificate is compressed.
func parseCertificate(object []byte) (*x509.Certificate, error) {
	parts, err := iso7816.ParseTLVs(object)
	if err != nil {
		return nil, err
	}
	der, ok := iso7816.Find(parts, 0x70)
	if !ok {
		return nil, fmt.Errorf("no tag 70: %w", iso7816.ErrMalformed)
	}
	if info, ok := iso7816.Find(parts, 0x71); ok && len(info) == 1 && info[0]&1 != 0 {
		if der, err = gunzip(der); err != nil {
			return nil, err
		}
	}
	return x509.ParseCertificate(der)
}

func gunzip(b []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(r, certificateBytesMax+1))
	if err != nil {
		return nil, err
	}
	if len(out) > certificateBytesMax {
		return nil, fmt.Errorf("larger than %d bytes: %w", certificateBytesMax, iso7816.ErrMalformed)
	}
	return out, nil
}

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
	value, err := tx.Object(ObjectCHUID)
	if err != nil {
		return GUID{}, err
	}
	parts, err := iso7816.ParseTLVs(value)
	if err != nil {
		return GUID{}, fmt.Errorf("piv: CHUID: %w", err)
	}
	g, ok := iso7816.Find(parts, 0x34)
	if !ok || len(g) != len(GUID{}) {
		return GUID{}, fmt.Errorf("piv: CHUID has no GUID: %w", iso7816.ErrMalformed)
	}
	return GUID(g), nil
}

// NewCHUID returns the contents of a CHUID object, unsigned, of a card that is
// not of the United States' government: SP 800-73-4 part 1, table 9.
func NewCHUID(g GUID, expires time.Time) []byte {
	value := iso7816.AppendTLV(nil, 0x30, foreignFASCN())
	value = iso7816.AppendTLV(value, 0x34, g[:])
	value = iso7816.AppendTLV(value, 0x35, []byte(expires.UTC().Format("20060102")))
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
