package hsm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"

	"github.com/miekg/pkcs11"
)

// decrypter is a private RSA key that decrypts RSAES-OAEP.
type decrypter struct {
	*key
	public *rsa.PublicKey
	native bool // the token itself decodes OAEP with SHA-256 and labels
}

// Decrypter returns the RSA key pair labelled label, made for key exchange.
//
// It decrypts RSAES-OAEP with SHA-256 and the label of its *rsa.OAEPOptions, and nothing else. Where
// the token gets that right it decodes the padding itself; otherwise it only does the RSA operation,
// and the padding is decoded here in constant time. A ciphertext that does not decrypt gives
// [rsa.ErrDecryption], whatever is wrong with it.
func (t *Token) Decrypter(ctx context.Context, label string) (crypto.Decrypter, error) {
	k, err := t.find(ctx, label)
	if err != nil {
		return nil, err
	}
	if k.info.Purpose != PurposeKeyExchange {
		return nil, k.fail(fmt.Errorf("decrypt: %w: they are %v", ErrNotPermitted, k.info.Usages))
	}
	public, ok := k.info.Public.(*rsa.PublicKey)
	if !ok || k.info.Type == "" {
		return nil, k.fail(errors.New("its public key is not in the token, or not RSA of a supported size"))
	}
	d := &decrypter{key: k, public: public}
	if d.native, err = d.decodesOAEP(ctx); err != nil {
		return nil, k.fail(fmt.Errorf("try the key: %w", err))
	}
	return d, nil
}

func (d *decrypter) Public() crypto.PublicKey { return d.public }

func (d *decrypter) Decrypt(_ io.Reader, ciphertext []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	oaep, ok := opts.(*rsa.OAEPOptions)
	if !ok || oaep == nil {
		return nil, d.fail(fmt.Errorf("decrypt with options of type %T: only RSAES-OAEP with SHA-256, *rsa.OAEPOptions, is supported", opts))
	}
	if oaep.Hash != crypto.SHA256 || (oaep.MGFHash != 0 && oaep.MGFHash != crypto.SHA256) {
		return nil, d.fail(fmt.Errorf("decrypt RSAES-OAEP with %v: only SHA-256 is supported", oaep.Hash))
	}
	ctx, cancel := briefly()
	defer cancel()
	plaintext, err := d.decrypt(ctx, d.native, ciphertext, oaep.Label)
	if err != nil && !errors.Is(err, rsa.ErrDecryption) {
		return nil, d.fail(fmt.Errorf("decrypt: %w", err))
	}
	return plaintext, err
}

// decrypt returns rsa.ErrDecryption itself, or an error that has nothing to do with the ciphertext.
func (d *decrypter) decrypt(ctx context.Context, native bool, ciphertext, label []byte) ([]byte, error) {
	if len(ciphertext) != d.public.Size() || new(big.Int).SetBytes(ciphertext).Cmp(d.public.N) >= 0 {
		return nil, rsa.ErrDecryption
	}
	if native {
		plaintext, err := d.onToken(ctx, ciphertext, pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_OAEP,
			pkcs11.NewOAEPParams(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, pkcs11.CKZ_DATA_SPECIFIED, label)))
		if err != nil && !errors.Is(err, ErrUnavailable) && codeOf(err) != pkcs11.CKR_OK {
			return nil, rsa.ErrDecryption // whichever code the token has for it
		}
		return plaintext, err
	}
	em, err := d.onToken(ctx, ciphertext, pkcs11.NewMechanism(pkcs11.CKM_RSA_X_509, nil))
	if err != nil {
		return nil, err // every ciphertext that gets here is fine for the RSA operation
	}
	defer clear(em)
	if len(em) > d.public.Size() {
		return nil, fmt.Errorf("%d bytes from an RSA operation of %d", len(em), d.public.Size())
	}
	// Some tokens drop leading zeros.
	padded := make([]byte, d.public.Size())
	copy(padded[len(padded)-len(em):], em)
	defer clear(padded)
	return decodeOAEP(padded, label)
}

func (d *decrypter) onToken(ctx context.Context, ciphertext []byte, mechanism *pkcs11.Mechanism) (plaintext []byte, err error) {
	err = d.tok.session(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		if err := lib.DecryptInit(sh, []*pkcs11.Mechanism{mechanism}, d.handle); err != nil {
			return named("C_DecryptInit", err)
		}
		plaintext, err = lib.Decrypt(sh, ciphertext)
		return named("C_Decrypt", err)
	})
	return plaintext, err
}

// decodesOAEP finds out by trying whether the token decodes OAEP as it must: some do not know
// SHA-256 there, some do not look at the label, and none says so in its mechanism list. It also
// proves that the private key belongs to the public key.
func (d *decrypter) decodesOAEP(ctx context.Context) (bool, error) {
	message, label := make([]byte, 32), []byte("label")
	rand.Read(message)
	ciphertext, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, d.public, message, label)
	if err != nil {
		return false, err
	}
	got, err := d.decrypt(ctx, true, ciphertext, label)
	if err != nil && !errors.Is(err, rsa.ErrDecryption) {
		return false, err
	}
	if err == nil && bytes.Equal(got, message) {
		_, err = d.decrypt(ctx, true, ciphertext, []byte("other"))
		if errors.Is(err, rsa.ErrDecryption) {
			return true, nil
		}
	}
	got, err = d.decrypt(ctx, false, ciphertext, label)
	if err != nil || !slices.Equal(got, message) {
		return false, errors.Join(errors.New("it does not decrypt what its public key encrypts"), err)
	}
	return false, nil
}
