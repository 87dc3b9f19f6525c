package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/cmd/internal/party"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
)

// registrantConfig is a merchant or gateway as far as its certificates go.
type registrantConfig struct {
	AcquirerBIN set.BIN         `yaml:"acquirer-bin"`
	MerchantID  set.MerchantID  `yaml:"merchant-id"` // empty: a gateway
	Trust       party.Trust     `yaml:"trust"`
	Identity    party.Identity  `yaml:"identity"`
	Enrolment   party.Enrolment `yaml:"enrolment"`
}

func (r *registrantConfig) who() (set.RequestType, pki.Type, set.IDData) {
	if r.MerchantID == "" {
		return set.PgwyInitialBoth, pki.Pgwy, set.IDData{AcquirerID: &set.AcquirerID{AcquirerBIN: r.AcquirerBIN}}
	}
	return set.MerInitialBoth, pki.Mer, set.IDData{MerchantAcquirerID: &set.MerchantAcquirerID{MerchantBIN: r.AcquirerBIN, MerchantID: r.MerchantID}}
}

// registrant is the command of the scripts that does what set-merchant and set-gateway do with certificates.
func registrant() *urfave.App {
	file := &urfave.PathFlag{Name: "config", Required: true}
	with := func(work func(*urfave.Context, *registrantConfig, *keyring.Ring) error) urfave.ActionFunc {
		return func(c *urfave.Context) error {
			var cfg registrantConfig
			if err := cli.LoadConfig(c.Path("config"), &cfg); err != nil {
				return err
			}
			ring := keyring.New(c.App.Reader, c.App.ErrWriter)
			defer ring.Close()
			return work(c, &cfg, ring)
		}
	}
	return &urfave.App{Name: "registrant", Commands: []*urfave.Command{
		{Name: "enroll", Flags: append([]urfave.Flag{file}, party.EnrollFlags()...), Action: with(func(c *urfave.Context, cfg *registrantConfig, ring *keyring.Ring) error {
			typ, _, who := cfg.who()
			return (&party.Applicant{
				Identity: cfg.Identity, Trust: cfg.Trust, Enrolment: cfg.Enrolment, Type: typ, Who: who, Ring: ring, Command: "registrant enroll",
				Stdin: c.App.Reader, Stdout: c.App.Writer, Stderr: c.App.ErrWriter,
			}).Run(c)
		})},
		{Name: "refresh", Flags: []urfave.Flag{file}, Action: with(func(c *urfave.Context, cfg *registrantConfig, ring *keyring.Ring) error {
			typ, holder, who := cfg.who()
			e, err := cfg.Identity.Endpoint(c.Context, ring, cfg.Trust, holder)
			if err != nil {
				return err
			}
			r := &party.Refresher{Endpoint: e, Identity: cfg.Identity, Enrolment: cfg.Enrolment, Type: typ, Who: who, Log: slog.New(slog.DiscardHandler)}
			if err := r.Once(c.Context); err != nil {
				return err
			}
			fmt.Fprintf(c.App.Writer, "%d roots\n", len(e.Verifier.Roots()))
			for _, b := range e.Verifier.Store().BCIs {
				fmt.Fprintf(c.App.Writer, "BrandCRLIdentifier %d\n", b.Sequence)
			}
			return nil
		})},
		{Name: "accepts", Flags: []urfave.Flag{file, &urfave.PathFlag{Name: "chain"}}, Action: with(func(c *urfave.Context, cfg *registrantConfig, ring *keyring.Ring) error {
			_, holder, _ := cfg.who()
			e, err := cfg.Identity.Endpoint(c.Context, ring, cfg.Trust, holder)
			if err != nil {
				return err
			}
			certs, err := party.ReadCertificates(c.Args().First())
			if err != nil {
				return err
			}
			chain := certs
			if path := c.Path("chain"); path != "" {
				if chain, err = party.ReadCertificates(path); err != nil {
					return err
				}
			}
			for _, cert := range certs {
				if cert.Use == pki.Authority && c.Path("chain") == "" {
					continue
				}
				if _, err := e.Verifier.Verify(cert, chain, time.Now()); err != nil {
					return err
				}
				fmt.Fprintf(c.App.Writer, "%v is accepted\n", cert)
			}
			return nil
		})},
		{Name: "await", Action: func(c *urfave.Context) error { return await(c.Context, c.Args().First()) }},
	}}
}

// await waits until a server answers.
func await(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			return res.Body.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w", url, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
