package hsm

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/miekg/pkcs11"
)

const (
	randomBytesMax = 1 << 20
	// refusalsMax bounds the PINs that are remembered of one token, which locks long before.
	refusalsMax = 100
)

// PINFunc returns the PIN of the token labelled token from source, the pin-source of its URI. The
// result is cleared after use. It is called again when a lost token wants a login, at any time until
// the last Token of the device is closed; a PIN that the token has refused is not tried again.
type PINFunc func(ctx context.Context, source, token string) ([]byte, error)

// Token is an open token. It may be used by several goroutines at once.
type Token struct {
	*token
	closed atomic.Bool
}

// token is what all open Tokens of one device share.
type token struct {
	m             *module
	uri           URI // with the serial number, by which the token is found again
	info          TokenInfo
	pin           PINFunc
	loginRequired bool

	// Guarded by m.admin.
	refs int // open Tokens

	// Changed while m.gate is shut and m.admin held, or before anybody knows the token.
	connected bool // the library is initialised for it
	slot      uint

	places chan struct{} // one element per call that runs
	load   atomic.Int64  // calls that wait or run
	stuck  atomic.Int64  // calls that run although nobody waits for them any more

	link      atomic.Pointer[link] // nil while the device is lost; mu is held for its loss
	mu        sync.Mutex
	recovery  *recovery // nil unless one runs
	ended     bool      // the last Token is closed: no recovery begins
	why       error     // why there is no link
	since     time.Time // when it was lost
	next      time.Time // not before which to look for another PIN than the refused one
	pinDigest [sha256.Size]byte
}

// refusal is a PIN that a token did not take, and what it said.
type refusal struct {
	digest [sha256.Size]byte
	err    error
}

// Open opens the token that uri names by label, serial number or both, and logs in with the PIN that
// pin gets from the URI's pin-source. A label that two tokens share is refused without a serial
// number. A PIN is tried once: if the token refuses it, the error is a *PINError.
//
// Several Tokens of one device may be open; each is closed by itself.
func Open(ctx context.Context, uri URI, pin PINFunc) (*Token, error) {
	if uri.Token == "" && uri.Serial == "" {
		return nil, errors.New("PKCS#11 URI names no token: give token or serial")
	}
	m, err := loadModule(uri.ModulePath)
	if err != nil {
		return nil, err
	}
	var t *Token
	err = m.manage(ctx, func() error {
		opened, err := m.openToken(ctx, uri, pin)
		t = opened
		return err
	}, func() { _ = m.closeToken(t.token) })
	if err != nil {
		return nil, err
	}
	return t, nil
}

// openToken is Open for a caller that holds m.admin.
func (m *module) openToken(ctx context.Context, uri URI, pin PINFunc) (*Token, error) {
	slot, err := m.find(uri)
	if err != nil {
		return nil, err
	}
	if t, ok := m.open[slot.info.id()]; ok && t.refs > 0 {
		return t.again(ctx, uri, pin)
	}
	n, err := callsMax(uri.CallsMax, slot)
	if err != nil {
		return nil, fmt.Errorf("open token %q: %w", slot.info.Label, err)
	}
	uri.Object, uri.ID, uri.Type = "", nil, ""
	uri.Serial, uri.Token = slot.info.Serial, slot.info.Label
	t := &token{
		m: m, uri: uri, info: slot.info, pin: pin, refs: 1, places: make(chan struct{}, n),
		loginRequired: slot.flags&pkcs11.CKF_LOGIN_REQUIRED != 0,
	}
	secret, err := t.secret(ctx)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	t.pinDigest = digestPIN(secret)
	connect := func() error { return t.connect(secret) }
	if m.initialised() {
		err = connect()
	} else {
		err = m.alone(connect)
	}
	if _, ok := errors.AsType[*PINError](err); ok {
		return nil, err // which names the token
	}
	if err != nil {
		return nil, fmt.Errorf("open token %q: %w", slot.info.Label, err)
	}
	m.open[slot.info.id()] = t
	return &Token{token: t}, nil
}

// again opens a token that is open. The process is logged in, and the token would accept any PIN.
func (t *token) again(ctx context.Context, uri URI, pin PINFunc) (*Token, error) {
	other := &token{uri: uri, info: t.info, pin: pin, loginRequired: t.loginRequired}
	secret, err := other.secret(ctx)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	t.mu.Lock()
	digest, want := digestPIN(secret), t.pinDigest
	t.mu.Unlock()
	if !hmac.Equal(digest[:], want[:]) {
		return nil, &PINError{Token: t.info.Label}
	}
	t.refs++
	return &Token{token: t}, nil
}

// secret gets the PIN of the token, or none where the token wants none.
func (t *token) secret(ctx context.Context) ([]byte, error) {
	switch {
	case !t.loginRequired:
		return nil, nil
	case t.uri.PINSource == "" || t.pin == nil:
		return nil, fmt.Errorf("token %q needs a PIN: give pin-source in its URI", t.info.Label)
	}
	secret, err := t.pin(ctx, t.uri.PINSource, t.info.Label)
	if err != nil {
		return nil, fmt.Errorf("PIN of token %q: %w", t.info.Label, err)
	}
	if len(secret) == 0 {
		return nil, fmt.Errorf("PIN of token %q is empty", t.info.Label)
	}
	return secret, nil
}

var pinDigestKey = rand.Text()

// digestPIN lets a PIN be compared with an earlier one without keeping it.
func digestPIN(pin []byte) (d [sha256.Size]byte) {
	h := hmac.New(sha256.New, []byte(pinDigestKey))
	h.Write(pin)
	h.Sum(d[:0])
	return d
}

// callsMax is how many calls may run on the token in s: each takes a session, and one keeps the login.
func callsMax(wanted int, s *slot) (int, error) {
	sessionsMax := s.sessionsMax
	switch {
	case wanted > 0:
	case s.hardware:
		wanted = callsOnDevice
	default:
		wanted = min(callsPerProcessor*runtime.GOMAXPROCS(0), callsOnHostMax)
	}
	if sessionsMax == pkcs11.CK_EFFECTIVELY_INFINITE || sessionsMax == pkcs11.CK_UNAVAILABLE_INFORMATION {
		return wanted, nil
	}
	if sessionsMax < 2 {
		return 0, fmt.Errorf("it allows %d sessions, and 2 are needed", sessionsMax)
	}
	return int(min(sessionsMax-1, uint(wanted))), nil
}

// connect finds the token and logs in; the first one of a library initialises it. The caller holds
// m.admin, and has shut the gate if the library is not initialised.
func (t *token) connect(pin []byte) (err error) {
	lib := t.m.lib
	if !t.m.initialised() {
		if err := t.m.initialise(); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				_ = t.m.finalise() // the first error is the one that tells
			}
		}()
	}
	s, err := findIn(lib, t.uri, t.m.path)
	if err != nil {
		return err
	}
	on, err := t.logIn(s.id, func() ([]byte, error) { return slices.Clone(pin), nil })
	if err != nil {
		return err
	}
	t.connected, t.slot = true, s.id
	t.link.Store(on)
	return nil
}

// logIn opens the session that keeps the login and logs in, once. A login that is there needs no PIN.
func (t *token) logIn(slot uint, secret func() ([]byte, error)) (*link, error) {
	lib := t.m.lib
	sh, err := lib.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return nil, named("C_OpenSession", err)
	}
	if !t.loggedIn(sh) {
		pin, err := secret()
		if err == nil {
			err = t.logInWith(sh, slot, pin)
			clear(pin)
		}
		if err != nil {
			_ = lib.CloseSession(sh)
			return nil, err
		}
	}
	return &link{login: sh}, nil
}

func (t *token) logInWith(sh pkcs11.SessionHandle, slot uint, pin []byte) error {
	digest := digestPIN(pin)
	if err := t.refusedBefore(digest); err != nil {
		return err
	}
	lib := t.m.lib
	if info, err := lib.GetTokenInfo(slot); err == nil && t.loginRequired {
		switch {
		case info.Flags&pkcs11.CKF_USER_PIN_INITIALIZED == 0:
			return fmt.Errorf("token %q has no user PIN yet: the security officer must set one", t.info.Label)
		case info.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
			return &PINError{Token: t.info.Label, Code: "CKR_PIN_LOCKED", Tries: TriesNone}
		}
	}
	if err := lib.Login(sh, pkcs11.CKU_USER, unsafe.String(unsafe.SliceData(pin), len(pin))); err != nil {
		err = t.pinError(err, slot)
		if _, ok := errors.AsType[*PINError](err); ok {
			t.m.refuse(t.info.id(), refusal{digest, err})
		}
		return err
	}
	// A library that says yes must also have done it.
	if !t.loggedIn(sh) {
		return errors.New("logged in, but the session is not")
	}
	return nil
}

// refusedBefore returns the error that the token gave for this PIN when it was last refused.
func (t *token) refusedBefore(digest [sha256.Size]byte) error {
	t.m.pins.Lock()
	defer t.m.pins.Unlock()
	for _, r := range t.m.refusals[t.info.id()] {
		if hmac.Equal(digest[:], r.digest[:]) {
			return r.err
		}
	}
	return nil
}

func (m *module) refuse(id tokenID, r refusal) {
	m.pins.Lock()
	defer m.pins.Unlock()
	old := m.refusals[id]
	m.refusals[id] = append(old[max(0, len(old)+1-refusalsMax):], r)
}

// pinError says what the token tells about a refused login.
func (t *token) pinError(err error, slot uint) error {
	code := codeOf(err)
	switch code {
	case pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE,
		pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_PIN_EXPIRED:
	default:
		return named("C_Login", err)
	}
	e := &PINError{Token: t.info.Label, Code: codeName(code)}
	if info, err := t.m.lib.GetTokenInfo(slot); err == nil {
		e.Tries = triesFrom(info.Flags)
	}
	if code == pkcs11.CKR_PIN_LOCKED {
		e.Tries = TriesNone
	}
	return e
}

// Close ends the use of t: its keys stop working. The last Token of a device logs out, and waits for
// the calls that are running, but not for ever: after that the library stays as it is.
func (t *Token) Close() error {
	if t.closed.Swap(true) {
		return nil
	}
	done := make(chan error, 1)
	go func() { // which sees it through, however long others administer the library
		_ = t.m.admin.lock(context.Background())
		defer t.m.admin.unlock()
		done <- t.m.closeToken(t.token)
	}()
	var err error
	select {
	case err = <-done:
	case <-time.After(2 * drainSecondsMax * time.Second):
		err = errHangs
	}
	if err != nil {
		return fmt.Errorf("close token %q: %w", t.info.Label, err)
	}
	return nil
}

// closeToken ends one use of t. The caller holds m.admin.
func (m *module) closeToken(t *token) error {
	if t.refs--; t.refs > 0 {
		return nil
	}
	t.end()
	delete(m.open, t.info.id())
	closed := false
	err := m.alone(func() error {
		closed = true
		return t.disconnect(t.link.Swap(nil))
	})
	m.stuck = m.stuck || !closed && t.connected
	return err
}

// disconnect closes on, which may be nil, and what else the token has open; the library's last one finalises it. The caller has shut
// the gate. The token may be lost, so what comes back is of interest only at an orderly end.
func (t *token) disconnect(on *link) error {
	var errs []error
	if on != nil {
		for _, sh := range append(on.end(), on.login) {
			errs = append(errs, named("C_CloseSession", t.m.lib.CloseSession(sh)))
		}
	}
	if t.connected {
		t.connected = false
		if !t.m.initialised() {
			errs = append(errs, t.m.finalise())
		}
	}
	return errors.Join(errs...)
}

// Info tells which token t is.
func (t *Token) Info() TokenInfo { return t.info }

// Random returns n bytes, at most 1 MiB, from the token's random number generator.
func (t *Token) Random(ctx context.Context, n int) ([]byte, error) {
	if n < 1 || n > randomBytesMax {
		return nil, fmt.Errorf("%d random bytes asked for: want 1 to %d", n, randomBytesMax)
	}
	var out []byte
	err := t.session(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		random, err := lib.GenerateRandom(sh, n)
		if err == nil && len(random) != n {
			err = fmt.Errorf("%d bytes instead of %d", len(random), n)
		}
		out = random
		return named("C_GenerateRandom", err)
	})
	if err != nil {
		return nil, t.fail("random bytes", err)
	}
	return out, nil
}

// fail says on which object of the token something went wrong.
func (t *Token) fail(what string, err error) error {
	return fmt.Errorf("token %q: %s: %w", t.info.Label, what, err)
}
