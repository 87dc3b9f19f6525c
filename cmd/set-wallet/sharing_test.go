package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/setkit/setkit/smartcard/piv"
)

// sharingVariable tells a process that it has the other program's pcscd.
const sharingVariable = "SET_WALLET_TEST_SHARING"

const (
	purchasesMin  = 8
	signaturesMin = 8
)

var shared = regexp.MustCompile(`\d+ purchases and \d+ signatures[^\n]*`)

// TestTwoPrograms buys on a card while OpenSC signs with another key of it: both
// get on, and neither fails. It is in a process with a pcscd of its own, because
// OpenSC looks into every reader.
func TestTwoPrograms(t *testing.T) {
	if os.Getenv(sharingVariable) != "" {
		shareCard(t)
		return
	}
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTwoPrograms$", "-test.v")
	cmd.Env = append(os.Environ(), sharingVariable+"=1")
	out, err := cmd.CombinedOutput()
	if summary := shared.Find(out); err != nil || summary == nil {
		t.Errorf("%v\n%s", err, out)
	} else {
		t.Logf("%s", summary)
	}
}

func shareCard(t *testing.T) {
	host := &service{t: t, dir: t.TempDir()}
	host.start(1)
	defer host.stop()
	s := newStage(t, kinds[0], host, 0)
	public := certifyAuthentication(t, s)
	module, err := filepath.Glob("/usr/lib/*/opensc-pkcs11.so")
	if err != nil || len(module) != 1 {
		t.Fatalf("OpenSC is not installed: make setup (%v, %v)", module, err)
	}
	digest := sha256.Sum256([]byte("something else"))
	if err := os.WriteFile(s.file("digest"), digest[:], 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type signed struct {
		n   int
		err error
		out []byte
	}
	done := make(chan signed, 1)
	enough := make(chan struct{})
	go func() {
		for n := 0; ; n++ {
			if n == signaturesMin {
				close(enough)
			}
			if ctx.Err() != nil {
				done <- signed{n: n}
				return
			}
			out, err := exec.Command("pkcs11-tool", "--module", module[0], "--login", "--pin", testPIN, "--sign", "--id", "01",
				"--mechanism", "ECDSA", "--signature-format", "openssl", "--input-file", s.file("digest"), "--output-file", s.file("signature")).CombinedOutput()
			if err == nil {
				var signature []byte
				if signature, err = os.ReadFile(s.file("signature")); err == nil && !ecdsa.VerifyASN1(public, digest[:], signature) {
					t.Errorf("signature %d is not good", n)
				}
			}
			if err != nil {
				done <- signed{n, err, out}
				return
			}
		}
	}()
	start := time.Now()
	purchases, slowest := 0, time.Duration(0)
	for more := true; more || purchases < purchasesMin; purchases++ {
		began := time.Now()
		s.run(0, "", s.pay("pin", "--yes")...)
		slowest = max(slowest, time.Since(began))
		s.shop.NewOrder()
		select {
		case <-enough:
			more = false
		case d := <-done:
			t.Fatalf("pkcs11-tool after %d signatures: %v\n%s", d.n, d.err, d.out)
		default:
		}
	}
	cancel()
	d := <-done
	if d.err != nil {
		t.Fatalf("pkcs11-tool after %d signatures: %v\n%s", d.n, d.err, d.out)
	}
	s.wantPayments(purchases)
	if n := s.tries(); n != 3 {
		t.Errorf("%d tries left", n)
	}
	t.Logf("%d purchases and %d signatures by OpenSC in %v; the slowest purchase took %v", purchases, d.n, time.Since(start).Round(time.Millisecond), slowest.Round(time.Millisecond))
}

// certifyAuthentication makes a key in slot 9a and a certificate for it, without
// which OpenSC doesn't see it.
func certifyAuthentication(t *testing.T, s *stage) *ecdsa.PublicKey {
	t.Helper()
	var public *ecdsa.PublicKey
	err := piv.New(s.faulty.Card, piv.Options{}).Do(t.Context(), func(tx *piv.Tx) error {
		if err := tx.Authenticate(piv.ManagementKey{Key: piv.FactoryManagementKey()}); err != nil {
			return err
		}
		key, err := tx.Generate(piv.SlotAuthentication, piv.ECDSAP256, piv.PINPolicyDefault)
		if err != nil {
			return err
		}
		public = key.(*ecdsa.PublicKey)
		if err := tx.VerifyPIN([]byte(testPIN)); err != nil {
			return err
		}
		signer, err := tx.Signer(piv.SlotAuthentication, public)
		if err != nil {
			return err
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Ada Lovelace"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, public, signer)
		if err != nil {
			return err
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		return tx.PutCertificate(piv.SlotAuthentication, cert)
	})
	if err != nil {
		t.Fatal(err)
	}
	return public
}
