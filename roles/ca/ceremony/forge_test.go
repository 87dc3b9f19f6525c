package ceremony_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

var previousSHA256 = regexp.MustCompile(`"previous_sha256":"[0-9a-f]{64}"`)

// forge makes the ceremony of other look as if it had followed the reviewed file of r, as somebody could
// who can use the root's key.
func (r *room) forge(t *testing.T, other *room) {
	t.Helper()
	was, is := []byte(sha256Hex(other.source)), []byte(sha256Hex(r.source))
	old := other.file(t, "transcript.jsonl")
	var forged []byte
	previous := string(bytes.Repeat([]byte("0"), 64))
	for _, line := range bytes.Split(bytes.TrimSuffix(old, []byte("\n")), []byte("\n")) {
		line = bytes.ReplaceAll(line, was, is)
		line = previousSHA256.ReplaceAll(line, []byte(`"previous_sha256":"`+previous+`"`))
		previous = sha256Hex(line)
		forged = append(append(forged, line...), '\n')
	}
	sum := sha256.Sum256(forged)
	signature, err := other.tokens["root-ca"].Private["cert-sign"].Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	readable := bytes.ReplaceAll(other.file(t, "transcript.txt"), was, is)
	readable = bytes.ReplaceAll(readable, []byte(sha256Hex(old)), []byte(sha256Hex(forged)))
	for name, data := range map[string][]byte{
		"ceremony.yaml": r.source, "transcript.jsonl": forged, "transcript.sig": signature, "transcript.txt": readable,
	} {
		if err := os.WriteFile(filepath.Join(other.out, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
