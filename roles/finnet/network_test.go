package finnet_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
)

const (
	waitMax = 20 * time.Second
	pan     = "4111111111111111"
)

// syncBuffer is a log that several goroutines write.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// testHost keeps what it was asked, as text that cmp compares, and answers by its functions.
type testHost struct {
	mu        sync.Mutex
	asked     []any
	authorize func(context.Context, *finnet.Authorization) (finnet.Answer, error)
	code      finnet.ResponseCode
	totals    finnet.Totals
	err       error
}

func (h *testHost) keep(req any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = append(h.asked, req)
}

func (h *testHost) calls() []any {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked
}

func (h *testHost) Authorize(ctx context.Context, a *finnet.Authorization) (finnet.Answer, error) {
	kept := *a
	kept.PAN, kept.Expiry = bytes.Clone(a.PAN), bytes.Clone(a.Expiry)
	h.keep(&kept)
	if h.authorize != nil {
		return h.authorize(ctx, a)
	}
	return finnet.Answer{Code: finnet.Approved, ApprovalCode: "A00001"}, nil
}

func (h *testHost) Verify(_ context.Context, c *finnet.AccountCheck) (finnet.ResponseCode, error) {
	kept := *c
	kept.PAN, kept.Expiry, kept.Secret = bytes.Clone(c.PAN), bytes.Clone(c.Expiry), bytes.Clone(c.Secret)
	h.keep(&kept)
	return h.code, h.err
}

func (h *testHost) Reverse(_ context.Context, r *finnet.Reversal) (finnet.ResponseCode, error) {
	h.keep(r)
	return h.code, h.err
}

func (h *testHost) Clear(_ context.Context, c *finnet.Clearing) (finnet.ResponseCode, error) {
	h.keep(c)
	return h.code, h.err
}

func (h *testHost) Refund(_ context.Context, r *finnet.Refund) (finnet.ResponseCode, error) {
	h.keep(r)
	return h.code, h.err
}

func (h *testHost) Withdraw(_ context.Context, w *finnet.Withdrawal) (finnet.ResponseCode, error) {
	h.keep(w)
	return h.code, h.err
}

func (h *testHost) Reconcile(_ context.Context, r *finnet.Reconciliation) (finnet.Balance, error) {
	h.keep(r)
	return finnet.Balance{Code: h.code, Totals: h.totals}, h.err
}

// serve runs a server for host, and gives its address, its log and a function that stops it.
func serve(t *testing.T, host finnet.Host) (addr string, log *syncBuffer, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, ln, host)
}

func serveOn(t *testing.T, ln net.Listener, host finnet.Host) (addr string, log *syncBuffer, stop func()) {
	t.Helper()
	log = &syncBuffer{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := finnet.Serve(ctx, ln, host, slog.New(slog.NewJSONHandler(log, nil))); err != nil {
			t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(func() {
		stop()
		if strings.Contains(log.String(), pan) {
			t.Errorf("log shows a card number:\n%s", log)
		}
	})
	return ln.Addr().String(), log, stop
}

func newClient(t *testing.T, addr string) *finnet.Client {
	t.Helper()
	c := finnet.NewClient(addr, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { c.Close() })
	return c
}

func usd(cents int64) set.CurrencyAmount {
	return set.CurrencyAmount{Currency: 840, Amount: set.Natural(cents), AmtExp10: -2}
}

func newAuthorization() *finnet.Authorization {
	return &finnet.Authorization{
		Trace: finnet.NewTrace("412345", time.Now()),
		PAN:   set.PAN(pan), Expiry: set.CardExpiry("203012"), Amount: usd(1050),
		Merchant: finnet.Merchant{ID: "SHOP-1", Name: "Books & more", Category: "5942", Terminal: "WEB1"},
		XID:      set.XID{1, 2, 3}, TransStain: bytes.Repeat([]byte{0xab}, 32),
	}
}

func TestRequestsReachTheHost(t *testing.T) {
	t.Parallel()
	host := &testHost{code: finnet.Approved}
	addr, _, _ := serve(t, host)
	c := newClient(t, addr)
	a := newAuthorization()
	answer, err := c.Authorize(t.Context(), a)
	if want := (finnet.Answer{Code: finnet.Approved, ApprovalCode: "A00001"}); err != nil || answer != want {
		t.Fatalf("got %+v, %v, want %+v", answer, err, want)
	}
	r := &finnet.Reversal{Trace: a.Next(time.Now()), Original: a.Trace, Amount: a.Amount}
	if code, err := c.Reverse(t.Context(), r); code != finnet.Approved || err != nil {
		t.Fatalf("reversal: %v, %v", code, err)
	}
	cl := &finnet.Clearing{
		Trace: a.Next(time.Now()), Original: a.Trace, Amount: usd(999), ApprovalCode: "A00001",
		Merchant: finnet.Merchant{ID: "SHOP-1", Terminal: "WEB1"}, XID: a.XID, Settlement: 7,
	}
	if code, err := c.Clear(t.Context(), cl); code != finnet.Approved || err != nil {
		t.Fatalf("clearing: %v, %v", code, err)
	}
	smaller := *r
	smaller.Remains = usd(1000)
	if code, err := c.Reverse(t.Context(), &smaller); code != finnet.Approved || err != nil {
		t.Fatalf("reversal in part: %v, %v", code, err)
	}
	re := finnet.Refund(*cl)
	re.Trace = a.Next(time.Now())
	if code, err := c.Refund(t.Context(), &re); code != finnet.Approved || err != nil {
		t.Fatalf("refund: %v, %v", code, err)
	}
	w := &finnet.Withdrawal{Trace: a.Next(time.Now()), Original: re.Trace, Refund: true, Amount: re.Amount, Settlement: 8}
	if code, err := c.Withdraw(t.Context(), w); code != finnet.Approved || err != nil {
		t.Fatalf("withdrawal: %v, %v", code, err)
	}
	v := &finnet.AccountCheck{
		Trace: finnet.NewTrace("400000", time.Now()), PAN: set.PAN(pan), Expiry: set.CardExpiry("203012"),
		Holder: "Zoë Müller", Secret: []byte("correct horse"),
	}
	if code, err := c.Verify(t.Context(), v); code != finnet.Approved || err != nil {
		t.Fatalf("account check: %v, %v", code, err)
	}
	if err := c.Echo(t.Context()); err != nil {
		t.Fatalf("echo: %v", err)
	}
	if diff := cmp.Diff([]any{a, r, cl, &smaller, &re, w, v}, host.calls()); diff != "" {
		t.Errorf("host was asked (-want +got):\n%s", diff)
	}
}

func TestReconciliation(t *testing.T) {
	t.Parallel()
	theirs := finnet.Totals{Sales: finnet.Sum{Count: 2, Amount: 300}, Refunds: finnet.Sum{Count: 1, Amount: 301}}
	host := &testHost{totals: theirs}
	addr, log, _ := serve(t, host)
	c := newClient(t, addr)
	r := &finnet.Reconciliation{
		Trace: finnet.NewTrace("412345", time.Now()), Settlement: 3, Currency: 840,
		Totals: finnet.Totals{Sales: finnet.Sum{Count: 2, Amount: 299}},
	}
	r.RRN = ""
	for code, want := range map[finnet.ResponseCode]finnet.Balance{
		finnet.Approved:           {Code: finnet.Approved, Totals: theirs},
		finnet.OutOfBalance:       {Code: finnet.OutOfBalance, Totals: theirs},
		finnet.InvalidTransaction: {Code: finnet.InvalidTransaction},
	} {
		host.code, host.asked = code, nil
		if got, err := c.Reconcile(t.Context(), r); got != want || err != nil {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
		if diff := cmp.Diff([]any{r}, host.calls()); diff != "" {
			t.Errorf("host was asked (-want +got):\n%s", diff)
		}
	}
	if net := theirs.Net(); net != -1 {
		t.Errorf("net is %d, want -1", net)
	}
	if !strings.Contains(log.String(), `"settlement":3`) {
		t.Errorf("log does not name the settlement:\n%s", log)
	}
}

func TestDecisions(t *testing.T) {
	t.Parallel()
	host := &testHost{authorize: func(_ context.Context, a *finnet.Authorization) (finnet.Answer, error) {
		switch a.Amount.Amount {
		case 51:
			return finnet.Answer{Code: finnet.InsufficientFunds}, nil
		case 96:
			return finnet.Answer{}, errors.New("database is gone")
		}
		return finnet.Answer{Code: finnet.Approved, ApprovalCode: "000001"}, nil
	}}
	addr, log, _ := serve(t, host)
	c := newClient(t, addr)
	for cents, want := range map[int64]finnet.Answer{
		1:  {Code: finnet.Approved, ApprovalCode: "000001"},
		51: {Code: finnet.InsufficientFunds},
	} {
		a := newAuthorization()
		a.Amount = usd(cents)
		if got, err := c.Authorize(t.Context(), a); got != want || err != nil {
			t.Errorf("%d: got %+v, %v, want %+v", cents, got, err, want)
		}
	}
	a := newAuthorization()
	a.Amount = usd(96)
	if got, err := c.Authorize(t.Context(), a); !errors.Is(err, finnet.ErrNoReply) || got.Code != finnet.Malfunction {
		t.Errorf("malfunction: got %+v, %v, want 96 and ErrNoReply", got, err)
	}
	if !strings.Contains(log.String(), "database is gone") {
		t.Errorf("log does not say why:\n%s", log)
	}
}

// What the caller got wrong is told to the caller, and sends nothing.
func TestClientRefuses(t *testing.T) {
	t.Parallel()
	host := &testHost{}
	addr, _, _ := serve(t, host)
	c := newClient(t, addr)
	for name, spoil := range map[string]func(*finnet.Authorization){
		"bad card number":   func(a *finnet.Authorization) { a.PAN = set.PAN("4111111111111112") },
		"bad expiry":        func(a *finnet.Authorization) { a.Expiry = set.CardExpiry("203013") },
		"zero amount":       func(a *finnet.Authorization) { a.Amount = usd(0) },
		"unknown currency":  func(a *finnet.Authorization) { a.Amount.Currency = 999 },
		"parts of a cent":   func(a *finnet.Authorization) { a.Amount.AmtExp10 = -3; a.Amount.Amount = 1 },
		"long merchant":     func(a *finnet.Authorization) { a.Merchant.ID = "0123456789ABCDEF" },
		"no merchant":       func(a *finnet.Authorization) { a.Merchant.ID = "" },
		"odd category":      func(a *finnet.Authorization) { a.Merchant.Category = "59A2" },
		"short TransStain":  func(a *finnet.Authorization) { a.TransStain = []byte{1} },
		"no acquirer":       func(a *finnet.Authorization) { a.Acquirer = "" },
		"long STAN":         func(a *finnet.Authorization) { a.STAN = "1234567" },
		"no trace":          func(a *finnet.Authorization) { a.Trace = finnet.Trace{} },
		"other punctuation": func(a *finnet.Authorization) { a.Transmission = "05-06-07-0" },
	} {
		a := newAuthorization()
		spoil(a)
		_, err := c.Authorize(t.Context(), a)
		if err == nil || errors.Is(err, finnet.ErrNoReply) || errors.Is(err, finnet.ErrUnavailable) {
			t.Errorf("%s: got %v, want an error about the request", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "411111") {
			t.Errorf("%s: error shows a card number: %v", name, err)
		}
	}
	a := newAuthorization()
	if _, err := c.Reverse(t.Context(), &finnet.Reversal{Trace: finnet.NewTrace("412345", time.Now()), Original: a.Trace, Amount: a.Amount}); err == nil {
		t.Error("a reversal with another retrieval reference number was sent")
	}
	if n := len(host.calls()); n != 0 {
		t.Errorf("host was asked %d times, want never", n)
	}
}

// Answers come in any order, and each reaches its own request.
func TestConcurrentRequests(t *testing.T) {
	t.Parallel()
	host := &testHost{authorize: func(_ context.Context, a *finnet.Authorization) (finnet.Answer, error) {
		time.Sleep(rand.N(3 * time.Millisecond))
		return finnet.Answer{Code: finnet.Approved, ApprovalCode: a.STAN}, nil
	}}
	addr, _, _ := serve(t, host)
	c := newClient(t, addr)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			a := newAuthorization()
			if answer, err := c.Authorize(t.Context(), a); err != nil || answer.ApprovalCode != a.STAN {
				t.Errorf("got %+v, %v, want the answer to %s", answer, err, a.STAN)
			}
		})
	}
	wg.Wait()
}

func TestUnavailable(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	c := newClient(t, addr)
	if _, err := c.Authorize(t.Context(), newAuthorization()); !errors.Is(err, finnet.ErrUnavailable) || errors.Is(err, finnet.ErrNoReply) {
		t.Errorf("nobody listens: got %v, want ErrUnavailable", err)
	}

	// The issuer comes up, and goes, and comes up again.
	for range 2 {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _, stop := serveOn(t, ln, &testHost{})
		deadline := time.Now().Add(waitMax)
		for err := c.Echo(t.Context()); err != nil; err = c.Echo(t.Context()) {
			if time.Now().After(deadline) {
				t.Fatalf("issuer is up again and the client does not reach it: %v", err)
			}
		}
		if _, err := c.Authorize(t.Context(), newAuthorization()); err != nil {
			t.Fatal(err)
		}
		stop()
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Authorize(cancelled, newAuthorization()); !errors.Is(err, finnet.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: got %v, want ErrUnavailable and context.Canceled", err)
	}
	c.Close()
	if err := c.Echo(t.Context()); !errors.Is(err, finnet.ErrUnavailable) {
		t.Errorf("closed client: got %v, want ErrUnavailable", err)
	}
}

// rawServer accepts one connection at a time and hands every frame's message to answer.
func rawServer(t *testing.T, answer func(c net.Conn, message []byte)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if m, err := readMessage(c); err == nil {
				answer(c, m)
			}
			c.Close()
		}
	})
	return ln.Addr().String()
}

func readMessage(r io.Reader) ([]byte, error) {
	var header [2]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	m := make([]byte, binary.BigEndian.Uint16(header[:]))
	_, err := io.ReadFull(r, m)
	return m, err
}

func frame(message []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...)
}

// echoAnswer is the answer to an echo.
func echoAnswer(request []byte) []byte {
	// 0810, fields 7, 11, 39 and 70: the fields of the request with 39 between 11 and 70.
	return fmt.Appendf(nil, "08108220000002000000%s%s00%s", request[20:36], request[36:52], request[52:])
}

// An answer that is followed at once by the end of the connection is still an answer.
func TestAnswerThenClose(t *testing.T) {
	t.Parallel()
	addr := rawServer(t, func(c net.Conn, m []byte) { c.Write(frame(echoAnswer(m))) })
	for i := range 200 {
		c := newClient(t, addr)
		if err := c.Echo(t.Context()); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		c.Close()
	}
}

func TestNoReply(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(net.Conn, []byte){
		"connection ends":      func(net.Conn, []byte) {},
		"part of an answer":    func(c net.Conn, m []byte) { c.Write(frame(echoAnswer(m))[:10]) },
		"answer to another":    func(c net.Conn, m []byte) { m = echoAnswer(m); m[len(m)-10]++; c.Write(frame(m)) },
		"no message":           func(c net.Conn, _ []byte) { c.Write(frame([]byte("this is no message of ISO 8583"))) },
		"oversized":            func(c net.Conn, _ []byte) { c.Write(bytes.Repeat([]byte{0xff}, 1<<16)) },
		"empty frame":          func(c net.Conn, _ []byte) { c.Write([]byte{0, 0}) },
		"request comes back":   func(c net.Conn, m []byte) { c.Write(frame(m)) },
		"wrong kind":           func(c net.Conn, m []byte) { m = echoAnswer(m); m[1] = '4'; c.Write(frame(m)) },
		"other network code":   func(c net.Conn, m []byte) { m = echoAnswer(m); m[len(m)-1] = '2'; c.Write(frame(m)) },
		"silence, then an end": func(c net.Conn, _ []byte) { io.Copy(io.Discard, io.LimitReader(c, 1)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, rawServer(t, answer))
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if err := c.Echo(ctx); !errors.Is(err, finnet.ErrNoReply) || errors.Is(err, finnet.ErrUnavailable) {
				t.Errorf("got %v, want ErrNoReply", err)
			}
			c.Close()
		})
	}
}
