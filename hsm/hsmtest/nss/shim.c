// A PKCS#11 library that hands everything to NSS's softokn, except that C_Initialize tells softokn
// where its database is, which a caller that knows only PKCS#11 cannot do. The compiler is given
// SOFTOKN, the library's path, and PARAMETERS, what softokn is told.
#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>

#define CKR_FUNCTION_FAILED 6UL
#define CKF_OS_LOCKING_OK 2UL

typedef unsigned long CK_RV;

// CK_FUNCTION_LIST of PKCS#11 2.40; C_Initialize comes first.
struct functions {
	unsigned char major, minor;
	void *f[68];
};

typedef CK_RV (*initialize_function)(void *arguments);
typedef CK_RV (*list_function)(struct functions **list);

// CK_C_INITIALIZE_ARGS as NSS has it: the parameters stand in the place of pReserved.
struct arguments {
	void *mutex[4];
	unsigned long flags;
	const char *parameters;
	void *reserved;
};

static struct functions ours;
static initialize_function initialize;

static CK_RV initialize_with_parameters(void *ignored)
{
	struct arguments a = { .flags = CKF_OS_LOCKING_OK, .parameters = PARAMETERS };

	return initialize(&a);
}

CK_RV C_GetFunctionList(struct functions **list)
{
	if (initialize == NULL) {
		struct functions *theirs;
		void *lib = dlopen(SOFTOKN, RTLD_NOW | RTLD_LOCAL);
		list_function get = lib == NULL ? NULL : (list_function)dlsym(lib, "C_GetFunctionList");

		if (get == NULL || get(&theirs) != 0)
			return CKR_FUNCTION_FAILED;
		ours = *theirs;
		initialize = (initialize_function)ours.f[0];
		ours.f[0] = (void *)initialize_with_parameters;
		// How often a PIN is hashed to decrypt a key, which is done at each use of one.
		setenv("NSS_MAX_MP_PBE_ITERATION_COUNT", "1", 0);
	}
	*list = &ours;
	return 0;
}
