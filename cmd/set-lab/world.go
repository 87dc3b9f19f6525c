package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2" // for ports; whoever guesses one gains nothing
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/setkit/setkit/cmd/internal/cli"
)

// world is one lab: a directory with everything that its parties keep, and the processes that run.
type world struct {
	dir string
	bin string // where the commands are
	state

	// front are the addresses by which the parties reach each other, where these are not the doors: a
	// test listens before them.
	front map[string]string
}

// state is what a later set-lab must know of a running world. It is stored in stateFile.
type state struct {
	Ports     map[string]int `json:"ports"`
	PCSCDir   string         `json:"pcsc_dir"` // the private pcscd's; not below dir, because a socket's path is short
	Processes []process      `json:"processes"`
}

// process is a party that runs.
type process struct {
	Name  string `json:"name"`
	PID   int    `json:"pid"`
	Start string `json:"start"` // tells this process from a later one with the same number
	Log   string `json:"log"`
}

const (
	stateFile    = "lab.json"
	startTimeout = 60 * time.Second
	stopTimeout  = 15 * time.Second
	pollInterval = 50 * time.Millisecond
)

// services are the ports of a world.
var services = []string{
	"issuer", "issuer-http", "ca", "gateway", "merchant", "office", doorCA, doorGateway, doorMerchant, doorIssuer, doorIssuerCA, uiService,
}

// newWorld makes a fresh directory for a world. An older lab in its place is removed; anything else is
// left alone.
func newWorld(dir, bin string) (*world, error) {
	if err := complete(bin); err != nil {
		return nil, err
	}
	w, err := openWorld(dir, bin)
	switch {
	case err == nil:
		if err := errors.Join(w.stop(), os.RemoveAll(dir)); err != nil {
			return nil, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return nil, cli.Usage(fmt.Errorf("%s is not empty and not a lab: name another directory with --dir", dir))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	w = &world{dir: dir, bin: bin}
	if w.Ports, err = freePorts(services); err != nil {
		return nil, err
	}
	if w.PCSCDir, err = os.MkdirTemp("", "setkit-pcscd-"); err != nil {
		return nil, err
	}
	return w, w.save()
}

// openWorld reads the state of the lab in dir.
func openWorld(dir, bin string) (*world, error) {
	raw, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir, bin: bin}
	if err := json.Unmarshal(raw, &w.state); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, stateFile), err)
	}
	return w, nil
}

func (w *world) save() error {
	raw, err := json.MarshalIndent(w.state, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(w.path(stateFile), append(raw, '\n'), 0o600)
}

// path gives a path below the world's directory.
func (w *world) path(elem ...string) string {
	return filepath.Join(append([]string{w.dir}, elem...)...)
}

// url gives the address by which others reach a service.
func (w *world) url(service string) string {
	if front, ok := w.front[service]; ok {
		return "http://" + front
	}
	return "http://" + w.addr(service+"-door")
}

// addr gives the address on which a service listens.
func (w *world) addr(service string) string {
	return fmt.Sprintf("127.0.0.1:%d", w.Ports[service])
}

// Ports of a world, below those that systems give to outgoing connections: one of these could take a port in
// the seconds before its service listens.
const (
	portMin      = 14000
	portMax      = 24000
	portTriesMax = 1000
)

// freePorts finds ports that nobody listens on. They are held until all are known, so that none is given
// twice.
func freePorts(names []string) (map[string]int, error) {
	ports := make(map[string]int)
	for tries := 0; len(ports) < len(names); tries++ {
		if tries == portTriesMax {
			return nil, fmt.Errorf("no free port from %d to %d", portMin, portMax)
		}
		port := portMin + mathrand.IntN(portMax-portMin)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		defer l.Close()
		ports[names[len(ports)]] = port
	}
	return ports, nil
}

// secret gives the secret of this name, made on first use and kept in a file for its owner only.
func (w *world) secret(name string) (path string, err error) {
	path = w.path("secrets", name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	b := make([]byte, 10)
	rand.Read(b)
	return path, w.keep(path, base32.StdEncoding.EncodeToString(b)+"\n")
}

func (w *world) keep(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o600)
}

// command is a run of one of the project's commands, with nothing of this process's environment but what
// a program needs to run.
func (w *world) command(ctx context.Context, env []string, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(w.bin, name), args...)
	cmd.Dir = w.dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir()}, env...)
	return cmd
}

// run runs a command to its end and gives its standard output. A failure shows what it said.
func (w *world) run(ctx context.Context, env []string, name string, args ...string) ([]byte, error) {
	cmd := w.command(ctx, env, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.Bytes(), fmt.Errorf("%s %s: %w\n%s", name, args[0], err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// runJSON runs a command that prints JSON.
func (w *world) runJSON(ctx context.Context, into any, env []string, name string, args ...string) error {
	out, err := w.run(ctx, env, name, args...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("%s %s printed no JSON: %w", name, args[0], err)
	}
	return nil
}

// start starts a party, which runs on when this process ends, and waits until ready says it is.
func (w *world) start(ctx context.Context, env []string, ready func(log []byte) bool, party, name string, args ...string) error {
	log := w.path("log", party+".log")
	if err := os.MkdirAll(filepath.Dir(log), 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := w.command(context.Background(), env, name, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C at the lab is not for it
	if err := cmd.Start(); err != nil {
		return err
	}
	started, err := startTime(cmd.Process.Pid)
	if err != nil {
		return err
	}
	w.Processes = append(w.Processes, process{party, cmd.Process.Pid, started, log})
	if err := w.save(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		text, err := os.ReadFile(log)
		if err != nil {
			return err
		}
		if ready(text) {
			return nil
		}
		select {
		case err := <-exited:
			if last, failed := os.ReadFile(log); failed == nil {
				text = last // with why it ended
			}
			return fmt.Errorf("%s ended before it was ready (%v):\n%s", party, err, bytes.TrimSpace(text))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %v, see %s", party, startTimeout, log)
		case <-time.After(pollInterval):
		}
	}
}

// answers tells that a server says it is ready.
func answers(url string) func([]byte) bool {
	client := http.Client{Timeout: time.Second}
	return func([]byte) bool {
		res, err := client.Get(url + "/readyz")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode == http.StatusOK
	}
}

// says tells that a line of the log is the given one.
func says(line string) func([]byte) bool {
	return func(log []byte) bool { return slices.Contains(strings.Split(string(log), "\n"), line) }
}

// running counts the processes that run.
func (w *world) running() (n int) {
	for _, p := range w.Processes {
		if p.runs() {
			n++
		}
	}
	return n
}

// stop ends every process of the world, the youngest first.
func (w *world) stop() error {
	var errs []error
	for _, p := range slices.Backward(w.Processes) {
		if err := p.stop(); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		w.Processes = nil
		errs = append(errs, w.save())
	}
	if w.PCSCDir != "" {
		errs = append(errs, os.RemoveAll(w.PCSCDir))
	}
	return errors.Join(errs...)
}

// stop asks the process to end, and ends it if it does not.
func (p process) stop() error {
	if !p.runs() {
		return nil
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := syscall.Kill(p.PID, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end %s: %w", p.Name, err)
		}
		for deadline := time.Now().Add(stopTimeout); time.Now().Before(deadline); time.Sleep(pollInterval) {
			if !p.runs() {
				return nil
			}
		}
	}
	return fmt.Errorf("%s, process %d, does not end", p.Name, p.PID)
}

func (p process) runs() bool {
	started, err := startTime(p.PID)
	return err == nil && started == p.Start
}

// startTime gives the time since boot at which a process started, field 22 of /proc/PID/stat. A process
// that has ended but was not waited for has none.
func startTime(pid int) (string, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The name of the program, field 2, is in parentheses and may contain anything.
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return "", fs.ErrNotExist
	}
	return fields[19], nil
}
