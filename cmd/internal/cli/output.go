package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"
)

// lineColumnsMax is how wide text is made that can be broken into lines.
const lineColumnsMax = 110

// groupSize is how many digits people compare at a time.
const groupSize = 4

// NewLogger returns a logger that writes one JSON object a line.
func NewLogger(w io.Writer, level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
}

// PrintJSON writes v as indented JSON and a newline.
func PrintJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// Table writes rows under header in aligned columns. Cells may come from devices and peers, so
// whatever a terminal would act upon is shown as a question mark.
func Table(w io.Writer, header []string, rows [][]string) error {
	var text bytes.Buffer
	tw := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			if i > 0 {
				io.WriteString(tw, "\t")
			}
			io.WriteString(tw, Printable(cell))
		}
		io.WriteString(tw, "\n")
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	var trimmed bytes.Buffer // of the spaces after a last cell that is empty
	for line := range bytes.Lines(text.Bytes()) {
		trimmed.Write(bytes.TrimRight(line, " \n"))
		trimmed.WriteByte('\n')
	}
	_, err := trimmed.WriteTo(w)
	return err
}

// Line writes lead, text and a newline, with the rule of [Table] for what comes from devices and peers.
// Text that does not fit in lineColumnsMax columns goes on below itself.
func Line(w io.Writer, lead, text string) error {
	indent := utf8.RuneCountInString(lead)
	out, column := lead, indent
	for word := range strings.FieldsSeq(Printable(text)) {
		length := utf8.RuneCountInString(word)
		switch {
		case column == indent:
		case column+1+length > lineColumnsMax:
			out, column = out+"\n"+strings.Repeat(" ", indent), indent
		default:
			out, column = out+" ", column+1
		}
		out, column = out+word, column+length
	}
	_, err := io.WriteString(w, out+"\n")
	return err
}

// Grouped is a number of hexadecimal digits in groups of four, for people who compare it with another.
func Grouped(digits string) string {
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && i%groupSize == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(d)
	}
	return b.String()
}

// Printable is text with the rule of [Table], for what is printed in another form.
func Printable(text string) string { return strings.Map(printable, text) }

func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return '?'
}
