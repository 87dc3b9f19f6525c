// Package ceremony makes the keys and certificates of a SET hierarchy (SET §6.1): a root CA, a brand CA,
// and the CAs that certify cardholders, merchants and payment gateways. One reviewed file says
// everything that is made; the keys are generated in tokens and stay there.
//
// A ceremony is prepared, then held once. [Check] holds the file against itself and rehearses the whole
// ceremony with throw-away keys. [Run] does that too, then looks that no key and no output file is
// there yet, and only then makes anything. It never overwrites. If it fails after the first key was
// made, the error says which keys are in the tokens.
//
// # Outputs
//
//	root.pem, brand.pem, cca.pem, mca.pem, pca.pem          certificates that sign certificates
//	{cca,mca,pca}-sign.pem, {cca,mca,pca}-key-exchange.pem  certificates for messages
//	root.crl, brand.crl, pca.crl                            the first, empty CRLs (PEM)
//	brand.bci                                               the first BrandCRLIdentifier (DER)
//	transcript.jsonl, transcript.sig                        what was done, and the root's signature on it
//
// Every line of the transcript holds the SHA-256 of the line before it, without its line feed; the first
// holds 64 zeros. The signature is over the whole file, so that any tool checks it:
//
//	openssl x509 -in root.pem -noout -pubkey >root.pub
//	openssl dgst -sha384 -verify root.pub -signature transcript.sig transcript.jsonl
//
// with -sha256 unless the root's key is on P-384.
package ceremony
