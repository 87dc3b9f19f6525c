package main

import (
	"errors"
	"fmt"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/smartcard/piv"
)

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
	if err := cli.Confirm(c, fmt.Sprintf("the keys and certificates of card %s", card.serial), "serial number", card.serial); err != nil {
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
