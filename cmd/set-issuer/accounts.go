package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/cmd/internal/party"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/roles/issuer"
	"github.com/setkit/setkit/roles/set"
)

// open opens the issuer that the configuration describes. The caller calls close.
func (cfg *config) open(c *urfave.Context, log *slog.Logger) (i *issuer.Issuer, closeAll func() error, err error) {
	ring := keyring.New(c.App.Reader, c.App.ErrWriter)
	defer func() {
		if err != nil {
			err = errors.Join(err, ring.Close())
		}
	}()
	lookup, err := ring.MAC(c.Context, cfg.LookupKey)
	if err != nil {
		return nil, nil, withInit(err)
	}
	sealer, err := ring.Sealer(c.Context, cfg.SealKey)
	if err != nil {
		return nil, nil, withInit(err)
	}
	i, err = issuer.Open(c.Context, issuer.Config{
		Database: cfg.Database, Lookup: lookup, Sealer: sealer, HoldDays: cfg.HoldDays, Log: log,
	})
	if err != nil {
		return nil, nil, err
	}
	return i, func() error { return errors.Join(i.Close(), ring.Close()) }, nil
}

// withInit says what to do about a key that is not there.
func withInit(err error) error {
	if errors.Is(err, hsm.ErrNotFound) {
		return fmt.Errorf("%w: make the keys with set-issuer init", err)
	}
	return err
}

// with opens the issuer for one piece of work.
func with(c *urfave.Context, cfg *config, work func(ctx context.Context, i *issuer.Issuer) error) error {
	i, closeAll, err := cfg.open(c, cli.NewLogger(c.App.ErrWriter, slog.LevelWarn))
	if err != nil {
		return err
	}
	return errors.Join(work(c.Context, i), closeAll())
}

func initKeys(c *urfave.Context) (err error) {
	cfg, err := load(c)
	if err != nil {
		return err
	}
	ring := keyring.New(c.App.Reader, c.App.ErrWriter)
	defer func() { err = errors.Join(err, ring.Close()) }()
	if err := party.EnsureKey(c.Context, ring, cfg.LookupKey, hsm.PurposeMAC, hsm.HMACSHA256); err != nil {
		return fmt.Errorf("lookup-key: %w", err)
	}
	if err := party.EnsureKey(c.Context, ring, cfg.SealKey, hsm.PurposeSeal, hsm.AES256); err != nil {
		return fmt.Errorf("seal-key: %w", err)
	}
	if w := cfg.Wallet; w != nil {
		if err := party.EnsureKey(c.Context, ring, w.SignKey, hsm.PurposeSign, hsm.ECP256); err != nil {
			return fmt.Errorf("wallet.sign-key: %w", err)
		}
		if _, _, err := w.keys(c.Context, ring); err != nil {
			return err
		}
	}
	// A key of the right name and the wrong kind is told now, and not by serve.
	if _, err := ring.MAC(c.Context, cfg.LookupKey); err != nil {
		return fmt.Errorf("lookup-key: %w", err)
	}
	if _, err := ring.Sealer(c.Context, cfg.SealKey); err != nil {
		return fmt.Errorf("seal-key: %w", err)
	}
	fmt.Fprintln(c.App.Writer, "the token has the keys")
	return nil
}

func importAccounts(c *urfave.Context) error {
	cfg, err := load(c, "FILE")
	if err != nil {
		return err
	}
	path := c.Args().First()
	f, err := os.Open(path)
	if err != nil {
		return cli.Usage(err)
	}
	defer f.Close()
	list, err := issuer.ReadAccounts(f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return with(c, cfg, func(ctx context.Context, i *issuer.Issuer) error {
		added, err := i.Import(ctx, list)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		fmt.Fprintf(c.App.Writer, "added %d accounts, %d were there\n", added, len(list)-added)
		return nil
	})
}

// accountLine is an account in the JSON list. Amounts are decimal numbers in units of the currency.
type accountLine struct {
	ID           string `json:"id"`
	Holder       string `json:"holder"`
	PAN          string `json:"pan"` // masked
	Status       string `json:"status"`
	Currency     string `json:"currency"`
	Available    string `json:"available"`
	Held         string `json:"held"`
	Booked       string `json:"booked"`
	ChecksFailed int    `json:"checksFailed"`
}

func accounts(c *urfave.Context) error {
	cfg, err := load(c)
	if err != nil {
		return err
	}
	return with(c, cfg, func(ctx context.Context, i *issuer.Issuer) error {
		list, err := i.Accounts(ctx)
		if err != nil {
			return err
		}
		lines, rows := []accountLine{}, [][]string{}
		for _, a := range list {
			l := accountLine{
				a.ID, a.Holder, a.PAN, string(a.Status), a.Available.Currency.String(),
				number(a.Available), number(a.Held), number(a.Booked), a.ChecksFailed,
			}
			lines = append(lines, l)
			rows = append(rows, []string{
				l.ID, l.Holder, l.PAN, l.Status, l.Currency, l.Available, l.Held, l.Booked, strconv.Itoa(l.ChecksFailed),
			})
		}
		if c.Bool("json") {
			return cli.PrintJSON(c.App.Writer, lines)
		}
		header := []string{"ID", "HOLDER", "CARD", "STATUS", "CURRENCY", "AVAILABLE", "HELD", "BOOKED", "FAILED CHECKS"}
		return cli.Table(c.App.Writer, header, rows)
	})
}

// number is an amount without its currency.
func number(a set.CurrencyAmount) string {
	n, _, _ := strings.Cut(a.String(), " ")
	return n
}

func unlock(c *urfave.Context) error {
	cfg, err := load(c, "ID")
	if err != nil {
		return err
	}
	return with(c, cfg, func(ctx context.Context, i *issuer.Issuer) error {
		return i.ResetChecks(ctx, c.Args().First())
	})
}
