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
		{"derive", s.testDerive},
		{"wrap", s.testWrap},
		{"certificates", s.testCertificates},
	} {
		t.Run(part.name, part.test)
	}
	info := s.tok.Info()
	t.Logf("token %q of %s, %s", info.Label, info.Manufacturer, info.Model)
	slices.Sort(s.unsupported)
	for _, name := range slices.Compact(s.unsupported) {
		t.Log("unsupported:", name)
	}
	slices.Sort(s.notes)
	for _, note := range slices.Compact(s.notes) {
		t.Log("note:", note)
	}
}

// suite is one run of the conformance suite. Its parts run one after the other.
type suite struct {
	tok         *hsm.Token
	run         string          // is part of every label
	labels      int             // how many were given
	keys        map[kind]string // labels
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
	{kind{hsm.PurposeSign, hsm.Ed25519}, []string{"sign"}, []string{"CKM_EC_EDWARDS_KEY_PAIR_GEN", "CKM_EDDSA"}},
	{kind{hsm.PurposeSign, hsm.RSA2048}, []string{"sign"}, []string{"CKM_RSA_PKCS_KEY_PAIR_GEN", "CKM_RSA_PKCS"}},
	{kind{hsm.PurposeSign, hsm.RSA3072}, []string{"sign"}, []string{"CKM_RSA_PKCS_KEY_PAIR_GEN", "CKM_RSA_PKCS"}},
	{kind{hsm.PurposeCertSign, hsm.ECP256}, []string{"sign"}, []string{"CKM_EC_KEY_PAIR_GEN", "CKM_ECDSA"}},
	{kind{hsm.PurposeCertSign, hsm.RSA4096}, []string{"sign"}, []string{"CKM_RSA_PKCS_KEY_PAIR_GEN", "CKM_RSA_PKCS"}},
	{kind{hsm.PurposeKeyExchange, hsm.RSA2048}, []string{"decrypt"}, []string{"CKM_RSA_PKCS_KEY_PAIR_GEN"}},
	{kind{hsm.PurposeMAC, hsm.HMACSHA256}, []string{"sign"}, []string{"CKM_GENERIC_SECRET_KEY_GEN", "CKM_SHA256_HMAC"}},
	{kind{hsm.PurposeMAC, hsm.AES256}, []string{"sign"}, []string{"CKM_AES_KEY_GEN", "CKM_AES_CMAC"}},
	{kind{hsm.PurposeSeal, hsm.AES128}, []string{"decrypt", "encrypt"}, []string{"CKM_AES_KEY_GEN", "CKM_AES_GCM"}},
	{kind{hsm.PurposeSeal, hsm.AES256}, []string{"decrypt", "encrypt"}, []string{"CKM_AES_KEY_GEN", "CKM_AES_GCM"}},
	{kind{hsm.PurposeWrap, hsm.AES128}, []string{"wrap"}, []string{"CKM_AES_KEY_GEN", aesWrap}},
	{kind{hsm.PurposeWrap, hsm.AES256}, []string{"wrap"}, []string{"CKM_AES_KEY_GEN", aesWrap}},
	{kind{hsm.PurposeUnwrap, hsm.RSA2048}, []string{"unwrap"}, []string{"CKM_RSA_PKCS_KEY_PAIR_GEN", rsaUnwrap}},
	{kind{hsm.PurposeDerive, hsm.ECP256}, []string{"derive"}, []string{"CKM_EC_KEY_PAIR_GEN", "CKM_ECDH1_DERIVE"}},
	{kind{hsm.PurposeDerive, hsm.ECP384}, []string{"derive"}, []string{"CKM_EC_KEY_PAIR_GEN", "CKM_ECDH1_DERIVE"}},
}

// What a token may do in more than one way.
const (
	aesWrap   = "AES key wrap"
	rsaUnwrap = "RSA-OAEP to unwrap keys"
)

// readMechanisms asks the token what it can do.
func (s *suite) readMechanisms(t *testing.T) {
	list, err := s.tok.Mechanisms(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.mechanisms = map[string]bool{}
	for _, m := range list {
		s.mechanisms[m.Name] = true
		wraps := slices.Contains(m.Uses, "wrap") && slices.Contains(m.Uses, "unwrap")
		switch m.Name {
		case "CKM_AES_KEY_WRAP", "CKM_AES_KEY_WRAP_PAD", "CKM_AES_KEY_WRAP_KWP":
			s.mechanisms[aesWrap] = s.mechanisms[aesWrap] || wraps
		case "CKM_RSA_PKCS_OAEP":
			s.mechanisms[rsaUnwrap] = wraps
		}
	}
	// Of these package hsm needs one, and takes the first that there is.
	for _, m := range []string{"CKM_AES_KEY_WRAP_KWP", "CKM_AES_KEY_WRAP_PAD", "CKM_AES_KEY_WRAP"} {
		s.has("one of the ways to wrap keys by AES", m)
	}
}

// has reports whether the token claims the mechanisms that something needs. If not, it is put on the
// list of what is unsupported.
func (s *suite) has(what string, mechanisms ...string) bool {
	for _, m := range mechanisms {
		if !s.mechanisms[m] {
			s.unsupported = append(s.unsupported, fmt.Sprintf("%s (no %s)", what, m))
			return false
		}
	}
	return true
}

// label returns a label that nothing else in the token has.
func (s *suite) label(k kind) string {
	s.labels++
	label := fmt.Sprintf("conformance-%s-%d-%s", s.run, s.labels, k.purpose)
	if k.purpose == hsm.PurposeCertSign {
		label = "cert-sign-" + label
	}
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
	orphans, err := s.tok.Orphans(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, k := range orphans {
		if strings.Contains(k.Label, s.run) {
			t.Errorf("public key %q is left in the token after its private key was deleted", k.Label)
		}
	}
	certs, err := s.tok.Certificates(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, c := range certs {
		if strings.Contains(c.Label, s.run) {
			if err := s.tok.DeleteCertificate(ctx, c.Label); err != nil {
				t.Error(err)
			}
		}
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
