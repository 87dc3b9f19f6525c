package main

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strconv"
)

// Measures of the plot, in pixels.
const (
	svgColumns = 3
	svgBarW    = 84
	svgPanelH  = 190
	svgHead    = 60
	svgLine    = 20
	svgBarsH   = 84 // the longest bar
	svgMargin  = 16
	svgBarsMin = 4 // a panel has room for
)

// svgStyle needs no font that a browser may not have.
const svgStyle = `text { font-family: sans-serif; font-size: 11px; fill: #222 }
.title { font-size: 18px; font-weight: bold }
.name { font-size: 13px; font-weight: bold }
.quiet { fill: #666 }
.bar { fill: #35608f }
.mid { text-anchor: middle }
`

// writeSVG draws a panel for each mechanism, with a bar for each number of callers, and below them what
// the roles could do.
func (r *benchReport) writeSVG(w io.Writer) error {
	var panels [][]benchResult
	for i, m := range r.Results {
		if i == 0 || r.Results[i-1].Mechanism != m.Mechanism {
			panels = append(panels, nil)
		}
		panels[len(panels)-1] = append(panels[len(panels)-1], m)
	}
	lines := (len(panels) + svgColumns - 1) / svgColumns
	height := svgHead + lines*svgPanelH + (len(r.Roles)+len(r.Unsupported)+2)*svgLine
	panelW := max(len(slices.MaxFunc(panels, func(a, b []benchResult) int { return len(a) - len(b) })), svgBarsMin)*svgBarW + 2*svgMargin
	width := svgColumns * panelW
	s := &svg{}
	s.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img">`+"\n", width, height, width, height)
	s.printf("<style>\n%s</style>\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n", svgStyle)
	s.text(svgMargin, 26, "title", fmt.Sprintf("Token %q of %s, %s", r.Token.Label, r.Token.Manufacturer, r.Token.Model))
	s.text(svgMargin, 46, "quiet", "operations a second by number of callers; below, the median and the 99th percentile of a caller's time in milliseconds")
	for i, panel := range panels {
		s.panel(i%svgColumns*panelW+svgMargin, svgHead+i/svgColumns*svgPanelH, panel)
	}
	y := svgHead + lines*svgPanelH + svgLine
	for _, b := range r.Roles {
		rate := b.rate()
		if len(b.Missing) == 0 {
			rate += " " + b.Unit + "s a second"
		}
		s.text(svgMargin, y, "name", b.Role+": "+rate)
		s.text(svgMargin+panelW, y, "quiet", b.text())
		y += svgLine
	}
	for _, u := range r.Unsupported {
		s.text(svgMargin, y, "quiet", fmt.Sprintf("%s is not supported: the token does not have %s", u.Mechanism, u.Lacks))
		y += svgLine
	}
	s.printf("</svg>\n")
	_, err := s.WriteTo(w)
	return err
}

// svg is a drawing that is being made.
type svg struct{ bytes.Buffer }

func (s *svg) printf(format string, args ...any) { fmt.Fprintf(&s.Buffer, format, args...) }

// text writes what may come from a device.
func (s *svg) text(x, y int, class, text string) {
	s.printf(`<text x="%d" y="%d" class="%s">`, x, y, class)
	xml.EscapeText(&s.Buffer, []byte(text)) // a Buffer takes everything
	s.printf("</text>\n")
}

// panel draws the measurements of one mechanism.
func (s *svg) panel(x, y int, results []benchResult) {
	s.text(x, y+svgLine, "name", results[0].Mechanism)
	best := slices.MaxFunc(results, func(a, b benchResult) int { return cmp.Compare(a.PerSecond, b.PerSecond) }).PerSecond
	floor := y + svgPanelH - 3*svgLine
	for i, m := range results {
		h := int(svgBarsH*m.PerSecond/best + 0.5)
		left, middle := x+i*svgBarW, x+i*svgBarW+svgBarW/2
		s.printf(`<rect class="bar" x="%d" y="%d" width="%d" height="%d"/>`+"\n", left+4, floor-h, svgBarW-8, h)
		s.text(middle, floor-h-4, "mid", threeDigits(m.PerSecond))
		s.text(middle, floor+14, "mid", strconv.Itoa(m.Callers))
		s.text(middle, floor+28, "mid quiet", threeDigits(m.P50)+"; "+threeDigits(m.P99))
	}
}
