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
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"slices"
	"testing"
	"time"

	pivgo "github.com/go-piv/piv-go/v2/piv"

	"github.com/setkit/setkit/smartcard/cardtest"
	"github.com/setkit/setkit/smartcard/virtual"
)

// openPIVGo opens a new card with piv-go. It is alone with the card until the
// test ends.
func openPIVGo(t *testing.T, f virtual.Firmware) (*pivgo.YubiKey, *virtual.Card) {
	t.Helper()
	card, reader := virtual.New(f), cardtest.NewReader(t)
	reader.Plug(card)
	readers, err := pivgo.Cards()
	if err != nil || !slices.Contains(readers, reader.Name) {
		t.Fatalf("readers %q, %v; want %q among them", readers, err, reader.Name)
	}
	yk, err := pivgo.Open(reader.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := yk.Close(); err != nil {
			t.Error(err)
		}
	})
	return yk, card
}

// generatePIVGo makes a key and opens it.
func generatePIVGo(t *testing.T, yk *pivgo.YubiKey, slot pivgo.Slot, key pivgo.Key) (crypto.PublicKey, crypto.PrivateKey) {
	t.Helper()
	key.TouchPolicy = pivgo.TouchPolicyNever
	public, err := yk.GenerateKey(pivgo.DefaultManagementKey, slot, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := yk.PrivateKey(slot, public, pivgo.KeyAuth{PIN: pivgo.DefaultPIN})
	if err != nil {
		t.Fatal(err)
	}
	return public, private
}

// signPIVGo signs, in the way of the key, and checks the signature.
func signPIVGo(t *testing.T, public crypto.PublicKey, private crypto.PrivateKey) {
	t.Helper()
	message := []byte("one order")
	digest := sha256.Sum256(message)
	sign := func(text []byte, opts crypto.SignerOpts) []byte {
		signature, err := private.(crypto.Signer).Sign(rand.Reader, text, opts)
		if err != nil {
			t.Errorf("sign with %T: %v", public, err)
		}
		return signature
	}
	ok := false
	switch public := public.(type) {
	case *rsa.PublicKey:
		pss := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
		ok = rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], sign(digest[:], crypto.SHA256)) == nil &&
			rsa.VerifyPSS(public, crypto.SHA256, digest[:], sign(digest[:], pss), pss) == nil
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(public, digest[:], sign(digest[:], crypto.SHA256))
	case ed25519.PublicKey:
		ok = ed25519.Verify(public, message, sign(message, crypto.Hash(0)))
	}
	if !ok {
		t.Errorf("a signature with %T is wrong", public)
	}
}

// TestPIVGo lets piv-go, a library that knows nothing of this package, do all that
// it can with keys.
func TestPIVGo(t *testing.T) {
	t.Parallel()
	for _, f := range []virtual.Firmware{virtual.Firmware54, virtual.Firmware57} {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			yk, card := openPIVGo(t, f)
			if v := yk.Version(); v != (pivgo.Version{Major: int(f[0]), Minor: int(f[1]), Patch: int(f[2])}) {
				t.Errorf("version %+v, want %v", v, f)
			}
			if serial, err := yk.Serial(); err != nil || serial != card.Serial() {
				t.Errorf("serial number %d, %v; want %d", serial, err, card.Serial())
			}
			always := pivgo.Key{Algorithm: pivgo.AlgorithmEC256, PINPolicy: pivgo.PINPolicyAlways}
			public, private := generatePIVGo(t, yk, pivgo.SlotSignature, always)
			signPIVGo(t, public, private)
			testPIVGoAttestation(t, yk, card, public)
			testPIVGoCertificate(t, yk, public, private)

			once := pivgo.Key{Algorithm: pivgo.AlgorithmRSA2048, PINPolicy: pivgo.PINPolicyOnce}
			public, private = generatePIVGo(t, yk, pivgo.SlotAuthentication, once)
			signPIVGo(t, public, private)
			sealed, err := rsa.EncryptPKCS1v15(rand.Reader, public.(*rsa.PublicKey), []byte("a secret"))
			if err != nil {
				t.Fatal(err)
			}
			opened, err := private.(crypto.Decrypter).Decrypt(rand.Reader, sealed, nil)
			if err != nil || string(opened) != "a secret" {
				t.Errorf("decrypted %q, %v", opened, err)
			}
			testPIVGoAgreement(t, yk)
			testPIVGoImport(t, yk)
			if f == virtual.Firmware57 {
				public, private = generatePIVGo(t, yk, pivgo.SlotSignature, pivgo.Key{Algorithm: pivgo.AlgorithmEd25519, PINPolicy: pivgo.PINPolicyAlways})
				signPIVGo(t, public, private)
			}
		})
	}
}

// testPIVGoAttestation checks what the card says of the key in 9c, up to the
// card's maker.
func testPIVGoAttestation(t *testing.T, yk *pivgo.YubiKey, card *virtual.Card, public crypto.PublicKey) {
	own, err := yk.AttestationCertificate()
	if err != nil {
		t.Fatal(err)
	}
	statement, err := yk.Attest(pivgo.SlotSignature)
	if err != nil {
		t.Fatal(err)
	}
	maker, err := x509.ParseCertificate(card.Maker())
	if err != nil {
		t.Fatal(err)
	}
	verifier := pivgo.Verifier{Roots: x509.NewCertPool()}
	verifier.Roots.AddCert(maker)
	got, err := verifier.Verify(own, statement)
	if err != nil {
		t.Fatal(err)
	}
	if got.Serial != card.Serial() || got.Slot != pivgo.SlotSignature || got.Version != yk.Version() ||
		got.PINPolicy != pivgo.PINPolicyAlways || got.TouchPolicy != pivgo.TouchPolicyNever {
		t.Errorf("the attestation says %+v", got)
	}
	if !public.(*ecdsa.PublicKey).Equal(statement.PublicKey) {
		t.Error("the attestation is about another key")
	}
	if _, err := yk.Attest(pivgo.SlotKeyManagement); !errors.Is(err, pivgo.ErrNotFound) {
		t.Errorf("attestation of an empty slot: got %v, want %v", err, pivgo.ErrNotFound)
	}
}

// testPIVGoCertificate has the key in 9c make its own certificate, and keeps it.
func testPIVGoCertificate(t *testing.T, yk *pivgo.YubiKey, public crypto.PublicKey, private crypto.PrivateKey) {
	if _, err := yk.Certificate(pivgo.SlotSignature); !errors.Is(err, pivgo.ErrNotFound) {
		t.Errorf("certificate of a slot without: got %v, want %v", err, pivgo.ErrNotFound)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "holder"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private) // checks the signature
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := yk.SetCertificate(pivgo.DefaultManagementKey, pivgo.SlotSignature, cert); err != nil {
		t.Fatal(err)
	}
	if got, err := yk.Certificate(pivgo.SlotSignature); err != nil || !got.Equal(cert) {
		t.Errorf("certificate: %v, or another one", err)
	}
}

func testPIVGoAgreement(t *testing.T, yk *pivgo.YubiKey) {
	public, private := generatePIVGo(t, yk, pivgo.SlotKeyManagement, pivgo.Key{Algorithm: pivgo.AlgorithmEC384, PINPolicy: pivgo.PINPolicyOnce})
	other, err := ecdh.P384().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := public.(*ecdsa.PublicKey).ECDH()
	if err != nil {
		t.Fatal(err)
	}
	want, err := other.ECDH(ours)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := private.(*pivgo.ECDSAPrivateKey).ECDH(other.PublicKey()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the shared secrets differ: %v", err)
	}
}

// testPIVGoImport puts keys from outside into slots, of which the card says so.
func testPIVGoImport(t *testing.T, yk *pivgo.YubiKey) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	big, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	retired, _ := pivgo.RetiredKeyManagementSlot(0x95)
	for slot, key := range map[pivgo.Slot]crypto.Signer{pivgo.SlotCardAuthentication: ec, retired: big} {
		policy := pivgo.Key{PINPolicy: pivgo.PINPolicyNever, TouchPolicy: pivgo.TouchPolicyNever}
		if err := yk.SetPrivateKeyInsecure(pivgo.DefaultManagementKey, slot, key, policy); err != nil {
			t.Fatal(err)
		}
		private, err := yk.PrivateKey(slot, key.Public(), pivgo.KeyAuth{})
		if err != nil {
			t.Fatal(err)
		}
		signPIVGo(t, key.Public(), private)
		info, err := yk.KeyInfo(slot)
		if err != nil {
			t.Fatal(err)
		}
		same := info.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public())
		if !same || info.Origin != pivgo.OriginImported || info.PINPolicy != pivgo.PINPolicyNever {
			t.Errorf("slot %v: the card says %+v", slot, info)
		}
		if _, err := yk.Attest(slot); err == nil {
			t.Errorf("slot %v: the card attests a key that it did not make", slot)
		}
	}
	info, err := yk.KeyInfo(pivgo.SlotSignature)
	if err != nil || info.Origin != pivgo.OriginGenerated || info.Algorithm != pivgo.AlgorithmEC256 || info.PINPolicy != pivgo.PINPolicyAlways {
		t.Errorf("9c: the card says %+v, %v", info, err)
	}
}

// TestPIVGoSecrets changes PIN, PUK and management key with piv-go, blocks and
// unblocks, and resets the card.
func TestPIVGoSecrets(t *testing.T) {
	t.Parallel()
	yk, _ := openPIVGo(t, virtual.Firmware54)
	good := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused := func(what string, err error, tries int) {
		t.Helper()
		if auth, ok := errors.AsType[pivgo.AuthErr](err); !ok || auth.Retries != tries {
			t.Errorf("%s: got %v, want %d tries left", what, err, tries)
		}
	}
	good("PIN", yk.SetPIN(pivgo.DefaultPIN, "654321"))
	refused("old PIN", yk.VerifyPIN(pivgo.DefaultPIN), 2)
	refused("old PIN again", yk.VerifyPIN(pivgo.DefaultPIN), 1)
	if n, err := yk.Retries(); err != nil || n != 1 {
		t.Errorf("%d tries, %v; want 1", n, err)
	}
	refused("old PIN, the last time", yk.VerifyPIN(pivgo.DefaultPIN), 0)
	refused("blocked", yk.VerifyPIN("654321"), 0)
	good("PUK", yk.SetPUK(pivgo.DefaultPUK, "87654321"))
	refused("old PUK", yk.Unblock(pivgo.DefaultPUK, "123456"), 2)
	good("unblock", yk.Unblock("87654321", "123456"))
	good("verify", yk.VerifyPIN("123456"))

	for _, n := range []int{16, 24, 32} {
		key := make([]byte, n)
		rand.Read(key) // never fails
		good("management key", yk.SetManagementKey(pivgo.DefaultManagementKey, key))
		if err := yk.SetManagementKey(pivgo.DefaultManagementKey, key); err == nil {
			t.Errorf("%d bytes: the old management key is still good", n)
		}
		if n == 24 { // piv-go writes the others with this length, and cannot read them
			good("keep it on the card", yk.SetMetadata(key, &pivgo.Metadata{ManagementKey: &key}))
			m, err := yk.Metadata("123456")
			if err != nil || m.ManagementKey == nil || !bytes.Equal(*m.ManagementKey, key) {
				t.Errorf("the card has kept %+v, %v; want its management key", m, err)
			}
		}
		good("management key of old", yk.SetManagementKey(key, pivgo.DefaultManagementKey))
	}
	good("tries", yk.SetRetries(pivgo.DefaultManagementKey, "123456", 5, 4))
	refused("wrong PIN of five tries", yk.VerifyPIN("000000"), 4)

	generatePIVGo(t, yk, pivgo.SlotSignature, pivgo.Key{Algorithm: pivgo.AlgorithmEC256, PINPolicy: pivgo.PINPolicyAlways})
	good("reset", yk.Reset())
	if _, err := yk.KeyInfo(pivgo.SlotSignature); !errors.Is(err, pivgo.ErrNotFound) {
		t.Errorf("key after a reset: got %v, want %v", err, pivgo.ErrNotFound)
	}
	if n, err := yk.Retries(); err != nil || n != 3 {
		t.Errorf("%d tries after a reset, %v; want 3", n, err)
	}
	good("PIN of the factory", yk.VerifyPIN(pivgo.DefaultPIN))
}
