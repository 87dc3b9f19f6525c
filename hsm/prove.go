package hsm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"
)

// checkValueBytes is the length of a check value. It tells keys apart, and little about them.
const checkValueBytes = 3

// checkValueMessage is what an HMAC key's check value is the MAC of.
const checkValueMessage = "check value of this key"

// checkValue computes the check value of the secret key h with the key itself: of an AES key, the
// encryption of a block of zeros as PKCS#11 has it, and of an HMAC key, the MAC of a message that has
// no other use. An AES key that must not encrypt, or not in this way, has the check value that its token
// tells of it, or none.
//
// The block is also the secret by which AES-GCM authenticates: a forger who knows 24 of its 128 bits still
// has to guess the others.
func checkValue(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle, info KeyInfo) ([]byte, error) {
	switch {
	case info.Type == HMACSHA256 && slices.Contains(info.Usages, "sign"):
		sum, err := hmacSHA256.onToken(lib, sh, h, []byte(checkValueMessage))
		return sum[:min(len(sum), checkValueBytes)], err
	case info.Type.isAES() && slices.Contains(info.Usages, "encrypt"):
		err := lib.EncryptInit(sh, mechanism(pkcs11.CKM_AES_ECB, nil), h)
		if unsupported(err) {
			return toldCheckValue(lib, sh, h)
		}
		if err != nil {
			return nil, named("C_EncryptInit", err)
		}
		block, err := lib.Encrypt(sh, make([]byte, 16))
		return block[:min(len(block), checkValueBytes)], named("C_Encrypt", err)
	case info.Type.isAES():
		return toldCheckValue(lib, sh, h)
	}
	return nil, nil
}

func toldCheckValue(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) ([]byte, error) {
	a, err := readAttributes(lib, sh, h, pkcs11.CKA_CHECK_VALUE)
	if value := a[pkcs11.CKA_CHECK_VALUE]; err == nil && len(value) == checkValueBytes {
		return value, nil
	}
	return nil, err
}

// prove uses the private key h, made for purpose, in a way that only the private key to pub can be
// used in.
func prove(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle, purpose Purpose, pub crypto.PublicKey) error {
	rsaPub, isRSA := pub.(*rsa.PublicKey)
	ecPub, isEC := pub.(*ecdsa.PublicKey)
	switch {
	case purpose == PurposeSign || purpose == PurposeCertSign:
		return proveSignature(lib, sh, h, pub)
	case purpose == PurposeKeyExchange && isRSA:
		return proveDecryption(lib, sh, h, rsaPub)
	case purpose == PurposeUnwrap && isRSA:
		return proveUnwrapping(lib, sh, h, rsaPub)
	case purpose == PurposeDerive && isEC:
		public, err := ecPub.ECDH()
		if err == nil {
			_, err = proveDerivation(lib, sh, h, public)
		}
		return err
	}
	return fmt.Errorf("public key of type %T for %s", pub, purpose)
}

var errAnother = errors.New("it is the private key to another public key")

func proveSignature(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle, pub crypto.PublicKey) error {
	// What is signed is a digest of a sentence and of randomness, so that it is good for nothing else.
	digest := sha256.Sum256([]byte("proof that a private key belongs to its public key " + rand.Text()))
	hash := crypto.SHA256
	if _, ok := pub.(ed25519.PublicKey); ok {
		hash = 0
	}
	job, err := newSignature(pub, digest[:], hash)
	if err != nil {
		return err
	}
	sig, err := job.make(nil, lib, sh, h)
	if err == nil {
		sig, err = job.finish(sig)
	}
	if err == nil && job.verify(sig) != nil {
		err = errAnother
	}
	return err
}

// proveRSA lets use decrypt 32 random bytes, encrypted for pub with the hash that the token has, and
// return what shows that it could.
func proveRSA(pub *rsa.PublicKey, use func(by wrapping, ciphertext []byte) ([]byte, error), want func(message []byte) []byte) error {
	message := make([]byte, 32)
	rand.Read(message)
	var last error
	for _, by := range wrappings {
		if !by.isRSA() {
			continue
		}
		ciphertext, err := rsa.EncryptOAEP(by.hash.New(), rand.Reader, pub, message, nil)
		if err != nil {
			return err
		}
		got, err := use(by, ciphertext)
		if err == nil && !bytes.Equal(got, want(message)) {
			err = errAnother
		}
		if last = err; !unsupported(err) {
			return err
		}
	}
	return last
}

func proveDecryption(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle, pub *rsa.PublicKey) error {
	decrypt := func(by wrapping, ciphertext []byte) ([]byte, error) {
		return rsaOnToken(lib, sh, h, ciphertext, by.parameters())
	}
	return proveRSA(pub, decrypt, func(message []byte) []byte { return message })
}

// proveUnwrapping lets h unwrap an HMAC key, an object of this session, and use it.
func proveUnwrapping(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle, pub *rsa.PublicKey) error {
	unwrap := func(by wrapping, ciphertext []byte) ([]byte, error) {
		made, err := lib.UnwrapKey(sh, by.parameters(), h, ciphertext, []*pkcs11.Attribute{
			ofClass(pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
			pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
			pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		})
		if err != nil {
			return nil, named("C_UnwrapKey", err)
		}
		sum, err := hmacSHA256.onToken(lib, sh, made, []byte(checkValueMessage))
		return sum, followed(err, named("C_DestroyObject", lib.DestroyObject(sh, made)))
	}
	return proveRSA(pub, unwrap, func(message []byte) []byte {
		mac := hmac.New(sha256.New, message)
		mac.Write([]byte(checkValueMessage))
		return mac.Sum(nil)
	})
}

// publicValue is the part of a public key object that is the key itself.
func publicValue(pub crypto.PublicKey) []*pkcs11.Attribute {
	var curve, point []byte
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		return rsaValue(pub)
	case *ecdsa.PublicKey:
		if curve = derP256; pub.Curve == elliptic.P384() {
			curve = derP384
		}
		point, _ = pub.Bytes() // a key that was parsed is a point of its curve
	case ed25519.PublicKey:
		curve, point = derEd25519, pub
	}
	wrapped, _ := asn1.Marshal(point) // a byte slice always encodes
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, curve), pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, wrapped),
	}
}
