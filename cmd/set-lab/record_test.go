package main

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
)

// recorder passes connections on to a server and keeps every octet of both directions.
type recorder struct {
	addr string

	mu   sync.Mutex
	seen bytes.Buffer
}

func record(t *testing.T, to string) *recorder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	r := &recorder{addr: l.Addr().String()}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go r.pass(client, to)
		}
	}()
	return r
}

func (r *recorder) pass(client net.Conn, to string) {
	defer client.Close()
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		io.Copy(server, io.TeeReader(client, r))
		server.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(client, io.TeeReader(server, r))
}

// Write keeps what passes.
func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen.Write(b)
}

func (r *recorder) octets() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Clone(r.seen.Bytes())
}
