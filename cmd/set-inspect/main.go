// Set-inspect shows any SET message, certificate, CRL, BrandCRLIdentifier or wallet bundle to a person, and
// draws what set-lab has recorded of a purchase. It believes nothing that it shows.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/describe"
	"github.com/setkit/setkit/cmd/internal/keyring"
)

func main() { cli.Main(newApp()) }

func newApp() *urfave.App {
	return &urfave.App{
		Name:      "set-inspect",
		Usage:     "show SET messages, certificates, CRLs, BrandCRLIdentifiers and wallet bundles to a person",
		ArgsUsage: "FILE...",
		Description: "FILE is DER, PEM, hexadecimal, base64, or what set-lab recorded; - is the standard input. Every field is\n" +
			"shown with its name and meaning, who signed what, and for whom it is encrypted. A signature is tried\n" +
			"under the certificate that it names; the certificate itself is not checked. Certificates in one FILE\n" +
			"name the parties in the others. The exit code is 1 when something is malformed.\n\n" +
			"Example: set-inspect AuthReq.der merchant.pem\n" +
			"         set-inspect --open 'pkcs11:token=gateway;object=key-exchange?pin-source=prompt:' AuthReq.der\n" +
			"         set-inspect trace --html -o purchase.html DIR",
		Flags: []urfave.Flag{
			&urfave.BoolFlag{Name: "json", Usage: "print JSON, with octet strings whole"},
			&urfave.BoolFlag{Name: "full", Usage: "print octet strings whole"},
			&urfave.StringFlag{Name: "open", Usage: "open what is encrypted for the key of a PKCS#11 `URI`"},
			&urfave.BoolFlag{Name: "show-pan", Usage: "print card numbers, their expiry and account data in clear"},
		},
		Commands: []*urfave.Command{traceCommand()},
		Action:   show,
	}
}

// shown is one thing that was described.
type shown struct {
	File string         `json:"file"`
	Form string         `json:"form"`
	Name string         `json:"name,omitempty"`
	Node *describe.Node `json:"description"`
}

var errMalformed = errors.New("malformed: see above")

func show(c *urfave.Context) (err error) {
	if c.NArg() == 0 {
		return cli.Usage(errors.New("FILE is missing: see set-inspect --help"))
	}
	for _, name := range c.Args().Slice() {
		if strings.HasPrefix(name, "-") && name != "-" {
			return cli.Usage(fmt.Errorf("unexpected argument %q: options come before FILE", name))
		}
	}
	d := &describe.Describer{ShowPAN: c.Bool("show-pan")}
	if d.ShowPAN {
		fmt.Fprintln(c.App.ErrWriter, "warning: card numbers are shown in clear; do not keep or send what is printed")
	}
	if uri := c.String("open"); uri != "" {
		ring := keyring.New(c.App.Reader, c.App.ErrWriter)
		defer func() { err = errors.Join(err, ring.Close()) }()
		if d.Key, err = ring.Decrypter(c.Context, uri); err != nil {
			return err
		}
	}
	all, err := describeFiles(c, d)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		if err := cli.PrintJSON(c.App.Writer, all); err != nil {
			return err
		}
	}
	malformed := false
	for i, s := range all {
		malformed = malformed || !s.Node.Walk(func(n *describe.Node) bool { return n.Kind != describe.Fault })
		if c.Bool("json") {
			continue
		}
		if len(all) > 1 {
			if i > 0 {
				fmt.Fprintln(c.App.Writer)
			}
			fmt.Fprintf(c.App.Writer, "%s (%s)\n", cli.Printable(s.File), cli.Printable(strings.TrimSpace(s.Form+" "+s.Name)))
		}
		if err := s.Node.Text(c.App.Writer, c.Bool("full")); err != nil {
			return err
		}
	}
	if malformed {
		return errMalformed
	}
	return nil
}

// describeFiles describes what is in every file. It goes through all of them for their certificates
// first: these name the parties wherever they appear.
func describeFiles(c *urfave.Context, d *describe.Describer) ([]shown, error) {
	var all []shown
	var inputs []describe.Input
	for _, name := range c.Args().Slice() {
		b, err := readFile(name, c.App.Reader)
		if err != nil {
			return nil, err
		}
		in, err := describe.Read(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, i := range in {
			all = append(all, shown{File: name, Form: i.Form, Name: i.Name, Node: i.Node})
			inputs = append(inputs, i)
		}
	}
	for _, i := range inputs {
		if i.Node == nil {
			d.Meet(i.Raw)
		}
	}
	for i := range all {
		if all[i].Node != nil {
			continue
		}
		n, err := d.Describe(inputs[i].Raw)
		if err != nil {
			return nil, err
		}
		all[i].Node = n
	}
	return all, nil
}

func readFile(name string, stdin io.Reader) ([]byte, error) {
	in := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, cli.Usage(err)
		}
		defer f.Close()
		in = f
	}
	return io.ReadAll(io.LimitReader(in, describe.InputOctetsMax+1))
}
