package iso7816_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/smartcard/iso7816"
)

func TestCommandForms(t *testing.T) {
	body := []byte{0xAB, 0xCD}
	tests := []struct {
		name            string
		command         iso7816.Command
		short, extended string // "" if it doesn't fit
	}{
		{"header", iso7816.Command{CLA: 0x10, INS: 0x20, P1: 0x01, P2: 0x80}, "10200180", "10200180"},
		{"Le", iso7816.Command{INS: 0xC0, Ne: 8}, "00c0000008", "00c00000000008"},
		{"Le 256", iso7816.Command{INS: 0xC0, Ne: 256}, "00c0000000", "00c00000000100"},
		{"Le 65536", iso7816.Command{INS: 0xC0, Ne: 65536}, "", "00c00000000000"},
		{"data", iso7816.Command{INS: 0x20, Data: body}, "0020000002abcd", "00200000000002abcd"},
		{"data and Le", iso7816.Command{INS: 0x20, Data: body, Ne: 256}, "0020000002abcd00", "00200000000002abcd0100"},
		{"256 bytes", iso7816.Command{INS: 0x20, Data: make([]byte, 256)}, "", "00200000000100" + hex.EncodeToString(make([]byte, 256))},
		{"65536 bytes", iso7816.Command{INS: 0x20, Data: make([]byte, 65536)}, "", ""},
		{"negative Ne", iso7816.Command{INS: 0x20, Ne: -1}, "", ""},
		{"Ne too large", iso7816.Command{INS: 0x20, Ne: 65537}, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			check := func(form string, encode func(iso7816.Command) ([]byte, error), want string, extended bool) {
				got, err := encode(tt.command)
				if (err != nil) != (want == "") {
					t.Fatalf("%s: got error %v, want %q", form, err, want)
				}
				if err != nil {
					return
				}
				if hex.EncodeToString(got) != want {
					t.Errorf("%s: got %x, want %s", form, got, want)
				}
				back, isExtended, err := iso7816.ParseCommand(got)
				if err != nil {
					t.Fatalf("%s: %v", form, err)
				}
				if diff := cmp.Diff(tt.command, back); diff != "" {
					t.Errorf("%s: %s", form, diff)
				}
				if isExtended != (extended && len(got) > 4) {
					t.Errorf("%s: extended is %v", form, isExtended)
				}
			}
			check("short", iso7816.Command.ShortAPDU, tt.short, false)
			check("extended", iso7816.Command.ExtendedAPDU, tt.extended, true)
		})
	}
}

func TestParseCommandRefuses(t *testing.T) {
	for _, apdu := range []string{
		"", "00", "00a404", // no header
		"00a4040003a000",         // Lc too large
		"00a4040001a00000",       // bytes behind Le
		"00a404000000",           // extended length cut off
		"00a4040000000000",       // extended Lc of 0
		"00a40400000003a000",     // extended Lc too large
		"00a40400000001a000",     // half an extended Le
		"00a40400000001a0000000", // bytes behind an extended Le
	} {
		b, err := hex.DecodeString(apdu)
		if err != nil {
			t.Fatal(err)
		}
		if c, _, err := iso7816.ParseCommand(b); !errors.Is(err, iso7816.ErrMalformed) {
			t.Errorf("%s: got %+v, %v, want ErrMalformed", apdu, c, err)
		}
	}
}

func TestResponse(t *testing.T) {
	got, err := iso7816.ParseResponse([]byte{1, 2, 0x63, 0xC2})
	want := iso7816.Response{Data: []byte{1, 2}, SW: 0x63C2}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if diff := cmp.Diff([]byte{1, 2, 0x63, 0xC2}, got.Bytes()); diff != "" {
		t.Error(diff)
	}
	for _, b := range [][]byte{nil, {0x90}, make([]byte, 65536+3)} {
		if _, err := iso7816.ParseResponse(b); !errors.Is(err, iso7816.ErrMalformed) {
			t.Errorf("%d bytes: got %v, want ErrMalformed", len(b), err)
		}
	}
}

// script is a card that expects commands in a fixed order.
type script struct {
	t     *testing.T
	steps [][2]string // command, answer
	seen  [][]byte    // the buffers, to see them cleared
}

func (s *script) send(apdu []byte) ([]byte, error) {
	s.t.Helper()
	if len(s.steps) == 0 {
		s.t.Fatalf("unexpected command %x", apdu)
	}
	if got := hex.EncodeToString(apdu); got != s.steps[0][0] {
		s.t.Fatalf("got command %s, want %s", got, s.steps[0][0])
	}
	answer, err := hex.DecodeString(s.steps[0][1])
	if err != nil {
		s.t.Fatal(err)
	}
	s.steps = s.steps[1:]
	s.seen = append(s.seen, apdu)
	return answer, nil
}

func TestExchange(t *testing.T) {
	long := bytes.Repeat([]byte{0x11}, 300)
	longHex := hex.EncodeToString(long)
	tests := []struct {
		name     string
		command  iso7816.Command
		extended bool
		steps    [][2]string
		want     iso7816.Response
	}{
		{
			"plain", iso7816.Command{INS: 0x20, Data: []byte{1}}, false,
			[][2]string{{"002000000101", "63c1"}}, iso7816.Response{SW: 0x63C1},
		}, {
			"more data", iso7816.Command{INS: 0xCB, Ne: 256}, false,
			[][2]string{{"00cb000000", "aabb6100"}, {"00c0000000", "cc6101"}, {"00c0000001", "dd9000"}},
			iso7816.Response{Data: []byte{0xAA, 0xBB, 0xCC, 0xDD}, SW: 0x9000},
		}, {
			"more data, then failure", iso7816.Command{INS: 0xCB, Ne: 256}, false,
			[][2]string{{"00cb000000", "aa6110"}, {"00c0000010", "6f00"}},
			iso7816.Response{Data: []byte{0xAA}, SW: 0x6F00},
		}, {
			"wrong Le", iso7816.Command{INS: 0xCB, Ne: 256}, false,
			[][2]string{{"00cb000000", "6c02"}, {"00cb000002", "aabb9000"}},
			iso7816.Response{Data: []byte{0xAA, 0xBB}, SW: 0x9000},
		}, {
			"wrong Le of the rest", iso7816.Command{INS: 0xCB, Data: []byte{1}, Ne: 256}, false,
			[][2]string{{"00cb00000101" + "00", "6100"}, {"00c0000000", "6c02"}, {"00c0000002", "aabb9000"}},
			iso7816.Response{Data: []byte{0xAA, 0xBB}, SW: 0x9000},
		}, {
			"wrong Le only once", iso7816.Command{INS: 0xCB, Ne: 256}, false,
			[][2]string{{"00cb000000", "6c02"}, {"00cb000002", "6c03"}},
			iso7816.Response{SW: 0x6C03},
		}, {
			"wrong Le, with a body", iso7816.Command{INS: 0x87, Data: []byte{1}, Ne: 256}, false,
			[][2]string{{"008700000101" + "00", "6c02"}},
			iso7816.Response{SW: 0x6C02},
		}, {
			"wrong Le without Le", iso7816.Command{INS: 0x20}, false,
			[][2]string{{"00200000", "6c02"}},
			iso7816.Response{SW: 0x6C02},
		}, {
			"chain", iso7816.Command{INS: 0x87, P2: 0x9D, Data: long, Ne: 256}, false,
			[][2]string{{"1087009dff" + longHex[:510], "9000"}, {"0087009d2d" + longHex[510:] + "00", "aa9000"}},
			iso7816.Response{Data: []byte{0xAA}, SW: 0x9000},
		}, {
			"chain refused", iso7816.Command{INS: 0x87, P2: 0x9D, Data: long}, false,
			[][2]string{{"1087009dff" + longHex[:510], "6982"}},
			iso7816.Response{SW: 0x6982},
		}, {
			"extended", iso7816.Command{INS: 0x87, P2: 0x9D, Data: long, Ne: 256}, true,
			[][2]string{{"0087009d00012c" + longHex + "0000", "aa9000"}},
			iso7816.Response{Data: []byte{0xAA}, SW: 0x9000},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &script{t: t, steps: tt.steps}
			got, err := iso7816.Exchange(s.send, tt.command, tt.extended)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Data) == 0 {
				got.Data = nil
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if len(s.steps) > 0 {
				t.Errorf("%d commands not sent", len(s.steps))
			}
			for _, buffer := range s.seen {
				if len(bytes.Trim(buffer, "\x00")) > 0 {
					t.Errorf("command buffer not cleared: %x", buffer)
				}
			}
		})
	}
}

func TestExchangeBounds(t *testing.T) {
	endless := func([]byte) ([]byte, error) { return append(make([]byte, 256), 0x61, 0x00), nil }
	if _, err := iso7816.Exchange(endless, iso7816.Command{INS: 0xCB, Ne: 256}, false); !errors.Is(err, iso7816.ErrMalformed) {
		t.Errorf("endless answer: got %v, want ErrMalformed", err)
	}
	drip := func([]byte) ([]byte, error) { return []byte{0x61, 0x00}, nil }
	if _, err := iso7816.Exchange(drip, iso7816.Command{INS: 0xCB, Ne: 256}, false); !errors.Is(err, iso7816.ErrMalformed) {
		t.Errorf("empty pieces: got %v, want ErrMalformed", err)
	}
	failure := errors.New("pulled")
	gone := func([]byte) ([]byte, error) { return nil, failure }
	if _, err := iso7816.Exchange(gone, iso7816.Command{INS: 0xCB}, false); !errors.Is(err, failure) {
		t.Errorf("got %v, want %v", err, failure)
	}
	short := func([]byte) ([]byte, error) { return []byte{0x90}, nil }
	if _, err := iso7816.Exchange(short, iso7816.Command{INS: 0xCB}, false); !errors.Is(err, iso7816.ErrMalformed) {
		t.Errorf("one byte: got %v, want ErrMalformed", err)
	}
}

func FuzzParseCommand(f *testing.F) {
	for _, seed := range []string{"00a40400", "00c0000000", "0020008008313233343536ffff", "00c00000000000", "00200000000002abcd0100"} {
		b, err := hex.DecodeString(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, extended, err := iso7816.ParseCommand(b)
		if err != nil {
			return
		}
		encode := iso7816.Command.ShortAPDU
		if extended {
			encode = iso7816.Command.ExtendedAPDU
		}
		back, err := encode(c)
		if err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		if !bytes.Equal(back, b) {
			t.Errorf("got %x, want %x", back, b)
		}
	})
}
