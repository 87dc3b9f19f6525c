package gateway

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/setkit/setkit/roles/set"
)

// batch is a merchant's batch. A batch has one currency, which its first item decides.
type batch struct {
	merchant set.MerchantID
	id       int64
	acquirer set.BIN
	own      bool // the gateway opened it, for a merchant who had none; settle closes it
	brands   []set.BrandAndBIN
	currency set.Currency // 0: nothing was put into it yet
	opened   time.Time
	closed   time.Time // zero: it is open
	closedBy set.CloseStatus
}

// batchIDMax is the greatest number that the gateway gives to a batch.
const batchIDMax = 1<<31 - 1

const batchColumns = `merchant, id, acquirer, own, brands, currency, opened_ms, closed_ms, closed_by`

func scanBatch(row interface{ Scan(...any) error }) (*batch, error) {
	b := new(batch)
	var own, currency, opened, closed, closedBy int64
	var brands []byte
	err := row.Scan((*string)(&b.merchant), &b.id, (*string)(&b.acquirer), &own, &brands, &currency, &opened, &closed, &closedBy)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(brands, &b.brands)
	}
	if err != nil {
		return nil, fmt.Errorf("read a batch: %w", err)
	}
	b.own, b.currency, b.closedBy, b.opened = own != 0, set.Currency(currency), set.CloseStatus(closedBy), time.UnixMilli(opened)
	if closed != 0 {
		b.closed = time.UnixMilli(closed)
	}
	return b, nil
}

// findBatch gives nil if there is none.
func findBatch(ctx context.Context, tx *sql.Tx, merchant set.MerchantID, id int64) (*batch, error) {
	return scanBatch(tx.QueryRowContext(ctx, `SELECT `+batchColumns+` FROM batch WHERE merchant = $1 AND id = $2`, string(merchant), id))
}

// merchantBatches lists the batches of a merchant, the newest first.
func merchantBatches(ctx context.Context, tx *sql.Tx, merchant set.MerchantID, onlyOpen bool) ([]*batch, error) {
	query := `SELECT ` + batchColumns + ` FROM batch WHERE merchant = $1 `
	if onlyOpen {
		query += `AND closed_ms = 0 `
	}
	rows, err := tx.QueryContext(ctx, query+`ORDER BY opened_ms DESC, id DESC LIMIT $2`, string(merchant), batchesLookedAtMax)
	if err != nil {
		return nil, fmt.Errorf("list batches: %w", err)
	}
	defer rows.Close()
	var out []*batch
	for rows.Next() {
		b, err := scanBatch(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, rows.Err()
}

// batchesLookedAtMax bounds how many batches of a merchant are looked through for one that will do.
const batchesLookedAtMax = 1000

// nextBatchID gives a number that no batch of the merchant has.
func nextBatchID(ctx context.Context, tx *sql.Tx, merchant set.MerchantID) (id int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(id), 0) + 1 FROM batch WHERE merchant = $1 AND id < $2`, string(merchant), batchIDMax).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("look for the number of a new batch: %w", err)
	}
	return id, nil
}

func (b *batch) insert(ctx context.Context, tx *sql.Tx) error {
	brands, err := json.Marshal(b.brands)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO batch (`+batchColumns+`, numbers) VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0, 0)`,
		string(b.merchant), b.id, string(b.acquirer), number(b.own), string(brands), int64(b.currency), b.opened.UnixMilli())
	if err != nil {
		return fmt.Errorf("open batch %d of merchant %s: %w", b.id, b.merchant, err)
	}
	return nil
}

// takes tells whether an item about an authorization may be put into b.
func (b *batch) takes(r *record, brand set.BrandID) bool {
	if b.currency != 0 && b.currency != r.currency {
		return false
	}
	return len(b.brands) == 0 || slices.ContainsFunc(b.brands, func(x set.BrandAndBIN) bool {
		return x.BrandID.Matches(brand) && (x.BIN == "" || string(x.BIN) == r.bin)
	})
}

// batchProblem is why an item cannot be put into a batch.
type batchProblem int

const (
	batchFits batchProblem = iota
	batchUnknown
	batchIsClosed
)

// batchFor gives the batch for an item about r: the one that the merchant names or else its newest that is open
// and takes the item. Where there is none, the gateway opens one of its own.
func (g *Gateway) batchFor(ctx context.Context, tx *sql.Tx, r *record, named *set.Natural) (id int64, problem batchProblem, err error) {
	if named != nil {
		b, err := findBatch(ctx, tx, r.merchant, int64(*named))
		switch {
		case err != nil:
			return 0, 0, err
		case b == nil || !b.takes(r, g.brand()):
			return 0, batchUnknown, nil
		case !b.closed.IsZero():
			return 0, batchIsClosed, nil
		}
		return b.id, batchFits, nil
	}
	open, err := merchantBatches(ctx, tx, r.merchant, true)
	if err != nil {
		return 0, 0, err
	}
	if i := slices.IndexFunc(open, func(b *batch) bool { return b.takes(r, g.brand()) }); i >= 0 {
		return open[i].id, batchFits, nil
	}
	b := &batch{merchant: r.merchant, acquirer: g.Acquirer, own: true, currency: r.currency, opened: g.Now()}
	if b.id, err = nextBatchID(ctx, tx, r.merchant); err != nil {
		return 0, 0, err
	}
	return b.id, batchFits, b.insert(ctx, tx)
}

// brand is the gateway's.
func (g *Gateway) brand() set.BrandID { return set.BrandID(g.endpoint().ExchangeCert.Brand()) }

// takePlace gives the next number in a batch, which stays taken.
func takePlace(ctx context.Context, tx *sql.Tx, r *record, id int64) (p place, err error) {
	p.batch = id
	err = tx.QueryRowContext(ctx, `UPDATE batch SET numbers = numbers + 1, currency = $1 WHERE merchant = $2 AND id = $3 RETURNING numbers`,
		int64(r.currency), string(r.merchant), id).Scan(&p.number)
	if err != nil {
		return p, fmt.Errorf("number an item of batch %d: %w", id, err)
	}
	return p, nil
}

// batchItem is an item that stands in a batch.
type batchItem struct {
	*entry
	authRRPID []byte
	transIDs  []byte
	bin       string
	currency  set.Currency
}

// batchItems lists what stands in a batch, by number: neither what was taken back nor, since that is no item of
// its own, what took it back there.
func batchItems(ctx context.Context, tx *sql.Tx, merchant set.MerchantID, id int64) ([]*batchItem, error) {
	rows, err := tx.QueryContext(ctx, `SELECT `+entryColumns+`, rrpid, trans_ids, bin, currency FROM entry JOIN auth ON auth.rrn = entry.rrn
		WHERE entry.merchant = $1 AND batch = $2 AND batch_number > 0
		AND NOT EXISTS (SELECT 1 FROM entry other WHERE other.rrn = entry.rrn AND other.undoes = entry.number AND other.batch_number = 0)
		ORDER BY batch_number`, string(merchant), id)
	if err != nil {
		return nil, fmt.Errorf("list the items of batch %d: %w", id, err)
	}
	defer rows.Close()
	var out []*batchItem
	for rows.Next() {
		var i batchItem
		var currency int64
		if i.entry, err = scanEntry(rows, &i.authRRPID, &i.transIDs, &i.bin, &currency); err != nil {
			return nil, err
		}
		i.currency = set.Currency(currency)
		out = append(out, &i)
	}
	return out, rows.Err()
}

// detail shows an item to its merchant. It counts as failed when the issuer refuses it.
func (i *batchItem) detail(brand set.BrandID) (d set.TransactionDetail, err error) {
	r := record{currency: i.currency}
	d = set.TransactionDetail{BrandID: brand, BatchSequenceNum: set.Positive(i.place.number), TransactionAmt: r.money(i.amount)}
	copy(d.AuthRRPID[:], i.authRRPID)
	if i.kind != entryCredit {
		d.TransactionAmtType = set.AmtDebit
	}
	status := set.TransactionSuccess
	switch i.state {
	case entryRefused, entryVoid:
		status = set.TransactionUnspecifiedFailure
		d.TransactionStatus = &status
	case entryAcknowledged:
		d.TransactionStatus = &status
	}
	if err := set.Unmarshal(i.transIDs, &d.TransIDs); err != nil {
		return d, fmt.Errorf("identifiers of authorization %s: %w", i.trace.RRN, err)
	}
	return d, nil
}
