package piv_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

func TestSign(t *testing.T) {
	message := []byte("the purchase")
	d256, d384 := sha256.Sum256(message), sha512.Sum384(message)
	short := d256[:20]
	tests := []struct {
		algorithm piv.Algorithm
		slot      piv.Slot
		digest    []byte
		hash      crypto.Hash
	}{
		{piv.ECDSAP256, piv.SlotSignature, d256[:], crypto.SHA256},
		{piv.ECDSAP256, piv.SlotAuthentication, d384[:], crypto.SHA384},
		{piv.ECDSAP256, piv.SlotCardAuthentication, short, 0},
		{piv.ECDSAP384, piv.SlotSignature, d384[:], crypto.SHA384},
		{piv.ECDSAP384, piv.SlotKeyManagement, d256[:], crypto.SHA256},
		{piv.RSA2048, piv.SlotSignature, d256[:], crypto.SHA256},
	}
	for _, tt := range tests {
		t.Run(tt.algorithm.String()+" "+tt.slot.String()+" "+tt.hash.String(), func(t *testing.T) {
			t.Parallel()
			card, _ := newCard(t)
			public := generate(t, card, tt.slot, tt.algorithm)
			pin := &answer{pin: factoryPIN}
			session := card.NewSession(t.Context(), piv.SessionConfig{PIN: pin.ask})
			defer session.Close()
			signer, err := session.Signer(tt.slot, public)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // 9c wants the PIN each time, the person is asked once
				sig, err := signer.Sign(nil, tt.digest, tt.hash)
				if err != nil {
					t.Fatal(err)
				}
				switch k := public.(type) {
				case *ecdsa.PublicKey:
					if !ecdsa.VerifyASN1(k, tt.digest, sig) {
						t.Error("the signature is not good")
					}
				case *rsa.PublicKey:
					if err := rsa.VerifyPKCS1v15(k, tt.hash, tt.digest, sig); err != nil {
						t.Error(err)
					}
				}
			}
			want := 1
			if tt.slot == piv.SlotCardAuthentication {
				want = 0
			}
			if len(pin.asked) != want {
				t.Errorf("asked for the PIN %d times, want %d", len(pin.asked), want)
			}
		})
	}
}

func TestSignRefuses(t *testing.T) {
	t.Parallel()
	card, recorder := newCard(t)
	public := generate(t, card, piv.SlotSignature, piv.RSA2048)
	session := card.NewSession(t.Context(), piv.SessionConfig{PIN: (&answer{pin: factoryPIN}).ask})
	defer session.Close()
	signer, err := session.Signer(piv.SlotSignature, public)
	if err != nil {
		t.Fatal(err)
	}
	recorder.Take()
	digest := sha256.Sum256(nil)
	for name, opts := range map[string]crypto.SignerOpts{
		"another hash's length": crypto.SHA384,
		"SHA-1":                 crypto.SHA1,
		"no hash":               crypto.Hash(0),
		"PSS with SHA-1":        &rsa.PSSOptions{Hash: crypto.SHA1},
		"PSS, salt too long":    &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: 300},
	} {
		if _, err := signer.Sign(nil, digest[:], opts); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if sent := recorder.Take(); len(sent) > 0 {
		t.Errorf("%d commands were sent", len(sent))
	}
}

func TestDecrypt(t *testing.T) {
	t.Parallel()
	card, _ := newCard(t)
	public := generate(t, card, piv.SlotKeyManagement, piv.RSA2048).(*rsa.PublicKey)
	session := card.NewSession(t.Context(), piv.SessionConfig{PIN: (&answer{pin: factoryPIN}).ask})
	defer session.Close()
	key, err := session.Decrypter(piv.SlotKeyManagement, public)
	if err != nil {
		t.Fatal(err)
	}
	label := []byte("vault")
	for _, size := range []int{0, 1, 32, 190} { // 190 is all that fits
		message := make([]byte, size)
		rand.Read(message)
		sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public, message, label)
		if err != nil {
			t.Fatal(err)
		}
		got, err := key.Decrypt(nil, sealed, &rsa.OAEPOptions{Hash: crypto.SHA256, Label: label})
		if err != nil || !bytes.Equal(got, message) {
			t.Errorf("%d bytes: got %x, %v, want %x", size, got, err, message)
		}
		for name, wrong := range map[string]struct {
			message []byte
			opts    *rsa.OAEPOptions
		}{
			"another label": {sealed, &rsa.OAEPOptions{Hash: crypto.SHA256}},
			"another hash":  {sealed, &rsa.OAEPOptions{Hash: crypto.SHA384, Label: label}},
			"another mask":  {sealed, &rsa.OAEPOptions{Hash: crypto.SHA256, MGFHash: crypto.SHA512, Label: label}},
			"changed":       {append(bytes.Clone(sealed[:255]), sealed[255]^1), &rsa.OAEPOptions{Hash: crypto.SHA256, Label: label}},
			"cut off":       {sealed[:255], &rsa.OAEPOptions{Hash: crypto.SHA256, Label: label}},
			"too large":     {bytes.Repeat([]byte{0xFF}, 256), &rsa.OAEPOptions{Hash: crypto.SHA256, Label: label}},
		} {
			if got, err := key.Decrypt(nil, wrong.message, wrong.opts); err != rsa.ErrDecryption {
				t.Errorf("%s: got %x, %v, want exactly ErrDecryption", name, got, err)
			}
		}
	}
	for name, opts := range map[string]crypto.DecrypterOpts{
		"another type": &rsa.PSSOptions{},
		"nothing":      nil,
		"SHA-1":        &rsa.OAEPOptions{Hash: crypto.SHA1},
	} {
		if _, err := key.Decrypt(nil, make([]byte, 256), opts); err == nil || errors.Is(err, rsa.ErrDecryption) {
			t.Errorf("%s: got %v, want an error about the options", name, err)
		}
	}
}

func TestDecrypterWantsRSA(t *testing.T) {
	card, _ := newCard(t)
	public := generate(t, card, piv.SlotKeyManagement, piv.ECDSAP256)
	if _, err := card.NewSession(t.Context(), piv.SessionConfig{}).Decrypter(piv.SlotKeyManagement, public); err == nil {
		t.Error("no error for an EC key")
	}
}

func TestPINRequest(t *testing.T) {
	plastic := virtual.NewCard()
	card := piv.New(plastic, piv.Options{})
	public := generate(t, card, piv.SlotSignature, piv.ECDSAP256)
	do(t, card, func(tx *piv.Tx) error {
		wantPINError(t, tx.VerifyPIN([]byte("000000")), 2)
		return nil
	})
	serial, err := card.Serial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pin := &answer{pin: factoryPIN}
	session := card.NewSession(t.Context(), piv.SessionConfig{Reason: "pay 5 EUR", PIN: func(ctx context.Context, r piv.PINRequest) ([]byte, error) {
		// No transaction may be running while a person thinks.
		begun, cancel := context.WithCancel(ctx)
		defer cancel()
		if err := plastic.Begin(begun); err != nil {
			t.Error(err)
		}
		if err := plastic.End(smartcard.Leave); err != nil {
			t.Error(err)
		}
		return pin.ask(ctx, r)
	}})
	sign(t, session, public)
	want := []piv.PINRequest{{Reason: "pay 5 EUR", Serial: serial, Slot: piv.SlotSignature, TriesLeft: 2}}
	if diff := cmp.Diff(want, pin.asked); diff != "" {
		t.Error(diff)
	}
	if got := string(bytes.Trim(pin.given[0], "\x00")); got != "" {
		t.Errorf("the callback's PIN was not cleared: %q", got)
	}
	session.Close()
	if _, err := trySign(session, public); err == nil {
		t.Error("a closed session signs")
	}
}

func trySign(s *piv.Session, public crypto.PublicKey) ([]byte, error) {
	signer, err := s.Signer(piv.SlotSignature, public)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256([]byte("x"))
	return signer.Sign(nil, digest[:], crypto.SHA256)
}

func sign(t *testing.T, s *piv.Session, public crypto.PublicKey) {
	t.Helper()
	if _, err := trySign(s, public); err != nil {
		t.Fatal(err)
	}
}

func TestWrongPIN(t *testing.T) {
	card, recorder := newCard(t)
	public := generate(t, card, piv.SlotSignature, piv.ECDSAP256)
	pin := &answer{pin: "000000"}
	session := card.NewSession(t.Context(), piv.SessionConfig{PIN: pin.ask})
	defer session.Close()

	recorder.Take()
	_, err := trySign(session, public)
	wantPINError(t, err, 2)
	if n := count(recorder.Take(), 0x87); n > 0 {
		t.Errorf("%d commands went to the key after a wrong PIN", n)
	}
	_, err = trySign(session, public)
	wantPINError(t, err, 1)
	if len(pin.asked) != 2 {
		t.Errorf("asked %d times, want 2: a wrong PIN is not used again", len(pin.asked))
	}

	// One try is left: nobody is asked, nothing is tried.
	if _, err = trySign(session, public); !errors.Is(err, piv.ErrLastTry) {
		t.Errorf("last try: got %v, want ErrLastTry", err)
	}
	if len(pin.asked) != 2 || pinTries(t, card) != 1 {
		t.Errorf("asked %d times, %d tries left; want 2 and 1", len(pin.asked), pinTries(t, card))
	}

	// With consent it is, and a right PIN gives all tries back.
	right := &answer{pin: factoryPIN}
	consenting := card.NewSession(t.Context(), piv.SessionConfig{PIN: right.ask, AllowLastTry: true})
	defer consenting.Close()
	sign(t, consenting, public)
	if len(right.asked) != 1 || right.asked[0].TriesLeft != 1 || pinTries(t, card) != 3 {
		t.Errorf("got %+v, %d tries left", right.asked, pinTries(t, card))
	}
}

func TestBlockedPIN(t *testing.T) {
	card, _ := newCard(t)
	public := generate(t, card, piv.SlotSignature, piv.ECDSAP256)
	pin := &answer{pin: "000000"}
	session := card.NewSession(t.Context(), piv.SessionConfig{PIN: pin.ask, AllowLastTry: true})
	defer session.Close()
	for left := 2; left >= 0; left-- {
		_, err := trySign(session, public)
		wantPINError(t, err, left)
	}
	pin.pin = factoryPIN
	_, err := trySign(session, public)
	wantPINError(t, err, 0)
	if !errors.Is(err, smartcard.StatusBlocked) || len(pin.asked) != 3 {
		t.Errorf("blocked: got %v after %d questions, want 6983 and 3: nobody is asked for a blocked PIN", err, len(pin.asked))
	}
	do(t, card, func(tx *piv.Tx) error { return tx.UnblockPIN([]byte(factoryPUK), []byte("654321")) })
	pin.pin = "654321"
	sign(t, session, public)
}

func TestPINTriesTakenMeanwhile(t *testing.T) {
	card, _ := newCard(t)
	public := generate(t, card, piv.SlotSignature, piv.ECDSAP256)
	session := card.NewSession(t.Context(), piv.SessionConfig{PIN: func(context.Context, piv.PINRequest) ([]byte, error) {
		do(t, card, func(tx *piv.Tx) error { // another program, two mistakes
			wantPINError(t, tx.VerifyPIN([]byte("111111")), 2)
			wantPINError(t, tx.VerifyPIN([]byte("111111")), 1)
			return nil
		})
		return []byte("000000"), nil
	}})
	defer session.Close()
	if _, err := trySign(session, public); !errors.Is(err, piv.ErrLastTry) {
		t.Errorf("got %v, want ErrLastTry", err)
	}
	if n := pinTries(t, card); n != 1 {
		t.Errorf("%d tries left, want 1", n)
	}
}

func TestPINNotGiven(t *testing.T) {
	card, _ := newCard(t)
	public := generate(t, card, piv.SlotSignature, piv.ECDSAP256)
	cancelled := errors.New("cancelled")
	session := card.NewSession(t.Context(), piv.SessionConfig{PIN: func(context.Context, piv.PINRequest) ([]byte, error) { return nil, cancelled }})
	defer session.Close()
	if _, err := trySign(session, public); !errors.Is(err, cancelled) {
		t.Errorf("got %v, want %v", err, cancelled)
	}
	short := card.NewSession(t.Context(), piv.SessionConfig{PIN: (&answer{pin: "1234"}).ask})
	defer short.Close()
	if _, err := trySign(short, public); !errors.Is(err, piv.ErrPINFormat) {
		t.Errorf("got %v, want ErrPINFormat", err)
	}
	if n := pinTries(t, card); n != 3 {
		t.Errorf("%d tries left, want 3", n)
	}
}

// TestPINForgotten checks that nobody can use the card with our PIN afterwards.
func TestPINForgotten(t *testing.T) {
	plastic := virtual.NewCard()
	card := piv.New(plastic, piv.Options{})
	public := generate(t, card, piv.SlotSignature, piv.ECDSAP256)
	session := card.NewSession(t.Context(), piv.SessionConfig{PIN: (&answer{pin: factoryPIN}).ask})
	sign(t, session, public)
	answer, err := plastic.Transmit(t.Context(), []byte{0x00, 0x20, 0x00, 0x80})
	if err != nil || !bytes.Equal(answer, []byte{0x63, 0xC3}) {
		t.Errorf("PIN status after a signature: got % X, %v, want 63 C3", answer, err)
	}
	// And the management key's authentication is gone as well.
	administer(t, card, func(*piv.Tx) error { return nil })
	err = card.Do(t.Context(), func(tx *piv.Tx) error { return tx.PutObject(piv.ObjectCHUID, []byte{1}) })
	if !errors.Is(err, smartcard.StatusSecurity) {
		t.Errorf("PUT DATA without authentication: got %v, want 6982", err)
	}
}

func TestWrongKey(t *testing.T) {
	card, _ := newCard(t)
	old := generate(t, card, piv.SlotSignature, piv.ECDSAP256)
	generate(t, card, piv.SlotSignature, piv.ECDSAP256)
	session := card.NewSession(t.Context(), piv.SessionConfig{PIN: (&answer{pin: factoryPIN}).ask})
	defer session.Close()
	if _, err := trySign(session, old); !errors.Is(err, piv.ErrWrongKey) {
		t.Errorf("got %v, want ErrWrongKey", err)
	}
}

// TestPurchase counts what the card does for one purchase: unlock the wallet
// with 9d, sign with 9c.
func TestPurchase(t *testing.T) {
	for _, tt := range []struct {
		name     string
		extended bool
		want     int // APDUs
	}{{"short", false, 14}, {"extended", true, 12}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			recorder := smartcard.NewRecorder(virtual.NewCard())
			card := piv.New(recorder, piv.Options{Extended: tt.extended})
			signPublic := generate(t, card, piv.SlotSignature, piv.ECDSAP256)
			unlockPublic := generate(t, card, piv.SlotKeyManagement, piv.RSA2048).(*rsa.PublicKey)
			sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, unlockPublic, []byte("vault key"), nil)
			if err != nil {
				t.Fatal(err)
			}
			recorder.Take()
			pin := &answer{pin: factoryPIN}
			session := card.NewSession(t.Context(), piv.SessionConfig{PIN: pin.ask})
			unlock, err := session.Decrypter(piv.SlotKeyManagement, unlockPublic)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := unlock.Decrypt(nil, sealed, &rsa.OAEPOptions{Hash: crypto.SHA256}); err != nil || string(got) != "vault key" {
				t.Fatalf("got %q, %v", got, err)
			}
			sign(t, session, signPublic)
			session.Close()
			records := recorder.Take()
			sent, received := 0, 0
			for _, r := range records {
				t.Log(r)
				sent, received = sent+r.SentBytes, received+r.ReceivedBytes
			}
			t.Logf("unlock + sign: %d APDUs, %d bytes sent, %d received, PIN asked %d times", len(records), sent, received, len(pin.asked))
			if len(records) != tt.want || len(pin.asked) != 1 {
				t.Errorf("got %d APDUs and %d questions, want %d and 1", len(records), len(pin.asked), tt.want)
			}
		})
	}
}

func TestSecretsPrintMasked(t *testing.T) {
	card, _ := newCard(t)
	public := generate(t, card, piv.SlotSignature, piv.ECDSAP256)
	session := card.NewSession(t.Context(), piv.SessionConfig{PIN: (&answer{pin: factoryPIN}).ask})
	defer session.Close()
	sign(t, session, public)
	key := piv.ManagementKey{Algorithm: piv.TripleDES, Key: piv.FactoryManagementKey()}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", key, "session", session)
	encoded, err := json.Marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []string{
		fmt.Sprintf("%v %+v %#v %s %x %d", key, key, key, key, key, key), string(encoded), log.String(),
		fmt.Sprintf("%v %+v %#v %s %x", session, session, session, session, session),
	} {
		for _, secret := range []string{factoryPIN, "49 50 51", "313233", "0x31", "0102030405", "1 2 3 4", "AQIDBAUG", "MTIzNDU2"} {
			if strings.Contains(got, secret) {
				t.Errorf("%q shows a secret", got)
			}
		}
	}
}
