package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/cmd/internal/party"
	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/merchant/web"
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
	refresher := &party.Refresher{Endpoint: endpoint, Identity: cfg.Identity, Trust: cfg.Trust, Ring: ring, Enrolment: cfg.Enrolment, Type: set.MerInitialBoth, Who: cfg.who(), Log: log}
	learn := refresher.Start(c.Context)
	m, err := cfg.merchant(endpoint, ring, store, log)
	if err != nil {
		return err
	}
	api, err := cfg.api(c)
	if err != nil {
		return err
	}
	shop, err := web.NewShop(m, api)
	if err != nil {
		return cli.Usage(fmt.Errorf("configuration %s: %w", c.Path("config"), err))
	}
	beside := shop.Run
	if cfg.Office.Listen != "" {
		if beside, err = cfg.office(m, shop.Run, log); err != nil {
			return err
		}
	}
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return err
	}
	log.Info("serving", "listen", ln.Addr().String(), "shop", cfg.BaseURL, "certificate", m.Endpoint.SignCert.String())
	cli.Ready(c.Context, log)
	return party.Serve(c.Context, ln, shop.Handler(), m.AnswerTimeout, learn(together(m.Run, beside), m.Renew), log)
}

// api is what other shops use, nil if the configuration has none.
func (cfg *config) api(c *urfave.Context) (*web.API, error) {
	if cfg.API.Token == "" {
		return nil, nil
	}
	api := &web.API{Webhook: cfg.API.Webhook.URL}
	var err error
	if api.Token, err = cli.Secret(c.Context, cfg.API.Token, "Token of the API", c.App.Reader, c.App.ErrWriter); err != nil {
		return nil, fmt.Errorf("api.token: %w", err)
	}
	if api.Webhook != "" {
		if api.WebhookKey, err = cli.Secret(c.Context, cfg.API.Webhook.Key, "Key of the webhook", c.App.Reader, c.App.ErrWriter); err != nil {
			return nil, fmt.Errorf("api.webhook.key: %w", err)
		}
	}
	return api, nil
}

// office listens for the back office, and gives what serves it beside run.
func (cfg *config) office(m *merchant.Merchant, run job, log *slog.Logger) (job, error) {
	office, err := web.NewOffice(m, cfg.Office.BaseURL, cfg.operators)
	if err != nil {
		return nil, cli.Usage(fmt.Errorf("office: %w", err))
	}
	ln, err := net.Listen("tcp", cfg.Office.Listen)
	if err != nil {
		return nil, err
	}
	log.Info("serving the back office", "listen", ln.Addr().String(), "office", cfg.Office.BaseURL)
	return func(ctx context.Context) error {
		return party.Serve(ctx, ln, office.Handler(), web.OfficeTimeout, run, log)
	}, nil
}

// job is work that ends with its context.
type job = func(context.Context) error

// together does several jobs. When one of them ends, all do.
func together(jobs ...job) job {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		errs := make([]error, len(jobs))
		var at sync.WaitGroup
		for i, run := range jobs {
			at.Go(func() {
				defer cancel()
				errs[i] = run(ctx)
			})
		}
		at.Wait()
		return errors.Join(errs...)
	}
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
