package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/smartcard/piv"
)

func personaliseCommand() *urfave.Command {
	return &urfave.Command{
		Name:  "personalise",
		Usage: "make a factory-fresh card ready for a cardholder",
		Description: "Generates the keys on the card (9c signs, with the PIN at every use; 9d unlocks), stores\n" +
			"placeholder certificates, a CHUID and a CCC, and replaces PIN, PUK and management key.\n\n" +
			"The management key is derived from the issuer's card master key and the card's serial number,\n" +
			"or given, or random. Random secrets are told once, before the card gets them: in a file, sealed\n" +
			"for --secrets-recipient, or in letters to print.\n\n" +
			"A card that was pulled half-way is continued with --resume. What was told of its PIN and PUK\n" +
			"then is void, unless the command says that the card is complete.\n\n" +
			"Example: set-card personalise --pin-source prompt: --secrets-file card-secrets\n" +
			"         set-card personalise --master-key 'pkcs11:token=issuer;object=card-master?pin-source=prompt:' \\\n" +
			"           --attestation-root maker.pem --name 'Alice Andersen' --mailer - | lp",
		Flags: slices.Concat([]urfave.Flag{
			readerFlag(),
			&urfave.StringFlag{Name: "name", Usage: "`NAME` of the cardholder, for the letters"},
			&urfave.BoolFlag{Name: "resume", Usage: "continue with a card that was interrupted"},
			&urfave.BoolFlag{Name: "force", Usage: "reset a card that is in use already; its keys are lost"},
			jsonFlag(),
		}, issuanceFlags(), managementKeyFlags(), secretFlags(),
			deliveryFlags(&urfave.StringFlag{Name: "secrets-file", Usage: "`FILE` to be made, with the secrets that are random; readable by its owner only"})),
		Action: func(c *urfave.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			return classified(personalise(c))
		},
	}
}

// issuanceFlags are those of one card and of many.
func issuanceFlags() []urfave.Flag {
	return []urfave.Flag{
		&urfave.StringFlag{Name: "signature-key", Value: piv.ECDSAP256.String(), Usage: "`ALGORITHM` of the key in slot 9c"},
		&urfave.StringFlag{Name: "key-management-key", Value: piv.RSA2048.String(), Usage: "`ALGORITHM` of the key in slot 9d"},
		&urfave.StringFlag{Name: "attestation-root", Usage: "refuse cards whose maker, by a certificate in this PEM `FILE`, doesn't vouch for their keys"},
		&urfave.StringFlag{Name: "without-attestation", Usage: "with --production: the `REASON` why no maker vouches for the cards"},
		productionFlag(),
	}
}

// An issuance is what the cards of a run have in common.
type issuance struct {
	signature, unlocking piv.Algorithm
	makers               *x509.CertPool // nil: attestations are not checked
	unattested           string         // why not
	keys                 *managementKeys
	sources              secretSources
	delivery             *delivery
	progress             io.Writer
}

// openIssuance reads the flags, and what they refer to. The caller closes it.
func openIssuance(c *urfave.Context) (*issuance, error) {
	i := &issuance{progress: c.App.Writer, unattested: c.String("without-attestation")}
	if c.Bool("json") || c.String("mailer") == "-" {
		i.progress = c.App.ErrWriter
	}
	var err error
	if i.signature, err = piv.ParseAlgorithm(c.String("signature-key")); err != nil {
		return nil, cli.Usage(err)
	}
	if i.unlocking, err = piv.ParseAlgorithm(c.String("key-management-key")); err != nil {
		return nil, cli.Usage(err)
	}
	if i.delivery, err = parseDelivery(c); err != nil {
		return nil, err
	}
	if err := checkProduction(c, i.delivery); err != nil {
		return nil, cli.Usage(err)
	}
	if i.makers, err = readMakers(c.String("attestation-root")); err != nil {
		return nil, err
	}
	if i.sources, err = readSecretSources(c); err != nil {
		return nil, err
	}
	if i.keys, err = openManagementKeys(c); err != nil {
		i.sources.clear()
		return nil, err
	}
	if err := i.delivery.check(i.keys, i.sources); err != nil {
		i.close()
		return nil, cli.Usage(err)
	}
	return i, nil
}

func (i *issuance) close() error {
	i.keys.close()
	i.sources.clear()
	return i.delivery.finish()
}

// readMakers reads the certificates of the CAs that vouch for cards.
func readMakers(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--attestation-root: %w", err)
	}
	makers := x509.NewCertPool()
	found := false
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("--attestation-root %s: %w", path, err)
		}
		makers.AddCert(cert)
		found = true
	}
	if !found {
		return nil, fmt.Errorf("--attestation-root %s: no certificate in PEM", path)
	}
	return makers, nil
}

// result is what --json prints.
type result struct {
	Reader string `json:"reader"`
	outcome
	Card *cardStatus `json:"card"`
}

func personalise(c *urfave.Context) (err error) {
	if c.Bool("resume") && c.Bool("force") {
		return cli.Usage(errors.New("--resume and --force exclude each other"))
	}
	i, err := openIssuance(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.close()) }()
	if !c.Bool("resume") {
		if err := i.delivery.free(); err != nil {
			return err
		}
	}
	connection, err := openCard(c.Context, c.String("reader"))
	if err != nil {
		return err
	}
	defer connection.Close()
	p := i.personaliser(piv.New(connection, piv.Options{}), holder{Name: c.String("name")})
	p.resume, p.force = c.Bool("resume"), c.Bool("force")
	if err := p.run(c.Context); err != nil {
		return p.explain(err)
	}
	out := result{Reader: connection.Reader(), outcome: p.outcome}
	if out.Card, err = inspectCard(c.Context, p.card); err != nil {
		return err
	}
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, out)
	}
	fmt.Fprintf(i.progress, "card %s is personalised\n", p.serial)
	return nil
}

// explain adds the way out to an error that has left a card half-way.
func (p *personaliser) explain(err error) error {
	if errors.Is(err, errInUse) {
		return fmt.Errorf("%w: --resume continues with one that was interrupted; --force resets it, and its keys are lost", err)
	}
	if !p.begun || errors.Is(err, errNotAttested) {
		return err
	}
	return fmt.Errorf("%w; the card is half-way: --resume continues with it, --force resets it and starts again", err)
}

func (i *issuance) personaliser(card *piv.Card, to holder) *personaliser {
	return &personaliser{issuance: i, card: card, holder: to, wrote: func(string, string) error { return nil }}
}
