package piv_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"flag"
	"os"
	"os/exec"
	"strings"
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

// mutantName makes the test binary test one of the mutants, and fail.
const mutantName = "PIV_TEST_MUTANT"

// A modest card has what the standard demands of it and no more: short APDUs, the
// algorithms of SP 800-78-4 for every slot, no additions, and no withdrawal of the
// PIN, which came late. It refuses in other words than the virtual card does.
type modest struct{ smartcard.Card }

func (c modest) Transmit(ctx context.Context, cmd []byte) ([]byte, error) {
	switch {
	case len(cmd) > 5 && cmd[4] == 0: // extended length
		return []byte{0x67, 0x00}, nil
	case cmd[1] >= 0xF7:
		return []byte{0x6D, 0x00}, nil
	case cmd[1] == 0x20 && cmd[2] == 0xFF:
		return []byte{0x6A, 0x86}, nil
	case cmd[1] == 0x47 && cmd[9] != byte(piv.RSA2048) && cmd[9] != byte(piv.ECDSAP256):
		return []byte{0x6A, 0x86}, nil
	}
	answer, err := c.Card.Transmit(ctx, cmd)
	if err == nil && bytes.Equal(answer, []byte{0x69, 0x82}) && (cmd[1] == 0xDB || cmd[3] == 0x9B) {
		answer = []byte{0x69, 0x84}
	}
	return answer, err
}

// TestConformanceOfOthers tests cards that differ from the usual virtual one:
// with newer algorithms, and with nothing but the standard.
func TestConformanceOfOthers(t *testing.T) {
	cards := map[string]smartcard.Card{
		"newest": virtual.New(virtual.Firmware57),
		"plain":  plain{virtual.NewCard()},
		"modest": modest{virtual.NewCard()},
	}
	if name := os.Getenv(mutantName); name != "" {
		cards = map[string]smartcard.Card{"mutant": mutant{virtual.NewCard(), mutants[name].change}}
	}
	for name, card := range cards {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cardtest.Conformance(t, func(testing.TB) smartcard.Card { return card })
		})
	}
}

// A mutant is a card that breaks the standard in one point.
type mutant struct {
	*virtual.Card
	change func(c *virtual.Card, cmd []byte, next func([]byte) []byte) []byte
}

func (m mutant) Transmit(ctx context.Context, cmd []byte) (answer []byte, err error) {
	answer = m.change(m.Card, cmd, func(cmd []byte) []byte {
		var a []byte
		a, err = m.Card.Transmit(ctx, cmd)
		return a
	})
	return answer, err
}

// mutants, and the part of the suite that has to notice each.
var mutants = map[string]struct {
	noticedBy string
	change    func(c *virtual.Card, cmd []byte, next func([]byte) []byte) []byte
}{
	"keeps a PIN that was withdrawn": {"PIN", func(_ *virtual.Card, cmd []byte, next func([]byte) []byte) []byte {
		if cmd[1] == 0x20 && cmd[2] == 0xFF {
			return []byte{0x90, 0x00}
		}
		return next(cmd)
	}},
	"forgets the PIN when PIV is selected again": {"PIN", func(c *virtual.Card, cmd []byte, next func([]byte) []byte) []byte {
		if cmd[1] == 0xA4 {
			c.Reset()
		}
		return next(cmd)
	}},
	"signs with 9c without a new PIN": {"keys", func(_ *virtual.Card, cmd []byte, next func([]byte) []byte) []byte {
		if cmd[1] == 0x87 && cmd[3] == 0x9C {
			next(append([]byte{0x00, 0x20, 0x00, 0x80, 0x08}, factoryPIN+"\xff\xff"...))
		}
		return next(cmd)
	}},
	"lets anyone write": {"refuse", func(_ *virtual.Card, cmd []byte, next func([]byte) []byte) []byte {
		if cmd[1] == 0xDB {
			next(cmd)
			return []byte{0x90, 0x00}
		}
		return next(cmd)
	}},
	"loses a byte of a long answer": {"objects", func(_ *virtual.Card, cmd []byte, next func([]byte) []byte) []byte {
		answer := next(cmd)
		if cmd[1] == 0xC0 && len(answer) > 2 {
			answer[0] ^= 1
		}
		return answer
	}},
	"takes any management key": {"management_key", func(_ *virtual.Card, cmd []byte, next func([]byte) []byte) []byte {
		if answer := next(cmd); cmd[1] != 0x87 || cmd[3] != 0x9B || answer[0] != 0x69 {
			return answer
		}
		return append(append([]byte{0x7C, 0x0A, 0x82, 0x08}, make([]byte, 8)...), 0x90, 0x00)
	}},
}

// TestConformanceNotices runs the suite on cards with a fault each.
func TestConformanceNotices(t *testing.T) {
	for name, m := range mutants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0], "-test.run=^TestConformanceOfOthers$")
			cmd.Env = append(os.Environ(), mutantName+"="+name)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestConformanceOfOthers/mutant/"+m.noticedBy+" ") {
				t.Errorf("got %v, want a failure of %s:\n%s", err, m.noticedBy, out)
			}
		})
	}
}
