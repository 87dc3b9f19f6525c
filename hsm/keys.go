package hsm

import (
	"context"
	"crypto"
	"errors"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"
)

// keysPerTokenMax bounds a listing.
const keysPerTokenMax = 10_000

// Purpose is what a key is for. It fixes what the token lets the key do.
type Purpose string

const (
	PurposeSign        Purpose = "sign"         // signs messages
	PurposeCertSign    Purpose = "cert-sign"    // signs certificates and revocation lists
	PurposeKeyExchange Purpose = "key-exchange" // decrypts RSAES-OAEP
	PurposeMAC         Purpose = "mac"          // computes HMAC-SHA-256, or with an AES key AES-CMAC
	PurposeSeal        Purpose = "seal"         // encrypts and decrypts AES-GCM
	PurposeWrap        Purpose = "wrap"         // encrypts keys that leave the token, with AES
	PurposeUnwrap      Purpose = "unwrap"       // decrypts keys that come into the token, with RSA or AES
	PurposeDerive      Purpose = "derive"       // agrees on a secret by ECDH
)

// purposes are all of them, in the order in which errors name them.
var purposes = []Purpose{
	PurposeSign, PurposeCertSign, PurposeKeyExchange, PurposeMAC, PurposeSeal, PurposeWrap, PurposeUnwrap, PurposeDerive,
}

// KeyType is the algorithm and size of a key.
type KeyType string

const (
	RSA2048    KeyType = "rsa-2048"
	RSA3072    KeyType = "rsa-3072"
	RSA4096    KeyType = "rsa-4096"
	ECP256     KeyType = "ec-p256"
	ECP384     KeyType = "ec-p384"
	Ed25519    KeyType = "ed25519"
	AES128     KeyType = "aes-128"
	AES256     KeyType = "aes-256"
	HMACSHA256 KeyType = "hmac-sha256"

	// AES is an AES key whose length its token does not tell, as SoftHSM does not of a key that it
	// received by [Token.Unwrap]. No key is generated as this type.
	AES KeyType = "aes"
)

// isAES reports whether keys of type k are AES keys.
func (k KeyType) isAES() bool { return k == AES || k == AES128 || k == AES256 }

// fits reports whether one key can be of type k in one token and of type other in another.
func (k KeyType) fits(other KeyType) bool {
	return k == other || k.isAES() && other.isAES() && (k == AES || other == AES)
}

// KeyInfo is a key as its token describes it; nothing in it is remembered from the key's making.
//
// A key that [Token.GenerateKey] made is sensitive, not extractable, and has been both always. One
// that [Token.GenerateWrappableKey] made is extractable, which means that it can be wrapped. One that
// came by [Token.Unwrap] is not extractable here, but is not local, and was once.
type KeyInfo struct {
	Label string `json:"label"`
	// ID is CKA_ID in hexadecimal; of a key pair made here, the SHA-1 subject key identifier. A key
	// keeps it when it is unwrapped in another token.
	ID      string  `json:"id"`
	Type    KeyType `json:"type"`    // empty: a type that this package does not make
	Purpose Purpose `json:"purpose"` // empty: the usages are those of no purpose
	// Usages are the usage attributes that are true, such as sign or decrypt.
	Usages           []string `json:"usages"`
	Private          bool     `json:"private"`
	Sensitive        bool     `json:"sensitive"`
	Extractable      bool     `json:"extractable"`
	AlwaysSensitive  bool     `json:"alwaysSensitive"`
	NeverExtractable bool     `json:"neverExtractable"`
	Local            bool     `json:"local"` // generated inside the token
	Modifiable       bool     `json:"modifiable"`
	// SPKI is the DER SubjectPublicKeyInfo of a key pair.
	SPKI []byte `json:"spki,omitempty"`
	// Public is the public key of a key pair: *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey.
	// It is *ecdsa.PublicKey also of a pair for derivation.
	Public crypto.PublicKey `json:"-"`
}

// usage is an attribute that permits something when it is true.
type usage struct {
	attribute uint
	name      string
}

var (
	privateUsages = []usage{
		{pkcs11.CKA_SIGN, "sign"}, {pkcs11.CKA_SIGN_RECOVER, "sign-recover"}, {pkcs11.CKA_DECRYPT, "decrypt"},
		{pkcs11.CKA_UNWRAP, "unwrap"}, {pkcs11.CKA_DERIVE, "derive"},
	}
	publicUsages = []usage{
		{pkcs11.CKA_VERIFY, "verify"}, {pkcs11.CKA_VERIFY_RECOVER, "verify-recover"},
		{pkcs11.CKA_ENCRYPT, "encrypt"}, {pkcs11.CKA_WRAP, "wrap"}, {pkcs11.CKA_DERIVE, "derive"},
	}
	secretUsages = []usage{
		{pkcs11.CKA_SIGN, "sign"}, {pkcs11.CKA_VERIFY, "verify"}, {pkcs11.CKA_ENCRYPT, "encrypt"},
		{pkcs11.CKA_DECRYPT, "decrypt"}, {pkcs11.CKA_WRAP, "wrap"}, {pkcs11.CKA_UNWRAP, "unwrap"},
		{pkcs11.CKA_DERIVE, "derive"},
	}
)

// plan is what a purpose stands for in attributes.
type plan struct {
	class        uint     // of the private or secret key
	usages       []string // of the private or secret key, sorted
	publicUsages []string
	types        []KeyType
	origin       origin
}

// origin is where a key comes from, and with that whether it may leave and what the token says of its
// past.
type origin int

const (
	originToken     origin = iota // generated in the token, never leaves it
	originWrappable               // generated in the token, may be wrapped
	originUnwrapped               // unwrapped in the token, never leaves it
)

var (
	rsaTypes  = []KeyType{RSA2048, RSA3072, RSA4096}
	signTypes = append([]KeyType{ECP256, ECP384, Ed25519}, rsaTypes...)
	aesTypes  = []KeyType{AES128, AES256}
)

var plans = map[Purpose]plan{
	PurposeSign:        {class: pkcs11.CKO_PRIVATE_KEY, usages: []string{"sign"}, publicUsages: []string{"verify"}, types: signTypes},
	PurposeCertSign:    {class: pkcs11.CKO_PRIVATE_KEY, usages: []string{"sign"}, publicUsages: []string{"verify"}, types: signTypes},
	PurposeKeyExchange: {class: pkcs11.CKO_PRIVATE_KEY, usages: []string{"decrypt"}, publicUsages: []string{"encrypt"}, types: rsaTypes},
	PurposeMAC:         {class: pkcs11.CKO_SECRET_KEY, usages: []string{"sign"}, types: []KeyType{HMACSHA256, AES256}},
	PurposeSeal:        {class: pkcs11.CKO_SECRET_KEY, usages: []string{"decrypt", "encrypt"}, types: aesTypes},
	PurposeWrap:        {class: pkcs11.CKO_SECRET_KEY, usages: []string{"wrap"}, types: aesTypes},
	PurposeUnwrap:      {class: pkcs11.CKO_PRIVATE_KEY, usages: []string{"unwrap"}, publicUsages: []string{"wrap"}, types: rsaTypes},
	PurposeDerive:      {class: pkcs11.CKO_PRIVATE_KEY, usages: []string{"derive"}, types: []KeyType{ECP256, ECP384}},
}

// unwrapSecret is the plan of an AES key for [PurposeUnwrap]. Such a key is the other side of one for
// [PurposeWrap], so it is never generated, only received.
var unwrapSecret = plan{class: pkcs11.CKO_SECRET_KEY, usages: []string{"unwrap"}, types: aesTypes}

// certSignPrefix begins the label of every key that signs certificates. PKCS#11 has one usage for
// all signatures, so the label, which cannot be changed either, tells the two purposes apart.
const certSignPrefix = "cert-sign"

// purposeOf is the purpose that a key's usages are those of. One whose making was cut short has none: it may
// be another key than its public key says.
func purposeOf(class uint, label string, usages []string) Purpose {
	if strings.HasPrefix(label, unfinishedPrefix) {
		return ""
	}
	if class == unwrapSecret.class && slices.Equal(usages, unwrapSecret.usages) {
		return PurposeUnwrap
	}
	certSign := strings.HasPrefix(label, certSignPrefix)
	for purpose, p := range plans {
		if p.class != class || !slices.Equal(p.usages, usages) {
			continue
		}
		if class == pkcs11.CKO_PRIVATE_KEY && slices.Equal(usages, []string{"sign"}) {
			if certSign {
				return PurposeCertSign
			}
			return PurposeSign
		}
		return purpose
	}
	return ""
}

// Keys lists the private and secret keys of the token, sorted by label.
func (t *Token) Keys(ctx context.Context) ([]KeyInfo, error) {
	var list []KeyInfo
	err := t.session(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		found := []KeyInfo{}
		for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_SECRET_KEY} {
			handles, err := findObjects(lib, sh, lasting(class)...)
			if err != nil {
				return err
			}
			for _, h := range handles {
				info, err := readKey(lib, sh, class, h)
				if codeOf(err) == pkcs11.CKR_OBJECT_HANDLE_INVALID {
					continue // deleted since it was found
				}
				if err != nil {
					return err
				}
				found = append(found, info)
			}
		}
		list = found
		return nil
	})
	if err != nil {
		return nil, t.fail("list keys", err)
	}
	slices.SortStableFunc(list, func(a, b KeyInfo) int { return strings.Compare(a.Label, b.Label) })
	return list, nil
}

// Key describes the private or secret key labelled label.
func (t *Token) Key(ctx context.Context, label string) (KeyInfo, error) {
	k, err := t.find(ctx, label)
	if err != nil {
		return KeyInfo{}, err
	}
	return k.info, nil
}

// PublicKey returns the public key of the key pair labelled label.
func (t *Token) PublicKey(ctx context.Context, label string) (crypto.PublicKey, error) {
	k, err := t.find(ctx, label)
	if err != nil {
		return nil, err
	}
	if k.info.Public == nil {
		return nil, t.keyError(label, errors.New("its public key is not in the token, or of an unknown type"))
	}
	return k.info.Public, nil
}
