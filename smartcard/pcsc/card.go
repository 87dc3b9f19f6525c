package pcsc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ebfe/scard"

	"github.com/setkit/setkit/smartcard"
)

const (
	// Longer commands make some readers eject the card.
	commandBytesMax  = 65535
	commandBytesMin  = 4
	responseBytesMin = 2

	closeTimeout = 2 * time.Second

	// PC/SC needs a moment to notice that a card which stopped answering is gone.
	removalTimeout  = 2 * time.Second
	removalInterval = 20 * time.Millisecond
)

// A Card is a card in a reader, opened shared. It may be used concurrently: its
// transactions exclude one another, and its commands go out one by one.
type Card struct {
	reader string
	atr    []byte

	transaction chan struct{} // holds a value between Begin and End
	turn        chan struct{} // holds a value during a PC/SC call
	givenUp     chan struct{} // closed by the first call that was given up
	giveUp      sync.Once

	// Below, whoever holds turn.
	ctx  *scard.Context
	card *scard.Card
	lost error // why the card is of no more use
}

var _ smartcard.Card = (*Card)(nil)

// Open connects to the card in the reader of this name.
func Open(ctx context.Context, reader string) (*Card, error) {
	return wait(ctx, func() (*Card, error) { return open(reader) }, func(c *Card) { c.Close() })
}

func open(reader string) (*Card, error) {
	pcscCtx, err := scard.EstablishContext()
	if err != nil {
		return nil, describe(reader, "connect", err)
	}
	card, err := pcscCtx.Connect(reader, scard.ShareShared, scard.ProtocolAny)
	if err != nil {
		pcscCtx.Release()
		return nil, describe(reader, "connect", err)
	}
	c := &Card{
		reader:      reader,
		transaction: make(chan struct{}, 1),
		turn:        make(chan struct{}, 1),
		givenUp:     make(chan struct{}),
		ctx:         pcscCtx,
		card:        card,
	}
	state, err := card.Status()
	if err == nil && card.ActiveProtocol() == scard.ProtocolUndefined {
		err = scard.ErrUnresponsiveCard
	}
	if err != nil {
		c.release(scard.LeaveCard)
		return nil, describe(reader, "connect", err)
	}
	c.atr = slices.Clone(state.Atr)
	return c, nil
}

// Reader returns the name of the reader.
func (c *Card) Reader() string { return c.reader }

// ATR returns the answer to reset that the card gave when it was opened.
func (c *Card) ATR() []byte { return slices.Clone(c.atr) }

// Transmit sends a command, as smartcard.Transport says. After ErrReset the card
// answers again from the next Begin on; after ErrCardRemoved never.
func (c *Card) Transmit(ctx context.Context, cmd []byte) ([]byte, error) {
	if len(cmd) < commandBytesMin || len(cmd) > commandBytesMax {
		return nil, fmt.Errorf("pcsc: command APDU of %d bytes, want %d to %d", len(cmd), commandBytesMin, commandBytesMax)
	}
	var answer []byte
	// The call can outlive this function; its command must be its own.
	own := slices.Clone(cmd)
	err := c.call(ctx, "transmit", scard.ResetCard, func() error {
		defer clear(own)
		apdu := own
		if c.card.ActiveProtocol() == scard.ProtocolT0 {
			apdu = withoutLe(apdu)
		}
		var err error
		answer, err = c.card.Transmit(apdu)
		if err == nil && len(answer) < responseBytesMin {
			err = scard.ErrNotTransacted // so it is told when the card was pulled
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// withoutLe takes the Le field from a short command that has data as well:
// protocol T=0 has no place for it, the card says 61xx instead.
func withoutLe(apdu []byte) []byte {
	const lc = 4
	if len(apdu) > lc+2 && apdu[lc] != 0 && len(apdu) == lc+1+int(apdu[lc])+1 {
		return apdu[:len(apdu)-1]
	}
	return apdu
}

// Begin takes the card, as smartcard.Card says. If another program has reset the
// card since the last transaction, Begin connects anew.
func (c *Card) Begin(ctx context.Context) error {
	select {
	case c.transaction <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("pcsc: reader %q: waiting for the end of a transaction: %w", c.reader, context.Cause(ctx))
	}
	err := c.call(ctx, "begin a transaction", scard.LeaveCard, func() error {
		err := c.card.BeginTransaction()
		if !errors.Is(err, scard.ErrResetCard) {
			return err
		}
		// Not before it was tried: a card that was exchanged says "removed"
		// there, and is not to be taken for the old one.
		if err := c.card.Reconnect(scard.ShareShared, scard.ProtocolAny, scard.LeaveCard); err != nil {
			return err
		}
		return c.card.BeginTransaction()
	})
	if err != nil {
		<-c.transaction
	}
	return err
}

// End gives the card back, as smartcard.Card says.
func (c *Card) End(d smartcard.Disposition) error {
	if len(c.transaction) == 0 {
		return fmt.Errorf("pcsc: reader %q: End without Begin", c.reader)
	}
	defer func() { <-c.transaction }()
	disposition := scard.LeaveCard
	if d == smartcard.Reset {
		disposition = scard.ResetCard
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return c.call(ctx, "end a transaction", scard.ResetCard, func() error {
		err := c.card.EndTransaction(disposition)
		if errors.Is(err, scard.ErrResetCard) {
			return nil // the transaction is over, and the card as fresh as can be
		}
		return err
	})
}

// Close disconnects from the card and leaves it as it is. If a command is still
// running, Close waits for a moment, then fails; for one that was given up it
// doesn't wait.
func (c *Card) Close() error {
	select {
	case c.turn <- struct{}{}:
	case <-c.givenUp:
		return nil // its goroutine disconnects
	case <-time.After(closeTimeout):
		return fmt.Errorf("pcsc: reader %q: a command is still running: %w", c.reader, smartcard.ErrUnavailable)
	}
	defer func() { <-c.turn }()
	c.release(scard.LeaveCard)
	if c.lost == nil {
		c.lost = fmt.Errorf("pcsc: reader %q: the card is closed: %w", c.reader, smartcard.ErrUnavailable)
	}
	return nil
}

// release frees what PC/SC holds. The caller has turn.
func (c *Card) release(d scard.Disposition) {
	if c.card != nil {
		_ = c.card.Disconnect(d) // nothing is left to be done about it
		_ = c.ctx.Release()
	}
	c.card, c.ctx = nil, nil
}

// call runs one PC/SC call. If ctx ends first, the call goes on by itself; when it
// returns, the card is left, in the state that abandoned says. No other call is
// made after it.
func (c *Card) call(ctx context.Context, what string, abandoned scard.Disposition, f func() error) error {
	select {
	case c.turn <- struct{}{}:
	case <-c.givenUp:
		return c.errGivenUp()
	case <-ctx.Done():
		return fmt.Errorf("pcsc: reader %q: %s: %w", c.reader, what, context.Cause(ctx))
	}
	err := c.lost
	if err == nil && ctx.Err() != nil { // nothing has begun that could be given up
		err = fmt.Errorf("pcsc: reader %q: %s: %w", c.reader, what, context.Cause(ctx))
	}
	if err != nil {
		<-c.turn
		return err
	}
	done := make(chan error)
	go func() {
		err := c.outcome(what, f())
		select {
		case done <- err:
		case <-ctx.Done():
			c.release(abandoned)
			c.lost = c.errGivenUp()
			<-c.turn
		}
	}()
	select {
	case err := <-done:
		<-c.turn
		return err
	case <-ctx.Done():
		c.giveUp.Do(func() { close(c.givenUp) })
		return fmt.Errorf("pcsc: reader %q: %s: %w", c.reader, what, context.Cause(ctx))
	}
}

func (c *Card) errGivenUp() error {
	return fmt.Errorf("pcsc: reader %q: a command was given up; open the card again: %w", c.reader, smartcard.ErrUnavailable)
}

// outcome names the error of a call. A pulled card shows as a failed
// transmission first; outcome waits until PC/SC knows.
func (c *Card) outcome(what string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, scard.ErrNotTransacted) || errors.Is(err, scard.ErrCommError) {
		for deadline := time.Now().Add(removalTimeout); time.Now().Before(deadline); time.Sleep(removalInterval) {
			if _, stateErr := c.card.Status(); stateErr != nil {
				err = stateErr
				break
			}
		}
	}
	for _, gone := range []error{scard.ErrRemovedCard, scard.ErrNoSmartcard, scard.ErrReaderUnavailable} {
		if errors.Is(err, gone) {
			c.lost = describe(c.reader, what, scard.ErrRemovedCard)
			return c.lost
		}
	}
	return describe(c.reader, what, err)
}
