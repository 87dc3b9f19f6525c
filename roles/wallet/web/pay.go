package web

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/wallet"
)

// The stages of a payment.
const (
	stageCard = iota
	stageOffer
	stageConsent
	stageSign
	stageSend
)

// Topics of initiation messages.
const (
	TopicMessage Topic = "message" // not readable, or for something else
	TopicLocal   Topic = "local"   // sends the wallet to this computer
	TopicMoney   Topic = "money"   // of a currency that nobody knows
	TopicNoBank  Topic = "no-bank" // no installed bundle has this CA
)

// refusal is why an initiation message is not followed.
type refusal struct {
	topic  Topic
	detail string
}

func (e *refusal) Error() string { return e.detail }

// wake sets a task up for an initiation message, which anybody may have written.
func (w *Window) wake(t *task, message []byte) {
	m, err := set.ParseInitiation(message)
	if err == nil {
		err = w.admissible(m)
	} else {
		err = &refusal{TopicMessage, err.Error()}
	}
	t.kind, t.shop = "pay", m
	switch {
	case err != nil:
		t.shop = nil
		t.run = func(_ context.Context, t *task) { t.fail(err) }
	case m.Kind == set.RegistrationInitiation:
		t.kind, t.run = "enrol", func(ctx context.Context, t *task) { t.awaitAccount(ctx, m.SETURL) }
	default:
		t.run = func(ctx context.Context, t *task) { t.pay(ctx, m) }
	}
}

// admissible refuses a message that asks for what no shop needs. Where the messages go is the shop's to
// say. But a page of any site can send one, and with an address of this computer or of its link it would
// have the wallet knock where the page itself cannot. Addresses of a private network are fine: a shop may
// be in the same house.
func (w *Window) admissible(m *set.Initiation) error {
	switch m.Kind {
	case set.PaymentInitiation, set.PaymentResumption:
		if a := m.PurchAmt; !strings.ContainsFunc(a.Currency.String(), func(r rune) bool { return r > '9' }) || a.AmtExp10 < -6 || a.AmtExp10 > 0 {
			return &refusal{TopicMoney, fmt.Sprintf("amount of %v in the currency with the number %03d", a, int64(a.Currency))}
		}
	case set.RegistrationInitiation:
	default:
		return &refusal{TopicMessage, "the message asks for " + m.Kind}
	}
	if w.cfg.LocalPeers {
		return nil
	}
	for _, address := range []string{m.SETURL, m.QueryURL, m.SuccessURL, m.FailureURL, m.CancelURL} {
		u, err := url.Parse(address)
		if err != nil || local(u.Hostname()) {
			return &refusal{TopicLocal, address + " is an address of this computer"}
		}
	}
	return nil
}

// local says if a host is this computer or one that only it reaches. Names are looked up where the
// connection is made, and an address decides there too: see Local.
func local(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return Local(a)
	}
	// What ends in a number is an address too, as 127.1 and 0x7f000001, in ways that no shop writes it.
	last := host[strings.LastIndex(host, ".")+1:]
	return last == "" || last[0] >= '0' && last[0] <= '9'
}

// Local says if an address is this computer's, or one that only it reaches.
func Local(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsLoopback() || a.IsUnspecified() || a.IsLinkLocalUnicast() || a.IsMulticast()
}

// fail shows why the task cannot go on.
func (t *task) fail(err error) {
	p := t.window.explain(err)
	t.show(view{Step: "failed", Problem: &p})
}

func (w *Window) explain(err error) Problem {
	if r, ok := errors.AsType[*refusal](err); ok {
		return Problem{Topic: r.topic, Detail: wallet.Printable([]byte(r.detail))}
	}
	p := w.cfg.Explain(err)
	p.Detail = wallet.Printable([]byte(p.Detail))
	return p
}

// pay pays, and tries again as often as the person likes as long as nothing was sent.
func (t *task) pay(ctx context.Context, m *set.Initiation) {
	p := &payer{task: t}
	for {
		t.stage(stageCard)
		purchase, err := t.wallet().Pay(ctx, m, p)
		p.close()
		if purchase != nil {
			t.settle(ctx, purchase, err)
			return
		}
		if !t.again(ctx, p, err) {
			return
		}
	}
}

// again says if the person wants another attempt.
func (t *task) again(ctx context.Context, p *payer, err error) bool {
	if ctx.Err() != nil || errors.Is(err, wallet.ErrCancelled) {
		t.show(view{Step: "cancelled"})
		return false
	}
	problem := t.window.explain(err)
	if problem.Topic == TopicWrongPIN || problem.Topic == TopicPINFormat {
		p.problem = &problem // the next question for the PIN tells
		return true
	}
	p.problem = nil
	f, err := t.ask(ctx, view{Step: "failed", Problem: &problem, Data: true, Cancel: true})
	if err != nil {
		t.show(view{Step: "cancelled"})
		return false
	}
	f.clear()
	return true
}

// The merchant is asked again while the outcome is not known, first after firstPause, ever more rarely.
const (
	firstPause = 5 * time.Second
	lastPause  = time.Minute
)

// settle sees to it that a purchase has an outcome, for as long as the window is there.
func (t *task) settle(ctx context.Context, purchase *wallet.Purchase, err error) {
	t.mu.Lock()
	t.xid, t.resumed = purchase.XID, purchase.Resumed
	t.mu.Unlock()
	for pause := firstPause; purchase.Outcome == wallet.Unknown; pause = min(2*pause, lastPause) {
		v := view{Step: "unclear", Stage: stageSend, Data: purchase}
		if err != nil && !errors.Is(err, errAbsent) {
			p := t.window.explain(err)
			v.Problem = &p
		}
		patience, stop := context.WithTimeout(ctx, pause)
		f, unasked := t.ask(patience, v)
		stop()
		f.clear()
		if ctx.Err() != nil {
			return
		}
		var next *wallet.Purchase
		next, err = t.askMerchant(ctx, purchase.XID, unasked == nil)
		if next != nil {
			purchase = next
		}
	}
	t.show(view{Step: "done"})
}

// askMerchant asks what became of a purchase. Unless the person wants it, she is not asked for the PIN:
// what needs no new signature is done.
func (t *task) askMerchant(ctx context.Context, xid set.XID, wanted bool) (*wallet.Purchase, error) {
	p := &payer{task: t}
	defer p.close()
	if !wanted {
		return t.wallet().Inquire(ctx, xid, absent{p})
	}
	t.stage(stageSend)
	return t.wallet().Inquire(ctx, xid, p)
}

// errAbsent tells that a signature is needed and nobody was asked for it.
var errAbsent = errors.New("the smart card is needed to ask the merchant")

// absent is a payer who is not disturbed.
type absent struct{ *payer }

func (absent) Choose(context.Context, []*wallet.EnrolledCard) (*wallet.EnrolledCard, wallet.Card, error) {
	return nil, nil, errAbsent
}

// inquire gives the task that asks what became of a purchase; see askMerchant.
func (w *Window) inquire(xid set.XID, wanted bool) *task {
	return w.taskOf(sha256.Sum256(append([]byte("inquire "), xid[:]...)), func(t *task) {
		t.kind, t.xid = "inquire", xid
		t.run = func(ctx context.Context, t *task) {
			t.stage(stageSend)
			purchase, err := t.askMerchant(ctx, xid, wanted)
			switch {
			case purchase != nil:
				t.settle(ctx, purchase, err)
			case ctx.Err() != nil:
				t.show(view{Step: "cancelled"})
			default:
				t.fail(err)
			}
		}
	})
}

// payer is the person who pays, for package wallet.
type payer struct {
	*task
	card    Card
	problem *Problem // of the attempt before
}

var _ wallet.Payer = (*payer)(nil)

func (p *payer) close() {
	if p.card != nil {
		p.card.Close()
	}
	p.card = nil
	p.keepPIN(nil)
	p.Lost(nil)
}

// Choose waits for one of the cards, and asks which where several are there.
func (p *payer) Choose(ctx context.Context, cards []*wallet.EnrolledCard) (*wallet.EnrolledCard, wallet.Card, error) {
	for {
		readers, _, changed := p.window.cfg.Devices.Readers()
		there, err := p.pick(ctx, cards, readers)
		if err != nil {
			return nil, nil, err
		}
		c, card, err := p.window.cfg.Devices.Connect(ctx, there, p)
		if err == nil {
			p.card = card
			return c, &staged{card, p.task}, nil
		}
		if !errors.Is(err, ErrNotThere) {
			return nil, nil, err
		}
		problem := p.window.explain(err)
		if err := p.await(ctx, view{Step: "insert", Data: cards, Problem: &problem, Cancel: true}, changed); err != nil {
			return nil, nil, err
		}
	}
}

// pick lets the person choose among cards that are in readers.
func (p *payer) pick(ctx context.Context, cards []*wallet.EnrolledCard, readers []Reader) ([]*wallet.EnrolledCard, error) {
	var there []*wallet.EnrolledCard
	for _, c := range cards {
		for _, r := range readers {
			if r.Card && r.Serial == c.Serial {
				there = append(there, c)
			}
		}
	}
	if len(there) < 2 {
		return cards, nil
	}
	f, err := p.ask(ctx, view{Step: "choose", Data: there, Cancel: true})
	if err != nil {
		return nil, err
	}
	defer f.clear()
	for _, c := range there {
		if c.ID == f.text("card") {
			return []*wallet.EnrolledCard{c}, nil
		}
	}
	return nil, errForm
}

// offer is what the person approves.
type offer struct {
	*wallet.Offer
	Tries  int
	Keypad bool
	Peer   string // host that the messages go to
}

// Approve shows everything and takes consent and PIN together.
func (p *payer) Approve(ctx context.Context, o *wallet.Offer) (bool, error) {
	u, err := url.Parse(p.shop.SETURL)
	if err != nil {
		return false, err
	}
	data := &offer{o, p.card.TriesLeft(), p.card.Keypad(), u.Hostname()}
	f, err := p.ask(ctx, view{Step: "offer", Stage: stageConsent, Data: data, Problem: p.problem, Cancel: true})
	if err != nil {
		return false, err
	}
	defer f.clear()
	p.problem = nil
	if !data.Keypad {
		p.keepPIN(f.take("pin"))
	}
	return true, nil
}

// staged is a card that tells the page how far the payment is.
type staged struct {
	Card
	task *task
}

// Hold is the signature, before and after which the page changes.
func (s *staged) Hold(f func() error) error {
	s.task.stage(stageSign)
	err := s.Card.Hold(f)
	if err == nil {
		s.task.stage(stageSend)
	}
	return err
}
