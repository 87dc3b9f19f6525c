package main

import (
	"crypto/x509"
	"fmt"
	"io"
	"strings"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/describe"
	"github.com/setkit/setkit/cmd/internal/trace"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/wallet"
	"github.com/setkit/setkit/roles/wallet/web"
)

// sightOf shows who saw what of a purchase, by the messages that the wallet has of it.
func sightOf(l set.Language, p *wallet.Purchase, messages []wallet.Message, home string, link func(number int) string) (web.Sight, error) {
	v, err := viewOf(p, messages)
	if err != nil {
		return nil, err
	}
	v.Home, v.Link = home, link
	if l == "fr" {
		v.Tongue = trace.French
	}
	return v, nil
}

// viewOf describes the messages of a purchase. Of the gateway it has seen none.
func viewOf(p *wallet.Purchase, messages []wallet.Message) (trace.View, error) {
	var d describe.Describer
	for _, c := range []*x509.Certificate{p.Card.Certificate.X509, p.MerchantCert.X509, p.GatewayCert.X509} {
		d.Meet(c.Raw)
	}
	var passed []trace.Passed
	for i, m := range messages {
		e := trace.Entry{Time: m.At, From: trace.Merchant, To: trace.Wallet, Media: sethttp.MediaPayment}
		if m.Sent {
			e.From, e.To = e.To, e.From
		}
		if i == 0 && !m.Sent {
			e.Media = sethttp.MediaPaymentInitiation
		}
		passed = append(passed, trace.Passed{Entry: e, Octets: m.Octets})
	}
	r, err := trace.Gather(passed, &d)
	if err != nil {
		return trace.View{}, err
	}
	return trace.View{Recording: r, Messages: r.Messages, Wallet: true, Ending: p.Card.Last4}, nil
}

// sawReport is who saw what of a purchase, as JSON.
type sawReport struct {
	Saw        []sawRow       `json:"saw"`
	Promises   []sawPromise   `json:"promises"`
	Signatures []sawSignature `json:"signatures"`
	Messages   []sawMessage   `json:"messages"`
}

type sawRow struct {
	What string              `json:"what"`
	By   map[string][]sawHow `json:"by"` // by party; none: never there
}

type sawHow struct {
	How      string `json:"how"`                // "read", "digest" or "sealed"
	For      string `json:"for,omitempty"`      // who can open what is sealed
	Messages []int  `json:"messages,omitempty"` // in which
	ByRules  bool   `json:"byRules,omitempty"`  // the wallet has not seen it: SET's rules have it so
}

type sawPromise struct {
	Party   string `json:"party"`
	Never   string `json:"neverReads"`
	Kept    bool   `json:"kept"`
	ByRules bool   `json:"byRules,omitempty"`
}

type sawSignature struct {
	Message     int    `json:"message"`
	What        string `json:"what"`
	Key         string `json:"key"`
	Certificate string `json:"certificate"`
	Checked     string `json:"checked,omitempty"`
}

type sawMessage struct {
	Number int            `json:"number"`
	Type   string         `json:"type"`
	From   string         `json:"from"`
	To     string         `json:"to"`
	Time   string         `json:"time"`
	Fields *describe.Node `json:"fields"`
}

func sawCommand() *urfave.Command {
	return &urfave.Command{
		Name:      "saw",
		Usage:     "tell who saw what of a purchase",
		ArgsUsage: "XID",
		Description: "Tells who could read what, what signed it, and the sequence of the messages, by those that the\n" +
			"wallet sent and got. What merchant, gateway and bank say to each other it has not seen: there it\n" +
			"tells what SET's rules demand, marked with *. --json has every field of every message.\n\n" +
			"Example: set-wallet history saw 5619257b872a9c7a4617b94311995a3ee7c1d55e",
		Flags: []urfave.Flag{dirFlag(), jsonFlag()},
		Action: func(c *urfave.Context) error {
			if err := arguments(c, "XID"); err != nil {
				return err
			}
			return saw(c)
		},
	}
}

func saw(c *urfave.Context) error {
	xid, err := parseXID(c.Args().First())
	if err != nil {
		return err
	}
	w, err := openWallet(c, nil)
	if err != nil {
		return err
	}
	defer w.Close()
	p, err := w.Purchase(c.Context, xid)
	if err != nil {
		return err
	}
	messages, err := w.Messages(c.Context, xid)
	if err != nil {
		return err
	}
	if len(messages) == 0 {
		return fmt.Errorf("no message of purchase %v was kept", xid)
	}
	v, err := viewOf(p, messages)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, report(v))
	}
	return printSaw(c.App.Writer, v)
}

func report(v trace.View) *sawReport {
	s := v.WhoSaw()
	r := &sawReport{Promises: []sawPromise{}, Signatures: []sawSignature{}}
	for _, row := range s.Rows {
		by := make(map[string][]sawHow)
		for i, cell := range row.Cells {
			how := []sawHow{}
			for _, seen := range cell {
				how = append(how, sawHow{string(seen.How), seen.For, seen.In, seen.Ruled})
			}
			by[s.Parties[i]] = how
		}
		r.Saw = append(r.Saw, sawRow{row.Name, by})
	}
	for _, p := range s.Promises {
		r.Promises = append(r.Promises, sawPromise{p.Party, p.Name, len(p.In) == 0, p.Ruled})
	}
	for _, sig := range v.Signatures() {
		r.Signatures = append(r.Signatures, sawSignature{sig.Message.Number, sig.What, sig.Device, sig.Certificate(nil), sig.Checked})
	}
	for _, m := range v.Messages {
		r.Messages = append(r.Messages, sawMessage{m.Number, m.Type, m.From, m.To, date(m.Time), m.Node})
	}
	return r
}

// printSaw prints who saw what, the signatures and the sequence.
func printSaw(w io.Writer, v trace.View) error {
	s := v.WhoSaw()
	head := []string{"WHAT"}
	for _, p := range s.Parties {
		head = append(head, strings.ToUpper(p))
	}
	var rows [][]string
	for _, row := range s.Rows {
		line := []string{row.Name}
		for _, cell := range row.Cells {
			line = append(line, sawCell(cell))
		}
		rows = append(rows, line)
	}
	if err := cli.Table(w, head, rows); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n* The wallet does not see it: SET's rules have it so.\n\n")
	rows = nil
	for _, sig := range v.Signatures() {
		rows = append(rows, []string{fmt.Sprintf("%d %s", sig.Message.Number, sig.Message.Type), sig.What, sig.Device, cli.Printable(sig.Checked)})
	}
	if err := cli.Table(w, []string{"MESSAGE", "SIGNED", "KEY", "SIGNATURE"}, rows); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return v.Text(w)
}

func sawCell(cell []trace.Sight) string {
	var ways []string
	for _, seen := range cell {
		way := string(seen.How)
		if seen.For != "" {
			way += " for " + trace.Name(seen.For)
		}
		if seen.Ruled {
			way += " *"
		}
		ways = append(ways, way)
	}
	if ways == nil {
		return "-"
	}
	return strings.Join(ways, ", ")
}
