package gateway

import (
	"encoding/csv"
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
)

// csvHeader names the columns of a clearing report.
var csvHeader = []string{
	"settlement", "merchant", "what", "amount", "currency", "payout", "state", "issuer code",
	"rrn", "stan", "transmission", "xid", "batch", "number", "time",
}

// WriteCSV writes a settlement as a table, one line for each entry. What the issuer refused is there too, and
// pays nothing.
func (s *Settled) WriteCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	out.Write(csvHeader)
	for _, i := range s.Items {
		batch, number := "", ""
		if i.Batch >= 0 {
			batch = strconv.FormatInt(i.Batch, 10)
		}
		if i.Number > 0 {
			number = strconv.FormatInt(i.Number, 10)
		}
		out.Write([]string{
			strconv.Itoa(int(s.Number)), string(i.Merchant), i.What, Decimal(i.Amount, i.Currency), i.Currency.String(), Decimal(i.Net(), i.Currency),
			i.State, string(i.IssuerCode), i.Trace.RRN, i.Trace.STAN, i.Trace.Transmission, i.XID.String(), batch, number, i.Time.Format(time.RFC3339),
		})
	}
	out.Flush()
	return out.Error()
}

// The XML report is ISO 20022 camt.054.001.08, a notification of credits and debits: what the acquirer has booked
// for each merchant, in each currency. A pacs message would order a bank to pay, and names accounts that a gateway
// does not know; camt.053 would state balances, which it does not keep. The types below have the elements of
// the standard that are used, in its order.

type (
	camtDocument struct {
		XMLName      xml.Name         `xml:"urn:iso:std:iso:20022:tech:xsd:camt.054.001.08 Document"`
		Notification camtNotification `xml:"BkToCstmrDbtCdtNtfctn"`
	}
	camtNotification struct {
		Header   camtHeader    `xml:"GrpHdr"`
		Accounts []camtAccount `xml:"Ntfctn"` // one for each merchant and currency
	}
	camtHeader struct {
		MessageID string `xml:"MsgId"`
		Created   string `xml:"CreDtTm"`
		Info      string `xml:"AddtlInf"`
	}
	camtAccount struct {
		ID       string      `xml:"Id"`
		Created  string      `xml:"CreDtTm"`
		Merchant string      `xml:"Acct>Id>Othr>Id"`
		Scheme   string      `xml:"Acct>Id>Othr>SchmeNm>Prtry"`
		Currency string      `xml:"Acct>Ccy"`
		Summary  camtSummary `xml:"TxsSummry"`
		Entries  []camtEntry `xml:"Ntry"`
	}
	camtSummary struct {
		Count       int    `xml:"TtlNtries>NbOfNtries"`
		Sum         string `xml:"TtlNtries>Sum"`
		Net         string `xml:"TtlNtries>TtlNetNtry>Amt"`
		Direction   string `xml:"TtlNtries>TtlNetNtry>CdtDbtInd"`
		CreditCount int    `xml:"TtlCdtNtries>NbOfNtries"`
		CreditSum   string `xml:"TtlCdtNtries>Sum"`
		DebitCount  int    `xml:"TtlDbtNtries>NbOfNtries"`
		DebitSum    string `xml:"TtlDbtNtries>Sum"`
	}
	camtAmount struct {
		Currency string `xml:"Ccy,attr"`
		Value    string `xml:",chardata"`
	}
	camtEntry struct { // all that is of one kind
		Reference string            `xml:"NtryRef"`
		Amount    camtAmount        `xml:"Amt"`
		Direction string            `xml:"CdtDbtInd"`
		Reversal  bool              `xml:"RvslInd"`
		Status    string            `xml:"Sts>Cd"`
		Booked    string            `xml:"BookgDt>DtTm"`
		Domain    string            `xml:"BkTxCd>Domn>Cd"`
		Family    string            `xml:"BkTxCd>Domn>Fmly>Cd"`
		SubFamily string            `xml:"BkTxCd>Domn>Fmly>SubFmlyCd"`
		Count     int               `xml:"NtryDtls>Btch>NbOfTxs"`
		Total     camtAmount        `xml:"NtryDtls>Btch>TtlAmt"`
		Way       string            `xml:"NtryDtls>Btch>CdtDbtInd"`
		Details   []camtTransaction `xml:"NtryDtls>TxDtls"`
	}
	camtTransaction struct {
		EndToEnd    string     `xml:"Refs>EndToEndId"` // the retrieval reference number
		Transaction string     `xml:"Refs>TxId"`       // which names this one for the issuer
		Amount      camtAmount `xml:"Amt"`
		Direction   string     `xml:"CdtDbtInd"`
	}
)

// camtKinds are how the entries of each kind are told to a merchant: card payments are PMNT, MCRD.
var camtKinds = []struct {
	what               kind
	direction, subCode string
	reversal           bool
}{
	{entryCapture, "CRDT", "POSC", false},
	{entryUncapture, "DBIT", "POSC", true},
	{entryCredit, "DBIT", "DAJT", false},
	{entryUncredit, "CRDT", "DAJT", true},
}

// WriteXML writes what is paid in a settlement as ISO 20022 camt.054.001.08.
func (s *Settled) WriteXML(w io.Writer) error {
	cut := s.Cut.UTC().Format(time.RFC3339)
	id := fmt.Sprintf("%s-%06d", s.Acquirer, s.Number)
	doc := camtDocument{Notification: camtNotification{Header: camtHeader{
		MessageID: "SETTLEMENT-" + id, Created: cut, Info: fmt.Sprintf("Settlement %d of acquirer %s", s.Number, s.Acquirer),
	}}}
	for _, b := range s.Balances {
		for _, p := range b.Payouts {
			account := camtAccount{
				ID: fmt.Sprintf("%s-%04d", id, len(doc.Notification.Accounts)+1), Created: cut,
				Merchant: string(p.Merchant), Scheme: "SET merchant", Currency: b.Currency.String(),
			}
			s.addEntries(&account, p.Merchant, b.Currency, cut)
			doc.Notification.Accounts = append(doc.Notification.Accounts, account)
		}
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(doc); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// addEntries puts what is paid to a merchant in a currency into its notification.
func (s *Settled) addEntries(account *camtAccount, merchant set.MerchantID, c set.Currency, cut string) {
	var credits, debits finnet.Sum // Count is of entries
	for _, k := range camtKinds {
		e := camtEntry{
			Direction: k.direction, Reversal: k.reversal, Status: "BOOK", Booked: cut, Domain: "PMNT", Family: "MCRD", SubFamily: k.subCode, Way: k.direction,
		}
		var sum int64
		for _, i := range s.Items {
			if i.Merchant != merchant || i.Currency != c || i.What != string(k.what) || !i.Paid() {
				continue
			}
			sum += i.Amount
			e.Details = append(e.Details, camtTransaction{
				i.Trace.RRN, i.Trace.RRN + "-" + i.Trace.STAN, camtAmount{c.String(), Decimal(i.Amount, c)}, k.direction,
			})
		}
		if len(e.Details) == 0 {
			continue
		}
		e.Reference = fmt.Sprintf("%s-%d", account.ID, len(account.Entries)+1)
		e.Count, e.Amount = len(e.Details), camtAmount{c.String(), Decimal(sum, c)}
		e.Total = e.Amount
		account.Entries = append(account.Entries, e)
		of := &credits
		if k.direction == "DBIT" {
			of = &debits
		}
		of.Count, of.Amount = of.Count+1, of.Amount+sum
	}
	net, direction := credits.Amount-debits.Amount, "CRDT"
	if net < 0 {
		net, direction = -net, "DBIT"
	}
	account.Summary = camtSummary{
		Count: len(account.Entries), Sum: Decimal(credits.Amount+debits.Amount, c), Net: Decimal(net, c), Direction: direction,
		CreditCount: int(credits.Count), CreditSum: Decimal(credits.Amount, c), DebitCount: int(debits.Count), DebitSum: Decimal(debits.Amount, c),
	}
}

// Refused lists what the issuer refused.
func (s *Settled) Refused() []SettledItem {
	return slices.DeleteFunc(slices.Clone(s.Items), func(i SettledItem) bool { return i.State != string(entryRefused) })
}
