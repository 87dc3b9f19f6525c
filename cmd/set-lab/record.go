package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"mime"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/trace"
	"github.com/setkit/setkit/roles/set"
)

// The doors of a world: others reach a service through its door, where a process of its own writes down
// the messages that pass. A service itself does not know that it is recorded.
const (
	doorCA       = "ca-door"
	doorGateway  = "gateway-door"
	doorMerchant = "merchant-door"
	doorIssuer   = "issuer-door"    // for the gateway
	doorIssuerCA = "issuer-ca-door" // for the cardholder CA
)

// traceDir is the folder of a world in which its messages are recorded.
const traceDir = "trace"

// doorkeeper writes down what passes through the doors.
type doorkeeper struct {
	*trace.Recorder
	log *log.Logger
}

// startRecorder starts the process that answers at the doors.
func (w *world) startRecorder(ctx context.Context) error {
	return w.start(ctx, nil, says("ready"), "recorder", "set-lab", "record", "--dir", w.dir)
}

// recordCommand is for set-lab itself.
func recordCommand(dir urfave.Flag) *urfave.Command {
	return &urfave.Command{Name: "record", Hidden: true, Usage: "answer at the doors of a world", Flags: []urfave.Flag{dir}, Action: keepDoors}
}

func keepDoors(c *urfave.Context) error {
	dir, bin, err := place(c, "lab")
	if err != nil {
		return err
	}
	w, err := openWorld(dir, bin)
	if err != nil {
		return cli.Usage(err)
	}
	out, err := trace.Create(w.path(traceDir))
	if err != nil {
		return err
	}
	defer out.Close()
	r := &doorkeeper{out, log.New(c.App.ErrWriter, "", log.LstdFlags|log.LUTC)}
	failed := make(chan error, 5)
	for door, serve := range map[string]func(net.Listener) error{
		doorMerchant: r.http(w.addr("merchant"), func(string) (string, string) { return trace.Wallet, trace.Merchant }),
		doorGateway:  r.http(w.addr("gateway"), func(string) (string, string) { return trace.Merchant, trace.Gateway }),
		doorCA:       r.http(w.addr("ca"), atCA),
		doorIssuer:   r.iso8583(w.addr("issuer"), trace.Gateway),
		doorIssuerCA: r.iso8583(w.addr("issuer"), trace.CardholderCA),
	} {
		l, err := net.Listen("tcp", w.addr(door))
		if err != nil {
			return err
		}
		defer l.Close()
		go func() { failed <- serve(l) }()
	}
	fmt.Fprintln(c.App.Writer, "ready")
	select {
	case err := <-failed:
		return err
	case <-c.Context.Done():
		return nil
	}
}

// atCA tells by the path who talks to which CA.
func atCA(path string) (client, server string) {
	switch strings.Split(strings.TrimPrefix(path, "/"), "/")[0] {
	case "mca":
		return trace.Merchant, trace.MerchantCA
	case "pca":
		return trace.Gateway, trace.PaymentCA
	}
	return trace.Wallet, trace.CardholderCA
}

// http passes HTTP on and records the SET messages in it: their octets, as they are sent.
func (r *doorkeeper) http(to string, parties func(path string) (client, server string)) func(net.Listener) error {
	type key struct{}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "http", Host: to})
			p.Out.Host = p.In.Host
		},
		ModifyResponse: func(res *http.Response) (err error) {
			client, server := parties(res.Request.URL.Path)
			_, err = r.pass(&res.Body, res.Header, trace.Entry{
				From: server, To: client, ReplyTo: *res.Request.Context().Value(key{}).(*int), Status: strconv.Itoa(res.StatusCode),
			})
			return err
		},
		ErrorLog: r.log,
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		client, server := parties(req.URL.Path)
		number, err := r.pass(&req.Body, req.Header, trace.Entry{From: client, To: server})
		if err != nil {
			http.Error(w, "the request ended early", http.StatusBadRequest)
			return
		}
		proxy.ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), key{}, &number)))
	})
	return func(l net.Listener) error {
		return (&http.Server{Handler: handler, ReadHeaderTimeout: readHeaderTimeout, ErrorLog: r.log}).Serve(l)
	}
}

// readHeaderTimeout is how long a request may take to say what it is.
const readHeaderTimeout = 5 * time.Second

// pass reads a body whose media type is one of SET's, records it, and puts it back. Any other it leaves
// alone.
func (r *doorkeeper) pass(body *io.ReadCloser, h http.Header, e trace.Entry) (number int, err error) {
	media, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || !strings.HasPrefix(media, "application/set-") {
		return 0, nil
	}
	octets, err := io.ReadAll(io.LimitReader(*body, set.MessageOctetsMax+1))
	if err != nil {
		return 0, err
	}
	e.Media, e.Time = media, time.Now()
	if number, err = r.Message(e, octets); err != nil {
		r.log.Print(err) // the parties go on without
	}
	*body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(octets), *body), *body}
	return number, nil
}

// iso8583 passes the frames of the financial network on, and records masked descriptions of them.
func (r *doorkeeper) iso8583(to, client string) func(net.Listener) error {
	return func(l net.Listener) error {
		for {
			conn, err := l.Accept()
			if err != nil {
				return err
			}
			go func() {
				defer conn.Close()
				server, err := net.Dial("tcp", to)
				if err != nil {
					r.log.Print(err)
					return
				}
				defer server.Close()
				go func() {
					r.frames(server, conn, trace.Entry{From: client, To: trace.Issuer})
					server.(*net.TCPConn).CloseWrite()
				}()
				r.frames(conn, server, trace.Entry{From: trace.Issuer, To: client})
			}()
		}
	}
}

// frames passes frames on until they end.
func (r *doorkeeper) frames(to io.Writer, from io.Reader, e trace.Entry) {
	for {
		frame := make([]byte, 2)
		if _, err := io.ReadFull(from, frame); err != nil {
			return
		}
		frame = append(frame, make([]byte, binary.BigEndian.Uint16(frame))...)
		n, err := io.ReadFull(from, frame[2:])
		if err == nil {
			e.Time = time.Now()
			if err := r.ISO8583(e, frame[2:]); err != nil {
				r.log.Print(err)
			}
		}
		_, werr := to.Write(frame[:2+n])
		clear(frame)
		if err != nil || werr != nil {
			return
		}
	}
}
