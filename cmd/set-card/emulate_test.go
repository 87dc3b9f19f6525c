package main

import (
	"bufio"
	"encoding/json"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
)

// An emulator is a running emulate.
type emulator struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	env   string // of programs that use its cards
	said  []string
}

func startEmulator(t *testing.T, args ...string) *emulator {
	t.Helper()
	e := &emulator{cmd: asProcess(t, "", append([]string{"emulate"}, args...)...)}
	e.lines, e.said = start(t, e.cmd)
	e.env = e.said[0]
	return e
}

// end ends it with a signal, and waits.
func (e *emulator) end(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := e.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	for e.lines.Scan() {
	}
	if err := e.cmd.Wait(); err != nil && s == syscall.SIGTERM {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// asProcess is set-card in a process of its own, with one more variable.
func asProcess(t *testing.T, env string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asCommand+"=1")
	if env != "" {
		cmd.Env = append(cmd.Env, env)
	}
	return cmd
}

// statusOf is what another process sees in the readers.
func (e *emulator) statusOf(t *testing.T) []readerStatus {
	t.Helper()
	out, err := asProcess(t, e.env, "status", "--json").Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var got []readerStatus
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	return got
}

// TestEmulateKeepsCards personalises a card, kills its emulation, and finds the
// card as it was.
func TestEmulateKeepsCards(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, []byte(identity.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(dir, "ca.pem")
	args := []string{"--dir", dir, "--state", filepath.Join(dir, "card"), "--state-key-source", "file:" + key, "--attestation-ca", ca}
	e := startEmulator(t, args...)
	personalise := asProcess(t, e.env, "personalise", "--reader", strings.TrimPrefix(e.said[1], "reader: "), "--secrets-file", filepath.Join(dir, "secrets"))
	if out, err := personalise.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := e.statusOf(t)
	if len(want[0].Card.Slots) != 2 {
		t.Fatalf("got %+v, want a card with two keys", want)
	}
	before, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	if block, rest := pem.Decode(before); block == nil || block.Type != "CERTIFICATE" || len(rest) > 0 {
		t.Errorf("--attestation-ca: got %q, want one certificate", before)
	}
	// One card cannot be in two readers.
	second := asProcess(t, "", "emulate", "--state", filepath.Join(dir, "card"), "--state-key-source", "file:"+key)
	if out, err := second.CombinedOutput(); err == nil || !strings.Contains(string(out), "another process") {
		t.Errorf("the same card again: %v, %s", err, out)
	}
	e.end(t, syscall.SIGKILL)
	awaitNobody(t, dir)

	e = startEmulator(t, args...)
	if diff := cmp.Diff(want, e.statusOf(t)); diff != "" {
		t.Errorf("the card has changed (-before +after):\n%s", diff)
	}
	if after, err := os.ReadFile(ca); err != nil || string(after) != string(before) {
		t.Errorf("the card has another maker: %v", err)
	}
	e.end(t, syscall.SIGTERM)
}

// awaitNobody waits until the pcscd of a killed emulation has ended.
func awaitNobody(t *testing.T, dir string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("unix", filepath.Join(dir, "pcscd.comm"))
		if err != nil {
			return
		}
		conn.Close()
	}
	t.Fatal("pcscd is still there")
}

// TestEmulateControl pulls, inserts and resets one of two cards.
func TestEmulateControl(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e := startEmulator(t, "--dir", dir, "--cards", "2", "--firmware", "5.7", "--latency", "1ms")
	serials := []string{strings.TrimPrefix(e.said[2], "serial: "), strings.TrimPrefix(e.said[4], "serial: ")}
	list := func() []bayStatus {
		t.Helper()
		stdout, _ := wantCode(t, 0, "emulate", "list", "--dir", dir, "--json")
		var got []bayStatus
		if err := json.Unmarshal([]byte(stdout), &got); err != nil {
			t.Fatal(err)
		}
		return got
	}
	check := func(first, second bool) {
		t.Helper()
		listed, seen := list(), e.statusOf(t)
		for i, want := range []bool{first, second} {
			if got := strconv.FormatUint(uint64(listed[i].Serial), 10); got != serials[i] || listed[i].Number != i+1 || listed[i].Inserted != want || listed[i].Reader != seen[i].Reader {
				t.Errorf("list: got %+v, want card %d with serial number %s, inserted: %v", listed[i], i+1, serials[i], want)
			}
			if (seen[i].Card != nil) != want {
				t.Errorf("PC/SC sees %+v in reader %d, want a card: %v", seen[i].Card, i+1, want)
			}
			if seen[i].Card != nil && (seen[i].Card.Serial != serials[i] || seen[i].Card.Version != "5.7.1") {
				t.Errorf("got %+v, want serial number %s, version 5.7.1", seen[i].Card, serials[i])
			}
		}
	}
	check(true, true)
	wantCode(t, 0, "emulate", "remove", "--dir", dir, "2")
	check(true, false)
	_, stderr := wantCode(t, 1, "emulate", "remove", "--dir", dir, "2")
	if !strings.Contains(stderr, "card 2 is not in its reader") {
		t.Errorf("got %q", stderr)
	}
	wantCode(t, 1, "emulate", "reset", "--dir", dir, "2")
	wantCode(t, 0, "emulate", "insert", "--dir", dir, "2")
	wantCode(t, 1, "emulate", "insert", "--dir", dir, "2")
	wantCode(t, 0, "emulate", "reset", "--dir", dir, "2")
	check(true, true)
	wantCode(t, 1, "emulate", "insert", "--dir", dir, "3")
	wantCode(t, 2, "emulate", "insert", "--dir", dir)
	wantCode(t, 2, "emulate", "insert", "--dir", dir, "first")
	wantCode(t, 2, "emulate", "list")
	stdout, _ := wantCode(t, 0, "emulate", "list", "--dir", dir)
	if !strings.Contains(stdout, serials[1]) || !strings.Contains(stdout, "inserted") {
		t.Errorf("got %q", stdout)
	}
	e.end(t, syscall.SIGTERM)
	_, stderr = wantCode(t, 3, "emulate", "list", "--dir", dir)
	if !strings.Contains(stderr, "no emulation runs in") {
		t.Errorf("got %q", stderr)
	}
}

func TestEmulateUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"--cards", "0"},
		{"--cards", "17"},
		{"--vpcd", "127.0.0.1:1", "--cards", "2"},
		{"--state", "card"},
		{"--state", "a", "--state", "b", "--cards", "1", "--state-key-source", "env:X"},
		{"--firmware", "6"},
		{"--latency", "long"},
		{"--latency", "-1s"},
		{"extra"},
	} {
		wantCode(t, 2, append([]string{"emulate"}, args...)...)
	}
}
