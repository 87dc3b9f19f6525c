package merchant_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/settest"
	"github.com/setkit/setkit/roles/sethttp"
)

// Behaviours of the gateway.
type behaviour int

const (
	approve       behaviour = iota
	decline                 // the issuer says no
	away                    // 503
	certsOnly               // 503 for everything but PCertReq
	garbage                 // answers with octets that are no message
	lostAnswer              // acts, and its answer does not arrive
	refuse                  // signs an Error
	tooOld                  // signs the Error messageTooOld
	tooOldOnce              // the same for what it is sent next, and then approves
	unsignedError           // anybody can answer so
)

// gateway is a payment gateway in software that answers like the real one, or fails like it.
type gateway struct {
	e      *set.Endpoint
	server *httptest.Server
	*books

	mu        *sync.Mutex
	behaviour behaviour
	hold      chan struct{} // when set, answers wait until it is closed
	received  [][]byte      // but PCertReq, which comes whenever the merchant starts
	answers   map[string][]byte
	certAsked int
	held      int                 // requests that wait
	message   *set.AcqCardCodeMsg // to the cardholder
	later     time.Duration       // its clock is ahead of the machine's
}

// books are what a gateway remembers. Several gateway certificates may share them.
type books struct {
	auths    map[set.RRPID]*held
	order    []set.RRPID
	batches  map[set.Natural]*set.Batch
	closed   map[set.Natural]set.CloseStatus
	done     map[set.MessageType]int // what was done, not what was asked for
	items    int                     // in the last capture request
	noSales  bool
	noCapt   bool // a sale is authorized, not captured
	currency set.Currency
}

// held is one authorization at the gateway.
type held struct {
	transIDs set.TransIDs
	pi       string
	position set.Position
	batch    set.Natural
	item     set.Positive // of its capture
	credits  []credit
}

// credit is an item of a batch.
type credit struct {
	item   set.Positive
	amount set.CurrencyAmount
}

func newGateway(t *testing.T, e *set.Endpoint) *gateway {
	return serveGateway(t, e, &books{
		auths: make(map[set.RRPID]*held), batches: make(map[set.Natural]*set.Batch), closed: make(map[set.Natural]set.CloseStatus),
		done: make(map[set.MessageType]int), currency: 978,
	})
}

func serveGateway(t *testing.T, e *set.Endpoint, b *books) *gateway {
	g := &gateway{e: e, answers: make(map[string][]byte), books: b, mu: new(sync.Mutex)}
	g.server = httptest.NewServer(sethttp.Handler(sethttp.MediaPayment, slog.New(slog.DiscardHandler), g.serve))
	t.Cleanup(g.server.Close)
	return g
}

func (g *gateway) behave(b behaviour) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.behaviour = b
}

// waiting counts the requests that the gateway does not answer yet.
func (g *gateway) waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.held
}

// set changes the gateway while nobody is served.
func (g *gateway) set(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
}

// pause makes the gateway slow until the function that it returns is called.
func (g *gateway) pause() (resume func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	hold := make(chan struct{})
	g.hold = hold
	return sync.OnceFunc(func() { close(hold) })
}

// counts tells what the gateway was sent and did.
func (g *gateway) counts() (received, authorizations, captures int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.received), g.done[set.AuthReqType], g.done[set.CapReqType]
}

// did tells how often the gateway did what a request of this type asks for.
func (g *gateway) did(typ set.MessageType) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.done[typ]
}

// positions lists the authorizations as the gateway has them, in the order in which they came.
func (g *gateway) positions() (out []set.Position) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, id := range g.order {
		out = append(out, g.auths[id].position)
	}
	return out
}

// different counts the different messages that the gateway received.
func (g *gateway) different() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	seen := make(map[string]bool)
	for _, b := range g.received {
		seen[string(b)] = true
	}
	return len(seen)
}

func (g *gateway) serve(ctx context.Context, request []byte) ([]byte, error) {
	w, err := set.Decode(request)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	hold := g.hold
	if w.Message.Type() == set.PCertReqType {
		hold = nil
		g.certAsked++
	} else {
		g.received = append(g.received, slices.Clone(request))
	}
	if hold != nil {
		g.held++
	}
	g.mu.Unlock()
	if hold != nil {
		defer g.set(func() { g.held-- })
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock() // before the request is no longer held
	switch {
	case g.behaviour == away, g.behaviour == certsOnly && w.Message.Type() != set.PCertReqType:
		return nil, errors.New("the gateway is away")
	case w.Message.Type() == set.PCertReqType: // comes when it likes
		return g.act(request)
	}
	switch g.behaviour {
	case garbage:
		return []byte("\x30\x03abc"), nil
	case refuse, tooOld, tooOldOnce, unsignedError:
		return g.fail(request)
	}
	response := g.answers[string(request)]
	if response == nil {
		if response, err = g.act(request); err != nil {
			return nil, err
		}
		g.answers[string(request)] = response
	}
	if g.behaviour == lostAnswer {
		return nil, errors.New("the answer is lost")
	}
	return response, nil
}

func (g *gateway) fail(request []byte) ([]byte, error) {
	p := &set.ProtocolError{Code: set.InvalidCertificate}
	e := g.e
	switch g.behaviour {
	case tooOld, tooOldOnce:
		p.Code = set.MessageTooOld
		if g.behaviour == tooOldOnce {
			g.behaviour = approve
		}
	case unsignedError:
		e = &set.Endpoint{Software: settest.Software}
	}
	w, err := set.Decode(request)
	if err != nil {
		return nil, err
	}
	response, err := e.ErrorResponse(time.Now().Add(g.later), request, w, p)
	if err != nil {
		return nil, err
	}
	return response, p
}

func (g *gateway) act(request []byte) ([]byte, error) {
	now := time.Now().Add(g.later)
	w, err := g.e.Receive(now, request, set.AuthReqType, set.AuthRevReqType, set.CapReqType, set.CapRevReqType, set.CredReqType,
		set.CredRevReqType, set.BatchAdminReqType, set.PCertReqType)
	if err != nil {
		return nil, err
	}
	switch w.Message.Type() {
	case set.AuthReqType:
		return g.authorize(now, w)
	case set.AuthRevReqType:
		return g.reverse(now, w)
	case set.CapReqType:
		return g.capture(now, w)
	case set.BatchAdminReqType:
		return g.administer(now, w)
	case set.PCertReqType:
		o, err := g.e.OpenPCertReq(now, w)
		if err != nil {
			return nil, err
		}
		return g.e.PCertRes(now, o, []set.GatewayCert{{Certificate: g.e.ExchangeCert}})
	}
	return g.adjust(now, w)
}

func (g *gateway) authorize(now time.Time, w *set.MessageWrapper) ([]byte, error) {
	o, err := g.e.OpenAuthReq(now, w)
	if err != nil {
		return nil, err
	}
	defer o.Clear()
	tags, amount := o.Data.AuthReqItem.AuthTags, o.Data.AuthReqItem.AuthReqPayload.AuthReqAmt
	answer := set.Authorization{Amount: set.CurrencyAmount{Currency: amount.Currency}}
	if g.message != nil && o.CanMessage() {
		answer.CardMessage = g.message
	}
	made, sum := g.standing(tags.TransIDs.XID)
	switch {
	case o.Refusal != nil:
		answer.Code = *o.Refusal
	case g.auths[tags.AuthRRTags.RRPID] != nil, o.Token == nil && made > 0, o.Token != nil && !o.Continues(made, sum):
		answer.Code = set.AuthPIPreviouslyUsed
	case g.noSales && o.Data.CaptureNow:
		answer.Code = set.AuthCaptureNotSupported
	case g.behaviour == decline:
		answer.Code = set.AuthDeclined
	}
	h := &held{transIDs: tags.TransIDs, pi: string(o.HPIData)}
	if answer.Code != set.AuthApproved {
		return g.e.AuthRes(now, o, answer)
	}
	g.done[set.AuthReqType]++
	retNum := set.Natural(g.done[set.AuthReqType])
	answer.Amount, answer.ApprovalCode, answer.RetNum, answer.PaySysID = amount, "A12345", &retNum, "NET-1"
	step := set.StepAuthorize
	if o.Data.CaptureNow {
		answer.Capture = &set.CapResPayload{CapCode: set.CapBatchClosed, CapAmt: set.CurrencyAmount{Currency: amount.Currency}}
		if !g.noCapt {
			step = set.StepSell
			answer.Capture = &set.CapResPayload{CapAmt: amount}
			g.put(h, amount, set.AmtDebit, tags.AuthRRTags.RRPID)
			answer.Capture.BatchID, answer.Capture.BatchSequenceNum = &h.batch, &h.item
		}
	}
	if h.position, err = h.position.After(step, amount); err != nil {
		return nil, err
	}
	g.auths[tags.AuthRRTags.RRPID] = h
	g.order = append(g.order, tags.AuthRRTags.RRPID)
	return g.e.AuthRes(now, o, answer)
}

// standing counts what is authorized of a purchase.
func (b *books) standing(xid set.XID) (made int, sum set.CurrencyAmount) {
	sum.Currency = b.currency
	for _, h := range b.auths {
		if h.transIDs.XID == xid && h.position.State != set.StateReversed && h.position.State != set.StateUnasked {
			made++
			sum, _ = sum.Plus(h.position.Authorized)
		}
	}
	return made, sum
}

// open gives the newest batch that is open, and makes one if there is none.
func (b *books) open() (set.Natural, *set.Batch) {
	for id := set.Natural(len(b.batches) + 10); id > 0; id-- {
		if batch := b.batches[id]; batch != nil && batch.State == set.BatchIsOpen {
			return id, batch
		}
	}
	id := set.Natural(len(b.batches) + 1)
	b.batches[id] = &set.Batch{State: set.BatchIsOpen}
	return id, b.batches[id]
}

// put puts an item into the open batch.
func (b *books) put(h *held, amount set.CurrencyAmount, typ set.AmtType, rrpid set.RRPID) set.Positive {
	id, batch := b.open()
	n := set.Positive(1)
	if k := len(batch.Items); k > 0 {
		n = batch.Items[k-1].BatchSequenceNum + 1
	}
	batch.Items = append(batch.Items, set.TransactionDetail{
		TransIDs: h.transIDs, AuthRRPID: rrpid, BrandID: settest.Brand, BatchSequenceNum: n, TransactionAmt: amount, TransactionAmtType: typ,
	})
	h.batch = id
	if typ == set.AmtDebit {
		h.item = n
	}
	return n
}

// drop takes an item out of a batch.
func (b *books) drop(id set.Natural, n set.Positive) {
	batch := b.batches[id]
	batch.Items = slices.DeleteFunc(batch.Items, func(d set.TransactionDetail) bool { return d.BatchSequenceNum == n })
}

func (g *gateway) reverse(now time.Time, w *set.MessageWrapper) ([]byte, error) {
	o, err := g.e.OpenAuthRevReq(now, w)
	if err != nil {
		return nil, err
	}
	defer o.Clear()
	answer := set.Reversal{Code: o.Code, Amount: set.CurrencyAmount{Currency: g.currency}, Last: now}
	h := g.auths[o.RRPID]
	switch {
	case o.Code != set.AuthRevApproved:
		return g.e.AuthRevRes(now, o, answer)
	case h == nil: // it never came, and will not be taken any more
		g.auths[o.RRPID] = &held{transIDs: o.TransIDs(), position: set.Position{State: set.StateReversed}}
	case h.position.State == set.StateReversed:
	default:
		next, err := h.position.After(set.StepReverse, o.Data.AuthNewAmt)
		var refusal *set.StepError
		if errors.As(err, &refusal) {
			answer.Code = refusal.AuthRevCode()
			return g.e.AuthRevRes(now, o, answer)
		}
		h.position = next
		g.done[set.AuthRevReqType]++
	}
	answer.Amount = o.Data.AuthNewAmt
	return g.e.AuthRevRes(now, o, answer)
}

func (g *gateway) capture(now time.Time, w *set.MessageWrapper) ([]byte, error) {
	o, err := g.e.OpenCapReq(now, w)
	if err != nil {
		return nil, err
	}
	defer o.Clear()
	g.items = len(o.Items)
	var payloads []set.CapResPayload
	for _, item := range o.Items {
		asked := item.Item.CapPayload.CapReqAmt
		p := set.CapResPayload{CapCode: item.Code, CapAmt: set.CurrencyAmount{Currency: asked.Currency}}
		if h := g.auths[item.Item.AuthRRPID]; h != nil && item.Code == set.CapSuccess {
			next, err := h.position.After(set.StepCapture, asked)
			var refusal *set.StepError
			if errors.As(err, &refusal) {
				p.CapCode = refusal.CapCode()
			} else {
				h.position, p.CapAmt = next, asked
				n := g.put(h, asked, set.AmtDebit, item.Item.AuthRRPID)
				batch := h.batch
				p.BatchID, p.BatchSequenceNum = &batch, &n
				g.done[set.CapReqType]++
			}
		}
		payloads = append(payloads, p)
	}
	return g.e.CapRes(now, o, payloads)
}

func (g *gateway) adjust(now time.Time, w *set.MessageWrapper) ([]byte, error) {
	o, err := g.e.OpenAdjustmentReq(now, w)
	if err != nil {
		return nil, err
	}
	defer o.Clear()
	var payloads []set.CapRevOrCredResPayload
	for _, item := range o.Items {
		p := set.CapRevOrCredResPayload{CapRevOrCredCode: item.Code, CapRevOrCredActualAmt: set.CurrencyAmount{Currency: item.Amount.Currency}}
		if h := g.auths[item.Item.AuthRRPID]; h != nil && item.Code == set.CapRevOrCredSuccess {
			g.adjustOne(o.Adjustment, h, item, &p)
		}
		payloads = append(payloads, p)
	}
	if len(payloads) > 0 && payloads[0].CapRevOrCredCode == set.CapRevOrCredSuccess {
		g.done[w.Message.Type()]++
	}
	return g.e.AdjustmentRes(now, o, payloads)
}

func (g *gateway) adjustOne(a set.Adjustment, h *held, item set.OpenedAdjusted, p *set.CapRevOrCredResPayload) {
	step := map[set.Adjustment]set.Step{
		set.CaptureReversal: set.StepUndoCapture, set.Credit: set.StepCredit, set.CreditReversal: set.StepUndoCredit,
	}[a]
	alike := -1 // the last
	for i, c := range h.credits {
		if c.amount.Equal(item.Amount) {
			alike = i
		}
	}
	next, err := h.position.After(step, item.Amount)
	var refusal *set.StepError
	switch {
	case a == set.CreditReversal && alike < 0:
		p.CapRevOrCredCode = set.CapRevOrCredOriginalNotFound
		return
	case errors.As(err, &refusal):
		p.CapRevOrCredCode = refusal.CapRevOrCredCode()
		return
	case !item.Item.CapPayload.CapReqAmt.Equal(h.position.Captured):
		p.CapRevOrCredCode = set.CapRevOrCredCapDataMismatch
		return
	}
	h.position, p.CapRevOrCredActualAmt = next, item.Amount
	batch := h.batch
	switch a {
	case set.CaptureReversal:
		g.drop(h.batch, h.item)
	case set.Credit:
		captured := h.batch
		n := g.put(h, item.Amount, set.AmtCredit, item.Item.AuthRRPID)
		batch, h.batch = h.batch, captured
		p.BatchSequenceNum = &n
		h.credits = append(h.credits, credit{n, item.Amount})
	case set.CreditReversal:
		id, _ := g.open()
		batch = id
		g.drop(id, h.credits[alike].item)
		h.credits = slices.Delete(h.credits, alike, alike+1)
	}
	p.BatchID = &batch
}

func (g *gateway) administer(now time.Time, w *set.MessageWrapper) ([]byte, error) {
	o, err := g.e.OpenBatchAdminReq(now, w)
	if err != nil {
		return nil, err
	}
	id := set.Natural(len(g.batches) + 1)
	if o.Data.BatchID != nil {
		id = *o.Data.BatchID
	} else if o.Data.BatchOperation == nil {
		id, _ = g.open()
	}
	batch := g.batches[id]
	if batch == nil {
		batch = &set.Batch{State: set.BatchUnused}
	}
	batch.Serves = func(x set.BrandAndBIN) set.PCertCode {
		if x.BrandID.Matches(settest.Brand) {
			return set.PCertSuccess
		}
		return set.PCertBrandNotSupported
	}
	status := o.Judge(batch)
	res := set.BatchAdminResData{BatchID: id, BAStatus: &status}
	if op := o.Data.BatchOperation; op != nil && status == set.BASuccess {
		g.done[set.BatchAdminReqType]++
		g.operate(*op, id, batch)
	}
	if o.Data.ReturnBatchSummaryInd && batch.State != set.BatchUnused {
		details, ok := batch.Details(g.currency)
		if !ok {
			return nil, fmt.Errorf("batch %d has no totals", id)
		}
		res.BatchStatus = &set.BatchStatus{OpenDateTime: now, BatchDetails: details}
		if by, closed := g.closed[id]; closed {
			res.BatchStatus.ClosedWhen = &set.ClosedWhen{CloseStatus: by, CloseDateTime: now}
		}
	}
	if d := o.Data.ReturnTransactionDetail; d != nil && status == set.BASuccess {
		res.TransDetails = batch.Page(*d)
	}
	return g.e.BatchAdminRes(now, o, res)
}

func (g *gateway) operate(op set.BatchOperation, id set.Natural, batch *set.Batch) {
	switch op {
	case set.BatchOpen:
		batch.State = set.BatchIsOpen
		g.batches[id] = batch
	case set.BatchClose:
		g.close(id, set.ClosedByMerchant)
	case set.BatchPurge:
		batch.Items = nil
		for _, h := range g.auths {
			if h.batch == id && h.position.State == set.StateCaptured {
				h.position, _ = h.position.After(set.StepPurge, set.CurrencyAmount{})
			}
		}
	}
}

// close closes a batch.
func (b *books) close(id set.Natural, by set.CloseStatus) {
	b.batches[id].State, b.closed[id] = set.BatchClosed, by
	for _, h := range b.auths {
		if h.batch == id && (h.position.State == set.StateCaptured || h.position.State == set.StateCredited) {
			h.position, _ = h.position.After(set.StepSettle, set.CurrencyAmount{})
		}
	}
}
