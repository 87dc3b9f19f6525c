package hsm_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest/faults"
)

const (
	callers = 16
	// callTimeout is the context of each call under load; returnMax is what it may take to notice its end.
	callTimeout = 8 * time.Second
	returnMax   = time.Second
	// backMax is how soon the service is back when the device is.
	backMax = 2 * time.Second
)

var errWrong = errors.New("wrong result")

// keyHolder is a Token or a Group.
type keyHolder interface {
	Signer(ctx context.Context, label string) (*hsm.Signer, error)
	Decrypter(ctx context.Context, label string) (*hsm.Decrypter, error)
	MAC(ctx context.Context, label string) (*hsm.MAC, error)
	Sealer(ctx context.Context, label string) (*hsm.Sealer, error)
}

// operation uses a key once and checks the result.
type operation struct {
	name string
	run  func(context.Context) error
}

// keysForLoad makes the keys of the operations.
func keysForLoad(t testing.TB, make func(t testing.TB, label string, purpose hsm.Purpose, typ hsm.KeyType)) {
	t.Helper()
	make(t, "load-ec", hsm.PurposeSign, hsm.ECP256)
	make(t, "load-rsa", hsm.PurposeSign, hsm.RSA2048)
	make(t, "load-exchange", hsm.PurposeKeyExchange, hsm.RSA2048)
	make(t, "load-mac", hsm.PurposeMAC, hsm.HMACSHA256)
	make(t, "load-seal", hsm.PurposeSeal, hsm.AES256)
}

// operationsOf opens the keys that keysForLoad has made, but for the one that seals: p11-kit's server
// does not know AES-GCM.
func operationsOf(t testing.TB, from keyHolder) []operation {
	t.Helper()
	ec, err1 := from.Signer(t.Context(), "load-ec")
	rsaKey, err2 := from.Signer(t.Context(), "load-rsa")
	exchange, err3 := from.Decrypter(t.Context(), "load-exchange")
	mac, err4 := from.MAC(t.Context(), "load-mac")
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	return []operation{signEC(ec), signRSA(rsaKey), decryptOAEP(t, exchange), sumMAC(t, mac)}
}

// allOperationsOf opens all keys that keysForLoad has made.
func allOperationsOf(t testing.TB, from keyHolder) []operation {
	t.Helper()
	seal, err := from.Sealer(t.Context(), "load-seal")
	if err != nil {
		t.Fatal(err)
	}
	return append(operationsOf(t, from), sealAndOpen(seal))
}

func signEC(s *hsm.Signer) operation {
	public := s.Public().(*ecdsa.PublicKey)
	return operation{"sign EC", func(ctx context.Context) error {
		digest := sha256.Sum256([]byte(rand.Text()))
		sig, err := s.WithContext(ctx).Sign(nil, digest[:], crypto.SHA256)
		if err == nil && !ecdsa.VerifyASN1(public, digest[:], sig) {
			err = errWrong
		}
		return err
	}}
}

func signRSA(s *hsm.Signer) operation {
	public := s.Public().(*rsa.PublicKey)
	return operation{"sign RSA", func(ctx context.Context) error {
		digest := sha256.Sum256([]byte(rand.Text()))
		sig, err := s.WithContext(ctx).Sign(nil, digest[:], crypto.SHA256)
		if err == nil && rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], sig) != nil {
			err = errWrong
		}
		return err
	}}
}

func decryptOAEP(t testing.TB, d *hsm.Decrypter) operation {
	t.Helper()
	want := []byte(rand.Text())
	ciphertext, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, d.Public().(*rsa.PublicKey), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	return operation{"decrypt", func(ctx context.Context) error {
		got, err := d.WithContext(ctx).Decrypt(nil, ciphertext, &rsa.OAEPOptions{Hash: crypto.SHA256})
		if err == nil && !bytes.Equal(got, want) {
			err = errWrong
		}
		return err
	}}
}

func sumMAC(t testing.TB, m *hsm.MAC) operation {
	t.Helper()
	data := []byte(rand.Text())
	want, err := m.Sum(data)
	if err != nil {
		t.Fatal(err)
	}
	return operation{"MAC", func(ctx context.Context) error {
		got, err := m.WithContext(ctx).Sum(data)
		if err == nil && !bytes.Equal(got, want) {
			err = errWrong
		}
		return err
	}}
}

func sealAndOpen(s *hsm.Sealer) operation {
	return operation{"seal", func(ctx context.Context) error {
		want, aad := []byte(rand.Text()), []byte("account")
		sealed, err := s.WithContext(ctx).Seal(want, aad)
		if err != nil {
			return err
		}
		got, err := s.WithContext(ctx).Open(sealed, aad)
		if err == nil && !bytes.Equal(got, want) {
			err = errWrong
		}
		return err
	}}
}

// load is callers that work without a break, and what became of their calls.
type load struct {
	operations []operation
	good       []atomic.Int64 // by operation: when the latest call that succeeded had begun, in nanoseconds
	calls      atomic.Int64
	refused    atomic.Int64 // calls that ended with "device unavailable, retry"
	slowest    atomic.Int64 // in nanoseconds

	mu   sync.Mutex
	bad  map[string]int // what must not be, and how often
	last error          // the latest refusal

	stop chan struct{}
	done chan struct{}
}

func startLoad(operations []operation) *load {
	l := &load{
		operations: operations, good: make([]atomic.Int64, len(operations)), bad: map[string]int{},
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := caller; ; i++ {
				select {
				case <-l.stop:
					return
				default:
					l.call(i % len(operations))
				}
			}
		})
	}
	go func() { wg.Wait(); close(l.done) }()
	return l
}

func (l *load) call(i int) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	start := time.Now()
	err := l.operations[i].run(ctx)
	took := time.Since(start)
	l.calls.Add(1)
	raise(&l.slowest, int64(took))
	switch {
	case took > callTimeout+returnMax:
		l.complain("%s returned long after its context's end", l.operations[i].name)
	case err == nil:
		raise(&l.good[i], start.UnixNano())
	case errors.Is(err, hsm.ErrUnavailable) && strings.Contains(err.Error(), "device unavailable, retry"):
		l.refused.Add(1)
		l.mu.Lock()
		l.last = err
		l.mu.Unlock()
	default:
		l.complain("%s: %v", l.operations[i].name, err)
	}
}

func raise(max *atomic.Int64, to int64) {
	for old := max.Load(); old < to && !max.CompareAndSwap(old, to); old = max.Load() {
	}
}

func (l *load) complain(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bad[fmt.Sprintf(format, args...)]++
}

// back waits until every operation has succeeded in a call that began after since.
func (l *load) back(t testing.TB, what string, since time.Time) time.Duration {
	t.Helper()
	l.eventually(t, what+": service is back", func() bool {
		for i := range l.good {
			if l.good[i].Load() < since.UnixNano() {
				return false
			}
		}
		return true
	})
	return time.Since(since)
}

// eventually waits for ok, and says how the callers fare if it does not come.
func (l *load) eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !soon(ok) {
		l.mu.Lock()
		defer l.mu.Unlock()
		t.Fatalf("%s: not within 15 s; %d of %d calls refused, the latest with %v; bad: %v",
			what, l.refused.Load(), l.calls.Load(), l.last, l.bad)
	}
}

// end waits for the callers and fails the test if something has gone wrong with any.
func (l *load) end(t testing.TB) {
	t.Helper()
	close(l.stop)
	select {
	case <-l.done:
	case <-time.After(callTimeout + 2*returnMax):
		t.Fatal("a caller has not come back")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for text, times := range l.bad {
		t.Errorf("%d times: %s", times, text)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !soon(ok) {
		t.Fatalf("%s: not within 15 s", what)
	}
}

func soon(ok func() bool) bool {
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// lossCodes is what modules say when they have lost something.
var lossCodes = []uint{
	pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_MEMORY, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT,
	pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_USER_NOT_LOGGED_IN,
	pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED,
	pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_HOST_MEMORY,
}

// hotFunctions are those that the load goes through, coldFunctions those of a recovery.
var (
	hotFunctions = []faults.Function{
		faults.SignInit, faults.Sign, faults.DecryptInit, faults.Decrypt, faults.EncryptInit, faults.Encrypt,
	}
	coldFunctions = []faults.Function{
		faults.Initialize, faults.GetSlotList, faults.GetTokenInfo, faults.OpenSession, faults.Login,
		faults.GetSessionInfo, faults.FindObjectsInit, faults.FindObjects, faults.GetAttributeValue, faults.CloseSession,
	}
)

// TestFaults lets everything go wrong that a module can do, under load.
func TestFaults(t *testing.T) {
	const wanted = 1000
	m := faults.New(t)
	tok := m.Open(t)
	keysForLoad(t, func(t testing.TB, label string, purpose hsm.Purpose, typ hsm.KeyType) {
		generate(t, tok, label, purpose, typ)
	})
	var lost atomic.Int64
	hsm.Observe(hsm.Observer{Call: func(c hsm.Call) {
		if c.Token == m.Label && errors.Is(c.Err, hsm.ErrUnavailable) {
			lost.Add(1)
		}
	}})
	defer hsm.Observe(hsm.Observer{})
	l := startLoad(allOperationsOf(t, tok))
	l.back(t, "before any fault", time.Now())

	var longest time.Duration
	for round := 0; m.Faults() < wanted; round++ {
		code := lossCodes[round%len(lossCodes)]
		spoil(t, m, l, code)
		longest = max(longest, takeAway(t, m, l, code, time.Duration(round%4)*40*time.Millisecond))
	}
	longest = max(longest, longOutage(t, m, l))
	l.end(t)

	logins := m.Logins(pkcs11.CKR_OK)
	if burnt := m.Logins(pkcs11.CKR_PIN_INCORRECT); burnt != 0 {
		t.Errorf("%d PIN tries burnt", burnt)
	}
	if logins > m.Faults() {
		t.Errorf("%d logins for %d faults", logins, m.Faults())
	}
	if open := m.Sessions(); open > callers {
		t.Errorf("%d sessions are open at the end, want at most %d", open, callers)
	}
	if n := m.Overlaps(); n != 0 {
		t.Errorf("the library was finalised during calls, %d times", n)
	}
	if longest > backMax {
		t.Errorf("service was back %v after the device, want at most %v", longest, backMax)
	}
	t.Logf("%d faults in %d calls: %d attempts lost, %d calls refused, the others repeated; %d logins; slowest call %v; "+
		"service back at most %v after the device", m.Faults(), l.calls.Load(), lost.Load(), l.refused.Load(), logins,
		time.Duration(l.slowest.Load()).Round(time.Millisecond), longest.Round(time.Millisecond))
}

// spoil makes functions answer code, before and after they have done their work.
func spoil(t testing.TB, m *faults.Module, l *load, code uint) {
	t.Helper()
	before := m.Faults()
	for i, f := range hotFunctions {
		if i%2 == 0 {
			m.FailRate(f, code, 0.03)
		} else {
			m.FailRateAfter(f, code, 0.03)
		}
	}
	l.eventually(t, fmt.Sprintf("60 faults of %v", pkcs11.Error(code)), func() bool { return m.Faults() >= before+60 })
	m.Clear()
}

// takeAway takes sessions, logins, the library and the device away, for pause. It returns how long it
// took at most until the service was back after the device was.
func takeAway(t testing.TB, m *faults.Module, l *load, code uint, pause time.Duration) (longest time.Duration) {
	t.Helper()
	for _, loss := range []struct {
		name string
		do   func()
	}{
		{"some sessions closed", m.CloseSomeSessions},
		{"sessions closed", m.CloseSessions},
		{"logged out", m.LogOut},
		{"finalised", m.Finalize},
		{"pulled", m.Pull},
		{"finalised, and coming back is hard", func() {
			m.Finalize()
			for _, f := range coldFunctions {
				m.FailRate(f, code, 0.1)
			}
			m.FailAfter(faults.Login, code, 1)
		}},
	} {
		before := m.Faults()
		l.eventually(t, loss.name, func() bool {
			loss.do() // which does nothing while there is nothing to lose
			return m.Faults() > before
		})
		time.Sleep(pause)
		m.Clear()
		longest = max(longest, l.back(t, loss.name, time.Now()))
	}
	return longest
}

// longOutage lasts longer than callers are made to wait.
func longOutage(t testing.TB, m *faults.Module, l *load) time.Duration {
	t.Helper()
	m.Pull()
	before := l.refused.Load()
	l.eventually(t, "callers are told", func() bool { return l.refused.Load() >= before+callers })
	m.Plug()
	return l.back(t, "long outage", time.Now())
}

// One lost answer is not noticed by anybody: the call is made again.
func TestOneFaultIsNotNoticed(t *testing.T) {
	t.Parallel()
	m := faults.New(t)
	tok := m.Open(t)
	keysForLoad(t, func(t testing.TB, label string, purpose hsm.Purpose, typ hsm.KeyType) {
		generate(t, tok, label, purpose, typ)
	})
	operations := allOperationsOf(t, tok)
	uses := map[string][]faults.Function{
		"sign EC": {faults.SignInit, faults.Sign}, "sign RSA": {faults.SignInit, faults.Sign},
		"decrypt": {faults.DecryptInit, faults.Decrypt}, "MAC": {faults.SignInit, faults.Sign},
		"seal": {faults.EncryptInit, faults.Encrypt, faults.DecryptInit, faults.Decrypt},
	}
	for _, code := range lossCodes {
		for _, op := range operations {
			for _, f := range uses[op.name] {
				for when, fail := range map[string]func(faults.Function, uint, int){"before": m.Fail, "after": m.FailAfter} {
					before := m.Faults()
					fail(f, code, 1)
					err := op.run(t.Context())
					if err != nil || m.Faults() != before+1 {
						t.Errorf("%s, one %v %s %v: %v, %d faults; want no error, 1 fault", op.name, pkcs11.Error(code), when, f, err, m.Faults()-before)
					}
					m.Clear()
				}
			}
		}
	}
	if n := m.Logins(pkcs11.CKR_PIN_INCORRECT); n != 0 {
		t.Errorf("%d PIN tries burnt", n)
	}
}

// The login is lost again before the first use of what was found anew. The keys that cannot be seen then
// are not gone.
func TestLoggedOutWhileComingBack(t *testing.T) {
	t.Parallel()
	m := faults.New(t)
	tok := m.Open(t)
	generate(t, tok, "k", hsm.PurposeSign, hsm.ECP256)
	key, err := tok.Signer(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	sign := signEC(key)
	m.CloseSessions()
	release := m.Hang(faults.FindObjectsInit)
	done := make(chan error, 1)
	go func() { done <- sign.run(t.Context()) }()
	eventually(t, "the key is looked up", func() bool { return m.Inside(faults.FindObjectsInit) > 0 })
	m.LogOut()
	release()
	if err := <-done; err != nil {
		t.Errorf("signing: %v; want a signature, at last", err)
	}
	if err := sign.run(t.Context()); err != nil {
		t.Errorf("signing once more: %v", err)
	}
}

// A device that signs with another key, or wrongly: nobody gets to see it.
func TestWrongSignatures(t *testing.T) {
	t.Parallel()
	m := faults.New(t)
	tok := m.Open(t)
	generate(t, tok, "k", hsm.PurposeSign, hsm.ECP256)
	key, err := tok.Signer(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	sign := signEC(key)
	for n := 1; n <= 3; n++ {
		m.Corrupt(faults.Sign, n)
		if err := sign.run(t.Context()); err != nil && !errors.Is(err, hsm.ErrUnavailable) {
			t.Errorf("%d wrong signatures: %v; want a right one or unavailability", n, err)
		}
		m.Clear()
		if err := sign.run(t.Context()); err != nil {
			t.Errorf("after %d wrong signatures: %v", n, err)
		}
	}
	m.Corrupt(faults.Sign, faults.Forever)
	if err := sign.run(t.Context()); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("a device that only signs wrongly: %v; want unavailability", err)
	}
	m.Clear()
	eventually(t, "right signatures again", func() bool { return sign.run(t.Context()) == nil })
}

// within runs f and fails the test if it takes longer than d.
func within(t testing.TB, d time.Duration, what string, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took > d {
		t.Errorf("%s took %v, want at most %v", what, took, d)
	}
}

func TestHang(t *testing.T) {
	t.Parallel()
	m := faults.New(t)
	tok := m.Open(t)
	keysForLoad(t, func(t testing.TB, label string, purpose hsm.Purpose, typ hsm.KeyType) {
		generate(t, tok, label, purpose, typ)
	})
	operations := allOperationsOf(t, tok)
	sign, decrypt := operations[0], operations[2]
	release := m.Hang(faults.Decrypt)
	impatient := func(op operation) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		within(t, 100*time.Millisecond+returnMax, op.name, func() {
			if err := op.run(ctx); !errors.Is(err, hsm.ErrUnavailable) || !strings.Contains(err.Error(), "device unavailable, retry") {
				t.Errorf("%s: %v; want that the device is unavailable", op.name, err)
			}
		})
	}
	impatient(decrypt)
	for range 50 {
		if err := sign.run(t.Context()); err != nil {
			t.Fatalf("signing while a decryption hangs: %v", err)
		}
	}
	// Hanging calls take up all places, and then nobody gets in, but everybody comes back.
	for range callers {
		impatient(decrypt)
	}
	hung := m.Inside(faults.Decrypt)
	if hung < 2 || hung > callers {
		t.Errorf("%d calls hang, want some, but no more than the token has places", hung)
	}
	impatient(sign)
	release()
	eventually(t, "the hanging calls have returned", func() bool { return m.Inside(faults.Decrypt) == 0 })
	for _, op := range operations {
		eventually(t, op.name+" after the release", func() bool { return op.run(t.Context()) == nil })
	}
	if n := m.Overlaps(); n != 0 {
		t.Errorf("the library was finalised during calls, %d times", n)
	}
}

// A caller that gives up does not disturb those that wait for a device that is only slow.
func TestSlow(t *testing.T) {
	t.Parallel()
	m := faults.New(t)
	tok := m.Open(t)
	generate(t, tok, "k", hsm.PurposeSign, hsm.ECP256)
	key, err := tok.Signer(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	sign := signEC(key)
	m.Slow(faults.Sign, 150*time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	patient := make(chan error, 1)
	go func() { patient <- sign.run(t.Context()) }()
	if err := sign.run(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("impatient caller: %v; want its context's end", err)
	}
	if err := <-patient; err != nil {
		t.Errorf("patient caller: %v", err)
	}
}

func TestCloseDoesNotHang(t *testing.T) {
	t.Parallel()
	m := faults.New(t)
	tok, err := hsm.Open(t.Context(), parse(t, m.URI), m.GetPIN)
	if err != nil {
		t.Fatal(err)
	}
	generate(t, tok, "k", hsm.PurposeSign, hsm.ECP256)
	key, err := tok.Signer(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	release := m.Hang(faults.Sign)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := signEC(key).run(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("signing: %v; want the context's end", err)
	}
	within(t, 15*time.Second, "closing during a call that hangs", func() { err = tok.Close() })
	if err == nil {
		t.Error("closing during a call that hangs: no error; want one that says so")
	}
	if n := m.Overlaps(); n != 0 {
		t.Errorf("the library was finalised during calls, %d times", n)
	}
	release()
	eventually(t, "the call has returned", func() bool { return m.Inside(faults.Sign) == 0 })
}

func TestServerKilled(t *testing.T) {
	const kills = 10
	s := faults.Serve(t)
	tok := s.Open(t)
	keysForLoad(t, func(t testing.TB, label string, purpose hsm.Purpose, typ hsm.KeyType) {
		generate(t, tok, label, purpose, typ)
	})
	l := startLoad(operationsOf(t, tok))
	l.back(t, "before any fault", time.Now())
	var longest time.Duration
	for i := range kills {
		before := l.calls.Load()
		eventually(t, "work between two kills", func() bool { return l.calls.Load() >= before+200 })
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 50 * time.Millisecond)
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
		longest = max(longest, l.back(t, "killed", time.Now()))
	}
	l.end(t)
	if longest > backMax {
		t.Errorf("service was back %v after the server, want at most %v", longest, backMax)
	}
	if burnt := s.Logins(pkcs11.CKR_PIN_INCORRECT); burnt != 0 {
		t.Errorf("%d PIN tries burnt", burnt)
	}
	if n := s.Overlaps(); n != 0 {
		t.Errorf("the library was finalised during calls, %d times", n)
	}
	t.Logf("server killed %d times in %d calls: %d calls refused; %d logins; slowest call %v; service back at most %v after the server",
		kills, l.calls.Load(), l.refused.Load(), s.Logins(pkcs11.CKR_OK),
		time.Duration(l.slowest.Load()).Round(time.Millisecond), longest.Round(time.Millisecond))
}

// changePIN changes a token's PIN through a module that nobody else has initialised.
func changePIN(t testing.TB, m *faults.Module, pin string) {
	t.Helper()
	lib := pkcs11.New(m.ModulePath)
	if err := lib.Initialize(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := lib.Finalize(); err != nil {
			t.Error(err)
		}
	}()
	slots, err := lib.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(slots, func(slot uint) bool {
		info, err := lib.GetTokenInfo(slot)
		return err == nil && info.Label == m.Label
	})
	if i < 0 {
		t.Fatalf("token %s is not there", m.Label)
	}
	sh, err := lib.OpenSession(slots[i], pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(lib.Login(sh, pkcs11.CKU_USER, m.PIN), lib.SetPIN(sh, m.PIN, pin)); err != nil {
		t.Fatal(err)
	}
}

// The PIN changes while the device is away: the old one is tried once, and then no more.
func TestPINChangedBehindUs(t *testing.T) {
	t.Parallel()
	s := faults.Serve(t)
	var pin atomic.Value
	pin.Store(s.PIN)
	tok, err := hsm.Open(t.Context(), parse(t, s.URI), func(context.Context, string, string) ([]byte, error) {
		return []byte(pin.Load().(string)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tok.Close() })
	generate(t, tok, "k", hsm.PurposeSign, hsm.ECP256)
	key, err := tok.Signer(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	sign := signEC(key)
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	changed := rand.Text()[:12]
	changePIN(t, s.Direct, changed)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	// Every caller is told, again and again, and the token is not asked a second time.
	refusals := func() (n int) {
		var wg sync.WaitGroup
		var refused atomic.Int64
		for range callers {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
				defer cancel()
				err := sign.run(ctx)
				pinErr, ok := errors.AsType[*hsm.PINError](err)
				switch {
				case ok && pinErr.Token == s.Label:
					refused.Add(1)
				case err == nil || !errors.Is(err, hsm.ErrUnavailable):
					t.Errorf("signing with a PIN that has changed: %v; want a *hsm.PINError", err)
				}
			})
		}
		wg.Wait()
		return int(refused.Load())
	}
	eventually(t, "the PIN is refused", func() bool { return refusals() == callers })
	for end := time.Now().Add(2500 * time.Millisecond); time.Now().Before(end); {
		if n := refusals(); n != callers {
			t.Errorf("%d of %d callers are told that the PIN is refused", n, callers)
		}
	}
	if burnt := s.Logins(pkcs11.CKR_PIN_INCORRECT); burnt != 1 {
		t.Errorf("%d PIN tries burnt, want 1", burnt)
	}
	pin.Store(changed)
	eventually(t, "the new PIN is taken", func() bool { return sign.run(t.Context()) == nil })
	if burnt := s.Logins(pkcs11.CKR_PIN_INCORRECT); burnt != 1 {
		t.Errorf("%d PIN tries burnt in the end, want 1", burnt)
	}
}

// copyKeys makes the keys of the load in one token and brings them to the other.
func copyKeys(t testing.TB, from, to *hsm.Token) {
	t.Helper()
	generateWrappable(t, from, "backup", hsm.PurposeWrap, hsm.AES256)
	receiver := generate(t, to, "receiver", hsm.PurposeUnwrap, hsm.RSA2048)
	w, err := from.WrapFor(t.Context(), "backup", receiver.Public.(*rsa.PublicKey))
	if err == nil {
		_, err = to.Unwrap(t.Context(), "backup", hsm.PurposeUnwrap, "receiver", w)
	}
	if err != nil {
		t.Fatal(err)
	}
	keysForLoad(t, func(t testing.TB, label string, purpose hsm.Purpose, typ hsm.KeyType) {
		generateWrappable(t, from, label, purpose, typ)
		w, err := from.Wrap(t.Context(), label, "backup")
		if err == nil {
			_, err = to.Unwrap(t.Context(), label, purpose, "backup", w)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}

// twoTokens opens a group of two tokens that hold the keys of the load.
func twoTokens(t testing.TB, a, b *faults.Module) *hsm.Group {
	t.Helper()
	group, err := hsm.OpenGroup(t.Context(), []hsm.URI{parse(t, a.URI), parse(t, b.URI)},
		func(ctx context.Context, source, label string) ([]byte, error) {
			if label == a.Label {
				return a.GetPIN(ctx, source, label)
			}
			return b.GetPIN(ctx, source, label)
		})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := group.Close(); err != nil {
			t.Error(err)
		}
	})
	return group
}

// Two tokens with the same keys, one behind a server: one or the other is lost under load, in all ways,
// and no request fails.
func TestFailover(t *testing.T) {
	const rounds = 2
	near, server := faults.New(t), faults.Serve(t)
	copyKeys(t, near.Open(t), server.Direct.Open(t)) // p11-kit does not know how to unwrap
	group := twoTokens(t, near, server.Module)
	var inFlight, nearDid, serverDid atomic.Int64
	hsm.Observe(hsm.Observer{Call: func(c hsm.Call) {
		switch {
		case c.Token != near.Label && c.Token != server.Label:
		case errors.Is(c.Err, hsm.ErrUnavailable):
			inFlight.Add(1)
		case c.Token == near.Label:
			nearDid.Add(1)
		default:
			serverDid.Add(1)
		}
	}})
	defer hsm.Observe(hsm.Observer{})
	l := startLoad(operationsOf(t, group))
	l.back(t, "before any fault", time.Now())
	broken := func(m *faults.Module) func() error {
		return func() error {
			for _, f := range hotFunctions {
				m.Fail(f, pkcs11.CKR_DEVICE_ERROR, faults.Forever)
			}
			return nil
		}
	}
	cleared := func(m *faults.Module) func() error { return func() error { m.Clear(); return nil } }
	losses := []struct {
		name       string
		lose, back func() error
		used       *atomic.Int64
	}{
		{"pulled", func() error { near.Pull(); return nil }, cleared(near), &nearDid},
		{"server killed", server.Kill, server.Start, &serverDid},
		{"broken", broken(near), cleared(near), &nearDid},
		{"broken behind the server", broken(server.Module), cleared(server.Module), &serverDid},
	}
	for i := range rounds * len(losses) {
		loss := losses[i%len(losses)]
		attempts := inFlight.Load()
		if err := loss.lose(); err != nil {
			t.Fatal(err)
		}
		eventually(t, loss.name, func() bool { return inFlight.Load() > attempts })
		l.back(t, loss.name, time.Now())
		if err := loss.back(); err != nil {
			t.Fatal(err)
		}
		did := loss.used.Load()
		eventually(t, loss.name+": used again", func() bool { return loss.used.Load() > did+int64(len(l.operations)) })
	}
	l.end(t)
	if n := l.refused.Load(); n != 0 {
		t.Errorf("%d calls failed, want none: there was always a token", n)
	}
	if n := near.Logins(pkcs11.CKR_PIN_INCORRECT) + server.Logins(pkcs11.CKR_PIN_INCORRECT); n != 0 {
		t.Errorf("%d PIN tries burnt", n)
	}
	t.Logf("one of two tokens lost %d times in %d calls: %d calls failed, %d that were in flight on it were repeated; "+
		"the tokens did %d and %d operations; slowest call %v", rounds*len(losses), l.calls.Load(), l.refused.Load(), inFlight.Load(),
		nearDid.Load(), serverDid.Load(), time.Duration(l.slowest.Load()).Round(time.Millisecond))
}

// A token that does not answer is left for the other one, which opens what the first has sealed.
func TestFailoverFromHangingToken(t *testing.T) {
	t.Parallel()
	a, b := faults.New(t), faults.New(t)
	copyKeys(t, a.Open(t), b.Open(t))
	group := twoTokens(t, a, b)
	sign := operationsOf(t, group)[0]
	sealer, err := group.Sealer(t.Context(), "load-seal")
	if err != nil {
		t.Fatal(err)
	}
	b.Pull()
	sealed, err := sealer.Seal([]byte("by a"), nil)
	if err != nil {
		t.Fatal(err)
	}
	b.Plug()
	a.Hang(faults.Sign)
	a.Hang(faults.Decrypt)
	if got, err := sealer.Open(sealed, nil); err != nil || string(got) != "by a" {
		t.Errorf("opening while one of two tokens hangs: %q, %v; want what was sealed", got, err)
	}
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
			defer cancel()
			if err := sign.run(ctx); err != nil {
				t.Errorf("signing while one of two tokens hangs: %v", err)
			}
		})
	}
	wg.Wait()
	if a.Inside(faults.Sign)+a.Inside(faults.Decrypt) == 0 {
		t.Error("no call hangs: that is no test")
	}
	a.Clear()
	eventually(t, "the hanging calls have returned", func() bool { return a.Inside(faults.Sign)+a.Inside(faults.Decrypt) == 0 })
}
