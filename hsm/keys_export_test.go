package hsm

import (
	"context"
	"errors"

	"github.com/miekg/pkcs11"
)

// ParseEd25519 and ParseRSA read what tokens write.
var (
	ParseEd25519 = parseEd25519
	ParseRSA     = parseRSA
)

// CheckSecret checks what a token derived.
var CheckSecret = checkSecret

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

// StoreRSA puts an RSA key pair into the token as another program would: both halves have this CKA_ID and
// label, and neither is looked at. more are further attributes of the public key.
func StoreRSA(ctx context.Context, t *Token, label string, id, modulus []byte, more ...*pkcs11.Attribute) error {
	public := append([]*pkcs11.Attribute{
		ofClass(pkcs11.CKO_PUBLIC_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS, modulus), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
	}, more...)
	private := []*pkcs11.Attribute{
		ofClass(pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS, modulus), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE_EXPONENT, modulus),
	}
	return t.sessionOnce(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		for _, template := range [][]*pkcs11.Attribute{public, private} {
			if _, err := lib.CreateObject(sh, template); err != nil {
				return named("C_CreateObject", err)
			}
		}
		return nil
	})
}

// HoldSessionObjects makes a secret and a public key in a session that stays open until release, as a call
// that derives and one that wraps for an RSA key do.
func HoldSessionObjects(ctx context.Context, t *Token) (release func(), err error) {
	made, done, ended := make(chan error, 1), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		_ = t.sessionOnce(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
			public := []*pkcs11.Attribute{
				ofClass(pkcs11.CKO_PUBLIC_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
				pkcs11.NewAttribute(pkcs11.CKA_MODULUS, make([]byte, 256)), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{3}),
			}
			secret := []*pkcs11.Attribute{
				ofClass(pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
				pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false), pkcs11.NewAttribute(pkcs11.CKA_VALUE, make([]byte, 32)),
			}
			_, err := lib.CreateObject(sh, public)
			if err == nil {
				_, err = lib.CreateObject(sh, secret)
			}
			made <- err
			<-done
			return errors.New("close the session")
		})
	}()
	return func() { close(done); <-ended }, <-made
}

// StoreSecret puts a secret key of 32 zeros into the token as another program would: without a CKA_ID, and
// extractable.
func StoreSecret(ctx context.Context, t *Token, label string, kind uint, usages ...string) error {
	set, err := keyAttributes(label, []byte{0}, false, secretUsages, usages)
	if err == nil {
		err = errors.Join(set.Set(pkcs11.CKA_EXTRACTABLE, true), set.Set(pkcs11.CKA_ID, []byte{}))
	}
	if err != nil {
		return err
	}
	template := append(set.ToSlice(), ofClass(pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, kind), pkcs11.NewAttribute(pkcs11.CKA_VALUE, make([]byte, 32)))
	return t.sessionOnce(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		_, err := lib.CreateObject(sh, template)
		return named("C_CreateObject", err)
	})
}
