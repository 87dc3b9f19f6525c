package main

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
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

// Who stops a command that makes a key learns that the key may be there.
func TestGenerateStopped(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("stop it"))
	app := newApp()
	var stdout, stderr bytes.Buffer
	code := cli.Run(ctx, app, []string{"set-hsm", "keys", "generate", "--token", tk.URI, "--label", "k", "--purpose", "sign", "--type", "ec-p256"}, nil, &stdout, &stderr)
	if want := "set-hsm: error: stopped before the token was open: stop it\n"; code != 1 || stderr.String() != want {
		t.Errorf("exit code %d, %q; want 1, %q", code, stderr.String(), want)
	}
	c := urfave.NewContext(app, nil, &urfave.Context{Context: ctx})
	err := adviseOnKey(c, hsm.ErrUnavailable)
	if err == nil || !strings.Contains(err.Error(), "stop it: the token may make the key") || errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("got %v, want that the key may be made", err)
	}
}
