package piv

import (
	"fmt"

	"github.com/setkit/setkit/smartcard/iso7816"
)

// A SecretInfo is what a card tells of its PIN or PUK (YubiKey).
type SecretInfo struct {
	Default   bool // it is still the factory's, which everybody knows
	Tries     int  // after a right entry
	TriesLeft int
}

// PINInfo returns what the card tells of its PIN, without disturbing a PIN that
// is verified. On other cards it fails with ErrUnsupported; see PINTries.
func (tx *Tx) PINInfo() (SecretInfo, error) { return tx.secretInfo("PIN", refPIN) }

// PUKInfo returns what the card tells of its PUK, as PINInfo does. No other
// command tells how many tries a PUK has left.
func (tx *Tx) PUKInfo() (SecretInfo, error) { return tx.secretInfo("PUK", refPUK) }

func (tx *Tx) secretInfo(name string, reference byte) (SecretInfo, error) {
	parts, err := tx.metadata(reference)
	if err != nil {
		return SecretInfo{}, orUnsupported(err)
	}
	factory, ok := iso7816.Find(parts, tagMetaDefault)
	tries, okTries := iso7816.Find(parts, tagMetaRetries)
	if !ok || len(factory) != 1 || !okTries || len(tries) != 2 {
		return SecretInfo{}, fmt.Errorf("piv: metadata of the %s: %w", name, iso7816.ErrMalformed)
	}
	return SecretInfo{Default: factory[0] != 0, Tries: int(tries[0]), TriesLeft: int(tries[1])}, nil
}

// ManagementKeyInfo is what a card tells of its management key (YubiKey).
type ManagementKeyInfo struct {
	Algorithm ManagementAlgorithm
	Default   bool // it is still the factory's, which everybody knows
}

// ManagementKeyInfo returns what the card tells of its management key. On other
// cards it fails with ErrUnsupported.
func (tx *Tx) ManagementKeyInfo() (ManagementKeyInfo, error) {
	parts, err := tx.metadata(managementReference)
	if err != nil {
		return ManagementKeyInfo{}, orUnsupported(err)
	}
	algorithm, ok := iso7816.Find(parts, tagMetaAlgorithm)
	factory, okDefault := iso7816.Find(parts, tagMetaDefault)
	if !ok || len(algorithm) != 1 || !okDefault || len(factory) != 1 {
		return ManagementKeyInfo{}, fmt.Errorf("piv: metadata of the management key: %w", iso7816.ErrMalformed)
	}
	return ManagementKeyInfo{Algorithm: ManagementAlgorithm(algorithm[0]), Default: factory[0] != 0}, nil
}
