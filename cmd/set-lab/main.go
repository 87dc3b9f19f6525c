// Set-lab runs the whole world of a purchase on one machine: the CAs, the issuing bank, the payment
// gateway, the merchant and a cardholder with a card, each in a process of its own, with keys in SoftHSM
// tokens and on a virtual card behind a private pcscd.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
)

func main() { cli.Main(newApp()) }

func newApp() *urfave.App {
	dir := &urfave.StringFlag{Name: "dir", Usage: "`DIRECTORY` of the lab (default: setkit/COMMAND in the user's cache, where COMMAND is demo, or lab for up, down and ui)"}
	bin := &urfave.StringFlag{Name: "bin", Usage: "`DIRECTORY` of the other commands (default: this one's)"}
	return &urfave.App{
		Name:  "set-lab",
		Usage: "the whole world of a purchase on one machine",
		Commands: []*urfave.Command{
			{
				Name:  "demo",
				Usage: "make a fresh world, buy something in it, show the receipt, and stop it",
				Description: "Everything from the key ceremony to clearing, each step announced. The exit code is\n" +
					"that of the purchase: 0 approved, 1 declined. An older world in the same directory is\n" +
					"stopped and removed. What the parties said to each other stays in its folder trace, which\n" +
					"set-inspect trace draws.\n\nExample: set-lab demo --item telescope",
				Flags: []urfave.Flag{
					dir, bin,
					&urfave.StringFlag{Name: "item", Value: "atlas", Usage: "`ITEM` of the catalogue to buy"},
					&urfave.IntFlag{Name: "quantity", Value: 1, Usage: "how many `N` of it"},
					&urfave.BoolFlag{Name: "keep", Usage: "leave the world running, with the pages of set-lab ui; its addresses are shown, set-lab down stops it"},
				},
				Action: demo,
			},
			{
				Name:  "up",
				Usage: "make a fresh world and leave it running",
				Description: "Says where the shop and the card are, and how to run the parties' commands. A world in the\n" +
					"same directory that no longer runs is removed. What the parties say to each other is recorded in\n" +
					"its folder trace, which set-inspect trace draws.\n\nExample: set-lab up --ui --dir /tmp/lab",
				Flags: []urfave.Flag{
					dir, bin,
					&urfave.BoolFlag{Name: "ui", Usage: "also serve the pages of set-lab ui, as one of the world's processes"},
				},
				Action: up,
			},
			{
				Name:        "down",
				Usage:       "stop the world; what its parties stored stays in its directory",
				Description: "Example: set-lab down --dir /tmp/lab",
				Flags:       []urfave.Flag{dir},
				Action:      down,
			},
			uiCommand(dir),
			recordCommand(dir),
		},
	}
}

// place gives the directories that the flags name.
func place(c *urfave.Context, name string) (dir, bin string, err error) {
	if c.Args().Present() {
		return "", "", cli.Usage(fmt.Errorf("unexpected argument %q", c.Args().First()))
	}
	if dir = c.String("dir"); dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", "", cli.Usage(fmt.Errorf("no place for the lab: %w; name one with --dir", err))
		}
		dir = filepath.Join(cache, "setkit", name)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", "", err
	}
	if bin = c.String("bin"); bin == "" {
		exe, err := os.Executable()
		if err != nil {
			return "", "", err
		}
		bin = filepath.Dir(exe)
	}
	bin, err = filepath.Abs(bin)
	return dir, bin, err
}

// complete refuses a folder that lacks one of the commands that a world runs.
func complete(bin string) error {
	for _, name := range []string{"set-hsm", "set-ca", "set-issuer", "set-gateway", "set-merchant", "set-card", "set-wallet", "set-inspect", "set-lab"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			return cli.Usage(fmt.Errorf("no %s in %s: run make build, or name the folder of the commands with --bin", name, bin))
		}
	}
	return nil
}

func up(c *urfave.Context) error {
	dir, bin, err := place(c, "lab")
	if err != nil {
		return err
	}
	if w, err := openWorld(dir, bin); err == nil && w.running() > 0 {
		return cli.Usage(fmt.Errorf("a world runs in %s: stop it with set-lab down --dir %s, or name another directory", dir, dir))
	}
	w, err := newWorld(dir, bin)
	if err != nil {
		return err
	}
	if err := w.make(c.Context, c.App.Writer); err != nil {
		return errors.Join(err, w.stop())
	}
	if c.Bool("ui") {
		if err := w.startUI(c.Context); err != nil {
			return errors.Join(err, w.stop())
		}
	}
	return w.introduce(c.App.Writer)
}

func down(c *urfave.Context) error {
	dir, bin, err := place(c, "lab")
	if err != nil {
		return err
	}
	w, err := openWorld(dir, bin)
	if errors.Is(err, fs.ErrNotExist) {
		return cli.Usage(fmt.Errorf("there is no lab in %s", dir))
	}
	if err != nil {
		return err
	}
	n := w.running()
	if err := w.stop(); err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "stopped %d processes; %s stays\n", n, dir)
	return nil
}
