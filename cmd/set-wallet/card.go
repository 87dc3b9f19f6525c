package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/wallet"
	"github.com/setkit/setkit/roles/wallet/web"
	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/pcsc"
	"github.com/setkit/setkit/smartcard/piv"
)

// connection is a smart card, in whatever reader it is, with a session that asks
// for its PIN once, when a key is first used. If the card is lost, the session
// goes on when it is back.
type connection struct {
	finder     finder
	card       *pcsc.Card
	transports []patient // one for each time that it was opened
	piv        *piv.Card
	session    *piv.Session
	serial     string
	signer     crypto.Signer
	decrypter  crypto.Decrypter
}

var _ wallet.Card = (*connection)(nil)

func (c *connection) Serial() string              { return c.serial }
func (c *connection) Signer() crypto.Signer       { return c.signer }
func (c *connection) Decrypter() crypto.Decrypter { return c.decrypter }

// Hold does what was approved, if f has, even where the PIN could not be withdrawn
// afterwards.
func (c *connection) Hold(f func() error) error {
	err := errors.New("f was not called")
	held := c.session.Hold(func() error {
		err = f()
		return err
	})
	if err == nil && held != nil {
		c.finder.say(notice{topic: web.TopicTakeOut, text: fmt.Sprintf("Take card %s out of the reader: %v", c.serial, held)})
		return nil
	}
	return held
}

// close clears the PIN and leaves the card.
func (c *connection) close() {
	if c.session != nil {
		c.session.Close()
	}
	c.card.Close()
}

// connect opens the card in a reader and asks who it is.
func (f finder) connect(ctx context.Context, reader string) (*connection, error) {
	card, err := pcsc.Open(ctx, reader)
	if err != nil {
		return nil, err
	}
	transport := patient{smartcard.NewRecorder(card), f.say}
	c := &connection{
		finder: f, card: card, transports: []patient{transport},
		piv: piv.New(transport, piv.Options{Extended: card.Extended()}),
	}
	if c.serial, err = c.piv.Serial(ctx); err != nil {
		card.Close()
		return nil, fmt.Errorf("reader %q: %w", reader, err)
	}
	return c, nil
}

// reopen gets the card back after it was lost. See piv.SessionConfig.
func (c *connection) reopen(ctx context.Context, lost error) (smartcard.Card, error) {
	c.card.Close()
	back, err := c.finder.await(ctx, lost, []string{c.serial})
	if err != nil {
		return nil, err
	}
	c.card = back.card
	c.transports = append(c.transports, back.transports...)
	return back.transports[0], nil
}

// pinEntry is how the PIN is got.
type pinEntry struct {
	source  string
	lastTry bool
	stdin   io.Reader
	stderr  io.Writer

	asked     bool
	triesLeft int // when it was asked for last
}

func newPINEntry(c *urfave.Context) *pinEntry {
	return &pinEntry{source: c.String("pin-source"), lastTry: c.Bool("last-try"), stdin: c.App.Reader, stderr: c.App.ErrWriter}
}

// prompts says that a person enters the PIN.
func (p *pinEntry) prompts() bool { return strings.HasPrefix(p.source, "prompt:") }

// ask gets the PIN from its source. It can be asked for again, if the card was
// lost before it said that the PIN is right. A person knows then what to do; what
// comes from elsewhere is not tried again if the card has counted a wrong one.
func (p *pinEntry) ask(ctx context.Context, r piv.PINRequest) ([]byte, error) {
	if p.asked && !p.prompts() && r.TriesLeft < p.triesLeft {
		return nil, fmt.Errorf("the card was lost while it checked the PIN and has counted a wrong one (%d tries left): the one from %s is not tried again", r.TriesLeft, p.source)
	}
	p.asked, p.triesLeft = true, r.TriesLeft
	prompt := fmt.Sprintf("PIN of card %s, %s", r.Serial, r.Reason)
	if r.TriesLeft == 1 {
		prompt += " (the last try)"
	}
	return cli.Secret(ctx, p.source, prompt, p.stdin, p.stderr)
}

// session gives the configuration of a session whose PIN is got so.
func (p *pinEntry) session(c *connection, reason string) piv.SessionConfig {
	return piv.SessionConfig{
		Reason: reason, AllowLastTry: p.lastTry, PIN: p.ask, IgnoreKeypad: !p.prompts(), Reopen: c.reopen,
		Pad: func(_ context.Context, r piv.PadRequest) error {
			c.finder.say(notice{text: fmt.Sprintf("PIN of card %s, %s: enter it on the reader's keypad", r.Serial, r.Reason)})
			return nil
		},
	}
}

// use makes the card's keys usable. The public keys are known from elsewhere, or
// nil: then the card is asked.
func (c *connection) use(ctx context.Context, cfg piv.SessionConfig, sign, vault crypto.PublicKey) (err error) {
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
	c.session = c.piv.NewSession(ctx, cfg)
	signer, err := c.session.Signer(piv.SlotSignature, sign)
	if err != nil {
		return err
	}
	c.signer = signatureKey{signer}
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

// signatureKey tells the wallet when a signature may have been made that was lost.
type signatureKey struct{ crypto.Signer }

func (k signatureKey) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	signature, err := k.Signer.Sign(rand, digest, opts)
	var interrupted *piv.InterruptedError
	if errors.As(err, &interrupted) && interrupted.KeyUsed {
		return nil, lostSignature{err}
	}
	return signature, err
}

// lostSignature is an error that the wallet knows.
type lostSignature struct{ error }

func (e lostSignature) Unwrap() error        { return e.error }
func (e lostSignature) Is(target error) bool { return target == wallet.ErrSignatureLost }

// slowAfter is how long a card is waited for in silence.
const slowAfter = 2 * time.Second

// patient is a card that counts, and that one waits for and is told so.
type patient struct {
	*smartcard.Recorder
	say func(notice)
}

func (p patient) Begin(ctx context.Context) error {
	defer p.after(notice{topic: web.TopicInUse, text: "Waiting for another program to give the card back ..."})()
	return p.Recorder.Begin(ctx)
}

func (p patient) Transmit(ctx context.Context, cmd []byte) ([]byte, error) {
	defer p.after(notice{topic: web.TopicTouch, text: "Waiting for the card; some want to be touched ..."})()
	return p.Recorder.Transmit(ctx, cmd)
}

// after says something unless the function that it returns is called soon.
func (p patient) after(n notice) (stop func()) {
	said := make(chan struct{})
	timer := time.AfterFunc(slowAfter, func() {
		defer close(said)
		p.say(n)
	})
	return func() {
		if !timer.Stop() {
			<-said
		}
	}
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
	for _, t := range c.transports {
		for _, r := range t.Take() {
			sum.Count++
			sum.SentBytes += r.SentBytes
			sum.ReceivedBytes += r.ReceivedBytes
			took += r.Took
		}
	}
	sum.Milliseconds = float64(took.Microseconds()) / 1000
	return &sum
}
