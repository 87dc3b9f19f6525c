package merchant

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/sqldb"
)

// outcomePoll is how often a waiting purchase request looks for an outcome that another process stored.
const outcomePoll = time.Second

// broadcast tells everyone who waits that something has changed.
type broadcast struct {
	mu   sync.Mutex
	next chan struct{}
}

// changed gives a channel that is closed by the next signal.
func (b *broadcast) changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.next
}

func (b *broadcast) signal() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.next)
	b.next = make(chan struct{})
}

// request is a SET request that was received.
type request struct {
	now    time.Time
	w      *set.MessageWrapper
	digest [sha256.Size]byte
	key    sqldb.AnswerKey
}

// ServeSET answers one SET message of a cardholder, as sethttp wants it.
func (m *Merchant) ServeSET(ctx context.Context, octets []byte) ([]byte, error) {
	now := m.Now()
	w, err := m.Endpoint.Receive(now, octets, set.PInitReqType, set.PReqType, set.InqReqType)
	var response []byte
	if err == nil {
		response, err = m.answer(ctx, &request{now: now, w: w, digest: sha256.Sum256(octets)})
	}
	var p *set.ProtocolError
	if !errors.As(err, &p) {
		return response, err
	}
	response, signErr := m.Endpoint.ErrorResponse(now, octets, w, err)
	if signErr != nil {
		return nil, fmt.Errorf("sign the Error %v: %w", p.Code, signErr)
	}
	return response, err
}

func (m *Merchant) answer(ctx context.Context, r *request) ([]byte, error) {
	switch r.w.Message.Type() {
	case set.PInitReqType:
		return m.initiate(ctx, r)
	case set.PReqType:
		return m.purchase(ctx, r)
	}
	return m.inquire(ctx, r)
}

// stored finds the answer that the same request of the same peer got before.
func (m *Merchant) stored(ctx context.Context, r *request, peer string) (response []byte, found bool, err error) {
	r.key = sqldb.AnswerKey{Peer: peer, Message: r.w.Message.Type().String(), RRPID: *r.w.MessageHeader.RRPID}
	response, found, err = m.Store.db.Answer(ctx, r.key, r.digest)
	if errors.Is(err, sqldb.ErrConflict) {
		err = conflict(err)
	}
	return response, found, err
}

// conflict refuses a request whose RRPID belongs to another one (SET §7.9).
func conflict(err error) error { return &set.ProtocolError{Code: set.UnspecifiedFailure, Err: err} }

// save stores an answer in the transaction that did the request's work.
func (m *Merchant) save(ctx context.Context, r *request, response []byte) func(tx *sql.Tx) error {
	return func(tx *sql.Tx) error {
		return m.Store.db.SaveAnswer(ctx, tx, r.key, r.digest, response, r.now.Add(answerLife))
	}
}

// saved gives the response, or the one that was stored meanwhile for another copy of the request.
func (m *Merchant) saved(ctx context.Context, r *request, response []byte, err error) ([]byte, error) {
	if errors.Is(err, sqldb.ErrAnswered) {
		response, _, err = m.stored(ctx, r, r.key.Peer)
	}
	if err != nil {
		return nil, err
	}
	return response, nil
}

// initiate answers PInitReq: it starts a transaction for the order that LID-M names.
func (m *Merchant) initiate(ctx context.Context, r *request) ([]byte, error) {
	req, err := r.w.OpenPInitReq()
	if err != nil {
		return nil, err
	}
	if response, found, err := m.stored(ctx, r, ""); found || err != nil {
		return response, err
	}
	order, err := m.Store.orderByLID(ctx, req.LIDM)
	if errors.Is(err, ErrNoOrder) {
		return nil, &set.ProtocolError{Code: set.UnknownLID, Err: err}
	}
	if err != nil {
		return nil, err
	}
	if !order.State.payable() {
		return nil, &set.ProtocolError{Code: set.UnspecifiedFailure, Err: fmt.Errorf("order %d is %s and cannot be paid", order.Number, order.State)}
	}
	gateway, err := m.gateway(req.BrandID, r.now)
	if err != nil || !req.BrandID.Matches(set.BrandID(m.Endpoint.SignCert.Brand())) {
		return nil, &set.ProtocolError{Code: set.UnspecifiedFailure, Err: fmt.Errorf("brand %s is not accepted", req.BrandID)}
	}
	sl := &set.Sale{OD: order.description, PurchAmt: order.amount, LIDM: order.lidM}
	response, err := sl.InitRes(m.Endpoint, r.now, req, gateway.Certificate, gateway.Chain)
	if err != nil {
		return nil, err
	}
	err = m.Store.addSale(ctx, order.ID, r.now, sl, m.save(ctx, r, response))
	if errors.Is(err, errTooManySales) {
		err = &set.ProtocolError{Code: set.UnspecifiedFailure, Err: err}
	}
	if err == nil {
		m.Log.Info("transaction started", "xid", sl.TransIDs.XID, "order", order.Number, "amount", order.amount.String())
	}
	return m.saved(ctx, r, response, err)
}

// purchase answers PReq: it takes the payment instructions once and waits for their outcome.
func (m *Merchant) purchase(ctx context.Context, r *request) ([]byte, error) {
	o, err := m.Endpoint.OpenPReq(r.now, r.w)
	if err != nil {
		return nil, err
	}
	if response, found, err := m.stored(ctx, r, o.Holder()); found || err != nil {
		return response, err
	}
	for {
		response, err := m.tryPurchase(ctx, r, o)
		// Another request for this transaction or order came first: look again at what is there now.
		if errors.Is(err, errTaken) || errors.Is(err, errOrderPaid) {
			continue
		}
		return response, err
	}
}

func (m *Merchant) tryPurchase(ctx context.Context, r *request, o *set.OpenedPReq) ([]byte, error) {
	sl, err := m.Store.sale(ctx, o.OI.TransIDs.XID)
	if errors.Is(err, errNoSale) || err == nil && sl.state == saleInitiated && r.now.Sub(sl.created) > initiatedLife {
		return nil, &set.ProtocolError{Code: set.UnknownXID, Err: errNoSale}
	}
	if err != nil {
		return nil, err
	}
	if sl.state != saleInitiated {
		return m.repeated(ctx, r, o, sl)
	}
	order, err := m.Store.Order(ctx, sl.orderID)
	if err != nil {
		return nil, err
	}
	err = sl.Sale.Take(o)
	switch {
	case errors.Is(err, set.ErrOrder):
		return m.reject(ctx, r, o, sl, err)
	case err != nil:
		return nil, err
	case !order.State.payable():
		return m.reject(ctx, r, o, sl, fmt.Errorf("the order is %s", order.State))
	}
	sl.state, sl.request = saleAuthorizing, r.digest[:]
	sl.Authorization = &authorization{Request: set.AuthorizationRequest{
		RRPID: set.NewRRPID(), Amount: sl.Sale.PurchAmt, MerchData: m.MerchData,
	}}
	if sl.authReq, err = sl.Sale.AuthReq(m.Endpoint, r.now, sl.Authorization.Request); err != nil {
		return nil, err
	}
	if err := m.Store.take(ctx, sl); err != nil {
		return nil, err
	}
	m.Log.Info("purchase request taken", "xid", sl.xid, "order", order.Number)
	return m.result(ctx, r, sl)
}

// repeated answers a purchase request for a transaction that has one. The same request waits for the same
// outcome; another one is rejected.
func (m *Merchant) repeated(ctx context.Context, r *request, o *set.OpenedPReq, sl *sale) ([]byte, error) {
	same := o.OI.RRPID == sl.Sale.RRPID && bytes.Equal(o.Subject(), sl.Sale.Card)
	switch {
	case same && bytes.Equal(r.digest[:], sl.request):
		return m.result(ctx, r, sl)
	case same:
		return nil, conflict(sqldb.ErrConflict)
	}
	other := sl.Sale // a copy: the sale keeps its own request
	if err := other.Take(o); err != nil && !errors.Is(err, set.ErrOrder) {
		return nil, err
	}
	m.Log.Warn("second purchase request rejected", "xid", sl.xid)
	response, err := other.PRes(m.Endpoint, r.now, set.PResPayload{CompletionCode: set.OrderRejected})
	if err != nil {
		return nil, err
	}
	return m.saved(ctx, r, response, m.Store.db.Tx(ctx, m.save(ctx, r, response)))
}

// reject ends a transaction without asking the gateway.
func (m *Merchant) reject(ctx context.Context, r *request, o *set.OpenedPReq, sl *sale, why error) ([]byte, error) {
	sl.state, sl.request, sl.Sale.Card = saleRejected, r.digest[:], o.Subject()
	response, err := sl.Sale.PRes(m.Endpoint, r.now, sl.status())
	if err != nil {
		return nil, err
	}
	ok, err := m.Store.reject(ctx, sl, m.save(ctx, r, response))
	if err == nil && !ok {
		return nil, errTaken
	}
	m.Log.Warn("purchase request rejected", "xid", sl.xid, "reason", why)
	return m.saved(ctx, r, response, err)
}

// result waits for the outcome of a sale and answers its purchase request with it.
func (m *Merchant) result(ctx context.Context, r *request, sl *sale) ([]byte, error) {
	timeout := time.NewTimer(m.AnswerTimeout)
	defer timeout.Stop()
	poll := time.NewTicker(outcomePoll)
	defer poll.Stop()
	for late := false; ; {
		changed := m.outcomes.changed()
		now, err := m.Store.sale(ctx, sl.xid)
		if err != nil {
			return nil, err
		}
		if now.state != saleAuthorizing || late {
			response, err := now.Sale.PRes(m.Endpoint, m.Now(), now.status())
			if err != nil {
				return nil, err
			}
			return m.saved(ctx, r, response, m.Store.db.Tx(ctx, m.save(ctx, r, response)))
		}
		select {
		case <-changed:
		case <-poll.C:
		case <-timeout.C:
			late = true
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// inquire answers InqReq with the present state of the purchase, to the cardholder who made it.
func (m *Merchant) inquire(ctx context.Context, r *request) ([]byte, error) {
	q, err := m.Endpoint.OpenInqReq(r.now, r.w)
	if err != nil {
		return nil, err
	}
	if response, found, err := m.stored(ctx, r, q.Holder()); found || err != nil {
		return response, err
	}
	sl, err := m.Store.sale(ctx, q.Data.TransIDs.XID)
	if errors.Is(err, errNoSale) {
		sl, err = &sale{state: saleInitiated, record: record{Sale: set.Sale{TransIDs: q.Data.TransIDs}}}, nil
	}
	if err != nil {
		return nil, err
	}
	response, err := sl.Sale.InqRes(m.Endpoint, r.now, q, sl.status())
	if err != nil {
		return nil, err
	}
	return m.saved(ctx, r, response, m.Store.db.Tx(ctx, m.save(ctx, r, response)))
}

// status tells the cardholder how far the sale has come (SET §5.3).
func (s *sale) status() set.PResPayload {
	switch s.state {
	case saleInitiated:
		return set.PResPayload{CompletionCode: set.OrderNotReceived}
	case saleRejected:
		return set.PResPayload{CompletionCode: set.OrderRejected}
	case saleAuthorizing, saleUnresolved:
		return set.PResPayload{CompletionCode: set.OrderReceived}
	}
	a := s.Authorization
	p := set.PResPayload{CompletionCode: set.AuthorizationPerformed, Results: &set.Results{AuthStatus: &set.AuthStatus{
		AuthDate: a.At, AuthCode: a.Code, AuthRatio: s.ratio(a.Request.Amount),
	}}}
	if c := s.record.Capture; s.capture == CaptureDone {
		p.CompletionCode = set.CapturePerformed
		p.Results.CapStatus = &set.CapStatus{CapDate: c.At, CapCode: set.CapSuccess, CapRatio: s.ratio(c.Amount)}
	}
	return p
}

// ratio is the part that an amount is of the whole purchase, which is never free.
func (s *sale) ratio(a set.CurrencyAmount) der.Real {
	r, _ := set.Ratio(a, s.Sale.PurchAmt)
	return der.NewReal(r)
}
