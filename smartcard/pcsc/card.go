package pcsc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebfe/scard"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
)

const (
	// Longer commands make some readers eject the card.
	commandBytesMax  = 65535
	commandBytesMin  = 4
	responseBytesMin = 2

	// OpenTimeout is how long Open waits for a card that another program holds, if
	// its context has no deadline.
	OpenTimeout = 10 * time.Second

	connectInterval = 100 * time.Millisecond // between two attempts to open a card
	closeTimeout    = 2 * time.Second

	// PC/SC needs a moment to notice that a card which stopped answering is gone.
	removalTimeout  = 2 * time.Second
	removalInterval = 20 * time.Millisecond
)

// A Card is a card in a reader, opened shared. It may be used concurrently: its
// transactions exclude one another, and its commands go out one by one.
type Card struct {
	reader   string
	atr      []byte
	protocol scard.Protocol
	features features // of the reader

	transaction chan struct{} // holds a value between Begin and End
	turn        chan struct{} // holds a value during a PC/SC call
	givenUp     chan struct{} // closed by the first call that was given up
	giveUp      sync.Once

	// Below, whoever holds turn.
	ctx  *scard.Context
	card handle
	lost error // why the card is of no more use
}

var _ smartcard.PINPad = (*Card)(nil)

// A handle is what a Card needs of scard.Card. Tests have a reader with a keypad
// behind it, which pcscd has no virtual one of.
type handle interface {
	ActiveProtocol() scard.Protocol
	Status() (*scard.CardStatus, error)
	BeginTransaction() error
	EndTransaction(d scard.Disposition) error
	Reconnect(mode scard.ShareMode, p scard.Protocol, d scard.Disposition) error
	Disconnect(d scard.Disposition) error
	Transmit(cmd []byte) ([]byte, error)
	Control(code uint32, in []byte) ([]byte, error)
}

// Open connects to the card in the reader of this name. While another program
// holds the card exclusively, or is in the middle of a transaction, Open waits:
// until ctx ends, or for OpenTimeout if that has no deadline. Then it fails with
// smartcard.ErrInUse.
func Open(ctx context.Context, reader string) (*Card, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, OpenTimeout)
		defer cancel()
	}
	for attempt := 0; ; attempt++ {
		service, err := wait(ctx, establish, func(s *scard.Context) { _ = s.Release() })
		switch {
		case err != nil && attempt > 0 && ctx.Err() != nil:
			return nil, errInUse(ctx, reader, "open the card")
		case err != nil:
			return nil, err
		}
		c, err := wait(ctx, func() (*Card, error) { return open(service, reader) }, func(c *Card) { c.Close() })
		if err == nil {
			return c, nil
		}
		overdue := ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) // PC/SC waits by itself for a transaction to end
		if !overdue && !errors.Is(err, smartcard.ErrInUse) && !errors.Is(err, smartcard.ErrReset) {
			return nil, err
		}
		select {
		case <-time.After(connectInterval):
		case <-ctx.Done():
			return nil, errInUse(ctx, reader, "open the card")
		}
	}
}

// errInUse says that ctx ended while another program had the card.
func errInUse(ctx context.Context, reader, what string) error {
	return fmt.Errorf("pcsc: reader %q: %s: %w: %s (%w)", reader, what, smartcard.ErrInUse, inUseHelp, context.Cause(ctx))
}

// open connects to a card through service, which then belongs to the Card, or is
// released.
func open(service *scard.Context, reader string) (*Card, error) {
	h, err := service.Connect(reader, scard.ShareShared, scard.ProtocolAny)
	if err != nil {
		err = describeConnect(service, reader, err)
		_ = service.Release() // the other error tells more
		return nil, err
	}
	return newCard(service, h, reader)
}

// describeConnect is describe for a refused connection to a card: pcscd says that
// polkit was against it by hanging up.
func describeConnect(service *scard.Context, reader string, err error) error {
	if !errors.Is(err, scard.ErrCommError) {
		return describe(reader, "connect", err)
	}
	if _, listErr := service.ListReaders(); listErr == nil || errors.Is(listErr, scard.ErrNoReadersAvailable) {
		return describe(reader, "connect", err) // it is the card that doesn't answer
	}
	again, goneErr := establish()
	if goneErr != nil {
		return goneErr
	}
	_ = again.Release()
	return describe(reader, "connect", scard.ErrSecurityViolation)
}

// newCard makes a Card of a connection. If it can't, it ends that.
func newCard(service *scard.Context, h handle, reader string) (*Card, error) {
	c := &Card{
		reader:      reader,
		protocol:    h.ActiveProtocol(),
		transaction: make(chan struct{}, 1),
		turn:        make(chan struct{}, 1),
		givenUp:     make(chan struct{}),
		ctx:         service,
		card:        h,
	}
	state, err := h.Status()
	if err == nil && c.protocol == scard.ProtocolUndefined {
		err = scard.ErrUnresponsiveCard
	}
	if err == nil {
		c.atr = slices.Clone(state.Atr)
		c.features, err = askFeatures(h)
	}
	if err != nil {
		c.release(scard.LeaveCard)
		return nil, describe(reader, "connect", err)
	}
	return c, nil
}

// Reader returns the name of the reader.
func (c *Card) Reader() string { return c.reader }

// ATR returns the answer to reset that the card gave when it was opened.
func (c *Card) ATR() []byte { return slices.Clone(c.atr) }

// Extended says if APDUs of extended length reach the card: its answer to reset
// says that it takes them, and the reader, if it says anything about that, that it
// has room for them. Protocol T=0 has none. See piv.Options.
func (c *Card) Extended() bool {
	atr, err := iso7816.ParseATR(c.atr)
	return err == nil && atr.ExtendedLength && c.protocol == scard.ProtocolT1 && c.features.roomForExtended()
}

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
// card since the last transaction, Begin connects anew. If another program has the
// card until ctx ends, the error wraps smartcard.ErrInUse as well.
func (c *Card) Begin(ctx context.Context) error {
	select {
	case c.transaction <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("pcsc: reader %q: waiting for the end of a transaction: %w", c.reader, context.Cause(ctx))
	}
	const what = "begin a transaction"
	var waiting atomic.Bool // the call can outlive this function
	err := c.call(ctx, what, scard.LeaveCard, func() error {
		waiting.Store(true)
		defer waiting.Store(false)
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
		if ctx.Err() != nil && waiting.Load() {
			return errInUse(ctx, c.reader, what)
		}
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
	}
	if c.ctx != nil {
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
