package piv_test

import (
	"context"
	"crypto"
	"errors"
	"slices"
	"testing"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

const (
	factoryPIN = "123456"
	factoryPUK = "12345678"
)

// newCard returns a factory-fresh card, what it is sent, and its application.
func newCard(t testing.TB) (*piv.Card, *smartcard.Recorder) {
	t.Helper()
	recorder := smartcard.NewRecorder(virtual.NewCard())
	return piv.New(recorder, piv.Options{}), recorder
}

// do is card.Do for steps that have to succeed.
func do(t testing.TB, card *piv.Card, f func(tx *piv.Tx) error) {
	t.Helper()
	if err := card.Do(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

// administer is do after authentication with the factory's management key.
func administer(t testing.TB, card *piv.Card, f func(tx *piv.Tx) error) {
	t.Helper()
	do(t, card, func(tx *piv.Tx) error {
		if err := tx.Authenticate(piv.ManagementKey{Key: piv.FactoryManagementKey()}); err != nil {
			return err
		}
		return f(tx)
	})
}

// generate makes a key with the slot's default policy.
func generate(t testing.TB, card *piv.Card, slot piv.Slot, a piv.Algorithm) crypto.PublicKey {
	t.Helper()
	var public crypto.PublicKey
	administer(t, card, func(tx *piv.Tx) (err error) {
		public, err = tx.Generate(slot, a, piv.PINPolicyDefault)
		return err
	})
	return public
}

// answer is a PINFunc that gives one PIN every time, and counts.
type answer struct {
	pin   string
	asked []piv.PINRequest
	given [][]byte
}

func (a *answer) ask(_ context.Context, r piv.PINRequest) ([]byte, error) {
	a.asked = append(a.asked, r)
	pin := []byte(a.pin)
	a.given = append(a.given, pin)
	return pin, nil
}

// count counts the recorded commands with an instruction.
func count(records []smartcard.Record, ins byte) int {
	return len(slices.DeleteFunc(slices.Clone(records), func(r smartcard.Record) bool { return r.Header[1] != ins }))
}

func pinTries(t testing.TB, card *piv.Card) int {
	t.Helper()
	var n int
	do(t, card, func(tx *piv.Tx) (err error) {
		n, err = tx.PINTries()
		return err
	})
	return n
}

func wantPINError(t testing.TB, err error, left int) {
	t.Helper()
	var pinErr *smartcard.PINError
	if !errors.As(err, &pinErr) {
		t.Fatalf("got %v, want a PINError", err)
	}
	if pinErr.TriesLeft != left {
		t.Errorf("got %d tries left, want %d", pinErr.TriesLeft, left)
	}
}
