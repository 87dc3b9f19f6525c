package cms

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/setkit/setkit/roles/set/der"
)

// Sizes in octets of what AES-256-GCM uses.
const (
	contentKeyOctets = 32
	nonceOctets      = 12
	tagOctets        = 16
)

type authEnvelopedData struct {
	Version        int64
	RecipientInfos []recipientInfo `der:"set size=1..1"`
	EncryptedInfo  encryptedContentInfo
	MAC            [tagOctets]byte
}

type recipientInfo struct {
	der.Choice
	KeyTrans *keyTransRecipientInfo
	KEK      *kekRecipientInfo `der:"[2]"`
}

type keyTransRecipientInfo struct {
	Version                int64
	RID                    issuerAndSerial
	KeyEncryptionAlgorithm AlgorithmIdentifier
	EncryptedKey           []byte `der:"size=1..1024"`
}

type kekRecipientInfo struct {
	Version                int64
	KEKID                  kekIdentifier
	KeyEncryptionAlgorithm AlgorithmIdentifier
	EncryptedKey           []byte `der:"size=40..40"`
}

type kekIdentifier struct {
	KeyIdentifier []byte `der:"size=1..64"`
}

type encryptedContentInfo struct {
	ContentType      asn1.ObjectIdentifier
	Algorithm        AlgorithmIdentifier
	EncryptedContent []byte `der:"[0]"`
}

type gcmParameters struct {
	Nonce  [nonceOctets]byte
	ICVLen int64 `der:"default=12"`
}

// Versions that RFC 5083 §2.1 and RFC 5652 §6.2.1, §6.2.3 ask for.
const (
	authEnvelopedVersion = 0
	keyTransVersion      = 0
	kekVersion           = 4
)

// backKeyID names the only key-encryption key that two parties ever share: the back key.
const backKeyID = "SET back key"

// oaepAlgorithm is RSAES-OAEP with SHA-256 and MGF1 with SHA-256, empty label (RFC 4055 §4.1).
var oaepAlgorithm = func() AlgorithmIdentifier {
	type params struct {
		Hash AlgorithmIdentifier `der:"[0]e"`
		MGF  AlgorithmIdentifier `der:"[1]e"`
	}
	sha := AlgorithmIdentifier{oidSHA256, asn1.NullBytes}
	mgf, err := der.Marshal(sha)
	if err != nil {
		panic(err)
	}
	raw, err := der.Marshal(params{sha, AlgorithmIdentifier{oidMGF1, mgf}})
	if err != nil {
		panic(err)
	}
	return AlgorithmIdentifier{oidRSAESOAEP, raw}
}()

// BlockContents is the octet that says what the RSA block holds beside the content key (SET §3.4).
// With its high bit set, the block also holds the digest of the plaintext.
type BlockContents byte

// Block contents of SET 1.0. Plain, the E of Enc and EncB, has no such octet on the wire: its block is
// the content key alone, so that any CMS tool opens it.
const (
	Plain           BlockContents = 0x00
	WithPANData     BlockContents = 0x01 // EX: PIDualSigned
	WithPANData0    BlockContents = 0x02 // EncX: CertReq of a cardholder
	WithPANToken    BlockContents = 0x03 // EncX, EncBX: tokens and the PAN for a merchant
	WithAcctData    BlockContents = 0x05 // EncX: CertReq of a merchant or gateway
	WithHashToken   BlockContents = 0x83 // EXH: PIUnsigned
	WithHashPANOnly BlockContents = 0x84 // EXH: RegFormReq
)

func (bc BlockContents) hashed() bool { return bc&0x80 != 0 }

// Recipient is a key-exchange private key with its certificate. For a ciphertext that does not decrypt
// the key returns rsa.ErrDecryption, as Go's own does.
type Recipient struct {
	Key         crypto.Decrypter
	Certificate *x509.Certificate
}

// Encrypt is SET's E, EH, EX and EXH: v encrypted to the key of a certificate, with packed extra data in
// the RSA block as bc says. Whether the certificate may be used for this is the caller's to check.
func Encrypt(to *x509.Certificate, contentType asn1.ObjectIdentifier, v any, bc BlockContents, extra []byte) (ContentInfo, error) {
	plaintext, err := der.Marshal(v)
	if err != nil {
		return ContentInfo{}, err
	}
	defer clear(plaintext)
	pub, ok := to.PublicKey.(*rsa.PublicKey)
	if !ok || pub.N.BitLen() < RSABitsMin {
		return ContentInfo{}, fmt.Errorf("key-exchange key of certificate %x is not RSA of %d bits or more", to.SerialNumber, RSABitsMin)
	}
	key := newKey()
	defer clear(key)
	block := rsaBlock(key, plaintext, bc, extra)
	defer clear(block)
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, block, nil)
	if err != nil {
		return ContentInfo{}, err
	}
	return seal(contentType, plaintext, key, recipientInfo{KeyTrans: &keyTransRecipientInfo{
		Version: keyTransVersion, RID: identify(to), KeyEncryptionAlgorithm: oaepAlgorithm, EncryptedKey: wrapped,
	}})
}

// EncryptBack is SET's EK: v encrypted under a back key that both sides hold.
func EncryptBack(backKey []byte, contentType asn1.ObjectIdentifier, v any) (ContentInfo, error) {
	plaintext, err := der.Marshal(v)
	if err != nil {
		return ContentInfo{}, err
	}
	defer clear(plaintext)
	key := newKey()
	defer clear(key)
	wrapped, err := wrapKey(backKey, key)
	if err != nil {
		return ContentInfo{}, err
	}
	return seal(contentType, plaintext, key, recipientInfo{KEK: &kekRecipientInfo{
		Version: kekVersion, KEKID: kekIdentifier{[]byte(backKeyID)},
		KeyEncryptionAlgorithm: AlgorithmIdentifier{Algorithm: oidAES256Wrap}, EncryptedKey: wrapped,
	}})
}

func newKey() []byte {
	key := make([]byte, contentKeyOctets)
	rand.Read(key)
	return key
}

func rsaBlock(key, plaintext []byte, bc BlockContents, extra []byte) []byte {
	if bc == Plain {
		return bytes.Clone(key)
	}
	block := append([]byte{byte(bc)}, key...)
	if bc.hashed() {
		sum := sha256.Sum256(plaintext)
		block = append(block, sum[:]...)
	}
	return append(block, extra...)
}

// seal encrypts plaintext under key, which is used once.
func seal(contentType asn1.ObjectIdentifier, plaintext, key []byte, to recipientInfo) (ContentInfo, error) {
	aead, err := gcm(key)
	if err != nil {
		return ContentInfo{}, err
	}
	params := gcmParameters{ICVLen: tagOctets}
	rand.Read(params.Nonce[:])
	rawParams, err := der.Marshal(params)
	if err != nil {
		return ContentInfo{}, err
	}
	sealed := aead.Seal(nil, params.Nonce[:], plaintext, nil)
	body := authEnvelopedData{
		Version:        authEnvelopedVersion,
		RecipientInfos: []recipientInfo{to},
		EncryptedInfo: encryptedContentInfo{
			contentType, AlgorithmIdentifier{oidAES256GCM, rawParams}, sealed[:len(plaintext)],
		},
		MAC: [tagOctets]byte(sealed[len(plaintext):]),
	}
	raw, err := der.Marshal(body)
	return ContentInfo{oidAuthEnvelopedData, raw}, err
}

func gcm(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// EncryptedFor tells whether ci says that it is encrypted for the key of a certificate.
func EncryptedFor(ci ContentInfo, cert *x509.Certificate) bool {
	var body authEnvelopedData
	if !ci.ContentType.Equal(oidAuthEnvelopedData) || der.Unmarshal(ci.Content, &body) != nil {
		return false
	}
	to := body.RecipientInfos[0].KeyTrans
	return to != nil && to.RID.names(cert)
}

// Decrypt undoes Encrypt: it gives the plaintext and the packed extra data. The caller clears both when
// they are secret. Its error is ErrDecrypt whatever failed after the structure was read, but ErrDigest
// when the digest in the RSA block is not the plaintext's.
func (r Recipient) Decrypt(ci ContentInfo, contentType asn1.ObjectIdentifier, bc BlockContents) (plaintext, extra []byte, err error) {
	body, err := parseEnveloped(ci, contentType)
	if err != nil {
		return nil, nil, err
	}
	to := body.RecipientInfos[0].KeyTrans
	if to == nil || to.Version != keyTransVersion || !sameAlgorithm(to.KeyEncryptionAlgorithm, oaepAlgorithm) {
		return nil, nil, fmt.Errorf("%w: want one RSAES-OAEP recipient", ErrMalformed)
	}
	if !to.RID.names(r.Certificate) {
		return nil, nil, fmt.Errorf("%w: encrypted for another certificate", ErrDecrypt)
	}
	block, err := r.Key.Decrypt(rand.Reader, to.EncryptedKey, &rsa.OAEPOptions{Hash: crypto.SHA256})
	if err != nil {
		// Every other error is the device's, and says nothing of the ciphertext.
		if errors.Is(err, rsa.ErrDecryption) {
			return nil, nil, ErrDecrypt
		}
		return nil, nil, fmt.Errorf("key-exchange key: %w", err)
	}
	defer clear(block)
	key, hash, extra, ok := splitBlock(block, bc)
	if !ok {
		return nil, nil, ErrDecrypt
	}
	plaintext, err = unseal(body, key)
	if err != nil {
		return nil, nil, err
	}
	if bc.hashed() {
		if sum := sha256.Sum256(plaintext); !bytes.Equal(sum[:], hash) {
			return nil, nil, fmt.Errorf("%w: of the plaintext", ErrDigest)
		}
	}
	return plaintext, bytes.Clone(extra), nil
}

// DecryptBack undoes EncryptBack.
func DecryptBack(backKey []byte, ci ContentInfo, contentType asn1.ObjectIdentifier) ([]byte, error) {
	body, err := parseEnveloped(ci, contentType)
	if err != nil {
		return nil, err
	}
	to := body.RecipientInfos[0].KEK
	if to == nil || to.Version != kekVersion || !to.KeyEncryptionAlgorithm.Algorithm.Equal(oidAES256Wrap) ||
		string(to.KEKID.KeyIdentifier) != backKeyID {
		return nil, fmt.Errorf("%w: want one recipient under the back key", ErrMalformed)
	}
	key, err := unwrapKey(backKey, to.EncryptedKey)
	if err != nil {
		return nil, ErrDecrypt
	}
	defer clear(key)
	return unseal(body, key)
}

func parseEnveloped(ci ContentInfo, contentType asn1.ObjectIdentifier) (*authEnvelopedData, error) {
	if !ci.ContentType.Equal(oidAuthEnvelopedData) {
		return nil, fmt.Errorf("%w: content type %v where AuthEnvelopedData is expected", ErrMalformed, ci.ContentType)
	}
	var body authEnvelopedData
	if err := der.Unmarshal(ci.Content, &body); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if body.Version != authEnvelopedVersion || !body.EncryptedInfo.ContentType.Equal(contentType) {
		return nil, fmt.Errorf("%w: encrypted content type %v, want %v", ErrMalformed, body.EncryptedInfo.ContentType, contentType)
	}
	return &body, nil
}

func sameAlgorithm(a, b AlgorithmIdentifier) bool {
	return a.Algorithm.Equal(b.Algorithm) && bytes.Equal(a.Parameters, b.Parameters)
}

func splitBlock(block []byte, bc BlockContents) (key, hash, extra []byte, ok bool) {
	if bc == Plain {
		return block, nil, nil, len(block) == contentKeyOctets
	}
	head := 1 + contentKeyOctets
	if bc.hashed() {
		head += sha256.Size
	}
	if len(block) < head || block[0] != byte(bc) {
		return nil, nil, nil, false
	}
	return block[1 : 1+contentKeyOctets], block[1+contentKeyOctets : head], block[head:], true
}

func unseal(body *authEnvelopedData, key []byte) ([]byte, error) {
	var params gcmParameters
	alg := body.EncryptedInfo.Algorithm
	if !alg.Algorithm.Equal(oidAES256GCM) || der.Unmarshal(alg.Parameters, &params) != nil || params.ICVLen != tagOctets {
		return nil, fmt.Errorf("%w: content encryption is not AES-256-GCM with a tag of %d octets", ErrMalformed, tagOctets)
	}
	aead, err := gcm(key)
	if err != nil {
		return nil, ErrDecrypt
	}
	sealed := append(bytes.Clone(body.EncryptedInfo.EncryptedContent), body.MAC[:]...)
	plaintext, err := aead.Open(nil, params.Nonce[:], sealed, nil)
	if err != nil {
		return nil, ErrDecrypt
	}
	return plaintext, nil
}
