package hsm

import "github.com/miekg/pkcs11"

// loss is what a PKCS#11 code says about the way to the token.
type loss int

const (
	lossNone    loss = iota // the call itself was refused, and would be again
	lossSession             // the session, its login or its handles are gone: a new session has them again
	lossDevice              // the device or the library is gone: it has to be opened again
	lossUnclear             // some libraries say this of a lost device, others of bad input
)

// lossOf is the loss that the PKCS#11 code in err means; lossNone if there is no code in it.
func lossOf(err error) loss { return codes[codeOf(err)].loss }

// ckr is one PKCS#11 return code, for a person who has to do something about it.
type ckr struct {
	name, cause, fix string
	loss             loss
}

// The codes of PKCS#11 3.0 that are met in practice and that the pkcs11 package does not know.
const (
	ckrAEADDecryptFailed     = pkcs11.Error(0x42)
	ckrTokenResourceExceeded = pkcs11.Error(0x201)
	ckrOperationCancelFailed = pkcs11.Error(0x202)
	ckrKeyExhausted          = pkcs11.Error(0x203)
)

// codes has every return code of PKCS#11 2.40.
var codes = map[pkcs11.Error]ckr{
	pkcs11.CKR_OK: {name: "CKR_OK"},

	// The library and the machine.
	pkcs11.CKR_CANCEL: {"CKR_CANCEL",
		"somebody cancelled it at the device, such as on its PIN pad", "do it again and confirm at the device", lossNone},
	pkcs11.CKR_HOST_MEMORY: {"CKR_HOST_MEMORY",
		"the library got no memory from this machine", "look at free -m and at the process's limits (ulimit -v, MemoryMax=)", lossDevice},
	pkcs11.CKR_GENERAL_ERROR: {"CKR_GENERAL_ERROR",
		"the library gives no reason: a lost device, a fault of its own, or input that it cannot use", "read the library's log, then run set-hsm doctor", lossUnclear},
	pkcs11.CKR_FUNCTION_FAILED: {"CKR_FUNCTION_FAILED",
		"the library gave up without a reason, often after a lost connection", "read the library's log, then run set-hsm doctor", lossUnclear},
	pkcs11.CKR_ARGUMENTS_BAD: {"CKR_ARGUMENTS_BAD",
		"the library does not take these parameters; in C_Initialize: it cannot use its configuration", "check the library's configuration file, and with set-hsm doctor what the token supports", lossNone},
	pkcs11.CKR_NEED_TO_CREATE_THREADS: {"CKR_NEED_TO_CREATE_THREADS",
		"the library must start threads and was not let", "allow threads in the library's configuration", lossNone},
	pkcs11.CKR_CANT_LOCK: {"CKR_CANT_LOCK",
		"the library cannot be used by several threads", "install the vendor's thread-safe build of it", lossNone},
	pkcs11.CKR_MUTEX_BAD: {"CKR_MUTEX_BAD",
		"the library's own locking has failed", "restart this process, and update the library if it recurs", lossNone},
	pkcs11.CKR_MUTEX_NOT_LOCKED: {"CKR_MUTEX_NOT_LOCKED",
		"the library's own locking has failed", "restart this process, and update the library if it recurs", lossNone},
	pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED: {"CKR_CRYPTOKI_NOT_INITIALIZED",
		"the library was shut down in this process, or the process has forked", "try again; if it recurs, find what else in this process uses the library", lossDevice},
	pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED: {"CKR_CRYPTOKI_ALREADY_INITIALIZED",
		"something else in this process has initialised the library", "open every token through package hsm, or work in a process of its own with set-hsm", lossNone},
	pkcs11.CKR_LIBRARY_LOAD_FAILED: {"CKR_LIBRARY_LOAD_FAILED",
		"the library cannot load another library that it needs", "run ldd on the URI's module-path and install what is not found", lossDevice},
	pkcs11.CKR_FUNCTION_CANCELED: {"CKR_FUNCTION_CANCELED",
		"it was ended from outside before it was done", "do it again; if it recurs, look in the HSM's log for what ends it", lossNone},
	pkcs11.CKR_FUNCTION_NOT_PARALLEL: {"CKR_FUNCTION_NOT_PARALLEL",
		"it is the library's fixed answer to a function that has no use any more", "leave the call out", lossNone},
	pkcs11.CKR_FUNCTION_NOT_SUPPORTED: {"CKR_FUNCTION_NOT_SUPPORTED",
		"the library does not have this function", "see with set-hsm doctor what works without it, or update the library", lossNone},
	pkcs11.CKR_FUNCTION_REJECTED: {"CKR_FUNCTION_REJECTED",
		"the HSM's policy refuses it, such as without a quorum of officers", "have it approved at the HSM and do it again", lossNone},
	pkcs11.CKR_BUFFER_TOO_SMALL: {"CKR_BUFFER_TOO_SMALL",
		"the library's answer is longer than it had said it would be", "see with set-hsm doctor which mechanisms work, and update the library", lossNone},
	pkcs11.CKR_VENDOR_DEFINED: {"CKR_VENDOR_DEFINED",
		"the vendor gives no other code for it", "read the HSM's log", lossNone},

	// The device.
	pkcs11.CKR_SLOT_ID_INVALID: {"CKR_SLOT_ID_INVALID",
		"the token's slot has gone", "look whether set-hsm tokens still lists the token", lossDevice},
	pkcs11.CKR_DEVICE_ERROR: {"CKR_DEVICE_ERROR",
		"the device has failed, or the connection to it", "check its power, network and log, then run set-hsm doctor", lossDevice},
	pkcs11.CKR_DEVICE_MEMORY: {"CKR_DEVICE_MEMORY",
		"the device has no room for another object or session", "delete unused keys with set-hsm keys delete, or stop other programs that use it", lossDevice},
	pkcs11.CKR_DEVICE_REMOVED: {"CKR_DEVICE_REMOVED",
		"the token was pulled out, or the connection to it ended", "put it back, and look whether set-hsm tokens lists it", lossDevice},
	pkcs11.CKR_TOKEN_NOT_PRESENT: {"CKR_TOKEN_NOT_PRESENT",
		"there is no token in the slot", "plug it in or start its service, and look whether set-hsm tokens lists it", lossDevice},
	pkcs11.CKR_TOKEN_NOT_RECOGNIZED: {"CKR_TOKEN_NOT_RECOGNIZED",
		"the library cannot read the token in the slot", "check with set-hsm tokens that module-path is the library for this kind of token", lossDevice},
	pkcs11.CKR_TOKEN_WRITE_PROTECTED: {"CKR_TOKEN_WRITE_PROTECTED",
		"the token cannot be written to", "lift the protection at the device; for SoftHSM check the owner and free space of directories.tokendir", lossNone},
	ckrTokenResourceExceeded: {"CKR_TOKEN_RESOURCE_EXCEEDED",
		"the token has more to do than it can", "stop other programs that use it, or raise its limit for this client", lossSession},
	pkcs11.CKR_FIPS_SELF_TEST_FAILED: {"CKR_FIPS_SELF_TEST_FAILED",
		"the token has failed its self-test and does nothing until it is reset", "restart the HSM, and call its vendor if it recurs", lossDevice},
	pkcs11.CKR_NO_EVENT: {"CKR_NO_EVENT",
		"no slot has changed", "list the tokens with set-hsm tokens", lossNone},
	pkcs11.CKR_RANDOM_SEED_NOT_SUPPORTED: {"CKR_RANDOM_SEED_NOT_SUPPORTED",
		"the token seeds its random number generator itself", "leave the call out", lossNone},
	pkcs11.CKR_RANDOM_NO_RNG: {"CKR_RANDOM_NO_RNG",
		"the token has no random number generator", "use another token: see set-hsm tokens", lossNone},

	// Sessions.
	pkcs11.CKR_SESSION_CLOSED: {"CKR_SESSION_CLOSED",
		"the session was closed during the call", "try again; if it recurs, look in the HSM's log for a session timeout", lossSession},
	pkcs11.CKR_SESSION_COUNT: {"CKR_SESSION_COUNT",
		"the token allows no more sessions", "stop other programs that use it, or raise the limit in the library's configuration", lossSession},
	pkcs11.CKR_SESSION_HANDLE_INVALID: {"CKR_SESSION_HANDLE_INVALID",
		"the session has gone, as after a restart of the device or the library", "try again; if it recurs, run set-hsm doctor", lossSession},
	pkcs11.CKR_SESSION_PARALLEL_NOT_SUPPORTED: {"CKR_SESSION_PARALLEL_NOT_SUPPORTED",
		"the session was asked for without CKF_SERIAL_SESSION", "ask for it with the flag", lossNone},
	pkcs11.CKR_SESSION_READ_ONLY: {"CKR_SESSION_READ_ONLY",
		"the session may read the token and not write to it", "check in the HSM's configuration that this client may write", lossNone},
	pkcs11.CKR_SESSION_EXISTS: {"CKR_SESSION_EXISTS",
		"the token must have no session open for this", "stop every program that uses it and do it again", lossNone},
	pkcs11.CKR_SESSION_READ_ONLY_EXISTS: {"CKR_SESSION_READ_ONLY_EXISTS",
		"the security officer cannot log in beside a read-only session of the same process", "do the officer's work in a process of its own, such as set-hsm init", lossNone},
	pkcs11.CKR_SESSION_READ_WRITE_SO_EXISTS: {"CKR_SESSION_READ_WRITE_SO_EXISTS",
		"the security officer is logged in, and then no session can be read-only", "wait until the officer's work, such as set-hsm init, has ended", lossNone},
	pkcs11.CKR_OPERATION_ACTIVE: {"CKR_OPERATION_ACTIVE",
		"an earlier call has left its operation pending in the session", "try again, in a new session", lossSession},
	pkcs11.CKR_OPERATION_NOT_INITIALIZED: {"CKR_OPERATION_NOT_INITIALIZED",
		"the token has forgotten the operation that was begun, as after a restart", "try again; if it recurs, look for restarts in the HSM's log", lossSession},
	ckrOperationCancelFailed: {"CKR_OPERATION_CANCEL_FAILED",
		"the token cannot stop the operation that was begun", "try again, in a new session", lossSession},
	pkcs11.CKR_STATE_UNSAVEABLE: {"CKR_STATE_UNSAVEABLE",
		"the operation that was begun cannot be saved", "do it again from its beginning", lossNone},
	pkcs11.CKR_SAVED_STATE_INVALID: {"CKR_SAVED_STATE_INVALID",
		"the saved operation is not one of this token", "do it again from its beginning", lossNone},
	pkcs11.CKR_KEY_NOT_NEEDED: {"CKR_KEY_NOT_NEEDED",
		"the saved operation needs no key, and one was given", "do it again from its beginning", lossNone},
	pkcs11.CKR_KEY_CHANGED: {"CKR_KEY_CHANGED",
		"the saved operation belongs to another key", "do it again from its beginning", lossNone},
	pkcs11.CKR_KEY_NEEDED: {"CKR_KEY_NEEDED",
		"the saved operation needs its key", "do it again from its beginning", lossNone},

	// Users and PINs.
	pkcs11.CKR_USER_NOT_LOGGED_IN: {"CKR_USER_NOT_LOGGED_IN",
		"the login was lost", "try again; if it recurs, check with set-hsm doctor that the login works", lossSession},
	pkcs11.CKR_USER_ALREADY_LOGGED_IN: {"CKR_USER_ALREADY_LOGGED_IN",
		"this process is logged in to the token already", "do it in a process of its own, such as set-hsm", lossNone},
	pkcs11.CKR_USER_ANOTHER_ALREADY_LOGGED_IN: {"CKR_USER_ANOTHER_ALREADY_LOGGED_IN",
		"this process is logged in to the token as the other of user and security officer", "do it in a process of its own, such as set-hsm", lossNone},
	pkcs11.CKR_USER_TOO_MANY_TYPES: {"CKR_USER_TOO_MANY_TYPES",
		"user and security officer cannot both be logged in to this token", "stop the other programs that use it", lossNone},
	pkcs11.CKR_USER_TYPE_INVALID: {"CKR_USER_TYPE_INVALID",
		"the token has no such user, or does not want its login now", "check with set-hsm tokens that the URI names the right token", lossNone},
	pkcs11.CKR_USER_PIN_NOT_INITIALIZED: {"CKR_USER_PIN_NOT_INITIALIZED",
		"the token has no user PIN yet", "the security officer sets one with set-hsm pin --so-pin-source", lossNone},
	pkcs11.CKR_PIN_INCORRECT: {"CKR_PIN_INCORRECT",
		"the PIN is wrong, and the token counts wrong PINs", "check the PIN source before another try; set-hsm tokens tells when the PIN is locked", lossNone},
	pkcs11.CKR_PIN_INVALID: {"CKR_PIN_INVALID",
		"the new PIN has a character that the token does not take", "choose a PIN of letters and digits", lossNone},
	pkcs11.CKR_PIN_LEN_RANGE: {"CKR_PIN_LEN_RANGE",
		"the PIN is too short or too long for the token", "check the PIN source for a cut or doubled line, or choose a PIN of another length", lossNone},
	pkcs11.CKR_PIN_EXPIRED: {"CKR_PIN_EXPIRED",
		"the PIN must be replaced before the token takes one again", "the security officer sets a new one with set-hsm pin --so-pin-source", lossNone},
	pkcs11.CKR_PIN_LOCKED: {"CKR_PIN_LOCKED",
		"the token has locked the PIN after too many wrong ones", "the security officer sets a new one with set-hsm pin --so-pin-source", lossNone},
	pkcs11.CKR_PIN_TOO_WEAK: {"CKR_PIN_TOO_WEAK",
		"the new PIN is too easy to guess for the token", "choose a longer one without a pattern", lossNone},
	pkcs11.CKR_NEW_PIN_MODE: {"CKR_NEW_PIN_MODE",
		"the one-time password device must be given a new PIN first", "do that with its vendor's tool", lossNone},
	pkcs11.CKR_NEXT_OTP: {"CKR_NEXT_OTP",
		"the one-time password device must show its next password first", "wait for it and log in again", lossNone},

	// Objects and their attributes.
	pkcs11.CKR_OBJECT_HANDLE_INVALID: {"CKR_OBJECT_HANDLE_INVALID",
		"the object was deleted, or the login that could see it has ended", "look whether set-hsm keys list still has it", lossSession},
	pkcs11.CKR_ATTRIBUTE_READ_ONLY: {"CKR_ATTRIBUTE_READ_ONLY",
		"the attribute was fixed when the object was made", "make a new key with set-hsm keys generate", lossNone},
	pkcs11.CKR_ATTRIBUTE_SENSITIVE: {"CKR_ATTRIBUTE_SENSITIVE",
		"the token never shows this value", "move the key with set-hsm wrap, if it was made wrappable", lossNone},
	pkcs11.CKR_ATTRIBUTE_TYPE_INVALID: {"CKR_ATTRIBUTE_TYPE_INVALID",
		"the token does not know this attribute, or not for this kind of object", "see with set-hsm doctor what the token lacks, and update its firmware or library", lossNone},
	pkcs11.CKR_ATTRIBUTE_VALUE_INVALID: {"CKR_ATTRIBUTE_VALUE_INVALID",
		"the token does not take the value of an attribute", "choose another label or key type, within the limits in the vendor's manual", lossNone},
	pkcs11.CKR_ACTION_PROHIBITED: {"CKR_ACTION_PROHIBITED",
		"the object was made so that this can never be done to it", "make a new key with set-hsm keys generate", lossNone},
	pkcs11.CKR_TEMPLATE_INCOMPLETE: {"CKR_TEMPLATE_INCOMPLETE",
		"the token wants an attribute that was not given", "see with set-hsm doctor which key types the token makes, and choose one", lossNone},
	pkcs11.CKR_TEMPLATE_INCONSISTENT: {"CKR_TEMPLATE_INCONSISTENT",
		"the token does not take these attributes together", "see with set-hsm doctor which key types the token makes, and choose one", lossNone},
	pkcs11.CKR_INFORMATION_SENSITIVE: {"CKR_INFORMATION_SENSITIVE",
		"the token never shows this value", "move the key with set-hsm wrap, if it was made wrappable", lossNone},
	pkcs11.CKR_DOMAIN_PARAMS_INVALID: {"CKR_DOMAIN_PARAMS_INVALID",
		"the token does not know these parameters, such as the curve", "choose a key type that set-hsm doctor shows as supported", lossNone},
	pkcs11.CKR_CURVE_NOT_SUPPORTED: {"CKR_CURVE_NOT_SUPPORTED",
		"the token does not have this curve", "choose a key type that set-hsm doctor shows as supported", lossNone},
	pkcs11.CKR_PUBLIC_KEY_INVALID: {"CKR_PUBLIC_KEY_INVALID",
		"the token finds the public key faulty", "get it again from its owner and compare its hash", lossNone},
	pkcs11.CKR_EXCEEDED_MAX_ITERATIONS: {"CKR_EXCEEDED_MAX_ITERATIONS",
		"the token found no suitable numbers in the tries that it gives itself", "do it again", lossNone},

	// Keys and what is done with them.
	pkcs11.CKR_KEY_HANDLE_INVALID: {"CKR_KEY_HANDLE_INVALID",
		"the key was deleted, or the session or login that knew it has ended", "look whether set-hsm keys list still has it", lossSession},
	pkcs11.CKR_KEY_SIZE_RANGE: {"CKR_KEY_SIZE_RANGE",
		"the token does not do this with a key of this size", "choose a key type that set-hsm doctor shows as supported", lossNone},
	pkcs11.CKR_KEY_TYPE_INCONSISTENT: {"CKR_KEY_TYPE_INCONSISTENT",
		"the mechanism needs a key of another type", "check with set-hsm keys show that it is the right key", lossNone},
	pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED: {"CKR_KEY_FUNCTION_NOT_PERMITTED",
		"the key was not made for this use", "see its purpose with set-hsm keys show, and generate a key with the one that is needed", lossNone},
	pkcs11.CKR_KEY_INDIGESTIBLE: {"CKR_KEY_INDIGESTIBLE",
		"the token does not hash the value of this key", "use a key made with set-hsm keys generate --purpose mac", lossNone},
	ckrKeyExhausted: {"CKR_KEY_EXHAUSTED",
		"the key has been used as often as it may be", "generate its successor with set-hsm keys generate", lossNone},
	pkcs11.CKR_MECHANISM_INVALID: {"CKR_MECHANISM_INVALID",
		"the token does not have this mechanism, or not for this key", "see with set-hsm doctor what it has, and choose another key type", lossNone},
	pkcs11.CKR_MECHANISM_PARAM_INVALID: {"CKR_MECHANISM_PARAM_INVALID",
		"the token does not take the mechanism's parameters, such as a digest or the length of a nonce", "see with set-hsm doctor what it has", lossNone},
	pkcs11.CKR_DATA_INVALID: {"CKR_DATA_INVALID",
		"the token cannot process this input with this key", "check with set-hsm keys show that it is the key the data were made for", lossNone},
	pkcs11.CKR_DATA_LEN_RANGE: {"CKR_DATA_LEN_RANGE",
		"the input is too long or too short for the key or the mechanism", "compare its length with the key's type in set-hsm keys show", lossNone},
	pkcs11.CKR_ENCRYPTED_DATA_INVALID: {"CKR_ENCRYPTED_DATA_INVALID",
		"the ciphertext was changed, or made for another key", "compare the public key in set-hsm keys show with the sender's", lossNone},
	pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE: {"CKR_ENCRYPTED_DATA_LEN_RANGE",
		"this key makes no ciphertext of this length", "check that it is whole, and compare the key in set-hsm keys show with the sender's", lossNone},
	ckrAEADDecryptFailed: {"CKR_AEAD_DECRYPT_FAILED",
		"the sealed data or what they are bound to were changed, or another key sealed them", "check with set-hsm keys show that it is the key that sealed them", lossNone},
	pkcs11.CKR_SIGNATURE_INVALID: {"CKR_SIGNATURE_INVALID",
		"the signature is not one of these data by this key", "compare the public key in set-hsm keys show with the signer's", lossNone},
	pkcs11.CKR_SIGNATURE_LEN_RANGE: {"CKR_SIGNATURE_LEN_RANGE",
		"this key makes no signature of this length", "check that it is whole, and compare the key in set-hsm keys show with the signer's", lossNone},

	// Wrapping.
	pkcs11.CKR_KEY_NOT_WRAPPABLE: {"CKR_KEY_NOT_WRAPPABLE",
		"the token does not wrap keys of this type, or not with this wrapping key", "wrap a key of another type, or with a key that the security officer has marked as trusted", lossNone},
	pkcs11.CKR_KEY_UNEXTRACTABLE: {"CKR_KEY_UNEXTRACTABLE",
		"the key was made never to leave the token", "if it needs a backup, make its successor with set-hsm keys generate --wrappable", lossNone},
	pkcs11.CKR_WRAPPED_KEY_INVALID: {"CKR_WRAPPED_KEY_INVALID",
		"the wrapped key was changed, or wrapped with another key", "compare the file with the one that set-hsm wrap wrote, and the unwrapping key with the wrapping one", lossNone},
	pkcs11.CKR_WRAPPED_KEY_LEN_RANGE: {"CKR_WRAPPED_KEY_LEN_RANGE",
		"no wrapped key has this length", "check that the file is whole: compare it with the one that set-hsm wrap wrote", lossNone},
	pkcs11.CKR_WRAPPING_KEY_HANDLE_INVALID: {"CKR_WRAPPING_KEY_HANDLE_INVALID",
		"the wrapping key was deleted, or the session or login that knew it has ended", "look whether set-hsm keys list still has it", lossSession},
	pkcs11.CKR_WRAPPING_KEY_SIZE_RANGE: {"CKR_WRAPPING_KEY_SIZE_RANGE",
		"the token does not wrap with a key of this size", "use a key made with set-hsm keys generate --purpose wrap --type aes-256", lossNone},
	pkcs11.CKR_WRAPPING_KEY_TYPE_INCONSISTENT: {"CKR_WRAPPING_KEY_TYPE_INCONSISTENT",
		"the mechanism wraps with a key of another type", "use a key made with set-hsm keys generate --purpose wrap --type aes-256", lossNone},
	pkcs11.CKR_UNWRAPPING_KEY_HANDLE_INVALID: {"CKR_UNWRAPPING_KEY_HANDLE_INVALID",
		"the unwrapping key was deleted, or the session or login that knew it has ended", "look whether set-hsm keys list still has it", lossSession},
	pkcs11.CKR_UNWRAPPING_KEY_SIZE_RANGE: {"CKR_UNWRAPPING_KEY_SIZE_RANGE",
		"the token does not unwrap with a key of this size", "check with set-hsm keys show that it is the key that pairs with the wrapping one", lossNone},
	pkcs11.CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT: {"CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT",
		"the mechanism unwraps with a key of another type", "check with set-hsm keys show that it is the key that pairs with the wrapping one", lossNone},
}

// explain returns what is known of a code. A vendor may have codes of its own.
func explain(code pkcs11.Error) ckr {
	if c, ok := codes[code]; ok {
		return c
	}
	c := ckr{name: codeName(code), cause: "PKCS#11 does not have this code", fix: "look it up in the vendor's manual"}
	if code >= pkcs11.CKR_VENDOR_DEFINED {
		c.cause = "this code is the vendor's own"
	}
	return c
}
