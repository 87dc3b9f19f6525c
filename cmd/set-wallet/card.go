package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/wallet"
	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/pcsc"
	"github.com/setkit/setkit/smartcard/piv"
)

// connection is a smart card in a reader, with a session that asks for its PIN
// once, when a key is first used.
type connection struct {
	card      *pcsc.Card
	recorder  *smartcard.Recorder
	piv       *piv.Card
	session   *piv.Session
	serial    string
	signer    crypto.Signer
	decrypter crypto.Decrypter
}

var _ wallet.Card = (*connection)(nil)

func (c *connection) Serial() string              { return c.serial }
func (c *connection) Signer() crypto.Signer       { return c.signer }
func (c *connection) Decrypter() crypto.Decrypter { return c.decrypter }

// close clears the PIN and leaves the card.
func (c *connection) close() {
	if c.session != nil {
		c.session.Close()
	}
	c.card.Close()
}

// connect opens the card in a reader and asks who it is.
func connect(ctx context.Context, reader string) (*connection, error) {
	card, err := pcsc.Open(ctx, reader)
	if err != nil {
		return nil, err
	}
	c := &connection{card: card, recorder: smartcard.NewRecorder(card)}
	c.piv = piv.New(c.recorder, piv.Options{})
	if c.serial, err = c.piv.Serial(ctx); err != nil {
		card.Close()
		return nil, fmt.Errorf("reader %q: %w", reader, err)
	}
	return c, nil
}

// pinEntry is how the PIN is got.
type pinEntry struct {
	source  string
	lastTry bool
	stdin   io.Reader
	stderr  io.Writer
}

func newPINEntry(c *urfave.Context) pinEntry {
	return pinEntry{c.String("pin-source"), c.Bool("last-try"), c.App.Reader, c.App.ErrWriter}
}

// use makes the card's keys usable. The public keys are known from elsewhere, or
// nil: then the card is asked.
func (c *connection) use(ctx context.Context, pin pinEntry, reason string, sign, vault crypto.PublicKey) (err error) {
	if sign == nil {
		if sign, err = c.publicKey(ctx, piv.SlotSignature); err != nil {
			return err
		}
	}
	if vault == nil {
		if vault, err = c.publicKey(ctx, piv.SlotKeyManagement); err != nil {
			return err
		}
	}
	c.session = c.piv.NewSession(ctx, piv.SessionConfig{
		Reason: reason, AllowLastTry: pin.lastTry,
		PIN: func(ctx context.Context, r piv.PINRequest) ([]byte, error) {
			prompt := fmt.Sprintf("PIN of card %s, %s", r.Serial, r.Reason)
			if r.TriesLeft == 1 {
				prompt += " (the last try)"
			}
			return cli.Secret(ctx, pin.source, prompt, pin.stdin, pin.stderr)
		},
	})
	if c.signer, err = c.session.Signer(piv.SlotSignature, sign); err != nil {
		return err
	}
	c.decrypter, err = c.session.Decrypter(piv.SlotKeyManagement, vault)
	return err
}

func (c *connection) publicKey(ctx context.Context, slot piv.Slot) (crypto.PublicKey, error) {
	key, err := c.piv.PublicKey(ctx, slot)
	if errors.Is(err, smartcard.StatusNotFound) {
		return nil, fmt.Errorf("card %s has no key in slot %v: set-card personalise makes it: %w", c.serial, slot, err)
	}
	return key, err
}

// apdus sums up what went to the card and back.
type apdus struct {
	Count         int     `json:"count"`
	SentBytes     int     `json:"sentBytes"`
	ReceivedBytes int     `json:"receivedBytes"`
	Milliseconds  float64 `json:"milliseconds"`
}

func (c *connection) report() *apdus {
	var sum apdus
	var took time.Duration
	for _, r := range c.recorder.Take() {
		sum.Count++
		sum.SentBytes += r.SentBytes
		sum.ReceivedBytes += r.ReceivedBytes
		took += r.Took
	}
	sum.Milliseconds = float64(took.Microseconds()) / 1000
	return &sum
}

// findCard connects to the first of the enrolled cards that is in the reader whose
// name is given, or in any.
func findCard(ctx context.Context, reader string, cards []*wallet.EnrolledCard) (*wallet.EnrolledCard, *connection, error) {
	readers, err := pcsc.Readers(ctx)
	if reader != "" {
		var one pcsc.Reader
		one, err = pcsc.Find(ctx, reader)
		readers = []pcsc.Reader{one}
	}
	if err != nil {
		return nil, nil, err
	}
	var best *wallet.EnrolledCard
	var found *connection
	var problem error
	for _, r := range readers {
		if !r.CardPresent {
			continue
		}
		c, err := connect(ctx, r.Name)
		if err != nil {
			problem = err
			continue
		}
		i := slices.IndexFunc(cards, func(e *wallet.EnrolledCard) bool { return e.Serial == c.serial })
		if i < 0 || best != nil && slices.Index(cards, best) <= i {
			if i < 0 && reader != "" {
				problem = fmt.Errorf("card %s in reader %q is not that", c.serial, r.Name)
			}
			c.close()
			continue
		}
		if found != nil {
			found.close()
		}
		best, found = cards[i], c
	}
	if found == nil {
		return nil, nil, errNotCard(cards, problem)
	}
	return best, found, nil
}
