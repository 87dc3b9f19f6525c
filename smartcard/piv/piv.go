// Package piv is a client of the PIV application of smart cards, NIST SP
// 800-73-4: PINs, data objects, keys, and the management of all of them. Where a
// card has the YubiKey's additions (version, serial number, metadata) they are
// used, where it doesn't, not.
//
// A [Card] speaks through any smartcard.Card. Whatever it does it does in a
// transaction that begins by selecting PIV, because other programs use the card
// in between, and that ends by making the card forget the PIN, because the card
// cannot tell one program from another. Several steps in one transaction go
// through [Card.Do].
//
// A [Session] holds the PIN for a while, and gives the keys of the card as
// crypto.Signer, crypto.Decrypter and ecdh.KeyExchanger. The rules for the PIN:
//
//   - It is asked for by a callback, never while a transaction runs, and only
//     after the card has told how many tries are left.
//   - A wrong PIN is reported and never tried again. Nor is one whose answer was
//     lost before the card had accepted it once.
//   - The last try, of PIN or PUK, is not used unless the caller has said so.
//   - It is cleared from memory when the session is closed, and when it was wrong.
//
// A [Tx] gives the same keys inside a transaction, to a caller who verifies the
// PIN there.
//
// # PIN pads
//
// Where the reader has a keypad (see smartcard.PINPad) the PIN is entered there and
// never reaches the computer. A Session does so by itself, and does not ask for the
// PIN on the computer instead, unless SessionConfig.IgnoreKeypad says so; a Tx has
// VerifyPINOnPad, ChangePINOnPad, ChangePUKOnPad and UnblockPINOnPad. The rules are
// the same, but for two things: the reader asks while the transaction runs, since
// what it sends is a command of it; and as nobody keeps the PIN, a Session has it
// entered for each use of a key.
//
// The least number of entries is one for each use of slot 9c, whose policy it is,
// and one for each transaction that uses other keys. Within one, an entry serves a
// signature by 9c, if that comes first, and then any number of uses of 9d. A wallet
// that has to be opened with 9d before it knows what to sign with 9c takes two, as
// that would be the wrong order; one that is opened once and then makes n payments
// takes n+1.
//
// # Interruptions
//
// A card can be pulled, or reset by another program, at any moment. What a person
// approved once is done once at most: a command that signs is never sent a second
// time, and an [InterruptedError] with KeyUsed says that it may have been carried
// out although no answer came. Any other error means that the key was not used,
// but for [ErrWrongKey], which is about an answer that is there.
//
// If another program resets the card before the key's turn, a Session begins
// again by itself, once, with a PIN that the card has accepted before. A Session
// with SessionConfig.Reopen goes on when a card that was lost is back: with that
// PIN, or after it was asked for anew. Before the PIN goes out, the card has to
// have the serial number that it had before. Decryption and key agreement are
// repeated even if they may have been done: they bind nobody.
//
// # What is least
//
// The commands of a signature by slot 9c together with its certificate, and why
// none can be left out or be shorter:
//
//	SELECT                1  another program may have selected another application
//	GET DATA              1  the certificate; before VERIFY, as 9c wants nothing between that and its use
//	VERIFY                1  9c demands it before every use
//	GENERAL AUTHENTICATE  1  the signature
//	VERIFY with P1 = FF   1  or else every program that comes next has our PIN
//
// These are five APDUs of extended length. With short ones, a command's body is
// cut into pieces of 255 bytes and an answer into pieces of 256, and each piece
// beyond the first is one APDU more. A body of RSA-2048 has 266 bytes (7C 82 xxxx
// { 82 00, 81 82 xxxx block }) and its answer 264, so it takes two and one; those
// of P-256 (38 and 76 at most) fit. A certificate with n bytes takes
// ⌈(n+13)/256⌉ if n is 256 or more: 53 82 xxxx { 70 82 xxxx n, 71 01 00, FE 00 }.
//
//	certificate of 1185 bytes        short  extended
//	RSA-2048                            11         5
//	P-256                                9         5
//	without the certificate, RSA-2048    6         4
//	without the certificate, P-256       4         4
//
// Other programs on the same card, in APDUs and bytes both ways, counted where
// the reader hands them to the card (BenchmarkSignWithCertificate; certificates of
// 669 and about 273 bytes):
//
//	                              RSA-2048        P-256
//	ours, short                  9    1318      6     484
//	without the withdrawal       8    1312      5     478
//	ours, extended               5    1301      5     488
//	piv-go                       9    1315      6     481
//	OpenSC, pkcs11-tool         33    1816     30     982
//
// piv-go asks for the version, which is one APDU more, and leaves the PIN
// verified, which is one less. It saves bytes where the standard leaves no choice:
// it selects by five bytes of the application's name, where the standard has nine,
// and sends no Le.
//
// The first use of a key in a Session costs more: SELECT, the serial number and
// the tries left, for the person who is asked for the PIN, and the tries left once
// more before a PIN that is not yet known to be right.
//
// Uses that follow one another share SELECT and the last VERIFY in [Session.Hold].
// A purchase opens a secret with 9d, RSA-2048, and then signs with 9c what the
// secret is in, so 9c wants its VERIFY after 9d:
//
//	SELECT, VERIFY, 9d, VERIFY, 9c, VERIFY with P1 = FF
//
//	                                     short  extended
//	signed with RSA-2048                    10         6
//	signed with P-256                        8         6
//
// In transactions of their own the two take two more.
//
// A signature of more than 255 bytes goes in an APDU of extended length only after
// another command of such length, or a longer answer, has got through: what a
// reader cannot carry looks like an answer that was lost.
//
// Nothing is kept from one transaction to the next that another program could
// change; the serial number is.
package piv

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
)

// A Slot is a place for a key pair, and the key reference of its private key.
// SP 800-73-4 part 1, table 4b.
type Slot byte

// The slots that every card has.
const (
	SlotAuthentication     Slot = 0x9A
	SlotSignature          Slot = 0x9C // PIN before every use
	SlotKeyManagement      Slot = 0x9D
	SlotCardAuthentication Slot = 0x9E // no PIN
)

// SlotAttestation holds the key with which a card attests that it generated
// others itself (YubiKey).
const SlotAttestation Slot = 0xF9

// Slots for key management keys of the past, which open what was once encrypted
// to them. A card may have none, or fewer than 20.
const (
	slotRetiredFirst Slot = 0x82
	slotRetiredLast  Slot = 0x95
)

// Slots lists the slots that every card has.
func Slots() []Slot {
	return []Slot{SlotAuthentication, SlotSignature, SlotKeyManagement, SlotCardAuthentication}
}

// RetiredSlots lists the slots for retired key management keys, 82 to 95.
func RetiredSlots() []Slot {
	var all []Slot
	for s := slotRetiredFirst; s <= slotRetiredLast; s++ {
		all = append(all, s)
	}
	return all
}

// String is the key reference, such as "9c".
func (s Slot) String() string { return fmt.Sprintf("%02x", byte(s)) }

// ParseSlot reads a key reference as String writes it, in either case.
func ParseSlot(reference string) (Slot, error) {
	n, err := strconv.ParseUint(reference, 16, 8)
	s := Slot(n)
	if err == nil && len(reference) == 2 {
		_, err = s.certificateObject()
	}
	if err != nil || len(reference) != 2 {
		return 0, fmt.Errorf("piv: slot %q is not known; there are 9a, 9c, 9d, 9e, 82 to 95 and f9", reference)
	}
	return s, nil
}

func (s Slot) retired() bool { return s >= slotRetiredFirst && s <= slotRetiredLast }

// certificateObject names the data object with the slot's certificate.
func (s Slot) certificateObject() (ObjectID, error) {
	switch s {
	case SlotAuthentication:
		return 0x5FC105, nil
	case SlotSignature:
		return 0x5FC10A, nil
	case SlotKeyManagement:
		return 0x5FC10B, nil
	case SlotCardAuthentication:
		return 0x5FC101, nil
	case SlotAttestation:
		return 0x5FFF01, nil
	}
	if s.retired() {
		return 0x5FC10D + ObjectID(s-slotRetiredFirst), nil
	}
	return 0, fmt.Errorf("piv: slot %v is not known", s)
}

// An Algorithm is a kind of key pair, SP 800-78-4 table 6-2.
type Algorithm byte

// The algorithms. RSA-3072, RSA-4096, Ed25519 and X25519 are newer than most
// cards; the numbers of the last three are the YubiKey's.
const (
	RSA2048   Algorithm = 0x07
	RSA3072   Algorithm = 0x05
	RSA4096   Algorithm = 0x16
	ECDSAP256 Algorithm = 0x11
	ECDSAP384 Algorithm = 0x14
	Ed25519   Algorithm = 0xE0
	X25519    Algorithm = 0xE1
)

// algorithms has every algorithm and its name, the usual choices first.
var algorithms = []struct {
	id   Algorithm
	name string
}{
	{ECDSAP256, "ec-p256"}, {ECDSAP384, "ec-p384"}, {RSA2048, "rsa-2048"}, {RSA3072, "rsa-3072"}, {RSA4096, "rsa-4096"},
	{Ed25519, "ed25519"}, {X25519, "x25519"},
}

// String is the algorithm's name, such as "ec-p256".
func (a Algorithm) String() string {
	for _, known := range algorithms {
		if known.id == a {
			return known.name
		}
	}
	return fmt.Sprintf("algorithm %02X", byte(a))
}

// ParseAlgorithm reads a name as String writes it.
func ParseAlgorithm(name string) (Algorithm, error) {
	var names []string
	for _, known := range algorithms {
		if known.name == name {
			return known.id, nil
		}
		names = append(names, known.name)
	}
	return 0, fmt.Errorf("piv: algorithm %q is not known; there are %s", name, strings.Join(names, ", "))
}

// AlgorithmOf tells which algorithm a public key is of: *rsa.PublicKey,
// *ecdsa.PublicKey, ed25519.PublicKey or *ecdh.PublicKey.
func AlgorithmOf(public crypto.PublicKey) (Algorithm, error) {
	switch k := public.(type) {
	case *rsa.PublicKey:
		switch k.N.BitLen() {
		case 2048:
			return RSA2048, nil
		case 3072:
			return RSA3072, nil
		case 4096:
			return RSA4096, nil
		}
		return 0, fmt.Errorf("piv: RSA key of %d bits", k.N.BitLen())
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return ECDSAP256, nil
		case elliptic.P384():
			return ECDSAP384, nil
		}
		return 0, fmt.Errorf("piv: key on the curve %s", k.Curve.Params().Name)
	case ed25519.PublicKey:
		if len(k) == ed25519.PublicKeySize {
			return Ed25519, nil
		}
		return 0, fmt.Errorf("piv: Ed25519 key of %d bytes", len(k))
	case *ecdh.PublicKey:
		switch k.Curve() {
		case ecdh.P256():
			return ECDSAP256, nil
		case ecdh.P384():
			return ECDSAP384, nil
		case ecdh.X25519():
			return X25519, nil
		}
		return 0, fmt.Errorf("piv: key on the curve %v", k.Curve())
	}
	return 0, fmt.Errorf("piv: public key of type %T", public)
}

// A PINPolicy says when a key wants the PIN. Only cards with the YubiKey's
// additions let it be chosen.
type PINPolicy byte

// The policies. Without a choice the slot decides: always for 9c, never for 9e,
// once for the others.
const (
	PINPolicyDefault PINPolicy = 0x00
	PINPolicyNever   PINPolicy = 0x01
	PINPolicyOnce    PINPolicy = 0x02 // once after the card got power
	PINPolicyAlways  PINPolicy = 0x03 // immediately before every use
)

// String is the policy's name.
func (p PINPolicy) String() string {
	switch p {
	case PINPolicyNever:
		return "never"
	case PINPolicyOnce:
		return "once"
	case PINPolicyAlways:
		return "always"
	default:
		return "default"
	}
}

// A TouchPolicy says when a key wants its card to be touched (YubiKey).
type TouchPolicy byte

// The touch policies.
const (
	TouchPolicyNever  TouchPolicy = 0x01
	TouchPolicyAlways TouchPolicy = 0x02
	TouchPolicyCached TouchPolicy = 0x03 // a touch serves for 15 seconds
)

// String is the policy's name.
func (p TouchPolicy) String() string {
	switch p {
	case TouchPolicyNever:
		return "never"
	case TouchPolicyAlways:
		return "always"
	case TouchPolicyCached:
		return "cached"
	default:
		return "default"
	}
}

// ErrUnsupported means that the card lacks a function which only some cards
// have. The error also wraps what the card said.
var ErrUnsupported = errors.New("the card doesn't have this function")

// lacksInstruction says if err means that the card doesn't know a command.
func lacksInstruction(err error) bool {
	return slices.ContainsFunc([]smartcard.Status{smartcard.StatusInstruction, smartcard.StatusFunction, smartcard.StatusClass},
		func(s smartcard.Status) bool { return errors.Is(err, s) })
}

// orUnsupported marks such an error as ErrUnsupported.
func orUnsupported(err error) error {
	if lacksInstruction(err) {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return err
}

// Instructions, SP 800-73-4 part 2; those from 0xF7 are the YubiKey's.
const (
	insVerify           = 0x20
	insChangeReference  = 0x24
	insResetRetries     = 0x2C
	insGenerate         = 0x47
	insAuthenticate     = 0x87
	insSelect           = 0xA4
	insGetData          = 0xCB
	insPutData          = 0xDB
	insMetadata         = 0xF7
	insSerial           = 0xF8
	insAttest           = 0xF9
	insSetTries         = 0xFA
	insReset            = 0xFB
	insVersion          = 0xFD
	insImport           = 0xFE
	insSetManagementKey = 0xFF

	// neAll asks for as much as the card has.
	neAll = iso7816.ResponseShortBytesMax
)

// Data objects inside GENERAL AUTHENTICATE's 7C, SP 800-73-4 part 2, table 7.
const (
	tagTemplate  iso7816.Tag = 0x7C
	tagWitness   iso7816.Tag = 0x80
	tagChallenge iso7816.Tag = 0x81
	tagResponse  iso7816.Tag = 0x82
	tagExponent  iso7816.Tag = 0x85
)

// applicationID is PIV's name without the version.
var applicationID = []byte{0xA0, 0x00, 0x00, 0x03, 0x08, 0x00, 0x00, 0x10, 0x00}
