package ceremony

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/setkit/setkit/roles/set/pki"
)

// oidAES256GCM is the content encryption that the CAs accept from cardholders (profile A6).
var oidAES256GCM = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 46}

// firstNumber is that of the first CRLs and BrandCRLIdentifier.
const firstNumber = 1

// keyring holds the keys of a ceremony by newKey.id: a crypto.Signer for what signs in it, else the
// public key.
type keyring map[string]any

func (k keyring) signer(c ca) crypto.Signer { return k[c.name+"/"+LabelCertSign].(crypto.Signer) }

func (k keyring) public(c ca, label string) crypto.PublicKey {
	if s, ok := k[c.name+"/"+label].(crypto.Signer); ok {
		return s.Public()
	}
	return k[c.name+"/"+label]
}

// product is what a ceremony makes beside keys.
type product struct {
	certs []certificate
	crls  []*pki.CRL
	bci   *pki.BrandCRLIdentifier
	files []file
}

type certificate struct {
	ca, label string
	file      string
	cert      *pki.Certificate
}

type file struct {
	name string
	data []byte
}

// issue makes certificates, CRLs and the BrandCRLIdentifier, and validates each as a peer would.
func (s *Spec) issue(now time.Time, keys keyring) (*product, error) {
	p := &product{}
	cas := s.cas()
	root, brand := cas[0], cas[1]
	var issuer *pki.Certificate
	for _, c := range []ca{root, brand} {
		cert, err := p.certify(s.template(now, c, LabelCertSign), c, LabelCertSign, keys, issuer, keys.signer(root))
		if err != nil {
			return nil, err
		}
		issuer = cert
	}
	for _, c := range cas[2:] {
		for _, label := range []string{LabelCertSign, LabelSign, LabelKeyExchange} {
			if _, err := p.certify(s.template(now, c, label), c, label, keys, issuer, keys.signer(brand)); err != nil {
				return nil, err
			}
		}
	}
	if err := s.issueLists(now, p, keys); err != nil {
		return nil, err
	}
	return p, s.verify(now, p)
}

var pkiTypes = map[string]pki.Type{"root": pki.RCA, "brand": pki.BCA, "cca": pki.CCA, "mca": pki.MCA, "pca": pki.PCA}

func (s *Spec) template(now time.Time, c ca, label string) pki.Template {
	t := pki.Template{
		Type: pkiTypes[c.file], NotBefore: now,
		Subject: pki.Name{Country: c.Subject.Country, Brand: s.BrandID, Unit: c.Subject.Unit, CommonName: c.Subject.CommonName},
	}
	signs := func(use pki.Use, k SignKey) {
		t.Use, t.NotAfter, t.PrivateKeyNotAfter = use, k.Validity.after(now), k.SigningPeriod.after(now)
	}
	switch label {
	case LabelCertSign:
		signs(pki.Authority, c.CertSign)
	case LabelSign:
		signs(pki.Signature, c.issuing.Sign)
	case LabelKeyExchange:
		t.Use, t.NotAfter = pki.KeyExchange, c.issuing.KeyExchange.Validity.after(now)
		t.Tunneling = &pki.Tunneling{Supported: true, Algorithms: []asn1.ObjectIdentifier{oidAES256GCM}}
	}
	if t.Type == pki.RCA {
		t.Subject.Brand = pki.RootName
	}
	return t
}

func (p *product) certify(t pki.Template, c ca, label string, keys keyring, issuer *pki.Certificate, key crypto.Signer) (*pki.Certificate, error) {
	t.PublicKey = keys.public(c, label)
	if t.Type == pki.RCA {
		t.NextRootKey = keys.public(c, LabelNextRoot)
	}
	cert, err := pki.Issue(rand.Reader, t, issuer, key)
	if err != nil {
		return nil, fmt.Errorf("%s.%s: %w", c.name, label, err)
	}
	name := certificateFile(c, label)
	p.certs = append(p.certs, certificate{c.name, label, name, cert})
	p.files = append(p.files, file{name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.X509.Raw})})
	return cert, nil
}

func certificateFile(c ca, label string) string {
	if label == LabelCertSign {
		return c.file + ".pem"
	}
	return c.file + "-" + label + ".pem"
}

func (p *product) find(c ca) *pki.Certificate {
	for _, made := range p.certs {
		if made.ca == c.name && made.label == LabelCertSign {
			return made.cert
		}
	}
	return nil
}

func (s *Spec) issueLists(now time.Time, p *product, keys keyring) error {
	cas := s.cas()
	brand := cas[1]
	var named []*pki.CRL // a root's CRL is known by its number, not by the brand's list
	for _, c := range cas {
		if !c.crls {
			continue
		}
		t := pki.CRLTemplate{Number: firstNumber, ThisUpdate: now, NextUpdate: c.CRLValidity.after(now)}
		l, err := pki.IssueCRL(rand.Reader, t, p.find(c), keys.signer(c))
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		p.crls = append(p.crls, l)
		if c.Authority != &s.Root {
			named = append(named, l)
		}
		p.files = append(p.files, file{c.file + ".crl", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: l.X509.Raw})})
	}
	bci, err := pki.IssueBCI(rand.Reader, pki.BCITemplate{
		Sequence: firstNumber, Validity: pki.Period{NotBefore: now, NotAfter: s.BCIValidity.after(now)}, CRLs: named,
	}, p.find(brand), keys.signer(brand))
	if err != nil {
		return fmt.Errorf("%s: %w", brand.name, err)
	}
	p.bci = bci
	p.files = append(p.files, file{"brand.bci", bci.Raw})
	return nil
}

// verify validates every certificate against the root, with the CRLs and the BrandCRLIdentifier.
func (s *Spec) verify(now time.Time, p *product) error {
	v, err := pki.NewVerifier([]*pki.Certificate{p.certs[0].cert}, pki.Options{RequireBCI: true})
	if err != nil {
		return err
	}
	var certs []*pki.Certificate
	for _, c := range p.certs {
		certs = append(certs, c.cert)
	}
	if v, err = v.Update(p.bci, p.crls, certs, now); err != nil {
		return err
	}
	var errs []error
	for _, c := range p.certs {
		if _, err := v.Verify(c.cert, certs, now, c.cert.Type); err != nil {
			errs = append(errs, fmt.Errorf("%s.%s: %w", c.ca, c.label, err))
		}
	}
	return errors.Join(errs...)
}

// fileNames lists what a ceremony writes.
func (s *Spec) fileNames() []string {
	names := []string{transcriptFile, signatureFile, "brand.bci"}
	for _, c := range s.cas() {
		names = append(names, certificateFile(c, LabelCertSign))
		if c.issuing != nil {
			names = append(names, certificateFile(c, LabelSign), certificateFile(c, LabelKeyExchange))
		}
		if c.crls {
			names = append(names, c.file+".crl")
		}
	}
	return names
}

// Check tells what is wrong with a file, without touching a token or a file: its values, and then what
// comes to light in a rehearsal of the ceremony at the time now.
func Check(s *Spec, now time.Time) error {
	if err := s.check(); err != nil {
		return err
	}
	keys := make(keyring)
	for _, c := range s.cas() {
		for _, k := range s.keys(c) {
			key, err := throwAwayKey(k)
			if err != nil {
				return err
			}
			keys[k.id()] = key
		}
	}
	if _, err := s.issue(whole(now), keys); err != nil {
		return fmt.Errorf("rehearsal: %w", err)
	}
	return nil
}

// whole cuts a time to what a certificate carries.
func whole(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// rehearsalRSA is one key for all rehearsals: making one takes long.
var rehearsalRSA = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// throwAwayKey stands in for a key of any type that can do the same.
func throwAwayKey(k newKey) (any, error) {
	switch {
	case k.purpose == MAC:
		return nil, nil
	case k.purpose == KeyExchange:
		key, err := rehearsalRSA()
		if err != nil {
			return nil, err
		}
		return key.Public(), nil
	case k.typ == ECP384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// checkKeyType holds a public key that a token showed against what was asked of it.
func checkKeyType(pub crypto.PublicKey, want KeyType) error {
	got := KeyType("another type")
	switch k := pub.(type) {
	case *rsa.PublicKey:
		got = KeyType(fmt.Sprintf("rsa-%d", k.N.BitLen()))
		if k.E != 65537 {
			return fmt.Errorf("RSA key with exponent %d, want 65537", k.E)
		}
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			got = ECP256
		case elliptic.P384():
			got = ECP384
		}
		if _, err := k.Bytes(); err != nil {
			return fmt.Errorf("EC key: %w", err)
		}
	}
	if got != want {
		return fmt.Errorf("the token made a key of %s, want %s", got, want)
	}
	return nil
}
