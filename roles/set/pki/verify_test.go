package pki_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/set/pki"
)

func verifier(t testing.TB, w *world, o pki.Options) *pki.Verifier {
	t.Helper()
	v, err := pki.NewVerifier([]*pki.Certificate{w.root.cert}, o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// refused checks that err is a VerifyError of the reason, about the certificate, that says want.
func refused(t testing.TB, err error, reason pki.Reason, about *pki.Certificate, want string) {
	t.Helper()
	var ve *pki.VerifyError
	if !errors.As(err, &ve) {
		t.Errorf("error %v, want a VerifyError", err)
		return
	}
	if ve.Reason != reason || !strings.Contains(ve.Error(), want) {
		t.Errorf("error %q of reason %v, want %q of reason %v", ve, ve.Reason, want, reason)
	}
	if ve.Thumb.Thumbprint != about.Thumbprint() {
		t.Errorf("error %q names another certificate than %v", ve, about)
	}
}

// TestVerifyRefuses breaks one rule of a path at a time (SET §6.7).
func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	w, other := newWorld(t, p256, false), newWorld(t, p256, false)
	v := verifier(t, w, pki.Options{})
	card, mer := w.all["card"].cert, w.all["mer signature"].cert

	tampered := bytes.Clone(card.X509.Raw)
	tampered[len(tampered)-1] ^= 1
	badSignature, err := pki.ParseCertificate(tampered)
	if err != nil {
		t.Fatal(err)
	}
	shortBCA := forged(t, w.bca.cert, w.root, func(x *x509.Certificate) {
		setExtension(x, oidBasic, true, []byte{0x30, 6, 1, 1, 255, 2, 1, 0})
	})
	cardUnderMCA := forged(t, card, w.mca, nil)
	cardUnderMessageKey := forged(t, card, w.all["cca signature"], nil)
	bcaUnderBCA := forged(t, w.bca.cert, w.bca, func(x *x509.Certificate) { x.PublicKey = p256(t).Public() })
	otherBrand := forged(t, mer, w.mca, func(x *x509.Certificate) {
		x.RawSubject = rdns(t, attr{6, "DK"}, attr{10, "Other"}, attr{11, "Bank"}, attr{3, "Shop"})
	})
	late := forged(t, card, w.cca, func(x *x509.Certificate) { x.NotBefore, x.NotAfter = now.Add(4*year), now.Add(5*year) })
	longLived := forged(t, card, w.cca, func(x *x509.Certificate) { x.NotAfter = now.Add(8 * year) })
	wrongKeyID := forged(t, card, w.cca, func(x *x509.Certificate) {
		setExtension(x, oidAuthorityKeyID, false, []byte{0x30, 4, 0x80, 2, 1, 2})
	})
	wrongName := forged(t, card, party{forgedName(t, w), w.cca.key}, nil)
	onlyCRLs := forged(t, w.bca.cert, w.root, func(x *x509.Certificate) { setExtension(x, oidKeyUsage, true, []byte{3, 2, 1, 2}) })
	rest := w.intermediates()

	for _, c := range []struct {
		what   string
		leaf   *pki.Certificate
		inter  []*pki.Certificate
		at     time.Time
		want   []pki.Type
		reason pki.Reason
		about  *pki.Certificate
		text   string
	}{
		{"signature", badSignature, rest, now, nil, pki.Invalid, badSignature, "signature"},
		{"leaf expired", card, rest, now.Add(year + time.Second), nil, pki.Expired, card, "expired"},
		{"CA expired", longLived, rest, now.Add(7 * year), nil, pki.Expired, w.cca.cert, "expired"},
		{"leaf not yet valid", card, rest, now.Add(-2 * day), nil, pki.Invalid, card, "not valid before"},
		{"everything not yet valid", card, rest, now.Add(-40 * day), nil, pki.Invalid, card, "not valid before"},
		{"type", card, rest, now, []pki.Type{pki.Mer, pki.Pgwy}, pki.Invalid, card, "certificateType"},
		{"no intermediates", card, nil, now, nil, pki.Missing, card, "issuer is not at hand"},
		{"no brand CA", card, []*pki.Certificate{w.cca.cert}, now, nil, pki.Missing, w.cca.cert, "issuer is not at hand"},
		{"another root", other.all["card"].cert, other.intermediates(), now, nil, pki.Missing, other.bca.cert, "issuer is not at hand"},
		{"another root, sent along", other.all["card"].cert, append(other.intermediates(), other.root.cert), now, nil, pki.Invalid, other.root.cert, "not an installed root"},
		{"key identifier", wrongKeyID, rest, now, nil, pki.Missing, wrongKeyID, "issuer is not at hand"},
		{"issuer name", wrongName, rest, now, nil, pki.Missing, wrongName, "issuer is not at hand"},
		{"card under merchant CA", cardUnderMCA, rest, now, nil, pki.Invalid, cardUnderMCA, "certificateType card under mca"},
		{"card under a CA's message key", cardUnderMessageKey, append(slices.Clone(rest), w.all["cca signature"].cert), now, nil, pki.Invalid, cardUnderMessageKey, "may not sign certificates"},
		{"brand CA under brand CA", bcaUnderBCA, rest, now, nil, pki.Invalid, bcaUnderBCA, "certificateType bca under bca"},
		{"brand", otherBrand, rest, now, nil, pki.Invalid, otherBrand, `brand "Other" under brand "Acme"`},
		{"signed after the issuer's period", late, rest, now.Add(9 * year / 2), nil, pki.Invalid, late, "private key usage period"},
		{"path length", card, []*pki.Certificate{w.cca.cert, shortBCA}, now, nil, pki.Invalid, shortBCA, "at most 0 are allowed"},
		{"issuer for CRLs only", card, []*pki.Certificate{w.cca.cert, onlyCRLs}, now, nil, pki.Invalid, w.cca.cert, "may not sign certificates"},
		{"too many candidates", card, slices.Repeat(rest, 20), now, nil, pki.Invalid, card, "at most 64 are allowed"},
	} {
		t.Run(c.what, func(t *testing.T) {
			chain, err := v.Verify(c.leaf, c.inter, c.at, c.want...)
			if err == nil {
				t.Fatalf("accepted by %v", chain)
			}
			refused(t, err, c.reason, c.about, c.text)
		})
	}
}

// forgedName is the cardholder CA's certificate under another name.
func forgedName(t testing.TB, w *world) *pki.Certificate {
	t.Helper()
	return forged(t, w.cca.cert, w.bca, func(x *x509.Certificate) {
		x.RawSubject = rdns(t, attr{6, "DK"}, attr{10, "Acme"}, attr{11, "Another"})
	})
}

// TestVerifyTriesEveryCandidate has two certificates for one CA key, the old one expired.
func TestVerifyTriesEveryCandidate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	old := forged(t, w.cca.cert, w.bca, func(x *x509.Certificate) { x.NotAfter = now.Add(-time.Hour) })
	card := w.all["card"].cert
	v := verifier(t, w, pki.Options{})
	for _, inter := range [][]*pki.Certificate{{old, w.cca.cert, w.bca.cert}, {w.bca.cert, w.cca.cert, old, w.cca.cert}} {
		chain, err := v.Verify(card, inter, now, pki.Card)
		if err != nil || len(chain) != 4 || chain[1] != w.cca.cert {
			t.Errorf("chain %v, %v, want the one over the valid certificate", chain, err)
		}
	}
	_, err := v.Verify(card, []*pki.Certificate{old, w.bca.cert}, now)
	refused(t, err, pki.Expired, old, "expired")
}

func TestVerifyBrandsAndTypes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	v := verifier(t, w, pki.Options{})
	gold := issue(t, caTemplate(pki.MCA|pki.PCA, pki.Name{Country: "DK", Brand: "ACME:Gold", Unit: "Acquirer"}, 5*year), p256(t), w.bca)
	inter := []*pki.Certificate{w.bca.cert, gold.cert}
	for _, c := range []struct {
		brand string
		typ   pki.Type
		ok    bool
	}{
		{"Acme:Gold", pki.Mer, true},
		{"acme:Gold", pki.Pgwy, true},
		{"Acme:gold", pki.Mer, false},
		{"Acme", pki.Mer, false},
		{"Acme:Blue", pki.Pgwy, false},
		{"Acme:Gold", pki.Card, false},
	} {
		tmpl := leafTemplate(c.typ, pki.Signature, pki.Name{Country: "DK", Brand: c.brand, Unit: "Bank", CommonName: cardID(t)})
		tmpl.PublicKey = p256(t).Public()
		got, err := pki.Issue(rand.Reader, tmpl, gold.cert, gold.key)
		if c.ok != (err == nil) {
			t.Errorf("%v of brand %q: %v, %v", c.typ, c.brand, got, err)
		}
		if err != nil {
			continue
		}
		if _, err := v.Verify(got, inter, now, pki.Card, c.typ); err != nil {
			t.Errorf("%v of brand %q: %v", c.typ, c.brand, err)
		}
	}
}

func TestNewVerifierRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	badRoot := forged(t, w.root.cert, party{w.root.cert, w.root.key}, nil).X509.Raw
	badRoot = bytes.Clone(badRoot)
	badRoot[len(badRoot)-1] ^= 1
	tampered, err := pki.ParseCertificate(badRoot)
	if err != nil {
		t.Fatal(err)
	}
	for what, roots := range map[string][]*pki.Certificate{
		"none": nil, "brand CA": {w.bca.cert}, "tampered": {w.root.cert, tampered},
	} {
		if v, err := pki.NewVerifier(roots, pki.Options{}); err == nil {
			t.Errorf("%s: gave %v, want an error", what, v)
		}
	}
}

func TestNextRoot(t *testing.T) {
	t.Parallel()
	name := pki.Name{Country: "DK", Brand: pki.RootName}
	root := func(key, next party, from, to time.Time) *pki.Certificate {
		return issue(t, pki.Template{
			Type: pki.RCA, Use: pki.Authority, Subject: name, NotBefore: from, NotAfter: to, NextRootKey: next.key.Public(),
		}, key.key, party{}).cert
	}
	k1, k2, k3 := party{key: p256(t)}, party{key: rsa2048(t)}, party{key: p384(t)}
	r1 := root(k1, k2, now.Add(-year), now.Add(year))
	r2 := root(k2, k3, now.Add(-day), now.Add(2*year))
	early := root(k2, k3, now.Add(day), now.Add(2*year))
	r3 := root(k3, k1, now.Add(-day), now.Add(2*year))
	if err := pki.NextRoot(r1, r2, now); err != nil {
		t.Errorf("second root: %v", err)
	}
	if err := pki.NextRoot(r2, r3, now); err != nil {
		t.Errorf("third root: %v", err)
	}
	for what, err := range map[string]error{
		"not announced":    pki.NextRoot(r1, r3, now),
		"backwards":        pki.NextRoot(r2, r1, now),
		"not yet valid":    pki.NextRoot(r1, early, now),
		"trusted expired":  pki.NextRoot(r1, r2, now.Add(year+day)),
		"itself announced": pki.NextRoot(r1, r1, now),
	} {
		if err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}

// A Verifier learns the announced root from certificates that anybody sent, and its successor through it; other
// verifiers know of it when they adopt what it knows.
func TestSucceed(t *testing.T) {
	t.Parallel()
	keys := []crypto.Signer{p256(t), p256(t), p256(t), p256(t)}
	root := func(i int, next crypto.Signer) *pki.Certificate {
		c, err := pki.Issue(rand.Reader, pki.Template{
			Type: pki.RCA, Use: pki.Authority, Subject: pki.Name{Country: "DK", Brand: pki.RootName}, PublicKey: keys[i].Public(),
			NotBefore: now, NotAfter: now.Add(year), NextRootKey: next.Public(),
		}, nil, keys[i])
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	r1, r2, r3, stranger := root(0, keys[1]), root(1, keys[2]), root(2, p384(t)), root(3, p384(t))
	v, err := pki.NewVerifier([]*pki.Certificate{r1}, pki.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := v.Succeed([]*pki.Certificate{stranger, r1, r3}, now); got != v {
		t.Errorf("roots that nobody has announced are trusted: %v", got.Roots())
	}
	next := v.Succeed([]*pki.Certificate{r3, stranger, r2}, now)
	if roots := next.Roots(); len(roots) != 3 || !roots[1].X509.Equal(r2.X509) || !roots[2].X509.Equal(r3.X509) {
		t.Errorf("trusted are %v", roots)
	}
	if len(v.Roots()) != 1 {
		t.Error("Succeed has changed the verifier that it was asked of")
	}
	if got := v.Succeed([]*pki.Certificate{r2}, now.Add(year+day)); len(got.Roots()) != 1 {
		t.Error("a root takes over from one that has expired")
	}
	v.Adopt(next)
	if len(v.Roots()) != len(next.Roots()) {
		t.Error("what was adopted is not known")
	}
}
