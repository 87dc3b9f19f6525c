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
	PurposeMAC         Purpose = "mac"          // computes HMAC-SHA-256
	PurposeSeal        Purpose = "seal"         // encrypts and decrypts AES-256-GCM
)

// KeyType is the algorithm and size of a key.
type KeyType string

const (
	RSA2048    KeyType = "rsa-2048"
	RSA3072    KeyType = "rsa-3072"
	RSA4096    KeyType = "rsa-4096"
	ECP256     KeyType = "ec-p256"
	ECP384     KeyType = "ec-p384"
	AES256     KeyType = "aes-256"
	HMACSHA256 KeyType = "hmac-sha256"
)

// KeyInfo is a key as its token describes it; nothing in it is remembered from the key's making.
type KeyInfo struct {
	Label string `json:"label"`
	// ID is CKA_ID in hexadecimal; of a key pair made here, the SHA-1 subject key identifier.
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
	// Public is the public key of a key pair, *rsa.PublicKey or *ecdsa.PublicKey.
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
}

var plans = map[Purpose]plan{
	PurposeSign: {pkcs11.CKO_PRIVATE_KEY, []string{"sign"}, []string{"verify"},
		[]KeyType{ECP256, ECP384, RSA2048, RSA3072, RSA4096}},
	PurposeCertSign: {pkcs11.CKO_PRIVATE_KEY, []string{"sign"}, []string{"verify"},
		[]KeyType{ECP256, ECP384, RSA2048, RSA3072, RSA4096}},
	PurposeKeyExchange: {pkcs11.CKO_PRIVATE_KEY, []string{"decrypt"}, []string{"encrypt"},
		[]KeyType{RSA2048, RSA3072, RSA4096}},
	PurposeMAC:  {pkcs11.CKO_SECRET_KEY, []string{"sign"}, nil, []KeyType{HMACSHA256}},
	PurposeSeal: {pkcs11.CKO_SECRET_KEY, []string{"decrypt", "encrypt"}, nil, []KeyType{AES256}},
}

// certSignPrefix begins the label of every key that signs certificates. PKCS#11 has one usage for
// all signatures, so the label, which cannot be changed either, tells the two purposes apart.
const certSignPrefix = "cert-sign"

func purposeOf(class uint, label string, usages []string) Purpose {
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
	list := []KeyInfo{}
	err := t.session(ctx, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_SECRET_KEY} {
			handles, err := findObjects(lib, sh, ofClass(class))
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
				list = append(list, info)
			}
		}
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
