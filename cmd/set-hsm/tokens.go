package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/hsm"
	urfave "github.com/urfave/cli/v2"
)

func tokensCommand() *urfave.Command {
	return &urfave.Command{
		Name: "tokens", Usage: "list the tokens of a library",
		Description: "Example: set-hsm tokens --module /usr/lib/softhsm/libsofthsm2.so",
		Action:      tokens, Flags: []urfave.Flag{moduleFlag(), jsonFlag()},
	}
}

func initCommand() *urfave.Command {
	return &urfave.Command{
		Name: "init", Usage: "make a token in a free slot, or what is missing of a plan",
		Description: "Makes a token with a security officer's PIN and a user PIN, which are asked for if no source is given.\n\n" +
			"Examples: set-hsm init --label shop --pin-source file:shop-pin --so-pin-source file:shop-so-pin\n" +
			"          set-hsm init --plan tokens.yaml\n" +
			"          set-hsm init --plan lab --dir softhsm\n\n" +
			"A plan is a YAML file of tokens and their keys. What is missing is made, what is there and right is left\n" +
			"alone, and what is there and differs is reported and left alone too:\n\n" +
			planExample + "\n" +
			"The plan lab is that of the project's own lab. It makes a SoftHSM folder for each of its tokens in --dir,\n" +
			"with a configuration for SOFTHSM2_CONF and random PINs in files.",
		Action: initialise,
		Flags: []urfave.Flag{
			moduleFlag(),
			&urfave.StringFlag{Name: "label", Usage: "`LABEL` of the token, unique in the library"},
			&urfave.StringFlag{Name: "so-pin-source", Value: "prompt:", Usage: "`SOURCE` of the security officer's PIN"},
			&urfave.StringFlag{Name: "pin-source", Value: "prompt:", Usage: "`SOURCE` of the user PIN: " + pinSourceHelp},
			&urfave.StringFlag{Name: "plan", Usage: "YAML `FILE` of tokens and keys, or lab"},
			&urfave.PathFlag{Name: "dir", Usage: "`FOLDER` of the SoftHSM tokens of --plan lab"},
			jsonFlag(),
		},
	}
}

func pinCommand() *urfave.Command {
	return &urfave.Command{
		Name: "pin", Usage: "change the user PIN of a token, or set one that is locked or missing",
		Description: "The old PIN is tried once. Programs that run go on; they need the new PIN at their next login.\n\n" +
			"With --so-pin-source it is the security officer who sets it, whose PIN is tried once: that of a token whose\n" +
			"user PIN is locked, lost or was never set. Programs must not be using the token meanwhile.\n\n" +
			"Examples: set-hsm pin " + exampleToken + " --new-pin-source file:shop-pin.new\n" +
			"          set-hsm pin --token pkcs11:token=shop --so-pin-source file:shop-so-pin --new-pin-source prompt:",
		Action: changePIN,
		Flags: []urfave.Flag{
			tokenFlag(),
			&urfave.StringFlag{Name: "old-pin-source", Usage: "`SOURCE` of the present PIN (default: the URI's pin-source, or prompt:)"},
			&urfave.StringFlag{Name: "new-pin-source", Value: "prompt:", Usage: "`SOURCE` of the new PIN"},
			&urfave.StringFlag{Name: "so-pin-source", Usage: "`SOURCE` of the security officer's PIN, instead of the present one"},
			jsonFlag(),
		},
	}
}

func initialise(c *urfave.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	switch {
	case c.IsSet("label") == c.IsSet("plan"):
		return cli.Usage(errors.New("give either --label, for one token, or --plan"))
	case c.IsSet("plan") && (c.IsSet("pin-source") || c.IsSet("so-pin-source")):
		return cli.Usage(errors.New("--pin-source and --so-pin-source go with --label: a plan has its own"))
	case c.IsSet("dir") != (c.String("plan") == labPlan):
		return cli.Usage(errors.New("--dir goes with --plan lab, and --plan lab with --dir"))
	case c.IsSet("plan"):
		return initPlan(c)
	}
	return initToken(c)
}

func initToken(c *urfave.Context) error {
	module, err := modulePath(c)
	if err != nil {
		return err
	}
	info, err := makeToken(c, module, c.String("label"), c.String("so-pin-source"), c.String("pin-source"))
	if err != nil {
		return err
	}
	return printTokens(c, []hsm.TokenInfo{info}, info)
}

// makeToken makes a token with PINs from these sources.
func makeToken(c *urfave.Context, module, label, soSource, source string) (hsm.TokenInfo, error) {
	secret := func(source, who string) ([]byte, error) {
		return cli.NewSecret(c.Context, source, fmt.Sprintf("%s of the new token %q", who, label), c.App.Reader, c.App.ErrWriter)
	}
	soPIN, err := secret(soSource, "security officer's PIN")
	if err != nil {
		return hsm.TokenInfo{}, err
	}
	defer clear(soPIN)
	pin, err := secret(source, "user PIN")
	if err != nil {
		return hsm.TokenInfo{}, err
	}
	defer clear(pin)
	info, err := hsm.InitToken(c.Context, module, label, soPIN, pin)
	if errors.Is(err, hsm.ErrTokenExists) {
		err = fmt.Errorf("%w: choose another --label, or use that one: set-hsm tokens lists them", err)
	}
	return info, adviseOnWriting(module, err)
}

func tokens(c *urfave.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	module, err := modulePath(c)
	if err != nil {
		return err
	}
	list, err := hsm.Tokens(c.Context, module)
	if err != nil {
		return adviseOnLibrary(module, err)
	}
	if len(list) == 0 {
		hint(c, "%s has no tokens: make one with set-hsm init, or see that its configuration (for SoftHSM, SOFTHSM2_CONF) is the right one", module)
	}
	return printTokens(c, list, list)
}

func printTokens(c *urfave.Context, list []hsm.TokenInfo, asJSON any) error {
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, asJSON)
	}
	rows := make([][]string, len(list))
	for i, t := range list {
		rows[i] = []string{t.Label, t.Serial, t.Manufacturer, t.Model, pinState(t)}
	}
	return cli.Table(c.App.Writer, []string{"LABEL", "SERIAL", "MANUFACTURER", "MODEL", "USER PIN"}, rows)
}

// pinState says in a few words how the user PIN is.
func pinState(t hsm.TokenInfo) string {
	switch {
	case t.PINLocked:
		return "locked"
	case !t.UserPIN:
		return "not set"
	case t.PINFinalTry:
		return "set, one try left"
	case t.PINLow:
		return "set, wrong PINs counted"
	}
	return "set"
}

// changePIN opens the token with the old PIN, which proves it, and then changes it.
func changePIN(c *urfave.Context) (err error) {
	if err := noArguments(c); err != nil {
		return err
	}
	uri, err := tokenURI(c)
	if err != nil {
		return err
	}
	if c.IsSet("so-pin-source") {
		return resetPIN(c, uri)
	}
	switch {
	case c.IsSet("old-pin-source"):
		uri.PINSource = c.String("old-pin-source")
	}
	var old []byte
	defer func() { clear(old) }()
	token, err := hsm.Open(c.Context, uri, func(ctx context.Context, source, label string) ([]byte, error) {
		if old != nil { // a lost token wants it again
			return slices.Clone(old), nil
		}
		pin, err := cli.Secret(ctx, source, fmt.Sprintf("present PIN of token %q", label), c.App.Reader, c.App.ErrWriter)
		old = slices.Clone(pin)
		return pin, err
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, token.Close()) }()
	fresh, err := cli.NewSecret(c.Context, c.String("new-pin-source"), fmt.Sprintf("new PIN of token %q", token.Info().Label), c.App.Reader, c.App.ErrWriter)
	if err != nil {
		return err
	}
	defer clear(fresh)
	if err := token.SetPIN(c.Context, old, fresh); err != nil {
		return err
	}
	return printChanged(c, token.Info())
}

// resetPIN has the security officer set the user PIN.
func resetPIN(c *urfave.Context, uri hsm.URI) error {
	if c.IsSet("old-pin-source") {
		return cli.Usage(errors.New("give either --old-pin-source or --so-pin-source: the security officer does not need the present PIN"))
	}
	name := or(uri.Token, uri.Serial)
	soPIN, err := cli.Secret(c.Context, c.String("so-pin-source"), fmt.Sprintf("security officer's PIN of token %q", name), c.App.Reader, c.App.ErrWriter)
	if err != nil {
		return err
	}
	defer clear(soPIN)
	pin, err := cli.NewSecret(c.Context, c.String("new-pin-source"), fmt.Sprintf("new PIN of token %q", name), c.App.Reader, c.App.ErrWriter)
	if err != nil {
		return err
	}
	defer clear(pin)
	info, err := hsm.InitPIN(c.Context, uri, soPIN, pin)
	if err != nil {
		return err
	}
	return printChanged(c, info)
}

func printChanged(c *urfave.Context, info hsm.TokenInfo) error {
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, map[string]any{"token": info.Label, "serial": info.Serial, "changed": true})
	}
	_, err := fmt.Fprintf(c.App.Writer, "The user PIN of token %q is changed. Update the PIN sources of what uses it.\n", info.Label)
	return err
}
