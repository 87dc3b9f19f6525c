package ceremony_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/setkit/setkit/roles/ca/ceremony"
	"github.com/setkit/setkit/roles/set/pki"
)

// A CRL alone, of a key that is there already: the issuer signs the transcript.
func TestOnlyACRL(t *testing.T) {
	t.Parallel()
	r := newRoom(t, short)
	r.hold(t)
	next := r.after(t, `ceremony: second CRL
officers: {required: 0}
steps:
  - {use: brand-ca/cert-sign, type: ec-p256, purpose: cert-sign, certificate: brand.pem}
  - {crl: brand-2.crl, issuer: brand.pem, number: 2, validity: 90d, revoked: [{serial: 0a0b, date: 2026-01-01T00:00:00Z}]}
`, "root.pem", "brand.pem")
	steps, err := ceremony.Rehearse(next.plan, os.DirFS(next.dir), now)
	if err != nil || !strings.Contains(strings.Join(steps[1].Content, "\n"), "0a0b on 2026-01-01") {
		t.Errorf("rehearsal %v, %v", steps, err)
	}
	next.hold(t)
	l, err := pki.ParseCRL(pemOf(t, next.file(t, "brand-2.crl"), "X509 CRL"))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.SignedBy(r.cert(t, "brand.pem")); err != nil || l.Number != 2 {
		t.Errorf("CRL %d: %v", l.Number, err)
	}
	if got := next.file(t, "transcript.jsonl"); !strings.Contains(string(got), `"end":{"signer":"brand-ca/cert-sign"}`) {
		t.Error("the brand CA does not sign the transcript")
	}
}

// The key that the root announced takes over, and announces the next.
func TestNextRoot(t *testing.T) {
	t.Parallel()
	r := newRoom(t, short)
	r.hold(t)
	source := `ceremony: next root
officers: {required: 0}
subjects:
  root-ca: {holder: root-ca, country: DK}
steps:
  - {use: root-ca/cert-sign-next, type: ec-p256, purpose: cert-sign}
  - {generate: root-ca/cert-sign-3, type: ec-p256, purpose: cert-sign}
  - {root: root-2.pem, subject: root-ca, key: root-ca/cert-sign-next, next-key: root-ca/cert-sign-3, validity: 20y, signing-period: 10y, succeeds: root.pem}
`
	next := r.after(t, source, "root.pem")
	next.hold(t)
	if err := pki.NextRoot(r.cert(t, "root.pem"), next.cert(t, "root-2.pem"), next.now); err != nil {
		t.Error(err)
	}
	// Any other key is refused before it signs.
	wrong := r.after(t, strings.NewReplacer("cert-sign-next", "cert-sign", "cert-sign-3", "cert-sign-4").Replace(source), "root.pem")
	wrong.tokens["root-ca"] = r.tokens["root-ca"]
	if _, err := wrong.run(t); err == nil || !strings.Contains(err.Error(), "its key is not the one that") {
		t.Errorf("another key: %v", err)
	}
}

// A request made in one ceremony is certified in another, of which it is an input.
func TestRequest(t *testing.T) {
	t.Parallel()
	r := newRoom(t, short)
	r.hold(t)
	request, err := x509.ParseCertificateRequest(pemOf(t, r.file(t, "geo.csr"), "CERTIFICATE REQUEST"))
	if err != nil || request.CheckSignature() != nil {
		t.Fatalf("request: %v", errors.Join(err, request.CheckSignature()))
	}
	openssl(t, r.out, "req", "-in", "geo.csr", "-verify", "-noout")
	source := `ceremony: geopolitical CA
brand: Meridian
officers: {required: 0}
subjects:
  geo-ca: {holder: geopolitical-ca, country: DK, unit: Meridian Nordic}
steps:
  - {use: brand-ca/cert-sign, type: ec-p256, purpose: cert-sign, certificate: brand.pem}
  - {certificate: geo.pem, subject: geo-ca, csr: geo.csr, purpose: cert-sign, issuer: brand.pem, validity: 5y, signing-period: 2y}
`
	next := r.after(t, source, "root.pem", "brand.pem", "geo.csr")
	next.hold(t)
	if c := next.cert(t, "geo.pem"); c.Type != pki.GCA || !bytes.Equal(request.RawSubjectPublicKeyInfo, c.X509.RawSubjectPublicKeyInfo) {
		t.Errorf("certified %v", c)
	}
	// The name in the request is the one that was reviewed.
	other := r.after(t, strings.Replace(source, "Meridian Nordic", "Meridian Baltic", 1), "root.pem", "brand.pem", "geo.csr")
	if _, err := other.run(t); err == nil || !strings.Contains(err.Error(), "geo.csr is for") {
		t.Errorf("another name: %v", err)
	}
}

// A CA elsewhere is certified by a second root.
func TestCrossCertificate(t *testing.T) {
	t.Parallel()
	elsewhere := newRoom(t, short)
	elsewhere.hold(t)
	r := newRoom(t, short)
	r.hold(t)
	dir := t.TempDir()
	inputs := r.give(t, dir, "root.pem")
	if err := os.Rename(dir+"/root.pem", dir+"/own.pem"); err != nil {
		t.Fatal(err)
	}
	inputs = strings.Replace(inputs, "root.pem", "own.pem", 1) + strings.TrimPrefix(elsewhere.give(t, dir, "brand.pem"), "inputs:\n")
	source := `ceremony: cross
officers: {required: 0}
steps:
  - {use: root-ca/cert-sign, type: ec-p256, purpose: cert-sign, certificate: own.pem}
  - {cross: brand-cross.pem, certificate: brand.pem, issuer: own.pem, validity: 3y, signing-period: 1y}
` + inputs
	next := newRoom(t, source)
	next.dir, next.tokens["root-ca"], next.now = dir, r.tokens["root-ca"], now.AddDate(0, 1, 0)
	next.hold(t)
	made, of := next.cert(t, "brand-cross.pem"), elsewhere.cert(t, "brand.pem")
	if made.Subject != of.Subject || made.SignedBy(r.cert(t, "root.pem")) != nil || string(made.X509.SubjectKeyId) != string(of.X509.SubjectKeyId) {
		t.Errorf("%v is not a cross certificate of %v", made, of)
	}
	if got, want := made.PrivateKeyUsage.NotBefore, of.PrivateKeyUsage.NotBefore; !got.Equal(want) {
		t.Errorf("what the CA has signed since %v is good only from %v on", want, got)
	}
}

// Inputs are those that were reviewed, and of use.
func TestInputs(t *testing.T) {
	t.Parallel()
	r := newRoom(t, short)
	r.hold(t)
	source := `ceremony: second CRL
officers: {required: 0}
steps:
  - {use: brand-ca/cert-sign, type: ec-p256, purpose: cert-sign, certificate: brand.pem}
  - {crl: brand-2.crl, issuer: brand.pem, number: 2, validity: 90d}
`
	for want, test := range map[string]struct {
		edit   []string
		inputs []string
		spoil  func(*room)
	}{
		"input brand.pem: its SHA-256 is":         {nil, []string{"root.pem", "brand.pem"}, func(n *room) { os.WriteFile(n.dir+"/brand.pem", []byte("x"), 0o600) }},
		"no such file":                            {nil, []string{"root.pem", "brand.pem"}, func(n *room) { os.Remove(n.dir + "/brand.pem") }},
		"no root at hand":                         {nil, []string{"brand.pem"}, nil},
		"no step uses the input geo.csr":          {nil, []string{"root.pem", "brand.pem", "geo.csr"}, nil},
		"geo.csr is not a certificate":            {[]string{"brand.pem", "geo.csr"}, []string{"root.pem", "geo.csr"}, nil},
		`has 0 keys "cert-sign-2", want one`:      {[]string{"ca/cert-sign", "ca/cert-sign-2"}, []string{"root.pem", "brand.pem"}, nil},
		"brand.pem certifies another key":         {[]string{"brand-ca/cert-sign", "root-ca/cert-sign"}, []string{"root.pem", "brand.pem"}, nil},
		"certifies a key of ec-p256, not ec-p384": {[]string{"ec-p256", "ec-p384"}, []string{"root.pem", "brand.pem"}, nil},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			text := source
			if test.edit != nil {
				text = strings.ReplaceAll(text, test.edit[0], test.edit[1])
			}
			next := r.after(t, text, test.inputs...)
			if test.spoil != nil {
				test.spoil(next)
			}
			if _, err := next.run(t); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(next.out); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the ceremony began: %v", err)
			}
		})
	}
}

// An input is what it looks like: nothing stands beside it that a reader may take for what it holds.
func TestInputsAreBare(t *testing.T) {
	t.Parallel()
	r := newRoom(t, short)
	r.hold(t)
	good := r.file(t, "brand.pem")
	const source = `ceremony: second CRL
officers: {required: 0}
steps:
  - {use: brand-ca/cert-sign, type: ec-p256, purpose: cert-sign, certificate: brand.pem}
  - {crl: brand-2.crl, issuer: brand.pem, number: 2, validity: 90d}
`
	for name, data := range map[string]string{
		"text before":    "Subject: C=DK, O=Other\n" + string(good),
		"text after":     string(good) + "Subject: C=DK, O=Other\n",
		"broken, before": "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n" + string(good),
		"another, after": string(good) + string(r.file(t, "root.pem")),
		"headers":        strings.Replace(string(good), "-----\n", "-----\nSubject: other\n\n", 1),
	} {
		r.put(t, "brand.pem", []byte(data))
		next := r.after(t, source, "root.pem", "brand.pem")
		if _, err := next.run(t); err == nil || !strings.Contains(err.Error(), "input brand.pem: not one PEM block of type CERTIFICATE") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A ceremony that only makes keys has its transcript signed by the first that signs certificates.
func TestOnlyKeys(t *testing.T) {
	t.Parallel()
	r := newRoom(t, `ceremony: keys
officers: {required: 0}
steps:
  - {generate: vault/mac, type: hmac-sha256, purpose: mac}
  - {generate: vault/cert-sign, type: ec-p256, purpose: cert-sign}
`)
	if got := r.hold(t); len(got.Certificates) != 0 || len(got.Files) != 4 {
		t.Errorf("made %+v", got)
	}
	if _, err := ceremony.Parse([]byte("ceremony: keys\nofficers: {required: 0}\nsteps: [{generate: vault/mac, type: hmac-sha256, purpose: mac}]\n")); err == nil || !strings.Contains(err.Error(), "can sign its transcript") {
		t.Errorf("nothing that signs: %v", err)
	}
}

// One CA may be for cardholders and merchants, and a root may be RSA.
func TestCombinedCAUnderRSA(t *testing.T) {
	t.Parallel()
	source := strings.NewReplacer("cert-sign, type: ec-p256, purpose: cert-sign}\n  - {generate: root-ca/cert-sign-next", "cert-sign, type: rsa-2048, purpose: cert-sign}\n  - {generate: root-ca/cert-sign-next",
		"holder: geopolitical-ca", "holder: cardholder-ca+merchant-ca").Replace(short)
	source += "  - {certificate: ca.pem, subject: geo-ca, csr: geo.csr, purpose: cert-sign, issuer: brand.pem, validity: 1y, signing-period: 30d}\n"
	r := newRoom(t, source)
	r.hold(t)
	if c := r.cert(t, "ca.pem"); c.Type != pki.CCA|pki.MCA || c.X509.PublicKeyAlgorithm != x509.ECDSA {
		t.Errorf("made %v", c)
	}
	if root := r.cert(t, "root.pem"); root.X509.SignatureAlgorithm != x509.SHA256WithRSA {
		t.Errorf("the root signs with %v", root.X509.SignatureAlgorithm)
	}
}
