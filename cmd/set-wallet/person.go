package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/wallet"
)

// lineBytesMax bounds what is read for one answer.
const lineBytesMax = 1 << 10

// terminal asks the person who runs the command.
type terminal struct {
	stdin  io.Reader
	show   io.Writer // what is to be seen; not where JSON goes
	stderr io.Writer
}

func newTerminal(c *urfave.Context) terminal {
	t := terminal{c.App.Reader, c.App.Writer, c.App.ErrWriter}
	if c.Bool("json") {
		t.show = c.App.ErrWriter
	}
	return t
}

// ask reads one line.
func (t terminal) ask(ctx context.Context, question string) (string, error) {
	fmt.Fprintf(t.stderr, "%s: ", question)
	type answer struct {
		line string
		err  error
	}
	// A read cannot be cancelled: the goroutine outlives a cancelled question until
	// the next line or the end of the process.
	done := make(chan answer, 1)
	go func() {
		line, err := readLine(t.stdin)
		done <- answer{line, err}
	}()
	select {
	case a := <-done:
		return a.line, a.err
	case <-ctx.Done():
		fmt.Fprintln(t.stderr)
		return "", context.Cause(ctx)
	}
}

// readLine reads no further than the end of the line, because the next one may be
// for someone else.
func readLine(r io.Reader) (string, error) {
	var line []byte
	var b [1]byte
	for {
		n, err := r.Read(b[:])
		switch {
		case n == 1 && b[0] == '\n':
			return strings.TrimSpace(string(line)), nil
		case n == 1 && len(line) == lineBytesMax:
			return "", fmt.Errorf("the answer has more than %d bytes", lineBytesMax)
		case n == 1:
			line = append(line, b[0])
		case errors.Is(err, io.EOF) && len(line) > 0:
			return strings.TrimSpace(string(line)), nil
		case err != nil:
			return "", fmt.Errorf("no answer: %w", err)
		}
	}
}

// confirm asks for a yes.
func (t terminal) confirm(ctx context.Context, question string) (bool, error) {
	line, err := t.ask(ctx, question+" (yes/no)")
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	return strings.EqualFold(line, "yes") || strings.EqualFold(line, "y"), err
}

// payer is the person who pays, for package wallet.
type payer struct {
	terminal
	finder finder
	pin    *pinEntry
	yes    bool
	card   *connection // once chosen
}

func newPayer(c *urfave.Context) *payer {
	return &payer{terminal: newTerminal(c), finder: newFinder(c), pin: newPINEntry(c), yes: c.Bool("yes")}
}

func (p *payer) close() {
	if p.card != nil {
		p.card.close()
	}
}

// Choose connects to the card of the merchant's preferred brand that is there.
func (p *payer) Choose(ctx context.Context, cards []*wallet.EnrolledCard) (*wallet.EnrolledCard, wallet.Card, error) {
	e, c, err := p.finder.find(ctx, cards)
	if err != nil {
		return nil, nil, err
	}
	p.card = c
	if err := c.use(ctx, p.pin.session(c, "to pay"), e.Certificate.X509.PublicKey, e.VaultKey); err != nil {
		return nil, nil, err
	}
	return e, c, nil
}

// Approve shows the offer and asks.
func (p *payer) Approve(ctx context.Context, o *wallet.Offer) (bool, error) {
	showOffer(p.show, o)
	if p.yes {
		return true, nil
	}
	return p.confirm(ctx, "Pay this?")
}

// applicant is the person who enrols, for package wallet.
type applicant struct {
	terminal
	acceptPolicy bool
	answers      map[string]formAnswer // nil: ask
}

// AcceptPolicy shows the policy and asks.
func (a *applicant) AcceptPolicy(ctx context.Context, policy string) (bool, error) {
	fmt.Fprintf(a.show, "The CA's policy:\n\n%s\n\n", policy)
	if a.acceptPolicy {
		return true, nil
	}
	return a.confirm(ctx, "Do you accept the policy?")
}

// Answers looks the fields up, or asks for one after the other.
func (a *applicant) Answers(ctx context.Context, fields []wallet.Field) (answers []string, err error) {
	for _, f := range fields {
		given, err := a.answer(ctx, f)
		if err != nil {
			return nil, err
		}
		answers = append(answers, given)
	}
	return answers, nil
}

func (a *applicant) answer(ctx context.Context, f wallet.Field) (string, error) {
	if a.answers != nil {
		given, ok := a.answers[f.Name]
		switch {
		case !ok && f.Required:
			return "", fmt.Errorf("the CA asks for %q, which the file of answers does not have", f.Name)
		case !ok:
			return "", nil
		case given.source == "":
			return given.value, nil
		}
		secret, err := cli.Secret(ctx, given.source, f.Name, a.stdin, a.stderr)
		defer clear(secret)
		return string(secret), err
	}
	question := f.Name
	if f.Description != "" {
		question += ", " + f.Description
	}
	if !f.Required {
		question += " (optional)"
	}
	if f.Secret {
		secret, err := cli.Secret(ctx, "prompt:", question, a.stdin, a.stderr)
		defer clear(secret)
		return string(secret), err
	}
	return a.ask(ctx, question)
}
