package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/gateway"
	"github.com/setkit/setkit/roles/issuer"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/settest"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/sqldb"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

func TestMain(m *testing.M) { sqldbtest.Main(m) }

// softMAC and softSealer stand for keys of an HSM.
type softMAC []byte

func (k softMAC) Sum(data []byte) ([]byte, error) {
	h := hmac.New(sha256.New, k)
	h.Write(data)
	return h.Sum(nil), nil
}

type softSealer struct{ cipher.AEAD }

func newSoftSealer(t *testing.T) softSealer {
	key := make([]byte, 32)
	rand.Read(key)
	return softSealer{must[cipher.AEAD](t)(cipher.NewGCMWithRandomNonce(must[cipher.Block](t)(aes.NewCipher(key))))}
}

func (s softSealer) Seal(plaintext, aad []byte) ([]byte, error) {
	return s.AEAD.Seal(nil, nil, plaintext, aad), nil
}

func (s softSealer) Open(sealed, aad []byte) ([]byte, error) {
	return s.AEAD.Open(nil, nil, sealed, aad)
}

// network is a gateway and the bank behind it, as they are but for their HSMs.
type network struct {
	*settest.World
	t        *testing.T
	endpoint *set.Endpoint
	card     *settest.Card
	url      string
	file     string // configuration of the gateway
	out      string // where reports go

	bank      *issuer.Issuer
	ahead     atomic.Int64 // how far the bank's clock is ahead
	addr      string       // of the bank
	closeBank func()
}

func newNetwork(t *testing.T, dbURL string) *network {
	t.Helper()
	w, dir := settest.NewWorld(t), t.TempDir()
	n := &network{World: w, t: t, endpoint: w.Gateway(t, "G-0001"), card: w.Card(t, pan), out: dir}
	log := slog.New(slog.DiscardHandler)
	n.bank = must[*issuer.Issuer](t)(issuer.Open(t.Context(), issuer.Config{
		Database: "sqlite:" + filepath.Join(dir, "issuer.db"), Lookup: softMAC("lookup"), Sealer: newSoftSealer(t), HoldDays: 7, Log: log,
		Now: func() time.Time { return time.Now().Add(time.Duration(n.ahead.Load())) },
	}))
	t.Cleanup(func() { n.bank.Close() })
	must[int](t)(n.bank.Import(t.Context(), []issuer.Account{{
		ID: "ada", PAN: set.PAN(pan), Expiry: n.card.Account.CardExpiry, Holder: "Ada", Available: usd(100_000), Status: issuer.Active, Secret: []byte("secret"),
	}}))
	n.addr = "127.0.0.1:0"
	n.openBank()
	t.Cleanup(func() { n.closeBank() })

	db := must[*sqldb.DB](t)(gateway.OpenDB(t.Context(), dbURL))
	client := finnet.NewClient(n.addr, log)
	g := must[*gateway.Gateway](t)(gateway.New(gateway.Config{
		Endpoint: n.endpoint, DB: db, Issuer: client, Sealer: newSoftSealer(t), Acquirer: settest.AcquirerBIN, Log: log,
	}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	server := httptest.NewServer(g.Handler())
	t.Cleanup(func() {
		server.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		client.Close()
		db.Close()
	})
	n.url, n.file = server.URL, filepath.Join(dir, "gateway.yaml")
	text := fmt.Sprintf(`{listen: "-", database: %q, issuer: %q, acquirer-bin: %q, trust: {root: "-"}, seal-key: "-",
		identity: {sign-key: "-", exchange-key: "-", certificates: "-"}}`, dbURL, n.addr, settest.AcquirerBIN)
	if err := os.WriteFile(n.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return n
}

// openBank lets the bank answer, at the same address as before.
func (n *network) openBank() {
	n.t.Helper()
	ln := must[net.Listener](n.t)(net.Listen("tcp", n.addr))
	n.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.bank.Serve(ctx, ln) }()
	n.closeBank = func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Error(err)
		}
		n.closeBank = func() {}
	}
}

func usd(cents int) set.CurrencyAmount {
	return set.CurrencyAmount{Currency: 840, Amount: set.Natural(cents), AmtExp10: -2}
}

// bought is a purchase that was authorized.
type bought struct {
	*network
	merchant *set.Endpoint
	sale     *set.Sale
	auth     set.AuthorizationRequest
	answer   *set.Authorized
}

// post sends a request three times, as an impatient merchant does, and gives the answer.
func (n *network) post(request []byte) []byte {
	n.t.Helper()
	client := &sethttp.Client{Tries: 1}
	first := must[[]byte](n.t)(client.Post(n.t.Context(), n.url, sethttp.MediaPayment, request))
	for range 2 {
		if again := must[[]byte](n.t)(client.Post(n.t.Context(), n.url, sethttp.MediaPayment, request)); !bytes.Equal(again, first) {
			n.t.Error("the answer to a replay differs")
		}
	}
	return first
}

// buy authorizes an amount of a purchase; change may ask for more than that.
func (n *network) buy(merchant *set.Endpoint, cents int, change func(*set.AuthorizationRequest)) *bought {
	t, now, price := n.t, time.Now(), usd(cents)
	t.Helper()
	sale := &set.Sale{OD: []byte("1 x Pencil"), PurchAmt: price, LIDM: set.NewLocalID()}
	p := must[*set.Purchase](t)(set.NewPurchase(&set.Initiation{PurchAmt: &price, Brands: []set.BrandID{settest.Brand},
		LIDM: sale.LIDM, Order: sale.OD}, settest.Brand, settest.AcquirerBIN, "en"))
	msg := must[*set.MessageWrapper](t)(merchant.Receive(now, must[[]byte](t)(p.InitReq(n.card.Endpoint, now)), set.PInitReqType))
	init := must[*set.PInitReq](t)(msg.OpenPInitReq())
	must[*set.Offer](t)(p.OpenInitRes(n.card.Endpoint, now, must[[]byte](t)(sale.InitRes(merchant, now, init, n.endpoint.ExchangeCert, n.endpoint.Chain))))
	msg = must[*set.MessageWrapper](t)(merchant.Receive(now, must[[]byte](t)(p.Request(n.card.Endpoint, now, &n.card.Account)), set.PReqType))
	if err := sale.Take(must[*set.OpenedPReq](t)(merchant.OpenPReq(now, msg))); err != nil {
		t.Fatal(err)
	}
	b := &bought{network: n, merchant: merchant, sale: sale, auth: set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: price}}
	if change != nil {
		change(&b.auth)
	}
	return b.authorize()
}

func (b *bought) authorize() *bought {
	b.t.Helper()
	res := b.post(must[[]byte](b.t)(b.sale.AuthReq(b.merchant, time.Now(), b.auth)))
	b.answer = must[*set.Authorized](b.t)(b.sale.OpenAuthRes(b.merchant, time.Now(), b.auth, res))
	if b.answer.Header.AuthCode != set.AuthApproved {
		b.t.Fatalf("authorization: %v", b.answer.Header.AuthCode)
	}
	return b
}

// next is the next shipment.
func (b *bought) next(cents int, more bool) *bought {
	n := *b
	n.auth = set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: usd(cents), AuthToken: b.answer.AuthToken, Subsequent: more}
	return n.authorize()
}

func (b *bought) capture(cents int) *bought {
	b.t.Helper()
	c := &set.CaptureRequest{RRPID: set.NewRRPID(), GatewayCert: b.sale.GatewayCert, Items: []set.Capture{{
		TransIDs: b.sale.TransIDs, AuthRRPID: b.auth.RRPID, CapToken: b.answer.CapToken,
		Payload: set.CapPayload{CapDate: time.Now(), CapReqAmt: usd(cents)},
	}}}
	res := b.post(must[[]byte](b.t)(b.merchant.CapReq(time.Now(), c)))
	if got := must[*set.CapResData](b.t)(b.merchant.OpenCapRes(time.Now(), c, res)).CapResItemSeq[0].CapResPayload.CapCode; got != set.CapSuccess {
		b.t.Fatalf("capture: %v", got)
	}
	return b
}

func (b *bought) adjust(a set.Adjustment, captured, cents int) *bought {
	b.t.Helper()
	amount := usd(cents)
	r := &set.AdjustmentRequest{Adjustment: a, RRPID: set.NewRRPID(), GatewayCert: b.sale.GatewayCert, Items: []set.Adjusted{{
		TransIDs: b.sale.TransIDs, AuthRRPID: b.auth.RRPID, CapToken: b.answer.CapToken, Date: time.Now(), Amount: &amount,
		Payload: set.CapPayload{CapDate: time.Now(), CapReqAmt: usd(captured)},
	}}}
	res := b.post(must[[]byte](b.t)(b.merchant.AdjustmentReq(time.Now(), r)))
	got := must[*set.CapRevOrCredResData](b.t)(b.merchant.OpenAdjustmentRes(time.Now(), r, res)).CapRevOrCredResItemSeq[0].CapRevOrCredResPayload
	if got.CapRevOrCredCode != set.CapRevOrCredSuccess {
		b.t.Fatalf("%v: %v", a, got.CapRevOrCredCode)
	}
	return b
}

func (b *bought) reverse(remains int) *bought {
	b.t.Helper()
	r := set.ReversalRequest{RRPID: set.NewRRPID(), NewAmount: usd(remains), Of: b.auth, CapToken: b.answer.CapToken}
	res := b.post(must[[]byte](b.t)(b.sale.AuthRevReq(b.merchant, time.Now(), r)))
	got := must[*set.Reversed](b.t)(b.sale.OpenAuthRevRes(b.merchant, time.Now(), r, res))
	if got.Code != set.AuthRevApproved {
		b.t.Fatalf("reversal: %v", got.Code)
	}
	b.answer.CapToken = got.CapToken
	return b
}

// settle runs the command, and gives what it reports.
func (n *network) settle(wantCode int, args ...string) (r settledReport) {
	n.t.Helper()
	code, stdout, stderr := command(n.t.Context(), append([]string{"settle", "--config", n.file, "--out", n.out, "--json"}, args...)...)
	if code != wantCode {
		n.t.Fatalf("settle: exit code %d, want %d\n%s%s", code, wantCode, stdout, stderr)
	}
	if strings.Contains(stdout+stderr, pan) {
		n.t.Error("settle prints a card number")
	}
	if stdout != "" {
		if err := json.Unmarshal([]byte(stdout), &r); err != nil {
			n.t.Fatal(err)
		}
	}
	return r
}

// wantAccount waits until the bank has released and booked as much.
func (n *network) wantAccount(available, held, booked int) {
	n.t.Helper()
	want := fmt.Sprint(usd(available), " ", usd(held), " ", usd(booked))
	var got string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		a := must[[]issuer.Summary](n.t)(n.bank.Accounts(n.t.Context()))[0]
		if got = fmt.Sprint(a.Available, " ", a.Held, " ", a.Booked); got == want {
			return
		}
	}
	n.t.Fatalf("the account has %s, want %s", got, want)
}

// What merchants are paid is what the cardholder is debited with, to the cent, whatever was done to the purchases.
func TestSettlement(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, dbURL string) {
		n := newNetwork(t, dbURL)
		books, pens := n.Merchant(t, "M-0001"), n.Merchant(t, "M-0002")
		n.buy(books, 4250, func(r *set.AuthorizationRequest) { r.CaptureNow = true })
		n.buy(books, 3000, nil).capture(1999).adjust(set.Credit, 1999, 500).adjust(set.Credit, 1999, 1).adjust(set.CreditReversal, 1999, 500)
		shipment := n.buy(books, 9000, func(r *set.AuthorizationRequest) { r.Amount, r.Subsequent = usd(1000), true }).capture(1000)
		shipment.next(2000, true).capture(2000).next(6000, false).capture(5999)
		n.buy(pens, 777, nil).capture(777).adjust(set.CaptureReversal, 777, 777).capture(7)
		n.buy(pens, 8000, nil).reverse(6000).capture(6000)
		n.buy(pens, 5000, nil).reverse(0)
		n.buy(pens, 300, nil).capture(300).adjust(set.CaptureReversal, 300, 300) // stays authorized
		booked := 4250 + 1999 - 1 + 1000 + 2000 + 5999 + 7 + 6000
		n.wantAccount(100_000-booked-300, 300, booked)

		r := n.settle(0)
		if b := r.Balance[0]; !r.Balanced || r.Settlement != 1 || len(r.Balance) != 1 || b.Paid != "212.54" || b.Debits != "212.54" ||
			fmt.Sprint(b.Payouts) != "[{M-0001 152.47} {M-0002 60.07}]" || len(r.Refused) != 0 {
			t.Errorf("settled %+v", r)
		}
		book := must[issuer.Book](t)(n.bank.Book(t.Context()))
		if b := book.Balances[0]; !b.Balanced() || b.Booked != int64(booked) || b.Settled != int64(booked) || b.Open != 0 {
			t.Errorf("the bank's balance %+v", b)
		}
		rows := must[[][]string](t)(csv.NewReader(bytes.NewReader(must[[]byte](t)(os.ReadFile(r.Files[0])))).ReadAll())
		if doc := must[[]byte](t)(os.ReadFile(r.Files[1])); len(rows) != 1+14 || !bytes.Contains(doc, []byte("<Sum>")) {
			t.Errorf("%d rows in the report", len(rows))
		}
		if code, stdout, stderr := command(t.Context(), "settle", "--config", n.file, "--out", n.out); code != 0 || !strings.Contains(stderr, "nothing to settle") {
			t.Errorf("nothing to settle: %d %s%s", code, stdout, stderr)
		}

		if r := n.settle(0); r.Settlement != 0 || !r.Balanced {
			t.Errorf("nothing to settle: %+v", r)
		}

		// A capture that comes when the hold has lapsed and the money is spent is refused, and not paid.
		late := n.buy(books, 4000, nil)
		n.ahead.Store(int64(8 * 24 * time.Hour))
		must[int](t)(n.bank.ReleaseLapsed(t.Context()))
		n.ahead.Store(0)
		n.buy(pens, 100_000-booked, nil).capture(100_000 - booked)
		n.wantAccount(0, 0, 100_000)
		late.capture(4000)
		r = n.settle(0)
		if !r.Balanced || r.Settlement != 2 || len(r.Refused) != 1 || r.Refused[0].Amount != "40.00" || r.Refused[0].Code != string(finnet.InsufficientFunds) ||
			fmt.Sprint(r.Balance[0].Payouts) != "[{M-0002 787.46}]" {
			t.Errorf("settled %+v", r)
		}
		checkListing(t, n)
	})
}

func checkListing(t *testing.T, n *network) {
	t.Helper()
	code, stdout, stderr := command(t.Context(), "settlements", "--config", n.file, "--json")
	var list []gateway.SettlementSummary
	if err := json.Unmarshal([]byte(stdout), &list); code != 0 || err != nil || len(list) != 2 {
		t.Fatalf("settlements: %d %v\n%s%s", code, err, stdout, stderr)
	}
	if s := list[0]; s.Number != 2 || s.State != "closed" || s.Refused != 1 || s.Payouts != "787.46" || s.Debits != "787.46" {
		t.Errorf("the second settlement %+v", s)
	}
	if code, stdout, _ = command(t.Context(), "settlements", "--config", n.file); code != 0 || !strings.Contains(stdout, "212.54") {
		t.Errorf("settlements as a table: %d\n%s", code, stdout)
	}
}

// A bank that is away, and one that has something else: the settlement stays, and can be tried again.
func TestSettlementFails(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, sqldbtest.SQLite(t))
	shop := n.Merchant(t, "M-0001")
	b := n.buy(shop, 4250, nil)
	n.closeBank()
	b.capture(4250)
	n.settle(4, "--wait", "500ms")
	n.openBank()

	n.settle(0)

	// A clearing of this acquirer that its gateway knows nothing of.
	client := finnet.NewClient(n.addr, slog.New(slog.DiscardHandler))
	defer client.Close()
	n.buy(shop, 500, nil).capture(500)
	xid, merchant := set.NewXID(), finnet.Merchant{ID: "M-0001", Name: "Book Shop"}
	stray := finnet.NewTrace(settest.AcquirerBIN, time.Now())
	answer := must[finnet.Answer](t)(client.Authorize(t.Context(), &finnet.Authorization{
		Trace: stray, PAN: set.PAN(pan), Expiry: n.card.Account.CardExpiry, Amount: usd(1), Merchant: merchant, XID: xid,
	}))
	code := must[finnet.ResponseCode](t)(client.Clear(t.Context(), &finnet.Clearing{
		Trace: stray.Next(time.Now()), Original: stray, Amount: usd(1), ApprovalCode: answer.ApprovalCode, Merchant: merchant, XID: xid, Settlement: 2,
	}))
	if code != finnet.Approved {
		t.Fatalf("clearing: %s", code)
	}
	for range 2 {
		r := n.settle(1)
		if b := r.Balance[0]; r.Balanced || b.Balanced || b.Paid != "5.00" || b.Debits != "5.01" || b.Sums[0].Count != 1 || b.Sums[0].IssuerCount != 2 || len(r.Files) != 0 {
			t.Errorf("out of balance: %+v", r)
		}
	}
	exit, stdout, stderr := command(t.Context(), "settle", "--config", n.file, "--out", n.out)
	if exit != 1 || !strings.Contains(stdout, "OUT OF BALANCE") || !strings.Contains(stdout, "5.01") || !strings.Contains(stderr, "out of balance") {
		t.Errorf("out of balance: %d\n%s%s", exit, stdout, stderr)
	}
	if _, err := os.Stat(filepath.Join(n.out, "settlement-"+settest.AcquirerBIN+"-000002.csv")); err == nil {
		t.Error("there is a report of a settlement that is out of balance")
	}
	for _, args := range [][]string{
		{"settle", "--config", n.file, "--out", "/nonexistent"}, {"settle", "--config", n.file, "--wait", "0s"}, {"settlements", "--config", n.file, "--limit", "0"},
	} {
		if exit, _, stderr := command(t.Context(), args...); exit != 2 {
			t.Errorf("%v: exit code %d\n%s", args, exit, stderr)
		}
	}
}
