package piv

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes of OAEP and of signatures
	_ "crypto/sha512"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
)

// A privateKey is a key on the card. Its arithmetic is the card's, its padding
// ours.
type privateKey struct {
	slot      Slot
	algorithm Algorithm
	public    crypto.PublicKey

	// operate lets the card use the key on in, as a challenge (tag 81) or as
	// another's point (tag 85).
	operate func(tag iso7816.Tag, in []byte) ([]byte, error)
}

// Signer returns the key of a slot, which has this public key: known from a
// certificate, or from PublicKey. It works inside this transaction, after
// VerifyPIN; nothing may come between the two for a key whose policy is
// PINPolicyAlways. Each signature is verified before it is returned. See
// Session.Signer.
func (tx *Tx) Signer(slot Slot, public crypto.PublicKey) (crypto.Signer, error) {
	return newSigner(slot, public, tx.operator(slot, public))
}

// Decrypter returns the RSA key of a slot; see Signer and Session.Decrypter.
func (tx *Tx) Decrypter(slot Slot, public crypto.PublicKey) (crypto.Decrypter, error) {
	return newDecrypter(slot, public, tx.operator(slot, public))
}

// KeyExchanger returns the key of a slot for key agreement; see Signer and
// Session.KeyExchanger.
func (tx *Tx) KeyExchanger(slot Slot, public crypto.PublicKey) (ecdh.KeyExchanger, error) {
	return newKeyExchanger(slot, public, tx.operator(slot, public))
}

func (tx *Tx) operator(slot Slot, public crypto.PublicKey) func(iso7816.Tag, []byte) ([]byte, error) {
	return func(tag iso7816.Tag, in []byte) ([]byte, error) {
		a, err := AlgorithmOf(public)
		if err != nil {
			return nil, err
		}
		return tx.usePrivateKey(slot, a, tag, in, false)
	}
}

func newSigner(slot Slot, public crypto.PublicKey, operate func(iso7816.Tag, []byte) ([]byte, error)) (crypto.Signer, error) {
	a, err := AlgorithmOf(public)
	if err != nil {
		return nil, err
	}
	if _, ok := public.(*ecdh.PublicKey); ok {
		return nil, fmt.Errorf("piv: slot %v: %v as a key for agreement doesn't sign", slot, a)
	}
	return &privateKey{slot, a, public, operate}, nil
}

func newDecrypter(slot Slot, public crypto.PublicKey, operate func(iso7816.Tag, []byte) ([]byte, error)) (crypto.Decrypter, error) {
	a, err := AlgorithmOf(public)
	if err != nil {
		return nil, err
	}
	if _, ok := public.(*rsa.PublicKey); !ok {
		return nil, fmt.Errorf("piv: slot %v holds an %v key, only RSA keys decrypt", slot, a)
	}
	return &privateKey{slot, a, public, operate}, nil
}

func newKeyExchanger(slot Slot, public crypto.PublicKey, operate func(iso7816.Tag, []byte) ([]byte, error)) (ecdh.KeyExchanger, error) {
	if k, ok := public.(*ecdsa.PublicKey); ok {
		var err error
		if public, err = k.ECDH(); err != nil {
			return nil, fmt.Errorf("piv: slot %v: %w", slot, err)
		}
	}
	a, err := AlgorithmOf(public)
	if err != nil {
		return nil, err
	}
	k, ok := public.(*ecdh.PublicKey)
	if !ok {
		return nil, fmt.Errorf("piv: slot %v holds an %v key, only EC and X25519 keys agree", slot, a)
	}
	return &exchangeKey{privateKey{slot, a, k, operate}}, nil
}

func (k *privateKey) Public() crypto.PublicKey { return k.public }

// Sign signs a digest, or with Ed25519 a message. The card's own randomness is
// used, but for the salt of PSS, which is ours; never rand.
func (k *privateKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if h := opts.HashFunc(); h != 0 && len(digest) != h.Size() {
		return nil, fmt.Errorf("piv: digest of %d bytes, %v has %d", len(digest), h, h.Size())
	}
	var in []byte
	var verify func(sig []byte) bool
	var err error
	switch public := k.public.(type) {
	case *rsa.PublicKey:
		in, verify, err = prepareRSA(public, digest, opts)
	case *ecdsa.PublicKey:
		in = fitDigest(digest, (public.Curve.Params().BitSize+7)/8)
		verify = func(sig []byte) bool { return ecdsa.VerifyASN1(public, digest, sig) }
	case ed25519.PublicKey:
		if o, ok := opts.(*ed25519.Options); opts.HashFunc() != 0 || ok && o.Context != "" {
			return nil, errors.New("piv: Ed25519 signs the message itself, without a hash or a context")
		}
		in = digest
		verify = func(sig []byte) bool { return ed25519.Verify(public, digest, sig) }
	default:
		return nil, fmt.Errorf("piv: key of type %T", k.public) // newSigner lets none through
	}
	if err != nil {
		return nil, err
	}
	sig, err := k.operate(tagChallenge, in)
	if err != nil {
		return nil, err
	}
	if !verify(sig) {
		return nil, fmt.Errorf("piv: slot %v: %w", k.slot, ErrWrongKey)
	}
	return sig, nil
}

// prepareRSA pads a digest for the card's raw RSA operation, and gives what
// checks the signature.
func prepareRSA(public *rsa.PublicKey, digest []byte, opts crypto.SignerOpts) ([]byte, func([]byte) bool, error) {
	hash := opts.HashFunc()
	if pss, ok := opts.(*rsa.PSSOptions); ok {
		block, err := padPSS(public.N.BitLen(), hash, digest, pss.SaltLength)
		return block, func(sig []byte) bool { return rsa.VerifyPSS(public, hash, digest, sig, pss) == nil }, err
	}
	block, err := padPKCS1v15(public.Size(), hash, digest)
	return block, func(sig []byte) bool { return rsa.VerifyPKCS1v15(public, hash, digest, sig) == nil }, err
}

// fitDigest gives a digest the length of the curve, as ECDSA does: it keeps the
// leftmost bits of a longer one, and cards want the whole length of a shorter.
func fitDigest(digest []byte, size int) []byte {
	if len(digest) >= size {
		return digest[:size]
	}
	return append(make([]byte, size-len(digest)), digest...)
}

// Decrypt opens an RSAES-OAEP message. Whatever is wrong with the message, the
// error is rsa.ErrDecryption.
func (k *privateKey) Decrypt(_ io.Reader, msg []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	oaep, ok := opts.(*rsa.OAEPOptions)
	if !ok {
		return nil, fmt.Errorf("piv: decryption options of type %T, want *rsa.OAEPOptions", opts)
	}
	if _, _, err := oaepHashes(oaep); err != nil {
		return nil, err
	}
	public := k.public.(*rsa.PublicKey)
	size := public.Size()
	if len(msg) != size || new(big.Int).SetBytes(msg).Cmp(public.N) >= 0 {
		return nil, rsa.ErrDecryption
	}
	block, err := k.operate(tagChallenge, msg)
	if err != nil {
		return nil, err
	}
	if len(block) != size {
		clear(block)
		return nil, fmt.Errorf("piv: slot %v: %d bytes, want %d: %w", k.slot, len(block), size, ErrWrongKey)
	}
	return unpadOAEP(block, oaep)
}

// An exchangeKey is a privateKey for key agreement.
type exchangeKey struct{ privateKey }

var _ ecdh.KeyExchanger = (*exchangeKey)(nil)

func (k *exchangeKey) PublicKey() *ecdh.PublicKey { return k.public.(*ecdh.PublicKey) }
func (k *exchangeKey) Curve() ecdh.Curve          { return k.PublicKey().Curve() }

// ECDH returns the secret that is shared with the holder of remote's private
// key. Nothing can check it here: a wrong key shows when what was encrypted to
// it doesn't open.
func (k *exchangeKey) ECDH(remote *ecdh.PublicKey) ([]byte, error) {
	if remote.Curve() != k.Curve() {
		return nil, fmt.Errorf("piv: slot %v: keys on the curves %v and %v don't agree", k.slot, k.Curve(), remote.Curve())
	}
	point := remote.Bytes()
	secret, err := k.operate(tagExponent, point)
	if err != nil {
		return nil, err
	}
	want := len(point) // X25519
	if k.algorithm != X25519 {
		want /= 2 // 04, x, y
	}
	if len(secret) != want || len(bytes.Trim(secret, "\x00")) == 0 {
		clear(secret)
		return nil, fmt.Errorf("piv: slot %v: the card's shared secret has %d bytes or is zero, want %d: %w", k.slot, len(secret), want, ErrWrongKey)
	}
	return secret, nil
}

// usePrivateKey is GENERAL AUTHENTICATE: 7C { 82, tag in } gives 7C { 82 out }.
// If the card is lost meanwhile, the error is an *InterruptedError. repeatable
// says that a second use would do no harm: signatures are not.
func (tx *Tx) usePrivateKey(slot Slot, a Algorithm, tag iso7816.Tag, in []byte, repeatable bool) ([]byte, error) {
	body := iso7816.AppendTLV(nil, tagResponse, nil)
	body = iso7816.AppendTLV(body, tag, in)
	what := fmt.Sprintf("use the key of slot %v", slot)
	complete := false  // once all of the command has been sent
	answering := false // once the card has begun to answer
	send := func(apdu []byte) ([]byte, error) {
		complete = complete || apdu[0]&iso7816.ClassChaining == 0
		answering = answering || apdu[1] != insAuthenticate
		return tx.send(apdu)
	}
	c := iso7816.Command{
		INS: insAuthenticate, P1: byte(a), P2: byte(slot),
		Data: iso7816.AppendTLV(nil, tagTemplate, body), Ne: neAll,
	}
	extended := tx.card.speaksExtended(len(c.Data), repeatable)
	r, err := iso7816.Exchange(send, c, extended)
	if extended {
		tx.card.sawExtended(len(c.Data), smartcard.Status(r.SW), err)
	}
	if extended && err == nil && smartcard.Status(r.SW) == smartcard.StatusWrongLength && !answering {
		complete = false // it was refused unread
		r, err = iso7816.Exchange(send, c, false)
	}
	if err != nil {
		return nil, &InterruptedError{Slot: slot, KeyUsed: complete, Err: fmt.Errorf("piv: %s: %w", what, err)}
	}
	if err := smartcard.Status(r.SW).Err(); err != nil {
		err = fmt.Errorf("piv: %s: %w", what, err)
		if answering || len(r.Data) > 0 { // GET RESPONSE failed, or this is no refusal: the rest of the answer is lost
			clear(r.Data)
			return nil, &InterruptedError{Slot: slot, KeyUsed: true, Err: err}
		}
		return nil, err
	}
	out, err := insideTemplate(r.Data, tagResponse)
	if err != nil {
		clear(r.Data)
		return nil, &InterruptedError{Slot: slot, KeyUsed: true, Err: err}
	}
	return out, nil
}
