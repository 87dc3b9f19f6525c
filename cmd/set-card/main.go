// Set-card issues the smart cards of cardholders, manages and shows what is on
// them, and emulates some for demonstrations and tests.
package main

import (
	"context"
	"errors"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/pcsc"
	"github.com/setkit/setkit/smartcard/piv"
)

func main() { cli.Main(newApp()) }

// newApp returns the command. An App runs once.
func newApp() *urfave.App {
	return &urfave.App{
		Name:  "set-card",
		Usage: "issue, show and emulate the smart cards of cardholders",
		Commands: []*urfave.Command{
			batchCommand(),
			certCommand(),
			emulateCommand(),
			personaliseCommand(),
			pinChange.command(),
			pukChange.command(),
			resetCommand(),
			statusCommand(),
			unblockChange.command(),
		},
	}
}

// Flags that several commands have.
func readerFlag() urfave.Flag {
	return &urfave.StringFlag{Name: "reader", Usage: "the card in the reader whose `NAME` is this or contains it (default: the only card)"}
}

func jsonFlag() urfave.Flag {
	return &urfave.BoolFlag{Name: "json", Usage: "print JSON"}
}

// openCard opens the card in the reader that name means.
func openCard(ctx context.Context, name string) (*pcsc.Card, error) {
	reader, err := pcsc.Find(ctx, name)
	if err != nil {
		return nil, err
	}
	return pcsc.Open(ctx, reader.Name)
}

// An openedCard is the card that a command works on.
type openedCard struct {
	piv    *piv.Card
	reader string
	serial string
	close  func() error
}

// open opens the card that --reader means.
func open(c *urfave.Context) (*openedCard, error) {
	connection, err := openCard(c.Context, c.String("reader"))
	if err != nil {
		return nil, err
	}
	card := &openedCard{piv: piv.New(connection, piv.Options{}), reader: connection.Reader(), close: connection.Close}
	if card.serial, err = card.piv.Serial(c.Context); err != nil {
		connection.Close()
		return nil, err
	}
	return card, nil
}

// noArguments refuses what is left on the command line.
func noArguments(c *urfave.Context) error {
	if c.Args().Present() {
		return cli.Usage(errors.New("unexpected argument " + c.Args().First()))
	}
	return nil
}

// classified gives an error of an unavailable card or reader its exit code.
func classified(err error) error {
	if errors.Is(err, smartcard.ErrUnavailable) {
		return cli.Device(err)
	}
	return err
}
