// Package cardtest gives tests smart cards, as net/http/httptest gives them
// servers: [New] is a virtual PIV card in a reader that the real PC/SC sees, and
// [Conformance] is what every way to a PIV card has to pass.
//
//	card := cardtest.New(t)
//	c, err := pcsc.Open(t.Context(), card.Name)
//
// The card is fresh from the factory: PIN 123456, PUK 12345678, no keys.
//
// libpcsclite reads PCSCLITE_CSOCK_NAME once per process. So all tests of a
// process share one private pcscd, started by the first New and ended when the
// last test that uses it is over; each New has a reader of its own in it, and
// parallel tests don't meet. New sets the variable for the process, and with it
// for the programs that the tests start. Different processes have different
// pcscds. A process must not have used PC/SC before its first New.
//
// It takes pcscd and vsmartcard-vpcd to be installed, but neither root nor a
// running pcscd.
package cardtest

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/pcsc"
	"github.com/setkit/setkit/smartcard/virtual"
)

const (
	readersPerProcess = 8

	readerTimeout = time.Minute      // for a reader to become free
	stateTimeout  = 20 * time.Second // for PC/SC to notice a card
	pollInterval  = 20 * time.Millisecond
)

// A Reader is a virtual reader that belongs to one test.
type Reader struct {
	Name   string // as PC/SC lists it
	Socket string // the value of PCSCLITE_CSOCK_NAME

	t       testing.TB
	addr    string
	plugged *virtual.Plugged
}

// A Card is a virtual card in a reader.
type Card struct {
	*Reader
	Virtual *virtual.Card
}

// New returns a new card, fresh from the factory, in a reader of its own. PC/SC
// has noticed it. Both are gone at the end of the test.
func New(t testing.TB) *Card {
	t.Helper()
	c := &Card{Reader: NewReader(t), Virtual: virtual.NewCard()}
	c.Plug(c.Virtual)
	return c
}

// NewReader returns an empty reader. It is gone at the end of the test.
func NewReader(t testing.TB) *Reader {
	t.Helper()
	r, err := pool.acquire()
	if err != nil {
		t.Fatalf("cardtest: %v", err)
	}
	r.t = t
	t.Cleanup(func() {
		if r.plugged != nil {
			r.plugged.Unplug()
			r.awaitState(false)
		}
		if err := pool.release(r); err != nil {
			t.Errorf("cardtest: %v", err)
		}
	})
	return r
}

// Plug puts a card into the reader, and returns when PC/SC has noticed.
func (r *Reader) Plug(d virtual.Device) {
	r.t.Helper()
	if r.plugged != nil {
		r.t.Fatalf("cardtest: reader %q already has a card", r.Name)
	}
	p, err := virtual.Plug(context.Background(), r.addr, d)
	if err != nil {
		r.t.Fatalf("cardtest: %v", err)
	}
	r.plugged = p
	r.awaitState(true)
}

// Unplug pulls the card, and returns when PC/SC has noticed.
func (r *Reader) Unplug() {
	r.t.Helper()
	if r.plugged == nil {
		r.t.Fatalf("cardtest: reader %q has no card", r.Name)
	}
	r.plugged.Unplug()
	r.plugged = nil
	r.awaitState(false)
}

// Reset resets the card, as another program can do. It waits until nobody is in
// a transaction.
func (r *Reader) Reset() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stateTimeout)
	defer cancel()
	c, err := pcsc.Open(ctx, r.Name)
	if err != nil {
		r.t.Fatalf("cardtest: %v", err)
	}
	defer c.Close()
	if err := c.Begin(ctx); err != nil {
		r.t.Fatalf("cardtest: %v", err)
	}
	if err := c.End(smartcard.Reset); err != nil {
		r.t.Fatalf("cardtest: %v", err)
	}
}

// awaitState waits until PC/SC sees a card in the reader, or none.
func (r *Reader) awaitState(present bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stateTimeout)
	defer cancel()
	for {
		all, err := pcsc.Readers(ctx)
		for _, seen := range all {
			if seen.Name == r.Name && seen.CardPresent == present {
				return
			}
		}
		select {
		case <-ctx.Done():
			r.t.Errorf("cardtest: reader %q did not get to card present = %v: PC/SC sees %+v, %v", r.Name, present, all, err)
			return
		case <-time.After(pollInterval):
		}
	}
}

// pool is the process's pcscd.
var pool readerPool

type readerPool struct {
	mu    sync.Mutex
	dir   string // the same for every pcscd of the process: libpcsclite remembers it
	host  *virtual.Host
	free  []virtual.Reader
	taken int
}

// acquire takes a free reader and waits for one if there is none.
func (p *readerPool) acquire() (*Reader, error) {
	for deadline := time.Now().Add(readerTimeout); ; time.Sleep(pollInterval) {
		r, err := p.tryAcquire()
		if r != nil || err != nil {
			return r, err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("all %d readers of the process were in use for %v", readersPerProcess, readerTimeout)
		}
	}
}

func (p *readerPool) tryAcquire() (*Reader, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.host == nil {
		if err := p.start(); err != nil {
			return nil, err
		}
	}
	if len(p.free) == 0 {
		return nil, nil
	}
	next := p.free[0]
	p.free = p.free[1:]
	p.taken++
	return &Reader{Name: next.Name, Socket: p.host.Socket, addr: next.Addr}, nil
}

func (p *readerPool) start() error {
	var err error
	if p.dir == "" {
		if p.dir, err = os.MkdirTemp("", "cardtest-"); err != nil {
			return err
		}
	}
	host, err := virtual.StartHost(context.Background(), virtual.HostConfig{Dir: p.dir, Readers: readersPerProcess})
	if err != nil {
		return err
	}
	if err := os.Setenv("PCSCLITE_CSOCK_NAME", host.Socket); err != nil {
		return err
	}
	p.host, p.free = host, host.Readers
	return nil
}

// release gives a reader back. The last one ends pcscd: nothing tells a package
// that its process is about to end.
func (p *readerPool) release(r *Reader) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, virtual.Reader{Name: r.Name, Addr: r.addr})
	p.taken--
	if p.taken > 0 {
		return nil
	}
	host := p.host
	p.host, p.free = nil, nil
	if err := host.Stop(); err != nil {
		return err
	}
	return os.RemoveAll(p.dir)
}
