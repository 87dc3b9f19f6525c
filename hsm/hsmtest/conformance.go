package hsmtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/setkit/setkit/hsm"
)

// Conformance puts a token through all that package hsm does with one: every purpose and type of key
// is made, read back and used, and what comes out is compared with Go's own cryptography. It tells
// whether a PKCS#11 library can be relied on.
//
// open opens the token and closes it when the test ends. The token may be in use: the suite makes its
// own keys and certificates, under labels that have the word conformance and random letters in them,
// touches no others, and deletes them at the end.
//
// What the token does not claim to do, by its list of mechanisms, is reported at the end by name, in
// lines that begin with "unsupported:". What it claims and does wrong fails the test.
func Conformance(t *testing.T, open func(testing.TB) *hsm.Token) {
	s := &suite{tok: open(t), run: strings.ToLower(rand.Text()[:12]), keys: map[kind]string{}}
	s.readMechanisms(t)
	t.Cleanup(func() { s.deleteAll(t) })
	for _, part := range []struct {
		name string
		test func(*testing.T)
	}{
		{"generate", s.testGenerate},
		{"labels", s.testLabels},
		{"purposes", s.testPurposes},
		{"missing keys", s.testMissing},
		{"sign", s.testSign},
		{"sign refuses", s.testSignRefuses},
		{"decrypt", s.testDecrypt},
		{"mac", s.testMAC},
		{"seal", s.testSeal},
		{"random", s.testRandom},
		{"parallel", s.testParallel},
		{"rename", s.testRename},
		{"delete", s.testDelete},
	} {
		t.Run(part.name, part.test)
	}
	info := s.tok.Info()
	t.Logf("token %q of %s, %s", info.Label, info.Manufacturer, info.Model)
	slices.Sort(s.unsupported)
	for _, name := range slices.Compact(s.unsupported) {
		t.Log("unsupported: ", name)
	}
	for _, note := range s.notes {
		t.Log("note: ", note)
	}
}

// suite is one run of the conformance suite. Its parts run one after the other.
type suite struct {
	tok         *hsm.Token
	run         string   // is part of every label
	made        []string // the labels of all keys made
	keys        map[kind]string
	mechanisms  map[string]bool
	unsupported []string
	notes       []string
}

// kind is a sort of key.
type kind struct {
	purpose hsm.Purpose
	typ     hsm.KeyType
}

func (k kind) String() string { return fmt.Sprintf("%s key of type %s", k.purpose, k.typ) }

// kinds are the keys that the suite makes first, and then uses all through: making a long RSA key takes
// seconds. Needs are the mechanisms without which the token has no such key.
var kinds = []struct {
	kind
	usages []string
	needs  []string
}{
	{kind{hsm.PurposeSign, hsm.ECP256}, []string{"sign"}, []string{"CKM_EC_KEY_PAIR_GEN", "CKM_ECDSA"}},
	{kind{hsm.PurposeSign, hsm.ECP384}, []string{"sign"}, []string{"CKM_EC_KEY_PAIR_GEN", "CKM_ECDSA"}},
	{kind{hsm.PurposeSign, hsm.RSA2048}, []string{"sign"}, []string{"CKM_RSA_PKCS_KEY_PAIR_GEN", "CKM_RSA_PKCS"}},
	{kind{hsm.PurposeSign, hsm.RSA3072}, []string{"sign"}, []string{"CKM_RSA_PKCS_KEY_PAIR_GEN", "CKM_RSA_PKCS"}},
	{kind{hsm.PurposeCertSign, hsm.ECP256}, []string{"sign"}, []string{"CKM_EC_KEY_PAIR_GEN", "CKM_ECDSA"}},
	{kind{hsm.PurposeCertSign, hsm.RSA4096}, []string{"sign"}, []string{"CKM_RSA_PKCS_KEY_PAIR_GEN", "CKM_RSA_PKCS"}},
	{kind{hsm.PurposeKeyExchange, hsm.RSA2048}, []string{"decrypt"}, []string{"CKM_RSA_PKCS_KEY_PAIR_GEN", "CKM_RSA_X_509"}},
	{kind{hsm.PurposeMAC, hsm.HMACSHA256}, []string{"sign"}, []string{"CKM_GENERIC_SECRET_KEY_GEN", "CKM_SHA256_HMAC"}},
	{kind{hsm.PurposeSeal, hsm.AES256}, []string{"decrypt", "encrypt"}, []string{"CKM_AES_KEY_GEN", "CKM_AES_GCM"}},
}

func (s *suite) readMechanisms(t *testing.T) {
	s.mechanisms = nil // until the token can be asked
}

// has reports whether the token claims the mechanisms that something needs. If not, it is put on the
// list of what is unsupported.
func (s *suite) has(what string, mechanisms ...string) bool {
	for _, m := range mechanisms {
		if s.mechanisms != nil && !s.mechanisms[m] {
			s.unsupported = append(s.unsupported, fmt.Sprintf("%s (no %s)", what, m))
			return false
		}
	}
	return true
}

// label returns a label that nothing else in the token has.
func (s *suite) label(k kind) string {
	label := fmt.Sprintf("conformance-%s-%d-%s", s.run, len(s.made), k.purpose)
	if k.purpose == hsm.PurposeCertSign {
		label = "cert-sign-" + label
	}
	s.made = append(s.made, label)
	return label
}

// generate makes a key that nothing else uses.
func (s *suite) generate(t *testing.T, k kind) string {
	t.Helper()
	label := s.label(k)
	if _, err := s.tok.GenerateKey(t.Context(), label, k.purpose, k.typ); err != nil {
		t.Fatal(err)
	}
	return label
}

// key returns the label of the token's key of this kind. If there is none, because the token does not
// support it or because making it has failed and the test with it, ok is false.
func (s *suite) key(purpose hsm.Purpose, typ hsm.KeyType) (label string, ok bool) {
	label, ok = s.keys[kind{purpose, typ}]
	return label, ok
}

// deleteAll deletes what the suite has put into the token, and looks whether it is gone.
func (s *suite) deleteAll(t *testing.T) {
	// The test's own context has ended.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, k := range s.list(ctx, t) {
		if err := s.tok.DeleteKey(ctx, k.Label, nil); err != nil {
			t.Error(err)
		}
	}
	for _, k := range s.list(ctx, t) {
		t.Errorf("key %q is left in the token after it was deleted", k.Label)
	}
}

// list lists the suite's keys.
func (s *suite) list(ctx context.Context, t *testing.T) []hsm.KeyInfo {
	t.Helper()
	keys, err := s.tok.Keys(ctx)
	if err != nil {
		t.Error(err)
	}
	return slices.DeleteFunc(keys, func(k hsm.KeyInfo) bool { return !strings.Contains(k.Label, s.run) })
}
