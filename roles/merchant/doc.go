// Package merchant is the merchant: a small shop, the SET server that sells what was ordered in it, and
// the requests to the payment gateway that bring the money (SET §7.4 to §7.8).
//
// # One purchase
//
// The shop makes an order and hands out the initiation message that starts the cardholder's software.
// That asks for the terms (PInitReq) unless it knows the certificates, pays (PReq) and may ask what became of
// it (InqReq).
//
// A purchase request is taken in one transaction: it stores the payment instructions, which are
// encrypted for the gateway, the octets of the authorization request, and a job that sends them. The
// purchase request is answered when the job has its outcome, or with orderReceived when that takes too
// long. An order in several shipments is answered so at once: each shipment is authorized when it is sent.
//
// An order is being paid by one purchase request at a time, and paid by one. After a decline it can be
// paid anew.
//
// # Operations
//
// Everything that is asked of a gateway about an order is an operation: states.go lists them. An operation is
// begun by one transaction, if the merchant's own books allow it, and marks its orders: an order has one at a
// time. A job makes the octets of its request once, stores them, and sends the same octets until the gateway
// has answered, also after a crash. Then one transaction books the answer, moves the positions of the
// authorizations concerned (set.Position) and begins what follows, such as the capture after an authorization.
//
// A request can get too old for the gateway before it is answered: then nobody knows what earlier copies of it
// have done. An authorization is taken back by an AuthRevReq for nothing, a refund by a CredRevReq where no
// other refund can be meant; all other requests are made anew, for to the gateway they are the same. What is
// left is unresolved, and blocks the order until a person has asked the acquirer.
//
// # Gateways
//
// The merchant asks its gateways for their certificates and for what is revoked, at the start and before any of
// it expires. It keeps the answers, and sends nothing that is encrypted for a key that it does not trust.
//
// # Orders
//
// An order is made from the basket of a customer or for another shop, which is then told of every change of it.
// Pages, back office and API are in the package web; the request that makes an order makes it once.
//
// # What is not here
//
// The merchant never sees a card number, expiry date or PANSecret, and so has none in its database or
// logs. What it knows of a cardholder is the blind name in the certificate and the first six digits of
// the card number, which PInitReq shows to everyone.
package merchant
