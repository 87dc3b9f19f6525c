// Set-gateway is the payment gateway: it authorizes and captures the purchases of an acquirer's merchants
// at the issuer, and settles with it.
package main

import (
	"fmt"
	"time"

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
		Name:  "set-gateway",
		Usage: "the payment gateway between merchants and issuers",
		Commands: []*urfave.Command{
			{
				Name: "enroll", Usage: "make keys in the token and get certificates for them from the payment CA",
				Description: party.EnrollDescription + "Example: set-gateway enroll --config gateway.yaml\n" +
					"         set-gateway enroll --config gateway.yaml --continue",
				Flags: append([]urfave.Flag{file}, party.EnrollFlags()...), Action: enroll,
			},
			{
				Name: "serve", Usage: "answer merchants until it is told to end",
				Description: "Example: set-gateway serve --config gateway.yaml",
				Flags:       []urfave.Flag{file}, Action: serve,
			},
			{
				Name: "transactions", Usage: "list authorizations, the latest first",
				Description: "Example: set-gateway transactions --config gateway.yaml --limit 20",
				Flags: []urfave.Flag{
					file,
					&urfave.IntFlag{Name: "limit", Value: 100, Usage: "list at most `N`"},
					&urfave.BoolFlag{Name: "json", Usage: "print JSON"},
				},
				Action: transactions,
			},
			{
				Name: "settle", Usage: "close the settlement with the issuer, and report what merchants are paid",
				Description: "Example: set-gateway settle --config gateway.yaml --out reports",
				Flags: []urfave.Flag{
					file,
					&urfave.PathFlag{Name: "out", Value: ".", Usage: "write the report into `DIRECTORY`"},
					&urfave.DurationFlag{Name: "wait", Value: 5 * time.Minute, Usage: "wait at most `TIME` for the issuer"},
					&urfave.BoolFlag{Name: "json", Usage: "print JSON"},
				},
				Action: settle,
			},
			{
				Name: "settlements", Usage: "list settlements, the latest first",
				Description: "Example: set-gateway settlements --config gateway.yaml",
				Flags: []urfave.Flag{
					file,
					&urfave.IntFlag{Name: "limit", Value: 100, Usage: "list at most `N`"},
					&urfave.BoolFlag{Name: "json", Usage: "print JSON"},
				},
				Action: settlements,
			},
		},
	}
}

// config is the configuration file. testdata/config/gateway.yaml is a full example.
type config struct {
	Listen      string          `yaml:"listen"`
	Metrics     string          `yaml:"metrics"`
	Database    string          `yaml:"database"`
	Issuer      string          `yaml:"issuer"`
	AcquirerBIN set.BIN         `yaml:"acquirer-bin"`
	Trust       party.Trust     `yaml:"trust"`
	Identity    party.Identity  `yaml:"identity"`
	SealKey     string          `yaml:"seal-key"`
	Enrolment   party.Enrolment `yaml:"enrolment"`
}

// load reads the configuration that the command line names.
func load(c *urfave.Context) (*config, error) {
	if c.Args().Present() {
		return nil, cli.Usage(fmt.Errorf("unexpected argument %q", c.Args().First()))
	}
	var cfg config
	if err := cli.LoadConfig(c.Path("config"), &cfg); err != nil {
		return nil, cli.Usage(err)
	}
	for key, value := range map[string]string{
		"listen": cfg.Listen, "database": cfg.Database, "issuer": cfg.Issuer, "seal-key": cfg.SealKey, "trust.root": cfg.Trust.Root,
		"identity.sign-key": cfg.Identity.SignKey, "identity.exchange-key": cfg.Identity.ExchangeKey,
		"identity.certificates": cfg.Identity.Certificates,
	} {
		if value == "" {
			return nil, cli.Usage(fmt.Errorf("configuration %s: %s is missing", c.Path("config"), key))
		}
	}
	if !isBIN(cfg.AcquirerBIN) {
		return nil, cli.Usage(fmt.Errorf("configuration %s: acquirer-bin: want 6 digits in quotes", c.Path("config")))
	}
	return &cfg, nil
}

func isBIN(bin set.BIN) bool {
	for _, c := range bin {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(bin) == 6
}
