package main

import (
	"crypto"
	"fmt"
	"slices"

	"github.com/setkit/setkit/hsm"
)

const roleAll = "all"

var roles = []string{"ca", "gateway", "merchant", "issuer", roleAll}

// mechanism is something that a token must be able to do, with keys of up to bits.
type mechanism struct {
	name string
	use  string
	bits int
}

// need is what a role needs of a token. Where the native mechanisms are missing, fallback serves.
type need struct {
	what     string
	roles    []string // none: nobody needs it
	native   []mechanism
	fallback []mechanism
	instead  string // what the fallback means
}

var (
	signing     = []string{"ca", "gateway", "merchant"}
	macing      = []string{"ca", "issuer"}
	sealing     = []string{"gateway", "issuer"}
	oaepNative  = []mechanism{{"CKM_RSA_PKCS_OAEP", "decrypt", 2048}}
	oaepInstead = []mechanism{{"CKM_RSA_X_509", "decrypt", 2048}}
)

var needs = []need{
	{"ECDSA P-256 signatures", signing, []mechanism{{"CKM_ECDSA", "sign", 256}, {"CKM_EC_KEY_PAIR_GEN", "generate-key-pair", 256}},
		[]mechanism{{"CKM_RSA_PKCS", "sign", 2048}, {"CKM_RSA_PKCS_KEY_PAIR_GEN", "generate-key-pair", 2048}}, "keys to sign have to be of type rsa-2048 or longer"},
	{"ECDSA P-384 signatures", []string{"ca"}, []mechanism{{"CKM_ECDSA", "sign", 384}, {"CKM_EC_KEY_PAIR_GEN", "generate-key-pair", 384}},
		[]mechanism{{"CKM_RSA_PKCS", "sign", 3072}, {"CKM_RSA_PKCS_KEY_PAIR_GEN", "generate-key-pair", 3072}}, "keys to sign certificates have to be of type rsa-3072 or longer"},
	{"RSA key generation", signing, []mechanism{{"CKM_RSA_PKCS_KEY_PAIR_GEN", "generate-key-pair", 2048}}, nil, ""},
	{"HMAC-SHA-256", macing, []mechanism{{"CKM_SHA256_HMAC", "sign", 256}, {"CKM_GENERIC_SECRET_KEY_GEN", "generate", 256}}, nil, ""},
	{"AES-CMAC", []string{"issuer"}, []mechanism{{"CKM_AES_CMAC", "sign", 256}, {"CKM_AES_KEY_GEN", "generate", 256}}, nil, ""},
	{"AES-256-GCM", sealing, []mechanism{{"CKM_AES_GCM", "encrypt", 256}, {"CKM_AES_GCM", "decrypt", 256}, {"CKM_AES_KEY_GEN", "generate", 256}}, nil, ""},
	{"wrapping keys by AES", nil, []mechanism{{"CKM_AES_KEY_WRAP_KWP", "wrap", 0}, {"CKM_AES_KEY_WRAP_KWP", "unwrap", 0}},
		[]mechanism{{"CKM_AES_KEY_WRAP_PAD", "wrap", 0}, {"CKM_AES_KEY_WRAP_PAD", "unwrap", 0}}, "keys are wrapped by CKM_AES_KEY_WRAP_PAD"},
	{"RSA-PSS signatures", nil, []mechanism{{"CKM_RSA_PKCS_PSS", "sign", 2048}}, nil, ""},
	{"ECDH", nil, []mechanism{{"CKM_ECDH1_DERIVE", "derive", 256}}, nil, ""},
	{"Ed25519 signatures", nil, []mechanism{{"CKM_EDDSA", "sign", 0}, {"CKM_EC_EDWARDS_KEY_PAIR_GEN", "generate-key-pair", 0}}, nil, ""},
}

// checkMechanisms compares what the token can do with what the role needs. The digests with which a key
// has shown that the token decodes OAEP are nil if no key could show it.
func (d *diagnosis) checkMechanisms(list []hsm.Mechanism, info hsm.TokenInfo, oaep *[]crypto.Hash) {
	for _, n := range needs {
		if len(n.roles) > 0 && d.Role != roleAll && !slices.Contains(n.roles, d.Role) || len(n.roles) == 0 && d.Role != roleAll {
			continue
		}
		lacking := missing(list, n.native)
		switch {
		case lacking == "":
			d.add(severityOK, "mechanism", n.what, "native: "+names(n.native), "")
		case n.fallback != nil && missing(list, n.fallback) == "":
			d.add(severityNote, "mechanism", n.what, fmt.Sprintf("served by a fallback, %s, because %s: %s", names(n.fallback), lacking, n.instead), "")
		default:
			d.lacks(n.what, lacking, len(n.roles) > 0)
		}
	}
	if d.Role == roleAll || slices.Contains(signing, d.Role) {
		d.checkOAEP(list, oaep)
	}
	if info.Random {
		d.add(severityOK, "mechanism", "random numbers", "native", "")
	} else {
		d.lacks("random numbers", "the token has no generator", true)
	}
}

func (d *diagnosis) lacks(what, why string, needed bool) {
	switch {
	case !needed:
		d.add(severityNote, "mechanism", what, "missing: "+why, "")
	case d.Role == roleAll:
		d.add(severityWarning, "mechanism", what, "missing: "+why, "do not use this token for a role that needs it; which do is told by, for one", d.command("doctor", "--role", "gateway"))
	default:
		d.add(severityError, "mechanism", what, "missing, and the role needs it: "+why, "enable it in the token's policy, or use another token for this role")
	}
}

// checkOAEP tells how RSAES-OAEP with SHA-256 is served. The list of mechanisms does not tell for which
// digests the token has it.
func (d *diagnosis) checkOAEP(list []hsm.Mechanism, oaep *[]crypto.Hash) {
	const what = "RSAES-OAEP with SHA-256"
	native, raw := missing(list, oaepNative), missing(list, oaepInstead)
	switch {
	case oaep != nil && slices.Contains(*oaep, crypto.SHA256):
		d.add(severityOK, "mechanism", what, "native: CKM_RSA_PKCS_OAEP", "")
	case oaep != nil || native != "" && raw == "":
		d.add(severityNote, "mechanism", what, "served by a fallback: the token does CKM_RSA_X_509, and the padding is decoded in constant time outside of it", "")
	case native == "" && raw == "":
		d.add(severityOK, "mechanism", what, "CKM_RSA_PKCS_OAEP or, if that has no SHA-256, CKM_RSA_X_509: the first key for key-exchange will show which", "")
	case native == "":
		d.add(severityNote, "mechanism", what, "CKM_RSA_PKCS_OAEP, if it has SHA-256, which only a key can show: "+raw,
			"generate one and look again", d.command("keys generate", "--label", "key-exchange", "--purpose", "key-exchange", "--type", "rsa-2048"),
			d.command("doctor", "--role", d.Role))
	default:
		d.lacks(what, native+" and "+raw, true)
	}
}

// missing says what of wanted the token does not have; empty: nothing.
func missing(list []hsm.Mechanism, wanted []mechanism) string {
	for _, w := range wanted {
		i := slices.IndexFunc(list, func(m hsm.Mechanism) bool { return m.Name == w.name })
		switch {
		case i < 0:
			return "the token has no " + w.name
		case !slices.Contains(list[i].Uses, w.use):
			return fmt.Sprintf("%s of the token does not %s", w.name, w.use)
		case w.bits > 0 && (list[i].KeyBitsMax > 0 && w.bits > list[i].KeyBitsMax || w.bits < list[i].KeyBitsMin):
			return fmt.Sprintf("%s of the token takes keys of %d to %d bits, and not of %d", w.name, list[i].KeyBitsMin, list[i].KeyBitsMax, w.bits)
		}
	}
	return ""
}

func names(list []mechanism) string {
	s := ""
	for i, m := range list {
		switch {
		case i > 0 && m.name == list[i-1].name:
			continue
		case i > 0:
			s += ", "
		}
		s += m.name
	}
	return s
}
