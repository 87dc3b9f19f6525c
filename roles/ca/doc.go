// Package ca is the certificate authority of a brand as a server: the cardholder CA, the merchant CA and
// the payment CA in one process (SET §7.2, §7.3). Each is reached under a path of its own, /cca, /mca and
// /pca, because what a CertReq or RegFormReq is for can be read only with the key of the CA that it was
// encrypted for, and because an Error is signed by the CA that was asked.
//
// # A registration
//
// A cardholder sends CardCInitReq, RegFormReq and CertReq; a merchant or payment gateway Me-AqCInitReq and
// CertReq. LID-CA names the registration from the first answer on. It lasts 30 minutes, and one CertReq:
// whatever that CertReq's outcome, the next attempt begins anew. A request that is answered by an Error
// changes nothing.
//
// Before a cardholder is certified, the card's issuer is asked whether the name, the registration code
// and the account belong together. Before a merchant or gateway is, it must give the registration code
// that its acquirer has configured here for it; a code is good for one registration, and after ten wrong
// ones no more.
//
// # What is kept
//
// Certificates, the keys certified (each CA certifies a key once), registrations and their answers, so
// that a repeated request gets the same answer; all that follows from a request in one transaction. Of a
// card number only an HMAC under an HSM key, bound to the registration; of its expiry and the secrets
// nothing. They are in no log either.
//
// Several processes may share one database.
package ca
