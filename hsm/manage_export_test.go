package hsm

import (
	"context"
	"slices"

	"github.com/miekg/pkcs11"
)

// CopyKey copies a private key under another label, and leaves everything else as it is.
func CopyKey(ctx context.Context, t *Token, label, to string) error {
	k, err := t.find(ctx, label)
	if err != nil {
		return err
	}
	return k.use(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) error {
		_, err := lib.CopyObject(sh, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, to)})
		return err
	})
}

// RenameByCopy renames a key in the way of unmodifiable keys, which SoftHSM lets be done to modifiable
// ones only.
func RenameByCopy(ctx context.Context, t *Token, label, to string) error {
	k, err := t.find(ctx, label)
	if err != nil {
		return err
	}
	return t.changeAlone(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		k, err := t.findIn(lib, sh, k.info.Label)
		if err == nil {
			_, err = k.relabelByCopy(lib, sh, to)
		}
		return err
	})
}

// DestroyPrivate destroys a private key and leaves its public key.
func DestroyPrivate(ctx context.Context, t *Token, label string) error {
	k, err := t.find(ctx, label)
	if err != nil {
		return err
	}
	return k.use(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) error {
		return lib.DestroyObject(sh, h)
	})
}

// PublicLabels are the labels of the public keys, sorted.
func PublicLabels(ctx context.Context, t *Token) (list []string, err error) {
	err = t.session(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		found, err := findObjects(lib, sh, ofClass(pkcs11.CKO_PUBLIC_KEY))
		for _, h := range found {
			a, err := readAttributes(lib, sh, h, pkcs11.CKA_LABEL)
			if err != nil {
				return err
			}
			list = append(list, string(a[pkcs11.CKA_LABEL]))
		}
		return err
	})
	slices.Sort(list)
	return list, err
}

// CloseSessions closes the token's sessions, and with them the login, behind the package's back.
func CloseSessions(t *Token) error { return t.m.lib.CloseAllSessions(t.slot) }

// CompareCopy compares the key labelled label with the one labelled other, as if that were its copy.
func CompareCopy(ctx context.Context, t *Token, label, other string, stays bool) error {
	return t.session(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		a, err := t.findIn(lib, sh, label)
		if err != nil {
			return err
		}
		b, err := t.findIn(lib, sh, other)
		if err != nil {
			return err
		}
		return a.sameBut(lib, sh, b.handle, other, stays)
	})
}
