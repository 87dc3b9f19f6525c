package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/wallet"
)

const (
	initiationOctetsMax = 64 << 10
	fetchTimeout        = 30 * time.Second
)

func payCommand() *urfave.Command {
	return &urfave.Command{
		Name:      "pay",
		Usage:     "pay an order",
		ArgsUsage: "FILE|URL",
		Description: "FILE holds the shop's initiation message, URL is the shop's link that gives it. Shows the merchant,\n" +
			"from its certificate, the order, the amount and the card before it asks for consent and PIN.\n" +
			"An order that was sent before is not paid again: the merchant is asked what became of it.\n\n" +
			"Exit code 0: approved; 1: declined, rejected, cancelled, or not known; 3: no card; 4: no merchant.\n\n" +
			"Example: set-wallet pay order-1001.setpay",
		Flags: append([]urfave.Flag{
			&urfave.BoolFlag{Name: "yes", Usage: "consent to what is shown, without being asked"},
			dirFlag(), jsonFlag(),
		}, cardFlags()...),
		Action: func(c *urfave.Context) error {
			if err := arguments(c, "FILE or URL"); err != nil {
				return err
			}
			return purchase(c, func(w *wallet.Wallet, p *payer) (*wallet.Purchase, error) {
				m, err := initiation(c.Context, c.Args().First())
				if err != nil {
					return nil, err
				}
				return w.Pay(c.Context, m, p)
			})
		},
	}
}

func inquireCommand() *urfave.Command {
	return &urfave.Command{
		Name:      "inquire",
		Usage:     "ask the merchant what became of a purchase",
		ArgsUsage: "XID",
		Description: "XID is as set-wallet history lists it. The exit code is that of set-wallet pay.\n\n" +
			"Example: set-wallet inquire 5619257b872a9c7a4617b94311995a3ee7c1d55e",
		Flags: append([]urfave.Flag{dirFlag(), jsonFlag()}, cardFlags()...),
		Action: func(c *urfave.Context) error {
			if err := arguments(c, "XID"); err != nil {
				return err
			}
			xid, err := parseXID(c.Args().First())
			if err != nil {
				return err
			}
			return purchase(c, func(w *wallet.Wallet, p *payer) (*wallet.Purchase, error) {
				return w.Inquire(c.Context, xid, p)
			})
		},
	}
}

// purchase runs what gives a purchase, shows that, and ends as it came out.
func purchase(c *urfave.Context, run func(*wallet.Wallet, *payer) (*wallet.Purchase, error)) error {
	var sent messages
	w, err := openWallet(c, &sethttp.Client{Record: sent.record, Waiting: waiting(c)})
	if err != nil {
		return err
	}
	defer w.Close()
	payer := newPayer(c)
	defer payer.close()
	p, err := run(w, payer)
	switch {
	case p == nil && c.Context.Err() != nil:
		return classified(fmt.Errorf("cancelled: this run sent no payment: %w", err))
	case p == nil:
		return classified(err)
	}
	r := newReceipt(p)
	r.Messages = sent
	if payer.card != nil {
		r.APDUs = payer.card.report()
	}
	if c.Bool("json") {
		if err := cli.PrintJSON(c.App.Writer, r); err != nil {
			return err
		}
	} else {
		r.print(c.App.Writer)
	}
	if err != nil {
		return classified(fmt.Errorf("%w: ask again with: set-wallet inquire %v", err, p.XID))
	}
	return outcome(p)
}

// outcome is nil for an approved purchase.
func outcome(p *wallet.Purchase) error {
	switch p.Outcome {
	case wallet.Approved:
		return nil
	case wallet.Unknown:
		return fmt.Errorf("the merchant does not know yet whether the payment happens (%s): ask again with: set-wallet inquire %v", p.CompletionCode, p.XID)
	case wallet.Declined:
		return fmt.Errorf("the payment was declined (%s); nothing was paid", p.AuthCode)
	case wallet.Unsent:
		return errors.New("the card was lost while it signed; the payment was never sent and nothing was paid")
	}
	return fmt.Errorf("the merchant rejected the order (%s); nothing was paid", p.CompletionCode)
}

// initiation reads the initiation message from a file or from the shop.
func initiation(ctx context.Context, from string) (*set.Initiation, error) {
	var b []byte
	var err error
	if strings.HasPrefix(from, "http://") || strings.HasPrefix(from, "https://") {
		b, err = fetch(ctx, from)
	} else {
		b, err = readFile(from)
	}
	if err != nil {
		return nil, err
	}
	if len(b) > initiationOctetsMax {
		return nil, fmt.Errorf("initiation message over %d octets", initiationOctetsMax)
	}
	return set.ParseInitiation(b)
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, cli.Usage(fmt.Errorf("initiation message: %w", err))
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, initiationOctetsMax+1))
}

func fetch(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, cli.Usage(err)
	}
	req.Header.Set("Accept", sethttp.MediaPaymentInitiation+", application/json;q=0.5") // JSON: a reason not to give it
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, &sethttp.UnreachableError{URL: url, Err: errors.Unwrap(err)}
	}
	defer res.Body.Close()
	got, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	switch {
	case res.StatusCode >= 500:
		return nil, &sethttp.UnreachableError{URL: url, Err: errors.New(res.Status)}
	case got == "application/json" && res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s gives no order to pay: %s", url, reason(res))
	case res.StatusCode != http.StatusOK || got != sethttp.MediaPaymentInitiation:
		return nil, fmt.Errorf("%s gives no order to pay: HTTP status %d, media type %q: want the link of the shop's Pay button",
			url, res.StatusCode, got)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, initiationOctetsMax+1))
	if err != nil {
		return nil, &sethttp.UnreachableError{URL: url, Err: err}
	}
	return b, nil
}

// reason is why a shop says that it does not answer as it was asked to.
func reason(res *http.Response) string {
	var refusal struct{ Error string }
	if err := json.NewDecoder(io.LimitReader(res.Body, initiationOctetsMax)).Decode(&refusal); err != nil || refusal.Error == "" {
		return "HTTP status " + res.Status
	}
	return "the shop says: " + refusal.Error
}
