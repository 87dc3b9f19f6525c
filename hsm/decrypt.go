package hsm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // RSAES-OAEP with SHA-1, whose security does not rest on collisions
	_ "crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"

	"github.com/miekg/pkcs11"
)

// Decrypter is a private RSA key that decrypts inside its token. It may be used by several goroutines.
//
// It decrypts RSAES-OAEP with SHA-256 or SHA-1 and the label of its *rsa.OAEPOptions, and nothing else.
// Where the token gets that right it decodes the padding itself; otherwise it only does the RSA
// operation, and the padding is decoded here in constant time. A ciphertext that does not decrypt gives
// [rsa.ErrDecryption], whatever is wrong with it.
type Decrypter struct {
	copies *copies
	public *rsa.PublicKey
	good   map[crypto.Hash][]byte // ciphertexts of no meaning
	ctx    context.Context
}

// Decrypter returns the RSA key pair labelled label, made for key exchange.
func (t *Token) Decrypter(ctx context.Context, label string) (*Decrypter, error) {
	return findDecrypter(ctx, t.alone(), label)
}

// Decrypter returns the RSA key pair labelled label, made for key exchange.
func (g *Group) Decrypter(ctx context.Context, label string) (*Decrypter, error) {
	return findDecrypter(ctx, g.members, label)
}

func findDecrypter(ctx context.Context, members []*member, label string) (*Decrypter, error) {
	c, err := findCopies(ctx, members, label, func(k *key) error {
		if k.info.Purpose != PurposeKeyExchange {
			return k.fail(fmt.Errorf("decrypt: %w: they are %v", ErrNotPermitted, k.info.Usages))
		}
		if _, ok := k.info.Public.(*rsa.PublicKey); !ok || k.info.Type == "" {
			return k.fail(errors.New("its public key is not in the token, or not RSA of a supported size"))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	public := c.info.Public.(*rsa.PublicKey)
	if err := c.adoptAll(ctx, func(ctx context.Context, k *key) error { return tryOAEP(ctx, k, public) }); err != nil {
		return nil, err
	}
	good := map[crypto.Hash][]byte{}
	for hash := range oaepCodes {
		if good[hash], err = rsa.EncryptOAEP(hash.New(), rand.Reader, public, []byte("still working?"), nil); err != nil {
			return nil, c.fail(err)
		}
	}
	return &Decrypter{copies: c, public: public, good: good}, nil
}

// WithContext returns the same key bound to ctx: when ctx ends, its calls return.
func (d *Decrypter) WithContext(ctx context.Context) *Decrypter {
	bound := *d
	bound.ctx = ctx
	return &bound
}

// Public returns the public key, a *rsa.PublicKey.
func (d *Decrypter) Public() crypto.PublicKey { return d.public }

// Decrypt decrypts ciphertext. The reader is ignored.
func (d *Decrypter) Decrypt(_ io.Reader, ciphertext []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	oaep, ok := opts.(*rsa.OAEPOptions)
	if !ok || oaep == nil {
		return nil, d.copies.fail(fmt.Errorf("decrypt with options of type %T: only RSAES-OAEP, *rsa.OAEPOptions, is supported", opts))
	}
	if _, known := oaepCodes[oaep.Hash]; !known || oaep.MGFHash != 0 && oaep.MGFHash != oaep.Hash {
		return nil, d.copies.fail(fmt.Errorf("decrypt RSAES-OAEP with %v and %v: only SHA-256 and SHA-1, for both uses, are supported", oaep.Hash, oaep.MGFHash))
	}
	if !fits(d.public, ciphertext) {
		return nil, rsa.ErrDecryption
	}
	ctx, cancel := briefly(d.ctx)
	defer cancel()
	plain, err := d.decrypt(ctx, oaep.Hash, slices.Clone(oaep.Label), slices.Clone(ciphertext))
	if err != nil && !errors.Is(err, rsa.ErrDecryption) {
		return nil, d.copies.fail(fmt.Errorf("decrypt: %w", err))
	}
	if err != nil {
		return nil, rsa.ErrDecryption // itself, with nothing that would tell one ciphertext from another
	}
	return plain, nil
}

// decrypt believes a token that a ciphertext is bad only if it decrypts a good one then, because some
// say the same of a lost device. What it costs does not depend on what is wrong with the ciphertext.
func (d *Decrypter) decrypt(ctx context.Context, hash crypto.Hash, label, ciphertext []byte) ([]byte, error) {
	for try := 1; ; try++ {
		plain, err := do(ctx, d.copies, deed{name: "decrypt", blind: true}, func(k *key, lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) ([]byte, error) {
			return d.decoder(k, hash)(d.public, hash, label, ciphertext, lib, sh, h)
		})
		if !errors.Is(err, rsa.ErrDecryption) {
			return plain.value, err
		}
		k := plain.key
		probe := call{operation: "try", tries: triesMax, blind: true, shared: len(d.copies.members) > 1}
		_, perr := doWith(ctx, k, probe, func(k *key, lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) ([]byte, error) {
			return d.decoder(k, hash)(d.public, hash, nil, d.good[hash], lib, sh, h)
		})
		switch {
		case perr == nil:
			return nil, err
		case !errors.Is(perr, rsa.ErrDecryption):
			return nil, perr
		}
		lost := &lostError{err: errors.New("the token does not decrypt what the key's public key encrypts"), giveUp: true}
		k.tok.lose(plain.on, lost)
		if try == triesMax {
			return nil, lost
		}
	}
}

// decodeFunc decrypts an RSAES-OAEP ciphertext with the private key of a handle.
type decodeFunc = func(_ *rsa.PublicKey, _ crypto.Hash, label, ciphertext []byte, _ *pkcs11.Ctx, _ pkcs11.SessionHandle, _ pkcs11.ObjectHandle) ([]byte, error)

func (d *Decrypter) decoder(k *key, hash crypto.Hash) decodeFunc {
	if slices.Contains(k.nativeOAEP, hash) {
		return decodeOnToken
	}
	return decodeHere
}

// fits reports whether c can be the result of encryption with public.
func fits(public *rsa.PublicKey, c []byte) bool {
	return len(c) == public.Size() && new(big.Int).SetBytes(c).Cmp(public.N) < 0
}

var oaepCodes = map[crypto.Hash]struct{ mechanism, mgf uint }{
	crypto.SHA256: {pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256},
	crypto.SHA1:   {pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1},
}

// decodeOnToken returns rsa.ErrDecryption, or an error that has nothing to do with the ciphertext.
func decodeOnToken(_ *rsa.PublicKey, hash crypto.Hash, label, ciphertext []byte, lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) ([]byte, error) {
	codes := oaepCodes[hash]
	plaintext, err := rsaOnToken(lib, sh, h, ciphertext, mechanism(pkcs11.CKM_RSA_PKCS_OAEP,
		pkcs11.NewOAEPParams(codes.mechanism, codes.mgf, pkcs11.CKZ_DATA_SPECIFIED, label)))
	if loss := lossOf(err); err != nil && (loss == lossNone || loss == lossUnclear) {
		return nil, rsa.ErrDecryption // whichever code the token has for it
	}
	return plaintext, err
}

func decodeHere(public *rsa.PublicKey, hash crypto.Hash, label, ciphertext []byte, lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) ([]byte, error) {
	em, err := rsaOnToken(lib, sh, h, ciphertext, mechanism(pkcs11.CKM_RSA_X_509, nil))
	if err != nil {
		return nil, err // every ciphertext that gets here is fine for the RSA operation
	}
	defer clear(em)
	if len(em) > public.Size() {
		return nil, fmt.Errorf("%d bytes from an RSA operation of %d", len(em), public.Size())
	}
	// Some tokens drop leading zeros.
	padded := make([]byte, public.Size())
	copy(padded[len(padded)-len(em):], em)
	defer clear(padded)
	return decodeOAEP(hash, padded, label)
}

func rsaOnToken(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle, ciphertext []byte, m []*pkcs11.Mechanism) ([]byte, error) {
	if err := lib.DecryptInit(sh, m, h); err != nil {
		return nil, named("C_DecryptInit", err)
	}
	plaintext, err := lib.Decrypt(sh, ciphertext)
	return plaintext, named("C_Decrypt", err)
}

// tryOAEP finds out by trying for which digests the token decodes OAEP as it must: some do not know
// SHA-256 there, some do not look at the label, and none says so in its mechanism list. It also
// proves that the private key belongs to the public key.
func tryOAEP(ctx context.Context, k *key, public *rsa.PublicKey) error {
	var native []crypto.Hash
	for hash := range oaepCodes {
		message, label := make([]byte, 32), []byte("label")
		rand.Read(message)
		ciphertext, err := rsa.EncryptOAEP(hash.New(), rand.Reader, public, message, label)
		if err != nil {
			return err
		}
		decrypt := func(decode decodeFunc, label string) ([]byte, error) {
			d, err := doWith(ctx, k, call{operation: "try", tries: triesMax}, func(_ *key, lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) ([]byte, error) {
				return decode(public, hash, []byte(label), ciphertext, lib, sh, h)
			})
			return d.value, err
		}
		got, err := decrypt(decodeOnToken, "label")
		if err != nil && !errors.Is(err, rsa.ErrDecryption) {
			return fmt.Errorf("try the key: %w", err)
		}
		if err == nil && bytes.Equal(got, message) {
			if _, err = decrypt(decodeOnToken, "other"); errors.Is(err, rsa.ErrDecryption) {
				native = append(native, hash)
				continue
			}
		}
		if got, err = decrypt(decodeHere, "label"); err != nil || !bytes.Equal(got, message) {
			return errors.Join(errors.New("try the key: it does not decrypt what its public key encrypts"), err)
		}
	}
	k.nativeOAEP = native
	return nil
}
