package pcsc

import (
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/ebfe/scard"

	"github.com/setkit/setkit/smartcard"
)

// A Change is what happened to a reader, or to the smart card service.
type Change int

// The changes. Those of the service have no reader.
const (
	ReaderConnected Change = iota
	ReaderDisconnected
	CardInserted
	CardRemoved
	ServiceLost
	ServiceBack
)

// String says what happened, such as "card inserted".
func (c Change) String() string {
	names := [...]string{"reader connected", "reader disconnected", "card inserted", "card removed", "smart card service lost", "smart card service back"}
	if c < 0 || int(c) >= len(names) {
		return "unknown change"
	}
	return names[c]
}

// An Event is one change.
type Event struct {
	Change Change
	Reader Reader // as it is after the change
	Err    error  // of ServiceLost: why, and what to do
}

// Watch tells what is there, then what changes, until ctx ends; that ends it at
// once. What is there comes as if it had just been connected and inserted.
//
// A card that was exchanged for another between two looks shows as removed and
// inserted; one that was only there between two looks doesn't show. If the service ends, cards and readers go first, then ServiceLost
// comes; when it is back, ServiceBack and then the readers anew. Without a service
// Watch begins with ServiceLost.
//
// There may be any number of watches. Each has a connection of its own to the
// service, and looks ten times a second: to wait for a change in PC/SC itself
// keeps all others from asking, and can't be relied on to end.
func Watch(ctx context.Context) iter.Seq[Event] {
	return func(yield func(Event) bool) {
		var before []sighting
		lost := false
		for now, err := range looks(ctx) {
			events := changes(before, now)
			switch {
			case err != nil:
				events = append(events, Event{Change: ServiceLost, Err: err})
			case lost:
				events = slices.Insert(events, 0, Event{Change: ServiceBack})
			}
			for _, e := range events {
				if ctx.Err() != nil || !yield(e) {
					return
				}
			}
			before, lost = now, err != nil
		}
	}
}

// changes says what happened between two looks.
func changes(before, now []sighting) []Event {
	var events []Event
	for _, was := range before {
		i := slices.IndexFunc(now, func(s sighting) bool { return s.Name == was.Name })
		gone := i < 0
		if is := (Reader{Name: was.Name}); was.CardPresent && (gone || was.moves != now[i].moves || !now[i].CardPresent) {
			events = append(events, Event{Change: CardRemoved, Reader: is})
		}
		if gone {
			events = append(events, Event{Change: ReaderDisconnected, Reader: Reader{Name: was.Name}})
		}
	}
	for _, is := range now {
		i := slices.IndexFunc(before, func(s sighting) bool { return s.Name == is.Name })
		if i < 0 {
			events = append(events, Event{Change: ReaderConnected, Reader: is.Reader})
		}
		if is.CardPresent && (i < 0 || before[i].moves != is.moves || !before[i].CardPresent) {
			events = append(events, Event{Change: CardInserted, Reader: is.Reader})
		}
	}
	return events
}

// looks yields the readers, and again after each change, until ctx ends. While
// the service can't be asked it yields an error, once.
func looks(ctx context.Context) iter.Seq2[[]sighting, error] {
	type outcome struct {
		all []sighting
		err error
	}
	return func(yield func([]sighting, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		found := make(chan outcome)
		go func() { // calls PC/SC, and may be in a call when ctx ends
			var w watcher
			defer w.release()
			for first := true; ; first = false {
				all, changed, err := w.look()
				if changed || first {
					select {
					case found <- outcome{all, err}:
					case <-ctx.Done():
						return
					}
				}
				select {
				case <-time.After(pollInterval):
				case <-ctx.Done():
					return
				}
			}
		}()
		for ctx.Err() == nil {
			select {
			case o := <-found:
				if !yield(o.all, o.err) {
					return
				}
			case <-ctx.Done():
			}
		}
	}
}

// A watcher looks at the readers through one connection to the service.
type watcher struct {
	ctx    *scard.Context // nil without a connection
	before []sighting
	lost   bool
}

// look says if what it sees is something new.
func (w *watcher) look() (all []sighting, changed bool, err error) {
	if w.ctx == nil {
		w.ctx, err = establish()
	}
	if err == nil {
		all, err = look(w.ctx)
	}
	if errors.Is(err, smartcard.ErrNoReader) { // they come and go; the next look will tell
		return w.before, false, nil
	}
	if err != nil {
		w.release()
	}
	changed = w.lost != (err != nil) || !slices.EqualFunc(w.before, all, func(a, b sighting) bool {
		return a.Name == b.Name && a.CardPresent == b.CardPresent && a.moves == b.moves
	})
	w.before, w.lost = all, err != nil
	return all, changed, err
}

func (w *watcher) release() {
	if w.ctx != nil {
		_ = w.ctx.Release() // nothing is left to be done about it
	}
	w.ctx = nil
}
