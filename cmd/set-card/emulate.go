package main

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/smartcard/virtual"
)

// insertTimeout is how long PC/SC may take to notice a card.
const insertTimeout = 20 * time.Second

var firmwares = map[string]virtual.Firmware{"5.4": virtual.Firmware54, "5.7": virtual.Firmware57}

func emulateCommand() *urfave.Command {
	return &urfave.Command{
		Name:  "emulate",
		Usage: "PIV cards in software, in virtual readers, until interrupted",
		Description: "Starts a private pcscd with a virtual reader for each card. A new card has PIN 123456,\n" +
			"PUK 12345678 and the well-known management key. Programs reach the cards with the\n" +
			"environment variable that is printed. The line \"ready\" says that they can be used.\n\n" +
			"With --state a card is kept in an encrypted file, which is made if it is missing; its PIN\n" +
			"has no more tries after a restart than before. Other cards are gone when the command ends.\n\n" +
			"Example: set-card emulate --dir /tmp/cards --cards 2 --latency card\n" +
			"         set-card emulate --dir /tmp/cards --state alice.card --state-key-source prompt:\n" +
			"         set-card emulate remove --dir /tmp/cards 1",
		Flags: []urfave.Flag{
			dirFlag("`DIRECTORY` for the private pcscd and its socket, pcscd.comm (default: a temporary one)"),
			&urfave.StringFlag{Name: "vpcd", Usage: "put the card into the vpcd reader at `HOST:PORT` instead of starting a pcscd"},
			&urfave.IntFlag{Name: "cards", DefaultText: "1, or one for each --state", Usage: fmt.Sprintf("`NUMBER` of cards, up to %d", virtual.ReadersMax)},
			&urfave.StringSliceFlag{Name: "state", Usage: "`FILE` in which a card is kept; can be given several times"},
			&urfave.StringFlag{Name: "state-key-source", Usage: "passphrase or age identity (AGE-SECRET-KEY-1...) of the state files: `SOURCE` file:PATH, env:NAME, cred:NAME or prompt:"},
			&urfave.StringFlag{Name: "firmware", Value: "5.4", Usage: "`VERSION` of new cards: 5.4, or 5.7 with RSA-3072, RSA-4096, Ed25519 and X25519"},
			&urfave.StringFlag{Name: "latency", Value: "none", Usage: "`TIME` that the cards take: none, card (about as a token of our time), or for every command, such as 50ms"},
			&urfave.StringFlag{Name: "attestation-ca", Usage: "`FILE` to be written with the certificates, PEM, of the CAs that vouch for the cards' attestations"},
		},
		Subcommands: controlCommands(),
		Action: func(c *urfave.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			return emulate(c)
		},
	}
}

func dirFlag(usage string) urfave.Flag { return &urfave.StringFlag{Name: "dir", Usage: usage} }

// emulation is what the flags of emulate ask for.
type emulation struct {
	states   []string
	cards    int
	firmware virtual.Firmware
	latency  virtual.Latency
}

func emulate(c *urfave.Context) (err error) {
	e, err := parseEmulation(c)
	if err != nil {
		return cli.Usage(err)
	}
	bays, err := e.open(c)
	defer func() {
		for _, b := range bays {
			err = errors.Join(err, b.card.Close())
		}
	}()
	if err != nil {
		return err
	}
	if path := c.String("attestation-ca"); path != "" {
		if err := writeMakers(path, bays); err != nil {
			return err
		}
	}
	if addr := c.String("vpcd"); addr != "" {
		bays[0].reader.Addr = addr
		return cli.Device(emulateAt(c, bays[0]))
	}
	return cli.Device(emulatePrivately(c, bays))
}

func parseEmulation(c *urfave.Context) (emulation, error) {
	e := emulation{states: c.StringSlice("state"), cards: c.Int("cards")}
	if !c.IsSet("cards") {
		e.cards = max(1, len(e.states))
	}
	var known bool
	if e.firmware, known = firmwares[c.String("firmware")]; !known {
		return e, fmt.Errorf("--firmware %q: want 5.4 or 5.7", c.String("firmware"))
	}
	switch l := c.String("latency"); l {
	case "none":
	case "card":
		e.latency = virtual.CardLatency()
	default:
		d, err := time.ParseDuration(l)
		if err != nil || d < 0 {
			return e, fmt.Errorf("--latency %q: want none, card or a time such as 50ms", l)
		}
		e.latency.Command = d
	}
	switch {
	case c.IsSet("dir") && c.IsSet("vpcd"):
		return e, errors.New("--dir and --vpcd exclude each other")
	case e.cards < 1 || e.cards > virtual.ReadersMax:
		return e, fmt.Errorf("--cards %d: want 1 to %d", e.cards, virtual.ReadersMax)
	case e.cards < len(e.states):
		return e, fmt.Errorf("--cards %d, but %d state files", e.cards, len(e.states))
	case c.IsSet("vpcd") && e.cards > 1:
		return e, errors.New("--vpcd is one reader, for one card")
	case len(e.states) > 0 && c.String("state-key-source") == "":
		return e, errors.New("--state needs --state-key-source")
	}
	return e, nil
}

// open makes the cards, or takes them from their files. Those that it returns
// with an error have to be closed as well.
func (e *emulation) open(c *urfave.Context) ([]*bay, error) {
	var key *virtual.StateKey
	if len(e.states) > 0 {
		var err error
		if key, err = e.key(c); err != nil {
			return nil, err
		}
	}
	var bays []*bay
	for i := range e.cards {
		b := &bay{number: i + 1}
		if i < len(e.states) {
			b.state = e.states[i]
		}
		var err error
		if b.card, err = e.card(b.state, key); err != nil {
			return bays, err
		}
		b.device = b.card
		if e.latency != (virtual.Latency{}) {
			b.device = virtual.Slow(b.card, e.latency)
		}
		bays = append(bays, b)
	}
	return bays, nil
}

// key asks for the secret of the state files, twice if it is to be a new one.
func (e *emulation) key(c *urfave.Context) (*virtual.StateKey, error) {
	ask := cli.Secret
	missing := func(path string) bool {
		_, err := os.Stat(path)
		return errors.Is(err, fs.ErrNotExist)
	}
	if slices.ContainsFunc(e.states, missing) {
		ask = cli.NewSecret
	}
	secret, err := ask(c.Context, c.String("state-key-source"), "passphrase of the cards", c.App.Reader, c.App.ErrWriter)
	if err != nil {
		return nil, fmt.Errorf("--state-key-source: %w", err)
	}
	defer clear(secret)
	return virtual.NewStateKey(secret)
}

func (e *emulation) card(state string, key *virtual.StateKey) (*virtual.Card, error) {
	if state == "" {
		return virtual.New(e.firmware), nil
	}
	card, err := virtual.Load(state, key)
	if !errors.Is(err, fs.ErrNotExist) {
		return card, err
	}
	card = virtual.New(e.firmware)
	return card, card.Keep(state, key)
}

// writeMakers writes each CA certificate once.
func writeMakers(path string, bays []*bay) error {
	var text []byte
	var seen []string
	for _, b := range bays {
		der := b.card.Maker()
		if !slices.Contains(seen, string(der)) {
			seen = append(seen, string(der))
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return fmt.Errorf("--attestation-ca: %w", err)
	}
	return nil
}

// emulatePrivately starts a pcscd, which ends with this process.
func emulatePrivately(c *urfave.Context, bays []*bay) (err error) {
	dir := c.String("dir")
	if dir == "" {
		if dir, err = os.MkdirTemp("", "set-card-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	host, err := virtual.StartHost(c.Context, virtual.HostConfig{Dir: dir, Readers: len(bays)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Stop()) }()
	fmt.Fprintf(c.App.Writer, "PCSCLITE_CSOCK_NAME=%s\n", host.Socket)
	// For our own look at the readers. This process uses no other pcscd.
	if err := os.Setenv("PCSCLITE_CSOCK_NAME", host.Socket); err != nil {
		return err
	}
	for i, b := range bays {
		b.reader = host.Readers[i]
		if err := b.insert(c.Context); err != nil {
			return err
		}
		defer b.pull()
		fmt.Fprintf(c.App.Writer, "reader: %s\nserial: %d\n", b.reader.Name, b.card.Serial())
	}
	stop, err := serveControl(c.Context, filepath.Join(dir, controlSocket), bays)
	if err != nil {
		return err
	}
	defer stop()
	fmt.Fprintln(c.App.Writer, "ready")
	select {
	case <-c.Context.Done():
		return nil
	case <-host.Exited():
		if c.Context.Err() != nil {
			return nil
		}
		return errors.New("the private pcscd has ended")
	}
}

// emulateAt puts a card into the reader of another pcscd and keeps it there until
// the context ends.
func emulateAt(c *urfave.Context, b *bay) error {
	plugged, err := virtual.Plug(c.Context, b.reader.Addr, b.device)
	if err != nil {
		return err
	}
	defer plugged.Unplug()
	fmt.Fprintf(c.App.Writer, "serial: %d\nready\n", b.card.Serial())
	<-plugged.Done()
	if c.Context.Err() == nil {
		return fmt.Errorf("the reader at %s is gone: has its pcscd ended?", b.reader.Addr)
	}
	return nil
}
