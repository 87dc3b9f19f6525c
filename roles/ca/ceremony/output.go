package ceremony

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func (s *session) path(name string) string { return filepath.Join(s.room.Output, name) }

// write writes a file that must not be there yet, to the disk: all of it, or none.
func (s *session) write(name string, data []byte) error {
	f, err := os.OpenFile(s.path(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return fmt.Errorf("output: %w", err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close(), syncDir(s.room.Output)); err != nil {
		return fmt.Errorf("output: %w", errors.Join(err, os.Remove(f.Name())))
	}
	s.files = append(s.files, FileSummary{name, digest(data)})
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (s *session) summary() *Summary {
	sum := &Summary{Ceremony: s.name, Output: s.room.Output, Certificates: s.certificates(), Files: s.files}
	sum.Files = append(sum.Files, FileSummary{transcriptFile, digest(s.log.raw)})
	return sum
}

// certificates summarises those that steps made.
func (s *state) certificates() []CertificateSummary {
	list := []CertificateSummary{}
	for _, st := range s.steps {
		c := s.certs[st.name]
		if c == nil {
			continue
		}
		list = append(list, CertificateSummary{
			File: st.name, Key: s.keyOf[st.name], Subject: c.X509.Subject.String(), Serial: c.Serial(), SHA256: digest(c.X509.Raw),
			NotBefore: c.X509.NotBefore, NotAfter: c.X509.NotAfter,
		})
	}
	return list
}

// failed ends the transcript of a ceremony that failed, and says what is left of it and how to begin anew.
func (s *session) failed(err error) error {
	f := &failedAt{Error: s.withoutPaths(err.Error()), Keys: append([]string{}, s.inTok...), Files: []string{}}
	var signed []string
	for _, file := range s.files {
		f.Files = append(f.Files, file.Name)
		if slices.ContainsFunc(s.steps, func(st *step) bool { return st.name == file.Name }) {
			signed = append(signed, file.Name)
		}
	}
	told := s.record(line{Failed: f})
	if _, there := os.Lstat(s.path(readableFile)); told == nil && errors.Is(there, fs.ErrNotExist) {
		told = s.write(readableFile, render(s.log.lines, s.log.raw))
	}
	err = fmt.Errorf("%w\na ceremony is not resumed; another try wants another output, and what happened in this one stands in %s", err, s.room.Output)
	if len(s.inTok) > 0 {
		err = fmt.Errorf("%w\nkeys that were made, to be deleted before another try (set-hsm keys delete): %s", err, strings.Join(s.inTok, ", "))
	}
	if len(signed) > 0 {
		err = fmt.Errorf("%w\nsigned and valid, whatever becomes of this ceremony: %s", err, strings.Join(signed, ", "))
	}
	if told != nil {
		err = errors.Join(err, fmt.Errorf("and that it failed could not be written: %w", told))
	}
	return err
}

// absolute finds what leads to a file in an error.
var absolute = regexp.MustCompile(`(^|[\s"'(=:])/[^\s"'():,;]*/`)

// withoutPaths cuts paths to file names: where things lie is for the bindings, not for the transcript.
func (s *session) withoutPaths(text string) string {
	return absolute.ReplaceAllString(strings.ReplaceAll(text, s.path("")+string(filepath.Separator), ""), "$1")
}
