package wallet

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/settest"
)

func testAccount() *set.Account {
	return &set.Account{
		PAN: set.PAN("4000000000000002"), CardExpiry: set.CardExpiry("203112"),
		CardSecret: set.NewSecret(), PANSecret: set.NewSecret(),
	}
}

func TestVault(t *testing.T) {
	t.Parallel()
	key, other := settest.RSAKey(t), settest.RSAKey(t)
	want := testAccount()
	sealed, err := seal(&key.PublicKey, want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := unseal(key, sealed)
	if err != nil {
		t.Fatal(err)
	}
	bytesOf := func(a *set.Account) [][]byte { return [][]byte{a.PAN, a.CardExpiry, a.CardSecret[:], a.PANSecret[:]} }
	if diff := cmp.Diff(bytesOf(want), bytesOf(got)); diff != "" {
		t.Error(diff)
	}
	if a, err := unseal(other, sealed); err == nil {
		t.Errorf("another key opens the vault: %v", a)
	}
	for _, b := range bytesOf(want) {
		if bytes.Contains(sealed, b) {
			t.Error("the vault shows what is in it")
		}
	}
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if a, err := unseal(key, changed); err == nil {
			t.Fatalf("octet %d changed, and it opens: %v", i, a)
		}
	}
	if _, err := unseal(key, make([]byte, vaultOctetsMax+sealedOverheadMax+1)); err == nil {
		t.Error("a vault of any size is read")
	}
}

// A file that was encrypted to the card's key for another purpose is no vault.
func TestVaultLabel(t *testing.T) {
	t.Parallel()
	key := settest.RSAKey(t)
	id, err := keyID(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	body, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &key.PublicKey, make([]byte, fileKeyOctets), []byte("a letter"))
	if err != nil {
		t.Fatal(err)
	}
	if k, err := (cardIdentity{key}).Unwrap([]*age.Stanza{{Type: stanzaType, Args: []string{id}, Body: body}}); err == nil {
		t.Errorf("unwrapped %d octets", len(k))
	}
}

// Anyone can encrypt to the card's key: a vault that does not belong to the certificate is not used.
func TestVaultSwapped(t *testing.T) {
	t.Parallel()
	key := settest.RSAKey(t)
	holder := settest.NewWorld(t).Card(t, "4111111111111111")
	c := &EnrolledCard{Certificate: holder.Endpoint.SignCert}
	var err error
	if c.vault, err = seal(&key.PublicKey, &holder.Account); err != nil {
		t.Fatal(err)
	}
	if _, err := c.account(key); err != nil {
		t.Errorf("the right vault: %v", err)
	}
	for name, change := range map[string]func(a *set.Account){
		"card number": func(a *set.Account) { a.PAN = set.PAN("4000000000000002") },
		"expiry":      func(a *set.Account) { a.CardExpiry = set.CardExpiry("209901") },
		"PANSecret":   func(a *set.Account) { a.PANSecret = set.NewSecret() },
	} {
		a := holder.Account
		change(&a)
		if c.vault, err = seal(&key.PublicKey, &a); err != nil {
			t.Fatal(err)
		}
		if _, err := c.account(key); err == nil {
			t.Errorf("a vault with another %s is used", name)
		}
	}
}

func FuzzParseVault(f *testing.F) {
	a := testAccount()
	b := append([]byte{vaultVersion, byte(len(a.PAN))}, a.PAN...)
	b = append(b, a.CardExpiry...)
	b = append(b, a.CardSecret[:]...)
	f.Add(append(b, a.PANSecret[:]...))
	f.Add([]byte{vaultVersion, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseVault(b)
		if err != nil {
			return
		}
		key := bytes.Join([][]byte{{vaultVersion, byte(len(a.PAN))}, a.PAN, a.CardExpiry, a.CardSecret[:], a.PANSecret[:]}, nil)
		if !bytes.Equal(key, b) {
			t.Errorf("an account of %d octets came from %d others", len(key), len(b))
		}
	})
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a\x1b[2Jb\r\nc\td":       "a[2Jb\nc d",
		"Z\xfcrich":               "Zürich",
		"Zürich \u202egnitirw":    "Zürich gnitirw",
		"zero\u200bwidth \x00end": "zerowidth end",
	} {
		if got := Printable([]byte(in)); got != want {
			t.Errorf("%q is shown as %q, want %q", in, got, want)
		}
	}
}
