package ceremony

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/setkit/setkit/roles/set/pki"
)

// Plan is a ceremony as its reviewed file describes it. [Parse] makes it.
type Plan struct {
	name     string
	brand    string // O of every name below the root
	officers officers
	subjects map[string]*subject
	inputs   []input
	steps    []*step

	source []byte
	lines  map[string]int    // of the fields of the file itself
	keyOf  map[string]string // the key that belongs to a certificate, by file
}

// officers are those who may confirm a step, and how many must.
type officers struct {
	Names    []string `yaml:"names"`
	Required int      `yaml:"required"`
}

// subject is a CA to be named in a certificate, without the brand.
type subject struct {
	Holder     string `yaml:"holder"`
	Country    string `yaml:"country"`
	Unit       string `yaml:"unit"`
	CommonName string `yaml:"common-name"`

	line int
	used bool
	typ  pki.Type
}

// input is a file that the ceremony reads.
type input struct {
	name   string
	sha256 string
	line   int
}

// kind is what a step does.
type kind string

const (
	generate    kind = "generate"
	use         kind = "use"
	root        kind = "root"
	certificate kind = "certificate"
	cross       kind = "cross"
	request     kind = "csr"
	crl         kind = "crl"
	bci         kind = "bci"
)

// step is one step. Which of the fields a kind has is told by stepFields.
type step struct {
	kind kind
	name string // of what it makes: a key as TOKEN/LABEL, or a file
	line int

	Type          KeyType   `yaml:"type"`
	Purpose       Purpose   `yaml:"purpose"`
	Certificate   string    `yaml:"certificate"`
	Key           string    `yaml:"key"`
	NextKey       string    `yaml:"next-key"`
	Succeeds      string    `yaml:"succeeds"`
	Subject       string    `yaml:"subject"`
	Issuer        string    `yaml:"issuer"`
	CSR           string    `yaml:"csr"`
	Validity      Span      `yaml:"validity"`
	SigningPeriod Span      `yaml:"signing-period"`
	Number        int64     `yaml:"number"`
	Revoked       []revoked `yaml:"revoked"`
	CRLs          []string  `yaml:"crls"`
}

// revoked is an entry of a CRL.
type revoked struct {
	Serial string `yaml:"serial"` // hexadecimal, two digits for each octet
	Date   string `yaml:"date"`   // 2026-06-15T12:00:00Z
}

// stepFields are the fields of each kind of step: those that it must have, and those that it may.
var stepFields = map[kind]struct{ must, may []string }{
	generate:    {[]string{"type", "purpose"}, nil},
	use:         {[]string{"type", "purpose"}, []string{"certificate"}},
	root:        {[]string{"subject", "key", "next-key", "validity", "signing-period"}, []string{"succeeds"}},
	certificate: {[]string{"subject", "issuer", "validity"}, []string{"key", "csr", "purpose", "signing-period"}},
	cross:       {[]string{"certificate", "issuer", "validity", "signing-period"}, nil},
	request:     {[]string{"subject", "key"}, nil},
	crl:         {[]string{"issuer", "number", "validity"}, []string{"revoked"}},
	bci:         {[]string{"issuer", "number", "validity", "crls"}, nil},
}

// holders are the CAs of SET by their names in a reviewed file.
var holders = map[string]pki.Type{
	"root-ca": pki.RCA, "brand-ca": pki.BCA, "geopolitical-ca": pki.GCA,
	"cardholder-ca": pki.CCA, "merchant-ca": pki.MCA, "payment-ca": pki.PCA,
}

// Name is what the reviewed file calls the ceremony.
func (p *Plan) Name() string { return p.name }

// Tokens lists the tokens that the plan has keys in, by their plain names, in the order of their first
// use.
func (p *Plan) Tokens() []string {
	var names []string
	for _, st := range p.steps {
		if st.isKey() && !slices.Contains(names, st.token()) {
			names = append(names, st.token())
		}
	}
	return names
}

func (st *step) isKey() bool { return st.kind == generate || st.kind == use }

func (st *step) selfSigned() bool { return st.kind == root || st.kind == request }

func (st *step) token() string { name, _, _ := strings.Cut(st.name, "/"); return name }

func (st *step) label() string { _, label, _ := strings.Cut(st.name, "/"); return label }

func (st *step) String() string { return fmt.Sprintf("%s %s", st.kind, st.name) }

// signer names the key that a step signs with.
func (p *Plan) signer(st *step) string {
	if st.selfSigned() {
		return st.Key
	}
	return p.keyOf[st.Issuer]
}

// transcriptSigner names the key that signs the transcript: the first new root's, else the first that
// signs anything, else the first key for signing certificates. It is empty if there is none.
func (p *Plan) transcriptSigner() string {
	for _, pick := range []func(*step) string{
		func(st *step) string {
			if st.kind == root {
				return st.Key
			}
			return ""
		},
		p.signer,
		func(st *step) string {
			if st.isKey() && st.Purpose == CertSign {
				return st.name
			}
			return ""
		},
	} {
		for _, st := range p.steps {
			if id := pick(st); id != "" {
				return id
			}
		}
	}
	return ""
}

// keyStep gives the step that makes or uses a key.
func (p *Plan) keyStep(id string) *step {
	for _, st := range p.steps {
		if st.isKey() && st.name == id {
			return st
		}
	}
	return nil
}

// sha256 is the digest of the reviewed file.
func (p *Plan) sha256() string { return digest(p.source) }

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
