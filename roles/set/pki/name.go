package pki

import (
	"bytes"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// RootName is the organization of every root certificate.
const RootName = "SET Root"

// Bounds of name attributes, in characters.
const (
	brandSizeMax = 40
	attrSizeMax  = 64
)

// Name is a subject name (SET §6.2), its attributes in the order of the fields, one to each RDN. Names
// are compared by their encodings.
type Name struct {
	Country    string // C: ISO 3166 alpha-2 code of the institution
	Brand      string // O: BrandName or BrandName:Product; RootName for a root
	Unit       string // OU: the institution, or a CA's description; optional for a brand CA, absent for a root
	CardName   string // second OU, cardholder only, optional: promotional name of the card
	CommonName string // CN: unique cardholder ID, merchant's name, gateway ID; optional for a CA
}

type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

// rdnSET is a SET: encoding/asn1 goes by the end of the type's name.
type rdnSET []attribute

func (n Name) marshal() ([]byte, error) {
	var rdns []rdnSET
	add := func(id asn1.ObjectIdentifier, value string) {
		if value == "" {
			return
		}
		tag := asn1.TagUTF8String
		if isPrintableString(value) {
			tag = asn1.TagPrintableString
		}
		rdns = append(rdns, rdnSET{{id, asn1.RawValue{Tag: tag, Bytes: []byte(value)}}})
	}
	add(oidCountry, n.Country)
	add(oidOrganization, n.Brand)
	add(oidUnit, n.Unit)
	add(oidUnit, n.CardName)
	add(oidCommonName, n.CommonName)
	return asn1.Marshal(rdns)
}

func parseName(raw []byte) (n Name, err error) {
	var rdns []rdnSET
	if rest, err := asn1.Unmarshal(raw, &rdns); err != nil || len(rest) > 0 {
		return n, errors.New("malformed name")
	}
	if again, err := asn1.Marshal(rdns); err != nil || !bytes.Equal(again, raw) {
		return n, errors.New("name not in its distinguished encoding")
	}
	fields := []struct {
		id    asn1.ObjectIdentifier
		value *string
	}{{oidCountry, &n.Country}, {oidOrganization, &n.Brand}, {oidUnit, &n.Unit}, {oidUnit, &n.CardName}, {oidCommonName, &n.CommonName}}
	for _, rdn := range rdns {
		if len(rdn) != 1 {
			return n, errors.New("name with several attributes in one RDN")
		}
		for len(fields) > 0 && !fields[0].id.Equal(rdn[0].Type) {
			fields = fields[1:]
		}
		if len(fields) == 0 {
			return n, fmt.Errorf("name attribute %v is unknown, repeated or out of order", rdn[0].Type)
		}
		if *fields[0].value, err = attributeText(rdn[0].Value); err != nil {
			return n, fmt.Errorf("name attribute %v: %w", rdn[0].Type, err)
		}
		fields = fields[1:]
	}
	return n, nil
}

func attributeText(v asn1.RawValue) (string, error) {
	s := string(v.Bytes)
	switch {
	case v.Class != asn1.ClassUniversal || v.IsCompound:
		return "", errors.New("not a string")
	case v.Tag == asn1.TagPrintableString:
		if !isPrintableString(s) {
			return "", errors.New("malformed PrintableString")
		}
	case v.Tag != asn1.TagUTF8String:
		return "", fmt.Errorf("string with tag %d, want PrintableString or UTF8String", v.Tag)
	}
	if s == "" {
		return "", errors.New("empty")
	}
	return s, nil
}

// check holds the name against what a holder of type t must have.
func (n Name) check(t Type) error {
	if len(n.Country) != 2 || n.Country[0] < 'A' || n.Country[0] > 'Z' || n.Country[1] < 'A' || n.Country[1] > 'Z' {
		return errors.New("country is not an ISO 3166 code of two capital letters")
	}
	for _, a := range []struct {
		name, value    string
		max            int
		required, none bool
	}{
		{"brand", n.Brand, brandSizeMax, true, false},
		{"unit", n.Unit, attrSizeMax, t != BCA && t != RCA, t == RCA},
		{"card name", n.CardName, attrSizeMax, false, t != Card},
		{"common name", n.CommonName, attrSizeMax, t&endEntity != 0, false},
	} {
		switch size := utf8.RuneCountInString(a.value); {
		case size == 0 && a.required:
			return fmt.Errorf("name of a %v certificate without %s", t, a.name)
		case size > 0 && a.none:
			return fmt.Errorf("name of a %v certificate with a %s", t, a.name)
		case size > a.max:
			return fmt.Errorf("%s has %d characters, at most %d are allowed", a.name, size, a.max)
		}
		if !isDisplayable(a.value) {
			return fmt.Errorf("%s has a character that cannot be displayed", a.name)
		}
	}
	if (t == RCA) != (n.Brand == RootName) {
		return fmt.Errorf("brand %q in a certificate of type %v", n.Brand, t)
	}
	if id, err := base64.StdEncoding.Strict().DecodeString(n.CommonName); t == Card && (err != nil || len(id) != uniqueIDSize) {
		return errors.New("common name of a card certificate is not a unique cardholder ID")
	}
	return nil
}

func isPrintableString(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(" '()+,-./:=?", c) >= 0) {
			return false
		}
	}
	return true
}

// isDisplayable refuses control and formatting characters: names are shown to people, who decide by them.
func isDisplayable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// sameBrand compares two brand identifiers (SET §2.4): the name without regard to case, the product
// exactly when both carry one.
func sameBrand(a, b string) bool {
	nameA, productA, _ := strings.Cut(a, ":")
	nameB, productB, _ := strings.Cut(b, ":")
	return strings.EqualFold(nameA, nameB) && (productA == productB || productA == "" || productB == "")
}

// brandUnder tells whether a CA of the brand parent may certify child: its own brand, or a product of
// it when the CA itself is not confined to one.
func brandUnder(child, parent string) bool {
	_, productChild, _ := strings.Cut(child, ":")
	_, productParent, _ := strings.Cut(parent, ":")
	return sameBrand(child, parent) && (productParent == "" || productChild == productParent)
}
