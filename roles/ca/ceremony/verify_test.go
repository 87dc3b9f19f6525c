package ceremony_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/setkit/setkit/roles/ca/ceremony"
)

// flipEvery is the distance of the octets that are changed, one at a time.
const flipEvery = 97

// One changed octet in any file that a ceremony wrote is found, and the file named.
func TestVerifyFindsEveryChange(t *testing.T) {
	t.Parallel()
	r := newRoom(t, short)
	r.hold(t)
	entries, err := os.ReadDir(r.out)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Run(e.Name(), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(r.out)); err != nil {
				t.Fatal(err)
			}
			path, good := filepath.Join(dir, e.Name()), r.file(t, e.Name())
			for at := 0; at < len(good); at = min(at+flipEvery, max(at+1, len(good)-1)) {
				changed := bytes.Clone(good)
				changed[at] ^= []byte{0x01, 0x20, 0x80}[at%3]
				wantProblem(t, dir, path, changed, e.Name())
			}
			for _, changed := range [][]byte{good[:len(good)-1], append(bytes.Clone(good), '\n'), nil} {
				wantProblem(t, dir, path, changed, e.Name())
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			wantOnly(t, dir, e.Name(), "is missing")
		})
	}
}

// wantProblem changes a file, and wants it named and no other.
func wantProblem(t *testing.T, dir, path string, changed []byte, name string) {
	t.Helper()
	if err := os.WriteFile(path, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	wantOnly(t, dir, name, "")
}

func wantOnly(t *testing.T, dir, name, problem string) {
	t.Helper()
	report, err := ceremony.Verify(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Problems) == 0 {
		t.Fatalf("a changed %s is not found", name)
	}
	for _, p := range report.Problems {
		if p.File != name || !strings.Contains(p.Problem, problem) {
			t.Errorf("%s is blamed (%s), want %s (%s)", p.File, p.Problem, name, problem)
		}
	}
}

func TestVerifyFindsExtraFiles(t *testing.T) {
	t.Parallel()
	r := newRoom(t, short)
	r.hold(t)
	if err := os.WriteFile(filepath.Join(r.out, "cca.pem"), r.file(t, "brand.pem"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantOnly(t, r.out, "cca.pem", "is not from this ceremony")
	if err := os.Remove(filepath.Join(r.out, "cca.pem")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.out, "x\x1b[2J"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantOnly(t, r.out, "x?[2J", "is not from this ceremony") // as a terminal can show it
	if err := os.Remove(filepath.Join(r.out, "x\x1b[2J")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(r.out, "more"), 0o700); err != nil {
		t.Fatal(err)
	}
	wantOnly(t, r.out, "more", "is not a file")
}

func TestVerifyWantsTheReviewedFile(t *testing.T) {
	t.Parallel()
	r := newRoom(t, short)
	r.hold(t)
	report, err := ceremony.Verify(r.out, append(r.source, '\n'))
	if err != nil || report.Err() == nil || !strings.Contains(report.Err().Error(), "ceremony.yaml: is not the reviewed file") {
		t.Errorf("another file: %v, %v", err, report.Err())
	}
}

// A ceremony that was held long ago, by an older version of this package, is still in order.
func TestVerifyLater(t *testing.T) {
	t.Parallel()
	report, err := ceremony.Verify("testdata/held", nil)
	if err != nil || report.Err() != nil {
		t.Fatalf("verify: %v, %v", err, report.Err())
	}
	if report.Ceremony != "held in 2026" || len(report.Files) != 9 || len(report.Certificates) != 2 || report.Required != 2 {
		t.Errorf("report %+v", report)
	}
}
