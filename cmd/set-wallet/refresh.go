package main

import (
	"errors"
	"fmt"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/roles/sethttp"
)

func refreshCommand() *urfave.Command {
	return &urfave.Command{
		Name:  "refresh",
		Usage: "learn from the CAs of the enrolled cards which certificates were revoked",
		Description: "Needs no smart card. set-wallet pay does the same, at most once a day.\n\n" +
			"Example: set-wallet refresh",
		Flags: []urfave.Flag{dirFlag()},
		Action: func(c *urfave.Context) (err error) {
			if err := arguments(c); err != nil {
				return err
			}
			w, err := openWallet(c, &sethttp.Client{Waiting: waiting(c)})
			if err != nil {
				return err
			}
			defer w.Close()
			cards, err := w.Cards(c.Context)
			if err != nil {
				return err
			}
			for _, card := range cards {
				if failed := w.Refresh(c.Context, card); failed != nil {
					err = errors.Join(err, classified(failed))
					continue
				}
				fmt.Fprintf(c.App.Writer, "%s %s: revocation lists are up to date\n", card.Brand, card.Masked())
			}
			return err
		},
	}
}
