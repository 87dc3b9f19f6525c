package main

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"strings"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/ca"
)

// operate runs work for the person at the terminal, on the CA's database.
func operate(c *urfave.Context, cfg *config, work func(*ca.Operator) error) (err error) {
	who, err := user.Current()
	if err != nil {
		return fmt.Errorf("who works here, for the audit trail: %w", err)
	}
	db, err := ca.OpenDB(c.Context, cfg.Database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return work(&ca.Operator{DB: db, Who: who.Username, Now: time.Now})
}

func requestsCommand() *urfave.Command {
	return &urfave.Command{
		Name: "requests", Usage: "look at certificate requests",
		Description: "Where the configuration says approval: by-hand, requests that have passed all checks wait here for\n" +
			"set-ca approve or set-ca reject, for 30 days. The requester is told to ask again later, and gets the\n" +
			"certificate, or the reason why not, when it does.\n\n" +
			"Example: set-ca requests list --config ca.yaml\n" +
			"         set-ca requests show --config ca.yaml 5f3a09c1",
		Subcommands: []*urfave.Command{
			{
				Name: "list", Usage: "list the requests that wait, the latest first",
				Description: "Example: set-ca requests list --config ca.yaml --all --json",
				Flags: []urfave.Flag{
					configFlag(), &urfave.BoolFlag{Name: "all", Usage: "also those that were decided or answered, of the last 30 days"}, limitFlag(), jsonFlag(),
				},
				Action: listRequests,
			},
			{
				Name: "show", Usage: "show one request", ArgsUsage: "ID",
				Description: "ID is as set-ca requests list shows it, or as much of it as tells it apart.\n\n" +
					"Example: set-ca requests show --config ca.yaml 5f3a09c1",
				Flags: []urfave.Flag{configFlag(), jsonFlag()}, Action: showRequest,
			},
		},
	}
}

func listRequests(c *urfave.Context) error {
	cfg, err := load(c)
	if err != nil {
		return err
	}
	most, err := limit(c)
	if err != nil {
		return err
	}
	return operate(c, cfg, func(op *ca.Operator) error {
		list, err := op.Applications(c.Context, c.Bool("all"), most)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return cli.PrintJSON(c.App.Writer, list)
		}
		if len(list) == 0 && !c.Bool("all") {
			_, err := fmt.Fprintln(c.App.Writer, "no request waits for approval")
			return err
		}
		var rows [][]string
		for _, a := range list {
			rows = append(rows, []string{a.AskedAt.Format(time.RFC3339), a.ID, a.CA, a.Type, a.State, who(&a), decision(&a)})
		}
		return cli.Table(c.App.Writer, []string{"ASKED", "ID", "CA", "TYPE", "STATE", "WHO", "DECISION"}, rows)
	})
}

// who tells who asks. Of a card an operator sees the bank's number only.
func who(a *ca.Application) string {
	if a.BIN != "" {
		return "card " + a.BIN + "…"
	}
	return a.Registrant
}

func decision(a *ca.Application) string {
	var s []string
	if a.DecidedAt != nil {
		s = append(s, "by "+a.DecidedBy+" on "+a.DecidedAt.Format(time.DateOnly))
	}
	if a.State == "rejected" || a.State == "refused" {
		s = append(s, a.Message)
	}
	return strings.Join(s, ": ")
}

func showRequest(c *urfave.Context) error {
	cfg, id, err := loadWith(c, "the ID of a request")
	if err != nil {
		return err
	}
	return operate(c, cfg, func(op *ca.Operator) error {
		a, err := op.Application(c.Context, id)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return cli.PrintJSON(c.App.Writer, a)
		}
		return printRequest(c, a)
	})
}

func printRequest(c *urfave.Context, a *ca.Application) error {
	lines := [][2]string{
		{"request", a.ID}, {"at", a.CA}, {"asked", a.AskedAt.Format(time.RFC3339)}, {"for", a.Type}, {"by", who(a)}, {"state", a.State},
	}
	for _, k := range a.Keys {
		lines = append(lines, [2]string{"key, SHA-256", k})
	}
	if a.Renews != "" {
		lines = append(lines, [2]string{"renews", a.Renews})
	}
	if a.DecidedAt != nil {
		lines = append(lines, [2]string{"decided", a.DecidedAt.Format(time.RFC3339) + " by " + a.DecidedBy})
	}
	if a.Message != "" {
		lines = append(lines, [2]string{"is told", a.Message})
	}
	for _, l := range lines {
		if err := cli.Line(c.App.Writer, fmt.Sprintf("%-14s", l[0]), l[1]); err != nil {
			return err
		}
	}
	return nil
}

func approveCommand() *urfave.Command {
	return &urfave.Command{
		Name: "approve", Usage: "let a certificate request that waits be certified", ArgsUsage: "ID",
		Description: "The certificate is made when the requester asks again, by the server.\n\n" +
			"Example: set-ca approve --config ca.yaml 5f3a09c1",
		Flags: []urfave.Flag{configFlag(), jsonFlag()},
		Action: func(c *urfave.Context) error {
			return decide(c, "approved: the certificate is made when the requester asks again", (*ca.Operator).Approve)
		},
	}
}

func rejectCommand() *urfave.Command {
	return &urfave.Command{
		Name: "reject", Usage: "refuse a certificate request that waits", ArgsUsage: "ID",
		Description: "Example: set-ca reject --config ca.yaml --reason \"The contract has ended.\" 5f3a09c1",
		Flags: []urfave.Flag{
			configFlag(), &urfave.StringFlag{Name: "reason", Required: true, Usage: "`TEXT` that the requester is told, of at most 128 characters"}, jsonFlag(),
		},
		Action: func(c *urfave.Context) error {
			return decide(c, "rejected: the requester is told why when it asks again", func(op *ca.Operator, ctx context.Context, a *ca.Application) error {
				return op.Reject(ctx, a, c.String("reason"))
			})
		},
	}
}

func decide(c *urfave.Context, done string, what func(*ca.Operator, context.Context, *ca.Application) error) error {
	cfg, id, err := loadWith(c, "the ID of a request")
	if err != nil {
		return err
	}
	return operate(c, cfg, func(op *ca.Operator) error {
		a, err := op.Application(c.Context, id)
		if err != nil {
			return err
		}
		if err := what(op, c.Context, a); err != nil {
			return err
		}
		if a, err = op.Application(c.Context, a.ID); err != nil {
			return err
		}
		if c.Bool("json") {
			return cli.PrintJSON(c.App.Writer, a)
		}
		_, err = fmt.Fprintf(c.App.Writer, "request %s of %s is %s\n", a.ID, who(a), done)
		return err
	})
}

func auditCommand() *urfave.Command {
	return &urfave.Command{
		Name: "audit", Usage: "list what operators did, the latest first",
		Description: "Example: set-ca audit --config ca.yaml --limit 20",
		Flags:       []urfave.Flag{configFlag(), limitFlag(), jsonFlag()},
		Action: func(c *urfave.Context) error {
			cfg, err := load(c)
			if err != nil {
				return err
			}
			most, err := limit(c)
			if err != nil {
				return err
			}
			return operate(c, cfg, func(op *ca.Operator) error {
				list, err := op.Audit(c.Context, most)
				if err != nil {
					return err
				}
				if c.Bool("json") {
					return cli.PrintJSON(c.App.Writer, list)
				}
				var rows [][]string
				for _, e := range list {
					rows = append(rows, []string{e.At.Format(time.RFC3339), e.Who, e.Action, e.Object, e.Detail})
				}
				return cli.Table(c.App.Writer, []string{"AT", "WHO", "ACTION", "OBJECT", "DETAIL"}, rows)
			})
		},
	}
}
