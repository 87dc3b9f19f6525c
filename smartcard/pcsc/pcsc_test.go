package pcsc_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/cardtest"
	"github.com/setkit/setkit/smartcard/pcsc"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	cardtest.Conformance(t, func(t testing.TB) smartcard.Card { return open(t, cardtest.New(t).Name) })
}

// open returns the card in a reader, closed at the end of the test.
func open(t testing.TB, reader string) *pcsc.Card {
	t.Helper()
	c, err := pcsc.Open(context.Background(), reader)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

var selectPIV = []byte{0x00, 0xA4, 0x04, 0x00, 0x05, 0xA0, 0x00, 0x00, 0x03, 0x08, 0x00}

func wantOK(t testing.TB, c *pcsc.Card) {
	t.Helper()
	answer, err := c.Transmit(t.Context(), selectPIV)
	if err != nil || !bytes.HasSuffix(answer, []byte{0x90, 0x00}) {
		t.Fatalf("SELECT: got % X, %v", answer, err)
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	full, empty := cardtest.New(t), cardtest.NewReader(t)
	got, err := pcsc.Find(t.Context(), full.Name)
	if err != nil || got.Name != full.Name || !bytes.Equal(got.ATR, full.Virtual.ATR()) {
		t.Errorf("got %+v, %v, want %q with its ATR", got, err, full.Name)
	}
	if _, err := pcsc.Find(t.Context(), empty.Name); !errors.Is(err, smartcard.ErrNoCard) || !strings.Contains(err.Error(), empty.Name) {
		t.Errorf("empty reader: got %v, want ErrNoCard with its name", err)
	}
	if _, err := pcsc.Find(t.Context(), "no such reader"); !errors.Is(err, smartcard.ErrNoReader) {
		t.Errorf("unknown reader: got %v, want ErrNoReader", err)
	}
	if _, err := pcsc.Find(t.Context(), "Yubico"); err == nil || !strings.Contains(err.Error(), full.Name) {
		t.Errorf("ambiguous name: got %v, want the readers' names", err)
	}
	if _, err := pcsc.Open(t.Context(), empty.Name); !errors.Is(err, smartcard.ErrNoCard) {
		t.Errorf("open an empty reader: got %v, want ErrNoCard", err)
	}
	if _, err := pcsc.Open(t.Context(), "no such reader"); !errors.Is(err, smartcard.ErrNoReader) {
		t.Errorf("open an unknown reader: got %v, want ErrNoReader", err)
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	r := cardtest.NewReader(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := pcsc.Wait(ctx, r.Name)
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, smartcard.ErrNoCard) {
		t.Errorf("no card: got %v, want ErrNoCard and DeadlineExceeded", err)
	}
	found := make(chan error, 1)
	go func() {
		_, err := pcsc.Wait(t.Context(), r.Name)
		found <- err
	}()
	r.Plug(virtual.NewCard())
	if err := <-found; err != nil {
		t.Error(err)
	}
	// After removal the list has no card and no old ATR.
	r.Unplug()
	all, err := pcsc.Readers(t.Context())
	i := slices.IndexFunc(all, func(x pcsc.Reader) bool { return x.Name == r.Name })
	if err != nil || i < 0 || all[i].CardPresent || all[i].ATR != nil {
		t.Errorf("after removal: got %+v, %v", all, err)
	}
}

// TestConcurrentListing has many lists made at once, while memory is collected.
func TestConcurrentListing(t *testing.T) {
	t.Parallel()
	c := cardtest.New(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				r, err := pcsc.Find(t.Context(), c.Name)
				if err != nil || len(r.ATR) == 0 {
					t.Errorf("got %+v, %v", r, err)
					return
				}
				runtime.GC()
			}
		})
	}
	wg.Wait()
}

// stuck is a card that doesn't answer commands with INS 0xEE until it is pulled.
type stuck struct {
	*virtual.Card
	reached chan struct{}
}

func (s stuck) Transmit(ctx context.Context, apdu []byte) ([]byte, error) {
	if apdu[1] != 0xEE {
		return s.Card.Transmit(ctx, apdu)
	}
	s.reached <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

var stuckCommand = []byte{0x00, 0xEE, 0x00, 0x00}

func TestCardPulledDuringCommand(t *testing.T) {
	t.Parallel()
	r := cardtest.NewReader(t)
	device := stuck{virtual.NewCard(), make(chan struct{}, 1)}
	r.Plug(device)
	c := open(t, r.Name)
	wantOK(t, c)
	failed := make(chan error, 1)
	go func() {
		_, err := c.Transmit(context.Background(), stuckCommand)
		failed <- err
	}()
	<-device.reached
	r.Unplug()
	if err := <-failed; !errors.Is(err, smartcard.ErrCardRemoved) || !errors.Is(err, smartcard.ErrUnavailable) || !strings.Contains(err.Error(), r.Name) {
		t.Errorf("running command: got %v, want ErrCardRemoved and the reader", err)
	}
	// The card that comes next is another one for this handle.
	r.Plug(virtual.NewCard())
	if _, err := c.Transmit(t.Context(), selectPIV); !errors.Is(err, smartcard.ErrCardRemoved) {
		t.Errorf("next command: got %v, want ErrCardRemoved", err)
	}
	if err := c.Begin(t.Context()); !errors.Is(err, smartcard.ErrCardRemoved) {
		t.Errorf("Begin: got %v, want ErrCardRemoved", err)
	}
	wantOK(t, open(t, r.Name))
}

func TestCardPulledBetweenCommands(t *testing.T) {
	t.Parallel()
	r := cardtest.New(t)
	c := open(t, r.Name)
	r.Unplug()
	r.Plug(virtual.NewCard())
	if err := c.Begin(t.Context()); !errors.Is(err, smartcard.ErrCardRemoved) {
		t.Errorf("got %v, want ErrCardRemoved: the card was exchanged", err)
	}
}

func TestCardDoesNotAnswer(t *testing.T) {
	t.Parallel()
	r := cardtest.NewReader(t)
	device := stuck{virtual.NewCard(), make(chan struct{}, 1)}
	r.Plug(device)
	c, err := pcsc.Open(t.Context(), r.Name)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-device.reached
		cancel()
	}()
	if _, err := c.Transmit(ctx, stuckCommand); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	// Nothing else waits for it.
	if _, err := c.Transmit(t.Context(), selectPIV); !errors.Is(err, smartcard.ErrUnavailable) {
		t.Errorf("next command: got %v, want ErrUnavailable", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	r.Unplug() // ends the command, and what was left of c
	if _, err := c.Transmit(t.Context(), selectPIV); !errors.Is(err, smartcard.ErrUnavailable) {
		t.Errorf("afterwards: got %v, want ErrUnavailable", err)
	}
}

func TestReset(t *testing.T) {
	t.Parallel()
	r := cardtest.New(t)
	c := open(t, r.Name)
	wantOK(t, c)
	r.Reset()
	if _, err := c.Transmit(t.Context(), selectPIV); !errors.Is(err, smartcard.ErrReset) {
		t.Errorf("after a reset: got %v, want ErrReset", err)
	}
	if err := c.Begin(t.Context()); err != nil {
		t.Fatalf("Begin after a reset: %v", err)
	}
	wantOK(t, c)
	if err := c.End(smartcard.Leave); err != nil {
		t.Error(err)
	}
}

func TestCommandLength(t *testing.T) {
	t.Parallel()
	c := open(t, cardtest.New(t).Name)
	for _, n := range []int{0, 3, 65536} {
		if _, err := c.Transmit(t.Context(), make([]byte, n)); err == nil {
			t.Errorf("%d bytes: no error", n)
		}
	}
	wantOK(t, c) // the card has not been ejected
}

func TestClosed(t *testing.T) {
	t.Parallel()
	r := cardtest.New(t)
	c, err := pcsc.Open(t.Context(), r.Name)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Transmit(t.Context(), selectPIV); !errors.Is(err, smartcard.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
}

// TestPIV makes keys and uses them, through the reader, in both lengths of APDU.
func TestPIV(t *testing.T) {
	for _, extended := range []bool{false, true} {
		t.Run(fmt.Sprintf("extended=%v", extended), func(t *testing.T) {
			t.Parallel()
			recorder := smartcard.NewRecorder(open(t, cardtest.New(t).Name))
			card := piv.New(recorder, piv.Options{Extended: extended})
			var signPublic, unlockPublic crypto.PublicKey
			large := bytes.Repeat([]byte{0x5A}, 3000)
			err := card.Do(t.Context(), func(tx *piv.Tx) error {
				err := tx.Authenticate(piv.ManagementKey{Key: piv.FactoryManagementKey()})
				if err != nil {
					return err
				}
				if signPublic, err = tx.Generate(piv.SlotSignature, piv.ECDSAP256, piv.PINPolicyDefault); err != nil {
					return err
				}
				if unlockPublic, err = tx.Generate(piv.SlotKeyManagement, piv.RSA2048, piv.PINPolicyDefault); err != nil {
					return err
				}
				if err := tx.PutObject(0x5FFF00, large); err != nil {
					return err
				}
				got, err := tx.Object(0x5FFF00)
				if !bytes.Equal(got, large) {
					t.Errorf("object of %d bytes came back with %d", len(large), len(got))
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, unlockPublic.(*rsa.PublicKey), []byte("vault key"), nil)
			if err != nil {
				t.Fatal(err)
			}
			recorder.Take()
			start := time.Now()
			session := card.NewSession(t.Context(), piv.SessionConfig{PIN: func(context.Context, piv.PINRequest) ([]byte, error) {
				return []byte("123456"), nil
			}})
			defer session.Close()
			unlock, err := session.Decrypter(piv.SlotKeyManagement, unlockPublic)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := unlock.Decrypt(nil, sealed, &rsa.OAEPOptions{Hash: crypto.SHA256}); err != nil || string(got) != "vault key" {
				t.Errorf("got %q, %v", got, err)
			}
			signer, err := session.Signer(piv.SlotSignature, signPublic)
			if err != nil {
				t.Fatal(err)
			}
			digest := sha256.Sum256([]byte("purchase"))
			if _, err := signer.Sign(nil, digest[:], crypto.SHA256); err != nil {
				t.Error(err)
			}
			t.Logf("unlock + sign: %d APDUs in %v", len(recorder.Take()), time.Since(start).Round(time.Millisecond))
		})
	}
}

func BenchmarkTransmit(b *testing.B) {
	c := open(b, cardtest.New(b).Name)
	for b.Loop() {
		wantOK(b, c)
	}
}
