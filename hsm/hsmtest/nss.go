package hsmtest

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/setkit/setkit/hsm"
)

//go:embed nss/shim.c
var nssShim []byte

// NewNSS makes a token of NSS's softokn, a PKCS#11 library that differs from SoftHSM in much: code
// that works with both can hope to work with a third. The token lives until the test ends and is
// alone in a library of its own, whose other slot holds a token without keys. It has no security
// officer's PIN.
//
// certutil, libsoftokn3.so and gcc have to be installed: libnss3-tools, libnss3 and gcc in Debian.
func NewNSS(t testing.TB) *Token {
	t.Helper()
	tk, err := createNSS(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal("NSS token: ", err)
	}
	return tk
}

var starting sync.Mutex

func createNSS(ctx context.Context, dir string) (*Token, error) {
	softokn, err := copySoftokn(dir)
	if err != nil {
		return nil, err
	}
	tk := &Token{
		// NSS numbers its tokens 0, every one of them.
		Label: "nss-" + strings.ToLower(rand.Text()[:20]), Serial: strings.Repeat("0", 16),
		PIN: rand.Text()[:12], ModulePath: filepath.Join(dir, "nss.so"),
	}
	pin := filepath.Join(dir, "pin")
	if err := os.WriteFile(pin, []byte(tk.PIN+"\n"), 0o600); err != nil {
		return nil, err
	}
	if err := run(ctx, nil, "certutil", "-N", "-d", "sql:"+dir, "-f", pin); err != nil {
		return nil, fmt.Errorf("make a database: %w", err)
	}
	// The two tokens need labels that tell them apart, from each other and from those of other libraries.
	parameters := fmt.Sprintf("configdir='sql:%s' certPrefix='' keyPrefix='' secmod='secmod.db' flags= "+
		"cryptoTokenDescription='crypto-%s' dbTokenDescription='%s'", dir, tk.Label[len("nss-"):], tk.Label)
	if err := run(ctx, nssShim, "gcc", "-shared", "-fPIC", "-o", tk.ModulePath,
		"-DSOFTOKN="+strconv.Quote(softokn), "-DPARAMETERS="+strconv.Quote(parameters), "-xc", "-", "-ldl"); err != nil {
		return nil, fmt.Errorf("compile the library that tells NSS where the database is: %w", err)
	}
	// The libraries below softokn do not bear that two are initialised at once.
	starting.Lock()
	defer starting.Unlock()
	if _, err := hsm.Tokens(ctx, tk.ModulePath); err != nil {
		return nil, err
	}
	tk.URI = hsm.URI{Token: tk.Label, ModulePath: tk.ModulePath, PINSource: "file:" + pin}.String()
	return tk, nil
}

// copySoftokn copies libsoftokn3.so into dir: NSS has one set of databases for each time that the
// library is loaded, and what the linker sees as another file it loads once more.
func copySoftokn(dir string) (string, error) {
	for _, pattern := range []string{"/usr/lib/*/libsoftokn3.so", "/usr/lib/*/nss/libsoftokn3.so", "/usr/lib64/libsoftokn3.so", "/usr/lib/libsoftokn3.so"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		if len(found) == 0 {
			continue
		}
		lib, err := os.ReadFile(found[0])
		if err != nil {
			return "", err
		}
		path := filepath.Join(dir, "libsoftokn3.so")
		return path, os.WriteFile(path, lib, 0o700)
	}
	return "", errors.New("libsoftokn3.so is not installed: apt-get install libnss3 libnss3-tools")
}

func run(ctx context.Context, stdin []byte, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(string(stdin))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
