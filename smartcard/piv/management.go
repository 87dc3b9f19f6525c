package piv

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des" // 3DES, which older PIV cards know alone
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
)

// A ManagementAlgorithm is a cipher of the management key, SP 800-78-4 table 6-2.
type ManagementAlgorithm byte

// The ciphers. Older cards know 3DES only.
const (
	TripleDES ManagementAlgorithm = 0x03
	AES128    ManagementAlgorithm = 0x08
	AES192    ManagementAlgorithm = 0x0A
	AES256    ManagementAlgorithm = 0x0C
)

// managementReference is the key reference of the management key.
const managementReference = 0x9B

// tagPINPolicy is the YubiKey's, in the commands that make keys.
const tagPINPolicy iso7816.Tag = 0xAA

// KeyBytes is the length of a key for the cipher; 0 if it is not known.
func (a ManagementAlgorithm) KeyBytes() int {
	switch a {
	case AES128:
		return 16
	case TripleDES, AES192:
		return 24
	case AES256:
		return 32
	}
	return 0
}

// A ManagementKey is the key with which a card's keys and objects are managed.
type ManagementKey struct {
	Algorithm ManagementAlgorithm // 0: whatever the card has
	Key       []byte
}

// Format writes the algorithm and a mask, whatever the verb.
func (k ManagementKey) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "management key %02X ***", byte(k.Algorithm))
}

// LogValue is what a log gets.
func (k ManagementKey) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(k)) }

// MarshalJSON writes the same.
func (k ManagementKey) MarshalJSON() ([]byte, error) { return json.Marshal(fmt.Sprint(k)) }

// FactoryManagementKey returns the key that cards come with.
func FactoryManagementKey() []byte {
	return []byte{1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8}
}

// block returns the cipher, and says if key and algorithm don't go together.
func (k ManagementKey) block() (cipher.Block, error) {
	if n := k.Algorithm.KeyBytes(); n == 0 || n != len(k.Key) {
		return nil, fmt.Errorf("piv: management key of %d bytes for algorithm %02X, want %d", len(k.Key), byte(k.Algorithm), n)
	}
	if k.Algorithm == TripleDES {
		return des.NewTripleDESCipher(k.Key)
	}
	return aes.NewCipher(k.Key)
}

// Authenticate proves to the card that we have the management key, and lets the
// card prove the same. SP 800-73-4 part 2, appendix A.1.
func (tx *Tx) Authenticate(key ManagementKey) error {
	candidates := []ManagementAlgorithm{key.Algorithm}
	if key.Algorithm == 0 {
		var err error
		if candidates, err = tx.managementAlgorithms(len(key.Key)); err != nil {
			return err
		}
	}
	var answer []byte
	var err error
	for _, key.Algorithm = range candidates {
		if _, err := key.block(); err != nil {
			return err
		}
		// Asking for a witness costs nothing: no try is counted.
		answer, err = tx.managementStep(key.Algorithm, iso7816.AppendTLV(nil, tagWitness, nil), tagWitness)
		if err == nil || lost(err) {
			break
		}
	}
	if err != nil {
		return err
	}
	return tx.proveManagement(key, answer)
}

// proveManagement answers the card's witness and challenges the card.
func (tx *Tx) proveManagement(key ManagementKey, answer []byte) error {
	block, err := key.block()
	if err != nil {
		return err
	}
	if len(answer) != block.BlockSize() {
		return fmt.Errorf("piv: witness of %d bytes, want %d: %w", len(answer), block.BlockSize(), iso7816.ErrMalformed)
	}
	witness, challenge := make([]byte, len(answer)), make([]byte, len(answer))
	block.Decrypt(witness, answer)
	rand.Read(challenge) // never fails
	both := iso7816.AppendTLV(nil, tagWitness, witness)
	both = iso7816.AppendTLV(both, tagChallenge, challenge)
	tx.authenticated = true // or perhaps: the card is reset afterwards
	answer, err = tx.managementStep(key.Algorithm, both, tagResponse)
	if errors.Is(err, smartcard.StatusSecurity) {
		return fmt.Errorf("piv: wrong management key: %w", err)
	}
	if err != nil {
		return err
	}
	want := make([]byte, len(challenge))
	block.Encrypt(want, challenge)
	if subtle.ConstantTimeCompare(want, answer) != 1 {
		return errors.New("piv: the card doesn't know its management key; it may be a false card")
	}
	return nil
}

// managementStep sends one step and returns the value of the one object that
// answers it.
func (tx *Tx) managementStep(a ManagementAlgorithm, body []byte, want iso7816.Tag) ([]byte, error) {
	data, err := tx.command("authenticate with the management key", iso7816.Command{
		INS: insAuthenticate, P1: byte(a), P2: managementReference,
		Data: iso7816.AppendTLV(nil, tagTemplate, body), Ne: neAll,
	})
	if err != nil {
		return nil, err
	}
	return insideTemplate(data, want)
}

// insideTemplate reads 7C { want }.
func insideTemplate(data []byte, want iso7816.Tag) ([]byte, error) {
	inner, err := iso7816.ParseTLV(data, tagTemplate)
	if err == nil {
		inner, err = iso7816.ParseTLV(inner, want)
	}
	if err != nil {
		return nil, fmt.Errorf("piv: answer of the card: %w", err)
	}
	return inner, nil
}

// managementAlgorithms finds the cipher of the card's management key: by its
// metadata, or else those that fit the key's length.
func (tx *Tx) managementAlgorithms(keyBytes int) ([]ManagementAlgorithm, error) {
	parts, err := tx.metadata(managementReference)
	if lost(err) {
		return nil, err
	}
	if a, ok := iso7816.Find(parts, tagMetaAlgorithm); ok && len(a) == 1 {
		return []ManagementAlgorithm{ManagementAlgorithm(a[0])}, nil
	}
	var fitting []ManagementAlgorithm
	for _, a := range []ManagementAlgorithm{TripleDES, AES128, AES192, AES256} {
		if a.KeyBytes() == keyBytes {
			fitting = append(fitting, a)
		}
	}
	if len(fitting) == 0 {
		return nil, fmt.Errorf("piv: management key of %d bytes; there are 16, 24 and 32", keyBytes)
	}
	return fitting, nil
}

// SetManagementKey replaces the management key (YubiKey; on other cards it fails
// with ErrUnsupported). Authenticate comes first.
func (tx *Tx) SetManagementKey(key ManagementKey) error {
	if _, err := key.block(); err != nil {
		return err
	}
	data := append([]byte{byte(key.Algorithm), managementReference, byte(len(key.Key))}, key.Key...)
	defer clear(data)
	_, err := tx.command("set the management key", iso7816.Command{INS: insSetManagementKey, P1: 0xFF, P2: 0xFF, Data: data})
	return orUnsupported(err)
}

// triesMax is what 63Cx can count.
const triesMax = 15

// SetTries sets how many tries PIN and PUK have, and gives both the values that
// cards come with (YubiKey; on other cards it fails with ErrUnsupported).
// Authenticate and VerifyPIN come first.
func (tx *Tx) SetTries(pin, puk int) error {
	if pin < 1 || pin > triesMax || puk < 1 || puk > triesMax {
		return fmt.Errorf("piv: %d tries for the PIN and %d for the PUK: want 1 to %d", pin, puk, triesMax)
	}
	_, err := tx.command("set the tries of PIN and PUK", iso7816.Command{INS: insSetTries, P1: byte(pin), P2: byte(puk)})
	return orUnsupported(err)
}

// Generate makes a key pair in a slot, in place of what is there, and returns the
// public key. Authenticate comes first.
func (tx *Tx) Generate(slot Slot, a Algorithm, policy PINPolicy) (crypto.PublicKey, error) {
	params := iso7816.AppendTLV(nil, 0x80, []byte{byte(a)})
	if policy != PINPolicyDefault {
		params = iso7816.AppendTLV(params, tagPINPolicy, []byte{byte(policy)})
	}
	data, err := tx.command(fmt.Sprintf("generate a key in slot %v", slot), iso7816.Command{
		INS: insGenerate, P2: byte(slot), Data: iso7816.AppendTLV(nil, 0xAC, params), Ne: neAll,
	})
	if err != nil {
		return nil, err
	}
	inner, err := iso7816.ParseTLV(data, 0x7F49)
	if err != nil {
		return nil, fmt.Errorf("piv: public key of slot %v: %w", slot, err)
	}
	public, err := parsePublicKey(a, inner)
	if err != nil {
		return nil, fmt.Errorf("piv: public key of slot %v: %w", slot, err)
	}
	return public, nil
}

// resetRoundsMax bounds the wrong tries of FactoryReset: a card counts to 15.
const resetRoundsMax = 20

// FactoryReset gives the card the state in which it left the factory: its keys
// and objects are deleted, PIN, PUK and management key are the well-known ones.
// It needs no secret, only the card (YubiKey): PIN and PUK are blocked first.
func (tx *Tx) FactoryReset() error {
	version, err := tx.Version()
	if err != nil {
		return err
	}
	if version == "" { // before anything is blocked for nothing
		return errors.New("piv: this card cannot be reset")
	}
	if err := block(func(wrong []byte) error { return tx.VerifyPIN(wrong) }); err != nil {
		return err
	}
	changePUK := func(wrong []byte) error { return tx.replace("PUK", insChangeReference, refPUK, wrong, wrong) }
	if err := block(changePUK); err != nil {
		return err
	}
	_, err = tx.command("reset the card", iso7816.Command{INS: insReset})
	return err
}

// block tries wrong values until none is left to try.
func block(try func(wrong []byte) error) error {
	for range resetRoundsMax {
		err := try([]byte(rand.Text()[:PINBytesMax]))
		var refused *smartcard.PINError
		switch {
		case err == nil: // by chance it was right
		case !errors.As(err, &refused):
			return err
		case refused.TriesLeft == 0:
			return nil
		}
	}
	return fmt.Errorf("piv: PIN or PUK is not blocked after %d wrong tries", resetRoundsMax)
}
