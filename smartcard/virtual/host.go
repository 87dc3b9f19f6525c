package virtual

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2" // picks ports, hides nothing
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// ReadersMax is the most readers that one pcscd has room for.
	ReadersMax = 16

	slotsPerDriver   = 2 // a loaded vpcd driver makes a pair of readers
	socketBytesMax   = 107
	startAttempts    = 8
	startTimeout     = 10 * time.Second
	stopTimeout      = 5 * time.Second
	pollInterval     = 5 * time.Millisecond
	logTailBytes     = 600
	portMin, portMax = 20000, 32000 // below the ports that outgoing connections get

	pcscdRunDir = "/run/pcscd" // compiled into pcscd, which refuses to start without it
)

// HostConfig says what StartHost has to start.
type HostConfig struct {
	// Dir is where the socket and pcscd's files go. It is made if it is missing.
	// The socket's path may have 107 bytes.
	Dir string

	// Readers is the number of readers, 1 to ReadersMax. They come in pairs: an
	// odd number is rounded up.
	Readers int

	// Driver is the file of the vpcd driver, which nobody, as whom pcscd runs, has to
	// be able to read. Without it, it is where distributions put it.
	Driver string

	// Outlive lets pcscd run on when this process ends; whoever started it ends
	// it with a SIGTERM to Host.PID. Otherwise pcscd ends with this process,
	// even if that is killed.
	Outlive bool
}

// A Host is a private pcscd with virtual readers.
type Host struct {
	// Socket is the value of PCSCLITE_CSOCK_NAME with which programs reach this
	// pcscd. libpcsclite reads the variable once per process.
	Socket string

	// PID is the process to end.
	PID int

	// Readers are the readers, all empty.
	Readers []Reader

	process  *os.Process
	lifeline io.Closer     // pcscd ends when it is closed; nil with Outlive
	exited   chan struct{} // closed when the process was reaped
}

// A Reader is a virtual reader.
type Reader struct {
	Name string // as PC/SC lists it
	Addr string // where a card is plugged in, host:port
}

// StartHost starts a pcscd that nobody sees who doesn't know its socket. A pcscd
// of the system is not disturbed: the private one is handed its socket, and runs
// as nobody when the caller is root. Only the caller's user can open the socket.
//
// The readers' TCP ports, however, are open to every network that reaches the
// machine: that is how vpcd is. A free reader can be given a card by anyone.
//
// Besides pcscd's process there is a goroutine that waits for its end.
func StartHost(ctx context.Context, cfg HostConfig) (*Host, error) {
	if cfg.Readers < 1 || cfg.Readers > ReadersMax {
		return nil, fmt.Errorf("virtual: %d readers, want 1 to %d", cfg.Readers, ReadersMax)
	}
	s, err := newStarter(cfg)
	if err != nil {
		return nil, err
	}
	for range startAttempts {
		var h *Host
		h, err = s.attempt(ctx)
		if err == nil {
			return h, nil
		}
		if !errors.Is(err, errPortTaken) {
			break
		}
	}
	return nil, err
}

// Stop ends pcscd and removes its socket. The readers and every connection to
// them are gone afterwards.
func (h *Host) Stop() error {
	if h.lifeline != nil {
		h.lifeline.Close()
	} else if err := h.process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("virtual: end pcscd %d: %w", h.PID, err)
	}
	select {
	case <-h.exited:
	case <-time.After(stopTimeout):
		h.process.Kill()
		<-h.exited
	}
	if err := os.Remove(h.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("virtual: %w", err)
	}
	return nil
}

// Exited is closed when pcscd has ended.
func (h *Host) Exited() <-chan struct{} { return h.exited }

// errPortTaken makes StartHost try other ports.
var errPortTaken = errors.New("virtual: a reader's TCP port is taken")

// starter is what the attempts to start a pcscd have in common.
type starter struct {
	cfg     HostConfig
	pcscd   string
	driver  string
	options []string
	socket  string
	work    string // pcscd's own directory
}

func newStarter(cfg HostConfig) (*starter, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("virtual: %w", err)
	}
	s := &starter{cfg: cfg, socket: filepath.Join(dir, "pcscd.comm"), work: filepath.Join(dir, "private-pcscd")}
	if n := len(s.socket); n > socketBytesMax {
		return nil, fmt.Errorf("virtual: the path of the socket, %s, has %d bytes, at most %d are possible; choose a shorter directory", s.socket, n, socketBytesMax)
	}
	if err := s.findPrograms(); err != nil {
		return nil, err
	}
	if err := needRunDir(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("virtual: %w", err)
	}
	if conn, err := net.Dial("unix", s.socket); err == nil {
		conn.Close()
		return nil, fmt.Errorf("virtual: a pcscd already listens at %s; end it or choose another directory", s.socket)
	}
	if err := os.Remove(s.socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("virtual: %w", err)
	}
	return s, nil
}

// findPrograms looks for pcscd and the vpcd driver where distributions put them.
func (s *starter) findPrograms() error {
	for _, name := range []string{"pcscd", "/usr/sbin/pcscd", "/usr/local/sbin/pcscd"} {
		if path, err := exec.LookPath(name); err == nil {
			s.pcscd = path
			break
		}
	}
	if s.pcscd == "" {
		return errors.New("virtual: pcscd is not installed: apt-get install pcscd")
	}
	s.driver = s.cfg.Driver
	for _, lib := range []string{"/usr/lib", "/usr/lib64", "/usr/local/lib"} {
		path := filepath.Join(lib, "pcsc/drivers/serial/libifdvpcd.so")
		if _, err := os.Stat(path); err == nil && s.driver == "" {
			s.driver = path
		}
	}
	if s.driver == "" {
		return errors.New("virtual: the vpcd reader driver is not installed: apt-get install vsmartcard-vpcd")
	}
	// Newer versions ask polkit about every client. Here the socket's mode decides.
	if help, err := exec.Command(s.pcscd, "--help").CombinedOutput(); err == nil && strings.Contains(string(help), "disable-polkit") {
		s.options = append(s.options, "--disable-polkit")
	}
	return nil
}

// needRunDir makes the directory without which pcscd doesn't start, although it
// puts nothing there that matters.
func needRunDir() error {
	err := os.Mkdir(pcscdRunDir, 0o755)
	if err == nil {
		return os.Chmod(pcscdRunDir, 0o755)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return fmt.Errorf("virtual: pcscd needs the directory %s: sudo mkdir -m 755 %s (%w)", pcscdRunDir, pcscdRunDir, err)
}

// attempt starts pcscd with ports that were free a moment ago.
func (s *starter) attempt(ctx context.Context) (*Host, error) {
	pairs := (s.cfg.Readers + slotsPerDriver - 1) / slotsPerDriver
	readers, ports, err := s.configure(pairs)
	if err != nil {
		return nil, err
	}
	h, logPath, err := s.launch()
	if err != nil {
		return nil, err
	}
	h.Readers = readers
	if err := h.awaitReady(ctx, logPath, ports); err != nil {
		h.Stop()
		return nil, err
	}
	return h, nil
}

// configure writes pcscd's directory anew. A driver holds its two connections
// in variables of the library, so each further pair needs a copy of it: loaded
// twice from one file it would be the same library.
func (s *starter) configure(pairs int) ([]Reader, []int, error) {
	if err := os.RemoveAll(s.work); err != nil {
		return nil, nil, fmt.Errorf("virtual: %w", err)
	}
	for _, dir := range []string{s.work, filepath.Join(s.work, "conf"), filepath.Join(s.work, "usb")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, nil, fmt.Errorf("virtual: %w", err)
		}
		if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
			return nil, nil, fmt.Errorf("virtual: %w", err)
		}
	}
	var readers []Reader
	var ports []int
	var conf strings.Builder
	for i := range pairs {
		port, err := freePortPair(ports)
		if err != nil {
			return nil, nil, err
		}
		library := s.driver
		if i > 0 {
			name := fmt.Sprintf("driver%d.so", i)
			library = inherited + "/" + name
			if err := copyFile(filepath.Join(s.work, name), s.driver); err != nil {
				return nil, nil, fmt.Errorf("virtual: %w", err)
			}
		}
		// Some programs want a YubiKey and go by the reader's name.
		name := fmt.Sprintf("Yubico YubiKey SET %d", i)
		fmt.Fprintf(&conf, "FRIENDLYNAME \"%s\"\nDEVICENAME /dev/null:0x%X\nLIBPATH %s\nCHANNELID 0x%X\n\n", name, port, library, port)
		for slot := range slotsPerDriver {
			readers = append(readers, Reader{
				Name: fmt.Sprintf("%s 00 %02X", name, slot),
				Addr: fmt.Sprintf("127.0.0.1:%d", port+slot),
			})
			ports = append(ports, port+slot)
		}
	}
	if err := writeFile(filepath.Join(s.work, "conf", "readers"), []byte(conf.String())); err != nil {
		return nil, nil, fmt.Errorf("virtual: %w", err)
	}
	return readers, ports, nil
}

// pcscd gets its socket as file descriptor 3, as systemd would hand it over, and
// its directory as 4: running as nobody it could not reach it by name below a
// directory that is only the caller's.
const inherited = "/proc/self/fd/4"

// plainScript becomes pcscd. LISTEN_PID has to be pcscd's own process number.
const plainScript = `LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"`

// guardScript runs pcscd until standard input ends, which it does when the
// starting process ends, however it ends.
const guardScript = `exec 5<&0
sh -c '` + plainScript + `' sh "$@" 5<&- &
pcscd=$!
exec 3<&- 4<&-
trap 'kill $pcscd' TERM INT
(read -r line <&5; kill $pcscd) 2>/dev/null &
guard=$!
wait $pcscd
status=$?
kill $guard 2>/dev/null
exit $status
`

// launch starts pcscd and says where its log is.
func (s *starter) launch() (*Host, string, error) {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.socket, Net: "unix"})
	if err != nil {
		return nil, "", fmt.Errorf("virtual: %w", err)
	}
	listener.SetUnlinkOnClose(false)
	defer listener.Close()
	if err := os.Chmod(s.socket, 0o600); err != nil {
		return nil, "", fmt.Errorf("virtual: %w", err)
	}
	socket, err := listener.File()
	if err != nil {
		return nil, "", fmt.Errorf("virtual: %w", err)
	}
	defer socket.Close()
	work, err := os.Open(s.work)
	if err != nil {
		return nil, "", fmt.Errorf("virtual: %w", err)
	}
	defer work.Close()
	logPath := filepath.Join(s.work, "log")
	log, err := os.OpenFile(logPath, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, "", fmt.Errorf("virtual: %w", err)
	}
	defer log.Close()

	cmd := s.command()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{socket, work}
	h := &Host{Socket: s.socket, exited: make(chan struct{})}
	if !s.cfg.Outlive {
		end, lifeline, err := os.Pipe()
		if err != nil {
			return nil, "", fmt.Errorf("virtual: %w", err)
		}
		defer end.Close()
		cmd.Stdin, h.lifeline = end, lifeline
	}
	if err := startAsNobody(cmd); err != nil {
		if h.lifeline != nil {
			h.lifeline.Close()
		}
		return nil, "", fmt.Errorf("virtual: start pcscd: %w", err)
	}
	h.process, h.PID = cmd.Process, cmd.Process.Pid
	go func() {
		defer close(h.exited)
		_ = cmd.Wait() // how it ended is in its log
	}()
	return h, logPath, nil
}

// command is the command line of pcscd. Readers on USB are the system pcscd's:
// an empty directory of drivers keeps this one from them (from version 2.0 on).
func (s *starter) command() *exec.Cmd {
	script := guardScript
	if s.cfg.Outlive {
		script = plainScript
	}
	args := []string{"-c", script, "sh", s.pcscd, "--foreground", "--info", "--config", inherited + "/conf"}
	cmd := exec.Command("/bin/sh", append(args, s.options...)...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PCSCLITE_HP_DROPDIR=" + inherited + "/usb"}
	return cmd
}

// awaitReady reads pcscd's log until it says that it is ready, and whether it
// has opened the readers' ports: it doesn't end when it could not.
func (h *Host) awaitReady(ctx context.Context, logPath string, ports []int) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		text, err := os.ReadFile(logPath)
		if err != nil {
			return fmt.Errorf("virtual: %w", err)
		}
		log := string(text)
		if strings.Contains(log, "Could not initialize") || strings.Contains(log, "Address already in use") {
			return errPortTaken
		}
		if strings.Contains(log, "daemon ready") {
			return checkPorts(log, ports)
		}
		select {
		case <-h.exited:
			return fmt.Errorf("virtual: pcscd ended at once: %s", tail(log))
		case <-ctx.Done():
			return fmt.Errorf("virtual: pcscd is not ready (%w): %s", context.Cause(ctx), tail(log))
		case <-time.After(pollInterval):
		}
	}
}

func checkPorts(log string, ports []int) error {
	for _, port := range ports {
		if !strings.Contains(log, fmt.Sprintf("Waiting for virtual ICC on port %d\n", port)) {
			return fmt.Errorf("virtual: pcscd has made no reader at port %d: %s", port, tail(log))
		}
	}
	return nil
}

func tail(log string) string {
	if log == "" {
		return "it has logged nothing"
	}
	return strings.TrimSpace(log[max(0, len(log)-logTailBytes):])
}

// freePortPair finds two neighbouring ports that are free on all addresses and
// not among taken.
func freePortPair(taken []int) (int, error) {
	used := make(map[int]bool)
	for _, p := range taken {
		used[p] = true
	}
	for range 100 {
		port := portMin + slotsPerDriver*rand.IntN((portMax-portMin)/slotsPerDriver)
		if !used[port] && free(port) && free(port+1) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("virtual: no two neighbouring free TCP ports found between %d and %d", portMin, portMax)
}

func free(port int) bool {
	l, err := net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", port))
	if err != nil {
		return false
	}
	l.Close()
	return true
}

// copyFile and writeFile make files that everyone may read.
func copyFile(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return writeFile(to, b)
}

func writeFile(name string, b []byte) error {
	if err := os.WriteFile(name, b, 0o644); err != nil {
		return err
	}
	return os.Chmod(name, 0o644)
}
