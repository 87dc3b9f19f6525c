package set_test

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
)

// properties are the security properties of the protocol and its known weaknesses (SET §9), each with the
// test that shows it. The attacker owns the network: it drops, replays, reorders and exchanges messages and
// their parts, and has the keys of whoever the property does not trust. What needs a party's records to be
// seen stands in a table of the same name beside the party.
var properties = map[string]func(*testing.T){
	"CR-1":  cardNumberIsForOneCA,
	"CR-2":  cardSecretIsForTheCA,
	"CR-3":  nonceOfTheCAIsForTheCardholder,
	"CR-4":  sessionKeysOfARegistration,
	"CR-6":  onlyGenuineKeysOfTheCA,
	"CR-7":  answersOfAnotherRegistration,
	"CR-8":  certifiedKeyMayBeOld,
	"W-CR1": nonceThatGivesTheSecretAway,
	"W-CR4": formRequestIsWhole,
	"W-CR5": firstMessageIsAnybodys,

	"MR-1": sessionKeysOfAMerchant,
	"MR-4": onlyGenuineKeysOfTheMerchantCA,
	"MR-5": privateKeysStay,

	"PU-1":  unsignedCardNumberIsForTheGateway,
	"PU-2":  signedCardNumberIsForTheGateway,
	"PU-3":  panSecretIsForTheGateway,
	"PU-4":  cardSecretIsForNobody,
	"PU-5":  orderIsForTheMerchant,
	"PU-6":  gatewayIsTheMerchants,
	"PU-8":  orderIsTheCardholders,
	"PU-9":  paymentIsTheCardholders,
	"PU-10": authorizationIsTheMerchants,
	"PU-11": merchantAndCardholderAgree,
	"PU-12": authorizationResultIsTheGateways,
	"PU-13": resultIsTheMerchants,
	"PU-14": sessionKeysOfAPurchase,

	"W-PU1":  unsignedPurchaseProvesNobody,
	"W-PU2":  paymentForAnotherGateway,
	"W-PU3":  merchantCannotCheckPayment,
	"W-PU4":  resultNamesItsMerchant,
	"W-PU5":  envelopeIsNotThePayment,
	"W-PU6":  amountIsTheCardholders,
	"W-PU7":  eachSeesTheOthersDigest,
	"W-PU8":  orderOfAnotherSession,
	"W-PU9":  stainIsEvidenceOnly,
	"W-PU10": resultIsTheMerchantsWord,
	"W-PU11": gatewayCannotSignForTheCardholder,

	"decryption has one error":       decryptionHasOneError,
	"signatures are verified before": signaturesComeFirst,
}

func TestProperties(t *testing.T) {
	t.Parallel()
	for id, shown := range properties {
		t.Run(id, shown)
	}
}

// propertyIDs are all properties and weaknesses that SET §9 has.
var propertyIDs = []string{
	"CR-1", "CR-2", "CR-3", "CR-4", "CR-5", "CR-6", "CR-7", "CR-8", "W-CR1", "W-CR2", "W-CR3", "W-CR4", "W-CR5", "W-CR6",
	"MR-1", "MR-2", "MR-3", "MR-4", "MR-5", "W-MR1", "W-MR2", "W-MR3",
	"PU-1", "PU-2", "PU-3", "PU-4", "PU-5", "PU-6", "PU-7", "PU-8", "PU-9", "PU-10", "PU-11", "PU-12", "PU-13", "PU-14",
	"W-PU1", "W-PU2", "W-PU3", "W-PU4", "W-PU5", "W-PU6", "W-PU7", "W-PU8", "W-PU9", "W-PU10", "W-PU11",
}

// No property is without its test, here or beside the party that shows it.
func TestEveryPropertyIsShown(t *testing.T) {
	t.Parallel()
	var shown []string
	for _, file := range []string{"properties_test.go", "../ca/properties_test.go", "../gateway/properties_test.go", "../merchant/properties_test.go"} {
		found := keysOfProperties(t, file)
		if len(found) == 0 {
			t.Errorf("%s has no table of properties", file)
		}
		shown = append(shown, found...)
	}
	for _, id := range propertyIDs {
		if !slices.Contains(shown, id) {
			t.Errorf("%s has no test", id)
		}
	}
}

// keysOfProperties reads the table named properties of a file.
func keysOfProperties(t *testing.T, file string) (keys []string) {
	t.Helper()
	parsed := must[*ast.File](t)(parser.ParseFile(token.NewFileSet(), file, nil, 0))
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Names[0].Name != "properties" {
			return true
		}
		for _, element := range spec.Values[0].(*ast.CompositeLit).Elts {
			keys = append(keys, must[string](t)(strconv.Unquote(element.(*ast.KeyValueExpr).Key.(*ast.BasicLit).Value)))
		}
		return false
	})
	return keys
}

// What follows is what an attacker does with messages and keys.

// envelope is AuthEnvelopedData as an attacker writes it.
type envelope struct {
	Version    int
	Recipients []asn1.RawValue `asn1:"set"`
	Content    struct {
		Type      asn1.ObjectIdentifier
		Algorithm struct {
			ID     asn1.ObjectIdentifier
			Params struct {
				Nonce []byte
				ICV   int
			}
		}
		Sealed []byte `asn1:"tag:0"`
	}
	MAC []byte
}

// transport is the RecipientInfo of a key under RSA.
type transport struct {
	Version        int
	RID, Algorithm asn1.RawValue
	Key            []byte
}

var oidEnveloped = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 23}

// opened is the plaintext under a content key, nil when it is another's.
func (v *envelope) opened(key []byte) []byte {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil
	}
	plaintext, err := aead.Open(nil, v.Content.Algorithm.Params.Nonce, append(bytes.Clone(v.Content.Sealed), v.MAC...), nil)
	if err != nil {
		return nil
	}
	return plaintext
}

// block decrypts the RSA block, and finds the content key in it; nil when it is for another key.
func (v *envelope) block(key crypto.Decrypter) (block, contentKey []byte) {
	var to transport
	if rest, err := asn1.Unmarshal(v.Recipients[0].FullBytes, &to); err != nil || len(rest) > 0 {
		return nil, nil // under a back key
	}
	block, err := key.Decrypt(rand.Reader, to.Key, &rsa.OAEPOptions{Hash: crypto.SHA256})
	switch {
	case err != nil || len(block) < 32:
		return nil, nil
	case len(block) == 32:
		return block, block
	}
	return block, block[1:33]
}

// envelopeOf reads an encrypted part of a message.
func envelopeOf(t *testing.T, ci cms.ContentInfo) *envelope {
	t.Helper()
	v := new(envelope)
	if rest, err := asn1.Unmarshal(ci.Content, v); err != nil || len(rest) > 0 {
		t.Fatalf("no envelope: %v", err)
	}
	return v
}

// leak is the content key of an envelope, which only its recipient has.
func leak(t *testing.T, ci cms.ContentInfo, to *set.Endpoint) []byte {
	t.Helper()
	v := envelopeOf(t, ci)
	_, key := v.block(to.ExchangeKey)
	if key == nil || v.opened(key) == nil {
		t.Fatal("the key that leaks is not the envelope's")
	}
	return key
}

// resealed is the envelope with other contents under the content key that an attacker has, and the RSA block
// as it was.
func resealed(t *testing.T, ci cms.ContentInfo, key, plaintext []byte) cms.ContentInfo {
	t.Helper()
	v := envelopeOf(t, ci)
	aead := must[cipher.AEAD](t)(cipher.NewGCM(must[cipher.Block](t)(aes.NewCipher(key))))
	rand.Read(v.Content.Algorithm.Params.Nonce)
	sealed := aead.Seal(nil, v.Content.Algorithm.Params.Nonce, plaintext, nil)
	v.Content.Sealed, v.MAC = sealed[:len(plaintext)], sealed[len(plaintext):]
	ci.Content = must[[]byte](t)(asn1.Marshal(*v))
	return ci
}

// learnt is all that can be read by who has these messages and these keys: the messages, what opens, and what
// is in that again.
func learnt(t *testing.T, messages [][]byte, keys ...crypto.Decrypter) (known [][]byte) {
	t.Helper()
	var walk func(b []byte)
	walk = func(b []byte) {
		for len(b) > 0 {
			var v asn1.RawValue
			rest, err := asn1.Unmarshal(b, &v)
			if err != nil {
				return
			}
			var ci struct {
				Type    asn1.ObjectIdentifier
				Content envelope `asn1:"explicit,tag:0"`
			}
			if _, err := asn1.Unmarshal(v.FullBytes, &ci); err == nil && ci.Type.Equal(oidEnveloped) {
				for _, key := range keys {
					block, contentKey := ci.Content.block(key)
					if plaintext := ci.Content.opened(contentKey); plaintext != nil {
						known = append(known, block, plaintext)
						walk(plaintext)
					}
				}
			}
			if v.IsCompound || v.Tag == asn1.TagOctetString {
				walk(v.Bytes)
			}
			b = rest
		}
	}
	for _, m := range messages {
		known = append(known, m)
		walk(m)
	}
	return known
}

// holds tells whether one of the texts has the secret in it.
func holds(texts [][]byte, secret []byte) bool {
	return slices.ContainsFunc(texts, func(b []byte) bool { return bytes.Contains(b, secret) })
}

// wantClosed wants that a key which leaks from one envelope opens no other.
func wantClosed(t *testing.T, keys map[string][]byte, envelopes map[string]cms.ContentInfo) {
	t.Helper()
	for leaked, key := range keys {
		for name, ci := range envelopes {
			if leaked == name {
				continue
			}
			v := envelopeOf(t, ci)
			if v.opened(key) != nil {
				t.Errorf("the key of %s opens %s", leaked, name)
			}
			if _, err := cms.DecryptBack(key, ci, v.Content.Type); err == nil {
				t.Errorf("the key of %s, as a back key, opens %s", leaked, name)
			}
		}
	}
}
