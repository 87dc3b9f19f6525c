package bundle_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"hash/crc32"
	"image"
	"image/color"
	"image/png"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/bundle"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/set/settest"
)

func ecKey(t testing.TB, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func fingerprint(t testing.TB, k crypto.Signer) pki.Digest {
	t.Helper()
	f, err := bundle.Fingerprint(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// picture is a PNG image of one colour.
func picture(t testing.TB, width, height int) []byte {
	t.Helper()
	img := image.NewPaletted(image.Rect(0, 0, width, height), color.Palette{color.RGBA{0x20, 0x40, 0x60, 0xff}})
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func logo(t testing.TB, width, height int) bundle.Logo {
	t.Helper()
	l, err := bundle.NewLogo(picture(t, width, height))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// least has the mandatory fields only.
func least(w *settest.World) bundle.Bundle {
	return bundle.Bundle{
		Sequence: 7, NotBefore: w.Now.Add(-time.Hour), NotAfter: w.Now.Add(90 * 24 * time.Hour), Bank: bundle.Bank{Name: "Nordhavn Bank"},
		Brands:   []bundle.Brand{{ID: settest.Brand, CA: "http://ca.example/cca"}},
		Policies: []bundle.Policy{{Language: "en", Text: "Use it with care."}},
	}
}

// full has every optional field too.
func full(t testing.TB, w *settest.World) bundle.Bundle {
	b := least(w)
	b.Bank = bundle.Bank{Name: "Østre Æbleskive Bank", Logo: logo(t, 32, 16)}
	b.Brands = []bundle.Brand{
		{ID: "Meridian:Gold", CA: "https://ca.example:8443/cca?x=1", Logo: logo(t, bundle.LogoPixelsMax, bundle.LogoPixelsMax)},
		{ID: "Campus", CA: "http://127.0.0.1:8080/cca"},
	}
	b.Policies = append(b.Policies, bundle.Policy{Language: "da-DK", Text: "Brug det med omtanke.\nAltid.\n"})
	b.Programs = []bundle.Program{{Platform: "linux/amd64", Version: "1.2.3", Digest: sha256.Sum256([]byte("program"))}}
	return b
}

func sign(t testing.TB, b bundle.Bundle, root *pki.Certificate, key, previous crypto.Signer) *bundle.Signed {
	t.Helper()
	s, err := bundle.Sign(b, root, key, previous)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	w := settest.NewWorld(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name          string
		bundle        bundle.Bundle
		key, previous crypto.Signer
	}{
		{"least, P-256", least(w), ecKey(t, elliptic.P256()), nil},
		{"full, RSA", full(t, w), rsaKey, nil},
		{"full, P-384 after P-256", full(t, w), ecKey(t, elliptic.P384()), ecKey(t, elliptic.P256())},
		{"least, P-256 after RSA", least(w), ecKey(t, elliptic.P256()), rsaKey},
	} {
		s := sign(t, tt.bundle, w.Root, tt.key, tt.previous)
		got, err := bundle.Open(s.Raw)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		want := tt.bundle
		want.Version, want.Signer, want.Root = 1, fingerprint(t, tt.key), w.Root.X509.Raw
		want.RootKeyHash = sha256.Sum256(w.Root.X509.RawSubjectPublicKeyInfo)
		if diff := cmp.Diff(want, got.Bundle); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
		if !got.Same(s) || got.RootCert.Thumbprint() != w.Root.Thumbprint() || got.Cert.Subject.CommonName != string(want.Bank.Name) {
			t.Errorf("%s: opened %+v", tt.name, got)
		}
		if (got.Endorser != nil) != (tt.previous != nil) || tt.previous != nil && !got.SignedBy(fingerprint(t, tt.previous)) {
			t.Errorf("%s: endorsed by %v", tt.name, got.Endorser)
		}
		if !got.SignedBy(want.Signer) || got.SignedBy(fingerprint(t, ecKey(t, elliptic.P256()))) {
			t.Errorf("%s: signed by the wrong key", tt.name)
		}
		t.Logf("%s: %d octets", tt.name, len(s.Raw))
	}
}

// No octet of a file can be changed, no end cut off, and nothing added, without the file being refused.
func TestEveryChangeIsRefused(t *testing.T) {
	t.Parallel()
	w := settest.NewWorld(t)
	for name, previous := range map[string]crypto.Signer{"one signer": nil, "two signers": ecKey(t, elliptic.P256())} {
		raw := sign(t, least(w), w.Root, ecKey(t, elliptic.P256()), previous).Raw
		for i := range raw {
			raw[i] ^= 1 << (i % 8)
			if s, err := bundle.Open(raw); err == nil {
				t.Errorf("%s: octet %d changed: opened %+v", name, i, s.Bundle)
			}
			raw[i] ^= 1 << (i % 8)
			if _, err := bundle.Open(raw[:i]); err == nil {
				t.Errorf("%s: the first %d octets were opened", name, i)
			}
		}
		if _, err := bundle.Open(append(bytes.Clone(raw), 0)); err == nil {
			t.Errorf("%s: an octet was added and not refused", name)
		}
		if _, err := bundle.Open(raw); err != nil {
			t.Errorf("%s, unchanged: %v", name, err)
		}
	}
}

func TestCheckTime(t *testing.T) {
	t.Parallel()
	w := settest.NewWorld(t)
	s := sign(t, least(w), w.Root, ecKey(t, elliptic.P256()), nil)
	for _, tt := range []struct {
		at   time.Time
		want string
	}{
		{s.NotBefore.Add(-time.Second), "is valid from"}, {s.NotBefore, ""}, {w.Now, ""}, {s.NotAfter, ""}, {s.NotAfter.Add(time.Second), "has expired"},
	} {
		err := s.CheckTime(tt.at)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("at %v: %v, want %q", tt.at, err, tt.want)
		}
	}
}

// What the rules forbid is neither signed nor, signed by someone without rules, opened.
func TestContentRefused(t *testing.T) {
	t.Parallel()
	w := settest.NewWorld(t)
	key := ecKey(t, elliptic.P256())
	lots := func(n int) (brands []bundle.Brand) {
		for i := range n {
			brands = append(brands, bundle.Brand{ID: set.BrandID("B" + string(rune('a'+i))), CA: "http://ca.example/"})
		}
		return brands
	}
	png := picture(t, 8, 8)
	for _, tt := range []struct {
		name string
		edit func(*bundle.Bundle)
		want string
	}{
		{"no bank", func(b *bundle.Bundle) { b.Bank.Name = "" }, "Name"},
		{"name too long", func(b *bundle.Bundle) { b.Bank.Name = set.Text50(strings.Repeat("x", 51)) }, "Name"},
		{"name with a bidirectional mark", func(b *bundle.Bundle) { b.Bank.Name = "Bank\u202egnp" }, "cannot be shown"},
		{"name with spaces", func(b *bundle.Bundle) { b.Bank.Name = "Nordhavn Bank " }, "spaces"},
		{"sequence 0", func(b *bundle.Bundle) { b.Sequence = 0 }, "Sequence"},
		{"ends before it starts", func(b *bundle.Bundle) { b.NotAfter = b.NotBefore }, "ends before"},
		{"no brand", func(b *bundle.Bundle) { b.Brands = nil }, "Brands"},
		{"nine brands", func(b *bundle.Bundle) { b.Brands = lots(9) }, "Brands"},
		{"brand twice", func(b *bundle.Bundle) {
			b.Brands = []bundle.Brand{{ID: "Campus:Gold", CA: "http://a/"}, {ID: "campus", CA: "http://b/"}}
		}, "twice"},
		{"brand with a line break", func(b *bundle.Bundle) { b.Brands[0].ID = "Cam\npus" }, "cannot be shown"},
		{"no CA", func(b *bundle.Bundle) { b.Brands[0].CA = "" }, "URL"},
		{"CA by file", func(b *bundle.Bundle) { b.Brands[0].CA = "file:///etc/passwd" }, "http"},
		{"CA with a user", func(b *bundle.Bundle) { b.Brands[0].CA = "http://user@ca.example/" }, "user"},
		{"CA with a fragment", func(b *bundle.Bundle) { b.Brands[0].CA = "http://ca.example/#cca" }, "fragment"},
		{"CA without host", func(b *bundle.Bundle) { b.Brands[0].CA = "http:///cca" }, "host"},
		{"no policy", func(b *bundle.Bundle) { b.Policies = nil }, "Policies"},
		{"no language", func(b *bundle.Bundle) { b.Policies[0].Language = "en GB" }, "language"},
		{"language twice", func(b *bundle.Bundle) { b.Policies = append(b.Policies, bundle.Policy{Language: "EN", Text: "x"}) }, "twice"},
		{"policy with an escape", func(b *bundle.Bundle) { b.Policies[0].Text = "\x1b[2J" }, "cannot be shown"},
		{"platform", func(b *bundle.Bundle) { b.Programs = []bundle.Program{{Platform: "linux", Version: "1"}} }, "linux/amd64"},
		{"platform twice", func(b *bundle.Bundle) {
			b.Programs = []bundle.Program{{Platform: "linux/amd64", Version: "1"}, {Platform: "linux/amd64", Version: "2"}}
		}, "twice"},
		{"version of a program", func(b *bundle.Bundle) { b.Programs = []bundle.Program{{Platform: "linux/amd64", Version: "1\n"}} }, "version"},
		{"logo empty", func(b *bundle.Bundle) { b.Bank.Logo = bundle.Logo{} }, "PNG"},
		{"logo SVG", func(b *bundle.Bundle) { b.Bank.Logo = bundle.Logo("<svg onload='alert(1)'/>") }, "PNG"},
		{"logo cut short", func(b *bundle.Bundle) { b.Brands[0].Logo = png[:len(png)-13] }, "PNG"},
		{"logo without end", func(b *bundle.Bundle) { b.Brands[0].Logo = png[:len(png)-12] }, "without its end"},
		{"logo with more", func(b *bundle.Bundle) { b.Bank.Logo = append(bytes.Clone(png), "<script>"...) }, "after its end"},
		{"logo with a text", func(b *bundle.Bundle) { b.Bank.Logo = withText(png) }, "more than its pixels"},
		{"logo damaged", func(b *bundle.Bundle) { b.Bank.Logo = damaged(png) }, "PNG image"},
		{"logo too wide", func(b *bundle.Bundle) { b.Bank.Logo = picture(t, bundle.LogoPixelsMax+1, 1) }, "pixels"},
		{"logo too high", func(b *bundle.Bundle) { b.Bank.Logo = picture(t, 1, bundle.LogoPixelsMax+1) }, "pixels"},
		{"logo too big", func(b *bundle.Bundle) { b.Bank.Logo = make(bundle.Logo, bundle.LogoSizeMax+1) }, "octets"},
		{"logo as big as may be, but no image", func(b *bundle.Bundle) { b.Bank.Logo = make(bundle.Logo, bundle.LogoSizeMax) }, "PNG"},
	} {
		b := least(w)
		tt.edit(&b)
		if s, err := bundle.Sign(b, w.Root, key, nil); err == nil || s != nil {
			t.Errorf("%s: signed", tt.name)
		} else if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		b.Version, b.Signer = 1, fingerprint(t, key)
		b.Root, b.RootKeyHash = w.Root.X509.Raw, sha256.Sum256(w.Root.X509.RawSubjectPublicKeyInfo)
		if raw, err := forge(t, b, cms.Signer{Key: key, Certificate: certificate(t, &b, key, nil)}); err == nil {
			if _, err := bundle.Open(raw); err == nil {
				t.Errorf("%s: opened", tt.name)
			}
		}
	}
}

// withText puts a tEXt chunk after the first chunk of an image.
func withText(png []byte) []byte {
	const head = 8 + 12 + 13 // signature and IHDR
	text := []byte("tEXta\x00<script")
	chunk := binary.BigEndian.AppendUint32(nil, uint32(len(text)-4))
	chunk = binary.BigEndian.AppendUint32(append(chunk, text...), crc32.ChecksumIEEE(text))
	return append(append(bytes.Clone(png[:head]), chunk...), png[head:]...)
}

// damaged changes an octet of the image's pixels.
func damaged(png []byte) []byte {
	b := bytes.Clone(png)
	b[bytes.Index(b, []byte("IDAT"))+6] ^= 1
	return b
}

// NewLogo leaves nothing of an image but its pixels.
func TestNewLogo(t *testing.T) {
	t.Parallel()
	plain := picture(t, 8, 8)
	got, err := bundle.NewLogo(withText(plain))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(got, []byte("tEXt")) {
		t.Error("the text of the image is in the logo")
	}
	img, err := png.Decode(bytes.NewReader(got))
	if err != nil || img.Bounds() != image.Rect(0, 0, 8, 8) {
		t.Errorf("logo %v, %v", img, err)
	}
	noise := image.NewNRGBA(image.Rect(0, 0, 512, 512))
	rand.Read(noise.Pix)
	var big bytes.Buffer
	if err := png.Encode(&big, noise); err != nil {
		t.Fatal(err)
	}
	for name, image := range map[string][]byte{"JPEG": []byte("\xff\xd8\xff\xe0"), "too big": big.Bytes(), "too wide": picture(t, 1025, 1), "nothing": nil} {
		if _, err := bundle.NewLogo(image); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// certificate is a self-signed certificate such as Sign makes, changed by edit.
func certificate(t testing.TB, b *bundle.Bundle, key crypto.Signer, edit func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(5), Subject: pkix.Name{CommonName: string(b.Bank.Name)},
		NotBefore: b.NotBefore, NotAfter: b.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	id := fingerprint(t, key)
	c.SubjectKeyId, c.AuthorityKeyId = id[:20], id[:20]
	if edit != nil {
		edit(c)
	}
	raw, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// forge signs without the rules of the package. What the encoding forbids it cannot make.
func forge(t testing.TB, b any, signers ...cms.Signer) ([]byte, error) {
	t.Helper()
	var certs []*x509.Certificate
	for _, s := range signers {
		certs = append(certs, s.Certificate)
	}
	ci, err := cms.Sign(set.ContentWalletBundle, b, certs, nil, signers...)
	if err != nil {
		return nil, err
	}
	return der.Marshal(ci)
}

func TestForgeriesRefused(t *testing.T) {
	t.Parallel()
	w := settest.NewWorld(t)
	key, other := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P256())
	b := sign(t, least(w), w.Root, key, nil).Bundle
	signer := func(k crypto.Signer, edit func(*x509.Certificate)) cms.Signer {
		return cms.Signer{Key: k, Certificate: certificate(t, &b, k, edit)}
	}
	// Its signature verifies under its own key, though another name stands for its issuer.
	parent := certificate(t, &b, key, func(c *x509.Certificate) { c.Subject.CommonName = "Sundby Bank" })
	raw, err := x509.CreateCertificate(rand.Reader, certificate(t, &b, key, nil), parent, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	version2 := b
	version2.Version = 2
	wrongHash := b
	wrongHash.RootKeyHash[0] ^= 1
	noRoot, _ := w.Authority(pki.CCA)
	otherRoot := b
	otherRoot.Root, otherRoot.RootKeyHash = noRoot.X509.Raw, sha256.Sum256(noRoot.X509.RawSubjectPublicKeyInfo)
	brokenRoot := b
	brokenRoot.Root = bytes.Clone(b.Root)
	brokenRoot.Root[len(brokenRoot.Root)-1] ^= 1
	for _, tt := range []struct {
		name    string
		content any
		signers []cms.Signer
		want    string
	}{
		{"as it should be", b, []cms.Signer{signer(key, nil)}, ""},
		{"as it should be, endorsed", b, []cms.Signer{signer(key, nil), signer(other, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(6) })}, ""},
		{"another key", b, []cms.Signer{signer(other, nil)}, "key that it names"},
		{"one key twice", b, []cms.Signer{signer(key, nil), signer(key, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(6) })}, "twice"},
		{"certificate of another bank", b, []cms.Signer{signer(key, func(c *x509.Certificate) { c.Subject.CommonName = "Sundby Bank" })}, "name of the bank"},
		{"certificate of a longer name", b, []cms.Signer{signer(key, func(c *x509.Certificate) { c.Subject.Country = []string{"DK"} })}, "name of the bank"},
		{"certificate by another bank", b, []cms.Signer{{Key: key, Certificate: issued}}, "name of the bank"},
		{"certificate under another algorithm", b, []cms.Signer{signer(key, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA512 })}, "algorithm"},
		{"certificate with other dates", b, []cms.Signer{signer(key, func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Hour) })}, "validity"},
		{"certificate of a CA", b, []cms.Signer{signer(key, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })}, "extensions"},
		{"certificate with another key's identifier", b, []cms.Signer{signer(key, func(c *x509.Certificate) { c.SubjectKeyId = c.SubjectKeyId[1:] })}, "extensions"},
		{"certificate for another use", b, []cms.Signer{signer(key, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign })}, "extensions"},
		{"another version", version2, []cms.Signer{signer(key, nil)}, "newer wallet"},
		{"another root's hash", wrongHash, []cms.Signer{signer(key, nil)}, "rootKeyHash"},
		{"no root", otherRoot, []cms.Signer{signer(key, nil)}, "not a root"},
		{"a root with a wrong signature", brokenRoot, []cms.Signer{signer(key, nil)}, "signature"},
		{"no bundle", der.Null{}, []cms.Signer{signer(key, nil)}, "Bundle"},
		{"more than a bundle", struct {
			B bundle.Bundle
			N int64
		}{b, 1}, []cms.Signer{signer(key, nil)}, "Bundle"},
	} {
		raw, err := forge(t, tt.content, tt.signers...)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		_, err = bundle.Open(raw)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	// A CRL, a second certificate, no certificate, another content type, no content.
	good := signer(key, nil)
	certs := []*x509.Certificate{good.Certificate}
	for name, make := range map[string]func() (cms.ContentInfo, error){
		"CRL": func() (cms.ContentInfo, error) {
			return cms.Sign(set.ContentWalletBundle, b, certs, [][]byte{{0x30, 0}}, good)
		},
		"two certificates": func() (cms.ContentInfo, error) {
			return cms.Sign(set.ContentWalletBundle, b, append(certs, w.Root.X509), nil, good)
		},
		"no certificate": func() (cms.ContentInfo, error) { return cms.Sign(set.ContentWalletBundle, b, nil, nil, good) },
		"content type":   func() (cms.ContentInfo, error) { return cms.Sign(set.ContentPI, b, certs, nil, good) },
		"no content":     func() (cms.ContentInfo, error) { return cms.SignDetached(set.ContentWalletBundle, b, certs, nil, good) },
	} {
		ci, err := make()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		raw, err := der.Marshal(ci)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := bundle.Open(raw); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	if _, err := bundle.Open(make([]byte, bundle.SizeMax+1)); err == nil || !strings.Contains(err.Error(), "octets") {
		t.Errorf("one octet too many: %v", err)
	}
	if _, err := bundle.Open(make([]byte, bundle.SizeMax)); err == nil || strings.Contains(err.Error(), "octets") {
		t.Errorf("zeros: %v, want another reason than the size", err)
	}
}

func TestSignRefuses(t *testing.T) {
	t.Parallel()
	w := settest.NewWorld(t)
	key := ecKey(t, elliptic.P256())
	if _, err := bundle.Sign(least(w), w.Root, key, key); err == nil {
		t.Error("endorsed by itself")
	}
	if _, err := bundle.Sign(least(w), w.Root, ecKey(t, elliptic.P521()), nil); err == nil {
		t.Error("signed by a key on P-521")
	}
	ca, _ := w.Authority(pki.CCA)
	if _, err := bundle.Sign(least(w), ca, key, nil); err == nil {
		t.Error("a CA's certificate for the root")
	}
}

// OpenSSL verifies both signatures and gives the content that was signed.
func TestOpenSSL(t *testing.T) {
	t.Parallel()
	w := settest.NewWorld(t)
	s := sign(t, full(t, w), w.Root, ecKey(t, elliptic.P384()), ecKey(t, elliptic.P256()))
	content, err := der.Marshal(s.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, trusted, out := filepath.Join(dir, "bundle"), filepath.Join(dir, "trusted.pem"), filepath.Join(dir, "content")
	write := func(path string, b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pemOf := func(certs ...*x509.Certificate) (b []byte) {
		for _, c := range certs {
			b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
		return b
	}
	write(file, s.Raw)
	write(trusted, pemOf(s.Cert, s.Endorser))
	args := []string{"cms", "-verify", "-binary", "-inform", "DER", "-in", file, "-CAfile", trusted, "-out", out}
	if got, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, got)
	}
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, content) {
		t.Errorf("content of %d octets, %v; want the bundle's %d", len(got), err, len(content))
	}
	write(trusted, pemOf(s.Cert))
	if got, err := exec.Command("openssl", args...).CombinedOutput(); err == nil {
		t.Errorf("verified without the endorser's certificate:\n%s", got)
	}
}

// A fingerprint is read as a letter prints it.
func TestParseFingerprint(t *testing.T) {
	t.Parallel()
	want := fingerprint(t, ecKey(t, elliptic.P256()))
	digits := want.String()
	for _, text := range []string{digits, strings.ToUpper(digits), " " + digits[:4] + " " + digits[4:] + " ", digits[:2] + ":" + digits[2:]} {
		if got, err := bundle.ParseFingerprint(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", digits[1:], digits + "00", "x" + digits[1:], digits[:62] + "\n0"} {
		if got, err := bundle.ParseFingerprint(text); err == nil {
			t.Errorf("%q is taken for %v", text, got)
		}
	}
}
