package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/issuer"
	"github.com/setkit/setkit/roles/set"
)

// settlementLine is a settlement in the JSON list. Amounts are decimal numbers in units of the currency.
type settlementLine struct {
	Acquirer string     `json:"acquirer"`
	Number   int        `json:"number"`
	Currency string     `json:"currency"`
	Sales    string     `json:"sales"`
	Refunds  string     `json:"refunds"`
	Net      string     `json:"net"` // what the bank owes the acquirer
	Closed   *time.Time `json:"closed,omitempty"`
}

// balanceLine compares the accounts with the settlements, in one currency.
type balanceLine struct {
	Currency string `json:"currency"`
	Booked   string `json:"booked"` // on the accounts
	Settled  string `json:"settled"`
	Open     string `json:"open"`
	Balanced bool   `json:"balanced"`
}

// settlementReport is what --json prints.
type settlementReport struct {
	Settlements []settlementLine `json:"settlements"`
	Balance     []balanceLine    `json:"balance"`
}

func settlements(c *urfave.Context) error {
	cfg, err := load(c)
	if err != nil {
		return err
	}
	return with(c, cfg, func(ctx context.Context, i *issuer.Issuer) error {
		book, err := i.Book(ctx)
		if err != nil {
			return err
		}
		report := settlementReport{Settlements: []settlementLine{}, Balance: []balanceLine{}}
		for _, s := range book.Settlements {
			report.Settlements = append(report.Settlements, newSettlementLine(s))
		}
		balanced := true
		for _, b := range book.Balances {
			report.Balance = append(report.Balance, balanceLine{
				b.Currency.String(), minor(b.Booked, b.Currency), minor(b.Settled, b.Currency), minor(b.Open, b.Currency), b.Balanced(),
			})
			balanced = balanced && b.Balanced()
		}
		if err := printSettlements(c, report); err != nil {
			return err
		}
		if !balanced {
			return errors.New("accounts and settlements do not agree")
		}
		return nil
	})
}

func newSettlementLine(s issuer.SettlementSummary) settlementLine {
	l := settlementLine{
		Acquirer: string(s.Acquirer), Number: int(s.Number), Currency: s.Currency.String(),
		Sales:   minor(s.Totals.Sales.Amount-s.Totals.SalesTaken.Amount, s.Currency),
		Refunds: minor(s.Totals.Refunds.Amount-s.Totals.RefundsTaken.Amount, s.Currency),
		Net:     minor(s.Totals.Net(), s.Currency),
	}
	if !s.Closed.IsZero() {
		at := s.Closed.UTC()
		l.Closed = &at
	}
	return l
}

// minor is an amount in minor units without its currency; it may be below zero.
func minor(n int64, c set.Currency) string {
	if n < 0 {
		return "-" + number(finnet.FromMinorUnits(-n, c))
	}
	return number(finnet.FromMinorUnits(n, c))
}

func printSettlements(c *urfave.Context, r settlementReport) error {
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, r)
	}
	var rows [][]string
	for _, l := range r.Settlements {
		closed := "open"
		if l.Closed != nil {
			closed = l.Closed.Format(time.RFC3339)
		}
		rows = append(rows, []string{l.Acquirer, strconv.Itoa(l.Number), l.Currency, l.Sales, l.Refunds, l.Net, closed})
	}
	if err := cli.Table(c.App.Writer, []string{"ACQUIRER", "NUMBER", "CURRENCY", "SALES", "REFUNDS", "NET", "CLOSED"}, rows); err != nil {
		return err
	}
	for b := range slices.Values(r.Balance) {
		relation := "="
		if !b.Balanced {
			relation = "is NOT"
		}
		fmt.Fprintf(c.App.Writer, "%s: booked on accounts %s %s settled %s + open %s\n", b.Currency, b.Booked, relation, b.Settled, b.Open)
	}
	return nil
}
