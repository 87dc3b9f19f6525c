// Set-issuer is the cardholder's bank: it keeps accounts, answers gateways and certificate authorities over
// ISO 8583, and gives its cardholders the bundle that makes a wallet the bank's.
package main

import (
	"fmt"
	"strings"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
)

func main() { cli.Main(newApp()) }

// newApp returns the command. An App runs once.
func newApp() *urfave.App {
	file := &urfave.PathFlag{Name: "config", Required: true, Usage: "configuration `FILE`"}
	return &urfave.App{
		Name:  "set-issuer",
		Usage: "the cardholder's bank: accounts, and the ISO 8583 host",
		Commands: []*urfave.Command{
			{
				Name: "init", Usage: "make the keys in the token, where it has none",
				Description: "Example: set-issuer init --config issuer.yaml",
				Flags:       []urfave.Flag{file}, Action: initKeys,
			},
			{
				Name: "import", Usage: "add the accounts of a YAML file", ArgsUsage: "FILE",
				Description: "All accounts are added, or none. Those that exist are left as they are.\n\n" +
					"Example: set-issuer import --config issuer.yaml accounts.yaml",
				Flags: []urfave.Flag{file}, Action: importAccounts,
			},
			{
				Name: "serve", Usage: "answer gateways and certificate authorities, and give out the wallet bundle, until it is told to end",
				Description: "Example: set-issuer serve --config issuer.yaml",
				Flags:       []urfave.Flag{file}, Action: serve,
			},
			walletBundleCommand(file),
			{
				Name: "accounts", Usage: "list the accounts, with masked card numbers",
				Description: "Example: set-issuer accounts --config issuer.yaml --json",
				Flags:       []urfave.Flag{file, &urfave.BoolFlag{Name: "json", Usage: "print JSON"}},
				Action:      accounts,
			},
			{
				Name: "settlements", Usage: "list the settlements with acquirers, and whether they agree with the accounts",
				Description: "Amounts are what the cardholders were debited (sales) and credited (refunds), without what was\n" +
					"taken back; net is what the bank owes the acquirer. What is booked on the accounts must be the sum of\n" +
					"all that is settled and still open: the command fails if it is not.\n\n" +
					"Example: set-issuer settlements --config issuer.yaml --json",
				Flags:  []urfave.Flag{file, &urfave.BoolFlag{Name: "json", Usage: "print JSON"}},
				Action: settlements,
			},
			{
				Name: "unlock", Usage: "let a cardholder be certified again after too many failed account checks", ArgsUsage: "ID",
				Description: "ID is as set-issuer accounts lists it.\n\nExample: set-issuer unlock --config issuer.yaml alice",
				Flags:       []urfave.Flag{file}, Action: unlock,
			},
		},
	}
}

// config is the configuration file. testdata/config/issuer.yaml is a full example.
type config struct {
	Listen    string        `yaml:"listen"`
	HTTP      string        `yaml:"http"`
	Metrics   string        `yaml:"metrics"`
	Database  string        `yaml:"database"`
	LookupKey string        `yaml:"lookup-key"`
	SealKey   string        `yaml:"seal-key"`
	HoldDays  int           `yaml:"hold-days"`
	Wallet    *walletConfig `yaml:"wallet"` // nil: the bank has no wallet bundles
}

// load reads the configuration that the command line names, and checks that the arguments are those that
// args names.
func load(c *urfave.Context, args ...string) (*config, error) {
	if c.NArg() != len(args) {
		want := "no arguments"
		if len(args) > 0 {
			want = "one argument, " + strings.Join(args, " ")
		}
		return nil, cli.Usage(fmt.Errorf("%s takes %s and got %d", c.Command.Name, want, c.NArg()))
	}
	path := c.Path("config")
	var cfg config
	if err := cli.LoadConfig(path, &cfg); err != nil {
		return nil, cli.Usage(err)
	}
	for _, f := range []struct{ key, value string }{
		{"listen", cfg.Listen}, {"http", cfg.HTTP}, {"database", cfg.Database}, {"lookup-key", cfg.LookupKey}, {"seal-key", cfg.SealKey},
	} {
		if f.value == "" {
			return nil, cli.Usage(fmt.Errorf("configuration %s: %s is missing", path, f.key))
		}
	}
	if cfg.HoldDays == 0 {
		return nil, cli.Usage(fmt.Errorf("configuration %s: hold-days is missing", path))
	}
	return &cfg, nil
}
