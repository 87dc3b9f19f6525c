package hsm

import (
	"bytes"
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/miekg/pkcs11"
)

// key is a private or secret key that was found in a token. Its identity is the token's serial number,
// its CKA_ID and its public key; its handle holds as long as the token's link.
type key struct {
	tok   *Token
	class uint
	info  KeyInfo

	// same tells whether the object of a handle is this key where the public key cannot: it is run
	// whenever the key has been looked up anew. It may be nil.
	same keyFunc

	nativeOAEP []crypto.Hash // of a key for key exchange: what the token decodes by itself

	mu     sync.Mutex
	handle pkcs11.ObjectHandle
	on     *link // on which handle holds
}

type keyFunc = func(*pkcs11.Ctx, pkcs11.SessionHandle, pkcs11.ObjectHandle) error

func (t *Token) keyError(label string, err error) error {
	return fmt.Errorf("token %q: key %q: %w", t.info.Label, label, err)
}

func (k *key) id() ([]byte, error) { return hex.DecodeString(k.info.ID) }

func (k *key) fail(err error) error { return k.tok.keyError(k.info.Label, err) }

// use runs f with a session and the key's handle in it. After a lost device it may run f again, so f
// does nothing that must not be done twice. See session for what f may touch.
func (k *key) use(ctx context.Context, f keyFunc) error {
	_, err := k.do(ctx, call{tries: triesMax}, f)
	return err
}

// do returns the link on which f succeeded.
func (k *key) do(ctx context.Context, c call, f keyFunc) (*link, error) {
	c.key = &k.info
	return k.tok.call(ctx, c, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		h, err := k.find(lib, sh)
		if err == nil && c.blind {
			err = k.recognise(lib, sh, h)
		}
		if err != nil {
			return err
		}
		return f(lib, sh, h)
	})
}

// recognise returns an error if h is not the key's handle any more. When somebody else in the process
// ends our sessions and opens others, these can have the numbers of ours, and objects those of other
// keys. A signature is verified; what a key makes otherwise would be taken for the work of another one.
func (k *key) recognise(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) error {
	a, err := readAttributes(lib, sh, h, pkcs11.CKA_ID, pkcs11.CKA_LABEL)
	if err != nil {
		return err
	}
	if hex.EncodeToString(a[pkcs11.CKA_ID]) != k.info.ID || string(a[pkcs11.CKA_LABEL]) != k.info.Label {
		return &lostError{err: errors.New("the key's handle is that of another key now"), giveUp: true}
	}
	return nil
}

// adopt makes same the key's test, and puts the key to it.
func (k *key) adopt(ctx context.Context, same keyFunc) error {
	k.mu.Lock()
	k.same, k.on = same, nil
	k.mu.Unlock()
	return k.use(ctx, func(*pkcs11.Ctx, pkcs11.SessionHandle, pkcs11.ObjectHandle) error { return nil })
}

// find returns the key's handle on the present link. A handle of another link may name another key, so
// there the key is looked up and compared with what is known of it.
func (k *key) find(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) (pkcs11.ObjectHandle, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	on := k.tok.link.Load()
	if on != nil && on == k.on {
		return k.handle, nil
	}
	handles, classes, err := keysLabelled(lib, sh, k.info.Label)
	switch {
	case err != nil:
		return 0, err
	case len(handles) == 0 && on != nil && !on.worked.Load() && k.tok.loggedIn(sh):
		return 0, ErrNotFound
	case len(handles) == 0:
		// It was there. A token that has lost its keys may have them again after a new start, and
		// one that has lost the login shows none.
		return 0, &lostError{err: ErrNotFound, giveUp: true}
	case len(handles) > 1:
		return 0, fmt.Errorf("%d keys have this label: which one is meant cannot be told", len(handles))
	}
	info, err := readKey(lib, sh, classes[0], handles[0])
	if err != nil {
		return 0, err
	}
	if classes[0] != k.class || info.ID != k.info.ID || info.Type != k.info.Type || info.Purpose != k.info.Purpose ||
		!bytes.Equal(info.SPKI, k.info.SPKI) || !slices.Equal(info.Usages, k.info.Usages) {
		return 0, errAnotherKey
	}
	if k.same != nil {
		if err := k.same(lib, sh, handles[0]); err != nil {
			return 0, err
		}
	}
	k.handle, k.on = handles[0], on
	return k.handle, nil
}

var errAnotherKey = errors.New("the token has another key under this label now: restart the program if that is right")

// find returns the one private or secret key labelled label.
func (t *Token) find(ctx context.Context, label string) (*key, error) {
	var found *key
	err := t.session(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		k, err := t.findIn(lib, sh, label)
		found = k
		return err
	})
	if err != nil {
		return nil, t.keyError(label, err)
	}
	return found, nil
}

func (t *Token) findIn(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, label string) (*key, error) {
	on := t.link.Load()
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
	return &key{tok: t, class: classes[0], info: info, handle: handles[0], on: on}, nil
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
