package main

import (
	"fmt"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/set"
)

// batchPage is how many items of a batch are asked for at once.
const batchPage = 100

func batchCommand(file urfave.Flag) *urfave.Command {
	command := func(op merchant.BatchOperation, usage, text, arguments string, flags ...urfave.Flag) *urfave.Command {
		name := string(op)
		return &urfave.Command{
			Name: name, Usage: usage,
			Flags: operationFlags(file, append(flags,
				&urfave.Int64Flag{Name: "batch", Usage: "`NUMBER` of the batch"},
				&urfave.StringFlag{Name: "brand", Usage: "`BRAND` of the gateway; the merchant's own without it"})...),
			Description: text + "\n\nExample: set-merchant batch " + name + " --config merchant.yaml" + arguments,
			Action:      func(c *urfave.Context) error { return batch(c, op) },
		}
	}
	return &urfave.Command{
		Name: "batch", Usage: "open, close, purge or show a batch of captures and refunds at the gateway",
		Subcommands: []*urfave.Command{
			command(merchant.BatchOpen, "open a batch", "Captures and refunds go into the newest open batch. Without a number the gateway chooses one.", ""),
			command(merchant.BatchClose, "close a batch, which settles it",
				"The batch is closed only if the gateway counts what the merchant counts.", " --batch 7",
				&urfave.BoolFlag{Name: "any-totals", Usage: "close it whatever the merchant counts"}),
			command(merchant.BatchPurge, "take everything out of an open batch",
				"Purchases whose capture was in it are not paid. With a brand, only what is of that brand.", " --batch 7"),
			command(merchant.BatchShow, "show a batch: its totals and its items",
				"Without a number, the batch that the gateway thinks of.", " --batch 7 --json"),
		},
	}
}

func batch(c *urfave.Context, op merchant.BatchOperation) error {
	if c.Args().Present() {
		return cli.Usage(fmt.Errorf("unexpected argument %q", c.Args().First()))
	}
	q := merchant.BatchQuery{Operation: op, Brand: set.BrandID(c.String("brand")), AnyTotals: c.Bool("any-totals")}
	if c.IsSet("batch") {
		n := c.Int64("batch")
		q.Batch = &n
	} else if op == merchant.BatchClose || op == merchant.BatchPurge {
		return cli.Usage(fmt.Errorf("--batch is missing: say which batch"))
	}
	if op == merchant.BatchShow {
		q.Items = batchPage
	}
	return withStore(c, func(store *merchant.Store) error {
		report, err := batchReport(c, store, q)
		if report == nil {
			return err
		}
		if c.Bool("json") {
			if printErr := cli.PrintJSON(c.App.Writer, report); printErr != nil {
				return printErr
			}
			return err
		}
		if printErr := printBatch(c, report); printErr != nil {
			return printErr
		}
		return err
	})
}

// batchReport asks the gateway, for items page by page.
func batchReport(c *urfave.Context, store *merchant.Store, q merchant.BatchQuery) (*merchant.BatchReport, error) {
	var whole *merchant.BatchReport
	for {
		asked, err := store.AskBatch(c.Context, time.Now(), q)
		if err != nil {
			return whole, err
		}
		ops, err := await(c, store, []*merchant.Operation{asked})
		if err = verdict(ops, err); len(ops) == 0 || ops[0].Batch == nil {
			if err == nil {
				_, err = fmt.Fprintf(c.App.Writer, "asked: operation %s\n", asked.ID)
			}
			return whole, err
		}
		page := ops[0].Batch
		if whole == nil {
			whole = page
		} else {
			whole.Items, whole.Next = append(whole.Items, page.Items...), page.Next
		}
		if err != nil || page.Next <= q.From {
			return whole, err
		}
		q.From, q.Batch = page.Next, &page.Batch
	}
}

func printBatch(c *urfave.Context, r *merchant.BatchReport) error {
	state := "open"
	if r.Closed != nil {
		state = fmt.Sprintf("closed %s by the %s", r.Closed.Format(time.RFC3339), r.ClosedBy)
	}
	rows := [][]string{{"Batch", fmt.Sprint(r.Batch)}, {"Status", r.Status}}
	if r.Opened != nil {
		rows = append(rows, []string{"Opened", r.Opened.Format(time.RFC3339)}, []string{"State", state})
	}
	if r.Totals != nil {
		rows = append(rows, []string{"Gateway counts", r.Totals.String()})
	}
	for _, b := range r.Brands {
		rows = append(rows, []string{"  " + string(b.Brand), b.BatchTotals.String()})
	}
	if r.Own != nil {
		rows = append(rows, []string{"Merchant counts", r.Own.String()})
	}
	if r.Transmission != "" {
		rows = append(rows, []string{"Transmission", r.Transmission})
	}
	if s := r.Settlement; s != nil {
		rows = append(rows, []string{"Settlement", fmt.Sprintf("%s %s to %s on %s", s.Type, s.Amount, s.Account, s.Deposit.Format(time.DateOnly))})
	}
	if err := cli.Table(c.App.Writer, rows[0], rows[1:]); err != nil || len(r.Items) == 0 {
		return err
	}
	if _, err := fmt.Fprintln(c.App.Writer); err != nil {
		return err
	}
	rows = nil
	for _, i := range r.Items {
		rows = append(rows, []string{fmt.Sprint(i.Number), i.XID.String(), string(i.Brand), i.Type, i.Amount, i.Status})
	}
	return cli.Table(c.App.Writer, []string{"ITEM", "XID", "BRAND", "TYPE", "AMOUNT", "STATUS"}, rows)
}
