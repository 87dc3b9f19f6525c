package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

// Authority is one CA: the keys with which it exchanges messages, and the one with which it certifies.
type Authority struct {
	Endpoint    *set.Endpoint    // its Verifier knows the BrandCRLIdentifier and the CRLs
	Certificate *pki.Certificate // signs certificates
	Key         crypto.Signer    // of Certificate
	Validity    time.Duration    // of what it issues, at most
	ByHand      bool             // whether an operator approves each request that has passed the checks
}

// Form is what a CA shows to whoever registers.
type Form struct {
	ID     set.Natural // another one for every change of the form
	Policy set.PolicyText
	Fields []set.RegField
}

func (f Form) template() set.RegFormData {
	return set.RegFormData{RegTemplate: &set.RegTemplate{RegFormID: f.ID, RegFieldSeq: f.Fields}, Policy: f.Policy}
}

// check tells whether the form has the fields at these places and can be sent.
func (f Form) check(where string, want int) error {
	switch {
	case f.Policy == "":
		return fmt.Errorf("%s: form without a policy", where)
	case len(f.Fields) != want:
		return fmt.Errorf("%s: form of %d fields, want %d", where, len(f.Fields), want)
	}
	for i, field := range f.Fields {
		if len(field.FieldName) == 0 || field.FieldLen < 1 || field.FieldLen > set.FieldLenMax {
			return fmt.Errorf("%s: form field %d without a name, or of a length that is not 1 to %d", where, i+1, set.FieldLenMax)
		}
		for _, other := range f.Fields[:i] {
			if slices.Equal(other.FieldName, field.FieldName) {
				return fmt.Errorf("%s: two form fields are called %q", where, field.FieldName)
			}
		}
	}
	if _, err := der.Marshal(f.template()); err != nil {
		return fmt.Errorf("%s: form: %w", where, err)
	}
	return nil
}

// formFor gives the form for a kind of request. Merchants and gateways that renew are asked nothing: their
// certificate vouches for them.
func (a *authority) formFor(t set.RequestType) set.RegFormData {
	if t < set.MerRenewalSig {
		return a.form
	}
	return set.RegFormData{RegTemplate: &set.RegTemplate{RegFormID: a.form.RegTemplate.RegFormID}, Policy: a.form.Policy}
}

// clockSkew is how far back a new certificate is dated, for those whose clocks are behind.
const clockSkew = 5 * time.Minute

// authority is an Authority at work.
type authority struct {
	Authority
	name string // and path
	form set.RegFormData
}

// newAuthority checks an Authority. crlSigner is the CA below the brand's that issues CRLs.
func newAuthority(name string, typ pki.Type, a Authority, crlSigner *pki.Certificate, form set.RegFormData, now time.Time) (*authority, error) {
	// Whoever validates what is certified here, and the CRLs that are sent, needs these too.
	e := *a.Endpoint
	e.Chain = append(slices.Clone(e.Chain), a.Certificate)
	if crlSigner != a.Certificate {
		e.Chain = append(e.Chain, crlSigner)
	}
	a.Endpoint = &e
	out := &authority{Authority: a, name: name, form: form}
	for _, k := range []struct {
		what string
		cert *pki.Certificate
		use  pki.Use
		key  crypto.PublicKey
	}{
		{"signature", e.SignCert, pki.Signature, e.SignKey.Public()},
		{"key-exchange", e.ExchangeCert, pki.KeyExchange, e.ExchangeKey.Public()},
		{"certificate-signing", a.Certificate, pki.Authority, a.Key.Public()},
	} {
		public, ok := k.cert.X509.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
		switch {
		case !k.cert.Type.Has(typ) || k.cert.Use != k.use:
			return nil, fmt.Errorf("%s: %s certificate: it is a %v certificate for %v", name, k.what, k.cert.Type, k.cert.Use)
		case !ok || !public.Equal(k.key):
			return nil, fmt.Errorf("%s: %s certificate: it is not of the configured key", name, k.what)
		}
	}
	if a.Validity <= 0 {
		return nil, fmt.Errorf("%s: no validity for the certificates that it issues", name)
	}
	return out, out.current(now)
}

// current tells whether the CA's own certificates are valid.
func (a *authority) current(now time.Time) error {
	for _, c := range []*pki.Certificate{a.Endpoint.SignCert, a.Endpoint.ExchangeCert, a.Certificate} {
		if _, err := a.Endpoint.Verifier.Verify(c, a.Endpoint.Chain, now); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
		if p := c.PrivateKeyUsage; p != nil && now.After(p.NotAfter) {
			return fmt.Errorf("%s: the key of %v may not sign any more since %v: it needs a new one", a.name, c, p.NotAfter.Format(time.RFC3339))
		}
	}
	return nil
}

// errTooShort tells that nothing can be certified for so short a time.
var errTooShort = errors.New("the certificate would expire at once")

// issue certifies a key for as long as the CA does, but not beyond limit unless that is zero.
func (a *authority) issue(now, limit time.Time, t pki.Template) (*pki.Certificate, error) {
	t.NotBefore = now.Add(-clockSkew)
	if first := a.Certificate.X509.NotBefore; t.NotBefore.Before(first) {
		t.NotBefore = first
	}
	t.NotAfter = now.Add(a.Validity)
	if last := a.Certificate.X509.NotAfter; t.NotAfter.After(last) {
		t.NotAfter = last
	}
	if !limit.IsZero() && !t.NotAfter.Before(limit) {
		t.NotAfter = limit.Add(-time.Second)
	}
	if !t.NotAfter.After(now) {
		return nil, errTooShort
	}
	return pki.Issue(rand.Reader, t, a.Certificate, a.Key)
}

// keyDigest names a public key.
func keyDigest(key crypto.PublicKey) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(spki)
	return sum[:], nil
}

// refuse is a CertRes without a certificate.
func refuse(code set.CertStatusCode, format string, args ...any) *set.CertStatusError {
	return &set.CertStatusError{Code: code, Message: fmt.Sprintf(format, args...)}
}
