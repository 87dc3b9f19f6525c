// Package cms makes and opens the cryptographic values of SET: SignedData and AuthEnvelopedData as
// RFC 5652 and RFC 5083 define them, and SET's treatments of them (SET §3).
//
// Signatures are verified over the octets received. What cannot be decrypted gives ErrDecrypt whatever
// the reason, so that no answer tells a padding failure from a failed tag.
package cms

import "errors"

// Errors that a party maps to its answer.
var (
	ErrDigest    = errors.New("detached digest does not match")
	ErrSignature = errors.New("signature does not verify")
	ErrDecrypt   = errors.New("cannot decrypt")
	ErrMalformed = errors.New("malformed CMS value")
)
