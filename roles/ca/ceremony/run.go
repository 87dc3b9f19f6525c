package ceremony

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
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

	// generateGrace is what a token gets to finish a key when the ceremony is interrupted.
	generateGrace = 2 * time.Minute
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
		longer, cancel := outlasting(ctx)
		defer cancel()
		err := s.patiently("generating "+st.name, func() (err error) {
			made, err = t.Generate(longer, st.label(), st.Purpose, st.Type)
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
	if err := s.verifyIssuer(st); err != nil {
		return err
	}
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

// outlasting gives a context that ends some time after ctx: a key that a token has begun to make will be in
// it, and whoever interrupts the ceremony must be told.
func outlasting(ctx context.Context) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(generateGrace):
			cancel(context.Cause(ctx))
		case <-longer.Done():
		}
	})
	return longer, func() { stop(); cancel(nil) }
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
