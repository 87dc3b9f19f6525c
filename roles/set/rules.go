package set

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"slices"
	"time"

	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

// What a gateway checks of an authentic request, by name and with the code that refuses it (SET §12). What
// makes a request not authentic is told by an Error and stands where it is opened.

// rule is one condition of a request, about whose facts it decides.
type rule[F any, C ~int] struct {
	name  string
	code  C
	holds func(f F) bool
}

// firstBroken gives the code of the first rule that does not hold, 0, which is success, when all do.
func firstBroken[F any, C ~int](rules []rule[F, C], f F) C {
	for _, r := range rules {
		if !r.holds(f) {
			return r.code
		}
	}
	return 0
}

// authFacts are what a gateway knows of an AuthReq without looking into its records.
type authFacts struct {
	terms
	e       *Endpoint
	now     time.Time
	o       *OpenedAuthReq
	payload AuthReqPayload
}

// authRules are the conditions of an authorization, in the order in which they refuse (SET §7.4, §7.5).
var authRules = []rule[*authFacts, AuthCode]{
	{"merchant and cardholder mean the same order", AuthPIAuthMismatch, digestsAgree},
	{"the transaction is the cardholder's", AuthPIAuthMismatch, func(f *authFacts) bool {
		return f.transIDs.check(f.o.Data.AuthReqItem.AuthTags.TransIDs) == nil
	}},
	{"the merchant is the cardholder's", AuthPIAuthMismatch, func(f *authFacts) bool {
		return string(f.merchantID) == f.o.Merchant.Merchant.MerchantID
	}},
	{"the gateway is the cardholder's", AuthPIAuthMismatch, namesThisGateway},
	{"the account is the cardholder's", AuthPIAuthMismatch, holderMatches},
	{"the card is of the gateway's brand", AuthCardMerchBrandMismatch, func(f *authFacts) bool {
		return f.o.Card == nil || BrandID(f.e.ExchangeCert.Brand()).Matches(BrandID(f.o.Card.Brand()))
	}},
	{"the terms of repeated payment are the cardholder's", AuthInstallRecurMismatch, func(f *authFacts) bool {
		return f.recur.equal(f.payload.InstallRecurData)
	}},
	{"an instalment is left", AuthInstallRecurMismatch, func(f *authFacts) bool {
		most := f.recur.instalments()
		return most == nil || f.made < int64(*most)
	}},
	{"the recurring payment has not expired", AuthRecurringExpired, func(f *authFacts) bool {
		r := f.recur.recurring()
		return r == nil || !f.now.After(r.RecurringExpiry)
	}},
	{"the recurring payment is due", AuthRecurringTooSoon, func(f *authFacts) bool {
		r := f.recur.recurring()
		return r == nil || f.made == 0 || f.now.Sub(f.last) >= time.Duration(r.RecurringFrequency)*24*time.Hour
	}},
	{"the amount is within the cardholder's", AuthAmountError, amountAllowed},
	{"details of a sale are of a sale", AuthInvalidTransaction, func(f *authFacts) bool {
		return f.o.Data.SaleDetail == nil || f.o.Data.CaptureNow
	}},
}

func (e *Endpoint) authFacts(now time.Time, o *OpenedAuthReq) *authFacts {
	return &authFacts{o.terms(), e, now, o, o.Data.AuthReqItem.AuthReqPayload}
}

// digestsAgree compares the merchant's digests of the order with the cardholder's. A token has none to
// compare with, and a request that brings some with it is confused.
func digestsAgree(f *authFacts) bool {
	d := f.o.Data.AuthReqItem.CheckDigests
	if f.o.Token != nil {
		return d == nil
	}
	return d != nil && d.HOIData.Equal(f.o.hOIData) == nil && d.HOD2.Equal(f.o.PIHead.Inputs.HOD) == nil
}

// namesThisGateway checks the extension with which the cardholder signed for one gateway (profile A8).
func namesThisGateway(f *authFacts) bool {
	raw := f.o.PIHead.Extensions.Find(ExtPEThumb)
	if raw == nil {
		return true
	}
	own, err := der.Marshal(f.o.own.ExchangeCert.CertThumb())
	return err == nil && bytes.Equal(raw, own)
}

// holderMatches recomputes the cardholder's blind name from the account (SET §6.4).
func holderMatches(f *authFacts) bool {
	o := f.o
	if o.Card == nil {
		return true
	}
	id, err := pki.UniqueCardholderID(o.PANData.PANSecret[:], o.PANData.PAN, o.PANData.CardExpiry)
	return err == nil && subtle.ConstantTimeCompare([]byte(id), []byte(o.Card.Subject.CommonName)) == 1
}

// amountAllowed bounds the sum of all authorizations of a purchase by its amount. A recurring payment is
// bounded each time, for it has no sum that was agreed.
func amountAllowed(f *authFacts) bool {
	asked := f.payload.AuthReqAmt
	if f.recur.recurring() == nil {
		var ok bool
		if asked, ok = f.sum.Plus(asked); !ok {
			return false
		}
	}
	order, ok := asked.Cmp(f.purchAmt)
	return ok && order <= 0
}

// tokenFacts are what a gateway knows of an item of a capture or of an adjustment without looking into its
// records.
type tokenFacts struct {
	missing, foreign bool         // the token is not there, or not this gateway's
	token            CapTokenData // unless missing or foreign
	authRRPID        RRPID        // of the authorization that the item names
	captured         CurrencyAmount

	adjustment          Adjustment
	asked               CurrencyAmount // to undo or to credit
	newAccount, account bool           // to credit another account; the merchant gave one
}

// capRules are the conditions of a capture (SET §7.7).
var capRules = []rule[*tokenFacts, CapCode]{
	{"a token is there", CapTokenMissing, tokenIsThere},
	{"the token is this gateway's", CapInvalidCapToken, tokenIsOurs},
	{"the token is of this authorization", CapInvalidCapToken, tokenFits},
	{"the amount is within the authorization", CapInvalidAuthData, amountWithinToken},
}

// adjustmentRules are the conditions of a capture reversal, a credit or a credit reversal (SET §7.7).
var adjustmentRules = []rule[*tokenFacts, CapRevOrCredCode]{
	{"a token is there", CapRevOrCredMissingCapToken, tokenIsThere},
	{"the token is this gateway's", CapRevOrCredInvalidCapToken, tokenIsOurs},
	{"the token is of this authorization", CapRevOrCredInvalidCapToken, tokenFits},
	{"the capture is within the authorization", CapRevOrCredCapDataMismatch, amountWithinToken},
	{"no more is undone than was captured", CapRevOrCredCapDataMismatch, func(f *tokenFacts) bool {
		order, ok := f.asked.Cmp(f.captured)
		return ok && order <= 0
	}},
	{"a capture is undone as a whole", CapRevOrCredCapDataMismatch, func(f *tokenFacts) bool {
		return f.adjustment != CaptureReversal || f.asked.Equal(f.captured)
	}},
	{"another account is only for a credit", CapRevOrCredCapDataMismatch, func(f *tokenFacts) bool {
		return !f.newAccount || f.adjustment != CaptureReversal
	}},
	{"another account is named", CapRevOrCredMissingCapData, func(f *tokenFacts) bool {
		return !f.newAccount || f.account
	}},
}

func tokenIsThere(f *tokenFacts) bool { return !f.missing }
func tokenIsOurs(f *tokenFacts) bool  { return !f.foreign }
func tokenFits(f *tokenFacts) bool    { return f.token.AuthRRPID == f.authRRPID }

func amountWithinToken(f *tokenFacts) bool {
	order, ok := f.captured.Cmp(f.token.AuthAmt)
	return ok && order <= 0
}

// tokenFacts opens the token of an item. A token that is not good is a fact; that the key-exchange key is
// away is an error.
func (e *Endpoint) tokenFacts(now time.Time, token CapToken, authRRPID RRPID, payload CapPayload) (*tokenFacts, error) {
	f := &tokenFacts{authRRPID: authRRPID, captured: payload.CapReqAmt}
	if err := known(payload.Extensions); err != nil {
		return nil, err
	}
	if token.Null != nil {
		f.missing = true
		return f, nil
	}
	var err error
	f.token, err = e.openCapToken(now, token)
	var bad *ProtocolError
	if errors.As(err, &bad) {
		f.foreign, err = true, nil
	}
	return f, err
}

// authRevRules are the conditions of an authorization reversal (SET §7.7).
var authRevRules = []rule[*OpenedAuthRevReq, AuthRevCode]{
	{"the token is this gateway's", AuthRevInvalidCapToken, func(o *OpenedAuthRevReq) bool { return !o.foreign }},
	{"the authorization is named", AuthRevMissingCapToken, func(o *OpenedAuthRevReq) bool {
		return o.Token != nil || o.Data.AuthReqData != nil
	}},
	{"the token is of this authorization", AuthRevInvalidCapToken, func(o *OpenedAuthRevReq) bool {
		d := o.Data.AuthReqData
		return o.Token == nil || d == nil || o.Token.AuthRRPID == d.AuthReqItem.AuthTags.AuthRRTags.RRPID
	}},
	{"the transaction is the cardholder's", AuthRevInvalidTransaction, func(o *OpenedAuthRevReq) bool {
		return o.Of.terms().transIDs.check(o.TransIDs()) == nil
	}},
	{"the merchant is the cardholder's", AuthRevInvalidTransaction, func(o *OpenedAuthRevReq) bool {
		return string(o.Of.terms().merchantID) == o.Merchant.Merchant.MerchantID
	}},
	{"no more stays than was authorized", AuthRevInvalidAmount, func(o *OpenedAuthRevReq) bool {
		var most CurrencyAmount
		switch {
		case o.Token != nil:
			most = o.Token.AuthAmt
		case o.Data.AuthReqData != nil:
			most = o.Data.AuthReqData.AuthReqItem.AuthReqPayload.AuthReqAmt
		}
		order, ok := o.Data.AuthNewAmt.Cmp(most)
		return ok && order <= 0
	}},
}

// batchFacts are a batch administration request and the batch that it names.
type batchFacts struct {
	asked *BatchAdminReqData
	batch *Batch
}

func (f *batchFacts) does(op BatchOperation) bool {
	return f.asked.BatchOperation != nil && *f.asked.BatchOperation == op
}

// served tells whether the gateway refuses none of the brands and BINs asked for with the given code.
func (f *batchFacts) served(refused PCertCode) bool {
	return !f.does(BatchOpen) || !slices.ContainsFunc(f.asked.BrandAndBINSeq, func(x BrandAndBIN) bool { return f.batch.Serves(x) == refused })
}

// batchRules are the conditions of a batch administration (SET §7.8).
var batchRules = []rule[*batchFacts, BAStatus]{
	{"a batch is opened once", BABatchAlreadyOpen, func(f *batchFacts) bool { return !f.does(BatchOpen) || f.batch.State != BatchIsOpen }},
	{"a batch closed is not opened again", BABatchIDUnavailable, func(f *batchFacts) bool {
		return !f.does(BatchOpen) || f.batch.State != BatchClosed
	}},
	{"the brands are served", BABrandNotSupported, func(f *batchFacts) bool { return f.served(PCertBrandNotSupported) }},
	{"the BINs are served", BAUnknownBIN, func(f *batchFacts) bool { return f.served(PCertUnknownBIN) }},
	{"the batch exists", BAUnknownBatchID, func(f *batchFacts) bool { return f.does(BatchOpen) || f.batch.State != BatchUnused }},
	{"what is purged or closed is open", BAUnknownBatchID, func(f *batchFacts) bool {
		return !f.does(BatchPurge) && !f.does(BatchClose) || f.batch.State == BatchIsOpen
	}},
	{"the brands purged are the batch's", BABrandBatchMismatch, func(f *batchFacts) bool {
		return !f.does(BatchPurge) || !slices.ContainsFunc(f.asked.BrandAndBINSeq, func(x BrandAndBIN) bool { return !f.batch.covers(x.BrandID) })
	}},
	{"the totals of a batch to close agree", BATotalsOutOfBalance, func(f *batchFacts) bool {
		if !f.does(BatchClose) || f.asked.BatchStatus == nil {
			return true
		}
		theirs := f.asked.BatchStatus.BatchDetails
		ours, ok := f.batch.Details(theirs.BatchTotals.TransactionTotalAmtDebit.Currency)
		return ok && ours.balances(theirs)
	}},
	{"the page starts somewhere", BAUnknownStartingPoint, func(f *batchFacts) bool {
		return f.does(BatchOpen) || f.asked.ReturnTransactionDetail == nil || f.batch.starts(f.asked.ReturnTransactionDetail.StartingPoint)
	}},
}
