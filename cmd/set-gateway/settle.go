package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/gateway"
	"github.com/setkit/setkit/roles/sqldb"
)

// withDB runs act on the gateway's database. Nothing of it needs the HSM.
func withDB(c *urfave.Context, act func(cfg *config, db *sqldb.DB) error) error {
	cfg, err := load(c)
	if err != nil {
		return err
	}
	db, err := gateway.OpenDB(c.Context, cfg.Database)
	if err != nil {
		return err
	}
	return errors.Join(act(cfg, db), db.Close())
}

func settle(c *urfave.Context) error {
	if c.Duration("wait") <= 0 {
		return cli.Usage(errors.New("--wait: want a time such as 5m"))
	}
	return withDB(c, func(cfg *config, db *sqldb.DB) error {
		dir := c.Path("out")
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return cli.Usage(fmt.Errorf("--out: %s is no directory: create it first", dir))
		}
		log := cli.NewLogger(c.App.ErrWriter, slog.LevelError)
		issuer := finnet.NewClient(cfg.Issuer, log)
		defer issuer.Close()
		ctx, cancel := context.WithTimeout(c.Context, c.Duration("wait"))
		defer cancel()
		var files []string
		s := &gateway.Settler{
			DB: db, Issuer: issuer, Acquirer: cfg.AcquirerBIN, Log: log,
			Progress: func(step string, left int) {
				if left > 0 {
					step = fmt.Sprintf("%s: %d left", step, left)
				}
				fmt.Fprintln(c.App.ErrWriter, step)
			},
			Report: func(s *gateway.Settled) (err error) {
				files, err = writeReport(dir, s)
				return err
			},
		}
		settled, err := s.Settle(ctx)
		if errors.Is(err, gateway.ErrNothingToSettle) {
			fmt.Fprintln(c.App.ErrWriter, "there is nothing to settle")
			settled, err = new(gateway.Settled), nil
		}
		if settled != nil && (err == nil || errors.Is(err, gateway.ErrOutOfBalance)) {
			err = errors.Join(err, printSettled(c, settled, files))
		}
		if errors.Is(err, gateway.ErrUnanswered) || errors.Is(err, finnet.ErrNoReply) || errors.Is(err, finnet.ErrUnavailable) {
			err = cli.Peer(fmt.Errorf("%w; settle again to go on", err))
		}
		return err
	})
}

// writeReport writes both forms of the report, over those of an earlier try.
func writeReport(dir string, s *gateway.Settled) (files []string, err error) {
	name := filepath.Join(dir, fmt.Sprintf("settlement-%s-%06d", s.Acquirer, s.Number))
	files = []string{name + ".csv", name + ".xml"}
	return files, errors.Join(replace(files[0], s.WriteCSV), replace(files[1], s.WriteXML))
}

// replace writes a file whole or not at all.
func replace(name string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".settlement-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = errors.Join(write(f), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// settledReport is what --json prints. Amounts are decimal numbers in units of the currency.
type settledReport struct {
	Settlement int           `json:"settlement"`
	Balanced   bool          `json:"balanced"`
	Balance    []balanceLine `json:"balance"`
	Refused    []refusedLine `json:"refused"`
	Files      []string      `json:"files"`
}

type balanceLine struct {
	Currency string       `json:"currency"`
	Payouts  []payoutLine `json:"payouts"`
	Paid     string       `json:"paid"`   // to all merchants
	Debits   string       `json:"debits"` // of all cardholders, as the issuer says
	Balanced bool         `json:"balanced"`
	Sums     []sumLine    `json:"sums"`
}

type payoutLine struct {
	Merchant string `json:"merchant"`
	Amount   string `json:"amount"`
}

// sumLine has a total of both sides.
type sumLine struct {
	What         string `json:"what"`
	Count        int64  `json:"count"`
	Amount       string `json:"amount"`
	IssuerCount  int64  `json:"issuer_count"`
	IssuerAmount string `json:"issuer_amount"`
}

// refusedLine is an entry that the issuer refused, and that a person has to see to.
type refusedLine struct {
	Merchant string `json:"merchant"`
	What     string `json:"what"`
	Amount   string `json:"amount"`
	Currency string `json:"currency"`
	RRN      string `json:"rrn"`
	Code     string `json:"code"`
}

func newSettledReport(s *gateway.Settled, files []string) settledReport {
	out := settledReport{Settlement: int(s.Number), Balanced: true, Balance: []balanceLine{}, Refused: []refusedLine{}, Files: append([]string{}, files...)}
	for _, b := range s.Balances {
		line := balanceLine{
			Currency: b.Currency.String(), Paid: gateway.Decimal(b.Paid(), b.Currency), Debits: gateway.Decimal(b.Debits, b.Currency), Balanced: b.Balanced(),
		}
		for _, p := range b.Payouts {
			line.Payouts = append(line.Payouts, payoutLine{string(p.Merchant), gateway.Decimal(p.Amount, b.Currency)})
		}
		for _, x := range []struct {
			what         string
			ours, theirs finnet.Sum
		}{
			{"captures", b.Ours.Sales, b.Theirs.Sales}, {"captures undone", b.Ours.SalesTaken, b.Theirs.SalesTaken},
			{"credits", b.Ours.Refunds, b.Theirs.Refunds}, {"credits undone", b.Ours.RefundsTaken, b.Theirs.RefundsTaken},
		} {
			line.Sums = append(line.Sums, sumLine{x.what, x.ours.Count, gateway.Decimal(x.ours.Amount, b.Currency), x.theirs.Count, gateway.Decimal(x.theirs.Amount, b.Currency)})
		}
		out.Balanced = out.Balanced && line.Balanced
		out.Balance = append(out.Balance, line)
	}
	for _, i := range s.Refused() {
		out.Refused = append(out.Refused, refusedLine{
			string(i.Merchant), i.What, gateway.Decimal(i.Amount, i.Currency), i.Currency.String(), i.Trace.RRN, string(i.IssuerCode),
		})
	}
	return out
}

func printSettled(c *urfave.Context, s *gateway.Settled, files []string) error {
	r := newSettledReport(s, files)
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, r)
	}
	for _, b := range r.Balance {
		if err := printBalance(c.App.Writer, b); err != nil {
			return err
		}
	}
	if len(r.Refused) > 0 {
		rows := [][]string{}
		for _, x := range r.Refused {
			rows = append(rows, []string{x.Merchant, x.What, x.Amount, x.Currency, x.RRN, x.Code})
		}
		fmt.Fprintln(c.App.Writer, "The issuer refused these, which are not paid: settle them with the issuer by hand.")
		if err := cli.Table(c.App.Writer, []string{"MERCHANT", "REFUSED", "AMOUNT", "CURRENCY", "RRN", "CODE"}, rows); err != nil {
			return err
		}
	}
	for _, name := range r.Files {
		fmt.Fprintln(c.App.Writer, "wrote", name)
	}
	return nil
}

// printBalance shows both ends of a settlement; where they differ, all that each side has.
func printBalance(w io.Writer, b balanceLine) error {
	var rows [][]string
	for _, p := range b.Payouts {
		rows = append(rows, []string{p.Merchant, p.Amount})
	}
	rows = append(rows, []string{"paid to merchants", b.Paid}, []string{"debited to cardholders", b.Debits})
	if err := cli.Table(w, []string{"MERCHANT", b.Currency}, rows); err != nil {
		return err
	}
	if b.Balanced {
		_, err := fmt.Fprintf(w, "%s is in balance.\n", b.Currency)
		return err
	}
	fmt.Fprintf(w, "%s is OUT OF BALANCE:\n", b.Currency)
	rows = nil
	for _, s := range b.Sums {
		rows = append(rows, []string{s.What, strconv.FormatInt(s.Count, 10), s.Amount, strconv.FormatInt(s.IssuerCount, 10), s.IssuerAmount})
	}
	return cli.Table(w, []string{"TOTAL", "OURS", "AMOUNT", "ISSUER'S", "AMOUNT"}, rows)
}

func settlements(c *urfave.Context) error {
	if c.Int("limit") < 1 {
		return cli.Usage(errors.New("--limit: want at least 1"))
	}
	return withDB(c, func(cfg *config, db *sqldb.DB) error {
		list, err := gateway.Settlements(c.Context, db, cfg.AcquirerBIN, c.Int("limit"))
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return cli.PrintJSON(c.App.Writer, list)
		}
		var rows [][]string
		for _, s := range list {
			closed := s.State
			if s.Closed != nil {
				closed = s.Closed.Format(time.RFC3339)
			}
			rows = append(rows, []string{
				strconv.Itoa(int(s.Number)), s.Currency, strconv.Itoa(s.Entries), strconv.Itoa(s.Waiting), strconv.Itoa(s.Refused), s.Payouts, s.Debits, closed,
			})
		}
		return cli.Table(c.App.Writer, []string{"NUMBER", "CURRENCY", "ENTRIES", "WAITING", "REFUSED", "PAYOUTS", "DEBITS", "CLOSED"}, rows)
	})
}
