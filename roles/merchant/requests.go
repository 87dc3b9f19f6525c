package merchant

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/sqldb"
)

// jobOperate is the kind of the jobs that send requests. The payload is the id of an operation.
const jobOperate = "operate"

// operate sends the request of an operation and books the outcome. It is repeated, with the same octets,
// until the gateway has answered in a way that can be relied on.
func (m *Merchant) operate(ctx context.Context, job sqldb.Job) (func(*sql.Tx) error, error) {
	w, err := m.Store.work(ctx, m.Now(), string(job.Payload))
	if err != nil || w.state != OperationPending {
		return nil, err
	}
	sent := w.octets != nil && job.Attempt > 1
	answer, err := m.exchange(ctx, &w)
	var book booking
	distrusted, ok := errors.AsType[*distrustError](err)
	switch {
	case err == nil:
		book, err = m.read(w, answer)
	case ok && distrusted.final && (sent || w.Repeats == 0 || w.kind == KindReverse):
		book, err = bookDistrust(distrusted, sent), nil
	}
	if err != nil {
		return nil, err
	}
	// The outcome is stored here and not with the end of the job, so that whoever waits for it hears of it
	// after it is committed. A job that is delivered again finds it stored.
	done, err := m.Store.finish(ctx, m.Now(), w.id, book)
	if err != nil {
		return nil, err
	}
	m.outcomes.signal()
	if r := done.Report; r != nil {
		m.Log.Info("batch administered", "operation", string(done.Batch.Operation), "batch", r.Batch, "status", r.Status)
	}
	for _, i := range done.Items {
		m.Log.Info("operation", "operation", string(done.kind), "state", string(done.state), "order", i.Order, "xid", i.XID.String(),
			"amount", i.Total, "code", i.Code, "failure", done.Failure)
	}
	return nil, nil
}

// exchange makes the request of an operation, unless that is done, and gives what the gateway answers.
func (m *Merchant) exchange(ctx context.Context, w *work) ([]byte, error) {
	if w.octets == nil {
		var err error
		if w.octets, err = ways[w.kind].make(m, *w); err != nil {
			return nil, fmt.Errorf("make %v: %w", ways[w.kind].message, err)
		}
		if *w, err = m.Store.keep(ctx, *w); err != nil {
			return nil, err
		}
	}
	if err := m.trusts(w.GatewayCert); err != nil {
		return nil, err
	}
	gateway, err := m.holder(w.GatewayCert)
	if err != nil {
		return nil, err
	}
	return m.Client.Post(ctx, gateway.URL, sethttp.MediaPayment, w.octets)
}

// read gives what an answer books. An Error message that the gateway has signed is an answer too.
func (m *Merchant) read(w work, answer []byte) (booking, error) {
	way := ways[w.kind]
	w.now = m.Now()
	book, err := way.open(m, w, answer)
	var p *set.PeerError
	switch {
	case err == nil:
		return book, nil
	case !errors.As(err, &p) || p.Signer == nil: // what nobody signed may come from anyone: it is no outcome
		return nil, fmt.Errorf("answer to %v: %w", way.message, err)
	case p.Code != set.MessageTooOld:
		return func(w work) *operation { w.fail(p.Error()); return nil }, nil
	}
	// The gateway did not look at the request because of its date, and so says nothing of earlier copies.
	m.Log.Warn("request has got too old", "operation", string(w.kind), "id", w.id)
	return func(w work) *operation { return w.late(way.late) }, nil
}

// refuse books that the gateway did not do what an item asked for.
func (w work) refuse(i int, code string) {
	item := &w.Items[i]
	item.Code, item.Refused, w.state = code, true, OperationRefused
	w.sales[item.XID].Trouble = fmt.Sprintf("%s of %s: %s", w.kind, item.Total, code)
}

// fail books that the gateway refused the request as a whole: nothing of it was done, unless by an earlier request for
// the same.
func (w work) fail(why string) {
	w.state, w.Failure = OperationRefused, why
	for _, i := range w.Items {
		s, a := w.item(i)
		s.Trouble = fmt.Sprintf("%s of %s: %s", w.kind, i.Total, why)
		switch {
		case w.Instead:
			a.Unknown, w.state = true, OperationUnresolved
			a.Failure = why
		case w.kind == KindAuthorize:
			w.notAuthorized(s, a, set.AuthUnspecifiedFailure, why)
		case w.Repeats > 0:
			w.doubt(a, true)
		case w.kind == KindCapture:
			a.Capture = &capture{Operation: w.id, At: w.second(), Code: set.CapUnspecifiedFailure, Failure: why}
		}
	}
}

// second is the time of the booking as messages tell it.
func (w work) second() time.Time { return w.now.UTC().Truncate(time.Second) }

func (w work) notAuthorized(s *sale, a *authorization, code set.AuthCode, why string) {
	a.At, a.Code, a.Failure = w.second(), code, why
	s.step(a, set.StepDecline, a.Request.Amount)
}

// late books that a request has got too old to be looked at.
func (w work) late(rule lateRule) *operation {
	w.state, w.Failure = OperationRefused, "the request has got too old for the gateway"
	for _, i := range w.Items {
		if s, a := w.item(i); w.confusable(a, i.Amount) {
			a.Unknown, w.state = true, OperationUnresolved
			s.Trouble = fmt.Sprintf("%s of %s: %s", w.kind, i.Total, w.Failure)
			return nil
		}
	}
	switch {
	case rule == lateAnew:
		return w.anew(w.now, w.kind)
	case w.kind == KindAuthorize:
		next := w.anew(w.now, KindReverse)
		next.Instead, next.Items[0].Amount.Amount = true, 0
		next.Items[0].Total = next.Items[0].Amount.String()
		return next
	}
	next := w.anew(w.now, KindUndoRefund)
	next.Instead = true
	return next
}

// confusable tells whether the gateway could take what is asked next for something else that it did to the same
// capture: it knows refunds by their amounts only.
func (w work) confusable(a *authorization, amount set.CurrencyAmount) bool {
	switch {
	case w.kind == KindRefund:
		return a.Position.Credited.Amount != 0
	case w.kind == KindUndoRefund && !w.Instead:
		alike := 0
		for _, r := range a.Refunds {
			if r.Undone == nil && r.Amount.Equal(amount) {
				alike++
			}
		}
		return alike > 1
	}
	return false
}

// distrustError tells that a gateway's certificate must not be relied on.
type distrustError struct {
	err   error
	final bool // a newer list of what is revoked will not change it
}

func (e *distrustError) Error() string { return e.err.Error() }
func (e *distrustError) Unwrap() error { return e.err }

// trusts tells whether a certificate that requests are encrypted for is still to be relied on.
func (m *Merchant) trusts(raw []byte) error {
	cert, err := pki.ParseCertificate(raw)
	if err != nil {
		return err
	}
	if err := m.verifyGateway(cert); err != nil {
		var v *pki.VerifyError
		return &distrustError{fmt.Errorf("the gateway's %v: %w", cert, err), errors.As(err, &v) && v.Reason != pki.Missing}
	}
	return nil
}

// bookDistrust ends an operation whose request is not sent any more, because it is for a key that is no longer
// trusted. The cardholder's payment instructions cannot be encrypted for another one; all else can.
func bookDistrust(err *distrustError, sent bool) booking {
	return func(w work) *operation {
		switch {
		case w.kind == KindReverse && (sent || w.Repeats > 0):
			s, a := w.item(w.Items[0])
			w.state, w.Failure = OperationUnresolved, err.Error()
			a.Unknown, a.Failure = true, err.Error()
			s.Trouble = fmt.Sprintf("%s of %s: %v", w.kind, w.Items[0].Total, err)
		case sent:
			return w.late(ways[w.kind].late)
		default:
			w.fail(err.Error())
		}
		return nil
	}
}

// recipient chooses the certificate that a request is encrypted for: that of the payment instructions, which
// the gateway must open with the same key, or where there are none the gateway's present one.
func (m *Merchant) recipient(w work, instructions bool) error {
	var gateway Gateway
	var err error
	if len(w.Items) == 0 {
		gateway, err = m.offered(w.Brand)
	} else {
		s, _ := w.item(w.Items[0])
		w.GatewayCert = s.Sale.GatewayCert
		gateway, err = m.holder(w.GatewayCert)
	}
	if err != nil {
		return err
	}
	if !instructions {
		w.GatewayCert = gateway.Certificate.X509.Raw
	}
	return m.trusts(w.GatewayCert)
}

// to is the sale for messages from and to the gateway of an operation.
func (w work) to(s *sale) *set.Sale {
	out := s.Sale
	out.GatewayCert = w.GatewayCert
	return &out
}

func (m *Merchant) makeAuthReq(w work) ([]byte, error) {
	s, a := w.item(w.Items[0])
	r := &a.Request
	if err := m.recipient(w, r.AuthToken == nil); err != nil {
		return nil, err
	}
	r.MerchData = m.MerchData
	if r.CaptureNow = m.Capture == CaptureWithSale; r.CaptureNow {
		r.SaleDetail = &set.SaleDetail{MerOrderNum: set.MerOrderNum(strconv.FormatInt(s.number, 10)), OKToPrintPhoneInd: true}
	}
	return w.to(s).AuthReq(m.endpoint(), w.now, *r)
}

func (m *Merchant) openAuthRes(w work, answer []byte) (booking, error) {
	s, a := w.item(w.Items[0])
	res, err := w.to(s).OpenAuthRes(m.endpoint(), w.now, a.Request, answer)
	if err != nil {
		return nil, err
	}
	res.Clear() // this merchant has no use for card numbers
	return func(w work) *operation { return w.bookAuthorization(res, m.Capture == CaptureImmediately) }, nil
}

func (w work) bookAuthorization(res *set.Authorized, capture bool) *operation {
	s, a := w.item(w.Items[0])
	s.Trouble, w.Items[0].Code = "", res.Header.AuthCode.String()
	a.At, a.Code, a.CardMessage, a.CurrConv = w.second(), res.Header.AuthCode, res.AcqCardMsg, res.Header.CurrConv
	if res.AuthRetNum != nil {
		s.AuthRetNum = res.AuthRetNum
	}
	if id := res.TransIDs.PaySysID; id != "" {
		s.Sale.TransIDs.PaySysID = id
	}
	if a.Code != set.AuthApproved {
		s.step(a, set.StepDecline, a.Request.Amount)
		w.refuse(0, a.Code.String())
		return nil
	}
	a.CapToken, s.AuthToken = res.CapToken, res.AuthToken
	if codes := res.Header.ResponseData.AuthValCodes; codes != nil {
		a.ApprovalCode = string(codes.ApprovalCode)
	}
	if c := res.Capture; c != nil {
		payload := set.CapPayload{CapDate: a.At, CapReqAmt: a.Request.Amount}
		w.captured(s, a, payload, *c)
		if c.CapCode == set.CapSuccess {
			s.step(a, set.StepSell, a.Request.Amount)
			return nil
		}
		s.Trouble = fmt.Sprintf("%s of %v: %v", KindCapture, a.Request.Amount, c.CapCode)
	}
	s.step(a, set.StepAuthorize, a.Request.Amount)
	if !capture {
		return nil
	}
	next := newOperation(KindCapture, w.now, w.Brand)
	next.add(s, a, a.Request.Amount)
	return next
}

// captured keeps what the gateway says of a capture.
func (w work) captured(_ *sale, a *authorization, payload set.CapPayload, p set.CapResPayload) {
	a.Capture = &capture{Operation: w.id, Payload: payload, At: w.second(), Code: p.CapCode, Batch: p.BatchID}
}

func (m *Merchant) makeAuthRevReq(w work) ([]byte, error) {
	s, a := w.item(w.Items[0])
	if err := m.recipient(w, a.Request.AuthToken == nil); err != nil {
		return nil, err
	}
	w.Reversal = &set.ReversalRequest{
		RRPID: set.NewRRPID(), NewAmount: w.Items[0].Amount, Of: a.Request, CapToken: a.CapToken, AuthRetNum: s.AuthRetNum,
	}
	return w.to(s).AuthRevReq(m.endpoint(), w.now, *w.Reversal)
}

func (m *Merchant) openAuthRevRes(w work, answer []byte) (booking, error) {
	s, _ := w.item(w.Items[0])
	res, err := w.to(s).OpenAuthRevRes(m.endpoint(), w.now, *w.Reversal, answer)
	if err != nil {
		return nil, err
	}
	return func(w work) *operation { return w.bookReversal(res) }, nil
}

func (w work) bookReversal(res *set.Reversed) *operation {
	s, a := w.item(w.Items[0])
	s.Trouble, w.Items[0].Code = "", res.Code.String()
	switch {
	case res.Code != set.AuthRevApproved && w.Instead: // it may have been authorized and captured: a sale
		w.refuse(0, res.Code.String())
		a.Unknown, a.Failure, w.state = true, "no answer came in time, and it could not be taken back: "+res.Code.String(), OperationUnresolved
		return nil
	case res.Code != set.AuthRevApproved:
		w.refuse(0, res.Code.String())
		return nil
	}
	if res.AuthToken != nil {
		s.AuthToken = res.AuthToken
	}
	if w.Instead {
		w.notAuthorized(s, a, set.AuthNoReply, "no answer came in time: what may have been authorized was taken back")
		return nil
	}
	s.step(a, set.StepReverse, w.Items[0].Amount)
	a.CapToken = res.CapToken
	if len(s.standing()) == 0 {
		s.AuthToken = nil // the payment instructions themselves may be used again
	}
	if !w.All {
		return nil
	}
	next := s.reverseNewest(w.now)
	if next != nil {
		next.All = true
	}
	return next
}

func (m *Merchant) makeCapReq(w work) ([]byte, error) {
	if err := m.recipient(w, false); err != nil {
		return nil, err
	}
	w.Capture = &set.CaptureRequest{RRPID: set.NewRRPID(), GatewayCert: w.GatewayCert}
	for _, i := range w.Items {
		s, a := w.item(i)
		w.Capture.Items = append(w.Capture.Items, set.Capture{
			TransIDs: s.Sale.TransIDs, AuthRRPID: a.Request.RRPID, CapToken: a.CapToken,
			Payload: set.CapPayload{CapDate: w.second(), CapReqAmt: i.Amount},
		})
	}
	return m.endpoint().CapReq(w.now, w.Capture)
}

func (m *Merchant) openCapRes(w work, answer []byte) (booking, error) {
	res, err := m.endpoint().OpenCapRes(w.now, w.Capture, answer)
	if err != nil {
		return nil, err
	}
	return func(w work) *operation {
		for n, i := range w.Items {
			s, a := w.item(i)
			p := res.CapResItemSeq[n].CapResPayload
			s.Trouble, w.Items[n].Code = "", p.CapCode.String()
			w.captured(s, a, w.Capture.Items[n].Payload, p)
			// What an earlier copy of the request has captured is a duplicate in this one.
			if p.CapCode == set.CapSuccess || p.CapCode == set.CapDuplicateRequest && w.Repeats > 0 {
				s.step(a, set.StepCapture, i.Amount)
				continue
			}
			w.refuse(n, p.CapCode.String())
			w.doubt(a, slices.Contains([]set.CapCode{set.CapUnspecifiedFailure, set.CapTokenMissing, set.CapInvalidCapToken}, p.CapCode))
		}
		return nil
	}, nil
}

// doubt books that a refusal does not tell what earlier requests for the same have done: it is not because of the
// state of the authorization.
func (w work) doubt(a *authorization, stateless bool) {
	if stateless && w.Repeats > 0 {
		a.Unknown, a.Failure, w.state = true, "it is not known whether an earlier request was processed", OperationUnresolved
	}
}

func (m *Merchant) makeAdjustment(w work) ([]byte, error) {
	if err := m.recipient(w, false); err != nil {
		return nil, err
	}
	way := adjustments[w.kind]
	w.Adjustment = &set.AdjustmentRequest{Adjustment: way.adjustment, RRPID: set.NewRRPID(), GatewayCert: w.GatewayCert}
	for _, i := range w.Items {
		s, a := w.item(i)
		adjusted := set.Adjusted{
			TransIDs: s.Sale.TransIDs, AuthRRPID: a.Request.RRPID, CapToken: a.CapToken, Payload: a.Capture.Payload, Date: w.second(),
		}
		if w.kind != KindUncapture { // which is of the whole capture
			amount := i.Amount
			adjusted.Amount = &amount
		}
		w.Adjustment.Items = append(w.Adjustment.Items, adjusted)
	}
	return m.endpoint().AdjustmentReq(w.now, w.Adjustment)
}

func (m *Merchant) openAdjustment(w work, answer []byte) (booking, error) {
	res, err := m.endpoint().OpenAdjustmentRes(w.now, w.Adjustment, answer)
	if err != nil {
		return nil, err
	}
	return func(w work) *operation {
		for n, item := range res.CapRevOrCredResItemSeq {
			w.bookAdjustment(n, item.CapRevOrCredResPayload)
		}
		return nil
	}, nil
}

func (w work) bookAdjustment(n int, p set.CapRevOrCredResPayload) {
	i := w.Items[n]
	s, a := w.item(i)
	code := p.CapRevOrCredCode
	s.Trouble, w.Items[n].Code = "", code.String()
	// What an earlier copy of the request has undone, or what was never done, is not found any more.
	gone := code == set.CapRevOrCredOriginalNotFound && w.Repeats > 0 && w.kind != KindRefund
	if code != set.CapRevOrCredSuccess && !gone {
		w.refuse(n, code.String())
		w.learn(s, a, code)
		w.doubt(a, slices.Contains([]set.CapRevOrCredCode{
			set.CapRevOrCredUnspecifiedFailure, set.CapRevOrCredMissingCapToken, set.CapRevOrCredInvalidCapToken,
		}, code))
		return
	}
	if w.Instead {
		w.refuse(n, code.String())
		s.Trouble = fmt.Sprintf("%s of %s: no answer came in time: what may have been refunded was taken back", KindRefund, i.Total)
		return
	}
	newest := s.lastRefund()[a]
	if !s.step(a, adjustments[w.kind].step, i.Amount) {
		return
	}
	switch w.kind {
	case KindRefund:
		a.Refunds = append(a.Refunds, &refund{Number: s.refunds() + 1, Operation: w.id, Amount: i.Amount, At: w.second(), Batch: p.BatchID})
	case KindUndoRefund:
		at := w.second()
		newest.Undone = &at
		if p.BatchSequenceNum != nil { // an item of its own, where the refund's batch is closed
			newest.UndoneIn = p.BatchID
		}
	}
}

// learn books what the code of a refusal tells of the batch of a capture.
func (w work) learn(s *sale, a *authorization, code set.CapRevOrCredCode) {
	trouble := s.Trouble
	switch {
	case w.Instead:
		a.Unknown, a.Failure, w.state = true, trouble, OperationUnresolved
	case w.kind != KindUncapture:
	case code == set.CapRevOrCredOriginalProcessed || code == set.CapRevOrCredBatchClosed:
		s.step(a, set.StepSettle, set.CurrencyAmount{})
	case code == set.CapRevOrCredCapPurged:
		s.step(a, set.StepPurge, set.CurrencyAmount{})
	}
	s.Trouble = trouble
}
