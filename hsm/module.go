package hsm

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/miekg/pkcs11"
)

// drainSecondsMax bounds the wait for running calls before the library is finalised.
const drainSecondsMax = 5

// module is the owner of one PKCS#11 library in this process.
//
// The library is initialised while a token is connected, and otherwise only for the length of an
// administrative call.
type module struct {
	path   string
	lib    *pkcs11.Ctx // loaded for good: some libraries do not survive being unloaded
	direct direct

	admin  mutex // serialises opening, closing, listing, initialising and recovering tokens
	create mutex // serialises the creation of keys: SoftHSM fails when two are made at once, in any token

	// gate is entered by every call of the library, and shut while the library is initialised or
	// finalised. Who shuts it holds admin.
	gate gate
	open map[tokenID]*token // guarded by admin
	// stuck is set when a token could not be closed: then the library stays initialised until nobody
	// is in it any more.
	stuck bool // guarded by admin
	// ours is set while the library is initialised by us, foreign while it is by somebody else in this
	// process, who would crash if we finalised it.
	ours, foreign bool // guarded by admin

	pins     sync.Mutex
	refusals map[tokenID][]refusal // guarded by pins; they outlive the open tokens
}

// tokenID tells the tokens of a library apart. Not by the serial number alone, because NSS has two tokens,
// both with the number 0.
type tokenID struct{ serial, label string }

func (i TokenInfo) id() tokenID { return tokenID{i.Serial, i.Label} }

var modules = struct {
	sync.Mutex
	byPath map[string]*module
}{byPath: map[string]*module{}}

// loadModule returns the owner of the library at path. Two paths to one file have one owner.
func loadModule(path string) (*module, error) {
	if path == "" {
		return nil, errors.New("no PKCS#11 library: give module-path in the URI")
	}
	canonical, err := filepath.EvalSymlinks(path)
	if err == nil {
		canonical, err = filepath.Abs(canonical)
	}
	if err != nil {
		return nil, fmt.Errorf("PKCS#11 library: %w: %w", err, ErrUnavailable)
	}
	modules.Lock()
	defer modules.Unlock()
	if m, ok := modules.byPath[canonical]; ok {
		return m, nil
	}
	lib := pkcs11.New(canonical)
	if lib == nil {
		return nil, fmt.Errorf("%s is not a PKCS#11 library that can be loaded: %w", canonical, ErrUnavailable)
	}
	functions, err := directly(lib, canonical)
	if err != nil {
		return nil, err
	}
	m := &module{
		path: canonical, lib: lib, direct: functions, open: map[tokenID]*token{}, refusals: map[tokenID][]refusal{},
		admin: make(mutex, 1), create: make(mutex, 1),
	}
	modules.byPath[canonical] = m
	return m, nil
}

// initialised reports whether the library is. The caller holds m.admin.
func (m *module) initialised() bool {
	for _, t := range m.open {
		if t.connected {
			return true
		}
	}
	return m.stuck
}

// manage runs f, which holds m.admin, and returns when f does or when ctx ends: then f goes on by
// itself, and what it brings is undone.
func (m *module) manage(ctx context.Context, f func() error, undo func()) error {
	if err := m.admin.lock(ctx); err != nil {
		return err
	}
	done := make(chan error)
	go func() {
		err := f()
		select {
		case done <- err:
			m.admin.unlock()
		case <-ctx.Done():
			if err == nil && undo != nil {
				undo()
			}
			m.admin.unlock()
		}
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return noAnswer(ctx)
	}
}

// administer runs f with the library initialised. The caller holds m.admin.
func (m *module) administer(f func(lib *pkcs11.Ctx) error) error {
	if !m.initialised() {
		return m.alone(func() error { return m.briefly(f) })
	}
	if err := m.gate.enter(context.Background()); err != nil {
		return err
	}
	defer m.gate.leave()
	return f(m.lib)
}

func (m *module) initialise() error {
	err := m.lib.Initialize()
	switch {
	case err == nil:
		m.ours, m.foreign = true, false
	case codeOf(err) == pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED:
		m.foreign = !m.ours
	default:
		return fmt.Errorf("PKCS#11 library %s: %w: %w", m.path, named("C_Initialize", err), ErrUnavailable)
	}
	return nil
}

func (m *module) finalise() error {
	if m.foreign {
		return nil
	}
	err := m.lib.Finalize()
	if err == nil || codeOf(err) == pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED {
		m.ours = false
	}
	return named("C_Finalize", err)
}

// briefly initialises the library for f alone. The caller has shut the gate.
func (m *module) briefly(f func(lib *pkcs11.Ctx) error) error {
	if err := m.initialise(); err != nil {
		return err
	}
	err := f(m.lib)
	return errors.Join(err, m.finalise())
}

// alone runs f while no call is in the library. The caller holds m.admin.
func (m *module) alone(f func() error) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), drainSecondsMax*time.Second, errHangs)
	defer cancel()
	if err := m.gate.shut(ctx); err != nil {
		return err
	}
	defer m.gate.open()
	if m.stuck {
		// Nobody is in the library any more.
		if m.stuck = false; !m.initialised() {
			_ = m.finalise() // as a lost one is: what f needs says more
		}
	}
	return f()
}

var errHangs = fmt.Errorf("a call of the PKCS#11 library has not returned for %d seconds: if it never does, restart the program: %w",
	drainSecondsMax, ErrUnavailable)

func noAnswer(ctx context.Context) error {
	return fmt.Errorf("the PKCS#11 library has not answered: %w: %w", context.Cause(ctx), ErrUnavailable)
}

// noTurn is the error of a call that was not made, because ctx has ended before its turn.
func noTurn(ctx context.Context, waited string) error {
	return fmt.Errorf("%s: %w: %w", waited, context.Cause(ctx), ErrUnavailable)
}

// mutex is a lock whose waiting ends with a context. It is a channel of capacity 1.
type mutex chan struct{}

func (m mutex) lock(ctx context.Context) error {
	if ctx.Err() != nil {
		return noTurn(ctx, "not begun")
	}
	select {
	case m <- struct{}{}:
		return nil
	case <-ctx.Done():
		return noTurn(ctx, "somebody else administers the PKCS#11 library, or makes a key")
	}
}

func (m mutex) unlock() { <-m }
