package hsm

/*
#cgo linux LDFLAGS: -ldl
#include <dlfcn.h>
#include <stddef.h>

typedef unsigned long (*function)();

// CK_FUNCTION_LIST of PKCS#11 2.40.
struct functions {
	unsigned char major, minor;
	function f[68];
};

enum { C_Encrypt = 30 }; // its place in the list

static struct functions *functions_of(const char *path)
{
	struct functions *list = NULL;
	void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
	function get = lib == NULL ? NULL : (function)dlsym(lib, "C_GetFunctionList");

	if (get == NULL || get(&list) != 0)
		return NULL;
	return list;
}

static unsigned long encrypt(struct functions *list, unsigned long session,
	void *in, unsigned long in_size, void *out, unsigned long *out_size)
{
	return list->f[C_Encrypt](session, in, in_size, out, out_size);
}
*/
import "C"

import (
	"fmt"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// direct is a library's functions as they are. The pkcs11 package asks before each call how long the
// result will be; NSS answers that for AES-GCM without counting the tag, and then finds the buffer too
// short. Where the length is known, nobody has to ask.
type direct struct{ list *C.struct_functions }

// directly returns the functions of a library that is loaded.
func directly(path string) (direct, error) {
	name := append([]byte(path), 0)
	list := C.functions_of((*C.char)(unsafe.Pointer(&name[0])))
	if list == nil {
		return direct{}, fmt.Errorf("%s has no list of functions: %w", path, ErrUnavailable)
	}
	return direct{list}, nil
}

// encrypt calls C_Encrypt with room for size bytes.
func (d direct) encrypt(sh pkcs11.SessionHandle, plaintext []byte, size int) ([]byte, error) {
	out, n := make([]byte, size), C.ulong(size)
	rv := C.encrypt(d.list, C.ulong(sh), unsafe.Pointer(unsafe.SliceData(plaintext)), C.ulong(len(plaintext)),
		unsafe.Pointer(unsafe.SliceData(out)), &n)
	if rv != pkcs11.CKR_OK {
		return nil, named("C_Encrypt", pkcs11.Error(rv))
	}
	if n > C.ulong(size) {
		return nil, fmt.Errorf("C_Encrypt wrote %d bytes into a buffer of %d", n, size)
	}
	return out[:n], nil
}
