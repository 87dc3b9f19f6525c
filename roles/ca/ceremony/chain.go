package ceremony

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/setkit/setkit/roles/set/pki"
)

// verify checks the signature on everything that steps have made so far, and the whole path of every
// certificate to a root, with what there is of CRLs and BrandCRLIdentifiers.
func (s *state) verify() error {
	var errs []error
	check := func(name string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	v, err := s.verifier()
	if err != nil {
		return err
	}
	for _, st := range s.steps {
		issuer := s.certs[st.Issuer]
		switch st.kind {
		case root, certificate, cross:
			if c := s.certs[st.name]; c != nil {
				check(st.name, s.verifyCertificate(v, st, c))
			}
		case crl:
			if l := s.crls[st.name]; l != nil {
				check(st.name, errors.Join(l.SignedBy(issuer), s.verifyPath(v, issuer)))
			}
		case bci:
			if b := s.bcis[st.name]; b != nil {
				check(st.name, errors.Join(b.SignedBy(issuer), s.verifyPath(v, issuer)))
			}
		case request:
			if r := s.csrs[st.name]; r != nil {
				check(st.name, r.CheckSignature())
			}
		}
	}
	return errors.Join(errs...)
}

// verifier trusts the roots of the ceremony, new ones and those that are inputs. It is nil without any.
func (s *state) verifier() (*pki.Verifier, error) {
	var roots []*pki.Certificate
	for _, c := range s.certs {
		if c.Type == pki.RCA {
			roots = append(roots, c)
		}
	}
	if len(roots) == 0 {
		return nil, nil
	}
	v, err := pki.NewVerifier(roots, pki.Options{})
	if err != nil {
		return nil, err
	}
	certs, crls := s.all()
	if v, err = v.Update(nil, crls, certs, s.now); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(s.bcis)) {
		if v, err = v.Update(s.bcis[name], crls, certs, s.now); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return v, nil
}

func (s *state) all() ([]*pki.Certificate, []*pki.CRL) {
	return slices.Collect(maps.Values(s.certs)), slices.Collect(maps.Values(s.crls))
}

func (s *state) verifyPath(v *pki.Verifier, c *pki.Certificate) error {
	if v == nil {
		return errors.New("no root at hand for its path: make the certificates above it inputs")
	}
	certs, _ := s.all()
	_, err := v.Verify(c, certs, s.now)
	return err
}

func (s *state) verifyCertificate(v *pki.Verifier, st *step, c *pki.Certificate) error {
	issuer := s.certs[st.Issuer]
	if st.kind == root {
		issuer = c
	}
	if err := errors.Join(c.SignedBy(issuer), s.verifyPath(v, c)); err != nil {
		return err
	}
	if st.Succeeds != "" {
		return pki.NextRoot(s.certs[st.Succeeds], c, s.now)
	}
	return nil
}

// takeKey takes what a token reports of a key that a step makes or uses.
func (s *state) takeKey(st *step, info KeyInfo) error {
	pub, err := info.check(st)
	if err != nil {
		return err
	}
	if pub == nil {
		return nil
	}
	for id, other := range s.keys {
		if same(pub, other) {
			return fmt.Errorf("the token shows the same key as for %s", id)
		}
	}
	if c := s.certs[st.Certificate]; c != nil && !same(pub, c.X509.PublicKey) {
		return fmt.Errorf("%s certifies another key", st.Certificate)
	}
	s.keys[st.name] = pub
	return nil
}
