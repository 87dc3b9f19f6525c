package ceremony

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Token is where the keys of one CA are made and stay.
type Token interface {
	// Serial tells the token from every other.
	Serial() string
	// Labels lists the keys that it holds.
	Labels(ctx context.Context) ([]string, error)
	// Generate makes a key that can do what its purpose needs and nothing else, and that cannot leave.
	Generate(ctx context.Context, label string, purpose Purpose, typ KeyType) error
	// PublicKey reads the public half of a key pair back from the token.
	PublicKey(ctx context.Context, label string) (crypto.PublicKey, error)
	// Signer gives the use of a key made for signing certificates.
	Signer(ctx context.Context, label string) (crypto.Signer, error)
	Close() error
}

// Room is where a ceremony is held.
type Room struct {
	Open   func(ctx context.Context, uri string) (Token, error)
	Notice io.Writer // is told each step as it happens
	Now    func() time.Time
	Source []byte // the file that was reviewed; its digest goes into the transcript
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
	CA        string    `json:"ca"`
	Key       string    `json:"key"`
	Subject   string    `json:"subject"`
	Serial    string    `json:"serial"`
	SHA256    string    `json:"sha256"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	File      string    `json:"file"`
}

// FileSummary is a file that was written.
type FileSummary struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
}

const (
	certMode = 0o644
	dirMode  = 0o755
)

// session is one ceremony being held.
type session struct {
	*Spec
	room   Room
	now    time.Time
	tokens map[string]Token
	keys   keyring
	made   []string // keys that are in tokens now
	log    *transcript
}

// Run holds the ceremony.
func Run(ctx context.Context, spec *Spec, room Room) (_ *Summary, err error) {
	s := &session{Spec: spec, room: room, now: whole(room.Now()), tokens: make(map[string]Token), keys: make(keyring)}
	if err := Check(spec, s.now); err != nil {
		return nil, err
	}
	if err := s.checkOutputs(); err != nil {
		return nil, err
	}
	defer func() {
		for _, c := range spec.cas() {
			if t := s.tokens[c.name]; t != nil {
				err = errors.Join(err, t.Close())
			}
		}
	}()
	if err := s.openTokens(ctx); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.Output, dirMode); err != nil {
		return nil, fmt.Errorf("output: %w", err)
	}
	s.log, err = newTranscript(filepath.Join(s.Output, transcriptFile), room.Now)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.log.close()) }()
	summary, err := s.hold(ctx)
	if err != nil {
		err = errors.Join(err, s.step("failed", "", "the ceremony failed", details{"error": err.Error(), "keys": s.made}))
		if len(s.made) > 0 {
			err = fmt.Errorf("%w; keys that were made and must be destroyed before another try: %s", err, strings.Join(s.made, ", "))
		}
		return nil, err
	}
	return summary, nil
}

func (s *session) checkOutputs() error {
	var there []string
	for _, name := range s.fileNames() {
		if _, err := os.Lstat(filepath.Join(s.Output, name)); err == nil {
			there = append(there, name)
		} else if !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("output: %w", err)
		}
	}
	if len(there) > 0 {
		return fmt.Errorf("output: %s has %s already: a ceremony never overwrites, give another directory", s.Output, strings.Join(there, ", "))
	}
	return nil
}

// openTokens opens every token and looks that each is another one and has none of the keys.
func (s *session) openTokens(ctx context.Context) error {
	serials := make(map[string]string)
	for _, c := range s.cas() {
		t, err := s.room.Open(ctx, c.Token)
		if err != nil {
			return fmt.Errorf("%s.token: %w", c.name, err)
		}
		s.tokens[c.name] = t
		if other, taken := serials[t.Serial()]; taken {
			return fmt.Errorf("%s.token: is the token of %s: each CA has its own", c.name, other)
		}
		serials[t.Serial()] = c.name
		labels, err := t.Labels(ctx)
		if err != nil {
			return fmt.Errorf("%s.token: %w", c.name, err)
		}
		for _, k := range s.Spec.keys(c) {
			if slices.Contains(labels, k.label) {
				return fmt.Errorf("%s.token: has a key %q already: a ceremony starts with new keys, use another token", c.name, k.label)
			}
		}
	}
	return nil
}

// hold makes keys and certificates, and writes them.
func (s *session) hold(ctx context.Context) (*Summary, error) {
	source := sha256.Sum256(s.room.Source)
	if err := s.step("begin", "", fmt.Sprintf("ceremony %q begins", s.Name), details{
		"ceremony": s.Name, "file_sha256": hex.EncodeToString(source[:]), "spec": s.Spec,
	}); err != nil {
		return nil, err
	}
	for _, c := range s.cas() {
		text := fmt.Sprintf("token with serial number %s is open and has none of the keys", s.tokens[c.name].Serial())
		if err := s.step("token", c.name, text, details{"serial": s.tokens[c.name].Serial()}); err != nil {
			return nil, err
		}
	}
	for _, c := range s.cas() {
		for _, k := range s.Spec.keys(c) {
			if err := s.makeKey(ctx, s.tokens[c.name], k); err != nil {
				return nil, fmt.Errorf("%s: key %s: %w", c.name, k.label, err)
			}
		}
	}
	p, err := s.issue(s.now, s.keys)
	if err != nil {
		return nil, err
	}
	summary := &Summary{Ceremony: s.Name, Output: s.Output}
	if err := s.announce(p, summary); err != nil {
		return nil, err
	}
	if err := s.write(p.files, summary); err != nil {
		return nil, err
	}
	return summary, s.finish(summary)
}

// makeKey generates a key and reads it back.
func (s *session) makeKey(ctx context.Context, t Token, k newKey) error {
	if err := t.Generate(ctx, k.label, k.purpose, k.typ); err != nil {
		return err
	}
	s.made = append(s.made, k.id())
	if k.purpose == MAC {
		return s.step("key", k.ca, fmt.Sprintf("key %s (%s) made", k.label, k.typ), details{"label": k.label, "type": k.typ})
	}
	pub, err := t.PublicKey(ctx, k.label)
	if err != nil {
		return err
	}
	if err := checkKeyType(pub, k.typ); err != nil {
		return err
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return err
	}
	for id, other := range s.keys {
		if same(pub, other) {
			return fmt.Errorf("the token made the same key as for %s", id)
		}
	}
	s.keys[k.id()] = pub
	if k.purpose == CertSign {
		signer, err := t.Signer(ctx, k.label)
		if err != nil {
			return err
		}
		if !same(pub, signer) {
			return errors.New("the token signs with another key than the one it shows")
		}
		s.keys[k.id()] = signer
	}
	digest := sha256.Sum256(spki)
	return s.step("key", k.ca, fmt.Sprintf("key %s (%s) made, SHA-256 of its public key %x", k.label, k.typ, digest),
		details{"label": k.label, "type": k.typ, "spki_sha256": hex.EncodeToString(digest[:])})
}

func same(pub crypto.PublicKey, other any) bool {
	if s, ok := other.(crypto.Signer); ok {
		other = s.Public()
	}
	k, ok := pub.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(other)
}

func (s *session) announce(p *product, summary *Summary) error {
	for _, c := range p.certs {
		digest := sha256.Sum256(c.cert.X509.Raw)
		sum := CertificateSummary{
			CA: c.ca, Key: c.label, Subject: c.cert.X509.Subject.String(), Serial: c.cert.Serial(),
			SHA256: hex.EncodeToString(digest[:]), NotBefore: c.cert.X509.NotBefore, NotAfter: c.cert.X509.NotAfter, File: c.file,
		}
		summary.Certificates = append(summary.Certificates, sum)
		text := fmt.Sprintf("%v issued and verified, until %s", c.cert, sum.NotAfter.Format(time.DateOnly))
		if err := s.step("certificate", c.ca, text, details{"certificate": sum}); err != nil {
			return err
		}
	}
	for _, l := range p.crls {
		text := fmt.Sprintf("CRL %d of %s issued and verified, next by %s", l.Number, l.X509.Issuer, l.X509.NextUpdate.Format(time.DateOnly))
		if err := s.step("crl", "", text, details{"issuer": l.X509.Issuer.String(), "number": l.Number, "next_update": l.X509.NextUpdate}); err != nil {
			return err
		}
	}
	text := fmt.Sprintf("BrandCRLIdentifier %d of brand %s issued and verified, until %s", p.bci.Sequence, p.bci.Brand, p.bci.Validity.NotAfter.Format(time.DateOnly))
	return s.step("bci", "brand-ca", text, details{"sequence": p.bci.Sequence, "not_after": p.bci.Validity.NotAfter})
}

func (s *session) write(files []file, summary *Summary) error {
	for _, f := range files {
		if err := writeNew(filepath.Join(s.Output, f.name), f.data); err != nil {
			return err
		}
		digest := sha256.Sum256(f.data)
		sum := FileSummary{f.name, hex.EncodeToString(digest[:])}
		summary.Files = append(summary.Files, sum)
		if err := s.step("file", "", "wrote "+filepath.Join(s.Output, f.name), details{"file": sum}); err != nil {
			return err
		}
	}
	return nil
}

// writeNew writes a file that must not be there yet, to the disk.
func writeNew(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, certMode)
	if err != nil {
		return fmt.Errorf("output: %w", err)
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// finish ends the transcript and signs it with the root's key.
func (s *session) finish(summary *Summary) error {
	if err := s.step("end", "", "the ceremony is complete: the root signs the transcript", nil); err != nil {
		return err
	}
	signature, digest, err := s.log.sign(s.keys.signer(s.cas()[0]))
	if err != nil {
		return fmt.Errorf("sign the transcript: %w", err)
	}
	if err := writeNew(filepath.Join(s.Output, signatureFile), signature); err != nil {
		return err
	}
	sum := sha256.Sum256(signature)
	summary.Files = append(summary.Files, FileSummary{transcriptFile, digest}, FileSummary{signatureFile, hex.EncodeToString(sum[:])})
	return nil
}

// step records and announces one step.
func (s *session) step(kind, ca, text string, d details) error {
	if err := s.log.add(kind, ca, text, d); err != nil {
		return err
	}
	if ca != "" {
		text = ca + ": " + text
	}
	_, err := fmt.Fprintln(s.room.Notice, text)
	return err
}
