package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	urfave "github.com/urfave/cli/v2"
)

// clearTimeout is how long capture and clearing may take after an approval.
const clearTimeout = 30 * time.Second

// account is what the issuer tells of an account.
type account struct {
	ID        string `json:"id"`
	Holder    string `json:"holder"`
	PAN       string `json:"pan"`
	Currency  string `json:"currency"`
	Available string `json:"available"`
	Held      string `json:"held"`
	Booked    string `json:"booked"`
}

// order is what the shop tells of an order.
type order struct {
	ID      string `json:"id"`
	Number  int64  `json:"number"`
	State   string `json:"state"`
	Total   string `json:"total"`
	Payment struct {
		XID          string `json:"xid"`
		AuthCode     string `json:"authCode"`
		ApprovalCode string `json:"approvalCode"`
	} `json:"payment"`
}

// receipt is what the wallet tells of a purchase.
type receipt struct {
	Outcome  string `json:"outcome"`
	AuthCode string `json:"authCode"`
	XID      string `json:"xid"`
	Merchant named  `json:"merchant"`
	Gateway  named  `json:"gateway"`
	Card     named  `json:"card"`
	Bank     string `json:"bank"`
	Brand    string `json:"brand"`
	Order    string `json:"order"`
	Amount   string `json:"amount"`
	Date     string `json:"date"`
	APDUs    *struct {
		Count    int `json:"count"`
		Sent     int `json:"sentBytes"`
		Received int `json:"receivedBytes"`
	} `json:"apdus"`
	Messages []struct {
		Type   string `json:"type"`
		Octets int    `json:"octets"`
	} `json:"messages"`
}

type named struct {
	Name        string `json:"name"`
	Place       string `json:"place"`
	Certificate string `json:"certificateSerial"`
}

// purchase is one purchase in the world, as all who take part tell it.
type purchase struct {
	before, after account
	order         order
	receipt       receipt
}

// errDeclined ends a demo whose purchase was declined.
var errDeclined = errors.New("the purchase was declined; nothing was paid")

func demo(c *urfave.Context) (err error) {
	dir, bin, err := place(c, "demo")
	if err != nil {
		return err
	}
	w, err := newWorld(dir, bin)
	if err != nil {
		return err
	}
	if !c.Bool("keep") {
		defer func() { err = errors.Join(err, w.stop()) }()
	}
	out := c.App.Writer
	fmt.Fprintf(out, "A world in %s\n\n", dir)
	if err := w.make(c.Context, out); err != nil {
		return err
	}
	p, err := w.buy(c.Context, out, c.String("item"), c.Int("quantity"))
	if err != nil {
		return err
	}
	p.print(out)
	fmt.Fprintf(out, "\nSee who said what to whom, and who could read it:\n")
	if !c.Bool("keep") {
		fmt.Fprintf(out, "  %s ui --dir %s\n", w.show("set-lab"), quote(w.dir))
	}
	fmt.Fprintf(out, "  %s trace --html -o purchase.html %s\n", w.show("set-inspect"), quote(w.path(traceDir)))
	if c.Bool("keep") {
		if err := w.startUI(c.Context); err != nil {
			return err
		}
		if err := w.introduce(out); err != nil {
			return err
		}
	}
	if p.receipt.Outcome != approved {
		return errDeclined
	}
	return nil
}

// buy orders something in the shop, pays it with the card, and waits until it is cleared.
func (w *world) buy(ctx context.Context, out io.Writer, item string, quantity int) (*purchase, error) {
	p := &purchase{}
	err := runSteps(ctx, out, []step{
		{fmt.Sprintf("Order: %d x %s from the catalogue", quantity, item), func(ctx context.Context) (err error) {
			if p.before, err = w.account(ctx); err == nil {
				p.order, err = w.placeOrder(ctx, item, quantity, "")
			}
			return err
		}},
		{"Purchase: dual signature by the card, authorization at the issuer", func(ctx context.Context) (err error) {
			p.receipt, err = w.pay(ctx, p.order)
			return err
		}},
	})
	if err != nil {
		return nil, err
	}
	if p.receipt.Outcome == approved {
		return p, runSteps(ctx, out, []step{{"Capture and clearing", func(ctx context.Context) error { return w.settle(ctx, p) }}})
	}
	return p, w.look(ctx, p)
}

// approved is the wallet's word for a purchase that happens.
const approved = "approved"

// look asks the shop and the issuer how things stand after a purchase.
func (w *world) look(ctx context.Context, p *purchase) (err error) {
	if p.order, err = w.showOrder(ctx, p.order.ID); err == nil {
		p.after, err = w.account(ctx)
	}
	return err
}

// settle waits for what follows an approval: the merchant's capture, and its booking by the issuer.
func (w *world) settle(ctx context.Context, p *purchase) error {
	ctx, cancel := context.WithTimeout(ctx, clearTimeout)
	defer cancel()
	for {
		if err := w.look(ctx, p); err != nil {
			return err
		}
		if p.order.State == "captured" && p.after.Booked != p.before.Booked {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("order is %s and the account not yet debited after %v", p.order.State, clearTimeout)
		case <-time.After(2 * pollInterval):
		}
	}
}

// account asks the issuer for the cardholder's account.
func (w *world) account(ctx context.Context) (account, error) {
	var accounts []account
	if err := w.runJSON(ctx, &accounts, w.env("issuer", issuerSecrets), "set-issuer", "accounts", "--json", "--config", w.config("issuer")); err != nil {
		return account{}, err
	}
	for _, a := range accounts {
		if a.ID == accountID {
			return a, nil
		}
	}
	return account{}, fmt.Errorf("the issuer has no account %s", accountID)
}

// apiToken and officePassword are secrets of the merchant, by which others use it.
const (
	apiToken       = "merchant-api-token"
	officePassword = "office-password"
	officeOperator = "lab"
)

// placeOrder is what a shop does for its customer. terms say how it is paid; "" means at once.
func (w *world) placeOrder(ctx context.Context, item string, quantity int, terms string) (order, error) {
	type line struct {
		Item     string `json:"item"`
		Quantity int    `json:"quantity"`
	}
	body, err := json.Marshal(struct {
		Currency string `json:"currency"`
		Lines    []line `json:"lines"`
		Terms    string `json:"terms,omitempty"`
	}{"USD", []line{{item, quantity}}, terms})
	if err != nil {
		return order{}, err
	}
	return w.shop(ctx, http.MethodPost, "/orders", bytes.NewReader(body))
}

func (w *world) showOrder(ctx context.Context, id string) (order, error) {
	return w.shop(ctx, http.MethodGet, "/orders/"+id, nil)
}

// shop asks the merchant's API.
func (w *world) shop(ctx context.Context, method, path string, body io.Reader) (o order, err error) {
	file, err := w.secret(apiToken)
	if err != nil {
		return o, err
	}
	token, err := os.ReadFile(file)
	if err != nil {
		return o, err
	}
	req, err := http.NewRequestWithContext(ctx, method, w.url("merchant")+"/api/v1"+path, body)
	if err != nil {
		return o, err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", rand.Text())
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return o, err
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		var refusal struct{ Error string }
		if err := json.NewDecoder(io.LimitReader(res.Body, 1<<10)).Decode(&refusal); err != nil || refusal.Error == "" {
			refusal.Error = "no reason given"
		}
		return o, fmt.Errorf("the shop answers %s: %s", res.Status, refusal.Error)
	}
	return o, json.NewDecoder(res.Body).Decode(&o)
}

// pay has the wallet pay an order. A declined purchase is no failure of the wallet's.
func (w *world) pay(ctx context.Context, o order) (receipt, error) {
	var r receipt
	out, err := w.run(ctx, w.cardEnv(), "set-wallet", "pay", "--json", "--yes", "--dir", w.path("wallet"),
		"--pin-source", "file:"+w.path("secrets", "card-pin"), w.url("merchant")+"/orders/"+o.ID+"/pay")
	if json.Unmarshal(out, &r) == nil && (err == nil || r.Outcome == "declined") {
		return r, nil
	}
	return r, errors.Join(errors.New("set-wallet gave no receipt"), err)
}

func (p *purchase) print(out io.Writer) {
	r := &p.receipt
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(out, "  %-18s %s\n", name, strings.ReplaceAll(value, "\n", "\n"+strings.Repeat(" ", 21)))
		}
	}
	fmt.Fprintf(out, "\nReceipt: %s\n", strings.ToUpper(r.Outcome))
	line("Merchant", r.Merchant.Name+", "+r.Merchant.Place)
	line("Order", r.Order)
	line("Amount", r.Amount)
	line("Card", r.Bank+" "+r.Brand+" "+r.Card.Name)
	line("Result", r.AuthCode)
	line("Authorization code", p.order.Payment.ApprovalCode)
	line("XID", r.XID)
	line("Date", r.Date)
	line("Certificates", fmt.Sprintf("cardholder %s\nmerchant   %s\ngateway    %s", r.Card.Certificate, r.Merchant.Certificate, r.Gateway.Certificate))
	if r.APDUs != nil {
		line("Card's work", fmt.Sprintf("%d APDUs, %d octets sent, %d received", r.APDUs.Count, r.APDUs.Sent, r.APDUs.Received))
	}
	var sizes []string
	for _, m := range r.Messages {
		sizes = append(sizes, fmt.Sprintf("%s %d", m.Type, m.Octets))
	}
	line("Octets on the wire", strings.Join(sizes, ", "))
	fmt.Fprintf(out, "\nAccount of %s (%s)\n", p.after.Holder, p.after.PAN)
	fmt.Fprintf(out, "  %-10s %14s %14s %14s\n", p.after.Currency, "available", "held", "booked")
	for _, row := range []struct {
		when string
		a    account
	}{{"before", p.before}, {"after", p.after}} {
		fmt.Fprintf(out, "  %-10s %14s %14s %14s\n", row.when, row.a.Available, row.a.Held, row.a.Booked)
	}
}
