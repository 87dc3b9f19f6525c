package hsm_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/pkcs11"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
	"github.com/setkit/setkit/hsm/hsmtest/faults"
)

// A key that this package cannot read is in the list, and the others too.
func TestKeysThatCannotBeRead(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	want := generate(t, tok, "sign", hsm.PurposeSign, hsm.ECP256)
	if err := hsm.StoreRSA(t.Context(), tok, "short", []byte{1}, bytes.Repeat([]byte{0xff}, 64)); err != nil {
		t.Fatal(err)
	}
	keys, err := tok.Keys(t.Context())
	if err != nil || len(keys) != 2 {
		t.Fatalf("keys %+v, %v; want two", keys, err)
	}
	if k := keys[0]; k.Label != "short" || k.ID != "01" || k.Type != "" || k.Public != nil || k.SPKI != nil {
		t.Errorf("the key that cannot be read is %+v; want no type and no public key", k)
	}
	if diff := cmp.Diff(want, keys[1]); diff != "" {
		t.Errorf("the other key differs (-want +got):\n%s", diff)
	}
	if _, err := tok.Signer(t.Context(), "short"); err == nil || errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("signing with it: %v, want a refusal", err)
	}
	if err := tok.DeleteKey(t.Context(), "short", nil); err != nil {
		t.Error(err)
	}
}

func TestParseRSA(t *testing.T) {
	t.Parallel()
	modulus := bytes.Repeat([]byte{0xff}, 256)
	for _, exponent := range [][]byte{{3}, {1, 0, 1}, {0, 1, 0, 1}, {0x7f, 0xff, 0xff, 0xff}} {
		if pub, err := hsm.ParseRSA(modulus, exponent); err != nil || pub == nil {
			t.Errorf("exponent %x: %v, %v", exponent, pub, err)
		}
	}
	for name, key := range map[string][2][]byte{
		"nothing": {}, "exponent 1": {modulus, {1}}, "exponent 0": {modulus, {0}}, "even exponent": {modulus, {1, 0, 0}},
		"long exponent": {modulus, {0xff, 0xff, 0xff, 0xff}}, "short": {modulus[:127], {3}}, "long": {bytes.Repeat(modulus, 9), {3}},
		"even modulus": {append(bytes.Clone(modulus[1:]), 0xfe), {3}},
	} {
		if pub, err := hsm.ParseRSA(key[0], key[1]); err == nil {
			t.Errorf("%s: %v, want a refusal", name, pub)
		}
	}
}

// Which of two public keys with one CKA_ID belongs to the private key cannot be told: none does.
func TestTwoPublicKeys(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	for label, b := range map[string]byte{"a": 0xff, "b": 0xfd} {
		if err := hsm.StoreRSA(t.Context(), tok, label, []byte{1}, bytes.Repeat([]byte{b}, 256)); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := tok.Keys(t.Context())
	if err != nil || len(keys) != 2 || keys[0].Public != nil || keys[1].Public != nil {
		t.Errorf("keys %+v, %v; want two without a public key", keys, err)
	}
}

// What another call has in the token for a moment is no key of the token.
func TestListsHaveNoSessionObjects(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	generate(t, tok, "derive", hsm.PurposeDerive, hsm.ECP256)
	generate(t, tok, "sign", hsm.PurposeSign, hsm.ECP256)
	release, err := hsm.HoldSessionObjects(t.Context(), tok)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	keys, err := tok.Keys(t.Context())
	if err != nil || len(keys) != 2 {
		t.Errorf("keys %+v, %v; want the two of the token", keys, err)
	}
	if orphans, err := tok.Orphans(t.Context()); err != nil || len(orphans) != 0 {
		t.Errorf("orphans %+v, %v; want none", orphans, err)
	}
}

// Nobody uses a key whose making was cut short.
func TestUnfinishedKey(t *testing.T) {
	t.Parallel()
	tok := hsmtest.New(t).Open(t)
	generate(t, tok, "kek", hsm.PurposeWrap, hsm.AES256)
	if err := hsm.StoreSecret(t.Context(), tok, "unfinished-1", pkcs11.CKK_GENERIC_SECRET, "sign"); err != nil {
		t.Fatal(err)
	}
	if _, err := tok.MAC(t.Context(), "unfinished-1"); !errors.Is(err, hsm.ErrNotPermitted) {
		t.Errorf("using it: %v, want ErrNotPermitted", err)
	}
	if _, err := tok.Wrap(t.Context(), "unfinished-1", "kek"); err == nil || !strings.Contains(err.Error(), "cut short") {
		t.Errorf("wrapping it: %v, want a refusal", err)
	}
	if err := tok.DeleteKey(t.Context(), "unfinished-1", nil); err != nil {
		t.Error(err)
	}
}

// What follows an error is said in the same line.
func TestTokenThatDestroysNothing(t *testing.T) {
	t.Parallel()
	m := faults.New(t)
	tok := m.Open(t)
	m.Fail(faults.DestroyObject, pkcs11.CKR_ACTION_PROHIBITED, faults.Forever)
	err := hsm.GenerateWithUsages(t.Context(), tok, "k", "sign", "teleport")
	if err == nil || !strings.Contains(err.Error(), "; then what there is of the key could not be deleted, see set-hsm doctor") || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q; want one line that says what is left", err)
	}
}

// Who no longer waits for a key learns that it may come.
func TestGenerationGivenUp(t *testing.T) {
	t.Parallel()
	m := faults.New(t)
	tok := m.Open(t)
	release := m.Hang(faults.GenerateKeyPair)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := tok.GenerateKey(ctx, "k", hsm.PurposeSign, hsm.ECP256)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "it may still be made") {
		t.Errorf("generation that hangs: %v, want that the key may come", err)
	}
	release()
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		if _, err := tok.Signer(ctx, "k"); err == nil {
			break
		} else if !errors.Is(err, hsm.ErrNotFound) && !errors.Is(err, hsm.ErrUnavailable) || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	if _, err := tok.GenerateKey(t.Context(), "k", hsm.PurposeSign, hsm.ECP256); !errors.Is(err, hsm.ErrKeyExists) {
		t.Errorf("another try: %v, want ErrKeyExists", err)
	}
}

func TestLabels(t *testing.T) {
	t.Parallel()
	for _, label := range []string{"a", "a b", "Schlüssel 1", "鍵", strings.Repeat("x", 128)} {
		if err := hsm.CheckKey(label, hsm.PurposeSign, hsm.ECP256); err != nil {
			t.Error(err)
		}
	}
	for _, label := range []string{
		"", " a", "a ", "a\x00", "a\tb", "a\u202eb", "a\u200bb", "a\u00a0b", "a\xff", "unfinished-a", "cert-sign", strings.Repeat("x", 129),
	} {
		if err := hsm.CheckKey(label, hsm.PurposeSign, hsm.ECP256); err == nil {
			t.Errorf("label %q is taken", label)
		}
	}
}

// Programs read these names: none may change.
func TestJSON(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		value any
		want  string
	}{
		"key": {hsm.KeyInfo{Usages: []string{}}, `{"label":"","id":"","type":"","purpose":"","usages":[],"private":false,"sensitive":false,` +
			`"extractable":false,"alwaysSensitive":false,"neverExtractable":false,"local":false,"modifiable":false}`},
		"pair": {hsm.KeyInfo{Label: "k", ID: "01", Type: hsm.ECP256, Purpose: hsm.PurposeSign, Usages: []string{"sign"}, SPKI: []byte{1}, Public: 1},
			`{"label":"k","id":"01","type":"ec-p256","purpose":"sign","usages":["sign"],"private":false,"sensitive":false,` +
				`"extractable":false,"alwaysSensitive":false,"neverExtractable":false,"local":false,"modifiable":false,"spki":"AQ=="}`},
		"certificate": {hsm.Certificate{DER: []byte{1}}, `{"label":"","id":"","der":"AQ==","hasKey":false,"mismatch":false}`},
		"mechanism":   {hsm.Mechanism{Name: "CKM_X", Code: 1, Uses: []string{}}, `{"name":"CKM_X","code":1,"uses":[]}`},
		"token": {hsm.TokenInfo{}, `{"label":"","serial":"","manufacturer":"","model":"","userPIN":false,"pinLocked":false,` +
			`"hardware":"","firmware":"","loginRequired":false,"writeProtected":false,"random":false,"errorState":false,"pinLow":false,` +
			`"pinFinalTry":false,"pinToChange":false,"soPINLow":false,"soPINFinalTry":false,"soPINLocked":false,"soPINToChange":false,` +
			`"pinBytesMin":0,"pinBytesMax":0,"sessionsMax":0,"sessions":0}`},
	} {
		got, err := json.Marshal(tt.value)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
