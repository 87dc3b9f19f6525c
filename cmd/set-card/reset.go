package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	urfave "github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/smartcard/piv"
)

// confirmationBytesMax bounds what is typed to confirm.
const confirmationBytesMax = 256

func resetCommand() *urfave.Command {
	return &urfave.Command{
		Name:  "reset",
		Usage: "delete everything on a card, for ever",
		Description: "Gives the card the state in which it left the factory: no keys, no certificates, and the PIN, PUK\n" +
			"and management key that everybody knows. It needs none of its secrets. Asks for the card's serial\n" +
			"number to be typed, unless --confirm has it.\n\n" +
			"Example: set-card reset --reader ACR39\n" +
			"         set-card reset --confirm 12345678",
		Flags: []urfave.Flag{
			readerFlag(),
			&urfave.StringFlag{Name: "confirm", Usage: "the card's `SERIAL` number, instead of typing it when asked"},
			jsonFlag(),
		},
		Action: func(c *urfave.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			return classified(reset(c))
		},
	}
}

func reset(c *urfave.Context) error {
	card, err := open(c)
	if err != nil {
		return err
	}
	defer card.close()
	if card.serial == "" {
		return errors.New("the card has no serial number by which to confirm that it is the right one")
	}
	if err := confirmReset(c, card.serial); err != nil {
		return err
	}
	if err := card.piv.Do(c.Context, (*piv.Tx).FactoryReset); err != nil {
		return err
	}
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, cardDone{card.reader, card.serial})
	}
	fmt.Fprintf(c.App.Writer, "card %s is as it left the factory\n", card.serial)
	return nil
}

// cardDone is what --json prints of a card to which something was done.
type cardDone struct {
	Reader string `json:"reader"`
	Serial string `json:"serial"`
}

// confirmReset has the user say that it is this card.
func confirmReset(c *urfave.Context, serial string) error {
	if c.IsSet("confirm") {
		if c.String("confirm") != serial {
			return cli.Usage(fmt.Errorf("--confirm is not the serial number %s of the card: nothing was deleted", serial))
		}
		return nil
	}
	f, ok := c.App.Reader.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return cli.Usage(errors.New("cannot ask for confirmation: the standard input is not a terminal: give --confirm SERIAL"))
	}
	fmt.Fprintf(c.App.ErrWriter, "This deletes the keys and certificates of card %s, for ever.\nType its serial number to go on: ", serial)
	line, err := readLine(c.Context, f)
	if err != nil {
		return fmt.Errorf("read the confirmation: %w", err)
	}
	if line != serial {
		return fmt.Errorf("the serial number is %s and not %q: nothing was deleted", serial, line)
	}
	return nil
}

// readLine reads a line from a terminal. A read cannot be cancelled: if ctx ends,
// it goes on until the end of the process.
func readLine(ctx context.Context, from io.Reader) (string, error) {
	type answer struct {
		line string
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(io.LimitReader(from, confirmationBytesMax)).ReadString('\n')
		done <- answer{strings.TrimRight(line, "\r\n"), err}
	}()
	select {
	case a := <-done:
		return a.line, a.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}
