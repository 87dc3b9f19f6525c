package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/smartcard/piv"
)

const (
	randomPINDigits = 6
	randomPUKDigits = 8
)

// What cards come with, and everybody knows.
const factoryPIN, factoryPUK = "123456", "12345678"

// secrets are what a card gets in place of its factory secrets.
type secrets struct {
	pin, puk                         []byte
	management                       piv.ManagementKey
	madePIN, madePUK, madeManagement bool // it is random, and nobody knows it yet
}

func (s *secrets) clear() {
	clear(s.pin)
	clear(s.puk)
	clear(s.management.Key)
}

// made says if there is something that has to be told to somebody.
func (s *secrets) made() bool { return s.madePIN || s.madePUK || s.madeManagement }

// secretSources says where the PINs of cards come from. Those that are nil are
// random, another one for each card.
type secretSources struct {
	pin, puk []byte
}

func secretFlags() []urfave.Flag {
	const source = ": `SOURCE` file:PATH, env:NAME, cred:NAME or prompt: (default: random)"
	return []urfave.Flag{
		&urfave.StringFlag{Name: "pin-source", Usage: "new PIN" + source},
		&urfave.StringFlag{Name: "puk-source", Usage: "new PUK" + source},
	}
}

func readSecretSources(c *urfave.Context) (secretSources, error) {
	var s secretSources
	var err error
	if s.pin, err = newReference(c, "pin-source", "new PIN"); err == nil {
		s.puk, err = newReference(c, "puk-source", "new PUK")
	}
	if err != nil {
		s.clear()
	}
	return s, err
}

func (s *secretSources) clear() {
	clear(s.pin)
	clear(s.puk)
}

// newReference reads a PIN or PUK that is to be set; nil if the flag isn't given.
func newReference(c *urfave.Context, flag, what string) ([]byte, error) {
	source := c.String(flag)
	if source == "" {
		return nil, nil
	}
	value, err := cli.NewSecret(c.Context, source, what, c.App.Reader, c.App.ErrWriter)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	switch {
	case len(value) < piv.PINBytesMin || len(value) > piv.PINBytesMax:
		err = piv.ErrPINFormat
	case string(value) == factoryPIN || string(value) == factoryPUK:
		err = errors.New("this is what every card comes with: choose another")
	default:
		return value, nil
	}
	clear(value)
	return nil, fmt.Errorf("--%s: %w", flag, err)
}

// make gives one card its secrets. The caller clears them.
func (s *secretSources) make(management piv.ManagementKey) (*secrets, error) {
	out := &secrets{pin: bytes.Clone(s.pin), puk: bytes.Clone(s.puk), management: management}
	var err error
	if out.pin == nil {
		out.madePIN = true
		if out.pin, err = randomDigits(randomPINDigits); err != nil {
			return nil, err
		}
	}
	if out.puk == nil {
		out.madePUK = true
		if out.puk, err = randomDigits(randomPUKDigits); err != nil {
			return nil, err
		}
	}
	if out.management.Key == nil {
		out.madeManagement = true
		out.management.Key = make([]byte, management.Algorithm.KeyBytes())
		rand.Read(out.management.Key) // never fails
	}
	return out, nil
}

// randomDigits makes a random number with leading zeros that no card comes with.
func randomDigits(n int) ([]byte, error) {
	digits := make([]byte, n)
	for {
		for i := range digits {
			d, err := rand.Int(rand.Reader, big.NewInt(10))
			if err != nil {
				return nil, err
			}
			digits[i] = '0' + byte(d.Int64())
		}
		if text := string(digits); text != factoryPIN && text != factoryPUK {
			return digits, nil
		}
	}
}
