package ceremony

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"os"
	"strings"
	"time"
)

// Names of the files that tell what was done.
const (
	transcriptFile = "transcript.jsonl"
	signatureFile  = "transcript.sig"
)

// details are what one kind of step has to tell beside its text.
type details map[string]any

// line is one line of a transcript.
type line struct {
	Seq      int       `json:"seq"`
	Time     time.Time `json:"time"`
	Previous string    `json:"previous_sha256"`
	Step     string    `json:"step"`
	CA       string    `json:"ca,omitempty"`
	Text     string    `json:"text"`
	Details  details   `json:"details,omitempty"`
}

// transcript is a chain of lines. Each is on the disk before the ceremony goes on.
type transcript struct {
	f        *os.File
	now      func() time.Time
	seq      int
	previous string
	sha256   hash.Hash // of the whole file
	sha384   hash.Hash
}

func newTranscript(path string, now func() time.Time) (*transcript, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, certMode)
	if err != nil {
		return nil, fmt.Errorf("output: %w", err)
	}
	return &transcript{
		f: f, now: now, previous: strings.Repeat("0", hex.EncodedLen(sha256.Size)),
		sha256: crypto.SHA256.New(), sha384: crypto.SHA384.New(),
	}, nil
}

func (t *transcript) add(step, ca, text string, d details) error {
	t.seq++
	b, err := json.Marshal(line{t.seq, whole(t.now()), t.previous, step, ca, text, d})
	if err != nil {
		return fmt.Errorf("transcript: %w", err)
	}
	sum := sha256.Sum256(b)
	t.previous = hex.EncodeToString(sum[:])
	b = append(b, '\n')
	t.sha256.Write(b)
	t.sha384.Write(b)
	_, err = t.f.Write(b)
	if err := errors.Join(err, t.f.Sync()); err != nil {
		return fmt.Errorf("transcript: %w", err)
	}
	return nil
}

// sign signs the file as it stands, and gives its SHA-256 too.
func (t *transcript) sign(key crypto.Signer) (signature []byte, digest string, err error) {
	h, alg := t.sha256, crypto.SHA256
	if ec, ok := key.Public().(*ecdsa.PublicKey); ok && ec.Curve == elliptic.P384() {
		h, alg = t.sha384, crypto.SHA384
	}
	signature, err = key.Sign(rand.Reader, h.Sum(nil), alg)
	return signature, hex.EncodeToString(t.sha256.Sum(nil)), err
}

func (t *transcript) close() error { return t.f.Close() }
