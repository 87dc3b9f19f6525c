package hsmtest

import (
	"crypto"
	"crypto/sha1" // names keys (RFC 5280 §4.2.1.2), protects nothing
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/setkit/setkit/hsm"
)

func (s *suite) testGenerate(t *testing.T) {
	for _, k := range kinds {
		if !s.has(k.String(), k.needs...) {
			continue
		}
		t.Run(k.String(), func(t *testing.T) {
			label := s.label(k.kind)
			got, err := s.tok.GenerateKey(t.Context(), label, k.purpose, k.typ)
			if err != nil {
				t.Fatal(err)
			}
			s.keys[k.kind] = label
			s.checkNew(t, label, k.kind, k.usages, got)
		})
	}
}

// checkNew compares what the token tells of a key that it has made with what was asked for.
func (s *suite) checkNew(t *testing.T, label string, k kind, usages []string, got hsm.KeyInfo) {
	t.Helper()
	want := hsm.KeyInfo{
		Label: label, Type: k.typ, Purpose: k.purpose, Usages: usages, Private: true, Sensitive: true,
		AlwaysSensitive: true, NeverExtractable: true,
	}
	// Local and Modifiable say how good the token is at telling, and need not be so.
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(hsm.KeyInfo{}, "ID", "SPKI", "Public", "Local", "Modifiable")); diff != "" {
		t.Errorf("the key differs (-want +got):\n%s", diff)
	}
	class := "key pairs"
	if got.Public == nil {
		class = "secret keys"
	}
	if !got.Local {
		s.note("CKA_LOCAL is false of %s that the token has made", class)
	}
	if got.Modifiable {
		s.note("CKA_MODIFIABLE is true of new %s", class)
	}
	if got.Public != nil {
		spki, err := x509.MarshalPKIXPublicKey(got.Public)
		if err != nil || string(spki) != string(got.SPKI) {
			t.Errorf("SPKI is %x, %v; want %x", got.SPKI, err, spki)
		}
		if id := keyID(t, got.Public); got.ID != id {
			t.Errorf("CKA_ID is %s, want the subject key identifier %s", got.ID, id)
		}
		pub, err := s.tok.PublicKey(t.Context(), label)
		if err != nil || !samePublic(pub, got.Public) {
			t.Errorf("PublicKey gives %v, %v; want that of the new key", pub, err)
		}
	}
	again, err := s.tok.Key(t.Context(), label)
	if diff := cmp.Diff(got, again); diff != "" || err != nil {
		t.Errorf("looked up, the key differs: %v (-made +found):\n%s", err, diff)
	}
	all, err := s.tok.Keys(t.Context())
	i := slices.IndexFunc(all, func(k hsm.KeyInfo) bool { return k.Label == label })
	if err != nil || i < 0 {
		t.Fatalf("the key is not in the list: %v", err)
	}
	if diff := cmp.Diff(got, all[i]); diff != "" {
		t.Errorf("in the list, the key differs (-made +listed):\n%s", diff)
	}
}

func (s *suite) note(format string, args ...any) {
	s.notes = append(s.notes, fmt.Sprintf(format, args...))
}

// keyID computes the subject key identifier of RFC 5280 §4.2.1.2, method (1).
func keyID(t *testing.T, pub crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	var spki struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &spki); err != nil {
		t.Fatal(err)
	}
	id := sha1.Sum(spki.Key.Bytes)
	return hex.EncodeToString(id[:])
}

func samePublic(a, b crypto.PublicKey) bool {
	pub, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(b)
}

// testLabels: a label that a key has is refused for every other, whatever its class.
func (s *suite) testLabels(t *testing.T) {
	for k, label := range s.keys {
		if k.purpose == hsm.PurposeCertSign {
			continue // its label may not be that of another purpose at all
		}
		for other := range s.keys {
			if other.purpose == hsm.PurposeCertSign {
				continue
			}
			_, err := s.tok.GenerateKey(t.Context(), label, other.purpose, other.typ)
			if !errors.Is(err, hsm.ErrKeyExists) {
				t.Errorf("a %s with the label of a %s: %v, want ErrKeyExists", other, k, err)
			}
		}
	}
	if n := len(s.list(t.Context(), t)); n != len(s.keys) {
		t.Errorf("%d keys in the token, want %d", n, len(s.keys))
	}
}

// uses are the ways to use a key, with the purposes for which they are.
func (s *suite) uses(t *testing.T, label string) map[string]error {
	_, sign := s.tok.Signer(t.Context(), label)
	_, decrypt := s.tok.Decrypter(t.Context(), label)
	_, mac := s.tok.MAC(t.Context(), label)
	_, cmac := s.tok.CMAC(t.Context(), label)
	_, seal := s.tok.Sealer(t.Context(), label)
	_, derive := s.tok.Deriver(t.Context(), label)
	return map[string]error{"Signer": sign, "Decrypter": decrypt, "MAC": mac, "CMAC": cmac, "Sealer": seal, "Deriver": derive}
}

var usePurposes = map[string][]hsm.Purpose{
	"Signer":    {hsm.PurposeSign, hsm.PurposeCertSign},
	"Decrypter": {hsm.PurposeKeyExchange},
	"MAC":       {hsm.PurposeMAC},
	"CMAC":      {hsm.PurposeMAC},
	"Sealer":    {hsm.PurposeSeal},
	"Deriver":   {hsm.PurposeDerive},
}

func (s *suite) testPurposes(t *testing.T) {
	for k, label := range s.keys {
		for use, err := range s.uses(t, label) {
			allowed := slices.Contains(usePurposes[use], k.purpose)
			if k.purpose == hsm.PurposeMAC {
				allowed = use == "MAC" && k.typ == hsm.HMACSHA256 || use == "CMAC" && k.typ == hsm.AES256
			}
			if allowed && err != nil || !allowed && !errors.Is(err, hsm.ErrNotPermitted) {
				t.Errorf("%s of a %s: %v, allowed %t", use, k, err, allowed)
			}
		}
	}
}

func (s *suite) testMissing(t *testing.T) {
	const label = "conformance-missing"
	errs := s.uses(t, label)
	_, errs["Key"] = s.tok.Key(t.Context(), label)
	_, errs["PublicKey"] = s.tok.PublicKey(t.Context(), label)
	_, errs["RenameKey"] = s.tok.RenameKey(t.Context(), label, nil, "conformance-other")
	errs["DeleteKey"] = s.tok.DeleteKey(t.Context(), label, nil)
	for use, err := range errs {
		if !errors.Is(err, hsm.ErrNotFound) || errors.Is(err, hsm.ErrUnavailable) {
			t.Errorf("%s of a key that is not there: %v, want ErrNotFound", use, err)
		}
	}
}

// testRename: the key keeps everything but its label.
func (s *suite) testRename(t *testing.T) {
	for k := range s.keys {
		if k.purpose == hsm.PurposeWrap || k.typ != hsm.ECP256 && k.typ != hsm.AES256 && k.typ != hsm.HMACSHA256 {
			continue // one of each is enough
		}
		label, to := s.generate(t, k), s.label(k)
		before, err := s.tok.Key(t.Context(), label)
		if err != nil {
			t.Fatal(err)
		}
		if taken, ok := s.key(k.purpose, k.typ); ok {
			if _, err := s.tok.RenameKey(t.Context(), label, nil, taken); !errors.Is(err, hsm.ErrKeyExists) {
				t.Errorf("%s: renamed to a label that is taken: %v, want ErrKeyExists", k, err)
			}
		}
		after, err := s.tok.RenameKey(t.Context(), label, nil, to)
		if err != nil {
			// Not every token lets a key be renamed that cannot be modified. The key must be as it was.
			if still, ferr := s.tok.Key(t.Context(), label); before.Modifiable || ferr != nil || !cmp.Equal(before, still) {
				t.Errorf("%s: %v; then the key is %+v, %v", k, err, still, ferr)
			}
			s.unsupported = append(s.unsupported, fmt.Sprintf("renaming an unmodifiable key of type %s", k.typ))
			continue
		}
		want := before
		want.Label = to
		if diff := cmp.Diff(want, after); diff != "" {
			t.Errorf("%s: renamed, the key differs (-want +got):\n%s", k, diff)
		}
		if _, err := s.tok.Key(t.Context(), label); !errors.Is(err, hsm.ErrNotFound) {
			t.Errorf("%s: the old label: %v, want ErrNotFound", k, err)
		}
		if found, err := s.tok.Key(t.Context(), to); err != nil || found.ID != before.ID {
			t.Errorf("%s: the new label: key %s, %v; want %s", k, found.ID, err, before.ID)
		}
	}
}

// testDelete: the key is gone, and its label free.
func (s *suite) testDelete(t *testing.T) {
	for k := range s.keys {
		if k.typ != hsm.ECP256 && k.typ != hsm.AES256 {
			continue
		}
		label := s.generate(t, k)
		if err := s.tok.DeleteKey(t.Context(), label, nil); err != nil {
			t.Error(err)
			continue
		}
		if _, err := s.tok.Key(t.Context(), label); !errors.Is(err, hsm.ErrNotFound) {
			t.Errorf("%s: after it was deleted: %v, want ErrNotFound", k, err)
		}
		if _, err := s.tok.GenerateKey(t.Context(), label, k.purpose, k.typ); err != nil {
			t.Errorf("%s: a new key in its place: %v", k, err)
		}
	}
}
