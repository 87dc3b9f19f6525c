package hsm

import (
	"context"
	"crypto"

	"github.com/miekg/pkcs11"
)

// DecodeOAEP is for the fuzz target.
func DecodeOAEP(em, label []byte) ([]byte, error) { return decodeOAEP(crypto.SHA256, em, label) }

// CodeName and TriesFrom are tables without another way in.
var (
	CodeName  = func(code uint) string { return codeName(pkcs11.Error(code)) }
	TriesFrom = triesFrom
)

// ImportSecret puts a secret key with a known value into the token, as GenerateKey would have made it
// but for its origin.
func ImportSecret(ctx context.Context, t *Token, label string, purpose Purpose, typ KeyType, value []byte) error {
	p := plans[purpose]
	set, err := keyAttributes(label, []byte(label), false, secretUsages, p.usages)
	if err != nil {
		return err
	}
	template := append(set.ToSlice(), ofClass(pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, keyKind(typ)), pkcs11.NewAttribute(pkcs11.CKA_VALUE, value))
	return t.session(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		_, err := lib.CreateObject(sh, template)
		return err
	})
}

// GenerateWithUsages asks the token for a P-256 key that can sign, and takes it for good only if the
// token says that it has usages.
func GenerateWithUsages(ctx context.Context, t *Token, label string, usages ...string) error {
	_, err := t.generate(ctx, label, plan{class: pkcs11.CKO_PRIVATE_KEY, usages: usages, publicUsages: []string{"verify"}}, ECP256)
	return err
}

// Confuse makes a's handle that of b, as after a lost session, for the next call alone. They are a
// Signer, Decrypter, MAC, Sealer or Deriver each.
func Confuse(a, b any) {
	x, y := copiesOf(a).keys[0], copiesOf(b).keys[0]
	x.handle, x.on = y.handle, x.tok.link.Load()
}

func copiesOf(k any) *copies {
	switch k := k.(type) {
	case *Signer:
		return k.copies
	case *Decrypter:
		return k.copies
	case *MAC:
		return k.copies
	case *Sealer:
		return k.copies
	}
	return k.(*Deriver).copies
}

// DecodeOnToken has the token decode the padding itself, even if it does not do so right.
func DecodeOnToken(d *Decrypter, hash crypto.Hash) {
	d.copies.keys[0].nativeOAEP = []crypto.Hash{hash}
}

// HoldSessions takes every session of the token until release.
func HoldSessions(t *Token) (release func()) {
	for range cap(t.places) {
		t.places <- struct{}{}
	}
	return func() {
		for range cap(t.places) {
			<-t.places
		}
	}
}

// IdleSessions is the number of sessions of our own that wait for work.
func IdleSessions(t *Token) int {
	on := t.link.Load()
	on.mu.Lock()
	defer on.mu.Unlock()
	return len(on.idle)
}

// CountObjects counts the token's keys and public keys.
func CountObjects(ctx context.Context, t *Token) (n int, err error) {
	err = t.session(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		found, err := findObjects(lib, sh)
		n = len(found)
		return err
	})
	return n, err
}

// TryToModify asks the token to let a private key do more than it may.
func TryToModify(ctx context.Context, t *Token, label string) error {
	k, err := t.find(ctx, label)
	if err != nil {
		return err
	}
	return k.use(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) error {
		return named("C_SetAttributeValue", lib.SetAttributeValue(sh, h, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
		}))
	})
}
