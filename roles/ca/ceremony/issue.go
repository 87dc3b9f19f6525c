package ceremony

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"

	"github.com/setkit/setkit/roles/set/pki"
)

// oidAES256GCM is the content encryption that the CAs accept from cardholders (profile A6).
var oidAES256GCM = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 46}

// serialOctets is the length of the serial numbers, which package pki takes from the source of
// randomness before anything else.
const serialOctets = 16

// state is what there is at a point of a ceremony.
type state struct {
	*Plan
	now     time.Time
	keys    map[string]crypto.PublicKey // by TOKEN/LABEL
	signers map[string]crypto.Signer
	certs   map[string]*pki.Certificate // by file, like all that follow
	crls    map[string]*pki.CRL
	bcis    map[string]*pki.BrandCRLIdentifier
	csrs    map[string]*x509.CertificateRequest
	unknown map[string]bool // keys that a rehearsal cannot know
}

func newState(p *Plan, now time.Time) *state {
	return &state{
		Plan: p, now: whole(now), keys: make(map[string]crypto.PublicKey), signers: make(map[string]crypto.Signer),
		certs: make(map[string]*pki.Certificate), crls: make(map[string]*pki.CRL),
		bcis: make(map[string]*pki.BrandCRLIdentifier), csrs: make(map[string]*x509.CertificateRequest),
		unknown: make(map[string]bool),
	}
}

// newSerial draws a serial number. Only certificates have one.
func newSerial() []byte {
	b := make([]byte, serialOctets)
	rand.Read(b)
	return b
}

// make makes what a step says, as issuer and with key, and gives its DER.
func (s *state) make(st *step, serial []byte, issuer *pki.Certificate, key crypto.Signer) ([]byte, error) {
	random := io.MultiReader(bytes.NewReader(serial), rand.Reader)
	switch st.kind {
	case root, certificate, cross:
		t, err := s.template(st)
		if err != nil {
			return nil, err
		}
		c, err := pki.Issue(random, t, issuer, key)
		if err != nil {
			return nil, err
		}
		return c.X509.Raw, nil
	case crl:
		t := pki.CRLTemplate{Number: st.Number, ThisUpdate: s.now, NextUpdate: st.Validity.after(s.now)}
		for _, r := range st.Revoked {
			serial, _ := new(big.Int).SetString(r.Serial, 16)
			at, err := time.Parse(time.RFC3339, r.Date)
			if err != nil {
				return nil, err
			}
			t.Revoked = append(t.Revoked, pki.Revocation{Serial: serial, At: at})
		}
		l, err := pki.IssueCRL(rand.Reader, t, issuer, key)
		if err != nil {
			return nil, err
		}
		return l.X509.Raw, nil
	case bci:
		t := pki.BCITemplate{Sequence: st.Number, Validity: pki.Period{NotBefore: s.now, NotAfter: st.Validity.after(s.now)}}
		for _, name := range st.CRLs {
			t.CRLs = append(t.CRLs, s.crls[name])
		}
		b, err := pki.IssueBCI(rand.Reader, t, issuer, key)
		if err != nil {
			return nil, err
		}
		return b.Raw, nil
	case request:
		return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: s.pkixName(st)}, key)
	}
	return nil, fmt.Errorf("%v makes nothing that is signed", st)
}

// template says what a certificate of a step certifies.
func (s *state) template(st *step) (pki.Template, error) {
	t := pki.Template{NotBefore: s.now, NotAfter: st.Validity.after(s.now)}
	if st.kind == cross {
		c := s.certs[st.Certificate]
		if c.Use != pki.Authority || c.Type == pki.RCA {
			return t, fmt.Errorf("%s is a %v: want a CA below a root that signs certificates", st.Certificate, c)
		}
		t.Type, t.Use, t.Subject, t.PublicKey = c.Type, c.Use, c.Subject, c.X509.PublicKey
		// What the CA has certified so far was signed in this period, and stays good under the other root.
		t.PrivateKeyNotBefore, t.PrivateKeyNotAfter = c.PrivateKeyUsage.NotBefore, st.SigningPeriod.after(s.now)
		return t, nil
	}
	subject := s.subjects[st.Subject]
	t.Type, t.Subject, t.Use = subject.typ, s.subjectName(st), useOf(s.purpose(st))
	t.PublicKey = s.keys[st.Key]
	if st.CSR != "" {
		t.PublicKey = s.csrs[st.CSR].PublicKey
	}
	if t.Use == pki.KeyExchange {
		t.Tunneling = &pki.Tunneling{Supported: true, Algorithms: []asn1.ObjectIdentifier{oidAES256GCM}}
	} else {
		t.PrivateKeyNotAfter = st.SigningPeriod.after(s.now)
	}
	if st.kind == root {
		t.NextRootKey = s.keys[st.NextKey]
	}
	return t, nil
}

func (s *state) purpose(st *step) Purpose {
	if st.CSR != "" {
		return st.Purpose
	}
	return s.keyStep(st.Key).Purpose
}

func useOf(p Purpose) pki.Use {
	return map[Purpose]pki.Use{CertSign: pki.Authority, Sign: pki.Signature, KeyExchange: pki.KeyExchange}[p]
}

func (s *state) subjectName(st *step) pki.Name {
	subject := s.subjects[st.Subject]
	n := pki.Name{Country: subject.Country, Brand: s.brand, Unit: subject.Unit, CommonName: subject.CommonName}
	if subject.typ == pki.RCA {
		n.Brand = pki.RootName
	}
	return n
}

// pkixName is the subject of a request: its attributes stand in the order that SET has.
func (s *state) pkixName(st *step) pkix.Name {
	n := s.subjectName(st)
	name := pkix.Name{Country: []string{n.Country}, Organization: []string{n.Brand}, CommonName: n.CommonName}
	if n.Unit != "" {
		name.OrganizationalUnit = []string{n.Unit}
	}
	return name
}

// take parses what a step made, or an input, and keeps it. It checks no signature: verify does.
func (s *state) take(k kind, name string, raw []byte) (err error) {
	switch k {
	case root, certificate, cross:
		s.certs[name], err = pki.ParseCertificate(raw)
	case crl:
		s.crls[name], err = pki.ParseCRL(raw)
	case bci:
		s.bcis[name], err = pki.ParseBCI(raw)
	case request:
		s.csrs[name], err = parseRequest(raw)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// parseRequest decodes a PKCS#10 request in its distinguished encoding.
func parseRequest(raw []byte) (*x509.CertificateRequest, error) {
	if len(raw) > pki.CertificateSizeMax {
		return nil, fmt.Errorf("%d octets, at most %d are allowed", len(raw), pki.CertificateSizeMax)
	}
	r, err := x509.ParseCertificateRequest(raw)
	if err != nil {
		return nil, err
	}
	tbs, err := tbsOf(raw)
	if err == nil && !bytes.Equal(tbs, r.RawTBSCertificateRequest) {
		err = errors.New("malformed outer structure")
	}
	return r, err
}

var pemTypes = map[kind]string{
	root: "CERTIFICATE", certificate: "CERTIFICATE", cross: "CERTIFICATE", crl: "X509 CRL", request: "CERTIFICATE REQUEST",
}

// encode gives the file that holds what a step made: PEM, but DER for a BrandCRLIdentifier.
func encode(k kind, raw []byte) []byte {
	if k == bci {
		return raw
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemTypes[k], Bytes: raw})
}

// decode reads what encode wrote. Nothing may stand beside it.
func decode(k kind, data []byte) ([]byte, error) {
	if k == bci {
		return data, nil
	}
	block, rest := pem.Decode(data)
	begin := []byte("-----BEGIN ") // what stands before it, or is no block, pem.Decode passes over
	if block == nil || len(bytes.TrimSpace(rest)) > 0 || block.Type != pemTypes[k] || len(block.Headers) > 0 || !bytes.HasPrefix(data, begin) || bytes.Count(data, begin) != 1 {
		return nil, fmt.Errorf("not one PEM block of type %s", pemTypes[k])
	}
	return block.Bytes, nil
}

// takeInput parses an input, and holds it against the key that signs with it.
func (s *state) takeInput(in input, data []byte) error {
	if got := digest(data); got != in.sha256 {
		return fmt.Errorf("input %s: its SHA-256 is %s, and line %d of the reviewed file has another", in.name, got, in.line)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return fmt.Errorf("input %s: not PEM", in.name)
	}
	for k, typ := range pemTypes {
		if typ != block.Type {
			continue
		}
		raw, err := decode(k, data)
		if err != nil {
			return fmt.Errorf("input %s: %w", in.name, err)
		}
		if err := s.take(k, in.name, raw); err != nil {
			return fmt.Errorf("input %w", err)
		}
		if r := s.csrs[in.name]; r != nil {
			if err := r.CheckSignature(); err != nil {
				return fmt.Errorf("input %s: it is not signed with its own key: %w", in.name, err)
			}
		}
		return s.checkInputUse(in)
	}
	return fmt.Errorf("input %s: PEM of type %q: want a certificate, a CRL or a certificate request", in.name, block.Type)
}

// checkInputUse refuses an input that steps take for something that it is not.
func (s *state) checkInputUse(in input) error {
	used := s.certs[in.name] != nil // for the chain at least
	for _, st := range s.steps {
		for _, name := range []string{st.Certificate, st.Issuer, st.Succeeds} {
			if name == in.name && s.certs[name] == nil {
				return fmt.Errorf("line %d: %v: %s is not a certificate", st.line, st, name)
			}
		}
		if st.CSR == in.name {
			if used = true; s.csrs[in.name] == nil {
				return fmt.Errorf("line %d: %v: %s is not a certificate request", st.line, st, in.name)
			}
		}
		for _, name := range st.CRLs {
			if name == in.name {
				if used = true; s.crls[name] == nil {
					return fmt.Errorf("line %d: %v: %s is not a CRL", st.line, st, name)
				}
			}
		}
	}
	if !used {
		return fmt.Errorf("line %d: no step uses the input %s", in.line, in.name)
	}
	return nil
}

// serialOf gives the serial number of a certificate as it was drawn, or nil.
func serialOf(c *pki.Certificate) []byte {
	if c == nil || c.X509.SerialNumber.BitLen() > 8*serialOctets {
		return nil
	}
	return c.X509.SerialNumber.FillBytes(make([]byte, serialOctets))
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }
