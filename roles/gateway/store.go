package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sqldb"
)

//go:embed migrations/*.sql
var migrations embed.FS

// OpenDB opens the gateway's database; see sqldb.Open for what url may be.
func OpenDB(ctx context.Context, url string) (*sqldb.DB, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	return sqldb.Open(ctx, url, files)
}

// state is how far an authorization has come:
//
//	pending ─┬─ declined
//	         ├─ reversing ─┬─ reversed
//	         │             └─ reversal refused
//	         └─ approved ─── captured ─┬─ cleared
//	                                   └─ clearing refused
//
// Reversing and captured have a job that takes them on. What an issuer refuses to reverse or to clear
// needs a person.
type state string

const (
	pending         state = "pending"
	declined        state = "declined" // by the issuer or here; the issuer holds nothing
	approved        state = "approved"
	reversing       state = "reversing"
	reversed        state = "reversed"
	reversalRefused state = "reversal refused"
	captured        state = "captured"
	cleared         state = "cleared"
	clearingRefused state = "clearing refused"
)

// record is one authorization.
type record struct {
	merchant set.MerchantID
	rrpid    set.RRPID
	digest   [sha256.Size]byte // of the request's octets
	xid      set.XID
	piDigest []byte
	account  []byte // sealed
	state    state
	code     set.AuthCode
	approval string
	currency set.Currency
	amount   int64 // in minor units, as captured
	captured int64
	terminal string
	trace    finnet.Trace
	clearing finnet.Trace // its STAN and time of transmission are empty before the capture
	created  time.Time
}

func (r *record) key() sqldb.AnswerKey {
	return sqldb.AnswerKey{Peer: string(r.merchant), Message: "AuthReq", RRPID: r.rrpid}
}

// money gives minor units as SET has them.
func (r *record) money(n int64) set.CurrencyAmount {
	if n == 0 { // of any currency, also one that the network does not carry
		return set.CurrencyAmount{Currency: r.currency}
	}
	return finnet.FromMinorUnits(n, r.currency)
}

var (
	errInFlight = errors.New("the same request is being worked on")
	errDecided  = errors.New("the same request was decided before")
	errPIUsed   = errors.New("the payment instructions were used before")
	errNoRecord = errors.New("no such authorization")
)

const columns = `merchant, rrpid, request_digest, xid, pi_digest, account, state, code, approval, currency, amount,
	captured, terminal, acquirer, stan, rrn, transmission, clear_stan, clear_transmission, created_ms`

// insert adds r. If the request is known it tells what has become of it: errInFlight, errDecided or,
// when it had other octets, sqldb.ErrConflict.
func insert(ctx context.Context, tx *sql.Tx, r *record) error {
	known, err := find(ctx, tx, r.merchant, r.rrpid)
	switch {
	case errors.Is(err, errNoRecord):
	case err != nil:
		return err
	case known.digest != r.digest:
		return sqldb.ErrConflict
	case known.state == pending:
		return errInFlight
	default:
		return errDecided
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO auth (`+columns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)`,
		string(r.merchant), r.rrpid[:], r.digest[:], r.xid[:], notNil(r.piDigest), notNil(r.account), string(r.state),
		int64(r.code), r.approval, int64(r.currency), r.amount, r.captured, r.terminal, string(r.trace.Acquirer),
		r.trace.STAN, r.trace.RRN, r.trace.Transmission, r.clearing.STAN, r.clearing.Transmission, r.created.UnixMilli())
	if err != nil {
		return fmt.Errorf("keep an authorization request: %w", err)
	}
	return nil
}

// notNil keeps an empty value from becoming NULL.
func notNil(b []byte) []byte { return append([]byte{}, b...) }

// claim adds r as pending, if its payment instructions are free.
func claim(ctx context.Context, tx *sql.Tx, r *record) error {
	if err := insertable(ctx, tx, r); err != nil {
		return err
	}
	return insert(ctx, tx, r)
}

func insertable(ctx context.Context, tx *sql.Tx, r *record) error {
	var merchant string
	var rrpid []byte
	err := tx.QueryRowContext(ctx, `SELECT merchant, rrpid FROM auth
		WHERE xid = $1 AND pi_digest = $2 AND state NOT IN ('declined', 'reversed')`, r.xid[:], r.piDigest).Scan(&merchant, &rrpid)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("look for earlier use of payment instructions: %w", err)
	case merchant == string(r.merchant) && bytes.Equal(rrpid, r.rrpid[:]):
		return nil // by this request itself, which insert finds
	}
	return errPIUsed
}

// find gives the authorization that a merchant's request asked for, or errNoRecord.
func find(ctx context.Context, tx *sql.Tx, merchant set.MerchantID, rrpid set.RRPID) (*record, error) {
	return scan(tx.QueryRowContext(ctx, `SELECT `+columns+` FROM auth WHERE merchant = $1 AND rrpid = $2`, string(merchant), rrpid[:]))
}

// findRRN gives the authorization with a retrieval reference number, or errNoRecord.
func findRRN(ctx context.Context, tx *sql.Tx, rrn string) (*record, error) {
	return scan(tx.QueryRowContext(ctx, `SELECT `+columns+` FROM auth WHERE rrn = $1`, rrn))
}

func scan(row interface{ Scan(...any) error }) (*record, error) {
	var r record
	var rrpid, digest, xid []byte
	var code, currency, created int64
	err := row.Scan((*string)(&r.merchant), &rrpid, &digest, &xid, &r.piDigest, &r.account, (*string)(&r.state), &code,
		&r.approval, &currency, &r.amount, &r.captured, &r.terminal, (*string)(&r.trace.Acquirer), &r.trace.STAN,
		&r.trace.RRN, &r.trace.Transmission, &r.clearing.STAN, &r.clearing.Transmission, &created)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errNoRecord
	}
	if err != nil {
		return nil, fmt.Errorf("read an authorization: %w", err)
	}
	copy(r.rrpid[:], rrpid)
	copy(r.digest[:], digest)
	copy(r.xid[:], xid)
	r.clearing.Acquirer, r.clearing.RRN = r.trace.Acquirer, r.trace.RRN
	r.code, r.currency, r.created = set.AuthCode(code), set.Currency(currency), time.UnixMilli(created)
	return &r, nil
}

// settle takes a pending authorization to r's state, code and approval; errDecided says that it is no
// longer pending.
func settle(ctx context.Context, tx *sql.Tx, r *record) error {
	res, err := tx.ExecContext(ctx, `UPDATE auth SET state = $1, code = $2, approval = $3 WHERE rrn = $4 AND state = $5`,
		string(r.state), int64(r.code), r.approval, r.trace.RRN, string(pending))
	if err != nil {
		return fmt.Errorf("keep a decision: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(errDecided, err)
	}
	return nil
}

// advance takes an authorization from one state to the next.
func advance(ctx context.Context, tx *sql.Tx, rrn string, from, to state) error {
	res, err := tx.ExecContext(ctx, `UPDATE auth SET state = $1 WHERE rrn = $2 AND state = $3`, string(to), rrn, string(from))
	if err != nil {
		return fmt.Errorf("keep that authorization %s is %s: %w", rrn, to, err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(fmt.Errorf("authorization %s is not %s any more", rrn, from), err)
	}
	return nil
}

// capture keeps how much of an approved authorization is captured, and what will name its clearing.
func capture(ctx context.Context, tx *sql.Tx, clearing finnet.Trace, amount int64) error {
	if err := advance(ctx, tx, clearing.RRN, approved, captured); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `UPDATE auth SET captured = $1, clear_stan = $2, clear_transmission = $3 WHERE rrn = $4`,
		amount, clearing.STAN, clearing.Transmission, clearing.RRN)
	return err
}

// overdue lists the claims made before a time that nobody has decided.
func overdue(ctx context.Context, tx *sql.Tx, before time.Time) ([]*record, error) {
	return list(tx.QueryContext(ctx, `SELECT `+columns+` FROM auth WHERE state = 'pending' AND created_ms < $1
		ORDER BY created_ms LIMIT $2`, before.UnixMilli(), overdueAtOnceMax))
}

// newest lists authorizations, the latest first.
func newest(ctx context.Context, tx *sql.Tx, limit int) ([]*record, error) {
	return list(tx.QueryContext(ctx, `SELECT `+columns+` FROM auth ORDER BY created_ms DESC, rrn LIMIT $1`, limit))
}

func list(rows *sql.Rows, err error) ([]*record, error) {
	if err != nil {
		return nil, fmt.Errorf("list authorizations: %w", err)
	}
	defer rows.Close()
	var out []*record
	for rows.Next() {
		r, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}
