package wallet

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
)

// The vault is an age file with one recipient stanza of our own: the file key under RSAES-OAEP with
// SHA-256 and a label, for the key-management key of the smart card. Inside is
//
//	version(1) | length of PAN(1) | PAN | expiry(6) | CardSecret(20) | PANSecret(20)
const (
	stanzaType      = "setkit-rsa-oaep-sha256"
	vaultVersion    = 1
	vaultKeyBitsMin = 2048

	vaultOctetsMax    = 128     // of the plaintext
	sealedOverheadMax = 4 << 10 // of the age file, beside the plaintext
	fileKeyOctets     = 16
	expiryOctets      = 6
	secretOctets      = 20
	vaultHeaderOctets = 2
)

// oaepLabel keeps what was encrypted to the card for another purpose from being taken for a vault.
var oaepLabel = []byte("setkit wallet vault 1")

// ErrVault is every way in which a vault can be broken.
var ErrVault = errors.New("the vault is damaged, or is not of this card")

// cardRecipient wraps a file key for the smart card.
type cardRecipient struct{ key *rsa.PublicKey }

var _ age.Recipient = cardRecipient{}

func (r cardRecipient) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	id, err := keyID(r.key)
	if err != nil {
		return nil, err
	}
	body, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, r.key, fileKey, oaepLabel)
	if err != nil {
		return nil, err
	}
	return []*age.Stanza{{Type: stanzaType, Args: []string{id}, Body: body}}, nil
}

// cardIdentity unwraps a file key with the smart card.
type cardIdentity struct{ key crypto.Decrypter }

var _ age.Identity = cardIdentity{}

func (i cardIdentity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	id, err := keyID(i.key.Public())
	if err != nil {
		return nil, err
	}
	for _, s := range stanzas {
		if s.Type != stanzaType || len(s.Args) != 1 || s.Args[0] != id {
			continue
		}
		fileKey, err := i.key.Decrypt(rand.Reader, s.Body, &rsa.OAEPOptions{Hash: crypto.SHA256, Label: oaepLabel})
		if errors.Is(err, rsa.ErrDecryption) || err == nil && len(fileKey) != fileKeyOctets {
			return nil, ErrVault
		}
		return fileKey, err
	}
	return nil, age.ErrIncorrectIdentity
}

// keyID names a public key in a stanza.
func keyID(key crypto.PublicKey) (string, error) {
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("key of the vault: %w", err)
	}
	digest := sha256.Sum256(spki)
	return base64.RawStdEncoding.EncodeToString(digest[:]), nil
}

// vaultKey checks that a key can protect a vault.
func vaultKey(key crypto.PublicKey) (*rsa.PublicKey, error) {
	public, ok := key.(*rsa.PublicKey)
	if !ok || public.N.BitLen() < vaultKeyBitsMin {
		return nil, fmt.Errorf("the smart card's key for the vault is no RSA key of at least %d bits: personalise the card anew", vaultKeyBitsMin)
	}
	return public, nil
}

// seal encrypts the account to the smart card's key.
func seal(key *rsa.PublicKey, a *set.Account) ([]byte, error) {
	plain := make([]byte, 0, vaultOctetsMax)
	defer func() { clear(plain[:cap(plain)]) }()
	plain = append(plain, vaultVersion, byte(len(a.PAN)))
	plain = append(plain, a.PAN...)
	plain = append(plain, a.CardExpiry...)
	plain = append(plain, a.CardSecret[:]...)
	plain = append(plain, a.PANSecret[:]...)
	return sealOctets(key, plain)
}

func sealOctets(key *rsa.PublicKey, plain []byte) ([]byte, error) {
	var sealed bytes.Buffer
	to, err := age.Encrypt(&sealed, cardRecipient{key})
	if err != nil {
		return nil, fmt.Errorf("seal the vault: %w", err)
	}
	if _, err := to.Write(plain); err != nil {
		return nil, fmt.Errorf("seal the vault: %w", err)
	}
	if err := to.Close(); err != nil {
		return nil, fmt.Errorf("seal the vault: %w", err)
	}
	return sealed.Bytes(), nil
}

// unseal decrypts the account with the smart card. An error of the card comes back wrapped. The caller
// clears the account.
func unseal(key crypto.Decrypter, sealed []byte) (*set.Account, error) {
	plain, err := unsealOctets(key, sealed, vaultOctetsMax)
	defer clear(plain)
	if err != nil {
		return nil, err
	}
	return parseVault(plain)
}

// unsealOctets decrypts at most plainMax octets. The caller clears them.
func unsealOctets(key crypto.Decrypter, sealed []byte, plainMax int) ([]byte, error) {
	if len(sealed) > plainMax+sealedOverheadMax {
		return nil, ErrVault
	}
	from, err := age.Decrypt(bytes.NewReader(sealed), cardIdentity{key})
	if mismatch := (*age.NoIdentityMatchError)(nil); errors.As(err, &mismatch) {
		return nil, ErrVault
	}
	if err != nil {
		return nil, fmt.Errorf("open the vault: %w", err)
	}
	plain := make([]byte, plainMax+1)
	n, err := io.ReadFull(from, plain)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		clear(plain)
		return nil, ErrVault
	}
	return plain[:n], nil
}

// parseVault reads the plaintext of a vault, and copies what it takes.
func parseVault(b []byte) (*set.Account, error) {
	if len(b) < vaultHeaderOctets || b[0] != vaultVersion || len(b) != vaultHeaderOctets+int(b[1])+expiryOctets+2*secretOctets {
		return nil, ErrVault
	}
	panEnd := vaultHeaderOctets + int(b[1])
	expiryEnd := panEnd + expiryOctets
	pan, err := set.ParsePAN(b[vaultHeaderOctets:panEnd])
	if err != nil {
		return nil, ErrVault
	}
	expiry, err := set.ParseCardExpiry(b[panEnd:expiryEnd])
	if err != nil {
		clear(pan)
		return nil, ErrVault
	}
	a := &set.Account{PAN: pan, CardExpiry: expiry}
	copy(a.CardSecret[:], b[expiryEnd:])
	copy(a.PANSecret[:], b[expiryEnd+secretOctets:])
	return a, nil
}

// account opens a card's vault. Anyone can encrypt to the card, so the account is held against the
// certificate, which only PANSecret and the right card number fit (SET §6.4).
func (c *EnrolledCard) account(key crypto.Decrypter) (*set.Account, error) {
	a, err := unseal(key, c.vault)
	if err != nil {
		return nil, err
	}
	id, err := pki.UniqueCardholderID(a.PANSecret[:], a.PAN, a.CardExpiry)
	if err != nil || subtle.ConstantTimeCompare([]byte(id), []byte(c.Certificate.Subject.CommonName)) != 1 {
		a.Clear()
		return nil, ErrVault
	}
	return a, nil
}
