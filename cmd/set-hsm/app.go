package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/hsm"
	urfave "github.com/urfave/cli/v2"
)

// newApp is set-hsm. Each command's flags and action are in the file of its subject.
func newApp() *urfave.App {
	return &urfave.App{
		Name:  "set-hsm",
		Usage: "administer PKCS#11 tokens and the keys in them",
		Description: "A token is named by an RFC 7512 URI with its label or serial number, such as\n" +
			"'pkcs11:token=shop?pin-source=file:shop-pin' or, with a library other than SoftHSM's,\n" +
			"'pkcs11:serial=0123?module-path=/opt/vendor/libpkcs11.so&pin-source=env:SHOP_PIN'.\n" +
			"A PIN's source is " + pinSourceHelp + ", and the last if none is given.\n\n" +
			"Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the device is not available.\n\n" +
			"Example: set-hsm init --label shop && set-hsm keys list --token pkcs11:token=shop",
		Commands: []*urfave.Command{
			tokensCommand(), initCommand(), pinCommand(), keysCommand(), certsCommand(),
			wrapCommand(), unwrapCommand(), randomCommand(), doctorCommand(), benchCommand(),
		},
	}
}

const (
	pinSourceHelp = "file:PATH, env:NAME, cred:NAME or prompt:"
	exampleToken  = "--token 'pkcs11:token=shop?pin-source=file:shop-pin'"

	patienceSeconds = 2 // without a word
)

func jsonFlag() urfave.Flag { return &urfave.BoolFlag{Name: "json", Usage: "print JSON"} }

func moduleFlag() urfave.Flag {
	return &urfave.PathFlag{Name: "module", Usage: "PKCS#11 `LIBRARY` (default: SoftHSM's, where it is installed)"}
}

func tokenFlag() urfave.Flag {
	return &urfave.StringFlag{Name: "token", Required: true,
		Usage: "`URI` of the token, such as 'pkcs11:token=shop?pin-source=file:shop-pin'"}
}

func labelFlag(usage string) urfave.Flag {
	return &urfave.StringFlag{Name: "label", Required: true, Usage: usage}
}

func idFlag() urfave.Flag {
	return &urfave.StringFlag{Name: "id", Usage: "`CKA_ID` in hexadecimal, where several have the label"}
}

func confirmFlag() urfave.Flag {
	return &urfave.StringFlag{Name: "confirm", Usage: "the `LABEL` once more, instead of typing it when asked"}
}

func noArguments(c *urfave.Context) error {
	if c.Args().Present() {
		return cli.Usage(fmt.Errorf("unexpected argument %q", c.Args().First()))
	}
	return nil
}

func modulePath(c *urfave.Context) (string, error) {
	if path := c.Path("module"); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", cli.Device(fmt.Errorf("--module: %w: give the path of the HSM's PKCS#11 library", err))
		}
		return path, nil
	}
	return hsm.SoftHSMPath()
}

// tokenURI is the URI of the --token flag, with a library and a PIN source in it.
func tokenURI(c *urfave.Context) (hsm.URI, error) {
	u, err := hsm.ParseURI(c.String("token"))
	if err != nil {
		return hsm.URI{}, cli.Usage(fmt.Errorf("--token: %w: want one such as 'pkcs11:token=shop?pin-source=file:shop-pin'", err))
	}
	if u.Token == "" && u.Serial == "" {
		return hsm.URI{}, cli.Usage(errors.New("--token names no token: give token= or serial= in the URI"))
	}
	if u.PINSource == "" {
		u.PINSource = "prompt:"
	}
	if u.ModulePath == "" {
		u.ModulePath, err = hsm.SoftHSMPath()
	}
	return u, err
}

// withToken runs f with the token of the --token flag.
func withToken(c *urfave.Context, f func(*hsm.Token) error) (err error) {
	if err := noArguments(c); err != nil {
		return err
	}
	uri, err := tokenURI(c)
	if err != nil {
		return err
	}
	ring := keyring.New(c.App.Reader, c.App.ErrWriter)
	defer func() { err = errors.Join(err, ring.Close()) }()
	token, err := ring.Token(c.Context, uri.String())
	if err != nil && c.Context.Err() != nil { // as at the prompt for the PIN
		return fmt.Errorf("stopped before the token was open: %w", context.Cause(c.Context))
	}
	if err != nil {
		return adviseOnLibrary(uri.ModulePath, err)
	}
	return f(token)
}

// hint tells a person what the output means. Who reads JSON knows.
func hint(c *urfave.Context, format string, args ...any) {
	if !c.Bool("json") {
		fmt.Fprintf(c.App.ErrWriter, "set-hsm: "+format+"\n", args...)
	}
}

// patiently runs f, and says every few seconds that it is doing something, if it takes so long.
func patiently(c *urfave.Context, doing string, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	tick := time.NewTicker(patienceSeconds * time.Second)
	defer tick.Stop()
	for start := time.Now(); ; {
		select {
		case err := <-done:
			return err
		case now := <-tick.C:
			fmt.Fprintf(c.App.ErrWriter, "set-hsm: %s: %d seconds\n", doing, int(now.Sub(start).Round(time.Second).Seconds()))
		}
	}
}

// keyID is the value of the --id flag, nil if it is not set.
func keyID(c *urfave.Context) ([]byte, error) {
	text := c.String("id")
	if text == "" {
		return nil, nil
	}
	id, err := hex.DecodeString(text)
	if err != nil {
		return nil, cli.Usage(fmt.Errorf("--id is not hexadecimal: %w", err))
	}
	return id, nil
}
