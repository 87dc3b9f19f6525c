package hsm

import (
	"crypto"
	"crypto/rsa"
	"crypto/subtle"
	"encoding/binary"
)

// decodeOAEP removes the padding of RSAES-OAEP (RFC 8017, section 7.1.2, step 3) from em, the result of
// the RSA operation at full length, which it overwrites. Until it knows that the padding is good,
// neither its time nor its error depends on em: a difference would be an oracle that decrypts any
// message in a few thousand questions.
func decodeOAEP(hash crypto.Hash, em, label []byte) ([]byte, error) {
	h := hash.Size()
	if len(em) < 2*h+2 {
		return nil, rsa.ErrDecryption
	}
	first, seed, db := em[0], em[1:1+h], em[1+h:]
	xorMGF1(hash, seed, db)
	xorMGF1(hash, db, seed)
	good := subtle.ConstantTimeByteEq(first, 0)
	good &= subtle.ConstantTimeCompare(digest(hash, label), db[:h])

	// After the label's digest come zeros, a one and the message. The scan passes over every byte.
	rest := db[h:]
	looking, at := 1, 0
	for i, b := range rest {
		zero, one := subtle.ConstantTimeByteEq(b, 0), subtle.ConstantTimeByteEq(b, 1)
		at = subtle.ConstantTimeSelect(looking&one, i+1, at)
		good &= 1 ^ (looking & (1 ^ zero) & (1 ^ one))
		looking &= 1 ^ one
	}
	good &= 1 ^ looking
	if good != 1 {
		return nil, rsa.ErrDecryption
	}
	message := make([]byte, len(rest)-at)
	copy(message, rest[at:])
	return message, nil
}

// xorMGF1 adds the mask that MGF1 makes of seed to out (RFC 8017, section B.2.1).
func xorMGF1(hash crypto.Hash, out, seed []byte) {
	block := make([]byte, len(seed)+4)
	copy(block, seed)
	for counter := uint32(0); len(out) > 0; counter++ {
		binary.BigEndian.PutUint32(block[len(seed):], counter)
		out = out[subtle.XORBytes(out, out, digest(hash, block)):]
	}
	clear(block)
}

func digest(hash crypto.Hash, data []byte) []byte {
	h := hash.New()
	h.Write(data)
	return h.Sum(nil)
}
