package ceremony

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/setkit/setkit/roles/set/pki"
)

// verify checks the signature on everything that steps have made, and the whole path of every
// certificate to a root, with what there is of CRLs and BrandCRLIdentifiers.
func (s *state) verify() error { return s.verifySteps(s.steps...) }

// verifySteps is verify for what some steps have made.
func (s *state) verifySteps(steps ...*step) error {
	v, err := s.verifier()
	if err != nil {
		return err
	}
	var errs []error
	for _, st := range steps {
		if err := s.verifyStep(v, st); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", st.name, err))
		}
	}
	return errors.Join(errs...)
}

func (s *state) verifyStep(v *pki.Verifier, st *step) error {
	issuer := s.certs[st.Issuer]
	switch st.kind {
	case generate, use:
		return nil
	case request:
		return s.csrs[st.name].CheckSignature()
	case crl:
		return errors.Join(s.crls[st.name].SignedBy(issuer), s.verifyPath(v, issuer))
	case bci:
		return errors.Join(s.bcis[st.name].SignedBy(issuer), s.verifyPath(v, issuer))
	}
	return s.verifyCertificate(v, st, s.certs[st.name])
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

// verifyIssuer checks the path of the certificate that a step signs as, before it signs anything.
func (s *state) verifyIssuer(st *step) error {
	if st.Issuer == "" {
		return nil
	}
	v, err := s.verifier()
	if err == nil {
		err = s.verifyPath(v, s.certs[st.Issuer])
	}
	if err != nil {
		return fmt.Errorf("issuer %s: %w", st.Issuer, err)
	}
	return nil
}

// verifyInputs is verifyIssuer for all inputs, as far as no step makes a part of their path.
func (s *state) verifyInputs() error {
	if slices.ContainsFunc(s.steps, func(st *step) bool { return st.kind == root || st.kind == cross }) {
		return nil
	}
	for _, st := range s.steps {
		if s.certs[st.Issuer] == nil {
			continue
		}
		if err := s.verifyIssuer(st); err != nil {
			return fmt.Errorf("line %d: %v: %w", st.line, st, err)
		}
	}
	return nil
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
