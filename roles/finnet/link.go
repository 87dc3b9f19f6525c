package finnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/moov-io/iso8583"
)

// link is one connection of a Client. Two goroutines live as long as it does: one reads, one sends echoes.
type link struct {
	conn net.Conn
	log  *slog.Logger
	dead chan struct{} // closed by fail

	writing sync.Mutex // held for the length of a frame

	mu      sync.Mutex // guards the following
	pending map[string]chan *iso8583.Message
	err     error // why the link is dead
}

func newLink(conn net.Conn, log *slog.Logger) *link {
	l := &link{conn: conn, log: log, dead: make(chan struct{}), pending: map[string]chan *iso8583.Message{}}
	go l.read()
	go l.echo()
	return l
}

func (l *link) alive() bool {
	select {
	case <-l.dead:
		return false
	default:
		return true
	}
}

// fail ends the link; the first reason stays.
func (l *link) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.err = err
	close(l.dead)
	l.conn.Close()
}

// exchange sends a request and waits for its answer.
func (l *link) exchange(ctx context.Context, request *iso8583.Message) (reply, error) {
	frame, err := pack(request)
	if err != nil {
		return reply{}, err
	}
	defer clear(frame)
	key := matchKey(request)
	answered, err := l.expect(key)
	if err != nil {
		return reply{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer l.forget(key)
	if err := l.send(ctx, frame); err != nil {
		return reply{}, err
	}
	response, err := l.wait(ctx, answered)
	if err != nil {
		return reply{}, fmt.Errorf("%w: %w", ErrNoReply, err)
	}
	answer, err := decodeResponse(request, response)
	if err != nil {
		l.fail(err)
		return reply{}, fmt.Errorf("%w: %w", ErrNoReply, err)
	}
	return answer, nil
}

// expect registers a request. The channel has room for its one answer, so that the reader never waits.
func (l *link) expect(key string) (<-chan *iso8583.Message, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return nil, l.err
	}
	if len(l.pending) >= inFlightMax {
		return nil, fmt.Errorf("%d requests are under way already", inFlightMax)
	}
	if _, ok := l.pending[key]; ok {
		return nil, errors.New("a request with the same trace is under way")
	}
	reply := make(chan *iso8583.Message, 1)
	l.pending[key] = reply
	return reply, nil
}

func (l *link) forget(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pending, key)
}

func (l *link) send(ctx context.Context, frame []byte) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	sent, err := writeFrame(l.conn, frame)
	if err == nil {
		return nil
	}
	l.fail(err)
	if sent {
		return fmt.Errorf("%w: %w", ErrNoReply, err)
	}
	// A frame that is not complete is never acted upon.
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

func (l *link) wait(ctx context.Context, reply <-chan *iso8583.Message) (*iso8583.Message, error) {
	var err error
	select {
	case m := <-reply:
		return m, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-l.dead:
		l.mu.Lock()
		err = l.err
		l.mu.Unlock()
	}
	// An answer that came just before the end counts.
	select {
	case m := <-reply:
		return m, nil
	default:
		return nil, err
	}
}

func (l *link) read() {
	for {
		// The echoes see to it that something arrives.
		octets, err := readFrame(l.conn, time.Now().Add(echoInterval+2*echoTimeout))
		if err != nil {
			l.fail(fmt.Errorf("connection ended: %w", err))
			return
		}
		m, err := unpack(octets)
		if err != nil {
			l.fail(err)
			return
		}
		l.mu.Lock()
		reply, ok := l.pending[matchKey(m)]
		delete(l.pending, matchKey(m)) // a second answer is no answer
		l.mu.Unlock()
		if !ok {
			l.log.Warn("issuer sent an answer that nobody waits for", "mti", text(m, fieldMTI), "stan", text(m, fieldSTAN))
			continue
		}
		reply <- m
	}
}

// echo notices a connection that died in silence before a request is trusted to it.
func (l *link) echo() {
	tick := time.NewTicker(echoInterval)
	defer tick.Stop()
	for {
		select {
		case <-l.dead:
			return
		case <-tick.C:
		}
		m, err := newEcho()
		if err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), echoTimeout)
			_, err = l.exchange(ctx, m)
			cancel()
		}
		if err != nil {
			l.fail(fmt.Errorf("echo: %w", err))
			return
		}
	}
}
