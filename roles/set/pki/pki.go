// Package pki is the certificate profile of SET (SET §6): certificates with SET's private extensions,
// certificate revocation lists, the BrandCRLIdentifier that says which of those lists are current,
// their thumbprints, their issuing, and the validation of a path from a certificate to an installed root.
//
// The hierarchy is
//
//	root CA → brand CA → [geopolitical CA →] cardholder, merchant, payment gateway CA → end entity
//
// A holder is told by two things: its certificateType and the use of the key. The three end-entity CAs
// have a certificate for each use, all issued by the brand CA or geopolitical CA above them: one that
// signs certificates (Authority), one that signs messages (Signature) and one that others encrypt
// messages for (KeyExchange).
//
// Everything is a pure function of its arguments: times, randomness and keys come from the caller.
// Decoding is strict. What is not in the profile's distinguished encoding is refused, and signatures
// and thumbprints are computed over the octets received.
package pki

// Limits of what is decoded. Larger input is refused unread.
const (
	CertificateSizeMax = 16 << 10  // octets
	CRLSizeMax         = 512 << 10 // octets
	BCISizeMax         = 64 << 10  // octets

	ChainLengthMax = 8  // certificates of one path, leaf and root included
	CandidatesMax  = 64 // certificates offered to one path search

	RSABitsMin = 2048
	RSABitsMax = 8192
)
