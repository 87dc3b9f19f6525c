package issuer_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/issuer"
	"github.com/setkit/setkit/roles/set"
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
	t.Helper()
	b, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	g, err := cipher.NewGCM(b)
	if err != nil {
		t.Fatal(err)
	}
	return softSealer{g}
}

func (s softSealer) Seal(plaintext, aad []byte) ([]byte, error) {
	nonce := make([]byte, s.NonceSize())
	rand.Read(nonce)
	return s.AEAD.Seal(nonce, nonce, plaintext, aad), nil
}

func (s softSealer) Open(sealed, aad []byte) ([]byte, error) {
	if len(sealed) < s.NonceSize() {
		return nil, fmt.Errorf("sealed data of %d bytes", len(sealed))
	}
	return s.AEAD.Open(nil, sealed[:s.NonceSize()], sealed[s.NonceSize():], aad)
}

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

const holdDays = 7

// bank is an issuer with the accounts of testdata.
type bank struct {
	*issuer.Issuer
	url   string
	clock *clock
	log   *bytes.Buffer
}

func newBank(t *testing.T, url string) *bank {
	t.Helper()
	b := &bank{url: url, clock: &clock{now: time.Date(2030, 5, 6, 7, 8, 9, 0, time.UTC)}, log: &bytes.Buffer{}}
	b.open(t)
	if n, err := b.Import(t.Context(), testAccounts(t)); err != nil || n != len(testAccounts(t)) {
		t.Fatalf("imported %d accounts, %v", n, err)
	}
	return b
}

func (b *bank) open(t *testing.T) {
	t.Helper()
	var err error
	b.Issuer, err = issuer.Open(context.Background(), issuer.Config{
		Database: b.url, Lookup: softMAC("lookup key"), Sealer: newSoftSealer(t), HoldDays: holdDays,
		Log: slog.New(slog.NewTextHandler(b.log, nil)), Now: b.clock.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
}

func testAccounts(t *testing.T) []issuer.Account {
	t.Helper()
	f, err := os.Open("../../testdata/accounts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	accounts, err := issuer.ReadAccounts(f)
	if err != nil {
		t.Fatal(err)
	}
	return accounts
}

func testAccount(t *testing.T, id string) issuer.Account {
	t.Helper()
	for _, a := range testAccounts(t) {
		if a.ID == id {
			return a
		}
	}
	t.Fatalf("testdata has no account %s", id)
	return issuer.Account{}
}

// amounts of an account, in minor units.
type amounts struct{ Available, Held, Booked int64 }

func (b *bank) amounts(t *testing.T, id string) amounts {
	t.Helper()
	list, err := b.Accounts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if a.ID == id {
			return amounts{int64(a.Available.Amount), int64(a.Held.Amount), int64(a.Booked.Amount)}
		}
	}
	t.Fatalf("there is no account %s", id)
	return amounts{}
}

func (b *bank) want(t *testing.T, id string, want amounts) {
	t.Helper()
	if got := b.amounts(t, id); got != want {
		t.Errorf("%s has %+v, want %+v", id, got, want)
	}
	b.audit(t)
}

// audit proves every account's amounts from the ledger and from the purchases.
func (b *bank) audit(t *testing.T) {
	t.Helper()
	db, err := sqldb.Open(t.Context(), b.url, fstest.MapFS{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	count := func(what, query string) {
		var wrong int
		err := db.View(t.Context(), func(tx *sql.Tx) error { return tx.QueryRowContext(t.Context(), query).Scan(&wrong) })
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if wrong != 0 {
			t.Errorf("%s: %d accounts are wrong", what, wrong)
		}
	}
	count("amounts are the sums of the ledger", `SELECT COUNT(*) FROM account a WHERE
		a.available <> (SELECT SUM(available) FROM ledger WHERE account_id = a.id) OR
		a.held <> (SELECT SUM(held) FROM ledger WHERE account_id = a.id) OR
		a.booked <> (SELECT SUM(booked) FROM ledger WHERE account_id = a.id) OR
		a.entries <> (SELECT COUNT(*) FROM ledger WHERE account_id = a.id)`)
	count("only the opening makes money", `SELECT COUNT(*) FROM ledger WHERE kind <> 'opening' AND available + held + booked <> 0`)
	count("what is held is what purchases hold", `SELECT COUNT(*) FROM account a WHERE a.held <>
		(SELECT COALESCE(SUM(hold), 0) FROM purchase WHERE account_id = a.id)`)
	count("what is booked is what was cleared", `SELECT COUNT(*) FROM account a WHERE a.booked <>
		(SELECT COALESCE(SUM(cleared - refunded), 0) FROM purchase WHERE account_id = a.id AND state = 'cleared')`)
	count("what is booked is what the settlements say", `SELECT COUNT(*) FROM
		(SELECT SUM(booked) AS n FROM account) a,
		(SELECT COALESCE(SUM(CASE WHEN kind IN ('clearing', 'refund withdrawn') THEN moved ELSE -moved END), 0) AS n FROM advice) b
		WHERE a.n <> b.n`)
}

func usd(cents int64) set.CurrencyAmount { return finnet.FromMinorUnits(cents, 840) }

// authorization is a purchase with an account of testdata.
func authorization(t *testing.T, id string, cents int64) *finnet.Authorization {
	t.Helper()
	a := testAccount(t, id)
	auth := &finnet.Authorization{
		Trace: finnet.NewTrace("412345", time.Now()), PAN: a.PAN, Expiry: a.Expiry, Amount: usd(cents),
		Merchant: finnet.Merchant{ID: "SHOP-1", Name: "Books & more"},
	}
	rand.Read(auth.XID[:])
	return auth
}

func (b *bank) authorize(t *testing.T, a *finnet.Authorization) finnet.Answer {
	t.Helper()
	answer, err := b.Authorize(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// approved authorizes, and gives the approval code.
func (b *bank) approved(t *testing.T, a *finnet.Authorization) string {
	t.Helper()
	answer := b.authorize(t, a)
	if answer.Code != finnet.Approved || len(answer.ApprovalCode) != 6 {
		t.Fatalf("answer is %+v, want an approval", answer)
	}
	return answer.ApprovalCode
}

func reversal(a *finnet.Authorization) *finnet.Reversal {
	return &finnet.Reversal{Trace: a.Next(time.Now()), Original: a.Trace, Amount: a.Amount}
}

func (b *bank) reverse(t *testing.T, r *finnet.Reversal, want finnet.ResponseCode) {
	t.Helper()
	if got, err := b.Reverse(t.Context(), r); got != want || err != nil {
		t.Errorf("reversal is answered %s, %v, want %s", got, err, want)
	}
}

func clearing(a *finnet.Authorization, approval string, cents int64) *finnet.Clearing {
	return &finnet.Clearing{
		Trace: a.Next(time.Now()), Original: a.Trace, Amount: usd(cents), ApprovalCode: approval,
		Merchant: finnet.Merchant{ID: a.Merchant.ID}, XID: a.XID, Settlement: 1,
	}
}

func (b *bank) clear(t *testing.T, c *finnet.Clearing, want finnet.ResponseCode) {
	t.Helper()
	if got, err := b.Clear(t.Context(), c); got != want || err != nil {
		t.Errorf("clearing is answered %s, %v, want %s", got, err, want)
	}
}
