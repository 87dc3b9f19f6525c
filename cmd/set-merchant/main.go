// Set-merchant is a merchant: a shop, and the SET server that its customers' wallets pay at.
package main

import (
	"fmt"
	"regexp"
	"slices"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/party"
	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/set"
)

func main() { cli.Main(newApp()) }

// newApp returns the command. An App runs once.
func newApp() *urfave.App {
	file := &urfave.PathFlag{Name: "config", Required: true, Usage: "configuration `FILE`"}
	return &urfave.App{
		Name:  "set-merchant",
		Usage: "a shop that is paid by SET",
		Commands: append([]*urfave.Command{
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
				Flags:       []urfave.Flag{file, jsonFlag()}, Action: orders,
			},
			batchCommand(file),
			operatorCommand(file),
		}, operationCommands(file)...),
	}
}

// config is the configuration file. testdata/config/merchant.yaml is a full example.
type config struct {
	Listen           string           `yaml:"listen"`
	Metrics          string           `yaml:"metrics"`
	BaseURL          string           `yaml:"base-url"`
	Database         string           `yaml:"database"`
	Catalogue        string           `yaml:"catalogue"`
	Capture          merchant.Capture `yaml:"capture"`
	MerchantCategory set.MerchCatCode `yaml:"merchant-category"`
	MerchantID       set.MerchantID   `yaml:"merchant-id"`
	AcquirerBIN      set.BIN          `yaml:"acquirer-bin"`
	Gateways         []gatewayConfig  `yaml:"gateways"`
	Trust            party.Trust      `yaml:"trust"`
	Identity         party.Identity   `yaml:"identity"`
	Enrolment        party.Enrolment  `yaml:"enrolment"`
	Office           officeConfig     `yaml:"office"`
	API              apiConfig        `yaml:"api"`
}

type officeConfig struct {
	Listen    string `yaml:"listen"`
	BaseURL   string `yaml:"base-url"`
	Operators string `yaml:"operators"` // file
}

type apiConfig struct {
	Token   string `yaml:"token"` // a secret source
	Webhook struct {
		URL string `yaml:"url"`
		Key string `yaml:"key"` // a secret source
	} `yaml:"webhook"`
}

type gatewayConfig struct {
	Certificates string `yaml:"certificates"` // PEM file: the gateway's certificates and those of the CAs above
	URL          string `yaml:"url"`
}

// noArguments refuses what stands behind the flags of a command that takes nothing there.
func noArguments(c *urfave.Context) error {
	if c.Args().Present() {
		return cli.Usage(fmt.Errorf("unexpected argument %q", c.Args().First()))
	}
	return nil
}

// load is configuration for a command without arguments.
func load(c *urfave.Context) (*config, error) {
	if err := noArguments(c); err != nil {
		return nil, err
	}
	return configuration(c)
}

// configuration reads the configuration that the command line names.
func configuration(c *urfave.Context) (*config, error) {
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
	switch o := cfg.Office; {
	case o.Listen != "" && (o.BaseURL == "" || o.Operators == ""):
		return fmt.Errorf("office: want listen, base-url and operators, or none of them")
	case cfg.API.Webhook.URL != "" && (cfg.API.Token == "" || cfg.API.Webhook.Key == ""):
		return fmt.Errorf("api: a webhook has url and key, and the API a token")
	case len(cfg.Gateways) == 0:
		return fmt.Errorf("gateways is missing")
	case !slices.Contains([]merchant.Capture{merchant.CaptureImmediately, merchant.CaptureManually, merchant.CaptureWithSale}, cfg.Capture):
		return fmt.Errorf("capture: want %s, %s or %s", merchant.CaptureImmediately, merchant.CaptureManually, merchant.CaptureWithSale)
	case !sixDigits.MatchString(string(cfg.AcquirerBIN)):
		return fmt.Errorf("acquirer-bin: want 6 digits in quotes")
	case !fourDigits.MatchString(string(cfg.MerchantCategory)):
		return fmt.Errorf("merchant-category: want 4 digits in quotes")
	}
	return nil
}
