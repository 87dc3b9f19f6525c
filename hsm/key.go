package hsm

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/miekg/pkcs11"
)

// key is a private or secret key that was found in a token. Its handle holds as long as the token
// stays open; its identity is the token's serial number, its CKA_ID and its public key.
type key struct {
	tok    *Token
	class  uint
	handle pkcs11.ObjectHandle
	info   KeyInfo
}

func (t *Token) keyError(label string, err error) error {
	return fmt.Errorf("token %q: key %q: %w", t.info.Label, label, err)
}

func (k *key) id() ([]byte, error) { return hex.DecodeString(k.info.ID) }

func (k *key) fail(err error) error { return k.tok.keyError(k.info.Label, err) }

// use runs f with a session and the key's handle in it. After a lost device it may run f again, so f
// does nothing that must not be done twice.
func (k *key) use(ctx context.Context, f func(*pkcs11.Ctx, pkcs11.SessionHandle, pkcs11.ObjectHandle) error) error {
	return k.tok.session(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		return f(lib, sh, k.handle)
	})
}

// find returns the one private or secret key labelled label.
func (t *Token) find(ctx context.Context, label string) (k *key, err error) {
	err = t.session(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		k, err = t.findIn(lib, sh, label)
		return err
	})
	if err != nil {
		return nil, t.keyError(label, err)
	}
	return k, nil
}

func (t *Token) findIn(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, label string) (*key, error) {
	handles, classes, err := keysLabelled(lib, sh, label)
	switch {
	case err != nil:
		return nil, err
	case len(handles) == 0:
		return nil, fmt.Errorf("%w: see set-hsm keys list", ErrNotFound)
	case len(handles) > 1:
		return nil, fmt.Errorf("%d keys have this label: which one is meant cannot be told", len(handles))
	}
	info, err := readKey(lib, sh, classes[0], handles[0])
	if err != nil {
		return nil, err
	}
	return &key{t, classes[0], handles[0], info}, nil
}

// keysLabelled finds the private and secret keys labelled label, with their classes.
func keysLabelled(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, label string) (handles []pkcs11.ObjectHandle, classes []uint, err error) {
	for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_SECRET_KEY} {
		found, err := findObjects(lib, sh, ofClass(class), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
		if err != nil {
			return nil, nil, err
		}
		for _, h := range found {
			handles, classes = append(handles, h), append(classes, class)
		}
	}
	return handles, classes, nil
}
