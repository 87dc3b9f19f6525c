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

const (
	replyTimeout   = 30 * time.Second // SET §7.10
	connectTimeout = 3 * time.Second
	echoInterval   = 20 * time.Second
	echoTimeout    = 10 * time.Second
	inFlightMax    = 256
)

// Client is an acquirer's, or a certificate authority's, way to one issuer. It holds one connection, over
// which requests of several goroutines go at the same time, opens it when it is needed and again after
// it was lost, and tests it with an echo every 20 seconds.
//
// A request waits 30 seconds for its answer, or until its context ends. Its error is [ErrUnavailable]
// when nothing was sent, [ErrNoReply] when the outcome is unknown, and otherwise says what is wrong
// with the request, which was then not sent.
type Client struct {
	addr string
	log  *slog.Logger

	dialing chan struct{} // holds one token: one goroutine connects, the others wait for it

	mu     sync.Mutex // guards the following
	link   *link      // nil, or maybe dead
	closed bool
}

// NewClient makes a client of the issuer at addr (host:port). It does not connect yet.
func NewClient(addr string, log *slog.Logger) *Client {
	return &Client{addr: addr, log: log.With("issuer", addr), dialing: make(chan struct{}, 1)}
}

// Authorize asks for an authorization. The card number is needed for nothing that may follow.
func (c *Client) Authorize(ctx context.Context, a *Authorization) (Answer, error) {
	m, err := a.encode()
	if err != nil {
		return Answer{}, fmt.Errorf("authorization: %w", err)
	}
	r, err := c.exchange(ctx, kindAuthorize, m)
	return r.Answer, err
}

// Verify asks whether a person is the cardholder of an account: [Approved], or [DoNotHonour] whatever
// does not match.
func (c *Client) Verify(ctx context.Context, a *AccountCheck) (ResponseCode, error) {
	m, err := a.encode()
	if err != nil {
		return "", fmt.Errorf("account check: %w", err)
	}
	answer, err := c.exchange(ctx, kindVerify, m)
	return answer.Code, err
}

// Reverse takes an authorization back, or makes it smaller. It may be sent as often as needed, also for an authorization that
// never reached the issuer: that is then refused should it still arrive.
func (c *Client) Reverse(ctx context.Context, r *Reversal) (ResponseCode, error) {
	m, err := r.encode()
	if err != nil {
		return "", fmt.Errorf("reversal: %w", err)
	}
	answer, err := c.exchange(ctx, kindReverse, m)
	return answer.Code, err
}

// Clear books a capture. It may be sent as often as needed.
func (c *Client) Clear(ctx context.Context, cl *Clearing) (ResponseCode, error) {
	m, err := cl.encode()
	return c.advise(ctx, kindClear, m, err)
}

// Refund books a refund. It may be sent as often as needed.
func (c *Client) Refund(ctx context.Context, r *Refund) (ResponseCode, error) {
	m, err := r.encode()
	return c.advise(ctx, kindRefund, m, err)
}

// Withdraw takes a clearing or a refund back. It may be sent as often as needed, also for one that never
// reached the issuer: that is then refused should it still arrive.
func (c *Client) Withdraw(ctx context.Context, w *Withdrawal) (ResponseCode, error) {
	k, _ := w.kinds()
	m, err := w.encode()
	return c.advise(ctx, k, m, err)
}

func (c *Client) advise(ctx context.Context, k *kind, m *iso8583.Message, err error) (ResponseCode, error) {
	if err != nil {
		return "", fmt.Errorf("%s: %w", k.name, err)
	}
	r, err := c.exchange(ctx, k, m)
	return r.Code, err
}

// Reconcile closes a settlement of one currency. It may be sent as often as needed; all that belongs to the
// settlement must have been answered before. An answer other than [Approved] and [OutOfBalance] has no
// totals.
func (c *Client) Reconcile(ctx context.Context, r *Reconciliation) (Balance, error) {
	m, err := r.encode()
	if err != nil {
		return Balance{}, fmt.Errorf("%s: %w", kindReconcile.name, err)
	}
	answer, err := c.exchange(ctx, kindReconcile, m)
	b := Balance{Code: answer.Code}
	if answer.totals != nil {
		b.Totals = *answer.totals
	}
	return b, err
}

// Echo asks whether the issuer is there.
func (c *Client) Echo(ctx context.Context) error {
	m, err := newEcho()
	if err != nil {
		return err
	}
	answer, err := c.exchange(ctx, kindEcho, m)
	if err == nil && answer.Code != Approved {
		err = fmt.Errorf("issuer %s answers an echo with %s", c.addr, answer.Code)
	}
	return err
}

func newEcho() (*iso8583.Message, error) {
	return encodeEcho(randomSTAN(), time.Now().UTC().Format(transmissionLayout))
}

// Close closes the connection. Requests under way end with [ErrNoReply].
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.link != nil {
		c.link.fail(errors.New("client was closed"))
		c.link = nil
	}
	return nil
}

func (c *Client) exchange(ctx context.Context, k *kind, m *iso8583.Message) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	answer, err := c.exchangeOnce(ctx, m)
	if errors.Is(err, ErrUnavailable) && ctx.Err() == nil {
		// The connection had died, and this is how it was noticed.
		answer, err = c.exchangeOnce(ctx, m)
	}
	if err != nil {
		return reply{}, fmt.Errorf("%s: %w", k.name, err)
	}
	if answer.Code == Malfunction {
		return answer, fmt.Errorf("%s: issuer answers %s: %w", k.name, answer.Code, ErrNoReply)
	}
	return answer, nil
}

func (c *Client) exchangeOnce(ctx context.Context, m *iso8583.Message) (reply, error) {
	l, err := c.connect(ctx)
	if err != nil {
		return reply{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return l.exchange(ctx, m)
}

// connect gives a connection that works as far as is known.
func (c *Client) connect(ctx context.Context) (*link, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case c.dialing <- struct{}{}:
		defer func() { <-c.dialing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c.mu.Lock()
	l, closed := c.link, c.closed
	c.mu.Unlock()
	if closed {
		return nil, errors.New("client was closed")
	}
	if l != nil && l.alive() {
		return l, nil
	}
	d := net.Dialer{Timeout: connectTimeout}
	conn, err := d.DialContext(ctx, "tcp", c.addr)
	if err != nil {
		return nil, err
	}
	l = newLink(conn, c.log)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		l.fail(errors.New("client was closed"))
		return nil, errors.New("client was closed")
	}
	c.link = l
	return l, nil
}
