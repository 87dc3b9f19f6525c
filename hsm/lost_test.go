package hsm_test

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest/faults"
)

// another makes a second token in the library of m, and opens it.
func another(t testing.TB, m *faults.Module) *hsm.Token {
	t.Helper()
	label, pin := "second-"+strings.ToLower(rand.Text()[:20]), m.PIN
	if _, err := hsm.InitToken(t.Context(), m.ModulePath, label, []byte(m.SOPIN), []byte(pin)); err != nil {
		t.Fatal(err)
	}
	uri := parse(t, m.URI)
	uri.Token = label
	tok, err := hsm.Open(t.Context(), uri, func(context.Context, string, string) ([]byte, error) { return []byte(pin), nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tok.Close() })
	return tok
}

// signer makes a key in tok and returns what signs with it.
func signer(t testing.TB, tok *hsm.Token, label string) operation {
	t.Helper()
	generate(t, tok, label, hsm.PurposeSign, hsm.ECP256)
	key, err := tok.Signer(t.Context(), label)
	if err != nil {
		t.Fatal(err)
	}
	return signEC(key)
}

// Two tokens of one library are lost at once, and whoever is first brings both back.
func TestTwoTokensOfALibrary(t *testing.T) {
	m := faults.New(t)
	first := m.Open(t)
	second := another(t, m)
	var outage, lost, back atomic.Int64
	hsm.Observe(hsm.Observer{
		Lost: func(token string, _ error) {
			if token == first.Info().Label || token == second.Info().Label {
				lost.Add(1)
			}
		},
		Back: func(token string, took time.Duration) {
			if token == first.Info().Label || token == second.Info().Label {
				back.Add(1)
				raise(&outage, int64(took))
			}
		}})
	defer hsm.Observe(hsm.Observer{})
	l := startLoad([]operation{signer(t, first, "a"), signer(t, second, "b")})
	l.back(t, "before any fault", time.Now())
	for round := range 24 {
		before := m.Faults()
		// The first attempts of each fail, one or the other.
		m.FailRate(faults.OpenSession, pkcs11.CKR_DEVICE_ERROR, 0.2)
		l.eventually(t, "lost", func() bool {
			switch round % 3 {
			case 0:
				m.Finalize()
			case 1:
				m.CloseSessions()
			case 2:
				m.Pull()
			}
			return m.Faults() > before
		})
		time.Sleep(time.Duration(round) * 3 * time.Millisecond)
		m.Clear()
		if took := l.back(t, "back", time.Now()); took > backMax {
			t.Errorf("service was back after %v, want at most %v", took, backMax)
		}
	}
	l.end(t)
	if n := m.Logins(pkcs11.CKR_PIN_INCORRECT) + m.Overlaps(); n != 0 {
		t.Errorf("%d PIN tries burnt or calls overlapped with the library's end", n)
	}
	eventually(t, "as many tokens come back as were lost", func() bool { return lost.Load() == back.Load() })
	if longest := time.Duration(outage.Load()); longest > 15*time.Second {
		t.Errorf("an outage of %v was observed", longest)
	}
}

// A token that has refused a PIN is not asked again by whoever opens it next.
func TestRefusedPINIsRemembered(t *testing.T) {
	t.Parallel()
	m := faults.New(t)
	uri := parse(t, m.URI)
	for i := range 6 {
		_, err := hsm.Open(t.Context(), uri, func(context.Context, string, string) ([]byte, error) {
			return []byte([]string{"000000", "111111"}[i%2]), nil
		})
		if _, ok := errors.AsType[*hsm.PINError](err); !ok || errors.Is(err, hsm.ErrUnavailable) {
			t.Errorf("opening with a wrong PIN: %v; want a *hsm.PINError", err)
		}
	}
	if n := m.Logins(pkcs11.CKR_PIN_INCORRECT); n != 2 {
		t.Errorf("%d PIN tries burnt by two wrong PINs, want 2", n)
	}
	if err := m.Open(t).Ready(t.Context()); err != nil {
		t.Errorf("opened with the right PIN: %v", err)
	}
}

// A token whose PIN is refused leaves the others of its library alone.
func TestRefusedPINDisturbsNobody(t *testing.T) {
	t.Parallel()
	m := faults.New(t)
	var wrong atomic.Bool
	first, err := hsm.Open(t.Context(), parse(t, m.URI), func(ctx context.Context, source, token string) ([]byte, error) {
		if wrong.Load() {
			return []byte("000000"), nil
		}
		return m.GetPIN(ctx, source, token)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = first.Close() })
	second := another(t, m)
	signFirst, signSecond := signer(t, first, "a"), signer(t, second, "b")
	wrong.Store(true)
	m.CloseSessions()
	refused := func() bool {
		_, ok := errors.AsType[*hsm.PINError](signFirst.run(t.Context()))
		return ok
	}
	eventually(t, "the PIN is refused", refused)
	eventually(t, "the other token is back", func() bool { return signSecond.run(t.Context()) == nil })
	before := m.Calls(faults.Initialize)
	for end := time.Now().Add(2200 * time.Millisecond); time.Now().Before(end); {
		if err := signSecond.run(t.Context()); err != nil || !refused() {
			t.Errorf("signing with the other token: %v", err)
		}
	}
	if n := m.Calls(faults.Initialize) - before; n != 0 {
		t.Errorf("the library was initialised %d times for a PIN that is known to be wrong", n)
	}
	if n := m.Logins(pkcs11.CKR_PIN_INCORRECT); n != 1 {
		t.Errorf("%d PIN tries burnt, want 1", n)
	}
	wrong.Store(false)
	eventually(t, "the right PIN is taken", func() bool { return signFirst.run(t.Context()) == nil })
}

// A PIN is changed while the token is away: it waits, and keeps nobody from coming back.
func TestSetPINWhileRecovering(t *testing.T) {
	t.Parallel()
	m := faults.New(t)
	tok := m.Open(t)
	sign := signer(t, tok, "k")
	before := m.Calls(faults.Initialize)
	m.Pull()
	var wg sync.WaitGroup
	wg.Go(func() { _ = sign.run(t.Context()) })
	eventually(t, "the token is lost", func() bool { return m.Calls(faults.Initialize) > before })
	changed := make(chan error, 1)
	go func() { changed <- tok.SetPIN(t.Context(), []byte(m.PIN), []byte("another-pin")) }()
	time.Sleep(100 * time.Millisecond)
	m.Plug()
	within(t, backMax, "changing the PIN when the device is back", func() {
		if err := <-changed; err != nil {
			t.Errorf("changing the PIN: %v", err)
		}
	})
	wg.Wait()
	if err := sign.run(t.Context()); err != nil {
		t.Errorf("signing: %v", err)
	}
}

// A member whose PIN is refused does not speak for its group.
func TestFailoverFromRefusedPIN(t *testing.T) {
	t.Parallel()
	a, b := faults.New(t), faults.New(t)
	from, err1 := hsm.Open(t.Context(), parse(t, a.URI), a.GetPIN)
	to, err2 := hsm.Open(t.Context(), parse(t, b.URI), b.GetPIN)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	copyKeys(t, from, to)
	if err := errors.Join(from.Close(), to.Close()); err != nil { // or a's PIN would be asked for in their way
		t.Fatal(err)
	}
	var wrong atomic.Bool
	group, err := hsm.OpenGroup(t.Context(), []hsm.URI{parse(t, a.URI), parse(t, b.URI)},
		func(ctx context.Context, source, label string) ([]byte, error) {
			switch {
			case wrong.Load() && label == a.Label:
				return []byte("000000"), nil
			case label == a.Label:
				return a.GetPIN(ctx, source, label)
			}
			return b.GetPIN(ctx, source, label)
		})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = group.Close() })
	sign := operationsOf(t, group)[0]
	wrong.Store(true)
	a.CloseSessions()
	for range 50 {
		if a.Logins(pkcs11.CKR_PIN_INCORRECT) > 0 { // from then on b is all there is
			b.Finalize()
		}
		if err := sign.run(t.Context()); err != nil {
			t.Fatalf("signing while one token refuses the PIN and the other one is lost for a moment: %v", err)
		}
	}
	if n := a.Logins(pkcs11.CKR_PIN_INCORRECT); n > 1 {
		t.Errorf("%d PIN tries burnt, want at most 1", n)
	}
}

func TestHangingLibraryAnswersNobody(t *testing.T) {
	t.Parallel()
	m := faults.New(t)
	release := m.Hang(faults.GetSlotList)
	for name, f := range map[string]func(context.Context) error{
		"Tokens": func(ctx context.Context) error { _, err := hsm.Tokens(ctx, m.ModulePath); return err },
		"Open":   func(ctx context.Context) error { _, err := hsm.Open(ctx, parse(t, m.URI), m.GetPIN); return err },
		"InitToken": func(ctx context.Context) error {
			_, err := hsm.InitToken(ctx, m.ModulePath, "x", []byte("123456"), []byte("123456"))
			return err
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		within(t, returnMax, name, func() {
			if err := f(ctx); !errors.Is(err, hsm.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v; want that the library has not answered in time", name, err)
			}
		})
		cancel()
	}
	release()
	if err := m.Open(t).Ready(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// The making of a key does not return: nobody waits for it longer than its maker.
func TestHangingGeneration(t *testing.T) {
	t.Parallel()
	m := faults.New(t)
	tok := m.Open(t)
	sign := signer(t, tok, "k")
	release := m.Hang(faults.GenerateKeyPair)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := tok.GenerateKey(ctx, "new", hsm.PurposeSign, hsm.ECP256); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("generating: %v; want that the library has not answered", err)
	}
	within(t, returnMax, "signing meanwhile", func() {
		if err := sign.run(t.Context()); !errors.Is(err, hsm.ErrUnavailable) {
			t.Errorf("signing while a key is being made for ever: %v; want unavailability", err)
		}
	})
	release()
	eventually(t, "signing again", func() bool { return sign.run(t.Context()) == nil })
}

// A person reads what happened, to what, and what to do, once, in one line.
func TestErrorTexts(t *testing.T) {
	t.Parallel()
	a, b := faults.New(t), faults.New(t)
	tokA := a.Open(t)
	copyKeys(t, tokA, b.Open(t))
	group := twoTokens(t, a, b)
	sign, groupSign := operationsOf(t, tokA)[0], operationsOf(t, group)[0]
	briefly := func(f func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
		defer cancel()
		return f(ctx)
	}
	errs := map[string]error{}
	a.Hang(faults.Sign)
	errs["hanging"] = briefly(sign.run)
	a.Clear()
	release := hsm.HoldSessions(tokA)
	errs["busy"] = briefly(sign.run)
	release()
	a.Fail(faults.Sign, pkcs11.CKR_DEVICE_ERROR, faults.Forever)
	errs["failing"] = sign.run(t.Context())
	a.Clear()
	a.Fail(faults.Initialize, pkcs11.CKR_GENERAL_ERROR, faults.Forever)
	a.Finalize()
	errs["not initialised"] = briefly(sign.run)
	a.Pull()
	b.Pull()
	errs["pulled"] = briefly(sign.run)
	errs["group"] = briefly(groupSign.run)
	errs["group not ready"] = briefly(group.Ready)
	for what, err := range errs {
		if err == nil || !errors.Is(err, hsm.ErrUnavailable) {
			t.Errorf("%s: %v; want unavailability", what, err)
			continue
		}
		text := err.Error()
		tokens := strings.Count(text, "token \"")
		if n := strings.Count(text, hsm.ErrUnavailable.Error()); n < 1 || n > max(1, tokens) || strings.Contains(text, "\n") {
			t.Errorf("%s: %q; want one line that says once for each token that it is unavailable", what, text)
		}
	}
	_, err := hsm.Open(t.Context(), parse(t, faults.New(t).URI), func(context.Context, string, string) ([]byte, error) { return []byte("000000"), nil })
	if err == nil || strings.Count(err.Error(), "token \"") != 1 {
		t.Errorf("a wrong PIN: %v; want the token named once", err)
	}
}

// A lost login needs no more than a new login: the library's other users are not disturbed.
func TestLoginIsMendedAlone(t *testing.T) {
	t.Parallel()
	m := faults.New(t)
	sign := signer(t, m.Open(t), "k")
	before, logins := m.Calls(faults.Initialize), m.Logins(pkcs11.CKR_OK)
	for _, lose := range []func(){m.LogOut, m.CloseSessions} {
		lose()
		if err := sign.run(t.Context()); err != nil {
			t.Errorf("signing after the login was lost: %v", err)
		}
	}
	if n := m.Calls(faults.Initialize) - before; n != 0 || m.Logins(pkcs11.CKR_OK) == logins {
		t.Errorf("%d initialisations and %d logins, want none, and some", n, m.Logins(pkcs11.CKR_OK)-logins)
	}
}

// Another key under the same label is not taken for the one that was there.
func TestReplacedKeyIsNotUsed(t *testing.T) {
	t.Parallel()
	m := faults.New(t)
	tok := m.Open(t)
	sign := signer(t, tok, "k")
	if err := tok.DeleteKey(t.Context(), "k", nil); err != nil {
		t.Fatal(err)
	}
	generate(t, tok, "k", hsm.PurposeSign, hsm.ECP256)
	m.CloseSessions()
	if err := sign.run(t.Context()); err == nil || errors.Is(err, hsm.ErrUnavailable) || !strings.Contains(err.Error(), "another key under this label") {
		t.Errorf("signing with a key that was replaced: %v; want that it is another one", err)
	}
}

// Some libraries leave a failed operation pending in its session: it is not used again.
func TestFailedSessionIsClosed(t *testing.T) {
	t.Parallel()
	m := faults.New(t)
	sign := signer(t, m.Open(t), "k")
	before := m.Calls(faults.CloseSession)
	m.Fail(faults.Sign, pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, 1)
	if err := sign.run(t.Context()); err == nil || errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("signing: %v; want the token's refusal", err)
	}
	if n := m.Calls(faults.CloseSession) - before; n != 1 {
		t.Errorf("%d sessions were closed, want the one that has failed", n)
	}
}
