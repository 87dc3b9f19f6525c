package gateway

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
)

// reversalDone is what has become of an AuthRevReq.
type reversalDone struct {
	code   set.AuthRevCode
	amount int64   // what stays authorized
	of     *record // as it stands then; nil when there was no such authorization
}

// reverse answers an AuthRevReq (SET §7.7). The issuer is told by a job: a reversal is not refused.
func (g *Gateway) reverse(ctx context.Context, now time.Time, w *set.MessageWrapper, octets []byte) ([]byte, error) {
	o, err := g.endpoint().OpenAuthRevReq(now, w)
	if err != nil {
		return nil, err
	}
	defer o.Clear()
	if err := g.serves(o.Merchant); err != nil {
		return nil, err
	}
	var done reversalDone
	request := newRequest(w, o.Merchant, octets)
	response, err := g.answered(ctx, request, func(ctx context.Context) (a answer, err error) {
		err = g.DB.View(ctx, func(tx *sql.Tx) error {
			done, err = g.ledger(tx).judgeReversal(ctx, o)
			return err
		})
		if err != nil {
			return a, err
		}
		first := done
		a.response, err = g.endpoint().AuthRevRes(g.Now(), o, first.answer(o))
		a.keep = func(ctx context.Context, tx *sql.Tx) error {
			l := g.ledger(tx)
			again, err := l.judgeReversal(ctx, o)
			switch {
			case err != nil:
				return err
			case again.code != first.code || again.amount != first.amount || (again.of == nil) != (first.of == nil):
				return errChanged
			case again.of == nil && again.code == set.AuthRevApproved:
				return insert(ctx, tx, g.neverMade(o))
			}
			return l.saveAll(ctx)
		}
		return a, err
	})
	if err != nil {
		return nil, err
	}
	g.Log.Info("authorization reversal decided", "xid", o.TransIDs().XID.String(), "merchant", request.key.Peer, "code", done.code.String())
	return response, nil
}

// judgeReversal holds a reversal against its authorization, which it waits for while that is being asked for.
func (l *ledger) judgeReversal(ctx context.Context, o *set.OpenedAuthRevReq) (reversalDone, error) {
	if o.Code != set.AuthRevApproved {
		return reversalDone{code: o.Code}, nil
	}
	all := o.Data.AuthNewAmt.Amount == 0
	r, err := l.find(ctx, set.MerchantID(o.Merchant.Merchant.MerchantID), o.RRPID)
	switch {
	case errors.Is(err, errNoRecord) && all && o.Token == nil:
		return reversalDone{}, nil // it never came, and will be refused should it still come
	case errors.Is(err, errNoRecord):
		return reversalDone{code: set.AuthRevInvalidTransaction}, nil
	case err != nil:
		return reversalDone{}, err
	case r.state == pending:
		return reversalDone{}, errInFlight
	case r.xid != o.TransIDs().XID || !bytes.Equal(r.piDigest, o.Of.HPIData) || o.Token != nil && string(o.Token.TokenOpaque) != r.trace.RRN:
		return reversalDone{code: set.AuthRevInvalidTransaction}, nil
	case all && (r.state == set.StateDeclined || r.state == set.StateReversed):
		return reversalDone{of: r}, nil // as the merchant wants it already
	}
	amount, ok := r.minor(o.Data.AuthNewAmt)
	if !ok {
		return reversalDone{set.AuthRevInvalidAmount, r.authorized, r}, nil
	}
	refusal, err := stepped(r, set.StepReverse, amount)
	if err != nil {
		return reversalDone{}, err
	}
	if refusal != nil {
		return reversalDone{refusal.AuthRevCode(), r.authorized, r}, nil
	}
	l.add(r, entry{kind: entryReversal, amount: r.amount, remains: amount, place: nowhere})
	return reversalDone{set.AuthRevApproved, amount, r}, nil
}

// neverMade is the record that keeps an authorization from being made after it was reversed.
func (g *Gateway) neverMade(o *set.OpenedAuthRevReq) *record {
	now := g.Now()
	return &record{
		merchant: set.MerchantID(o.Merchant.Merchant.MerchantID), rrpid: o.RRPID, xid: o.TransIDs().XID, piDigest: o.Of.HPIData,
		currency: o.Data.AuthNewAmt.Currency, trace: finnet.NewTrace(g.Acquirer, now), created: now,
		state: set.StateReversed, code: set.AuthNoReply, sale: notSale, cardholder: o.Of.Cardholder(),
	}
}

// answer says it to the merchant, with the authorization as it stands.
func (d reversalDone) answer(o *set.OpenedAuthRevReq) set.Reversal {
	out := set.Reversal{Code: d.code, Amount: set.CurrencyAmount{Currency: o.Data.AuthNewAmt.Currency}}
	r := d.of
	if r == nil {
		return out
	}
	out.Amount, out.Opaque, out.Last = r.money(d.amount), []byte(r.trace.RRN), r.created
	if d.code == set.AuthRevApproved {
		out.Amount = o.Data.AuthNewAmt
	}
	out.New = &set.AuthResPayload{AuthHeader: set.AuthHeader{AuthAmt: r.money(r.authorized), AuthCode: r.code}}
	if r.approval != "" {
		out.New.AuthHeader.ResponseData.AuthValCodes = &set.AuthValCodes{ApprovalCode: set.ApprovalCode(r.approval)}
	}
	if r.captured > 0 {
		out.New.CapResPayload = &set.CapResPayload{CapAmt: r.money(r.captured)}
	}
	return out
}
