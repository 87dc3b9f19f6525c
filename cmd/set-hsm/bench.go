package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/hsm"
	urfave "github.com/urfave/cli/v2"
	"golang.org/x/term"
)

const (
	benchPrefix     = "bench-" // begins the labels of the temporary keys
	benchCallersMax = 256
	benchColumnsMax = 16 // numbers of callers
	benchSecondsMax = 60 // of one measurement, whose every time is kept
	// benchCleanSecondsMax bounds the deletion of the temporary keys.
	benchCleanSecondsMax = 60
)

func benchCommand() *urfave.Command {
	names := benchWorkNames()
	return &urfave.Command{
		Name: "bench", Usage: "measure what a token can do, and how many purchases it carries",
		Description: "Makes temporary keys in the token, whose labels begin with " + benchPrefix + ", keeps the token as busy as it can be,\n" +
			"and deletes the keys again, also when it is interrupted. Others who use the token have to wait meanwhile.\n" +
			"Asks for the token's label to be typed, unless --confirm has it.\n\n" +
			"Times are those of a caller: waiting for a turn and, of signatures, their verification are in them.\n" +
			"Where more callers bring no more operations, only longer times, is what x-calls-max in the token's URI is for.\n" +
			"The purchases are those that a token carries that does nothing else, by the calls that a purchase\n" +
			"makes of each party's token.\n\n" +
			"Mechanisms: " + strings.Join(names[:6], ", ") + ",\n" + strings.Join(names[6:], ", ") + ".\n\n" +
			"Example: set-hsm bench " + exampleToken + " \\\n" +
			"           --mechanism sign-ec-p256 --callers 1,8 --seconds 2 --svg shop.svg",
		Action: bench,
		Flags: []urfave.Flag{
			tokenFlag(),
			&urfave.StringFlag{Name: "mechanism", Usage: "`LIST` with commas of mechanisms (default: all)"},
			&urfave.StringFlag{Name: "callers", Value: "1,2,8,32", Usage: "`LIST` with commas of how many call at once"},
			&urfave.Float64Flag{Name: "seconds", Value: 1, Usage: "`TIME` of each measurement, at most " + strconv.Itoa(benchSecondsMax)},
			&urfave.PathFlag{Name: "svg", Usage: "write a plot to `FILE`, which must not exist"},
			&urfave.StringFlag{Name: "confirm", Usage: "the `LABEL` of the token, instead of typing it when asked"},
			jsonFlag(),
		},
	}
}

// benchPlan is what is to be measured.
type benchPlan struct {
	works   []benchWork
	callers []int
	turn    time.Duration // of a measurement
}

func readBenchPlan(c *urfave.Context) (benchPlan, error) {
	var p benchPlan
	names := benchWorkNames()
	if c.IsSet("mechanism") {
		names = strings.Split(c.String("mechanism"), ",")
	}
	for _, name := range names {
		i := slices.IndexFunc(benchWorks, func(w benchWork) bool { return w.name == name })
		if i < 0 {
			return p, cli.Usage(fmt.Errorf("--mechanism %q: want some of %s", name, strings.Join(benchWorkNames(), ",")))
		}
		if !slices.ContainsFunc(p.works, func(w benchWork) bool { return w.name == name }) {
			p.works = append(p.works, benchWorks[i])
		}
	}
	for text := range strings.SplitSeq(c.String("callers"), ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > benchCallersMax {
			return p, cli.Usage(fmt.Errorf("--callers %q: want numbers from 1 to %d", text, benchCallersMax))
		}
		p.callers = append(p.callers, n)
	}
	slices.Sort(p.callers)
	if p.callers = slices.Compact(p.callers); len(p.callers) > benchColumnsMax {
		return p, cli.Usage(fmt.Errorf("--callers has %d numbers: want at most %d", len(p.callers), benchColumnsMax))
	}
	seconds := c.Float64("seconds")
	if !(seconds > 0 && seconds <= benchSecondsMax) {
		return p, cli.Usage(fmt.Errorf("--seconds %v: want more than 0 and at most %d", seconds, benchSecondsMax))
	}
	p.turn = time.Duration(seconds * float64(time.Second))
	return p, nil
}

func bench(c *urfave.Context) error {
	plan, err := readBenchPlan(c)
	if err != nil {
		return err
	}
	return withToken(c, func(token *hsm.Token) (err error) {
		if err := confirmBench(c, token.Info(), plan); err != nil {
			return err
		}
		plot := func(*benchReport) error { return nil }
		if path := c.Path("svg"); path != "" {
			f, oerr := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
			if oerr != nil {
				return fmt.Errorf("plot: %w: choose another --svg", oerr)
			}
			defer func() {
				if cerr := f.Close(); err == nil {
					err = cerr
				}
				if err != nil {
					err = errors.Join(err, os.Remove(path))
				}
			}()
			plot = func(r *benchReport) error { return r.writeSVG(f) }
		}
		b := &bencher{token: token, plan: plan, say: func(format string, args ...any) { fmt.Fprintf(c.App.ErrWriter, format+"\n", args...) }}
		report, err := b.run(c.Context)
		if err != nil {
			return err
		}
		if err := plot(report); err != nil {
			return err
		}
		if c.Bool("json") {
			return cli.PrintJSON(c.App.Writer, report)
		}
		return report.print(c.App.Writer)
	})
}

// confirmBench says what the benchmark will do, and has the user say that this is the token for it.
func confirmBench(c *urfave.Context, token hsm.TokenInfo, p benchPlan) error {
	whole := time.Duration(len(p.works)*len(p.callers)) * p.turn
	fmt.Fprintf(c.App.ErrWriter, "The benchmark makes up to %s in token %q (serial number %s), labelled %s...,\n"+
		"keeps it busy for about %v with up to %d callers at once, and deletes the keys again.\n",
		counted(len(benchKeys(p.works)), "temporary key"), token.Label, token.Serial, benchPrefix, whole.Round(time.Second/10), slices.Max(p.callers))
	said := c.String("confirm")
	if !c.IsSet("confirm") {
		f, ok := c.App.Reader.(*os.File)
		if !ok || !term.IsTerminal(int(f.Fd())) {
			return cli.Usage(errors.New("cannot ask whether this is the right token: the standard input is not a terminal: if it is, give --confirm LABEL"))
		}
		fmt.Fprint(c.App.ErrWriter, "Type the token's label to go on: ")
		line, err := cli.ReadLine(c.Context, f)
		if err != nil {
			return fmt.Errorf("read the confirmation: %w", err)
		}
		said = line
	}
	if said != token.Label {
		return cli.Usage(fmt.Errorf("the token's label is %q and not %q: nothing was done", token.Label, said))
	}
	return nil
}

// bencher is one run of the benchmark.
type bencher struct {
	token  *hsm.Token
	plan   benchPlan
	say    func(format string, args ...any)
	labels map[benchKey]string // of the keys that were asked for
}

// run measures everything, and leaves no key behind.
func (b *bencher) run(ctx context.Context) (report *benchReport, err error) {
	if err := b.lookForLeftovers(ctx); err != nil {
		return nil, err
	}
	b.labels = map[benchKey]string{}
	defer func() { err = errors.Join(err, b.deleteKeys(ctx)) }()
	report = newBenchReport(b.token.Info(), b.plan)
	able, err := benchMechanisms(ctx, b.token)
	if err != nil {
		return nil, err
	}
	n, all := 0, len(b.plan.works)*len(b.plan.callers)
	for _, w := range b.plan.works {
		if lacks := w.lacks(able); lacks != "" {
			b.say("%s: the token does not have %s", w.name, lacks)
			report.Unsupported = append(report.Unsupported, benchUnsupported{w.name, lacks})
			n += len(b.plan.callers)
			continue
		}
		do, err := b.prepare(ctx, w)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
		for _, callers := range b.plan.callers {
			n++
			m, err := measure(ctx, callers, b.plan.turn, do)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w.name, err)
			}
			m.Mechanism, m.KeyType = w.name, w.key.typ
			report.Results = append(report.Results, m)
			b.say("%d of %d: %s, callers %d: %.0f/s", n, all, w.name, callers, m.PerSecond)
		}
	}
	if len(report.Results) == 0 {
		return nil, errors.New("the token has none of these mechanisms")
	}
	report.addRoles()
	return report, nil
}

// prepare makes the key that w needs, unless it was made for another, and returns the work.
func (b *bencher) prepare(ctx context.Context, w benchWork) (func(context.Context) error, error) {
	label := b.labels[w.key]
	if w.key != (benchKey{}) && label == "" {
		label = benchPrefix + strings.ToLower(rand.Text()[:10]) + "-" + string(w.key.purpose) + "-" + string(w.key.typ)
		b.labels[w.key] = label // also if its making fails: it may go on by itself for a while
		b.say("making %s", label)
		if _, err := b.token.GenerateKey(ctx, label, w.key.purpose, w.key.typ); err != nil {
			return nil, err
		}
	}
	return w.prepare(ctx, b.token, label)
}

// lookForLeftovers tells of the keys that a run has left which could not delete them.
func (b *bencher) lookForLeftovers(ctx context.Context) error {
	keys, err := b.token.Keys(ctx)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if strings.HasPrefix(k.Label, benchPrefix) {
			b.say("there is a key labelled %s: unless another benchmark runs, delete it with set-hsm keys delete", k.Label)
		}
	}
	return nil
}

// deleteKeys deletes the keys that this run has made, whether or not ctx has ended.
func (b *bencher) deleteKeys(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), benchCleanSecondsMax*time.Second)
	defer cancel()
	var errs []error
	for _, label := range b.labels {
		if err := b.token.DeleteKey(ctx, label, nil); err != nil && !errors.Is(err, hsm.ErrNotFound) {
			errs = append(errs, fmt.Errorf("the temporary key is left in the token: delete it with set-hsm keys delete: %w", err))
		}
	}
	if len(b.labels) > 0 && len(errs) == 0 {
		b.say("the temporary keys are deleted")
	}
	return errors.Join(errs...)
}
