package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/merchant"
)

// waitingAfter is how long a command is silent before it says what it waits for.
const waitingAfter = 2 * time.Second

// howItWorks is a part of the help of every operation.
const howItWorks = "ORDER is a number as set-merchant orders lists it, or an order's id; flags stand before it. The server\n" +
	"(set-merchant serve) sends the request; this command waits for the outcome.\n\n" +
	"Exit code 0: done; 1: refused; 4: the gateway has not answered yet, the server goes on with it."

// operationFlags are those of every command that has the server ask the gateway for something.
func operationFlags(file urfave.Flag, more ...urfave.Flag) []urfave.Flag {
	return append([]urfave.Flag{
		file, jsonFlag(),
		&urfave.DurationFlag{Name: "wait", Value: time.Minute, Usage: "how long to wait for the outcome; 0 asks only"},
	}, more...)
}

func jsonFlag() urfave.Flag { return &urfave.BoolFlag{Name: "json", Usage: "print JSON"} }

// ask is what an operation asks the store for. minor is the amount of the flag, 0 without one.
type ask func(c *urfave.Context, s *merchant.Store, o *merchant.Order, minor int64) (*merchant.Operation, error)

// operationCommands are the commands on one order.
func operationCommands(file urfave.Flag) []*urfave.Command {
	amount := func(usage string, required bool) urfave.Flag {
		return &urfave.StringFlag{Name: "amount", Usage: usage + ", such as `10.50` in the order's currency", Required: required}
	}
	command := func(name, usage, text, example string, do ask, flags ...urfave.Flag) *urfave.Command {
		return &urfave.Command{
			Name: name, Usage: usage, ArgsUsage: "ORDER", Flags: operationFlags(file, flags...),
			Description: text + "\n\n" + howItWorks + "\n\nExample: set-merchant " + name + " --config merchant.yaml " + example,
			Action:      func(c *urfave.Context) error { return onOrder(c, do) },
		}
	}
	capture := command("capture", "capture what is authorized of an order", "What is left of an authorization after its capture is given up.", "--amount 10.50 1001",
		func(c *urfave.Context, s *merchant.Store, o *merchant.Order, minor int64) (*merchant.Operation, error) {
			return s.Capture(c.Context, time.Now(), o.ID, minor)
		}, amount("capture this much", false), &urfave.BoolFlag{Name: "all", Usage: "capture what is authorized of all orders, with as few requests as hold it"})
	one := capture.Action
	capture.ArgsUsage = "ORDER | --all"
	capture.Action = func(c *urfave.Context) error {
		if c.Bool("all") {
			return captureAll(c)
		}
		return one(c)
	}
	return []*urfave.Command{
		capture,
		command("void", "take back an order's capture, or else its authorization",
			"While the batch of a capture is open, the capture is undone: the order is authorized again. Of an order\n"+
				"that is authorized, all that is authorized is taken back.", "1001",
			func(c *urfave.Context, s *merchant.Store, o *merchant.Order, _ int64) (*merchant.Operation, error) {
				return s.Void(c.Context, time.Now(), o.ID)
			}),
		command("reverse", "lower what is authorized of an order", "To take all of it back, use void.", "--to 10.50 1001",
			func(c *urfave.Context, s *merchant.Store, o *merchant.Order, _ int64) (*merchant.Operation, error) {
				to, err := o.ParseAmount(c.String("to"))
				if err != nil {
					return nil, cli.Usage(err)
				}
				return s.Reverse(c.Context, time.Now(), o.ID, to)
			}, &urfave.StringFlag{Name: "to", Usage: "what stays authorized, such as `10.50` in the order's currency", Required: true}),
		command("refund", "give back what was captured of an order, or a part of it", "Without an amount, all that is left of it.", "--amount 10.50 1001",
			func(c *urfave.Context, s *merchant.Store, o *merchant.Order, minor int64) (*merchant.Operation, error) {
				return s.Refund(c.Context, time.Now(), o.ID, minor)
			}, amount("give back this much", false)),
		command("undo-refund", "take back the last refund of an order", "The refund is taken back as a whole.", "1001",
			func(c *urfave.Context, s *merchant.Store, o *merchant.Order, _ int64) (*merchant.Operation, error) {
				return s.UndoRefund(c.Context, time.Now(), o.ID)
			}),
		command("ship", "authorize one shipment of an order in several", "After the last shipment, or when all is authorized, no more can follow.", "--amount 10.50 1001",
			func(c *urfave.Context, s *merchant.Store, o *merchant.Order, minor int64) (*merchant.Operation, error) {
				return s.Ship(c.Context, time.Now(), o.ID, minor, c.Bool("last"))
			}, amount("what is shipped", true), &urfave.BoolFlag{Name: "last", Usage: "nothing more will be shipped"}),
		command("charge", "authorize the next instalment or recurring payment of an order", "It is refused before it is due, after the last day, and beyond the number agreed.", "1001",
			func(c *urfave.Context, s *merchant.Store, o *merchant.Order, _ int64) (*merchant.Operation, error) {
				return s.Charge(c.Context, time.Now(), o.ID)
			}),
	}
}

// onOrder has something done with the order that the command line names.
func onOrder(c *urfave.Context, do ask) error {
	if c.NArg() != 1 {
		return cli.Usage(fmt.Errorf("want one ORDER, after the flags: see %s --help", c.Command.FullName()))
	}
	return withStore(c, func(store *merchant.Store) error {
		order, err := store.FindOrder(c.Context, c.Args().First())
		if err != nil {
			return err
		}
		var minor int64
		if text := c.String("amount"); text != "" {
			if minor, err = order.ParseAmount(text); err != nil {
				return cli.Usage(err)
			}
		}
		op, err := do(c, store, order, minor)
		if err != nil {
			return err
		}
		return outcomes(c, store, op)
	})
}

func captureAll(c *urfave.Context) error {
	if c.Args().Present() || c.IsSet("amount") {
		return cli.Usage(errors.New("--all is of all orders, and of all that is authorized"))
	}
	return withStore(c, func(store *merchant.Store) error {
		ops, err := store.CaptureAll(c.Context, time.Now())
		if err != nil {
			return err
		}
		if len(ops) == 0 && !c.Bool("json") {
			_, err := fmt.Fprintln(c.App.Writer, "nothing is authorized that is not captured")
			return err
		}
		return outcomes(c, store, ops...)
	})
}

// outcomes waits for operations and prints what became of them.
func outcomes(c *urfave.Context, store *merchant.Store, asked ...*merchant.Operation) error {
	ops, err := await(c, store, asked)
	if c.Bool("json") {
		err = errors.Join(cli.PrintJSON(c.App.Writer, map[string]any{"operations": ops}), err)
		return verdict(ops, err)
	}
	var rows [][]string
	for _, op := range ops {
		for _, i := range op.Items {
			result := i.Code
			if result == "" {
				result = string(op.State)
			}
			rows = append(rows, []string{fmt.Sprint(i.Order), string(op.Kind), i.Total, result})
		}
	}
	return verdict(ops, errors.Join(cli.Table(c.App.Writer, []string{"ORDER", "OPERATION", "AMOUNT", "RESULT"}, rows), err))
}

// await waits for the outcome of operations, as far as the command line allows.
func await(c *urfave.Context, store *merchant.Store, asked []*merchant.Operation) (ops []*merchant.Operation, err error) {
	ops = []*merchant.Operation{}
	wait := c.Duration("wait")
	if wait <= 0 {
		return append(ops, asked...), nil
	}
	ctx, cancel := context.WithTimeout(c.Context, wait)
	defer cancel()
	defer time.AfterFunc(waitingAfter, func() { fmt.Fprintln(c.App.ErrWriter, "waiting for the gateway's answer") }).Stop()
	for _, op := range asked {
		now, waitErr := store.Await(ctx, op.ID)
		switch {
		case errors.Is(waitErr, context.DeadlineExceeded):
			err = cli.Peer(fmt.Errorf("no answer of the gateway in %v: set-merchant serve must run, and goes on with it; see set-merchant orders", wait))
		case waitErr != nil:
			return ops, waitErr
		}
		ops = append(ops, now)
	}
	return ops, err
}

// verdict tells what was refused.
func verdict(ops []*merchant.Operation, err error) error {
	var bad []string
	for _, op := range ops {
		switch op.State {
		case merchant.OperationRefused, merchant.OperationUnresolved:
			if op.Failure != "" {
				bad = append(bad, fmt.Sprintf("%s: %s", op.Kind, op.Failure))
			}
			for _, i := range op.Items {
				if op.Failure == "" && i.Refused {
					bad = append(bad, fmt.Sprintf("order %d: %s of %s: %s", i.Order, op.Kind, i.Total, i.Code))
				}
			}
		}
	}
	if len(bad) > 0 {
		err = errors.Join(fmt.Errorf("the gateway refused: %s", strings.Join(bad, "; ")), err)
	}
	return err
}
