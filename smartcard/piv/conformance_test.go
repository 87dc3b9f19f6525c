package piv_test

import (
	"cmp"
	"encoding/hex"
	"flag"
	"os"
	"testing"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/cardtest"
	"github.com/setkit/setkit/smartcard/pcsc"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

var writeCard = flag.Bool("write-card", false, "the card in SETKIT_READER may lose its keys and objects, and is sent PINs")

// TestConformance tests a card through PC/SC: a virtual one, or any other, in
// the reader that SETKIT_READER names.
//
//	SETKIT_READER="Yubico" go test ./smartcard/piv -run Conformance
//	SETKIT_READER="Yubico" go test ./smartcard/piv -run Conformance -write-card
//
// The first only reads. The second wants PIN, PUK and management key in
// SETKIT_PIN, SETKIT_PUK and SETKIT_MANAGEMENT_KEY (hexadecimal), or else takes
// those of the factory.
func TestConformance(t *testing.T) {
	reader := os.Getenv("SETKIT_READER")
	if reader == "" {
		reader := cardtest.New(t)
		cardtest.Conformance(t, func(t testing.TB) smartcard.Card { return openReader(t, reader.Name) })
		return
	}
	key, err := hex.DecodeString(cmp.Or(os.Getenv("SETKIT_MANAGEMENT_KEY"), hex.EncodeToString(piv.FactoryManagementKey())))
	if err != nil {
		t.Fatal("SETKIT_MANAGEMENT_KEY is not hexadecimal") // the error would quote it
	}
	cardtest.Subject{
		Open:          func(t testing.TB) smartcard.Card { return openReader(t, reader) },
		Write:         *writeCard,
		PIN:           []byte(cmp.Or(os.Getenv("SETKIT_PIN"), factoryPIN)),
		PUK:           []byte(cmp.Or(os.Getenv("SETKIT_PUK"), factoryPUK)),
		ManagementKey: piv.ManagementKey{Key: key},
	}.Conformance(t)
}

// openReader returns the card in a reader, closed at the end of the test.
func openReader(t testing.TB, name string) *pcsc.Card {
	t.Helper()
	found, err := pcsc.Find(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	card, err := pcsc.Open(t.Context(), found.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := card.Close(); err != nil {
			t.Error(err)
		}
	})
	return card
}

// TestConformanceOfOthers tests cards that differ from the usual virtual one:
// with newer algorithms, and with nothing but the standard.
func TestConformanceOfOthers(t *testing.T) {
	for name, card := range map[string]smartcard.Card{
		"newest": virtual.New(virtual.Firmware57),
		"plain":  plain{virtual.NewCard()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cardtest.Conformance(t, func(testing.TB) smartcard.Card { return card })
		})
	}
}
