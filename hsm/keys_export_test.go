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
