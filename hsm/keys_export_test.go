package hsm

import (
	"context"

	"github.com/miekg/pkcs11"
)

// ParseEd25519 reads what tokens write in several ways.
var ParseEd25519 = parseEd25519

// TryToUnwrap asks the token to unwrap w with the key labelled with, whatever that key is for, into
// an object that ends with its session.
func TryToUnwrap(ctx context.Context, t *Token, with string, w *WrappedKey) error {
	k, err := t.find(ctx, with)
	if err != nil {
		return err
	}
	return k.use(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) error {
		by, _ := wrappingNamed(w.Mechanism)
		made, err := lib.UnwrapKey(sh, by.parameters(), h, w.Wrapped, []*pkcs11.Attribute{
			ofClass(pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, keyKind(w.Type)),
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		})
		if err != nil {
			return named("C_UnwrapKey", err)
		}
		return named("C_DestroyObject", lib.DestroyObject(sh, made))
	})
}

// StoreCertificate puts a certificate object with any CKA_ID and value into the token, as another
// program would.
func StoreCertificate(ctx context.Context, t *Token, label string, id, value []byte) error {
	return t.sessionOnce(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		_, err := lib.CreateObject(sh, []*pkcs11.Attribute{
			ofClass(pkcs11.CKO_CERTIFICATE), pkcs11.NewAttribute(pkcs11.CKA_CERTIFICATE_TYPE, pkcs11.CKC_X_509),
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false),
			pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_ID, id),
			pkcs11.NewAttribute(pkcs11.CKA_SUBJECT, []byte{0x30, 0}), pkcs11.NewAttribute(pkcs11.CKA_VALUE, value),
		})
		return named("C_CreateObject", err)
	})
}

// CertificateAttributes reads what other programs look certificates up by: subject, issuer and serial
// number.
func CertificateAttributes(ctx context.Context, t *Token, label string) (subject, issuer, serial []byte, err error) {
	err = t.session(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		found, err := findCertificates(lib, sh, pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
		if err != nil {
			return err
		}
		a, err := readAttributes(lib, sh, found[0], pkcs11.CKA_SUBJECT, pkcs11.CKA_ISSUER, pkcs11.CKA_SERIAL_NUMBER)
		subject, issuer, serial = a[pkcs11.CKA_SUBJECT], a[pkcs11.CKA_ISSUER], a[pkcs11.CKA_SERIAL_NUMBER]
		return err
	})
	return subject, issuer, serial, err
}
