package set

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// Limits of an initiation message.
const (
	initiationOctetsMax = 64 << 10
	initiationLinesMax  = 200
)

// Kinds of initiation message (SET §8.3).
const (
	PaymentInitiation      = "Payment-Initiation"
	PaymentResumption      = "Payment-Resumption"
	RegistrationInitiation = "Registration-Initiation"
	InquiryInitiation      = "Inquiry-Initiation"
)

// Initiation is the message by which a shop's or CA's web server wakes the cardholder's software up
// (SET §8.3). It is not authenticated: what binds it is the HOD that the merchant compares with its own
// order, and the merchant's certificate, which the cardholder is shown.
type Initiation struct {
	Kind          string
	SETURL        string // takes the SET messages
	QueryURL      string
	SuccessURL    string
	FailureURL    string
	CancelURL     string
	DiagnosticURL string // optional
	ServiceURL    string // optional
	Versions      []string
	LIDM          LocalID // optional
	PurchAmt      *CurrencyAmount
	InstallRecur  *InstallRecurData // optional; without extensions
	Brands        []BrandID         // in the merchant's order of preference
	OrderType     string            // media type of Order
	Languages     []string
	Echo          string
	Extensions    MsgExtensions // of the order description

	Order []byte // the order description, exactly as it enters HODInput
}

// Encode writes the message.
func (m *Initiation) Encode() ([]byte, error) {
	var b bytes.Buffer
	var err error
	line := func(name, value string) {
		if !printableASCII(value) {
			err = fmt.Errorf("initiation message: SET-%s: a character that is not printable ASCII", name)
		}
		if value != "" {
			fmt.Fprintf(&b, "SET-%s: %s\r\n", name, value)
		}
	}
	line("Initiation-Type", m.Kind)
	line("Version", strings.Join(m.Versions, ", "))
	for _, f := range m.urls() {
		line(f.name, *f.value)
	}
	if m.LIDM != nil {
		line("LID-M", hex.EncodeToString(m.LIDM))
	}
	if a := m.PurchAmt; a != nil {
		line("PurchAmt", fmt.Sprintf("%d %d %d", a.Currency, a.Amount, a.AmtExp10))
	}
	if m.InstallRecur != nil {
		text, textErr := m.InstallRecur.initiationText()
		if textErr != nil {
			return nil, textErr
		}
		line("InstallRecur", text)
	}
	for _, brand := range m.Brands {
		line("Brand", string(brand))
	}
	line("Order-Description", m.OrderType)
	line("Language", strings.Join(m.Languages, ", "))
	for _, e := range m.Extensions {
		line("Ext-OID", e.ID.String())
		line("Ext-Mandatory", strings.ToUpper(strconv.FormatBool(e.Critical)))
		line("Ext-Data", base64.StdEncoding.EncodeToString(e.Value))
	}
	line("Echo", m.Echo)
	b.WriteString("\r\n")
	b.Write(m.Order)
	if err == nil {
		_, err = ParseInitiation(b.Bytes())
	}
	return b.Bytes(), err
}

type urlField struct {
	name     string
	required bool
	value    *string
}

func (m *Initiation) urls() []urlField {
	return []urlField{
		{"SET-URL", true, &m.SETURL},
		{"Query-URL", true, &m.QueryURL},
		{"Success-URL", true, &m.SuccessURL},
		{"Failure-URL", true, &m.FailureURL},
		{"Cancel-URL", true, &m.CancelURL},
		{"Diagnostic-URL", false, &m.DiagnosticURL},
		{"Service-URL", false, &m.ServiceURL},
	}
}

// ParseInitiation reads an initiation message. Fields that it does not know are left out.
func ParseInitiation(b []byte) (*Initiation, error) {
	if len(b) > initiationOctetsMax {
		return nil, fmt.Errorf("initiation message of %d octets: %d is the most", len(b), initiationOctetsMax)
	}
	m := &Initiation{OrderType: "text/plain"}
	for n := 0; ; n++ {
		line, rest, ok := bytes.Cut(b, []byte("\r\n"))
		if !ok || n == initiationLinesMax {
			return nil, errors.New("initiation message: no empty line ends its fields")
		}
		b = rest
		if len(line) == 0 {
			break
		}
		name, value, ok := strings.Cut(string(line), ":")
		if !ok {
			return nil, fmt.Errorf("initiation message: line %d has no colon", n+1)
		}
		if err := m.field(strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)); err != nil {
			return nil, fmt.Errorf("initiation message: line %d, %s: %w", n+1, strings.TrimSpace(name), err)
		}
	}
	m.Order = bytes.Clone(b)
	return m, m.check()
}

func (m *Initiation) field(name, value string) (err error) {
	if !printableASCII(value) {
		return errors.New("a character that is not printable ASCII")
	}
	for _, f := range m.urls() {
		if name == "set-"+strings.ToLower(f.name) {
			*f.value = value
			return checkURL(value)
		}
	}
	switch name {
	case "set-initiation-type":
		m.Kind = value
	case "set-version":
		m.Versions = list(value)
	case "set-lid-m":
		m.LIDM, err = hex.DecodeString(value)
		if len(m.LIDM) < 1 || len(m.LIDM) > 20 {
			err = errors.New("want 1 to 20 octets in hex")
		}
	case "set-purchamt":
		m.PurchAmt, err = parseAmount(value)
	case "set-installrecur":
		m.InstallRecur, err = parseInstallRecur(value)
	case "set-brand":
		brand, _, _ := strings.Cut(value, ";")
		m.Brands = append(m.Brands, BrandID(strings.TrimSpace(brand)))
	case "set-order-description":
		m.OrderType = value
	case "set-language":
		m.Languages = list(value)
	case "set-echo":
		m.Echo = value
	case "set-ext-oid", "set-ext-mandatory", "set-ext-data":
		err = m.extension(name, value)
	}
	return err
}

func printableASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e })
}

func list(value string) []string {
	items := strings.Split(value, ",")
	for i := range items {
		items[i] = strings.TrimSpace(items[i])
	}
	return items
}

func checkURL(value string) error {
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return errors.New("want an http or https address")
	}
	return nil
}

func parseAmount(value string) (*CurrencyAmount, error) {
	parts := strings.Fields(value)
	if len(parts) != 3 {
		return nil, errors.New("want currency, amount and exponent")
	}
	var n [3]int64
	for i, p := range parts {
		var err error
		if n[i], err = strconv.ParseInt(p, 10, 64); err != nil {
			return nil, errors.New("want three numbers: currency, amount and exponent")
		}
	}
	amount := CurrencyAmount{Currency: Currency(n[0]), Amount: Natural(n[1]), AmtExp10: n[2]}
	if n[0] < 1 || n[0] > 999 || n[1] < 0 {
		return nil, errors.New("want an ISO 4217 number and an amount of 0 or more")
	}
	return &amount, nil
}

// extension collects one group of SET-Ext lines, which starts with its OID.
func (m *Initiation) extension(name, value string) error {
	if name == "set-ext-oid" {
		oid, err := parseOID(value)
		m.Extensions = append(m.Extensions, MsgExtension{ID: oid})
		return err
	}
	if len(m.Extensions) == 0 {
		return errors.New("before SET-Ext-OID")
	}
	last := &m.Extensions[len(m.Extensions)-1]
	if name == "set-ext-mandatory" {
		if value != "TRUE" && value != "FALSE" {
			return errors.New("want TRUE or FALSE")
		}
		last.Critical = value == "TRUE"
		return nil
	}
	raw, err := base64.StdEncoding.DecodeString(value)
	last.Value = raw
	return err
}

func (m *Initiation) check() error {
	for _, f := range m.urls() {
		if f.required && *f.value == "" {
			return fmt.Errorf("initiation message: SET-%s is missing", f.name)
		}
	}
	switch m.Kind {
	case PaymentInitiation, PaymentResumption:
		if m.PurchAmt == nil || len(m.Brands) == 0 {
			return errors.New("initiation message: SET-PurchAmt or SET-Brand is missing")
		}
	case RegistrationInitiation, InquiryInitiation:
	default:
		return fmt.Errorf("initiation message: SET-Initiation-Type is missing or unknown: %q", m.Kind)
	}
	for _, v := range m.Versions {
		if v == "1.0" {
			return nil
		}
	}
	return errors.New("initiation message: SET-Version does not list 1.0")
}
