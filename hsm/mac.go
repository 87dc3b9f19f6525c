package hsm

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/sha256"
	"fmt"
	"sync"

	"github.com/miekg/pkcs11"
)

// macBytesMax bounds what is authenticated in one call.
const macBytesMax = 1 << 20

// MAC is a key that computes HMAC-SHA-256 or AES-CMAC inside its token. It may be used by several
// goroutines.
type MAC struct {
	copies    *copies
	algorithm *macAlgorithm
	ctx       context.Context
}

// macAlgorithm is a way to authenticate. The type of a key decides on it.
type macAlgorithm struct {
	name      string
	mechanism uint
	bytes     int // of what it computes
	takes     func(KeyType) bool
}

var (
	hmacSHA256 = &macAlgorithm{"MAC", pkcs11.CKM_SHA256_HMAC, sha256.Size, func(k KeyType) bool { return k == HMACSHA256 }}
	aesCMAC    = &macAlgorithm{"CMAC", pkcs11.CKM_AES_CMAC, aes.BlockSize, KeyType.isAES}
)

// MAC returns the HMAC-SHA-256 key labelled label, made for message authentication.
func (t *Token) MAC(ctx context.Context, label string) (*MAC, error) {
	return findMAC(ctx, t.alone(), label, hmacSHA256)
}

// MAC returns the HMAC-SHA-256 key labelled label, made for message authentication.
func (g *Group) MAC(ctx context.Context, label string) (*MAC, error) {
	return findMAC(ctx, g.members, label, hmacSHA256)
}

// CMAC returns the AES key labelled label, made for message authentication: it computes AES-CMAC, NIST SP
// 800-38B. Other keys are derived from such a one, by SP 800-108.
func (t *Token) CMAC(ctx context.Context, label string) (*MAC, error) {
	return findMAC(ctx, t.alone(), label, aesCMAC)
}

// CMAC returns the AES key labelled label, made for message authentication.
func (g *Group) CMAC(ctx context.Context, label string) (*MAC, error) {
	return findMAC(ctx, g.members, label, aesCMAC)
}

func findMAC(ctx context.Context, members []*member, label string, algorithm *macAlgorithm) (*MAC, error) {
	c, err := findCopies(ctx, members, label, func(k *key) error {
		if k.info.Purpose != PurposeMAC || !algorithm.takes(k.info.Type) {
			return k.fail(fmt.Errorf("%s: %w: they are %v, of a key of type %q", algorithm.name, ErrNotPermitted, k.info.Usages, k.info.Type))
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
		sum, err := algorithm.onToken(lib, sh, h, []byte("setkit: is this the same key?"))
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
	return &MAC{copies: c, algorithm: algorithm}, nil
}

// WithContext returns the same key bound to ctx: when ctx ends, its calls return.
func (m *MAC) WithContext(ctx context.Context) *MAC {
	bound := *m
	bound.ctx = ctx
	return &bound
}

// Sum authenticates data, which is at most 1 MiB: 32 bytes of HMAC-SHA-256, or 16 of AES-CMAC.
func (m *MAC) Sum(data []byte) ([]byte, error) {
	if len(data) > macBytesMax {
		return nil, m.copies.fail(fmt.Errorf("%s of %d bytes: at most %d", m.algorithm.name, len(data), macBytesMax))
	}
	ctx, cancel := briefly(m.ctx)
	defer cancel()
	data = bytes.Clone(data)
	sum, err := do(ctx, m.copies, deed{name: "mac", blind: true}, func(_ *key, lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) ([]byte, error) {
		return m.algorithm.onToken(lib, sh, h, data)
	})
	if err != nil {
		return nil, m.copies.fail(fmt.Errorf("%s: %w", m.algorithm.name, err))
	}
	return sum.value, nil
}

func (a *macAlgorithm) onToken(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle, data []byte) ([]byte, error) {
	if err := lib.SignInit(sh, mechanism(a.mechanism, nil), h); err != nil {
		return nil, named("C_SignInit", err)
	}
	sum, err := lib.Sign(sh, data)
	if err == nil && len(sum) != a.bytes {
		return nil, fmt.Errorf("the token's %s has %d bytes, want %d", a.name, len(sum), a.bytes)
	}
	return sum, named("C_Sign", err)
}
