package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	urfave "github.com/urfave/cli/v2"
	"golang.org/x/term"
)

const confirmationBytesMax = 1 << 10 // of a name that is typed

// Confirm has the person say that what is to be deleted: by the flag --confirm, or by typing its name on a
// terminal. kind is what the name is, such as "label".
func Confirm(c *urfave.Context, what, kind, name string) error {
	if c.IsSet("confirm") {
		if c.String("confirm") != name {
			return Usage(fmt.Errorf("--confirm is not the %s %q: nothing was deleted", kind, name))
		}
		return nil
	}
	f, ok := c.App.Reader.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return Usage(fmt.Errorf("cannot ask for confirmation: the standard input is not a terminal: give --confirm %s", strings.ToUpper(kind)))
	}
	fmt.Fprintf(c.App.ErrWriter, "This deletes %s, for ever.\nType its %s to go on: ", what, kind)
	line, err := ReadLine(c.Context, f)
	if err != nil {
		return fmt.Errorf("read the confirmation: %w", err)
	}
	if line != name {
		return fmt.Errorf("the %s is %q and not %q: nothing was deleted", kind, name, line)
	}
	return nil
}

// ReadLine reads a line from a terminal. A read cannot be cancelled: if ctx ends, it goes on until the
// end of the process.
func ReadLine(ctx context.Context, from io.Reader) (string, error) {
	type answer struct {
		line string
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(io.LimitReader(from, confirmationBytesMax)).ReadString('\n')
		done <- answer{strings.TrimRight(line, "\r\n"), err}
	}()
	select {
	case a := <-done:
		return a.line, a.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}
