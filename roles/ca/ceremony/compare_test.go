package ceremony_test

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/set/pki"
)

// certificateFiles are those of the lab.
var certificateFiles = []string{
	"root.pem", "brand.pem", "cca.pem", "cca-sign.pem", "cca-key-exchange.pem", "mca.pem", "mca-sign.pem", "mca-key-exchange.pem",
	"pca.pem", "pca-sign.pem", "pca-key-exchange.pem",
}

// The same file, rehearsed with one set of tokens and run with another a month later, gives the same
// certificates but for keys, serial numbers and times.
func TestRehearsedAndRun(t *testing.T) {
	t.Parallel()
	rehearsal, run := newRoom(t, fast(lab(t))), newRoom(t, fast(lab(t)))
	run.now = now.AddDate(0, 1, 0)
	rehearsal.hold(t)
	run.hold(t)
	if !bytes.Equal(rehearsal.file(t, "ceremony.yaml"), run.file(t, "ceremony.yaml")) {
		t.Error("the reviewed files differ")
	}
	a, b := rehearsal.normalized(t), run.normalized(t)
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("rehearsal and run differ:\n%s", diff)
	}
	for _, name := range certificateFiles {
		x, y := rehearsal.cert(t, name).X509, run.cert(t, name).X509
		if bytes.Equal(x.RawSubjectPublicKeyInfo, y.RawSubjectPublicKeyInfo) || x.SerialNumber.Cmp(y.SerialNumber) == 0 || x.NotBefore.Equal(y.NotBefore) {
			t.Errorf("%s: key, serial number or time is the same in both", name)
		}
	}
}

// Another file gives other certificates.
func TestNormalizingHidesNothing(t *testing.T) {
	t.Parallel()
	r, other := newRoom(t, fast(lab(t))), newRoom(t, fast(lab(t, "validity: 6y, signing-period: 2y", "validity: 6y, signing-period: 3y")))
	r.hold(t)
	other.hold(t)
	a, b := r.normalized(t), other.normalized(t)
	for _, name := range certificateFiles {
		if same := cmp.Equal(a[name], b[name]); same != (name != "cca.pem") {
			t.Errorf("%s: same %t", name, same)
		}
	}
}

// normalized gives what is left of each certificate when keys, serial numbers and times are replaced by
// what they stand for: the file whose key it is, and the seconds since the beginning.
func (r *room) normalized(t *testing.T) map[string]any {
	t.Helper()
	keyOf := make(map[string]string) // what a key identifier or key stands for
	for _, name := range certificateFiles {
		x := r.cert(t, name).X509
		keyOf[string(x.SubjectKeyId)] = name
	}
	since := func(at time.Time) int64 { return int64(at.Sub(r.now) / time.Second) }
	all := make(map[string]any)
	for _, name := range certificateFiles {
		c := r.cert(t, name)
		x := c.X509
		var extensions []string
		for _, e := range x.Extensions {
			value := fmt.Sprintf("%x", e.Value)
			switch e.Id.String() {
			case "2.5.29.14":
				value = keyOf[string(x.SubjectKeyId)]
			case "2.5.29.35":
				value = keyOf[string(x.AuthorityKeyId)]
			case "2.5.29.16":
				value = fmt.Sprint(since(c.PrivateKeyUsage.NotBefore), since(c.PrivateKeyUsage.NotAfter))
			case "2.23.42.7.0":
				value = string(bytes.Replace(e.Value, c.NextRootKey.Content.Digest, []byte(nextRoot(t, r, c)), 1))
			}
			extensions = append(extensions, fmt.Sprint(e.Id, e.Critical, value))
		}
		all[name] = []any{
			x.Version, x.RawIssuer, x.RawSubject, since(x.NotBefore), since(x.NotAfter), algorithm(t, x), x.SignatureAlgorithm.String(),
			len(x.SerialNumber.Bytes()) > 8, extensions,
		}
	}
	return all
}

// nextRoot says what the root announces.
func nextRoot(t *testing.T, r *room, c *pki.Certificate) string {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(r.tokens["root-ca"].Private["cert-sign-next"].Public())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprintf("%x", c.NextRootKey.Content.Digest), sha256Hex(spki); got != want {
		t.Errorf("the root announces %s, want %s", got, want)
	}
	return "next root key"
}

// algorithm gives the type of a key without the key.
func algorithm(t *testing.T, x *x509.Certificate) string {
	t.Helper()
	var info struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(x.RawSubjectPublicKeyInfo, &info); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x %d", info.Algorithm.FullBytes, info.Key.BitLength)
}
