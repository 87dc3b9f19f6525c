package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	urfave "github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/merchant/web"
)

// operatorsFile is the file of those who may use the back office.
type operatorsFile struct {
	Operators []web.Operator `yaml:"operators"`
}

// operators reads who may use the back office, nobody while there is no file.
func (cfg *config) operators() ([]web.Operator, error) {
	if _, err := os.Stat(cfg.Office.Operators); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var file operatorsFile
	if err := cli.LoadConfig(cfg.Office.Operators, &file); err != nil {
		return nil, err
	}
	if err := web.CheckOperators(file.Operators); err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.Office.Operators, err)
	}
	return file.Operators, nil
}

func (cfg *config) saveOperators(operators []web.Operator) (err error) {
	text, err := yaml.Marshal(operatorsFile{operators})
	if err != nil {
		return err
	}
	// A server that reads meanwhile sees the file of before or the new one. Only its owner may read it.
	f, err := os.CreateTemp(filepath.Dir(cfg.Office.Operators), ".operators-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // not there any more when all went well
	_, err = f.Write(append([]byte("# Written by set-merchant operator.\n"), text...))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), cfg.Office.Operators)
}

func operatorCommand(file urfave.Flag) *urfave.Command {
	return &urfave.Command{
		Name: "operator", Usage: "say who may use the back office",
		Subcommands: []*urfave.Command{
			{
				Name: "add", Usage: "let somebody in, or give a new password", ArgsUsage: "NAME",
				Description: "A server that runs takes it up at once. The password has 12 to 72 octets and is stored hashed.\n\n" +
					"Example: set-merchant operator add --config merchant.yaml anna",
				Flags:  []urfave.Flag{file, &urfave.StringFlag{Name: "password-source", Value: "prompt:", Usage: "where the password is: `SOURCE` is file:PATH, env:NAME, cred:NAME or prompt:"}},
				Action: addOperator,
			},
			{
				Name: "remove", Usage: "let somebody in no more", ArgsUsage: "NAME",
				Description: "Who is logged in is out at once.\n\nExample: set-merchant operator remove --config merchant.yaml anna",
				Flags:       []urfave.Flag{file}, Action: removeOperator,
			},
			{
				Name: "list", Usage: "list who may use the back office",
				Description: "Example: set-merchant operator list --config merchant.yaml --json",
				Flags:       []urfave.Flag{file, jsonFlag()}, Action: listOperators,
			},
		},
	}
}

// officeConfiguration is the configuration for a command that changes or lists the operators.
func officeConfiguration(c *urfave.Context, arguments int) (*config, []web.Operator, error) {
	if c.NArg() != arguments {
		return nil, nil, cli.Usage(fmt.Errorf("want %d arguments: see --help", arguments))
	}
	cfg, err := configuration(c)
	if err != nil {
		return nil, nil, err
	}
	if cfg.Office.Operators == "" {
		return nil, nil, cli.Usage(fmt.Errorf("configuration %s: office.operators is missing", c.Path("config")))
	}
	operators, err := cfg.operators()
	return cfg, operators, err
}

func named(name string) func(web.Operator) bool {
	return func(o web.Operator) bool { return o.Name == name }
}

func addOperator(c *urfave.Context) error {
	cfg, operators, err := officeConfiguration(c, 1)
	if err != nil {
		return err
	}
	name := c.Args().First()
	password, err := cli.NewSecret(c.Context, c.String("password-source"), "Password of "+name, c.App.Reader, c.App.ErrWriter)
	if err != nil {
		return err
	}
	defer clear(password)
	operator, err := web.NewOperator(name, password)
	if err != nil {
		return cli.Usage(err)
	}
	operators = append(slices.DeleteFunc(operators, named(name)), operator)
	slices.SortFunc(operators, func(a, b web.Operator) int { return strings.Compare(a.Name, b.Name) })
	if err := cfg.saveOperators(operators); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s may use %s\n", name, cfg.Office.BaseURL)
	return err
}

func removeOperator(c *urfave.Context) error {
	cfg, operators, err := officeConfiguration(c, 1)
	if err != nil {
		return err
	}
	name := c.Args().First()
	if !slices.ContainsFunc(operators, named(name)) {
		return fmt.Errorf("there is no operator %q: see set-merchant operator list", name)
	}
	return cfg.saveOperators(slices.DeleteFunc(operators, named(name)))
}

func listOperators(c *urfave.Context) error {
	_, operators, err := officeConfiguration(c, 0)
	if err != nil {
		return err
	}
	names := []string{} // a list in JSON, too
	var rows [][]string
	for _, o := range operators {
		names = append(names, o.Name)
		rows = append(rows, []string{o.Name})
	}
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, names)
	}
	return cli.Table(c.App.Writer, []string{"OPERATOR"}, rows)
}
