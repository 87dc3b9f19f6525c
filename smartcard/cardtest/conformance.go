package cardtest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
	"github.com/setkit/setkit/smartcard/piv"
)

// A Subject is a PIV card under test, and what may be done to it.
type Subject struct {
	// Open returns a way to the card. It is called once.
	Open func(t testing.TB) smartcard.Card

	// Write allows what changes the card: wrong PINs, new PINs, keys and objects
	// in the slots 9a, 9c, 9d and 9e in place of those that are there. PIN and PUK
	// are the same afterwards.
	Write bool

	// What Write needs.
	PIN, PUK      []byte
	ManagementKey piv.ManagementKey
}

// Conformance tests a PIV card that is fresh from the factory, with its
// well-known secrets, and that may be written to; see Subject.Conformance.
func Conformance(t *testing.T, open func(t testing.TB) smartcard.Card) {
	Subject{
		Open: open, Write: true,
		PIN: []byte("123456"), PUK: []byte("12345678"),
		ManagementKey: piv.ManagementKey{Key: piv.FactoryManagementKey()},
	}.Conformance(t)
}

// Conformance tests whether a card, and the way to it, do what NIST SP 800-73-4
// and package smartcard say. It assumes nothing else: which algorithms, lengths
// of APDUs and additions the card has it finds out, says in the log, and tests
// then.
func (s Subject) Conformance(t *testing.T) {
	card := s.Open(t)
	c := &candidate{Subject: s, card: card, piv: piv.New(card, piv.Options{})}
	c.extended = c.takesExtended(t)
	t.Run("select", c.testSelect)
	t.Run("read", c.testRead)
	t.Run("context", c.testContext)
	if !s.Write {
		t.Log("the card may not be written to: PINs, objects and keys are not tested")
		return
	}
	t.Run("refuse", c.testRefuse)
	t.Run("PIN", c.testPIN)
	t.Run("PIN replaced", c.testReplacePIN)
	t.Run("reset", c.testReset)
	t.Run("management key", c.testManagementKey)
	t.Run("objects", c.testObjects)
	t.Run("keys", c.testKeys)
}

// A candidate is a card in its test.
type candidate struct {
	Subject
	card     smartcard.Card
	piv      *piv.Card
	extended bool // it takes APDUs of extended length
}

// applicationID is PIV's name without the version, part 1, section 2.2.
var applicationID = []byte{0xA0, 0x00, 0x00, 0x03, 0x08, 0x00, 0x00, 0x10, 0x00}

var (
	selectPIV   = iso7816.Command{INS: 0xA4, P1: 0x04, Data: applicationID, Ne: 256}
	pinStatus   = iso7816.Command{INS: 0x20, P2: 0x80}
	withdrawPIN = iso7816.Command{INS: 0x20, P1: 0xFF, P2: 0x80}
)

// verify is VERIFY with a PIN.
func verify(pin []byte) iso7816.Command {
	padded := bytes.Repeat([]byte{0xFF}, piv.PINBytesMax)
	copy(padded, pin)
	return iso7816.Command{INS: 0x20, P2: 0x80, Data: padded}
}

// raw runs f in a transaction of its own with PIV selected.
func (c *candidate) raw(t *testing.T, f func()) {
	t.Helper()
	if err := c.card.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.card.End(smartcard.Leave); err != nil {
			t.Error(err)
		}
	}()
	if got := c.send(t, selectPIV); got.SW != 0x9000 {
		t.Fatalf("SELECT: %v", smartcard.Status(got.SW))
	}
	f()
}

// do is piv.Card.Do for steps that have to succeed.
func (c *candidate) do(t *testing.T, f func(tx *piv.Tx) error) {
	t.Helper()
	if err := c.piv.Do(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

// administer is do after authentication.
func (c *candidate) administer(t *testing.T, f func(tx *piv.Tx) error) {
	t.Helper()
	c.do(t, func(tx *piv.Tx) error {
		if err := tx.Authenticate(c.ManagementKey); err != nil {
			return err
		}
		return f(tx)
	})
}

func (c *candidate) send(t *testing.T, cmd iso7816.Command) iso7816.Response {
	t.Helper()
	r, err := iso7816.Exchange(func(apdu []byte) ([]byte, error) {
		return c.card.Transmit(t.Context(), apdu)
	}, cmd, false)
	if err != nil {
		t.Fatalf("%02X %02X %02X %02X: %v", cmd.CLA, cmd.INS, cmd.P1, cmd.P2, err)
	}
	return r
}

// takesExtended asks the card by using it.
func (c *candidate) takesExtended(t *testing.T) bool {
	t.Helper()
	if err := c.card.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := iso7816.Exchange(func(apdu []byte) ([]byte, error) {
		return c.card.Transmit(t.Context(), apdu)
	}, selectPIV, true)
	if endErr := c.card.End(smartcard.Leave); endErr != nil {
		t.Fatal(endErr)
	}
	ok := err == nil && r.SW == 0x9000
	t.Logf("APDUs of extended length: %v (%v, %v)", ok, smartcard.Status(r.SW), err)
	return ok
}

// testSelect: part 2, section 3.1.1.
func (c *candidate) testSelect(t *testing.T) {
	c.do(t, func(tx *piv.Tx) error {
		app, err := tx.Application()
		t.Logf("%+v", app)
		if len(app.PIX) < 4 || !bytes.HasPrefix(app.PIX, applicationID[5:]) {
			t.Errorf("PIX % X, want % X", app.PIX, applicationID[5:])
		}
		return err
	})
	c.raw(t, func() {
		before := c.send(t, pinStatus)
		if got := c.send(t, iso7816.Command{INS: 0xA4, P1: 0x04, Data: []byte{0xF0, 1, 2, 3, 4, 5, 6}, Ne: 256}); got.SW == 0x9000 {
			t.Error("an application that isn't there was selected")
		}
		if got := c.send(t, pinStatus); got.SW != before.SW {
			t.Errorf("PIN status after a failed SELECT: %v, before it %v", smartcard.Status(got.SW), smartcard.Status(before.SW))
		}
		if got := c.send(t, iso7816.Command{INS: 0x02}); got.SW == 0x9000 {
			t.Error("an instruction that doesn't exist succeeds")
		}
	})
}

// testRead reads all that is there. What is there has to be well-formed.
func (c *candidate) testRead(t *testing.T) {
	c.do(t, func(tx *piv.Tx) error {
		optional := func(name string, err error) {
			switch {
			case errors.Is(err, smartcard.StatusNotFound), errors.Is(err, piv.ErrUnsupported):
				t.Logf("the card has no %s", name)
			case err != nil:
				t.Errorf("%s: %v", name, err)
			}
		}
		_, err := tx.CHUID()
		optional("CHUID", err)
		_, err = tx.CCC()
		optional("CCC", err)
		_, err = tx.KeyHistory()
		optional("key history", err)
		_, err = tx.PINInfo()
		optional("PIN metadata", err)
		d, err := tx.Discovery()
		optional("discovery object", err)
		if err == nil && !d.PIN {
			t.Errorf("the discovery object says %+v, want a PIN of PIV", d)
		}
		for _, slot := range slices.Concat(piv.Slots(), piv.RetiredSlots()) {
			switch _, err := tx.Certificate(slot); {
			case err == nil:
				t.Logf("a certificate for slot %v", slot)
			case !errors.Is(err, smartcard.StatusNotFound):
				t.Errorf("certificate of slot %v: %v", slot, err)
			}
		}
		tries, err := tx.PINTries()
		t.Logf("PIN tries left: %d", tries)
		return err
	})
}

// testContext checks that an ended context is respected.
func (c *candidate) testContext(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.card.Transmit(ended, []byte{0, 0xA4, 4, 0}); !errors.Is(err, context.Canceled) {
		t.Errorf("Transmit: got %v, want %v", err, context.Canceled)
	}
	if err := c.card.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.card.Begin(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("second Begin: got %v, want %v", err, context.Canceled)
	}
	if err := c.card.End(smartcard.Leave); err != nil {
		t.Error(err)
	}
	if err := c.card.End(smartcard.Leave); err == nil {
		t.Error("End without Begin: no error")
	}
}

// testRefuse tries what needs a PIN or the management key first.
func (c *candidate) testRefuse(t *testing.T) {
	c.raw(t, func() {
		c.forgetPIN(t) // another program may have left it verified
		for name, cmd := range map[string]iso7816.Command{
			"PUT DATA":                 {INS: 0xDB, P1: 0x3F, P2: 0xFF, Data: []byte{0x5C, 3, 0x5F, 0xC1, 0x05, 0x53, 0}},
			"PUT DATA, chained":        {INS: 0xDB, P1: 0x3F, P2: 0xFF, Data: append([]byte{0x5C, 3, 0x5F, 0xC1, 0x05, 0x53, 0x82, 2, 0}, make([]byte, 512)...)},
			"GENERATE":                 {INS: 0x47, P2: 0x9A, Data: []byte{0xAC, 3, 0x80, 1, 0x11}, Ne: 256},
			"9C without PIN":           {INS: 0x87, P1: 0x11, P2: 0x9C, Data: append([]byte{0x7C, 0x24, 0x82, 0, 0x81, 0x20}, make([]byte, 32)...), Ne: 256},
			"printed data without PIN": {INS: 0xCB, P1: 0x3F, P2: 0xFF, Data: []byte{0x5C, 3, 0x5F, 0xC1, 0x09}, Ne: 256},
			"VERIFY of 7 bytes":        {INS: 0x20, P2: 0x80, Data: []byte("1234567")},
			"VERIFY, other P1":         {INS: 0x20, P1: 0x01, P2: 0x80},
		} {
			if got := c.send(t, cmd); got.SW == 0x9000 {
				t.Errorf("%s: no refusal", name)
			}
		}
		if n, ok := smartcard.Status(c.send(t, pinStatus).SW).TriesLeft(); !ok || n < 2 {
			t.Errorf("%d tries of the PIN are left", n)
		}
	})
}

// testPIN: part 2, section 3.2.1.
func (c *candidate) testPIN(t *testing.T) {
	wrong := bytes.Clone(c.PIN)
	wrong[0] ^= 1
	c.raw(t, func() {
		c.want(t, "right PIN", verify(c.PIN), smartcard.StatusOK)
		c.want(t, "status when verified", pinStatus, smartcard.StatusOK)
		c.want(t, "SELECT again", selectPIV, smartcard.StatusOK)
		c.want(t, "status after SELECT of PIV", pinStatus, smartcard.StatusOK)
		c.forgetPIN(t)
		full := smartcard.Status(c.send(t, pinStatus).SW)
		n, ok := full.TriesLeft()
		if !ok || n < 2 {
			t.Fatalf("status after withdrawal: %v, want two tries or more", full)
		}
		c.want(t, "wrong PIN", verify(wrong), full-1)
		c.want(t, "status after it", pinStatus, full-1)
		c.want(t, "right PIN", verify(c.PIN), smartcard.StatusOK)
		c.forgetPIN(t)
		c.want(t, "status in the end", pinStatus, full)
	})
}

// forgetPIN makes the card forget a verified PIN, inside raw. Withdrawal is new in
// SP 800-73-4: cards of before have to be reset.
func (c *candidate) forgetPIN(t *testing.T) {
	t.Helper()
	got := smartcard.Status(c.send(t, withdrawPIN).SW)
	if got == smartcard.StatusOK {
		return
	}
	t.Logf("the card withdraws no PIN (%v)", got)
	if err := c.card.End(smartcard.Reset); err != nil {
		t.Fatal(err)
	}
	if err := c.card.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.want(t, "SELECT after a reset", selectPIV, smartcard.StatusOK)
}

// want sends a command that has to end with a status.
func (c *candidate) want(t *testing.T, name string, cmd iso7816.Command, want smartcard.Status) {
	t.Helper()
	if got := smartcard.Status(c.send(t, cmd).SW); got != want {
		t.Errorf("%s: got %v, want %v", name, got, want)
	}
}

// testReplacePIN: part 2, sections 3.2.2 and 3.2.3.
func (c *candidate) testReplacePIN(t *testing.T) {
	other := []byte("97531864")
	c.do(t, func(tx *piv.Tx) error {
		if err := tx.ChangePIN(c.PIN, other); err != nil {
			return err
		}
		err := tx.VerifyPIN(other)
		return errors.Join(err, tx.ChangePIN(other, c.PIN), tx.VerifyPIN(c.PIN))
	})
	c.do(t, func(tx *piv.Tx) error { return tx.UnblockPIN(c.PUK, c.PIN) })
	c.do(t, func(tx *piv.Tx) error { return tx.VerifyPIN(c.PIN) })
	c.do(t, func(tx *piv.Tx) error {
		if err := tx.ChangePUK(c.PUK, other); err != nil {
			return err
		}
		return tx.ChangePUK(other, c.PUK)
	})
}

// testReset checks that a card forgets the PIN when a transaction ends with
// Reset, and keeps it otherwise.
func (c *candidate) testReset(t *testing.T) {
	for _, tt := range []struct {
		end      smartcard.Disposition
		verified bool
	}{{smartcard.Leave, true}, {smartcard.Reset, false}} {
		if err := c.card.Begin(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.want(t, "SELECT", selectPIV, smartcard.StatusOK)
		c.want(t, "VERIFY", verify(c.PIN), smartcard.StatusOK)
		if err := c.card.End(tt.end); err != nil {
			t.Fatal(err)
		}
		c.raw(t, func() {
			if got := smartcard.Status(c.send(t, pinStatus).SW); (got == smartcard.StatusOK) != tt.verified {
				t.Errorf("PIN after the end of a transaction with %v: %v", tt.end, got)
			}
		})
	}
}

// testManagementKey: part 2, appendix A.1.
func (c *candidate) testManagementKey(t *testing.T) {
	wrong := c.ManagementKey
	wrong.Key = bytes.Clone(wrong.Key)
	wrong.Key[0] ^= 0x10
	var refused smartcard.Status
	if err := c.piv.Do(t.Context(), func(tx *piv.Tx) error { return tx.Authenticate(wrong) }); !errors.As(err, &refused) {
		t.Errorf("wrong management key: got %v, want a refusal", err)
	}
	c.administer(t, func(*piv.Tx) error { return nil })
	err := c.piv.Do(t.Context(), func(tx *piv.Tx) error { return tx.PutObject(piv.ObjectCHUID, []byte{0x34, 0}) })
	if !errors.As(err, &refused) {
		t.Errorf("PUT DATA after the authenticated transaction: got %v, want a refusal", err)
	}
}

// objectOf9A is the certificate of slot 9a, an object that every card has room
// for: 1856 bytes and what is around them. Part 1, table 3.
const objectOf9A piv.ObjectID = 0x5FC105

// testObjects writes and reads objects of lengths where something changes, in
// every length of APDU that the card takes. Part 2, sections 3.1.2 and 3.3.1.
func (c *candidate) testObjects(t *testing.T) {
	for _, extended := range []bool{false, true} {
		if extended && !c.extended {
			continue
		}
		card := piv.New(c.card, piv.Options{Extended: extended})
		for _, n := range []int{1, 127, 128, 245, 246, 252, 253, 255, 256, 508, 512, 1024, 1856} {
			want := bytes.Repeat([]byte{byte(n) | 1}, n)
			err := card.Do(t.Context(), func(tx *piv.Tx) error {
				if err := tx.Authenticate(c.ManagementKey); err != nil {
					return err
				}
				if err := tx.PutObject(objectOf9A, want); err != nil {
					return err
				}
				got, err := tx.Object(objectOf9A)
				if err == nil && !bytes.Equal(got, want) {
					t.Errorf("%d bytes, extended %v: %d others came back", n, extended, len(got))
				}
				return err
			})
			if err != nil {
				t.Errorf("%d bytes, extended %v: %v", n, extended, err)
			}
		}
	}
	c.administer(t, func(tx *piv.Tx) error {
		if err := tx.PutObject(objectOf9A, nil); err != nil {
			return err
		}
		if _, err := tx.Object(objectOf9A); !errors.Is(err, smartcard.StatusNotFound) {
			t.Errorf("deleted object: got %v, want 6A82 or nothing", err)
		}
		return nil
	})
}
