// Package hsm reaches PKCS#11 tokens and the keys in them.
//
// A token is named by an RFC 7512 URI and opened with [Open]; a key is named by its label and made
// with [Token.GenerateKey] for one [Purpose], which fixes what the token will ever let it do. Keys
// are used through Go's own interfaces, [crypto.Signer] and [crypto.Decrypter], and through [MAC] and
// [Sealer]. No private or secret key leaves its token.
//
// # One owner per library
//
// A PKCS#11 library is initialised once per process and crashes it when somebody finalises the
// library during a call. So all tokens of a library share one owner inside this package. It alone
// initialises, logs in, logs out and finalises, and it waits for running calls before it does. It
// is the reason to open every token of the process through this package.
//
// Signatures and key generation go through crypto11, everything else through miekg/pkcs11, on the
// same initialised library. Crypto11 never sees a PIN: the login belongs to the owner, and PKCS#11
// logs in a whole process.
//
// # What is checked
//
// A wrong PIN is tried once. A new key's attributes are read back, and a key that differs from what
// was asked for is destroyed. Every signature is verified with the public key before it is returned,
// because a handle that has outlived its session can name another key. A session in which a call
// failed is closed, because some libraries leave the failed operation pending in it; crypto11 does
// not let go of its sessions, and so it gets nothing to sign that has not been checked, and nothing
// to decrypt.
//
// # Limits
//
// At most 8 calls run on a token at a time, and none beside the making of a key; the others wait, up
// to their context's end, or 30 seconds where the interface has no context. A session lost to a restarted device is an error that matches
// [ErrUnavailable] until the token is closed and opened again.
package hsm
