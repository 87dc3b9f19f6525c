package trace

import (
	_ "embed"
	"html/template"
	"slices"
	"strings"
)

//go:embed fragments.html
var fragmentText string

// fragments are parts of pages. Their functions are those of a View.
var fragments = template.Must(template.New("").Funcs(View{}.functions()).Parse(fragmentText))

func (v View) functions() template.FuncMap {
	return template.FuncMap{
		"say": v.Tongue.Say, "title": v.Title, "name": Name, "lower": lowerFirst, "link": v.Link,
		"line":        func(p Part) string { return p.Line(v.Tongue) },
		"certificate": func(s Signature) string { return s.Certificate(v.Tongue) },
		"ruled":       func(party string) bool { return v.Wallet && (party == Gateway || party == Issuer) },
	}
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }

func (v View) fragment(name string, data any) (template.HTML, error) {
	t, err := fragments.Clone()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = t.Funcs(v.functions()).ExecuteTemplate(&b, name, data)
	return template.HTML(b.String()), err
}

// Overview is the part of a page that tells who saw what, and what signed it, and leads to every message.
// picture is put where the sequence belongs. It needs no script.
func (v View) Overview(picture template.HTML) (template.HTML, error) {
	return v.fragment("overview", struct {
		View
		Sights     Sights
		Signatures []Signature
		Picture    template.HTML
		Here       int
	}{v, v.WhoSaw(), v.Signatures(), picture, 0})
}

// Opened is the part of a page that opens a message, every field of it, and leads to the others; false if
// there is no message of that number.
func (v View) Opened(number int) (part template.HTML, found bool, err error) {
	at := slices.IndexFunc(v.Messages, func(m *Message) bool { return m.Number == number })
	if at < 0 {
		return "", false, nil
	}
	data := struct {
		View
		Arrow                Arrow
		Signatures           []Signature
		Fields               template.HTML
		Here, Previous, Next int // 0 where there is none
	}{View: v, Arrow: Arrows(v.Messages)[at], Here: number}
	if at > 0 {
		data.Previous = v.Messages[at-1].Number
	}
	if at+1 < len(v.Messages) {
		data.Next = v.Messages[at+1].Number
	}
	for _, s := range v.Signatures() {
		if s.Message == v.Messages[at] {
			data.Signatures = append(data.Signatures, s)
		}
	}
	data.Fields = template.HTML(strings.Replace(string(v.Messages[at].Node.HTML(v.Tongue)), "<details class", "<details open class", 1))
	part, err = v.fragment("opened", data)
	return part, true, err
}
