package piv_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

var update = flag.Bool("update", false, "record the golden captures anew")

const (
	captureFile = "testdata/capture.txt" // what went to a card and back
	readingFile = "testdata/reading.txt" // what it means
)

// An exchange is one command APDU and its answer.
type exchange struct{ command, answer []byte }

// capturing is a card that writes down what passes.
type capturing struct {
	*virtual.Card
	on  bool
	log []exchange
}

func (c *capturing) Transmit(ctx context.Context, cmd []byte) ([]byte, error) {
	command := bytes.Clone(cmd)
	answer, err := c.Card.Transmit(ctx, cmd)
	if c.on {
		c.log = append(c.log, exchange{command, bytes.Clone(answer)})
	}
	return answer, err
}

// replaying is a card that answers as the capture says: GET RESPONSE with what
// followed then.
type replaying struct {
	smartcard.Card
	log  []exchange
	last int
}

func (r *replaying) Transmit(_ context.Context, cmd []byte) ([]byte, error) {
	i := slices.IndexFunc(r.log, func(e exchange) bool { return bytes.Equal(e.command, cmd) })
	if cmd[1] == 0xC0 {
		i = r.last + 1
	}
	if i < 0 || i >= len(r.log) || !bytes.Equal(r.log[i].command, cmd) {
		return nil, fmt.Errorf("% X is not in the capture", cmd)
	}
	r.last = i
	return bytes.Clone(r.log[i].answer), nil
}

// readCapture reads lines of command and answer.
func readCapture(t testing.TB) []exchange {
	t.Helper()
	text, err := os.ReadFile(captureFile)
	if err != nil {
		t.Fatal(err)
	}
	var log []exchange
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		command, answer, ok := strings.Cut(lines.Text(), " ")
		if !ok {
			t.Fatalf("%s: %q", captureFile, lines.Text())
		}
		log = append(log, exchange{unhex(t, command), unhex(t, answer)})
	}
	if len(log) == 0 {
		t.Fatalf("%s is empty", captureFile)
	}
	return log
}

// answers gives the whole answers of the capture, without the status word.
func answers(t testing.TB) [][]byte {
	var all [][]byte
	for _, e := range readCapture(t) {
		body := e.answer[:len(e.answer)-2]
		if e.command[1] == 0xC0 {
			all[len(all)-1] = append(all[len(all)-1], body...)
		} else {
			all = append(all, bytes.Clone(body))
		}
	}
	return all
}

// reading asks a card for all that it tells, and writes it down.
func reading(tx *piv.Tx) (string, error) {
	var b strings.Builder
	put := func(name string, value any, err error) error {
		if errors.Is(err, smartcard.StatusNotFound) {
			fmt.Fprintf(&b, "%s: none\n", name)
			return nil
		}
		fmt.Fprintf(&b, "%s: %+v\n", name, value)
		return err
	}
	app, err := tx.Application()
	errs := []error{put("application", app, err)}
	version, err := tx.Version()
	errs = append(errs, put("version", version, err))
	serial, err := tx.Serial()
	errs = append(errs, put("serial", serial, err))
	discovery, err := tx.Discovery()
	errs = append(errs, put("discovery", discovery, err))
	chuid, err := tx.CHUID()
	errs = append(errs, put("CHUID", chuid, err))
	ccc, err := tx.CCC()
	errs = append(errs, put("CCC", ccc, err))
	history, err := tx.KeyHistory()
	errs = append(errs, put("key history", history, err))
	pin, err := tx.PINInfo()
	errs = append(errs, put("PIN", pin, err))
	puk, err := tx.PUKInfo()
	errs = append(errs, put("PUK", puk, err))
	management, err := tx.ManagementKeyInfo()
	errs = append(errs, put("management key", management, err))
	for _, slot := range append(piv.Slots(), 0x82, piv.SlotAttestation) {
		info, err := tx.KeyInfo(slot)
		errs = append(errs, put("key "+slot.String(), fmt.Sprint(info.Algorithm, " ", info.PINPolicy, " ", info.TouchPolicy, " ", info.GeneratedOnCard, " ", digest(info.Public)), err))
		cert, err := tx.Certificate(slot)
		if err == nil {
			errs = append(errs, put("certificate "+slot.String(), fmt.Sprint(len(cert.Raw), " ", digest(cert.PublicKey)), nil))
		} else {
			errs = append(errs, put("certificate "+slot.String(), nil, err))
		}
	}
	statement, err := tx.Attest(piv.SlotSignature)
	if err == nil {
		errs = append(errs, put("attestation 9c", digest(statement.PublicKey), nil))
	}
	return b.String(), errors.Join(append(errs, err)...)
}

// digest names a public key.
func digest(public crypto.PublicKey) string {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return err.Error()
	}
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:8])
}

// record makes the capture of a card with something in every place.
func record(t *testing.T) {
	plastic := &capturing{Card: virtual.New(virtual.Firmware57)}
	card := piv.New(plastic, piv.Options{})
	guid := piv.NewGUID()
	nine := generate(t, card, piv.SlotSignature, piv.ECDSAP256)
	signature := selfSigned(t, card, nine)
	keys := map[piv.Slot]crypto.PublicKey{
		piv.SlotAuthentication: generate(t, card, piv.SlotAuthentication, piv.ECDSAP384),
		piv.SlotKeyManagement:  generate(t, card, piv.SlotKeyManagement, piv.RSA2048),
	}
	generate(t, card, piv.SlotCardAuthentication, piv.Ed25519)
	generate(t, card, 0x82, piv.X25519)
	administer(t, card, func(tx *piv.Tx) error {
		errs := []error{
			tx.PutObject(piv.ObjectCHUID, piv.NewCHUID(guid, time.Date(2035, 12, 31, 0, 0, 0, 0, time.UTC))),
			tx.PutObject(piv.ObjectCCC, piv.NewCCC(guid)),
			tx.PutKeyHistory(piv.KeyHistory{OffCard: 1, URL: "http://example.com/keys"}),
			tx.PutCertificate(piv.SlotSignature, signature),
		}
		return errors.Join(errs...)
	})
	for slot, public := range keys {
		cert := certificateFor(t, card, nine, public, slot == piv.SlotKeyManagement)
		administer(t, card, func(tx *piv.Tx) error { return tx.PutCertificate(slot, cert) })
	}
	plastic.on = true
	var text string
	do(t, piv.New(plastic, piv.Options{}), func(tx *piv.Tx) (err error) {
		text, err = reading(tx)
		return err
	})
	var capture bytes.Buffer
	for _, e := range plastic.log {
		fmt.Fprintf(&capture, "%x %x\n", e.command, e.answer)
	}
	for name, content := range map[string][]byte{captureFile: capture.Bytes(), readingFile: []byte(text)} {
		if err := os.WriteFile(name, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGolden reads the captured card, and finds what was found when it was
// captured.
func TestGolden(t *testing.T) {
	if *update {
		record(t)
	}
	want, err := os.ReadFile(readingFile)
	if err != nil {
		t.Fatal(err)
	}
	card := piv.New(&replaying{Card: virtual.NewCard(), log: readCapture(t)}, piv.Options{})
	do(t, card, func(tx *piv.Tx) error {
		got, err := reading(tx)
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Error(diff)
		}
		return err
	})
}
