package hsm

/*
#cgo linux LDFLAGS: -ldl
#include <dlfcn.h>
#include <stddef.h>

typedef unsigned long number;
typedef unsigned char bytes;

struct mechanism {
	number type;
	void *parameter;
	number parameter_size;
};

// CK_FUNCTION_LIST of PKCS#11 2.40.
struct functions {
	bytes major, minor;
	void *f[68];
};

typedef number (*get_functions)(struct functions **list);
typedef number (*encrypt_function)(number session, bytes *in, number in_size, bytes *out, number *out_size);
typedef number (*wrap_function)(number session, struct mechanism *m, number with, number key, bytes *out, number *out_size);

enum { C_Encrypt = 30, C_WrapKey = 60 }; // their places in the list
enum { CKR_FUNCTION_NOT_SUPPORTED = 0x54 };

// The handle of the library is kept: it is never unloaded.
static struct functions *functions_of(const char *path)
{
	struct functions *list = NULL;
	void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
	get_functions get = lib == NULL ? NULL : (get_functions)dlsym(lib, "C_GetFunctionList");

	if (get == NULL || get(&list) != 0)
		return NULL;
	return list;
}

static number encrypt(struct functions *list, number session, bytes *in, number in_size, bytes *out, number *out_size)
{
	encrypt_function f = (encrypt_function)list->f[C_Encrypt];

	return f == NULL ? CKR_FUNCTION_NOT_SUPPORTED : f(session, in, in_size, out, out_size);
}

static number wrap(struct functions *list, number session, number mechanism, number with, number key, bytes *out, number *out_size)
{
	struct mechanism m = { mechanism, NULL, 0 };
	wrap_function f = (wrap_function)list->f[C_WrapKey];

	return f == NULL ? CKR_FUNCTION_NOT_SUPPORTED : f(session, &m, with, key, out, out_size);
}
*/
import "C"

import (
	"fmt"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// direct is a library's functions as they are. The pkcs11 package asks before each call how long the
// result will be; NSS answers that for AES-GCM without counting the tag, and for a wrapped private key
// with much too little, and then finds the buffer too short. Where a bound is known, nobody has to ask.
//
// Some libraries, such as p11-kit's client, give everybody who asks an instance of their own. Ours is then
// one that nobody has initialised, and the pkcs11 package's is used after all.
type direct struct {
	list *C.struct_functions
	lib  *pkcs11.Ctx
}

// directly returns the functions of the library at path, which lib has loaded.
func directly(lib *pkcs11.Ctx, path string) (direct, error) {
	name := append([]byte(path), 0)
	list := C.functions_of((*C.char)(unsafe.Pointer(&name[0])))
	if list == nil {
		return direct{}, fmt.Errorf("%s has no list of functions: %w", path, ErrUnavailable)
	}
	return direct{list, lib}, nil
}

// encrypt calls C_Encrypt, whose result has at most size bytes.
func (d direct) encrypt(sh pkcs11.SessionHandle, plaintext []byte, size int) ([]byte, error) {
	out, n := make([]byte, size), C.number(size)
	rv := C.encrypt(d.list, C.number(sh), cBytes(plaintext), C.number(len(plaintext)), cBytes(out), &n)
	if rv == pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED {
		sealed, err := d.lib.Encrypt(sh, plaintext)
		return sealed, named("C_Encrypt", err)
	}
	return result("C_Encrypt", rv, out, n)
}

// wrap calls C_WrapKey with a mechanism without parameters. The result has at most size bytes.
func (d direct) wrap(sh pkcs11.SessionHandle, with, key pkcs11.ObjectHandle, code uint, size int) ([]byte, error) {
	out, n := make([]byte, size), C.number(size)
	rv := C.wrap(d.list, C.number(sh), C.number(code), C.number(with), C.number(key), cBytes(out), &n)
	if rv == pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED {
		wrapped, err := d.lib.WrapKey(sh, mechanism(code, nil), with, key)
		return wrapped, named("C_WrapKey", err)
	}
	return result("C_WrapKey", rv, out, n)
}

func cBytes(b []byte) *C.bytes { return (*C.bytes)(unsafe.Pointer(unsafe.SliceData(b))) }

func result(function string, rv C.number, out []byte, n C.number) ([]byte, error) {
	if rv != pkcs11.CKR_OK {
		return nil, named(function, pkcs11.Error(rv))
	}
	if n > C.number(len(out)) {
		return nil, fmt.Errorf("%s wrote %d bytes into a buffer of %d", function, n, len(out))
	}
	return out[:n], nil
}
