// Package finnet is the financial network between acquirers and issuers: ISO 8583:1987 over TCP.
//
// A frame is a length of two octets, high octet first, that counts the message after it, and the
// message: ASCII fields under hexadecimal bitmaps, with the private data of field 48 as binary
// tag-length-value. The fields are data, in spec.go.
//
//	what          message    required fields                                      optional
//	authorize     0100/0110  2 3=000000 4 7 11 14 22 25 32 37 42 43 48.01 49      18 41 48.02
//	check account 0100/0110  2 3=330000 4=0 7 11 14 32 37 48.03 48.04
//	reverse       0400/0410  3=000000 4 7 11 32 37 49 90                          95
//	clear         0220/0230  3=000000 4 7 11 32 37 38 42 48.01 48.05 49 90        41
//	refund        0220/0230  3=200000 4 7 11 32 37 38 42 48.01 48.05 49 90        41
//	take back     0420/0430  3=000000 or 200000 4 7 11 32 37 48.05 49 90
//	reconcile     0500/0510  7 11 32 48.05 49 74-77 86-89 97
//	echo          0800/0810  7 11 70=301
//
// A response has the request's fields 3, 4, 7, 11, 32, 37, 41, 42, 49 and 70 unchanged, the response
// code in 39, and the approval code in 38 when an authorization was approved. Field 48 has the tags 01
// XID, 02 TransStain, 03 cardholder's name, 04 registration secret, 05 settlement number.
//
// An authorization is named by acquirer (32), STAN (11), retrieval reference number (37) and time of
// transmission (7). Reversals and clearings have the same 32 and 37, their own 11 and 7, and name
// the authorization's 11 and 7 in field 90, so they carry no card number: an acquirer can forget it as
// soon as an authorization is answered. What takes a clearing or a refund back names that message there. A
// reversal with field 95 leaves a smaller amount authorized.
//
// # Settlement
//
// Every clearing, every refund, and whatever takes one back belongs to the settlement whose number it has. When
// all of a settlement is answered, the acquirer sends its totals of what was approved, in one
// reconciliation for each currency: purchases as debits, refunds as credits, what was taken back as their
// reversals. The response has the issuer's totals, and 1 or 2 in field 66, in or out of balance. In
// balance, the settlement is closed and takes nothing new.
//
// # What an answer means
//
// A response code other than [Approved] and [Malfunction] is a decision, and moved no money. When there
// is no answer, or it is [Malfunction], the issuer may or may not have acted: that is [ErrNoReply], and
// after an authorization the caller must send a reversal until it is answered. [ErrUnavailable] says
// that nothing was sent.
//
// The network is taken to be private: messages are neither encrypted nor signed, as on the real ones of
// this message's time. Run it over a link that is.
//
// The connection handling is this package's own. That of moov-io/iso8583-connection v0.3.1 hands each
// answer to a new goroutine and can report the end of the connection first, so that an answer which
// was received is lost; and it does not say whether a message was sent.
package finnet
