package piv

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
)

// digestInfo is what stands before the digest in a PKCS #1 v1.5 signature: RFC
// 8017 section 9.2, note 1.
var digestInfo = map[crypto.Hash][]byte{
	crypto.SHA256: {0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20},
	crypto.SHA384: {0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0x04, 0x30},
	crypto.SHA512: {0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05, 0x00, 0x04, 0x40},
}

// padPKCS1v15 makes the block that a card signs with its raw RSA operation.
func padPKCS1v15(size int, hash crypto.Hash, digest []byte) ([]byte, error) {
	prefix, ok := digestInfo[hash]
	if !ok || len(digest) != hash.Size() {
		return nil, fmt.Errorf("piv: RSA signatures are with SHA-256, SHA-384 or SHA-512, not with %v of %d bytes", hash, len(digest))
	}
	tail := append(append([]byte{0}, prefix...), digest...)
	block := bytes.Repeat([]byte{0xFF}, size)
	block[0], block[1] = 0x00, 0x01
	copy(block[size-len(tail):], tail)
	return block, nil
}

// padPSS makes the block of an RSA-PSS signature, EMSA-PSS-ENCODE of RFC 8017
// section 9.1.1. saltBytes may be one of the constants of crypto/rsa.
func padPSS(modulusBits int, hash crypto.Hash, digest []byte, saltBytes int) ([]byte, error) {
	if _, ok := digestInfo[hash]; !ok || len(digest) != hash.Size() {
		return nil, fmt.Errorf("piv: RSA signatures are with SHA-256, SHA-384 or SHA-512, not with %v of %d bytes", hash, len(digest))
	}
	bits, n := modulusBits-1, hash.Size()
	size := (bits + 7) / 8
	switch saltBytes {
	case rsa.PSSSaltLengthAuto:
		saltBytes = size - n - 2
	case rsa.PSSSaltLengthEqualsHash:
		saltBytes = n
	}
	if saltBytes < 0 || saltBytes > size-n-2 {
		return nil, fmt.Errorf("piv: RSA-PSS salt of %d bytes, want 0 to %d", saltBytes, size-n-2)
	}
	salt := make([]byte, saltBytes)
	rand.Read(salt) // never fails
	h := hash.New()
	h.Write(make([]byte, 8))
	h.Write(digest)
	h.Write(salt)
	block := make([]byte, size)
	db, hashed := block[:size-n-1], block[size-n-1:size-1]
	copy(hashed, h.Sum(nil))
	db[len(db)-saltBytes-1] = 0x01
	copy(db[len(db)-saltBytes:], salt)
	maskMGF1(db, hash, hashed)
	db[0] &= 0xFF >> (8*size - bits)
	block[size-1] = 0xBC
	return block, nil
}

// unpadOAEP takes the message out of an RSAES-OAEP block, RFC 8017 section
// 7.1.2. It takes the same time whatever the block holds, and has one error for
// everything that is wrong with it: an attacker who could tell reasons apart
// could decrypt. The block is destroyed.
func unpadOAEP(block []byte, opts *rsa.OAEPOptions) ([]byte, error) {
	defer clear(block)
	hash, mgf, err := oaepHashes(opts)
	if err != nil {
		return nil, err
	}
	n := hash.Size()
	if len(block) < 2*n+2 {
		return nil, rsa.ErrDecryption
	}
	h := hash.New()
	h.Write(opts.Label)
	labelHash := h.Sum(nil)

	seed, db := block[1:1+n], block[1+n:]
	maskMGF1(seed, mgf, db)
	maskMGF1(db, mgf, seed)

	good := subtle.ConstantTimeByteEq(block[0], 0)
	good &= subtle.ConstantTimeCompare(db[:n], labelHash)
	// After the hash: zeros, a 1, the message.
	rest := db[n:]
	looking, index, invalid := 1, 0, 0
	for i, b := range rest {
		isZero := subtle.ConstantTimeByteEq(b, 0)
		isOne := subtle.ConstantTimeByteEq(b, 1)
		index = subtle.ConstantTimeSelect(looking&isOne, i, index)
		looking = subtle.ConstantTimeSelect(isOne, 0, looking)
		invalid = subtle.ConstantTimeSelect(looking&^isZero, 1, invalid)
	}
	if good&^invalid&^looking != 1 {
		return nil, rsa.ErrDecryption
	}
	return bytes.Clone(rest[index+1:]), nil
}

// oaepHashes gives the hash of the label and that of the mask, and refuses those
// that nobody should use here.
func oaepHashes(opts *rsa.OAEPOptions) (hash, mgf crypto.Hash, err error) {
	hash, mgf = opts.Hash, opts.MGFHash
	if mgf == 0 {
		mgf = hash
	}
	for _, h := range []crypto.Hash{hash, mgf} {
		if _, ok := digestInfo[h]; !ok || !h.Available() {
			return 0, 0, errors.New("piv: OAEP is with SHA-256, SHA-384 or SHA-512")
		}
	}
	return hash, mgf, nil
}

// maskMGF1 combines out with the mask that MGF1 makes of seed: RFC 8017 appendix
// B.2.1.
func maskMGF1(out []byte, hash crypto.Hash, seed []byte) {
	var counter [4]byte
	h := hash.New()
	for i := uint32(0); len(out) > 0; i++ {
		binary.BigEndian.PutUint32(counter[:], i)
		h.Reset()
		h.Write(seed)
		h.Write(counter[:])
		mask := h.Sum(nil)
		n := subtle.XORBytes(out, out, mask)
		clear(mask)
		out = out[n:]
	}
}
