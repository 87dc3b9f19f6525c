package pki

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Store is what a party knows of revocation: the newest BrandCRLIdentifier of each brand, the CRLs that
// those name, and the newest CRL of each root. The zero Store is empty. It keeps as DER: BCIs by Raw,
// CRLs by X509.Raw.
type Store struct {
	BCIs []*BrandCRLIdentifier
	CRLs []*CRL
}

func (s Store) clone() Store { return Store{slices.Clone(s.BCIs), slices.Clone(s.CRLs)} }

// BCI gives the BrandCRLIdentifier of a brand CA's brand, or nil.
func (s Store) BCI(brand string) *BrandCRLIdentifier {
	i := slices.IndexFunc(s.BCIs, func(b *BrandCRLIdentifier) bool { return strings.EqualFold(b.Brand, brand) })
	if i < 0 {
		return nil
	}
	return s.BCIs[i]
}

func (s Store) crl(rawIssuer []byte, number int64) *CRL {
	i := slices.IndexFunc(s.CRLs, func(l *CRL) bool {
		return l.Number == number && bytes.Equal(l.X509.RawIssuer, rawIssuer)
	})
	if i < 0 {
		return nil
	}
	return s.CRLs[i]
}

// Store gives what the Verifier knows of revocation, to be kept.
func (v *Verifier) Store() Store { return v.now.Load().store.clone() }

// Update verifies what a message brought, a BrandCRLIdentifier (or nil) and CRLs, with the help of the
// message's certificates, and gives the Verifier that knows it (SET §6.6):
//
//   - a BCI with a lower sequence number than the one known is ignored;
//   - CRLs that no BCI names are neither looked at nor kept, but for the newest of each root;
//   - CRLs no longer named are dropped;
//   - a CRL whose signer's certificate is not at hand is not taken: until it comes again with that, nothing can be told
//     about what its issuer has certified.
//
// On an error nothing is taken.
func (v *Verifier) Update(bci *BrandCRLIdentifier, crls []*CRL, certs []*Certificate, at time.Time) (*Verifier, error) {
	known := v.now.Load()
	next := &knowledge{known.roots, known.requireBCI, known.store.clone()}
	for _, l := range crls {
		if err := next.takeRootCRL(l); err != nil {
			return nil, err
		}
	}
	if bci != nil {
		if err := next.takeBCI(bci, certs, at); err != nil {
			return nil, err
		}
	}
	next.store.CRLs = slices.DeleteFunc(next.store.CRLs, func(l *CRL) bool { return !next.keeps(l) })
	for _, l := range crls {
		if !next.keeps(l) || next.store.crl(l.X509.RawIssuer, l.Number) != nil {
			continue
		}
		err := next.checkCRLSigner(l, certs, at)
		if errors.Is(err, errNoSigner) {
			continue
		}
		if err != nil {
			return nil, err
		}
		next.store.CRLs = append(next.store.CRLs, l)
	}
	return next.verifier(), nil
}

// takeRootCRL puts a root's CRL into the store, unless it knows one as new.
func (k *knowledge) takeRootCRL(l *CRL) error {
	root := k.rootOf(l)
	if root == nil {
		return nil
	}
	newer := func(o *CRL) bool { return k.rootOf(o) == root && o.Number >= l.Number }
	if slices.ContainsFunc(k.store.CRLs, newer) {
		return nil
	}
	if err := l.SignedBy(root); err != nil {
		return err
	}
	k.store.CRLs = append(k.store.CRLs, l)
	return nil
}

// rootOf gives the root that the CRL says it is from.
func (k *knowledge) rootOf(l *CRL) *Certificate {
	for _, root := range k.roots {
		if l.isOf(root) {
			return root
		}
	}
	return nil
}

// keeps tells whether the store has a place for a CRL: a BCI names it, or it is a root's newest.
func (k *knowledge) keeps(l *CRL) bool {
	for _, b := range k.store.BCIs {
		if n, ok := b.number(l.X509.RawIssuer); ok && n == l.Number {
			return true
		}
	}
	root := k.rootOf(l)
	return root != nil && !slices.ContainsFunc(k.store.CRLs, func(o *CRL) bool { return k.rootOf(o) == root && o.Number > l.Number })
}

func (k *knowledge) takeBCI(bci *BrandCRLIdentifier, certs []*Certificate, at time.Time) error {
	old := k.store.BCI(bci.Brand)
	if old != nil && (bci.Sequence < old.Sequence || bytes.Equal(bci.Raw, old.Raw)) {
		return nil
	}
	if !bci.Validity.contains(at) {
		return fmt.Errorf("BrandCRLIdentifier %d: valid from %v to %v only", bci.Sequence, date(bci.Validity.NotBefore), date(bci.Validity.NotAfter))
	}
	err := k.bySigner(bci.authority, certs, bci.SignedBy, at, k.checkRootCRLs)
	if err != nil {
		return fmt.Errorf("BrandCRLIdentifier %d of brand %q: %w", bci.Sequence, bci.Brand, err)
	}
	if old != nil && bci.Sequence == old.Sequence {
		return fmt.Errorf("BrandCRLIdentifier %d of brand %q: another with this number is known", bci.Sequence, bci.Brand)
	}
	k.store.BCIs = slices.DeleteFunc(k.store.BCIs, func(b *BrandCRLIdentifier) bool { return b == old })
	k.store.BCIs = append(k.store.BCIs, bci)
	return nil
}

// checkCRLSigner does not ask whether the signer of a CRL is revoked: if it is, so is all that it issued.
func (k *knowledge) checkCRLSigner(l *CRL, certs []*Certificate, at time.Time) error {
	err := k.bySigner(l.X509.AuthorityKeyId, certs, l.SignedBy, at, func([]*Certificate, time.Time) *VerifyError { return nil })
	if err != nil {
		return fmt.Errorf("CRL %d of %q: %w", l.Number, l.Issuer.Unit, err)
	}
	return nil
}

// bySigner looks among certificates and roots for one with the key of the identifier that signedBy
// accepts and that has a valid path.
func (k *knowledge) bySigner(keyID []byte, certs []*Certificate, signedBy func(*Certificate) error, at time.Time, check pathCheck) error {
	if len(certs) > CandidatesMax {
		return fmt.Errorf("%d certificates with it, at most %d are allowed", len(certs), CandidatesMax)
	}
	var first error
	for _, c := range slices.Concat(k.roots, certs) {
		if !bytes.Equal(c.X509.SubjectKeyId, keyID) {
			continue
		}
		err := signedBy(c)
		if err == nil {
			_, err = k.verify(c, certs, at, check)
		}
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	if first == nil {
		return errNoSigner
	}
	return first
}

var errNoSigner = errors.New("the certificate of its signer is not at hand")

// checkRootCRLs refuses a chain whose second certificate from the top its root has revoked.
func (k *knowledge) checkRootCRLs(chain []*Certificate, _ time.Time) *VerifyError {
	if len(chain) < 2 {
		return nil
	}
	top, root := chain[len(chain)-2], chain[len(chain)-1]
	for _, l := range k.store.CRLs {
		if l.isOf(root) && l.Revokes(top.X509.SerialNumber) {
			return refuse(Revoked, top, "revoked by the root's CRL %d", l.Number)
		}
	}
	return nil
}

// checkRevocation holds a chain against the CRLs that the brand's current BrandCRLIdentifier names. An
// issuer that it does not name has revoked nothing.
func (k *knowledge) checkRevocation(chain []*Certificate, at time.Time) *VerifyError {
	if len(chain) < 2 {
		return nil
	}
	if err := k.checkRootCRLs(chain, at); err != nil {
		return err
	}
	brand := chain[len(chain)-2].Brand() // the brand CA's
	bci := k.store.BCI(brand)
	switch {
	case bci == nil && k.requireBCI:
		return refuse(Missing, chain[0], "no BrandCRLIdentifier of brand %q is at hand", brand)
	case bci == nil:
		return nil
	case !bci.Validity.contains(at):
		return refuse(Missing, chain[0], "BrandCRLIdentifier %d of brand %q is not valid at this time: ask for the current one", bci.Sequence, brand)
	}
	for i, c := range chain[:len(chain)-1] {
		number, named := bci.number(c.X509.RawIssuer)
		if !named {
			continue
		}
		l := k.store.crl(c.X509.RawIssuer, number)
		switch {
		case l == nil:
			return refuse(Missing, c, "CRL %d of its issuer is not at hand", number)
		case at.After(l.X509.NextUpdate):
			return refuse(Missing, c, "CRL %d of its issuer is out of date", number)
		case l.Revokes(c.X509.SerialNumber):
			return refuse(Revoked, c, "revoked by CRL %d of %v", number, chain[i+1])
		}
	}
	return nil
}
