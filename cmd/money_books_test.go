package cmd_test

import (
	"context"
	"log/slog"
	"time"

	"github.com/setkit/setkit/roles/gateway"
	"github.com/setkit/setkit/roles/issuer"
	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/set"
)

var quiet = slog.New(slog.DiscardHandler)

// book is what one party has of a purchase, or of all of an account.
type book struct{ authorized, captured, refunded int64 }

// books are all that the parties have in the end.
type books struct {
	*model
	purses  map[set.XID]*purse
	shops   map[set.XID]book // as the merchants have it
	gateway map[set.XID]book
	rrns    map[string]gateway.Transaction
	items   []gateway.SettledItem
	unknown map[set.XID]bool // the merchant knows that it does not know
}

// compare holds the books of all parties against each other.
func (m *model) compare() {
	b := &books{model: m, purses: make(map[set.XID]*purse), shops: make(map[set.XID]book), gateway: make(map[set.XID]book),
		rrns: make(map[string]gateway.Transaction), unknown: make(map[set.XID]bool)}
	for _, p := range m.purses {
		b.purses[p.purchase.TransIDs.XID] = p
	}
	b.readShops()
	b.readGateway()
	b.readSettlements()
	b.compareOrders()
	b.compareSettled()
	b.compareAccounts()
	b.letLapse()
}

func (b *books) readShops() {
	for _, e := range b.orders {
		o := b.look(e)
		b.countOperations(e, o)
		if o.Payment == nil {
			continue
		}
		var all book
		for _, a := range o.Payment.Authorizations {
			if a.State == set.StateAuthorized {
				all.authorized += a.Authorized.Minor
			}
			all.captured += a.Captured.Minor
			all.refunded += a.Refunded.Minor
		}
		b.shops[o.Payment.XID] = all
		if o.State == merchant.OrderUnresolved {
			b.unknown[o.Payment.XID] = true
			b.told.unresolved++
		}
	}
}

// countOperations holds an order against what the merchant was told of the operations on it.
func (b *books) countOperations(e *entry, o *merchant.Order) {
	if e.before == nil || e.uncounted || e.xid != o.Payment.XID {
		return
	}
	want := *e.before
	for _, id := range e.started {
		for id != "" {
			op, err := e.shop.store.Operation(context.Background(), id)
			if err != nil {
				b.t.Fatal(err)
			}
			if op.State == merchant.OperationPending {
				b.t.Fatalf("order %d: an operation to %s is pending", o.Number, op.Kind)
			}
			want.add(op, o.Number)
			id = op.Next
		}
	}
	if got := (money{o.Payment.CapturedAmount.Minor, o.Payment.RefundedAmount.Minor}); got != want {
		b.t.Fatalf("a merchant's order has captured and refunded %v, but was told of %v", got, want)
	}
}

// add counts what an operation has done with an order.
func (m *money) add(op *merchant.Operation, order int64) {
	if op.Failure != "" {
		return
	}
	for _, i := range op.Items {
		if i.Refused || i.Order != order {
			continue
		}
		switch amount := cents(i.Total); op.Kind {
		case merchant.KindCapture:
			m.captured += amount
		case merchant.KindUncapture:
			m.captured -= amount
		case merchant.KindRefund:
			m.refunded += amount
		case merchant.KindUndoRefund:
			m.refunded -= amount
		}
	}
}

func (b *books) readGateway() {
	for _, tr := range b.transactions() {
		all := b.gateway[tr.XID]
		captured, credited := cents(tr.Captured), cents(tr.Credited)
		if tr.State == string(set.StateAuthorized) {
			all.authorized += cents(tr.Authorized)
		}
		all.captured += captured
		all.refunded += credited
		b.gateway[tr.XID] = all
		b.rrns[tr.RRN] = tr
		if captured > cents(tr.Amount) {
			b.t.Fatalf("%s captured of an authorization of %s", tr.Captured, tr.Amount)
		}
		if credited > captured {
			b.t.Fatalf("%s refunded of a capture of %s", tr.Credited, tr.Captured)
		}
	}
}

func (b *books) readSettlements() {
	for _, s := range b.settled {
		b.told.settlements++
		b.items = append(b.items, s.Items...)
		for _, balance := range s.Balances {
			if !balance.Balanced() {
				b.t.Fatalf("settlement %d is out of balance", s.Number)
			}
		}
	}
}

// compareOrders holds the merchants' books against the gateway's, purchase by purchase.
func (b *books) compareOrders() {
	for xid, p := range b.purses {
		got, want := b.gateway[xid], b.shops[xid]
		if got != want && !b.unknown[xid] {
			b.t.Fatalf("a purchase on terms %q at a merchant who captures %s: gateway %+v, merchant %+v", p.order.terms, p.shop.capture, got, want)
		}
		recurs := len(p.order.terms) > 5 && p.order.terms[:5] == "recur"
		if got.captured+got.authorized > p.order.total && !recurs {
			b.t.Fatalf("%+v of a purchase of %d", got, p.order.total)
		}
	}
	for xid := range b.gateway {
		if b.purses[xid] == nil {
			b.t.Fatal("the gateway has a purchase that no cardholder made")
		}
	}
}

// compareSettled holds what is settled of each authorization against what it allowed: it is captured once, and no
// more than that is given back.
func (b *books) compareSettled() {
	type tally struct{ captures, captured, credited int64 }
	all := make(map[string]tally)
	for _, i := range b.items {
		if b.purses[i.XID].account != len(accounts)-1 && !i.Paid() && i.State != "void" {
			b.t.Fatalf("the issuer refuses a %s with %s", i.What, i.IssuerCode)
		}
		if !i.Paid() {
			continue
		}
		sum := all[i.Trace.RRN]
		switch i.What {
		case "capture":
			sum.captures, sum.captured = sum.captures+1, sum.captured+i.Amount
		case "capture undone":
			sum.captures, sum.captured = sum.captures-1, sum.captured-i.Amount
		case "credit":
			sum.credited += i.Amount
		case "credit undone":
			sum.credited -= i.Amount
		}
		all[i.Trace.RRN] = sum
	}
	for rrn, sum := range all {
		switch tr := b.rrns[rrn]; {
		case sum.captures < 0 || sum.captures > 1:
			b.t.Fatalf("an authorization was captured %d times", sum.captures)
		case sum.captured > cents(tr.Amount):
			b.t.Fatalf("%d settled of an authorization of %s", sum.captured, tr.Amount)
		case sum.credited < 0 || sum.credited > sum.captured:
			b.t.Fatalf("%d given back of %d", sum.credited, sum.captured)
		}
	}
}

// compareAccounts is the conservation of money, account by account and merchant by merchant.
func (b *books) compareAccounts() {
	var bookedInAll, paidInAll int64
	payouts := make(map[set.MerchantID]int64)
	for _, s := range b.settled {
		for _, balance := range s.Balances {
			for _, p := range balance.Payouts {
				payouts[p.Merchant] += p.Amount
				paidInAll += p.Amount
			}
		}
	}
	earned := make(map[set.MerchantID]int64)
	for n, a := range b.accounts() {
		var captured, settled int64
		for xid, p := range b.purses {
			if p.account == n {
				sum := b.moved(xid)
				captured += sum
				earned[p.shop.id] += sum
			}
		}
		for _, i := range b.items {
			if b.purses[i.XID].account == n {
				settled += i.Net()
			}
		}
		booked := int64(a.Booked.Amount)
		bookedInAll += booked
		if captured != booked || settled != booked {
			b.t.Fatalf("account %s: captured less refunded %d, debited %d, settled %d", a.ID, captured, booked, settled)
		}
		if rest := int64(a.Available.Amount) + int64(a.Held.Amount) + booked; rest != accounts[n] {
			b.t.Fatalf("account %s: %d of %d are left", a.ID, rest, accounts[n])
		}
	}
	for id, sum := range earned {
		if payouts[id] != sum {
			b.t.Fatalf("merchant %s is paid %d for %d", id, payouts[id], sum)
		}
	}
	if bookedInAll != paidInAll {
		b.t.Fatalf("cardholders are debited with %d, and merchants get %d", bookedInAll, paidInAll)
	}
	b.told.money += paidInAll
	b.compareIssuer(bookedInAll)
}

// moved is what a purchase brings its merchant: captured less refunded, but for what the issuer refused. Where the
// merchant does not know, the gateway does.
func (b *books) moved(xid set.XID) int64 {
	side := b.shops[xid]
	if b.unknown[xid] {
		side = b.gateway[xid]
	}
	sum := side.captured - side.refunded
	for _, i := range b.items {
		if i.XID == xid && !i.Paid() {
			sign := int64(-1)
			if i.What == "capture" || i.What == "credit undone" {
				sign = 1
			}
			sum -= sign * i.Amount
		}
	}
	return sum
}

func (b *books) compareIssuer(booked int64) {
	var book issuer.Book
	var err error
	b.bank.visit(func() { book, err = b.bank.issuer.Book(context.Background()) })
	if err != nil {
		b.t.Fatal(err)
	}
	for _, s := range book.Balances {
		if !s.Balanced() || s.Open != 0 || s.Settled != booked {
			b.t.Fatalf("the issuer has %+v, and booked %d", s, booked)
		}
	}
}

func (b *books) accounts() (all []issuer.Summary) {
	var err error
	b.bank.visit(func() { all, err = b.bank.issuer.Accounts(context.Background()) })
	if err != nil {
		b.t.Fatal(err)
	}
	return all
}

// letLapse compares what is held with what is authorized, and sees that nothing is held for ever.
func (b *books) letLapse() {
	open := make(map[int]int64)
	for xid, p := range b.purses {
		open[p.account] += b.gateway[xid].authorized
	}
	for n, a := range b.accounts() {
		held := int64(a.Held.Amount)
		if held > open[n] || held < open[n] && !b.unheld && n != len(accounts)-1 {
			b.t.Fatalf("account %s: %d held, %d authorized", a.ID, held, open[n])
		}
	}
	b.pass((holdDays + 1) * 24 * time.Hour)
	for _, a := range b.accounts() {
		if a.Held.Amount != 0 {
			b.t.Fatalf("account %s: a hold has not lapsed", a.ID)
		}
	}
}
