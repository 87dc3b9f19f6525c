package hsm

import (
	"crypto"

	"github.com/miekg/pkcs11"
)

// RawSigner returns a function that signs digest with nothing between it and C_Sign, in a session of its
// own: what a benchmark is measured against. Its signatures have the token's form, which encode makes
// that of Go's interfaces.
func RawSigner(s *Signer, digest []byte, opts crypto.SignerOpts) (sign func() ([]byte, error), encode func([]byte) ([]byte, error), done func(), err error) {
	k := s.copies.keys[0]
	job, err := newSignature(s.Public(), digest, opts)
	if err != nil {
		return nil, nil, nil, err
	}
	lib := k.tok.m.lib
	sh, err := lib.OpenSession(k.tok.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return nil, nil, nil, err
	}
	sign = func() ([]byte, error) {
		if err := lib.SignInit(sh, job.mechanism, k.handle); err != nil {
			return nil, err
		}
		return lib.Sign(sh, job.input)
	}
	return sign, job.finish, func() { lib.CloseSession(sh) }, nil
}

// Unverified is the same key, whose signatures are not verified.
func Unverified(s *Signer) *Signer {
	bold := *s
	bold.unverified = true
	return &bold
}
