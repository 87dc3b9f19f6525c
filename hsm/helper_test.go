package hsm_test

import (
	"crypto"
	"crypto/sha1"
	"crypto/x509"
	"encoding/asn1"
	"testing"
)

// ski computes a subject key identifier in another way than the package does.
func ski(t *testing.T, pub crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	var outer asn1.RawValue
	if _, err := asn1.Unmarshal(der, &outer); err != nil {
		t.Fatal(err)
	}
	var algorithm, key asn1.RawValue
	rest, err := asn1.Unmarshal(outer.Bytes, &algorithm)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := asn1.Unmarshal(rest, &key); err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum(key.Bytes[1:]) // the first byte counts unused bits
	return sum[:]
}
