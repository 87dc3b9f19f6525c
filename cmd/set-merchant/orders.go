package main

import (
	"errors"
	"strconv"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/merchant"
)

// withStore calls use with the merchant's database open.
func withStore(c *urfave.Context, use func(*merchant.Store) error) (err error) {
	cfg, err := configuration(c)
	if err != nil {
		return err
	}
	store, err := merchant.OpenStore(c.Context, cfg.Database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return use(store)
}

func orders(c *urfave.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	return withStore(c, func(store *merchant.Store) error {
		list, err := store.Orders(c.Context)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			if list == nil {
				list = []*merchant.Order{} // a list in JSON, too
			}
			return cli.PrintJSON(c.App.Writer, list)
		}
		var rows [][]string
		for _, o := range list {
			row := []string{strconv.FormatInt(o.Number, 10), o.Created.Format("2006-01-02 15:04"), "", o.Total, string(o.State), "", "", "", ""}
			if p := o.Payment; p != nil {
				row[2] = string(p.Cardholder)
				copy(row[5:], []string{p.AuthorizedAmount.String(), p.CapturedAmount.String(), p.RefundedAmount.String(), string(p.Pending)})
			}
			rows = append(rows, row)
		}
		return cli.Table(c.App.Writer, []string{"ORDER", "TIME (UTC)", "CARDHOLDER", "TOTAL", "STATE", "AUTHORIZED", "CAPTURED", "REFUNDED", "PENDING"}, rows)
	})
}
