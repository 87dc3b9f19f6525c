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
	w, err := m.endpoint().Receive(now, octets, set.PInitReqType, set.PReqType, set.InqReqType)
	var response []byte
	if err == nil {
		response, err = m.answer(ctx, &request{now: now, w: w, digest: sha256.Sum256(octets)})
	}
	var p *set.ProtocolError
	if !errors.As(err, &p) {
		return response, err
	}
	response, signErr := m.endpoint().ErrorResponse(now, octets, w, err)
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
	if !order.State.Payable() {
		return nil, &set.ProtocolError{Code: set.UnspecifiedFailure, Err: fmt.Errorf("order %d is %s and cannot be paid", order.Number, order.State)}
	}
	gateway, err := m.accepted(req.BrandID)
	if err != nil {
		return nil, err
	}
	sl, err := order.newSale(r.now)
	if err != nil {
		return nil, err
	}
	response, err := sl.Sale.InitRes(m.endpoint(), r.now, req, gateway.Certificate, gateway.Chain)
	if err != nil {
		return nil, err
	}
	sl.xid = sl.Sale.TransIDs.XID
	err = m.Store.addSale(ctx, sl, m.save(ctx, r, response))
	if errors.Is(err, errTooManySales) {
		err = &set.ProtocolError{Code: set.UnspecifiedFailure, Err: err}
	}
	if err == nil {
		m.Log.Info("transaction started", "xid", sl.xid, "order", order.Number, "amount", order.amount.String())
	}
	return m.saved(ctx, r, response, err)
}

// accepted finds the gateway for a brand that a cardholder wants to pay with.
func (m *Merchant) accepted(brand set.BrandID) (Gateway, error) {
	if !brand.Matches(set.BrandID(m.Endpoint.SignCert.Brand())) {
		return Gateway{}, &set.ProtocolError{Code: set.UnspecifiedFailure, Err: fmt.Errorf("brand %s is not accepted", brand)}
	}
	gateway, err := m.offered(brand)
	if err != nil {
		return gateway, &set.ProtocolError{Code: set.UnspecifiedFailure, Err: err}
	}
	return gateway, nil
}

// newSale starts a transaction for the order.
func (o *Order) newSale(now time.Time) (*sale, error) {
	terms, err := o.Terms.parse()
	if err != nil {
		return nil, err
	}
	return &sale{orderID: o.ID, number: o.Number, created: now, state: saleInitiated, record: record{
		Sale: set.Sale{OD: o.description, PurchAmt: o.amount, LIDM: o.lidM, InstallRecurData: terms}, Split: o.Terms == termsSplit,
	}}, nil
}

// purchase answers PReq: it takes the payment instructions once and waits for their outcome.
func (m *Merchant) purchase(ctx context.Context, r *request) ([]byte, error) {
	o, err := m.endpoint().OpenPReq(r.now, r.w)
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
	if errors.Is(err, errNoSale) && o.OI.ChallM == nil {
		sl, err = m.unannounced(ctx, r, o)
	}
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
	case !order.State.Payable():
		return m.reject(ctx, r, o, sl, fmt.Errorf("the order is %s", order.State))
	}
	sl.state, sl.request = saleTaken, r.digest[:]
	op, err := m.first(r.now, sl)
	if err != nil {
		return nil, err
	}
	if err := m.Store.take(ctx, sl, op); err != nil {
		return nil, err
	}
	m.Log.Info("purchase request taken", "xid", sl.xid, "order", order.Number)
	return m.result(ctx, r, sl)
}

// unannounced makes the sale for a purchase request without PInit pair: LID-M says for which order it is.
func (m *Merchant) unannounced(ctx context.Context, r *request, o *set.OpenedPReq) (*sale, error) {
	order, err := m.Store.orderByLID(ctx, o.OI.TransIDs.LIDM)
	if errors.Is(err, ErrNoOrder) {
		return nil, &set.ProtocolError{Code: set.UnknownLID, Err: err}
	}
	if err != nil {
		return nil, err
	}
	gateway, err := m.accepted(o.OI.BrandID)
	if err != nil {
		return nil, err
	}
	sl, err := order.newSale(r.now)
	if err != nil {
		return nil, err
	}
	sl.xid, sl.Sale.GatewayCert = o.OI.TransIDs.XID, gateway.Certificate.X509.Raw
	return sl, nil
}

// first begins the first authorization of a sale. An order in several shipments has none before the first of
// them.
func (m *Merchant) first(now time.Time, sl *sale) (*operation, error) {
	if sl.Split {
		return nil, nil
	}
	op := sl.authorize(now, sl.nextPayment(), false)
	w := work{now, op, map[set.XID]*sale{sl.xid: sl}}
	var err error
	op.octets, err = m.makeAuthReq(w)
	if distrusted, ok := errors.AsType[*distrustError](err); ok {
		err = &set.ProtocolError{Code: set.InvalidCertificate, Err: distrusted}
	}
	return op, err
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
	response, err := other.PRes(m.endpoint(), r.now, set.PResPayload{CompletionCode: set.OrderRejected})
	if err != nil {
		return nil, err
	}
	return m.saved(ctx, r, response, m.Store.db.Tx(ctx, m.save(ctx, r, response)))
}

// reject ends a transaction without asking the gateway.
func (m *Merchant) reject(ctx context.Context, r *request, o *set.OpenedPReq, sl *sale, why error) ([]byte, error) {
	sl.state, sl.request, sl.Sale.Card = saleRejected, r.digest[:], o.Subject()
	response, err := sl.Sale.PRes(m.endpoint(), r.now, set.PResPayload{CompletionCode: set.OrderRejected})
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
		if !now.awaited() || late {
			payloads, err := now.status()
			if err != nil {
				return nil, err
			}
			response, err := now.Sale.PRes(m.endpoint(), m.Now(), payloads...)
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
	q, err := m.endpoint().OpenInqReq(r.now, r.w)
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
	payloads, err := sl.status()
	if err != nil {
		return nil, err
	}
	response, err := sl.Sale.InqRes(m.endpoint(), r.now, q, payloads...)
	if err != nil {
		return nil, err
	}
	return m.saved(ctx, r, response, m.Store.db.Tx(ctx, m.save(ctx, r, response)))
}
