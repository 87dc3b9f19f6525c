package hsm_test

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
)

func parse(t testing.TB, uri string) hsm.URI {
	t.Helper()
	u, err := hsm.ParseURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestWrongPINIsTriedOnce(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	uri := parse(t, tk.URI)
	calls := 0
	wrong := func(context.Context, string, string) ([]byte, error) { calls++; return []byte("000000"), nil }
	_, err := hsm.Open(t.Context(), uri, wrong)
	pinErr, ok := errors.AsType[*hsm.PINError](err)
	if !ok {
		t.Fatalf("error %v, want a *hsm.PINError", err)
	}
	if calls != 1 || pinErr.Token != tk.Label || pinErr.Code != "CKR_PIN_INCORRECT" || pinErr.Tries != hsm.TriesReduced {
		t.Errorf("%d PINs asked for, error %+v; want 1, and the token's count reduced", calls, pinErr)
	}
	if errors.Is(err, hsm.ErrUnavailable) || strings.Contains(err.Error(), "000000") {
		t.Errorf("error %q is unavailability, or shows the PIN", err)
	}
	// The right one still works, and resets the count.
	open := tk.Open(t)
	if open.Info().Label != tk.Label || open.Info().Serial != tk.Serial {
		t.Errorf("opened %+v, want %s with serial number %s", open.Info(), tk.Label, tk.Serial)
	}
}

// The library would accept any PIN once the process has logged in.
func TestWrongPINWhileOpen(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	first := tk.Open(t)
	generate(t, first, "k", hsm.PurposeSign, hsm.ECP256)
	_, err := hsm.Open(t.Context(), parse(t, tk.URI), func(context.Context, string, string) ([]byte, error) {
		return []byte("000000"), nil
	})
	if _, ok := errors.AsType[*hsm.PINError](err); !ok {
		t.Errorf("error %v, want a *hsm.PINError", err)
	}
	if _, err := first.Signer(t.Context(), "k"); err != nil {
		t.Errorf("after the refusal the open token fails: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	uri := parse(t, tk.URI)
	with := func(change func(*hsm.URI)) hsm.URI {
		u := uri
		change(&u)
		return u
	}
	notALibrary := filepath.Join(t.TempDir(), "lib.so")
	if err := os.WriteFile(notALibrary, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name        string
		uri         hsm.URI
		want        string
		unavailable bool
	}{
		{"no token named", with(func(u *hsm.URI) { u.Token = "" }), "names no token", false},
		{"unknown label", with(func(u *hsm.URI) { u.Token = "nowhere" }), "no token pkcs11:token=nowhere", true},
		{"label with another serial", with(func(u *hsm.URI) { u.Serial = "00" }), "no token", true},
		{"another manufacturer", with(func(u *hsm.URI) { u.Manufacturer = "ACME" }), "no token", true},
		{"no library named", with(func(u *hsm.URI) { u.ModulePath = "" }), "module-path", false},
		{"no such library", with(func(u *hsm.URI) { u.ModulePath = "/none.so" }), "/none.so", true},
		{"not a library", with(func(u *hsm.URI) { u.ModulePath = notALibrary }), "can be loaded", true},
		{"no PIN source", with(func(u *hsm.URI) { u.PINSource = "" }), "pin-source", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := hsm.Open(t.Context(), tt.uri, tk.GetPIN)
			if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, hsm.ErrUnavailable) != tt.unavailable {
				t.Errorf("error %v, unavailable %t; want %q, %t", err, errors.Is(err, hsm.ErrUnavailable), tt.want, tt.unavailable)
			}
		})
	}
	for name, pin := range map[string]hsm.PINFunc{
		"failing PIN source": func(context.Context, string, string) ([]byte, error) { return nil, os.ErrPermission },
		"empty PIN":          func(context.Context, string, string) ([]byte, error) { return nil, nil },
		"no PIN function":    nil,
	} {
		if _, err := hsm.Open(t.Context(), uri, pin); err == nil {
			t.Errorf("%s: the token was opened", name)
		}
	}
}

// InitToken refuses a second token with a label, but other tools do not.
func TestDuplicateLabelNeedsSerial(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	if _, err := hsm.InitToken(t.Context(), tk.ModulePath, tk.Label, []byte("87654321"), []byte("123456")); !errors.Is(err, hsm.ErrTokenExists) {
		t.Errorf("InitToken with a taken label: %v, want ErrTokenExists", err)
	}
	inOtherProcess(t, "duplicate", func(t *testing.T) {
		tk := hsmtest.New(t)
		uri := parse(t, tk.URI)
		out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", tk.Label, "--so-pin", "87654321", "--pin", "123456").CombinedOutput()
		if err != nil {
			t.Fatalf("softhsm2-util: %v\n%s", err, out)
		}
		if _, err := hsm.Open(t.Context(), uri, tk.GetPIN); err == nil || !strings.Contains(err.Error(), "add serial=") {
			t.Errorf("a label that two tokens have: %v, want the advice to add serial", err)
		}
		uri.Serial = tk.Serial
		open, err := hsm.Open(t.Context(), uri, tk.GetPIN)
		if err != nil {
			t.Fatal(err)
		}
		if open.Info().Serial != tk.Serial {
			t.Errorf("opened serial number %s, want %s", open.Info().Serial, tk.Serial)
		}
		if err := open.Close(); err != nil {
			t.Error(err)
		}
	})
}

// inOtherProcess runs f in a process of its own, where no other test has SoftHSM initialised: a token
// that another program makes is seen only after the next initialisation.
func inOtherProcess(t *testing.T, name string, f func(*testing.T)) {
	t.Helper()
	if os.Getenv("HSM_TEST_CHILD") == name {
		f(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "HSM_TEST_CHILD="+name, "GORACE=atexit_sleep_ms=0")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("in another process: %v\n%s", err, out)
	}
}

func TestInitTokenRefuses(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	good := []byte("123456")
	tests := []struct {
		name, label string
		soPIN, pin  []byte
		want        string
	}{
		{"no label", "", good, good, "label"},
		{"long label", strings.Repeat("x", 33), good, good, "label"},
		{"control character", "a\tb", good, good, "label"},
		{"outer space", "a ", good, good, "label"},
		{"short PIN", "short-pin", good, []byte("123"), "a PIN of 3 bytes"},
		{"no officer's PIN", "no-so-pin", nil, good, "a PIN of 0 bytes"},
	}
	for _, tt := range tests {
		_, err := hsm.InitToken(t.Context(), tk.ModulePath, tt.label, tt.soPIN, tt.pin)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	list, err := hsm.Tokens(t.Context(), tk.ModulePath)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range list {
		if info.Label == "short-pin" || info.Label == "no-so-pin" {
			t.Errorf("the refused token %q exists", info.Label)
		}
	}
	if !slices.ContainsFunc(list, func(i hsm.TokenInfo) bool {
		return i.Label == tk.Label && i.Serial == tk.Serial && i.UserPIN && !i.PINLocked
	}) {
		t.Errorf("tokens %+v lack %s", list, tk.Label)
	}
}

func TestOpenTwiceCloseEach(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	uri := parse(t, tk.URI)
	first, err := hsm.Open(t.Context(), uri, tk.GetPIN)
	if err != nil {
		t.Fatal(err)
	}
	generate(t, first, "k", hsm.PurposeSign, hsm.ECP256)
	key, err := first.Signer(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	second := tk.Open(t)
	for range 2 { // closing twice is closing once
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
	}
	digest := sha256.Sum256(nil)
	if _, err := key.Sign(nil, digest[:], crypto.SHA256); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("a key of a closed token signs: %v, want ErrUnavailable", err)
	}
	again, err := second.Signer(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Sign(nil, digest[:], crypto.SHA256); err != nil {
		t.Errorf("the other Token of the device: %v", err)
	}
}

// Tokens open and close while others of the same library work: nothing crashes, nobody gets another
// error than the one for a closed token.
func TestOpenAndCloseWhileWorking(t *testing.T) {
	t.Parallel()
	inOtherProcess(t, "churn", func(t *testing.T) {
		var tokens []*hsmtest.Token
		for range 3 {
			tk := hsmtest.New(t)
			open := tk.Open(t)
			generate(t, open, "k", hsm.PurposeSign, hsm.ECP256)
			if err := open.Close(); err != nil {
				t.Fatal(err)
			}
			tokens = append(tokens, tk)
		}
		var signatures, refusals atomic.Int64
		var wg sync.WaitGroup
		for i, tk := range tokens {
			wg.Go(func() {
				for range 15 + 5*i {
					useAndClose(t, tk, &signatures, &refusals)
				}
			})
		}
		wg.Wait()
		if signatures.Load() == 0 || refusals.Load() == 0 {
			t.Errorf("%d signatures and %d refusals: the test did not meet both", signatures.Load(), refusals.Load())
		}
	})
}

// useAndClose opens a token, signs with it from several goroutines and closes it under them.
func useAndClose(t *testing.T, tk *hsmtest.Token, signatures, refusals *atomic.Int64) {
	open, err := hsm.Open(context.Background(), parse(t, tk.URI), tk.GetPIN)
	if err != nil {
		t.Error(err)
		return
	}
	key, err := open.Signer(context.Background(), "k")
	if err != nil {
		t.Error(err)
		return
	}
	digest := sha256.Sum256([]byte(tk.Label))
	var wg sync.WaitGroup
	signed := make(chan struct{}, 100)
	for range 4 {
		wg.Go(func() {
			for {
				_, err := key.Sign(nil, digest[:], crypto.SHA256)
				if errors.Is(err, hsm.ErrUnavailable) && strings.Contains(err.Error(), "the token is closed") {
					refusals.Add(1)
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				signatures.Add(1)
				select {
				case signed <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 6 {
		<-signed
	}
	if err := open.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

func TestKeyInfoJSON(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	info := generate(t, tok, "k", hsm.PurposeSign, hsm.ECP256)
	text, err := json.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{
		"label": "k", "type": "ec-p256", "purpose": "sign", "sensitive": true, "extractable": false,
		"alwaysSensitive": true, "neverExtractable": true, "local": true, "modifiable": false, "private": true,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}
