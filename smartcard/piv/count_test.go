package piv_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	pivgo "github.com/go-piv/piv-go/v2/piv"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/cardtest"
	"github.com/setkit/setkit/smartcard/pcsc"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

// cost is what went to a card and back.
type cost struct{ apdus, sent, received int }

func (c cost) bytes() int { return c.sent + c.received }

func costOf(records []smartcard.Record) cost {
	c := cost{apdus: len(records)}
	for _, r := range records {
		c.sent += r.SentBytes
		c.received += r.ReceivedBytes
	}
	return c
}

// command adds a command with a body, and its answer, as the standard cuts them:
// see the package documentation.
func (c *cost) command(body, answer int, extended bool) {
	const header, sw, getResponse = 4, 2, 5
	if extended {
		c.apdus, c.received = c.apdus+1, c.received+answer+sw
		c.sent += header
		if body > 0 {
			c.sent += 3 + body
		}
		if answer > 0 {
			c.sent += 2
		}
		return
	}
	for ; body > 255; body -= 255 {
		c.apdus, c.sent, c.received = c.apdus+1, c.sent+header+1+255, c.received+sw
	}
	c.apdus, c.sent = c.apdus+1, c.sent+header
	if body > 0 {
		c.sent += 1 + body
	}
	if answer > 0 {
		c.sent++
	}
	for ; answer > 256; answer -= 256 {
		c.apdus, c.sent, c.received = c.apdus+1, c.sent+getResponse, c.received+256+sw
	}
	c.received += answer + sw
}

// tlv is the length of a data object with a tag of one byte.
func tlv(value int) int {
	switch {
	case value < 0x80:
		return 2 + value
	case value < 0x100:
		return 3 + value
	}
	return 4 + value
}

// minimum is the least that the package documentation derives, for an object, a
// signature and what is signed of these lengths.
func minimum(template, object, signed, signature int, extended bool) cost {
	var c cost
	c.command(9, template, extended)                             // SELECT
	c.command(5, object, extended)                               // GET DATA
	c.command(8, 0, extended)                                    // VERIFY
	c.command(tlv(2+tlv(signed)), tlv(tlv(signature)), extended) // GENERAL AUTHENTICATE
	c.command(0, 0, extended)                                    // VERIFY that withdraws
	return c
}

// A counted card counts what its reader sends, whatever program is behind it.
type counted struct {
	*virtual.Card
	*cardtest.Reader
	recorder *smartcard.Recorder
	key      crypto.PublicKey
	cert     *x509.Certificate
}

func (c *counted) Transmit(ctx context.Context, cmd []byte) ([]byte, error) {
	return c.recorder.Transmit(ctx, cmd)
}

func (c *counted) Reset() { c.Card.Reset() }

// countedCard returns a card, in a reader, with a key and a certificate for it
// in slot 9c.
func countedCard(t testing.TB, a piv.Algorithm) *counted {
	plastic := virtual.NewCard()
	c := &counted{Card: plastic, Reader: cardtest.NewReader(t), recorder: smartcard.NewRecorder(plastic)}
	card := piv.New(plastic, piv.Options{})
	c.key = generate(t, card, piv.SlotSignature, a)
	c.cert = selfSigned(t, card, c.key)
	administer(t, card, func(tx *piv.Tx) error { return tx.PutCertificate(piv.SlotSignature, c.cert) })
	c.Plug(c)
	return c
}

// programs do the same through PC/SC, each in its own way: they select PIV, read
// the certificate of 9c, verify the PIN and sign a digest. They return what they
// have read, and the signature.
var programs = []struct {
	name string
	run  func(t testing.TB, c *counted, digest []byte) (cert, signature []byte)
}{
	{"setkit", func(t testing.TB, c *counted, digest []byte) (cert, signature []byte) {
		return signWithCertificate(t, c, digest, false)
	}},
	{"setkit, extended", func(t testing.TB, c *counted, digest []byte) (cert, signature []byte) {
		return signWithCertificate(t, c, digest, true)
	}},
	{"piv-go", signWithPIVGo},
	{"OpenSC", signWithOpenSC},
}

func signWithCertificate(t testing.TB, c *counted, digest []byte, extended bool) (read, signature []byte) {
	reader, err := pcsc.Open(t.Context(), c.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	do(t, piv.New(reader, piv.Options{Extended: extended}), func(tx *piv.Tx) error {
		cert, err := tx.Certificate(piv.SlotSignature)
		if err != nil {
			return err
		}
		read = cert.Raw
		if err := tx.VerifyPIN([]byte(factoryPIN)); err != nil {
			return err
		}
		signer, err := tx.Signer(piv.SlotSignature, cert.PublicKey)
		if err != nil {
			return err
		}
		signature, err = signer.Sign(nil, digest, crypto.SHA256)
		return err
	})
	return read, signature
}

// signWithPIVGo tells piv-go what it would have to ask the card: when 9c wants
// the PIN.
func signWithPIVGo(t testing.TB, c *counted, digest []byte) (read, signature []byte) {
	card, err := pivgo.Open(c.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	cert, err := card.Certificate(pivgo.SlotSignature)
	if err != nil {
		t.Fatal(err)
	}
	key, err := card.PrivateKey(pivgo.SlotSignature, cert.PublicKey, pivgo.KeyAuth{PIN: factoryPIN, PINPolicy: pivgo.PINPolicyAlways})
	if err != nil {
		t.Fatal(err)
	}
	signature, err = key.(crypto.Signer).Sign(rand.Reader, digest, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return cert.Raw, signature
}

// signWithOpenSC lets pkcs11-tool do both in one run, in which the module reads
// the card once. It finds nothing that an earlier run has kept.
func signWithOpenSC(t testing.TB, c *counted, digest []byte) (read, signature []byte) {
	modules, err := filepath.Glob("/usr/lib/*/opensc-pkcs11.so")
	if err != nil || len(modules) == 0 {
		t.Fatal("opensc-pkcs11.so is not installed: make setup")
	}
	dir := t.TempDir()
	input := filepath.Join(dir, "input")
	args := []string{"--module", modules[0], "--login", "--pin", factoryPIN, "--id", "02",
		"--sign", "--input-file", input, "--read-object", "--type", "cert"}
	if _, ok := c.key.(*rsa.PublicKey); ok {
		digest = append([]byte{0x30, 0x31, 0x30, 0x0D, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}, digest...)
		args = append(args, "--mechanism", "RSA-PKCS")
	} else {
		args = append(args, "--mechanism", "ECDSA", "--signature-format", "openssl")
	}
	if err := os.WriteFile(input, digest, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "pkcs11-tool", args...)
	cmd.Env = append(os.Environ(), "OPENSC_CONF="+onlyReader(t, dir, c.Name), "XDG_CACHE_HOME="+dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("pkcs11-tool: %v\n%s", err, stderr.Bytes())
	}
	n := len(out) - len(c.cert.Raw)
	if n < 0 {
		t.Fatalf("pkcs11-tool wrote %d bytes, want a signature and a certificate of %d\n%s", len(out), len(c.cert.Raw), stderr.Bytes())
	}
	return out[n:], out[:n]
}

// onlyReader writes a configuration in which OpenSC lets alone the cards of other
// tests.
func onlyReader(t testing.TB, dir, name string) string {
	all, err := pcsc.Readers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var others []string
	for _, r := range all {
		if r.Name != name {
			others = append(others, strconv.Quote(r.Name))
		}
	}
	file := filepath.Join(dir, "opensc.conf")
	conf := fmt.Sprintf("app default {\n\tignored_readers = %s;\n}\n", strings.Join(others, ", "))
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// countRun lets a program run once and checks that it has done everything.
func countRun(t testing.TB, c *counted, run func(testing.TB, *counted, []byte) (cert, signature []byte)) (records []smartcard.Record, signatureBytes int) {
	t.Helper()
	digest := sha256.Sum256([]byte("the purchase"))
	c.recorder.Take()
	read, signature := run(t, c, digest[:])
	records = c.recorder.Take()
	if !bytes.Equal(read, c.cert.Raw) {
		t.Error("another certificate was read")
	}
	ok := false
	switch key := c.key.(type) {
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature) == nil
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(key, digest[:], signature)
	}
	if !ok {
		t.Errorf("signature % X is wrong", signature)
	}
	return records, len(signature)
}

// withdrawal is what we end with and no other program does: VERIFY with P1 = FF.
var withdrawal = [4]byte{0x00, 0x20, 0xFF, 0x80}

// TestCount checks that selecting, verifying the PIN, signing with 9c and
// reading its certificate costs the minimum, to the byte; and that these four
// steps cost every other program more.
func TestCount(t *testing.T) {
	for _, a := range []piv.Algorithm{piv.RSA2048, piv.ECDSAP256} {
		t.Run(a.String(), func(t *testing.T) {
			t.Parallel()
			c := countedCard(t, a)
			signed := map[piv.Algorithm]int{piv.RSA2048: 256, piv.ECDSAP256: 32}[a]
			object := tlv(tlv(len(c.cert.Raw)) + 3 + 2)
			var ours []cost // of the four steps, without the signature: those of ECDSA differ in length
			for _, p := range programs {
				records, signature := countRun(t, c, p.run)
				got := costOf(records)
				t.Logf("%s: %d APDUs, %d bytes sent, %d received; certificate object of %d bytes", p.name, got.apdus, got.sent, got.received, object)
				if strings.HasPrefix(p.name, "setkit") {
					if want := minimum(records[0].ReceivedBytes-2, object, signed, signature, len(ours) == 1); got != want {
						t.Errorf("%s: got %+v, want %+v", p.name, got, want)
					}
					last := len(records) - 1
					if records[last].Header != withdrawal {
						t.Errorf("%s: the last APDU is %v, want the withdrawal of the PIN", p.name, records[last])
					}
					got = costOf(records[:last])
				}
				got.received -= signature
				if strings.HasPrefix(p.name, "setkit") {
					ours = append(ours, got)
				} else if short, extended := ours[0], ours[1]; got.apdus <= short.apdus || got.bytes() <= short.bytes() || got.apdus <= extended.apdus {
					t.Errorf("%s costs %+v, not more than our %+v and %+v", p.name, got, short, extended)
				}
			}
		})
	}
}

// BenchmarkSignWithCertificate counts what each program sends and gets, and how
// many times ours that is.
//
//	go test ./smartcard/piv -run NONE -bench SignWithCertificate
func BenchmarkSignWithCertificate(b *testing.B) {
	for _, a := range []piv.Algorithm{piv.RSA2048, piv.ECDSAP256} {
		c := countedCard(b, a)
		records, _ := countRun(b, c, programs[0].run)
		ours := costOf(records)
		for _, p := range programs {
			b.Run(fmt.Sprintf("%v/%s", a, p.name), func(b *testing.B) {
				var sum cost
				for b.Loop() {
					records, _ := countRun(b, c, p.run)
					got := costOf(records)
					sum.apdus, sum.sent, sum.received = sum.apdus+got.apdus, sum.sent+got.sent, sum.received+got.received
				}
				apdus, bytes := float64(sum.apdus)/float64(b.N), float64(sum.bytes())/float64(b.N)
				b.ReportMetric(apdus, "APDUs/op")
				b.ReportMetric(bytes, "bytes/op")
				b.ReportMetric(apdus/float64(ours.apdus), "APDUs/ours")
				b.ReportMetric(bytes/float64(ours.bytes()), "bytes/ours")
			})
		}
	}
}
