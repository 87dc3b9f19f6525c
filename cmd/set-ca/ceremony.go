package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/roles/ca/ceremony"
)

func ceremonyCommand() *urfave.Command {
	return &urfave.Command{
		Name:  "ceremony",
		Usage: "make the keys and certificates of root, brand, cardholder, merchant and payment CA",
		Description: "The tokens must be there: set-hsm init makes them.\n\n" +
			"Example: set-ca ceremony --config ceremony.yaml --dry-run",
		Flags: []urfave.Flag{
			&urfave.PathFlag{Name: "config", Required: true, Usage: "the reviewed `FILE` that describes the ceremony"},
			&urfave.BoolFlag{Name: "dry-run", Usage: "check the file only: no token is opened, nothing is written"},
			&urfave.BoolFlag{Name: "json", Usage: "print a summary as JSON, and the steps on the standard error"},
		},
		Action: holdCeremony,
	}
}

func holdCeremony(c *urfave.Context) error {
	if c.Args().Present() {
		return cli.Usage(fmt.Errorf("unexpected argument %q", c.Args().First()))
	}
	path := c.Path("config")
	var spec ceremony.Spec
	if err := cli.LoadConfig(path, &spec); err != nil {
		return cli.Usage(err)
	}
	if c.Bool("dry-run") {
		if err := ceremony.Check(&spec, time.Now()); err != nil {
			return cli.Usage(fmt.Errorf("%s: %w", path, err))
		}
		if c.Bool("json") {
			return cli.PrintJSON(c.App.Writer, map[string]any{"ceremony": spec.Name, "ok": true})
		}
		_, err := fmt.Fprintf(c.App.Writer, "%s: the file is in order; nothing was made\n", path)
		return err
	}
	source, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	keys := cli.NewKeyring(c.App.Reader, c.App.ErrWriter)
	defer keys.Close()
	var notice io.Writer = c.App.Writer
	if c.Bool("json") {
		notice = c.App.ErrWriter
	}
	summary, err := ceremony.Run(c.Context, &spec, ceremony.Room{
		Open: func(ctx context.Context, uri string) (ceremony.Token, error) {
			t, err := keys.Token(ctx, uri)
			return token{t}, err
		},
		Notice: notice, Now: time.Now, Source: source,
	})
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, summary)
	}
	return nil
}

// token is an HSM token as the ceremony wants it. The keyring closes it.
type token struct{ *hsm.Token }

func (t token) Serial() string { return t.Info().Serial }
func (t token) Close() error   { return nil }

func (t token) Labels(ctx context.Context) ([]string, error) {
	keys, err := t.Keys(ctx)
	labels := make([]string, len(keys))
	for i, k := range keys {
		labels[i] = k.Label
	}
	return labels, err
}

func (t token) Generate(ctx context.Context, label string, purpose ceremony.Purpose, typ ceremony.KeyType) error {
	_, err := t.GenerateKey(ctx, label, hsm.Purpose(purpose), hsm.KeyType(typ))
	return err
}
