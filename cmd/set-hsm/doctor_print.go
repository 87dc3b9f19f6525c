package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/setkit/setkit/cmd/internal/cli"
)

// leadColumns are before what is said of an object.
const leadColumns = 9

// print writes the findings for a person, the worst first. What is well is only named, unless all is to
// be told.
func (d *diagnosis) print(w io.Writer, all bool) error {
	findings := slices.Clone(d.Findings)
	slices.SortStableFunc(findings, func(a, b finding) int { return int(b.Severity - a.Severity) })
	p := printer{w: w}
	for len(findings) > 0 && (all || findings[0].Severity > severityOK) {
		n := 1
		for n < len(findings) && sameRemedy(findings[0], findings[n]) {
			n++
		}
		p.group(findings[:n])
		findings = findings[n:]
	}
	p.well(findings)
	counts := make([]int, len(severityNames))
	for _, f := range d.Findings {
		counts[f.Severity]++
	}
	p.line("", "")
	p.line("", fmt.Sprintf("%s, %s, %s, %d ok", counted(counts[severityError], "error"), counted(counts[severityWarning], "warning"),
		counted(counts[severityNote], "note"), counts[severityOK]))
	return p.err
}

// sameRemedy reports whether two findings are of one object and mended by the same commands.
func sameRemedy(a, b finding) bool {
	return len(a.Commands) > 0 && a.Severity == b.Severity && a.Check == b.Check && a.Object == b.Object && slices.Equal(a.Commands, b.Commands)
}

// printer keeps the first error.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(lead, text string) {
	if p.err == nil {
		p.err = cli.Line(p.w, lead, text)
	}
}

// group prints findings that are mended by the same commands.
func (p *printer) group(findings []finding) {
	said := map[string]bool{}
	for _, f := range findings {
		p.line(fmt.Sprintf("%-*s", leadColumns, f.Severity), f.Check+" "+f.Object+": "+f.Finding)
	}
	for _, f := range findings {
		if f.Fix != "" && !said[f.Fix] {
			said[f.Fix] = true
			p.line(strings.Repeat(" ", leadColumns)+"-> ", f.Fix)
		}
	}
	for _, command := range findings[0].Commands { // in one piece, to be copied
		if p.err == nil {
			_, p.err = fmt.Fprintln(p.w, strings.Repeat(" ", leadColumns+2), cli.Printable(command))
		}
	}
}

// well names what nothing is wrong with, a line for each check.
func (p *printer) well(findings []finding) {
	var checks []string
	objects := map[string][]string{}
	for _, f := range findings {
		if objects[f.Check] == nil {
			checks = append(checks, f.Check)
		}
		objects[f.Check] = append(objects[f.Check], f.Object)
	}
	for _, check := range checks {
		p.line(fmt.Sprintf("%-*s", leadColumns, severityNames[severityOK]), check+": "+strings.Join(objects[check], ", "))
	}
}

// counted is n of a thing, such as 2 errors.
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
