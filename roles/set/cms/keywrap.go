package cms

import (
	"crypto/aes"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
)

// wrapIV is the integrity check value of RFC 3394 §2.2.3.1.
const wrapIV = 0xa6a6a6a6a6a6a6a6

// wrapKey is the AES key wrap of RFC 3394 §2.2.1.
func wrapKey(kek, key []byte) ([]byte, error) {
	if len(kek) != contentKeyOctets {
		return nil, fmt.Errorf("back key of %d octets, want %d", len(kek), contentKeyOctets)
	}
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	n := len(key) / 8
	out := append(make([]byte, 8), key...)
	a := uint64(wrapIV)
	var b [16]byte
	for t := range uint64(6 * n) {
		r := out[8*(int(t)%n+1):][:8]
		binary.BigEndian.PutUint64(b[:8], a)
		copy(b[8:], r)
		block.Encrypt(b[:], b[:])
		a = binary.BigEndian.Uint64(b[:8]) ^ (t + 1)
		copy(r, b[8:])
	}
	binary.BigEndian.PutUint64(out, a)
	clear(b[:])
	return out, nil
}

// unwrapKey undoes wrapKey.
func unwrapKey(kek, wrapped []byte) ([]byte, error) {
	if len(kek) != contentKeyOctets || len(wrapped) < 24 || len(wrapped)%8 != 0 {
		return nil, ErrDecrypt
	}
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	n := len(wrapped)/8 - 1
	out := append([]byte(nil), wrapped...)
	a := binary.BigEndian.Uint64(out)
	var b [16]byte
	for t := uint64(6 * n); t > 0; t-- {
		r := out[8*((int(t)-1)%n+1):][:8]
		binary.BigEndian.PutUint64(b[:8], a^t)
		copy(b[8:], r)
		block.Decrypt(b[:], b[:])
		a = binary.BigEndian.Uint64(b[:8])
		copy(r, b[8:])
	}
	clear(b[:])
	var got, want [8]byte
	binary.BigEndian.PutUint64(got[:], a)
	binary.BigEndian.PutUint64(want[:], wrapIV)
	if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
		clear(out)
		return nil, ErrDecrypt
	}
	return out[8:], nil
}
