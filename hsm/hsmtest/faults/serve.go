package faults

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/setkit/setkit/hsm"
)

// Server is a token behind p11-kit's server, a process of its own that is reached through a socket and
// can be killed. It wants the Debian packages p11-kit and p11-kit-modules. Between the tested program
// and p11-kit's client stands a [Module]: besides being killed, the server's token can fail in all its
// ways, and is counted. Several Servers in one process do not disturb each other.
//
// The module lets one call at a time into p11-kit's client. When the connection breaks while several
// wait for answers, p11-kit 0.24 never wakes them up, and no program can recover from that.
type Server struct {
	*Module
	// Direct is the same token without a server, by a SoftHSM in the test's process.
	Direct *Module

	socket string
	server *exec.Cmd // nil while there is none
}

// Serve makes a token like [New] and starts a server for it, which ends with the test.
func Serve(t testing.TB) *Server {
	t.Helper()
	// A socket's path must be short, and t.TempDir's is not.
	short, err := os.MkdirTemp("", "p11-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(short) })
	s := &Server{Direct: New(t), socket: filepath.Join(short, "socket")}
	client, err := clientPath()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c, err := install(dir, client, "P11_KIT_SERVER_ADDRESS", "unix:path="+s.socket)
	if err != nil {
		t.Fatal(err)
	}
	c.single.Store(1)
	uri, err := hsm.ParseURI(s.Direct.URI)
	if err != nil {
		t.Fatal(err)
	}
	token := *s.Direct.Token
	token.ModulePath = filepath.Join(dir, moduleFile)
	uri.ModulePath = token.ModulePath
	token.URI = uri.String()
	s.Module = &Module{&token, c}
	t.Cleanup(s.Clear)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Kill(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// clientPath finds p11-kit's client, where Debian, Fedora and Arch put it.
func clientPath() (string, error) {
	for _, pattern := range []string{
		"/usr/lib/*/pkcs11/p11-kit-client.so", "/usr/lib64/pkcs11/p11-kit-client.so", "/usr/lib/pkcs11/p11-kit-client.so",
	} {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			return found[0], nil
		}
	}
	return "", errors.New("p11-kit-client.so is not installed: run make setup, or apt-get install p11-kit-modules")
}

// Start starts the server again, and returns when it takes connections.
func (s *Server) Start() error {
	if s.server != nil {
		return errors.New("the server of the token runs already")
	}
	softHSM, err := hsm.SoftHSMPath()
	if err != nil {
		return err
	}
	if err := os.Remove(s.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var said strings.Builder
	cmd := exec.Command("p11-kit", "server", "--foreground", "--name", s.socket, "--provider", softHSM, "pkcs11:")
	cmd.Env = append(os.Environ(), s.Env...)
	cmd.Stderr = &said
	// It makes a child for each connection: all shall die together.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("p11-kit's server cannot be started: run make setup, or apt-get install p11-kit: %w", err)
	}
	// It says its process id when it listens.
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "P11_KIT_SERVER_PID=") {
			s.server = cmd
			return nil
		}
	}
	err = cmd.Wait()
	return fmt.Errorf("p11-kit's server has ended: %w: %s", errors.Join(err, errors.New("it never listened")), said.String())
}

// Kill kills the server with SIGKILL. Killing a killed one does nothing.
func (s *Server) Kill() error {
	if s.server == nil {
		return nil
	}
	server := s.server
	s.server = nil
	if err := syscall.Kill(-server.Process.Pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill the server: %w", err)
	}
	if err := server.Wait(); err != nil && server.ProcessState == nil {
		return fmt.Errorf("wait for the killed server: %w", err)
	}
	return nil
}
