package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/setkit/setkit/hsm"
)

var errWrongResult = errors.New("the token's result is wrong")

// tryKeys uses every key once for its purpose. It returns the digests with which the token decodes OAEP
// itself, or nil if there was no key to try it with, and an error only if the device was lost.
func (d *diagnosis) tryKeys(ctx context.Context, token *hsm.Token, able []hsm.Mechanism) (oaep *[]crypto.Hash, err error) {
	keys := d.keys
	for i, k := range keys {
		twin := i > 0 && keys[i-1].Label == k.Label || i+1 < len(keys) && keys[i+1].Label == k.Label
		if twin || k.Purpose == "" || strings.HasPrefix(k.Label, unfinished) {
			continue // told already, and no way to use it
		}
		var did string
		switch k.Purpose {
		case hsm.PurposeSign, hsm.PurposeCertSign:
			did, err = "signs, and its public key verifies", trySign(ctx, token, k)
		case hsm.PurposeKeyExchange:
			var native []crypto.Hash
			if native, err = tryDecrypt(ctx, token, k); err == nil {
				did, oaep = "decrypts what its public key encrypts", &native
			}
		case hsm.PurposeMAC:
			did, err = "authenticates", tryMAC(ctx, token, k)
		case hsm.PurposeSeal:
			did, err = "seals and opens", trySeal(ctx, token, k)
		case hsm.PurposeDerive:
			did, err = "agrees on a secret", tryDerive(ctx, token, k)
		default:
			d.add(severityOK, "not tried", k.Label, "keys for "+string(k.Purpose)+" work only on other keys", "")
			continue
		}
		switch {
		case err == nil:
			d.add(severityOK, "try", k.Label, did, "")
		case errors.Is(err, hsm.ErrUnavailable):
			return nil, err
		case missing(able, mechanismOf(k)) != "":
			// The key is not to blame, and another of its type would not work either.
			d.add(severityError, "try", k.Label, "does not work: "+missing(able, mechanismOf(k)),
				"use the key through a library that has the mechanism, or a key of another type; see what there is", d.command("doctor", "--all"))
		default:
			d.add(severityError, "try", k.Label, "does not work: "+err.Error(), "see what the token says of it; if nothing explains it, "+replace, append([]string{d.command("keys show", "--label", k.Label)}, d.replaceKey(k)...)...)
		}
	}
	return oaep, nil
}

// mechanismOf is what a token must have to use a key for its purpose.
func mechanismOf(k hsm.KeyInfo) []mechanism {
	switch k.Purpose {
	case hsm.PurposeSeal:
		return []mechanism{{"CKM_AES_GCM", "encrypt", 0}, {"CKM_AES_GCM", "decrypt", 0}}
	case hsm.PurposeMAC:
		if k.Type == hsm.HMACSHA256 {
			return []mechanism{{"CKM_SHA256_HMAC", "sign", 0}}
		}
		return []mechanism{{"CKM_AES_CMAC", "sign", 0}}
	case hsm.PurposeDerive:
		return []mechanism{{"CKM_ECDH1_DERIVE", "derive", 0}}
	case hsm.PurposeSign, hsm.PurposeCertSign:
		switch k.Public.(type) {
		case ed25519.PublicKey:
			return []mechanism{{"CKM_EDDSA", "sign", 0}}
		case *ecdsa.PublicKey:
			return []mechanism{{"CKM_ECDSA", "sign", 0}}
		case *rsa.PublicKey:
			return []mechanism{{"CKM_RSA_PKCS", "sign", 0}}
		}
	}
	return nil
}

func trySign(ctx context.Context, token *hsm.Token, k hsm.KeyInfo) error {
	key, err := token.Signer(ctx, k.Label)
	if err != nil {
		return err
	}
	// What is signed says what it is, so that the signature is good for nothing else.
	message := []byte("set-hsm doctor tries this key: " + rand.Text())
	digest := sha256.Sum256(message)
	signed, opts := digest[:], crypto.SignerOpts(crypto.SHA256)
	if _, ok := k.Public.(ed25519.PublicKey); ok {
		signed, opts = message, crypto.Hash(0)
	}
	sig, err := key.WithContext(ctx).Sign(nil, signed, opts)
	if err != nil {
		return err
	}
	ok := false
	switch pub := k.Public.(type) {
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], sig) == nil
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(pub, digest[:], sig)
	case ed25519.PublicKey:
		ok = ed25519.Verify(pub, message, sig)
	}
	if !ok {
		return errWrongResult
	}
	return nil
}

func tryDecrypt(ctx context.Context, token *hsm.Token, k hsm.KeyInfo) (native []crypto.Hash, err error) {
	key, err := token.Decrypter(ctx, k.Label)
	if err != nil {
		return nil, err
	}
	pub, ok := key.Public().(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("its public key is a %T", key.Public())
	}
	message, label := []byte(rand.Text()), []byte("set-hsm doctor")
	ciphertext, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, message, label)
	if err != nil {
		return nil, err
	}
	got, err := key.WithContext(ctx).Decrypt(nil, ciphertext, &rsa.OAEPOptions{Hash: crypto.SHA256, Label: label})
	if err == nil && !bytes.Equal(got, message) {
		err = errWrongResult
	}
	return key.NativeOAEP(), err
}

func tryMAC(ctx context.Context, token *hsm.Token, k hsm.KeyInfo) error {
	find := token.CMAC
	if k.Type == hsm.HMACSHA256 {
		find = token.MAC
	}
	key, err := find(ctx, k.Label)
	if err != nil {
		return err
	}
	key = key.WithContext(ctx)
	var sums [3][]byte
	for i, message := range []string{"set-hsm doctor", "set-hsm doctor", "set-hsm doctor, another"} {
		if sums[i], err = key.Sum([]byte(message)); err != nil {
			return err
		}
	}
	if !bytes.Equal(sums[0], sums[1]) || bytes.Equal(sums[0], sums[2]) {
		return errWrongResult
	}
	return nil
}

func trySeal(ctx context.Context, token *hsm.Token, k hsm.KeyInfo) error {
	key, err := token.Sealer(ctx, k.Label)
	if err != nil {
		return err
	}
	key = key.WithContext(ctx)
	message, aad := []byte(rand.Text()), []byte("set-hsm doctor")
	sealed, err := key.Seal(message, aad)
	if err != nil {
		return err
	}
	got, err := key.Open(sealed, aad)
	if err == nil && !bytes.Equal(got, message) {
		err = errWrongResult
	}
	return err
}

func tryDerive(ctx context.Context, token *hsm.Token, k hsm.KeyInfo) error {
	key, err := token.Deriver(ctx, k.Label)
	if err != nil {
		return err
	}
	peer, err := key.Public().Curve().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	want, err := peer.ECDH(key.Public())
	if err != nil {
		return err
	}
	defer clear(want)
	got, err := key.WithContext(ctx).ECDH(peer.PublicKey())
	defer clear(got)
	if err == nil && !bytes.Equal(got, want) {
		err = errWrongResult
	}
	return err
}
