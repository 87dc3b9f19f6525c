package main

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"

	urfave "github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/wallet"
	"github.com/setkit/setkit/smartcard/pcsc"
)

func enrollCommand() *urfave.Command {
	return &urfave.Command{
		Name:  "enroll",
		Usage: "get a certificate for a smart card from a cardholder CA",
		Description: "The card needs the keys that set-card personalise makes. A file of answers maps the names of\n" +
			"the CA's form fields to values, or to sources of secrets:\n\n" +
			"   Name: Ada Lovelace\n" +
			"   Registration secret: {source: file:/run/secret}\n\n" +
			"The bank's bundle, which set-wallet install takes, says where the CA is and what proves that it\n" +
			"is the right one. Developers say so themselves, with --ca, --root and --brand.\n\n" +
			"Example: set-wallet enroll --accept-policy",
		Flags: append([]urfave.Flag{
			&urfave.StringFlag{Name: "bank", Usage: "`BANK` whose card it is, where several have the brand"},
			&urfave.StringFlag{Name: "brand", Usage: "`BRAND` of the card, where the bank has several"},
			&urfave.StringFlag{Name: "ca", Usage: "`URL` of the cardholder CA, without a bundle"},
			&urfave.StringFlag{Name: "root", Usage: "`FILE` with the root certificate in PEM, which you got in a way that is safe in itself, without a bundle"},
			&urfave.StringFlag{Name: "pan-source", Value: "prompt:", Usage: "card number: `SOURCE` file:PATH, env:NAME, cred:NAME or prompt:"},
			&urfave.StringFlag{Name: "expiry-source", Value: "prompt:", Usage: "month in which the card expires, YYYYMM: `SOURCE`"},
			&urfave.StringFlag{Name: "answers", Usage: "`FILE` with the answers to the CA's form (default: ask)"},
			&urfave.BoolFlag{Name: "accept-policy", Usage: "accept the CA's policy, which is shown"},
			dirFlag(), jsonFlag(),
		}, cardFlags()...),
		Action: func(c *urfave.Context) error {
			if err := arguments(c); err != nil {
				return err
			}
			return enroll(c)
		},
	}
}

// formAnswer is a value, or where a secret one comes from.
type formAnswer struct{ value, source string }

// UnmarshalYAML reads a scalar or {source: ...}.
func (a *formAnswer) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		a.value = n.Value
		return nil
	}
	if n.Kind != yaml.MappingNode || len(n.Content) != 2 || n.Content[0].Value != "source" || n.Content[1].Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: want a value or {source: SOURCE}", n.Line)
	}
	a.source = n.Content[1].Value
	return nil
}

// enrolled is what --json prints.
type enrolled struct {
	Serial      string   `json:"serial"`
	Bank        string   `json:"bank,omitempty"`
	Brand       string   `json:"brand"`
	Card        string   `json:"card"`
	Certificate string   `json:"certificateSerial"`
	NotAfter    string   `json:"notAfter"`
	Message     string   `json:"message,omitempty"` // of the CA
	APDUs       *apdus   `json:"apdus"`
	Messages    messages `json:"messages"`
}

func enroll(c *urfave.Context) error {
	a := &applicant{terminal: newTerminal(c), acceptPolicy: c.Bool("accept-policy")}
	if file := c.String("answers"); file != "" {
		if err := cli.LoadConfig(file, &a.answers); err != nil {
			return cli.Usage(err)
		}
	}
	r, given, err := enrolmentFlags(c)
	if err != nil {
		return err
	}
	var sent messages
	w, err := openWallet(c, &sethttp.Client{Record: sent.record, Waiting: waiting(c)})
	if err != nil {
		return err
	}
	defer w.Close()
	if !given {
		if r, err = enrolmentOf(c, w); err != nil {
			return err
		}
		fmt.Fprintf(a.show, "%s: enrolling a card of brand %s at %s\n", r.Bank, r.Brand, r.CAURL)
	}
	reader, err := pcsc.Find(c.Context, c.String("reader"))
	if err != nil {
		return classified(err)
	}
	card, err := newFinder(c).connect(c.Context, reader.Name)
	if err != nil {
		return classified(err)
	}
	defer card.close()
	if err := card.use(c.Context, newPINEntry(c), "to enrol", nil, nil); err != nil {
		return classified(err)
	}
	defer func() { clear(r.PAN); clear(r.Expiry) }()
	if err := readAccount(c, &r); err != nil {
		return err
	}
	got, err := w.Enrol(c.Context, r, card, a)
	if err != nil {
		return classified(err)
	}
	out := enrolled{
		Serial: got.Serial, Bank: got.Bank, Brand: string(got.Brand), Card: got.Masked(), Certificate: got.Certificate.Serial(),
		NotAfter: date(got.Certificate.X509.NotAfter), Message: got.Message, APDUs: card.report(), Messages: sent,
	}
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, out)
	}
	fmt.Fprintf(c.App.Writer, "Smart card %s is enrolled for %s: certificate %s, valid until %s\n", out.Serial, cardName(out.Bank, out.Brand, out.Card), out.Certificate, out.NotAfter)
	if out.Message != "" {
		fmt.Fprintf(c.App.Writer, "The CA says: %s\n", out.Message)
	}
	return nil
}

// readAccount gets card number and expiry from their sources.
func readAccount(c *urfave.Context, r *wallet.Enrolment) error {
	pan, err := cli.Secret(c.Context, c.String("pan-source"), "Card number", c.App.Reader, c.App.ErrWriter)
	defer clear(pan)
	if err != nil {
		return fmt.Errorf("card number: %w", err)
	}
	if r.PAN, err = set.ParsePAN(bytes.ReplaceAll(pan, []byte(" "), nil)); err != nil {
		return err
	}
	expiry, err := cli.Secret(c.Context, c.String("expiry-source"), "Month in which the card expires (YYYYMM)", c.App.Reader, c.App.ErrWriter)
	defer clear(expiry)
	if err != nil {
		return fmt.Errorf("card expiry: %w", err)
	}
	r.Expiry, err = set.ParseCardExpiry(expiry)
	return err
}

// readRoot reads the one certificate of a PEM file.
func readRoot(name string) (*pki.Certificate, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("root certificate: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 2*pki.CertificateSizeMax))
	if err != nil {
		return nil, fmt.Errorf("root certificate: %w", err)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("root certificate %s: want one certificate in PEM", name)
	}
	root, err := pki.ParseCertificate(block.Bytes)
	if err == nil && root.Type != pki.RCA {
		err = errors.New("it is not a root certificate")
	}
	if err != nil {
		return nil, fmt.Errorf("root certificate %s: %w", name, err)
	}
	return root, nil
}
