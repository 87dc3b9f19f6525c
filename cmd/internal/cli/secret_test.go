package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"
)

func TestSecret(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	t.Setenv("CLI_PIN", "from env")
	t.Setenv("CLI_PIN_EMPTY", "")
	write("credential", "from credential\n", 0o440)
	tests := []struct {
		name, source, want, wantErr string
		code                        int
	}{
		{name: "file", source: "file:" + write("one", "from file\r\nsecond line\n", 0o600), want: "from file"},
		{name: "file without newline", source: "file:" + write("bare", "from file", 0o400), want: "from file"},
		{name: "env", source: "env:CLI_PIN", want: "from env"},
		{name: "credential", source: "cred:credential", want: "from credential"},
		{name: "group-readable", source: "file:" + write("open", "x", 0o640), wantErr: "mode 0640", code: 1},
		{name: "world-readable", source: "file:" + write("wide", "x", 0o604), wantErr: "chmod 600", code: 1},
		{name: "group-writable", source: "file:" + write("shared", "x", 0o620), wantErr: "mode 0620: others can reach it: chmod 600 it", code: 1},
		{name: "world-writable", source: "file:" + write("public", "x", 0o602), wantErr: "chmod 600", code: 1},
		{name: "a folder", source: "file:" + dir, wantErr: "chmod 600", code: 1},
		{name: "no file", source: "file:" + dir + "/none", wantErr: "no such file", code: 1},
		{name: "empty file", source: "file:" + write("empty", "\nx", 0o600), wantErr: "is empty", code: 1},
		{name: "long line", source: "file:" + write("long", strings.Repeat("x", 2000), 0o600), wantErr: "more than 1024", code: 1},
		{name: "unset", source: "env:CLI_PIN_UNSET", wantErr: "not set", code: 1},
		{name: "empty", source: "env:CLI_PIN_EMPTY", wantErr: "is empty", code: 1},
		{name: "credential elsewhere", source: "cred:../x", wantErr: "file name", code: 2},
		{name: "no terminal", source: "prompt:", wantErr: "file:PATH, env:NAME", code: 2},
		{name: "a PIN itself", source: "123456", wantErr: "file:PATH", code: 2},
		{name: "unknown kind", source: "vault:123456", wantErr: "PIN source is not file:PATH", code: 2},
		{name: "a kind without colon", source: "prompt", wantErr: "PIN source is not file:PATH", code: 2},
		{name: "a PIN with a colon", source: "123456:78", wantErr: "PIN source is not file:PATH", code: 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Secret(t.Context(), tt.source, "PIN", strings.NewReader("1234\n"), io.Discard)
			if string(got) != tt.want || (err == nil) != (tt.wantErr == "") {
				t.Fatalf("got %q, %v; want %q, error %q", got, err, tt.want, tt.wantErr)
			}
			if err == nil {
				return
			}
			if !strings.Contains(err.Error(), tt.wantErr) || ExitCode(err) != tt.code {
				t.Errorf("error %q with exit code %d, want %q with %d", err, ExitCode(err), tt.wantErr, tt.code)
			}
			if strings.Contains(err.Error(), "123456") {
				t.Errorf("error %q shows what may be a PIN", err)
			}
		})
	}
}

var (
	ptysMu sync.Mutex
	ptys   []*os.File // kept from the garbage collector, which would close them
)

// openPTY returns the two ends of a pseudo-terminal. Nobody closes them: a cancelled prompt goes on
// reading from its descriptor, whose number must not become another test's file.
func openPTY(t *testing.T) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	ioctl := func(req uintptr, arg *int32) {
		t.Helper()
		if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, master.Fd(), req, uintptr(unsafe.Pointer(arg))); e != 0 {
			t.Fatal(e)
		}
	}
	var unlock, number int32
	ioctl(syscall.TIOCSPTLCK, &unlock)
	ioctl(syscall.TIOCGPTN, &number)
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	ptysMu.Lock()
	defer ptysMu.Unlock()
	ptys = append(ptys, master, terminal)
	return master, terminal
}

func TestSecretPrompt(t *testing.T) {
	t.Parallel()
	master, terminal := openPTY(t)
	if _, err := master.WriteString("s3cret\n"); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	got, err := Secret(t.Context(), "prompt:", "PIN of token shop", terminal, &stderr)
	if err != nil || string(got) != "s3cret" {
		t.Fatalf("got %q, %v; want s3cret", got, err)
	}
	if want := "PIN of token shop: \n"; stderr.String() != want {
		t.Errorf("stderr %q, want %q", stderr.String(), want)
	}
}

func TestNewSecret(t *testing.T) {
	t.Parallel()
	const once, twice = "new PIN: \n", "new PIN: \nnew PIN, again: \n"
	tests := []struct{ name, typed, want, wantErr, stderr string }{
		{"the same twice", "s3cret\ns3cret\n", "s3cret", "", twice},
		{"different", "s3cret\ns3crex\n", "", "answers for new PIN differ", twice},
		{"a part", "s3cret\ns3cre\n", "", "answers for new PIN differ", twice},
		{"nothing", "\n\n", "", "is empty", once},
		{"nothing the second time", "s3cret\n\n", "", "is empty", twice},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			master, terminal := openPTY(t)
			if _, err := master.WriteString(tt.typed); err != nil {
				t.Fatal(err)
			}
			var stderr bytes.Buffer
			got, err := NewSecret(t.Context(), "prompt:", "new PIN", terminal, &stderr)
			if string(got) != tt.want || (err == nil) != (tt.wantErr == "") {
				t.Fatalf("got %q, %v; want %q, error %q", got, err, tt.want, tt.wantErr)
			}
			if err != nil && (!strings.Contains(err.Error(), tt.wantErr) || strings.Contains(err.Error(), "s3cre")) {
				t.Errorf("error %q, want %q and nothing that was typed", err, tt.wantErr)
			}
			if stderr.String() != tt.stderr {
				t.Errorf("stderr %q, want %q", stderr.String(), tt.stderr)
			}
		})
	}
	t.Run("a file", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "pin")
		if err := os.WriteFile(path, []byte("s3cret\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := NewSecret(t.Context(), "file:"+path, "new PIN", strings.NewReader(""), io.Discard)
		if err != nil || string(got) != "s3cret" {
			t.Errorf("got %q, %v; want s3cret", got, err)
		}
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestSecretPromptCancelled(t *testing.T) {
	t.Parallel()
	_, terminal := openPTY(t)
	ctx, cancel := context.WithCancel(t.Context())
	onPrompt := writerFunc(func(p []byte) (int, error) { cancel(); return len(p), nil })
	if _, err := Secret(ctx, "prompt:", "PIN", terminal, onPrompt); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want a cancelled context", err)
	}
}
