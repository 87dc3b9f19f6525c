package virtual_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"math/big"
	"testing"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

// send sends a command of any length, in short APDUs.
func send(t testing.TB, c *virtual.Card, cmd iso7816.Command) ([]byte, smartcard.Status) {
	t.Helper()
	r, err := iso7816.Exchange(func(apdu []byte) ([]byte, error) { return c.Transmit(t.Context(), apdu) }, cmd, false)
	if err != nil {
		t.Fatal(err)
	}
	return r.Data, smartcard.Status(r.SW)
}

// administered returns a card of a firmware that has accepted its management
// key, which it forgets with its power.
func administered(t testing.TB, f virtual.Firmware) *virtual.Card {
	t.Helper()
	c := virtual.New(f)
	authenticate(t, c)
	return c
}

func authenticate(t testing.TB, c *virtual.Card) {
	t.Helper()
	transmit(t, c, "00a4040005a000000308")
	meta, _ := transmit(t, c, "00f7009b")
	key := piv.ManagementKey{Algorithm: piv.ManagementAlgorithm(meta[2]), Key: piv.FactoryManagementKey()}
	// Card.Do would make the card forget it again.
	err := piv.New(kept{c}, piv.Options{}).Do(t.Context(), func(tx *piv.Tx) error { return tx.Authenticate(key) })
	if err != nil {
		t.Fatal(err)
	}
}

// kept is a card that is never reset.
type kept struct{ *virtual.Card }

func (k kept) End(smartcard.Disposition) error { return k.Card.End(smartcard.Leave) }

// use is GENERAL AUTHENTICATE.
func use(t testing.TB, c *virtual.Card, algorithm, slot byte, tag iso7816.Tag, in []byte) []byte {
	t.Helper()
	transmit(t, c, verify)
	body := iso7816.AppendTLV([]byte{0x82, 0x00}, tag, in)
	data, sw := send(t, c, iso7816.Command{INS: 0x87, P1: algorithm, P2: slot, Data: iso7816.AppendTLV(nil, 0x7C, body), Ne: 256})
	if sw != smartcard.StatusOK {
		t.Fatalf("algorithm %02X in slot %02x: %v", algorithm, slot, sw)
	}
	inner, err := iso7816.ParseTLV(data, 0x7C)
	if err != nil {
		t.Fatal(err)
	}
	out, err := iso7816.ParseTLV(inner, 0x82)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func padded(b []byte, n int) []byte { return append(make([]byte, n-len(b)), b...) }

// rsaParts is what import takes of an RSA key.
func rsaParts(k *rsa.PrivateKey) []byte {
	k.Precompute()
	half := k.Size() / 2
	var b []byte
	for i, x := range []*big.Int{k.Primes[0], k.Primes[1], k.Precomputed.Dp, k.Precomputed.Dq, k.Precomputed.Qinv} {
		b = iso7816.AppendTLV(b, iso7816.Tag(i+1), padded(x.Bytes(), half))
	}
	return b
}

// TestImport imports a key of every algorithm and uses it.
func TestImport(t *testing.T) {
	t.Parallel()
	const slot = 0x95
	c := administered(t, virtual.Firmware57)
	for _, tt := range []struct {
		algorithm byte
		bits      int
	}{{0x06, 1024}, {0x07, 2048}, {0x05, 3072}} {
		k, err := rsa.GenerateKey(rand.Reader, tt.bits)
		if err != nil {
			t.Fatal(err)
		}
		wantImport(t, c, tt.algorithm, slot, rsaParts(k))
		in := append([]byte{0x00, 0x01}, bytes.Repeat([]byte{0x5A}, k.Size()-2)...)
		out := use(t, c, tt.algorithm, slot, 0x81, in)
		back := new(big.Int).Exp(new(big.Int).SetBytes(out), big.NewInt(int64(k.E)), k.N)
		if !bytes.Equal(padded(back.Bytes(), k.Size()), in) {
			t.Errorf("RSA-%d: the key is another", tt.bits)
		}
		wantPublic(t, c, slot, iso7816.AppendTLV(iso7816.AppendTLV(nil, 0x81, k.N.Bytes()), 0x82, []byte{1, 0, 1}))
	}
	for algorithm, curve := range map[byte]elliptic.Curve{0x11: elliptic.P256(), 0x14: elliptic.P384()} {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		scalar, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		wantImport(t, c, algorithm, slot, iso7816.AppendTLV(nil, 0x06, scalar))
		digest := bytes.Repeat([]byte{7}, len(scalar))
		if !ecdsa.VerifyASN1(&k.PublicKey, digest, use(t, c, algorithm, slot, 0x81, digest)) {
			t.Errorf("%s: wrong signature", curve.Params().Name)
		}
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	wantImport(t, c, 0xE0, slot, iso7816.AppendTLV(nil, 0x07, private.Seed()))
	message := bytes.Repeat([]byte("message "), 100)
	if !ed25519.Verify(public, message, use(t, c, 0xE0, slot, 0x81, message)) {
		t.Error("Ed25519: wrong signature")
	}
	wantPublic(t, c, slot, iso7816.AppendTLV(nil, 0x86, public))
	testX25519(t, c, slot)
}

func testX25519(t *testing.T, c *virtual.Card, slot byte) {
	t.Helper()
	mine, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cards, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	wantImport(t, c, 0xE1, slot, iso7816.AppendTLV(nil, 0x08, cards.Bytes()))
	want, err := mine.ECDH(cards.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if got := use(t, c, 0xE1, slot, 0x85, mine.PublicKey().Bytes()); !bytes.Equal(got, want) {
		t.Errorf("X25519: got %x, want %x", got, want)
	}
}

func wantImport(t *testing.T, c *virtual.Card, algorithm, slot byte, data []byte) {
	t.Helper()
	if _, sw := send(t, c, iso7816.Command{INS: 0xFE, P1: algorithm, P2: slot, Data: data}); sw != smartcard.StatusOK {
		t.Fatalf("import of algorithm %02X: %v", algorithm, sw)
	}
	if meta, _ := transmit(t, c, fmt.Sprintf("00f700%02x", slot)); !bytes.Contains(meta, []byte{0x03, 0x01, 0x02}) {
		t.Errorf("metadata doesn't say that the key was imported: %x", meta)
	}
	// A key from outside is not vouched for.
	if _, sw := transmit(t, c, fmt.Sprintf("00f9%02x00", slot)); sw != smartcard.StatusConditions {
		t.Errorf("attestation of an imported key: %v", sw)
	}
}

func wantPublic(t *testing.T, c *virtual.Card, slot byte, want []byte) {
	t.Helper()
	meta, _ := send(t, c, iso7816.Command{INS: 0xF7, P2: slot, Ne: 256})
	parts, err := iso7816.ParseTLVs(meta)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := iso7816.Find(parts, 0x04); !bytes.Equal(got, want) {
		t.Errorf("public key: got %x, want %x", got, want)
	}
}

func TestImportRefusals(t *testing.T) {
	t.Parallel()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	good := rsaParts(k)
	wrongQ := bytes.Clone(good)
	wrongQ[len(wrongQ)-1] ^= 1
	fresh := virtual.NewCard()
	transmit(t, fresh, "00a4040005a000000308")
	c := administered(t, virtual.Firmware54)
	scalar := iso7816.AppendTLV(nil, 0x06, bytes.Repeat([]byte{1}, 32))
	for _, tt := range []struct {
		name      string
		card      *virtual.Card
		algorithm byte
		slot      byte
		data      []byte
		want      smartcard.Status
	}{
		{"no management key", fresh, 0x07, 0x9A, good, smartcard.StatusSecurity},
		{"inverse wrong", c, 0x07, 0x9A, wrongQ, smartcard.StatusWrongData},
		{"a part missing", c, 0x07, 0x9A, good[:4*132], smartcard.StatusWrongData},
		{"no data", c, 0x07, 0x9A, nil, smartcard.StatusWrongData},
		{"slot", c, 0x11, 0xF9, scalar, smartcard.StatusWrongParameters},
		{"algorithm", c, 0x55, 0x9A, scalar, smartcard.StatusWrongParameters},
		{"later algorithm", c, 0xE0, 0x9A, scalar, smartcard.StatusWrongParameters},
		{"short scalar", c, 0x11, 0x9A, iso7816.AppendTLV(nil, 0x06, []byte{1}), smartcard.StatusWrongData},
		{"scalar 0", c, 0x11, 0x9A, iso7816.AppendTLV(nil, 0x06, make([]byte, 32)), smartcard.StatusWrongData},
		{"scalar as Ed25519", c, 0x11, 0x9A, iso7816.AppendTLV(nil, 0x07, bytes.Repeat([]byte{1}, 32)), smartcard.StatusWrongData},
		{"policy", c, 0x11, 0x9A, iso7816.AppendTLV(bytes.Clone(scalar), 0xAA, []byte{9}), smartcard.StatusWrongData},
		{"policy of two bytes", c, 0x11, 0x9A, iso7816.AppendTLV(bytes.Clone(scalar), 0xAB, []byte{1, 1}), smartcard.StatusWrongData},
		{"good", c, 0x11, 0x9A, iso7816.AppendTLV(bytes.Clone(scalar), 0xAA, []byte{1}), smartcard.StatusOK},
	} {
		if _, sw := send(t, tt.card, iso7816.Command{INS: 0xFE, P1: tt.algorithm, P2: tt.slot, Data: tt.data}); sw != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, sw, tt.want)
		}
	}
}

// TestFirmware checks what the later firmware adds, and that the earlier one
// doesn't have it.
func TestFirmware(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		firmware   virtual.Firmware
		management byte
		later      smartcard.Status
	}{
		{virtual.Firmware54, 0x03, smartcard.StatusWrongData},
		{virtual.Firmware57, 0x0A, smartcard.StatusOK},
	} {
		c := administered(t, tt.firmware)
		if v, _ := transmit(t, c, "00fd0000"); !bytes.Equal(v, tt.firmware[:]) {
			t.Errorf("version: got %x, want %v", v, tt.firmware)
		}
		want := fmt.Sprintf("0101%02x02020001050101", tt.management)
		if m, _ := transmit(t, c, "00f7009b"); hex.EncodeToString(m) != want {
			t.Errorf("management key of %v: got %x, want %s", tt.firmware, m, want)
		}
		for _, algorithm := range []string{"05", "e0", "e1"} {
			if _, sw := transmit(t, c, "0047009a05ac038001"+algorithm); sw != tt.later && sw>>8 != 0x61 {
				t.Errorf("%v, generate %s: got %v, want %v", tt.firmware, algorithm, sw, tt.later)
			}
		}
		for _, refused := range []string{"04", "15", "00"} {
			if _, sw := transmit(t, c, "0047009a05ac038001"+refused); sw != smartcard.StatusWrongData {
				t.Errorf("%v, generate %s: got %v, want 6A80", tt.firmware, refused, sw)
			}
		}
	}
}

// TestAttestation follows the chain from a key to the maker of the card.
func TestAttestation(t *testing.T) {
	t.Parallel()
	c := administered(t, virtual.Firmware57)
	root, err := x509.ParseCertificate(c.Maker())
	if err != nil {
		t.Fatal(err)
	}
	object, _ := send(t, c, iso7816.Command{INS: 0xCB, P1: 0x3F, P2: 0xFF, Data: []byte{0x5C, 3, 0x5F, 0xFF, 0x01}, Ne: 256})
	inner, err := iso7816.ParseTLV(object, 0x53)
	if err != nil {
		t.Fatal(err)
	}
	parts, err := iso7816.ParseTLVs(inner)
	if err != nil {
		t.Fatal(err)
	}
	der, _ := iso7816.Find(parts, 0x70)
	own, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	run(t, c, []exchange{
		{"00f99c00", smartcard.StatusNoReference},
		{"00f9f900", smartcard.StatusWrongParameters},
		{"00f99c01", smartcard.StatusWrongParameters},
	})
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	intermediates.AddCert(own)
	for _, algorithm := range []byte{0x11, 0x14, 0xE0} {
		public, sw := transmit(t, c, fmt.Sprintf("0047009c08ac068001%02xaa0102", algorithm))
		if sw != smartcard.StatusOK {
			t.Fatal(sw)
		}
		der, sw := send(t, c, iso7816.Command{INS: 0xF9, P1: 0x9C, Ne: 256})
		if sw != smartcard.StatusOK {
			t.Fatal(sw)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Errorf("algorithm %02X: %v", algorithm, err)
		}
		if !bytes.Contains(public, raw(cert.PublicKey)) {
			t.Errorf("algorithm %02X: the attestation is of another key", algorithm)
		}
		wantExtensions(t, c, cert)
	}
}

// raw is the encoding of an EC public key of any kind.
func raw(public crypto.PublicKey) []byte {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		b, _ := k.Bytes()
		return b
	case ed25519.PublicKey:
		return k
	}
	return fmt.Appendf(nil, "%T", public)
}

func wantExtensions(t *testing.T, c *virtual.Card, cert *x509.Certificate) {
	t.Helper()
	serial, err := asn1.Marshal(int64(c.Serial()))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{
		"1.3.6.1.4.1.41482.3.3": {5, 7, 1},
		"1.3.6.1.4.1.41482.3.7": serial,
		"1.3.6.1.4.1.41482.3.8": {2, 1},
	}
	for _, e := range cert.Extensions {
		if value, ok := want[e.Id.String()]; ok && bytes.Equal(value, e.Value) {
			delete(want, e.Id.String())
		}
	}
	if len(want) > 0 {
		t.Errorf("missing or different in the attestation: %x", want)
	}
	if cert.Subject.CommonName != "YubiKey PIV Attestation 9c" {
		t.Errorf("subject: got %v", cert.Subject)
	}
}

// TestRetiredSlots checks the first and last retired slot, the key history, and
// that the slots beside them are none.
func TestRetiredSlots(t *testing.T) {
	t.Parallel()
	c := administered(t, virtual.Firmware54)
	run(t, c, []exchange{
		{"0047008205ac03800111", smartcard.StatusOK},
		{"0047009505ac03800111", smartcard.StatusOK},
		{"0047008105ac03800111", smartcard.StatusWrongParameters},
		{"0047009605ac03800111", smartcard.StatusWrongParameters},
		{"00db3fff0d" + "5c035fc10c" + "5309c10102c20100", smartcard.StatusWrongData}, // cut off
		{"00db3fff0f" + "5c035fc10c" + "5308c10102c20100fe00", smartcard.StatusOK},
		{"00db3fff0a" + "5c035fc120" + "5303700101", smartcard.StatusOK},
		{"00cb3fff055c035fc10c00", smartcard.StatusOK},
		{"00cb3fff055c035fc12000", smartcard.StatusOK},
		{"00cb3fff055c035fc11f00", smartcard.StatusNotFound},
	})
}

// FuzzManaged sends a command of the fuzzer's choice to a card that has accepted
// its management key.
func FuzzManaged(f *testing.F) {
	for _, seed := range []string{
		"0047009a05ac03800111", "0047009a0bac098001e0aa0102ab0101", "00db3fff0a5c035fc1095303010203",
		"00fe119a220620" + "0707070707070707070707070707070707070707070707070707070707070707",
		"00fe069a0f0101030201050301010401010501ff", "00ffffff13089b10000102030405060708090a0b0c0d0e0f", "00f99a00", "00fa0303",
	} {
		f.Add(unhex(f, seed))
	}
	f.Fuzz(func(t *testing.T, apdu []byte) {
		if len(apdu) > 4 && apdu[1] == 0x47 && bytes.ContainsAny(apdu[4:], "\x05\x06\x07\x16") {
			return // RSA keys take too long to make
		}
		c := administered(t, virtual.Firmware57)
		answer, err := c.Transmit(t.Context(), apdu)
		if err != nil || len(answer) < 2 {
			t.Fatalf("%x: got %x, %v", apdu, answer, err)
		}
		contents, err := c.Contents()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := virtual.CheckState(contents); err != nil {
			t.Errorf("%x: the card could not be loaded again: %v", apdu, err)
		}
	})
}
