package hsm_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
)

func generate(t testing.TB, tok *hsm.Token, label string, purpose hsm.Purpose, typ hsm.KeyType) hsm.KeyInfo {
	t.Helper()
	info, err := tok.GenerateKey(t.Context(), label, purpose, typ)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestGeneratedKeysAreReadBack(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	tests := []struct {
		label   string
		purpose hsm.Purpose
		typ     hsm.KeyType
		usages  []string
	}{
		{"a-sign", hsm.PurposeSign, hsm.ECP256, []string{"sign"}},
		{"b-sign", hsm.PurposeSign, hsm.RSA2048, []string{"sign"}},
		{"cert-sign", hsm.PurposeCertSign, hsm.ECP384, []string{"sign"}},
		{"key-exchange", hsm.PurposeKeyExchange, hsm.RSA2048, []string{"decrypt"}},
		{"pan-lookup", hsm.PurposeMAC, hsm.HMACSHA256, []string{"sign"}},
		{"pan-mac", hsm.PurposeMAC, hsm.AES256, []string{"sign"}},
		{"pan-seal", hsm.PurposeSeal, hsm.AES256, []string{"decrypt", "encrypt"}},
	}
	var want []hsm.KeyInfo
	for _, tt := range tests {
		got := generate(t, tok, tt.label, tt.purpose, tt.typ)
		w := hsm.KeyInfo{
			Label: tt.label, Type: tt.typ, Purpose: tt.purpose, Usages: tt.usages, Private: true, Sensitive: true,
			AlwaysSensitive: true, NeverExtractable: true, Local: true,
		}
		if diff := cmp.Diff(w, got, cmpopts.IgnoreFields(hsm.KeyInfo{}, "ID", "SPKI", "Public")); diff != "" {
			t.Errorf("%s differs (-want +got):\n%s", tt.label, diff)
		}
		want = append(want, got)
	}
	keys, err := tok.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, keys); diff != "" {
		t.Errorf("listing differs from what was generated (-want +got):\n%s", diff)
	}
	for _, k := range keys[:4] {
		if got := hex.EncodeToString(ski(t, k.Public)); k.ID != got {
			t.Errorf("%s has CKA_ID %s, want the subject key identifier %s", k.Label, k.ID, got)
		}
		pub, err := tok.PublicKey(t.Context(), k.Label)
		if err != nil || !pub.(interface{ Equal(crypto.PublicKey) bool }).Equal(k.Public) {
			t.Errorf("PublicKey(%s) = %v, %v; want that of the listing", k.Label, pub, err)
		}
	}
}

func TestSign(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	generate(t, tok, "rsa", hsm.PurposeSign, hsm.RSA2048)
	generate(t, tok, "p256", hsm.PurposeSign, hsm.ECP256)
	generate(t, tok, "p384", hsm.PurposeSign, hsm.ECP384)
	d256, d384, d512 := sha256.Sum256([]byte("m")), sha512.Sum384([]byte("m")), sha512.Sum512([]byte("m"))
	pss := func(h crypto.Hash, salt int) *rsa.PSSOptions { return &rsa.PSSOptions{Hash: h, SaltLength: salt} }
	tests := []struct {
		name, label string
		digest      []byte
		opts        crypto.SignerOpts
		wantErr     string
	}{
		{name: "RSA SHA-256", label: "rsa", digest: d256[:], opts: crypto.SHA256},
		{name: "RSA SHA-384", label: "rsa", digest: d384[:], opts: crypto.SHA384},
		{name: "RSA SHA-512", label: "rsa", digest: d512[:], opts: crypto.SHA512},
		{name: "PSS SHA-256", label: "rsa", digest: d256[:], opts: pss(crypto.SHA256, rsa.PSSSaltLengthEqualsHash)},
		{name: "PSS SHA-384", label: "rsa", digest: d384[:], opts: pss(crypto.SHA384, 48)},
		{name: "PSS SHA-512", label: "rsa", digest: d512[:], opts: pss(crypto.SHA512, rsa.PSSSaltLengthEqualsHash)},
		{name: "P-256 SHA-256", label: "p256", digest: d256[:], opts: crypto.SHA256},
		{name: "P-256 SHA-512", label: "p256", digest: d512[:], opts: crypto.SHA512},
		{name: "P-384 SHA-256", label: "p384", digest: d256[:], opts: crypto.SHA256},
		{name: "P-384 SHA-384", label: "p384", digest: d384[:], opts: crypto.SHA384},
		{name: "no options", label: "rsa", digest: d256[:], wantErr: "no options"},
		{name: "no hash", label: "p256", digest: d256[:], opts: crypto.Hash(0), wantErr: "digest algorithm"},
		{name: "SHA-1", label: "rsa", digest: d256[:20], opts: crypto.SHA1, wantErr: "SHA-1"},
		{name: "SHA-512/256", label: "rsa", digest: d256[:], opts: crypto.SHA512_256, wantErr: "SHA-512/256"},
		{name: "MD5+SHA1", label: "rsa", digest: make([]byte, 36), opts: crypto.MD5SHA1, wantErr: "MD5+SHA1"},
		{name: "short digest", label: "p256", digest: d256[:31], opts: crypto.SHA256, wantErr: "a digest of 31 bytes"},
		{name: "PSS auto salt", label: "rsa", digest: d256[:], opts: pss(crypto.SHA256, rsa.PSSSaltLengthAuto), wantErr: "salt length"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			key, err := tok.Signer(t.Context(), tt.label)
			if err != nil {
				t.Fatal(err)
			}
			sig, err := key.Sign(rand.Reader, tt.digest, tt.opts)
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) || !strings.Contains(err.Error(), tt.label) {
					t.Errorf("error %v, want %q of key %s", err, tt.wantErr, tt.label)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			checkSignature(t, key.Public(), tt.digest, sig, tt.opts)
		})
	}
}

func checkSignature(t *testing.T, pub crypto.PublicKey, digest, sig []byte, opts crypto.SignerOpts) {
	t.Helper()
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		var err error
		if pss, ok := opts.(*rsa.PSSOptions); ok {
			err = rsa.VerifyPSS(pub, pss.Hash, digest, sig, pss)
		} else {
			err = rsa.VerifyPKCS1v15(pub, opts.HashFunc(), digest, sig)
		}
		if err != nil {
			t.Error(err)
		}
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(pub, digest, sig) {
			t.Error("signature does not verify")
		}
	default:
		t.Errorf("public key of type %T", pub)
	}
}

func TestSignersInParallel(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	var keys []crypto.Signer
	for i := range 3 {
		label := fmt.Sprintf("sign-%d", i)
		generate(t, tok, label, hsm.PurposeSign, hsm.ECP256)
		key, err := tok.Signer(t.Context(), label)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			digest := sha256.Sum256([]byte{byte(i)})
			key := keys[i%len(keys)]
			sig, err := key.Sign(nil, digest[:], crypto.SHA256)
			if err != nil || !ecdsa.VerifyASN1(key.Public().(*ecdsa.PublicKey), digest[:], sig) {
				t.Errorf("signature %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

func TestDecrypt(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	pub := generate(t, tok, "kx", hsm.PurposeKeyExchange, hsm.RSA2048).Public.(*rsa.PublicKey)
	key, err := tok.Decrypter(t.Context(), "kx")
	if err != nil {
		t.Fatal(err)
	}
	encrypt := func(message, label []byte) []byte {
		t.Helper()
		c, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, message, label)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for n := range 40 {
		message, label := make([]byte, n*pub.Size()/64), []byte(strings.Repeat("l", n))
		message = message[:min(len(message), pub.Size()-66)]
		rand.Read(message)
		got, err := key.Decrypt(nil, encrypt(message, label), &rsa.OAEPOptions{Hash: crypto.SHA256, Label: label})
		if err != nil || !bytes.Equal(got, message) {
			t.Fatalf("message of %d bytes: got %x, %v", len(message), got, err)
		}
	}

	good := encrypt([]byte("secret"), []byte("L"))
	flipped := slices.Clone(good)
	flipped[100] ^= 1
	//lint:ignore SA1019 what must be refused has to be made first
	otherPadding, err := rsa.EncryptPKCS1v15(rand.Reader, pub, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string][]byte{
		"flipped bit": flipped, "short": good[1:], "long": append([]byte{0}, good...), "empty": nil,
		"zero": make([]byte, pub.Size()), "modulus": pub.N.Bytes(), "all ones": bytes.Repeat([]byte{0xff}, pub.Size()),
		"other label": encrypt([]byte("secret"), []byte("M")), "no label": encrypt([]byte("secret"), nil),
		"PKCS #1 v1.5": otherPadding,
	}
	for name, c := range bad {
		got, err := key.Decrypt(nil, c, &rsa.OAEPOptions{Hash: crypto.SHA256, Label: []byte("L")})
		if got != nil || err != rsa.ErrDecryption {
			t.Errorf("%s: got %x, %v; want rsa.ErrDecryption itself", name, got, err)
		}
	}
	//lint:ignore SA1019 what must be refused has to be named
	v15, v15Key := &rsa.PKCS1v15DecryptOptions{}, &rsa.PKCS1v15DecryptOptions{SessionKeyLen: 32}
	for name, opts := range map[string]crypto.DecrypterOpts{
		"nil": nil, "PKCS #1 v1.5": v15, "session key": v15Key,
		"OAEP SHA-512": &rsa.OAEPOptions{Hash: crypto.SHA512}, "mixed": &rsa.OAEPOptions{Hash: crypto.SHA256, MGFHash: crypto.SHA1},
		"nil OAEP": (*rsa.OAEPOptions)(nil),
	} {
		if got, err := key.Decrypt(nil, good, opts); got != nil || err == nil || errors.Is(err, rsa.ErrDecryption) {
			t.Errorf("options %s: got %x, %v; want a refusal", name, got, err)
		}
	}
	for _, label := range [][]byte{nil, []byte("L")} {
		c, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, pub, []byte("of old"), label)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := key.Decrypt(nil, c, &rsa.OAEPOptions{Hash: crypto.SHA1, Label: label}); err != nil || string(got) != "of old" {
			t.Errorf("SHA-1: got %q, %v", got, err)
		}
		// SoftHSM by itself would not look at the label.
		if got, err := key.Decrypt(nil, c, &rsa.OAEPOptions{Hash: crypto.SHA1, Label: []byte("M")}); got != nil || err != rsa.ErrDecryption {
			t.Errorf("SHA-1 with another label: got %q, %v; want rsa.ErrDecryption itself", got, err)
		}
	}
	// The key still works after all that.
	if got, err := key.Decrypt(nil, good, &rsa.OAEPOptions{Hash: crypto.SHA256, Label: []byte("L")}); err != nil || string(got) != "secret" {
		t.Errorf("got %q, %v; want secret", got, err)
	}
}

func TestSeal(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	generate(t, tok, "seal", hsm.PurposeSeal, hsm.AES256)
	generate(t, tok, "other", hsm.PurposeSeal, hsm.AES256)
	key, err := tok.Sealer(t.Context(), "seal")
	if err != nil {
		t.Fatal(err)
	}
	other, err := tok.Sealer(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 16, 19, 1000, 64 << 10} {
		plaintext := make([]byte, n)
		rand.Read(plaintext)
		for _, aad := range [][]byte{nil, []byte("account 7")} {
			sealed, err := key.Seal(plaintext, aad)
			if err != nil {
				t.Fatal(err)
			}
			if len(sealed) != n+28 {
				t.Errorf("%d bytes sealed to %d, want %d", n, len(sealed), n+28)
			}
			got, err := key.Open(sealed, aad)
			if err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("%d bytes with %d associated: %v", n, len(aad), err)
			}
		}
	}

	aad := []byte("account 7")
	sealed, err := key.Seal([]byte("4111111111111111"), aad)
	if err != nil {
		t.Fatal(err)
	}
	again, err := key.Seal([]byte("4111111111111111"), aad)
	if err != nil || bytes.Equal(sealed, again) {
		t.Errorf("sealing twice: %v, equal %t", err, bytes.Equal(sealed, again))
	}
	for i := range sealed {
		tampered := slices.Clone(sealed)
		tampered[i] ^= 0x80
		if got, err := key.Open(tampered, aad); got != nil || !errors.Is(err, hsm.ErrNotAuthentic) {
			t.Fatalf("byte %d changed: got %q, %v; want ErrNotAuthentic", i, got, err)
		}
	}
	for name, open := range map[string]func() ([]byte, error){
		"other aad": func() ([]byte, error) { return key.Open(sealed, []byte("account 8")) },
		"no aad":    func() ([]byte, error) { return key.Open(sealed, nil) },
		"other key": func() ([]byte, error) { return other.Open(sealed, aad) },
		"truncated": func() ([]byte, error) { return key.Open(sealed[:len(sealed)-1], aad) },
		"short":     func() ([]byte, error) { return key.Open(sealed[:28], aad) },
		"empty":     func() ([]byte, error) { return key.Open(nil, aad) },
	} {
		if got, err := open(); got != nil || !errors.Is(err, hsm.ErrNotAuthentic) {
			t.Errorf("%s: got %q, %v; want ErrNotAuthentic", name, got, err)
		}
	}
	for _, n := range []int{0, 64<<10 + 1} {
		if _, err := key.Seal(make([]byte, n), nil); err == nil {
			t.Errorf("%d bytes were sealed, want a refusal", n)
		}
	}
}

func TestMAC(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	sums := map[string]string{}
	for _, label := range []string{"one", "two"} {
		generate(t, tok, label, hsm.PurposeMAC, hsm.HMACSHA256)
		key, err := tok.MAC(t.Context(), label)
		if err != nil {
			t.Fatal(err)
		}
		for _, data := range []string{"", "4111111111111111", strings.Repeat("x", 1<<20)} {
			sum, err := key.Sum([]byte(data))
			if err != nil || len(sum) != 32 {
				t.Fatalf("%d bytes: %d bytes of MAC, %v", len(data), len(sum), err)
			}
			again, err := key.Sum([]byte(data))
			if err != nil || !bytes.Equal(sum, again) {
				t.Errorf("%d bytes: the second MAC differs, %v", len(data), err)
			}
			what := fmt.Sprintf("%s of %d bytes", label, len(data))
			if before, ok := sums[string(sum)]; ok {
				t.Errorf("%s and %s have the same MAC", what, before)
			}
			sums[string(sum)] = what
		}
		if _, err := key.Sum(make([]byte, 1<<20+1)); err == nil {
			t.Error("more than 1 MiB was authenticated, want a refusal")
		}
	}
}

func TestKeysKeepToTheirPurpose(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	purposes := map[hsm.Purpose]hsm.KeyType{
		hsm.PurposeSign: hsm.RSA2048, hsm.PurposeCertSign: hsm.ECP256, hsm.PurposeKeyExchange: hsm.RSA2048,
		hsm.PurposeMAC: hsm.HMACSHA256, hsm.PurposeSeal: hsm.AES256,
	}
	for purpose, typ := range purposes {
		label := string(purpose)
		generate(t, tok, label, purpose, typ)
		_, signErr := tok.Signer(t.Context(), label)
		_, decryptErr := tok.Decrypter(t.Context(), label)
		_, macErr := tok.MAC(t.Context(), label)
		_, sealErr := tok.Sealer(t.Context(), label)
		for _, use := range []struct {
			name    string
			err     error
			allowed bool
		}{
			{"Signer", signErr, purpose == hsm.PurposeSign || purpose == hsm.PurposeCertSign},
			{"Decrypter", decryptErr, purpose == hsm.PurposeKeyExchange},
			{"MAC", macErr, purpose == hsm.PurposeMAC},
			{"Sealer", sealErr, purpose == hsm.PurposeSeal},
		} {
			if use.allowed && use.err != nil || !use.allowed && !errors.Is(use.err, hsm.ErrNotPermitted) {
				t.Errorf("%s of a key for %s: %v, allowed %t", use.name, purpose, use.err, use.allowed)
			}
		}
	}
}

func TestGenerateKeyRefuses(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	generate(t, tok, "taken", hsm.PurposeSign, hsm.ECP256)
	tests := []struct {
		name, label string
		purpose     hsm.Purpose
		typ         hsm.KeyType
		want        string
	}{
		{"label taken", "taken", hsm.PurposeSign, hsm.ECP256, "exists"},
		{"label taken by another class", "taken", hsm.PurposeSeal, hsm.AES256, "exists"},
		{"no label", "", hsm.PurposeSign, hsm.ECP256, "label"},
		{"long label", strings.Repeat("x", 129), hsm.PurposeSign, hsm.ECP256, "label"},
		{"control character", "a\nb", hsm.PurposeSign, hsm.ECP256, "label"},
		{"reserved label", "unfinished-1", hsm.PurposeSign, hsm.ECP256, "being made"},
		{"purpose", "x", "teleport", hsm.ECP256, "unknown purpose"},
		{"type of purpose", "x", hsm.PurposeKeyExchange, hsm.ECP256, "cannot be of type"},
		{"small key", "x", hsm.PurposeSign, "rsa-1024", "cannot be of type"},
		{"certificate key's label", "ca", hsm.PurposeCertSign, hsm.ECP256, "cert-sign"},
		{"certificate label, other key", "cert-sign", hsm.PurposeSign, hsm.ECP256, "cert-sign"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tok.GenerateKey(t.Context(), tt.label, tt.purpose, tt.typ)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
			if tt.want == "exists" && !errors.Is(err, hsm.ErrKeyExists) {
				t.Errorf("error %v does not match ErrKeyExists", err)
			}
		})
	}
	keys, err := tok.Keys(t.Context())
	if err != nil || len(keys) != 1 {
		t.Errorf("%d keys after the refusals, %v; want 1", len(keys), err)
	}
}

func TestGenerateInParallel(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			if _, err := tok.GenerateKey(t.Context(), fmt.Sprintf("k%02d", i), hsm.PurposeSign, hsm.ECP256); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if _, err := tok.Keys(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	keys, err := tok.Keys(t.Context())
	if err != nil || len(keys) != 24 {
		t.Fatalf("%d keys, %v; want 24", len(keys), err)
	}
	ids := map[string]bool{}
	for _, k := range keys {
		if k.Type != hsm.ECP256 || k.Modifiable || ids[k.ID] {
			t.Errorf("key %+v is not an unmodifiable P-256 key with an ID of its own", k)
		}
		ids[k.ID] = true
	}
}

func TestMissingKey(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	_, signErr := tok.Signer(t.Context(), "none")
	_, decryptErr := tok.Decrypter(t.Context(), "none")
	_, macErr := tok.MAC(t.Context(), "none")
	_, sealErr := tok.Sealer(t.Context(), "none")
	_, publicErr := tok.PublicKey(t.Context(), "none")
	for name, err := range map[string]error{"Signer": signErr, "Decrypter": decryptErr, "MAC": macErr, "Sealer": sealErr, "PublicKey": publicErr} {
		if !errors.Is(err, hsm.ErrNotFound) || errors.Is(err, hsm.ErrUnavailable) || !strings.Contains(err.Error(), `"none"`) {
			t.Errorf("%s: %v, want ErrNotFound with the key's label", name, err)
		}
	}
}

func TestRandom(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	a, aErr := tok.Random(t.Context(), 32)
	b, bErr := tok.Random(t.Context(), 32)
	if aErr != nil || bErr != nil || len(a) != 32 || len(b) != 32 || bytes.Equal(a, b) {
		t.Errorf("got %x, %v and %x, %v; want two different blocks of 32 bytes", a, aErr, b, bErr)
	}
	for _, n := range []int{-1, 0, 1<<20 + 1} {
		if _, err := tok.Random(t.Context(), n); err == nil {
			t.Errorf("%d bytes were returned, want a refusal", n)
		}
	}
}

func TestEndedContext(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	tok := tk.Open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	uri, err := hsm.ParseURI(tk.URI)
	if err != nil {
		t.Fatal(err)
	}
	_, keyErr := tok.GenerateKey(ctx, "k", hsm.PurposeSign, hsm.ECP256)
	_, openErr := hsm.Open(ctx, uri, func(ctx context.Context, _, _ string) ([]byte, error) { return nil, ctx.Err() })
	for name, err := range map[string]error{"GenerateKey": keyErr, "Open": openErr} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want a cancelled context", name, err)
		}
	}
	if keys, err := tok.Keys(t.Context()); err != nil || len(keys) != 0 {
		t.Errorf("keys %v, %v; want none", keys, err)
	}
}
