package ceremony_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/ca/ceremony"
	"github.com/setkit/setkit/roles/ca/ceremony/ceremonytest"
)

// attended is a ceremony of which every step wants two of three officers.
var attended = strings.Replace(short, "{required: 0}", "{names: [Anna Holm, Bent Krag, Carla Dahl], required: 2}", 1)

// crew is officers at a terminal: they read what is told, and answer each question.
type crew struct {
	told    bytes.Buffer
	pending []byte
	asked   int
	answer  func(asked int, question, word string) (string, error)
}

var shownWord = regexp.MustCompile(`(?m)^confirmation word: ([0-9a-f]{8})$`)

func (c *crew) Write(p []byte) (int, error) { return c.told.Write(p) }

func (c *crew) Read(p []byte) (int, error) {
	if len(c.pending) == 0 {
		lines := strings.Split(c.told.String(), "\n")
		words := shownWord.FindAllStringSubmatch(c.told.String(), -1)
		text, err := c.answer(c.asked, lines[len(lines)-1], words[len(words)-1][1])
		if err != nil {
			return 0, err
		}
		c.asked++
		c.told.WriteString(text + "\n") // what a terminal echoes
		c.pending = []byte(text + "\r\n")
	}
	n := copy(p, c.pending)
	c.pending = c.pending[n:]
	return n, nil
}

// willing answers as asked to, with the names in turn.
func willing(names ...string) func(int, string, string) (string, error) {
	i := 0
	return func(_ int, question, word string) (string, error) {
		if strings.HasSuffix(question, "the confirmation word: ") {
			return word, nil
		}
		i++
		return names[(i-1)%len(names)], nil
	}
}

func (r *room) attend(t *testing.T, ctx context.Context, c *crew) error {
	t.Helper()
	_, err := ceremony.Run(ctx, r.plan, ceremony.Room{
		Open:   func(_ context.Context, name string) (ceremony.Token, error) { return r.tokens[name], nil },
		Output: r.out, Officers: c, Typed: "a test", Notice: c, Now: time.Now, Software: "test v1",
	})
	return err
}

func TestOfficersConfirm(t *testing.T) {
	t.Parallel()
	r := newRoom(t, attended)
	c := &crew{answer: willing("Anna Holm", "carla dahl")}
	if err := r.attend(t, t.Context(), c); err != nil {
		t.Fatal(err)
	}
	report, err := ceremony.Verify(r.out, r.source)
	if err != nil || report.Err() != nil || report.Required != 2 || len(report.Officers) != 3 {
		t.Fatalf("verify: %v, %v, %d of %v", err, report.Err(), report.Required, report.Officers)
	}
	readable := string(r.file(t, "transcript.txt"))
	for _, want := range []string{"officers                 2 of Anna Holm, Bent Krag, Carla Dahl", "step 5: Anna Holm confirms by typing ", "step 5: Carla Dahl confirms by typing "} {
		if !strings.Contains(readable, want) {
			t.Errorf("the transcript has no %q", want)
		}
	}
	words := make(map[string]bool)
	for _, found := range shownWord.FindAllStringSubmatch(c.told.String(), -1) {
		words[found[1]] = true
	}
	if len(words) != 10 {
		t.Errorf("%d confirmation words for 10 steps", len(words))
	}
	// Before anybody confirmed, all that is to be signed was told.
	if shown, asked := strings.Index(c.told.String(), "step 5: sign the root certificate"), strings.Index(c.told.String(), "step 5: Anna Holm confirms"); shown < 0 || asked < shown {
		t.Errorf("shown at %d, confirmed at %d", shown, asked)
	}
}

func TestOfficersAreHeldToIt(t *testing.T) {
	t.Parallel()
	good := willing("Anna Holm", "Bent Krag")
	var first string
	for name, test := range map[string]struct {
		want   string // in the error; empty for a ceremony that succeeds
		told   string
		answer func(int, string, string) (string, error)
	}{
		"a wrong word once": {"", "that is not the confirmation word of this step: again", func(asked int, q, word string) (string, error) {
			if asked == 1 {
				return "00000000", nil
			}
			return willing([]string{"Anna Holm", "Bent Krag"}[asked/2%2])(asked, q, word)
		}},
		"only wrong words":       {"step 1: generate root-ca/cert-sign: not confirmed: 3 wrong answers", "", func(_ int, q, _ string) (string, error) { return good(0, q, "ffffffff") }},
		"a stranger":             {"not confirmed: 3 wrong answers, the last: that is no officer of this ceremony: want Anna Holm, Bent Krag, Carla Dahl", "", willing("Mallory")},
		"the same officer twice": {"Anna Holm has confirmed this step: another officer must", "", willing("Anna Holm")},
		"nothing":                {"3 wrong answers", "", func(int, string, string) (string, error) { return "", nil }},
		"the word of another step": {"step 2: generate root-ca/cert-sign-next: not confirmed: 3 wrong answers", "", func(_ int, q, word string) (string, error) {
			if first == "" {
				first = word
			}
			return willing("Anna Holm")(0, q, first)
		}},
		"end of input":  {"the officers' input has ended", "", func(int, string, string) (string, error) { return "", io.EOF }},
		"broken input":  {"broken pipe", "", func(int, string, string) (string, error) { return "", errors.New("broken pipe") }},
		"endless input": {"an answer is longer than 256 bytes", "", func(int, string, string) (string, error) { return strings.Repeat("x", 300), nil }},
	} {
		if name == "the word of another step" {
			names := willing("Anna Holm", "Bent Krag")
			test.answer = func(_ int, q, word string) (string, error) {
				if first == "" {
					first = word
				}
				return names(0, q, first)
			}
		}
		t.Run(name, func(t *testing.T) {
			r := newRoom(t, attended)
			c := &crew{answer: test.answer}
			err := r.attend(t, t.Context(), c)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if !strings.Contains(c.told.String(), test.told) {
				t.Errorf("%q was not told:\n%s", test.told, c.told.String())
			}
			if err == nil {
				return
			}
			if _, err := os.Stat(filepath.Join(r.out, "root.pem")); !errors.Is(err, os.ErrNotExist) {
				t.Error("something was signed")
			}
			if !bytes.Contains(r.file(t, "transcript.txt"), []byte("THE CEREMONY FAILED")) {
				t.Error("the transcript does not tell it")
			}
		})
	}
}

// A ceremony that waits for an officer ends when it is told to.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	r := newRoom(t, attended)
	ctx, cancel := context.WithCancel(t.Context())
	never, release := io.Pipe()
	defer release.Close()
	c := &crew{answer: func(int, string, string) (string, error) {
		cancel()
		_, err := never.Read(make([]byte, 1))
		return "", err
	}}
	if err := r.attend(t, ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if !bytes.Contains(r.file(t, "transcript.jsonl"), []byte(`"failed":{"error":"step 1: generate root-ca/cert-sign: not confirmed: context canceled"`)) {
		t.Error("the transcript does not tell it")
	}
}

// Who types a PIN too early, or in the wrong place, does not put it into the transcript.
func TestAnswersAreNotKept(t *testing.T) {
	t.Parallel()
	for _, typed := range [][]string{{"83651947"}, {"Anna Holm", "83651947"}} {
		r := newRoom(t, attended)
		c := &crew{answer: func(asked int, _, _ string) (string, error) { return typed[asked%len(typed)], nil }}
		if err := r.attend(t, t.Context(), c); err == nil || strings.Contains(err.Error(), "83651947") {
			t.Errorf("got %v", err)
		}
		for _, name := range []string{"transcript.jsonl", "transcript.txt"} {
			if bytes.Contains(r.file(t, name), []byte("83651947")) {
				t.Errorf("%s holds what was typed", name)
			}
		}
	}
}

// dim is a screen that shows nothing but questions.
type dim struct{ *crew }

func (d dim) Write(p []byte) (int, error) {
	d.crew.Write(p)
	if bytes.HasSuffix(p, []byte(": ")) {
		return len(p), nil
	}
	return 0, errors.New("screen off")
}

// What officers could not see they do not confirm.
func TestOfficersWhoSeeNothing(t *testing.T) {
	t.Parallel()
	r := newRoom(t, attended)
	c := &crew{answer: willing("Anna Holm", "Bent Krag")}
	_, err := ceremony.Run(t.Context(), r.plan, ceremony.Room{
		Open:   func(_ context.Context, name string) (ceremony.Token, error) { return r.tokens[name], nil },
		Output: r.out, Officers: c, Notice: dim{c}, Now: time.Now,
	})
	if err == nil || !strings.Contains(err.Error(), "officers could not see all that was shown: screen off") || c.asked != 0 {
		t.Errorf("%d answers, %v", c.asked, err)
	}
}

// interrupted is a token in the middle of whose work the ceremony is told to end.
type interrupted struct {
	*ceremonytest.Token
	cancel func()
}

func (i interrupted) Generate(ctx context.Context, label string, purpose ceremony.Purpose, typ ceremony.KeyType) (ceremony.KeyInfo, error) {
	i.cancel()
	made, err := i.Token.Generate(ctx, label, purpose, typ)
	return made, errors.Join(err, ctx.Err())
}

// The key that is being made when a ceremony is interrupted is told.
func TestInterruptedWhileAKeyIsMade(t *testing.T) {
	t.Parallel()
	r := newRoom(t, short)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := ceremony.Run(ctx, r.plan, ceremony.Room{
		Open: func(_ context.Context, name string) (ceremony.Token, error) {
			return interrupted{r.tokens[name], cancel}, nil
		},
		Output: r.out, Notice: io.Discard, Now: time.Now,
	})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "(set-hsm keys delete): root-ca/cert-sign") {
		t.Errorf("got %v", err)
	}
	if !bytes.Contains(r.file(t, "transcript.jsonl"), []byte(`"failed":{"error":"context canceled","keys":["root-ca/cert-sign"]`)) {
		t.Error("the transcript does not tell the key")
	}
}

func TestNobodyCanType(t *testing.T) {
	t.Parallel()
	r := newRoom(t, attended)
	if _, err := r.run(t); err == nil || !strings.Contains(err.Error(), "nobody can type") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(r.out); !errors.Is(err, os.ErrNotExist) {
		t.Error("something was written")
	}
}

// A transcript in which a confirmation is missing, or somebody else's, is no good, whoever signed it.
func TestVerifyHoldsOfficersToIt(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(line string) []string{
		"another name": func(l string) []string {
			return []string{strings.ReplaceAll(l, `"officer":"Bent Krag"`, `"officer":"Anna Holm"`)}
		},
		"a stranger": func(l string) []string {
			return []string{strings.ReplaceAll(l, `"officer":"Bent Krag"`, `"officer":"Mallory"`)}
		},
		"left out": func(l string) []string {
			if strings.Contains(l, `"confirmed":{"step":6,"officer":"Bent Krag"`) {
				return nil
			}
			return []string{l}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t, attended)
			if err := r.attend(t, t.Context(), &crew{answer: willing("Anna Holm", "Bent Krag")}); err != nil {
				t.Fatal(err)
			}
			var lines []string
			for _, l := range strings.Split(strings.TrimSuffix(string(r.file(t, "transcript.jsonl")), "\n"), "\n") {
				lines = append(lines, change(l)...)
			}
			r.resign(t, lines)
			report, err := ceremony.Verify(r.out, nil)
			if err != nil || report.Err() == nil || !strings.Contains(fmt.Sprint(report.Problems), "want the word of 2 officers") {
				t.Errorf("verify: %v, %v", err, report.Err())
			}
		})
	}
}
