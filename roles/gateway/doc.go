// Package gateway is the payment gateway: it takes authorization and capture requests of merchants,
// opens the payment instructions that cardholders encrypted for it, and asks the issuer.
//
// # One authorization
//
// A transaction of the database first claims the request, so that of two copies one goes on, and so that
// payment instructions are used once. Then the issuer is asked, outside any transaction. A second
// transaction keeps the decision together with the answer to the merchant. What must follow is a job
// that the same transaction writes: a reversal when the issuer gave no answer, a clearing for a
// capture. Jobs are repeated until the issuer acknowledges them.
//
// When the process ends between the two transactions, nobody knows what the issuer did. The claim then
// runs out, and whichever process runs on the database reverses it and decides noReply. The merchant,
// who sends the same octets again, is told so.
//
// # What is kept
//
// The account is kept sealed by an HSM key and bound to its authorization, to be shown masked; reversal
// and clearing do without it. The cardholder's secret is forgotten when the request is answered, and
// the order never reaches a gateway, only its digest.
package gateway
