package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/smartcard/pcsc"
	"github.com/setkit/setkit/smartcard/piv"
)

const batchName = "batch"

func batchCommand() *urfave.Command {
	return &urfave.Command{
		Name:  batchName,
		Usage: "personalise a card for each cardholder of a list",
		Description: "Takes one card after the other: those that are in readers, and then those that are put in. Every card\n" +
			"gets the next cardholder of the list, a CSV file whose first line is name,account. What happens is\n" +
			"added to the report. Run again with the same report, the command goes on where it stopped: who has\n" +
			"a card is left out, and a card that was pulled half-way is continued when it comes back. A card\n" +
			"that fails is reported, and the next one takes its place.\n\n" +
			"Example: set-card batch --cardholders june.csv --report june-report.csv --attestation-root maker.pem \\\n" +
			"           --master-key 'pkcs11:token=issuer;object=card-master?pin-source=prompt:' \\\n" +
			"           --secrets-dir secrets --secrets-recipient age1...",
		Flags: slices.Concat([]urfave.Flag{
			&urfave.StringFlag{Name: "cardholders", Required: true, Usage: "`FILE` with the list"},
			&urfave.StringFlag{Name: "report", Required: true, Usage: "`FILE` that is continued, or made"},
			&urfave.StringFlag{Name: "reader", Usage: "only readers whose `NAME` is this or contains it"},
			&urfave.DurationFlag{Name: "wait", DefaultText: "until interrupted", Usage: "how long to wait for the next card, such as `TIME` 5m"},
			jsonFlag(),
		}, issuanceFlags(), masterKeyFlags(),
			deliveryFlags(&urfave.StringFlag{Name: "secrets-dir", Usage: "`DIRECTORY` for a file with each card's random secrets; readable by its owner only"})),
		Action: func(c *urfave.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			return classified(runBatch(c))
		},
	}
}

// A batch is one run of the command.
type batch struct {
	*issuance
	report  *report
	first   int // of the rows of this run
	waiting []holder
	total   int
	readers string
	wait    time.Duration
	seen    map[string]bool // readers whose card has had its turn
}

func runBatch(c *urfave.Context) (err error) {
	holders, err := readCardholders(c.String("cardholders"))
	if err != nil {
		return fmt.Errorf("--cardholders: %w", err)
	}
	i, err := openIssuance(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.close()) }()
	if err := i.delivery.free(); err != nil {
		return err
	}
	r, err := openReport(c.String("report"))
	if err != nil {
		return fmt.Errorf("--report: %w", err)
	}
	defer r.file.Close()
	b := &batch{
		issuance: i, report: r, first: len(r.rows), total: len(holders),
		readers: c.String("reader"), wait: c.Duration("wait"), seen: map[string]bool{},
	}
	b.waiting = slices.DeleteFunc(holders, func(h holder) bool { return r.done(h.Account) })
	stopped := b.run(c.Context)
	if err := b.summary(c); err != nil {
		return err
	}
	if stopped == nil && len(b.waiting) > 0 {
		stopped = errors.New("no more cards came")
	}
	if stopped != nil {
		return fmt.Errorf("%d of %d cardholders have no card yet: %w; run it again with the same report to go on", len(b.waiting), b.total, stopped)
	}
	return nil
}

// run takes cards until every cardholder has one, or no more come.
func (b *batch) run(ctx context.Context) error {
	for len(b.waiting) > 0 {
		reader, err := b.nextCard(ctx)
		if err != nil || reader == "" {
			return err
		}
		b.seen[reader] = true
		if err := b.take(ctx, reader); err != nil {
			return err
		}
	}
	return nil
}

// nextCard waits for a card that has not had its turn. Without one in time, the
// reader is "".
func (b *batch) nextCard(ctx context.Context) (string, error) {
	var deadline <-chan time.Time
	if b.wait > 0 {
		timer := time.NewTimer(b.wait)
		defer timer.Stop()
		deadline = timer.C
	}
	for asked := false; ; {
		all, err := pcsc.Readers(ctx)
		if err != nil {
			return "", err
		}
		for _, r := range all {
			if !strings.Contains(r.Name, b.readers) {
				continue
			}
			if !r.CardPresent {
				delete(b.seen, r.Name)
			} else if !b.seen[r.Name] {
				return r.Name, nil
			}
		}
		if !asked {
			fmt.Fprintf(b.progress, "insert the next card, for %s (%d of %d)\n", b.waiting[0].Name, b.total-len(b.waiting)+1, b.total)
			asked = true
		}
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-deadline:
			return "", nil
		case <-time.After(statePoll):
		}
	}
}

// take does the work for one card. Its error is of what would stop every card.
func (b *batch) take(ctx context.Context, reader string) error {
	row := reportRow{Account: b.waiting[0].Account, Name: b.waiting[0].Name}
	connection, err := pcsc.Open(ctx, reader)
	if err != nil {
		return b.failed(ctx, row, reader, err)
	}
	defer connection.Close()
	card := piv.New(connection, piv.Options{})
	if row.Serial, err = card.Serial(ctx); err != nil {
		return b.failed(ctx, row, reader, err)
	}
	at := 0
	if owner, ok := b.report.owner(row.Serial); ok {
		if owner.State == stateDone {
			fmt.Fprintf(b.progress, "card %s in reader %q is that of account %s: take it out\n", row.Serial, reader, owner.Account)
			return nil
		}
		if at = slices.IndexFunc(b.waiting, func(h holder) bool { return h.Account == owner.Account }); at < 0 {
			row.Account, row.Name = owner.Account, owner.Name
			return b.failed(ctx, row, reader, fmt.Errorf("card %s was begun for this account, which has another card: %s", row.Serial, resetHint))
		}
	}
	to := b.waiting[at]
	row.Account, row.Name = to.Account, to.Name
	fmt.Fprintf(b.progress, "card %s in reader %q, for %s, account %s\n", row.Serial, reader, to.Name, to.Account)
	p := b.personaliser(card, to)
	p.resume = b.report.met(row.Serial)
	p.wrote = func(serial, where string) error {
		begun := row
		begun.Time, begun.State, begun.Secrets = time.Now(), stateBegun, where
		return stationError(b.report.add(begun))
	}
	if err := p.run(ctx); err != nil {
		if errors.Is(err, errInUse) {
			err = fmt.Errorf("%w: %s", err, resetHint)
		}
		return b.failed(ctx, row, reader, err)
	}
	row.Time, row.State, row.Attested, row.Secrets = time.Now(), stateDone, p.Attested, p.Secrets
	row.SignatureKey, row.UnlockingKey = p.SignatureKey, p.UnlockingKey
	if p.WasComplete {
		if row.Secrets = b.report.told(row.Account, row.Serial); row.Secrets == "" {
			return b.failed(ctx, row, reader, fmt.Errorf("card %s has a PIN and PUK, but not from this batch: %s", row.Serial, resetHint))
		}
	}
	b.waiting = slices.Delete(b.waiting, at, at+1)
	fmt.Fprintf(b.progress, "card %s is done: %d of %d\n", row.Serial, b.total-len(b.waiting), b.total)
	return b.report.add(row)
}

// failed reports a card. What is wrong with this computer, its HSM or its disk
// would befall every card: then the batch stops.
func (b *batch) failed(ctx context.Context, row reportRow, reader string, err error) error {
	row.Time, row.State, row.Problem = time.Now(), stateFailed, err.Error()
	fmt.Fprintf(b.progress, "card %s in reader %q has failed: %s\n", row.Serial, reader, cli.Printable(row.Problem))
	if addErr := b.report.add(row); addErr != nil {
		return errors.Join(err, addErr)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var device interface{ Unavailable() bool }
	if errors.Is(err, errStation) || errors.As(err, &device) && device.Unavailable() {
		return err
	}
	return nil
}

// errStation means that something is wrong with this computer, and not with a card.
var errStation = errors.New("nothing more can be issued here")

func stationError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errStation, err)
}

// batchSummary is what --json prints.
type batchSummary struct {
	Cardholders int         `json:"cardholders"`
	Done        int         `json:"done"`
	Rows        []reportRow `json:"rows"` // of this run
}

func (b *batch) summary(c *urfave.Context) error {
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, batchSummary{b.total, b.total - len(b.waiting), append([]reportRow{}, b.report.rows[b.first:]...)})
	}
	failed := 0
	for _, row := range b.report.rows[b.first:] {
		if row.State == stateFailed {
			failed++
		}
	}
	_, err := fmt.Fprintf(b.progress, "%d of %d cardholders have their card; failures in this run: %d\n", b.total-len(b.waiting), b.total, failed)
	return err
}
