package issuer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
)

const (
	fileBytesMax = 1 << 20
	idBytesMax   = 32
)

// accountsFile is the YAML of an accounts file.
type accountsFile struct {
	Accounts []accountEntry `yaml:"accounts"`
}

type accountEntry struct {
	ID        string `yaml:"id"`
	PAN       string `yaml:"pan"`
	Expiry    string `yaml:"expiry"`    // YYYY-MM
	Holder    string `yaml:"holder"`    // as on the card
	Available string `yaml:"available"` // e.g. 500.00 USD
	Status    Status `yaml:"status"`
	Secret    string `yaml:"secret"`
}

// ReadAccounts reads an accounts file: YAML, of which testdata/accounts.yaml is the example. Unknown keys
// are refused. Errors name the line or the account, and show no card data.
func ReadAccounts(r io.Reader) ([]Account, error) {
	text, err := io.ReadAll(io.LimitReader(r, fileBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("read accounts: %w", err)
	}
	defer clear(text)
	if len(text) > fileBytesMax {
		return nil, fmt.Errorf("accounts file is larger than %d bytes", fileBytesMax)
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	var file accountsFile
	if err := dec.Decode(&file); errors.Is(err, io.EOF) {
		return nil, errors.New("accounts file is empty")
	} else if err != nil {
		return nil, fmt.Errorf("accounts file: %w", maskYAML(err))
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("accounts file holds more than one document")
	}
	if len(file.Accounts) == 0 {
		return nil, errors.New("accounts file has no accounts")
	}
	accounts := make([]Account, len(file.Accounts))
	for n, e := range file.Accounts {
		a, err := e.account()
		if err == nil {
			err = a.check()
		}
		if err != nil {
			return nil, fmt.Errorf("account %d (%q): %w", n+1, e.ID, err)
		}
		accounts[n] = a
	}
	return accounts, nil
}

var quotedInYAML = regexp.MustCompile("`[^`]*`")

// maskYAML drops the values that the decoder quotes.
func maskYAML(err error) error {
	if _, ok := errors.AsType[*yaml.TypeError](err); ok {
		return errors.New(quotedInYAML.ReplaceAllString(err.Error(), "***"))
	}
	return errors.New("it is not YAML: " + strings.Split(err.Error(), ":")[0])
}

func (e accountEntry) account() (a Account, err error) {
	a = Account{ID: e.ID, Holder: e.Holder, Status: e.Status, Secret: []byte(e.Secret)}
	if a.PAN, err = set.ParsePAN([]byte(e.PAN)); err != nil {
		return a, err
	}
	year, month, ok := strings.Cut(e.Expiry, "-")
	if !ok || len(year) != 4 {
		return a, errors.New("expiry is not YYYY-MM")
	}
	if a.Expiry, err = set.ParseCardExpiry([]byte(year + month)); err != nil {
		return a, err
	}
	a.Available, err = parseAmount(e.Available)
	return a, err
}

// parseAmount reads an amount such as "500.00 USD": all decimal places of the currency, or none.
func parseAmount(s string) (set.CurrencyAmount, error) {
	number, code, _ := strings.Cut(s, " ")
	currency, err := finnet.ParseCurrency(code)
	if err != nil {
		return set.CurrencyAmount{}, fmt.Errorf("amount %q: %w: write it like 500.00 USD", s, err)
	}
	places, _ := finnet.MinorPlaces(currency)
	whole, fraction, hasFraction := strings.Cut(number, ".")
	if hasFraction && len(fraction) != places {
		return set.CurrencyAmount{}, fmt.Errorf("amount %q: %s has %d decimal places", s, code, places)
	}
	if !hasFraction {
		fraction = strings.Repeat("0", places)
	}
	var n int64
	for _, c := range whole + fraction {
		if c < '0' || c > '9' || n > 1e12 {
			return set.CurrencyAmount{}, fmt.Errorf("amount %q is not a number of at most 12 digits", s)
		}
		n = n*10 + int64(c-'0')
	}
	if whole == "" {
		return set.CurrencyAmount{}, fmt.Errorf("amount %q is not a number", s)
	}
	return finnet.FromMinorUnits(n, currency), nil
}

func (a Account) check() error {
	if a.ID == "" || len(a.ID) > idBytesMax || strings.Trim(a.ID, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("id is not 1 to %d lower-case letters, digits and hyphens", idBytesMax)
	}
	if a.Holder == "" || len(a.Holder) > finnet.HolderBytesMax || strings.ContainsRune(a.Holder, 0) {
		return fmt.Errorf("holder's name is not 1 to %d bytes", finnet.HolderBytesMax)
	}
	if n := len(a.Secret); n == 0 || n > finnet.SecretBytesMax {
		return fmt.Errorf("registration secret is not 1 to %d bytes", finnet.SecretBytesMax)
	}
	switch a.Status {
	case Active, Blocked, Stolen, Closed:
	default:
		return fmt.Errorf("status %q is not active, blocked, stolen or closed", a.Status)
	}
	if _, err := set.ParsePAN(a.PAN); err != nil {
		return err
	}
	_, err := set.ParseCardExpiry(a.Expiry)
	return err
}
