package main

import (
	"errors"
	"fmt"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/piv"
)

// A referenceChange is a command that sets a PIN or PUK.
type referenceChange struct {
	name, usage, example string
	proof, set           string // PIN or PUK: what proves the right to, and what is set
	flag, newFlag        string // their sources
	change               func(tx *piv.Tx, proof, value []byte) error
	onPad                func(tx *piv.Tx) error
}

var (
	pinChange     = referenceChange{"pin", "change the PIN of a card", "pin", "PIN", "PIN", "pin-source", "new-pin-source", (*piv.Tx).ChangePIN, (*piv.Tx).ChangePINOnPad}
	pukChange     = referenceChange{"puk", "change the PUK of a card", "puk", "PUK", "PUK", "puk-source", "new-puk-source", (*piv.Tx).ChangePUK, (*piv.Tx).ChangePUKOnPad}
	unblockChange = referenceChange{"unblock", "set a new PIN with the PUK, when the PIN is blocked or forgotten",
		"unblock --puk-source file:puk", "PUK", "PIN", "puk-source", "new-pin-source", (*piv.Tx).UnblockPIN, (*piv.Tx).UnblockPINOnPad}
)

func (r referenceChange) command() *urfave.Command {
	const source = ": `SOURCE` file:PATH, env:NAME, cred:NAME or prompt:"
	return &urfave.Command{
		Name: r.name, Usage: r.usage,
		Description: "The last try before the " + r.proof + " is blocked is not used without --last-try. Where the reader has a\n" +
			"keypad, both are entered there and never reach this computer, unless a source is given.\n\n" +
			"Example: set-card " + r.example,
		Flags: []urfave.Flag{
			readerFlag(),
			&urfave.StringFlag{Name: r.flag, Value: "prompt:", Usage: "present " + r.proof + source},
			&urfave.StringFlag{Name: r.newFlag, Value: "prompt:", Usage: "new " + r.set + source},
			&urfave.BoolFlag{Name: "last-try", Usage: "use the " + r.proof + " even if only one try is left before it is blocked"},
			jsonFlag(),
		},
		Action: func(c *urfave.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			return classified(r.run(c))
		},
	}
}

func (r referenceChange) run(c *urfave.Context) error {
	card, err := open(c)
	if err != nil {
		return err
	}
	defer card.close()
	tries, err := r.triesLeft(c, card)
	if err != nil {
		return r.explain(err)
	}
	set := r.typed
	if card.piv.Keypad().Modify && !c.IsSet(r.flag) && !c.IsSet(r.newFlag) {
		set = r.entered
	}
	if err := set(c, card, tries); err != nil {
		return r.explain(err)
	}
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, cardDone{card.reader, card.serial})
	}
	fmt.Fprintf(c.App.Writer, "card %s has the new %s\n", card.serial, r.set)
	return nil
}

// typed gets the secrets from their sources.
func (r referenceChange) typed(c *urfave.Context, card *openedCard, tries int) error {
	prompt := r.proof + " of card " + card.serial
	if tries != piv.TriesUnknown {
		prompt += fmt.Sprintf(" (tries left: %d)", tries)
	}
	proof, err := cli.Secret(c.Context, c.String(r.flag), prompt, c.App.Reader, c.App.ErrWriter)
	if err != nil {
		return fmt.Errorf("--%s: %w", r.flag, err)
	}
	defer clear(proof)
	value, err := newReference(c, r.newFlag, "new "+r.set)
	if err != nil {
		return err
	}
	defer clear(value)
	return r.do(c, card, func(tx *piv.Tx) error { return r.change(tx, proof, value) })
}

// entered has the secrets entered on the reader's keypad.
func (r referenceChange) entered(c *urfave.Context, card *openedCard, tries int) error {
	left := ""
	if tries != piv.TriesUnknown {
		left = fmt.Sprintf(", tries left: %d", tries)
	}
	fmt.Fprintf(c.App.ErrWriter, "On the keypad of reader %q, for card %s: enter the present %s%s, then the new %s twice, with OK after each.\n",
		card.reader, card.serial, r.proof, left, r.set)
	return r.do(c, card, r.onPad)
}

func (r referenceChange) do(c *urfave.Context, card *openedCard, change func(tx *piv.Tx) error) error {
	return card.piv.Do(c.Context, func(tx *piv.Tx) error {
		if c.Bool("last-try") {
			tx.AllowLastTry()
		}
		return change(tx)
	})
}

// triesLeft looks before anyone is asked for anything: a blocked PIN is not worth
// the question.
func (r referenceChange) triesLeft(c *urfave.Context, card *openedCard) (int, error) {
	tries := piv.TriesUnknown
	err := card.piv.Do(c.Context, func(tx *piv.Tx) (err error) {
		if r.proof == "PIN" {
			tries, err = tx.PINTries()
			return err
		}
		info, err := tx.PUKInfo()
		if errors.Is(err, piv.ErrUnsupported) {
			return nil
		}
		tries = info.TriesLeft
		return err
	})
	switch {
	case err != nil:
		return tries, err
	case tries == 0:
		return tries, smartcard.NewPINError(r.proof, smartcard.StatusBlocked)
	case tries == 1 && !c.Bool("last-try"):
		return tries, fmt.Errorf("%s of card %s: %w", r.proof, card.serial, piv.ErrLastTry)
	}
	return tries, nil
}

// explain says by which means this command gets further.
func (r referenceChange) explain(err error) error {
	var refused *smartcard.PINError
	switch {
	case errors.Is(err, piv.ErrLastTry):
		return fmt.Errorf("%w: --last-try is that consent", err)
	case errors.As(err, &refused) && refused.TriesLeft == 0 && refused.Reference == "PIN":
		return fmt.Errorf("%w: set-card unblock", err)
	case errors.As(err, &refused) && refused.TriesLeft == 0:
		return fmt.Errorf("%w: set-card reset", err)
	}
	return err
}
