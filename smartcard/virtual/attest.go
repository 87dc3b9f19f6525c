package virtual

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
)

// tagAttestation is the object with the certificate of the key in slot F9.
const tagAttestation iso7816.Tag = 0x5FFF01

// A card has no clock: its certificates have the dates of its maker's.
var (
	makerSince = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	makerUntil = time.Date(2049, 12, 31, 0, 0, 0, 0, time.UTC)
)

// What an attestation says besides the public key, as the YubiKey writes it:
// firmware, serial number, PIN and touch policy, form factor.
var (
	oidFirmware   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3, 3}
	oidSerial     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3, 7}
	oidPolicy     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3, 8}
	oidFormFactor = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3, 9}
)

const formFactorUSBA = 0x01

// maker is the CA of the cards that this process makes. Its key is kept nowhere.
var maker = sync.OnceValues(func() (issuer, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return issuer{}, err
	}
	template := authorityTemplate("SET virtual card maker")
	template.MaxPathLen = 1
	certificate, err := certify(template, private.Public(), issuer{template, private})
	return issuer{certificate, private}, err
})

// issuer is what signs certificates.
type issuer struct {
	certificate *x509.Certificate
	private     crypto.Signer
}

// Maker returns the certificate, DER, of the CA of the card's maker. It signed
// the certificate of the key in slot F9, which attests the keys that the card
// has generated. All cards that a process makes have the same maker.
func (c *Card) Maker() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.maker
}

// equip gives the card the key that attests others, with its certificate and
// that of its maker. A card that could not be equipped attests nothing.
func (m *memory) equip() error {
	maker, err := maker()
	if err != nil {
		return err
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := authorityTemplate(fmt.Sprintf("SET virtual card %d attestation", m.serial))
	template.MaxPathLenZero = true
	certificate, err := certify(template, private.Public(), maker)
	if err != nil {
		return err
	}
	m.maker, m.attestation = maker.certificate.Raw, certificate.Raw
	m.keys[slotAttestation] = &key{algorithm: algECP256, pinPolicy: policyNever, touch: policyNever, origin: originImported, private: private}
	return nil
}

// attest certifies that the key of a slot was generated on this card. It cannot
// for X25519: package x509 makes no certificates for such keys.
func (c *Card) attest(cmd iso7816.Command) ([]byte, smartcard.Status) {
	if !keySlot(cmd.P1) || cmd.P2 != 0x00 || len(cmd.Data) > 0 {
		return nil, smartcard.StatusWrongParameters
	}
	k := c.keys[cmd.P1]
	if k == nil {
		return nil, smartcard.StatusNoReference
	}
	if k.origin != originGenerated {
		return nil, smartcard.StatusConditions
	}
	if k.algorithm == algX25519 {
		return nil, smartcard.StatusFunction
	}
	own, err := x509.ParseCertificate(c.attestation)
	if err != nil {
		return nil, smartcard.StatusUnknown
	}
	serial, err := asn1.Marshal(int64(c.serial))
	if err != nil {
		return nil, smartcard.StatusUnknown
	}
	template := &x509.Certificate{
		// Programs read the slot from this name.
		Subject:      pkix.Name{CommonName: fmt.Sprintf("YubiKey PIV Attestation %02x", cmd.P1)},
		SerialNumber: randomSerial(),
		NotBefore:    makerSince,
		NotAfter:     makerUntil,
		ExtraExtensions: []pkix.Extension{
			{Id: oidFirmware, Value: c.firmware[:]},
			{Id: oidSerial, Value: serial},
			{Id: oidPolicy, Value: []byte{k.pinPolicy, k.touch}},
			{Id: oidFormFactor, Value: []byte{formFactorUSBA}},
		},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, own, k.public(), c.keys[slotAttestation].private)
	if err != nil {
		return nil, smartcard.StatusUnknown
	}
	return der, smartcard.StatusOK
}

// certificateObject is the inside of a certificate's data object: the
// certificate, "not compressed", and an empty checksum.
func certificateObject(der []byte) []byte {
	b := iso7816.AppendTLV(nil, 0x70, der)
	b = iso7816.AppendTLV(b, 0x71, []byte{0x00})
	return iso7816.AppendTLV(b, 0xFE, nil)
}

func authorityTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		SerialNumber:          randomSerial(),
		NotBefore:             makerSince,
		NotAfter:              makerUntil,
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
}

func certify(template *x509.Certificate, public crypto.PublicKey, by issuer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, by.certificate, public, by.private)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// randomSerial makes a certificate's serial number.
func randomSerial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	b[0] = b[0]&0x7F | 0x40
	return new(big.Int).SetBytes(b)
}
