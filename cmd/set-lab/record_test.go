package main

import (
	"bufio"
	"bytes"
	"io"
	"mime"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/setkit/setkit/cmd/internal/cli"
)

// recorder passes connections on to a server and keeps every octet of both directions.
type recorder struct {
	addr string

	mu    sync.Mutex
	conns []*conversation
}

// conversation is what went over one connection.
type conversation struct{ up, down bytes.Buffer }

// tap writes to one direction of a conversation.
type tap struct {
	r   *recorder
	buf *bytes.Buffer
}

func (t tap) Write(b []byte) (int, error) {
	t.r.mu.Lock()
	defer t.r.mu.Unlock()
	return t.buf.Write(b)
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
	c := new(conversation)
	r.mu.Lock()
	r.conns = append(r.conns, c)
	r.mu.Unlock()
	go func() {
		io.Copy(server, io.TeeReader(client, tap{r, &c.up}))
		server.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(client, io.TeeReader(server, tap{r, &c.down}))
}

// octets gives everything that passed.
func (r *recorder) octets() (all []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		all = append(append(all, c.up.Bytes()...), c.down.Bytes()...)
	}
	return all
}

// exchange is one HTTP request with a SET message, and its answer.
type exchange struct {
	path     string
	request  []byte
	status   int
	response []byte
}

// exchanges gives the requests of a media type that were answered, in order.
func (r *recorder) exchanges(t *testing.T, mediaType string) (found []exchange) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		up, down := bufio.NewReader(bytes.NewReader(c.up.Bytes())), bufio.NewReader(bytes.NewReader(c.down.Bytes()))
		for {
			req, err := http.ReadRequest(up)
			if err != nil {
				break
			}
			request := readAll(t, req.Body)
			res, err := http.ReadResponse(down, req)
			if err != nil {
				break
			}
			response := readAll(t, res.Body)
			if got, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type")); got == mediaType {
				found = append(found, exchange{req.URL.Path, request, res.StatusCode, response})
			}
		}
	}
	return found
}

func readAll(t *testing.T, body io.ReadCloser) []byte {
	t.Helper()
	defer body.Close()
	b, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// runSetLab runs the command in this process.
func runSetLab(t *testing.T, args ...string) (code int, output string) {
	t.Helper()
	var out bytes.Buffer
	code = cli.Run(t.Context(), newApp(), append([]string{"set-lab"}, args...), bytes.NewReader(nil), &out, &out)
	return code, out.String()
}
