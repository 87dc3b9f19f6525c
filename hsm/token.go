package hsm

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"
)

const (
	callsPerTokenMax = 8
	// waitSecondsMax bounds the wait for a free session where the interface has no context.
	waitSecondsMax = 30
	randomBytesMax = 1 << 20
)

// PINFunc returns the PIN of the token labelled token from source, the pin-source of its URI. The
// result is cleared after use.
type PINFunc func(ctx context.Context, source, token string) ([]byte, error)

// Token is an open token. It may be used by several goroutines at once.
type Token struct {
	*token
	closed atomic.Bool
}

// token is what all open Tokens of one device share.
type token struct {
	m    *module
	info TokenInfo
	slot uint
	refs int // open Tokens; guarded by m.admin

	c11       *crypto11.Context
	login     pkcs11.SessionHandle // held open, because the login ends with the last session
	pinDigest [sha256.Size]byte

	slots chan struct{} // one element per call that may run
	mu    sync.Mutex
	idle  []pkcs11.SessionHandle // last in, first out
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
	if err := m.admin.lock(ctx); err != nil {
		return nil, err
	}
	defer m.admin.unlock()
	slot, err := m.find(uri)
	if err != nil {
		return nil, err
	}
	secret, err := slot.pin(ctx, uri, pin)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	digest := digestPIN(secret)
	if t, ok := m.open[slot.info.Serial]; ok {
		// The process is logged in already, and the token would accept any PIN.
		if !hmac.Equal(digest[:], t.pinDigest[:]) {
			return nil, &PINError{Token: slot.info.Label}
		}
		t.refs++
		return &Token{token: t}, nil
	}
	t, err := m.openFirst(slot, secret)
	if err != nil {
		return nil, fmt.Errorf("open token %q: %w", slot.info.Label, err)
	}
	t.pinDigest = digest
	m.open[slot.info.Serial] = t
	return &Token{token: t}, nil
}

// pin gets the PIN of the token in s, or none where the token wants none.
func (s *slot) pin(ctx context.Context, uri URI, pin PINFunc) ([]byte, error) {
	switch {
	case s.flags&pkcs11.CKF_LOGIN_REQUIRED == 0:
		return nil, nil
	case s.flags&pkcs11.CKF_USER_PIN_INITIALIZED == 0:
		return nil, fmt.Errorf("token %q has no user PIN yet: the security officer must set one", s.info.Label)
	case s.flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return nil, &PINError{Token: s.info.Label, Code: "CKR_PIN_LOCKED", Tries: TriesNone}
	case uri.PINSource == "" || pin == nil:
		return nil, fmt.Errorf("token %q needs a PIN: give pin-source in its URI", s.info.Label)
	}
	secret, err := pin(ctx, uri.PINSource, s.info.Label)
	if err != nil {
		return nil, fmt.Errorf("PIN of token %q: %w", s.info.Label, err)
	}
	if len(secret) == 0 {
		return nil, fmt.Errorf("PIN of token %q is empty", s.info.Label)
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

// openFirst opens a token that is not open yet. The caller holds m.admin.
func (m *module) openFirst(s *slot, pin []byte) (*token, error) {
	n, err := concurrency(s.sessionsMax)
	if err != nil {
		return nil, err
	}
	if len(m.open) == 0 { // crypto11 initialises the library
		m.calls.Lock()
		defer m.calls.Unlock()
	}
	t := &token{m: m, info: s.info, slot: s.id, refs: 1, slots: make(chan struct{}, n)}
	t.c11, err = crypto11.Configure(&crypto11.Config{
		Path: m.path, TokenSerial: s.info.Serial,
		MaxSessions:       n + 1, // one is crypto11's own
		PoolWaitTimeout:   waitSecondsMax * time.Second,
		LoginNotSupported: true, // we log in ourselves
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", named("open sessions", err), ErrUnavailable)
	}
	if err := t.logIn(s, pin); err != nil {
		return nil, errors.Join(err, t.c11.Close())
	}
	return t, nil
}

// concurrency is how many calls may run on a token that allows sessionsMax sessions: each takes one
// of crypto11's or one of ours, and either side keeps one open.
func concurrency(sessionsMax uint) (int, error) {
	if sessionsMax == pkcs11.CK_EFFECTIVELY_INFINITE || sessionsMax == pkcs11.CK_UNAVAILABLE_INFORMATION {
		return callsPerTokenMax, nil
	}
	if sessionsMax < 4 {
		return 0, fmt.Errorf("it allows %d sessions, and 4 are needed", sessionsMax)
	}
	return int(min((sessionsMax-2)/2, callsPerTokenMax)), nil
}

// logIn opens the session that keeps the login and logs in, once.
func (t *token) logIn(s *slot, pin []byte) error {
	lib := t.m.lib
	sh, err := lib.OpenSession(t.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return named("C_OpenSession", err)
	}
	t.login = sh
	if s.flags&pkcs11.CKF_LOGIN_REQUIRED == 0 {
		return nil
	}
	err = lib.Login(sh, pkcs11.CKU_USER, string(pin))
	if err == nil {
		// A library that says yes must also have done it.
		info, ierr := lib.GetSessionInfo(sh)
		if ierr == nil && info.State == pkcs11.CKS_RW_USER_FUNCTIONS {
			return nil
		}
		err = errors.Join(errors.New("logged in, but the session is not"), named("C_GetSessionInfo", ierr))
	} else {
		err = t.pinError(err)
	}
	return errors.Join(err, named("C_CloseSession", lib.CloseSession(sh)))
}

// pinError says what the token tells about a refused login.
func (t *token) pinError(err error) error {
	code := codeOf(err)
	switch code {
	case pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE,
		pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_PIN_EXPIRED:
	default:
		return named("C_Login", err)
	}
	e := &PINError{Token: t.info.Label, Code: codeName(code)}
	if info, err := t.m.lib.GetTokenInfo(t.slot); err == nil {
		e.Tries = triesFrom(info.Flags)
	}
	if code == pkcs11.CKR_PIN_LOCKED {
		e.Tries = TriesNone
	}
	return e
}

// Close ends the use of t: its keys stop working. The last Token of a device logs out, and waits for
// the calls that are running.
func (t *Token) Close() error {
	if t.closed.Swap(true) {
		return nil
	}
	m := t.m
	if err := m.admin.lock(context.Background()); err != nil {
		return err
	}
	defer m.admin.unlock()
	if t.refs--; t.refs > 0 {
		return nil
	}
	m.calls.Lock()
	defer m.calls.Unlock()
	delete(m.open, t.info.Serial)
	var errs []error
	for _, sh := range append(t.idle, t.login) {
		errs = append(errs, named("C_CloseSession", m.lib.CloseSession(sh)))
	}
	t.idle = nil
	// The last one finalises the library.
	errs = append(errs, t.c11.Close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close token %q: %w", t.info.Label, err)
	}
	return nil
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
		var err error
		out, err = lib.GenerateRandom(sh, n)
		if err == nil && len(out) != n {
			err = fmt.Errorf("%d bytes instead of %d", len(out), n)
		}
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

// enter begins a call on the token: no more than the token has sessions for, and none while the
// library changes state. The caller calls leave when the call has ended.
func (t *Token) enter(ctx context.Context) (leave func(), err error) { return t.enterAs(ctx, 1) }

// enterAlone begins a call during which no other runs on the token: SoftHSM fails to make a key, and
// leaves the torso of one, when another session searches the token meanwhile. The caller holds
// m.create, so that two never wait for each other's last place.
func (t *Token) enterAlone(ctx context.Context) (leave func(), err error) {
	return t.enterAs(ctx, cap(t.slots))
}

func (t *Token) enterAs(ctx context.Context, places int) (leave func(), err error) {
	taken := 0
	free := func() {
		for range taken {
			<-t.slots
		}
	}
	for ; taken < places; taken++ {
		select {
		case t.slots <- struct{}{}:
		case <-ctx.Done():
			free()
			return nil, context.Cause(ctx)
		}
	}
	t.m.calls.RLock()
	leave = func() { t.m.calls.RUnlock(); free() }
	if t.closed.Load() {
		leave()
		return nil, fmt.Errorf("the token is closed: %w", ErrUnavailable)
	}
	return leave, nil
}

var errBusy = fmt.Errorf("no free session within %d seconds: %w", waitSecondsMax, ErrUnavailable)

// briefly returns the context of a call whose interface has none.
func briefly() (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.Background(), waitSecondsMax*time.Second, errBusy)
}

// session runs f with a session that is logged in and nobody else's.
func (t *Token) session(ctx context.Context, f func(*pkcs11.Ctx, pkcs11.SessionHandle) error) error {
	leave, err := t.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return t.withSession(f)
}

// sessionOnce is session for what must not be done twice, such as making an object.
func (t *Token) sessionOnce(ctx context.Context, f func(*pkcs11.Ctx, pkcs11.SessionHandle) error) error {
	return t.session(ctx, f)
}

// withSession is session for a caller that has entered. If f fails, the session is closed: an
// operation may be left pending in it.
func (t *Token) withSession(f func(*pkcs11.Ctx, pkcs11.SessionHandle) error) error {
	sh, err := t.takeSession()
	if err != nil {
		return err
	}
	if err := f(t.m.lib, sh); err != nil {
		_ = t.m.lib.CloseSession(sh) // the first error is the one that tells
		return err
	}
	t.mu.Lock()
	t.idle = append(t.idle, sh)
	t.mu.Unlock()
	return nil
}

func (t *Token) takeSession() (pkcs11.SessionHandle, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.idle); n > 0 {
		sh := t.idle[n-1]
		t.idle = t.idle[:n-1]
		return sh, nil
	}
	sh, err := t.m.lib.OpenSession(t.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	return sh, named("C_OpenSession", err)
}
