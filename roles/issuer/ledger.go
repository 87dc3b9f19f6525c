package issuer

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/finnet"
)

// Kinds of ledger entries.
const (
	entryOpening  = "opening"
	entryHold     = "hold"
	entryRelease  = "release" // reversal
	entryLapse    = "lapse"
	entryClearing = "clearing"

	entryUnclearing = "clearing withdrawn"
	entryRefund     = "refund"
	entryUnrefund   = "refund withdrawn"
)

// movement changes an account's amounts. Except for an opening it sums to zero.
type movement struct{ available, held, booked int64 }

// move books a movement: the account's amounts and the ledger, or neither. The database refuses an
// amount below zero.
func move(ctx context.Context, tx *sql.Tx, account, kind string, about finnet.Trace, at time.Time, m movement) error {
	var entry int64
	err := tx.QueryRowContext(ctx,
		`UPDATE account SET available = available + $1, held = held + $2, booked = booked + $3, entries = entries + 1
		 WHERE id = $4 RETURNING entries`, m.available, m.held, m.booked, account).Scan(&entry)
	if err != nil {
		return fmt.Errorf("%s on account %s: %w", kind, account, err)
	}
	_, err = tx.ExecContext(ctx,
		`INSERT INTO ledger (account_id, entry, at_s, kind, available, held, booked, acquirer, stan, rrn, transmission)
		 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		account, entry, at.Unix(), kind, m.available, m.held, m.booked,
		string(about.Acquirer), about.STAN, about.RRN, about.Transmission)
	if err != nil {
		return fmt.Errorf("ledger entry %s on account %s: %w", kind, account, err)
	}
	return nil
}
