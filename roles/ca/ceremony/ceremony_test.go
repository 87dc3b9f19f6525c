package ceremony_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/ca/ceremony"
	"github.com/setkit/setkit/roles/ca/ceremony/ceremonytest"
	"github.com/setkit/setkit/roles/set/pki"
)

func TestRun(t *testing.T) {
	t.Parallel()
	r := newRoom(t, fast(lab(t)))
	summary := r.hold(t)
	if got, want := len(summary.Certificates), 11; got != want {
		t.Errorf("%d certificates, want %d", got, want)
	}
	for _, f := range summary.Files {
		if sha256Hex(r.file(t, f.Name)) != f.SHA256 {
			t.Errorf("%s: digest in the summary is not the file's", f.Name)
		}
		info, err := os.Stat(filepath.Join(r.out, f.Name))
		if err != nil || info.Mode() != 0o644 {
			t.Errorf("%s: mode %v, %v", f.Name, info.Mode(), err)
		}
	}
	entries, err := os.ReadDir(r.out)
	if err != nil || len(entries) != len(summary.Files) {
		t.Errorf("%d files in the output, %d in the summary, %v", len(entries), len(summary.Files), err)
	}
	readable := string(r.file(t, "transcript.txt"))
	for _, want := range []string{
		"the ceremony is unattended, as the reviewed file says",
		"software                 test v1",
		"SHA-256 of the bindings  " + sha256Hex([]byte("bindings")),
		"SHA-256 of the plan      " + sha256Hex(r.source),
		"serial number            " + r.tokens["payment-ca"].TokenInfo.Serial,
		"attributes               private, sensitive, always sensitive, never extractable, generated inside the token",
		"step 13: key payment-ca/key-exchange is ready",
		"step 14: sign the root certificate root.pem with its own key root-ca/cert-sign",
		"serial number            " + r.cert(t, "brand.pem").Serial(),
		sha256Hex(r.cert(t, "brand.pem").X509.RawTBSCertificate),
		sha256Hex(r.file(t, "brand.pem")),
		"SHA-256 of transcript.jsonl: " + sha256Hex(r.file(t, "transcript.jsonl")),
	} {
		if !strings.Contains(readable, want) {
			t.Errorf("the readable transcript has no %q", want)
		}
	}
	if !bytes.Contains(r.notice.Bytes(), []byte("step 13: key payment-ca/key-exchange is ready")) {
		t.Error("a step was not announced")
	}

	// The root announces the key that takes over from it.
	root := r.cert(t, "root.pem")
	keys := r.tokens["root-ca"].Private
	next, err := pki.Issue(rand.Reader, pki.Template{
		Type: pki.RCA, Use: pki.Authority, Subject: root.Subject, PublicKey: keys["cert-sign-next"].Public(),
		NotBefore: now, NotAfter: now.AddDate(20, 0, 0), NextRootKey: keys["cert-sign"].Public(),
	}, nil, keys["cert-sign-next"])
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
	r := newRoom(t, strings.Replace(fast(lab(t)), "root-ca/cert-sign, type: ec-p256", "root-ca/cert-sign, type: ec-p384", 1))
	r.hold(t)
	at := fmt.Sprint(now.Add(time.Hour).Unix())
	for _, name := range []string{"cca", "mca", "pca"} {
		for _, suffix := range []string{"", "-sign", "-key-exchange"} {
			openssl(t, r.out, "verify", "-ignore_critical", "-attime", at, "-CAfile", "root.pem", "-untrusted", "brand.pem", name+suffix+".pem")
		}
	}
	for crl, issuer := range map[string]string{"root.crl": "root.pem", "brand.crl": "brand.pem", "pca.crl": "pca.pem"} {
		openssl(t, r.out, "crl", "-in", crl, "-CAfile", issuer, "-noout")
	}
	pub := filepath.Join(t.TempDir(), "root.pub")
	if err := os.WriteFile(pub, openssl(t, r.out, "x509", "-in", "root.pem", "-noout", "-pubkey"), 0o600); err != nil {
		t.Fatal(err)
	}
	openssl(t, r.out, "dgst", "-sha384", "-verify", pub, "-signature", "transcript.sig", "transcript.jsonl")
}

func TestNothingIsOverwritten(t *testing.T) {
	t.Parallel()
	r := newRoom(t, fast(lab(t)))
	r.hold(t)
	out, before := r.out, r.file(t, "root.pem")
	if _, err := r.run(t); err == nil || !strings.Contains(err.Error(), "never overwrites") {
		t.Errorf("over existing outputs: %v", err)
	}
	r.out = filepath.Join(t.TempDir(), "other")
	if _, err := r.run(t); err == nil || !strings.Contains(err.Error(), "has keys already that are to be made: cert-sign, cert-sign-next: use another token") {
		t.Errorf("over existing keys: %v", err)
	}
	if _, err := os.Stat(r.out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused ceremony wrote something: %v", err)
	}
	// All are told at once, with what to do.
	if _, err := r.run(t); err == nil || !strings.Contains(err.Error(), "token payment-ca: has keys already that are to be made: cert-sign, sign, key-exchange: ") || !strings.Contains(err.Error(), "set-hsm keys delete") {
		t.Errorf("over existing keys: %v", err)
	}
	r.out = out
	if !bytes.Equal(r.file(t, "root.pem"), before) {
		t.Error("the root certificate is another one now")
	}
}

// A file that appears in the course of a ceremony is not overwritten either.
func TestFileThatAppears(t *testing.T) {
	t.Parallel()
	r := newRoom(t, fast(lab(t)))
	r.tokens["payment-ca"].Spoil = func(k *ceremony.KeyInfo) error {
		return os.WriteFile(filepath.Join(r.out, "brand.pem"), []byte("other"), 0o600)
	}
	_, err := r.run(t)
	if err == nil || !strings.Contains(err.Error(), "brand.pem: file exists") {
		t.Errorf("got %v", err)
	}
	if got := r.file(t, "brand.pem"); string(got) != "other" {
		t.Errorf("the file is now %q", got)
	}
	if !bytes.Contains(r.file(t, "transcript.txt"), []byte("THE CEREMONY FAILED: step 15: certificate brand.pem: output: ")) {
		t.Error("the transcript does not tell the failure")
	}
}

// A token that reports another key than was ordered, or fails, ends the ceremony before any certificate
// is written.
func TestTokenFailures(t *testing.T) {
	t.Parallel()
	for want, spoil := range map[string]func(*ceremony.KeyInfo) error{
		"device error":      func(*ceremony.KeyInfo) error { return errors.New("device error") },
		"of type":           func(k *ceremony.KeyInfo) error { k.Type = ceremony.ECP384; return nil },
		"key for":           func(k *ceremony.KeyInfo) error { k.Purpose, k.Usages = "", []string{"sign", "derive"}; return nil },
		"leave the token":   func(k *ceremony.KeyInfo) error { k.Extractable = true; return nil },
		"could: want":       func(k *ceremony.KeyInfo) error { k.Sensitive = false; return nil },
		"never extractable": func(k *ceremony.KeyInfo) error { k.NeverExtractable = false; return nil },
		"inside the token":  func(k *ceremony.KeyInfo) error { k.Local = false; return nil },
		`the key "other"`:   func(k *ceremony.KeyInfo) error { k.Label = "other"; return nil },
		"public key: asn1":  func(k *ceremony.KeyInfo) error { k.SPKI = k.SPKI[1:]; return nil },
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t, fast(lab(t)))
			r.tokens["brand-ca"].Spoil = spoil
			_, err := r.run(t)
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "generate brand-ca/cert-sign") || !strings.Contains(err.Error(), "root-ca/cert-sign-next") {
				t.Errorf("error does not name the key at fault, why, and those made: %v", err)
			}
			if _, err := os.Stat(filepath.Join(r.out, "root.pem")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a certificate was written: %v", err)
			}
			for _, name := range []string{"transcript.jsonl", "transcript.txt"} {
				if got := r.file(t, name); !bytes.Contains(got, []byte("root-ca/cert-sign-next")) || !bytes.Contains(bytes.ToLower(got), []byte("failed")) {
					t.Errorf("%s does not tell the failure", name)
				}
			}
			report, err := ceremony.Verify(r.out, nil)
			if err != nil || report.Err() == nil || !strings.Contains(report.Err().Error(), "the ceremony failed") {
				t.Errorf("verify: %v, %v", err, report.Err())
			}
		})
	}
}

// What failed says what is left and what to do. Where files and libraries lie is not for the transcript.
func TestFailureIsTold(t *testing.T) {
	t.Parallel()
	r := newRoom(t, short)
	r.tokens["geo-ca"].Spoil = func(*ceremony.KeyInfo) error {
		return fmt.Errorf("library /opt/vendor/lib/p11.so: open %s/key.db: device error", r.out)
	}
	_, err := r.run(t)
	for _, want := range []string{
		"library /opt/vendor/lib/p11.so: ", "the key may be in the token all the same", "another try wants another output", "stands in " + r.out,
		"to be deleted before another try (set-hsm keys delete): root-ca/cert-sign, root-ca/cert-sign-next, brand-ca/cert-sign, brand-ca/mac",
		"signed and valid, whatever becomes of this ceremony: root.pem, brand.pem",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error has no %q: %v", want, err)
		}
	}
	for _, name := range []string{"transcript.jsonl", "transcript.txt"} {
		if got := r.file(t, name); bytes.Contains(got, []byte("/opt")) || bytes.Contains(got, []byte(r.out)) || !bytes.Contains(got, []byte("library p11.so: open key.db: device error")) {
			t.Errorf("%s has a path, or not the error:\n%s", name, got)
		}
	}
}

// Of a ceremony that was killed, verify tells what may be in the tokens.
func TestKilled(t *testing.T) {
	t.Parallel()
	r := newRoom(t, short)
	r.hold(t)
	lines := bytes.SplitAfter(r.file(t, "transcript.jsonl"), []byte("\n"))
	var killed []byte
	for _, l := range lines {
		if killed = append(killed, l...); bytes.Contains(l, []byte(`"shown":{"step":3,`)) {
			break
		}
	}
	r.put(t, "transcript.jsonl", killed)
	report, err := ceremony.Verify(r.out, nil)
	const want = "did not come to its end; keys that it made, or began to make: root-ca/cert-sign, root-ca/cert-sign-next, brand-ca/cert-sign"
	if err != nil || report.Err() == nil || !strings.HasSuffix(report.Err().Error(), want) {
		t.Errorf("verify: %v, %v", err, report.Err())
	}
}

// A token that makes a weaker key than it says is found out.
func TestWeakKey(t *testing.T) {
	t.Parallel()
	r := newRoom(t, lab(t))
	r.tokens["brand-ca"].Spoil = func(k *ceremony.KeyInfo) error {
		weak, err := ceremonytest.New("weak").Generate(context.Background(), k.Label, k.Purpose, ceremony.ECP256)
		k.SPKI = weak.SPKI
		return err
	}
	if _, err := r.run(t); err == nil || !strings.Contains(err.Error(), "the token has a key of ec-p256, want ec-p384") {
		t.Errorf("got %v", err)
	}
}

// liar is a key that signs wrongly, now and then.
type liar struct{ crypto.Signer }

func (l liar) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	wrong := bytes.Clone(digest)
	wrong[0] ^= 1
	return l.Signer.Sign(random, wrong, opts)
}

// A wrong signature is not written.
func TestWrongSignatures(t *testing.T) {
	t.Parallel()
	for want, spoil := range map[string]func(keys map[string]crypto.Signer){
		"signature returned by signer is invalid":      func(keys map[string]crypto.Signer) { keys["cert-sign"] = liar{keys["cert-sign"]} },
		"signs with another key than the one it shows": func(keys map[string]crypto.Signer) { keys["cert-sign"] = ceremonyKey(t) },
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t, short)
			token := r.tokens["root-ca"]
			token.Spoil = func(k *ceremony.KeyInfo) error {
				if k.Label == "cert-sign" {
					spoil(token.Private)
				}
				return nil
			}
			if _, err := r.run(t); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(filepath.Join(r.out, "root.pem")); !errors.Is(err, os.ErrNotExist) {
				t.Error("a certificate was written")
			}
		})
	}
}

func ceremonyKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestSameTokenUnderTwoNames(t *testing.T) {
	t.Parallel()
	r := newRoom(t, fast(lab(t)))
	r.tokens["merchant-ca"].TokenInfo = r.tokens["root-ca"].TokenInfo
	if _, err := r.run(t); err == nil || !strings.Contains(err.Error(), "token merchant-ca: is the token root-ca") {
		t.Errorf("got %v", err)
	}
}

// A rehearsal shows every step, with words for what only the ceremony brings.
func TestRehearse(t *testing.T) {
	t.Parallel()
	r := newRoom(t, fast(lab(t)))
	steps, err := ceremony.Rehearse(r.plan, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(steps), 28; got != want {
		t.Fatalf("%d steps, want %d", got, want)
	}
	text := strings.Join(steps[14].Content, "\n")
	for _, want := range []string{
		"OU=Meridian Brand CA,O=Meridian,C=DK", "<random serial number>", "SHA-256 <public key brand-ca/cert-sign>",
		"<identifier of root-ca/cert-sign>", "valid until              2038-06-15T12:00:00Z", "path length              2",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("brand.pem is shown without %q:\n%s", want, text)
		}
	}
	if steps[14].SHA256 != "" {
		t.Error("a digest is shown of what does not exist")
	}
}

// What takes long says so.
func TestProgress(t *testing.T) {
	t.Parallel()
	r := newRoom(t, fast(lab(t)))
	waited := make(chan struct{})
	notice := &watcher{want: "generating brand-ca/cert-sign: not done after", seen: waited}
	r.tokens["brand-ca"].Spoil = func(*ceremony.KeyInfo) error {
		select {
		case <-waited:
			return errors.New("enough")
		case <-time.After(20 * time.Second):
			return errors.New("no word of it")
		}
	}
	_, err := ceremony.Run(t.Context(), r.plan, ceremony.Room{
		Open:   func(_ context.Context, name string) (ceremony.Token, error) { return r.tokens[name], nil },
		Output: r.out, Notice: notice, Now: time.Now,
	})
	if err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("got %v", err)
	}
}

// watcher tells when something is written.
type watcher struct {
	want string
	seen chan struct{}
}

func (w *watcher) Write(p []byte) (int, error) {
	if strings.Contains(string(p), w.want) {
		close(w.seen)
		w.want = "\x00"
	}
	return len(p), nil
}
