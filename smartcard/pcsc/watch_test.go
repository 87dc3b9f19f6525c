package pcsc_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/cardtest"
	"github.com/setkit/setkit/smartcard/pcsc"
	"github.com/setkit/setkit/smartcard/virtual"
)

const eventTimeout = 30 * time.Second

// watch passes on what happens to one reader until the test ends.
func watch(t *testing.T, reader string) <-chan pcsc.Event {
	events := make(chan pcsc.Event, 100)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for e := range pcsc.Watch(ctx) {
			if e.Reader.Name == reader {
				events <- e
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return events
}

// wantEvents wants these changes next, and no others in between.
func wantEvents(t *testing.T, events <-chan pcsc.Event, want ...pcsc.Change) {
	t.Helper()
	for _, change := range want {
		select {
		case e := <-events:
			if e.Change != change || e.Reader.CardPresent != (len(e.Reader.ATR) > 0) || change == pcsc.CardInserted && !e.Reader.CardPresent {
				t.Fatalf("got %v with %+v, want %v", e.Change, e.Reader, change)
			}
		case <-time.After(eventTimeout):
			t.Fatalf("no event, want %v", change)
		}
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	r := cardtest.NewReader(t)
	first, second := watch(t, r.Name), watch(t, r.Name)
	wantEvents(t, first, pcsc.ReaderConnected)
	wantEvents(t, second, pcsc.ReaderConnected)
	for range 2 {
		r.Plug(virtual.NewCard())
		wantEvents(t, first, pcsc.CardInserted)
		wantEvents(t, second, pcsc.CardInserted)
		r.Unplug()
		wantEvents(t, first, pcsc.CardRemoved)
		wantEvents(t, second, pcsc.CardRemoved)
	}
	r.Plug(virtual.NewCard())
	wantEvents(t, second, pcsc.CardInserted)
	// One who comes later is told what is there.
	wantEvents(t, watch(t, r.Name), pcsc.ReaderConnected, pcsc.CardInserted)
	// A card in use is no change.
	c := open(t, r.Name)
	if err := c.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantOK(t, c)
	if err := c.End(smartcard.Reset); err != nil {
		t.Fatal(err)
	}
	r.Unplug()
	wantEvents(t, second, pcsc.CardRemoved)
}

// TestWatchExchange has a card exchanged between two looks: PC/SC counts.
func TestWatchExchange(t *testing.T) {
	t.Parallel()
	r := cardtest.New(t)
	before, err := pcsc.Moves(r.Name)
	if err != nil {
		t.Fatal(err)
	}
	r.Unplug()
	r.Plug(virtual.NewCard())
	now, err := pcsc.Moves(r.Name)
	if err != nil || now != before+2 {
		t.Errorf("%d moves before, then %d, %v; want two more", before, now, err)
	}
	full := pcsc.Reader{Name: r.Name, CardPresent: true, ATR: r.Virtual.ATR()}
	empty := pcsc.Reader{Name: r.Name}
	at := func(reader pcsc.Reader, moves uint32) []pcsc.Sighting {
		return []pcsc.Sighting{pcsc.SightingOf(reader, moves)}
	}
	for _, tt := range []struct {
		name        string
		before, now []pcsc.Sighting
		want        []pcsc.Event
	}{
		{"nothing", at(full, before), at(full, before), nil},
		{"exchanged", at(full, before), at(full, now), []pcsc.Event{{Change: pcsc.CardRemoved, Reader: empty}, {Change: pcsc.CardInserted, Reader: full}}},
		{"in and out again", at(empty, 1), at(empty, 3), nil},
		{"reader gone", at(full, 0), nil, []pcsc.Event{{Change: pcsc.CardRemoved, Reader: empty}, {Change: pcsc.ReaderDisconnected, Reader: empty}}},
		{"reader and card", nil, at(full, 0), []pcsc.Event{{Change: pcsc.ReaderConnected, Reader: full}, {Change: pcsc.CardInserted, Reader: full}}},
	} {
		if diff := cmp.Diff(tt.want, pcsc.Changes(tt.before, tt.now)); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}

func TestWatchEndsAtOnce(t *testing.T) {
	t.Parallel()
	r := cardtest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var cancelled time.Time
	for range pcsc.Watch(ctx) {
		if cancelled.IsZero() {
			cancelled = time.Now()
			cancel()
		}
	}
	if took := time.Since(cancelled); cancelled.IsZero() || took > 5*time.Second {
		t.Errorf("the watch ended %v after its context", took)
	}
	for e := range pcsc.Watch(t.Context()) { // and with its caller
		if e.Reader.Name == r.Name {
			break
		}
	}
}

// watchRestart is run in a process of its own: it ends the pcscd that it watches.
func watchRestart() error {
	dir, err := os.MkdirTemp("", "pcsc-watch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	config := virtual.HostConfig{Dir: dir, Readers: 1}
	host, err := virtual.StartHost(ctx, config)
	if err != nil {
		return err
	}
	defer func() { host.Stop() }()
	os.Setenv("PCSCLITE_CSOCK_NAME", host.Socket)
	plugged, err := virtual.Plug(ctx, host.Readers[0].Addr, virtual.NewCard())
	if err != nil {
		return err
	}
	defer plugged.Unplug()
	for e := range pcsc.Watch(ctx) {
		if e.Reader.Name != "" && e.Reader.Name != host.Readers[0].Name {
			continue // the other of the pair
		}
		fmt.Println(e.Change, errors.Is(e.Err, smartcard.ErrNoService) || errors.Is(e.Err, smartcard.ErrUnavailable))
		switch e.Change {
		case pcsc.CardInserted:
			if err := host.Stop(); err != nil {
				return err
			}
		case pcsc.ServiceLost:
			if host, err = virtual.StartHost(ctx, config); err != nil {
				return err
			}
		case pcsc.ServiceBack:
			cancel()
		}
	}
	return nil
}

func TestWatchService(t *testing.T) {
	t.Parallel()
	out := another(t, "restart", "")
	want := []string{"reader connected false", "card inserted false", "card removed false", "reader disconnected false", "smart card service lost true", "smart card service back false"}
	if i := strings.Index(out, want[1]); i >= 0 {
		out = want[0] + "\n" + out[i:] // with or without the card at first
	}
	if got := strings.TrimSpace(out); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}
