package ceremony_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/ca/ceremony"
	"github.com/setkit/setkit/roles/ca/ceremony/ceremonytest"
	"github.com/setkit/setkit/roles/set/pki"
)

var now = time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)

// room is a place to hold a ceremony in.
type room struct {
	dir    string // of the inputs
	out    string
	plan   *ceremony.Plan
	source []byte
	tokens map[string]*ceremonytest.Token // by name
	typed  io.Reader
	notice bytes.Buffer
	now    time.Time
}

// fast is a ceremony on keys that are quick under the race detector.
func fast(source string) string { return strings.ReplaceAll(source, "ec-p384", "ec-p256") }

// lab gives the reviewed file of the lab, after edit.
func lab(t testing.TB, edit ...string) string {
	t.Helper()
	source, err := os.ReadFile("../../../testdata/ceremony/lab.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := string(source)
	for i := 0; i < len(edit); i += 2 {
		if !strings.Contains(text, edit[i]) {
			t.Fatalf("the file has no %q to replace", edit[i])
		}
		text = strings.Replace(text, edit[i], edit[i+1], 1)
	}
	return text
}

// newRoom prepares a ceremony with empty tokens.
func newRoom(t testing.TB, source string) *room {
	t.Helper()
	plan, err := ceremony.Parse([]byte(source))
	if err != nil {
		t.Fatal(err)
	}
	r := &room{dir: t.TempDir(), out: filepath.Join(t.TempDir(), "out"), plan: plan, source: []byte(source), tokens: make(map[string]*ceremonytest.Token), now: now}
	for _, name := range plan.Tokens() {
		r.tokens[name] = ceremonytest.New(name)
	}
	return r
}

func (r *room) run(t testing.TB) (*ceremony.Summary, error) {
	t.Helper()
	return ceremony.Run(t.Context(), r.plan, ceremony.Room{
		Open:   func(_ context.Context, name string) (ceremony.Token, error) { return r.tokens[name], nil },
		Output: r.out, Inputs: os.DirFS(r.dir), Officers: r.typed, Typed: "a test", Notice: &r.notice,
		Now: func() time.Time { return r.now }, Software: "test v1", Bindings: []byte("bindings"),
	})
}

// hold holds a ceremony that succeeds, and verifies it.
func (r *room) hold(t testing.TB) *ceremony.Summary {
	t.Helper()
	summary, err := r.run(t)
	if err != nil {
		t.Fatal(err)
	}
	report, err := ceremony.Verify(r.out, r.source)
	if err != nil || report.Err() != nil {
		t.Fatalf("verify: %v, %v", err, report.Err())
	}
	return summary
}

func (r *room) file(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(r.out, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// give makes files of one ceremony the inputs of another, and gives the YAML that names them.
func (r *room) give(t testing.TB, to string, names ...string) string {
	t.Helper()
	var text strings.Builder
	text.WriteString("inputs:\n")
	for _, name := range names {
		data := r.file(t, name)
		if err := os.WriteFile(filepath.Join(to, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "  %s: %s\n", name, sha256Hex(data))
	}
	return text.String()
}

// after prepares a ceremony that follows r with the same tokens, and inputs from it.
func (r *room) after(t testing.TB, source string, inputs ...string) *room {
	t.Helper()
	dir := t.TempDir()
	next := newRoom(t, source+r.give(t, dir, inputs...))
	next.dir, next.now = dir, r.now.AddDate(0, 1, 0)
	for name := range next.tokens {
		if old := r.tokens[name]; old != nil {
			next.tokens[name] = old
		}
	}
	return next
}

func (r *room) cert(t testing.TB, name string) *pki.Certificate {
	t.Helper()
	c, err := pki.ParseCertificate(pemOf(t, r.file(t, name), "CERTIFICATE"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func pemOf(t testing.TB, data []byte, typ string) []byte {
	t.Helper()
	block, rest := pem.Decode(data)
	if block == nil || len(rest) > 0 || block.Type != typ {
		t.Fatalf("not one %s", typ)
	}
	return block.Bytes
}

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func openssl(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %v: %v\n%s", args, err, out)
	}
	return out
}

// short is a small hierarchy of everything that a ceremony makes.
const short = `ceremony: short
brand: Meridian
officers: {required: 0}
subjects:
  root-ca: {holder: root-ca, country: DK}
  brand-ca: {holder: brand-ca, country: DK, unit: Meridian Brand CA}
  geo-ca: {holder: geopolitical-ca, country: DK, unit: Meridian Nordic}
steps:
  - {generate: root-ca/cert-sign, type: ec-p256, purpose: cert-sign}
  - {generate: root-ca/cert-sign-next, type: ec-p256, purpose: cert-sign}
  - {generate: brand-ca/cert-sign, type: ec-p256, purpose: cert-sign}
  - {generate: brand-ca/mac, type: hmac-sha256, purpose: mac}
  - {root: root.pem, subject: root-ca, key: root-ca/cert-sign, next-key: root-ca/cert-sign-next, validity: 20y, signing-period: 10y}
  - {certificate: brand.pem, subject: brand-ca, key: brand-ca/cert-sign, issuer: root.pem, validity: 12y, signing-period: 6y}
  - {generate: geo-ca/cert-sign, type: ec-p256, purpose: cert-sign}
  - {csr: geo.csr, subject: geo-ca, key: geo-ca/cert-sign}
  - {crl: brand.crl, issuer: brand.pem, number: 1, validity: 90d, revoked: [{serial: 0a0b, date: 2026-01-01T00:00:00Z}]}
  - {bci: brand.bci, issuer: brand.pem, number: 1, validity: 90d, crls: [brand.crl]}
`
