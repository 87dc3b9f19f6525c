package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/pcsc"
	"github.com/setkit/setkit/smartcard/virtual"
)

// statePoll is the time between two looks at a reader.
const statePoll = 50 * time.Millisecond

// A bay is a virtual reader and the card that belongs into it.
type bay struct {
	number int // from 1
	card   *virtual.Card
	device virtual.Device // the card, perhaps with a latency
	state  string         // its file, or ""
	reader virtual.Reader

	mu      sync.Mutex
	plugged *virtual.Plugged // nil: the card is not in the reader
}

// insert puts the card into the reader for as long as ctx lasts, and returns when
// PC/SC has noticed.
func (b *bay) insert(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.inserted() {
		return fmt.Errorf("card %d is in its reader already", b.number)
	}
	plugged, err := virtual.Plug(ctx, b.reader.Addr, b.device)
	if err != nil {
		return err
	}
	b.plugged = plugged
	waiting, cancel := context.WithTimeout(ctx, insertTimeout)
	defer cancel()
	_, err = pcsc.Wait(waiting, b.reader.Name)
	return err
}

// remove pulls the card, and returns when PC/SC has noticed.
func (b *bay) remove(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.inserted() {
		return fmt.Errorf("card %d is not in its reader", b.number)
	}
	b.plugged.Unplug()
	b.plugged = nil
	ctx, cancel := context.WithTimeout(ctx, insertTimeout)
	defer cancel()
	for {
		all, err := pcsc.Readers(ctx)
		if err != nil {
			return err
		}
		present := false
		for _, r := range all {
			present = present || r.Name == b.reader.Name && r.CardPresent
		}
		if !present {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("reader %q still shows the card: %w", b.reader.Name, ctx.Err())
		case <-time.After(statePoll):
		}
	}
}

// reset resets the card as another program could, after its transaction.
func (b *bay) reset(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.inserted() {
		return fmt.Errorf("card %d is not in its reader", b.number)
	}
	ctx, cancel := context.WithTimeout(ctx, insertTimeout)
	defer cancel()
	card, err := pcsc.Open(ctx, b.reader.Name)
	if err != nil {
		return err
	}
	defer card.Close()
	if err := card.Begin(ctx); err != nil {
		return err
	}
	return card.End(smartcard.Reset)
}

// pull takes the card out without a word.
func (b *bay) pull() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.plugged != nil {
		b.plugged.Unplug()
	}
	b.plugged = nil
}

// inserted says if the card is in the reader. The caller has mu.
func (b *bay) inserted() bool {
	if b.plugged == nil {
		return false
	}
	select {
	case <-b.plugged.Done(): // the reader has thrown it out
		return false
	default:
		return true
	}
}

// bayStatus is what list shows of a bay.
type bayStatus struct {
	Number   int    `json:"number"`
	Serial   uint32 `json:"serial"`
	Reader   string `json:"reader"`
	Inserted bool   `json:"inserted"`
	State    string `json:"state,omitempty"`
}

func (b *bay) status() bayStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bayStatus{b.number, b.card.Serial(), b.reader.Name, b.inserted(), b.state}
}
