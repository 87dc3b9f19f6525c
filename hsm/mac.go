package hsm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// macBytesMax bounds what is authenticated in one call.
const macBytesMax = 1 << 20

// MAC is a key that computes HMAC-SHA-256 inside its token. It may be used by several goroutines.
type MAC struct{ key *key }

// MAC returns the key labelled label, made for message authentication.
func (t *Token) MAC(ctx context.Context, label string) (*MAC, error) {
	k, err := t.find(ctx, label)
	if err != nil {
		return nil, err
	}
	if k.info.Purpose != PurposeMAC || k.info.Type != HMACSHA256 {
		return nil, k.fail(fmt.Errorf("MAC: %w: they are %v, of a key of type %q", ErrNotPermitted, k.info.Usages, k.info.Type))
	}
	return &MAC{k}, nil
}

// Sum returns the 32 bytes of the HMAC-SHA-256 of data, which is at most 1 MiB.
func (m *MAC) Sum(data []byte) ([]byte, error) {
	if len(data) > macBytesMax {
		return nil, m.key.fail(fmt.Errorf("MAC of %d bytes: at most %d", len(data), macBytesMax))
	}
	ctx, cancel := briefly()
	defer cancel()
	var sum []byte
	err := m.key.tok.session(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		mechanism := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_SHA256_HMAC, nil)}
		if err := lib.SignInit(sh, mechanism, m.key.handle); err != nil {
			return named("C_SignInit", err)
		}
		var err error
		if sum, err = lib.Sign(sh, data); err != nil {
			return named("C_Sign", err)
		}
		if len(sum) != sha256.Size {
			return errors.New("the token's HMAC has a wrong length")
		}
		return nil
	})
	if err != nil {
		return nil, m.key.fail(fmt.Errorf("MAC: %w", err))
	}
	return sum, nil
}
