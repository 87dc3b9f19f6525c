// Package pcsc reaches smart cards in readers through PC/SC: pcscd on Linux, the
// system's own service elsewhere.
//
// Cards are opened shared, because other programs hold them too; whoever has
// several things to do takes the card for that time with Begin and End.
//
// [Open] waits for a card that another program holds exclusively, as GnuPG's
// scdaemon does, and [Card.Begin] for the end of another's transaction. Both fail
// with smartcard.ErrInUse when their context ends.
//
// # PIN pads
//
// A Card is a smartcard.PINPad. What the reader can do is asked once, when the card
// is opened. This follows PC/SC part 10, version 2.01.09, for readers with
// FEATURE_VERIFY_PIN_DIRECT and FEATURE_MODIFY_PIN_DIRECT, and the structures of
// the CCID specification, revision 1.1, as the free CCID driver (libccid) takes
// them: PINs as ASCII digits from the left in blocks of fixed length that the
// command brings along padded; entry ended by the OK key, or after 30 seconds
// without a key. A reader with a display (FEATURE_IFD_PIN_PROPERTIES,
// FEATURE_GET_TLV_PROPERTIES) shows its own English text. Readers of the older
// kind, with START and FINISH features only, count as having no keypad.
//
// It is tested with a reader in software that takes these structures apart byte by
// byte, and with a driver behind pcscd that does so as pcsc-lite declares them; with
// readers in metal it is untested.
//
// # Calls that don't end
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
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ebfe/scard"

	"github.com/setkit/setkit/smartcard"
)

const (
	pollInterval = 100 * time.Millisecond // between two looks at the readers
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
	return wait(ctx, readers, nil)
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
	return choose(all, name)
}

// choose is Find among these readers.
func choose(all []Reader, name string) (Reader, error) {
	if len(all) == 0 {
		return Reader{}, fmt.Errorf("pcsc: %w: there is none: %s", smartcard.ErrNoReader, noReaderHelp(os.DirFS(usbDevices)))
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
	var missing error
	for all, err := range looks(ctx) {
		var r Reader
		if err == nil {
			r, err = choose(readersOf(all), name)
		}
		if !errors.Is(err, smartcard.ErrNoCard) && !errors.Is(err, smartcard.ErrNoReader) {
			return r, err
		}
		missing = err
	}
	if missing == nil { // ctx ended during the first look
		return Reader{}, fmt.Errorf("pcsc: %w", context.Cause(ctx))
	}
	return Reader{}, fmt.Errorf("%w (%w)", missing, context.Cause(ctx))
}

// stateMu guards SCardGetStatusChange. The binding keeps the reader names of
// running calls in a map under the name itself, so that a second call with the
// same name lets the first one's memory be collected while C reads it.
var stateMu sync.Mutex

// A sighting is what PC/SC says of a reader.
type sighting struct {
	Reader
	moves uint32 // how often a card was put in or taken out, modulo 1<<16
}

func readersOf(all []sighting) []Reader {
	var list []Reader
	for _, s := range all {
		list = append(list, s.Reader)
	}
	return list
}

// readers asks PC/SC for the readers and their states.
func readers() ([]Reader, error) {
	ctx, err := establish()
	if err != nil {
		return nil, err
	}
	defer ctx.Release()
	all, err := look(ctx)
	return readersOf(all), err
}

// look asks for the readers and their states. One that disappears meanwhile makes
// it look again.
func look(ctx *scard.Context) (all []sighting, err error) {
	for range listAttempts {
		if all, err = lookOnce(ctx); !errors.Is(err, smartcard.ErrNoReader) {
			break
		}
	}
	return all, err
}

func lookOnce(ctx *scard.Context) ([]sighting, error) {
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
	all := make([]sighting, len(states))
	for i, s := range states {
		all[i].Reader = Reader{Name: s.Reader, CardPresent: s.EventState&scard.StatePresent != 0}
		all[i].moves = uint32(s.EventState) >> 16
		if all[i].CardPresent { // the binding leaves an old ATR after removal
			all[i].ATR = slices.Clone(s.Atr)
		}
	}
	return all, nil
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
