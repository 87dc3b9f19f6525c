package gateway

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"slices"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sqldb"
)

// captureTriesMax bounds how often a capture is judged anew because its authorizations changed.
const captureTriesMax = 4

var errChanged = errors.New("authorizations changed while their capture was being answered")

// judgement is what becomes of one item of a CapReq.
type judgement struct {
	code   set.CapCode
	rrn    string // of the authorization, on success
	xid    set.XID
	amount int64 // minor units
}

// capture answers a CapReq (SET §7.7). The answer is signed by the HSM, which must not be waited for
// inside a transaction: so the items are judged, answered, and judged again where they are kept.
func (g *Gateway) capture(ctx context.Context, now time.Time, w *set.MessageWrapper, request []byte) ([]byte, error) {
	o, err := g.Endpoint.OpenCapReq(now, w)
	if err != nil {
		return nil, err
	}
	defer o.Clear()
	if err := g.serves(o.Merchant); err != nil {
		return nil, err
	}
	key := sqldb.AnswerKey{Peer: o.Merchant.Merchant.MerchantID, Message: "CapReq", RRPID: o.Data.CapRRTags.RRPID}
	digest := sha256.Sum256(request)
	for range captureTriesMax {
		response, found, err := g.DB.Answer(ctx, key, digest)
		if err != nil || found {
			return response, err
		}
		response, err = g.captureOnce(ctx, o, key, digest)
		if !errors.Is(err, errChanged) && !errors.Is(err, sqldb.ErrAnswered) {
			return response, err
		}
	}
	return nil, errChanged
}

func (g *Gateway) captureOnce(ctx context.Context, o *set.OpenedCapReq, key sqldb.AnswerKey, digest [sha256.Size]byte) ([]byte, error) {
	var judged []judgement
	err := g.DB.View(ctx, func(tx *sql.Tx) (err error) {
		judged, err = judge(ctx, tx, o)
		return err
	})
	if err != nil {
		return nil, err
	}
	response, err := g.Endpoint.CapRes(g.Now(), o, payloads(o, judged))
	if err != nil {
		return nil, err
	}
	err = g.DB.Tx(ctx, func(tx *sql.Tx) error {
		now, err := judge(ctx, tx, o)
		if err != nil {
			return err
		}
		if !slices.Equal(now, judged) {
			return errChanged
		}
		for _, j := range judged {
			if err := g.book(ctx, tx, j); err != nil {
				return err
			}
		}
		return g.DB.SaveAnswer(ctx, tx, key, digest, response, g.expiry())
	})
	if err != nil {
		return nil, err
	}
	for i, j := range judged {
		g.Log.Info("capture decided", "xid", o.Items[i].Item.TransIDs.XID.String(), "merchant", key.Peer, "rrn", j.rrn, "code", j.code.String())
	}
	return response, nil
}

// book keeps a successful capture and leaves its clearing to a job.
func (g *Gateway) book(ctx context.Context, tx *sql.Tx, j judgement) error {
	if j.code != set.CapSuccess {
		return nil
	}
	clearing := finnet.Trace{Acquirer: g.Acquirer, RRN: j.rrn}.Next(g.Now())
	if err := capture(ctx, tx, clearing, j.amount); err != nil {
		return err
	}
	return g.DB.Enqueue(ctx, tx, jobClear, j.xid.String(), []byte(j.rrn), time.Time{})
}

// judge holds every item against its authorization.
func judge(ctx context.Context, tx *sql.Tx, o *set.OpenedCapReq) ([]judgement, error) {
	var out []judgement
	for _, item := range o.Items {
		j := judgement{code: item.Code}
		if item.Code == set.CapSuccess {
			r, err := find(ctx, tx, set.MerchantID(o.Merchant.Merchant.MerchantID), item.Item.AuthRRPID)
			if err != nil && !errors.Is(err, errNoRecord) {
				return nil, err
			}
			j = judgeItem(item, r)
			if j.code == set.CapSuccess && slices.ContainsFunc(out, func(other judgement) bool { return other.rrn == j.rrn }) {
				j = judgement{code: set.CapDuplicateRequest}
			}
		}
		out = append(out, j)
	}
	return out, nil
}

// judgeItem decides about an item whose token is good. r is the merchant's own authorization that the
// item names, or nil. The token names it too, for a merchant could have given a request of its own the
// RRPID of another merchant's.
func judgeItem(item set.OpenedCapItem, r *record) judgement {
	if r == nil || r.xid != item.Item.TransIDs.XID || r.trace.RRN != string(item.Token.TokenOpaque) {
		return judgement{code: set.CapInvalidCapToken}
	}
	switch r.state {
	case approved:
	case captured, cleared, clearingRefused:
		return judgement{code: set.CapDuplicateRequest}
	default:
		return judgement{code: set.CapInvalidAuthData}
	}
	asked := item.Item.CapPayload.CapReqAmt
	amount, err := finnet.MinorUnits(asked)
	if err != nil || asked.Currency != r.currency || amount == 0 || amount > r.amount {
		return judgement{code: set.CapInvalidAuthData}
	}
	return judgement{code: set.CapSuccess, rrn: r.trace.RRN, xid: r.xid, amount: amount}
}

func payloads(o *set.OpenedCapReq, judged []judgement) []set.CapResPayload {
	var out []set.CapResPayload
	for i, j := range judged {
		p := set.CapResPayload{CapCode: j.code, CapAmt: o.Items[i].Item.CapPayload.CapReqAmt}
		if j.code != set.CapSuccess {
			p.CapAmt = set.CurrencyAmount{Currency: p.CapAmt.Currency}
		}
		out = append(out, p)
	}
	return out
}
