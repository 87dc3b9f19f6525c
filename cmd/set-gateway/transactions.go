package main

import (
	"errors"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/roles/gateway"
)

func transactions(c *urfave.Context) (err error) {
	cfg, err := load(c)
	if err != nil {
		return err
	}
	if c.Int("limit") < 1 {
		return cli.Usage(errors.New("--limit: want at least 1"))
	}
	ring := keyring.New(c.App.Reader, c.App.ErrWriter)
	defer func() { err = errors.Join(err, ring.Close()) }()
	sealer, err := ring.Sealer(c.Context, cfg.SealKey)
	if err != nil {
		return err
	}
	db, err := gateway.OpenDB(c.Context, cfg.Database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	list, err := gateway.Transactions(c.Context, db, sealer, c.Int("limit"))
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, list)
	}
	var rows [][]string
	for _, t := range list {
		rows = append(rows, []string{t.Time.Format(time.RFC3339), t.XID.String(), string(t.Merchant), t.Card, string(t.Cardholder), t.Amount, t.Authorized, t.Captured, t.Credited, t.State, t.Issuer, t.Code, t.Approval, t.RRN})
	}
	return cli.Table(c.App.Writer, []string{"TIME", "XID", "MERCHANT", "CARD", "CARDHOLDER", "AMOUNT", "AUTHORIZED", "CAPTURED", "CREDITED", "STATE", "ISSUER", "CODE", "APPROVAL", "RRN"}, rows)
}
