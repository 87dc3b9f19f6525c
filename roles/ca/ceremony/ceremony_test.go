package ceremony_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/setkit/setkit/roles/ca/ceremony"
	"github.com/setkit/setkit/roles/set/pki"
)

// softToken is a token in memory.
type softToken struct {
	serial string
	keys   map[string]crypto.Signer
	weak   string // label of the key that comes out smaller than asked for
	broken string // label of the key that cannot be made
	open   int
}

func (t *softToken) Serial() string { return t.serial }
func (t *softToken) Close() error   { t.open--; return nil }

func (t *softToken) Labels(context.Context) ([]string, error) {
	return slices.Collect(maps.Keys(t.keys)), nil
}

func (t *softToken) Generate(_ context.Context, label string, _ ceremony.Purpose, typ ceremony.KeyType) (err error) {
	if label == t.broken {
		return errors.New("device error")
	}
	var key crypto.Signer
	switch {
	case typ == ceremony.RSA2048:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case typ == ceremony.ECP384 && label != t.weak:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	default:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	t.keys[label] = key
	return err
}

func (t *softToken) PublicKey(_ context.Context, label string) (crypto.PublicKey, error) {
	return t.keys[label].Public(), nil
}

func (t *softToken) Signer(_ context.Context, label string) (crypto.Signer, error) {
	return t.keys[label], nil
}

// room is a place to hold a ceremony in.
type room struct {
	spec   *ceremony.Spec
	tokens map[string]*softToken // by URI
	notice bytes.Buffer
	source []byte
}

var now = time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)

// newRoom reads the ceremony of the lab, after edit.
func newRoom(t *testing.T, edit ...string) *room {
	t.Helper()
	source, err := os.ReadFile("../../../testdata/ceremony/lab.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("${SET_CA_OUTPUT}", filepath.Join(t.TempDir(), "out"), "${SET_PKCS11_MODULE}", "/module.so").Replace(string(source))
	for i := 0; i < len(edit); i += 2 {
		if !strings.Contains(text, edit[i]) {
			t.Fatalf("the file has no %q to replace", edit[i])
		}
		text = strings.Replace(text, edit[i], edit[i+1], 1)
	}
	r := &room{spec: new(ceremony.Spec), tokens: make(map[string]*softToken), source: []byte(text)}
	dec := yaml.NewDecoder(strings.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(r.spec); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{r.spec.Root.Token, r.spec.Brand.Token, r.spec.Cardholder.Token, r.spec.Merchant.Token, r.spec.Payment.Token} {
		r.tokens[name] = &softToken{serial: fmt.Sprint(len(r.tokens)), keys: make(map[string]crypto.Signer)}
	}
	return r
}

func (r *room) run(t *testing.T) (*ceremony.Summary, error) {
	t.Helper()
	return ceremony.Run(t.Context(), r.spec, ceremony.Room{
		Open: func(_ context.Context, uri string) (ceremony.Token, error) {
			tok := r.tokens[uri]
			tok.open++
			return tok, nil
		},
		Notice: &r.notice, Now: func() time.Time { return now }, Source: r.source,
	})
}

func (r *room) file(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(r.spec.Output, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (r *room) cert(t *testing.T, name string) *pki.Certificate {
	t.Helper()
	block, rest := pem.Decode(r.file(t, name))
	if block == nil || len(rest) > 0 || block.Type != "CERTIFICATE" {
		t.Fatalf("%s is not one certificate", name)
	}
	c, err := pki.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
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

func TestRun(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	summary, err := r.run(t)
	if err != nil {
		t.Fatal(err)
	}
	for uri, tok := range r.tokens {
		if tok.open != 0 {
			t.Errorf("token %s was left open", uri)
		}
	}
	if got, want := len(summary.Certificates), 11; got != want {
		t.Errorf("%d certificates, want %d", got, want)
	}
	for _, f := range summary.Files {
		if sum := sha256.Sum256(r.file(t, f.Name)); hex.EncodeToString(sum[:]) != f.SHA256 {
			t.Errorf("%s: digest in the summary is not the file's", f.Name)
		}
		info, err := os.Stat(filepath.Join(r.spec.Output, f.Name))
		if err != nil || info.Mode() != 0o644 {
			t.Errorf("%s: mode %v, %v", f.Name, info.Mode(), err)
		}
	}
	entries, err := os.ReadDir(r.spec.Output)
	if err != nil || len(entries) != len(summary.Files) {
		t.Errorf("%d files in the output, %d in the summary, %v", len(entries), len(summary.Files), err)
	}
	if !strings.Contains(r.notice.String(), "payment-ca: key key-exchange (rsa-2048) made") {
		t.Errorf("a step was not announced:\n%s", r.notice.String())
	}

	// The root announces the key that takes over from it.
	root := r.cert(t, "root.pem")
	tok := r.tokens[r.spec.Root.Token]
	next, err := pki.Issue(rand.Reader, pki.Template{
		Type: pki.RCA, Use: pki.Authority, Subject: root.Subject, PublicKey: tok.keys["cert-sign-next"].Public(),
		NotBefore: now, NotAfter: now.AddDate(20, 0, 0), NextRootKey: tok.keys["cert-sign"].Public(),
	}, nil, tok.keys["cert-sign-next"])
	if err != nil {
		t.Fatal(err)
	}
	if err := pki.NextRoot(root, next, now); err != nil {
		t.Error(err)
	}
}

// Standard tools accept chains, CRLs and the transcript's signature.
func TestOpenSSLAccepts(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	if _, err := r.run(t); err != nil {
		t.Fatal(err)
	}
	dir := r.spec.Output
	at := fmt.Sprint(now.Add(time.Hour).Unix())
	for _, name := range []string{"cca", "mca", "pca"} {
		for _, suffix := range []string{"", "-sign", "-key-exchange"} {
			openssl(t, dir, "verify", "-ignore_critical", "-attime", at, "-CAfile", "root.pem", "-untrusted", "brand.pem", name+suffix+".pem")
		}
	}
	for crl, issuer := range map[string]string{"root.crl": "root.pem", "brand.crl": "brand.pem", "pca.crl": "pca.pem"} {
		openssl(t, dir, "crl", "-in", crl, "-CAfile", issuer, "-noout")
	}
	pub := filepath.Join(t.TempDir(), "root.pub")
	if err := os.WriteFile(pub, openssl(t, dir, "x509", "-in", "root.pem", "-noout", "-pubkey"), 0o600); err != nil {
		t.Fatal(err)
	}
	openssl(t, dir, "dgst", "-sha384", "-verify", pub, "-signature", "transcript.sig", "transcript.jsonl")
}

func TestTranscriptIsAChain(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	if _, err := r.run(t); err != nil {
		t.Fatal(err)
	}
	steps := make(map[string]int)
	previous := strings.Repeat("0", 64)
	for scan := bufio.NewScanner(bytes.NewReader(r.file(t, "transcript.jsonl"))); scan.Scan(); {
		var line struct {
			Seq      int
			Previous string `json:"previous_sha256"`
			Step     string
			Details  map[string]any
		}
		if err := json.Unmarshal(scan.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if line.Previous != previous {
			t.Errorf("line %d does not hold the digest of the one before", line.Seq)
		}
		sum := sha256.Sum256(scan.Bytes())
		previous = hex.EncodeToString(sum[:])
		steps[line.Step]++
		if source := sha256.Sum256(r.source); line.Step == "begin" && line.Details["file_sha256"] != hex.EncodeToString(source[:]) {
			t.Errorf("the first line does not hold the digest of the file")
		}
	}
	want := map[string]int{"begin": 1, "token": 5, "key": 13, "certificate": 11, "crl": 3, "bci": 1, "file": 15, "end": 1}
	if !maps.Equal(steps, want) {
		t.Errorf("steps %v, want %v", steps, want)
	}
}

func TestNothingIsOverwritten(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	if _, err := r.run(t); err != nil {
		t.Fatal(err)
	}
	out, before := r.spec.Output, r.file(t, "root.pem")
	if _, err := r.run(t); err == nil || !strings.Contains(err.Error(), "never overwrites") {
		t.Errorf("over existing outputs: %v", err)
	}
	r.spec.Output = filepath.Join(t.TempDir(), "other")
	if _, err := r.run(t); err == nil || !strings.Contains(err.Error(), `has a key "cert-sign" already`) {
		t.Errorf("over existing keys: %v", err)
	}
	if _, err := os.Stat(r.spec.Output); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused ceremony wrote something: %v", err)
	}
	r.spec.Output = out
	if !bytes.Equal(r.file(t, "root.pem"), before) {
		t.Error("the root certificate is another one now")
	}
}

// A token that makes a weaker key, or fails, ends the ceremony before any certificate is written.
func TestTokenFailures(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*softToken){
		"weak":   func(tok *softToken) { tok.weak = "cert-sign" },
		"broken": func(tok *softToken) { tok.broken = "cert-sign" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t)
			spoil(r.tokens[r.spec.Brand.Token])
			_, err := r.run(t)
			if err == nil || !strings.Contains(err.Error(), "brand-ca: key cert-sign") || !strings.Contains(err.Error(), "root-ca/cert-sign-next") {
				t.Errorf("error does not name the key at fault and those made: %v", err)
			}
			entries, err := os.ReadDir(r.spec.Output)
			if err != nil || len(entries) != 1 || entries[0].Name() != "transcript.jsonl" {
				t.Errorf("written: %v, %v, want the transcript alone", entries, err)
			}
			if got := r.file(t, "transcript.jsonl"); !bytes.Contains(got, []byte(`"step":"failed"`)) {
				t.Error("the transcript does not tell the failure")
			}
		})
	}
}

func TestSameTokenUnderTwoNames(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.tokens[r.spec.Merchant.Token].serial = r.tokens[r.spec.Root.Token].serial
	if _, err := r.run(t); err == nil || !strings.Contains(err.Error(), "merchant-ca.token: is the token of root-ca") {
		t.Errorf("got %v", err)
	}
}

func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	const leaf = "  sign: {type: ec-p256, validity: 2y, signing-period: 1y}"
	for want, edit := range map[string][]string{
		"":                                    {"setkit lab", "another name"},
		"brand-id: want":                      {"brand-id: Meridian", "brand-id: Meridian:Gold"},
		"brand-ca.token: is the token of":     {"token=brand-ca?", "token=root-ca?", "SET_BRAND", "SET_ROOT"},
		"root-ca.subject.unit":                {"subject: {country: DK}", "subject: {country: DK, unit: Root}"},
		"root-ca.cert-sign.type":              {"type: ec-p384", "type: ec-p521"},
		"cardholder-ca.key-exchange.type":     {"key-exchange: {type: rsa-2048", "key-exchange: {type: ec-p256"},
		"cardholder-ca.crl-validity":          {"  pan-mac: {", "  crl-validity: 90d\n  pan-mac: {"},
		"payment-ca.crl-validity: missing":    {"  key-exchange: {type: rsa-2048, validity: 1y}\n  crl-validity: 90d", "  key-exchange: {type: rsa-2048, validity: 1y}"},
		"cardholder-ca.pan-mac.type":          {"hmac-sha256", "aes-256"},
		"cardholder-ca.sign.signing-period":   {leaf, strings.Replace(leaf, "1y", "3y", 1)},
		"cardholder-ca.sign: issue":           {leaf, strings.Replace(leaf, "2y", "13y", 1)},
		"cardholder-ca.sign.validity: missin": {leaf, "  sign: {type: ec-p256, signing-period: 1y}"},
		"output: want":                        {"output: ", "output: relative"},
		"country is not":                      {"country: DK", "country: Denmark"},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t, edit...)
			err := ceremony.Check(r.spec, now)
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("got %v, want %q", err, want)
			}
			if _, err := r.run(t); (err == nil) != (want == "") {
				t.Errorf("run: %v", err)
			}
		})
	}
}

func TestSpan(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{
		"1y": true, "50y": true, "90d": true, "": false, "y": false, "0d": false, "01y": false, "51y": false, "1w": false, "-1y": false, "1.5y": false, "99999d": false,
	} {
		var s ceremony.Span
		if err := s.UnmarshalText([]byte(text)); (err == nil) != ok || ok && s.String() != text {
			t.Errorf("%q: %v, %v", text, s, err)
		}
	}
}
