// Package merchant is the merchant: a small shop, the SET server that sells what was ordered in it, and
// the requests to the payment gateway that bring the money (SET §7.4, §7.6, §7.7).
//
// # One purchase
//
// The shop makes an order and hands out the initiation message that starts the cardholder's software.
// That asks for the terms (PInitReq), pays (PReq) and may ask what became of it (InqReq).
//
// A purchase request is taken in one transaction: it stores the payment instructions, which are
// encrypted for the gateway, the octets of the authorization request, and a job that sends them. The
// purchase request is answered when the job has its outcome, or with orderReceived when that takes too
// long. The job sends the same octets until the gateway has answered, also after a crash. Then one
// transaction stores the outcome and, if the merchant captures at once, the job of the capture.
//
// An order is being paid by one purchase request at a time, and paid by one. After a decline it can be
// paid anew.
//
// # What is not here
//
// The merchant never sees a card number, expiry date or PANSecret, and so has none in its database or
// logs. What it knows of a cardholder is the blind name in the certificate and the first six digits of
// the card number, which PInitReq shows to everyone.
package merchant
