package hsm

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/ThalesGroup/crypto11"
)

// signer is a private key that signs. Its handle belongs to crypto11.
type signer struct {
	*key
	c11 crypto11.Signer
}

// Signer returns the key pair labelled label, made for signing.
//
// RSA keys sign with PKCS #1 v1.5 or, if the options are *rsa.PSSOptions, with PSS and a salt as long
// as the digest; ECDSA signatures are ASN.1. The digest is SHA-256, SHA-384 or SHA-512. The signer
// may be used by several goroutines. It takes its randomness from the token; the reader given to
// Sign is ignored.
func (t *Token) Signer(ctx context.Context, label string) (crypto.Signer, error) {
	k, err := t.find(ctx, label)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(k.info.Usages, "sign") || (k.info.Purpose != PurposeSign && k.info.Purpose != PurposeCertSign) {
		return nil, k.fail(fmt.Errorf("sign: %w: they are %v", ErrNotPermitted, k.info.Usages))
	}
	if k.info.Type == "" {
		return nil, k.fail(errors.New("its public key is not in the token, or of a type that is not supported"))
	}
	c11, err := k.crypto11Key(ctx)
	if err != nil {
		return nil, k.fail(err)
	}
	return &signer{k, c11}, nil
}

// crypto11Key makes crypto11 find the key that we have found, and none with another public key.
func (k *key) crypto11Key(ctx context.Context) (crypto11.Signer, error) {
	leave, err := k.tok.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	id, err := k.id()
	if err != nil {
		return nil, err
	}
	found, err := k.tok.c11.FindKeyPairs(id, []byte(k.info.Label))
	if err != nil {
		return nil, named("find the key pair", err)
	}
	if len(found) != 1 || !equalPublic(k.info.Public, found[0].Public()) {
		return nil, fmt.Errorf("%d key pairs have its CKA_ID and label, or a public key is another's", len(found))
	}
	return found[0], nil
}

func equalPublic(a, b crypto.PublicKey) bool {
	pub, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(b)
}

func (s *signer) Public() crypto.PublicKey { return s.info.Public }

func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	sig, err := s.sign(digest, opts)
	if err != nil {
		return nil, s.fail(fmt.Errorf("sign: %w", err))
	}
	return sig, nil
}

func (s *signer) sign(digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	opts, err := signOptions(digest, opts)
	if err != nil {
		return nil, err
	}
	toSign := digest
	if pub, ok := s.info.Public.(*ecdsa.PublicKey); ok {
		// ECDSA takes the leftmost bits of a longer digest; not every token knows that.
		toSign = digest[:min(len(digest), (pub.Curve.Params().BitSize+7)/8)]
	}
	ctx, cancel := briefly()
	defer cancel()
	leave, err := s.tok.enter(ctx)
	if err != nil {
		return nil, err
	}
	sig, err := s.c11.Sign(nil, toSign, opts)
	leave()
	if err != nil {
		return nil, named("C_Sign", err)
	}
	if err := verify(s.info.Public, digest, sig, opts); err != nil {
		return nil, fmt.Errorf("the token's signature does not verify with the key's public key: %w: %w", err, ErrUnavailable)
	}
	return sig, nil
}

// signOptions checks what is to be signed and how, because crypto11 signs a digest of any other kind
// as if it were none. The options it returns are the ones that crypto11 understands.
func signOptions(digest []byte, opts crypto.SignerOpts) (crypto.SignerOpts, error) {
	if opts == nil {
		return nil, errors.New("no options: the digest's algorithm is not known")
	}
	hash := opts.HashFunc()
	switch hash {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
	default:
		return nil, fmt.Errorf("digest algorithm %v: want SHA-256, SHA-384 or SHA-512", hash)
	}
	if len(digest) != hash.Size() {
		return nil, fmt.Errorf("a digest of %d bytes, and %v has %d", len(digest), hash, hash.Size())
	}
	pss, ok := opts.(*rsa.PSSOptions)
	if !ok {
		return hash, nil
	}
	if pss.SaltLength != rsa.PSSSaltLengthEqualsHash && pss.SaltLength != hash.Size() {
		return nil, fmt.Errorf("PSS salt length %d: want that of the digest, rsa.PSSSaltLengthEqualsHash", pss.SaltLength)
	}
	return &rsa.PSSOptions{Hash: hash, SaltLength: rsa.PSSSaltLengthEqualsHash}, nil
}

// verify checks a signature that the token has made. A key's handle outlives its session in some
// libraries and then names another key: nobody must see what that key has signed.
func verify(pub crypto.PublicKey, digest, sig []byte, opts crypto.SignerOpts) error {
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		if pss, ok := opts.(*rsa.PSSOptions); ok {
			return rsa.VerifyPSS(pub, pss.Hash, digest, sig, pss)
		}
		return rsa.VerifyPKCS1v15(pub, opts.HashFunc(), digest, sig)
	case *ecdsa.PublicKey:
		if ecdsa.VerifyASN1(pub, digest, sig) {
			return nil
		}
		return errors.New("ECDSA verification failed")
	}
	return fmt.Errorf("public key of type %T", pub)
}
