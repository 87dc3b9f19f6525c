package piv_test

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

// A fault is what goes wrong with one command.
type fault struct {
	name   string
	err    error // instead of an answer
	acted  bool  // the card got the command all the same
	answer []byte
}

var faults = []fault{
	{name: "pulled before", err: smartcard.ErrCardRemoved},
	{name: "pulled after", err: smartcard.ErrCardRemoved, acted: true},
	{name: "reset before", err: smartcard.ErrReset},
	{name: "reset after", err: smartcard.ErrReset, acted: true},
	{name: "reader gone", err: smartcard.ErrNoReader},
	{name: "service ended", err: smartcard.ErrNoService, acted: true},
	{name: "context over", err: context.DeadlineExceeded, acted: true},
	{name: "answer cut off", answer: []byte{0x90}, acted: true},
	{name: "empty answer", answer: []byte{0x90, 0x00}, acted: true},
	{name: "refused", answer: []byte{0x6F, 0x00}},
	{name: "wrong length", answer: []byte{0x6C, 0x10}, acted: true},
}

// faulty is a card where the n-th command goes wrong.
type faulty struct {
	*virtual.Card
	n      int
	fault  fault
	seen   [][4]byte // headers of the commands that reached the card
	pins   int       // how often it was sent a PIN
	struck [4]byte   // header of the one that went wrong
}

func (f *faulty) Transmit(ctx context.Context, cmd []byte) ([]byte, error) {
	header := [4]byte(cmd)
	if f.n--; cmd[1] == 0x20 && len(cmd) > 5 {
		f.pins++
	}
	if f.n != -1 {
		f.seen = append(f.seen, header)
		return f.Card.Transmit(ctx, cmd)
	}
	f.struck = header
	if f.fault.acted {
		f.seen = append(f.seen, header)
		if _, err := f.Card.Transmit(ctx, cmd); err != nil {
			return nil, err
		}
	}
	if errors.Is(f.fault.err, smartcard.ErrReset) || errors.Is(f.fault.err, smartcard.ErrCardRemoved) {
		f.Card.Reset()
	}
	return f.fault.answer, f.fault.err
}

func (f *faulty) count(want [4]byte) int {
	n := 0
	for _, h := range f.seen {
		if h == want {
			n++
		}
	}
	return n
}

// TestInterruptions lets every command of a signature go wrong in every way, for
// a PIN that the card hasn't accepted yet and for one that it has.
func TestInterruptions(t *testing.T) {
	plastic := virtual.NewCard()
	public := generate(t, piv.New(plastic, piv.Options{}), piv.SlotSignature, piv.RSA2048).(*rsa.PublicKey)
	pairs := 0
	for _, proven := range []bool{false, true} {
		for _, fault := range faults {
			for n := 0; interrupted(t, plastic, public, n, fault, proven); n++ {
				pairs++
			}
		}
	}
	t.Logf("%d pairs of command and fault", pairs)
	if want := len(faults) * (9 + 5); pairs < want {
		t.Errorf("%d pairs, want at least %d", pairs, want)
	}
}

// interrupted tries one pair. It returns false if there is no n-th command.
func interrupted(t *testing.T, plastic *virtual.Card, public *rsa.PublicKey, n int, fault fault, proven bool) bool {
	t.Helper()
	pair := fmt.Sprintf("command %d, %s, PIN proven %v", n, fault.name, proven)
	transport := &faulty{Card: plastic, n: -1, fault: fault}
	pin := &answer{pin: factoryPIN}
	session := piv.New(transport, piv.Options{}).NewSession(t.Context(), piv.SessionConfig{PIN: pin.ask})
	defer session.Close()
	signer, err := session.Signer(piv.SlotSignature, public)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("x"))
	if proven {
		if _, err := signer.Sign(nil, digest[:], crypto.SHA256); err != nil {
			t.Fatal(err)
		}
	}
	transport.n, transport.seen, transport.pins = n, nil, 0
	_, err = signer.Sign(nil, digest[:], crypto.SHA256)
	if transport.n >= 0 {
		return false
	}
	var lost *piv.InterruptedError
	isLost := errors.As(err, &lost)
	signed := transport.count([4]byte{0x00, 0x87, 0x07, 0x9C})
	struckKey := transport.struck == [4]byte{0x00, 0x87, 0x07, 0x9C} || transport.struck[1] == 0xC0

	if signed > 1 {
		t.Errorf("%s: the key was used %d times", pair, signed)
	}
	if isLost && lost.KeyUsed != struckKey || signed > 0 && err != nil && !isLost && fault.answer == nil {
		t.Errorf("%s: got %v although the key was used %d times", pair, err, signed)
	}
	if err != nil && transport.struck[1] == 0xC0 && (!isLost || !lost.KeyUsed) {
		t.Errorf("%s: got %v, want that the key was used", pair, err)
	}
	// A PIN that the card has accepted once may go out again, after a reset.
	if limit := map[bool]int{false: 1, true: 2}[proven || transport.struck[1] == 0x87]; transport.pins > limit {
		t.Errorf("%s: the PIN was sent %d times", pair, transport.pins)
	}
	if fault.err != nil && err == nil && fault.err != smartcard.ErrReset && transport.struck != [4]byte{0x00, 0x20, 0xFF, 0x80} {
		t.Errorf("%s: no error", pair)
	}
	if fault.err != nil && err != nil && !errors.Is(err, fault.err) {
		t.Errorf("%s: got %v, want %v", pair, err, fault.err)
	}
	if errors.Is(err, smartcard.ErrUnavailable) && !isLost && transport.struck != [4]byte{0x00, 0x20, 0xFF, 0x80} {
		t.Errorf("%s: got %v, want an InterruptedError", pair, err)
	}
	// The card is as usable as before, with all its tries, and keeps no PIN.
	again := &answer{pin: factoryPIN}
	fresh := piv.New(plastic, piv.Options{}).NewSession(t.Context(), piv.SessionConfig{PIN: again.ask})
	defer fresh.Close()
	if signer, err = fresh.Signer(piv.SlotSignature, public); err != nil {
		t.Fatal(err)
	}
	if _, err := signer.Sign(nil, digest[:], crypto.SHA256); err != nil {
		t.Errorf("%s: afterwards: %v", pair, err)
	}
	if len(again.asked) != 1 || again.asked[0].TriesLeft != 3 {
		t.Errorf("%s: afterwards the card says %+v, want 3 tries", pair, again.asked)
	}
	return true
}

// TestUnansweredPIN loses the answer to a wrong PIN: it isn't sent again, a
// person is asked.
func TestUnansweredPIN(t *testing.T) {
	plastic := virtual.NewCard()
	public := generate(t, piv.New(plastic, piv.Options{}), piv.SlotSignature, piv.ECDSAP256)
	transport := &faulty{Card: plastic, n: 5, fault: fault{err: smartcard.ErrReset, acted: true}}
	pin := &answer{pin: "000000"}
	session := piv.New(transport, piv.Options{}).NewSession(t.Context(), piv.SessionConfig{PIN: pin.ask})
	defer session.Close()
	_, err := trySign(session, public)
	if transport.struck != [4]byte{0x00, 0x20, 0x00, 0x80} || !errors.Is(err, smartcard.ErrReset) {
		t.Fatalf("% X went wrong, got %v; want VERIFY and ErrReset", transport.struck, err)
	}
	if n := pinTries(t, piv.New(plastic, piv.Options{})); n != 2 || len(pin.asked) != 1 {
		t.Errorf("%d tries left after %d questions, want 2 and 1", n, len(pin.asked))
	}
	pin.pin = factoryPIN
	sign(t, session, public)
	if len(pin.asked) != 2 || pin.asked[1].TriesLeft != 2 {
		t.Errorf("got %+v, want a second question, with 2 tries left", pin.asked)
	}
}

// TestResetByAnother lets another program reset the card before the key's turn:
// the signature is made all the same, and nobody is asked again.
func TestResetByAnother(t *testing.T) {
	plastic := virtual.NewCard()
	public := generate(t, piv.New(plastic, piv.Options{}), piv.SlotSignature, piv.ECDSAP256)
	transport := &faulty{Card: plastic, n: -1, fault: fault{err: smartcard.ErrReset}}
	pin := &answer{pin: factoryPIN}
	session := piv.New(transport, piv.Options{}).NewSession(t.Context(), piv.SessionConfig{PIN: pin.ask})
	defer session.Close()
	sign(t, session, public)
	for n := range 2 { // SELECT, VERIFY
		transport.n = n
		sign(t, session, public)
	}
	transport.n = 2 // the signature itself
	_, err := trySign(session, public)
	var lost *piv.InterruptedError
	if !errors.As(err, &lost) || !lost.KeyUsed || lost.Slot != piv.SlotSignature {
		t.Errorf("got %v, want that the key was perhaps used", err)
	}
	if len(pin.asked) != 1 {
		t.Errorf("asked %d times, want 1", len(pin.asked))
	}
}
