package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	urfave "github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/roles/ca/ceremony"
)

// planBytesMax bounds a reviewed file and a bindings file.
const planBytesMax = 1 << 20

func ceremonyCommand() *urfave.Command {
	return &urfave.Command{
		Name:  "ceremony",
		Usage: "make keys, certificates, requests and CRLs as a reviewed file says",
		Description: "The reviewed file says what is made, and who confirms it; the bindings say with which tokens, and\n" +
			"where the files go. The tokens must be there: set-hsm init makes them.\n\n" +
			"Officers confirm each step by typing their name and the word that is shown with the step. A ceremony\n" +
			"that fails says which keys it left in tokens, and is begun anew: none is resumed, and nothing is ever\n" +
			"overwritten. The exit code is 3 if a token is not available.\n\n" +
			"Example: set-ca ceremony --config lab.yaml --dry-run\n" +
			"         set-ca ceremony --config lab.yaml --bindings lab-bindings.yaml\n" +
			"         set-ca ceremony verify --output out --config lab.yaml",
		Flags: []urfave.Flag{
			&urfave.PathFlag{Name: "config", Usage: "the reviewed `FILE` that says what is made; inputs are found beside it"},
			&urfave.PathFlag{Name: "bindings", Usage: "`FILE` that says which tokens its names stand for, and where the output goes"},
			&urfave.BoolFlag{Name: "dry-run", Usage: "show everything that would be signed: no token is opened, nothing is written"},
			&urfave.BoolFlag{Name: "json", Usage: "print a summary as JSON, and the steps on the standard error"},
		},
		Action: holdCeremony,
		Subcommands: []*urfave.Command{{
			Name:  "verify",
			Usage: "check, offline, everything that a ceremony left",
			Description: "Checks the transcript and its signature, every file against the transcript, and every certificate,\n" +
				"request and CRL against the reviewed file. The exit code is 1 if anything is wrong.\n\n" +
				"Whoever makes keys can hold a ceremony of their own with the same file. Compare the public key that\n" +
				"signed the transcript with the one that was written down at the end of the ceremony.\n\n" +
				"Example: set-ca ceremony verify --output out --config lab.yaml",
			Flags: []urfave.Flag{
				&urfave.PathFlag{Name: "output", Required: true, Usage: "`DIRECTORY` that the ceremony wrote"},
				&urfave.PathFlag{Name: "config", Usage: "the reviewed `FILE` that it must have followed (default: the copy in DIRECTORY)"},
				&urfave.BoolFlag{Name: "json", Usage: "print JSON"},
			},
			Action: verifyCeremony,
		}},
	}
}

// bindings are what a reviewed file leaves open.
type bindings struct {
	Output string            `yaml:"output"` // directory
	Tokens map[string]string `yaml:"tokens"` // URI by plain name
}

func holdCeremony(c *urfave.Context) error {
	path := c.Path("config")
	switch {
	case c.Args().Present():
		return cli.Usage(fmt.Errorf("unexpected argument %q", c.Args().First()))
	case path == "":
		return cli.Usage(errors.New("name the reviewed file with --config"))
	}
	source, err := readFile(path)
	if err != nil {
		return cli.Usage(err)
	}
	plan, err := ceremony.Parse(source)
	if err != nil {
		return cli.Usage(fmt.Errorf("%s: %w", path, err))
	}
	var bound bindings
	var boundSource []byte
	if file := c.Path("bindings"); file != "" {
		if boundSource, err = bound.load(file, plan); err != nil {
			return cli.Usage(err)
		}
	}
	if c.Bool("dry-run") {
		return rehearse(c, path, plan)
	}
	if boundSource == nil {
		return cli.Usage(errors.New("name the bindings with --bindings, or see what would be made with --dry-run"))
	}
	ctx, stop := undisturbed(c.Context)
	defer stop()
	keys := keyring.New(c.App.Reader, c.App.ErrWriter)
	defer keys.Close()
	var notice io.Writer = c.App.Writer
	if c.Bool("json") {
		notice = c.App.ErrWriter
	}
	summary, err := ceremony.Run(ctx, plan, ceremony.Room{
		Open: tokenOpener(keys, bound.Tokens), Output: bound.Output, Inputs: os.DirFS(filepath.Dir(path)),
		Officers: c.App.Reader, Typed: typed(c.App.Reader), Notice: notice, Now: time.Now,
		Software: c.App.Name + " " + c.App.Version, Bindings: boundSource,
	})
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, summary)
	}
	return nil
}

// undisturbed keeps what may happen to a terminal from killing a ceremony half-way, without a word in its
// transcript: one that is closed ends the ceremony as an interrupt does, and a pipe that breaks does not.
func undisturbed(ctx context.Context) (context.Context, context.CancelFunc) {
	signal.Ignore(syscall.SIGPIPE)
	if signal.Ignored(syscall.SIGHUP) { // nohup
		return context.WithCancel(ctx)
	}
	return signal.NotifyContext(ctx, syscall.SIGHUP)
}

// load reads a bindings file and holds it against the names of the plan.
func (b *bindings) load(path string, plan *ceremony.Plan) ([]byte, error) {
	source, err := readFile(path)
	if err != nil {
		return nil, err
	}
	if err := cli.LoadConfig(path, b); err != nil {
		return nil, err
	}
	if b.Output == "" {
		return nil, fmt.Errorf("%s: output: want the directory for what is made", path)
	}
	want := plan.Tokens()
	for _, name := range want {
		if b.Tokens[name] == "" {
			return nil, fmt.Errorf("%s: tokens: %s is missing", path, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.Tokens)) {
		if !slices.Contains(want, name) {
			return nil, fmt.Errorf("%s: tokens: the reviewed file has no token %q, only %s", path, name, strings.Join(want, ", "))
		}
	}
	return source, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, planBytesMax+1))
	if err != nil {
		return nil, err
	}
	if len(text) > planBytesMax {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, planBytesMax)
	}
	return text, nil
}

// typed tells how what officers type comes in.
func typed(stdin io.Reader) string {
	if f, ok := stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return "a terminal"
	}
	return "standard input, not a terminal"
}

func rehearse(c *urfave.Context, path string, plan *ceremony.Plan) error {
	steps, err := ceremony.Rehearse(plan, os.DirFS(filepath.Dir(path)), time.Now())
	if err != nil {
		return cli.Usage(fmt.Errorf("%s: %w", path, err))
	}
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, map[string]any{"ceremony": plan.Name(), "ok": true, "steps": steps})
	}
	for _, s := range steps {
		fmt.Fprintf(c.App.Writer, "step %d: %s\n", s.Step, s.Title)
		for _, row := range s.Content {
			fmt.Fprintf(c.App.Writer, "    %s\n", row)
		}
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s: the file is in order; nothing was made. The times are those of a ceremony held now.\n", path)
	return err
}

func verifyCeremony(c *urfave.Context) error {
	if c.Args().Present() {
		return cli.Usage(fmt.Errorf("unexpected argument %q", c.Args().First()))
	}
	var reviewed []byte
	if path := c.Path("config"); path != "" {
		var err error
		if reviewed, err = readFile(path); err != nil {
			return cli.Usage(err)
		}
	}
	report, err := ceremony.Verify(c.Path("output"), reviewed)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return errors.Join(cli.PrintJSON(c.App.Writer, report), report.Err())
	}
	if err := report.Err(); err != nil {
		return err
	}
	return printReport(c.App.Writer, report)
}

func printReport(out io.Writer, r *ceremony.Report) error {
	var rows [][]string
	for _, cert := range r.Certificates {
		rows = append(rows, []string{cert.File, cert.Serial, cert.NotAfter.Format(time.DateOnly), cert.Subject, cert.SHA256})
	}
	if err := cli.Table(out, []string{"CERTIFICATE", "SERIAL", "EXPIRES", "SUBJECT", "SHA-256"}, rows); err != nil {
		return err
	}
	officers := "unattended"
	if r.Required > 0 {
		officers = fmt.Sprintf("each step confirmed by %d of %d officers", r.Required, len(r.Officers))
	}
	_, err := fmt.Fprintf(out, "\nceremony %q of %s, %s: all %d files are in order\nsigned by %s, public key SHA-256 %s\n",
		r.Ceremony, r.At.Format(time.RFC3339), officers, len(r.Files), r.Signer, r.SignerSHA256)
	return err
}
