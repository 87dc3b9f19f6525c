package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/roles/issuer"
)

const (
	httpTimeout  = 10 * time.Second
	closeTimeout = 5 * time.Second
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
	i, closeAll, err := cfg.open(c, log)
	if err != nil {
		return err
	}
	return errors.Join(run(c.Context, cfg, i, log), closeAll())
}

// run serves until ctx ends. /readyz answers only when the ISO 8583 host listens.
func run(ctx context.Context, cfg *config, i *issuer.Issuer, log *slog.Logger) error {
	host, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("ISO 8583 host: %w", err)
	}
	health, err := net.Listen("tcp", cfg.HTTP)
	if err != nil {
		return errors.Join(fmt.Errorf("http: %w", err), host.Close())
	}
	server := &http.Server{
		Handler:           i.Handler(),
		ReadHeaderTimeout: httpTimeout,
		ReadTimeout:       httpTimeout,
		WriteTimeout:      httpTimeout,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	healthEnded := make(chan error, 1)
	go func() {
		healthEnded <- server.Serve(health)
		cancel()
	}()
	log.Info("serving", "iso8583", host.Addr().String(), "http", health.Addr().String())
	cli.Ready(ctx, log)
	err = i.Serve(ctx, host)

	last, done := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer done()
	err = errors.Join(err, server.Shutdown(last))
	if ended := <-healthEnded; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("http: %w", ended))
	}
	log.Info("stopped")
	return err
}
