package virtual

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
)

// stateFormat is the version of what image encodes.
const stateFormat = 1

// An image is a card's memory as it is written to a state file.
type image struct {
	Format      int
	Serial      uint32
	Firmware    Firmware
	Maker       []byte
	Attestation []byte
	PIN, PUK    secretImage
	Management  managementImage
	Keys        []keyImage
	Objects     []objectImage
}

type secretImage struct {
	Value       []byte
	Left, Tries int
	Factory     bool
}

type managementImage struct {
	Algorithm byte
	Touch     byte
	Factory   bool
	Key       []byte
}

type keyImage struct {
	Slot      byte
	Algorithm byte
	PINPolicy byte
	Touch     byte
	Origin    byte
	PKCS8     []byte
}

type objectImage struct {
	Tag   iso7816.Tag
	Value []byte
}

// encode writes the memory of a card. The result is as secret as the card.
func (m *memory) encode() ([]byte, error) {
	i := image{
		Format: stateFormat, Serial: m.serial, Firmware: m.firmware, Maker: m.maker, Attestation: m.attestation,
		PIN: m.pin.image(), PUK: m.puk.image(),
		Management: managementImage{m.mgm.algorithm, m.mgm.touch, m.mgm.factory, m.mgm.key},
	}
	for slot, k := range m.keys {
		der, err := x509.MarshalPKCS8PrivateKey(k.private)
		if err != nil {
			return nil, fmt.Errorf("key of slot %02x: %w", slot, err)
		}
		defer clear(der)
		i.Keys = append(i.Keys, keyImage{slot, k.algorithm, k.pinPolicy, k.touch, k.origin, der})
	}
	for tag, value := range m.objects {
		i.Objects = append(i.Objects, objectImage{tag, value})
	}
	return json.Marshal(i)
}

// decode reads what encode wrote, and nothing that no card can have.
func decode(b []byte) (memory, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var i image
	if err := d.Decode(&i); err != nil {
		return memory{}, errors.New("not the contents of a card") // the error could quote them
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return memory{}, errors.New("something follows the contents of the card")
	}
	if i.Format != stateFormat {
		return memory{}, fmt.Errorf("contents in format %d, only %d is known", i.Format, stateFormat)
	}
	m := memory{serial: i.Serial, firmware: i.Firmware, maker: i.Maker, attestation: i.Attestation}
	var ok bool
	if m.pin, ok = i.PIN.secret(); !ok {
		return memory{}, errors.New("the PIN is none")
	}
	if m.puk, ok = i.PUK.secret(); !ok {
		return memory{}, errors.New("the PUK is none")
	}
	m.mgm = managementKey{algorithm: i.Management.Algorithm, touch: i.Management.Touch, factory: i.Management.Factory, key: i.Management.Key}
	if m.mgm.cipher, ok = newCipher(m.mgm.algorithm, m.mgm.key); !ok {
		return memory{}, errors.New("the management key is none")
	}
	if err := m.takeKeys(i.Keys); err != nil {
		return memory{}, err
	}
	m.objects = make(map[iso7816.Tag][]byte)
	for _, o := range i.Objects {
		if len(o.Value) == 0 || len(o.Value) > objectBytesMax || m.objects[o.Tag] != nil {
			return memory{}, fmt.Errorf("object %X is empty, too large or there twice", uint32(o.Tag))
		}
		m.objects[o.Tag] = o.Value
	}
	return m, nil
}

func (m *memory) takeKeys(all []keyImage) error {
	m.keys = make(map[byte]*key)
	for _, i := range all {
		private, err := x509.ParsePKCS8PrivateKey(i.PKCS8)
		if err != nil {
			return fmt.Errorf("key of slot %02x: unreadable", i.Slot)
		}
		k := &key{algorithm: i.Algorithm, pinPolicy: i.PINPolicy, touch: i.Touch, origin: i.Origin, private: private}
		known := keySlot(i.Slot) || i.Slot == slotAttestation
		if !known || m.keys[i.Slot] != nil || !k.consistent() {
			return fmt.Errorf("key of slot %02x: there twice, or not as a card has it", i.Slot)
		}
		m.keys[i.Slot] = k
	}
	return nil
}

// consistent says if the private key is of its algorithm.
func (k *key) consistent() bool {
	switch private := k.private.(type) {
	case *rsa.PrivateKey:
		return private.N.BitLen() == rsaBits(k.algorithm) && len(private.Primes) == 2
	case *ecdsa.PrivateKey:
		return (k.algorithm == algECP256 || k.algorithm == algECP384) && private.Curve == curve(k.algorithm)
	case ed25519.PrivateKey:
		return k.algorithm == algEd25519
	case *ecdh.PrivateKey:
		return k.algorithm == algX25519 && private.Curve() == ecdh.X25519()
	}
	return false
}

func (s *secret) image() secretImage {
	return secretImage{Value: s.value[:], Left: s.left, Tries: s.tries, Factory: s.factory}
}

func (i secretImage) secret() (secret, bool) {
	if len(i.Value) != secretBytes || i.Tries < 1 || i.Tries > triesMax || i.Left < 0 || i.Left > i.Tries {
		return secret{}, false
	}
	return secret{value: [secretBytes]byte(i.Value), left: i.Left, tries: i.Tries, factory: i.Factory}, true
}

// keep writes the memory to the state file, if the card has one. It comes before
// the answer to whatever changed the memory. If it fails, the memory is what it
// was when it was last written.
func (c *Card) keep() smartcard.Status {
	if c.file == nil {
		return smartcard.StatusOK
	}
	if err := c.writeState(); err != nil {
		if m, err := decode(c.kept); err == nil {
			c.memory = m
		}
		return smartcard.StatusMemoryFailure
	}
	return smartcard.StatusOK
}

func (c *Card) writeState() error {
	b, err := c.encode()
	if err != nil {
		return err
	}
	if err := c.file.write(b); err != nil {
		clear(b)
		return err
	}
	clear(c.kept)
	c.kept = b
	return nil
}

// Keep makes the card keep its contents in a file that must not exist yet, so
// that Load finds them: keys, objects, and how many tries are left for PIN and
// PUK. From then on no answer leaves the card before the file has what the
// command changed. A try is taken away before the PIN is looked at: ending the
// process at any moment doesn't give it back.
//
// The file is replaced as a whole, and locked as long as the card is open. Who
// can write to it can put back an older one, and has a card that knows no better.
func (c *Card) Keep(path string, key *StateKey) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file != nil {
		return errors.New("virtual: the card already has a state file")
	}
	f, err := createStateFile(path, key)
	if err != nil {
		return fmt.Errorf("virtual: %w", err)
	}
	c.file = f
	if err := c.writeState(); err != nil {
		c.file = nil
		return errors.Join(fmt.Errorf("virtual: %w", err), f.close())
	}
	return nil
}

// Load returns the card whose contents are in a file; see Keep. The error wraps
// fs.ErrNotExist if there is no such file.
func Load(path string, key *StateKey) (*Card, error) {
	f, b, err := openStateFile(path, key)
	if err != nil {
		return nil, fmt.Errorf("virtual: %w", err)
	}
	m, err := decode(b)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("virtual: card file %s: %w", path, err), f.close())
	}
	return &Card{turn: make(chan struct{}, 1), memory: m, file: f, kept: b}, nil
}

// Close gives up the state file. The card answers nothing afterwards. Cards
// without a state file need no Close.
func (c *Card) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	f := c.file
	c.file = nil
	clear(c.kept)
	if f == nil {
		return nil
	}
	return f.close()
}
