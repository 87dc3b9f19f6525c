package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/set/bundle"
	"github.com/setkit/setkit/roles/set/settest"
)

// branded is lab with the root that a wallet bundle brings, and keys.
func branded(t *testing.T) *settest.World {
	t.Helper()
	lab(t)
	w := settest.NewWorld(t)
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.Root.X509.Raw})
	if err := os.WriteFile(filepath.Join(os.Getenv("SET_CA_OUTPUT"), "root.pem"), root, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := command(t.Context(), "init", "--config", configWith(t, "validity-days: 400", "validity-days: 300")); code != 0 {
		t.Fatal(stderr)
	}
	return w
}

// configWith is the example configuration with some of its text replaced: old and new in turn. The root of
// a test's world has no 400 days.
func configWith(t *testing.T, replace ...string) string {
	t.Helper()
	text, err := os.ReadFile(configFile)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "issuer.yaml")
	if err := os.WriteFile(path, []byte(strings.NewReplacer(replace...).Replace(string(text))), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// makeBundle runs wallet-bundle and opens the file that it wrote.
func makeBundle(t *testing.T, config string) (*bundleMade, *bundle.Signed) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "bank.setwallet")
	code, stdout, stderr := command(t.Context(), "wallet-bundle", "--config", config, "--out", out, "--json")
	var m bundleMade
	if err := json.Unmarshal([]byte(stdout), &m); err != nil || code != 0 {
		t.Fatalf("wallet-bundle: exit code %d, %v\n%s%s", code, err, stdout, stderr)
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	s, err := bundle.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	if m.File != out || m.Octets != len(raw) || m.Fingerprint != s.Signer || m.RootKeyHash != s.RootKeyHash || m.Sequence != int64(s.Sequence) {
		t.Errorf("told %+v of %+v", m, s.Bundle)
	}
	return &m, s
}

// A bundle is signed by a key that stays in its token, numbered, and given out at once; a new key takes over.
func TestWalletBundle(t *testing.T) {
	w := branded(t)
	program := filepath.Join(t.TempDir(), "set-wallet")
	if err := os.WriteFile(program, []byte("a program"), 0o600); err != nil {
		t.Fatal(err)
	}
	days := []string{"validity-days: 400", "validity-days: 300"}
	config := configWith(t, append(days, "programs: []", `programs: [{platform: linux/amd64, version: "1.0", file: "`+program+`"}]`)...)

	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	var log output
	go func() {
		ended <- cli.Run(ctx, newApp(), []string{"set-issuer", "serve", "--config", config}, strings.NewReader(""), io.Discard, &log)
	}()
	waitReady(t)

	m, first := makeBundle(t, config)
	if m.Sequence != 1 || m.Bank != "Nordhavn Bank" || first.Bank.Logo == nil || first.RootCert.Thumbprint() != w.Root.Thumbprint() {
		t.Errorf("first bundle %+v", first.Bundle)
	}
	if b := first.Brands[0]; b.ID != "Meridian" || b.CA != "http://ca.example/cca" || b.Logo == nil {
		t.Errorf("brand %+v", b)
	}
	want := []bundle.Program{{Platform: "linux/amd64", Version: "1.0", Digest: sha256.Sum256([]byte("a program"))}}
	if diff := cmp.Diff(want, first.Programs); diff != "" {
		t.Errorf("programs (-want +got):\n%s", diff)
	}
	if life := first.NotAfter.Sub(first.NotBefore); life != 300*24*time.Hour {
		t.Errorf("valid for %v", life)
	}
	if !bytes.Equal(fetchBundle(t), first.Raw) {
		t.Error("the server gives out another file")
	}

	rotated := configWith(t, append(days, "object=bundle-sign", "object=bundle-sign-2", "# previous-sign-key:",
		`previous-sign-key: "pkcs11:token=issuer;object=bundle-sign?module-path=${SET_PKCS11_MODULE}&pin-source=${SET_ISSUER_PIN_SOURCE}"`)...)
	if code, _, stderr := command(t.Context(), "wallet-bundle", "--config", rotated); code != 1 || !strings.Contains(stderr, "set-issuer init") {
		t.Errorf("without the new key: exit code %d, %s", code, stderr)
	}
	if code, _, stderr := command(t.Context(), "init", "--config", rotated); code != 0 {
		t.Fatal(stderr)
	}
	m, second := makeBundle(t, rotated)
	if m.Sequence != 2 || second.Signer == first.Signer || !second.SignedBy(first.Signer) {
		t.Errorf("second bundle %+v", second.Bundle)
	}
	if !bytes.Equal(fetchBundle(t), second.Raw) {
		t.Error("the server gives out another file than the last")
	}
	stop()
	if code := <-ended; code != 0 {
		t.Errorf("serve ended with %d:\n%s", code, log.String())
	}
	verifyWithOpenSSL(t, first)
}

// OpenSSL accepts what SoftHSM signed.
func verifyWithOpenSSL(t *testing.T, s *bundle.Signed) {
	t.Helper()
	dir := t.TempDir()
	for name, b := range map[string][]byte{
		"bundle": s.Raw, "signer.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Cert.Raw}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", "bundle", "-CAfile", "signer.pem", "-out", os.DevNull)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("openssl: %v\n%s", err, out)
	}
}

func TestWalletBundleText(t *testing.T) {
	branded(t)
	config := configWith(t, "validity-days: 400", "validity-days: 300")
	code, stdout, stderr := command(t.Context(), "wallet-bundle", "--config", config)
	_, s := makeBundle(t, config)
	if code != 0 || !strings.Contains(stdout, "Wallet bundle 1 of Nordhavn Bank") || !strings.Contains(stdout, cli.Grouped(s.Signer.String())) {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
}

func TestWalletBundleRefused(t *testing.T) {
	branded(t)
	days := []string{"validity-days: 400", "validity-days: 300"}
	there := filepath.Join(t.TempDir(), "there")
	if err := os.WriteFile(there, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		replace []string
		args    []string
		code    int
		want    string
	}{
		{"longer than the root", nil, nil, 1, "the root ends before"},
		{"too long", []string{"validity-days: 400", "validity-days: 1101"}, nil, 2, "1101"},
		{"no bank", append(days, "bank: Nordhavn Bank", ""), nil, 1, "Name"},
		{"no brand", append(days, "- brand: Meridian", `- brand: ""`), nil, 1, "Brands.ID"},
		{"logo that is none", append(days, "nordhavn.png", "../accounts.yaml"), nil, 2, "PNG"},
		{"logo that is not there", append(days, "meridian.png", "none.png"), nil, 2, "none.png"},
		{"root that is not there", append(days, "${SET_CA_OUTPUT}/root.pem", "/none/root.pem"), nil, 2, "root.pem"},
		{"root that is empty", append(days, "${SET_CA_OUTPUT}/root.pem", empty), nil, 2, "CERTIFICATE"},
		{"program that is not there", append(days, "programs: []", `programs: [{platform: linux/amd64, version: "1", file: /none}]`), nil, 2, "linux/amd64"},
		{"file that is there", days, []string{"--out", there}, 2, "exists"},
	} {
		args := append([]string{"wallet-bundle", "--config", configWith(t, tt.replace...)}, tt.args...)
		code, stdout, stderr := command(t.Context(), args...)
		if code != tt.code || !strings.Contains(stderr, tt.want) || stdout != "" {
			t.Errorf("%s: exit code %d, want %d and %q: %s%s", tt.name, code, tt.code, tt.want, stdout, stderr)
		}
	}
	example, err := os.ReadFile(configFile)
	if err != nil {
		t.Fatal(err)
	}
	before, _, _ := strings.Cut(string(example), "\nwallet:")
	config := filepath.Join(t.TempDir(), "issuer.yaml")
	if err := os.WriteFile(config, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := command(t.Context(), "wallet-bundle", "--config", config); code != 2 || !strings.Contains(stderr, "wallet is missing") {
		t.Errorf("without the section: exit code %d, %s", code, stderr)
	}
	if b, err := os.ReadFile(there); err != nil || string(b) != "x" {
		t.Errorf("the file that was there is %q, %v", b, err)
	}
	// Nothing was numbered.
	if m, _ := makeBundle(t, configWith(t, days...)); m.Sequence != 1 {
		t.Errorf("then bundle %d", m.Sequence)
	}
}
