package hsmtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/setkit/setkit/hsm"
)

// callers is how many goroutines use a token at once.
const callers = 16

var hashes = []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}

func digestOf(h crypto.Hash, message []byte) []byte {
	d := h.New()
	d.Write(message)
	return d.Sum(nil)
}

func (s *suite) testSign(t *testing.T) {
	message := make([]byte, 100)
	for k, label := range s.keys {
		if k.purpose != hsm.PurposeSign && k.purpose != hsm.PurposeCertSign {
			continue
		}
		key, err := s.tok.Signer(t.Context(), label)
		if err != nil {
			t.Error(err)
			continue
		}
		if k.typ == hsm.Ed25519 {
			rand.Read(message)
			sig, err := key.Sign(nil, message, crypto.Hash(0))
			if err == nil {
				err = verify(key.Public(), message, sig, crypto.Hash(0))
			}
			if err != nil {
				t.Errorf("%s: %v", k, err)
			}
			continue
		}
		for _, h := range hashes {
			options := []crypto.SignerOpts{h}
			if _, ok := key.Public().(*rsa.PublicKey); ok && s.has(fmt.Sprintf("PSS with a %s", k.typ), "CKM_RSA_PKCS_PSS") {
				options = append(options, &rsa.PSSOptions{Hash: h, SaltLength: rsa.PSSSaltLengthEqualsHash})
			}
			for _, opts := range options {
				rand.Read(message)
				digest := digestOf(h, message)
				sig, err := key.Sign(nil, digest, opts)
				if err != nil {
					t.Errorf("%s with %v, %T: %v", k, h, opts, err)
					continue
				}
				if err := verify(key.Public(), digest, sig, opts); err != nil {
					t.Errorf("%s with %v, %T: %v", k, h, opts, err)
				}
			}
		}
	}
}

func verify(pub crypto.PublicKey, digest, sig []byte, opts crypto.SignerOpts) error {
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		if pss, ok := opts.(*rsa.PSSOptions); ok {
			return rsa.VerifyPSS(pub, pss.Hash, digest, sig, pss)
		}
		return rsa.VerifyPKCS1v15(pub, opts.HashFunc(), digest, sig)
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(pub, digest, sig) {
			return errors.New("the ECDSA signature does not verify")
		}
		return nil
	case ed25519.PublicKey:
		if !ed25519.Verify(pub, digest, sig) {
			return errors.New("the Ed25519 signature does not verify")
		}
		return nil
	}
	return fmt.Errorf("public key of type %T", pub)
}

func (s *suite) testSignRefuses(t *testing.T) {
	digest := sha256.Sum256(nil)
	for k, label := range s.keys {
		if k.purpose != hsm.PurposeSign {
			continue
		}
		key, err := s.tok.Signer(t.Context(), label)
		if err != nil {
			t.Error(err)
			continue
		}
		for name, sign := range map[string]func() ([]byte, error){
			"no options":   func() ([]byte, error) { return key.Sign(nil, digest[:], nil) },
			"SHA-1":        func() ([]byte, error) { return key.Sign(nil, digest[:20], crypto.SHA1) },
			"short digest": func() ([]byte, error) { return key.Sign(nil, digest[:31], crypto.SHA256) },
			"long digest":  func() ([]byte, error) { return key.Sign(nil, append(digest[:], 0), crypto.SHA256) },
			"PSS, any salt": func() ([]byte, error) {
				return key.Sign(nil, digest[:], &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: 7})
			},
		} {
			if sig, err := sign(); err == nil || sig != nil {
				t.Errorf("%s, %s: got %x, %v; want a refusal", k, name, sig, err)
			}
		}
	}
}

func (s *suite) testDecrypt(t *testing.T) {
	label, ok := s.key(hsm.PurposeKeyExchange, hsm.RSA2048)
	if !ok {
		return
	}
	key, err := s.tok.Decrypter(t.Context(), label)
	if err != nil {
		t.Fatal(err)
	}
	pub := key.Public().(*rsa.PublicKey)
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA1} {
		if !slices.Contains(key.NativeOAEP(), h) {
			s.unsupported = append(s.unsupported, fmt.Sprintf("RSAES-OAEP with %v and labels (decoded outside the token)", h))
		}
		longest := pub.Size() - 2*h.Size() - 2
		for _, n := range []int{0, 1, 16, 100, longest} {
			for _, l := range []string{"", "L", strings.Repeat("label", 20)} {
				message := make([]byte, n)
				rand.Read(message)
				c := encryptOAEP(t, pub, h, message, l)
				got, err := key.Decrypt(nil, c, &rsa.OAEPOptions{Hash: h, Label: []byte(l)})
				if err != nil || !bytes.Equal(got, message) {
					t.Errorf("OAEP with %v, label %q: got %x, %v; want %x", h, l, got, err, message)
				}
			}
		}
		s.badCiphertexts(t, key, h)
	}
}

func encryptOAEP(t *testing.T, pub *rsa.PublicKey, h crypto.Hash, message []byte, label string) []byte {
	t.Helper()
	c, err := rsa.EncryptOAEP(h.New(), rand.Reader, pub, message, []byte(label))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// badCiphertexts: whatever is wrong with a ciphertext, the answer is the same, and the key still works.
func (s *suite) badCiphertexts(t *testing.T, key crypto.Decrypter, h crypto.Hash) {
	t.Helper()
	pub := key.Public().(*rsa.PublicKey)
	good := encryptOAEP(t, pub, h, []byte("secret"), "L")
	other := crypto.SHA256
	if h == crypto.SHA256 {
		other = crypto.SHA1
	}
	//lint:ignore SA1019 what must be refused has to be made first
	v15, err := rsa.EncryptPKCS1v15(rand.Reader, pub, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	flipped := slices.Clone(good)
	flipped[len(flipped)/2] ^= 1
	options := &rsa.OAEPOptions{Hash: h, Label: []byte("L")}
	for name, c := range map[string][]byte{
		"one bit changed": flipped, "shorter": good[1:], "longer": append([]byte{0}, good...), "empty": nil,
		"zero": make([]byte, pub.Size()), "one": append(make([]byte, pub.Size()-1), 1), "the modulus": pub.N.Bytes(),
		"above the modulus": bytes.Repeat([]byte{0xff}, pub.Size()), "other label": encryptOAEP(t, pub, h, []byte("secret"), "M"),
		"no label": encryptOAEP(t, pub, h, []byte("secret"), ""), "other hash": encryptOAEP(t, pub, other, []byte("secret"), "L"),
		"PKCS #1 v1.5": v15,
	} {
		for range 2 {
			if got, err := key.Decrypt(nil, c, options); got != nil || err != rsa.ErrDecryption {
				t.Errorf("OAEP with %v, ciphertext %s: got %x, %v; want rsa.ErrDecryption", h, name, got, err)
			}
		}
	}
	if got, err := key.Decrypt(nil, good, options); err != nil || string(got) != "secret" {
		t.Errorf("OAEP with %v, after bad ciphertexts: got %q, %v; want secret", h, got, err)
	}
}

// mac returns the key labelled label, which authenticates as its type says.
func (s *suite) mac(ctx context.Context, typ hsm.KeyType, label string) (*hsm.MAC, error) {
	if typ == hsm.HMACSHA256 {
		return s.tok.MAC(ctx, label)
	}
	return s.tok.CMAC(ctx, label)
}

func (s *suite) testMAC(t *testing.T) {
	for typ, size := range map[hsm.KeyType]int{hsm.HMACSHA256: sha256.Size, hsm.AES256: aes.BlockSize} {
		first, ok := s.key(hsm.PurposeMAC, typ)
		if !ok {
			continue
		}
		second := s.generate(t, kind{hsm.PurposeMAC, typ})
		seen := map[string]string{}
		for _, label := range []string{first, second} {
			key, err := s.mac(t.Context(), typ, label)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range []int{0, 1, 15, 16, 31, 32, 64, 65, 5000, 1 << 20} {
				data := make([]byte, n)
				sum, err := key.Sum(data)
				if err != nil || len(sum) != size {
					t.Errorf("MAC of %d bytes with %s: %d bytes, %v; want %d", n, typ, len(sum), err, size)
					continue
				}
				if again, err := key.Sum(data); err != nil || !bytes.Equal(again, sum) {
					t.Errorf("MAC of %d bytes with %s, again: %x, %v; want %x", n, typ, again, err, sum)
				}
				what := fmt.Sprintf("%d bytes with %s", n, label)
				if before, ok := seen[string(sum)]; ok {
					t.Errorf("%s have the MAC of %s", what, before)
				}
				seen[string(sum)] = what
			}
		}
	}
}

func (s *suite) testSeal(t *testing.T) {
	for _, typ := range []hsm.KeyType{hsm.AES128, hsm.AES256} {
		label, ok := s.key(hsm.PurposeSeal, typ)
		if !ok {
			continue
		}
		key, err := s.tok.Sealer(t.Context(), label)
		if err != nil {
			t.Fatal(err)
		}
		other, err := s.tok.Sealer(t.Context(), s.generate(t, kind{hsm.PurposeSeal, typ}))
		if err != nil {
			t.Fatal(err)
		}
		sealLengths(t, key)
		sealTampering(t, key, other)
	}
}

func sealLengths(t *testing.T, key *hsm.Sealer) {
	t.Helper()
	for _, n := range []int{1, 15, 16, 17, 1000, 64 << 10} {
		for _, aad := range [][]byte{nil, []byte("account 7"), make([]byte, 64<<10)} {
			plaintext := make([]byte, n)
			rand.Read(plaintext)
			sealed, err := key.Seal(plaintext, aad)
			if err != nil {
				t.Fatal(err)
			}
			if len(sealed) != n+28 || n >= 15 && bytes.Contains(sealed, plaintext) {
				t.Errorf("%d bytes sealed to %d, want %d and nothing of the plaintext", n, len(sealed), n+28)
			}
			if got, err := key.Open(sealed, aad); err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("%d bytes with %d associated do not open: %v", n, len(aad), err)
			}
		}
	}
}

func sealTampering(t *testing.T, key, other *hsm.Sealer) {
	t.Helper()
	plaintext, aad := []byte("4111111111111111"), []byte("account 7")
	sealed, err := key.Seal(plaintext, aad)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := key.Seal(plaintext, aad); err != nil || bytes.Equal(sealed, again) {
		t.Errorf("sealed again: %v, the same %t; want something else", err, bytes.Equal(sealed, again))
	}
	opens := map[string]func() ([]byte, error){
		"other associated data": func() ([]byte, error) { return key.Open(sealed, []byte("account 8")) },
		"no associated data":    func() ([]byte, error) { return key.Open(sealed, nil) },
		"other key":             func() ([]byte, error) { return other.Open(sealed, aad) },
		"cut short":             func() ([]byte, error) { return key.Open(sealed[:len(sealed)-1], aad) },
		"only nonce and tag":    func() ([]byte, error) { return key.Open(sealed[:28], aad) },
		"empty":                 func() ([]byte, error) { return key.Open(nil, aad) },
	}
	for i := range sealed {
		tampered := slices.Clone(sealed)
		tampered[i] ^= 1
		opens[fmt.Sprintf("byte %d changed", i)] = func() ([]byte, error) { return key.Open(tampered, aad) }
	}
	for name, open := range opens {
		if got, err := open(); got != nil || !errors.Is(err, hsm.ErrNotAuthentic) {
			t.Errorf("%s: got %q, %v; want ErrNotAuthentic", name, got, err)
		}
	}
	if got, err := key.Open(sealed, aad); err != nil || !bytes.Equal(got, plaintext) {
		t.Errorf("after all that: got %q, %v; want %q", got, err, plaintext)
	}
}

func (s *suite) testRandom(t *testing.T) {
	seen := map[string]bool{}
	for range 20 {
		b, err := s.tok.Random(t.Context(), 32)
		if err != nil || len(b) != 32 || seen[string(b)] {
			t.Fatalf("got %x, %v, before %t; want 32 new bytes", b, err, seen[string(b)])
		}
		seen[string(b)] = true
	}
	long, err := s.tok.Random(t.Context(), 1<<16)
	if err != nil || len(long) != 1<<16 {
		t.Fatalf("%d bytes, %v; want %d", len(long), err, 1<<16)
	}
	var counts [256]int
	for _, c := range long {
		counts[c]++
	}
	// Each of the 256 values is expected 256 times, with a deviation of 16; this allows for 8 of them.
	for c, n := range counts {
		if n < 128 || n > 384 {
			t.Errorf("byte %#x comes %d times in 64 KiB", c, n)
		}
	}
}

// testParallel uses all keys at once, from more goroutines than the token has sessions for, looks keys up
// meanwhile and makes some.
func (s *suite) testParallel(t *testing.T) {
	var works []func(i int) error
	for k, label := range s.keys {
		if work := s.work(t, k, label); work != nil {
			works = append(works, work)
		}
	}
	works = append(works, func(int) error { _, err := s.tok.Keys(t.Context()); return err })
	if k := (kind{hsm.PurposeSign, hsm.ECP256}); s.keys[k] != "" {
		labels := make(chan string, 4)
		for range cap(labels) {
			labels <- s.label(k)
		}
		works = append(works, func(int) error {
			select {
			case label := <-labels:
				_, err := s.tok.GenerateKey(t.Context(), label, k.purpose, k.typ)
				return err
			default:
				_, err := s.tok.Random(t.Context(), 16)
				return err
			}
		})
	}
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for j := range 2 * len(works) {
				if err := works[(i+j)%len(works)](100*i + j); err != nil {
					t.Errorf("caller %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
}

// work returns a function that uses the key and checks the result.
func (s *suite) work(t *testing.T, k kind, label string) func(int) error {
	t.Helper()
	fatal := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	switch k.purpose {
	case hsm.PurposeSign, hsm.PurposeCertSign:
		key, err := s.tok.Signer(t.Context(), label)
		fatal(err)
		return func(i int) error {
			digest, hash := sha512.Sum512(fmt.Append(nil, i)), crypto.SHA512
			if k.typ == hsm.Ed25519 {
				hash = 0
			}
			sig, err := key.Sign(nil, digest[:], hash)
			if err != nil {
				return err
			}
			return verify(key.Public(), digest[:], sig, hash)
		}
	case hsm.PurposeKeyExchange:
		key, err := s.tok.Decrypter(t.Context(), label)
		fatal(err)
		return func(i int) error {
			want := fmt.Append(nil, "message ", i)
			c, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, key.Public().(*rsa.PublicKey), want, nil)
			if err != nil {
				return err
			}
			got, err := key.Decrypt(nil, c, &rsa.OAEPOptions{Hash: crypto.SHA256})
			return same(got, want, err)
		}
	case hsm.PurposeMAC:
		key, err := s.mac(t.Context(), k.typ, label)
		fatal(err)
		want, err := key.Sum([]byte("x"))
		fatal(err)
		return func(int) error {
			got, err := key.Sum([]byte("x"))
			return same(got, want, err)
		}
	case hsm.PurposeSeal:
		key, err := s.tok.Sealer(t.Context(), label)
		fatal(err)
		return func(i int) error {
			want := fmt.Append(nil, "message ", i)
			sealed, err := key.Seal(want, nil)
			if err != nil {
				return err
			}
			got, err := key.Open(sealed, nil)
			return same(got, want, err)
		}
	}
	return nil
}

func same(got, want []byte, err error) error {
	if err == nil && !bytes.Equal(got, want) {
		return fmt.Errorf("got %x, want %x", got, want)
	}
	return err
}
