// Set-card prepares the smart cards of cardholders, shows what is on them, and
// emulates one for demonstrations and tests.
package main

import (
	"context"
	"errors"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/pcsc"
)

func main() { cli.Main(newApp()) }

// newApp returns the command. An App runs once.
func newApp() *urfave.App {
	return &urfave.App{
		Name:  "set-card",
		Usage: "personalise, show and emulate the smart cards of cardholders",
		Commands: []*urfave.Command{
			emulateCommand(),
			personaliseCommand(),
			statusCommand(),
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
