package merchant

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
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
	s := &Store{db}
	if err := s.upgrade(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

// Close closes the database.
func (s *Store) Close() error { return s.db.Close() }

var (
	// ErrNoOrder tells that there is no such order.
	ErrNoOrder = errors.New("there is no such order")

	errNoSale = errors.New("there is no such transaction")
)

// Order gives the order with this id, or ErrNoOrder.
func (s *Store) Order(ctx context.Context, id string) (o *Order, err error) {
	err = s.db.View(ctx, func(tx *sql.Tx) error {
		o, err = one(ctx, tx, `WHERE o.id = $1`, id)
		return err
	})
	return o, err
}

// FindOrder gives the order with this id or number, or ErrNoOrder.
func (s *Store) FindOrder(ctx context.Context, name string) (o *Order, err error) {
	number, err := strconv.ParseInt(name, 10, 64)
	if err != nil {
		return s.Order(ctx, name)
	}
	err = s.db.View(ctx, func(tx *sql.Tx) error {
		o, err = one(ctx, tx, `WHERE o.number = $1`, number)
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
		`SELECT o.id, o.number, o.lid_m, o.created_s, o.state, o.description, o.lines, o.currency, o.amount, o.exponent, o.terms,
		        o.reference, o.success_url, o.failure_url, o.cancel_url, o.version,
		        o.xid, COALESCE(s.state, ''), COALESCE(s.pending, ''), COALESCE(p.kind, ''), s.record
		 FROM shop_order o LEFT JOIN sale s ON s.xid = o.xid LEFT JOIN operation p ON p.id = s.pending `+where, args...)
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
	var pending Kind
	err := rows.Scan(&o.ID, &o.Number, &lid, &created, &o.State, &o.description, &lines, &currency, &amount, &o.amount.AmtExp10, &o.Terms,
		&o.Reference, &o.returns.Success, &o.returns.Failure, &o.returns.Cancel, &o.Version,
		&xid, &sl.state, &sl.pending, &pending, &rec)
	if err != nil {
		return nil, err
	}
	o.lidM = lid
	o.Created = time.Unix(created, 0).UTC()
	o.amount.Currency, o.amount.Amount = set.Currency(currency), set.Natural(amount)
	o.Total, o.Amount = o.amount.String(), money(o.amount)
	if err := json.Unmarshal(lines, &o.Lines); err != nil {
		return nil, err
	}
	if rec != nil {
		if err := json.Unmarshal(rec, &sl.record); err != nil {
			return nil, err
		}
		sl.xid, sl.orderID, sl.number = set.XID(xid), o.ID, o.Number
		o.sale, o.Payment = &sl, sl.payment(pending)
	}
	return &o, nil
}

// formNow is the form in which a sale's record is stored.
const formNow = 2

// addSale stores a new transaction together with the answer that starts it. An order has a bounded number
// of transactions that are only started: ErrAnswered as of sqldb, or errTooManySales.
func (s *Store) addSale(ctx context.Context, sl *sale, save func(tx *sql.Tx) error) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		var open int
		err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM sale WHERE order_id = $1 AND state = $2`, sl.orderID, string(saleInitiated)).Scan(&open)
		if err != nil {
			return fmt.Errorf("count the transactions of an order: %w", err)
		}
		if open >= initiatedMax {
			return errTooManySales
		}
		if ok, err := insertSale(ctx, tx, sl); err != nil || !ok {
			return errors.Join(err, fmt.Errorf("transaction %v is there already", sl.xid))
		}
		return save(tx)
	})
}

// insertSale stores a sale unless its XID is known.
func insertSale(ctx context.Context, tx *sql.Tx, sl *sale) (bool, error) {
	rec, err := json.Marshal(sl.record)
	if err != nil {
		return false, err
	}
	return changed(tx.ExecContext(ctx,
		`INSERT INTO sale (xid, order_id, created_s, state, request, record, capture_state, form) VALUES ($1, $2, $3, $4, $5, $6, '', $7)
		 ON CONFLICT DO NOTHING`,
		sl.xid[:], sl.orderID, sl.created.Unix(), string(sl.state), sl.request, rec, formNow))
}

// errTooManySales tells that an order was started to be paid too often.
var errTooManySales = errors.New("the order has too many transactions that were started and not paid")

// sale gives a transaction, or errNoSale.
func (s *Store) sale(ctx context.Context, xid set.XID) (sl *sale, err error) {
	err = s.db.View(ctx, func(tx *sql.Tx) error {
		sl, err = readSale(ctx, tx, xid)
		return err
	})
	return sl, err
}

func readSale(ctx context.Context, tx *sql.Tx, xid set.XID) (*sale, error) {
	sl := &sale{xid: xid}
	var created int64
	var rec []byte
	err := tx.QueryRowContext(ctx,
		`SELECT order_id, number, sale.created_s, sale.state, request, pending, record FROM sale JOIN shop_order ON shop_order.id = order_id WHERE sale.xid = $1`, xid[:]).
		Scan(&sl.orderID, &sl.number, &created, &sl.state, &sl.request, &sl.pending, &rec)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errNoSale
	}
	if err != nil {
		return nil, fmt.Errorf("read transaction %v: %w", xid, err)
	}
	sl.created = time.Unix(created, 0)
	return sl, json.Unmarshal(rec, &sl.record)
}

// rewriteSale writes what may have changed of a sale.
func rewriteSale(ctx context.Context, tx *sql.Tx, sl *sale) error {
	rec, err := json.Marshal(sl.record)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `UPDATE sale SET state = $1, pending = $2, record = $3, form = $4 WHERE xid = $5`,
		string(sl.state), sl.pending, rec, formNow, sl.xid[:])
	if err != nil {
		return fmt.Errorf("store transaction %v: %w", sl.xid, err)
	}
	return nil
}

// saveSale writes a sale that has its purchase request, and the state of its order.
func (s *Store) saveSale(ctx context.Context, tx *sql.Tx, sl *sale) error {
	before, err := readSale(ctx, tx, sl.xid)
	if err != nil {
		return err
	}
	if err := rewriteSale(ctx, tx, sl); err != nil {
		return err
	}
	ok, err := s.changeOrder(ctx, tx, before, sl)
	if err == nil && !ok {
		err = fmt.Errorf("transaction %v is not the one that pays its order", sl.xid)
	}
	return err
}

func changed(res sql.Result, err error) (bool, error) {
	if err != nil {
		return false, fmt.Errorf("update: %w", err)
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// receive gives a sale its purchase request. It tells whether the sale still waited for one; a sale without
// PInit pair is new by it.
func receive(ctx context.Context, tx *sql.Tx, sl *sale) (bool, error) {
	if sl.Sale.ChallM == nil {
		return insertSale(ctx, tx, sl)
	}
	rec, err := json.Marshal(sl.record)
	if err != nil {
		return false, err
	}
	return changed(tx.ExecContext(ctx, `UPDATE sale SET state = $1, request = $2, record = $3, form = $4 WHERE xid = $5 AND state = $6`,
		string(sl.state), sl.request, rec, formNow, sl.xid[:], string(saleInitiated)))
}

// reject stores that the purchase request of a sale was for another order, or for one that another sale
// pays, with the answer. It tells whether the sale still waited for its purchase request.
func (s *Store) reject(ctx context.Context, sl *sale, save func(tx *sql.Tx) error) (ok bool, err error) {
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		if ok, err = receive(ctx, tx, sl); err != nil || !ok {
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

// take gives a sale its purchase request and the order its payment, and begins the authorization if it is to
// be made at once.
func (s *Store) take(ctx context.Context, sl *sale, op *operation) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		if ok, err := receive(ctx, tx, sl); err != nil {
			return err
		} else if !ok {
			return errTaken
		}
		ok, err := changed(tx.ExecContext(ctx, `UPDATE shop_order SET state = $1, xid = $2 WHERE id = $3 AND state IN ($4, $5, $6)`,
			string(sl.orderState()), sl.xid[:], sl.orderID, string(OrderNew), string(OrderDeclined), string(OrderFailed)))
		if err != nil {
			return err
		}
		if !ok {
			return errOrderPaid
		}
		if err := s.tell(ctx, tx, sl.orderID); err != nil {
			return err
		}
		if op == nil {
			return nil
		}
		return s.begin(ctx, tx, op, map[set.XID]*sale{sl.xid: sl}, time.Time{})
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
		if _, err = tx.ExecContext(ctx, `DELETE FROM shop_session WHERE used_s < $1`, now.Add(-SessionLife).Unix()); err != nil {
			return fmt.Errorf("remove old baskets: %w", err)
		}
		return nil
	}))
}
