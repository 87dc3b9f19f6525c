package hsm_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
)

// issuer signs the certificates of a test.
type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{&x509.Certificate{Subject: pkix.Name{CommonName: "issuer"}}, key}
}

func (i *issuer) issue(t testing.TB, name string, pub crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(70000), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0),
	}, i.cert, pub, i.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	ca := newIssuer(t)
	var want []hsm.Certificate
	for _, k := range []struct {
		label string
		typ   hsm.KeyType
	}{{"b-ec", hsm.ECP256}, {"a-rsa", hsm.RSA2048}, {"c-ed", hsm.Ed25519}} {
		info := generate(t, tok, k.label, hsm.PurposeSign, k.typ)
		der := ca.issue(t, k.label, info.Public)
		got, err := tok.ImportCertificate(t.Context(), k.label, der) // a key may have this label too
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.DER, der) || got.X509 == nil || got.X509.Subject.CommonName != k.label || got.Label != k.label ||
			got.ID != info.ID || !got.HasKey || got.Mismatch {
			t.Errorf("imported %s is %+v, want the certificate with its key's CKA_ID %s", k.label, got, info.ID)
		}
		want = append(want, got)
	}
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	got, err := tok.ImportCertificate(t.Context(), "d", ca.issue(t, "d", stranger.Public()))
	if id := hex.EncodeToString(ski(t, stranger.Public())); err != nil || got.HasKey || got.Mismatch || got.ID != id {
		t.Errorf("certificate of a key elsewhere is %+v, %v; want one without a key and with CKA_ID %s", got, err, id)
	}
	want = []hsm.Certificate{want[1], want[0], want[2], got}
	list, err := tok.Certificates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, list, cmpopts.IgnoreFields(hsm.Certificate{}, "X509")); diff != "" {
		t.Errorf("list differs from what was imported (-want +got):\n%s", diff)
	}
	checkLookup(t, tok, want[1])

	if err := tok.DeleteCertificate(t.Context(), "b-ec"); err != nil {
		t.Fatal(err)
	}
	if err := tok.DeleteCertificate(t.Context(), "b-ec"); !errors.Is(err, hsm.ErrCertificateNotFound) || !strings.Contains(err.Error(), `"b-ec"`) {
		t.Errorf("deleting twice: %v, want ErrCertificateNotFound with the label", err)
	}
	if list, err := tok.Certificates(t.Context()); err != nil || len(list) != 3 {
		t.Errorf("%d certificates are left, %v; want 3", len(list), err)
	}
	if _, err := tok.Key(t.Context(), "b-ec"); err != nil {
		t.Errorf("the key of the deleted certificate: %v, want it to stay", err)
	}
}

// checkLookup checks the attributes by which other programs look for certificates.
func checkLookup(t *testing.T, tok *hsm.Token, c hsm.Certificate) {
	t.Helper()
	subject, issuer, serial, err := hsm.CertificateAttributes(t.Context(), tok, c.Label)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(subject, c.X509.RawSubject) || !bytes.Equal(issuer, c.X509.RawIssuer) || !bytes.Equal(serial, []byte{2, 3, 1, 0x11, 0x70}) {
		t.Errorf("subject %x, issuer %x, serial %x: want the certificate's, in DER", subject, issuer, serial)
	}
}

func TestImportCertificateRefuses(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	ca := newIssuer(t)
	first, second := ca.issue(t, "first", ca.key.Public()), ca.issue(t, "second", ca.key.Public())
	if _, err := tok.ImportCertificate(t.Context(), "first", first); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, label string
		der         []byte
		matches     error
		want        string
	}{
		{"label taken", "first", second, hsm.ErrCertificateExists, "has this label"},
		{"same again", "other", first, hsm.ErrCertificateExists, `it is labelled "first"`},
		{"no label", "", second, nil, "label"},
		{"control character", "a\nb", second, nil, "label"},
		{"long label", strings.Repeat("x", 129), second, nil, "label"},
		{"nothing", "x", nil, nil, "not a DER certificate"},
		{"truncated", "x", second[:len(second)-1], nil, "not a DER certificate"},
		{"something after", "x", append(bytes.Clone(second), 0), nil, "not a DER certificate"},
		{"too long", "x", make([]byte, 64<<10+1), nil, "at most 65536"},
	}
	for _, tt := range tests {
		_, err := tok.ImportCertificate(t.Context(), tt.label, tt.der)
		if err == nil || !strings.Contains(err.Error(), tt.want) || tt.matches != nil && !errors.Is(err, tt.matches) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if list, err := tok.Certificates(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("%d certificates after the refusals, %v; want 1", len(list), err)
	}
}

func TestCertificatesOfOtherPrograms(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	ca := newIssuer(t)
	info := generate(t, tok, "k", hsm.PurposeSign, hsm.ECP256)
	id, err := hex.DecodeString(info.ID)
	if err != nil {
		t.Fatal(err)
	}
	other := ca.issue(t, "other", ca.key.Public())
	huge, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), ExtraExtensions: []pkix.Extension{{Id: []int{1, 2, 3}, Value: make([]byte, 64<<10)}},
	}, ca.cert, ca.key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		label     string
		id, value []byte
	}{{"huge", nil, huge}, {"mismatch", id, other}, {"garbage", id, []byte("not a certificate")}, {"twice", nil, other}, {"twice", nil, other}} {
		if err := hsm.StoreCertificate(t.Context(), tok, c.label, c.id, c.value); err != nil {
			t.Fatal(err)
		}
	}
	list, err := tok.Certificates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []hsm.Certificate{
		{Label: "garbage", ID: info.ID, DER: []byte("not a certificate")}, {Label: "huge", DER: huge}, {Label: "mismatch", ID: info.ID, DER: other, Mismatch: true},
		{Label: "twice", DER: other}, {Label: "twice", DER: other},
	}
	if diff := cmp.Diff(want, list, cmpopts.IgnoreFields(hsm.Certificate{}, "X509")); diff != "" {
		t.Errorf("list differs (-want +got):\n%s", diff)
	}
	if list[0].X509 != nil || list[1].X509 != nil || list[2].X509 == nil {
		t.Errorf("parsed: garbage %t, what is too long %t, certificate %t", list[0].X509 != nil, list[1].X509 != nil, list[2].X509 != nil)
	}
	if err := tok.DeleteCertificate(t.Context(), "twice"); err == nil || !strings.Contains(err.Error(), "2 certificates have this label") {
		t.Errorf("deleting one of two: %v, want a refusal", err)
	}
	if err := tok.DeleteCertificate(t.Context(), "garbage"); err != nil {
		t.Error(err)
	}
}

func TestDeleteCertificateInParallel(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	ca := newIssuer(t)
	for i := range 10 {
		label := fmt.Sprint(i)
		if _, err := tok.ImportCertificate(t.Context(), label, ca.issue(t, label, ca.key.Public())); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		errs := make([]error, 6)
		for j := range errs {
			wg.Go(func() { errs[j] = tok.DeleteCertificate(t.Context(), label) })
		}
		wg.Wait()
		deleted := 0
		for _, err := range errs {
			if err == nil {
				deleted++
			} else if !errors.Is(err, hsm.ErrCertificateNotFound) || errors.Is(err, hsm.ErrUnavailable) {
				t.Error(err)
			}
		}
		if deleted != 1 {
			t.Errorf("certificate %s was deleted %d times, want once", label, deleted)
		}
	}
}

func TestImportInParallel(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	ca := newIssuer(t)
	der := ca.issue(t, "one", ca.key.Public())
	var wg sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		wg.Go(func() { _, errs[i] = tok.ImportCertificate(t.Context(), fmt.Sprint(i), der) })
	}
	wg.Wait()
	imported := 0
	for _, err := range errs {
		if err == nil {
			imported++
		} else if !errors.Is(err, hsm.ErrCertificateExists) {
			t.Error(err)
		}
	}
	if imported != 1 {
		t.Errorf("the same certificate was imported %d times, want once", imported)
	}
}
