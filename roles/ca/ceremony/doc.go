// Package ceremony makes the keys, certificates, requests and revocation lists of SET's certificate
// authorities (SET §6.1) as one reviewed file says, in front of officers who confirm each step.
//
// # The reviewed file
//
// It says everything that is made, step by step, and nothing about where: tokens have plain names, and
// what these stand for is bound when the ceremony is held. So the same file is rehearsed with one set of
// tokens and run with another. What it does not say, the profile of SET fixes.
//
//	ceremony: new geopolitical CA
//	brand: Meridian
//	officers: {names: [Anna Holm, Bent Krag, Carla Dahl], required: 2}
//	subjects:
//	  nordic: {holder: geopolitical-ca, country: DK, unit: Meridian Nordic}
//	inputs:
//	  root.pem: 5c91...
//	  brand.pem: 08ab...
//	steps:
//	  - {use: brand-ca/cert-sign, type: ec-p384, purpose: cert-sign, certificate: brand.pem}
//	  - {generate: nordic/cert-sign, type: ec-p384, purpose: cert-sign}
//	  - {certificate: nordic.pem, subject: nordic, key: nordic/cert-sign, issuer: brand.pem, validity: 8y, signing-period: 3y}
//
// The first field of a step says what it does:
//
//	generate: TOKEN/LABEL   makes a key
//	use: TOKEN/LABEL        takes a key into use that is there; certificate is the input that certifies it
//	root: FILE              a root certificate, which announces next-key and may be the one that succeeds another
//	certificate: FILE       a certificate for a key of the ceremony or for a csr, signed by its issuer
//	cross: FILE             another certificate for the CA that has one
//	csr: FILE               a request (PKCS#10) to a CA elsewhere: name and key, without extensions
//	crl: FILE               a CRL
//	bci: FILE               a BrandCRLIdentifier
//
// Officers are named, and how many of them confirm each step; required: 0 without names says that the
// ceremony is unattended. No option of a run changes that.
//
// The file has nothing that looks like something else: no characters that cannot be seen, no anchors, no
// tags.
//
// Inputs stand with their SHA-256, and lie beside the reviewed file: the issuers, certificates and requests
// that steps name, and what leads from these to a root. A ceremony with such inputs names real keys: other
// tokens do not have them, and [Rehearse] is all the rehearsal that there can be.
//
// # How it is held
//
// [Parse] holds the file against itself. [Rehearse] goes through all steps with throw-away keys and shows
// them. [Run] does both before it touches a token. Then, for each step that signs, it makes what is to be
// signed with a throw-away key, lints it, shows it, has it confirmed, and lets the real key sign these
// very octets and no others. The signature and the path to a root are verified before the file is written.
// Nothing is ever overwritten. A ceremony that fails says so in its transcript, with the keys that are in
// tokens now and the files that were written. It is not resumed: these keys are deleted, and it begins anew.
// Of one that was killed, [Verify] tells the keys.
//
// Officers type their names and a word: the first digits of the SHA-256 of the line of the transcript that
// shows the step. It stands for all that was shown so far, so nobody can know it before.
//
// # What it leaves
//
// In the output, beside what the steps name, are copies of the reviewed file (ceremony.yaml) and the
// inputs, and what was done: transcript.jsonl, the same for people in transcript.txt, and transcript.sig.
// Every line of transcript.jsonl holds the SHA-256 of the line before it, without its line feed; the first
// holds 64 zeros. The signature is by the first new root, or without one by the first key that signs
// anything, and over the whole file, so that any tool checks it:
//
//	openssl x509 -in root.pem -noout -pubkey >root.pub
//	openssl dgst -sha384 -verify root.pub -signature transcript.sig transcript.jsonl
//
// with -sha256 unless the key is on P-384. Of the two forms of an ECDSA signature it has the one with the
// smaller s, so that it cannot be changed either. [Verify] checks everything again, offline: it does each step
// once more from the reviewed file, with the public keys and serial numbers of the transcript, and wants
// the same octets. Whose key signed it cannot know: the end of a ceremony shows it, to be written down.
package ceremony
