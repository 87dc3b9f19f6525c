package hsm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
)

// instances is a PKCS#11 library that gives the first caller another's functions, and every later one an
// instance that has not been initialised, as p11-kit's client does. With MISSING, two functions of the
// later ones are not there at all.
const instances = `
#include <dlfcn.h>
#include <stddef.h>
struct functions { unsigned char major, minor; void *f[68]; };
static unsigned long not_initialised(void) { return 0x190; }
unsigned long C_GetFunctionList(struct functions **list)
{
	static struct functions *first, other;
	if (first == NULL) {
		void *lib = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
		*list = NULL;
		return ((unsigned long (*)(struct functions **))dlsym(lib, "C_GetFunctionList"))(list) || (first = *list, 0);
	}
	other = *first;
	for (int i = 0; i < 68; i++)
		other.f[i] = (void *)not_initialised;
#ifdef MISSING
	other.f[30] = other.f[60] = NULL;
#endif
	*list = &other;
	return 0;
}
`

// throughInstances opens a token through such a library.
func throughInstances(t *testing.T, flags ...string) *hsm.Token {
	t.Helper()
	tk := hsmtest.New(t)
	// A copy of SoftHSM has a state of its own, and is not the one that the other tests use.
	lib, err := os.ReadFile(tk.ModulePath)
	if err != nil {
		t.Fatal(err)
	}
	path, real := filepath.Join(t.TempDir(), "instances.so"), filepath.Join(t.TempDir(), "real.so")
	if err := os.WriteFile(real, lib, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cc", append(flags, "-shared", "-fPIC", "-o", path, "-DREAL="+strconv.Quote(real), "-xc", "-", "-ldl")...)
	cmd.Stdin = strings.NewReader(instances)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	uri := parse(t, tk.URI)
	uri.ModulePath = path
	tk.URI = uri.String()
	return tk.Open(t)
}

func TestLibraryWithInstances(t *testing.T) {
	t.Parallel()
	tok := throughInstances(t)
	generate(t, tok, "seal", hsm.PurposeSeal, hsm.AES256)
	key, err := tok.Sealer(t.Context(), "seal")
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := key.Seal([]byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := key.Open(sealed, nil); err != nil || string(got) != "x" {
		t.Errorf("opened %q, %v; want x", got, err)
	}
	generate(t, tok, "kek", hsm.PurposeWrap, hsm.AES256)
	generateWrappable(t, tok, "ec", hsm.PurposeSign, hsm.ECP256)
	if _, err := tok.Wrap(t.Context(), "ec", "kek"); err != nil {
		t.Error(err)
	}
}

func TestLibraryWithoutAFunction(t *testing.T) {
	t.Parallel()
	tok := throughInstances(t, "-DMISSING")
	generate(t, tok, "kek", hsm.PurposeWrap, hsm.AES256)
	generateWrappable(t, tok, "ec", hsm.PurposeSign, hsm.ECP256)
	_, err := tok.Wrap(t.Context(), "ec", "kek")
	if err == nil || !strings.Contains(err.Error(), "C_WrapKey: CKR_FUNCTION_NOT_SUPPORTED") {
		t.Errorf("wrapping without C_WrapKey: %v, want CKR_FUNCTION_NOT_SUPPORTED", err)
	}
}
