package hsm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"
)

// ErrWrappedKey matches the error for a wrapped key that was changed, or that the key it was given
// with does not unwrap.
var ErrWrappedKey = errors.New("the wrapped key was wrapped for another key, or changed since")

// wrapReceiverBitsMin is the smallest RSA key that keys are wrapped for, and wrapReceiverBitsMax the largest.
const (
	wrapReceiverBitsMin = 2048
	wrapReceiverBitsMax = 16384
)

// wrapping is a mechanism that encrypts keys, under the name that a WrappedKey gives it.
type wrapping struct {
	name      string
	mechanism uint
	hash      crypto.Hash // of RSAES-OAEP; 0: AES
}

// The mechanisms in the order in which they are tried. SoftHSM has no KWP, and pads a private key
// with zeros before it wraps it with the others; so its wrapped keys go to tokens that overlook
// them, which SoftHSM does.
var wrappings = []wrapping{
	{"aes-kwp", ckmAESKeyWrapKWP, 0}, // RFC 5649
	{"aes-kw-pad", pkcs11.CKM_AES_KEY_WRAP_PAD, 0},
	{"aes-kw", pkcs11.CKM_AES_KEY_WRAP, 0}, // RFC 3394
	{"rsa-oaep-sha256", pkcs11.CKM_RSA_PKCS_OAEP, crypto.SHA256},
	{"rsa-oaep-sha1", pkcs11.CKM_RSA_PKCS_OAEP, crypto.SHA1},
}

func wrappingNamed(name string) (wrapping, bool) {
	i := slices.IndexFunc(wrappings, func(w wrapping) bool { return w.name == name })
	if i < 0 {
		return wrapping{}, false
	}
	return wrappings[i], true
}

func (w wrapping) isRSA() bool { return w.hash != 0 }

func (w wrapping) parameters() []*pkcs11.Mechanism {
	if !w.isRSA() {
		return mechanism(w.mechanism, nil)
	}
	codes := oaepCodes[w.hash]
	return mechanism(w.mechanism, pkcs11.NewOAEPParams(codes.mechanism, codes.mgf, pkcs11.CKZ_DATA_SPECIFIED, nil))
}

// unsupported reports whether err is a token's way to say that it has no such mechanism, or not with
// these parameters.
func unsupported(err error) bool {
	switch codeOf(err) {
	case pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_MECHANISM_PARAM_INVALID, pkcs11.CKR_ARGUMENTS_BAD,
		pkcs11.CKR_FUNCTION_NOT_SUPPORTED:
		return true
	}
	return false
}

// Wrap encrypts the key labelled label with the AES key labelled with, which was made for
// [PurposeWrap]. The key must have been made by [Token.GenerateWrappableKey]. Whoever has the same
// AES key in a token, for [PurposeUnwrap], can bring it in there with [Token.Unwrap].
func (t *Token) Wrap(ctx context.Context, label, with string) (*WrappedKey, error) {
	w, err := t.wrap(ctx, label, false, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) (*key, error) {
		kek, err := t.findIn(lib, sh, with)
		switch {
		case err != nil:
			return nil, fmt.Errorf("the key to wrap with, %q: %w", with, err)
		case kek.info.Purpose != PurposeWrap || !kek.info.Type.isAES():
			return nil, fmt.Errorf("%w: %q is not an AES key for %s, but of type %q with usages %v",
				ErrNotPermitted, with, PurposeWrap, kek.info.Type, kek.info.Usages)
		case with == label:
			return nil, errors.New("a key is not wrapped with itself")
		}
		return kek, nil
	})
	if err != nil {
		return nil, t.keyError(label, fmt.Errorf("wrap: %w", err))
	}
	return w, nil
}

// WrapFor encrypts the secret key labelled label, which was made by [Token.GenerateWrappableKey], for
// the RSA key for [PurposeUnwrap] in another token whose public key is receiver. Before this, make
// sure that receiver is that key: whoever has its private key gets label's.
//
// The padding is RSAES-OAEP with SHA-256, or with SHA-1 where the wrapping token has no other, which
// is SoftHSM.
func (t *Token) WrapFor(ctx context.Context, label string, receiver *rsa.PublicKey) (*WrappedKey, error) {
	id, err := receiverID(receiver)
	if err != nil {
		return nil, t.keyError(label, fmt.Errorf("wrap: %w", err))
	}
	template := publicTemplate(receiver, []string{"wrap"}, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false))
	w, err := t.wrap(ctx, label, true, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) (*key, error) {
		h, err := lib.CreateObject(sh, template)
		if err != nil {
			return nil, named("C_CreateObject", err)
		}
		return &key{tok: t, class: pkcs11.CKO_PUBLIC_KEY, handle: h, info: KeyInfo{ID: hex.EncodeToString(id)}}, nil
	})
	if err != nil {
		return nil, t.keyError(label, fmt.Errorf("wrap: %w", err))
	}
	return w, nil
}

func receiverID(receiver *rsa.PublicKey) ([]byte, error) {
	if receiver == nil || receiver.N == nil || receiver.N.Sign() < 0 || receiver.N.Bit(0) == 0 ||
		receiver.N.BitLen() < wrapReceiverBitsMin || receiver.N.BitLen() > wrapReceiverBitsMax || receiver.E < 3 || receiver.E&1 == 0 {
		return nil, fmt.Errorf("the receiver's public key is not an RSA key of %d to %d bits", wrapReceiverBitsMin, wrapReceiverBitsMax)
	}
	return subjectKeyID(receiver)
}

// wrap wraps the key labelled label with the key that with finds in a session or puts there.
func (t *Token) wrap(ctx context.Context, label string, forRSA bool,
	with func(*pkcs11.Ctx, pkcs11.SessionHandle) (*key, error)) (*WrappedKey, error) {
	var last error
	for _, by := range wrappings {
		if by.isRSA() != forRSA {
			continue
		}
		var made *WrappedKey // not read when the call was given up
		err := t.session(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
			w, err := t.wrapBy(lib, sh, label, by, with)
			made = w
			return err
		})
		if err == nil {
			return made, nil
		}
		if last = err; !unsupported(err) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("the token has no mechanism for it: %w", last)
}

func (t *Token) wrapBy(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, label string, by wrapping,
	with func(*pkcs11.Ctx, pkcs11.SessionHandle) (*key, error)) (*WrappedKey, error) {
	k, err := t.findIn(lib, sh, label)
	if err != nil {
		return nil, err
	}
	switch {
	case !k.info.Extractable: // some tokens would wrap it nevertheless
		return nil, fmt.Errorf("%w: it was not made as wrappable: if it has to leave the token, make its successor with set-hsm keys generate --wrappable", ErrNotPermitted)
	case strings.HasPrefix(label, unfinishedPrefix):
		return nil, errUnfinished
	case k.info.ID == "" || k.info.Type == "" || k.info.Type == AES:
		return nil, fmt.Errorf("it has no CKA_ID, or is of a type that is not supported (%q)", k.info.Type)
	case by.isRSA() && k.class != pkcs11.CKO_SECRET_KEY:
		return nil, errors.New("a private key does not fit into an RSA block: wrap it with an AES key")
	}
	kek, err := with(lib, sh)
	if err != nil {
		return nil, err
	}
	w := &WrappedKey{
		Mechanism: by.name, Type: k.info.Type, Purpose: k.info.Purpose, ID: k.info.ID, With: kek.info.ID, SPKI: k.info.SPKI,
	}
	if k.class == pkcs11.CKO_SECRET_KEY {
		if w.CheckValue, err = checkValue(lib, sh, k.handle, k.info); err != nil {
			return nil, err
		}
	}
	if by.isRSA() {
		w.Wrapped, err = lib.WrapKey(sh, by.parameters(), kek.handle, k.handle)
		err = named("C_WrapKey", err)
	} else {
		w.Wrapped, err = t.m.direct.wrap(sh, kek.handle, k.handle, by.mechanism, wrappedBytesMax)
	}
	if err != nil {
		return nil, err
	}
	if kek.class == pkcs11.CKO_PUBLIC_KEY {
		if err := lib.DestroyObject(sh, kek.handle); err != nil {
			return nil, named("C_DestroyObject", err)
		}
	}
	return w, w.check()
}

// Unwrap makes the key in w, which the key labelled with decrypts, a key of the token for purpose,
// labelled label. The key to decrypt with was made for [PurposeUnwrap]: an RSA pair for what came from
// [Token.WrapFor], and an AES key, itself received so, for what came from [Token.Wrap].
//
// The new key is sensitive, cannot be wrapped again, and may do what its purpose needs and nothing
// else, whatever it might do where it came from. A purpose other than that in w is refused. It keeps its CKA_ID. A pair's private key is tried
// before Unwrap returns, and proves to belong to the public key in w; a secret key's check value is
// compared with that in w, if w has one. A key that differs is destroyed.
//
// What w does not prove is where the key comes from; see [WrappedKey].
func (t *Token) Unwrap(ctx context.Context, label string, purpose Purpose, with string, w *WrappedKey) (KeyInfo, error) {
	p, err := planUnwrapped(label, purpose, w)
	if err != nil {
		return KeyInfo{}, t.keyError(label, fmt.Errorf("unwrap: %w", err))
	}
	own := *w
	own.Wrapped, own.SPKI, own.CheckValue = bytes.Clone(w.Wrapped), bytes.Clone(w.SPKI), bytes.Clone(w.CheckValue)
	info, err := t.unwrap(ctx, label, with, p, purpose, &own)
	if err != nil {
		return KeyInfo{}, t.keyError(label, fmt.Errorf("unwrap: %w", err))
	}
	return info, nil
}

func planUnwrapped(label string, purpose Purpose, w *WrappedKey) (plan, error) {
	if w == nil {
		return plan{}, errors.New("no wrapped key")
	}
	if err := w.check(); err != nil {
		return plan{}, err
	}
	p, err := planOf(purpose, w.Type)
	if err != nil {
		return plan{}, err
	}
	if !w.isFor(purpose) {
		return plan{}, fmt.Errorf("the wrapped key says that it is for %s, not for %s: unwrap it for that", w.Purpose, purpose)
	}
	p.origin = originUnwrapped
	return p, checkKeyLabel(label, purpose)
}

func (t *Token) unwrap(ctx context.Context, label, with string, p plan, purpose Purpose, w *WrappedKey) (KeyInfo, error) {
	info, err := creating(ctx, t, func() (KeyInfo, error) { return t.unwrapAlone(label, with, p, purpose, w) })
	return info, mayFollow(ctx, err)
}

func (t *Token) unwrapAlone(label, with string, p plan, purpose Purpose, w *WrappedKey) (KeyInfo, error) {
	id, err := hex.DecodeString(w.ID)
	if err != nil {
		return KeyInfo{}, err
	}
	r := &reception{w: w, plan: p, purpose: purpose, label: label, id: id, temporaryID: temporaryID()}
	r.temporary = unfinishedPrefix + hex.EncodeToString(r.temporaryID)
	err = t.withSession(func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) (err error) {
		r.kek, err = t.unwrapsWith(lib, sh, with, w)
		if err == nil {
			err = labelFree(lib, sh, label)
		}
		if err == nil {
			err = idFree(lib, sh, id)
		}
		return err
	})
	if err != nil {
		return KeyInfo{}, err // nothing was made yet
	}
	err = t.withSession(r.receive)
	var info KeyInfo
	if err == nil {
		info, err = t.checkNew(label, id, p, w.Type)
	}
	if err == nil && !bytes.Equal(info.SPKI, w.SPKI) {
		err = errors.New("the token has another public key than the wrapped key: what was made is not kept")
	}
	if err != nil {
		return KeyInfo{}, followed(err, t.destroy(r.temporary, r.temporaryID), t.destroy(label, id))
	}
	return info, nil
}

// unwrapsWith finds the key that is to unwrap w.
func (t *Token) unwrapsWith(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, with string, w *WrappedKey) (*key, error) {
	kek, err := t.findIn(lib, sh, with)
	if err != nil {
		return nil, fmt.Errorf("the key to unwrap with, %q: %w", with, err)
	}
	if kek.info.Purpose != PurposeUnwrap {
		return nil, fmt.Errorf("%w: %q is not a key for %s, but has usages %v", ErrNotPermitted, with, PurposeUnwrap, kek.info.Usages)
	}
	if by, _ := wrappingNamed(w.Mechanism); by.isRSA() != (kek.class == pkcs11.CKO_PRIVATE_KEY) {
		return nil, fmt.Errorf("%q, a key of type %q, does not unwrap what was wrapped by %s", with, kek.info.Type, w.Mechanism)
	}
	return kek, nil
}

// idFree checks that no key has this CKA_ID: two with one could not be told apart.
func idFree(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, id []byte) error {
	for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_SECRET_KEY, pkcs11.CKO_PUBLIC_KEY} {
		found, err := findObjects(lib, sh, ofClass(class), pkcs11.NewAttribute(pkcs11.CKA_ID, id))
		if err != nil || len(found) == 0 {
			if err != nil {
				return err
			}
			continue
		}
		a, err := readAttributes(lib, sh, found[0], pkcs11.CKA_LABEL)
		if err != nil {
			return err
		}
		return fmt.Errorf("%q in the token has the CKA_ID of the wrapped key, %x: it is the same key, or has to go first",
			a[pkcs11.CKA_LABEL], id)
	}
	return nil
}

// reception is a wrapped key on its way to be a key of the token. Until it has been tried it has a
// temporary label and CKA_ID, so that what is left of one cut short is never used.
type reception struct {
	w           *WrappedKey
	plan        plan
	purpose     Purpose
	kek         *key
	label       string
	id          []byte
	temporary   string
	temporaryID []byte
}

func (r *reception) receive(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
	if r.plan.class == pkcs11.CKO_SECRET_KEY {
		if err := r.compareCheckValue(lib, sh); err != nil {
			return err
		}
	}
	h, err := r.unwrap(lib, sh, r.plan.usages, true)
	if err != nil {
		return err
	}
	if r.plan.class == pkcs11.CKO_PRIVATE_KEY {
		if err := restrict(lib, sh, h, r.plan.usages); err != nil {
			return err
		}
		pub, err := parseSPKI(r.w.SPKI)
		if err != nil {
			return err
		}
		if err := prove(lib, sh, h, r.purpose, pub); err != nil {
			return fmt.Errorf("prove that the private key belongs to the public key: %w", err)
		}
		template := publicTemplate(pub, r.plan.publicUsages, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
			pkcs11.NewAttribute(pkcs11.CKA_LABEL, r.label), pkcs11.NewAttribute(pkcs11.CKA_ID, r.id))
		if _, err := lib.CreateObject(sh, template); err != nil {
			return named("C_CreateObject", err)
		}
	}
	return finish(lib, sh, h, r.label, r.id)
}

// ckaNSSDB is NSS's own attribute for the public point of an EC private key, without which it unwraps none.
const ckaNSSDB = 0xD5A0DB00

// point is the public point of an EC key, and nil of another key.
func (r *reception) point() []byte {
	pub, err := parseSPKI(r.w.SPKI)
	if err != nil {
		return nil // a secret key has none
	}
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return nil
	}
	point, err := key.Bytes()
	if err != nil {
		return nil
	}
	return point
}

// restrict takes the usages from a private key that it was not to have. NSS gives an unwrapped RSA key all
// of them, whatever the template says.
func restrict(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle, granted []string) error {
	for _, u := range privateUsages {
		a, err := readAttributes(lib, sh, h, u.attribute)
		if err != nil {
			return err
		}
		if want := slices.Contains(granted, u.name); a.truth(u.attribute) != want {
			if err := lib.SetAttributeValue(sh, h, []*pkcs11.Attribute{pkcs11.NewAttribute(u.attribute, want)}); err != nil {
				return named("C_SetAttributeValue", err)
			}
		}
	}
	return nil
}

// unwrap unwraps the key under its temporary name, for good or as an object of this session.
func (r *reception) unwrap(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, usages []string, keep bool) (pkcs11.ObjectHandle, error) {
	all := privateUsages
	if r.plan.class == pkcs11.CKO_SECRET_KEY {
		all = secretUsages
	}
	set, err := keyAttributes(r.temporary, r.temporaryID, true, all, usages)
	if err == nil {
		err = set.Set(pkcs11.CKA_TOKEN, keep)
	}
	if err != nil {
		return 0, err
	}
	template := append(set.ToSlice(), ofClass(r.plan.class), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, keyKind(r.w.Type)))
	by, _ := wrappingNamed(r.w.Mechanism)
	h, err := lib.UnwrapKey(sh, by.parameters(), r.kek.handle, r.w.Wrapped, template)
	if point := r.point(); codeOf(err) == pkcs11.CKR_TEMPLATE_INCOMPLETE && point != nil {
		template = append(template, pkcs11.NewAttribute(ckaNSSDB, point))
		h, err = lib.UnwrapKey(sh, by.parameters(), r.kek.handle, r.w.Wrapped, template)
	}
	switch codeOf(err) {
	case pkcs11.CKR_OK:
		return h, err
	case pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_WRAPPED_KEY_INVALID, pkcs11.CKR_WRAPPED_KEY_LEN_RANGE,
		pkcs11.CKR_ENCRYPTED_DATA_INVALID, pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE, pkcs11.CKR_DATA_INVALID, pkcs11.CKR_DATA_LEN_RANGE:
		return 0, r.refused(named("C_UnwrapKey", err))
	}
	if unsupported(err) {
		return 0, fmt.Errorf("the token does not unwrap by %s: %w", r.w.Mechanism, named("C_UnwrapKey", err))
	}
	return 0, named("C_UnwrapKey", err)
}

// refused is the error for octets that did not unwrap. What the code generally means is of no help here;
// but some libraries use the same codes for a lost device, so that it stays in the error.
func (r *reception) refused(err error) error {
	fix := "compare the file with the one that set-hsm wrap wrote"
	if r.w.With != "" && r.w.With != r.kek.info.ID {
		fix = fmt.Sprintf("it says that the key with CKA_ID %s unwraps it, and %q has %s", r.w.With, r.kek.info.Label, r.kek.info.ID)
	}
	return &notUnwrapped{fmt.Sprintf("%v (%s): %s", ErrWrappedKey, brief(err), fix), err}
}

type notUnwrapped struct {
	text string
	err  error // with the token's code
}

func (e *notUnwrapped) Error() string   { return e.text }
func (e *notUnwrapped) Unwrap() []error { return []error{ErrWrappedKey, e.err} }

// compareCheckValue compares the check value of an AES key, which the purpose may not let the key
// itself compute, on a copy that lives in this session and may only encrypt.
func (r *reception) compareCheckValue(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
	if len(r.w.CheckValue) == 0 {
		return nil
	}
	usage := "encrypt"
	if r.w.Type == HMACSHA256 {
		usage = "sign"
	}
	h, err := r.unwrap(lib, sh, []string{usage}, false)
	if err != nil {
		return err
	}
	got, err := checkValue(lib, sh, h, KeyInfo{Type: r.w.Type, Usages: []string{usage}})
	if destroyErr := lib.DestroyObject(sh, h); err == nil {
		err = named("C_DestroyObject", destroyErr)
	}
	if err == nil && len(got) == 0 {
		err = errors.New("the token tells no check value to compare with that of the wrapped key")
	}
	if err == nil && !bytes.Equal(got, r.w.CheckValue) {
		err = fmt.Errorf("its check value is %X, and the wrapped key says %X: it is another key: have it wrapped again", got, r.w.CheckValue)
	}
	return err
}

// keyKind is the CKA_KEY_TYPE of typ.
func keyKind(typ KeyType) uint {
	switch typ {
	case ECP256, ECP384:
		return pkcs11.CKK_EC
	case Ed25519:
		return ckkECEdwards
	case AES128, AES256:
		return pkcs11.CKK_AES
	case HMACSHA256:
		return pkcs11.CKK_GENERIC_SECRET
	}
	return pkcs11.CKK_RSA
}

// publicTemplate is what a public key object with these usages, and no others, is made of.
func publicTemplate(pub crypto.PublicKey, usages []string, more ...*pkcs11.Attribute) []*pkcs11.Attribute {
	template := append(publicValue(pub), ofClass(pkcs11.CKO_PUBLIC_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, keyKind(publicType(pub))), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false))
	for _, u := range publicUsages {
		template = append(template, pkcs11.NewAttribute(u.attribute, slices.Contains(usages, u.name)))
	}
	return append(template, more...)
}

func rsaValue(pub *rsa.PublicKey) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS, pub.N.Bytes()),
		pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, big.NewInt(int64(pub.E)).Bytes()),
	}
}
