package virtual_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"testing"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/cardtest"
	"github.com/setkit/setkit/smartcard/iso7816"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

func TestConformance(t *testing.T) {
	cardtest.Conformance(t, func(testing.TB) smartcard.Card { return virtual.NewCard() })
}

// transmit sends an APDU in hexadecimal and returns data and status.
func transmit(t testing.TB, c *virtual.Card, apdu string) (data []byte, sw smartcard.Status) {
	t.Helper()
	answer, err := c.Transmit(t.Context(), unhex(t, apdu))
	if err != nil {
		t.Fatal(err)
	}
	r, err := iso7816.ParseResponse(answer)
	if err != nil {
		t.Fatal(err)
	}
	return r.Data, smartcard.Status(r.SW)
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	verify = "0020008008313233343536ffff"
	wrong  = "0020008008303030303030ffff"
)

// selected returns a card with PIV selected.
func selected(t testing.TB) *virtual.Card {
	t.Helper()
	c := virtual.NewCard()
	if _, sw := transmit(t, c, "00a4040009a00000030800001000"); sw != smartcard.StatusOK {
		t.Fatalf("SELECT: %v", sw)
	}
	return c
}

// withKeys returns a card with an EC key in each slot, PIV selected.
func withKeys(t testing.TB) *virtual.Card {
	t.Helper()
	c := virtual.NewCard()
	err := piv.New(c, piv.Options{}).Do(t.Context(), func(tx *piv.Tx) error {
		if err := tx.Authenticate(piv.ManagementKey{Key: piv.FactoryManagementKey()}); err != nil {
			return err
		}
		for _, slot := range piv.Slots() {
			if _, err := tx.Generate(slot, piv.ECDSAP256, piv.PINPolicyDefault); err != nil {
				return err
			}
		}
		return tx.PutObject(piv.ObjectCHUID, bytes.Repeat([]byte{0x30, 0x00}, 200))
	})
	if err != nil {
		t.Fatal(err)
	}
	transmit(t, c, "00a4040009a00000030800001000")
	return c
}

type exchange struct {
	apdu string
	want smartcard.Status
}

func run(t *testing.T, c *virtual.Card, steps []exchange) {
	t.Helper()
	for i, s := range steps {
		if _, sw := transmit(t, c, s.apdu); sw != s.want {
			t.Errorf("step %d, %s: got %v, want %v", i, s.apdu, sw, s.want)
		}
	}
}

func TestSelect(t *testing.T) {
	c := virtual.NewCard()
	run(t, c, []exchange{{"00fd0000", smartcard.StatusInstruction}}) // nothing is selected yet
	want := "61114f0600001000010079074f05a000000308"
	for _, apdu := range []string{
		"00a4040005a000000308", "00a4040005a00000030800", "00a4040009a00000030800001000", "00a404000ba000000308000010000100",
	} {
		got, sw := transmit(t, c, apdu)
		if hex.EncodeToString(got) != want || sw != smartcard.StatusOK {
			t.Errorf("%s: got %x %v, want %s", apdu, got, sw, want)
		}
	}
	run(t, c, []exchange{
		{"00a4040004a0000003", smartcard.StatusNotFound},
		{"00a4040005a000000309", smartcard.StatusNotFound},
		{"00a4000005a000000308", smartcard.StatusWrongParameters},
		{"00fd0000", smartcard.StatusOK},
	})
}

func TestIdentity(t *testing.T) {
	c := selected(t)
	if v, _ := transmit(t, c, "00fd0000"); hex.EncodeToString(v) != "050403" {
		t.Errorf("version: got %x", v)
	}
	if s, _ := transmit(t, c, "00f80000"); binary.BigEndian.Uint32(s) != c.Serial() {
		t.Errorf("serial: got %x, want %d", s, c.Serial())
	}
	if d, _ := transmit(t, c, "00cb3fff035c017e"); hex.EncodeToString(d) != "7e124f0ba0000003080000100001005f2f024000" {
		t.Errorf("discovery: got %x", d)
	}
	if a, b := virtual.NewCard().Serial(), virtual.NewCard().Serial(); a == b {
		t.Errorf("two cards have the serial number %d", a)
	}
}

// TestSlotPolicies checks what each slot wants before its key is used.
func TestSlotPolicies(t *testing.T) {
	use := func(slot string) string {
		return "008711" + slot + "267c24820081" + "20" + hex.EncodeToString(make([]byte, 32)) + "00"
	}
	c := withKeys(t)
	run(t, c, []exchange{
		{use("9c"), smartcard.StatusSecurity},
		{use("9d"), smartcard.StatusSecurity},
		{use("9e"), smartcard.StatusOK},
		{verify, smartcard.StatusOK},
		{use("9c"), smartcard.StatusOK},
		{use("9c"), smartcard.StatusSecurity}, // once per PIN
		{use("9d"), smartcard.StatusOK},
		{use("9a"), smartcard.StatusOK},
		{verify, smartcard.StatusOK},
		{"00cb3fff055c035fc102", 0x6194}, // anything in between
		{use("9c"), smartcard.StatusSecurity},
		{verify, smartcard.StatusOK},
		{wrong, 0x63C2}, // takes the verification away
		{use("9d"), smartcard.StatusSecurity},
	})
	c.Reset()
	run(t, c, []exchange{
		{"00a4040005a000000308", smartcard.StatusOK},
		{"00200080", 0x63C2},
		{use("9d"), smartcard.StatusSecurity},
	})
}

func TestKeyRefusals(t *testing.T) {
	c := withKeys(t)
	run(t, c, []exchange{
		{"0087119e00", smartcard.StatusWrongData},
		{"0087119e047c028200", smartcard.StatusWrongData},                                                 // nothing to sign
		{"0087119e067c0481020102", smartcard.StatusWrongData},                                             // no place for the answer
		{"0087119e087c068200850201ff", smartcard.StatusWrongData},                                         // no point
		{"0087079e087c0682008102aabb", smartcard.StatusWrongParameters},                                   // another algorithm
		{"00871182087c0682008102aabb", smartcard.StatusWrongParameters},                                   // no key
		{"0087119e287c26820081" + "22" + hex.EncodeToString(make([]byte, 34)), smartcard.StatusWrongData}, // digest too long
		{"0047009a05ac03800111", smartcard.StatusSecurity},
		{"004700f905ac03800111", smartcard.StatusWrongParameters},
		{"00f70082", smartcard.StatusNoReference},
		{"00cb3f00055c035fc102", smartcard.StatusWrongParameters},
		{"00cb3fff025c00", smartcard.StatusWrongData},
		{"00cb3fff035fc102", smartcard.StatusWrongData},
	})
}

// TestLe checks partial answers: Le 8, no Le, GET RESPONSE.
func TestLe(t *testing.T) {
	c := withKeys(t)
	whole := 4 + 400
	got, sw := transmit(t, c, "00cb3fff055c035fc10208")
	if len(got) != 8 || sw>>8 != 0x61 {
		t.Errorf("Le 8: got %d bytes, %v", len(got), sw)
	}
	rest, sw := transmit(t, c, "00c0000000")
	if len(rest) != 256 || sw != smartcard.Status(0x6100|(whole-8-256)) {
		t.Errorf("first piece: got %d bytes, %v", len(rest), sw)
	}
	last, sw := transmit(t, c, "00c0000000")
	if len(last) != whole-8-256 || sw != smartcard.StatusOK {
		t.Errorf("last piece: got %d bytes, %v", len(last), sw)
	}
	if got, sw = transmit(t, c, "00cb3fff055c035fc102"); len(got) != 256 || sw>>8 != 0x61 {
		t.Errorf("no Le: got %d bytes, %v", len(got), sw)
	}
	run(t, c, []exchange{
		{"00fd0000", smartcard.StatusOK},
		{"00c0000000", smartcard.StatusConditions}, // another command drops the rest
	})
	if got, sw = transmit(t, c, "00cb3fff0000055c035fc1020000"); len(got) != whole || sw != smartcard.StatusOK {
		t.Errorf("extended: got %d bytes, %v, want %d", len(got), sw, whole)
	}
}

func TestChaining(t *testing.T) {
	c := selected(t)
	run(t, c, []exchange{
		{"1020008004" + "31323334", smartcard.StatusOK},
		{"0020008004" + "3536ffff", smartcard.StatusOK},
		{"00200080", smartcard.StatusOK},
		// Another command ends a chain.
		{"1020008004" + "31323334", smartcard.StatusOK},
		{"00fd0000", smartcard.StatusOK},
		{"0020008004" + "3536ffff", smartcard.StatusWrongData},
	})
	part := "10db3fffff" + hex.EncodeToString(make([]byte, 255))
	for i := 0; ; i++ {
		if _, sw := transmit(t, c, part); sw == smartcard.StatusWrongLength {
			break
		}
		if i > 20 {
			t.Fatal("a chain has no end")
		}
	}
}

func TestAgreement(t *testing.T) {
	c := withKeys(t)
	info, _ := transmit(t, c, "00f7009d")
	parts, err := iso7816.ParseTLVs(info)
	if err != nil {
		t.Fatal(err)
	}
	public, _ := iso7816.Find(parts, 0x04)
	point, err := iso7816.ParseTLV(public, 0x86)
	if err != nil {
		t.Fatal(err)
	}
	cardKey, err := ecdh.P256().NewPublicKey(point)
	if err != nil {
		t.Fatal(err)
	}
	own, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	want, err := own.ECDH(cardKey)
	if err != nil {
		t.Fatal(err)
	}
	transmit(t, c, verify)
	body := iso7816.AppendTLV([]byte{0x82, 0x00}, 0x85, own.PublicKey().Bytes())
	apdu, err := iso7816.Command{INS: 0x87, P1: 0x11, P2: 0x9D, Data: iso7816.AppendTLV(nil, 0x7C, body), Ne: 256}.ShortAPDU()
	if err != nil {
		t.Fatal(err)
	}
	got, sw := transmit(t, c, hex.EncodeToString(apdu))
	if want := "7c228220" + hex.EncodeToString(want); hex.EncodeToString(got) != want || sw != smartcard.StatusOK {
		t.Errorf("got %x %v, want %s", got, sw, want)
	}
}

func TestTriesAndReset(t *testing.T) {
	c := withKeys(t)
	serial := c.Serial()
	const changePUK = "0024008110" + "3030303030303030" + "3131313131313131"
	run(t, c, []exchange{
		{"00fa0505", smartcard.StatusSecurity},
		{"00fb0000", smartcard.StatusConditions},
		{wrong, 0x63C2}, {wrong, 0x63C1}, {wrong, 0x63C0}, {verify, smartcard.StatusBlocked},
		{"00fb0000", smartcard.StatusConditions},
		{changePUK, 0x63C2}, {changePUK, 0x63C1}, {changePUK, 0x63C0}, {changePUK, smartcard.StatusBlocked},
		{"002c008010" + "3132333435363738" + "313131313131ffff", smartcard.StatusBlocked},
		{"00fb0000", smartcard.StatusOK},
		{"00f7009c", smartcard.StatusNoReference},
		{"00cb3fff055c035fc102", smartcard.StatusNotFound},
		{verify, smartcard.StatusOK},
	})
	if c.Serial() != serial {
		t.Error("the serial number changed")
	}
	err := piv.New(c, piv.Options{}).Do(t.Context(), func(tx *piv.Tx) error {
		if err := tx.Authenticate(piv.ManagementKey{Key: piv.FactoryManagementKey()}); err != nil {
			return err
		}
		run(t, c, []exchange{
			{"0020ff80", smartcard.StatusOK},
			{"00fa0504", smartcard.StatusSecurity}, // the PIN is wanted as well
			{verify, smartcard.StatusOK},
			{"00fa0504", smartcard.StatusOK},
			{wrong, 0x63C4},
		})
		if m, _ := transmit(t, c, "00f70081"); hex.EncodeToString(m) != "0101ff05010106020404" {
			t.Errorf("PUK metadata: got %x", m)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// FuzzTransmit sends two commands of the fuzzer's choice to a card with keys.
func FuzzTransmit(f *testing.F) {
	for _, seed := range []string{verify, "00cb3fff055c035fc10208", "00c0000000", "0087119e067c0482008100", "008703 9b047c028000", "10db3fff0102", "0047009a05ac03800111"} {
		b, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(seed), []byte(" "), nil)))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, []byte{0, 0xC0, 0, 0, 0})
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		c := selected(t)
		for _, apdu := range [][]byte{first, second} {
			answer, err := c.Transmit(t.Context(), apdu)
			if err != nil {
				t.Fatal(err)
			}
			if len(answer) < 2 || len(answer) > 65538 {
				t.Errorf("%x: answer of %d bytes", apdu, len(answer))
			}
		}
		if _, err := piv.New(c, piv.Options{}).Serial(t.Context()); err != nil {
			t.Errorf("the card is no more use: %v", err)
		}
	})
}
