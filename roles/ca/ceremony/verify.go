package ceremony

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Limits of what is verified.
const (
	outputBytesMax = 64 << 20 // of all files together
	outputsMax     = 1024     // files
)

// Report is what a verification found.
type Report struct {
	Ceremony     string               `json:"ceremony"`
	Output       string               `json:"output"`
	At           time.Time            `json:"at"`
	Software     string               `json:"software"`
	Officers     []string             `json:"officers"`
	Required     int                  `json:"required"`
	Signer       string               `json:"signer"`       // key that signed the transcript, as TOKEN/LABEL
	SignerSHA256 string               `json:"signerSHA256"` // of its DER SubjectPublicKeyInfo: whom a reader trusts
	Certificates []CertificateSummary `json:"certificates"`
	Files        []FileSummary        `json:"files"`
	Problems     []Problem            `json:"problems"`
}

// Problem is what is wrong with a file.
type Problem struct {
	File    string `json:"file"`
	Problem string `json:"problem"`
}

// Err gives all problems as one error, or nil.
func (r *Report) Err() error {
	var errs []error
	for _, p := range r.Problems {
		errs = append(errs, fmt.Errorf("%s: %s", p.File, p.Problem))
	}
	return errors.Join(errs...)
}

// verification is one in progress.
type verification struct {
	*Report
	files  map[string][]byte
	lines  []line
	hashes []string // of the lines
}

// Verify checks everything that a ceremony left in a directory: the transcript and the signature on it,
// every file against it, and by doing each step again with public keys alone, that every certificate,
// list and request is what the reviewed file says. If reviewed is not nil, it must be that file.
//
// It says what is wrong in the report; the error is about the directory itself. What the report cannot
// tell is whether the key that signed is the right one: a reader compares SignerSHA256, or the root.
func Verify(dir string, reviewed []byte) (*Report, error) {
	v := &verification{Report: &Report{Output: dir, Officers: []string{}, Certificates: []CertificateSummary{}, Files: []FileSummary{}, Problems: []Problem{}}}
	if err := v.readDir(dir); err != nil {
		return nil, err
	}
	if reviewed != nil && !bytes.Equal(reviewed, v.files[planFile]) {
		v.problem(planFile, "is not the reviewed file that was given")
	}
	if v.checkTranscript() {
		v.checkFiles()
	}
	if len(v.Problems) == 0 {
		v.replay()
	}
	return v.Report, nil
}

func (v *verification) problem(file, format string, args ...any) {
	v.Problems = append(v.Problems, Problem{strings.Map(printable, file), strings.Map(printable, fmt.Sprintf(format, args...))})
}

func (v *verification) readDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("output: %w", err)
	}
	if len(entries) > outputsMax {
		return fmt.Errorf("output: %s has over %d files", dir, outputsMax)
	}
	v.files = make(map[string][]byte)
	left := outputBytesMax
	for _, e := range entries {
		if !e.Type().IsRegular() {
			v.problem(e.Name(), "is not a file")
			continue
		}
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return fmt.Errorf("output: %w", err)
		}
		data, err := io.ReadAll(io.LimitReader(f, int64(left)+1))
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("output: %w", err)
		}
		if left -= len(data); left < 0 {
			return fmt.Errorf("output: %s has over %d bytes", dir, outputBytesMax)
		}
		v.files[e.Name()] = data
		v.Files = append(v.Files, FileSummary{e.Name(), digest(data)})
	}
	for _, name := range []string{planFile, transcriptFile, readableFile, signatureFile} {
		if _, there := v.files[name]; !there {
			v.problem(name, "is missing")
		}
	}
	return nil
}

// checkTranscript checks the transcript by itself, and tells whether the files can be held against it.
func (v *verification) checkTranscript() bool {
	raw, there := v.files[transcriptFile]
	if !there {
		return false
	}
	if err := v.readLines(raw); err != nil {
		v.problem(transcriptFile, "%v", err)
		return false
	}
	begin := v.lines[0].Begin
	v.Ceremony, v.At, v.Software, v.Officers, v.Required = begin.Ceremony, begin.At, begin.Software, begin.Officers, begin.Required
	if begin.Format != format {
		v.problem(transcriptFile, "it is of format %d, and this software reads %d: use %s", begin.Format, format, begin.Software)
		return false
	}
	last := v.lines[len(v.lines)-1]
	if f := last.Failed; f != nil {
		v.problem(transcriptFile, "the ceremony failed, and its transcript is not signed: %s; keys in tokens: %s", f.Error, listed(f.Keys))
		return false
	}
	if last.End == nil {
		v.problem(transcriptFile, "the ceremony did not come to its end; keys that it made, or began to make: %s", listed(v.keysBegun()))
		return false
	}
	// Of transcript, readable form and signature any two tell that the third was changed.
	v.Signer = last.End.Signer
	if v.files[signatureFile] == nil || v.files[readableFile] == nil {
		return true // which is a problem already
	}
	signed, readable := v.checkSignature(raw), bytes.Equal(render(v.lines, raw), v.files[readableFile])
	switch {
	case signed == nil && !readable:
		v.problem(readableFile, "does not tell what %s tells", transcriptFile)
	case signed != nil && readable:
		v.problem(signatureFile, "%v", signed)
	case signed != nil:
		v.problem(transcriptFile, "it is not what was signed, and not what %s tells: %v", readableFile, signed)
	}
	return signed == nil
}

func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// keysBegun gives the keys of all steps that were shown and make one.
func (v *verification) keysBegun() (keys []string) {
	p, err := Parse(v.files[planFile])
	if err != nil {
		return nil
	}
	for _, l := range v.lines {
		if l.Shown != nil && l.Shown.Step > 0 && l.Shown.Step <= len(p.steps) && p.steps[l.Shown.Step-1].kind == generate {
			keys = append(keys, p.steps[l.Shown.Step-1].name)
		}
	}
	return keys
}

// readLines decodes the transcript and checks its chain.
func (v *verification) readLines(raw []byte) error {
	text, whole := bytes.CutSuffix(raw, []byte("\n"))
	if !whole {
		return errors.New("it does not end with a line feed")
	}
	previous := noLine
	for i, b := range bytes.Split(text, []byte("\n")) {
		var l line
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&l); err != nil {
			return fmt.Errorf("line %d: %w", i+1, err)
		}
		if again, err := json.Marshal(l); err != nil || !bytes.Equal(again, b) || l.events() != 1 {
			return fmt.Errorf("line %d is not as a ceremony writes it", i+1)
		}
		if l.Previous != previous {
			return fmt.Errorf("line %d does not hold the SHA-256 of the line before: one of the two was changed", i+1)
		}
		if l.Seq != i+1 {
			return fmt.Errorf("line %d has the number %d", i+1, l.Seq)
		}
		if i > 0 && l.Time.Before(v.lines[i-1].Time) {
			return fmt.Errorf("line %d is earlier than the line before", i+1)
		}
		previous = digest(b)
		v.lines, v.hashes = append(v.lines, l), append(v.hashes, previous)
	}
	if v.lines[0].Begin == nil {
		return errors.New("line 1 does not begin a ceremony")
	}
	return nil
}

// checkSignature checks the signature with the key that the transcript shows. That this is the key that
// should have signed is for replay to tell.
func (v *verification) checkSignature(raw []byte) error {
	for _, l := range v.lines {
		if l.Key == nil || l.Key.Name != v.Signer {
			continue
		}
		pub, err := l.Key.Info.public(l.Key.Info.Type)
		if err != nil {
			return err
		}
		v.SignerSHA256 = digest(l.Key.Info.SPKI)
		return verifyTranscript(pub, raw, v.files[signatureFile])
	}
	return fmt.Errorf("no line shows the key %q", v.Signer)
}

// checkFiles holds every file against the transcript.
func (v *verification) checkFiles() {
	want := map[string]string{planFile: v.lines[0].Begin.Plan}
	for _, l := range v.lines {
		if l.Input != nil {
			want[l.Input.Name] = l.Input.SHA256
		}
		if l.File != nil {
			want[l.File.Name] = l.File.SHA256
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		data, there := v.files[name]
		switch {
		case !there:
			if name != planFile { // which readDir missed
				v.problem(name, "is missing")
			}
		case digest(data) != want[name]:
			v.problem(name, "was changed: its SHA-256 is not the one in the transcript")
		}
	}
	for _, f := range v.Files {
		if _, known := want[f.Name]; !known && !slices.Contains([]string{transcriptFile, readableFile, signatureFile}, f.Name) {
			v.problem(f.Name, "is not from this ceremony")
		}
	}
}
