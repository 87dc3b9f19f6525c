package sqldbtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	superuser      = "postgres"
	startTimeout   = 60 * time.Second
	startPoll      = 20 * time.Millisecond
	connectionsMax = 200
)

// shared is the one server of this test process.
var shared lazyServer

type lazyServer struct {
	once   sync.Once
	server *server
	err    error
}

func (l *lazyServer) get() (*server, error) {
	l.once.Do(func() { l.server, l.err = startServer() })
	return l.server, l.err
}

func (l *lazyServer) stop() {
	l.once.Do(func() { l.err = errors.New("PostgreSQL was asked for after the tests had ended") })
	if l.server != nil {
		l.server.stop()
	}
}

// keeper runs the server until its standard input ends, which it does with the test process however that
// ends. SIGQUIT makes PostgreSQL stop at once. $0 is the directory to remove.
const keeper = `
exec 3<&0
"$@" & server=$!
(exec >/dev/null 2>&1; read -r _ <&3; kill -QUIT $server) &
wait $server
rm -rf "$0"
`

type server struct {
	dir       string // data and socket
	cmd       *exec.Cmd
	alive     io.Closer // the keeper's standard input
	exited    chan struct{}
	databases atomic.Int64
}

func (s *server) nextName() string { return fmt.Sprintf("test_%d", s.databases.Add(1)) }

func startServer() (*server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	cred, err := unprivileged()
	if err != nil {
		return nil, err
	}
	// Short, because a Unix socket's path is at most 107 bytes, and not below a directory of root's.
	dir, err := os.MkdirTemp("/tmp", "sqldbtest-")
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir}
	if err := s.start(bin, cred); err != nil {
		s.stop()
		return nil, fmt.Errorf("start a PostgreSQL for the tests: %w", err)
	}
	return s, nil
}

func binaries() (dir string, err error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", errors.New("no PostgreSQL under /usr/lib/postgresql: install it with apt-get install postgresql, or run make setup")
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		return n
	}
	newest := slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })
	return filepath.Dir(newest), nil
}

// unprivileged is the user to run the server as; nil means the user of the test.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup(superuser)
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL does not run as root, and there is no user postgres or nobody: %w", err)
	}
	uid, errU := strconv.ParseUint(u.Uid, 10, 32)
	gid, errG := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(errU, errG)
}

func (s *server) start(bin string, cred *syscall.Credential) error {
	if cred != nil {
		if err := os.Chown(s.dir, int(cred.Uid), int(cred.Gid)); err != nil {
			return err
		}
	}
	data := filepath.Join(s.dir, "data")
	initdb := exec.Command(filepath.Join(bin, "initdb"), "--pgdata", data, "--username", superuser,
		"--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions")
	initdb.Dir = s.dir
	initdb.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}

	var log bytes.Buffer // read only after the process exited
	s.cmd = exec.Command("/bin/sh", "-c", keeper, s.dir, filepath.Join(bin, "postgres"), "-D", data, "-k", s.dir, "-F",
		"-c", "listen_addresses=", "-c", "full_page_writes=off", "-c", "synchronous_commit=off",
		"-c", "max_connections="+strconv.Itoa(connectionsMax), "-c", "shared_buffers=16MB")
	s.cmd.Dir = "/"
	s.cmd.Stdout, s.cmd.Stderr = &log, &log
	// Its own process group, so that an interrupt from the terminal does not go past the keeper.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred, Setpgid: true}
	var err error
	if s.alive, err = s.cmd.StdinPipe(); err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.exited = make(chan struct{})
	go func() {
		defer close(s.exited)
		s.cmd.Wait()
	}()
	return s.waitReady(&log)
}

func (s *server) waitReady(log *bytes.Buffer) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.url("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-s.exited:
			return fmt.Errorf("server ended:\n%s", log)
		case <-ctx.Done():
			return fmt.Errorf("server did not answer in %s: %w", startTimeout, err)
		case <-time.After(startPoll):
		}
	}
}

func (s *server) stop() {
	if s.exited != nil {
		s.alive.Close()
		<-s.exited
	}
	os.RemoveAll(s.dir)
}
