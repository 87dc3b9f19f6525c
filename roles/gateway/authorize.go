package gateway

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sqldb"
)

// awaitPause is how often a copy of a request looks whether the first one was decided.
const awaitPause = 100 * time.Millisecond

// authorization is the work on one AuthReq.
type authorization struct {
	*Gateway
	opened *set.OpenedAuthReq
	record *record
	log    *slog.Logger
}

// authorize answers an AuthReq (SET §7.4).
func (g *Gateway) authorize(ctx context.Context, now time.Time, w *set.MessageWrapper, request []byte) ([]byte, error) {
	o, err := g.Endpoint.OpenAuthReq(now, w)
	if err != nil {
		return nil, err
	}
	defer o.Clear()
	if err := g.serves(o.Merchant); err != nil {
		return nil, err
	}
	tags := o.Data.AuthReqItem.AuthTags
	a := &authorization{g, o, &record{
		merchant: set.MerchantID(o.Merchant.Merchant.MerchantID), rrpid: tags.AuthRRTags.RRPID, digest: sha256.Sum256(request),
		xid: tags.TransIDs.XID, piDigest: o.HPIData, currency: o.Data.AuthReqItem.AuthReqPayload.AuthReqAmt.Currency,
		terminal: terminal(tags.AuthRRTags.MerTermIDs), trace: finnet.NewTrace(g.Acquirer, now), created: now,
	}, nil}
	a.log = g.Log.With("xid", a.record.xid.String(), "merchant", string(a.record.merchant), "rrn", a.record.trace.RRN)
	response, found, err := g.DB.Answer(ctx, a.record.key(), a.record.digest)
	if err != nil || found {
		return response, err
	}
	response, err = a.once(ctx)
	switch {
	case errors.Is(err, errInFlight):
		return a.await(ctx)
	case errors.Is(err, errDecided), errors.Is(err, sqldb.ErrAnswered):
		return a.again(ctx)
	}
	return response, err
}

// terminal is the merchant's terminal as far as the network can carry its name.
func terminal(ids set.MerTermIDs) string {
	if len(ids.TerminalID) > finnet.TerminalBytesMax {
		return ""
	}
	return string(ids.TerminalID)
}

// once decides a request that was not seen before.
func (a *authorization) once(ctx context.Context) ([]byte, error) {
	r := a.record
	amount, err := finnet.MinorUnits(a.opened.Data.AuthReqItem.AuthReqPayload.AuthReqAmt)
	switch {
	case a.opened.Refusal != nil:
		return a.refuse(ctx, *a.opened.Refusal)
	case a.opened.Data.CaptureNow:
		return a.refuse(ctx, set.AuthCaptureNotSupported)
	case a.opened.Token != nil, a.opened.Data.AuthReqItem.AuthReqPayload.SubsequentAuthInd, a.opened.PIHead.InstallRecurData != nil:
		return a.refuse(ctx, set.AuthInvalidTransaction)
	case err != nil || amount == 0:
		return a.refuse(ctx, set.AuthAmountError)
	}
	r.amount, r.state, r.code = amount, pending, set.AuthNoReply
	if r.account, err = seal(a.Sealer, &a.opened.PANData, r.rrpid); err != nil {
		return nil, err
	}
	err = a.DB.Tx(ctx, func(tx *sql.Tx) error { return claim(ctx, tx, r) })
	if errors.Is(err, errPIUsed) {
		return a.refuse(ctx, set.AuthPIPreviouslyUsed)
	}
	if err != nil {
		return nil, err
	}
	a.ask(ctx)
	return a.decide(ctx)
}

// refuse answers a request about which the issuer is not asked.
func (a *authorization) refuse(ctx context.Context, code set.AuthCode) ([]byte, error) {
	r := a.record
	r.state, r.code, r.amount, r.account = declined, code, 0, nil
	response, err := a.answer(r)
	if err != nil {
		return nil, err
	}
	err = a.DB.Tx(ctx, func(tx *sql.Tx) error {
		if err := insert(ctx, tx, r); err != nil {
			return err
		}
		return a.DB.SaveAnswer(ctx, tx, r.key(), r.digest, response, a.expiry())
	})
	if err != nil {
		return nil, err
	}
	a.log.Info("authorization refused", "code", code.String())
	return response, nil
}

// ask has the issuer decide, and puts the decision into the record.
func (a *authorization) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, issuerTimeout)
	defer cancel()
	o, r := a.opened, a.record
	answer, err := a.Issuer.Authorize(ctx, &finnet.Authorization{
		Trace: r.trace, PAN: o.PANData.PAN, Expiry: o.PANData.CardExpiry, Amount: r.money(r.amount), XID: r.xid,
		TransStain: o.PIHead.TransStain[:],
		Merchant: finnet.Merchant{
			ID: r.merchant, Name: o.Merchant.Merchant.Names[0].Name, Terminal: r.terminal,
			Category: string(o.Data.AuthReqItem.AuthReqPayload.MerchData.MerchCatCode),
		},
	})
	switch {
	case errors.Is(err, finnet.ErrNoReply):
		r.state, r.code = reversing, set.AuthNoReply
	case errors.Is(err, finnet.ErrUnavailable):
		r.state, r.code = declined, set.AuthNoReply
	case err != nil:
		r.state, r.code = declined, set.AuthSystemError
	default:
		r.state, r.code = declined, authCode(answer.Code)
		if r.code == set.AuthApproved {
			r.state, r.approval = approved, answer.ApprovalCode
		}
	}
	if err != nil {
		a.log.Warn("issuer did not decide", "error", err)
	}
}

// authCode says in SET's words what an issuer answered (SET §5.5).
func authCode(c finnet.ResponseCode) set.AuthCode {
	switch c {
	case finnet.Approved:
		return set.AuthApproved
	case "01", "02": // refer to card issuer
		return set.AuthCallIssuer
	case finnet.ExpiredCard:
		return set.AuthExpiredCard
	case finnet.InvalidAmount:
		return set.AuthAmountError
	case finnet.InvalidTransaction:
		return set.AuthInvalidTransaction
	case finnet.IssuerUnavailable:
		return set.AuthNoReply
	case finnet.FormatError, finnet.Duplicate, finnet.Malfunction:
		return set.AuthSystemError
	}
	return set.AuthDeclined // no reason is given to who may be guessing card numbers
}

// decide keeps the decision together with the answer and with what must follow. Should the answer fail to
// be made, the decision is kept nevertheless: the merchant asks again, and the issuer is not.
func (a *authorization) decide(ctx context.Context) ([]byte, error) {
	r := a.record
	response, failed := a.answer(r)
	err := a.DB.Tx(ctx, func(tx *sql.Tx) error {
		if err := settle(ctx, tx, r); err != nil {
			return err
		}
		if r.state == reversing {
			if err := a.DB.Enqueue(ctx, tx, jobReverse, r.xid.String(), []byte(r.trace.RRN), time.Time{}); err != nil {
				return err
			}
		}
		if failed != nil {
			return nil
		}
		return a.DB.SaveAnswer(ctx, tx, r.key(), r.digest, response, a.expiry())
	})
	if err != nil {
		return nil, err
	}
	a.log.Info("authorization decided", "code", r.code.String(), "state", string(r.state))
	return response, failed
}

// await waits for the copy of the request that came first.
func (a *authorization) await(ctx context.Context) ([]byte, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, errInFlight
		case <-time.After(awaitPause):
		}
		response, err := a.again(ctx)
		if !errors.Is(err, errInFlight) {
			return response, err
		}
	}
}

// again answers a request that is known: by the stored answer or, where there is none because a process
// or its HSM failed at the wrong moment, by one made from the decision.
func (a *authorization) again(ctx context.Context) ([]byte, error) {
	response, found, err := a.DB.Answer(ctx, a.record.key(), a.record.digest)
	if err != nil || found {
		return response, err
	}
	var known *record
	err = a.DB.View(ctx, func(tx *sql.Tx) error {
		known, err = find(ctx, tx, a.record.merchant, a.record.rrpid)
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case known.state == pending:
		return nil, errInFlight
	}
	if response, err = a.answer(known); err != nil {
		return nil, err
	}
	err = a.DB.Tx(ctx, func(tx *sql.Tx) error {
		return a.DB.SaveAnswer(ctx, tx, known.key(), known.digest, response, a.expiry())
	})
	if errors.Is(err, sqldb.ErrAnswered) {
		response, found, err = a.DB.Answer(ctx, known.key(), known.digest)
		if err == nil && !found {
			err = fmt.Errorf("the answer to authorization request %v is gone", known.rrpid)
		}
	}
	return response, err
}

// answer makes the AuthRes that tells a decision.
func (a *authorization) answer(r *record) ([]byte, error) {
	res := set.Authorization{Code: r.code, Amount: r.money(0)}
	if r.code == set.AuthApproved {
		res.Amount, res.ApprovalCode, res.Opaque = r.money(r.amount), set.ApprovalCode(r.approval), []byte(r.trace.RRN)
	}
	return a.Endpoint.AuthRes(a.Now(), a.opened, res)
}

// expiry is until when the answer to a request of now is kept: longer than the request itself is fresh.
func (g *Gateway) expiry() time.Time { return g.Now().Add(answersKept + 2*g.Endpoint.Window) }
