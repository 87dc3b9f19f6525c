package faults_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/setkit/setkit/hsm/hsmtest"
	"github.com/setkit/setkit/hsm/hsmtest/faults"
)

// client uses a module with nothing in between.
type client struct {
	*pkcs11.Ctx
	pin     string
	slot    uint
	session pkcs11.SessionHandle
	key     pkcs11.ObjectHandle // a P-256 session key
}

// load initialises the token's module, opens a session, logs in and makes a key.
func load(t *testing.T, token *hsmtest.Token) *client {
	t.Helper()
	lib := pkcs11.New(token.ModulePath)
	if lib == nil {
		t.Fatalf("%s cannot be loaded", token.ModulePath)
	}
	if err := lib.Initialize(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lib.Finalize() }) // the test may have done it already
	c := &client{Ctx: lib, pin: token.PIN}
	slots, err := lib.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, c.slot = range slots {
		if info, err := lib.GetTokenInfo(c.slot); err == nil && info.Label == token.Label {
			if err := c.open(); err != nil {
				t.Fatal(err)
			}
			return c
		}
	}
	t.Fatalf("token %s is not in %d slots", token.Label, len(slots))
	return nil
}

func (c *client) open() (err error) {
	if c.session, err = c.OpenSession(c.slot, pkcs11.CKF_SERIAL_SESSION); err != nil {
		return err
	}
	if err := c.Login(c.session, pkcs11.CKU_USER, c.pin); err != nil {
		return err
	}
	_, c.key, err = c.GenerateKeyPair(c.session,
		[]*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)},
		[]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, []byte{6, 8, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1, 7}),
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false)},
		[]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_SIGN, true), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false)})
	return err
}

// random calls C_GenerateRandom.
func (c *client) random() error {
	_, err := c.GenerateRandom(c.session, 8)
	return err
}

func (c *client) sign() error {
	if err := c.SignInit(c.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}, c.key); err != nil {
		return err
	}
	_, err := c.Sign(c.session, make([]byte, 32))
	return err
}

// want fails the test if err is not the code.
func want(t *testing.T, what string, err error, code uint) {
	t.Helper()
	got, _ := errors.AsType[pkcs11.Error](err)
	if uint(got) != code || (err == nil) != (code == pkcs11.CKR_OK) {
		t.Errorf("%s: %v; want %v", what, err, pkcs11.Error(code))
	}
}

func start(t *testing.T) (*faults.Module, *client) {
	t.Helper()
	m := faults.New(t)
	c := load(t, m.Token)
	return m, c
}

func TestFail(t *testing.T) {
	t.Parallel()
	m, c := start(t)
	want(t, "before any fault", c.sign(), pkcs11.CKR_OK)
	m.Fail(faults.GenerateRandom, pkcs11.CKR_DEVICE_ERROR, 2)
	for _, code := range []uint{pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_OK} {
		want(t, "C_GenerateRandom", c.random(), code)
	}
	if m.Faults() != 2 || m.Calls(faults.GenerateRandom) != 3 {
		t.Errorf("%d faults in %d calls, want 2 in 3", m.Faults(), m.Calls(faults.GenerateRandom))
	}
	m.Fail(faults.SignInit, 0x80000042, faults.Forever)
	for range 3 {
		want(t, "C_SignInit", c.sign(), 0x80000042)
	}
	m.Clear()
	want(t, "after Clear", c.sign(), pkcs11.CKR_OK)
}

// A call that failed before did nothing; one that failed afterwards has done it.
func TestFailAfter(t *testing.T) {
	t.Parallel()
	m, c := start(t)
	before := m.Sessions()
	m.Fail(faults.OpenSession, pkcs11.CKR_DEVICE_ERROR, 1)
	_, err := c.OpenSession(c.slot, pkcs11.CKF_SERIAL_SESSION)
	want(t, "C_OpenSession", err, pkcs11.CKR_DEVICE_ERROR)
	if got := m.Sessions(); got != before {
		t.Errorf("%d sessions, want %d as before", got, before)
	}
	m.FailAfter(faults.OpenSession, pkcs11.CKR_DEVICE_ERROR, 1)
	_, err = c.OpenSession(c.slot, pkcs11.CKF_SERIAL_SESSION)
	want(t, "C_OpenSession", err, pkcs11.CKR_DEVICE_ERROR)
	if got := m.Sessions(); got != before+1 {
		t.Errorf("%d sessions, want one more than %d", got, before)
	}
	// What fails by itself is not spoilt.
	m.FailAfter(faults.OpenSession, pkcs11.CKR_DEVICE_ERROR, 1)
	_, err = c.OpenSession(1<<40, pkcs11.CKF_SERIAL_SESSION)
	want(t, "C_OpenSession in a slot that does not exist", err, pkcs11.CKR_SLOT_ID_INVALID)
}

func TestFunctionNames(t *testing.T) {
	t.Parallel()
	for f, want := range map[faults.Function]string{
		faults.Initialize: "C_Initialize", faults.Sign: "C_Sign", faults.WaitForSlotEvent: "C_WaitForSlotEvent", -1: "C_?",
	} {
		if got := f.String(); got != want {
			t.Errorf("function %d is %s, want %s", int(f), got, want)
		}
	}
}

func TestFailRate(t *testing.T) {
	t.Parallel()
	m, c := start(t)
	count := func() (failed int) {
		for range 1000 {
			if c.random() != nil {
				failed++
			}
		}
		return failed
	}
	m.Seed(42)
	m.FailRate(faults.GenerateRandom, pkcs11.CKR_FUNCTION_FAILED, 0.2)
	first := count()
	if first < 140 || first > 260 {
		t.Errorf("%d of 1000 calls failed, want about 200", first)
	}
	m.Seed(42)
	if second := count(); second != first {
		t.Errorf("with the same seed %d calls failed, then %d", first, second)
	}
	for p, want := range map[float64]int{0: 0, 1: 1000} {
		m.FailRate(faults.GenerateRandom, pkcs11.CKR_FUNCTION_FAILED, p)
		if got := count(); got != want {
			t.Errorf("probability %v: %d of 1000 calls failed, want %d", p, got, want)
		}
	}
	m.FailRate(faults.GenerateRandom, 0, 0)
	m.FailRateAfter(faults.GenerateRandom, pkcs11.CKR_FUNCTION_FAILED, 0.5)
	if got := count(); got < 420 || got > 580 {
		t.Errorf("%d of 1000 calls failed afterwards, want about 500", got)
	}
}

func TestCorrupt(t *testing.T) {
	t.Parallel()
	m, c := start(t)
	digest := func() string {
		if err := c.DigestInit(c.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_SHA256, nil)}); err != nil {
			t.Fatal(err)
		}
		sum, err := c.Digest(c.session, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		return string(sum)
	}
	right := digest()
	m.Corrupt(faults.Digest, 1)
	if digest() == right {
		t.Error("the digest is right, want a wrong one")
	}
	if digest() != right {
		t.Error("the digest after that is wrong")
	}
}

func TestHang(t *testing.T) {
	t.Parallel()
	m, c := start(t)
	release := m.Hang(faults.GenerateRandom)
	done := make(chan error, 1)
	go func() { done <- c.random() }()
	waitFor(t, "a call hangs", func() bool { return m.Inside(faults.GenerateRandom) == 1 })
	want(t, "another function meanwhile", c.sign(), pkcs11.CKR_OK)
	select {
	case err := <-done:
		t.Fatalf("the call returned %v, want it to hang", err)
	default:
	}
	release()
	want(t, "the call that hung", <-done, pkcs11.CKR_OK)
	if m.Faults() != 1 || m.InFlightMax() != 2 || m.Inside(faults.GenerateRandom) != 0 {
		t.Errorf("%d faults, at most %d calls at once, %d inside; want 1, 2, 0",
			m.Faults(), m.InFlightMax(), m.Inside(faults.GenerateRandom))
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 10 s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestSlow(t *testing.T) {
	t.Parallel()
	m, c := start(t)
	m.Slow(faults.GenerateRandom, 50*time.Millisecond)
	began := time.Now()
	want(t, "a slow call", c.random(), pkcs11.CKR_OK)
	if took := time.Since(began); took < 50*time.Millisecond {
		t.Errorf("the call took %v, want 50 ms or more", took)
	}
}

func TestSessionsClosed(t *testing.T) {
	t.Parallel()
	m, c := start(t)
	for range 3 {
		if _, err := c.OpenSession(c.slot, pkcs11.CKF_SERIAL_SESSION); err != nil {
			t.Fatal(err)
		}
	}
	m.CloseSomeSessions()
	_, _ = c.GetSlotList(true) // any call
	if m.Sessions() != 2 || m.Faults() != 1 {
		t.Errorf("%d sessions after %d faults, want 2 of 4 after 1", m.Sessions(), m.Faults())
	}
	m.CloseSessions()
	want(t, "sign", c.sign(), pkcs11.CKR_SESSION_HANDLE_INVALID)
	if m.Sessions() != 0 || m.Faults() != 2 {
		t.Errorf("%d sessions after %d faults, want none after 2", m.Sessions(), m.Faults())
	}
	m.CloseSessions()
	want(t, "open, once more", c.open(), pkcs11.CKR_OK) // which needs the login: it was gone
	if m.Faults() != 2 {
		t.Errorf("%d faults, want 2: there was no session to close", m.Faults())
	}
}

func TestLogOut(t *testing.T) {
	t.Parallel()
	m, c := start(t)
	m.LogOut()
	info, err := c.GetSessionInfo(c.session)
	if err != nil || info.State != pkcs11.CKS_RO_PUBLIC_SESSION {
		t.Errorf("session %+v, %v; want a public one", info, err)
	}
	want(t, "log in again", c.Login(c.session, pkcs11.CKU_USER, m.Token.PIN), pkcs11.CKR_OK)
	m.LogOut()
	want(t, "wrong PIN", c.Login(c.session, pkcs11.CKU_USER, "0000"), pkcs11.CKR_PIN_INCORRECT)
	m.Fail(faults.Login, pkcs11.CKR_PIN_INCORRECT, 1)
	want(t, "PIN that does not get to the token", c.Login(c.session, pkcs11.CKU_USER, m.PIN), pkcs11.CKR_PIN_INCORRECT)
	if ok, wrong := m.Logins(pkcs11.CKR_OK), m.Logins(pkcs11.CKR_PIN_INCORRECT); ok != 2 || wrong != 1 {
		t.Errorf("%d right and %d wrong PINs, want 2 and 1", ok, wrong)
	}
}

func TestFinalize(t *testing.T) {
	t.Parallel()
	m, c := start(t)
	m.Finalize()
	want(t, "sign", c.sign(), pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED)
	want(t, "initialise", c.Initialize(), pkcs11.CKR_OK)
	want(t, "sign with the old session", c.sign(), pkcs11.CKR_SESSION_HANDLE_INVALID)
	want(t, "open", c.open(), pkcs11.CKR_OK)
	want(t, "sign", c.sign(), pkcs11.CKR_OK)
}

func TestPull(t *testing.T) {
	t.Parallel()
	m, c := start(t)
	m.Pull()
	want(t, "sign", c.sign(), pkcs11.CKR_DEVICE_REMOVED)
	_, err := c.OpenSession(c.slot, pkcs11.CKF_SERIAL_SESSION)
	want(t, "C_OpenSession", err, pkcs11.CKR_TOKEN_NOT_PRESENT)
	for _, present := range []bool{true, false} {
		if slots, err := c.GetSlotList(present); len(slots) != 0 || err != nil {
			t.Errorf("slots %v, %v; want none", slots, err)
		}
	}
	if info, err := c.GetSlotInfo(c.slot); err != nil || info.Flags&pkcs11.CKF_TOKEN_PRESENT != 0 {
		t.Errorf("slot %+v, %v; want one without a token", info, err)
	}
	want(t, "finalise", c.Finalize(), pkcs11.CKR_OK)
	want(t, "sign in a library that is not initialised", c.sign(), pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED)
	want(t, "initialise", c.Initialize(), pkcs11.CKR_OK)
	want(t, "sign", c.sign(), pkcs11.CKR_DEVICE_REMOVED)
	m.Plug()
	want(t, "sign with the old session", c.sign(), pkcs11.CKR_SESSION_HANDLE_INVALID)
	want(t, "open", c.open(), pkcs11.CKR_OK)
	want(t, "sign", c.sign(), pkcs11.CKR_OK)
	if m.Faults() != 1 {
		t.Errorf("%d faults, want 1", m.Faults())
	}
}

func TestModulesAreIndependent(t *testing.T) {
	t.Parallel()
	a, b := faults.New(t), faults.New(t)
	clients := []*client{load(t, a.Token), load(t, b.Token)}
	a.Finalize()
	b.Fail(faults.GenerateRandom, pkcs11.CKR_HOST_MEMORY, 1)
	want(t, "the module that was finalised", clients[0].random(), pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED)
	want(t, "the other one", clients[1].random(), pkcs11.CKR_HOST_MEMORY)
	want(t, "the other one, again", clients[1].sign(), pkcs11.CKR_OK)
}

// SoftHSM reads its configuration with strtok, which remembers one place for the whole process.
func TestModulesAreInitialisedAtOnce(t *testing.T) {
	t.Parallel()
	const modules, times = 4, 10
	// Lines that say nothing, unless they get the end of another module's line.
	lines := bytes.Repeat([]byte("directories.tokendir\nslots.removable = false\n"), 5000)
	var clients [modules]*client
	for i := range clients {
		m, c := start(t)
		conf := strings.TrimPrefix(m.Env[0], "SOFTHSM2_CONF=")
		text, err := os.ReadFile(conf)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(conf, append(text, lines...), 0o600); err != nil {
			t.Fatal(err)
		}
		clients[i] = c
	}
	var wg sync.WaitGroup
	for _, c := range clients {
		wg.Go(func() {
			for range times {
				want(t, "finalise", c.Finalize(), pkcs11.CKR_OK)
				want(t, "initialise", c.Initialize(), pkcs11.CKR_OK)
			}
			want(t, "open", c.open(), pkcs11.CKR_OK)
		})
	}
	wg.Wait()
}

// Sessions and the library are taken away under load, and nothing crashes.
func TestLossUnderLoad(t *testing.T) {
	t.Parallel()
	m, c := start(t)
	const goroutines, losses = 8, 100
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			own := &client{Ctx: c.Ctx, slot: c.slot, pin: c.pin}
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := own.sign(); err == nil {
					continue
				}
				if err := c.Initialize(); err != nil {
					want(t, "initialise", err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)
				}
				_ = own.open() // fails if another has just logged in: the next turn
			}
		})
	}
	lose, n := []func(){m.CloseSessions, m.LogOut, m.Finalize, m.CloseSomeSessions}, 0
	waitFor(t, "losses between signatures", func() bool {
		lose[n%len(lose)]()
		n++
		return m.Faults() >= losses && m.Calls(faults.Sign) > 0
	})
	close(stop)
	wg.Wait()
	if m.Overlaps() != 0 {
		t.Errorf("%d overlaps, want none: nobody has called C_Finalize", m.Overlaps())
	}
	if m.InFlightMax() < 2 {
		t.Errorf("at most %d calls at once: that is no load", m.InFlightMax())
	}
}

func TestOverlapsAreCounted(t *testing.T) {
	t.Parallel()
	m, c := start(t)
	release := m.Hang(faults.GenerateRandom)
	done := make(chan error, 1)
	go func() { done <- c.random() }()
	waitFor(t, "a call hangs", func() bool { return m.Inside(faults.GenerateRandom) == 1 })
	want(t, "C_Finalize during a call", c.Finalize(), pkcs11.CKR_OK)
	release()
	want(t, "the call that hung", <-done, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED)
	if m.Overlaps() == 0 {
		t.Error("no overlap counted, want C_Finalize during a call")
	}
}
