package hsm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	"github.com/miekg/pkcs11"
)

// macBytesMax bounds what is authenticated in one call.
const macBytesMax = 1 << 20

// MAC is a key that computes HMAC-SHA-256 inside its token. It may be used by several goroutines.
type MAC struct {
	copies *copies
	ctx    context.Context
}

// MAC returns the key labelled label, made for message authentication.
func (t *Token) MAC(ctx context.Context, label string) (*MAC, error) {
	return findMAC(ctx, t.alone(), label)
}

// MAC returns the key labelled label, made for message authentication.
func (g *Group) MAC(ctx context.Context, label string) (*MAC, error) {
	return findMAC(ctx, g.members, label)
}

func findMAC(ctx context.Context, members []*member, label string) (*MAC, error) {
	c, err := findCopies(ctx, members, label, func(k *key) error {
		if k.info.Purpose != PurposeMAC || k.info.Type != HMACSHA256 {
			return k.fail(fmt.Errorf("MAC: %w: they are %v, of a key of type %q", ErrNotPermitted, k.info.Usages, k.info.Type))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	// A secret key shows who it is by what it makes of a text that nothing else is made of.
	var known sync.Mutex
	var want []byte
	same := func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) error {
		sum, err := hmacOnToken(lib, sh, h, []byte("setkit: is this the same key?"))
		if err != nil {
			return err
		}
		known.Lock()
		defer known.Unlock()
		if want == nil {
			want = sum
		}
		if !bytes.Equal(sum, want) {
			return errAnotherKey
		}
		return nil
	}
	if err := c.adoptAll(ctx, func(ctx context.Context, k *key) error { return k.adopt(ctx, same) }); err != nil {
		return nil, err
	}
	return &MAC{copies: c}, nil
}

// WithContext returns the same key bound to ctx: when ctx ends, its calls return.
func (m *MAC) WithContext(ctx context.Context) *MAC {
	bound := *m
	bound.ctx = ctx
	return &bound
}

// Sum returns the 32 bytes of the HMAC-SHA-256 of data, which is at most 1 MiB.
func (m *MAC) Sum(data []byte) ([]byte, error) {
	if len(data) > macBytesMax {
		return nil, m.copies.fail(fmt.Errorf("MAC of %d bytes: at most %d", len(data), macBytesMax))
	}
	ctx, cancel := briefly(m.ctx)
	defer cancel()
	data = bytes.Clone(data)
	sum, err := do(ctx, m.copies, deed{name: "mac", blind: true}, func(_ *key, lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) ([]byte, error) {
		return hmacOnToken(lib, sh, h, data)
	})
	if err != nil {
		return nil, m.copies.fail(fmt.Errorf("MAC: %w", err))
	}
	return sum.value, nil
}

func hmacOnToken(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle, data []byte) ([]byte, error) {
	if err := lib.SignInit(sh, mechanism(pkcs11.CKM_SHA256_HMAC, nil), h); err != nil {
		return nil, named("C_SignInit", err)
	}
	sum, err := lib.Sign(sh, data)
	if err == nil && len(sum) != sha256.Size {
		return nil, errors.New("the token's HMAC has a wrong length")
	}
	return sum, named("C_Sign", err)
}
