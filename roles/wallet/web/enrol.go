package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/wallet"
)

// bankBrand is a brand that the person can enrol a card of.
type bankBrand struct {
	Bank, Brand, CA string
}

// brands lists what the installed bundles offer, of one CA or of all.
func brands(ctx context.Context, w *wallet.Wallet, ca string) ([]bankBrand, error) {
	list, err := w.Bundles(ctx)
	if err != nil {
		return nil, err
	}
	var out []bankBrand
	for _, b := range list {
		for _, br := range b.Brands {
			if ca == "" || ca == string(br.CA) {
				out = append(out, bankBrand{string(b.Bank.Name), string(br.ID), string(br.CA)})
			}
		}
	}
	return out, nil
}

// startEnrolment gives the task of enrolling a card, or of asking what became of a request. A form that
// was sent twice gives the same one.
func (w *Window) startEnrolment(start string, again bool, language set.Language) *task {
	t := w.taskOf(sha256.Sum256([]byte("enrol "+start)), func(t *task) {
		t.kind, t.run = "enrol", func(ctx context.Context, t *task) { t.awaitAccount(ctx, "") }
		if again {
			t.run = func(ctx context.Context, t *task) {
				for t.finish(ctx, t.continueEnrolment(ctx, &applicant{task: t})) {
				}
			}
		}
	})
	t.start(language)
	return t
}

// account is what the first page of an enrolment asks for.
type account struct {
	Brands  []bankBrand
	Readers []Reader
	Bad     string // which field was wrong
}

// awaitAccount asks what to enrol and enrols it. A CA that a message names must be one of an installed
// bundle: who sends the message is not who proves to be the bank's CA.
func (t *task) awaitAccount(ctx context.Context, ca string) {
	a := &applicant{task: t}
	defer a.close()
	for bad := ""; ; {
		offered, err := brands(ctx, t.wallet(), ca)
		if err == nil && len(offered) == 0 {
			err = &refusal{TopicNoBank, "no installed bundle of a bank names the CA " + ca}
		}
		if err != nil {
			t.fail(err)
			return
		}
		f, err := t.ask(ctx, view{Step: "account", Data: &account{Brands: offered, Bad: bad}, Cancel: true})
		if err != nil {
			t.show(view{Step: "cancelled"})
			return
		}
		r, wrong, err := t.enrolment(ctx, f)
		f.clear()
		if bad = wrong; bad != "" {
			continue
		}
		if err == nil {
			err = t.enrol(ctx, r, a)
			clear(r.PAN)
			clear(r.Expiry)
		}
		if !t.finish(ctx, err) {
			return
		}
	}
}

// finish says if the person wants another attempt after an enrolment that failed.
func (t *task) finish(ctx context.Context, err error) (again bool) {
	if err == nil {
		return false
	}
	if ctx.Err() == nil {
		p := t.window.explain(err)
		if f, err := t.ask(ctx, view{Step: "failed", Problem: &p, Data: true, Cancel: true}); err == nil {
			f.clear()
			return true
		}
	}
	t.show(view{Step: "cancelled"})
	return false
}

// continueEnrolment asks what became of the request of a card, as often as the person likes.
func (t *task) continueEnrolment(ctx context.Context, a *applicant) error {
	for {
		card, err := a.connect(ctx)
		if err != nil {
			return err
		}
		got, err := t.wallet().Continue(ctx, card)
		card.Close()
		t.Lost(nil)
		if err == nil {
			t.show(view{Step: "enrolled", Data: got})
			return nil
		}
		switch p := t.window.explain(err); p.Topic {
		case TopicWrongPIN, TopicPINFormat:
			t.show(view{Step: "working", Problem: &p})
		case TopicCAPending, TopicPeerAway:
			f, err := t.ask(ctx, view{Step: "pending", Problem: &p, Cancel: true})
			if err != nil {
				return err
			}
			f.clear()
		default:
			return err
		}
	}
}

// enrolment reads the first page's answer; wrong names the field that has to be filled in again.
func (t *task) enrolment(ctx context.Context, f form) (r wallet.Enrolment, wrong string, err error) {
	bank, brand, _ := strings.Cut(f.text("brand"), "|")
	if r, err = t.wallet().EnrolmentFor(ctx, bank, set.BrandID(brand)); err != nil {
		return r, "", err
	}
	pan := bytes.ReplaceAll(f["pan"], []byte(" "), nil)
	defer clear(pan)
	if r.PAN, err = set.ParsePAN(pan); err != nil {
		return r, "pan", nil
	}
	if r.Expiry, err = f.expiry(); err != nil {
		clear(r.PAN)
		return r, "expiry", nil
	}
	return r, "", nil
}

// expiry is the month in which a card expires.
func (f form) expiry() (set.CardExpiry, error) {
	month := append(bytes.Clone(f["year"]), f["month"]...)
	defer clear(month)
	return set.ParseCardExpiry(month)
}

// enrol connects to the card that is there and enrols it, until the PIN is right.
func (t *task) enrol(ctx context.Context, r wallet.Enrolment, a *applicant) error {
	for {
		card, err := a.connect(ctx)
		if err != nil {
			return err
		}
		attempt := r
		attempt.PAN, attempt.Expiry = bytes.Clone(r.PAN), bytes.Clone(r.Expiry)
		got, err := t.wallet().Enrol(ctx, attempt, card, a)
		clear(attempt.PAN)
		clear(attempt.Expiry)
		card.Close()
		t.Lost(nil)
		if err == nil {
			t.show(view{Step: "enrolled", Data: got})
			return nil
		}
		switch p := t.window.explain(err); p.Topic {
		case TopicWrongPIN, TopicPINFormat:
			t.show(view{Step: "working", Problem: &p}) // the question for the PIN keeps it
		case TopicCAPending:
			f, err := t.ask(ctx, view{Step: "pending", Problem: &p, Cancel: true})
			if err != nil {
				return err
			}
			f.clear()
			clear(r.PAN)
			clear(r.Expiry)
			return t.continueEnrolment(ctx, a)
		default:
			return err
		}
	}
}

// startRenewal gives the task of renewing the certificate of a card.
func (w *Window) startRenewal(id string, language set.Language) *task {
	t := w.taskOf(sha256.Sum256([]byte("renew "+id)), func(t *task) {
		t.kind, t.run = "renew", func(ctx context.Context, t *task) {
			a := &applicant{task: t}
			defer a.close()
			for t.finish(ctx, t.renew(ctx, id, a)) {
			}
		}
	})
	t.start(language)
	return t
}

// renewal is what the first page of a renewal shows.
type renewal struct {
	*wallet.EnrolledCard
	Bad bool // the month was no month
}

// renew renews the certificate of a card for a new smart card.
func (t *task) renew(ctx context.Context, id string, a *applicant) error {
	cards, err := t.wallet().Cards(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(cards, func(c *wallet.EnrolledCard) bool { return c.ID == id })
	if i < 0 {
		return wallet.ErrNoCard
	}
	expiry, err := t.newExpiry(ctx, cards[i])
	if err != nil {
		return err
	}
	defer clear(expiry)
	old, err := t.connectOld(ctx, cards[i:i+1])
	if err != nil {
		return err
	}
	defer old.Close()
	return t.atReader(ctx, func(r Reader) bool { return r.Serial != "" && r.Serial != cards[i].Serial }, func(reader string) error {
		card, err := t.window.cfg.Devices.ConnectReader(ctx, reader, t)
		if err != nil {
			return err
		}
		defer card.Close()
		return t.renewWith(ctx, cards[i], old, expiry, card, a)
	})
}

// renewWith renews until both PINs are right: the card whose PIN was is not asked for it again.
func (t *task) renewWith(ctx context.Context, c *wallet.EnrolledCard, old Card, expiry set.CardExpiry, card Card, a *applicant) error {
	for {
		got, err := t.wallet().Renew(ctx, c, old, bytes.Clone(expiry), card, a)
		t.Lost(nil)
		if err == nil {
			t.show(view{Step: "enrolled", Data: got})
			return nil
		}
		switch p := t.window.explain(err); p.Topic {
		case TopicWrongPIN, TopicPINFormat:
			t.show(view{Step: "working", Problem: &p})
		case TopicCAPending:
			t.show(view{Step: "pending", Problem: &p})
			return nil
		default:
			return err
		}
	}
}

// newExpiry asks when the new card expires; nil means when the old one does.
func (t *task) newExpiry(ctx context.Context, c *wallet.EnrolledCard) (set.CardExpiry, error) {
	for bad := false; ; bad = true {
		f, err := t.ask(ctx, view{Step: "renew", Data: renewal{c, bad}, Cancel: true})
		if err != nil {
			return nil, err
		}
		if len(f["year"]) == 0 {
			f.clear()
			return nil, nil
		}
		expiry, err := f.expiry()
		f.clear()
		if err == nil {
			return expiry, nil
		}
	}
}

// connectOld waits for the smart card of an enrolled card.
func (t *task) connectOld(ctx context.Context, cards []*wallet.EnrolledCard) (Card, error) {
	for {
		_, _, changed := t.window.cfg.Devices.Readers()
		_, card, err := t.window.cfg.Devices.Connect(ctx, cards, t)
		if err == nil || !errors.Is(err, ErrNotThere) {
			return card, err
		}
		p := t.window.explain(err)
		if err := t.await(ctx, view{Step: "insert", Data: cards, Problem: &p, Cancel: true}, changed); err != nil {
			return nil, err
		}
	}
}

// applicant is the person who enrols, for package wallet. What was answered is not asked again after a
// wrong PIN.
type applicant struct {
	*task
	policy  string // that was accepted
	answers map[string]string
}

var _ wallet.Applicant = (*applicant)(nil)

func (a *applicant) close() { clear(a.answers) }

// connect connects to the card in a reader.
func (a *applicant) connect(ctx context.Context) (card Card, err error) {
	err = a.atReader(ctx, func(Reader) bool { return true }, func(reader string) (err error) {
		card, err = a.window.cfg.Devices.ConnectReader(ctx, reader, a)
		return err
	})
	return card, err
}

// atReader waits for a card in a reader that fits, asks which where there are several, and does something
// with it. If the card is not there any more, it waits again. A choice is good for the rest of the task.
func (t *task) atReader(ctx context.Context, fits func(Reader) bool, do func(reader string) error) error {
	for {
		readers, problem, changed := t.window.cfg.Devices.Readers()
		var there []Reader
		for _, r := range readers {
			if r.Card && fits(r) {
				there = append(there, r)
			}
		}
		if len(there) == 0 {
			if err := t.await(ctx, view{Step: "insert", Problem: problem, Cancel: true}, changed); err != nil {
				return err
			}
			continue
		}
		if len(there) == 1 {
			t.reader = there[0].Name
		} else if !slices.ContainsFunc(there, func(r Reader) bool { return r.Name == t.reader }) {
			f, err := t.ask(ctx, view{Step: "reader", Data: there, Cancel: true})
			if err != nil {
				return err
			}
			t.reader = f.text("reader")
			f.clear()
		}
		err := do(t.reader)
		if err == nil || !errors.Is(err, ErrNotThere) {
			return err
		}
		t.reader = ""
		p := t.window.explain(err)
		if err := t.await(ctx, view{Step: "insert", Problem: &p, Cancel: true}, changed); err != nil {
			return err
		}
	}
}

// AcceptPolicy shows the policy.
func (a *applicant) AcceptPolicy(ctx context.Context, policy string) (bool, error) {
	if policy == a.policy {
		return true, nil
	}
	f, err := a.ask(ctx, view{Step: "policy", Data: policy, Cancel: true})
	if err != nil {
		return false, err
	}
	f.clear()
	a.policy = policy
	return true, nil
}

// Answers asks for all fields on one page.
func (a *applicant) Answers(ctx context.Context, fields []wallet.Field) ([]string, error) {
	if a.answers == nil {
		f, err := a.ask(ctx, view{Step: "form", Data: fields, Cancel: true})
		if err != nil {
			return nil, err
		}
		defer f.clear()
		a.answers = make(map[string]string)
		for i, field := range fields {
			a.answers[field.Name] = f.text(fmt.Sprintf("field%d", i))
		}
	}
	var out []string
	for _, field := range fields {
		out = append(out, a.answers[field.Name])
	}
	return out, nil
}
