package hsm

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/miekg/pkcs11"
)

// module is the owner of one PKCS#11 library in this process.
//
// The library is initialised while a token is open, and otherwise only for the length of an
// administrative call. Crypto11 insists on initialising it itself, so the first token of a library
// is looked up in a short session of our own before crypto11 takes over.
type module struct {
	path string
	lib  *pkcs11.Ctx // loaded for good: some libraries do not survive being unloaded

	admin  mutex // serialises opening, closing, listing and initialising tokens
	create mutex // serialises the creation of keys: SoftHSM fails when two are made at once, in any token

	// calls is held for reading during every call on an open token, and for writing while the
	// library is initialised or finalised and while a token's sessions are closed.
	calls sync.RWMutex
	open  map[string]*token // by serial number; guarded by admin
}

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
	m := &module{
		path: canonical, lib: lib, open: map[string]*token{},
		admin: make(mutex, 1), create: make(mutex, 1),
	}
	modules.byPath[canonical] = m
	return m, nil
}

// administer runs f with the library initialised. The caller holds m.admin.
func (m *module) administer(f func(lib *pkcs11.Ctx) error) error {
	if len(m.open) > 0 {
		m.calls.RLock()
		defer m.calls.RUnlock()
		return f(m.lib)
	}
	m.calls.Lock()
	defer m.calls.Unlock()
	if err := m.lib.Initialize(); err != nil {
		return fmt.Errorf("PKCS#11 library %s: %w: %w", m.path, named("C_Initialize", err), ErrUnavailable)
	}
	err := f(m.lib)
	return errors.Join(err, named("C_Finalize", m.lib.Finalize()))
}

// mutex is a lock whose waiting ends with a context. It is a channel of capacity 1.
type mutex chan struct{}

func (m mutex) lock(ctx context.Context) error {
	select {
	case m <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (m mutex) unlock() { <-m }
