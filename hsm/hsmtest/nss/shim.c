// A PKCS#11 library that hands everything to NSS's softokn, except that C_Initialize tells softokn
// where its database is, which a caller that knows only PKCS#11 cannot do. The compiler is given
// SOFTOKN, the library's path, and PARAMETERS, what softokn is told.
#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>

#define CKR_FUNCTION_FAILED 6UL
#define CKF_OS_LOCKING_OK 2UL

typedef unsigned long CK_RV;
typedef CK_RV (*function)();

// CK_FUNCTION_LIST of PKCS#11 2.40; C_Initialize comes first.
struct functions {
	unsigned char major, minor;
	function f[68];
};

// CK_C_INITIALIZE_ARGS as NSS has it: the parameters stand in the place of pReserved.
struct arguments {
	function mutex[4];
	unsigned long flags;
	const char *parameters;
	void *reserved;
};

static struct functions ours;
static function initialize;

static CK_RV initialize_with_parameters(void *ignored)
{
	struct arguments a = { .flags = CKF_OS_LOCKING_OK, .parameters = PARAMETERS };

	return initialize(&a);
}

CK_RV C_GetFunctionList(struct functions **list)
{
	if (initialize == NULL) {
		struct functions *theirs;

		// How often a PIN is hashed to encrypt a key: each use of a key does it again.
		setenv("NSS_MAX_MP_PBE_ITERATION_COUNT", "1", 0);
		void *lib = dlopen(SOFTOKN, RTLD_NOW | RTLD_LOCAL);
		function get = lib == NULL ? NULL : (function)dlsym(lib, "C_GetFunctionList");

		if (get == NULL || get(&theirs) != 0)
			return CKR_FUNCTION_FAILED;
		ours = *theirs;
		initialize = ours.f[0];
		ours.f[0] = (function)initialize_with_parameters;
	}
	*list = &ours;
	return 0;
}
