package hsm

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"
)

// mechanismsMax bounds the mechanisms of a token that are looked at.
const mechanismsMax = 4096

// Mechanism is something that a token can compute.
type Mechanism struct {
	// Name is as PKCS#11 spells it, such as CKM_ECDSA; of one that this package does not know, the
	// number, such as CKM_0x80000001.
	Name string `json:"name"`
	Code uint   `json:"code"`
	// KeyBitsMin and KeyBitsMax bound the keys it takes; 0 where the token tells no bound.
	KeyBitsMin int `json:"keyBitsMin,omitempty"`
	KeyBitsMax int `json:"keyBitsMax,omitempty"`
	// Uses are what it may be used for: encrypt, decrypt, digest, sign, verify, generate,
	// generate-key-pair, wrap, unwrap or derive.
	Uses []string `json:"uses"`
}

var mechanismUses = []struct {
	flag uint
	name string
}{
	{pkcs11.CKF_ENCRYPT, "encrypt"}, {pkcs11.CKF_DECRYPT, "decrypt"}, {pkcs11.CKF_DIGEST, "digest"},
	{pkcs11.CKF_SIGN, "sign"}, {pkcs11.CKF_VERIFY, "verify"}, {pkcs11.CKF_GENERATE, "generate"},
	{pkcs11.CKF_GENERATE_KEY_PAIR, "generate-key-pair"}, {pkcs11.CKF_WRAP, "wrap"},
	{pkcs11.CKF_UNWRAP, "unwrap"}, {pkcs11.CKF_DERIVE, "derive"},
}

// Mechanisms lists what the token says it can compute, sorted by name. Not all of it works in every
// token: RSAES-OAEP, for one, has parameters of which the list does not tell.
func (t *Token) Mechanisms(ctx context.Context) ([]Mechanism, error) {
	var list []Mechanism
	err := t.session(ctx, func(lib *pkcs11.Ctx, _ pkcs11.SessionHandle) error {
		codes, err := lib.GetMechanismList(t.slot)
		if err != nil {
			return named("C_GetMechanismList", err)
		}
		if len(codes) > mechanismsMax {
			return fmt.Errorf("%d mechanisms, more than %d", len(codes), mechanismsMax)
		}
		found := make([]Mechanism, 0, len(codes))
		for _, m := range codes {
			info, err := lib.GetMechanismInfo(t.slot, []*pkcs11.Mechanism{m})
			if codeOf(err) == pkcs11.CKR_MECHANISM_INVALID {
				continue // listed, but not there
			}
			if err != nil {
				return named("C_GetMechanismInfo", err)
			}
			found = append(found, mechanismOf(m.Mechanism, info))
		}
		list = found
		return nil
	})
	if err != nil {
		return nil, t.fail("list mechanisms", err)
	}
	slices.SortFunc(list, func(a, b Mechanism) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

func mechanismOf(code uint, info pkcs11.MechanismInfo) Mechanism {
	m := Mechanism{Name: mechanismName(code), Code: code, Uses: []string{}}
	m.KeyBitsMin, m.KeyBitsMax = keyBits(m.Name, info.MinKeySize), keyBits(m.Name, info.MaxKeySize)
	for _, u := range mechanismUses {
		if info.Flags&u.flag != 0 {
			m.Uses = append(m.Uses, u.name)
		}
	}
	return m
}

// keyBits turns a key size into bits. The standard counts some mechanisms' keys in bits and others' in
// bytes, and tokens write a very large number for no bound.
func keyBits(mechanism string, size uint) int {
	const noBound = 1 << 28
	if size >= noBound {
		return 0
	}
	family, _, _ := strings.Cut(strings.TrimPrefix(mechanism, "CKM_"), "_")
	switch family {
	case "AES", "CAMELLIA", "ARIA", "SEED", "BLOWFISH", "GENERIC", "HKDF", "CHACHA20":
		return int(size) * 8
	}
	if strings.Contains(mechanism, "_HMAC") {
		return int(size) * 8
	}
	return int(size)
}

func mechanismName(code uint) string {
	if name, ok := mechanismNames[code]; ok {
		return name
	}
	return fmt.Sprintf("CKM_0x%X", code)
}

// mechanismNames has the mechanisms of PKCS#11 2.40 and 3.0 that are met in practice.
var mechanismNames = map[uint]string{
	0x0:    "CKM_RSA_PKCS_KEY_PAIR_GEN",
	0x1:    "CKM_RSA_PKCS",
	0x2:    "CKM_RSA_9796",
	0x3:    "CKM_RSA_X_509",
	0x5:    "CKM_MD5_RSA_PKCS",
	0x6:    "CKM_SHA1_RSA_PKCS",
	0x9:    "CKM_RSA_PKCS_OAEP",
	0xa:    "CKM_RSA_X9_31_KEY_PAIR_GEN",
	0xb:    "CKM_RSA_X9_31",
	0xc:    "CKM_SHA1_RSA_X9_31",
	0xd:    "CKM_RSA_PKCS_PSS",
	0xe:    "CKM_SHA1_RSA_PKCS_PSS",
	0x10:   "CKM_DSA_KEY_PAIR_GEN",
	0x11:   "CKM_DSA",
	0x12:   "CKM_DSA_SHA1",
	0x13:   "CKM_DSA_SHA224",
	0x14:   "CKM_DSA_SHA256",
	0x15:   "CKM_DSA_SHA384",
	0x16:   "CKM_DSA_SHA512",
	0x18:   "CKM_DSA_SHA3_224",
	0x19:   "CKM_DSA_SHA3_256",
	0x1a:   "CKM_DSA_SHA3_384",
	0x1b:   "CKM_DSA_SHA3_512",
	0x20:   "CKM_DH_PKCS_KEY_PAIR_GEN",
	0x21:   "CKM_DH_PKCS_DERIVE",
	0x40:   "CKM_SHA256_RSA_PKCS",
	0x41:   "CKM_SHA384_RSA_PKCS",
	0x42:   "CKM_SHA512_RSA_PKCS",
	0x43:   "CKM_SHA256_RSA_PKCS_PSS",
	0x44:   "CKM_SHA384_RSA_PKCS_PSS",
	0x45:   "CKM_SHA512_RSA_PKCS_PSS",
	0x46:   "CKM_SHA224_RSA_PKCS",
	0x47:   "CKM_SHA224_RSA_PKCS_PSS",
	0x48:   "CKM_SHA512_224",
	0x49:   "CKM_SHA512_224_HMAC",
	0x4a:   "CKM_SHA512_224_HMAC_GENERAL",
	0x4b:   "CKM_SHA512_224_KEY_DERIVATION",
	0x4c:   "CKM_SHA512_256",
	0x4d:   "CKM_SHA512_256_HMAC",
	0x4e:   "CKM_SHA512_256_HMAC_GENERAL",
	0x4f:   "CKM_SHA512_256_KEY_DERIVATION",
	0x50:   "CKM_SHA512_T",
	0x51:   "CKM_SHA512_T_HMAC",
	0x52:   "CKM_SHA512_T_HMAC_GENERAL",
	0x53:   "CKM_SHA512_T_KEY_DERIVATION",
	0x60:   "CKM_SHA3_256_RSA_PKCS",
	0x61:   "CKM_SHA3_384_RSA_PKCS",
	0x62:   "CKM_SHA3_512_RSA_PKCS",
	0x63:   "CKM_SHA3_256_RSA_PKCS_PSS",
	0x64:   "CKM_SHA3_384_RSA_PKCS_PSS",
	0x65:   "CKM_SHA3_512_RSA_PKCS_PSS",
	0x66:   "CKM_SHA3_224_RSA_PKCS",
	0x67:   "CKM_SHA3_224_RSA_PKCS_PSS",
	0x120:  "CKM_DES_KEY_GEN",
	0x121:  "CKM_DES_ECB",
	0x122:  "CKM_DES_CBC",
	0x123:  "CKM_DES_MAC",
	0x124:  "CKM_DES_MAC_GENERAL",
	0x125:  "CKM_DES_CBC_PAD",
	0x130:  "CKM_DES2_KEY_GEN",
	0x131:  "CKM_DES3_KEY_GEN",
	0x132:  "CKM_DES3_ECB",
	0x133:  "CKM_DES3_CBC",
	0x134:  "CKM_DES3_MAC",
	0x135:  "CKM_DES3_MAC_GENERAL",
	0x136:  "CKM_DES3_CBC_PAD",
	0x137:  "CKM_DES3_CMAC_GENERAL",
	0x138:  "CKM_DES3_CMAC",
	0x150:  "CKM_DES_OFB64",
	0x151:  "CKM_DES_OFB8",
	0x152:  "CKM_DES_CFB64",
	0x153:  "CKM_DES_CFB8",
	0x210:  "CKM_MD5",
	0x211:  "CKM_MD5_HMAC",
	0x212:  "CKM_MD5_HMAC_GENERAL",
	0x220:  "CKM_SHA_1",
	0x221:  "CKM_SHA_1_HMAC",
	0x222:  "CKM_SHA_1_HMAC_GENERAL",
	0x250:  "CKM_SHA256",
	0x251:  "CKM_SHA256_HMAC",
	0x252:  "CKM_SHA256_HMAC_GENERAL",
	0x255:  "CKM_SHA224",
	0x256:  "CKM_SHA224_HMAC",
	0x257:  "CKM_SHA224_HMAC_GENERAL",
	0x260:  "CKM_SHA384",
	0x261:  "CKM_SHA384_HMAC",
	0x262:  "CKM_SHA384_HMAC_GENERAL",
	0x270:  "CKM_SHA512",
	0x271:  "CKM_SHA512_HMAC",
	0x272:  "CKM_SHA512_HMAC_GENERAL",
	0x2b0:  "CKM_SHA3_256",
	0x2b1:  "CKM_SHA3_256_HMAC",
	0x2b2:  "CKM_SHA3_256_HMAC_GENERAL",
	0x2b3:  "CKM_SHA3_256_KEY_GEN",
	0x2b5:  "CKM_SHA3_224",
	0x2b6:  "CKM_SHA3_224_HMAC",
	0x2b7:  "CKM_SHA3_224_HMAC_GENERAL",
	0x2b8:  "CKM_SHA3_224_KEY_GEN",
	0x2c0:  "CKM_SHA3_384",
	0x2c1:  "CKM_SHA3_384_HMAC",
	0x2c2:  "CKM_SHA3_384_HMAC_GENERAL",
	0x2c3:  "CKM_SHA3_384_KEY_GEN",
	0x2d0:  "CKM_SHA3_512",
	0x2d1:  "CKM_SHA3_512_HMAC",
	0x2d2:  "CKM_SHA3_512_HMAC_GENERAL",
	0x2d3:  "CKM_SHA3_512_KEY_GEN",
	0x350:  "CKM_GENERIC_SECRET_KEY_GEN",
	0x360:  "CKM_CONCATENATE_BASE_AND_KEY",
	0x362:  "CKM_CONCATENATE_BASE_AND_DATA",
	0x363:  "CKM_CONCATENATE_DATA_AND_BASE",
	0x364:  "CKM_XOR_BASE_AND_DATA",
	0x365:  "CKM_EXTRACT_KEY_FROM_KEY",
	0x390:  "CKM_MD5_KEY_DERIVATION",
	0x392:  "CKM_SHA1_KEY_DERIVATION",
	0x393:  "CKM_SHA256_KEY_DERIVATION",
	0x394:  "CKM_SHA384_KEY_DERIVATION",
	0x395:  "CKM_SHA512_KEY_DERIVATION",
	0x396:  "CKM_SHA224_KEY_DERIVATION",
	0x397:  "CKM_SHA3_256_KEY_DERIVE",
	0x398:  "CKM_SHA3_224_KEY_DERIVE",
	0x399:  "CKM_SHA3_384_KEY_DERIVE",
	0x39a:  "CKM_SHA3_512_KEY_DERIVE",
	0x3b0:  "CKM_PKCS5_PBKD2",
	0x3d8:  "CKM_TLS12_MAC",
	0x3d9:  "CKM_TLS12_KDF",
	0x3e0:  "CKM_TLS12_MASTER_KEY_DERIVE",
	0x3e1:  "CKM_TLS12_KEY_AND_MAC_DERIVE",
	0x3e2:  "CKM_TLS12_MASTER_KEY_DERIVE_DH",
	0x3e3:  "CKM_TLS12_KEY_SAFE_DERIVE",
	0x550:  "CKM_CAMELLIA_KEY_GEN",
	0x551:  "CKM_CAMELLIA_ECB",
	0x552:  "CKM_CAMELLIA_CBC",
	0x553:  "CKM_CAMELLIA_MAC",
	0x554:  "CKM_CAMELLIA_MAC_GENERAL",
	0x555:  "CKM_CAMELLIA_CBC_PAD",
	0x556:  "CKM_CAMELLIA_ECB_ENCRYPT_DATA",
	0x557:  "CKM_CAMELLIA_CBC_ENCRYPT_DATA",
	0x558:  "CKM_CAMELLIA_CTR",
	0x560:  "CKM_ARIA_KEY_GEN",
	0x561:  "CKM_ARIA_ECB",
	0x562:  "CKM_ARIA_CBC",
	0x563:  "CKM_ARIA_MAC",
	0x564:  "CKM_ARIA_MAC_GENERAL",
	0x565:  "CKM_ARIA_CBC_PAD",
	0x566:  "CKM_ARIA_ECB_ENCRYPT_DATA",
	0x567:  "CKM_ARIA_CBC_ENCRYPT_DATA",
	0x650:  "CKM_SEED_KEY_GEN",
	0x651:  "CKM_SEED_ECB",
	0x652:  "CKM_SEED_CBC",
	0x653:  "CKM_SEED_MAC",
	0x654:  "CKM_SEED_MAC_GENERAL",
	0x655:  "CKM_SEED_CBC_PAD",
	0x656:  "CKM_SEED_ECB_ENCRYPT_DATA",
	0x657:  "CKM_SEED_CBC_ENCRYPT_DATA",
	0x1040: "CKM_EC_KEY_PAIR_GEN",
	0x1041: "CKM_ECDSA",
	0x1042: "CKM_ECDSA_SHA1",
	0x1043: "CKM_ECDSA_SHA224",
	0x1044: "CKM_ECDSA_SHA256",
	0x1045: "CKM_ECDSA_SHA384",
	0x1046: "CKM_ECDSA_SHA512",
	0x1050: "CKM_ECDH1_DERIVE",
	0x1051: "CKM_ECDH1_COFACTOR_DERIVE",
	0x1053: "CKM_ECDH_AES_KEY_WRAP",
	0x1054: "CKM_RSA_AES_KEY_WRAP",
	0x1055: "CKM_EC_EDWARDS_KEY_PAIR_GEN",
	0x1056: "CKM_EC_MONTGOMERY_KEY_PAIR_GEN",
	0x1057: "CKM_EDDSA",
	0x1080: "CKM_AES_KEY_GEN",
	0x1081: "CKM_AES_ECB",
	0x1082: "CKM_AES_CBC",
	0x1083: "CKM_AES_MAC",
	0x1084: "CKM_AES_MAC_GENERAL",
	0x1085: "CKM_AES_CBC_PAD",
	0x1086: "CKM_AES_CTR",
	0x1087: "CKM_AES_GCM",
	0x1088: "CKM_AES_CCM",
	0x1089: "CKM_AES_CTS",
	0x108a: "CKM_AES_CMAC",
	0x108b: "CKM_AES_CMAC_GENERAL",
	0x108c: "CKM_AES_XCBC_MAC",
	0x108d: "CKM_AES_XCBC_MAC_96",
	0x108e: "CKM_AES_GMAC",
	0x1090: "CKM_BLOWFISH_KEY_GEN",
	0x1091: "CKM_BLOWFISH_CBC",
	0x1094: "CKM_BLOWFISH_CBC_PAD",
	0x1100: "CKM_DES_ECB_ENCRYPT_DATA",
	0x1101: "CKM_DES_CBC_ENCRYPT_DATA",
	0x1102: "CKM_DES3_ECB_ENCRYPT_DATA",
	0x1103: "CKM_DES3_CBC_ENCRYPT_DATA",
	0x1104: "CKM_AES_ECB_ENCRYPT_DATA",
	0x1105: "CKM_AES_CBC_ENCRYPT_DATA",
	0x1225: "CKM_CHACHA20_KEY_GEN",
	0x1226: "CKM_CHACHA20",
	0x2000: "CKM_DSA_PARAMETER_GEN",
	0x2001: "CKM_DH_PKCS_PARAMETER_GEN",
	0x2003: "CKM_DSA_PROBABLISTIC_PARAMETER_GEN",
	0x2004: "CKM_DSA_SHAWE_TAYLOR_PARAMETER_GEN",
	0x2104: "CKM_AES_OFB",
	0x2105: "CKM_AES_CFB64",
	0x2106: "CKM_AES_CFB8",
	0x2107: "CKM_AES_CFB128",
	0x2108: "CKM_AES_CFB1",
	0x2109: "CKM_AES_KEY_WRAP",
	0x210a: "CKM_AES_KEY_WRAP_PAD",
	0x210b: "CKM_AES_KEY_WRAP_KWP",
	0x4001: "CKM_RSA_PKCS_TPM_1_1",
	0x4002: "CKM_RSA_PKCS_OAEP_TPM_1_1",
	0x4021: "CKM_CHACHA20_POLY1305",
	0x402a: "CKM_HKDF_DERIVE",
	0x402b: "CKM_HKDF_DATA",
	0x402c: "CKM_HKDF_KEY_GEN",
}
