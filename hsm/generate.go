package hsm

import (
	"context"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"
)

// unfinishedPrefix begins the label of a key pair that is still being made, or whose making was cut
// short. Such a pair is never used.
const unfinishedPrefix = "unfinished-"

// GenerateKey makes a key of type typ for purpose in the token, labelled label, and returns it as the
// token describes it. The key is sensitive, not extractable, may do what its purpose needs and
// nothing else, and cannot be modified where the token supports that. A token that does not make the
// key so loses it again, and GenerateKey fails. Labels are unique in a token; a key for
// [PurposeCertSign], and no other, has a label that begins with cert-sign.
//
// Keys are made one at a time. Generation itself cannot be interrupted; an RSA key takes seconds.
func (t *Token) GenerateKey(ctx context.Context, label string, purpose Purpose, typ KeyType) (KeyInfo, error) {
	p, err := planFor(label, purpose, typ)
	if err != nil {
		return KeyInfo{}, err
	}
	info, err := t.generate(ctx, label, p, typ)
	if err != nil {
		return KeyInfo{}, t.keyError(label, fmt.Errorf("generate: %w", err))
	}
	return info, nil
}

func planFor(label string, purpose Purpose, typ KeyType) (plan, error) {
	p, ok := plans[purpose]
	switch {
	case !ok:
		return plan{}, fmt.Errorf("unknown purpose %q: want %s, %s, %s, %s or %s", purpose,
			PurposeSign, PurposeCertSign, PurposeKeyExchange, PurposeMAC, PurposeSeal)
	case !slices.Contains(p.types, typ):
		return plan{}, fmt.Errorf("a key for %s cannot be of type %q: want one of %v", purpose, typ, p.types)
	case label == "" || len(label) > objectBytesMax || !utf8.ValidString(label) || strings.ContainsFunc(label, unicode.IsControl):
		return plan{}, fmt.Errorf("key label %q is not 1 to %d bytes of printable text", label, objectBytesMax)
	case strings.HasPrefix(label, unfinishedPrefix):
		return plan{}, fmt.Errorf("key label %q begins with %s, which marks keys that are being made", label, unfinishedPrefix)
	case (purpose == PurposeCertSign) != strings.HasPrefix(label, certSignPrefix):
		return plan{}, fmt.Errorf("key label %q: the labels of keys for %s, and of no others, begin with %q",
			label, PurposeCertSign, certSignPrefix)
	}
	return p, nil
}

func (t *Token) generate(ctx context.Context, label string, p plan, typ KeyType) (KeyInfo, error) {
	if err := t.m.create.lock(ctx); err != nil {
		return KeyInfo{}, err
	}
	defer t.m.create.unlock()
	if err := t.session(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		taken, _, err := keysLabelled(lib, sh, label)
		if err == nil && len(taken) > 0 {
			err = ErrKeyExists
		}
		return err
	}); err != nil {
		return KeyInfo{}, err
	}
	random := make([]byte, 16)
	rand.Read(random)
	id, temporary := random, label
	made := func() ([]byte, error) { return id, t.generateSecret(ctx, label, id, p, typ) }
	if p.class == pkcs11.CKO_PRIVATE_KEY {
		temporary = unfinishedPrefix + hex.EncodeToString(random)
		made = func() ([]byte, error) { return t.generatePair(ctx, label, temporary, random, p, typ) }
	}
	finalID, err := made()
	var info KeyInfo
	if err == nil {
		info, err = t.checkNew(ctx, label, finalID, p, typ)
	}
	if err != nil {
		cleanup := context.WithoutCancel(ctx)
		return KeyInfo{}, errors.Join(err, t.destroy(cleanup, temporary, random), t.destroy(cleanup, label, finalID))
	}
	return info, nil
}

// usageAttributes sets every usage, true or false: a token's own defaults are generous.
func usageAttributes(set crypto11.AttributeSet, all []usage, granted []string) error {
	for _, u := range all {
		if err := set.Set(u.attribute, slices.Contains(granted, u.name)); err != nil {
			return err
		}
	}
	return nil
}

func keyAttributes(label string, id []byte, modifiable bool, all []usage, granted []string) (crypto11.AttributeSet, error) {
	set, err := crypto11.NewAttributeSetWithIDAndLabel(id, []byte(label))
	if err != nil {
		return nil, err
	}
	for typ, value := range map[uint]bool{
		pkcs11.CKA_TOKEN: true, pkcs11.CKA_PRIVATE: true, pkcs11.CKA_SENSITIVE: true,
		pkcs11.CKA_EXTRACTABLE: false, pkcs11.CKA_MODIFIABLE: modifiable,
	} {
		if err := set.Set(typ, value); err != nil {
			return nil, err
		}
	}
	return set, usageAttributes(set, all, granted)
}

func (t *Token) generateSecret(ctx context.Context, label string, id []byte, p plan, typ KeyType) error {
	set, err := keyAttributes(label, id, false, secretUsages, p.usages)
	if err != nil {
		return err
	}
	cipher := crypto11.CipherAES
	if typ == HMACSHA256 {
		cipher = crypto11.CipherGeneric
	}
	leave, err := t.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	_, err = t.c11.GenerateSecretKeyWithAttributes(set, 256, cipher)
	return named("C_GenerateKey", err)
}

// generatePair makes a key pair and returns its CKA_ID. That is known only when the pair exists, and
// an unmodifiable key takes no new one; so the pair is made under a temporary label, and the private
// key copied to its final, unmodifiable form.
func (t *Token) generatePair(ctx context.Context, label, temporary string, random []byte, p plan, typ KeyType) ([]byte, error) {
	private, err := keyAttributes(temporary, random, true, privateUsages, p.usages)
	if err != nil {
		return nil, err
	}
	public, err := crypto11.NewAttributeSetWithIDAndLabel(random, []byte(temporary))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(public.Set(pkcs11.CKA_TOKEN, true), public.Set(pkcs11.CKA_PRIVATE, false),
		usageAttributes(public, publicUsages, p.publicUsages)); err != nil {
		return nil, err
	}
	if err := t.generateOnToken(ctx, public, private, typ); err != nil {
		return nil, err
	}
	var id []byte
	err = t.session(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		var err error
		id, err = finishPair(lib, sh, label, random)
		return err
	})
	return id, err
}

func (t *Token) generateOnToken(ctx context.Context, public, private crypto11.AttributeSet, typ KeyType) error {
	leave, err := t.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	switch typ {
	case ECP256:
		_, err = t.c11.GenerateECDSAKeyPairWithAttributes(public, private, elliptic.P256())
	case ECP384:
		_, err = t.c11.GenerateECDSAKeyPairWithAttributes(public, private, elliptic.P384())
	case RSA2048:
		_, err = t.c11.GenerateRSAKeyPairWithAttributes(public, private, 2048)
	case RSA3072:
		_, err = t.c11.GenerateRSAKeyPairWithAttributes(public, private, 3072)
	case RSA4096:
		_, err = t.c11.GenerateRSAKeyPairWithAttributes(public, private, 4096)
	default:
		err = fmt.Errorf("%s is not a key pair", typ)
	}
	return named("C_GenerateKeyPair", err)
}

// finishPair gives the pair with the temporary id its final label and CKA_ID.
func finishPair(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, label string, temporary []byte) ([]byte, error) {
	pub, err := oneObject(lib, sh, pkcs11.CKO_PUBLIC_KEY, temporary)
	if err != nil {
		return nil, err
	}
	private, err := oneObject(lib, sh, pkcs11.CKO_PRIVATE_KEY, temporary)
	if err != nil {
		return nil, err
	}
	public, err := readPublic(lib, sh, pub)
	if err != nil {
		return nil, err
	}
	if public == nil {
		return nil, errors.New("the token made a public key of another type")
	}
	id, err := subjectKeyID(public)
	if err != nil {
		return nil, err
	}
	name := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_ID, id), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	}
	if err := lib.SetAttributeValue(sh, pub, name); err != nil {
		return id, named("C_SetAttributeValue", err)
	}
	// The key appears under its label in one step, which is the last.
	final := append(slices.Clone(name), pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false))
	if _, err := lib.CopyObject(sh, private, final); err == nil {
		return id, named("C_DestroyObject", lib.DestroyObject(sh, private))
	}
	// Not every token copies keys. Then the key stays modifiable, unless this can be set afterwards.
	if err := lib.SetAttributeValue(sh, private, final); err == nil {
		return id, nil
	}
	return id, named("C_SetAttributeValue", lib.SetAttributeValue(sh, private, name))
}

func oneObject(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, class uint, id []byte) (pkcs11.ObjectHandle, error) {
	found, err := findObjects(lib, sh, ofClass(class), pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%d objects of class %d have the new key's CKA_ID, want 1", len(found), class)
	}
	if err != nil {
		return 0, err
	}
	return found[0], nil
}

// checkNew reads the new key back and compares it with what was asked for.
func (t *Token) checkNew(ctx context.Context, label string, id []byte, p plan, typ KeyType) (KeyInfo, error) {
	k, err := t.find(ctx, label)
	if err != nil {
		return KeyInfo{}, err
	}
	info := k.info
	var wrong []string
	check := func(ok bool, what string) {
		if !ok {
			wrong = append(wrong, what)
		}
	}
	check(k.class == p.class, "class")
	check(info.ID == hex.EncodeToString(id), "CKA_ID")
	check(info.Type == typ, "type")
	check(slices.Equal(info.Usages, p.usages), fmt.Sprintf("usages %v", info.Usages))
	check(info.Private, "CKA_PRIVATE false")
	check(info.Sensitive, "CKA_SENSITIVE false")
	check(!info.Extractable, "CKA_EXTRACTABLE true")
	check(info.AlwaysSensitive, "CKA_ALWAYS_SENSITIVE false")
	check(info.NeverExtractable, "CKA_NEVER_EXTRACTABLE false")
	check(info.Local, "CKA_LOCAL false")
	if len(wrong) > 0 {
		return KeyInfo{}, fmt.Errorf("the token made a key that differs from what was asked for (%s): the key was destroyed",
			strings.Join(wrong, ", "))
	}
	return info, nil
}

// destroy destroys the keys and public keys with this label and CKA_ID.
func (t *Token) destroy(ctx context.Context, label string, id []byte) error {
	if len(id) == 0 {
		return nil
	}
	err := t.session(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_SECRET_KEY, pkcs11.CKO_PUBLIC_KEY} {
			found, err := findObjects(lib, sh, ofClass(class), pkcs11.NewAttribute(pkcs11.CKA_ID, id),
				pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
			if err != nil {
				return err
			}
			for _, h := range found {
				if err := lib.DestroyObject(sh, h); err != nil {
					return named("C_DestroyObject", err)
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}
