package main

import (
	"fmt"
	"io"
	"mime"
	"strings"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/wallet"
)

// receipt is a purchase as it is printed.
type receipt struct {
	Outcome        string   `json:"outcome"`
	AuthCode       string   `json:"authCode,omitempty"`
	CompletionCode string   `json:"completionCode,omitempty"`
	XID            string   `json:"xid"`
	Merchant       party    `json:"merchant"`
	Gateway        party    `json:"gateway"`
	Card           party    `json:"card"`           // with the masked card number for its name
	Bank           string   `json:"bank,omitempty"` // whose card it is
	Brand          string   `json:"brand"`
	Order          string   `json:"order"`
	Amount         string   `json:"amount"`
	Terms          string   `json:"terms,omitempty"` // of payment in instalments, or again and again
	Date           string   `json:"date"`            // of the payment
	Answered       string   `json:"answered,omitempty"`
	Resumed        bool     `json:"resumed,omitempty"` // the order had been sent before
	APDUs          *apdus   `json:"apdus,omitempty"`   // of this run
	Messages       messages `json:"messages,omitempty"`
}

// party is someone with a certificate.
type party struct {
	Name        string `json:"name"`
	Place       string `json:"place,omitempty"`
	Certificate string `json:"certificateSerial"`
}

func newReceipt(p *wallet.Purchase) *receipt {
	r := &receipt{
		Outcome: string(p.Outcome), AuthCode: p.AuthCode, CompletionCode: p.CompletionCode, XID: p.XID.String(),
		Merchant: party{p.Merchant, p.Place, p.MerchantCert.Serial()},
		Gateway:  party{gatewayName(p.GatewayCert), "", p.GatewayCert.Serial()},
		Card:     party{p.Card.Masked(), "", p.Card.Certificate.Serial()},
		Bank:     p.Card.Bank, Brand: string(p.Card.Brand), Order: p.Order, Amount: p.Amount.String(), Terms: p.Terms.Text(), Date: date(p.Sent), Resumed: p.Resumed,
	}
	if !p.Answered.IsZero() {
		r.Answered = date(p.Answered)
	}
	return r
}

func (r *receipt) print(w io.Writer) {
	fmt.Fprintf(w, "\nReceipt: %s\n", strings.ToUpper(r.Outcome))
	if r.Resumed {
		fmt.Fprintln(w, "This order was sent before; it was not paid again.")
	}
	line(w, "Merchant", place(r.Merchant))
	line(w, "Order", r.Order)
	line(w, "Amount", r.Amount)
	line(w, "Terms", r.Terms)
	line(w, "Card", cardName(r.Bank, r.Brand, r.Card.Name))
	line(w, "Result", r.AuthCode)
	line(w, "Status", r.CompletionCode)
	line(w, "XID", r.XID)
	line(w, "Date", r.Date)
	line(w, "Certificates", fmt.Sprintf("cardholder %s\nmerchant   %s\ngateway    %s (%s)", r.Card.Certificate, r.Merchant.Certificate, r.Gateway.Certificate, r.Gateway.Name))
}

// showOffer shows what is to be approved. The order comes first: it is the shop's text, as long as it
// likes, and must not push from the screen what can be relied on.
func showOffer(w io.Writer, o *wallet.Offer) {
	if kind, _, err := mime.ParseMediaType(o.OrderType); err == nil && kind == "text/plain" {
		line(w, "Order", o.Order)
	} else {
		line(w, "Order", fmt.Sprintf("%s\n(%s)", o.Order, o.OrderType))
	}
	line(w, "Merchant", place(party{Name: o.Merchant, Place: o.Place}))
	line(w, "Amount", o.Amount.String())
	line(w, "Terms", o.Terms.Text())
	line(w, "Card", cardName(o.Card.Bank, string(o.Card.Brand), o.Card.Masked()))
	line(w, "Gateway", gatewayName(o.GatewayCert))
}

// line prints a name and its value, which may have several lines or be missing.
func line(w io.Writer, name, value string) {
	if value != "" {
		fmt.Fprintf(w, "  %-13s %s\n", name, strings.ReplaceAll(value, "\n", "\n"+strings.Repeat(" ", 16)))
	}
}

func place(p party) string {
	if p.Place == "" {
		return p.Name
	}
	return p.Name + ", " + p.Place
}

// cardName names a card to its holder, who knows its bank if the bank's bundle told the wallet.
func cardName(bank, brand, masked string) string {
	return strings.TrimPrefix(bank+" "+brand+" "+masked, " ")
}

func gatewayName(c *pki.Certificate) string {
	return strings.ReplaceAll(wallet.Printable([]byte(c.Subject.CommonName)), "\n", " ")
}

func date(t time.Time) string { return t.Format(time.RFC3339) }

// message is the size of one SET message on the wire.
type message struct {
	Type   string `json:"type"`
	Octets int    `json:"octets"`
}

type messages []message

// record notes a request and its answer.
func (m *messages) record(_ string, request, response []byte) {
	for _, b := range [][]byte{request, response} {
		name := "unreadable"
		if w, err := set.Decode(b); err == nil {
			name = w.Message.Type().String()
		}
		*m = append(*m, message{name, len(b)})
	}
}
