package main

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/merchant"
)

// withStore calls use with the merchant's database open.
func withStore(c *urfave.Context, use func(*merchant.Store) error) (err error) {
	cfg, err := load(c)
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
			row := []string{strconv.FormatInt(o.Number, 10), o.Created.Format(time.RFC3339), o.Total, string(o.State), "", "", "", "", o.ID}
			if p := o.Payment; p != nil {
				copy(row[4:], []string{p.XID.String(), p.AuthCode, p.ApprovalCode, string(p.Capture)})
			}
			rows = append(rows, row)
		}
		return cli.Table(c.App.Writer, []string{"ORDER", "TIME", "AMOUNT", "STATE", "XID", "AUTHORIZATION", "APPROVAL", "CAPTURE", "ID"}, rows)
	})
}

func capture(c *urfave.Context) error {
	return withStore(c, func(store *merchant.Store) error {
		if err := store.Capture(c.Context, c.String("order")); err != nil {
			return err
		}
		_, err := fmt.Fprintln(c.App.Writer, "the server captures it: see set-merchant orders")
		return err
	})
}
