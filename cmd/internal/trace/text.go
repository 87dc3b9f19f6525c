package trace

import (
	"io"
	"strings"
	"unicode/utf8"

	"github.com/setkit/setkit/cmd/internal/cli"
)

// Measures of the text, in columns.
const (
	textTimes   = 10 // before the first lane
	textCardGap = 14
	textGap     = 27
	textManyGap = 15 // where there are more than textLanes
	textLanes   = 5
	textWidth   = 118
)

// sheet is a text that is being drawn.
type sheet struct {
	View
	b    strings.Builder
	x    map[string]int
	many bool // the lanes are too narrow for text between them
}

// Text draws the sequence of the messages with characters, at most 120 columns wide.
func (v View) Text(w io.Writer) error {
	arrows := v.arrows()
	s := &sheet{View: v, x: map[string]int{}}
	there := present(arrows)
	gap := textGap
	if s.many = len(there) > textLanes; s.many {
		gap = textManyGap
	}
	x := textTimes
	for _, l := range there {
		party := lanes[l].party
		s.x[party] = x
		if x += gap; party == Card {
			x += textCardGap - gap
		}
	}
	s.b.WriteString(v.heading() + "\n\n")
	s.titles(there)
	for _, a := range arrows {
		s.arrow(a)
	}
	s.b.WriteString("\n" + cli.Printable(v.footer()) + "\n[x] encrypted   [ ] not encrypted\n")
	_, err := io.WriteString(w, s.b.String())
	return err
}

// line writes a line: the lanes, and over them text that starts at some columns.
func (s *sheet) line(over map[int]string) {
	row := make([]rune, 0, 120)
	put := func(at int, text string) {
		for len(row) < at+utf8.RuneCountInString(text) {
			row = append(row, ' ')
		}
		copy(row[at:], []rune(text))
	}
	for _, x := range s.x {
		put(x, "|")
	}
	for at, text := range over {
		put(at, text)
	}
	s.b.WriteString(strings.TrimRight(string(row), " ") + "\n")
}

func (s *sheet) titles(there []int) {
	var titles, below []rune
	for _, l := range there {
		lane := lanes[l]
		for i, text := range []string{lane.title, s.below(lane)} {
			row := []*[]rune{&titles, &below}[i]
			at := max(s.x[lane.party]-utf8.RuneCountInString(text)/2, 0)
			for len(*row) < at {
				*row = append(*row, ' ')
			}
			*row = append(*row, []rune(text)...)
		}
	}
	s.b.WriteString(string(titles) + "\n" + string(below) + "\n")
	s.line(nil)
}

func (s *sheet) arrow(a Arrow) {
	if ph, ok := phaseOf(a); ok {
		s.line(nil)
		s.b.WriteString("== " + ph.title + "\n")
		s.b.WriteString("   " + ph.text + "\n")
		s.line(nil)
	}
	if a.Card {
		s.line(map[int]string{s.x[Card]: shaft(s.x[Wallet]-s.x[Card], -1, "PIN, hash")})
		s.line(map[int]string{s.x[Card]: shaft(s.x[Wallet]-s.x[Card], 1, "signature")})
	}
	from, to := s.x[a.From], s.x[a.To]
	left, length, direction := from, to-from, 1
	if to < from {
		left, length, direction = to, from-to, -1
	}
	label := a.Type
	if a.Words != "" && len(a.Type)+len(a.Words)+8 < length {
		label += ": " + a.Words
	}
	over := map[int]string{left: shaft(length, direction, cli.Printable(label))}
	if !a.Unseen {
		over[0] = "+" + shortly(a.After)
	}
	s.line(over)
	for _, p := range a.Parts {
		mark := "[ ] "
		if p.Locked {
			mark = "[x] "
		}
		s.wrapped(left+2, length-3, mark, p.What)
		s.wrapped(left+2, length-3, "    ", p.Line(nil))
	}
	if !a.Unseen {
		s.wrapped(left+2, length-3, "    ", a.Size())
	}
	s.line(nil)
}

// shaft is an arrow with a label in its middle, from one lane to another.
func shaft(length, direction int, label string) string {
	if room := length - 5; utf8.RuneCountInString(label) > room {
		label = string([]rune(label)[:max(room, 0)])
	}
	dashes := length - 1 - utf8.RuneCountInString(label) - 2
	body := strings.Repeat("-", dashes/2) + " " + label + " " + strings.Repeat("-", dashes-dashes/2)
	if direction > 0 {
		return "|" + body[:len(body)-1] + ">|"
	}
	return "|<" + body[1:] + "|"
}

// wrapped writes text between two lanes, in as many lines as it takes; over them, where they are narrow.
func (s *sheet) wrapped(at, room int, lead, text string) {
	if s.many {
		row := lead + cli.Printable(text)
		s.b.WriteString(strings.Repeat(" ", max(0, min(at, textWidth-utf8.RuneCountInString(row)))) + row + "\n")
		return
	}
	row := lead
	for word := range strings.FieldsSeq(cli.Printable(text)) {
		if row != lead && utf8.RuneCountInString(row)+1+utf8.RuneCountInString(word) > room {
			s.line(map[int]string{at: row})
			row = "    "
		}
		if strings.TrimLeft(row, " ") != "" && !strings.HasSuffix(row, " ") {
			row += " "
		}
		row += word
	}
	s.line(map[int]string{at: row})
}
