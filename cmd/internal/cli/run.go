// Package cli is what the commands share: exit codes, configuration files, PIN sources, logging and
// output.
//
// A command is a urfave App handed to [Main]; its tests hand the same App to [Run], in their own
// process and as often in parallel as they like, with a fresh App for every run.
package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	urfave "github.com/urfave/cli/v2"
)

// Exit codes of every command.
const (
	exitDone    = 0
	exitRefused = 1 // refused or failed
	exitUsage   = 2 // wrong usage
	exitDevice  = 3 // an HSM, card or reader is not available
	exitPeer    = 4 // the other party is not available
)

// exitError gives an error the exit code that it deserves.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// Usage marks err as the caller's mistake: exit code 2. Usage(nil) is nil.
func Usage(err error) error { return withCode(exitUsage, err) }

// Device marks err as a device that is not available (card, reader): exit code 3. An error that
// has a method Unavailable that returns true has that code by itself. Device(nil) is nil.
func Device(err error) error { return withCode(exitDevice, err) }

// Peer marks err as another party that is not available: exit code 4. Peer(nil) is nil.
func Peer(err error) error { return withCode(exitPeer, err) }

func withCode(code int, err error) error {
	if err == nil {
		return nil
	}
	return &exitError{code, err}
}

// errDone ends a run that has nothing left to do, such as --version.
var errDone = errors.New("done")

// Main runs app with the process's arguments and streams, and exits. SIGINT and SIGTERM end the
// context that the command sees; a second signal ends the process. Before anything reads a secret,
// the process is made one whose memory nobody can look into; where that fails, it says so and goes on.
func Main(app *urfave.App) {
	if err := harden(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: warning: %v\n", app.Name, err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(Run(ctx, app, os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// Run runs app once with args, whose first element is the program's name, and returns the exit code.
// An error is printed once, on stderr. App is changed by the run and cannot be run again.
func Run(ctx context.Context, app *urfave.App, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	out := &heldWriter{to: stdout}
	prepare(app, out)
	app.Reader, app.Writer, app.ErrWriter = stdin, out, stderr
	err := app.RunContext(ctx, args)
	if errors.Is(err, errDone) {
		err = nil
	}
	code := ExitCode(err)
	if code == exitDevice && ctx.Err() != nil {
		code = exitRefused // the user has stopped waiting for a device: that says nothing of the device
	}
	if code == exitUsage {
		out.to = stderr // urfave explains itself before it fails
	}
	if ferr := out.release(); err == nil && ferr != nil {
		err, code = fmt.Errorf("write output: %w", ferr), exitRefused
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: error: %v\n", app.Name, err)
	}
	return code
}

// ExitCode is the exit code of a command that ends with err.
func ExitCode(err error) int {
	if err == nil {
		return exitDone
	}
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	if unavailable(err) {
		return exitDevice
	}
	// urfave has no exported type for this one.
	if strings.HasPrefix(err.Error(), "Required flag") {
		return exitUsage
	}
	return exitRefused
}

// unavailable reports whether err, or an error that it wraps, says that a device is not available. It
// asks by a method, so that commands without HSMs need not be linked with what reaches them.
func unavailable(err error) bool {
	if e, ok := err.(interface{ Unavailable() bool }); ok && e.Unavailable() {
		return true
	}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		return unavailable(e.Unwrap())
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(e.Unwrap(), unavailable)
	}
	return false
}

// prepare makes app fit for Run. Help and version flags are the app's own, because urfave shares one
// of each between all apps of a process and writes to them while it parses.
func prepare(app *urfave.App, out *heldWriter) {
	if app.Version == "" {
		app.Version = version()
	}
	app.HideHelp, app.HideVersion = true, true
	app.Flags = append(app.Flags, helpFlag(), &urfave.BoolFlag{
		Name: "version", Usage: "print the version", DisableDefaultText: true,
		Action: func(c *urfave.Context, _ bool) error {
			fmt.Fprintf(c.App.Writer, "%s %s\n", c.App.Name, c.App.Version)
			return errDone
		},
	})
	app.EnableBashCompletion = true
	app.Commands = append(app.Commands, completionCommand(app.Name))
	app.ExitErrHandler = func(*urfave.Context, error) {} // Run alone decides how the process ends
	app.OnUsageError = onUsageError(app.Name)
	app.Action = action(app.Name, app.Action, len(app.Commands) > 0, out)
	prepareCommands(app.Name, app.Commands, out)
}

func prepareCommands(path string, commands []*urfave.Command, out *heldWriter) {
	for _, c := range commands {
		name := path + " " + c.Name
		c.HideHelp = true
		c.Flags = append(c.Flags, helpFlag())
		for _, f := range c.Flags {
			if b, ok := f.(*urfave.BoolFlag); ok {
				b.DisableDefaultText = true // everybody knows
			}
		}
		c.OnUsageError = onUsageError(name)
		c.Action = action(name, c.Action, len(c.Subcommands) > 0, out)
		prepareCommands(name, c.Subcommands, out)
	}
}

func helpFlag() urfave.Flag {
	return &urfave.BoolFlag{Name: "help", Aliases: []string{"h"}, Usage: "show help", DisableDefaultText: true}
}

func onUsageError(command string) urfave.OnUsageErrorFunc {
	return func(_ *urfave.Context, err error, _ bool) error {
		if name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: "); ok {
			err = fmt.Errorf("there is no flag --%s", strings.TrimLeft(name, "-"))
		}
		return Usage(fmt.Errorf("%w: see %s --help", err, command))
	}
}

// action wraps the action of the command called name: what it writes goes out at once, and a group
// of commands without an action of its own wants one of them named.
func action(name string, act urfave.ActionFunc, group bool, out *heldWriter) urfave.ActionFunc {
	return func(c *urfave.Context) error {
		if act == nil && group {
			if c.Args().Present() {
				return Usage(fmt.Errorf("%s has no command %q: see %s --help", name, c.Args().First(), name))
			}
			return Usage(fmt.Errorf("%s needs a command: see %s --help", name, name))
		}
		if act == nil {
			return fmt.Errorf("%s does nothing yet", name)
		}
		if err := out.release(); err != nil {
			return fmt.Errorf("write output: %w", err)
		}
		return act(c)
	}
}

// heldWriter keeps what is written until it is released, and passes the rest on. Urfave prints help
// to the standard output before it says that a flag is missing; there it would end up in pipes.
type heldWriter struct {
	to       io.Writer
	held     bytes.Buffer
	released bool
}

func (w *heldWriter) Write(p []byte) (int, error) {
	if w.released {
		return w.to.Write(p)
	}
	return w.held.Write(p)
}

func (w *heldWriter) release() error {
	if w.released {
		return nil
	}
	w.released = true
	_, err := w.held.WriteTo(w.to)
	return err
}

// version is the module's version, or the commit of a build from a work tree.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" {
		v = "(devel)"
	}
	return v + " " + info.GoVersion
}
