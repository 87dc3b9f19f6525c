package gateway

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"time"

	"github.com/setkit/setkit/roles/set"
)

// judgement is what becomes of one item of a request about captures. The entry is, on success, what was done; of a
// duplicate, what had been done before.
type judgement struct {
	code   int // CapCode or CapRevOrCredCode
	rrn    string
	amount set.CurrencyAmount
	batch  int64
	item   bool // the entry is an item of its batch, and needs a number there
	undoes int64

	entry *entry
}

// sameJudgements tells whether the same items were judged to the same effect.
func sameJudgements(a, b []judgement) bool {
	return slices.EqualFunc(a, b, func(x, y judgement) bool {
		x.entry, y.entry = nil, nil
		return x == y
	})
}

// booked makes the judgement of an entry.
func booked(e *entry, amount set.CurrencyAmount, item bool) judgement {
	return judgement{rrn: e.trace.RRN, amount: amount, batch: e.place.batch, item: item, undoes: e.undoes, entry: e}
}

// judgedTwice makes the answer to a request about captures: judge is run to give the items their numbers, and
// again in the transaction that keeps what it has added to the ledger.
func (g *Gateway) judgedTwice(ctx context.Context, judge func(context.Context, *ledger) ([]judgement, error), respond func([]judgement) ([]byte, error)) (answer, error) {
	var first []judgement
	err := g.DB.Tx(ctx, func(tx *sql.Tx) (err error) {
		l := g.ledger(tx)
		if first, err = judge(ctx, l); err != nil {
			return err
		}
		return l.takePlaces(ctx, first)
	})
	if err != nil {
		return answer{}, err
	}
	response, err := respond(first)
	if err != nil {
		return answer{}, err
	}
	return answer{response, func(ctx context.Context, tx *sql.Tx) error {
		l := g.ledger(tx)
		again, err := judge(ctx, l)
		if err != nil {
			return err
		}
		if !sameJudgements(first, again) {
			return errChanged
		}
		for i, j := range again {
			if j.item {
				j.entry.place.number = first[i].entry.place.number
			}
		}
		return l.saveAll(ctx)
	}}, nil
}

// takePlaces numbers the new items of batches.
func (l *ledger) takePlaces(ctx context.Context, judged []judgement) error {
	for _, j := range judged {
		if !j.item {
			continue
		}
		r, err := l.findRRN(ctx, j.rrn)
		if err != nil {
			return err
		}
		if j.entry.place, err = takePlace(ctx, l.tx, r, j.batch); err != nil {
			return err
		}
	}
	return nil
}

// capture answers a CapReq (SET §7.7).
func (g *Gateway) capture(ctx context.Context, now time.Time, w *set.MessageWrapper, octets []byte) ([]byte, error) {
	o, err := g.endpoint().OpenCapReq(now, w)
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
		return g.judgedTwice(ctx, func(ctx context.Context, l *ledger) ([]judgement, error) { return l.judgeCaptures(ctx, o) },
			func(first []judgement) ([]byte, error) {
				judged = first
				return g.endpoint().CapRes(g.Now(), o, capturePayloads(first))
			})
	})
	if err != nil {
		return nil, err
	}
	for i, j := range judged {
		g.Log.Info("capture decided", "xid", o.Items[i].Item.TransIDs.XID.String(), "merchant", request.key.Peer, "rrn", j.rrn, "code", set.CapCode(j.code).String())
	}
	return response, nil
}

// judgeCaptures holds every item against its authorization.
func (l *ledger) judgeCaptures(ctx context.Context, o *set.OpenedCapReq) ([]judgement, error) {
	var out []judgement
	for _, item := range o.Items {
		j, err := l.judgeCapture(ctx, set.MerchantID(o.Merchant.Merchant.MerchantID), item)
		if err != nil {
			return nil, err
		}
		if j.code != int(set.CapSuccess) {
			j.amount = set.CurrencyAmount{Currency: item.Item.CapPayload.CapReqAmt.Currency}
		}
		out = append(out, j)
	}
	return out, nil
}

func (l *ledger) judgeCapture(ctx context.Context, merchant set.MerchantID, item set.OpenedCapItem) (judgement, error) {
	refuse := func(code set.CapCode) (judgement, error) { return judgement{code: int(code)}, nil }
	missing := item.Code == set.CapTokenMissing
	if item.Code != set.CapSuccess && !missing {
		return refuse(item.Code)
	}
	r, err := l.named(ctx, merchant, item.Item.AuthRRPID, item.Item.TransIDs.XID, item.Token, missing)
	switch {
	case errors.Is(err, errNoRecord) && missing:
		return refuse(set.CapTokenMissing)
	case errors.Is(err, errNoRecord):
		return refuse(set.CapInvalidCapToken)
	case err != nil:
		return judgement{}, err
	}
	asked := item.Item.CapPayload.CapReqAmt
	amount, ok := r.minor(asked)
	if !ok {
		return refuse(set.CapInvalidAuthData)
	}
	before := *r
	if refusal, err := stepped(r, set.StepCapture, amount); err != nil || refusal != nil {
		return judgement{code: int(refusal.CapCode()), entry: l.standingCapture(r)}, err
	}
	e, code, err := l.addCapture(ctx, r, amount, item.Item.CapPayload.SaleDetail)
	if err != nil || code != set.CapSuccess {
		*r = before
		return judgement{code: int(code)}, err
	}
	return booked(e, asked, true), nil
}

// standingCapture gives the capture of an authorization, which tells the merchant in which batch it is; nil when there
// is none.
func (l *ledger) standingCapture(r *record) *entry {
	entries := l.entries[r.trace.RRN]
	i := slices.IndexFunc(entries, func(e *entry) bool { return e.kind == entryCapture && e.number == r.capture })
	if i < 0 {
		return nil
	}
	return entries[i]
}

// stepped takes an authorization one step on, or tells why not.
func stepped(r *record, step set.Step, amount int64) (*set.StepError, error) {
	err := r.step(step, amount)
	var refusal *set.StepError
	if errors.As(err, &refusal) {
		return refusal, nil
	}
	return nil, err
}

// named finds the merchant's own authorization that an item names, or errNoRecord. The token names it too, for
// a merchant could have given a request of its own the RRPID of another merchant's. Only of a sale may it be
// missing, for which none was given.
func (l *ledger) named(ctx context.Context, merchant set.MerchantID, rrpid set.RRPID, xid set.XID, token set.CapTokenData, missing bool) (*record, error) {
	r, err := l.find(ctx, merchant, rrpid)
	switch {
	case err != nil:
		return nil, err
	case r.xid != xid, missing && r.sale != set.CapSuccess, !missing && r.trace.RRN != string(token.TokenOpaque):
		return nil, errNoRecord
	}
	return r, nil
}

// addCapture adds the entry of a capture that the authorization allows, if there is a batch for it.
func (l *ledger) addCapture(ctx context.Context, r *record, amount int64, detail *set.SaleDetail) (*entry, set.CapCode, error) {
	var name *set.Natural
	if detail != nil {
		name = detail.BatchID
	}
	id, problem, err := l.batchFor(ctx, l.tx, r, name)
	switch {
	case err != nil:
		return nil, set.CapUnspecifiedFailure, err
	case problem == batchUnknown:
		return nil, set.CapBatchUnknown, nil
	case problem == batchIsClosed:
		return nil, set.CapBatchClosed, nil
	}
	e := l.add(r, entry{kind: entryCapture, amount: amount, place: place{batch: id}})
	r.capture = e.number
	return e, set.CapSuccess, nil
}

func capturePayloads(judged []judgement) []set.CapResPayload {
	var out []set.CapResPayload
	for _, j := range judged {
		p := set.CapResPayload{CapCode: set.CapCode(j.code), CapAmt: j.amount}
		p.BatchID, p.BatchSequenceNum = j.entry.whereabouts()
		out = append(out, p)
	}
	return out
}

// whereabouts tell the merchant where the item stands; nil for what stands nowhere.
func (e *entry) whereabouts() (id *set.Natural, n *set.Positive) {
	if e == nil || e.place.batch < 0 {
		return nil, nil
	}
	batch := set.Natural(e.place.batch)
	if e.place.number > 0 {
		number := set.Positive(e.place.number)
		n = &number
	}
	return &batch, n
}
