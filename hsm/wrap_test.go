package hsm_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/miekg/pkcs11"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
	"github.com/setkit/setkit/hsm/hsmtest/faults"
)

var _ interface {
	encoding.TextMarshaler
	encoding.TextUnmarshaler
} = &hsm.WrappedKey{}

func generateWrappable(t testing.TB, tok *hsm.Token, label string, purpose hsm.Purpose, typ hsm.KeyType) hsm.KeyInfo {
	t.Helper()
	info, err := tok.GenerateWrappableKey(t.Context(), label, purpose, typ)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// migration returns two tokens of which the first can wrap what the second can unwrap, with the keys
// labelled backup.
func migration(t testing.TB) (from, to *hsm.Token) {
	t.Helper()
	from, to = hsmtest.New(t).Open(t), hsmtest.New(t).Open(t)
	generateWrappable(t, from, "backup", hsm.PurposeWrap, hsm.AES256)
	receiver := generate(t, to, "receiver", hsm.PurposeUnwrap, hsm.RSA2048)
	w, err := from.WrapFor(t.Context(), "backup", receiver.Public.(*rsa.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := to.Unwrap(t.Context(), "backup", hsm.PurposeUnwrap, "receiver", overText(t, w)); err != nil {
		t.Fatal(err)
	}
	return from, to
}

// overText returns w as it comes out of its text.
func overText(t testing.TB, w *hsm.WrappedKey) *hsm.WrappedKey {
	t.Helper()
	text, err := w.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	var got hsm.WrappedKey
	if err := got.UnmarshalText(text); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if diff := cmp.Diff(w, &got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the text has another key (-want +got):\n%s", diff)
	}
	return &got
}

func TestKeysMoveBetweenTokens(t *testing.T) {
	t.Parallel()
	from, to := migration(t)
	tests := []struct {
		label   string
		purpose hsm.Purpose
		typ     hsm.KeyType
		arrives hsm.KeyType // as SoftHSM tells it
	}{
		{"sign-ec", hsm.PurposeSign, hsm.ECP256, hsm.ECP256},
		{"sign-rsa", hsm.PurposeSign, hsm.RSA2048, hsm.RSA2048},
		{"cert-sign", hsm.PurposeCertSign, hsm.ECP384, hsm.ECP384},
		{"key-exchange", hsm.PurposeKeyExchange, hsm.RSA2048, hsm.RSA2048},
		{"unwrap", hsm.PurposeUnwrap, hsm.RSA2048, hsm.RSA2048},
		{"derive", hsm.PurposeDerive, hsm.ECP384, hsm.ECP384},
		{"mac", hsm.PurposeMAC, hsm.HMACSHA256, hsm.HMACSHA256},
		{"cmac", hsm.PurposeMAC, hsm.AES256, hsm.AES},
		{"seal", hsm.PurposeSeal, hsm.AES256, hsm.AES},
		{"seal-128", hsm.PurposeSeal, hsm.AES128, hsm.AES},
		{"wrap", hsm.PurposeWrap, hsm.AES128, hsm.AES},
	}
	for _, tt := range tests {
		made := generateWrappable(t, from, tt.label, tt.purpose, tt.typ)
		if !made.Extractable || made.NeverExtractable || !made.Sensitive || !made.AlwaysSensitive || !made.Local || made.Modifiable {
			t.Errorf("wrappable key %+v is not sensitive, extractable and local", made)
		}
		w, err := from.Wrap(t.Context(), tt.label, "backup")
		if err != nil {
			t.Fatal(err)
		}
		if isPair := made.SPKI != nil; w.Type != tt.typ || w.Purpose != tt.purpose || w.ID != made.ID || !bytes.Equal(w.SPKI, made.SPKI) || (len(w.CheckValue) == 3) == isPair {
			t.Errorf("%s wrapped says %+v of itself, want what the token says: %+v", tt.label, w, made)
		}
		got, err := to.Unwrap(t.Context(), tt.label, tt.purpose, "backup", overText(t, w))
		if err != nil {
			t.Fatal(err)
		}
		want := hsm.KeyInfo{
			Label: tt.label, ID: made.ID, Type: tt.arrives, Purpose: tt.purpose, Usages: made.Usages,
			Private: true, Sensitive: true, SPKI: made.SPKI, Public: made.Public,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s arrives differently (-want +got):\n%s", tt.label, diff)
		}
		if _, err := to.Wrap(t.Context(), tt.label, "wrap"); tt.label != "wrap" && err == nil {
			t.Errorf("%s can be wrapped again", tt.label)
		}
	}
	if n := unfinished(t, to); n != 0 {
		t.Errorf("%d unfinished keys are left", n)
	}
	checkMovedPairs(t, from, to)
	checkMovedSecrets(t, from, to)
}

// checkMovedPairs uses moved keys in their new token, and checks with the public keys of the old one.
func checkMovedPairs(t *testing.T, from, to *hsm.Token) {
	t.Helper()
	digest := sha256.Sum256([]byte("m"))
	for _, label := range []string{"sign-ec", "sign-rsa", "cert-sign"} {
		pub, err := from.PublicKey(t.Context(), label)
		if err != nil {
			t.Fatal(err)
		}
		key, err := to.Signer(t.Context(), label)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := key.Sign(nil, digest[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		checkSignature(t, pub, digest[:], sig, crypto.SHA256)
	}
	pub, err := from.PublicKey(t.Context(), "key-exchange")
	if err != nil {
		t.Fatal(err)
	}
	ciphertext, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, pub.(*rsa.PublicKey), []byte("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := to.Decrypter(t.Context(), "key-exchange")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := key.Decrypt(nil, ciphertext, &rsa.OAEPOptions{Hash: crypto.SHA256}); err != nil || string(got) != "secret" {
		t.Errorf("the moved key decrypts %q, %v", got, err)
	}
	peer, err := ecdh.P384().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var secrets [2][]byte
	for i, tok := range []*hsm.Token{from, to} {
		d, err := tok.Deriver(t.Context(), "derive")
		if err != nil {
			t.Fatal(err)
		}
		if secrets[i], err = d.ECDH(peer.PublicKey()); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(secrets[0], secrets[1]) {
		t.Errorf("the moved key derives another secret")
	}
}

// checkMovedSecrets lets either token check what the other has made.
func checkMovedSecrets(t *testing.T, from, to *hsm.Token) {
	t.Helper()
	for label, find := range map[string]func(*hsm.Token, context.Context, string) (*hsm.MAC, error){
		"mac": (*hsm.Token).MAC, "cmac": (*hsm.Token).CMAC,
	} {
		var sums [2][]byte
		for i, tok := range []*hsm.Token{from, to} {
			mac, err := find(tok, t.Context(), label)
			if err != nil {
				t.Fatal(err)
			}
			if sums[i], err = mac.Sum([]byte("4111111111111111")); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(sums[0], sums[1]) {
			t.Errorf("the moved key %q computes %x, want %x", label, sums[1], sums[0])
		}
	}
	for _, label := range []string{"seal", "seal-128"} {
		for _, way := range [][2]*hsm.Token{{from, to}, {to, from}} {
			sealer, err := way[0].Sealer(t.Context(), label)
			if err != nil {
				t.Fatal(err)
			}
			sealed, err := sealer.Seal([]byte("4111111111111111"), nil)
			if err != nil {
				t.Fatal(err)
			}
			opener, err := way[1].Sealer(t.Context(), label)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := opener.Open(sealed, nil); err != nil || string(got) != "4111111111111111" {
				t.Errorf("%s: the other token opens %q, %v", label, got, err)
			}
		}
	}
}

// unfinished counts the keys of a token that were left while they were made.
func unfinished(t *testing.T, tok *hsm.Token) (n int) {
	t.Helper()
	keys, err := tok.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if strings.HasPrefix(k.Label, "unfinished-") {
			n++
		}
	}
	return n
}

func TestWrapRefuses(t *testing.T) {
	t.Parallel()
	from, to := migration(t)
	generate(t, from, "fixed", hsm.PurposeSign, hsm.ECP256)
	generate(t, from, "fixed-mac", hsm.PurposeMAC, hsm.HMACSHA256)
	generateWrappable(t, from, "movable", hsm.PurposeSign, hsm.ECP256)
	generateWrappable(t, from, "seal", hsm.PurposeSeal, hsm.AES256)
	generateWrappable(t, to, "movable", hsm.PurposeSign, hsm.ECP256)
	receiver, err := to.PublicKey(t.Context(), "receiver")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(hsm.StoreSecret(t.Context(), from, "nameless", pkcs11.CKK_AES, "encrypt", "decrypt"),
		hsm.StoreSecret(t.Context(), from, "generic-wrap", pkcs11.CKK_GENERIC_SECRET, "wrap")); err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	wrap := func(tok *hsm.Token, label, with string) func() (*hsm.WrappedKey, error) {
		return func() (*hsm.WrappedKey, error) { return tok.Wrap(t.Context(), label, with) }
	}
	wrapFor := func(label string, pub *rsa.PublicKey) func() (*hsm.WrappedKey, error) {
		return func() (*hsm.WrappedKey, error) { return from.WrapFor(t.Context(), label, pub) }
	}
	tests := []struct {
		name    string
		f       func() (*hsm.WrappedKey, error)
		matches error
		want    string
	}{
		{"key that stays", wrap(from, "fixed", "backup"), hsm.ErrNotPermitted, `it was not made as wrappable`},
		{"secret that stays", wrapFor("fixed-mac", receiver.(*rsa.PublicKey)), hsm.ErrNotPermitted, "not made as wrappable"},
		{"with a key that encrypts", wrap(from, "movable", "seal"), hsm.ErrNotPermitted, `"seal" is not an AES key for wrap`},
		{"with the key that unwraps", wrap(to, "movable", "backup"), hsm.ErrNotPermitted, `"backup" is not an AES key for wrap`},
		{"with a pair", wrap(to, "movable", "receiver"), hsm.ErrNotPermitted, "not an AES key for wrap"},
		{"with a key that is not AES", wrap(from, "movable", "generic-wrap"), hsm.ErrNotPermitted, `"generic-wrap" is not an AES key for wrap`},
		{"key without a CKA_ID", wrap(from, "nameless", "backup"), nil, "it has no CKA_ID"},
		{"with itself", wrap(from, "backup", "backup"), nil, "itself"},
		{"no such key", wrap(from, "none", "backup"), hsm.ErrNotFound, `"none"`},
		{"no such wrapping key", wrap(from, "movable", "none"), hsm.ErrNotFound, `"none"`},
		{"private key for RSA", wrapFor("movable", receiver.(*rsa.PublicKey)), nil, "wrap it with an AES key"},
		{"receiver with an even modulus", wrapFor("seal", &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 2047), E: 65537}), nil, "not an RSA key"},
		{"receiver with an even exponent", wrapFor("seal", &rsa.PublicKey{N: receiver.(*rsa.PublicKey).N, E: 65536}), nil, "not an RSA key"},
		{"receiver with the exponent 1", wrapFor("seal", &rsa.PublicKey{N: receiver.(*rsa.PublicKey).N, E: 1}), nil, "not an RSA key"},
		{"huge receiver", wrapFor("seal", &rsa.PublicKey{N: new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 16384), big.NewInt(1)), E: 65537}), nil, "not an RSA key"},
		{"negative receiver", wrapFor("seal", &rsa.PublicKey{N: new(big.Int).Neg(receiver.(*rsa.PublicKey).N), E: 65537}), nil, "not an RSA key"},
		{"small receiver", wrapFor("seal", &small.PublicKey), nil, "not an RSA key of 2048 to 16384 bits"},
		{"no receiver", wrapFor("seal", nil), nil, "not an RSA key of 2048 to 16384 bits"},
	}
	for _, tt := range tests {
		w, err := tt.f()
		if w != nil || err == nil || !strings.Contains(err.Error(), tt.want) || tt.matches != nil && !errors.Is(err, tt.matches) {
			t.Errorf("%s: got %v, %v; want %q", tt.name, w, err, tt.want)
		}
	}
}

// The receiver's public key is in the token only while a key is wrapped for it.
func TestWrapForLeavesNothing(t *testing.T) {
	t.Parallel()
	from, to := hsmtest.New(t).Open(t), hsmtest.New(t).Open(t)
	generateWrappable(t, from, "seal", hsm.PurposeSeal, hsm.AES256)
	receiver := generate(t, to, "receiver", hsm.PurposeUnwrap, hsm.RSA2048).Public.(*rsa.PublicKey)
	for range 2 {
		if _, err := from.WrapFor(t.Context(), "seal", receiver); err != nil {
			t.Fatal(err)
		}
		if got := objects(t, from); got != 1 {
			t.Errorf("%d objects in the token, want the key alone", got)
		}
	}
}

func TestUnwrapRefuses(t *testing.T) {
	t.Parallel()
	from, to := migration(t)
	generateWrappable(t, from, "ec", hsm.PurposeSign, hsm.ECP256)
	other := generateWrappable(t, from, "other", hsm.PurposeSign, hsm.ECP256)
	generateWrappable(t, from, "mac", hsm.PurposeMAC, hsm.HMACSHA256)
	generateWrappable(t, from, "backup-2", hsm.PurposeWrap, hsm.AES256)
	generate(t, to, "taken", hsm.PurposeSign, hsm.ECP256)
	wrapped := func(label, with string) *hsm.WrappedKey {
		t.Helper()
		w, err := from.Wrap(t.Context(), label, with)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	ec, mac, second := wrapped("ec", "backup"), wrapped("mac", "backup"), wrapped("ec", "backup-2")
	receiver, err := to.PublicKey(t.Context(), "receiver")
	if err != nil {
		t.Fatal(err)
	}
	byRSA, err := from.WrapFor(t.Context(), "mac", receiver.(*rsa.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	kek, err := from.WrapFor(t.Context(), "backup-2", receiver.(*rsa.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	generateWrappable(t, from, "rsa", hsm.PurposeSign, hsm.RSA2048)
	rsaKey := wrapped("rsa", "backup")
	moved := map[string]*hsm.WrappedKey{}
	for label, k := range map[string]struct {
		purpose hsm.Purpose
		typ     hsm.KeyType
	}{"derive": {hsm.PurposeDerive, hsm.ECP256}, "kx": {hsm.PurposeKeyExchange, hsm.RSA2048}, "unwrap": {hsm.PurposeUnwrap, hsm.RSA2048}} {
		generateWrappable(t, from, label, k.purpose, k.typ)
		moved[label] = wrapped(label, "backup")
	}
	changed := func(w *hsm.WrappedKey, f func(*hsm.WrappedKey)) *hsm.WrappedKey {
		c := *w
		c.Wrapped, c.CheckValue = slices.Clone(w.Wrapped), slices.Clone(w.CheckValue)
		f(&c)
		return &c
	}
	before, err := hsm.CountObjects(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		label   string
		purpose hsm.Purpose
		with    string
		w       *hsm.WrappedKey
		matches error
		want    string
	}{
		{"label taken", "taken", hsm.PurposeSign, "backup", ec, hsm.ErrKeyExists, "taken"},
		{"octet changed", "k", hsm.PurposeSign, "backup", changed(ec, func(w *hsm.WrappedKey) { w.Wrapped[20] ^= 1 }), hsm.ErrWrappedKey, "changed since"},
		{"octet of a secret changed", "k", hsm.PurposeMAC, "backup", changed(mac, func(w *hsm.WrappedKey) { w.Wrapped[0] ^= 1 }), hsm.ErrWrappedKey, "changed since"},
		{"octet by RSA changed", "k", hsm.PurposeMAC, "receiver", changed(byRSA, func(w *hsm.WrappedKey) { w.Wrapped[99] ^= 1 }), hsm.ErrWrappedKey, "changed since"},
		{"truncated", "k", hsm.PurposeSign, "backup", changed(ec, func(w *hsm.WrappedKey) { w.Wrapped = w.Wrapped[:len(w.Wrapped)-8] }), hsm.ErrWrappedKey, "changed since"},
		{"wrapped with another key", "k", hsm.PurposeSign, "backup", second, hsm.ErrWrappedKey, second.With},
		{"public key of another", "k", hsm.PurposeSign, "backup", changed(ec, func(w *hsm.WrappedKey) { w.SPKI = other.SPKI }), nil, "another public key"},
		{"derivation key of another", "k", hsm.PurposeDerive, "backup", changed(moved["derive"], func(w *hsm.WrappedKey) { w.SPKI = other.SPKI }), nil, "another public key"},
		{"decryption key of another", "k", hsm.PurposeKeyExchange, "backup", changed(moved["kx"], func(w *hsm.WrappedKey) { w.SPKI = rsaKey.SPKI }), nil, "prove"},
		{"unwrapping key of another", "k", hsm.PurposeUnwrap, "backup", changed(moved["unwrap"], func(w *hsm.WrappedKey) { w.SPKI = rsaKey.SPKI }), nil, "prove"},
		{"check value of another", "k", hsm.PurposeMAC, "backup", changed(mac, func(w *hsm.WrappedKey) { w.CheckValue[0] ^= 1 }), nil, "check value"},
		{"with a pair that cannot", "k", hsm.PurposeSign, "receiver", ec, nil, "does not unwrap what was wrapped by"},
		{"by RSA with AES", "k", hsm.PurposeMAC, "backup", byRSA, nil, "does not unwrap what was wrapped by"},
		{"with a signing key", "k", hsm.PurposeSign, "taken", ec, hsm.ErrNotPermitted, "not a key for unwrap"},
		{"no such unwrapping key", "k", hsm.PurposeSign, "none", ec, hsm.ErrNotFound, `"none"`},
		{"purpose of another type", "k", hsm.PurposeKeyExchange, "backup", ec, nil, "cannot be of type"},
		{"purpose of another class", "k", hsm.PurposeSeal, "backup", mac, nil, "cannot be of type"},
		{"private key by RSA", "k", hsm.PurposeSign, "receiver", changed(ec, func(w *hsm.WrappedKey) { w.Mechanism = "rsa-oaep-sha256" }), nil, "a private key is not wrapped by RSA"},
		{"secret with a public key", "k", hsm.PurposeMAC, "backup", changed(mac, func(w *hsm.WrappedKey) { w.SPKI = other.SPKI }), nil, "only a key pair a public key"},
		{"pair with a check value", "k", hsm.PurposeSign, "backup", changed(ec, func(w *hsm.WrappedKey) { w.CheckValue = []byte{1, 2, 3} }), nil, "only a secret key has a check value"},
		{"public key of another type", "k", hsm.PurposeSign, "backup", changed(ec, func(w *hsm.WrappedKey) { w.Type = hsm.RSA2048 }), nil, `a public key of type "ec-p256"`},
		{"secret of another length", "k", hsm.PurposeSeal, "backup", changed(mac, func(w *hsm.WrappedKey) { w.Type, w.Purpose = hsm.AES128, hsm.PurposeSeal }), nil, "are not a key of type aes-128"},
		{"too many octets", "k", hsm.PurposeSign, "backup", changed(ec, func(w *hsm.WrappedKey) { w.Wrapped = make([]byte, 4104) }), nil, "4104 bytes"},
		{"public key in another form", "k", hsm.PurposeSign, "backup", changed(ec, func(w *hsm.WrappedKey) { w.SPKI = shifted(t, w.SPKI) }), nil, "not in its usual form"},
		{"CKA_ID in capitals", "k", hsm.PurposeSign, "backup", changed(ec, func(w *hsm.WrappedKey) { w.ID = "AB" }), nil, "lower case"},
		{"another purpose", "cert-sign", hsm.PurposeCertSign, "backup", ec, nil, "says that it is for sign, not for cert-sign"},
		{"wrapping key for data", "k", hsm.PurposeSeal, "receiver", kek, nil, "says that it is for wrap, not for seal"},
		{"unknown purpose", "k", "teleport", "backup", ec, nil, "unknown purpose"},
		{"label of certificate keys", "cert-sign", hsm.PurposeSign, "backup", ec, nil, "cert-sign"},
		{"reserved label", "unfinished-1", hsm.PurposeSign, "backup", ec, nil, "being made"},
		{"no wrapped octets", "k", hsm.PurposeSign, "backup", changed(ec, func(w *hsm.WrappedKey) { w.Wrapped = nil }), nil, "0 bytes"},
		{"nothing", "k", hsm.PurposeSign, "backup", nil, nil, "no wrapped key"},
	}
	for _, tt := range tests {
		_, err := to.Unwrap(t.Context(), tt.label, tt.purpose, tt.with, tt.w)
		if err == nil || !strings.Contains(err.Error(), tt.want) || tt.matches != nil && !errors.Is(err, tt.matches) || errors.Is(err, hsm.ErrUnavailable) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if n, err := hsm.CountObjects(t.Context(), to); err != nil || n != before {
			t.Fatalf("%s left %d objects in the token, %v; want %d", tt.name, n, err, before)
		}
	}
	if _, err := to.Unwrap(t.Context(), "k", hsm.PurposeSign, "backup", ec); err != nil {
		t.Fatal(err)
	}
	if _, err := to.Unwrap(t.Context(), "k-2", hsm.PurposeSign, "backup", ec); err == nil || !strings.Contains(err.Error(), `"k" in the token has the CKA_ID`) {
		t.Errorf("the same key under a second label: %v, want a refusal that names the first", err)
	}
	// A public key without its private key has to go first too.
	if err := hsm.DestroyPrivate(t.Context(), to, "k"); err != nil {
		t.Fatal(err)
	}
	if _, err := to.Unwrap(t.Context(), "k", hsm.PurposeSign, "backup", ec); err == nil || !strings.Contains(err.Error(), "has to go first") {
		t.Errorf("beside a public key with its CKA_ID: %v, want a refusal", err)
	}
	if err := to.DeleteKey(t.Context(), "k", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := to.Unwrap(t.Context(), "k", hsm.PurposeSign, "backup", ec); err != nil {
		t.Error(err)
	}
}

// shifted is an EC public key, with the same bits one to the left and the last one unused.
func shifted(t *testing.T, spki []byte) []byte {
	t.Helper()
	var key struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(spki, &key); err != nil {
		t.Fatal(err)
	}
	bits := new(big.Int).Lsh(new(big.Int).SetBytes(key.Key.Bytes), 1)
	key.Key = asn1.BitString{Bytes: bits.FillBytes(make([]byte, len(key.Key.Bytes))), BitLength: key.Key.BitLength - 1}
	der, err := asn1.Marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Nothing is left of a key when the token fails on the last step, and nothing when it destroys nothing.
func TestUnwrapCutShort(t *testing.T) {
	t.Parallel()
	from, m := hsmtest.New(t).Open(t), faults.New(t)
	to := m.Open(t)
	generateWrappable(t, from, "backup", hsm.PurposeWrap, hsm.AES256)
	generateWrappable(t, from, "ec", hsm.PurposeSign, hsm.ECP256)
	generateWrappable(t, from, "mac", hsm.PurposeMAC, hsm.HMACSHA256)
	receiver := generate(t, to, "receiver", hsm.PurposeUnwrap, hsm.RSA2048).Public.(*rsa.PublicKey)
	kek, err := from.WrapFor(t.Context(), "backup", receiver)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := to.Unwrap(t.Context(), "backup", hsm.PurposeUnwrap, "receiver", kek); err != nil {
		t.Fatal(err)
	}
	before := objects(t, to)
	for _, tt := range []struct {
		label   string
		purpose hsm.Purpose
		times   int
	}{{"ec", hsm.PurposeSign, 1}, {"mac", hsm.PurposeMAC, faults.Forever}} {
		w, err := from.Wrap(t.Context(), tt.label, "backup")
		if err != nil {
			t.Fatal(err)
		}
		m.Fail(faults.DestroyObject, pkcs11.CKR_ACTION_PROHIBITED, tt.times)
		if _, err := to.Unwrap(t.Context(), tt.label, tt.purpose, "backup", w); err == nil || !strings.Contains(err.Error(), "CKR_ACTION_PROHIBITED") {
			t.Errorf("%s: %v, want the token's refusal", tt.label, err)
		}
		m.Clear()
		if got := objects(t, to); got != before {
			t.Errorf("%s: %d objects in the token, want the %d of before", tt.label, got, before)
		}
		if _, err := to.Unwrap(t.Context(), tt.label, tt.purpose, "backup", w); err != nil {
			t.Error(err)
		}
		before = objects(t, to)
	}
	m.Fail(faults.DestroyObject, pkcs11.CKR_ACTION_PROHIBITED, 1)
	if _, err := to.GenerateKey(t.Context(), "pair", hsm.PurposeSign, hsm.ECP256); err == nil {
		t.Error("a pair was made although its making failed on the last step")
	}
	if got := objects(t, to); got != before {
		t.Errorf("generation: %d objects in the token, want the %d of before", got, before)
	}
}

// An AES key wraps or unwraps, and the token itself holds it to that.
func TestWrappingKeyDoesOneThing(t *testing.T) {
	t.Parallel()
	from, to := migration(t)
	generateWrappable(t, from, "k", hsm.PurposeMAC, hsm.HMACSHA256)
	w, err := from.Wrap(t.Context(), "k", "backup")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := from.Unwrap(t.Context(), "k-2", hsm.PurposeMAC, "backup", w); !errors.Is(err, hsm.ErrNotPermitted) {
		t.Errorf("unwrapping with the key that wrapped: %v, want ErrNotPermitted", err)
	}
	if err := hsm.TryToUnwrap(t.Context(), from, "backup", w); err == nil || !strings.Contains(err.Error(), "CKR_KEY_FUNCTION_NOT_PERMITTED") {
		t.Errorf("the token's answer to unwrapping with a key for wrap: %v, want CKR_KEY_FUNCTION_NOT_PERMITTED", err)
	}
	if err := hsm.TryToUnwrap(t.Context(), to, "backup", w); err != nil {
		t.Errorf("unwrapping with the key for unwrap: %v", err)
	}
	for _, typ := range []hsm.KeyType{hsm.AES128, hsm.AES256} {
		if _, err := from.GenerateKey(t.Context(), "x", hsm.PurposeUnwrap, typ); err == nil || !strings.Contains(err.Error(), "not generated") {
			t.Errorf("generating an AES key for unwrap: %v, want a refusal", err)
		}
	}
}

// A token that does not encrypt in ECB mode may still tell a key's check value.
func TestCheckValueWithoutECB(t *testing.T) {
	t.Parallel()
	m := faults.New(t)
	from, to := m.Open(t), hsmtest.New(t).Open(t)
	generateWrappable(t, from, "seal", hsm.PurposeSeal, hsm.AES256)
	receiver := generate(t, to, "receiver", hsm.PurposeUnwrap, hsm.RSA2048).Public.(*rsa.PublicKey)
	want, err := from.WrapFor(t.Context(), "seal", receiver)
	if err != nil {
		t.Fatal(err)
	}
	m.Fail(faults.EncryptInit, pkcs11.CKR_MECHANISM_INVALID, faults.Forever)
	got, err := from.WrapFor(t.Context(), "seal", receiver)
	if err != nil || len(got.CheckValue) != 3 || !bytes.Equal(got.CheckValue, want.CheckValue) {
		t.Errorf("check value %x, %v; want %x", got.CheckValue, err, want.CheckValue)
	}
}

// SoftHSM generates Ed25519 keys and cannot wrap them: the error says so by its name.
func TestWrapOfKeyThatTokenCannotWrap(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	generateWrappable(t, tok, "ed", hsm.PurposeSign, hsm.Ed25519)
	generate(t, tok, "backup", hsm.PurposeWrap, hsm.AES256)
	if _, err := tok.Wrap(t.Context(), "ed", "backup"); err == nil || !strings.Contains(err.Error(), "CKR_KEY_NOT_WRAPPABLE") {
		t.Errorf("wrapping an Ed25519 key: %v, want CKR_KEY_NOT_WRAPPABLE", err)
	}
}

// sample is a wrapped key that could be one.
func sample() *hsm.WrappedKey {
	return &hsm.WrappedKey{
		Mechanism: "aes-kw", Type: hsm.AES128, Purpose: hsm.PurposeSeal, ID: "0102", With: "a0", CheckValue: []byte{1, 2, 3}, Wrapped: bytes.Repeat([]byte{7}, 24),
	}
}

func TestWrappedKeyText(t *testing.T) {
	t.Parallel()
	text, err := sample().MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	want := `-----BEGIN SETKIT WRAPPED KEY-----
Check-Value: 010203
Key-ID: 0102
Key-Purpose: seal
Key-Type: aes-128
Mechanism: aes-kw
Unwrap-With: a0

BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH
-----END SETKIT WRAPPED KEY-----
`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("text differs (-want +got):\n%s", diff)
	}
	overText(t, sample())
	var long hsm.WrappedKey
	if err := long.UnmarshalText(make([]byte, 16<<10+1)); err == nil || !strings.Contains(err.Error(), "longer than 16384 bytes") {
		t.Errorf("a long text: %v, want that it is longer than 16384 bytes", err)
	}
	for name, bad := range map[string]string{
		"empty":             "",
		"text before":       "x\n" + want,
		"text after":        want + "x",
		"twice":             want + want,
		"line ends":         strings.ReplaceAll(want, "\n", "\r\n"),
		"other block":       strings.ReplaceAll(want, "SETKIT WRAPPED", "EC PRIVATE"),
		"header added":      strings.Replace(want, "Key-ID", "Comment: x\nKey-ID", 1),
		"upper case":        strings.Replace(want, "a0", "A0", 1),
		"unknown type":      strings.Replace(want, "aes-128", "des", 1),
		"unknown purpose":   strings.Replace(want, "seal", "teleport", 1),
		"purpose of pairs":  strings.Replace(want, "seal", "sign", 1),
		"unsized type":      strings.Replace(want, "aes-128", "aes", 1),
		"unknown mechanism": strings.Replace(want, "aes-kw", "rot13", 1),
		"no ID":             strings.Replace(want, "Key-ID: 0102\n", "", 1),
		"long check value":  strings.Replace(want, "010203", "01020304", 1),
		"other length":      strings.Replace(want, "aes-128", "aes-256", 1),
		"pair without SPKI": strings.Replace(want, "aes-128", "ec-p256", 1),
		"private by RSA":    strings.NewReplacer("aes-128", "ec-p256", "aes-kw", "rsa-oaep-sha1").Replace(want),
		"octets changed":    strings.Replace(want, "BwcH", "Bw=H", 1),
		"too long":          want + strings.Repeat("\n", 16<<10),
	} {
		w := hsm.WrappedKey{Mechanism: "untouched"}
		if err := w.UnmarshalText([]byte(bad)); err == nil || w.Mechanism != "untouched" {
			t.Errorf("%s: %v, read %+v; want a refusal that leaves the key alone", name, err, w)
		}
	}
}

func FuzzWrappedKey(f *testing.F) {
	text, err := sample().MarshalText()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "SETKIT WRAPPED KEY", Bytes: make([]byte, 24)}))
	f.Add([]byte("-----BEGIN SETKIT WRAPPED KEY-----\nKey-Type: rsa-2048\nPublic-Key: MA==\n\nAA==\n-----END SETKIT WRAPPED KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var w hsm.WrappedKey
		if w.UnmarshalText(text) != nil {
			return
		}
		again, err := w.MarshalText()
		if err != nil || !bytes.Equal(again, text) {
			t.Fatalf("read and written again, %v:\n%s", err, again)
		}
	})
}
