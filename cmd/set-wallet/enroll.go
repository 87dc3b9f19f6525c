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
			"Where somebody at the CA has to approve the request, or no answer came, --continue asks later what\n" +
			"became of it. A certificate is renewed for a new smart card, which the old one confirms: both are then\n" +
			"in readers, and --renew-from names the old one's.\n\n" +
			"Example: set-wallet enroll --accept-policy\n" +
			"         set-wallet enroll --continue\n" +
			"         set-wallet enroll --renew-from \"Reader 2\" --reader \"Reader 1\"",
		Flags: append([]urfave.Flag{
			&urfave.StringFlag{Name: "bank", Usage: "`BANK` whose card it is, where several have the brand"},
			&urfave.StringFlag{Name: "brand", Usage: "`BRAND` of the card, where the bank has several"},
			&urfave.StringFlag{Name: "ca", Usage: "`URL` of the cardholder CA, without a bundle"},
			&urfave.StringFlag{Name: "root", Usage: "`FILE` with the root certificate in PEM, which you got in a way that is safe in itself, without a bundle"},
			&urfave.StringFlag{Name: "pan-source", Value: "prompt:", Usage: "card number: `SOURCE` file:PATH, env:NAME, cred:NAME or prompt:"},
			&urfave.StringFlag{Name: "expiry-source", Value: "prompt:", Usage: "month in which the card expires, YYYYMM: `SOURCE`; a renewal asks only if this is given"},
			&urfave.StringFlag{Name: "answers", Usage: "`FILE` with the answers to the CA's form (default: ask)"},
			&urfave.BoolFlag{Name: "accept-policy", Usage: "accept the CA's policy, which is shown"},
			&urfave.BoolFlag{Name: "continue", Usage: "ask what became of the request that was sent for the smart card"},
			&urfave.StringFlag{Name: "renew-from", Usage: "renew the certificate of the smart card in the reader whose `NAME` is this or contains it"},
			&urfave.StringFlag{Name: "old-pin-source", Value: "prompt:", Usage: "PIN of that smart card: `SOURCE`"},
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

// laterFlags tells whether the flags are about a card that is known already, and refuses those that do not
// go with it.
func laterFlags(c *urfave.Context) (bool, error) {
	again, renew := c.Bool("continue"), c.String("renew-from") != ""
	if again && renew {
		return false, cli.Usage(errors.New("--continue and --renew-from: one of them"))
	}
	for _, name := range []string{"bank", "brand", "ca", "root"} {
		if (again || renew) && c.String(name) != "" {
			return false, cli.Usage(fmt.Errorf("--%s is known already: leave it out", name))
		}
	}
	return again || renew, nil
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
	later, err := laterFlags(c)
	if err != nil {
		return err
	}
	var r wallet.Enrolment
	given := later
	if !later {
		if r, given, err = enrolmentFlags(c); err != nil {
			return err
		}
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
	if err := card.use(c.Context, newPINEntry(c).session(card, "to enrol"), nil, nil); err != nil {
		return classified(err)
	}
	got, err := register(c, w, r, card, a)
	if err != nil {
		return classified(waits(err))
	}
	return printEnrolled(c, got, card, sent)
}

// register gets the certificate in the way that the flags say.
func register(c *urfave.Context, w *wallet.Wallet, r wallet.Enrolment, card *connection, a *applicant) (*wallet.EnrolledCard, error) {
	switch {
	case c.Bool("continue"):
		return w.Continue(c.Context, card)
	case c.String("renew-from") != "":
		return renew(c, w, card, a)
	}
	defer func() { clear(r.PAN); clear(r.Expiry) }()
	if err := readAccount(c, &r); err != nil {
		return nil, err
	}
	return w.Enrol(c.Context, r, card, a)
}

// renew has the enrolled smart card in another reader confirm the new one.
func renew(c *urfave.Context, w *wallet.Wallet, card *connection, a *applicant) (*wallet.EnrolledCard, error) {
	cards, err := w.Cards(c.Context)
	if err != nil {
		return nil, err
	}
	f := newFinder(c)
	f.reader = c.String("renew-from")
	enrolled, old, err := f.find(c.Context, cards)
	if err != nil {
		return nil, err
	}
	defer old.close()
	pin := newPINEntry(c)
	pin.source = c.String("old-pin-source")
	if err := old.use(c.Context, pin.session(old, "to confirm the new card"), enrolled.Certificate.X509.PublicKey, enrolled.VaultKey); err != nil {
		return nil, err
	}
	var expiry set.CardExpiry
	if c.IsSet("expiry-source") {
		if expiry, err = readExpiry(c); err != nil {
			return nil, err
		}
		defer clear(expiry)
	}
	return w.Renew(c.Context, enrolled, old, expiry, card, a)
}

// waits tells what to do about a request that the CA has not decided on.
func waits(err error) error {
	var status *set.CertStatusError
	var away *sethttp.UnreachableError
	switch {
	case errors.As(err, &status) && status.Pending():
		return fmt.Errorf("your request is being looked at: run later: set-wallet enroll --continue: %w", err)
	case errors.Is(err, wallet.ErrNothingPending):
		return fmt.Errorf("%w: leave --continue out", err)
	case errors.As(err, &away):
		return fmt.Errorf("%w; set-wallet enroll --continue asks the CA again, if a request was sent", err)
	}
	return err
}

func printEnrolled(c *urfave.Context, got *wallet.EnrolledCard, card *connection, sent messages) error {
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
	r.Expiry, err = readExpiry(c)
	return err
}

func readExpiry(c *urfave.Context) (set.CardExpiry, error) {
	expiry, err := cli.Secret(c.Context, c.String("expiry-source"), "Month in which the card expires (YYYYMM)", c.App.Reader, c.App.ErrWriter)
	defer clear(expiry)
	if err != nil {
		return nil, fmt.Errorf("card expiry: %w", err)
	}
	return set.ParseCardExpiry(expiry)
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
