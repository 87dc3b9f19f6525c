package ceremony

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

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
		return lintSuccession(s.certs[st.Succeeds], x.RawSubjectPublicKeyInfo)
	}
	return nil
}

// lintSuccession tells whether old announced the key of the next root (SET §6.8).
func lintSuccession(old *pki.Certificate, spki []byte) error {
	if old.NextRootKey == nil {
		return errors.New("lint: the certificate that it succeeds is not a root")
	}
	thumb, err := cms.DD(asn1.ObjectIdentifier{2, 23, 42, 3, 0, 0}, der.Raw(spki))
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
