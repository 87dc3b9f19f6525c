package ceremony

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

const (
	// triesMax is how many wrong answers a step takes before the ceremony ends.
	triesMax = 3
	// wordDigits is the length of a confirmation: what changes a line of the transcript without
	// changing so many digits of its SHA-256 is not found while officers wait.
	wordDigits = 8
	// answerBytesMax bounds what an officer types.
	answerBytesMax = 256
)

// word is what officers type to confirm a step: how the SHA-256 of the line of the transcript begins
// that shows it. It stands for that line and, by the chain, for all before it, and nobody knows it
// before.
func word(lineSHA256 string) string { return lineSHA256[:wordDigits] }

// confirm has officers confirm a step that was shown.
func (s *session) confirm(ctx context.Context, n int) error {
	want := word(s.log.previous)
	if s.officers.Required == 0 {
		return nil
	}
	if s.untold != nil {
		return fmt.Errorf("not confirmed: officers could not see all that was shown: %w", s.untold)
	}
	s.say("confirmation word: %s", want)
	tries := triesMax
	var done []string
	for len(done) < s.officers.Required {
		name, err := s.officer(ctx, len(done)+1, done)
		if err == nil {
			err = s.wordOf(ctx, name, want)
		}
		if wrong, ok := errors.AsType[wrongAnswer](err); ok {
			if tries--; tries == 0 {
				return fmt.Errorf("not confirmed: %d wrong answers, the last: %w", triesMax, err)
			}
			s.say("%v: again", wrong)
			continue
		}
		if err != nil {
			return fmt.Errorf("not confirmed: %w", err)
		}
		done = append(done, name)
		if err := s.record(line{Confirmed: &confirmed{Step: n, Officer: name, Word: want}}); err != nil {
			return err
		}
	}
	return nil
}

// wrongAnswer is what is wrong with an answer that can be given again. It ends up in the transcript, and
// never holds the answer: that may be a PIN, typed too early.
type wrongAnswer string

func (e wrongAnswer) Error() string { return string(e) }

// officer asks for a name.
func (s *session) officer(ctx context.Context, nth int, done []string) (string, error) {
	answer, err := s.ask(ctx, fmt.Sprintf("officer %d of %d, your name: ", nth, s.officers.Required))
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(s.officers.Names, func(name string) bool { return strings.EqualFold(name, answer) })
	switch {
	case i < 0:
		return "", wrongAnswer("that is no officer of this ceremony: want " + strings.Join(s.officers.Names, ", "))
	case slices.Contains(done, s.officers.Names[i]):
		return "", wrongAnswer(fmt.Sprintf("%s has confirmed this step: another officer must", s.officers.Names[i]))
	}
	return s.officers.Names[i], nil
}

func (s *session) wordOf(ctx context.Context, name, want string) error {
	answer, err := s.ask(ctx, fmt.Sprintf("%s, the confirmation word: ", name))
	if err != nil {
		return err
	}
	if !strings.EqualFold(answer, want) {
		return wrongAnswer("that is not the confirmation word of this step")
	}
	return nil
}

// ask prompts and reads a line. It does not outlast its context; what is read after that is lost.
func (s *session) ask(ctx context.Context, prompt string) (string, error) {
	if _, err := io.WriteString(s.room.Notice, prompt); err != nil {
		return "", err
	}
	type answer struct {
		text string
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		text, err := readLine(s.room.Officers)
		got <- answer{text, err}
	}()
	var a answer
	select {
	case a = <-got:
	case <-ctx.Done():
		a.err = context.Cause(ctx)
	}
	if a.err != nil {
		s.say("") // what follows does not stand behind the question
	}
	return strings.TrimSpace(a.text), a.err
}

// readLine reads no further than the end of the line: what follows may be for others, such as a PIN.
func readLine(r io.Reader) (string, error) {
	var text []byte
	var b [1]byte
	for len(text) <= answerBytesMax {
		n, err := r.Read(b[:])
		switch {
		case n == 1 && b[0] == '\n':
			return string(text), nil
		case n == 1:
			text = append(text, b[0])
		case errors.Is(err, io.EOF):
			return "", errors.New("the officers' input has ended")
		case err != nil:
			return "", fmt.Errorf("the officers' input: %w", err)
		}
	}
	return "", fmt.Errorf("an answer is longer than %d bytes", answerBytesMax)
}
