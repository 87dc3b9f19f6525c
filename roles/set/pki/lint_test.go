package pki_test

import (
	"crypto/rand"
	stdx509 "crypto/x509"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"

	"github.com/setkit/setkit/roles/set/pki"
)

// otherRules are sources of rules that SET certificates are not made by, and why. Every other source of the
// linter is kept: RFC 5280 with those that it rests on (3279, 5480, 5891, 6960, 6962, 8813) and the rules that
// apply to any certificate.
var otherRules = map[lint.LintSource]string{
	lint.CABFBaselineRequirements:      "of web servers: want a host name in subjectAltName, serverAuth, an OCSP responder and no unit in the name, where SET names the bank in the unit and looks revocation up in lists that come with the message",
	lint.CABFEVGuidelines:              "of web servers, as above",
	lint.CABFCSBaselineRequirements:    "of code signing: want its extended key usage",
	lint.CABFSMIMEBaselineRequirements: "of mail: want a mailbox in the name",
	lint.MozillaRootStorePolicy:        "of a browser's roots: SET's root is known by its hash",
	lint.AppleRootStorePolicy:          "of a browser's roots; want proof of logging in public, which would tell who has a card",
	lint.ChromeRootStorePolicy:         "of a browser's roots, as above",
	lint.EtsiEsi:                       "of qualified certificates of European law: SET has none",
}

// lintExceptions are the lints of the sources kept that SET certificates or lists fail, and why that is right.
// There are none: what SET adds stands in extensions of its own.
var lintExceptions = map[string]string{}

// findings runs the lints that apply to a certificate or list. It wants at least some of them to apply.
func findings(t *testing.T, results *zlint.ResultSet, least int) (found []string) {
	t.Helper()
	applied := 0
	for name, r := range results.Results {
		if r.Status >= lint.Pass {
			applied++
		}
		if r.Status > lint.Pass {
			found = append(found, name)
		}
	}
	if applied < least {
		t.Errorf("%d lints apply, want %d at least: the linter does not see what this is", applied, least)
	}
	slices.Sort(found)
	return found
}

// lints are those of the sources kept.
var lints = sync.OnceValues(func() (lint.Registry, error) {
	return lint.GlobalRegistry().Filter(lint.FilterOptions{ExcludeSources: slices.Collect(maps.Keys(otherRules))})
})

func lintCertificate(t *testing.T, raw []byte) []string {
	t.Helper()
	registry, failed := lints()
	c, err := x509.ParseCertificate(raw)
	if err := errors.Join(failed, err); err != nil {
		t.Fatal(err)
	}
	return findings(t, zlint.LintCertificateEx(c, registry), 50)
}

func lintCRL(t *testing.T, raw []byte) []string {
	t.Helper()
	registry, failed := lints()
	l, err := x509.ParseRevocationList(raw)
	if err := errors.Join(failed, err); err != nil {
		t.Fatal(err)
	}
	return findings(t, zlint.LintRevocationListEx(l, registry), 10)
}

// Certificates of every kind and the lists of every CA that has one pass the linter.
func TestLint(t *testing.T) {
	t.Parallel()
	failed := make(map[string]bool)
	check := func(what string, found []string) {
		t.Helper()
		for _, name := range found {
			failed[name] = true
			if lintExceptions[name] == "" {
				t.Errorf("%s: %s", what, name)
			}
		}
	}
	for algorithm, key := range map[string]newKey{"P-256": p256, "P-384": p384, "RSA": rsa2048} {
		w := newWorld(t, key, true)
		for name, p := range w.all {
			check(algorithm+" "+name, lintCertificate(t, p.cert.X509.Raw))
		}
		for name, c := range map[string]struct{ ca, revoked party }{
			"root": {w.root, w.bca}, "brand": {w.bca, w.gca}, "geopolitical": {w.gca, w.pca}, "payment": {w.pca, w.all["pgwy exchange"]},
		} {
			for what, revoked := range map[string][]pki.Revocation{
				"nothing revoked": nil, "one revoked": {{Serial: c.revoked.cert.X509.SerialNumber, At: now.Add(-day)}},
			} {
				l, err := pki.IssueCRL(rand.Reader, pki.CRLTemplate{Number: 7, ThisUpdate: now, NextUpdate: now.Add(30 * day), Revoked: revoked}, c.ca.cert, c.ca.key)
				if err != nil {
					t.Fatal(err)
				}
				check(algorithm+" list of the "+name+" CA, "+what, lintCRL(t, l.X509.Raw))
			}
		}
	}
	for name := range lintExceptions {
		if !failed[name] {
			t.Errorf("nothing fails %s: it need not be an exception", name)
		}
	}
}

// The linter sees what is wrong with a certificate.
func TestLintFinds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	bad := forge(t, w.all["card"].cert, w.cca, func(x *stdx509.Certificate) { setExtension(x, oidAuthorityKeyID, false, nil) })
	if got := lintCertificate(t, bad); !slices.Contains(got, "e_ext_authority_key_identifier_no_key_identifier") {
		t.Errorf("found %v in a certificate that does not name its issuer's key", got)
	}
}
