package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/roles/wallet"
	"github.com/setkit/setkit/roles/wallet/web"
	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/pcsc"
	"github.com/setkit/setkit/smartcard/piv"
)

// devices are the readers of this computer, for the window.
type devices struct {
	only string // the readers that count have this in their names
	wait time.Duration

	mu      sync.Mutex
	readers []web.Reader
	visits  map[string]int // how often a card was put into a reader
	problem *web.Problem
	changed chan struct{}
}

var _ web.Devices = (*devices)(nil)

// newDevices watches the readers until ctx ends.
func newDevices(ctx context.Context, c *urfave.Context) *devices {
	d := &devices{only: c.String("reader"), wait: c.Duration("card-wait"), visits: make(map[string]int), changed: make(chan struct{})}
	go func() {
		for e := range pcsc.Watch(ctx) {
			d.take(ctx, e)
		}
	}()
	return d
}

// Readers gives what was seen last.
func (d *devices) Readers() ([]web.Reader, *web.Problem, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []web.Reader
	for _, r := range d.readers {
		if strings.Contains(r.Name, d.only) {
			list = append(list, r)
		}
	}
	problem := d.problem
	if problem == nil && len(list) == 0 {
		problem = &web.Problem{Topic: web.TopicNoReader}
	}
	return list, problem, d.changed
}

// take notes an event of the watch, and has a new card say who it is.
func (d *devices) take(ctx context.Context, e pcsc.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.readers, func(r web.Reader) bool { return r.Name == e.Reader.Name })
	switch e.Change {
	case pcsc.ServiceLost:
		p := explain(e.Err)
		d.problem = &p
	case pcsc.ServiceBack:
		d.problem = nil
	case pcsc.ReaderConnected:
		d.readers = append(d.readers, web.Reader{Name: e.Reader.Name})
	case pcsc.ReaderDisconnected:
		d.readers = slices.Delete(d.readers, i, i+1)
	case pcsc.CardRemoved:
		d.readers[i] = web.Reader{Name: e.Reader.Name}
	case pcsc.CardInserted:
		d.readers[i] = web.Reader{Name: e.Reader.Name, Card: true}
		d.visits[e.Reader.Name]++
		go d.identify(ctx, e.Reader.Name, d.visits[e.Reader.Name])
	}
	d.tell()
}

// tell tells those who wait. The lock is held.
func (d *devices) tell() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// identify asks a card for its number. visit tells it from one that came into the reader later.
func (d *devices) identify(ctx context.Context, reader string, visit int) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	seen := web.Reader{Name: reader, Card: true}
	card, err := (finder{say: func(notice) {}}).connect(ctx, reader)
	if err == nil {
		seen.Serial = card.serial
		card.close()
	} else {
		p := explain(err)
		seen.Problem = &p
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.readers, func(r web.Reader) bool { return r.Name == reader })
	if i >= 0 && d.readers[i].Card && d.visits[reader] == visit {
		d.readers[i] = seen
		d.tell()
	}
}

// finder finds cards for a person before the window.
func (d *devices) finder(p web.Person) finder {
	return finder{reader: d.only, wait: d.wait, say: func(n notice) {
		problem := web.Problem{Topic: n.topic, Detail: n.text}
		if n.lost != nil {
			problem.Topic = explain(n.lost).Topic
			p.Lost(&problem)
			return
		}
		p.Notice(problem)
	}}
}

// Connect connects to the first of the enrolled cards that is there.
func (d *devices) Connect(ctx context.Context, cards []*wallet.EnrolledCard, p web.Person) (*wallet.EnrolledCard, web.Card, error) {
	e, c, err := d.finder(p).find(ctx, cards)
	p.Lost(nil)
	if err != nil {
		return nil, nil, notThere(err)
	}
	card, err := prepare(ctx, c, p, "to pay", e)
	return e, card, err
}

// ConnectReader connects to whatever card is in the reader.
func (d *devices) ConnectReader(ctx context.Context, reader string, p web.Person) (web.Card, error) {
	c, err := d.finder(p).connect(ctx, reader)
	if err != nil {
		return nil, notThere(err)
	}
	return prepare(ctx, c, p, "to enrol", nil)
}

// notThere marks an error that another card, or the same one once more, ends.
func notThere(err error) error {
	if errors.Is(err, smartcard.ErrUnavailable) {
		return fmt.Errorf("%w: %w", web.ErrNotThere, err)
	}
	return err
}

// windowCard is a card that the window uses.
type windowCard struct {
	*connection
	tries int
}

func (c *windowCard) TriesLeft() int { return c.tries }
func (c *windowCard) Keypad() bool   { return c.piv.Keypad().Verify }
func (c *windowCard) Close()         { c.close() }

// prepare makes a card's keys usable, with the PIN from the window.
func prepare(ctx context.Context, c *connection, p web.Person, reason string, e *wallet.EnrolledCard) (web.Card, error) {
	card := &windowCard{connection: c}
	err := c.piv.Do(ctx, func(tx *piv.Tx) (err error) {
		card.tries, err = tx.PINTries()
		return err
	})
	if err == nil && card.tries == 1 {
		err = p.LastTry(ctx, c.serial)
	}
	if err == nil {
		cfg := piv.SessionConfig{
			Reason: reason, AllowLastTry: card.tries == 1,
			PIN: func(ctx context.Context, r piv.PINRequest) ([]byte, error) {
				p.Lost(nil)
				return p.PIN(ctx, r.Serial, r.TriesLeft)
			},
			Pad: func(_ context.Context, r piv.PadRequest) error {
				p.Pad(r.Serial)
				return nil
			},
			Reopen: func(ctx context.Context, lost error) (smartcard.Card, error) {
				back, err := c.reopen(ctx, lost)
				p.Lost(nil)
				return back, err
			},
		}
		if e == nil {
			err = c.use(ctx, cfg, nil, nil)
		} else {
			err = c.use(ctx, cfg, e.Certificate.X509.PublicKey, e.VaultKey)
		}
	}
	if err != nil {
		c.close()
		return nil, notThere(err)
	}
	return card, nil
}

// SetPIN gives the card in the reader a new PIN.
func (d *devices) SetPIN(ctx context.Context, reader string, unblock bool, p web.Person) (string, error) {
	c, err := d.finder(p).connect(ctx, reader)
	if err != nil {
		return "", notThere(err)
	}
	defer c.close()
	set := pinSetting{card: c.piv, reference: "PIN", change: (*piv.Tx).ChangePIN, onPad: (*piv.Tx).ChangePINOnPad}
	if unblock {
		set.reference, set.change, set.onPad = "PUK", (*piv.Tx).UnblockPIN, (*piv.Tx).UnblockPINOnPad
	}
	return c.serial, notThere(set.run(ctx, c.serial, p))
}

// pinSetting is a way to set the PIN of a card.
type pinSetting struct {
	card      *piv.Card
	reference string // what proves the right to
	change    func(tx *piv.Tx, proof, pin []byte) error
	onPad     func(tx *piv.Tx) error
}

// run looks at the tries before it asks for anything.
func (s pinSetting) run(ctx context.Context, serial string, p web.Person) error {
	tries, err := s.triesLeft(ctx)
	switch {
	case err != nil:
		return err
	case tries == 0:
		return smartcard.NewPINError(s.reference, smartcard.StatusBlocked)
	case tries == 1:
		if err := p.LastTry(ctx, serial); err != nil {
			return err
		}
	}
	do := s.onPad
	if s.card.Keypad().Modify {
		p.Pad(serial)
	} else {
		proof, pin, err := p.NewPIN(ctx, serial, tries)
		if err != nil {
			return err
		}
		defer clear(proof)
		defer clear(pin)
		do = func(tx *piv.Tx) error { return s.change(tx, proof, pin) }
	}
	return s.card.Do(ctx, func(tx *piv.Tx) error {
		if tries == 1 {
			tx.AllowLastTry()
		}
		return do(tx)
	})
}

func (s pinSetting) triesLeft(ctx context.Context) (tries int, err error) {
	err = s.card.Do(ctx, func(tx *piv.Tx) error {
		if s.reference == "PIN" {
			tries, err = tx.PINTries()
			return err
		}
		info, err := tx.PUKInfo()
		if tries = info.TriesLeft; errors.Is(err, piv.ErrUnsupported) { // not every card tells
			tries, err = piv.TriesUnknown, nil
		}
		return err
	})
	return tries, err
}
