package cms_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

var (
	typeTBE = asn1.ObjectIdentifier{2, 23, 42, 0, 52}
	typeTBS = asn1.ObjectIdentifier{2, 23, 42, 0, 16}
	types   = cms.SignedEncrypted{TBE: typeTBE, TBS: typeTBS}
)

type order struct {
	Item  int64
	Nonce [20]byte
}

func certify(t testing.TB, serial int64, key crypto.Signer) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func openssl(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := exec.Command("openssl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %v: %v\n%s", args, err, out)
	}
	return out
}

func write(t *testing.T, name string, v any) string {
	t.Helper()
	b, ok := v.([]byte)
	if !ok {
		var err error
		if b, err = der.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func pemCert(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func TestSignVerifies(t *testing.T) {
	for name, key := range map[string]crypto.Signer{
		"RSA-2048": rsaKey(t, 2048), "P-256": ecKey(t, elliptic.P256()), "P-384": ecKey(t, elliptic.P384()),
	} {
		t.Run(name, func(t *testing.T) {
			cert := certify(t, 7, key)
			v := order{Item: 3}
			ci, err := cms.Sign(typeTBS, v, []*x509.Certificate{cert}, nil, cms.Signer{Key: key, Certificate: cert})
			if err != nil {
				t.Fatal(err)
			}
			sd, err := cms.ParseSigned(ci, typeTBS)
			if err != nil {
				t.Fatal(err)
			}
			if got := sd.SignerCertificate(0); got == nil || !got.Equal(cert) {
				t.Errorf("signer's certificate not found")
			}
			if err := sd.Verify(0, key.Public()); err != nil {
				t.Errorf("own signature: %v", err)
			}
			if err := sd.Verify(0, ecKey(t, elliptic.P256()).Public()); !errors.Is(err, cms.ErrSignature) {
				t.Errorf("signature under another key: %v", err)
			}
			var got order
			if err := der.Unmarshal(sd.Content, &got); err != nil || got != v {
				t.Errorf("content = %v, %v, want %v", got, err, v)
			}
			out := write(t, "content", []byte{})
			openssl(t, "cms", "-verify", "-inform", "DER", "-in", write(t, "signed.der", ci),
				"-CAfile", write(t, "ca.pem", pemCert(cert)), "-purpose", "any", "-out", out)
			if b, _ := os.ReadFile(out); !bytes.Equal(b, sd.Content) {
				t.Errorf("openssl extracted %x, want %x", b, sd.Content)
			}
		})
	}
}

func TestSignDetached(t *testing.T) {
	key := ecKey(t, elliptic.P256())
	cert := certify(t, 7, key)
	v := order{Item: 3}
	ci, err := cms.SignDetached(typeTBS, v, nil, nil, cms.Signer{Key: key, Certificate: cert})
	if err != nil {
		t.Fatal(err)
	}
	sd, err := cms.ParseSigned(ci, typeTBS)
	if err != nil {
		t.Fatal(err)
	}
	if sd.Content != nil {
		t.Errorf("SO carries its content")
	}
	if err := sd.VerifyDetached(0, v, key.Public()); err != nil {
		t.Errorf("over the value signed: %v", err)
	}
	if err := sd.VerifyDetached(0, order{Item: 4}, key.Public()); !errors.Is(err, cms.ErrSignature) {
		t.Errorf("over another value: %v", err)
	}
	if err := sd.Verify(0, key.Public()); err == nil {
		t.Errorf("verified without content")
	}
	openssl(t, "cms", "-verify", "-inform", "DER", "-in", write(t, "signed.der", ci), "-content", write(t, "content", v),
		"-binary", "-certfile", write(t, "cert.pem", pemCert(cert)), "-CAfile", write(t, "ca.pem", pemCert(cert)), "-purpose", "any")
}

// One flipped bit anywhere gives an error, or leaves the signed content as it was (bits of the
// certificates that travel along are not covered by the signature).
func TestSignedTampered(t *testing.T) {
	key := ecKey(t, elliptic.P256())
	v := order{Item: 3}
	ci, err := cms.Sign(typeTBS, v, nil, nil, cms.Signer{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	for i := range ci.Content {
		bad := ci
		bad.Content = bytes.Clone(ci.Content)
		bad.Content[i] ^= 1
		sd, err := cms.ParseSigned(bad, typeTBS)
		if err != nil || sd.Verify(0, key.Public()) != nil {
			continue
		}
		if !sd.Names(0, nil) {
			continue // the name of the signer is looked up, not signed
		}
		t.Errorf("flipped bit in octet %d went unnoticed", i)
	}
}

func TestWeakKeysRefused(t *testing.T) {
	t.Setenv("GODEBUG", "rsa1024min=0")
	weak := rsaKey(t, 1024)
	if _, err := cms.Sign(typeTBS, order{}, nil, nil, cms.Signer{Key: weak}); err == nil {
		t.Error("signed with RSA-1024")
	}
	if _, err := cms.Sign(typeTBS, order{}, nil, nil, cms.Signer{Key: ecKey(t, elliptic.P224())}); err == nil {
		t.Error("signed with P-224")
	}
	if _, err := cms.Encrypt(certify(t, 1, weak), typeTBE, order{}, cms.Plain, nil); err == nil {
		t.Error("encrypted to RSA-1024")
	}
	if _, err := cms.Encrypt(certify(t, 1, ecKey(t, elliptic.P256())), typeTBE, order{}, cms.Plain, nil); err == nil {
		t.Error("encrypted to an EC key")
	}
}

func TestEncryptOpens(t *testing.T) {
	key := rsaKey(t, 2048)
	to := cms.Recipient{Key: key, Certificate: certify(t, 9, key)}
	v := order{Item: 5}
	want, _ := der.Marshal(v)
	for _, bc := range []cms.BlockContents{cms.Plain, cms.WithPANData, cms.WithHashPANOnly} {
		var extra []byte
		if bc != cms.Plain {
			extra = bytes.Repeat([]byte{0xab}, 94) // the longest that SET has
		}
		ci, err := cms.Encrypt(to.Certificate, typeTBE, v, bc, extra)
		if err != nil {
			t.Fatalf("%#x: %v", bc, err)
		}
		plaintext, got, err := to.Decrypt(ci, typeTBE, bc)
		if err != nil || !bytes.Equal(plaintext, want) || !bytes.Equal(got, extra) {
			t.Errorf("%#x: plaintext %x, extra %x, %v", bc, plaintext, got, err)
		}
		if _, _, err := to.Decrypt(ci, typeTBE, cms.WithAcctData); !errors.Is(err, cms.ErrDecrypt) {
			t.Errorf("%#x opened as another treatment: %v", bc, err)
		}
		if _, _, err := to.Decrypt(ci, typeTBS, bc); !errors.Is(err, cms.ErrMalformed) {
			t.Errorf("%#x opened as another content type: %v", bc, err)
		}
	}
}

func TestOpenSSLDecrypts(t *testing.T) {
	key := rsaKey(t, 2048)
	cert := certify(t, 9, key)
	v := order{Item: 5}
	ci, err := cms.Encrypt(cert, typeTBE, v, cms.Plain, nil)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	out := write(t, "out", []byte{})
	openssl(t, "cms", "-decrypt", "-inform", "DER", "-in", write(t, "enveloped.der", ci),
		"-recip", write(t, "cert.pem", pemCert(cert)),
		"-inkey", write(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})), "-out", out)
	want, _ := der.Marshal(v)
	if got, _ := os.ReadFile(out); !bytes.Equal(got, want) {
		t.Errorf("openssl decrypted %x, want %x", got, want)
	}
}

func TestEnvelopeTampered(t *testing.T) {
	key := rsaKey(t, 2048)
	to := cms.Recipient{Key: key, Certificate: certify(t, 9, key)}
	ci, err := cms.Encrypt(to.Certificate, typeTBE, order{}, cms.WithPANData, []byte("extra"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range ci.Content {
		bad := ci
		bad.Content = bytes.Clone(ci.Content)
		bad.Content[i] ^= 1
		_, _, err := to.Decrypt(bad, typeTBE, cms.WithPANData)
		if !errors.Is(err, cms.ErrDecrypt) && !errors.Is(err, cms.ErrMalformed) {
			t.Errorf("flipped bit in octet %d: %v", i, err)
		}
	}
	other := cms.Recipient{Key: rsaKey(t, 2048), Certificate: to.Certificate}
	if _, _, err := other.Decrypt(ci, typeTBE, cms.WithPANData); err != cms.ErrDecrypt {
		t.Errorf("another key: %v, want bare ErrDecrypt", err)
	}
}

func TestBackKey(t *testing.T) {
	backKey := bytes.Repeat([]byte{7}, 32)
	key := ecKey(t, elliptic.P256())
	ci, err := cms.EncBack(types, order{Item: 8}, nil, nil, cms.Signer{Key: key}, backKey)
	if err != nil {
		t.Fatal(err)
	}
	sd, err := cms.OpenEncBack(types, ci, backKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := sd.Verify(0, key.Public()); err != nil {
		t.Error(err)
	}
	backKey[31] ^= 1
	if _, err := cms.OpenEncBack(types, ci, backKey); err != cms.ErrDecrypt {
		t.Errorf("another back key: %v, want bare ErrDecrypt", err)
	}
	if _, err := cms.EncryptBack(backKey[:16], typeTBE, order{}); err == nil {
		t.Error("back key of 16 octets accepted")
	}
	want, _ := der.Marshal(order{Item: 1})
	ci, err = cms.EncryptBack(backKey, typeTBE, order{Item: 1})
	if err != nil {
		t.Fatal(err)
	}
	out := write(t, "out", []byte{})
	openssl(t, "cms", "-decrypt", "-inform", "DER", "-in", write(t, "kek.der", ci), "-out", out,
		"-secretkey", "0707070707070707070707070707070707070707070707070707070707070706", "-secretkeyid", "534554206261636b206b6579")
	if got, _ := os.ReadFile(out); !bytes.Equal(got, want) {
		t.Errorf("openssl decrypted %x, want %x", got, want)
	}
}

func TestEncX(t *testing.T) {
	key := rsaKey(t, 2048)
	to := cms.Recipient{Key: key, Certificate: certify(t, 9, key)}
	signer := ecKey(t, elliptic.P256())
	extra := order{Item: 99}
	ci, err := cms.EncX(types, order{Item: 1}, extra, []byte("packed"), cms.WithPANToken, nil, nil, []cms.Signer{{Key: signer}}, to.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	got, packed, sig, err := cms.OpenEncX[order](to, types, ci, cms.WithPANToken)
	if err != nil || got.Item != 1 || string(packed) != "packed" {
		t.Fatalf("opened %v, %q, %v", got, packed, err)
	}
	if err := sig.VerifyDetached(0, cms.Pair[order, order]{Value: got, Extra: extra}, signer.Public()); err != nil {
		t.Error(err)
	}
	extra.Item++
	if err := sig.VerifyDetached(0, cms.Pair[order, order]{Value: got, Extra: extra}, signer.Public()); !errors.Is(err, cms.ErrSignature) {
		t.Errorf("signature verifies over other extra data: %v", err)
	}
}

func TestDetachedDigest(t *testing.T) {
	dd, err := cms.DD(typeTBS, order{Item: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := dd.Check(typeTBS, order{Item: 1}); err != nil {
		t.Error(err)
	}
	if err := dd.Check(typeTBS, order{Item: 2}); !errors.Is(err, cms.ErrDigest) {
		t.Errorf("another value: %v", err)
	}
	if err := dd.Check(typeTBE, order{Item: 1}); !errors.Is(err, cms.ErrDigest) {
		t.Errorf("another content type: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	key := ecKey(f, elliptic.P256())
	enc := rsaKey(f, 2048)
	to := cms.Recipient{Key: enc, Certificate: certify(f, 9, enc)}
	signed, err := cms.Sign(typeTBS, order{}, []*x509.Certificate{to.Certificate}, nil, cms.Signer{Key: key})
	if err != nil {
		f.Fatal(err)
	}
	sealed, err := cms.Encrypt(to.Certificate, typeTBE, order{}, cms.Plain, nil)
	if err != nil {
		f.Fatal(err)
	}
	for _, ci := range []cms.ContentInfo{signed, sealed} {
		b, err := der.Marshal(ci)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var ci cms.ContentInfo
		if der.Unmarshal(b, &ci) != nil {
			return
		}
		if sd, err := cms.ParseSigned(ci, typeTBS); err == nil && sd.Verify(0, key.Public()) == nil {
			var v order
			if err := der.Unmarshal(sd.Content, &v); err != nil || v != (order{}) {
				t.Errorf("a signature verifies over content that was never signed: %x", sd.Content)
			}
		}
		if _, _, err := to.Decrypt(ci, typeTBE, cms.Plain); err != nil && !errors.Is(err, cms.ErrDecrypt) && !errors.Is(err, cms.ErrMalformed) {
			t.Errorf("untyped error: %v", err)
		}
	})
}
