package gateway

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/setkit/setkit/roles/set"
)

// adjust answers a CapRevReq, CredReq or CredRevReq (SET §7.7).
func (g *Gateway) adjust(ctx context.Context, now time.Time, w *set.MessageWrapper, octets []byte) ([]byte, error) {
	o, err := g.endpoint().OpenAdjustmentReq(now, w)
	if err != nil {
		return nil, err
	}
	defer o.Clear()
	if err := g.serves(o.Merchant); err != nil {
		return nil, err
	}
	var judged []judgement
	request := newRequest(w, o.Merchant, octets)
	response, err := g.answered(ctx, request, func(ctx context.Context) (answer, error) {
		return g.judgedTwice(ctx, func(ctx context.Context, l *ledger) ([]judgement, error) { return l.judgeAdjustments(ctx, o) },
			func(first []judgement) ([]byte, error) {
				judged = first
				return g.endpoint().AdjustmentRes(g.Now(), o, adjustmentPayloads(first))
			})
	})
	if err != nil {
		return nil, err
	}
	for i, j := range judged {
		g.Log.Info(o.Adjustment.String()+" decided", "xid", o.Items[i].Item.TransIDs.XID.String(), "merchant", request.key.Peer,
			"rrn", j.rrn, "code", set.CapRevOrCredCode(j.code).String())
	}
	return response, nil
}

func (l *ledger) judgeAdjustments(ctx context.Context, o *set.OpenedAdjustment) ([]judgement, error) {
	var out []judgement
	for _, item := range o.Items {
		j, err := l.judgeAdjustment(ctx, o, item)
		if err != nil {
			return nil, err
		}
		if j.entry == nil {
			j.amount = set.CurrencyAmount{Currency: item.Amount.Currency}
		}
		out = append(out, j)
	}
	return out, nil
}

// adjustmentSteps are what the three requests do to an authorization.
var adjustmentSteps = map[set.Adjustment]set.Step{
	set.CaptureReversal: set.StepUndoCapture, set.Credit: set.StepCredit, set.CreditReversal: set.StepUndoCredit,
}

func (l *ledger) judgeAdjustment(ctx context.Context, o *set.OpenedAdjustment, item set.OpenedAdjusted) (judgement, error) {
	refuse := func(code set.CapRevOrCredCode) (judgement, error) { return judgement{code: int(code)}, nil }
	missing := item.Code == set.CapRevOrCredMissingCapToken
	if item.Code != set.CapRevOrCredSuccess && !missing {
		return refuse(item.Code)
	}
	r, err := l.named(ctx, set.MerchantID(o.Merchant.Merchant.MerchantID), item.Item.AuthRRPID, item.Item.TransIDs.XID, item.Token, missing)
	switch {
	case errors.Is(err, errNoRecord) && missing:
		return refuse(set.CapRevOrCredMissingCapToken)
	case errors.Is(err, errNoRecord):
		return refuse(set.CapRevOrCredInvalidCapToken)
	case err != nil:
		return judgement{}, err
	}
	amount, ok := r.minor(item.Amount)
	if !ok || o.Adjustment == set.CaptureReversal && !item.Amount.Equal(item.Item.CapPayload.CapReqAmt) {
		return refuse(set.CapRevOrCredCapDataMismatch)
	}
	before := *r
	refusal, err := stepped(r, adjustmentSteps[o.Adjustment], amount)
	switch {
	case err != nil:
		return judgement{}, err
	case refusal != nil && o.Adjustment == set.CreditReversal && before.credited > 0 && standingCredit(l.entries[r.trace.RRN], amount) < 0:
		return refuse(set.CapRevOrCredOriginalNotFound)
	case refusal != nil:
		return refuse(refusal.CapRevOrCredCode())
	case item.Item.NewAccountInd: // the network pays back to the account that was charged
		*r = before
		return refuse(set.CapRevOrCredUnspecifiedFailure)
	case !item.Item.CapPayload.CapReqAmt.Equal(before.money(before.captured)):
		*r = before
		return refuse(set.CapRevOrCredCapDataMismatch)
	}
	e, code, err := l.addAdjustment(ctx, o.Adjustment, r, amount, item.Item.NewBatchID)
	if err != nil || code != set.CapRevOrCredSuccess {
		*r = before
		return judgement{code: int(code)}, err
	}
	return booked(e, item.Amount, e.place.number == numberWanted), nil
}

// numberWanted stands for the number in its batch that an item is still to get.
const numberWanted = -1

// addAdjustment adds the entry of what the authorization allows.
func (l *ledger) addAdjustment(ctx context.Context, a set.Adjustment, r *record, amount int64, newBatch *set.Natural) (*entry, set.CapRevOrCredCode, error) {
	entries := l.entries[r.trace.RRN]
	switch a {
	case set.CaptureReversal:
		return l.addUncapture(r), set.CapRevOrCredSuccess, nil
	case set.Credit:
		at, code, err := l.adjustmentPlace(ctx, r, newBatch)
		if err != nil || code != set.CapRevOrCredSuccess {
			return nil, code, err
		}
		return l.add(r, entry{kind: entryCredit, amount: amount, place: at}), code, nil
	}
	// The issuer takes a credit back as a whole. One that was taken back before is not found any more.
	i := standingCredit(entries, amount)
	if i < 0 {
		return nil, set.CapRevOrCredOriginalNotFound, nil
	}
	return l.addUncredit(ctx, r, entries[i], newBatch)
}

// standingCredit finds the last credit of an amount that was not taken back, -1 if there is none. It is the one that a
// merchant means who takes back what it did last, and may be in another batch than an earlier one.
func standingCredit(entries []*entry, amount int64) int {
	for i, e := range slices.Backward(entries) {
		if e.kind == entryCredit && e.amount == amount && e.stands(entries) {
			return i
		}
	}
	return -1
}

// addUncapture takes the capture that stands back. It vanishes from its batch.
func (l *ledger) addUncapture(r *record) *entry {
	capture := l.standingCapture(r)
	r.capture = 0
	return l.add(r, entry{kind: entryUncapture, undoes: capture.number, amount: capture.amount, place: place{batch: capture.place.batch}})
}

// addUncredit takes a credit back. It vanishes from its batch or, when that is closed, there is an item against
// it in another.
func (l *ledger) addUncredit(ctx context.Context, r *record, credit *entry, newBatch *set.Natural) (*entry, set.CapRevOrCredCode, error) {
	at := place{batch: credit.place.batch}
	b, err := findBatch(ctx, l.tx, r.merchant, credit.place.batch)
	if err != nil {
		return nil, set.CapRevOrCredUnspecifiedFailure, err
	}
	if b == nil || !b.closed.IsZero() {
		var code set.CapRevOrCredCode
		if at, code, err = l.adjustmentPlace(ctx, r, newBatch); err != nil || code != set.CapRevOrCredSuccess {
			return nil, code, err
		}
	}
	return l.add(r, entry{kind: entryUncredit, undoes: credit.number, amount: credit.amount, place: at}), set.CapRevOrCredSuccess, nil
}

// adjustmentPlace finds the batch for a new item.
func (l *ledger) adjustmentPlace(ctx context.Context, r *record, name *set.Natural) (place, set.CapRevOrCredCode, error) {
	id, problem, err := l.batchFor(ctx, l.tx, r, name)
	switch {
	case err != nil:
		return nowhere, set.CapRevOrCredUnspecifiedFailure, err
	case problem == batchUnknown:
		return nowhere, set.CapRevOrCredBatchUnknown, nil
	case problem == batchIsClosed:
		return nowhere, set.CapRevOrCredBatchClosed, nil
	}
	return place{id, numberWanted}, set.CapRevOrCredSuccess, nil
}

func adjustmentPayloads(judged []judgement) []set.CapRevOrCredResPayload {
	var out []set.CapRevOrCredResPayload
	for _, j := range judged {
		p := set.CapRevOrCredResPayload{CapRevOrCredCode: set.CapRevOrCredCode(j.code), CapRevOrCredActualAmt: j.amount}
		p.BatchID, p.BatchSequenceNum = j.entry.whereabouts()
		out = append(out, p)
	}
	return out
}
