package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
)

// An emulation listens at a socket in its directory, which only its user can
// open: one request, one answer, in JSON.
const (
	controlSocket   = "control"
	controlBytesMax = 1 << 16
	controlTimeout  = 2 * insertTimeout
	hangUpTimeout   = 5 * time.Second // for a client to say what it wants
)

// What can be asked of an emulation.
const (
	controlList   = "list"
	controlInsert = "insert"
	controlRemove = "remove"
	controlReset  = "reset"
)

type controlRequest struct {
	Do   string
	Card int
}

type controlAnswer struct {
	Error string
	Cards []bayStatus
}

func controlCommands() []*urfave.Command {
	list := controlCommand(controlList, "the cards of a running emulation", "", "list --dir /tmp/cards --json")
	list.Flags = append(list.Flags, jsonFlag())
	return []*urfave.Command{
		list,
		controlCommand(controlInsert, "put a card of a running emulation into its reader", "CARD", "insert --dir /tmp/cards 1"),
		controlCommand(controlRemove, "pull a card, whatever it is doing", "CARD", "remove --dir /tmp/cards 1"),
		controlCommand(controlReset, "reset a card, as another program could", "CARD", "reset --dir /tmp/cards 1"),
	}
}

func controlCommand(do, usage, arguments, example string) *urfave.Command {
	flag := &urfave.StringFlag{Name: "dir", Required: true, Usage: "`DIRECTORY` of the emulation"}
	return &urfave.Command{
		Name: do, Usage: usage, ArgsUsage: arguments,
		Description: "Example: set-card emulate " + example,
		Flags:       []urfave.Flag{flag},
		Action: func(c *urfave.Context) error {
			r := controlRequest{Do: do}
			switch {
			case arguments == "":
				if err := noArguments(c); err != nil {
					return err
				}
			case c.Args().Len() != 1:
				return cli.Usage(fmt.Errorf("%s wants the number of one card", do))
			default:
				var err error
				if r.Card, err = strconv.Atoi(c.Args().First()); err != nil {
					return cli.Usage(fmt.Errorf("card %q: want its number, as list shows it", c.Args().First()))
				}
			}
			return control(c, r)
		},
	}
}

// control asks an emulation and shows what list asks for.
func control(c *urfave.Context, r controlRequest) error {
	path := filepath.Join(c.String("dir"), controlSocket)
	dialer := net.Dialer{}
	conn, err := dialer.DialContext(c.Context, "unix", path)
	if err != nil {
		return cli.Device(fmt.Errorf("no emulation runs in %s: %w", c.String("dir"), err))
	}
	defer conn.Close()
	defer context.AfterFunc(c.Context, func() { conn.Close() })()
	conn.SetDeadline(time.Now().Add(controlTimeout))
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return cli.Device(err)
	}
	var answer controlAnswer
	if err := json.NewDecoder(io.LimitReader(conn, controlBytesMax)).Decode(&answer); err != nil {
		return cli.Device(fmt.Errorf("the emulation in %s does not answer: %w", c.String("dir"), err))
	}
	if answer.Error != "" {
		return errors.New(answer.Error)
	}
	if r.Do != controlList {
		return nil
	}
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, answer.Cards)
	}
	var rows [][]string
	for _, b := range answer.Cards {
		place := "pulled"
		if b.Inserted {
			place = "inserted"
		}
		rows = append(rows, []string{strconv.Itoa(b.Number), strconv.FormatUint(uint64(b.Serial), 10), place, b.Reader, b.State})
	}
	return cli.Table(c.App.Writer, []string{"CARD", "SERIAL", "STATE", "READER", "FILE"}, rows)
}

// serveControl answers requests at a socket until stop is called. Requests come
// one after the other.
func serveControl(ctx context.Context, path string, bays []*bay) (stop func(), err error) {
	// StartHost has made sure that no emulation lives in this directory.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		listener.Close()
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serveRequest(ctx, conn, bays)
		}
	}()
	return func() {
		listener.Close()
		<-done
	}, nil
}

func serveRequest(ctx context.Context, conn net.Conn, bays []*bay) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	conn.SetReadDeadline(time.Now().Add(hangUpTimeout))
	var r controlRequest
	var answer controlAnswer
	if err := json.NewDecoder(io.LimitReader(conn, controlBytesMax)).Decode(&r); err != nil {
		return // whoever it was is gone, or no set-card
	}
	if err := perform(ctx, r, bays); err != nil {
		answer.Error = err.Error()
	}
	for _, b := range bays {
		answer.Cards = append(answer.Cards, b.status())
	}
	conn.SetWriteDeadline(time.Now().Add(hangUpTimeout))
	_ = json.NewEncoder(conn).Encode(answer) // whoever asked may be gone
}

func perform(ctx context.Context, r controlRequest, bays []*bay) error {
	if r.Do == controlList {
		return nil
	}
	if r.Card < 1 || r.Card > len(bays) {
		return fmt.Errorf("there is no card %d, only 1 to %d", r.Card, len(bays))
	}
	b := bays[r.Card-1]
	switch r.Do {
	case controlInsert:
		return b.insert(ctx)
	case controlRemove:
		return b.remove(ctx)
	case controlReset:
		return b.reset(ctx)
	}
	return fmt.Errorf("%q cannot be done", r.Do)
}
