package main

import (
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/cmd/internal/party"
	"github.com/setkit/setkit/roles/ca"
	"github.com/setkit/setkit/roles/set/pki"
)

// signer is a list signer of the configuration with its certificate.
type signer struct {
	listSigner
	cert *pki.Certificate
}

func (cfg *config) signers() (out []signer, err error) {
	for _, s := range cfg.Signers {
		if s.Name == "" || s.Name != filepath.Base(s.Name) || s.ValidityDays < 1 {
			return nil, cli.Usage(fmt.Errorf("list-signers: %q: want a name that may be a file's, and validity-days of at least 1", s.Name))
		}
		if slices.ContainsFunc(out, func(o signer) bool { return o.Name == s.Name }) {
			return nil, cli.Usage(fmt.Errorf("list-signers: %s twice", s.Name))
		}
		cert, err := readOne(s.Certificate)
		if err != nil {
			return nil, err
		}
		out = append(out, signer{s, cert})
	}
	if len(out) == 0 {
		return nil, cli.Usage(errors.New("list-signers is missing in the configuration: it says who signs revocation lists"))
	}
	return out, nil
}

// named finds a signer.
func named(list []signer, name string) (*signer, error) {
	var names []string
	for i, s := range list {
		if s.Name == name {
			return &list[i], nil
		}
		names = append(names, s.Name)
	}
	return nil, cli.Usage(fmt.Errorf("no list signer %q: the configuration has %s", name, strings.Join(names, ", ")))
}

// of finds the signer that issued what has this authority key identifier; nil if it is not configured.
func of(list []signer, keyID []byte) *signer {
	i := slices.IndexFunc(list, func(s signer) bool { return string(s.cert.X509.SubjectKeyId) == string(keyID) })
	if i < 0 {
		return nil
	}
	return &list[i]
}

// brand finds the brand CA.
func brand(list []signer) (*signer, error) {
	i := slices.IndexFunc(list, func(s signer) bool { return s.cert.Type.Has(pki.BCA) })
	if i < 0 {
		return nil, cli.Usage(errors.New("list-signers has no brand CA, which signs the BrandCRLIdentifier"))
	}
	return &list[i], nil
}

// open opens the signer's key.
func (s *signer) open(c *urfave.Context, ring *keyring.Ring) (ca.ListSigner, error) {
	if s.Key == "" {
		return ca.ListSigner{}, fmt.Errorf("list signer %s: its key is not in the configuration: have a ceremony sign, and import that", s.Name)
	}
	key, err := ring.Signer(c.Context, s.Key)
	return ca.ListSigner{Certificate: s.cert, Key: key, Life: time.Duration(s.ValidityDays) * 24 * time.Hour}, err
}

// lists is what the commands on revocation lists work with.
type lists struct {
	op      *ca.Operator
	signers []signer
	known   pki.Store // what the trust files have
}

func withLists(c *urfave.Context, cfg *config, work func(*lists) error) error {
	signers, err := cfg.signers()
	if err != nil {
		return err
	}
	verifier, err := cfg.Trust.Verifier()
	if err != nil {
		return err
	}
	return operate(c, cfg, func(op *ca.Operator) error { return work(&lists{op, signers, verifier.Store()}) })
}

func revokeCommand() *urfave.Command {
	return &urfave.Command{
		Name: "revoke", Usage: "revoke a certificate", ArgsUsage: "SERIAL",
		Description: "SERIAL is as set-ca list shows it, or of a CA's certificate that the configuration names. A gateway's and\n" +
			"a CA's certificate is refused by all who have the next CRL of its issuer and the BrandCRLIdentifier that\n" +
			"names it: issue both afterwards. No CRL lists cardholders and merchants: their certificates are only not\n" +
			"renewed, and the card is to be blocked by its issuer, the merchant by its acquirer. The two certificates of\n" +
			"a merchant or gateway are revoked one by one.\n\n" +
			"Reasons: " + strings.Join(ca.Reasons, ", ") + "\n\n" +
			"Example: set-ca revoke --config ca.yaml --reason keyCompromise 5ac04be19f",
		Flags: []urfave.Flag{
			configFlag(), &urfave.StringFlag{Name: "reason", Required: true, Usage: "`REASON`, one of those above"}, jsonFlag(),
		},
		Action: revoke,
	}
}

func revoke(c *urfave.Context) error {
	cfg, serial, err := loadWith(c, "a serial number")
	if err != nil {
		return err
	}
	if !slices.Contains(ca.Reasons, c.String("reason")) {
		return cli.Usage(fmt.Errorf("--reason %q: want one of %s", c.String("reason"), strings.Join(ca.Reasons, ", ")))
	}
	return withLists(c, cfg, func(l *lists) error {
		cert, err := cfg.find(c, l, strings.ToLower(strings.ReplaceAll(serial, ":", "")))
		if err != nil {
			return err
		}
		if err := l.op.Revoke(c.Context, cert, c.String("reason")); err != nil {
			return err
		}
		next := nextSteps(c.Path("config"), l.signers, cert)
		if c.Bool("json") {
			return cli.PrintJSON(c.App.Writer, map[string]any{
				"serial": cert.Serial(), "certificate": cert.String(), "reason": c.String("reason"), "listed": ca.Listed(cert), "next": next,
			})
		}
		_, err = fmt.Fprintf(c.App.Writer, "revoked: %v (%s)\n%s\n", cert, c.String("reason"), strings.Join(next, "\n"))
		return err
	})
}

// nextSteps tells what makes a revocation known.
func nextSteps(config string, signers []signer, cert *pki.Certificate) []string {
	switch {
	case cert.Type.Has(pki.Card):
		return []string{"no CRL lists cardholders: have the card's issuer block the card"}
	case cert.Type.Has(pki.Mer):
		return []string{"no CRL lists merchants: have the acquirer stop the merchant"}
	}
	issuer := "ITS-ISSUER"
	if s := of(signers, cert.X509.AuthorityKeyId); s != nil {
		issuer = s.Name
	}
	next := []string{"now issue the lists that tell it:", "  set-ca crl issue --config " + config + " --signer " + issuer}
	if cert.Type.Has(pki.BCA) {
		return next
	}
	return append(next, "  set-ca bci issue --config "+config)
}

// find gives the certificate with a serial number: one that this CA has issued, or one of a CA.
func (cfg *config) find(c *urfave.Context, l *lists, serial string) (*pki.Certificate, error) {
	cert, err := ca.FindIssued(c.Context, l.op.DB, serial)
	if cert != nil || err != nil {
		return cert, err
	}
	paths := slices.Clone(cfg.Chain)
	for _, a := range []*authority{&cfg.Cardholder.authority, &cfg.Merchant.authority, &cfg.Payment.authority} {
		paths = append(paths, a.CertSign.Certificate, a.Sign.Certificate, a.Exchange.Certificate)
	}
	for _, s := range l.signers {
		paths = append(paths, s.Certificate)
	}
	for _, path := range paths {
		certs, err := party.ReadCertificates(path)
		if err != nil {
			return nil, err
		}
		for _, cert := range certs {
			if cert.Serial() == serial {
				return cert, nil
			}
		}
	}
	return nil, fmt.Errorf("no certificate has the serial number %s: set-ca list shows those that were issued", serial)
}

func crlCommand() *urfave.Command {
	signerFlag := &urfave.StringFlag{Name: "signer", Required: true, Usage: "`NAME` of one of the list-signers of the configuration"}
	return &urfave.Command{
		Name: "crl", Usage: "issue and show certificate revocation lists",
		Description: "Root, brand CA, geopolitical CA and payment CA each have a CRL. All but the root's are in use once the\n" +
			"BrandCRLIdentifier names them: set-ca bci issue. The server sends both to whoever does not have them.\n\n" +
			"Example: set-ca crl issue --config ca.yaml --signer pca\n" +
			"         set-ca crl show --config ca.yaml",
		Subcommands: []*urfave.Command{
			{
				Name: "issue", Usage: "sign the next CRL of a CA",
				Description: "Example: set-ca crl issue --config ca.yaml --signer pca",
				Flags:       []urfave.Flag{configFlag(), signerFlag, jsonFlag()}, Action: issueCRL,
			},
			{
				Name: "import", Usage: "take a CRL that a ceremony has signed with a key that is not at hand here", ArgsUsage: "FILE",
				Description: "Example: set-ca crl import --config ca.yaml root-2.crl",
				Flags:       []urfave.Flag{configFlag(), jsonFlag()}, Action: importCRL,
			},
			{
				Name: "publish", Usage: "write the lists that are in use into files",
				Description: "Writes NAME.crl, in PEM, for each of the list-signers, and NAME.bci of the brand CA: for parties that take\n" +
					"them from files, and for whoever wants to look. The server needs no files.\n\n" +
					"Example: set-ca crl publish --config ca.yaml --dir /srv/lists",
				Flags: []urfave.Flag{configFlag(), &urfave.PathFlag{Name: "dir", Required: true, Usage: "`DIRECTORY`, which is there"}, jsonFlag()}, Action: publish,
			},
			{
				Name: "show", Usage: "show the newest CRL of each CA, and what it revokes",
				Description: "Example: set-ca crl show --config ca.yaml --json",
				Flags:       []urfave.Flag{configFlag(), jsonFlag()}, Action: showCRLs,
			},
		},
	}
}

func bciCommand() *urfave.Command {
	return &urfave.Command{
		Name: "bci", Usage: "issue and show the BrandCRLIdentifier",
		Description: "The BrandCRLIdentifier says which CRLs of the brand are current. Parties refuse certificates when it is out\n" +
			"of date, and never go back to an older one.\n\n" +
			"Example: set-ca bci issue --config ca.yaml\n" +
			"         set-ca bci show --config ca.yaml",
		Subcommands: []*urfave.Command{
			{
				Name: "issue", Usage: "sign the next BrandCRLIdentifier, which names the newest CRLs",
				Description: "Example: set-ca bci issue --config ca.yaml",
				Flags:       []urfave.Flag{configFlag(), jsonFlag()}, Action: issueBCI,
			},
			{
				Name: "import", Usage: "take a BrandCRLIdentifier that a ceremony has signed", ArgsUsage: "FILE",
				Description: "Example: set-ca bci import --config ca.yaml brand-2.bci",
				Flags:       []urfave.Flag{configFlag(), jsonFlag()}, Action: importBCI,
			},
			{
				Name: "show", Usage: "show the BrandCRLIdentifier, and the CRLs that it names",
				Description: "Example: set-ca bci show --config ca.yaml --json",
				Flags:       []urfave.Flag{configFlag(), jsonFlag()}, Action: showBCI,
			},
		},
	}
}

// signing runs work with the lists and the key of a signer.
func signing(c *urfave.Context, choose func([]signer) (*signer, error), work func(*lists, ca.ListSigner) error) (err error) {
	cfg, err := load(c)
	if err != nil {
		return err
	}
	ring := keyring.New(c.App.Reader, c.App.ErrWriter)
	defer func() { err = errors.Join(err, ring.Close()) }()
	return withLists(c, cfg, func(l *lists) error {
		s, err := choose(l.signers)
		if err != nil {
			return err
		}
		with, err := s.open(c, ring)
		if err != nil {
			return err
		}
		return work(l, with)
	})
}

func issueCRL(c *urfave.Context) error {
	choose := func(list []signer) (*signer, error) { return named(list, c.String("signer")) }
	return signing(c, choose, func(l *lists, with ca.ListSigner) error {
		crl, err := l.op.IssueCRL(c.Context, with, l.known)
		if err != nil {
			return err
		}
		return l.printCRL(c, crl)
	})
}

func issueBCI(c *urfave.Context) error {
	return signing(c, brand, func(l *lists, with ca.ListSigner) error {
		bci, err := l.op.IssueBCI(c.Context, with, l.known)
		if err != nil {
			return err
		}
		return l.printBCI(c, bci)
	})
}

func importCRL(c *urfave.Context) error {
	cfg, path, err := loadWith(c, "a file")
	if err != nil {
		return err
	}
	text, err := readFile(path)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "X509 CRL" {
		return fmt.Errorf("%s: want a PEM block \"X509 CRL\"", path)
	}
	crl, err := pki.ParseCRL(block.Bytes)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return withLists(c, cfg, func(l *lists) error {
		s := of(l.signers, crl.X509.AuthorityKeyId)
		if s == nil {
			return fmt.Errorf("%s: its issuer is none of the list-signers", path)
		}
		if err := l.op.ImportCRL(c.Context, crl, s.cert); err != nil {
			return err
		}
		return l.printCRL(c, crl)
	})
}

func importBCI(c *urfave.Context) error {
	cfg, path, err := loadWith(c, "a file")
	if err != nil {
		return err
	}
	raw, err := readFile(path)
	if err != nil {
		return err
	}
	bci, err := pki.ParseBCI(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return withLists(c, cfg, func(l *lists) error {
		s, err := brand(l.signers)
		if err != nil {
			return err
		}
		if err := l.op.ImportBCI(c.Context, bci, s.cert); err != nil {
			return err
		}
		return l.printBCI(c, bci)
	})
}

func publish(c *urfave.Context) error {
	cfg, err := load(c)
	if err != nil {
		return err
	}
	return withLists(c, cfg, func(l *lists) error {
		bci, err := l.current(c)
		if err != nil {
			return err
		}
		store, err := l.op.Lists(c.Context, l.known)
		if err != nil {
			return err
		}
		files := make(map[string][]byte)
		for _, crl := range store.CRLs {
			s := of(l.signers, crl.X509.AuthorityKeyId)
			if s == nil {
				continue
			}
			newest := slices.Contains(l.newest(store), crl)
			if shown := l.describe(crl, store); shown.InUse && (newest || !s.cert.Type.Has(pki.RCA)) {
				files[s.Name+".crl"] = pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: crl.X509.Raw})
			}
		}
		s, err := brand(l.signers)
		if err != nil {
			return err
		}
		files[s.Name+".bci"] = bci.Raw
		written := []string{}
		for name, b := range files {
			path := filepath.Join(c.Path("dir"), name)
			if err := replaceFile(path, b); err != nil {
				return err
			}
			written = append(written, path)
		}
		slices.Sort(written)
		if c.Bool("json") {
			return cli.PrintJSON(c.App.Writer, map[string]any{"files": written})
		}
		_, err = fmt.Fprintln(c.App.Writer, strings.Join(written, "\n"))
		return err
	})
}

// replaceFile writes a file that readers see old or new, and never half.
func replaceFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
