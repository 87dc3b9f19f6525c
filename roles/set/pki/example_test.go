package pki_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"log"
	"time"

	"github.com/setkit/setkit/roles/set/pki"
)

// A root certifies a brand CA, the brand CA the key that the brand's cardholder CA signs messages with;
// whoever installed the root can then verify the latter.
func Example() {
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			log.Fatal(err)
		}
		return k
	}
	must := func(c *pki.Certificate, err error) *pki.Certificate {
		if err != nil {
			log.Fatal(err)
		}
		return c
	}
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	rootKey, nextRootKey, brandKey, messageKey := key(), key(), key(), key()

	root := must(pki.Issue(rand.Reader, pki.Template{
		Type: pki.RCA, Use: pki.Authority, Subject: pki.Name{Country: "DK", Brand: pki.RootName},
		PublicKey: rootKey.Public(), NextRootKey: nextRootKey.Public(),
		NotBefore: from, NotAfter: from.AddDate(20, 0, 0), PrivateKeyNotAfter: from.AddDate(10, 0, 0),
	}, nil, rootKey))
	brand := must(pki.Issue(rand.Reader, pki.Template{
		Type: pki.BCA, Use: pki.Authority, Subject: pki.Name{Country: "DK", Brand: "Acme", Unit: "Acme Brand CA"},
		PublicKey: brandKey.Public(),
		NotBefore: from, NotAfter: from.AddDate(10, 0, 0), PrivateKeyNotAfter: from.AddDate(4, 0, 0),
	}, root, rootKey))
	message := must(pki.Issue(rand.Reader, pki.Template{
		Type: pki.CCA, Use: pki.Signature, Subject: pki.Name{Country: "DK", Brand: "Acme", Unit: "Bank cardholder CA"},
		PublicKey: messageKey.Public(),
		NotBefore: from, NotAfter: from.AddDate(1, 0, 0),
	}, brand, brandKey))

	verifier, err := pki.NewVerifier([]*pki.Certificate{root}, pki.Options{})
	if err != nil {
		log.Fatal(err)
	}
	chain, err := verifier.Verify(message, []*pki.Certificate{brand}, from.AddDate(0, 6, 0), pki.CCA)
	if err != nil {
		log.Fatal(err)
	}
	for _, c := range chain {
		fmt.Println(c.Type, c.Use, c.Brand())
	}
	_, err = verifier.Verify(message, nil, from.AddDate(0, 6, 0))
	fmt.Println(err.(*pki.VerifyError).Reason)
	// Output:
	// cca signature Acme
	// bca authority Acme
	// rca authority SET Root
	// missing
}
