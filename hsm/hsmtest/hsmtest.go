// Package hsmtest makes throw-away SoftHSM tokens for tests:
//
//	token := hsmtest.New(t).Open(t)
//	key, err := token.GenerateKey(t.Context(), "sign", hsm.PurposeSign, hsm.ECP256)
//
// What is tested opens the token by its URI, [Token.URI], and asks [Token.GetPIN] for the PIN. SoftHSM
// has to be installed.
package hsmtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/setkit/setkit/hsm"
)

// Token is a token that exists for the length of a test.
type Token struct {
	Label      string
	Serial     string
	PIN        string
	SOPIN      string
	ModulePath string
	// URI names the token, with a pin-source that is a file. [Token.KeyURI] names a key.
	URI string
	// Env is what a child process needs in its environment to see the token, SOFTHSM2_CONF. The
	// test's own process has it set already, and child processes inherit it.
	Env []string
}

// New makes a token that lives until the test ends. Tests may call it in parallel, and as often as
// they like.
func New(t testing.TB) *Token {
	t.Helper()
	token, remove, err := Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remove)
	return token
}

// Create is New for an example or a TestMain, which have no test to fail: the caller calls remove
// when it has closed the token.
//
// SoftHSM reads its configuration from the environment when the library is initialised, so all
// tokens of a process share one folder. It is removed together with its last token.
func Create(ctx context.Context) (token *Token, remove func(), err error) {
	module, err := hsm.SoftHSMPath()
	if err != nil {
		return nil, nil, err
	}
	conf, release, err := folder()
	if err != nil {
		return nil, nil, fmt.Errorf("folder for SoftHSM tokens: %w", err)
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	label := "test-" + strings.ToLower(rand.Text()[:20])
	tk := &Token{
		Label: label, PIN: rand.Text()[:12], SOPIN: rand.Text()[:12], ModulePath: module,
		Env: []string{"SOFTHSM2_CONF=" + conf},
	}
	info, err := hsm.InitToken(ctx, module, label, []byte(tk.SOPIN), []byte(tk.PIN))
	if err != nil {
		return nil, nil, err
	}
	tk.Serial = info.Serial
	pin := filepath.Join(filepath.Dir(conf), label+".pin")
	if err := os.WriteFile(pin, []byte(tk.PIN+"\n"), 0o600); err != nil {
		return nil, nil, err
	}
	tk.URI = hsm.URI{Token: label, ModulePath: module, PINSource: "file:" + pin}.String()
	return tk, sync.OnceFunc(release), nil
}

// KeyURI returns the URI of the token's key labelled label.
func (tk *Token) KeyURI(label string) string {
	uri, err := hsm.ParseURI(tk.URI)
	if err != nil {
		return ""
	}
	uri.Object = label
	return uri.String()
}

// Open opens the token until the test ends.
func (tk *Token) Open(t testing.TB) *hsm.Token {
	t.Helper()
	uri, err := hsm.ParseURI(tk.URI)
	if err != nil {
		t.Fatal(err)
	}
	open, err := hsm.Open(t.Context(), uri, tk.GetPIN)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := open.Close(); err != nil {
			t.Error(err)
		}
	})
	return open
}

// GetPIN is an [hsm.PINFunc] that knows this token's PIN.
func (tk *Token) GetPIN(_ context.Context, _, token string) ([]byte, error) {
	if token != tk.Label {
		return nil, fmt.Errorf("PIN of token %q asked for, this is %q", token, tk.Label)
	}
	return []byte(tk.PIN), nil
}

// shared is the folder of this process's tokens.
var shared struct {
	sync.Mutex
	dir   string
	users int
}

// folder returns the path of the process's softhsm2.conf, which is in force, and what to call when it
// is no longer needed.
func folder() (conf string, release func(), err error) {
	shared.Lock()
	defer shared.Unlock()
	if shared.users == 0 {
		// Only now: SoftHSM may read the file at any time while there are users, and if it finds
		// it half written it falls back to the machine's own tokens.
		if err := makeFolder(); err != nil {
			return "", nil, err
		}
	}
	shared.users++
	return filepath.Join(shared.dir, "softhsm2.conf"), func() {
		shared.Lock()
		defer shared.Unlock()
		if shared.users--; shared.users == 0 {
			os.RemoveAll(shared.dir) // a leftover in the temporary folder is not worth failing for
		}
	}, nil
}

func makeFolder() (err error) {
	if shared.dir == "" {
		if shared.dir, err = os.MkdirTemp("", "hsmtest-"); err != nil {
			return err
		}
	}
	tokens, conf := filepath.Join(shared.dir, "tokens"), filepath.Join(shared.dir, "softhsm2.conf")
	if err := os.MkdirAll(tokens, 0o700); err != nil {
		return err
	}
	text := "directories.tokendir = " + tokens + "\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Setenv("SOFTHSM2_CONF", conf)
}
