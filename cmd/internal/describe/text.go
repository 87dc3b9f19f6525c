package describe

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/setkit/setkit/cmd/internal/cli"
)

const (
	columnsMax    = 120
	meaningColumn = 74 // at which the meanings start, where there is room
	octetsShown   = 16 // of a long octet string
	nameMax       = 24 // columns that a name may take before values move for it alone
)

// Text writes n as indented lines of at most 120 columns. Octet strings are shortened unless full.
func (n *Node) Text(out io.Writer, full bool) error {
	p := &printer{full: full}
	p.node(n, 0, 0)
	_, err := io.WriteString(out, p.String())
	return err
}

type printer struct {
	strings.Builder
	full bool
}

// node prints n at a depth, its name in a column of some width.
func (p *printer) node(n *Node, depth, width int) {
	indent := strings.Repeat("  ", depth)
	name := cli.Printable(n.Name)
	if n.Kind == Fault {
		where := ""
		if n.Offset != nil {
			where = fmt.Sprintf(" at offset %d", *n.Offset)
		}
		p.wrapped(indent+"!! malformed"+where+": ", cli.Printable(n.Value))
		return
	}
	lead := indent + name
	text := p.valueText(n)
	if text != "" {
		lead += strings.Repeat(" ", max(width-utf8.RuneCountInString(name), 0)+2)
	}
	p.line(lead, text, cli.Printable(n.Meaning))
	inner := indent + "  "
	for _, s := range n.Signers {
		checked := ""
		if s.Checked != "" {
			checked = ": " + s.Checked
		}
		p.wrapped(inner+"* ", cli.Printable("signed by "+s.String()+checked))
	}
	if n.Recipient != nil {
		opened := ""
		if n.Opened {
			opened = ": opened"
		}
		p.wrapped(inner+"* ", cli.Printable("encrypted for "+n.Recipient.String()+opened))
	}
	width = 0
	for _, f := range n.Fields {
		if c := utf8.RuneCountInString(f.Name); c <= nameMax && f.Kind != Fault && p.valueText(f) != "" {
			width = max(width, c)
		}
	}
	for _, f := range n.Fields {
		p.node(f, depth+1, width)
	}
}

// valueText is what stands beside a name: the value, the type of a structure, or octets.
func (p *printer) valueText(n *Node) string {
	text := cli.Printable(strings.ReplaceAll(strings.ReplaceAll(n.Value, "\r\n", "\n"), "\n", " / "))
	switch {
	case n.Kind == Value && text == "":
		return `""`
	case n.Kind == Octets:
		octets := hex.EncodeToString(n.Octets)
		if len(n.Octets) > octetsShown && !p.full {
			octets = fmt.Sprintf("%s... %d octets", hex.EncodeToString(n.Octets[:octetsShown]), len(n.Octets))
		}
		if octets == "" {
			octets = "0 octets"
		}
		if n.Type != "" && n.Type != "OCTET STRING" {
			text = strings.TrimSpace(n.Type + " " + text)
		}
		return strings.TrimSpace(text + " " + octets)
	case n.Type != "" && n.Kind != Value && n.Kind != Masked && n.Kind != Certificate:
		return strings.TrimSpace(n.Type + " " + text)
	}
	return text
}

// line prints a name, its value and its meaning: the meaning in its column, or below when there is no room.
func (p *printer) line(lead, text, meaning string) {
	at := utf8.RuneCountInString(lead)
	used := at + utf8.RuneCountInString(text)
	switch {
	case meaning == "":
		p.wrapped(lead, text)
	case used+2 <= meaningColumn && meaningColumn+utf8.RuneCountInString(meaning) <= columnsMax:
		p.WriteString(lead + text + strings.Repeat(" ", meaningColumn-used) + meaning + "\n")
	case used+2+utf8.RuneCountInString(meaning) <= columnsMax:
		p.WriteString(lead + text + "  " + meaning + "\n")
	default:
		p.wrapped(lead, text)
		p.wrapped(strings.Repeat(" ", min(at, meaningColumn)), meaning)
	}
}

// wrapped prints text behind lead and goes on below itself where it is too long.
func (p *printer) wrapped(lead, text string) {
	indent := utf8.RuneCountInString(lead)
	if indent > columnsMax-20 {
		p.WriteString(strings.TrimRight(lead, " ") + "\n")
		indent = 8
		lead = strings.Repeat(" ", indent)
	}
	room := columnsMax - indent
	for {
		rest := ""
		if utf8.RuneCountInString(text) > room {
			runes := []rune(text)
			cut := room
			for i := room; i > room/2; i-- {
				if runes[i] == ' ' {
					cut = i
					break
				}
			}
			text, rest = string(runes[:cut]), strings.TrimLeft(string(runes[cut:]), " ")
		}
		p.WriteString(strings.TrimRight(lead+text, " ") + "\n")
		if rest == "" {
			return
		}
		lead, text = strings.Repeat(" ", indent), rest
	}
}
