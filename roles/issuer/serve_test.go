package issuer_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/issuer"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

// serve runs the bank on a free port.
func (b *bank) serve(t *testing.T) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := b.Serve(ctx, ln); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return ln.Addr().String()
}

// tap passes one connection on to addr, and keeps the frames that go there.
func tap(t *testing.T, addr string) (tapAddr string, frames func() [][]byte) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var sent bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		from, err := ln.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", addr)
		if err != nil {
			t.Error(err)
			return
		}
		go io.Copy(from, to)
		io.Copy(to, io.TeeReader(from, &sent))
		to.Close()
		from.Close()
	}()
	return ln.Addr().String(), func() (list [][]byte) {
		ln.Close()
		<-done
		for rest := sent.Bytes(); len(rest) > 2; {
			n := 2 + int(binary.BigEndian.Uint16(rest))
			list = append(list, rest[:n])
			rest = rest[n:]
		}
		return list
	}
}

func TestServe(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		b := newBank(t, url)
		addr := b.serve(t)
		tapped, frames := tap(t, addr)
		client := finnet.NewClient(tapped, slog.New(slog.DiscardHandler))

		// One of each, over the wire.
		if code, err := client.Verify(t.Context(), check(t, "alice")); code != finnet.Approved || err != nil {
			t.Fatalf("account check: %s, %v", code, err)
		}
		bought, undone := authorization(t, "alice", 2_500), authorization(t, "alice", 1_000)
		answer, err := client.Authorize(t.Context(), bought)
		if answer.Code != finnet.Approved || err != nil {
			t.Fatalf("authorization: %s, %v", answer.Code, err)
		}
		if code, err := client.Clear(t.Context(), clearing(bought, answer.ApprovalCode, 2_500)); code != finnet.Approved || err != nil {
			t.Fatalf("clearing: %s, %v", code, err)
		}
		if answer, err := client.Authorize(t.Context(), undone); answer.Code != finnet.Approved || err != nil {
			t.Fatalf("authorization: %s, %v", answer.Code, err)
		}
		if code, err := client.Reverse(t.Context(), reversal(undone)); code != finnet.Approved || err != nil {
			t.Fatalf("reversal: %s, %v", code, err)
		}
		failing := check(t, "alice")
		failing.Secret = []byte("guess")
		if code, err := client.Verify(t.Context(), failing); code != finnet.DoNotHonour || err != nil {
			t.Fatalf("account check: %s, %v", code, err)
		}
		client.Close()
		b.want(t, "alice", amounts{47_500, 0, 2_500})
		before := b.list(t)
		recorded := frames()
		if len(recorded) != 6 {
			t.Fatalf("%d frames were recorded, want 6", len(recorded))
		}

		// Replayed, damaged and cut, they change nothing.
		for _, frame := range recorded {
			throw(t, addr, frame)
			throw(t, addr, frame[:len(frame)/2])
		}
		rng := rand.New(rand.NewPCG(3, 4))
		for range 300 {
			frame := bytes.Clone(recorded[rng.IntN(len(recorded))])
			// The names of the messages, fields 7, 11 and 37, stay: another name is another request.
			pos := rng.IntN(20) // length, type, bitmap
			frame[pos] ^= byte(1 << rng.IntN(8))
			throw(t, addr, frame)
		}
		for _, size := range []int{1, 20, 1000, 2 << 20} {
			random := make([]byte, size)
			for n := range random {
				random[n] = byte(rng.Uint32())
			}
			throw(t, addr, random)
		}
		if diff := cmp.Diff(before, b.list(t)); diff != "" {
			t.Errorf("accounts have changed (-before +after):\n%s", diff)
		}
		b.audit(t)
		again := finnet.NewClient(addr, slog.New(slog.DiscardHandler))
		defer again.Close()
		if err := again.Echo(t.Context()); err != nil {
			t.Errorf("server does not serve any more: %v", err)
		}
	})
}

func (b *bank) list(t *testing.T) []issuer.Summary {
	t.Helper()
	list, err := b.Accounts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// throw sends octets on a connection of their own, ends it, and waits for the server's end.
func throw(t *testing.T, addr string, octets []byte) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	c.Write(octets) // the server may end the connection before all is written
	c.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, c)
}

func TestHealth(t *testing.T) {
	t.Parallel()
	b := newBank(t, sqldbtest.SQLite(t))
	get := func(path string) (status int, body string) {
		res := httptest.NewRecorder()
		b.Handler().ServeHTTP(res, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		return res.Code, strings.TrimSpace(res.Body.String())
	}
	for path, want := range map[string]string{"/livez": "ok", "/readyz": `{"database":"ok","hsm":"ok"}`} {
		if status, body := get(path); status != http.StatusOK || body != want {
			t.Errorf("%s is %d %s, want 200 %s", path, status, body, want)
		}
	}
	b.Close()
	if status, body := get("/readyz"); status != http.StatusServiceUnavailable || body != `{"database":"not available","hsm":"ok"}` {
		t.Errorf("without a database /readyz is %d %s", status, body)
	}
	if status, _ := get("/livez"); status != http.StatusOK {
		t.Errorf("without a database /livez is %d, want 200: a restart would not help", status)
	}
}
