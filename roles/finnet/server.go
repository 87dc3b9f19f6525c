package finnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/moov-io/iso8583"
)

const (
	connectionsMax    = 64
	requestsAtOnceMax = 16 // of one connection
	idleMax           = 2 * time.Minute
	decideTimeout     = 25 * time.Second // less than an acquirer waits
	stopTimeout       = 5 * time.Second
	acceptRetryPause  = 50 * time.Millisecond
)

// Host decides what an issuer answers. Its methods are called by several goroutines, also with the same
// request at the same time, and have durable effect before they return. Each is idempotent: the same
// message again gets the same answer and moves no money. They do not keep the request, whose secrets
// are cleared afterwards.
//
// An error means that the host could not decide and that what became of the request is unknown; the
// acquirer then gets [Malfunction]. The error is logged, and holds no secret and no card number.
type Host interface {
	Authorize(ctx context.Context, a *Authorization) (Answer, error)
	Verify(ctx context.Context, c *AccountCheck) (ResponseCode, error)
	Reverse(ctx context.Context, r *Reversal) (ResponseCode, error)
	Clear(ctx context.Context, c *Clearing) (ResponseCode, error)
	Refund(ctx context.Context, r *Refund) (ResponseCode, error)
	Withdraw(ctx context.Context, w *Withdrawal) (ResponseCode, error)
	Reconcile(ctx context.Context, r *Reconciliation) (Balance, error)
}

// Serve answers acquirers on ln until ctx ends; it then closes ln, lets requests under way be answered,
// for a few seconds, and returns nil. Another error than the end of ctx ends it as well.
//
// It has at most 64 connections, and 16 requests of each, at a time. What cannot be parsed ends its
// connection; what can be parsed and is not a proper request is answered with [FormatError].
func Serve(ctx context.Context, ln net.Listener, host Host, log *slog.Logger) error {
	s := &server{host: host, log: log, slots: make(chan struct{}, connectionsMax)}
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	defer s.connections.Wait()
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accept connections of acquirers: %w", err)
		}
		if err != nil { // e.g. out of file descriptors, which passes
			log.Error("connection of an acquirer could not be accepted", "err", err)
			time.Sleep(acceptRetryPause)
			continue
		}
		select {
		case s.slots <- struct{}{}:
		default:
			log.Warn("connection refused: too many", "from", conn.RemoteAddr().String(), "max", connectionsMax)
			conn.Close()
			continue
		}
		s.connections.Go(func() {
			defer func() { <-s.slots }()
			s.serve(ctx, conn)
		})
	}
}

type server struct {
	host        Host
	log         *slog.Logger
	slots       chan struct{}
	connections sync.WaitGroup
}

// serve reads the requests of one connection until it ends.
func (s *server) serve(ctx context.Context, conn net.Conn) {
	log := s.log.With("from", conn.RemoteAddr().String())
	c := &serverConn{server: s, conn: conn, log: log}
	defer conn.Close()
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	// The end of ctx ends reading at once; answers under way are still written.
	stop := context.AfterFunc(ctx, func() {
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.CloseRead()
		}
		time.AfterFunc(stopTimeout, cancel)
	})
	defer stop()

	var requests sync.WaitGroup
	slots := make(chan struct{}, requestsAtOnceMax)
	for {
		octets, err := readFrame(conn, time.Now().Add(idleMax))
		if err != nil {
			if ctx.Err() == nil && err != io.EOF {
				log.Warn("connection of an acquirer ended", "err", err)
			}
			break
		}
		m, err := unpack(octets)
		clear(octets)
		if err == nil && !isRequest(text(m, fieldMTI)) {
			err = errors.New("message is not a request")
		}
		if err != nil {
			log.Warn("connection of an acquirer is closed", "err", err)
			break
		}
		slots <- struct{}{}
		requests.Go(func() {
			defer func() { <-slots }()
			c.handle(work, m)
		})
	}
	requests.Wait()
}

type serverConn struct {
	*server
	conn net.Conn
	log  *slog.Logger

	writing sync.Mutex // held for the length of a frame
}

func (c *serverConn) handle(ctx context.Context, m *iso8583.Message) {
	answer := c.decide(ctx, m)
	response, err := respond(m, answer)
	var frame []byte
	if err == nil {
		frame, err = pack(response)
	}
	if err == nil {
		c.writing.Lock()
		_, err = writeFrame(c.conn, frame)
		c.writing.Unlock()
	}
	if err != nil {
		c.log.Warn("answer could not be sent", "mti", text(m, fieldMTI), "rrn", text(m, fieldRRN), "err", err)
		c.conn.Close()
	}
}

// decide has the host answer, and makes an answer of whatever it could not decide.
func (c *serverConn) decide(ctx context.Context, m *iso8583.Message) reply {
	ctx, cancel := context.WithTimeout(ctx, decideTimeout)
	defer cancel()
	log := c.log.With("mti", text(m, fieldMTI), "stan", text(m, fieldSTAN))
	req, err := decodeRequest(m)
	if err != nil {
		log.Warn("request has a format error", "err", err)
		return reply{Answer: Answer{Code: FormatError}}
	}
	var answer reply
	switch r := req.(type) {
	case *Authorization:
		log = log.With("rrn", r.RRN, "xid", r.XID.String())
		answer.Answer, err = c.host.Authorize(ctx, r)
		clear(r.PAN)
		clear(r.Expiry)
	case *AccountCheck:
		log = log.With("rrn", r.RRN)
		answer.Code, err = c.host.Verify(ctx, r)
		clear(r.PAN)
		clear(r.Expiry)
		clear(r.Secret)
	case *Reversal:
		log = log.With("rrn", r.RRN)
		answer.Code, err = c.host.Reverse(ctx, r)
	case *Clearing:
		log = log.With("rrn", r.RRN, "xid", r.XID.String())
		answer.Code, err = c.host.Clear(ctx, r)
	case *Refund:
		log = log.With("rrn", r.RRN, "xid", r.XID.String())
		answer.Code, err = c.host.Refund(ctx, r)
	case *Withdrawal:
		log = log.With("rrn", r.RRN)
		answer.Code, err = c.host.Withdraw(ctx, r)
	case *Reconciliation:
		log = log.With("settlement", int(r.Settlement), "currency", r.Currency.String())
		var b Balance
		if b, err = c.host.Reconcile(ctx, r); b.Code == Approved || b.Code == OutOfBalance {
			answer.totals = &b.Totals
		}
		answer.Code = b.Code
	case *echo:
		return reply{Answer: Answer{Code: Approved}}
	}
	if err != nil {
		log.Error("request could not be decided", "err", err)
		return reply{Answer: Answer{Code: Malfunction}}
	}
	log.Info("request answered", "code", string(answer.Code))
	return answer
}
