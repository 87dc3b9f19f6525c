package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"os"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/smartcard/piv"
)

const (
	randomPINDigits = 6
	randomPUKDigits = 8
)

// secrets are what a card gets in place of its factory secrets.
type secrets struct {
	pin, puk   []byte
	management piv.ManagementKey
	made       bool // one of them is random
}

func (s *secrets) clear() {
	clear(s.pin)
	clear(s.puk)
	clear(s.management.Key)
}

var managementAlgorithms = map[string]piv.ManagementAlgorithm{
	"3des": piv.TripleDES, "aes-128": piv.AES128, "aes-192": piv.AES192, "aes-256": piv.AES256,
}

func secretFlags() []urfave.Flag {
	const source = ": `SOURCE` file:PATH, env:NAME, cred:NAME or prompt: (default: random)"
	return []urfave.Flag{
		&urfave.StringFlag{Name: "pin-source", Usage: "new PIN" + source},
		&urfave.StringFlag{Name: "puk-source", Usage: "new PUK" + source},
		&urfave.StringFlag{Name: "management-key-source", Usage: "new management key in hexadecimal" + source},
		&urfave.StringFlag{Name: "management-algorithm", Value: "aes-256", Usage: "`CIPHER` of the management key: 3des, aes-128, aes-192 or aes-256"},
		&urfave.StringFlag{Name: "secrets-file", Usage: "`FILE` to be made, with the secrets that are random; readable by its owner only"},
	}
}

// readSecrets gets each secret from its source, or makes it.
func readSecrets(c *urfave.Context) (*secrets, error) {
	s := &secrets{}
	if err := s.read(c); err != nil {
		s.clear()
		return nil, err
	}
	return s, nil
}

func (s *secrets) read(c *urfave.Context) (err error) {
	algorithm, ok := managementAlgorithms[c.String("management-algorithm")]
	if !ok {
		return cli.Usage(fmt.Errorf("management algorithm %q: want 3des, aes-128, aes-192 or aes-256", c.String("management-algorithm")))
	}
	s.management = piv.ManagementKey{Algorithm: algorithm, Key: make([]byte, algorithm.KeyBytes())}
	if s.pin, err = s.pinFrom(c, "pin-source", "new PIN", randomPINDigits); err != nil {
		return err
	}
	if s.puk, err = s.pinFrom(c, "puk-source", "new PUK", randomPUKDigits); err != nil {
		return err
	}
	if err := s.managementFrom(c); err != nil {
		return err
	}
	if s.made && c.String("secrets-file") == "" {
		return cli.Usage(errors.New("random secrets need --secrets-file; or give --pin-source, --puk-source and --management-key-source"))
	}
	return nil
}

// pinFrom gets a PIN or PUK.
func (s *secrets) pinFrom(c *urfave.Context, flag, name string, digits int) ([]byte, error) {
	source := c.String(flag)
	if source == "" {
		s.made = true
		return randomDigits(digits)
	}
	value, err := cli.Secret(c.Context, source, name, c.App.Reader, c.App.ErrWriter)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	if len(value) < piv.PINBytesMin || len(value) > piv.PINBytesMax {
		clear(value)
		return nil, fmt.Errorf("--%s: %w", flag, piv.ErrPINFormat)
	}
	return value, nil
}

func (s *secrets) managementFrom(c *urfave.Context) error {
	source := c.String("management-key-source")
	if source == "" {
		s.made = true
		rand.Read(s.management.Key) // never fails
		return nil
	}
	text, err := cli.Secret(c.Context, source, "new management key (hexadecimal)", c.App.Reader, c.App.ErrWriter)
	if err != nil {
		return fmt.Errorf("--management-key-source: %w", err)
	}
	defer clear(text)
	if hex.DecodedLen(len(text)) != len(s.management.Key) || len(text)%2 != 0 {
		return fmt.Errorf("--management-key-source: want %d hexadecimal digits for %s, got %d", 2*len(s.management.Key), c.String("management-algorithm"), len(text))
	}
	if _, err := hex.Decode(s.management.Key, text); err != nil {
		return errors.New("--management-key-source: not hexadecimal") // the error would quote it
	}
	return nil
}

// randomDigits makes a random number with leading zeros.
func randomDigits(n int) ([]byte, error) {
	digits := make([]byte, n)
	for i := range digits {
		d, err := rand.Int(rand.Reader, big.NewInt(10))
		if err != nil {
			return nil, err
		}
		digits[i] = '0' + byte(d.Int64())
	}
	return digits, nil
}

// write puts the secrets into a file that must not exist yet. That comes before
// the card gets them: a card with secrets that nobody knows is lost.
func (s *secrets) write(path, serial, algorithm string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("secrets file: %w", err)
	}
	text := fmt.Appendf(nil, "# Secrets of the card with this serial number. Keep them apart from the card.\n"+
		"serial: %q\npin: %q\npuk: %q\nmanagement-algorithm: %s\nmanagement-key: \"%x\"\n",
		serial, s.pin, s.puk, algorithm, s.management.Key)
	defer clear(text)
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("secrets file: %w", err)
	}
	return nil
}
