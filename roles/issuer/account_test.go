package issuer_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/issuer"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

func check(t *testing.T, id string) *finnet.AccountCheck {
	t.Helper()
	a := testAccount(t, id)
	return &finnet.AccountCheck{Trace: finnet.NewTrace("400000", time.Now()), PAN: a.PAN, Expiry: a.Expiry, Holder: a.Holder, Secret: a.Secret}
}

func (b *bank) verify(t *testing.T, c *finnet.AccountCheck, want finnet.ResponseCode) {
	t.Helper()
	if got, err := b.Verify(t.Context(), c); got != want || err != nil {
		t.Errorf("account check is answered %s, %v, want %s", got, err, want)
	}
}

func TestAccountCheck(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		b := newBank(t, url)
		b.verify(t, check(t, "alice"), finnet.Approved)
		asWritten := check(t, "alice")
		asWritten.Holder = "  alice   ANDERSEN "
		b.verify(t, asWritten, finnet.Approved)
		for _, id := range []string{"carol", "dave", "erin"} {
			b.verify(t, check(t, id), finnet.DoNotHonour)
		}
		for name, spoil := range map[string]func(*finnet.AccountCheck){
			"number": func(c *finnet.AccountCheck) { c.PAN = set.PAN("4242424242424242") },
			"expiry": func(c *finnet.AccountCheck) { c.Expiry = set.CardExpiry("203511") },
			"name":   func(c *finnet.AccountCheck) { c.Holder = "Alice Anderson" },
			"secret": func(c *finnet.AccountCheck) { c.Secret = []byte("tulip-harbour-42") },
		} {
			c := check(t, "alice")
			spoil(c)
			if got, err := b.Verify(t.Context(), c); got != finnet.DoNotHonour || err != nil {
				t.Errorf("wrong %s: answered %s, %v, want %s", name, got, err, finnet.DoNotHonour)
			}
		}
		b.want(t, "alice", amounts{50_000, 0, 0})
	})
}

func TestAccountChecksAreLimited(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		b := newBank(t, url)
		wrong := func() *finnet.AccountCheck {
			c := check(t, "alice")
			c.Secret = []byte("guess")
			return c
		}
		failures := func(want int) {
			t.Helper()
			list, err := b.Accounts(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := list[0].ChecksFailed; list[0].ID != "alice" || got != want {
				t.Errorf("%s has %d failed checks, want alice with %d", list[0].ID, got, want)
			}
		}
		for range 4 {
			b.verify(t, wrong(), finnet.DoNotHonour)
		}
		failures(4)
		b.verify(t, check(t, "alice"), finnet.Approved) // starts the count anew
		failures(0)

		// The same message again is the same attempt; other content under its name is none.
		repeated := wrong()
		for range 10 {
			b.verify(t, repeated, finnet.DoNotHonour)
		}
		other := check(t, "alice")
		other.Trace = repeated.Trace
		b.verify(t, other, finnet.Duplicate)
		failures(1)

		for range 4 {
			b.verify(t, wrong(), finnet.DoNotHonour)
		}
		failures(5)
		right := check(t, "alice")
		b.verify(t, right, finnet.DoNotHonour)
		failures(5)
		if log := b.log.String(); !strings.Contains(log, "account=alice") || strings.Contains(log, string(right.PAN)) {
			t.Errorf("log does not name the account, or shows its number:\n%s", log)
		}
		b.approved(t, authorization(t, "alice", 100)) // payments go on

		if err := b.ResetChecks(t.Context(), "nobody"); !errors.Is(err, issuer.ErrNoAccount) {
			t.Errorf("reset of an unknown account gave %v", err)
		}
		if err := b.ResetChecks(t.Context(), "alice"); err != nil {
			t.Fatal(err)
		}
		b.verify(t, right, finnet.DoNotHonour) // that message keeps its answer
		b.verify(t, check(t, "alice"), finnet.Approved)

		// A number without an account runs into the same limit: nothing tells it from alice's.
		for range 6 {
			c := wrong()
			c.PAN = set.PAN("4242424242424242")
			b.verify(t, c, finnet.DoNotHonour)
		}
	})
}

func TestAccountsAreMasked(t *testing.T) {
	t.Parallel()
	b := newBank(t, sqldbtest.SQLite(t))
	list, err := b.Accounts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []issuer.Summary{
		{ID: "alice", Holder: "Alice Andersen", PAN: "**** 1111", Status: issuer.Active, Available: usd(50_000), Held: usd(0), Booked: usd(0)},
		{ID: "bob", Holder: "Bob Bertelsen", PAN: "**** 1881", Status: issuer.Active, Available: usd(300), Held: usd(0), Booked: usd(0)},
		{ID: "carol", Holder: "Carol Christensen", PAN: "**** 4444", Status: issuer.Blocked, Available: usd(50_000), Held: usd(0), Booked: usd(0)},
	}
	if diff := cmp.Diff(want, list[:3]); diff != "" {
		t.Errorf("accounts (-want +got):\n%s", diff)
	}
}

// Who has the database's files has no card.
func TestDatabaseShowsNoCard(t *testing.T) {
	t.Parallel()
	url := sqldbtest.SQLite(t)
	b := newBank(t, url)
	a := authorization(t, "alice", 100)
	b.approved(t, a)
	b.verify(t, check(t, "alice"), finnet.Approved)
	path := strings.TrimPrefix(url, "sqlite:")
	for _, suffix := range []string{"", "-wal"} {
		file, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		for _, acct := range testAccounts(t) {
			for what, secret := range map[string][]byte{
				"number": acct.PAN, "end of the number": acct.PAN[6:], "expiry": acct.Expiry, "name": []byte(acct.Holder), "secret": acct.Secret,
			} {
				if bytes.Contains(file, secret) {
					t.Errorf("database%s holds the %s of %s", suffix, what, acct.ID)
				}
			}
		}
		if suffix == "" {
			continue
		}
		if !bytes.Contains(file, []byte(a.RRN)) {
			t.Error("database does not hold the purchase either: the test looks in the wrong place")
		}
	}
}

func TestImport(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		b := newBank(t, url)
		b.approved(t, authorization(t, "alice", 10_000))
		if n, err := b.Import(t.Context(), testAccounts(t)); n != 0 || err != nil {
			t.Errorf("import again added %d accounts, %v", n, err)
		}
		b.want(t, "alice", amounts{40_000, 10_000, 0})

		fresh := testAccount(t, "alice")
		fresh.ID, fresh.PAN = "grace", set.PAN("4242424242424242")
		otherNumber, otherID := testAccount(t, "bob"), testAccount(t, "bob")
		otherNumber.PAN = set.PAN("4000000000000002")
		otherID.ID = "robert"
		badStatus := fresh
		badStatus.Status = "gone"
		for name, last := range map[string]issuer.Account{
			"known ID, other number": otherNumber, "known number, other ID": otherID, "bad status": badStatus,
		} {
			if n, err := b.Import(t.Context(), []issuer.Account{fresh, last}); n != 0 || err == nil || strings.Contains(err.Error(), "4000000000000002") {
				t.Errorf("%s: added %d accounts, %v, want an error", name, n, err)
			}
		}
		list, err := b.Accounts(t.Context())
		if err != nil || len(list) != len(testAccounts(t)) {
			t.Errorf("there are %d accounts (%v): an import that failed has added some", len(list), err)
		}
	})
}

// What was decided is still so after a restart.
func TestRestart(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		b := newBank(t, url)
		a := authorization(t, "alice", 10_000)
		first := b.authorize(t, a)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b.open(t)
		if again := b.authorize(t, a); again != first {
			t.Errorf("after a restart the authorization is answered %+v, want %+v", again, first)
		}
		b.want(t, "alice", amounts{40_000, 10_000, 0})
	})
}

func TestReadAccountsRefuses(t *testing.T) {
	t.Parallel()
	const good = `{id: a, pan: "4111111111111111", expiry: 2030-12, holder: A, available: 1.00 USD, status: active, secret: s}`
	if _, err := issuer.ReadAccounts(strings.NewReader("accounts: [" + good + "]")); err != nil {
		t.Fatal(err)
	}
	entry := func(old, new string) string { return "accounts: [" + strings.Replace(good, old, new, 1) + "]" }
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "empty"},
		{"no accounts", "accounts: []", "no accounts"},
		{"unknown key", entry("holder: A", "holder: A, cvv: 4111111111111111"), "field cvv not found"},
		{"twice the same key", entry("id: a", "id: a, id: b"), "already defined"},
		{"a number instead of an account", "accounts: [4111111111111111]", "cannot unmarshal"},
		{"two documents", "accounts: [" + good + "]\n---\n{}", "more than one document"},
		{"no YAML", "accounts: [4111111111111111", "not YAML"},
		{"bad id", entry("id: a", "id: A B"), "id is not"},
		{"bad check digit", entry("4111111111111111", "4111111111111112"), "check digit"},
		{"bad expiry", entry("2030-12", "2030-13"), "month"},
		{"expiry without a hyphen", entry("2030-12", "203012"), "YYYY-MM"},
		{"bad amount", entry("1.00 USD", "1.0 USD"), "2 decimal places"},
		{"negative amount", entry("1.00 USD", "-1.00 USD"), "not a number"},
		{"huge amount", entry("1.00 USD", "99999999999999999999 USD"), "12 digits"},
		{"no currency", entry("1.00 USD", "1.00"), "currency"},
		{"bad status", entry("active", "gone"), "status"},
		{"no secret", entry("secret: s", "secret: ''"), "secret"},
		{"no holder", entry("holder: A", "holder: ''"), "holder"},
	} {
		_, err := issuer.ReadAccounts(strings.NewReader(tt.text))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error is %v, want one with %q", tt.name, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "41111111") {
			t.Errorf("%s: error shows a card number: %v", tt.name, err)
		}
	}
}

func FuzzReadAccounts(f *testing.F) {
	file, err := os.ReadFile("../../testdata/accounts.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	f.Add([]byte("accounts: [{id: a}]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 8192 {
			return
		}
		accounts, err := issuer.ReadAccounts(bytes.NewReader(text))
		if err == nil && len(accounts) == 0 {
			t.Error("no accounts and no error")
		}
	})
}
