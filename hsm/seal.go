package hsm

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/miekg/pkcs11"
)

const (
	gcmNonceBytes = 12
	gcmTagBytes   = 16
	sealBytesMax  = 64 << 10 // of the plaintext, and of the associated data
	// sealsMax bounds the random nonces of one key (NIST SP 800-38D, section 8.3).
	sealsMax = 1 << 32
)

// Sealer is a key that encrypts and authenticates with AES-GCM inside its token. It may be used by
// several goroutines.
//
// Every Seal draws a random nonce of 96 bits, a new one also when the call is repeated. So that two
// never meet, one key may seal at most 2^32 times in its life; a Sealer stops there, but it does not
// know what was sealed before it was made.
type Sealer struct {
	copies *copies
	ctx    context.Context
	seals  *atomic.Uint64
}

// Sealer returns the key labelled label, made for sealing.
func (t *Token) Sealer(ctx context.Context, label string) (*Sealer, error) {
	return findSealer(ctx, t.alone(), label)
}

// Sealer returns the key labelled label, made for sealing.
func (g *Group) Sealer(ctx context.Context, label string) (*Sealer, error) {
	return findSealer(ctx, g.members, label)
}

func findSealer(ctx context.Context, members []*member, label string) (*Sealer, error) {
	c, err := findCopies(ctx, members, label, func(k *key) error {
		if k.info.Purpose != PurposeSeal {
			return k.fail(fmt.Errorf("seal: %w: they are %v, of a key of type %q", ErrNotPermitted, k.info.Usages, k.info.Type))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	// A secret key shows who it is by opening what it has sealed.
	var known sync.Mutex
	var sample []byte
	same := func(k *key) keyFunc {
		return func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) error {
			known.Lock()
			defer known.Unlock()
			if sample == nil {
				sealed, err := sealOnToken(k.tok.m.direct, lib, sh, h, []byte("is this the same key?"), nil)
				sample = sealed
				return err
			}
			// The answer to a wrong tag is that of a failing device in some libraries.
			for range triesMax {
				_, err := openOnToken(lib, sh, h, sample, nil)
				if loss := lossOf(err); err == nil || loss == lossSession || loss == lossDevice {
					return err
				}
			}
			return errAnotherKey
		}
	}
	if err := c.adoptAll(ctx, func(ctx context.Context, k *key) error { return k.adopt(ctx, same(k)) }); err != nil {
		return nil, err
	}
	return &Sealer{copies: c, seals: new(atomic.Uint64)}, nil
}

// WithContext returns the same key bound to ctx: when ctx ends, its calls return.
func (s *Sealer) WithContext(ctx context.Context) *Sealer {
	bound := *s
	bound.ctx = ctx
	return &bound
}

// Seal encrypts plaintext, 1 byte to 64 KiB, and authenticates it together with aad. The result is
// the nonce, the ciphertext and the tag: 28 bytes longer than plaintext.
func (s *Sealer) Seal(plaintext, aad []byte) ([]byte, error) {
	if len(plaintext) == 0 || len(plaintext) > sealBytesMax || len(aad) > sealBytesMax {
		return nil, s.copies.fail(fmt.Errorf("seal %d bytes with %d associated: want 1 to %d, and 0 to %d",
			len(plaintext), len(aad), sealBytesMax, sealBytesMax))
	}
	ctx, cancel := briefly(s.ctx)
	defer cancel()
	plaintext, aad = bytes.Clone(plaintext), bytes.Clone(aad)
	sealed, err := do(ctx, s.copies, deed{name: "seal", blind: true}, func(k *key, lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) ([]byte, error) {
		if s.seals.Add(1) > sealsMax {
			s.seals.Store(sealsMax)
			return nil, errors.New("the key has sealed 2^32 times: generate a new one")
		}
		return sealOnToken(k.tok.m.direct, lib, sh, h, plaintext, aad)
	})
	if err != nil {
		return nil, s.copies.fail(fmt.Errorf("seal: %w", err))
	}
	return sealed.value, nil
}

// Open decrypts what Seal has made with the same aad. Data that this key did not seal so give an
// error that matches [ErrNotAuthentic].
func (s *Sealer) Open(sealed, aad []byte) ([]byte, error) {
	const overhead = gcmNonceBytes + gcmTagBytes
	if len(sealed) <= overhead || len(sealed) > overhead+sealBytesMax || len(aad) > sealBytesMax {
		return nil, s.copies.fail(fmt.Errorf("open %d bytes: %w", len(sealed), ErrNotAuthentic))
	}
	ctx, cancel := briefly(s.ctx)
	defer cancel()
	sealed, aad = bytes.Clone(sealed), bytes.Clone(aad)
	plaintext, err := do(ctx, s.copies, deed{name: "open", doubtful: true, blind: true}, func(_ *key, lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) ([]byte, error) {
		return openOnToken(lib, sh, h, sealed, aad)
	})
	if err != nil && !errors.Is(err, ErrUnavailable) && codeOf(err) != pkcs11.CKR_OK {
		// Tokens have many codes for a wrong tag, SoftHSM the most general there is. The key still
		// working tells it from a failing device.
		if err := s.works(ctx); err != nil {
			return nil, s.copies.fail(fmt.Errorf("open: %w", err))
		}
		err = ErrNotAuthentic
	}
	if err != nil {
		return nil, s.copies.fail(fmt.Errorf("open: %w", err))
	}
	return plaintext.value, nil
}

// works seals and opens something of no meaning.
func (s *Sealer) works(ctx context.Context) error {
	_, err := do(ctx, s.copies, deed{name: "try"}, func(k *key, lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) ([]byte, error) {
		sealed, err := sealOnToken(k.tok.m.direct, lib, sh, h, []byte("still working"), nil)
		if err != nil {
			return nil, err
		}
		return openOnToken(lib, sh, h, sealed, nil)
	})
	return err
}

func sealOnToken(d direct, lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle, plaintext, aad []byte) ([]byte, error) {
	nonce := make([]byte, gcmNonceBytes, gcmNonceBytes+len(plaintext)+gcmTagBytes)
	rand.Read(nonce)
	params := pkcs11.NewGCMParams(nonce, aad, gcmTagBytes*8)
	defer params.Free()
	if err := lib.EncryptInit(sh, mechanism(pkcs11.CKM_AES_GCM, params), h); err != nil {
		return nil, named("C_EncryptInit", err)
	}
	sealed, err := d.encrypt(sh, plaintext, len(plaintext)+gcmTagBytes)
	if err != nil {
		return nil, err
	}
	if len(sealed) != len(plaintext)+gcmTagBytes {
		return nil, errors.New("the token's ciphertext has a wrong length")
	}
	return append(nonce, sealed...), nil
}

func openOnToken(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle, sealed, aad []byte) ([]byte, error) {
	nonce, ciphertext := sealed[:gcmNonceBytes], sealed[gcmNonceBytes:]
	params := pkcs11.NewGCMParams(nonce, aad, gcmTagBytes*8)
	defer params.Free()
	if err := lib.DecryptInit(sh, mechanism(pkcs11.CKM_AES_GCM, params), h); err != nil {
		return nil, named("C_DecryptInit", err)
	}
	plaintext, err := lib.Decrypt(sh, ciphertext)
	if err != nil {
		return nil, named("C_Decrypt", err)
	}
	if len(plaintext) != len(ciphertext)-gcmTagBytes {
		return nil, errors.New("the token's plaintext has a wrong length")
	}
	return plaintext, nil
}
