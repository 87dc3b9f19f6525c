package hsm_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
)

// openExample opens a token that exists for the length of the example. In a program the URI comes from
// the configuration, and the PIN from where the URI's pin-source says.
func openExample(ctx context.Context) (token *hsm.Token, end func()) {
	throwAway, remove, err := hsmtest.Create(ctx)
	if err != nil {
		log.Fatal(err)
	}
	uri, err := hsm.ParseURI(throwAway.URI)
	if err != nil {
		log.Fatal(err)
	}
	token, err = hsm.Open(ctx, uri, throwAway.GetPIN)
	if err != nil {
		log.Fatal(err)
	}
	return token, func() {
		token.Close()
		remove()
	}
}

// Open a token, make a key in it, and sign.
func Example() {
	ctx := context.Background()
	token, end := openExample(ctx)
	defer end()

	info, err := token.GenerateKey(ctx, "sign", hsm.PurposeSign, hsm.ECP256)
	if err != nil {
		log.Fatal(err)
	}
	key, err := token.Signer(ctx, "sign")
	if err != nil {
		log.Fatal(err)
	}
	digest := sha256.Sum256([]byte("one purchase"))
	sig, err := key.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Type, info.Usages, "extractable:", info.Extractable)
	fmt.Println("verifies:", ecdsa.VerifyASN1(key.Public().(*ecdsa.PublicKey), digest[:], sig))
	// Output:
	// ec-p256 [sign] extractable: false
	// verifies: true
}

// A certificate authority whose key is in the HSM certifies itself and a server.
func ExampleSigner_certificate() {
	ctx := context.Background()
	token, end := openExample(ctx)
	defer end()

	root, leaf, err := certify(ctx, token)
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "shop.example"})
	fmt.Println(leaf.Issuer.CommonName, "certifies", leaf.DNSNames, "verifies:", err == nil)
	// Output:
	// Example CA certifies [shop.example] verifies: true
}

// certify makes a CA's key and a server's in token, and their certificates.
func certify(ctx context.Context, token *hsm.Token) (root, leaf *x509.Certificate, err error) {
	if _, err := token.GenerateKey(ctx, "cert-sign", hsm.PurposeCertSign, hsm.ECP384); err != nil {
		return nil, nil, err
	}
	if _, err := token.GenerateKey(ctx, "tls", hsm.PurposeSign, hsm.ECP256); err != nil {
		return nil, nil, err
	}
	ca, err := token.Signer(ctx, "cert-sign")
	if err != nil {
		return nil, nil, err
	}
	server, err := token.Signer(ctx, "tls")
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Example CA"}, NotBefore: now.Add(-time.Minute), NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if root, err = issue(template, template, ca.Public(), ca); err != nil {
		return nil, nil, err
	}
	leaf, err = issue(&x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{"shop.example"}, NotBefore: now.Add(-time.Minute), NotAfter: now.AddDate(0, 3, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, root, server.Public(), ca)
	return root, leaf, err
}

func issue(template, parent *x509.Certificate, public crypto.PublicKey, ca crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, ca)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// A TLS server whose key is in the HSM: every handshake is signed there.
func ExampleSigner_tlsServer() {
	ctx := context.Background()
	token, end := openExample(ctx)
	defer end()
	root, leaf, err := certify(ctx, token)
	if err != nil {
		log.Fatal(err)
	}
	key, err := token.Signer(ctx, "tls")
	if err != nil {
		log.Fatal(err)
	}

	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "welcome")
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}}}
	server.StartTLS()
	defer server.Close()

	roots := x509.NewCertPool()
	roots.AddCert(root)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "shop.example"}}}
	res, err := client.Get(server.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	fmt.Println(res.Status, string(body), err)
	// Output:
	// 200 OK welcome <nil>
}

// Two tokens that hold the same key: work goes on when one of them is lost.
func ExampleOpenGroup() {
	ctx := context.Background()
	pin := func(ctx context.Context, source, token string) ([]byte, error) {
		return nil, fmt.Errorf("no PIN for token %s", token) // a program gets it from source
	}
	var uris []hsm.URI
	for _, text := range []string{
		"pkcs11:token=hsm-a?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=env:HSM_PIN",
		"pkcs11:token=hsm-b?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=env:HSM_PIN",
	} {
		uri, err := hsm.ParseURI(text)
		if err != nil {
			log.Fatal(err)
		}
		uris = append(uris, uri)
	}
	group, err := hsm.OpenGroup(ctx, uris, pin)
	if err != nil {
		return // neither is there
	}
	defer group.Close()
	key, err := group.Signer(ctx, "sign")
	if err != nil {
		log.Fatal(err)
	}
	digest := sha256.Sum256([]byte("one purchase"))
	if _, err := key.WithContext(ctx).Sign(nil, digest[:], crypto.SHA256); err != nil {
		log.Fatal(err)
	}
}
