package pki

import (
	"strings"

	"github.com/setkit/setkit/roles/set/der"
)

// Type is certificateType (SET §6.3): which party holds the certificate. One CA may be several of CCA,
// MCA and PCA; every other type stands alone.
type Type uint16

// The types, as the named bits of certificateType.
const (
	Card Type = 1 << iota // cardholder
	Mer                   // merchant
	Pgwy                  // payment gateway
	CCA                   // cardholder CA
	MCA                   // merchant CA
	PCA                   // payment gateway CA
	GCA                   // geopolitical CA
	BCA                   // brand CA
	RCA                   // root CA
	Acq                   // acquirer: named by SET, held by none of its parties
)

var typeNames = [...]string{"card", "mer", "pgwy", "cca", "mca", "pca", "gca", "bca", "rca", "acq"}

const (
	endEntityCA = CCA | MCA | PCA
	endEntity   = Card | Mer | Pgwy
	crlIssuer   = PCA | GCA | BCA | RCA
)

// DERType makes a Type a BIT STRING with named bits.
func (Type) DERType() der.Type { return der.Type{Kind: der.NamedBits} }

// Has tells whether t includes every type of u.
func (t Type) Has(u Type) bool { return t&u == u }

// String gives the names that SET uses, joined by "|".
func (t Type) String() string {
	var names []string
	for i, name := range typeNames {
		if t&(1<<i) != 0 {
			names = append(names, name)
			t &^= 1 << i
		}
	}
	if t != 0 || len(names) == 0 {
		names = append(names, "unknown")
	}
	return strings.Join(names, "|")
}

// parents gives the types of which an issuer of a certificate of type t must have one; for a CA of
// several types the same issuers do for each of them (SET §6.7). An end entity has one issuing CA type.
func (t Type) parents() Type {
	switch {
	case t == Card:
		return CCA
	case t == Mer:
		return MCA
	case t == Pgwy:
		return PCA
	case t&endEntityCA != 0 && t&^endEntityCA == 0:
		return GCA | BCA
	case t == GCA:
		return BCA
	case t == BCA, t == RCA:
		return RCA
	}
	return 0
}

// Use is what the key of a certificate is for.
type Use int

// The uses, with the keyUsage bits that tell them.
const (
	Signature   Use = iota + 1 // signs messages: digitalSignature
	KeyExchange                // receives encrypted messages: keyEncipherment and dataEncipherment
	Authority                  // signs certificates, CRLs or both: keyCertSign, cRLSign
)

// String names the use.
func (u Use) String() string {
	switch u {
	case Signature:
		return "signature"
	case KeyExchange:
		return "key-exchange"
	case Authority:
		return "authority"
	}
	return "unknown"
}
