package ceremony

import (
	"fmt"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

// Span is a length of time in whole years or days, written 6y or 90d.
type Span struct{ years, days int }

// spanYearsMax bounds a Span.
const spanYearsMax = 50

// parseSpan reads a Span.
func parseSpan(text string) (Span, error) {
	digits, unit := text, ""
	if n := len(digits); n > 0 {
		digits, unit = digits[:n-1], digits[n-1:]
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != digits {
		return Span{}, fmt.Errorf("length of time %q: want a number of years or days, such as 6y or 90d", text)
	}
	switch {
	case unit == "y" && n <= spanYearsMax:
		return Span{years: int(n)}, nil
	case unit == "d" && n <= spanYearsMax*365:
		return Span{days: int(n)}, nil
	}
	return Span{}, fmt.Errorf("length of time %q: want a number of years or days, such as 6y or 90d, and at most %d years", text, spanYearsMax)
}

// UnmarshalYAML reads a Span; its errors name the line.
func (s *Span) UnmarshalYAML(n *yaml.Node) (err error) {
	if *s, err = parseSpan(n.Value); err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	return nil
}

func (s Span) String() string {
	if s.years > 0 {
		return strconv.Itoa(s.years) + "y"
	}
	return strconv.Itoa(s.days) + "d"
}

func (s Span) after(t time.Time) time.Time { return t.AddDate(s.years, 0, s.days) }

// longerThan compares two spans as they are from any day on.
func (s Span) longerThan(o Span) bool {
	epoch := time.Unix(0, 0).UTC()
	return s.after(epoch).After(o.after(epoch))
}

// whole cuts a time to what a certificate carries.
func whole(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }
