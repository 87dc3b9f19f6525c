package wallet

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/sethttp"
)

// Payer is the person who pays.
type Payer interface {
	// Choose picks one of the cards and connects to its smart card. The PIN is not asked for yet.
	Choose(ctx context.Context, cards []*EnrolledCard) (*EnrolledCard, Card, error)
	// Approve shows what is to be paid and asks for consent. Nothing is signed before.
	Approve(ctx context.Context, o *Offer) (bool, error)
}

// Offer is what a payer approves. Its texts are fit for a terminal.
type Offer struct {
	Merchant     string // name and place, from the merchant's certificate
	Place        string
	Order        string
	OrderType    string // media type that the shop gave for Order
	Amount       set.CurrencyAmount
	Terms        *set.InstallRecurData // that it is paid in instalments, or again and again; nil when at once
	Card         *EnrolledCard
	MerchantCert *pki.Certificate
	GatewayCert  *pki.Certificate
}

var (
	// ErrCancelled tells that the payer did not consent. Nothing was signed.
	ErrCancelled = errors.New("cancelled: nothing was signed or paid")

	// ErrNoCard tells that no enrolled card is of a brand that the merchant takes.
	ErrNoCard = errors.New("no enrolled card that the merchant takes")
)

// Pay pays what an initiation message asks for (SET §7.4). A purchase that comes with an error has been
// sent, and its outcome is not known: Inquire settles it.
//
// An order that was paid already is not paid again: its purchase is returned, Resumed, after the
// merchant was asked about it if its outcome was not known.
func (w *Wallet) Pay(ctx context.Context, m *set.Initiation, payer Payer) (*Purchase, error) {
	if m.Kind != set.PaymentInitiation && m.Kind != set.PaymentResumption {
		return nil, fmt.Errorf("the initiation message asks for %s, not for a payment", m.Kind)
	}
	if oid, unknown := m.Extensions.Unknown(); unknown {
		return nil, fmt.Errorf("the order has a critical extension that this wallet does not know: %v", oid)
	}
	key := orderKey(m)
	earlier, err := w.openOrder(ctx, key)
	if err != nil {
		return nil, err
	}
	if earlier != nil {
		return w.resume(ctx, earlier, payer)
	}
	c, card, err := w.choose(ctx, m, payer)
	if err != nil {
		return nil, err
	}
	w.refresh(ctx, c)
	e, err := c.endpoint(ctx, w, card)
	if err != nil {
		return nil, err
	}
	p, err := set.NewPurchase(m, c.Brand, c.BIN, w.cfg.Language)
	if err != nil {
		return nil, err
	}
	offer, begun, err := w.initiate(ctx, m, p, e)
	if err != nil {
		return nil, err
	}
	offer.Card = c
	ok, err := payer.Approve(ctx, offer)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, ErrCancelled
	}
	p.InstallRecurData = offer.Terms
	r := &record{cardID: c.ID, orderKey: key, setURL: m.SETURL, orderType: m.OrderType, p: p, outcome: Unknown, begun: begun}
	if err := w.sign(ctx, r, e, c, card); err != nil {
		return nil, err
	}
	return w.settle(ctx, r, e, func(context.Context) error { return nil })
}

// choose has the payer pick a card among those that the merchant takes.
func (w *Wallet) choose(ctx context.Context, m *set.Initiation, payer Payer) (*EnrolledCard, Card, error) {
	cards, err := w.Cards(ctx)
	if err != nil {
		return nil, nil, err
	}
	var fit []*EnrolledCard
	seen := make(map[*EnrolledCard]bool)
	expired := ""
	for _, brand := range m.Brands { // in the merchant's order of preference
		for _, c := range cards {
			switch {
			case seen[c] || !brand.Matches(c.Brand):
				continue
			case w.cfg.Now().After(c.Certificate.X509.NotAfter):
				expired = fmt.Sprintf("; the certificate of %s has expired: enrol the card again", c.Masked())
			default:
				fit = append(fit, c)
			}
			seen[c] = true
		}
	}
	if len(fit) == 0 {
		return nil, nil, fmt.Errorf("%w: it takes %v%s", ErrNoCard, m.Brands, expired)
	}
	c, card, err := payer.Choose(ctx, fit)
	if err != nil {
		return nil, nil, err
	}
	return c, card, c.check(card)
}

// initiate exchanges the PInit pair. It gives the messages so far.
func (w *Wallet) initiate(ctx context.Context, m *set.Initiation, p *set.Purchase, e *set.Endpoint) (*Offer, []passed, error) {
	held, err := w.held(ctx, p.BrandID)
	if err != nil {
		return nil, nil, err
	}
	asked := w.cfg.Now()
	req, err := p.InitReq(e, asked, held...)
	if err != nil {
		return nil, nil, err
	}
	res, err := w.cfg.Client.Post(ctx, m.SETURL, sethttp.MediaPayment, req)
	if err != nil {
		return nil, nil, err
	}
	answered := w.cfg.Now()
	o, err := p.OpenInitRes(e, answered, res, held...)
	if err != nil {
		return nil, nil, fmt.Errorf("the merchant's offer is not acceptable, nothing was paid: %w", err)
	}
	if err := w.remember(ctx, p.BrandID, o); err != nil {
		return nil, nil, err
	}
	offer := &Offer{
		Order: Printable(p.OD), OrderType: printableLine(m.OrderType), Amount: p.PurchAmt,
		Terms: m.InstallRecur, MerchantCert: o.Merchant, GatewayCert: o.Gateway,
	}
	offer.Merchant, offer.Place = merchantNames(o.Merchant.Merchant, string(w.cfg.Language))
	begun := []passed{{placePInitReq, asked, req}, {placePInitRes, answered, res}}
	if wake, err := m.Encode(); err == nil { // else it is of the greatest size, and no payment fails for that
		begun = append(begun, passed{placeInitiation, asked, wake})
	}
	return offer, begun, nil
}

// sign opens the vault, signs the payment and stores it. It is not sent yet.
func (w *Wallet) sign(ctx context.Context, r *record, e *set.Endpoint, c *EnrolledCard, card Card) error {
	err := card.Hold(func() error {
		account, err := c.account(card.Decrypter())
		if err != nil {
			return err
		}
		defer account.Clear()
		r.sent = w.cfg.Now()
		preq, err := r.p.Request(e, r.sent, account)
		if err == nil {
			r.begun = append(r.begun, passed{placePReq, r.sent, preq})
		}
		return err
	})
	if errors.Is(err, ErrSignatureLost) {
		r.outcome = Unsent
		// It must be known even if the person has lost patience.
		saveErr := w.savePurchase(context.WithoutCancel(ctx), r)
		return errors.Join(fmt.Errorf("the payment was not sent, nothing was paid; pay again to have it signed anew: %w", err), saveErr)
	}
	if err != nil {
		return err
	}
	return w.savePurchase(ctx, r)
}

// resume settles an order that was paid before.
func (w *Wallet) resume(ctx context.Context, r *record, payer Payer) (*Purchase, error) {
	if r.outcome != Unknown {
		p, err := w.view(ctx, r)
		if err == nil {
			p.Resumed = true
		}
		return p, err
	}
	p, err := w.inquire(ctx, r, payer)
	if p != nil {
		p.Resumed = true
	}
	return p, err
}

// Inquire settles a purchase whose outcome is not known, and asks the merchant how far any other one has
// come (SET §7.6). The payer is asked for the smart card only if the octets that were sent before are too
// old to be sent again. Like Pay it may return a purchase together with an error.
func (w *Wallet) Inquire(ctx context.Context, xid set.XID, payer Payer) (*Purchase, error) {
	r, err := w.record(ctx, xid)
	if err != nil {
		return nil, err
	}
	return w.inquire(ctx, r, payer)
}

func (w *Wallet) inquire(ctx context.Context, r *record, payer Payer) (*Purchase, error) {
	if r.outcome == Unsent {
		return w.view(ctx, r) // the merchant cannot know it
	}
	c, err := w.card(ctx, r.cardID)
	if err != nil {
		return nil, err
	}
	e, err := c.endpoint(ctx, w, nil)
	if err != nil {
		return nil, err
	}
	return w.settle(ctx, r, e, func(ctx context.Context) error {
		if e.SignKey != nil {
			return nil
		}
		_, card, err := payer.Choose(ctx, []*EnrolledCard{c})
		if err != nil {
			return err
		}
		if err := c.check(card); err != nil {
			return err
		}
		e.SignKey = card.Signer()
		return nil
	})
}

const (
	// inquiriesMax bounds how often a merchant is asked that has no authorization yet.
	inquiriesMax = 5

	// finalAfter is how old a payment has to be for a merchant to refuse it, whatever the clocks say.
	finalAfter = 2 * set.DefaultWindow
)

// settle sends the stored payment, unless its outcome is known or it is too old, and asks the merchant as
// long as there is no outcome. connect sees to it that the endpoint can sign inquiries.
func (w *Wallet) settle(ctx context.Context, r *record, e *set.Endpoint, connect func(context.Context) error) (*Purchase, error) {
	var errs []error
	answered := false
	if r.outcome == Unknown && w.cfg.Now().Sub(r.sent) < set.DefaultWindow {
		err := w.send(ctx, r, e)
		answered = err == nil
		if err != nil {
			errs = append(errs, err)
		}
	}
	for n := 0; n < inquiriesMax && !(answered && r.outcome != Unknown); n++ {
		if answered && wait(ctx, w.cfg.InquiryPause) != nil {
			break
		}
		if err := w.ask(ctx, r, e, connect); err != nil {
			errs = append(errs, err)
			break
		}
		answered = true
		if r.completion == set.OrderNotReceived.String() {
			break
		}
	}
	p, err := w.view(ctx, r)
	if err != nil {
		return nil, err
	}
	switch err := errors.Join(errs...); {
	case answered && r.outcome != Unknown, err == nil:
		return p, nil
	case r.outcome != Unknown:
		return p, fmt.Errorf("the merchant cannot be asked, the outcome that is shown is the last known: %w", err)
	default:
		return p, fmt.Errorf("the payment was sent and its outcome is not known: %w", err)
	}
}

// send sends the stored octets of the payment and takes the answer in.
func (w *Wallet) send(ctx context.Context, r *record, e *set.Endpoint) error {
	preq, err := w.payment(ctx, r.p.TransIDs.XID)
	if err != nil {
		return err
	}
	res, err := w.cfg.Client.Post(ctx, r.setURL, sethttp.MediaPayment, preq)
	if err != nil {
		return err
	}
	held, err := w.held(ctx, r.p.BrandID)
	if err != nil {
		return err
	}
	now := w.cfg.Now()
	data, err := r.p.OpenResponse(e, now, res, held...)
	if err != nil {
		return fmt.Errorf("answer to the payment: %w", err)
	}
	return w.take(ctx, r, data, passed{placePRes, now, res})
}

// ask sends an inquiry and takes the answer in.
func (w *Wallet) ask(ctx context.Context, r *record, e *set.Endpoint, connect func(context.Context) error) error {
	if err := connect(ctx); err != nil {
		return err
	}
	asked := w.cfg.Now()
	q, req, err := r.p.InqReq(e, asked)
	if err != nil {
		return err
	}
	res, err := w.cfg.Client.Post(ctx, r.setURL, sethttp.MediaPayment, req)
	if err != nil {
		return err
	}
	held, err := w.held(ctx, r.p.BrandID)
	if err != nil {
		return err
	}
	now := w.cfg.Now()
	data, err := r.p.OpenInqRes(e, now, q, res, held...)
	if err != nil {
		return fmt.Errorf("answer to the inquiry: %w", err)
	}
	return w.take(ctx, r, data, passed{placeInqReq, asked, req}, passed{placeInqRes, now, res})
}

// take stores a verified answer of the merchant, with the messages that brought it.
func (w *Wallet) take(ctx context.Context, r *record, data *set.PResData, messages ...passed) error {
	a, err := answerOf(data)
	if err != nil {
		return err
	}
	if a.completion == set.OrderNotReceived.String() && w.cfg.Now().Sub(r.sent) > finalAfter {
		a.outcome = Rejected // and it can no longer arrive
	}
	// The answer must not be lost because the person has lost patience.
	return w.saveAnswer(context.WithoutCancel(ctx), r, a, messages...)
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// orderKey tells orders apart by what the merchant must not change: nil when the merchant gave the order
// no number, and it cannot be told from another one of the same kind.
func orderKey(m *set.Initiation) []byte {
	if m.LIDM == nil {
		return []byte{}
	}
	h := sha256.New()
	for _, part := range [][]byte{[]byte(m.SETURL), m.LIDM, []byte(m.PurchAmt.String()), m.Order} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	return h.Sum(nil)
}
