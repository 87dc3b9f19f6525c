package bundle

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
)

var (
	languageForm = regexp.MustCompile(`^[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*$`) // RFC 1766 §2
	platformForm = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9]+$`)
)

// check holds the content against the rules that its encoding does not show, and gives its root.
func (b *Bundle) check() (*pki.Certificate, error) {
	if b.Version != version {
		return nil, fmt.Errorf("version %d, where this wallet knows version %d: a newer wallet is needed", b.Version, version)
	}
	if !b.NotBefore.Before(b.NotAfter) {
		return nil, errors.New("validity ends before it starts")
	}
	if err := checkLine(string(b.Bank.Name)); err != nil {
		return nil, fmt.Errorf("name of the bank: %w", err)
	}
	if err := b.Bank.Logo.check(); err != nil {
		return nil, fmt.Errorf("logo of the bank: %w", err)
	}
	if err := checkBrands(b.Brands); err != nil {
		return nil, err
	}
	if err := checkPolicies(b.Policies); err != nil {
		return nil, err
	}
	if err := checkPrograms(b.Programs); err != nil {
		return nil, err
	}
	return b.root()
}

// root decodes the root certificate.
func (b *Bundle) root() (*pki.Certificate, error) {
	root, err := pki.ParseCertificate(b.Root)
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	if root.Type != pki.RCA {
		return nil, fmt.Errorf("root: %v is not a root", root)
	}
	if err := root.SignedBy(root); err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	if b.RootKeyHash != sha256.Sum256(root.X509.RawSubjectPublicKeyInfo) {
		return nil, errors.New("rootKeyHash is not that of the root's key")
	}
	return root, nil
}

func checkBrands(brands []Brand) error {
	for i, br := range brands {
		if err := checkLine(string(br.ID)); err != nil {
			return fmt.Errorf("brand %d: %w", i+1, err)
		}
		for _, other := range brands[:i] {
			if br.ID.Matches(other.ID) {
				return fmt.Errorf("brand %s twice", br.ID)
			}
		}
		if err := checkURL(string(br.CA)); err != nil {
			return fmt.Errorf("cardholder CA of brand %s: %w", br.ID, err)
		}
		if err := br.Logo.check(); err != nil {
			return fmt.Errorf("logo of brand %s: %w", br.ID, err)
		}
	}
	return nil
}

// checkURL refuses what is not the plain address of a server. That it may be http is SET's: the CA's
// messages are signed and encrypted themselves.
func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("not an http or https URL")
	case u.Hostname() == "" || u.User != nil || u.Fragment != "":
		return errors.New("URL without a host, or with a user or a fragment")
	}
	return nil
}

func checkPolicies(policies []Policy) error {
	for i, p := range policies {
		if !languageForm.MatchString(string(p.Language)) {
			return fmt.Errorf("policy %d: language is no tag as RFC 1766 has them", i+1)
		}
		for _, other := range policies[:i] {
			if strings.EqualFold(string(p.Language), string(other.Language)) {
				return fmt.Errorf("policy in language %s twice", p.Language)
			}
		}
		if strings.ContainsFunc(string(p.Text), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
			return fmt.Errorf("policy in language %s: a character that cannot be shown", p.Language)
		}
	}
	return nil
}

func checkPrograms(programs []Program) error {
	for i, p := range programs {
		if !platformForm.MatchString(string(p.Platform)) {
			return fmt.Errorf("program %d: platform is not of the form linux/amd64", i+1)
		}
		for _, other := range programs[:i] {
			if p.Platform == other.Platform {
				return fmt.Errorf("program for %s twice", p.Platform)
			}
		}
		if err := checkLine(string(p.Version)); err != nil {
			return fmt.Errorf("version of the program for %s: %w", p.Platform, err)
		}
	}
	return nil
}

// checkLine refuses text that could look like another, or do something to a terminal.
func checkLine(text string) error {
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return errors.New("a character that cannot be shown")
	}
	if text != strings.Join(strings.Fields(text), " ") {
		return errors.New("spaces at an end, or several together")
	}
	return nil
}

// Brand finds the brand in the bundle, or gives nil.
func (b *Bundle) Brand(id set.BrandID) *Brand {
	for i := range b.Brands {
		if b.Brands[i].ID.Matches(id) {
			return &b.Brands[i]
		}
	}
	return nil
}
