package merchant

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/set"
)

// upgrade brings sales of form 1 into the present one, with the requests that are still to be answered. Of
// several processes that open the database together, one does it.
func (s *Store) upgrade(ctx context.Context) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT xid, order_id, created_s, sale.state, record, auth_req, capture_state FROM sale WHERE form = 1`)
		if err != nil {
			return fmt.Errorf("read transactions of a former version: %w", err)
		}
		defer rows.Close()
		type former struct {
			sale    *sale
			state   string
			authReq []byte
			capture CaptureState
		}
		var all []former
		for rows.Next() {
			var f former
			var xid, raw []byte
			var created int64
			sl := new(sale)
			if err := rows.Scan(&xid, &sl.orderID, &created, &f.state, &raw, &f.authReq, &f.capture); err != nil {
				return fmt.Errorf("read a transaction of a former version: %w", err)
			}
			sl.xid, sl.state, sl.created = set.XID(xid), saleState(f.state), time.Unix(created, 0)
			if err := sl.upgrade(raw, f.state, f.capture); err != nil {
				return fmt.Errorf("transaction %v of a former version: %w", sl.xid, err)
			}
			f.sale = sl
			all = append(all, f)
		}
		if err := rows.Err(); err != nil {
			return fmt.Errorf("read transactions of a former version: %w", err)
		}
		rows.Close()
		for _, f := range all {
			if err := s.upgradeSale(ctx, tx, f.sale, f.state == "authorizing", f.authReq, f.capture == CapturePending); err != nil {
				return err
			}
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM sqldb_job WHERE kind IN ('authorize', 'capture')`)
		return err
	})
}

// upgradeSale writes a sale of form 1 anew.
func (s *Store) upgradeSale(ctx context.Context, tx *sql.Tx, sl *sale, authorizing bool, authReq []byte, capturing bool) error {
	err := tx.QueryRowContext(ctx, `SELECT number FROM shop_order WHERE id = $1`, sl.orderID).Scan(&sl.number)
	if err != nil {
		return fmt.Errorf("read an order: %w", err)
	}
	var op *operation
	switch {
	case authorizing:
		op = newOperation(KindAuthorize, sl.created, sl.Sale.BrandID)
		op.octets, op.GatewayCert = authReq, sl.Sale.GatewayCert
		op.add(sl, sl.last(), sl.last().Request.Amount)
	case capturing:
		op = newOperation(KindCapture, sl.created, sl.Sale.BrandID)
		op.Repeats = 1 // an earlier copy of the request may be with the gateway
		op.add(sl, sl.last(), sl.last().Request.Amount)
	}
	if op != nil {
		return s.begin(ctx, tx, op, map[set.XID]*sale{sl.xid: sl}, time.Time{})
	}
	return rewriteSale(ctx, tx, sl)
}
