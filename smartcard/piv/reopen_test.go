package piv_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

// payer is a card with the keys of a purchase.
type payer struct {
	plastic *virtual.Card
	sign    crypto.PublicKey
	open    *rsa.PublicKey
	secret  []byte // encrypted to open
}

func newPayer(t testing.TB, a piv.Algorithm) *payer {
	t.Helper()
	p := &payer{plastic: virtual.NewCard()}
	card := piv.New(p.plastic, piv.Options{})
	p.sign = generate(t, card, piv.SlotSignature, a)
	p.open = generate(t, card, piv.SlotKeyManagement, piv.RSA2048).(*rsa.PublicKey)
	var err error
	if p.secret, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, p.open, []byte("the account"), nil); err != nil {
		t.Fatal(err)
	}
	return p
}

// purchase does what a purchase does with the card: it opens a secret, then
// signs, in one transaction.
func (p *payer) purchase(s *piv.Session) error {
	signer, err := s.Signer(piv.SlotSignature, p.sign)
	if err != nil {
		return err
	}
	decrypter, err := s.Decrypter(piv.SlotKeyManagement, p.open)
	if err != nil {
		return err
	}
	return s.Hold(func() error {
		account, err := decrypter.Decrypt(nil, p.secret, &rsa.OAEPOptions{Hash: crypto.SHA256})
		if err != nil {
			return err
		}
		digest := sha256.Sum256(account)
		_, err = signer.Sign(nil, digest[:], crypto.SHA256)
		return err
	})
}

// TestReopen lets every command of a purchase go wrong in every way, with a card
// that comes back.
func TestReopen(t *testing.T) {
	t.Parallel()
	p := newPayer(t, piv.ECDSAP256)
	for _, proven := range []bool{false, true} {
		for _, fault := range faults {
			n := 0
			for p.comesBack(t, n, fault, proven) {
				n++
			}
			if want := map[bool]int{false: 11, true: 8}[proven]; n < want {
				t.Errorf("%s: %d commands went wrong, want at least %d", fault.name, n, want)
			}
		}
	}
}

// comesBack tries one pair. It returns false if there is no n-th command.
func (p *payer) comesBack(t *testing.T, n int, fault fault, proven bool) bool {
	t.Helper()
	pair := fmt.Sprintf("command %d, %s, PIN proven %v", n, fault.name, proven)
	transport := &faulty{Card: p.plastic, n: -1, fault: fault}
	pin := &answer{pin: factoryPIN}
	reopened := 0
	session := piv.New(transport, piv.Options{}).NewSession(t.Context(), piv.SessionConfig{
		PIN: pin.ask,
		Reopen: func(_ context.Context, lost error) (smartcard.Card, error) {
			if reopened++; !errors.Is(lost, fault.err) {
				t.Errorf("%s: reopened after %v", pair, lost)
			}
			return transport, nil
		},
	})
	defer session.Close()
	if proven {
		if err := p.purchase(session); err != nil {
			t.Fatal(err)
		}
	}
	transport.n, transport.seen, transport.pins = n, nil, 0
	err := p.purchase(session)
	if transport.n >= 0 {
		return false
	}
	signs := [4]byte{0x00, 0x87, 0x11, 0x9C}
	if n := transport.count(signs); n > 1 {
		t.Errorf("%s: signed %d times", pair, n)
	}
	var lost *piv.InterruptedError
	switch lostSignature := errors.As(err, &lost) && lost.KeyUsed && lost.Slot == piv.SlotSignature; {
	case !errors.Is(fault.err, smartcard.ErrUnavailable): // a refusal, or the end of the context
	case transport.struck == signs && (!lostSignature || reopened > 0):
		t.Errorf("%s: got %v, want that the signature may have been made", pair, err)
	case transport.struck != signs && err != nil:
		t.Errorf("%s: %v", pair, err)
	}
	// Until the card has accepted it, a PIN goes out once for each time that the
	// person was asked; the key that signs wants it once more.
	const firstVerify = 5
	if n <= firstVerify && !proven && transport.pins > len(pin.asked)+1 {
		t.Errorf("%s: PIN sent %d times after %d questions", pair, transport.pins, len(pin.asked))
	}
	if n := pinTries(t, piv.New(p.plastic, piv.Options{})); n != 3 {
		t.Errorf("%s: %d tries left", pair, n)
	}
	return true
}

// TestReopenOtherCard puts another card in the place of the one that was pulled:
// it doesn't get the PIN.
func TestReopenOtherCard(t *testing.T) {
	t.Parallel()
	p := newPayer(t, piv.ECDSAP256)
	transport := &faulty{Card: p.plastic, n: -1, fault: fault{err: smartcard.ErrCardRemoved}}
	other := smartcard.NewRecorder(virtual.NewCard())
	session := piv.New(transport, piv.Options{}).NewSession(t.Context(), piv.SessionConfig{
		PIN:    (&answer{pin: factoryPIN}).ask,
		Reopen: func(context.Context, error) (smartcard.Card, error) { return other, nil },
	})
	defer session.Close()
	if err := p.purchase(session); err != nil {
		t.Fatal(err)
	}
	transport.n = 0
	if err := p.purchase(session); !errors.Is(err, piv.ErrOtherCard) {
		t.Errorf("got %v, want ErrOtherCard", err)
	}
	if n := count(other.Take(), 0x20); n > 0 {
		t.Errorf("the other card got %d VERIFY", n)
	}
}

// TestReopenEnds gives up: the caller learns why, and how often it was tried.
func TestReopenEnds(t *testing.T) {
	t.Parallel()
	p := newPayer(t, piv.ECDSAP256)
	gone := &faulty{Card: p.plastic, n: 0, fault: fault{err: smartcard.ErrCardRemoved}}
	enough := errors.New("nobody has put it back")
	session := piv.New(gone, piv.Options{}).NewSession(t.Context(), piv.SessionConfig{
		PIN:    (&answer{pin: factoryPIN}).ask,
		Reopen: func(_ context.Context, lost error) (smartcard.Card, error) { return nil, errors.Join(lost, enough) },
	})
	defer session.Close()
	err := p.purchase(session)
	var lost *piv.InterruptedError
	if !errors.As(err, &lost) || lost.KeyUsed || !errors.Is(err, enough) || !errors.Is(err, smartcard.ErrCardRemoved) {
		t.Errorf("got %v", err)
	}
	times := 0
	dead := piv.New(&faulty{Card: p.plastic, n: 0, fault: fault{err: smartcard.ErrMute}}, piv.Options{}).NewSession(t.Context(), piv.SessionConfig{
		PIN: (&answer{pin: factoryPIN}).ask,
		Reopen: func(context.Context, error) (smartcard.Card, error) {
			if times++; times > 100 {
				t.Fatal("it goes on for ever")
			}
			return &faulty{Card: p.plastic, n: 0, fault: fault{err: smartcard.ErrMute}}, nil
		},
	})
	defer dead.Close()
	if err := p.purchase(dead); !errors.Is(err, smartcard.ErrMute) {
		t.Errorf("got %v", err)
	}
}

// TestHold counts the commands of a purchase on an unlocked card, and that the PIN
// is withdrawn behind it.
func TestHold(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a        piv.Algorithm
		extended bool
		want     int
	}{
		// SELECT, VERIFY, 9d, VERIFY, 9c, VERIFY that withdraws: package documentation.
		{piv.ECDSAP256, false, 8}, {piv.ECDSAP256, true, 6}, {piv.RSA2048, false, 10}, {piv.RSA2048, true, 6},
	} {
		p := newPayer(t, tt.a)
		recorder := smartcard.NewRecorder(p.plastic)
		pin := &answer{pin: factoryPIN}
		session := piv.New(recorder, piv.Options{Extended: tt.extended}).NewSession(t.Context(), piv.SessionConfig{PIN: pin.ask})
		defer session.Close()
		if err := p.purchase(session); err != nil {
			t.Fatal(err)
		}
		first := len(recorder.Take())
		if err := p.purchase(session); err != nil {
			t.Fatal(err)
		}
		records := recorder.Take()
		t.Logf("%v, extended %v: %d APDUs at first, then %d", tt.a, tt.extended, first, len(records))
		if len(records) != tt.want || first != tt.want+4 { // SELECT, serial, tries; tries
			t.Errorf("%v, extended %v: %d APDUs, then %v; want %d", tt.a, tt.extended, first, records, tt.want)
		}
		if last := records[len(records)-1]; last.Header != [4]byte{0x00, 0x20, 0xFF, 0x80} || len(pin.asked) != 1 {
			t.Errorf("%v: the last command is % X, asked %d times", tt.a, last.Header, len(pin.asked))
		}
		if n := pinTries(t, piv.New(p.plastic, piv.Options{})); n != 3 {
			t.Errorf("%d tries", n)
		}
	}
}

// narrow is a card behind a reader that doesn't take APDUs of extended length
// with more than so many bytes.
type narrow struct {
	*faulty
	bytes  int
	answer []byte // or an error, as of a reader
}

func (n narrow) Transmit(ctx context.Context, cmd []byte) ([]byte, error) {
	if len(cmd) < 7 || cmd[4] != 0 || len(cmd) <= n.bytes {
		return n.faulty.Transmit(ctx, cmd)
	}
	if n.answer != nil {
		return n.answer, nil
	}
	return nil, fmt.Errorf("transmit: %w", smartcard.ErrUnavailable)
}

// TestExtendedRefused believes a card that says it takes extended length behind
// a reader that doesn't: it is used all the same, and nothing is signed twice.
func TestExtendedRefused(t *testing.T) {
	t.Parallel()
	p := newPayer(t, piv.RSA2048)
	for _, bytes := range []int{0, 260} {
		for _, answer := range [][]byte{nil, {0x67, 0x00}} {
			transport := narrow{faulty: &faulty{Card: p.plastic, n: -1}, bytes: bytes, answer: answer}
			reopen := func(context.Context, error) (smartcard.Card, error) { return transport, nil }
			cfg := piv.SessionConfig{PIN: (&answerOnce{}).ask, Reopen: reopen}
			session := piv.New(transport, piv.Options{Extended: true}).NewSession(t.Context(), cfg)
			defer session.Close()
			if err := p.purchase(session); err != nil {
				t.Errorf("%d bytes, % X: %v", bytes, answer, err)
			}
			// The last of a chain has the signature; there are two pieces.
			if n := transport.count([4]byte{0x00, 0x87, 0x07, 0x9C}); n != 1 {
				t.Errorf("%d bytes, % X: signed %d times", bytes, answer, n)
			}
			alone := piv.New(transport, piv.Options{Extended: true}).NewSession(t.Context(), piv.SessionConfig{PIN: (&answerOnce{}).ask})
			defer alone.Close()
			signer, err := alone.Signer(piv.SlotSignature, p.sign)
			if err != nil {
				t.Fatal(err)
			}
			digest := sha256.Sum256(nil)
			if _, err := signer.Sign(nil, digest[:], crypto.SHA256); err != nil {
				t.Errorf("%d bytes, % X: a signature with nothing before it: %v", bytes, answer, err)
			}
		}
	}
}

// answerOnce gives the PIN once: a second question means that it was dropped.
type answerOnce struct{ answer }

func (a *answerOnce) ask(ctx context.Context, r piv.PINRequest) ([]byte, error) {
	if len(a.asked) > 0 {
		return nil, errors.New("asked again")
	}
	a.pin = factoryPIN
	return a.answer.ask(ctx, r)
}
