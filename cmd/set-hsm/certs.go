package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/hsm"
	urfave "github.com/urfave/cli/v2"
)

func certsCommand() *urfave.Command {
	return &urfave.Command{Name: "certs", Usage: "certificates of a token",
		Description: "Example: set-hsm certs list " + exampleToken, Subcommands: []*urfave.Command{
			{Name: "list", Usage: "list certificates, with their keys and ends",
				Description: "Example: set-hsm certs list " + exampleToken,
				Action:      listCertificates, Flags: []urfave.Flag{tokenFlag(), jsonFlag()}},
			{Name: "import", Usage: "store a certificate in the token",
				Description: "It is paired with the key that it is of, if the token has that key.\n\n" +
					"Example: set-hsm certs import " + exampleToken + " --label sign --in sign.pem",
				Action: importCertificate, Flags: []urfave.Flag{
					tokenFlag(), labelFlag("`LABEL` of the certificate, best that of its key"),
					&urfave.PathFlag{Name: "in", Required: true, Usage: "`FILE` with one certificate, PEM or DER"}, jsonFlag()}},
			{Name: "export", Usage: "print a certificate of the token as PEM, or write it to a file",
				Description: "Example: set-hsm certs export " + exampleToken + " --label sign --out sign.pem",
				Action:      exportCertificate, Flags: []urfave.Flag{
					tokenFlag(), labelFlag("`LABEL` of the certificate"),
					&urfave.PathFlag{Name: "out", Usage: "`FILE` to write, which must not exist (default: the standard output)"}, jsonFlag()}},
			{Name: "delete", Usage: "delete a certificate from the token",
				Description: "Its key stays. Asks for the label to be typed, unless --confirm has it.\n\n" +
					"Example: set-hsm certs delete " + exampleToken + " --label sign-2025",
				Action: deleteCertificate, Flags: []urfave.Flag{
					tokenFlag(), labelFlag("`LABEL` of the certificate"), confirmFlag(), jsonFlag()}},
		}}
}

// certificate is an hsm.Certificate with what people look for in it.
type certificate struct {
	hsm.Certificate
	Subject   string    `json:"subject,omitempty"`
	Issuer    string    `json:"issuer,omitempty"`
	Serial    string    `json:"serial,omitempty"`
	NotBefore time.Time `json:"notBefore,omitzero"`
	NotAfter  time.Time `json:"notAfter,omitzero"`
}

func describe(c hsm.Certificate) certificate {
	d := certificate{Certificate: c}
	if x := c.X509; x != nil {
		d.Subject, d.Issuer, d.Serial = x.Subject.String(), x.Issuer.String(), x.SerialNumber.Text(16)
		d.NotBefore, d.NotAfter = x.NotBefore, x.NotAfter
	}
	return d
}

func listCertificates(c *urfave.Context) error {
	return withToken(c, func(token *hsm.Token) error {
		list, err := token.Certificates(c.Context)
		if err != nil {
			return err
		}
		described := make([]certificate, len(list))
		for i, cert := range list {
			described[i] = describe(cert)
		}
		if len(list) == 0 {
			hint(c, "token %q has no certificates: store one with set-hsm certs import", token.Info().Label)
		}
		return printCertificates(c, described, described)
	})
}

func printCertificates(c *urfave.Context, list []certificate, asJSON any) error {
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, asJSON)
	}
	rows := make([][]string, len(list))
	for i, d := range list {
		end := "not readable"
		if d.X509 != nil {
			end = day(d.NotAfter) + ", " + daysLeft(d.NotAfter, time.Now())
		}
		rows[i] = []string{d.Label, d.Subject, end, strconv.FormatBool(d.HasKey), d.ID}
	}
	return cli.Table(c.App.Writer, []string{"LABEL", "SUBJECT", "NOT AFTER", "HAS KEY", "ID"}, rows)
}

// daysLeft says how long it is until end.
func daysLeft(end, now time.Time) string {
	if now.After(end) {
		return "expired"
	}
	return counted(int(end.Sub(now).Hours()/24), "day")
}

func importCertificate(c *urfave.Context) error {
	der, err := readCertificate(c.Path("in"))
	if err != nil {
		return err
	}
	return withToken(c, func(token *hsm.Token) error {
		if err := fitsKey(c, token, der); err != nil {
			return err
		}
		cert, err := token.ImportCertificate(c.Context, c.String("label"), der)
		if err != nil {
			return err
		}
		d := describe(cert)
		return printCertificates(c, []certificate{d}, d)
	})
}

// fitsKey refuses a certificate under the label of a key that it is not of: everybody would take the one
// for the other's.
func fitsKey(c *urfave.Context, token *hsm.Token, der []byte) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil // the import says why
	}
	keys, err := token.Keys(c.Context)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.Label == c.String("label") && len(k.SPKI) > 0 && !bytes.Equal(k.SPKI, cert.RawSubjectPublicKeyInfo) {
			return fmt.Errorf("%s is not of the key %q, which has another public key: compare with set-hsm keys show, or choose another --label",
				c.Path("in"), k.Label)
		}
	}
	return nil
}

// readCertificate reads the one certificate in a file, PEM or DER.
func readCertificate(path string) ([]byte, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(text)
	switch {
	case block == nil && bytes.HasPrefix(text, []byte{0x30}):
		return text, nil
	case block == nil || block.Type != "CERTIFICATE":
		return nil, fmt.Errorf("%s has no certificate, neither PEM nor DER", path)
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, fmt.Errorf("%s has more than one PEM block: import one certificate at a time", path)
	}
	return block.Bytes, nil
}

// oneCertificate is the certificate of the --label flag.
func oneCertificate(c *urfave.Context, token *hsm.Token) (hsm.Certificate, error) {
	list, err := token.Certificates(c.Context)
	if err != nil {
		return hsm.Certificate{}, err
	}
	var found []hsm.Certificate
	for _, cert := range list {
		if cert.Label == c.String("label") {
			found = append(found, cert)
		}
	}
	switch len(found) {
	case 0:
		return hsm.Certificate{}, fmt.Errorf("certificate %q: %w: see set-hsm certs list", c.String("label"), hsm.ErrCertificateNotFound)
	case 1:
		return found[0], nil
	}
	return hsm.Certificate{}, fmt.Errorf("%d certificates have the label %q", len(found), c.String("label"))
}

func exportCertificate(c *urfave.Context) error {
	if c.Bool("json") && c.IsSet("out") {
		return cli.Usage(errors.New("--json and --out exclude each other"))
	}
	return withToken(c, func(token *hsm.Token) error {
		cert, err := oneCertificate(c, token)
		if err != nil {
			return err
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.DER})
		switch {
		case c.Bool("json"):
			return cli.PrintJSON(c.App.Writer, describe(cert))
		case c.IsSet("out"):
			return writeNew(c.Path("out"), text)
		}
		_, err = c.App.Writer.Write(text)
		return err
	})
}

func deleteCertificate(c *urfave.Context) error {
	return withToken(c, func(token *hsm.Token) error {
		cert, err := oneCertificate(c, token)
		if err != nil {
			return err
		}
		what := fmt.Sprintf("the certificate %q in token %q (%s)", cert.Label, token.Info().Label, describe(cert).Subject)
		if err := cli.Confirm(c, what, "label", cert.Label); err != nil {
			return err
		}
		if err := token.DeleteCertificate(c.Context, cert.Label); err != nil {
			return err
		}
		if c.Bool("json") {
			return cli.PrintJSON(c.App.Writer, map[string]any{"token": token.Info().Label, "label": cert.Label, "id": cert.ID, "deleted": true})
		}
		_, err = fmt.Fprintf(c.App.Writer, "Deleted %s.\n", what)
		return err
	})
}
