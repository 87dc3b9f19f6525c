package pcsc_test

import (
	"testing"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/cardtest"
	"github.com/setkit/setkit/smartcard/pcsc"
)

// open returns the card in a reader, closed at the end of the test.
func open(t testing.TB, reader string) *pcsc.Card {
	t.Helper()
	c, err := pcsc.Open(t.Context(), reader)
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

func TestConformance(t *testing.T) {
	cardtest.Conformance(t, func(t testing.TB) smartcard.Card { return open(t, cardtest.New(t).Name) })
}
