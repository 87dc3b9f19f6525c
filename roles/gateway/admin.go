package gateway

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/setkit/setkit/roles/set"
)

// certificates answers a PCertReq (SET §5.11).
func (g *Gateway) certificates(ctx context.Context, now time.Time, w *set.MessageWrapper, octets []byte) ([]byte, error) {
	o, err := g.endpoint().OpenPCertReq(now, w)
	if err != nil {
		return nil, err
	}
	if err := g.serves(o.Merchant); err != nil {
		return nil, err
	}
	return g.answered(ctx, newRequest(w, o.Merchant, octets), func(context.Context) (answer, error) {
		var items []set.GatewayCert
		for _, x := range o.Data.BrandAndBINSeq {
			item := set.GatewayCert{Code: g.takesBrand(x)}
			if item.Code == set.PCertSuccess {
				item.Certificate = g.endpoint().ExchangeCert
			}
			items = append(items, item)
		}
		response, err := g.endpoint().PCertRes(now, o, items)
		return answer{response, func(context.Context, *sql.Tx) error { return nil }}, err
	})
}

// takesBrand tells whether the gateway is of a brand. Whatever bank issued a card of it is reached by the network.
func (g *Gateway) takesBrand(x set.BrandAndBIN) set.PCertCode {
	if !x.BrandID.Matches(g.brand()) {
		return set.PCertBrandNotSupported
	}
	return set.PCertSuccess
}

// errTrial rolls an administration back that is done to see its answer.
var errTrial = errors.New("was done on trial")

// administration is the work on one BatchAdminReq.
type administration struct {
	*ledger
	o        *set.OpenedBatchAdminReq
	merchant set.MerchantID
	at       time.Time

	id    int64  // of the batch that is meant
	batch *batch // nil when there is none
	items []*batchItem
	seen  set.Batch // what the merchant may see of it
}

// administer answers a BatchAdminReq (SET §7.8).
func (g *Gateway) administer(ctx context.Context, now time.Time, w *set.MessageWrapper, octets []byte) ([]byte, error) {
	o, err := g.endpoint().OpenBatchAdminReq(now, w)
	if err != nil {
		return nil, err
	}
	if err := g.serves(o.Merchant); err != nil {
		return nil, err
	}
	request := newRequest(w, o.Merchant, octets)
	var data set.BatchAdminResData
	response, err := g.answered(ctx, request, func(ctx context.Context) (a answer, err error) {
		first := set.BatchAdminResData{}
		at := g.Now()
		err = g.DB.Tx(ctx, func(tx *sql.Tx) error {
			first, err = g.administration(tx, o, at).do(ctx)
			if err == nil {
				err = errTrial
			}
			return err
		})
		if !errors.Is(err, errTrial) {
			return a, err
		}
		data = first
		a.response, err = g.endpoint().BatchAdminRes(g.Now(), o, first)
		a.keep = func(ctx context.Context, tx *sql.Tx) error {
			again, err := g.administration(tx, o, at).do(ctx)
			if err == nil && !reflect.DeepEqual(first, again) {
				err = errChanged
			}
			return err
		}
		return a, err
	})
	if err != nil {
		return nil, err
	}
	if s := data.BAStatus; s != nil {
		g.Log.Info("batch administered", "merchant", request.key.Peer, "batch", int64(data.BatchID), "status", s.String())
	}
	return response, nil
}

func (g *Gateway) administration(tx *sql.Tx, o *set.OpenedBatchAdminReq, at time.Time) *administration {
	return &administration{ledger: g.ledger(tx), o: o, merchant: set.MerchantID(o.Merchant.Merchant.MerchantID), at: at}
}

// does tells whether an operation is asked for.
func (a *administration) does(op set.BatchOperation) bool {
	return a.o.Data.BatchOperation != nil && *a.o.Data.BatchOperation == op
}

// do does what the batch allows, and gives the answer.
func (a *administration) do(ctx context.Context) (out set.BatchAdminResData, err error) {
	if err := a.locate(ctx); err != nil {
		return out, err
	}
	if err := a.look(ctx); err != nil {
		return out, err
	}
	status := a.o.Judge(&a.seen)
	out.BatchID, out.BAStatus = set.Natural(a.id), &status
	if status != set.BASuccess {
		return out, nil
	}
	switch {
	case a.does(set.BatchOpen):
		a.batch = &batch{merchant: a.merchant, id: a.id, acquirer: a.Acquirer, brands: a.o.Data.BrandAndBINSeq, opened: a.at}
		return out, a.batch.insert(ctx, a.tx) // other fields of the request do not count (SET §7.8)
	case a.does(set.BatchPurge):
		err = a.purge(ctx)
	case a.does(set.BatchClose):
		a.batch.closed, a.batch.closedBy = a.at, set.ClosedByMerchant
		err = a.batch.close(ctx, a.tx)
	}
	if err == nil {
		err = a.look(ctx)
	}
	if err != nil {
		return out, err
	}
	a.report(&out)
	return out, nil
}

// locate finds the batch that is meant: the one named, or the merchant's newest, an open one first. One to open
// without a number gets one.
func (a *administration) locate(ctx context.Context) (err error) {
	switch named := a.o.Data.BatchID; {
	case named != nil:
		a.id = int64(*named)
		a.batch, err = findBatch(ctx, a.tx, a.merchant, a.id)
		return err
	case a.does(set.BatchOpen):
		a.id, err = nextBatchID(ctx, a.tx, a.merchant)
		return err
	}
	all, err := merchantBatches(ctx, a.tx, a.merchant, false)
	if err != nil || len(all) == 0 {
		return err
	}
	a.batch = all[max(0, slices.IndexFunc(all, func(b *batch) bool { return b.closed.IsZero() }))]
	a.id = a.batch.id
	return nil
}

// look reads the batch as it is now.
func (a *administration) look(ctx context.Context) (err error) {
	a.seen = set.Batch{State: set.BatchUnused, Serves: a.takesBrand}
	if a.batch == nil {
		return nil
	}
	a.seen.State, a.seen.Brands = set.BatchIsOpen, a.batch.brands
	if !a.batch.closed.IsZero() {
		a.seen.State = set.BatchClosed
	}
	if a.items, err = batchItems(ctx, a.tx, a.merchant, a.id); err != nil {
		return err
	}
	for _, item := range a.items {
		d, err := item.detail(a.brand())
		if err != nil {
			return err
		}
		a.seen.Items = append(a.seen.Items, d)
	}
	return nil
}

// purge takes what was asked for out of the batch: the credits first, for a capture that was credited stays. With
// its capture an authorization ends, for which the issuer then holds nothing any more.
func (a *administration) purge(ctx context.Context) error {
	for _, i := range slices.Backward(a.items) {
		if !a.names(i) {
			continue
		}
		r, err := a.findRRN(ctx, i.trace.RRN)
		if err != nil {
			return err
		}
		var refusal *set.StepError
		switch {
		case i.kind == entryCredit:
			if refusal, err = stepped(r, set.StepUndoCredit, i.amount); refusal == nil && err == nil {
				a.add(r, entry{kind: entryUncredit, undoes: i.number, amount: i.amount, place: place{batch: a.id}})
			}
		case i.kind == entryCapture && i.number == r.capture:
			if refusal, err = stepped(r, set.StepPurge, 0); refusal == nil && err == nil {
				a.addUncapture(r)
				a.add(r, entry{kind: entryReversal, amount: r.amount, place: nowhere})
			}
		}
		if err != nil {
			return err
		}
	}
	return a.saveAll(ctx)
}

// names tells whether the request is about an item: about all when it names no brand.
func (a *administration) names(i *batchItem) bool {
	brands := a.o.Data.BrandAndBINSeq
	return len(brands) == 0 || slices.ContainsFunc(brands, func(x set.BrandAndBIN) bool {
		return x.BrandID.Matches(a.brand()) && (x.BIN == "" || string(x.BIN) == i.bin)
	})
}

// noCurrency is that of a batch in which there is nothing (ISO 4217: XXX).
const noCurrency set.Currency = 999

// report adds what was asked about the batch.
func (a *administration) report(out *set.BatchAdminResData) {
	if a.batch == nil {
		return
	}
	if a.o.Data.ReturnBatchSummaryInd {
		s := set.BatchStatus{OpenDateTime: a.batch.opened.UTC().Truncate(time.Second)}
		if !a.batch.closed.IsZero() {
			s.ClosedWhen = &set.ClosedWhen{CloseStatus: a.batch.closedBy, CloseDateTime: a.batch.closed.UTC().Truncate(time.Second)}
		}
		currency := a.batch.currency
		if currency == 0 {
			currency = noCurrency
		}
		var ok bool
		if s.BatchDetails, ok = a.seen.Details(currency); ok {
			out.BatchStatus = &s
		}
	}
	if !a.batch.closed.IsZero() {
		status := transmission(a.items)
		out.TransmissionStatus = &status
	}
	if want := a.o.Data.ReturnTransactionDetail; want != nil {
		out.TransDetails = a.seen.Page(*want)
	}
}

// transmission tells how far the items of a closed batch have come.
func transmission(items []*batchItem) set.TransmissionStatus {
	failed := false
	for _, i := range items {
		switch i.state {
		case entryPending:
			return set.TransmissionInProgress
		case entryRefused, entryVoid:
			failed = true
		}
	}
	if failed {
		return set.TransmissionCompletedWithItemErrors
	}
	return set.TransmissionCompletedSuccessfully
}

// close keeps that a batch is closed. To every capture in it that is set.StepSettle: whether a capture's batch is
// closed is read together with its authorization.
func (b *batch) close(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `UPDATE batch SET closed_ms = $1, closed_by = $2 WHERE merchant = $3 AND id = $4 AND closed_ms = 0`,
		b.closed.UnixMilli(), int64(b.closedBy), string(b.merchant), b.id)
	if err != nil {
		return fmt.Errorf("close batch %d of merchant %s: %w", b.id, b.merchant, err)
	}
	return nil
}
