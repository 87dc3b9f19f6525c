package issuer_test

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sqldb"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

const day = 24 * time.Hour

func TestPurchase(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		b := newBank(t, url)
		a := authorization(t, "alice", 12_345)
		approval := b.approved(t, a)
		b.want(t, "alice", amounts{37_655, 12_345, 0})
		b.clear(t, clearing(a, approval, 10_000), finnet.Approved) // in part: the rest is released
		b.want(t, "alice", amounts{40_000, 0, 10_000})

		full := authorization(t, "alice", 40_000)
		b.clear(t, clearing(full, b.approved(t, full), 40_000), finnet.Approved)
		b.want(t, "alice", amounts{0, 0, 50_000})
		if got := b.authorize(t, authorization(t, "alice", 1)); got.Code != finnet.InsufficientFunds {
			t.Errorf("an empty account is answered %s", got.Code)
		}
	})
}

func TestDeclines(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		b := newBank(t, url)
		for _, tt := range []struct {
			name  string
			id    string
			spoil func(*finnet.Authorization)
			want  finnet.ResponseCode
		}{
			{"one cent too much", "bob", func(a *finnet.Authorization) { a.Amount = usd(301) }, finnet.InsufficientFunds},
			{"blocked", "carol", nil, finnet.RestrictedCard},
			{"expired", "dave", nil, finnet.ExpiredCard},
			{"stolen", "erin", nil, finnet.StolenCard},
			{"other currency", "frank", nil, finnet.InvalidTransaction},
			{"wrong expiry", "alice", func(a *finnet.Authorization) { a.Expiry = set.CardExpiry("203511") }, finnet.DoNotHonour},
			{"wrong expiry of a stolen card", "erin", func(a *finnet.Authorization) { a.Expiry = set.CardExpiry("203511") }, finnet.DoNotHonour},
			{"no such card", "alice", func(a *finnet.Authorization) { a.PAN = set.PAN("4242424242424242") }, finnet.InvalidCard},
			{"card of another", "alice", func(a *finnet.Authorization) { a.PAN = testAccount(t, "bob").PAN }, finnet.DoNotHonour},
		} {
			a := authorization(t, tt.id, 100)
			if tt.spoil != nil {
				tt.spoil(a)
			}
			for _, round := range []string{"first", "repeated"} {
				if got := b.authorize(t, a); got.Code != tt.want || got.ApprovalCode != "" {
					t.Errorf("%s, %s: answer is %+v, want %s", tt.name, round, got, tt.want)
				}
			}
			b.clear(t, clearing(a, "000000", 100), finnet.InvalidTransaction)
			b.reverse(t, reversal(a), finnet.Approved) // there is nothing to take back
		}
		b.want(t, "alice", amounts{50_000, 0, 0})
		b.want(t, "bob", amounts{300, 0, 0})
		b.want(t, "carol", amounts{50_000, 0, 0})
		b.want(t, "frank", amounts{75_000, 0, 0})
	})
}

// A card is good to the end of its last month, wherever its holder is.
func TestExpiry(t *testing.T) {
	t.Parallel()
	b := newBank(t, sqldbtest.SQLite(t))
	last := time.Date(2034, 7, 1, 11, 59, 59, 0, time.UTC) // bob: 2034-06
	b.clock.advance(last.Sub(b.clock.Now()))
	b.approved(t, authorization(t, "bob", 1))
	b.clock.advance(time.Second)
	if got := b.authorize(t, authorization(t, "bob", 1)); got.Code != finnet.ExpiredCard {
		t.Errorf("a month too old: answer is %s, want %s", got.Code, finnet.ExpiredCard)
	}
}

// Every message again, and again after what followed it.
func TestRepeats(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		b := newBank(t, url)
		a := authorization(t, "alice", 10_000)
		first := b.authorize(t, a)
		if again := b.authorize(t, a); again != first {
			t.Errorf("repeated authorization is answered %+v, want %+v", again, first)
		}
		b.want(t, "alice", amounts{40_000, 10_000, 0})

		for name, spoil := range map[string]func(*finnet.Authorization){
			"amount":   func(a *finnet.Authorization) { a.Amount = usd(10_001) },
			"card":     func(a *finnet.Authorization) { a.PAN = testAccount(t, "bob").PAN },
			"XID":      func(a *finnet.Authorization) { a.XID[0]++ },
			"merchant": func(a *finnet.Authorization) { a.Merchant.ID = "SHOP-2" },
		} {
			other := *a
			spoil(&other)
			if got := b.authorize(t, &other); got.Code != finnet.Duplicate || got.ApprovalCode != "" {
				t.Errorf("the same name with another %s is answered %+v, want %s", name, got, finnet.Duplicate)
			}
		}
		b.want(t, "alice", amounts{40_000, 10_000, 0})

		c := clearing(a, first.ApprovalCode, 6_000)
		b.clear(t, c, finnet.Approved)
		b.clear(t, c, finnet.Approved)
		b.clear(t, clearing(a, first.ApprovalCode, 6_000), finnet.Duplicate) // another clearing, not the same again
		b.clear(t, clearing(a, first.ApprovalCode, 5_999), finnet.Duplicate)
		if again := b.authorize(t, a); again != first {
			t.Errorf("authorization repeated after its clearing is answered %+v, want %+v", again, first)
		}
		b.reverse(t, reversal(a), finnet.InvalidTransaction)
		b.want(t, "alice", amounts{44_000, 0, 6_000})

		r := authorization(t, "alice", 1_000)
		approval := b.approved(t, r)
		wrong := reversal(r)
		wrong.Amount = usd(999)
		b.reverse(t, wrong, finnet.InvalidAmount)
		b.want(t, "alice", amounts{43_000, 1_000, 6_000})
		b.reverse(t, reversal(r), finnet.Approved)
		b.reverse(t, reversal(r), finnet.Approved)
		if got := b.authorize(t, r); got.Code != finnet.InvalidTransaction || got.ApprovalCode != "" {
			t.Errorf("authorization repeated after its reversal is answered %+v, want %s", got, finnet.InvalidTransaction)
		}
		b.clear(t, clearing(r, approval, 1_000), finnet.InvalidTransaction)
		b.want(t, "alice", amounts{44_000, 0, 6_000})
	})
}

func TestReversalBeforeAuthorization(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		b := newBank(t, url)
		a := authorization(t, "alice", 10_000)
		b.reverse(t, reversal(a), finnet.Approved)
		b.reverse(t, reversal(a), finnet.Approved)
		for range 2 {
			if got := b.authorize(t, a); got.Code != finnet.InvalidTransaction || got.ApprovalCode != "" {
				t.Errorf("late authorization is answered %+v, want %s", got, finnet.InvalidTransaction)
			}
		}
		b.clear(t, clearing(a, "000000", 10_000), finnet.InvalidTransaction)
		b.want(t, "alice", amounts{50_000, 0, 0})
	})
}

func TestClearingRefused(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		b := newBank(t, url)
		a := authorization(t, "alice", 10_000)
		b.clear(t, clearing(a, "000000", 10_000), finnet.UnknownOriginal)
		approval := b.approved(t, a)
		for name, tt := range map[string]struct {
			spoil func(*finnet.Clearing)
			want  finnet.ResponseCode
		}{
			"more than authorized": {func(c *finnet.Clearing) { c.Amount = usd(10_001) }, finnet.InvalidAmount},
			"other currency":       {func(c *finnet.Clearing) { c.Amount.Currency = 978 }, finnet.InvalidTransaction},
			"other approval":       {func(c *finnet.Clearing) { c.ApprovalCode = "zzzzzz" }, finnet.InvalidTransaction},
			"other merchant":       {func(c *finnet.Clearing) { c.Merchant.ID = "SHOP-2" }, finnet.InvalidTransaction},
			"other purchase":       {func(c *finnet.Clearing) { c.XID[0]++ }, finnet.InvalidTransaction},
		} {
			c := clearing(a, approval, 10_000)
			tt.spoil(c)
			if got, err := b.Clear(t.Context(), c); got != tt.want || err != nil {
				t.Errorf("%s: answered %s, %v, want %s", name, got, err, tt.want)
			}
		}
		b.want(t, "alice", amounts{40_000, 10_000, 0})
	})
}

func TestLapsedHolds(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		b := newBank(t, url)
		late, tooLate, undone := authorization(t, "alice", 20_000), authorization(t, "alice", 15_000), authorization(t, "alice", 1_000)
		lateCode, tooLateCode, undoneCode := b.approved(t, late), b.approved(t, tooLate), b.approved(t, undone)
		b.clock.advance(holdDays*day - time.Second)
		fresh := authorization(t, "alice", 5_000)
		b.approved(t, fresh)
		release := func(want int) {
			t.Helper()
			if n, err := b.ReleaseLapsed(t.Context()); n != want || err != nil {
				t.Errorf("released %d, %v, want %d", n, err, want)
			}
		}
		release(0)
		b.clock.advance(time.Second)
		release(3)
		release(0)
		b.want(t, "alice", amounts{45_000, 5_000, 0})
		if got := b.authorize(t, late); got.Code != finnet.InvalidTransaction {
			t.Errorf("authorization repeated after it lapsed is answered %s, want %s", got.Code, finnet.InvalidTransaction)
		}

		c := clearing(late, lateCode, 19_000)
		b.clear(t, c, finnet.Approved) // still available
		b.clear(t, c, finnet.Approved)
		b.want(t, "alice", amounts{26_000, 5_000, 19_000})
		b.approved(t, authorization(t, "alice", 12_000))
		b.clear(t, clearing(tooLate, tooLateCode, 15_000), finnet.InsufficientFunds)
		b.clear(t, clearing(tooLate, tooLateCode, 14_000), finnet.Approved)
		b.reverse(t, reversal(undone), finnet.Approved)
		b.clear(t, clearing(undone, undoneCode, 1_000), finnet.InvalidTransaction)
		b.want(t, "alice", amounts{0, 17_000, 33_000})
	})
}

// Copies of one authorization at the same time hold its amount once; different ones hold no more than
// there is.
func TestConcurrentAuthorizations(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		b := newBank(t, url)
		same := authorization(t, "alice", 10_000)
		const copies = 6
		answers := make([]finnet.Answer, copies)
		var wg sync.WaitGroup
		for n := range copies {
			wg.Go(func() {
				a := *same
				answer, err := b.Authorize(t.Context(), &a)
				if errors.Is(err, sqldb.ErrBusy) {
					answer, err = b.Authorize(t.Context(), &a)
				}
				if err != nil {
					t.Error(err)
				}
				answers[n] = answer
			})
		}
		wg.Wait()
		for _, a := range answers {
			if a != answers[0] || a.Code != finnet.Approved {
				t.Errorf("copies are answered %+v and %+v, want the same approval", answers[0], a)
			}
		}
		b.want(t, "alice", amounts{40_000, 10_000, 0})

		var mu sync.Mutex
		approvals := 0
		for range 8 {
			wg.Go(func() {
				a := authorization(t, "alice", 10_000)
				answer, err := b.Authorize(t.Context(), a)
				for errors.Is(err, sqldb.ErrBusy) {
					answer, err = b.Authorize(t.Context(), a)
				}
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if answer.Code == finnet.Approved {
					approvals++
				}
			})
		}
		wg.Wait()
		if approvals != 4 {
			t.Errorf("%d purchases of 100.00 were approved on 400.00", approvals)
		}
		b.want(t, "alice", amounts{0, 50_000, 0})
	})
}

// Whatever comes in whatever order, money is neither made nor lost, and every answer that was given once
// for a message is given again.
func TestMoneyIsConserved(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		b := newBank(t, url)
		rng := rand.New(rand.NewPCG(1, 2))
		var sent []*finnet.Authorization
		approvals := map[*finnet.Authorization]string{}
		var clearings []*finnet.Clearing
		var refunds []*finnet.Refund
		for range 400 {
			if len(sent) == 0 || rng.IntN(3) == 0 {
				sent = append(sent, authorization(t, "alice", int64(rng.IntN(15_000)+1)))
			}
			a := sent[rng.IntN(len(sent))]
			cents := int64(a.Amount.Amount)
			switch rng.IntN(8) {
			case 0, 1:
				if answer := b.authorize(t, a); answer.Code == finnet.Approved {
					if before, ok := approvals[a]; ok && before != answer.ApprovalCode {
						t.Errorf("authorization was approved as %s and as %s", before, answer.ApprovalCode)
					}
					approvals[a] = answer.ApprovalCode
				}
			case 2:
				r := reversal(a)
				if remains := rng.Int64N(cents); rng.IntN(2) == 0 && remains > 0 {
					r.Remains = usd(remains)
				}
				if _, err := b.Reverse(t.Context(), r); err != nil {
					t.Fatal(err)
				}
			case 3, 4:
				c := clearing(a, approvals[a], rng.Int64N(cents)+1)
				first, err := b.Clear(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				b.clear(t, c, first)
				clearings = append(clearings, c)
			case 5:
				if len(clearings) == 0 {
					continue
				}
				r := refund(clearings[rng.IntN(len(clearings))], rng.Int64N(5_000)+1)
				first, err := b.Refund(t.Context(), r)
				if err != nil {
					t.Fatal(err)
				}
				b.refund(t, r, first)
				refunds = append(refunds, r)
			case 6:
				if len(clearings) == 0 || len(refunds) == 0 {
					continue
				}
				w := unclear(clearings[rng.IntN(len(clearings))])
				if rng.IntN(2) == 0 {
					w = unrefund(refunds[rng.IntN(len(refunds))])
				}
				first, err := b.Withdraw(t.Context(), w)
				if err != nil {
					t.Fatal(err)
				}
				b.withdraw(t, w, first)
			case 7:
				b.clock.advance(time.Duration(rng.IntN(24)) * time.Hour)
				if _, err := b.ReleaseLapsed(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if got := b.amounts(t, "alice"); got.Available+got.Held+got.Booked != 50_000 {
				t.Fatalf("amounts %+v do not sum to 500.00", got)
			}
		}
		b.audit(t)
		if got := b.amounts(t, "alice"); got.Booked == 0 || len(approvals) < 10 {
			t.Errorf("%d approvals and %+v: the test did nothing", len(approvals), got)
		}
	})
}
