// Set-wallet is the cardholder's workstation: with the bundle of a bank it enrols a
// smart card with a cardholder CA, pays with it, and keeps the history. It reaches
// the card through PC/SC only.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/wallet"
	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/piv"
)

func main() { cli.Main(newApp()) }

// software is how the wallet names itself to its peers.
const software set.SWIdent = "setkit set-wallet"

// newApp returns the command. An App runs once.
func newApp() *urfave.App {
	return &urfave.App{
		Name:  "set-wallet",
		Usage: "enrol a smart card, pay with it, look at what was paid",
		Commands: []*urfave.Command{
			installCommand(),
			enrollCommand(),
			payCommand(),
			inquireCommand(),
			historyCommand(),
			refreshCommand(),
			uiCommand(),
			desktopCommand(),
			unblockCommand(),
			aboutCommand(),
		},
	}
}

// Flags that several commands have.
func dirFlag() urfave.Flag {
	return &urfave.StringFlag{Name: "dir", EnvVars: []string{"SET_WALLET_DIR"}, Usage: "`DIRECTORY` of the wallet (default: set-wallet in the user's configuration directory)"}
}

func jsonFlag() urfave.Flag {
	return &urfave.BoolFlag{Name: "json", Usage: "print JSON"}
}

func cardFlags() []urfave.Flag {
	return []urfave.Flag{
		&urfave.StringFlag{Name: "reader", Usage: "the card in the reader whose `NAME` is this or contains it (default: wherever the card is)"},
		&urfave.StringFlag{Name: "pin-source", Value: "prompt:", Usage: "PIN: `SOURCE` file:PATH, env:NAME, cred:NAME or prompt:"},
		&urfave.DurationFlag{Name: "card-wait", Value: time.Minute, Usage: "how long to wait for a card that was pulled to be back: `DURATION`"},
		&urfave.BoolFlag{Name: "last-try", Usage: "use the PIN even if only one try is left before the card is blocked"},
	}
}

// openWallet opens the wallet that the flags mean.
func openWallet(c *urfave.Context, client *sethttp.Client) (*wallet.Wallet, error) {
	dir, err := walletDir(c)
	if err != nil {
		return nil, err
	}
	return wallet.Open(c.Context, dir, wallet.Config{Client: client, Software: software})
}

// walletDir is where the wallet is.
func walletDir(c *urfave.Context) (string, error) {
	if dir := c.String("dir"); dir != "" {
		return dir, nil
	}
	base, err := os.UserConfigDir()
	if err != nil {
		return "", cli.Usage(fmt.Errorf("no place for the wallet, name one with --dir: %w", err))
	}
	return filepath.Join(base, "set-wallet"), nil
}

// waiting says that an answer takes its time.
func waiting(c *urfave.Context) func(string) {
	return func(peer string) { fmt.Fprintf(c.App.ErrWriter, "Waiting for an answer from %s ...\n", peer) }
}

// arguments refuses a command line with another number of arguments.
func arguments(c *urfave.Context, want ...string) error {
	switch n := c.NArg(); {
	case n < len(want):
		return cli.Usage(fmt.Errorf("%s is missing", want[n]))
	case n > len(want):
		return cli.Usage(fmt.Errorf("unexpected argument %q: options come before arguments", c.Args().Get(len(want))))
	}
	return nil
}

// classified gives an error its exit code, and makes fit for a terminal what a
// peer put into it.
func classified(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	var refused *smartcard.PINError
	switch {
	case errors.Is(err, piv.ErrLastTry):
		text += ": --last-try is that consent"
	case errors.As(err, &refused) && refused.Reference == "PIN" && refused.TriesLeft == 0:
		text += ": set-wallet unblock"
	}
	clean := &cleanError{wallet.Printable([]byte(text)), err}
	var away *sethttp.UnreachableError
	switch {
	case errors.As(err, &away):
		return cli.Peer(clean)
	case errors.Is(err, smartcard.ErrUnavailable):
		return cli.Device(clean)
	}
	return clean
}

// cleanError is an error with another text.
type cleanError struct {
	text string
	err  error
}

func (e *cleanError) Error() string { return e.text }
func (e *cleanError) Unwrap() error { return e.err }

// parseXID reads an XID from the command line.
func parseXID(text string) (set.XID, error) {
	var xid set.XID
	if err := xid.UnmarshalText([]byte(text)); err != nil {
		return xid, cli.Usage(fmt.Errorf("%q is no XID, which is 40 hexadecimal digits", text))
	}
	return xid, nil
}

// errNotCard tells that none of the cards that would do is in a reader.
func errNotCard(cards []*wallet.EnrolledCard, problem error) error {
	var serials []string
	for _, c := range cards {
		serials = append(serials, fmt.Sprintf("%s (%s %s)", c.Serial, c.Brand, c.Masked()))
	}
	err := fmt.Errorf("%w: insert the enrolled card: %s", smartcard.ErrNoCard, strings.Join(serials, " or "))
	return errors.Join(err, problem)
}
