package ceremony

import (
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/setkit/setkit/roles/set/pki"
)

var (
	fileName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)
	keyName  = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*/[a-z0-9][a-z0-9-]*$`)
	hexText  = regexp.MustCompile(`^([0-9a-f]{2})+$`)
)

// checker collects what is wrong with a plan. It walks through the steps in their order and knows what
// those before have made.
type checker struct {
	*Plan
	errs  []error
	keys  map[string]*step
	files map[string]kind // what a file holds, by name; empty for an input nothing is known of yet
}

func (c *checker) fail(line int, format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("line %d: %s", line, fmt.Sprintf(format, args...)))
}

// check tells everything that is wrong with the values of the file, one by one and with each other.
func (p *Plan) check() error {
	c := &checker{Plan: p, keys: make(map[string]*step), files: make(map[string]kind)}
	p.keyOf = make(map[string]string)
	c.checkHead()
	for _, name := range []string{planFile, transcriptFile, readableFile, signatureFile} {
		c.files[name] = "reserved"
	}
	for _, in := range p.inputs {
		c.newFile(in.line, in.name, "")
		if raw, err := hex.DecodeString(in.sha256); err != nil || len(raw) != 32 || in.sha256 != strings.ToLower(in.sha256) {
			c.fail(in.line, "input %s: want the file's SHA-256, 64 hexadecimal digits", in.name)
		}
	}
	for _, st := range p.steps {
		c.checkStep(st)
	}
	c.checkUsed()
	for _, s := range p.subjects {
		if !s.used {
			c.fail(s.line, "no step makes anything for this subject")
		}
	}
	if p.transcriptSigner() == "" {
		c.fail(p.steps[0].line, "no key of the ceremony can sign its transcript: want one that signs")
	}
	slices.SortStableFunc(c.errs, func(a, b error) int { return lineOf(a) - lineOf(b) })
	return errors.Join(c.errs...)
}

// checkUsed refuses to take a key into use for nothing.
func (c *checker) checkUsed() {
	for _, k := range c.steps {
		used := slices.ContainsFunc(c.steps, func(st *step) bool {
			return !st.isKey() && slices.Contains([]string{st.Key, st.NextKey, c.signer(st)}, k.name)
		})
		if k.kind == use && !used {
			c.fail(k.line, "no step needs the key %s", k.name)
		}
	}
}

func lineOf(err error) (n int) {
	fmt.Sscanf(err.Error(), "line %d:", &n)
	return n
}

func (c *checker) checkHead() {
	if !isPrintable(c.name) {
		c.fail(c.lines["ceremony"], "ceremony: want a name for the transcript")
	}
	if strings.Contains(c.brand, ":") {
		c.fail(c.lines["brand"], "brand: want the name of the brand, without a product")
	}
	needsBrand := false
	for name, s := range c.subjects {
		for _, holder := range strings.Split(s.Holder, "+") {
			if holders[holder] == 0 {
				c.fail(s.line, "subject %s: holder %q is not root-ca, brand-ca, geopolitical-ca, cardholder-ca, merchant-ca or payment-ca (the last three can be joined by +)", name, holder)
			}
			s.typ |= holders[holder]
		}
		needsBrand = needsBrand || s.typ != pki.RCA
		if s.typ == pki.RCA && s.Unit != "" {
			c.fail(s.line, "subject %s: a root has no unit", name)
		}
	}
	if needsBrand != (c.brand != "") {
		c.fail(max(c.lines["brand"], c.lines["ceremony"]), "brand: needed if, and only if, a subject is below the root")
	}
	o := c.officers
	switch {
	case len(o.Names) > officersMax:
		c.fail(c.lines["officers"], "officers: %d names, at most %d", len(o.Names), officersMax)
	case len(o.Names) == 0 && o.Required != 0:
		c.fail(c.lines["officers"], "officers: %d required, and no names", o.Required)
	case len(o.Names) > 0 && (o.Required < 1 || o.Required > len(o.Names)):
		c.fail(c.lines["officers"], "officers: %d of %d required: want at least one, and at most all", o.Required, len(o.Names))
	}
	for i, name := range o.Names {
		if !isPrintable(name) || strings.Join(strings.Fields(name), " ") != name {
			c.fail(c.lines["officers"], "officers: name %q: want words with single spaces, at most %d bytes", name, nameSizeMax)
		}
		if slices.ContainsFunc(o.Names[:i], func(s string) bool { return strings.EqualFold(s, name) }) {
			c.fail(c.lines["officers"], "officers: %s twice", name)
		}
	}
}

func isPrintable(s string) bool {
	return s != "" && len(s) <= nameSizeMax && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

func (c *checker) newFile(line int, name string, k kind) {
	if !fileName.MatchString(name) || len(name) > nameSizeMax {
		c.fail(line, "file name %q: want small letters, digits, dots and hyphens, at most %d", name, nameSizeMax)
	}
	if old, taken := c.files[name]; taken && old == "reserved" {
		c.fail(line, "file name %s is the ceremony's own", name)
	} else if taken {
		c.fail(line, "file name %s twice", name)
	}
	c.files[name] = k
}

func (c *checker) checkStep(st *step) {
	switch {
	case st.isKey():
		c.checkKeyStep(st)
		return
	case st.kind == root:
		c.checkRoot(st)
	case st.kind == certificate:
		c.checkCertificate(st)
	case st.kind == cross:
		c.wantCertificate(st, st.Certificate)
		if id := c.keyOf[st.Certificate]; id != "" {
			c.keyOf[st.name] = id
		}
	case st.kind == request:
		c.checkSubject(st)
		if k := c.wantKey(st, st.Key); k != nil && !k.Purpose.signs() {
			c.fail(st.line, "%v: a key for %s cannot sign the request", st, k.Purpose)
		}
	case st.kind == crl || st.kind == bci:
		c.checkList(st)
	}
	if st.Issuer != "" && st.kind != root {
		c.wantIssuer(st)
	}
	if st.SigningPeriod != (Span{}) && st.SigningPeriod.longerThan(st.Validity) {
		c.fail(st.line, "%v: signing-period %v is longer than the validity of %v", st, st.SigningPeriod, st.Validity)
	}
	c.newFile(st.line, st.name, st.kind)
}

func (c *checker) checkKeyStep(st *step) {
	if !keyName.MatchString(st.name) || len(st.name) > nameSizeMax {
		c.fail(st.line, "key %q: want TOKEN/LABEL, small letters, digits and hyphens", st.name)
		return
	}
	if c.keys[st.name] != nil {
		c.fail(st.line, "key %s twice", st.name)
	}
	c.keys[st.name] = st
	if types, ok := keyTypes[st.Purpose]; !ok {
		c.fail(st.line, "key %s: purpose %q is not cert-sign, sign, key-exchange or mac", st.name, st.Purpose)
	} else if !slices.Contains(types, st.Type) {
		c.fail(st.line, "key %s: type %q is not one of %v", st.name, st.Type, types)
	}
	// A token has one attribute for all signing: the label keeps the two kinds apart.
	if prefix := strings.HasPrefix(st.label(), string(CertSign)); prefix != (st.Purpose == CertSign) {
		c.fail(st.line, "key %s: the labels of keys for cert-sign, and of no others, begin with cert-sign", st.name)
	}
	if st.Certificate == "" {
		return
	}
	if c.wantCertificate(st, st.Certificate); c.keyOf[st.Certificate] != "" {
		c.fail(st.line, "key %s: certificate %s is that of %s", st.name, st.Certificate, c.keyOf[st.Certificate])
	}
	c.keyOf[st.Certificate] = st.name
}

func (c *checker) checkRoot(st *step) {
	if s := c.checkSubject(st); s != nil && s.typ != pki.RCA {
		c.fail(st.line, "%v: subject %s is not a root", st, st.Subject)
	}
	c.wantPurpose(st, st.Key, CertSign)
	c.wantPurpose(st, st.NextKey, CertSign)
	if st.Key == st.NextKey {
		c.fail(st.line, "%v: the next key must be another one", st)
	}
	if st.Succeeds != "" {
		c.wantCertificate(st, st.Succeeds)
	}
	c.keyOf[st.name] = st.Key
}

func (c *checker) checkCertificate(st *step) {
	if s := c.checkSubject(st); s != nil && s.typ == pki.RCA {
		c.fail(st.line, "%v: subject %s is a root", st, st.Subject)
	}
	purpose := st.Purpose
	switch {
	case (st.Key == "") == (st.CSR == ""):
		c.fail(st.line, "%v: want one of key and csr", st)
		return
	case st.CSR != "" && keyTypes[st.Purpose] == nil || st.Purpose == MAC:
		c.fail(st.line, "%v: a certificate for a csr needs the purpose cert-sign, sign or key-exchange", st)
		return
	case st.CSR != "":
		if _, ok := c.files[st.CSR]; !ok || c.files[st.CSR] != "" && c.files[st.CSR] != request {
			c.fail(st.line, "%v: csr %s is neither an input nor made by a step before", st, st.CSR)
		} else {
			c.files[st.CSR] = request
		}
	case st.Purpose != "":
		c.fail(st.line, "%v: the purpose is that of the key", st)
	default:
		k := c.wantKey(st, st.Key)
		if k == nil {
			return
		}
		c.keyOf[st.name] = st.Key
		if purpose = k.Purpose; purpose == MAC {
			c.fail(st.line, "%v: a key for mac has no certificate", st)
		}
	}
	if (purpose == KeyExchange) != (st.SigningPeriod == Span{}) {
		c.fail(st.line, "%v: signing-period belongs to keys that sign, and to no others", st)
	}
}

func (c *checker) checkList(st *step) {
	if st.Number < 1 {
		c.fail(st.line, "%v: number %d: want 1 or more, and more than that of the list before", st, st.Number)
	}
	for i, r := range st.Revoked {
		if !hexText.MatchString(r.Serial) || len(r.Serial) > 40 || strings.HasPrefix(r.Serial, "00") {
			c.fail(st.line, "%v: serial number %q: want hexadecimal, two small digits for each octet", st, r.Serial)
		}
		if slices.ContainsFunc(st.Revoked[:i], func(o revoked) bool { return o.Serial == r.Serial }) {
			c.fail(st.line, "%v: serial number %s twice", st, r.Serial)
		}
		if at, err := time.Parse(time.RFC3339, r.Date); err != nil || date(at) != r.Date {
			c.fail(st.line, "%v: date %q: want the form 2026-06-15T12:00:00Z", st, r.Date)
		}
	}
	for i, name := range st.CRLs {
		if k, ok := c.files[name]; !ok || k != "" && k != crl {
			c.fail(st.line, "%v: %s is neither an input nor a CRL made by a step before", st, name)
		} else {
			c.files[name] = crl
		}
		if slices.Contains(st.CRLs[:i], name) {
			c.fail(st.line, "%v: %s twice", st, name)
		}
	}
}

func (c *checker) checkSubject(st *step) *subject {
	s := c.subjects[st.Subject]
	if s == nil {
		c.fail(st.line, "%v: no subject %q", st, st.Subject)
		return nil
	}
	s.used = true
	return s
}

func (c *checker) wantKey(st *step, id string) *step {
	if c.keys[id] == nil {
		c.fail(st.line, "%v: no step before generates or uses the key %q", st, id)
	}
	return c.keys[id]
}

func (c *checker) wantPurpose(st *step, id string, purpose Purpose) {
	if k := c.wantKey(st, id); k != nil && k.Purpose != purpose {
		c.fail(st.line, "%v: key %s is for %s, want %s", st, id, k.Purpose, purpose)
	}
}

// wantCertificate wants a file that is an input or a certificate made before.
func (c *checker) wantCertificate(st *step, name string) {
	switch k, ok := c.files[name]; {
	case !ok:
		c.fail(st.line, "%v: certificate %q is neither an input nor made by a step before", st, name)
	case k == "":
		c.files[name] = certificate
	case k != certificate && k != root && k != cross:
		c.fail(st.line, "%v: %s is not a certificate", st, name)
	}
}

func (c *checker) wantIssuer(st *step) {
	before := len(c.errs)
	if c.wantCertificate(st, st.Issuer); len(c.errs) > before {
		return
	}
	id := c.keyOf[st.Issuer]
	switch {
	case id == "":
		c.fail(st.line, "%v: no key of issuer %s: a step before must say use: TOKEN/LABEL with certificate: %s", st, st.Issuer, st.Issuer)
	case c.keys[id] != nil && c.keys[id].Purpose != CertSign:
		c.fail(st.line, "%v: the key of issuer %s is for %s", st, st.Issuer, c.keys[id].Purpose)
	}
}
