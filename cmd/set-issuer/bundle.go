package main

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/cmd/internal/party"
	"github.com/setkit/setkit/roles/issuer"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/bundle"
	"github.com/setkit/setkit/roles/set/pki"
)

const (
	bundleDaysMax  = 1100
	bundleFileMode = 0o644
	imageOctetsMax = 4 << 20 // of a file that a logo is made of
)

func walletBundleCommand(config urfave.Flag) *urfave.Command {
	return &urfave.Command{
		Name:  "wallet-bundle",
		Usage: "sign the bank's next wallet bundle, and give it out",
		Description: "The section wallet of the configuration says what is in it. A server that runs gives it out from\n" +
			"then on, at " + issuer.BundlePath + "; --out writes the same file for a USB stick. The letter to the cardholders\n" +
			"must have the fingerprint that is shown, which stays the same as long as the key does.\n\n" +
			"Example: set-issuer wallet-bundle --config issuer.yaml --out /media/stick/bank" + bundle.Extension,
		Flags: []urfave.Flag{
			config,
			&urfave.PathFlag{Name: "out", Usage: "write the bundle to `FILE` too, which must not exist"},
			&urfave.BoolFlag{Name: "json", Usage: "print JSON"},
		},
		Action: walletBundle,
	}
}

// walletConfig is the section wallet: what the bank's wallet bundles say.
type walletConfig struct {
	SignKey         string          `yaml:"sign-key"`          // PKCS#11 URI
	PreviousSignKey string          `yaml:"previous-sign-key"` // PKCS#11 URI
	ValidityDays    int             `yaml:"validity-days"`
	Bank            set.Text50      `yaml:"bank"`
	Logo            string          `yaml:"logo"` // PNG file
	Brands          []brandConfig   `yaml:"brands"`
	Root            string          `yaml:"root"` // PEM file
	Policies        []policyConfig  `yaml:"policies"`
	Programs        []programConfig `yaml:"programs"`
}

type brandConfig struct {
	Brand set.BrandID `yaml:"brand"`
	CA    set.URL     `yaml:"ca"`
	Logo  string      `yaml:"logo"` // PNG file
}

type policyConfig struct {
	Language set.Language   `yaml:"language"`
	Text     set.PolicyText `yaml:"text"`
}

type programConfig struct {
	Platform bundle.Platform `yaml:"platform"`
	Version  set.Text50      `yaml:"version"`
	File     string          `yaml:"file"`
}

// bundleMade is what --json prints.
type bundleMade struct {
	Bank        string     `json:"bank"`
	Sequence    int64      `json:"sequence"`
	Fingerprint pki.Digest `json:"fingerprint"` // of the signer
	RootKeyHash pki.Digest `json:"rootKeyHash"`
	NotBefore   time.Time  `json:"notBefore"`
	NotAfter    time.Time  `json:"notAfter"`
	Octets      int        `json:"octets"`
	File        string     `json:"file,omitempty"`
}

func walletBundle(c *urfave.Context) error {
	cfg, err := load(c)
	if err != nil {
		return err
	}
	if cfg.Wallet == nil {
		return cli.Usage(fmt.Errorf("configuration %s: wallet is missing: it says what is in a wallet bundle", c.Path("config")))
	}
	content, root, err := cfg.Wallet.content()
	if err != nil {
		return cli.Usage(fmt.Errorf("configuration %s: wallet: %w", c.Path("config"), err))
	}
	ring := keyring.New(c.App.Reader, c.App.ErrWriter)
	made, err := cfg.makeBundle(c, ring, content, root)
	if err = errors.Join(err, ring.Close()); err != nil {
		return err
	}
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, made)
	}
	out := c.App.Writer
	fmt.Fprintf(out, "Wallet bundle %d of %s is signed and given out: %d octets, valid until %s\n",
		made.Sequence, made.Bank, made.Octets, made.NotAfter.Format(time.RFC3339))
	if made.File != "" {
		fmt.Fprintf(out, "written to %s\n", made.File)
	}
	fmt.Fprintf(out, "fingerprint for the letter to the cardholders: %s\n", cli.Grouped(made.Fingerprint.String()))
	return nil
}

// makeBundle signs the bundle and writes it where it was asked for.
func (cfg *config) makeBundle(c *urfave.Context, ring *keyring.Ring, content bundle.Bundle, root *pki.Certificate) (m *bundleMade, err error) {
	key, previous, err := cfg.Wallet.keys(c.Context, ring)
	if err != nil {
		return nil, withInit(err)
	}
	path := c.Path("out")
	var file *os.File
	if path != "" { // before a sequence number is used up
		if file, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, bundleFileMode); err != nil {
			return nil, cli.Usage(err)
		}
		defer func() {
			err = errors.Join(err, file.Close())
			if err != nil {
				err = errors.Join(err, os.Remove(path))
			}
		}()
	}
	i, closeAll, err := cfg.open(c, cli.NewLogger(c.App.ErrWriter, slog.LevelWarn))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	s, err := i.MakeBundle(c.Context, content, time.Duration(cfg.Wallet.ValidityDays)*24*time.Hour, root, key, previous)
	if err != nil {
		return nil, err
	}
	if file != nil {
		if _, err := file.Write(s.Raw); err != nil {
			return nil, fmt.Errorf("wallet bundle %d is given out, but cannot be written: %w", s.Sequence, err)
		}
	}
	return &bundleMade{
		Bank: string(s.Bank.Name), Sequence: int64(s.Sequence), Fingerprint: s.Signer, RootKeyHash: s.RootKeyHash,
		NotBefore: s.NotBefore, NotAfter: s.NotAfter, Octets: len(s.Raw), File: path,
	}, nil
}

// keys opens the signing key, and the previous one if there is any.
func (w *walletConfig) keys(ctx context.Context, ring *keyring.Ring) (key, previous crypto.Signer, err error) {
	if key, err = ring.Signer(ctx, w.SignKey); err != nil {
		return nil, nil, fmt.Errorf("wallet.sign-key: %w", err)
	}
	if w.PreviousSignKey == "" {
		return key, nil, nil
	}
	if previous, err = ring.Signer(ctx, w.PreviousSignKey); err != nil {
		return nil, nil, fmt.Errorf("wallet.previous-sign-key: %w", err)
	}
	return key, previous, nil
}

// content reads what a bundle is made of.
func (w *walletConfig) content() (b bundle.Bundle, root *pki.Certificate, err error) {
	if w.ValidityDays < 1 || w.ValidityDays > bundleDaysMax {
		return b, nil, fmt.Errorf("validity-days: %d is not 1 to %d", w.ValidityDays, bundleDaysMax)
	}
	roots, err := party.ReadCertificates(w.Root)
	if err != nil {
		return b, nil, fmt.Errorf("root: %w", err)
	}
	if len(roots) != 1 {
		return b, nil, fmt.Errorf("root: %s has %d certificates, want one", w.Root, len(roots))
	}
	b.Bank.Name = w.Bank
	if b.Bank.Logo, err = readLogo(w.Logo); err != nil {
		return b, nil, err
	}
	for _, br := range w.Brands {
		logo, err := readLogo(br.Logo)
		if err != nil {
			return b, nil, err
		}
		b.Brands = append(b.Brands, bundle.Brand{ID: br.Brand, CA: br.CA, Logo: logo})
	}
	for _, p := range w.Policies {
		b.Policies = append(b.Policies, bundle.Policy{Language: p.Language, Text: p.Text})
	}
	for _, p := range w.Programs {
		digest, err := digestFile(p.File)
		if err != nil {
			return b, nil, fmt.Errorf("program for %s: %w", p.Platform, err)
		}
		b.Programs = append(b.Programs, bundle.Program{Platform: p.Platform, Version: p.Version, Digest: digest})
	}
	return b, roots[0], nil
}

func readLogo(path string) (bundle.Logo, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("logo: %w", err)
	}
	defer f.Close()
	image, err := io.ReadAll(io.LimitReader(f, imageOctetsMax))
	if err != nil {
		return nil, fmt.Errorf("logo: %w", err)
	}
	logo, err := bundle.NewLogo(image)
	if err != nil {
		return nil, fmt.Errorf("logo %s: %w", path, err)
	}
	return logo, nil
}

func digestFile(path string) (d pki.Digest, err error) {
	f, err := os.Open(path)
	if err != nil {
		return d, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return d, err
	}
	return pki.Digest(h.Sum(nil)), nil
}
