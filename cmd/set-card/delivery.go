package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
)

// A holder is the person who gets a card.
type holder struct {
	Name    string
	Account string // the bank's reference of the account
}

// A delivery tells random secrets to those who pass them on: in a file for each
// card, plain or sealed by age, or in letters for the cardholder.
type delivery struct {
	recipients []age.Recipient // of sealed files; none: files are plain
	flag       string          // that names files
	file       string          // of the one card
	dir        string          // of the files of a batch
	mailer     string          // of letters; "-" is the standard output
	letters    io.Writer       // mailer, once it is open
	close      func() error
	stdout     io.Writer
}

func deliveryFlags(files *urfave.StringFlag) []urfave.Flag {
	return []urfave.Flag{
		files,
		&urfave.StringSliceFlag{Name: "secrets-recipient", Usage: "seal these files to the age `RECIPIENT` age1...; can be given several times"},
		&urfave.StringFlag{Name: "mailer", Usage: "`FILE` to be made, or - for the standard output, with a letter for each random PIN and PUK: a page each, for a printer that seals them"},
	}
}

// parseDelivery reads the flags; exactly one of the ways is taken.
func parseDelivery(c *urfave.Context) (*delivery, error) {
	d := &delivery{flag: "secrets-file", file: c.String("secrets-file"), dir: c.String("secrets-dir"), mailer: c.String("mailer"), stdout: c.App.Writer}
	for _, text := range c.StringSlice("secrets-recipient") {
		recipient, err := age.ParseX25519Recipient(text)
		if err != nil {
			return nil, cli.Usage(fmt.Errorf("--secrets-recipient %q: want an age recipient, age1..., as age-keygen prints", text))
		}
		d.recipients = append(d.recipients, recipient)
	}
	if c.Command.Name == batchName {
		d.flag = "secrets-dir"
	}
	switch {
	case d.files() && d.mailer != "":
		return nil, cli.Usage(errors.New("--mailer and a file of secrets exclude each other: secrets are told once"))
	case !d.files() && len(d.recipients) > 0:
		return nil, cli.Usage(errors.New("--secrets-recipient seals a file, and none is named"))
	case d.mailer == "-" && c.Bool("json"):
		return nil, cli.Usage(errors.New("--mailer - and --json both want the standard output: give --mailer a file"))
	}
	return d, nil
}

func (d *delivery) files() bool { return d.file != "" || d.dir != "" }

// check says what is wrong with telling such secrets this way.
func (d *delivery) check(keys *managementKeys, sources secretSources) error {
	random := sources.pin == nil || sources.puk == nil || !keys.known()
	switch {
	case random && !d.files() && d.mailer == "":
		return fmt.Errorf("random secrets need --%s or --mailer", d.flag)
	case !random && (d.files() || d.mailer != ""):
		return errors.New("nothing is random, so there is nothing to write")
	case d.mailer != "" && !keys.known():
		return errors.New("a letter is no place for a random management key: give --master-key")
	}
	return nil
}

// free says if the file to be made is there already, before anything is done to a
// card. A card that is continued may be found to be complete, and needs no other.
func (d *delivery) free() error {
	if d.dir != "" {
		if err := os.MkdirAll(d.dir, 0o700); err != nil {
			return fmt.Errorf("--%s: %w", d.flag, err)
		}
	}
	for _, path := range []string{d.file, d.mailer} {
		if path == "" || path == "-" {
			continue
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, fmt.Errorf("%s: the file exists, and is not overwritten: name another", path))
		}
	}
	return nil
}

// deliver tells a card's secrets, durably, and returns where. It comes before the
// card gets them: a card with secrets that nobody knows is lost.
func (d *delivery) deliver(s *secrets, serial string, to holder, algorithm string) (string, error) {
	if !s.made() {
		return "", nil
	}
	if d.mailer != "" {
		return d.mailer, d.post(s, serial, to)
	}
	path := d.file
	if d.dir != "" {
		// An attempt that was cut short has left a file, and its letters may be on their way.
		path = filepath.Join(d.dir, fmt.Sprintf("%s-%s%s", serial, time.Now().UTC().Format("20060102T150405.000Z"), d.extension()))
	}
	text := s.text(serial, to, algorithm)
	defer clear(text)
	if len(d.recipients) > 0 {
		var sealed bytes.Buffer
		if err := seal(&sealed, text, d.recipients); err != nil {
			return "", fmt.Errorf("secrets file: %w", err)
		}
		text = sealed.Bytes()
	}
	if err := writeNew(path, text); err != nil {
		return "", fmt.Errorf("secrets file: %w", err)
	}
	return path, nil
}

func (d *delivery) extension() string {
	if len(d.recipients) > 0 {
		return ".age"
	}
	return ".yaml"
}

// text is the contents of a secrets file. What can be derived isn't in it.
func (s *secrets) text(serial string, to holder, algorithm string) []byte {
	text := fmt.Appendf(make([]byte, 0, 1024), "# Secrets of the card with this serial number. Keep them apart from the card.\nserial: %q\n", serial)
	if to.Name != "" {
		text = fmt.Appendf(text, "name: %q\n", to.Name)
	}
	if to.Account != "" {
		text = fmt.Appendf(text, "account: %q\n", to.Account)
	}
	text = fmt.Appendf(text, "pin: %q\npuk: %q\n", s.pin, s.puk)
	if s.madeManagement {
		text = fmt.Appendf(text, "management-algorithm: %s\nmanagement-key: \"%x\"\n", algorithm, s.management.Key)
	}
	return text
}

func seal(w io.Writer, text []byte, recipients []age.Recipient) error {
	armored := armor.NewWriter(w)
	sealing, err := age.Encrypt(armored, recipients...)
	if err != nil {
		return err
	}
	if _, err := sealing.Write(text); err != nil {
		return err
	}
	return errors.Join(sealing.Close(), armored.Close())
}

// writeNew makes a file that only its owner can read, and that must not exist yet.
func writeNew(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(text); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// post prints the letters with a card's secrets.
func (d *delivery) post(s *secrets, serial string, to holder) error {
	if d.letters == nil {
		if err := d.openMailer(); err != nil {
			return fmt.Errorf("--mailer: %w", err)
		}
	}
	pages := make([]byte, 0, lettersBytesMax) // so that no copy is left behind
	defer func() { clear(pages[:cap(pages)]) }()
	if s.madePIN {
		pages = appendLetter(pages, serial, to, "PIN", s.pin, pinAdvice)
	}
	if s.madePUK {
		pages = appendLetter(pages, serial, to, "PUK", s.puk, pukAdvice)
	}
	if _, err := d.letters.Write(pages); err != nil {
		return fmt.Errorf("--mailer: %w", err)
	}
	if f, ok := d.letters.(*os.File); ok {
		if err := f.Sync(); err != nil {
			return fmt.Errorf("--mailer: %w", err)
		}
	}
	return nil
}

// openMailer opens the file for the letters when there is the first to write.
func (d *delivery) openMailer() error {
	if d.mailer == "-" {
		d.letters = d.stdout
		return nil
	}
	f, err := os.OpenFile(d.mailer, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	d.letters, d.close = f, f.Close
	return nil
}

// finish closes what was opened.
func (d *delivery) finish() error {
	if d.close == nil {
		return nil
	}
	return d.close()
}

// lettersBytesMax is room for both letters of a card.
const lettersBytesMax = 16 << 10

const (
	pinAdvice = "Your PIN releases every payment with your card. You can change it with\n" +
		"    set-wallet, or at your bank. Three wrong PINs in a row block it.\n\n" +
		"    Learn it by heart and destroy this letter. Never tell it to anyone, and\n" +
		"    never keep it with the card. Your bank never asks for it."
	pukAdvice = "Your PUK sets a new PIN when yours is blocked or forgotten:\n" +
		"    set-wallet unblock asks for it. Three wrong PUKs in a row block the card\n" +
		"    for good, and you need a new one.\n\n" +
		"    Keep this letter in a safe place, apart from the card."
)

// appendLetter adds a page, which ends with a form feed. PIN and PUK have pages,
// and with that envelopes, of their own.
func appendLetter(pages []byte, serial string, to holder, what string, secret []byte, advice string) []byte {
	name := cli.Printable(to.Name)
	if name == "" {
		name = "To the holder of the card"
	}
	pages = fmt.Appendf(pages, "\n\n\n    %s\n\n\n\n    The %s of your card\n\n    Card      %s\n", name, what, cli.Printable(serial))
	if to.Account != "" {
		pages = fmt.Appendf(pages, "    Account   %s\n", cli.Printable(to.Account))
	}
	pages = fmt.Appendf(pages, "\n\n        %s   ", what)
	for _, digit := range secret {
		pages = append(pages, ' ', digit)
	}
	return fmt.Appendf(pages, "\n\n\n    %s\n\f", advice)
}
