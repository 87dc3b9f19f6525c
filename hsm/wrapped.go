package hsm

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

const (
	// wrappedBytesMax bounds the octets of a wrapped key. An RSA-4096 private key has about 2400.
	wrappedBytesMax = 4096
	// wrappedTextBytesMax bounds the text of a wrapped key.
	wrappedTextBytesMax = 16 << 10
	keyIDBytesMax       = 128
	wrappedPEMType      = "SETKIT WRAPPED KEY"
)

// WrappedKey is a key that has left its token encrypted. Its text form is a PEM block.
//
// The key itself, Wrapped, is secret without the key that unwraps it. What was wrapped by AES key wrap
// cannot be changed by anybody who lacks the AES key, and so comes from a token that has it. What was
// wrapped by RSA can have been made by anybody who has the receiver's public key.
//
// The other fields are what the sender says, and nothing protects them. They do not decide what the key
// may do: whoever unwraps it gives its label and purpose. They are compared with these and with the key that
// comes out, so that a mix-up is noticed: the type, the purpose, and the public key or the check value; only
// the CKA_ID is taken as it stands. To be sure where a key comes from, compare its SPKI or CheckValue with what the
// sending token's officer tells on another way.
type WrappedKey struct {
	// Mechanism is aes-kwp (CKM_AES_KEY_WRAP_KWP, RFC 5649), aes-kw-pad (CKM_AES_KEY_WRAP_PAD),
	// aes-kw (CKM_AES_KEY_WRAP, RFC 3394), rsa-oaep-sha256 or rsa-oaep-sha1.
	Mechanism string
	Type      KeyType
	Purpose   Purpose // of the key in the sending token; may be empty
	ID        string  // CKA_ID of the key, in lower case hexadecimal
	With      string  // CKA_ID of the key that unwraps it, in hexadecimal; for error messages only
	// CheckValue is 3 bytes that tell secret keys apart, or nothing where the sending token tells none:
	// of an AES key the start of an encrypted block of zeros, of an HMAC key that of a MAC.
	CheckValue []byte
	// SPKI is the DER SubjectPublicKeyInfo of a key pair.
	SPKI    []byte
	Wrapped []byte // by Mechanism; of a key pair, the private key as PKCS #8
}

// check checks that w can be what Wrap and WrapFor make.
func (w *WrappedKey) check() error {
	by, ok := wrappingNamed(w.Mechanism)
	id, idErr := hex.DecodeString(w.ID)
	with, withErr := hex.DecodeString(w.With)
	_, isPair := pairTypes[w.Type]
	switch {
	case !ok:
		return fmt.Errorf("wrapped key: unknown mechanism %.32q", w.Mechanism)
	case idErr != nil || len(id) == 0 || len(id) > keyIDBytesMax || hex.EncodeToString(id) != w.ID:
		return fmt.Errorf("wrapped key: the CKA_ID is not 1 to %d bytes in lower case hexadecimal", keyIDBytesMax)
	case withErr != nil || len(with) > keyIDBytesMax || hex.EncodeToString(with) != w.With:
		return fmt.Errorf("wrapped key: the CKA_ID of the key that unwraps it is not at most %d bytes in lower case hexadecimal", keyIDBytesMax)
	case !isPair && w.Type != AES128 && w.Type != AES256 && w.Type != HMACSHA256:
		return fmt.Errorf("wrapped key: unknown type %.32q", w.Type)
	case w.Purpose != "" && !w.Purpose.takes(w.Type):
		return fmt.Errorf("wrapped key: a key of type %s for the purpose %.32q", w.Type, w.Purpose)
	case isPair && by.isRSA():
		return errors.New("wrapped key: a private key is not wrapped by RSA")
	case isPair && len(w.CheckValue) != 0 || !isPair && len(w.SPKI) != 0:
		return errors.New("wrapped key: only a secret key has a check value, and only a key pair a public key")
	case len(w.CheckValue) != 0 && len(w.CheckValue) != checkValueBytes:
		return fmt.Errorf("wrapped key: a check value of %d bytes: want %d", len(w.CheckValue), checkValueBytes)
	}
	if isPair {
		pub, err := parseSPKI(w.SPKI)
		if err != nil {
			return fmt.Errorf("wrapped key: %w", err)
		}
		if got := publicType(pub); got != w.Type {
			return fmt.Errorf("wrapped key: a public key of type %q, and the key is of type %q", got, w.Type)
		}
	}
	return w.checkLength(by)
}

// takes reports whether keys of this type can be for p.
func (p Purpose) takes(typ KeyType) bool {
	_, err := planOf(p, typ)
	return err == nil
}

// isFor reports whether w may become a key for purpose: one for what it was for, where it says that. An AES
// key that wraps in one token unwraps in the other.
func (w *WrappedKey) isFor(purpose Purpose) bool {
	return w.Purpose == "" || w.Purpose == purpose || w.Purpose == PurposeWrap && purpose == PurposeUnwrap
}

// checkLength compares the length of the wrapped octets with that of the key, as far as it is known.
func (w *WrappedKey) checkLength(by wrapping) error {
	n := len(w.Wrapped)
	ok := n >= 16 && n <= wrappedBytesMax && n%8 == 0
	if size := secretBytes[w.Type]; ok && size != 0 && !by.isRSA() {
		ok = n == size+8
	}
	if !ok {
		return fmt.Errorf("wrapped key: %d bytes wrapped by %s are not a key of type %s", n, by.name, w.Type)
	}
	return nil
}

var (
	pairTypes   = map[KeyType]bool{RSA2048: true, RSA3072: true, RSA4096: true, ECP256: true, ECP384: true, Ed25519: true}
	secretBytes = map[KeyType]int{AES128: 16, AES256: 32, HMACSHA256: 32}
)

// parseSPKI parses a public key in the one form that this package writes.
func parseSPKI(der []byte) (crypto.PublicKey, error) {
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	if again, err := x509.MarshalPKIXPublicKey(pub); err != nil || !bytes.Equal(again, der) {
		return nil, errors.New("public key: not in its usual form")
	}
	return pub, nil
}

// The headers of the text form.
const (
	headerMechanism  = "Mechanism"
	headerType       = "Key-Type"
	headerPurpose    = "Key-Purpose"
	headerID         = "Key-ID"
	headerWith       = "Unwrap-With"
	headerCheckValue = "Check-Value"
	headerSPKI       = "Public-Key"
)

// MarshalText returns w as a PEM block of type SETKIT WRAPPED KEY.
func (w *WrappedKey) MarshalText() ([]byte, error) {
	if err := w.check(); err != nil {
		return nil, err
	}
	headers := map[string]string{headerMechanism: w.Mechanism, headerType: string(w.Type), headerID: w.ID}
	for name, value := range map[string]string{
		headerPurpose: string(w.Purpose), headerWith: w.With, headerCheckValue: hex.EncodeToString(w.CheckValue),
		headerSPKI: base64.StdEncoding.EncodeToString(w.SPKI),
	} {
		if value != "" {
			headers[name] = value
		}
	}
	return pem.EncodeToMemory(&pem.Block{Type: wrappedPEMType, Headers: headers, Bytes: w.Wrapped}), nil
}

// UnmarshalText reads what MarshalText writes, and nothing else: text is one PEM block, to the byte.
func (w *WrappedKey) UnmarshalText(text []byte) error {
	if len(text) > wrappedTextBytesMax {
		return fmt.Errorf("wrapped key: longer than %d bytes", wrappedTextBytesMax)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != wrappedPEMType {
		return fmt.Errorf("wrapped key: not a PEM block of type %q", wrappedPEMType)
	}
	read := WrappedKey{
		Mechanism: block.Headers[headerMechanism], Type: KeyType(block.Headers[headerType]),
		Purpose: Purpose(block.Headers[headerPurpose]), ID: block.Headers[headerID], With: block.Headers[headerWith], Wrapped: block.Bytes,
	}
	var err error
	if read.CheckValue, err = hex.DecodeString(block.Headers[headerCheckValue]); err != nil {
		return fmt.Errorf("wrapped key: %s is not hexadecimal", headerCheckValue)
	}
	if read.SPKI, err = base64.StdEncoding.DecodeString(block.Headers[headerSPKI]); err != nil {
		return fmt.Errorf("wrapped key: %s is not base64", headerSPKI)
	}
	again, err := read.MarshalText()
	if err != nil {
		return err
	}
	if !bytes.Equal(again, text) {
		return errors.New("wrapped key: the text is not exactly one PEM block as it was written: something was added, lost or converted")
	}
	*w = read
	return nil
}
