package main

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/smartcard/piv"
)

// derivationLabel says what is derived from the card master key: SP 800-108's Label.
const derivationLabel = "setkit PIV management key"

// serialBits is the length of the serial number that is burnt into a card. Cards
// without one are named by the GUID of their CHUID, which anyone who has the
// management key can write.
const serialBits = 32

var managementAlgorithms = map[string]piv.ManagementAlgorithm{
	"3des": piv.TripleDES, "aes-128": piv.AES128, "aes-192": piv.AES192, "aes-256": piv.AES256,
}

// A prf is a pseudorandom function whose key is in an HSM.
type prf func(data []byte) ([]byte, error)

// counterKDF is the KDF in counter mode of NIST SP 800-108, section 4.1, with a
// counter of 32 bits before the fixed input.
func counterKDF(f prf, fixed []byte, length int) ([]byte, error) {
	out := make([]byte, 0, length+64) // room for what is cut off, so that no copy is left behind
	for i := uint32(1); len(out) < length; i++ {
		block, err := f(append(binary.BigEndian.AppendUint32(nil, i), fixed...))
		if err != nil {
			clear(out[:cap(out)])
			return nil, err
		}
		if len(block) == 0 {
			return nil, errors.New("the pseudorandom function gave nothing")
		}
		out = append(out, block...)
		clear(block)
	}
	clear(out[length:])
	return out[:length:length], nil
}

// fixedInput is Label || 00 || Context || [L]: SP 800-108, section 4.
func fixedInput(label, context string, length int) []byte {
	fixed := append([]byte(label), 0x00)
	fixed = append(fixed, context...)
	return binary.BigEndian.AppendUint32(fixed, uint32(8*length))
}

// deriveManagementKey derives a card's management key from its serial number.
func deriveManagementKey(master prf, serial string, a piv.ManagementAlgorithm) (piv.ManagementKey, error) {
	if n, err := strconv.ParseUint(serial, 10, serialBits); err != nil || n == 0 {
		return piv.ManagementKey{}, errors.New("the card tells no serial number of its own, from which its management key could be derived")
	}
	key, err := counterKDF(master, fixedInput(derivationLabel, serial, a.KeyBytes()), a.KeyBytes())
	if err != nil {
		return piv.ManagementKey{}, fmt.Errorf("derive the management key of card %s: %w", serial, err)
	}
	return piv.ManagementKey{Algorithm: a, Key: key}, nil
}

// managementKeys knows the management keys of the issuer's cards.
type managementKeys struct {
	algorithm piv.ManagementAlgorithm
	name      string // of algorithm
	master    prf    // derives them
	given     []byte // or they are this
	ring      *keyring.Ring
}

// masterKeyFlags are those of openManagementKeys for many cards.
func masterKeyFlags() []urfave.Flag {
	return []urfave.Flag{
		&urfave.StringFlag{Name: "master-key", Usage: "derive the card's management key from the card master key, an AES key for mac in an HSM: `URI` as pkcs11:token=issuer;object=card-master?pin-source=prompt:"},
		&urfave.StringFlag{Name: "management-algorithm", Value: "aes-256", Usage: "`CIPHER` of the management key: 3des, aes-128, aes-192 or aes-256"},
	}
}

// managementKeyFlags are those for one card.
func managementKeyFlags() []urfave.Flag {
	return append(masterKeyFlags(),
		&urfave.StringFlag{Name: "management-key-source", Usage: "management key in hexadecimal: `SOURCE` file:PATH, env:NAME, cred:NAME or prompt:"})
}

// openManagementKeys opens the HSM, or reads the key that is given. The caller
// closes what it returns.
func openManagementKeys(c *urfave.Context) (*managementKeys, error) {
	k := &managementKeys{name: c.String("management-algorithm")}
	var ok bool
	if k.algorithm, ok = managementAlgorithms[k.name]; !ok {
		return nil, cli.Usage(fmt.Errorf("--management-algorithm %q: want 3des, aes-128, aes-192 or aes-256", k.name))
	}
	uri, source := c.String("master-key"), c.String("management-key-source")
	switch {
	case uri != "" && source != "":
		return nil, cli.Usage(errors.New("--master-key and --management-key-source exclude each other"))
	case uri != "" && k.algorithm == piv.TripleDES:
		return nil, cli.Usage(errors.New("no 3DES key is derived from a card master key: take an AES one"))
	case uri != "":
		if err := k.open(c, uri); err != nil {
			k.close()
			return nil, fmt.Errorf("--master-key: %w", err)
		}
	case source != "":
		if err := k.read(c, source); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// open finds the card master key. As in set-hsm, the library is SoftHSM's and the
// PIN is asked for unless the URI says otherwise.
func (k *managementKeys) open(c *urfave.Context, reference string) error {
	var complete []string
	for _, text := range strings.Fields(reference) {
		uri, err := hsm.ParseURI(text)
		if err != nil {
			return cli.Usage(err)
		}
		if uri.PINSource == "" {
			uri.PINSource = "prompt:"
		}
		if uri.ModulePath == "" {
			if uri.ModulePath, err = hsm.SoftHSMPath(); err != nil {
				return err
			}
		}
		complete = append(complete, uri.String())
	}
	k.ring = keyring.New(c.App.Reader, c.App.ErrWriter)
	master, err := k.ring.CMAC(c.Context, strings.Join(complete, " "))
	if err != nil {
		return err
	}
	k.master = master.WithContext(c.Context).Sum
	return nil
}

func (k *managementKeys) read(c *urfave.Context, source string) error {
	text, err := cli.Secret(c.Context, source, "management key (hexadecimal)", c.App.Reader, c.App.ErrWriter)
	if err != nil {
		return fmt.Errorf("--management-key-source: %w", err)
	}
	defer clear(text)
	if want := 2 * k.algorithm.KeyBytes(); len(text) != want {
		return fmt.Errorf("--management-key-source: want %d hexadecimal digits for %s, got %d", want, k.name, len(text))
	}
	k.given = make([]byte, k.algorithm.KeyBytes())
	if _, err := hex.Decode(k.given, text); err != nil {
		return errors.New("--management-key-source: not hexadecimal") // the error would quote it
	}
	return nil
}

// known says if the cards' keys can be told before they are set.
func (k *managementKeys) known() bool { return k.master != nil || k.given != nil }

// of returns the management key that the card with a serial number has, or is to
// have; without a key if none is known. The caller clears it.
func (k *managementKeys) of(serial string) (piv.ManagementKey, error) {
	switch {
	case k.master != nil:
		return deriveManagementKey(k.master, serial, k.algorithm)
	case k.given != nil:
		return piv.ManagementKey{Algorithm: k.algorithm, Key: append([]byte(nil), k.given...)}, nil
	}
	return piv.ManagementKey{Algorithm: k.algorithm}, nil
}

func (k *managementKeys) close() {
	clear(k.given)
	if k.ring != nil {
		k.ring.Close()
	}
}
