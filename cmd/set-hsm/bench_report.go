package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/tokenload"
	"github.com/setkit/setkit/hsm"
)

// benchReport is what the benchmark has found, as --json prints it.
type benchReport struct {
	Token       hsm.TokenInfo      `json:"token"`
	Seconds     float64            `json:"seconds"` // of each measurement
	Results     []benchResult      `json:"results"`
	Unsupported []benchUnsupported `json:"unsupported"`
	Roles       []benchRole        `json:"roles"`
}

// benchResult is one measurement. Times are in milliseconds.
type benchResult struct {
	Mechanism  string      `json:"mechanism"`
	KeyType    hsm.KeyType `json:"keyType,omitempty"`
	Callers    int         `json:"callers"`
	Operations int         `json:"operations"`
	PerSecond  float64     `json:"perSecond"`
	P50        float64     `json:"p50ms"`
	P90        float64     `json:"p90ms"`
	P99        float64     `json:"p99ms"`
	Max        float64     `json:"maxms"`
}

// benchUnsupported is something that the token lacks a mechanism for.
type benchUnsupported struct {
	Mechanism string `json:"mechanism"`
	Lacks     string `json:"lacks"`
}

// benchRole is how much of its work a party could do with this token.
type benchRole struct {
	Role  string         `json:"role"`
	Unit  string         `json:"unit"`  // what is done so often
	Calls map[string]int `json:"calls"` // for one unit, by mechanism
	// PerSecond is 0 where a mechanism was not measured.
	PerSecond float64  `json:"perSecond"`
	Missing   []string `json:"missing"` // mechanisms not measured
}

func newBenchReport(token hsm.TokenInfo, p benchPlan) *benchReport {
	return &benchReport{Token: token, Seconds: p.turn.Seconds(), Results: []benchResult{}, Unsupported: []benchUnsupported{}, Roles: []benchRole{}}
}

// callMechanisms are the mechanisms of the calls, for keys of the types that the token plan has.
var callMechanisms = map[tokenload.Call]string{
	{Purpose: "sign", Operation: "sign"}:            "sign-ec-p256",
	{Purpose: "cert-sign", Operation: "sign"}:       "sign-ec-p256",
	{Purpose: "key-exchange", Operation: "decrypt"}: "decrypt-oaep-rsa-2048",
	{Purpose: "mac", Operation: "mac"}:              "mac-hmac-sha256",
	{Purpose: "seal", Operation: "seal"}:            "seal-aes-256",
	{Purpose: "seal", Operation: "open"}:            "open-aes-256",
}

// best is the greatest rate of a mechanism, with whatever number of callers.
func (r *benchReport) best(mechanism string) (rate float64) {
	for _, m := range r.Results {
		if m.Mechanism == mechanism {
			rate = max(rate, m.PerSecond)
		}
	}
	return rate
}

// addRoles works out how often a token could do what a role needs. Each call takes as much of the token's
// time as it does where many of its kind run.
func (r *benchReport) addRoles() {
	for _, role := range tokenload.Roles {
		b := benchRole{Role: role.Name, Unit: role.Unit, Calls: map[string]int{}, Missing: []string{}}
		for call, n := range role.Calls {
			b.Calls[callMechanisms[call]] += n
		}
		seconds := 0.0
		for mechanism, n := range b.Calls {
			rate := r.best(mechanism)
			if rate == 0 {
				b.Missing = append(b.Missing, mechanism)
				continue
			}
			seconds += float64(n) / rate
		}
		slices.Sort(b.Missing)
		if len(b.Missing) == 0 {
			b.PerSecond = 1 / seconds
		}
		r.Roles = append(r.Roles, b)
	}
}

// text says what one unit takes.
func (b benchRole) text() string {
	mechanisms := slices.SortedFunc(maps.Keys(b.Calls), func(x, y string) int {
		return cmp.Or(cmp.Compare(b.Calls[y], b.Calls[x]), cmp.Compare(x, y))
	})
	for i, m := range mechanisms {
		mechanisms[i] = fmt.Sprintf("%d %s", b.Calls[m], m)
	}
	return strings.Join(mechanisms, ", ")
}

// rate says how many units a second, if all that it takes was measured.
func (b benchRole) rate() string {
	if len(b.Missing) > 0 {
		return "not measured"
	}
	return threeDigits(b.PerSecond)
}

// threeDigits prints a number with three digits or more.
func threeDigits(x float64) string {
	decimals := 0
	for _, limit := range []float64{100, 10, 1} {
		if x < limit {
			decimals++
		}
	}
	return strconv.FormatFloat(x, 'f', decimals, 64)
}

// benchBarCells is the length of the longest bar in the table.
const benchBarCells = 24

func (r *benchReport) print(w io.Writer) error {
	rows := make([][]string, len(r.Results))
	for i, m := range r.Results {
		cells := int(benchBarCells*m.PerSecond/r.best(m.Mechanism) + 0.5)
		rows[i] = []string{m.Mechanism, strconv.Itoa(m.Callers), threeDigits(m.PerSecond), threeDigits(m.P50), threeDigits(m.P90), threeDigits(m.P99), threeDigits(m.Max),
			strings.Repeat("█", cells)}
	}
	header := []string{"MECHANISM", "CALLERS", "PER SECOND", "P50 MS", "P90 MS", "P99 MS", "MAX MS", ""}
	if err := cli.Table(w, header, rows); err != nil {
		return err
	}
	for _, u := range r.Unsupported {
		fmt.Fprintf(w, "%s is not supported: the token does not have %s\n", u.Mechanism, u.Lacks)
	}
	fmt.Fprintln(w)
	rows = rows[:0]
	for _, b := range r.Roles {
		rows = append(rows, []string{b.Role, b.Unit, b.rate(), b.text()})
	}
	return cli.Table(w, []string{"ROLE", "EACH", "AT MOST PER SECOND", "CALLS FOR EACH"}, rows)
}
