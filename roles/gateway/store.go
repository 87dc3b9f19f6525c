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

// pending is the state of an authorization about which the issuer is being asked. Afterwards it has a state of
// SET, which set.Position changes.
const pending set.State = "pending"

// notSale is the sale of an authorization that was not to be captured at once.
const notSale set.CapCode = -1

// record is one authorization. Its amounts are in minor units.
type record struct {
	merchant set.MerchantID
	rrpid    set.RRPID
	digest   [sha256.Size]byte // of the request's octets
	xid      set.XID
	piDigest []byte
	account  []byte // sealed
	bin      string // of the account
	transIDs []byte // DER
	code     set.AuthCode
	approval string
	terminal string
	trace    finnet.Trace
	created  time.Time
	currency set.Currency
	amount   int64 // as it was asked for

	state      set.State
	authorized int64 // what of it stands
	captured   int64
	credited   int64
	capture    int64 // number of the entry of the capture that stands; 0: none
	settled    bool  // the batch of the capture is closed
	spent      bool  // its payment instructions are used up
	cardholder set.Cardholder
	sale       set.CapCode // of a capture at once, or notSale
}

func (r *record) key() sqldb.AnswerKey {
	return sqldb.AnswerKey{Peer: string(r.merchant), Message: set.AuthReqType.String(), RRPID: r.rrpid}
}

// money gives minor units as SET has them.
func (r *record) money(n int64) set.CurrencyAmount {
	if n == 0 { // of any currency, also one that the network does not carry
		return set.CurrencyAmount{Currency: r.currency}
	}
	return finnet.FromMinorUnits(n, r.currency)
}

// minor undoes money for an amount that a merchant names; ok tells that it is of the right currency and has
// such a form.
func (r *record) minor(a set.CurrencyAmount) (n int64, ok bool) {
	if a.Currency != r.currency {
		return 0, false
	}
	if a.Amount == 0 {
		return 0, true
	}
	n, err := finnet.MinorUnits(a)
	return n, err == nil
}

// position is where the authorization stands.
func (r *record) position() set.Position {
	state := r.state
	if state == pending {
		state = set.StateUnasked
	}
	return set.Position{
		State: state, Authorized: r.money(r.authorized), Captured: r.money(r.captured), Credited: r.money(r.credited), Settled: r.settled,
	}
}

// step moves the authorization on, by set's table. Its error is a *set.StepError.
func (r *record) step(step set.Step, amount int64) error {
	p, err := r.position().After(step, r.money(amount))
	if err != nil {
		return err
	}
	r.state = p.State
	var fit [3]bool
	r.authorized, fit[0] = r.minor(p.Authorized)
	r.captured, fit[1] = r.minor(p.Captured)
	r.credited, fit[2] = r.minor(p.Credited)
	if fit != [3]bool{true, true, true} {
		return fmt.Errorf("authorization %s: an amount has no minor units", r.trace.RRN)
	}
	return nil
}

var (
	errInFlight = errors.New("the same request is being worked on")
	errDecided  = errors.New("the same request was decided before")
	errNoRecord = errors.New("no such authorization")
)

const columns = `merchant, rrpid, request_digest, xid, pi_digest, account, bin, trans_ids, code, approval, terminal,
	acquirer, stan, rrn, transmission, created_ms, currency, amount,
	state, authorized, captured, credited, capture, spent, sale, cardholder`

// settledColumn tells whether the batch of the standing capture is closed.
const settledColumn = `(SELECT COUNT(*) FROM entry JOIN batch ON batch.merchant = entry.merchant AND batch.id = entry.batch
	WHERE entry.rrn = auth.rrn AND entry.number = auth.capture AND batch.closed_ms > 0)`

const selectAuth = `SELECT ` + columns + `, ` + settledColumn + ` FROM auth `

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
	if r.cardholder == "" {
		if r.cardholder, err = knownCardholder(ctx, tx, r); err != nil {
			return err
		}
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO auth (`+columns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26)`,
		string(r.merchant), r.rrpid[:], r.digest[:], r.xid[:], notNil(r.piDigest), notNil(r.account), r.bin, notNil(r.transIDs),
		int64(r.code), r.approval, r.terminal, string(r.trace.Acquirer), r.trace.STAN, r.trace.RRN, r.trace.Transmission,
		r.created.UnixMilli(), int64(r.currency), r.amount,
		string(r.state), r.authorized, r.captured, r.credited, r.capture, number(r.spent), int64(r.sale), string(r.cardholder))
	if err != nil {
		return fmt.Errorf("keep an authorization request: %w", err)
	}
	return nil
}

// knownCardholder tells how the cardholder is known by the payment instructions for which a token stands: "" when
// they are from before this was kept.
func knownCardholder(ctx context.Context, tx *sql.Tx, r *record) (c set.Cardholder, err error) {
	err = tx.QueryRowContext(ctx, `SELECT cardholder FROM auth WHERE xid = $1 AND merchant = $2 AND cardholder <> '' ORDER BY created_ms LIMIT 1`,
		r.xid[:], string(r.merchant)).Scan((*string)(&c))
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look for the first authorization of the purchase: %w", err)
	}
	return c, nil
}

// notNil keeps an empty value from becoming NULL.
func notNil(b []byte) []byte { return append([]byte{}, b...) }

func number(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// instructionsFree tells whether the payment instructions of r may be used: they are not spent by another
// request.
func instructionsFree(ctx context.Context, tx *sql.Tx, r *record) (bool, error) {
	var merchant string
	var rrpid []byte
	err := tx.QueryRowContext(ctx, `SELECT merchant, rrpid FROM auth WHERE xid = $1 AND pi_digest = $2 AND spent = 1`,
		r.xid[:], r.piDigest).Scan(&merchant, &rrpid)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("look for earlier use of payment instructions: %w", err)
	}
	return merchant == string(r.merchant) && bytes.Equal(rrpid, r.rrpid[:]), nil // by this request itself, which insert finds
}

// standing sums up the other authorizations of a purchase that stand or are being asked for.
type standing struct {
	count, sum int64
	last       time.Time
	foreign    bool // there is one of another currency
}

func findStanding(ctx context.Context, tx *sql.Tx, r *record) (s standing, err error) {
	var last, foreign int64
	err = tx.QueryRowContext(ctx, `SELECT COUNT(*), COALESCE(SUM(authorized), 0), COALESCE(MAX(created_ms), 0),
		COALESCE(SUM(CASE WHEN currency = $1 THEN 0 ELSE 1 END), 0) FROM auth
		WHERE xid = $2 AND merchant = $3 AND authorized > 0 AND rrpid <> $4`,
		int64(r.currency), r.xid[:], string(r.merchant), r.rrpid[:]).Scan(&s.count, &s.sum, &last, &foreign)
	if err != nil {
		return s, fmt.Errorf("look for other authorizations of the purchase: %w", err)
	}
	s.last, s.foreign = time.UnixMilli(last), foreign > 0
	return s, nil
}

// find gives the authorization that a merchant's request asked for, or errNoRecord.
func find(ctx context.Context, tx *sql.Tx, merchant set.MerchantID, rrpid set.RRPID) (*record, error) {
	return scan(tx.QueryRowContext(ctx, selectAuth+`WHERE merchant = $1 AND rrpid = $2`, string(merchant), rrpid[:]))
}

// findRRN gives the authorization with a retrieval reference number, or errNoRecord.
func findRRN(ctx context.Context, tx *sql.Tx, rrn string) (*record, error) {
	return scan(tx.QueryRowContext(ctx, selectAuth+`WHERE rrn = $1`, rrn))
}

func scan(row interface{ Scan(...any) error }) (*record, error) {
	var r record
	var rrpid, digest, xid []byte
	var code, currency, created, sale, spent, settled int64
	err := row.Scan((*string)(&r.merchant), &rrpid, &digest, &xid, &r.piDigest, &r.account, &r.bin, &r.transIDs, &code, &r.approval,
		&r.terminal, (*string)(&r.trace.Acquirer), &r.trace.STAN, &r.trace.RRN, &r.trace.Transmission, &created, &currency, &r.amount,
		(*string)(&r.state), &r.authorized, &r.captured, &r.credited, &r.capture, &spent, &sale, (*string)(&r.cardholder), &settled)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errNoRecord
	}
	if err != nil {
		return nil, fmt.Errorf("read an authorization: %w", err)
	}
	copy(r.rrpid[:], rrpid)
	copy(r.digest[:], digest)
	copy(r.xid[:], xid)
	r.code, r.currency, r.created = set.AuthCode(code), set.Currency(currency), time.UnixMilli(created)
	r.sale, r.spent, r.settled = set.CapCode(sale), spent != 0, settled > 0
	return &r, nil
}

// settle keeps the decision on a pending authorization; errDecided says that it is no longer pending.
func settle(ctx context.Context, tx *sql.Tx, r *record) error {
	res, err := tx.ExecContext(ctx, `UPDATE auth SET state = $1, code = $2, approval = $3, authorized = $4, captured = $5, capture = $6,
		spent = $7, sale = $8 WHERE rrn = $9 AND state = $10`,
		string(r.state), int64(r.code), r.approval, r.authorized, r.captured, r.capture, number(r.spent), int64(r.sale),
		r.trace.RRN, string(pending))
	if err != nil {
		return fmt.Errorf("keep a decision: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(errDecided, err)
	}
	return nil
}

// update keeps where r stands now.
func (r *record) update(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `UPDATE auth SET state = $1, authorized = $2, captured = $3, credited = $4, capture = $5, spent = $6
		WHERE rrn = $7`, string(r.state), r.authorized, r.captured, r.credited, r.capture, number(r.spent), r.trace.RRN)
	if err != nil {
		return fmt.Errorf("keep that authorization %s is %s: %w", r.trace.RRN, r.state, err)
	}
	return nil
}

// overdue lists the claims made before a time that nobody has decided.
func overdue(ctx context.Context, tx *sql.Tx, before time.Time) ([]*record, error) {
	return list(tx.QueryContext(ctx, selectAuth+`WHERE state = 'pending' AND created_ms < $1
		ORDER BY created_ms LIMIT $2`, before.UnixMilli(), overdueAtOnceMax))
}

// newest lists authorizations, the latest first.
func newest(ctx context.Context, tx *sql.Tx, limit int) ([]*record, error) {
	return list(tx.QueryContext(ctx, selectAuth+`ORDER BY created_ms DESC, rrn LIMIT $1`, limit))
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
