//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/setkit/setkit/hsm"
	softhsmconfig "github.com/setkit/setkit/softhsm-config"
)

// nobody is the user whom the processes under test belong to if the test may choose.
const nobody = 65534

// vault is a set-hsm of its own, with PINs that must be seen nowhere but in their sources.
type vault struct {
	dir, bin, module, conf string
	so, user, wrong, fresh string
	sources                string // the folder of the files with PINs
}

// newVault builds the command and makes an empty SoftHSM for it, all of it the ordinary user's.
func newVault(t *testing.T) *vault {
	t.Helper()
	dir := t.TempDir()
	module, err := hsm.SoftHSMPath()
	if err != nil {
		t.Fatal(err)
	}
	pin := func() string { return rand.Text()[:16] }
	v := &vault{
		dir: dir, bin: filepath.Join(dir, "set-hsm"), module: module, sources: filepath.Join(dir, "sources"),
		so: pin(), user: pin(), wrong: pin(), fresh: pin(),
	}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", v.bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if v.conf, err = softhsmconfig.Write(filepath.Join(dir, "softhsm")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(v.sources, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, pin := range map[string]string{"so": v.so, "user": v.user, "wrong": v.wrong, "fresh": v.fresh} {
		if err := os.WriteFile(filepath.Join(v.sources, name), []byte(pin+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if os.Getuid() != 0 {
		return v
	}
	// The folder around a test's folders is its user's alone.
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, nobody, nobody))
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// command is a command of the ordinary user in the vault's folder.
func (v *vault) command(ctx context.Context, env []string, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = v.dir
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "SOFTHSM2_CONF=" + v.conf, "CREDENTIALS_DIRECTORY=" + v.sources, "GOTRACEBACK=crash",
	}, env...)
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}

// uri names the token, with this source of its PIN.
func (v *vault) uri(source string) string {
	return hsm.URI{Token: "vault", ModulePath: v.module, PINSource: source}.String()
}

// source is a file of PINs.
func (v *vault) source(name string) string { return "file:" + filepath.Join(v.sources, name) }

// look fails if b shows a PIN, as it is or in a form that a dump gives it.
func (v *vault) look(t *testing.T, where string, b []byte) {
	t.Helper()
	for who, pin := range map[string]string{"officer's": v.so, "user's": v.user, "wrong": v.wrong, "new": v.fresh} {
		word := []byte(pin[:8])
		slices.Reverse(word) // as a number, on most machines
		for _, form := range []string{
			pin, hex.EncodeToString([]byte(pin)), base64.StdEncoding.EncodeToString([]byte(pin)),
			strings.Trim(fmt.Sprint([]byte(pin)), "[]"), hex.EncodeToString(word),
		} {
			if bytes.Contains(b, []byte(form)) {
				t.Errorf("%s shows the %s PIN:\n%.2000s", where, who, b)
			}
		}
	}
}

// Whatever set-hsm is asked and told, no PIN is in what it prints.
func TestPINsAreNotPrinted(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	runs := []struct {
		name string
		args []string
		code int
		in   string // the output
	}{
		{"init", []string{"init", "--label", "vault", "--so-pin-source", v.source("so"), "--pin-source", v.source("user"), "--json"}, 0, `"vault"`},
		{"tokens", []string{"tokens", "--json"}, 0, `"vault"`},
		{"generate, with a file", []string{"keys", "generate", "--token", v.uri(v.source("user")), "--label", "k", "--purpose", "sign", "--type", "ec-p256", "--json"}, 0, `"k"`},
		{"list, with a credential", []string{"keys", "list", "--token", v.uri("cred:user")}, 0, "ec-p256"},
		{"list, with a variable", []string{"keys", "list", "--token", v.uri("env:VAULT_PIN"), "--json"}, 0, `"k"`},
		{"a wrong PIN", []string{"keys", "list", "--token", v.uri(v.source("wrong"))}, 1, "CKR_PIN_INCORRECT"},
		{"a wrong PIN, in JSON", []string{"keys", "list", "--token", v.uri("cred:wrong"), "--json"}, 1, "CKR_PIN_INCORRECT"},
		{"a wrong PIN in a variable", []string{"keys", "list", "--token", v.uri("env:VAULT_WRONG")}, 1, "CKR_PIN_INCORRECT"},
		{"a label that is taken", []string{"init", "--label", "vault", "--so-pin-source", "env:VAULT_SO", "--pin-source", "cred:fresh"}, 1, "exists"},
		{"a PIN for a source", []string{"init", "--label", "b", "--so-pin-source", v.so, "--pin-source", v.source("user")}, 2, "PIN source is not"},
		{"a PIN for a kind of source", []string{"keys", "list", "--token", v.uri(v.wrong + ":x")}, 2, "PIN source is not"},
		{"a PIN in the URI", []string{"keys", "list", "--token", "pkcs11:token=vault?module-path=" + v.module + "&pin-value=" + v.user}, 2, "pin-value"},
		{"a PIN for a URI", []string{"keys", "list", "--token", v.user}, 2, "URI"},
		{"a new PIN", []string{"pin", "--token", v.uri(v.source("user")), "--new-pin-source", v.source("fresh"), "--json"}, 0, ""},
		{"the old PIN", []string{"keys", "list", "--token", v.uri(v.source("user")), "--json"}, 1, "CKR_PIN_INCORRECT"},
		{"a change with a wrong PIN", []string{"pin", "--token", v.uri(v.source("wrong")), "--new-pin-source", v.source("user")}, 1, "CKR_PIN_INCORRECT"},
	}
	for _, r := range runs { // one after the other: each finds what the last has left
		cmd := v.command(t.Context(), []string{"VAULT_PIN=" + v.user, "VAULT_WRONG=" + v.wrong, "VAULT_SO=" + v.so}, v.bin, r.args...)
		out, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != r.code || !bytes.Contains(out, []byte(r.in)) {
			t.Errorf("%s: exit code %d (%v), want %d, and %q in\n%s", r.name, code, err, r.code, r.in, out)
		}
		v.look(t, r.name, out)
	}
	v.lookInFiles(t)
}

// lookInFiles looks at all that lies in the vault's folder, but for the sources.
func (v *vault) lookInFiles(t *testing.T) {
	t.Helper()
	seen := 0
	err := filepath.WalkDir(v.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == v.sources {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() || path == v.bin {
			return nil
		}
		b, err := os.ReadFile(path)
		seen++
		v.look(t, path, b)
		return err
	})
	if err != nil || seen == 0 {
		t.Errorf("%d files looked at: %v", seen, err)
	}
}

// While set-hsm has a PIN in its memory, nobody else of the same user can look there, and when it
// crashes then, it leaves none behind.
func TestPINsStayInTheProcess(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	// That the looking works is shown with a process that does not mind.
	plain := v.command(t.Context(), []string{"VAULT_SO=" + v.so}, "sleep", "60")
	if err := plain.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { plain.Process.Kill(); plain.Wait() })
	if out, err := v.peek(t, plain.Process.Pid, "environ"); err != nil || !bytes.Contains(out, []byte(v.so)) {
		t.Fatalf("a process's user cannot read its environment: %v\n%s", err, out)
	}
	for _, source := range []string{v.source("so"), "cred:so", "env:VAULT_SO", "prompt:"} {
		kind, _, _ := strings.Cut(source, ":")
		t.Run(kind, func(t *testing.T) { v.testHeld(t, source) })
	}
	v.lookInFiles(t)
}

// peek reads a file of a process in /proc, as the ordinary user.
func (v *vault) peek(t *testing.T, pid int, file string) ([]byte, error) {
	return v.command(t.Context(), nil, "head", "-c", "65536", fmt.Sprintf("/proc/%d/%s", pid, file)).CombinedOutput()
}

// testHeld runs set-hsm until it has the officer's PIN from source and asks for the user's.
func (v *vault) testHeld(t *testing.T, source string) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	master, terminal := openTerminal(t)
	var env []string
	if strings.HasPrefix(source, "env:") {
		env = []string{"VAULT_SO=" + v.so}
	}
	cmd := v.command(ctx, env, "sh", "-c", `ulimit -c unlimited || ulimit -c "$(ulimit -H -c)"; exec "$0" "$@"`,
		v.bin, "init", "--label", "vault", "--so-pin-source", source, "--pin-source", "prompt:", "--json")
	cmd.Stdin = terminal
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	asked, err := v.answer(stderr, master)
	if err != nil {
		t.Fatalf("%v\n%s", err, asked)
	}
	v.checkProcess(t, cmd.Process.Pid, len(env) > 0)

	if err := cmd.Process.Signal(syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(stderr)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Wait() // its error is that of the signal, looked at next
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGABRT || status.CoreDump() {
		t.Errorf("ended as %v, with a core: %t; want SIGABRT and no core", cmd.ProcessState, status.CoreDump())
	}
	if !bytes.Contains(rest, []byte("SIGABRT")) || !bytes.Contains(rest, []byte("goroutine ")) {
		t.Errorf("no trace of the crash:\n%s", rest)
	}
	v.look(t, "the standard error", append(asked, rest...))
	v.look(t, "the standard output", stdout.Bytes())
}

// answer types the officer's PIN whenever it is asked for, and returns when the user's is.
func (v *vault) answer(stderr io.Reader, terminal io.Writer) (asked []byte, err error) {
	buf := make([]byte, 1024)
	from := 0
	for {
		n, err := stderr.Read(buf)
		if asked = append(asked, buf[:n]...); err != nil {
			return asked, err
		}
		switch question := asked[from:]; {
		case !bytes.HasSuffix(question, []byte(": ")):
		case bytes.Contains(question, []byte("user PIN")):
			return asked, nil
		default:
			from = len(asked)
			if _, err := io.WriteString(terminal, v.so+"\n"); err != nil {
				return asked, err
			}
		}
	}
}

// checkProcess looks at a process that has the officer's PIN in its memory.
func (v *vault) checkProcess(t *testing.T, pid int, inEnvironment bool) {
	t.Helper()
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.Contains(cmdline, []byte("set-hsm")) {
		t.Errorf("command line %q, %v", cmdline, err)
	}
	v.look(t, "the command line", cmdline)
	for _, file := range []string{"environ", "mem", "maps"} {
		if out, err := v.peek(t, pid, file); err == nil || !bytes.Contains(out, []byte("Permission denied")) {
			t.Errorf("%s can be read by another process of the user: %v", file, err)
		}
	}
	if os.Getuid() == 0 && !inEnvironment {
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil || len(environ) == 0 {
			t.Errorf("environment: %d bytes, %v", len(environ), err)
		}
		v.look(t, "the environment", environ)
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0 ") {
		t.Errorf("the size of a core file is not limited to 0: %v\n%s", err, limits)
	}
	// A child would inherit the environment.
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil || len(children) == 0 {
		t.Errorf("no list of children: %v", err)
	}
	for _, file := range children {
		if b, err := os.ReadFile(file); err != nil || len(b) > 0 {
			t.Errorf("children %q, %v", b, err)
		}
	}
}

// openTerminal returns the two ends of a pseudo-terminal.
func openTerminal(t *testing.T) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	var unlock, number int32
	for request, arg := range map[uintptr]*int32{syscall.TIOCSPTLCK: &unlock, syscall.TIOCGPTN: &number} {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, master.Fd(), request, uintptr(unsafe.Pointer(arg))); errno != 0 {
			t.Fatal(errno)
		}
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return master, terminal
}
