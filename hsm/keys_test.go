package hsm_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
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
