package gateway

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/der"
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

	unknown bool // the issuer was asked, and gave no answer
}

// authorize answers an AuthReq (SET §7.4).
func (g *Gateway) authorize(ctx context.Context, now time.Time, w *set.MessageWrapper, request []byte) ([]byte, error) {
	o, err := g.endpoint().OpenAuthReq(now, w)
	if err != nil {
		return nil, err
	}
	defer o.Clear()
	if err := g.serves(o.Merchant); err != nil {
		return nil, err
	}
	r, err := g.newRecord(o, now, request)
	if err != nil {
		return nil, err
	}
	a := &authorization{Gateway: g, opened: o, record: r}
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

// newRecord is what is known of a request before anybody is asked.
func (g *Gateway) newRecord(o *set.OpenedAuthReq, now time.Time, request []byte) (*record, error) {
	tags := o.Data.AuthReqItem.AuthTags
	ids, err := der.Marshal(tags.TransIDs)
	if err != nil {
		return nil, err
	}
	return &record{
		merchant: set.MerchantID(o.Merchant.Merchant.MerchantID), rrpid: tags.AuthRRTags.RRPID, digest: sha256.Sum256(request),
		xid: tags.TransIDs.XID, transIDs: ids, piDigest: o.HPIData, currency: o.Data.AuthReqItem.AuthReqPayload.AuthReqAmt.Currency,
		terminal: terminal(tags.AuthRRTags.MerTermIDs), trace: finnet.NewTrace(g.Acquirer, now), created: now, sale: notSale,
		cardholder: o.Cardholder(),
	}, nil
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
	case err != nil || amount == 0:
		return a.refuse(ctx, set.AuthAmountError)
	}
	r.amount, r.authorized, r.state, r.code, r.spent, r.bin = amount, amount, pending, set.AuthNoReply, true, bin(a.opened.PANData.PAN)
	if r.account, err = seal(a.Sealer, &a.opened.PANData, r.rrpid); err != nil {
		return nil, err
	}
	code := set.AuthApproved
	err = a.DB.Tx(ctx, func(tx *sql.Tx) (err error) {
		code, err = a.claim(ctx, tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	if code != set.AuthApproved {
		return a.refuse(ctx, code)
	}
	a.ask(ctx)
	return a.decide(ctx)
}

// binDigits is how much of a card number names the bank that issued the card.
const binDigits = 6

func bin(pan set.PAN) string { return string(pan[:min(len(pan), binDigits)]) }

// claim keeps the request as pending, if the payment instructions are free and the purchase allows another
// authorization: else it tells the code that refuses it.
func (a *authorization) claim(ctx context.Context, tx *sql.Tx) (set.AuthCode, error) {
	free, err := instructionsFree(ctx, tx, a.record)
	if err != nil || !free {
		return set.AuthPIPreviouslyUsed, err
	}
	s, err := findStanding(ctx, tx, a.record)
	if err != nil {
		return 0, err
	}
	if code := a.within(s); code != set.AuthApproved {
		return code, nil
	}
	return set.AuthApproved, insert(ctx, tx, a.record)
}

// within holds a request against the other authorizations of the purchase. A token states their number and sum
// too; but there may be several tokens, after reversals in part.
func (a *authorization) within(s standing) set.AuthCode {
	most, terms := a.opened.PIHead.Inputs.PurchAmt, a.opened.PIHead.InstallRecurData
	if t := a.opened.Token; t != nil {
		most, terms = t.PurchAmt, t.InstallRecurData
	}
	if terms != nil {
		if n := terms.InstallRecurInd.InstallTotalTrans; n != nil && s.count >= int64(*n) {
			return set.AuthInstallRecurMismatch
		}
		if again := terms.InstallRecurInd.Recurring; again != nil { // which has no sum that was agreed
			if s.count > 0 && a.record.created.Sub(s.last) < time.Duration(again.RecurringFrequency)*24*time.Hour-time.Second {
				return set.AuthRecurringTooSoon
			}
			return set.AuthApproved
		}
	}
	if s.foreign {
		return set.AuthAmountError
	}
	if order, ok := a.record.money(s.sum + a.record.amount).Cmp(most); !ok || order > 0 {
		return set.AuthAmountError
	}
	return set.AuthApproved
}

// refuse answers a request about which the issuer is not asked.
func (a *authorization) refuse(ctx context.Context, code set.AuthCode) ([]byte, error) {
	r := a.record
	r.state, r.code, r.amount, r.authorized, r.account, r.bin, r.spent = set.StateDeclined, code, 0, 0, nil, "", false
	response, err := a.answer(r, nil)
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
		r.code, a.unknown = set.AuthNoReply, true
	case errors.Is(err, finnet.ErrUnavailable):
		r.code = set.AuthNoReply
	case err != nil:
		r.code = set.AuthSystemError
	default:
		r.code = authCode(answer.Code)
		r.approval = answer.ApprovalCode
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
	for range answerTriesMax {
		response, err := a.decideOnce(ctx)
		if !errors.Is(err, errChanged) {
			return response, err
		}
	}
	return nil, errChanged
}

// decideOnce gives errChanged when the batch for a sale was closed meanwhile.
func (a *authorization) decideOnce(ctx context.Context) ([]byte, error) {
	r, item, err := a.foresee(ctx)
	if err != nil {
		return nil, err
	}
	response, failed := a.answer(&r, item.entry)
	err = a.DB.Tx(ctx, func(tx *sql.Tx) error {
		l, r := a.ledger(tx), *a.record
		again, err := a.decision(ctx, l, &r)
		if err != nil {
			return err
		}
		if !sameJudgements([]judgement{item}, []judgement{again}) {
			return errChanged
		}
		if again.entry != nil {
			again.entry.place = item.entry.place
		}
		if err := settle(ctx, tx, &r); err != nil {
			return err
		}
		if err := l.save(ctx); err != nil || failed != nil {
			return err
		}
		return a.DB.SaveAnswer(ctx, tx, r.key(), r.digest, response, a.expiry())
	})
	if err != nil {
		return nil, err
	}
	a.log.Info("authorization decided", "code", r.code.String(), "state", string(r.state))
	return response, failed
}

// foresee gives the record as the decision will leave it. The capture of a sale gets its number.
func (a *authorization) foresee(ctx context.Context) (r record, item judgement, err error) {
	r = *a.record
	if !a.opened.Data.CaptureNow {
		item, err = a.decision(ctx, a.ledger(nil), &r)
		return r, item, err
	}
	err = a.DB.Tx(ctx, func(tx *sql.Tx) (err error) {
		r = *a.record
		if item, err = a.decision(ctx, a.ledger(tx), &r); err == nil && item.entry != nil {
			item.entry.place, err = takePlace(ctx, tx, &r, item.batch)
		}
		return err
	})
	return r, item, err
}

// decision takes r, which is pending, to what the issuer said. It judges the capture of a sale; the other
// judgements are empty.
func (a *authorization) decision(ctx context.Context, l *ledger, r *record) (judgement, error) {
	l.begin(r)
	if r.code != set.AuthApproved {
		return judgement{}, l.decline(r, a.unknown)
	}
	data := &a.opened.Data
	if !data.CaptureNow {
		return judgement{}, r.step(set.StepAuthorize, r.amount)
	}
	e, code, err := l.addCapture(ctx, r, r.amount, data.SaleDetail)
	r.sale = code
	switch {
	case err != nil:
		return judgement{}, err
	case code != set.CapSuccess: // the merchant may capture later
		return judgement{code: int(code)}, r.step(set.StepAuthorize, r.amount)
	}
	return booked(e, r.money(r.amount), true), r.step(set.StepSell, r.amount)
}

// decline ends a pending authorization. When nobody knows what the issuer did, it is told to take that back.
func (l *ledger) decline(r *record, unknown bool) error {
	if err := r.step(set.StepDecline, 0); err != nil {
		return err
	}
	r.authorized, r.spent = 0, unknown
	if unknown {
		l.add(r, entry{kind: entryReversal, amount: r.amount, place: nowhere})
	}
	return nil
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
	var capture *entry
	err = a.DB.View(ctx, func(tx *sql.Tx) error {
		l := a.ledger(tx)
		if known, err = l.find(ctx, a.record.merchant, a.record.rrpid); err != nil {
			return err
		}
		entries := l.entries[known.trace.RRN]
		if i := slices.IndexFunc(entries, func(e *entry) bool { return e.kind == entryCapture }); i >= 0 {
			capture = entries[i]
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case known.state == pending:
		return nil, errInFlight
	}
	if response, err = a.answer(known, capture); err != nil {
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

// callYourBank is what a cardholder is told, past the merchant, of whose bank wants to hear first.
var callYourBank = set.AcqCardCodeMsg{
	AcqCardCode: set.AcqCardCallCustomerService, AcqCardMsgData: set.AcqCardMsgData{AcqCardText: "Please call the bank that issued your card."},
}

// answer makes the AuthRes that tells a decision. capture is that of a sale.
func (a *authorization) answer(r *record, capture *entry) ([]byte, error) {
	res := set.Authorization{Code: r.code, Amount: r.money(0)}
	switch r.code {
	case set.AuthApproved:
		res.Amount, res.ApprovalCode, res.Opaque = r.money(r.amount), set.ApprovalCode(r.approval), []byte(r.trace.RRN)
		if r.sale != notSale {
			res.Capture = &set.CapResPayload{CapCode: r.sale, CapAmt: r.money(0)}
		}
		if r.sale == set.CapSuccess {
			res.Capture.CapAmt = r.money(r.amount)
			res.Capture.BatchID, res.Capture.BatchSequenceNum = capture.whereabouts()
		}
	case set.AuthCallIssuer:
		if a.opened.CanMessage() {
			res.CardMessage = &callYourBank
		}
	}
	return a.endpoint().AuthRes(a.Now(), a.opened, res)
}

// expiry is until when the answer to a request of now is kept: longer than the request itself is fresh.
func (g *Gateway) expiry() time.Time { return g.Now().Add(answersKept + 2*g.endpoint().Window) }
