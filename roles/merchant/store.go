package merchant

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sqldb"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Store keeps orders and sales. Its methods may be called by several goroutines, and several processes
// may have one database open. When a method that changes something returns nil, the change is durable.
type Store struct{ db *sqldb.DB }

// OpenStore opens the merchant's database, making what is missing of it.
func OpenStore(ctx context.Context, url string) (*Store, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	db, err := sqldb.Open(ctx, url, files)
	if err != nil {
		return nil, err
	}
	return &Store{db}, nil
}

// Close closes the database.
func (s *Store) Close() error { return s.db.Close() }

var (
	// ErrNoOrder tells that there is no such order.
	ErrNoOrder = errors.New("there is no such order")

	// ErrNotCapturable tells that an order has no authorization that waits for its capture.
	ErrNotCapturable = errors.New("the order is not authorized, or its capture was asked for already")

	errNoSale = errors.New("there is no such transaction")
)

const orderNumberFirst = 1001

// createOrder makes an order that nobody can guess.
func (s *Store) createOrder(ctx context.Context, now time.Time, lines []Line, amount set.CurrencyAmount) (*Order, error) {
	o := &Order{ID: rand.Text(), Created: now, State: OrderNew, Lines: lines, amount: amount, lidM: set.NewLocalID()}
	rawLines, err := json.Marshal(lines)
	if err != nil {
		return nil, err
	}
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(number) + 1, $1) FROM shop_order`, orderNumberFirst).Scan(&o.Number)
		if err != nil {
			return fmt.Errorf("number an order: %w", err)
		}
		o.description = describe(o.Number, lines, amount)
		_, err = tx.ExecContext(ctx,
			`INSERT INTO shop_order (id, number, lid_m, created_s, state, description, lines, currency, amount, exponent)
			 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
			o.ID, o.Number, []byte(o.lidM), now.Unix(), string(o.State), o.description, rawLines,
			int64(amount.Currency), int64(amount.Amount), amount.AmtExp10)
		if err != nil {
			return fmt.Errorf("store order %d: %w", o.Number, err)
		}
		return nil
	})
	return o, err
}

// Order gives the order with this id, or ErrNoOrder.
func (s *Store) Order(ctx context.Context, id string) (o *Order, err error) {
	err = s.db.View(ctx, func(tx *sql.Tx) error {
		o, err = one(ctx, tx, `WHERE o.id = $1`, id)
		return err
	})
	return o, err
}

// Orders gives every order, the newest first.
func (s *Store) Orders(ctx context.Context) (orders []*Order, err error) {
	err = s.db.View(ctx, func(tx *sql.Tx) error {
		orders, err = selectOrders(ctx, tx, `ORDER BY o.number DESC`)
		return err
	})
	return orders, err
}

func (s *Store) orderByLID(ctx context.Context, lid set.LocalID) (o *Order, err error) {
	err = s.db.View(ctx, func(tx *sql.Tx) error {
		o, err = one(ctx, tx, `WHERE o.lid_m = $1`, []byte(lid))
		return err
	})
	return o, err
}

func one(ctx context.Context, tx *sql.Tx, where string, args ...any) (*Order, error) {
	orders, err := selectOrders(ctx, tx, where, args...)
	if err == nil && len(orders) == 0 {
		err = ErrNoOrder
	}
	if err != nil {
		return nil, err
	}
	return orders[0], nil
}

func selectOrders(ctx context.Context, tx *sql.Tx, where string, args ...any) ([]*Order, error) {
	rows, err := tx.QueryContext(ctx,
		`SELECT o.id, o.number, o.lid_m, o.created_s, o.state, o.description, o.lines, o.currency, o.amount, o.exponent,
		        o.xid, COALESCE(s.capture_state, ''), s.record
		 FROM shop_order o LEFT JOIN sale s ON s.xid = o.xid `+where, args...)
	if err != nil {
		return nil, fmt.Errorf("read orders: %w", err)
	}
	defer rows.Close()
	var orders []*Order
	for rows.Next() {
		o, err := scanOrder(rows)
		if err != nil {
			return nil, fmt.Errorf("read an order: %w", err)
		}
		orders = append(orders, o)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read orders: %w", err)
	}
	return orders, nil
}

func scanOrder(rows *sql.Rows) (*Order, error) {
	var o Order
	var created, currency, amount int64
	var lines, xid, rec, lid []byte
	var sl sale
	err := rows.Scan(&o.ID, &o.Number, &lid, &created, &o.State, &o.description, &lines, &currency, &amount, &o.amount.AmtExp10,
		&xid, &sl.capture, &rec)
	if err != nil {
		return nil, err
	}
	o.lidM = lid
	o.Created = time.Unix(created, 0).UTC()
	o.amount.Currency, o.amount.Amount = set.Currency(currency), set.Natural(amount)
	o.Total, o.Amount = o.amount.String(), Money{o.amount.Currency.String(), amount}
	if err := json.Unmarshal(lines, &o.Lines); err != nil {
		return nil, err
	}
	if rec != nil {
		if err := json.Unmarshal(rec, &sl.record); err != nil {
			return nil, err
		}
		sl.xid = set.XID(xid)
		o.Payment = sl.payment()
	}
	return &o, nil
}

// addSale stores a new transaction together with the answer that starts it. An order has a bounded number
// of transactions that are only started: ErrAnswered as of sqldb, or errTooManySales.
func (s *Store) addSale(ctx context.Context, orderID string, now time.Time, sl *set.Sale, save func(tx *sql.Tx) error) error {
	rec, err := json.Marshal(record{Sale: *sl})
	if err != nil {
		return err
	}
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		var open int
		err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM sale WHERE order_id = $1 AND state = $2`, orderID, string(saleInitiated)).Scan(&open)
		if err != nil {
			return fmt.Errorf("count the transactions of an order: %w", err)
		}
		if open >= initiatedMax {
			return errTooManySales
		}
		_, err = tx.ExecContext(ctx,
			`INSERT INTO sale (xid, order_id, created_s, state, record, capture_state) VALUES ($1, $2, $3, $4, $5, $6)`,
			sl.TransIDs.XID[:], orderID, now.Unix(), string(saleInitiated), rec, string(CaptureNone))
		if err != nil {
			return fmt.Errorf("store transaction %v: %w", sl.TransIDs.XID, err)
		}
		return save(tx)
	})
}

// errTooManySales tells that an order was started to be paid too often.
var errTooManySales = errors.New("the order has too many transactions that were started and not paid")

// sale gives a transaction, or errNoSale.
func (s *Store) sale(ctx context.Context, xid set.XID) (sl *sale, err error) {
	err = s.db.View(ctx, func(tx *sql.Tx) error {
		sl = &sale{xid: xid}
		var created int64
		var rec []byte
		err := tx.QueryRowContext(ctx,
			`SELECT order_id, created_s, state, request, record, auth_req, capture_state, cap_req FROM sale WHERE xid = $1`, xid[:]).
			Scan(&sl.orderID, &created, &sl.state, &sl.request, &rec, &sl.authReq, &sl.capture, &sl.capReq)
		if errors.Is(err, sql.ErrNoRows) {
			return errNoSale
		}
		if err != nil {
			return fmt.Errorf("read transaction %v: %w", xid, err)
		}
		sl.created = time.Unix(created, 0)
		return json.Unmarshal(rec, &sl.record)
	})
	return sl, err
}

// update moves a sale from one state to another, with everything else that sl holds. It tells whether the
// sale was in the state from.
func update(ctx context.Context, tx *sql.Tx, sl *sale, from saleState, fromCapture CaptureState) (bool, error) {
	rec, err := json.Marshal(sl.record)
	if err != nil {
		return false, err
	}
	return changed(tx.ExecContext(ctx,
		`UPDATE sale SET state = $1, request = $2, record = $3, auth_req = $4, capture_state = $5, cap_req = $6
		 WHERE xid = $7 AND state = $8 AND capture_state = $9`,
		string(sl.state), sl.request, rec, sl.authReq, string(sl.capture), sl.capReq, sl.xid[:], string(from), string(fromCapture)))
}

func changed(res sql.Result, err error) (bool, error) {
	if err != nil {
		return false, fmt.Errorf("update: %w", err)
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// reject stores that the purchase request of a sale was for another order, or for one that another sale
// pays, with the answer. It tells whether the sale still waited for its purchase request.
func (s *Store) reject(ctx context.Context, sl *sale, save func(tx *sql.Tx) error) (ok bool, err error) {
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		if ok, err = update(ctx, tx, sl, saleInitiated, CaptureNone); err != nil || !ok {
			return err
		}
		return save(tx)
	})
	return ok, err
}

// Outcomes of take.
var (
	errTaken     = errors.New("the transaction has its purchase request already")
	errOrderPaid = errors.New("the order is paid, or about to be, by another transaction")
)

// take gives a sale its purchase request and the order its payment, and leaves a job to authorize it.
func (s *Store) take(ctx context.Context, sl *sale) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		if ok, err := update(ctx, tx, sl, saleInitiated, CaptureNone); err != nil {
			return err
		} else if !ok {
			return errTaken
		}
		ok, err := changed(tx.ExecContext(ctx, `UPDATE shop_order SET state = $1, xid = $2 WHERE id = $3 AND state IN ($4, $5, $6)`,
			string(OrderAuthorizing), sl.xid[:], sl.orderID, string(OrderNew), string(OrderDeclined), string(OrderFailed)))
		if err != nil {
			return err
		}
		if !ok {
			return errOrderPaid
		}
		return s.db.Enqueue(ctx, tx, jobAuthorize, sl.xid.String(), sl.xid[:], time.Time{})
	})
}

// resolve stores the outcome of an authorization; with a pending capture it leaves a job for that. A sale
// that has its outcome already keeps it.
func (s *Store) resolve(ctx context.Context, sl *sale) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		if ok, err := update(ctx, tx, sl, saleAuthorizing, CaptureNone); err != nil || !ok {
			return err
		}
		if err := s.setOrder(ctx, tx, sl, sl.state.orderState()); err != nil {
			return err
		}
		if sl.capture != CapturePending {
			return nil
		}
		return s.db.Enqueue(ctx, tx, jobCapture, sl.xid.String(), sl.xid[:], time.Time{})
	})
}

func (s *Store) setOrder(ctx context.Context, tx *sql.Tx, sl *sale, state OrderState) error {
	ok, err := changed(tx.ExecContext(ctx, `UPDATE shop_order SET state = $1 WHERE id = $2 AND xid = $3`, string(state), sl.orderID, sl.xid[:]))
	if err == nil && !ok {
		err = fmt.Errorf("transaction %v is not the one that pays its order", sl.xid)
	}
	return err
}

// storeCapReq keeps the octets of a capture request, unless others are there already.
func (s *Store) storeCapReq(ctx context.Context, sl *sale) error {
	rec, err := json.Marshal(sl.record)
	if err != nil {
		return err
	}
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE sale SET record = $1, cap_req = $2 WHERE xid = $3 AND capture_state = $4 AND cap_req IS NULL`,
			rec, sl.capReq, sl.xid[:], string(CapturePending))
		if err != nil {
			return fmt.Errorf("store the capture request of %v: %w", sl.xid, err)
		}
		return nil
	})
}

// recordCapture stores the outcome of a capture, within the transaction that ends its job.
func (s *Store) recordCapture(ctx context.Context, tx *sql.Tx, sl *sale) error {
	if ok, err := update(ctx, tx, sl, saleAuthorized, CapturePending); err != nil || !ok {
		return err
	}
	if sl.capture != CaptureDone {
		return nil
	}
	return s.setOrder(ctx, tx, sl, OrderCaptured)
}

// Capture asks for the capture of an authorized order; the server that works on this database makes it.
func (s *Store) Capture(ctx context.Context, orderID string) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		var xid []byte
		err := tx.QueryRowContext(ctx, `SELECT xid FROM shop_order WHERE id = $1`, orderID).Scan(&xid)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNoOrder
		}
		if err != nil {
			return fmt.Errorf("read an order: %w", err)
		}
		ok, err := changed(tx.ExecContext(ctx, `UPDATE sale SET capture_state = $1 WHERE xid = $2 AND state = $3 AND capture_state = $4`,
			string(CapturePending), xid, string(saleAuthorized), string(CaptureNone)))
		if err != nil {
			return err
		}
		if !ok {
			return ErrNotCapturable
		}
		return s.db.Enqueue(ctx, tx, jobCapture, set.XID(xid).String(), xid, time.Time{})
	})
}

// expire removes what is kept for a time only: answers, and transactions that got no purchase request.
func (s *Store) expire(ctx context.Context, now time.Time) error {
	_, err := s.db.ExpireAnswers(ctx, now)
	return errors.Join(err, s.db.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM sale WHERE state = $1 AND created_s < $2`, string(saleInitiated), now.Add(-initiatedLife).Unix())
		if err != nil {
			return fmt.Errorf("remove transactions without purchase request: %w", err)
		}
		return nil
	}))
}
