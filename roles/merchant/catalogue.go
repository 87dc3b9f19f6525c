package merchant

import (
	"fmt"
	"math"
	"regexp"
	"strings"
	"unicode"

	"github.com/setkit/setkit/roles/set"
)

// QuantityMax is the highest quantity of one line of an order.
const QuantityMax = 999

// Limits of a catalogue and of an order.
const (
	itemsMax        = 1000
	nameOctetsMax   = 100
	orderLinesMax   = 50
	orderAmountMax  = 1_000_000_000_000 // minor units; ISO 8583 carries twelve digits
	currencyCodeMax = 999
)

// Catalogue is what the shop sells, all in one currency.
type Catalogue struct {
	Currency string `yaml:"currency" json:"currency"` // ISO 4217 code, such as EUR
	Items    []Item `yaml:"items" json:"items"`

	// Terms are those that a customer may choose instead of paying at once.
	Terms []Terms `yaml:"terms" json:"terms,omitempty"`
}

// Item is one thing to buy.
type Item struct {
	ID    string `yaml:"id" json:"id"`
	Name  string `yaml:"name" json:"name"`
	Price int64  `yaml:"price" json:"price"` // in minor units of the currency
}

// Line is one line of an order, with name and price as they were when it was made.
type Line struct {
	Item     string `json:"item"`
	Name     string `json:"name"`
	Quantity int64  `json:"quantity"`
	Price    int64  `json:"price"` // of one, in minor units
}

var itemID = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)

// currencies without two decimal places, of those that have a code here.
var exponents = map[string]int64{"JPY": 0, "KRW": 0}

// amount gives minor units of the catalogue's currency as SET has them.
func (c *Catalogue) amount(minor int64) (set.CurrencyAmount, error) {
	for n := set.Currency(1); n <= currencyCodeMax; n++ {
		if n.String() == c.Currency {
			exponent, ok := exponents[c.Currency]
			if !ok {
				exponent = -2
			}
			return set.CurrencyAmount{Currency: n, Amount: set.Natural(minor), AmtExp10: exponent}, nil
		}
	}
	return set.CurrencyAmount{}, fmt.Errorf("catalogue: currency %q is not known: write an ISO 4217 code such as EUR", c.Currency)
}

// check holds the catalogue against its limits.
func (c *Catalogue) check() error {
	if _, err := c.amount(0); err != nil {
		return err
	}
	if len(c.Items) == 0 || len(c.Items) > itemsMax {
		return fmt.Errorf("catalogue: %d items, want 1 to %d", len(c.Items), itemsMax)
	}
	for _, t := range c.Terms {
		if _, err := t.parse(); err != nil {
			return fmt.Errorf("catalogue: %w", err)
		}
	}
	seen := make(map[string]bool)
	for i, item := range c.Items {
		switch {
		case !itemID.MatchString(item.ID):
			return fmt.Errorf("catalogue: item %d: id %q: want up to 40 lower-case letters, digits and hyphens", i+1, item.ID)
		case seen[item.ID]:
			return fmt.Errorf("catalogue: item %q is there twice", item.ID)
		case item.Name == "" || len(item.Name) > nameOctetsMax || strings.ContainsFunc(item.Name, unicode.IsControl):
			return fmt.Errorf("catalogue: item %q: want a name of one line and at most %d octets", item.ID, nameOctetsMax)
		case item.Price < 1 || item.Price >= orderAmountMax:
			return fmt.Errorf("catalogue: item %q: price %d: want minor units, from 1 to less than %d", item.ID, item.Price, int64(orderAmountMax))
		}
		seen[item.ID] = true
	}
	return nil
}

// price makes the lines of an order and their total in minor units.
func (c *Catalogue) price(want []LineRequest) (lines []Line, total int64, err error) {
	if len(want) == 0 || len(want) > orderLinesMax {
		return nil, 0, fmt.Errorf("%w: %d lines, want 1 to %d", ErrOrderInvalid, len(want), orderLinesMax)
	}
	for _, w := range want {
		item := &Item{Name: w.Name, Price: w.Price}
		if w.Item != "" {
			item = c.find(w.Item)
		}
		switch {
		case item == nil || w.Item != "" && (w.Name != "" || w.Price != 0):
			return nil, 0, fmt.Errorf("%w: there is no such item", ErrOrderInvalid)
		case item.Name == "" || len(item.Name) > nameOctetsMax || strings.ContainsFunc(item.Name, unicode.IsControl):
			return nil, 0, fmt.Errorf("%w: want names of one line and at most %d octets", ErrOrderInvalid, nameOctetsMax)
		case item.Price < 1 || item.Price >= orderAmountMax:
			return nil, 0, fmt.Errorf("%w: want prices in minor units, from 1 to less than %d", ErrOrderInvalid, int64(orderAmountMax))
		case w.Quantity < 1 || w.Quantity > QuantityMax:
			return nil, 0, fmt.Errorf("%w: quantity %d of %s, want 1 to %d", ErrOrderInvalid, w.Quantity, item.Name, QuantityMax)
		case item.Price > (math.MaxInt64-total)/w.Quantity || total+item.Price*w.Quantity >= orderAmountMax:
			return nil, 0, fmt.Errorf("%w: the total is too high", ErrOrderInvalid)
		}
		total += item.Price * w.Quantity
		lines = append(lines, Line{Item: item.ID, Name: item.Name, Quantity: w.Quantity, Price: item.Price})
	}
	return lines, total, nil
}

// Total prices what may be ordered: its lines and what they cost together. It gives ErrOrderInvalid if the shop
// does not sell it so.
func (c *Catalogue) Total(want []LineRequest) (lines []Line, total Money, err error) {
	lines, minor, err := c.price(want)
	if err != nil {
		return nil, Money{}, err
	}
	return lines, c.Money(minor), nil
}

// Money gives an amount in the catalogue's currency.
func (c *Catalogue) Money(minor int64) Money {
	amount, _ := c.amount(minor) // the currency was checked
	return money(amount)
}

func (c *Catalogue) find(id string) *Item {
	for i := range c.Items {
		if c.Items[i].ID == id {
			return &c.Items[i]
		}
	}
	return nil
}

// describe is the order description that cardholder and merchant both put into the digest of the order.
func describe(number int64, lines []Line, total set.CurrencyAmount, terms Terms) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "Order %d", number)
	for _, l := range lines {
		each := total
		each.Amount = set.Natural(l.Price)
		fmt.Fprintf(&b, "\r\n%d x %s at %v", l.Quantity, l.Name, each)
	}
	fmt.Fprintf(&b, "\r\nTotal %v", total)
	if text := terms.Text(); text != "" {
		fmt.Fprintf(&b, "\r\n%s", text)
	}
	return []byte(b.String())
}
