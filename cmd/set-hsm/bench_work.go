package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/setkit/setkit/hsm"
)

// benchKey is a temporary key. Work without a key has the zero one.
type benchKey struct {
	purpose hsm.Purpose
	typ     hsm.KeyType
}

// benchWork is something that is measured.
type benchWork struct {
	name  string
	key   benchKey
	needs [][2]string // mechanisms of the token, and the use of each
	// prepare returns what a caller does over and over, with the key labelled label.
	prepare func(ctx context.Context, token *hsm.Token, label string) (func(context.Context) error, error)
}

var (
	needEC      = [2]string{"CKM_EC_KEY_PAIR_GEN", "generate-key-pair"}
	needRSA     = [2]string{"CKM_RSA_PKCS_KEY_PAIR_GEN", "generate-key-pair"}
	needAES     = [2]string{"CKM_AES_KEY_GEN", "generate"}
	needGeneric = [2]string{"CKM_GENERIC_SECRET_KEY_GEN", "generate"}
	needEdwards = [2]string{"CKM_EC_EDWARDS_KEY_PAIR_GEN", "generate-key-pair"}

	pss = &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: rsa.PSSSaltLengthEqualsHash}
)

var benchWorks = []benchWork{
	{"sign-ec-p256", benchKey{hsm.PurposeSign, hsm.ECP256}, [][2]string{needEC, {"CKM_ECDSA", "sign"}}, benchSign(crypto.SHA256)},
	{"sign-ec-p384", benchKey{hsm.PurposeSign, hsm.ECP384}, [][2]string{needEC, {"CKM_ECDSA", "sign"}}, benchSign(crypto.SHA384)},
	{"sign-ed25519", benchKey{hsm.PurposeSign, hsm.Ed25519}, [][2]string{needEdwards, {"CKM_EDDSA", "sign"}}, benchSign(crypto.Hash(0))},
	{"sign-rsa-2048", benchKey{hsm.PurposeSign, hsm.RSA2048}, [][2]string{needRSA, {"CKM_RSA_PKCS", "sign"}}, benchSign(crypto.SHA256)},
	{"sign-rsa-3072", benchKey{hsm.PurposeSign, hsm.RSA3072}, [][2]string{needRSA, {"CKM_RSA_PKCS", "sign"}}, benchSign(crypto.SHA256)},
	{"sign-pss-rsa-2048", benchKey{hsm.PurposeSign, hsm.RSA2048}, [][2]string{needRSA, {"CKM_RSA_PKCS_PSS", "sign"}}, benchSign(pss)},
	{"decrypt-oaep-rsa-2048", benchKey{hsm.PurposeKeyExchange, hsm.RSA2048}, [][2]string{needRSA}, benchDecrypt},
	{"mac-hmac-sha256", benchKey{hsm.PurposeMAC, hsm.HMACSHA256}, [][2]string{needGeneric, {"CKM_SHA256_HMAC", "sign"}}, benchMAC},
	{"seal-aes-256", benchKey{hsm.PurposeSeal, hsm.AES256}, [][2]string{needAES, {"CKM_AES_GCM", "encrypt"}}, benchSeal},
	{"open-aes-256", benchKey{hsm.PurposeSeal, hsm.AES256}, [][2]string{needAES, {"CKM_AES_GCM", "decrypt"}}, benchOpen},
	{"random", benchKey{}, nil, benchRandom},
}

func benchWorkNames() []string {
	names := make([]string, len(benchWorks))
	for i, w := range benchWorks {
		names[i] = w.name
	}
	return names
}

// benchKeys are the keys that works need.
func benchKeys(works []benchWork) map[benchKey]bool {
	keys := map[benchKey]bool{}
	for _, w := range works {
		if w.key != (benchKey{}) {
			keys[w.key] = true
		}
	}
	return keys
}

// benchMechanisms are the mechanisms of the token with the uses that it says they have.
func benchMechanisms(ctx context.Context, token *hsm.Token) (map[[2]string]bool, error) {
	list, err := token.Mechanisms(ctx)
	if err != nil {
		return nil, err
	}
	able := map[[2]string]bool{}
	for _, m := range list {
		for _, use := range m.Uses {
			able[[2]string{m.Name, use}] = true
		}
	}
	return able, nil
}

// lacks names a mechanism that w needs and the token does not have.
func (w benchWork) lacks(able map[[2]string]bool) string {
	for _, need := range w.needs {
		if !able[need] {
			return need[0]
		}
	}
	return ""
}

// accountBytes is as long as what the parties seal and authenticate: an account number with a few bytes
// around it.
const accountBytes = 32

func benchSign(opts crypto.SignerOpts) func(context.Context, *hsm.Token, string) (func(context.Context) error, error) {
	return func(ctx context.Context, token *hsm.Token, label string) (func(context.Context) error, error) {
		key, err := token.Signer(ctx, label)
		size := 32 // of a message for Ed25519, which has no digest
		if hash := opts.HashFunc(); hash != 0 {
			size = hash.Size()
		}
		digest := randomBytes(size)
		return func(ctx context.Context) error {
			_, err := key.WithContext(ctx).Sign(nil, digest, opts)
			return err
		}, err
	}
}

func benchDecrypt(ctx context.Context, token *hsm.Token, label string) (func(context.Context) error, error) {
	key, err := token.Decrypter(ctx, label)
	if err != nil {
		return nil, err
	}
	secret, err := rsa.EncryptOAEP(crypto.SHA256.New(), rand.Reader, key.Public().(*rsa.PublicKey), randomBytes(accountBytes), nil)
	return func(ctx context.Context) error {
		_, err := key.WithContext(ctx).Decrypt(nil, secret, &rsa.OAEPOptions{Hash: crypto.SHA256})
		return err
	}, err
}

func benchMAC(ctx context.Context, token *hsm.Token, label string) (func(context.Context) error, error) {
	key, err := token.MAC(ctx, label)
	data := randomBytes(accountBytes)
	return func(ctx context.Context) error {
		_, err := key.WithContext(ctx).Sum(data)
		return err
	}, err
}

func benchSeal(ctx context.Context, token *hsm.Token, label string) (func(context.Context) error, error) {
	key, err := token.Sealer(ctx, label)
	data := randomBytes(accountBytes)
	return func(ctx context.Context) error {
		_, err := key.WithContext(ctx).Seal(data, nil)
		return err
	}, err
}

func benchOpen(ctx context.Context, token *hsm.Token, label string) (func(context.Context) error, error) {
	key, err := token.Sealer(ctx, label)
	if err != nil {
		return nil, err
	}
	sealed, err := key.WithContext(ctx).Seal(randomBytes(accountBytes), nil)
	return func(ctx context.Context) error {
		_, err := key.WithContext(ctx).Open(sealed, nil)
		return err
	}, err
}

func benchRandom(_ context.Context, token *hsm.Token, _ string) (func(context.Context) error, error) {
	return func(ctx context.Context) error {
		_, err := token.Random(ctx, accountBytes)
		return err
	}, nil
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// measure has callers do something over and over, all at once, for as long as turn. What each does first,
// when the token opens a session for it, does not count.
func measure(ctx context.Context, callers int, turn time.Duration, do func(context.Context) error) (benchResult, error) {
	took := make([][]time.Duration, callers)
	errs := make([]error, callers)
	each := func(f func(i int) error) error {
		var all sync.WaitGroup
		for i := range callers {
			all.Go(func() { errs[i] = f(i) })
		}
		all.Wait()
		return errors.Join(errs...)
	}
	if err := each(func(int) error { return do(ctx) }); err != nil {
		return benchResult{}, err
	}
	start := time.Now()
	err := each(func(i int) error {
		for before := time.Now(); before.Sub(start) < turn; {
			if err := do(ctx); err != nil {
				return err
			}
			after := time.Now()
			took[i] = append(took[i], after.Sub(before))
			before = after
		}
		return nil
	})
	whole := time.Since(start)
	if err != nil {
		return benchResult{}, err
	}
	times := slices.Concat(took...)
	if len(times) == 0 {
		return benchResult{}, errors.New("nothing was done in this time: give more --seconds")
	}
	slices.Sort(times)
	at := func(percent int) float64 { return milliseconds(times[(len(times)-1)*percent/100]) }
	return benchResult{
		Callers: callers, Operations: len(times), PerSecond: float64(len(times)) / whole.Seconds(),
		P50: at(50), P90: at(90), P99: at(99), Max: at(100),
	}, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
