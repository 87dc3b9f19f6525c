package hsm

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"

	"github.com/miekg/pkcs11"
)

// Deriver is a private key that agrees on secrets by elliptic curve Diffie-Hellman. It may be used by
// several goroutines.
type Deriver struct {
	copies *copies
	public *ecdh.PublicKey
	forms  *sync.Map // *key to pointForm
	ctx    context.Context
}

// pointForm is how a token wants the peer's point.
type pointForm int

const (
	pointRaw     pointForm = iota // as PKCS#11 2.40 has it
	pointWrapped                  // in an OCTET STRING, as some tokens want it
)

// Deriver returns the key pair labelled label, made for derivation. It tries the key with one made
// here for the occasion, which proves that the private key belongs to the public key.
func (t *Token) Deriver(ctx context.Context, label string) (*Deriver, error) {
	return findDeriver(ctx, t.alone(), label)
}

// Deriver returns the key pair labelled label, made for derivation.
func (g *Group) Deriver(ctx context.Context, label string) (*Deriver, error) {
	return findDeriver(ctx, g.members, label)
}

func findDeriver(ctx context.Context, members []*member, label string) (*Deriver, error) {
	c, err := findCopies(ctx, members, label, func(k *key) error {
		if k.info.Purpose != PurposeDerive {
			return k.fail(fmt.Errorf("derive: %w: they are %v", ErrNotPermitted, k.info.Usages))
		}
		if _, ok := k.info.Public.(*ecdsa.PublicKey); !ok || k.info.Type == "" {
			return k.fail(errors.New("its public key is not in the token, or not of a supported curve"))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	public, err := c.info.Public.(*ecdsa.PublicKey).ECDH()
	if err != nil {
		return nil, c.fail(err)
	}
	d := &Deriver{copies: c, public: public, forms: &sync.Map{}}
	err = c.adoptAll(ctx, func(ctx context.Context, k *key) error {
		// A secret by another key cannot be told from one by this key, so the proof comes before.
		return k.adopt(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) error {
			form, err := proveDerivation(lib, sh, h, public)
			if err != nil {
				return fmt.Errorf("try the key: %w", err)
			}
			d.forms.Store(k, form)
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// WithContext returns the same key bound to ctx: when ctx ends, its calls return.
func (d *Deriver) WithContext(ctx context.Context) *Deriver {
	bound := *d
	bound.ctx = ctx
	return &bound
}

// Public returns the public key, which the peer needs.
func (d *Deriver) Public() *ecdh.PublicKey { return d.public }

// ECDH returns the secret that the key shares with peer: the x-coordinate of the common point, at
// full length. The secret has left the token: put it through a key derivation function, and clear it.
func (d *Deriver) ECDH(peer *ecdh.PublicKey) ([]byte, error) {
	if peer == nil || peer.Curve() != d.public.Curve() {
		return nil, d.copies.fail(fmt.Errorf("derive: the peer's key is not of the key's curve, %v", d.public.Curve()))
	}
	ctx, cancel := briefly(d.ctx)
	defer cancel()
	secret, err := do(ctx, d.copies, deed{name: "ecdh", blind: true}, func(k *key, lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) ([]byte, error) {
		stored, _ := d.forms.Load(k)
		form, _ := stored.(pointForm) // there since the key was tried
		return sharedSecret(lib, sh, h, peer, form)
	})
	if err != nil {
		return nil, d.copies.fail(fmt.Errorf("derive: %w", err))
	}
	return secret.value, nil
}

// proveDerivation compares what the private key h shares with a key made here with what that key
// shares with public. It returns the form of point that the token took.
func proveDerivation(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle, public *ecdh.PublicKey) (pointForm, error) {
	own, err := public.Curve().GenerateKey(rand.Reader)
	if err != nil {
		return 0, err
	}
	want, err := own.ECDH(public)
	if err != nil {
		return 0, err
	}
	defer clear(want)
	var failed error
	for _, form := range []pointForm{pointRaw, pointWrapped} {
		got, err := sharedSecret(lib, sh, h, own.PublicKey(), form)
		if err == nil && bytes.Equal(got, want) {
			clear(got)
			return form, nil
		}
		clear(got)
		switch {
		case errors.Is(err, ErrUnavailable):
			return 0, err
		case err == nil:
			failed = errAnother
		case failed == nil:
			failed = err
		}
	}
	return 0, failed
}

// sharedSecret derives a secret into an object of this session, which alone is extractable, reads it
// and destroys the object.
func sharedSecret(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle, peer *ecdh.PublicKey, form pointForm) ([]byte, error) {
	point := peer.Bytes()
	length := len(point) / 2
	if form == pointWrapped {
		point = append([]byte{0x04, byte(len(point))}, point...) // shorter than 128 bytes on every curve we know
	}
	m := mechanism(pkcs11.CKM_ECDH1_DERIVE, pkcs11.NewECDH1DeriveParams(pkcs11.CKD_NULL, nil, point))
	derived, err := lib.DeriveKey(sh, m, h, []*pkcs11.Attribute{
		ofClass(pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, length),
	})
	if err != nil {
		return nil, named("C_DeriveKey", err)
	}
	a, err := readAttributes(lib, sh, derived, pkcs11.CKA_VALUE)
	secret := a[pkcs11.CKA_VALUE]
	if destroyErr := lib.DestroyObject(sh, derived); err == nil {
		err = named("C_DestroyObject", destroyErr)
	}
	if err == nil {
		err = checkSecret(secret, length)
	}
	if err != nil {
		clear(secret)
		return nil, err
	}
	return secret, nil
}

// checkSecret refuses what no token that works derives: zeros, for one, which everybody knows.
func checkSecret(secret []byte, length int) error {
	if len(secret) != length {
		return fmt.Errorf("the token derived %d bytes instead of %d", len(secret), length)
	}
	if bytes.Count(secret, []byte{0}) == length {
		return errors.New("the token derived nothing but zeros")
	}
	return nil
}
