package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/cmd/internal/party"
	"github.com/setkit/setkit/roles/ca"
	"github.com/setkit/setkit/roles/finnet"
)

func configFlag() urfave.Flag {
	return &urfave.PathFlag{Name: "config", Required: true, Usage: "configuration `FILE`"}
}

func jsonFlag() urfave.Flag { return &urfave.BoolFlag{Name: "json", Usage: "print JSON"} }

func limitFlag() urfave.Flag {
	return &urfave.IntFlag{Name: "limit", Value: 100, Usage: "list at most `N`"}
}

func limit(c *urfave.Context) (int, error) {
	if n := c.Int("limit"); n < 1 {
		return 0, cli.Usage(fmt.Errorf("--limit %d: want at least 1", n))
	}
	return c.Int("limit"), nil
}

func serveCommand() *urfave.Command {
	return &urfave.Command{
		Name: "serve", Usage: "certify cardholders, merchants and payment gateways until it is told to end",
		Description: "Example: set-ca serve --config ca.yaml",
		Flags:       []urfave.Flag{configFlag()}, Action: serve,
	}
}

func serve(c *urfave.Context) (err error) {
	cfg, err := load(c)
	if err != nil {
		return err
	}
	log := cli.NewLogger(c.App.ErrWriter, slog.LevelInfo)
	stop, err := keyring.ServeMetrics(cfg.Metrics, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	ring := keyring.New(c.App.Reader, c.App.ErrWriter)
	defer func() { err = errors.Join(err, ring.Close()) }()
	issuer := finnet.NewClient(cfg.Issuer, log)
	defer issuer.Close()
	server, closeDB, err := cfg.open(c, ring, issuer, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeDB()) }()
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return err
	}
	log.Info("serving", "listen", ln.Addr().String(), "paths", []string{"/cca", "/mca", "/pca"})
	cli.Ready(c.Context, log)
	return party.Serve(c.Context, ln, server.Handler(), ca.AnswerTimeout, func(ctx context.Context) error {
		server.Run(ctx)
		return nil
	}, log)
}

func listCommand() *urfave.Command {
	return &urfave.Command{
		Name: "list", Usage: "list the certificates issued, the latest first",
		Description: "Example: set-ca list --config ca.yaml --limit 20",
		Flags:       []urfave.Flag{configFlag(), limitFlag(), jsonFlag()}, Action: list,
	}
}

func list(c *urfave.Context) (err error) {
	cfg, err := load(c)
	if err != nil {
		return err
	}
	most, err := limit(c)
	if err != nil {
		return err
	}
	db, err := ca.OpenDB(c.Context, cfg.Database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	certs, err := ca.List(c.Context, db, most)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, certs)
	}
	var rows [][]string
	for _, i := range certs {
		rows = append(rows, []string{i.IssuedAt.Format(time.RFC3339), i.CA, i.Serial, i.Type, i.Use, i.NotAfter.Format(time.DateOnly), i.Revoked, i.Registrant, i.Subject})
	}
	return cli.Table(c.App.Writer, []string{"ISSUED", "CA", "SERIAL", "TYPE", "USE", "EXPIRES", "REVOKED", "REGISTRANT", "SUBJECT"}, rows)
}
