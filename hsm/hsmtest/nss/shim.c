// A PKCS#11 library that hands everything to NSS's softokn but for two functions. C_Initialize tells softokn
// where its database is, which a caller that knows only PKCS#11 cannot do. C_Finalize ends all sessions
// and leaves softokn as it is: the libraries below softokn exist once in a process, and would be shut down
// for every other database too. The compiler is given SOFTOKN, the library's path, and PARAMETERS, what
// softokn is told.
#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>

#define CKR_FUNCTION_FAILED 6UL
#define CKR_CRYPTOKI_NOT_INITIALIZED 0x190UL
#define CKR_CRYPTOKI_ALREADY_INITIALIZED 0x191UL
#define CKF_OS_LOCKING_OK 2UL

typedef unsigned long CK_RV;

// CK_FUNCTION_LIST of PKCS#11 2.40.
struct functions {
	unsigned char major, minor;
	void *f[68];
};

// The places of some functions in the list.
enum { C_Initialize = 0, C_Finalize = 1, C_CloseAllSessions = 14 };

typedef CK_RV (*initialize_function)(void *arguments);
typedef CK_RV (*close_function)(unsigned long slot);
typedef CK_RV (*list_function)(struct functions **list);

// CK_C_INITIALIZE_ARGS as NSS has it: the parameters stand in the place of pReserved.
struct arguments {
	void *mutex[4];
	unsigned long flags;
	const char *parameters;
	void *reserved;
};

static struct functions ours, *theirs;
static int begun, initialized;

static CK_RV initialize(void *ignored)
{
	struct arguments a = { .flags = CKF_OS_LOCKING_OK, .parameters = PARAMETERS };

	if (initialized)
		return CKR_CRYPTOKI_ALREADY_INITIALIZED;
	if (!begun) {
		CK_RV rv = ((initialize_function)theirs->f[C_Initialize])(&a);

		if (rv != 0)
			return rv;
	}
	begun = initialized = 1;
	return 0;
}

static CK_RV finalize(void *ignored)
{
	if (!initialized)
		return CKR_CRYPTOKI_NOT_INITIALIZED;
	for (unsigned long slot = 1; slot <= 2; slot++)
		((close_function)theirs->f[C_CloseAllSessions])(slot);
	initialized = 0;
	return 0;
}

CK_RV C_GetFunctionList(struct functions **list)
{
	if (theirs == NULL) {
		void *lib = dlopen(SOFTOKN, RTLD_NOW | RTLD_LOCAL);
		list_function get = lib == NULL ? NULL : (list_function)dlsym(lib, "C_GetFunctionList");

		if (get == NULL || get(&theirs) != 0)
			return CKR_FUNCTION_FAILED;
		ours = *theirs;
		ours.f[C_Initialize] = (void *)initialize;
		ours.f[C_Finalize] = (void *)finalize;
		// How often a PIN is hashed to decrypt a key, which is done at each use of one.
		setenv("NSS_MAX_MP_PBE_ITERATION_COUNT", "1", 0);
	}
	*list = &ours;
	return 0;
}
