package piv_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

// A padded card is in a reader with a keypad, at which a person types.
type padded struct {
	smartcard.Card
	keypad  smartcard.Keypad
	typed   []string // what comes next, one for each block
	err     error    // instead: the reader sends nothing
	entries int
}

func (p *padded) Keypad() smartcard.Keypad { return p.keypad }

func (p *padded) EnterPIN(ctx context.Context, e smartcard.PINEntry) ([]byte, error) {
	p.entries++
	if p.err != nil {
		return nil, p.err
	}
	cmd := bytes.Clone(e.Command)
	for block := cmd[5:]; len(block) > 0; block = block[e.BlockBytes:] {
		if len(p.typed[0]) < e.DigitsMin || len(p.typed[0]) > e.DigitsMax {
			return nil, smartcard.ErrPadLength
		}
		copy(block, p.typed[0])
		p.typed = p.typed[1:]
	}
	return p.Card.Transmit(ctx, cmd)
}

// newPadded returns a card in a reader with a keypad, and what is sent to it.
func newPadded() (*piv.Card, *padded, *smartcard.Recorder) {
	pad := &padded{Card: virtual.NewCard(), keypad: smartcard.Keypad{Verify: true, Modify: true, Lines: 2, Columns: 16}}
	recorder := smartcard.NewRecorder(pad)
	return piv.New(recorder, piv.Options{}), pad, recorder
}

// noPrompt fails the test if the PIN is asked for on the computer.
func noPrompt(t *testing.T) piv.PINFunc {
	return func(context.Context, piv.PINRequest) ([]byte, error) {
		t.Error("the PIN was asked for on the computer")
		return []byte(factoryPIN), nil
	}
}

// TestKeypadPurchase opens a vault with 9d and signs with 9c: an entry for each.
func TestKeypadPurchase(t *testing.T) {
	card, pad, recorder := newPadded()
	signPublic := generate(t, card, piv.SlotSignature, piv.ECDSAP256)
	unlockPublic := generate(t, card, piv.SlotKeyManagement, piv.RSA2048).(*rsa.PublicKey)
	sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, unlockPublic, []byte("vault key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := card.Serial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var shown []piv.PadRequest
	session := card.NewSession(t.Context(), piv.SessionConfig{PIN: noPrompt(t), Reason: "pay 5 EUR", Pad: func(ctx context.Context, r piv.PadRequest) error {
		begun, cancel := context.WithCancel(ctx) // no transaction may be running
		defer cancel()
		if err := pad.Begin(begun); err != nil {
			t.Error(err)
		}
		if err := pad.End(smartcard.Leave); err != nil {
			t.Error(err)
		}
		shown = append(shown, r)
		return nil
	}})
	defer session.Close()
	pad.typed = []string{factoryPIN, factoryPIN}
	unlock, err := session.Decrypter(piv.SlotKeyManagement, unlockPublic)
	if err != nil {
		t.Fatal(err)
	}
	recorder.Take()
	if got, err := unlock.Decrypt(nil, sealed, &rsa.OAEPOptions{Hash: crypto.SHA256}); err != nil || string(got) != "vault key" {
		t.Fatalf("got %q, %v", got, err)
	}
	sign(t, session, signPublic)
	want := []piv.PadRequest{
		{PINRequest: piv.PINRequest{Reason: "pay 5 EUR", Serial: serial, Slot: piv.SlotKeyManagement, TriesLeft: 3}, Keypad: pad.keypad},
		{PINRequest: piv.PINRequest{Reason: "pay 5 EUR", Serial: serial, Slot: piv.SlotSignature, TriesLeft: 3}, Keypad: pad.keypad},
	}
	if diff := cmp.Diff(want, shown); diff != "" {
		t.Error(diff)
	}
	records := recorder.Take()
	proofs := 0
	for _, r := range records {
		if r.Header == [4]byte{0x00, 0x20, 0x00, 0x80} && r.SentBytes == 13 && r.Status == smartcard.StatusOK {
			proofs++
		}
	}
	if pad.entries != 2 || proofs != 2 {
		t.Errorf("%d entries, %d of them recorded as VERIFY; want 2", pad.entries, proofs)
	}
	// Nobody can use the card with the PIN afterwards.
	answer, err := pad.Transmit(t.Context(), []byte{0x00, 0x20, 0x00, 0x80})
	if err != nil || !bytes.Equal(answer, []byte{0x63, 0xC3}) {
		t.Errorf("PIN status: got % X, %v, want 63 C3", answer, err)
	}
}

// TestKeypadOneEntry makes one entry serve a signature and what follows.
func TestKeypadOneEntry(t *testing.T) {
	card, pad, _ := newPadded()
	signPublic := generate(t, card, piv.SlotSignature, piv.ECDSAP256)
	otherPublic := generate(t, card, piv.SlotAuthentication, piv.ECDSAP256)
	pad.typed = []string{factoryPIN}
	digest := sha256.Sum256([]byte("x"))
	do(t, card, func(tx *piv.Tx) error {
		if err := tx.VerifyPINOnPad(); err != nil {
			return err
		}
		for _, use := range []struct {
			slot   piv.Slot
			public crypto.PublicKey
		}{{piv.SlotSignature, signPublic}, {piv.SlotAuthentication, otherPublic}, {piv.SlotAuthentication, otherPublic}} {
			signer, err := tx.Signer(use.slot, use.public)
			if err != nil {
				return err
			}
			if _, err := signer.Sign(nil, digest[:], crypto.SHA256); err != nil {
				return err
			}
		}
		return nil
	})
	if pad.entries != 1 {
		t.Errorf("%d entries, want 1", pad.entries)
	}
}

func TestKeypadRefusals(t *testing.T) {
	card, pad, recorder := newPadded()
	public := generate(t, card, piv.SlotSignature, piv.ECDSAP256)
	shown := 0
	config := piv.SessionConfig{PIN: noPrompt(t), Pad: func(context.Context, piv.PadRequest) error {
		shown++
		return nil
	}}
	session := card.NewSession(t.Context(), config)
	defer session.Close()
	for _, reason := range []error{smartcard.ErrPadTimeout, smartcard.ErrPadCancelled, smartcard.ErrPadLength, context.DeadlineExceeded} {
		pad.err = reason
		if _, err := trySign(session, public); !errors.Is(err, reason) {
			t.Errorf("got %v, want %v", err, reason)
		}
	}
	if n := pinTries(t, card); n != 3 || pad.entries != 4 {
		t.Errorf("%d tries left after %d entries, want 3 and 4", n, pad.entries)
	}
	// Wrong PINs: one entry each, and not the last try.
	pad.err, pad.typed = nil, []string{"000000", "111111"}
	recorder.Take()
	for left := 2; left > 0; left-- {
		_, err := trySign(session, public)
		wantPINError(t, err, left)
	}
	entries, before := pad.entries, shown
	if _, err := trySign(session, public); !errors.Is(err, piv.ErrLastTry) {
		t.Errorf("last try: got %v, want ErrLastTry", err)
	}
	err := card.Do(t.Context(), func(tx *piv.Tx) error { return tx.VerifyPINOnPad() })
	if !errors.Is(err, piv.ErrLastTry) {
		t.Errorf("last try in a transaction: got %v, want ErrLastTry", err)
	}
	if err := card.Do(t.Context(), func(tx *piv.Tx) error { return tx.ChangePINOnPad() }); !errors.Is(err, piv.ErrLastTry) {
		t.Errorf("last try for a change: got %v, want ErrLastTry", err)
	}
	if n := count(recorder.Take(), 0x87); n > 0 || pad.entries != entries || shown != before {
		t.Errorf("%d uses of the key, %d entries and %d prompts too many", n, pad.entries-entries, shown-before)
	}
	unannounced := card.NewSession(t.Context(), piv.SessionConfig{PIN: noPrompt(t)})
	defer unannounced.Close()
	if _, err := trySign(unannounced, public); !errors.Is(err, piv.ErrLastTry) || pad.entries != entries {
		t.Errorf("last try, unannounced: got %v after %d entries, want ErrLastTry and none", err, pad.entries-entries)
	}
	config.AllowLastTry = true
	consenting := card.NewSession(t.Context(), config)
	defer consenting.Close()
	pad.typed = []string{factoryPIN}
	sign(t, consenting, public)
	if n := pinTries(t, card); n != 3 {
		t.Errorf("%d tries left after the right PIN, want 3", n)
	}
	// A person who says no is not asked by the reader.
	cancelled := errors.New("cancelled")
	config.Pad = func(context.Context, piv.PadRequest) error { return cancelled }
	unwilling := card.NewSession(t.Context(), config)
	defer unwilling.Close()
	entries = pad.entries
	if _, err := trySign(unwilling, public); !errors.Is(err, cancelled) || pad.entries != entries {
		t.Errorf("got %v after %d entries, want %v and none", err, pad.entries-entries, cancelled)
	}
}

// TestKeypadIgnored types the PIN on the computer, because the program says so.
func TestKeypadIgnored(t *testing.T) {
	card, pad, _ := newPadded()
	public := generate(t, card, piv.SlotSignature, piv.ECDSAP256)
	pin := &answer{pin: factoryPIN}
	session := card.NewSession(t.Context(), piv.SessionConfig{PIN: pin.ask, IgnoreKeypad: true})
	defer session.Close()
	sign(t, session, public)
	if len(pin.asked) != 1 || pad.entries != 0 {
		t.Errorf("asked %d times with %d entries, want 1 and 0", len(pin.asked), pad.entries)
	}
}

func TestKeypadChanges(t *testing.T) {
	card, pad, _ := newPadded()
	verify := func(pin string) {
		t.Helper()
		do(t, card, func(tx *piv.Tx) error { return tx.VerifyPIN([]byte(pin)) })
	}
	pad.typed = []string{factoryPIN, "654321"}
	do(t, card, func(tx *piv.Tx) error { return tx.ChangePINOnPad() })
	verify("654321")
	pad.typed = []string{factoryPUK, "87654321"}
	do(t, card, func(tx *piv.Tx) error { return tx.ChangePUKOnPad() })
	pad.typed = []string{"87654321", "222222"}
	do(t, card, func(tx *piv.Tx) error { return tx.UnblockPINOnPad() })
	verify("222222")

	pad.typed = []string{"000000", "333333"}
	wantPINError(t, card.Do(t.Context(), func(tx *piv.Tx) error { return tx.UnblockPINOnPad() }), 2)
	pad.err = smartcard.ErrPadMismatch
	if err := card.Do(t.Context(), func(tx *piv.Tx) error { return tx.ChangePINOnPad() }); !errors.Is(err, smartcard.ErrPadMismatch) {
		t.Errorf("got %v, want ErrPadMismatch", err)
	}
	verify("222222")

	// A keypad for verification only, and none.
	pad.keypad.Modify, pad.entries = false, 0
	plain, _ := newCard(t)
	for name, f := range map[string]func() error{
		"change":     func() error { return card.Do(t.Context(), func(tx *piv.Tx) error { return tx.ChangePINOnPad() }) },
		"change PUK": func() error { return card.Do(t.Context(), func(tx *piv.Tx) error { return tx.ChangePUKOnPad() }) },
		"unblock":    func() error { return card.Do(t.Context(), func(tx *piv.Tx) error { return tx.UnblockPINOnPad() }) },
		"verify":     func() error { return plain.Do(t.Context(), func(tx *piv.Tx) error { return tx.VerifyPINOnPad() }) },
	} {
		if err := f(); !errors.Is(err, piv.ErrNoKeypad) {
			t.Errorf("%s: got %v, want ErrNoKeypad", name, err)
		}
	}
	if pad.entries != 0 {
		t.Errorf("%d entries at a keypad that can't do it", pad.entries)
	}
}

// TestKeypadInterrupted resets the card before an entry, during it and after it:
// nobody is asked again by itself.
func TestKeypadInterrupted(t *testing.T) {
	plastic := virtual.NewCard()
	public := generate(t, piv.New(plastic, piv.Options{}), piv.SlotSignature, piv.ECDSAP256)
	transport := &faulty{Card: plastic, fault: fault{err: smartcard.ErrReset}}
	pad := &padded{Card: transport, keypad: smartcard.Keypad{Verify: true}}
	session := piv.New(pad, piv.Options{}).NewSession(t.Context(), piv.SessionConfig{PIN: noPrompt(t)})
	defer session.Close()
	for n, want := range []struct {
		entries int
		keyUsed bool
	}{{0, false}, {0, false}, {1, false}, {1, true}} { // SELECT, tries left, VERIFY, the signature
		transport.n, pad.typed, pad.entries = n, []string{factoryPIN}, 0
		_, err := trySign(session, public)
		var lost *piv.InterruptedError
		if !errors.As(err, &lost) || lost.KeyUsed != want.keyUsed || pad.entries != want.entries {
			t.Errorf("command %d: got %v after %d entries, want %+v", n, err, pad.entries, want)
		}
	}
	transport.n, pad.typed = -1, []string{factoryPIN}
	sign(t, session, public)
}
