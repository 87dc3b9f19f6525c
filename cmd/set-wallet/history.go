package main

import (
	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/wallet"
)

// historyMax is how many purchases are listed.
const historyMax = 1000

func historyCommand() *urfave.Command {
	return &urfave.Command{
		Name:  "history",
		Usage: "list what was paid, the latest first",
		Flags: []urfave.Flag{dirFlag(), jsonFlag()},
		Action: func(c *urfave.Context) error {
			if err := arguments(c); err != nil {
				return err
			}
			return history(c)
		},
		Subcommands: []*urfave.Command{{
			Name:        "show",
			Usage:       "print the receipt of a purchase",
			ArgsUsage:   "XID",
			Description: "Example: set-wallet history show 5619257b872a9c7a4617b94311995a3ee7c1d55e",
			Flags:       []urfave.Flag{dirFlag(), jsonFlag()},
			Action: func(c *urfave.Context) error {
				if err := arguments(c, "XID"); err != nil {
					return err
				}
				return show(c)
			},
		}, sawCommand()},
	}
}

func history(c *urfave.Context) error {
	w, err := openWallet(c, nil)
	if err != nil {
		return err
	}
	defer w.Close()
	purchases, err := w.Purchases(c.Context, historyMax)
	if err != nil {
		return err
	}
	list := []*receipt{}
	var rows [][]string
	for _, p := range purchases {
		r := newReceipt(p)
		list = append(list, r)
		rows = append(rows, []string{r.Date, r.XID, r.Merchant.Name, r.Amount, r.Brand + " " + r.Card.Name, r.Outcome})
	}
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, list)
	}
	return cli.Table(c.App.Writer, []string{"DATE", "XID", "MERCHANT", "AMOUNT", "CARD", "OUTCOME"}, rows)
}

func show(c *urfave.Context) error {
	xid, err := parseXID(c.Args().First())
	if err != nil {
		return err
	}
	w, err := openWallet(c, nil)
	if err != nil {
		return err
	}
	defer w.Close()
	var p *wallet.Purchase
	if p, err = w.Purchase(c.Context, xid); err != nil {
		return err
	}
	r := newReceipt(p)
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, r)
	}
	r.print(c.App.Writer)
	return nil
}
