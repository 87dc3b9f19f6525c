package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/roles/wallet"
	"github.com/setkit/setkit/roles/wallet/web"
	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/pcsc"
	"github.com/setkit/setkit/smartcard/piv"
)

const (
	lookInterval = 200 * time.Millisecond
	lookTimeout  = 30 * time.Second // for one card, which another program may hold
)

// finder finds smart cards in readers.
type finder struct {
	reader string        // name of the only one that counts, until a card was lost
	wait   time.Duration // how long a lost card is waited for
	say    func(notice)  // tells the person
}

// notice is something that the person is told about a card.
type notice struct {
	text  string    // for a terminal
	topic web.Topic // for the window, which has words of its own
	lost  error     // why a card is waited for
}

func newFinder(c *urfave.Context) finder {
	return finder{c.String("reader"), c.Duration("card-wait"), func(n notice) { fmt.Fprintln(c.App.ErrWriter, n.text) }}
}

// find connects to the first of the enrolled cards that is in a reader. One that
// is lost before it has said who it is, is waited for.
func (f finder) find(ctx context.Context, cards []*wallet.EnrolledCard) (*wallet.EnrolledCard, *connection, error) {
	readers, err := pcsc.Readers(ctx)
	if f.reader != "" {
		var one pcsc.Reader
		one, err = pcsc.Find(ctx, f.reader)
		readers = []pcsc.Reader{one}
	}
	if err != nil {
		return nil, nil, err
	}
	var serials []string
	for _, e := range cards {
		if !slices.Contains(serials, e.Serial) {
			serials = append(serials, e.Serial)
		}
	}
	l := &look{finder: f, serials: serials}
	found := l.among(ctx, readers)
	if found == nil && errors.Is(l.problem, smartcard.ErrUnavailable) {
		if found, err = f.await(ctx, l.problem, serials); err != nil {
			return nil, nil, err
		}
	}
	if found == nil {
		return nil, nil, errNotCard(cards, errors.Join(append(l.otherCards(), l.problem)...))
	}
	i := slices.IndexFunc(cards, func(e *wallet.EnrolledCard) bool { return e.Serial == found.serial })
	return cards[i], found, nil
}

// await waits until a card with one of these serial numbers is in a reader. lost
// is what happened to it.
func (f finder) await(ctx context.Context, lost error, serials []string) (*connection, error) {
	deadline := time.Now().Add(f.wait)
	l := &look{finder: f, serials: serials}
	var told []string
	tell := func(text string, lost error) {
		if !slices.Contains(told, text) {
			told = append(told, text)
			f.say(notice{text: text, lost: lost})
		}
	}
	which := "card " + strings.Join(serials, " or ")
	for {
		readers, err := pcsc.Readers(ctx)
		l.problem = err
		if err == nil {
			if found := l.among(ctx, readers); found != nil {
				return found, nil
			}
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w (%w)", lost, context.Cause(ctx))
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(append([]error{fmt.Errorf("%w: %s was not back in a reader after %v: try again with the card", lost, which, f.wait)}, l.otherCards()...)...)
		}
		if errors.Is(lost, smartcard.ErrInUse) || errors.Is(lost, smartcard.ErrNoService) {
			tell(fmt.Sprintf("waiting for %s, for %v at most (%v) ...", which, f.wait, lost), lost)
		} else {
			tell(fmt.Sprintf("put %s back into a reader, within %v (%v) ...", which, f.wait, lost), lost)
		}
		for _, other := range l.otherCards() {
			tell(other.Error(), fmt.Errorf("%w: %w", piv.ErrOtherCard, other))
		}
		select {
		case <-ctx.Done():
		case <-time.After(lookInterval):
		}
	}
}

// look is a search for cards with certain serial numbers, the first of which is
// the best.
type look struct {
	finder
	serials []string
	others  []otherCard
	problem error // with a card that did not say who it is, in the last round
}

// otherCard is a card that is not looked for. As long as it stays it is left in
// peace.
type otherCard struct{ reader, serial string }

func (l *look) otherCards() []error {
	var errs []error
	for _, o := range l.others {
		errs = append(errs, fmt.Errorf("card %s in reader %q is another one", o.serial, o.reader))
	}
	return errs
}

// among looks into these readers, once.
func (l *look) among(ctx context.Context, readers []pcsc.Reader) *connection {
	l.problem = nil
	var found *connection
	for _, r := range readers {
		known := slices.IndexFunc(l.others, func(o otherCard) bool { return o.reader == r.Name })
		if !r.CardPresent && known >= 0 {
			l.others = slices.Delete(l.others, known, known+1)
		}
		if !r.CardPresent || known >= 0 {
			continue
		}
		c, err := l.probe(ctx, r.Name)
		if err != nil {
			l.problem = err
			continue
		}
		rank := slices.Index(l.serials, c.serial)
		switch {
		case rank < 0:
			l.others = append(l.others, otherCard{r.Name, c.serial})
			c.close()
		case found == nil:
			found = c
		case rank < slices.Index(l.serials, found.serial):
			found.close()
			found = c
		default:
			c.close()
		}
	}
	return found
}

func (l *look) probe(ctx context.Context, reader string) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	return l.connect(ctx, reader)
}
