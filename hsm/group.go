package hsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/pkcs11"
)

const (
	// answerSecondsMax is how long one token of a group is waited for while there are others.
	answerSecondsMax = 5
	groupPause       = 25 * time.Millisecond
	reopenPauseMax   = time.Second
)

// Group is several tokens that hold the same keys, so that work goes on when one of them is lost.
//
// Of the tokens that are well, the least busy gets a call; a call that meets a lost device goes to the
// next one. The keys are the same key: made in one token and brought to the others by [Token.Wrap] and
// [Token.Unwrap]. A token whose key of that label is another one is not used for it.
type Group struct {
	members []*member
	stop    context.CancelFunc
}

// member is a token of a group, which may not have been there yet when the group was opened.
type member struct {
	uri URI

	mu    sync.Mutex
	token *Token // nil: not there yet
	err   error  // why
}

func (m *member) open() (*Token, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.token, m.err
}

// OpenGroup opens the tokens that uris name. One that is not available is opened as soon as it is, by
// a goroutine that tries until the group is closed; at least one must be available now.
func OpenGroup(ctx context.Context, uris []URI, pin PINFunc) (*Group, error) {
	if len(uris) == 0 {
		return nil, errors.New("no token named")
	}
	life, stop := context.WithCancel(context.Background())
	g := &Group{stop: stop}
	found := 0
	for _, uri := range uris {
		t, err := Open(ctx, uri, pin)
		if err != nil && !errors.Is(err, ErrUnavailable) {
			return nil, errors.Join(err, g.Close())
		}
		if err == nil {
			found++
		}
		g.members = append(g.members, &member{uri: uri, token: t, err: err})
	}
	if found == 0 {
		errs := make([]error, len(g.members))
		for i, m := range g.members {
			errs[i] = m.err
		}
		return nil, several(append(errs, g.Close()))
	}
	for _, m := range g.members {
		if m.token == nil {
			go m.reopen(life, pin)
		}
	}
	return g, nil
}

func (m *member) reopen(ctx context.Context, pin PINFunc) {
	pause := groupPause
	for {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		t, err := Open(ctx, m.uri, pin)
		m.mu.Lock()
		if err == nil && ctx.Err() != nil {
			_ = t.Close()
			err = ctx.Err()
		}
		if err == nil {
			m.token = t
		}
		m.err = err
		m.mu.Unlock()
		if err == nil || !errors.Is(err, ErrUnavailable) {
			return // a PIN that was refused is not tried again
		}
		pause = min(2*pause, reopenPauseMax)
	}
}

// Close closes the group's tokens.
func (g *Group) Close() error {
	g.stop()
	var errs []error
	for _, m := range g.members {
		if t, _ := m.open(); t != nil {
			errs = append(errs, t.Close())
		}
	}
	return errors.Join(errs...)
}

// Ready returns nil if a token of the group can be used. It asks the tokens.
func (g *Group) Ready(ctx context.Context) error {
	var errs []error
	for _, m := range g.members {
		t, err := m.open()
		if t != nil {
			err = t.Ready(ctx)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return several(errs)
}

// Key describes the private or secret key labelled label, as the first token that is there has it.
func (g *Group) Key(ctx context.Context, label string) (KeyInfo, error) {
	c, err := findCopies(ctx, g.members, label, func(*key) error { return nil })
	if err != nil {
		return KeyInfo{}, err
	}
	return c.info, nil
}

// copies are one key in every token of a group. Most groups have one token.
type copies struct {
	members []*member
	info    KeyInfo
	class   uint
	// adopt completes a copy before its first use. It may be nil.
	adopt func(context.Context, *key) error

	mu   sync.Mutex
	keys []*key      // by member; nil: not found yet
	next []time.Time // not before which to look for a missing one again
}

// alone is the group of one token.
func (t *Token) alone() []*member { return []*member{{token: t}} }

// findCopies finds the key labelled label in the members that are there. The first one found says what
// the others have to be.
func findCopies(ctx context.Context, members []*member, label string, check func(*key) error) (*copies, error) {
	c := &copies{members: members, keys: make([]*key, len(members)), next: make([]time.Time, len(members))}
	var errs []error
	found := false
	for i, m := range members {
		t, err := m.open()
		if t == nil {
			errs = append(errs, err)
			continue
		}
		k, err := t.find(ctx, label)
		if err == nil && !found {
			err = check(k)
		}
		switch {
		case err != nil && errors.Is(err, ErrUnavailable) && ctx.Err() == nil:
			errs = append(errs, err)
			continue
		case err != nil:
			return nil, err
		case found && !c.equal(k):
			return nil, k.fail(fmt.Errorf("it is another key than that of token %q", c.keys[slices.IndexFunc(c.keys, func(k *key) bool { return k != nil })].tok.info.Label))
		}
		if !found {
			found, c.info, c.class = true, k.info, k.class
		}
		c.keys[i] = k
	}
	if !found {
		return nil, several(errs)
	}
	return c, nil
}

func (c *copies) equal(k *key) bool {
	return k.class == c.class && k.info.Type.fits(c.info.Type) && k.info.Purpose == c.info.Purpose && bytes.Equal(k.info.SPKI, c.info.SPKI)
}

// adoptAll completes the copies that were found, by adopt, which later ones go through too.
func (c *copies) adoptAll(ctx context.Context, adopt func(context.Context, *key) error) error {
	c.adopt = adopt
	for _, k := range c.keys {
		if k == nil {
			continue
		}
		if err := adopt(ctx, k); err != nil {
			return k.fail(err)
		}
	}
	return nil
}

// at returns the copy of member i.
func (c *copies) at(ctx context.Context, i int) (*key, error) {
	c.mu.Lock()
	k, wait := c.keys[i], time.Until(c.next[i])
	if k == nil && wait <= 0 {
		c.next[i] = time.Now().Add(reopenPauseMax)
	}
	c.mu.Unlock()
	if k != nil {
		return k, nil
	}
	t, err := c.members[i].open()
	if t == nil {
		return nil, err
	}
	if wait > 0 {
		return nil, fmt.Errorf("token %q: the key was not there a moment ago: %w", t.info.Label, ErrUnavailable)
	}
	if k, err = t.find(ctx, c.info.Label); err != nil {
		return nil, err
	}
	if !c.equal(k) {
		return nil, k.fail(errAnotherKey)
	}
	if c.adopt != nil {
		if err := c.adopt(ctx, k); err != nil {
			return nil, k.fail(err)
		}
	}
	c.mu.Lock()
	c.keys[i] = k
	c.mu.Unlock()
	return k, nil
}

// deed is what is done with a key.
type deed struct {
	name            string // for those who observe
	doubtful, blind bool   // see call
}

func (d deed) call() call {
	return call{operation: d.name, doubtful: d.doubtful, blind: d.blind, tries: triesMax}
}

// keyOp is an operation with a key, whose result is a T. After a lost device it is run again.
type keyOp[T any] = func(*key, *pkcs11.Ctx, pkcs11.SessionHandle, pkcs11.ObjectHandle) (T, error)

// done is a result, if there is no error, and where it comes from.
type done[T any] struct {
	value T
	key   *key
	on    *link
}

// do runs f with one of the copies.
func do[T any](ctx context.Context, c *copies, what deed, f keyOp[T]) (done[T], error) {
	if len(c.members) == 1 {
		return doWith(ctx, c.keys[0], what.call(), f)
	}
	how := what.call()
	how.tries, how.impatient, how.shared = 1, true, true
	var end time.Time
	out := make([]error, len(c.members)) // those that are not asked again in this call
	for round := 1; ; round++ {
		errs := slices.Clone(out)
		for _, i := range c.order() {
			if out[i] != nil {
				continue
			}
			d, err := doAt(ctx, c, i, how, f)
			if err == nil || !ofToken(err) || ctx.Err() != nil {
				return d, err
			}
			if errs[i] = err; errors.Is(err, errSlow) || !errors.Is(err, ErrUnavailable) {
				out[i] = err
			}
		}
		if round == 1 {
			end = time.Now().Add(lostSecondsMax * time.Second)
		}
		if time.Now().After(end) || !slices.Contains(out, nil) {
			return done[T]{}, several(errs)
		}
		select {
		case <-time.After(groupPause):
		case <-ctx.Done():
			return done[T]{}, several(append(errs, context.Cause(ctx)))
		}
	}
}

// several are the errors of a group's tokens, in one line. None of nil is kept.
func several(errs []error) error {
	return severalErrors(slices.DeleteFunc(errs, func(err error) bool { return err == nil }))
}

type severalErrors []error

func (e severalErrors) Unwrap() []error { return e }

func (e severalErrors) Error() string {
	texts := make([]string, len(e))
	for i, err := range e {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

// ofToken reports whether err is about one token, so that another one may do better.
func ofToken(err error) bool {
	_, refused := errors.AsType[*PINError](err)
	return refused || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNotFound) || errors.Is(err, errAnotherKey)
}

func doAt[T any](ctx context.Context, c *copies, i int, how call, f keyOp[T]) (done[T], error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerSecondsMax*time.Second, errSlow)
	defer cancel()
	k, err := c.at(ctx, i)
	if err != nil {
		return done[T]{}, err
	}
	d, err := doWith(ctx, k, how, f)
	if err != nil {
		err = fmt.Errorf("token %q: %w", k.tok.info.Label, err)
	}
	return d, err
}

func doWith[T any](ctx context.Context, k *key, how call, f keyOp[T]) (done[T], error) {
	var value T // f may still write it when the call was given up: nobody reads it then
	on, err := k.do(ctx, how, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) error {
		v, err := f(k, lib, sh, h)
		value = v
		return err
	})
	if err != nil {
		return done[T]{key: k, on: on}, err
	}
	return done[T]{value, k, on}, nil
}

// order lists the members, those that are well before the others and the least busy first.
func (c *copies) order() []int {
	order := make([]int, len(c.members))
	sick := make([]int64, len(c.members))
	for i, m := range c.members {
		order[i], sick[i] = i, 1<<50
		if t, _ := m.open(); t != nil {
			sick[i] = t.burden()
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return int(min(max(sick[a]-sick[b], -1), 1)) })
	return order
}

var errSlow = fmt.Errorf("not done within %d seconds", answerSecondsMax)

// burden orders tokens: the busy come first, then the lost, which say so at once, and then those that
// owe answers.
func (t *Token) burden() int64 {
	burden := t.stuck.Load()<<40 + t.load.Load()
	if t.link.Load() == nil {
		burden += 1 << 30
	}
	return burden
}

// fail says at which key something went wrong.
func (c *copies) fail(err error) error {
	if len(c.members) > 1 {
		return fmt.Errorf("key %q: %w", c.info.Label, err)
	}
	return c.keys[0].fail(err)
}
