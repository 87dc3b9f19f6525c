package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/smartcard/pcsc"
	"github.com/setkit/setkit/smartcard/virtual"
)

// insertTimeout is how long PC/SC may take to notice a card.
const insertTimeout = 20 * time.Second

func emulateCommand() *urfave.Command {
	return &urfave.Command{
		Name:  "emulate",
		Usage: "a PIV card in software, in a virtual reader, until interrupted",
		Description: "Starts a private pcscd with a virtual reader and puts a factory-fresh card into it:\n" +
			"PIN 123456, PUK 12345678. Programs reach it with the environment variable that is\n" +
			"printed. The line \"ready\" says that the card can be used. The card's contents\n" +
			"are gone when the command ends.\n\n" +
			"Example: set-card emulate --dir /tmp/card",
		Flags: []urfave.Flag{
			&urfave.StringFlag{Name: "dir", Usage: "`DIRECTORY` for the private pcscd and its socket, pcscd.comm (default: a temporary one)"},
			&urfave.StringFlag{Name: "vpcd", Usage: "put the card into the vpcd reader at `HOST:PORT` instead of starting a pcscd"},
		},
		Action: func(c *urfave.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			if c.IsSet("dir") && c.IsSet("vpcd") {
				return cli.Usage(errors.New("--dir and --vpcd exclude each other"))
			}
			if addr := c.String("vpcd"); addr != "" {
				return cli.Device(emulateAt(c, addr, ""))
			}
			return cli.Device(emulatePrivately(c))
		},
	}
}

// emulatePrivately starts a pcscd, which ends with this process.
func emulatePrivately(c *urfave.Context) (err error) {
	dir := c.String("dir")
	if dir == "" {
		if dir, err = os.MkdirTemp("", "set-card-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	host, err := virtual.StartHost(c.Context, virtual.HostConfig{Dir: dir, Readers: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Stop()) }()
	fmt.Fprintf(c.App.Writer, "PCSCLITE_CSOCK_NAME=%s\n", host.Socket)
	// For our own look at the reader. This process uses no other pcscd.
	if err := os.Setenv("PCSCLITE_CSOCK_NAME", host.Socket); err != nil {
		return err
	}
	return emulateAt(c, host.Readers[0].Addr, host.Readers[0].Name)
}

// emulateAt puts a card into the reader at addr and keeps it there until the
// context ends. If the reader's name is known it waits for PC/SC to see the card.
func emulateAt(c *urfave.Context, addr, reader string) error {
	card := virtual.NewCard()
	plugged, err := virtual.Plug(c.Context, addr, card)
	if err != nil {
		return err
	}
	defer plugged.Unplug()
	if reader != "" {
		ctx, cancel := context.WithTimeout(c.Context, insertTimeout)
		defer cancel()
		if _, err := pcsc.Wait(ctx, reader); err != nil {
			return err
		}
		fmt.Fprintf(c.App.Writer, "reader: %s\n", reader)
	}
	fmt.Fprintf(c.App.Writer, "serial: %d\nready\n", card.Serial())
	<-plugged.Done()
	if c.Context.Err() == nil {
		return fmt.Errorf("the reader at %s is gone: has its pcscd ended?", addr)
	}
	return nil
}
