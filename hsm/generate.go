package hsm

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
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
// Keys are made one at a time, and the token does nothing else meanwhile. Generation itself cannot be
// interrupted; a long RSA key takes seconds.
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

// GenerateWrappableKey is GenerateKey for a key that may leave the token, encrypted by another key:
// see [Token.Wrap] and [Token.WrapFor]. It is sensitive like every other, but extractable: whoever has the
// token's PIN can wrap it for a key of his own, and so learn it. CKA_WRAP_WITH_TRUSTED, by which some tokens
// hold this to wrapping keys that the security officer has marked, is not set, because most tokens cannot
// mark any.
func (t *Token) GenerateWrappableKey(ctx context.Context, label string, purpose Purpose, typ KeyType) (KeyInfo, error) {
	p, err := planFor(label, purpose, typ)
	if err != nil {
		return KeyInfo{}, err
	}
	p.origin = originWrappable
	info, err := t.generate(ctx, label, p, typ)
	if err != nil {
		return KeyInfo{}, t.keyError(label, fmt.Errorf("generate: %w", err))
	}
	return info, nil
}

// planFor checks label, purpose and typ of a key that is to be generated.
func planFor(label string, purpose Purpose, typ KeyType) (plan, error) {
	p, err := planOf(purpose, typ)
	if err == nil && p.class == unwrapSecret.class && purpose == PurposeUnwrap {
		err = fmt.Errorf("an AES key for %s is not generated: generate one for %s in the other token, and unwrap it here",
			PurposeUnwrap, PurposeWrap)
	}
	if err == nil {
		err = checkKeyLabel(label, purpose)
	}
	return p, err
}

func planOf(purpose Purpose, typ KeyType) (plan, error) {
	p, ok := plans[purpose]
	if !ok {
		return plan{}, fmt.Errorf("unknown purpose %q: want one of %v", purpose, purposes)
	}
	if purpose == PurposeUnwrap && slices.Contains(unwrapSecret.types, typ) {
		return unwrapSecret, nil
	}
	if !slices.Contains(p.types, typ) {
		return plan{}, fmt.Errorf("a key for %s cannot be of type %q: want one of %v", purpose, typ, p.types)
	}
	return p, nil
}

func checkKeyLabel(label string, purpose Purpose) error {
	if err := checkLabel("key", label); err != nil {
		return err
	}
	if (purpose == PurposeCertSign) != strings.HasPrefix(label, certSignPrefix) {
		return fmt.Errorf("key label %q: the labels of keys for %s, and of no others, begin with %q",
			label, PurposeCertSign, certSignPrefix)
	}
	return nil
}

// checkLabel checks the label that a new object, a key or a certificate, is to have.
func checkLabel(object, label string) error {
	// A label is what an officer reads before saying yes: nothing in it may be invisible or turn the text round.
	unseen := func(r rune) bool { return !unicode.IsPrint(r) }
	if label == "" || len(label) > objectBytesMax || !utf8.ValidString(label) || strings.ContainsFunc(label, unseen) || strings.TrimSpace(label) != label {
		return fmt.Errorf("%s label %.200q is not 1 to %d bytes of printable text without outer spaces", object, label, objectBytesMax)
	}
	if strings.HasPrefix(label, unfinishedPrefix) {
		return fmt.Errorf("%s label %q begins with %s, which marks keys that are being made", object, label, unfinishedPrefix)
	}
	return nil
}

func (t *Token) generate(ctx context.Context, label string, p plan, typ KeyType) (KeyInfo, error) {
	info, err := creating(ctx, t, func() (KeyInfo, error) { return t.generateAlone(label, p, typ) })
	return info, mayFollow(ctx, err)
}

// mayFollow says of a key whose making nobody waits for any more that it may come all the same.
func mayFollow(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ErrUnavailable) {
		return fmt.Errorf("it may still be made, see set-hsm keys list before another try: %w", err)
	}
	return err
}

func (t *Token) generateAlone(label string, p plan, typ KeyType) (KeyInfo, error) {
	err := t.withSession(func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		return labelFree(lib, sh, label)
	})
	if err != nil {
		return KeyInfo{}, err
	}
	random := temporaryID()
	if p.class == pkcs11.CKO_SECRET_KEY {
		return t.generateSecret(label, random, p, typ)
	}
	return t.generatePair(label, random, p, typ)
}

func labelFree(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, label string) error {
	taken, _, err := keysLabelled(lib, sh, label)
	if err == nil && len(taken) > 0 {
		err = ErrKeyExists
	}
	return err
}

// temporaryID is a CKA_ID for a key whose own is not known yet.
func temporaryID() []byte {
	id := make([]byte, 16)
	rand.Read(id)
	return id
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

func (t *Token) generateSecret(label string, id []byte, p plan, typ KeyType) (KeyInfo, error) {
	set, err := keyAttributes(label, id, false, secretUsages, p.usages)
	if err == nil {
		err = set.Set(pkcs11.CKA_EXTRACTABLE, p.origin == originWrappable)
	}
	if err != nil {
		return KeyInfo{}, err
	}
	cipher, size := crypto11.CipherAES, 32
	switch typ {
	case AES128:
		size = 16
	case HMACSHA256:
		cipher = crypto11.CipherGeneric
	}
	kind := cipher.GenParams[0]
	template := append(set.ToSlice(), ofClass(pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, kind.KeyType), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, size))
	err = t.withSession(func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		_, err := lib.GenerateKey(sh, mechanism(kind.GenMech, nil), template)
		return named("C_GenerateKey", err)
	})
	if err != nil {
		return KeyInfo{}, followed(err, t.destroy(label, id))
	}
	info, err := t.checkNew(label, id, p, typ)
	if err != nil {
		return KeyInfo{}, followed(err, t.destroy(label, id))
	}
	return info, nil
}

// generatePair makes a key pair. Its CKA_ID is known only when the pair exists, and an unmodifiable
// key takes no new one; so the pair is made under a temporary label, and the private key copied to
// its final, unmodifiable form.
func (t *Token) generatePair(label string, random []byte, p plan, typ KeyType) (KeyInfo, error) {
	temporary := unfinishedPrefix + hex.EncodeToString(random)
	private, err := keyAttributes(temporary, random, true, privateUsages, p.usages)
	if err == nil {
		err = private.Set(pkcs11.CKA_EXTRACTABLE, p.origin == originWrappable)
	}
	if err != nil {
		return KeyInfo{}, err
	}
	public, err := crypto11.NewAttributeSetWithIDAndLabel(random, []byte(temporary))
	if err != nil {
		return KeyInfo{}, err
	}
	if err := errors.Join(public.Set(pkcs11.CKA_TOKEN, true), public.Set(pkcs11.CKA_PRIVATE, false),
		usageAttributes(public, publicUsages, p.publicUsages)); err != nil {
		return KeyInfo{}, err
	}
	if err := t.generateOnToken(public.ToSlice(), private.ToSlice(), typ); err != nil {
		return KeyInfo{}, followed(err, t.destroy(temporary, random))
	}
	var id []byte
	err = t.withSession(func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) (err error) {
		id, err = finishPair(lib, sh, label, random)
		return err
	})
	var info KeyInfo
	if err == nil {
		info, err = t.checkNew(label, id, p, typ)
	}
	if err != nil {
		return KeyInfo{}, followed(err, t.destroy(temporary, random), t.destroy(label, id))
	}
	return info, nil
}

// pairs tells how key pairs are made: which parameters the public key's template has.
var pairs = map[KeyType]struct {
	mechanism, kind uint
	params          [][]*pkcs11.Attribute // where tokens differ, each is tried
}{
	RSA2048: {pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, pkcs11.CKK_RSA, rsaParams(2048)},
	RSA3072: {pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, pkcs11.CKK_RSA, rsaParams(3072)},
	RSA4096: {pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, pkcs11.CKK_RSA, rsaParams(4096)},
	ECP256:  {pkcs11.CKM_EC_KEY_PAIR_GEN, pkcs11.CKK_EC, ecParams(derP256)},
	ECP384:  {pkcs11.CKM_EC_KEY_PAIR_GEN, pkcs11.CKK_EC, ecParams(derP384)},
	// The curve has an object identifier and a name, and some tokens know only one of them.
	Ed25519: {ckmECEdwardsKeyPairGen, ckkECEdwards, ecParams(derEd25519, derEd25519Name)},
}

func rsaParams(bits int) [][]*pkcs11.Attribute {
	return [][]*pkcs11.Attribute{{
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, bits), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
	}}
}

func ecParams(curves ...[]byte) (params [][]*pkcs11.Attribute) {
	for _, curve := range curves {
		params = append(params, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, curve)})
	}
	return params
}

func (t *Token) generateOnToken(public, private []*pkcs11.Attribute, typ KeyType) (err error) {
	how, ok := pairs[typ]
	if !ok {
		return fmt.Errorf("%s is not a key pair", typ)
	}
	kind := pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, how.kind)
	private = append(private, ofClass(pkcs11.CKO_PRIVATE_KEY), kind)
	for _, params := range how.params {
		template := slices.Concat(public, params, []*pkcs11.Attribute{ofClass(pkcs11.CKO_PUBLIC_KEY), kind})
		err = t.withSession(func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
			_, _, err := lib.GenerateKeyPair(sh, mechanism(how.mechanism, nil), template, private)
			return named("C_GenerateKeyPair", err)
		})
		if err == nil || errors.Is(err, ErrUnavailable) {
			break
		}
	}
	return err
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
	return id, finish(lib, sh, private, label, id)
}

// finish gives the temporary, modifiable private or secret key h its label and CKA_ID, and makes it
// unmodifiable. The key appears under its label in one step, which is the last.
func finish(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle, label string, id []byte) error {
	name := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_ID, id), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	}
	final := append(slices.Clone(name), pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false))
	if copied, err := lib.CopyObject(sh, h, final); err == nil {
		if copied == h {
			return nil // NSS has changed the key itself
		}
		same, err := samePast(lib, sh, h, copied)
		if err == nil && same {
			return named("C_DestroyObject", lib.DestroyObject(sh, h))
		}
		if err := followed(err, named("C_DestroyObject", lib.DestroyObject(sh, copied))); err != nil {
			return err
		}
	}
	// Not every token copies keys, and NSS forgets that the copy was always sensitive. Then the key stays
	// modifiable, unless this can be set afterwards.
	if err := lib.SetAttributeValue(sh, h, final); err == nil {
		return nil
	}
	return named("C_SetAttributeValue", lib.SetAttributeValue(sh, h, name))
}

// samePast reports whether the token says the same of where two keys come from.
func samePast(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, a, b pkcs11.ObjectHandle) (bool, error) {
	past := []uint{pkcs11.CKA_LOCAL, pkcs11.CKA_ALWAYS_SENSITIVE, pkcs11.CKA_NEVER_EXTRACTABLE}
	ofA, err := readAttributes(lib, sh, a, past...)
	if err != nil {
		return false, err
	}
	ofB, err := readAttributes(lib, sh, b, past...)
	if err != nil {
		return false, err
	}
	return maps.EqualFunc(ofA, ofB, bytes.Equal), nil
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
func (t *Token) checkNew(label string, id []byte, p plan, typ KeyType) (KeyInfo, error) {
	var k *key
	err := t.withSession(func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) (err error) {
		k, err = t.findIn(lib, sh, label)
		return err
	})
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
	check(info.Type == typ || p.origin == originUnwrapped && info.Type.fits(typ), "type")
	check(slices.Equal(info.Usages, p.usages), fmt.Sprintf("usages %v", info.Usages))
	check(info.Private, "CKA_PRIVATE false")
	check(info.Sensitive, "CKA_SENSITIVE false")
	check(info.Extractable == (p.origin == originWrappable), fmt.Sprintf("CKA_EXTRACTABLE %t", info.Extractable))
	if p.origin != originUnwrapped {
		// CKA_LOCAL is not looked at: it says nothing that we do not know, and NSS sets it for no key.
		check(info.AlwaysSensitive, "CKA_ALWAYS_SENSITIVE false")
		check(info.NeverExtractable == (p.origin == originToken), fmt.Sprintf("CKA_NEVER_EXTRACTABLE %t", info.NeverExtractable))
	}
	if len(wrong) > 0 {
		return KeyInfo{}, fmt.Errorf("the token made a key that differs from what was asked for (%s), which is not kept",
			strings.Join(wrong, ", "))
	}
	return info, nil
}

// destroy destroys the keys and public keys with this label and CKA_ID.
func (t *Token) destroy(label string, id []byte) error {
	if len(id) == 0 {
		return nil
	}
	err := t.withSession(func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
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
		return fmt.Errorf("what there is of the key could not be deleted, see set-hsm doctor: %w", err)
	}
	return nil
}
