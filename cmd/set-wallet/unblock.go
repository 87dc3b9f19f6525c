package main

import (
	"bytes"
	"errors"
	"fmt"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/smartcard/pcsc"
	"github.com/setkit/setkit/smartcard/piv"
)

func unblockCommand() *urfave.Command {
	const source = ": `SOURCE` file:PATH, env:NAME, cred:NAME or prompt:"
	return &urfave.Command{
		Name:        "unblock",
		Usage:       "give a smart card whose PIN is blocked or forgotten a new one, with its PUK",
		Description: "Example: set-wallet unblock",
		Flags: []urfave.Flag{
			&urfave.StringFlag{Name: "reader", Usage: "the card in the reader whose `NAME` is this or contains it (default: the only card)"},
			&urfave.StringFlag{Name: "puk-source", Value: "prompt:", Usage: "PUK" + source},
			&urfave.StringFlag{Name: "pin-source", Value: "prompt:", Usage: "new PIN" + source},
		},
		Action: func(c *urfave.Context) error {
			if err := arguments(c); err != nil {
				return err
			}
			return classified(unblock(c))
		},
	}
}

func unblock(c *urfave.Context) error {
	reader, err := pcsc.Find(c.Context, c.String("reader"))
	if err != nil {
		return err
	}
	card, err := newFinder(c).connect(c.Context, reader.Name)
	if err != nil {
		return err
	}
	defer card.close()
	puk, err := cli.Secret(c.Context, c.String("puk-source"), "PUK of card "+card.serial, c.App.Reader, c.App.ErrWriter)
	defer clear(puk)
	if err != nil {
		return err
	}
	pin, err := newPIN(c, card.serial)
	defer clear(pin)
	if err != nil {
		return err
	}
	if err := card.piv.Do(c.Context, func(tx *piv.Tx) error { return tx.UnblockPIN(puk, pin) }); err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "card %s has the new PIN\n", card.serial)
	return nil
}

// newPIN gets the new PIN, from a prompt twice.
func newPIN(c *urfave.Context, serial string) ([]byte, error) {
	source := c.String("pin-source")
	pin, err := cli.Secret(c.Context, source, "New PIN of card "+serial, c.App.Reader, c.App.ErrWriter)
	if err != nil || source != "prompt:" {
		return pin, err
	}
	again, err := cli.Secret(c.Context, source, "New PIN again", c.App.Reader, c.App.ErrWriter)
	defer clear(again)
	if err == nil && !bytes.Equal(pin, again) {
		err = errors.New("the two PINs differ; the card was not changed")
	}
	return pin, err
}
