package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/hsm"
	urfave "github.com/urfave/cli/v2"
)

func doctorCommand() *urfave.Command {
	return &urfave.Command{
		Name: "doctor", Usage: "examine a token, its keys and its certificates",
		Description: "Looks at the library, the PIN's state, clock, sessions and mechanisms, at the attributes of every key\n" +
			"and at every certificate, and tries every key. It changes nothing on the token, beyond what a login with\n" +
			"the right PIN does to the count of wrong ones, and it needs no network. It does not log in when one more\n" +
			"wrong PIN would lock the token.\n\n" +
			"Findings are errors, warnings and notes, the worst first, each with what to do about it and the commands\n" +
			"that do that. Without --role, a mechanism that some role needs and the token lacks is a warning; with it,\n" +
			"an error.\n\n" +
			"Exit codes: 0 no error found (there may be warnings), 1 at least one error, 3 the device is not available.\n\n" +
			"Example: set-hsm doctor " + exampleToken + " --role merchant",
		Action: doctor,
		Flags: []urfave.Flag{
			tokenFlag(),
			&urfave.StringFlag{Name: "role", Value: roleAll, Usage: "`ROLE` of the token: " + strings.Join(roles, ", ")},
			&urfave.BoolFlag{Name: "all", Usage: "tell also of what is well, one by one"},
			jsonFlag(),
		},
	}
}

// How bad a finding is, the worst last.
const (
	severityOK = iota
	severityNote
	severityWarning
	severityError
)

var severityNames = []string{"ok", "note", "warning", "error"}

type severity int

func (s severity) String() string { return severityNames[s] }

// MarshalText makes a severity a word in JSON.
func (s severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// finding is one thing that the doctor saw.
type finding struct {
	Severity severity `json:"severity"`
	Check    string   `json:"check"`  // library, token, pin, clock, sessions, key, public key, try, not tried, certificate or mechanism
	Object   string   `json:"object"` // label or name of what was looked at
	Finding  string   `json:"finding"`
	Fix      string   `json:"fix,omitempty"`      // what to do
	Commands []string `json:"commands,omitempty"` // that do it, for a shell, in this order
}

// diagnosis is everything that the doctor saw.
type diagnosis struct {
	Token    string    `json:"token"`
	Serial   string    `json:"serial,omitempty"`
	Role     string    `json:"role"`
	Worst    severity  `json:"worst"`
	Findings []finding `json:"findings"`

	uri    string // as it was given, for commands
	keys   []hsm.KeyInfo
	module string
	now    time.Time
}

func (d *diagnosis) add(s severity, check, object, text, fix string, commands ...string) {
	d.Findings = append(d.Findings, finding{s, check, object, text, fix, commands})
	d.Worst = max(d.Worst, s)
}

// has reports whether something worse than a note was said of an object.
func (d *diagnosis) has(check, object string) bool {
	return slices.ContainsFunc(d.Findings, func(f finding) bool {
		return f.Check == check && f.Object == object && f.Severity > severityNote
	})
}

// command is a command on the examined token, for a shell.
func (d *diagnosis) command(words string, args ...string) string {
	line := "set-hsm " + words + " --token " + shellQuote(d.uri)
	for _, a := range args {
		line += " " + shellQuote(a)
	}
	return line
}

func (d *diagnosis) listTokens() string { return "set-hsm tokens --module " + shellQuote(d.module) }

// shellQuote quotes a word for a shell where it has to be.
func shellQuote(word string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:,@%+=", r)
	}
	if word != "" && !strings.ContainsFunc(word, func(r rune) bool { return !plain(r) }) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

var errFindings = errors.New("the doctor has found errors")

func doctor(c *urfave.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if !slices.Contains(roles, c.String("role")) {
		return cli.Usage(fmt.Errorf("--role is %q: want %s", c.String("role"), strings.Join(roles, ", ")))
	}
	d := &diagnosis{Role: c.String("role"), uri: c.String("token"), now: time.Now(), Findings: []finding{}}
	err := d.examine(c)
	if err == nil && d.Worst == severityError {
		err = errFindings
	}
	if c.Bool("json") {
		return errors.Join(cli.PrintJSON(c.App.Writer, d), err)
	}
	return errors.Join(d.print(c.App.Writer, c.Bool("all")), err)
}

// examine returns an error if the examination could not be brought to its end.
func (d *diagnosis) examine(c *urfave.Context) error {
	uri, err := tokenURI(c)
	if err != nil {
		if errors.Is(err, hsm.ErrUnavailable) {
			d.add(severityError, "library", "-", err.Error(), "install SoftHSM, or give module-path in the URI", "apt-get install softhsm2")
		}
		return err
	}
	d.Token, d.module = or(uri.Token, uri.Serial), uri.ModulePath
	list, err := hsm.Tokens(c.Context, uri.ModulePath)
	if err = adviseOnLibrary(uri.ModulePath, err); err != nil {
		d.add(severityError, "library", uri.ModulePath, err.Error(), "install the vendor's PKCS#11 library, or mend module-path in the URI")
		return err
	}
	d.add(severityOK, "library", uri.ModulePath, fmt.Sprintf("loads, and has %d tokens", len(list)), "")
	info, err := d.findToken(uri, list)
	if err != nil {
		return err
	}
	if !d.checkToken(info, uri) {
		return nil
	}
	ring := keyring.New(c.App.Reader, c.App.ErrWriter)
	token, err := ring.Token(c.Context, uri.String())
	if err == nil {
		d.add(severityOK, "pin", d.Token, "the token takes the PIN", "")
		if err = d.checkObjects(c.Context, token); err != nil {
			d.add(severityError, "token", d.Token, err.Error(), "see what the library says of the token", d.listTokens())
		}
	} else if refused, ok := errors.AsType[*hsm.PINError](err); ok {
		d.add(severityError, "pin", d.Token, refused.Error(), "correct the PIN in "+or(uri.PINSource, "the PIN source"), d.command("doctor"))
		err = nil
	} else {
		d.add(severityError, "token", d.Token, err.Error(), "see what the library says of the token", d.listTokens())
	}
	return errors.Join(err, ring.Close())
}

// checkObjects looks at what is in the open token.
func (d *diagnosis) checkObjects(ctx context.Context, token *hsm.Token) error {
	keys, err := token.Keys(ctx)
	if err != nil {
		return err
	}
	orphans, err := token.Orphans(ctx)
	if err != nil {
		return err
	}
	certificates, err := token.Certificates(ctx)
	if err != nil {
		return err
	}
	mechanisms, err := token.Mechanisms(ctx)
	if err != nil {
		return err
	}
	d.keys = keys
	d.checkKeys()
	d.checkOrphans(orphans)
	oaep, err := d.tryKeys(ctx, token, mechanisms)
	if err != nil {
		return err
	}
	d.checkCertificates(certificates)
	d.checkMechanisms(mechanisms, token.Info(), oaep)
	return nil
}
