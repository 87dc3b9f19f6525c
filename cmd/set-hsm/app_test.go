package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/setkit/setkit/cmd/internal/cli"
	urfave "github.com/urfave/cli/v2"
)

// Every command's help fits in a terminal and has an example.
func TestHelp(t *testing.T) {
	t.Parallel()
	var walk func(path []string, commands []*urfave.Command)
	walk = func(path []string, commands []*urfave.Command) {
		var out, stderr bytes.Buffer
		if code := cli.Run(t.Context(), newApp(), append(slices.Clone(path), "--help"), nil, &out, &stderr); code != 0 {
			t.Fatalf("%v --help: exit code %d\n%s", path, code, stderr.String())
		}
		for line := range strings.Lines(out.String()) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 120 {
				t.Errorf("%v --help has a line of %d columns:\n%s", path, n, line)
			}
		}
		if !strings.Contains(out.String(), "Example") {
			t.Errorf("%v --help has no example:\n%s", path, out.String())
		}
		for _, c := range commands {
			walk(append(slices.Clone(path), c.Name), c.Subcommands)
		}
	}
	walk([]string{"set-hsm"}, newApp().Commands)
}
