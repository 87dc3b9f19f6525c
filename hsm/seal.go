package hsm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
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

// Sealer is a key that encrypts and authenticates with AES-256-GCM inside its token. It may be used
// by several goroutines.
//
// Every Seal draws a random nonce of 96 bits. So that two never meet, one key may seal at most 2^32
// times in its life; a Sealer stops there, but it does not know what was sealed before it was made.
type Sealer struct {
	key   *key
	seals atomic.Uint64
}

// Sealer returns the key labelled label, made for sealing.
func (t *Token) Sealer(ctx context.Context, label string) (*Sealer, error) {
	k, err := t.find(ctx, label)
	if err != nil {
		return nil, err
	}
	if k.info.Purpose != PurposeSeal || k.info.Type != AES256 {
		return nil, k.fail(fmt.Errorf("seal: %w: they are %v, of a key of type %q", ErrNotPermitted, k.info.Usages, k.info.Type))
	}
	return &Sealer{key: k}, nil
}

// Seal encrypts plaintext, 1 byte to 64 KiB, and authenticates it together with aad. The result is
// the nonce, the ciphertext and the tag: 28 bytes longer than plaintext.
func (s *Sealer) Seal(plaintext, aad []byte) ([]byte, error) {
	if len(plaintext) == 0 || len(plaintext) > sealBytesMax || len(aad) > sealBytesMax {
		return nil, s.key.fail(fmt.Errorf("seal %d bytes with %d associated: want 1 to %d, and 0 to %d",
			len(plaintext), len(aad), sealBytesMax, sealBytesMax))
	}
	if s.seals.Add(1) > sealsMax {
		s.seals.Store(sealsMax)
		return nil, s.key.fail(errors.New("seal: the key has sealed 2^32 times: generate a new one"))
	}
	nonce := make([]byte, gcmNonceBytes, gcmNonceBytes+len(plaintext)+gcmTagBytes)
	rand.Read(nonce)
	ctx, cancel := briefly()
	defer cancel()
	var sealed []byte
	err := s.onToken(ctx, nonce, aad, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, m []*pkcs11.Mechanism) (err error) {
		if err := lib.EncryptInit(sh, m, s.key.handle); err != nil {
			return named("C_EncryptInit", err)
		}
		sealed, err = lib.Encrypt(sh, plaintext)
		return named("C_Encrypt", err)
	})
	if err == nil && len(sealed) != len(plaintext)+gcmTagBytes {
		err = errors.New("the token's ciphertext has a wrong length")
	}
	if err != nil {
		return nil, s.key.fail(fmt.Errorf("seal: %w", err))
	}
	return append(nonce, sealed...), nil
}

// Open decrypts what Seal has made with the same aad. Data that this key did not seal so give an
// error that matches [ErrNotAuthentic].
func (s *Sealer) Open(sealed, aad []byte) ([]byte, error) {
	const overhead = gcmNonceBytes + gcmTagBytes
	if len(sealed) <= overhead || len(sealed) > overhead+sealBytesMax || len(aad) > sealBytesMax {
		return nil, s.key.fail(fmt.Errorf("open %d bytes: %w", len(sealed), ErrNotAuthentic))
	}
	ctx, cancel := briefly()
	defer cancel()
	plaintext, err := s.open(ctx, sealed, aad)
	if err != nil && !errors.Is(err, ErrUnavailable) && codeOf(err) != pkcs11.CKR_OK {
		// Tokens have many codes for a wrong tag, SoftHSM the most general there is. The key still
		// working tells it from a failing device.
		if err := s.works(ctx); err != nil {
			return nil, s.key.fail(fmt.Errorf("open: %w", err))
		}
		return nil, s.key.fail(fmt.Errorf("open: %w", ErrNotAuthentic))
	}
	if err != nil {
		return nil, s.key.fail(fmt.Errorf("open: %w", err))
	}
	return plaintext, nil
}

func (s *Sealer) open(ctx context.Context, sealed, aad []byte) (plaintext []byte, err error) {
	nonce, ciphertext := sealed[:gcmNonceBytes], sealed[gcmNonceBytes:]
	err = s.onToken(ctx, nonce, aad, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, m []*pkcs11.Mechanism) (err error) {
		if err := lib.DecryptInit(sh, m, s.key.handle); err != nil {
			return named("C_DecryptInit", err)
		}
		plaintext, err = lib.Decrypt(sh, ciphertext)
		return named("C_Decrypt", err)
	})
	if err == nil && len(plaintext) != len(ciphertext)-gcmTagBytes {
		err = errors.New("the token's plaintext has a wrong length")
	}
	return plaintext, err
}

// works seals and opens something of no meaning.
func (s *Sealer) works(ctx context.Context) error {
	sealed, err := s.Seal([]byte("still working"), nil)
	if err != nil {
		return err
	}
	_, err = s.open(ctx, sealed, nil)
	return err
}

func (s *Sealer) onToken(ctx context.Context, nonce, aad []byte,
	f func(*pkcs11.Ctx, pkcs11.SessionHandle, []*pkcs11.Mechanism) error) error {
	params := pkcs11.NewGCMParams(nonce, aad, gcmTagBytes*8)
	defer params.Free()
	return s.key.tok.session(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		return f(lib, sh, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)})
	})
}
