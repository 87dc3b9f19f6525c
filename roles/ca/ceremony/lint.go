package ceremony

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

// draft is what a step will sign, signed by a throw-away key in place of the real one.
type draft struct {
	step   *step
	serial []byte
	tbs    []byte // exactly what the real key is to sign
	raw    []byte
}

// draft makes what a step signs with a throw-away key, and lints it. It needs public keys only.
func (s *state) draft(st *step, serial []byte) (*draft, error) {
	d, err := s.newDraft(st, serial)
	if err != nil {
		return nil, err
	}
	if d.tbs, err = tbsOf(d.raw); err != nil {
		return nil, err
	}
	return d, s.lint(st, d.raw)
}

func (s *state) newDraft(st *step, serial []byte) (*draft, error) {
	d := &draft{step: st, serial: serial}
	if !st.selfSigned() {
		issuer := s.certs[st.Issuer]
		key, err := throwAway(issuer.X509.PublicKey)
		if err != nil {
			return nil, err
		}
		d.raw, err = s.make(st, serial, standIn(issuer, key.Public()), key)
		return d, err
	}
	key, err := throwAway(s.keys[st.Key])
	if err != nil {
		return nil, err
	}
	p := &probe{Signer: key, public: s.keys[st.Key]}
	if _, err := s.make(st, serial, nil, p); p.tbs == nil {
		return nil, err
	}
	d.raw, err = p.signed()
	return d, err
}

// standIn is a certificate under which a throw-away key signs as if it were the certified one.
func standIn(c *pki.Certificate, pub crypto.PublicKey) *pki.Certificate {
	s, x := *c, *c.X509
	x.PublicKey = pub
	s.X509 = &x
	return &s
}

// throwAwayRSA is one key for all drafts: making one takes long, and no size shows in what it signs.
var throwAwayRSA = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, pki.RSABitsMin) })

// throwAway gives a key that signs with the same algorithm as pub's.
func throwAway(pub crypto.PublicKey) (crypto.Signer, error) {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return throwAwayRSA()
	case *ecdsa.PublicKey:
		return ecdsa.GenerateKey(k.Curve, rand.Reader)
	}
	return nil, fmt.Errorf("no throw-away key for one of type %T", pub)
}

// probe stands in for a key that signs what holds its own public half. The signature that it gives is
// another key's and does not verify: what counts is what it was asked to sign.
type probe struct {
	crypto.Signer
	public crypto.PublicKey
	tbs    []byte
	hash   crypto.SignerOpts
}

func (p *probe) Public() crypto.PublicKey { return p.public }

// SignMessage keeps the message.
func (p *probe) SignMessage(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	p.tbs, p.hash = bytes.Clone(message), opts
	return nil, errors.New("a probe does not sign")
}

// signed puts a throw-away signature under what the probe kept.
func (p *probe) signed() ([]byte, error) {
	signature, err := crypto.SignMessage(p.Signer, rand.Reader, p.tbs, p.hash)
	if err != nil {
		return nil, err
	}
	// Any request of the throw-away key tells how its algorithm is written.
	other, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, p.Signer)
	if err != nil {
		return nil, err
	}
	var outer signedDER
	if _, err := asn1.Unmarshal(other, &outer); err != nil {
		return nil, err
	}
	outer.TBS = asn1.RawValue{FullBytes: p.tbs}
	outer.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	return asn1.Marshal(outer)
}

// guard lets a key sign one message and no other.
type guard struct {
	crypto.Signer
	message []byte
}

// Sign refuses: who signs a digest does not say what is signed.
func (g *guard) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("a ceremony signs messages, not digests")
}

// SignMessage signs the one message.
func (g *guard) SignMessage(random io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if !bytes.Equal(message, g.message) {
		return nil, errors.New("what is to be signed is not what was shown")
	}
	return crypto.SignMessage(g.Signer, random, message, opts)
}

// sign has the real key sign a draft, and holds the result against it.
func (s *state) sign(d *draft) ([]byte, error) {
	st := d.step
	key := s.signers[s.signer(st)]
	if key == nil {
		return nil, errors.New("no key to sign with")
	}
	raw, err := s.make(st, d.serial, s.certs[st.Issuer], &guard{key, d.tbs})
	if err != nil {
		return nil, err
	}
	if tbs, err := tbsOf(raw); err != nil || !bytes.Equal(tbs, d.tbs) {
		return nil, errors.New("what was signed is not what was shown")
	}
	return raw, s.lint(st, raw)
}

// lint holds what a step signs against the plan and the profile, by looking at nothing but the result.
func (s *state) lint(st *step, raw []byte) error {
	switch st.kind {
	case root, certificate, cross:
		c, err := pki.ParseCertificate(raw)
		if err != nil {
			return err
		}
		return s.lintCertificate(st, c)
	case crl:
		l, err := pki.ParseCRL(raw)
		if err != nil {
			return err
		}
		return s.lintCRL(st, l)
	case bci:
		b, err := pki.ParseBCI(raw)
		if err != nil {
			return err
		}
		return s.lintBCI(st, b)
	case request:
		r, err := x509.ParseCertificateRequest(raw)
		if err != nil {
			return err
		}
		return s.lintRequest(st, r)
	}
	return nil
}

func (s *state) lintCertificate(st *step, c *pki.Certificate) error {
	t, err := s.template(st)
	if err != nil {
		return err
	}
	x, issuer := c.X509, s.certs[st.Issuer]
	if st.kind == root {
		issuer = c
	}
	usage := map[pki.Use]x509.KeyUsage{
		pki.Authority: x509.KeyUsageCertSign, pki.Signature: x509.KeyUsageDigitalSignature,
		pki.KeyExchange: x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment,
	}[t.Use]
	for _, o := range s.certs {
		if o.X509.SerialNumber.Cmp(x.SerialNumber) == 0 && bytes.Equal(o.X509.RawIssuer, x.RawIssuer) {
			return errors.New("lint: the serial number is in use")
		}
	}
	switch {
	case x.SerialNumber.BitLen() < 64:
		return errors.New("lint: the serial number has less than 64 bits")
	case c.Type != t.Type || c.Use != t.Use || c.Subject != t.Subject:
		return errors.New("lint: type, use or name is not the plan's")
	case !same(x.PublicKey, t.PublicKey):
		return errors.New("lint: another public key is certified")
	case !x.NotBefore.Equal(t.NotBefore) || !x.NotAfter.Equal(t.NotAfter):
		return errors.New("lint: the validity is not the plan's")
	case x.NotBefore.Before(issuer.X509.NotBefore) || x.NotAfter.After(issuer.X509.NotAfter):
		return errors.New("lint: the validity exceeds the issuer's")
	case x.KeyUsage&usage != usage || x.IsCA != (t.Use == pki.Authority):
		return errors.New("lint: the key usage does not fit what the key is for")
	case x.IsCA && issuer != c && issuer.X509.MaxPathLen > 0 && x.MaxPathLen >= issuer.X509.MaxPathLen:
		return fmt.Errorf("lint: path length %d under an issuer of path length %d", x.MaxPathLen, issuer.X509.MaxPathLen)
	case x.IsCA && issuer.X509.MaxPathLenZero && issuer.X509.MaxPathLen == 0:
		return errors.New("lint: a CA under an issuer of path length 0")
	case st.kind == cross && !bytes.Equal(x.SubjectKeyId, s.certs[st.Certificate].X509.SubjectKeyId):
		return errors.New("lint: the key identifier differs from that of the certificate")
	}
	if r := s.csrs[st.CSR]; r != nil && !bytes.Equal(r.RawSubject, x.RawSubject) {
		return fmt.Errorf("lint: %s is for %q", st.CSR, r.Subject)
	}
	if st.Succeeds != "" && !s.unknown[st.Key] {
		return s.lintSuccession(s.certs[st.Succeeds], c)
	}
	return nil
}

// lintSuccession tells whether old announced the key of the next root (SET §6.8).
func (s *state) lintSuccession(old, next *pki.Certificate) error {
	if old.NextRootKey == nil {
		return errors.New("lint: the certificate that it succeeds is not a root")
	}
	thumb, err := cms.DD(asn1.ObjectIdentifier{2, 23, 42, 3, 0, 0}, der.Raw(next.X509.RawSubjectPublicKeyInfo))
	if err != nil {
		return err
	}
	if err := old.NextRootKey.Equal(thumb); err != nil {
		return fmt.Errorf("lint: its key is not the one that %v announces: %w", old, err)
	}
	return nil
}

func (s *state) lintCRL(st *step, l *pki.CRL) error {
	switch {
	case l.Number != st.Number || len(l.X509.RevokedCertificateEntries) != len(st.Revoked):
		return errors.New("lint: number or entries are not those of the plan")
	case !l.X509.ThisUpdate.Equal(s.now) || !l.X509.NextUpdate.Equal(st.Validity.after(s.now)):
		return errors.New("lint: thisUpdate or nextUpdate is not the plan's")
	case l.X509.NextUpdate.After(s.certs[st.Issuer].X509.NotAfter):
		return errors.New("lint: the next update is due after the issuer's certificate expired")
	}
	for i, e := range l.X509.RevokedCertificateEntries {
		want := st.Revoked[i]
		switch {
		case serialText(e.SerialNumber) != want.Serial || date(e.RevocationTime) != want.Date:
			return fmt.Errorf("lint: entry %d is not the plan's", i)
		case e.RevocationTime.After(s.now):
			return fmt.Errorf("lint: entry %d is revoked in the future, on %s", i, want.Date)
		}
	}
	return nil
}

func (s *state) lintBCI(st *step, b *pki.BrandCRLIdentifier) error {
	switch {
	case b.Sequence != st.Number || len(b.CRLs) != len(st.CRLs):
		return errors.New("lint: number or CRLs are not those of the plan")
	case !b.Validity.NotBefore.Equal(s.now) || !b.Validity.NotAfter.Equal(st.Validity.after(s.now)):
		return errors.New("lint: the validity is not the plan's")
	}
	for i, name := range st.CRLs {
		l := s.crls[name]
		if b.CRLs[i].Number != l.Number || !bytes.Equal(b.CRLs[i].RawIssuer, l.X509.RawIssuer) {
			return fmt.Errorf("lint: entry %d is not %s", i, name)
		}
	}
	return nil
}

func (s *state) lintRequest(st *step, r *x509.CertificateRequest) error {
	want, err := s.trial(st)
	switch {
	case err != nil:
		return fmt.Errorf("lint: nobody could certify it: %w", err)
	case !bytes.Equal(want.X509.RawSubject, r.RawSubject):
		return errors.New("lint: the name is not the plan's")
	case !same(r.PublicKey, s.keys[st.Key]):
		return errors.New("lint: another public key is in the request")
	case len(r.Extensions) > 0:
		return errors.New("lint: the request has extensions")
	}
	return nil
}

// trial certifies what a request asks for in a hierarchy that is thrown away.
func (s *state) trial(st *step) (*pki.Certificate, error) {
	subject, key := s.subjects[st.Subject], s.keyStep(st.Key)
	wanted := pki.Template{Type: subject.typ, Use: useOf(key.Purpose), Subject: s.subjectName(st), PublicKey: s.keys[st.Key]}
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	upper := pki.Name{Country: "XX", Brand: pki.RootName}
	var issuer *pki.Certificate
	for _, t := range []pki.Template{
		{Type: pki.RCA, Use: pki.Authority, Subject: upper, PublicKey: signer.Public(), NextRootKey: s.keys[st.Key]},
		{Type: pki.BCA, Use: pki.Authority, Subject: pki.Name{Country: "XX", Brand: s.brand}, PublicKey: signer.Public()},
		wanted,
	} {
		if t.Type == pki.BCA && wanted.Type == pki.BCA {
			t = wanted
		}
		t.NotBefore, t.NotAfter = s.now, s.now.AddDate(1, 0, 0)
		c, err := pki.Issue(rand.Reader, t, issuer, signer)
		if err != nil {
			return nil, err
		}
		if issuer = c; same(c.X509.PublicKey, wanted.PublicKey) {
			return c, nil
		}
	}
	return issuer, nil
}
