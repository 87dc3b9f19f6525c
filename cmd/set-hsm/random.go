package main

import (
	"encoding/hex"
	"fmt"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/hsm"
	urfave "github.com/urfave/cli/v2"
)

// randomBytesMax is what a token gives at a time.
const randomBytesMax = 1 << 20

func randomCommand() *urfave.Command {
	return &urfave.Command{
		Name: "random", Usage: "print random bytes from the token",
		Description: "They are printed as they are, unless --hex or --json is given.\n\n" +
			"Example: set-hsm random " + exampleToken + " --bytes 32 --hex",
		Action: random,
		Flags: []urfave.Flag{
			tokenFlag(),
			&urfave.IntFlag{Name: "bytes", Required: true, Usage: "`NUMBER` of bytes, 1 to 1048576"},
			&urfave.BoolFlag{Name: "hex", Usage: "print hexadecimal"},
			jsonFlag(),
		},
	}
}

func random(c *urfave.Context) error {
	n := c.Int("bytes")
	if n < 1 || n > randomBytesMax {
		return cli.Usage(fmt.Errorf("--bytes is %d: want 1 to %d", n, randomBytesMax))
	}
	return withToken(c, func(token *hsm.Token) error {
		b, err := token.Random(c.Context, n)
		if err != nil {
			return err
		}
		defer clear(b)
		switch {
		case c.Bool("json"):
			return cli.PrintJSON(c.App.Writer, map[string]any{"bytes": n, "hex": hex.EncodeToString(b)})
		case c.Bool("hex"):
			_, err = fmt.Fprintf(c.App.Writer, "%x\n", b)
		default:
			_, err = c.App.Writer.Write(b)
		}
		return err
	})
}
