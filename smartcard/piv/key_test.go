package piv_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"testing"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

// openSession starts a session that knows the factory's PIN.
func openSession(t testing.TB, card *piv.Card) *piv.Session {
	s := card.NewSession(t.Context(), piv.SessionConfig{PIN: (&answer{pin: factoryPIN}).ask})
	t.Cleanup(s.Close)
	return s
}

func TestPSS(t *testing.T) {
	t.Parallel()
	card, _ := newCard(t)
	public := generate(t, card, piv.SlotSignature, piv.RSA2048).(*rsa.PublicKey)
	signer, err := openSession(t, card).Signer(piv.SlotSignature, public)
	if err != nil {
		t.Fatal(err)
	}
	d256, d512 := sha256.Sum256([]byte("x")), sha512.Sum512([]byte("x"))
	for _, tt := range []struct {
		digest []byte
		opts   *rsa.PSSOptions
	}{
		{d256[:], &rsa.PSSOptions{Hash: crypto.SHA256}},
		{d256[:], &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: rsa.PSSSaltLengthEqualsHash}},
		{d512[:], &rsa.PSSOptions{Hash: crypto.SHA512, SaltLength: 7}},
	} {
		sig, err := signer.Sign(nil, tt.digest, tt.opts)
		if err != nil {
			t.Fatal(err)
		}
		if err := rsa.VerifyPSS(public, tt.opts.Hash, tt.digest, sig, tt.opts); err != nil {
			t.Errorf("%+v: %v", tt.opts, err)
		}
	}
}

func TestECDH(t *testing.T) {
	t.Parallel()
	for a, curve := range map[piv.Algorithm]ecdh.Curve{piv.ECDSAP256: ecdh.P256(), piv.ECDSAP384: ecdh.P384()} {
		card, _ := newCard(t)
		public := generate(t, card, piv.SlotKeyManagement, a).(*ecdsa.PublicKey)
		key, err := openSession(t, card).KeyExchanger(piv.SlotKeyManagement, public)
		if err != nil {
			t.Fatal(err)
		}
		other, err := curve.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		got, err := key.ECDH(other.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		if want, err := other.ECDH(key.PublicKey()); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: the shared secrets differ: %v", a, err)
		}
		foreign, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := key.ECDH(foreign.PublicKey()); err == nil {
			t.Errorf("%v: no error for a key on another curve", a)
		}
	}
}

func TestKeyUses(t *testing.T) {
	card, recorder := newCard(t)
	session := openSession(t, card)
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	montgomery, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, use := range map[string]func() error{
		"signing with X25519": func() error {
			_, err := session.Signer(piv.SlotSignature, montgomery.PublicKey())
			return err
		},
		"agreeing with Ed25519": func() error {
			_, err := session.KeyExchanger(piv.SlotKeyManagement, edwards.Public())
			return err
		},
		"decrypting with Ed25519": func() error {
			_, err := session.Decrypter(piv.SlotKeyManagement, edwards.Public())
			return err
		},
		"Ed25519ph": func() error {
			signer, err := session.Signer(piv.SlotSignature, edwards.Public())
			if err != nil {
				t.Fatal(err)
			}
			_, err = signer.Sign(nil, make([]byte, 64), &ed25519.Options{Hash: crypto.SHA512})
			return err
		},
		"no key": func() error {
			_, err := session.Signer(piv.SlotSignature, nil)
			return err
		},
	} {
		if err := use(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if n := len(recorder.Take()); n > 0 {
		t.Errorf("%d commands were sent", n)
	}
}

// TestTxKeys uses the keys inside one transaction, as the caller arranges it.
func TestTxKeys(t *testing.T) {
	t.Parallel()
	card, recorder := newCard(t)
	sign := generate(t, card, piv.SlotSignature, piv.ECDSAP256)
	unlock := generate(t, card, piv.SlotKeyManagement, piv.RSA2048).(*rsa.PublicKey)
	agree := generate(t, card, piv.SlotAuthentication, piv.ECDSAP384)
	sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, unlock, []byte("vault key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdh.P384().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("x"))
	recorder.Take()
	do(t, card, func(tx *piv.Tx) error {
		signer, err := tx.Signer(piv.SlotSignature, sign)
		if err != nil {
			return err
		}
		if _, err := signer.Sign(nil, digest[:], crypto.SHA256); !errors.Is(err, smartcard.StatusSecurity) {
			t.Errorf("without PIN: got %v, want 6982", err)
		}
		if err := tx.VerifyPIN([]byte(factoryPIN)); err != nil {
			return err
		}
		if _, err := signer.Sign(nil, digest[:], crypto.SHA256); err != nil {
			return err
		}
		if _, err := signer.Sign(nil, digest[:], crypto.SHA256); !errors.Is(err, smartcard.StatusSecurity) {
			t.Errorf("9c without a new PIN: got %v, want 6982", err)
		}
		decrypter, err := tx.Decrypter(piv.SlotKeyManagement, unlock)
		if err != nil {
			return err
		}
		if got, err := decrypter.Decrypt(nil, sealed, &rsa.OAEPOptions{Hash: crypto.SHA256}); err != nil || string(got) != "vault key" {
			t.Errorf("got %q, %v", got, err)
		}
		exchanger, err := tx.KeyExchanger(piv.SlotAuthentication, agree)
		if err != nil {
			return err
		}
		_, err = exchanger.ECDH(other.PublicKey())
		return err
	})
	if n := count(recorder.Take(), 0x20); n != 2 { // and its withdrawal
		t.Errorf("%d VERIFY commands, want 2", n)
	}
}

// TestPolicyOf9E gives the card authentication key a policy that it doesn't
// usually have.
func TestPolicyOf9E(t *testing.T) {
	card, _ := newCard(t)
	var public crypto.PublicKey
	administer(t, card, func(tx *piv.Tx) (err error) {
		public, err = tx.Generate(piv.SlotCardAuthentication, piv.ECDSAP256, piv.PINPolicyAlways)
		return err
	})
	pin := &answer{pin: factoryPIN}
	session := card.NewSession(t.Context(), piv.SessionConfig{PIN: pin.ask})
	defer session.Close()
	signer, err := session.Signer(piv.SlotCardAuthentication, public)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("x"))
	for range 2 {
		if _, err := signer.Sign(nil, digest[:], crypto.SHA256); err != nil {
			t.Fatal(err)
		}
	}
	if len(pin.asked) != 1 {
		t.Errorf("asked for the PIN %d times, want 1", len(pin.asked))
	}
}

func TestRetiredSlots(t *testing.T) {
	t.Parallel()
	card, _ := newCard(t)
	slots := piv.RetiredSlots()
	if len(slots) != 20 || slots[0].String() != "82" || slots[19].String() != "95" {
		t.Fatalf("got %v", slots)
	}
	for i, slot := range []piv.Slot{slots[0], slots[19]} {
		public := generate(t, card, slot, piv.ECDSAP256)
		signer, err := openSession(t, card).Signer(slot, public)
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256([]byte("x"))
		if _, err := signer.Sign(nil, digest[:], crypto.SHA256); err != nil {
			t.Errorf("slot %v: %v", slot, err)
		}
		nine := generate(t, card, piv.SlotSignature, piv.ECDSAP256)
		cert := selfSigned(t, card, nine)
		administer(t, card, func(tx *piv.Tx) error { return tx.PutCertificate(slot, cert) })
		do(t, card, func(tx *piv.Tx) error {
			if got, err := tx.Certificate(slot); err != nil || !got.Equal(cert) {
				t.Errorf("slot %v: another certificate, %v", slot, err)
			}
			// SP 800-73-4 part 1, table 3
			_, err := tx.Object([]piv.ObjectID{0x5FC10D, 0x5FC120}[i])
			return err
		})
	}
}

func TestParseSlot(t *testing.T) {
	for _, s := range append(append(piv.Slots(), piv.RetiredSlots()...), piv.SlotAttestation) {
		if got, err := piv.ParseSlot(s.String()); err != nil || got != s {
			t.Errorf("%v: got %v, %v", s, got, err)
		}
	}
	if got, err := piv.ParseSlot("9C"); err != nil || got != piv.SlotSignature {
		t.Errorf("9C: got %v, %v", got, err)
	}
	for _, bad := range []string{"", "9", "9b", "81", "96", "09c", "+9c", "zz"} {
		if got, err := piv.ParseSlot(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}

func TestAlgorithmNames(t *testing.T) {
	for _, a := range []piv.Algorithm{piv.RSA2048, piv.RSA3072, piv.RSA4096, piv.ECDSAP256, piv.ECDSAP384, piv.Ed25519, piv.X25519} {
		if got, err := piv.ParseAlgorithm(a.String()); err != nil || got != a {
			t.Errorf("%v: got %v, %v", a, got, err)
		}
	}
	if _, err := piv.ParseAlgorithm("rsa-1024"); err == nil {
		t.Error("rsa-1024: no error")
	}
	if got := fmt.Sprint(piv.Algorithm(0x06)); got != "algorithm 06" {
		t.Errorf("got %q", got)
	}
}

func TestSecretInfo(t *testing.T) {
	card, _ := newCard(t)
	wantInfo := func(wantPIN, wantPUK piv.SecretInfo, wantDefault bool) {
		t.Helper()
		do(t, card, func(tx *piv.Tx) error {
			pin, err := tx.PINInfo()
			if err != nil || pin != wantPIN {
				t.Errorf("PIN: got %+v, %v, want %+v", pin, err, wantPIN)
			}
			puk, err := tx.PUKInfo()
			if err != nil || puk != wantPUK {
				t.Errorf("PUK: got %+v, %v, want %+v", puk, err, wantPUK)
			}
			key, err := tx.ManagementKeyInfo()
			if key.Default != wantDefault || key.Algorithm.KeyBytes() == 0 {
				t.Errorf("management key: got %+v", key)
			}
			return err
		})
	}
	fresh := piv.SecretInfo{Default: true, Tries: 3, TriesLeft: 3}
	wantInfo(fresh, fresh, true)
	administer(t, card, func(tx *piv.Tx) error {
		wantPINError(t, tx.VerifyPIN([]byte("000000")), 2)
		wantPINError(t, tx.ChangePUK([]byte("00000000"), []byte("00000000")), 2)
		if err := tx.ChangePIN([]byte(factoryPIN), []byte("654321")); err != nil {
			return err
		}
		return tx.SetManagementKey(piv.ManagementKey{Algorithm: piv.AES128, Key: make([]byte, 16)})
	})
	wantInfo(piv.SecretInfo{Tries: 3, TriesLeft: 3}, piv.SecretInfo{Default: true, Tries: 3, TriesLeft: 2}, false)
}

func TestUnsupported(t *testing.T) {
	card := piv.New(plain{virtual.NewCard()}, piv.Options{})
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	do(t, card, func(tx *piv.Tx) error {
		for name, f := range map[string]func() error{
			"PIN":    func() error { _, err := tx.PINInfo(); return err },
			"PUK":    func() error { _, err := tx.PUKInfo(); return err },
			"key":    func() error { _, err := tx.ManagementKeyInfo(); return err },
			"attest": func() error { _, err := tx.Attest(piv.SlotSignature); return err },
			"import": func() error { return tx.Import(piv.SlotSignature, edwards, piv.PINPolicyDefault) },
			"set": func() error {
				return tx.SetManagementKey(piv.ManagementKey{Algorithm: piv.AES128, Key: make([]byte, 16)})
			},
		} {
			if err := f(); !errors.Is(err, piv.ErrUnsupported) || !errors.Is(err, smartcard.StatusInstruction) {
				t.Errorf("%s: got %v, want ErrUnsupported and 6D00", name, err)
			}
		}
		return nil
	})
}
