package ceremony

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"time"
)

// Names of the files that tell what was done.
const (
	planFile       = "ceremony.yaml"
	transcriptFile = "transcript.jsonl"
	readableFile   = "transcript.txt"
	signatureFile  = "transcript.sig"
)

// format is the form of a transcript, and of what is shown in it. Whatever changes a text in this package
// changes it: a verification wants the same texts, and must be able to say that it speaks another form.
const format = 1

// line is one line of a transcript: one of the events, and its place in the chain.
type line struct {
	Seq      int       `json:"seq"`
	Time     time.Time `json:"time"`
	Previous string    `json:"previous_sha256"`

	Begin     *begun       `json:"begin,omitempty"`
	Input     *FileSummary `json:"input,omitempty"`
	Token     *opened      `json:"token,omitempty"`
	Shown     *Shown       `json:"shown,omitempty"`
	Confirmed *confirmed   `json:"confirmed,omitempty"`
	Key       *keyReady    `json:"key,omitempty"`
	File      *fileWritten `json:"file,omitempty"`
	End       *ended       `json:"end,omitempty"`
	Failed    *failedAt    `json:"failed,omitempty"`
}

// begun opens a transcript.
type begun struct {
	Format   int       `json:"format"`
	Ceremony string    `json:"ceremony"`
	At       time.Time `json:"at"` // from when everything is valid
	Plan     string    `json:"plan_sha256"`
	Bindings string    `json:"bindings_sha256,omitempty"`
	Software string    `json:"software"`
	Officers []string  `json:"officers"`
	Required int       `json:"required"`
	Typed    string    `json:"typed"` // how the officers' words come in
}

type opened struct {
	Name string    `json:"name"`
	Info TokenInfo `json:"info"`
}

// Shown is a step as it is shown before it is done.
type Shown struct {
	Step    int      `json:"step"`
	Title   string   `json:"title"`
	Content []string `json:"content"`
	// SHA256 is that of what is to be signed, or of the content where nothing is. It is empty in a
	// rehearsal, which has no keys.
	SHA256 string `json:"sha256,omitempty"`
}

// confirmed is an officer's word.
type confirmed struct {
	Step    int    `json:"step"`
	Officer string `json:"officer"`
	Word    string `json:"word"`
}

type keyReady struct {
	Step int     `json:"step"`
	Name string  `json:"name"`
	Info KeyInfo `json:"info"`
}

type fileWritten struct {
	Step   int    `json:"step"`
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
}

type ended struct {
	Signer string `json:"signer"` // key that signs the transcript
}

type failedAt struct {
	Error string   `json:"error"`
	Keys  []string `json:"keys"`  // that are in tokens now
	Files []string `json:"files"` // that were written
}

// transcript is a chain of lines. Each is on the disk before the ceremony goes on.
type transcript struct {
	f        *os.File
	now      func() time.Time
	last     time.Time
	lines    []line
	raw      []byte
	previous string
}

// noLine is the digest that the first line holds.
var noLine = strings.Repeat("0", 64)

func newTranscript(path string, now func() time.Time) (*transcript, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return nil, fmt.Errorf("output: %w", err)
	}
	return &transcript{f: f, now: now, previous: noLine}, nil
}

// add writes a line, whose place it fills in. A line that cannot be written leaves no part of itself.
func (t *transcript) add(l line) error {
	l.Seq, l.Time, l.Previous = len(t.lines)+1, whole(t.now()), t.previous
	if l.Time.Before(t.last) { // the clock was set back
		l.Time = t.last
	}
	b, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("transcript: %w", err)
	}
	_, err = t.f.Write(append(b, '\n'))
	if err := errors.Join(err, t.f.Sync()); err != nil {
		return fmt.Errorf("transcript: %w", errors.Join(err, t.f.Truncate(int64(len(t.raw)))))
	}
	t.lines, t.previous, t.last = append(t.lines, l), digest(b), l.Time
	t.raw = append(append(t.raw, b...), '\n')
	return nil
}

func (t *transcript) close() error { return t.f.Close() }

// hashFor is the digest that a key signs the transcript with.
func hashFor(pub crypto.PublicKey) crypto.Hash {
	if ec, ok := pub.(*ecdsa.PublicKey); ok && ec.Curve == elliptic.P384() {
		return crypto.SHA384
	}
	return crypto.SHA256
}

func hashOf(alg crypto.Hash, b []byte) []byte {
	h := alg.New()
	h.Write(b)
	return h.Sum(nil)
}

// signTranscript signs and checks the signature.
func signTranscript(key crypto.Signer, raw []byte) ([]byte, error) {
	alg := hashFor(key.Public())
	signature, err := key.Sign(rand.Reader, hashOf(alg, raw), alg)
	if ec, ok := key.Public().(*ecdsa.PublicKey); ok && err == nil {
		signature, err = lowS(ec.Curve, signature)
	}
	if err == nil {
		err = verifyTranscript(key.Public(), raw, signature)
	}
	if err != nil {
		return nil, fmt.Errorf("sign the transcript: %w", err)
	}
	return signature, nil
}

// lowS gives the one form that an ECDSA signature has here. Of the two with the same r, anybody can make
// each from the other, and both verify: with only one of them allowed, no octet can change unseen.
func lowS(curve elliptic.Curve, signature []byte) ([]byte, error) {
	var pair struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(signature, &pair); err != nil || len(rest) > 0 {
		return nil, errors.New("malformed signature")
	}
	if n := curve.Params().N; pair.S.Cmp(new(big.Int).Rsh(n, 1)) > 0 {
		pair.S.Sub(n, pair.S)
	}
	return asn1.Marshal(pair)
}

func verifyTranscript(pub crypto.PublicKey, raw, signature []byte) error {
	alg := hashFor(pub)
	sum := hashOf(alg, raw)
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if low, err := lowS(k.Curve, signature); err != nil || !bytes.Equal(low, signature) {
			return errors.New("it is not a signature as a ceremony writes it")
		}
		if ecdsa.VerifyASN1(k, sum, signature) {
			return nil
		}
	case *rsa.PublicKey:
		if rsa.VerifyPKCS1v15(k, alg, sum, signature) == nil {
			return nil
		}
	}
	return errors.New("the signature does not verify")
}

// render gives the transcript for people. It says what the lines say, and nothing else.
func render(lines []line, raw []byte) []byte {
	var b strings.Builder
	for i := range lines {
		head, rows := lines[i].text()
		fmt.Fprintf(&b, "%3d  %s  %s\n", lines[i].Seq, date(lines[i].Time), head)
		for _, r := range rows {
			fmt.Fprintf(&b, "       %s\n", r)
		}
	}
	fmt.Fprintf(&b, "\nSHA-256 of %s: %s\n", transcriptFile, digest(raw))
	return []byte(b.String())
}

// events counts what the line tells: one thing.
func (l *line) events() (n int) {
	for _, there := range []bool{
		l.Begin != nil, l.Input != nil, l.Token != nil, l.Shown != nil, l.Confirmed != nil, l.Key != nil, l.File != nil, l.End != nil, l.Failed != nil,
	} {
		if there {
			n++
		}
	}
	return n
}

// text is a line for people: a heading and rows below it.
func (l *line) text() (head string, rows []string) {
	switch {
	case l.Begin != nil:
		return l.Begin.text()
	case l.Input != nil:
		return "input " + l.Input.Name, []string{row("SHA-256", "%s", l.Input.SHA256)}
	case l.Token != nil:
		i := l.Token.Info
		return "token " + l.Token.Name + " is open", []string{
			row("label", "%s", i.Label), row("serial number", "%s", i.Serial), row("manufacturer", "%s", i.Manufacturer), row("model", "%s", i.Model),
		}
	case l.Shown != nil:
		return fmt.Sprintf("step %d: %s", l.Shown.Step, l.Shown.Title), append(slices.Clone(l.Shown.Content), row("SHA-256", "%s", l.Shown.SHA256))
	case l.Confirmed != nil:
		return fmt.Sprintf("step %d: %s confirms by typing %s", l.Confirmed.Step, l.Confirmed.Officer, l.Confirmed.Word), nil
	case l.Key != nil:
		return fmt.Sprintf("step %d: key %s is ready", l.Key.Step, l.Key.Name), describeKeyInfo(l.Key.Info)
	case l.File != nil:
		return fmt.Sprintf("step %d: %s checked and written", l.File.Step, l.File.Name), []string{row("SHA-256", "%s", l.File.SHA256)}
	case l.End != nil:
		return fmt.Sprintf("the ceremony is complete; %s signs the transcript", l.End.Signer), nil
	case l.Failed != nil:
		return "THE CEREMONY FAILED: " + l.Failed.Error, []string{
			row("keys in tokens", "%s", listed(l.Failed.Keys)), row("files written", "%s", listed(l.Failed.Files)),
		}
	}
	return "nothing", nil
}

func (b *begun) text() (string, []string) {
	who := "none: the ceremony is unattended, as the reviewed file says"
	if b.Required > 0 {
		who = fmt.Sprintf("%d of %s", b.Required, strings.Join(b.Officers, ", "))
	}
	return fmt.Sprintf("ceremony %q begins", b.Ceremony), []string{
		row("everything valid from", "%s", date(b.At)), row("SHA-256 of the plan", "%s", b.Plan), row("SHA-256 of the bindings", "%s", b.Bindings), row("software", "%s", b.Software),
		row("officers", "%s", who), row("their words come from", "%s", b.Typed),
	}
}
