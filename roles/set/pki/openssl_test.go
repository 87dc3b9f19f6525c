package pki_test

import (
	"bytes"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestOpenSSL has openssl verify every chain and print what it reads in the certificates and CRLs.
func TestOpenSSL(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]newKey{"P-256": p256, "RSA": rsa2048} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, key, name == "P-256")
			dir := t.TempDir()
			root := writePEM(t, dir, "root", "CERTIFICATE", w.root.cert.X509.Raw)
			var untrusted [][]byte
			for _, c := range w.intermediates() {
				untrusted = append(untrusted, c.X509.Raw)
			}
			inter := writePEM(t, dir, "intermediates", "CERTIFICATE", untrusted...)
			at := strconv.FormatInt(now.Unix(), 10)
			var files []string
			for what, p := range w.all {
				file := writePEM(t, dir, what, "CERTIFICATE", p.cert.X509.Raw)
				files = append(files, file)
				openssl(t, "x509", "-noout", "-text", "-in", file)
			}
			verify := []string{"verify", "-ignore_critical", "-x509_strict", "-attime", at, "-CAfile", root, "-untrusted", inter}
			openssl(t, append(verify, files...)...)

			crls := writePEM(t, dir, "crls", "X509 CRL", opensslCRLs(t, w)...)
			gateway := filepath.Join(dir, "pgwy signature.pem")
			checked := append(verify[:len(verify):len(verify)], "-crl_check_all", "-CRLfile", crls)
			openssl(t, append(checked, gateway)...)
			revoked := filepath.Join(dir, "pgwy exchange.pem")
			if out, err := exec.Command("openssl", append(checked, revoked)...).CombinedOutput(); err == nil || !strings.Contains(string(out), "certificate revoked") {
				t.Errorf("revoked certificate: %v\n%s", err, out)
			}
		})
	}
}

// opensslCRLs gives the CRL of every authority above the gateways, with one gateway certificate revoked.
func opensslCRLs(t *testing.T, w *world) [][]byte {
	t.Helper()
	out := [][]byte{
		crl(t, w.root, 1).X509.Raw, crl(t, w.bca, 1).X509.Raw,
		crl(t, w.pca, 1, w.all["pgwy exchange"].cert).X509.Raw,
	}
	if w.gca.cert != nil {
		out = append(out, crl(t, w.gca, 1).X509.Raw)
	}
	return out
}

func TestOpenSSLText(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	text := openssl(t, "x509", "-noout", "-text", "-in", writePEM(t, t.TempDir(), "c", "CERTIFICATE", w.all["mer signature"].cert.X509.Raw))
	for _, want := range []string{
		"Version: 3 (0x2)", "Issuer: C = DK, O = Acme, OU = Bank merchant CA",
		"Subject: C = DK, O = Acme:Gold, OU = Bank A/S, CN = ", "ecdsa-with-SHA256",
		"X509v3 Key Usage: critical\n                Digital Signature\n",
		"X509v3 Private Key Usage Period", "X509v3 Certificate Policies: critical", "X509v3 Basic Constraints: critical\n                CA:FALSE",
		"setCext-certType: critical", "setCext-merchData:", "Policy: set-policy-root",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("openssl does not print %q in\n%s", want, text)
		}
	}
	list := openssl(t, "crl", "-noout", "-text", "-in", writePEM(t, t.TempDir(), "l", "X509 CRL", crl(t, w.pca, 42, w.all["pgwy signature"].cert).X509.Raw))
	serial := w.all["pgwy signature"].cert.X509.SerialNumber
	for _, want := range []string{"X509v3 CRL Number: \n                42", "Serial Number: " + strings.ToUpper(serial.Text(16))} {
		if !strings.Contains(strings.ReplaceAll(list, "Serial Number: 0", "Serial Number: "), want) {
			t.Errorf("openssl does not print %q in\n%s", want, list)
		}
	}
	b := bci(t, w.bca, 1, crl(t, w.pca, 1))
	file := filepath.Join(t.TempDir(), "bci")
	if err := os.WriteFile(file, b.Raw, 0o600); err != nil {
		t.Fatal(err)
	}
	openssl(t, "asn1parse", "-inform", "DER", "-in", file)
}

func openssl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("openssl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func writePEM(t testing.TB, dir, name, kind string, raws ...[]byte) string {
	t.Helper()
	var b bytes.Buffer
	for _, raw := range raws {
		if err := pem.Encode(&b, &pem.Block{Type: kind, Bytes: raw}); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, name+".pem")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
