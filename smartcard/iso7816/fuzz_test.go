package iso7816_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/setkit/setkit/smartcard/iso7816"
)

// captured gives the answers of a card that was captured once, one after the
// other, each after two bytes of length: what FuzzExchange takes.
func captured(t testing.TB) [][]byte {
	t.Helper()
	text, err := os.ReadFile("../piv/testdata/capture.txt")
	if err != nil {
		t.Fatal(err)
	}
	var all [][]byte
	for line := range strings.Lines(string(text)) {
		command, answer, _ := strings.Cut(strings.TrimSpace(line), " ")
		b, err := hex.DecodeString(answer)
		if err != nil {
			t.Fatal(err)
		}
		b = append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
		if strings.HasPrefix(command, "00c0") {
			all[len(all)-1] = append(all[len(all)-1], b...)
		} else {
			all = append(all, b)
		}
	}
	return all
}

var errNoMore = errors.New("the card has no more to say")

// FuzzExchange lets a card answer anything, in pieces, to a command that has to
// be chained. Whatever it says, no part of the command goes out twice.
func FuzzExchange(f *testing.F) {
	for _, answers := range captured(f) {
		f.Add(answers, false)
	}
	f.Add([]byte{0, 2, 0x6C, 0x04, 0, 2, 0x90, 0x00}, true)
	f.Add([]byte{0, 3, 0xAA, 0x61, 0x01, 0, 2, 0x6C, 0x02, 0, 3, 0xBB, 0x90, 0x00}, true)
	body := bytes.Repeat([]byte{0x5A}, 300)
	f.Fuzz(func(t *testing.T, answers []byte, extended bool) {
		sent, asked := 0, 0
		r, err := iso7816.Exchange(func(apdu []byte) ([]byte, error) {
			c, _, err := iso7816.ParseCommand(apdu)
			if err != nil {
				t.Fatal(err)
			}
			if c.INS == 0xC0 {
				asked++
			} else {
				sent += len(c.Data)
			}
			if len(answers) < 2 {
				return nil, errNoMore
			}
			n := int(binary.BigEndian.Uint16(answers))
			n = min(n, len(answers)-2)
			answer := bytes.Clone(answers[2 : 2+n])
			answers = answers[2+n:]
			return answer, nil
		}, iso7816.Command{INS: 0x87, P2: 0x9C, Data: body, Ne: 256}, extended)
		if sent > len(body) {
			t.Errorf("%d bytes were sent, of %d", sent, len(body))
		}
		if err == nil && (r.SW == 0 && asked == 0 && sent == 0 || len(r.Data) > iso7816.ResponseBytesMax) {
			t.Errorf("got %d bytes and %04X without asking", len(r.Data), r.SW)
		}
	})
}

// FuzzParseResponse reads any answer.
func FuzzParseResponse(f *testing.F) {
	for _, answers := range captured(f) {
		f.Add(answers[2 : 2+int(binary.BigEndian.Uint16(answers))])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := iso7816.ParseResponse(b)
		if err == nil && !bytes.Equal(r.Bytes(), b) {
			t.Errorf("got % X, want % X", r.Bytes(), b)
		}
	})
}
