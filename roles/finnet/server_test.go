package finnet_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/finnet"
)

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(waitMax)); err != nil {
		t.Fatal(err)
	}
	return c
}

// record gives the frame that the client sends for a request.
func record(t *testing.T, send func(*finnet.Client)) []byte {
	t.Helper()
	got := make(chan []byte, 1)
	c := newClient(t, rawServer(t, func(_ net.Conn, m []byte) { got <- m }))
	send(c)
	return <-got
}

func recordAuthorization(t *testing.T) []byte {
	return record(t, func(c *finnet.Client) { c.Authorize(t.Context(), newAuthorization()) })
}

// closes tells whether the server ends the connection without an answer.
func closes(t *testing.T, c net.Conn) bool {
	t.Helper()
	answer, err := io.ReadAll(c)
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return false
	}
	return len(answer) == 0
}

func TestServerEndsConnectionsOfGarbage(t *testing.T) {
	t.Parallel()
	host := &testHost{}
	addr, _, _ := serve(t, host)
	random := make([]byte, 700)
	rand.Read(random)
	authorization := recordAuthorization(t)
	for name, octets := range map[string][]byte{
		"empty frame":         {0, 0},
		"one octet":           {0, 1, 'x'},
		"huge frame":          append([]byte{0xff, 0xff}, bytes.Repeat([]byte("0100"), 1<<14)...),
		"two MiB":             make([]byte, 2<<20),
		"random octets":       frame(random),
		"text":                frame([]byte("GET / HTTP/1.1\r\nHost: issuer\r\n\r\n")),
		"answer":              frame(echoAnswer(make([]byte, 80))),
		"cut message":         frame(authorization[:len(authorization)-5]),
		"trailing octets":     frame(append(bytes.Clone(authorization), "00000"...)),
		"bitmaps that expand": frame(append([]byte("0800"), bytes.Repeat([]byte("8000000000000000"), 40)...)),
	} {
		c := dial(t, addr)
		c.Write(octets) // the server may have closed before all is written
		if tcp, ok := c.(*net.TCPConn); ok && name == "one octet" {
			tcp.CloseWrite()
		}
		if !closes(t, c) {
			t.Errorf("%s: connection stays open or was answered", name)
		}
	}
	if n := len(host.calls()); n != 0 {
		t.Errorf("host was asked %d times, want never", n)
	}
	if err := newClient(t, addr).Echo(t.Context()); err != nil {
		t.Errorf("server does not serve any more: %v", err)
	}
}

func TestServerAnswersFormatErrors(t *testing.T) {
	t.Parallel()
	host := &testHost{}
	addr, _, _ := serve(t, host)
	c := dial(t, addr)
	authorization := recordAuthorization(t)
	for name, m := range map[string][]byte{
		"unknown message type":    bytes.Replace(authorization, []byte("0100"), []byte("0200"), 1),
		"unknown processing code": bytes.Replace(authorization, []byte(pan+"000000"), []byte(pan+"990000"), 1),
		"bad check digit":         bytes.Replace(authorization, []byte(pan), []byte("4111111111111112"), 1),
		"unknown currency":        append(bytes.Clone(authorization[:len(authorization)-3]), "999"...),
		"missing field":           []byte("0100" + "0020000000000000" + "000001"),
	} {
		if _, err := c.Write(frame(m)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		answer, err := readMessage(c)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if string(answer[:4]) != string(m[:2])+"10" || !bytes.Contains(answer, []byte("30")) || bytes.Contains(answer, []byte("411111")) {
			t.Errorf("%s: answer is %q, want %s10 with format error and without the card number", name, answer, m[:2])
		}
	}
	if n := len(host.calls()); n != 0 {
		t.Errorf("host was asked %d times, want never", n)
	}
	if _, err := c.Write(frame(authorization)); err != nil {
		t.Fatal(err)
	}
	if answer, err := readMessage(c); err != nil || !bytes.HasPrefix(answer, []byte("0110")) {
		t.Errorf("the same connection afterwards: %q, %v", answer, err)
	}
}

func TestServerBoundsConnections(t *testing.T) {
	t.Parallel()
	addr, log, _ := serve(t, &testHost{})
	const most = 64
	for range most {
		c := dial(t, addr)
		if _, err := c.Write(frame(record(t, func(c *finnet.Client) { c.Echo(t.Context()) }))); err != nil {
			t.Fatal(err)
		}
		if _, err := readMessage(c); err != nil {
			t.Fatal(err) // so that the connection is known to be served
		}
	}
	if !closes(t, dial(t, addr)) {
		t.Error("one connection too many is served")
	}
	if !strings.Contains(log.String(), "too many") {
		t.Errorf("log does not say so:\n%s", log)
	}
}

// What is under way when the server is stopped is answered.
func TestGracefulStop(t *testing.T) {
	t.Parallel()
	started, release := make(chan struct{}), make(chan struct{})
	host := &testHost{authorize: func(context.Context, *finnet.Authorization) (finnet.Answer, error) {
		close(started)
		<-release
		return finnet.Answer{Code: finnet.Approved, ApprovalCode: "000001"}, nil
	}}
	addr, _, stop := serve(t, host)
	c := newClient(t, addr)
	result := make(chan error, 1)
	go func() {
		_, err := c.Authorize(context.Background(), newAuthorization())
		result <- err
	}()
	<-started
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	for { // the listener closes first
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			break
		}
		conn.Close()
	}
	close(release)
	if err := <-result; err != nil {
		t.Errorf("request under way at the stop: %v", err)
	}
	select {
	case <-stopped:
	case <-time.After(waitMax):
		t.Error("server does not stop")
	}
}

func TestServerStopsWithIdleConnections(t *testing.T) {
	t.Parallel()
	addr, _, stop := serve(t, &testHost{})
	c := newClient(t, addr)
	if err := c.Echo(t.Context()); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	select {
	case <-stopped:
	case <-time.After(waitMax):
		t.Error("server does not stop while an idle client is connected")
	}
}
