// Package hsm reaches PKCS#11 tokens and the keys in them.
//
// A token is named by an RFC 7512 URI and opened with [Open]; a key is named by its label and made
// with [Token.GenerateKey] for one [Purpose], which fixes what the token will ever let it do. Keys
// are used through Go's own interfaces, [crypto.Signer] and [crypto.Decrypter], and through [MAC],
// [Sealer] and [Deriver]. No private or secret key leaves its token in the clear; one that was made to
// be copied ([Token.GenerateWrappableKey]) leaves it wrapped, for another token.
//
// # One owner per library
//
// A PKCS#11 library is initialised once per process and crashes it when somebody finalises the
// library during a call. So all tokens of a library share one owner inside this package. It alone
// initialises, logs in, logs out and finalises, and it waits for running calls before it does. It
// is the reason to open every token of the process through this package.
//
// The library is called through miekg/pkcs11, in sessions of our own: a session must be closed when a
// call in it has failed, left when a call does not return, and made anew after a loss. Of crypto11 the
// templates and mechanisms for making keys are used, and not its sessions, which know none of that; it
// also initialises a library by itself, and of a library that gives every caller an instance of its
// own, as p11-kit's do, there would be two.
//
// # Lost devices
//
// A session that was closed, a login that has ended, a device that was pulled out, restarted or
// replaced behind a network, a library that wants to be initialised again: each is noticed by the call
// that meets it, and mended behind the callers' backs, by a new session, a new login, or the library's
// initialisation, whichever is enough. A goroutine of its own tries, at once, after 25 ms and then ever
// more seldom up to every 0.8 s, until the token is back or closed. The other tokens of the library wait
// while it is initialised; so, where there are such, the next attempt waits nine times as long as the
// last one has taken. Callers wait up to 3 seconds. What may be repeated is repeated: signatures,
// decryption, MACs, sealing (with another nonce), reading. The making and the destruction of objects are
// not. A caller gets a result, or an error that matches [ErrUnavailable] and says "device unavailable,
// retry".
//
// After a loss every key is looked up again and compared with what was known of it: CKA_ID, public
// key, usages, and for secret keys what they make of a known text. A handle is never carried over.
//
// The PIN is asked for again from its source when a login is needed. A PIN that the token has refused
// is never sent again by this process, whoever opens the token: callers get the *[PINError] until the
// source gives another.
//
// A library may hang. Calls run on goroutines of their own, and a caller leaves when its context ends
// (bind a key with WithContext) or after 30 seconds; the call that hangs keeps its place until it
// returns. When all places are taken so, callers are turned away at once.
//
// Several tokens that hold the same key are a [Group]: calls go to those that are well, the least busy
// first, and from a lost one to the next.
//
// # What is checked
//
// A new key's attributes are read back, and a key that differs from what was asked for is destroyed.
// A handle that has outlived its session can name another key. So every signature is verified with the
// public key before it is returned, and what nobody can verify, such as a MAC, is made only after the
// handle's CKA_ID and label were read in the same session. Padding that the token does not decode as it
// must is decoded here, in constant time; a ciphertext is called bad only while a good one decrypts.
//
// # Limits
//
// At most 8 calls run on a device at a time, on a token that is software three times as many as there
// are processors but no more than 16, or as many as x-calls-max in the URI says. The others wait in the
// order in which they came, until their context ends, or 30 seconds where there is none. While a key is
// made nothing else runs on its token. See [Observe] for how long calls wait.
package hsm
