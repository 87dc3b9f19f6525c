package hsm

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	recoverPauseMin = 25 * time.Millisecond
	recoverPauseMax = 800 * time.Millisecond
	// recoverShare is how much longer a library with other tokens at work is left alone than the
	// last attempt has kept them waiting.
	recoverShare = 9
	// refusedPause is the least time between two looks at the source of a PIN that was refused, and
	// lockedPause between two looks whether the officer has unlocked a PIN.
	refusedPause = time.Second
	lockedPause  = 10 * time.Second
)

// recovery is the work of a goroutine that brings a lost device back. It runs until it has, until the
// device refuses the PIN, or until the token is closed.
type recovery struct {
	ctx  context.Context
	stop context.CancelFunc
	done chan struct{} // closed when callers should look again
	// idle is set while it has no goroutine, because that of another token of the library does its work.
	idle bool // guarded by the token's mu
}

// linked returns the link of the token, and waits for it if the device is lost.
func (t *Token) linked(ctx context.Context, impatient bool) (*link, error) {
	if t.closed.Load() {
		return nil, errClosed
	}
	if on := t.token.link.Load(); on != nil {
		return on, nil
	}
	patience := time.NewTimer(lostSecondsMax * time.Second)
	defer patience.Stop()
	for {
		t.mu.Lock()
		on, r, why := t.token.link.Load(), t.recovery, t.why
		if on == nil && r == nil { // it ended with a refused PIN: the source may have another by now
			if time.Now().After(t.next) {
				t.startRecovery(nil, true)
			}
			t.mu.Unlock()
			return nil, why
		}
		t.mu.Unlock()
		switch {
		case on != nil:
			return on, nil
		case impatient:
			return nil, &lostError{err: why}
		}
		select {
		case <-r.done:
		case <-patience.C:
			return nil, &lostError{err: t.whyLost()}
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", &lostError{err: t.whyLost()}, context.Cause(ctx))
		}
		if t.closed.Load() {
			return nil, errClosed
		}
	}
}

var errClosed = fmt.Errorf("the token is closed: %w", ErrUnavailable)

func (t *token) whyLost() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.why
}

// lose gives the link on up because of err, and begins to look for another, unless somebody was
// quicker. If nothing has ever worked on this link, a new login is not enough.
func (t *token) lose(on *link, err *lostError) {
	t.mu.Lock()
	lost := t.link.CompareAndSwap(on, nil)
	// A link that was lost before its return was told is the same loss to those who observe.
	told := t.recovery != nil && !t.recovery.idle
	if lost {
		t.why = err.err
		if !told {
			t.since = time.Now()
		}
		t.startRecovery(on, !on.worked.Load())
	}
	t.mu.Unlock()
	if lost && !told {
		observeLost(t.info.Label, err.err)
	}
}

// startRecovery begins a recovery, in place of one that has brought a link which is lost again before
// that was taken down. The caller holds t.mu.
func (t *token) startRecovery(old *link, deep bool) {
	if r := t.newRecovery(); r != nil {
		go t.recover(r, old, deep)
	}
}

// newRecovery returns the recovery that callers wait for from now on, or nil if the token's use has
// ended. The caller holds t.mu.
func (t *token) newRecovery() *recovery {
	if t.recovery != nil {
		t.recovery.stop()
		close(t.recovery.done)
		t.recovery = nil
	}
	if t.ended {
		return nil
	}
	ctx, stop := context.WithCancel(context.Background())
	t.recovery = &recovery{ctx: ctx, stop: stop, done: make(chan struct{})}
	return t.recovery
}

// end ends the token's use: no recovery begins any more, and one that runs stops.
func (t *token) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended, t.why = true, errClosed
	t.newRecovery()
}

// recover tries until the token is linked: first a new login if the library may still be good, then
// from the library's initialisation.
func (t *token) recover(r *recovery, old *link, deep bool) {
	defer r.stop()
	pause := recoverPauseMin
	for {
		start := time.Now()
		var err error
		crowded := false
		if deep {
			crowded, err = t.reconnect(r)
		} else {
			err = t.relink(r, old)
		}
		if t.settle(r, err) {
			return
		}
		if !deep {
			deep = true
			continue
		}
		wait := pause
		if crowded {
			wait = max(wait, recoverShare*time.Since(start))
		}
		select {
		case <-time.After(wait):
		case <-r.ctx.Done():
		}
		pause = min(2*pause, recoverPauseMax)
	}
}

// settle takes down the outcome of an attempt, and reports whether r has come to its end.
func (t *token) settle(r *recovery, err error) (ended bool) {
	t.mu.Lock()
	defer func() {
		outage, noticed := time.Since(t.since), !r.idle
		t.mu.Unlock()
		if ended && err == nil && noticed {
			observeBack(t.info.Label, outage)
		}
	}()
	if t.recovery != r {
		err = errors.New("somebody else has settled it")
		return true
	}
	pinErr, refused := errors.AsType[*PINError](err)
	switch {
	case err == nil && t.link.Load() == nil:
		return false // another token's recovery has interrupted this one
	case err == nil:
	case refused:
		pause := refusedPause
		if pinErr.Tries == TriesNone {
			pause = lockedPause
		}
		t.why, t.next = err, time.Now().Add(pause)
	default:
		t.why = err
		return false
	}
	t.recovery = nil
	close(r.done)
	return true
}

// relink logs in anew, or only opens a new session if the login has survived.
func (t *token) relink(r *recovery, old *link) error {
	if err := t.m.gate.enter(r.ctx); err != nil {
		return err
	}
	defer t.m.gate.leave()
	if !t.connected || t.link.Load() != nil {
		return errors.New("the library was finalised meanwhile")
	}
	lib := t.m.lib
	for _, sh := range append(old.end(), old.login) {
		_ = lib.CloseSession(sh) // lost or not
	}
	info, err := lib.GetTokenInfo(t.slot)
	if err != nil {
		return named("C_GetTokenInfo", err)
	}
	if info.SerialNumber != t.info.Serial || info.Label != t.info.Label {
		return fmt.Errorf("the slot has the token %q now", info.Label)
	}
	on, err := t.logIn(t.slot, func() ([]byte, error) { return t.secret(r.ctx) })
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.recovery != r || r.ctx.Err() != nil {
		_ = lib.CloseSession(on.login)
		return r.ctx.Err()
	}
	t.link.Store(on)
	return nil
}

// reconnect initialises the library anew and logs in to all its tokens. It reports whether other
// tokens were at work.
func (t *token) reconnect(r *recovery) (crowded bool, err error) {
	m := t.m
	if err := m.admin.lock(r.ctx); err != nil {
		return false, err
	}
	defer m.admin.unlock()
	if t.link.Load() != nil {
		return false, nil // another token's recovery has brought this one back too
	}
	all, secrets := m.sharers(r.ctx)
	defer func() {
		for _, s := range secrets {
			clear(s.pin)
		}
	}()
	if r.ctx.Err() != nil {
		return false, errClosed
	}
	// The others need not be disturbed for a PIN that is known to be wrong.
	if err := t.refusedBefore(digestPIN(secrets[t].pin)); err != nil {
		return false, err
	}
	for _, o := range all {
		crowded = crowded || o != t && o.link.Load() != nil
	}
	err = m.alone(func() error {
		for _, o := range all {
			_ = o.disconnect(o.interrupt())
		}
		for _, o := range all {
			cerr := secrets[o].err
			if cerr == nil {
				cerr = o.connect(secrets[o].pin)
			}
			if o == t {
				err = cerr
			} else {
				o.resume(cerr)
			}
		}
		return err
	})
	return crowded, err
}

type pinOrError struct {
	pin []byte
	err error
}

// sharers are the library's open tokens, with their PINs.
func (m *module) sharers(ctx context.Context) (all []*token, secrets map[*token]pinOrError) {
	secrets = map[*token]pinOrError{}
	for _, t := range m.open {
		if t.refs == 0 {
			continue
		}
		pin, err := t.secret(ctx)
		all, secrets[t] = append(all, t), pinOrError{pin, err}
	}
	return all, secrets
}

var errInterrupted = errors.New("the PKCS#11 library is being initialised anew for another token")

// interrupt takes the link of a token that is well, and makes its callers wait, while another one's
// recovery initialises the library.
func (t *token) interrupt() *link {
	t.mu.Lock()
	defer t.mu.Unlock()
	on := t.link.Swap(nil)
	if on == nil || t.recovery != nil { // lost, or just back and not settled yet
		return on
	}
	if r := t.newRecovery(); r != nil {
		r.idle, t.why, t.since = true, errInterrupted, time.Now()
	}
	return on
}

// resume takes down what another token's recovery has done to this one.
func (t *token) resume(err error) {
	t.mu.Lock()
	r := t.recovery
	lost := r != nil && r.idle && err != nil
	if lost {
		r.idle, t.why = false, err
		go t.recover(r, nil, true)
	}
	t.mu.Unlock()
	switch {
	case lost:
		observeLost(t.info.Label, err)
	case r != nil && err == nil:
		t.settle(r, nil)
	}
}
