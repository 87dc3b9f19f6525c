// Package pcsc reaches smart cards in readers through PC/SC: pcscd on Linux, the
// system's own service elsewhere.
//
// Cards are opened shared, because other programs hold them too; whoever has
// several things to do takes the card for that time with Begin and End.
//
// PC/SC calls cannot be interrupted. Where one is still running when its context
// ends, it is left to a goroutine that waits for it and then disconnects from
// the card; the [Card] is of no use afterwards.
//
// On Linux the environment variable PCSCLITE_CSOCK_NAME names the socket of the
// pcscd to use. libpcsclite reads it once per process, at the first call.
//
// This package alone imports the PC/SC binding, and shows none of its types.
package pcsc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ebfe/scard"

	"github.com/setkit/setkit/smartcard"
)

const (
	pollInterval = 100 * time.Millisecond // between two looks for a card
	listAttempts = 3                      // when a reader disappears while being asked for
)

// A Reader is a card reader and what is in it.
type Reader struct {
	Name        string
	CardPresent bool
	ATR         []byte // the card's answer to reset; nil without a card
}

// Readers lists the readers, in the order of PC/SC. There may be none.
func Readers(ctx context.Context) ([]Reader, error) {
	return wait(ctx, func() (list []Reader, err error) {
		for range listAttempts {
			if list, err = readers(); !errors.Is(err, smartcard.ErrNoReader) {
				break
			}
		}
		return list, err
	}, nil)
}

// Find returns the reader to use, with a card in it. That is the one with this
// name, or else the only one whose name contains it. Without a name it is the
// only one with a card: the readers that are built into computers are often
// empty, and listed first.
func Find(ctx context.Context, name string) (Reader, error) {
	all, err := Readers(ctx)
	if err != nil {
		return Reader{}, err
	}
	if len(all) == 0 {
		return Reader{}, fmt.Errorf("pcsc: %w: none is connected", smartcard.ErrNoReader)
	}
	found := matching(all, name)
	switch {
	case len(found) == 1 && found[0].CardPresent:
		return found[0], nil
	case len(found) == 1:
		return Reader{}, fmt.Errorf("pcsc: reader %q: %w", found[0].Name, smartcard.ErrNoCard)
	case len(found) > 1:
		return Reader{}, fmt.Errorf("pcsc: several readers could be meant, name one: %s", names(found))
	case name == "":
		return Reader{}, fmt.Errorf("pcsc: %w (readers: %s)", smartcard.ErrNoCard, names(all))
	default:
		return Reader{}, fmt.Errorf("pcsc: %w as %q (readers: %s)", smartcard.ErrNoReader, name, names(all))
	}
}

// matching gives the readers that name can mean.
func matching(all []Reader, name string) []Reader {
	var found []Reader
	for _, r := range all {
		if name != "" && r.Name == name {
			return []Reader{r}
		}
		if name == "" && r.CardPresent || name != "" && strings.Contains(r.Name, name) {
			found = append(found, r)
		}
	}
	return found
}

func names(all []Reader) string {
	var quoted []string
	for _, r := range all {
		quoted = append(quoted, fmt.Sprintf("%q", r.Name))
	}
	return strings.Join(quoted, ", ")
}

// Wait is Find for a card that is still to be inserted, or a reader to be
// connected. When ctx ends it fails with what was missing last.
func Wait(ctx context.Context, name string) (Reader, error) {
	var last error // what the wait was for, should it end in the middle of a look
	for {
		r, err := Find(ctx, name)
		switch {
		case errors.Is(err, smartcard.ErrNoCard), errors.Is(err, smartcard.ErrNoReader):
			last = err
		case last != nil && ctx.Err() != nil:
			return Reader{}, fmt.Errorf("%w (%w)", last, context.Cause(ctx))
		default:
			return r, err
		}
		select {
		case <-ctx.Done():
			return Reader{}, fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		case <-time.After(pollInterval):
		}
	}
}

// stateMu guards SCardGetStatusChange. The binding keeps the reader names of
// running calls in a map under the name itself, so that a second call with the
// same name lets the first one's memory be collected while C reads it.
var stateMu sync.Mutex

// readers asks PC/SC for the readers and their states.
func readers() ([]Reader, error) {
	ctx, err := scard.EstablishContext()
	if err != nil {
		return nil, describe("", "connect", err)
	}
	defer ctx.Release()
	names, err := ctx.ListReaders()
	if errors.Is(err, scard.ErrNoReadersAvailable) || err == nil && len(names) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, describe("", "list the readers", err)
	}
	states := make([]scard.ReaderState, len(names))
	for i, name := range names {
		states[i].Reader = name
	}
	stateMu.Lock()
	err = ctx.GetStatusChange(states, 0) // returns at once, all states are unknown
	stateMu.Unlock()
	if err != nil {
		return nil, describe("", "ask for the readers' state", err)
	}
	list := make([]Reader, len(states))
	for i, s := range states {
		list[i] = Reader{Name: s.Reader, CardPresent: s.EventState&scard.StatePresent != 0}
		if list[i].CardPresent { // the binding leaves an old ATR after removal
			list[i].ATR = slices.Clone(s.Atr)
		}
	}
	return list, nil
}

// wait runs f, which calls PC/SC, until it ends or ctx does. In the second case
// f runs on, and what it returns goes to discard.
func wait[T any](ctx context.Context, f func() (T, error), discard func(T)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome)
	go func() {
		v, err := f()
		select {
		case done <- outcome{v, err}:
		case <-ctx.Done():
			if err == nil && discard != nil {
				discard(v)
			}
		}
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		var none T
		return none, fmt.Errorf("pcsc: %w", context.Cause(ctx))
	}
}

// classes says which error of package smartcard a PC/SC code is.
var classes = map[scard.Error]error{
	scard.ErrNoService:          smartcard.ErrNoService,
	scard.ErrServiceStopped:     smartcard.ErrNoService,
	scard.ErrNoReadersAvailable: smartcard.ErrNoReader,
	scard.ErrUnknownReader:      smartcard.ErrNoReader,
	scard.ErrReaderUnavailable:  smartcard.ErrNoReader,
	scard.ErrNoSmartcard:        smartcard.ErrNoCard,
	scard.ErrRemovedCard:        smartcard.ErrCardRemoved,
	scard.ErrResetCard:          smartcard.ErrReset,
	scard.ErrSharingViolation:   smartcard.ErrInUse,
	scard.ErrUnpoweredCard:      smartcard.ErrMute,
	scard.ErrUnresponsiveCard:   smartcard.ErrMute,
}

// describe makes of a PC/SC error one that says where it happened, of which
// class it is and its code.
func describe(reader, what string, err error) error {
	at := "pcsc"
	if reader != "" {
		at = fmt.Sprintf("pcsc: reader %q", reader)
	}
	var code scard.Error
	if !errors.As(err, &code) {
		return fmt.Errorf("%s: %s: %v: %w", at, what, err, smartcard.ErrUnavailable)
	}
	class, ok := classes[code]
	switch {
	case !ok:
		return fmt.Errorf("%s: %s: %v (0x%08X): %w", at, what, err, uint32(code), smartcard.ErrUnavailable)
	case class == smartcard.ErrNoService:
		return fmt.Errorf("%s: %w: %s (0x%08X)", at, class, serviceHelp(), uint32(code))
	default:
		return fmt.Errorf("%s: %w (0x%08X)", at, class, uint32(code))
	}
}

// serviceHelp says what to do about a missing service.
func serviceHelp() string {
	if runtime.GOOS != "linux" {
		return "start the system's smart card service"
	}
	if socket := os.Getenv("PCSCLITE_CSOCK_NAME"); socket != "" {
		return fmt.Sprintf("no pcscd answers at %s, which PCSCLITE_CSOCK_NAME names", socket)
	}
	return "pcscd is not running: systemctl start pcscd.socket"
}
