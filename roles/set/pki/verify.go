package pki

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// Reason tells why a certificate was not accepted, in the classes that a SET Error distinguishes.
type Reason int

// The reasons.
const (
	Invalid Reason = iota + 1 // forged, malformed, or not allowed where it stands
	Expired                   // its validity, or that of a certificate above it, is over
	Revoked                   // listed in a current CRL
	Missing                   // an issuer's certificate, or what tells about revocation, is not at hand
)

// String names the reason.
func (r Reason) String() string {
	switch r {
	case Invalid:
		return "invalid"
	case Expired:
		return "expired"
	case Revoked:
		return "revoked"
	case Missing:
		return "missing"
	}
	return "unknown"
}

// VerifyError says which certificate of a path was not accepted, and why.
type VerifyError struct {
	Reason Reason
	Thumb  CertThumb // the certificate at fault; for Missing the one that nothing could be told about
	Err    error
}

func (e *VerifyError) Error() string { return fmt.Sprintf("certificate %v: %v", e.Reason, e.Err) }

// Unwrap gives the cause.
func (e *VerifyError) Unwrap() error { return e.Err }

func refuse(r Reason, c *Certificate, format string, args ...any) *VerifyError {
	err := fmt.Errorf(format, args...)
	return &VerifyError{r, c.CertThumb(), fmt.Errorf("%v: %w", c, err)}
}

// Verifier validates certificates against installed roots and against a Store of revocation lists. Any
// number of goroutines may use it. What it knows changes by Adopt alone: Update and Succeed give a new one.
type Verifier struct{ now atomic.Pointer[knowledge] }

// knowledge is what a Verifier has at one time. It is not changed once a Verifier has it.
type knowledge struct {
	roots      []*Certificate
	requireBCI bool
	store      Store
}

func (k *knowledge) verifier() *Verifier {
	v := &Verifier{}
	v.now.Store(k)
	return v
}

// Adopt makes v know what other knows now, for a party that learns of new lists and roots while it serves.
func (v *Verifier) Adopt(other *Verifier) { v.now.Store(other.now.Load()) }

// Roots gives the installed roots and those that succeeded them.
func (v *Verifier) Roots() []*Certificate { return slices.Clone(v.now.Load().roots) }

// Options of a Verifier.
type Options struct {
	// RequireBCI refuses every certificate of a brand whose BrandCRLIdentifier is not in the store.
	// Without it only the brands with one are checked for revocation.
	RequireBCI bool
	// Store is what is known of revocation. It is taken as verified: fill it from Verifier.Store, or
	// from storage that nobody else writes.
	Store Store
}

// NewVerifier makes a Verifier that trusts roots, which came to it by a way that is safe in itself.
func NewVerifier(roots []*Certificate, o Options) (*Verifier, error) {
	if len(roots) == 0 {
		return nil, errors.New("verifier: no root certificate is installed")
	}
	for _, root := range roots {
		if root.Type != RCA {
			return nil, fmt.Errorf("verifier: %v is not a root", root)
		}
		if err := errors.Join(root.checkUnder(root), root.SignedBy(root)); err != nil {
			return nil, fmt.Errorf("verifier: root is not signed by itself: %w", err)
		}
	}
	return (&knowledge{slices.Clone(roots), o.RequireBCI, o.Store.clone()}).verifier(), nil
}

// Verify finds a path from leaf to an installed root among the intermediates, which may come in any
// order and with others between them, and checks it for the time at (SET §6.7). If types are given,
// leaf must have at least one of them. Whoever uses leaf's key looks at leaf.Use as well.
//
// The chain starts with leaf and ends with the root. The error is a *VerifyError.
func (v *Verifier) Verify(leaf *Certificate, intermediates []*Certificate, at time.Time, want ...Type) ([]*Certificate, error) {
	if len(want) > 0 && !slices.ContainsFunc(want, leaf.Type.Has) {
		return nil, refuse(Invalid, leaf, "its certificateType is not the one needed here, %v", want)
	}
	k := v.now.Load()
	return k.verify(leaf, intermediates, at, k.checkRevocation)
}

// verify finds a path that also passes check.
func (k *knowledge) verify(leaf *Certificate, intermediates []*Certificate, at time.Time, check pathCheck) ([]*Certificate, error) {
	if len(intermediates) > CandidatesMax {
		return nil, refuse(Invalid, leaf, "%d intermediate certificates, at most %d are allowed", len(intermediates), CandidatesMax)
	}
	s := search{v: k, at: at, check: check, budget: linksMax}
	for _, c := range slices.Concat(k.roots, intermediates) {
		if !s.has(s.pool, c) {
			s.pool = append(s.pool, c)
		}
	}
	if chain := s.extend([]*Certificate{leaf}); chain != nil {
		return chain, nil
	}
	return nil, s.failure
}

// pathCheck is a last check on a chain of leaf to root.
type pathCheck func(chain []*Certificate, at time.Time) *VerifyError

// linksMax bounds the signatures checked in one search.
const linksMax = 128

type search struct {
	v       *knowledge
	pool    []*Certificate
	at      time.Time
	check   pathCheck
	budget  int
	failure *VerifyError // of the first path that failed; a Missing one only if there is no other
}

func (s *search) has(list []*Certificate, c *Certificate) bool {
	return slices.ContainsFunc(list, func(o *Certificate) bool { return o == c || bytes.Equal(o.X509.Raw, c.X509.Raw) })
}

func (s *search) fail(e *VerifyError) []*Certificate {
	if s.failure == nil || s.failure.Reason == Missing && e.Reason != Missing {
		s.failure = e
	}
	return nil
}

// extend completes a chain whose links have been checked, or gives nil.
func (s *search) extend(chain []*Certificate) []*Certificate {
	top := chain[len(chain)-1]
	switch {
	case s.has(s.v.roots, top):
		if err := checkChain(chain, s.at); err != nil {
			return s.fail(err)
		}
		if err := s.check(chain, s.at); err != nil {
			return s.fail(err)
		}
		return chain
	case top.Type == RCA:
		return s.fail(refuse(Invalid, top, "it is not an installed root"))
	case len(chain) == ChainLengthMax:
		return s.fail(refuse(Invalid, chain[0], "no root within %d certificates", ChainLengthMax))
	}
	found := false
	for _, parent := range s.pool {
		if !bytes.Equal(top.X509.RawIssuer, parent.X509.RawSubject) || !bytes.Equal(top.X509.AuthorityKeyId, parent.X509.SubjectKeyId) || s.has(chain, parent) {
			continue
		}
		found = true
		if s.budget--; s.budget < 0 {
			return s.fail(refuse(Invalid, chain[0], "over %d candidates for its path", linksMax))
		}
		if err := top.SignedBy(parent); err != nil {
			s.fail(refuse(Invalid, top, "%w", err))
			continue
		}
		if err := top.checkUnder(parent); err != nil {
			s.fail(refuse(Invalid, top, "%w", err))
			continue
		}
		if full := s.extend(append(slices.Clip(chain), parent)); full != nil {
			return full
		}
	}
	if !found {
		s.fail(refuse(Missing, top, "the certificate of its issuer is not at hand"))
	}
	return nil
}

// checkChain checks what depends on the time and on the place in the chain.
func checkChain(chain []*Certificate, at time.Time) *VerifyError {
	for i, c := range chain {
		if at.After(c.X509.NotAfter) {
			return refuse(Expired, c, "expired on %v", date(c.X509.NotAfter))
		}
		if at.Before(c.X509.NotBefore) {
			return refuse(Invalid, c, "not valid before %v", date(c.X509.NotBefore))
		}
		// Neither c itself nor the leaf counts.
		if below := i - 1; c.pathLen >= 0 && below > c.pathLen {
			return refuse(Invalid, c, "%d certificates below it before the leaf, at most %d are allowed", below, c.pathLen)
		}
	}
	return nil
}

// NextRoot tells whether the root next may take over from trusted, an installed root (SET §6.8): its
// key is the one that trusted announced in hashedRootKey. Both are then trusted until trusted expires.
func NextRoot(trusted, next *Certificate, at time.Time) error {
	if trusted.Type != RCA || next.Type != RCA {
		return errors.New("next root: not a root certificate")
	}
	announced, err := rootKeyThumbprint(next.X509.PublicKey)
	if err != nil {
		return err
	}
	if err := trusted.NextRootKey.Equal(announced); err != nil {
		return fmt.Errorf("next root: %v is not the root that %v announces: %w", next, trusted, err)
	}
	if err := errors.Join(next.checkUnder(next), next.SignedBy(next)); err != nil {
		return fmt.Errorf("next root: not signed by itself: %w", err)
	}
	for _, c := range []*Certificate{trusted, next} {
		if err := checkChain([]*Certificate{c}, at); err != nil {
			return fmt.Errorf("next root: %w", err)
		}
	}
	return nil
}

// Succeed looks, among the certificates of a message, for the roots that the trusted ones announce, and
// gives a Verifier that trusts these too; v itself if there is none (SET §6.8). Who sent them does not
// matter: only the announced key makes a root.
func (v *Verifier) Succeed(certs []*Certificate, at time.Time) *Verifier {
	known := v.now.Load()
	next := &knowledge{slices.Clone(known.roots), known.requireBCI, known.store}
	for i := 0; i < len(next.roots) && len(next.roots) < ChainLengthMax; i++ { // a successor may have one itself
		for _, c := range certs {
			if c.Type == RCA && !next.trusts(c) && NextRoot(next.roots[i], c, at) == nil {
				next.roots = append(next.roots, c)
			}
		}
	}
	if len(next.roots) == len(known.roots) {
		return v
	}
	return next.verifier()
}

func (k *knowledge) trusts(root *Certificate) bool {
	return slices.ContainsFunc(k.roots, func(o *Certificate) bool { return bytes.Equal(o.X509.Raw, root.X509.Raw) })
}
