// Set-merchant is a merchant: a shop, and the SET server that its customers' wallets pay at.
package main

import (
	"fmt"
	"regexp"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/party"
	"github.com/setkit/setkit/roles/set"
)

func main() { cli.Main(newApp()) }

// newApp returns the command. An App runs once.
func newApp() *urfave.App {
	file := &urfave.PathFlag{Name: "config", Required: true, Usage: "configuration `FILE`"}
	return &urfave.App{
		Name:  "set-merchant",
		Usage: "a shop that is paid by SET",
		Commands: []*urfave.Command{
			{
				Name: "enroll", Usage: "make keys in the token and get certificates for them from the merchant CA",
				Description: party.EnrollDescription + "Example: set-merchant enroll --config merchant.yaml\n" +
					"         set-merchant enroll --config merchant.yaml --continue",
				Flags: append([]urfave.Flag{file}, party.EnrollFlags()...), Action: enroll,
			},
			{
				Name: "serve", Usage: "sell until it is told to end",
				Description: "Example: set-merchant serve --config merchant.yaml",
				Flags:       []urfave.Flag{file}, Action: serve,
			},
			{
				Name: "orders", Usage: "list the orders, the latest first",
				Description: "Example: set-merchant orders --config merchant.yaml --json",
				Flags:       []urfave.Flag{file, &urfave.BoolFlag{Name: "json", Usage: "print JSON"}}, Action: orders,
			},
			{
				Name: "capture", Usage: "have the server capture the payment of an authorized order",
				Description: "For a shop whose configuration says capture: manual. ID is as set-merchant orders lists it.\n\n" +
					"Example: set-merchant capture --config merchant.yaml --order ID",
				Flags: []urfave.Flag{file, &urfave.StringFlag{Name: "order", Required: true, Usage: "`ID` of the order"}}, Action: capture,
			},
		},
	}
}

// config is the configuration file. testdata/config/merchant.yaml is a full example.
type config struct {
	Listen           string           `yaml:"listen"`
	Metrics          string           `yaml:"metrics"`
	BaseURL          string           `yaml:"base-url"`
	Database         string           `yaml:"database"`
	Catalogue        string           `yaml:"catalogue"`
	Capture          string           `yaml:"capture"`
	MerchantCategory set.MerchCatCode `yaml:"merchant-category"`
	MerchantID       set.MerchantID   `yaml:"merchant-id"`
	AcquirerBIN      set.BIN          `yaml:"acquirer-bin"`
	Gateways         []gatewayConfig  `yaml:"gateways"`
	Trust            party.Trust      `yaml:"trust"`
	Identity         party.Identity   `yaml:"identity"`
	Enrolment        party.Enrolment  `yaml:"enrolment"`
}

type gatewayConfig struct {
	Certificates string `yaml:"certificates"` // PEM file: the gateway's certificates and those of the CAs above
	URL          string `yaml:"url"`
}

const (
	captureImmediate = "immediate"
	captureManual    = "manual"
)

// load reads the configuration that the command line names.
func load(c *urfave.Context) (*config, error) {
	if c.Args().Present() {
		return nil, cli.Usage(fmt.Errorf("unexpected argument %q", c.Args().First()))
	}
	var cfg config
	if err := cli.LoadConfig(c.Path("config"), &cfg); err != nil {
		return nil, cli.Usage(err)
	}
	if err := cfg.check(); err != nil {
		return nil, cli.Usage(fmt.Errorf("configuration %s: %w", c.Path("config"), err))
	}
	return &cfg, nil
}

var (
	sixDigits  = regexp.MustCompile(`^[0-9]{6}$`)
	fourDigits = regexp.MustCompile(`^[0-9]{4}$`)
)

func (cfg *config) check() error {
	for key, value := range map[string]string{
		"listen": cfg.Listen, "base-url": cfg.BaseURL, "database": cfg.Database, "catalogue": cfg.Catalogue,
		"merchant-id": string(cfg.MerchantID), "trust.root": cfg.Trust.Root, "identity.sign-key": cfg.Identity.SignKey,
		"identity.exchange-key": cfg.Identity.ExchangeKey, "identity.certificates": cfg.Identity.Certificates,
	} {
		if value == "" {
			return fmt.Errorf("%s is missing", key)
		}
	}
	for _, g := range cfg.Gateways {
		if g.Certificates == "" || g.URL == "" {
			return fmt.Errorf("gateways: each has certificates and url")
		}
	}
	switch {
	case len(cfg.Gateways) == 0:
		return fmt.Errorf("gateways is missing")
	case cfg.Capture != captureImmediate && cfg.Capture != captureManual:
		return fmt.Errorf("capture: want %s or %s", captureImmediate, captureManual)
	case !sixDigits.MatchString(string(cfg.AcquirerBIN)):
		return fmt.Errorf("acquirer-bin: want 6 digits in quotes")
	case !fourDigits.MatchString(string(cfg.MerchantCategory)):
		return fmt.Errorf("merchant-category: want 4 digits in quotes")
	}
	return nil
}
