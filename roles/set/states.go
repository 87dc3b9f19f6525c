package set

import "fmt"

// State is how far one authorization has come, at the gateway and at the merchant (SET §7.7).
type State string

// The states of an authorization.
const (
	StateUnasked    State = ""         // nothing is known of it yet
	StateDeclined   State = "declined" // the end
	StateAuthorized State = "authorized"
	StateReversed   State = "reversed" // nothing of it stays; the end
	StateCaptured   State = "captured"
	StatePurged     State = "purged"   // its capture was taken out of the batch; the end
	StateCredited   State = "credited" // some or all of the captured amount was given back
)

// Step is what happens to an authorization.
type Step string

// The steps, with what their amount says.
const (
	StepDecline     Step = "decline"
	StepAuthorize   Step = "authorize" // what is authorized
	StepSell        Step = "sell"      // what is authorized and captured at once
	StepReverse     Step = "reverse"   // what stays authorized
	StepCapture     Step = "capture"   // what is captured
	StepUndoCapture Step = "undo capture"
	StepPurge       Step = "purge"
	StepSettle      Step = "settle"      // the batch of the capture is closed
	StepCredit      Step = "credit"      // what is given back
	StepUndoCredit  Step = "undo credit" // what is taken again: one credit
)

// Position is one authorization with its money. The zero Position is that of one not asked for yet. It may
// be stored as JSON.
type Position struct {
	State      State
	Authorized CurrencyAmount // what the issuer holds for the merchant
	Captured   CurrencyAmount
	Credited   CurrencyAmount // of all credits that stand
	Settled    bool           // the capture's batch is closed: it cannot be undone, only credited
}

// condition is when a transition is made; without one it always is.
type condition struct {
	name  string
	holds func(p Position, amount CurrencyAmount) bool
}

var (
	positive   = &condition{"the amount is more than nothing", func(_ Position, a CurrencyAmount) bool { return a.Amount > 0 }}
	nothing    = &condition{"nothing stays", func(p Position, a CurrencyAmount) bool { return a.Amount == 0 && a.Currency == p.Authorized.Currency }}
	part       = &condition{"no more stays than was authorized", func(p Position, a CurrencyAmount) bool { return within(a, p.Authorized) }}
	withinAuth = &condition{"no more is captured than was authorized", func(p Position, a CurrencyAmount) bool { return within(a, p.Authorized) }}
	unsettled  = &condition{"the batch is open", func(p Position, _ CurrencyAmount) bool { return !p.Settled }}
	withinCapt = &condition{"no more is credited than was captured", func(p Position, a CurrencyAmount) bool {
		sum, ok := p.Credited.Plus(a)
		return ok && a.Amount > 0 && within(sum, p.Captured)
	}}
	oneCredit = &condition{"less is taken again than was credited", func(p Position, a CurrencyAmount) bool {
		order, ok := a.Cmp(p.Credited)
		return ok && a.Amount > 0 && order < 0
	}}
	allCredit = &condition{"no more is taken again than was credited", func(p Position, a CurrencyAmount) bool { return a.Equal(p.Credited) }}
)

// within tells whether a is more than nothing and no more than most.
func within(a, most CurrencyAmount) bool {
	order, ok := a.Cmp(most)
	return ok && a.Amount > 0 && order <= 0
}

// transitions are all that can happen to an authorization. Of those with the same state and step the first
// whose condition holds is made.
var transitions = []struct {
	from State
	step Step
	when *condition
	to   State
}{
	{StateUnasked, StepDecline, nil, StateDeclined},
	{StateUnasked, StepAuthorize, positive, StateAuthorized},
	{StateUnasked, StepSell, positive, StateCaptured},

	{StateAuthorized, StepReverse, nothing, StateReversed},
	{StateAuthorized, StepReverse, part, StateAuthorized},
	{StateAuthorized, StepCapture, withinAuth, StateCaptured},

	{StateCaptured, StepUndoCapture, unsettled, StateAuthorized},
	{StateCaptured, StepPurge, unsettled, StatePurged},
	{StateCaptured, StepSettle, unsettled, StateCaptured},
	{StateCaptured, StepCredit, withinCapt, StateCredited},

	{StateCredited, StepSettle, unsettled, StateCredited},
	{StateCredited, StepCredit, withinCapt, StateCredited},
	{StateCredited, StepUndoCredit, oneCredit, StateCredited},
	{StateCredited, StepUndoCredit, allCredit, StateCaptured},
}

// book is what a step does to the money.
func (p Position) book(step Step, amount CurrencyAmount) Position {
	switch step {
	case StepAuthorize, StepReverse:
		p.Authorized = amount
	case StepSell:
		p.Authorized, p.Captured, p.Credited = amount, amount, amount.zero()
	case StepCapture:
		p.Captured, p.Credited = amount, amount.zero()
	case StepUndoCapture, StepPurge:
		p.Captured = p.Captured.zero()
	case StepSettle:
		p.Settled = true
	case StepCredit:
		p.Credited, _ = p.Credited.Plus(amount)
	case StepUndoCredit:
		p.Credited, _ = p.Credited.Minus(amount)
	}
	return p
}

// After gives the position after a step. Its error is a *StepError.
func (p Position) After(step Step, amount CurrencyAmount) (Position, error) {
	refusal := &StepError{From: p, Step: step}
	for _, t := range transitions {
		if t.from != p.State || t.step != step {
			continue
		}
		if t.when == nil || t.when.holds(p, amount) {
			p = p.book(step, amount)
			p.State = t.to
			return p, nil
		}
		refusal.Condition = t.when.name
	}
	return p, refusal
}

// StepError is a step that is not made.
type StepError struct {
	From      Position
	Step      Step
	Condition string // that does not hold; "" when the step is none of this state
}

func (e *StepError) Error() string {
	state := e.From.State
	if state == StateUnasked {
		state = "unasked"
	}
	if e.Condition == "" {
		return fmt.Sprintf("%s: an authorization that is %s has no such step", e.Step, state)
	}
	return fmt.Sprintf("%s of an authorization that is %s: not true that %s", e.Step, state, e.Condition)
}

// The codes that tell a merchant why a step is not made, by the state that the authorization is in.
var (
	capRefusals = map[State]CapCode{
		StateUnasked: CapInvalidAuthData, StateDeclined: CapInvalidAuthData, StateAuthorized: CapInvalidAuthData, StateReversed: CapInvalidAuthData,
		StateCaptured: CapDuplicateRequest, StateCredited: CapDuplicateRequest, StatePurged: CapDuplicateRequest,
	}
	undoCaptureRefusals = map[State]CapRevOrCredCode{
		StateUnasked: CapRevOrCredOriginalNotFound, StateDeclined: CapRevOrCredOriginalNotFound, StateAuthorized: CapRevOrCredOriginalNotFound,
		StateReversed: CapRevOrCredOriginalNotFound, StateCaptured: CapRevOrCredOriginalProcessed, StateCredited: CapRevOrCredOriginalProcessed,
		StatePurged: CapRevOrCredCapPurged,
	}
	creditRefusals = map[State]CapRevOrCredCode{
		StateUnasked: CapRevOrCredOriginalNotFound, StateDeclined: CapRevOrCredOriginalNotFound, StateAuthorized: CapRevOrCredOriginalNotFound,
		StateReversed: CapRevOrCredOriginalNotFound, StateCaptured: CapRevOrCredCapDataMismatch, StateCredited: CapRevOrCredCapDataMismatch,
		StatePurged: CapRevOrCredCapPurged,
	}
	undoCreditRefusals = map[State]CapRevOrCredCode{
		StateUnasked: CapRevOrCredOriginalNotFound, StateDeclined: CapRevOrCredOriginalNotFound, StateAuthorized: CapRevOrCredOriginalNotFound,
		StateReversed: CapRevOrCredOriginalNotFound, StateCaptured: CapRevOrCredOriginalNotFound, StateCredited: CapRevOrCredCapDataMismatch,
		StatePurged: CapRevOrCredOriginalNotFound,
	}
)

// CapCode tells why a capture is not made.
func (e *StepError) CapCode() CapCode { return capRefusals[e.From.State] }

// AuthRevCode tells why an authorization is not taken back.
func (e *StepError) AuthRevCode() AuthRevCode {
	if e.From.State == StateAuthorized {
		return AuthRevInvalidAmount
	}
	return AuthRevInvalidTransaction
}

// CapRevOrCredCode tells why a capture reversal, a credit or a credit reversal is not made.
func (e *StepError) CapRevOrCredCode() CapRevOrCredCode {
	switch e.Step {
	case StepUndoCapture:
		return undoCaptureRefusals[e.From.State]
	case StepCredit:
		return creditRefusals[e.From.State]
	}
	return undoCreditRefusals[e.From.State]
}
