package gateway_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/gateway"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sqldb"
)

// settler is what set-gateway settle runs, beside the gateway that serves.
func (l *lab) settler(t *testing.T) *gateway.Settler {
	t.Helper()
	log := slog.New(slog.NewJSONHandler(&l.log, nil))
	client := finnet.NewClient(l.host.addr, log)
	t.Cleanup(func() { client.Close() })
	return &gateway.Settler{
		DB: l.db, Issuer: client, Acquirer: l.acquirer, Log: log, Now: l.now,
		Progress: func(string, int) {}, Report: func(*gateway.Settled) error { return nil },
	}
}

// sell makes purchases of the amounts and captures them.
func (l *lab) sell(t *testing.T, merchant *set.Endpoint, amounts ...int) (orders []*order) {
	t.Helper()
	for _, amount := range amounts {
		o := l.order(t, merchant)
		o.authorize(t, set.AuthApproved)
		o.wantCapture(t, o.capture(usd(amount)), set.CapSuccess)
		orders = append(orders, o)
	}
	return orders
}

func (l *lab) wantSettlements(t *testing.T, want ...gateway.SettlementSummary) {
	t.Helper()
	got := must[[]gateway.SettlementSummary](t)(gateway.Settlements(t.Context(), l.db, l.acquirer, 10))
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(gateway.SettlementSummary{}, "Cut", "Closed")); diff != "" {
		t.Errorf("settlements: %s", diff)
	}
}

func TestSettle(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		s := l.settler(t)
		if _, err := s.Settle(t.Context()); !errors.Is(err, gateway.ErrNothingToSettle) {
			t.Errorf("nothing to settle: %v", err)
		}
		orders := l.sell(t, l.merchant, 4250, 4000)
		l.sell(t, l.Merchant(t, "M-0002"), 1)
		l.wantAdjusted(t, set.Credit, orders[0].adjusted(price, ptr(usd(1250))), set.CapRevOrCredSuccess)
		l.wantAdjusted(t, set.CaptureReversal, orders[1].adjusted(usd(4000), nil), set.CapRevOrCredSuccess)
		var reports []*gateway.Settled
		s.Report = func(out *gateway.Settled) error {
			reports = append(reports, out)
			return nil
		}
		out := must[*gateway.Settled](t)(s.Settle(t.Context()))
		want := []gateway.Balance{{
			Currency: 840, Debits: 3001, Payouts: []gateway.Payout{{Merchant: "M-0001", Amount: 3000}, {Merchant: "M-0002", Amount: 1}},
			Ours: finnet.Totals{Sales: finnet.Sum{Count: 3, Amount: 8251}, SalesTaken: finnet.Sum{Count: 1, Amount: 4000}, Refunds: finnet.Sum{Count: 1, Amount: 1250}},
		}}
		want[0].Theirs = want[0].Ours
		if diff := cmp.Diff(want, out.Balances); diff != "" || !out.Balances[0].Balanced() || len(reports) != 1 {
			t.Errorf("balance: %s (%d reports)", diff, len(reports))
		}
		l.wantSettlements(t, gateway.SettlementSummary{Number: 1, State: "closed", Currency: "USD", Entries: 5, Payouts: "30.01", Debits: "30.01"})

		// What comes afterwards belongs to the next; the gateway's own batch has ended, so a capture in it stays.
		l.wantAdjusted(t, set.CaptureReversal, orders[0].adjusted(price, nil), set.CapRevOrCredOriginalProcessed)
		l.wantAdjusted(t, set.CreditReversal, orders[0].adjusted(price, ptr(usd(1250))), set.CapRevOrCredSuccess)
		data := l.batch(t, &set.BatchRequest{BatchID: ptr(set.Natural(1)), Summary: true}, set.BASuccess)
		if w := data.BatchStatus.ClosedWhen; w == nil || w.CloseStatus != set.ClosedByAcquirer {
			t.Errorf("the gateway's own batch: %+v", w)
		}
		l.wantAdjusted(t, set.Credit, orders[0].adjusted(price, nil), set.CapRevOrCredSuccess)
		out = must[*gateway.Settled](t)(s.Settle(t.Context()))
		if out.Number != 2 || out.Balances[0].Debits != 1250-4250 || out.Balances[0].Paid() != -3000 {
			t.Errorf("the second settlement: %+v", out.Balances)
		}
		if _, err := s.Settle(t.Context()); !errors.Is(err, gateway.ErrNothingToSettle) {
			t.Errorf("nothing more to settle: %v", err)
		}
	})
}

// Whatever stops a settlement, the next try goes on with it: it is not closed unless both sides have the same, the
// report is written before it is closed, and what comes meanwhile belongs to the next.
func TestSettleGoesOn(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		s := l.settler(t)
		// The issuer does not answer.
		l.host.mu.Lock()
		l.host.refuse, l.host.late = 1000, true
		l.host.mu.Unlock()
		l.sell(t, l.merchant, 4250)
		hurry, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if _, err := s.Settle(hurry); !errors.Is(err, gateway.ErrUnanswered) {
			t.Errorf("without the issuer's answers: %v", err)
		}
		l.wantSettlements(t, gateway.SettlementSummary{Number: 1, State: "closing", Currency: "USD", Entries: 1, Waiting: 1, Payouts: "0.00"})
		l.sell(t, l.merchant, 1)
		l.host.mu.Lock()
		l.host.refuse = 1
		l.host.mu.Unlock()
		l.waitAnswered(t)

		// The answer to the reconciliation is lost; then the totals differ.
		l.host.mu.Lock()
		l.host.refuse = 1
		l.host.mu.Unlock()
		if _, err := s.Settle(t.Context()); !errors.Is(err, finnet.ErrNoReply) {
			t.Errorf("without an answer to the reconciliation: %v", err)
		}
		l.host.mu.Lock()
		l.host.missing.Sales = finnet.Sum{Count: 1, Amount: 4250}
		l.host.mu.Unlock()
		s.Report = func(*gateway.Settled) error {
			t.Error("a report of a settlement that is out of balance")
			return nil
		}
		out, err := s.Settle(t.Context())
		if !errors.Is(err, gateway.ErrOutOfBalance) || out.Balances[0].Balanced() || out.Balances[0].Paid() != 4250 || out.Balances[0].Debits != 0 {
			t.Errorf("out of balance: %v, %+v", err, out)
		}
		l.host.mu.Lock()
		l.host.missing = finnet.Totals{}
		l.host.mu.Unlock()

		// The report cannot be written, then it can.
		full := errors.New("disk is full")
		s.Report = func(*gateway.Settled) error { return full }
		if _, err := s.Settle(t.Context()); !errors.Is(err, full) {
			t.Errorf("without a report: %v", err)
		}
		l.wantSettlements(t,
			gateway.SettlementSummary{Number: 2, State: "open", Currency: "USD", Entries: 1, Payouts: "0.01"},
			gateway.SettlementSummary{Number: 1, State: "closing", Currency: "USD", Entries: 1, Payouts: "42.50"})
		s.Report = func(out *gateway.Settled) error {
			if out.Number != 1 || len(out.Items) != 1 {
				t.Errorf("report of settlement %d with %d entries", out.Number, len(out.Items))
			}
			return nil
		}
		must[*gateway.Settled](t)(s.Settle(t.Context()))
		l.wantSettlements(t,
			gateway.SettlementSummary{Number: 2, State: "open", Currency: "USD", Entries: 1, Payouts: "0.01"},
			gateway.SettlementSummary{Number: 1, State: "closed", Currency: "USD", Entries: 1, Payouts: "42.50", Debits: "42.50"})
	})
}

// waitAnswered waits until the issuer has answered everything.
func (l *lab) waitAnswered(t *testing.T) {
	t.Helper()
	eventually(t, "the issuer's answers", func() bool {
		for _, s := range must[[]gateway.SettlementSummary](t)(gateway.Settlements(t.Context(), l.db, l.acquirer, 10)) {
			if s.Waiting > 0 {
				return false
			}
		}
		return true
	})
}

// settle delivers what is left even where no gateway serves.
func TestSettleDelivers(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		l.host.mu.Lock()
		l.host.refuse = 1000
		l.host.mu.Unlock()
		l.sell(t, l.merchant, 4250)
		url := l.dbURL
		l.stop()
		l.host.mu.Lock()
		l.host.refuse = 0
		l.host.mu.Unlock()
		l.db = must[*sqldb.DB](t)(gateway.OpenDB(t.Context(), url))
		t.Cleanup(func() { l.db.Close() })
		if out := must[*gateway.Settled](t)(l.settler(t).Settle(t.Context())); out.Balances[0].Debits != 4250 {
			t.Errorf("settled %+v", out.Balances)
		}
	})
}

// What the issuer refuses is reported, and not paid.
func TestSettleRefused(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		l.sell(t, l.merchant, 4250)
		l.waitAnswered(t)
		l.host.mu.Lock()
		l.host.deny = map[string]finnet.ResponseCode{"clear": finnet.InsufficientFunds}
		l.host.mu.Unlock()
		l.sell(t, l.merchant, 1000)
		out := must[*gateway.Settled](t)(l.settler(t).Settle(t.Context()))
		if r := out.Refused(); len(r) != 1 || r[0].Amount != 1000 || r[0].IssuerCode != finnet.InsufficientFunds {
			t.Errorf("refused %+v", r)
		}
		if b := out.Balances[0]; b.Paid() != 4250 || b.Debits != 4250 {
			t.Errorf("balance %+v", b)
		}
		l.wantSettlements(t, gateway.SettlementSummary{Number: 1, State: "closed", Currency: "USD", Entries: 2, Refused: 1, Payouts: "42.50", Debits: "42.50"})
	})
}

// Merchants get what cardholders are debited with, and both sides count the same.
func TestBalance(t *testing.T) {
	t.Parallel()
	sales := finnet.Totals{Sales: finnet.Sum{Count: 1, Amount: 100}}
	two := finnet.Totals{Sales: finnet.Sum{Count: 2, Amount: 100}}
	for name, c := range map[string]struct {
		gateway.Balance
		want bool
	}{
		"in balance": {gateway.Balance{Payouts: []gateway.Payout{{Merchant: "M", Amount: 60}, {Merchant: "N", Amount: 40}}, Ours: sales, Theirs: sales, Debits: 100}, true},
		"payouts":    {gateway.Balance{Payouts: []gateway.Payout{{Merchant: "M", Amount: 99}}, Ours: sales, Theirs: sales, Debits: 100}, false},
		"count":      {gateway.Balance{Payouts: []gateway.Payout{{Merchant: "M", Amount: 100}}, Ours: sales, Theirs: two, Debits: 100}, false},
	} {
		if c.Balanced() != c.want {
			t.Errorf("%s: balanced %t", name, !c.want)
		}
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	at := time.Date(2030, 5, 6, 7, 8, 9, 0, time.UTC)
	item := func(m set.MerchantID, what string, amount int64, c set.Currency, state string) gateway.SettledItem {
		return gateway.SettledItem{Merchant: m, What: what, State: state, IssuerCode: "00", Amount: amount, Currency: c, Batch: 1, Number: 2, Time: at,
			Trace: finnet.Trace{Acquirer: "411111", STAN: "000001", RRN: "ABCDEFGHIJKL", Transmission: "0506070809"}}
	}
	s := &gateway.Settled{Acquirer: "411111", Number: 12, Cut: at, Items: []gateway.SettledItem{
		item("M-0001", "capture", 4250, 840, "acknowledged"), item("M-0001", "capture", 5, 840, "acknowledged"), item("M-0001", "capture", 99, 840, "refused"),
		item("M-0001", "capture undone", 4250, 840, "acknowledged"), item("M-0001", "credit", 100, 840, "acknowledged"),
		item("M-0001", "credit undone", 50, 840, "acknowledged"), item("M-<2>&", "capture", 700, 392, "acknowledged"),
	}}
	s.Balances = []gateway.Balance{
		{Currency: 392, Payouts: []gateway.Payout{{Merchant: "M-<2>&", Amount: 700}}},
		{Currency: 840, Payouts: []gateway.Payout{{Merchant: "M-0001", Amount: -45}}},
	}
	var table, doc bytes.Buffer
	if err := errors.Join(s.WriteCSV(&table), s.WriteXML(&doc)); err != nil {
		t.Fatal(err)
	}
	rows := must[[][]string](t)(csv.NewReader(&table).ReadAll())
	if len(rows) != 8 {
		t.Fatalf("%d rows", len(rows))
	}
	for i, want := range []string{"payout", "42.50", "0.05", "0.00", "-42.50", "-1.00", "0.50", "700"} {
		if got := rows[i][5]; got != want {
			t.Errorf("row %d: payout %s, want %s", i, got, want)
		}
	}
	payouts, err := checkCamt054(doc.Bytes())
	if err != nil {
		t.Fatalf("%v\n%s", err, doc.String())
	}
	if diff := cmp.Diff([]string{"M-<2>& 700 JPY", "M-0001 -0.45 USD"}, payouts); diff != "" {
		t.Error(diff)
	}
	// The check itself finds what is wrong.
	good := doc.String()
	for name, change := range map[string][2]string{
		"an amount":                       {`<Amt Ccy="USD">42.50</Amt>`, `<Amt Ccy="USD">42.51</Amt>`},
		"decimals of the currency":        {`<Amt Ccy="JPY">700</Amt>`, `<Amt Ccy="JPY">700.0</Amt>`},
		"a number of transactions":        {"<NbOfTxs>2</NbOfTxs>", "<NbOfTxs>3</NbOfTxs>"},
		"a sum":                           {"<Sum>43.50</Sum>", "<Sum>43.51</Sum>"},
		"a direction":                     {"<CdtDbtInd>DBIT</CdtDbtInd>", "<CdtDbtInd>DEBIT</CdtDbtInd>"},
		"the net amount":                  {"<TtlNetNtry>", "<TtlNetNtry><Amt>1</Amt></TtlNetNtry><TtlNetNtry>"},
		"order":                           {"<Sts>", "<RvslInd>false</RvslInd><Sts>"},
		"a time":                          {"2030-05-06T07:08:09Z", "6.5.2030"},
		"a reference that is too long":    {"<EndToEndId>", "<EndToEndId>" + strings.Repeat("x", 30)},
		"another namespace":               {"camt.054.001.08", "camt.054.001.02"},
		"a currency that is not the same": {"<Ccy>USD</Ccy>", "<Ccy>EUR</Ccy>"},
	} {
		bad := strings.Replace(good, change[0], change[1], 1)
		if bad == good {
			t.Errorf("%s: there is nothing to change", name)
			continue
		}
		if _, err := checkCamt054([]byte(bad)); err == nil {
			t.Errorf("%s: was not noticed", name)
		}
	}
}
