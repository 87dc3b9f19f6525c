package set

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/setkit/setkit/roles/set/der"
)

// Instalments allows at most n authorizations, 2 or more (SET §2.10).
func Instalments(n int) *InstallRecurData {
	total := InstallTotalTrans(n)
	return &InstallRecurData{InstallRecurInd: InstallRecurInd{InstallTotalTrans: &total}}
}

// RecurringPayments allows an authorization every so many days, 1 to 300, to the end of the last day in UTC
// (SET §2.10).
func RecurringPayments(days int, last time.Time) *InstallRecurData {
	y, m, d := last.UTC().Date()
	return &InstallRecurData{InstallRecurInd: InstallRecurInd{Recurring: &Recurring{
		RecurringFrequency: RecurringFrequency(days), RecurringExpiry: time.Date(y, m, d, 23, 59, 59, 0, time.UTC),
	}}}
}

// Text tells a person what is agreed, such as "in 5 instalments"; nothing, when d is nil.
func (d *InstallRecurData) Text() string {
	switch r := d.recurring(); {
	case r != nil:
		often := "day"
		if r.RecurringFrequency != 1 {
			often = fmt.Sprintf("%d days", r.RecurringFrequency)
		}
		return fmt.Sprintf("every %s until %s", often, r.RecurringExpiry.UTC().Format(time.DateOnly))
	case d.instalments() != nil:
		return fmt.Sprintf("in %d instalments", *d.instalments())
	}
	return ""
}

// recurring gives the bounds of recurring payments, nil when d is of instalments or of neither.
func (d *InstallRecurData) recurring() *Recurring {
	if d == nil {
		return nil
	}
	return d.InstallRecurInd.Recurring
}

// instalments gives the most authorizations, nil when d is not of instalments.
func (d *InstallRecurData) instalments() *InstallTotalTrans {
	if d == nil {
		return nil
	}
	return d.InstallRecurInd.InstallTotalTrans
}

// equal tells whether two parties mean the same.
func (d *InstallRecurData) equal(other *InstallRecurData) bool {
	if d == nil || other == nil {
		return d == nil && other == nil
	}
	a, err := der.Marshal(d)
	b, otherErr := der.Marshal(other)
	return err == nil && otherErr == nil && bytes.Equal(a, b)
}

func (d *InstallRecurData) extensions() MsgExtensions {
	if d == nil {
		return nil
	}
	return d.Extensions
}

// dayLayout is how an initiation message writes a day.
const dayLayout = "20060102"

// initiationText is the value of SET-InstallRecur (SET §8.3).
func (d *InstallRecurData) initiationText() (string, error) {
	var text string
	switch r := d.recurring(); {
	case r != nil:
		text = fmt.Sprintf("recur %d %s", r.RecurringFrequency, r.RecurringExpiry.UTC().Format(dayLayout))
	case d.instalments() != nil:
		text = fmt.Sprintf("install %d", *d.instalments())
	}
	if again, err := parseInstallRecur(text); err != nil || !again.equal(d) {
		return "", errors.New("initiation message: SET-InstallRecur cannot say this: make it by Instalments or RecurringPayments")
	}
	return text, nil
}

// parseInstallRecur reads the value of SET-InstallRecur.
func parseInstallRecur(value string) (*InstallRecurData, error) {
	words := strings.Fields(value)
	number := func(low, high int) (int, error) {
		n, err := strconv.Atoi(words[1])
		if err != nil || n < low || n > high {
			return 0, fmt.Errorf("want a number from %d to %d", low, high)
		}
		return n, nil
	}
	switch {
	case len(words) == 2 && words[0] == "install":
		n, err := number(2, instalmentsMax)
		return Instalments(n), err
	case len(words) == 3 && words[0] == "recur":
		days, err := number(1, recurringDaysMax)
		if err != nil {
			return nil, err
		}
		last, err := time.Parse(dayLayout, words[2])
		if err != nil {
			return nil, errors.New("want the last day as YYYYMMDD")
		}
		return RecurringPayments(days, last), nil
	}
	return nil, errors.New(`want "install N" or "recur DAYS YYYYMMDD"`)
}

// Limits of what an initiation message may say.
const (
	instalmentsMax   = 1000
	recurringDaysMax = 300
)
