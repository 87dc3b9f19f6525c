package virtual_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/setkit/setkit/smartcard/pcsc"
	"github.com/setkit/setkit/smartcard/virtual"
)

// Roles that the test binary takes in processes of its own: a process can talk
// to one pcscd only, and some of them have to die.
const (
	roleVariable = "VIRTUAL_TEST_ROLE"
	roleStart    = "start"   // start a host, tell its PID, wait for the end of standard input
	roleOutlive  = "outlive" // the same with a host that stays
	roleUse      = "use"     // the same, and use a card in each reader
	roleList     = "list"    // list the readers
	roleWait     = "wait"    // wait for a card in a reader
	roleGuess    = "guess"   // try wrong PINs on a card in a file

	processTimeout = 20 * time.Second
)

func TestMain(m *testing.M) {
	role := os.Getenv(roleVariable)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := play(role, os.Args[1]); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func play(role, dir string) error {
	ctx := context.Background()
	switch role {
	case roleGuess:
		return guess(dir)
	case roleWait:
		ctx, cancel := context.WithTimeout(ctx, processTimeout)
		defer cancel()
		_, err := pcsc.Wait(ctx, dir) // here the name of a reader
		return err
	}
	if role == roleList {
		all, err := pcsc.Readers(ctx)
		for _, r := range all {
			fmt.Println(r.Name)
		}
		return err
	}
	host, err := virtual.StartHost(ctx, virtual.HostConfig{Dir: dir, Readers: 4, Outlive: role == roleOutlive})
	if err != nil {
		return err
	}
	if role == roleUse {
		defer host.Stop()
		return useReaders(ctx, host)
	}
	fmt.Println(host.PID)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// useReaders plugs a card into each reader and finds it there through PC/SC.
func useReaders(ctx context.Context, host *virtual.Host) error {
	if err := os.Setenv("PCSCLITE_CSOCK_NAME", host.Socket); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, processTimeout)
	defer cancel()
	for _, r := range host.Readers {
		card := virtual.NewCard()
		plugged, err := virtual.Plug(ctx, r.Addr, card)
		if err != nil {
			return err
		}
		defer plugged.Unplug()
		if _, err := pcsc.Wait(ctx, r.Name); err != nil {
			return err
		}
		c, err := pcsc.Open(ctx, r.Name)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Transmit(ctx, []byte{0x00, 0xA4, 0x04, 0x00, 0x05, 0xA0, 0x00, 0x00, 0x03, 0x08}); err != nil {
			return err
		}
		answer, err := c.Transmit(ctx, []byte{0x00, 0xF8, 0x00, 0x00})
		want := fmt.Appendf(nil, "%08x9000", card.Serial())
		if err != nil || fmt.Sprintf("%x", answer) != string(want) {
			return fmt.Errorf("reader %s: got %x, %v, want %s", r.Name, answer, err, want)
		}
	}
	return nil
}

// process starts the test binary in a role.
func process(t *testing.T, role, binary, dir string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), binary, dir)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	return cmd
}

// startAs starts a host in another process and returns the host's PID.
func startAs(t *testing.T, role, dir string) (cmd *exec.Cmd, stdin io.Closer, pid int) {
	t.Helper()
	cmd = process(t, role, os.Args[0], dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(line)); err != nil {
		t.Fatalf("got %q, want a process number", line)
	}
	return cmd, in, pid
}

// awaitGone waits until nothing listens at the socket of a host.
func awaitGone(t *testing.T, dir string) {
	t.Helper()
	for deadline := time.Now().Add(processTimeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if !listening(dir) {
			return
		}
	}
	t.Error("pcscd is still there")
}

func listening(dir string) bool {
	conn, err := net.Dial("unix", filepath.Join(dir, "pcscd.comm"))
	if err == nil {
		conn.Close()
	}
	return err == nil
}

func TestHostEndsWithKilledStarter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd, _, _ := startAs(t, roleStart, dir)
	if !listening(dir) {
		t.Error("pcscd is not there")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	awaitGone(t, dir)
}

func TestHostEndsWithSignal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd, stdin, pid := startAs(t, roleStart, dir)
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, dir)
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestHostOutlivesStarter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd, stdin, pid := startAs(t, roleOutlive, dir)
	t.Cleanup(func() { syscall.Kill(pid, syscall.SIGKILL) })
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	list := process(t, roleList, os.Args[0], dir)
	list.Env = append(list.Env, "PCSCLITE_CSOCK_NAME="+filepath.Join(dir, "pcscd.comm"))
	out, err := list.CombinedOutput()
	if err != nil || strings.Count(string(out), "\n") != 4 || !strings.HasPrefix(string(out), "Yubico YubiKey") {
		t.Errorf("got %v, %q, want 4 readers", err, out)
	}
	if _, err := virtual.StartHost(t.Context(), virtual.HostConfig{Dir: dir, Readers: 1}); err == nil || !strings.Contains(err.Error(), "already listens") {
		t.Errorf("a second host in the directory: got %v", err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, dir)
}

// TestHostForEveryUser runs a host and uses its readers as an ordinary user, and
// as whoever runs the tests.
func TestHostForEveryUser(t *testing.T) {
	t.Run("self", func(t *testing.T) {
		t.Parallel()
		if out, err := process(t, roleUse, os.Args[0], t.TempDir()).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("not root", func(t *testing.T) {
		t.Parallel()
		binary, dir := os.Args[0], t.TempDir()
		var credential *syscall.Credential
		if os.Geteuid() == 0 {
			const nobody = 65534
			credential = &syscall.Credential{Uid: nobody, Gid: nobody}
			binary, dir = publicCopy(t, binary), publicDir(t)
			if err := os.Chown(dir, nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
		cmd := process(t, roleUse, binary, dir)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// publicDir makes a directory that every user can enter.
func publicDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "virtual-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func publicCopy(t *testing.T, binary string) string {
	b, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(publicDir(t), "test")
	if err := os.WriteFile(name, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestHostStop(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	host, err := virtual.StartHost(t.Context(), virtual.HostConfig{Dir: dir, Readers: 3})
	if err != nil {
		t.Fatal(err)
	}
	if len(host.Readers) != 4 {
		t.Errorf("%d readers, want 4: they come in pairs", len(host.Readers))
	}
	if info, err := os.Stat(host.Socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v, want mode 0600", info, err)
	}
	plugged, err := virtual.Plug(t.Context(), host.Readers[2].Addr, virtual.NewCard())
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Stop(); err != nil {
		t.Error(err)
	}
	select {
	case <-host.Exited():
	default:
		t.Error("Stop came back before pcscd had ended")
	}
	select {
	case <-plugged.Done():
	case <-time.After(processTimeout):
		t.Error("the card is still plugged in")
	}
	plugged.Unplug()
	if _, err := os.Stat(host.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket after Stop: %v", err)
	}
}

func TestHostRefuses(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]virtual.HostConfig{
		"no readers":       {Dir: t.TempDir()},
		"too many readers": {Dir: t.TempDir(), Readers: virtual.ReadersMax + 1},
		"long path":        {Dir: filepath.Join(t.TempDir(), strings.Repeat("x", 100)), Readers: 1},
	} {
		if _, err := virtual.StartHost(t.Context(), cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestPlugNeedsReader checks that Plug tells a reader from anything else.
func TestPlugNeedsReader(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		conn, err := l.Accept()
		if err == nil {
			conn.Write([]byte{0x00, 0x01, 0x77}) // no such control byte
			conn.Close()
		}
	}()
	if _, err := virtual.Plug(t.Context(), l.Addr().String(), virtual.NewCard()); err == nil {
		t.Error("a server that is no reader: no error")
	}
	l.Close()
	if _, err := virtual.Plug(t.Context(), l.Addr().String(), virtual.NewCard()); err == nil {
		t.Error("nobody there: no error")
	}
}

// TestFrames speaks to a plugged card as a reader does.
func TestFrames(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	card := virtual.NewCard()
	got := make(chan [][]byte, 1)
	go func() {
		defer close(got)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		var answers [][]byte
		ask := func(frame []byte, answered bool) {
			conn.Write([]byte{0, byte(len(frame))})
			conn.Write(frame)
			if answered {
				length := make([]byte, 2)
				io.ReadFull(conn, length)
				answer := make([]byte, int(length[0])<<8|int(length[1]))
				io.ReadFull(conn, answer)
				answers = append(answers, answer)
			}
		}
		ask([]byte{0x04}, true)
		ask([]byte{0x01}, false)
		ask([]byte{0x00, 0xA4, 0x04, 0x00, 0x05, 0xA0, 0x00, 0x00, 0x03, 0x08}, true)
		ask([]byte{0x00, 0xFD, 0x00, 0x00}, true)
		ask([]byte{0x02}, false)
		ask([]byte{0x00, 0xFD, 0x00, 0x00}, true) // nothing is selected any more
		got <- answers
	}()
	plugged, err := virtual.Plug(t.Context(), l.Addr().String(), card)
	if err != nil {
		t.Fatal(err)
	}
	defer plugged.Unplug()
	answers := <-got
	want := [][]byte{
		card.ATR(),
		append([]byte{0x61, 0x11, 0x4F, 0x06, 0, 0, 0x10, 0, 1, 0, 0x79, 0x07, 0x4F, 0x05, 0xA0, 0, 0, 3, 8}, 0x90, 0x00),
		{5, 4, 3, 0x90, 0x00},
		{0x6D, 0x00},
	}
	if !slices.EqualFunc(answers, want, bytes.Equal) {
		t.Errorf("got % X, want % X", answers, want)
	}
}
