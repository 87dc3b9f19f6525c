package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/party"
	"github.com/setkit/setkit/hsm/hsmtest"
	"github.com/setkit/setkit/roles/ca/ceremony"
	"github.com/setkit/setkit/roles/set/pki"
)

// attended is a ceremony of which every step wants two of three officers.
const attended = `ceremony: new root
officers: {names: [Anna Holm, Bent Krag, Carla Dahl], required: 2}
subjects:
  root: {holder: root-ca, country: DK}
steps:
  - {generate: vault/cert-sign, type: ec-p256, purpose: cert-sign}
  - {generate: vault/cert-sign-next, type: rsa-2048, purpose: cert-sign}
  - {root: root.pem, subject: root, key: vault/cert-sign, next-key: vault/cert-sign-next, validity: 20y, signing-period: 10y}
  - {crl: root.crl, issuer: root.pem, number: 1, validity: 1y}
`

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// bind gives bindings of each name to a new token.
func bind(t *testing.T, out string, names ...string) string {
	t.Helper()
	text := fmt.Sprintf("output: %q\ntokens:\n", out)
	for _, name := range names {
		text += fmt.Sprintf("  %s: %q\n", name, hsmtest.New(t).URI)
	}
	return write(t, "bindings.yaml", text)
}

// openPTY gives the two ends of a pseudo-terminal.
func openPTY(t *testing.T) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	var unlock, number int32
	for req, arg := range map[uintptr]*int32{syscall.TIOCSPTLCK: &unlock, syscall.TIOCGPTN: &number} {
		if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, master.Fd(), req, uintptr(unsafe.Pointer(arg))); e != 0 {
			t.Fatal(e)
		}
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close(); master.Close() })
	return master, terminal
}

var (
	question  = regexp.MustCompile(`(your name|, the confirmation word): $`)
	shownWord = regexp.MustCompile(`(?m)^confirmation word: ([0-9a-f]{8})\r?$`)
)

// converse answers what is asked at the other end of the terminal until it is closed, and gives all that
// stood on it.
func converse(master io.ReadWriter, answer func(asked int, question, word string) string) string {
	var screen []byte
	buf := make([]byte, 4096)
	for asked := 0; ; {
		n, err := master.Read(buf)
		screen = append(screen, buf[:n]...)
		if err != nil {
			return string(screen)
		}
		if q := question.FindSubmatch(screen); q != nil {
			words := shownWord.FindAllSubmatch(screen, -1)
			text := answer(asked, string(q[1]), string(words[len(words)-1][1]))
			asked++
			if _, err := io.WriteString(master, text+"\n"); err != nil {
				return string(screen)
			}
			screen = append(screen, ' ') // the question is answered
		}
	}
}

// attend holds the attended ceremony at a terminal.
func attend(t *testing.T, out string, answer func(int, string, string) string) (code int, screen, stderr string) {
	t.Helper()
	master, terminal := openPTY(t)
	told := make(chan string, 1)
	go func() { told <- converse(master, answer) }()
	var errs bytes.Buffer
	code = cli.Run(t.Context(), app(), []string{"set-ca", "ceremony", "--config", write(t, "root.yaml", attended), "--bindings", bind(t, out, "vault")}, terminal, terminal, &errs)
	terminal.Close()
	return code, <-told, errs.String()
}

func TestCeremonyAtATerminal(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "out")
	names := []string{"Anna Holm", "Carla Dahl"}
	code, screen, stderr := attend(t, out, func(asked int, q, word string) string {
		if q == "your name" {
			return names[asked/2%2]
		}
		return word
	})
	if code != 0 {
		t.Fatalf("exit %d, %s\n%s", code, stderr, screen)
	}
	for _, want := range []string{"their words come from    a terminal", "step 3: Carla Dahl confirms by typing", "the ceremony is complete; vault/cert-sign signs the transcript"} {
		if !strings.Contains(screen, want) {
			t.Errorf("the terminal does not show %q", want)
		}
	}
	report, err := ceremony.Verify(out, []byte(attended))
	if err != nil || report.Err() != nil || report.Required != 2 {
		t.Errorf("verify: %v, %v", err, report.Err())
	}
}

func TestCeremonyIsAborted(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer func(asked int, q, word string) string
		want   string
	}{
		"wrong words": {func(_ int, q, _ string) string {
			return map[string]string{"your name": "Anna Holm", ", the confirmation word": "12345678"}[q]
		}, "3 wrong answers"},
		"one officer alone": {func(_ int, q, word string) string {
			if q == "your name" {
				return "Anna Holm"
			}
			return word
		}, "another officer must"},
		"a stranger": {func(int, string, string) string { return "Mallory" }, "that is no officer of this ceremony"},
		"hung up":    {func(int, string, string) string { return "\x04" }, "input has ended"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := filepath.Join(t.TempDir(), "out")
			code, screen, stderr := attend(t, out, test.answer)
			if code != 1 || !strings.Contains(stderr, test.want) || !strings.Contains(screen, "THE CEREMONY FAILED") {
				t.Errorf("exit %d, %s\n%s", code, stderr, screen)
			}
			var files []string
			entries, err := os.ReadDir(out)
			for _, e := range entries {
				files = append(files, e.Name())
			}
			if want := []string{"ceremony.yaml", "transcript.jsonl", "transcript.txt"}; err != nil || !cmp.Equal(files, want) {
				t.Errorf("written: %v, %v, want %v", files, err, want)
			}
		})
	}
}

// The same file with two sets of bindings gives the same certificates but for keys, serials and times.
func TestRehearsedAndRun(t *testing.T) {
	t.Parallel()
	lab := must[[]byte](t)(os.ReadFile("../../testdata/ceremony/lab.yaml"))
	plan := write(t, "lab.yaml", strings.ReplaceAll(string(lab), "ec-p384", "ec-p256")) // which is faster under the race detector
	names := []string{"root-ca", "brand-ca", "cardholder-ca", "merchant-ca", "payment-ca"}
	var made [2]map[string]any
	var serials [2][]string
	for i := range made {
		out := filepath.Join(t.TempDir(), "out")
		var stdout, stderr bytes.Buffer
		if code := command(t.Context(), &stdout, &stderr, "ceremony", "--config", plan, "--bindings", bind(t, out, names...), "--json"); code != 0 {
			t.Fatalf("exit %d, %s", code, stderr.String())
		}
		var summary ceremony.Summary
		if err := json.Unmarshal(stdout.Bytes(), &summary); err != nil {
			t.Fatal(err)
		}
		made[i] = make(map[string]any)
		for _, s := range summary.Certificates {
			serials[i] = append(serials[i], s.Serial)
			c := must[[]*pki.Certificate](t)(party.ReadCertificates(filepath.Join(out, s.File)))[0]
			var extensions []string
			for _, e := range c.X509.Extensions {
				value := e.Value
				switch e.Id.String() {
				case "2.5.29.14", "2.5.29.35", "2.5.29.16", "2.23.42.7.0": // keys and times
					value = value[:0]
				}
				extensions = append(extensions, fmt.Sprintf("%v %t %x %d", e.Id, e.Critical, value, len(e.Value)))
			}
			made[i][s.File] = []any{
				c.Type, c.Use, c.Subject, s.Key, c.X509.Issuer.String(), extensions, c.X509.SignatureAlgorithm, c.X509.PublicKeyAlgorithm,
				c.X509.NotAfter.Year() - c.X509.NotBefore.Year(),
			}
		}
		run := command(t.Context(), io.Discard, &stderr, "ceremony", "verify", "--output", out, "--config", plan)
		if run != 0 {
			t.Errorf("verify: exit %d, %s", run, stderr.String())
		}
	}
	if diff := cmp.Diff(made[0], made[1]); diff != "" || len(made[0]) != 11 {
		t.Errorf("%d certificates; rehearsal and run differ:\n%s", len(made[0]), diff)
	}
	for i, serial := range serials[0] {
		if serials[1][i] == serial {
			t.Errorf("serial number %s in both", serial)
		}
	}
}
