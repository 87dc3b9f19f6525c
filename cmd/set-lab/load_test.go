package main

import (
	"bufio"
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/cmd/internal/tokenload"
)

// What set-hsm bench says that a purchase asks of each party's token is what the parties' metrics say.
// The CAs have done nothing yet but certify one of each.
func (w *testWorld) testTokenLoad(t *testing.T) {
	before := w.tokenCalls(t)
	if p := w.mustBuy(t, "pencil", 1); p.receipt.Outcome != approved {
		t.Fatalf("purchase: %s", p.receipt.Outcome)
	}
	after := w.tokenCalls(t)
	for _, role := range tokenload.Roles {
		got := map[tokenload.Call]int{}
		for call, n := range after[role.Token] {
			if role.Unit == tokenload.Purchase {
				n -= before[role.Token][call]
			}
			if n > 0 {
				got[call] = n
			}
		}
		if diff := cmp.Diff(role.Calls, got); diff != "" {
			t.Errorf("calls of the %s's token for one %s (-table +counted):\n%s", role.Name, role.Unit, diff)
		}
	}
}

var callsTotal = regexp.MustCompile(`^setkit_hsm_calls_total\{code="CKR_OK",operation="(sign|decrypt|mac|seal|open)",purpose="([a-z-]+)",token="([a-z-]+)"\} (\d+)$`)

// tokenCalls counts the calls that the running parties have made of their tokens.
func (w *testWorld) tokenCalls(t *testing.T) map[string]map[tokenload.Call]int {
	t.Helper()
	counted := map[string]map[tokenload.Call]int{}
	for _, p := range w.Processes {
		url := metricsURL(t, p.Log)
		if url == "" {
			continue
		}
		client := http.Client{Timeout: 10 * time.Second}
		res, err := client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		for lines := bufio.NewScanner(res.Body); lines.Scan(); {
			m := callsTotal.FindStringSubmatch(lines.Text())
			if m == nil {
				continue
			}
			n, err := strconv.Atoi(m[4])
			if err != nil {
				t.Fatal(err)
			}
			if counted[m[3]] == nil {
				counted[m[3]] = map[tokenload.Call]int{}
			}
			counted[m[3]][tokenload.Call{Purpose: m[2], Operation: m[1]}] += n
		}
	}
	return counted
}

// metricsURL finds where a party serves its metrics, which it says in its log.
func metricsURL(t *testing.T, log string) string {
	t.Helper()
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var entry struct{ Msg, URL string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "metrics" {
			return entry.URL
		}
	}
	return ""
}
