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
// ones no more. All checks stand in checks.go.
//
// Where an Authority says ByHand, a CertReq that has passed them waits for an [Operator], and is answered by
// requestPended. CertInqReq, signed by the key of the CertReq, tells what became of it, for 30 days; what
// was approved is certified then. It also gives an answer that was lost (SET §4.7).
//
// A renewal is signed by the new key and by the certificate that it replaces, which this CA has issued and not
// revoked: to the same merchant or gateway under the same name, who then need no code; to a cardholder for
// the same card, whose issuer is asked again (SET §4.6).
//
// # Revocation
//
// An Operator revokes, and issues CRLs and BrandCRLIdentifiers with the keys of the CAs that sign them
// (SET §6.5, §6.6), or imports what a ceremony has signed. They are in the database: the server takes them
// into use with the next request, and sends requesters what their thumbprints do not show. No CRL lists
// cardholders and merchants; revoked they are not renewed.
//
// # What is kept
//
// Certificates, the keys certified (each CA certifies a key once), registrations and their answers, so
// that a repeated request gets the same answer; all that follows from a request in one transaction. Of a
// card number only HMACs under an HSM key, bound to a registration; of its expiry the month in which the
// certificate must end. Of the secrets NonceCCA and the back key, for 30 days, encrypted for the CA's
// key-exchange key. They are in no log.
//
// What operators do is in the audit trail, in the same transaction.
//
// Several processes may share one database.
package ca
