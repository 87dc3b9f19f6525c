package wallet

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/setkit/setkit/roles/set/pki"
)

// Printable makes text of a peer fit for a terminal: control and invisible formatting characters are
// taken out, line breaks kept. What is not UTF-8 is read as ISO 8859-1 (SET §8.3).
func Printable(b []byte) string {
	text := string(b)
	if !utf8.Valid(b) {
		runes := make([]rune, len(b))
		for i, c := range b {
			runes[i] = rune(c)
		}
		text = string(runes)
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', unicode.IsPrint(r):
			return r
		case r == '\t':
			return ' '
		}
		return -1
	}, text)
}

// printableLine is Printable in one line.
func printableLine(s string) string {
	return strings.Join(strings.Fields(Printable([]byte(s))), " ")
}

// merchantNames picks the merchant's names in the cardholder's language, or else the first.
func merchantNames(m *pki.MerchantData, language string) (name, place string) {
	if len(m.Names) == 0 {
		return "", ""
	}
	n := m.Names[0]
	for _, other := range m.Names {
		if strings.EqualFold(other.Language, language) {
			n = other
			break
		}
	}
	var parts []string
	for _, p := range []string{n.City, n.StateProvince, n.CountryName} {
		if p = printableLine(p); p != "" {
			parts = append(parts, p)
		}
	}
	return printableLine(n.Name), strings.Join(parts, ", ")
}
