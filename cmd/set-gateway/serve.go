package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/cmd/internal/party"
	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/gateway"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
)

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
	endpoint, err := cfg.Identity.Endpoint(c.Context, ring, cfg.Trust, pki.Pgwy)
	if err != nil {
		return err
	}
	refresher := &party.Refresher{Endpoint: endpoint, Identity: cfg.Identity, Trust: cfg.Trust, Ring: ring, Enrolment: cfg.Enrolment, Type: set.PgwyInitialBoth, Who: cfg.who(), Log: log}
	learn := refresher.Start(c.Context)
	sealer, err := ring.Sealer(c.Context, cfg.SealKey)
	if err != nil {
		return err
	}
	db, err := gateway.OpenDB(c.Context, cfg.Database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	issuer := finnet.NewClient(cfg.Issuer, log)
	defer issuer.Close()
	g, err := gateway.New(gateway.Config{
		Endpoint: endpoint, DB: db, Issuer: issuer, Sealer: sealer, Acquirer: cfg.AcquirerBIN, Log: log,
	})
	if err != nil {
		return fmt.Errorf("%s: %w", cfg.Identity.Certificates, err)
	}
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return err
	}
	log.Info("serving", "listen", ln.Addr().String(), "acquirer", string(cfg.AcquirerBIN), "certificate", endpoint.SignCert.String())
	cli.Ready(c.Context, log)
	return party.Serve(c.Context, ln, g.Handler(), gateway.AnswerTimeout, learn(g.Run, g.Renew), log)
}
