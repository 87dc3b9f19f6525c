package pki_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/set/pki"
)

var (
	oidSubjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidPrivateKeyPeriod = asn1.ObjectIdentifier{2, 5, 29, 16}
	oidBasic            = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidPolicies         = asn1.ObjectIdentifier{2, 5, 29, 32}
	oidAuthorityKeyID   = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidHashedRootKey    = asn1.ObjectIdentifier{2, 23, 42, 7, 0}
	oidCertificateType  = asn1.ObjectIdentifier{2, 23, 42, 7, 1}
	oidMerchantData     = asn1.ObjectIdentifier{2, 23, 42, 7, 2}
	oidCardCertRequired = asn1.ObjectIdentifier{2, 23, 42, 7, 3}
	oidTunneling        = asn1.ObjectIdentifier{2, 23, 42, 7, 4}
	oidSETExtensions    = asn1.ObjectIdentifier{2, 23, 42, 7, 5}
)

// TestParseRefuses breaks one rule of the profile at a time, in certificates that are otherwise as issued.
func TestParseRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	set := func(id asn1.ObjectIdentifier, critical bool, value ...byte) func(*x509.Certificate) {
		return func(x *x509.Certificate) { setExtension(x, id, critical, value) }
	}
	drop := func(id asn1.ObjectIdentifier) func(*x509.Certificate) {
		return func(x *x509.Certificate) { setExtension(x, id, false, nil) }
	}
	pub := func(k crypto.PublicKey) func(*x509.Certificate) {
		return func(x *x509.Certificate) { x.PublicKey = k }
	}
	name := func(raw []byte) func(*x509.Certificate) {
		return func(x *x509.Certificate) { x.RawSubject = raw }
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 1023, 1), E: 65537}
	evenExponent := &rsa.PublicKey{N: exchange(t).Public().(*rsa.PublicKey).N, E: 65536}
	for _, c := range []struct {
		what   string
		who    string
		change func(*x509.Certificate)
		want   string // part of the error
	}{
		{"unknown critical extension", "card", set(asn1.ObjectIdentifier{2, 23, 42, 9, 99, 7}, true, 5, 0), "unknown critical extension 2.23.42.9.99.7"},
		{"critical nameConstraints", "bca", set(asn1.ObjectIdentifier{2, 5, 29, 30}, true, 0x30, 0x08, 0xa0, 0x06, 0x30, 0x04, 0x82, 0x02, 'd', 'k'), "unknown critical extension 2.5.29.30"},
		{"no subjectKeyIdentifier", "card", drop(oidSubjectKeyID), "no extension subjectKeyIdentifier"},
		{"no authorityKeyIdentifier", "card", drop(oidAuthorityKeyID), "authorityKeyIdentifier"},
		{"no keyUsage", "card", drop(oidKeyUsage), "no extension keyUsage"},
		{"no privateKeyUsagePeriod", "card", drop(oidPrivateKeyPeriod), "no extension privateKeyUsagePeriod"},
		{"no basicConstraints", "card", drop(oidBasic), "no extension basicConstraints"},
		{"no policy", "card", drop(oidPolicies), "no extension certificatePolicies"},
		{"no certificateType", "card", drop(oidCertificateType), "no extension certificateType"},
		{"no hashedRootKey", "root", drop(oidHashedRootKey), "no extension hashedRootKey"},
		{"no merchantData", "mer exchange", drop(oidMerchantData), "no extension merchantData"},
		{"no cardCertRequired", "pgwy exchange", drop(oidCardCertRequired), "no extension cardCertRequired"},
		{"no tunneling of a gateway", "pgwy exchange", drop(oidTunneling), "no extension tunneling"},
		{"no tunneling of a CA", "cca exchange", drop(oidTunneling), "no extension tunneling"},
		{"no setExtensions", "pgwy exchange", drop(oidSETExtensions), "no extension setExtensions"},
		{"cardCertRequired of a card", "card", set(oidCardCertRequired, false, 1, 1, 255), "cardCertRequired does not belong"},
		{"period of an exchange key", "mer exchange", set(oidPrivateKeyPeriod, false, mustDER(t, pki.Period{NotBefore: now, NotAfter: now})...), "privateKeyUsagePeriod does not belong"},
		{"certificateType not critical", "card", set(oidCertificateType, false, 3, 2, 7, 0x80), "certificateType has critical false"},
		{"tunneling critical", "cca exchange", set(oidTunneling, true, 0x30, 2, 0x30, 0), "tunneling has critical true"},
		{"another policy", "card", set(oidPolicies, true, 0x30, 6, 0x30, 4, 6, 2, 0x67, 0x2a), "policy 2.23.42.5.0 does not come first"},
		{"trailing zero bits", "card", set(oidCertificateType, true, 3, 2, 6, 0x80), "certificateType"},
		{"no type", "card", set(oidCertificateType, true, 3, 1, 0), "certificateType unknown"},
		{"two end entities", "card", set(oidCertificateType, true, 3, 2, 6, 0xc0), "certificateType card|mer"},
		{"acquirer", "card", set(oidCertificateType, true, 3, 3, 6, 0, 0x40), "certificateType acq"},
		{"bit without a name", "card", set(oidCertificateType, true, 3, 3, 5, 0, 0x20), "certificateType unknown"},
		{"card key for exchange", "card", set(oidKeyUsage, true, 3, 2, 4, 0x30), "certificateType card has no key-exchange key"},
		{"signs messages and certificates", "cca", set(oidKeyUsage, true, 3, 2, 2, 0x84), "keyUsage"},
		{"cardholder CA signs CRLs", "cca", set(oidKeyUsage, true, 3, 2, 1, 0x06), "keyUsage"},
		{"brand CA signs messages", "bca", set(oidKeyUsage, true, 3, 2, 7, 0x80), "certificateType bca has no signature key"},
		{"non-repudiation", "card", set(oidKeyUsage, true, 3, 2, 6, 0xc0), "keyUsage"},
		{"leaf that is a CA", "card", set(oidBasic, true, 0x30, 3, 1, 1, 255), "cA true"},
		{"CA that is none", "cca", set(oidBasic, true, 0x30, 0), "cA false"},
		{"no path length", "cca", set(oidBasic, true, 0x30, 3, 1, 1, 255), "pathLenConstraint"},
		{"path length too large", "cca", set(oidBasic, true, 0x30, 6, 1, 1, 255, 2, 1, 1), "pathLenConstraint"},
		{"path length negative", "bca", set(oidBasic, true, 0x30, 6, 1, 1, 255, 2, 1, 255), "invalid basic constraints"},
		{"encoded default", "card", set(oidBasic, true, 0x30, 3, 1, 1, 0), "basicConstraints"},
		{"octets after a value", "card", set(oidBasic, true, 0x30, 0, 5, 0), "2 octets after the end"},
		{"cardCertRequired not BOOLEAN", "pgwy exchange", set(oidCardCertRequired, false, 1, 1, 1), "cardCertRequired"},
		{"merchantData truncated", "mer signature", set(oidMerchantData, false, 0x30, 3, 0x1a, 1, 'M'), "merchantData"},
		{"hashedRootKey without digest", "root", set(oidHashedRootKey, true, 0x30, 0), "hashedRootKey"},
		{"serial number zero", "card", func(x *x509.Certificate) { x.SerialNumber = new(big.Int) }, "serial number"},
		{"serial number too long", "card", func(x *x509.Certificate) { x.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 160) }, "serial number"},
		{"dates swapped", "card", func(x *x509.Certificate) { x.NotBefore, x.NotAfter = x.NotAfter, x.NotBefore }, "validity ends before it starts"},
		{"RSA-1024", "mer exchange", pub(weak), "RSA key of 1024 bits is refused"},
		{"even exponent", "mer exchange", pub(evenExponent), "malformed RSA key"},
		{"P-224", "card", pub(ecKey(t, elliptic.P224()).Public()), "curve P-224 is refused"},
		{"P-521", "card", pub(ecKey(t, elliptic.P521()).Public()), "curve P-521 is refused"},
		{"Ed25519", "card", pub(ed), "ed25519.PublicKey is refused"},
		{"exchange with ECDSA", "mer exchange", pub(p256(t).Public()), "ECDSA key in a key-exchange certificate is refused"},
		{"no country", "card", name(rdns(t, attr{10, "Acme"}, attr{11, "Bank"}, attr{3, cardID(t)})), "country"},
		{"country in lower case", "card", name(rdns(t, attr{6, "dk"}, attr{10, "Acme"}, attr{11, "Bank"}, attr{3, cardID(t)})), "country"},
		{"names out of order", "card", name(rdns(t, attr{10, "Acme"}, attr{6, "DK"}, attr{11, "Bank"}, attr{3, cardID(t)})), "out of order"},
		{"two common names", "card", name(rdns(t, attr{6, "DK"}, attr{10, "Acme"}, attr{11, "Bank"}, attr{3, cardID(t)}, attr{3, "x"})), "repeated"},
		{"no brand", "card", name(rdns(t, attr{6, "DK"}, attr{11, "Bank"}, attr{3, cardID(t)})), "without brand"},
		{"no institution", "card", name(rdns(t, attr{6, "DK"}, attr{10, "Acme"}, attr{3, cardID(t)})), "without unit"},
		{"no common name", "mer signature", name(rdns(t, attr{6, "DK"}, attr{10, "Acme"}, attr{11, "Bank"})), "without common name"},
		{"card name of a merchant", "mer signature", name(rdns(t, attr{6, "DK"}, attr{10, "Acme"}, attr{11, "Bank"}, attr{11, "Gold"}, attr{3, "Shop"})), "with a card name"},
		{"unknown attribute", "card", name(rdns(t, attr{6, "DK"}, attr{7, "Aarhus"}, attr{10, "Acme"}, attr{11, "Bank"}, attr{3, cardID(t)})), "2.5.4.7"},
		{"common name not a cardholder ID", "card", name(rdns(t, attr{6, "DK"}, attr{10, "Acme"}, attr{11, "Bank"}, attr{3, "4111111111111111"})), "unique cardholder ID"},
		{"brand too long", "mer signature", name(rdns(t, attr{6, "DK"}, attr{10, strings.Repeat("A", 41)}, attr{11, "Bank"}, attr{3, "Shop"})), "41 characters"},
		{"text that turns around", "mer signature", name(rdns(t, attr{6, "DK"}, attr{10, "Acme"}, attr{11, "Bank"}, attr{3, "Shop\u202ekcuf"})), "cannot be displayed"},
		{"brand of the root", "bca", name(rdns(t, attr{6, "DK"}, attr{10, pki.RootName}, attr{11, "CA"})), pki.RootName},
		{"BMPString", "mer signature", name(rdnsTagged(t, asn1.TagBMPString, "DK", "Acme", "Bank", "Shop")), "want PrintableString or UTF8String"},
		{"T61String", "mer signature", name(rdnsTagged(t, asn1.TagT61String, "DK", "Acme", "Bank", "Shop")), "want PrintableString or UTF8String"},
		{"too large", "mer signature", set(asn1.ObjectIdentifier{2, 23, 42, 9, 99, 8}, false, make([]byte, pki.CertificateSizeMax)...), "at most 16384 are allowed"},
	} {
		t.Run(c.what, func(t *testing.T) {
			p := w.all[c.who]
			issuer := w.root
			raw := forge(t, p.cert, issuer, c.change)
			_, err := pki.ParseCertificate(raw)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if _, err := pki.ParseCertificate(forge(t, p.cert, issuer, nil)); err != nil {
				t.Errorf("without the change: %v", err)
			}
		})
	}
}

func TestParseRefusesSignatureAlgorithms(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	signer := party{w.bca.cert, exchange(t)}
	for _, alg := range []x509.SignatureAlgorithm{x509.SHA256WithRSAPSS, x509.SHA512WithRSA} {
		x := &x509.Certificate{
			SerialNumber: big.NewInt(1), RawSubject: w.cca.cert.X509.RawSubject, PublicKey: w.cca.cert.X509.PublicKey, SignatureAlgorithm: alg,
			NotBefore: now, NotAfter: now.Add(day), ExtraExtensions: w.cca.cert.X509.Extensions,
		}
		parent := *signer.cert.X509
		parent.PublicKey = signer.key.Public()
		raw, err := x509.CreateCertificate(rand.Reader, x, &parent, x.PublicKey, signer.key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pki.ParseCertificate(raw); err == nil || !strings.Contains(err.Error(), "is refused") {
			t.Errorf("%v: error %v, want a refusal", alg, err)
		}
	}
}

func TestParseRefusesBER(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	raw := w.all["card"].cert.X509.Raw
	for what, b := range map[string][]byte{
		"empty":           nil,
		"truncated":       raw[:len(raw)-1],
		"octets after it": append(append([]byte(nil), raw...), 0),
		"indefinite":      append(append([]byte{0x30, 0x80}, raw[4:]...), 0, 0),
		"padded length":   append([]byte{0x30, 0x83, 0, raw[2], raw[3]}, raw[4:]...),
	} {
		if c, err := pki.ParseCertificate(b); err == nil {
			t.Errorf("%s: parsed as %v", what, c)
		}
	}
}

// TestParseRefusesTBS edits elements of the signed part that x509 gives no handle on.
func TestParseRefusesTBS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	sequence := func(parts ...[]byte) []byte {
		return mustASN1(t, asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: slices.Concat(parts...)})
	}
	utcTime := func(text string) []byte { return append([]byte{asn1.TagUTCTime, byte(len(text))}, text...) }
	generalized := func(text string) []byte { return append([]byte{asn1.TagGeneralizedTime, byte(len(text))}, text...) }
	const version, serial, algorithm, validity, spki, extensions = 0, 1, 2, 4, 6, 7
	for _, c := range []struct {
		what string
		at   int
		to   []byte
		want string
	}{
		{"version 1", version, nil, "version field 0, want 2"},
		{"version 2", version, []byte{0xa0, 3, 2, 1, 1}, "version field 1, want 2"},
		{"negative serial number", serial, []byte{2, 1, 0x85}, "serial"},
		{"another inner algorithm", algorithm, sequence([]byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3}), "don't match"},
		{"time without seconds", validity, sequence(utcTime("2606150000Z"), utcTime("270615000000Z")), "validity"},
		{"time with offset", validity, sequence(utcTime("260615000000+0100"), utcTime("270615000000Z")), "validity"},
		{"GeneralizedTime before 2050", validity, sequence(generalized("20260615000000Z"), utcTime("270615000000Z")), "validity"},
		{"octets after the key", spki, sequence(w.cca.cert.X509.RawSubjectPublicKeyInfo[2:], []byte{5, 0}), "public key"},
		{"no extensions", extensions, nil, "Extensions: missing"},
		{"unique identifier", extensions, append([]byte{0x81, 2, 0, 1}, tbsOf(t, w.cca.cert.X509.Raw)[extensions].FullBytes...), "Extensions"},
		{"octets after the extensions", extensions, append(slices.Clone(tbsOf(t, w.cca.cert.X509.Raw)[extensions].FullBytes), 5, 0), "after the last field"},
	} {
		parts := tbsOf(t, w.cca.cert.X509.Raw)
		if parts[c.at].FullBytes = c.to; c.to == nil {
			parts = slices.Delete(parts, c.at, c.at+1)
		}
		if got, err := pki.ParseCertificate(withTBS(t, w.cca.cert.X509.Raw, parts)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: gave %v, %v, want an error with %q", c.what, got, err, c.want)
		}
	}
}

// tbsOf gives the elements of a certificate's signed part.
func tbsOf(t testing.TB, raw []byte) []asn1.RawValue {
	t.Helper()
	var outer, tbs []asn1.RawValue
	if _, err := asn1.Unmarshal(raw, &outer); err != nil {
		t.Fatal(err)
	}
	if _, err := asn1.Unmarshal(outer[0].FullBytes, &tbs); err != nil {
		t.Fatal(err)
	}
	return tbs
}

// withTBS puts another signed part into a certificate, CRL or BCI, whose signature then is wrong.
func withTBS(t testing.TB, raw []byte, tbs []asn1.RawValue) []byte {
	t.Helper()
	var outer []asn1.RawValue
	if _, err := asn1.Unmarshal(raw, &outer); err != nil {
		t.Fatal(err)
	}
	outer[0] = asn1.RawValue{FullBytes: mustASN1(t, tbs)}
	return mustASN1(t, outer)
}

func TestIssueRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	card := func() pki.Template {
		return leafTemplate(pki.Card, pki.Signature, pki.Name{Country: "DK", Brand: "Acme", Unit: "Bank", CommonName: cardID(t)})
	}
	mer := func() pki.Template {
		return leafTemplate(pki.Mer, pki.Signature, pki.Name{Country: "DK", Brand: "Acme", Unit: "Bank", CommonName: "Shop"})
	}
	key := p256(t)
	for _, c := range []struct {
		what   string
		base   pki.Template
		change func(*pki.Template)
		issuer party
		want   string
	}{
		{"wrong CA", card(), nil, w.mca, "certificateType card under mca"},
		{"CA's message key", card(), nil, w.all["cca signature"], "may not sign certificates"},
		{"brand", card(), func(p *pki.Template) { p.Subject.Brand = "Other" }, w.cca, `brand "Other" under brand "Acme"`},
		{"use", card(), func(p *pki.Template) { p.Use = pki.KeyExchange }, w.cca, "certificateType card has no key-exchange key"},
		{"outlives its issuer", card(), func(p *pki.Template) { p.NotAfter = now.Add(7 * year) }, w.cca, "exceeds that of"},
		{"after the issuer's signing period", card(), func(p *pki.Template) { p.NotBefore, p.NotAfter = now.Add(4*year), now.Add(5*year) }, w.cca, "private key usage period"},
		{"dates swapped", card(), func(p *pki.Template) { p.NotBefore, p.NotAfter = p.NotAfter, p.NotBefore }, w.cca, "validity ends before it starts"},
		{"no merchant data", mer(), func(p *pki.Template) { p.Merchant = nil }, w.mca, "merchant data is missing"},
		{"no language", mer(), func(p *pki.Template) { p.Merchant.Names[0].Language = "" }, w.mca, "without their language"},
		{"no names", mer(), func(p *pki.Template) { p.Merchant.Names = nil }, w.mca, "size 0"},
		{"BIN", mer(), func(p *pki.Template) { p.Merchant.AcquirerBIN = "4000" }, w.mca, "size 4"},
		{"merchant data of a card", card(), func(p *pki.Template) { p.Merchant = merchant() }, w.cca, "merchant data does not belong"},
		{"tunneling of a card", card(), func(p *pki.Template) { p.Tunneling = &pki.Tunneling{} }, w.cca, "tunneling does not belong"},
		{"another's root key", caTemplate(pki.RCA, pki.Name{Country: "DK", Brand: pki.RootName}, year), nil, party{nil, p256(t)}, "does not belong to the signing key"},
		{"root without the next", caTemplate(pki.RCA, pki.Name{Country: "DK", Brand: pki.RootName}, year), nil, party{nil, key}, "next root's public key is missing"},
		{"root with issuer", caTemplate(pki.RCA, pki.Name{Country: "DK", Brand: pki.RootName}, year), nil, w.root, "only a root, has no issuer"},
		{"no issuer", card(), nil, party{nil, key}, "only a root, has no issuer"},
		{"another's key", card(), nil, party{w.cca.cert, key}, "doesn't match"},
	} {
		t.Run(c.what, func(t *testing.T) {
			tmpl := c.base
			tmpl.PublicKey = key.Public()
			if c.change != nil {
				c.change(&tmpl)
			}
			got, err := pki.Issue(rand.Reader, tmpl, c.issuer.cert, c.issuer.key)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("gave %v, %v, want an error with %q", got, err, c.want)
			}
		})
	}
}

func TestIssueKeepsSubSecondsOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	tmpl := leafTemplate(pki.Card, pki.Signature, pki.Name{Country: "DK", Brand: "Acme", Unit: "Bank", CommonName: cardID(t)})
	tmpl.NotAfter = w.cca.cert.X509.NotAfter.Add(time.Second / 2)
	p := issue(t, tmpl, p256(t), w.cca)
	if got, want := p.cert.PrivateKeyUsage.NotAfter, w.cca.cert.X509.NotAfter; !got.Equal(want) {
		t.Errorf("private key usage ends %v, want %v", got, want)
	}
}

type attr struct {
	id   int
	text string
}

type rdnSET []rdnAttribute

type rdnAttribute struct {
	ID    asn1.ObjectIdentifier
	Value asn1.RawValue
}

func rdns(t testing.TB, attrs ...attr) []byte {
	t.Helper()
	var list []rdnSET
	for _, a := range attrs {
		list = append(list, rdnSET{{asn1.ObjectIdentifier{2, 5, 4, a.id}, asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(a.text)}}})
	}
	return mustASN1(t, list)
}

func rdnsTagged(t testing.TB, tag int, country, brand, unit, common string) []byte {
	t.Helper()
	var list []rdnSET
	for i, text := range []string{country, brand, unit, common} {
		octets := []byte(text)
		if tag == asn1.TagBMPString {
			octets = nil
			for _, c := range []byte(text) {
				octets = append(octets, 0, c)
			}
		}
		list = append(list, rdnSET{{asn1.ObjectIdentifier{2, 5, 4, []int{6, 10, 11, 3}[i]}, asn1.RawValue{Tag: tag, Bytes: octets}}})
	}
	return mustASN1(t, list)
}

func mustASN1(t testing.TB, v any) []byte {
	t.Helper()
	b, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
