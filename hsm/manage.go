package hsm

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// CheckKey returns an error if GenerateKey would refuse this label, purpose or type in any token.
func CheckKey(label string, purpose Purpose, typ KeyType) error {
	_, err := planFor(label, purpose, typ)
	return err
}

// NativeOAEP returns the digests with which the token itself decodes RSAES-OAEP right. For the others
// it does the RSA operation, and the padding is decoded outside of it.
func (d *Decrypter) NativeOAEP() []crypto.Hash {
	d.copies.mu.Lock()
	defer d.copies.mu.Unlock()
	for _, k := range d.copies.keys {
		if k != nil {
			return slices.Clone(k.nativeOAEP)
		}
	}
	return nil
}

// RenameKey gives the private or secret key labelled label, and its public key, the label to. Where
// several keys have the label, id, the CKA_ID, says which one is meant; otherwise it may be nil. The
// rules for labels are those of [Token.GenerateKey].
//
// A key that cannot be modified, as those made here, is copied under its new label, the copy is
// compared with the key, and the key is then destroyed. If that is cut short, the key is there under
// both labels, and [Token.DeleteKey] of the old one ends it. Not every token can do this: SoftHSM lets
// an unmodifiable key neither be copied so nor be relabelled, and the key stays what it was. Whoever
// uses a renamed key in this process has to look it up again.
func (t *Token) RenameKey(ctx context.Context, label string, id []byte, to string) (KeyInfo, error) {
	var renamed KeyInfo
	id = bytes.Clone(id)
	err := t.changeAlone(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		k, err := t.choose(lib, sh, label, id)
		if err != nil {
			return err
		}
		if err := mayBeCalled(k.info, to); err != nil {
			return err
		}
		taken, _, err := keysLabelled(lib, sh, to)
		if err == nil && len(taken) > 0 {
			err = fmt.Errorf("%q: %w", to, ErrKeyExists)
		}
		if err != nil {
			return err
		}
		h, err := k.relabel(lib, sh, to)
		if err == nil {
			renamed, err = readKey(lib, sh, k.class, h)
		}
		return err
	})
	if err != nil {
		return KeyInfo{}, t.keyError(label, fmt.Errorf("rename: %w", err))
	}
	return renamed, nil
}

// mayBeCalled applies GenerateKey's rules for labels to a key that exists.
func mayBeCalled(info KeyInfo, label string) error {
	if strings.HasPrefix(info.Label, unfinishedPrefix) {
		return errUnfinished
	}
	return checkKeyLabel(label, info.Purpose)
}

var errUnfinished = errors.New("its making was cut short, and it cannot be used: delete it with set-hsm keys delete")

// relabel returns the handle of the key under its new label.
func (k *key) relabel(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, to string) (pkcs11.ObjectHandle, error) {
	if k.info.Modifiable {
		return k.handle, k.relabelInPlace(lib, sh, to)
	}
	copied, cerr := k.relabelByCopy(lib, sh, to)
	if cerr == nil {
		return copied, nil
	}
	// Some tokens copy no keys, and let the label of an unmodifiable key be set.
	if err := k.relabelInPlace(lib, sh, to); err != nil {
		return 0, &notRenamed{cerr, err}
	}
	return k.handle, nil
}

// notRenamed is the error of a token that has no way to rename a key, with what it said to both.
type notRenamed struct{ copying, setting error }

func (e *notRenamed) Error() string {
	return fmt.Sprintf("it was made unmodifiable, and this token neither copies it under another label (%s) nor changes its label (%s): "+
		"it keeps its label: make a new key instead", brief(e.copying), brief(e.setting))
}

func (e *notRenamed) Unwrap() []error { return []error{e.copying, e.setting} }

func labelAttribute(label string) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)}
}

func (k *key) relabelInPlace(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, to string) error {
	if err := lib.SetAttributeValue(sh, k.handle, labelAttribute(to)); err != nil {
		return named("C_SetAttributeValue", err)
	}
	err := k.relabelPublic(lib, sh, to)
	if err != nil { // then nothing is to have changed
		back := lib.SetAttributeValue(sh, k.handle, labelAttribute(k.info.Label))
		err = followed(err, named("C_SetAttributeValue", back))
	}
	return err
}

// relabelByCopy replaces the key with a copy under another label, or leaves everything as it is.
func (k *key) relabelByCopy(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, to string) (pkcs11.ObjectHandle, error) {
	if err := k.tryCopy(lib, sh, to); err != nil {
		return 0, err
	}
	copied, err := lib.CopyObject(sh, k.handle, labelAttribute(to))
	if err != nil {
		return 0, named("C_CopyObject", err)
	}
	if copied == k.handle {
		return 0, errInPlace // to destroy the copy would be to destroy the key
	}
	err = k.sameBut(lib, sh, copied, to, true)
	if err == nil {
		err = k.relabelPublic(lib, sh, to)
	}
	if err == nil {
		if err = named("C_DestroyObject", lib.DestroyObject(sh, k.handle)); err != nil {
			err = followed(err, k.relabelPublic(lib, sh, k.info.Label))
		}
	}
	if err != nil {
		return 0, followed(err, named("C_DestroyObject", lib.DestroyObject(sh, copied)))
	}
	return copied, nil
}

var errInPlace = errors.New("the token has changed the key itself instead of copying it: see set-hsm keys show")

// tryCopy finds out what the token's copies are worth, with one that goes with the session. NSS forgets
// that a copy was always sensitive, and when a secret key's copy is to stay it changes the key itself so.
func (k *key) tryCopy(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, to string) error {
	copied, err := lib.CopyObject(sh, k.handle, append(labelAttribute(to), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false)))
	if err != nil {
		return named("C_CopyObject", err)
	}
	if copied == k.handle {
		return errInPlace
	}
	err = k.sameBut(lib, sh, copied, to, false)
	return followed(err, named("C_DestroyObject", lib.DestroyObject(sh, copied)))
}

// copiedAttributes are what a copy must share with its original, beside the usages.
var copiedAttributes = []uint{
	pkcs11.CKA_CLASS, pkcs11.CKA_PRIVATE, pkcs11.CKA_ID, pkcs11.CKA_KEY_TYPE,
	pkcs11.CKA_SENSITIVE, pkcs11.CKA_EXTRACTABLE, pkcs11.CKA_ALWAYS_SENSITIVE, pkcs11.CKA_NEVER_EXTRACTABLE,
	pkcs11.CKA_LOCAL, pkcs11.CKA_MODIFIABLE, pkcs11.CKA_KEY_GEN_MECHANISM, pkcs11.CKA_WRAP_WITH_TRUSTED,
	pkcs11.CKA_TRUSTED, pkcs11.CKA_ALWAYS_AUTHENTICATE, pkcs11.CKA_START_DATE, pkcs11.CKA_END_DATE,
	pkcs11.CKA_SUBJECT, pkcs11.CKA_CHECK_VALUE, pkcs11.CKA_VALUE_LEN, pkcs11.CKA_MODULUS,
	pkcs11.CKA_PUBLIC_EXPONENT, pkcs11.CKA_EC_PARAMS, pkcs11.CKA_ALLOWED_MECHANISMS,
}

// sameBut returns an error unless the object copied is the key with the label to, and stays in the token
// or goes with the session.
func (k *key) sameBut(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, copied pkcs11.ObjectHandle, to string, stays bool) error {
	types := slices.Clone(copiedAttributes)
	for _, u := range slices.Concat(privateUsages, secretUsages) {
		if !slices.Contains(types, u.attribute) {
			types = append(types, u.attribute)
		}
	}
	want, err := readAttributes(lib, sh, k.handle, types...)
	if err != nil {
		return err
	}
	got, err := readAttributes(lib, sh, copied, append(types, pkcs11.CKA_LABEL, pkcs11.CKA_TOKEN)...)
	if err != nil {
		return err
	}
	if string(got[pkcs11.CKA_LABEL]) != to || got.truth(pkcs11.CKA_TOKEN) != stays {
		return fmt.Errorf("the token gave the copy the label %q, and CKA_TOKEN %t", got[pkcs11.CKA_LABEL], got.truth(pkcs11.CKA_TOKEN))
	}
	for _, typ := range types {
		if !bytes.Equal(got[typ], want[typ]) {
			return fmt.Errorf("the token made a copy that differs in attribute 0x%X: the copy was destroyed", typ)
		}
	}
	return nil
}

// relabelPublic sets the label of the key's public key, if that is in the token.
func (k *key) relabelPublic(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, to string) error {
	id, err := k.id()
	if err != nil || k.class != pkcs11.CKO_PRIVATE_KEY || len(id) == 0 {
		return err
	}
	found, err := findObjects(lib, sh, ofClass(pkcs11.CKO_PUBLIC_KEY), pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	if err != nil || len(found) != 1 {
		return err
	}
	err = lib.SetAttributeValue(sh, found[0], labelAttribute(to))
	if err == nil {
		return nil
	}
	copied, cerr := lib.CopyObject(sh, found[0], labelAttribute(to))
	if cerr != nil {
		return fmt.Errorf("its public key: %w; %w", named("C_SetAttributeValue", err), named("C_CopyObject", cerr))
	}
	if copied == found[0] {
		return nil // to destroy what was copied would be to destroy the copy
	}
	return named("C_DestroyObject", lib.DestroyObject(sh, found[0]))
}

// DeleteKey destroys the private or secret key labelled label, and its public key. Where several keys
// have the label, id, the CKA_ID, says which one is meant; otherwise it may be nil. What a deletion or
// a generation that was cut short has left behind, a public key without a private one, is deleted by
// its label too. Copies of the key in other tokens are not touched.
func (t *Token) DeleteKey(ctx context.Context, label string, id []byte) error {
	id = bytes.Clone(id)
	err := t.changeAlone(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		k, err := t.choose(lib, sh, label, id)
		if errors.Is(err, ErrNotFound) {
			n, oerr := destroyOrphans(lib, sh, pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), id)
			if oerr != nil || n > 0 {
				return oerr
			}
		}
		if err != nil {
			return err
		}
		if err := lib.DestroyObject(sh, k.handle); err != nil {
			return named("C_DestroyObject", err)
		}
		kid, err := k.id()
		if err != nil || k.class != pkcs11.CKO_PRIVATE_KEY || len(kid) == 0 {
			return err
		}
		if _, err = destroyOrphans(lib, sh, pkcs11.NewAttribute(pkcs11.CKA_ID, kid), nil); err != nil {
			return fmt.Errorf("the key is gone, its public key is not: delete again: %w", err)
		}
		return nil
	})
	if err != nil {
		return t.keyError(label, fmt.Errorf("delete: %w", err))
	}
	return nil
}

// destroyOrphans destroys the public keys with the attribute which, and with this CKA_ID unless it is
// nil, that belong to no private key.
func destroyOrphans(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, which *pkcs11.Attribute, id []byte) (n int, err error) {
	found, err := findObjects(lib, sh, ofClass(pkcs11.CKO_PUBLIC_KEY), which)
	if err != nil {
		return 0, err
	}
	for _, h := range found {
		a, err := readAttributes(lib, sh, h, pkcs11.CKA_ID)
		if err != nil {
			return n, err
		}
		if id != nil && !bytes.Equal(id, a[pkcs11.CKA_ID]) {
			continue
		}
		private, err := findObjects(lib, sh, ofClass(pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_ID, a[pkcs11.CKA_ID]))
		if err != nil {
			return n, err
		}
		if len(private) > 0 {
			continue
		}
		if err := lib.DestroyObject(sh, h); err != nil {
			return n, named("C_DestroyObject", err)
		}
		n++
	}
	return n, nil
}

// Orphans lists the public keys that belong to no private key, sorted by label: what a deletion or a
// generation that was cut short has left behind, or what somebody has put there. [Token.DeleteKey]
// deletes them. Label, ID, Type and public key are all that is known of one.
func (t *Token) Orphans(ctx context.Context) ([]KeyInfo, error) {
	var list []KeyInfo
	err := t.session(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		found, err := findObjects(lib, sh, lasting(pkcs11.CKO_PUBLIC_KEY)...)
		if err != nil {
			return err
		}
		var orphans []KeyInfo
		for _, h := range found {
			a, err := readAttributes(lib, sh, h, pkcs11.CKA_LABEL, pkcs11.CKA_ID)
			if codeOf(err) == pkcs11.CKR_OBJECT_HANDLE_INVALID {
				continue // deleted since it was found
			}
			if err != nil {
				return err
			}
			private, err := findObjects(lib, sh, ofClass(pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_ID, a[pkcs11.CKA_ID]))
			if err != nil {
				return err
			}
			if len(private) > 0 {
				continue
			}
			info := KeyInfo{Label: string(a[pkcs11.CKA_LABEL]), ID: hex.EncodeToString(a[pkcs11.CKA_ID])}
			// One that cannot be read is an orphan all the same.
			if pub, err := readPublic(lib, sh, h); err == nil && pub != nil {
				info.Public, info.Type = pub, publicType(pub)
				info.SPKI, _ = x509.MarshalPKIXPublicKey(pub) // what it read, it can write
			}
			orphans = append(orphans, info)
		}
		list = orphans
		return nil
	})
	if err != nil {
		return nil, t.fail("list public keys", err)
	}
	slices.SortFunc(list, func(a, b KeyInfo) int { return cmp.Compare(a.Label, b.Label) })
	return list, nil
}

// choose returns the key labelled label, and with this CKA_ID unless it is nil.
func (t *Token) choose(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, label string, id []byte) (*key, error) {
	handles, classes, err := keysLabelled(lib, sh, label)
	if err != nil {
		return nil, err
	}
	var chosen []*key
	var ids []string
	for i, h := range handles {
		info, err := readKey(lib, sh, classes[i], h)
		if err != nil {
			return nil, err
		}
		if ids = append(ids, info.ID); id == nil || info.ID == hex.EncodeToString(id) {
			chosen = append(chosen, &key{tok: t, class: classes[i], handle: h, info: info})
		}
	}
	slices.Sort(ids)
	switch {
	case len(handles) == 0:
		return nil, fmt.Errorf("%w: see set-hsm keys list", ErrNotFound)
	case len(chosen) == 0:
		return nil, fmt.Errorf("%w: the CKA_IDs of the keys with this label are: %s", ErrNotFound, strings.Join(ids, ", "))
	case len(chosen) > 1 && id == nil:
		return nil, fmt.Errorf("%d keys have this label: say which by its CKA_ID: %s", len(chosen), strings.Join(ids, ", "))
	case len(chosen) > 1:
		return nil, fmt.Errorf("%d keys have this label and CKA_ID: which one is meant cannot be told", len(chosen))
	}
	return chosen[0], nil
}

// changeAlone runs f, which changes objects of the token, while nothing else runs on it and no key is
// being made.
func (t *Token) changeAlone(ctx context.Context, f func(*pkcs11.Ctx, pkcs11.SessionHandle) error) error {
	_, err := creating(ctx, t, func() (struct{}, error) { return struct{}{}, t.withSession(f) })
	return err
}

// SetPIN changes the user PIN from old to new, both of which the caller clears. The old one is tried
// once: if the token refuses it, the error is a *PINError. Once changed, the new PIN is the one that
// opens the token in this process too; other processes that have it open stay logged in, and need the
// new PIN when they log in anew.
func (t *Token) SetPIN(ctx context.Context, old, new []byte) error {
	if !t.loginRequired {
		return t.fail("change the PIN", errors.New("it wants no PIN"))
	}
	old, new = slices.Clone(old), slices.Clone(new) // a change that is under way outlives ctx
	var begun atomic.Bool
	err := t.sessionOnce(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		if begun.Swap(true) {
			return context.Cause(ctx)
		}
		defer clear(old)
		defer clear(new)
		err := t.setPIN(lib, sh, old, new)
		if err == nil {
			t.changedPIN(old, new)
		}
		return err
	})
	if !begun.Swap(true) {
		clear(old)
		clear(new)
	}
	if _, ok := errors.AsType[*PINError](err); ok || err == nil {
		return err
	}
	return t.fail("change the PIN", err)
}

// changedPIN takes down that new is the PIN now. A PIN source that still has the old one must not cost a
// try when a lost token wants a login.
func (t *token) changedPIN(old, new []byte) {
	was, is := digestPIN(old), digestPIN(new)
	t.m.pins.Lock()
	delete(t.m.refusals, t.info.id()) // the new one may be among them
	t.m.pins.Unlock()
	if was != is {
		t.m.refuse(t.info.id(), refusal{was, &PINError{Token: t.info.Label}})
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pinDigest = is
}

func (t *Token) setPIN(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, old, new []byte) error {
	limits, err := lib.GetTokenInfo(t.slot)
	if err != nil {
		return named("C_GetTokenInfo", err)
	}
	if err := pinLength(limits, old); err != nil {
		return fmt.Errorf("old PIN: %w", err)
	}
	if err := pinLength(limits, new); err != nil {
		return fmt.Errorf("new PIN: %w", err)
	}
	err = lib.SetPIN(sh, textOf(old), textOf(new))
	switch codeOf(err) {
	case pkcs11.CKR_OK:
		return named("C_SetPIN", err)
	case pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_PIN_EXPIRED:
		return t.pinError(err, t.slot)
	}
	if lossOf(err) == lossNone {
		return fmt.Errorf("the token does not take the new PIN: %w", named("C_SetPIN", err))
	}
	// To say only that the device is unavailable would invite another try with a PIN that may be wrong now.
	return fmt.Errorf("whether the PIN was changed is not known: log in with the new one first: %w", named("C_SetPIN", err))
}

// textOf is a PIN as the pkcs11 package wants it, without a copy of it.
func textOf(pin []byte) string { return unsafe.String(unsafe.SliceData(pin), len(pin)) }

func pinLength(token pkcs11.TokenInfo, pin []byte) error {
	if n := uint(len(pin)); n < token.MinPinLen || n > token.MaxPinLen || n == 0 {
		return fmt.Errorf("a PIN of %d bytes: the token takes %d to %d", n, token.MinPinLen, token.MaxPinLen)
	}
	return nil
}
