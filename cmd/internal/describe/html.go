package describe

import (
	"encoding/hex"
	"fmt"
	"html/template"
	"strings"
)

// HTML gives n as nested details elements, which open without a script. The classes are kind names. Names
// and values are SET's own in every language.
func (n *Node) HTML(t Tongue) template.HTML {
	var b strings.Builder
	n.html(&b, t)
	return template.HTML(b.String())
}

func (n *Node) html(b *strings.Builder, t Tongue) {
	esc := template.HTMLEscapeString
	text := n.Value
	if n.Kind == Octets {
		text = strings.TrimSpace(text + " " + hex.EncodeToString(n.Octets))
		if len(n.Octets) > octetsShown {
			text = strings.TrimSpace(fmt.Sprintf("%s %s... %d octets", n.Value, hex.EncodeToString(n.Octets[:octetsShown]), len(n.Octets)))
		}
	}
	if n.Offset != nil {
		text = fmt.Sprintf(t.Say("at offset %d: %s"), *n.Offset, text)
	}
	line := fmt.Sprintf(`<b>%s</b> <i>%s</i> <span>%s</span> <small>%s</small>`, esc(n.Name), esc(n.Type), esc(text), esc(t.Say(n.Meaning)))
	if len(n.Fields) == 0 && len(n.Signers) == 0 && n.Recipient == nil {
		fmt.Fprintf(b, "<div class=\"%s\">%s</div>\n", esc(string(n.Kind)), line)
		return
	}
	fmt.Fprintf(b, "<details class=\"%s\"><summary>%s</summary>\n", esc(string(n.Kind)), line)
	for _, s := range n.Signers {
		fmt.Fprintf(b, "<div class=\"by\">%s</div>\n", esc(fmt.Sprintf(t.Say("signed by %s: %s"), s.Text(t), t.Say(s.Checked))))
	}
	if n.Recipient != nil {
		fmt.Fprintf(b, "<div class=\"for\">%s</div>\n", esc(fmt.Sprintf(t.Say("encrypted for %s"), n.Recipient.Text(t))))
	}
	for _, f := range n.Fields {
		f.html(b, t)
	}
	b.WriteString("</details>\n")
}
