package cli

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/term"
)

// secretBytesMax bounds a PIN or passphrase.
const secretBytesMax = 1 << 10

// What an error tells a person who has named no source that can be used.
const (
	unasked       = "file:PATH, env:NAME or cred:NAME (a systemd credential)"
	secretSources = "file:PATH, env:NAME, cred:NAME (a systemd credential) or prompt:"
)

// Secret reads a PIN or passphrase from source: file:PATH (its first line; nobody but the owner may
// have access to the file), env:NAME, cred:NAME (a file in $CREDENTIALS_DIRECTORY) or prompt:, which
// shows prompt on stderr and reads a line from stdin without echo. The caller clears the result.
//
// When ctx ends during a prompt, the terminal is restored and ctx's error returned.
func Secret(ctx context.Context, source, prompt string, stdin io.Reader, stderr io.Writer) ([]byte, error) {
	kind, name, ok := strings.Cut(source, ":")
	if !ok {
		kind = ""
	}
	var secret []byte
	var err error
	switch kind {
	case "file":
		secret, err = secretFile(name, true)
	case "env":
		v, ok := os.LookupEnv(name)
		if !ok {
			return nil, fmt.Errorf("PIN source %s: the environment variable is not set: set it, or name another source", source)
		}
		secret = []byte(v)
	case "cred":
		secret, err = secretCredential(name)
	case "prompt":
		secret, err = secretPrompt(ctx, prompt, stdin, stderr)
	default: // it may be a PIN itself, and is not shown
		return nil, Usage(fmt.Errorf("PIN source is not %s", secretSources))
	}
	if err != nil {
		return nil, err
	}
	if len(secret) == 0 {
		return nil, fmt.Errorf("PIN source %s is empty", source)
	}
	if len(secret) > secretBytesMax {
		clear(secret)
		return nil, fmt.Errorf("PIN source %s has more than %d bytes", source, secretBytesMax)
	}
	return secret, nil
}

// NewSecret is [Secret] for a PIN or passphrase that is being set: prompt: asks for it twice, because
// nobody sees what was typed.
func NewSecret(ctx context.Context, source, prompt string, stdin io.Reader, stderr io.Writer) ([]byte, error) {
	secret, err := Secret(ctx, source, prompt, stdin, stderr)
	if err != nil || !strings.HasPrefix(source, "prompt:") {
		return secret, err
	}
	again, err := Secret(ctx, source, prompt+", again", stdin, stderr)
	defer clear(again)
	if err == nil && subtle.ConstantTimeCompare(secret, again) != 1 {
		err = fmt.Errorf("the two answers for %s differ: nothing was set: start again", prompt)
	}
	if err != nil {
		clear(secret)
		return nil, err
	}
	return secret, nil
}

// secretFile returns the first line of the file at path.
func secretFile(path string, private bool) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("PIN file: %w: write the PIN to it, for its owner only (mode 600), or name another source", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("PIN file: %w", err)
	}
	if perm := info.Mode().Perm(); private && perm&0o077 != 0 {
		return nil, fmt.Errorf("PIN file %s has mode %04o: others can reach it: chmod 600 it", path, perm)
	}
	buf := make([]byte, secretBytesMax+2)
	n, err := io.ReadFull(f, buf)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		clear(buf)
		return nil, fmt.Errorf("PIN file %s: %w", path, err)
	}
	line, rest, _ := bytes.Cut(buf[:n], []byte("\n"))
	clear(rest)
	return bytes.TrimSuffix(line, []byte("\r")), nil
}

// secretCredential reads a systemd credential. Its mode is not looked at: the service manager
// guards the folder, and shows an access list as group permission.
func secretCredential(name string) ([]byte, error) {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return nil, fmt.Errorf("PIN source cred:%s: CREDENTIALS_DIRECTORY is not set: run under systemd with LoadCredential=%s:PATH", name, name)
	}
	if name == "" || name == "." || name == ".." || strings.ContainsRune(name, filepath.Separator) {
		return nil, Usage(fmt.Errorf("PIN source cred:%s: a credential's name is a file name", name))
	}
	return secretFile(filepath.Join(dir, name), false)
}

func secretPrompt(ctx context.Context, prompt string, stdin io.Reader, stderr io.Writer) ([]byte, error) {
	f, ok := stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, Usage(fmt.Errorf("cannot ask for %s: the standard input is not a terminal: use %s", prompt, unasked))
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	fd := int(f.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	fmt.Fprintf(stderr, "%s: ", prompt)
	defer fmt.Fprintln(stderr)
	type answer struct {
		line []byte
		err  error
	}
	// A read from a terminal cannot be cancelled: the goroutine outlives a cancelled prompt until
	// the next line or the end of the process.
	done := make(chan answer, 1)
	go func() {
		line, err := term.ReadPassword(fd)
		done <- answer{line, err}
	}()
	select {
	case a := <-done:
		if a.err != nil {
			return nil, fmt.Errorf("read %s: %w", prompt, a.err)
		}
		return a.line, nil
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), term.Restore(fd, before))
	}
}
