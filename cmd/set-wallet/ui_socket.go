package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/setkit/setkit/roles/wallet/web"
)

// The window that is open listens at a socket in the wallet's directory, which only its user can enter. A
// second start sends the initiation message there, or nothing, and gets an address to open.
const (
	socketFile      = "ui.sock"
	handOverTimeout = 5 * time.Second
)

// handOver gives the message to the window that is open; false if there is none.
func handOver(ctx context.Context, dir string, message []byte) (address string, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(dir, socketFile))
	if err != nil {
		return "", false
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(handOverTimeout)); err != nil {
		return "", false
	}
	if _, err := conn.Write(message); err != nil {
		return "", false
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		return "", false
	}
	answer, err := io.ReadAll(io.LimitReader(conn, 1<<10))
	return string(answer), err == nil && strings.HasPrefix(string(answer), "http://")
}

// listenSocket takes the place of a window that has gone without a word.
func listenSocket(dir string) (net.Listener, error) {
	name := filepath.Join(dir, socketFile)
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", name)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(name, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// receive answers those that start later.
func receive(l net.Listener, w *web.Window) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			if conn.SetDeadline(time.Now().Add(handOverTimeout)) != nil {
				return
			}
			message, err := io.ReadAll(io.LimitReader(conn, initiationOctetsMax+1))
			if err != nil {
				return
			}
			address := w.Enter()
			if len(message) > 0 {
				address = w.Open(message)
			}
			io.WriteString(conn, address)
		}()
	}
}
