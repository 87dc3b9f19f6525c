package hsm_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/miekg/pkcs11"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
)

type (
	handle     = pkcs11.ObjectHandle
	attributes = []*pkcs11.Attribute
)

// card is a SoftHSM of this process alone, used without package hsm.
type card struct {
	t     *testing.T
	lib   *pkcs11.Ctx
	slot  uint // of the token
	free  uint // with a token that is not initialised
	token *hsmtest.Token
}

func attr(typ uint, value any) *pkcs11.Attribute { return pkcs11.NewAttribute(typ, value) }

func mech(typ uint, param any) []*pkcs11.Mechanism {
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(typ, param)}
}

func must[T any](v T, err error) func(*card) T {
	return func(c *card) T {
		c.t.Helper()
		if err != nil {
			c.t.Fatal(err)
		}
		return v
	}
}

// do is for a call that prepares and must succeed.
func (c *card) do(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// open opens a read-write session without a login.
func (c *card) open() pkcs11.SessionHandle {
	c.t.Helper()
	return must(c.lib.OpenSession(c.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION))(c)
}

func (c *card) openRO() pkcs11.SessionHandle {
	c.t.Helper()
	return must(c.lib.OpenSession(c.slot, pkcs11.CKF_SERIAL_SESSION))(c)
}

func (c *card) as(user uint) pkcs11.SessionHandle {
	c.t.Helper()
	sh, pin := c.open(), c.token.PIN
	if user == pkcs11.CKU_SO {
		pin = c.token.SOPIN
	}
	c.do(c.lib.Login(sh, user, pin))
	return sh
}

func (c *card) user() pkcs11.SessionHandle { c.t.Helper(); return c.as(pkcs11.CKU_USER) }

// aes makes an AES session key; later attributes win over the earlier ones.
func (c *card) aes(sh pkcs11.SessionHandle, with ...*pkcs11.Attribute) handle {
	c.t.Helper()
	return must(c.lib.GenerateKey(sh, mech(pkcs11.CKM_AES_KEY_GEN, nil), overlay(attributes{
		attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_VALUE_LEN, 32), attr(pkcs11.CKA_PRIVATE, true),
		attr(pkcs11.CKA_SENSITIVE, true), attr(pkcs11.CKA_EXTRACTABLE, true), attr(pkcs11.CKA_ENCRYPT, true),
		attr(pkcs11.CKA_DECRYPT, true), attr(pkcs11.CKA_WRAP, true), attr(pkcs11.CKA_UNWRAP, true),
	}, with)))(c)
}

func (c *card) hmac(sh pkcs11.SessionHandle, length int) handle {
	c.t.Helper()
	return must(c.lib.CreateObject(sh, attributes{
		attr(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
		attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_VALUE, make([]byte, length)), attr(pkcs11.CKA_SIGN, true),
	}))(c)
}

func (c *card) rsa(sh pkcs11.SessionHandle, private ...*pkcs11.Attribute) (pub, priv handle) {
	c.t.Helper()
	pub, priv, err := c.lib.GenerateKeyPair(sh, mech(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil), attributes{
		attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_MODULUS_BITS, 2048), attr(pkcs11.CKA_VERIFY, true),
		attr(pkcs11.CKA_ENCRYPT, true), attr(pkcs11.CKA_WRAP, true),
	}, overlay(attributes{
		attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_SIGN, true), attr(pkcs11.CKA_DECRYPT, true), attr(pkcs11.CKA_UNWRAP, true),
	}, private))
	c.do(err)
	return pub, priv
}

var derP256 = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}

func (c *card) ec(sh pkcs11.SessionHandle) (pub, priv handle) {
	c.t.Helper()
	pub, priv, err := c.lib.GenerateKeyPair(sh, mech(pkcs11.CKM_EC_KEY_PAIR_GEN, nil), attributes{
		attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_EC_PARAMS, derP256), attr(pkcs11.CKA_VERIFY, true),
	}, attributes{attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_SIGN, true), attr(pkcs11.CKA_DERIVE, true)})
	c.do(err)
	return pub, priv
}

// overlay returns base with the attributes of over in place of its own of the same types.
func overlay(base, over attributes) attributes {
	var out attributes
	for _, b := range base {
		replaced := false
		for _, o := range over {
			replaced = replaced || o.Type == b.Type
		}
		if !replaced {
			out = append(out, b)
		}
	}
	return append(out, over...)
}

// secret is the template of an unwrapped AES key.
var secret = attributes{
	attr(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES), attr(pkcs11.CKA_TOKEN, false),
}

// provocations make SoftHSM return every code that it has.
var provocations = []struct {
	code     pkcs11.Error
	function string
	by       func(*card) error
}{
	{pkcs11.CKR_SLOT_ID_INVALID, "C_GetTokenInfo", func(c *card) error { _, err := c.lib.GetTokenInfo(1 << 30); return err }},
	{pkcs11.CKR_GENERAL_ERROR, "C_Decrypt", func(c *card) error {
		sh := c.user()
		gcm := pkcs11.NewGCMParams(make([]byte, 12), nil, 128)
		defer gcm.Free()
		c.do(c.lib.DecryptInit(sh, mech(pkcs11.CKM_AES_GCM, gcm), c.aes(sh)))
		_, err := c.lib.Decrypt(sh, make([]byte, 64))
		return err
	}},
	{pkcs11.CKR_FUNCTION_FAILED, "C_UnwrapKey", func(c *card) error {
		sh := c.user()
		kek, aes := c.aes(sh), mech(pkcs11.CKM_AES_KEY_WRAP, nil)
		wrapped := must(c.lib.WrapKey(sh, aes, kek, c.aes(sh)))(c)
		_, err := c.lib.UnwrapKey(sh, aes, kek, wrapped, overlay(secret, attributes{
			attr(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA)}))
		return err
	}},
	{pkcs11.CKR_ARGUMENTS_BAD, "C_DecryptInit", func(c *card) error {
		sh := c.user()
		_, priv := c.rsa(sh)
		return c.lib.DecryptInit(sh, mech(pkcs11.CKM_RSA_PKCS_OAEP, pkcs11.NewOAEPParams(pkcs11.CKM_SHA256,
			pkcs11.CKG_MGF1_SHA256, pkcs11.CKZ_DATA_SPECIFIED, nil)), priv)
	}},
	{pkcs11.CKR_ATTRIBUTE_READ_ONLY, "C_SetAttributeValue", func(c *card) error {
		sh := c.user()
		return c.lib.SetAttributeValue(sh, c.aes(sh), attributes{attr(pkcs11.CKA_CLASS, pkcs11.CKO_DATA)})
	}},
	{pkcs11.CKR_ATTRIBUTE_SENSITIVE, "C_GetAttributeValue", func(c *card) error {
		sh := c.user()
		_, err := c.lib.GetAttributeValue(sh, c.aes(sh), attributes{attr(pkcs11.CKA_VALUE, nil)})
		return err
	}},
	{pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, "C_GetAttributeValue", func(c *card) error {
		sh := c.user()
		_, err := c.lib.GetAttributeValue(sh, c.aes(sh), attributes{attr(pkcs11.CKA_MODULUS, nil)})
		return err
	}},
	{pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, "C_CreateObject", func(c *card) error {
		_, err := c.lib.CreateObject(c.user(), attributes{
			attr(pkcs11.CKA_CLASS, pkcs11.CKO_DATA), attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_MODIFIABLE, []byte{1, 2, 3})})
		return err
	}},
	{pkcs11.CKR_ACTION_PROHIBITED, "C_SetAttributeValue", func(c *card) error {
		sh := c.user()
		return c.lib.SetAttributeValue(sh, c.aes(sh, attr(pkcs11.CKA_MODIFIABLE, false)), attributes{attr(pkcs11.CKA_LABEL, "x")})
	}},
	{pkcs11.CKR_DATA_LEN_RANGE, "C_Encrypt", func(c *card) error {
		sh := c.user()
		c.do(c.lib.EncryptInit(sh, mech(pkcs11.CKM_AES_CBC, make([]byte, 16)), c.aes(sh)))
		_, err := c.lib.Encrypt(sh, make([]byte, 15))
		return err
	}},
	{pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE, "C_Decrypt", func(c *card) error {
		sh := c.user()
		c.do(c.lib.DecryptInit(sh, mech(pkcs11.CKM_AES_CBC, make([]byte, 16)), c.aes(sh)))
		_, err := c.lib.Decrypt(sh, make([]byte, 15))
		return err
	}},
	{pkcs11.CKR_FUNCTION_NOT_SUPPORTED, "C_GetOperationState", func(c *card) error {
		_, err := c.lib.GetOperationState(c.user())
		return err
	}},
	{pkcs11.CKR_KEY_HANDLE_INVALID, "C_WrapKey", func(c *card) error {
		sh := c.user()
		_, err := c.lib.WrapKey(sh, mech(pkcs11.CKM_AES_KEY_WRAP, nil), c.aes(sh), 9999)
		return err
	}},
	{pkcs11.CKR_KEY_SIZE_RANGE, "C_SignInit", func(c *card) error {
		sh := c.user()
		return c.lib.SignInit(sh, mech(pkcs11.CKM_SHA256_HMAC, nil), c.hmac(sh, 16))
	}},
	{pkcs11.CKR_KEY_TYPE_INCONSISTENT, "C_SignInit", func(c *card) error {
		sh := c.user()
		return c.lib.SignInit(sh, mech(pkcs11.CKM_SHA256_HMAC, nil), c.aes(sh, attr(pkcs11.CKA_SIGN, true)))
	}},
	{pkcs11.CKR_KEY_INDIGESTIBLE, "C_DigestKey", func(c *card) error {
		sh := c.user()
		c.do(c.lib.DigestInit(sh, mech(pkcs11.CKM_MD5, nil)))
		return c.lib.DigestKey(sh, c.aes(sh, attr(pkcs11.CKA_EXTRACTABLE, false)))
	}},
	{pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, "C_SignInit", func(c *card) error {
		sh := c.user()
		_, priv := c.rsa(sh, attr(pkcs11.CKA_SIGN, false))
		return c.lib.SignInit(sh, mech(pkcs11.CKM_RSA_PKCS, nil), priv)
	}},
	{pkcs11.CKR_KEY_NOT_WRAPPABLE, "C_WrapKey", func(c *card) error {
		sh := c.user()
		_, err := c.lib.WrapKey(sh, mech(pkcs11.CKM_AES_KEY_WRAP, nil), c.aes(sh), c.aes(sh, attr(pkcs11.CKA_WRAP_WITH_TRUSTED, true)))
		return err
	}},
	{pkcs11.CKR_KEY_UNEXTRACTABLE, "C_WrapKey", func(c *card) error {
		sh := c.user()
		_, err := c.lib.WrapKey(sh, mech(pkcs11.CKM_AES_KEY_WRAP, nil), c.aes(sh), c.aes(sh, attr(pkcs11.CKA_EXTRACTABLE, false)))
		return err
	}},
	{pkcs11.CKR_MECHANISM_INVALID, "C_SignInit", func(c *card) error {
		sh := c.user()
		_, priv := c.ec(sh)
		return c.lib.SignInit(sh, mech(pkcs11.CKM_ECDSA_SHA256, nil), priv)
	}},
	{pkcs11.CKR_MECHANISM_PARAM_INVALID, "C_DeriveKey", func(c *card) error {
		sh := c.user()
		_, priv := c.ec(sh)
		_, err := c.lib.DeriveKey(sh, mech(pkcs11.CKM_ECDH1_DERIVE, pkcs11.NewECDH1DeriveParams(pkcs11.CKD_SHA256_KDF, nil, []byte{4})), priv, secret)
		return err
	}},
	{pkcs11.CKR_OBJECT_HANDLE_INVALID, "C_DestroyObject", func(c *card) error { return c.lib.DestroyObject(c.user(), 9999) }},
	{pkcs11.CKR_OPERATION_ACTIVE, "C_SignInit", func(c *card) error {
		sh := c.user()
		_, priv := c.rsa(sh)
		c.do(c.lib.SignInit(sh, mech(pkcs11.CKM_RSA_PKCS, nil), priv))
		return c.lib.SignInit(sh, mech(pkcs11.CKM_RSA_PKCS, nil), priv)
	}},
	{pkcs11.CKR_OPERATION_NOT_INITIALIZED, "C_Sign", func(c *card) error { _, err := c.lib.Sign(c.user(), []byte("x")); return err }},
	{pkcs11.CKR_PIN_INCORRECT, "C_Login", func(c *card) error { return c.lib.Login(c.open(), pkcs11.CKU_USER, "not the PIN") }},
	{pkcs11.CKR_PIN_LEN_RANGE, "C_SetPIN", func(c *card) error { return c.lib.SetPIN(c.user(), c.token.PIN, "123") }},
	{pkcs11.CKR_SESSION_HANDLE_INVALID, "C_Logout", func(c *card) error { return c.lib.Logout(9999) }},
	{pkcs11.CKR_SESSION_PARALLEL_NOT_SUPPORTED, "C_OpenSession", func(c *card) error { _, err := c.lib.OpenSession(c.slot, 0); return err }},
	{pkcs11.CKR_SESSION_READ_ONLY, "C_CreateObject", func(c *card) error {
		c.user()
		_, err := c.lib.CreateObject(c.openRO(), attributes{attr(pkcs11.CKA_CLASS, pkcs11.CKO_DATA), attr(pkcs11.CKA_TOKEN, true)})
		return err
	}},
	{pkcs11.CKR_SESSION_EXISTS, "C_InitToken", func(c *card) error {
		c.open()
		return c.lib.InitToken(c.slot, c.token.SOPIN, c.token.Label)
	}},
	{pkcs11.CKR_SESSION_READ_ONLY_EXISTS, "C_Login", func(c *card) error {
		c.openRO()
		return c.lib.Login(c.open(), pkcs11.CKU_SO, c.token.SOPIN)
	}},
	{pkcs11.CKR_SESSION_READ_WRITE_SO_EXISTS, "C_OpenSession", func(c *card) error {
		c.as(pkcs11.CKU_SO)
		_, err := c.lib.OpenSession(c.slot, pkcs11.CKF_SERIAL_SESSION)
		return err
	}},
	{pkcs11.CKR_SIGNATURE_INVALID, "C_Verify", func(c *card) error {
		sh := c.user()
		pub, _ := c.rsa(sh)
		c.do(c.lib.VerifyInit(sh, mech(pkcs11.CKM_SHA256_RSA_PKCS, nil), pub))
		return c.lib.Verify(sh, []byte("x"), make([]byte, 256))
	}},
	{pkcs11.CKR_SIGNATURE_LEN_RANGE, "C_Verify", func(c *card) error {
		sh := c.user()
		pub, _ := c.rsa(sh)
		c.do(c.lib.VerifyInit(sh, mech(pkcs11.CKM_SHA256_RSA_PKCS, nil), pub))
		return c.lib.Verify(sh, []byte("x"), make([]byte, 255))
	}},
	{pkcs11.CKR_TEMPLATE_INCOMPLETE, "C_GenerateKey", func(c *card) error {
		_, err := c.lib.GenerateKey(c.user(), mech(pkcs11.CKM_AES_KEY_GEN, nil), attributes{attr(pkcs11.CKA_TOKEN, false)})
		return err
	}},
	{pkcs11.CKR_TEMPLATE_INCONSISTENT, "C_GenerateKey", func(c *card) error {
		_, err := c.lib.GenerateKey(c.user(), mech(pkcs11.CKM_AES_KEY_GEN, nil), attributes{
			attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA), attr(pkcs11.CKA_VALUE_LEN, 32)})
		return err
	}},
	{pkcs11.CKR_TOKEN_NOT_RECOGNIZED, "C_OpenSession", func(c *card) error {
		_, err := c.lib.OpenSession(c.free, pkcs11.CKF_SERIAL_SESSION)
		return err
	}},
	{pkcs11.CKR_UNWRAPPING_KEY_HANDLE_INVALID, "C_UnwrapKey", func(c *card) error {
		_, err := c.lib.UnwrapKey(c.user(), mech(pkcs11.CKM_AES_KEY_WRAP, nil), 9999, make([]byte, 40), secret)
		return err
	}},
	{pkcs11.CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT, "C_UnwrapKey", func(c *card) error {
		sh := c.user()
		_, priv := c.rsa(sh)
		_, err := c.lib.UnwrapKey(sh, mech(pkcs11.CKM_AES_KEY_WRAP, nil), priv, make([]byte, 40), secret)
		return err
	}},
	{pkcs11.CKR_USER_ALREADY_LOGGED_IN, "C_Login", func(c *card) error { return c.lib.Login(c.user(), pkcs11.CKU_USER, c.token.PIN) }},
	{pkcs11.CKR_USER_NOT_LOGGED_IN, "C_GenerateKey", func(c *card) error {
		_, err := c.lib.GenerateKey(c.open(), mech(pkcs11.CKM_AES_KEY_GEN, nil), attributes{
			attr(pkcs11.CKA_VALUE_LEN, 32), attr(pkcs11.CKA_PRIVATE, true)})
		return err
	}},
	{pkcs11.CKR_USER_TYPE_INVALID, "C_Login", func(c *card) error { return c.lib.Login(c.open(), 7, c.token.PIN) }},
	{pkcs11.CKR_USER_ANOTHER_ALREADY_LOGGED_IN, "C_Login", func(c *card) error {
		return c.lib.Login(c.as(pkcs11.CKU_SO), pkcs11.CKU_USER, c.token.PIN)
	}},
	{pkcs11.CKR_WRAPPED_KEY_LEN_RANGE, "C_UnwrapKey", func(c *card) error {
		sh := c.user()
		_, err := c.lib.UnwrapKey(sh, mech(pkcs11.CKM_AES_KEY_WRAP, nil), c.aes(sh), make([]byte, 7), secret)
		return err
	}},
	{pkcs11.CKR_WRAPPING_KEY_HANDLE_INVALID, "C_WrapKey", func(c *card) error {
		sh := c.user()
		_, err := c.lib.WrapKey(sh, mech(pkcs11.CKM_AES_KEY_WRAP, nil), 9999, c.aes(sh))
		return err
	}},
	{pkcs11.CKR_WRAPPING_KEY_TYPE_INCONSISTENT, "C_WrapKey", func(c *card) error {
		sh := c.user()
		pub, _ := c.rsa(sh)
		_, err := c.lib.WrapKey(sh, mech(pkcs11.CKM_AES_KEY_WRAP, nil), pub, c.aes(sh))
		return err
	}},
	// The last ones leave the library or the token in another state.
	{pkcs11.CKR_USER_PIN_NOT_INITIALIZED, "C_Login", func(c *card) error {
		c.do(c.lib.InitToken(c.slot, c.token.SOPIN, c.token.Label)) // forgets the user PIN
		return c.lib.Login(c.open(), pkcs11.CKU_USER, c.token.PIN)
	}},
	{pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED, "C_Initialize", func(c *card) error { return c.lib.Initialize() }},
	{pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, "C_GetSlotList", func(c *card) error {
		c.do(c.lib.Finalize())
		_, err := c.lib.GetSlotList(true)
		return err
	}},
}

const (
	notInSoftHSM  = "SoftHSM 2.6.1 has no place that returns it"
	notThroughAPI = "SoftHSM returns it only in a call that miekg/pkcs11 does not make, or whose code it drops"
	notToBeHad    = "SoftHSM returns it only when memory is short, or for a slot without a token, which it does not have"
)

// notProvoked are the other codes of PKCS#11 2.40, with the reason why SoftHSM cannot be made to
// return them. Which codes are in it was read off the constants in the library's machine code.
var notProvoked = map[pkcs11.Error]string{
	pkcs11.CKR_FUNCTION_NOT_PARALLEL: notThroughAPI, // C_GetFunctionStatus, C_CancelFunction
	pkcs11.CKR_NO_EVENT:              notThroughAPI, // C_WaitForSlotEvent
	pkcs11.CKR_BUFFER_TOO_SMALL:      notThroughAPI, // the buffer has the size that the library asks for
	pkcs11.CKR_HOST_MEMORY:           notToBeHad,
	pkcs11.CKR_TOKEN_NOT_PRESENT:     notToBeHad,

	pkcs11.CKR_CANCEL: notInSoftHSM, pkcs11.CKR_NEED_TO_CREATE_THREADS: notInSoftHSM,
	pkcs11.CKR_CANT_LOCK: notInSoftHSM, pkcs11.CKR_DATA_INVALID: notInSoftHSM,
	pkcs11.CKR_DEVICE_ERROR: notInSoftHSM, pkcs11.CKR_DEVICE_MEMORY: notInSoftHSM,
	pkcs11.CKR_DEVICE_REMOVED: notInSoftHSM, pkcs11.CKR_ENCRYPTED_DATA_INVALID: notInSoftHSM,
	pkcs11.CKR_FUNCTION_CANCELED: notInSoftHSM, pkcs11.CKR_KEY_NOT_NEEDED: notInSoftHSM,
	pkcs11.CKR_KEY_CHANGED: notInSoftHSM, pkcs11.CKR_KEY_NEEDED: notInSoftHSM,
	pkcs11.CKR_PIN_INVALID: notInSoftHSM, pkcs11.CKR_PIN_EXPIRED: notInSoftHSM,
	pkcs11.CKR_PIN_LOCKED: notInSoftHSM, pkcs11.CKR_SESSION_CLOSED: notInSoftHSM,
	pkcs11.CKR_SESSION_COUNT: notInSoftHSM, pkcs11.CKR_TOKEN_WRITE_PROTECTED: notInSoftHSM,
	pkcs11.CKR_UNWRAPPING_KEY_SIZE_RANGE: notInSoftHSM, pkcs11.CKR_USER_TOO_MANY_TYPES: notInSoftHSM,
	pkcs11.CKR_WRAPPED_KEY_INVALID: notInSoftHSM, pkcs11.CKR_WRAPPING_KEY_SIZE_RANGE: notInSoftHSM,
	pkcs11.CKR_RANDOM_SEED_NOT_SUPPORTED: notInSoftHSM, pkcs11.CKR_RANDOM_NO_RNG: notInSoftHSM,
	pkcs11.CKR_DOMAIN_PARAMS_INVALID: notInSoftHSM, pkcs11.CKR_CURVE_NOT_SUPPORTED: notInSoftHSM,
	pkcs11.CKR_SAVED_STATE_INVALID: notInSoftHSM, pkcs11.CKR_INFORMATION_SENSITIVE: notInSoftHSM,
	pkcs11.CKR_STATE_UNSAVEABLE: notInSoftHSM, pkcs11.CKR_MUTEX_BAD: notInSoftHSM,
	pkcs11.CKR_MUTEX_NOT_LOCKED: notInSoftHSM, pkcs11.CKR_NEW_PIN_MODE: notInSoftHSM,
	pkcs11.CKR_NEXT_OTP: notInSoftHSM, pkcs11.CKR_EXCEEDED_MAX_ITERATIONS: notInSoftHSM,
	pkcs11.CKR_FIPS_SELF_TEST_FAILED: notInSoftHSM, pkcs11.CKR_LIBRARY_LOAD_FAILED: notInSoftHSM,
	pkcs11.CKR_PIN_TOO_WEAK: notInSoftHSM, pkcs11.CKR_PUBLIC_KEY_INVALID: notInSoftHSM,
	pkcs11.CKR_FUNCTION_REJECTED: notInSoftHSM, pkcs11.CKR_VENDOR_DEFINED: notInSoftHSM,
	0x42: notInSoftHSM, 0x201: notInSoftHSM, 0x202: notInSoftHSM, 0x203: notInSoftHSM, // of PKCS#11 3.0
}

// losses are the codes that mean more than a refused call.
var losses = map[string][]pkcs11.Error{
	"session": {
		pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_SESSION_COUNT, pkcs11.CKR_USER_NOT_LOGGED_IN,
		pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID, pkcs11.CKR_WRAPPING_KEY_HANDLE_INVALID,
		pkcs11.CKR_UNWRAPPING_KEY_HANDLE_INVALID, pkcs11.CKR_OPERATION_ACTIVE, pkcs11.CKR_OPERATION_NOT_INITIALIZED, 0x201, 0x202,
	},
	"device": {
		pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_DEVICE_MEMORY, pkcs11.CKR_TOKEN_NOT_PRESENT,
		pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_SLOT_ID_INVALID, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED,
		pkcs11.CKR_HOST_MEMORY, pkcs11.CKR_LIBRARY_LOAD_FAILED, pkcs11.CKR_FIPS_SELF_TEST_FAILED,
	},
	"unclear": {pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED},
}

func lossWanted(code pkcs11.Error) string {
	for loss, codes := range losses {
		if slices.Contains(codes, code) {
			return loss
		}
	}
	return "none"
}

const errorBytesMax = 250 // of a line that a person can take in

// Every code of PKCS#11 has a name, a cause and a fix, and either SoftHSM returns it below or it is
// said why not.
func TestCodes(t *testing.T) {
	t.Parallel()
	provoked := map[pkcs11.Error]bool{}
	for _, p := range provocations {
		provoked[p.code] = true
	}
	codes := hsm.Codes()
	if len(codes) != 1+len(provoked)+len(notProvoked) {
		t.Errorf("%d codes; want CKR_OK, %d that SoftHSM returns and %d that it does not", len(codes), len(provoked), len(notProvoked))
	}
	for _, c := range codes {
		if c.Value == pkcs11.CKR_OK {
			continue
		}
		if provoked[c.Value] == (notProvoked[c.Value] != "") {
			t.Errorf("%s: provoked is %t, and the reason why not is %q", c.Name, provoked[c.Value], notProvoked[c.Value])
		}
		// Package pkcs11 knows most of the names.
		if text := c.Value.Error(); strings.Contains(text, "CKR_") && !strings.HasSuffix(text, " "+c.Name) {
			t.Errorf("code 0x%X is called %s, and in package pkcs11 %s", uint(c.Value), c.Name, text)
		}
		if c.Cause == "" || c.Fix == "" {
			t.Errorf("%s: cause %q, fix %q", c.Name, c.Cause, c.Fix)
		}
		checkCode(t, "C_Function", c.Value)
	}
	for code := range pkcs11.Error(0x1000) {
		if strings.Contains(code.Error(), "CKR_") && !slices.ContainsFunc(codes, func(c hsm.Code) bool { return c.Value == code }) {
			t.Errorf("%v is not in the table", code)
		}
	}
}

// checkCode checks the error that a code becomes.
func checkCode(t *testing.T, function string, code pkcs11.Error) {
	t.Helper()
	err := fmt.Errorf("sign: %w", hsm.Named(function, code))
	loss := lossWanted(code)
	if got := hsm.LossOf(err); got != loss {
		t.Errorf("%v: loss %q, want %q", err, got, loss)
	}
	if got, want := errors.Is(err, hsm.ErrUnavailable), loss == "session" || loss == "device"; got != want {
		t.Errorf("%v: matches ErrUnavailable: %t, want %t", err, got, want)
	}
	if got := hsm.CodeOf(err); got != code {
		t.Errorf("%v: code 0x%X, want 0x%X", err, uint(got), uint(code))
	}
	parts := strings.SplitN(err.Error(), ": ", 4)
	if len(parts) != 4 || parts[1] != function || parts[2] != name(code) || strings.Count(parts[3], "; ") < 1 {
		t.Errorf("error %q, want the function, the name, the cause; and the fix", err)
	}
	if text := err.Error(); len(text) > errorBytesMax || strings.ContainsFunc(text, unicode.IsControl) || strings.HasSuffix(text, ".") {
		t.Errorf("error %q is not one line of at most %d bytes without a full stop", text, errorBytesMax)
	}
}

// A code that PKCS#11 does not have is shown as a number and explained all the same.
func TestForeignCodes(t *testing.T) {
	t.Parallel()
	for code, want := range map[pkcs11.Error]string{
		0x80000387: "C_Sign: CKR_0x80000387: this code is the vendor's own; look it up in the vendor's manual",
		0x7777:     "C_Sign: CKR_0x7777: PKCS#11 does not have this code; look it up in the vendor's manual",
	} {
		err := hsm.Named("C_Sign", code)
		if err.Error() != want || hsm.LossOf(err) != "none" || errors.Is(err, hsm.ErrUnavailable) {
			t.Errorf("got %q, loss %q; want %q, none", err, hsm.LossOf(err), want)
		}
	}
	if got := hsm.LossOf(errors.New("no code")); got != "none" {
		t.Errorf("an error without a code is a loss: %q", got)
	}
}

const codesOfSoftHSM = "SETKIT_CODES_OF_SOFTHSM"

// Every code that SoftHSM can be made to return becomes an error that says what happened and what to
// do. It happens in a process of its own, because a PKCS#11 library is one for the whole process.
func TestCodesOfSoftHSM(t *testing.T) {
	if os.Getenv(codesOfSoftHSM) == "" {
		t.Parallel()
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCodesOfSoftHSM$", "-test.v")
		cmd.Env = append(os.Environ(), codesOfSoftHSM+"=1", "SOFTHSM2_CONF=")
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("--- PASS: TestCodesOfSoftHSM/CKR_CRYPTOKI_NOT_INITIALIZED")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	token := hsmtest.New(t)
	lib := pkcs11.New(token.ModulePath)
	if err := lib.Initialize(); err != nil {
		t.Fatal(err)
	}
	c := &card{t: t, lib: lib, token: token}
	for _, id := range must(lib.GetSlotList(true))(c) {
		switch must(lib.GetTokenInfo(id))(c).Label {
		case token.Label:
			c.slot = id
		default:
			c.free = id
		}
	}
	for _, p := range provocations {
		t.Run(name(p.code), func(t *testing.T) {
			c.t = t
			defer func() { _ = c.lib.CloseAllSessions(c.slot) }()
			err := p.by(c)
			if code, ok := errors.AsType[pkcs11.Error](err); !ok || code != p.code {
				t.Fatalf("%s: %v, want %s", p.function, err, name(p.code))
			}
			checkCode(t, p.function, p.code)
		})
	}
}

// name is the name of a code in the table.
func name(code pkcs11.Error) string {
	for _, c := range hsm.Codes() {
		if c.Value == code {
			return c.Name
		}
	}
	return fmt.Sprint(uint(code))
}
