// Package settest makes a world of SET parties with software keys, for tests of the protocol and of the
// parties: a root, a brand CA, the three end-entity CAs, and whoever they certify.
package settest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
)

// Facts about the parties of every World.
const (
	Brand       = "Campus"
	MerchantID  = "M-0001"
	AcquirerBIN = "411111"
	Software    = "setkit test"
)

// World is a certificate hierarchy and the clock that goes with it.
type World struct {
	Now   time.Time
	Root  *pki.Certificate
	Brand string

	rootKey, brandKey crypto.Signer
	brand             *pki.Certificate
	cas               map[pki.Type]*authority
}

// authority is an end-entity CA.
type authority struct {
	key  crypto.Signer
	cert *pki.Certificate
}

// Card is a cardholder with an account and a certificate.
type Card struct {
	Endpoint *set.Endpoint
	Account  set.Account
}

// NewWorld makes the CAs.
func NewWorld(t testing.TB) *World {
	t.Helper()
	w := &World{Now: time.Now().UTC().Truncate(time.Second), Brand: Brand}
	w.rootKey = ecKey(t)
	w.Root = w.issue(t, pki.Template{
		Type: pki.RCA, Use: pki.Authority, Subject: pki.Name{Country: "CH", Brand: pki.RootName},
		PublicKey: w.rootKey.Public(), NextRootKey: ecKey(t).Public(),
	}, nil, w.rootKey)
	w.certifyCAs(t)
	return w
}

// Rival makes the CAs of another brand under the same root.
func (w *World) Rival(t testing.TB, brand string) *World {
	t.Helper()
	rival := &World{Now: w.Now, Brand: brand, Root: w.Root, rootKey: w.rootKey}
	rival.certifyCAs(t)
	return rival
}

// certifyCAs makes the CAs below the root.
func (w *World) certifyCAs(t testing.TB) {
	t.Helper()
	w.brandKey, w.cas = ecKey(t), make(map[pki.Type]*authority)
	w.brand = w.issue(t, pki.Template{
		Type: pki.BCA, Use: pki.Authority, Subject: pki.Name{Country: "CH", Brand: w.Brand}, PublicKey: w.brandKey.Public(),
	}, w.Root, w.rootKey)
	for typ, name := range map[pki.Type]string{pki.CCA: "Cardholder CA", pki.MCA: "Merchant CA", pki.PCA: "Payment CA"} {
		key := ecKey(t)
		w.cas[typ] = &authority{key, w.issue(t, pki.Template{
			Type: typ, Use: pki.Authority, Subject: pki.Name{Country: "CH", Brand: w.Brand, Unit: name}, PublicKey: key.Public(),
		}, w.brand, w.brandKey)}
	}
}

func (w *World) issue(t testing.TB, template pki.Template, issuer *pki.Certificate, key crypto.Signer) *pki.Certificate {
	t.Helper()
	template.NotBefore, template.NotAfter = w.Now.Add(-time.Hour), w.Now.Add(365*24*time.Hour)
	cert, err := pki.Issue(rand.Reader, template, issuer, key)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// RevocationLists gives the brand's current list of lists, and the payment CA's list, which revokes the gateways'
// certificates given.
func (w *World) RevocationLists(t testing.TB, certs ...*pki.Certificate) (*pki.BrandCRLIdentifier, *pki.CRL) {
	t.Helper()
	template := pki.CRLTemplate{Number: 1, ThisUpdate: w.Now.Add(-time.Minute), NextUpdate: w.Now.Add(24 * time.Hour)}
	for _, c := range certs {
		template.Revoked = append(template.Revoked, pki.Revocation{Serial: c.X509.SerialNumber, At: w.Now.Add(-time.Minute)})
	}
	ca := w.cas[pki.PCA]
	list, err := pki.IssueCRL(rand.Reader, template, ca.cert, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	bci, err := pki.IssueBCI(rand.Reader, pki.BCITemplate{
		Sequence: 1, Validity: pki.Period{NotBefore: w.Now.Add(-time.Minute), NotAfter: w.Now.Add(24 * time.Hour)}, CRLs: []*pki.CRL{list},
	}, w.brand, w.brandKey)
	if err != nil {
		t.Fatal(err)
	}
	return bci, list
}

// Issue certifies under the end-entity CA that is responsible for the template's type.
func (w *World) Issue(t testing.TB, template pki.Template) *pki.Certificate {
	t.Helper()
	ca := w.cas[map[pki.Type]pki.Type{pki.Card: pki.CCA, pki.Mer: pki.MCA, pki.Pgwy: pki.PCA}[template.Type]]
	return w.issue(t, template, ca.cert, ca.key)
}

// Authority gives the certificate-signing key and certificate of the CCA, MCA or PCA.
func (w *World) Authority(typ pki.Type) (*pki.Certificate, crypto.Signer) {
	return w.cas[typ].cert, w.cas[typ].key
}

// Chain gives the CA certificates above the end entities of the CCA, MCA or PCA, without the root.
func (w *World) Chain(typ pki.Type) []*pki.Certificate {
	return []*pki.Certificate{w.cas[typ].cert, w.brand}
}

// Endpoint gives a party that trusts the root and has no keys.
func (w *World) Endpoint(t testing.TB) *set.Endpoint {
	t.Helper()
	v, err := pki.NewVerifier([]*pki.Certificate{w.Root}, pki.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &set.Endpoint{Verifier: v, Software: Software}
}

// CA gives the endpoint that answers certificate messages for the CCA, MCA or PCA.
func (w *World) CA(t testing.TB, typ pki.Type) *set.Endpoint {
	t.Helper()
	e := w.Endpoint(t)
	name := w.cas[typ].cert.Subject
	sign, exchange := ecKey(t), RSAKey(t)
	e.SignKey, e.ExchangeKey, e.Chain = sign, exchange, []*pki.Certificate{w.cas[typ].cert, w.brand}
	e.SignCert = w.issue(t, pki.Template{Type: typ, Use: pki.Signature, Subject: name, PublicKey: sign.Public()}, w.brand, w.brandKey)
	e.ExchangeCert = w.issue(t, pki.Template{
		Type: typ, Use: pki.KeyExchange, Subject: name, PublicKey: exchange.Public(), Tunneling: &pki.Tunneling{Supported: true},
	}, w.brand, w.brandKey)
	return e
}

// Merchant gives a merchant with the given number, who may not know card numbers.
func (w *World) Merchant(t testing.TB, id string) *set.Endpoint { return w.merchant(t, id, false) }

// TrustedMerchant gives a merchant whose certificate lets the acquirer tell it card numbers.
func (w *World) TrustedMerchant(t testing.TB, id string) *set.Endpoint {
	return w.merchant(t, id, true)
}

func (w *World) merchant(t testing.TB, id string, trusted bool) *set.Endpoint {
	t.Helper()
	data := &pki.MerchantData{
		MerchantID: id, AcquirerBIN: AcquirerBIN, Country: 756, AuthFlag: trusted,
		Names: []pki.MerchantNames{{Language: "en", Name: "Book Shop " + id, City: "Bern", CountryName: "Switzerland"}},
	}
	name := pki.Name{Country: "CH", Brand: w.Brand, Unit: "Acquirer", CommonName: "Book Shop " + id}
	return w.both(t, pki.Template{Type: pki.Mer, Subject: name, Merchant: data}, pki.MCA)
}

// Gateway gives a payment gateway that requires cardholder certificates.
func (w *World) Gateway(t testing.TB, id string) *set.Endpoint {
	return w.gateway(t, id, "Acquirer", true)
}

// OpenGateway gives a payment gateway that takes unsigned purchases too.
func (w *World) OpenGateway(t testing.TB, id string) *set.Endpoint {
	return w.gateway(t, id, "Acquirer", false)
}

// GatewayOf gives a payment gateway of another acquirer of the brand.
func (w *World) GatewayOf(t testing.TB, acquirer, id string) *set.Endpoint {
	return w.gateway(t, id, acquirer, true)
}

func (w *World) gateway(t testing.TB, id, acquirer string, cardCertRequired bool) *set.Endpoint {
	t.Helper()
	name := pki.Name{Country: "CH", Brand: w.Brand, Unit: acquirer, CommonName: id}
	return w.both(t, pki.Template{Type: pki.Pgwy, Subject: name, CardCertRequired: cardCertRequired}, pki.PCA)
}

// both certifies a signature and a key-exchange key.
func (w *World) both(t testing.TB, template pki.Template, ca pki.Type) *set.Endpoint {
	t.Helper()
	e := w.Endpoint(t)
	sign, exchange := ecKey(t), RSAKey(t)
	e.SignKey, e.ExchangeKey, e.Chain = sign, exchange, w.Chain(ca)
	required := template.CardCertRequired
	template.Use, template.PublicKey, template.CardCertRequired = pki.Signature, sign.Public(), false
	e.SignCert = w.Issue(t, template)
	template.Use, template.PublicKey = pki.KeyExchange, exchange.Public()
	if template.Type == pki.Pgwy {
		template.CardCertRequired, template.Tunneling = required, &pki.Tunneling{Supported: true}
	}
	e.ExchangeCert = w.Issue(t, template)
	return e
}

// Renewed gives a merchant or gateway after a renewal: the same holder with new keys, who has kept the former ones.
func (w *World) Renewed(t testing.TB, e *set.Endpoint) *set.Endpoint {
	t.Helper()
	ca := map[pki.Type]pki.Type{pki.Mer: pki.MCA, pki.Pgwy: pki.PCA}[e.SignCert.Type]
	next := w.both(t, pki.Template{
		Type: e.SignCert.Type, Subject: e.SignCert.Subject, Merchant: e.SignCert.Merchant, CardCertRequired: e.ExchangeCert.CardCertRequired,
	}, ca)
	former := *e
	former.SignKey, former.Verifier, former.Former = nil, nil, nil
	next.Former = append([]*set.Endpoint{&former}, e.Former...)
	return next
}

// Card gives a cardholder with this account number, which expires next year.
func (w *World) Card(t testing.TB, pan string) *Card {
	t.Helper()
	account := set.Account{
		PAN: set.PAN(pan), CardExpiry: set.CardExpiry(fmt.Sprintf("%d12", w.Now.Year()+1)),
		CardSecret: set.NewSecret(), PANSecret: set.NewSecret(),
	}
	id, err := pki.UniqueCardholderID(account.PANSecret[:], account.PAN, account.CardExpiry)
	if err != nil {
		t.Fatal(err)
	}
	e := w.Endpoint(t)
	key := ecKey(t)
	e.SignKey, e.Chain = key, w.Chain(pki.CCA)
	e.SignCert = w.Issue(t, pki.Template{
		Type: pki.Card, Use: pki.Signature, PublicKey: key.Public(),
		Subject: pki.Name{Country: "CH", Brand: w.Brand, Unit: "Issuing Bank", CommonName: id},
	})
	return &Card{e, account}
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// rsaKeys keeps keys between tests: making one takes long, and no test needs a secret one.
var (
	rsaMutex sync.Mutex
	rsaNext  = make(map[testing.TB]int)
	rsaKeys  []*rsa.PrivateKey
)

// RSAKey gives an RSA-2048 key, another one for each call of a test.
func RSAKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	rsaMutex.Lock()
	defer rsaMutex.Unlock()
	n := rsaNext[t]
	if n == 0 {
		t.Cleanup(func() {
			rsaMutex.Lock()
			defer rsaMutex.Unlock()
			delete(rsaNext, t)
		})
	}
	rsaNext[t]++
	if n == len(rsaKeys) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		rsaKeys = append(rsaKeys, key)
	}
	return rsaKeys[n]
}

// Revoke gives a verifier that knows lists by which a gateway's certificates are revoked, numbered number.
func (w *World) Revoke(t testing.TB, number int64, certs ...*pki.Certificate) *pki.Verifier {
	t.Helper()
	pca := w.cas[pki.PCA]
	until := w.Now.AddDate(0, 1, 0)
	template := pki.CRLTemplate{Number: number, ThisUpdate: w.Now, NextUpdate: until}
	for _, c := range certs {
		template.Revoked = append(template.Revoked, pki.Revocation{Serial: c.X509.SerialNumber, At: w.Now})
	}
	crl, err := pki.IssueCRL(rand.Reader, template, pca.cert, pca.key)
	if err != nil {
		t.Fatal(err)
	}
	bci, err := pki.IssueBCI(rand.Reader, pki.BCITemplate{
		Sequence: number, Validity: pki.Period{NotBefore: w.Now, NotAfter: until}, CRLs: []*pki.CRL{crl},
	}, w.brand, w.brandKey)
	if err != nil {
		t.Fatal(err)
	}
	v, err := w.Endpoint(t).Verifier.Update(bci, []*pki.CRL{crl}, w.Chain(pki.PCA), w.Now)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
