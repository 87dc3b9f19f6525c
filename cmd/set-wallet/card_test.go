package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/wallet"
	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/cardtest"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

// regular is a payer who keeps the card connected from one purchase to the next.
type regular struct {
	*payer
	enrolled *wallet.EnrolledCard
}

func (r *regular) Choose(ctx context.Context, cards []*wallet.EnrolledCard) (*wallet.EnrolledCard, wallet.Card, error) {
	if r.enrolled != nil {
		return r.enrolled, r.card, nil
	}
	e, c, err := r.payer.Choose(ctx, cards)
	r.enrolled = e
	return e, c, err
}

// TestPurchaseAPDUs counts what a purchase costs: at first, and with an unlocked
// card. What the least is stands in the documentation of package piv.
func TestPurchaseAPDUs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		kind
		first, unlocked int
	}{
		{kinds[0], 11, 6},
		{kind{"P-256, short", piv.ECDSAP256, plainATR}, 13, 8},
		{kind{"RSA-2048, extended length", piv.RSA2048, nil}, 11, 6},
		{kinds[1], 15, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := &faultyCard{Card: virtual.NewCard(), atr: tt.atr}
			f.arm(-1, fault{})
			card := inReader(t, f.Card, f, tt.algorithm)
			s := newSceneWith(t, card)
			s.enroll()
			w, err := wallet.Open(t.Context(), s.wallet(), wallet.Config{Client: &sethttp.Client{}, Software: software})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			said := new(notes)
			p := &regular{payer: &payer{
				terminal: terminal{show: said, stderr: said}, yes: true, pin: &pinEntry{source: "file:" + s.file("pin")},
				finder: finder{reader: card.Name, say: func(n notice) { fmt.Fprintln(said, n.text) }},
			}}
			defer func() { p.close() }()
			buy := func() *apdus {
				if r, err := w.Pay(t.Context(), s.shop.Initiation(), p); err != nil || r.Outcome != wallet.Approved {
					t.Fatalf("%+v, %v", r, err)
				}
				s.shop.NewOrder()
				return p.card.report()
			}
			first, unlocked := buy(), buy()
			t.Logf("%d APDUs, %d and %d bytes; then %d APDUs, %d and %d bytes", first.Count, first.SentBytes, first.ReceivedBytes, unlocked.Count, unlocked.SentBytes, unlocked.ReceivedBytes)
			if first.Count != tt.first || unlocked.Count != tt.unlocked {
				t.Errorf("%d APDUs, then %d; want %d and %d", first.Count, unlocked.Count, tt.first, tt.unlocked)
			}
		})
	}
}

// notes is what was written so far, for whoever looks meanwhile.
type notes struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (n *notes) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.Write(b)
}

func (n *notes) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.String()
}

// await waits until something was written.
func (n *notes) await(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(n.String(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q does not come: %s", text, n)
		}
	}
}

// loose is a card that is pulled when it is to check a PIN, if it is armed.
type loose struct {
	*virtual.Card
	armed chan struct{}
}

func (l *loose) Transmit(ctx context.Context, apdu []byte) ([]byte, error) {
	if apdu[1] == 0x20 && len(apdu) > 5 {
		select {
		case <-l.armed:
			return nil, errPulled
		default:
		}
	}
	return l.Card.Transmit(ctx, apdu)
}

// TestCardPulled pulls the card in a purchase: another one is refused by name, the
// wait ends and can be ended, and the same card is welcome in any reader.
func TestCardPulled(t *testing.T) {
	t.Parallel()
	l := &loose{Card: virtual.NewCard(), armed: make(chan struct{}, 1)}
	card := inReader(t, l.Card, l, piv.ECDSAP256)
	s := newSceneWith(t, card)
	s.enroll()
	other := cardtest.New(t)
	serial, otherSerial := strconv.FormatUint(uint64(l.Serial()), 10), strconv.FormatUint(uint64(other.Virtual.Serial()), 10)
	back := "put card " + serial + " back into a reader"

	start := func(ctx context.Context, wait string) (*notes, chan int) {
		l.armed <- struct{}{}
		said, done := new(notes), make(chan int, 1)
		go func() {
			args := append([]string{"set-wallet"}, s.pay("pin", "--yes", "--reader", card.Name, "--card-wait", wait)...)
			done <- cli.Run(ctx, newApp(), args, strings.NewReader(""), new(notes), said)
		}()
		return said, done
	}
	said, done := start(t.Context(), "2s")
	code := <-done
	for _, want := range []string{back, "card " + otherSerial + " in reader \"" + other.Name + "\" is another one", "was not back", smartcard.ErrCardRemoved.Error()} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("%q is missing: %s", want, said)
		}
	}
	if code != 3 {
		t.Errorf("exit code %d", code)
	}

	card.Unplug()
	card.Plug(l)
	ctx, cancel := context.WithCancel(t.Context())
	said, done = start(ctx, "1h")
	said.await(t, back)
	cancel()
	if code = <-done; code != 1 || !strings.Contains(said.String(), "cancelled") {
		t.Errorf("exit code %d: %s", code, said)
	}
	s.wantPayments(0)

	card.Unplug()
	card.Plug(l)
	elsewhere := cardtest.NewReader(t)
	said, done = start(t.Context(), "1h")
	said.await(t, back)
	elsewhere.Plug(l)
	if code = <-done; code != 0 {
		t.Errorf("exit code %d: %s", code, said)
	}
	s.wantPayments(1)
	s.output = append(s.output, said.String())
}

// TestPINNotTriedAgain asks for the PIN a second time, as after a card was lost: a
// file gives it only if the card has counted no wrong one since.
func TestPINNotTriedAgain(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(file, []byte(testPIN), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &pinEntry{source: "file:" + file}
	for _, step := range []struct {
		left  int
		given bool
	}{{3, true}, {3, true}, {2, false}, {2, false}, {3, true}} {
		pin, err := p.ask(t.Context(), piv.PINRequest{TriesLeft: step.left})
		if string(pin) != map[bool]string{true: testPIN}[step.given] || (err == nil) != step.given {
			t.Errorf("%d tries left: %v", step.left, err)
		}
	}
}
