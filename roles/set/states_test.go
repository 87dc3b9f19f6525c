package set_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/set"
)

var allSteps = []set.Step{
	set.StepDecline, set.StepAuthorize, set.StepSell, set.StepReverse, set.StepCapture, set.StepUndoCapture, set.StepPurge, set.StepSettle,
	set.StepCredit, set.StepUndoCredit,
}

// What becomes of an authorization, step by step; a step with a "!" is refused and changes nothing.
func TestPositions(t *testing.T) {
	t.Parallel()
	for story, want := range map[string]string{
		"decline, authorize 5!":               "declined 0/0/0",
		"authorize 5, authorize 5!, decline!": "authorized 5/0/0",
		"authorize 0!":                        "0/0/0",
		"authorize 5, reverse 3, reverse 4!, reverse 0, capture 1!":                                              "reversed 0/0/0",
		"authorize 5, capture 6!, capture 0!, capture 4, capture 1!, reverse 0!":                                 "captured 5/4/0",
		"authorize 5, capture 4, undo capture, capture 5":                                                        "captured 5/5/0",
		"sell 5, reverse 0!, undo capture, reverse 0":                                                            "reversed 0/0/0",
		"sell 5, settle, settle!, undo capture!, purge!, credit 2":                                               "credited 5/5/2",
		"sell 5, purge, capture 5!, credit 1!, undo capture!":                                                    "purged 5/0/0",
		"sell 5, credit 2, credit 4!, credit 3, credit 1!, undo capture!":                                        "credited 5/5/5",
		"sell 5, credit 2, credit 1, undo credit 4!, undo credit 2, undo credit 1, undo credit 1!, undo capture": "authorized 5/0/0",
		"sell 5, credit 2, settle, undo credit 2, undo capture!":                                                 "captured 5/5/0",
		"settle!, credit 1!, undo credit 1!, purge!, undo capture!, reverse 0!, capture 1!":                      "0/0/0",
	} {
		var p set.Position
		for _, text := range strings.Split(story, ", ") {
			text, refused := strings.CutSuffix(text, "!")
			step, amount := text, set.Natural(0)
			if i := strings.LastIndex(text, " "); text[len(text)-1] <= '9' {
				step = text[:i]
				fmt.Sscan(text[i:], &amount)
			}
			next, err := p.After(set.Step(step), usd(amount, 0))
			var stepErr *set.StepError
			if refused != errors.As(err, &stepErr) || refused && !cmp.Equal(p, next, exact) {
				t.Errorf("%s: at %s: %v", story, text, err)
			}
			p = next
		}
		if got := strings.TrimSpace(fmt.Sprintf("%s %d/%d/%d", p.State, p.Authorized.Amount, p.Captured.Amount, p.Credited.Amount)); got != want {
			t.Errorf("%s: ends %s, want %s", story, got, want)
		}
	}
	euro := set.CurrencyAmount{Currency: 978, Amount: 1}
	p := must[set.Position](t)(set.Position{}.After(set.StepAuthorize, usd(5, 0)))
	for _, step := range []set.Step{set.StepCapture, set.StepReverse} {
		if _, err := p.After(step, euro); err == nil {
			t.Errorf("%s in another currency", step)
		}
	}
	stored := must[[]byte](t)(json.Marshal(p))
	var again set.Position
	if err := json.Unmarshal(stored, &again); err != nil || !cmp.Equal(p, again, exact) {
		t.Errorf("stored as %s: %v", stored, err)
	}
}

// Why a step is not made is told by the code that says so.
func TestRefusalCodes(t *testing.T) {
	t.Parallel()
	sold := must[set.Position](t)(set.Position{}.After(set.StepSell, usd(5, 0)))
	step := func(p set.Position, s set.Step, n set.Natural) set.Position {
		return must[set.Position](t)(p.After(s, usd(n, 0)))
	}
	authorized, settled, credited, purged := step(set.Position{}, set.StepAuthorize, 5), step(sold, set.StepSettle, 0), step(sold, set.StepCredit, 1), step(sold, set.StepPurge, 0)
	for _, c := range []struct {
		from   set.Position
		step   set.Step
		amount set.Natural
		want   string
	}{
		{sold, set.StepCapture, 5, "duplicateRequest"},
		{authorized, set.StepCapture, 6, "invalidAuthData"},
		{set.Position{}, set.StepCapture, 5, "invalidAuthData"},
		{authorized, set.StepReverse, 6, "invalidAmount"},
		{sold, set.StepReverse, 0, "invalidTransaction"},
		{authorized, set.StepUndoCapture, 0, "originalNotFound"},
		{settled, set.StepUndoCapture, 0, "originalProcessed"},
		{credited, set.StepUndoCapture, 0, "originalProcessed"},
		{purged, set.StepUndoCapture, 0, "capPurged"},
		{authorized, set.StepCredit, 1, "originalNotFound"},
		{sold, set.StepCredit, 6, "capDataMismatch"},
		{purged, set.StepCredit, 1, "capPurged"},
		{sold, set.StepUndoCredit, 1, "originalNotFound"},
		{credited, set.StepUndoCredit, 2, "capDataMismatch"},
	} {
		_, err := c.from.After(c.step, usd(c.amount, 0))
		var e *set.StepError
		if !errors.As(err, &e) {
			t.Errorf("%s from %s: %v", c.step, c.from.State, err)
			continue
		}
		got := e.CapRevOrCredCode().String()
		switch c.step {
		case set.StepCapture:
			got = e.CapCode().String()
		case set.StepReverse:
			got = e.AuthRevCode().String()
		}
		if got != c.want {
			t.Errorf("%v: %s, want %s", err, got, c.want)
		}
	}
}

// Whatever happens in whatever order, nobody is given back what was not captured, and nothing is captured
// that was not authorized; a refused step changes nothing and has a code that says so.
func TestPositionsKeepMoney(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 1000 {
		var p set.Position
		for range 30 {
			step, amount := allSteps[r.IntN(len(allSteps))], usd(set.Natural(r.IntN(8)), int64(r.IntN(2)))
			next, err := p.After(step, amount)
			var e *set.StepError
			if errors.As(err, &e) {
				if e.CapCode() == set.CapSuccess || e.AuthRevCode() == set.AuthRevApproved || e.CapRevOrCredCode() == set.CapRevOrCredSuccess {
					t.Fatalf("seed %d: %v has a code of success", seed, err)
				}
				if p != next {
					t.Fatalf("seed %d: a refused step changes %+v to %+v", seed, p, next)
				}
				continue
			}
			p = next
			if p.State == set.StateUnasked || p.State == set.StateDeclined {
				continue
			}
			if order, ok := p.Captured.Cmp(p.Authorized); p.Captured.Amount > 0 && (!ok || order > 0) {
				t.Fatalf("seed %d: after %s of %v: %+v", seed, step, amount, p)
			}
			if order, ok := p.Credited.Cmp(p.Captured); p.Credited.Amount > 0 && (!ok || order > 0) {
				t.Fatalf("seed %d: after %s of %v: %+v", seed, step, amount, p)
			}
		}
	}
}
