package hsm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
)

// instances is a PKCS#11 library that gives the first caller another's functions, and every later one an
// instance that has not been initialised, as p11-kit's client does. With MISSING, two functions of the
// later ones are not there at all. With LIE, there is one instance, which tells the attribute LIE wrong.
const instances = `
#include <dlfcn.h>
#include <stddef.h>
struct functions { unsigned char major, minor; void *f[68]; };
static unsigned long not_initialised(void) { return 0x190; }
struct attribute { unsigned long type; unsigned char *value; unsigned long size; };
typedef unsigned long (*value_function)(unsigned long, unsigned long, struct attribute *, unsigned long);
static value_function true_value;
#ifdef LIE
static unsigned long lying_value(unsigned long session, unsigned long object, struct attribute *a, unsigned long n)
{
	unsigned long rv = true_value(session, object, a, n);
	for (unsigned long i = 0; rv == 0 && i < n; i++)
		if (a[i].type == LIE && a[i].value != NULL && a[i].size > 0 && a[i].size != -1UL)
			a[i].value[0] ^= 1;
	return rv;
}
#endif
unsigned long C_GetFunctionList(struct functions **list)
{
	static struct functions *first, other;
	if (first == NULL) {
		void *lib = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
		*list = NULL;
		if (((unsigned long (*)(struct functions **))dlsym(lib, "C_GetFunctionList"))(list) != 0)
			return 5;
		first = *list;
#ifndef LIE
		return 0;
#endif
	}
#ifdef LIE
	true_value = (value_function)first->f[24];
	other = *first;
	other.f[24] = (void *)lying_value;
	*list = &other;
	return 0;
#endif
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

// A token that ignored what it was asked for, or says so, has its key taken away again.
func TestTokenThatTellsAttributesWrong(t *testing.T) {
	t.Parallel()
	for name, attribute := range map[string]uint{
		"CKA_PRIVATE": pkcs11.CKA_PRIVATE, "CKA_SENSITIVE": pkcs11.CKA_SENSITIVE, "CKA_EXTRACTABLE": pkcs11.CKA_EXTRACTABLE,
		"CKA_ALWAYS_SENSITIVE": pkcs11.CKA_ALWAYS_SENSITIVE, "CKA_NEVER_EXTRACTABLE": pkcs11.CKA_NEVER_EXTRACTABLE,
		"CKA_ID": pkcs11.CKA_ID, "type": pkcs11.CKA_VALUE_LEN, "usages": pkcs11.CKA_WRAP,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tok := throughInstances(t, "-DLIE="+strconv.Itoa(int(attribute)))
			for typ, purpose := range map[hsm.KeyType]hsm.Purpose{hsm.AES256: hsm.PurposeSeal, hsm.ECP256: hsm.PurposeSign} {
				if typ == hsm.ECP256 && (name == "type" || name == "usages") {
					continue // a private key has no such attribute
				}
				_, err := tok.GenerateKey(t.Context(), "k", purpose, typ)
				if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "not kept") {
					t.Errorf("%s: %v, want a refusal that names %s", typ, err, name)
				}
			}
			if n := objects(t, tok); n != 0 {
				t.Errorf("%d objects are left", n)
			}
		})
	}
	tok := throughInstances(t, "-DLIE="+strconv.Itoa(pkcs11.CKA_VALUE))
	want := newIssuer(t).issue(t, "c", newIssuer(t).key.Public())
	if _, err := tok.ImportCertificate(t.Context(), "c", want); err == nil || !strings.Contains(err.Error(), "stored it differently") {
		t.Errorf("a certificate that comes back changed: %v, want a refusal", err)
	}
	if n := objects(t, tok); n != 0 {
		t.Errorf("%d objects are left", n)
	}
}
