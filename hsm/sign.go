package hsm

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"

	"github.com/miekg/pkcs11"
)

// messageBytesMax bounds what an Ed25519 key signs, which is a message and not a digest.
const messageBytesMax = 64 << 10

// Signer is a private key that signs inside its token. It may be used by several goroutines.
//
// RSA keys sign with PKCS #1 v1.5 or, if the options are *rsa.PSSOptions, with PSS and a salt as long
// as the digest; ECDSA signatures are ASN.1. The digest is SHA-256, SHA-384 or SHA-512. Ed25519 keys
// sign messages: their options' hash is zero. Randomness comes from the token; the reader given to
// Sign is ignored. Every signature is verified before it is returned.
type Signer struct {
	copies *copies
	ctx    context.Context
	// unverified is for the benchmark that measures what verification costs.
	unverified bool
}

// Signer returns the key pair labelled label, made for signing.
func (t *Token) Signer(ctx context.Context, label string) (*Signer, error) {
	return findSigner(ctx, t.alone(), label)
}

// Signer returns the key pair labelled label, made for signing.
func (g *Group) Signer(ctx context.Context, label string) (*Signer, error) {
	return findSigner(ctx, g.members, label)
}

func findSigner(ctx context.Context, members []*member, label string) (*Signer, error) {
	c, err := findCopies(ctx, members, label, func(k *key) error {
		switch {
		case k.info.Purpose != PurposeSign && k.info.Purpose != PurposeCertSign:
			return k.fail(fmt.Errorf("sign: %w: they are %v", ErrNotPermitted, k.info.Usages))
		case k.info.Type == "":
			return k.fail(errors.New("its public key is not in the token, or of a type that is not supported"))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &Signer{copies: c}, nil
}

// WithContext returns the same key bound to ctx: when ctx ends, its calls return.
func (s *Signer) WithContext(ctx context.Context) *Signer {
	bound := *s
	bound.ctx = ctx
	return &bound
}

// Public returns the public key, *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey.
func (s *Signer) Public() crypto.PublicKey { return s.copies.info.Public }

// Sign signs digest. An error that matches [ErrUnavailable] says nothing about the digest: trying again
// later may help.
func (s *Signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	sig, err := s.sign(digest, opts)
	if err != nil {
		return nil, s.copies.fail(fmt.Errorf("sign: %w", err))
	}
	return sig, nil
}

func (s *Signer) sign(digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	job, err := newSignature(s.Public(), digest, opts)
	if err != nil {
		return nil, err
	}
	ctx, cancel := briefly(s.ctx)
	defer cancel()
	for try := 1; ; try++ {
		made, err := do(ctx, s.copies, deed{name: "sign"}, job.make)
		if err != nil {
			return nil, err
		}
		sig, err := job.finish(made.value)
		if err == nil && !s.unverified {
			err = job.verify(sig)
		}
		if err == nil {
			return sig, nil
		}
		// A key's handle outlives its session in some libraries and then names another key. Nobody
		// must see what that key has signed.
		lost := &lostError{err: fmt.Errorf("the token's signature does not verify with the key's public key: %w", err), giveUp: true}
		made.key.tok.lose(made.on, lost)
		if try == triesMax {
			return nil, lost
		}
	}
}

// signature is a signature to be made. It has a copy of the digest, because the token may still work
// on it when the caller has gone.
type signature struct {
	public    crypto.PublicKey
	digest    []byte
	opts      crypto.SignerOpts
	mechanism []*pkcs11.Mechanism
	input     []byte // what the token gets
}

// newSignature checks what is to be signed and how.
func newSignature(public crypto.PublicKey, digest []byte, opts crypto.SignerOpts) (*signature, error) {
	if opts == nil {
		return nil, errors.New("no options: the digest's algorithm is not known")
	}
	s := &signature{public: public, digest: slices.Clone(digest), opts: opts}
	s.input = s.digest
	if _, ok := public.(ed25519.PublicKey); ok {
		if opts.HashFunc() != 0 || len(digest) > messageBytesMax {
			return nil, fmt.Errorf("an Ed25519 key signs a message of at most %d bytes, with crypto.Hash(0) as its options", messageBytesMax)
		}
		s.mechanism = mechanism(ckmEDDSA, nil)
		return s, nil
	}
	hash := opts.HashFunc()
	known, ok := hashes[hash]
	switch {
	case !ok:
		return nil, fmt.Errorf("digest algorithm %v: want SHA-256, SHA-384 or SHA-512", hash)
	case len(digest) != hash.Size():
		return nil, fmt.Errorf("a digest of %d bytes, and %v has %d", len(digest), hash, hash.Size())
	}
	pss, isPSS := opts.(*rsa.PSSOptions)
	if isPSS && pss.SaltLength != rsa.PSSSaltLengthEqualsHash && pss.SaltLength != hash.Size() {
		return nil, fmt.Errorf("PSS salt length %d: want that of the digest, rsa.PSSSaltLengthEqualsHash", pss.SaltLength)
	}
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		// ECDSA takes the leftmost bits of a longer digest; not every token knows that.
		s.input = s.digest[:min(len(digest), (public.Curve.Params().BitSize+7)/8)]
		s.mechanism = mechanism(pkcs11.CKM_ECDSA, nil)
	case *rsa.PublicKey:
		if isPSS {
			s.mechanism = mechanism(pkcs11.CKM_RSA_PKCS_PSS, pkcs11.NewPSSParams(known.mechanism, known.mgf, uint(hash.Size())))
			break
		}
		s.input = slices.Concat(known.digestInfo, s.digest)
		s.mechanism = mechanism(pkcs11.CKM_RSA_PKCS, nil)
	default:
		return nil, fmt.Errorf("public key of type %T", public)
	}
	return s, nil
}

func mechanism(code uint, params any) []*pkcs11.Mechanism {
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(code, params)}
}

// hashes are the digests that are signed, with the start of their DigestInfo (RFC 8017, section 9.2,
// note 1).
var hashes = map[crypto.Hash]struct {
	mechanism, mgf uint
	digestInfo     []byte
}{
	crypto.SHA256: {pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, digestInfo(1, 32)},
	crypto.SHA384: {pkcs11.CKM_SHA384, pkcs11.CKG_MGF1_SHA384, digestInfo(2, 48)},
	crypto.SHA512: {pkcs11.CKM_SHA512, pkcs11.CKG_MGF1_SHA512, digestInfo(3, 64)},
}

// digestInfo is the DER of a DigestInfo without the digest; arc is the last one of the algorithm's
// object identifier, 2.16.840.1.101.3.4.2.arc.
func digestInfo(arc, size byte) []byte {
	return []byte{0x30, 17 + size, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, arc, 5, 0, 4, size}
}

// make makes the signature in the token's own form.
func (s *signature) make(_ *key, lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) ([]byte, error) {
	if err := lib.SignInit(sh, s.mechanism, h); err != nil {
		return nil, named("C_SignInit", err)
	}
	sig, err := lib.Sign(sh, s.input)
	return sig, named("C_Sign", err)
}

// finish gives a signature the form that Go's interfaces have.
func (s *signature) finish(sig []byte) ([]byte, error) {
	if _, ok := s.public.(*ecdsa.PublicKey); !ok {
		return sig, nil
	}
	if len(sig) == 0 || len(sig)%2 != 0 {
		return nil, fmt.Errorf("an ECDSA signature of %d bytes", len(sig))
	}
	half := len(sig) / 2
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:])})
}

func (s *signature) verify(sig []byte) error {
	switch public := s.public.(type) {
	case *rsa.PublicKey:
		if pss, ok := s.opts.(*rsa.PSSOptions); ok {
			return rsa.VerifyPSS(public, pss.Hash, s.digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
		return rsa.VerifyPKCS1v15(public, s.opts.HashFunc(), s.digest, sig)
	case *ecdsa.PublicKey:
		if ecdsa.VerifyASN1(public, s.digest, sig) {
			return nil
		}
	case ed25519.PublicKey:
		if ed25519.Verify(public, s.digest, sig) {
			return nil
		}
	}
	return errors.New("verification failed")
}
