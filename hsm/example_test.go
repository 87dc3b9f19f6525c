package hsm_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"fmt"
	"log"

	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
)

func Example() {
	ctx := context.Background()
	token, remove, err := hsmtest.Create(ctx) // in a program, the URI comes from the configuration
	if err != nil {
		log.Fatal(err)
	}
	defer remove()

	uri, err := hsm.ParseURI(token.URI)
	if err != nil {
		log.Fatal(err)
	}
	tok, err := hsm.Open(ctx, uri, token.GetPIN)
	if err != nil {
		log.Fatal(err)
	}
	defer tok.Close()

	info, err := tok.GenerateKey(ctx, "sign", hsm.PurposeSign, hsm.ECP256)
	if err != nil {
		log.Fatal(err)
	}
	key, err := tok.Signer(ctx, "sign")
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
