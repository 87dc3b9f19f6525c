package pcsc_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ebfe/scard"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/cardtest"
	"github.com/setkit/setkit/smartcard/pcsc"
)

// heldFor is long enough for a call to get to where it waits, on a busy machine.
const heldFor = 2 * time.Second

// holdExclusively connects to a card as scdaemon does. The function that it returns
// lets go.
func holdExclusively(t *testing.T, reader string) (release func()) {
	t.Helper()
	ctx, err := scard.EstablishContext()
	if err != nil {
		t.Fatal(err)
	}
	card, err := ctx.Connect(reader, scard.ShareExclusive, scard.ProtocolAny)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := card.Disconnect(scard.LeaveCard); err != nil {
			t.Error(err)
		}
		if err := ctx.Release(); err != nil {
			t.Error(err)
		}
	}
}

// wantInUse wants the reader, the cause and what to do.
func wantInUse(t *testing.T, err error, reader string, cause error) {
	t.Helper()
	if !errors.Is(err, smartcard.ErrInUse) || !errors.Is(err, smartcard.ErrUnavailable) || !errors.Is(err, cause) {
		t.Fatalf("got %v, want ErrInUse and %v", err, cause)
	}
	if !strings.Contains(err.Error(), reader) || !strings.Contains(err.Error(), "gpgconf --kill scdaemon") {
		t.Errorf("got %q, want the reader and what to do", err)
	}
}

func TestOpenHeldExclusively(t *testing.T) {
	t.Parallel()
	r := cardtest.New(t)
	release := holdExclusively(t, r.Name)
	ctx, cancel := context.WithTimeout(t.Context(), heldFor)
	defer cancel()
	_, err := pcsc.Open(ctx, r.Name)
	wantInUse(t, err, r.Name, context.DeadlineExceeded)

	gaveUp := errors.New("the person gave up")
	cancelled, stop := context.WithCancelCause(t.Context())
	stop(gaveUp)
	if _, err = pcsc.Open(cancelled, r.Name); !errors.Is(err, gaveUp) {
		t.Errorf("got %v, want %v", err, gaveUp)
	}

	opened := make(chan error, 1)
	go func() {
		c, err := pcsc.Open(context.Background(), r.Name)
		if err == nil {
			err = c.Close()
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		t.Fatalf("got %v while the card was held", err)
	case <-time.After(300 * time.Millisecond):
	}
	release()
	if err := <-opened; err != nil {
		t.Errorf("after it was free: %v", err)
	}
}

func TestOpenDuringTransaction(t *testing.T) {
	t.Parallel()
	r := cardtest.New(t)
	holder := open(t, r.Name)
	if err := holder.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), heldFor)
	defer cancel()
	_, err := pcsc.Open(ctx, r.Name)
	wantInUse(t, err, r.Name, context.DeadlineExceeded)
	if err := holder.End(smartcard.Leave); err != nil {
		t.Error(err)
	}
	wantOK(t, open(t, r.Name))
	wantOK(t, holder) // was not reset
}

func TestForeignTransaction(t *testing.T) {
	t.Parallel()
	r := cardtest.New(t)
	holder, waiting := open(t, r.Name), open(t, r.Name)
	if err := holder.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), heldFor)
	defer cancel()
	wantInUse(t, waiting.Begin(ctx), r.Name, context.DeadlineExceeded)
	wantOK(t, holder)
	if err := holder.End(smartcard.Leave); err != nil {
		t.Error(err)
	}
	// The wait that was given up neither holds nor resets the card.
	next := open(t, r.Name)
	if err := next.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantOK(t, next)
	if err := next.End(smartcard.Leave); err != nil {
		t.Error(err)
	}
	wantOK(t, holder)
}
