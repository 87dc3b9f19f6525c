package merchant

import (
	"fmt"
	"strings"
	"time"

	"github.com/setkit/setkit/roles/set"
)

// Terms are how an order is paid: "" at once, "split" shipment by shipment, "install N" in N instalments, or
// "recur DAYS YYYYMMDD" again every so many days until that day (SET §7.5).
type Terms string

// termsSplit has each shipment authorized by itself. It is between merchant and gateway.
const termsSplit Terms = "split"

// Bounds of what may be agreed (SET §2.10).
const (
	instalmentsMax = 1000
	recurDaysMax   = 300
)

// parse gives what merchant and cardholder agree on, nil if there is nothing.
func (t Terms) parse() (*set.InstallRecurData, error) {
	words := strings.Fields(string(t))
	var n int
	switch {
	case t == "" || t == termsSplit:
		return nil, nil
	case len(words) == 2 && words[0] == "install":
		if _, err := fmt.Sscanf(words[1], "%d", &n); err == nil && n >= 2 && n <= instalmentsMax && string(t) == fmt.Sprintf("install %d", n) {
			return set.Instalments(n), nil
		}
	case len(words) == 3 && words[0] == "recur":
		last, err := time.Parse("20060102", words[2])
		if err != nil {
			break
		}
		if _, err := fmt.Sscanf(words[1], "%d", &n); err == nil && n >= 1 && n <= recurDaysMax && string(t) == fmt.Sprintf("recur %d %s", n, words[2]) {
			return set.RecurringPayments(n, last), nil
		}
	}
	return nil, fmt.Errorf(`terms %q: want "split", "install N" or "recur DAYS YYYYMMDD"`, string(t))
}

// Text tells a customer what the terms are.
func (t Terms) Text() string {
	d, err := t.parse()
	switch {
	case err != nil:
		return string(t)
	case t == termsSplit:
		return "Each shipment is paid by itself."
	case d == nil:
		return ""
	}
	return "Paid " + d.Text() + "."
}
