package ceremony

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
)

// replayer goes through a transcript as the plan says that it must go.
type replayer struct {
	*state
	v      *verification
	next   int
	tokens map[string]TokenInfo
}

// fault is an error about one file.
type fault struct {
	file string
	err  error
}

func (f *fault) Error() string { return f.file + ": " + f.err.Error() }

func blame(file string, err error) error {
	if err == nil {
		return nil
	}
	return &fault{file, err}
}

// replay does the ceremony again with the plan, the public keys and the serial numbers that it had, and
// holds every line of the transcript and every file against what must come out.
func (v *verification) replay() {
	p, err := Parse(v.files[planFile])
	if err != nil {
		v.problem(planFile, "%v", err)
		return
	}
	r := &replayer{state: newState(p, v.At), v: v, tokens: make(map[string]TokenInfo)}
	err = r.walk()
	v.Certificates = r.certificates()
	if f, ok := errors.AsType[*fault](err); ok {
		v.problem(f.file, "%v", f.err)
	} else if err != nil {
		v.problem(transcriptFile, "line %d: %v", r.next, err)
	}
}

// line gives the next line and the digest of it.
func (r *replayer) line() (*line, string) {
	if r.next == len(r.v.lines) {
		return &line{}, noLine
	}
	r.next++
	return &r.v.lines[r.next-1], r.v.hashes[r.next-1]
}

func (r *replayer) walk() error {
	if err := r.opening(); err != nil {
		return err
	}
	for i, st := range r.steps {
		do := r.signed
		if st.isKey() {
			do = r.key
		}
		if err := do(i+1, st); err != nil {
			return fmt.Errorf("step %d: %v: %w", i+1, st, err)
		}
	}
	if l, _ := r.line(); l.End == nil || l.End.Signer != r.transcriptSigner() {
		return fmt.Errorf("want the end of the ceremony, and a signature by %s", r.transcriptSigner())
	}
	if r.next != len(r.v.lines) {
		return errors.New("it goes on after its end")
	}
	return r.verify()
}

// opening replays what comes before the first step.
func (r *replayer) opening() error {
	l, _ := r.line()
	if b := l.Begin; b == nil || b.Ceremony != r.Plan.name || b.Required != r.officers.Required || !slices.Equal(b.Officers, r.officers.Names) || !b.At.Equal(r.now) {
		return errors.New("name or officers are not those of the reviewed file")
	}
	for _, in := range r.inputs {
		if l, _ := r.line(); l.Input == nil || *l.Input != (FileSummary{in.name, in.sha256}) {
			return fmt.Errorf("want the input %s", in.name)
		}
		if err := r.takeInput(in, r.v.files[in.name]); err != nil {
			return blame(in.name, err)
		}
	}
	serials := make(map[string]bool)
	for _, name := range r.Tokens() {
		l, _ := r.line()
		if l.Token == nil || l.Token.Name != name || serials[l.Token.Info.Serial] {
			return fmt.Errorf("want the token %s, another than those before", name)
		}
		serials[l.Token.Info.Serial] = true
		r.tokens[name] = l.Token.Info
	}
	return nil
}

// shown replays the showing of a step, and its confirmation.
func (r *replayer) shown(n int, want Shown) error {
	l, sum := r.line()
	if l.Shown == nil || !reflect.DeepEqual(*l.Shown, want) {
		return errors.New("what was shown is not what the reviewed file says")
	}
	var done []string
	for range r.officers.Required {
		l, _ := r.line()
		c := l.Confirmed
		if c == nil || c.Step != n || c.Word != word(sum) || !slices.Contains(r.officers.Names, c.Officer) || slices.Contains(done, c.Officer) {
			return fmt.Errorf("want the word of %d officers", r.officers.Required)
		}
		done = append(done, c.Officer)
	}
	return nil
}

func (r *replayer) key(n int, st *step) error {
	at := r.next + 1 + r.officers.Required
	if at >= len(r.v.lines) || r.v.lines[at].Key == nil {
		return errors.New("no line says that the key is ready")
	}
	ready := r.v.lines[at].Key
	var report *KeyInfo
	if st.kind == use {
		report = &ready.Info
	}
	if err := r.shown(n, r.showKey(n, st, r.tokens[st.token()], report)); err != nil {
		return err
	}
	if r.line(); ready.Step != n || ready.Name != st.name {
		return errors.New("another key is ready")
	}
	return r.takeKey(st, ready.Info)
}

func (r *replayer) signed(n int, st *step) error {
	data := r.v.files[st.name]
	raw, err := decode(st.kind, data)
	if err != nil {
		return blame(st.name, err)
	}
	if !bytes.Equal(encode(st.kind, raw), data) {
		return blame(st.name, errors.New("not encoded as a ceremony does"))
	}
	// On a state of its own, because lint wants a serial number that is not in use yet.
	probe := newState(r.Plan, r.now)
	if err := probe.take(st.kind, st.name, raw); err != nil {
		return blame(st.name, err)
	}
	d, err := r.draft(st, serialOf(probe.certs[st.name]))
	if err != nil {
		return blame(st.name, err)
	}
	if tbs, err := tbsOf(raw); err != nil || !bytes.Equal(tbs, d.tbs) {
		return blame(st.name, errors.New("is not what the reviewed file says"))
	}
	want, err := r.showDraft(n, d)
	if err != nil {
		return blame(st.name, err)
	}
	if err := r.shown(n, want); err != nil {
		return err
	}
	if l, _ := r.line(); l.File == nil || *l.File != (fileWritten{n, st.name, digest(data)}) {
		return fmt.Errorf("want the file %s", st.name)
	}
	if err := r.take(st.kind, st.name, raw); err != nil {
		return blame(st.name, err)
	}
	return blame(st.name, r.verifySteps(st))
}
