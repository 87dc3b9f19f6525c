package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/bundle"
	"github.com/setkit/setkit/roles/set/settest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"set-wallet": func() { cli.Main(newApp()) }})
}

// Every script has the bundles of a bank, as files and from a server.
func TestScripts(t *testing.T) {
	t.Parallel()
	world := settest.NewWorld(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("GORACE", "atexit_sleep_ms=0") // or every command takes a second longer
			env.Setenv("SET_WALLET_DIR", filepath.Join(env.WorkDir, "wallet"))
			if err := makeBundles(env, world); err != nil {
				return err
			}
			server := httptest.NewServer(bundleServer(env.WorkDir))
			env.Defer(server.Close)
			env.Setenv("URL", server.URL)
			env.Setenv("GONE", "http://127.0.0.1:1") // no port that another test's server gets
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": cmdExits, "flip": cmdFlip},
	})
}

// cmdExits runs a command that must end with an exit code: exits CODE COMMAND...
func cmdExits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("%s has exit code %d, want %s", strings.Join(args[1:], " "), got, args[0])
	}
}

// cmdFlip copies a file with its middle octet changed: flip FROM TO
func cmdFlip(ts *testscript.TestScript, _ bool, args []string) {
	b := []byte(ts.ReadFile(args[0]))
	b[len(b)/2] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b, 0o600))
}

func signingKey() crypto.Signer {
	k, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader) // never fails
	return k
}

// bankBundleFrom is bundle number sequence of a bank.
func bankBundleFrom(world *settest.World, sequence set.Positive, ca string) bundle.Bundle {
	return bundle.Bundle{
		Sequence: sequence, NotBefore: world.Now.Add(-2 * time.Hour), NotAfter: world.Now.Add(30 * 24 * time.Hour),
		Bank:     bundle.Bank{Name: "Nordhavn Bank"},
		Brands:   []bundle.Brand{{ID: settest.Brand, CA: set.URL(ca)}},
		Policies: []bundle.Policy{{Language: "en", Text: "Keep card and PIN apart.\nTell nobody the PIN.\n"}, {Language: "da", Text: "Sig PIN til ingen."}},
		Programs: []bundle.Program{{Platform: "linux/amd64", Version: "1.0", Digest: sha256.Sum256([]byte("program"))}},
	}
}

// makeBundles signs the bundles of the scripts. $FIRST and $SECOND are the fingerprints of the bank's keys.
func makeBundles(env *testscript.Env, world *settest.World) error {
	keys, err := signBundles(env.WorkDir, world)
	if err != nil {
		return err
	}
	for name, k := range keys {
		fp, err := bundle.Fingerprint(k.Public())
		if err != nil {
			return err
		}
		env.Setenv(name, fp.String())
		env.Setenv(name+"_GROUPED", cli.Grouped(fp.String()))
	}
	return nil
}

// signBundles writes bundles of a bank into dir and gives the keys that sign them.
func signBundles(dir string, world *settest.World) (map[string]crypto.Signer, error) {
	key, next, foreign := signingKey(), signingKey(), signingKey()
	for _, f := range []struct {
		name          string
		sequence      set.Positive
		key, previous crypto.Signer
		edit          func(*bundle.Bundle)
	}{
		{"1", 1, key, nil, nil}, {"2", 2, key, nil, nil}, {"3", 3, key, nil, nil},
		{"2-again", 2, key, nil, func(b *bundle.Bundle) { b.Policies = b.Policies[:1] }},
		{"4-foreign", 4, foreign, nil, nil},
		{"4-expired", 4, key, nil, func(b *bundle.Bundle) { b.NotAfter = world.Now.Add(-time.Hour) }},
		{"4-early", 4, key, nil, func(b *bundle.Bundle) { b.NotBefore = world.Now.Add(24 * time.Hour) }},
		{"4-new-key", 4, next, key, nil}, {"5-new-key", 5, next, nil, nil}, {"6-old-key", 6, key, nil, nil}, {"7-foreign", 7, foreign, nil, nil},
	} {
		b := bankBundleFrom(world, f.sequence, "http://ca.example/cca")
		if f.edit != nil {
			f.edit(&b)
		}
		s, err := bundle.Sign(b, world.Root, f.key, f.previous)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, f.name+bundle.Extension), s.Raw, 0o600); err != nil {
			return nil, err
		}
	}
	return map[string]crypto.Signer{"FIRST": key, "SECOND": next, "FOREIGN": foreign}, nil
}

// bundleServer gives out the files in dir with a wrong media type, and misbehaves in other ways.
func bundleServer(dir string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /file/{name}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		http.ServeFileFS(w, r, os.DirFS(dir), r.PathValue("name"))
	})
	mux.HandleFunc("GET /moved/{times}/{name}", func(w http.ResponseWriter, r *http.Request) {
		to := "/file/" + r.PathValue("name")
		if n, err := strconv.Atoi(r.PathValue("times")); err == nil && n > 1 {
			to = fmt.Sprintf("/moved/%d/%s", n-1, r.PathValue("name"))
		}
		http.Redirect(w, r, to, http.StatusFound)
	})
	mux.HandleFunc("GET /endless", func(w http.ResponseWriter, _ *http.Request) {
		for block := make([]byte, 64<<10); ; {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("GET /broken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	return mux
}

// A redirect from https to http is not followed.
func TestDownloadStaysEncrypted(t *testing.T) {
	t.Parallel()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	from, _ := http.NewRequest(http.MethodGet, "https://bank.example/", nil)
	to, _ := http.NewRequest(http.MethodGet, plain.URL, nil)
	if err := followBundle(to, []*http.Request{from}); !errors.Is(err, errRedirect) {
		t.Errorf("got %v", err)
	}
	if err := followBundle(from, []*http.Request{to}); err != nil {
		t.Errorf("from http to https: %v", err)
	}
}

// With the bank's bundle a card is enrolled without a word about CA, root or brand, and the wallet says
// whose card pays.
func TestEnrollWithBundle(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := bankBundleFrom(s.world, 1, s.ca.URL)
	signed, err := bundle.Sign(b, s.world.Root, signingKey(), nil)
	if err != nil {
		t.Fatal(err)
	}
	stick := filepath.Join(s.dir, "stick")
	file := filepath.Join(stick, "bank.setwallet")
	if err := errors.Join(os.Mkdir(stick, 0o700), os.WriteFile(file, signed.Raw, 0o444), os.Chmod(stick, 0o500)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(stick, 0o700) }) // or it could not be removed
	stdout, stderr := s.run(0, "yes\n", "install", "--dir", s.wallet(), file)
	if !strings.Contains(stdout, "Nordhavn Bank") || !strings.Contains(stdout, cli.Grouped(signed.Signer.String())) || !strings.Contains(stderr, "letter") {
		t.Errorf("install: %s%s", stdout, stderr)
	}
	args := []string{
		"enroll", "--dir", s.wallet(), "--reader", s.card.Name, "--accept-policy", "--answers", s.file("answers.yaml"), "--pin-source", "file:" + s.file("pin"),
		"--pan-source", "file:" + s.file("pan"), "--expiry-source", "file:" + s.file("expiry"),
	}
	if _, stderr := s.run(1, "", append(args, "--brand", "Other")...); !strings.Contains(stderr, "Campus of Nordhavn Bank") {
		t.Errorf("another brand: %s", stderr)
	}
	stdout, _ = s.run(0, "", append(args, "--json")...)
	var e enrolled
	if err := json.Unmarshal([]byte(stdout), &e); err != nil || e.Bank != "Nordhavn Bank" || e.Brand != settest.Brand {
		t.Errorf("enrolled %s, %v", stdout, err)
	}
	stdout, _ = s.run(0, "", s.pay("pin", "--yes")...)
	if n := strings.Count(stdout, "Nordhavn Bank Campus **** 1111"); n != 2 {
		t.Errorf("the bank's card is named %d times, want in offer and receipt:\n%s", n, stdout)
	}
	if !strings.Contains(stdout, "APPROVED") {
		t.Errorf("paid: %s", stdout)
	}
}
