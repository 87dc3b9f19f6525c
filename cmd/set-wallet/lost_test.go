package main

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"

	"filippo.io/age"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

// vaultReader opens a vault as anyone can who has read how it is made, with the
// key of a card. It is an age identity.
type vaultReader struct{ key crypto.Decrypter }

func (r vaultReader) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	if len(stanzas) != 1 || stanzas[0].Type != "setkit-rsa-oaep-sha256" {
		return nil, errors.New("want one stanza, for the card")
	}
	return r.key.Decrypt(nil, stanzas[0].Body, &rsa.OAEPOptions{Hash: crypto.SHA256, Label: []byte("setkit wallet vault 1")})
}

// openVault opens the only vault of a wallet with the card in a reader.
func openVault(t *testing.T, s *scene, reader string) ([]byte, error) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(s.wallet(), "wallet.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var vault []byte
	if err := db.QueryRow(`SELECT vault FROM card`).Scan(&vault); err != nil {
		t.Fatal(err)
	}
	card, err := (finder{say: func(n notice) { t.Log(n.text) }}).connect(t.Context(), reader)
	if err != nil {
		t.Fatal(err)
	}
	defer card.close()
	if err := card.use(t.Context(), (&pinEntry{source: "file:" + s.file("pin")}).session(card, "to open the vault"), nil, nil); err != nil {
		t.Fatal(err)
	}
	from, err := age.Decrypt(bytes.NewReader(vault), vaultReader{card.Decrypter()})
	if err != nil {
		return nil, err
	}
	return io.ReadAll(from)
}

// TestLostWallet has somebody find the wallet's directory: with the card it opens,
// without it nothing of the account is there, in whatever way it may be written.
func TestLostWallet(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.enroll()
	s.run(0, "", s.pay("pin", "--yes")...)
	s.shop.NewOrder()

	plain, err := openVault(t, s, s.card.Name)
	if err != nil {
		t.Fatalf("with the card: %v", err)
	}
	const secretOctets = len(set.Secret{})
	start := 2 + len(testPAN) + len(testExpiry)
	if len(plain) != start+2*secretOctets || string(plain[2:start]) != testPAN+testExpiry {
		t.Fatalf("the vault has %d octets, which are not as they should be", len(plain))
	}
	secrets := map[string][]byte{
		"PAN": []byte(testPAN), "expiry": []byte(testExpiry), "vault": plain,
		"CardSecret": plain[start : start+secretOctets], "PANSecret": plain[start+secretOctets:],
	}
	files := searchFiles(t, s.wallet(), secrets)
	t.Logf("%d files searched for %d secrets", files, len(secrets))

	plastic := virtual.NewCard()
	other := inReader(t, plastic, plastic, piv.ECDSAP256)
	if b, err := openVault(t, s, other.Name); err == nil || b != nil {
		t.Errorf("another card opens the vault: %d octets", len(b))
	}
	serial := strconv.FormatUint(uint64(s.card.Virtual.Serial()), 10)
	if _, stderr := s.run(3, "", s.pay("pin", "--yes", "--reader", other.Name)...); !strings.Contains(stderr, serial) {
		t.Errorf("another card: %s", stderr)
	}
	s.wantPayments(1)
}

// searchFiles looks for secrets in all files below dir, and counts the files.
func searchFiles(t *testing.T, dir string, secrets map[string][]byte) (files int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		lower := bytes.ToLower(b)
		for name, secret := range secrets {
			for form, text := range written(secret) {
				if bytes.Contains(b, text) || strings.HasPrefix(form, "hex") && bytes.Contains(lower, text) {
					t.Errorf("%s has the %s as %s", path, name, form)
				}
			}
		}
		return nil
	})
	if err != nil || files == 0 {
		t.Errorf("%d files, %v", files, err)
	}
	return files
}

// written gives the ways in which octets may be written. In base64 three octets
// become four characters, so there are three ways, of which the ends depend on
// the neighbours.
func written(secret []byte) map[string][]byte {
	forms := map[string][]byte{"plain octets": secret, "hex": []byte(hex.EncodeToString(secret))}
	for shift := range 3 {
		for name, encoding := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
			text := encoding.EncodeToString(append(make([]byte, shift), secret...))
			first := []int{0, 2, 3}[shift]
			forms[name+" "+strconv.Itoa(shift)] = []byte(text[first : (len(secret)+shift)/3*4])
		}
	}
	var wide []byte
	for _, c := range utf16.Encode([]rune(string(secret))) {
		wide = append(wide, byte(c), byte(c>>8))
	}
	forms["UTF-16"] = wide
	const byChance = 4 // octets that may be anywhere
	if digits := string(secret); strings.Trim(digits, "0123456789") == "" && len(digits)%2 == 0 && len(digits) > 2*byChance {
		forms["BCD"], _ = hex.DecodeString(digits)
	}
	return forms
}

// TestWritten checks that the search finds what it looks for.
func TestWritten(t *testing.T) {
	t.Parallel()
	secret := []byte(testPAN)
	text := []byte("x" + base64.StdEncoding.EncodeToString([]byte("ab"+testPAN+"c")))
	if !bytes.Contains(text, written(secret)["base64 2"]) {
		t.Errorf("%q does not contain %q", text, written(secret)["base64 2"])
	}
	text = []byte(base64.StdEncoding.EncodeToString([]byte("a" + testPAN + "cd")))
	if !bytes.Contains(text, written(secret)["base64 1"]) {
		t.Errorf("%q does not contain %q", text, written(secret)["base64 1"])
	}
	text = []byte(base64.StdEncoding.EncodeToString([]byte(testPAN + "cd")))
	if !bytes.Contains(text, written(secret)["base64 0"]) {
		t.Errorf("%q does not contain %q", text, written(secret)["base64 0"])
	}
}
