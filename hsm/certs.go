package hsm

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"
)

// certificateBytesMax bounds a certificate that is imported.
const certificateBytesMax = 64 << 10

var (
	// ErrCertificateExists matches the error for a certificate that is in the token already, or whose
	// label is taken.
	ErrCertificateExists = errors.New("certificate exists")

	// ErrCertificateNotFound matches the error for a certificate that is not in its token.
	ErrCertificateNotFound = errors.New("certificate not found")
)

// Certificate is an X.509 certificate in a token.
type Certificate struct {
	Label string `json:"label"`
	// ID is CKA_ID in hexadecimal: that of the key pair with the certificate's public key or, where
	// there is none, its subject key identifier.
	ID  string `json:"id"`
	DER []byte `json:"der"`
	// X509 is nil if DER cannot be parsed. [Token.ImportCertificate] takes nothing of the kind, but
	// others may have put it there.
	X509 *x509.Certificate `json:"-"`
	// HasKey says that the token has the private key: one with the same CKA_ID and public key.
	HasKey bool `json:"hasKey"`
	// Mismatch says that the private key with the same CKA_ID has another public key. Programs that
	// match by CKA_ID alone fail with this pair.
	Mismatch bool `json:"mismatch"`
}

// Certificates lists the X.509 certificates of the token, sorted by label.
func (t *Token) Certificates(ctx context.Context) ([]Certificate, error) {
	var list []Certificate
	err := t.session(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		found, err := readCertificates(lib, sh)
		list = found
		return err
	})
	if err != nil {
		return nil, t.fail("list certificates", err)
	}
	return list, nil
}

// ImportCertificate stores the certificate der, of at most 64 KiB, under label. If the token has the
// private key to it, the certificate gets the key's CKA_ID, by which other programs pair the two. A
// label that another certificate has is refused, and so is a certificate that is there already; a key
// may have the same label.
func (t *Token) ImportCertificate(ctx context.Context, label string, der []byte) (Certificate, error) {
	err := checkLabel("certificate", label)
	if err == nil && len(der) > certificateBytesMax {
		err = fmt.Errorf("a certificate of %d bytes: at most %d", len(der), certificateBytesMax)
	}
	if err != nil {
		return Certificate{}, t.certificateError(label, fmt.Errorf("import: %w", err))
	}
	parsed, err := x509.ParseCertificate(bytes.Clone(der))
	if err != nil {
		return Certificate{}, t.certificateError(label, fmt.Errorf("import: not a DER certificate: %w", err))
	}
	made, err := t.importCertificate(ctx, label, parsed)
	if err != nil {
		return Certificate{}, t.certificateError(label, fmt.Errorf("import: %w", err))
	}
	return made, nil
}

func (t *Token) importCertificate(ctx context.Context, label string, parsed *x509.Certificate) (Certificate, error) {
	return creating(ctx, t, func() (made Certificate, err error) {
		err = t.withSession(func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
			made, err = importIn(lib, sh, label, parsed)
			return err
		})
		return made, err
	})
}

func importIn(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, label string, parsed *x509.Certificate) (Certificate, error) {
	present, err := readCertificates(lib, sh)
	if err != nil {
		return Certificate{}, err
	}
	for _, c := range present {
		if c.Label == label {
			return Certificate{}, fmt.Errorf("%w: another one has this label: choose another label", ErrCertificateExists)
		}
		if bytes.Equal(c.DER, parsed.Raw) {
			return Certificate{}, fmt.Errorf("%w: it is labelled %q", ErrCertificateExists, c.Label)
		}
	}
	id, err := certificateID(lib, sh, parsed)
	if err != nil {
		return Certificate{}, err
	}
	template, err := certificateTemplate(label, id, parsed)
	if err != nil {
		return Certificate{}, err
	}
	h, err := lib.CreateObject(sh, template)
	if err != nil {
		return Certificate{}, named("C_CreateObject", err)
	}
	made, err := readCertificate(lib, sh, h)
	if err == nil && (made.Label != label || made.ID != hex.EncodeToString(id) || !bytes.Equal(made.DER, parsed.Raw)) {
		err = errors.New("the token stored it differently: it is not kept")
	}
	if err != nil {
		return Certificate{}, followed(err, named("C_DestroyObject", lib.DestroyObject(sh, h)))
	}
	return made, nil
}

func certificateTemplate(label string, id []byte, parsed *x509.Certificate) ([]*pkcs11.Attribute, error) {
	serial, err := asn1.Marshal(parsed.SerialNumber)
	if err != nil {
		return nil, err
	}
	return []*pkcs11.Attribute{
		ofClass(pkcs11.CKO_CERTIFICATE), pkcs11.NewAttribute(pkcs11.CKA_CERTIFICATE_TYPE, pkcs11.CKC_X_509),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false),
		pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_SUBJECT, parsed.RawSubject), pkcs11.NewAttribute(pkcs11.CKA_ISSUER, parsed.RawIssuer),
		pkcs11.NewAttribute(pkcs11.CKA_SERIAL_NUMBER, serial), pkcs11.NewAttribute(pkcs11.CKA_VALUE, parsed.Raw),
	}, nil
}

// certificateID is the CKA_ID of the private key to the certificate or, if the token has none, the
// SHA-1 of its public key.
func certificateID(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, parsed *x509.Certificate) ([]byte, error) {
	handles, err := findObjects(lib, sh, ofClass(pkcs11.CKO_PRIVATE_KEY))
	if err != nil {
		return nil, err
	}
	for _, h := range handles {
		a, err := readAttributes(lib, sh, h, pkcs11.CKA_ID)
		if codeOf(err) == pkcs11.CKR_OBJECT_HANDLE_INVALID {
			continue // deleted since it was found
		}
		if err != nil {
			return nil, err
		}
		pub, err := knownPublicByID(lib, sh, a[pkcs11.CKA_ID])
		if err != nil {
			return nil, err
		}
		if equalPublic(pub, parsed.PublicKey) {
			return a[pkcs11.CKA_ID], nil
		}
	}
	return spkiKeyID(parsed.RawSubjectPublicKeyInfo)
}

// equalPublic reports whether a and b are the same public key. No key equals one that is not known.
func equalPublic(a, b crypto.PublicKey) bool {
	pub, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && b != nil && pub.Equal(b)
}

// DeleteCertificate deletes the certificate labelled label. A key under the same label stays.
func (t *Token) DeleteCertificate(ctx context.Context, label string) error {
	err := t.changeAlone(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		found, err := findCertificates(lib, sh, pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
		switch {
		case err != nil:
			return err
		case len(found) == 0:
			return fmt.Errorf("%w: see set-hsm certs list", ErrCertificateNotFound)
		case len(found) > 1:
			return fmt.Errorf("%d certificates have this label: which one is meant cannot be told", len(found))
		}
		return named("C_DestroyObject", lib.DestroyObject(sh, found[0]))
	})
	if err != nil {
		return t.certificateError(label, fmt.Errorf("delete: %w", err))
	}
	return nil
}

func (t *Token) certificateError(label string, err error) error {
	return fmt.Errorf("token %q: certificate %q: %w", t.info.Label, label, err)
}

func findCertificates(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, more ...*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	return findObjects(lib, sh, append(more, ofClass(pkcs11.CKO_CERTIFICATE),
		pkcs11.NewAttribute(pkcs11.CKA_CERTIFICATE_TYPE, pkcs11.CKC_X_509))...)
}

func readCertificates(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) ([]Certificate, error) {
	handles, err := findCertificates(lib, sh)
	if err != nil {
		return nil, err
	}
	list := []Certificate{}
	for _, h := range handles {
		c, err := readCertificate(lib, sh, h)
		if codeOf(err) == pkcs11.CKR_OBJECT_HANDLE_INVALID {
			continue // deleted since it was found
		}
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b Certificate) int {
		return cmp.Or(strings.Compare(a.Label, b.Label), bytes.Compare(a.DER, b.DER))
	})
	return list, nil
}

func readCertificate(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) (Certificate, error) {
	a, err := readAttributes(lib, sh, h, pkcs11.CKA_LABEL, pkcs11.CKA_ID, pkcs11.CKA_VALUE)
	if err != nil {
		return Certificate{}, err
	}
	id := a[pkcs11.CKA_ID]
	c := Certificate{Label: string(a[pkcs11.CKA_LABEL]), ID: hex.EncodeToString(id), DER: a[pkcs11.CKA_VALUE]}
	if len(c.DER) <= certificateBytesMax {
		if parsed, err := x509.ParseCertificate(c.DER); err == nil {
			c.X509 = parsed
		}
	}
	if len(id) == 0 || c.X509 == nil {
		return c, nil
	}
	keys, err := findObjects(lib, sh, ofClass(pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	if err != nil || len(keys) == 0 {
		return c, err
	}
	pub, err := knownPublicByID(lib, sh, id)
	c.HasKey = equalPublic(pub, c.X509.PublicKey)
	c.Mismatch = pub != nil && !c.HasKey
	return c, err
}
