package gateway_test

import (
	"context"
	"database/sql"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/gateway"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sqldb"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

// before opens a database as it was before there were entries.
func before(t *testing.T, url string) *sqldb.DB {
	t.Helper()
	files := fstest.MapFS{}
	for _, name := range []string{"00001_authorizations.sql", "00002_clearings.sql"} {
		files[name] = &fstest.MapFile{Data: must[[]byte](t)(os.ReadFile("migrations/" + name))}
	}
	return must[*sqldb.DB](t)(sqldb.Open(t.Context(), url, files))
}

// What was under way before there were entries is brought to its end.
func TestMigration(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		old := before(t, url)
		states := []string{"declined", "reversing", "reversed", "reversal refused", "approved", "captured", "cleared", "clearing refused"}
		err := old.Tx(t.Context(), func(tx *sql.Tx) error {
			for n, state := range states {
				rrn := strings.Repeat("R", 11) + string(rune('A'+n))
				stan, captured := "", 0
				if strings.HasPrefix(state, "c") {
					captured = 4000
					stan = "00010" + string(rune('0'+n))
				}
				_, err := tx.Exec(`INSERT INTO auth (merchant, rrpid, request_digest, xid, pi_digest, account, state, code, approval, currency, amount,
					captured, terminal, acquirer, stan, rrn, transmission, clear_stan, clear_transmission, created_ms)
					VALUES ('M-0001', $1, $1, $2, $1, $3, $4, 0, 'A12345', 840, 4250, $5, '', '411111', '000007', $6, '0506070809', $7, '0506070809', $8)`,
					make20(n), make20(99), []byte{}, state, captured, rrn, stan, int64(1000-n))
				if err != nil {
					return err
				}
				if kind := map[string]string{"reversing": "reverse", "captured": "clear"}[state]; kind != "" {
					if err := old.Enqueue(context.Background(), tx, kind, "ref", []byte(rrn), time.Time{}); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		old.Close()

		l := newLab(t, url)
		l.host.held = map[string]set.CurrencyAmount{"RRRRRRRRRRRF": price}
		l.start(t, nil)
		l.wantTold(t, told(l, "clear 40.00 USD", "reverse to 0 000")...)
		l.waitAnswered(t)
		want := []string{
			"declined approved", "declined approved acknowledged", "declined approved acknowledged", "declined approved refused",
			"authorized approved", "captured approved acknowledged", "captured approved acknowledged", "captured approved refused",
		}
		eventually(t, "the states after the migration", func() bool { return cmp.Equal(want, l.states(t)) })
		l.wantSettlements(t, gateway.SettlementSummary{Number: 1, State: "open", Currency: "USD", Entries: 3, Refused: 1, Payouts: "80.00"})
		// What had been answered is not told again.
		l.host.mu.Lock()
		defer l.host.mu.Unlock()
		if l.host.advices[0].trace.STAN == "" || len(l.host.advices) != 2 {
			t.Errorf("the issuer was told %+v", l.host.advices)
		}
	})
}

// make20 is an identifier.
func make20(n int) []byte {
	id := make([]byte, 20)
	id[0] = byte(n)
	return id
}
