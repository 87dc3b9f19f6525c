package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/describe"
	"github.com/setkit/setkit/cmd/internal/trace"
)

func traceCommand() *urfave.Command {
	return &urfave.Command{
		Name:      "trace",
		Usage:     "draw the messages of a purchase that set-lab recorded",
		ArgsUsage: "DIR",
		Description: "DIR is the folder trace of a lab. The parties are lanes and the messages arrows, with who can read which\n" +
			"part. Drawn is the latest purchase, unless --xid or --all says otherwise. The page of --html also shows\n" +
			"every field of every message; it needs no script.\n\n" +
			"Example: set-inspect trace --html -o purchase.html ~/.cache/setkit/demo/trace",
		Flags: []urfave.Flag{
			&urfave.BoolFlag{Name: "text", Usage: "draw with characters (default)"},
			&urfave.BoolFlag{Name: "svg", Usage: "draw an SVG image"},
			&urfave.BoolFlag{Name: "html", Usage: "make a page with the image and every message's fields"},
			&urfave.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write to `FILE` (default: standard output)"},
			&urfave.StringFlag{Name: "xid", Usage: "draw the purchase with this `XID`"},
			&urfave.BoolFlag{Name: "all", Usage: "draw everything that was recorded"},
		},
		Action: drawTrace,
	}
}

func drawTrace(c *urfave.Context) error {
	if c.NArg() > 1 && strings.HasPrefix(c.Args().Get(1), "-") { // DIR came first
		args := append([]string{"trace"}, c.Args().Tail()...)
		for _, name := range c.LocalFlagNames() {
			args = append(args, fmt.Sprintf("--%s=%v", name, c.Value(name)))
		}
		return c.Command.Run(c.Lineage()[1], append(args, c.Args().First())...)
	}
	if c.NArg() != 1 {
		return cli.Usage(errors.New("want one DIR: see set-inspect trace --help"))
	}
	draw := trace.View.Text
	switch {
	case countSet(c, "text", "svg", "html") > 1 || countSet(c, "all", "xid") > 1:
		return cli.Usage(errors.New("want one of --text, --svg and --html, and one of --xid and --all"))
	case c.Bool("svg"):
		draw = trace.View.SVG
	case c.Bool("html"):
		draw = trace.View.HTML
	}
	r, err := trace.Read(c.Args().First(), new(describe.Describer))
	if err != nil {
		return err
	}
	messages := r.Messages
	if !c.Bool("all") {
		if messages, err = r.Purchase(c.String("xid")); err != nil {
			return fmt.Errorf("%s: %w", c.Args().First(), err)
		}
	}
	if len(messages) == 0 {
		return fmt.Errorf("%s: nothing was recorded", c.Args().First())
	}
	if name := c.String("output"); name != "" {
		return toFile(name, func(w io.Writer) error { return draw(trace.View{Messages: messages}, w) })
	}
	return draw(trace.View{Messages: messages}, c.App.Writer)
}

// countSet counts the flags that are set.
func countSet(c *urfave.Context, names ...string) (n int) {
	for _, name := range names {
		if c.IsSet(name) {
			n++
		}
	}
	return n
}

func toFile(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return cli.Usage(err)
	}
	return errors.Join(write(f), f.Close())
}
