package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	urfave "github.com/urfave/cli/v2"
)

func testApp() *urfave.App {
	fail := func(wrap func(error) error) urfave.ActionFunc {
		return func(c *urfave.Context) error {
			fmt.Fprintln(c.App.Writer, "working")
			return fmt.Errorf("open shop: %w", wrap(errors.New("it broke")))
		}
	}
	same := func(err error) error { return err }
	return &urfave.App{
		Name: "set-x", Version: "v1.2.3", Usage: "test commands",
		Commands: []*urfave.Command{
			{Name: "ok", Action: func(c *urfave.Context) error { fmt.Fprintln(c.App.Writer, "fine"); return nil }},
			{Name: "need", Usage: "needs a flag", Flags: []urfave.Flag{&urfave.StringFlag{Name: "config", Required: true}},
				Action: func(c *urfave.Context) error { return nil }},
			{Name: "fail", Action: fail(same)},
			{Name: "usage", Action: fail(Usage)},
			{Name: "device", Action: fail(Device)},
			{Name: "peer", Action: fail(Peer)},
			{Name: "keys", Subcommands: []*urfave.Command{
				{Name: "list", Action: func(c *urfave.Context) error { fmt.Fprintln(c.App.Writer, "k1"); return nil }},
			}},
			{Name: "echo", Action: func(c *urfave.Context) error {
				var line string
				_, err := fmt.Fscanln(c.App.Reader, &line)
				fmt.Fprintln(c.App.Writer, line)
				return err
			}},
		},
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	tests := []struct {
		args           string
		code           int
		stdout, stderr string // exact
		inStderr       string
		inStdout       string
	}{
		{args: "ok", stdout: "fine\n"},
		{args: "keys list", stdout: "k1\n"},
		{args: "echo", stdout: "word\n"},
		{args: "--version", stdout: "set-x v1.2.3\n"},
		{args: "--help", inStdout: "needs a flag"},
		{args: "need --help", inStdout: "--config"},
		{args: "keys --help", inStdout: "list"},
		{args: "fail", code: 1, stdout: "working\n", stderr: "set-x: error: open shop: it broke\n"},
		{args: "usage", code: 2, stdout: "working\n", stderr: "set-x: error: open shop: it broke\n"},
		{args: "device", code: 3, stdout: "working\n", stderr: "set-x: error: open shop: it broke\n"},
		{args: "peer", code: 4, stdout: "working\n", stderr: "set-x: error: open shop: it broke\n"},
		{args: "need", code: 2, inStderr: "set-x: error: Required flag \"config\" not set\n"},
		{args: "ok --nosuch", code: 2, inStderr: "set-x: error: there is no flag --nosuch: see set-x ok --help\n"},
		{args: "--nosuch", code: 2, inStderr: "set-x: error: there is no flag --nosuch: see set-x --help\n"},
		{args: "keys list --nosuch=1", code: 2, inStderr: "set-x: error: there is no flag --nosuch: see set-x keys list --help\n"},
		{args: "nosuch", code: 2, stderr: "set-x: error: set-x has no command \"nosuch\": see set-x --help\n"},
		{args: "keys nosuch", code: 2, stderr: "set-x: error: set-x keys has no command \"nosuch\": see set-x keys --help\n"},
		{args: "keys", code: 2, stderr: "set-x: error: set-x keys needs a command: see set-x keys --help\n"},
		{args: "completion fish", inStdout: "complete -c set-x -f -n"},
		{args: "completion", code: 2, stderr: "set-x: error: name one shell: bash, fish, zsh\n"},
		{args: "completion csh", code: 2, stderr: "set-x: error: name one shell: bash, fish, zsh\n"},
		{args: "", code: 2, stderr: "set-x: error: set-x needs a command: see set-x --help\n"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			args := append([]string{"set-x"}, strings.Fields(tt.args)...)
			code := Run(t.Context(), testApp(), args, strings.NewReader("word\n"), &stdout, &stderr)
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if tt.inStdout == "" && stdout.String() != tt.stdout {
				t.Errorf("stdout %q, want %q", stdout.String(), tt.stdout)
			}
			if tt.inStderr == "" && stderr.String() != tt.stderr {
				t.Errorf("stderr %q, want %q", stderr.String(), tt.stderr)
			}
			if !strings.Contains(stdout.String(), tt.inStdout) {
				t.Errorf("stdout %q lacks %q", stdout.String(), tt.inStdout)
			}
			if !strings.Contains(stderr.String(), tt.inStderr) {
				t.Errorf("stderr %q lacks %q", stderr.String(), tt.inStderr)
			}
		})
	}
}

// Whoever stops waiting for a device learns nothing of the device.
func TestRunStopped(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	app := &urfave.App{Name: "set-x", Action: func(c *urfave.Context) error {
		cancel()
		return Device(c.Context.Err())
	}}
	if code := Run(ctx, app, []string{"set-x"}, nil, &bytes.Buffer{}, &bytes.Buffer{}); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("pipe is closed") }

func TestRunReportsLostOutput(t *testing.T) {
	t.Parallel()
	var stderr bytes.Buffer
	if code := Run(t.Context(), testApp(), []string{"set-x", "--version"}, nil, brokenWriter{}, &stderr); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if want := "set-x: error: write output: pipe is closed\n"; stderr.String() != want {
		t.Errorf("stderr %q, want %q", stderr.String(), want)
	}
}

func TestRunPassesContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan struct{})
	app := &urfave.App{Name: "set-x", Action: func(c *urfave.Context) error {
		close(started)
		<-c.Context.Done()
		return nil
	}}
	var wg sync.WaitGroup
	wg.Go(func() {
		if code := Run(ctx, app, []string{"set-x"}, nil, &bytes.Buffer{}, &bytes.Buffer{}); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
	})
	<-started
	cancel()
	wg.Wait()
}

func TestExitWrappersKeepNil(t *testing.T) {
	t.Parallel()
	for _, wrap := range []func(error) error{Usage, Device, Peer} {
		if err := wrap(nil); err != nil {
			t.Errorf("got %v, want nil", err)
		}
	}
}
