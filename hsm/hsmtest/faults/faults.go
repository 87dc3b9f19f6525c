// Package faults makes HSMs fail, to see a program survive it.
//
//	func TestSurvives(t *testing.T) {
//		m := faults.New(t)              // a fresh token in a module that fails on demand
//		shop := startShop(t, m.URI)     // what is tested opens it like any other
//		m.FailRate(faults.Sign, pkcs11.CKR_DEVICE_ERROR, 0.1)
//		shop.sellUntil(t, func() bool { return m.Faults() >= 100 })
//		m.CloseSessions()               // behind the shop's back
//		shop.sell(t)
//		m.Pull()                        // the whole device
//		shop.sayClosed(t)
//		m.Plug()
//		shop.sell(t)
//		if m.Logins(pkcs11.CKR_PIN_INCORRECT) > 0 {
//			t.Error("a PIN try was burnt")
//		}
//	}
//
// [New] puts a PKCS#11 module of our own before SoftHSM. It is compiled with the system's C compiler
// ($CC or cc) and passes all calls on, except what it is told to spoil. [Serve] puts a token behind a
// server process that can be killed and started again, as a network HSM can. Both need Linux with
// glibc.
//
// Sessions, logins and the library are only taken away while no call is inside the real module: many
// modules crash otherwise. A crash is therefore the tested program's, and [Module.Overlaps] counts
// what would have caused one elsewhere.
package faults

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
)

// Forever is a number of calls that never runs out.
const Forever = -1

// Module is a token in a PKCS#11 module that fails on demand. Its methods may be called by several
// goroutines, and take effect on every call that begins afterwards.
//
// Every Module has a SoftHSM and a token folder of its own: several in one process do not disturb each
// other.
type Module struct {
	*hsmtest.Token // its ModulePath and URI are those of the module that fails

	c *control
}

const pathBytes = 1024

// control is struct control of module.c.
type control struct {
	size                  atomic.Uint64
	real, variable, value [pathBytes]byte
	seed, draws           atomic.Uint64
	todo                  atomic.Uint64
	pulled, single        atomic.Uint64
	inFlight, inFlightMax atomic.Uint64
	sessions              atomic.Uint64
	overlaps              atomic.Uint64
	faults                atomic.Uint64
	logins                [16]struct{ codePlus1, calls atomic.Uint64 }
	functions             [functions]struct {
		calls, inside          atomic.Uint64
		hang                   atomic.Uint64
		slow                   atomic.Uint64
		before, after, corrupt atomic.Uint64
	}
}

// The bits of control.todo.
const (
	todoCloseSessions = 1 << iota
	todoCloseSome
	todoLogOut
	todoFinalize
	todoPull
)

// New makes a token like [hsmtest.New], behind a module of its own. Nothing hangs any longer when the
// test ends.
func New(t testing.TB) *Module {
	t.Helper()
	m, err := newModule(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Clear)
	return m
}

const (
	moduleFile = "faults.so"
	confFile   = "softhsm2.conf"
)

func newModule(ctx context.Context, dir string) (*Module, error) {
	softHSM, err := hsm.SoftHSMPath()
	if err != nil {
		return nil, err
	}
	c, err := install(dir, softHSM, "SOFTHSM2_CONF", filepath.Join(dir, confFile))
	if err != nil {
		return nil, err
	}
	token, err := newToken(ctx, dir)
	if err != nil {
		return nil, err
	}
	m := &Module{token, c}
	m.forget()
	return m, nil
}

// install puts a module over the one at path into dir. The variable of the environment is for the
// real module only.
func install(dir, path, variable, value string) (*control, error) {
	shared, err := compile()
	if err != nil {
		return nil, err
	}
	// The loader tells libraries apart by their inode, so a copy has a state of its own.
	real, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	module, realPath := filepath.Join(dir, moduleFile), filepath.Join(dir, "real.so")
	if len(value) >= pathBytes || len(realPath) >= pathBytes {
		return nil, fmt.Errorf("%s is longer than %d bytes", value, pathBytes)
	}
	if err := errors.Join(os.WriteFile(module, shared, 0o700), os.WriteFile(realPath, real, 0o700)); err != nil {
		return nil, err
	}
	c, err := mapControl(module + ".control")
	if err != nil {
		return nil, err
	}
	copy(c.real[:], realPath)
	copy(c.variable[:], variable)
	copy(c.value[:], value)
	c.seed.Store(1)
	c.size.Store(uint64(unsafe.Sizeof(control{})))
	return c, nil
}

// newToken makes a token in a folder of its own in dir, through the module there.
func newToken(ctx context.Context, dir string) (*hsmtest.Token, error) {
	tokens, conf, pin := filepath.Join(dir, "tokens"), filepath.Join(dir, confFile), filepath.Join(dir, "pin")
	path := filepath.Join(dir, moduleFile)
	text := "directories.tokendir = " + tokens + "\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n"
	tk := &hsmtest.Token{
		Label: "test-" + strings.ToLower(rand.Text()[:20]), PIN: rand.Text()[:12], SOPIN: rand.Text()[:12],
		ModulePath: path, Env: []string{"SOFTHSM2_CONF=" + conf},
	}
	if err := errors.Join(os.Mkdir(tokens, 0o700), os.WriteFile(conf, []byte(text), 0o600),
		os.WriteFile(pin, []byte(tk.PIN+"\n"), 0o600)); err != nil {
		return nil, err
	}
	info, err := hsm.InitToken(ctx, path, tk.Label, []byte(tk.SOPIN), []byte(tk.PIN))
	if err != nil {
		return nil, err
	}
	tk.Serial = info.Serial
	tk.URI = hsm.URI{Token: tk.Label, ModulePath: path, PINSource: "file:" + pin}.String()
	return tk, nil
}

// forget forgets what has been counted so far.
func (m *Module) forget() {
	for i := range m.c.functions {
		m.c.functions[i].calls.Store(0)
	}
	for i := range m.c.logins {
		m.c.logins[i].calls.Store(0)
	}
	m.c.inFlightMax.Store(0)
}

func mapControl(path string) (*control, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size := int(unsafe.Sizeof(control{}))
	if err := f.Truncate(int64(size)); err != nil {
		return nil, err
	}
	// It stays mapped: the module, which is never unloaded, has it mapped as well.
	mem, err := syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	return (*control)(unsafe.Pointer(&mem[0])), nil
}

//go:embed module/module.c
var source []byte

// compile returns the module, which is compiled once in a process.
var compile = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "faults-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	in, out := filepath.Join(dir, "module.c"), filepath.Join(dir, "module.so")
	if err := os.WriteFile(in, source, 0o600); err != nil {
		return nil, err
	}
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	text, err := exec.Command(cc, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC",
		"-fvisibility=hidden", "-o", out, in, "-ldl", "-lpthread").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("compile the PKCS#11 module with %s (apt-get install gcc libc6-dev, or set CC): %w\n%s", cc, err, text)
	}
	return os.ReadFile(out)
})

// Fail makes the next n calls of f answer code without reaching the token.
func (m *Module) Fail(f Function, code uint, n int) { m.c.functions[f].before.Store(times(code, n)) }

// FailAfter makes the next n calls of f that succeed answer code all the same: the token has done
// what was asked, and the caller does not learn it.
func (m *Module) FailAfter(f Function, code uint, n int) {
	m.c.functions[f].after.Store(times(code, n))
}

// FailRate makes calls of f answer code without reaching the token, each with probability p. The
// draws are the same in every run, see [Module.Seed]; who draws which depends on the scheduler.
func (m *Module) FailRate(f Function, code uint, p float64) {
	m.c.functions[f].before.Store(rate(code, p))
}

// FailRateAfter is FailRate for calls that have succeeded, see [Module.FailAfter].
func (m *Module) FailRateAfter(f Function, code uint, p float64) {
	m.c.functions[f].after.Store(rate(code, p))
}

// Corrupt flips a bit in what the next n calls of f produce, if f is a function that signs, encrypts,
// decrypts, digests or wraps: a signature is then as if by another key.
func (m *Module) Corrupt(f Function, n int) { m.c.functions[f].corrupt.Store(times(0, n)) }

// A rule is a word: the code in the upper half, two bits for the kind, and its value.
const (
	ruleTimes = (iota + 1) << 30
	ruleAlways
	ruleRate
	ruleValueMax = 1<<30 - 1
)

func times(code uint, n int) uint64 {
	switch {
	case n == 0:
		return 0
	case n < 0:
		return uint64(code)<<32 | ruleAlways
	}
	return uint64(code)<<32 | ruleTimes | uint64(min(n, ruleValueMax))
}

func rate(code uint, p float64) uint64 {
	if p >= 1 {
		return times(code, Forever)
	}
	return uint64(code)<<32 | ruleRate | uint64(max(p, 0)*(1<<30))
}

// Seed begins the draws of FailRate anew. Modules begin with seed 1.
func (m *Module) Seed(seed uint64) {
	m.c.seed.Store(seed)
	m.c.draws.Store(0)
}

// Hang makes calls of f not return, and not reach the token, until release is called. Then they go on.
func (m *Module) Hang(f Function) (release func()) {
	m.c.functions[f].hang.Store(1)
	return func() { m.c.functions[f].hang.Store(0) }
}

// Slow makes calls of f take d longer.
func (m *Module) Slow(f Function, d time.Duration) { m.c.functions[f].slow.Store(uint64(max(d, 0))) }

// CloseSessions closes all sessions before the next call, which also logs out.
func (m *Module) CloseSessions() { m.c.todo.Or(todoCloseSessions) }

// CloseSomeSessions closes every other open session before the next call.
func (m *Module) CloseSomeSessions() { m.c.todo.Or(todoCloseSome) }

// LogOut logs out before the next call.
func (m *Module) LogOut() { m.c.todo.Or(todoLogOut) }

// Finalize finalises the real module before the next call, as a careless library in the same process
// would. Calls answer CKR_CRYPTOKI_NOT_INITIALIZED until somebody initialises it again.
func (m *Module) Finalize() { m.c.todo.Or(todoFinalize) }

// Pull removes the device: sessions are closed, no slot holds a token, and all calls but those of the
// library itself answer CKR_TOKEN_NOT_PRESENT or CKR_DEVICE_REMOVED.
func (m *Module) Pull() {
	m.c.todo.Or(todoPull)
	m.c.pulled.Store(1)
}

// Plug brings the device back, without sessions and not logged in.
func (m *Module) Plug() { m.c.pulled.Store(0) }

// Clear ends all faults: functions work again, those that hang go on, and the device is back. What
// was lost stays lost.
func (m *Module) Clear() {
	for i := range m.c.functions {
		f := &m.c.functions[i]
		for _, w := range []*atomic.Uint64{&f.hang, &f.slow, &f.before, &f.after, &f.corrupt} {
			w.Store(0)
		}
	}
	m.Plug()
}

// Faults counts what went wrong so far: answers that were spoilt, calls that hung, sessions, logins and
// libraries that were taken away while there were any, and removals of the device. The answers of
// a device that is away are not counted one by one.
func (m *Module) Faults() int { return int(m.c.faults.Load()) }

// Calls counts the calls of f.
func (m *Module) Calls(f Function) int { return int(m.c.functions[f].calls.Load()) }

// Inside counts the calls of f that have not returned yet, such as those that hang.
func (m *Module) Inside(f Function) int { return int(m.c.functions[f].inside.Load()) }

// InFlightMax is the greatest number of calls that were running at once.
func (m *Module) InFlightMax() int { return int(m.c.inFlightMax.Load()) }

// Sessions counts the open sessions.
func (m *Module) Sessions() int { return int(m.c.sessions.Load()) }

// Logins counts the C_Login that reached the token and that it answered with code, for instance
// CKR_PIN_INCORRECT: those have burnt a try.
func (m *Module) Logins(code uint) int {
	for i := range m.c.logins {
		if m.c.logins[i].codePlus1.Load() == uint64(code)+1 {
			return int(m.c.logins[i].calls.Load())
		}
	}
	return 0
}

// Overlaps counts calls of C_Finalize and C_CloseAllSessions that overlapped with other calls. This
// module makes them wait; others crash.
func (m *Module) Overlaps() int { return int(m.c.overlaps.Load()) }
