package hsm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"
)

const (
	// These bound the calls that run at once on a token, unless its URI says otherwise: so many on a
	// device, and on a token that is software, which works on this host's processors, so many for
	// each of them. Measured on SoftHSM, fewer leave a processor idle now and then, and more only
	// lengthen the longest wait.
	callsOnDevice     = 8
	callsPerProcessor = 3
	callsOnHostMax    = 16
	// waitSecondsMax bounds a call where the interface has no context.
	waitSecondsMax = 30
	// lostSecondsMax bounds the wait for a lost device to come back.
	lostSecondsMax = 3
	// triesMax is how often a call is made that may be repeated.
	triesMax = 4
	// failuresMax is how many device errors in a row, with the session still well, make a device lost.
	failuresMax = 3
)

// link is a login at a token: what holds only as long as the library stays initialised and the token
// stays where it is. After a loss there is another.
type link struct {
	login    pkcs11.SessionHandle // held open, because the login ends with the last session
	worked   atomic.Bool          // a call has succeeded
	failures atomic.Int32         // device errors since then

	mu   sync.Mutex
	idle []pkcs11.SessionHandle // last in, first out
	gone bool
}

// lostError is the error of a call that met a lost device. The call may be repeated on the next link,
// or on this one if the link was not given up.
type lostError struct {
	err     error
	giveUp  bool
	unclear bool // it may as well be about what was asked
}

func (e *lostError) Error() string {
	text := e.err.Error()
	if strings.Contains(text, ErrUnavailable.Error()) {
		return text // once is enough
	}
	return ErrUnavailable.Error() + ": " + text
}
func (e *lostError) Unwrap() error        { return e.err }
func (e *lostError) Is(target error) bool { return target == ErrUnavailable }
func (e *lostError) Unavailable() bool    { return true }

// call says how a call is made and, for those who count, what it does.
type call struct {
	operation string
	key       *KeyInfo
	tries     int
	impatient bool // fails at once if the device is lost
	doubtful  bool // what is asked may be at fault, such as data that are to be opened
	blind     bool // nobody can tell from the result which key made it
	shared    bool // the key is that of a group
}

type sessionFunc = func(*pkcs11.Ctx, pkcs11.SessionHandle) error

// session runs f with a session that is logged in and nobody else's. After a lost device it runs f
// again, so f does nothing that must not be done twice. When ctx ends f may still be running: what f
// reads must not change then.
func (t *Token) session(ctx context.Context, f sessionFunc) error {
	_, err := t.call(ctx, call{tries: triesMax}, f)
	return err
}

// sessionOnce is session for what must not be done twice, such as making an object.
func (t *Token) sessionOnce(ctx context.Context, f sessionFunc) error {
	_, err := t.call(ctx, call{tries: 1}, f)
	return err
}

// call returns the link on which f succeeded.
func (t *Token) call(ctx context.Context, c call, f sessionFunc) (*link, error) {
	for try := 1; ; try++ {
		start := time.Now()
		on, queued, err := t.try(ctx, c, f)
		if on == nil {
			return nil, err // f was not run
		}
		t.report(c, err, queued, time.Since(start)-queued)
		lost, ok := errors.AsType[*lostError](err)
		if !ok {
			return on, err
		}
		switch {
		case lost.unclear && c.tries == 1 && !c.shared:
			return on, lost.err
		case lost.unclear && c.doubtful && try < triesMax:
			continue
		case lost.unclear && c.doubtful:
			return on, lost.err // so often is no accident
		case lost.giveUp, lost.unclear && on.failures.Add(1) >= failuresMax:
			t.lose(on, lost)
		}
		if try >= c.tries || ctx.Err() != nil {
			return on, err
		}
	}
}

// try runs f once. It returns the link on which it did.
func (t *Token) try(ctx context.Context, c call, f sessionFunc) (on *link, queued time.Duration, err error) {
	start := time.Now()
	t.load.Add(1)
	defer t.load.Add(-1)
	// A lost device is waited for here, or each of the few who have a place would make the others wait.
	if _, err := t.linked(ctx, c.impatient); err != nil {
		return nil, 0, err
	}
	if err := t.takePlace(ctx); err != nil {
		return nil, 0, err
	}
	for {
		on, err := t.linked(ctx, c.impatient)
		if err == nil {
			err = t.m.gate.enter(ctx)
		}
		if err != nil {
			<-t.places
			return nil, 0, err
		}
		if t.link.Load() == on {
			queued := time.Since(start)
			return on, queued, t.inside(ctx, on, f)
		}
		t.m.gate.leave() // replaced while we waited
	}
}

// inside runs f, and leaves the gate and gives back the place when f has returned.
func (t *Token) inside(ctx context.Context, on *link, f sessionFunc) error {
	_, err := attended(ctx, t, 1, func() (struct{}, error) {
		defer func() { t.m.gate.leave(); <-t.places }()
		return struct{}{}, t.withLink(on, f)
	})
	return err
}

// attended runs f, which holds so many places, and returns when f does. If ctx ends before, the caller
// goes without f, and the places count as stuck until f returns.
func attended[T any](ctx context.Context, t *Token, places int64, f func() (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	const running, returned, abandoned = 0, 1, 2
	var state atomic.Int32
	done := make(chan outcome, 1)
	go func() {
		value, err := f()
		if !state.CompareAndSwap(running, returned) {
			t.stuck.Add(-places)
		}
		done <- outcome{value, err}
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		if !state.CompareAndSwap(running, abandoned) {
			o := <-done
			return o.value, o.err
		}
		t.stuck.Add(places)
		var none T
		return none, noAnswer(ctx)
	}
}

// takePlace waits until fewer calls run on the token than may.
func (t *Token) takePlace(ctx context.Context) error {
	if ctx.Err() != nil {
		return noTurn(ctx, "not begun")
	}
	if int(t.stuck.Load()) >= cap(t.places) {
		return fmt.Errorf("%d calls of the PKCS#11 library have not returned: if they never do, restart the program: %w",
			cap(t.places), ErrUnavailable)
	}
	select {
	case t.places <- struct{}{}:
	default:
		select {
		case t.places <- struct{}{}:
		case <-ctx.Done():
			return noTurn(ctx, fmt.Sprintf("all %d sessions are busy", cap(t.places)))
		}
	}
	return nil
}

// withLink runs f with a session of on. If f fails the session is closed, because some libraries
// leave the failed operation pending in it. The caller is inside the gate.
func (t *token) withLink(on *link, f sessionFunc) error {
	lib := t.m.lib
	sh, err := on.take(lib, t.slot)
	if err != nil {
		return t.diagnose(on, on.login, err)
	}
	if err := f(lib, sh); err != nil {
		err = t.diagnose(on, sh, err)
		_ = lib.CloseSession(sh) // the first error is the one that tells
		return err
	}
	on.worked.Store(true)
	on.failures.Store(0)
	if !on.put(sh) {
		_ = lib.CloseSession(sh)
	}
	return nil
}

func (on *link) take(lib *pkcs11.Ctx, slot uint) (pkcs11.SessionHandle, error) {
	on.mu.Lock()
	if n := len(on.idle); n > 0 {
		sh := on.idle[n-1]
		on.idle = on.idle[:n-1]
		on.mu.Unlock()
		return sh, nil
	}
	on.mu.Unlock()
	sh, err := lib.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	return sh, named("C_OpenSession", err)
}

// put keeps sh for the next call, unless the link was given up meanwhile.
func (on *link) put(sh pkcs11.SessionHandle) bool {
	on.mu.Lock()
	defer on.mu.Unlock()
	if on.gone {
		return false
	}
	on.idle = append(on.idle, sh)
	return true
}

// end gives the link up and returns its idle sessions.
func (on *link) end() []pkcs11.SessionHandle {
	on.mu.Lock()
	defer on.mu.Unlock()
	idle := on.idle
	on.idle, on.gone = nil, true
	return idle
}

// diagnose finds out whether err, met in session sh, means a lost device. Codes mean different things
// in different libraries; whether the session is still there and logged in tells.
func (t *token) diagnose(on *link, sh pkcs11.SessionHandle, err error) error {
	if lost, ok := errors.AsType[*lostError](err); ok {
		return lost
	}
	loss := lossOf(err)
	if loss == lossNone {
		return err
	}
	well := t.loggedIn(sh)
	switch {
	case well && loss == lossUnclear:
		return &lostError{err: err, unclear: true}
	case well && loss == lossDevice:
		return &lostError{err: err, giveUp: on.failures.Add(1) >= failuresMax}
	}
	return &lostError{err: err, giveUp: true}
}

// loggedIn reports whether session sh is there and may use private keys.
func (t *token) loggedIn(sh pkcs11.SessionHandle) bool {
	info, err := t.m.lib.GetSessionInfo(sh)
	return err == nil && (!t.loginRequired || info.State == pkcs11.CKS_RW_USER_FUNCTIONS)
}

// creating runs f, which makes, changes or destroys objects, while no other call runs on the token:
// SoftHSM fails to make a key, and leaves the torso of one, when another session searches the token
// meanwhile. When ctx ends f goes on by itself.
func creating[T any](ctx context.Context, t *Token, f func() (T, error)) (T, error) {
	var none T
	// Only one waits for all places at a time, so that two never wait for each other's last one.
	if err := t.m.create.lock(ctx); err != nil {
		return none, err
	}
	leave, err := t.enterAlone(ctx)
	if err != nil {
		t.m.create.unlock()
		return none, err
	}
	return attended(ctx, t, int64(cap(t.places)), func() (T, error) {
		defer func() { leave(); t.m.create.unlock() }()
		return f()
	})
}

func (t *Token) enterAlone(ctx context.Context) (leave func(), err error) {
	taken := 0
	free := func() {
		for range taken {
			<-t.places
		}
	}
	for range cap(t.places) {
		if err := t.takePlace(ctx); err != nil {
			free()
			return nil, err
		}
		taken++
	}
	for {
		on, err := t.linked(ctx, false)
		if err == nil {
			err = t.m.gate.enter(ctx)
		}
		if err != nil {
			free()
			return nil, err
		}
		if t.link.Load() == on {
			return func() { t.m.gate.leave(); free() }, nil
		}
		t.m.gate.leave()
	}
}

// withSession is sessionOnce for what creating runs.
func (t *Token) withSession(f sessionFunc) error {
	on := t.link.Load()
	if on == nil {
		return fmt.Errorf("the device was lost meanwhile: %w", ErrUnavailable)
	}
	err := t.withLink(on, f)
	lost, ok := errors.AsType[*lostError](err)
	switch {
	case ok && lost.unclear:
		return lost.err
	case ok && lost.giveUp:
		t.lose(on, lost)
	}
	return err
}

var errBusy = fmt.Errorf("not done within %d seconds", waitSecondsMax)

// briefly returns the context of a call whose interface has none.
func briefly(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx == nil {
		ctx = context.Background()
	}
	return context.WithTimeoutCause(ctx, waitSecondsMax*time.Second, errBusy)
}
