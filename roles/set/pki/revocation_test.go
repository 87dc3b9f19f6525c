package pki_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

func crl(t testing.TB, issuer party, number int64, revoked ...*pki.Certificate) *pki.CRL {
	t.Helper()
	tmpl := pki.CRLTemplate{Number: number, ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(30 * day)}
	for _, c := range revoked {
		tmpl.Revoked = append(tmpl.Revoked, pki.Revocation{Serial: c.X509.SerialNumber, At: now.Add(-2 * time.Hour)})
	}
	l, err := pki.IssueCRL(rand.Reader, tmpl, issuer.cert, issuer.key)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func bci(t testing.TB, issuer party, sequence int64, crls ...*pki.CRL) *pki.BrandCRLIdentifier {
	t.Helper()
	b, err := pki.IssueBCI(rand.Reader, pki.BCITemplate{
		Sequence: sequence, Validity: pki.Period{NotBefore: now.Add(-time.Hour), NotAfter: now.Add(10 * day)}, CRLs: crls,
	}, issuer.cert, issuer.key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func update(t testing.TB, v *pki.Verifier, w *world, b *pki.BrandCRLIdentifier, crls ...*pki.CRL) *pki.Verifier {
	t.Helper()
	next, err := v.Update(b, crls, w.intermediates(), now)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func TestRevocation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	gateway, card := w.all["pgwy signature"].cert, w.all["card"].cert
	none, pcaNone := crl(t, w.bca, 1), crl(t, w.pca, 1)
	for _, c := range []struct {
		what    string
		bci     *pki.BrandCRLIdentifier
		crls    []*pki.CRL
		require bool
		leaf    *pki.Certificate
		at      time.Time
		reason  pki.Reason // 0 if accepted
		about   *pki.Certificate
		text    string
	}{
		{"nothing known", nil, nil, false, gateway, now, 0, nil, ""},
		{"nothing known, BCI required", nil, nil, true, gateway, now, pki.Missing, gateway, `no BrandCRLIdentifier of brand "Acme"`},
		{"empty BCI", bci(t, w.bca, 1), nil, true, gateway, now, 0, nil, ""},
		{"empty CRLs", bci(t, w.bca, 1, none, pcaNone), []*pki.CRL{none, pcaNone}, true, gateway, now, 0, nil, ""},
		{"gateway revoked", bci(t, w.bca, 1, crl(t, w.pca, 2, gateway)), []*pki.CRL{crl(t, w.pca, 2, gateway)}, false, gateway, now, pki.Revoked, gateway, "revoked by CRL 2"},
		{"gateway CA revoked", bci(t, w.bca, 1, crl(t, w.bca, 3, w.pca.cert)), []*pki.CRL{crl(t, w.bca, 3, w.pca.cert)}, true, gateway, now, pki.Revoked, w.pca.cert, "revoked by CRL 3"},
		{"another CA revoked", bci(t, w.bca, 1, crl(t, w.bca, 3, w.pca.cert)), []*pki.CRL{crl(t, w.bca, 3, w.pca.cert)}, true, card, now, 0, nil, ""},
		{"brand CA revoked", nil, []*pki.CRL{crl(t, w.root, 1, w.bca.cert)}, false, card, now, pki.Revoked, w.bca.cert, "revoked by the root's CRL 1"},
		{"root CRL superseded", nil, []*pki.CRL{crl(t, w.root, 1, w.bca.cert), crl(t, w.root, 2)}, false, card, now, 0, nil, ""},
		{"CRL not sent", bci(t, w.bca, 1, crl(t, w.pca, 2)), nil, false, gateway, now, pki.Missing, gateway, "CRL 2 of its issuer is not at hand"},
		{"only an older CRL", bci(t, w.bca, 1, crl(t, w.pca, 2)), []*pki.CRL{pcaNone}, false, gateway, now, pki.Missing, gateway, "CRL 2 of its issuer is not at hand"},
		{"CRL that the BCI does not name", bci(t, w.bca, 1), []*pki.CRL{crl(t, w.pca, 2, gateway)}, false, gateway, now, 0, nil, ""},
		{"BCI expired", bci(t, w.bca, 1), nil, false, gateway, now.Add(11 * day), pki.Missing, gateway, "ask for the current one"},
	} {
		t.Run(c.what, func(t *testing.T) {
			v := update(t, verifier(t, w, pki.Options{RequireBCI: c.require}), w, c.bci, c.crls...)
			_, err := v.Verify(c.leaf, w.intermediates(), c.at)
			if c.reason == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			refused(t, err, c.reason, c.about, c.text)
		})
	}
}

func TestRevocationListOutOfDate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	l := crl(t, w.pca, 1)
	b, err := pki.IssueBCI(rand.Reader, pki.BCITemplate{
		Sequence: 1, Validity: pki.Period{NotBefore: now.Add(-day), NotAfter: now.Add(90 * day)}, CRLs: []*pki.CRL{l},
	}, w.bca.cert, w.bca.key)
	if err != nil {
		t.Fatal(err)
	}
	v := update(t, verifier(t, w, pki.Options{}), w, b, l)
	_, err = v.Verify(w.all["pgwy signature"].cert, w.intermediates(), now.Add(31*day))
	refused(t, err, pki.Missing, w.all["pgwy signature"].cert, "out of date")
}

// TestUpdateSequence follows a brand's identifiers through their sequence (SET §6.6).
func TestUpdateSequence(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	first, second := crl(t, w.pca, 1), crl(t, w.pca, 2)
	v0 := verifier(t, w, pki.Options{})
	v1 := update(t, v0, w, bci(t, w.bca, 1, first), first, crl(t, w.root, 1))
	v2 := update(t, v1, w, bci(t, w.bca, 2, second), second, crl(t, w.root, 2))
	held := func(v *pki.Verifier) (out []string) {
		s := v.Store()
		for _, b := range s.BCIs {
			out = append(out, "BCI "+big.NewInt(b.Sequence).String())
		}
		for _, l := range s.CRLs {
			out = append(out, l.Issuer.Unit+" CRL "+big.NewInt(l.Number).String())
		}
		slices.Sort(out)
		return out
	}
	for _, c := range []struct {
		what string
		v    *pki.Verifier
		want []string
	}{
		{"at first", v0, nil},
		{"after BCI 1", v1, []string{" CRL 1", "BCI 1", "Bank gateway CA CRL 1"}},
		{"after BCI 2: what it does not name is dropped", v2, []string{" CRL 2", "BCI 2", "Bank gateway CA CRL 2"}},
		{"after BCI 1 again: ignored", update(t, v2, w, bci(t, w.bca, 1, first), first, crl(t, w.root, 1)), []string{" CRL 2", "BCI 2", "Bank gateway CA CRL 2"}},
		{"after the same BCI: nothing", update(t, v2, w, v2.Store().BCIs[0]), []string{" CRL 2", "BCI 2", "Bank gateway CA CRL 2"}},
		{"BCI first", update(t, v0, w, bci(t, w.bca, 2, second)), []string{"BCI 2"}},
		{"then its CRL", update(t, update(t, v0, w, bci(t, w.bca, 2, second)), w, nil, first, second), []string{"BCI 2", "Bank gateway CA CRL 2"}},
	} {
		if diff := cmp.Diff(c.want, held(c.v)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.what, diff)
		}
	}
	if _, err := v2.Update(bci(t, w.bca, 2), nil, w.intermediates(), now); err == nil || !strings.Contains(err.Error(), "another with this number") {
		t.Errorf("two BCIs of one number: %v", err)
	}
}

func TestUpdateRefuses(t *testing.T) {
	t.Parallel()
	w, other := newWorld(t, p256, false), newWorld(t, p256, false)
	v := verifier(t, w, pki.Options{})
	good := crl(t, w.pca, 1)
	flip := func(raw []byte) []byte {
		raw = bytes.Clone(raw)
		raw[len(raw)-1] ^= 1
		return raw
	}
	badCRL, err := pki.ParseCRL(flip(good.X509.Raw))
	if err != nil {
		t.Fatal(err)
	}
	badRootCRL, err := pki.ParseCRL(flip(crl(t, w.root, 1).X509.Raw))
	if err != nil {
		t.Fatal(err)
	}
	badBCI, err := pki.ParseBCI(flip(bci(t, w.bca, 1).Raw))
	if err != nil {
		t.Fatal(err)
	}
	revokedBCA := update(t, v, w, nil, crl(t, w.root, 1, w.bca.cert))
	for _, c := range []struct {
		what  string
		v     *pki.Verifier
		bci   *pki.BrandCRLIdentifier
		crls  []*pki.CRL
		certs []*pki.Certificate
		at    time.Time
		want  string
	}{
		{"BCI signature", v, badBCI, nil, w.intermediates(), now, "signature on BrandCRLIdentifier 1"},
		{"BCI of another hierarchy", v, bci(t, other.bca, 1), nil, other.intermediates(), now, "issuer is not at hand"},
		{"BCI without its signer", v, bci(t, w.bca, 1), nil, nil, now, "the certificate of its signer is not at hand"},
		{"BCI too old", v, bci(t, w.bca, 1), nil, w.intermediates(), now.Add(11 * day), "valid from"},
		{"BCI too new", v, bci(t, w.bca, 1), nil, w.intermediates(), now.Add(-2 * time.Hour), "valid from"},
		{"BCI of a revoked brand CA", revokedBCA, bci(t, w.bca, 1), nil, w.intermediates(), now, "revoked by the root's CRL 1"},
		{"CRL signature", v, bci(t, w.bca, 1, good), []*pki.CRL{badCRL}, w.intermediates(), now, "signature on CRL 1"},
		{"root CRL signature", v, nil, []*pki.CRL{badRootCRL}, nil, now, "signature on CRL 1"},
		{"too many certificates", v, bci(t, w.bca, 1), nil, slices.Repeat(w.intermediates(), 20), now, "at most 64 are allowed"},
	} {
		if _, err := c.v.Update(c.bci, c.crls, c.certs, c.at); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.what, err, c.want)
		}
	}
	if s := v.Store(); len(s.BCIs)+len(s.CRLs) != 0 {
		t.Errorf("a refused update left %v", s)
	}
}

func TestIssueListsRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	period := pki.Period{NotBefore: now, NotAfter: now.Add(day)}
	lists := pki.CRLTemplate{Number: 1, ThisUpdate: now, NextUpdate: now.Add(day)}
	for what, c := range map[string]struct {
		issuer party
		crl    func(*pki.CRLTemplate)
		bci    func(*pki.BCITemplate)
		want   string
	}{
		"CRL of a cardholder CA":   {w.cca, func(*pki.CRLTemplate) {}, nil, "may not sign CRLs"},
		"CRL of a gateway":         {w.all["pgwy signature"], func(*pki.CRLTemplate) {}, nil, "may not sign CRLs"},
		"CRL with another's key":   {party{w.pca.cert, w.bca.key}, func(*pki.CRLTemplate) {}, nil, "the key is not the one"},
		"CRL after the key's time": {w.pca, func(c *pki.CRLTemplate) { c.ThisUpdate, c.NextUpdate = now.Add(4*year), now.Add(5*year) }, nil, "private key usage period"},
		"CRL with negative number": {w.pca, func(c *pki.CRLTemplate) { c.Number = -1 }, nil, "negative"},
		"CRL with serial zero":     {w.pca, func(c *pki.CRLTemplate) { c.Revoked = []pki.Revocation{{Serial: new(big.Int), At: now}} }, nil, "serial number"},
		"BCI of a gateway CA":      {w.pca, nil, func(*pki.BCITemplate) {}, "may not sign it"},
		"BCI of the root":          {w.root, nil, func(*pki.BCITemplate) {}, "may not sign it"},
		"BCI with dates swapped":   {w.bca, nil, func(b *pki.BCITemplate) { b.Validity.NotAfter = now.Add(-day) }, "ends before it starts"},
		"BCI with negative number": {w.bca, nil, func(b *pki.BCITemplate) { b.Sequence = -1 }, "negative sequence"},
		"BCI with two of a kind":   {w.bca, nil, func(b *pki.BCITemplate) { b.CRLs = []*pki.CRL{crl(t, w.pca, 1), crl(t, w.pca, 2)} }, "named twice"},
	} {
		var err error
		if c.crl != nil {
			tmpl := lists
			c.crl(&tmpl)
			_, err = pki.IssueCRL(rand.Reader, tmpl, c.issuer.cert, c.issuer.key)
		} else {
			tmpl := pki.BCITemplate{Sequence: 1, Validity: period}
			c.bci(&tmpl)
			_, err = pki.IssueBCI(rand.Reader, tmpl, c.issuer.cert, c.issuer.key)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", what, err, c.want)
		}
	}
}

func TestParseCRLRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	entry := func(serial int64, exts ...pkix.Extension) x509.RevocationListEntry {
		return x509.RevocationListEntry{SerialNumber: big.NewInt(serial), RevocationTime: now, ExtraExtensions: exts}
	}
	for what, c := range map[string]struct {
		entries []x509.RevocationListEntry
		exts    []pkix.Extension
		want    string
	}{
		"critical extension":       {nil, []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 0}}}, "unknown, and critical"},
		"critical entry extension": {[]x509.RevocationListEntry{entry(1, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 29}, Critical: true, Value: []byte{0x30, 0}})}, nil, "unknown critical extension"},
		"entry twice":              {[]x509.RevocationListEntry{entry(1), entry(1)}, nil, "twice"},
		"number twice":             {nil, []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 20}, Value: []byte{2, 1, 9}}}, "twice"},
	} {
		raw, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
			Number: big.NewInt(1), ThisUpdate: now, NextUpdate: now.Add(day), RevokedCertificateEntries: c.entries, ExtraExtensions: c.exts,
		}, w.pca.cert.X509, w.pca.key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pki.ParseCRL(raw); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", what, err, c.want)
		}
	}
	// thisUpdate, nextUpdate and entries follow version, algorithm and issuer.
	valid := crl(t, w.pca, 1, w.all["pgwy signature"].cert).X509.Raw
	for what, c := range map[string]struct {
		from, to int
		by       []byte
		want     string
	}{
		"no nextUpdate":          {4, 5, nil, "nextUpdate"},
		"time without seconds":   {3, 4, []byte("\x17\x0b2606150000Z"), "thisUpdate"},
		"entry of serial zero":   {5, 6, []byte("\x30\x14\x30\x12\x02\x01\x00\x17\x0d260615000000Z"), "serial number"},
		"entry's time malformed": {5, 6, []byte("\x30\x07\x30\x05\x02\x01\x01\x17\x00"), "malformed"},
		"version 1":              {0, 1, nil, "Version"},
		"no extensions":          {6, 7, nil, "Extensions: missing"},
	} {
		tbs := tbsOf(t, valid)
		tbs = slices.Concat(tbs[:c.from:c.from], []asn1.RawValue{{FullBytes: c.by}}, tbs[c.to:])
		if c.by == nil {
			tbs = slices.Delete(tbs, c.from, c.from+1)
		}
		if _, err := pki.ParseCRL(withTBS(t, valid, tbs)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", what, err, c.want)
		}
	}
	if _, err := pki.ParseCRL(make([]byte, pki.CRLSizeMax+1)); err == nil || !strings.Contains(err.Error(), "are allowed") {
		t.Errorf("oversized: %v", err)
	}
}

func TestBCIOctets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	l := crl(t, w.pca, 5)
	b := bci(t, w.bca, 7, l)
	if b.Sequence != 7 || b.Brand != "Acme" || !b.Validity.NotBefore.Equal(now.Add(-time.Hour)) {
		t.Errorf("BCI came back as %d of %q, %v", b.Sequence, b.Brand, b.Validity)
	}
	want := []pki.CRLID{{RawIssuer: w.pca.cert.X509.RawSubject, Number: 5}}
	if diff := cmp.Diff(want, b.CRLs); diff != "" {
		t.Errorf("CRLs (-want +got):\n%s", diff)
	}
	tbs := tbsOf(t, b.Raw)
	var got []string
	for _, e := range tbs {
		got = append(got, string(e.FullBytes))
	}
	octets := []string{"\x02\x01\x00", "\x02\x01\x07", "\x1a\x04Acme", "\x18\x0f20260615110000Z", "\x18\x0f20260625120000Z"}
	if diff := cmp.Diff(octets, got[:5]); diff != "" || len(got) != 7 || got[5][0] != '\xa0' || got[6][0] != '\xa1' {
		t.Errorf("elements (-want +got):\n%s\nand %x", diff, got[5:])
	}
}

func TestListsUnderEveryKey(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]newKey{"P-384": p384, "RSA": rsa2048} {
		w := newWorld(t, key, true)
		l, gcaNone := crl(t, w.pca, 1, w.all["pgwy signature"].cert), crl(t, w.gca, 9)
		v := update(t, verifier(t, w, pki.Options{RequireBCI: true}), w, bci(t, w.bca, 1, l, gcaNone), l, gcaNone, crl(t, w.root, 1))
		_, err := v.Verify(w.all["pgwy signature"].cert, w.intermediates(), now)
		refused(t, err, pki.Revoked, w.all["pgwy signature"].cert, "revoked by CRL 1")
		if _, err := v.Verify(w.all["pgwy exchange"].cert, w.intermediates(), now); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		// What was kept serves a new Verifier.
		again := verifier(t, w, pki.Options{RequireBCI: true, Store: v.Store()})
		_, err = again.Verify(w.all["pgwy signature"].cert, w.intermediates(), now)
		refused(t, err, pki.Revoked, w.all["pgwy signature"].cert, "revoked by CRL 1")
	}
}

func TestParseBCIRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	valid := bci(t, w.bca, 1, crl(t, w.pca, 1)).Raw
	const version, brand, notBefore, crls, extensions = 0, 2, 3, 5, 6
	for what, c := range map[string]struct {
		at   int
		by   string // the element's DER
		want string
	}{
		"version":                 {version, "\x02\x01\x01", "version 1, want 0"},
		"no brand":                {brand, "\x1a\x00", "Brand: size 0"},
		"brand not displayable":   {brand, "\x1e\x02\x20\x2e", "cannot be displayed"},
		"UTCTime":                 {notBefore, "\x17\x0d260615000000Z", "NotBefore: unexpected tag"},
		"dates swapped":           {notBefore, "\x18\x0f20990615000000Z", "ends before it starts"},
		"negative CRL number":     {crls, "\xa0\x07\x30\x05\x30\x00\x02\x01\xff", "negative number"},
		"malformed issuer name":   {crls, "\xa0\x07\x30\x05\x04\x00\x02\x01\x01", "malformed name"},
		"critical extension":      {extensions, "\xa1\x0d\x30\x0b\x06\x02\x2a\x03\x01\x01\xff\x04\x02\x05\x00", "unknown critical extension 1.2.3"},
		"no authority":            {extensions, "\xa1\x0a\x30\x08\x06\x02\x2a\x03\x04\x02\x05\x00", "no extension authorityKeyIdentifier"},
		"malformed authority":     {extensions, "\xa1\x0b\x30\x09\x06\x03\x55\x1d\x23\x04\x02\x30\x00", "authorityKeyIdentifier"},
		"element after the last":  {extensions, "\xa1\x0f\x30\x0d\x06\x03\x55\x1d\x23\x04\x06\x30\x04\x80\x02\x01\x02\x05\x00", "after the last field"},
		"encoded default in list": {extensions, "\xa1\x0d\x30\x0b\x06\x02\x2a\x03\x01\x01\x00\x04\x02\x05\x00", "not the distinguished encoding"},
	} {
		tbs := tbsOf(t, valid)
		tbs[c.at].FullBytes = []byte(c.by)
		if _, err := pki.ParseBCI(withTBS(t, valid, tbs)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", what, err, c.want)
		}
	}
	var outer []asn1.RawValue
	if _, err := asn1.Unmarshal(valid, &outer); err != nil {
		t.Fatal(err)
	}
	for what, alg := range map[string]string{
		"SHA-1 with RSA":         "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05\x05\x00",
		"SHA-256 with RSA, bare": "\x30\x0b\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b",
		"ECDSA with parameters":  "\x30\x0c\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02\x05\x00",
	} {
		outer[1].FullBytes = []byte(alg)
		if _, err := pki.ParseBCI(mustASN1(t, outer)); err == nil || !strings.Contains(err.Error(), "is refused") {
			t.Errorf("%s: error %v, want a refusal", what, err)
		}
	}
	if _, err := pki.ParseBCI(make([]byte, pki.BCISizeMax+1)); err == nil || !strings.Contains(err.Error(), "are allowed") {
		t.Errorf("oversized: %v", err)
	}
}

func TestBCISignedBy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	b := bci(t, w.bca, 1)
	if err := b.SignedBy(w.bca.cert); err != nil {
		t.Error(err)
	}
	otherBrand := forged(t, w.bca.cert, w.root, func(x *x509.Certificate) {
		x.RawSubject = rdns(t, attr{6, "DK"}, attr{10, "Other"})
	})
	otherKey := forged(t, w.bca.cert, w.root, func(x *x509.Certificate) { x.PublicKey = p256(t).Public() })
	ended := forged(t, w.bca.cert, w.root, func(x *x509.Certificate) {
		setExtension(x, oidPrivateKeyPeriod, false, mustDER(t, pki.Period{NotBefore: now.Add(-20 * day), NotAfter: now.Add(-10 * day)}))
	})
	for what, c := range map[string]struct {
		signer *pki.Certificate
		want   string
	}{
		"gateway CA":    {w.pca.cert, "its signer is not"},
		"another brand": {otherBrand, "signed for brand"},
		"another key":   {otherKey, "signature on"},
		"key retired":   {ended, "private key usage period"},
	} {
		if err := b.SignedBy(c.signer); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", what, err, c.want)
		}
	}
}

func TestThumbs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	l := crl(t, w.pca, 1)
	b := bci(t, w.bca, 1, l)
	thumbs := pki.NewThumbs([]*pki.Certificate{w.bca.cert, w.root.cert}, []*pki.CRL{l}, []*pki.BrandCRLIdentifier{b})
	if !thumbs.HasCert(w.bca.cert) || thumbs.HasCert(w.cca.cert) || !thumbs.HasCRL(l) || thumbs.HasCRL(crl(t, w.pca, 2)) || !thumbs.HasBCI(b) || thumbs.HasBCI(bci(t, w.bca, 2)) {
		t.Errorf("thumbs %v do not tell what they were made from", thumbs)
	}
	var none *pki.Thumbs
	if none.HasCert(w.bca.cert) || none.HasCRL(l) || none.HasBCI(b) {
		t.Error("nil thumbs hold something")
	}
	again := pki.Thumbs{}
	raw := mustDER(t, thumbs)
	if err := der.Unmarshal(raw, &again); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(thumbs, again); diff != "" {
		t.Errorf("thumbs came back changed (-want +got):\n%s", diff)
	}
	foreign := thumbs
	foreign.DigestAlgorithm.Algorithm = asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}
	if foreign.HasCert(w.bca.cert) {
		t.Error("thumbs under another digest hold a certificate")
	}
	text, err := b.Thumbprint().MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	var back pki.Digest
	if err := back.UnmarshalText(text); err != nil || back != b.Thumbprint() {
		t.Errorf("digest %s came back as %v, %v", text, back, err)
	}
}
