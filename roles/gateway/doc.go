// Package gateway is the payment gateway: it takes the requests of merchants, opens the payment instructions
// that cardholders encrypted for it, asks the issuer and settles with it.
//
// # One authorization
//
// A transaction of the database first claims the request, so that of two copies one goes on, and so that
// payment instructions are used once. Then the issuer is asked, outside any transaction. A second
// transaction keeps the decision together with the answer to the merchant, and with the entry of what must
// follow: a reversal when the issuer gave no answer, the capture of a sale.
//
// When the process ends between the two transactions, nobody knows what the issuer did. The claim then
// runs out, and whichever process runs on the database reverses it and decides noReply. The merchant,
// who sends the same octets again, is told so.
//
// # What follows
//
// Reversals, captures, credits and what undoes them are judged by the gateway alone: by set's table of the
// states of an authorization, and by what it has of the merchant's records. Each is an entry, which
// jobs bring to the issuer until it answers. The entries of one authorization go one after the other, so
// that a capture is not undone before the issuer has it; each has a trace that is fixed when it is booked, so that
// it can be sent again as the same. What the issuer refuses needs a person.
//
// Captures and credits stand in batches. A merchant who opens none has one of the gateway's own, which ends with
// the settlement. A batch decides what a merchant may still undo, and what both sides count; not when the
// issuer is told, which is at once.
//
// # Settlement
//
// What moves money belongs to the settlement that is open when it is booked. Settler closes that: all of it must
// have an answer, and issuer and gateway must have the same totals, so that the merchants get what the
// cardholders are debited with. What was refused is not in it.
//
// # Renewal
//
// Renew gives the gateway other certificates and keys while it serves. What was encrypted for the former ones is
// opened as long as the endpoint has these: the tokens that merchants hold, and payment instructions of before.
//
// # What is kept
//
// The account is kept sealed by an HSM key and bound to its authorization, to be shown masked; what follows
// does without it. Its first six digits, which name the issuer, are kept to purge a batch of one issuer's cards.
// The cardholder's secret is forgotten when the request is answered, and the order never reaches a gateway,
// only its digest.
package gateway
