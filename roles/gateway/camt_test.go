package gateway_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strconv"
	"strings"
)

// element is an XML element as it stands.
type element struct {
	XMLName xml.Name
	Attrs   []xml.Attr `xml:",any,attr"`
	Nested  []*element `xml:",any"`
	Text    string     `xml:",chardata"`
}

func (e *element) child(path string) *element {
	name, rest, more := strings.Cut(path, ">")
	for _, c := range e.Nested {
		if c.XMLName.Local != name {
			continue
		}
		if more {
			return c.child(rest)
		}
		return c
	}
	return nil
}

func (e *element) text(path string) string {
	if c := e.child(path); c != nil {
		return c.Text
	}
	return ""
}

// camtRules is the part of camt.054.001.08 that the report uses: of each type its elements in the order of the
// schema, with their types; those that the schema demands end in "!", those that may repeat in "*".
// Other elements of the schema are taken for faults: the report must not have them.
var camtRules = map[string][]string{
	"Document": {"BkToCstmrDbtCdtNtfctn:BankToCustomerDebitCreditNotificationV08!"},
	"BankToCustomerDebitCreditNotificationV08": {"GrpHdr:GroupHeader81!", "Ntfctn:AccountNotification17!*"},
	"GroupHeader81":                 {"MsgId:Max35Text!", "CreDtTm:ISODateTime!", "MsgRcpt:PartyIdentification135", "AddtlInf:Max500Text"},
	"AccountNotification17":         {"Id:Max35Text!", "ElctrncSeqNb:Number", "CreDtTm:ISODateTime", "Acct:CashAccount39!", "TxsSummry:TotalTransactions6", "Ntry:ReportEntry10*", "AddtlNtfctnInf:Max500Text"},
	"CashAccount39":                 {"Id:AccountIdentification4Choice!", "Tp:CashAccountType2Choice", "Ccy:ActiveOrHistoricCurrencyCode"},
	"AccountIdentification4Choice":  {"Othr:GenericAccountIdentification1!"},
	"GenericAccountIdentification1": {"Id:Max34Text!", "SchmeNm:AccountSchemeName1Choice", "Issr:Max35Text"},
	"AccountSchemeName1Choice":      {"Prtry:Max35Text!"},
	"TotalTransactions6":            {"TtlNtries:NumberAndSumOfTransactions4", "TtlCdtNtries:NumberAndSumOfTransactions1", "TtlDbtNtries:NumberAndSumOfTransactions1"},
	"NumberAndSumOfTransactions4":   {"NbOfNtries:Max15NumericText", "Sum:DecimalNumber", "TtlNetNtry:AmountAndDirection35"},
	"NumberAndSumOfTransactions1":   {"NbOfNtries:Max15NumericText", "Sum:DecimalNumber"},
	"AmountAndDirection35":          {"Amt:NonNegativeDecimalNumber!", "CdtDbtInd:CreditDebitCode!"},
	"ReportEntry10": {"NtryRef:Max35Text", "Amt:ActiveOrHistoricCurrencyAndAmount!", "CdtDbtInd:CreditDebitCode!", "RvslInd:TrueFalseIndicator",
		"Sts:EntryStatus1Choice!", "BookgDt:DateAndDateTime2Choice", "ValDt:DateAndDateTime2Choice", "AcctSvcrRef:Max35Text",
		"BkTxCd:BankTransactionCodeStructure4!", "NtryDtls:EntryDetails9*", "AddtlNtryInf:Max500Text"},
	"EntryStatus1Choice":            {"Cd:ExternalEntryStatus1Code!"},
	"DateAndDateTime2Choice":        {"DtTm:ISODateTime!"},
	"BankTransactionCodeStructure4": {"Domn:BankTransactionCodeStructure5"},
	"BankTransactionCodeStructure5": {"Cd:Max4Code!", "Fmly:BankTransactionCodeStructure6!"},
	"BankTransactionCodeStructure6": {"Cd:Max4Code!", "SubFmlyCd:Max4Code!"},
	"EntryDetails9":                 {"Btch:BatchInformation2", "TxDtls:EntryTransaction10*"},
	"BatchInformation2":             {"MsgId:Max35Text", "PmtInfId:Max35Text", "NbOfTxs:Max15NumericText", "TtlAmt:ActiveOrHistoricCurrencyAndAmount", "CdtDbtInd:CreditDebitCode"},
	"EntryTransaction10":            {"Refs:TransactionReferences6", "Amt:ActiveOrHistoricCurrencyAndAmount", "CdtDbtInd:CreditDebitCode"},
	"TransactionReferences6":        {"MsgId:Max35Text", "AcctSvcrRef:Max35Text", "PmtInfId:Max35Text", "InstrId:Max35Text", "EndToEndId:Max35Text", "UETR:UUIDv4Identifier", "TxId:Max35Text"},
}

// camtTexts are the simple types.
var camtTexts = map[string]*regexp.Regexp{
	"Max34Text": regexp.MustCompile(`^.{1,34}$`), "Max35Text": regexp.MustCompile(`^.{1,35}$`), "Max500Text": regexp.MustCompile(`^.{1,500}$`),
	"Max4Code": regexp.MustCompile(`^[A-Z]{4}$`), "Max15NumericText": regexp.MustCompile(`^[0-9]{1,15}$`),
	"ISODateTime":                  regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?$`),
	"DecimalNumber":                regexp.MustCompile(`^-?\d{1,17}(\.\d{1,17})?$`),
	"NonNegativeDecimalNumber":     regexp.MustCompile(`^\d{1,17}(\.\d{1,17})?$`),
	"CreditDebitCode":              regexp.MustCompile(`^(CRDT|DBIT)$`),
	"TrueFalseIndicator":           regexp.MustCompile(`^(true|false)$`),
	"ExternalEntryStatus1Code":     regexp.MustCompile(`^(BOOK|PDNG|INFO)$`),
	"ActiveOrHistoricCurrencyCode": regexp.MustCompile(`^[A-Z]{3}$`),
	// At most 18 digits, of which 5 after the point.
	"ActiveOrHistoricCurrencyAndAmount": regexp.MustCompile(`^\d{1,13}(\.\d{1,5})?$`),
}

const camtNamespace = "urn:iso:std:iso:20022:tech:xsd:camt.054.001.08"

// checkCamt054 checks a message against the rules of the schema and of the standard, and gives the net of
// every account.
func checkCamt054(b []byte) (nets []string, err error) {
	var doc element
	d := xml.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&doc); err != nil {
		return nil, err
	}
	if doc.XMLName.Local != "Document" || doc.XMLName.Space != camtNamespace {
		return nil, fmt.Errorf("the root is %v", doc.XMLName)
	}
	if err := doc.check("Document"); err != nil {
		return nil, err
	}
	ids := make(map[string]bool)
	for _, n := range doc.child("BkToCstmrDbtCdtNtfctn").Nested[1:] {
		net, err := n.checkTotals()
		if err != nil {
			return nil, err
		}
		if id := n.text("Id"); ids[id] {
			return nil, fmt.Errorf("two notifications are called %s", id)
		}
		ids[n.text("Id")] = true
		nets = append(nets, n.text("Acct>Id>Othr>Id")+" "+net)
	}
	return nets, nil
}

// check checks an element and all in it against its type.
func (e *element) check(typ string) error {
	if e.XMLName.Space != camtNamespace {
		return fmt.Errorf("%s is in the namespace %q", e.XMLName.Local, e.XMLName.Space)
	}
	if pattern, ok := camtTexts[typ]; ok {
		if len(e.Nested) > 0 || !pattern.MatchString(e.Text) {
			return fmt.Errorf("%s: %q is no %s", e.XMLName.Local, e.Text, typ)
		}
		if typ == "ActiveOrHistoricCurrencyAndAmount" && (len(e.Attrs) != 1 || e.Attrs[0].Name.Local != "Ccy") {
			return fmt.Errorf("%s has no currency", e.XMLName.Local)
		}
		return nil
	}
	rules, ok := camtRules[typ]
	if !ok || strings.TrimSpace(e.Text) != "" {
		return fmt.Errorf("%s is a %s, which the report does not use, or has text", e.XMLName.Local, typ)
	}
	left := e.Nested
	for _, rule := range rules {
		name, of, _ := strings.Cut(strings.TrimRight(rule, "!*"), ":")
		found := 0
		for len(left) > 0 && left[0].XMLName.Local == name && (found == 0 || strings.HasSuffix(rule, "*")) {
			if err := left[0].check(of); err != nil {
				return err
			}
			left, found = left[1:], found+1
		}
		if found == 0 && strings.Contains(rule, "!") {
			return fmt.Errorf("%s has no %s", e.XMLName.Local, name)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("%s: %s is out of order, or not part of it", e.XMLName.Local, left[0].XMLName.Local)
	}
	return nil
}

var decimalsOf = map[string]int{"USD": 2, "JPY": 0}

// money reads an amount of a currency, which has its number of decimals.
func money(text, currency string) (*big.Rat, error) {
	_, fraction, _ := strings.Cut(text, ".")
	n, ok := new(big.Rat).SetString(text)
	if want, known := decimalsOf[currency]; !ok || !known || len(fraction) != want {
		return nil, fmt.Errorf("%q is no amount in %s", text, currency)
	}
	return n, nil
}

// totals count and sum up.
type totals struct {
	n   int
	sum big.Rat
}

func (t *totals) add(n *big.Rat) {
	t.n++
	t.sum.Add(&t.sum, n)
}

func (t *totals) check(e *element, count, sum string) error {
	stated, ok := new(big.Rat).SetString(e.text(sum))
	if e.text(count) != strconv.Itoa(t.n) || !ok || stated.Cmp(&t.sum) != 0 {
		return fmt.Errorf("%s states %s of %s, there are %d of %s", e.XMLName.Local, e.text(count), e.text(sum), t.n, t.sum.FloatString(2))
	}
	return nil
}

// checkTotals checks the sums of one notification, and gives its net.
func (e *element) checkTotals() (string, error) {
	currency := e.text("Acct>Ccy")
	of := map[string]*totals{"CRDT": {}, "DBIT": {}}
	var all totals
	for _, entry := range e.Nested {
		if entry.XMLName.Local != "Ntry" {
			continue
		}
		n, err := entry.checkEntry(currency)
		if err != nil {
			return "", err
		}
		of[entry.text("CdtDbtInd")].add(n)
		all.add(n)
	}
	s := e.child("TxsSummry")
	net := new(big.Rat).Sub(&of["CRDT"].sum, &of["DBIT"].sum)
	stated, err := money(s.text("TtlNtries>TtlNetNtry>Amt"), currency)
	if err != nil {
		return "", err
	}
	if s.text("TtlNtries>TtlNetNtry>CdtDbtInd") == "DBIT" {
		stated.Neg(stated)
	}
	if stated.Cmp(net) != 0 {
		err = errors.New("the net is not that of the entries")
	}
	return net.FloatString(decimalsOf[currency]) + " " + currency, errors.Join(err, all.check(s, "TtlNtries>NbOfNtries", "TtlNtries>Sum"),
		of["CRDT"].check(s, "TtlCdtNtries>NbOfNtries", "TtlCdtNtries>Sum"), of["DBIT"].check(s, "TtlDbtNtries>NbOfNtries", "TtlDbtNtries>Sum"))
}

// checkEntry checks an entry against its transactions.
func (e *element) checkEntry(currency string) (*big.Rat, error) {
	details := e.child("NtryDtls")
	var all totals
	for _, tx := range details.Nested[1:] {
		n, err := money(tx.text("Amt"), currency)
		if err != nil {
			return nil, err
		}
		if tx.child("Amt").Attrs[0].Value != currency || tx.text("CdtDbtInd") != e.text("CdtDbtInd") {
			return nil, errors.New("a transaction is of another currency or direction than its entry")
		}
		all.add(n)
	}
	n, err := money(e.text("Amt"), currency)
	if err == nil && (n.Cmp(&all.sum) != 0 || e.child("Amt").Attrs[0].Value != currency) {
		err = errors.New("an entry is not the sum of its transactions")
	}
	return n, errors.Join(err, all.check(details.child("Btch"), "NbOfTxs", "TtlAmt"))
}
