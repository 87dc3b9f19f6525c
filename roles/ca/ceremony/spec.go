package ceremony

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Spec is a ceremony as its reviewed file describes it. Every value stands in the file: there are no
// defaults that a reviewer would have to know.
type Spec struct {
	Name        string       `yaml:"ceremony"`
	Output      string       `yaml:"output"`       // directory for what is made
	BrandID     string       `yaml:"brand-id"`     // O of every name below the root
	BCIValidity Span         `yaml:"bci-validity"` // of the first BrandCRLIdentifier
	Root        Authority    `yaml:"root-ca"`
	Brand       Authority    `yaml:"brand-ca"`
	Cardholder  CardholderCA `yaml:"cardholder-ca"`
	Merchant    IssuingCA    `yaml:"merchant-ca"`
	Payment     IssuingCA    `yaml:"payment-ca"`
}

// Authority is a CA with a key that signs certificates and, of all but the cardholder and merchant CA,
// CRLs.
type Authority struct {
	Token       string  `yaml:"token"` // URI of the token that holds its keys, and nobody else's
	Subject     Subject `yaml:"subject"`
	CertSign    SignKey `yaml:"cert-sign"`
	CRLValidity Span    `yaml:"crl-validity"` // of its first CRL
}

// IssuingCA is a CA that certifies end entities and exchanges messages with them.
type IssuingCA struct {
	Authority   `yaml:",inline"`
	Sign        SignKey `yaml:"sign"`
	KeyExchange Key     `yaml:"key-exchange"`
}

// CardholderCA also has the key with which it remembers card numbers without knowing them.
type CardholderCA struct {
	IssuingCA `yaml:",inline"`
	PANMAC    MACKey `yaml:"pan-mac"`
}

// Subject is the name of a CA, without the brand.
type Subject struct {
	Country    string `yaml:"country"`
	Unit       string `yaml:"unit"`
	CommonName string `yaml:"common-name"`
}

// Key is a key pair and the life of its certificate.
type Key struct {
	Type     KeyType `yaml:"type"`
	Validity Span    `yaml:"validity"`
}

// SignKey is a key pair that signs, during the first part of its certificate's life.
type SignKey struct {
	Key           `yaml:",inline"`
	SigningPeriod Span `yaml:"signing-period"`
}

// MACKey is a key that computes HMACs.
type MACKey struct {
	Type KeyType `yaml:"type"`
}

// KeyType is the algorithm and size of a key.
type KeyType string

// The types of keys that a ceremony makes.
const (
	RSA2048    KeyType = "rsa-2048"
	RSA3072    KeyType = "rsa-3072"
	RSA4096    KeyType = "rsa-4096"
	ECP256     KeyType = "ec-p256"
	ECP384     KeyType = "ec-p384"
	HMACSHA256 KeyType = "hmac-sha256"
)

// Purpose is what a token must let a key do, and nothing else.
type Purpose string

// The purposes of keys.
const (
	CertSign    Purpose = "cert-sign"
	Sign        Purpose = "sign"
	KeyExchange Purpose = "key-exchange"
	MAC         Purpose = "mac"
)

// Labels of the keys in each CA's token.
const (
	LabelCertSign    = "cert-sign"
	LabelNextRoot    = "cert-sign-next" // the key that takes over from the root's
	LabelSign        = "sign"
	LabelKeyExchange = "key-exchange"
	LabelPANMAC      = "pan-mac"
)

// Span is a length of time in whole years or days, written 6y or 90d.
type Span struct{ years, days int }

// spanYearsMax bounds a Span.
const spanYearsMax = 50

// UnmarshalText reads a Span.
func (s *Span) UnmarshalText(text []byte) error {
	digits, unit := string(text), ""
	if n := len(digits); n > 0 {
		digits, unit = digits[:n-1], digits[n-1:]
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != digits {
		return fmt.Errorf("length of time %q: want a number of years or days, such as 6y or 90d", text)
	}
	switch {
	case unit == "y" && n <= spanYearsMax:
		*s = Span{years: int(n)}
	case unit == "d" && n <= spanYearsMax*365:
		*s = Span{days: int(n)}
	default:
		return fmt.Errorf("length of time %q: want a number of years or days, such as 6y or 90d, and at most %d years", text, spanYearsMax)
	}
	return nil
}

func (s Span) String() string {
	if s.years > 0 {
		return strconv.Itoa(s.years) + "y"
	}
	return strconv.Itoa(s.days) + "d"
}

// MarshalText writes what UnmarshalText reads.
func (s Span) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

func (s Span) isZero() bool { return s == Span{} }

func (s Span) after(t time.Time) time.Time { return t.AddDate(s.years, 0, s.days) }

// ca is one CA of a Spec under its name in the file.
type ca struct {
	name string
	file string // how its output files begin
	*Authority
	issuing *IssuingCA // nil for root and brand
	crls    bool
}

func (s *Spec) cas() []ca {
	return []ca{
		{"root-ca", "root", &s.Root, nil, true},
		{"brand-ca", "brand", &s.Brand, nil, true},
		{"cardholder-ca", "cca", &s.Cardholder.Authority, &s.Cardholder.IssuingCA, false},
		{"merchant-ca", "mca", &s.Merchant.Authority, &s.Merchant, false},
		{"payment-ca", "pca", &s.Payment.Authority, &s.Payment, true},
	}
}

// newKey is a key to be made.
type newKey struct {
	ca      string
	label   string
	purpose Purpose
	typ     KeyType
}

// id names a key within a ceremony.
func (k newKey) id() string { return k.ca + "/" + k.label }

// keys lists what a CA's token will hold.
func (s *Spec) keys(c ca) []newKey {
	list := []newKey{{c.name, LabelCertSign, CertSign, c.CertSign.Type}}
	if c.Authority == &s.Root {
		list = append(list, newKey{c.name, LabelNextRoot, CertSign, c.CertSign.Type})
	}
	if c.issuing != nil {
		list = append(list, newKey{c.name, LabelSign, Sign, c.issuing.Sign.Type},
			newKey{c.name, LabelKeyExchange, KeyExchange, c.issuing.KeyExchange.Type})
	}
	if c.issuing == &s.Cardholder.IssuingCA {
		list = append(list, newKey{c.name, LabelPANMAC, MAC, s.Cardholder.PANMAC.Type})
	}
	return list
}

// check tells everything that is wrong with the values of the file, one by one and with each other.
func (s *Spec) check() error {
	var errs []error
	fail := func(where, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", where, fmt.Sprintf(format, args...)))
	}
	if s.Name == "" {
		fail("ceremony", "want a name for the transcript")
	}
	if s.Output == "" || !filepath.IsAbs(s.Output) {
		fail("output", "want the absolute path of a directory")
	}
	if s.BrandID == "" || strings.Contains(s.BrandID, ":") {
		fail("brand-id", "want the name of the brand, without a product")
	}
	if s.BCIValidity.isZero() {
		fail("bci-validity", "missing")
	}
	tokens := make(map[string]string)
	for _, c := range s.cas() {
		if other, taken := tokens[c.Token]; taken {
			fail(c.name+".token", "is the token of %s: each CA has its own", other)
		}
		tokens[c.Token] = c.name
		c.check(fail)
	}
	if s.Root.Subject.Unit != "" {
		fail("root-ca.subject.unit", "a root has none")
	}
	if s.Cardholder.PANMAC.Type != HMACSHA256 {
		fail("cardholder-ca.pan-mac.type", "want %s", HMACSHA256)
	}
	return errors.Join(errs...)
}

func (c ca) check(fail func(where, format string, args ...any)) {
	if c.Token == "" {
		fail(c.name+".token", "missing")
	}
	if c.crls && c.CRLValidity.isZero() {
		fail(c.name+".crl-validity", "missing")
	}
	if !c.crls && !c.CRLValidity.isZero() {
		fail(c.name+".crl-validity", "this CA issues no CRL")
	}
	c.CertSign.check(c.name+".cert-sign", fail)
	if c.issuing == nil {
		return
	}
	c.issuing.Sign.check(c.name+".sign", fail)
	c.issuing.KeyExchange.check(c.name+".key-exchange", fail, RSA2048, RSA3072, RSA4096)
}

func (k SignKey) check(where string, fail func(where, format string, args ...any)) {
	k.Key.check(where, fail, ECP256, ECP384, RSA2048, RSA3072, RSA4096)
	if k.SigningPeriod.isZero() {
		fail(where+".signing-period", "missing")
	} else if epoch := time.Unix(0, 0); k.SigningPeriod.after(epoch).After(k.Validity.after(epoch)) {
		fail(where+".signing-period", "%v is longer than the validity of %v", k.SigningPeriod, k.Validity)
	}
}

func (k Key) check(where string, fail func(where, format string, args ...any), types ...KeyType) {
	known := false
	for _, t := range types {
		known = known || t == k.Type
	}
	if !known {
		fail(where+".type", "%q is not one of %v", k.Type, types)
	}
	if k.Validity.isZero() {
		fail(where+".validity", "missing")
	}
}
