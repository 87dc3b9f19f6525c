package issuer_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/issuer"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

func refund(c *finnet.Clearing, cents int64) *finnet.Refund {
	r := finnet.Refund(*c)
	r.Trace, r.Amount = c.Next(time.Now()), usd(cents)
	return &r
}

func (b *bank) refund(t *testing.T, r *finnet.Refund, want finnet.ResponseCode) {
	t.Helper()
	if got, err := b.Refund(t.Context(), r); got != want || err != nil {
		t.Errorf("refund is answered %s, %v, want %s", got, err, want)
	}
}

// unclear takes a clearing back, unrefund a refund.
func unclear(c *finnet.Clearing) *finnet.Withdrawal {
	return &finnet.Withdrawal{Trace: c.Next(time.Now()), Original: c.Trace, Amount: c.Amount, Settlement: c.Settlement}
}

func unrefund(r *finnet.Refund) *finnet.Withdrawal {
	w := unclear((*finnet.Clearing)(r))
	w.Refund = true
	return w
}

func (b *bank) withdraw(t *testing.T, w *finnet.Withdrawal, want finnet.ResponseCode) {
	t.Helper()
	if got, err := b.Withdraw(t.Context(), w); got != want || err != nil {
		t.Errorf("withdrawal is answered %s, %v, want %s", got, err, want)
	}
}

func TestReversalInPart(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		b := newBank(t, url)
		a := authorization(t, "alice", 10_000)
		smaller := reversal(a)
		smaller.Remains = usd(6_000)
		b.reverse(t, smaller, finnet.UnknownOriginal) // an authorization that comes later is whole
		approval := b.approved(t, a)
		b.reverse(t, smaller, finnet.Approved)
		b.reverse(t, smaller, finnet.Approved)
		b.want(t, "alice", amounts{44_000, 6_000, 0})
		larger := reversal(a)
		larger.Remains = usd(9_000) // an earlier one that was overtaken
		b.reverse(t, larger, finnet.Approved)
		b.want(t, "alice", amounts{44_000, 6_000, 0})
		if again := b.authorize(t, a); again.ApprovalCode != approval {
			t.Errorf("authorization repeated after it was made smaller is answered %+v", again)
		}
		b.clear(t, clearing(a, approval, 6_001), finnet.InvalidAmount)
		b.clear(t, clearing(a, approval, 5_000), finnet.Approved)
		b.reverse(t, reversal(a), finnet.InvalidTransaction)
		b.reverse(t, smaller, finnet.Approved) // moves nothing
		b.want(t, "alice", amounts{45_000, 0, 5_000})

		gone := authorization(t, "alice", 1_000)
		b.approved(t, gone)
		b.clock.advance(holdDays * day)
		if n, err := b.ReleaseLapsed(t.Context()); n != 1 || err != nil {
			t.Fatalf("released %d, %v", n, err)
		}
		late := reversal(gone)
		late.Remains = usd(10)
		b.reverse(t, late, finnet.Approved)
		b.want(t, "alice", amounts{45_000, 0, 5_000})
	})
}

func TestClearingWithdrawn(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		b := newBank(t, url)
		a := authorization(t, "alice", 10_000)
		approval := b.approved(t, a)
		c := clearing(a, approval, 4_000)
		b.clear(t, c, finnet.Approved)
		wrong := unclear(c)
		wrong.Amount = usd(3_999)
		b.withdraw(t, wrong, finnet.InvalidAmount)
		asRefund := unclear(c)
		asRefund.Refund = true
		b.withdraw(t, asRefund, finnet.InvalidTransaction)
		w := unclear(c)
		b.withdraw(t, w, finnet.Approved)
		b.withdraw(t, w, finnet.Approved)
		b.withdraw(t, unclear(c), finnet.InvalidTransaction) // it is taken back already
		b.want(t, "alice", amounts{40_000, 10_000, 0})       // authorized as before
		b.clear(t, c, finnet.Approved)                       // the stored answer, nothing is booked
		b.want(t, "alice", amounts{40_000, 10_000, 0})
		b.clear(t, clearing(a, approval, 9_000), finnet.Approved)
		b.want(t, "alice", amounts{41_000, 0, 9_000})

		// One whose rest was spent meanwhile is held as far as there is money.
		tight := authorization(t, "alice", 41_000)
		tightApproval := b.approved(t, tight)
		part := clearing(tight, tightApproval, 1_000)
		b.clear(t, part, finnet.Approved)
		b.approved(t, authorization(t, "alice", 39_500))
		b.want(t, "alice", amounts{500, 39_500, 10_000})
		b.withdraw(t, unclear(part), finnet.Approved)
		b.want(t, "alice", amounts{0, 41_000, 9_000})
		b.clear(t, clearing(tight, tightApproval, 1_501), finnet.InsufficientFunds)
		b.clear(t, clearing(tight, tightApproval, 1_500), finnet.Approved)
		b.want(t, "alice", amounts{0, 39_500, 10_500})

		// A withdrawal that overtakes its clearing.
		fast := authorization(t, "bob", 100)
		fastClearing := clearing(fast, b.approved(t, fast), 100)
		b.withdraw(t, unclear(fastClearing), finnet.Approved)
		b.clear(t, fastClearing, finnet.InvalidTransaction)
		b.want(t, "bob", amounts{200, 100, 0})
	})
}

func TestRefund(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		b := newBank(t, url)
		a := authorization(t, "alice", 10_000)
		approval := b.approved(t, a)
		c := clearing(a, approval, 8_000)
		b.refund(t, refund(c, 1), finnet.InvalidTransaction) // nothing is cleared
		b.clear(t, c, finnet.Approved)
		other := refund(c, 100)
		other.Merchant.ID = "SHOP-2"
		b.refund(t, other, finnet.InvalidTransaction)
		b.refund(t, refund(c, 8_001), finnet.InvalidAmount)
		first := refund(c, 5_000)
		b.refund(t, first, finnet.Approved)
		b.refund(t, first, finnet.Approved)
		changed := *first
		changed.Amount = usd(4_999)
		b.refund(t, &changed, finnet.Duplicate)
		b.refund(t, refund(c, 3_001), finnet.InvalidAmount)
		b.want(t, "alice", amounts{47_000, 0, 3_000})
		b.withdraw(t, unclear(c), finnet.InvalidTransaction) // what was refunded stays cleared
		second := refund(c, 3_000)
		b.refund(t, second, finnet.Approved)
		b.want(t, "alice", amounts{50_000, 0, 0})

		b.withdraw(t, unrefund(first), finnet.Approved)
		b.withdraw(t, unrefund(first), finnet.InvalidTransaction)
		b.want(t, "alice", amounts{45_000, 0, 5_000})
		b.approved(t, authorization(t, "alice", 43_000))
		b.withdraw(t, unrefund(second), finnet.InsufficientFunds) // spent
		b.want(t, "alice", amounts{2_000, 43_000, 5_000})

		early := refund(c, 100)
		b.withdraw(t, unrefund(early), finnet.Approved)
		b.refund(t, early, finnet.InvalidTransaction)
		b.want(t, "alice", amounts{2_000, 43_000, 5_000})
	})
}

func TestSettlement(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		b := newBank(t, url)
		bought := func(cents int64, n finnet.Settlement) *finnet.Clearing {
			a := authorization(t, "alice", cents)
			c := clearing(a, b.approved(t, a), cents)
			c.Settlement = n
			b.clear(t, c, finnet.Approved)
			return c
		}
		kept, back := bought(10_000, 1), bought(2_000, 1)
		b.withdraw(t, unclear(back), finnet.Approved)
		re := refund(kept, 500)
		b.refund(t, re, finnet.Approved)
		b.refund(t, refund(kept, 9_501), finnet.InvalidAmount) // is in no total
		bought(300, 2)
		b.withdraw(t, &finnet.Withdrawal{Trace: re.Next(time.Now()), Original: re.Trace, Refund: true, Amount: re.Amount, Settlement: 2}, finnet.Approved)

		r := &finnet.Reconciliation{
			Trace: finnet.NewTrace("412345", time.Now()), Settlement: 1, Currency: 840,
			Totals: finnet.Totals{Sales: finnet.Sum{Count: 2, Amount: 12_000}, SalesTaken: finnet.Sum{Count: 1, Amount: 2_000}},
		}
		want := r.Totals
		want.Refunds = finnet.Sum{Count: 1, Amount: 500}
		reconcile := func(code finnet.ResponseCode) {
			t.Helper()
			got, err := b.Reconcile(t.Context(), r)
			if err != nil || got != (finnet.Balance{Code: code, Totals: want}) {
				t.Errorf("got %+v, %v, want %s and %+v", got, err, code, want)
			}
		}
		reconcile(finnet.OutOfBalance)
		late := bought(1, 1) // out of balance, it is still open
		b.withdraw(t, unclear(late), finnet.Approved)
		want.Sales, want.SalesTaken = finnet.Sum{Count: 3, Amount: 12_001}, finnet.Sum{Count: 2, Amount: 2_001}
		r.Totals = want
		reconcile(finnet.Approved)
		reconcile(finnet.Approved)
		r.Totals.Sales.Amount--
		reconcile(finnet.OutOfBalance)

		// Nothing new comes into a closed settlement, and what was answered is answered again.
		b.clear(t, kept, finnet.Approved)
		a := authorization(t, "alice", 100)
		c := clearing(a, b.approved(t, a), 100)
		b.clear(t, c, finnet.InvalidTransaction)
		b.refund(t, refund(kept, 1), finnet.InvalidTransaction)
		b.withdraw(t, unclear(kept), finnet.InvalidTransaction)
		c.Settlement = 2
		b.clear(t, c, finnet.Approved)

		book, err := b.Book(t.Context())
		list := book.Settlements
		if err != nil || len(list) != 2 {
			t.Fatalf("got %+v, %v, want two settlements", list, err)
		}
		if s := list[1]; s.Number != 1 || s.Closed.IsZero() || s.Totals != want || s.Currency != 840 || s.Acquirer != "412345" {
			t.Errorf("got %+v, want the closed settlement 1", s)
		}
		if s := list[0]; s.Number != 2 || !s.Closed.IsZero() || s.Totals.Net() != 300+500+100 {
			t.Errorf("got %+v, want settlement 2, open, net 9.00", s)
		}
		booked := b.amounts(t, "alice").Booked
		wantBalance := []issuer.Balance{{Currency: 840, Booked: booked, Settled: want.Net(), Open: 900}}
		if diff := cmp.Diff(wantBalance, book.Balances); diff != "" || !book.Balances[0].Balanced() {
			t.Errorf("balance (-want +got):\n%s", diff)
		}
		b.audit(t)
	})
}
