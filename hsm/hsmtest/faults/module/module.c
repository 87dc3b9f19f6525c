// A PKCS#11 2.40 module that passes every call on to another one, except what it is told to spoil.
//
// It is told through a file beside the shared object, named like it with ".control" after the name,
// which both sides map into memory: struct control here, type control in faults.go. Every word of
// it is 64 bits wide and only read and written atomically.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long ulong;
typedef unsigned char byte;
typedef _Atomic unsigned long long word;

_Static_assert(sizeof(word) == 8, "a word of the control file is 64 bits wide");

enum {
	OK = 0,
	GENERAL_ERROR = 0x05,
	DEVICE_REMOVED = 0x32,
	TOKEN_NOT_PRESENT = 0xE0,
	CRYPTOKI_ALREADY_INITIALIZED = 0x191,

	SERIAL_SESSION = 4,
	TOKEN_PRESENT = 1,
	SLOT_INFO_FLAGS = 96, // offset of the flags in CK_SLOT_INFO

	SLOTS_MAX = 1024,
	SESSIONS_MAX = 4096,
	LOGIN_RESULTS_MAX = 16,
	PATH_BYTES = 1024,
};

// The functions of PKCS#11 2.40 but C_GetFunctionList, in the order of CK_FUNCTION_LIST: name,
// parameters, arguments, and what the module does when the real function has returned rv. Pointers to
// structures are void pointers here, because the module does not look into them.
#define BEFORE_GET_FUNCTION_LIST(X) \
	X(C_Initialize, (void *a), (a), initialized(rv)) \
	X(C_Finalize, (void *a), (a), finalized(rv)) \
	X(C_GetInfo, (void *a), (a), )
#define AFTER_GET_FUNCTION_LIST(X) \
	X(C_GetSlotList, (byte p, ulong *l, ulong *n), (p, l, n), rv = slots_listed(rv, n)) \
	X(C_GetSlotInfo, (ulong s, void *i), (s, i), slot_told(rv, i)) \
	X(C_GetTokenInfo, (ulong s, void *i), (s, i), ) \
	X(C_GetMechanismList, (ulong s, ulong *l, ulong *n), (s, l, n), ) \
	X(C_GetMechanismInfo, (ulong s, ulong m, void *i), (s, m, i), ) \
	X(C_InitToken, (ulong s, byte *p, ulong n, byte *l), (s, p, n, l), ) \
	X(C_InitPIN, (ulong s, byte *p, ulong n), (s, p, n), ) \
	X(C_SetPIN, (ulong s, byte *o, ulong on, byte *p, ulong pn), (s, o, on, p, pn), ) \
	X(C_OpenSession, (ulong s, ulong g, void *a, void *c, ulong *h), (s, g, a, c, h), opened(rv, s, h)) \
	X(C_CloseSession, (ulong s), (s), closed(rv, s)) \
	X(C_CloseAllSessions, (ulong s), (s), closed_all(rv, s)) \
	X(C_GetSessionInfo, (ulong s, void *i), (s, i), ) \
	X(C_GetOperationState, (ulong s, byte *o, ulong *n), (s, o, n), ) \
	X(C_SetOperationState, (ulong s, byte *o, ulong n, ulong e, ulong a), (s, o, n, e, a), ) \
	X(C_Login, (ulong s, ulong u, byte *p, ulong n), (s, u, p, n), logged_in(rv)) \
	X(C_Logout, (ulong s), (s), ) \
	X(C_CreateObject, (ulong s, void *t, ulong n, ulong *o), (s, t, n, o), ) \
	X(C_CopyObject, (ulong s, ulong h, void *t, ulong n, ulong *o), (s, h, t, n, o), ) \
	X(C_DestroyObject, (ulong s, ulong h), (s, h), ) \
	X(C_GetObjectSize, (ulong s, ulong h, ulong *n), (s, h, n), ) \
	X(C_GetAttributeValue, (ulong s, ulong h, void *t, ulong n), (s, h, t, n), ) \
	X(C_SetAttributeValue, (ulong s, ulong h, void *t, ulong n), (s, h, t, n), ) \
	X(C_FindObjectsInit, (ulong s, void *t, ulong n), (s, t, n), ) \
	X(C_FindObjects, (ulong s, ulong *o, ulong m, ulong *n), (s, o, m, n), ) \
	X(C_FindObjectsFinal, (ulong s), (s), ) \
	X(C_EncryptInit, (ulong s, void *m, ulong k), (s, m, k), ) \
	X(C_Encrypt, (ulong s, byte *d, ulong dn, byte *o, ulong *on), (s, d, dn, o, on), corrupt(f, rv, o, on)) \
	X(C_EncryptUpdate, (ulong s, byte *d, ulong dn, byte *o, ulong *on), (s, d, dn, o, on), corrupt(f, rv, o, on)) \
	X(C_EncryptFinal, (ulong s, byte *o, ulong *on), (s, o, on), corrupt(f, rv, o, on)) \
	X(C_DecryptInit, (ulong s, void *m, ulong k), (s, m, k), ) \
	X(C_Decrypt, (ulong s, byte *d, ulong dn, byte *o, ulong *on), (s, d, dn, o, on), corrupt(f, rv, o, on)) \
	X(C_DecryptUpdate, (ulong s, byte *d, ulong dn, byte *o, ulong *on), (s, d, dn, o, on), corrupt(f, rv, o, on)) \
	X(C_DecryptFinal, (ulong s, byte *o, ulong *on), (s, o, on), corrupt(f, rv, o, on)) \
	X(C_DigestInit, (ulong s, void *m), (s, m), ) \
	X(C_Digest, (ulong s, byte *d, ulong dn, byte *o, ulong *on), (s, d, dn, o, on), corrupt(f, rv, o, on)) \
	X(C_DigestUpdate, (ulong s, byte *d, ulong dn), (s, d, dn), ) \
	X(C_DigestKey, (ulong s, ulong k), (s, k), ) \
	X(C_DigestFinal, (ulong s, byte *o, ulong *on), (s, o, on), corrupt(f, rv, o, on)) \
	X(C_SignInit, (ulong s, void *m, ulong k), (s, m, k), ) \
	X(C_Sign, (ulong s, byte *d, ulong dn, byte *o, ulong *on), (s, d, dn, o, on), corrupt(f, rv, o, on)) \
	X(C_SignUpdate, (ulong s, byte *d, ulong dn), (s, d, dn), ) \
	X(C_SignFinal, (ulong s, byte *o, ulong *on), (s, o, on), corrupt(f, rv, o, on)) \
	X(C_SignRecoverInit, (ulong s, void *m, ulong k), (s, m, k), ) \
	X(C_SignRecover, (ulong s, byte *d, ulong dn, byte *o, ulong *on), (s, d, dn, o, on), corrupt(f, rv, o, on)) \
	X(C_VerifyInit, (ulong s, void *m, ulong k), (s, m, k), ) \
	X(C_Verify, (ulong s, byte *d, ulong dn, byte *g, ulong gn), (s, d, dn, g, gn), ) \
	X(C_VerifyUpdate, (ulong s, byte *d, ulong dn), (s, d, dn), ) \
	X(C_VerifyFinal, (ulong s, byte *g, ulong gn), (s, g, gn), ) \
	X(C_VerifyRecoverInit, (ulong s, void *m, ulong k), (s, m, k), ) \
	X(C_VerifyRecover, (ulong s, byte *d, ulong dn, byte *o, ulong *on), (s, d, dn, o, on), ) \
	X(C_DigestEncryptUpdate, (ulong s, byte *d, ulong dn, byte *o, ulong *on), (s, d, dn, o, on), ) \
	X(C_DecryptDigestUpdate, (ulong s, byte *d, ulong dn, byte *o, ulong *on), (s, d, dn, o, on), ) \
	X(C_SignEncryptUpdate, (ulong s, byte *d, ulong dn, byte *o, ulong *on), (s, d, dn, o, on), ) \
	X(C_DecryptVerifyUpdate, (ulong s, byte *d, ulong dn, byte *o, ulong *on), (s, d, dn, o, on), ) \
	X(C_GenerateKey, (ulong s, void *m, void *t, ulong n, ulong *k), (s, m, t, n, k), ) \
	X(C_GenerateKeyPair, (ulong s, void *m, void *u, ulong un, void *r, ulong rn, ulong *uk, ulong *rk), \
		(s, m, u, un, r, rn, uk, rk), ) \
	X(C_WrapKey, (ulong s, void *m, ulong w, ulong k, byte *o, ulong *on), (s, m, w, k, o, on), corrupt(f, rv, o, on)) \
	X(C_UnwrapKey, (ulong s, void *m, ulong w, byte *d, ulong dn, void *t, ulong n, ulong *k), \
		(s, m, w, d, dn, t, n, k), ) \
	X(C_DeriveKey, (ulong s, void *m, ulong b, void *t, ulong n, ulong *k), (s, m, b, t, n, k), ) \
	X(C_SeedRandom, (ulong s, byte *d, ulong n), (s, d, n), ) \
	X(C_GenerateRandom, (ulong s, byte *d, ulong n), (s, d, n), ) \
	X(C_GetFunctionStatus, (ulong s), (s), ) \
	X(C_CancelFunction, (ulong s), (s), ) \
	X(C_WaitForSlotEvent, (ulong g, ulong *s, void *r), (g, s, r), )

enum function {
#define X(name, params, args, then) name##_,
	BEFORE_GET_FUNCTION_LIST(X) AFTER_GET_FUNCTION_LIST(X)
#undef X
	FUNCTIONS
};

struct list {
	byte version[2];
#define X(name, params, args, then) ulong(*name) params;
	BEFORE_GET_FUNCTION_LIST(X)
	ulong (*C_GetFunctionList)(struct list **);
	AFTER_GET_FUNCTION_LIST(X)
#undef X
};

// A rule is one word: code << 32 | kind << 30 | value.
enum { NEVER, TIMES, ALWAYS, RATE }; // for TIMES the value counts down; for RATE it is in units of 2^-30

struct control {
	word size; // of this structure: both sides must mean the same
	char real[PATH_BYTES]; // the real module
	char variable[PATH_BYTES], value[PATH_BYTES]; // what it finds in its environment
	word seed, draws;
	word todo;   // bits of enum todo
	word pulled; // not 0: there is no token
	word single; // not 0: one call at a time is let into the real module
	word in_flight, in_flight_max;
	word sessions; // open now
	word overlaps; // calls that ended sessions or the library while other calls were inside
	word faults;
	struct { word code_plus_1, calls; } logins[LOGIN_RESULTS_MAX]; // by result of the real function
	struct {
		word calls, inside;
		word hang;         // not 0: calls wait until it is 0
		word slow_ns;
		word before, after, corrupt; // rules
	} functions[FUNCTIONS];
};

// What the next call does before anything else, while no call is inside the real module.
enum todo { CLOSE_SESSIONS = 1, CLOSE_SOME = 2, LOG_OUT = 4, FINALIZE = 8, PULL = 16 };

static struct control *control;
static struct list *real;

// inside is held for reading by every call in the real module and for writing by what must be alone.
static pthread_rwlock_t inside;
static pthread_mutex_t sessions_lock = PTHREAD_MUTEX_INITIALIZER;
static struct { ulong handle, slot; } sessions[SESSIONS_MAX]; // under sessions_lock; their number is control->sessions
static _Atomic int is_initialized;

static void sleep_ns(unsigned long long ns) {
	struct timespec t = {ns / 1000000000, ns % 1000000000};
	while (nanosleep(&t, &t) != 0 && errno == EINTR) {
	}
}

// draw_random is splitmix64 over a counter: the n-th draw of a seed is always the same.
static unsigned long long draw_random(void) {
	unsigned long long z = control->seed + (control->draws++ + 1) * 0x9E3779B97F4A7C15ull;
	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
	z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
	return z ^ (z >> 31);
}

// applies reports whether the rule hits this call, and counts the fault.
static int applies(word *rule, ulong *code) {
	unsigned long long w = *rule, value;
	for (;;) {
		value = w & 0x3FFFFFFF;
		switch (w >> 30 & 3) {
		case NEVER:
			return 0;
		case RATE:
			if (draw_random() >> 34 >= value)
				return 0;
			break;
		case TIMES:
			if (!atomic_compare_exchange_weak(rule, &w, value > 1 ? w - 1 : 0))
				continue;
		}
		*code = w >> 32;
		control->faults++;
		return 1;
	}
}

static void forget(int i) { // the caller holds sessions_lock
	sessions[i] = sessions[--control->sessions];
}

static void forget_slot(ulong slot, int every_slot) {
	pthread_mutex_lock(&sessions_lock);
	for (int i = (int)control->sessions; --i >= 0;)
		if (every_slot || sessions[i].slot == slot)
			forget(i);
	pthread_mutex_unlock(&sessions_lock);
}

static void opened(ulong rv, ulong slot, ulong *handle) {
	if (rv != OK)
		return;
	pthread_mutex_lock(&sessions_lock);
	if (control->sessions < SESSIONS_MAX) {
		int i = control->sessions++;
		sessions[i].handle = *handle;
		sessions[i].slot = slot;
	}
	pthread_mutex_unlock(&sessions_lock);
}

static void closed(ulong rv, ulong handle) {
	if (rv != OK)
		return;
	pthread_mutex_lock(&sessions_lock);
	for (int i = (int)control->sessions; --i >= 0;)
		if (sessions[i].handle == handle) {
			forget(i);
			break;
		}
	pthread_mutex_unlock(&sessions_lock);
}

static void closed_all(ulong rv, ulong slot) {
	if (rv == OK)
		forget_slot(slot, 0);
}

static void initialized(ulong rv) {
	if (rv == OK || rv == CRYPTOKI_ALREADY_INITIALIZED)
		is_initialized = 1;
}

static void finalized(ulong rv) {
	if (rv != OK)
		return;
	is_initialized = 0;
	forget_slot(0, 1);
}

static void logged_in(ulong rv) {
	for (int i = 0; i < LOGIN_RESULTS_MAX; i++) {
		unsigned long long seen = 0;
		if (atomic_compare_exchange_strong(&control->logins[i].code_plus_1, &seen, rv + 1) || seen == rv + 1) {
			control->logins[i].calls++;
			return;
		}
	}
}

static ulong slots_listed(ulong rv, ulong *count) {
	if (!control->pulled || !is_initialized || count == NULL)
		return rv;
	*count = 0;
	return OK;
}

static void slot_told(ulong rv, void *info) {
	ulong flags;
	if (rv != OK || !control->pulled)
		return;
	memcpy(&flags, (byte *)info + SLOT_INFO_FLAGS, sizeof flags);
	flags &= ~(ulong)TOKEN_PRESENT;
	memcpy((byte *)info + SLOT_INFO_FLAGS, &flags, sizeof flags);
}

static void corrupt(enum function f, ulong rv, byte *out, ulong *count) {
	ulong code;
	if (rv == OK && out != NULL && *count > 0 && applies(&control->functions[f].corrupt, &code))
		out[*count - 1] ^= 1;
}

// The todos. The caller holds inside for writing. Each returns whether it changed anything.

static int close_some(void) {
	int n = 0;
	pthread_mutex_lock(&sessions_lock);
	for (int i = (int)control->sessions - 1; i >= 0; i -= 2) {
		n += real->C_CloseSession(sessions[i].handle) == OK;
		forget(i);
	}
	pthread_mutex_unlock(&sessions_lock);
	return n > 0;
}

static int on_every_slot(int (*f)(ulong slot)) {
	ulong slots[SLOTS_MAX], n = SLOTS_MAX;
	int changed = 0;
	if (real->C_GetSlotList(1, slots, &n) != OK)
		return 0;
	for (ulong i = 0; i < n; i++)
		changed |= f(slots[i]);
	return changed;
}

static int close_slot(ulong slot) {
	unsigned long long n = control->sessions;
	closed_all(real->C_CloseAllSessions(slot), slot);
	return n != control->sessions;
}

static int log_out(ulong slot) {
	ulong session;
	if (real->C_OpenSession(slot, SERIAL_SESSION, NULL, NULL, &session) != OK)
		return 0;
	int changed = real->C_Logout(session) == OK;
	real->C_CloseSession(session);
	return changed;
}

static int finalize(void) {
	ulong rv = real->C_Finalize(NULL);
	finalized(rv);
	return rv == OK;
}

static void do_todo(void) {
	pthread_rwlock_wrlock(&inside);
	unsigned long long todo = control->todo;
	if (todo & CLOSE_SESSIONS)
		control->faults += on_every_slot(close_slot);
	if (todo & CLOSE_SOME)
		control->faults += close_some();
	if (todo & LOG_OUT)
		control->faults += on_every_slot(log_out);
	if (todo & FINALIZE)
		control->faults += finalize();
	if (todo & PULL) {
		on_every_slot(close_slot);
		control->faults++;
	}
	// Only now, so that every call that begins meanwhile waits for the lock above.
	atomic_fetch_and(&control->todo, ~todo);
	pthread_rwlock_unlock(&inside);
}

static int is_alone(enum function f) {
	return f == C_Initialize_ || f == C_Finalize_ || f == C_CloseAllSessions_;
}

static void count_overlap(enum function f) {
	if (f != C_Initialize_ && control->in_flight > 1)
		control->overlaps++;
}

// pulled_out is what the function answers when there is no token.
static ulong pulled_out(enum function f) {
	switch (f) {
	case C_Initialize_: case C_Finalize_: case C_GetInfo_: case C_GetSlotList_: case C_GetSlotInfo_:
	case C_WaitForSlotEvent_:
		return OK;
	case C_GetTokenInfo_: case C_GetMechanismList_: case C_GetMechanismInfo_: case C_InitToken_:
	case C_OpenSession_: case C_CloseAllSessions_:
		return TOKEN_NOT_PRESENT;
	default:
		return DEVICE_REMOVED;
	}
}

static void left(enum function f) {
	control->functions[f].inside--;
	control->in_flight--;
}

// enter does what comes before the real function. If it returns OK, the caller calls the real
// function and then leave; otherwise the call has ended with that code.
static ulong enter(enum function f) {
	ulong code = OK;
	control->functions[f].calls++;
	control->functions[f].inside++;
	unsigned long long n = ++control->in_flight, max = control->in_flight_max;
	while (n > max && !atomic_compare_exchange_weak(&control->in_flight_max, &max, n)) {
	}
	if (control->functions[f].hang) {
		control->faults++;
		while (control->functions[f].hang)
			sleep_ns(1000000);
	}
	if (control->functions[f].slow_ns)
		sleep_ns(control->functions[f].slow_ns);
	if (control->todo)
		do_todo();
	if (applies(&control->functions[f].before, &code)) {
		left(f);
		return code == OK ? GENERAL_ERROR : code;
	}
	if (is_alone(f))
		count_overlap(f);
	if (f == C_WaitForSlotEvent_) // which may block
		;
	else if (is_alone(f) || control->single)
		pthread_rwlock_wrlock(&inside);
	else
		pthread_rwlock_rdlock(&inside);
	if (control->pulled && is_initialized)
		code = pulled_out(f);
	if (code != OK) {
		pthread_rwlock_unlock(&inside);
		left(f);
	}
	return code;
}

// leave does what comes after the real function has returned rv.
static ulong leave(enum function f, ulong rv) {
	ulong code;
	if (is_alone(f))
		count_overlap(f);
	if (f != C_WaitForSlotEvent_)
		pthread_rwlock_unlock(&inside);
	if (rv == OK && applies(&control->functions[f].after, &code))
		rv = code == OK ? GENERAL_ERROR : code;
	left(f);
	return rv;
}

#define X(name, params, args, then) \
	static ulong pass_##name params { \
		enum function f = name##_; \
		ulong rv = enter(f); \
		if (rv != OK) \
			return rv; \
		rv = real->name args; \
		then; \
		return leave(f, rv); \
	}
BEFORE_GET_FUNCTION_LIST(X) AFTER_GET_FUNCTION_LIST(X)
#undef X

__attribute__((visibility("default"))) ulong C_GetFunctionList(struct list **list);

static struct list own = {
	{2, 40},
#define X(name, params, args, then) .name = pass_##name,
	BEFORE_GET_FUNCTION_LIST(X) .C_GetFunctionList = C_GetFunctionList, AFTER_GET_FUNCTION_LIST(X)
#undef X
};

static struct control *map_control(void) {
	Dl_info self;
	char path[PATH_BYTES + 16];
	if (!dladdr((void *)map_control, &self) || strlen(self.dli_fname) >= PATH_BYTES)
		return NULL;
	snprintf(path, sizeof path, "%s.control", self.dli_fname);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	struct control *c = mmap(NULL, sizeof *c, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return c == MAP_FAILED || c->size != sizeof *c ? NULL : c;
}

static char *own_getenv(const char *name) {
	return strcmp(name, control->variable) == 0 ? control->value : getenv(name);
}

static char *own_strtok(char *text, const char *delimiters) {
	static _Thread_local char *rest;
	return strtok_r(text, delimiters, &rest);
}

// own_function is what the real module gets in place of a function of the C library, or NULL. The process has
// one environment, and the modules in it need different ones. And it has one strtok, with which
// SoftHSM reads its configuration: two modules that are initialised at once took each other's lines,
// and then had no tokens, or failed.
static void *own_function(const char *name) {
	if (strcmp(name, "getenv") == 0 || strcmp(name, "secure_getenv") == 0)
		return (void *)own_getenv;
	if (strcmp(name, "strtok") == 0)
		return (void *)own_strtok;
	return NULL;
}

// redirect makes the relocations that stand for such a function point to ours.
static void redirect(struct link_map *map, ElfW(Rela) *rela, size_t bytes, ElfW(Sym) *symbols, const char *names) {
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	for (size_t i = 0; rela != NULL && i < bytes / sizeof *rela; i++) {
		void *function = own_function(names + symbols[rela[i].r_info >> (sizeof(void *) == 8 ? 32 : 8)].st_name);
		if (function == NULL)
			continue;
		uintptr_t slot = map->l_addr + rela[i].r_offset;
		if (mprotect((void *)(slot & ~(page - 1)), page, PROT_READ | PROT_WRITE) == 0)
			*(void **)slot = function;
	}
}

static void redirect_all(void *library) {
	struct link_map *map;
	ElfW(Rela) *rela = NULL, *plt = NULL;
	size_t rela_bytes = 0, plt_bytes = 0;
	ElfW(Sym) *symbols = NULL;
	const char *names = NULL;
	if (dlinfo(library, RTLD_DI_LINKMAP, &map) != 0)
		return;
	for (ElfW(Dyn) *d = map->l_ld; d->d_tag != DT_NULL; d++)
		switch (d->d_tag) {
		case DT_RELA: rela = (void *)d->d_un.d_ptr; break;
		case DT_RELASZ: rela_bytes = d->d_un.d_val; break;
		case DT_JMPREL: plt = (void *)d->d_un.d_ptr; break;
		case DT_PLTRELSZ: plt_bytes = d->d_un.d_val; break;
		case DT_SYMTAB: symbols = (void *)d->d_un.d_ptr; break;
		case DT_STRTAB: names = (void *)d->d_un.d_ptr; break;
		}
	redirect(map, rela, rela_bytes, symbols, names);
	redirect(map, plt, plt_bytes, symbols, names);
}

static void load(void) {
	pthread_rwlockattr_t attr;
	pthread_rwlockattr_init(&attr);
	// Or a writer never gets in under load.
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&inside, &attr);
	if ((control = map_control()) == NULL)
		return;
	void *library = dlopen(control->real, RTLD_NOW | RTLD_LOCAL);
	ulong (*get)(struct list **) = NULL;
	if (library != NULL) {
		redirect_all(library);
		*(void **)&get = dlsym(library, "C_GetFunctionList");
	}
	if (get == NULL || get(&real) != OK)
		real = NULL;
}

ulong C_GetFunctionList(struct list **list) {
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, load);
	if (real == NULL || list == NULL)
		return GENERAL_ERROR;
	*list = &own;
	return OK;
}
