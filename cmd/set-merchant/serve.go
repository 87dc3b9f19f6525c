package main

import (
	"errors"
	"log/slog"
	"net"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/cmd/internal/party"
	"github.com/setkit/setkit/roles/merchant"
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
	store, err := merchant.OpenStore(c.Context, cfg.Database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	endpoint, err := cfg.Identity.Endpoint(c.Context, ring, cfg.Trust, pki.Mer)
	if err != nil {
		return err
	}
	refresher := &party.Refresher{Endpoint: endpoint, Identity: cfg.Identity, Enrolment: cfg.Enrolment, Type: set.MerInitialBoth, Who: cfg.who(), Log: log}
	learn := refresher.Start(c.Context)
	m, err := cfg.merchant(endpoint, ring, store, log)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return err
	}
	log.Info("serving", "listen", ln.Addr().String(), "shop", cfg.BaseURL, "certificate", m.Endpoint.SignCert.String())
	return party.Serve(c.Context, ln, m.Handler(), m.AnswerTimeout, learn(m.Run), log)
}

// merchant makes the merchant that the configuration describes.
func (cfg *config) merchant(endpoint *set.Endpoint, ring *keyring.Ring, store *merchant.Store, log *slog.Logger) (*merchant.Merchant, error) {
	var catalogue merchant.Catalogue
	if err := cli.LoadConfig(cfg.Catalogue, &catalogue); err != nil {
		return nil, cli.Usage(err)
	}
	var gateways []merchant.Gateway
	for _, g := range cfg.Gateways {
		h, err := party.ReadHolder(g.Certificates, pki.Pgwy)
		if err != nil {
			return nil, err
		}
		gateways = append(gateways, merchant.Gateway{Certificate: h.Exchange, Chain: h.Chain, URL: g.URL})
	}
	return merchant.New(merchant.Config{
		Endpoint: endpoint, Store: store, Catalogue: &catalogue, Gateways: gateways, BaseURL: cfg.BaseURL, Log: log,
		MerchData: set.MerchData{MerchCatCode: cfg.MerchantCategory}, Capture: cfg.Capture, KeysReady: ring.Ready,
	})
}
