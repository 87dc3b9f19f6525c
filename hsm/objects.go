package hsm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1" // names keys (RFC 5280 §4.2.1.2), protects nothing
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"
	"unsafe"

	"github.com/miekg/pkcs11"
)

func ofClass(class uint) *pkcs11.Attribute { return pkcs11.NewAttribute(pkcs11.CKA_CLASS, class) }

// lasting is the template of the objects of a class that stay in the token. Without it a search also finds
// what other sessions of this process have for a moment, such as a secret just derived.
func lasting(class uint) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{ofClass(class), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true)}
}

func findObjects(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, template ...*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	if err := lib.FindObjectsInit(sh, template); err != nil {
		return nil, named("C_FindObjectsInit", err)
	}
	const batch = 100
	var all []pkcs11.ObjectHandle
	for {
		found, _, err := lib.FindObjects(sh, batch)
		if err != nil {
			return nil, named("C_FindObjects", err)
		}
		if len(found) == 0 {
			break
		}
		if all = append(all, found...); len(all) > keysPerTokenMax {
			return nil, fmt.Errorf("more than %d objects", keysPerTokenMax)
		}
	}
	return all, named("C_FindObjectsFinal", lib.FindObjectsFinal(sh))
}

// attributes are the values of an object's attributes by type; those that it lacks are absent.
type attributes map[uint][]byte

func (a attributes) truth(typ uint) bool { return len(a[typ]) == 1 && a[typ][0] != 0 }

// number reads a CK_ULONG, which is as wide as a C long and in the machine's byte order.
func (a attributes) number(typ uint) (uint, bool) {
	switch v := a[typ]; {
	case len(v) == 8 && unsafe.Sizeof(uint(0)) == 8:
		return uint(binary.NativeEndian.Uint64(v)), true
	case len(v) == 4:
		return uint(binary.NativeEndian.Uint32(v)), true
	}
	return 0, false
}

func readAttributes(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle, types ...uint) (attributes, error) {
	values := attributes{}
	template := make([]*pkcs11.Attribute, len(types))
	for i, typ := range types {
		template[i] = pkcs11.NewAttribute(typ, nil)
	}
	got, err := lib.GetAttributeValue(sh, h, template)
	if err == nil {
		for _, a := range got {
			values[a.Type] = a.Value
		}
		return values, nil
	}
	// One attribute that the token does not know spoils the call: ask for each by itself.
	for _, typ := range types {
		got, err := lib.GetAttributeValue(sh, h, []*pkcs11.Attribute{pkcs11.NewAttribute(typ, nil)})
		switch code := codeOf(err); {
		case err == nil:
			values[typ] = got[0].Value
		case code == pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, code == pkcs11.CKR_ATTRIBUTE_SENSITIVE:
		default:
			return nil, named("C_GetAttributeValue", err)
		}
	}
	return values, nil
}

// readKey reads back what the token says of a private or secret key.
func readKey(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, class uint, h pkcs11.ObjectHandle) (KeyInfo, error) {
	usages := privateUsages
	types := []uint{
		pkcs11.CKA_LABEL, pkcs11.CKA_ID, pkcs11.CKA_KEY_TYPE, pkcs11.CKA_PRIVATE, pkcs11.CKA_SENSITIVE,
		pkcs11.CKA_EXTRACTABLE, pkcs11.CKA_ALWAYS_SENSITIVE, pkcs11.CKA_NEVER_EXTRACTABLE,
		pkcs11.CKA_LOCAL, pkcs11.CKA_MODIFIABLE,
	}
	if class == pkcs11.CKO_SECRET_KEY {
		usages = secretUsages
		types = append(types, pkcs11.CKA_VALUE_LEN)
	}
	for _, u := range usages {
		types = append(types, u.attribute)
	}
	a, err := readAttributes(lib, sh, h, types...)
	if err != nil {
		return KeyInfo{}, err
	}
	info := KeyInfo{
		Label: string(a[pkcs11.CKA_LABEL]), ID: hex.EncodeToString(a[pkcs11.CKA_ID]), Usages: []string{},
		Private: a.truth(pkcs11.CKA_PRIVATE), Sensitive: a.truth(pkcs11.CKA_SENSITIVE),
		Extractable: a.truth(pkcs11.CKA_EXTRACTABLE), AlwaysSensitive: a.truth(pkcs11.CKA_ALWAYS_SENSITIVE),
		NeverExtractable: a.truth(pkcs11.CKA_NEVER_EXTRACTABLE), Local: a.truth(pkcs11.CKA_LOCAL),
		Modifiable: a.truth(pkcs11.CKA_MODIFIABLE),
	}
	for _, u := range usages {
		if a.truth(u.attribute) {
			info.Usages = append(info.Usages, u.name)
		}
	}
	slices.Sort(info.Usages)
	info.Purpose = purposeOf(class, info.Label, info.Usages)
	if class == pkcs11.CKO_SECRET_KEY {
		info.Type = secretType(a)
		return info, nil
	}
	// One key that this package cannot read must not hide the others in a list.
	info.Public, err = knownPublicByID(lib, sh, a[pkcs11.CKA_ID])
	if err != nil || info.Public == nil {
		return info, err
	}
	info.Type = publicType(info.Public)
	info.SPKI, err = x509.MarshalPKIXPublicKey(info.Public)
	return info, err
}

func secretType(a attributes) KeyType {
	kind, _ := a.number(pkcs11.CKA_KEY_TYPE)
	length, _ := a.number(pkcs11.CKA_VALUE_LEN) // 0 where the token does not tell
	switch kind {
	case pkcs11.CKK_AES:
		switch length {
		case 0:
			return AES
		case 16:
			return AES128
		case 32:
			return AES256
		}
	case pkcs11.CKK_GENERIC_SECRET, pkcs11.CKK_SHA256_HMAC:
		if length == 32 || length == 0 {
			return HMACSHA256
		}
	}
	return ""
}

func publicType(pub crypto.PublicKey) KeyType {
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		switch t := KeyType(fmt.Sprintf("rsa-%d", pub.N.BitLen())); t {
		case RSA2048, RSA3072, RSA4096:
			return t
		}
	case *ecdsa.PublicKey:
		switch pub.Curve {
		case elliptic.P256():
			return ECP256
		case elliptic.P384():
			return ECP384
		}
	case ed25519.PublicKey:
		return Ed25519
	}
	return ""
}

// publicByID reads the one public key whose CKA_ID is id. It is nil if there is not exactly one, or
// if it is of a type that this package does not know.
func publicByID(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, id []byte) (crypto.PublicKey, error) {
	if len(id) == 0 {
		return nil, nil
	}
	handles, err := findObjects(lib, sh, ofClass(pkcs11.CKO_PUBLIC_KEY), pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	if err != nil || len(handles) != 1 {
		return nil, err
	}
	return readPublic(lib, sh, handles[0])
}

// knownPublicByID is publicByID, but a public key that cannot be read, such as one that is too short, is
// none: somebody else has put it there.
func knownPublicByID(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, id []byte) (crypto.PublicKey, error) {
	pub, err := publicByID(lib, sh, id)
	if err != nil && codeOf(err) == pkcs11.CKR_OK {
		return nil, nil
	}
	return pub, err
}

func readPublic(lib *pkcs11.Ctx, sh pkcs11.SessionHandle, h pkcs11.ObjectHandle) (crypto.PublicKey, error) {
	a, err := readAttributes(lib, sh, h, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return nil, err
	}
	kind, _ := a.number(pkcs11.CKA_KEY_TYPE)
	switch kind {
	case pkcs11.CKK_RSA:
		a, err := readAttributes(lib, sh, h, pkcs11.CKA_MODULUS, pkcs11.CKA_PUBLIC_EXPONENT)
		if err != nil {
			return nil, err
		}
		return parseRSA(a[pkcs11.CKA_MODULUS], a[pkcs11.CKA_PUBLIC_EXPONENT])
	case pkcs11.CKK_EC, ckkECEdwards:
		a, err := readAttributes(lib, sh, h, pkcs11.CKA_EC_PARAMS, pkcs11.CKA_EC_POINT)
		if err != nil {
			return nil, err
		}
		if kind == ckkECEdwards {
			return parseEd25519(a[pkcs11.CKA_EC_PARAMS], a[pkcs11.CKA_EC_POINT])
		}
		return parseEC(a[pkcs11.CKA_EC_PARAMS], a[pkcs11.CKA_EC_POINT])
	}
	return nil, nil
}

func parseRSA(modulus, exponent []byte) (crypto.PublicKey, error) {
	n, e := new(big.Int).SetBytes(modulus), new(big.Int).SetBytes(exponent)
	if n.BitLen() < 1024 || n.BitLen() > 16384 || e.BitLen() < 2 || e.BitLen() > 31 || n.Bit(0) == 0 || e.Bit(0) == 0 {
		return nil, fmt.Errorf("no RSA key of 1024 to 16384 bits: a modulus of %d bits and an exponent of %d, or one of them even", n.BitLen(), e.BitLen())
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}

// Of PKCS#11 3.0, which the pkcs11 package does not know.
const (
	ckkECEdwards           = 0x40
	ckmECEdwardsKeyPairGen = 0x1055
	ckmEDDSA               = 0x1057
	ckmAESKeyWrapKWP       = 0x210B
)

// The curves this package knows, as the DER of their object identifiers, and edwards25519 also as the
// DER of its name.
var (
	derP256        = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}
	derP384        = []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22}
	derEd25519     = []byte{0x06, 0x03, 0x2b, 0x65, 0x70}
	derEd25519Name = append([]byte{0x13, 0x0c}, "edwards25519"...)
)

// parseEC reads CKA_EC_PARAMS and CKA_EC_POINT. The point should be wrapped in an OCTET STRING, and
// in some tokens is not. A curve that this package does not know gives no key and no error.
func parseEC(params, point []byte) (crypto.PublicKey, error) {
	var curve elliptic.Curve
	switch string(params) {
	case string(derP256):
		curve = elliptic.P256()
	case string(derP384):
		curve = elliptic.P384()
	default:
		return nil, nil
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(curve, unwrapPoint(point))
	if err != nil {
		return nil, fmt.Errorf("CKA_EC_POINT is not a point of the key's curve: %w", err)
	}
	return pub, nil
}

// parseEd25519 is parseEC for a key of type CKK_EC_EDWARDS.
func parseEd25519(params, point []byte) (crypto.PublicKey, error) {
	if !slices.Equal(params, derEd25519) && !slices.Equal(params, derEd25519Name) {
		return nil, nil
	}
	if len(point) != ed25519.PublicKeySize { // raw, it could begin like an OCTET STRING
		point = unwrapPoint(point)
	}
	if len(point) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("CKA_EC_POINT of an Ed25519 key has %d bytes", len(point))
	}
	return ed25519.PublicKey(slices.Clone(point)), nil
}

// unwrapPoint returns what is in the OCTET STRING point, or point if it is none.
func unwrapPoint(point []byte) []byte {
	var inner []byte
	if rest, err := asn1.Unmarshal(point, &inner); err == nil && len(rest) == 0 {
		return inner
	}
	return point
}

// subjectKeyID is the SHA-1 subject key identifier of RFC 5280, section 4.2.1.2, method (1). SHA-1
// only names the key here.
func subjectKeyID(pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, err
	}
	return spkiKeyID(der)
}

// spkiKeyID is subjectKeyID of a DER SubjectPublicKeyInfo.
func spkiKeyID(der []byte) ([]byte, error) {
	var spki struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &spki); err != nil {
		return nil, err
	}
	id := sha1.Sum(spki.Key.RightAlign())
	return id[:], nil
}
