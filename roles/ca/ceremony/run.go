package ceremony

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Room is where a ceremony is held: what is bound to the plan for this one time.
type Room struct {
	Open     func(ctx context.Context, name string) (Token, error) // a token by its plain name
	Output   string                                                // directory for what is made
	Inputs   fs.FS                                                 // where the inputs are
	Officers io.Reader                                             // what the officers type
	Typed    string                                                // how they type it, for the transcript
	Notice   io.Writer                                             // is told each step as it happens
	Now      func() time.Time
	Software string // name and version, for the transcript
	Bindings []byte // the file that binds; its digest goes into the transcript
}

// Summary is what a ceremony made.
type Summary struct {
	Ceremony     string               `json:"ceremony"`
	Output       string               `json:"output"`
	Certificates []CertificateSummary `json:"certificates"`
	Files        []FileSummary        `json:"files"`
}

// CertificateSummary is a certificate that was issued.
type CertificateSummary struct {
	File      string    `json:"file"`
	Key       string    `json:"key,omitempty"` // TOKEN/LABEL, if it is a key of the ceremony
	Subject   string    `json:"subject"`
	Serial    string    `json:"serial"`
	SHA256    string    `json:"sha256"` // of the DER
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
}

// FileSummary is a file and the SHA-256 of its content.
type FileSummary struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
}

const (
	fileMode = 0o644
	dirMode  = 0o755

	// progressEvery is how often something that takes long says so.
	progressEvery = 2 * time.Second
)

// session is one ceremony being held.
type session struct {
	*state
	room    Room
	tokens  map[string]Token
	reports map[string]KeyInfo // keys that are used and not made, by TOKEN/LABEL
	inTok   []string           // keys that were made and are in tokens now
	files   []FileSummary
	log     *transcript
	untold  error // why those present do not know all that was said
}

// Run holds the ceremony.
func Run(ctx context.Context, p *Plan, room Room) (_ *Summary, err error) {
	s := &session{state: newState(p, room.Now()), room: room, tokens: make(map[string]Token), reports: make(map[string]KeyInfo)}
	if _, err := Rehearse(p, room.Inputs, s.now); err != nil {
		return nil, err
	}
	if p.officers.Required > 0 && room.Officers == nil {
		return nil, errors.New("officers must confirm, and nobody can type")
	}
	inputs, err := s.readInputs(room.Inputs)
	if err != nil {
		return nil, err
	}
	if err := s.checkOutput(); err != nil {
		return nil, err
	}
	defer func() {
		for _, name := range p.Tokens() {
			if t := s.tokens[name]; t != nil {
				err = errors.Join(err, t.Close())
			}
		}
	}()
	if err := s.openTokens(ctx); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(room.Output, dirMode); err != nil {
		return nil, fmt.Errorf("output: %w", err)
	}
	if s.log, err = newTranscript(s.path(transcriptFile), room.Now); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.log.close()) }()
	if err := s.hold(ctx, inputs); err != nil {
		return nil, s.failed(err)
	}
	return s.summary(), nil
}

func (s *session) path(name string) string { return filepath.Join(s.room.Output, name) }

// checkOutput wants a directory that is new or empty.
func (s *session) checkOutput() error {
	entries, err := os.ReadDir(s.room.Output)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("output: %w", err)
	case len(entries) > 0:
		return fmt.Errorf("output: %s has %s already: a ceremony never overwrites, give another directory", s.room.Output, entries[0].Name())
	}
	return nil
}

// openTokens opens every token and looks that each is another one, has none of the keys that are to be
// made, and all that are to be used.
func (s *session) openTokens(ctx context.Context) error {
	var errs []error
	serials := make(map[string]string)
	for _, name := range s.Tokens() {
		t, err := s.room.Open(ctx, name)
		if err != nil {
			return fmt.Errorf("token %s: %w", name, err)
		}
		s.tokens[name] = t
		serial := t.Info().Serial
		if other, taken := serials[serial]; taken {
			return fmt.Errorf("token %s: is the token %s: each name stands for another one", name, other)
		}
		serials[serial] = name
		keys, err := t.Keys(ctx)
		if err != nil {
			return fmt.Errorf("token %s: %w", name, err)
		}
		if err := s.checkKeys(name, keys); err != nil {
			errs = append(errs, fmt.Errorf("token %s: %w", name, err))
		}
	}
	return errors.Join(append(errs, s.checkSuccession())...)
}

// checkSuccession looks whether roots that are to follow others do so with the key that was announced,
// before anything is made.
func (s *session) checkSuccession() error {
	for _, st := range s.steps {
		old, key := s.certs[st.Succeeds], s.reports[st.Key]
		if old == nil || key.SPKI == nil {
			continue // one of them is yet to be made
		}
		if err := lintSuccession(old, key.SPKI); err != nil {
			return fmt.Errorf("line %d: %v: %w", st.line, st, err)
		}
	}
	return nil
}

func (s *session) checkKeys(token string, keys []KeyInfo) error {
	var taken []string
	for _, st := range s.steps {
		if !st.isKey() || st.token() != token {
			continue
		}
		var found []KeyInfo
		for _, k := range keys {
			if k.Label == st.label() {
				found = append(found, k)
			}
		}
		switch {
		case st.kind == generate && len(found) > 0:
			taken = append(taken, st.label())
			continue
		case st.kind == generate:
			continue
		case len(found) != 1:
			return fmt.Errorf("has %d keys %q, want one", len(found), st.label())
		}
		if _, err := s.matchKey(st, found[0]); err != nil {
			return fmt.Errorf("key %s: %w", st.label(), err)
		}
		s.reports[st.name] = found[0]
	}
	if len(taken) > 0 {
		return fmt.Errorf("has keys already that are to be made: %s: use another token, or, if they are of a ceremony that failed, delete them with set-hsm keys delete", strings.Join(taken, ", "))
	}
	return nil
}

// hold goes through the ceremony.
func (s *session) hold(ctx context.Context, inputs map[string][]byte) error {
	begin := &begun{
		Format: format, Ceremony: s.name, At: s.now, Plan: s.sha256(), Software: s.room.Software,
		Officers: append([]string{}, s.officers.Names...), Required: s.officers.Required, Typed: s.room.Typed,
	}
	if len(s.room.Bindings) > 0 {
		begin.Bindings = digest(s.room.Bindings)
	}
	if err := s.record(line{Begin: begin}); err != nil {
		return err
	}
	if err := s.write(planFile, s.source); err != nil {
		return err
	}
	for _, in := range s.inputs {
		if err := s.write(in.name, inputs[in.name]); err != nil {
			return err
		}
		if err := s.record(line{Input: &FileSummary{in.name, in.sha256}}); err != nil {
			return err
		}
	}
	for _, name := range s.Tokens() {
		if err := s.record(line{Token: &opened{name, s.tokens[name].Info()}}); err != nil {
			return err
		}
	}
	for i, st := range s.steps {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		do := s.signStep
		if st.isKey() {
			do = s.keyStepOf
		}
		if err := do(ctx, i+1, st); err != nil {
			return fmt.Errorf("step %d: %v: %w", i+1, st, err)
		}
	}
	return s.finish()
}

// keyStepOf makes a key, or takes one into use.
func (s *session) keyStepOf(ctx context.Context, n int, st *step) error {
	t := s.tokens[st.token()]
	var report *KeyInfo
	if k, ok := s.reports[st.name]; ok {
		report = &k
	}
	one := s.showKey(n, st, t.Info(), report)
	if err := s.record(line{Shown: &one}); err != nil {
		return err
	}
	if err := s.confirm(ctx, n); err != nil {
		return err
	}
	if report == nil {
		var made KeyInfo
		err := s.patiently("generating "+st.name, func() (err error) {
			made, err = t.Generate(ctx, st.label(), st.Purpose, st.Type)
			return err
		})
		if err != nil {
			return fmt.Errorf("%w; the key may be in the token all the same: look with set-hsm keys list", err)
		}
		report, s.inTok = &made, append(s.inTok, st.name)
	}
	if err := s.takeKey(st, *report); err != nil {
		return err
	}
	if st.Purpose.signs() {
		signer, err := t.Signer(ctx, st.label())
		if err != nil {
			return err
		}
		if !same(s.keys[st.name], signer.Public()) {
			return errors.New("the token signs with another key than the one it shows")
		}
		s.signers[st.name] = signer
	}
	return s.record(line{Key: &keyReady{n, st.name, *report}})
}

// signStep shows what is to be signed, has it confirmed, signs it, checks it, and writes it.
func (s *session) signStep(ctx context.Context, n int, st *step) error {
	d, err := s.draft(st, newSerial())
	if err != nil {
		return err
	}
	one, err := s.showDraft(n, d)
	if err != nil {
		return err
	}
	if err := s.record(line{Shown: &one}); err != nil {
		return err
	}
	if err := s.confirm(ctx, n); err != nil {
		return err
	}
	var raw []byte
	if err := s.patiently("signing "+st.name, func() (err error) {
		raw, err = s.sign(d)
		return err
	}); err != nil {
		return err
	}
	if err := s.take(st.kind, st.name, raw); err != nil {
		return err
	}
	if err := s.verifySteps(st); err != nil {
		return err
	}
	data := encode(st.kind, raw)
	if err := s.write(st.name, data); err != nil {
		return err
	}
	return s.record(line{File: &fileWritten{n, st.name, digest(data)}})
}

// patiently does something and says every now and then that it is not done yet.
func (s *session) patiently(what string, do func() error) error {
	done, told := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(told)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for began := time.Now(); ; {
			select {
			case <-done:
				return
			case <-tick.C:
				fmt.Fprintf(s.room.Notice, "%s: not done after %.0f s, please wait\n", what, time.Since(began).Seconds())
			}
		}
	}()
	err := do()
	close(done)
	<-told
	return err
}

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

// finish ends the transcript, signs it, and writes it for people.
func (s *session) finish() error {
	if err := s.verify(); err != nil {
		return err
	}
	id := s.transcriptSigner()
	if err := s.record(line{End: &ended{id}}); err != nil {
		return err
	}
	var signature []byte
	if err := s.patiently("signing the transcript", func() (err error) {
		signature, err = signTranscript(s.signers[id], s.log.raw)
		return err
	}); err != nil {
		return err
	}
	if err := s.write(signatureFile, signature); err != nil {
		return err
	}
	if err := s.write(readableFile, render(s.log.lines, s.log.raw)); err != nil {
		return err
	}
	spki, err := x509.MarshalPKIXPublicKey(s.keys[id])
	s.say("write down what ceremony verify must tell: signed by %s, public key SHA-256 %s", id, digest(spki))
	return err
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

// record writes a line of the transcript and announces it.
func (s *session) record(l line) error {
	if err := s.log.add(l); err != nil {
		return err
	}
	head, rows := l.text()
	s.say("%s", head)
	for _, r := range rows {
		s.say("    %s", r)
	}
	return nil
}

// say tells those present. A notice that cannot be written stops nothing but officers: the transcript has
// it all.
func (s *session) say(format string, args ...any) {
	_, err := fmt.Fprintln(s.room.Notice, strings.Map(printable, fmt.Sprintf(format, args...)))
	if s.untold == nil {
		s.untold = err
	}
}
