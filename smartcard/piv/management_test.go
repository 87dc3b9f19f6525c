package piv_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

func TestManagementKey(t *testing.T) {
	card, _ := newCard(t)
	current := piv.ManagementKey{Algorithm: piv.TripleDES, Key: piv.FactoryManagementKey()}
	for _, a := range []piv.ManagementAlgorithm{piv.AES128, piv.AES192, piv.AES256, piv.TripleDES} {
		next := piv.ManagementKey{Algorithm: a, Key: make([]byte, a.KeyBytes())}
		rand.Read(next.Key)
		do(t, card, func(tx *piv.Tx) error {
			if err := tx.Authenticate(current); err != nil {
				return err
			}
			return tx.SetManagementKey(next)
		})
		err := card.Do(t.Context(), func(tx *piv.Tx) error { return tx.Authenticate(current) })
		if !errors.Is(err, smartcard.StatusWrongParameters) {
			t.Errorf("%02X: the key before: got %v, want 6A86", byte(a), err)
		}
		wrong := piv.ManagementKey{Algorithm: a, Key: bytes.Repeat([]byte{7}, a.KeyBytes())}
		if err := card.Do(t.Context(), func(tx *piv.Tx) error { return tx.Authenticate(wrong) }); !errors.Is(err, smartcard.StatusSecurity) {
			t.Errorf("%02X: wrong key: got %v, want 6982", byte(a), err)
		}
		// Without an algorithm the card is asked for it.
		do(t, card, func(tx *piv.Tx) error { return tx.Authenticate(piv.ManagementKey{Key: next.Key}) })
		current = next
	}
	for _, bad := range []piv.ManagementKey{
		{Algorithm: piv.AES128, Key: make([]byte, 24)},
		{Algorithm: 0x55, Key: make([]byte, 24)},
		{Key: nil},
	} {
		if err := card.Do(t.Context(), func(tx *piv.Tx) error { return tx.Authenticate(bad) }); err == nil {
			t.Errorf("key of %d bytes for %02X: no error", len(bad.Key), byte(bad.Algorithm))
		}
	}
}

// TestAlgorithmWithoutMetadata has only the length of the key to go by, and the
// card's refusals.
func TestAlgorithmWithoutMetadata(t *testing.T) {
	for _, a := range []piv.ManagementAlgorithm{piv.TripleDES, piv.AES128, piv.AES192, piv.AES256} {
		plastic := virtual.NewCard()
		key := piv.ManagementKey{Algorithm: a, Key: bytes.Repeat([]byte{5}, a.KeyBytes())}
		administer(t, piv.New(plastic, piv.Options{}), func(tx *piv.Tx) error { return tx.SetManagementKey(key) })
		card := piv.New(plain{plastic}, piv.Options{})
		do(t, card, func(tx *piv.Tx) error { return tx.Authenticate(piv.ManagementKey{Key: key.Key}) })
		err := card.Do(t.Context(), func(tx *piv.Tx) error {
			return tx.Authenticate(piv.ManagementKey{Key: bytes.Repeat([]byte{6}, a.KeyBytes())})
		})
		if !errors.Is(err, smartcard.StatusSecurity) {
			t.Errorf("%02X: wrong key: got %v, want 6982", byte(a), err)
		}
	}
}

// impostor is a card that accepts every management key without knowing it.
type impostor struct{ smartcard.Card }

func (c impostor) Transmit(ctx context.Context, cmd []byte) ([]byte, error) {
	answer, err := c.Card.Transmit(ctx, cmd)
	if cmd[1] == 0x87 && cmd[4] > 10 { // the second step
		fake := append([]byte{0x7C, 0x0A, 0x82, 0x08}, make([]byte, 8)...)
		return append(fake, 0x90, 0x00), err
	}
	return answer, err
}

func TestFalseCardFound(t *testing.T) {
	card := piv.New(impostor{virtual.NewCard()}, piv.Options{})
	err := card.Do(t.Context(), func(tx *piv.Tx) error {
		return tx.Authenticate(piv.ManagementKey{Algorithm: piv.TripleDES, Key: bytes.Repeat([]byte{7}, 24)})
	})
	if err == nil || errors.Is(err, smartcard.StatusSecurity) {
		t.Errorf("got %v, want that the card doesn't know the key", err)
	}
}

func TestGenerate(t *testing.T) {
	card, _ := newCard(t)
	for slot, a := range map[piv.Slot]piv.Algorithm{
		piv.SlotAuthentication:     piv.ECDSAP384,
		piv.SlotSignature:          piv.ECDSAP256,
		piv.SlotKeyManagement:      piv.RSA2048,
		piv.SlotCardAuthentication: piv.ECDSAP256,
	} {
		if _, err := card.PublicKey(t.Context(), slot); !errors.Is(err, smartcard.StatusNotFound) {
			t.Errorf("slot %v empty: got %v, want 6A82", slot, err)
		}
		public := generate(t, card, slot, a)
		if got, err := piv.AlgorithmOf(public); err != nil || got != a {
			t.Errorf("slot %v: got %v, %v, want %v", slot, got, err, a)
		}
		var info piv.KeyInfo
		do(t, card, func(tx *piv.Tx) (err error) {
			info, err = tx.KeyInfo(slot)
			return err
		})
		want := map[piv.Slot]piv.PINPolicy{
			piv.SlotAuthentication: piv.PINPolicyOnce, piv.SlotSignature: piv.PINPolicyAlways,
			piv.SlotKeyManagement: piv.PINPolicyOnce, piv.SlotCardAuthentication: piv.PINPolicyNever,
		}[slot]
		if info.Algorithm != a || info.PINPolicy != want || !info.GeneratedOnCard {
			t.Errorf("slot %v: got %+v, want %v, PIN %v, generated", slot, info, a, want)
		}
		if !public.(interface{ Equal(crypto.PublicKey) bool }).Equal(info.Public) {
			t.Errorf("slot %v: metadata has another public key", slot)
		}
	}
	err := card.Do(t.Context(), func(tx *piv.Tx) error {
		_, err := tx.Generate(piv.SlotSignature, piv.ECDSAP256, piv.PINPolicyDefault)
		return err
	})
	if !errors.Is(err, smartcard.StatusSecurity) {
		t.Errorf("without authentication: got %v, want 6982", err)
	}
}

// plain is a card without the YubiKey's additions.
type plain struct{ smartcard.Card }

func (c plain) Transmit(ctx context.Context, cmd []byte) ([]byte, error) {
	if cmd[1] >= 0xF7 {
		return []byte{0x6D, 0x00}, nil
	}
	return c.Card.Transmit(ctx, cmd)
}

func TestCardWithoutAdditions(t *testing.T) {
	card := piv.New(plain{virtual.NewCard()}, piv.Options{})
	if serial, err := card.Serial(t.Context()); err != nil || serial != "" {
		t.Errorf("serial without CHUID: got %q, %v", serial, err)
	}
	public := generate(t, card, piv.SlotSignature, piv.ECDSAP256)
	guid := piv.NewGUID()
	cert := selfSigned(t, card, public)
	administer(t, card, func(tx *piv.Tx) error {
		if err := tx.PutObject(piv.ObjectCHUID, piv.NewCHUID(guid, time.Date(2030, 12, 31, 0, 0, 0, 0, time.UTC))); err != nil {
			return err
		}
		return tx.PutCertificate(piv.SlotSignature, cert)
	})
	got, err := card.PublicKey(t.Context(), piv.SlotSignature)
	if err != nil {
		t.Fatal(err)
	}
	if !public.(interface{ Equal(crypto.PublicKey) bool }).Equal(got) {
		t.Error("the public key is not that of the certificate")
	}
	if serial, err := card.Serial(t.Context()); err != nil || serial != hex.EncodeToString(guid[:]) {
		t.Errorf("serial: got %q, %v, want %x", serial, err, guid[:])
	}
	do(t, card, func(tx *piv.Tx) error {
		if v, err := tx.Version(); v != "" || err != nil {
			t.Errorf("version: got %q, %v", v, err)
		}
		return nil
	})
}

// selfSigned returns a certificate that slot 9c has signed.
func selfSigned(t testing.TB, card *piv.Card, public crypto.PublicKey) *x509.Certificate {
	t.Helper()
	return certificateFor(t, card, public, public, false)
}

// certificateFor returns a certificate for a public key that slot 9c, whose
// public key is by, has signed; a large one on demand.
func certificateFor(t testing.TB, card *piv.Card, by, public crypto.PublicKey, large bool) *x509.Certificate {
	t.Helper()
	session := card.NewSession(t.Context(), piv.SessionConfig{PIN: (&answer{pin: factoryPIN}).ask})
	defer session.Close()
	signer, err := session.Signer(piv.SlotSignature, by)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour)}
	if large {
		template.Subject.CommonName = strings.Repeat("large ", 300)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestObjects(t *testing.T) {
	card, _ := newCard(t)
	guid := piv.NewGUID()
	large := bytes.Repeat([]byte{0xA5}, 3000)
	administer(t, card, func(tx *piv.Tx) error {
		if err := tx.PutObject(piv.ObjectCHUID, piv.NewCHUID(guid, time.Date(2030, 12, 31, 0, 0, 0, 0, time.UTC))); err != nil {
			return err
		}
		if err := tx.PutObject(piv.ObjectCCC, piv.NewCCC(guid)); err != nil {
			return err
		}
		return tx.PutObject(0x5FFF00, large)
	})
	do(t, card, func(tx *piv.Tx) error {
		if got, err := tx.GUID(); err != nil || got != guid {
			t.Errorf("GUID: got %v, %v, want %v", got, err, guid)
		}
		got, err := tx.Object(0x5FFF00)
		if diff := cmp.Diff(large, got); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
		if v, err := tx.Version(); v != "5.4.3" || err != nil {
			t.Errorf("version: got %q, %v", v, err)
		}
		_, err = tx.Object(0x5FC106)
		if !errors.Is(err, smartcard.StatusNotFound) {
			t.Errorf("absent object: got %v, want 6A82", err)
		}
		return nil
	})
	administer(t, card, func(tx *piv.Tx) error { return tx.PutObject(0x5FFF00, nil) })
	err := card.Do(t.Context(), func(tx *piv.Tx) error {
		_, err := tx.Object(0x5FFF00)
		return err
	})
	if !errors.Is(err, smartcard.StatusNotFound) {
		t.Errorf("deleted object: got %v, want 6A82", err)
	}
}

// TestCHUID compares with the object that a known card has: agency 9999, system
// 9999, credential 999999, then series 0, issue 1, person 0, category 3.
func TestCHUID(t *testing.T) {
	got := hex.EncodeToString(piv.NewCHUID(piv.GUID{}, time.Date(2030, 1, 2, 0, 0, 0, 0, time.UTC)))
	want := "3019d4e739da739ced39ce739d836858210842108421c84210c3eb" +
		"3410" + "00000000000000000000000000000000" + "3508" + hex.EncodeToString([]byte("20300102")) + "3e00fe00"
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestPINManagement(t *testing.T) {
	card, _ := newCard(t)
	do(t, card, func(tx *piv.Tx) error {
		if err := tx.ChangePIN([]byte(factoryPIN), []byte("24681357")); err != nil {
			return err
		}
		if err := tx.ChangePUK([]byte(factoryPUK), []byte("87654321")); err != nil {
			return err
		}
		return tx.VerifyPIN([]byte("24681357"))
	})
	do(t, card, func(tx *piv.Tx) error {
		err := tx.ChangePUK([]byte(factoryPUK), []byte("11111111"))
		wantPINError(t, err, 2)
		err = tx.UnblockPIN([]byte("87654321"), []byte("135790"))
		if err != nil {
			return err
		}
		for _, bad := range []string{"", "12345", "123456789", "12345\xff"} {
			if err := tx.VerifyPIN([]byte(bad)); !errors.Is(err, piv.ErrPINFormat) {
				t.Errorf("PIN %q: got %v, want ErrPINFormat", bad, err)
			}
		}
		// The count is seen although the PIN is verified.
		if err := tx.VerifyPIN([]byte("135790")); err != nil {
			return err
		}
		n, err := tx.PINTries()
		if n != 3 {
			t.Errorf("%d tries left, want 3", n)
		}
		return err
	})
}

// TestLastTry checks that neither PIN nor PUK lose their last try unasked.
func TestSetTries(t *testing.T) {
	card, _ := newCard(t)
	do(t, card, func(tx *piv.Tx) error {
		if err := tx.ChangePUK([]byte("12345678"), []byte("87654321")); err != nil {
			return err
		}
		if err := tx.VerifyPIN([]byte(factoryPIN)); err != nil {
			return err
		}
		if err := tx.SetTries(5, 4); !errors.Is(err, smartcard.StatusSecurity) {
			t.Errorf("without the management key: got %v, want 6982", err)
		}
		if err := tx.Authenticate(piv.ManagementKey{Key: piv.FactoryManagementKey()}); err != nil {
			return err
		}
		if err := tx.SetTries(0, 16); err == nil {
			t.Error("0 and 16 tries: no error")
		}
		return tx.SetTries(5, 4)
	})
	do(t, card, func(tx *piv.Tx) error {
		pin, err := tx.PINInfo()
		if err != nil {
			return err
		}
		puk, err := tx.PUKInfo()
		want := []piv.SecretInfo{{Default: true, Tries: 5, TriesLeft: 5}, {Default: true, Tries: 4, TriesLeft: 4}}
		if diff := cmp.Diff(want, []piv.SecretInfo{pin, puk}); diff != "" {
			t.Error(diff)
		}
		return err
	})
}

func TestLastTry(t *testing.T) {
	card, recorder := newCard(t)
	wrong, other := []byte("00000000"), []byte("24681357")
	do(t, card, func(tx *piv.Tx) error {
		for left := 2; left > 0; left-- {
			wantPINError(t, tx.ChangePIN(wrong, other), left)
			wantPINError(t, tx.UnblockPIN(wrong, other), left)
		}
		recorder.Take()
		for name, err := range map[string]error{
			"PIN":     tx.ChangePIN([]byte(factoryPIN), other),
			"PUK":     tx.ChangePUK([]byte(factoryPUK), other),
			"unblock": tx.UnblockPIN([]byte(factoryPUK), other),
		} {
			if !errors.Is(err, piv.ErrLastTry) {
				t.Errorf("%s: got %v, want ErrLastTry", name, err)
			}
		}
		records := recorder.Take()
		if n := count(records, 0x24) + count(records, 0x2C); n > 0 {
			t.Errorf("%d commands with a PIN or PUK were sent", n)
		}
		tx.AllowLastTry()
		wantPINError(t, tx.ChangePIN(wrong, other), 0)
		wantPINError(t, tx.ChangePIN(wrong, other), 0)
		if n := count(recorder.Take(), 0x24); n != 1 {
			t.Errorf("a blocked PIN was sent: %d commands, want 1", n)
		}
		return tx.UnblockPIN([]byte(factoryPUK), other)
	})
	do(t, card, func(tx *piv.Tx) error { return tx.VerifyPIN(other) })

	// Of a card that doesn't tell, nothing is known, and the PUK is sent.
	silent := piv.New(plain{virtual.NewCard()}, piv.Options{})
	do(t, silent, func(tx *piv.Tx) error {
		for left := 2; left >= 0; left-- {
			wantPINError(t, tx.ChangePUK(wrong, other), left)
		}
		return nil
	})
}

func TestFactoryReset(t *testing.T) {
	card, recorder := newCard(t)
	generate(t, card, piv.SlotSignature, piv.ECDSAP256)
	do(t, card, func(tx *piv.Tx) error {
		if err := tx.ChangePIN([]byte(factoryPIN), []byte("24681357")); err != nil {
			return err
		}
		return tx.FactoryReset()
	})
	if _, err := card.PublicKey(t.Context(), piv.SlotSignature); !errors.Is(err, smartcard.StatusNotFound) {
		t.Errorf("the key after a reset: got %v, want 6A82", err)
	}
	do(t, card, func(tx *piv.Tx) error { return tx.VerifyPIN([]byte(factoryPIN)) })

	// A card that cannot be reset is not blocked for nothing.
	recorder.Take()
	if err := piv.New(plain{recorder}, piv.Options{}).Do(t.Context(), func(tx *piv.Tx) error { return tx.FactoryReset() }); err == nil {
		t.Error("no error from a card without reset")
	}
	if n := pinTries(t, card); n != 3 {
		t.Errorf("%d tries left, want 3", n)
	}
}

// deaf is a card with another application only.
type deaf struct{ smartcard.Card }

func (deaf) Transmit(context.Context, []byte) ([]byte, error) { return []byte{0x6A, 0x82}, nil }

func TestNoPIV(t *testing.T) {
	_, err := piv.New(deaf{virtual.NewCard()}, piv.Options{}).Serial(t.Context())
	if !errors.Is(err, piv.ErrNoPIV) || errors.Is(err, smartcard.StatusNotFound) {
		t.Errorf("got %v, want ErrNoPIV, and not that an object is missing", err)
	}
}
