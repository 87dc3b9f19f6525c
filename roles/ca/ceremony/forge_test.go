package ceremony_test

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/setkit/setkit/roles/ca/ceremony"
)

var (
	previousSHA256 = regexp.MustCompile(`"previous_sha256":"[0-9a-f]{64}"`)
	seq            = regexp.MustCompile(`^\{"seq":[0-9]+,`)
)

// transcript gives the lines of a transcript.
func (r *room) transcript(t *testing.T) []string {
	t.Helper()
	return strings.Split(strings.TrimSuffix(string(r.file(t, "transcript.jsonl")), "\n"), "\n")
}

// resign makes a transcript of other lines, as somebody could who can use the root's key.
func (r *room) resign(t *testing.T, lines []string) {
	t.Helper()
	var forged []byte
	previous := strings.Repeat("0", 64)
	for i, line := range lines {
		line = seq.ReplaceAllString(line, fmt.Sprintf(`{"seq":%d,`, i+1))
		line = previousSHA256.ReplaceAllString(line, `"previous_sha256":"`+previous+`"`)
		previous = sha256Hex([]byte(line))
		forged = append(append(forged, line...), '\n')
	}
	sum := sha256.Sum256(forged)
	signature, err := r.tokens["root-ca"].Private["cert-sign"].Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	r.put(t, "transcript.jsonl", forged)
	r.put(t, "transcript.sig", withS(t, signature, func(s, other *big.Int) bool { return s.Cmp(other) < 0 }))
	readable, err := ceremony.Readable(forged)
	if err != nil {
		return // the test is about what cannot be read
	}
	r.put(t, "transcript.txt", readable)
}

// withS gives the form of a signature on P-256 that is wanted: of (r, s) and (r, n-s) both verify.
func withS(t *testing.T, signature []byte, want func(s, other *big.Int) bool) []byte {
	t.Helper()
	var pair struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(signature, &pair); err != nil {
		t.Fatal(err)
	}
	if other := new(big.Int).Sub(elliptic.P256().Params().N, pair.S); !want(pair.S, other) {
		pair.S = other
	}
	out, err := asn1.Marshal(pair)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// The other form of a signature is another signature, though it verifies.
func TestVerifyFindsTheOtherSignature(t *testing.T) {
	t.Parallel()
	r := newRoom(t, short)
	r.hold(t)
	good := r.file(t, "transcript.sig")
	r.put(t, "transcript.sig", withS(t, good, func(s, other *big.Int) bool { return s.Cmp(other) > 0 }))
	wantOnly(t, r.out, "transcript.sig", "it is not a signature as a ceremony writes it")
	cert := r.file(t, "brand.pem")
	x := r.cert(t, "brand.pem").X509
	outer := struct {
		TBS, Algorithm asn1.RawValue
		Signature      asn1.BitString
	}{}
	if _, err := asn1.Unmarshal(x.Raw, &outer); err != nil {
		t.Fatal(err)
	}
	changed := withS(t, outer.Signature.Bytes, func(s, _ *big.Int) bool { return s.Cmp(ecdsaS(t, outer.Signature.Bytes)) != 0 })
	outer.Signature = asn1.BitString{Bytes: changed, BitLength: 8 * len(changed)}
	raw, err := asn1.Marshal(outer)
	if err != nil {
		t.Fatal(err)
	}
	r.put(t, "transcript.sig", good)
	r.put(t, "brand.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}))
	if err := r.cert(t, "brand.pem").SignedBy(r.cert(t, "root.pem")); err != nil || bytes.Equal(cert, r.file(t, "brand.pem")) {
		t.Fatalf("the changed certificate is no attack: %v", err)
	}
	wantOnly(t, r.out, "brand.pem", "was changed")
}

func ecdsaS(t *testing.T, signature []byte) *big.Int {
	t.Helper()
	var pair struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(signature, &pair); err != nil {
		t.Fatal(err)
	}
	return pair.S
}

func (r *room) put(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(r.out, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// forgeries are transcripts that were changed and signed again with the right key.
var forgeries = map[string]struct {
	change func(line string) []string // gives the lines in place of one
	want   string
}{
	"another file": {func(l string) []string {
		return []string{strings.ReplaceAll(l, `"name":"brand.crl"`, `"name":"other.crl"`)}
	}, "other.crl: is missing"},
	"a line more": {func(l string) []string {
		if strings.Contains(l, `"end":`) {
			return []string{strings.Replace(l, `"end":{"signer":"root-ca/cert-sign"}`, `"token":{"name":"x","info":{"label":"","serial":"","manufacturer":"","model":""}}`, 1), l}
		}
		return []string{l}
	}, "transcript.jsonl: line "},
	"another signer": {func(l string) []string {
		return []string{strings.ReplaceAll(l, `"signer":"root-ca/cert-sign"`, `"signer":"brand-ca/cert-sign"`)}
	}, "it is not what was signed|transcript.sig: "},
	"no such signer": {func(l string) []string {
		return []string{strings.ReplaceAll(l, `"signer":"root-ca/cert-sign"`, `"signer":"nobody"`)}
	}, `no line shows the key "nobody"`},
	"an unattended one that was not": {func(l string) []string {
		return []string{strings.Replace(l, `"officers":[],"required":0`, `"officers":["Anna Holm"],"required":1`, 1)}
	}, "name or officers are not those of the reviewed file"},
	"a key that can leave": {func(l string) []string {
		return []string{strings.Replace(l, `"extractable":false`, `"extractable":true`, 1)}
	}, "the key can leave the token"},
	"something else shown": {func(l string) []string {
		return []string{strings.Replace(l, `valid until              2038`, `valid until              2028`, 1)}
	}, "what was shown is not what the reviewed file says"},
	"one token twice": {func(l string) []string {
		return []string{regexp.MustCompile(`"serial":"[0-9a-z]+"`).ReplaceAllString(l, `"serial":"1"`)}
	}, "want the token brand-ca, another than those before"},
	"another time": {func(l string) []string {
		return []string{strings.Replace(l, `"at":"2026-06-15`, `"at":"2026-06-14`, 1)}
	}, "root.pem: is not what the reviewed file says|what was shown"},
	"another format": {func(l string) []string {
		return []string{strings.Replace(l, `"format":1`, `"format":2`, 1)}
	}, "it is of format 2, and this software reads 1: use test v1"},
	"two things in a line": {func(l string) []string {
		return []string{strings.Replace(l, `"end":{`, `"file":{"step":1,"name":"x","sha256":""},"end":{`, 1)}
	}, "is not as a ceremony writes it"},
	"time that runs back": {func(l string) []string {
		return []string{strings.Replace(l, `{"seq":1,"time":"2026-06-15`, `{"seq":1,"time":"2026-06-16`, 1)}
	}, "line 2 is earlier than the line before"},
	"an unknown field": {func(l string) []string {
		return []string{strings.Replace(l, `"begin":{`, `"begin":{"x":1,`, 1)}
	}, `unknown field "x"`},
	"other letters": {func(l string) []string {
		return []string{strings.Replace(l, `"seq":`, `"Seq":`, 1)}
	}, "is not as a ceremony writes it"},
}

// Whoever can use the root's key can sign another transcript; what it says must still be what the
// reviewed file says.
func TestVerifyFindsForgeries(t *testing.T) {
	t.Parallel()
	for name, test := range forgeries {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t, short)
			r.hold(t)
			var lines []string
			for _, l := range r.transcript(t) {
				lines = append(lines, test.change(l)...)
			}
			r.resign(t, lines)
			report, err := ceremony.Verify(r.out, nil)
			if err != nil || report.Err() == nil || !regexp.MustCompile(test.want).MatchString(report.Err().Error()) {
				t.Errorf("got %v, %v, want %q", err, report.Err(), test.want)
			}
		})
	}
}

// A reviewed file put in the place of the one that was followed is found, with everything signed anew.
func TestVerifyHoldsFilesAgainstThePlan(t *testing.T) {
	t.Parallel()
	for was, test := range map[string]struct{ is, want string }{
		"validity: 12y":         {"validity: 11y", "brand.pem: is not what the reviewed file says"},
		"unit: Meridian Nordic": {"unit: Meridian Baltic", "geo.csr: is not what the reviewed file says"},
		"serial: 0a0b":          {"serial: 0a0c", "brand.crl: is not what the reviewed file says"},
		"bci: brand.bci, issuer: brand.pem, number: 1": {"bci: brand.bci, issuer: brand.pem, number: 2", "brand.bci: is not what the reviewed file says"},
		"geo-ca/cert-sign, type: ec-p256":              {"geo-ca/cert-sign, type: ec-p384", "what was shown is not what the reviewed file says"},
	} {
		t.Run(was, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t, short)
			r.hold(t)
			other := strings.Replace(short, was, test.is, 1)
			report, err := ceremony.Verify(r.out, []byte(other))
			if err != nil || report.Err() == nil || !strings.Contains(report.Err().Error(), "ceremony.yaml: is not the reviewed file") {
				t.Errorf("another file: %v, %v", err, report.Err())
			}
			var lines []string
			for _, l := range r.transcript(t) {
				lines = append(lines, strings.ReplaceAll(l, sha256Hex([]byte(short)), sha256Hex([]byte(other))))
			}
			r.put(t, "ceremony.yaml", []byte(other))
			r.resign(t, lines)
			report, err = ceremony.Verify(r.out, []byte(other))
			if err != nil || report.Err() == nil || !strings.Contains(report.Err().Error(), test.want) {
				t.Errorf("forged: %v, %v, want %q", err, report.Err(), test.want)
			}
		})
	}
}
