package pki_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

var now = time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)

const (
	day  = 24 * time.Hour
	year = 365 * day
)

// oidAES256GCM is a content encryption to put into tunneling.
var oidAES256GCM = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 46}

// party is a certificate with its key.
type party struct {
	cert *pki.Certificate
	key  crypto.Signer
}

// world is a hierarchy with a certificate of every kind.
type world struct {
	root, bca, gca, cca, mca, pca party // gca has no certificate unless asked for
	all                           map[string]party
}

func (w *world) intermediates() []*pki.Certificate {
	var out []*pki.Certificate
	for _, p := range []party{w.bca, w.gca, w.cca, w.mca, w.pca} {
		if p.cert != nil {
			out = append(out, p.cert)
		}
	}
	return out
}

type newKey func(testing.TB) crypto.Signer

func p256(t testing.TB) crypto.Signer { return ecKey(t, elliptic.P256()) }
func p384(t testing.TB) crypto.Signer { return ecKey(t, elliptic.P384()) }

func ecKey(t testing.TB, c elliptic.Curve) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// rsaKeys are a few RSA keys for all tests in turn: making one takes long.
var (
	rsaKeys [4]func() (*rsa.PrivateKey, error)
	rsaNext atomic.Uint32
)

func init() {
	for i := range rsaKeys {
		rsaKeys[i] = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })
	}
}

func rsa2048(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := rsaKeys[rsaNext.Add(1)%uint32(len(rsaKeys))]()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// exchange is a key for key-exchange certificates, always the same one.
func exchange(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := rsaKeys[0]()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func issue(t testing.TB, tmpl pki.Template, key crypto.Signer, issuer party) party {
	t.Helper()
	tmpl.PublicKey = key.Public()
	signer := issuer.key
	if issuer.cert == nil {
		signer = key
	}
	c, err := pki.Issue(rand.Reader, tmpl, issuer.cert, signer)
	if err != nil {
		t.Fatal(err)
	}
	return party{c, key}
}

func cardID(t testing.TB) string {
	t.Helper()
	id, err := pki.UniqueCardholderID(make([]byte, 20), []byte("4111111111111111"), []byte("202812"))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func merchant() *pki.MerchantData {
	return &pki.MerchantData{
		MerchantID: "M-0001", AcquirerBIN: "400000", Country: 208,
		Names: []pki.MerchantNames{{Language: "da", Name: "Kaffebønnen", City: "København", PostalCode: "1050", CountryName: "Danmark"}},
	}
}

// caTemplate is the template of an authority, whose key may sign for the first half of its life.
func caTemplate(typ pki.Type, name pki.Name, life time.Duration) pki.Template {
	return pki.Template{
		Type: typ, Use: pki.Authority, Subject: name,
		NotBefore: now.Add(-30 * day), NotAfter: now.Add(life), PrivateKeyNotAfter: now.Add(life / 2),
	}
}

func leafTemplate(typ pki.Type, use pki.Use, name pki.Name) pki.Template {
	t := pki.Template{Type: typ, Use: use, Subject: name, NotBefore: now.Add(-day), NotAfter: now.Add(year)}
	if typ == pki.Mer {
		t.Merchant = merchant()
	}
	if use == pki.KeyExchange && typ != pki.Mer {
		t.Tunneling = &pki.Tunneling{Supported: true, Algorithms: []asn1.ObjectIdentifier{oidAES256GCM}}
	}
	if use == pki.KeyExchange && typ == pki.Pgwy {
		t.CardCertRequired = true
		t.SETExtensions = []asn1.ObjectIdentifier{{2, 23, 42, 1, 8}}
	}
	return t
}

func newWorld(t testing.TB, key newKey, geopolitical bool) *world {
	t.Helper()
	w := &world{all: make(map[string]party)}
	root := caTemplate(pki.RCA, pki.Name{Country: "DK", Brand: pki.RootName}, 20*year)
	root.NextRootKey = key(t).Public()
	w.root = issue(t, root, key(t), party{})
	w.bca = issue(t, caTemplate(pki.BCA, pki.Name{Country: "DK", Brand: "Acme", Unit: "Acme Brand CA"}, 10*year), key(t), w.root)
	above := w.bca
	if geopolitical {
		w.gca = issue(t, caTemplate(pki.GCA, pki.Name{Country: "DK", Brand: "Acme", Unit: "Acme Nordic"}, 8*year), key(t), w.bca)
		above = w.gca
		w.all["gca"] = w.gca
	}
	w.all["root"], w.all["bca"] = w.root, w.bca
	for _, ca := range []struct {
		typ  pki.Type
		name string
		p    *party
	}{{pki.CCA, "Bank cardholder CA", &w.cca}, {pki.MCA, "Bank merchant CA", &w.mca}, {pki.PCA, "Bank gateway CA", &w.pca}} {
		name := pki.Name{Country: "DK", Brand: "Acme", Unit: ca.name}
		*ca.p = issue(t, caTemplate(ca.typ, name, 6*year), key(t), above)
		w.all[ca.typ.String()] = *ca.p
		w.all[ca.typ.String()+" signature"] = issue(t, leafTemplate(ca.typ, pki.Signature, name), key(t), above)
		w.all[ca.typ.String()+" exchange"] = issue(t, leafTemplate(ca.typ, pki.KeyExchange, name), exchange(t), above)
	}
	bank := pki.Name{Country: "DK", Brand: "Acme:Gold", Unit: "Bank A/S"}
	card, mer, pgwy := bank, bank, bank
	card.CardName, card.CommonName = "Guldkortet", cardID(t)
	mer.CommonName, pgwy.CommonName = "Kaffebønnen", "gateway-1"
	w.all["card"] = issue(t, leafTemplate(pki.Card, pki.Signature, card), key(t), w.cca)
	w.all["mer signature"] = issue(t, leafTemplate(pki.Mer, pki.Signature, mer), key(t), w.mca)
	w.all["mer exchange"] = issue(t, leafTemplate(pki.Mer, pki.KeyExchange, mer), exchange(t), w.mca)
	w.all["pgwy signature"] = issue(t, leafTemplate(pki.Pgwy, pki.Signature, pgwy), key(t), w.pca)
	w.all["pgwy exchange"] = issue(t, leafTemplate(pki.Pgwy, pki.KeyExchange, pgwy), exchange(t), w.pca)
	return w
}

// forge signs a certificate like c anew, after change: with what Issue would refuse to sign.
func forge(t testing.TB, c *pki.Certificate, issuer party, change func(*x509.Certificate)) []byte {
	t.Helper()
	x := &x509.Certificate{
		SerialNumber: c.X509.SerialNumber, RawSubject: c.X509.RawSubject, PublicKey: c.X509.PublicKey,
		NotBefore: c.X509.NotBefore, NotAfter: c.X509.NotAfter, ExtraExtensions: slices.Clone(c.X509.Extensions),
	}
	id, err := asn1.Marshal(struct {
		ID []byte `asn1:"tag:0"`
	}{issuer.cert.X509.SubjectKeyId})
	if err != nil {
		t.Fatal(err)
	}
	setExtension(x, oidAuthorityKeyID, false, id)
	if change != nil {
		change(x)
	}
	parent := *issuer.cert.X509
	if !slices.ContainsFunc(x.ExtraExtensions, func(e pkix.Extension) bool { return e.Id.Equal(oidAuthorityKeyID) }) {
		parent.SubjectKeyId = nil // or x509 would put the extension back
	}
	raw, err := x509.CreateCertificate(rand.Reader, x, &parent, x.PublicKey, issuer.key)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// forged parses what forge makes.
func forged(t testing.TB, c *pki.Certificate, issuer party, change func(*x509.Certificate)) *pki.Certificate {
	t.Helper()
	out, err := pki.ParseCertificate(forge(t, c, issuer, change))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// setExtension replaces an extension; a nil value removes it.
func setExtension(x *x509.Certificate, id asn1.ObjectIdentifier, critical bool, value []byte) {
	i := slices.IndexFunc(x.ExtraExtensions, func(e pkix.Extension) bool { return e.Id.Equal(id) })
	if i >= 0 {
		x.ExtraExtensions = slices.Delete(x.ExtraExtensions, i, i+1)
	}
	if value != nil {
		x.ExtraExtensions = append(x.ExtraExtensions, pkix.Extension{Id: id, Critical: critical, Value: value})
	}
}

func mustDER(t testing.TB, v any) []byte {
	t.Helper()
	b, err := der.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
