// Package virtual is a PIV card in software, for tests, laboratories and
// demonstrations.
//
// A [Card] answers as a card with the PIV application of NIST SP 800-73-4 and
// the YubiKey's additions (version, serial number, metadata, attestation, import
// of keys, management key, reset). Used as a [smartcard.Card] it needs nothing
// else; to be reached by every program of the machine through PC/SC it is
// plugged into a virtual reader with [Plug], and [StartHost] makes such readers
// with a pcscd of their own that leaves the system's alone. [Card.Keep] and [Load]
// keep a card in an encrypted file, and [Slow] makes it take its time.
//
// Its keys lie in the memory of the process and its arithmetic is not hardened
// against anyone who can measure it. It keeps no secret that is worth money.
package virtual

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
)

// A Firmware is the version that a card reports. Programs go by it.
type Firmware [3]byte

// The firmwares of cards.
var (
	// Firmware54 is what most programs know: RSA-2048, P-256 and P-384, and a
	// management key that is 3DES until an AES key is set.
	Firmware54 = Firmware{5, 4, 3}

	// Firmware57 has RSA-3072, RSA-4096, Ed25519 and X25519 as well, and its
	// management key is AES-192 from the factory.
	Firmware57 = Firmware{5, 7, 1}
)

// String is the version, such as "5.4.3".
func (f Firmware) String() string { return fmt.Sprintf("%d.%d.%d", f[0], f[1], f[2]) }

// chainBytesMax bounds a command that comes as a chain of APDUs: the largest
// object and what PUT DATA wraps around it.
const chainBytesMax = objectBytesMax + 64

// A Card is a PIV card in software. It may be used concurrently; like the
// plastic kind it handles one command after the other.
type Card struct {
	turn chan struct{} // holds a value while a transaction runs

	mu    sync.Mutex
	state volatile
	memory

	file   *stateFile // nil: what the card keeps ends with the process
	kept   []byte     // what the file has
	closed bool
}

// memory is what a card keeps without power.
type memory struct {
	serial      uint32
	firmware    Firmware
	maker       []byte // certificate of the CA that vouches for attestation
	attestation []byte // certificate of the key in slot F9
	pin         secret
	puk         secret
	mgm         managementKey
	keys        map[byte]*key // by slot
	objects     map[iso7816.Tag][]byte
}

// volatile is what a card forgets without power.
type volatile struct {
	selected      bool
	pinVerified   bool
	pinFresh      bool // VERIFY was the command just before this one
	authenticated bool // with the management key
	witness       []byte
	challenge     []byte
	chain         iso7816.Command // the command so far, if chaining
	chaining      bool
	rest          []byte // what GET RESPONSE fetches
}

var _ smartcard.Card = (*Card)(nil)

// NewCard makes a card of Firmware54; see New.
func NewCard() *Card { return New(Firmware54) }

// New makes a card as it comes from the factory: PIN 123456, PUK 12345678, the
// well-known management key, a random serial number, and nothing in its slots
// but the key that attests the others.
func New(f Firmware) *Card {
	var serial [4]byte
	rand.Read(serial[:]) // never fails
	c := &Card{turn: make(chan struct{}, 1)}
	c.serial = binary.BigEndian.Uint32(serial[:]) &^ (1 << 31)
	c.firmware = f
	c.keys = make(map[byte]*key)
	_ = c.equip() // fails only if P-256 does
	c.wipe()
	return c
}

// wipe gives the card its factory contents. The serial number and what attests
// keys stay.
func (c *Card) wipe() {
	c.pin = newSecret(factoryPIN)
	c.puk = newSecret(factoryPUK)
	c.mgm = factoryManagementKey(c.firmware)
	own := c.keys[slotAttestation]
	c.keys = make(map[byte]*key)
	c.objects = make(map[iso7816.Tag][]byte)
	if own != nil {
		c.keys[slotAttestation] = own
		c.objects[tagAttestation] = certificateObject(c.attestation)
	}
}

// Serial returns the card's serial number.
func (c *Card) Serial() uint32 { return c.serial }

// ATR returns what the card answers to reset: that of a YubiKey 5, which every
// PIV program knows and which offers protocol T=1.
func (c *Card) ATR() []byte {
	return []byte{
		0x3B, 0xFD, 0x13, 0x00, 0x00, 0x81, 0x31, 0xFE, 0x15, 0x80, 0x73, 0xC0,
		0x21, 0xC0, 0x57, 0x59, 0x75, 0x62, 0x69, 0x4B, 0x65, 0x79, 0x40,
	}
}

// Reset takes the card's power away and gives it back: selection, verified PIN,
// authentication and unfinished commands are forgotten.
func (c *Card) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = volatile{}
}

// Begin waits for the end of another goroutine's transaction.
func (c *Card) Begin(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// End ends the transaction.
func (c *Card) End(d smartcard.Disposition) error {
	if len(c.turn) == 0 {
		return errors.New("virtual: End without Begin")
	}
	if d == smartcard.Reset {
		c.Reset()
	}
	<-c.turn
	return nil
}

// Transmit handles one command APDU.
func (c *Card) Transmit(ctx context.Context, apdu []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fmt.Errorf("virtual: the card is closed: %w", smartcard.ErrUnavailable)
	}
	cmd, extended, err := iso7816.ParseCommand(apdu)
	if err != nil {
		return status(smartcard.StatusWrongLength), nil
	}
	return c.handle(cmd, extended), nil
}

// handle does what stands before any instruction: class, GET RESPONSE,
// chaining.
func (c *Card) handle(cmd iso7816.Command, extended bool) []byte {
	s := &c.state
	if cmd.CLA&^iso7816.ClassChaining != 0 {
		return status(smartcard.StatusClass)
	}
	if cmd.INS == insGetResponse {
		return c.getResponse(cmd)
	}
	s.rest = nil
	if s.chaining && (cmd.INS != s.chain.INS || cmd.P1 != s.chain.P1 || cmd.P2 != s.chain.P2) {
		c.dropChain()
	}
	if s.chaining || cmd.CLA&iso7816.ClassChaining != 0 {
		if len(s.chain.Data)+len(cmd.Data) > chainBytesMax {
			c.dropChain()
			return status(smartcard.StatusWrongLength)
		}
		data := append(s.chain.Data, cmd.Data...)
		s.chain, s.chaining = cmd, true
		s.chain.Data = data
		if cmd.CLA&iso7816.ClassChaining != 0 {
			return status(smartcard.StatusOK)
		}
		cmd.Data = data
		defer c.dropChain()
	}
	data, sw := c.dispatch(cmd)
	return c.answer(data, sw, cmd.Ne, extended)
}

func (c *Card) dropChain() {
	clear(c.state.chain.Data)
	c.state.chain, c.state.chaining = iso7816.Command{}, false
}

// answer gives as much of data as was asked for, and keeps the rest.
func (c *Card) answer(data []byte, sw smartcard.Status, ne int, extended bool) []byte {
	max := ne
	if max == 0 { // no Le: data all the same, programs rely on it
		max = iso7816.ResponseShortBytesMax
		if extended {
			max = iso7816.ResponseBytesMax
		}
	}
	if len(data) <= max {
		return iso7816.Response{Data: data, SW: uint16(sw)}.Bytes()
	}
	c.state.rest = data[max:]
	return iso7816.Response{Data: data[:max], SW: moreData(len(data) - max)}.Bytes()
}

// getResponse continues an answer.
func (c *Card) getResponse(cmd iso7816.Command) []byte {
	if len(c.state.rest) == 0 || cmd.CLA != 0 || cmd.P1 != 0 || cmd.P2 != 0 || len(cmd.Data) > 0 {
		return status(smartcard.StatusConditions)
	}
	data := c.state.rest
	c.state.rest = nil
	return c.answer(data, smartcard.StatusOK, min(cmd.Ne, iso7816.ResponseShortBytesMax), false)
}

// moreData is 61xx, with 00 for 256 and more.
func moreData(n int) uint16 {
	if n > 0xFF {
		n = 0
	}
	return 0x6100 | uint16(n)
}

func status(sw smartcard.Status) []byte { return iso7816.Response{SW: uint16(sw)}.Bytes() }

// Instructions, NIST SP 800-73-4 part 2; those from 0xF7 are the YubiKey's.
const (
	insVerify           = 0x20
	insChangeReference  = 0x24
	insResetRetries     = 0x2C
	insGenerate         = 0x47
	insAuthenticate     = 0x87
	insSelect           = 0xA4
	insGetResponse      = 0xC0
	insGetData          = 0xCB
	insPutData          = 0xDB
	insMetadata         = 0xF7
	insSerial           = 0xF8
	insAttest           = 0xF9
	insSetRetries       = 0xFA
	insReset            = 0xFB
	insVersion          = 0xFD
	insImport           = 0xFE
	insSetManagementKey = 0xFF
)

// dispatch carries out one complete command.
func (c *Card) dispatch(cmd iso7816.Command) ([]byte, smartcard.Status) {
	fresh := c.state.pinFresh
	c.state.pinFresh = false
	if cmd.INS == insSelect {
		return c.selectApplication(cmd)
	}
	if !c.state.selected {
		return nil, smartcard.StatusInstruction
	}
	switch cmd.INS {
	case insVerify:
		return nil, c.verify(cmd)
	case insChangeReference:
		return nil, c.changeReference(cmd)
	case insResetRetries:
		return nil, c.resetRetries(cmd)
	case insGenerate:
		return c.generate(cmd)
	case insAuthenticate:
		return c.authenticate(cmd, fresh)
	case insGetData:
		return c.getData(cmd)
	case insPutData:
		return nil, c.putData(cmd)
	case insMetadata:
		return c.metadata(cmd)
	case insSerial:
		return binary.BigEndian.AppendUint32(nil, c.serial), smartcard.StatusOK
	case insSetRetries:
		return nil, c.setRetries(cmd)
	case insReset:
		return nil, c.reset()
	case insVersion:
		return c.firmware[:], smartcard.StatusOK
	case insAttest:
		return c.attest(cmd)
	case insImport:
		return nil, c.importKey(cmd)
	case insSetManagementKey:
		return nil, c.setManagementKey(cmd)
	default:
		return nil, smartcard.StatusInstruction
	}
}

// The application identifier: RID of NIST, PIV, version 1.0. Programs select it
// whole, without the version, or by the RID alone.
var applicationID = []byte{0xA0, 0x00, 0x00, 0x03, 0x08, 0x00, 0x00, 0x10, 0x00, 0x01, 0x00}

// selectApplication answers SELECT. Selecting PIV again changes nothing of its
// security state (SP 800-73-4 part 2, 3.1.1), and a name that is not on the
// card leaves PIV selected.
func (c *Card) selectApplication(cmd iso7816.Command) ([]byte, smartcard.Status) {
	if cmd.P1 != 0x04 || cmd.P2 != 0x00 {
		return nil, smartcard.StatusWrongParameters
	}
	switch len(cmd.Data) {
	case 5, 9, 11:
	default:
		return nil, smartcard.StatusNotFound
	}
	if string(cmd.Data) != string(applicationID[:len(cmd.Data)]) {
		return nil, smartcard.StatusNotFound
	}
	c.state.selected = true
	body := iso7816.AppendTLV(nil, 0x4F, applicationID[5:])
	body = iso7816.AppendTLV(body, 0x79, iso7816.AppendTLV(nil, 0x4F, applicationID[:5]))
	return iso7816.AppendTLV(nil, 0x61, body), smartcard.StatusOK
}
